//! Metrics: chunks numbered without gap, whole, in order; and in the line over all attempts every step that was due,
//! once.

use std::collections::BTreeMap;

use plateau_common::config::TrialConfig;
use plateau_common::identity::TrialId;

use super::{Kind, RESTORE, Report};
use crate::rpc::lineage;
use crate::store::{AttemptRecord, ChunkRow, InspectedChunk, Inspection};
use crate::wire;

pub(super) fn check(inspection: &Inspection, report: &mut Report) {
    // Tables that cannot be read were reported with the rows.
    let trials = inspection.trials().unwrap_or_default();
    let mut newest: BTreeMap<String, i64> = BTreeMap::new();
    for row in inspection.checkpoints().unwrap_or_default() {
        let newest = newest.entry(row.trial).or_default();
        *newest = row.step.max(*newest);
    }
    for row in trials {
        let Some(id) = TrialId::parse(&row.id) else { continue };
        let place = format!("table metrics, trial {id}");
        let Some(chunks) = report.read(&place, inspection.chunks(id)) else { continue };
        let attempts = inspection.reader().attempts(id).unwrap_or_default();
        report.chunks += chunks.len() as u64;
        let problems = chunk_problems(&chunks, &attempts);
        let whole = problems.is_empty();
        let chunks: Vec<ChunkRow> =
            chunks.into_iter().map(|chunk| ChunkRow { attempt: chunk.attempt, data: chunk.data }).collect();
        for problem in problems {
            report.add(Kind::Metrics, &*place, problem, RESTORE);
        }
        if !whole {
            continue;
        }
        let config = inspection.reader().configuration(id).ok().flatten();
        let config = config.and_then(|text| serde_json::from_str(&text).ok());
        let Some(config) = config.and_then(|json| TrialConfig::from_json(&json).ok()) else { continue };
        let newest = newest.get(&row.id).copied().unwrap_or(0);
        // The state that diverged is saved and not measured.
        let measured = if row.diverged_at == Some(newest) { newest - 1 } else { newest };
        let line = Line { attempts, chunks, config };
        if let Some(problem) = line.gap_of_completed(row.completed_step) {
            report.add(Kind::Metrics, &*place, problem, RESTORE);
        }
        if let Some(problem) = line.gap_below_checkpoint(newest, measured) {
            report.add(Kind::Metrics, place, problem, RESTORE);
        }
    }
}

/// What is wrong with the chunks of a trial, attempt by attempt.
fn chunk_problems(chunks: &[InspectedChunk], attempts: &[AttemptRecord]) -> Vec<String> {
    let mut problems = Vec::new();
    for together in chunks.chunk_by(|a, b| a.attempt == b.attempt) {
        let Some(attempt) = together.first().map(|chunk| chunk.attempt) else { continue };
        if !attempts.iter().any(|known| known.attempt == attempt) {
            problems.push(format!("attempt {attempt} was never granted"));
        }
        let mut last: Option<u64> = None;
        for (expected, chunk) in (0..).zip(together) {
            if chunk.chunk != expected {
                problems
                    .push(format!("attempt {attempt} lacks chunk {expected}: the next is {}", chunk.chunk));
                break;
            }
            let steps = match steps_of(chunk) {
                Ok(steps) => steps,
                Err(problem) => {
                    problems.push(format!("attempt {attempt}, chunk {expected}: {problem}"));
                    break;
                }
            };
            for step in steps {
                if let Some(last) = last.filter(|last| step <= *last) {
                    problems.push(format!(
                        "attempt {attempt}, chunk {expected}: step {step} follows step {last}"
                    ));
                }
                last = Some(step);
            }
        }
    }
    problems
}

/// The steps of a chunk whose bytes have the digest that was acknowledged.
fn steps_of(chunk: &InspectedChunk) -> Result<Vec<u64>, String> {
    let (decoded, digest) = wire::stored_chunk_with_digest(&chunk.data)?;
    if digest.as_slice() != chunk.digest {
        return Err("its bytes do not have the recorded digest".to_owned());
    }
    Ok(decoded.steps)
}

/// What a trial's line over its attempts is made of.
struct Line {
    attempts: Vec<AttemptRecord>,
    chunks: Vec<ChunkRow>,
    config: TrialConfig,
}

impl Line {
    /// The first step that is missing from the results of a trial completed at `step`.
    fn gap_of_completed(&self, step: i64) -> Option<String> {
        let step = u64::try_from(step).ok().filter(|step| *step > 0)?;
        let measured = match self.steps(&self.attempts, step) {
            Ok(measured) => measured,
            Err(problem) => return Some(problem),
        };
        if let Some(problem) = self.first_gap(&measured, step) {
            return Some(problem);
        }
        let ends = measured.last() == Some(&step);
        (!ends).then(|| format!("the trial is completed at step {step}, which was not measured"))
    }

    /// The first step up to `last` that would be missing from a training that continues from the checkpoint at `step`:
    /// whatever was due before it was recorded before it.
    fn gap_below_checkpoint(&self, step: i64, last: i64) -> Option<String> {
        let step = u64::try_from(step).ok().filter(|step| *step > 0)?;
        let last = u64::try_from(last).ok()?;
        let attempt = self.attempts.last().map_or(1, |last| last.attempt + 1);
        let next = AttemptRecord { attempt, agent: String::new(), from_step: step, started: true };
        let attempts: Vec<AttemptRecord> = self.attempts.iter().cloned().chain([next]).collect();
        match self.steps(&attempts, step + 1) {
            Ok(measured) => self.first_gap(&measured, last),
            Err(problem) => Some(problem),
        }
    }

    fn steps(&self, attempts: &[AttemptRecord], budget: u64) -> Result<Vec<u64>, String> {
        let line = lineage(attempts, &self.chunks, budget)?;
        Ok(line.into_iter().flat_map(|chunk| chunk.steps).collect())
    }

    fn first_gap(&self, measured: &[u64], reached: u64) -> Option<String> {
        let mut rest = measured;
        // Until a fork leaves its parent, the parent's settings said what was due.
        let mut due = match self.config.fork {
            Some(fork) => self.config.evaluate.next_due(fork.step),
            None => Some(0),
        };
        while let Some(step) = due.filter(|step| *step <= reached) {
            // What lies between was the last step of smaller budgets.
            let between = rest.partition_point(|measured| *measured < step);
            rest = &rest[between..];
            if rest.first() != Some(&step) {
                return Some(format!(
                    "step {step} was due and is missing, although step {reached} is recorded"
                ));
            }
            due = self.config.evaluate.next_due(step);
        }
        None
    }
}
