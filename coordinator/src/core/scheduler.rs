//! Which trials go to which agent: a pure function of the state.
//!
//! Sweeps are served in order of submission; within a sweep the costliest shape first, so that the long trials do not
//! come last. Idle agents come first, then free places in cohorts that train, then agents whose cohort is about to
//! end. A cohort holds trials of one shape, as many as `planning` says. A suspect of a crash is trained alone, and not
//! on an agent it crashed on while another is available, nor before its pause is over (`guilt::pause_after`); a shape that did not fit into an agent's memory keeps away
//! from it likewise. A drained agent is given nothing.

use std::collections::BTreeSet;

use plateau_common::identity::TrialId;
use plateau_common::limits;

use super::planning::{self, Work};
use super::state::{Agent, ReadyEntry, ReadyKey, State};

/// Trials to be leased together to one agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The agent's name.
    pub agent: String,
    /// A cohort, at least one trial.
    pub trials: Vec<TrialId>,
    /// They join the cohort that the agent trains.
    pub join: bool,
    /// The shape whose speed the agent is to measure first, if it is.
    pub calibrate: Option<u128>,
}

/// What could be granted now.
pub fn place(state: &State) -> Vec<Placement> {
    if state.ready.is_empty() || state.asking.is_empty() {
        return Vec::new();
    }
    let available = || {
        let agents = state.asking.iter().filter_map(|name| state.agents.get_key_value(name));
        agents.filter(|(_, agent)| agent.is_available())
    };
    let idle: Vec<_> = available().filter(|(_, agent)| agent.idle && agent.leases.is_empty()).collect();
    let mut round = Round { state, taken: BTreeSet::new(), placements: Vec::new() };
    for (place, (name, agent)) in idle.iter().enumerate() {
        round.new_cohort(name, agent, idle.len() - place);
    }
    let has_room = |agent: &Agent| agent.leases.len() + limits::MAX_COHORT <= limits::MAX_HELD_LEASES;
    for (name, agent) in available().filter(|(_, agent)| has_room(agent)) {
        if let Some((cohort, places)) = agent.free_places {
            round.join(name, agent, cohort, places);
        }
    }
    let trains = |agent: &Agent| agent.wants_next && !agent.leases.is_empty() && has_room(agent);
    for (name, agent) in available().filter(|(_, agent)| trains(agent)) {
        // Its cohort goes on with those that joined.
        if round.placements.iter().any(|placement| placement.agent == *name) {
            continue;
        }
        // The others will want theirs in a moment.
        round.new_cohort(name, agent, state.agents.values().filter(|agent| agent.is_available()).count());
    }
    round.placements
}

struct Round<'a> {
    state: &'a State,
    taken: BTreeSet<TrialId>,
    placements: Vec<Placement>,
}

impl Round<'_> {
    /// Places the first cohort that may go to this agent; `share` agents divide the shape among them.
    fn new_cohort(&mut self, name: &str, agent: &Agent, share: usize) {
        for (key, entries) in &self.state.ready {
            if !self.may_fit(key.cohort, name, agent) {
                continue;
            }
            let Some(first) = entries.iter().find(|entry| self.is_free(entry, name)) else { continue };
            let work = self.work(key, first, entries, share);
            let calibrate = planning::should_calibrate(self.state, agent, work).then_some(key.cohort);
            let trials = if is_alone(self.state, first.trial) {
                vec![first.trial]
            } else {
                self.together(entries, name, planning::size(self.state, agent, work))
            };
            self.push(Placement { agent: name.to_owned(), trials, join: false, calibrate });
            return;
        }
    }

    /// Places trials of `cohort` into free places of the cohort that the agent trains.
    fn join(&mut self, name: &str, agent: &Agent, cohort: u128, places: u32) {
        let places = places.min(planning::largest(self.state, agent, cohort)) as usize;
        let places = places.min(self.fair_share(agent));
        let mut trials = Vec::new();
        for (_, entries) in self.state.ready.iter().filter(|(key, _)| key.cohort == cohort) {
            trials.extend(self.together(entries, name, places - trials.len()));
        }
        if !trials.is_empty() {
            self.push(Placement { agent: name.to_owned(), trials, join: true, calibrate: None });
        }
    }

    /// Trials that bring an agent to an even share of all that are held or wait: places alone would let it take what
    /// the others will want in a moment.
    fn fair_share(&self, agent: &Agent) -> usize {
        let available = || self.state.agents.values().filter(|agent| agent.is_available());
        let held: usize = available().map(|agent| agent.leases.len()).sum();
        let waiting: usize = self.state.ready.values().map(BTreeSet::len).sum();
        (held + waiting).div_ceil(available().count().max(1)).saturating_sub(agent.leases.len())
    }

    fn push(&mut self, placement: Placement) {
        self.taken.extend(placement.trials.iter().copied());
        self.placements.push(placement);
    }

    fn is_free(&self, entry: &ReadyEntry, agent: &str) -> bool {
        !self.taken.contains(&entry.trial) && may_run_on(self.state, entry.trial, agent)
    }

    /// A shape that ran out of the agent's memory keeps away while there is a connected agent where it did not.
    fn may_fit(&self, cohort: u128, name: &str, agent: &Agent) -> bool {
        planning::largest(self.state, agent, cohort) > 0
            || !planning::fits_elsewhere(self.state, cohort, name)
    }

    /// Up to `most` trials that may be trained together.
    fn together(&self, entries: &BTreeSet<ReadyEntry>, agent: &str, most: usize) -> Vec<TrialId> {
        let free = entries.iter().filter(|entry| self.is_free(entry, agent));
        let sociable = free.filter(|entry| !is_alone(self.state, entry.trial));
        sociable.take(most).map(|entry| entry.trial).collect()
    }

    fn work(&self, key: &ReadyKey, first: &ReadyEntry, entries: &BTreeSet<ReadyEntry>, share: usize) -> Work {
        let waits_here = |id: &&TrialId| {
            let place = self.state.trials.get(id).and_then(|trial| trial.ready.as_ref());
            place.is_some_and(|(place, _)| place == key)
        };
        // Those taken are a few cohorts; those that wait may be a million.
        let taken = self.taken.iter().filter(waits_here).count();
        let trial = self.state.trials.get(&first.trial);
        let budget = trial.and_then(|trial| self.state.best_want(trial)).map_or(0, |want| want.budget);
        Work {
            cohort: key.cohort,
            steps: budget.saturating_sub(first.resume),
            waiting: entries.len() - taken,
            share,
        }
    }
}

fn is_alone(state: &State, id: TrialId) -> bool {
    state.trials.get(&id).is_some_and(|trial| trial.alone)
}

/// A trial keeps away from agents it crashed on while there is an available one it did not, and for a while in any case.
fn may_run_on(state: &State, id: TrialId, agent: &str) -> bool {
    let Some(trial) = state.trials.get(&id) else { return false };
    if !trial.crashed_on.contains(agent) {
        return true;
    }
    if trial.retry_at > state.last_tick {
        return false;
    }
    !state.agents.iter().any(|(name, other)| other.is_available() && !trial.crashed_on.contains(name))
}
