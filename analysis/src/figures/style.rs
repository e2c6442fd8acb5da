//! How figures look: one palette, one set of sizes, frames and legends.
//!
//! Colours are Okabe and Ito's (2008), which people with any colour vision tell apart; ordered values use viridis.

use plateau_common::results::{Parameter, TrialRecord};

use super::scale::Scale;
use super::scene::{Anchor, Ink, Scene, TextStyleOf, text_width};
use crate::cells::Dataset;
use crate::number;

/// Text and axes.
pub const DARK: Ink = Ink::solid(38, 38, 38);
/// Secondary text.
pub const GREY: Ink = Ink::solid(105, 105, 105);
/// Grid lines.
pub const PALE: Ink = Ink::solid(228, 228, 228);

/// Okabe and Ito's colours, the most distinct first.
const PALETTE: [Ink; 7] = [
    Ink::solid(0, 114, 178),
    Ink::solid(213, 94, 0),
    Ink::solid(0, 158, 115),
    Ink::solid(204, 121, 167),
    Ink::solid(230, 159, 0),
    Ink::solid(86, 180, 233),
    Ink::solid(0, 0, 0),
];

/// Colour number `index` of `count`: from the palette, or along viridis where that is too short.
pub fn colour(index: usize, count: usize) -> Ink {
    if count > PALETTE.len() {
        return viridis(0.92 * index as f64 / (count - 1) as f64);
    }
    PALETTE[index % PALETTE.len()]
}

/// Dash patterns by which metrics differ where colours already say something else.
pub const DASHES: [(f64, f64); 4] = [(1.0, 0.0), (7.0, 4.0), (2.0, 3.0), (12.0, 4.0)];

/// The viridis colour map (Smith and van der Walt 2015), 0 dark to 1 bright.
pub fn viridis(share: f64) -> Ink {
    const STOPS: [(u8, u8, u8); 9] = [
        (68, 1, 84),
        (71, 44, 122),
        (59, 81, 139),
        (44, 113, 142),
        (33, 144, 141),
        (39, 173, 129),
        (92, 200, 99),
        (170, 220, 50),
        (253, 231, 37),
    ];
    let place = share.clamp(0.0, 1.0) * (STOPS.len() - 1) as f64;
    let below = (place.floor() as usize).min(STOPS.len() - 2);
    let fraction = place - below as f64;
    let mix =
        |from: u8, to: u8| (f64::from(from) + fraction * (f64::from(to) - f64::from(from))).round() as u8;
    let (from, to) = (STOPS[below], STOPS[below + 1]);
    Ink::solid(mix(from.0, to.0), mix(from.1, to.1), mix(from.2, to.2))
}

/// A text style.
pub fn text(size: f64, ink: Ink, anchor: Anchor) -> TextStyleOf {
    TextStyleOf { size, ink, anchor, bold: false, upward: false }
}

/// Size of axis labels.
pub const LABEL: f64 = 15.0;
/// Size of tick labels and legends.
pub const SMALL: f64 = 13.5;
/// Size of titles.
pub const TITLE: f64 = 18.0;
/// Space above the first line of a figure.
const TOP: f64 = 26.0;
/// Space left and right of titles and legends.
pub const MARGIN: f64 = 20.0;

/// A metric's name for people: `train_accuracy` becomes `train accuracy`.
pub fn metric_name(metric: &str) -> String {
    metric.replace('_', " ")
}

/// A sentence with its first letter in upper case.
pub fn capitalised(title: &str) -> String {
    let mut letters = title.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

const LOSS: &str = "Loss (nats)";

/// What a metric measures, with its unit: metrics of one quantity share an axis.
pub fn quantity(metric: &str) -> &'static str {
    let name = metric.split('/').next().unwrap_or(metric);
    let ends = |words: &[&str]| words.iter().any(|word| name.ends_with(word));
    if ends(&["accuracy", "match", "linear_rule"]) {
        // All of them are shares of answers.
        "Accuracy"
    } else if ends(&["loss"]) {
        LOSS
    } else if ends(&["entropy"]) {
        "Entropy (nats)"
    } else if ends(&["sparsity"]) {
        "Negative entropy (nats)"
    } else if ends(&["norm"]) {
        "Norm (L2)"
    } else if ends(&["norm_per_layer"]) {
        "Norm / layers"
    } else if ends(&["norm_per_root_layer"]) {
        "Norm / √layers"
    } else if ends(&["t_score"]) {
        "Tree score (cosines)"
    } else if ends(&["t_parseval", "parse_baseline"]) {
        "Bracketing F1"
    } else {
        "Value"
    }
}

/// The label of an axis that shows a quantity of these trials. The loss of a model that answers with a number is a
/// squared error, not an entropy.
pub fn axis_label(quantity: &'static str, data: &Dataset) -> &'static str {
    let scalar = |trial: &TrialRecord| {
        trial.parameters.get("task.head") == Some(&Parameter::Text("regress".to_owned()))
    };
    if quantity == LOSS && data.trials().any(scalar) { "Loss" } else { quantity }
}

/// Cuts a text to a width, marking the cut.
pub fn fit_text(words: &str, size: f64, bold: bool, width: f64) -> String {
    if text_width(words, size, bold) <= width {
        return words.to_owned();
    }
    let mut kept: String = words.to_owned();
    while kept.pop().is_some() {
        let cut = format!("{kept}…");
        if text_width(&cut, size, bold) <= width {
            return cut;
        }
    }
    String::new()
}

/// How a legend shows an entry.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Key {
    /// A line with this dash pattern.
    Line((f64, f64)),
    /// A marker.
    Marker,
    /// A filled band.
    Band,
}

/// An entry of a legend.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// What it stands for.
    pub label: String,
    /// Its colour.
    pub ink: Ink,
    /// How it is drawn.
    pub key: Key,
}

/// Draws the title and, under it, the legend (never over data); returns where the rest of the figure may begin.
pub fn header(scene: &mut Scene, title: &str, entries: &[Entry]) -> f64 {
    let width = scene.width - 2.0 * MARGIN;
    let style = TextStyleOf { bold: true, ..text(TITLE, DARK, Anchor::Start) };
    scene.text((MARGIN, TOP), fit_text(&capitalised(title), TITLE, true, width), style);
    let mut y = TOP + 28.0;
    let mut x = MARGIN;
    for entry in entries {
        let label = fit_text(&entry.label, SMALL, false, width - 40.0);
        let needed = 34.0 + text_width(&label, SMALL, false) + 22.0;
        if x + needed > scene.width - MARGIN + 22.0 && x > MARGIN {
            (x, y) = (MARGIN, y + 20.0);
        }
        match entry.key {
            Key::Line(pattern) => scene.dashed(vec![(x, y), (x + 27.0, y)], entry.ink, 2.6, pattern),
            Key::Marker => scene.disc((x + 14.0, y), 5.0, entry.ink),
            Key::Band => scene.rectangle(x, y - 6.0, 27.0, 12.0, entry.ink),
        }
        scene.text((x + 34.0, y), label, text(SMALL, DARK, Anchor::Start));
        x += needed;
    }
    if entries.is_empty() { TOP + 16.0 } else { y + 14.0 }
}

/// Height that [`header`] takes for these entries on a figure of this width.
pub fn header_height(width: f64, entries: &[Entry]) -> f64 {
    header(&mut Scene::new(width, 1.0), "", entries)
}

/// A picture that says in words why there is nothing to draw.
pub fn message(title: &str, words: &str) -> Scene {
    let mut scene = Scene::new(760.0, 150.0);
    header(&mut scene, title, &[]);
    let width = scene.width - 2.0 * MARGIN;
    let mut line = String::new();
    let mut y = 76.0;
    for word in words.split(' ') {
        let longer = if line.is_empty() { word.to_owned() } else { format!("{line} {word}") };
        if text_width(&longer, LABEL, false) > width {
            scene.text(
                (MARGIN, y),
                std::mem::replace(&mut line, word.to_owned()),
                text(LABEL, GREY, Anchor::Start),
            );
            y += 22.0;
        } else {
            line = longer;
        }
    }
    scene.text((MARGIN, y), line, text(LABEL, GREY, Anchor::Start));
    scene
}

/// A plot's rectangle with its two axes.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Left edge of the plot.
    pub left: f64,
    /// Upper edge.
    pub top: f64,
    /// Width of the plot.
    pub width: f64,
    /// Height of the plot.
    pub height: f64,
    /// Horizontal axis.
    pub x: Scale,
    /// Vertical axis.
    pub y: Scale,
}

impl Frame {
    /// The point of a pair of values, `None` outside the axes.
    pub fn point(&self, x: f64, y: f64) -> Option<(f64, f64)> {
        Some((self.left + self.x.place(x)? * self.width, self.top + (1.0 - self.y.place(y)?) * self.height))
    }

    /// As [`Frame::point`], with y held inside the axis.
    pub fn point_within(&self, x: f64, y: f64) -> Option<(f64, f64)> {
        Some((
            self.left + self.x.place(x)? * self.width,
            self.top + (1.0 - self.y.place_within(y)?) * self.height,
        ))
    }

    /// Draws grid, axes, ticks and labels.
    pub fn draw(&self, scene: &mut Scene, title: &str, x_label: &str, y_label: &str) {
        let (right, bottom) = (self.left + self.width, self.top + self.height);
        if !title.is_empty() {
            let style = text(LABEL, DARK, Anchor::Middle);
            let words = fit_text(title, LABEL, false, self.width + 40.0);
            scene.text((self.left + self.width / 2.0, self.top - 14.0), words, style);
        }
        for tick in self.y.ticks((self.height / 55.0) as usize) {
            let y = bottom - tick.place * self.height;
            let major = !tick.label.is_empty();
            if major {
                scene.line(vec![(self.left, y), (right, y)], PALE, 1.0);
                scene.text((self.left - 9.0, y), tick.label, text(SMALL, DARK, Anchor::End));
            }
            scene.line(vec![(self.left - if major { 5.0 } else { 3.0 }, y), (self.left, y)], DARK, 1.0);
        }
        let mut free_from = f64::NEG_INFINITY;
        for tick in self.x.ticks((self.width / 75.0) as usize) {
            let x = self.left + tick.place * self.width;
            let half = text_width(&tick.label, SMALL, false) / 2.0;
            let major = !tick.label.is_empty() && x - half > free_from;
            if major {
                scene.line(vec![(x, self.top), (x, bottom)], PALE, 1.0);
                scene.text((x, bottom + 16.0), tick.label, text(SMALL, DARK, Anchor::Middle));
                free_from = x + half + 6.0;
            }
            scene.line(vec![(x, bottom), (x, bottom + if major { 5.0 } else { 3.0 })], DARK, 1.0);
        }
        scene.line(vec![(self.left, self.top), (self.left, bottom)], DARK, 1.2);
        scene.line(vec![(self.left, bottom), (right, bottom)], DARK, 1.2);
        if let Some(place) = self.x.break_at() {
            let x = self.left + place * self.width;
            scene.rectangle(x - 3.0, bottom - 3.0, 6.0, 6.0, Ink::solid(255, 255, 255));
            for shift in [-3.0, 3.0] {
                scene.line(vec![(x + shift - 2.5, bottom + 6.0), (x + shift + 2.5, bottom - 6.0)], DARK, 1.2);
            }
        }
        scene.text((self.left + self.width / 2.0, bottom + 39.0), x_label, text(LABEL, DARK, Anchor::Middle));
        if !y_label.is_empty() {
            let style = TextStyleOf { upward: true, ..text(LABEL, DARK, Anchor::Middle) };
            scene.text((self.left - 54.0, self.top + self.height / 2.0), y_label, style);
        }
    }

    /// A vertical line across the plot at a value of the horizontal axis that it shows.
    pub fn vertical(&self, scene: &mut Scene, x: f64, ink: Ink, dash: (f64, f64)) {
        if let Some(place) = self.x.place(x) {
            let x = self.left + place * self.width;
            scene.dashed(vec![(x, self.top), (x, self.top + self.height)], ink, 1.8, dash);
        }
    }

    /// A vertical interval with caps; an open end becomes an arrow.
    pub fn error_bar(&self, scene: &mut Scene, x: f64, low: f64, high: f64, ink: Ink) {
        let (Some(bottom), Some(top)) = (self.point_within(x, low), self.point_within(x, high)) else {
            return;
        };
        scene.line(vec![bottom, top], ink, 1.8);
        for (at, open, direction) in [(bottom, low.is_infinite(), 1.0), (top, high.is_infinite(), -1.0)] {
            if open {
                arrow(scene, at, direction, ink);
            } else {
                scene.line(vec![(at.0 - 5.0, at.1), (at.0 + 5.0, at.1)], ink, 1.8);
            }
        }
    }
}

/// An arrow head whose tip lies at `tip`; `direction` is 1 for down and −1 for up.
pub fn arrow(scene: &mut Scene, tip: (f64, f64), direction: f64, ink: Ink) {
    let base = tip.1 - 9.0 * direction;
    scene.polygon(vec![tip, (tip.0 - 5.5, base), (tip.0 + 5.5, base)], ink);
}

/// A short number for annotations.
pub fn short(value: f64) -> String {
    number::significant(value, 2)
}

/// The width of a tick label.
pub fn text_width_of(label: &str) -> f64 {
    text_width(label, SMALL, false)
}
