//! Bitwise OR of two strings, one of zeros and one with a single 1: `001+00000=00100`, a probe of whether places are aligned
//! (McLeish et al. 2024, appendices A.2 and A.3; docs/science.md, "Arithmetic").
//!
//! The shorter string holds the 1; of two equally long ones a fair coin, tossed once for the trial, says which. So the training
//! set is finite, and what the coins decided against is a test set within the trained lengths.

use std::cell::RefCell;
use std::ops::Range;

use serde::Serialize;

use super::arithmetic::alphabet::{Alphabet, DIGITS, PLUS};
use super::arithmetic::problem::Problem;
use super::arithmetic::rows::{Rows, Scoring, pack};
use super::epochs::Epochs;
use super::{Batch, Cell, Draw, Examples, Form, GridAxes, Output, ReadOut, Seeds, Split, Task, TaskShape};
use crate::fields::{ConfigResult, Fields};
use crate::limits;
use crate::random::{Stream, StreamFamily};

/// `[task] kind = "bitwise-or"`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct BitwiseOr {
    /// Strings trained on have lengths from 1 to this. Required.
    pub length: usize,
}

/// Of a problem: the lengths of the strings, the place of the 1, and whether the first holds it.
#[derive(Clone, Copy)]
struct Strings {
    lengths: Cell,
    place: usize,
    first_holds: bool,
}

impl BitwiseOr {
    /// Tokens of the longest row with its end: three strings, two signs, the end.
    fn row(&self) -> usize {
        3 * self.length + 3
    }

    /// The sum of min(i, j) over all lengths i and j: 2,870 at length 20.
    fn problems(&self) -> usize {
        self.length * (self.length + 1) * (2 * self.length + 1) / 6
    }
}

impl Task for BitwiseOr {
    fn read(mut fields: Fields<'_>) -> ConfigResult<Self> {
        let length = fields.integer("length", 1..=limits::MAX_DIGITS)?;
        let task = BitwiseOr { length: fields.require("length", length)? };
        let fits = |length: &usize| {
            let task = BitwiseOr { length: *length };
            task.problems() * (task.row() - 1) <= limits::MAX_TOKENS_AT_ONCE
        };
        if !fits(&task.length) {
            let longest = (1..task.length).rev().find(fits).unwrap_or(1);
            return Err(fields
                .error("length", format!("a training set of {} strings is too large", task.problems()))
                .suggest(format!("at most {longest}")));
        }
        fields.finish()?;
        Ok(task)
    }

    fn shape(&self) -> TaskShape {
        let vocabulary = Alphabet::Calculation.vocabulary();
        TaskShape {
            vocabulary,
            length: self.row() - 1,
            output: Output::Classes(vocabulary),
            read_out: ReadOut::Every,
        }
    }

    fn training_set_size(&self) -> Option<usize> {
        Some(self.problems())
    }

    fn is_weighted(&self) -> bool {
        true
    }

    fn digits(&self) -> Range<u32> {
        DIGITS
    }

    fn grid(&self) -> Option<GridAxes> {
        Some(GridAxes {
            rows: "length of the first string",
            columns: "length of the second string",
            trained: (self.length, self.length),
            largest: (limits::MAX_DIGITS, limits::MAX_DIGITS),
            scores_first: false,
        })
    }

    fn text(&self, tokens: &[u32]) -> Option<String> {
        Some(Alphabet::Calculation.text(tokens))
    }

    fn examples(&self, seeds: Seeds) -> Box<dyn Examples> {
        let mut coins = Stream::new(seeds.data, "split", 0);
        let mut train = Vec::with_capacity(self.problems());
        for row in 1..=self.length {
            for column in 1..=self.length {
                let lengths = Cell { row, column };
                let places = 0..row.min(column);
                train.extend(places.map(|place| Strings::draw(lengths, place, &mut coins)));
            }
        }
        let mirrored = |strings: &Strings| Strings { first_holds: !strings.first_holds, ..*strings };
        let test = train.iter().filter(|strings| strings.equally_long()).map(mirrored).collect();
        Box::new(BitwiseOrExamples {
            row: self.row(),
            order: Epochs::new(seeds.order, "data-order", train.len()),
            train,
            test,
            cells: StreamFamily::new(seeds.data, "grid"),
            problem: RefCell::new(Problem::with_capacity(self.row())),
        })
    }
}

impl Strings {
    /// Strings of these lengths with the 1 in this place; equally long ones toss a coin.
    fn draw(lengths: Cell, place: usize, coins: &mut Stream) -> Self {
        let first_holds = match lengths.row.cmp(&lengths.column) {
            std::cmp::Ordering::Less => true,
            std::cmp::Ordering::Equal => coins.below(2) == 0,
            std::cmp::Ordering::Greater => false,
        };
        Strings { lengths, place, first_holds }
    }

    fn equally_long(&self) -> bool {
        self.lengths.row == self.lengths.column
    }

    /// Writes them with their answer into the emptied `problem`.
    fn write(&self, problem: &mut Problem) {
        let Strings { lengths: Cell { row, column }, place, first_holds } = *self;
        let string = |length: usize, holds: bool, problem: &mut Problem| {
            (0..length).for_each(|at| problem.push(DIGITS.start + u32::from(holds && at == place)));
        };
        string(row, first_holds, problem);
        problem.push(PLUS);
        string(column, !first_holds, problem);
        problem.push_equals();
        string(row.max(column), true, problem);
        problem.push_end();
    }
}

struct BitwiseOrExamples {
    row: usize,
    train: Vec<Strings>,
    test: Vec<Strings>,
    /// In which the training strings come.
    order: Epochs,
    cells: StreamFamily,
    /// Memory kept between draws.
    problem: RefCell<Problem>,
}

impl BitwiseOrExamples {
    /// Overwrites `batch` with `problems`.
    fn write(&self, problems: impl ExactSizeIterator<Item = Strings>, batch: &mut Batch) {
        let problem = &mut *self.problem.borrow_mut();
        let mut rows = Rows::over(batch, problems.len(), self.row - 1);
        for strings in problems {
            problem.clear();
            strings.write(problem);
            rows.push(problem, Scoring::ANSWER);
        }
        *batch = rows.finish();
    }
}

impl Examples for BitwiseOrExamples {
    fn draw(&self, draw: Draw, _form: Form, batch: &mut Batch) {
        let Some(size) = draw.size else { return self.write(self.train.iter().copied(), batch) };
        let at = |row: usize| self.train[self.order.item(draw.first.saturating_add(row as u64))];
        self.write((0..size).map(at), batch);
    }

    fn evaluation(&self, split: Split, _form: Form) -> Option<Batch> {
        let problems = match split {
            Split::Train => &self.train,
            Split::Test => &self.test,
        };
        Some(Batch::filled(|batch| self.write(problems.iter().copied(), batch)))
    }

    fn cell(&self, cell: Cell, problems: usize) -> Batch {
        if !cell.is_within((limits::MAX_DIGITS, limits::MAX_DIGITS)) {
            return Batch::empty();
        }
        let mut stream = self.cells.at(cell.stream(0));
        let places = stream.permutation(cell.row.min(cell.column) as u32);
        let write = |place: &u32| {
            let mut problem = Problem::with_capacity(self.row);
            Strings::draw(cell, *place as usize, &mut stream).write(&mut problem);
            problem
        };
        pack(&places.iter().take(problems).map(write).collect::<Vec<Problem>>(), Scoring::ANSWER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_are_written_as_in_the_paper() {
        let written = |row, column, place| {
            let mut problem = Problem::with_capacity(0);
            Strings::draw(Cell { row, column }, place, &mut Stream::new(1, "test", 0)).write(&mut problem);
            Alphabet::Calculation.text(problem.tokens())
        };
        assert_eq!(written(3, 5, 2), "001+00000=00100∎");
        assert_eq!(written(4, 1, 0), "0000+1=1000∎");
        assert!(["10+00=10∎", "00+10=10∎"].contains(&written(2, 2, 0).as_str()));
    }
}
