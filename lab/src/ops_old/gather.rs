//! Rows of a table by index: embeddings, and the rows queries are asked of.

use std::sync::Arc;

use candle_core::backend::BackendStorage as _;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use super::tape::apply1;
use crate::float::{Float, read, slice, vectorised, with_float};

/// Row numbers, `[K, N]`, of a table `[K, S, d]`; every one below S.
#[derive(Clone, Debug)]
pub struct Index {
    rows: Arc<Vec<u32>>,
    table_rows: usize,
}

impl Index {
    /// Takes row numbers `[K, N]`; refuses those that a table of `table_rows` has not.
    pub fn new(rows: Vec<u32>, table_rows: usize) -> Result<Self> {
        if let Some(row) = rows.iter().find(|row| **row as usize >= table_rows) {
            candle_core::bail!("row {row} of a table of {table_rows} rows was asked for");
        }
        Ok(Index { rows: Arc::new(rows), table_rows })
    }

    /// Rows of the table the numbers are good for.
    pub fn table_rows(&self) -> usize {
        self.table_rows
    }

    /// The row numbers.
    pub fn rows(&self) -> &[u32] {
        &self.rows
    }
}

/// `[K, N, d]`: the rows of `table` `[K, S, d]` that `index` `[K, N]` names.
pub fn gather(table: &Tensor, index: &Index) -> Result<Tensor> {
    if table.device().is_cpu() {
        apply1(table, Gather { index: index.clone() })
    } else {
        reference(table, index)
    }
}

/// The same from plain tensor operations.
pub fn reference(table: &Tensor, index: &Index) -> Result<Tensor> {
    let (replicas, size, width) = table.dims3()?;
    let count = index.rows.len() / replicas.max(1);
    let flat: Vec<u32> =
        index.rows.iter().enumerate().map(|(at, row)| (at / count.max(1) * size) as u32 + row).collect();
    let flat = Tensor::from_vec(flat, (replicas * count,), table.device())?;
    table.reshape((replicas * size, width))?.index_select(&flat, 0)?.reshape((replicas, count, width))
}

struct Gather {
    index: Index,
}

impl CustomOp1 for Gather {
    fn name(&self) -> &'static str {
        "gather"
    }

    fn cpu_fwd(&self, table: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (replicas, size, width) = layout.shape().dims3()?;
        let count = self.index.rows.len() / replicas.max(1);
        if self.index.table_rows > size {
            candle_core::bail!("an index into {} rows was used on a table of {size}", self.index.table_rows);
        }
        with_float!(table.dtype(), T => {
            let table = slice::<T>(table, layout)?;
            let mut result = Vec::with_capacity(replicas * count * width);
            for (replica, rows) in self.index.rows.chunks_exact(count.max(1)).enumerate() {
                for row in rows {
                    let start = (replica * size + *row as usize) * width;
                    result.extend_from_slice(&table[start..start + width]);
                }
            }
            Ok((candle_core::WithDType::to_cpu_storage_owned(result), Shape::from((replicas, count, width))))
        })
    }

    fn bwd(&self, table: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let gradient = gradient.contiguous()?;
        with_float!(table.dtype(), T => read::<T, _>(&gradient, |gradient| {
            let result = scatter_add(gradient, &self.index.rows, table.dims3()?);
            Ok(Some(Tensor::from_vec(result, table.shape(), table.device())?))
        }))
    }
}

fn scatter_add<T: Float>(
    gradient: &[T],
    rows: &[u32],
    (replicas, size, width): (usize, usize, usize),
) -> Vec<T> {
    let mut result = vec![T::ZERO; replicas * size * width];
    let count = rows.len() / replicas.max(1);
    vectorised(|| {
        for (at, (row, gradient)) in rows.iter().zip(gradient.chunks_exact(width)).enumerate() {
            let start = (at / count * size + *row as usize) * width;
            for (sum, value) in result[start..start + width].iter_mut().zip(gradient) {
                *sum += *value;
            }
        }
    });
    result
}
