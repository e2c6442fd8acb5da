//! The processes of one `plateau run`: a coordinator on loopback (unless one serves the data directory already) and the
//! agents, as children. They speak the same protocol as on a cluster.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use plateau_proto::connection::Credentials;
use plateau_proto::v1;
use serde_json::Value;

use crate::child::ChildProcess;
use crate::client::{self, Connection, refusal};
use crate::device::Device;
use crate::output::Output;
use crate::run_lock::RunLock;

/// Longest wait for a coordinator to open its data directory.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// Longest wait for an agent to save its checkpoints and leave.
const AGENT_PATIENCE: Duration = Duration::from_secs(120);
/// Longest wait for a coordinator to finish writing.
const COORDINATOR_PATIENCE: Duration = Duration::from_secs(30);
/// Times one agent is started anew before it is given up.
const MAX_RESTARTS: u32 = 3;

/// What agents to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentSpecification {
    /// Its name.
    pub name: String,
    /// Its device.
    pub device: Device,
    /// Threads of its trainer.
    pub threads: usize,
    /// Largest cohort it takes; `None`: as its measured speed suggests.
    pub max_cohort: Option<u32>,
    /// Bytes that training may take; `None`: its share.
    pub memory: Option<u64>,
}

struct Agent {
    specification: AgentSpecification,
    restarts: u32,
    child: ChildProcess,
}

/// The running processes; dropped, they are killed.
pub struct Household {
    program: PathBuf,
    data_dir: PathBuf,
    /// `None` where a coordinator was running already.
    coordinator: Option<ChildProcess>,
    agents: Vec<Agent>,
    address: String,
    /// Given back last, when the children are gone.
    _lock: RunLock,
}

impl Household {
    /// Starts a coordinator on `data_dir`, or joins the one that was started on it by hand; refuses a directory that
    /// another `plateau run` uses.
    pub async fn start(data_dir: &Path, output: &Output) -> anyhow::Result<(Household, Connection)> {
        let program =
            std::env::current_exe().context("finding the program's own file, to start its other roles")?;
        std::fs::create_dir_all(data_dir)
            .with_context(|| format!("making the data directory {}", data_dir.display()))?;
        let mut household = Household {
            program,
            data_dir: data_dir.to_owned(),
            coordinator: None,
            agents: Vec::new(),
            address: String::new(),
            _lock: RunLock::take(data_dir)?,
        };
        // A coordinator with keys asks its agents for tokens, which this command has none of.
        let running = client::running_on(data_dir, &Credentials::default()).await.context(
            "`plateau run` works with a coordinator on loopback without keys; `plateau submit` works with this one",
        )?;
        if let Some(connection) = running {
            output.note(&format!(
                "using the coordinator that serves {} at {}",
                data_dir.display(),
                connection.address
            ));
            household.address = connection.address.clone();
            return Ok((household, connection));
        }
        let arguments = ["--output", "json", "coordinator", "--listen", "127.0.0.1:0", "--data-dir"];
        let mut arguments: Vec<String> = arguments.map(str::to_owned).to_vec();
        arguments.push(data_dir.to_string_lossy().into_owned());
        let mut child = ChildProcess::start(
            &household.program,
            "coordinator",
            &household.log("coordinator"),
            &arguments,
        )?;
        let line = tokio::time::timeout(START_PATIENCE, child.next_line())
            .await
            .map_err(|_| anyhow!("the coordinator did not start within {} s", START_PATIENCE.as_secs()))??;
        let event: Value = serde_json::from_str(&line)
            .with_context(|| format!("the coordinator said `{}`", line.escape_debug()))?;
        let address =
            event.get("address").and_then(Value::as_str).or(event.get("error").and_then(Value::as_str));
        if event.get("error").is_some() {
            return Err(anyhow!("the coordinator did not start: {}", address.unwrap_or_default()));
        }
        household.address = address.context("the coordinator did not say where it listens")?.to_owned();
        household.coordinator = Some(child);
        let connection = client::connect(&household.address, &Credentials::default()).await?;
        Ok((household, connection))
    }

    /// Whether the coordinator is a child of this process.
    pub fn owns_coordinator(&self) -> bool {
        self.coordinator.is_some()
    }

    /// Starts these agents.
    pub fn start_agents(&mut self, specifications: &[AgentSpecification]) -> anyhow::Result<()> {
        for specification in specifications {
            let child = self.start_agent(specification)?;
            self.agents.push(Agent { specification: specification.clone(), restarts: 0, child });
        }
        Ok(())
    }

    fn start_agent(&self, agent: &AgentSpecification) -> anyhow::Result<ChildProcess> {
        let work_dir = self.data_dir.join("agents").join(&agent.name);
        let mut arguments = vec![
            "agent".to_owned(),
            format!("--coordinator={}", self.address),
            format!("--device={}", agent.device),
            format!("--name={}", agent.name),
            format!("--threads={}", agent.threads),
            format!("--work-dir={}", work_dir.display()),
        ];
        if let Some(max_cohort) = agent.max_cohort {
            arguments.push(format!("--max-cohort={max_cohort}"));
        }
        if let Some(memory) = agent.memory {
            arguments.push(format!("--memory={memory}"));
        }
        ChildProcess::start(
            &self.program,
            &format!("agent {}", agent.name),
            &self.log(&agent.name),
            &arguments,
        )
    }

    fn log(&self, name: &str) -> PathBuf {
        self.data_dir.join("logs").join(format!("{name}.jsonl"))
    }

    /// Watches over the children: returns the error that ends the run, and starts agents that died anew. `note` tells
    /// the user.
    pub async fn supervise(&mut self, note: impl Fn(&str)) -> anyhow::Error {
        loop {
            let ended = tokio::select! {
                status = ended(self.coordinator.as_mut()) => match (status, &self.coordinator) {
                    (Ok(status), Some(coordinator)) => return coordinator.death(status),
                    (Ok(_), None) => return anyhow!("there is no coordinator"),
                    (Err(error), _) => return error,
                },
                ended = first_agent_ended(&mut self.agents) => ended,
            };
            let (index, status) = match ended {
                Ok(ended) => ended,
                Err(error) => return error,
            };
            let agent = self.agents.remove(index);
            let death = agent.child.death(status);
            if agent.restarts >= MAX_RESTARTS {
                if self.agents.is_empty() {
                    return death;
                }
                note(&format!("{death:#}\n  it ended {} times and is given up", agent.restarts + 1));
                continue;
            }
            note(&format!("{death:#}\n  it is started anew"));
            // A moment's pause, so that a cause that passes (memory, a driver) can pass.
            tokio::time::sleep(Duration::from_secs(1)).await;
            match self.start_agent(&agent.specification) {
                Ok(child) => self.agents.push(Agent { restarts: agent.restarts + 1, child, ..agent }),
                Err(error) => return error,
            }
        }
    }

    /// Stops everything in order: agents save checkpoints and give their trials back, then the coordinator leaves.
    /// Whether all of them left by themselves.
    pub async fn stop(mut self) -> bool {
        self.agents.iter_mut().for_each(|agent| agent.child.ask_to_stop());
        let stops = self.agents.iter_mut().map(|agent| agent.child.stopped(AGENT_PATIENCE));
        let mut orderly = futures::future::join_all(stops).await.into_iter().all(|left| left);
        if let Some(coordinator) = &mut self.coordinator {
            coordinator.ask_to_stop();
            orderly &= coordinator.stopped(COORDINATOR_PATIENCE).await;
        }
        orderly
    }
}

/// The end of a child; never, where there is none.
async fn ended(child: Option<&mut ChildProcess>) -> anyhow::Result<std::process::ExitStatus> {
    match child {
        Some(child) => child.ended().await,
        None => std::future::pending().await,
    }
}

/// The first agent to end, and how; never, where there is none.
async fn first_agent_ended(agents: &mut [Agent]) -> anyhow::Result<(usize, std::process::ExitStatus)> {
    if agents.is_empty() {
        return std::future::pending().await;
    }
    let waits = agents.iter_mut().map(|agent| Box::pin(agent.child.ended()));
    let (status, index, _) = futures::future::select_all(waits).await;
    Ok((index, status?))
}

/// The connected agents of a coordinator.
pub async fn connected_agents(connection: &mut Connection) -> anyhow::Result<usize> {
    let answer = connection.service.list_agents(v1::ListAgentsRequest {}).await;
    let answer = answer.map_err(|status| refusal("asking for the agents", &status))?.into_inner();
    Ok(answer.agents.iter().filter(|agent| agent.connected).count())
}
