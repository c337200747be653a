//! Whether the servers' states agree: digests of the same index, compared (prose/state.md, "Agreement").
//!
//! Every server that applied the same entries has the same digest, so one that has another is wrong. Whoever drives this
//! reports the state wherever [`Report::due`] says so, sends [`Agreement::reports`] to the other servers, tells what they
//! sent, and acts on each [`Verdict`]. Reports may be lost, late, repeated or out of order.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    vec::Vec,
};
use core::fmt;

use bincode::{Decode, Encode};

use super::{Digest, State};
use crate::raft::{Index, ServerId, quorum::majority};

/// States are compared at every index that is a multiple of it.
pub const INTERVAL: u64 = 1024;
/// How many reports of each server are kept.
pub const KEPT: usize = 8;

/// The digest of a server's state at an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Report {
    /// The last entry that the state holds.
    pub index: Index,
    /// The digest.
    pub digest: Digest,
}

impl Report {
    /// The report of a state that stands at a multiple of `interval`; none elsewhere.
    pub fn due(state: &State, interval: u64) -> Option<Self> {
        let (index, _) = state.applied();
        index.0.is_multiple_of(interval).then(|| Self { index, digest: state.digest() })
    }
}

/// What happens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// These servers vote.
    Voters(BTreeSet<ServerId>),
    /// This server's state came to an index where a report is due.
    Applied(Report),
    /// A snapshot took the place of this server's state.
    Restored,
    /// Another server sent its reports.
    Received {
        /// Who.
        from: ServerId,
        /// What it sent; of each index the last word counts.
        reports: Vec<Report>,
    },
}

/// What follows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// This server's state is wrong: it serves no more.
    Diverged(Divergence),
    /// Some server's state is wrong, and it isn't known to be this one's: serving goes on.
    Alarm(Alarm),
}

/// How a state is known to be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Divergence {
    /// The index.
    pub index: Index,
    /// This server's digest there.
    pub own: Digest,
    /// That of a majority of the voters.
    pub majority: Digest,
}

impl fmt::Display for Divergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "this server has diverged: at index {} the digest of its state is {}, that of a majority of the voters {}",
            self.index.0, self.own, self.majority
        )
    }
}

/// Servers whose states differ.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Alarm {
    /// The index.
    pub index: Index,
    /// The digests there, of those voters that reported.
    pub digests: BTreeMap<ServerId, Digest>,
    /// That of a majority of the voters, if any yet.
    pub majority: Option<Digest>,
}

impl fmt::Display for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the states of the servers differ at index {}:", self.index.0)?;
        for (server, digest) in &self.digests {
            let wrong = self.majority.is_some_and(|majority| majority != *digest);
            let mark = if wrong { " (wrong)" } else { "" };
            write!(f, " {} has {digest}{mark},", server.node)?;
        }
        f.write_str(match self.majority {
            Some(_) => " a majority agrees",
            None => " and no majority is known to agree: it can't be told whose is right",
        })
    }
}

/// A server's last reports, by index.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Ring(BTreeMap<Index, Digest>);

impl Ring {
    fn note(&mut self, report: Report, kept: usize) {
        self.0.insert(report.index, report.digest);
        while self.0.len() > kept {
            self.0.pop_first();
        }
    }
}

/// What one server knows of its own reports and of the others'.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Agreement {
    own: ServerId,
    /// How many reports of each server are kept.
    kept: usize,
    voters: BTreeSet<ServerId>,
    /// This server's reports of the state that it has.
    ring: Ring,
    /// The other voters' reports.
    others: BTreeMap<ServerId, Ring>,
    /// The highest index that there was an alarm for.
    alarmed: Index,
    diverged: Option<Divergence>,
}

impl Agreement {
    /// Of a server that has just started. It keeps [`KEPT`] reports of each, or fewer in a model.
    pub const fn new(own: ServerId, kept: usize) -> Self {
        Self {
            own,
            kept,
            voters: BTreeSet::new(),
            ring: Ring(BTreeMap::new()),
            others: BTreeMap::new(),
            alarmed: Index(0),
            diverged: None,
        }
    }

    /// Why this server serves no more, if so: until it is started again.
    pub const fn diverged(&self) -> Option<&Divergence> {
        self.diverged.as_ref()
    }

    /// What to send to the others. All that is kept goes each time, so that a report that was lost goes with the next.
    pub fn reports(&self) -> Vec<Report> {
        self.ring.0.iter().map(|(&index, &digest)| Report { index, digest }).collect()
    }

    /// Takes what happened; what follows is appended to `verdicts`.
    pub fn step(&mut self, event: Event, verdicts: &mut Vec<Verdict>) {
        match event {
            Event::Voters(voters) => {
                if voters != self.voters {
                    self.voters = voters;
                    // The word of a server that votes no more would help to outvote one that is right.
                    self.others.clear();
                    self.ring = Ring::default();
                }
            }
            Event::Applied(report) => {
                self.ring.note(report, self.kept);
                self.judge(report.index, verdicts);
            }
            // The state that these were of is gone: a snapshot may have put a right one in place of a wrong one.
            Event::Restored => self.ring = Ring::default(),
            Event::Received { from, reports } => {
                if from == self.own || !self.voters.contains(&from) {
                    return;
                }
                let ring = self.others.entry(from).or_default();
                for report in &reports {
                    ring.note(*report, self.kept);
                }
                let indexes: Vec<Index> = ring.0.keys().copied().collect();
                for index in indexes {
                    self.judge(index, verdicts);
                }
            }
        }
    }

    /// Compares all that is known of one index.
    fn judge(&mut self, index: Index, verdicts: &mut Vec<Verdict>) {
        if self.diverged.is_some() {
            return;
        }
        let own = self.ring.0.get(&index).copied();
        let others = self.others.iter().map(|(server, ring)| (*server, ring.0.get(&index)));
        let mut digests: BTreeMap<ServerId, Digest> =
            others.filter_map(|(server, digest)| Some((server, *digest?))).collect();
        if let Some(own) = own
            && self.voters.contains(&self.own)
        {
            digests.insert(self.own, own);
        }
        // Of all voters, not of those that reported: two wrong ones of five may be the first to be heard.
        let enough = majority(self.voters.len());
        let agree = |digest: &Digest| digests.values().filter(|other| *other == digest).count();
        let majority = digests.values().find(|digest| agree(digest) >= enough).copied();
        match (own, majority) {
            (Some(own), Some(majority)) if own != majority => {
                let divergence = Divergence { index, own, majority };
                self.diverged = Some(divergence);
                verdicts.push(Verdict::Diverged(divergence));
            }
            (Some(_) | None, Some(_) | None) => {
                let differ = digests.values().any(|digest| Some(digest) != digests.values().next());
                if differ && index > self.alarmed {
                    self.alarmed = index;
                    verdicts.push(Verdict::Alarm(Alarm { index, digests, majority }));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;

    fn server(n: u128) -> ServerId {
        ServerId::new(n, 0)
    }

    fn report(index: u64, digest: u128) -> Report {
        Report { index: Index(index), digest: Digest(digest) }
    }

    /// What a server knows, one of `voters` that are named from 1 on.
    fn among(voters: u128) -> Agreement {
        let mut agreement = Agreement::new(server(1), KEPT);
        let voters = (1..=voters).map(server).collect();
        agreement.step(Event::Voters(voters), &mut Vec::new());
        agreement
    }

    fn step(agreement: &mut Agreement, event: Event) -> Vec<Verdict> {
        let mut verdicts = Vec::new();
        agreement.step(event, &mut verdicts);
        verdicts
    }

    fn hear(agreement: &mut Agreement, from: u128, reports: &[Report]) -> Vec<Verdict> {
        step(agreement, Event::Received { from: server(from), reports: reports.to_vec() })
    }

    fn apply(agreement: &mut Agreement, report: Report) -> Vec<Verdict> {
        step(agreement, Event::Applied(report))
    }

    fn alarms(verdicts: &[Verdict]) -> Vec<u64> {
        let index = |verdict: &Verdict| match verdict {
            Verdict::Alarm(alarm) => alarm.index.0,
            Verdict::Diverged(_) => panic!("diverged"),
        };
        verdicts.iter().map(index).collect()
    }

    #[test]
    fn a_server_that_a_majority_contradicts_has_diverged_and_stays_so() {
        let mut agreement = among(3);
        assert!(apply(&mut agreement, report(1024, 7)).is_empty());
        assert_eq!(alarms(&hear(&mut agreement, 2, &[report(1024, 8)])), [1024]);
        let expected = Divergence { index: Index(1024), own: Digest(7), majority: Digest(8) };
        let verdicts = hear(&mut agreement, 3, &[report(1024, 8)]);
        assert_eq!(verdicts, [Verdict::Diverged(expected)]);
        assert_eq!(agreement.diverged(), Some(&expected));
        let text = expected.to_string();
        assert!(text.starts_with("this server has diverged: at index 1024 "), "{text}");
        // It stays so, whatever comes, and says no more.
        assert!(step(&mut agreement, Event::Restored).is_empty());
        assert!(hear(&mut agreement, 3, &[report(1024, 7)]).is_empty());
        assert_eq!(agreement.diverged(), Some(&expected));
    }

    #[test]
    fn a_server_that_comes_late_is_judged_by_what_it_heard_before() {
        let mut agreement = among(3);
        assert!(hear(&mut agreement, 2, &[report(1024, 8), report(2048, 9)]).is_empty());
        assert!(hear(&mut agreement, 3, &[report(1024, 8), report(2048, 9)]).is_empty());
        assert!(apply(&mut agreement, report(1024, 8)).is_empty());
        assert!(matches!(apply(&mut agreement, report(2048, 7))[..], [Verdict::Diverged(_)]));
    }

    #[test]
    fn two_servers_that_differ_are_an_alarm_once_for_each_index() {
        let mut agreement = among(2);
        apply(&mut agreement, report(1024, 7));
        let verdicts = hear(&mut agreement, 2, &[report(1024, 8)]);
        assert_eq!(alarms(&verdicts), [1024]);
        let Verdict::Alarm(alarm) = &verdicts[0] else { panic!("no alarm") };
        assert_eq!(alarm.majority, None);
        assert!(alarm.to_string().contains("no majority"), "{alarm}");
        assert!(hear(&mut agreement, 2, &[report(1024, 8)]).is_empty());
        assert!(apply(&mut agreement, report(2048, 7)).is_empty());
        assert_eq!(alarms(&hear(&mut agreement, 2, &[report(1024, 8), report(2048, 8)])), [2048]);
        assert_eq!(agreement.diverged(), None);
    }

    #[test]
    fn those_who_are_right_learn_who_is_wrong() {
        let mut agreement = among(3);
        apply(&mut agreement, report(1024, 7));
        assert!(hear(&mut agreement, 2, &[report(1024, 7)]).is_empty());
        let verdicts = hear(&mut agreement, 3, &[report(1024, 8)]);
        let Verdict::Alarm(alarm) = &verdicts[0] else { panic!("no alarm") };
        assert_eq!(alarm.majority, Some(Digest(7)));
        assert_eq!(alarm.to_string().matches("(wrong)").count(), 1, "{alarm}");
    }

    #[test]
    fn only_voters_count_and_a_learner_is_judged_too() {
        let mut agreement = among(3);
        apply(&mut agreement, report(1024, 7));
        for stranger in [4, 5, 6, 1] {
            assert!(hear(&mut agreement, stranger, &[report(1024, 8)]).is_empty());
        }
        let mut learner = Agreement::new(server(9), KEPT);
        step(&mut learner, Event::Voters((1..=3).map(server).collect()));
        apply(&mut learner, report(1024, 7));
        assert!(hear(&mut learner, 1, &[report(1024, 8)]).is_empty());
        assert!(matches!(hear(&mut learner, 2, &[report(1024, 8)])[..], [Verdict::Diverged(_)]));
    }

    #[test]
    fn the_last_eight_reports_of_each_server_are_kept() {
        let mut agreement = among(3);
        let all: Vec<_> = (1..=20).map(|n| report(n * 1024, n.into())).collect();
        for report in &all {
            apply(&mut agreement, *report);
        }
        assert_eq!(agreement.reports(), all[12..]);
        // Of what comes out of order the highest stay, and however much comes, no more is kept.
        let reversed: Vec<_> = all.iter().rev().copied().collect();
        hear(&mut agreement, 2, &reversed);
        assert!(agreement.others[&server(2)].0.keys().eq(agreement.ring.0.keys()));
        // Too old to be compared.
        hear(&mut agreement, 2, &[report(1024, 99)]);
        assert!(hear(&mut agreement, 3, &[report(1024, 99)]).is_empty());
    }

    #[test]
    fn an_installed_snapshot_and_new_voters_begin_anew() {
        let mut agreement = among(3);
        apply(&mut agreement, report(1024, 7));
        assert_eq!(alarms(&hear(&mut agreement, 2, &[report(1024, 8)])), [1024]);
        step(&mut agreement, Event::Restored);
        assert!(agreement.reports().is_empty());
        assert!(hear(&mut agreement, 3, &[report(1024, 8)]).is_empty());
        assert!(apply(&mut agreement, report(2048, 9)).is_empty());
        assert!(hear(&mut agreement, 3, &[report(2048, 9)]).is_empty());
        // The same voters again change nothing; others do.
        step(&mut agreement, Event::Voters((1..=3).map(server).collect()));
        assert_eq!(agreement.reports(), [report(2048, 9)]);
        step(&mut agreement, Event::Voters((1..=4).map(server).collect()));
        assert!(agreement.reports().is_empty() && agreement.others.is_empty());
    }

    #[test]
    fn a_report_is_due_at_multiples_of_the_interval() {
        let mut state = State::default();
        for index in 1..=2048 {
            state.advance(Index(index), crate::time::ClusterTime(index));
            let due = Report::due(&state, INTERVAL);
            assert_eq!(due.is_some(), index % 1024 == 0);
            assert!(
                due.is_none_or(|due| due == Report { index: Index(index), digest: state.digest() })
            );
        }
        assert_eq!(Report::due(&state, 0), None);
    }
}
