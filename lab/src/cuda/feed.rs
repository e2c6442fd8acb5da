//! What an update is given, on its way to the card: one page-locked block per update, copied while the card still works on
//! the updates before.

use std::mem::size_of;

use cudarc::driver::{result, sys};

use super::device::CudaDevice;
use super::error::{CudaError, DoingOnCard as _};
use super::lower::SlotPlace;
use super::memory::{Memory, Pinned};
use crate::cpu::{Feed, SlotData};
use crate::program::{Program, SlotContent};

/// Blocks under way at a time.
const BLOCKS: usize = 3;

/// What changes from update to update, for all replicas; as `Update` of `optimizer.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Update {
    pub number: i64,
    pub multiplier: f64,
    pub first_correction: f64,
    pub second_correction: f64,
}

/// The card's memory for what is fed, and the way there; all programs of an executor share it.
pub(super) struct Feeder {
    device: CudaDevice,
    /// Update, loss scales `[K]`, then each slot `[K, capacity]` as the program that is fed has them.
    memory: Memory,
    blocks: Vec<Block>,
    next: usize,
    replicas: usize,
}

/// Where the slots of one program lie.
pub(super) struct FeedPlan {
    slots: Vec<Slot>,
    /// Constant slots, one after another.
    constants: Memory,
    /// Bytes of the whole block.
    bytes: usize,
}

/// Where a slot lies.
#[derive(Clone, Copy)]
enum Slot {
    /// This many bytes from the constants' start.
    Constant(usize),
    /// Bytes from the block's start, and numbers of one replica.
    Fed(usize, usize),
}

struct Block {
    numbers: Pinned<u32>,
    copied: sys::CUevent,
}

impl Block {
    fn new(device: &CudaDevice, bytes: usize) -> Result<Self, CudaError> {
        let numbers = Pinned::zeroed(device, bytes / 4)?;
        let copied =
            result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING).doing("making an event")?;
        Ok(Block { numbers, copied })
    }
}

// SAFETY: the event is used by one thread at a time.
#[allow(unsafe_code, reason = "driver handles are plain pointers to the compiler")]
unsafe impl Send for Block {}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: ours, made in `Block::new`; the driver keeps what is under way. An error cannot be acted upon.
        let _ = unsafe { result::event::destroy(self.copied) };
    }
}

/// Bytes of the update and the loss scales, ending where slots may begin.
fn head_bytes(replicas: usize) -> usize {
    (size_of::<Update>() + replicas * size_of::<f64>()).next_multiple_of(256)
}

/// Bytes on the card for what a program of K replicas is fed, `capacity` examples at once.
pub(super) fn bytes(program: &Program, replicas: usize, capacity: usize) -> usize {
    let slots = program.slots.iter().map(|slot| {
        let replicas = if slot.content.is_some() { 1 } else { replicas };
        replicas * slot.extent.count(capacity) * 4 + 256
    });
    head_bytes(replicas) + slots.sum::<usize>()
}

impl FeedPlan {
    /// Lays out a program's slots for `capacity` examples at once and takes the constant ones to the card.
    pub fn new(
        device: &CudaDevice,
        program: &Program,
        replicas: usize,
        capacity: usize,
    ) -> Result<Self, CudaError> {
        let (mut bytes, mut numbers) = (head_bytes(replicas), Vec::new());
        let mut slots = Vec::new();
        for slot in &program.slots {
            let content: Option<Vec<u32>> = slot.content.as_ref().map(|content| match content {
                SlotContent::Ids(ids) => ids.to_vec(),
                SlotContent::Numbers(numbers) => {
                    numbers.iter().map(|number| (*number as f32).to_bits()).collect()
                }
            });
            match content {
                Some(own) => {
                    slots.push(Slot::Constant(numbers.len() * 4));
                    numbers.extend(own);
                    numbers.resize(numbers.len().next_multiple_of(64), 0);
                }
                None => {
                    let count = slot.extent.count(capacity);
                    slots.push(Slot::Fed(bytes, count));
                    bytes = (bytes + replicas * count * 4).next_multiple_of(256);
                }
            }
        }
        let constants = Memory::zeroed(device, numbers.len() * 4)?;
        constants.write(0, &numbers)?;
        Ok(FeedPlan { slots, constants, bytes })
    }
}

impl Feeder {
    pub fn new(device: &CudaDevice, replicas: usize) -> Result<Self, CudaError> {
        let bytes = head_bytes(replicas);
        let memory = Memory::zeroed(device, bytes)?;
        let blocks = (0..BLOCKS).map(|_| Block::new(device, bytes)).collect::<Result<_, _>>()?;
        Ok(Feeder { device: device.clone(), memory, blocks, next: 0, replicas })
    }

    /// Takes more memory where a plan needs it; whether it did, so that addresses have changed.
    pub fn make_room(&mut self, plan: &FeedPlan) -> Result<bool, CudaError> {
        if plan.bytes <= self.memory.bytes() {
            return Ok(false);
        }
        self.memory = Memory::zeroed(&self.device, plan.bytes)?;
        for block in &mut self.blocks {
            *block = Block::new(&self.device, plan.bytes)?;
        }
        Ok(true)
    }

    /// Where the slots of a plan lie on the card.
    pub fn places(&self, plan: &FeedPlan) -> Vec<SlotPlace> {
        let place = |slot: &Slot| match slot {
            Slot::Constant(start) => SlotPlace { address: plan.constants.at(*start), distance: 0 },
            Slot::Fed(start, count) => SlotPlace { address: self.memory.at(*start), distance: *count as i64 },
        };
        plan.slots.iter().map(place).collect()
    }

    /// Where the update's numbers lie on the card.
    pub fn update(&self) -> u64 {
        self.memory.at(0)
    }

    /// Where the loss scales lie on the card.
    pub fn scales(&self) -> u64 {
        self.memory.at(size_of::<Update>())
    }

    /// Queues the copy of an update's head and, if the slots have changed, of the feeds of all replicas.
    pub fn send(
        &mut self,
        plan: &FeedPlan,
        update: Update,
        scales: &[f64],
        feeds: Option<&[Feed<f32>]>,
    ) -> Result<(), CudaError> {
        self.device.enter()?;
        let block = &mut self.blocks[self.next];
        self.next = (self.next + 1) % BLOCKS;
        // SAFETY: the event is ours and live. (One that was never recorded counts as reached.)
        unsafe { result::event::synchronize(block.copied) }.doing("waiting for a copy")?;
        let head = [
            update.number as u64,
            update.multiplier.to_bits(),
            update.first_correction.to_bits(),
            update.second_correction.to_bits(),
        ];
        let words = head.into_iter().chain(scales.iter().map(|scale| scale.to_bits()));
        let numbers = block.numbers.numbers_mut();
        for (pair, word) in numbers.chunks_exact_mut(2).zip(words) {
            (pair[0], pair[1]) = (word as u32, (word >> 32) as u32);
        }
        let bytes = if feeds.is_some() { plan.bytes } else { head_bytes(self.replicas) };
        for (replica, feed) in feeds.unwrap_or_default().iter().enumerate() {
            fill(numbers, &plan.slots, replica, feed)?;
        }
        if feeds.is_some_and(|feeds| feeds.len() != self.replicas) {
            return Err(CudaError::Unsupported(format!(
                "an update of {} replicas was fed otherwise",
                self.replicas
            )));
        }
        let _queue = self.device.queue();
        // SAFETY: source and target are at least as long as the plan says (`make_room`); the source stays as it is until the
        // event is reached.
        unsafe {
            let all = &block.numbers.numbers()[..bytes / 4];
            result::memcpy_htod_async(self.memory.at(0), all, self.device.stream())
                .doing("copying to the card")?;
            result::event::record(block.copied, self.device.stream()).doing("marking a copy")
        }
    }
}

/// Writes one replica's slots into a block.
fn fill(block: &mut [u32], slots: &[Slot], replica: usize, feed: &Feed<f32>) -> Result<(), CudaError> {
    for (slot, data) in slots.iter().zip(&feed.slots) {
        let Slot::Fed(start, count) = slot else { continue };
        let given = match data {
            SlotData::Ids(ids) => ids.len(),
            SlotData::Numbers(numbers) => numbers.len(),
            SlotData::Constant => 0,
        };
        if given == 0 || given > *count {
            return Err(CudaError::Unsupported(format!("a slot for {count} numbers was fed {given}")));
        }
        let target = &mut block[start / 4 + replica * count..][..given];
        match data {
            SlotData::Ids(ids) => target.copy_from_slice(ids),
            SlotData::Numbers(numbers) => {
                for (target, number) in target.iter_mut().zip(numbers) {
                    *target = number.to_bits();
                }
            }
            SlotData::Constant => {}
        }
    }
    Ok(())
}
