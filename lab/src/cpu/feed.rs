//! What one replica's update or evaluation is given besides parameters.

use std::ops::Range;

use plateau_common::tasks::Batch;

use crate::float::Float;
use crate::program::Program;

/// Content of a slot for all examples of a batch.
#[derive(Clone, Debug, PartialEq)]
pub enum SlotData<T> {
    /// Constant in the program; nothing to give.
    Constant,
    /// Row or class numbers.
    Ids(Vec<u32>),
    /// Numbers.
    Numbers(Vec<T>),
}

/// Sequences of lengths of their own, one after another.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sequences {
    /// Where each ends among the tokens.
    ends: Vec<u32>,
    /// The sum of the squares of the lengths of all sequences before each, and of all.
    squares: Vec<usize>,
}

impl Sequences {
    /// Overwrites them, in the memory they have.
    pub fn set(&mut self, ends: &[u32]) {
        self.ends.clear();
        self.ends.extend_from_slice(ends);
        self.squares.clear();
        self.squares.push(0);
        let (mut start, mut sum) = (0, 0);
        for end in ends {
            let length = (end - start) as usize;
            sum += length * length;
            self.squares.push(sum);
            start = *end;
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.ends.len()
    }

    /// The tokens of one.
    pub fn tokens(&self, sequence: usize) -> Range<usize> {
        sequence.checked_sub(1).map_or(0, |before| self.ends[before] as usize)..self.ends[sequence] as usize
    }

    /// The sum of the squares of the lengths of those before one (of all, for their count).
    pub fn squares_before(&self, sequence: usize) -> usize {
        self.squares[sequence]
    }
}

/// What a program runs at once: some examples, or all tokens of some sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MicroBatch {
    /// The first example (or token).
    pub start: usize,
    /// How many.
    pub examples: usize,
    /// The first sequence; 0 where examples are not tokens.
    pub sequence: usize,
    /// How many.
    pub sequences: usize,
}

impl MicroBatch {
    /// Some examples of a program whose examples are not tokens.
    pub fn of_examples(start: usize, examples: usize) -> Self {
        MicroBatch { start, examples, sequence: 0, sequences: 0 }
    }
}

/// The micro-batches of a feed.
pub struct MicroBatches<'a> {
    all: usize,
    ends: Option<&'a [u32]>,
    /// Examples of each, or tokens at which one ends with the sequence.
    pace: usize,
    start: usize,
    sequence: usize,
}

impl Iterator for MicroBatches<'_> {
    type Item = MicroBatch;

    fn next(&mut self) -> Option<MicroBatch> {
        if self.start >= self.all {
            return None;
        }
        let (start, sequence) = (self.start, self.sequence);
        match self.ends {
            None => self.start = self.all.min(start + self.pace),
            Some(ends) => {
                while self.start < self.all && self.start - start < self.pace {
                    self.start = ends[self.sequence] as usize;
                    self.sequence += 1;
                }
            }
        }
        let (examples, sequences) = (self.start - start, self.sequence - sequence);
        Some(MicroBatch { start, examples, sequence, sequences })
    }
}

/// The slots of one batch of one replica.
#[derive(Clone, Debug, PartialEq)]
pub struct Feed<T> {
    /// Examples in the batch; of a ragged program, whose rows are tokens, its tokens.
    pub examples: usize,
    /// The sequences of a ragged program.
    pub sequences: Sequences,
    /// Memory for padding sequences in.
    pub padded: Batch,
    /// By slot, in the program's order.
    pub slots: Vec<SlotData<T>>,
    /// The loss is the sum over rows of weighted losses times this.
    pub loss_scale: f64,
}

impl<T: Float> Feed<T> {
    /// A feed with nothing in it yet.
    pub fn empty(slots: usize) -> Self {
        let (sequences, padded) = (Sequences::default(), Batch::default());
        Feed { examples: 0, sequences, padded, slots: vec![SlotData::Constant; slots], loss_scale: 0.0 }
    }

    /// The batch in the parts that a program runs at once, in order.
    pub fn micro_batches(&self, program: &Program) -> MicroBatches<'_> {
        let pace = match program.ragged {
            Some(ragged) => {
                // Parts of nearly equal size.
                let parts = (self.examples as f64 / ragged.pace as f64).round().max(1.0);
                (self.examples as f64 / parts).ceil() as usize
            }
            None => program.micro_batch,
        };
        let ends = program.ragged.is_some().then_some(&self.sequences.ends[..]);
        MicroBatches { all: self.examples, ends, pace, start: 0, sequence: 0 }
    }

    /// The row numbers of a slot, to fill anew; keeps their memory.
    pub fn ids_mut(&mut self, slot: usize) -> &mut Vec<u32> {
        if !matches!(self.slots[slot], SlotData::Ids(_)) {
            self.slots[slot] = SlotData::Ids(Vec::new());
        }
        match &mut self.slots[slot] {
            SlotData::Ids(ids) => ids,
            _ => unreachable!("just made"),
        }
    }

    /// The numbers of a slot, to fill anew; keeps their memory.
    pub fn numbers_mut(&mut self, slot: usize) -> &mut Vec<T> {
        if !matches!(self.slots[slot], SlotData::Numbers(_)) {
            self.slots[slot] = SlotData::Numbers(Vec::new());
        }
        match &mut self.slots[slot] {
            SlotData::Numbers(numbers) => numbers,
            _ => unreachable!("just made"),
        }
    }
}
