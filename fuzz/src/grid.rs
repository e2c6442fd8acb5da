//! Grids from structured input: axes, `zip`, `[[when]]` and `[[exclude]]` that bytes alone would rarely spell.

use arbitrary::{Arbitrary, Unstructured};
use plateau_common::study::{Format, Study};

use crate::{short, study};

/// Paths that axes vary, a misspelt one and one inside a table among them.
const PATHS: [&str; 10] = [
    "model.dim",
    "model.heads",
    "model.layers",
    "task.vocab",
    "train.batch",
    "train.optimizer.lr",
    "train.steps",
    "train.clip",
    "seed",
    "model.dimm",
];

/// The base configuration the grids stand on.
const BASE: &str = r#"name = "grid"
task = { kind = "query-count", vocab = 8 }
model = { kind = "transformer", layers = 1, heads = 2, dim = 8 }
train = { steps = 10, batch = 4, optimizer = { kind = "adam", lr = 0.5 } }
"#;

#[derive(Arbitrary, Debug)]
struct Grid {
    axes: Vec<(u8, Axis)>,
    zip: Vec<Vec<u8>>,
    when: Vec<When>,
    exclude: Vec<Vec<(u8, Number)>>,
    seeds: Option<u8>,
}

#[derive(Arbitrary, Debug)]
struct When {
    conditions: Vec<(u8, Number)>,
    set: Vec<(u8, Number)>,
    axes: Vec<(u8, Axis)>,
}

#[derive(Arbitrary, Debug)]
enum Axis {
    Values(Vec<Number>),
    Range(Vec<Number>),
    Linspace(Number, Number, u8, bool),
    Logspace(Number, Number, u8, Option<Number>, bool),
    Counted(u64),
}

#[derive(Arbitrary, Debug)]
enum Number {
    Small(u8),
    Integer(i64),
    Real(f64),
}

impl Number {
    fn text(&self) -> String {
        match self {
            Number::Small(number) => (number % 32).to_string(),
            Number::Integer(number) => number.to_string(),
            Number::Real(number) if number.is_nan() => "nan".to_owned(),
            Number::Real(number) if number.is_infinite() => "inf".to_owned(),
            Number::Real(number) => format!("{number:e}"),
        }
    }
}

fn path(choice: u8) -> &'static str {
    PATHS[usize::from(choice) % PATHS.len()]
}

fn list(numbers: &[Number]) -> String {
    format!("[{}]", numbers.iter().map(Number::text).collect::<Vec<_>>().join(", "))
}

fn axis(axis: &Axis) -> String {
    match axis {
        Axis::Values(values) => list(values),
        Axis::Range(ends) => format!("{{ range = {} }}", list(ends)),
        Axis::Linspace(first, last, count, round) => {
            format!("{{ linspace = [{}, {}], count = {count}, round = {round} }}", first.text(), last.text())
        }
        Axis::Logspace(first, last, count, base, round) => {
            let base = base.as_ref().map(|base| format!(", base = {}", base.text())).unwrap_or_default();
            let ends = format!("[{}, {}]", first.text(), last.text());
            format!("{{ logspace = {ends}, count = {count}, round = {round}{base} }}")
        }
        Axis::Counted(count) => format!("{{ range = [0, {count}] }}"),
    }
}

fn axes(axes: &[(u8, Axis)]) -> String {
    let lines =
        axes.iter().take(5).map(|(choice, values)| format!("\"{}\" = {}", path(*choice), axis(values)));
    lines.collect::<Vec<_>>().join("\n")
}

fn pairs(pairs: &[(u8, Number)]) -> String {
    let pairs =
        pairs.iter().take(4).map(|(choice, number)| format!("\"{}\" = {}", path(*choice), number.text()));
    format!("{{ {} }}", pairs.collect::<Vec<_>>().join(", "))
}

impl Grid {
    fn text(&self) -> String {
        let mut text = BASE.to_owned();
        if let Some(seeds) = self.seeds {
            text += &format!("seeds = {seeds}\n");
        }
        if !self.zip.is_empty() {
            let quoted = |group: &Vec<u8>| {
                let paths = group.iter().take(4).map(|choice| format!("\"{}\"", path(*choice)));
                format!("[{}]", paths.collect::<Vec<_>>().join(", "))
            };
            let groups: Vec<String> = self.zip.iter().take(3).map(quoted).collect();
            text += &format!("zip = [{}]\n", groups.join(", "));
        }
        text += &format!("[axes]\n{}\n", axes(&self.axes));
        for when in self.when.iter().take(3) {
            text += &format!("[[when]]\nmatch = {}\n", pairs(&when.conditions));
            text += &format!("set = {}\n[when.axes]\n{}\n", pairs(&when.set), axes(&when.axes));
        }
        for exclude in self.exclude.iter().take(3) {
            let lines = exclude
                .iter()
                .take(4)
                .map(|(choice, number)| format!("\"{}\" = {}", path(*choice), number.text()));
            text += &format!("[[exclude]]\n{}\n", lines.collect::<Vec<_>>().join("\n"));
        }
        text
    }
}

/// One grid.
pub fn run(data: &[u8]) {
    let Ok(grid) = Grid::arbitrary(&mut Unstructured::new(data)) else { return };
    match Study::parse(&grid.text(), "grid.toml", Format::Toml, &[]) {
        Ok(parsed) => study::expand(&parsed),
        Err(error) => short(error),
    }
}
