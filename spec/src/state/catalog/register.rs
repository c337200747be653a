//! Registering and deregistering: what changes, and what makes no sense (Consul's `EnsureRegistration` and `DeleteNode`).

use alloc::{collections::BTreeMap, format, string::String, vec::Vec};

use super::{
    Bearer, Catalog, CatalogCommand, Check, CheckBody, CheckKey, CheckStatus, Coordinate,
    CoordinateKey, CoordinateUpdate, Deregistration, MAX_REGISTRATION_BYTES, Node, NodeBody, Part,
    Registration, SERF_HEALTH, check_topic, coordinate_touched, node_topic,
};
use crate::{
    codec,
    raft::NodeId,
    state::{Key, Outcome, TableId, Touched, text::canonical},
};

/// A catalog that a command is applied to, at an index.
pub(in crate::state) struct Change<'a> {
    pub(in crate::state) catalog: &'a mut Catalog,
    pub(in crate::state) index: u64,
    pub(in crate::state) touched: &'a mut Vec<Touched>,
}

impl Catalog {
    /// Why `node` can't be registered, if it can't: its name belongs to another node that lives.
    pub fn conflict(&self, node: &NodeBody) -> Option<String> {
        let key = canonical(&node.name);
        let id = node.id?;
        let bearer = self.ids.get(&id).map(|bearer| &bearer.0);
        if bearer == Some(&key) {
            return None;
        }
        let standing = self.nodes.get(&key)?;
        // A node that says nothing of its id may be the same, but not where another node is to be renamed to it.
        if standing.id.is_none() && bearer.is_none() || !self.is_alive(&key) {
            return None;
        }
        let reserved = format!(
            "Node name {} is reserved by node {} with name {} ({})",
            node.name,
            standing.id.map(|id| format!("{id}")).unwrap_or_default(),
            standing.name,
            standing.address
        );
        Some(match bearer {
            Some(_) => {
                format!("Error while renaming Node ID: \"{id}\" ({}): {reserved}", node.address)
            }
            None => format!("Error while renaming Node ID: \"{id}\": {reserved}"),
        })
    }

    /// Whether gossip says that a node lives. Of nodes that gossip doesn't know, nobody says so.
    fn is_alive(&self, node: &Key) -> bool {
        let serf = CheckKey { node: node.clone(), id: canonical(SERF_HEALTH) };
        self.checks.get(&serf).is_some_and(|check| check.body.status != CheckStatus::Critical)
    }

    /// Puts a node where its name says, with its id.
    pub(in crate::state) fn insert_node(&mut self, key: Key, node: Node) {
        let old = self.nodes.get(&key).and_then(|old| old.id);
        if let Some(old) = old.filter(|old| Some(*old) != node.id) {
            self.ids.remove(&old);
        }
        if let Some(id) = node.id {
            self.ids.insert(id, Bearer(key.clone()));
        }
        self.nodes.insert(key, node);
    }
}

/// Whether a check comes again among the parts.
fn names_again(parts: &[Part], check: &CheckBody) -> bool {
    let id = canonical(&check.id);
    parts.iter().any(|Part::Check(other)| canonical(&other.id) == id)
}

impl Change<'_> {
    /// Carries out a command, wholly or not at all.
    pub(in crate::state) fn apply(&mut self, command: &CatalogCommand) -> Outcome {
        match command {
            CatalogCommand::Register(registration) => {
                let before = (self.catalog.clone(), self.touched.len());
                match self.register(registration) {
                    Ok(()) => Outcome::Applied(true),
                    Err(reason) => {
                        // A part that makes no sense takes back what came before it.
                        *self.catalog = before.0;
                        self.touched.truncate(before.1);
                        Outcome::Refused(reason)
                    }
                }
            }
            CatalogCommand::Deregister(what) => self.deregister(what),
            CatalogCommand::UpdateCoordinates(updates) => self.update_coordinates(updates),
        }
    }

    fn register(&mut self, registration: &Registration) -> Result<(), String> {
        let body = &registration.node;
        if body.name.is_empty() {
            return Err("Must provide node".into());
        }
        if body.address.is_empty() && !registration.skip_node_update {
            return Err("Must provide address if SkipNodeUpdate is not set".into());
        }
        if codec::encode(registration).len() > MAX_REGISTRATION_BYTES {
            return Err("registration is too large".into());
        }
        let key = canonical(&body.name);
        if !registration.skip_node_update || self.catalog.nodes.get(&key).is_none() {
            self.ensure_node(&key, body)
                .map_err(|reason| format!("failed inserting node: {reason}"))?;
        }
        let mut parts = registration.parts.as_slice();
        while let Some((part, later)) = parts.split_first() {
            parts = later;
            match part {
                // Of a check that comes twice the last word counts: with both, the same registration would change it back
                // and forth each time that it comes.
                Part::Check(check) if names_again(later, check) => {}
                Part::Check(check) => self.ensure_check(&key, check).map_err(|reason| {
                    format!("failed inserting check: {reason} on node {:?}", &*body.name)
                })?,
            }
        }
        Ok(())
    }

    /// Makes a node what it is said to be, unless it is that already.
    fn ensure_node(&mut self, key: &Key, body: &NodeBody) -> Result<(), String> {
        if let Some(reason) = self.catalog.conflict(body) {
            return Err(reason);
        }
        let same_id = body.id.and_then(|id| self.catalog.ids.get(&id)).map(|id| id.0.clone());
        let created = match same_id.filter(|other| other != key) {
            // The node goes on under another name; what it had under the old one is registered anew by whoever owns it.
            Some(old) => {
                let created = self.catalog.nodes.get(&old).map(|node| node.create_index);
                self.delete_node(&old);
                created
            }
            None => self.catalog.nodes.get(key).map(|node| node.create_index),
        };
        let standing = self.catalog.nodes.get(key);
        let node = Node {
            name: body.name.clone(),
            id: body.id,
            address: body.address.clone(),
            datacenter: body.datacenter.clone(),
            tagged_addresses: body.tagged_addresses.clone(),
            meta: body.meta.clone(),
            create_index: created.unwrap_or(self.index),
            modify_index: standing.map_or(self.index, |old| old.modify_index),
            checks_index: standing.map_or(self.catalog.indexes.checks, |old| old.checks_index),
        };
        if standing == Some(&node) {
            return Ok(());
        }
        let respelt = standing.is_some_and(|old| old.name != node.name);
        self.catalog.insert_node(key.clone(), Node { modify_index: self.index, ..node });
        self.catalog.indexes.nodes = self.index;
        self.touched.push(Touched::Key(TableId::Nodes, key.clone()));
        if respelt {
            // What is told of its checks and coordinates names it, too.
            self.touch_belongings(key);
        }
        Ok(())
    }

    /// Makes a check what it is said to be, unless it is that already.
    fn ensure_check(&mut self, node: &Key, body: &CheckBody) -> Result<(), String> {
        if body.id.is_empty() {
            return Err("object missing primary index".into());
        }
        if !body.service_id.is_empty() {
            return Err("Missing service registration".into());
        }
        let key = CheckKey { node: node.clone(), id: canonical(&body.id) };
        let standing = self.catalog.checks.get(&key);
        if standing.is_some_and(|standing| standing.body == *body) {
            return Ok(());
        }
        let check = Check {
            body: body.clone(),
            create_index: standing.map_or(self.index, |old| old.create_index),
            modify_index: self.index,
        };
        self.touched.push(Touched::Key(TableId::Checks, check_topic(node, &key.id)));
        self.catalog.checks.insert(key, check);
        self.move_checks_index(node);
        Ok(())
    }

    fn deregister(&mut self, what: &Deregistration) -> Outcome {
        let (Deregistration::Node { name, .. } | Deregistration::Check { node: name, .. }) = what;
        if name.is_empty() {
            return Outcome::Refused("Must provide node".into());
        }
        let node = canonical(name);
        match what {
            Deregistration::Node { only, .. } => {
                let standing = self.catalog.nodes.get(&node).and_then(|node| node.id);
                if only.is_none_or(|only: NodeId| standing == Some(only)) {
                    self.delete_node(&node);
                }
            }
            Deregistration::Check { id, .. } => {
                let key = CheckKey { node: node.clone(), id: canonical(id) };
                if self.catalog.checks.remove(&key) {
                    self.touched.push(Touched::Key(TableId::Checks, check_topic(&node, &key.id)));
                    self.move_checks_index(&node);
                }
            }
        }
        Outcome::Applied(true)
    }

    /// Takes a node away with all that is of it.
    fn delete_node(&mut self, key: &Key) {
        let Some(node) = self.catalog.nodes.get(key) else { return };
        if let Some(id) = node.id {
            self.catalog.ids.remove(&id);
        }
        self.touch_belongings(key);
        let checks: Vec<CheckKey> =
            self.catalog.checks_of(key).map(|(key, _)| key.clone()).collect();
        for check in checks {
            self.catalog.checks.remove(&check);
        }
        let coordinates: Vec<CoordinateKey> =
            self.catalog.coordinates_of(key).map(|(key, _)| key.clone()).collect();
        for coordinate in coordinates {
            self.catalog.coordinates.remove(&coordinate);
        }
        self.catalog.nodes.remove(key);
        self.catalog.indexes.nodes = self.index;
        self.touched.push(Touched::Key(TableId::Nodes, key.clone()));
    }

    /// Says that what is told of a node's checks and coordinates changes, where it has any.
    fn touch_belongings(&mut self, node: &Key) {
        if self.catalog.checks_of(node).next().is_some() {
            self.touched.push(Touched::Prefix(TableId::Checks, node_topic(node)));
            self.move_checks_index(node);
        }
        if self.catalog.coordinates_of(node).next().is_some() {
            self.touched.push(Touched::Prefix(TableId::Coordinates, node_topic(node)));
            self.catalog.indexes.coordinates = self.index;
        }
    }

    fn move_checks_index(&mut self, node: &Key) {
        self.catalog.indexes.checks = self.index;
        if let Some(standing) = self.catalog.nodes.get(node) {
            let standing = Node { checks_index: self.index, ..standing.clone() };
            self.catalog.nodes.insert(node.clone(), standing);
        }
    }

    fn update_coordinates(&mut self, updates: &[CoordinateUpdate]) -> Outcome {
        if !updates.iter().all(|update| update.coordinate.is_valid()) {
            return Outcome::Refused("invalid coordinate".into());
        }
        // Of a place that comes twice the last one counts, as with checks.
        let latest: BTreeMap<CoordinateKey, &Coordinate> = updates
            .iter()
            .map(|CoordinateUpdate { node, segment, coordinate }| {
                (CoordinateKey { node: canonical(node), segment: segment.clone() }, coordinate)
            })
            .collect();
        for (key, coordinate) in latest {
            // A node that has gone meanwhile takes nothing back into the catalog.
            if self.catalog.nodes.get(&key.node).is_none()
                || self.catalog.coordinates.get(&key) == Some(coordinate)
            {
                continue;
            }
            self.touched.push(coordinate_touched(&key));
            self.catalog.coordinates.insert(key, *coordinate);
            self.catalog.indexes.coordinates = self.index;
        }
        Outcome::Applied(true)
    }
}
