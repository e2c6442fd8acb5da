//! `success`: the share of successful runs per cell with Wilson intervals.

use plateau_common::fields::{ConfigResult, Fields};

use super::scale::Scale;
use super::scene::{Anchor, Ink, Scene};
use super::style::{
    DARK, Entry, Frame, Key, MARGIN, SMALL, colour, fit_text, header, header_height, text, text_width_of,
};
use super::{Drawing, Figure, FigureContext, restricted, result};
use crate::analyses::AnalysisResult;
use crate::analyses::success::{CellSuccess, SuccessOutcome};
use crate::cells::{Dataset, Values, compare, describe, short_name};

struct SuccessFigure {
    name: String,
    title: Option<String>,
    analysis: String,
    x: Option<String>,
}

/// Options: `analysis` (name or index of a success analysis; the first by default), `x` (a numeric parameter; without it
/// the first label that is numeric in all cells and has at least three values, else a list of cells).
pub fn read(fields: &mut Fields, context: FigureContext) -> ConfigResult<Box<dyn Figure>> {
    let analysis = context.analysis(fields, &["success"])?;
    let x = context.known.parameter(fields, "x")?;
    Ok(Box::new(SuccessFigure { name: context.name, title: context.title, analysis, x }))
}

fn number_of(cell: &CellSuccess, label: usize) -> Option<f64> {
    cell.values.get(label)?.as_ref()?.as_number()
}

/// The values of some labels of a cell.
fn of(cell: &CellSuccess, labels: &[usize]) -> Values {
    labels.iter().map(|label| cell.values.get(*label).cloned().flatten()).collect()
}

fn same(one: &Values, other: &Values) -> bool {
    one.iter().zip(other).all(|(one, other)| compare(one.as_ref(), other.as_ref()).is_eq())
}

/// The combinations of values of some labels that occur, in the order of the cells.
fn distinct(cells: &[CellSuccess], labels: &[usize]) -> Vec<Values> {
    let mut found: Vec<Values> = Vec::new();
    for cell in cells {
        let values = of(cell, labels);
        if !found.iter().any(|other| same(other, &values)) {
            found.push(values);
        }
    }
    found
}

fn draw_line<'c>(
    scene: &mut Scene,
    frame: &Frame,
    cells: impl Iterator<Item = &'c CellSuccess>,
    axis: usize,
    shift: f64,
    ink: Ink,
) {
    let moved = Frame { left: frame.left + shift, ..frame.clone() };
    let mut line = Vec::new();
    for cell in cells {
        let Some(x) = number_of(cell, axis) else { continue };
        let Some(at) = moved.point(x, cell.share.value) else { continue };
        moved.error_bar(scene, x, cell.share.low, cell.share.high, ink.faded(0.55));
        line.push(at);
    }
    scene.line(line.clone(), ink, 1.8);
    for at in line {
        scene.disc(at, 5.0, ink);
    }
}

impl SuccessFigure {
    /// The index of the label along the horizontal axis.
    fn axis(&self, data: &Dataset, outcome: &SuccessOutcome) -> Option<usize> {
        if let Some(x) = &self.x {
            let place = |wanted: &str| outcome.labels.iter().position(|name| name == wanted);
            return place(x).or_else(|| place(data.label_of(x)));
        }
        (0..outcome.labels.len()).find(|label| {
            let mut values: Vec<f64> =
                outcome.cells.iter().filter_map(|cell| number_of(cell, *label)).collect();
            let all = values.len() == outcome.cells.len();
            values.sort_by(f64::total_cmp);
            values.dedup();
            all && values.len() >= 3
        })
    }
}

/// Shares along a numeric label: colours are the first other label, panels the combinations of the rest.
fn along_axis(title: &str, outcome: &SuccessOutcome, axis: usize) -> Scene {
    let rest: Vec<usize> = (0..outcome.labels.len()).filter(|label| *label != axis).collect();
    let (first, others) = rest.split_at(rest.len().min(1));
    let name = |labels: &[usize]| -> Vec<&str> {
        labels.iter().filter_map(|label| outcome.labels.get(*label)).map(String::as_str).collect()
    };
    let (line_names, panel_names) = (name(first), name(others));
    let lines = distinct(&outcome.cells, first);
    let panels = distinct(&outcome.cells, others);
    let count = lines.len();
    let entries: Vec<Entry> = if first.is_empty() {
        Vec::new()
    } else {
        let entry = |(index, values): (usize, &Values)| Entry {
            label: describe(&line_names, values),
            ink: colour(index, count),
            key: Key::Marker,
        };
        lines.iter().enumerate().map(entry).collect()
    };
    let columns = panels.len().clamp(1, 2);
    let (plot_width, plot_height) = if columns == 1 { (700.0, 380.0) } else { (430.0, 300.0) };
    let title_height = if others.is_empty() { 10.0 } else { 34.0 };
    let width = 92.0 + columns as f64 * (plot_width + 76.0) - 46.0;
    let top = header_height(width, &entries) + title_height;
    let rows = panels.len().div_ceil(columns).max(1) as f64;
    let panel_height = plot_height + 64.0 + title_height;
    let mut scene = Scene::new(width, top + rows * panel_height - title_height);
    let numbers = || outcome.cells.iter().filter_map(|cell| number_of(cell, axis));
    let x = match Scale::linear(numbers()) {
        // Nobody has two and a half layers.
        Scale::Linear { low, high } if numbers().all(|number| number.fract() == 0.0) => {
            Scale::Whole { low, high }
        }
        scale => scale,
    };
    header(&mut scene, title, &entries);
    for (number, panel) in panels.iter().enumerate() {
        let frame = Frame {
            left: 92.0 + (number % columns) as f64 * (plot_width + 76.0),
            top: top + (number / columns) as f64 * panel_height,
            width: plot_width,
            height: plot_height,
            x: x.clone(),
            y: Scale::Linear { low: 0.0, high: 1.0 },
        };
        let panel_title = if others.is_empty() { String::new() } else { describe(&panel_names, panel) };
        let label = outcome.labels.get(axis).map_or("", |label| short_name(label, &[]));
        let y_label = if number % columns == 0 { "Share of runs" } else { "" };
        frame.draw(&mut scene, &panel_title, label, y_label);
        for (index, line) in lines.iter().enumerate() {
            let cells = outcome
                .cells
                .iter()
                .filter(|cell| same(&of(cell, first), line) && same(&of(cell, others), panel));
            // Lines at the same abscissa stand side by side, so that their intervals can be told apart.
            let shift = (index as f64 - (count - 1) as f64 / 2.0) * 5.0;
            draw_line(&mut scene, &frame, cells, axis, shift, colour(index, count));
        }
    }
    scene
}

/// Shares as a list of cells.
fn as_list(title: &str, outcome: &SuccessOutcome) -> Scene {
    let names: Vec<String> =
        outcome.cells.iter().map(|cell| fit_text(&cell.cell, SMALL, false, 380.0)).collect();
    let left = names.iter().map(|name| text_width_of(name)).fold(40.0, f64::max) + MARGIN + 18.0;
    let row = 34.0;
    let (width, top) = (left + 520.0, header_height(900.0, &[]) + 8.0);
    let height = row * names.len() as f64;
    let mut scene = Scene::new(width, top + height + 64.0);
    header(&mut scene, title, &[]);
    let frame = Frame {
        left,
        top,
        width: 390.0,
        height,
        x: Scale::Linear { low: 0.0, high: 1.0 },
        y: Scale::Categories(names.iter().rev().cloned().collect()),
    };
    frame.draw(&mut scene, "", "Share of runs", "");
    for (index, cell) in outcome.cells.iter().rev().enumerate() {
        let place = index as f64;
        let ink = colour(0, 1);
        let ends = (frame.point(cell.share.low, place), frame.point(cell.share.high, place));
        if let (Some(low), Some(high)) = ends {
            scene.line(vec![low, high], ink, 1.8);
            for end in [low, high] {
                scene.line(vec![(end.0, end.1 - 5.0), (end.0, end.1 + 5.0)], ink, 1.8);
            }
        }
        if let Some(at) = frame.point(cell.share.value, place) {
            scene.disc(at, 5.5, ink);
        }
        if let Some(at) = frame.point(1.0, place) {
            let words = format!("{} of {}", cell.successes, cell.runs);
            scene.text((at.0 + 14.0, at.1), words, text(SMALL, DARK, Anchor::Start));
        }
    }
    scene
}

impl Figure for SuccessFigure {
    fn name(&self) -> &str {
        &self.name
    }

    fn mentions(&self) -> Vec<&str> {
        self.x.as_deref().into_iter().collect()
    }

    fn draw(&self, data: &Dataset, results: &[AnalysisResult]) -> Drawing {
        let found = result(results, &self.analysis);
        let outcome = found.and_then(|result| result.outcome::<SuccessOutcome>());
        let restriction = found.map_or("", |result| result.restriction.as_str());
        let Some(outcome) = outcome else {
            return Drawing::message("Success", format!("The analysis `{}` gave no shares.", self.analysis));
        };
        let default = || format!("Share of runs with {}", outcome.event.replace('_', " "));
        let title = self.title.clone().unwrap_or_else(|| restricted(default(), restriction));
        if outcome.cells.iter().all(|cell| cell.runs == 0) {
            return Drawing::message(&title, "No run has finished yet.");
        }
        let scene = match self.axis(data, outcome) {
            Some(axis) => along_axis(&title, outcome, axis),
            None => as_list(&title, outcome),
        };
        let caption = format!("Share of runs with {}, with Wilson intervals.", outcome.event);
        Drawing { scene, caption }
    }
}
