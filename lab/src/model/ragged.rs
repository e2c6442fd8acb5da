//! Tests: sequences of lengths of their own, run token by token, are what each of them is alone.

use std::sync::Arc;

use plateau_common::config::TrialConfig;
use plateau_common::random::StreamFamily;
use plateau_common::tasks::{Batch, Input, Scale, Targets, spans};
use serde_json::json;

use super::{Occasion, program, program_within};
use crate::cpu::{Executor, Feed, SlotData, Team};
use crate::data::{Chance, fill};
use crate::network::Network;
use crate::program::{Program, Source};

const VOCABULARY: u32 = 7;
/// Of one token, of a panel, of more than two, and longer than a block of keys.
const LENGTHS: [usize; 10] = [3, 1, 40, 130, 8, 33, 60, 130, 5, 100];

fn config(norm: &str, positions: &str, dropout: f64) -> TrialConfig {
    let json = json!({
        "task": {"kind": "noise", "vocab": VOCABULARY, "length": 130, "read-out": "every"},
        "model": {"kind": "transformer", "layers": 2, "heads": 2, "dim": 8, "norm": norm, "positions": positions,
            "dropout": dropout, "scaled-embedding": true, "initialisation": "murty", "read-out-bias": true},
        "train": {"steps": 1, "batch": 4, "optimizer": {"kind": "adam", "lr": 1e-3}}
    });
    TrialConfig::from_json(&json).unwrap()
}

/// Sequences of the lengths, with answers.
fn batch() -> Batch {
    let all: usize = LENGTHS.iter().sum();
    let number = |at: usize, factor: usize| (at * at * factor + 5 * at + at / 3) as u32 % VOCABULARY;
    let mut ends = Vec::new();
    for length in LENGTHS {
        ends.push(ends.last().unwrap_or(&0) + length as u32);
    }
    Batch {
        input: Input::Ragged { tokens: (0..all).map(|at| number(at, 3)).collect(), ends, positions: None },
        targets: Targets::Classes((0..all).map(|at| number(at, 1)).collect()),
        weights: None,
        also_correct: Vec::new(),
    }
}

/// Tokens and answers of each sequence.
fn each(batch: &Batch) -> Vec<(Vec<u32>, Vec<u32>)> {
    let (Input::Ragged { tokens, ends, .. }, Targets::Classes(classes)) = (&batch.input, &batch.targets)
    else {
        panic!("a ragged batch of classes")
    };
    spans(ends).map(|own| (tokens[own.clone()].to_vec(), classes[own].to_vec())).collect()
}

fn assert_near(a: &[f64], b: &[f64], what: &str) {
    assert_eq!(a.len(), b.len(), "{what}");
    let size = b.iter().map(|number| number * number).sum::<f64>().sqrt().max(1.0);
    for (at, (a, b)) in a.iter().zip(b).enumerate() {
        assert!((a - b).abs() < 1e-11 * size, "{what}, number {at}: {a} and {b}");
    }
}

#[test]
fn outputs_and_gradients_are_those_of_each_sequence_alone_and_of_padded_ones() {
    let batch = batch();
    for (norm, positions) in [("post", "sinusoidal"), ("pre", "learned"), ("none", "none")] {
        let config = config(norm, positions, 0.0);
        let network = Network::new(&config.model, config.task.shape(), 4);
        let together = network.outputs::<f64>(&batch.input).unwrap();
        let mut alone = Vec::new();
        for (tokens, _) in each(&batch) {
            let length = tokens.len();
            alone.extend(network.outputs::<f64>(&Input::Tokens { tokens, length }).unwrap());
        }
        assert_near(&together, &alone, norm);

        let (loss, gradients) = network.differentiate::<f64>(&batch, Scale::RAW).unwrap();
        let mut padded = Batch::empty();
        batch.pad_into(130, &mut padded);
        let (of_padded, gradients_of_padded) = network.differentiate::<f64>(&padded, Scale::RAW).unwrap();
        assert_near(&[loss], &[of_padded], "loss");
        assert_near(&gradients, &gradients_of_padded, "gradients");
        assert!(gradients.iter().any(|number| number.abs() > 1e-3));
    }
}

/// The gradients of a program on a feed.
fn differentiate(network: &Network, program: Arc<Program>, feed: &Feed<f64>, parts: usize) -> Vec<f64> {
    let mut executor = Executor::<f64>::new(program, parts);
    let loss = executor.differentiate(&Team::new(parts), network.weights(), feed);
    let mut all = executor.gradients().to_vec();
    all.push(loss);
    all
}

/// With dropout: each sequence alone, dropped out by the very factors it had among the others; in micro-batches of any size, by teams.
#[test]
fn dropout_and_micro_batches_do_not_mix_sequences() {
    let (batch, config) = (batch(), config("post", "sinusoidal", 0.3));
    let network = Network::new(&config.model, config.task.shape(), 4);
    let model = super::build(&config.model, config.task.shape());
    let tokens: usize = LENGTHS.iter().sum();
    let occasion = Occasion { ragged: true, examples: tokens, ..Occasion::of_training(&config) };
    let whole = Arc::new(program(&*model, config.task.shape(), &occasion, false).unwrap());
    let mut feed = Feed::empty(0);
    let chance = || Chance { dropout: Some((0.3, StreamFamily::new(1, "dropout").at(1))), positions: None };
    fill(&mut feed, &whole, &batch, Scale::RAW, chance()).unwrap();
    let together = differentiate(&network, whole.clone(), &feed, 1);

    let mut sum = vec![0.0; together.len()];
    let mut start = 0;
    for (number, (own_tokens, classes)) in each(&batch).into_iter().enumerate() {
        let length = own_tokens.len();
        let own = Occasion { length, examples: 1, ragged: false, ..occasion };
        let alone = Arc::new(program(&*model, config.task.shape(), &own, false).unwrap());
        let one = Batch {
            input: Input::Tokens { tokens: own_tokens, length },
            targets: Targets::Classes(classes),
            weights: None,
            also_correct: Vec::new(),
        };
        let mut own_feed = Feed::empty(0);
        fill(&mut own_feed, &alone, &one, Scale::RAW, chance()).unwrap();
        own_feed.loss_scale = feed.loss_scale;
        // Both programs drop out in the same places, in the same order.
        let is_dropout =
            |source: &Source| matches!(source, Source::Dropout | Source::AttentionDropout { .. });
        let slots = |program: &Program| -> Vec<usize> {
            let all = program.slots.iter().enumerate().filter(|(_, slot)| is_dropout(&slot.source));
            all.map(|(place, _)| place).collect()
        };
        for (to, from) in slots(&alone).into_iter().zip(slots(&whole)) {
            let SlotData::Numbers(factors) = &feed.slots[from] else { panic!("factors are numbers") };
            let own = match whole.slots[from].source {
                Source::AttentionDropout { heads } => {
                    let first = heads * feed.sequences.squares_before(number);
                    first..first + heads * length * length
                }
                _ => {
                    let width = whole.slots[from].extent.width;
                    start * width..(start + length) * width
                }
            };
            *own_feed.numbers_mut(to) = factors[own].to_vec();
        }
        let own = differentiate(&network, alone, &own_feed, 1);
        sum.iter_mut().zip(own).for_each(|(sum, number)| *sum += number);
        start += length;
    }
    assert_near(&together, &sum, "dropout");

    // Padded, as on cards: what is dropped out is the same.
    let padded = Occasion { ragged: false, examples: LENGTHS.len(), weighted: true, ..occasion };
    let padded = Arc::new(program(&*model, config.task.shape(), &padded, false).unwrap());
    let mut padded_feed = Feed::empty(0);
    fill(&mut padded_feed, &padded, &batch, Scale::RAW, chance()).unwrap();
    assert_near(&differentiate(&network, padded, &padded_feed, 1), &together, "padded");

    for (numbers, several) in [(1, true), (20_000, true), (1 << 22, false)] {
        let other = program_within(&*model, config.task.shape(), &occasion, false, numbers).unwrap();
        let mut own_feed = Feed::empty(0);
        fill(&mut own_feed, &other, &batch, Scale::RAW, chance()).unwrap();
        let other = Arc::new(other);
        let count = own_feed.micro_batches(&other).count();
        let parts: usize = own_feed.micro_batches(&other).map(|own| own.examples).sum();
        assert_eq!((parts, count > 1), (tokens, several), "{count} micro-batches");
        let alone = differentiate(&network, other.clone(), &own_feed, 1);
        assert_near(&alone, &together, "micro-batches");
        for parts in 2..=4 {
            assert_eq!(differentiate(&network, other.clone(), &own_feed, parts), alone, "{parts} parts");
        }
    }
}

#[test]
fn sequences_that_are_empty_too_long_or_not_all_of_the_tokens_are_refused() {
    let config = config("post", "sinusoidal", 0.0);
    let network = Network::new(&config.model, config.task.shape(), 4);
    let outputs = |tokens: usize, ends: &[u32]| {
        let tokens = vec![1; tokens];
        network.outputs::<f64>(&Input::Ragged { tokens, ends: ends.to_vec(), positions: None })
    };
    assert_eq!(outputs(5, &[2, 5]).unwrap().len(), 5 * VOCABULARY as usize);
    for (tokens, ends) in [(5, &[2, 4][..]), (5, &[2, 2, 5]), (5, &[4, 2, 5]), (131, &[131]), (5, &[2, 6])] {
        assert!(outputs(tokens, ends).is_err(), "{tokens} tokens that end at {ends:?}");
    }
}
