//! `small-multiples`: metrics over training steps, one small panel for every run: rows are cells, columns are seeds.
//!
//! What a mean with its band hides is seen here: runs that jump at different steps, fall back, or never jump. Colours tell
//! metrics apart; all panels have the same axes.

use plateau_common::fields::{ConfigResult, Fields};
use plateau_common::results::TrialRecord;

use super::curves::{DOTTED, draw_levels, read_dotted, read_levels};
use super::panels::left_out;
use super::scale::Scale;
use super::scene::{Anchor, Scene, TextStyleOf};
use super::style::{
    DARK, DASHES, Entry, Frame, GREY, Key, LABEL, PALE, SMALL, axis_label, colour, fit_text, header,
    header_height, metric_name, quantity, text, text_width_of,
};
use super::{Drawing, Figure, FigureContext, restricted};
use crate::analyses::population::runs;
use crate::analyses::{AnalysisResult, read_metrics};
use crate::cells::Dataset;

/// Panels in a row at most; a cell with more seeds takes several rows.
const COLUMNS: usize = 10;
/// Panels drawn at most.
const MOST_RUNS: usize = 60;
/// Width and height that a row of plots shares, and the least that a plot has.
const ROOM: (f64, f64) = (940.0, 110.0);
const LEAST_WIDTH: f64 = 92.0;
const MOST_WIDTH: f64 = 220.0;
/// Space between plots, and above a plot for its seed.
const GAP: (f64, f64) = (12.0, 26.0);
/// Space above the first row of a cell for its name.
const CELL_NAME: f64 = 26.0;
const LEFT: f64 = 84.0;
const TICK: f64 = 11.5;

struct SmallMultiples {
    name: String,
    title: Option<String>,
    restriction: String,
    metrics: Vec<String>,
    dotted: Vec<String>,
    logarithmic: bool,
    levels: Vec<f64>,
}

/// Options: `metrics` (of one quantity; default training and test accuracy), `dotted` (some of them), `x-scale` (`log` by
/// default, or `linear`), `level` or `levels` (horizontal lines).
pub fn read(fields: &mut Fields, context: FigureContext) -> ConfigResult<Box<dyn Figure>> {
    let metrics = read_metrics(fields, context.known, &["train_accuracy", "test_accuracy"])?;
    let first = metrics.first().map_or("", |metric| quantity(metric));
    if let Some(other) = metrics.iter().find(|metric| quantity(metric) != first) {
        return Err(fields
            .error("metrics", format!("`{other}` is not of the same quantity as the first"))
            .suggest("draw it in a figure of its own"));
    }
    Ok(Box::new(SmallMultiples {
        dotted: read_dotted(fields, &metrics)?,
        logarithmic: fields.choice("x-scale", &[("log", true), ("linear", false)])?.unwrap_or(true),
        levels: read_levels(fields)?,
        metrics,
        name: context.name,
        title: context.title,
        restriction: context.restriction,
    }))
}

/// The rows of one cell.
struct Block<'a> {
    name: String,
    runs: Vec<&'a TrialRecord>,
}

/// Whether a run has a finite value of a metric.
fn measures(trial: &TrialRecord, metric: &str) -> bool {
    trial.series.get(metric).is_some_and(|curve| curve.values.iter().any(|value| value.is_finite()))
}

/// Where everything stands.
struct Layout {
    columns: usize,
    width: f64,
    x: Scale,
    y: Scale,
}

impl SmallMultiples {
    fn dash(&self, metric: &String) -> (f64, f64) {
        if self.dotted.contains(metric) { DOTTED } else { DASHES[0] }
    }

    fn measured(&self, trial: &TrialRecord) -> bool {
        self.metrics.iter().any(|metric| measures(trial, metric))
    }

    /// The runs to draw, cell by cell, at most [`MOST_RUNS`].
    fn blocks<'a>(&self, data: &Dataset<'a>) -> Vec<Block<'a>> {
        let mut room = MOST_RUNS;
        let mut blocks = Vec::new();
        for cell in &data.cells {
            let measured = cell.trials.iter().copied().filter(|trial| self.measured(trial));
            let runs: Vec<&TrialRecord> = measured.take(room).collect();
            room -= runs.len();
            if !runs.is_empty() {
                let name = if data.labels.is_empty() { String::new() } else { data.name_of(cell) };
                blocks.push(Block { name, runs });
            }
        }
        blocks
    }

    fn layout(&self, blocks: &[Block]) -> Layout {
        let columns = blocks.iter().map(|block| block.runs.len()).max().unwrap_or(1).clamp(1, COLUMNS);
        let points = || {
            let runs = blocks.iter().flat_map(|block| &block.runs);
            let curves = runs.flat_map(|run| self.metrics.iter().filter_map(|metric| run.series.get(metric)));
            curves.flat_map(|curve| curve.steps.iter().copied().zip(curve.values.iter().copied()))
        };
        let steps = points().map(|(step, _)| step as f64);
        let x = if self.logarithmic {
            Scale::logarithmic(steps, true)
        } else {
            Scale::Linear { low: 0.0, high: steps.fold(1.0, f64::max) }
        };
        let y = if self.metrics.first().is_some_and(|metric| quantity(metric) == "Accuracy") {
            Scale::Linear { low: 0.0, high: 1.03 }
        } else {
            Scale::linear(points().map(|(_, value)| value).chain(self.levels.iter().copied()))
        };
        let gaps = (columns - 1) as f64 * GAP.0;
        let width = ((ROOM.0 - gaps) / columns as f64).clamp(LEAST_WIDTH, MOST_WIDTH);
        Layout { columns, width, x, y }
    }

    fn draw_run(&self, scene: &mut Scene, frame: &Frame, run: &TrialRecord) {
        draw_levels(scene, frame, &self.levels);
        for (index, metric) in self.metrics.iter().enumerate() {
            let Some(curve) = run.series.get(metric) else { continue };
            let ink = colour(index, self.metrics.len());
            let points = curve.steps.iter().zip(&curve.values);
            let line: Vec<(f64, f64)> =
                points.filter_map(|(step, value)| frame.point(*step as f64, *value)).collect();
            if let [only] = line.as_slice() {
                scene.disc(*only, 2.5, ink);
            }
            scene.dashed(line, ink, 1.7, self.dash(metric));
        }
        let words = fit_text(&format!("seed {}", run.seed), TICK, false, frame.width);
        let at = (frame.left + frame.width / 2.0, frame.top - 9.0);
        scene.text(at, words, text(TICK, GREY, Anchor::Middle));
    }
}

/// Which neighbours a small panel does not have: there its axes have numbers, and room for them.
#[derive(Clone, Copy)]
struct Edges {
    left: bool,
    right: bool,
    bottom: bool,
}

/// The axes of a small panel.
fn draw_axes(scene: &mut Scene, frame: &Frame, edges: Edges) {
    let (right, bottom) = (frame.left + frame.width, frame.top + frame.height);
    for tick in frame.y.ticks(3).into_iter().filter(|tick| !tick.label.is_empty()) {
        let y = bottom - tick.place * frame.height;
        scene.line(vec![(frame.left, y), (right, y)], PALE, 1.0);
        if edges.left {
            scene.line(vec![(frame.left - 4.0, y), (frame.left, y)], DARK, 1.0);
            scene.text((frame.left - 8.0, y), tick.label, text(TICK, DARK, Anchor::End));
        }
    }
    let mut free_from = f64::NEG_INFINITY;
    for tick in frame.x.ticks((frame.width / 25.0) as usize).into_iter().filter(|tick| !tick.label.is_empty())
    {
        let x = frame.left + tick.place * frame.width;
        let half = text_width_of(&tick.label) / 2.0;
        scene.line(vec![(x, bottom), (x, bottom + 4.0)], DARK, 1.0);
        let fits = edges.right || x + half < right + GAP.0 / 2.0;
        if edges.bottom && fits && x - half > free_from {
            scene.text((x, bottom + 14.0), tick.label, text(TICK, DARK, Anchor::Middle));
            free_from = x + half + 4.0;
        }
    }
    scene.line(vec![(frame.left, frame.top), (frame.left, bottom), (right, bottom)], DARK, 1.0);
}

impl Figure for SmallMultiples {
    fn name(&self) -> &str {
        &self.name
    }

    fn mentions(&self) -> Vec<&str> {
        Vec::new()
    }

    fn draw(&self, data: &Dataset, _: &[AnalysisResult]) -> Drawing {
        let title =
            self.title.clone().unwrap_or_else(|| restricted("Every seed".to_owned(), &self.restriction));
        let blocks = self.blocks(data);
        let drawn: usize = blocks.iter().map(|block| block.runs.len()).sum();
        if drawn == 0 {
            return Drawing::message(
                &title,
                format!("No trial has measured {} yet.", self.metrics.join(" or ")),
            );
        }
        let layout = self.layout(&blocks);
        let entries: Vec<Entry> = self
            .metrics
            .iter()
            .enumerate()
            .filter(|(_, metric)| {
                blocks.iter().flat_map(|block| &block.runs).any(|run| measures(run, metric))
            })
            .map(|(index, metric)| Entry {
                label: metric_name(metric),
                ink: colour(index, self.metrics.len()),
                key: Key::Line(self.dash(metric)),
            })
            .collect();
        let plots = layout.columns as f64 * layout.width + (layout.columns - 1) as f64 * GAP.0;
        let width = (LEFT + plots + 24.0).max(420.0);
        let rows_of = |block: &Block| block.runs.len().div_ceil(layout.columns) as f64;
        let named = if blocks.iter().any(|block| !block.name.is_empty()) { CELL_NAME } else { 0.0 };
        let height: f64 = blocks.iter().map(|block| named + rows_of(block) * (ROOM.1 + GAP.1)).sum();
        let top = header_height(width, &entries) + 6.0;
        let mut scene = Scene::new(width, top + height + 58.0);
        header(&mut scene, &title, &entries);
        let mut row_top = top;
        for (number, block) in blocks.iter().enumerate() {
            if named > 0.0 {
                let words = fit_text(&block.name, SMALL, true, plots);
                let style = TextStyleOf { bold: true, ..text(SMALL, DARK, Anchor::Start) };
                scene.text((LEFT, row_top + 14.0), words, style);
            }
            row_top += named;
            for (index, run) in block.runs.iter().enumerate() {
                let (column, row) = (index % layout.columns, index / layout.columns);
                let frame = Frame {
                    left: LEFT + column as f64 * (layout.width + GAP.0),
                    top: row_top + GAP.1 - 6.0 + row as f64 * (ROOM.1 + GAP.1),
                    width: layout.width,
                    height: ROOM.1,
                    x: layout.x.clone(),
                    y: layout.y.clone(),
                };
                // The next row, of this cell or of the next one, may be shorter.
                let below = blocks.get(number + 1).map_or(0, |next| next.runs.len());
                let lowest = index + layout.columns >= block.runs.len() && column >= below;
                let right = column + 1 == layout.columns;
                draw_axes(&mut scene, &frame, Edges { left: column == 0, right, bottom: lowest });
                self.draw_run(&mut scene, &frame, run);
            }
            row_top += rows_of(block) * (ROOM.1 + GAP.1);
        }
        let middle = LEFT + plots / 2.0;
        scene.text((middle, row_top + 34.0), "Training step", text(LABEL, DARK, Anchor::Middle));
        let label = self.metrics.first().map_or("", |metric| axis_label(quantity(metric), data));
        let style = TextStyleOf { upward: true, ..text(LABEL, DARK, Anchor::Middle) };
        scene.text((26.0, (top + row_top) / 2.0), label, style);
        let names: Vec<String> = self.metrics.iter().map(|metric| metric_name(metric)).collect();
        let mut caption = format!("{} over training, each run by itself.", names.join(", "));
        let measured = data.trials().filter(|trial| self.measured(trial)).count();
        caption.push_str(&left_out(drawn, measured, "choose fewer runs with `where`"));
        let without = data.trials().count() - measured;
        if without > 0 {
            caption.push_str(&format!(" Not measured by {}.", runs(without)));
        }
        Drawing { scene, caption }
    }
}

#[cfg(test)]
mod tests {
    use plateau_common::node::Node;

    use super::*;
    use crate::analyses::Known;
    use crate::fixture::structural;
    use crate::plan::Plan;

    fn plan(metrics: &[&str]) -> ConfigResult<Plan> {
        let json = serde_json::json!({"kind": "small-multiples", "metrics": metrics});
        Plan::read(&[], &[Node::from_json(&json)], Known::default())
    }

    #[test]
    fn every_run_has_a_panel_up_to_a_bound() {
        let plan = plan(&["generalisation_accuracy"]).unwrap();
        let figure = plan.figures.first().unwrap();
        let mut records = structural(12);
        let drawing = figure.draw(&Dataset::new(&records, &[]), &[]);
        let svg = drawing.scene.to_svg().unwrap();
        assert_eq!(svg.matches(">\nseed ").count(), 36);
        assert!(svg.contains("layers = 10") && !drawing.caption.contains("further"));
        records.extend(structural(24).into_iter().filter(|record| record.seed >= 12));
        records[0].series.clear();
        let caption = figure.draw(&Dataset::new(&records, &[]), &[]).caption;
        assert!(caption.contains("11 further panels are not drawn"), "{caption}");
        assert!(caption.contains("Not measured by 1 run."), "{caption}");
    }

    #[test]
    fn one_quantity_only() {
        let problem = plan(&["generalisation_accuracy", "t_score"]).map(|_| ()).unwrap_err().to_string();
        assert!(problem.contains("`t_score` is not of the same quantity"), "{problem}");
    }
}
