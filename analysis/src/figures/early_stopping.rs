//! `early-stopping`: the held-out metric where training would have stopped early, joined with the end of the same run.
//!
//! The early stop is the first maximum of the metric that saturates (`grokking`); what is drawn is that analysis' outcome.

use plateau_common::fields::{ConfigResult, Fields};

use super::curves::draw_levels;
use super::panels::left_out;
use super::scale::Scale;
use super::scene::{Anchor, Ink, Scene};
use super::style::{
    DARK, Entry, Frame, GREY, Key, SMALL, axis_label, capitalised, colour, fit_text, header, header_height,
    metric_name, quantity, text,
};
use super::{Drawing, Figure, FigureContext, restricted, result};
use crate::analyses::grokking::{GrokkingGroup, GrokkingOutcome};
use crate::analyses::{AnalysisResult, percent};
use crate::cells::Dataset;
use crate::number;

/// Groups drawn at most.
const MOST_GROUPS: usize = 16;
/// Where in its group's room the early stop and the end stand.
const PLACES: (f64, f64) = (0.3, 0.7);
/// How far a mean stands outside its runs.
const ASIDE: f64 = 0.1;

struct EarlyStopping {
    name: String,
    title: Option<String>,
    analysis: String,
}

/// Options: `analysis` (name or index of a grokking analysis; the first by default).
pub fn read(fields: &mut Fields, context: FigureContext) -> ConfigResult<Box<dyn Figure>> {
    let analysis = context.analysis(fields, &["grokking"])?;
    Ok(Box::new(EarlyStopping { name: context.name, title: context.title, analysis }))
}

/// Both values of every run of a group that has both.
fn runs(outcome: &GrokkingOutcome, group: &GrokkingGroup) -> Vec<(f64, f64)> {
    let own = outcome.trials.iter().filter(|trial| trial.group == group.name);
    own.filter_map(|trial| Some((trial.transition.early_stop_value?, trial.transition.final_value?)))
        .collect()
}

fn inks() -> (Ink, Ink) {
    (colour(1, 2), colour(0, 2))
}

fn draw_group(
    scene: &mut Scene,
    frame: &Frame,
    place: f64,
    outcome: &GrokkingOutcome,
    group: &GrokkingGroup,
) {
    let (early, end) = inks();
    let runs = runs(outcome, group);
    for (before, after) in &runs {
        let ends = (frame.point(place + PLACES.0, *before), frame.point(place + PLACES.1, *after));
        if let (Some(before), Some(after)) = ends {
            scene.line(vec![before, after], GREY.faded(0.55), 1.1);
        }
    }
    for (before, after) in &runs {
        for (at, value, ink) in [(PLACES.0, before, early), (PLACES.1, after, end)] {
            if let Some(at) = frame.point(place + at, *value) {
                scene.disc(at, 3.6, ink.faded(0.8));
            }
        }
    }
    let means =
        [(PLACES.0 - ASIDE, &group.early_stop_value, early), (PLACES.1 + ASIDE, &group.final_value, end)];
    for (at, mean, ink) in means {
        let x = place + at;
        if mean.has_interval() {
            frame.error_bar(scene, x, mean.low, mean.high, ink);
        }
        if let Some(at) = frame.point(x, mean.value) {
            scene.disc(at, 6.2, Ink::solid(255, 255, 255));
            scene.disc(at, 5.2, ink);
        }
    }
}

/// The group's name below the axis and its mean cost above the plot, within its room.
fn label_group(scene: &mut Scene, frame: &Frame, place: f64, group: &GrokkingGroup, room: f64) {
    let Some((x, _)) = frame.point_within(place + 0.5, 0.0) else { return };
    let small = text(SMALL, DARK, Anchor::Middle);
    let bottom = frame.top + frame.height;
    scene.text((x, bottom + 18.0), fit_text(&group.name, SMALL, false, room), small);
    let cost = group.early_stopping_cost.value;
    if cost.is_finite() {
        let sign = if cost > 0.0 { "+" } else { "" };
        let words = format!("mean {sign}{}", number::significant(cost, 2));
        scene.text((x, frame.top - 12.0), fit_text(&words, SMALL, false, room), small);
    }
}

impl Figure for EarlyStopping {
    fn name(&self) -> &str {
        &self.name
    }

    fn mentions(&self) -> Vec<&str> {
        Vec::new()
    }

    fn draw(&self, data: &Dataset, results: &[AnalysisResult]) -> Drawing {
        let found = result(results, &self.analysis);
        let Some(outcome) = found.and_then(|result| result.outcome::<GrokkingOutcome>()) else {
            let words = format!("The analysis `{}` gave no transitions.", self.analysis);
            return Drawing::message("Early stopping", words);
        };
        let restriction = found.map_or("", |result| result.restriction.as_str());
        let metric = metric_name(&outcome.test_metric);
        let default = || format!("{} at the early stop and at the end", capitalised(&metric));
        let title = self.title.clone().unwrap_or_else(|| restricted(default(), restriction));
        let mut groups: Vec<&GrokkingGroup> =
            outcome.groups.iter().filter(|group| group.early_stopping_cost.runs > 0).collect();
        let total = groups.len();
        if total == 0 {
            let train = metric_name(&outcome.train_metric);
            return Drawing::message(&title, format!("No trial has measured both {train} and {metric} yet."));
        }
        groups.truncate(MOST_GROUPS);
        let (early, end) = inks();
        let entries = [("at the early stop", early), ("at the end", end)].map(|(label, ink)| Entry {
            label: label.to_owned(),
            ink,
            key: Key::Marker,
        });
        let room = (760.0 / groups.len() as f64).clamp(96.0, 210.0);
        let (left, right) = (86.0, 34.0);
        let width = (left + room * groups.len() as f64 + right).max(600.0);
        let top = header_height(width, &entries) + 32.0;
        let height = 360.0;
        let mut scene = Scene::new(width, top + height + 62.0);
        header(&mut scene, &title, &entries);
        let y = if quantity(&outcome.test_metric) == "Accuracy" {
            Scale::Linear { low: 0.0, high: 1.03 }
        } else {
            let all = groups.iter().flat_map(|group| runs(outcome, group));
            Scale::linear(all.flat_map(|(before, after)| [before, after]))
        };
        let blank =
            Frame { left, top, width: width - left - right, height, x: Scale::Categories(Vec::new()), y };
        blank.draw(&mut scene, "", "", axis_label(quantity(&outcome.test_metric), data));
        let frame = Frame { x: Scale::Linear { low: 0.0, high: groups.len() as f64 }, ..blank };
        draw_levels(&mut scene, &frame, &[outcome.levels.test]);
        for (index, group) in groups.iter().enumerate() {
            draw_group(&mut scene, &frame, index as f64, outcome, group);
            label_group(&mut scene, &frame, index as f64, group, room - 8.0);
        }
        let confidence =
            groups.first().map_or(String::new(), |group| percent(group.early_stopping_cost.confidence));
        let caption = format!(
            "{} at the first maximum of {} and at the end of the same run (small dots, joined); large dots: mean with t {} \
             interval; above: mean of end less early stop.{}",
            capitalised(&metric),
            metric_name(&outcome.train_metric),
            confidence,
            left_out(groups.len(), total, "choose fewer cells with `where`")
        );
        Drawing { scene, caption }
    }
}
