//! `size-bars`: scores in distribution, out of distribution and beyond as bars with intervals, as in McLeish et al. 2024,
//! figures 3 and 4.
//!
//! Groups of bars are the values of one parameter. Colours are the categories, or the values of a second parameter with a
//! panel per category; what else varies becomes further panels.

use plateau_common::config::Category;
use plateau_common::fields::{ConfigResult, Fields};

use super::panels::{MOST_PANELS, Panels, TITLE_LINE, draw_title, left_out, title_lines};
use super::scale::Scale;
use super::scene::{Ink, Scene};
use super::style::{DARK, Entry, Frame, Key, SMALL, capitalised, colour, fit_text, metric_name};
use super::{Drawing, Figure, FigureContext, restricted};
use crate::analyses::AnalysisResult;
use crate::analyses::length_generalisation::{categories, category_name, common};
use crate::analyses::percent;
use crate::analyses::summary::CellSummary;
use crate::cells::{Dataset, Group, Values, describe, group, human, place_of, short_name};
use crate::lengths::{Measured, NOTHING, longest, read_score};
use crate::plan::CONFIDENCE;
use crate::statistics::mean::t_interval;

/// Dash pattern of the most that is possible.
const CEILING: (f64, f64) = (5.0, 3.0);

struct SizeBars {
    name: String,
    title: Option<String>,
    restriction: String,
    score: &'static str,
    by: Option<String>,
    group: Option<String>,
}

/// Options: `by` (a parameter; by default the first that varies), `group` (a second one, for the colours), `score`
/// (`exact_match` by default, or `first_match`).
pub fn read(fields: &mut Fields, context: FigureContext) -> ConfigResult<Box<dyn Figure>> {
    let by = context.known.parameter(fields, "by")?;
    let group = context.known.parameter(fields, "group")?;
    if by.is_some() && by == group {
        return Err(fields.error("group", "is the same parameter as `by`").suggest("choose two parameters"));
    }
    Ok(Box::new(SizeBars {
        score: read_score(fields, context.known)?,
        by,
        group,
        name: context.name,
        title: context.title,
        restriction: context.restriction,
    }))
}

/// One bar: the runs of some cells in one category.
struct Bar {
    /// The group along the axis.
    place: usize,
    /// Which of the group's bars it is, which is also its colour.
    lane: usize,
    values: Vec<f64>,
    /// The most that is possible below the ceiling.
    most: Option<f64>,
}

struct Panel {
    title: String,
    bars: Vec<Bar>,
}

/// What is compared: the parameters and their values.
struct Layout<'d, 'a> {
    by: Vec<&'d str>,
    places: Vec<Group<'d, 'a>>,
    group: Option<&'d str>,
    colours: Vec<Group<'d, 'a>>,
    longest: Option<usize>,
}

impl Layout<'_, '_> {
    fn lanes(&self) -> usize {
        if self.group.is_some() { self.colours.len() } else { Category::ALL.len() }
    }

    fn entries(&self, panels: &[Panel]) -> Vec<Entry> {
        let labels: Vec<String> = match self.group {
            Some(name) => self.colours.iter().map(|own| describe(&[name], &own.values)).collect(),
            None => Category::ALL.map(|(_, category)| category_name(category, self.longest)).into(),
        };
        let count = labels.len();
        let drawn = |lane: usize| panels.iter().flat_map(|panel| &panel.bars).any(|bar| bar.lane == lane);
        let mut entries: Vec<Entry> = labels
            .into_iter()
            .enumerate()
            .filter(|(lane, _)| drawn(*lane))
            .map(|(lane, label)| Entry { label, ink: bar_ink(lane, count), key: Key::Band })
            .collect();
        if panels.iter().flat_map(|panel| &panel.bars).any(|bar| bar.most.is_some()) {
            let label = "most possible: sizes up to the ceiling".to_owned();
            entries.push(Entry { label, ink: DARK, key: Key::Line(CEILING) });
        }
        entries
    }
}

fn bar_ink(lane: usize, count: usize) -> Ink {
    colour(lane, count).faded(0.72)
}

impl SizeBars {
    fn panels<'d>(&self, data: &'d Dataset, layout: &Layout<'d, '_>) -> Vec<Panel> {
        let named: Vec<&str> = layout.by.iter().copied().chain(layout.group).collect();
        let rest = data.labels_without(&named);
        let mut panels = Vec::new();
        for facet in data.group_by(&rest) {
            let facet_title = if rest.is_empty() { String::new() } else { describe(&rest, &facet.values) };
            let mut found: Vec<(Category, Bar)> = Vec::new();
            for own in group(facet.cells.iter().copied(), &named) {
                found.extend(self.bars(data, layout, &own));
            }
            if layout.group.is_none() {
                panels.push(Panel {
                    title: facet_title,
                    bars: found.into_iter().map(|(_, bar)| bar).collect(),
                });
                continue;
            }
            for (_, category) in Category::ALL {
                let (own, others): (Vec<_>, Vec<_>) = found.into_iter().partition(|(of, _)| *of == category);
                found = others;
                let name = capitalised(&category_name(category, layout.longest));
                let title = if facet_title.is_empty() { name } else { format!("{name}, {facet_title}") };
                panels.push(Panel { title, bars: own.into_iter().map(|(_, bar)| bar).collect() });
            }
        }
        panels.retain(|panel| !panel.bars.is_empty());
        panels
    }

    /// The bars of the cells that agree in both parameters: one per category.
    fn bars(&self, data: &Dataset, layout: &Layout, own: &Group) -> Vec<(Category, Bar)> {
        let (by, of_group) = own.values.split_at(layout.by.len().min(own.values.len()));
        let (by, of_group): (Values, Values) = (by.to_vec(), of_group.to_vec());
        let measured: Vec<Measured> =
            own.cells.iter().map(|cell| Measured::of(data, cell, self.score)).collect();
        let summaries: Vec<(Category, CellSummary)> = own
            .cells
            .iter()
            .zip(&measured)
            .flat_map(|(cell, measured)| categories(data, cell, measured, self.score, CONFIDENCE))
            .collect();
        let place = place_of(&layout.places, &by).unwrap_or(0);
        let bar = |(number, (_, category)): (usize, (&str, Category))| {
            let own = summaries.iter().filter(|(of, _)| *of == category);
            let values: Vec<f64> = own
                .flat_map(|(_, summary)| summary.values.iter().copied())
                .filter(|value| value.is_finite())
                .collect();
            let lane = layout.group.map_or(number, |_| place_of(&layout.colours, &of_group).unwrap_or(0));
            let most =
                common(measured.iter().map(Measured::most_beyond)).filter(|_| category == Category::Beyond);
            (!values.is_empty()).then_some((category, Bar { place, lane, values, most }))
        };
        Category::ALL.into_iter().enumerate().filter_map(bar).collect()
    }
}

fn draw_bar(scene: &mut Scene, frame: &Frame, bar: &Bar, lanes: usize) {
    let width = 0.84 / lanes.max(1) as f64;
    let left = bar.place as f64 + 0.08 + bar.lane as f64 * width;
    let middle = left + width / 2.0;
    let ink = bar_ink(bar.lane, lanes);
    let estimate = t_interval(&bar.values, CONFIDENCE);
    let corners = (frame.point(left, 0.0), frame.point_within(left + width * 0.94, estimate.value));
    if let (Some((x, bottom)), Some((right, top))) = corners {
        scene.rectangle(x, top, right - x, bottom - top, ink);
    }
    if let Some(most) = bar.most
        && let (Some(start), Some(end)) = (frame.point(left, most), frame.point(left + width, most))
    {
        scene.dashed(vec![(start.0 - 3.0, start.1), (end.0 + 1.0, end.1)], DARK, 2.0, CEILING);
    }
    if estimate.has_interval() {
        frame.error_bar(scene, middle, estimate.low.max(0.0), estimate.high.min(1.0), DARK);
    }
    // Beside each other, in ascending value, so that equal ones can be counted.
    let mut sorted = bar.values.clone();
    sorted.sort_by(f64::total_cmp);
    for (index, value) in sorted.iter().enumerate() {
        let share = (index as f64 + 1.0) / (sorted.len() as f64 + 1.0) - 0.5;
        if let Some(at) = frame.point(middle + 0.7 * share * width, *value) {
            scene.disc(at, 3.6, Ink::solid(255, 255, 255));
            scene.disc(at, 2.6, Ink { opacity: 1.0, ..ink });
        }
    }
}

/// The names of the groups below the axis, each within its own room.
fn draw_places(scene: &mut Scene, frame: &Frame, names: &[String]) {
    let room = frame.width / names.len().max(1) as f64 - 8.0;
    for (index, name) in names.iter().enumerate() {
        if let Some((x, y)) = frame.point(index as f64 + 0.5, 0.0) {
            let style = super::style::text(SMALL, DARK, super::scene::Anchor::Middle);
            scene.text((x, y + 16.0), fit_text(name, SMALL, false, room), style);
        }
    }
}

impl Figure for SizeBars {
    fn name(&self) -> &str {
        &self.name
    }

    fn mentions(&self) -> Vec<&str> {
        self.by.as_deref().into_iter().chain(self.group.as_deref()).collect()
    }

    fn draw(&self, data: &Dataset, _: &[AnalysisResult]) -> Drawing {
        let default = || format!("{} within and beyond the trained sizes", metric_name(self.score));
        let title = self.title.clone().unwrap_or_else(|| restricted(default(), &self.restriction));
        let first =
            || data.labels.iter().map(String::as_str).find(|label| Some(*label) != self.group.as_deref());
        let by: Vec<&str> = self.by.as_deref().or_else(first).into_iter().collect();
        let longest = data.cells.iter().map(longest);
        let layout = Layout {
            places: data.group_by(&by),
            colours: data.group_by(&self.group.as_deref().into_iter().collect::<Vec<_>>()),
            group: self.group.as_deref(),
            longest: common(longest),
            by,
        };
        let mut panels = self.panels(data, &layout);
        let total = panels.len();
        if total == 0 {
            return Drawing::message(&title, NOTHING);
        }
        panels.truncate(MOST_PANELS);
        let (places, lanes) = (layout.places.len(), layout.lanes());
        let columns = if layout.group.is_some() { panels.len().min(3) } else { panels.len().min(2) };
        let slot = (lanes as f64 * 30.0 + 14.0).clamp(52.0, 190.0);
        let plot_width = (slot * places as f64).clamp(if columns > 1 { 250.0 } else { 430.0 }, 1000.0);
        let titles: Vec<Vec<String>> =
            panels.iter().map(|panel| title_lines(&panel.title, plot_width + 40.0)).collect();
        let title_height = titles.iter().map(Vec::len).max().unwrap_or(0) as f64 * TITLE_LINE;
        let mut grid = Panels {
            count: panels.len(),
            columns,
            plot: (plot_width, if columns > 1 { 270.0 } else { 340.0 }),
            gap: (70.0, 62.0 + title_height),
            left: 86.0,
            right: 30.0,
            top: 14.0 + title_height,
            bottom: 60.0,
        };
        let mut scene = grid.scene(&title, &layout.entries(&panels));
        let names: Vec<String> = layout
            .places
            .iter()
            .map(|own| own.values.first().map_or("all trials".to_owned(), |value| human(value.as_ref())))
            .collect();
        let x_name = layout.by.first().map_or("", |by| short_name(by, &[]));
        for (index, (panel, lines)) in panels.iter().zip(&titles).enumerate() {
            let x = Scale::Categories(Vec::new());
            let blank = grid.frame(index, x, Scale::Linear { low: 0.0, high: 1.03 });
            let y_label =
                if grid.is_first(index) { capitalised(&metric_name(self.score)) } else { String::new() };
            blank.draw(&mut scene, "", x_name, &y_label);
            draw_title(&mut scene, &blank, lines);
            let frame = Frame { x: Scale::Linear { low: 0.0, high: places as f64 }, ..blank };
            draw_places(&mut scene, &frame, &names);
            for bar in &panel.bars {
                draw_bar(&mut scene, &frame, bar, lanes);
            }
        }
        let mut caption = format!(
            "Mean {} over the sizes of each category; bars: mean of the runs with t {} intervals, cut at 0 and 1; dots: \
             single runs.",
            metric_name(self.score),
            percent(CONFIDENCE)
        );
        if panels.iter().flat_map(|panel| &panel.bars).any(|bar| bar.most.is_some()) {
            caption.push_str(
                " A dashed line marks the share of the sizes beyond for which Abacus positions were trained.",
            );
        }
        caption.push_str(&left_out(panels.len(), total, "restrict the figure with `where`"));
        Drawing { scene, caption }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{digits, lengths};
    use plateau_common::results::Parameter;

    fn figure(group: Option<&str>) -> SizeBars {
        SizeBars {
            name: String::new(),
            title: None,
            restriction: String::new(),
            score: "exact_match",
            by: Some("model.positions".to_owned()),
            group: group.map(str::to_owned),
        }
    }

    /// Place, lane, runs and the most that is possible.
    type Shown = (usize, usize, usize, Option<f64>);

    fn panels(figure: &SizeBars, data: &Dataset) -> Vec<(String, Vec<Shown>)> {
        let by = vec!["model.positions"];
        let layout = Layout {
            places: data.group_by(&by),
            colours: data.group_by(&figure.group.as_deref().into_iter().collect::<Vec<_>>()),
            group: figure.group.as_deref(),
            longest: Some(6),
            by,
        };
        let bar = |bar: Bar| (bar.place, bar.lane, bar.values.len(), bar.most);
        let found = figure.panels(data, &layout).into_iter();
        found.map(|panel| (panel.title, panel.bars.into_iter().map(bar).collect())).collect()
    }

    #[test]
    fn colours_are_categories_or_a_second_parameter_with_a_panel_each() {
        let mut records = lengths(2);
        let data = Dataset::new(&records, &[]).with_axes_of(digits);
        let third = Some(1.0 / 3.0);
        let [(title, bars)] = &panels(&figure(None), &data)[..] else { panic!("one panel") };
        assert!(title.is_empty());
        assert_eq!(bars[..4], [(0, 0, 2, None), (0, 1, 2, None), (0, 2, 2, third), (1, 0, 2, None)]);
        assert_eq!(bars.len(), 9);

        for (index, record) in records.iter_mut().enumerate() {
            let word = if index % 2 == 0 { "looped" } else { "plain" };
            record.parameters.insert("model.form".to_owned(), Parameter::Text(word.to_owned()));
        }
        let data = Dataset::new(&records, &[]).with_axes_of(digits);
        let grouped = panels(&figure(Some("model.form")), &data);
        let titles: Vec<&str> = grouped.iter().map(|(title, _)| title.as_str()).collect();
        assert_eq!(titles, ["In distribution", "Out of distribution", "Beyond 6"]);
        assert_eq!(grouped[2].1[..3], [(0, 0, 1, third), (0, 1, 1, third), (1, 0, 1, None)]);
        let facets = panels(&figure(None), &data);
        assert_eq!(
            facets.iter().map(|(title, _)| title.as_str()).collect::<Vec<_>>(),
            ["form = looped", "form = plain"]
        );
    }
}
