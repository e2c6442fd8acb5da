//! What an operation sees when it runs: its numbers, and which share of the work is its own.

use std::cell::Cell;
use std::ops::Range;

use super::feed::{Feed, MicroBatch, Sequences, SlotData};
use super::memory::Shared;
use crate::float::{Float, vectorised};
use crate::program::{Node, Place, Ports, Program, Target};

/// What all operations of a micro-batch have in common.
pub(crate) struct Frame<'a, T> {
    pub program: &'a Program,
    pub parameters: &'a [T],
    pub feed: &'a Feed<T>,
    pub constants: &'a [SlotData<T>],
    /// What of the feed is run.
    pub micro_batch: MicroBatch,
    /// Whether this is the program's first micro-batch of the update.
    pub first: bool,
    /// Whether parameters' gradients are added to those of another pass of the update.
    pub continues: bool,
    pub numbers: Shared<T>,
    pub gradients: Shared<T>,
    /// One per row of outputs of the micro-batch.
    pub losses: Shared<f64>,
}

impl<T: Copy> Frame<'_, T> {
    /// The same frame once more.
    pub fn again(&self) -> Frame<'_, T> {
        Frame { ..*self }
    }
}

/// One part's scratch memory.
#[derive(Clone, Copy)]
pub(crate) struct Scratch<T> {
    pub product: Shared<T>,
    pub numbers: Shared<T>,
    pub wide: Shared<f64>,
    pub counts: [usize; 3],
}

/// One stage of one operation on one part of a team.
///
/// Every buffer may be asked for once in a stage: to read, or to write the part's own share; asking twice where one asks to
/// write panics. So safe code cannot make threads collide.
pub struct Call<'a, T> {
    pub(crate) frame: &'a Frame<'a, T>,
    pub(crate) node: &'a Node,
    pub(crate) ports: &'a Ports,
    pub(crate) part: usize,
    pub(crate) parts: usize,
    pub(crate) scratch: Scratch<T>,
    pub(crate) read: Cell<u64>,
    pub(crate) written: Cell<u64>,
}

// Bits of the buffers in the claims of a call.
const OUTPUT: u32 = 16;
const GRADIENT: u32 = 17;
const LOSSES: u32 = 18;
const PRODUCT: u32 = 19;
const SCRATCH: u32 = 20;
const WIDE: u32 = 21;
const SAVED: u32 = 22;
const TO_INPUT: u32 = 32;
const TO_PARAMETER: u32 = 48;

/// What a share of rows is made of; the same for every part of a team.
#[derive(Clone, Copy)]
enum Unit {
    /// So many rows.
    Rows(usize),
    /// The rows of a sequence's tokens.
    Sequence,
}

/// A gradient to write: `numbers` are the part's rows `rows`.
pub struct Share<'a, T> {
    /// Which rows of the buffer.
    pub rows: Range<usize>,
    /// Their numbers.
    pub numbers: &'a mut [T],
    /// Whether to add to them; else they hold rubbish.
    pub accumulate: bool,
}

impl<'a, T: Float> Call<'a, T> {
    /// Examples of the micro-batch.
    pub fn examples(&self) -> usize {
        self.frame.micro_batch.examples
    }

    /// All sequences of the feed, and which of them are the micro-batch's.
    pub fn sequences(&self) -> (&'a Sequences, Range<usize>) {
        let MicroBatch { sequence, sequences, .. } = self.frame.micro_batch;
        (&self.frame.feed.sequences, sequence..sequence + sequences)
    }

    /// The tokens of the part's share of the sequences, counted from the micro-batch's first.
    fn tokens_of_share(&self) -> Range<usize> {
        let (all, own) = self.sequences();
        let share = self.share_of(own.len());
        let place = |sequence: usize| match sequence {
            0 => 0,
            _ => all.tokens(own.start + sequence - 1).end - self.frame.micro_batch.start,
        };
        place(share.start)..place(share.end)
    }

    /// Parts of the team.
    pub fn parts(&self) -> usize {
        self.parts
    }

    /// Whether this part does what is not shared.
    pub fn is_first_part(&self) -> bool {
        self.part == 0
    }

    /// The sum of losses is multiplied by this.
    pub fn loss_scale(&self) -> f64 {
        self.frame.feed.loss_scale
    }

    fn claim(&self, bit: u32, write: bool) {
        let bit = 1u64 << bit;
        let taken = if write { self.read.get() | self.written.get() } else { self.written.get() };
        assert!(taken & bit == 0, "`{}` asked twice for a buffer it writes", self.node.operation.name());
        let claims = if write { &self.written } else { &self.read };
        claims.set(claims.get() | bit);
    }

    /// The part's share of `units` things, in order.
    pub fn share_of(&self, units: usize) -> Range<usize> {
        self.part * units / self.parts..(self.part + 1) * units / self.parts
    }

    #[allow(unsafe_code, reason = "the only way to the numbers a team shares")]
    fn read_place(&self, bit: u32, place: Place) -> &'a [T] {
        self.claim(bit, false);
        // SAFETY: places that are live at the same time do not overlap (the plan), a buffer read in a stage is written by
        // no part in it (every part runs the same code and the claims forbid both), and the frame borrows the workspace for 'a.
        unsafe { self.frame.numbers.read(place.offset, place.extent.count(self.frame.micro_batch.examples)) }
    }

    /// The part's share of a place, split at whole `unit`s of rows.
    #[allow(unsafe_code, reason = "the only way to the numbers a team shares")]
    fn write_place(&self, bit: u32, place: Place, unit: Unit) -> (Range<usize>, &'a mut [T]) {
        self.claim(bit, true);
        let rows = |examples: usize| place.extent.rows.count(examples);
        let share = match unit {
            Unit::Rows(unit) => {
                let share = self.share_of(rows(self.frame.micro_batch.examples) / unit);
                share.start * unit..share.end * unit
            }
            Unit::Sequence => {
                let tokens = self.tokens_of_share();
                rows(tokens.start)..rows(tokens.end)
            }
        };
        let width = place.extent.width;
        // SAFETY: as for reading; shares of different parts do not overlap, and the claim is the part's first.
        let numbers =
            unsafe { self.frame.numbers.write(place.offset + share.start * width, share.len() * width) };
        (share, numbers)
    }

    fn target(&self, target: Target) -> (Place, bool) {
        (target.place, target.accumulate || (target.over_micro_batches && !self.frame.first))
    }

    /// Input number `input`, all rows.
    pub fn input(&self, input: usize) -> &'a [T] {
        self.read_place(input as u32, self.ports.inputs[input])
    }

    /// Numbers per row of an input.
    pub fn input_width(&self, input: usize) -> usize {
        self.ports.inputs[input].extent.width
    }

    /// Rows of an input in this micro-batch.
    pub fn input_rows(&self, input: usize) -> usize {
        self.ports.inputs[input].extent.rows.count(self.frame.micro_batch.examples)
    }

    /// Rows and numbers per row of the output in this micro-batch.
    pub fn output_size(&self) -> (usize, usize) {
        let extent = self.ports.output.extent;
        (extent.rows.count(self.frame.micro_batch.examples), extent.width)
    }

    /// The output, all rows, to read.
    pub fn output(&self) -> &'a [T] {
        self.read_place(OUTPUT, self.ports.output)
    }

    /// The part's rows of the output, to write.
    pub fn output_share(&self) -> (Range<usize>, &'a mut [T]) {
        self.write_place(OUTPUT, self.ports.output, Unit::Rows(1))
    }

    /// The part's rows of the output in whole units of this many rows.
    pub fn output_share_by(&self, unit: usize) -> (Range<usize>, &'a mut [T]) {
        self.write_place(OUTPUT, self.ports.output, Unit::Rows(unit))
    }

    /// The same for the tokens of the part's sequences.
    pub fn output_share_by_sequence(&self) -> (Range<usize>, &'a mut [T]) {
        self.write_place(OUTPUT, self.ports.output, Unit::Sequence)
    }

    /// Saved buffer number `saved`, to read.
    pub fn saved(&self, saved: usize) -> &'a [T] {
        self.read_place(SAVED + saved as u32, self.ports.saved[saved])
    }

    /// The part's rows of a saved buffer, in whole units of this many rows.
    pub fn saved_share_by(&self, saved: usize, unit: usize) -> (Range<usize>, &'a mut [T]) {
        self.write_place(SAVED + saved as u32, self.ports.saved[saved], Unit::Rows(unit))
    }

    /// The same for the tokens of the part's sequences.
    pub fn saved_share_by_sequence(&self, saved: usize) -> (Range<usize>, &'a mut [T]) {
        self.write_place(SAVED + saved as u32, self.ports.saved[saved], Unit::Sequence)
    }

    /// Gradient of the output, all rows, to read.
    pub fn gradient(&self) -> &'a [T] {
        self.read_place(GRADIENT, self.ports.gradient)
    }

    /// The part's rows of the gradient of the output, to change in place (nobody reads it afterwards).
    pub fn gradient_share(&self) -> (Range<usize>, &'a mut [T]) {
        self.write_place(GRADIENT, self.ports.gradient, Unit::Rows(1))
    }

    /// Whether the gradient of an input that may be skipped is needed.
    pub fn needs_gradient(&self, input: usize) -> bool {
        self.ports.to_inputs[input].is_some()
    }

    /// The part's rows of the gradient of an input.
    pub fn to_input(&self, input: usize) -> Share<'a, T> {
        self.to_input_by(input, 1)
    }

    /// The same in whole units of this many rows.
    pub fn to_input_by(&self, input: usize, unit: usize) -> Share<'a, T> {
        self.to_input_in(input, Unit::Rows(unit))
    }

    /// The same for the tokens of the part's sequences.
    pub fn to_input_by_sequence(&self, input: usize) -> Share<'a, T> {
        self.to_input_in(input, Unit::Sequence)
    }

    fn to_input_in(&self, input: usize, unit: Unit) -> Share<'a, T> {
        let Some(target) = self.ports.to_inputs[input] else {
            unreachable!("the gradient of input {input} of `{}` is handed on", self.node.operation.name())
        };
        let (place, accumulate) = self.target(target);
        let (rows, numbers) = self.write_place(TO_INPUT + input as u32, place, unit);
        Share { rows, numbers, accumulate }
    }

    /// All rows of the gradient of an input, for the first part only: others get `None` and have nothing to do.
    #[allow(unsafe_code, reason = "the only way to the numbers a team shares")]
    pub fn to_whole_input(&self, input: usize) -> Option<Share<'a, T>> {
        let (place, accumulate) = self.target(self.ports.to_inputs[input]?);
        self.claim(TO_INPUT + input as u32, true);
        if self.part != 0 {
            return None;
        }
        let rows = place.extent.rows.count(self.frame.micro_batch.examples);
        // SAFETY: as for `write_place`: only the first part gets here, and all parts run the same code.
        let numbers = unsafe { self.frame.numbers.write(place.offset, rows * place.extent.width) };
        Some(Share { rows: 0..rows, numbers, accumulate })
    }

    /// Adds the gradient of the output to that of the input it is handed on to.
    pub(crate) fn add_through(&self) {
        let Some(target) = self.ports.add_through else { return };
        let (rows, numbers) = self.write_place(TO_INPUT, target.place, Unit::Rows(1));
        let gradient = self.gradient();
        let from = rows.start * target.place.extent.width;
        vectorised(
            #[inline(always)]
            || {
                for (sum, number) in numbers.iter_mut().zip(&gradient[from..]) {
                    *sum += *number;
                }
            },
        );
    }

    /// Whether the operation was given a parameter of this number.
    pub fn has_parameter(&self, parameter: usize) -> bool {
        parameter < self.ports.parameters.len()
    }

    /// A parameter.
    pub fn parameter(&self, parameter: usize) -> &'a [T] {
        let (offset, count) = self.ports.parameters[parameter];
        &self.frame.parameters[offset..offset + count]
    }

    /// The part's share of a parameter's gradient, as rows of this width.
    #[allow(unsafe_code, reason = "the only way to the numbers a team shares")]
    pub fn to_parameter(&self, parameter: usize, width: usize) -> Share<'a, T> {
        self.claim(TO_PARAMETER + parameter as u32, true);
        let (offset, count) = self.ports.parameters[parameter];
        let rows = self.share_of(count / width);
        // SAFETY: parameters do not overlap, shares of different parts do not, and the claim is the part's first.
        let numbers = unsafe { self.frame.gradients.write(offset + rows.start * width, rows.len() * width) };
        let accumulate = self.ports.to_parameters[parameter]
            || self.frame.continues
            || (self.is_per_example() && !self.frame.first);
        Share { rows, numbers, accumulate }
    }

    /// Whether the operation runs once per micro-batch.
    fn is_per_example(&self) -> bool {
        self.ports.output.extent.rows.is_per_example()
    }

    /// Whether the operation was given a slot of this number.
    pub fn has_slot(&self, slot: usize) -> bool {
        slot < self.node.slots.len()
    }

    fn slot(&self, slot: usize) -> (&'a SlotData<T>, Range<usize>) {
        let place = self.node.slots[slot];
        let specification = &self.frame.program.slots[place];
        let extent = specification.extent;
        if specification.content.is_some() {
            return (&self.frame.constants[place], 0..extent.count(0));
        }
        let start = extent.count(self.frame.micro_batch.start);
        let per_example = extent.rows.is_per_example();
        let start = if per_example { start } else { 0 };
        (&self.frame.feed.slots[place], start..start + extent.count(self.frame.micro_batch.examples))
    }

    /// Row or class numbers of a slot, of this micro-batch.
    pub fn ids(&self, slot: usize) -> &'a [u32] {
        match self.slot(slot) {
            (SlotData::Ids(ids), range) => &ids[range],
            _ => unreachable!("`{}` was not fed row numbers", self.node.operation.name()),
        }
    }

    /// Numbers of a slot, of this micro-batch.
    pub fn numbers(&self, slot: usize) -> &'a [T] {
        match self.slot(slot) {
            (SlotData::Numbers(numbers), range) => &numbers[range],
            _ => unreachable!("`{}` was not fed numbers", self.node.operation.name()),
        }
    }

    /// All numbers of a slot, of the whole feed.
    pub fn all_numbers(&self, slot: usize) -> &'a [T] {
        match &self.frame.feed.slots[self.node.slots[slot]] {
            SlotData::Numbers(numbers) => numbers,
            _ => unreachable!("`{}` was not fed numbers", self.node.operation.name()),
        }
    }

    /// The part's rows of losses; one per row of outputs.
    #[allow(unsafe_code, reason = "the only way to the numbers a team shares")]
    pub fn losses_share(&self) -> (Range<usize>, &'a mut [f64]) {
        self.claim(LOSSES, true);
        let rows =
            self.share_of(self.frame.program.outputs.extent.rows.count(self.frame.micro_batch.examples));
        // SAFETY: shares of different parts do not overlap, and the claim is the part's first.
        let losses = unsafe { self.frame.losses.write(rows.start, rows.len()) };
        (rows, losses)
    }

    /// Scratch memory for packing an operand of a matrix product.
    #[allow(unsafe_code, reason = "scratch memory belongs to one part")]
    pub fn product_scratch(&self) -> &'a mut [T] {
        self.claim(PRODUCT, true);
        // SAFETY: every part has its own scratch memory, and the claim is its first.
        unsafe { self.scratch.product.write(0, self.scratch.counts[0]) }
    }

    /// The operation's own scratch memory, at least as much as it asked for.
    #[allow(unsafe_code, reason = "scratch memory belongs to one part")]
    pub fn scratch(&self) -> &'a mut [T] {
        self.claim(SCRATCH, true);
        // SAFETY: every part has its own scratch memory, and the claim is its first.
        unsafe { self.scratch.numbers.write(0, self.scratch.counts[1]) }
    }

    /// The operation's own 64-bit scratch memory, at least as much as it asked for.
    #[allow(unsafe_code, reason = "scratch memory belongs to one part")]
    pub fn wide_scratch(&self) -> &'a mut [f64] {
        self.claim(WIDE, true);
        // SAFETY: every part has its own scratch memory, and the claim is its first.
        unsafe { self.scratch.wide.write(0, self.scratch.counts[2]) }
    }
}
