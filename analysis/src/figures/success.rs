//! `success`: the share of successful runs per cell with Wilson intervals.

use plateau_common::fields::{ConfigResult, Fields};
use plateau_common::results::Parameter;

use super::scale::Scale;
use super::scene::{Anchor, Scene};
use super::style::{
    DARK, Entry, Frame, Key, MARGIN, SMALL, colour, fit_text, header, header_height, text, text_width_of,
};
use super::{Drawing, Figure, FigureContext, result};
use crate::analyses::AnalysisResult;
use crate::analyses::success::{CellSuccess, SuccessOutcome};
use crate::cells::{Dataset, compare, describe, short_name};

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

fn number(cell: &CellSuccess, label: usize) -> Option<f64> {
    cell.values.get(label)?.as_ref()?.as_number()
}

impl SuccessFigure {
    /// The index of the label along the horizontal axis.
    fn axis(&self, data: &Dataset, outcome: &SuccessOutcome) -> Option<usize> {
        if let Some(x) = &self.x {
            let label = data.label_of(x);
            return outcome.labels.iter().position(|name| name == label);
        }
        (0..outcome.labels.len()).find(|label| {
            let mut values: Vec<f64> = outcome.cells.iter().filter_map(|cell| number(cell, *label)).collect();
            let all = values.len() == outcome.cells.len();
            values.sort_by(f64::total_cmp);
            values.dedup();
            all && values.len() >= 3
        })
    }

    fn along_axis(&self, title: &str, outcome: &SuccessOutcome, axis: usize) -> Scene {
        let rest: Vec<usize> = (0..outcome.labels.len()).filter(|label| *label != axis).collect();
        let names: Vec<&str> = rest.iter().filter_map(|label| outcome.labels.get(*label)).map(String::as_str).collect();
        let of = |cell: &CellSuccess| -> Vec<Option<Parameter>> {
            rest.iter().map(|label| cell.values.get(*label).cloned().flatten()).collect()
        };
        let mut lines: Vec<(Vec<Option<Parameter>>, Vec<&CellSuccess>)> = Vec::new();
        for cell in &outcome.cells {
            let key = of(cell);
            let same = |other: &Vec<Option<Parameter>>| {
                other.iter().zip(&key).all(|(one, other)| compare(one.as_ref(), other.as_ref()).is_eq())
            };
            match lines.iter_mut().find(|(other, _)| same(other)) {
                Some((_, cells)) => cells.push(cell),
                None => lines.push((key, vec![cell])),
            }
        }
        let count = lines.len();
        let entries: Vec<Entry> = if rest.is_empty() {
            Vec::new()
        } else {
            lines
                .iter()
                .enumerate()
                .map(|(index, (key, _))| Entry { label: describe(&names, key), ink: colour(index, count), key: Key::Marker })
                .collect()
        };
        let width = 820.0;
        let top = header_height(width, &entries) + 10.0;
        let mut scene = Scene::new(width, top + 380.0 + 64.0);
        header(&mut scene, title, &entries);
        let places = outcome.cells.iter().filter_map(|cell| number(cell, axis));
        let frame = Frame {
            left: 92.0,
            top,
            width: width - 122.0,
            height: 380.0,
            x: Scale::linear(places),
            y: Scale::Linear { low: 0.0, high: 1.0 },
        };
        let label = outcome.labels.get(axis).map_or("", |label| short_name(label, &[]));
        frame.draw(&mut scene, "", label, "Share of runs");
        for (index, (_, cells)) in lines.iter().enumerate() {
            let ink = colour(index, count);
            // Lines at the same abscissa stand side by side, so that their intervals can be told apart.
            let shift = (index as f64 - (count - 1) as f64 / 2.0) * 7.0;
            let mut line = Vec::new();
            for cell in cells {
                let Some(x) = number(cell, axis) else { continue };
                let Some(at) = frame.point(x, cell.share.value) else { continue };
                let moved = Frame { left: frame.left + shift, ..frame.clone() };
                moved.error_bar(&mut scene, x, cell.share.low, cell.share.high, ink);
                scene.disc((at.0 + shift, at.1), 5.0, ink);
                line.push((at.0 + shift, at.1));
            }
            scene.line(line, ink.faded(0.45), 1.4);
        }
        scene
    }

    fn as_list(&self, title: &str, outcome: &SuccessOutcome) -> Scene {
        let names: Vec<String> = outcome.cells.iter().map(|cell| fit_text(&cell.cell, SMALL, false, 380.0)).collect();
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
}

impl Figure for SuccessFigure {
    fn name(&self) -> &str {
        &self.name
    }

    fn mentions(&self) -> Vec<&str> {
        self.x.as_deref().into_iter().collect()
    }

    fn draw(&self, data: &Dataset, results: &[AnalysisResult]) -> Drawing {
        let outcome = result(results, &self.analysis).and_then(|result| result.outcome::<SuccessOutcome>());
        let title = self.title.clone();
        let Some(outcome) = outcome else {
            return Drawing::message("Success", format!("The analysis `{}` gave no shares.", self.analysis));
        };
        let title = title.unwrap_or_else(|| format!("Share of runs with {}", outcome.event.replace('_', " ")));
        if outcome.cells.iter().all(|cell| cell.runs == 0) {
            return Drawing::message(&title, "No run has finished yet.");
        }
        let scene = match self.axis(data, outcome) {
            Some(axis) => self.along_axis(&title, outcome, axis),
            None => self.as_list(&title, outcome),
        };
        let caption = format!("Share of runs with {}, with Wilson intervals.", outcome.event);
        Drawing { scene, caption }
    }
}
