//! Before a study with forks is submitted: each fork is given its parent's checkpoint and curve, as its own.
//!
//! The checkpoint is copied (in a folder: linked) into the fork's place, so that from the submission on no trial's life hangs on
//! another's. Nothing is recorded here: the core makes it the fork's own in the very transaction that makes the fork, and a kill in
//! between leaves files that nothing names, which are swept away like any.

use std::collections::BTreeMap;
use std::sync::Arc;

use plateau_common::checkpoint::Manifest;
use plateau_common::config::{Fork, TrialConfig};
use plateau_common::identity::TrialId;
use plateau_common::limits;
use prost::Message as _;
use tonic::Status;

use super::results::{self, lineage};
use super::{Context, transfer};
use crate::chunk;
use crate::core::{Checkpoint, InheritedChunk, LeaseKey, Root, Specification, State, place_for_root};
use crate::retention::first_reached;
use crate::store::{Reader, StoreError};

/// A trial of a study that is a fork.
pub struct Forked {
    /// Its place among the specifications.
    pub place: usize,
    /// Where it comes from.
    pub fork: Fork,
    /// Its configuration.
    pub config: TrialConfig,
}

/// Checkpoints that were put into their forks' places.
#[derive(Default)]
pub struct Placed(Vec<(LeaseKey, u64)>);

impl Placed {
    /// Takes them away again: their forks were not accepted.
    pub async fn discard(self, context: &Context) {
        for (lease, step) in self.0 {
            if let Err(error) = context.checkpoints.delete(lease.trial, lease.attempt, step).await {
                tracing::warn!(trial = %lease.trial, %error, "what a refused fork was given stays until it is swept away");
            }
        }
    }
}

/// What the forks of one parent at one step share.
struct Parent {
    config: TrialConfig,
    checkpoint: Checkpoint,
    manifest: Manifest,
    metrics: Arc<[InheritedChunk]>,
}

/// Gives every fork that has no checkpoint yet what it begins with; its specification says so afterwards. One submission at a time:
/// the caller holds [`Context::forking`] until the forks are accepted or [discarded](Placed::discard).
pub async fn prepare(
    context: &Context,
    specifications: &mut [Specification],
    forks: &[Forked],
) -> Result<Placed, Status> {
    if forks.len() > limits::MAX_FORKS {
        let problem =
            format!("{} forks at once are more than {} (MAX_FORKS)", forks.len(), limits::MAX_FORKS);
        return Err(Status::resource_exhausted(problem));
    }
    let asked: Vec<(TrialId, u64)> = forks
        .iter()
        .filter_map(|forked| specifications.get(forked.place))
        .map(|specification| (specification.trial, specification.budget))
        .collect();
    let wanted = context.engine.query(move |state, _| {
        asked.into_iter().map(|(id, budget)| place_for_root(state, id, budget)).collect::<Vec<_>>()
    });
    let needy: Vec<(&Forked, u64)> =
        forks.iter().zip(wanted.await?).filter_map(|(forked, attempt)| Some((forked, attempt?))).collect();
    let mut parents: BTreeMap<(TrialId, u64), Parent> = BTreeMap::new();
    for (forked, _) in &needy {
        let key = (forked.fork.trial, forked.fork.step);
        if let std::collections::btree_map::Entry::Vacant(place) = parents.entry(key) {
            place.insert(parent(context, forked.fork).await?);
        }
        // All are looked at before anything is copied.
        if let Some(parent) = parents.get(&key) {
            Fork::check(&parent.config, &forked.config).map_err(|error| {
                Status::invalid_argument(format!("forking trial {}: {error}", forked.fork.trial.short()))
            })?;
        }
    }
    let mut placed = Placed::default();
    for (forked, attempt) in needy {
        let key = (forked.fork.trial, forked.fork.step);
        let (Some(parent), Some(specification)) = (parents.get(&key), specifications.get_mut(forked.place))
        else {
            continue;
        };
        match give(context, parent, forked, specification, attempt).await {
            Ok(lease) => placed.0.push((lease, forked.fork.step)),
            Err(status) => {
                placed.0.push((LeaseKey { trial: specification.trial, attempt }, forked.fork.step));
                placed.discard(context).await;
                return Err(status);
            }
        }
    }
    Ok(placed)
}

/// Puts the parent's checkpoint into a fork's place and says so in the fork's specification.
async fn give(
    context: &Context,
    parent: &Parent,
    forked: &Forked,
    specification: &mut Specification,
    attempt: u64,
) -> Result<LeaseKey, Status> {
    let child = LeaseKey { trial: specification.trial, attempt };
    let manifest = Manifest {
        trial: child.trial.to_string(),
        config: forked.config.to_json(),
        ..parent.manifest.clone()
    };
    let theirs = LeaseKey { trial: forked.fork.trial, attempt: parent.checkpoint.attempt };
    context.checkpoints.give(theirs, child, &manifest).await?;
    let mut transition = None;
    if let Some(policy) = &specification.keep_around {
        for chunk in parent.metrics.iter() {
            let reached = first_reached(policy, &chunk.data);
            transition = transition.or(reached.map_err(Status::internal)?);
        }
    }
    specification.root = Some(Root {
        attempt,
        weights_hash: manifest.weights_hash,
        bytes: parent.checkpoint.bytes,
        metrics: Arc::clone(&parent.metrics),
        transition,
    });
    Ok(child)
}

/// The parent of a fork: its checkpoint at the step, whole, and what was measured until then.
async fn parent(context: &Context, fork: Fork) -> Result<Parent, Status> {
    let found = context.engine.query(move |state, _| find_checkpoint(state, fork));
    let (checkpoint, budget) = found.await?.map_err(Status::failed_precondition)?;
    let Checkpoint { attempt, step, .. } = checkpoint;
    let manifest = transfer::verified(context, fork.trial, attempt, step).await?;
    let (config, metrics) = context
        .read(move |reader| {
            let config = results::configuration(reader, fork.trial, budget)?;
            Ok((config, inherited(reader, fork.trial, attempt, step)?))
        })
        .await?;
    let config = plateau_proto::convert::trial_config("the trial forked from", &config)?;
    Ok(Parent { config, checkpoint, manifest, metrics: metrics.into() })
}

/// The newest attempt's checkpoint of the parent at the fork's step, and the largest budget of the parent.
fn find_checkpoint(state: &State, fork: Fork) -> Result<(Checkpoint, u64), String> {
    let short = fork.trial.short();
    let Some(trial) = state.trials.get(&fork.trial) else {
        return Err(format!(
            "trial {short}, which is to be forked, is not here: it was deleted, or belongs to another coordinator"
        ));
    };
    let found = trial.checkpoints.iter().rev().find(|known| known.step == fork.step).cloned();
    let budget = trial.wants.iter().map(|want| want.budget).max().unwrap_or(fork.step);
    found.map(|checkpoint| (checkpoint, budget)).ok_or_else(|| {
        let mut steps: Vec<u64> = trial.checkpoints.iter().map(|known| known.step).collect();
        steps.dedup();
        let steps: Vec<String> = steps.iter().map(u64::to_string).collect();
        let there = match steps.is_empty() {
            true => "none is kept".to_owned(),
            false => format!("those kept are of the steps {}", steps.join(", ")),
        };
        format!(
            "no checkpoint of trial {short} at step {} is kept: {there} (`checkpoint.every` with `keep`, `keep-every` or \
             `keep-around` keeps more)",
            fork.step
        )
    })
}

/// What the training that led to the checkpoint of `attempt` at `step` had measured by then.
fn inherited(
    reader: &Reader,
    trial: TrialId,
    attempt: u64,
    step: u64,
) -> Result<Vec<InheritedChunk>, StoreError> {
    let mut attempts = reader.attempts(trial)?;
    attempts.retain(|known| known.attempt <= attempt);
    let mut chunks = reader.chunks(trial)?;
    chunks.retain(|chunk| chunk.attempt <= attempt);
    let line = lineage(&attempts, &chunks, step).map_err(|problem| StoreError::Damaged {
        table: "metrics",
        problem: format!("trial {trial}: {problem}"),
    })?;
    let inherit = |line: plateau_proto::v1::MetricsChunk| InheritedChunk {
        digest: *blake3::hash(&line.encode_to_vec()).as_bytes(),
        data: chunk::pack(&line),
    };
    Ok(line.into_iter().map(inherit).collect())
}
