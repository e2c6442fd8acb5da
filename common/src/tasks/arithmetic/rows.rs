//! Problems as rows of a batch: one problem a row, padded at the end, every token predicted from those before it.
//!
//! Owns inputs, answers and which answers count. A problem of n tokens takes n - 1 places: its last token is only ever predicted.

use serde::Serialize;

use super::alphabet::{END, PAD};
use super::problem::Problem;
use crate::fields::{ConfigResult, Fields};
use crate::tasks::{Batch, Input, Memory, Targets};

/// Over what the loss is averaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LossMean {
    /// Over all tokens that count, of all problems together.
    Tokens,
    /// Over the tokens of each problem, then over the problems.
    Samples,
}

/// Which tokens are trained on; pads never are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LossOn {
    /// Those after `=`, the end included.
    Answer,
    /// Those of the question too.
    All,
}

/// Which tokens count, and how much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scoring {
    /// Over what the mean is taken.
    pub mean: LossMean,
    /// Whether the question counts.
    pub on: LossOn,
    /// Whether the end counts.
    pub end: bool,
}

impl Scoring {
    /// Every token of the answer and its end.
    pub const ANSWER: Scoring = Scoring { mean: LossMean::Tokens, on: LossOn::Answer, end: true };

    /// Reads `loss-mean` and `loss-on`.
    pub fn read(fields: &mut Fields<'_>, mean: LossMean) -> ConfigResult<Self> {
        let means = [("tokens", LossMean::Tokens), ("samples", LossMean::Samples)];
        let parts = [("answer", LossOn::Answer), ("all", LossOn::All)];
        Ok(Scoring {
            mean: fields.choice("loss-mean", &means)?.unwrap_or(mean),
            on: fields.choice("loss-on", &parts)?.unwrap_or(LossOn::Answer),
            end: true,
        })
    }

    /// Appends the weights of a row's targets.
    fn weigh(self, equals: usize, targets: &[u32], weights: &mut Vec<f32>) {
        // The target at a place is the token after it, so the answer is what is predicted from the `=` on.
        let counts = |(place, target): (usize, &u32)| {
            *target != PAD && (self.on == LossOn::All || place >= equals) && (self.end || *target != END)
        };
        let weight = match self.mean {
            LossMean::Tokens => 1.0,
            LossMean::Samples => 1.0 / targets.iter().enumerate().filter(|each| counts(*each)).count() as f32,
        };
        weights.extend(targets.iter().enumerate().map(|each| if counts(each) { weight } else { 0.0 }));
    }
}

/// A batch being written, in the memory of another.
pub struct Rows {
    memory: Memory,
    length: usize,
}

impl Rows {
    /// Empties `batch` for `examples` rows of `length` places.
    pub fn over(batch: &mut Batch, examples: usize, length: usize) -> Self {
        let mut memory = batch.take_memory();
        let places = examples * length;
        memory.ids.reserve(places);
        memory.classes.reserve(places);
        memory.weights.reserve(places);
        Rows { memory, length }
    }

    /// Appends a problem, which must not be longer than a row and one token.
    pub fn push(&mut self, problem: &Problem, scoring: Scoring) {
        let tokens = problem.tokens();
        debug_assert!(tokens.len() <= self.length + 1, "{} tokens do not fit {}", tokens.len(), self.length);
        let Memory { ids, classes, weights, .. } = &mut self.memory;
        let start = ids.len();
        let padded = |tokens: &[u32], row: &mut Vec<u32>| {
            row.extend_from_slice(&tokens[..tokens.len().min(self.length)]);
            row.resize(start + self.length, PAD);
        };
        padded(tokens, ids);
        padded(tokens.get(1..).unwrap_or_default(), classes);
        scoring.weigh(problem.equals(), &classes[start..], weights);
    }

    /// The batch.
    pub fn finish(self) -> Batch {
        let Memory { ids, classes, weights, .. } = self.memory;
        Batch {
            input: Input::Tokens { tokens: ids, length: self.length },
            targets: Targets::Classes(classes),
            weights: Some(weights),
            also_correct: Vec::new(),
        }
    }
}

/// A batch of its own of problems, as long as the longest needs.
pub fn pack(problems: &[Problem], scoring: Scoring) -> Batch {
    let Some(longest) = problems.iter().map(|problem| problem.tokens().len()).max() else {
        return Batch::empty();
    };
    let mut rows = Rows::over(&mut Batch::empty(), problems.len(), longest.saturating_sub(1));
    problems.iter().for_each(|problem| rows.push(problem, scoring));
    rows.finish()
}
