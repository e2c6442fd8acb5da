//! The whole transformer: against PyTorch (golden values of `tests/python/golden_transformer.py`), against plain tensor
//! operations and central differences, and count space against token space.
#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

#[path = "support/programs.rs"]
mod programs;

use std::sync::Arc;

use plateau_common::config::{
    Activation, AdamConfig, Head, Initialisation, Injection, ModelConfig, Norm, OptimizerConfig,
    TransformerConfig,
};
use plateau_common::fields::Fields;
use plateau_common::node::Node;
use plateau_common::positions::Positions;
use plateau_common::tasks::{Batch, Form, Input, Output, ReadOut, Scale, Targets, TaskConfig, TaskShape};
use plateau_lab::Network;
use plateau_lab::cpu::{Arena, Executor, Feed, Team};
use plateau_lab::model::{self, Model, Occasion, Transformer};
use plateau_lab::optimizer::ReplicaRule;
use plateau_lab::program::{Layout, Program, Source};
use programs::Case;
use serde_json::Value;

fn pattern(count: usize, place: usize) -> Vec<f64> {
    let value = |index: usize| {
        (0.7 * index as f64 + 1.3 * place as f64).sin() * 0.5
            + if index.is_multiple_of(3) { 0.05 } else { 0.0 }
    };
    (0..count).map(value).collect()
}

fn settings() -> TransformerConfig {
    TransformerConfig {
        layers: 2,
        heads: 2,
        dim: 8,
        mlp_dim: 12,
        activation: Activation::Relu,
        norm: Norm::Pre,
        attention_bias: false,
        mlp_bias: true,
        read_out_bias: false,
        tied: false,
        positions: positions("learned"),
        causal: true,
        dropout: 0.0,
        mlp_dropout: false,
        initialisation: Initialisation::Nanda,
        recurrences: 1,
        injection: Injection::None,
        embedding_norm: false,
        scaled_embedding: false,
        head: Head::Linear,
    }
}

/// Position schemes as a study writes them, with settings small enough for tests.
fn positions(words: &str) -> Positions {
    let json = serde_json::json!({"positions": words, "fire": {"hidden": 3, "length": 2.5}, "randomised": {"positions": 18}});
    let task = serde_json::json!({"kind": "noise", "vocab": 5, "length": 5});
    let (json, task) = (Node::from_json(&json), Node::from_json(&task));
    let task = TaskConfig::read(Fields::new("task", &task).unwrap()).unwrap();
    Positions::read(&mut Fields::new("model", &json).unwrap(), &task).unwrap()
}

/// Evaluation of no examples.
fn occasion(form: Form) -> Occasion {
    Occasion {
        form,
        length: 0,
        ragged: false,
        examples: 0,
        dropout: false,
        renumbered: false,
        weighted: false,
        free: 0,
        graded: 1,
        forward_only: false,
        unchained: false,
    }
}

fn shape(vocabulary: usize, length: usize, read_out: ReadOut) -> TaskShape {
    TaskShape { vocabulary, length, output: Output::Classes(vocabulary), read_out }
}

/// A pattern of weights that says which parameter it belongs to.
fn patterned(layout: &Layout) -> Vec<f64> {
    let parameters = layout.parameters.iter().enumerate();
    let weights = parameters.flat_map(|(place, parameter)| {
        let shift = if parameter.name.ends_with("gain") { 1.0 } else { 0.0 };
        pattern(layout.range(place).len(), place).into_iter().map(move |value| value + shift)
    });
    weights.collect()
}

fn network(config: &TransformerConfig, shape: TaskShape) -> Network {
    let mut network = Network::new(&ModelConfig::Transformer(config.clone()), shape, 0);
    let (layout, weights) = (network.layout().clone(), patterned(network.layout()));
    for (place, parameter) in layout.parameters.iter().enumerate() {
        network.set(&parameter.name, &weights[layout.range(place)]).unwrap();
    }
    network
}

/// The slots of a batch of tokens and classes, filled by their definitions.
fn feed(program: &Program, tokens: &[u32], length: usize, answers: &[u32]) -> Feed<f64> {
    let mut feed = Feed::empty(program.slots.len());
    (feed.examples, feed.loss_scale) = (tokens.len() / length, 1.0 / answers.len() as f64);
    for (slot, specification) in program.slots.iter().enumerate() {
        let pair = |at: usize, vocabulary: usize| (at % length * vocabulary) as u32 + tokens[at];
        let ids: Vec<u32> = match specification.source {
            Source::Constant => continue,
            Source::Tokens => tokens.to_vec(),
            Source::Pairs { vocabulary } => (0..tokens.len()).map(|at| pair(at, vocabulary)).collect(),
            Source::LastPair { vocabulary } => {
                (length - 1..tokens.len()).step_by(length).map(|at| pair(at, vocabulary)).collect()
            }
            Source::Classes => answers.to_vec(),
            source => panic!("{source:?} in a model of tokens and classes"),
        };
        *feed.ids_mut(slot) = ids;
    }
    feed
}

fn close(found: f64, expected: f64, what: &str) {
    assert!(
        (found - expected).abs() < 1e-9 * expected.abs().max(1.0),
        "{what}: {found} is not PyTorch's {expected}"
    );
}

fn golden(case: &Value, repeat: usize) {
    let word = |key: &str| case["case"][key].as_str().unwrap().to_owned();
    let flag = |key: &str| case["case"][key].as_bool().unwrap();
    let size = |key: &str| case["case"][key].as_u64().unwrap() as usize;
    let config = TransformerConfig {
        layers: size("layers"),
        heads: size("heads"),
        activation: match word("activation").as_str() {
            "relu" => Activation::Relu,
            "gelu" => Activation::Gelu,
            _ => Activation::Geglu,
        },
        norm: match word("norm").as_str() {
            "pre" => Norm::Pre,
            "post" => Norm::Post,
            _ => Norm::None,
        },
        positions: positions(&word("positions")),
        attention_bias: flag("attention_bias"),
        tied: flag("tied"),
        causal: flag("causal"),
        ..settings()
    };
    let (vocabulary, length) = (size("vocab"), size("length"));
    let shape = shape(vocabulary, length, ReadOut::Last);
    let tokens: Vec<u32> = (0..6)
        .flat_map(|b| (0..length).map(move |t| ((3 * b + 5 * t + b * t) % vocabulary) as u32))
        .collect();
    let tokens = tokens.repeat(repeat);
    let answers: Vec<u32> = (0..6).map(|b| ((2 * b + 1) % vocabulary) as u32).collect();
    let answers = answers.repeat(repeat);
    let adam = AdamConfig {
        lr: 1e-2,
        beta1: 0.9,
        beta2: 0.98,
        eps: 1e-8,
        weight_decay: 0.5,
        decay_biases_and_norms: true,
    };
    let rule = ReplicaRule { optimizer: OptimizerConfig::AdamW(adam), clip: case["case"]["clip"].as_f64() };

    let network = network(&config, shape);
    let input = Input::Tokens { tokens: tokens.clone(), length };
    let expected = case["logits"].as_array().unwrap();
    for (index, value) in network.outputs::<f64>(&input).unwrap().iter().enumerate() {
        close(*value, expected[index % expected.len()].as_f64().unwrap(), "a logit");
    }
    let mut batch = Batch::empty();
    (batch.input, batch.targets) = (input, Targets::Classes(answers.clone()));
    let (loss, gradients) = network.differentiate::<f64>(&batch, Scale::RAW).unwrap();
    close(loss, case["losses"][0].as_f64().unwrap(), "the network's loss");
    let norm = gradients.iter().map(|gradient| gradient * gradient).sum::<f64>().sqrt();
    close(norm, case["norms"][0].as_f64().unwrap(), "the network's gradient norm");

    let occasion = Occasion { length, examples: 6 * repeat, ..occasion(Form::Tokens) };
    let model = model::build(&ModelConfig::Transformer(config), shape);
    let program = Arc::new(model::program(&*model, shape, &occasion, false).unwrap());
    let feed = feed(&program, &tokens, length, &answers);
    let mut arena = Arena::new(&patterned(&program.layout), &[], f64::NAN);
    let mut executor = Executor::<f64>::new(program.clone(), 1);
    let team = Team::new(1);
    for update in 1..=3 {
        let loss = executor.differentiate(&team, arena.parameters(), &feed);
        let norm = executor.apply(&team, &mut arena, (&rule, update as u64, 1.0), true);
        close(loss, case["losses"][update - 1].as_f64().unwrap(), "a loss");
        close(norm, case["norms"][update - 1].as_f64().unwrap(), "a gradient norm");
    }
    for (place, parameter) in program.layout.parameters.iter().enumerate() {
        let (name, values) = (&parameter.name, &arena.parameters()[program.layout.range(place)]);
        close(values.iter().sum(), case["sums"][name].as_f64().unwrap(), name);
        let square = values.iter().map(|value| value * value).sum();
        close(square, case["squares"][name].as_f64().unwrap(), name);
    }
}

#[test]
fn forward_loss_and_three_updates_are_those_of_pytorch() {
    let cases: Vec<Value> = serde_json::from_str(include_str!("golden/transformer.json")).unwrap();
    assert_eq!(cases.len(), 4);
    for case in &cases {
        golden(case, 1);
        // Twice as many examples: now fewer pairs of token and position than tokens, so the first block works on pairs.
        golden(case, 2);
    }
}

/// Holds a whole model against its reference, with as few and as many examples as make the first block work on rows of
/// its own and on rows that examples share.
fn check_model(what: &str, config: TransformerConfig, shape: TaskShape, form: Form) {
    let all = config.recurrences;
    check_pass(what, config, shape, (form, (0, all)));
}

/// The same for one pass through a looped model: recurrences without and with gradients.
fn check_pass(
    what: &str,
    config: TransformerConfig,
    shape: TaskShape,
    (form, passes): (Form, (usize, usize)),
) {
    let config = TransformerConfig { dim: 4, mlp_dim: 3, ..config };
    let model = Transformer::new(config.clone(), shape);
    let specifications = model.parameters();
    let parameters: Vec<(&str, &[usize])> =
        specifications.iter().map(|parameter| (parameter.name.as_str(), &*parameter.shape)).collect();
    let rows = if config.positions.is_none() { 1 } else { shape.length } * shape.vocabulary;
    let mut shared = [false; 2];
    for examples in [1, 4] {
        let dropout = config.dropout > 0.0;
        let renumbered = config.positions.is_random();
        let length = shape.length;
        let (free, graded) = passes;
        let occasion = Occasion {
            length,
            examples,
            dropout,
            renumbered,
            weighted: true,
            free,
            graded,
            ..occasion(form)
        };
        let on_pairs = form == Form::Tokens && !dropout && !renumbered && rows < examples * shape.length;
        shared[usize::from(examples > 1)] = on_pairs;
        programs::check_by(
            &format!("{what}, {examples} examples"),
            &Case {
                parameters: &parameters,
                examples,
                ids_below: if on_pairs { rows } else { shape.vocabulary } as u32,
                deviation: 0.7,
                record: &|graph| model.record(graph, &occasion),
            },
            &[1],
        );
    }
    let both = form == Form::Tokens && config.dropout == 0.0 && !config.positions.is_random();
    assert_eq!(shared, [false, both], "{what}: sides of the threshold");
}

#[test]
fn gradients_of_the_whole_model() {
    let variants = [
        ("pre-norm, relu, learned", settings()),
        (
            "post-norm, rotary",
            TransformerConfig { norm: Norm::Post, positions: positions("rotary"), ..settings() },
        ),
        (
            "no norm, geglu, tied, biases",
            TransformerConfig {
                norm: Norm::None,
                activation: Activation::Geglu,
                tied: true,
                attention_bias: true,
                ..settings()
            },
        ),
        (
            "gelu, sinusoidal, bidirectional, read-out bias, no MLP biases",
            TransformerConfig {
                activation: Activation::Gelu,
                positions: positions("sinusoidal"),
                read_out_bias: true,
                mlp_bias: false,
                causal: false,
                ..settings()
            },
        ),
        (
            "no positions, three layers",
            TransformerConfig { positions: Positions::NONE, layers: 3, norm: Norm::Post, ..settings() },
        ),
        ("rotary, one layer", TransformerConfig { positions: positions("rotary"), layers: 1, ..settings() }),
        (
            "dropout, bidirectional",
            TransformerConfig {
                dropout: 0.3,
                mlp_dropout: true,
                scaled_embedding: true,
                read_out_bias: true,
                causal: false,
                ..settings()
            },
        ),
        (
            "dropout, rotary, geglu",
            TransformerConfig {
                dropout: 0.3,
                positions: positions("rotary"),
                activation: Activation::Geglu,
                ..settings()
            },
        ),
    ];
    for (what, config) in variants {
        for read_out in [ReadOut::Last, ReadOut::Every] {
            check_model(
                &format!("{what}, {read_out:?}"),
                config.clone(),
                shape(3, 3, read_out),
                Form::Tokens,
            );
        }
    }
}

/// Injection, loops, norm of the embeddings, head and position schemes, alone and together.
#[test]
fn gradients_of_arithmetic_models() {
    let base = TransformerConfig {
        norm: Norm::Post,
        activation: Activation::Geglu,
        mlp_bias: false,
        embedding_norm: true,
        scaled_embedding: false,
        head: Head::Transform,
        ..settings()
    };
    let looped = |words: &str, injection, layers, recurrences| TransformerConfig {
        positions: positions(words),
        injection,
        layers,
        recurrences,
        ..base.clone()
    };
    for (words, injection, layers, recurrences, length) in [
        ("none", Injection::Layer, 2, 1, 3),
        ("fire", Injection::None, 2, 1, 3),
        ("fire", Injection::Layer, 1, 3, 9),
        ("rotary", Injection::Block, 2, 2, 3),
        ("learned+rotary+fire", Injection::Layer, 2, 2, 3),
        ("learned+randomised", Injection::None, 1, 1, 3),
        ("fire+randomised", Injection::Layer, 1, 2, 9),
    ] {
        let config = looped(words, injection, layers, recurrences);
        for read_out in [ReadOut::Last, ReadOut::Every] {
            let what = format!("{words}, {injection:?}, {layers} x {recurrences}, {read_out:?}");
            check_model(&what, config.clone(), shape(3, length, read_out), Form::Tokens);
        }
    }
    let dropped = TransformerConfig { dropout: 0.3, ..looped("fire", Injection::Layer, 1, 2) };
    check_model("looped, dropout", dropped, shape(3, 3, ReadOut::Every), Form::Tokens);
}

/// Passes whose first recurrences have no gradients; without injection none reaches the embeddings then.
#[test]
fn gradients_of_truncated_passes() {
    for injection in [Injection::None, Injection::Block, Injection::Layer] {
        for (layers, passes) in [(1, (2, 1)), (2, (1, 2)), (2, (1, 1)), (2, (0, 1))] {
            let config = TransformerConfig {
                norm: Norm::Post,
                positions: positions("fire"),
                recurrences: 3,
                layers,
                injection,
                ..settings()
            };
            let what = format!("{injection:?}, {layers} layers, {passes:?}");
            check_pass(&what, config, shape(3, 3, ReadOut::Every), (Form::Tokens, passes));
        }
    }
}

#[test]
fn gradients_in_count_space_and_of_squared_errors() {
    for layers in 1..=3 {
        for norm in [Norm::Pre, Norm::Post, Norm::None] {
            let config =
                TransformerConfig { layers, norm, positions: Positions::NONE, causal: false, ..settings() };
            let scalar = TaskShape { output: Output::Scalar, ..shape(5, 5, ReadOut::Last) };
            for shape in [shape(5, 5, ReadOut::Last), scalar] {
                let what = format!("{layers} layers, {norm:?}, {:?}", shape.output);
                check_model(&what, config.clone(), shape, Form::Counts);
            }
        }
    }
}

fn tokens(examples: usize, length: usize, vocabulary: usize) -> Input {
    let token = |at: usize| ((at * at + 3 * at + at / length) % vocabulary) as u32;
    Input::Tokens { tokens: (0..examples * length).map(token).collect(), length }
}

/// Counting papers' shortcut: without positions and causal mask, counts are all there is to know.
#[test]
fn count_space_equals_token_space() {
    let (vocabulary, length, examples) = (5, 12, 9);
    let Input::Tokens { tokens, .. } = tokens(examples, length, vocabulary) else { panic!("tokens") };
    let mut counts = vec![0f32; examples * vocabulary];
    for (at, token) in tokens.iter().enumerate() {
        counts[at / length * vocabulary + *token as usize] += 1.0;
    }
    assert!(counts.contains(&0.0), "a type that does not occur belongs into this test");
    let last = tokens.chunks(length).map(|example| example[length - 1]).collect();
    let (as_tokens, as_counts) = (Input::Tokens { tokens, length }, Input::Counts { counts, last });
    for layers in 1..=3 {
        for (norm, tied) in [(Norm::Pre, false), (Norm::Post, true), (Norm::None, false)] {
            let config = TransformerConfig {
                layers,
                norm,
                tied,
                positions: Positions::NONE,
                causal: false,
                ..settings()
            };
            let network = network(&config, shape(vocabulary, length, ReadOut::Last));
            let wide = [&as_tokens, &as_counts].map(|input| network.outputs::<f64>(input).unwrap());
            let narrow = [&as_tokens, &as_counts].map(|input| network.outputs::<f32>(input).unwrap());
            for ([by_tokens, by_counts], tolerance) in [(wide, 1e-10), (narrow, 1e-5)] {
                assert_eq!(by_tokens.len(), examples * vocabulary);
                let scale = by_tokens.iter().fold(1.0f64, |scale, value| scale.max(value.abs()));
                let differences = by_tokens.iter().zip(&by_counts).map(|(a, b)| (a - b).abs());
                let error = differences.fold(0.0, f64::max) / scale;
                assert!(error < tolerance, "{layers} layers, {norm:?}: {error}, not within {tolerance}");
            }
        }
    }
}

/// Every scheme draws what its name says, and equal seeds draw equal numbers.
#[test]
fn initialisation_schemes_have_their_deviations() {
    let deviation = |initialisation: Initialisation, name: &str| {
        let config = TransformerConfig { dim: 64, mlp_dim: 256, initialisation, ..settings() };
        let network = Network::new(&ModelConfig::Transformer(config), shape(100, 3, ReadOut::Last), 5);
        let values = network.parameter(name).unwrap();
        (values.iter().map(|value| value * value).sum::<f64>() / values.len() as f64).sqrt()
    };
    let third = 1.0 / 3f64.sqrt(); // a uniform number's deviation by its bound
    let expected = [
        (Initialisation::Nanda, "blocks.1.mlp.down", 0.125),
        (Initialisation::Nanda, "read_out.weight", 0.1),
        (Initialisation::Gpt2, "embedding.token", 0.02),
        (Initialisation::Gpt2, "blocks.0.attention.output", 0.01),
        (Initialisation::Pytorch, "embedding.token", 1.0),
        (Initialisation::Pytorch, "blocks.0.mlp.down", third / 16.0),
        (Initialisation::Xavier, "blocks.0.mlp.up", third * (6.0f64 / 320.0).sqrt()),
        (Initialisation::CountingPilot, "embedding.token", 0.5),
        (Initialisation::CountingPilot, "blocks.0.mlp.up", (2.0f64 / 64.0).sqrt()),
        (Initialisation::CountingPilot, "blocks.0.mlp.down", 1.0 / 16.0),
    ];
    for (scheme, name, expected) in expected {
        let found = deviation(scheme, name);
        assert!((found / expected - 1.0).abs() < 0.05, "{scheme:?} {name}: {found}, not {expected}");
    }
    assert_eq!(deviation(Initialisation::Nanda, "blocks.0.norm1.gain"), 1.0);
    assert_eq!(deviation(Initialisation::Nanda, "blocks.0.mlp.up_bias"), 0.0);
    // Nanda et al. report a total norm of about 42.5 at the start of their main run; the expectation is the root of
    // 114 + 3 (embeddings) + 4 128 (attention) + 2 512 (MLP) + 128 (read-out).
    let nanda =
        TransformerConfig { layers: 1, heads: 4, dim: 128, mlp_dim: 512, norm: Norm::None, ..settings() };
    let network = Network::new(&ModelConfig::Transformer(nanda), shape(114, 3, ReadOut::Last), 0);
    let total: f64 = network.weights().iter().map(|value| value * value).sum();
    assert!((total.sqrt() - 1781f64.sqrt()).abs() < 0.2, "{}", total.sqrt());
    let again = |seed: u64| {
        let model = ModelConfig::Transformer(settings());
        Network::new(&model, shape(9, 3, ReadOut::Last), seed).weights().to_vec()
    };
    assert_eq!(again(3), again(3));
    assert_ne!(again(3), again(4));
}
