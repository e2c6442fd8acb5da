//! `survival`: Kaplan–Meier steps with bands and ticks where runs were censored.

use plateau_common::fields::{ConfigResult, Fields};

use super::scale::Scale;
use super::scene::{Ink, Scene};
use super::style::{Entry, Frame, Key, colour, header, header_height};
use super::{Drawing, Figure, FigureContext, restricted, result};
use crate::analyses::AnalysisResult;
use crate::analyses::grokking::GrokkingOutcome;
use crate::analyses::survival::{SurvivalCurves, SurvivalOutcome};
use crate::cells::Dataset;
use crate::statistics::kaplan_meier::KaplanMeier;

/// How far apart curves stand, at most.
const APART: f64 = 2.6;

struct SurvivalFigure {
    name: String,
    title: Option<String>,
    analysis: String,
    logarithmic: bool,
}

/// Options: `analysis` (name or index of a survival or grokking analysis; the first by default), `x-scale` (`log` by
/// default, or `linear`).
pub fn read(fields: &mut Fields, context: FigureContext) -> ConfigResult<Box<dyn Figure>> {
    let analysis = context.analysis(fields, &["survival", "grokking"])?;
    let logarithmic = fields.choice("x-scale", &[("log", true), ("linear", false)])?.unwrap_or(true);
    Ok(Box::new(SurvivalFigure { name: context.name, title: context.title, analysis, logarithmic }))
}

fn curves(result: &AnalysisResult) -> Option<&SurvivalCurves> {
    let own = result.outcome::<SurvivalOutcome>().map(|outcome| &outcome.curves);
    own.or_else(|| result.outcome::<GrokkingOutcome>().map(|outcome| &outcome.survival))
}

fn draw_curve(scene: &mut Scene, frame: &Frame, curve: &KaplanMeier, start: f64, ink: Ink) {
    let (mut line, mut upper, mut lower) = (Vec::new(), Vec::new(), Vec::new());
    let add = |points: &mut Vec<(f64, f64)>, x: f64, y: f64| points.extend(frame.point(x.max(start), y));
    let (mut survival, mut low, mut high) = (1.0, 1.0, 1.0);
    add(&mut line, start, 1.0);
    add(&mut lower, start, 1.0);
    add(&mut upper, start, 1.0);
    for step in &curve.steps {
        add(&mut line, step.time, survival);
        add(&mut lower, step.time, low);
        add(&mut upper, step.time, high);
        (survival, low, high) = (step.survival, step.low, step.high);
        add(&mut line, step.time, survival);
        add(&mut lower, step.time, low);
        add(&mut upper, step.time, high);
    }
    lower.reverse();
    upper.extend(lower);
    scene.polygon(upper, ink.faded(0.14));
    scene.line(line, ink, 2.4);
    for step in curve.steps.iter().filter(|step| step.censored > 0) {
        if let Some((x, y)) = frame.point(step.time.max(start), step.survival) {
            scene.line(vec![(x, y - 7.0), (x, y + 7.0)], ink, 2.0);
        }
    }
}

impl Figure for SurvivalFigure {
    fn name(&self) -> &str {
        &self.name
    }

    fn mentions(&self) -> Vec<&str> {
        Vec::new()
    }

    fn draw(&self, _: &Dataset, results: &[AnalysisResult]) -> Drawing {
        let source = result(results, &self.analysis);
        let restriction = source.map_or("", |result| result.restriction.as_str());
        let Some(found) = source.and_then(curves) else {
            return Drawing::message(
                "Survival",
                format!("The analysis `{}` gave no survival curves.", self.analysis),
            );
        };
        let default = || format!("Runs that have not yet reached {}", found.event.replace('_', " "));
        let title = self.title.clone().unwrap_or_else(|| restricted(default(), restriction));
        let groups: Vec<_> = found.groups.iter().filter(|group| group.runs > 0).collect();
        if groups.is_empty() {
            return Drawing::message(&title, "No run has been evaluated yet.");
        }
        let times: Vec<f64> =
            groups.iter().flat_map(|group| &group.curve.steps).map(|step| step.time).collect();
        let last = times.iter().copied().fold(1.0, f64::max);
        let first = times.iter().copied().filter(|time| *time > 0.0).fold(f64::INFINITY, f64::min);
        let (x, start) = if self.logarithmic && first < last {
            // Some room before the first event; step 0 is not on this axis, and nothing has happened there.
            let start = first / (last / first).powf(0.12).max(1.3);
            (Scale::Logarithmic { low: start, high: last, zero: false }, start)
        } else {
            (Scale::Linear { low: 0.0, high: last }, 0.0)
        };
        let count = groups.len();
        let entries: Vec<Entry> = groups
            .iter()
            .enumerate()
            .map(|(index, group)| Entry {
                label: format!("{} ({} of {})", group.name, group.events, group.runs),
                ink: colour(index, count),
                key: Key::Line((1.0, 0.0)),
            })
            .collect();
        let width = 820.0;
        let top = header_height(width, &entries) + 10.0;
        let mut scene = Scene::new(width, top + 380.0 + 64.0);
        header(&mut scene, &title, &entries);
        let frame = Frame {
            left: 92.0,
            top,
            width: width - 122.0,
            height: 380.0,
            x,
            y: Scale::Linear { low: 0.0, high: 1.02 },
        };
        frame.draw(&mut scene, "", "Training step", "Share of runs");
        for (index, group) in groups.iter().enumerate() {
            // A hair apart, so that curves on top of each other, such as those of runs that never got there, are all seen.
            let shift = (index as f64 - (count - 1) as f64 / 2.0) * APART.min(3.0 * APART / count as f64);
            let moved = Frame { top: frame.top + shift, ..frame.clone() };
            draw_curve(&mut scene, &moved, &group.curve, start, colour(index, count));
        }
        let confidence =
            groups.first().map_or(String::new(), |group| crate::analyses::percent(group.curve.confidence));
        let caption = format!(
            "Kaplan–Meier share of runs without {} so far, with {confidence} log(−log) limits; ticks mark runs that were \
             censored. Legend: runs with the event of all runs.",
            found.event
        );
        Drawing { scene, caption }
    }
}
