//! Sorting: `A:64957,B:99963,C:10218,D:7141,E:05781=D,E,B,A,C`, numbers units first, the answer their names from the least to
//! the greatest (McLeish et al. 2024, section 4.3; docs/science.md, "Arithmetic").

use std::ops::Range;

use serde::Serialize;

use super::arithmetic::alphabet::{Alphabet, COLON, COMMA, DIGITS, SYMBOLS};
use super::arithmetic::calculation::DEFAULT_TEST_EXAMPLES;
use super::arithmetic::fresh::{Fresh, Problems, Settings};
use super::arithmetic::number;
use super::arithmetic::problem::Problem;
use super::arithmetic::rows::Scoring;
use super::test_set::read_test_examples;
use super::{Cell, Examples, GridAxes, Output, ReadOut, Seeds, Task, TaskShape};
use crate::fields::{ConfigResult, Fields};
use crate::limits;
use crate::random::Stream;

/// `[task] kind = "sorting"`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Sorting {
    /// The most digits d of a problem's numbers are 1 to this in training; a number has 1 to d digits. Required.
    pub digits: usize,
    /// Problems trained on have 1 to this many numbers, every pair with d equally often. Required.
    pub items: usize,
    /// Size of the fixed test set, whose sizes are those of training. Default 1000.
    pub test_examples: usize,
}

impl Sorting {
    /// Tokens of the longest row with its end: n (name, colon, d digits), n - 1 commas, `=`, n names, n - 1 commas, the end.
    fn row(&self) -> usize {
        self.items * (self.digits + 5)
    }
}

impl Task for Sorting {
    fn read(mut fields: Fields<'_>) -> ConfigResult<Self> {
        let digits = fields.integer("digits", 1..=limits::MAX_DIGITS)?;
        let digits = fields.require("digits", digits)?;
        let items = fields.integer("items", 1..=SYMBOLS.len())?;
        let items = fields.require("items", items)?;
        let mut task = Sorting { digits, items, test_examples: 0 };
        task.test_examples = read_test_examples(&mut fields, DEFAULT_TEST_EXAMPLES, task.row() - 1)?;
        fields.finish()?;
        Ok(task)
    }

    fn shape(&self) -> TaskShape {
        let vocabulary = Alphabet::Sorting.vocabulary();
        TaskShape {
            vocabulary,
            length: self.row() - 1,
            output: Output::Classes(vocabulary),
            read_out: ReadOut::Every,
        }
    }

    fn training_set_size(&self) -> Option<usize> {
        None
    }

    fn is_weighted(&self) -> bool {
        true
    }

    fn digits(&self) -> Range<u32> {
        DIGITS
    }

    fn grid(&self) -> Option<GridAxes> {
        Some(GridAxes {
            rows: "most digits of a number",
            columns: "numbers to sort",
            trained: (self.digits, self.items),
            largest: (limits::MAX_DIGITS, SYMBOLS.len()),
            scores_first: true,
        })
    }

    fn text(&self, tokens: &[u32]) -> Option<String> {
        Some(Alphabet::Sorting.text(tokens))
    }

    fn examples(&self, seeds: Seeds) -> Box<dyn Examples> {
        let settings = Settings {
            trained: (self.digits, self.items),
            largest: (limits::MAX_DIGITS, SYMBOLS.len()),
            row: self.row(),
            pads: None,
            training: Scoring::ANSWER,
            // The paper's evaluation compares the names and does not ask for the end.
            cells: Scoring { end: false, ..Scoring::ANSWER },
            test_examples: self.test_examples,
        };
        Box::new(Fresh::new(seeds, settings, Lists::new(self.items, self.digits)))
    }
}

/// Draws and writes lists of numbers.
#[derive(Default)]
struct Lists {
    /// The digits of all numbers, one after the other.
    digits: Vec<u32>,
    /// Where each number's digits end.
    ends: Vec<usize>,
    /// The numbers from the least to the greatest.
    order: Vec<usize>,
}

impl Lists {
    /// With memory for `items` numbers of up to `digits` digits.
    fn new(items: usize, digits: usize) -> Self {
        Lists {
            digits: Vec::with_capacity(items * digits),
            ends: Vec::with_capacity(items),
            order: Vec::with_capacity(items),
        }
    }

    fn number(&self, item: usize) -> &[u32] {
        let start = item.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.digits[start..self.ends[item]]
    }

    /// Writes the problem of the numbers drawn, named by the symbols from `first` on.
    fn write_out(&mut self, first: usize, problem: &mut Problem) {
        let name = |item: usize| Alphabet::Sorting.symbol(first + item);
        for item in 0..self.ends.len() {
            if item > 0 {
                problem.push(COMMA);
            }
            problem.push(name(item));
            problem.push(COLON);
            problem.push_number(self.number(item), None);
        }
        problem.push_equals();
        let mut order = std::mem::take(&mut self.order);
        order.clear();
        order.extend(0..self.ends.len());
        // Equal numbers stay as they came; a stable sort would need memory.
        order.sort_unstable_by(|a, b| number::compare(self.number(*a), self.number(*b)).then(a.cmp(b)));
        for (rank, item) in order.iter().enumerate() {
            if rank > 0 {
                problem.push(COMMA);
            }
            problem.push(name(*item));
        }
        problem.push_end();
        self.order = order;
    }
}

impl Problems for Lists {
    fn write(&mut self, stream: &mut Stream, sizes: Cell, problem: &mut Problem) {
        let first = stream.below(SYMBOLS.len() as u32) as usize;
        self.digits.clear();
        self.ends.clear();
        for _ in 0..sizes.column {
            let start = self.digits.len();
            let digits = 1 + stream.below(sizes.row as u32) as usize;
            self.digits.resize(start + digits, 0);
            number::draw(stream, &mut self.digits[start..]);
            self.ends.push(start + digits);
        }
        self.write_out(first, problem);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(first: usize, numbers: &[&str]) -> String {
        let mut lists = Lists::default();
        for number in numbers {
            lists.digits.extend(number.chars().rev().filter_map(|digit| digit.to_digit(10)));
            lists.ends.push(lists.digits.len());
        }
        let mut problem = Problem::with_capacity(0);
        lists.write_out(first, &mut problem);
        Alphabet::Sorting.text(problem.tokens())
    }

    #[test]
    fn problems_are_written_as_in_the_paper() {
        assert_eq!(
            written(0, &["75946", "36999", "81201", "1417", "18750"]),
            "A:64957,B:99963,C:10218,D:7141,E:05781=D,E,B,A,C∎"
        );
        assert_eq!(written(25, &["5"]), "Z:5=Z∎");
    }

    /// After the list's last symbol comes its first, and equal numbers keep their order.
    #[test]
    fn names_go_around_and_ties_keep_their_order() {
        assert_eq!(written(100, &["21", "7", "21", "7"]), "Ω:12,ω:7,A:12,B:7=ω,B,Ω,A∎");
    }
}
