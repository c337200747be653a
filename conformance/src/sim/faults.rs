//! What goes wrong, by chance; and how all of it ends.

use std::time::Duration;

use spec::{
    entropy::Entropy as _,
    machine::Event,
    raft::{Command, MembershipChange, Role, ServerId, Suffrage},
    time::Instant,
};

use super::{
    ghosts::Violation,
    server::Server,
    world::{Happening, World},
};

impl World {
    /// One fault, and the time of the next.
    pub(super) fn next_fault(&mut self) -> Result<(), Violation> {
        if self.calm {
            return Ok(());
        }
        let pause = self.chance.jitter(self.plan.fault_pause * 2);
        self.after(pause, Happening::Fault);
        let victim = self.chance.choose(self.servers.len());
        let leader = (0..self.servers.len()).find(|i| self.servers[*i].leads());
        match self.chance.choose(16) {
            0 | 1 => self.crash(victim),
            2 | 3 => self.crash(leader.unwrap_or(victim)),
            4 => (0..self.servers.len()).for_each(|i| self.crash(i)),
            5 | 6 => self.split(),
            7 => self.isolate(leader.unwrap_or(victim)),
            8 => self.cut_some_directions(),
            9 => self.pause(victim),
            10 => self.pause(leader.unwrap_or(victim)),
            11 => {
                let to = self.servers[victim].id;
                let to = Some(to).filter(|_| self.chance.choose(3) != 0);
                self.ask(leader, Command::Transfer { request: 1, to })?;
            }
            12 => self.ask(leader, Command::StepDown)?,
            13 => {
                let heard = leader.map_or(self.servers[victim].id, |i| self.servers[i].id);
                self.ask(Some(victim), Command::Unreachable(heard))?;
            }
            14 => self.toggle_wanted(victim),
            _ => self.wipe(victim),
        }
        Ok(())
    }

    fn ask(&mut self, server: Option<usize>, command: Command) -> Result<(), Violation> {
        match server {
            Some(i) if self.paused[i] <= self.schedule.now() => {
                self.step(i, Event::Command(command))
            }
            _ => Ok(()),
        }
    }

    /// The process ends between two instructions, and starts again after a while.
    fn crash(&mut self, i: usize) {
        if self.servers[i].node.take().is_none() {
            return;
        }
        let lost = self.servers[i].disk.crash(&mut self.chance);
        self.paused[i] = Instant(0);
        self.tally.crashes += 1;
        self.tally.lost_writes += lost as u64;
        let id = self.servers[i].id;
        self.note(format_args!("{id:?} crashes, {lost} writes are lost"));
        let delay = Duration::from_millis(1) + self.chance.jitter(Duration::from_millis(1500));
        self.after(delay, Happening::Restart { server: i });
    }

    /// The process stands still; its disk and its connections don't.
    fn pause(&mut self, i: usize) {
        let until = self.schedule.now().after(self.chance.jitter(Duration::from_millis(1500)));
        self.paused[i] = self.paused[i].max(until);
        let id = self.servers[i].id;
        self.note(format_args!("{id:?} stands still until {until:?}"));
    }

    fn heal_later(&mut self) {
        self.tally.cuts += 1;
        let delay = Duration::from_millis(50) + self.chance.jitter(Duration::from_secs(2));
        self.after(delay, Happening::Heal);
    }

    fn split(&mut self) {
        let sides = self.network.split(self.servers.len(), &mut self.chance);
        self.note(format_args!("the network splits: {sides:?}"));
        self.heal_later();
    }

    fn isolate(&mut self, i: usize) {
        self.network.isolate(i, self.servers.len());
        let id = self.servers[i].id;
        self.note(format_args!("{id:?} is alone"));
        self.heal_later();
    }

    /// Rings, bridges, mutes.
    fn cut_some_directions(&mut self) {
        let cut = self.network.cut_some(4, self.servers.len(), &mut self.chance);
        self.note(format_args!("who is not heard by whom: {cut:?}"));
        self.heal_later();
    }

    /// A server is to leave the configuration, or to come back into it.
    fn toggle_wanted(&mut self, i: usize) {
        let others = (0..self.wanted.len()).filter(|j| *j != i && self.wanted[*j]).count();
        // Removing a living server while a dead one still votes could leave the dead a majority.
        let safe = others >= 1 && self.graveyard.keys().all(|dead| self.is_forgotten(*dead));
        if self.plan.membership && (!self.wanted[i] || safe) {
            self.wanted[i] = !self.wanted[i];
            let (id, wanted) = (self.servers[i].id, self.wanted[i]);
            self.note(format_args!("{id:?} is wanted: {wanted}"));
        }
    }

    /// A disk is lost for good; the server comes back blank, under a new name.
    ///
    /// Only while all servers run and all logs agree that just these vote: a second loss before the cluster has replaced
    /// the first, or a loss while a smaller configuration is under way, would be the loss of a majority, which no protocol
    /// survives.
    fn wipe(&mut self, i: usize) {
        let ids: Vec<ServerId> = self.servers.iter().map(|server| server.id).collect();
        let whole = self.servers.iter().all(|server| {
            server.node.as_ref().is_some_and(|node| {
                let configuration = &node.membership.configuration;
                configuration.servers.len() == ids.len()
                    && ids.iter().all(|id| configuration.is_voter(id))
            })
        });
        let whole = whole && self.wanted.iter().all(|wanted| *wanted);
        if !(self.plan.membership && ids.len() >= 3 && whole && self.settled(&ids)) {
            return;
        }
        self.crash(i);
        let old = self.servers[i].id;
        let new = ServerId::new(old.node.0, old.disk.0 + 1);
        let run = self.servers[i].run;
        let mut fresh = Server { run, ..Server::new(new) };
        fresh.disk.writes = self.servers[i].disk.writes.blank();
        let gone = std::mem::replace(&mut self.servers[i], fresh);
        self.graveyard.insert(old, gone.disk);
        self.tally.wipes += 1;
        self.note(format_args!("the disk of {old:?} is lost: {new:?}"));
    }

    /// Whether no server that runs or is to run has this one in its configuration.
    fn is_forgotten(&self, dead: ServerId) -> bool {
        self.servers.iter().all(|server| {
            server
                .node
                .as_ref()
                .is_some_and(|node| !node.membership.configuration.servers.contains_key(&dead))
        })
    }

    /// Whether some leader has committed the configuration in which just these servers vote, in its own term.
    fn settled(&self, voters: &[ServerId]) -> bool {
        self.servers.iter().filter_map(|server| server.node.as_ref()).any(|node| {
            let Role::Leader(leader) = &node.role else { return false };
            let configuration = &node.membership.configuration;
            node.commit_index >= node.membership.index
                && node.commit_index >= leader.term_start
                && configuration.servers.len() == voters.len()
                && voters.iter().all(|id| configuration.is_voter(id))
        })
    }

    /// What each leader's host does to bring the configuration to what is wanted: one change at a time.
    pub(super) fn reconcile(&mut self) -> Result<(), Violation> {
        self.after(Duration::from_millis(200), Happening::Reconcile);
        for i in 0..self.servers.len() {
            if self.paused[i] > self.schedule.now() {
                continue;
            }
            if let Some(change) = self.wanted_change(i) {
                self.step(i, Event::Command(Command::Reconfigure { request: 0, change }))?;
            }
        }
        Ok(())
    }

    fn wanted_change(&self, leader: usize) -> Option<MembershipChange> {
        let node = self.servers[leader].node.as_ref()?;
        matches!(node.role, Role::Leader(_)).then_some(())?;
        let members = &node.membership.configuration.servers;
        let wanted: Vec<ServerId> = (0..self.servers.len())
            .filter(|i| self.wanted[*i])
            .map(|i| self.servers[i].id)
            .collect();
        if let Some(id) = members.keys().find(|id| !wanted.contains(id)) {
            return Some(MembershipChange::Remove(*id));
        }
        if let Some(id) = wanted.iter().find(|id| !members.contains_key(id)) {
            let address = format!("{id:?}").into();
            return Some(MembershipChange::AddLearner { id: *id, address });
        }
        let learner = members.iter().find(|(_, member)| member.suffrage == Suffrage::Learner);
        learner.map(|(id, _)| MembershipChange::Promote(*id))
    }

    /// Nothing goes wrong from here on, every server runs, and all are wanted.
    pub(super) fn become_calm(&mut self) {
        self.note(format_args!("calm"));
        self.calm = true;
        self.plan.sync = self.plan.sync.min(Duration::from_millis(1));
        self.network.calm();
        for i in 0..self.servers.len() {
            self.paused[i] = Instant(0);
            self.wanted[i] = true;
            self.after(Duration::ZERO, Happening::Restart { server: i });
        }
    }

    /// Whether a request made after `mark` was acknowledged, all servers vote, and each has applied it.
    pub(super) fn is_well(&self, mark: u64) -> bool {
        let ids: Vec<ServerId> = self.servers.iter().map(|server| server.id).collect();
        let Some((request, index)) = self.acknowledged else { return false };
        request > mark
            && self.settled(&ids)
            && self.servers.iter().all(|server| server.applied.index >= index)
    }
}
