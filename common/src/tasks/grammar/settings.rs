//! The keys that the tasks over sentences have in common: how many examples of each kind, and of which seed.

use serde::Serialize;

use crate::fields::{ConfigResult, Fields};
use crate::limits;

/// Which data set. It is the same for all seeds of a study: the trial's seed orders training, and says nothing about what is trained on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct SetSettings {
    /// Lines to train on.
    pub training_examples: usize,
    /// Lines of the in-domain validation set, and lines of the training set that are evaluated.
    pub validation_examples: usize,
    /// Lines of the generalisation set.
    pub generalisation_examples: usize,
    /// What the sets are drawn from. Default 0.
    pub data_seed: u64,
}

impl SetSettings {
    /// Reads the keys, with `self` for what is not written; there are `fewest` lines to train on at least, of up to `longest` tokens.
    pub fn read(self, fields: &mut Fields<'_>, fewest: usize, longest: usize) -> ConfigResult<Self> {
        let mut size = |key: &'static str, default: usize, fewest: usize, most: usize| {
            let most = most.min(limits::MAX_TOKENS_AT_ONCE / longest.max(1));
            fields.integer(key, fewest..=most).map(|size| size.unwrap_or(default))
        };
        let training = limits::MAX_TRAINING_SENTENCES;
        let evaluation = limits::MAX_EVALUATION_SENTENCES;
        Ok(SetSettings {
            training_examples: size("training-examples", self.training_examples, fewest, training)?,
            validation_examples: size("validation-examples", self.validation_examples, 1, evaluation)?,
            generalisation_examples: size(
                "generalisation-examples",
                self.generalisation_examples,
                1,
                evaluation,
            )?,
            data_seed: fields.integer("data-seed", 0..=i64::MAX as u64)?.unwrap_or(self.data_seed),
        })
    }
}
