//! The shell's side of retention: what metrics say of a transition, and files that nothing names.
//!
//! Owns no decision about checkpoints that are recorded: those are the core's (`core/retention.rs`).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use plateau_common::config::KeepAround;
use plateau_common::identity::TrialId;
use plateau_common::limits;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::checkpoints::{Checkpoints, DAMAGED};
use crate::core::{Effect, Input, Now, Report, State, apply};
use crate::engine::Handle;
use crate::wire;

/// How often files that nothing names are looked for.
const INTERVAL: Duration = Duration::from_secs(600);

/// Lets one thing happen, and what follows from the metrics in it: that a trial's transition is found.
pub fn apply_with_transition(state: &mut State, input: Input, now: Now) -> Vec<Effect> {
    let reached = transition_in(state, &input);
    let mut effects = apply(state, input, now);
    if let Some(reached) = reached {
        effects.extend(apply(state, reached, now));
    }
    effects
}

/// The news of a transition, where a trial waits for it and its new metrics show it.
fn transition_in(state: &State, input: &Input) -> Option<Input> {
    let Input::Said { report: Report::Metrics { lease, data, .. }, .. } = input else { return None };
    let trial = state.trials.get(&lease.trial).filter(|trial| trial.transition.is_none())?;
    let policy = trial.keep_around.as_ref()?;
    match first_reached(policy, data) {
        Ok(step) => step.map(|step| Input::TransitionReached { lease: *lease, step }),
        Err(problem) => {
            tracing::error!(trial = %lease.trial, problem, "metrics just packed cannot be read");
            None
        }
    }
}

/// The first evaluation of a stored chunk at which the policy's metric is at its level.
pub(crate) fn first_reached(policy: &KeepAround, data: &[u8]) -> Result<Option<u64>, String> {
    let chunk = wire::stored_chunk(data)?;
    let Some(column) = chunk.columns.iter().find(|column| column.name == policy.metric.name()) else {
        return Ok(None);
    };
    // A sender says what is missing, so looking each place up in its list could take quadratic time.
    let missing: HashSet<u32> = column.missing.iter().copied().collect();
    let measured = chunk.steps.iter().zip(&column.values).enumerate();
    let mut measured = measured.filter(|(place, _)| !missing.contains(&(*place as u32)));
    Ok(measured.find(|(_, (_, value))| policy.is_reached(**value)).map(|(_, (step, _))| *step))
}

/// Files of the checkpoint store that no record names: leftovers of uploads that were refused or cut off, and of deletions.
/// Deleted after a grace that is longer than any upload takes, counted on this process's own clock.
#[derive(Clone, Default)]
pub struct Orphans {
    /// When each was seen first.
    seen: Arc<Mutex<HashMap<String, Instant>>>,
}

/// What a look for such files found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Files deleted.
    pub deleted: u64,
    /// Their bytes.
    pub deleted_bytes: u64,
    /// Files whose grace is not over.
    pub waiting: u64,
    /// Their bytes.
    pub waiting_bytes: u64,
}

impl Orphans {
    /// Looks for them; deletes those that were seen [`limits::ORPHAN_GRACE_SECONDS`] ago, unless `dry_run`.
    pub async fn look(&self, engine: &Handle, checkpoints: &Checkpoints, dry_run: bool) -> Result<Found> {
        self.look_at(engine, checkpoints, dry_run, Instant::now()).await
    }

    async fn look_at(
        &self,
        engine: &Handle,
        checkpoints: &Checkpoints,
        dry_run: bool,
        now: Instant,
    ) -> Result<Found> {
        // The list before the question: whatever is recorded in between is named.
        let contents = checkpoints.contents().await.context("listing the checkpoint store")?;
        let named = engine.query(|state, _| named(state)).await?;
        let mut seen = self.seen.lock().await;
        let orphans: BTreeMap<String, u64> =
            contents.into_iter().filter(|(place, _)| !named.holds(place)).collect();
        seen.retain(|place, _| orphans.contains_key(place));
        let grace = Duration::from_secs(limits::ORPHAN_GRACE_SECONDS);
        let mut found = Found::default();
        for (place, bytes) in orphans {
            let first = *seen.entry(place.clone()).or_insert(now);
            if now.saturating_duration_since(first) < grace || dry_run {
                (found.waiting, found.waiting_bytes) = (found.waiting + 1, found.waiting_bytes + bytes);
                continue;
            }
            checkpoints.delete_orphan(&place).await.with_context(|| format!("deleting {place}"))?;
            tracing::info!(place, bytes, "a file that nothing names was deleted");
            seen.remove(&place);
            (found.deleted, found.deleted_bytes) = (found.deleted + 1, found.deleted_bytes + bytes);
        }
        Ok(found)
    }
}

/// Looks for files that nothing names, again and again.
pub async fn watch(orphans: Orphans, engine: Handle, checkpoints: Checkpoints) {
    let mut interval = tokio::time::interval(INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        if let Err(error) = orphans.look(&engine, &checkpoints, false).await {
            let error = format!("{error:#}");
            tracing::warn!(error, "files that nothing names were not looked for");
        }
    }
}

/// What a store must keep.
struct Named {
    /// Folders of recorded checkpoints.
    folders: HashSet<String>,
    /// Beginnings of the folders of attempts that are live: an upload may be on its way there.
    live: HashSet<String>,
}

fn named(state: &State) -> Named {
    let places = |id: &TrialId, attempt: u64| Checkpoints::attempt_of(*id, attempt);
    let leased = state.trials.iter().filter(|(_, trial)| trial.lease.is_some());
    let recorded = state.trials.iter().flat_map(|(id, trial)| {
        let places = trial.checkpoints.iter();
        places.map(|known| Checkpoints::place_of(*id, known.attempt, known.step))
    });
    Named { folders: recorded.collect(), live: leased.map(|(id, trial)| places(id, trial.attempt)).collect() }
}

impl Named {
    fn holds(&self, place: &str) -> bool {
        let folder = place.rsplit_once('/').map_or("", |(folder, _)| folder);
        let attempt = folder.rsplit_once('/').map_or("", |(attempt, _)| attempt);
        place.starts_with(&format!("{DAMAGED}/"))
            || self.folders.contains(folder)
            || self.live.contains(attempt)
    }
}

#[cfg(test)]
mod tests {
    use plateau_common::config::{TransitionMetric, Window};
    use plateau_common::metrics::{Evaluation, MetricsChunk};
    use plateau_proto::convert;
    use prost::Message as _;

    use super::*;

    #[test]
    fn a_transition_is_the_first_evaluation_at_the_level() {
        let evaluation = |step, value: Option<f64>| Evaluation {
            step,
            values: value.map(|value| ("test_accuracy".to_owned(), value)).into_iter().collect(),
        };
        let packed = |evaluations: &[Evaluation]| {
            let chunk = convert::metrics_chunk_to_wire(&MetricsChunk::from_evaluations(evaluations));
            zstd::bulk::compress(&chunk.encode_to_vec(), 3).unwrap()
        };
        let policy = KeepAround {
            metric: TransitionMetric::TestAccuracy,
            level: 0.9,
            within: Window::Steps(10),
            budget: None,
        };
        let curve = [
            evaluation(0, Some(0.1)),
            evaluation(10, Some(f64::NAN)),
            evaluation(20, None),
            evaluation(30, Some(0.95)),
            evaluation(40, Some(0.2)),
            evaluation(50, Some(1.0)),
        ];
        assert_eq!(first_reached(&policy, &packed(&curve)), Ok(Some(30)));
        assert_eq!(first_reached(&policy, &packed(&curve[..3])), Ok(None));
        let other = KeepAround { metric: TransitionMetric::TrainLoss, ..policy };
        assert_eq!(first_reached(&other, &packed(&curve)), Ok(None));
        assert!(first_reached(&other, b"rubbish").is_err());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn files_that_nothing_names_go_after_the_grace_and_their_folders_with_them() {
        let folder = tempfile::tempdir().unwrap();
        let store = crate::store::Store::open(folder.path()).unwrap();
        let checkpoints = Checkpoints::in_folder(folder.path().join("checkpoints")).unwrap();
        let (engine, end) = crate::engine::start(store, checkpoints.clone()).unwrap();
        let orphan = |name: &str| {
            let path = folder.path().join("checkpoints").join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, b"12345").unwrap();
            path
        };
        let first = orphan("trials/a/attempts/1/step-3/weights.safetensors");
        let damaged = orphan("damaged/x/weights.safetensors");
        let orphans = Orphans::default();
        let start = Instant::now();
        let grace = Duration::from_secs(limits::ORPHAN_GRACE_SECONDS);
        let look =
            async |at, dry_run| orphans.look_at(&engine, &checkpoints, dry_run, start + at).await.unwrap();
        let waiting = Found { waiting: 1, waiting_bytes: 5, ..Found::default() };
        assert_eq!(look(Duration::ZERO, false).await, waiting);
        let second = orphan("uploads/b/weights.safetensors#1");
        assert_eq!(look(grace - Duration::from_secs(1), false).await.waiting, 2);
        assert_eq!(look(grace, true).await.waiting, 2, "a dry run deletes nothing");
        assert_eq!(look(grace, false).await, Found { deleted: 1, deleted_bytes: 5, ..waiting });
        assert!(!first.exists() && second.exists());
        assert!(!folder.path().join("checkpoints/trials").exists(), "nothing of it is left");
        assert_eq!(look(2 * grace, false).await.deleted, 1);
        assert!(damaged.exists(), "what is kept for inspection stays");
        engine.stop().await;
        end.await.unwrap().unwrap();
    }
}
