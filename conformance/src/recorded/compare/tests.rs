//! The comparison fails on whatever a client could tell.

use super::*;
use crate::recorded::parse::parse_answer;

const RECORDED: &str = "HTTP/1.1 200 OK\nContent-Type: application/json\nX-Consul-Index: 25\n\
    X-Consul-Knownleader: true\nDate: Sun, 22 Nov 2026 07:51:45 GMT\n\n\
    [{\"Key\":\"k1\",\"CreateIndex\":20,\"ModifyIndex\":25},{\"Key\":\"k2\",\"ModifyIndex\":21}]\n";

fn step(raw: &str, elapsed: f64) -> Step {
    let answer = parse_answer("curl -i x", raw, 0).unwrap();
    Step { name: "000/1".to_owned(), command: String::new(), answer, elapsed }
}

/// What is found where the recorded answer, changed so, is observed.
fn found(from: &str, to: &str) -> Vec<String> {
    assert!(RECORDED.contains(from), "{from:?} isn't there");
    let raw = RECORDED.replace(from, to);
    let answer = parse_answer("curl -i x", &raw, 0).unwrap();
    let observed = Observed { answer, elapsed: 0.1 };
    let found = compare(&step(RECORDED, 0.1), &observed, &[], &mut Relations::default());
    found.into_iter().map(|finding| finding.field).collect()
}

#[test]
fn the_same_answer_is_the_same() {
    assert_eq!(found("OK", "OK"), [""; 0]);
}

#[test]
fn another_date_and_indexes_in_the_same_relations_are_the_same() {
    assert_eq!(found("22 Nov", "23 Nov"), [""; 0]);
    let raw = RECORDED
        .replace("Index: 25", "Index: 7")
        .replace("ModifyIndex\":25", "ModifyIndex\":7")
        .replace("CreateIndex\":20", "CreateIndex\":3")
        .replace("ModifyIndex\":21", "ModifyIndex\":5");
    let answer = parse_answer("curl -i x", &raw, 0).unwrap();
    let observed = Observed { answer, elapsed: 0.1 };
    let found = compare(&step(RECORDED, 0.1), &observed, &[], &mut Relations::default());
    assert_eq!(found, []);
}

#[test]
fn another_status_is_found() {
    assert_eq!(found("200 OK", "201 Created"), ["status"]);
}

#[test]
fn a_header_that_is_missing_added_or_of_another_value_is_found() {
    assert_eq!(found("X-Consul-Knownleader: true\n", ""), ["header X-Consul-Knownleader"]);
    assert_eq!(found("Date:", "X-New: 1\nDate:"), ["header X-New"]);
    assert_eq!(found("leader: true", "leader: false"), ["header X-Consul-Knownleader"]);
}

#[test]
fn a_header_in_other_letters_is_found() {
    let names = ["header X-Consul-Knownleader", "header X-Consul-KnownLeader"];
    assert_eq!(found("Knownleader", "KnownLeader"), names);
}

#[test]
fn another_body_is_found() {
    assert_eq!(found("k2", "k3"), ["body"]);
    assert_eq!(found("]\n", "\n"), ["body"]);
}

#[test]
fn keys_and_rows_in_another_order_are_found() {
    assert_eq!(
        found("\"CreateIndex\":20,\"ModifyIndex\":25", "\"ModifyIndex\":25,\"CreateIndex\":20"),
        ["body"]
    );
    assert_eq!(found("k1\",\"Cre", "k2\",\"Cre"), ["body"]);
}

#[test]
fn an_index_whose_relation_to_others_changed_is_found() {
    // No longer the same as the header's.
    assert_eq!(found("\"ModifyIndex\":25", "\"ModifyIndex\":26"), ["body index"]);
    // Above the one that it was below.
    assert_eq!(found("\"ModifyIndex\":21", "\"ModifyIndex\":30"), ["body index"]);
}

#[test]
fn indexes_are_related_over_steps_too() {
    let mut relations = Relations::default();
    assert!(relations.relate_index(25, 7));
    assert!(relations.relate_index(30, 8));
    assert!(relations.relate_index(25, 7));
    assert!(!relations.relate_index(25, 8), "one index became two");
    assert!(!relations.relate_index(26, 7), "two indexes became one");
    assert!(!relations.relate_index(40, 6), "a later index is lower");
    assert!(!relations.relate_index(0, 1), "no index became one");
}

#[test]
fn ids_stand_for_each_other_one_to_one() {
    let (a, b) = ("0a4e64c1-872e-a0ec-b2dc-fdf268e35d46", "d5a676a8-9d2b-f5c1-24d6-a45a930e8b1f");
    let mut relations = Relations::default();
    let same = |relations: &mut Relations, x: &str, y: &str| {
        compare_text("body", &format!("\"{x}\""), &format!("\"{y}\""), &[], relations).is_empty()
    };
    assert!(same(&mut relations, a, b));
    assert_eq!(
        relations.with_ids(&format!("/v1/session/info/{a}")),
        format!("/v1/session/info/{b}")
    );
    assert!(!same(&mut relations, b, b), "two ids became one");
    assert!(!same(&mut relations, a, a), "one id became two");
    assert!(!compare_text("body", &format!("\"{a}\""), "\"none\"", &[], &mut relations).is_empty());
}

#[test]
fn an_answer_that_should_have_waited_or_should_not_have_is_found() {
    let answer = step(RECORDED, 0.0).answer;
    let found = |recorded: f64, observed: f64| {
        let observed = Observed { answer: answer.clone(), elapsed: observed };
        compare_elapsed(&step(RECORDED, recorded), &observed, &[], None).is_some()
    };
    assert_eq!((found(2.09, 2.1), found(0.01, 0.3)), (false, false));
    assert_eq!((found(2.09, 0.1), found(0.01, 5.0), found(1.02, 10.0)), (true, true, true));
}

#[test]
fn where_another_time_is_told_the_recorded_one_is_found() {
    let step = step(RECORDED, 1.03);
    let found = |elapsed: f64, instead: &Range<f64>| {
        let observed = Observed { answer: step.answer.clone(), elapsed };
        compare_elapsed(&step, &observed, &[], Some(instead)).map(|finding| finding.recorded)
    };
    let instead = 3.0..6.0;
    assert_eq!((found(3.0, &instead), found(4.9, &instead)), (None, None));
    assert_eq!(found(1.03, &instead).as_deref(), Some("3..6"));
    assert_eq!(found(7.0, &instead).as_deref(), Some("3..6"));
}

#[test]
fn a_command_may_take_long_to_load_and_not_as_long_as_it_likes() {
    let answer = Answer::Text { output: String::new(), exit: 0 };
    let step = Step { answer: answer.clone(), ..step(RECORDED, 0.1) };
    let found = |elapsed: f64| {
        let observed = Observed { answer: answer.clone(), elapsed };
        compare_elapsed(&step, &observed, &[], None).is_some()
    };
    assert_eq!((found(20.0), found(40.0)), (false, true));
}

#[test]
fn a_command_s_output_and_exit_code_count() {
    let text = |output: &str, exit| Answer::Text { output: output.to_owned(), exit };
    let found = |recorded: &Answer, observed: Answer| {
        let step = Step { answer: recorded.clone(), ..step(RECORDED, 0.0) };
        let observed = Observed { answer: observed, elapsed: 0.0 };
        let found = compare(&step, &observed, &["Size "], &mut Relations::default());
        found.into_iter().map(|finding| finding.field).collect::<Vec<_>>()
    };
    let recorded = text("Size 12 bytes", 0);
    assert_eq!(found(&recorded, text("Size 4711 bytes", 0)), [""; 0]);
    assert_eq!(found(&recorded, text("Size 12 octets", 0)), ["output"]);
    assert_eq!(found(&recorded, text("Size 12 bytes", 1)), ["exit"]);
}

#[test]
fn names_that_are_missing_added_or_in_another_order_in_a_tree_are_found() {
    let tree = |names: &[(&str, &str)]| -> Vec<(String, String)> {
        names.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    let recorded = tree(&[("a", "1"), ("b", "2"), ("c", "3")]);
    let found = |observed: &[(&str, &str)], variables: &[&str]| {
        let found = compare_trees(&recorded, &tree(observed), variables, &mut Relations::default());
        found.into_iter().map(|finding| finding.field).collect::<Vec<_>>()
    };
    assert_eq!(found(&[("a", "1"), ("b", "9"), ("c", "3")], &["b"]), [""; 0]);
    assert_eq!(found(&[("a", "1"), ("b", "9"), ("c", "3")], &[]), ["b"]);
    assert_eq!(found(&[("a", "1"), ("c", "3"), ("d", "4")], &[]), ["b", "d"]);
    assert_eq!(found(&[("b", "2"), ("a", "1"), ("c", "3")], &[]), ["order"]);
}

/// What is found where `from` was recorded for a command and `to` is observed.
fn differs(command: &str, variables: &[&str], from: &str, to: &str) -> Vec<String> {
    let raw = |what: &str| format!("HTTP/1.1 200 OK\n{what}\n");
    let mut step = step(&raw(from), 0.1);
    command.clone_into(&mut step.command);
    let answer = parse_answer(command, &raw(to), 0).unwrap();
    let observed = Observed { answer, elapsed: 0.1 };
    let found = compare(&step, &observed, variables, &mut Relations::default());
    found.into_iter().map(|finding| finding.field).collect()
}

#[test]
fn how_long_ago_a_leader_was_heard_counts_by_its_magnitude() {
    let found = |from: &str, to: &str| {
        let header = |since: &str| format!("X-Consul-Lastcontact: {since}\n");
        differs("curl -i x", &[], &header(from), &header(to))
    };
    for (from, to) in [("0", "0"), ("35", "0"), ("35", "999"), ("10808", "1000")] {
        assert_eq!(found(from, to), [""; 0], "{from} {to}");
    }
    for (from, to) in [("0", "1"), ("35", "1000"), ("10808", "999"), ("35", "soon")] {
        assert_eq!(found(from, to), ["header X-Consul-Lastcontact"], "{from} {to}");
    }
}

#[test]
fn an_index_of_events_is_an_id_and_a_header_that_varies_is_not_looked_at() {
    let (from, to) = ("X-Consul-Index: 9\nX-Two: 1\n", "X-Consul-Index: 18\nX-Two: 2\n");
    assert_eq!(differs("curl -i /v1/event/list", &[], from, to), ["header X-Two"]);
    let (from, to) = ("X-Consul-Index: 0\n", "X-Consul-Index: 5\n");
    assert_eq!(differs("curl -i x", &[], from, to), ["header X-Consul-Index"]);
    assert_eq!(differs("curl -i x", &["X-Consul-Index: "], from, to), [""; 0]);
}

#[test]
fn numbers_may_vary_where_that_is_said_and_nothing_else() {
    let (from, to) = ("\n[{\"Vec\":[-1.5e-7,0]}]", "\n[{\"Vec\":[0.25,-3]}]");
    assert_eq!(differs("curl -i x", &[], from, to), ["body"]);
    assert_eq!(differs("curl -i x", &[VARIABLE_NUMBERS], from, to), [""; 0]);
    let fewer = "\n[{\"Vec\":[0.25]}]";
    assert_eq!(differs("curl -i x", &[VARIABLE_NUMBERS], from, fewer), ["body"]);
}

#[test]
fn members_may_come_in_any_order_but_not_others_than_were_recorded() {
    let command = "curl -i http://127.0.0.1:1/v1/agent/members";
    let recorded = "\n[{\"Name\":\"a\",\"Status\":1},{\"Name\":\"b\",\"Status\":4}]";
    let turned = "\n[{\"Name\":\"b\",\"Status\":4},{\"Name\":\"a\",\"Status\":1}]";
    assert_eq!(differs(command, &[], recorded, turned), [""; 0]);
    assert_eq!(differs("curl -i x", &[], recorded, turned), ["body"]);
    let swapped = "\n[{\"Name\":\"b\",\"Status\":1},{\"Name\":\"a\",\"Status\":4}]";
    assert_eq!(differs(command, &[], recorded, swapped), ["Status/a", "Status/b"]);
}
