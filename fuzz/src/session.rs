//! Sequences of what clients and agents say, true or not, against the core: after every one the invariants hold, no
//! attempt goes back, no recorded ending changes, no chunk is recorded twice; and once faults cease, every sweep ends.
//!
//! What agents say passes through the wire's types, as it does in a coordinator.

use std::collections::BTreeMap;
use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use plateau_common::identity::TrialId;
use plateau_common::trial::TrialState;
use plateau_coordinator::core::{
    Answer, Effect, Input, LeaseKey, Now, RecordedEnding, Report, Shape, Specification, State, SweepMode,
    Wish, Write, apply, invariants,
};
use plateau_coordinator::wire;
use plateau_proto::v1;
use plateau_proto::v1::agent_message as said;
use prost::Message;

/// Steps of one sequence at most.
const STEPS: usize = 200;
/// Trials there are.
const TRIALS: u8 = 8;
/// Agents there are.
const AGENTS: [&str; 3] = ["a", "b", "c"];

#[derive(Arbitrary, Debug)]
enum Step {
    Submit { sweep: u8, trials: Vec<Trial> },
    Extend { sweep: u8, trials: Vec<Trial> },
    Mode { sweep: u8, mode: u8 },
    Requeue { sweep: Option<u8>, trial: u8, diverged: bool },
    Drain { agent: u8, again: bool },
    Connect { agent: u8, incarnation: u8, max_cohort: u32, threads: u32, memory: u64, held: Vec<Key> },
    Disconnect { agent: u8, stale: bool },
    Idle { agent: u8 },
    Say { agent: u8, sequence: u64, said: Said },
    Stored { key: Key, step: u16, hash: u8 },
    Damaged { key: Key, step: u16 },
    Pass { seconds: u8 },
    Restart,
}

#[derive(Arbitrary, Debug)]
struct Trial {
    number: u8,
    budget: u8,
    cohort: u8,
    keep: u8,
    keep_every: Option<u8>,
    megabytes: u32,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
struct Key {
    trial: u8,
    attempt: Attempt,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Attempt {
    Current,
    Before,
    Number(u64),
}

#[derive(Arbitrary, Debug)]
enum Said {
    Heartbeat {
        leases: Vec<(Key, u16, bool)>,
        speed: f64,
        idle: bool,
        grants: Option<u64>,
        next: bool,
        places: Option<(u8, u32)>,
    },
    Started {
        key: Key,
        from_step: u16,
    },
    Metrics {
        key: Key,
        chunk: u8,
        steps: Vec<u8>,
        value: f64,
    },
    Ended {
        key: Key,
        kind: u8,
        step: u16,
        seconds: f64,
        hash: u8,
    },
    Released {
        key: Key,
        seconds: f64,
    },
    Log {
        key: Key,
        lines: u8,
    },
    Crashed {
        keys: Vec<Key>,
    },
    OutOfMemory {
        keys: Vec<Key>,
        size: u32,
        suspected: bool,
    },
    Throughput {
        cohort: u8,
        points: Vec<(u32, f64)>,
        calibrated: bool,
        evaluation: f64,
    },
    Goodbye,
    /// The bytes of any message.
    Bytes(Vec<u8>),
}

/// The core and what was seen of it.
#[derive(Default)]
struct World {
    state: State,
    now: Now,
    sessions: u64,
    attempts: BTreeMap<TrialId, u64>,
    endings: BTreeMap<(TrialId, u64), RecordedEnding>,
    chunks: BTreeMap<(LeaseKey, u64), [u8; 32]>,
}

/// One sequence.
pub fn run(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let mut world = World::default();
    world.apply(submission(0, (0..4).map(|number| specification(number, 20, number % 2)).collect()));
    world.connect(AGENTS[0], 1, 4, 1, 0, Vec::new());
    for _ in 0..STEPS {
        if input.is_empty() {
            break;
        }
        let Ok(step) = Step::arbitrary(&mut input) else { break };
        world.step(step);
    }
    world.drive_to_the_end();
}

fn id(number: u8) -> Option<TrialId> {
    TrialId::parse(&format!("{:02x}{}", number % TRIALS, "0".repeat(30)))
}

fn agent(choice: u8) -> &'static str {
    AGENTS[usize::from(choice) % AGENTS.len()]
}

fn specification(number: u8, budget: u8, cohort: u8) -> Option<Specification> {
    Some(Specification {
        trial: id(number)?,
        budget: u64::from(budget) + 1,
        cohort: u128::from(cohort % 3),
        cost: u64::from(budget) * 10,
        keep: 1,
        keep_every: None,
        keep_around: None,
        shape: Shape { state_bytes: 1 << 20, workspace_bytes: 2 << 20, flops_per_update: 1e6 },
        fork: None,
        root: None,
    })
}

fn specifications(trials: Vec<Trial>) -> Vec<Option<Specification>> {
    let mut seen = 0u8;
    let mut list = Vec::new();
    for trial in trials {
        // A study names a trial once.
        let bit = 1 << (trial.number % TRIALS);
        if seen & bit != 0 {
            continue;
        }
        seen |= bit;
        list.push(specification(trial.number, trial.budget, trial.cohort).map(|specification| {
            Specification {
                keep: u32::from(trial.keep),
                keep_every: trial.keep_every.map(|every| u64::from(every) + 1),
                shape: Shape { state_bytes: u64::from(trial.megabytes) << 20, ..specification.shape },
                ..specification
            }
        }));
    }
    list
}

fn submission(sweep: u8, trials: Vec<Option<Specification>>) -> Input {
    let id = format!("sweep-{}", sweep % 4);
    Input::Submit { name: id.clone(), id, source: vec![1], trials: trials.into_iter().flatten().collect() }
}

impl World {
    fn apply(&mut self, mut input: Input) -> Option<Answer> {
        if let Input::Said { report: Report::Metrics { lease, chunk, recorded, .. }, .. } = &mut input {
            *recorded = self.chunks.get(&(*lease, *chunk)).copied();
        }
        let effects = apply(&mut self.state, input, self.now);
        if let Err(breach) = invariants::check(&self.state) {
            panic!("{breach}");
        }
        let mut answer = None;
        for effect in effects {
            match effect {
                Effect::Write(Write::Metrics { lease, chunk, digest, .. }) => {
                    assert!(
                        self.chunks.insert((lease, chunk), digest).is_none(),
                        "a chunk was recorded twice"
                    );
                }
                Effect::Answer(value) => assert!(answer.replace(value).is_none(), "two answers"),
                _ => {}
            }
        }
        for (id, trial) in &self.state.trials {
            let last = self.attempts.insert(*id, trial.attempt).unwrap_or(0);
            assert!(trial.attempt >= last, "the attempt of {id} went back");
            if let Some(ending) = &trial.ending {
                let known = self.endings.entry((*id, ending.attempt)).or_insert_with(|| ending.clone());
                assert_eq!(known, ending, "an ending changed");
            }
        }
        answer
    }

    fn connect(
        &mut self,
        name: &str,
        incarnation: u8,
        max_cohort: u32,
        threads: u32,
        memory: u64,
        held: Vec<Key>,
    ) {
        let hello = said::Hello {
            protocol: 1,
            version: "1".to_owned(),
            name: name.to_owned(),
            incarnation: format!("process-{incarnation}"),
            device: "cpu".to_owned(),
            max_cohort,
            threads,
            memory_bytes: memory,
            held: held.into_iter().filter_map(|key| self.key(key)).collect(),
            ..said::Hello::default()
        };
        if let Ok(agent) = wire::introduction(hello) {
            self.sessions += 1;
            self.apply(Input::Connected { session: self.sessions, sequence: 0, agent });
        }
    }

    fn key(&self, key: Key) -> Option<v1::LeaseKey> {
        let trial = id(key.trial)?;
        let current = self.state.trials.get(&trial).map_or(0, |trial| trial.attempt);
        let attempt = match key.attempt {
            Attempt::Current => current,
            Attempt::Before => current.saturating_sub(1),
            Attempt::Number(number) => number,
        };
        Some(v1::LeaseKey { trial: trial.to_string(), attempt })
    }

    fn lease(&self, key: Key) -> Option<LeaseKey> {
        wire::lease_key("lease", self.key(key)).ok()
    }

    fn say(&mut self, name: &str, sequence: u64, report: Report) {
        let session = self.state.agents.get(name).and_then(|agent| agent.session).unwrap_or(0);
        self.apply(Input::Said { session, agent: name.to_owned(), sequence, report });
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Submit { sweep, trials } => {
                assert!(self.apply(submission(sweep, specifications(trials))).is_some(), "no answer");
            }
            Step::Extend { sweep, trials } => {
                let trials = specifications(trials).into_iter().flatten().collect();
                let what = "more".to_owned();
                let input = Input::Extend { sweep: u64::from(sweep % 5), source: vec![2], trials, what };
                assert!(self.apply(input).is_some(), "no answer");
            }
            Step::Mode { sweep, mode } => {
                let sweep = u64::from(sweep % 5);
                let input = match mode % 4 {
                    0 => Input::Cancel { sweep, reason: "enough".to_owned() },
                    1 => Input::Pause { sweep },
                    _ => Input::Resume { sweep },
                };
                assert!(self.apply(input).is_some(), "no answer");
            }
            Step::Requeue { sweep, trial, diverged } => {
                let input = match (sweep, id(trial)) {
                    (Some(sweep), _) => Input::RequeueSweep { sweep: u64::from(sweep % 5), diverged },
                    (None, Some(trial)) => Input::RequeueTrial { trial },
                    (None, None) => return,
                };
                assert!(self.apply(input).is_some(), "no answer");
            }
            Step::Drain { agent: name, again } => {
                let agent = agent(name).to_owned();
                let reason = "maintenance".to_owned();
                let input = if again { Input::Undrain { agent } } else { Input::Drain { agent, reason } };
                assert!(self.apply(input).is_some(), "no answer");
            }
            Step::Connect { agent: name, incarnation, max_cohort, threads, memory, held } => {
                self.connect(agent(name), incarnation % 3, max_cohort, threads, memory, held);
            }
            Step::Disconnect { agent: name, stale } => {
                let name = agent(name).to_owned();
                let session = self.state.agents.get(&name).and_then(|agent| agent.session).unwrap_or(1);
                let session = session.saturating_sub(u64::from(stale));
                self.apply(Input::Disconnected { session, agent: name });
            }
            Step::Idle { agent: name } => self.idle(agent(name)),
            Step::Say { agent: name, sequence, said } => {
                let bytes = match said {
                    Said::Bytes(bytes) => bytes,
                    said => v1::AgentMessage { sequence, body: self.body(said) }.encode_to_vec(),
                };
                let Ok(message) = v1::AgentMessage::decode(bytes.as_slice()) else { return };
                if let Some(Ok(report)) = message.body.map(wire::report) {
                    self.say(agent(name), message.sequence, report);
                }
            }
            Step::Stored { key, step, hash } => {
                let Some(lease) = self.lease(key) else { return };
                let (step, weights_hash) = (u64::from(step % 300), hash.to_string());
                let input = Input::CheckpointStored { lease, step, weights_hash, bytes: 1 };
                assert!(self.apply(input).is_some(), "no answer");
            }
            Step::Damaged { key, step } => {
                let Some(lease) = self.lease(key) else { return };
                let (trial, attempt, step) = (lease.trial, lease.attempt, u64::from(step % 300));
                let problem = "bit rot".to_owned();
                assert!(
                    self.apply(Input::CheckpointDamaged { trial, attempt, step, problem }).is_some(),
                    "no answer"
                );
            }
            Step::Pass { seconds } => self.pass(u64::from(seconds)),
            Step::Restart => {
                self.state = std::mem::take(&mut self.state).restore(self.now);
                self.apply(Input::Tick);
            }
        }
    }

    fn body(&self, said: Said) -> Option<said::Body> {
        use said::Body;
        let keys = |keys: Vec<Key>| keys.into_iter().filter_map(|key| self.key(key)).collect::<Vec<_>>();
        Some(match said {
            Said::Heartbeat { leases, speed, idle, grants, next, places } => {
                let progress = |(key, step, waiting): (Key, u16, bool)| said::LeaseProgress {
                    lease: self.key(key),
                    step: u64::from(step),
                    waiting,
                };
                let free_places = places.map(|(cohort, places)| said::FreePlaces {
                    cohort: format!("{:032x}", cohort % 3),
                    places,
                });
                // What was really granted is what lets a wish count.
                let sent = self.state.agents.values().map(|agent| agent.grants).max().unwrap_or(0);
                Body::Heartbeat(said::Heartbeat {
                    leases: leases.into_iter().map(progress).collect(),
                    replica_steps_per_second: speed,
                    idle,
                    grants: grants.unwrap_or(sent),
                    wants_next: next,
                    free_places,
                })
            }
            Said::Started { key, from_step } => {
                Body::Started(said::Started { lease: self.key(key), from_step: u64::from(from_step) })
            }
            Said::Metrics { key, chunk, steps, value } => {
                let values = vec![value; steps.len()];
                let steps = steps.iter().scan(0, |step, gap| {
                    *step += u64::from(*gap);
                    Some(*step)
                });
                let column = v1::MetricColumn { name: "loss".to_owned(), values, missing: Vec::new() };
                let metrics = v1::MetricsChunk { steps: steps.collect(), columns: vec![column] };
                Body::Metrics(said::MetricsReport {
                    lease: self.key(key),
                    chunk: u64::from(chunk % 4),
                    metrics: Some(metrics),
                })
            }
            Said::Ended { key, kind, step, seconds, hash } => {
                let kind = match kind % 4 {
                    0 => v1::ending::Kind::Diverged(v1::ending::Diverged { step: u64::from(step) }),
                    1 => v1::ending::Kind::Failed(v1::ending::Failed { reason: "bad".to_owned() }),
                    _ => v1::ending::Kind::Completed(v1::ending::Completed {}),
                };
                Body::Ended(said::EndedReport {
                    lease: self.key(key),
                    ending: Some(v1::Ending { kind: Some(kind) }),
                    step: u64::from(step),
                    train_seconds: seconds,
                    weights_hash: hash.to_string(),
                })
            }
            Said::Released { key, seconds } => Body::Released(said::Released {
                lease: self.key(key),
                reason: "stop".to_owned(),
                train_seconds: seconds,
            }),
            Said::Log { key, lines } => Body::Log(said::LogReport {
                lease: self.key(key),
                lines: vec![v1::LogLine::default(); usize::from(lines)],
            }),
            Said::Crashed { keys: list } => Body::Crashed(said::Crashed {
                leases: keys(list),
                reason: "signal 11".to_owned(),
                class: v1::FailureClass::Signalled.into(),
            }),
            Said::OutOfMemory { keys: list, size, suspected } => Body::OutOfMemory(said::OutOfMemory {
                leases: keys(list),
                cohort_size: size,
                suspected,
                ..said::OutOfMemory::default()
            }),
            Said::Throughput { cohort, points, calibrated, evaluation } => {
                let point = |(size, rate): (u32, f64)| v1::ThroughputPoint {
                    cohort_size: size % 1100,
                    replica_steps_per_second: rate,
                };
                Body::Throughput(said::Throughput {
                    cohort: format!("{:032x}", cohort % 3),
                    points: points.into_iter().map(point).collect(),
                    calibrated,
                    evaluation_seconds: evaluation,
                })
            }
            Said::Goodbye => Body::Goodbye(said::Goodbye {}),
            Said::Bytes(_) => return None,
        })
    }

    /// A heartbeat of an idle agent that lists all its leases.
    fn idle(&mut self, name: &str) {
        let held = self.state.agents.get(name).map(|agent| agent.leases.clone()).unwrap_or_default();
        let lease = |trial| {
            let known = self.state.trials.get(&trial)?;
            Some((LeaseKey { trial, attempt: known.attempt }, known.step))
        };
        let leases = held.into_iter().filter_map(lease).collect();
        let report =
            Report::Heartbeat { leases, speed: 1.0, idle: true, waiting: Vec::new(), wish: Wish::default() };
        self.say(name, 9, report);
    }

    /// Time passes in ticks short enough not to look like a pause.
    fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds.div_ceil(10) {
            self.now.monotonic += Duration::from_secs(10);
            self.apply(Input::Tick);
        }
    }

    /// Everything goes well from now on.
    fn drive_to_the_end(&mut self) {
        for name in AGENTS {
            if let Some(session) = self.state.agents.get(name).and_then(|agent| agent.session) {
                self.apply(Input::Disconnected { session, agent: name.to_owned() });
            }
        }
        let sweeps: Vec<u64> = self.state.sweeps.keys().copied().collect();
        for sweep in &sweeps {
            self.apply(Input::Resume { sweep: *sweep });
        }
        self.pass(80);
        self.connect("healthy", 1, 64, 1, 0, Vec::new());
        for round in 0.. {
            assert!(round < 200, "the healthy agent is given trials for ever");
            self.idle("healthy");
            let held = self.state.agents.get("healthy").map(|agent| agent.leases.clone()).unwrap_or_default();
            if held.is_empty() {
                break;
            }
            for trial in held {
                let Some(known) = self.state.trials.get(&trial) else { continue };
                let lease = LeaseKey { trial, attempt: known.attempt };
                let step = known.lease.as_ref().map_or(0, |lease| lease.budget);
                let ending = plateau_common::trial::Ending::Completed;
                let weights_hash = "w".to_owned();
                self.say(
                    "healthy",
                    9,
                    Report::Ended { lease, ending, step, train_seconds: 1.0, weights_hash },
                );
            }
        }
        for sweep in self.state.sweeps.values() {
            assert!(sweep.mode == SweepMode::Cancelled || sweep.is_finished(), "{:?}", sweep.counts);
            assert_eq!(sweep.count(TrialState::Leased) + sweep.count(TrialState::Running), 0);
        }
    }
}
