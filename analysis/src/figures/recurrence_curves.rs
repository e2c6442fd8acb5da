//! `recurrence-curves`: exact match against the number of recurrences at test, for looped models.
//!
//! Colours are equal sizes of problems, panels the cells of the study.

use std::collections::{BTreeMap, BTreeSet};

use plateau_common::fields::{ConfigError, ConfigResult, Fields};
use plateau_common::node::Value;

use super::panels::{MOST_PANELS, Panels, left_out};
use super::replicates::{Curve, Spread};
use super::scale::Scale;
use super::style::{DASHES, Entry, GREY, Key, colour};
use super::{Drawing, Figure, FigureContext, restricted};
use crate::analyses::AnalysisResult;
use crate::analyses::population::ended;
use crate::cells::Dataset;
use crate::lengths::{scores_after, whole};

/// How the recurrences of training are marked.
const TRAINED: (f64, f64) = (2.0, 3.0);
/// Sizes drawn by default where it is not known which were trained on.
const DEFAULT_SIZES: usize = 6;

struct RecurrenceCurves {
    name: String,
    title: Option<String>,
    restriction: String,
    sizes: Vec<usize>,
}

/// Options: `sizes` (a list; by default half the largest trained size, that size, the next, and one and a half, two and three
/// times the size, as far as measured).
pub fn read(fields: &mut Fields, context: FigureContext) -> ConfigResult<Box<dyn Figure>> {
    let mut sizes = Vec::new();
    for (index, item) in fields.array("sizes")?.unwrap_or_default().iter().enumerate() {
        match item.value {
            Value::Integer(size) if size > 0 => sizes.push(size as usize),
            ref other => {
                let path = format!("{}[{index}]", fields.path_of("sizes"));
                let problem = format!("expected a size from 1, found `{other}`");
                return Err(ConfigError::new(path, item.location, problem));
            }
        }
    }
    sizes.sort_unstable();
    sizes.dedup();
    Ok(Box::new(RecurrenceCurves {
        name: context.name,
        title: context.title,
        restriction: context.restriction,
        sizes,
    }))
}

/// The sizes of interest among those measured.
fn choose(measured: &BTreeSet<usize>, trained: Option<usize>) -> Vec<usize> {
    let Some(trained) = trained else {
        let every = measured.len().div_ceil(DEFAULT_SIZES).max(1);
        return measured.iter().copied().step_by(every).collect();
    };
    let wanted = [trained.div_ceil(2), trained, trained + 1, 3 * trained / 2, 2 * trained, 3 * trained];
    let nearest = |wanted: usize| measured.iter().copied().min_by_key(|size| size.abs_diff(wanted));
    wanted.into_iter().filter_map(nearest).collect::<BTreeSet<usize>>().into_iter().collect()
}

struct Panel {
    title: String,
    /// By size, a curve per run.
    runs: BTreeMap<usize, Vec<Vec<(u64, f64)>>>,
    recurrences: Option<usize>,
}

impl RecurrenceCurves {
    fn panels(&self, data: &Dataset) -> Vec<Panel> {
        let panel = |cell: &crate::cells::Cell| {
            let mut runs: BTreeMap<usize, Vec<Vec<(u64, f64)>>> = BTreeMap::new();
            for trial in ended(&cell.trials) {
                for (size, scores) in scores_after(trial) {
                    let points = scores.into_iter().map(|(recurrences, score)| (recurrences as u64, score));
                    runs.entry(size)
                        .or_default()
                        .push(points.filter(|(_, score)| score.is_finite()).collect());
                }
            }
            let title = if data.labels.is_empty() { String::new() } else { data.name_of(cell) };
            let recurrences = cell.trials.first().and_then(|trial| whole(trial, "model.recurrences"));
            Panel { title, runs, recurrences }
        };
        let drawable = |panel: &Panel| panel.runs.values().flatten().any(|run| !run.is_empty());
        data.cells.iter().map(panel).filter(drawable).collect()
    }
}

impl Figure for RecurrenceCurves {
    fn name(&self) -> &str {
        &self.name
    }

    fn mentions(&self) -> Vec<&str> {
        Vec::new()
    }

    fn draw(&self, data: &Dataset, _: &[AnalysisResult]) -> Drawing {
        let default = || restricted("Exact match over recurrences at test".to_owned(), &self.restriction);
        let title = self.title.clone().unwrap_or_else(default);
        let mut panels = self.panels(data);
        let total = panels.len();
        let measured: BTreeSet<usize> = panels.iter().flat_map(|panel| panel.runs.keys()).copied().collect();
        let trained = data
            .cells
            .iter()
            .filter_map(|cell| data.axes(cell))
            .map(|axes| axes.trained.0.min(axes.trained.1));
        let sizes = if self.sizes.is_empty() { choose(&measured, trained.max()) } else { self.sizes.clone() };
        if total == 0 {
            let words = "No finished trial has measured scores after several numbers of recurrences; \
                         `evaluate.grid.recurrences` asks for it, of looped models.";
            return Drawing::message(&title, words);
        }
        if !sizes.iter().any(|size| measured.contains(size)) {
            let all: Vec<String> = measured.iter().map(usize::to_string).collect();
            let words = format!("None of the sizes asked for was measured; measured: {}.", all.join(", "));
            return Drawing::message(&title, words);
        }
        panels.truncate(MOST_PANELS);
        let last =
            panels.iter().flat_map(|panel| panel.runs.values().flatten().flatten()).map(|(at, _)| *at).max();
        let mut entries: Vec<Entry> = sizes
            .iter()
            .enumerate()
            .map(|(index, size)| Entry {
                label: format!("both sizes {size}"),
                ink: colour(index, sizes.len()),
                key: Key::Line(DASHES[0]),
            })
            .collect();
        if panels.iter().any(|panel| panel.recurrences.is_some_and(|own| Some(own as u64) <= last)) {
            let label = "recurrences in training".to_owned();
            entries.push(Entry { label, ink: GREY, key: Key::Line(TRAINED) });
        }
        let titled = panels.iter().any(|panel| !panel.title.is_empty());
        let mut layout = Panels::of_lines(panels.len(), titled);
        let mut scene = layout.scene(&title, &entries);
        let mut most = 0;
        for (index, panel) in panels.iter().enumerate() {
            let x = Scale::Whole { low: 0.0, high: last.unwrap_or(1) as f64 };
            let frame = layout.frame(index, x, Scale::Linear { low: 0.0, high: 1.03 });
            let x_label = if layout.is_lowest(index) { "Recurrences at test" } else { "" };
            let y_label = if layout.is_first(index) { "Exact match" } else { "" };
            frame.draw(&mut scene, &panel.title, x_label, y_label);
            if let Some(recurrences) = panel.recurrences {
                frame.vertical(&mut scene, recurrences as f64, GREY, TRAINED);
            }
            for (index, size) in sizes.iter().enumerate() {
                let Some(runs) = panel.runs.get(size) else { continue };
                most = most.max(runs.len());
                let curve = Curve::new(runs.clone(), colour(index, sizes.len()), DASHES[0]);
                curve.draw(&mut scene, &frame, Spread::RangeAndRuns);
            }
        }
        let mut caption = format!(
            "Mean exact match of problems of two equal sizes, read after a number of recurrences; {}.",
            Spread::RangeAndRuns.phrase(most)
        );
        caption.push_str(&left_out(panels.len(), total, "restrict the figure with `where`"));
        Drawing { scene, caption }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{digits, lengths};

    #[test]
    fn sizes_around_the_trained_one_are_chosen_among_those_measured() {
        let all: BTreeSet<usize> = (1..=100).collect();
        assert_eq!(choose(&all, Some(20)), [10, 20, 21, 30, 40, 60]);
        assert_eq!(choose(&BTreeSet::from([2, 4, 5]), Some(4)), [2, 4, 5]);
        assert_eq!(choose(&all, None).len(), 6);
        assert!(choose(&BTreeSet::new(), Some(3)).is_empty());
    }

    #[test]
    fn runs_have_their_scores_by_recurrences() {
        let mut records = lengths(3);
        records.iter_mut().filter(|record| record.seed == 2).for_each(|record| {
            record.state = plateau_common::trial::TrialState::Running;
        });
        let data = Dataset::new(&records, &[]).with_axes_of(digits);
        let figure = RecurrenceCurves {
            name: String::new(),
            title: None,
            restriction: String::new(),
            sizes: vec![99],
        };
        let panels = figure.panels(&data);
        assert_eq!(panels.len(), 3);
        let early = 0.25 / 6.0;
        assert_eq!(panels[1].runs[&3], [[(1, early), (2, early), (4, 1.0), (8, 1.0)]; 2]);
        assert_eq!(panels[1].recurrences, Some(4));
        assert!(
            figure
                .draw(&data, &[])
                .caption
                .starts_with("None of the sizes asked for was measured; measured: 1, 2")
        );
    }
}
