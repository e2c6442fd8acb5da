//! `size-heatmap`: the score over the two sizes of problems, one panel per cell of the study.
//!
//! What was trained on is outlined, and so is the ceiling of Abacus positions where it lies within the picture. Sizes stand
//! side by side at equal distances, whether all were measured or only some.

use std::collections::BTreeSet;

use plateau_common::fields::{ConfigResult, Fields};
use plateau_common::tasks::Cell as Sizes;

use super::heatmap::MOST_ANNOTATIONS;
use super::map::{Colours, border, outline};
use super::panels::{MOST_PANELS, Panels, TITLE_LINE, draw_title, left_out, title_lines};
use super::scale::Scale;
use super::scene::{Ink, Scene};
use super::style::{DASHES, Entry, Frame, Key, metric_name, text_width_of};
use super::{Drawing, Figure, FigureContext, restricted};
use crate::analyses::AnalysisResult;
use crate::analyses::length_generalisation::common;
use crate::cells::Dataset;
use crate::lengths::{Ceiling, Measured, NOTHING, read_score};

/// Outline of what was trained on.
const TRAINED: Ink = Ink::solid(213, 94, 0);
/// Outline of the ceiling.
const CEILING: Ink = Ink::solid(0, 0, 0);
/// Width of a cell that a written value fits into.
const LEAST_ANNOTATED: f64 = 30.0;

struct SizeHeatmap {
    name: String,
    title: Option<String>,
    restriction: String,
    score: &'static str,
    annotate: Option<bool>,
}

/// Options: `score` (`exact_match` by default, or `first_match`), `annotate` (write values).
pub fn read(fields: &mut Fields, context: FigureContext) -> ConfigResult<Box<dyn Figure>> {
    Ok(Box::new(SizeHeatmap {
        score: read_score(fields, context.known)?,
        annotate: fields.boolean("annotate")?,
        name: context.name,
        title: context.title,
        restriction: context.restriction,
    }))
}

/// The scores of one cell of the study.
struct Panel {
    title: String,
    rows: Vec<usize>,
    columns: Vec<usize>,
    values: Vec<Vec<f64>>,
    /// Corners of the outline around what was trained on.
    trained: Option<Vec<(usize, usize)>>,
    /// Corners of the ceiling, where some of it lies within the picture.
    ceiling: Option<Vec<(usize, usize)>>,
    trained_to: Option<(usize, usize)>,
    ceiling_at: Option<Ceiling>,
    names: Option<(&'static str, &'static str)>,
    runs: usize,
}

/// The sizes of the rectangle: those of cells off the diagonal, which alone goes further. All where there are no others.
fn sides(sizes: &BTreeSet<Sizes>) -> (Vec<usize>, Vec<usize>) {
    let square = !sizes.iter().any(|sizes| sizes.row != sizes.column);
    let kept = || sizes.iter().filter(|sizes| square || sizes.row != sizes.column);
    let rows: BTreeSet<usize> = kept().map(|sizes| sizes.row).collect();
    let columns: BTreeSet<usize> = kept().map(|sizes| sizes.column).collect();
    (rows.into_iter().collect(), columns.into_iter().collect())
}

impl Panel {
    fn of(title: String, measured: &Measured) -> Panel {
        let (rows, columns) = sides(&measured.sizes());
        let values: Vec<Vec<f64>> = rows
            .iter()
            .map(|row| {
                columns.iter().map(|column| measured.mean(Sizes { row: *row, column: *column })).collect()
            })
            .collect();
        let tall = |within: &dyn Fn(Sizes) -> bool| -> Vec<usize> {
            let of_column = |column: &usize| {
                rows.iter().filter(|row| within(Sizes { row: **row, column: *column })).count()
            };
            columns.iter().map(of_column).collect()
        };
        let trained_to = measured.axes.map(|axes| axes.trained);
        let trained = trained_to.map(|(row, column)| {
            let within = tall(&|sizes| sizes.row <= row && sizes.column <= column);
            let wide = within.iter().filter(|height| **height > 0).count();
            let high = within.iter().copied().max().unwrap_or(0);
            vec![(0, 0), (wide, 0), (wide, high), (0, high), (0, 0)]
        });
        let ceiling = measured.ceiling.map(|ceiling| tall(&|sizes| ceiling.admits(sizes)));
        // Where every size is below the ceiling, or none, there is nothing to outline.
        let within_picture = |tall: &Vec<usize>| {
            tall.iter().any(|height| *height < rows.len()) && tall.iter().any(|height| *height > 0)
        };
        let ceiling = ceiling.filter(within_picture).map(|tall| {
            let mut corners = border(&tall);
            // The picture's own edges are no part of the ceiling.
            while let [(_, one), (_, other), ..] = corners.as_slice()
                && *one == rows.len()
                && *other == rows.len()
            {
                corners.remove(0);
            }
            while let [.., (_, one), (_, other)] = corners.as_slice()
                && *one == 0
                && *other == 0
            {
                corners.pop();
            }
            corners
        });
        Panel {
            title,
            values,
            trained,
            ceiling,
            trained_to,
            ceiling_at: measured.ceiling,
            names: measured.axes.map(|axes| (axes.rows, axes.columns)),
            runs: measured.runs.len(),
            rows,
            columns,
        }
    }

    fn draw(&self, scene: &mut Scene, frame: &Frame, annotate: bool) {
        let colours = Colours { low: 0.0, high: 1.0 };
        colours.cells(scene, frame, &self.values, annotate);
        let extent = (self.columns.len(), self.rows.len());
        if let Some(corners) = &self.trained {
            outline(scene, frame, extent, corners, TRAINED, DASHES[0]);
        }
        if let Some(corners) = &self.ceiling {
            outline(scene, frame, extent, corners, CEILING, DASHES[1]);
        }
    }
}

/// The labels of an axis of sizes: round ones, as many as have room. `room` is what a label of this width needs.
fn labels(sizes: &[usize], distance: f64, room: &dyn Fn(&str) -> f64) -> Vec<String> {
    let chosen = |step: usize| -> Vec<usize> {
        (0..sizes.len())
            .filter(|index| sizes.get(*index).is_some_and(|size| size.is_multiple_of(step)))
            .collect()
    };
    let fits = |places: &[usize]| {
        places.windows(2).all(|pair| match pair {
            [one, other] => {
                let widest = sizes.get(*other).map_or(0.0, |size| room(&size.to_string()));
                (other - one) as f64 * distance >= widest
            }
            _ => true,
        })
    };
    let steps = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000];
    let places = steps.into_iter().map(chosen).find(|places| fits(places)).unwrap_or_default();
    let label = |(index, size): (usize, &usize)| {
        if places.contains(&index) { size.to_string() } else { String::new() }
    };
    sizes.iter().enumerate().map(label).collect()
}

/// A plot's size: square cells where the sides are alike, never very flat.
fn plot(panels: &[Panel]) -> (f64, f64) {
    let rows = panels.iter().map(|panel| panel.rows.len()).max().unwrap_or(1).max(1) as f64;
    let columns = panels.iter().map(|panel| panel.columns.len()).max().unwrap_or(1).max(1) as f64;
    let side = match panels.len() {
        1 => 520.0,
        2 => 420.0,
        _ => 320.0,
    };
    let cell = (side / rows.max(columns)).min(60.0);
    ((cell * columns).max(120.0), (cell * rows).max(120.0))
}

impl SizeHeatmap {
    fn entries(&self, panels: &[Panel]) -> Vec<Entry> {
        let mut entries = Vec::new();
        if panels.iter().any(|panel| panel.trained.is_some()) {
            let label = match common(panels.iter().map(|panel| panel.trained_to)) {
                Some((rows, columns)) => format!("trained: up to {rows} × {columns}"),
                None => "trained sizes".to_owned(),
            };
            entries.push(Entry { label, ink: TRAINED, key: Key::Line(DASHES[0]) });
        }
        let within = || panels.iter().filter(|panel| panel.ceiling.is_some());
        if within().next().is_some() {
            let label = match common(within().map(|panel| panel.ceiling_at)) {
                Some(ceiling) => format!("ceiling {} = {}", ceiling.formula(), ceiling.equal()),
                None => "ceiling".to_owned(),
            };
            entries.push(Entry { label, ink: CEILING, key: Key::Line(DASHES[1]) });
        }
        entries
    }

    fn caption(&self, panels: &[Panel], total: usize) -> String {
        let runs: BTreeSet<usize> = panels.iter().map(|panel| panel.runs).collect();
        let runs = match (runs.first(), runs.last()) {
            (Some(1), Some(1)) => "one run each".to_owned(),
            (Some(fewest), Some(most)) if fewest == most => format!("mean of {most} runs"),
            (Some(fewest), Some(most)) => format!("mean of {fewest} to {most} runs"),
            _ => String::new(),
        };
        let mut caption = format!("{} over the sizes of problems; {runs}.", metric_name(self.score));
        if panels.iter().any(|panel| panel.trained.is_some()) {
            caption.push_str(" Orange: the sizes trained on.");
        }
        if panels.iter().any(|panel| panel.ceiling.is_some()) {
            caption.push_str(
                " Dashed: the ceiling of Abacus positions; digits beyond it have numbers that were never trained.",
            );
        }
        let outside =
            panels.iter().filter(|panel| panel.ceiling.is_none()).filter_map(|panel| panel.ceiling_at);
        let outside: BTreeSet<String> = outside.map(|ceiling| ceiling.equal().to_string()).collect();
        if !outside.is_empty() {
            let list = outside.into_iter().collect::<Vec<_>>().join(", ");
            caption.push_str(&format!(" A ceiling of {list} lies outside the picture."));
        }
        caption.push_str(&left_out(panels.len(), total, "restrict the figure with `where`"));
        caption
    }
}

impl Figure for SizeHeatmap {
    fn name(&self) -> &str {
        &self.name
    }

    fn mentions(&self) -> Vec<&str> {
        Vec::new()
    }

    fn draw(&self, data: &Dataset, _: &[AnalysisResult]) -> Drawing {
        let default = || format!("{} over the sizes of problems", metric_name(self.score));
        let title = self.title.clone().unwrap_or_else(|| restricted(default(), &self.restriction));
        let mut panels = Vec::new();
        let mut total = 0;
        for cell in &data.cells {
            let measured = Measured::of(data, cell, self.score);
            if measured.runs.is_empty() {
                continue;
            }
            total += 1;
            if total <= MOST_PANELS {
                let name = if data.labels.is_empty() { String::new() } else { data.name_of(cell) };
                panels.push(Panel::of(name, &measured));
            }
        }
        if panels.is_empty() {
            return Drawing::message(&title, NOTHING);
        }
        let columns = match panels.len() {
            4 => 2,
            count => count.min(3),
        };
        let plot = plot(&panels);
        let titles: Vec<Vec<String>> =
            panels.iter().map(|panel| title_lines(&panel.title, plot.0 + 40.0)).collect();
        let title_height = titles.iter().map(Vec::len).max().unwrap_or(0) as f64 * TITLE_LINE;
        let mut layout = Panels {
            count: panels.len(),
            columns,
            plot,
            gap: (66.0, 46.0 + title_height),
            left: 86.0,
            right: 110.0,
            top: 14.0 + title_height,
            bottom: 60.0,
        };
        // Titles and legends need some width even above a single narrow panel.
        layout.right = layout.right.max(layout.right + 430.0 - layout.width());
        let mut scene = layout.scene(&title, &self.entries(&panels));
        for (index, (panel, lines)) in panels.iter().zip(&titles).enumerate() {
            let cell = (plot.0 / panel.columns.len().max(1) as f64, plot.1 / panel.rows.len().max(1) as f64);
            let x = labels(&panel.columns, cell.0, &|label| text_width_of(label) + 8.0);
            let y = labels(&panel.rows, cell.1, &|_| 22.0);
            let frame = layout.frame(index, Scale::Categories(x), Scale::Categories(y));
            let (rows, columns) = panel.names.unwrap_or(("first size", "second size"));
            let columns = super::style::capitalised(columns);
            let rows = super::style::capitalised(rows);
            let x_label = if layout.is_lowest(index) { columns.as_str() } else { "" };
            let y_label = if layout.is_first(index) { rows.as_str() } else { "" };
            frame.draw(&mut scene, "", x_label, y_label);
            draw_title(&mut scene, &frame, lines);
            let room =
                cell.0 >= LEAST_ANNOTATED && panel.rows.len() * panel.columns.len() <= MOST_ANNOTATIONS;
            panel.draw(&mut scene, &frame, self.annotate.unwrap_or(room));
            if index + 1 == layout.columns.min(layout.count) {
                Colours { low: 0.0, high: 1.0 }.bar(&mut scene, &frame, &metric_name(self.score));
            }
        }
        let caption = self.caption(&panels, total);
        Drawing { scene, caption }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{digits, lengths};

    fn panel(index: usize, change: &dyn Fn(&mut Measured)) -> Panel {
        let records = lengths(2);
        let data = Dataset::new(&records, &[]).with_axes_of(digits);
        let mut measured = Measured::of(&data, &data.cells[index], "exact_match");
        change(&mut measured);
        Panel::of(String::new(), &measured)
    }

    #[test]
    fn panels_show_the_rectangle_with_what_was_trained_on() {
        let fire = panel(1, &|_| {});
        assert_eq!(
            (fire.rows.as_slice(), fire.columns.as_slice()),
            (&[1, 2, 3, 4, 5, 6][..], &[1, 2, 3, 4, 5, 6][..])
        );
        assert_eq!(fire.trained, Some(vec![(0, 0), (3, 0), (3, 3), (0, 3), (0, 0)]));
        assert_eq!((fire.values[2][2], fire.values[0][3]), (1.0, 0.25 / 5.0));
        assert_eq!(fire.ceiling, None);
        let abacus = panel(0, &|_| {});
        assert_eq!((abacus.ceiling.is_none(), abacus.ceiling_at.map(|own| own.equal())), (true, Some(7)));
    }

    #[test]
    fn the_ceiling_is_drawn_where_it_lies_within_the_picture() {
        let records = lengths(1);
        let low = |measured: &mut Measured, trained| {
            let axes = measured.axes.map(|axes| plateau_common::tasks::GridAxes { trained, ..axes });
            measured.axes = axes;
            measured.ceiling = axes.and_then(|axes| Ceiling::of(&records[0], &axes));
        };
        // k = 5: five digits for operands of one.
        let square = panel(0, &|measured| low(measured, (1, 1)));
        let corners = vec![(0, 5), (1, 5), (2, 5), (3, 5), (4, 5), (5, 5), (5, 0)];
        assert_eq!(square.ceiling, Some(corners));
        assert_eq!(panel(0, &|measured| low(measured, (2, 2))).ceiling, None, "six is the picture's edge");
    }

    #[test]
    fn labels_are_round_and_have_room() {
        let all: Vec<usize> = (1..=100).collect();
        let shown =
            |labels: Vec<String>| labels.into_iter().filter(|label| !label.is_empty()).collect::<Vec<_>>();
        let tens = shown(labels(&all, 3.0, &|_| 22.0));
        assert_eq!(tens.len(), 10);
        assert_eq!(tens.first().map(String::as_str), Some("10"));
        assert_eq!(shown(labels(&[8, 16, 20, 21, 24], 30.0, &|_| 22.0)), ["8", "16", "20", "21", "24"]);
        assert_eq!(shown(labels(&[8, 16, 20, 21, 24], 15.0, &|_| 22.0)), ["20"]);
        assert!(shown(labels(&[], 15.0, &|_| 22.0)).is_empty());
    }

    #[test]
    fn only_equal_sizes_make_a_square() {
        let sizes = |pairs: &[(usize, usize)]| {
            pairs
                .iter()
                .map(|(row, column)| Sizes { row: *row, column: *column })
                .collect::<BTreeSet<Sizes>>()
        };
        assert_eq!(sides(&sizes(&[(1, 1), (1, 2), (2, 1), (9, 9)])), (vec![1, 2], vec![1, 2]));
        assert_eq!(sides(&sizes(&[(1, 1), (3, 3)])), (vec![1, 3], vec![1, 3]));
    }
}
