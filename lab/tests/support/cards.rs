//! Holds recorded operations on a card against the same on a processor, where there is a card.

use std::sync::{Arc, OnceLock};

use plateau_common::config::{OptimizerConfig, SgdConfig};
use plateau_lab::cpu::{self, Feed, Team};
use plateau_lab::cuda::{CudaDevice, Executor, MatrixMode};
use plateau_lab::program::Program;

use super::{Case, narrow, relative};

/// The first card, if there is one; says once why not.
pub fn card() -> Option<&'static CudaDevice> {
    static CARD: OnceLock<Option<CudaDevice>> = OnceLock::new();
    CARD.get_or_init(|| match CudaDevice::open(0) {
        Ok(device) => {
            eprintln!("checked on {}", device.describe());
            Some(device)
        }
        Err(error) => {
            eprintln!("not checked on a card: {error}");
            None
        }
    })
    .as_ref()
}

/// Gradient descent without momentum or decay.
pub fn plain_descent() -> OptimizerConfig {
    OptimizerConfig::Sgd(SgdConfig {
        lr: 0.1,
        momentum: 0.0,
        weight_decay: 0.0,
        decay_biases_and_norms: true,
    })
}

/// Losses and gradients of three replicas with parameters of their own.
pub fn check(name: &str, program: &Arc<Program>, feed: &Feed<f64>, parameters: &[f64]) {
    let Some(device) = card() else { return };
    let rule = plain_descent();
    let replicas: Vec<Vec<f64>> =
        [1.0, 0.7, -1.1].map(|factor| parameters.iter().map(|number| number * factor).collect()).to_vec();
    let mut executor =
        Executor::new(device, program.clone(), 3, feed.examples + 1, &rule, MatrixMode::F32).unwrap();
    let small = |numbers: &[f64]| numbers.iter().map(|number| *number as f32).collect::<Vec<f32>>();
    for (replica, parameters) in replicas.iter().enumerate() {
        executor.set_parameters(replica, &small(parameters)).unwrap();
        assert_eq!(executor.parameters(replica).unwrap(), small(parameters), "{name}: parameters come back");
    }
    let feeds = vec![narrow(feed); 3];
    let losses = executor.differentiate(&feeds).unwrap();
    let mut processor = cpu::Executor::<f64>::new(program.clone(), 1);
    let mut rounded_processor = cpu::Executor::<f32>::new(program.clone(), 1);
    for (replica, parameters) in replicas.iter().enumerate() {
        // Rounded to 32 bits, as the card has them.
        let rounded: Vec<f64> = small(parameters).iter().map(|number| f64::from(*number)).collect();
        let loss = processor.differentiate(&Team::new(1), &rounded, feed);
        let error = (losses[replica] - loss).abs() / loss.abs().max(1.0);
        assert!(
            error < 1e-5,
            "{name}: the card's loss of replica {replica} is {}, not {loss}",
            losses[replica]
        );
        let found: Vec<f64> =
            executor.gradients(replica).unwrap().iter().map(|number| f64::from(*number)).collect();
        // Of a loss that has vanished the gradients are rounding errors of saturated logits.
        if loss < 1e-6 {
            continue;
        }
        let error = relative(&found, processor.gradients());
        // Where 32 bits are few for a case, they are for a processor too.
        rounded_processor.differentiate(&Team::new(1), &small(parameters), &narrow(feed));
        let gradients: Vec<f64> =
            rounded_processor.gradients().iter().map(|number| f64::from(*number)).collect();
        let usual = relative(&gradients, processor.gradients());
        assert!(
            error < f64::max(2e-5, 10.0 * usual),
            "{name}: the card's gradients of replica {replica} are off by {error:e}, a processor's by {usual:e}"
        );
    }
    let first: Vec<Vec<f32>> = (0..3).map(|replica| executor.gradients(replica).unwrap()).collect();
    assert_eq!(executor.differentiate(&feeds).unwrap(), losses, "{name}: losses once more");
    for (replica, first) in first.iter().enumerate() {
        assert_eq!(executor.gradients(replica).unwrap(), *first, "{name}: gradients once more");
    }
}

/// The same for a case, in micro-batches and at once.
pub fn check_case(name: &str, case: &Case<'_>) {
    let stream = &mut plateau_common::random::StreamFamily::new(11, name).at(0);
    for micro_batch in [2, case.examples] {
        let program = case.program(micro_batch);
        let feed = case.feed(&program, stream);
        let parameters: Vec<f64> =
            (0..program.layout.count()).map(|_| case.deviation * stream.normal()).collect();
        check(name, &program, &feed, &parameters);
    }
}
