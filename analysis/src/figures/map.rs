//! The coloured cells of a heat map, outlines around some of them, and the bar that explains the colours.

use super::scale::Scale;
use super::scene::{Anchor, Ink, Scene, TextStyleOf};
use super::style::{DARK, Frame, GREY, SMALL, fit_text, short, text, viridis};
use crate::number::compact;

/// Where no value is.
const EMPTY: Ink = Ink::solid(238, 238, 238);
/// Steps of colour in maps of small cells.
const COARSE: f64 = 64.0;
/// Below this width or height of a cell there are no gaps between cells.
const LEAST_WITH_GAPS: f64 = 8.0;

/// The range of values that the colours stand for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Colours {
    /// The darkest.
    pub low: f64,
    /// The brightest.
    pub high: f64,
}

impl Colours {
    fn share(self, value: f64) -> f64 {
        if self.high > self.low { (value - self.low) / (self.high - self.low) } else { 0.5 }
    }

    fn ink(self, value: f64) -> Ink {
        if value.is_finite() { viridis(self.share(value)) } else { EMPTY }
    }

    /// The colour in steps that cannot be told apart, so that many neighbours share one.
    fn coarse_ink(self, value: f64) -> Ink {
        if value.is_finite() { viridis((self.share(value) * COARSE).round() / COARSE) } else { EMPTY }
    }

    /// Fills a frame with equal cells, the first row lowest; NaN is an empty cell. With `annotate` values are written in,
    /// and a dash where there is none.
    pub fn cells(self, scene: &mut Scene, frame: &Frame, rows: &[Vec<f64>], annotate: bool) {
        let columns = rows.iter().map(Vec::len).max().unwrap_or(0).max(1);
        let (width, height) = (frame.width / columns as f64, frame.height / rows.len().max(1) as f64);
        let gap = if width.min(height) < LEAST_WITH_GAPS { 0.0 } else { 0.5 };
        for (row, line) in rows.iter().enumerate() {
            let top = frame.top + frame.height - (row + 1) as f64 * height;
            // Neighbours of one colour become one shape where there are no gaps: pictures of thousands of cells stay small.
            let ink = |value: f64| if gap > 0.0 { self.ink(value) } else { self.coarse_ink(value) };
            let joined = |one: &f64, other: &f64| gap == 0.0 && ink(*one) == ink(*other);
            let mut column = 0;
            for run in line.chunk_by(joined) {
                let left = frame.left + column as f64 * width;
                column += run.len();
                let Some(value) = run.first() else { continue };
                let wide = run.len() as f64 * width - 2.0 * gap;
                scene.rectangle(left + gap, top + gap, wide, height - 2.0 * gap, ink(*value));
                if annotate {
                    let (words, ink) = if !value.is_finite() {
                        ("–".to_owned(), GREY)
                    } else if self.share(*value) > 0.6 {
                        (short(*value), Ink::solid(0, 0, 0))
                    } else {
                        (short(*value), Ink::solid(255, 255, 255))
                    };
                    let middle = (left + width / 2.0, top + height / 2.0);
                    scene.text(middle, words, text(12.0, ink, Anchor::Middle));
                }
            }
        }
    }

    /// Draws the bar to the right of a frame.
    pub fn bar(self, scene: &mut Scene, frame: &Frame, name: &str) {
        const STRIPES: usize = 64;
        let Colours { low, high } = self;
        let (x, width) = (frame.left + frame.width + 22.0, 14.0);
        let height = frame.height.max(60.0);
        let top = frame.top + (frame.height - height) / 2.0;
        for stripe in 0..STRIPES {
            let share = stripe as f64 / (STRIPES - 1) as f64;
            let tall = height / STRIPES as f64;
            scene.rectangle(x, top + height - (stripe + 1) as f64 * tall, width, tall + 0.5, viridis(share));
        }
        let scale = Scale::Linear { low, high: if high > low { high } else { low + 1.0 } };
        let ticks = if high > low { scale.ticks((height / 45.0) as usize) } else { Vec::new() };
        for tick in ticks {
            let y = top + (1.0 - tick.place) * height;
            scene.line(vec![(x + width, y), (x + width + 4.0, y)], DARK, 1.0);
            scene.text((x + width + 8.0, y), tick.label, text(SMALL, DARK, Anchor::Start));
        }
        if high <= low {
            scene.text((x + width + 8.0, top + height / 2.0), compact(low), text(SMALL, DARK, Anchor::Start));
        }
        let upward = TextStyleOf { upward: true, ..text(SMALL, DARK, Anchor::Middle) };
        scene.text((x + 70.0, top + height / 2.0), fit_text(name, SMALL, false, height + 60.0), upward);
    }
}

/// The border of a region that holds, with a cell, all cells left of and below it: from the left edge to the right one,
/// in cells from the lower left corner. `within` says for each column, from the left, how many cells from below belong to it.
pub fn border(within: &[usize]) -> Vec<(usize, usize)> {
    let mut points: Vec<(usize, usize)> = Vec::new();
    for (column, tall) in within.iter().enumerate() {
        for point in [(column, *tall), (column + 1, *tall)] {
            if points.last() != Some(&point) {
                points.push(point);
            }
        }
    }
    points
}

/// Draws a line through corners of cells, with a light edge so that it shows on every colour.
pub fn outline(
    scene: &mut Scene,
    frame: &Frame,
    (columns, rows): (usize, usize),
    corners: &[(usize, usize)],
    ink: Ink,
    dash: (f64, f64),
) {
    let at = |(column, row): &(usize, usize)| {
        (
            frame.left + frame.width * *column as f64 / columns.max(1) as f64,
            frame.top + frame.height * (1.0 - *row as f64 / rows.max(1) as f64),
        )
    };
    let points: Vec<(f64, f64)> = corners.iter().map(at).collect();
    scene.line(points.clone(), Ink::solid(255, 255, 255), 4.4);
    scene.dashed(points, ink, 2.4, dash);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn borders_are_staircases() {
        assert_eq!(border(&[2, 2, 0]), [(0, 2), (1, 2), (2, 2), (2, 0), (3, 0)]);
        assert_eq!(border(&[]), []);
    }

    #[test]
    fn small_cells_of_one_colour_are_one_shape() {
        let mut scene = Scene::new(100.0, 100.0);
        let scale = || Scale::Linear { low: 0.0, high: 1.0 };
        let frame = Frame { left: 0.0, top: 0.0, width: 8.0, height: 8.0, x: scale(), y: scale() };
        let rows = vec![vec![1.0, 1.0, 0.0, f64::NAN], vec![0.5; 4]];
        let colours = Colours { low: 0.0, high: 1.0 };
        colours.cells(&mut scene, &frame, &rows, false);
        assert_eq!(scene.shapes.len(), 4);
        let mut large = Scene::new(100.0, 100.0);
        colours.cells(&mut large, &Frame { width: 80.0, height: 80.0, ..frame }, &rows, false);
        assert_eq!(large.shapes.len(), 8);
    }
}
