//! Every operation against its reference, alone and in small models.
#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

#[path = "support/programs.rs"]
mod programs;

use plateau_lab::ops::embedding::Positional;
use plateau_lab::ops::linear::WeightLayout;
use plateau_lab::ops::rows::RowMap;
use plateau_lab::program::Source;
use programs::{Case, check, single};

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
                    let x = graph.embedding(0, ids, Positional::None, Vec::new())?;
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
                    let x = graph.embedding(0, ids, Positional::Learned(1), (0..length as u32).collect())?;
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
                let table = graph.constant_numbers("table", width, (0..length * width).map(|at| (at as f64).sin()).collect());
                let positions = rows.map(|row| row / 5).collect();
                let table = graph.embedding(0, tokens, Positional::Constant(table), positions)?;
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
                let table = graph.embedding(0, all, Positional::None, Vec::new())?;
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
        let parameters: &[(&str, &[usize])] =
            &[("tokens", &[7, width]), ("gain", &[width]), ("bias", &[width]), ("scale", &[width]), ("out", &[width, 3])];
        check(
            "norms",
            &Case {
                parameters,
                examples,
                ids_below: 7,
                deviation: 1.3,
                record: &|graph| {
                    let ids = graph.slot(Source::Tokens, single(2));
                    let x = graph.embedding(0, ids, Positional::None, Vec::new())?;
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
                let x = graph.embedding(0, ids, Positional::None, Vec::new())?;
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
