//! Embeddings: rows by token, plus rows by position.

use super::CardForm;
use super::rows::{Table, Target, add_up, listed, look_up, repeated};
use crate::cuda::error::CudaError;
use crate::cuda::lower::{Call, RowMapCall};
use crate::ops::embedding::{Embedding, Positional};

impl CardForm for Embedding {
    fn forward(&self, call: &mut Call<'_, '_>) -> Result<(), CudaError> {
        let y = call.output();
        let tokens = Table { address: call.parameter(0).address, stride: call.stride() };
        let table = match self.positional() {
            Positional::None => None,
            Positional::Learned(_) => {
                Some(Table { address: call.parameter(1).address, stride: call.stride() })
            }
            Positional::Constant(_) => Some(Table { address: call.slot(2).address, stride: 0 }),
        };
        let second = match table {
            Some(table) => Some((table, positions(call)?)),
            None => None,
        };
        let ids = listed(call.slot(0), y.rows)?;
        look_up(call, y, (tokens, ids, self.factor() as f32), second)
    }

    fn backward(&self, call: &mut Call<'_, '_>) -> Result<(), CudaError> {
        let gradient = call.gradient();
        let rows = call.parameter_count(0) / gradient.width.max(1);
        let ids = listed(call.slot(0), gradient.rows)?;
        add_up(call, gradient, (ids, self.factor() as f32), rows, Target::Parameter(0))?;
        if let Positional::Learned(_) = self.positional() {
            let rows = call.parameter_count(1) / gradient.width.max(1);
            let map = positions(call)?;
            add_up(call, gradient, (map, 1.0), rows, Target::Parameter(1))?;
        }
        Ok(())
    }
}

/// The positions of the rows, which repeat with the examples.
fn positions(call: &Call<'_, '_>) -> Result<RowMapCall, CudaError> {
    repeated(call.slot(1), call.slot_rows(1))
}
