//! A model as a program: the fused operations of one update, recorded once, with every buffer planned.
//!
//! A model file records its forward pass into a [`Graph`]; [`Graph::finish`] orders the operations, derives the backward
//! pass and gives every value a place in one workspace, reusing places whose values are dead. What comes out, the
//! [`Program`], holds no numbers and is shared by all replicas and devices. Running it allocates nothing.
//!
//! The rows of a value either belong to the examples of a micro-batch or are the same for all of them (a table of
//! embedded tokens, say). Operations of the second kind run once an update, the others once per micro-batch, whose
//! gradients add up in the order of the examples. The size of a micro-batch is a property of the program (it is chosen for
//! the processor's cache from shapes alone), so no result depends on who runs it.
//!
//! Owns shapes, order, lifetimes and places. Knows no device: [`crate::cpu`] runs programs on processors, `crate::cuda` on cards,
//! [`mod@reference`] by plain tensor operations.

mod graph;
mod plan;
pub mod reference;

pub use graph::{Graph, Node, Operation, SlotContent, SlotKind, SlotSpecification, Source, Value};
pub use plan::{Layout, Place, Ports, Program, Ragged, Target};

/// How many rows a value has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rows {
    /// This many, whatever the batch.
    Fixed(usize),
    /// This many for each example of the micro-batch, example by example.
    PerExample(usize),
}

impl Rows {
    /// Rows in a micro-batch of `examples`.
    pub fn count(self, examples: usize) -> usize {
        match self {
            Rows::Fixed(rows) => rows,
            Rows::PerExample(rows) => rows * examples,
        }
    }

    /// Whether every micro-batch has its own.
    pub fn is_per_example(self) -> bool {
        matches!(self, Rows::PerExample(_))
    }
}

/// Rows and numbers per row of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Extent {
    /// Rows.
    pub rows: Rows,
    /// Numbers per row.
    pub width: usize,
}

impl Extent {
    /// Numbers in a micro-batch of `examples`.
    pub fn count(self, examples: usize) -> usize {
        self.rows.count(examples) * self.width
    }
}
