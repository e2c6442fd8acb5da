//! Ingest: agents that stream metrics as fast as they are acknowledged.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::{Value, json};

use super::agent::Session;
use super::coordinator::Coordinator;
use super::curves::{Curves, SERIES};

/// Updates after which a trial's curves begin again.
const CURVE_LENGTH: usize = 16 << 10;
/// Updates that no trial reaches.
const STEPS: u64 = 1_000_000_000;
/// Chunks of one agent on their way at most.
const WINDOW: u64 = 4;
/// Chunks between two renewals of a lease.
const RENEW_EVERY: u64 = 64;

/// A measurement of points per second; a point is one value of one series at one step.
#[derive(Clone, Debug)]
pub struct Ingest {
    /// The program.
    pub program: Vec<String>,
    /// Fresh data directory.
    pub data: PathBuf,
    /// Simulated agents, one trial each.
    pub agents: u32,
    /// Evaluations in one chunk.
    pub evaluations: u64,
    /// How long, once all have begun.
    pub duration: Duration,
}

impl Ingest {
    /// Streams for a while and says what it took.
    pub async fn measure(&self) -> anyhow::Result<Value> {
        let coordinator = Coordinator::start(&self.program, &self.data)?;
        super::submit(&coordinator.url, "ingest", u64::from(self.agents), STEPS).await?;
        let mut ready = Vec::new();
        for number in 0..self.agents {
            let mut session = Session::open(&coordinator.url, &format!("agent-{number}"), 1).await?;
            let cohort = session.ask().await?;
            let lease = cohort.into_iter().next().context("an empty grant")?;
            session.started(&lease).await?;
            session.settle(0).await?;
            ready.push((session, lease, Curves::new(u64::from(number), CURVE_LENGTH)));
        }
        let points = Arc::new(AtomicU64::new(0));
        let (own, before) = (crate::processor_seconds().unwrap_or(f64::NAN), coordinator.usage());
        let begun = Instant::now();
        let mut agents = tokio::task::JoinSet::new();
        for (mut session, lease, curves) in ready {
            let (points, evaluations, until) = (Arc::clone(&points), self.evaluations, begun + self.duration);
            agents.spawn(async move {
                let mut chunk = 0;
                while Instant::now() < until {
                    let step = chunk * evaluations;
                    if chunk % RENEW_EVERY == 0 {
                        session.renew(&lease, step).await?;
                    }
                    session.measured(&lease, chunk, curves.chunk(step, evaluations)).await?;
                    session.settle(WINDOW - 1).await?;
                    chunk += 1;
                }
                session.settle(0).await?;
                points.fetch_add(chunk * evaluations * SERIES as u64, Ordering::Relaxed);
                // The session stays open until all have ended.
                anyhow::Ok(session)
            });
        }
        let sessions: Vec<_> = agents.join_all().await.into_iter().collect::<anyhow::Result<_>>()?;
        let seconds = begun.elapsed().as_secs_f64();
        let (own, after) = (crate::processor_seconds().unwrap_or(f64::NAN) - own, coordinator.usage());
        let peak_memory = coordinator.peak_memory_bytes();
        drop(sessions);
        coordinator.stop()?;
        let points = points.load(Ordering::Relaxed) as f64;
        let processor = after.processor_seconds - before.processor_seconds;
        Ok(json!({
            "what": "ingest",
            "agents": self.agents,
            "evaluations_per_chunk": self.evaluations,
            "series": SERIES,
            "points": points,
            "seconds": seconds,
            "points_per_s": points / seconds,
            "processor_us_per_point": 1e6 * processor / points,
            "generator_processor_us_per_point": 1e6 * own / points,
            "database_bytes_per_point": super::load::database_bytes(&self.data) as f64 / points,
            "peak_memory_bytes": peak_memory,
        }))
    }
}
