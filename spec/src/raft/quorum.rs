//! Quorums: what a majority is, and what it has (Raft §5.3, §5.4.2).

use alloc::vec::Vec;

use super::types::{Configuration, Index, ServerId};

/// How many of `voters` are a majority.
pub const fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

/// Whether those for whom `yes` holds are a majority of the voters. Learners never count.
pub fn is_quorum(configuration: &Configuration, mut yes: impl FnMut(&ServerId) -> bool) -> bool {
    let mut voters = 0;
    let mut count = 0;
    for voter in configuration.voters() {
        voters += 1;
        if yes(voter) {
            count += 1;
        }
    }
    voters > 0 && count >= majority(voters)
}

/// The highest index that a majority of the voters has reached.
pub fn quorum_index(
    configuration: &Configuration,
    reached: impl FnMut(&ServerId) -> Index,
) -> Index {
    let mut indexes: Vec<Index> = configuration.voters().map(reached).collect();
    // Sorted from the highest: the value at place majority-1 is reached by a majority.
    indexes.sort_unstable_by(|a, b| b.cmp(a));
    indexes.get(majority(indexes.len()).saturating_sub(1)).copied().unwrap_or_default()
}
