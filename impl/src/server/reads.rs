//! Linearizable reads, a few at a time: those that come while the leader is asked wait for the next time, as in the leader's
//! own rounds (READ-7). So a busy server wakes its consensus thread once for many reads, and their tasks are woken where
//! they run.

use std::{sync::Arc, time::Duration};

use agent_sync::GroupCommit;
use spec::raft::Index;
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::ServerError;
use crate::driver::consensus::Input;

/// The most reads that wait.
const MOST_WAITING: usize = 65_536;
/// The most reads that share an answer.
const MOST_TOGETHER: usize = 4096;
/// How long an answer may take before the next reads no longer wait for it: one that is lost is given up later.
pub(super) const PATIENCE: Duration = Duration::from_millis(20);

type Reply = oneshot::Sender<Option<Index>>;

/// Where reads ask up to where the state must be applied.
#[derive(Debug)]
pub(super) struct Reads(mpsc::Sender<Reply>);

impl Reads {
    /// Starts the task that asks consensus, with [`PATIENCE`]; it ends when this is gone.
    pub(super) fn start(consensus: Arc<GroupCommit<Input>>, patience: Duration) -> Self {
        let (sender, asked) = mpsc::channel(MOST_WAITING);
        tokio::spawn(ask(asked, consensus, patience));
        Self(sender)
    }

    /// The index up to which the state must be applied for a read that begins now; none where no leader confirmed one.
    pub(super) async fn index(&self) -> Result<Option<Index>, ServerError> {
        let (reply, answer) = oneshot::channel();
        let too_many = || ServerError::Unavailable("too many reads are waiting".to_owned());
        self.0.try_send(reply).map_err(|_| too_many())?;
        answer.await.map_err(|_| too_many())
    }
}

async fn ask(
    mut asked: mpsc::Receiver<Reply>,
    consensus: Arc<GroupCommit<Input>>,
    patience: Duration,
) {
    let mut together = Vec::new();
    while asked.recv_many(&mut together, MOST_TOGETHER).await > 0 {
        let (reply, mut answer) = oneshot::channel();
        // After all of them asked: a write that was acknowledged before is below the index. Who is let go of without an
        // answer, where consensus takes no more, is told that there are too many.
        if consensus.send(Input::Read { reply }).is_err() {
            together.clear();
            continue;
        }
        if let Ok(index) = timeout(patience, &mut answer).await {
            tell(together.drain(..), index.ok().flatten());
            // Those who were told run first, and ask again: so more share the next answer.
            tokio::task::yield_now().await;
        } else {
            let together = std::mem::take(&mut together);
            tokio::spawn(async move { tell(together, answer.await.ok().flatten()) });
        }
    }
}

fn tell(who: impl IntoIterator<Item = Reply>, index: Option<Index>) {
    for reply in who {
        // Whoever is gone needs no answer.
        let _ = reply.send(index);
    }
}

#[cfg(test)]
mod tests {
    use agent_sync::Taken;

    use super::*;

    fn consensus() -> Arc<GroupCommit<Input>> {
        Arc::new(GroupCommit::new(16, 0))
    }

    /// Lets all tasks run until they wait, and gives what consensus was asked meanwhile.
    async fn asked(consensus: &GroupCommit<Input>) -> Vec<Reply> {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        let mut inputs = Vec::new();
        let now = Some(std::time::Instant::now());
        assert_ne!(consensus.take(&mut inputs, now), Taken::Closed);
        let reply = |input| match input {
            Input::Read { reply } => reply,
            other => panic!("{other:?}"),
        };
        inputs.into_iter().map(reply).collect()
    }

    #[tokio::test]
    async fn reads_that_come_while_the_leader_is_asked_share_the_next_answer() {
        let consensus = consensus();
        // It is to wait for the answer however slowly this runs.
        let patience = Duration::from_mins(1);
        let reads = Arc::new(Reads::start(Arc::clone(&consensus), patience));
        let begin = |n: usize| -> Vec<_> {
            let read = || {
                tokio::spawn({
                    let reads = Arc::clone(&reads);
                    async move { reads.index().await }
                })
            };
            (0..n).map(|_| read()).collect()
        };
        let first = begin(10);
        let mut replies = asked(&consensus).await;
        assert_eq!(replies.len(), 1);
        let second = begin(5);
        assert!(asked(&consensus).await.is_empty(), "an answer is under way");
        replies.remove(0).send(Some(Index(7))).unwrap();
        for read in first {
            assert_eq!(read.await.unwrap().unwrap(), Some(Index(7)));
        }
        // An answer to those that came before is none to them: they may have to see a later write.
        let mut replies = asked(&consensus).await;
        assert_eq!(replies.len(), 1);
        assert!(second.iter().all(|read| !read.is_finished()));
        replies.remove(0).send(None).unwrap();
        for read in second {
            assert_eq!(read.await.unwrap().unwrap(), None);
        }
    }

    #[tokio::test]
    async fn a_lost_answer_keeps_nobody_waiting_but_those_it_was_for() {
        let consensus = consensus();
        let reads = Reads::start(Arc::clone(&consensus), PATIENCE);
        let mut first = Box::pin(reads.index());
        assert!(timeout(Duration::ZERO, &mut first).await.is_err());
        let lost = asked(&consensus).await;
        let mut second = Box::pin(reads.index());
        assert!(timeout(PATIENCE * 2, &mut second).await.is_err());
        asked(&consensus).await.remove(0).send(Some(Index(9))).unwrap();
        assert_eq!(second.await.unwrap(), Some(Index(9)));
        drop(lost);
        assert_eq!(first.await.unwrap(), None);
    }

    #[tokio::test]
    async fn reads_are_refused_where_consensus_takes_no_more() {
        let consensus = consensus();
        let reads = Reads::start(Arc::clone(&consensus), PATIENCE);
        consensus.close();
        assert!(matches!(reads.index().await, Err(ServerError::Unavailable(_))));
    }
}
