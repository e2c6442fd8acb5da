//! Batches: what a task hands to the training loop, and how a batch is drawn over another without new memory.
//!
//! Owns the layout of inputs, answers and weights. Which numbers stand in them is the tasks' business; turning them into
//! tensors is `plateau-lab`'s.

use std::ops::Range;

/// How inputs are written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Every token of the sequence.
    Tokens,
    /// Only how often each token occurs, and the last token: exact for models without positions and causal mask
    /// (docs/science.md, "Counting from the histogram"). Only asked of tasks whose [`Task::supports_counts`](super::Task::supports_counts) is
    /// true.
    Counts,
}

/// Which examples of the training data an update is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draw {
    /// Number of the update, from 1.
    pub update: u64,
    /// Examples that the updates before it were given.
    pub first: u64,
    /// Examples to draw; `None`: the whole training set (finite tasks only; then every update sees the same batch).
    pub size: Option<usize>,
}

impl Draw {
    /// Of an update among updates of one size.
    pub fn of(update: u64, size: Option<usize>) -> Self {
        Draw { update, first: update.saturating_sub(1).saturating_mul(size.unwrap_or(0) as u64), size }
    }
}

/// The inputs of `B` examples.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// Row-major `[B, length]` token ids.
    Tokens {
        /// Ids below the task's vocabulary.
        tokens: Vec<u32>,
        /// Tokens per example.
        length: usize,
    },
    /// Row-major `[B, vocabulary]` occurrences, and the id of each example's last token (`[B]`).
    Counts {
        /// How often each token occurs; sums to the sequence length in every row.
        counts: Vec<f32>,
        /// The last token of each sequence; it is counted too.
        last: Vec<u32>,
    },
    /// Sequences of lengths of their own, one after another without padding. Their answers have one row for each token.
    Ragged {
        /// Ids below the task's vocabulary.
        tokens: Vec<u32>,
        /// Where each sequence ends among the tokens; every sequence has at least one.
        ends: Vec<u32>,
        /// The position of each token, where that is not its place in its sequence.
        positions: Option<Vec<u32>>,
    },
}

/// Where each of some sequences lies among the tokens of all, from where they end.
pub fn spans(ends: &[u32]) -> impl Iterator<Item = Range<usize>> + '_ {
    let starts = std::iter::once(0).chain(ends.iter().copied());
    starts.zip(ends).map(|(start, end)| start as usize..*end as usize)
}

/// The right answers of `B` examples, `R` read positions each (`R` = 1 for [`ReadOut::Last`](super::ReadOut::Last)), row-major `[B, R]`.
#[derive(Clone, Debug, PartialEq)]
pub enum Targets {
    /// Class ids.
    Classes(Vec<u32>),
    /// Numbers, in the task's own unit (not standardised).
    Scalars(Vec<f32>),
}

/// Examples of one replica.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// What the model sees.
    pub input: Input,
    /// What it should say.
    pub targets: Targets,
    /// Weight of each read position in loss and accuracy, `[B, R]`; `None`: all 1.
    pub weights: Option<Vec<f32>>,
    /// Answers that count as correct besides the target: (row in `[B, R]`, class).
    pub also_correct: Vec<(u32, u32)>,
}

/// The emptied vectors of a batch, to be filled and put back: their memory is what a new batch is written into.
#[derive(Debug, Default)]
pub struct Memory {
    /// Of [`Input::Tokens`], or of the last tokens of [`Input::Counts`].
    pub ids: Vec<u32>,
    /// Of [`Input::Counts`].
    pub counts: Vec<f32>,
    /// Of [`Input::Ragged`].
    pub ends: Vec<u32>,
    /// Of [`Targets::Classes`].
    pub classes: Vec<u32>,
    /// Of [`Targets::Scalars`].
    pub scalars: Vec<f32>,
    /// Of [`Batch::weights`].
    pub weights: Vec<f32>,
    /// Of [`Batch::also_correct`].
    pub also_correct: Vec<(u32, u32)>,
}

impl Default for Batch {
    fn default() -> Self {
        Batch::empty()
    }
}

impl Batch {
    /// No examples, and no memory yet.
    pub fn empty() -> Self {
        Batch {
            input: Input::Tokens { tokens: Vec::new(), length: 0 },
            targets: Targets::Classes(Vec::new()),
            weights: None,
            also_correct: Vec::new(),
        }
    }

    /// A new batch, written by `fill`.
    pub fn filled(fill: impl FnOnce(&mut Batch)) -> Self {
        let mut batch = Batch::empty();
        fill(&mut batch);
        batch
    }

    /// Takes the batch's memory out and leaves it [empty](Batch::empty). A task fills what it needs of it and assigns the
    /// new batch as a whole, so that nothing of the old one can stay.
    pub fn take_memory(&mut self) -> Memory {
        let Batch { input, targets, weights, also_correct } = std::mem::take(self);
        let mut memory = Memory { weights: weights.unwrap_or_default(), also_correct, ..Memory::default() };
        match input {
            Input::Tokens { tokens, .. } => memory.ids = tokens,
            Input::Counts { counts, last } => (memory.counts, memory.ids) = (counts, last),
            Input::Ragged { tokens, ends, .. } => (memory.ids, memory.ends) = (tokens, ends),
        }
        match targets {
            Targets::Classes(classes) => memory.classes = classes,
            Targets::Scalars(scalars) => memory.scalars = scalars,
        }
        memory.ids.clear();
        memory.counts.clear();
        memory.ends.clear();
        memory.classes.clear();
        memory.scalars.clear();
        memory.weights.clear();
        memory.also_correct.clear();
        memory
    }

    /// Tokens per example; 0 where there are only counts, or examples differ.
    pub fn length(&self) -> usize {
        match &self.input {
            Input::Tokens { length, .. } => *length,
            Input::Counts { .. } | Input::Ragged { .. } => 0,
        }
    }

    /// Read positions of an example, R, where all have as many.
    pub fn rows_per_example(&self) -> usize {
        let rows = match &self.targets {
            Targets::Classes(classes) => classes.len(),
            Targets::Scalars(scalars) => scalars.len(),
        };
        rows / self.examples().max(1)
    }

    /// Number of examples, B.
    pub fn examples(&self) -> usize {
        match &self.input {
            Input::Tokens { tokens, length } => tokens.len() / (*length).max(1),
            Input::Counts { last, .. } => last.len(),
            Input::Ragged { ends, .. } => ends.len(),
        }
    }

    /// The same examples in rows of `length` tokens, for programs that need that: ends are filled up with the token, class and weight 0.
    /// What is not [`Input::Ragged`] with classes for answers stays as it is.
    pub fn pad_into(&self, length: usize, padded: &mut Batch) {
        let (Input::Ragged { tokens, ends, .. }, Targets::Classes(answers)) = (&self.input, &self.targets)
        else {
            return padded.clone_from(self);
        };
        let Memory { ids: mut to_tokens, mut classes, mut weights, mut also_correct, .. } =
            padded.take_memory();
        for (example, own) in spans(ends).enumerate() {
            let rows = (example + 1) * length;
            to_tokens.extend_from_slice(&tokens[own.clone()]);
            to_tokens.resize(rows, 0);
            classes.extend_from_slice(&answers[own.clone()]);
            classes.resize(rows, 0);
            match &self.weights {
                Some(own_weights) => weights.extend_from_slice(&own_weights[own.clone()]),
                None => weights.resize(example * length + own.len(), 1.0),
            }
            weights.resize(rows, 0.0);
            let row = |row: u32| row - own.start as u32 + (example * length) as u32;
            let inside = self.also_correct.iter().filter(|(row, _)| own.contains(&(*row as usize)));
            also_correct.extend(inside.map(|(at, class)| (row(*at), *class)));
        }
        *padded = Batch {
            input: Input::Tokens { tokens: to_tokens, length },
            targets: Targets::Classes(classes),
            weights: Some(weights),
            also_correct,
        };
    }
}
