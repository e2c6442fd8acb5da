//! `[evaluate.grid]`: exact match over the sizes of problems, also larger ones than in training.
//!
//! Owns which cells of a task's grid are evaluated and when, how each counts, and what the metrics are called.

use serde::Serialize;

use crate::fields::{ConfigResult, Fields};
use crate::limits;
use crate::tasks::{Cell, GridAxes, TaskConfig};

/// Metrics that are no cell's: those of categories, and those of everything else a trial measures.
const OTHER_METRICS: usize = 256;

/// `[evaluate.grid]`. All keys but `longest` are optional.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct GridConfig {
    /// Sizes of both kinds go from 1 to this. Required.
    pub longest: usize,
    /// Only sizes that are multiples of this, the largest trained one and the one behind it. Default 1.
    pub step: usize,
    /// Beyond `longest`, cells of two equal sizes up to this. Default: none.
    pub diagonal: usize,
    /// Problems of a cell. Default 100.
    pub problems: usize,
    /// Evaluate the grid at every so many steps and at the last. Default: at the last only.
    pub every: Option<u64>,
    /// Numbers of recurrences after which looped models are read as well, in cells of equal sizes. Default: none.
    pub recurrences: Vec<usize>,
}

/// How a cell counts (McLeish et al. 2024, section 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Category {
    /// Both sizes were trained on.
    InDistribution,
    /// One at least was not, both are within `longest`.
    OutOfDistribution,
    /// On the diagonal beyond `longest`; the paper's "100+".
    Beyond,
}

impl Category {
    /// Every category, with the word that metrics use.
    pub const ALL: [(&'static str, Category); 3] = [
        ("id", Category::InDistribution),
        ("ood", Category::OutOfDistribution),
        ("beyond", Category::Beyond),
    ];

    /// The word that metrics use.
    pub fn word(self) -> &'static str {
        match self {
            Category::InDistribution => "id",
            Category::OutOfDistribution => "ood",
            Category::Beyond => "beyond",
        }
    }
}

impl GridConfig {
    /// Reads `[evaluate.grid]` for a task.
    pub fn read(mut fields: Fields<'_>, task: &TaskConfig) -> ConfigResult<Self> {
        let Some(axes) = task.grid() else {
            return Err(fields
                .error(
                    "longest",
                    format!("problems of task `{}` have no sizes to make a grid of", task.kind()),
                )
                .suggest("drop [evaluate.grid]"));
        };
        let largest = axes.largest.0.max(axes.largest.1);
        let longest = fields.integer("longest", 1..=largest)?;
        let longest = fields.require("longest", longest)?;
        let every = fields.integer("every", 1..=u64::MAX >> 1)?;
        let step = fields.integer("step", 1..=longest)?.unwrap_or(1);
        let equal = axes.largest.0.min(axes.largest.1);
        let diagonal = fields.integer("diagonal", 0..=equal)?.unwrap_or(0);
        let problems = fields.integer("problems", 1..=limits::MAX_EVALUATION_EXAMPLES)?.unwrap_or(100);
        let mut recurrences = Vec::new();
        for item in fields.array("recurrences")?.unwrap_or_default() {
            let crate::node::Value::Integer(number) = item.value else {
                return Err(fields.error("recurrences", "expected a list of whole numbers"));
            };
            match usize::try_from(number) {
                Ok(number) if (1..=limits::MAX_LAYERS).contains(&number) => recurrences.push(number),
                _ => {
                    let most = limits::MAX_LAYERS;
                    return Err(fields.error("recurrences", format!("{number} is not between 1 and {most}")));
                }
            }
        }
        recurrences.sort_unstable();
        recurrences.dedup();
        let grid = GridConfig { longest, step, diagonal, problems, every, recurrences };
        let metrics = grid.count(&axes);
        if metrics > limits::MAX_METRICS - OTHER_METRICS {
            let most = limits::MAX_METRICS - OTHER_METRICS;
            return Err(fields
                .error("longest", format!("a grid of {metrics} scores is more than the {most} that are kept"))
                .suggest("use a larger `step`"));
        }
        fields.finish()?;
        Ok(grid)
    }

    /// Whether the grid is evaluated after `step` of `steps` updates.
    pub fn is_due(&self, step: u64, steps: u64) -> bool {
        step == steps || (step > 0 && self.every.is_some_and(|every| step.is_multiple_of(every)))
    }

    /// The sizes of one kind, in order.
    fn sizes(&self, trained: usize, largest: usize) -> Vec<usize> {
        let chosen = |size: &usize| size.is_multiple_of(self.step) || (trained..=trained + 1).contains(size);
        (1..=self.longest.min(largest)).filter(chosen).collect()
    }

    /// All cells: the rectangle row by row, then the diagonal behind it.
    pub fn cells(&self, axes: &GridAxes) -> Vec<Cell> {
        let rows = self.sizes(axes.trained.0, axes.largest.0);
        let columns = self.sizes(axes.trained.1, axes.largest.1);
        let rectangle =
            rows.iter().flat_map(|row| columns.iter().map(|column| Cell { row: *row, column: *column }));
        let beyond = (self.longest + 1..=self.diagonal).filter(|size| size.is_multiple_of(self.step));
        rectangle.chain(beyond.map(|size| Cell { row: size, column: size })).collect()
    }

    /// The cell with the longest problems.
    pub fn largest(&self, axes: &GridAxes) -> Option<Cell> {
        self.cells(axes).into_iter().max_by_key(|cell| cell.row + cell.column)
    }

    /// How a cell counts.
    pub fn category(&self, cell: Cell, axes: &GridAxes) -> Category {
        if cell.row > self.longest || cell.column > self.longest {
            Category::Beyond
        } else if cell.row <= axes.trained.0 && cell.column <= axes.trained.1 {
            Category::InDistribution
        } else {
            Category::OutOfDistribution
        }
    }

    /// What is scored: whole answers, and where it means something their first symbol.
    pub fn scores(axes: &GridAxes) -> &'static [&'static str] {
        if axes.scores_first { &["exact_match", "first_match"] } else { &["exact_match"] }
    }

    /// How many metrics there are at most; their names are not made.
    fn count(&self, axes: &GridAxes) -> usize {
        let cells = self.cells(axes);
        let equal = cells.iter().filter(|cell| cell.row == cell.column).count();
        Self::scores(axes).len() * (cells.len() + Category::ALL.len()) + self.recurrences.len() * equal
    }

    /// Names of all metrics of the grid: means of the categories `exact_match/id`, cells `exact_match/7x12`, and cells of
    /// equal sizes read after r recurrences, `exact_match/after_4/7x7`.
    pub fn metrics(&self, axes: &GridAxes) -> Vec<String> {
        let cells = self.cells(axes);
        let mut names = Vec::new();
        for score in Self::scores(axes) {
            for (word, category) in Category::ALL {
                if cells.iter().any(|cell| self.category(*cell, axes) == category) {
                    names.push(format!("{score}/{word}"));
                }
            }
            names.extend(cells.iter().map(|cell| format!("{score}/{cell}")));
        }
        let equal: Vec<&Cell> = cells.iter().filter(|cell| cell.row == cell.column).collect();
        for recurrences in &self.recurrences {
            names.extend(equal.iter().map(|cell| format!("exact_match/after_{recurrences}/{cell}")));
        }
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AXES: GridAxes =
        GridAxes { rows: "a", columns: "b", trained: (20, 20), largest: (200, 200), scores_first: false };

    fn grid(longest: usize, step: usize, diagonal: usize) -> GridConfig {
        GridConfig { longest, step, diagonal, problems: 100, every: None, recurrences: Vec::new() }
    }

    /// McLeish et al. 2024: 9,600 out-of-distribution cells of 100 x 100 at S = 20, and 60 of 100+.
    #[test]
    fn the_papers_grid_has_its_cells() {
        let grid = grid(100, 1, 160);
        let cells = grid.cells(&AXES);
        let count = |category| cells.iter().filter(|cell| grid.category(**cell, &AXES) == category).count();
        let counts = Category::ALL.map(|(_, category)| count(category));
        assert_eq!(counts, [400, 9600, 60]);
        assert_eq!(grid.metrics(&AXES).len(), 10_060 + 3);
        assert_eq!(grid.count(&AXES), 10_060 + 3);
        assert_eq!(grid.largest(&AXES), Some(Cell { row: 160, column: 160 }));
    }

    #[test]
    fn a_sub_grid_keeps_the_trained_size_and_the_next() {
        let sub = GridConfig { recurrences: vec![2], ..grid(30, 8, 40) };
        let rows: Vec<usize> = sub.cells(&AXES).iter().map(|cell| cell.row).collect();
        let mut distinct = rows.clone();
        distinct.dedup();
        assert_eq!(distinct, [8, 16, 20, 21, 24, 32, 40]);
        let names = sub.metrics(&AXES);
        assert_eq!(names.len(), sub.count(&AXES));
        assert!(names.contains(&"exact_match/after_2/21x21".to_owned()));
        assert!(
            names.contains(&"exact_match/beyond".to_owned())
                && names.contains(&"exact_match/20x8".to_owned())
        );
    }
}
