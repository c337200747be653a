//! Serf's messages from the wire to `spec::serf`'s, and back.
//!
//! Serf's own queries have typed bodies in `spec`; here their names and payloads are read and written.

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use spec::{
    serf::{
        self as spec_serf, Key, KeyRequest, KeyResponse, LamportTime, SerfLayer, State, Status,
        UserEvent,
        message::{
            Answer, Filter, JoinIntent, Known, LeaveIntent, Message, Query, QueryBody,
            QueryResponse, UserEventMessage,
        },
    },
    swim::{self, Incarnation, MemberState, Name},
};

use super::{LayerCodec, versions, versions_bytes};
use crate::{
    Refused,
    keyring::{KeyError, Keyring},
    limits, serf, tags,
};

const PING: &str = "_serf_ping";
const CONFLICT: &str = "_serf_conflict";
const INSTALL_KEY: &str = "_serf_install-key";
const USE_KEY: &str = "_serf_use-key";
const REMOVE_KEY: &str = "_serf_remove-key";
const LIST_KEYS: &str = "_serf_list-keys";

impl LayerCodec for SerfLayer {
    fn decode_message(bytes: &[u8]) -> Result<Message, Refused> {
        Ok(match serf::Message::decode(bytes)? {
            serf::Message::Leave(leave) => Message::Leave(LeaveIntent {
                ltime: LamportTime(leave.ltime),
                node: leave.node.into(),
                prune: leave.prune,
            }),
            serf::Message::Join(join) => {
                Message::Join(JoinIntent { ltime: LamportTime(join.ltime), node: join.node.into() })
            }
            serf::Message::UserEvent(event) => Message::UserEvent(UserEventMessage {
                ltime: LamportTime(event.ltime),
                event: user_event(event.name, event.payload),
                coalesce: event.coalesce,
            }),
            serf::Message::Query(query) => Message::Query(Arc::new(self::query(&query)?)),
            serf::Message::QueryResponse(answer) => Message::QueryResponse(response(&answer)),
            serf::Message::Relay(relay) => Message::Relay {
                to: relay.endpoint,
                to_node: relay.node.into(),
                response: response(&relay.response),
            },
        })
    }

    fn encode_message(message: &Message, out: &mut Vec<u8>) {
        // What is made for this message alone: a payload from a typed body.
        let mut made = Vec::new();
        let message = match message {
            Message::Leave(leave) => serf::Message::Leave(serf::Leave {
                ltime: leave.ltime.0,
                node: &leave.node,
                prune: leave.prune,
            }),
            Message::Join(join) => {
                serf::Message::Join(serf::Join { ltime: join.ltime.0, node: &join.node })
            }
            Message::UserEvent(event) => serf::Message::UserEvent(serf::UserEvent {
                ltime: event.ltime.0,
                name: &event.event.name,
                payload: &event.event.payload,
                coalesce: event.coalesce,
            }),
            Message::Query(query) => serf::Message::Query(query_message(query, &mut made)),
            Message::QueryResponse(response) => {
                serf::Message::QueryResponse(response_message(response, &mut made))
            }
            Message::Relay { to, to_node, response } => serf::Message::Relay(serf::Relay {
                endpoint: *to,
                node: to_node,
                response: response_message(response, &mut made),
            }),
        };
        message.encode_body(out);
    }

    fn decode_state(bytes: &[u8]) -> Result<State, Refused> {
        let state = serf::PushPull::decode(bytes)?;
        let at = |at: &serf::Events<'_>| {
            let events = at.events.iter().map(|(name, payload)| user_event(name, payload));
            (LamportTime(at.ltime), events.collect())
        };
        let status = |(name, ltime): &(&str, u64)| (Name::from(*name), LamportTime(*ltime));
        Ok(State {
            ltime: LamportTime(state.ltime),
            status_ltimes: state.status.iter().map(status).collect(),
            left_members: state.left.iter().map(|name| Name::from(*name)).collect(),
            event_ltime: LamportTime(state.event_ltime),
            events: state.events.iter().map(at).collect(),
            query_ltime: LamportTime(state.query_ltime),
        })
    }

    fn encode_state(state: &State, out: &mut Vec<u8>) {
        let at = |(ltime, events): &'_ (LamportTime, Vec<UserEvent>)| serf::Events {
            ltime: ltime.0,
            events: Vec::with_capacity(events.len()),
        };
        let mut events: Vec<serf::Events<'_>> = state.events.iter().map(at).collect();
        for (slot, (_, of)) in events.iter_mut().zip(&state.events) {
            slot.events.extend(of.iter().map(|event| (&*event.name, &*event.payload)));
        }
        let state = serf::PushPull {
            ltime: state.ltime.0,
            status: state.status_ltimes.iter().map(|(name, at)| (&**name, at.0)).collect(),
            left: state.left_members.iter().map(|name| &**name).collect(),
            event_ltime: state.event_ltime.0,
            events,
            query_ltime: state.query_ltime.0,
        };
        state.encode(out);
    }
}

fn user_event(name: &str, payload: &[u8]) -> UserEvent {
    UserEvent { name: name.into(), payload: payload.into() }
}

fn query(query: &serf::Query<'_>) -> Result<Query, Refused> {
    let nanos = u64::try_from(query.timeout_nanos).unwrap_or_default();
    Ok(Query {
        ltime: LamportTime(query.ltime),
        id: query.id,
        source: query.endpoint,
        source_node: query.source_node.into(),
        filters: query.filters.iter().map(filter).collect::<Result<_, _>>()?,
        ack: query.flags & serf::flags::ACK != 0,
        no_broadcast: query.flags & serf::flags::NO_BROADCAST != 0,
        relay_factor: query.relay_factor,
        timeout: Duration::from_nanos(nanos),
        body: body(query.name, query.payload)?,
    })
}

fn filter(filter: &serf::Filter<'_>) -> Result<Filter, Refused> {
    match filter {
        serf::Filter::Nodes(names) => {
            Ok(Filter::Nodes(names.iter().map(|name| Name::from(*name)).collect()))
        }
        serf::Filter::Tag { tag, expression } => {
            Ok(Filter::Tag { tag: (*tag).into(), expr: (*expression).into() })
        }
        // Whom it means isn't known. Serf answers nothing, too, but passes the query on.
        serf::Filter::Other(bytes) => {
            Err(Refused::Unknown(bytes.first().copied().unwrap_or_default()))
        }
    }
}

/// What a query asks. An internal query that isn't known is a user's as far as this goes: it is passed on.
fn body(name: &str, payload: &[u8]) -> Result<QueryBody, Refused> {
    let key = || {
        let request = serf::KeyRequest::decode(payload)?;
        Key::new(request.key).ok_or(Refused::Range)
    };
    Ok(match name {
        PING => QueryBody::Ping,
        CONFLICT => {
            let name = str::from_utf8(payload).map_err(|_| Refused::Text)?;
            if name.is_empty() || name.len() > limits::NAME {
                return Err(Refused::Empty("name"));
            }
            QueryBody::Conflict(name.into())
        }
        INSTALL_KEY => QueryBody::Key(KeyRequest::Install(key()?)),
        USE_KEY => QueryBody::Key(KeyRequest::Use(key()?)),
        REMOVE_KEY => QueryBody::Key(KeyRequest::Remove(key()?)),
        LIST_KEYS => QueryBody::Key(KeyRequest::List),
        _ => QueryBody::User { name: name.into(), payload: payload.into() },
    })
}

fn query_message<'a>(query: &'a Query, made: &'a mut Vec<u8>) -> serf::Query<'a> {
    let (name, payload) = match &query.body {
        QueryBody::User { name, payload } => (&**name, &**payload),
        QueryBody::Ping => (PING, &[][..]),
        QueryBody::Conflict(name) => (CONFLICT, name.as_bytes()),
        QueryBody::Key(request) => {
            let key = request.key().map_or(&[][..], Key::bytes);
            serf::KeyRequest { key }.encode(made);
            let name = match request {
                KeyRequest::Install(_) => INSTALL_KEY,
                KeyRequest::Use(_) => USE_KEY,
                KeyRequest::Remove(_) => REMOVE_KEY,
                KeyRequest::List => LIST_KEYS,
            };
            (name, &made[..])
        }
    };
    let filter = |filter: &'a Filter| match filter {
        Filter::Nodes(names) => serf::Filter::Nodes(names.iter().map(|name| &**name).collect()),
        Filter::Tag { tag, expr } => serf::Filter::Tag { tag, expression: expr },
    };
    let ack = if query.ack { serf::flags::ACK } else { 0 };
    let no_broadcast = if query.no_broadcast { serf::flags::NO_BROADCAST } else { 0 };
    serf::Query {
        ltime: query.ltime.0,
        id: query.id,
        endpoint: query.source,
        source_node: &query.source_node,
        filters: query.filters.iter().map(filter).collect(),
        flags: ack | no_broadcast,
        relay_factor: query.relay_factor,
        timeout_nanos: i64::try_from(query.timeout.as_nanos()).unwrap_or(i64::MAX),
        name,
        payload,
    }
}

fn response(response: &serf::QueryResponse<'_>) -> QueryResponse {
    let key = serf::KeyResponse::decode(response.payload).ok();
    let member = serf::Member::decode(response.payload).ok();
    QueryResponse {
        ltime: LamportTime(response.ltime),
        id: response.id,
        from: response.from.into(),
        ack: response.flags & serf::flags::ACK != 0,
        answer: Answer {
            bytes: response.payload.into(),
            key: key.and_then(|key| key_response(&key)).map(Arc::new),
            member: member.and_then(|member| known(&member)).map(Arc::new),
        },
    }
}

fn response_message<'a>(
    response: &'a QueryResponse,
    made: &'a mut Vec<u8>,
) -> serf::QueryResponse<'a> {
    let answer = &response.answer;
    let payload = if answer.bytes.is_empty() {
        if let Some(key) = &answer.key {
            encode_key_response(key, made);
        } else if let Some(known) = &answer.member {
            encode_known(known, made);
        }
        &made[..]
    } else {
        &answer.bytes[..]
    };
    serf::QueryResponse {
        ltime: response.ltime.0,
        id: response.id,
        from: &response.from,
        flags: if response.ack { serf::flags::ACK } else { 0 },
        payload,
    }
}

/// The answer to a key query; none where one of its keys is none.
fn key_response(response: &serf::KeyResponse<'_>) -> Option<KeyResponse> {
    let key = |text: &str| Key::new(&STANDARD.decode(text).ok()?);
    let primary = match response.primary {
        "" => None,
        text => Some(key(text)?),
    };
    let keys = response.keys.iter().map(|text| key(text)).collect::<Option<_>>()?;
    Some(KeyResponse { ok: response.result, message: response.message.into(), keys, primary })
}

fn encode_key_response(response: &KeyResponse, out: &mut Vec<u8>) {
    let keys: Vec<String> = response.keys.iter().map(|key| STANDARD.encode(key.bytes())).collect();
    let primary = response.primary.as_ref().map(|key| STANDARD.encode(key.bytes()));
    let response = serf::KeyResponse {
        result: response.ok,
        message: &response.message,
        keys: keys.iter().map(String::as_str).collect(),
        primary: primary.as_deref().unwrap_or_default(),
    };
    response.encode(out);
}

/// Serf's numbers of how a member stands; 0 is none.
const ALIVE: u8 = 1;
const LEAVING: u8 = 2;
const LEFT: u8 = 3;
const FAILED: u8 = 4;

/// A member as an answer to `conflict` tells it, which has no incarnation; none where its tags are too many.
fn known(member: &serf::Member<'_>) -> Option<Known> {
    let (status, swim) = match member.status {
        ALIVE => (Status::Alive, swim::Status::Alive),
        LEAVING => (Status::Leaving, swim::Status::Alive),
        LEFT => (Status::Left, swim::Status::Left),
        FAILED => (Status::Failed, swim::Status::Dead),
        _ => return None,
    };
    let meta = tags::encode(member.tags.iter().copied());
    let state = MemberState {
        name: member.name.into(),
        endpoint: member.endpoint,
        meta: (meta.len() <= limits::META).then(|| meta.into())?,
        versions: versions(Some(member.versions)),
        incarnation: Incarnation(0),
        status: swim,
    };
    Some(Known { member: state, status })
}

fn encode_known(known: &Known, out: &mut Vec<u8>) {
    let member = serf::Member {
        name: &known.member.name,
        endpoint: known.member.endpoint,
        tags: tags::decode(&known.member.meta).unwrap_or_default(),
        status: match known.status {
            Status::Alive => ALIVE,
            Status::Leaving => LEAVING,
            Status::Left => LEFT,
            Status::Failed => FAILED,
        },
        versions: versions_bytes(known.member.versions),
    };
    member.encode(out);
}

/// The machine's keyring, with the key schedules to seal and to open with.
pub fn keyring(of: &spec_serf::Keyring) -> Result<Keyring, KeyError> {
    Keyring::new(of.primary.iter().chain(&of.keys).map(Key::bytes))
}

/// The keys of a keyring as the machine takes them, the primary first.
pub fn keys(of: &Keyring) -> Vec<Key> {
    of.keys().iter().filter_map(|key| Key::new(key.as_bytes())).collect()
}
