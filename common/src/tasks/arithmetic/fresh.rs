//! Problems without end: every example is a function of its number alone, and the sizes of problems are stratified.
//!
//! Owns which example of which stream stands where: training, test set and cells of the evaluation grid. What a problem of
//! given sizes is, is that of [`Problems`].

use std::cell::RefCell;

use super::problem::{Pads, Problem};
use super::rows::{Rows, Scoring, pack};
use crate::random::{Stream, StreamFamily};
use crate::tasks::epochs::Epochs;
use crate::tasks::{Batch, Cell, Draw, Examples, Form, Seeds, Split};

/// Draws problems.
pub trait Problems: Send {
    /// Writes a problem of these sizes, drawn from `stream`, with its end into the emptied `problem`.
    fn write(&mut self, stream: &mut Stream, sizes: Cell, problem: &mut Problem);
}

/// What the examples of a task have in common.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Sizes trained on are those from 1 to these, every pair equally often.
    pub trained: (usize, usize),
    /// Sizes that cells may have.
    pub largest: (usize, usize),
    /// Tokens of the longest problem trained on.
    pub row: usize,
    /// Pads put into problems trained on.
    pub pads: Option<Pads>,
    /// What is trained on.
    pub training: Scoring,
    /// What counts in cells.
    pub cells: Scoring,
    /// Size of the test set.
    pub test_examples: usize,
}

/// The examples of a trial.
pub struct Fresh<P> {
    settings: Settings,
    train: Source,
    test: Source,
    cells: StreamFamily,
    drawing: RefCell<Drawing<P>>,
}

/// Examples by number.
struct Source {
    problems: StreamFamily,
    /// The pairs of sizes: every run of as many examples as there are pairs, counted from the first, holds each once.
    sizes: Epochs,
    columns: usize,
}

/// Memory kept between draws.
struct Drawing<P> {
    problems: P,
    problem: Problem,
}

impl Source {
    fn new(seed: u64, (problems, sizes): (&str, &str), (rows, columns): (usize, usize)) -> Self {
        Source {
            problems: StreamFamily::new(seed, problems),
            sizes: Epochs::new(seed, sizes, rows * columns),
            columns,
        }
    }

    /// The sizes of the example `number`.
    fn sizes(&self, number: u64) -> Cell {
        let pair = self.sizes.item(number);
        Cell { row: pair / self.columns + 1, column: pair % self.columns + 1 }
    }
}

impl<P: Problems> Fresh<P> {
    /// The examples of the trial with these seeds.
    pub fn new(seeds: Seeds, settings: Settings, problems: P) -> Self {
        Fresh {
            settings,
            train: Source::new(seeds.order, ("train-data", "train-sizes"), settings.trained),
            test: Source::new(seeds.data, ("test-data", "test-sizes"), settings.trained),
            cells: StreamFamily::new(seeds.data, "grid"),
            drawing: RefCell::new(Drawing { problems, problem: Problem::with_capacity(settings.row) }),
        }
    }

    /// Overwrites `batch` with `examples` examples of `source` from the one with the number `first` on.
    fn draw_from(
        &self,
        source: &Source,
        first: u64,
        examples: usize,
        (scoring, pads): (Scoring, Option<Pads>),
        batch: &mut Batch,
    ) {
        let Drawing { problems, problem } = &mut *self.drawing.borrow_mut();
        let mut rows = Rows::over(batch, examples, self.settings.row - 1);
        for row in 0..examples as u64 {
            let number = first.saturating_add(row);
            let mut stream = source.problems.at(number);
            problem.clear();
            problems.write(&mut stream, source.sizes(number), problem);
            if let Some(pads) = pads {
                problem.insert_pads(&mut stream, pads);
            }
            rows.push(problem, scoring);
        }
        *batch = rows.finish();
    }
}

impl<P: Problems> Examples for Fresh<P> {
    fn draw(&self, draw: Draw, _form: Form, batch: &mut Batch) {
        let how = (self.settings.training, self.settings.pads);
        self.draw_from(&self.train, draw.first, draw.size.unwrap_or(1), how, batch);
    }

    fn evaluation(&self, split: Split, _form: Form) -> Option<Batch> {
        let Settings { training, test_examples, .. } = self.settings;
        // What is trained on the question too is tested on the answer all the same: a random question cannot be foreseen.
        let how = (Scoring { on: Scoring::ANSWER.on, ..training }, None);
        match split {
            Split::Train => None,
            Split::Test => {
                Some(Batch::filled(|batch| self.draw_from(&self.test, 0, test_examples, how, batch)))
            }
        }
    }

    fn cell(&self, cell: Cell, problems: usize) -> Batch {
        let Settings { largest, cells, .. } = self.settings;
        if !cell.is_within(largest) {
            return Batch::empty();
        }
        let drawing = &mut *self.drawing.borrow_mut();
        let write = |number: u64| {
            let mut problem = Problem::with_capacity(0);
            let mut stream = self.cells.at(cell.stream(number));
            drawing.problems.write(&mut stream, cell, &mut problem);
            problem
        };
        pack(&(0..problems as u64).map(write).collect::<Vec<Problem>>(), cells)
    }
}
