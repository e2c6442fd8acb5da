//! The gRPC services: messages in, validated inputs to the engine; answers out. No decisions are made here.

mod agents;
mod client;
mod connections;
mod forks;
mod message_limits;
mod results;
mod select;
mod submit;
mod transfer;
mod versions;
mod watch;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use plateau_common::limits;
use plateau_machine::Execution;
use plateau_proto::v1::agent_service_server::AgentServiceServer;
use plateau_proto::v1::plateau_service_server::PlateauServiceServer;
use tokio::sync::{Mutex, watch as signal};
use tonic::Status;
use tonic::transport::Server;

use crate::checkpoints::{CheckpointError, Checkpoints};
use crate::core::{Answer, Refusal};
use crate::disk::{Low, Room};
use crate::engine::Handle;
use crate::retention::Orphans;
use crate::store::{Reader, StoreError};

pub use agents::Agents;
pub use client::Clients;
pub use connections::incoming;
pub use message_limits::MessageLimits;
pub use results::lineage;
pub use versions::Versions;

/// What every service needs.
#[derive(Clone)]
pub struct Context {
    /// The engine.
    pub engine: Handle,
    /// The checkpoint store.
    pub checkpoints: Checkpoints,
    /// Room on the disks.
    pub room: Room,
    /// Where the database is, for readers.
    pub database: PathBuf,
    /// True once the coordinator stops: streams end.
    pub stopping: signal::Receiver<bool>,
    /// Files that nothing names.
    pub orphans: Orphans,
    /// Where work that blocks is done.
    pub execution: Execution,
    /// Held while forks are given what they begin with: one submission at a time does so.
    pub forking: Arc<Mutex<()>>,
}

impl Context {
    /// Answers a question from the tables, on a thread that may block.
    pub async fn read<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Reader) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Status> {
        let path = self.database.clone();
        blocking(self.execution, move || question(&Reader::open(&path)?).map_err(Failure::Store)).await
    }
}

/// Why work on a blocking thread gave no result.
pub enum Failure {
    /// The store failed.
    Store(StoreError),
    /// The request cannot be done.
    Status(Status),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Failure::Store(error)
    }
}

/// Runs `work` where it may block.
pub async fn blocking<T: Send + 'static>(
    execution: Execution,
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Status> {
    match execution.run(work).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(Failure::Status(status))) => Err(status),
        Ok(Err(Failure::Store(error))) => {
            tracing::error!(%error, "a request failed");
            Err(Status::internal(error.to_string()))
        }
        Err(error) => Err(Status::internal(format!("the request was given up: {error}"))),
    }
}

/// The status of a refusal.
pub fn refused(refusal: Refusal, reason: String) -> Status {
    match refusal {
        Refusal::NotFound => Status::not_found(reason),
        Refusal::Precondition => Status::failed_precondition(reason),
    }
}

/// An answer that only says whether it was done.
pub fn done(answer: Answer) -> Result<(), Status> {
    match answer {
        Answer::Refused(refusal, reason) => Err(refused(refusal, reason)),
        _ => Ok(()),
    }
}

impl From<CheckpointError> for Status {
    fn from(error: CheckpointError) -> Self {
        match error {
            CheckpointError::Invalid(_) => Status::invalid_argument(error.to_string()),
            CheckpointError::Damaged { .. } => Status::data_loss(error.to_string()),
            CheckpointError::Store { source: object_store::Error::NotFound { .. }, .. } => {
                Status::not_found(error.to_string())
            }
            // A full disk or an outage passes: agents try an unavailable store again and keep their lease meanwhile.
            CheckpointError::Store { .. } | CheckpointError::Io { .. } => {
                Status::unavailable(error.to_string())
            }
        }
    }
}

impl From<Low> for Status {
    fn from(low: Low) -> Self {
        Status::resource_exhausted(low.to_string())
    }
}

/// Seconds between HTTP/2 pings, also on idle connections.
pub const PING_SECONDS: u64 = 20;
/// Seconds a ping may stay unanswered before the connection is dropped.
pub const PING_ANSWER_SECONDS: u64 = 10;
/// Calls of one connection that are worked on at once.
const CONCURRENT_CALLS: usize = 256;
/// Open streams of one connection.
const CONCURRENT_STREAMS: u32 = 512;
/// Seconds the answer of any call may take to begin; a checkpoint's upload is the longest.
const CALL_SECONDS: u64 = 3600;
/// Bytes of all headers of a call.
const HEADER_BYTES: u32 = 16 << 10;
/// Streams that a peer has reset and that are not worked off yet; a peer with more is cut off ("rapid reset").
const PENDING_RESETS: usize = 64;
/// Streams of one connection that may be reset for a peer's errors before it is cut off.
const ERROR_RESETS: usize = 256;
/// Bytes in flight per stream and per connection.
const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;

/// A server with every limit set.
pub fn server() -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(PING_SECONDS)))
        .http2_keepalive_timeout(Some(Duration::from_secs(PING_ANSWER_SECONDS)))
        .concurrency_limit_per_connection(CONCURRENT_CALLS)
        .max_concurrent_streams(CONCURRENT_STREAMS)
        .timeout(Duration::from_secs(CALL_SECONDS))
        .http2_max_header_list_size(HEADER_BYTES)
        .http2_max_pending_accept_reset_streams(Some(PENDING_RESETS))
        .http2_max_local_error_reset_streams(Some(ERROR_RESETS))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
}

/// The service for clients, with its message limits.
pub fn client_service(context: Context) -> PlateauServiceServer<Clients> {
    PlateauServiceServer::new(Clients::new(context))
        .max_decoding_message_size(limits::MAX_MESSAGE_BYTES)
        .max_encoding_message_size(limits::MAX_MESSAGE_BYTES)
}

/// The service for agents, with its message limits.
pub fn agent_service(context: Context) -> AgentServiceServer<Agents> {
    AgentServiceServer::new(Agents::new(context))
        .max_decoding_message_size(limits::MAX_MESSAGE_BYTES)
        .max_encoding_message_size(limits::MAX_MESSAGE_BYTES)
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn failures_of_the_checkpoint_store_pass_and_faults_of_a_checkpoint_do_not() {
        let code = |error: CheckpointError| Status::from(error).code();
        let full = || std::io::Error::from(std::io::ErrorKind::StorageFull);
        let io = CheckpointError::Io { doing: "synchronising", path: "trials".to_owned(), source: full() };
        assert_eq!(code(io), Code::Unavailable);
        let outage = object_store::Error::Generic { store: "S3", source: Box::new(full()) };
        assert_eq!(code(CheckpointError::Store { doing: "writing", source: outage }), Code::Unavailable);
        let absent = object_store::Error::NotFound { path: "trials".to_owned(), source: Box::new(full()) };
        assert_eq!(code(CheckpointError::Store { doing: "reading", source: absent }), Code::NotFound);
        assert_eq!(code(CheckpointError::Invalid("too long".to_owned())), Code::InvalidArgument);
        let damaged = CheckpointError::Damaged { path: "trials".to_owned(), problem: "torn".to_owned() };
        assert_eq!(code(damaged), Code::DataLoss);
    }
}
