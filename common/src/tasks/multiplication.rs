//! Multiplication: `21x543=0414`, units first (McLeish et al. 2024, section 4.2; docs/science.md, "Arithmetic").

use std::ops::Range;

use serde::Serialize;

use super::arithmetic::alphabet::DIGITS;
use super::arithmetic::calculation::{Calculation, Operation};
use super::arithmetic::rows::LossMean;
use super::{Examples, GridAxes, Seeds, Task, TaskShape};
use crate::fields::{ConfigResult, Fields};

/// `[task] kind = "multiplication"`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Multiplication {
    #[serde(flatten)]
    calculation: Calculation,
}

impl Task for Multiplication {
    fn read(mut fields: Fields<'_>) -> ConfigResult<Self> {
        let calculation = Calculation::read(&mut fields, Operation::Multiply, LossMean::Samples)?;
        fields.finish()?;
        Ok(Multiplication { calculation })
    }

    fn shape(&self) -> TaskShape {
        self.calculation.shape(Operation::Multiply)
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
        Some(self.calculation.grid(Operation::Multiply))
    }

    fn text(&self, tokens: &[u32]) -> Option<String> {
        Some(self.calculation.alphabet().text(tokens))
    }

    fn examples(&self, seeds: Seeds) -> Box<dyn Examples> {
        self.calculation.examples(Operation::Multiply, seeds)
    }
}
