//! Long polls (rules B1-B16): drives the machine of [`spec::state::blocking`] with the server's watches.
//!
//! A parked query is its machine, a watch and a timer. When its connection ends, hyper drops it, and with it the watch.

use std::{
    hash::{BuildHasher, RandomState},
    pin::pin,
};

use agent_sync::{Topic, Watch};
use spec::{
    entropy::Seeded,
    state::{
        TableId,
        blocking::{BlockingQuery, Effect, Event},
    },
};
use tokio::time::{Instant, sleep_until};

use super::{
    Inner,
    kv::Read,
    request::Options,
    respond::{Meta, Refusal, Reply},
};
use crate::server::{View, watch_table};

/// Waits until the result is other than what the client knows, or its time is over, and answers.
pub(crate) async fn wait(inner: &Inner, read: Read, options: Options) -> Result<Reply, Refusal> {
    let server = &inner.server;
    let mut entropy = Seeded::new(RandomState::new().hash_one(0));
    let timeout = inner.limits().timeout(options.wait, &mut entropy);
    let mut timer = pin!(sleep_until(Instant::now() + timeout));
    let mut query = BlockingQuery::new(options.min_index);
    let mut watch: Option<Watch> = None;
    // Held from reading to answering only: a parked query keeps no state alive.
    let mut held: Option<View> = None;
    let mut effect = query.start();
    loop {
        effect = match effect {
            Effect::Register => {
                // A registration that wasn't used up is still good.
                if watch.as_ref().is_none_or(Watch::is_touched) {
                    let table = watch_table(TableId::Kv);
                    watch = Some(server.watches().register(match &read {
                        Read::Get { key, .. } => Topic::Key(table, key),
                        Read::List { prefix } | Read::Keys { prefix, .. } => {
                            Topic::Prefix(table, prefix)
                        }
                    }));
                }
                query.step(Event::Registered)
            }
            Effect::Read | Effect::Reread => {
                let view = match effect {
                    Effect::Read => server.read(options.consistency).await?,
                    _ => server.published(),
                };
                let (index, found) = read.probe(&view.state);
                let epoch = view.state.epoch();
                held = Some(view);
                query.step(Event::Read { index, found, epoch })
            }
            Effect::Sleep => {
                held = None;
                query.step(sleep(watch.as_mut(), timer.as_mut()).await)
            }
            Effect::Answer { index } => {
                let view = held.unwrap_or_else(|| server.published());
                let (_, reply) = read.answer(&view.state);
                return Ok(reply.with_meta(meta(&view, index)));
            }
        }
    }
}

async fn sleep(watch: Option<&mut Watch>, timer: impl Future<Output = ()>) -> Event {
    let touched = async {
        match watch {
            Some(watch) => watch.await,
            // Without a watch only time can tell.
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = touched => Event::Woken,
        () = timer => Event::TimedOut,
    }
}

/// What an answer with this index tells about where it comes from.
pub(crate) fn meta(view: &View, index: u64) -> Meta {
    Meta { index, known_leader: view.known_leader, last_contact: view.last_contact }
}
