//! A sweep's results: one trial after another, its curves without doubles, cut at the sweep's budget.

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
    let mut line = Vec::new();
    let mut last: Option<u64> = None;
    for row in chunks {
        let later = attempts.iter().filter(|attempt| attempt.started && attempt.attempt > row.attempt);
        let end = later.map(|attempt| attempt.from_step).min().unwrap_or(u64::MAX).min(budget);
        let chunk = wire::stored_chunk(&row.data)?;
        let chunk = keep(chunk, |step| step <= end && last.is_none_or(|last| step > last));
        if let Some(step) = chunk.steps.last() {
            last = Some(*step);
            line.push(chunk);
        }
    }
    Ok(line)
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
