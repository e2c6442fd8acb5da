//! Every operation against its reference, alone and in small models.
#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

#[path = "support/programs.rs"]
mod programs;

use std::sync::Arc;

use plateau_lab::cpu::{Executor, Feed, Team};
use plateau_lab::model::{Initial, ParameterSpecification};
use plateau_lab::ops::embedding::{Positional, RowPositions};
use plateau_lab::ops::linear::WeightLayout;
use plateau_lab::ops::objective::Answers;
use plateau_lab::ops::rows::RowMap;
use plateau_lab::program::{Graph, Source};
use programs::{Case, check, check_values, single};
use proptest::prelude::{ProptestConfig, any, proptest};

/// Shapes around the edges of tiles and vectors.
const SIZES: [(usize, usize, usize); 4] = [(1, 2, 3), (5, 7, 33), (13, 16, 9), (4, 40, 70)];

#[test]
fn linear_maps_with_everything_fused() {
    for (examples, inputs, outputs) in SIZES {
        check(
            "linear",
            &Case {
                parameters: &[
                    ("table", &[6, inputs]),
                    ("up", &[inputs, outputs]),
                    ("up_bias", &[outputs]),
                    ("down", &[inputs, outputs]),
                    ("down_bias", &[inputs]),
                    ("out", &[inputs, 4]),
                ],
                examples,
                ids_below: 6,
                deviation: 0.7,
                record: &|graph| {
                    let ids = graph.slot(Source::Tokens, single(3));
                    let x = graph.embedding(0, ids, Positional::None, RowPositions::Known(Vec::new()))?;
                    let up = graph.linear(x, 1, Some(2), WeightLayout::InOut)?;
                    let hidden = graph.relu(up);
                    let down = graph.linear(hidden, 3, Some(4), WeightLayout::OutIn)?;
                    let states = graph.add(x, down)?;
                    graph.linear(states, 5, None, WeightLayout::InOut)
                },
            },
        );
    }
}

#[test]
fn tied_read_out_and_positions() {
    for (examples, width, length) in [(3, 5, 4), (7, 18, 2)] {
        check(
            "tied",
            &Case {
                parameters: &[("tokens", &[9, width]), ("positions", &[length, width]), ("bias", &[9])],
                examples,
                ids_below: 9,
                deviation: 0.6,
                record: &|graph| {
                    let ids = graph.slot(Source::Tokens, single(length));
                    let x = graph.embedding(
                        0,
                        ids,
                        Positional::Learned(1),
                        RowPositions::Known((0..length as u32).collect()),
                    )?;
                    graph.linear(x, 0, Some(2), WeightLayout::OutIn)
                },
            },
        );
    }
}

#[test]
fn constant_positions_and_rows_shared_by_examples() {
    let (vocabulary, length, width) = (5, 3, 8);
    check(
        "pairs",
        &Case {
            parameters: &[("tokens", &[vocabulary, width]), ("map", &[width, width]), ("out", &[width, 3])],
            examples: 11,
            ids_below: (vocabulary * length) as u32,
            deviation: 0.8,
            record: &|graph| {
                let rows = 0..(vocabulary * length) as u32;
                let tokens = graph.constant_ids("tokens", 1, rows.clone().map(|row| row % 5).collect());
                let table = graph.constant_numbers(
                    "table",
                    width,
                    (0..length * width).map(|at| (at as f64).sin()).collect(),
                );
                let positions = rows.map(|row| row / 5).collect();
                let table = graph.embedding(
                    0,
                    tokens,
                    Positional::Constant(table),
                    RowPositions::Known(positions),
                )?;
                let mapped = graph.linear(table, 1, None, WeightLayout::InOut)?;
                let mapped = graph.relu(mapped);
                let pairs = graph.slot(Source::Pairs { vocabulary }, single(length));
                let own = graph.select(mapped, RowMap::Table(pairs), length)?;
                let last = graph.select(own, RowMap::Last, 1)?;
                let again = graph.linear(last, 1, None, WeightLayout::InOut)?;
                let states = graph.add(last, again)?;
                graph.linear(states, 2, None, WeightLayout::InOut)
            },
        },
    );
}

#[test]
fn chosen_rows() {
    check(
        "chosen",
        &Case {
            parameters: &[("tokens", &[4, 6]), ("out", &[6, 3])],
            examples: 5,
            ids_below: 4,
            deviation: 1.0,
            record: &|graph| {
                let all = graph.constant_ids("all", 1, (0..4).collect());
                let table = graph.embedding(0, all, Positional::None, RowPositions::Known(Vec::new()))?;
                let own = graph.select(table, RowMap::InOrder, 4)?;
                let chosen = graph.slot(Source::LastToken, single(1));
                let chosen = graph.select(own, RowMap::OwnChosen(chosen), 1)?;
                graph.linear(chosen, 1, None, WeightLayout::InOut)
            },
        },
    );
}

#[test]
fn norms() {
    for (examples, width) in [(1, 2), (6, 17), (5, 64)] {
        let parameters: &[(&str, &[usize])] = &[
            ("tokens", &[7, width]),
            ("gain", &[width]),
            ("bias", &[width]),
            ("scale", &[width]),
            ("out", &[width, 3]),
        ];
        check(
            "norms",
            &Case {
                parameters,
                examples,
                ids_below: 7,
                deviation: 1.3,
                record: &|graph| {
                    let ids = graph.slot(Source::Tokens, single(2));
                    let x = graph.embedding(0, ids, Positional::None, RowPositions::Known(Vec::new()))?;
                    let normed = graph.layer_norm(x, 1, 2)?;
                    let other = graph.rms_norm(x, 3)?;
                    let both = graph.add(normed, other)?;
                    graph.linear(both, 4, None, WeightLayout::InOut)
                },
            },
        );
    }
}

#[test]
fn activations_sums_and_factors() {
    let parameters: &[(&str, &[usize])] =
        &[("tokens", &[7, 6]), ("gate", &[6, 10]), ("up", &[6, 10]), ("down", &[10, 6]), ("out", &[6, 3])];
    check(
        "activations",
        &Case {
            parameters,
            examples: 6,
            ids_below: 7,
            deviation: 0.9,
            record: &|graph| {
                let ids = graph.slot(Source::Tokens, single(3));
                let x = graph.embedding(0, ids, Positional::None, RowPositions::Known(Vec::new()))?;
                let factors = graph.slot(Source::Dropout, graph.extent(x));
                let x = graph.scaled(x, factors)?;
                let gate = graph.linear(x, 1, None, WeightLayout::InOut)?;
                let up = graph.linear(x, 2, None, WeightLayout::InOut)?;
                let hidden = graph.geglu(gate, up)?;
                let down = graph.linear(hidden, 3, None, WeightLayout::InOut)?;
                let gelu = graph.gelu(down);
                // A residual that is not the last reader of its value, and one that is not a linear map's.
                let first = graph.add(x, gelu)?;
                let relu = graph.relu(x);
                let second = graph.add(first, relu)?;
                graph.linear(second, 4, None, WeightLayout::InOut)
            },
        },
    );
}

#[test]
fn squared_errors() {
    for (examples, rows) in [(1, 1), (6, 1), (5, 4)] {
        check(
            "squared errors",
            &Case {
                parameters: &[("tokens", &[9, 5]), ("out", &[5, 1]), ("out_bias", &[1])],
                examples,
                ids_below: 9,
                deviation: 0.8,
                record: &|graph| {
                    let ids = graph.slot(Source::Tokens, single(rows));
                    let x = graph.embedding(0, ids, Positional::None, RowPositions::Known(Vec::new()))?;
                    graph.linear(x, 1, Some(2), WeightLayout::InOut)
                },
            },
        );
    }
}

/// Norms of huge rows, activations far out and logits of many thousands, where shares are 0 or 1.
#[test]
fn extreme_values() {
    let parameters: &[(&str, &[usize])] = &[
        ("tokens", &[7, 6]),
        ("gain", &[6]),
        ("bias", &[6]),
        ("scale", &[6]),
        ("gate", &[6, 10]),
        ("down", &[10, 6]),
        ("out", &[6, 5]),
    ];
    for deviation in [1e-6, 1e-3, 30.0, 1e3] {
        let case = Case {
            parameters,
            examples: 4,
            ids_below: 7,
            deviation,
            record: &|graph| {
                let ids = graph.slot(Source::Tokens, single(2));
                let x = graph.embedding(0, ids, Positional::None, RowPositions::Known(Vec::new()))?;
                let normed = graph.layer_norm(x, 1, 2)?;
                let other = graph.rms_norm(x, 3)?;
                let both = graph.add(normed, other)?;
                let gate = graph.linear(both, 4, None, WeightLayout::InOut)?;
                let hidden = graph.gelu(gate);
                let down = graph.linear(hidden, 5, None, WeightLayout::InOut)?;
                let states = graph.add(x, down)?;
                graph.linear(states, 6, None, WeightLayout::InOut)
            },
        };
        check_values(&format!("deviation {deviation}"), &case);
    }
}

/// ln(1 + e^-30) is 9.4e-14: a 32-bit log-softmax says 0 there, with a gradient of 0.
#[test]
fn the_loss_of_confident_outputs_does_not_underflow() {
    let table = ParameterSpecification {
        name: "logits".to_owned(),
        shape: vec![1, 2],
        initial: Initial::Constant(0.0),
    };
    let mut graph = Graph::new(vec![table]);
    let ids = graph.slot(Source::Tokens, single(1));
    let logits = graph.embedding(0, ids, Positional::None, RowPositions::Known(Vec::new())).unwrap();
    let answers = graph.slot(Source::Classes, single(1));
    graph.objective(logits, Answers::Classes(answers), None).unwrap();
    let program = Arc::new(graph.finish(logits, 1, false).unwrap());
    let mut feed = Feed::<f32>::empty(2);
    (feed.examples, feed.loss_scale) = (1, 1.0);
    feed.ids_mut(0).push(0);
    feed.ids_mut(1).push(0);
    let mut executor = Executor::<f32>::new(program, 1);
    let loss = executor.differentiate(&Team::new(1), &[30.0, 0.0], &feed);
    let exact = (-30f64).exp().ln_1p();
    assert!((loss / exact - 1.0).abs() < 0.05, "{loss} is not {exact}");
    let slopes: Vec<f64> = executor.gradients().iter().map(|slope| f64::from(*slope)).collect();
    assert!((slopes[1] / exact - 1.0).abs() < 1e-6, "{slopes:?}");
    assert!((slopes[0] / exact + 1.0).abs() < 0.05, "{slopes:?}");
    assert_eq!(executor.differentiate(&Team::new(1), &[1e30, -1e30], &feed), 0.0);
    assert_eq!(executor.gradients(), [0.0, 0.0]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    /// A block's worth of operations in shapes nobody chose.
    #[test]
    fn random_shapes(
        (examples, rows, width, hidden) in (1usize..9, 1usize..6, 2usize..37, 1usize..70),
        (classes, layouts) in (1usize..12, any::<(bool, bool, bool)>()),
    ) {
        let layout = |out_in: bool| if out_in { WeightLayout::OutIn } else { WeightLayout::InOut };
        let shape = |out_in: bool, from: usize, to: usize| if out_in { [to, from] } else { [from, to] };
        let (up, down) = (shape(layouts.0, width, hidden), shape(layouts.1, hidden, width));
        let parameters: &[(&str, &[usize])] = &[
            ("tokens", &[5, width]),
            ("positions", &[rows, width]),
            ("gain", &[width]),
            ("bias", &[width]),
            ("up", &up),
            ("up_bias", &[hidden]),
            ("down", &down),
            ("out", &[width, classes]),
        ];
        let case = Case {
            parameters,
            examples,
            ids_below: 5,
            // Small enough that no answer is all but certain: differences from 1 cancel.
            deviation: 0.25,
            record: &|graph| {
                let ids = graph.slot(Source::Tokens, single(rows));
                let positions = (0..rows as u32).collect();
                let x = graph.embedding(0, ids, Positional::Learned(1), RowPositions::Known(positions))?;
                let normed = graph.layer_norm(x, 2, 3)?;
                let up = graph.linear(normed, 4, Some(5), layout(layouts.0))?;
                let active = if layouts.2 { graph.relu(up) } else { graph.gelu(up) };
                let down = graph.linear(active, 6, None, layout(layouts.1))?;
                let states = graph.add(x, down)?;
                let last = graph.select(states, RowMap::Last, 1)?;
                graph.linear(last, 7, None, WeightLayout::InOut)
            },
        };
        check("random shapes", &case);
    }
}
