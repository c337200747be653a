//! The recorded contract, against our agent, and against a real Consul: the same comparison holds there, so what it
//! finds in ours is ours.

use conformance::{
    agent::{Kind, alone},
    peers,
    recorded::run::{Report, Verdict, run},
};

fn expect_no_failure(report: &Report) {
    let count =
        |wanted: fn(&Verdict) -> bool| report.steps.iter().filter(|(_, v)| wanted(v)).count();
    println!(
        "{} steps: {} hold, {} pending, {} don't hold",
        report.steps.len(),
        count(|v| *v == Verdict::Holds),
        count(|v| *v == Verdict::Pending),
        count(|v| matches!(v, Verdict::Fails(_) | Verdict::Passes)),
    );
    assert!(report.failures.is_empty(), "\n{}", report.failures.join("\n"));
}

#[test]
fn our_agent_answers_as_recorded() {
    let _alone = alone();
    expect_no_failure(&run(Kind::Proconsul).unwrap());
}

#[test]
fn a_real_consul_answers_as_recorded() {
    if peers::find("consul").is_none() {
        assert!(!peers::required(), "consul must be there: run conformance/peers/get target/peers");
        eprintln!("left out: no consul (conformance/peers/get target/peers fetches it)");
        return;
    }
    let _alone = alone();
    expect_no_failure(&run(Kind::Consul).unwrap());
}
