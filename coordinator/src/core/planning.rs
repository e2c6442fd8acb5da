//! How large a cohort should be: from what was measured of its speed, from memory, and from how long it would last.
//!
//! Owns what is learnt of speed and memory and the size that follows; which trials go where is the scheduler's.

use plateau_common::limits;
use plateau_common::throughput::{CALIBRATION_SECONDS, Choice, ThroughputCurve};

use super::effect::{Effect, Write};
use super::state::{Agent, State, Throughput};

/// A measurement may cost this share of the work it is made for.
const CALIBRATION_SHARE: f64 = 0.01;
/// Assumed floating-point operations per second of one thread and of one card where nothing was measured; used only to
/// tell whether a measurement would pay, for which high is the careful side.
const THREAD_FLOPS: f64 = 2e10;
const CARD_FLOPS: f64 = 1e13;

/// Records what an agent measured of a shape; see `Report::Throughput`. What was observed in training never replaces
/// a measurement of its own.
pub(super) fn learn(
    state: &mut State,
    agent: &str,
    cohort: u128,
    curve: ThroughputCurve,
    calibrated: bool,
    evaluation_seconds: f64,
    effects: &mut Vec<Effect>,
) {
    let Some(agent) = state.agents.get(agent) else { return };
    // Only shapes of submitted trials, so that what is stored is bounded by them.
    if !state.shapes.contains_key(&cohort) {
        return;
    }
    let key = (cohort, agent.kind());
    if calibrated {
        state.calibrating.remove(&key);
        state.throughput.insert(key.clone(), Throughput { curve, calibrated, evaluation_seconds });
    } else {
        let known = state.throughput.entry(key.clone()).or_default();
        if known.calibrated {
            return;
        }
        for (size, rate) in curve.points() {
            // A point of a valid curve is valid.
            let _ = known.curve.record(size, rate);
        }
        if evaluation_seconds > 0.0 {
            known.evaluation_seconds = evaluation_seconds;
        }
    }
    effects.push(Effect::Write(Write::Throughput(key)));
}

/// The largest cohort of a shape that may be trained on an agent: what it wants, what is estimated to fit into its memory,
/// what is left after it ran out of it. 0: it has run out of memory with one trial.
pub fn largest(state: &State, agent: &Agent, cohort: u128) -> u32 {
    let mut most = agent.max_cohort.max(1);
    if let Some(shape) = state.shapes.get(&cohort).filter(|_| agent.memory_bytes > 0) {
        let fits = agent.memory_need(shape).most(agent.memory_bytes);
        // Whether one trial fits is for the trainer to say: this is an estimate.
        most = most.min(u32::try_from(fits).unwrap_or(u32::MAX)).max(1);
    }
    agent.fitting.get(&cohort).map_or(most, |fits| most.min(*fits))
}

/// Whether a shape may fit into another available agent than `name`, or nobody has tried.
pub(super) fn fits_elsewhere(state: &State, cohort: u128, name: &str) -> bool {
    let available = state.agents.iter().filter(|(_, agent)| agent.is_available());
    available.into_iter().any(|(other, agent)| other != name && largest(state, agent, cohort) > 0)
}

/// What a shape's work looks like to the scheduler.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Work {
    /// Cohort key.
    pub cohort: u128,
    /// Updates left of one trial.
    pub steps: u64,
    /// Trials that wait.
    pub waiting: usize,
    /// Agents that share them.
    pub share: usize,
}

/// How many trials should be trained together; see [`Choice::size`].
pub fn size(state: &State, agent: &Agent, work: Work) -> usize {
    let most = largest(state, agent, work.cohort).max(1);
    let known = state.throughput.get(&(work.cohort, agent.kind()));
    let unmeasured = match agent.is_processor() {
        true => limits::UNMEASURED_PROCESSOR_COHORT.max(agent.threads),
        false => limits::UNMEASURED_CARD_COHORT,
    };
    let choice = Choice {
        curve: known.map(|known| &known.curve),
        calibrated: known.is_some_and(|known| known.calibrated),
        unmeasured,
        most,
        steps: work.steps,
        waiting: work.waiting,
        share: work.share,
    };
    choice.size()
}

/// Whether the agent should measure the shape before it trains it: nobody has or does, and what waits takes so long that
/// the measurement is a hundredth of it.
pub fn should_calibrate(state: &State, agent: &Agent, work: Work) -> bool {
    let key = (work.cohort, agent.kind());
    let known = state.throughput.get(&key);
    if known.is_some_and(|known| known.calibrated) || agent.max_cohort <= 1 {
        return false;
    }
    let measures = |name: &String| {
        state.agents.get(name).is_some_and(|other| {
            let trains = |id| state.trials.get(id).and_then(|trial| trial.lease.as_ref());
            other.leases.iter().filter_map(trains).any(|lease| lease.cohort == work.cohort)
        })
    };
    if state.calibrating.get(&key).is_some_and(measures) {
        return false;
    }
    let observed = known.and_then(|known| known.curve.points().map(|(_, rate)| rate).reduce(f64::max));
    let assumed = || {
        let flops = match agent.is_processor() {
            true => THREAD_FLOPS * f64::from(agent.threads.max(1)),
            false => CARD_FLOPS,
        };
        Some(flops / state.shapes.get(&work.cohort)?.flops_per_update.max(1.0))
    };
    let Some(rate) = observed.or_else(assumed) else { return false };
    let seconds = work.waiting as f64 * work.steps as f64 / rate / work.share.max(1) as f64;
    seconds * CALIBRATION_SHARE >= CALIBRATION_SECONDS
}
