//! Loss and accuracy of a replica on its examples, a stretch of outputs at a time.

use plateau_common::tasks::{Batch, Input, Scale, Targets};

use crate::engine::{Engine, Outputs, Reading};
use crate::error::LabError;
use crate::float::{Float, sum_of, vectorised};
use crate::ops::objective::log_sum_exp;

/// Sums over examples.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    loss: f64,
    weight: f64,
    correct: f64,
    /// Examples answered right at every read position with a weight, and right at the first of them; of how many.
    exact: f64,
    first: f64,
    examples: f64,
    /// Standard deviation of the outputs over classes, and of how many rows.
    scale: f64,
    rows: f64,
}

/// The outputs of all examples, for probes.
pub(crate) struct Kept {
    /// `[N, width]`.
    outputs: Vec<f64>,
    width: usize,
    /// The input tokens and their number per example.
    tokens: (Vec<u32>, usize),
}

impl Kept {
    /// Rows of outputs.
    pub fn outputs(&self) -> impl Iterator<Item = &[f64]> {
        self.outputs.chunks_exact(self.width)
    }

    /// The first two tokens below `p` of each example: the operands of a table row in either layout.
    pub fn residues(&self, p: u32) -> Vec<(u32, u32)> {
        let (tokens, length) = &self.tokens;
        let operands = |example: &[u32]| {
            let mut operands = example.iter().copied().filter(|token| *token < p);
            Some((operands.next()?, operands.next()?))
        };
        tokens.chunks_exact(*length).filter_map(operands).collect()
    }
}

/// Scores of a replica on one split.
pub(crate) struct Scores {
    sums: Sums,
    /// The outputs, where they were asked for.
    pub kept: Option<Kept>,
}

impl Scores {
    /// Weighted mean loss.
    pub fn loss(&self) -> f64 {
        self.sums.loss / self.sums.weight
    }

    /// Weighted share of right answers.
    pub fn accuracy(&self) -> f64 {
        self.sums.correct / self.sums.weight
    }

    /// Share of the examples whose read positions with a weight are all right. (For an answer that is decoded greedily, symbol by
    /// symbol, this is exact match: as long as all symbols before are right, the model has read the same.)
    pub fn exact_match(&self) -> f64 {
        self.sums.exact / self.sums.examples
    }

    /// Share of the examples whose first read position with a weight is right.
    pub fn first_match(&self) -> f64 {
        self.sums.first / self.sums.examples
    }

    /// Mean over rows of the standard deviation of the outputs over classes.
    pub fn logit_scale(&self) -> f64 {
        self.sums.scale / self.sums.rows
    }
}

/// Evaluates a replica on a batch; `keep` keeps all outputs, `width` wide, as well.
pub(crate) fn score(
    engine: &mut dyn Engine,
    replica: usize,
    batch: &Batch,
    (scale, reading): (Scale, Reading),
    width: usize,
    keep: bool,
) -> Result<Scores, LabError> {
    let mut sums = Sums::default();
    // Of sequences of lengths of their own, whole answers are not scored: assessments ask for what matters in them.
    let rows = if let Input::Ragged { .. } = batch.input { usize::MAX } else { batch.rows_per_example() };
    let mut example = Answer { rows, ..Answer::default() };
    let mut kept = Vec::new();
    let mut shares = vec![0.0; width];
    engine.evaluate(replica, batch, (scale, reading), &mut |first, outputs| match outputs {
        Outputs::F32(outputs) => {
            vectorised(
                #[inline(always)]
                || add_rows((&mut sums, &mut example), outputs, &mut shares, first, batch, scale),
            );
            if keep {
                kept.extend(outputs.iter().map(|output| f64::from(*output)));
            }
        }
        Outputs::F64(outputs) => {
            vectorised(
                #[inline(always)]
                || add_rows((&mut sums, &mut example), outputs, &mut shares, first, batch, scale),
            );
            if keep {
                kept.extend(outputs);
            }
        }
    })?;
    let kept = keep.then(|| {
        let tokens = match &batch.input {
            Input::Tokens { tokens, length } => (tokens.clone(), *length),
            Input::Counts { .. } | Input::Ragged { .. } => (Vec::new(), 1),
        };
        Kept { outputs: kept, width, tokens }
    });
    Ok(Scores { sums, kept })
}

#[inline(always)]
fn add_rows<T: Float>(
    (sums, example): (&mut Sums, &mut Answer),
    outputs: &[T],
    shares: &mut [f64],
    first: usize,
    batch: &Batch,
    scale: Scale,
) {
    let width = shares.len();
    for (row, outputs) in outputs.chunks_exact(width).enumerate() {
        let row = first + row;
        let weight = batch.weights.as_ref().map_or(1.0, |weights| f64::from(weights[row]));
        sums.weight += weight;
        sums.rows += 1.0;
        let mean = sum_of(width, |class| outputs[class].wide()) / width as f64;
        let variance = sum_of(width, |class| (outputs[class].wide() - mean).powi(2)) / width as f64;
        sums.scale += variance.sqrt();
        match &batch.targets {
            Targets::Classes(answers) => {
                let answer = answers[row];
                sums.loss += weight * (log_sum_exp(outputs, shares) - outputs[answer as usize].wide());
                let said = highest(outputs);
                let right = said
                    .is_some_and(|said| said == answer || batch.also_correct.contains(&(row as u32, said)));
                sums.correct += if right { weight } else { 0.0 };
                example.add(sums, weight, right);
            }
            Targets::Scalars(answers) => {
                let answer = f64::from(answers[row]);
                let error = outputs[0].wide() - (answer - scale.mean) / scale.deviation;
                sums.loss += weight * error * error;
                let right = (outputs[0].wide() * scale.deviation + scale.mean).round() == answer;
                sums.correct += if right { weight } else { 0.0 };
                example.add(sums, weight, right);
            }
        }
    }
}

/// The answer of the example that is being scored, row by row.
#[derive(Default)]
struct Answer {
    /// Read positions of an example.
    rows: usize,
    seen: usize,
    wrong: bool,
    /// Whether its first weighted position has been seen.
    begun: bool,
}

impl Answer {
    #[inline(always)]
    fn add(&mut self, sums: &mut Sums, weight: f64, right: bool) {
        if weight > 0.0 {
            sums.first += if !self.begun && right { 1.0 } else { 0.0 };
            self.begun = true;
            self.wrong |= !right;
        }
        self.seen += 1;
        if self.seen == self.rows {
            sums.exact += if self.wrong { 0.0 } else { 1.0 };
            sums.examples += 1.0;
            *self = Answer { rows: self.rows, ..Answer::default() };
        }
    }
}

/// The class with the highest output, the lowest of several; none if an output is not a number.
#[inline(always)]
pub(crate) fn highest<T: Float>(outputs: &[T]) -> Option<u32> {
    let mut best = 0;
    for (class, output) in outputs.iter().enumerate() {
        if output.wide().is_nan() {
            return None;
        }
        if *output > outputs[best] {
            best = class;
        }
    }
    Some(best as u32)
}
