//! What a step costs. Not a test: `cargo test --release -p rbuild-sandbox --test steps -- --ignored --nocapture cost`.

use std::time::{Duration, Instant};

use rbuild_sandbox::{Cancel, Exit};

use crate::support::each;

#[test]
#[ignore = "a measurement"]
fn cost_of_a_step_that_does_nothing() {
    const STEPS: usize = 200;
    each(|lab| {
        let mut durations: Vec<Duration> = (0..STEPS)
            .map(|_| {
                let spec = lab.spec(&["/bin/true"]);
                let start = Instant::now();
                let result = lab.sandbox.run(&spec, &mut |_, _| {}, &Cancel::new());
                let duration = start.elapsed();
                assert!(matches!(result, Ok(Exit::Code(0))), "{result:?}");
                duration
            })
            .collect();
        durations.sort();
        eprintln!("{}: minimum {:?}, median {:?}", lab.name(), durations[0], durations[STEPS / 2]);
    });
}
