//! Attention and rotary positions against their references: every form, map, mask and size.
#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

#[path = "support/programs.rs"]
mod programs;

use std::sync::Arc;

use candle_core::Result;
use plateau_lab::cpu::{Executor, Feed, MicroBatch, SlotData, Team};
use plateau_lab::model::{Initial, ParameterSpecification};
use plateau_lab::ops::attention::AttentionPlan;
use plateau_lab::ops::embedding::{Positional, RowPositions};
use plateau_lab::ops::linear::WeightLayout;
use plateau_lab::ops::objective::Answers;
use plateau_lab::ops::rows::RowMap;
use plateau_lab::program::{Extent, Graph, Program, Rows, Source, Value};
use programs::{Case, check, narrow, relative, single};
use proptest::prelude::{ProptestConfig, any, proptest};

/// Which attention is checked.
#[derive(Clone, Copy, Debug)]
struct Shape {
    examples: usize,
    length: usize,
    heads: usize,
    head: usize,
    causal: bool,
    bias: bool,
    dropout: bool,
    rotary: bool,
    /// Whether the logits have a bias, which is a parameter.
    logit_bias: bool,
    deviation: f64,
}

const PLAIN: Shape = Shape {
    examples: 3,
    length: 5,
    heads: 2,
    head: 4,
    causal: false,
    bias: false,
    dropout: false,
    rotary: false,
    logit_bias: false,
    deviation: 0.8,
};

/// Where queries and keys come from.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Rowing {
    /// Every position asks and is asked.
    Own,
    /// The last position asks.
    Last,
    /// The last position asks from a row of its own.
    LastAlone,
    /// Keys and queries are rows of a table that examples share.
    Table,
    /// Keys are rows of a table, the last position asks from it.
    TableLast,
    /// Keys are a table in order, and so are the queries.
    InOrder,
    /// The same, and one row of it asks.
    InOrderOne,
    /// One of the example's own rows asks.
    Chosen,
}

const ROWINGS: [Rowing; 8] = [
    Rowing::Own,
    Rowing::Last,
    Rowing::LastAlone,
    Rowing::Table,
    Rowing::TableLast,
    Rowing::InOrder,
    Rowing::InOrderOne,
    Rowing::Chosen,
];

/// Rows of the table of tokens; ids are drawn below it.
const TOKENS: usize = 6;

fn record(graph: &mut Graph, shape: Shape, rowing: Rowing) -> Result<Value> {
    let Shape { length, heads, .. } = shape;
    let shared = matches!(rowing, Rowing::Table | Rowing::TableLast | Rowing::InOrder | Rowing::InOrderOne);
    let rows = if shared { TOKENS.max(length) } else { length };
    let positions: Vec<u32> = (0..rows as u32).collect();
    let x = if shared {
        let all = graph.constant_ids("all", 1, positions.iter().map(|row| row % TOKENS as u32).collect());
        graph.embedding(0, all, Positional::Learned(5), RowPositions::Known(positions.clone()))?
    } else {
        let ids = graph.slot(Source::Tokens, single(length));
        graph.embedding(0, ids, Positional::Learned(5), RowPositions::Known(positions.clone()))?
    };
    let table = |graph: &mut Graph, count: usize| {
        RowMap::Table(graph.slot(Source::Pairs { vocabulary: 1 }, single(count)))
    };
    let (queries, query_rows, key_rows) = match rowing {
        Rowing::Own => (length, RowMap::Own, RowMap::Own),
        Rowing::Last | Rowing::LastAlone => (1, RowMap::Last, RowMap::Own),
        Rowing::Table => (length, table(graph, length), table(graph, length)),
        Rowing::TableLast => (1, table(graph, 1), table(graph, length)),
        Rowing::InOrder => (length, RowMap::InOrder, RowMap::InOrder),
        Rowing::InOrderOne => (1, table(graph, 1), RowMap::InOrder),
        Rowing::Chosen => (1, RowMap::OwnChosen(graph.slot(Source::LastToken, single(1))), RowMap::Own),
    };
    let (asking, query_rows) = match rowing {
        Rowing::LastAlone => (graph.select(x, RowMap::Last, 1)?, RowMap::Own),
        _ => (x, query_rows),
    };
    let mut q = graph.linear(asking, 1, None, WeightLayout::InOut)?;
    let mut k = graph.linear(x, 2, None, WeightLayout::InOut)?;
    let v = graph.linear(x, 3, None, WeightLayout::InOut)?;
    if shape.rotary {
        k = graph.rotary(k, heads, 10_000.0, &positions)?;
        let asked = if rowing == Rowing::LastAlone { &positions[length - 1..] } else { &positions[..] };
        q = graph.rotary(q, heads, 10_000.0, asked)?;
    }
    let key_bias = shape.bias.then(|| graph.slot(Source::LogCounts, single(length)));
    let factors = Extent { rows: Rows::PerExample(queries * heads), width: length };
    let dropout = shape.dropout.then(|| graph.slot(Source::Dropout, factors));
    let rows: Vec<u32> = (0..(heads * length) as u32).collect();
    let logit_bias = match shape.logit_bias {
        true => {
            let all = graph.constant_ids("rows of the bias", 1, rows);
            Some(graph.embedding(6, all, Positional::None, RowPositions::Known(Vec::new()))?)
        }
        false => None,
    };
    let plan = AttentionPlan {
        heads,
        queries,
        keys: length,
        query_rows,
        key_rows,
        causal: shape.causal,
        ragged: None,
        key_bias,
        dropout,
        logit_bias,
    };
    let mixed = graph.attention(q, k, v, plan)?;
    graph.linear(mixed, 4, None, WeightLayout::InOut)
}

fn check_shape(shape: Shape, rowing: Rowing) {
    let width = shape.heads * shape.head;
    let parameters: &[(&str, &[usize])] = &[
        ("tokens", &[TOKENS, width]),
        ("query", &[width, width]),
        ("key", &[width, width]),
        ("value", &[width, width]),
        ("out", &[width, 3]),
        ("positions", &[TOKENS.max(shape.length), width]),
        ("logit bias", &[shape.heads * shape.length, shape.length]),
    ];
    let parameters = &parameters[..if shape.logit_bias { 7 } else { 6 }];
    check(
        &format!("{rowing:?} {shape:?}"),
        &Case {
            parameters,
            examples: shape.examples,
            ids_below: TOKENS.min(shape.length.max(1)) as u32,
            deviation: shape.deviation,
            record: &|graph| record(graph, shape, rowing),
        },
    );
}

#[test]
fn all_maps_in_both_forms() {
    for rowing in ROWINGS {
        for length in [3, 9] {
            let deviation = 0.5;
            check_shape(Shape { length, deviation, ..PLAIN }, rowing);
            let all =
                Shape { bias: true, dropout: true, causal: true, rotary: true, logit_bias: true, ..PLAIN };
            check_shape(Shape { length, deviation, ..all }, rowing);
            check_shape(Shape { length, deviation, logit_bias: true, ..PLAIN }, rowing);
        }
    }
}

/// Lengths around the edges of half and whole panels and of blocks of keys, head sizes around those of vectors.
#[test]
fn panels_and_blocks_of_every_width() {
    for (length, heads, head, causal) in [
        (8, 1, 3, false),
        (16, 1, 8, true),
        (17, 2, 8, false),
        (33, 1, 40, true),
        (32, 1, 16, false),
        (100, 1, 5, true),
    ] {
        let shape = Shape { examples: 2, length, heads, head, causal, deviation: 0.4, ..PLAIN };
        check_shape(shape, Rowing::Own);
        check_shape(Shape { logit_bias: true, ..shape }, Rowing::Own);
        check_shape(shape, Rowing::Last);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_shapes(
        (examples, length, heads, half) in (1usize..4, 2usize..44, 1usize..4, 1usize..9),
        (causal, bias, dropout, rotary, logit_bias) in any::<(bool, bool, bool, bool, bool)>(),
        rowing in 0..ROWINGS.len(),
    ) {
        let head = 2 * half;
        let shape =
            Shape { examples, length, heads, head, causal, bias, dropout, rotary, logit_bias, deviation: 0.4 };
        check_shape(shape, ROWINGS[rowing]);
    }
}

/// Attention of rows that are parameters themselves: `[examples, length, width]` each of q, k and v.
struct Bare {
    examples: usize,
    length: usize,
    heads: usize,
    head: usize,
    causal: bool,
    /// `[examples, length]`.
    biases: Vec<f64>,
}

impl Bare {
    fn width(&self) -> usize {
        self.heads * self.head
    }

    fn program(&self) -> Arc<Program> {
        let shape = vec![self.examples * self.length, self.width()];
        let parameter = |name: &str| ParameterSpecification {
            name: name.to_owned(),
            shape: shape.clone(),
            initial: Initial::Constant(0.0),
        };
        let mut graph = Graph::new(["q", "k", "v"].map(parameter).to_vec());
        let ids = graph.slot(Source::Tokens, single(self.length));
        let key_bias = graph.slot(Source::LogCounts, single(self.length));
        let [q, k, v] = [0, 1, 2].map(|table| {
            graph.embedding(table, ids, Positional::None, RowPositions::Known(Vec::new())).unwrap()
        });
        let plan = AttentionPlan {
            heads: self.heads,
            queries: self.length,
            keys: self.length,
            query_rows: RowMap::Own,
            key_rows: RowMap::Own,
            causal: self.causal,
            ragged: None,
            key_bias: Some(key_bias),
            dropout: None,
            logit_bias: None,
        };
        let mixed = graph.attention(q, k, v, plan).unwrap();
        let classes = graph.slot(Source::Classes, single(self.length));
        graph.objective(mixed, Answers::Classes(classes), None).unwrap();
        Arc::new(graph.finish(mixed, self.examples, false).unwrap())
    }

    /// Outputs and gradients in 64 bits and in 32.
    fn run(&self, parameters: &[f64]) -> [(Vec<f64>, Vec<f64>); 2] {
        let rows = (self.examples * self.length) as u32;
        let slots = vec![
            SlotData::Ids((0..rows).collect()),
            SlotData::Numbers(self.biases.clone()),
            SlotData::Ids((0..rows).map(|row| row % self.width() as u32).collect()),
        ];
        let feed = Feed { examples: self.examples, slots, loss_scale: 1.0, ..Feed::empty(0) };
        let (team, program) = (Team::new(1), self.program());
        let mut wide = Executor::<f64>::new(program.clone(), 1);
        wide.differentiate(&team, parameters, &feed);
        let gradients = wide.gradients().to_vec();
        wide.forward(&team, parameters, &feed, MicroBatch::of_examples(0, self.examples));
        let in_64 = (wide.outputs(self.examples).to_vec(), gradients);
        let parameters: Vec<f32> = parameters.iter().map(|number| *number as f32).collect();
        let (feed, mut small) = (narrow(&feed), Executor::<f32>::new(program, 1));
        small.differentiate(&team, &parameters, &feed);
        let widened = |numbers: &[f32]| numbers.iter().map(|number| f64::from(*number)).collect::<Vec<f64>>();
        let gradients = widened(small.gradients());
        small.forward(&team, &parameters, &feed, MicroBatch::of_examples(0, self.examples));
        [in_64, (widened(small.outputs(self.examples)), gradients)]
    }

    /// The outputs, as the definition says.
    fn expected(&self, parameters: &[f64]) -> Vec<f64> {
        let (width, count) = (self.width(), self.examples * self.length * self.width());
        let (q, k, v) = (&parameters[..count], &parameters[count..2 * count], &parameters[2 * count..]);
        let mut outputs = vec![0.0; count];
        for (row, output) in outputs.chunks_exact_mut(width).enumerate() {
            let (example, query) = (row / self.length, row % self.length);
            let visible = if self.causal { query + 1 } else { self.length };
            let start = example * self.length;
            for head in 0..self.heads {
                let own =
                    |table: &[f64], row: usize, index: usize| table[row * width + head * self.head + index];
                let logit = |key: usize| {
                    let dot: f64 =
                        (0..self.head).map(|index| own(q, row, index) * own(k, start + key, index)).sum();
                    dot / (self.head as f64).sqrt() + self.biases[start + key]
                };
                let logits: Vec<f64> = (0..visible).map(logit).collect();
                let highest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let weights: Vec<f64> = logits.iter().map(|logit| (logit - highest).exp()).collect();
                let total: f64 = weights.iter().sum();
                for index in 0..self.head {
                    let mixed: f64 = (0..visible).map(|key| weights[key] * own(v, start + key, index)).sum();
                    output[head * self.head + index] = mixed / total;
                }
            }
        }
        outputs
    }
}

/// Numbers from -1, 0 and 1 in no regular order.
fn signs(count: usize) -> Vec<f64> {
    (0..count as u64)
        .map(|at| ((at * at * 2_654_435_761 + at * 40_503) >> 7) % 3)
        .map(|sign| sign as f64 - 1.0)
        .collect()
}

/// Logits so large that weights are 0, 1 or shared by ties, and so small that all are the same.
#[test]
fn extreme_logits() {
    for (length, causal) in [(5, false), (5, true), (40, false), (100, true)] {
        let bare = Bare { examples: 2, length, heads: 2, head: 4, causal, biases: vec![0.0; 2 * length] };
        let table = 2 * length * bare.width();
        for size in [1e-30, 64.0, 16_384.0] {
            let mut parameters = signs(3 * table);
            parameters[..2 * table].iter_mut().for_each(|number| *number *= size);
            let expected = bare.expected(&parameters);
            let [wide, small] = bare.run(&parameters);
            assert!(
                relative(&wide.0, &expected) < 1e-12 && relative(&small.0, &expected) < 1e-6,
                "{length} {size}"
            );
            assert!(relative(&small.1, &wide.1) < 1e-5, "{length} {size}: {:e}", relative(&small.1, &wide.1));
        }
    }
}

/// A bias of minus infinity hides a key from all queries, and it gets no gradient.
#[test]
fn hidden_keys() {
    for length in [4, 40] {
        let hidden = |row: usize| (row % length + row / length) % 3 == 1;
        let biases =
            (0..2 * length).map(|row| if hidden(row) { f64::NEG_INFINITY } else { (row as f64).sin() });
        let bare = Bare { examples: 2, length, heads: 2, head: 4, causal: false, biases: biases.collect() };
        let (width, table) = (bare.width(), 2 * length * bare.width());
        let parameters: Vec<f64> = (0..3 * table).map(|at| (at as f64 * 0.7).sin()).collect();
        let expected = bare.expected(&parameters);
        for (tolerance, (outputs, gradients)) in [1e-12, 1e-6].into_iter().zip(bare.run(&parameters)) {
            assert!(relative(&outputs, &expected) < tolerance);
            for (row, gradient) in gradients[table..].chunks_exact(width).enumerate() {
                let is_zero = gradient.iter().all(|number| *number == 0.0);
                assert_eq!(is_zero, hidden(row % (2 * length)), "row {row} of {length}: {gradient:?}");
            }
        }
    }
}

/// The first two coordinates of a head of two turn by one radian a position, those of a longer one by less the later they
/// are; the first position stands still.
#[test]
fn rotary_positions_turn_pairs() {
    let parameter =
        ParameterSpecification { name: "row".to_owned(), shape: vec![1, 4], initial: Initial::Constant(0.0) };
    let mut graph = Graph::new(vec![parameter]);
    let ids = graph.constant_ids("the row", 1, vec![0; 3]);
    let x = graph.embedding(0, ids, Positional::None, RowPositions::Known(Vec::new())).unwrap();
    let turned = graph.rotary(x, 1, 10_000.0, &[0, 1, 7]).unwrap();
    let own = graph.select(turned, RowMap::InOrder, 3).unwrap();
    let classes = graph.slot(Source::Classes, single(3));
    graph.objective(own, Answers::Classes(classes), None).unwrap();
    let program = Arc::new(graph.finish(own, 1, false).unwrap());
    let (team, mut executor) = (Team::new(1), Executor::<f64>::new(program.clone(), 1));
    let mut feed = Feed::empty(program.slots.len());
    feed.examples = 1;
    feed.ids_mut(classes).extend([0, 0, 0]);
    let row = [1.0, 2.0, 3.0, 5.0];
    executor.prepare(&team, &row, &feed);
    executor.forward(&team, &row, &feed, MicroBatch::of_examples(0, 1));
    for (output, position) in executor.outputs(1).chunks_exact(4).zip([0.0f64, 1.0, 7.0]) {
        let (fast, slow) = (position, position / 100.0);
        let expected = [
            fast.cos() - 3.0 * fast.sin(),
            2.0 * slow.cos() - 5.0 * slow.sin(),
            3.0 * fast.cos() + fast.sin(),
            5.0 * slow.cos() + 2.0 * slow.sin(),
        ];
        assert!(relative(output, &expected) < 1e-14, "{output:?}, not {expected:?}");
    }
}

/// Recordings whose shapes do not fit are refused.
#[test]
fn misfits_are_refused() {
    let parameter = |name: &str| ParameterSpecification {
        name: name.to_owned(),
        shape: vec![4, 6],
        initial: Initial::Constant(0.0),
    };
    let mut graph = Graph::new(["q", "k", "v"].map(parameter).to_vec());
    let ids = graph.slot(Source::Tokens, single(3));
    let [q, k, v] = [0, 1, 2]
        .map(|table| graph.embedding(table, ids, Positional::None, RowPositions::Known(Vec::new())).unwrap());
    let (bias, other) = (graph.slot(Source::LogCounts, single(3)), graph.slot(Source::LogCounts, single(2)));
    let plan = AttentionPlan {
        heads: 2,
        queries: 3,
        keys: 3,
        query_rows: RowMap::Own,
        key_rows: RowMap::Own,
        causal: true,
        ragged: None,
        key_bias: Some(bias),
        dropout: None,
        logit_bias: None,
    };
    for misfit in [
        AttentionPlan { heads: 4, ..plan },
        AttentionPlan { heads: 0, ..plan },
        AttentionPlan { queries: 2, ..plan },
        AttentionPlan { keys: 2, ..plan },
        AttentionPlan { queries: 1, ..plan },
        AttentionPlan { key_rows: RowMap::InOrder, ..plan },
        AttentionPlan { key_rows: RowMap::OwnChosen(bias), ..plan },
        AttentionPlan { key_bias: Some(other), ..plan },
        AttentionPlan { key_bias: Some(ids), ..plan },
        AttentionPlan { dropout: Some(bias), ..plan },
    ] {
        assert!(graph.attention(q, k, v, misfit).is_err(), "{misfit:?}");
    }
    assert!(graph.attention(q, k, k, plan).is_err());
    assert!(
        graph.rotary(q, 2, 10_000.0, &[0, 1, 2]).is_err() && graph.rotary(q, 1, 10_000.0, &[0, 1]).is_err()
    );
    assert!(graph.attention(q, k, v, plan).is_ok() && graph.rotary(q, 3, 10_000.0, &[0, 1, 2]).is_ok());
}
