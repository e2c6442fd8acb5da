//! Checkpoints: every one that the tables name opens and holds its digests; what no table names is listed apart.

use std::collections::{BTreeMap, HashSet};

use anyhow::Result;
use plateau_common::identity::TrialId;

use super::{Kind, Leftover, RESTORE, Report};
use crate::checkpoints::{CheckpointError, Checkpoints, DAMAGED};
use crate::store::{CheckpointRow, Inspection};

const SET_ASIDE_LATER: &str =
    "nothing: the coordinator sets it aside when the trial is to continue from it, and takes the one before";

pub(super) async fn check(
    inspection: &Inspection,
    checkpoints: Option<&Checkpoints>,
    report: &mut Report,
) -> Result<()> {
    let rows = report.read("table checkpoints", inspection.checkpoints()).unwrap_or_default();
    let attempts: BTreeMap<String, i64> =
        inspection.trials().unwrap_or_default().into_iter().map(|row| (row.id, row.attempt)).collect();
    let mut referenced = HashSet::new();
    for row in rows {
        report.checkpoints += 1;
        let row_place = format!("table checkpoints, trial {}, step {}", row.trial.escape_debug(), row.step);
        let last = attempts.get(&row.trial).copied().unwrap_or(0);
        let numbers = (u64::try_from(row.attempt), u64::try_from(row.step));
        let (Some(trial), (Ok(attempt), Ok(step))) = (TrialId::parse(&row.trial), numbers) else {
            report.add(Kind::Checkpoint, row_place, "the row names no checkpoint", RESTORE);
            continue;
        };
        if row.attempt < 1 || row.attempt > last {
            let problem = format!("it is of attempt {attempt}, and the trial's last is {last}");
            report.add(Kind::Checkpoint, row_place, problem, RESTORE);
        }
        let place = Checkpoints::place_of(trial, attempt, step);
        if let Some(problem) = problem_of(checkpoints, &row, trial, attempt, step).await? {
            report.add(Kind::Checkpoint, &*place, problem, SET_ASIDE_LATER);
        }
        report.checkpoint_bytes += u64::try_from(row.bytes).unwrap_or(0);
        referenced.insert(place);
    }
    if let Some(checkpoints) = checkpoints {
        leftovers(checkpoints, &referenced, report).await?;
    }
    Ok(())
}

/// What is wrong with a stored checkpoint. An error means that the store did not answer.
async fn problem_of(
    checkpoints: Option<&Checkpoints>,
    row: &CheckpointRow,
    trial: TrialId,
    attempt: u64,
    step: u64,
) -> Result<Option<String>> {
    let Some(checkpoints) = checkpoints else {
        return Ok(Some("there is no checkpoint store: is its disk mounted?".to_owned()));
    };
    let manifest = match checkpoints.verify(trial, attempt, step).await {
        Ok(manifest) => manifest,
        Err(error) if error.is_damage() || matches!(error, CheckpointError::Io { .. }) => {
            return Ok(Some(error.to_string()));
        }
        Err(error) => return Err(error.into()),
    };
    if manifest.weights_hash != row.weights_hash {
        return Ok(Some("its weights are not those that were recorded".to_owned()));
    }
    let bytes: u64 = manifest.files.iter().fold(0, |sum, file| sum.saturating_add(file.bytes));
    let sized = u64::try_from(row.bytes) == Ok(bytes);
    Ok((!sized).then(|| format!("its files have {bytes} bytes, recorded were {}", row.bytes)))
}

/// Lists what the store holds and no row names, folder by folder.
async fn leftovers(
    checkpoints: &Checkpoints,
    referenced: &HashSet<String>,
    report: &mut Report,
) -> Result<()> {
    let mut folders: BTreeMap<String, u64> = BTreeMap::new();
    for (location, bytes) in checkpoints.contents().await? {
        let folder = location.rsplit_once('/').map_or("", |(folder, _)| folder);
        if !referenced.contains(folder) {
            *folders.entry(folder.to_owned()).or_default() += bytes;
        }
    }
    for (place, bytes) in folders {
        let what = match place.split('/').next() {
            Some("uploads") => "an upload that was cut off; the next start of the coordinator deletes it",
            Some("trials") => {
                "a checkpoint that is no longer kept; the next start of the coordinator deletes it"
            }
            Some(DAMAGED) => "a damaged checkpoint, kept for inspection; delete it when it is of no more use",
            _ => "not of plateau; nothing reads it",
        };
        report.leftovers.push(Leftover { place, bytes, what });
    }
    Ok(())
}
