//! A core with its store, whose every step is checked.

use std::collections::BTreeMap;
use std::time::Duration;

use plateau_common::failure::FailureClass;
use plateau_common::identity::TrialId;
use plateau_common::trial::TrialState;

use super::restart::{restarted, without_live_steps};
use crate::core::*;
use crate::store::Store;

/// A trial id that begins with `number`.
pub fn trial(number: u8) -> TrialId {
    TrialId::parse(&format!("{number:02x}{}", "0".repeat(30))).unwrap()
}

/// A trial of a study: shape `cohort`, `budget` steps.
pub fn specification(number: u8, budget: u64, cohort: u128) -> Specification {
    Specification {
        trial: trial(number),
        budget,
        cohort,
        cost: budget * (cohort as u64 + 1),
        keep: 1,
        keep_every: None,
        keep_around: None,
        shape: shape(cohort),
        fork: None,
        root: None,
    }
}

/// What trials of the tests' cohorts cost: a megabyte of state, two of workspace.
fn shape(cohort: u128) -> Shape {
    Shape { state_bytes: 1 << 20, workspace_bytes: 2 << 20, flops_per_update: 1e6 * (cohort + 1) as f64 }
}

/// A core, its store in a temporary folder, and what was seen of it.
pub struct World {
    pub state: State,
    pub now: Now,
    pub sent: Vec<(u64, ToAgent)>,
    pub sessions: u64,
    pub granted: Vec<(String, LeaseKey, u64)>,
    /// Checkpoints whose files are to go.
    pub deleted: Vec<(TrialId, Checkpoint)>,
    store: Option<Store>,
    folder: tempfile::TempDir,
    attempts: BTreeMap<TrialId, u64>,
    endings: BTreeMap<(TrialId, u64), RecordedEnding>,
    chunks: BTreeMap<(LeaseKey, u64), [u8; 32]>,
}

impl World {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        World {
            state: State::default(),
            now: Now::default(),
            sent: Vec::new(),
            sessions: 0,
            granted: Vec::new(),
            deleted: Vec::new(),
            store: Some(store),
            folder,
            attempts: BTreeMap::new(),
            endings: BTreeMap::new(),
            chunks: BTreeMap::new(),
        }
    }

    /// Applies, stores and checks one input; returns the answer, if it is a request.
    pub fn apply(&mut self, mut input: Input) -> Option<Answer> {
        if let Input::Said { report: Report::Metrics { lease, chunk, recorded, .. }, .. } = &mut input {
            *recorded = self.chunks.get(&(*lease, *chunk)).copied();
        }
        let effects = apply(&mut self.state, input, self.now);
        invariants::check(&self.state).unwrap();
        let mut answer = None;
        let mut batch = self.store.as_mut().unwrap().begin(0).unwrap();
        for effect in effects {
            match effect {
                Effect::Write(write) => {
                    if let Write::Metrics { lease, chunk, digest, .. } = &write {
                        assert!(
                            self.chunks.insert((*lease, *chunk), *digest).is_none(),
                            "a chunk was recorded twice"
                        );
                    }
                    batch.write(write, &self.state).unwrap();
                }
                Effect::Send { session, message } => {
                    if let ToAgent::Grant { leases: granted, .. } = &message {
                        let agents = &self.state.agents;
                        let name = agents.iter().find(|(_, agent)| agent.session == Some(session)).unwrap().0;
                        let leases =
                            granted.iter().map(|granted| (name.clone(), granted.lease, granted.budget));
                        self.granted.extend(leases);
                    }
                    self.sent.push((session, message));
                }
                Effect::Answer(value) => assert!(answer.replace(value).is_none(), "two answers"),
                Effect::Delete(id, checkpoint) => self.deleted.push((id, checkpoint)),
                Effect::Close { .. } | Effect::Changed(_) => {}
            }
        }
        batch.commit().unwrap();
        self.check_history();
        answer
    }

    /// Attempts only grow; a recorded ending of an attempt never changes.
    fn check_history(&mut self) {
        for (id, trial) in &self.state.trials {
            let last = self.attempts.insert(*id, trial.attempt).unwrap_or(0);
            // One that was deleted and has come back was not granted yet.
            assert!(trial.attempt >= last || trial.attempt == 0, "attempt of {id} went back");
            if let Some(ending) = &trial.ending {
                let known = self.endings.entry((*id, ending.attempt)).or_insert_with(|| ending.clone());
                assert_eq!(known, ending, "an ending changed");
            }
        }
    }

    /// The process dies and starts again: only what was committed is left.
    pub fn restart(&mut self) {
        let expected = restarted(&self.state, self.now);
        self.store = None;
        let store = Store::open(self.folder.path()).unwrap();
        self.state = store.load(self.now).unwrap();
        self.store = Some(store);
        assert_eq!(without_live_steps(self.state.clone()), without_live_steps(expected));
    }

    pub fn submit(&mut self, id: &str, trials: Vec<Specification>) -> Answer {
        let input = Input::Submit { id: id.to_owned(), name: id.to_owned(), source: vec![1], trials };
        self.apply(input).unwrap()
    }

    pub fn connect(&mut self, name: &str, incarnation: &str, held: Vec<LeaseKey>) -> u64 {
        self.connect_with(name, incarnation, held, |_| {})
    }

    /// The same, with some of the agent's introduction changed.
    pub fn connect_with(
        &mut self,
        name: &str,
        incarnation: &str,
        held: Vec<LeaseKey>,
        change: impl FnOnce(&mut Introduction),
    ) -> u64 {
        self.sessions += 1;
        let mut agent = Introduction {
            name: name.to_owned(),
            incarnation: incarnation.to_owned(),
            host: String::new(),
            device: "cpu".to_owned(),
            description: String::new(),
            version: "1".to_owned(),
            threads: 1,
            memory_bytes: 0,
            max_cohort: 4,
            held,
        };
        change(&mut agent);
        self.apply(Input::Connected { session: self.sessions, sequence: 1, agent });
        self.sessions
    }

    pub fn say(&mut self, name: &str, report: Report) {
        let session = self.state.agents.get(name).and_then(|agent| agent.session).unwrap_or(0);
        self.apply(Input::Said { session, agent: name.to_owned(), sequence: 7, report });
    }

    /// A heartbeat of an idle agent that lists all its leases; returns what was granted by it.
    pub fn idle(&mut self, name: &str) -> Vec<(String, LeaseKey, u64)> {
        let seen = self.granted.len();
        let held = self.state.agents.get(name).map(|agent| agent.leases.clone()).unwrap_or_default();
        let leases = held
            .into_iter()
            .map(|id| {
                (LeaseKey { trial: id, attempt: self.state.trials[&id].attempt }, self.state.trials[&id].step)
            })
            .collect();
        self.say(
            name,
            Report::Heartbeat { leases, speed: 1.0, idle: true, waiting: vec![], wish: Wish::default() },
        );
        self.granted[seen..].to_vec()
    }

    pub fn complete(&mut self, name: &str, lease: LeaseKey, step: u64) {
        let ending = plateau_common::trial::Ending::Completed;
        let report = Report::Ended { lease, ending, step, train_seconds: 1.0, weights_hash: "w".to_owned() };
        self.say(name, report);
    }

    pub fn crash(&mut self, name: &str, leases: Vec<LeaseKey>) {
        self.broke(name, leases, FailureClass::Exited);
    }

    pub fn broke(&mut self, name: &str, leases: Vec<LeaseKey>, class: FailureClass) {
        self.say(name, Report::Crashed { leases, class, reason: "broke".to_owned() });
    }

    /// Lets time pass in ticks short enough not to look like a pause.
    pub fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds.div_ceil(10) {
            self.now.monotonic += Duration::from_secs(10);
            self.apply(Input::Tick);
        }
    }

    /// What is stored of somebody's history, oldest first.
    pub fn history(&self, subject: &Subject) -> Vec<String> {
        let reader = self.store.as_ref().unwrap().reader().unwrap();
        reader.history(subject).unwrap().into_iter().map(|row| row.event).collect()
    }

    pub fn state_of(&self, number: u8) -> TrialState {
        self.state.trials[&trial(number)].state
    }
}
