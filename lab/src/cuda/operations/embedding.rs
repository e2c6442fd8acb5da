//! Embeddings: rows by token, plus rows by position.

use super::CardForm;
use super::rows::{Numbers, Table, Target, add_up, look_up};
use crate::cuda::error::CudaError;
use crate::cuda::lower::Call;
use crate::ops::embedding::{Embedding, Positional};

impl CardForm for Embedding {
    fn forward(&self, call: &mut Call<'_, '_>) -> Result<(), CudaError> {
        let tokens = Table { address: call.parameter(0).address, stride: call.stride() };
        let table = match self.positional() {
            Positional::None => None,
            Positional::Learned(_) => Some(Table { address: call.parameter(1).address, stride: call.stride() }),
            Positional::Constant(_) => Some(Table { address: call.slot(2).address, stride: 0 }),
        };
        let second = table.map(|table| (table, positions(call)));
        let (y, ids) = (call.output(), call.slot(0));
        look_up(call, y, tokens, ids, second)
    }

    fn backward(&self, call: &mut Call<'_, '_>) -> Result<(), CudaError> {
        let (gradient, ids) = (call.gradient(), call.slot(0));
        let numbers = Numbers { rows: ids, period: gradient.rows };
        let rows = call.parameter_count(0) / gradient.width.max(1);
        add_up(call, gradient, numbers, rows, Target::Parameter(0))?;
        if let Positional::Learned(_) = self.positional() {
            let rows = call.parameter_count(1) / gradient.width.max(1);
            let numbers = positions(call);
            add_up(call, gradient, numbers, rows, Target::Parameter(1))?;
        }
        Ok(())
    }
}

/// The positions of the rows, which repeat with the examples.
fn positions(call: &Call<'_, '_>) -> Numbers {
    Numbers { rows: call.slot(1), period: call.slot_rows(1) }
}
