//! Sets of lines, kept at a byte a token, and the batches of language modelling over them.
//!
//! A line is what a language model is to say, its end included: the start stands in front of it in a batch, and the answer at every token is
//! the next one. Owns neither what lines say nor how they were drawn.

use super::super::epochs::Epochs;
use super::super::{Assessment, Batch, Draw, Input, Memory, Split, Targets};
use std::sync::Arc;

/// Lines of tokens, each with its end.
#[derive(Debug, Default)]
pub struct Lines {
    tokens: Vec<u8>,
    ends: Vec<u32>,
    longest: usize,
}

impl Lines {
    /// Adds a line.
    pub fn push(&mut self, line: &[u8]) {
        self.tokens.extend_from_slice(line);
        self.ends.push(self.tokens.len() as u32);
        self.longest = self.longest.max(line.len());
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Line number `index`.
    pub fn line(&self, index: usize) -> &[u8] {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before] as usize);
        &self.tokens[start..self.ends[index] as usize]
    }

    /// All lines in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        (0..self.len()).map(|index| self.line(index))
    }

    /// Gives back memory that further lines would have taken.
    pub fn shrink(mut self) -> Self {
        self.tokens.shrink_to_fit();
        self.ends.shrink_to_fit();
        self
    }
}

/// Overwrites `batch` with lines behind `start`, in memory for `most` tokens at once, so that lines of other lengths need no more.
pub fn write<'a>(start: u32, lines: impl Iterator<Item = &'a [u8]>, most: usize, batch: &mut Batch) {
    let Memory { mut ids, mut ends, mut classes, .. } = batch.take_memory();
    ids.reserve(most);
    classes.reserve(most);
    for line in lines {
        let before = line.len().saturating_sub(1);
        ids.push(start);
        ids.extend(line[..before].iter().map(|token| u32::from(*token)));
        classes.extend(line.iter().map(|token| u32::from(*token)));
        ends.push(ids.len() as u32);
    }
    *batch = Batch {
        input: Input::Ragged { tokens: ids, ends, positions: None },
        targets: Targets::Classes(classes),
        weights: None,
        also_correct: Vec::new(),
    };
}

/// The sets of a task.
#[derive(Debug)]
pub struct Sets {
    /// What is trained on.
    pub training: Lines,
    /// Lines of the same distribution that are not trained on.
    pub validation: Lines,
    /// What the task asks, on the validation set and on the generalisation set.
    pub assessments: Vec<Assessment>,
}

/// The sets, and the order in which a trial is given the training lines.
pub struct Corpus {
    /// Shared by the trials of a process.
    pub sets: Arc<Sets>,
    order: Epochs,
    start: u32,
}

impl Corpus {
    /// Shuffles the training lines anew in each pass over them, by `seed`.
    pub fn new(sets: Arc<Sets>, seed: u64, start: u32) -> Self {
        Corpus { order: Epochs::new(seed, "data-order", sets.training.len()), sets, start }
    }

    /// [`Examples::draw`](super::super::Examples::draw).
    pub fn draw(&self, draw: Draw, batch: &mut Batch) {
        let training = &self.sets.training;
        let Some(size) = draw.size else {
            return write(self.start, training.iter(), training.tokens.len(), batch);
        };
        let lines =
            (0..size).map(|row| training.line(self.order.item(draw.first.saturating_add(row as u64))));
        write(self.start, lines, size * training.longest, batch);
    }

    /// [`Examples::evaluation`](super::super::Examples::evaluation): the validation set, and as many of the first training lines, since
    /// all of them would take longer than the training between two evaluations.
    pub fn evaluation(&self, split: Split) -> Batch {
        let validation = &self.sets.validation;
        Batch::filled(|batch| match split {
            Split::Train => write(self.start, self.sets.training.iter().take(validation.len()), 0, batch),
            Split::Test => write(self.start, validation.iter(), 0, batch),
        })
    }
}
