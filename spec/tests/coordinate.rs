//! Coordinates as properties: finite and bounded whatever is heard, and useful among the honest.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use spec::{
    entropy::{Entropy, Seeded},
    serf::coordinate::{
        BadSample, Coordinate, DIMENSIONS, ERROR_MAX, EXTENT, HEIGHT_MIN, RTT_MAX, Vivaldi,
    },
};

fn hostile(random: &mut Seeded) -> f64 {
    match random.choose(8) {
        0 => f64::MAX,
        1 => f64::MIN,
        2 => f64::INFINITY,
        3 => f64::NAN,
        4 => f64::MIN_POSITIVE,
        5 => -1.0e-300,
        6 => f64::from_bits(random.next_u64()),
        _ => f64::from(u32::try_from(random.choose(20_000)).unwrap()) / 1.0e3 - 10.0,
    }
}

#[test]
fn coordinates_stay_finite_whatever_is_heard() {
    let mut random = Seeded::new(7);
    let mut vivaldi = Vivaldi::default();
    let (mut taken, mut refused) = (0_u32, 0_u32);
    for n in 0..1_000_000 {
        let honest = random.choose(2) == 0;
        let draw = |random: &mut Seeded| {
            if honest {
                f64::from(u32::try_from(random.choose(1_000)).unwrap()) / 1.0e4
            } else {
                hostile(random)
            }
        };
        let other = Coordinate {
            vec: [(); DIMENSIONS].map(|()| draw(&mut random)),
            error: draw(&mut random),
            adjustment: draw(&mut random),
            height: draw(&mut random),
        };
        let micros =
            if random.choose(10) == 0 { random.next_u64() } else { random.next_u64() % 12_000_000 };
        let before = vivaldi.coordinate().clone();
        let name = format!("n{}", n % 5).into();
        match vivaldi.update(&name, &other, micros, &mut random) {
            Err(BadSample::NotFinite) => assert!(!other.is_finite()),
            Err(BadSample::RoundTrip) => assert!(micros > 10_000_000),
            Ok(_) => taken += 1,
        }
        let after = vivaldi.coordinate();
        refused += u32::from(*after == before);
        assert!(after.is_finite());
        assert!(after.vec.iter().all(|component| component.abs() <= EXTENT));
        assert!((0.0..=ERROR_MAX).contains(&after.error));
        assert!((HEIGHT_MIN..=EXTENT).contains(&after.height));
        assert!(after.adjustment.abs() <= RTT_MAX);
        let moved: f64 = after.vec.iter().zip(&before.vec).map(|(a, b)| (a - b) * (a - b)).sum();
        // A quarter of the longest round trip, and what gravity may pull from the farthest corner.
        assert!(moved.sqrt() <= RTT_MAX / 4.0 + 5.0, "{moved}");
    }
    assert!(taken > 100_000 && refused > 10_000, "{taken} {refused}");
    assert_eq!(vivaldi.resets(), 0);
}

#[test]
fn coordinates_of_honest_members_predict_their_round_trips() {
    // Members on a line, a millisecond apart, each with a link of half a millisecond.
    let mut random = Seeded::new(11);
    let mut all: Vec<Vivaldi> = (0..8).map(|_| Vivaldi::default()).collect();
    let rtt = |a: usize, b: usize| u64::try_from(a.abs_diff(b)).unwrap() * 1_000 + 1_000;
    for _ in 0..2_000 {
        for a in 0..all.len() {
            let b = random.choose(all.len());
            if a != b {
                let other = all[b].coordinate().clone();
                let name = format!("n{b}").into();
                all[a].update(&name, &other, rtt(a, b), &mut random).unwrap();
            }
        }
    }
    let mut wrong: Vec<f64> = Vec::new();
    for a in 0..all.len() {
        for b in (0..all.len()).filter(|b| *b != a) {
            let predicted = all[a].coordinate().distance(all[b].coordinate());
            let real = f64::from(u32::try_from(rtt(a, b)).unwrap()) / 1.0e6;
            wrong.push((predicted - real).abs() / real);
        }
    }
    wrong.sort_by(f64::total_cmp);
    assert!(wrong[wrong.len() / 2] < 0.2, "median relative error {}", wrong[wrong.len() / 2]);
}
