//! Attention and rotary positions against their references: every form, map, mask and size.
#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

#[path = "support/programs.rs"]
mod programs;

use candle_core::Result;
use plateau_lab::ops::attention::AttentionPlan;
use plateau_lab::ops::embedding::Positional;
use plateau_lab::ops::linear::WeightLayout;
use plateau_lab::ops::rows::RowMap;
use plateau_lab::program::{Extent, Graph, Rows, Source, Value};
use programs::{Case, check, single};

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
        graph.embedding(0, all, Positional::Learned(5), positions.clone())?
    } else {
        let ids = graph.slot(Source::Tokens, single(length));
        graph.embedding(0, ids, Positional::Learned(5), positions.clone())?
    };
    let table = |graph: &mut Graph, count: usize| RowMap::Table(graph.slot(Source::Pairs { vocabulary: 1 }, single(count)));
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
        k = graph.rotary(k, heads, &positions)?;
        let asked = if rowing == Rowing::LastAlone { &positions[length - 1..] } else { &positions[..] };
        q = graph.rotary(q, heads, asked)?;
    }
    let key_bias = shape.bias.then(|| graph.slot(Source::LogCounts, single(length)));
    let factors = Extent { rows: Rows::PerExample(queries * heads), width: length };
    let dropout = shape.dropout.then(|| graph.slot(Source::Dropout, factors));
    let plan = AttentionPlan {
        heads,
        queries,
        keys: length,
        query_rows,
        key_rows,
        causal: shape.causal,
        key_bias,
        dropout,
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
    ];
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
        for length in [3, 9, 40] {
            let deviation = 0.5;
            check_shape(Shape { length, deviation, ..PLAIN }, rowing);
            check_shape(Shape { length, deviation, bias: true, dropout: true, causal: true, rotary: true, ..PLAIN }, rowing);
        }
    }
}
