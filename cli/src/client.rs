//! The connection to a coordinator, and its errors in words.
//!
//! Which coordinator: the one a data directory belongs to (`--data-dir`), else the one named by `--coordinator` or
//! `PLATEAU_COORDINATOR`, else the one on this machine. Where a data directory has no running coordinator, one is started
//! inside this process for as long as the command takes, so that finished work can be looked at at any time.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use clap::{Args, ValueHint};
use plateau_common::limits;
use plateau_proto::connection::{Channel, Credentials, Route, innermost};
use plateau_proto::v1;
use plateau_proto::v1::plateau_service_client::PlateauServiceClient;
use serde::Deserialize;
use tonic::{Code, Status};

/// Where a coordinator listens unless told otherwise.
pub const DEFAULT_ADDRESS: &str = "http://127.0.0.1:7733";
/// The environment variable that names the object store of checkpoints.
pub const CHECKPOINT_STORE: &str = "PLATEAU_CHECKPOINT_STORE";
/// The file in a data directory that says where its coordinator listens.
const ADDRESS_FILE: &str = "coordinator.json";

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
    /// What is needed to reach it beyond loopback.
    pub credentials: Credentials,
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
    address: SocketAddr,
    #[serde(default)]
    tls: bool,
}

impl AddressFile {
    /// The URL to reach it by from this host.
    fn url(&self) -> String {
        let mut address = self.address;
        // Who listens on all addresses is reached on loopback, which the certificate names.
        match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
            _ => {}
        }
        format!("{}://{address}", if self.tls { "https" } else { "http" })
    }
}

impl Target {
    /// Connects; fails if nothing answers.
    pub async fn connect(&self) -> anyhow::Result<Connection> {
        let Some(data_dir) = &self.data_dir else {
            return connect(&self.coordinator, &self.credentials).await;
        };
        if let Some(running) = running_on(data_dir, &self.credentials).await? {
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

/// The URL meant by `host:port` or a URL.
pub fn url(address: &str) -> String {
    if address.contains("://") { address.to_owned() } else { format!("http://{address}") }
}

/// Connects to the coordinator at `address` (`host:port` or a URL).
pub async fn connect(address: &str, credentials: &Credentials) -> anyhow::Result<Connection> {
    let url = url(address);
    let route = Route::new(&url, credentials)?;
    let channel = route.connect().await.map_err(|error| {
        let hint = match url.starts_with("https:") {
            true => "is --ca the `ca.pem` of its keys, and is this one of the names its certificate was made for?",
            false => {
                "start one with `plateau coordinator --data-dir DIR`, name another with --coordinator URL, or give the \
                 folder of a local one with --data-dir DIR"
            }
        };
        anyhow!("no coordinator answers at {url} ({}); {hint}", innermost(&error))
    })?;
    let service = PlateauServiceClient::new(channel).max_decoding_message_size(limits::MAX_MESSAGE_BYTES);
    Ok(Connection { address: url, service, own: None })
}

/// The coordinator that serves `data_dir` now, if one does. An error where one does that asks for more than was given.
pub async fn running_on(data_dir: &Path, credentials: &Credentials) -> anyhow::Result<Option<Connection>> {
    let Ok(text) = std::fs::read_to_string(data_dir.join(ADDRESS_FILE)) else { return Ok(None) };
    let Ok(file) = serde_json::from_str::<AddressFile>(&text) else { return Ok(None) };
    if !file.tls {
        let Ok(mut connection) = connect(&file.url(), credentials).await else { return Ok(None) };
        // The port may meanwhile belong to somebody else.
        let answers = connection.service.list_agents(v1::ListAgentsRequest {}).await.is_ok();
        return Ok(answers.then_some(connection));
    }
    if tokio::net::TcpStream::connect(file.address).await.is_err() {
        return Ok(None);
    }
    let doing = || format!("reaching the coordinator that serves {} with keys", data_dir.display());
    let mut connection = connect(&file.url(), credentials).await.with_context(doing)?;
    let answer = connection.service.list_agents(v1::ListAgentsRequest {}).await;
    answer.map_err(|status| refusal("asking for its agents", &status)).with_context(doing)?;
    Ok(Some(connection))
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
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        checkpoint_store: std::env::var(CHECKPOINT_STORE).ok(),
        keys: None,
    };
    let running = plateau_coordinator::start(options)
        .await
        .with_context(|| format!("opening the data directory {}", data_dir.display()))?;
    let mut connection = connect(&running.local_addr.to_string(), &Credentials::default()).await?;
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
        Code::Unauthenticated => anyhow!("{what}: the coordinator does not let this in: {message}"),
        Code::PermissionDenied => anyhow!("{what}: not allowed: {message}"),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_names_itself_again() {
        let target = |coordinator: &str, data_dir: Option<&str>| Target {
            coordinator: coordinator.to_owned(),
            data_dir: data_dir.map(PathBuf::from),
            credentials: Credentials::default(),
        };
        assert_eq!(target(DEFAULT_ADDRESS, None).as_options(), "");
        assert_eq!(target("http://node7:1", None).as_options(), " --coordinator http://node7:1");
        assert_eq!(target(DEFAULT_ADDRESS, Some("my data")).as_options(), " --data-dir 'my data'");
    }

    #[tokio::test]
    async fn an_unreachable_coordinator_is_named_with_what_to_do() {
        // Port 1 is reserved and has no service on any sane machine.
        let Err(error) = connect("127.0.0.1:1", &Credentials::default()).await else {
            panic!("something answers on port 1")
        };
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
