//! Which row of a value stands for which position of which example.
//!
//! Rows that many examples share (embeddings of a first block, token types in count space) are computed once and looked up
//! by position. Owns the maps and how they are resolved on a processor and in the reference; knows nothing of what is done
//! with the rows.

use candle_core::{Result, Tensor};

use crate::cpu::Call;
use crate::float::Float;
use crate::program::reference::Given;
use crate::program::{Extent, Graph, Rows, SlotKind, Value};

/// Which row of a value position t of example e is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowMap {
    /// Of `PerExample(n)` rows the example's own row t; as many positions as rows.
    Own,
    /// Of `PerExample(n)` rows the example's last; one position.
    Last,
    /// Of `Fixed` rows row t, the same for every example.
    InOrder,
    /// Of `Fixed` rows the one this slot (`PerExample(positions)`, one row number each) names.
    Table(usize),
    /// Of `PerExample(n)` rows the example's own row that this slot (as above) names, counted from the example's first.
    OwnChosen(usize),
}

impl RowMap {
    /// Checks that the map is one into `value`'s rows, and adds its slot to those of the operation being recorded.
    pub(crate) fn record(
        self,
        graph: &Graph,
        value: Value,
        positions: usize,
        slots: &mut Vec<usize>,
    ) -> Result<RowIndex> {
        let rows = graph.extent(value).rows;
        let fits = match (self, rows) {
            (RowMap::Own, Rows::PerExample(count)) => count == positions,
            (RowMap::Last, Rows::PerExample(count)) => count > 0 && positions == 1,
            (RowMap::InOrder, Rows::Fixed(count)) => positions <= count,
            (RowMap::Table(_), Rows::Fixed(_)) | (RowMap::OwnChosen(_), Rows::PerExample(_)) => true,
            _ => false,
        };
        if !fits {
            candle_core::bail!("{positions} positions an example cannot be mapped to {rows:?} by {self:?}");
        }
        let slot = match self {
            RowMap::Table(slot) | RowMap::OwnChosen(slot) => {
                let expected = Extent { rows: Rows::PerExample(positions), width: 1 };
                if graph.slot_extent(slot) != expected || graph.slots[slot].kind != SlotKind::Ids {
                    candle_core::bail!("slot {slot} does not hold {positions} row numbers an example");
                }
                slots.push(slot);
                Some(slots.len() - 1)
            }
            RowMap::Own | RowMap::Last | RowMap::InOrder => None,
        };
        let (per_example, first) = match (self, rows) {
            (RowMap::Last, Rows::PerExample(count)) => (count, count - 1),
            (_, Rows::PerExample(count)) => (count, 0),
            (_, Rows::Fixed(_)) => (0, 0),
        };
        Ok(RowIndex { map: self, positions, per_example, first, slot })
    }
}

/// A [`RowMap`] inside an operation.
#[derive(Clone, Copy, Debug)]
pub struct RowIndex {
    map: RowMap,
    positions: usize,
    /// Rows of the value per example; 0: fixed rows.
    per_example: usize,
    /// Added to a position's number where no slot names the row.
    first: usize,
    /// Number of the slot among the operation's.
    slot: Option<usize>,
}

impl RowIndex {
    /// The map, with the slot's place in the program.
    pub fn map(&self) -> RowMap {
        self.map
    }

    /// Number of the slot among the operation's, where there is one.
    pub fn slot(&self) -> Option<usize> {
        self.slot
    }

    /// Positions per example.
    pub fn positions(&self) -> usize {
        self.positions
    }

    /// Rows of the value per example; `None` where examples share them, so that their gradients meet.
    pub fn rows_per_example(&self) -> Option<usize> {
        (self.per_example > 0).then_some(self.per_example)
    }

    /// Whether every row is one position of one example.
    pub fn is_one_to_one(&self) -> bool {
        self.map == RowMap::Own || (self.map == RowMap::Last && self.per_example == 1)
    }

    /// The map with the row numbers of some examples.
    pub fn with_ids(self, ids: Option<&[u32]>) -> RowsOfCall<'_> {
        RowsOfCall { ids, positions: self.positions, per_example: self.per_example, first: self.first }
    }

    /// The map for the examples of a call.
    pub fn of<'a, T: Float>(&self, call: &Call<'a, T>) -> RowsOfCall<'a> {
        RowsOfCall {
            ids: self.slot.map(|slot| call.ids(slot)),
            positions: self.positions,
            per_example: self.per_example,
            first: self.first,
        }
    }

    /// The rows of input number `input` by position, `[K, examples positions, width]`, from plain tensor operations.
    pub fn reference(&self, given: &Given<'_>, input: usize) -> Result<Tensor> {
        let table = given.input(input);
        let (replicas, size, width) = table.dims3()?;
        let count = given.examples * self.positions;
        let ids = match self.slot {
            Some(slot) => Some(given.ids(slot)?),
            None => None,
        };
        let mut rows = Vec::with_capacity(replicas * count);
        for replica in 0..replicas {
            let map = RowsOfCall {
                ids: ids.map(|ids| &ids[replica * count..(replica + 1) * count]),
                positions: self.positions,
                per_example: self.per_example,
                first: self.first,
            };
            for example in 0..given.examples {
                rows.extend((0..self.positions).map(|at| (replica * size + map.row(example, at)) as u32));
            }
        }
        let rows = Tensor::from_vec(rows, (replicas * count,), table.device())?;
        table.reshape((replicas * size, width))?.index_select(&rows, 0)?.reshape((replicas, count, width))
    }
}

/// A [`RowIndex`] with the row numbers of a micro-batch.
#[derive(Clone, Copy, Debug)]
pub struct RowsOfCall<'a> {
    ids: Option<&'a [u32]>,
    positions: usize,
    per_example: usize,
    first: usize,
}

impl RowsOfCall<'_> {
    /// The row of position `position` of example `example` of the micro-batch.
    #[inline(always)]
    pub fn row(&self, example: usize, position: usize) -> usize {
        let own = match self.ids {
            Some(ids) => ids[example * self.positions + position] as usize,
            None => position + self.first,
        };
        example * self.per_example + own
    }
}
