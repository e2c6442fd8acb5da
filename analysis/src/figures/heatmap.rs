//! `heatmap`: the mean of a metric at the last evaluation over two parameters.

use plateau_common::fields::{ConfigResult, Fields};
use plateau_common::results::Parameter;

use super::map::Colours;
use super::scale::Scale;
use super::scene::{Anchor, Scene};
use super::style::{
    DARK, Frame, LABEL, MARGIN, SMALL, fit_text, header, header_height, metric_name, quantity, text,
    text_width_of,
};
use super::{Drawing, Figure, FigureContext, restricted};
use crate::analyses::AnalysisResult;
use crate::analyses::population::{ended, final_value};
use crate::cells::{Dataset, Group, compare, describe, human, short_name};
use crate::statistics::mean;

/// Cells up to which values are written into the map by default.
pub const MOST_ANNOTATIONS: usize = 240;

struct Heatmap {
    name: String,
    title: Option<String>,
    restriction: String,
    x: String,
    y: String,
    value: String,
    annotate: Option<bool>,
}

/// Options: `x`, `y` (parameters, required), `value` (a metric, default `test_accuracy`), `annotate` (write values).
pub fn read(fields: &mut Fields, context: FigureContext) -> ConfigResult<Box<dyn Figure>> {
    let x = context.known.parameter(fields, "x")?;
    let x = fields.require("x", x)?;
    let y = context.known.parameter(fields, "y")?;
    let y = fields.require("y", y)?;
    if x == y {
        return Err(fields.error("y", "is the same parameter as `x`").suggest("choose two parameters"));
    }
    let value = context.known.metric(fields, "value")?.unwrap_or_else(|| "test_accuracy".to_owned());
    Ok(Box::new(Heatmap {
        name: context.name,
        title: context.title,
        restriction: context.restriction,
        x,
        y,
        value,
        annotate: fields.boolean("annotate")?,
    }))
}

/// The distinct values of a parameter over the cells, ascending.
fn values(data: &Dataset, name: &str) -> Vec<Parameter> {
    data.group_by(&[name]).into_iter().filter_map(|group| group.values.into_iter().next().flatten()).collect()
}

impl Heatmap {
    /// The mean over all runs of a facet at one place; NaN where there are none.
    fn mean_at(&self, facet: &Group, x: &Parameter, y: &Parameter) -> f64 {
        let at = |name: &str, cell: &&&crate::cells::Cell, value: &Parameter| {
            compare(cell.parameter(name), Some(value)).is_eq()
        };
        let runs: Vec<f64> = facet
            .cells
            .iter()
            .filter(|cell| at(&self.x, cell, x) && at(&self.y, cell, y))
            .flat_map(|cell| ended(&cell.trials))
            .map(|trial| final_value(trial, &self.value))
            .filter(|value| value.is_finite())
            .collect();
        mean::mean(&runs)
    }
}

impl Figure for Heatmap {
    fn name(&self) -> &str {
        &self.name
    }

    fn mentions(&self) -> Vec<&str> {
        vec![&self.x, &self.y]
    }

    fn draw(&self, data: &Dataset, _: &[AnalysisResult]) -> Drawing {
        let names = [self.x.as_str(), self.y.as_str()];
        let (x_name, y_name) = (short_name(&self.x, &names), short_name(&self.y, &names));
        let default = || format!("{} over {x_name} and {y_name}", metric_name(&self.value));
        let title = self.title.clone().unwrap_or_else(|| restricted(default(), &self.restriction));
        let (xs, ys) = (values(data, &self.x), values(data, &self.y));
        let rest = data.labels_without(&names);
        let facets = data.group_by(&rest);
        let grids: Vec<Vec<Vec<f64>>> = facets
            .iter()
            .map(|facet| ys.iter().map(|y| xs.iter().map(|x| self.mean_at(facet, x, y)).collect()).collect())
            .collect();
        let finite: Vec<f64> =
            grids.iter().flatten().flatten().copied().filter(|value| value.is_finite()).collect();
        if finite.is_empty() {
            let words = format!(
                "No finished trial has `{}` together with `{}` and `{}`.",
                self.value, self.x, self.y
            );
            return Drawing::message(&title, words);
        }
        let accuracy = quantity(&self.value) == "Accuracy";
        let low = if accuracy { 0.0 } else { finite.iter().copied().fold(f64::INFINITY, f64::min) };
        let high = if accuracy { 1.0 } else { finite.iter().copied().fold(f64::NEG_INFINITY, f64::max) };
        let colours = Colours { low, high };

        let cell_width = (900.0 / xs.len() as f64).clamp(34.0, 84.0);
        let cell_height = (520.0 / ys.len() as f64).clamp(26.0, 52.0);
        let (plot_width, plot_height) = (cell_width * xs.len() as f64, cell_height * ys.len() as f64);
        let label = |value: &Parameter| human(Some(value));
        let widest = ys.iter().map(|y| text_width_of(&label(y))).fold(0.0, f64::max).min(170.0);
        let left = widest + 72.0;
        let titled = if rest.is_empty() { 0.0 } else { 28.0 };
        let panel_height = plot_height + 70.0 + titled;
        let width = (left + plot_width + 120.0).max(420.0);
        let top = header_height(width, &[]) + 8.0;
        let mut scene = Scene::new(width, top + panel_height * facets.len() as f64);
        header(&mut scene, &title, &[]);
        let annotate = self.annotate.unwrap_or(xs.len() * ys.len() <= MOST_ANNOTATIONS && cell_width >= 34.0);
        for (index, (facet, grid)) in facets.iter().zip(&grids).enumerate() {
            let frame = Frame {
                left,
                top: top + titled + index as f64 * panel_height,
                width: plot_width,
                height: plot_height,
                x: Scale::Categories(xs.iter().map(|x| fit_text(&label(x), SMALL, false, 160.0)).collect()),
                y: Scale::Categories(ys.iter().map(|y| fit_text(&label(y), SMALL, false, 160.0)).collect()),
            };
            let facet_title = if rest.is_empty() { String::new() } else { describe(&rest, &facet.values) };
            frame.draw(&mut scene, &facet_title, x_name, "");
            let upward = super::scene::TextStyleOf { upward: true, ..text(LABEL, DARK, Anchor::Middle) };
            scene.text((MARGIN + 4.0, frame.top + plot_height / 2.0), y_name, upward);
            colours.cells(&mut scene, &frame, grid, annotate);
            colours.bar(&mut scene, &frame, &metric_name(&self.value));
        }
        let mut caption = format!(
            "Mean {} at the last evaluation over {x_name} and {y_name}; a dash marks combinations without a finished run.",
            metric_name(&self.value)
        );
        if !data.following.is_empty() {
            let follow: Vec<&str> =
                data.following.iter().map(|(follower, _)| follower.as_str()).take(4).collect();
            caption.push_str(&format!(" Varying along with these: {}.", follow.join(", ")));
        }
        Drawing { scene, caption }
    }
}
