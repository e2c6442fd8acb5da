//! What the coordinator knows: trials, sweeps, agents, and the indices over them.
//!
//! Every change of a trial goes through [`State::update`], which takes it out of the indices (counts per sweep, trials
//! ready to run, leases per agent) and puts it back, so the indices cannot drift. `invariants.rs` recomputes them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use plateau_common::config::{Fork, KeepAround};
use plateau_common::cost::{Hardware, MemoryNeed, memory_need};
use plateau_common::identity::TrialId;
use plateau_common::limits;
use plateau_common::throughput::ThroughputCurve;
use plateau_common::trial::{Ending, TrialState};

use super::effect::{Effect, Write};
use super::expiry::Brake;

/// Sweeps are numbered from 1 in order of submission.
pub type SweepNumber = u64;

/// The moment of an input.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Now {
    /// Since the coordinator started; the only time decisions are made by.
    pub monotonic: Duration,
    /// Milliseconds since 1970 UTC; for display only.
    pub unix_milliseconds: i64,
}

/// Permission to run one trial, by its fencing number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeaseKey {
    /// Whose.
    pub trial: TrialId,
    /// Which attempt.
    pub attempt: u64,
}

/// A live lease.
#[derive(Clone, Debug, PartialEq)]
pub struct Lease {
    /// Who holds it.
    pub agent: String,
    /// Which start of that agent's process.
    pub incarnation: String,
    /// Steps it was granted for.
    pub budget: u64,
    /// The trial's cohort.
    pub cohort: u128,
    /// Step of the checkpoint it continues from; 0: from the beginning.
    pub from_step: u64,
    /// The agent was asked to give it back.
    pub revoked: bool,
    /// When it expires unless renewed.
    pub deadline: Duration,
    /// When its step last advanced.
    pub progress_at: Duration,
}

/// A stored, verified checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// Attempt that made it.
    pub attempt: u64,
    /// Updates made.
    pub step: u64,
    /// Hash of the parameters.
    pub weights_hash: String,
    /// Size of its files.
    pub bytes: u64,
}

/// The last ending that was recorded for a trial; a repeated report of it is acknowledged again.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordedEnding {
    /// By which attempt.
    pub attempt: u64,
    /// What.
    pub ending: Ending,
    /// Updates made.
    pub step: u64,
    /// Hash of the parameters at the end; empty if none.
    pub weights_hash: String,
}

/// One reference of a sweep to a trial.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Want {
    /// Whose.
    pub sweep: SweepNumber,
    /// Place in the sweep's expansion.
    pub position: u64,
    /// Steps asked for.
    pub budget: u64,
    /// Trials of equal cohort may be trained together.
    pub cohort: u128,
    /// Estimated cost of the whole budget, in any one unit.
    pub cost: u64,
}

/// Where a trial waits: sweeps in order of submission, in a sweep the costliest shape first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReadyKey {
    /// First sweep that wants it.
    pub sweep: SweepNumber,
    /// Costliest first.
    pub cost: std::cmp::Reverse<u64>,
    /// Shape.
    pub cohort: u128,
}

/// A waiting trial; equal resume steps lie side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReadyEntry {
    /// Step it would continue from.
    pub resume: u64,
    /// Place in the sweep.
    pub position: u64,
    /// The trial.
    pub trial: TrialId,
}

/// One trial, shared by every sweep that wants it.
#[derive(Clone, Debug, PartialEq)]
pub struct Trial {
    /// Where it is in its life.
    pub state: TrialState,
    /// Number of the last attempt granted; only grows.
    pub attempt: u64,
    /// Steps made, as far as known (display; truth is in the checkpoints).
    pub step: u64,
    /// Largest step at which it was recorded as completed; 0: never.
    pub completed_step: u64,
    /// Step at which it diverged.
    pub diverged_at: Option<u64>,
    /// Why it is where it is, for a person.
    pub reason: String,
    /// Seconds of training, all attempts together.
    pub train_seconds: f64,
    /// Crashes since its last new checkpoint.
    pub crashes: u32,
    /// Agents that were lost while they held it, since its last new checkpoint.
    pub losses: u32,
    /// Agents it crashed on.
    pub crashed_on: BTreeSet<String>,
    /// When it may be tried again on one of them. Forgotten by a restart, whose clock is another.
    pub retry_at: Duration,
    /// It is suspected of a crash and trained alone, so that the guilty member of a cohort is found.
    pub alone: bool,
    /// The last recorded ending.
    pub ending: Option<RecordedEnding>,
    /// Agent that the last attempt was granted to; empty before the first.
    pub holder: String,
    /// The live lease, in states Leased and Running only.
    pub lease: Option<Lease>,
    /// Stored checkpoints by step, then attempt.
    pub checkpoints: Vec<Checkpoint>,
    /// Checkpoints kept besides the newest.
    pub keep: u32,
    /// Those at multiples of so many steps are kept for good.
    pub keep_every: Option<u64>,
    /// Those around its transition are kept for good.
    pub keep_around: Option<KeepAround>,
    /// Step at which the metric of `keep_around` reached its level; `None`: not yet.
    pub transition: Option<u64>,
    /// Whose fork it is.
    pub fork: Option<Fork>,
    /// The sweeps' references.
    pub wants: Vec<Want>,
    /// Where it stands in [`State::ready`].
    pub ready: Option<(ReadyKey, ReadyEntry)>,
}

impl Trial {
    /// A trial that nobody wants yet.
    pub fn new(keep: u32) -> Self {
        Trial {
            state: TrialState::Pending,
            attempt: 0,
            step: 0,
            completed_step: 0,
            diverged_at: None,
            reason: String::new(),
            train_seconds: 0.0,
            crashes: 0,
            losses: 0,
            crashed_on: BTreeSet::new(),
            retry_at: Duration::ZERO,
            alone: false,
            ending: None,
            holder: String::new(),
            lease: None,
            checkpoints: Vec::new(),
            keep,
            keep_every: None,
            keep_around: None,
            transition: None,
            fork: None,
            wants: Vec::new(),
            ready: None,
        }
    }

    /// What was held against it is forgotten.
    pub(super) fn forget_crashes(&mut self) {
        (self.crashes, self.losses, self.retry_at) = (0, 0, Duration::ZERO);
        self.crashed_on.clear();
    }

    /// Step of the newest checkpoint; 0 without one.
    pub fn newest_step(&self) -> u64 {
        self.checkpoints.last().map_or(0, |checkpoint| checkpoint.step)
    }

    /// The newest checkpoint that a training to `budget` can continue from. One beyond it holds the weights of a later
    /// step, so they are not the result asked for.
    pub fn resume(&self, budget: u64) -> Option<&Checkpoint> {
        self.checkpoints.iter().rev().find(|checkpoint| checkpoint.step <= budget)
    }

    /// Step of [`Trial::resume`]; 0 without one.
    pub fn resume_step(&self, budget: u64) -> u64 {
        self.resume(budget).map_or(0, |checkpoint| checkpoint.step)
    }

    /// The live lease, if `attempt` is its number.
    pub fn current(&self, attempt: u64) -> Option<&Lease> {
        self.lease.as_ref().filter(|_| self.attempt == attempt)
    }
}

/// Where a sweep is, as its owner set it. Finished is not stored: it is "active, and every trial has ended".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SweepMode {
    /// Its trials are wanted.
    Active,
    /// Nothing of it is granted.
    Paused,
    /// Given up.
    Cancelled,
}

/// One place of a sweep's expansion.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Member {
    /// The trial there.
    pub trial: TrialId,
    /// Steps asked for.
    pub budget: u64,
}

/// A submitted study.
#[derive(Clone, Debug, PartialEq)]
pub struct Sweep {
    /// Its id: the beginning of the study's digest.
    pub id: String,
    /// The study's name.
    pub name: String,
    /// As its owner set it.
    pub mode: SweepMode,
    /// Why it was cancelled.
    pub reason: String,
    /// For display.
    pub submitted_unix_milliseconds: i64,
    /// Its trials in expansion order.
    pub members: Vec<Member>,
    /// Trials per state, in the order of [`TrialState::ALL`].
    pub counts: [u64; 8],
    /// Steps of all trials together; an ended trial counts what it made.
    pub total_steps: u128,
    /// Steps made.
    pub done_steps: u128,
    /// The last failure, quarantine or crash of one of its trials.
    pub last_failure: Option<(TrialId, String, i64)>,
}

impl Sweep {
    /// Trials in `state`.
    pub fn count(&self, state: TrialState) -> u64 {
        self.counts[place(state)]
    }

    /// Whether it is active and every trial has ended.
    pub fn is_finished(&self) -> bool {
        let live = [TrialState::Pending, TrialState::Leased, TrialState::Running];
        self.mode == SweepMode::Active && live.into_iter().all(|state| self.count(state) == 0)
    }
}

/// What trials of one cohort cost, each.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Shape {
    /// Bytes of weights, gradients and optimiser.
    pub state_bytes: u64,
    /// Bytes that an update computes in.
    pub workspace_bytes: u64,
    /// Floating-point operations of an update.
    pub flops_per_update: f64,
}

/// A cohort and a kind of device ([`Agent::kind`]).
pub type ThroughputKey = (u128, String);

/// What is known of the speed of a cohort on a kind of device.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Throughput {
    /// Speed by size; may be empty where it could not be measured.
    pub curve: ThroughputCurve,
    /// It comes from a measurement of its own, not from training.
    pub calibrated: bool,
    /// Seconds that evaluating one replica takes; 0: not measured.
    pub evaluation_seconds: f64,
}

/// An agent that has registered at least once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Agent {
    /// Drawn at every start of its process.
    pub incarnation: String,
    /// Its host.
    pub host: String,
    /// "cpu" or "cuda:N".
    pub device: String,
    /// The device in words.
    pub description: String,
    /// Version of its program.
    pub version: String,
    /// Threads of its trainer on a processor.
    pub threads: u32,
    /// Bytes that cohorts may take on it; 0: not known.
    pub memory_bytes: u64,
    /// Largest cohort it wants.
    pub max_cohort: u32,
    /// Largest cohorts of single shapes, found out by running out of memory; 0: not even one trial fits.
    pub fitting: BTreeMap<u128, u32>,
    /// Its connection, if there is one; numbers are never reused within a run of the coordinator.
    pub session: Option<u64>,
    /// It said that it could start a cohort.
    pub idle: bool,
    /// Its cohort is about to end: it wants the next one.
    pub wants_next: bool,
    /// Places in its cohort in training, by the cohort's key, that trials have left.
    pub free_places: Option<(u128, u32)>,
    /// Grants sent in this session.
    pub grants: u64,
    /// When it last said anything.
    pub last_heard: Duration,
    /// Replica steps per second, as it last said.
    pub speed: f64,
    /// Trials it holds leases of.
    pub leases: BTreeSet<TrialId>,
    /// Why it is given nothing more, if it is not.
    pub drained: Option<String>,
    /// Trials that were trained together on it when its trainer broke, since a trial last made progress on it; no trial is in
    /// two of the sets.
    pub crashed: Vec<BTreeSet<TrialId>>,
    /// Failures of its own in a row, through no fault of a trial.
    pub failures: usize,
    /// When other processes took its name while it was connected, of late.
    pub superseded: Vec<Duration>,
}

impl Agent {
    /// Devices of one kind train equally fast.
    pub fn kind(&self) -> String {
        let device = if self.description.is_empty() { &self.device } else { &self.description };
        if self.is_processor() {
            format!("{device}, training on {} (plateau {})", self.threads.max(1), self.version)
        } else {
            format!("{device} (plateau {})", self.version)
        }
    }

    /// Whether it asks for trials in any way.
    pub fn asks(&self) -> bool {
        self.idle || self.wants_next || self.free_places.is_some()
    }

    /// Whether it may be given trials, now or when it is idle.
    pub fn is_available(&self) -> bool {
        self.session.is_some() && self.drained.is_none()
    }

    /// It is not connected any more.
    pub fn hang_up(&mut self) {
        (self.session, self.idle, self.speed) = (None, false, 0.0);
        (self.wants_next, self.free_places) = (false, None);
    }

    /// Whether it trains on a processor.
    pub fn is_processor(&self) -> bool {
        self.device == "cpu"
    }

    /// Estimated memory of cohorts of a shape on its device.
    pub fn memory_need(&self, shape: &Shape) -> MemoryNeed {
        let hardware = match self.is_processor() {
            true => Hardware::Processor { threads: self.threads as usize },
            false => Hardware::Card,
        };
        memory_need(shape.state_bytes, shape.workspace_bytes, hardware)
    }
}

/// Numbers that were given to what has been deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fence {
    /// Largest attempt of a deleted trial.
    pub attempt: u64,
    /// Largest deleted sweep.
    pub sweep: SweepNumber,
}

/// Everything.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// All trials ever wanted.
    pub trials: BTreeMap<TrialId, Trial>,
    /// All sweeps by number.
    pub sweeps: BTreeMap<SweepNumber, Sweep>,
    /// All agents by name.
    pub agents: BTreeMap<String, Agent>,
    /// What trials of each cohort cost.
    pub shapes: BTreeMap<u128, Shape>,
    /// How fast cohorts are on the devices they were trained on.
    pub throughput: BTreeMap<ThroughputKey, Throughput>,
    /// Agents that were asked to measure.
    pub calibrating: BTreeMap<ThroughputKey, String>,
    /// Agents that ask for trials: idle, about to be, or with free places. Few at any moment, where there may be thousands
    /// of agents.
    pub asking: BTreeSet<String>,
    /// Trials that could be granted now, best first.
    pub ready: BTreeMap<ReadyKey, BTreeSet<ReadyEntry>>,
    /// Sweeps whose picture changed since this was last emptied.
    pub changed: BTreeSet<SweepNumber>,
    /// The brake on a mass expiry, while it is on.
    pub brake: Option<Brake>,
    /// What must not come again.
    pub fence: Fence,
    /// The last tick.
    pub last_tick: Duration,
    /// Wall time of the input being applied; stamped on what is displayed, never compared.
    pub wall: i64,
}

/// Place of a state in [`TrialState::ALL`].
pub fn place(state: TrialState) -> usize {
    TrialState::ALL.iter().position(|known| *known == state).unwrap_or_default()
}

/// A lease's term.
pub fn lease_term() -> Duration {
    Duration::from_secs(limits::LEASE_SECONDS)
}

/// How a trial looks to a sweep that asked for `budget` steps: a trial that has made them is completed for this sweep,
/// whatever it goes on to do for another.
pub fn view(trial: &Trial, budget: u64, mode: SweepMode) -> TrialState {
    if trial.completed_step >= budget || trial.diverged_at.is_some_and(|step| step > budget) {
        return TrialState::Completed;
    }
    match (trial.state, mode) {
        (TrialState::Completed | TrialState::Pending | TrialState::Cancelled, SweepMode::Cancelled) => {
            TrialState::Cancelled
        }
        (TrialState::Completed, _) => TrialState::Pending,
        (state, _) => state,
    }
}

impl State {
    /// The sweep of this id.
    pub fn sweep_by_id(&self, id: &str) -> Option<(SweepNumber, &Sweep)> {
        self.sweeps.iter().find(|(_, sweep)| sweep.id == id).map(|(number, sweep)| (*number, sweep))
    }

    /// Changes what an agent asks for, and keeps the index of those that ask right.
    pub fn change_wishes(&mut self, name: &str, change: impl FnOnce(&mut Agent)) {
        let Some(agent) = self.agents.get_mut(name) else { return };
        let asked = agent.asks();
        change(agent);
        match (asked, agent.asks()) {
            (false, true) => drop(self.asking.insert(name.to_owned())),
            (true, false) => drop(self.asking.remove(name)),
            _ => {}
        }
    }

    fn mode(&self, sweep: SweepNumber) -> SweepMode {
        self.sweeps.get(&sweep).map_or(SweepMode::Cancelled, |sweep| sweep.mode)
    }

    /// Id of the first sweep that asked for the trial; it names the trial's trace for good, whichever sweep it runs for.
    pub fn first_sweep(&self, trial: &Trial) -> &str {
        let first = trial.wants.iter().map(|want| want.sweep).min();
        first.and_then(|number| self.sweeps.get(&number)).map_or("", |sweep| sweep.id.as_str())
    }

    /// The reference by which the trial would be granted now: the largest budget that an active sweep still wants of it,
    /// under the first such sweep.
    pub fn best_want(&self, trial: &Trial) -> Option<Want> {
        let active = || {
            trial.wants.iter().filter(|want| {
                want.budget > trial.completed_step && self.mode(want.sweep) == SweepMode::Active
            })
        };
        let longest =
            active().max_by_key(|want| (want.budget, std::cmp::Reverse((want.sweep, want.position))))?;
        let first = active().min_by_key(|want| (want.sweep, want.position))?;
        Some(Want { sweep: first.sweep, position: first.position, ..*longest })
    }

    /// Brings a trial without a lease to the state that its record and the sweeps ask for. Divergence, failure and
    /// quarantine are left only by an explicit requeue.
    fn settle(&self, trial: &mut Trial) {
        if trial.lease.is_some()
            || matches!(trial.state, TrialState::Diverged | TrialState::Failed | TrialState::Quarantined)
        {
            return;
        }
        let wanted = trial
            .wants
            .iter()
            .any(|want| want.budget > trial.completed_step && self.mode(want.sweep) != SweepMode::Cancelled);
        trial.state = match (wanted, trial.completed_step) {
            (true, _) => TrialState::Pending,
            (false, 0) => TrialState::Cancelled,
            (false, _) => TrialState::Completed,
        };
        if trial.fork.is_some()
            && let Some(want) = self.best_want(trial)
            && trial.lacks_root(want.budget)
        {
            trial.fail_without_root();
        }
    }

    fn ready_place(&self, id: TrialId, trial: &Trial) -> Option<(ReadyKey, ReadyEntry)> {
        if trial.state != TrialState::Pending {
            return None;
        }
        let want = self.best_want(trial)?;
        let key = ReadyKey { sweep: want.sweep, cost: std::cmp::Reverse(want.cost), cohort: want.cohort };
        Some((key, ReadyEntry { resume: trial.resume_step(want.budget), position: want.position, trial: id }))
    }

    fn unindex(&mut self, id: TrialId, trial: &Trial) {
        for want in &trial.wants {
            let Some(sweep) = self.sweeps.get_mut(&want.sweep) else { continue };
            let (state, total, done) = contribution(trial, want.budget, sweep.mode);
            sweep.counts[place(state)] = sweep.counts[place(state)].saturating_sub(1);
            sweep.total_steps = sweep.total_steps.saturating_sub(total);
            sweep.done_steps = sweep.done_steps.saturating_sub(done);
            self.changed.insert(want.sweep);
        }
        if let Some((key, entry)) = &trial.ready
            && let Some(entries) = self.ready.get_mut(key)
        {
            entries.remove(entry);
            if entries.is_empty() {
                self.ready.remove(key);
            }
        }
        if let Some(agent) = trial.lease.as_ref().and_then(|lease| self.agents.get_mut(&lease.agent)) {
            agent.leases.remove(&id);
        }
    }

    fn index(&mut self, id: TrialId, trial: &mut Trial) {
        for want in &trial.wants {
            let Some(sweep) = self.sweeps.get_mut(&want.sweep) else { continue };
            let (state, total, done) = contribution(trial, want.budget, sweep.mode);
            sweep.counts[place(state)] += 1;
            sweep.total_steps += total;
            sweep.done_steps += done;
            self.changed.insert(want.sweep);
        }
        trial.ready = self.ready_place(id, trial);
        if let Some((key, entry)) = &trial.ready {
            self.ready.entry(*key).or_default().insert(*entry);
        }
        if let Some(agent) = trial.lease.as_ref().and_then(|lease| self.agents.get_mut(&lease.agent)) {
            agent.leases.insert(id);
        }
    }

    /// Changes one trial, keeps every index right, and records the trial where `effects` are given.
    pub fn update(
        &mut self,
        id: TrialId,
        effects: Option<&mut Vec<Effect>>,
        change: impl FnOnce(&mut Trial),
    ) {
        let Some(place) = self.trials.get_mut(&id) else { return };
        let mut trial = std::mem::replace(place, Trial::new(0));
        self.unindex(id, &trial);
        change(&mut trial);
        self.settle(&mut trial);
        self.index(id, &mut trial);
        if let Some(effects) = effects {
            effects.push(Effect::Write(Write::Trial(id, Box::new(trial.clone()))));
        }
        if let Some(place) = self.trials.get_mut(&id) {
            *place = trial;
        }
    }

    /// Takes a trial out of everything.
    pub(super) fn remove_trial(&mut self, id: TrialId) -> Option<Trial> {
        let trial = self.trials.remove(&id)?;
        self.unindex(id, &trial);
        Some(trial)
    }

    /// Changes the sweeps and several trials at once: the trials leave the indices, `sweeps` changes the sweeps, then
    /// each trial is changed, settled and indexed anew. Trials that differ afterwards are recorded.
    pub fn update_many(
        &mut self,
        ids: &BTreeSet<TrialId>,
        effects: &mut Vec<Effect>,
        sweeps: impl FnOnce(&mut Self),
        mut change: impl FnMut(TrialId, &mut Trial),
    ) {
        let mut taken = Vec::with_capacity(ids.len());
        for id in ids {
            if let Some(trial) = self.trials.remove(id) {
                self.unindex(*id, &trial);
                taken.push((*id, trial));
            }
        }
        sweeps(self);
        for (id, mut trial) in taken {
            let before = trial.clone();
            change(id, &mut trial);
            self.settle(&mut trial);
            self.index(id, &mut trial);
            if trial != before {
                effects.push(Effect::Write(Write::Trial(id, Box::new(trial.clone()))));
            }
            self.trials.insert(id, trial);
        }
    }

    /// Builds the indices of a state whose trials, sweeps and agents were loaded, and gives every lease a fresh term:
    /// the clock of the previous run means nothing in this one.
    pub fn restore(mut self, now: Now) -> Self {
        self.last_tick = now.monotonic;
        for sweep in self.sweeps.values_mut() {
            (sweep.counts, sweep.total_steps, sweep.done_steps) = ([0; 8], 0, 0);
        }
        for agent in self.agents.values_mut() {
            agent.leases.clear();
            agent.last_heard = now.monotonic;
        }
        let mut trials = std::mem::take(&mut self.trials);
        for (id, trial) in &mut trials {
            trial.retry_at = Duration::ZERO;
            if let Some(lease) = &mut trial.lease {
                lease.deadline = now.monotonic + lease_term();
                lease.progress_at = now.monotonic;
                let granted = trial.wants.iter().find(|want| want.budget == lease.budget);
                lease.cohort = granted.map_or(0, |want| want.cohort);
            }
            if trial.fork.is_some() {
                // A copy of the data directory may lack what it was forked with.
                self.settle(trial);
            }
            self.index(*id, trial);
        }
        self.trials = trials;
        self.changed.clear();
        self
    }
}

/// What one reference adds to its sweep: the state it shows, total steps, steps made.
pub(super) fn contribution(trial: &Trial, budget: u64, mode: SweepMode) -> (TrialState, u128, u128) {
    let state = view(trial, budget, mode);
    let made = if state == TrialState::Completed { budget } else { trial.step.min(budget) };
    let total = if state.is_ending() { made } else { budget };
    (state, u128::from(total), u128::from(made))
}
