//! `curves`: metrics over training steps, mean line and spread of the replicates.
//!
//! Without `by` every cell has its own panel and colours tell metrics apart; with `by` colours are its values, dashes
//! are metrics, and panels are what else varies. Metrics of different quantities (accuracy, loss) never share a panel.

use plateau_common::fields::{ConfigError, ConfigResult, Fields};
use plateau_common::node::Value;
use plateau_common::results::{Series, TrialRecord};

use super::panels::{MOST_PANELS, Panels, left_out};
use super::replicates::{Curve, Spread};
use super::scale::Scale;
use super::scene::Ink;
use super::style::{DARK, DASHES, Entry, GREY, Key, axis_label, colour, metric_name, quantity};
use super::{Drawing, Figure, FigureContext, restricted};
use crate::analyses::AnalysisResult;
use crate::analyses::read_metrics;
use crate::cells::{Cell, Dataset, describe, group, human, place_of, short_name};

struct Curves {
    name: String,
    title: Option<String>,
    restriction: String,
    metrics: Vec<String>,
    by: Option<String>,
    logarithmic_x: bool,
    logarithmic_y: bool,
    levels: Vec<f64>,
    band: Spread,
}

/// Options: `metrics` (default training and test accuracy), `by`, `x-scale` (`log` by default, or `linear`), `y-scale`
/// (`linear` by default, or `log`), `level` or `levels` (horizontal lines), `band` (`range` of replicates by default, `t` for the 95 %
/// interval of the mean, `runs` for thin lines per run, `none`).
pub fn read(fields: &mut Fields, context: FigureContext) -> ConfigResult<Box<dyn Figure>> {
    let scales = [("log", true), ("linear", false)];
    let bands =
        [("range", Spread::Range), ("t", Spread::Interval), ("runs", Spread::Runs), ("none", Spread::None)];
    let mut levels: Vec<f64> = fields.number("level", f64::MIN..=f64::MAX)?.into_iter().collect();
    for (index, item) in fields.array("levels")?.unwrap_or_default().iter().enumerate() {
        levels.push(match item.value {
            Value::Float(level) if level.is_finite() => level,
            Value::Integer(level) => level as f64,
            ref other => {
                let path = format!("{}[{index}]", fields.path_of("levels"));
                return Err(ConfigError::new(
                    path,
                    item.location,
                    format!("expected a number, found `{other}`"),
                ));
            }
        });
    }
    Ok(Box::new(Curves {
        name: context.name,
        title: context.title,
        restriction: context.restriction,
        metrics: read_metrics(fields, context.known, &["train_accuracy", "test_accuracy"])?,
        by: context.known.parameter(fields, "by")?,
        logarithmic_x: fields.choice("x-scale", &scales)?.unwrap_or(true),
        logarithmic_y: fields.choice("y-scale", &scales)?.unwrap_or(false),
        levels,
        band: fields.choice("band", &bands)?.unwrap_or(Spread::Range),
    }))
}

struct Panel {
    title: String,
    quantity: &'static str,
    curves: Vec<Curve>,
}

fn curve<'a>(
    trials: impl Iterator<Item = &'a TrialRecord>,
    metric: &str,
    ink: Ink,
    dash: (f64, f64),
) -> Curve {
    let series = trials.filter_map(|trial| trial.series.get(metric));
    let points = |run: &Series| run.steps.iter().copied().zip(run.values.iter().copied()).collect();
    Curve::new(series.map(points).collect(), ink, dash)
}

fn trials<'d, 'a>(cells: &'d [&'d Cell<'a>]) -> impl Iterator<Item = &'a TrialRecord> + 'd {
    cells.iter().flat_map(|cell| cell.trials.iter().copied())
}

impl Curves {
    fn panels(&self, data: &Dataset) -> (Vec<Panel>, Vec<Entry>) {
        let mut quantities: Vec<&'static str> = Vec::new();
        for metric in &self.metrics {
            if !quantities.contains(&quantity(metric)) {
                quantities.push(quantity(metric));
            }
        }
        let mut panels = Vec::new();
        let mut entries = Vec::new();
        let metrics = self.metrics.len();
        let numbered = || self.metrics.iter().enumerate();
        match &self.by {
            None => {
                for (index, metric) in numbered() {
                    let ink = colour(index, metrics);
                    entries.push(Entry { label: metric_name(metric), ink, key: Key::Line(DASHES[0]) });
                }
                for quantity_of in &quantities {
                    for cell in &data.cells {
                        let curves = numbered()
                            .filter(|(_, metric)| quantity(metric) == *quantity_of)
                            .map(|(index, metric)| {
                                curve(trials(&[cell]), metric, colour(index, metrics), DASHES[0])
                            })
                            .collect();
                        let title = if data.labels.is_empty() { String::new() } else { data.name_of(cell) };
                        panels.push(Panel { title, quantity: quantity_of, curves });
                    }
                }
            }
            Some(by) => {
                let values = data.group_by(&[by]);
                for (index, group) in values.iter().enumerate() {
                    let value = human(group.values.first().and_then(Option::as_ref));
                    let label = format!("{} = {value}", short_name(by, &[]));
                    entries.push(Entry {
                        label,
                        ink: colour(index, values.len()),
                        key: Key::Line(DASHES[0]),
                    });
                }
                if metrics > 1 {
                    for (index, metric) in numbered() {
                        let key = Key::Line(DASHES[index % DASHES.len()]);
                        entries.push(Entry { label: metric_name(metric), ink: GREY, key });
                    }
                }
                let rest = data.labels_without(&[by]);
                for quantity_of in &quantities {
                    for facet in data.group_by(&rest) {
                        let mut curves = Vec::new();
                        for (index, metric) in
                            numbered().filter(|(_, metric)| quantity(metric) == *quantity_of)
                        {
                            for own in group(facet.cells.iter().copied(), &[by]) {
                                let place = place_of(&values, &own.values);
                                let ink = colour(place.unwrap_or(0), values.len());
                                curves.push(curve(
                                    trials(&own.cells),
                                    metric,
                                    ink,
                                    DASHES[index % DASHES.len()],
                                ));
                            }
                        }
                        let title =
                            if rest.is_empty() { String::new() } else { describe(&rest, &facet.values) };
                        panels.push(Panel { title, quantity: quantity_of, curves });
                    }
                }
            }
        }
        panels.retain(|panel| panel.curves.iter().any(|curve| !curve.points.is_empty()));
        (panels, entries)
    }

    fn scales(&self, panels: &[Panel], quantity_of: &str) -> (Scale, Scale) {
        let steps = panels
            .iter()
            .flat_map(|panel| &panel.curves)
            .flat_map(|curve| curve.points.keys())
            .map(|step| *step as f64);
        let values = panels
            .iter()
            .filter(|panel| panel.quantity == quantity_of)
            .flat_map(|panel| &panel.curves)
            .flat_map(|curve| curve.points.values().flatten().copied());
        let x = if self.logarithmic_x {
            Scale::logarithmic(steps, true)
        } else {
            let high = steps.fold(1.0, f64::max);
            Scale::Linear { low: 0.0, high }
        };
        let y = if self.logarithmic_y {
            Scale::logarithmic_with_room(values)
        } else if quantity_of == "Accuracy" {
            Scale::Linear { low: 0.0, high: 1.03 }
        } else {
            Scale::linear(values.chain(self.levels.iter().copied()))
        };
        (x, y)
    }

    fn caption(&self, drawn: usize, total: usize, panels: &[Panel]) -> String {
        let most =
            panels.iter().flat_map(|panel| &panel.curves).map(|curve| curve.runs.len()).max().unwrap_or(0);
        let spread = self.band.phrase(most);
        let names: Vec<String> = self.metrics.iter().map(|metric| metric_name(metric)).collect();
        let mut caption = format!("{} over training; {spread}.", names.join(" and "));
        let uneven = panels
            .iter()
            .flat_map(|panel| &panel.curves)
            .any(|curve| curve.points.values().any(|values| values.len() < curve.runs.len()));
        if uneven {
            caption.push_str(" Where runs ended early or gave values that are not finite, the mean is over those that are left.");
        }
        caption.push_str(&left_out(drawn, total, "choose fewer cells or group with `by`"));
        caption
    }
}

impl Figure for Curves {
    fn name(&self) -> &str {
        &self.name
    }

    fn mentions(&self) -> Vec<&str> {
        self.by.as_deref().into_iter().collect()
    }

    fn draw(&self, data: &Dataset, _: &[AnalysisResult]) -> Drawing {
        let title =
            self.title.clone().unwrap_or_else(|| restricted("Learning curves".to_owned(), &self.restriction));
        let (mut panels, entries) = self.panels(data);
        let total = panels.len();
        if total == 0 {
            return Drawing::message(
                &title,
                format!("No trial has measured {} yet.", self.metrics.join(" or ")),
            );
        }
        panels.truncate(MOST_PANELS);
        let titled = panels.iter().any(|panel| !panel.title.is_empty());
        let mut layout = Panels::of_lines(panels.len(), titled);
        let mut scene = layout.scene(&title, &entries);
        for (index, panel) in panels.iter().enumerate() {
            let (x, y) = self.scales(&panels, panel.quantity);
            let frame = layout.frame(index, x, y);
            let label = if layout.is_first(index) || panels[index - 1].quantity != panel.quantity {
                panel.quantity
            } else {
                ""
            };
            frame.draw(&mut scene, &panel.title, "Training step", axis_label(label, data));
            for level in &self.levels {
                if let (Some(start), Some(_)) = (frame.y.place(*level), frame.x.place_within(0.0)) {
                    let y = frame.top + (1.0 - start) * frame.height;
                    scene.dashed(
                        vec![(frame.left, y), (frame.left + frame.width, y)],
                        DARK.faded(0.7),
                        1.2,
                        (4.0, 4.0),
                    );
                }
            }
            for curve in &panel.curves {
                curve.draw(&mut scene, &frame, self.band);
            }
        }
        let caption = self.caption(panels.len(), total, &panels);
        Drawing { scene, caption }
    }
}
