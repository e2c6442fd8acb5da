//! From a program to commands: where every buffer of K replicas lies, and what an operation sees of its own.

use std::mem::size_of;

use super::commands::{Argument, Commands, Product, arguments};
use super::error::CudaError;
use super::memory::Memory;
use crate::optimizer::Stretch;
use crate::program::{Layout, Node, Place, Ports, Program};

/// Parameters begin at multiples of 2^ALIGNMENT_BITS numbers on a card, so that matrix products can read whole vectors and one
/// mark says of that many numbers whether they decay.
pub(super) const ALIGNMENT_BITS: u32 = 5;
const ALIGNMENT: usize = 1 << ALIGNMENT_BITS;

/// Most segments that rows are divided into for sums.
const SEGMENTS: usize = 64;

/// Threads of a block for work number by number.
pub(super) const THREADS: usize = 256;

/// Where the parameters of a replica lie on a card: in the program's order, with gaps.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct CardLayout {
    /// First number of each parameter in the program's layout, and on the card.
    places: Vec<(usize, usize)>,
    counts: Vec<usize>,
    /// Numbers of a replica, gaps included.
    pub stride: usize,
}

impl CardLayout {
    pub fn new(layout: &Layout) -> Self {
        let (mut places, mut counts, mut next) = (Vec::new(), Vec::new(), 0usize);
        for parameter in 0..layout.parameters.len() {
            let range = layout.range(parameter);
            places.push((range.start, next));
            counts.push(range.len());
            next = (next + range.len()).next_multiple_of(ALIGNMENT);
        }
        CardLayout { places, counts, stride: next.max(ALIGNMENT) }
    }

    /// The card's place of the parameter that begins at `offset` of the program's layout.
    fn place(&self, offset: usize) -> usize {
        let at = self.places.partition_point(|(own, _)| *own <= offset).saturating_sub(1);
        self.places.get(at).map_or(0, |(own, place)| place + (offset - own))
    }

    /// Spreads a replica's numbers in the program's layout over the card's.
    pub fn spread(&self, numbers: &[f32]) -> Vec<f32> {
        let mut spread = vec![0.0; self.stride];
        for ((from, to), count) in self.places.iter().zip(&self.counts) {
            spread[*to..to + count].copy_from_slice(&numbers[*from..from + count]);
        }
        spread
    }

    /// How many numbers the program's layout has.
    pub fn count(&self) -> usize {
        self.counts.iter().sum()
    }

    /// One mark for every 2^[`ALIGNMENT_BITS`] numbers: whether they decay, given that of the program's layout.
    pub fn decays(&self, stretches: &[Stretch]) -> Vec<u8> {
        let mut marks = vec![1; self.stride / ALIGNMENT];
        for ((from, to), count) in self.places.iter().zip(&self.counts) {
            let known = stretches.iter().find(|stretch| *from < stretch.end);
            let decays = known.is_none_or(|stretch| stretch.decays);
            marks[to / ALIGNMENT..(to + count).div_ceil(ALIGNMENT)].fill(u8::from(decays));
        }
        marks
    }

    /// The way back.
    pub fn gather(&self, spread: &[f32]) -> Vec<f32> {
        let mut numbers = Vec::with_capacity(self.counts.iter().sum());
        for ((_, from), count) in self.places.iter().zip(&self.counts) {
            numbers.extend_from_slice(&spread[*from..from + count]);
        }
        numbers
    }
}

/// Numbers of K replicas, one after another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Buffer {
    pub address: u64,
    /// Rows of one replica.
    pub rows: usize,
    pub width: usize,
}

impl Buffer {
    /// Numbers between replicas.
    pub fn stride(&self) -> i64 {
        (self.rows * self.width) as i64
    }

    /// Numbers of one replica.
    pub fn count(&self) -> usize {
        self.rows * self.width
    }
}

/// A slot's numbers for the examples at hand: address of the first replica's, and the distance between replicas in numbers
/// (0 where all share one).
#[derive(Clone, Copy, Debug)]
pub(super) struct SlotPlace {
    pub address: u64,
    pub distance: i64,
}

/// A parameter of the first replica; [`Lowering::stride`] further on is the next replica's.
#[derive(Clone, Copy, Debug)]
pub(super) struct ParameterPlace {
    pub address: u64,
    /// For gradients: whether to add to what is there.
    pub accumulate: bool,
}

/// Device addresses of everything a program's commands refer to.
#[derive(Clone, Debug, Default)]
pub(super) struct Addresses {
    pub parameters: u64,
    pub gradients: u64,
    /// The workspace of K replicas.
    pub numbers: u64,
    /// 64-bit losses of the rows of the batch in this pass, and the distance between replicas.
    pub losses: u64,
    pub losses_distance: usize,
    /// 64-bit loss scales, `[K]`.
    pub scales: u64,
    /// By slot, for the whole batch.
    pub slots: Vec<SlotPlace>,
    /// Memory an operation may use while it runs.
    pub scratch: u64,
    /// Partial sums.
    pub partial: u64,
}

/// Partial sums to be added to a parameter's gradient; as `PartialSum` of `sums.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct PartialSum {
    pub partial: i64,
    pub partial_stride: i64,
    pub target: i64,
    pub width: i64,
    pub segments: i32,
    pub padding: i32,
}

/// Which row of a value each place of a list stands for; as `RowMap` of `common.cuh`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RowMapCall {
    pub table: u64,
    pub distance: i64,
    pub positions: i32,
    pub table_step: i32,
    pub rows_per_group: i32,
    pub first: i32,
}

/// A call of FIRE, or the places of the gradients of its parameters; as `Fire` of `fire.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FireCall {
    /// c, m, hidden weight and bias, output weight and bias.
    pub parameters: [u64; 6],
    pub stride: i64,
    pub positions: u64,
    pub distance: i64,
    pub length: f64,
    pub units: i32,
    pub heads: i32,
    pub tokens: i32,
    pub padding: i32,
}

/// A call of attention; as `Attention` of `attention.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct AttentionCall {
    pub query_map: RowMapCall,
    pub key_map: RowMapCall,
    pub bias_distance: i64,
    pub dropout_distance: i64,
    pub bias: u64,
    pub dropout: u64,
    pub logit_bias_distance: i64,
    pub logit_bias: u64,
    pub examples: i32,
    pub queries: i32,
    pub keys: i32,
    pub heads: i32,
    pub head: i32,
    pub query_rows: i32,
    pub key_rows: i32,
    pub causal: i32,
    pub scale: f32,
    pub first: i32,
    pub count: i32,
    pub padding: i32,
}

// SAFETY: plain numbers in the order and with the alignment of the source's structures, without gaps.
#[allow(unsafe_code, reason = "promises something about the layout of types")]
mod structures {
    unsafe impl super::Argument for super::RowMapCall {}
    unsafe impl super::Argument for super::FireCall {}
    unsafe impl super::Argument for super::AttentionCall {}
}

/// The examples commands are made for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Examples {
    /// First example of the micro-batch in the batch.
    pub start: usize,
    /// How many.
    pub count: usize,
}

/// Makes commands for the operations of a program.
pub(super) struct Lowering<'a> {
    pub program: &'a Program,
    pub layout: &'a CardLayout,
    pub replicas: usize,
    pub addresses: &'a Addresses,
    pub commands: &'a mut Commands,
    /// Bytes of scratch memory the present operation has taken, and the most any took.
    scratch: usize,
    pub most_scratch: usize,
    /// Numbers of partial sums that are waiting, and the most that ever did.
    partial: usize,
    pub most_partial: usize,
    /// Sums to finish, in rounds: no round has two of one parameter.
    rounds: Vec<Vec<PartialSum>>,
    /// Where lists of sums to finish are kept; nowhere while commands are only counted.
    lists: Option<&'a mut Vec<Memory>>,
    /// Whether parameters' gradients are added to those of another pass of the update.
    continues: bool,
}

impl<'a> Lowering<'a> {
    pub fn new(
        program: &'a Program,
        layout: &'a CardLayout,
        replicas: usize,
        addresses: &'a Addresses,
        commands: &'a mut Commands,
        lists: Option<&'a mut Vec<Memory>>,
    ) -> Self {
        Lowering {
            program,
            layout,
            replicas,
            addresses,
            commands,
            scratch: 0,
            most_scratch: 0,
            partial: 0,
            most_partial: 0,
            rounds: Vec::new(),
            lists,
            continues: false,
        }
    }

    /// The same for a pass whose gradients are added to those of the passes before.
    pub fn continuing(self, continues: bool) -> Self {
        Lowering { continues, ..self }
    }

    /// Appends adding up the partial sums that are waiting to the gradients.
    pub fn finish_sums(&mut self) -> Result<(), CudaError> {
        self.partial = 0;
        for round in std::mem::take(&mut self.rounds) {
            let Some(lists) = &mut self.lists else { continue };
            let words: Vec<i64> = round
                .iter()
                .flat_map(|sum| {
                    [sum.partial, sum.partial_stride, sum.target, sum.width, i64::from(sum.segments)]
                })
                .collect();
            let list = Memory::zeroed(self.commands.device(), words.len() * 8)?;
            list.write(0, &words)?;
            let widest = round.iter().map(|sum| sum.width as usize).max().unwrap_or(0);
            let grid = (widest.div_ceil(THREADS), round.len(), self.replicas);
            let stride = self.layout.stride as i64;
            let all = arguments![self.addresses.gradients, stride, self.addresses.partial, list.at(0)];
            self.commands.launch("finish_sums", grid, (THREADS as u32, 1, 1), all)?;
            lists.push(list);
        }
        Ok(())
    }

    /// An operation's view of its buffers, for these examples.
    pub fn call<'b>(&'b mut self, node: &'b Node, ports: &'b Ports, examples: Examples) -> Call<'b, 'a> {
        self.scratch = 0;
        Call { lowering: self, node, ports, examples }
    }

    /// Adds the gradient of a result to that of the input it is handed on to, where the program asks for that.
    pub fn add_through(&mut self, node: &Node, ports: &Ports, examples: Examples) -> Result<(), CudaError> {
        let Some(target) = ports.add_through else { return Ok(()) };
        let call = self.call(node, ports, examples);
        let (sum, gradient) = (call.buffer(target.place), call.gradient());
        let numbers = sum.count() * call.replicas();
        let grid = (numbers.div_ceil(THREADS), 1, 1);
        let arguments = arguments![sum.address, sum.address, gradient.address, numbers as i64];
        self.commands.launch("add", grid, (THREADS as u32, 1, 1), arguments)
    }
}

/// What an operation sees of its own while it is turned into commands.
pub(super) struct Call<'b, 'a> {
    lowering: &'b mut Lowering<'a>,
    node: &'b Node,
    ports: &'b Ports,
    examples: Examples,
}

impl Call<'_, '_> {
    /// K.
    pub fn replicas(&self) -> usize {
        self.lowering.replicas
    }

    /// Examples of the micro-batch.
    pub fn examples(&self) -> usize {
        self.examples.count
    }

    /// Numbers between the parameters of neighbouring replicas.
    pub fn stride(&self) -> i64 {
        self.lowering.layout.stride as i64
    }

    fn is_first(&self) -> bool {
        self.examples.start == 0
    }

    pub fn buffer(&self, place: Place) -> Buffer {
        let rows = place.extent.rows.count(self.examples.count);
        let address =
            self.lowering.addresses.numbers + (place.offset * self.replicas() * size_of::<f32>()) as u64;
        Buffer { address, rows, width: place.extent.width }
    }

    pub fn input(&self, input: usize) -> Buffer {
        self.buffer(self.ports.inputs[input])
    }

    pub fn output(&self) -> Buffer {
        self.buffer(self.ports.output)
    }

    pub fn saved(&self, saved: usize) -> Buffer {
        self.buffer(self.ports.saved[saved])
    }

    /// Gradient of the output; nobody reads it after the operation.
    pub fn gradient(&self) -> Buffer {
        self.buffer(self.ports.gradient)
    }

    /// Gradient of an input, and whether to add to it; `None` where the output's is handed on.
    pub fn to_input(&self, input: usize) -> Option<(Buffer, bool)> {
        let target = self.ports.to_inputs[input]?;
        let accumulate = target.accumulate || (target.over_micro_batches && !self.is_first());
        Some((self.buffer(target.place), accumulate))
    }

    /// Whether anybody needs the gradient of an input that may be skipped.
    pub fn needs_gradient(&self, input: usize) -> bool {
        self.ports.to_inputs[input].is_some()
    }

    pub fn has_parameter(&self, parameter: usize) -> bool {
        parameter < self.ports.parameters.len()
    }

    /// Numbers of a parameter.
    pub fn parameter_count(&self, parameter: usize) -> usize {
        self.ports.parameters[parameter].1
    }

    fn parameter_in(&self, start: u64, parameter: usize, accumulate: bool) -> ParameterPlace {
        let place = self.lowering.layout.place(self.ports.parameters[parameter].0);
        ParameterPlace { address: start + (place * size_of::<f32>()) as u64, accumulate }
    }

    pub fn parameter(&self, parameter: usize) -> ParameterPlace {
        self.parameter_in(self.lowering.addresses.parameters, parameter, false)
    }

    /// The gradient of a parameter, all zero at the beginning of an update.
    pub fn to_parameter(&self, parameter: usize) -> ParameterPlace {
        let varies = self.ports.output.extent.rows.is_per_example();
        let accumulate =
            self.ports.to_parameters[parameter] || self.lowering.continues || (varies && !self.is_first());
        self.parameter_in(self.lowering.addresses.gradients, parameter, accumulate)
    }

    pub fn has_slot(&self, slot: usize) -> bool {
        slot < self.node.slots.len()
    }

    /// A slot's numbers for the examples at hand.
    pub fn slot(&self, slot: usize) -> SlotPlace {
        let number = self.node.slots[slot];
        let specification = &self.lowering.program.slots[number];
        let mut place = self.lowering.addresses.slots[number];
        if specification.content.is_none() && specification.extent.rows.is_per_example() {
            // Numbers of both kinds have four bytes.
            place.address += (specification.extent.count(self.examples.start) * 4) as u64;
        }
        place
    }

    /// Rows of a slot for the examples at hand.
    pub fn slot_rows(&self, slot: usize) -> usize {
        self.lowering.program.slots[self.node.slots[slot]].extent.rows.count(self.examples.count)
    }

    /// A slot's numbers, or nothing (address 0) if the operation was not given it.
    pub fn slot_or_none(&self, slot: usize) -> SlotPlace {
        if self.has_slot(slot) { self.slot(slot) } else { SlotPlace { address: 0, distance: 0 } }
    }

    /// 64-bit losses of the examples at hand, and the distance between replicas.
    pub fn losses(&self) -> (u64, i64) {
        let rows = self.lowering.program.outputs.extent.rows;
        let address =
            self.lowering.addresses.losses + (rows.count(self.examples.start) * size_of::<f64>()) as u64;
        (address, self.lowering.addresses.losses_distance as i64)
    }

    /// 64-bit loss scales, `[K]`.
    pub fn loss_scales(&self) -> u64 {
        self.lowering.addresses.scales
    }

    /// Memory for this many 32-bit numbers, until the operation's commands have run.
    pub fn scratch(&mut self, numbers: usize) -> u64 {
        let start = self.lowering.scratch;
        self.lowering.scratch = (start + numbers * 4).next_multiple_of(256);
        self.lowering.most_scratch = self.lowering.most_scratch.max(self.lowering.scratch);
        self.lowering.addresses.scratch + start as u64
    }

    /// The same for 64-bit numbers.
    pub fn wide_scratch(&mut self, numbers: usize) -> u64 {
        self.scratch(2 * numbers)
    }

    /// Room for partial sums `[K, segments, width]` that will be added to a parameter's gradient from its number `from` on:
    /// address, and distance between replicas.
    pub fn partial_sums(
        &mut self,
        parameter: usize,
        from: usize,
        segments: usize,
        width: usize,
    ) -> Result<(u64, i64), CudaError> {
        let start = self.lowering.partial;
        let stride = segments * width;
        self.lowering.partial += stride * self.replicas();
        self.lowering.most_partial = self.lowering.most_partial.max(self.lowering.partial);
        let sum = PartialSum {
            partial: start as i64,
            partial_stride: stride as i64,
            target: (self.lowering.layout.place(self.ports.parameters[parameter].0) + from) as i64,
            width: width as i64,
            segments: int(segments)?,
            padding: 0,
        };
        let rounds = &mut self.lowering.rounds;
        match rounds.iter_mut().find(|round| round.iter().all(|other| other.target != sum.target)) {
            Some(round) => round.push(sum),
            None => rounds.push(vec![sum]),
        }
        Ok((self.lowering.addresses.partial + (start * size_of::<f32>()) as u64, stride as i64))
    }

    /// Appends a launch.
    pub fn launch(
        &mut self,
        name: &str,
        grid: (usize, usize, usize),
        block: (u32, u32, u32),
        arguments: super::commands::Arguments,
    ) -> Result<(), CudaError> {
        self.lowering.commands.launch(name, grid, block, arguments)
    }

    /// Appends a launch of one thread per number, with replicas along the grid's second dimension.
    pub fn launch_by_number(
        &mut self,
        name: &str,
        numbers: usize,
        arguments: super::commands::Arguments,
    ) -> Result<(), CudaError> {
        // Kernels count the numbers of a replica in 32 bits, since dividing 64 is slow.
        int(numbers)?;
        let grid = (numbers.div_ceil(THREADS), self.replicas(), 1);
        self.launch(name, grid, (THREADS as u32, 1, 1), arguments)
    }

    /// Numbers of a buffer over all replicas.
    pub fn all_numbers(&self, buffer: Buffer) -> i64 {
        (buffer.count() * self.replicas()) as i64
    }

    /// Appends a launch of one thread per number of a buffer, over all replicas.
    pub fn launch_by_number_of_all(
        &mut self,
        name: &str,
        buffer: Buffer,
        arguments: super::commands::Arguments,
    ) -> Result<(), CudaError> {
        let grid = ((buffer.count() * self.replicas()).div_ceil(THREADS), 1, 1);
        self.launch(name, grid, (THREADS as u32, 1, 1), arguments)
    }

    /// Appends a matrix product.
    pub fn multiply(&mut self, product: Product) {
        self.lowering.commands.multiply(product);
    }

    /// Appends a copy within the card.
    pub fn copy(&mut self, to: u64, from: u64, bytes: usize) {
        self.lowering.commands.copy(to, from, bytes);
    }
}

/// How rows are divided for partial sums: segments, and rows of each. (The same for every K.)
pub(super) fn segments(rows: usize) -> (usize, usize) {
    let rows_of_each = rows.div_ceil(SEGMENTS).max(32);
    (rows.div_ceil(rows_of_each).max(1), rows_of_each)
}

/// An extent as kernels take it.
pub(super) fn int(extent: usize) -> Result<i32, CudaError> {
    i32::try_from(extent).map_err(|_| {
        CudaError::Unsupported(format!(
            "an extent of {extent} is more than kernels count; use smaller batches"
        ))
    })
}

/// A flag as kernels take it.
pub(super) fn flag(on: bool) -> i32 {
    i32::from(on)
}
