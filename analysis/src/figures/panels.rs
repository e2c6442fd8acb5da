//! Where the panels of a figure with several of them stand.

use super::scale::Scale;
use super::scene::{Anchor, Scene, text_width};
use super::style::{DARK, Entry, Frame, LABEL, fit_text, header, header_height, text};

/// Panels drawn at most; what is left out is said in the caption.
pub const MOST_PANELS: usize = 12;

/// What a caption says of panels that were left out.
pub fn left_out(drawn: usize, total: usize, advice: &str) -> String {
    if drawn >= total {
        return String::new();
    }
    format!(" {} further panels are not drawn; {advice}.", total - drawn)
}

/// Equal panels in rows.
#[derive(Clone, Debug)]
pub struct Panels {
    /// How many there are.
    pub count: usize,
    /// How many stand in a row.
    pub columns: usize,
    /// Width and height of a plot.
    pub plot: (f64, f64),
    /// Distance between plots.
    pub gap: (f64, f64),
    /// Space left of the first plot.
    pub left: f64,
    /// Space right of the last one.
    pub right: f64,
    /// Space above the first one, for the header and the panel's title.
    pub top: f64,
    /// Space below the last one.
    pub bottom: f64,
}

impl Panels {
    /// Panels of lines: large where there are few.
    pub fn of_lines(count: usize, titled: bool) -> Panels {
        let columns = match count {
            4 => 2,
            count => count.clamp(1, 3),
        };
        let plot = match columns {
            1 => (760.0, 400.0),
            2 => (440.0, 330.0),
            _ => (330.0, 260.0),
        };
        let gap = (96.0, 62.0 + if titled { 34.0 } else { 8.0 });
        let bottom = gap.1 - if titled { 28.0 } else { 0.0 };
        Panels {
            count,
            columns,
            plot,
            gap,
            left: 86.0,
            right: 34.0,
            top: if titled { 26.0 } else { 8.0 },
            bottom,
        }
    }

    fn rows(&self) -> usize {
        self.count.div_ceil(self.columns.max(1))
    }

    /// Width of the whole figure.
    pub fn width(&self) -> f64 {
        let columns = self.columns as f64;
        self.left + columns * self.plot.0 + (columns - 1.0) * self.gap.0 + self.right
    }

    /// An empty figure of the right size with its header; the panels then stand below it.
    pub fn scene(&mut self, title: &str, entries: &[Entry]) -> Scene {
        let width = self.width();
        self.top += header_height(width, entries);
        let rows = self.rows() as f64;
        let plots = rows * self.plot.1 + (rows - 1.0) * self.gap.1;
        let mut scene = Scene::new(width, self.top + plots + self.bottom);
        header(&mut scene, title, entries);
        scene
    }

    /// The frame of a panel.
    pub fn frame(&self, index: usize, x: Scale, y: Scale) -> Frame {
        let (column, row) = (index % self.columns, index / self.columns);
        Frame {
            left: self.left + column as f64 * (self.plot.0 + self.gap.0),
            top: self.top + row as f64 * (self.plot.1 + self.gap.1),
            width: self.plot.0,
            height: self.plot.1,
            x,
            y,
        }
    }

    /// Whether a panel is the first of its row.
    pub fn is_first(&self, index: usize) -> bool {
        index.is_multiple_of(self.columns)
    }

    /// Whether no panel stands below.
    pub fn is_lowest(&self, index: usize) -> bool {
        index + self.columns >= self.count
    }
}

/// The lines of a panel's title: broken between parameters where it is wider than `width`.
pub fn title_lines(title: &str, width: f64) -> Vec<String> {
    if title.is_empty() {
        return Vec::new();
    }
    let mut lines: Vec<String> = Vec::new();
    for part in title.split(", ") {
        match lines.last_mut() {
            Some(line) if text_width(&format!("{line}, {part}"), LABEL, false) <= width => {
                line.push_str(", ");
                line.push_str(part);
            }
            _ => lines.push(part.to_owned()),
        }
    }
    lines.iter().map(|line| fit_text(line, LABEL, false, width)).collect()
}

/// Height of a line of a panel's title.
pub const TITLE_LINE: f64 = 19.0;

/// Draws a panel's title above its plot, the last line nearest to it.
pub fn draw_title(scene: &mut Scene, frame: &Frame, lines: &[String]) {
    for (index, line) in lines.iter().rev().enumerate() {
        let at = (frame.left + frame.width / 2.0, frame.top - 14.0 - index as f64 * TITLE_LINE);
        scene.text(at, line.clone(), text(LABEL, DARK, Anchor::Middle));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles_break_between_parameters_and_fit() {
        assert!(title_lines("", 100.0).is_empty());
        assert_eq!(title_lines("a = 1, b = 2", 300.0), ["a = 1, b = 2"]);
        assert_eq!(title_lines("alpha = 1, beta = 2", 80.0), ["alpha = 1", "beta = 2"]);
        let cut = title_lines("a very long name of a parameter = 1", 80.0);
        assert!(cut.len() == 1 && cut[0].ends_with('…'), "{cut:?}");
    }

    #[test]
    fn panels_stand_in_rows() {
        let mut panels = Panels::of_lines(5, true);
        let scene = panels.scene("t", &[]);
        let frame = |index| panels.frame(index, Scale::Categories(Vec::new()), Scale::Categories(Vec::new()));
        assert!(frame(4).left == frame(1).left && frame(4).top > frame(1).top);
        assert!(
            frame(2).left + frame(2).width < scene.width && frame(4).top + frame(4).height < scene.height
        );
        assert_eq!([0, 1, 2, 3, 4].map(|index| panels.is_lowest(index)), [false, false, true, true, true]);
        assert_eq!([0, 1, 2, 3, 4].map(|index| panels.is_first(index)), [true, false, false, true, false]);
    }
}
