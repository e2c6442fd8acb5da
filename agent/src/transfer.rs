//! Checkpoints between this host's scratch folder and the coordinator, in verified pieces.

use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use plateau_common::checkpoint::{MANIFEST_FILE, Manifest};
use plateau_common::limits::{CHECKPOINT_CHUNK_BYTES, MAX_CHECKPOINT_BYTES};
use plateau_proto::connection::Channel;
use plateau_proto::v1::checkpoint_chunk::{FileBytes, Part};
use plateau_proto::v1::upload_checkpoint_request::{Header, Part as Upload};
use plateau_proto::v1::{
    CheckpointChunk, CheckpointReference, DownloadCheckpointRequest, LeaseKey, UploadCheckpointRequest,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use crate::files::Files;
use crate::link::client;

/// What arrived is not what the manifest says.
#[derive(Debug, thiserror::Error)]
#[error("what arrived of the checkpoint is not what its manifest says: {0}")]
pub struct Mismatch(String);

/// Pieces in flight.
const WINDOW: usize = 4;

/// Sends the checkpoint in `folder`; returns when the coordinator has it on disk. The status says whether trying again
/// may help.
pub async fn upload(
    channel: Channel,
    files: Files,
    lease: LeaseKey,
    step: u64,
    folder: &Path,
) -> Result<(), tonic::Status> {
    let (sender, receiver) = mpsc::channel(WINDOW);
    let folder = folder.to_owned();
    let reading = tokio::spawn(async move { send_files(&sender, files, lease, step, &folder).await });
    let answer = client(channel).upload_checkpoint(ReceiverStream::new(receiver)).await;
    let read = reading.await.map_err(|error| tonic::Status::internal(error.to_string()))?;
    match (answer, read) {
        (Ok(_), Ok(())) => Ok(()),
        (_, Err(error)) if error.downcast_ref::<std::io::Error>().is_some() => {
            Err(tonic::Status::internal(format!("{error:#}")))
        }
        // The coordinator's word goes first: a refused stream also looks like a failed send.
        (Err(status), _) => Err(status),
        (Ok(_), Err(error)) => Err(tonic::Status::internal(format!("{error:#}"))),
    }
}

async fn send_files(
    sender: &mpsc::Sender<UploadCheckpointRequest>,
    files: Files,
    lease: LeaseKey,
    step: u64,
    folder: &Path,
) -> anyhow::Result<()> {
    let send = async |part| {
        sender
            .send(UploadCheckpointRequest { part: Some(part) })
            .await
            .context("the coordinator closed the upload")
    };
    let chunk = |part| Upload::Chunk(CheckpointChunk { part: Some(part) });
    let path = folder.join(MANIFEST_FILE);
    let bytes = files.read(&path).await.with_context(|| format!("reading {}", path.display()))?;
    let manifest = Manifest::parse(&bytes).map_err(anyhow::Error::msg)?;
    send(Upload::Header(Header { lease: Some(lease), step })).await?;
    send(chunk(Part::Manifest(bytes))).await?;
    for listed in &manifest.files {
        let path = folder.join(&listed.name);
        let mut file = files.open(&path).await.with_context(|| format!("opening {}", path.display()))?;
        let mut offset = 0;
        loop {
            let data;
            (file, data) = files
                .read_piece(file, CHECKPOINT_CHUNK_BYTES)
                .await
                .with_context(|| format!("reading {}", path.display()))?;
            if data.is_empty() {
                break;
            }
            let count = data.len() as u64;
            send(chunk(Part::Data(FileBytes { name: listed.name.clone(), offset, data }))).await?;
            offset += count;
        }
    }
    Ok(())
}

/// Fetches a checkpoint into `folder` (made anew) and verifies sizes and digests.
pub async fn download(
    channel: Channel,
    files: Files,
    lease: LeaseKey,
    checkpoint: CheckpointReference,
    folder: &Path,
) -> anyhow::Result<()> {
    files.create_folder(folder).await.with_context(|| format!("making {}", folder.display()))?;
    let request = DownloadCheckpointRequest { lease: Some(lease), checkpoint: Some(checkpoint) };
    let mut stream =
        client(channel).download_checkpoint(request).await.context("asking for the checkpoint")?.into_inner();
    let first = stream.message().await?.and_then(|chunk| chunk.part);
    let Some(Part::Manifest(bytes)) = first else { bail!("the checkpoint does not start with its manifest") };
    let manifest = Manifest::parse(&bytes).map_err(Mismatch)?;
    for listed in &manifest.files {
        ensure!(
            listed.bytes <= MAX_CHECKPOINT_BYTES,
            "{} has {} bytes, over the limit",
            listed.name,
            listed.bytes
        );
        // The name is one of the two that `Manifest::parse` allows, so the path stays inside the folder.
        let path = folder.join(&listed.name);
        let mut file = files.create(&path).await.with_context(|| format!("creating {}", path.display()))?;
        let mut digest = blake3::Hasher::new();
        let mut offset = 0;
        while offset < listed.bytes {
            let Some(Part::Data(piece)) = stream.message().await?.and_then(|chunk| chunk.part) else {
                bail!(Mismatch(format!("it ends at byte {offset} of {}", listed.name)));
            };
            ensure!(
                piece.name == listed.name && piece.offset == offset && !piece.data.is_empty(),
                Mismatch(format!("its pieces are out of order at byte {offset} of {}", listed.name))
            );
            offset += piece.data.len() as u64;
            ensure!(offset <= listed.bytes, Mismatch(format!("{} is too long", listed.name)));
            digest.update(&piece.data);
            file = files
                .write_piece(file, piece.data)
                .await
                .with_context(|| format!("writing {}", path.display()))?;
        }
        let found = digest.finalize().to_hex();
        ensure!(found.as_str() == listed.blake3, Mismatch(format!("the digest of {}", listed.name)));
    }
    let path = folder.join(MANIFEST_FILE);
    files.write(&path, bytes).await.with_context(|| format!("writing {}", path.display()))
}

/// What a failed download says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed {
    /// The coordinator was away, not the checkpoint: the same download may succeed later.
    ForNow,
    /// The checkpoint is not to be had, which is no fault of the trial: it is damaged, or the lease is over. The
    /// coordinator grants the trial anew, from an older checkpoint where it must.
    WithoutFault,
    /// This host's fault.
    Here,
}

/// What a failed download says.
pub fn classify(error: &anyhow::Error) -> Failed {
    if error.downcast_ref::<Mismatch>().is_some() {
        return Failed::WithoutFault;
    }
    match error.downcast_ref::<tonic::Status>().map(tonic::Status::code) {
        Some(code) if may_succeed_later(code) => Failed::ForNow,
        Some(Code::DataLoss | Code::FailedPrecondition | Code::NotFound) => Failed::WithoutFault,
        _ => Failed::Here,
    }
}

/// Whether the same request may be accepted when made again. A full disk at the coordinator is waited out, and so is a token
/// that was revoked: a new one may be on its way into the token file.
pub fn may_succeed_later(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable
            | Code::DeadlineExceeded
            | Code::ResourceExhausted
            | Code::Unauthenticated
            | Code::Unknown
            | Code::Cancelled
    )
}

#[cfg(test)]
mod tests {
    use tonic::Status;

    use super::*;

    #[test]
    fn case_43_a_damaged_checkpoint_is_no_fault_of_the_trial() {
        let classify = |error: anyhow::Error| classify(&error.context("fetching").context("preparing"));
        let status = |code| anyhow::Error::from(Status::new(code, "said the coordinator"));
        for (code, expected) in [
            (Code::DataLoss, Failed::WithoutFault),
            (Code::FailedPrecondition, Failed::WithoutFault),
            (Code::NotFound, Failed::WithoutFault),
            (Code::Unavailable, Failed::ForNow),
            (Code::ResourceExhausted, Failed::ForNow),
            (Code::InvalidArgument, Failed::Here),
        ] {
            assert_eq!(classify(status(code)), expected, "{code:?}");
        }
        assert_eq!(classify(Mismatch("short".to_owned()).into()), Failed::WithoutFault);
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        assert_eq!(classify(full.into()), Failed::Here);
    }
}
