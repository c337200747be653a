//! Long polls (rules B1-B16): drives the machine of [`spec::state::blocking`] with the server's watches.
//!
//! A parked query is its machine, its watches and a timer. When its connection ends, hyper drops it, and with it the
//! watches.

use std::{
    future::poll_fn,
    hash::{BuildHasher, RandomState},
    pin::{Pin, pin},
    task::Poll,
};

use agent_sync::{Topic, Watch};
use spec::{
    entropy::Seeded,
    state::{
        State,
        blocking::{BlockingQuery, Effect, Event},
    },
};
use tokio::time::{Instant, sleep_until};

use super::{
    Inner,
    request::Options,
    respond::{Meta, Refusal, Reply},
};
use crate::server::{Consistency, Server, ServerError, View};

/// Something that can be asked of a state, at once or once it changes.
pub(crate) trait Question: Send + Sync {
    /// Whether what it tells of itself in headers follows Consul's catalog and health endpoints: how consistent it is, how
    /// stale at most, and an index even where it fails (rules H15, B13).
    const CATALOG: bool;

    /// What may change its answer: one topic, or two.
    fn topics(&self) -> [Option<Topic<'_>>; 2];

    /// The index of the answer, and whether there is anything in it.
    fn probe(&self, state: &State) -> (u64, bool);

    /// The answer and its index.
    fn answer(&self, state: &State) -> (u64, Reply);
}

/// Answers a question as the options say.
pub(crate) async fn ask<Q: Question>(
    inner: &Inner,
    question: Q,
    options: Options,
) -> Result<Reply, Refusal> {
    if options.min_index == 0 {
        let (view, consistency) = read::<Q>(inner, &options).await?;
        let (index, reply) = question.answer(&view.state);
        return Ok(reply.with_meta(meta::<Q>(&view, index, consistency)));
    }
    // Boxed: a parked query would otherwise size the future of every request.
    Box::pin(wait(inner, question, options)).await
}

/// A state as fresh as the options ask, and how fresh that turned out to be.
async fn read<Q: Question>(
    inner: &Inner,
    options: &Options,
) -> Result<(View, Consistency), Refusal> {
    let failed = |error: ServerError| {
        let refusal = Refusal::from(error);
        if Q::CATALOG { Box::new(refusal.with_meta(Meta::default())) } else { refusal }
    };
    let view = inner.server.read(options.consistency).await.map_err(failed)?;
    let too_old = Q::CATALOG && options.max_stale.is_some_and(|bound| view.last_contact > bound);
    if !too_old {
        return Ok((view, options.consistency));
    }
    let view = inner.server.read(Consistency::Default).await.map_err(failed)?;
    Ok((view, Consistency::Default))
}

/// Waits until the result is other than what the client knows, or its time is over, and answers.
async fn wait<Q: Question>(inner: &Inner, question: Q, options: Options) -> Result<Reply, Refusal> {
    let server = &inner.server;
    let mut entropy = Seeded::new(RandomState::new().hash_one(0));
    let timeout = inner.limits().timeout(options.wait, &mut entropy);
    let mut timer = pin!(sleep_until(Instant::now() + timeout));
    let mut query = BlockingQuery::new(options.min_index);
    let mut watches: [Option<Watch>; 2] = [None, None];
    // Held from reading to answering only: a parked query keeps no state alive.
    let mut held: Option<View> = None;
    let mut consistency = options.consistency;
    let mut effect = query.start();
    loop {
        effect = match effect {
            Effect::Register => {
                for (watch, topic) in watches.iter_mut().zip(question.topics()) {
                    // A registration that wasn't used up is still good.
                    if watch.as_ref().is_none_or(Watch::is_touched) {
                        *watch = topic.map(|topic| server.watches().register(topic));
                    }
                }
                query.step(Event::Registered)
            }
            Effect::Read | Effect::Reread => {
                let view = match effect {
                    Effect::Read => {
                        let (view, read) = read::<Q>(inner, &options).await?;
                        consistency = read;
                        view
                    }
                    _ => published(server, consistency)?,
                };
                let (index, found) = question.probe(&view.state);
                let epoch = view.state.epoch();
                held = Some(view);
                query.step(Event::Read { index, found, epoch })
            }
            Effect::Sleep => {
                held = None;
                query.step(sleep(&mut watches, timer.as_mut()).await)
            }
            Effect::Answer { index } => {
                let view = match held {
                    Some(view) => view,
                    None => published(server, consistency)?,
                };
                let (_, reply) = question.answer(&view.state);
                return Ok(reply.with_meta(meta::<Q>(&view, index, consistency)));
            }
        }
    }
}

/// What the server has by now. After it has left that needn't be all that was acknowledged (LEAVE-6).
fn published(server: &Server, consistency: Consistency) -> Result<View, ServerError> {
    if consistency != Consistency::Stale && server.has_left() {
        return Err(ServerError::NoLeader);
    }
    Ok(server.published()?.read_with(consistency))
}

/// Sleeps until any of the watches is touched or time is over. Without a watch only time can tell.
async fn sleep(watches: &mut [Option<Watch>; 2], timer: impl Future<Output = ()>) -> Event {
    let touched = poll_fn(|cx| {
        let mut each = watches.iter_mut().flatten();
        let touched = each.any(|watch| Pin::new(watch).poll(cx).is_ready());
        if touched { Poll::Ready(()) } else { Poll::Pending }
    });
    tokio::select! {
        () = touched => Event::Woken,
        () = timer => Event::TimedOut,
    }
}

/// What an answer with this index tells about where it comes from.
fn meta<Q: Question>(view: &View, index: u64, consistency: Consistency) -> Meta {
    Meta {
        index,
        known_leader: view.known_leader,
        last_contact: view.last_contact,
        consistency: Q::CATALOG.then_some(consistency),
    }
}
