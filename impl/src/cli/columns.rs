//! Plain columns, padded as Go's tabwriter and Consul's columnize pad them.

use std::fmt::Write as _;

/// Rows of a name and a value, the values starting at one column: what `kv get -detailed` prints.
///
/// Values are bytes: a key may hold anything. An empty one leaves its name unpadded.
pub(super) fn pairs(rows: &[(&str, &[u8])]) -> Vec<u8> {
    const GAP: usize = 6;
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0) + GAP;
    let mut out = Vec::new();
    for (name, value) in rows {
        if value.is_empty() {
            out.extend_from_slice(name.as_bytes());
        } else {
            out.extend_from_slice(format!("{name:width$}").as_bytes());
            out.extend_from_slice(value);
        }
        out.push(b'\n');
    }
    out
}

/// A table whose columns are two spaces apart; the last one isn't padded.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    const GAP: usize = 2;
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0) + GAP).collect();
    let mut out = String::new();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            if column + 1 == row.len() {
                out.push_str(cell);
            } else {
                let width = widths[column];
                let _ = write!(out, "{cell:width$}");
            }
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_start_their_values_at_one_column() {
        let rows: [(&str, &[u8]); 3] = [("CreateIndex", b"326"), ("Key", b"cli/a"), ("Value", b"")];
        assert_eq!(pairs(&rows), b"CreateIndex      326\nKey              cli/a\nValue\n");
    }

    #[test]
    fn a_table_pads_all_but_its_last_column() {
        let rows = [vec!["Node", "State", "Voter"], vec!["server-1", "leader", "true"]];
        let rows = rows.map(|row| row.into_iter().map(str::to_owned).collect());
        assert_eq!(table(&rows), "Node      State   Voter\nserver-1  leader  true\n");
    }
}
