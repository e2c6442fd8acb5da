//! Subtraction among additions: `321-32=001`, and `32-321=001-` for the negative of it, units first and so the sign last
//! (McLeish et al. 2024, section 4.1; docs/science.md, "Arithmetic").

use std::ops::Range;

use serde::Serialize;

use super::arithmetic::alphabet::DIGITS;
use super::arithmetic::calculation::{Calculation, Operation};
use super::arithmetic::rows::LossMean;
use super::{Examples, GridAxes, Seeds, Task, TaskShape};
use crate::fields::{ConfigResult, Fields};

/// `[task] kind = "subtraction"`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Subtraction {
    #[serde(flatten)]
    calculation: Calculation,
    /// Probability that a problem is an addition, in training and in tests. Default 0.5.
    pub addition_share: f64,
}

impl Subtraction {
    fn operation(&self) -> Operation {
        Operation::AddOrSubtract(self.addition_share)
    }
}

impl Task for Subtraction {
    fn read(mut fields: Fields<'_>) -> ConfigResult<Self> {
        let addition_share = fields.number("addition-share", 0.0..=1.0)?.unwrap_or(0.5);
        let operation = Operation::AddOrSubtract(addition_share);
        let calculation = Calculation::read(&mut fields, operation, LossMean::Tokens)?;
        fields.finish()?;
        Ok(Subtraction { calculation, addition_share })
    }

    fn shape(&self) -> TaskShape {
        self.calculation.shape(self.operation())
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
        Some(self.calculation.grid(self.operation()))
    }

    fn text(&self, tokens: &[u32]) -> Option<String> {
        Some(self.calculation.alphabet().text(tokens))
    }

    fn examples(&self, seeds: Seeds) -> Box<dyn Examples> {
        self.calculation.examples(self.operation(), seeds)
    }
}
