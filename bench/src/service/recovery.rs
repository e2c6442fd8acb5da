//! Recovery: how long after its start a coordinator gives out the first lease again.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::{Value, json};

use super::agent::Session;
use super::coordinator::Coordinator;

/// Time between two attempts to connect.
const RETRY: Duration = Duration::from_millis(2);
/// Longest wait for a lease.
const PATIENCE: Duration = Duration::from_secs(120);

/// A measurement on a data directory that a load left behind.
#[derive(Clone, Debug)]
pub struct Recovery {
    /// The program.
    pub program: Vec<String>,
    /// The directory.
    pub data: PathBuf,
}

impl Recovery {
    /// Starts a coordinator while an agent waits, and kills it once that has a lease.
    pub async fn measure(&self) -> anyhow::Result<Value> {
        // A port that was free a moment ago, so that the agent knows it before the coordinator does.
        let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
        let address = port.context("finding a free port")?.to_string();
        let url = format!("http://{address}");
        let begun = Instant::now();
        let child = Coordinator::spawn(&self.program, &self.data, &address)?;
        let waiting = async {
            let mut session = loop {
                match Session::open(&url, "waiting", 8).await {
                    Ok(session) => break session,
                    Err(_) => tokio::time::sleep(RETRY).await,
                }
            };
            let connected = begun.elapsed();
            let cohort = session.ask().await?;
            anyhow::Ok((connected, begun.elapsed(), cohort.len()))
        };
        let (connected, leased, trials) =
            tokio::time::timeout(PATIENCE, waiting).await.context("no lease came")??;
        let coordinator = Coordinator::adopt(child, &self.data)?;
        let (peak_memory, usage) = (coordinator.peak_memory_bytes(), coordinator.usage());
        coordinator.kill()?;
        Ok(json!({
            "what": "recovery",
            "seconds_to_session": connected.as_secs_f64(),
            "seconds_to_lease": leased.as_secs_f64(),
            "processor_seconds": usage.processor_seconds,
            "trials_leased": trials,
            "peak_memory_bytes": peak_memory,
            "database_bytes": super::load::database_bytes(&self.data),
        }))
    }
}
