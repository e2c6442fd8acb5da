//! Checkpoints on their way in and out.

use bytes::Bytes;
use futures::{Stream, StreamExt};
use plateau_common::checkpoint::Manifest;
use plateau_common::identity::TrialId;
use plateau_common::limits;
use plateau_proto::v1;
use tonic::Status;

use super::{Context, done};
use crate::checkpoints::Piece;
use crate::core::{Input, LeaseKey};
use crate::failpoint;

/// Stores an upload and records it; the answer means that it is on disk.
pub async fn store(
    context: &Context,
    lease: LeaseKey,
    step: u64,
    manifest: Bytes,
    pieces: impl Stream<Item = Result<Piece, Status>> + Unpin,
) -> Result<(), Status> {
    // A sender that is not yet known to tell the truth may say more than is true, never less: the rest is refused.
    let wanted = Manifest::parse(&manifest)
        .map_or(0, |manifest| manifest.files.iter().fold(0u64, |sum, file| sum.saturating_add(file.bytes)));
    if let Some(folder) = context.checkpoints.folder() {
        context.room.check(folder, "a checkpoint", wanted)?;
    }
    let staged = context.checkpoints.stage(lease, step, manifest, pieces).await??;
    let (weights_hash, bytes) = (staged.manifest().weights_hash.clone(), staged.bytes());
    pass(failpoint::UPLOAD_RECEIVED)?;
    if let Some(known) = recorded(context, lease, step).await? {
        // What is recorded must not be touched: the files of both would lie in one place.
        context.checkpoints.discard(&staged).await;
        if known == weights_hash {
            // A repeated upload whose first answer was lost.
            return Ok(());
        }
        return Err(Status::failed_precondition(format!("step {step} is recorded with other content")));
    }
    if let Err(error) = context.checkpoints.commit(lease, step, &staged).await {
        context.checkpoints.discard(&staged).await;
        return Err(error.into());
    }
    pass(failpoint::UPLOAD_PUBLISHED)?;
    let answer = context.engine.request(Input::CheckpointStored { lease, step, weights_hash, bytes }).await?;
    if let Err(status) = done(answer) {
        // Superseded while it was on its way: its files are under its own attempt and are referenced by nothing, unless
        // another upload of the same step was recorded meanwhile.
        if recorded(context, lease, step).await?.is_none() {
            context.checkpoints.delete(lease.trial, lease.attempt, step).await?;
        }
        return Err(status);
    }
    pass(failpoint::UPLOAD_RECORDED)?;
    tracing::info!(trial = %lease.trial, attempt = lease.attempt, step, bytes, "checkpoint stored");
    Ok(())
}

/// Comes by a place where tests make uploads fail.
fn pass(place: &'static str) -> Result<(), Status> {
    failpoint::pass(place).map_err(|error| Status::unavailable(error.to_string()))
}

/// Digest of the weights recorded under this attempt and step, if there are any.
async fn recorded(context: &Context, lease: LeaseKey, step: u64) -> Result<Option<String>, Status> {
    let known = context.engine.query(move |state, _| {
        let trial = state.trials.get(&lease.trial)?;
        let mut checkpoints = trial.checkpoints.iter();
        let known = checkpoints.find(|known| (known.attempt, known.step) == (lease.attempt, step))?;
        Some(known.weights_hash.clone())
    });
    Ok(known.await?)
}

/// [`fetch`] for the lease that is to continue from it. The checkpoint is read and verified as a whole first: a damaged one
/// is set aside and the core told, so that the trial continues from the one before; the status is then `DATA_LOSS`.
pub async fn fetch_to_continue(
    context: &Context,
    trial: TrialId,
    attempt: u64,
    step: u64,
) -> Result<impl Stream<Item = Result<v1::CheckpointChunk, Status>> + Send + 'static, Status> {
    verified(context, trial, attempt, step).await?;
    fetch(context, trial, attempt, step).await
}

/// The manifest of a stored checkpoint that was read and verified as a whole; a damaged one is set aside as in
/// [`fetch_to_continue`].
pub async fn verified(
    context: &Context,
    trial: TrialId,
    attempt: u64,
    step: u64,
) -> Result<Manifest, Status> {
    let damage = match context.checkpoints.verify(trial, attempt, step).await {
        Ok(manifest) => return Ok(manifest),
        Err(error) if error.is_damage() => error,
        Err(error) => return Err(error.into()),
    };
    let aside = context.checkpoints.set_aside(trial, attempt, step).await?;
    let problem = format!("{damage}; what is left of it: {aside}");
    tracing::error!(%trial, attempt, step, problem, "a checkpoint is damaged");
    done(context.engine.request(Input::CheckpointDamaged { trial, attempt, step, problem }).await?)?;
    Err(damage.into())
}

/// A stored checkpoint as a stream: its manifest, then its files' bytes in the manifest's order.
pub async fn fetch(
    context: &Context,
    trial: TrialId,
    attempt: u64,
    step: u64,
) -> Result<impl Stream<Item = Result<v1::CheckpointChunk, Status>> + Send + 'static, Status> {
    let checkpoints = context.checkpoints.clone();
    let (manifest, bytes) = checkpoints.manifest(trial, attempt, step).await?;
    let first = v1::CheckpointChunk { part: Some(v1::checkpoint_chunk::Part::Manifest(bytes.to_vec())) };
    let files = futures::stream::iter(manifest.files).then(move |file| {
        let checkpoints = checkpoints.clone();
        async move {
            match checkpoints.read(trial, attempt, step, &file).await {
                Ok(stream) => chunks(file.name, stream).left_stream(),
                Err(error) => futures::stream::iter([Err(Status::from(error))]).right_stream(),
            }
        }
    });
    Ok(futures::stream::iter([Ok(first)]).chain(files.flatten()))
}

fn chunks(
    name: String,
    stream: impl Stream<Item = Result<Bytes, crate::checkpoints::CheckpointError>> + Send + Unpin + 'static,
) -> impl Stream<Item = Result<v1::CheckpointChunk, Status>> + Send {
    let start = (stream, Bytes::new(), 0u64, name);
    futures::stream::try_unfold(start, |(mut stream, mut rest, offset, name)| async move {
        while rest.is_empty() {
            match stream.next().await {
                Some(bytes) => rest = bytes?,
                None => return Ok(None),
            }
        }
        let data = rest.split_to(rest.len().min(limits::CHECKPOINT_CHUNK_BYTES));
        let next = offset + data.len() as u64;
        let file = v1::checkpoint_chunk::FileBytes { name: name.clone(), offset, data: data.to_vec() };
        let chunk = v1::CheckpointChunk { part: Some(v1::checkpoint_chunk::Part::Data(file)) };
        Ok(Some((chunk, (stream, rest, next, name))))
    })
}
