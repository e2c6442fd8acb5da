//! A sweep's results: one trial after another, its curves without doubles, cut at the sweep's budget.

use std::collections::BTreeMap;

use plateau_common::identity::TrialId;
use plateau_common::limits;
use plateau_proto::v1;
use prost::Message;
use tokio::sync::mpsc;
use tonic::Status;

use super::Context;
use crate::store::{AttemptRecord, ChunkRow, Reader, StoreError};
use crate::wire;

/// Bytes of metrics in one message; a trial with more is continued by further messages.
const MESSAGE_BYTES: usize = limits::MAX_MESSAGE_BYTES / 2;

/// Sends the results of `trials` until all are sent or nobody listens any more. Where they cannot be read, the last item
/// is an error: a stream that ends without one is whole.
pub async fn send(
    context: Context,
    trials: Vec<(TrialId, u64, v1::TrialSummary)>,
    sender: mpsc::Sender<Result<v1::TrialResult, Status>>,
) {
    let path = context.database.clone();
    let failed = sender.clone();
    let work = tokio::task::spawn_blocking(move || {
        let reader = Reader::open(&path)?;
        for (id, budget, summary) in trials {
            for message in results_of(&reader, id, budget, summary)? {
                if sender.blocking_send(Ok(message)).is_err() {
                    return Ok(());
                }
            }
        }
        Ok::<(), StoreError>(())
    });
    let problem = match work.await {
        Ok(Ok(())) => return,
        Ok(Err(error)) => format!("the results could not be read: {error}"),
        Err(error) => format!("the results were given up: {error}"),
    };
    tracing::error!("{problem}");
    // Whoever asked may have gone away; then nobody misses the word.
    let _ = failed.send(Err(Status::internal(problem))).await;
}

fn results_of(
    reader: &Reader,
    id: TrialId,
    budget: u64,
    mut summary: v1::TrialSummary,
) -> Result<Vec<v1::TrialResult>, StoreError> {
    summary.config_json = configuration(reader, id, budget)?;
    let chunks = lineage(&reader.attempts(id)?, &reader.chunks(id)?, budget).map_err(|problem| {
        StoreError::Damaged { table: "metrics", problem: format!("trial {id}: {problem}") }
    })?;
    let mut messages =
        vec![v1::TrialResult { trial: Some(summary.clone()), metrics: Vec::new(), more: false }];
    let mut size = 0;
    for chunk in chunks {
        let bytes = chunk.encoded_len();
        if size > 0 && size + bytes > MESSAGE_BYTES {
            if let Some(last) = messages.last_mut() {
                last.more = true;
            }
            messages.push(v1::TrialResult { trial: Some(summary.clone()), metrics: Vec::new(), more: false });
            size = 0;
        }
        size += bytes;
        if let Some(last) = messages.last_mut() {
            last.metrics.push(chunk);
        }
    }
    Ok(messages)
}

/// The configuration of a trial for a budget.
pub fn configuration(reader: &Reader, id: TrialId, budget: u64) -> Result<String, StoreError> {
    let damaged = |problem: String| StoreError::Damaged {
        table: "configurations",
        problem: format!("trial {id}: {problem}"),
    };
    let stored = reader.configuration(id)?.ok_or_else(|| damaged("is missing".to_owned()))?;
    wire::configuration_for(&stored, budget).map_err(damaged)
}

/// The chunks of a trial as one line of strictly increasing steps up to `budget`: where a later attempt continued from a
/// checkpoint, it replaces what an earlier one had measured beyond it.
pub fn lineage(
    attempts: &[AttemptRecord],
    chunks: &[ChunkRow],
    budget: u64,
) -> Result<Vec<v1::MetricsChunk>, String> {
    let mut measured: BTreeMap<u64, Vec<v1::MetricsChunk>> = BTreeMap::new();
    for row in chunks {
        measured.entry(row.attempt).or_default().push(wire::stored_chunk(&row.data)?);
    }
    let mut line = Vec::new();
    let mut last: Option<u64> = None;
    for (attempt, end) in parts(attempts, &measured, budget) {
        for chunk in measured.remove(&attempt).unwrap_or_default() {
            let chunk = keep(chunk, |step| step <= end && last.is_none_or(|last| step > last));
            if let Some(step) = chunk.steps.last() {
                last = Some(*step);
                line.push(chunk);
            }
        }
    }
    Ok(line)
}

/// The attempts that a trial's line consists of, each with the last step it contributes, found from the newest backwards:
/// the one before an attempt is that which led to the checkpoint it continued from.
fn parts(
    attempts: &[AttemptRecord],
    measured: &BTreeMap<u64, Vec<v1::MetricsChunk>>,
    budget: u64,
) -> Vec<(u64, u64)> {
    let steps = |attempt: u64| measured.get(&attempt).into_iter().flatten().flat_map(|chunk| &chunk.steps);
    let mut known: Vec<(u64, u64)> = attempts
        .iter()
        .filter(|attempt| attempt.started || measured.contains_key(&attempt.attempt))
        .map(|attempt| (attempt.attempt, attempt.from_step))
        .collect();
    known.sort_unstable();
    let mut parts: Vec<(u64, u64)> = Vec::new();
    let mut end = budget;
    for (place, (attempt, from)) in known.iter().enumerate().rev() {
        // It continued from beyond: part of the line of a larger budget.
        let beyond = *from >= end && *from > 0;
        // It ended, for a smaller budget, short of where the line goes on, and an earlier one got there; or the same at
        // the line's end.
        let reached = steps(*attempt).max().copied().unwrap_or(*from);
        let mut earlier = known[..place].iter().flat_map(|(earlier, _)| steps(*earlier));
        let beside = if parts.is_empty() {
            // It goes on beyond the budget from before its end, and has not come that far again: the end was measured.
            reached < budget && earlier.any(|step| *step == budget)
        } else {
            earlier.any(|step| *step > reached && *step <= end)
        };
        if beyond || beside {
            continue;
        }
        parts.push((*attempt, end));
        end = *from;
    }
    parts.reverse();
    parts
}

/// The evaluations of a chunk whose step passes.
fn keep(chunk: v1::MetricsChunk, passes: impl Fn(u64) -> bool) -> v1::MetricsChunk {
    if chunk.steps.iter().all(|step| passes(*step)) {
        return chunk;
    }
    // Old index -> new index of what stays.
    let mut places = std::collections::HashMap::new();
    for (index, step) in chunk.steps.iter().enumerate() {
        if passes(*step) {
            places.insert(index, places.len() as u32);
        }
    }
    let columns = chunk.columns.into_iter().map(|column| v1::MetricColumn {
        missing: column.missing.iter().filter_map(|index| places.get(&(*index as usize)).copied()).collect(),
        values: column
            .values
            .into_iter()
            .enumerate()
            .filter(|(index, _)| places.contains_key(index))
            .map(|(_, value)| value)
            .collect(),
        name: column.name,
    });
    v1::MetricsChunk {
        columns: columns.collect(),
        steps: chunk.steps.into_iter().filter(|step| passes(*step)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use plateau_common::metrics::{Evaluation, MetricsChunk};

    use super::*;

    /// The steps of the line of attempts, each (from, first measured step, last measured step).
    fn line(attempts: &[(u64, u64, u64)], budget: u64) -> Vec<u64> {
        let mut records = Vec::new();
        let mut chunks = Vec::new();
        for (number, (from_step, first, last)) in (1..).zip(attempts) {
            records.push(AttemptRecord {
                attempt: number,
                agent: String::new(),
                from_step: *from_step,
                started: true,
            });
            let evaluations: Vec<Evaluation> = (*first..=*last)
                .step_by(10)
                .map(|step| Evaluation { step, values: vec![("loss".to_owned(), number as f64)] })
                .collect();
            let chunk =
                plateau_proto::convert::metrics_chunk_to_wire(&MetricsChunk::from_evaluations(&evaluations));
            let data = zstd::bulk::compress(&chunk.encode_to_vec(), 3).unwrap();
            chunks.push(ChunkRow { attempt: number, data });
        }
        let line = lineage(&records, &chunks, budget).unwrap();
        line.into_iter().flat_map(|chunk| chunk.steps).collect()
    }

    fn tens(last: u64) -> Vec<u64> {
        (0..=last).step_by(10).collect()
    }

    #[test]
    fn a_later_attempt_replaces_what_was_measured_beyond_its_checkpoint() {
        assert_eq!(line(&[(0, 0, 130), (95, 100, 110)], 200), tens(110));
        assert_eq!(line(&[(0, 0, 130), (95, 100, 110), (95, 100, 200)], 200), tens(200));
        assert_eq!(line(&[(0, 0, 200), (200, 210, 300)], 150), tens(150));
    }

    #[test]
    fn an_attempt_for_a_smaller_budget_leaves_no_gap_in_the_longer_line() {
        // Trained to 500, then anew to 300 for a shorter sweep, then on from 500.
        let attempts = [(0, 0, 500), (0, 0, 300), (500, 510, 700)];
        assert_eq!(line(&attempts, 700), tens(700));
        assert_eq!(line(&attempts, 300), tens(300));
    }

    #[test]
    fn an_attempt_that_goes_on_from_before_the_end_takes_nothing_from_what_was_completed() {
        // Completed at 500; its last checkpoint was lost, so a longer budget goes on from 450 and has come to 460.
        let attempts = [(0, 0, 500), (450, 460, 460)];
        assert_eq!(line(&attempts, 500), tens(500));
        assert_eq!(line(&attempts, 1000), tens(460));
    }
}
