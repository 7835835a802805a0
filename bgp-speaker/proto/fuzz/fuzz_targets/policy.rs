//! A random policy and random routes: the compiled form gives the same as a plain reading of it.
#![no_main]

#[path = "../../tests/common/policies.rs"]
mod policies;

use libfuzzer_sys::fuzz_target;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

fuzz_target!(|data: &[u8]| {
    // The input takes the place of random numbers.
    let rng = TestRng::from_seed(RngAlgorithm::PassThrough, data);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let Ok(case) = (policies::policy(), policies::routes()).new_tree(&mut runner) else { return };
    let (policy, routes) = case.current();
    policies::compare(&policy, &routes);
});
