//! Embeddings: rows of a table by token, plus rows of another by position.

use std::any::Any;

use candle_core::{Result, Tensor};

use crate::cpu::{Call, CpuOperation, Share};
use crate::float::{Float, vectorised};
use crate::program::reference::Given;
use crate::program::{Extent, Graph, Operation, Rows, SlotKind, Value};

/// The positions of an example's rows (or of all rows, where they are fixed).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowPositions {
    /// These.
    Known(Vec<u32>),
    /// Those in this slot of row numbers, the same for all examples or each row's own.
    Slot(usize),
}

/// What is added per position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Positional {
    /// Nothing.
    None,
    /// A row of this parameter.
    Learned(usize),
    /// A row of this constant slot of numbers.
    Constant(usize),
}

/// `factor tokens[id] + positions[position]`. Parameters: the token table, then the learned positions. Slots: token ids, then the
/// positions of the rows (one for each row of an example, or of the fixed rows), then constant positions.
#[derive(Debug)]
pub struct Embedding {
    width: usize,
    positional: Positional,
    factor: f64,
}

impl Graph {
    /// A row for each id of slot `ids`, plus what belongs to its position.
    pub fn embedding(
        &mut self,
        tokens: usize,
        ids: usize,
        positional: Positional,
        positions: RowPositions,
    ) -> Result<Value> {
        self.scaled_embedding((tokens, 1.0), ids, positional, positions)
    }

    /// The same with the rows of the token table, but not those of positions, times a factor.
    pub fn scaled_embedding(
        &mut self,
        (tokens, factor): (usize, f64),
        ids: usize,
        positional: Positional,
        positions: RowPositions,
    ) -> Result<Value> {
        let (shape, extent) = (self.parameter_shape(tokens).to_vec(), self.slot_extent(ids));
        let [_, width] = shape[..] else { candle_core::bail!("an embedding of a table of shape {shape:?}") };
        let (Rows::Fixed(rows) | Rows::PerExample(rows)) = extent.rows;
        let table = match positional {
            Positional::None => None,
            Positional::Learned(parameter) => match self.parameter_shape(parameter) {
                [length, own] if *own == width => Some(*length),
                shape => candle_core::bail!("positions of {shape:?} for embeddings of {width}"),
            },
            Positional::Constant(slot) => Some(self.slot_extent(slot).rows.count(0)),
        };
        let fits = table.is_none_or(|table| match &positions {
            RowPositions::Known(positions) => {
                positions.len() == rows && positions.iter().all(|position| (*position as usize) < table)
            }
            RowPositions::Slot(slot) => {
                let own = self.slot_extent(*slot);
                (own.rows == Rows::Fixed(rows) || own.rows == extent.rows)
                    && own.width == 1
                    && self.slots[*slot].kind == SlotKind::Ids
            }
        });
        if !fits || extent.width != 1 || self.slots[ids].kind != SlotKind::Ids {
            candle_core::bail!("positions or ids do not fit an embedding of {extent:?}");
        }
        let mut parameters = vec![tokens];
        let mut slots = vec![ids];
        if positional != Positional::None {
            slots.push(match positions {
                RowPositions::Known(positions) => self.constant_ids("positions of the rows", 1, positions),
                RowPositions::Slot(slot) => slot,
            });
        }
        match positional {
            Positional::None => {}
            Positional::Learned(parameter) => parameters.push(parameter),
            Positional::Constant(slot) => slots.push(slot),
        }
        let operation = Embedding { width, positional, factor };
        Ok(self.record(operation, &[], &parameters, &slots, Extent { rows: extent.rows, width }))
    }
}

impl Embedding {
    /// What is added per position.
    pub fn positional(&self) -> Positional {
        self.positional
    }

    /// What rows of the token table are multiplied by.
    pub fn factor(&self) -> f64 {
        self.factor
    }

    fn row<'a, T>(&self, table: &'a [T], row: u32) -> &'a [T] {
        &table[row as usize * self.width..][..self.width]
    }

    /// Adds the rows of a gradient, times a factor, to the rows of its share of a table, in order.
    fn scatter<T: Float>(
        &self,
        share: Share<'_, T>,
        (gradient, factor): (&[T], f64),
        ids: impl Iterator<Item = u32>,
    ) {
        let factor = T::of(factor);
        if !share.accumulate {
            share.numbers.fill(T::ZERO);
        }
        vectorised(
            #[inline(always)]
            || {
                for (id, gradient) in ids.zip(gradient.chunks_exact(self.width)) {
                    if share.rows.contains(&(id as usize)) {
                        let at = (id as usize - share.rows.start) * self.width;
                        for (sum, number) in share.numbers[at..at + self.width].iter_mut().zip(gradient) {
                            *sum += *number * factor;
                        }
                    }
                }
            },
        );
    }
}

impl CpuOperation for Embedding {
    fn forward<T: Float>(&self, _: usize, call: &Call<'_, T>) {
        let (rows, result) = call.output_share();
        let (tokens, ids) = (call.parameter(0), &call.ids(0)[rows.clone()]);
        let added = match self.positional {
            Positional::None => None,
            Positional::Learned(_) => Some((call.parameter(1), call.ids(1))),
            Positional::Constant(_) => Some((call.numbers(2), call.ids(1))),
        };
        let factor = T::of(self.factor);
        vectorised(
            #[inline(always)]
            || {
                for ((row, result), id) in rows.zip(result.chunks_exact_mut(self.width)).zip(ids) {
                    let token = self.row(tokens, *id);
                    match added {
                        None => {
                            for (result, token) in result.iter_mut().zip(token) {
                                *result = *token * factor;
                            }
                        }
                        Some((table, positions)) => {
                            let position = self.row(table, positions[row % positions.len()]);
                            for ((result, token), position) in result.iter_mut().zip(token).zip(position) {
                                *result = *token * factor + *position;
                            }
                        }
                    }
                }
            },
        );
    }

    fn backward<T: Float>(&self, _: usize, call: &Call<'_, T>) {
        let gradient = call.gradient();
        let tokens = call.ids(0).iter().copied();
        self.scatter(call.to_parameter(0, self.width), (gradient, self.factor), tokens);
        if let Positional::Learned(_) = self.positional {
            let positions = call.ids(1).iter().copied().cycle();
            self.scatter(call.to_parameter(1, self.width), (gradient, 1.0), positions);
        }
    }
}

/// `[K, N, width]`: the rows of `table` `[K, S, width]` that `ids` `[K, N]` name.
fn reference_rows(table: &Tensor, ids: &[u32]) -> Result<Tensor> {
    let (replicas, size, width) = table.dims3()?;
    let count = ids.len() / replicas.max(1);
    let rows: Vec<u32> =
        ids.iter().enumerate().map(|(at, id)| (at / count.max(1) * size) as u32 + id).collect();
    let rows = Tensor::from_vec(rows, (replicas * count,), table.device())?;
    table.reshape((replicas * size, width))?.index_select(&rows, 0)?.reshape((replicas, count, width))
}

impl Operation for Embedding {
    fn name(&self) -> &'static str {
        "embedding"
    }

    fn keeps_input(&self, _: usize) -> bool {
        false
    }

    fn reference(&self, given: &Given<'_>) -> Result<Tensor> {
        let tokens = (reference_rows(given.parameter(0), given.ids(0)?)? * self.factor)?;
        let rows = tokens.dim(1)?;
        // The positions are the same in every replica and repeat with the examples.
        let positions = |table: &Tensor| {
            let own = given.ids(1)?;
            let own = &own[..own.len() / given.replicas];
            let all: Vec<u32> =
                (0..given.replicas).flat_map(|_| own.iter().copied().cycle().take(rows)).collect();
            reference_rows(table, &all)
        };
        match self.positional {
            Positional::None => Ok(tokens),
            Positional::Learned(_) => tokens + positions(given.parameter(1))?,
            Positional::Constant(_) => tokens + positions(given.numbers(2)?)?,
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}
