//! `estimate`: thresholds against a parameter, with error bars, the fitted line, and censored points as arrows.

use plateau_common::fields::{ConfigResult, Fields};

use super::scale::Scale;
use super::scene::Scene;
use super::style::{Entry, Frame, Key, arrow, colour, header, header_height};
use super::{Drawing, Figure, FigureContext, restricted, result};
use crate::analyses::AnalysisResult;
use crate::analyses::threshold::{LineEstimate, ThresholdFacet, ThresholdOutcome, ThresholdPoint};
use crate::cells::{Dataset, short_name};
use crate::number::{human, human_interval};
use crate::statistics::threshold::Crossing;

struct EstimateFigure {
    name: String,
    title: Option<String>,
    analysis: String,
    logarithmic: bool,
}

/// Options: `analysis` (name or index of a threshold analysis; the first by default), `scale` (`linear` by default, or
/// `log`: both axes).
pub fn read(fields: &mut Fields, context: FigureContext) -> ConfigResult<Box<dyn Figure>> {
    let analysis = context.analysis(fields, &["threshold"])?;
    let logarithmic = fields.choice("scale", &[("linear", false), ("log", true)])?.unwrap_or(false);
    Ok(Box::new(EstimateFigure { name: context.name, title: context.title, analysis, logarithmic }))
}

/// The height at which a point is drawn: its threshold, or the bound where it is censored.
fn height(point: &ThresholdPoint) -> Option<f64> {
    match point.crossing {
        Crossing::At(value) | Crossing::Below(value) | Crossing::Above(value) => Some(value),
        Crossing::Undefined => None,
    }
}

impl EstimateFigure {
    fn line_of<'f>(&self, facet: &'f ThresholdFacet) -> Option<&'f LineEstimate> {
        if self.logarithmic { facet.power_law.as_ref() } else { facet.line.as_ref() }
    }

    fn entries(&self, outcome: &ThresholdOutcome) -> Vec<Entry> {
        let count = outcome.facets.len();
        let mut entries = Vec::new();
        for (index, facet) in outcome.facets.iter().enumerate() {
            let name = if facet.name.is_empty() { "threshold" } else { &facet.name };
            entries.push(Entry { label: name.to_owned(), ink: colour(index, count), key: Key::Marker });
            if let Some(line) = self.line_of(facet) {
                let word = if self.logarithmic { "exponent" } else { "slope" };
                let interval = if line.slope.has_interval() {
                    format!(" [{}]", human_interval(line.slope.low, line.slope.high))
                } else {
                    String::new()
                };
                let label = format!("{word} {}{interval}", human(line.slope.value));
                entries.push(Entry { label, ink: colour(index, count), key: Key::Line((7.0, 4.0)) });
            }
        }
        entries
    }

    fn draw_facet(
        &self,
        scene: &mut Scene,
        frame: &Frame,
        facet: &ThresholdFacet,
        index: usize,
        count: usize,
        places: &[f64],
    ) {
        let ink = colour(index, count);
        if let Some(line) = self.line_of(facet) {
            let finite = places.iter().copied().filter(|x| x.is_finite());
            let low = finite.clone().fold(f64::INFINITY, f64::min);
            let high = finite.fold(f64::NEG_INFINITY, f64::max);
            let points = (0..=60).filter_map(|number| {
                let share = f64::from(number) / 60.0;
                let x = if self.logarithmic {
                    low * (high / low).powf(share)
                } else {
                    low + share * (high - low)
                };
                let y = if self.logarithmic {
                    line.intercept.value * x.powf(line.slope.value)
                } else {
                    line.intercept.value + line.slope.value * x
                };
                frame.point(x, y)
            });
            scene.dashed(points.collect(), ink.faded(0.9), 1.8, (7.0, 4.0));
        }
        // Facets stand side by side, so that equal thresholds and bounds do not hide each other.
        let shift = (index as f64 - (count - 1) as f64 / 2.0) * 8.0;
        let frame = &Frame { left: frame.left + shift, ..frame.clone() };
        for (point, place) in facet.points.iter().zip(places) {
            let Some(value) = height(point) else { continue };
            let Some(at) = frame.point(*place, value) else { continue };
            if point.threshold.has_interval() && point.threshold.value.is_finite() {
                frame.error_bar(scene, *place, point.threshold.low, point.threshold.high, ink);
            }
            match point.crossing {
                Crossing::Above(_) => {
                    scene.line(vec![at, (at.0, at.1 - 26.0)], ink, 1.8);
                    arrow(scene, (at.0, at.1 - 32.0), -1.0, ink);
                }
                Crossing::Below(_) => {
                    scene.line(vec![at, (at.0, at.1 + 22.0)], ink, 1.8);
                    arrow(scene, (at.0, at.1 + 28.0), 1.0, ink);
                }
                _ => {}
            }
            scene.disc(at, 5.5, ink);
        }
    }
}

impl Figure for EstimateFigure {
    fn name(&self) -> &str {
        &self.name
    }

    fn mentions(&self) -> Vec<&str> {
        Vec::new()
    }

    fn draw(&self, _: &Dataset, results: &[AnalysisResult]) -> Drawing {
        let found = result(results, &self.analysis);
        let outcome = found.and_then(|result| result.outcome::<ThresholdOutcome>());
        let restriction = found.map_or("", |result| result.restriction.as_str());
        let default = "Thresholds";
        let Some(outcome) = outcome else {
            return Drawing::message(
                default,
                format!("The analysis `{}` gave no thresholds.", self.analysis),
            );
        };
        let names = [outcome.along.as_str(), outcome.by.as_str()];
        let along = short_name(&outcome.along, &names);
        let by = if outcome.by.is_empty() { "" } else { short_name(&outcome.by, &names) };
        let metric = super::style::metric_name(&outcome.metric);
        let default = || format!("{along} at which {metric} falls through {}", human(outcome.level));
        let title = self.title.clone().unwrap_or_else(|| restricted(default(), restriction));
        let points: Vec<&ThresholdPoint> = outcome.facets.iter().flat_map(|facet| &facet.points).collect();
        let heights: Vec<f64> = points.iter().filter_map(|point| height(point)).collect();
        if heights.is_empty() {
            return Drawing::message(
                &title,
                "There is no threshold to draw: no finished run has the metric.",
            );
        }
        let numeric = points.iter().all(|point| point.by_number.is_finite());
        let ends = points
            .iter()
            .flat_map(|point| [point.threshold.low, point.threshold.high])
            .filter(|end| end.is_finite());
        let all: Vec<f64> = heights.iter().copied().chain(ends).collect();
        let logarithmic = self.logarithmic && numeric;
        let mut categories: Vec<String> = Vec::new();
        for point in &points {
            if !categories.contains(&point.by_text) {
                categories.push(point.by_text.clone());
            }
        }
        let (x, y) = if logarithmic {
            let places = points.iter().map(|point| point.by_number);
            (Scale::logarithmic_with_room(places), Scale::logarithmic_with_room(all.iter().copied()))
        } else if numeric {
            let low = all.iter().copied().fold(0.0, f64::min);
            let room = all.iter().copied().fold(0.0, f64::max) * 0.12;
            let largest = all.iter().copied().fold(0.0, f64::max);
            (
                Scale::linear(points.iter().map(|point| point.by_number).chain([0.0])),
                Scale::Linear { low: low * 1.06, high: (largest + room).max(low + 1.0) },
            )
        } else {
            (Scale::Categories(categories.clone()), Scale::linear(all.iter().copied().chain([0.0])))
        };
        let entries = self.entries(outcome);
        let width = 820.0;
        let top = header_height(width, &entries) + 10.0;
        let mut scene = Scene::new(width, top + 420.0 + 64.0);
        header(&mut scene, &title, &entries);
        let frame = Frame { left: 92.0, top, width: width - 122.0, height: 420.0, x, y };
        frame.draw(&mut scene, "", by, &format!("Threshold of {along}"));
        let count = outcome.facets.len();
        for (index, facet) in outcome.facets.iter().enumerate() {
            let places: Vec<f64> = facet
                .points
                .iter()
                .map(|point| match numeric {
                    true => point.by_number,
                    false => categories.iter().position(|name| *name == point.by_text).unwrap_or(0) as f64,
                })
                .collect();
            self.draw_facet(&mut scene, &frame, facet, index, count, &places);
        }
        let mut caption = format!(
            "Value of {} at which the isotonic fit of {} falls through {}, with {} intervals; arrows mark thresholds beyond \
             the measured range, which the line leaves out.",
            outcome.along,
            outcome.metric,
            human(outcome.level),
            points
                .first()
                .map_or(String::new(), |point| crate::analyses::percent(point.threshold.confidence)),
        );
        if !restriction.is_empty() {
            caption.push_str(&format!(" Only trials with {restriction}."));
        }
        Drawing { scene, caption }
    }
}
