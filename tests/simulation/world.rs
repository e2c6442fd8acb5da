//! A simulated cluster: one coordinator on a real data directory, agents with pretended trainers, a client that submits
//! studies and waits for them. Everything else is the real thing, over turmoil's network and in its time.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use plateau_agent::AgentOptions;
use plateau_common::random::Stream;
use plateau_common::study::{Format, StudySource};
use plateau_coordinator::{Machine, Options};
use plateau_machine::{Execution, Names, WallClock};
use plateau_proto::connection::{Channel, Credentials, Route};
use plateau_proto::v1;
use plateau_proto::v1::plateau_service_client::PlateauServiceClient;

use crate::network::{Connecting, Cut, Listening, PORT};
use crate::trace;
use crate::trainer::{Pretended, Work};

/// The name of the coordinator's host.
pub const COORDINATOR: &str = "coordinator";
const CLIENT: &str = "client";
/// Wall-clock time at which simulations begin, in milliseconds since 1970 UTC.
pub const EPOCH: i64 = 1_700_000_000_000;
/// How long a message is on its way at least and at most, where nothing delays it.
pub const LATENCY: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(40)];
/// How long a client waits for an answer before it asks again.
const ANSWER: Duration = Duration::from_secs(10);

/// What is simulated.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub agents: usize,
    /// Agents that share a host.
    pub agents_per_host: usize,
    /// Trials of each of the client's two studies, and their steps.
    pub trials: u64,
    pub steps: u32,
    /// Time between two looks at the network.
    pub tick: Duration,
    /// How often the client looks after its sweeps.
    pub look: Duration,
    /// Simulated time after which a simulation that has not ended has failed.
    pub longest: Duration,
}

impl Plan {
    /// Three agents and a few minutes of work.
    pub fn of(seed: u64) -> Self {
        Plan {
            seed,
            agents: 3,
            agents_per_host: 1,
            trials: 6,
            steps: 3000,
            tick: Duration::from_millis(10),
            look: Duration::from_secs(2),
            longest: Duration::from_secs(7200),
        }
    }

    /// The studies that are submitted.
    pub fn studies(&self) -> [StudySource; 2] {
        let seeds = |from: u64| {
            let seeds: Vec<String> = (from..from + self.trials).map(|seed| seed.to_string()).collect();
            format!("[{}]", seeds.join(", "))
        };
        // They overlap, and so share trials.
        [("first", 0), ("second", self.trials / 2)].map(|(name, from)| StudySource {
            text: study(name, &seeds(from), self.steps),
            file_name: format!("{name}.toml"),
            format: Format::Toml,
            overrides: Vec::new(),
        })
    }
}

/// A study of small trials, whose only use is to be trained by a pretended trainer.
fn study(name: &str, seeds: &str, steps: u32) -> String {
    format!(
        r#"name = "{name}"
[task]
kind = "modular"
modulus = 13
train-share = 0.5
[model]
layers = 1
heads = 2
dim = 16
[train]
steps = {steps}
optimizer = {{ kind = "adamw", lr = 3e-3 }}
[evaluate]
every = 100
[checkpoint]
every = 500
[axes]
seed = {seeds}
"#
    )
}

/// The hosts' wall clocks.
#[derive(Clone, Default)]
pub struct Clocks(Arc<Mutex<BTreeMap<String, i64>>>);

impl Clocks {
    /// Moves the wall clock of a host by so many milliseconds.
    pub fn jump(&self, host: &str, milliseconds: i64) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(host.to_owned()).or_default() +=
            milliseconds;
    }

    fn of(&self, host: &str) -> WallClock {
        let (clocks, host) = (self.clone(), host.to_owned());
        WallClock::reading(move || {
            let moved = clocks.0.lock().unwrap_or_else(PoisonError::into_inner).get(&host).copied();
            let passed = turmoil::sim_elapsed().unwrap_or_default().as_millis() as i64;
            Duration::from_millis((EPOCH + passed + moved.unwrap_or(0)).max(0) as u64)
        })
    }
}

/// What the client was told.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// Ids of sweeps whose submission was acknowledged, by study, one for each acknowledgement.
    pub acknowledged: BTreeMap<String, Vec<String>>,
    /// When it saw that all of them had ended.
    pub finished: Option<Duration>,
}

/// The cluster.
pub struct World {
    pub sim: turmoil::Sim<'static>,
    pub plan: Plan,
    /// Names of the agents, and of the hosts they live on.
    pub agents: Vec<String>,
    pub hosts: Vec<String>,
    pub work: Work,
    pub cut: Cut,
    pub clocks: Clocks,
    told: Arc<Mutex<Told>>,
    folder: tempfile::TempDir,
    /// Dropped last.
    _alone: MutexGuard<'static, ()>,
}

/// Tasks of one runtime are kept in so many lists by their numbers, and dropped list by list when their host crashes.
const TASK_LISTS: u64 = 4;

/// Waits until no other simulation runs in this process, and brings the numbers of tasks into line. tokio numbers the tasks of
/// all runtimes of a process in one row, and what a crash drops first depends on the numbers, so that simulations beside
/// each other would not be repeatable.
fn alone() -> anyhow::Result<MutexGuard<'static, ()>> {
    static RUNNING: Mutex<()> = Mutex::new(());
    // One that failed left nothing behind.
    let alone = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    let runtime = tokio::runtime::Builder::new_current_thread().build().context("making a runtime")?;
    for _ in 0..TASK_LISTS {
        let number: u64 = runtime.spawn(async {}).id().to_string().parse().context("a task's number")?;
        if number % TASK_LISTS == TASK_LISTS - 1 {
            break;
        }
    }
    Ok(alone)
}

impl World {
    /// Starts everything.
    pub fn start(plan: Plan) -> anyhow::Result<Self> {
        let alone = alone()?;
        trace::begin();
        // Synchronising a disk takes no simulated time, but real time; where the system has a folder in memory, it is free.
        let memory = Path::new("/dev/shm");
        let folder = match memory.is_dir() {
            true => tempfile::tempdir_in(memory).or_else(|_| tempfile::tempdir()),
            false => tempfile::tempdir(),
        };
        let mut builder = turmoil::Builder::new();
        builder
            .rng_seed(plan.seed)
            .tick_duration(plan.tick)
            .simulation_duration(plan.longest)
            .min_message_latency(LATENCY[0])
            .max_message_latency(LATENCY[1])
            .tcp_capacity(1 << 14)
            .enable_random_order();
        let count = plan.agents.div_ceil(plan.agents_per_host);
        let mut world = World {
            sim: builder.build(),
            agents: (1..=plan.agents).map(|number| format!("agent-{number}")).collect(),
            hosts: (1..=count).map(|number| format!("host-{number}")).collect(),
            plan,
            work: Work::default(),
            cut: Cut::default(),
            clocks: Clocks::default(),
            told: Arc::default(),
            folder: folder.context("making a folder")?,
            _alone: alone,
        };
        world.start_coordinator();
        for (host, agents) in
            world.hosts.clone().iter().zip(world.agents.clone().chunks(world.plan.agents_per_host))
        {
            world.start_agents(host, agents);
        }
        world.start_client()?;
        Ok(world)
    }

    /// The coordinator's data directory.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn names(&self, host: &str) -> Names {
        let stream = Mutex::new(Stream::new(self.plan.seed, &format!("names/{host}"), 0));
        Names::drawing(move || {
            let mut stream = stream.lock().unwrap_or_else(PoisonError::into_inner);
            u128::from(stream.bits()) << 64 | u128::from(stream.bits())
        })
    }

    fn start_coordinator(&mut self) {
        let machine = Machine {
            execution: Execution::OnTheSpot,
            wall: self.clocks.of(COORDINATOR),
            names: self.names(COORDINATOR),
            network: Arc::new(Listening),
        };
        let options = Options {
            data_dir: self.data(),
            listen: ([127, 0, 0, 1], PORT).into(),
            checkpoint_store: None,
            keys: None,
        };
        self.sim.host(COORDINATOR, move || {
            let (machine, options) = (machine.clone(), options.clone());
            async move {
                let mut running = plateau_coordinator::start_on(machine, options).await?;
                running.wait().await?;
                Err("the coordinator ended by itself".into())
            }
        });
    }

    fn start_agents(&mut self, host: &str, agents: &[String]) {
        let started: Vec<_> = agents
            .iter()
            .map(|name| {
                let machine = plateau_agent::machine::Machine {
                    execution: Execution::OnTheSpot,
                    names: self.names(name),
                    network: Arc::new(self.connecting(host, name)),
                    trainers: Arc::new(Pretended { agent: name.clone(), work: self.work.clone() }),
                };
                let options = AgentOptions {
                    coordinator: url(),
                    credentials: Credentials::default(),
                    name: name.clone(),
                    device: "cpu".to_owned(),
                    device_description: "pretended".to_owned(),
                    threads: 1,
                    max_cohort: 4,
                    memory_bytes: None,
                    work_dir: self.folder.path().join(host),
                    trainer_program: PathBuf::new(),
                    log_file: None,
                    driver_log: None,
                };
                (machine, options)
            })
            .collect();
        self.sim.host(host, move || {
            let running = started
                .clone()
                .into_iter()
                .map(|(machine, options)| plateau_agent::run_on(machine, options, std::future::pending()));
            let running = futures::future::try_join_all(running);
            async move {
                running.await?;
                Err("the agents ended by themselves".into())
            }
        });
    }

    fn connecting(&self, host: &str, name: &str) -> Connecting {
        Connecting { host: host.to_owned(), name: name.to_owned(), cut: self.cut.clone() }
    }

    fn start_client(&mut self) -> anyhow::Result<()> {
        use plateau_agent::machine::Network as _;
        let connecting = self.connecting(CLIENT, CLIENT);
        let (studies, look) = (self.plan.studies(), self.plan.look);
        let told = Arc::clone(&self.told);
        self.sim.client(CLIENT, async move {
            let channel = connecting.channel(&Route::new(&url(), &Credentials::default())?);
            let mut client = PlateauServiceClient::new(channel);
            let mut sweeps = Vec::new();
            for study in &studies {
                // Twice, as somebody does who did not trust the first answer.
                for _ in 0..2 {
                    let sweep = submit(&mut client, study, look).await;
                    let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
                    told.acknowledged.entry(study.file_name.clone()).or_default().push(sweep.clone());
                    sweeps.push(sweep);
                }
            }
            for sweep in sweeps {
                while !is_finished(&mut client, &sweep).await {
                    tokio::time::sleep(look).await;
                }
            }
            told.lock().unwrap_or_else(PoisonError::into_inner).finished = turmoil::sim_elapsed();
            Ok(())
        });
        Ok(())
    }

    /// Simulated time since the beginning.
    pub fn now(&self) -> Duration {
        self.sim.elapsed()
    }

    /// One tick; true: the client has seen its sweeps end.
    pub fn step(&mut self) -> anyhow::Result<bool> {
        self.sim.step().map_err(|error| anyhow::anyhow!("at {:?}: {error}", self.now()))
    }

    /// Runs until this time, or until the client has seen its sweeps end.
    pub fn run_until(&mut self, time: Duration) -> anyhow::Result<bool> {
        while self.now() < time {
            if self.step()? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Runs until the client has seen its sweeps end.
    pub fn finish(&mut self) -> anyhow::Result<()> {
        while !self.step()? {}
        Ok(())
    }

    /// What the client was told.
    pub fn told(&self) -> Told {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Stops everything at once, so that the directory can be looked at.
    pub fn halt(&mut self) {
        self.sim.crash(COORDINATOR);
        for host in &self.hosts {
            self.sim.crash(host.as_str());
        }
    }
}

fn url() -> String {
    format!("http://{COORDINATOR}:{PORT}")
}

/// Submits until there is an answer.
async fn submit(client: &mut PlateauServiceClient<Channel>, study: &StudySource, look: Duration) -> String {
    loop {
        let request = v1::SubmitRequest {
            study: Some(v1::StudySource {
                file_name: study.file_name.clone(),
                format: v1::StudyFormat::Toml.into(),
                text: study.text.clone(),
                overrides: Vec::new(),
            }),
            traceparent: String::new(),
        };
        if let Ok(Ok(answer)) = tokio::time::timeout(ANSWER, client.submit(request)).await {
            return answer.into_inner().sweep;
        }
        tokio::time::sleep(look).await;
    }
}

/// Whether a sweep has ended; false while the coordinator cannot say.
async fn is_finished(client: &mut PlateauServiceClient<Channel>, sweep: &str) -> bool {
    let request = v1::DescribeSweepRequest { sweep: sweep.to_owned() };
    match tokio::time::timeout(ANSWER, client.describe_sweep(request)).await {
        Ok(Ok(answer)) => {
            let summary = answer.into_inner().summary.unwrap_or_default();
            summary.state() == v1::SweepState::Finished
        }
        _ => false,
    }
}
