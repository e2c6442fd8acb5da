//! Programs on a card: gradients, updates and evaluations of K replicas at once.
//!
//! An executor holds several programs of one model (other lengths of sequences, other depths of a looped one), which share
//! parameters, gradients, moments and one workspace, the largest any of them needs. Memory is taken when a program is loaded. An
//! update consists of passes, mostly one; each is one list of commands ([`super::passes`]), captured as a graph where the driver
//! can; it is queued without waiting for the one before, and nothing is read back until somebody asks. A replica whose loss or
//! gradient is not finite stays as it was before that update, whatever is asked afterwards; the others go on.

use std::mem::size_of;
use std::sync::Arc;

use plateau_common::config::OptimizerConfig;

use super::commands::MatrixMode;
use super::device::CudaDevice;
use super::error::CudaError;
use super::feed::{self, FeedPlan, Feeder, Update};
use super::lower::{CardLayout, flag};
use super::memory::Memory;
use super::passes::{Lists, PassKey};
use crate::cpu::Feed;
use crate::optimizer::Stretch;
use crate::program::{Layout, Place, Program};

/// Blocks that share the sum of squares of one replica's gradient.
pub(super) const SQUARE_BLOCKS: usize = 64;

/// Most passes of one update.
pub(super) const MOST_PASSES: usize = 2;

/// One replica's settings; as `Rule` of `optimizer.cu`, in numbers of 64 bits.
type RuleBits = [f64; 4];

/// How a replica's update went.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// Loss before the update; of a diverged replica, the one that was not finite or whose gradient was not.
    pub loss: f64,
    /// Norm of its gradient before clipping.
    pub norm: f64,
    /// The update that could not be made; the replica is as it was before.
    pub diverged_at: Option<u64>,
}

/// Which of an optimiser's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Mean of gradients (Adam), or velocity (SGD).
    First,
    /// Mean of squared gradients (Adam).
    Second,
}

/// Which pass of an update is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PassPlace {
    /// Number of its program, as [`Executor::load`] gave it.
    pub program: usize,
    /// Its number among the update's passes. Gradients begin anew with number 0 and are added to with the others.
    pub number: usize,
    /// Whether the update ends with it.
    pub is_last: bool,
}

impl PassPlace {
    /// The only pass of an update, by the first program.
    pub const ONLY: PassPlace = PassPlace { program: 0, number: 0, is_last: true };
}

/// Programs of one model with the memory to run them for K replicas on one card.
pub struct Executor {
    pub(super) device: CudaDevice,
    pub(super) mode: MatrixMode,
    pub(super) replicas: usize,
    pub(super) layout: CardLayout,
    /// None where nothing is trained.
    pub(super) optimizer: Option<OptimizerConfig>,
    pub(super) parameters: Memory,
    pub(super) moments: [Memory; 2],
    pub(super) gradients: Memory,
    pub(super) rules: Memory,
    /// Which parameters decay, see [`CardLayout::decays`].
    pub(super) decays: Memory,
    pub(super) coefficients: Memory,
    pub(super) squares: Memory,
    /// Losses `[K]`, norms `[K]`, numbers of the updates that diverged `[K]`; 8 bytes each.
    pub(super) outcomes: Memory,
    /// What programs calculate with.
    pub(super) numbers: Memory,
    pub(super) losses: Memory,
    /// Losses of one replica that there is room for: those of the longest batch in all passes.
    pub(super) loss_rows: usize,
    pub(super) scratch: Memory,
    pub(super) partial: Memory,
    pub(super) feeder: Feeder,
    pub(super) loaded: Vec<Loaded>,
    pub(super) lists: Lists,
    graphs: bool,
    /// The program whose slots are in the card's memory, and for how many examples.
    fed: Option<(usize, usize)>,
}

/// A program and what belongs to it alone.
pub(super) struct Loaded {
    pub program: Arc<Program>,
    /// Most examples fed at once.
    pub capacity: usize,
    pub feed: FeedPlan,
}

impl Executor {
    /// An executor with one program; the rule's kind and decays of moments hold for all replicas.
    pub fn new(
        device: &CudaDevice,
        program: Arc<Program>,
        replicas: usize,
        capacity: usize,
        optimizer: &OptimizerConfig,
        mode: MatrixMode,
    ) -> Result<Self, CudaError> {
        let mut executor = Self::empty(device, &program.layout, replicas, Some(optimizer), mode)?;
        executor.load(program, capacity)?;
        Ok(executor)
    }

    /// Takes memory for the parameters of `replicas` and, where there is an optimiser, for training them; all parameters decay.
    /// There is no program yet.
    pub fn empty(
        device: &CudaDevice,
        layout: &Layout,
        replicas: usize,
        optimizer: Option<&OptimizerConfig>,
        mode: MatrixMode,
    ) -> Result<Self, CudaError> {
        let layout = CardLayout::new(layout);
        let arena = replicas * layout.stride * size_of::<f32>();
        let kept = |wanted: bool| if wanted { arena } else { 0 };
        let (trained, adam) = (optimizer.is_some(), optimizer.is_some_and(is_adam));
        let needed = (arena + 2 * kept(trained) + kept(adam)) as u64;
        let (available, _) = device.memory()?;
        if needed > available {
            return Err(CudaError::OutOfMemory { needed, available });
        }
        let take = |bytes: usize| Memory::zeroed(device, bytes);
        let marks = layout.decays(&[]);
        let executor = Executor {
            device: device.clone(),
            mode,
            replicas,
            optimizer: optimizer.cloned(),
            parameters: take(arena)?,
            moments: [take(kept(trained))?, take(kept(adam))?],
            gradients: take(kept(trained))?,
            rules: take(replicas * size_of::<RuleBits>())?,
            decays: take(marks.len())?,
            coefficients: take(replicas * 24)?,
            squares: take(replicas * SQUARE_BLOCKS * size_of::<f64>())?,
            outcomes: take(3 * replicas * 8)?,
            numbers: take(0)?,
            losses: take(0)?,
            loss_rows: 0,
            scratch: take(0)?,
            partial: take(0)?,
            feeder: Feeder::new(device, replicas)?,
            loaded: Vec::new(),
            lists: Lists::default(),
            graphs: true,
            fed: None,
            layout,
        };
        executor.decays.write(0, &marks)?;
        if let Some(optimizer) = optimizer {
            let bits = rule_bits(optimizer, None);
            (0..replicas).try_for_each(|replica| executor.write_rule(replica, bits))?;
        }
        Ok(executor)
    }

    /// Adds a program of the same model for at most `capacity` examples at once, with memory where it needs more than those before;
    /// its number. (Of the first it is 0.)
    pub fn load(&mut self, program: Arc<Program>, capacity: usize) -> Result<usize, CudaError> {
        if CardLayout::new(&program.layout) != self.layout {
            return Err(CudaError::Unsupported("a program of another model was to be loaded".to_owned()));
        }
        let numbers = self.replicas * program.workspace * size_of::<f32>();
        let loss_rows = (MOST_PASSES * program.outputs.extent.rows.count(capacity)).max(self.loss_rows);
        let losses = self.replicas * loss_rows * size_of::<f64>();
        let feed = FeedPlan::new(&self.device, &program, self.replicas, capacity)?;
        let missing = |memory: &Memory, bytes: usize| if bytes > memory.bytes() { bytes as u64 } else { 0 };
        let needed = missing(&self.numbers, numbers)
            + missing(&self.losses, losses)
            + feed::bytes(&program, self.replicas, capacity) as u64;
        // What is there already goes first, before more is taken in its stead.
        let going = if numbers > self.numbers.bytes() { self.numbers.bytes() as u64 } else { 0 };
        let (available, _) = self.device.memory()?;
        if needed > available + going {
            return Err(CudaError::OutOfMemory { needed, available });
        }
        let mut moved = self.feeder.make_room(&feed)?;
        for (memory, bytes) in [(&mut self.numbers, numbers), (&mut self.losses, losses)] {
            if bytes > memory.bytes() {
                *memory = Memory::zeroed(&self.device, 0)?;
                *memory = Memory::zeroed(&self.device, bytes)?;
                moved = true;
            }
        }
        self.loss_rows = loss_rows;
        if moved {
            // Commands made before refer to the memory that is gone, and so does what was fed.
            self.lists.clear();
            self.fed = None;
        }
        self.loaded.push(Loaded { program, capacity, feed });
        Ok(self.loaded.len() - 1)
    }

    /// Gives back all programs and the memory they calculate with.
    pub fn unload(&mut self) -> Result<(), CudaError> {
        self.lists.clear();
        self.loaded.clear();
        self.fed = None;
        for memory in [&mut self.numbers, &mut self.losses, &mut self.scratch, &mut self.partial] {
            *memory = Memory::zeroed(&self.device, 0)?;
        }
        Ok(())
    }

    /// A program, by its number.
    pub fn program(&self, number: usize) -> Result<&Arc<Program>, CudaError> {
        Ok(&self.loaded(number)?.program)
    }

    pub(super) fn loaded(&self, number: usize) -> Result<&Loaded, CudaError> {
        let missing = || CudaError::Unsupported(format!("program {number} was not loaded"));
        self.loaded.get(number).ok_or_else(missing)
    }

    /// Numbers of workspace for each replica that a program may take of what is free now: half of it, since operations need some on the
    /// side, evaluations have a workspace of their own, and a replica that ends has the others move.
    pub fn room(&self) -> Result<usize, CudaError> {
        let (free, _) = self.device.memory()?;
        Ok((free / 2) as usize / size_of::<f32>() / self.replicas.max(1))
    }

    /// Updates as captured graphs (the default) or command by command.
    pub fn use_graphs(&mut self, graphs: bool) {
        self.graphs = graphs;
    }

    /// The card.
    pub fn device(&self) -> &CudaDevice {
        &self.device
    }

    /// Commands of one update of this many examples by the first program: launches, matrix products, clears and copies.
    pub fn commands(&mut self, examples: usize) -> Result<usize, CudaError> {
        let pass = self.pass_commands(PassKey { place: PassPlace::ONLY, examples })?;
        Ok(pass.count())
    }

    /// Settings of one replica: learning rate, decay and clipping (the kind of rule is the cohort's).
    pub fn set_rule(
        &mut self,
        replica: usize,
        optimizer: &OptimizerConfig,
        clip: Option<f64>,
    ) -> Result<(), CudaError> {
        self.write_rule(replica, rule_bits(optimizer, clip))
    }

    /// Which parameters of the program's layout decay, of all replicas.
    pub fn set_stretches(&mut self, stretches: &[Stretch]) -> Result<(), CudaError> {
        self.decays.write(0, &self.layout.decays(stretches))
    }

    fn write_rule(&self, replica: usize, bits: RuleBits) -> Result<(), CudaError> {
        self.rules.write(replica * size_of::<RuleBits>(), &bits)
    }

    /// Overwrites a replica's parameters, in the program's layout.
    pub fn set_parameters(&mut self, replica: usize, numbers: &[f32]) -> Result<(), CudaError> {
        self.write_arena(&self.parameters, replica, numbers)
    }

    /// A replica's parameters after all updates asked for, in the program's layout.
    pub fn parameters(&self, replica: usize) -> Result<Vec<f32>, CudaError> {
        self.read_arena(&self.parameters, replica)
    }

    /// A replica's gradients at the last update.
    pub fn gradients(&self, replica: usize) -> Result<Vec<f32>, CudaError> {
        self.read_arena(&self.gradients, replica)
    }

    /// Overwrites numbers of a replica's optimiser.
    pub fn set_moment(&mut self, replica: usize, which: Moment, numbers: &[f32]) -> Result<(), CudaError> {
        self.write_arena(&self.moments[which as usize], replica, numbers)
    }

    /// Numbers of a replica's optimiser.
    pub fn moment(&self, replica: usize, which: Moment) -> Result<Vec<f32>, CudaError> {
        self.read_arena(&self.moments[which as usize], replica)
    }

    /// Copies replica `from` of an executor of the same model on the same card: parameters, and with `all` what else belongs
    /// to its training (the optimiser's numbers and how its last update went).
    pub fn adopt(&mut self, other: &Executor, from: usize, to: usize, all: bool) -> Result<(), CudaError> {
        let fits = self.layout == other.layout && from < other.replicas && to < self.replicas;
        if !fits || self.device.card() != other.device.card() {
            return Err(CudaError::Unsupported("a replica of another model was to be adopted".to_owned()));
        }
        let bytes = self.layout.stride * size_of::<f32>();
        let mut copies = vec![(&self.parameters, &other.parameters, to * bytes, from * bytes, bytes)];
        if all {
            let kept = self.optimizer.as_ref().map_or(0, |rule| if is_adam(rule) { 2 } else { 1 });
            for (own, others) in self.moments.iter().zip(&other.moments).take(kept) {
                copies.push((own, others, to * bytes, from * bytes, bytes));
            }
            for which in 0..3 {
                let (to, from) = (which * self.replicas + to, which * other.replicas + from);
                copies.push((&self.outcomes, &other.outcomes, to * 8, from * 8, 8));
            }
        }
        copies.into_iter().try_for_each(|(own, others, to, from, bytes)| own.copy(to, others, from, bytes))
    }

    fn write_arena(&self, arena: &Memory, replica: usize, numbers: &[f32]) -> Result<(), CudaError> {
        if numbers.len() != self.layout.count() || replica >= self.replicas {
            return Err(CudaError::Unsupported(format!(
                "{} numbers for replica {replica} do not fit {} replicas of {}",
                numbers.len(),
                self.replicas,
                self.layout.count()
            )));
        }
        arena.write(replica * self.layout.stride * size_of::<f32>(), &self.layout.spread(numbers))
    }

    fn read_arena(&self, arena: &Memory, replica: usize) -> Result<Vec<f32>, CudaError> {
        let spread = arena.read(replica * self.layout.stride * size_of::<f32>(), self.layout.stride)?;
        Ok(self.layout.gather(&spread))
    }

    /// Queues the update of this number (from 1), one pass by the first program, with the learning rates times `multiplier`. `feeds`
    /// are the replicas' batches, all of one size; without `fresh` they are those of the update before. Returns before it is done.
    pub fn update(
        &mut self,
        number: u64,
        multiplier: f64,
        feeds: &[Feed<f32>],
        fresh: bool,
    ) -> Result<(), CudaError> {
        self.pass((number, multiplier), PassPlace::ONLY, feeds, fresh)
    }

    /// The same for one pass of an update, whose passes are asked for in their order.
    pub fn pass(
        &mut self,
        update: (u64, f64),
        place: PassPlace,
        feeds: &[Feed<f32>],
        fresh: bool,
    ) -> Result<(), CudaError> {
        let examples = self.examples(place.program, feeds)?;
        self.send(update, place.program, feeds, fresh)?;
        let graphs = self.graphs;
        self.pass_commands(PassKey { place, examples })?.run(graphs)
    }

    /// The losses of a batch by the first program; the gradients are then in [`Executor::gradients`], and nothing else has changed.
    pub fn differentiate(&mut self, feeds: &[Feed<f32>]) -> Result<Vec<f64>, CudaError> {
        self.differentiate_pass(PassPlace { is_last: false, ..PassPlace::ONLY }, feeds)
    }

    /// The losses of one pass of an update; the gradients of the passes up to it are then in [`Executor::gradients`].
    pub fn differentiate_pass(
        &mut self,
        place: PassPlace,
        feeds: &[Feed<f32>],
    ) -> Result<Vec<f64>, CudaError> {
        let place = PassPlace { is_last: false, ..place };
        let examples = self.examples(place.program, feeds)?;
        self.send((1, 1.0), place.program, feeds, true)?;
        self.pass_commands(PassKey { place, examples })?.run(false)?;
        let loaded = self.loaded(place.program)?;
        let rows = loaded.program.outputs.extent.rows;
        let (distance, own) = (self.loss_rows, rows.count(examples));
        let all: Vec<f64> = self.losses.read(0, self.replicas * distance)?;
        let of_each = all.chunks_exact(distance.max(1));
        Ok(of_each.map(|losses| losses[place.number * own..][..own].iter().sum()).collect())
    }

    /// How the last update went; waits for it.
    pub fn outcomes(&self) -> Result<Vec<Outcome>, CudaError> {
        let numbers: Vec<f64> = self.outcomes.read(0, 3 * self.replicas)?;
        let (losses, rest) = numbers.split_at(self.replicas);
        let (norms, diverged) = rest.split_at(self.replicas);
        let outcome = |((loss, norm), diverged): ((&f64, &f64), &f64)| {
            let number = diverged.to_bits();
            Outcome { loss: *loss, norm: *norm, diverged_at: (number != 0).then_some(number) }
        };
        Ok(losses.iter().zip(norms).zip(diverged).map(outcome).collect())
    }

    /// Forgets that replicas have diverged, after they were given new parameters.
    pub fn forget_divergence(&mut self) -> Result<(), CudaError> {
        self.outcomes.write(0, &vec![0.0f64; 3 * self.replicas])
    }

    /// Forward pass of whole feeds, at most a micro-batch, by one of the programs; the outputs `[rows, width]` of each replica.
    pub fn forward(&mut self, program: usize, feeds: &[Feed<f32>]) -> Result<Vec<Vec<f32>>, CudaError> {
        let examples = self.examples(program, feeds)?;
        let (most, outputs) = {
            let program = self.program(program)?;
            (program.micro_batch, program.outputs)
        };
        if examples > most {
            return Err(CudaError::Unsupported(format!(
                "{examples} examples were to be evaluated at once by a program for {most}"
            )));
        }
        self.send((1, 1.0), program, feeds, true)?;
        self.forward_commands(program, examples)?.run()?;
        (0..self.replicas).map(|replica| self.place(outputs, examples, replica)).collect()
    }

    /// Numbers of a place after a forward pass of `examples`.
    pub fn place(&self, place: Place, examples: usize, replica: usize) -> Result<Vec<f32>, CudaError> {
        let count = place.extent.count(examples);
        self.numbers.read((place.offset * self.replicas + replica * count) * size_of::<f32>(), count)
    }

    fn examples(&self, program: usize, feeds: &[Feed<f32>]) -> Result<usize, CudaError> {
        let capacity = self.loaded(program)?.capacity;
        let examples = feeds.first().map_or(0, |feed| feed.examples);
        let even = feeds.len() == self.replicas && feeds.iter().all(|feed| feed.examples == examples);
        if even && (1..=capacity).contains(&examples) {
            return Ok(examples);
        }
        Err(CudaError::Unsupported(format!(
            "{} batches of {examples} examples do not fit {} replicas with room for {capacity} each, or differ in size",
            feeds.len(),
            self.replicas,
        )))
    }

    fn send(
        &mut self,
        (number, multiplier): (u64, f64),
        program: usize,
        feeds: &[Feed<f32>],
        fresh: bool,
    ) -> Result<(), CudaError> {
        let (beta1, beta2) = match &self.optimizer {
            Some(OptimizerConfig::Adam(adam) | OptimizerConfig::AdamW(adam)) => (adam.beta1, adam.beta2),
            Some(OptimizerConfig::Sgd(_)) | None => (0.0, 0.0),
        };
        let update = Update {
            number: number as i64,
            multiplier,
            first_correction: 1.0 - beta1.powf(number as f64),
            second_correction: 1.0 - beta2.powf(number as f64),
        };
        let scales: Vec<f64> = feeds.iter().map(|feed| feed.loss_scale).collect();
        let own = feeds.first().map(|feed| (program, feed.examples));
        let fresh = fresh || self.fed != own;
        self.fed = None;
        let missing = || CudaError::Unsupported(format!("program {program} was not loaded"));
        let plan = &self.loaded.get(program).ok_or_else(missing)?.feed;
        self.feeder.send(plan, update, &scales, fresh.then_some(feeds))?;
        self.fed = own;
        Ok(())
    }
}

pub(super) fn is_adam(optimizer: &OptimizerConfig) -> bool {
    matches!(optimizer, OptimizerConfig::Adam(_) | OptimizerConfig::AdamW(_))
}

fn rule_bits(optimizer: &OptimizerConfig, clip: Option<f64>) -> RuleBits {
    let decoupled = flag(matches!(optimizer, OptimizerConfig::AdamW(_))) as u64;
    [optimizer.lr(), optimizer.weight_decay(), clip.unwrap_or(f64::INFINITY), f64::from_bits(decoupled)]
}
