//! The table of faults names tests that exist.

use std::fs;

use conformance::agent::workspace_root;

/// The tests that a row's last column names, as `file` and `function`: `path/to/file.rs: function`.
fn tests(column: &str) -> impl Iterator<Item = (&str, &str)> {
    column.split('`').skip(1).step_by(2).filter_map(|text| text.split_once(": "))
}

#[test]
fn every_row_names_tests_that_exist_or_says_that_there_is_none() {
    let text = fs::read_to_string(workspace_root().join("conformance/FAULTS.md")).unwrap();
    let rows: Vec<Vec<&str>> = text
        .lines()
        .filter(|line| line.starts_with("| ") && line[2..].starts_with(|c: char| c.is_numeric()))
        .map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect())
        .collect();
    let numbers: Vec<usize> = rows.iter().map(|row| row[0].parse().unwrap()).collect();
    assert_eq!(numbers, (1..=52).collect::<Vec<_>>());
    for row in rows {
        let [number, _, _, held] = row[..] else { panic!("{row:?}") };
        assert!(held.starts_with("none") || tests(held).next().is_some(), "row {number}: {held}");
        for (file, function) in tests(held) {
            let source = fs::read_to_string(workspace_root().join(file))
                .unwrap_or_else(|error| panic!("row {number}: {file}: {error}"));
            assert!(source.contains(&format!("fn {function}(")), "row {number}: {function}");
        }
    }
}
