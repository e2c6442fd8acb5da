//! What is kept of trials, and what goes: the checkpoints that a policy leaves over, those that nobody needs any more, whole
//! sweeps.
//!
//! Whatever is deleted is recorded as forgotten first, in the same transaction; files go after it. Nothing that a live lease
//! names is ever deleted, except by the deletion of its sweep, which ends the lease.

use std::collections::{BTreeMap, BTreeSet};

use plateau_common::identity::TrialId;
use plateau_common::limits::MAX_KEPT_AROUND_TRANSITION;

use super::effect::{Answer, Effect, Refusal, Subject, ToAgent, Write};
use super::state::{Checkpoint, Fence, LeaseKey, Now, State, SweepMode, SweepNumber, Trial};

/// What a deletion frees, or would free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Freed {
    /// Trials that lose something.
    pub trials: u64,
    /// Checkpoints.
    pub checkpoints: u64,
    /// Bytes of these checkpoints.
    pub bytes: u64,
}

impl Freed {
    fn add(&mut self, checkpoints: &[Checkpoint]) {
        self.trials += 1;
        self.checkpoints += checkpoints.len() as u64;
        self.bytes += checkpoints.iter().map(|checkpoint| checkpoint.bytes).sum::<u64>();
    }
}

/// What a trial's policy says of its checkpoints.
impl Trial {
    /// Steps of the checkpoints that are kept for good.
    pub fn kept_for_good(&self) -> BTreeSet<u64> {
        let mut kept = if self.transition.is_some() { self.kept_around() } else { BTreeSet::new() };
        // Without its first state a fork could not begin anew.
        let always = |step: &u64| {
            self.fork.is_some_and(|fork| fork.step == *step)
                || self.keep_every.is_some_and(|every| step.is_multiple_of(every))
        };
        kept.extend(self.checkpoints.iter().map(|known| known.step).filter(always));
        kept
    }

    /// Steps of the checkpoints that are kept for good, or may turn out to be because the transition is still to come.
    pub fn kept(&self) -> BTreeSet<u64> {
        let mut kept = self.kept_for_good();
        if self.transition.is_none() {
            kept.extend(self.kept_around());
        }
        kept
    }

    /// Steps of the checkpoints that are kept because they are near the transition, or may be.
    fn kept_around(&self) -> BTreeSet<u64> {
        let Some(policy) = &self.keep_around else { return BTreeSet::new() };
        let newest = self.newest_step();
        let is_near = |step: u64| match self.transition {
            Some(transition) => policy.is_near(transition, step),
            None => policy.may_be_near(newest, step),
        };
        let mut near: BTreeMap<u64, u64> = BTreeMap::new();
        for known in self.checkpoints.iter().filter(|known| is_near(known.step)) {
            let bytes = near.entry(known.step).or_default();
            *bytes = bytes.saturating_add(known.bytes);
        }
        match policy.budget {
            // A transition that is still to come is nearest to the newest.
            Some(budget) => thinned(near.into_iter().collect(), self.transition.unwrap_or(newest), budget),
            None => near.into_keys().collect(),
        }
    }
}

/// Of checkpoints near a transition, as (step, bytes) in ascending order, the steps of those that fit into `budget` bytes. They are
/// thinned out one by one: each time goes the one that leaves the smallest gap for its distance from the transition, so that
/// gaps grow with the distance; the first, the last and the nearest go last, the nearest last of all.
pub fn thinned(mut near: Vec<(u64, u64)>, transition: u64, budget: u64) -> BTreeSet<u64> {
    let mut bytes: u128 = near.iter().map(|(_, bytes)| u128::from(*bytes)).sum();
    let distance = |step: u64| u128::from(step.abs_diff(transition)) + 1;
    while bytes > u128::from(budget) || near.len() > MAX_KEPT_AROUND_TRANSITION as usize {
        let nearest = (0..near.len()).min_by_key(|place| distance(near[*place].0));
        let inner = (1..near.len().saturating_sub(1)).filter(|place| Some(*place) != nearest);
        let gap = |place: usize| u128::from(near[place + 1].0 - near[place - 1].0);
        let closest = inner.min_by(|one, other| {
            // Quotients compared without dividing.
            let (left, right) = (gap(*one) * distance(near[*other].0), gap(*other) * distance(near[*one].0));
            left.cmp(&right)
        });
        let Some(place) = closest.or_else(|| (0..near.len()).max_by_key(|place| distance(near[*place].0)))
        else {
            break;
        };
        let (_, gone) = near.remove(place);
        bytes -= u128::from(gone);
    }
    near.into_iter().map(|(step, _)| step).collect()
}

/// Takes from a trial the checkpoints up to `budget` that its policy leaves over, oldest first, except what the live lease
/// continues from (`resume`), which may be on its way to the agent.
pub(super) fn take_surplus(trial: &mut Trial, budget: u64, resume: u64) -> Vec<Checkpoint> {
    // Those beyond the budget are a longer sweep's, which may go on; the newest counts even where it is kept for good.
    let newest = trial.resume_step(budget);
    let kept = trial.kept();
    let own = trial.checkpoints.iter().filter(|known| known.step <= budget);
    let own = own.filter(|known| known.step == newest || !kept.contains(&known.step)).count();
    let excess = own.saturating_sub(trial.keep as usize + 1);
    let mut surplus = Vec::new();
    let mut place = 0;
    while surplus.len() < excess && place < trial.checkpoints.len() {
        let in_use =
            trial.checkpoints[place].step == resume && trial.checkpoints[place].attempt < trial.attempt;
        if in_use || kept.contains(&trial.checkpoints[place].step) {
            place += 1;
        } else {
            surplus.push(trial.checkpoints.remove(place));
        }
    }
    surplus
}

/// Forgets checkpoints that were taken from their trial, and has their files deleted.
pub(super) fn forget(id: TrialId, checkpoints: Vec<Checkpoint>, effects: &mut Vec<Effect>) {
    for old in checkpoints {
        effects.push(Effect::Write(Write::CheckpointForgotten(id, old.clone())));
        effects.push(Effect::Delete(id, old));
    }
}

/// The metric of a trial's policy has reached its level at `step`: from now on it is known which checkpoints are near.
pub(super) fn transition(state: &mut State, lease: LeaseKey, step: u64, effects: &mut Vec<Effect>) {
    let Some(trial) = state.trials.get(&lease.trial) else { return };
    let (Some(policy), Some(current)) = (&trial.keep_around, trial.current(lease.attempt)) else { return };
    if trial.transition.is_some() {
        return;
    }
    let event = format!("{policy} at step {step}: the checkpoints around it are kept");
    let (resume, budget) = (current.from_step, current.budget);
    let mut surplus = Vec::new();
    state.update(lease.trial, None, |trial| {
        trial.transition = Some(step);
        surplus = take_surplus(trial, budget, resume);
    });
    effects.push(Effect::Write(Write::Retention(lease.trial)));
    effects.push(Effect::Write(Write::History(Subject::Trial(lease.trial), event)));
    forget(lease.trial, surplus, effects);
}

/// Deletes checkpoints of ended trials: all of those that only cancelled sweeps hold; of the others all but the `keep` newest
/// and those kept for good. Only of trials whose sweeps were all submitted at least so long ago.
pub(super) fn collect(
    state: &mut State,
    keep: u32,
    older_than_milliseconds: u64,
    dry_run: bool,
    now: Now,
    effects: &mut Vec<Effect>,
) {
    let before =
        now.unix_milliseconds.saturating_sub(i64::try_from(older_than_milliseconds).unwrap_or(i64::MAX));
    let ended = state.trials.iter().filter(|(_, trial)| trial.state.is_ending() && trial.lease.is_none());
    let mut chosen: Vec<(TrialId, BTreeSet<(u64, u64)>)> = Vec::new();
    let mut freed = Freed::default();
    for (id, trial) in ended {
        let sweeps = || trial.wants.iter().filter_map(|want| state.sweeps.get(&want.sweep));
        if sweeps().any(|sweep| sweep.submitted_unix_milliseconds > before) {
            continue;
        }
        let needed = sweeps().any(|sweep| sweep.mode != SweepMode::Cancelled);
        let newest = trial.checkpoints.len().saturating_sub(keep as usize);
        let kept = trial.kept_for_good();
        let unneeded = trial
            .checkpoints
            .iter()
            .enumerate()
            .filter(|(place, known)| !needed || (*place < newest && !kept.contains(&known.step)));
        let unneeded: Vec<Checkpoint> = unneeded.map(|(_, known)| known.clone()).collect();
        if !unneeded.is_empty() {
            freed.add(&unneeded);
            chosen.push((*id, unneeded.iter().map(|known| (known.attempt, known.step)).collect()));
        }
    }
    if !dry_run {
        for (id, unneeded) in chosen {
            let mut taken = Vec::new();
            state.update(id, Some(effects), |trial| {
                let (gone, kept) = std::mem::take(&mut trial.checkpoints)
                    .into_iter()
                    .partition(|known| unneeded.contains(&(known.attempt, known.step)));
                (taken, trial.checkpoints) = (gone, kept);
            });
            let event = format!("{} checkpoints were collected, as nothing needs them", taken.len());
            effects.push(Effect::Write(Write::History(Subject::Trial(id), event)));
            forget(id, taken, effects);
        }
    }
    effects.push(Effect::Answer(Answer::Freed(freed)));
}

/// Deletes a sweep: its record, and of the trials that no other sweep holds everything. Those of them that are in training
/// are taken from their agents at once; whatever is still said of them is about trials that do not exist.
pub(super) fn delete(state: &mut State, number: SweepNumber, dry_run: bool, effects: &mut Vec<Effect>) {
    let Some(sweep) = state.sweeps.get(&number) else {
        let problem = "the sweep does not exist".to_owned();
        effects.push(Effect::Answer(Answer::Refused(Refusal::NotFound, problem)));
        return;
    };
    let ids: BTreeSet<TrialId> = sweep.members.iter().map(|member| member.trial).collect();
    let others = |trial: &Trial| trial.wants.iter().any(|want| want.sweep != number);
    let (shared, own): (BTreeSet<TrialId>, BTreeSet<TrialId>) =
        ids.into_iter().partition(|id| state.trials.get(id).is_some_and(others));
    let mut freed = Freed::default();
    for trial in own.iter().filter_map(|id| state.trials.get(id)) {
        freed.add(&trial.checkpoints);
    }
    if dry_run {
        effects.push(Effect::Answer(Answer::Freed(freed)));
        return;
    }
    let mut fence = state.fence;
    fence.sweep = fence.sweep.max(number);
    let mut dropped: BTreeMap<u64, Vec<LeaseKey>> = BTreeMap::new();
    for id in own {
        let Some(trial) = state.remove_trial(id) else { continue };
        fence.attempt = fence.attempt.max(trial.attempt);
        let holder = trial.lease.as_ref().and_then(|lease| state.agents.get(&lease.agent));
        if let Some(session) = holder.and_then(|agent| agent.session) {
            dropped.entry(session).or_default().push(LeaseKey { trial: id, attempt: trial.attempt });
        }
        effects.push(Effect::Write(Write::TrialDeleted(id)));
        effects.extend(trial.checkpoints.into_iter().map(|checkpoint| Effect::Delete(id, checkpoint)));
    }
    state.update_many(
        &shared,
        effects,
        |state| {
            state.sweeps.remove(&number);
        },
        |_, trial| trial.wants.retain(|want| want.sweep != number),
    );
    state.fence = fence;
    effects.push(Effect::Write(Write::Fence(fence)));
    effects.push(Effect::Write(Write::SweepDeleted(number)));
    state.changed.insert(number);
    let reason = "its sweep was deleted";
    super::sweeps::revoke_unwanted(state, &shared, reason, effects);
    for (session, leases) in dropped {
        for lease in leases {
            let message = ToAgent::Refused { sequence: 0, lease, reason: reason.to_owned() };
            effects.push(Effect::Send { session, message });
        }
    }
    effects.push(Effect::Answer(Answer::Freed(freed)));
}

/// What must not come again although its owner was deleted: numbers by which messages are told from older ones.
impl Fence {
    /// The number of a trial's next attempt. A trial that was deleted and comes back has the id of the old one, of which
    /// somebody may still speak: its attempts go on above all that were ever deleted.
    pub(super) fn next_attempt(self, last: u64) -> u64 {
        if last == 0 { self.attempt + 1 } else { last + 1 }
    }
}
