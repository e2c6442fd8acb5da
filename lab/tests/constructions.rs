//! Hand-built weights that count exactly: the model class contains the solutions of Behrens et al. and Yehudai et al.
//! (When can transformers count to n?), and attention behaves as the theory says.
#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod support;

use plateau_common::config::{
    Activation, Head, Initialisation, Injection, ModelConfig, Norm, Precision, TransformerConfig,
};
use plateau_common::positions::Positions;
use plateau_common::random::Stream;
use plateau_common::tasks::{Form, Input, Output, ReadOut, Split, Targets, TaskShape};
use plateau_lab::Network;
use serde_json::json;
use support::config;

struct Built {
    network: Network,
    precision: Precision,
}

/// A model of zeros, without norms, that puts out one number per sequence.
fn zeros(
    layers: usize,
    dim: usize,
    mlp_dim: usize,
    positions: Positions,
    vocabulary: usize,
    length: usize,
    precision: Precision,
) -> Built {
    let settings = TransformerConfig {
        layers,
        heads: 1,
        dim,
        mlp_dim,
        activation: Activation::Relu,
        norm: Norm::None,
        attention_bias: false,
        mlp_bias: true,
        read_out_bias: true,
        tied: false,
        positions,
        causal: false,
        dropout: 0.0,
        mlp_dropout: false,
        initialisation: Initialisation::Nanda,
        recurrences: 1,
        injection: Injection::None,
        embedding_norm: false,
        scaled_embedding: false,
        head: Head::Linear,
    };
    let shape = TaskShape { vocabulary, length, output: Output::Scalar, read_out: ReadOut::Last };
    let mut built = Built { network: Network::new(&ModelConfig::Transformer(settings), shape, 0), precision };
    let names: Vec<String> =
        built.network.layout().parameters.iter().map(|parameter| parameter.name.clone()).collect();
    names.iter().for_each(|name| built.set(name, |_, _| 0.0));
    built
}

impl Built {
    /// Sets a parameter to the values of a function of its (row, column), or of its (index, 0) for vectors.
    fn set(&mut self, name: &str, value: impl Fn(usize, usize) -> f64) {
        let layout = self.network.layout();
        let shape = layout.parameters.iter().find(|parameter| parameter.name == name).unwrap().shape.clone();
        let columns = if shape.len() == 2 { shape[1] } else { 1 };
        let values = (0..shape.iter().product()).map(|at| value(at / columns, at % columns));
        self.network.set(name, &values.collect::<Vec<f64>>()).unwrap();
    }

    /// One output per sequence.
    fn run(&self, sequences: &[Vec<u32>]) -> Vec<f64> {
        let length = sequences[0].len();
        self.run_input(&Input::Tokens { tokens: sequences.concat(), length })
    }

    fn run_input(&self, input: &Input) -> Vec<f64> {
        match self.precision {
            Precision::F64 => self.network.outputs::<f64>(input).unwrap(),
            _ => self.network.outputs::<f32>(input).unwrap(),
        }
    }
}

fn identity(row: usize, column: usize) -> f64 {
    if row == column { 1.0 } else { 0.0 }
}

/// The histogram: uniform attention adds c_i / n to coordinate i; the query's own coordinate alone exceeds 1.
fn histogram(m: usize, d: usize, n: usize, precision: Precision) -> Built {
    let mut built = zeros(1, d, d, Positions::NONE, m, n, precision);
    built.set("embedding.token", identity);
    built.set("blocks.0.attention.value", identity);
    built.set("blocks.0.attention.output", identity);
    built.set("blocks.0.mlp.up", identity);
    built.set("blocks.0.mlp.up_bias", |_, _| -1.0);
    built.set("blocks.0.mlp.down", |_, column| if column == 0 { n as f64 } else { 0.0 });
    built.set("read_out.weight", |_, _| 1.0);
    built.set("read_out.bias", |_, _| -2.0);
    built
}

/// CountAttend: the query attends to its own copies, so the marker of the last position arrives with weight 1 / count,
/// which the MLP inverts. Tokens lie on a circle; `kappa` sharpens attention.
fn count_attend(m: usize, n: usize, kappa: f64) -> Built {
    let mut built = zeros(1, 3, n.max(2) - 1, Positions::learned(), m, n, Precision::F64);
    let angle = |token: usize| 2.0 * std::f64::consts::PI * token as f64 / m as f64;
    built.set("embedding.token", |token, column| [angle(token).cos(), angle(token).sin(), 0.0][column]);
    built.set(
        "embedding.position",
        |position, column| if position + 1 == n && column == 2 { 1.0 } else { 0.0 },
    );
    let on_tokens = |row: usize, column: usize| if row < 2 { identity(row, column) } else { 0.0 };
    let on_marker = |row: usize, column: usize| if row == 2 { identity(row, column) } else { 0.0 };
    built.set("blocks.0.attention.query", |row, column| kappa * 3f64.sqrt() * on_tokens(row, column));
    built.set("blocks.0.attention.key", on_tokens);
    built.set("blocks.0.attention.value", on_marker);
    built.set("blocks.0.attention.output", on_marker);
    // The marker is 1 + z. Unit 0 is z itself, unit k - 1 is ReLU(z - 1/k), and
    // f(z) = 2n - 1 - n(n-1) z + sum of 2k ReLU(z - 1/k) for k = 2 to n - 1; the residual 1 + z is taken off.
    let n = n as f64;
    built.set("blocks.0.mlp.up", |row, _| if row == 2 { 1.0 } else { 0.0 });
    built.set(
        "blocks.0.mlp.up_bias",
        |unit, _| if unit == 0 { -1.0 } else { -1.0 - 1.0 / (unit as f64 + 1.0) },
    );
    built.set("blocks.0.mlp.down", |unit, column| match (unit, column) {
        (0, 2) => -n * (n - 1.0) - 1.0,
        (unit, 2) => 2.0 * (unit as f64 + 1.0),
        _ => 0.0,
    });
    built.set("blocks.0.mlp.down_bias", |column, _| if column == 2 { 2.0 * n - 2.0 } else { 0.0 });
    built.set("read_out.weight", |row, _| if row == 2 { 1.0 } else { 0.0 });
    built
}

fn sharp_enough(m: usize, n: usize) -> f64 {
    (4.0 * n as f64).ln() / (1.0 - (2.0 * std::f64::consts::PI / m as f64).cos())
}

/// Most frequent element by two layers: every position counts itself, then the largest count wins the attention.
fn most_frequent(m: usize, n: usize) -> Built {
    let d = m + 2;
    let mut built = zeros(2, d, d, Positions::NONE, m, n, Precision::F64);
    built.set("embedding.token", identity);
    let on_tokens = |row: usize, column: usize| if row < m { identity(row, column) } else { 0.0 };
    built.set("blocks.0.attention.value", on_tokens);
    built.set("blocks.0.attention.output", on_tokens);
    built.set("blocks.0.mlp.up", on_tokens);
    built.set("blocks.0.mlp.up_bias", |_, _| -1.0);
    built.set("blocks.0.mlp.down", |row, column| if row < m && column == m { n as f64 } else { 0.0 });
    // The token coordinates always sum to 2: a constant query.
    let beta = (4.0 * (n * n) as f64).ln();
    built.set("blocks.1.attention.query", |row, column| if row < m && column == m { 0.5 } else { 0.0 });
    let only = |value: f64, at: (usize, usize)| {
        move |row: usize, column: usize| if (row, column) == at { value } else { 0.0 }
    };
    built.set("blocks.1.attention.key", only(beta * (d as f64).sqrt(), (m, m)));
    built.set("blocks.1.attention.value", only(1.0, (m, m)));
    built.set("blocks.1.attention.output", only(1.0, (m, m + 1)));
    built.set("read_out.weight", only(1.0, (m + 1, 0)));
    built
}

fn random_sequences(stream: &mut Stream, examples: usize, m: usize, n: usize) -> Vec<Vec<u32>> {
    (0..examples).map(|_| (0..n).map(|_| stream.below(m as u32)).collect()).collect()
}

fn count_of_last(sequence: &[u32]) -> f64 {
    sequence.iter().filter(|token| Some(*token) == sequence.last()).count() as f64
}

fn highest_count(sequence: &[u32]) -> f64 {
    sequence.iter().map(|token| sequence.iter().filter(|other| *other == token).count()).max().unwrap() as f64
}

/// Sequences of two tokens in which the last occurs `count` times, for every count.
fn extremes(n: usize) -> Vec<Vec<u32>> {
    (1..=n).map(|count| (0..n).map(|at| u32::from(at >= n - count)).collect()).collect()
}

#[test]
fn the_histogram_counts_exactly() {
    let mut stream = Stream::new(1, "test", 0);
    for (m, d) in [(2, 2), (5, 8), (16, 16), (150, 152)] {
        for n in [1, 2, 5, 10 * m] {
            for (precision, tolerance) in [(Precision::F32, 1e-4), (Precision::F64, 1e-9)] {
                let built = histogram(m, d, n, precision);
                let sequences = random_sequences(&mut stream, 20, m, n);
                for (sequence, output) in sequences.iter().zip(built.run(&sequences)) {
                    let error = (output - count_of_last(sequence)).abs();
                    assert!(error < tolerance, "m {m}, d {d}, n {n}, {precision:?}: error {error}");
                }
            }
        }
    }
}

#[test]
fn every_count_of_two_tokens_is_exact() {
    for n in [1, 2, 7, 50] {
        let built = histogram(5, 8, n, Precision::F64);
        for (sequence, output) in extremes(n).iter().zip(built.run(&extremes(n))) {
            assert!((output - count_of_last(sequence)).abs() < 1e-9);
        }
        let built = most_frequent(5, n);
        for (sequence, output) in extremes(n).iter().zip(built.run(&extremes(n))) {
            assert_eq!(output.round(), highest_count(sequence));
        }
    }
}

#[test]
fn attention_to_copies_counts_if_it_is_sharp_enough() {
    let mut stream = Stream::new(2, "test", 0);
    for m in [5, 20, 50] {
        let n = 10 * m;
        let sequences = random_sequences(&mut stream, 60, m, n);
        let wrong = |share: f64| {
            let outputs = count_attend(m, n, share * sharp_enough(m, n)).run(&sequences);
            outputs
                .iter()
                .zip(&sequences)
                .filter(|(output, sequence)| output.round() != count_of_last(sequence))
                .count()
        };
        assert_eq!(wrong(1.5), 0, "m {m}");
        assert!(wrong(0.25) > 0, "m {m}");
    }
}

/// Two opposite tokens and sharp attention: z is exactly 1 / k.
#[test]
fn the_inverse_is_exact_at_all_knots() {
    for n in [2, 3, 10, 100, 1000] {
        let built = count_attend(2, n, 1e4);
        for (place, output) in built.run(&extremes(n)).into_iter().enumerate() {
            assert!((output - (place as f64 + 1.0)).abs() < 1e-6, "f(1/{}) = {output} at n = {n}", place + 1);
        }
    }
}

#[test]
fn the_most_frequent_element_is_found_in_token_and_in_count_space() {
    let mut stream = Stream::new(3, "test", 0);
    for (m, examples) in [(5, 1000), (20, 100)] {
        let n = 10 * m;
        let built = most_frequent(m, n);
        let sequences = random_sequences(&mut stream, examples, m, n);
        let mut counts = vec![0f32; examples * m];
        for (example, sequence) in sequences.iter().enumerate() {
            sequence.iter().for_each(|token| counts[example * m + *token as usize] += 1.0);
        }
        let last = sequences.iter().map(|sequence| sequence[n - 1]).collect();
        let by_counts = built.run_input(&Input::Counts { counts, last });
        for ((sequence, output), same) in sequences.iter().zip(built.run(&sequences)).zip(by_counts) {
            assert_eq!(output.round(), highest_count(sequence));
            assert!((output - same).abs() < 1e-10);
        }
    }
}

#[test]
fn order_does_not_matter_before_the_last_token() {
    let mut stream = Stream::new(4, "test", 0);
    let (m, n) = (5, 50);
    let sequences = random_sequences(&mut stream, 10, m, n);
    let shuffled: Vec<Vec<u32>> = sequences
        .iter()
        .map(|sequence| {
            let order = stream.permutation(n as u32 - 1);
            order.iter().map(|at| sequence[*at as usize]).chain([sequence[n - 1]]).collect()
        })
        .collect();
    let kappa = 1.5 * sharp_enough(m, n);
    for built in [histogram(m, 8, n, Precision::F64), count_attend(m, n, kappa), most_frequent(m, n)] {
        for (output, same) in built.run(&sequences).into_iter().zip(built.run(&shuffled)) {
            assert!((output - same).abs() < 1e-6);
        }
    }
}

/// Why counts that depend on the length cannot be read without positions.
#[test]
fn without_positions_a_repeated_sequence_looks_the_same() {
    let sequences = random_sequences(&mut Stream::new(5, "test", 0), 10, 5, 20);
    let twice: Vec<Vec<u32>> = sequences.iter().map(|sequence| sequence.repeat(2)).collect();
    let built = histogram(5, 8, 20, Precision::F64);
    for (output, same) in built.run(&sequences).into_iter().zip(built.run(&twice)) {
        assert!((output - same).abs() < 1e-10);
    }
}

/// Exact law of the label: 1 + Binomial(10 m - 1, 1/m); its most likely value is the best constant answer.
#[test]
fn a_constant_answer_is_right_at_chance_level() {
    for (m, mode, chance) in [(5, 10.0, 0.1398), (10, 10.0, 0.1319), (20, 11.0, 0.1284), (50, 10.0, 0.1264)] {
        let task = config(json!({
            "task": {"kind": "query-count", "vocab": m},
            "model": {"kind": "transformer", "layers": 1, "heads": 1, "dim": 4},
            "train": {"steps": 1, "batch": 1, "optimizer": {"kind": "adam", "lr": 1e-3}}
        }))
        .task;
        let batch = task.examples(11).evaluation(Split::Test, Form::Counts).unwrap();
        let Targets::Scalars(labels) = batch.targets else { panic!("counts are numbers") };
        let share = labels.iter().filter(|label| **label == mode).count() as f64 / labels.len() as f64;
        let error = (chance * (1.0 - chance) / labels.len() as f64).sqrt();
        assert!((share - chance).abs() < 3.0 * error, "m {m}: {share}, not {chance}");
    }
}
