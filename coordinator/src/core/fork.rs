//! Forks: trials that begin with the state and the curve of another one, their parent.
//!
//! What a fork begins with, its root, is copied by the shell before the core hears of it: files, metrics, hash. Here it becomes the
//! fork's own, as if an attempt of its own had made it, so that everything else (continuing, results, retention) has no
//! need to know about forks. From then on parent and fork know nothing of each other. What stays: a fork never trains from the beginning.

use std::collections::BTreeMap;
use std::sync::Arc;

use plateau_common::config::Fork;
use plateau_common::identity::TrialId;
use plateau_common::trial::{Ending, TrialState};

use super::effect::{Effect, Subject, Write};
use super::input::Specification;
use super::state::{Checkpoint, LeaseKey, RecordedEnding, State, Trial};

/// What a fork begins with; it lies in its place already.
#[derive(Clone, Debug, PartialEq)]
pub struct Root {
    /// The attempt of the fork under which it was put.
    pub attempt: u64,
    /// Hash of the parameters.
    pub weights_hash: String,
    /// Size of the checkpoint's files.
    pub bytes: u64,
    /// The parent's metrics until the fork; shared by the forks of one parent.
    pub metrics: Arc<[InheritedChunk]>,
    /// The step at which the fork's policy of retention has its transition, where that lies before the fork.
    pub transition: Option<u64>,
}

/// A chunk of metrics that a fork takes over.
#[derive(Clone, Debug, PartialEq)]
pub struct InheritedChunk {
    /// Of its canonical bytes.
    pub digest: [u8; 32],
    /// Its stored form.
    pub data: Vec<u8>,
}

impl Trial {
    /// Whether it is a fork, and a training to `budget` would have to do without what it was forked with.
    pub fn lacks_root(&self, budget: u64) -> bool {
        self.fork.is_some() && self.resume(budget).is_none()
    }

    /// Makes a root its own.
    fn adopt(&mut self, fork: Fork, root: &Root) {
        self.attempt = root.attempt;
        self.holder.clear();
        self.step = fork.step;
        self.transition = self.keep_around.as_ref().and(root.transition);
        self.checkpoints.push(checkpoint(fork, root));
        self.checkpoints.sort_by_key(|known| (known.step, known.attempt));
    }

    /// A fork without its root cannot go on.
    pub(super) fn fail_without_root(&mut self) {
        let parent = self.fork.map(|fork| fork.trial.short()).unwrap_or_default();
        let reason = format!(
            "the checkpoint that it was forked with (of trial {parent}) is lost, and it has no later one: submit the fork again"
        );
        self.state = TrialState::Failed;
        self.ending = Some(RecordedEnding {
            attempt: self.attempt,
            ending: Ending::Failed { reason: reason.clone() },
            step: self.step,
            weights_hash: String::new(),
        });
        self.reason = reason;
    }
}

fn checkpoint(fork: Fork, root: &Root) -> Checkpoint {
    let Root { attempt, weights_hash, bytes, .. } = root;
    Checkpoint { attempt: *attempt, step: fork.step, weights_hash: weights_hash.clone(), bytes: *bytes }
}

/// The number under which the shell is to put the root of a fork, if the fork needs one.
pub fn place_for_root(state: &State, id: TrialId, budget: u64) -> Option<u64> {
    match state.trials.get(&id) {
        None => Some(state.fence.next_attempt(0)),
        // What is done, and what diverged, goes nowhere.
        Some(trial) if trial.completed_step >= budget || trial.state == TrialState::Diverged => None,
        Some(trial) if trial.lease.is_none() && trial.lacks_root(budget) => {
            Some(state.fence.next_attempt(trial.attempt))
        }
        Some(_) => None,
    }
}

/// Roots to be made their forks' own, by fork.
pub(super) type Roots<'a> = BTreeMap<TrialId, (Fork, &'a Root)>;

/// The roots that forks among `trials` need. `Err`: what the shell saw is true no more.
pub(super) fn roots<'a>(state: &State, trials: &'a [Specification]) -> Result<Roots<'a>, String> {
    let mut roots = Roots::new();
    for specification in trials {
        let Some(fork) = specification.fork else { continue };
        let Some(place) = place_for_root(state, specification.trial, specification.budget) else { continue };
        match &specification.root {
            Some(root) if root.attempt == place => {
                roots.insert(specification.trial, (fork, root));
            }
            _ => {
                let fork = specification.trial.short();
                return Err(format!(
                    "what fork {fork} begins with has changed meanwhile: submit it once more"
                ));
            }
        }
    }
    Ok(roots)
}

/// Makes the root of a trial its own, if there is one for it.
pub(super) fn adopt(roots: &Roots<'_>, id: TrialId, trial: &mut Trial) {
    if let Some((fork, root)) = roots.get(&id) {
        trial.adopt(*fork, root);
    }
}

/// Records the roots that have been adopted.
pub(super) fn record(roots: &Roots<'_>, effects: &mut Vec<Effect>) {
    for (id, (fork, root)) in roots {
        let lease = LeaseKey { trial: *id, attempt: root.attempt };
        effects.push(Effect::Write(Write::Fork(*id)));
        effects.push(Effect::Write(Write::Attempt { lease, agent: String::new(), from_step: 0 }));
        effects.push(Effect::Write(Write::AttemptStarted { lease, from_step: 0 }));
        let metrics = Arc::clone(&root.metrics);
        effects.push(Effect::Write(Write::InheritedMetrics { lease, metrics }));
        effects.push(Effect::Write(Write::Checkpoint(*id, checkpoint(*fork, root))));
        effects.push(Effect::Write(Write::Retention(*id)));
        let event = format!("forked from trial {} at step {}", fork.trial, fork.step);
        effects.push(Effect::Write(Write::History(Subject::Trial(*id), event)));
    }
}
