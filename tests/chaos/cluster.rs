//! A coordinator and agents as processes, each agent behind a network of its own, and what can be done to them.

use std::time::Duration;

use anyhow::Context as _;
use plateau_common::random::Stream;
use plateau_tests::{Bench, Coordinator, Process};

use crate::proxy::{Mode, Proxy};

/// One thing that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// `kill -9` of the coordinator.
    CoordinatorKilled,
    /// SIGTERM to the coordinator.
    CoordinatorStopped,
    /// The coordinator stands still.
    CoordinatorPaused,
    /// `kill -9` of an agent.
    AgentKilled,
    /// SIGTERM to an agent: it saves and leaves.
    AgentStopped,
    /// An agent stands still, its trainer goes on.
    AgentPaused,
    /// `kill -9` of an agent's trainer.
    TrainerKilled,
    /// A trainer stands still.
    TrainerPaused,
    /// An agent's connections break.
    NetworkCut,
    /// An agent's packets vanish in both directions.
    NetworkSilent,
    /// What an agent sends vanishes, what it is sent arrives.
    NetworkOneWay,
    /// Everything to and from an agent is late.
    NetworkSlow,
    /// An agent's connections break and no new one can be made.
    NetworkRefuses,
}

/// All kinds.
pub const FAULTS: [Fault; 13] = [
    Fault::CoordinatorKilled,
    Fault::CoordinatorStopped,
    Fault::CoordinatorPaused,
    Fault::AgentKilled,
    Fault::AgentStopped,
    Fault::AgentPaused,
    Fault::TrainerKilled,
    Fault::TrainerPaused,
    Fault::NetworkCut,
    Fault::NetworkSilent,
    Fault::NetworkOneWay,
    Fault::NetworkSlow,
    Fault::NetworkRefuses,
];

/// Who or what a fault befalls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The coordinator.
    Coordinator,
    /// The agent of this number, or its trainer.
    Agent(usize),
    /// The network of the agent of this number.
    Network(usize),
}

/// A fault at its place, and how long it lasts.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// What.
    pub fault: Fault,
    /// Where.
    pub place: Place,
    /// Until it is healed.
    pub lasts: Duration,
}

impl Event {
    /// Draws the next fault.
    pub fn draw(stream: &mut Stream, agents: usize) -> Self {
        let fault = FAULTS[stream.below(FAULTS.len() as u32) as usize];
        let agent = stream.below(agents as u32) as usize;
        let lasts = Duration::from_millis(u64::from(100 + stream.below(3000)));
        let place = match fault {
            Fault::CoordinatorKilled | Fault::CoordinatorStopped | Fault::CoordinatorPaused => {
                Place::Coordinator
            }
            Fault::AgentKilled
            | Fault::AgentStopped
            | Fault::AgentPaused
            | Fault::TrainerKilled
            | Fault::TrainerPaused => Place::Agent(agent),
            Fault::NetworkCut
            | Fault::NetworkSilent
            | Fault::NetworkOneWay
            | Fault::NetworkSlow
            | Fault::NetworkRefuses => Place::Network(agent),
        };
        Event { fault, place, lasts }
    }
}

struct Agent {
    name: String,
    process: Option<Process>,
    network: Proxy,
    /// It was told to leave.
    leaving: bool,
    /// A trainer that stands still.
    paused_trainer: Option<u32>,
}

/// The processes of one sweep.
pub struct Cluster<'a> {
    bench: &'a Bench,
    data: String,
    address: String,
    coordinator: Coordinator,
    is_answering: bool,
    agents: Vec<Agent>,
}

impl<'a> Cluster<'a> {
    /// A coordinator on the data directory `data`, and agents behind their networks.
    pub fn start(bench: &'a Bench, data: &str, agents: usize) -> anyhow::Result<Self> {
        let coordinator = bench.coordinator(data)?;
        let address = coordinator.address.clone();
        let mut cluster = Cluster {
            bench,
            data: data.to_owned(),
            address: address.clone(),
            coordinator,
            is_answering: true,
            agents: Vec::new(),
        };
        for number in 0..agents {
            let network = Proxy::to(&address)?;
            let name = format!("{data}-agent-{number}");
            cluster.agents.push(Agent { name, process: None, network, leaving: false, paused_trainer: None });
            cluster.start_agent(number)?;
        }
        Ok(cluster)
    }

    /// The coordinator's address, without a faulty network between.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Whether a request can be answered now, by what was done to the coordinator.
    pub fn is_answering(&self) -> bool {
        self.is_answering
    }

    /// Bytes that the networks lost.
    pub fn lost_bytes(&self) -> u64 {
        self.agents.iter().map(|agent| agent.network.swallowed()).sum()
    }

    fn start_agent(&mut self, number: usize) -> anyhow::Result<()> {
        let agent = &mut self.agents[number];
        agent.process = Some(self.bench.agent(&agent.name, &agent.network.url())?);
        Ok(())
    }

    /// Lets a fault happen; false where there was nothing for it to befall.
    pub fn strike(&mut self, event: Event) -> anyhow::Result<bool> {
        match event.place {
            Place::Coordinator => self.strike_coordinator(event.fault),
            Place::Agent(number) => self.strike_agent(event.fault, number),
            Place::Network(number) => {
                let network = &self.agents[number].network;
                match event.fault {
                    Fault::NetworkSilent => network.set(Mode::Swallow),
                    Fault::NetworkOneWay => network.set(Mode::SwallowToCoordinator),
                    Fault::NetworkSlow => network.set(Mode::Slow),
                    Fault::NetworkRefuses => {
                        network.set(Mode::Refuse);
                        network.cut();
                    }
                    _ => network.cut(),
                }
                Ok(true)
            }
        }
    }

    fn strike_coordinator(&mut self, fault: Fault) -> anyhow::Result<bool> {
        self.is_answering = false;
        match fault {
            Fault::CoordinatorPaused => self.coordinator.process.signal("STOP")?,
            Fault::CoordinatorStopped => self.coordinator.process.signal("TERM")?,
            _ => self.coordinator.process.kill()?,
        }
        Ok(true)
    }

    fn strike_agent(&mut self, fault: Fault, number: usize) -> anyhow::Result<bool> {
        let agent = &mut self.agents[number];
        let Some(process) = &mut agent.process else { return Ok(false) };
        match fault {
            Fault::AgentPaused => process.signal("STOP")?,
            // Told to leave; what has not left when the fault ends is killed, as a cluster's scheduler would.
            Fault::AgentStopped => {
                process.signal("TERM")?;
                agent.leaving = true;
            }
            Fault::AgentKilled => {
                process.kill()?;
                agent.process = None;
            }
            _ => {
                let Some(trainer) = trainer_of(process.id())? else { return Ok(false) };
                if fault == Fault::TrainerPaused {
                    // It may have ended a moment ago.
                    signal(trainer, "STOP")?;
                    agent.paused_trainer = Some(trainer);
                } else {
                    signal(trainer, "KILL")?;
                }
            }
        }
        Ok(true)
    }

    /// Ends a fault: what stands still goes on, what is gone or leaving is started anew.
    pub fn heal(&mut self, Event { fault, place, .. }: Event) -> anyhow::Result<()> {
        match place {
            Place::Coordinator if fault == Fault::CoordinatorPaused => {
                self.coordinator.process.signal("CONT")?;
                self.is_answering = true;
            }
            Place::Coordinator => {
                if !self.coordinator.process.has_ended()? {
                    self.coordinator.process.kill()?;
                }
                self.coordinator = self.bench.coordinator_at(&self.data, &self.address)?;
                self.is_answering = true;
            }
            Place::Agent(number) => self.heal_agent(number)?,
            Place::Network(number) => self.agents[number].network.set(Mode::Pass),
        }
        Ok(())
    }

    fn heal_agent(&mut self, number: usize) -> anyhow::Result<()> {
        let agent = &mut self.agents[number];
        if let Some(trainer) = agent.paused_trainer.take() {
            signal(trainer, "CONT")?;
        }
        if let Some(process) = &mut agent.process {
            if process.has_ended()? {
                agent.process = None;
            } else if agent.leaving {
                process.kill()?;
                agent.process = None;
            } else {
                process.signal("CONT")?;
            }
        }
        agent.leaving = false;
        if agent.process.is_none() {
            self.start_agent(number)?;
        }
        Ok(())
    }

    /// Ends every agent, then the coordinator, as an operator would; the folder is free afterwards.
    pub fn stop(mut self) -> anyhow::Result<()> {
        for agent in &mut self.agents {
            if let Some(process) = &mut agent.process {
                process.signal("TERM")?;
                process.wait().with_context(|| format!("stopping {}", agent.name))?;
            }
        }
        self.coordinator.process.signal("TERM")?;
        self.coordinator.process.wait().context("stopping the coordinator")?;
        Ok(())
    }
}

/// The trainer child of an agent, if it has one now.
fn trainer_of(agent: u32) -> anyhow::Result<Option<u32>> {
    let output = std::process::Command::new("pgrep").args(["-P", &agent.to_string()]).output()?;
    let text = String::from_utf8(output.stdout)?;
    Ok(text.lines().next().and_then(|line| line.trim().parse().ok()))
}

/// Sends a signal to a process that may have ended meanwhile.
fn signal(process: u32, signal: &str) -> anyhow::Result<()> {
    std::process::Command::new("kill")
        .args([format!("-{signal}"), process.to_string()])
        .stderr(std::process::Stdio::null())
        .status()
        .with_context(|| format!("sending {signal}"))?;
    Ok(())
}
