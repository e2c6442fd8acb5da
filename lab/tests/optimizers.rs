//! Update rules against values computed by hand from their definitions.
#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::sync::Arc;

use plateau_common::config::{AdamConfig, OptimizerConfig, SgdConfig};
use plateau_lab::cpu::{Arena, Executor, Feed, Team};
use plateau_lab::model::{Initial, ParameterSpecification};
use plateau_lab::ops::embedding::{Positional, RowPositions};
use plateau_lab::ops::objective::Answers;
use plateau_lab::optimizer::ReplicaRule;
use plateau_lab::program::{Extent, Graph, Program, Rows, Source};

/// A model whose output is its only parameter, p.
fn program() -> Arc<Program> {
    let p =
        ParameterSpecification { name: "p".to_owned(), shape: vec![1, 1], initial: Initial::Constant(0.0) };
    let mut graph = Graph::new(vec![p]);
    let single = Extent { rows: Rows::PerExample(1), width: 1 };
    let ids = graph.slot(Source::Tokens, single);
    let output = graph.embedding(0, ids, Positional::None, RowPositions::Known(Vec::new())).unwrap();
    let answers = graph.slot(Source::Values, single);
    graph.objective(output, Answers::Values(answers), None).unwrap();
    Arc::new(graph.finish(output, 1, false).unwrap())
}

/// Two replicas of one parameter p, with loss p squared, so the gradient is 2 p.
fn run(rules: [ReplicaRule; 2], start: f64, updates: u64, multiplier: f64) -> Vec<f64> {
    let (program, team) = (program(), Team::new(1));
    let mut feed = Feed::empty(program.slots.len());
    (feed.examples, feed.loss_scale) = (1, 1.0);
    feed.ids_mut(0).push(0);
    feed.numbers_mut(1).push(0.0);
    let mut executor = Executor::<f64>::new(program, 1);
    let trained = rules.iter().map(|rule| {
        let mut arena = Arena::new(&[start], &[], f64::NAN);
        for update in 1..=updates {
            let p = arena.parameters()[0];
            let loss = executor.differentiate(&team, arena.parameters(), &feed);
            assert_eq!(loss, p * p);
            let norm = executor.apply(&team, &mut arena, (rule, update, multiplier), true);
            assert_eq!((norm, arena.last_norm()), (2.0 * p.abs(), 2.0 * p.abs()));
        }
        arena.parameters()[0]
    });
    trained.collect()
}

fn adam(lr: f64, weight_decay: f64) -> AdamConfig {
    AdamConfig { lr, beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay, decay_biases_and_norms: true }
}

fn close(found: &[f64], expected: [f64; 2]) {
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() < 1e-7, "{found} is not {expected}");
    }
}

#[test]
fn the_first_step_of_adam_is_the_learning_rate_whatever_the_gradient() {
    let rule = |lr| ReplicaRule { optimizer: OptimizerConfig::Adam(adam(lr, 0.0)), clip: None };
    close(&run([rule(0.1), rule(0.01)], 3.0, 1, 1.0), [2.9, 2.99]);
    close(&run([rule(0.1), rule(0.01)], 3.0, 1, 0.5), [2.95, 2.995]);
}

#[test]
fn decoupled_decay_shrinks_the_weight_and_coupled_decay_joins_the_gradient() {
    let decoupled = |decay| ReplicaRule { optimizer: OptimizerConfig::AdamW(adam(0.1, decay)), clip: None };
    // 3 (1 - 0.1 decay) - 0.1
    close(&run([decoupled(0.0), decoupled(1.0)], 3.0, 1, 1.0), [2.9, 2.6]);
    // Adam normalises its first step, so coupled decay does not change it.
    let coupled = |decay| ReplicaRule { optimizer: OptimizerConfig::Adam(adam(0.1, decay)), clip: None };
    close(&run([coupled(0.0), coupled(1.0)], 3.0, 1, 1.0), [2.9, 2.9]);
}

#[test]
fn two_steps_of_adam_by_hand() {
    let rule = ReplicaRule { optimizer: OptimizerConfig::Adam(adam(0.1, 0.0)), clip: None };
    let (first, second) = (2.0 * 1.0, 2.0 * 0.9);
    let m = (0.9 * 0.1 * first + 0.1 * second) / (1.0 - 0.81);
    let v: f64 = (0.99 * 0.01 * first * first + 0.01 * second * second) / (1.0 - 0.9801);
    close(&run([rule.clone(), rule], 1.0, 2, 1.0), [0.9 - 0.1 * m / v.sqrt(); 2]);
}

#[test]
fn descent_with_momentum_and_decay_by_hand() {
    let rule = |momentum, weight_decay| ReplicaRule {
        optimizer: OptimizerConfig::Sgd(SgdConfig {
            lr: 0.1,
            momentum,
            weight_decay,
            decay_biases_and_norms: true,
        }),
        clip: None,
    };
    // Gradient (2 + decay) p. Step 1: 1 - 0.1 g1. Step 2: v = 0.5 g1 + g2.
    let expected = |decay: f64| {
        let g1 = 2.0 + decay;
        let p1 = 1.0 - 0.1 * g1;
        p1 - 0.1 * (0.5 * g1 + (2.0 + decay) * p1)
    };
    close(&run([rule(0.5, 0.0), rule(0.5, 1.0)], 1.0, 2, 1.0), [expected(0.0), expected(1.0)]);
}

#[test]
fn clipping_scales_large_gradients_only() {
    let rule = |clip| ReplicaRule {
        optimizer: OptimizerConfig::Sgd(SgdConfig {
            lr: 0.1,
            momentum: 0.0,
            weight_decay: 0.0,
            decay_biases_and_norms: true,
        }),
        clip: Some(clip),
    };
    // Gradient 6: clipped to 1.5 (as PyTorch: 1.5 / (6 + 1e-6)), or left.
    close(&run([rule(1.5), rule(7.0)], 3.0, 1, 1.0), [3.0 - 0.15, 3.0 - 0.6]);
}

/// An update that is not finite leaves everything as it was.
#[test]
fn an_update_that_is_not_finite_is_not_made() {
    let (program, team) = (program(), Team::new(1));
    let mut feed = Feed::empty(program.slots.len());
    (feed.examples, feed.loss_scale) = (1, 1.0);
    feed.ids_mut(0).push(0);
    feed.numbers_mut(1).push(f64::INFINITY);
    let mut executor = Executor::<f64>::new(program, 1);
    let mut arena = Arena::new(&[3.0], &[vec![0.5], vec![0.25]], 7.0);
    let rule = ReplicaRule { optimizer: OptimizerConfig::Adam(adam(0.1, 0.0)), clip: None };
    let loss = executor.differentiate(&team, arena.parameters(), &feed);
    let norm = executor.apply(&team, &mut arena, (&rule, 1, 1.0), loss.is_finite());
    assert!(!loss.is_finite() && !norm.is_finite());
    assert_eq!((arena.parameters(), arena.last_norm()), (&[3.0][..], 7.0));
    assert_eq!(arena.moments(), [&[0.5][..], &[0.25][..]]);
}
