//! `curves`: metrics over training steps, mean line and spread of the replicates.
//!
//! Without `by` every cell has its own panel and colours tell metrics apart; with `by` colours are its values, dashes
//! are metrics, and panels are what else varies. Metrics of different quantities (accuracy, loss) never share a panel;
//! with `panels = "metric"` no two metrics do. Dotted metrics have no band, so that the others' can be read. Baselines are metrics that are drawn as one horizontal line.

use std::collections::BTreeMap;

use plateau_common::fields::{ConfigError, ConfigResult, Fields};
use plateau_common::node::Value;
use plateau_common::results::{Series, TrialRecord};

use super::panels::{MOST_PANELS, Panels, TITLE_LINE, draw_title, left_out, title_lines};
use super::replicates::{Curve, Spread};
use super::scale::Scale;
use super::scene::{Ink, Scene};
use super::style::{DARK, DASHES, Entry, Frame, GREY, Key, axis_label, colour, metric_name, quantity};
use super::{Drawing, Figure, FigureContext, restricted};
use crate::analyses::AnalysisResult;
use crate::analyses::population::final_value;
use crate::analyses::{read_metric_list, read_metrics};
use crate::cells::{Cell, Dataset, describe, group, human, place_of, short_name};
use crate::statistics::mean::mean;

/// Metrics that are drawn dotted.
pub const DOTTED: (f64, f64) = DASHES[2];
/// Baselines, in their order.
const BASELINE_DASHES: [(f64, f64); 3] = [(9.0, 3.0), (3.0, 3.0), (14.0, 5.0)];

struct Curves {
    name: String,
    title: Option<String>,
    restriction: String,
    metrics: Vec<String>,
    dotted: Vec<String>,
    by: Option<String>,
    apart: bool,
    baselines: BTreeMap<String, Vec<String>>,
    logarithmic_x: bool,
    logarithmic_y: bool,
    levels: Vec<f64>,
    band: Spread,
}

/// Options: `metrics` (default training and test accuracy), `dotted` (some of them), `by`, `panels` (`quantity` by default, or
/// `metric`: a panel for each), `baselines` (a table: for a metric, metrics whose value is drawn as a line across it),
/// `x-scale` (`log` by default, or `linear`), `y-scale` (`linear` by default, or `log`), `level` or `levels` (horizontal lines),
/// `band` (`range` of replicates by default, `t` for the 95 % interval of the mean, `runs` for thin lines per run, `none`).
pub fn read(fields: &mut Fields, context: FigureContext) -> ConfigResult<Box<dyn Figure>> {
    let scales = [("log", true), ("linear", false)];
    let bands =
        [("range", Spread::Range), ("t", Spread::Interval), ("runs", Spread::Runs), ("none", Spread::None)];
    let metrics = read_metrics(fields, context.known, &["train_accuracy", "test_accuracy"])?;
    Ok(Box::new(Curves {
        levels: read_levels(fields)?,
        dotted: read_dotted(fields, &metrics)?,
        baselines: read_baselines(fields, &context, &metrics)?,
        by: context.known.parameter(fields, "by")?,
        apart: fields.choice("panels", &[("quantity", false), ("metric", true)])?.unwrap_or(false),
        logarithmic_x: fields.choice("x-scale", &scales)?.unwrap_or(true),
        logarithmic_y: fields.choice("y-scale", &scales)?.unwrap_or(false),
        band: fields.choice("band", &bands)?.unwrap_or(Spread::Range),
        metrics,
        name: context.name,
        title: context.title,
        restriction: context.restriction,
    }))
}

/// Reads `level` and `levels`.
pub fn read_levels(fields: &mut Fields) -> ConfigResult<Vec<f64>> {
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
    Ok(levels)
}

/// Reads `dotted`: some of the figure's metrics.
pub fn read_dotted(fields: &mut Fields, metrics: &[String]) -> ConfigResult<Vec<String>> {
    let none = crate::analyses::Known::default();
    let dotted = read_metric_list(fields, none, "dotted")?.unwrap_or_default();
    match dotted.iter().find(|name| !metrics.contains(name)) {
        None => Ok(dotted),
        Some(name) => Err(fields
            .error("dotted", format!("`{name}` is not among the figure's metrics"))
            .suggest(format!("one of: {}", metrics.join(", ")))),
    }
}

fn read_baselines(
    fields: &mut Fields,
    context: &FigureContext,
    metrics: &[String],
) -> ConfigResult<BTreeMap<String, Vec<String>>> {
    let mut baselines = BTreeMap::new();
    let place = fields.path_of("baselines");
    let Some(table) = fields.table("baselines")? else { return Ok(baselines) };
    for entry in &table.into_table().entries {
        let path = format!("{place}.{}", entry.key);
        if !metrics.contains(&entry.key) {
            let problem = format!("`{}` is not among the figure's metrics", entry.key);
            return Err(ConfigError::new(path, entry.key_location, problem)
                .suggest(format!("one of: {}", metrics.join(", "))));
        }
        let Value::Array(items) = &entry.node.value else {
            let problem = format!("expected a list of metrics, found {}", entry.node.value.type_name());
            return Err(ConfigError::new(path, entry.node.location, problem));
        };
        let mut names = Vec::new();
        for (index, item) in items.iter().enumerate() {
            names.push(context.known.metric_item(item, &format!("{path}[{index}]"))?);
        }
        baselines.insert(entry.key.clone(), names);
    }
    Ok(baselines)
}

struct Panel {
    title: String,
    /// Panels of one measure share their axis; a quantity's or a metric's name.
    measure: String,
    quantity: &'static str,
    curves: Vec<Curve>,
    /// Baselines by their number in the legend.
    baselines: Vec<(usize, f64)>,
}

/// Metrics that share a panel.
struct Bucket<'m> {
    measure: &'m str,
    quantity: &'static str,
    metrics: Vec<(usize, &'m str)>,
}

fn trials<'d, 'a>(cells: &'d [&'d Cell<'a>]) -> impl Iterator<Item = &'a TrialRecord> + 'd {
    cells.iter().flat_map(|cell| cell.trials.iter().copied())
}

impl Curves {
    fn buckets(&self) -> Vec<Bucket<'_>> {
        let mut buckets: Vec<Bucket> = Vec::new();
        for (index, metric) in self.metrics.iter().enumerate() {
            let quantity = quantity(metric);
            let measure = if self.apart { metric.as_str() } else { quantity };
            match buckets.iter_mut().find(|bucket| bucket.measure == measure) {
                Some(bucket) => bucket.metrics.push((index, metric)),
                None => buckets.push(Bucket { measure, quantity, metrics: vec![(index, metric)] }),
            }
        }
        buckets
    }

    /// The dash pattern of a metric: dashes tell metrics apart only where colours say something else.
    fn dash(&self, index: usize, metric: &str) -> (f64, f64) {
        if self.dotted.iter().any(|dotted| dotted == metric) {
            DOTTED
        } else if self.by.is_some() && !self.apart {
            DASHES[index % DASHES.len()]
        } else {
            DASHES[0]
        }
    }

    fn curve<'a>(
        &self,
        trials: impl Iterator<Item = &'a TrialRecord>,
        metric: &str,
        ink: Ink,
        dash: (f64, f64),
    ) -> Curve {
        let series = trials.filter_map(|trial| trial.series.get(metric));
        let points = |run: &Series| run.steps.iter().copied().zip(run.values.iter().copied()).collect();
        let plain = self.dotted.iter().any(|dotted| dotted == metric);
        Curve { plain, ..Curve::new(series.map(points).collect(), ink, dash) }
    }

    /// All baselines, each once.
    fn baseline_names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for name in self.baselines.values().flatten() {
            if !names.contains(&name.as_str()) {
                names.push(name);
            }
        }
        names
    }

    fn panel(&self, bucket: &Bucket, title: String, cells: &[&Cell], curves: Vec<Curve>) -> Panel {
        let names = self.baseline_names();
        let wanted = bucket.metrics.iter().filter_map(|(_, metric)| self.baselines.get(*metric)).flatten();
        let baseline = |name: &String| {
            let ends = trials(cells).map(|trial| final_value(trial, name));
            let known: Vec<f64> = ends.filter(|end| end.is_finite()).collect();
            let number = names.iter().position(|other| other == name)?;
            (!known.is_empty()).then(|| (number, mean(&known)))
        };
        let title = match (self.apart, title.is_empty()) {
            (false, _) => title,
            (true, true) => metric_name(bucket.measure),
            (true, false) => format!("{}, {title}", metric_name(bucket.measure)),
        };
        Panel {
            title,
            measure: bucket.measure.to_owned(),
            quantity: bucket.quantity,
            curves,
            baselines: wanted.filter_map(baseline).collect(),
        }
    }

    fn panels(&self, data: &Dataset) -> (Vec<Panel>, Vec<Entry>) {
        let mut panels = Vec::new();
        let mut entries = Vec::new();
        let metrics = self.metrics.len();
        match &self.by {
            None => {
                for (index, metric) in self.metrics.iter().enumerate() {
                    let (ink, key) = (colour(index, metrics), Key::Line(self.dash(index, metric)));
                    entries.push(Entry { label: metric_name(metric), ink, key });
                }
                for bucket in self.buckets() {
                    for cell in &data.cells {
                        let own = bucket.metrics.iter().map(|(index, metric)| {
                            self.curve(
                                trials(&[cell]),
                                metric,
                                colour(*index, metrics),
                                self.dash(*index, metric),
                            )
                        });
                        let title = if data.labels.is_empty() { String::new() } else { data.name_of(cell) };
                        panels.push(self.panel(&bucket, title, &[cell], own.collect()));
                    }
                }
            }
            Some(by) => {
                let values = data.group_by(&[by]);
                for (index, group) in values.iter().enumerate() {
                    let value = human(group.values.first().and_then(Option::as_ref));
                    let label = format!("{} = {value}", short_name(by, &[]));
                    let ink = colour(index, values.len());
                    entries.push(Entry { label, ink, key: Key::Line(DASHES[0]) });
                }
                if metrics > 1 && !self.apart {
                    for (index, metric) in self.metrics.iter().enumerate() {
                        let key = Key::Line(self.dash(index, metric));
                        entries.push(Entry { label: metric_name(metric), ink: GREY, key });
                    }
                }
                let rest = data.labels_without(&[by]);
                for bucket in self.buckets() {
                    for facet in data.group_by(&rest) {
                        let mut curves = Vec::new();
                        for (index, metric) in &bucket.metrics {
                            for own in group(facet.cells.iter().copied(), &[by]) {
                                let place = place_of(&values, &own.values);
                                let ink = colour(place.unwrap_or(0), values.len());
                                curves.push(self.curve(
                                    trials(&own.cells),
                                    metric,
                                    ink,
                                    self.dash(*index, metric),
                                ));
                            }
                        }
                        let title =
                            if rest.is_empty() { String::new() } else { describe(&rest, &facet.values) };
                        panels.push(self.panel(&bucket, title, &facet.cells, curves));
                    }
                }
            }
        }
        panels.retain(|panel| panel.curves.iter().any(|curve| !curve.points.is_empty()));
        for (number, name) in self.baseline_names().into_iter().enumerate() {
            if panels.iter().flat_map(|panel| &panel.baselines).any(|(drawn, _)| *drawn == number) {
                entries.push(Entry {
                    label: metric_name(name),
                    ink: DARK,
                    key: Key::Line(baseline_dash(number)),
                });
            }
        }
        (panels, entries)
    }

    fn scales(&self, panels: &[Panel], of: &Panel) -> (Scale, Scale) {
        let steps = panels
            .iter()
            .flat_map(|panel| &panel.curves)
            .flat_map(|curve| curve.points.keys())
            .map(|step| *step as f64);
        let alike = || panels.iter().filter(|panel| panel.measure == of.measure);
        let baselines = alike().flat_map(|panel| panel.baselines.iter().map(|(_, value)| *value));
        let values = alike()
            .flat_map(|panel| &panel.curves)
            .flat_map(|curve| curve.points.values().flatten().copied())
            .chain(baselines);
        let x = if self.logarithmic_x {
            Scale::logarithmic(steps, true)
        } else {
            let high = steps.fold(1.0, f64::max);
            Scale::Linear { low: 0.0, high }
        };
        let y = if self.logarithmic_y {
            Scale::logarithmic_with_room(values)
        } else if of.quantity == "Accuracy" {
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
        let mut caption = format!("{} over training; {spread}.", names.join(", "));
        if !self.dotted.is_empty() {
            caption.push_str(" Dotted: the mean alone.");
        }
        let uneven = panels
            .iter()
            .flat_map(|panel| &panel.curves)
            .any(|curve| curve.points.values().any(|values| values.len() < curve.runs.len()));
        if uneven {
            caption.push_str(" Where runs ended early or gave values that are not finite, the mean is over those that are left.");
        }
        let missing: Vec<String> = self
            .baseline_names()
            .into_iter()
            .enumerate()
            .filter(|(number, _)| {
                !panels.iter().flat_map(|panel| &panel.baselines).any(|(drawn, _)| drawn == number)
            })
            .map(|(_, name)| metric_name(name))
            .collect();
        if !missing.is_empty() {
            caption.push_str(&format!(" Not measured: {}.", missing.join(", ")));
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
        let titles: Vec<Vec<String>> =
            panels.iter().map(|panel| title_lines(&panel.title, layout.plot.0 + 40.0)).collect();
        let further = titles.iter().map(Vec::len).max().unwrap_or(0).saturating_sub(1);
        layout.top += further as f64 * TITLE_LINE;
        layout.gap.1 += further as f64 * TITLE_LINE;
        let mut scene = layout.scene(&title, &entries);
        for (index, (panel, lines)) in panels.iter().zip(&titles).enumerate() {
            let (x, y) = self.scales(&panels, panel);
            let frame = layout.frame(index, x, y);
            let same = index.checked_sub(1).and_then(|before| panels.get(before));
            let label = match same {
                Some(before) if !layout.is_first(index) && before.measure == panel.measure => "",
                _ => panel.quantity,
            };
            frame.draw(&mut scene, "", "Training step", axis_label(label, data));
            draw_title(&mut scene, &frame, lines);
            draw_levels(&mut scene, &frame, &self.levels);
            for (number, value) in &panel.baselines {
                horizontal(&mut scene, &frame, *value, DARK, 1.6, baseline_dash(*number));
            }
            for curve in &panel.curves {
                curve.draw(&mut scene, &frame, self.band);
            }
        }
        let caption = self.caption(panels.len(), total, &panels);
        Drawing { scene, caption }
    }
}

fn baseline_dash(number: usize) -> (f64, f64) {
    BASELINE_DASHES[number % BASELINE_DASHES.len()]
}

/// Draws a figure's levels as thin dashed lines.
pub fn draw_levels(scene: &mut Scene, frame: &Frame, levels: &[f64]) {
    for level in levels {
        horizontal(scene, frame, *level, DARK.faded(0.7), 1.2, (4.0, 4.0));
    }
}

fn horizontal(scene: &mut Scene, frame: &Frame, value: f64, ink: Ink, width: f64, dash: (f64, f64)) {
    if let Some(place) = frame.y.place(value) {
        let y = frame.top + (1.0 - place) * frame.height;
        scene.dashed(vec![(frame.left, y), (frame.left + frame.width, y)], ink, width, dash);
    }
}
