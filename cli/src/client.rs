//! The connection to a coordinator, and its errors in words.
//!
//! Which coordinator: the one a data directory belongs to (`--data-dir`), else the one named by `--coordinator` or
//! `PLATEAU_COORDINATOR`, else the one on this machine. Where a data directory has no running coordinator, one is started
//! inside this process for as long as the command takes, so that finished work can be looked at at any time.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use clap::{Args, ValueHint};
use plateau_common::limits;
use plateau_proto::v1;
use plateau_proto::v1::plateau_service_client::PlateauServiceClient;
use serde::Deserialize;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

/// Where a coordinator listens unless told otherwise.
pub const DEFAULT_ADDRESS: &str = "http://127.0.0.1:7733";
/// The environment variable that names the object store of checkpoints.
pub const CHECKPOINT_STORE: &str = "PLATEAU_CHECKPOINT_STORE";
/// The file in a data directory that says where its coordinator listens.
const ADDRESS_FILE: &str = "coordinator.json";
/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The option of all commands that ask a coordinator.
#[derive(Args, Clone, Debug, Default)]
pub struct DataDirectory {
    /// Data directory of a coordinator on this machine, running or not; wins over --coordinator
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub data_dir: Option<PathBuf>,
}

/// Which coordinator is meant.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its address.
    pub coordinator: String,
    /// Or the folder it keeps its data in, which wins.
    pub data_dir: Option<PathBuf>,
}

/// The gRPC client behind a [`Connection`].
pub type Service = PlateauServiceClient<Channel>;

/// A coordinator that answers.
pub struct Connection {
    /// Its address, as a URL.
    pub address: String,
    /// The client to ask it with.
    pub service: Service,
    /// The coordinator started for this command, if none was running.
    own: Option<plateau_coordinator::Running>,
}

/// `coordinator.json`.
#[derive(Debug, Deserialize)]
struct AddressFile {
    address: String,
}

impl Target {
    /// Connects; fails if nothing answers.
    pub async fn connect(&self) -> anyhow::Result<Connection> {
        let Some(data_dir) = &self.data_dir else {
            return connect(&self.coordinator).await;
        };
        if let Some(running) = running_on(data_dir).await {
            return Ok(running);
        }
        start_on(data_dir).await
    }

    /// The options that name this coordinator again on a command line, with a blank in front; empty for the default.
    pub fn as_options(&self) -> String {
        match &self.data_dir {
            Some(data_dir) => format!(" --data-dir {}", shell_word(&data_dir.to_string_lossy())),
            None if self.coordinator == DEFAULT_ADDRESS => String::new(),
            None if std::env::var("PLATEAU_COORDINATOR").is_ok_and(|named| named == self.coordinator) => {
                String::new()
            }
            None => format!(" --coordinator {}", shell_word(&self.coordinator)),
        }
    }
}

/// A word as a shell takes it literally.
pub fn shell_word(word: &str) -> String {
    let plain = |character: char| character.is_ascii_alphanumeric() || "-_./:=,@%+".contains(character);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Connects to the coordinator at `address` (`host:port` or a URL).
pub async fn connect(address: &str) -> anyhow::Result<Connection> {
    let url = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
    let endpoint = Endpoint::from_shared(url.clone())
        .with_context(|| {
            format!("`{address}` is no address of a coordinator (expected e.g. {DEFAULT_ADDRESS})")
        })?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(20));
    let channel = endpoint.connect().await.map_err(|error| {
        anyhow!(
            "no coordinator answers at {url} ({}); start one with `plateau coordinator --data-dir DIR`, name another \
             with --coordinator URL, or give the folder of a local one with --data-dir DIR",
            innermost(&error)
        )
    })?;
    let service = PlateauServiceClient::new(channel).max_decoding_message_size(limits::MAX_MESSAGE_BYTES);
    Ok(Connection { address: url, service, own: None })
}

/// The coordinator that serves `data_dir` now, if one does.
pub async fn running_on(data_dir: &Path) -> Option<Connection> {
    let text = std::fs::read_to_string(data_dir.join(ADDRESS_FILE)).ok()?;
    let file: AddressFile = serde_json::from_str(&text).ok()?;
    let mut connection = connect(&file.address).await.ok()?;
    // The port may meanwhile belong to somebody else.
    connection.service.list_agents(v1::ListAgentsRequest {}).await.ok()?;
    Some(connection)
}

async fn start_on(data_dir: &Path) -> anyhow::Result<Connection> {
    if !data_dir.is_dir() {
        return Err(anyhow!(
            "there is no data directory {}; `plateau run` and `plateau coordinator` make one",
            data_dir.display()
        ));
    }
    let options = plateau_coordinator::Options {
        data_dir: data_dir.to_owned(),
        listen: std::net::SocketAddr::from(([127, 0, 0, 1], 0)),
        checkpoint_store: std::env::var(CHECKPOINT_STORE).ok(),
        allow_insecure: false,
    };
    let running = plateau_coordinator::start(options)
        .await
        .with_context(|| format!("opening the data directory {}", data_dir.display()))?;
    let mut connection = connect(&running.local_addr.to_string()).await?;
    connection.own = Some(running);
    Ok(connection)
}

impl Connection {
    /// Whether the coordinator was started for this command only, and therefore has no agents.
    pub fn is_own(&self) -> bool {
        self.own.is_some()
    }

    /// Ends the connection and, if it was started for this command, the coordinator.
    pub async fn close(self) -> anyhow::Result<()> {
        drop(self.service);
        match self.own {
            Some(own) => own.stop().await.context("closing the data directory"),
            None => Ok(()),
        }
    }
}

/// A refusal of the coordinator as an error: `what` was being asked.
pub fn refusal(what: &str, status: &Status) -> anyhow::Error {
    let message = status.message();
    match status.code() {
        Code::NotFound | Code::InvalidArgument | Code::FailedPrecondition | Code::AlreadyExists => {
            anyhow!("{what}: {message}")
        }
        Code::Unimplemented => anyhow!("{what}: this coordinator cannot do that ({message}); update it"),
        Code::Unavailable | Code::Cancelled | Code::Unknown => anyhow!(
            "{what}: the connection to the coordinator was lost ({message}); nothing acknowledged is lost, try again"
        ),
        code => anyhow!("{what}: {message} ({code:?})"),
    }
}

/// Whether a failed call may succeed later without any change: the coordinator restarts, the network blinks.
pub fn is_passing(status: &Status) -> bool {
    // tonic reports a broken stream as `Unknown` or `Internal` with an HTTP/2 error for its source.
    match status.code() {
        Code::Unavailable | Code::Cancelled => true,
        Code::Unknown | Code::Internal => std::error::Error::source(status).is_some(),
        _ => false,
    }
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_names_itself_again() {
        let target = |coordinator: &str, data_dir: Option<&str>| Target {
            coordinator: coordinator.to_owned(),
            data_dir: data_dir.map(PathBuf::from),
        };
        assert_eq!(target(DEFAULT_ADDRESS, None).as_options(), "");
        assert_eq!(target("http://node7:1", None).as_options(), " --coordinator http://node7:1");
        assert_eq!(target(DEFAULT_ADDRESS, Some("my data")).as_options(), " --data-dir 'my data'");
    }

    #[tokio::test]
    async fn an_unreachable_coordinator_is_named_with_what_to_do() {
        // Port 1 is reserved and has no service on any sane machine.
        let Err(error) = connect("127.0.0.1:1").await else { panic!("something answers on port 1") };
        let text = error.to_string();
        assert!(text.starts_with("no coordinator answers at http://127.0.0.1:1 ("), "{text}");
        assert!(text.contains("plateau coordinator --data-dir DIR"), "{text}");
    }

    #[test]
    fn refusals_say_what_was_asked() {
        let text = refusal("showing the sweep `x`", &Status::not_found("no sweep is called `x`")).to_string();
        assert_eq!(text, "showing the sweep `x`: no sweep is called `x`");
        assert!(is_passing(&Status::unavailable("gone")));
        assert!(!is_passing(&Status::internal("a defect")));
    }
}
