//! How many examples each update is given: one number, or a ramp up to it.
//!
//! A ramp climbs in whole steps, so that micro-batches stay whole; each step lasts equally long, in updates or in examples. Sums over
//! updates are worked out per step, not per update.

use serde::Serialize;

use crate::fields::{ConfigResult, Fields};
use crate::limits;

/// What lengths of time are counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// Updates.
    Updates,
    /// Examples.
    Samples,
}

impl Unit {
    /// The words of study files.
    pub const WORDS: [(&'static str, Unit); 2] = [("updates", Unit::Updates), ("samples", Unit::Samples)];
}

/// `train.batch-ramp`: `{ from = 512, step = 512, over = 0.6 }`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct BatchRamp {
    /// Examples of the first update. Required.
    pub from: usize,
    /// The batch grows by this at a time. Default: as `from`.
    pub step: usize,
    /// How long it grows, in `unit`; a fraction below 1 in a study file is that share of the budget. Required.
    pub over: u64,
    /// Default `"updates"`.
    pub unit: Unit,
}

/// A stretch of updates of one batch size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stretch {
    updates: u64,
    size: u64,
}

/// A training budget as a study gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Budget {
    /// Updates.
    Steps(u64),
    /// Examples; training ends with the update that reaches them.
    Samples(u64),
}

impl BatchRamp {
    /// Reads `train.batch-ramp` towards batches of `batch`; with it how long it lasts, which below 1 is a share of the budget.
    pub(super) fn read(mut fields: Fields<'_>, batch: usize) -> ConfigResult<(Self, f64)> {
        let from = fields.integer("from", 1..=batch)?;
        let from = fields.require("from", from)?;
        let step = fields.integer("step", 1..=limits::MAX_BATCH)?.unwrap_or(from);
        let unit = fields.choice("unit", &Unit::WORDS)?.unwrap_or(Unit::Updates);
        let over = fields.number("over", 0.0..=limits::MAX_STEPS as f64)?;
        let over = fields.require("over", over)?;
        if over > 1.0 && over.fract() != 0.0 {
            return Err(fields
                .error("over", format!("{over} is neither a share below 1 nor a whole number"))
                .suggest("e.g. 0.6 for three fifths of training, or 1000 for a thousand updates"));
        }
        fields.finish()?;
        Ok((BatchRamp { from, step, over: over as u64, unit }, over))
    }

    /// The ramp and the number of updates that a budget means, given how long the ramp lasts.
    pub(super) fn resolve(self, over: f64, batch: usize, budget: Budget) -> (Self, u64) {
        let lasting = |length: f64| BatchRamp { over: length as u64, ..self.clone() };
        let share = over > 0.0 && over < 1.0;
        let ramp = |steps: u64, samples: u64| match (share, self.unit) {
            (false, _) => lasting(over),
            (true, Unit::Updates) => lasting(over * steps as f64),
            (true, Unit::Samples) => lasting(over * samples as f64),
        };
        match budget {
            Budget::Steps(steps) => {
                // The more examples there are in all, the longer the ramp and the fewer they become.
                let most = steps.saturating_mul(batch as u64);
                let samples =
                    smallest(most, |samples| ramp(steps, samples).at(steps + 1, batch).1 <= samples);
                (ramp(steps, samples), steps)
            }
            Budget::Samples(samples) => {
                let enough = |steps: u64| ramp(steps, samples).at(steps + 1, batch).1 >= samples;
                let steps = smallest(limits::MAX_STEPS.min(samples), enough).max(1);
                (ramp(steps, samples), steps)
            }
        }
    }

    /// The stretches below `batch`, in order.
    fn stretches(&self, batch: usize) -> impl Iterator<Item = Stretch> + '_ {
        let count = (batch.saturating_sub(self.from)).div_ceil(self.step) as u64;
        (0..count).map(move |number| {
            let size = self.from as u64 + number * self.step as u64;
            // Ends are rounded once each, so that rounding does not add up.
            let end = |number: u64| (u128::from(self.over) * u128::from(number) / u128::from(count)) as u64;
            let length = end(number + 1) - end(number);
            let updates = if self.unit == Unit::Updates { length } else { length.div_ceil(size) };
            Stretch { updates, size }
        })
    }

    /// Examples of update number `update` (from 1), and of all updates before it.
    pub fn at(&self, update: u64, batch: usize) -> (usize, u64) {
        let (mut before, mut rest) = (0u64, update.saturating_sub(1));
        for stretch in self.stretches(batch) {
            if rest < stretch.updates {
                return (stretch.size as usize, before + rest * stretch.size);
            }
            before += stretch.updates * stretch.size;
            rest -= stretch.updates;
        }
        (batch, before.saturating_add(rest.saturating_mul(batch as u64)))
    }
}

/// The smallest number up to `most` for which something holds that holds for all larger ones; `most` where it never does.
fn smallest(most: u64, holds: impl Fn(u64) -> bool) -> u64 {
    let (mut low, mut high) = (0, most);
    while low < high {
        let middle = low + (high - low) / 2;
        if holds(middle) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    high
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp(over: u64, unit: Unit) -> BatchRamp {
        BatchRamp { from: 512, step: 512, over, unit }
    }

    /// McLeish et al. 2024: from one micro-batch of 512 to 8192 over the first 60 %, here of 10,000 updates.
    #[test]
    fn the_ramp_of_the_paper_climbs_in_fifteen_steps() {
        let ramp = ramp(6000, Unit::Updates);
        let size = |update| ramp.at(update, 8192).0;
        assert_eq!(
            [1, 400, 401, 800, 801, 6000, 6001, 10_000].map(size),
            [512, 512, 1024, 1024, 1536, 7680, 8192, 8192]
        );
    }

    #[test]
    fn examples_before_an_update_are_the_sum_of_the_sizes_before_it() {
        for ramp in [ramp(97, Unit::Updates), ramp(100_000, Unit::Samples), ramp(0, Unit::Updates)] {
            let mut sum = 0;
            for update in 1..=300 {
                let (size, before) = ramp.at(update, 5000);
                assert_eq!(before, sum, "{ramp:?} {update}");
                sum += size as u64;
            }
            assert_eq!(ramp.at(300, 5000).0, 5000);
        }
    }

    #[test]
    fn shares_and_budgets_in_either_unit_agree() {
        for unit in [Unit::Updates, Unit::Samples] {
            let (by_steps, steps) = ramp(0, unit).resolve(0.6, 8192, Budget::Steps(2000));
            assert_eq!(steps, 2000);
            let samples = by_steps.at(2001, 8192).1;
            let expected = if unit == Unit::Updates { 2000.0 } else { samples as f64 } * 0.6;
            // The ramp's steps end with whole updates.
            let slack = if unit == Unit::Updates { 1 } else { 8192 };
            assert!((by_steps.over as f64 - expected).abs() <= slack as f64, "{by_steps:?}");
            let (by_samples, again) = ramp(0, unit).resolve(0.6, 8192, Budget::Samples(samples));
            assert!(again.abs_diff(2000) <= 5, "{again}");
            assert!(by_samples.over.abs_diff(by_steps.over) <= slack, "{by_samples:?}");
        }
        let (fixed, steps) = ramp(0, Unit::Updates).resolve(30.0, 1024, Budget::Samples(1_000_000));
        assert_eq!((fixed.over, steps), (30, 30 + (1_000_000u64 - 30 * 512).div_ceil(1024)));
    }

    #[test]
    fn a_ramp_in_samples_spends_equally_many_on_each_size() {
        let ramp = ramp(150_000, Unit::Samples);
        for (number, stretch) in ramp.stretches(8192).enumerate() {
            let samples = stretch.updates * stretch.size;
            assert!((10_000..10_000 + stretch.size).contains(&samples), "{number}: {samples}");
        }
    }
}
