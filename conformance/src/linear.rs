//! Whether a history of one register is linearizable: Wing and Gong's search, with Lowe's memo of what was tried.
//!
//! A store of many keys is linearizable if each key is (Herlihy and Wing, locality), so a history is split by key
//! first. Each write has a value of its own, so a value names its write, and a compare-and-set by index is one by
//! the value that its client had read under this index.

use std::collections::{BTreeMap, HashSet};

/// What a register holds: a value that names its write, or nothing.
pub type Value = Option<u64>;

/// What was asked, and what came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Wrote this, whatever was there.
    Put(u64),
    /// Read this.
    Get(Value),
    /// Wrote `new` if the register held `expected`; `done` tells whether it did, where it is known.
    Cas {
        /// What the register had to hold.
        expected: Value,
        /// What it holds then.
        new: u64,
        /// Whether it was so; none where no answer came.
        done: Option<bool>,
    },
    /// Removed what was there.
    Delete,
}

/// An operation in time. Times are of one clock; an operation that was never answered has no end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Who asked, for messages.
    pub client: usize,
    /// When it was asked.
    pub start: u64,
    /// When it was answered; none where its outcome is unknown: it may happen at any time after its start, or never.
    pub end: Option<u64>,
    /// What.
    pub operation: Operation,
}

/// Why a history isn't linearizable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contradiction {
    /// The longest that could be put in an order, as places in the history.
    pub order: Vec<usize>,
    /// What the register held after them.
    pub value: Value,
    /// The operations of which none can come next.
    pub stuck: Vec<usize>,
}

/// The state of a register after an operation, where the operation's outcome fits.
fn step(state: Value, operation: &Operation) -> Option<Value> {
    match *operation {
        Operation::Put(value) => Some(Some(value)),
        Operation::Get(value) => (value == state).then_some(state),
        Operation::Delete => Some(None),
        Operation::Cas { expected, new, done } => {
            let holds = expected == state;
            if done.is_some_and(|done| done != holds) {
                return None;
            }
            Some(if holds { Some(new) } else { state })
        }
    }
}

/// A set of operations: one bit for each.
type Done = Vec<u64>;

/// Checks one register's history; it holds nothing at first.
pub fn check(history: &[Event]) -> Result<(), Contradiction> {
    let search = Search { history, order: by_start(history) };
    search.run()
}

/// Checks a history of many registers, each on its own. Names the one that fails.
pub fn check_all<K: Ord + Clone>(
    histories: &BTreeMap<K, Vec<Event>>,
) -> Result<(), (K, Contradiction)> {
    for (key, history) in histories {
        check(history).map_err(|contradiction| (key.clone(), contradiction))?;
    }
    Ok(())
}

fn by_start(history: &[Event]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..history.len()).collect();
    order.sort_by_key(|i| history[*i].start);
    order
}

struct Search<'a> {
    history: &'a [Event],
    /// Places in the history, in the order of their starts.
    order: Vec<usize>,
}

/// A point of the search: what was done so far, and where to try next.
struct Frame {
    state: Value,
    candidates: Vec<usize>,
    next: usize,
    chosen: Option<usize>,
    first: usize,
}

impl Search<'_> {
    fn run(&self) -> Result<(), Contradiction> {
        let mut done: Done = vec![0; self.history.len().div_ceil(64)];
        let mut seen: HashSet<(Done, Value)> = HashSet::new();
        let mut stack = vec![self.frame(&done, None, None, 0)];
        // Operations that were answered have to be done; the others may never have happened.
        let mut left = self.history.iter().filter(|event| event.end.is_some()).count();
        if left == 0 {
            return Ok(());
        }
        let mut best = (Vec::new(), None, stack[0].candidates.clone());
        loop {
            let Some(frame) = stack.last_mut() else {
                let (order, value, stuck) = best;
                return Err(Contradiction { order, value, stuck });
            };
            let Some(candidate) = frame.candidates.get(frame.next).copied() else {
                if let Some(chosen) = frame.chosen {
                    done[chosen / 64] &= !(1 << (chosen % 64));
                    left += usize::from(self.history[chosen].end.is_some());
                }
                stack.pop();
                continue;
            };
            frame.next += 1;
            let Some(state) = step(frame.state, &self.history[candidate].operation) else {
                continue;
            };
            done[candidate / 64] |= 1 << (candidate % 64);
            if !seen.insert((done.clone(), state)) {
                done[candidate / 64] &= !(1 << (candidate % 64));
                continue;
            }
            left -= usize::from(self.history[candidate].end.is_some());
            if left == 0 {
                return Ok(());
            }
            let first = frame.first;
            stack.push(self.frame(&done, state, Some(candidate), first));
            if stack.len() > best.0.len() + 1 {
                let order = stack.iter().filter_map(|frame| frame.chosen).collect();
                best = (order, state, stack[stack.len() - 1].candidates.clone());
            }
        }
    }

    /// What can come next: each operation that nothing else, not done yet, ended before. `first` is a place in the order
    /// before which all is done.
    fn frame(&self, done: &Done, state: Value, chosen: Option<usize>, first: usize) -> Frame {
        let skipped = self.order[first..].iter().take_while(|i| contains(done, **i)).count();
        let first = first + skipped;
        let mut first_end = u64::MAX;
        let mut candidates = Vec::new();
        for i in self.order[first..].iter().copied() {
            // Those behind start later still, and end later than they start.
            if self.history[i].start > first_end {
                break;
            }
            if !contains(done, i) {
                first_end = first_end.min(self.history[i].end.unwrap_or(u64::MAX));
                candidates.push(i);
            }
        }
        candidates.retain(|i| self.history[*i].start <= first_end);
        Frame { state, candidates, next: 0, chosen, first }
    }
}

fn contains(done: &Done, i: usize) -> bool {
    done[i / 64] & (1 << (i % 64)) != 0
}

#[cfg(test)]
mod tests {
    use super::{
        Operation::{Cas, Delete, Get, Put},
        *,
    };

    fn at(start: u64, end: u64, operation: Operation) -> Event {
        Event { client: 0, start, end: Some(end), operation }
    }

    fn unknown(start: u64, operation: Operation) -> Event {
        Event { client: 0, start, end: None, operation }
    }

    fn cas(expected: Value, new: u64, done: bool) -> Operation {
        Cas { expected, new, done: Some(done) }
    }

    fn holds(history: &[Event]) -> bool {
        check(history).is_ok()
    }

    #[test]
    fn what_happens_one_after_the_other_is_linearizable() {
        let history = [
            at(0, 1, Get(None)),
            at(2, 3, Put(1)),
            at(4, 5, Get(Some(1))),
            at(6, 7, cas(Some(1), 2, true)),
            at(8, 9, cas(Some(1), 3, false)),
            at(10, 11, Delete),
            at(12, 13, Get(None)),
        ];
        assert!(holds(&history));
    }

    #[test]
    fn a_stale_read_is_not() {
        assert!(!holds(&[at(0, 1, Put(1)), at(2, 3, Put(2)), at(4, 5, Get(Some(1)))]));
        assert!(!holds(&[at(0, 1, Put(1)), at(2, 3, Get(None))]));
    }

    #[test]
    fn a_lost_acknowledged_write_is_not() {
        let history = [at(0, 1, Put(1)), at(2, 3, cas(None, 2, true))];
        assert!(!holds(&history));
    }

    #[test]
    fn a_read_of_what_nobody_wrote_is_not() {
        assert!(!holds(&[at(0, 1, Put(1)), at(2, 3, Get(Some(9)))]));
    }

    #[test]
    fn reads_beside_a_write_may_see_either_but_not_new_before_old() {
        let write = at(0, 100, Put(1));
        assert!(holds(&[write, at(10, 20, Get(None)), at(30, 40, Get(Some(1)))]));
        assert!(holds(&[write, at(10, 20, Get(Some(1))), at(30, 40, Get(Some(1)))]));
        assert!(!holds(&[write, at(10, 20, Get(Some(1))), at(30, 40, Get(None))]));
    }

    #[test]
    fn two_compare_and_sets_from_the_same_value_can_t_both_win() {
        let first = at(0, 1, Put(1));
        let (a, b) = (at(2, 9, cas(Some(1), 2, true)), at(3, 8, cas(Some(1), 3, true)));
        assert!(!holds(&[first, a, b]));
        let b = at(3, 8, cas(Some(1), 3, false));
        assert!(holds(&[first, a, b]));
    }

    #[test]
    fn a_write_without_an_answer_may_happen_late_or_never() {
        let write = unknown(0, Put(1));
        assert!(holds(&[write, at(10, 11, Get(None)), at(12, 13, Get(None))]));
        assert!(holds(&[write, at(10, 11, Get(None)), at(12, 13, Get(Some(1)))]));
        assert!(!holds(&[write, at(10, 11, Get(Some(1))), at(12, 13, Get(None))]));
        // Nor before it was asked for.
        assert!(!holds(&[at(0, 1, Get(Some(1))), unknown(5, Put(1))]));
    }

    #[test]
    fn a_compare_and_set_without_an_answer_may_have_failed() {
        let cas = unknown(2, Cas { expected: Some(7), new: 8, done: None });
        assert!(holds(&[at(0, 1, Put(1)), cas, at(10, 11, Get(Some(1)))]));
        assert!(!holds(&[at(0, 1, Put(1)), cas, at(10, 11, Get(Some(8)))]));
    }

    #[test]
    fn the_contradiction_tells_where_it_got_stuck() {
        let history = [at(0, 1, Put(1)), at(2, 3, Put(2)), at(4, 5, Get(Some(1)))];
        let contradiction = check(&history).unwrap_err();
        let expected = Contradiction { order: vec![0, 1], value: Some(2), stuck: vec![2] };
        assert_eq!(contradiction, expected);
    }

    #[test]
    fn registers_are_checked_each_on_its_own() {
        let good = vec![at(0, 1, Put(1)), at(2, 3, Get(Some(1)))];
        let bad = vec![at(0, 1, Put(1)), at(2, 3, Get(None))];
        let histories = BTreeMap::from([("a", good.clone()), ("b", good)]);
        assert_eq!(check_all(&histories), Ok(()));
        let histories = BTreeMap::from([("a", histories["a"].clone()), ("b", bad)]);
        assert_eq!(check_all(&histories).unwrap_err().0, "b");
    }

    #[test]
    fn many_concurrent_operations_are_checked_in_little_time() {
        // Ten writers at once, again and again, with a read between: 10! orders a round without the memo.
        let mut history = Vec::new();
        let mut time = 0;
        for round in 0..10_u64 {
            for n in 0..10 {
                history.push(at(time, time + 100, Put(round * 100 + n)));
            }
            history.push(at(time + 101, time + 102, Get(Some(round * 100 + 9))));
            time += 200;
        }
        let start = std::time::Instant::now();
        assert!(holds(&history));
        let last = history.len() - 1;
        history[last].operation = Get(Some(0));
        assert!(!holds(&history));
        assert!(start.elapsed() < std::time::Duration::from_secs(20), "{:?}", start.elapsed());
    }

    #[test]
    fn random_histories_made_in_order_are_linearizable_and_a_changed_read_is_mostly_found() {
        let mut random = spec::entropy::Seeded::new(7);
        let mut found = 0;
        for _ in 0..200 {
            // Operations take effect in turn, at the middle of a span that overlaps with others.
            let mut state = None;
            let mut history = Vec::new();
            for n in 0..30_u64 {
                let operation = match random.next_u64() % 4 {
                    0 => Put(n + 1),
                    1 => Get(state),
                    2 => Delete,
                    _ => {
                        let expected =
                            if random.next_u64().is_multiple_of(2) { state } else { Some(999) };
                        cas(expected, n + 1, expected == state)
                    }
                };
                state = step(state, &operation).unwrap();
                let (before, after) = (random.next_u64() % 25, random.next_u64() % 25);
                let middle = 100 + n * 10;
                history.push(at(middle - before, middle + after, operation));
            }
            assert!(holds(&history), "{history:?}");
            if let Some(event) = history.iter_mut().find(|event| matches!(event.operation, Get(_)))
            {
                event.operation = Get(Some(12_345));
                assert!(!holds(&history));
                found += 1;
            }
        }
        assert!(found > 100);
    }
}
