//! Cards against processors: attention in every form, whole updates, divergence, graphs. Without a card nothing is checked,
//! and standard error says so.
#![cfg(feature = "cuda")]
#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

#[path = "support/programs.rs"]
mod programs;

use std::sync::Arc;

use plateau_common::config::{AdamConfig, OptimizerConfig, SgdConfig};
use plateau_lab::cpu::{self, Feed, MicroBatch, SlotData, Team};
use plateau_lab::cuda::{CudaDevice, Executor, MatrixMode, Moment, PassPlace};
use plateau_lab::ops::attention::AttentionPlan;
use plateau_lab::ops::embedding::{Positional, RowPositions};
use plateau_lab::ops::fire::FireParameters;
use plateau_lab::ops::linear::WeightLayout;
use plateau_lab::ops::rows::RowMap;
use plateau_lab::optimizer::Stretch;
use plateau_lab::program::{Extent, Graph, Program, Rows, Source, Value};
use programs::cards::{card, check_case, plain_descent};
use programs::{Case, relative, single};

/// Parameters of one block's attention on embeddings of `width`.
fn parameters(width: usize) -> [(&'static str, [usize; 2]); 6] {
    [
        ("tokens", [6, width]),
        ("query", [width, width]),
        ("key", [width, width]),
        ("value", [width, width]),
        ("output", [width, width]),
        ("read-out", [width, 5]),
    ]
}

fn check_attention(name: &str, width: usize, record: &dyn Fn(&mut Graph) -> candle_core::Result<Value>) {
    let shapes = parameters(width);
    let shapes: Vec<(&str, &[usize])> = shapes.iter().map(|(name, shape)| (*name, &shape[..])).collect();
    let deviation = 1.2 / (width as f64).sqrt();
    check_case(name, &Case { parameters: &shapes, examples: 5, ids_below: 6, deviation, record });
}

/// q, k and v of `x`.
fn maps(graph: &mut Graph, x: Value) -> candle_core::Result<[Value; 3]> {
    let mut map = |parameter| graph.linear(x, parameter, None, WeightLayout::InOut);
    Ok([map(1)?, map(2)?, map(3)?])
}

#[test]
fn attention_of_all_positions() {
    // Heads of 3, 4, 16, 40 and 64 coordinates; more and fewer positions than a panel has.
    for (width, heads, length, causal) in
        [(6, 2, 3, true), (8, 2, 9, false), (32, 2, 12, true), (40, 1, 5, false), (64, 1, 33, true)]
    {
        check_attention("all", width, &|graph| {
            let ids = graph.slot(Source::Tokens, single(length));
            let x = graph.embedding(0, ids, Positional::None, RowPositions::Known(Vec::new()))?;
            let [q, k, v] = maps(graph, x)?;
            let plan = AttentionPlan {
                heads,
                queries: length,
                keys: length,
                query_rows: RowMap::Own,
                key_rows: RowMap::Own,
                causal,
                ragged: None,
                key_bias: None,
                dropout: None,
                logit_bias: None,
            };
            let mixed = graph.attention(q, k, v, plan)?;
            let branch = graph.linear(mixed, 4, None, WeightLayout::InOut)?;
            let states = graph.add(x, branch)?;
            graph.linear(states, 5, None, WeightLayout::InOut)
        });
    }
}

#[test]
fn attention_with_rotary_positions_biases_and_dropout() {
    for (heads, length) in [(2, 4), (1, 11)] {
        check_attention("everything", 8, &|graph| {
            let ids = graph.slot(Source::Tokens, single(length));
            let x = graph.embedding(0, ids, Positional::None, RowPositions::Known(Vec::new()))?;
            let [q, k, v] = maps(graph, x)?;
            let positions: Vec<u32> = (0..length as u32).collect();
            let (q, k) = (
                graph.rotary(q, heads, 10_000.0, &positions)?,
                graph.rotary(k, heads, 10_000.0, &positions)?,
            );
            let extent = |rows: usize, width: usize| Extent { rows: Rows::PerExample(rows), width };
            let key_bias = Some(graph.slot(Source::LogCounts, extent(length, 1)));
            let dropout = Some(graph.slot(Source::Dropout, extent(length * heads, length)));
            let plan = AttentionPlan {
                heads,
                queries: length,
                keys: length,
                query_rows: RowMap::Own,
                key_rows: RowMap::Own,
                causal: false,
                ragged: None,
                key_bias,
                dropout,
                logit_bias: None,
            };
            let mixed = graph.attention(q, k, v, plan)?;
            let mixed = graph.linear(mixed, 4, None, WeightLayout::InOut)?;
            graph.linear(mixed, 5, None, WeightLayout::InOut)
        });
    }
}

#[test]
fn the_last_position_asks_rows_that_examples_share() {
    let (length, heads) = (7, 2);
    check_attention("shared", 8, &|graph| {
        let all = graph.constant_ids("all tokens", 1, (0..6).collect());
        let table = graph.embedding(0, all, Positional::None, RowPositions::Known(Vec::new()))?;
        let keys = graph.slot(Source::Tokens, single(length));
        let last = graph.slot(Source::LastToken, single(1));
        let [q, k, v] = maps(graph, table)?;
        let plan = AttentionPlan {
            heads,
            queries: 1,
            keys: length,
            query_rows: RowMap::Table(last),
            key_rows: RowMap::Table(keys),
            causal: true,
            ragged: None,
            key_bias: None,
            dropout: None,
            logit_bias: None,
        };
        let mixed = graph.attention(q, k, v, plan)?;
        let branch = graph.linear(mixed, 4, None, WeightLayout::InOut)?;
        let states = graph.select(table, RowMap::Table(last), 1)?;
        let states = graph.add(states, branch)?;
        graph.linear(states, 5, None, WeightLayout::InOut)
    });
    check_attention("types", 8, &|graph| {
        let all = graph.constant_ids("all tokens", 1, (0..6).collect());
        let table = graph.embedding(0, all, Positional::None, RowPositions::Known(Vec::new()))?;
        let [q, k, v] = maps(graph, table)?;
        let key_bias = Some(graph.slot(Source::LogCounts, Extent { rows: Rows::PerExample(6), width: 1 }));
        let last = graph.slot(Source::LastToken, single(1));
        let every = AttentionPlan {
            heads,
            queries: 6,
            keys: 6,
            query_rows: RowMap::InOrder,
            key_rows: RowMap::InOrder,
            causal: false,
            ragged: None,
            key_bias,
            dropout: None,
            logit_bias: None,
        };
        let first = graph.attention(q, k, v, every)?;
        let [q, k, v] = maps(graph, first)?;
        let chosen =
            AttentionPlan { queries: 1, query_rows: RowMap::OwnChosen(last), key_rows: RowMap::Own, ..every };
        let second = graph.attention(q, k, v, chosen)?;
        graph.linear(second, 5, None, WeightLayout::InOut)
    });
}

/// FIRE at positions that are drawn, a constant bias on top of it, and learned positions of the same numbering: in micro-batches,
/// with more examples than one segment of logits' gradients has, and at the last position only.
#[test]
fn biases_of_logits_that_all_examples_share() {
    for (heads, length, queries, examples) in [(2, 4, 4, 5), (1, 3, 3, 40), (2, 9, 1, 5), (3, 11, 11, 4)] {
        let width = 4 * heads;
        let shapes = parameters(width);
        let (map, table, bias) = ([2, heads], [40, width], [heads]);
        let own: [(&str, &[usize]); 7] = [
            ("positions", &table),
            ("scale", &[1]),
            ("multiplier", &[1]),
            ("hidden", &[1, 2]),
            ("hidden bias", &[2]),
            ("bias map", &map),
            ("bias of biases", &bias),
        ];
        let mut all: Vec<(&str, &[usize])> = shapes.iter().map(|(name, shape)| (*name, &shape[..])).collect();
        all.extend(own);
        let record = |graph: &mut Graph| {
            let ids = graph.slot(Source::Tokens, single(length));
            let extent = Extent { rows: Rows::Fixed(length), width: 1 };
            let numbering = graph.slot(Source::Numbering { positions: 40 }, extent);
            let x = graph.embedding(0, ids, Positional::Learned(6), RowPositions::Slot(numbering))?;
            let [q, k, v] = maps(graph, x)?;
            let fire = FireParameters { scale: 7, multiplier: 8, hidden: [9, 10], output: [11, 12] };
            let fire = graph.fire(fire, 3.5, numbering)?;
            let numbers = (0..heads * length * length).map(|at| (at as f64).sin()).collect();
            let slot = graph.constant_numbers("bias", length, numbers);
            let constant = graph.constant(slot)?;
            let logit_bias = Some(graph.add(fire, constant)?);
            let plan = AttentionPlan {
                heads,
                queries,
                keys: length,
                query_rows: if queries == 1 { RowMap::Last } else { RowMap::Own },
                key_rows: RowMap::Own,
                causal: true,
                ragged: None,
                key_bias: None,
                dropout: None,
                logit_bias,
            };
            let mixed = graph.attention(q, k, v, plan)?;
            let mixed = graph.linear(mixed, 4, None, WeightLayout::InOut)?;
            graph.linear(mixed, 5, None, WeightLayout::InOut)
        };
        let name = format!("{heads} heads, {queries} of {length}");
        let case = Case { parameters: &all, examples, ids_below: 6, deviation: 0.6, record: &record };
        check_case(&name, &case);
    }
}

/// A model whose branch gradients go through, or not.
fn branched(detached: bool) -> (Arc<Program>, Feed<f64>) {
    let (length, width) = (3, 8);
    let shapes = parameters(width);
    let shapes: Vec<(&str, &[usize])> = shapes.iter().map(|(name, shape)| (*name, &shape[..])).collect();
    let record = |graph: &mut Graph| {
        let ids = graph.slot(Source::Tokens, single(length));
        let branch = |graph: &mut Graph| {
            let x = graph.embedding(0, ids, Positional::None, RowPositions::Known(Vec::new()))?;
            let hidden = graph.linear(x, 1, None, WeightLayout::InOut)?;
            let hidden = graph.relu(hidden);
            graph.linear(hidden, 2, None, WeightLayout::InOut)
        };
        let branch = if detached { graph.detached(branch)? } else { branch(graph)? };
        let x = graph.linear(branch, 3, None, WeightLayout::InOut)?;
        let x = graph.linear(x, 4, None, WeightLayout::InOut)?;
        graph.linear(x, 5, None, WeightLayout::InOut)
    };
    let case = Case { parameters: &shapes, examples: 5, ids_below: 6, deviation: 0.5, record: &record };
    // Micro-batches of two and one.
    let program = case.program(2);
    let stream = &mut plateau_common::random::StreamFamily::new(5, "branched").at(u64::from(detached));
    let mut feed = case.feed(&program, stream);
    feed.loss_scale *= if detached { 0.3 } else { 0.7 };
    (program, feed)
}

#[test]
fn passes_of_an_update_add_up() {
    let Some(device) = card() else { return };
    let ((whole, whole_feed), (cut, cut_feed)) = (branched(false), branched(true));
    assert!(!cut.unreached.is_empty(), "gradients reach everything");
    let rule = OptimizerConfig::Sgd(SgdConfig {
        lr: 0.5,
        momentum: 0.0,
        weight_decay: 0.0,
        decay_biases_and_norms: true,
    });
    let stream = &mut plateau_common::random::StreamFamily::new(6, "passes").at(0);
    let parameters: Vec<Vec<f64>> = (0..2)
        .map(|_| (0..whole.layout.count()).map(|_| f64::from((0.5 * stream.normal()) as f32)).collect())
        .collect();
    let feeds = |feed: &Feed<f64>| vec![programs::narrow(feed); 2];
    // In any order, and one program twice: the first pass begins gradients anew, whatever it reaches.
    for order in [[0, 1], [1, 0], [1, 1]] {
        let both = [(&whole, &whole_feed), (&cut, &cut_feed)];
        let mut executor = executor(device, &whole, &parameters, &rule, None);
        assert_eq!(executor.load(cut.clone(), 6).unwrap(), 1);
        for (number, program) in order.into_iter().enumerate() {
            let place = PassPlace { program, number, is_last: false };
            executor.differentiate_pass(place, &feeds(both[program].1)).unwrap();
        }
        let mut processor = cpu::Executor::<f64>::new(whole.clone(), 1);
        processor.load(cut.clone());
        let (team, mut expected) = (Team::new(1), Vec::new());
        for parameters in &parameters {
            processor.turn_to(order[0]);
            let mut loss = processor.differentiate(&team, parameters, both[order[0]].1);
            processor.turn_to(order[1]);
            loss += processor.differentiate_further(&team, parameters, both[order[1]].1);
            expected.push((loss, processor.gradients().to_vec()));
        }
        for (replica, (_, gradients)) in expected.iter().enumerate() {
            let error = relative(&wide(&executor.gradients(replica).unwrap()), gradients);
            assert!(error < 1e-5, "{order:?}: gradients of replica {replica} are off by {error:e}");
        }
        // As updates, one by one and as graphs.
        for update in 1..=3 {
            for (replica, parameters) in parameters.iter().enumerate() {
                let small: Vec<f32> = parameters.iter().map(|number| *number as f32).collect();
                executor.set_parameters(replica, &small).unwrap();
            }
            for (number, program) in order.into_iter().enumerate() {
                let place = PassPlace { program, number, is_last: number == 1 };
                executor.pass((update, 1.0), place, &feeds(both[program].1), false).unwrap();
            }
            let outcomes = executor.outcomes().unwrap();
            for (replica, (loss, gradients)) in expected.iter().enumerate() {
                let found = outcomes[replica].loss;
                assert!(
                    (found - loss).abs() < 1e-5 * loss,
                    "{order:?}: update {update}: {found}, not {loss}"
                );
                let moved: Vec<f64> = wide(&executor.parameters(replica).unwrap())
                    .iter()
                    .zip(&parameters[replica])
                    .map(|(after, before)| (before - after) / 0.5)
                    .collect();
                let error = relative(&moved, gradients);
                assert!(error < 1e-4, "{order:?}: update {update} of replica {replica} is off by {error:e}");
            }
        }
    }
}

#[test]
fn batches_of_other_sizes_and_programs_of_other_lengths_take_turns() {
    let Some(device) = card() else { return };
    let rule = plain_descent();
    let (program, feeds, parameters) = model(2);
    let small: Vec<Feed<f32>> = feeds.iter().map(programs::narrow).collect();
    // A slot is fed as many examples as there are of it.
    let few = |feed: &Feed<f32>| {
        let slots = feed.slots.iter().zip(&program.slots).map(|(data, slot)| match data {
            SlotData::Constant => SlotData::Constant,
            SlotData::Ids(ids) => SlotData::Ids(ids[..slot.extent.count(4)].to_vec()),
            SlotData::Numbers(numbers) => SlotData::Numbers(numbers[..slot.extent.count(4)].to_vec()),
        });
        Feed { examples: 4, slots: slots.collect(), loss_scale: feed.loss_scale, ..Feed::empty(0) }
    };
    let few: Vec<Feed<f32>> = small.iter().map(few).collect();
    let mut alone = executor(device, &program, &parameters, &rule, None);
    let expected = [alone.differentiate(&small).unwrap(), alone.differentiate(&few).unwrap()];
    assert_ne!(expected[0], expected[1]);
    let mut executor = executor(device, &program, &parameters, &rule, None);
    for round in 0..2 {
        assert_eq!(executor.differentiate(&small).unwrap(), expected[0]);
        assert_eq!(executor.differentiate(&few).unwrap(), expected[1]);
        // A larger program takes other memory in between.
        let larger = model_of(2, 12 + 4 * round).0;
        assert!(larger.workspace > program.workspace);
        executor.load(larger, 7 + round).unwrap();
    }
}

/// A small model with its feeds, for updates.
fn model(replicas: usize) -> (Arc<Program>, Vec<Feed<f64>>, Vec<Vec<f64>>) {
    model_of(replicas, 4)
}

/// The same for sequences of `length` tokens.
fn model_of(replicas: usize, length: usize) -> (Arc<Program>, Vec<Feed<f64>>, Vec<Vec<f64>>) {
    let heads = 2;
    let shapes = parameters(8);
    let shapes: Vec<(&str, &[usize])> = shapes.iter().map(|(name, shape)| (*name, &shape[..])).collect();
    let case = Case {
        parameters: &shapes,
        examples: 6,
        ids_below: 6,
        deviation: 0.5,
        record: &|graph| {
            let ids = graph.slot(Source::Tokens, single(length));
            let x = graph.embedding(0, ids, Positional::None, RowPositions::Known(Vec::new()))?;
            let [q, k, v] = maps(graph, x)?;
            let plan = AttentionPlan {
                heads,
                queries: length,
                keys: length,
                query_rows: RowMap::Own,
                key_rows: RowMap::Own,
                causal: true,
                ragged: None,
                key_bias: None,
                dropout: None,
                logit_bias: None,
            };
            let mixed = graph.attention(q, k, v, plan)?;
            let branch = graph.linear(mixed, 4, None, WeightLayout::InOut)?;
            let branch = graph.relu(branch);
            let states = graph.add(x, branch)?;
            graph.linear(states, 5, None, WeightLayout::InOut)
        },
    };
    let program = case.program(case.examples);
    let stream = &mut plateau_common::random::StreamFamily::new(3, "model").at(0);
    let feeds = (0..replicas).map(|_| case.feed(&program, stream)).collect();
    let draw = |stream: &mut plateau_common::random::Stream| 0.5 * stream.normal();
    let replica = |stream: &mut plateau_common::random::Stream| {
        (0..program.layout.count()).map(|_| f64::from(draw(stream) as f32)).collect()
    };
    let parameters = (0..replicas).map(|_| replica(stream)).collect();
    (program, feeds, parameters)
}

fn executor(
    device: &CudaDevice,
    program: &Arc<Program>,
    parameters: &[Vec<f64>],
    rule: &OptimizerConfig,
    clip: Option<f64>,
) -> Executor {
    let mut executor =
        Executor::new(device, program.clone(), parameters.len(), 6, rule, MatrixMode::F32).unwrap();
    for (replica, parameters) in parameters.iter().enumerate() {
        let small: Vec<f32> = parameters.iter().map(|number| *number as f32).collect();
        executor.set_parameters(replica, &small).unwrap();
        executor.set_rule(replica, rule, clip).unwrap();
    }
    executor
}

fn wide(numbers: &[f32]) -> Vec<f64> {
    numbers.iter().map(|number| f64::from(*number)).collect()
}

/// One replica's updates in 64 bits, by the definitions: parameters, first and second moments, last loss and norm.
fn by_definition(
    program: &Arc<Program>,
    feed: &Feed<f64>,
    mut parameters: Vec<f64>,
    rule: &OptimizerConfig,
    (clip, decays): (f64, &[bool]),
    updates: i32,
) -> (Vec<f64>, [Vec<f64>; 2], f64, f64) {
    let mut processor = cpu::Executor::<f64>::new(program.clone(), 1);
    let mut moments = [vec![0.0; parameters.len()], vec![0.0; parameters.len()]];
    let (mut loss, mut norm) = (0.0, 0.0);
    for update in 1..=updates {
        loss = processor.differentiate(&Team::new(1), &parameters, feed);
        norm = processor.gradients().iter().map(|slope| slope * slope).sum::<f64>().sqrt();
        let share = (clip / (norm + 1e-6)).min(1.0);
        let multiplier = 1.0 / f64::from(update);
        for (at, slope) in processor.gradients().iter().enumerate() {
            let mut slope = slope * share;
            let (lr, decay) = (rule.lr() * multiplier, if decays[at] { rule.weight_decay() } else { 0.0 });
            match rule {
                OptimizerConfig::AdamW(_) => parameters[at] *= 1.0 - lr * decay,
                _ => slope += decay * parameters[at],
            }
            match rule {
                OptimizerConfig::Adam(adam) | OptimizerConfig::AdamW(adam) => {
                    moments[0][at] = adam.beta1 * moments[0][at] + (1.0 - adam.beta1) * slope;
                    moments[1][at] = adam.beta2 * moments[1][at] + (1.0 - adam.beta2) * slope * slope;
                    let mean = moments[0][at] / (1.0 - adam.beta1.powi(update));
                    let root = (moments[1][at] / (1.0 - adam.beta2.powi(update))).sqrt() + adam.eps;
                    parameters[at] -= lr * mean / root;
                }
                OptimizerConfig::Sgd(sgd) => {
                    moments[0][at] = sgd.momentum * moments[0][at] + slope;
                    parameters[at] -= lr * moments[0][at];
                }
            }
        }
    }
    (parameters, moments, loss, norm)
}

#[test]
fn updates_follow_the_definitions() {
    let Some(device) = card() else { return };
    // A large epsilon, so that slopes that are zero but for rounding do not decide a step.
    let adam = AdamConfig {
        lr: 0.01,
        beta1: 0.9,
        beta2: 0.98,
        eps: 1e-4,
        weight_decay: 0.1,
        decay_biases_and_norms: true,
    };
    let rules = [
        OptimizerConfig::Adam(adam.clone()),
        OptimizerConfig::AdamW(adam),
        OptimizerConfig::Sgd(SgdConfig {
            lr: 0.1,
            momentum: 0.8,
            weight_decay: 0.01,
            decay_biases_and_norms: true,
        }),
    ];
    let (program, feeds, parameters) = model(3);
    let small: Vec<Feed<f32>> = feeds.iter().map(programs::narrow).collect();
    for rule in &rules {
        for (clip, decay) in [(f64::INFINITY, true), (0.3, true), (0.3, false)] {
            let mut executor = executor(device, &program, &parameters, rule, Some(clip));
            // All, or all but the second and the last parameter.
            let layout = &program.layout;
            let end = |place: usize| layout.range(place).end;
            let stretches = [(end(0), true), (end(1), decay), (end(4), true), (end(5), decay)]
                .map(|(end, decays)| Stretch { end, decays });
            executor.set_stretches(&stretches).unwrap();
            let decays: Vec<bool> = (0..layout.count())
                .map(|at| decay || !(layout.range(1).contains(&at) || layout.range(5).contains(&at)))
                .collect();
            for update in 1..=5 {
                executor.update(update, 1.0 / update as f64, &small, update == 1).unwrap();
            }
            let outcomes = executor.outcomes().unwrap();
            for replica in 0..3 {
                let (expected, moments, loss, norm) = by_definition(
                    &program,
                    &feeds[replica],
                    parameters[replica].clone(),
                    rule,
                    (clip, &decays),
                    5,
                );
                let error = relative(&wide(&executor.parameters(replica).unwrap()), &expected);
                assert!(error < 1e-5, "parameters by {rule:?} are off by {error:e}");
                let error = relative(&wide(&executor.moment(replica, Moment::First).unwrap()), &moments[0]);
                assert!(error < 1e-4, "first moments by {rule:?} are off by {error:e}");
                if !matches!(rule, OptimizerConfig::Sgd(_)) {
                    let second = wide(&executor.moment(replica, Moment::Second).unwrap());
                    let error = relative(&second, &moments[1]);
                    assert!(error < 1e-4, "second moments by {rule:?} are off by {error:e}");
                }
                let outcome = outcomes[replica];
                assert!((outcome.loss - loss).abs() < 1e-5 * loss, "{outcome:?}, not {loss}");
                assert!((outcome.norm - norm).abs() < 1e-4 * norm, "{outcome:?}, not {norm}");
                assert_eq!(outcome.diverged_at, None);
            }
        }
    }
}

#[test]
fn graphs_and_single_commands_give_the_same_bits() {
    let Some(device) = card() else { return };
    let adam = AdamConfig {
        lr: 0.01,
        beta1: 0.9,
        beta2: 0.98,
        eps: 1e-8,
        weight_decay: 0.1,
        decay_biases_and_norms: true,
    };
    let rule = OptimizerConfig::AdamW(adam);
    let (program, feeds, parameters) = model(2);
    let small: Vec<Feed<f32>> = feeds.iter().map(programs::narrow).collect();
    let run = |graphs: bool| {
        let mut executor = executor(device, &program, &parameters, &rule, None);
        executor.use_graphs(graphs);
        for update in 1..=7 {
            executor.update(update, 1.0, &small, true).unwrap();
        }
        (executor.parameters(0).unwrap(), executor.parameters(1).unwrap(), executor.outcomes().unwrap())
    };
    assert_eq!(run(true), run(false));
}

#[test]
fn a_diverged_replica_stays_as_it_was_and_disturbs_nobody() {
    let Some(device) = card() else { return };
    let adam = AdamConfig {
        lr: 0.01,
        beta1: 0.9,
        beta2: 0.98,
        eps: 1e-8,
        weight_decay: 0.0,
        decay_biases_and_norms: true,
    };
    let rule = OptimizerConfig::Adam(adam);
    let (program, feeds, mut parameters) = model(3);
    let small: Vec<Feed<f32>> = feeds.iter().map(programs::narrow).collect();
    let mut sound = executor(device, &program, &parameters, &rule, None);
    parameters[1][0] = f64::from(1e38f32);
    parameters[1][9] = f64::from(-1e38f32);
    let mut broken = executor(device, &program, &parameters, &rule, None);
    for update in 1..=4 {
        sound.update(update, 1.0, &small, true).unwrap();
        broken.update(update, 1.0, &small, true).unwrap();
    }
    let outcomes = broken.outcomes().unwrap();
    let diverged: Vec<Option<u64>> = outcomes.iter().map(|outcome| outcome.diverged_at).collect();
    assert_eq!(diverged, [None, Some(1), None]);
    assert!(!outcomes[1].loss.is_finite() || !outcomes[1].norm.is_finite());
    assert_eq!(wide(&broken.parameters(1).unwrap()), parameters[1]);
    for replica in [0, 2] {
        assert_eq!(broken.parameters(replica).unwrap(), sound.parameters(replica).unwrap());
    }
}

#[test]
fn forward_passes_give_the_outputs_of_processors() {
    let Some(device) = card() else { return };
    let rule = plain_descent();
    let (program, feeds, parameters) = model(2);
    let mut executor = executor(device, &program, &parameters, &rule, None);
    let small: Vec<Feed<f32>> = feeds.iter().map(programs::narrow).collect();
    let outputs = executor.forward(0, &small).unwrap();
    let mut processor = cpu::Executor::<f64>::new(program.clone(), 1);
    for replica in 0..2 {
        processor.prepare(&Team::new(1), &parameters[replica], &feeds[replica]);
        processor.forward(
            &Team::new(1),
            &parameters[replica],
            &feeds[replica],
            MicroBatch::of_examples(0, 6),
        );
        let error = relative(&wide(&outputs[replica]), processor.outputs(6));
        assert!(error < 1e-5, "outputs are off by {error:e}");
    }
}
