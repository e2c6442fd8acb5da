//! The service for agents: sessions and checkpoints.

use std::pin::Pin;
use std::time::Duration;

use futures::{Stream, StreamExt};
use plateau_common::limits;
use plateau_proto::convert::{self, WireError};
use plateau_proto::protocol::Protocols;
use plateau_proto::v1;
use plateau_proto::v1::agent_service_server::AgentService;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::versions::negotiate;
use super::{Context, transfer};
use crate::checkpoints::Piece;
use crate::core::{Input, Introduction, LeaseKey, State};
use crate::wire;

/// Messages waiting for one agent at most; an agent that reads more slowly loses its session.
const OUTGOING: usize = 1024;
/// How long a new session may take to introduce itself.
const HELLO: Duration = Duration::from_secs(10);

/// The service for agents.
pub struct Agents {
    context: Context,
}

impl Agents {
    /// The service.
    pub fn new(context: Context) -> Self {
        Agents { context }
    }
}

type Outgoing<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl AgentService for Agents {
    type SessionStream = Outgoing<v1::CoordinatorMessage>;
    type DownloadCheckpointStream = Outgoing<v1::CheckpointChunk>;

    async fn session(
        &self,
        request: Request<Streaming<v1::AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let mut incoming = request.into_inner();
        let first = tokio::time::timeout(HELLO, incoming.message())
            .await
            .map_err(|_| Status::deadline_exceeded("the session did not begin with Hello in time"))??;
        let (sequence, agent, protocol) = hello(first)?;
        let engine = self.context.engine.clone();
        let session = engine.new_session();
        let (sender, receiver) = mpsc::channel(OUTGOING);
        let closed = engine.sessions.open(session, sender);
        tracing::info!(
            agent = agent.name,
            session,
            device = agent.device,
            host = agent.host,
            "agent connected"
        );
        let name = agent.name.clone();
        if let Err(stopped) = engine.send(Input::Connected { session, sequence, agent }).await {
            engine.sessions.close(session, None);
            return Err(stopped.into());
        }
        tokio::spawn(async move {
            let end = tokio::select! {
                biased;
                // Closed by the engine: superseded, too slow, or the coordinator stops.
                _ = closed => Ok(()),
                end = listen(&engine, session, &name, incoming) => end,
            };
            if let Err(status) = &end {
                tracing::warn!(agent = name, session, %status, "session ended");
            }
            engine.sessions.close(session, end.err());
            // A stopping engine has closed every session itself.
            let _ = engine.send(Input::Disconnected { session, agent: name }).await;
        });
        let outgoing = ReceiverStream::new(receiver);
        Ok(Response::new(Box::pin(outgoing.map(move |message| Ok(in_version(protocol, message?))))))
    }

    async fn upload_checkpoint(
        &self,
        request: Request<Streaming<v1::UploadCheckpointRequest>>,
    ) -> Result<Response<v1::UploadCheckpointResponse>, Status> {
        let mut incoming = request.into_inner();
        let first = idle(incoming.message()).await??;
        let Some(v1::upload_checkpoint_request::Part::Header(header)) =
            first.and_then(|message| message.part)
        else {
            return Err(WireError::new("header", "must be the first message of an upload").into());
        };
        let lease = wire::lease_key("lease", header.lease)?;
        let second = idle(incoming.message()).await??.and_then(|message| message.part);
        let manifest = match second {
            Some(v1::upload_checkpoint_request::Part::Chunk(v1::CheckpointChunk {
                part: Some(v1::checkpoint_chunk::Part::Manifest(manifest)),
            })) => manifest,
            _ => return Err(WireError::new("manifest", "must follow the header of an upload").into()),
        };
        let current = self.context.engine.query(move |state, _| is_current(state, lease)).await?;
        current.map_err(Status::failed_precondition)?;
        let pieces = futures::stream::unfold(Some(incoming), |incoming| async move {
            let mut incoming = incoming?;
            match idle(incoming.message()).await {
                Ok(Ok(None)) => None,
                Ok(Ok(Some(message))) => Some((piece(message), Some(incoming))),
                Ok(Err(status)) | Err(status) => Some((Err(status), None)),
            }
        });
        transfer::store(&self.context, lease, header.step, manifest.into(), Box::pin(pieces)).await?;
        Ok(Response::new(v1::UploadCheckpointResponse {}))
    }

    async fn download_checkpoint(
        &self,
        request: Request<v1::DownloadCheckpointRequest>,
    ) -> Result<Response<Self::DownloadCheckpointStream>, Status> {
        let request = request.into_inner();
        let lease = wire::lease_key("lease", request.lease)?;
        let reference = convert::required("checkpoint", request.checkpoint)?;
        let trial = convert::trial_id("checkpoint", &reference.trial)?;
        let known = self.context.engine.query(move |state, _| {
            is_current(state, lease)?;
            let checkpoints =
                state.trials.get(&trial).map(|trial| trial.checkpoints.as_slice()).unwrap_or_default();
            let found = checkpoints.iter().any(|checkpoint| {
                (checkpoint.attempt, checkpoint.step) == (reference.attempt, reference.step)
            });
            found.then_some(()).ok_or_else(|| "the checkpoint is no longer held".to_owned())
        });
        known.await?.map_err(Status::failed_precondition)?;
        let chunks =
            transfer::fetch_to_continue(&self.context, trial, reference.attempt, reference.step).await?;
        Ok(Response::new(Box::pin(chunks)))
    }
}

fn is_current(state: &State, lease: LeaseKey) -> Result<(), String> {
    let current = state.trials.get(&lease.trial).and_then(|trial| trial.current(lease.attempt));
    current
        .map(|_| ())
        .ok_or_else(|| format!("attempt {} of trial {} is not current", lease.attempt, lease.trial))
}

/// Bounds the silence within a stream.
async fn idle<T>(next: impl Future<Output = T>) -> Result<T, Status> {
    let silence = Duration::from_secs(limits::LEASE_SECONDS);
    tokio::time::timeout(silence, next)
        .await
        .map_err(|_| Status::deadline_exceeded("nothing was sent for a minute"))
}

fn piece(message: v1::UploadCheckpointRequest) -> Result<Piece, Status> {
    match message.part {
        Some(v1::upload_checkpoint_request::Part::Chunk(v1::CheckpointChunk {
            part: Some(v1::checkpoint_chunk::Part::Data(data)),
        })) => Ok(Piece { name: data.name, offset: data.offset, data: data.data.into() }),
        _ => Err(WireError::new("data", "expected the bytes of a file").into()),
    }
}

/// Sequence number, agent, and the version of the protocol to speak with it.
fn hello(message: Option<v1::AgentMessage>) -> Result<(u64, Introduction, u32), Status> {
    let Some(v1::AgentMessage { sequence, body: Some(v1::agent_message::Body::Hello(hello)) }) = message
    else {
        return Err(WireError::new("hello", "must be the first message of a session").into());
    };
    let theirs = Protocols::of_hello(hello.oldest_protocol, hello.protocol)
        .ok_or_else(|| WireError::new("protocol", "is not a version of the protocol"))?;
    let version: String = hello.version.chars().take(limits::MAX_NAME_BYTES).collect();
    let protocol = negotiate(&format!("the agent (version {})", version.escape_debug()), theirs)?;
    Ok((sequence, wire::introduction(hello)?, protocol))
}

/// A message as it is said in this version of the protocol. All versions so far say the same, but for the Welcome, which
/// names the version.
fn in_version(protocol: u32, mut message: v1::CoordinatorMessage) -> v1::CoordinatorMessage {
    if let Some(v1::coordinator_message::Body::Welcome(welcome)) = &mut message.body {
        welcome.protocol = protocol;
    }
    message
}

/// Passes what an agent says to the engine until the session ends.
async fn listen(
    engine: &crate::engine::Handle,
    session: u64,
    name: &str,
    mut incoming: Streaming<v1::AgentMessage>,
) -> Result<(), Status> {
    loop {
        let Some(message) = idle(incoming.next()).await? else { return Ok(()) };
        let message = message?;
        let body = convert::required("body", message.body)?;
        let report = wire::report(body)?;
        let agent = name.to_owned();
        engine.send(Input::Said { session, agent, sequence: message.sequence, report }).await?;
    }
}
