//! `size-curves`: the score at two equal sizes against the size, with the largest trained size and the ceiling.
//!
//! Colours are the values of one parameter, panels what else varies.

use plateau_common::fields::{ConfigResult, Fields};

use super::panels::{MOST_PANELS, Panels, left_out};
use super::replicates::{Curve, Spread};
use super::scale::Scale;
use super::scene::{Ink, Scene};
use super::style::{DASHES, Entry, Frame, GREY, Key, colour, metric_name};
use super::{Drawing, Figure, FigureContext, restricted};
use crate::analyses::AnalysisResult;
use crate::analyses::length_generalisation::common;
use crate::cells::{Dataset, Group, describe, group, place_of};
use crate::lengths::{Ceiling, Measured, NOTHING, read_score};

/// How the largest trained size is marked.
const TRAINED: (f64, f64) = (2.0, 3.0);
/// How the ceiling is marked.
const CEILING: (f64, f64) = (7.0, 4.0);
/// Colour of marks that hold for all lines of a panel.
const MARK: Ink = GREY;

struct SizeCurves {
    name: String,
    title: Option<String>,
    restriction: String,
    score: &'static str,
    by: Option<String>,
}

/// Options: `by` (a parameter; by default the first that varies), `score` (`exact_match` by default, or `first_match`).
pub fn read(fields: &mut Fields, context: FigureContext) -> ConfigResult<Box<dyn Figure>> {
    Ok(Box::new(SizeCurves {
        score: read_score(fields, context.known)?,
        by: context.known.parameter(fields, "by")?,
        name: context.name,
        title: context.title,
        restriction: context.restriction,
    }))
}

/// One value of `by` in one panel.
struct Line {
    curve: Curve,
    trained: Option<usize>,
    ceiling: Option<Ceiling>,
}

struct Panel {
    title: String,
    lines: Vec<Line>,
}

impl SizeCurves {
    fn line(&self, data: &Dataset, own: &Group, ink: Ink) -> Line {
        let measured: Vec<Measured> =
            own.cells.iter().map(|cell| Measured::of(data, cell, self.score)).collect();
        let equal = |scores: &std::collections::BTreeMap<plateau_common::tasks::Cell, f64>| {
            let equal = scores.iter().filter(|(sizes, _)| sizes.row == sizes.column);
            equal.map(|(sizes, score)| (sizes.row as u64, *score)).collect()
        };
        let runs = measured.iter().flat_map(|own| &own.scores).map(equal).collect();
        Line {
            curve: Curve::new(runs, ink, DASHES[0]),
            trained: common(measured.iter().map(Measured::trained)),
            ceiling: common(measured.iter().map(|own| own.ceiling)),
        }
    }

    fn panels(&self, data: &Dataset, by: &[&str], values: &[Group]) -> Vec<Panel> {
        let rest = data.labels_without(by);
        let facets = data.group_by(&rest);
        let panels = facets.iter().map(|facet| {
            let groups = group(facet.cells.iter().copied(), by);
            let lines = groups.iter().map(|own| {
                let place = place_of(values, &own.values).unwrap_or(0);
                self.line(data, own, colour(place, values.len()))
            });
            let title = if rest.is_empty() { String::new() } else { describe(&rest, &facet.values) };
            Panel { title, lines: lines.filter(|line| !line.curve.points.is_empty()).collect() }
        });
        panels.filter(|panel| !panel.lines.is_empty()).collect()
    }
}

/// Draws a size of every line: once where all agree, else in each line's colour.
fn mark(scene: &mut Scene, frame: &Frame, lines: &[Line], of: fn(&Line) -> Option<usize>, dash: (f64, f64)) {
    if let Some(size) = common(lines.iter().map(of)) {
        return frame.vertical(scene, size as f64, MARK, dash);
    }
    for line in lines {
        if let Some(size) = of(line) {
            frame.vertical(scene, size as f64, line.curve.ink, dash);
        }
    }
}

/// The legend of a size that is marked in some panel within `largest`.
fn mark_entry(
    panels: &[Panel],
    of: fn(&Line) -> Option<usize>,
    largest: usize,
    name: &str,
    dash: (f64, f64),
) -> Option<Entry> {
    let lines = || panels.iter().flat_map(|panel| &panel.lines).map(of);
    lines().flatten().find(|size| *size <= largest)?;
    let coloured = panels.iter().any(|panel| {
        let mut own = panel.lines.iter().map(of);
        let first = own.next();
        own.any(|size| Some(size) != first)
    });
    let value = common(lines().filter(Option::is_some)).map_or(String::new(), |size| format!(" = {size}"));
    let whose = if coloured { ", in the colour of its line" } else { "" };
    let label = format!("{name}{value}{whose}");
    Some(Entry { label, ink: MARK, key: Key::Line(dash) })
}

impl Figure for SizeCurves {
    fn name(&self) -> &str {
        &self.name
    }

    fn mentions(&self) -> Vec<&str> {
        self.by.as_deref().into_iter().collect()
    }

    fn draw(&self, data: &Dataset, _: &[AnalysisResult]) -> Drawing {
        let default = || format!("{} over equal sizes", metric_name(self.score));
        let title = self.title.clone().unwrap_or_else(|| restricted(default(), &self.restriction));
        let by: Vec<&str> =
            self.by.as_deref().or(data.labels.first().map(String::as_str)).into_iter().collect();
        let values = data.group_by(&by);
        let mut panels = self.panels(data, &by, &values);
        let total = panels.len();
        if total == 0 {
            return Drawing::message(&title, NOTHING);
        }
        panels.truncate(MOST_PANELS);
        let lines = || panels.iter().flat_map(|panel| &panel.lines);
        let largest = lines().flat_map(|line| line.curve.points.keys()).max().copied().unwrap_or(1) as usize;
        let mut entries = Vec::new();
        if !by.is_empty() && values.len() > 1 {
            entries.extend(values.iter().enumerate().map(|(index, group)| Entry {
                label: describe(&by, &group.values),
                ink: colour(index, values.len()),
                key: Key::Line(DASHES[0]),
            }));
        }
        entries.extend(mark_entry(&panels, |line| line.trained, largest, "largest trained size", TRAINED));
        let ceiling: fn(&Line) -> Option<usize> = |line| line.ceiling.map(|ceiling| ceiling.equal());
        let formula = common(
            lines().filter(|line| line.ceiling.is_some()).map(|line| line.ceiling.map(|own| own.formula())),
        );
        let name = format!("ceiling {}", formula.unwrap_or_default());
        entries.extend(mark_entry(&panels, ceiling, largest, &name, CEILING));

        let titled = panels.iter().any(|panel| !panel.title.is_empty());
        let mut layout = Panels::of_lines(panels.len(), titled);
        let mut scene = layout.scene(&title, &entries);
        for (index, panel) in panels.iter().enumerate() {
            let x = Scale::Whole { low: 0.0, high: largest as f64 };
            let frame = layout.frame(index, x, Scale::Linear { low: 0.0, high: 1.03 });
            let x_label = if layout.is_lowest(index) { "Both sizes" } else { "" };
            let y_label = if layout.is_first(index) {
                super::style::capitalised(&metric_name(self.score))
            } else {
                String::new()
            };
            frame.draw(&mut scene, &panel.title, x_label, &y_label);
            mark(&mut scene, &frame, &panel.lines, |line| line.trained, TRAINED);
            mark(&mut scene, &frame, &panel.lines, ceiling, CEILING);
            for line in &panel.lines {
                line.curve.draw(&mut scene, &frame, Spread::RangeAndRuns);
            }
        }
        let most = lines().map(|line| line.curve.runs.len()).max().unwrap_or(0);
        let mut caption = format!(
            "Mean {} of problems of two equal sizes; {}.",
            metric_name(self.score),
            Spread::RangeAndRuns.phrase(most)
        );
        if let Some(beyond) = lines().filter_map(ceiling).filter(|size| *size > largest).max() {
            caption.push_str(&format!(" A ceiling of {beyond} lies outside the picture."));
        }
        caption.push_str(&left_out(panels.len(), total, "restrict the figure with `where`"));
        Drawing { scene, caption }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{digits, lengths};

    #[test]
    fn a_line_per_value_with_its_trained_size_and_ceiling() {
        let records = lengths(2);
        let data = Dataset::new(&records, &[]).with_axes_of(digits);
        let figure = SizeCurves {
            name: String::new(),
            title: None,
            restriction: String::new(),
            score: "exact_match",
            by: None,
        };
        let by = ["model.positions"];
        let values = data.group_by(&by);
        let panels = figure.panels(&data, &by, &values);
        let [panel] = panels.as_slice() else { panic!("one panel") };
        let [abacus, fire, _] = panel.lines.as_slice() else { panic!("three lines") };
        assert_eq!((abacus.trained, abacus.ceiling.map(|own| own.equal())), (Some(3), Some(7)));
        assert_eq!((fire.trained, fire.ceiling), (Some(3), None));
        // Seed 0 reaches 5 and seed 1 reaches 7.
        assert_eq!(abacus.curve.points[&6], [0.25 / 12.0, 1.0]);
        assert_eq!(abacus.curve.points.keys().copied().collect::<Vec<_>>(), (1..=9).collect::<Vec<u64>>());
        let svg = figure.draw(&data, &[]).scene.to_svg().unwrap();
        assert!(svg.contains("largest trained size = 3"));
        assert!(svg.contains("ceiling k + S − 1 = 7, in the colour of its line"));
        assert!(svg.contains("positions = fire"));
    }
}
