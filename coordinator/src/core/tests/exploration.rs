//! What can happen to a few trials and two agents, as a graph: nodes are states of the core with what is on its way to it,
//! edges are inputs.
//!
//! Agents are not modelled as programs. Whatever an agent could say of a lease that it was ever granted is in the bag of
//! messages on their way as soon as the lease is granted, and stays there: it may arrive in any order, twice, after
//! everything else, in the session in which it was sent (which may be over) or in a later one, or never. That
//! includes everything that a correct agent does and much that only a broken one would.
//!
//! Time is reduced to what it decides: a lease either is renewed or runs out ([`Action::Silence`]). Every other action takes
//! no time, so all live leases end at the same distance and clocks are no part of a node's identity.

use std::time::Duration;

use plateau_common::identity::TrialId;
use plateau_common::limits;

use super::possibilities::{AGENTS, Action, Bounds, FAULTS, Fault, MIDDLE, Word, fault, report, submission};
use super::restart::restarted;
use crate::core::*;

/// A state of the core with what is on its way to it.
#[derive(Clone)]
pub struct Node {
    /// The core.
    pub state: State,
    now: Now,
    /// Leases ever granted, and to whom: what may still be said of them is the bag of messages.
    granted: Vec<(usize, LeaseKey)>,
    /// Number of the last session.
    sessions: u64,
    /// A session of each agent that is over.
    over: [Option<u64>; 2],
    /// Starts of each agent's process.
    starts: [u8; 2],
    /// Largest attempt with a recorded ending, of each trial.
    pub ended: Vec<u64>,
    used: [u8; FAULTS],
    /// How it came to this.
    pub path: Vec<Action>,
}

/// What one action did.
pub struct Step {
    /// Where it led.
    pub node: Node,
    /// Every effect, in order.
    pub effects: Vec<Effect>,
}

impl Node {
    /// Two agents that are connected, and a sweep.
    pub fn first(bounds: &Bounds) -> Result<Node, String> {
        let mut node = Node {
            state: State::default(),
            now: Now::default(),
            granted: Vec::new(),
            sessions: 0,
            over: [None, None],
            starts: [1, 1],
            ended: vec![0; usize::from(bounds.trials)],
            used: [0; FAULTS],
            path: Vec::new(),
        };
        node.apply(submission(bounds))?;
        for agent in 0..AGENTS.len() {
            node.connect(agent, Vec::new(), bounds)?;
        }
        Ok(node)
    }

    fn session(&self, agent: usize) -> Option<u64> {
        self.state.agents.get(AGENTS[agent]).and_then(|agent| agent.session)
    }

    /// The leases that an agent really holds.
    fn held(&self, agent: usize) -> Vec<LeaseKey> {
        let leases = self.state.agents.get(AGENTS[agent]).map(|agent| agent.leases.clone());
        let key = |id| LeaseKey { trial: id, attempt: self.state.trials[&id].attempt };
        leases.unwrap_or_default().into_iter().map(key).collect()
    }

    /// Whether a lease is the live one of its trial, and the agent's.
    pub fn is_current(&self, agent: usize, lease: LeaseKey) -> bool {
        let current = self.state.trials.get(&lease.trial).and_then(|trial| trial.current(lease.attempt));
        current.is_some_and(|lease| lease.agent == AGENTS[agent])
    }

    /// Everything that can happen next.
    pub fn actions(&self, bounds: &Bounds) -> Vec<Action> {
        let mut actions = Vec::new();
        let total: u8 = self.used.iter().sum();
        let may =
            |fault: Fault| total < bounds.faults && self.used[fault as usize] < bounds.each[fault as usize];
        for (agent, lease) in self.granted.iter().copied() {
            for word in bounds.words.iter().copied() {
                if self.is_current(agent, lease) && fault(word).is_some_and(|fault| !may(fault)) {
                    continue;
                }
                if self.session(agent).is_some() {
                    actions.push(Action::Say(agent, word, lease));
                }
            }
            if self.over[agent].is_some() {
                // Whatever is said there: two words stand for all.
                actions.push(Action::Late(agent, Word::Completed, lease));
                actions.push(Action::Late(agent, Word::Crashed, lease));
            }
            if self.session(1 - agent).is_some() && self.is_current(agent, lease) {
                actions.push(Action::Say(1 - agent, Word::Completed, lease));
                actions.push(Action::Say(1 - agent, Word::Crashed, lease));
            }
            if bounds.checkpoints {
                actions.push(Action::Stored(lease, MIDDLE));
            }
        }
        for agent in 0..AGENTS.len() {
            let connected = self.session(agent).is_some();
            if connected {
                actions.push(Action::Idle(agent));
            }
            if connected && self.over[agent].is_some() {
                actions.push(Action::LateDisconnect(agent));
            }
            if connected && may(Fault::Disconnect) {
                actions.push(Action::Disconnect(agent));
            }
            if !connected || may(Fault::Disconnect) {
                actions.push(Action::Connect(agent, true));
                if !self.held(agent).is_empty() {
                    actions.push(Action::Connect(agent, false));
                }
            }
            if may(Fault::Anew) {
                actions.push(Action::Anew(agent));
            }
        }
        let bits =
            |of: &dyn Fn(usize) -> bool| (0..AGENTS.len()).fold(0, |bits, at| bits | u8::from(of(at)) << at);
        let holders = bits(&|agent| !self.held(agent).is_empty());
        let mute = bits(&|agent| self.session(agent).is_none()) & holders;
        if mute == 0 && self.state.trials.values().any(|trial| trial.retry_at > self.state.last_tick) {
            actions.push(Action::Pass);
        }
        for silent in 1..1 << AGENTS.len() {
            if may(Fault::Silence) && silent & holders == silent && silent & mute == mute {
                actions.push(Action::Silence(silent));
            }
        }
        for (fault, action) in [
            (Fault::Restart, Action::Restart),
            (Fault::Cancel, Action::Cancel),
            (Fault::Resubmit, Action::Resubmit),
        ] {
            if may(fault) {
                actions.push(action);
            }
        }
        actions
    }

    /// Whether an action is news of something that is over: it must change nothing.
    pub fn is_stale(&self, action: Action) -> bool {
        match action {
            Action::Late(..) | Action::LateDisconnect(_) => true,
            Action::Say(agent, _, lease) => !self.is_current(agent, lease),
            Action::Stored(lease, _) => self.state.trials[&lease.trial].current(lease.attempt).is_none(),
            _ => false,
        }
    }

    /// The input that an action is, where it is only one.
    fn input(&self, action: Action) -> Option<Input> {
        let said = |session: Option<u64>, agent: usize, report| {
            let (session, agent) = (session.unwrap_or(0), AGENTS[agent].to_owned());
            Some(Input::Said { session, agent, sequence: 7, report })
        };
        match action {
            Action::Idle(agent) => said(self.session(agent), agent, self.heartbeat(agent, true)),
            Action::Say(agent, word, lease) => said(self.session(agent), agent, report(word, lease)),
            Action::Late(agent, word, lease) => said(self.over[agent], agent, report(word, lease)),
            Action::LateDisconnect(agent) => {
                let session = self.over[agent].unwrap_or(0);
                Some(Input::Disconnected { session, agent: AGENTS[agent].to_owned() })
            }
            Action::Stored(lease, step) => {
                Some(Input::CheckpointStored { lease, step, weights_hash: "w".to_owned(), bytes: 1 })
            }
            _ => None,
        }
    }

    /// What is answered to news of something that is over. Such inputs are applied to one copy, one after the other, whose
    /// identity the caller compares at the end.
    pub fn answer(&mut self, stale: Action) -> Vec<Effect> {
        let input = self.input(stale);
        input.map(|input| apply(&mut self.state, input, self.now)).unwrap_or_default()
    }

    /// Lets one thing happen.
    pub fn after(&self, action: Action, bounds: &Bounds) -> Result<Step, String> {
        let mut node = self.clone();
        node.path.push(action);
        let effects = node.act(action, bounds)?;
        for (trial, last) in node.state.trials.values().zip(&mut node.ended) {
            *last = trial.ending.as_ref().map_or(*last, |ending| ending.attempt.max(*last));
        }
        Ok(Step { node, effects })
    }

    fn act(&mut self, action: Action, bounds: &Bounds) -> Result<Vec<Effect>, String> {
        if let Action::Say(_, word, _) = action
            && let Some(fault) = fault(word)
        {
            self.used[fault as usize] += 1;
        }
        if let Some(input) = self.input(action) {
            return self.apply(input);
        }
        match action {
            Action::Silence(silent) => {
                self.used[Fault::Silence as usize] += 1;
                self.silence(silent)
            }
            Action::Pass => self.silence(0),
            Action::Disconnect(agent) => {
                self.used[Fault::Disconnect as usize] += 1;
                let session = self.session(agent).unwrap_or(0);
                self.over[agent] = Some(session);
                self.apply(Input::Disconnected { session, agent: AGENTS[agent].to_owned() })
            }
            Action::Connect(agent, holds) => {
                if self.session(agent).is_some() {
                    self.used[Fault::Disconnect as usize] += 1;
                }
                // What it was granted long ago may be among what it believes to hold.
                let held = self.granted.iter().filter(|(holder, _)| *holder == agent && holds);
                let held = held.map(|(_, lease)| *lease).collect();
                self.connect(agent, held, bounds)
            }
            Action::Anew(agent) => {
                self.used[Fault::Anew as usize] += 1;
                self.starts[agent] += 1;
                self.connect(agent, Vec::new(), bounds)
            }
            Action::Restart => {
                self.used[Fault::Restart as usize] += 1;
                for agent in 0..AGENTS.len() {
                    self.over[agent] = self.session(agent).or(self.over[agent]);
                }
                self.now = Now::default();
                self.state = restarted(&self.state, self.now);
                invariants::check(&self.state)?;
                Ok(Vec::new())
            }
            Action::Cancel => {
                self.used[Fault::Cancel as usize] += 1;
                self.apply(Input::Cancel { sweep: 1, reason: String::new() })
            }
            Action::Resubmit => {
                self.used[Fault::Resubmit as usize] += 1;
                self.apply(submission(bounds))
            }
            // Those are single inputs.
            _ => Ok(Vec::new()),
        }
    }

    fn connect(&mut self, agent: usize, held: Vec<LeaseKey>, bounds: &Bounds) -> Result<Vec<Effect>, String> {
        self.over[agent] = self.session(agent).or(self.over[agent]);
        self.sessions += 1;
        let agent = Introduction {
            name: AGENTS[agent].to_owned(),
            incarnation: self.starts[agent].to_string(),
            host: String::new(),
            device: "cpu".to_owned(),
            description: String::new(),
            version: String::new(),
            threads: 1,
            memory_bytes: 0,
            max_cohort: bounds.cohort,
            held,
        };
        self.apply(Input::Connected { session: self.sessions, sequence: 1, agent })
    }

    fn heartbeat(&self, agent: usize, idle: bool) -> Report {
        let leases = self.held(agent).into_iter().map(|key| (key, self.state.trials[&key.trial].step));
        let (leases, waiting) = (leases.collect(), Vec::new());
        Report::Heartbeat { leases, speed: 1.0, idle, waiting, wish: Wish::default() }
    }

    /// More than a lease's term passes, in ticks too short to look like a pause. The agents that are not silent renew
    /// theirs before it is over, and again at the end.
    fn silence(&mut self, silent: u8) -> Result<Vec<Effect>, String> {
        let mut effects = Vec::new();
        let ticks = limits::LEASE_SECONDS / limits::RENEWAL_SECONDS + 1;
        for tick in 1..=ticks + 1 {
            if tick >= ticks - 1 {
                for agent in (0..AGENTS.len()).filter(|agent| silent >> agent & 1 == 0) {
                    let Some(session) = self.session(agent) else { continue };
                    let report = self.heartbeat(agent, self.state.agents[AGENTS[agent]].idle);
                    let agent = AGENTS[agent].to_owned();
                    effects.extend(self.apply(Input::Said { session, agent, sequence: 7, report })?);
                }
            }
            if tick <= ticks {
                self.now.monotonic += Duration::from_secs(limits::RENEWAL_SECONDS);
                effects.extend(self.apply(Input::Tick)?);
            }
        }
        Ok(effects)
    }

    /// Applies an input, checks the invariants and that no grant leaves before its attempt is written.
    fn apply(&mut self, input: Input) -> Result<Vec<Effect>, String> {
        let effects = apply(&mut self.state, input, self.now);
        invariants::check(&self.state)?;
        for (at, effect) in effects.iter().enumerate() {
            let Effect::Send { session, message: ToAgent::Grant { leases, .. } } = effect else { continue };
            let Some(agent) = (0..AGENTS.len()).find(|agent| self.session(*agent) == Some(*session)) else {
                return Err("a grant was sent to nobody".to_owned());
            };
            for Granted { lease, .. } in leases {
                let written = effects[..at].iter().any(|effect| {
                    matches!(effect, Effect::Write(Write::Trial(id, trial))
                        if *id == lease.trial && trial.attempt == lease.attempt)
                });
                if !written || self.granted.iter().any(|(_, known)| known == lease) {
                    return Err(format!("{lease:?} was granted twice, or sent before it was written"));
                }
                self.granted.push((agent, *lease));
            }
        }
        Ok(effects)
    }

    /// What distinguishes this node: all that a decision may depend on, and the bag. Two nodes of equal bytes have equal
    /// futures.
    pub fn identity(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(128);
        // Agents are called "a" and "b", incarnations "1", "2", ...
        let letter = |text: &str| text.bytes().next().unwrap_or(0);
        let number = |id: &TrialId| letter(&id.to_string()[1..]);
        for (trial, ended) in self.state.trials.values().zip(&self.ended) {
            let (attempt, completed) = (trial.attempt as u8, trial.completed_step as u8);
            let diverged = trial.diverged_at.map_or(0, |step| step as u8 + 1);
            bytes.extend([place(trial.state) as u8, attempt, trial.step as u8, completed, diverged]);
            bytes.extend([
                trial.crashes as u8,
                u8::from(trial.alone),
                *ended as u8,
                trial.crashed_on.len() as u8,
            ]);
            bytes.extend(trial.crashed_on.iter().map(|name| letter(name)));
            bytes.push(trial.retry_at.saturating_sub(self.state.last_tick).as_secs() as u8);
            bytes.push(u8::from(trial.ending.is_some()));
            if let Some(ending) = &trial.ending {
                bytes.extend([ending.attempt as u8, ending.step as u8]);
            }
            bytes.push(u8::from(trial.lease.is_some()));
            if let Some(lease) = &trial.lease {
                let revoked = u8::from(lease.revoked);
                bytes.extend([
                    letter(&lease.agent),
                    letter(&lease.incarnation),
                    lease.from_step as u8,
                    revoked,
                ]);
            }
            bytes.push(trial.checkpoints.len() as u8);
            bytes.extend(trial.checkpoints.iter().flat_map(|known| [known.attempt as u8, known.step as u8]));
        }
        bytes.extend(self.state.sweeps.values().map(|sweep| sweep.mode as u8));
        for (agent, name) in AGENTS.into_iter().enumerate() {
            let known = self.state.agents.get(name);
            let session = u8::from(self.session(agent).is_some());
            let idle = u8::from(known.is_some_and(|agent| agent.idle));
            let drained = u8::from(known.is_some_and(|agent| agent.drained.is_some()));
            let superseded = known.map_or(0, |agent| agent.superseded.len() as u8);
            bytes.extend([
                self.starts[agent],
                session,
                idle,
                u8::from(self.over[agent].is_some()),
                drained,
                superseded,
            ]);
            // No trial is in two crashes of a row.
            for crash in known.map(|agent| agent.crashed.as_slice()).unwrap_or_default() {
                bytes.push(crash.len() as u8);
                bytes.extend(crash.iter().map(number));
            }
            bytes.push(0);
        }
        bytes.extend(self.used);
        let mut granted: Vec<_> = self.granted.clone();
        granted.sort_unstable();
        for (agent, lease) in granted {
            bytes.extend([agent as u8, number(&lease.trial), lease.attempt as u8]);
        }
        bytes
    }

    /// From now on everything goes well: whether the sweep ends, with every trial in an ending.
    pub fn comes_to_an_end(&self) -> Result<(), String> {
        let mut node = self.clone();
        for (agent, name) in AGENTS.into_iter().enumerate() {
            let session = node.session(agent).unwrap_or(0);
            node.apply(Input::Disconnected { session, agent: name.to_owned() })?;
        }
        node.silence(u8::MAX)?;
        let name = "healthy".to_owned();
        let agent = Introduction {
            name: name.clone(),
            incarnation: "1".to_owned(),
            host: String::new(),
            device: "cpu".to_owned(),
            description: String::new(),
            version: String::new(),
            threads: 1,
            memory_bytes: 0,
            max_cohort: 4,
            held: Vec::new(),
        };
        let session = u64::MAX;
        apply(&mut node.state, Input::Connected { session, sequence: 1, agent }, node.now);
        let mut say = |report| {
            let input = Input::Said { session, agent: name.clone(), sequence: 7, report };
            let effects = apply(&mut node.state, input, node.now);
            effects.into_iter().find_map(|effect| match effect {
                Effect::Send { message: ToAgent::Grant { leases, .. }, .. } => Some(leases),
                _ => None,
            })
        };
        let idle = || Report::Heartbeat {
            leases: Vec::new(),
            speed: 1.0,
            idle: true,
            waiting: Vec::new(),
            wish: Wish::default(),
        };
        while let Some(granted) = say(idle()) {
            for Granted { lease, .. } in granted {
                say(report(Word::Completed, lease));
            }
        }
        let unfinished = node.state.trials.iter().find(|(_, trial)| !trial.state.is_ending());
        unfinished.map_or(Ok(()), |(id, trial)| Err(format!("trial {id} stays {}", trial.state)))
    }
}
