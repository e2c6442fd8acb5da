//! The operations one by one under criterion, on one thread in 32 bits: `cargo bench -p plateau-bench --bench operations`.
//!
//! An operation is recorded [`TIMES`] times in a row between an embedding and a read-out, and the whole is run forward and
//! back. Reported is the time of the whole per occurrence, so the ends (and the maps that attention asks and answers
//! with) weigh a little; `ends` is the time of the ends alone, undivided. Throughput counts rows of [`WIDTH`] numbers.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use candle_core::Result;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use plateau_common::config::{AdamConfig, OptimizerConfig};
use plateau_common::random::Stream;
use plateau_lab::cpu::{Executor, Feed, Team};
use plateau_lab::model::{Initial, ParameterSpecification};
use plateau_lab::ops::attention::AttentionPlan;
use plateau_lab::ops::embedding::{Positional, RowPositions};
use plateau_lab::ops::linear::WeightLayout;
use plateau_lab::ops::objective::Answers;
use plateau_lab::ops::rows::RowMap;
use plateau_lab::optimizer::{ReplicaRule, update};
use plateau_lab::program::{Extent, Graph, Program, Rows, SlotKind, Source, Value};

const EXAMPLES: usize = 32;
const LENGTH: usize = 64;
const WIDTH: usize = 128;
const HEADS: usize = 4;
const TOKENS: usize = 97;
/// Occurrences of the operation in a program.
const TIMES: usize = 8;

/// Parameters of every program, by place.
const TABLE: usize = 0;
const SQUARE: usize = 1;
const BIAS: usize = 2;
const GAIN: usize = 3;
const READ_OUT: usize = 4;

/// Records one occurrence: the value before, and keys and values that attention may use.
type Record = fn(&mut Graph, Value, [Value; 2]) -> Result<Value>;

fn linear(graph: &mut Graph, x: Value, _: [Value; 2]) -> Result<Value> {
    graph.linear(x, SQUARE, Some(BIAS), WeightLayout::InOut)
}

fn layer_norm(graph: &mut Graph, x: Value, _: [Value; 2]) -> Result<Value> {
    graph.layer_norm(x, GAIN, BIAS)
}

fn rms_norm(graph: &mut Graph, x: Value, _: [Value; 2]) -> Result<Value> {
    graph.rms_norm(x, GAIN)
}

fn relu(graph: &mut Graph, x: Value, _: [Value; 2]) -> Result<Value> {
    Ok(graph.relu(x))
}

fn gelu(graph: &mut Graph, x: Value, _: [Value; 2]) -> Result<Value> {
    Ok(graph.gelu(x))
}

fn rotary(graph: &mut Graph, x: Value, _: [Value; 2]) -> Result<Value> {
    let positions: Vec<u32> = (0..LENGTH as u32).collect();
    graph.rotary(x, HEADS, 10_000.0, &positions)
}

fn attend(graph: &mut Graph, q: Value, [k, v]: [Value; 2], causal: bool) -> Result<Value> {
    let plan = AttentionPlan {
        heads: HEADS,
        queries: LENGTH,
        keys: LENGTH,
        query_rows: RowMap::Own,
        key_rows: RowMap::Own,
        causal,
        ragged: None,
        key_bias: None,
        dropout: None,
        logit_bias: None,
    };
    graph.attention(q, k, v, plan)
}

fn attention(graph: &mut Graph, q: Value, others: [Value; 2]) -> Result<Value> {
    attend(graph, q, others, false)
}

fn causal_attention(graph: &mut Graph, q: Value, others: [Value; 2]) -> Result<Value> {
    attend(graph, q, others, true)
}

/// Every fused operation whose output has its input's form.
const OPERATIONS: [(&str, Record); 8] = [
    ("linear", linear),
    ("layer-norm", layer_norm),
    ("rms-norm", rms_norm),
    ("relu", relu),
    ("gelu", gelu),
    ("rotary", rotary),
    ("attention", attention),
    ("attention-causal", causal_attention),
];

fn program(times: usize, record: Record) -> Result<Program> {
    let shapes: [(&str, &[usize]); 5] = [
        ("table", &[TOKENS, WIDTH]),
        ("square", &[WIDTH, WIDTH]),
        ("bias", &[WIDTH]),
        ("gain", &[WIDTH]),
        ("read-out", &[WIDTH, TOKENS]),
    ];
    let parameters = shapes.map(|(name, shape)| ParameterSpecification {
        name: name.to_owned(),
        shape: shape.to_vec(),
        initial: Initial::Constant(0.0),
    });
    let mut graph = Graph::new(parameters.into());
    let single = Extent { rows: Rows::PerExample(LENGTH), width: 1 };
    let ids = graph.slot(Source::Tokens, single);
    let embedded = graph.embedding(TABLE, ids, Positional::None, RowPositions::Known(Vec::new()))?;
    let keys = graph.linear(embedded, SQUARE, None, WeightLayout::InOut)?;
    let values = graph.linear(embedded, SQUARE, None, WeightLayout::InOut)?;
    let mut x = embedded;
    for _ in 0..times {
        x = record(&mut graph, x, [keys, values])?;
    }
    // Keys and values must reach the loss whatever the operation is.
    x = graph.add(x, keys)?;
    x = graph.add(x, values)?;
    let outputs = graph.linear(x, READ_OUT, None, WeightLayout::InOut)?;
    let answers = Answers::Classes(graph.slot(Source::Classes, single));
    graph.objective(outputs, answers, None)?;
    graph.finish(outputs, EXAMPLES, false)
}

fn time_of_passes(program: Program, count: u64) -> Duration {
    let stream = &mut Stream::new(0, "operations", 0);
    let parameters: Vec<f32> = (0..program.layout.count()).map(|_| 0.1 * stream.normal() as f32).collect();
    let mut feed = Feed::empty(program.slots.len());
    feed.examples = EXAMPLES;
    feed.loss_scale = 1.0 / (EXAMPLES * LENGTH) as f64;
    for (slot, specification) in program.slots.iter().enumerate() {
        if specification.source != Source::Constant && specification.kind == SlotKind::Ids {
            let ids = (0..specification.extent.count(EXAMPLES)).map(|_| stream.below(TOKENS as u32));
            feed.ids_mut(slot).extend(ids);
        }
    }
    let team = Team::new(1);
    let mut executor = Executor::<f32>::new(Arc::new(program), 1);
    executor.differentiate(&team, &parameters, &feed);
    let start = Instant::now();
    for _ in 0..count {
        black_box(executor.differentiate(&team, &parameters, &feed));
    }
    start.elapsed()
}

fn operations(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("operation");
    group.throughput(Throughput::Elements((EXAMPLES * LENGTH) as u64)).sample_size(20);
    group.bench_function("ends", |bencher| {
        bencher.iter_custom(|count| time_of_passes(program(0, linear).expect("a valid program"), count));
    });
    for (name, record) in OPERATIONS {
        group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
            bencher.iter_custom(|count| {
                time_of_passes(program(TIMES, record).expect("a valid program"), count) / TIMES as u32
            });
        });
    }
    group.finish();
}

fn optimizer(criterion: &mut Criterion) {
    const COUNT: usize = 200_000;
    const ADAM: AdamConfig = AdamConfig {
        lr: 1e-3,
        beta1: 0.9,
        beta2: 0.98,
        eps: 1e-8,
        weight_decay: 1.0,
        decay_biases_and_norms: true,
    };
    let mut group = criterion.benchmark_group("optimizer");
    group.throughput(Throughput::Elements(COUNT as u64));
    group.bench_function("adamw", |bencher| {
        let mut arena: [Vec<f32>; 3] = [vec![0.1; COUNT], vec![0.0; COUNT], vec![0.0; COUNT]];
        let gradient = vec![0.01f32; COUNT];
        let rule = ReplicaRule { optimizer: OptimizerConfig::AdamW(ADAM), clip: Some(1.0) };
        let mut number = 0;
        bencher.iter(|| {
            number += 1;
            let [parameters, first, second] = &mut arena;
            update(&rule, (2.0, number, 1.0), true, parameters, &gradient, [first, second]);
        });
    });
    group.finish();
}

criterion_group!(benches, operations, optimizer);
criterion_main!(benches);
