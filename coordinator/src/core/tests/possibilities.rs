//! What can happen in an exploration: words that agents say, faults, actions, and how many of them.

use plateau_common::failure::FailureClass;
use plateau_common::trial::Ending;

use super::world::specification;
use crate::core::*;

/// The agents, by number.
pub const AGENTS: [&str; 2] = ["a", "b"];
/// Steps of every trial.
pub const BUDGET: u64 = 10;
/// Step of the checkpoints that are made on the way.
pub const MIDDLE: u64 = 5;

/// What an agent may say of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// Training began.
    Started,
    /// All steps were made.
    Completed,
    /// The loss became infinite.
    Diverged,
    /// Given back.
    Released,
    /// The trainer broke.
    Crashed,
}

/// Every [`Word`].
pub const WORDS: [Word; 5] = [Word::Started, Word::Completed, Word::Diverged, Word::Released, Word::Crashed];

/// What is bounded on one path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The coordinator dies and starts again.
    Restart,
    /// Leases run out.
    Silence,
    /// An agent's connection breaks, or is replaced.
    Disconnect,
    /// An agent's process starts anew.
    Anew,
    /// A trainer breaks.
    Crash,
    /// An agent gives a lease back.
    Release,
    /// The sweep is cancelled.
    Cancel,
    /// The study is submitted again.
    Resubmit,
}

/// Number of kinds of [`Fault`].
pub const FAULTS: usize = 8;

/// One edge. Agents are numbers into [`AGENTS`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Action {
    /// A heartbeat of an agent that could start a cohort.
    Idle(usize),
    /// In the agent's live session.
    Say(usize, Word, LeaseKey),
    /// In a session of the agent that is over.
    Late(usize, Word, LeaseKey),
    /// The news that a session is over arrives after the next one began.
    LateDisconnect(usize),
    /// A checkpoint at this step was uploaded.
    Stored(LeaseKey, u64),
    /// All agents but those of this set of bits renew their leases; the others' run out.
    Silence(u8),
    /// Every agent renews its leases and the pauses after crashes are over.
    Pass,
    /// The connection breaks.
    Disconnect(usize),
    /// The same process opens a session, and holds what it was granted, or never received it.
    Connect(usize, bool),
    /// Another process of the same name opens a session.
    Anew(usize),
    /// The coordinator dies and starts again.
    Restart,
    /// The sweep is given up.
    Cancel,
    /// The study is submitted again.
    Resubmit,
}

/// How far an exploration goes.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Trials of the sweep.
    pub trials: u8,
    /// Trials that an agent takes at once.
    pub cohort: u32,
    /// Faults on one path, of all kinds together; without one a trial needs one attempt, so this bounds attempts too.
    pub faults: u8,
    /// And of each kind.
    pub each: [u8; FAULTS],
    /// What agents say of leases.
    pub words: &'static [Word],
    /// Whether agents make checkpoints on the way.
    pub checkpoints: bool,
}

/// The study of an exploration.
pub fn submission(bounds: &Bounds) -> Input {
    let trials = (1..=bounds.trials).map(|number| specification(number, BUDGET, 0)).collect();
    Input::Submit { id: "s".to_owned(), name: "s".to_owned(), source: vec![1], trials }
}

/// What saying a word of a live lease counts as.
pub fn fault(word: Word) -> Option<Fault> {
    match word {
        Word::Crashed => Some(Fault::Crash),
        Word::Released => Some(Fault::Release),
        Word::Started | Word::Completed | Word::Diverged => None,
    }
}

/// What an agent says with a word.
pub fn report(word: Word, lease: LeaseKey) -> Report {
    let ended = |ending, step| Report::Ended {
        lease,
        ending,
        step,
        train_seconds: 0.0,
        weights_hash: "w".to_owned(),
    };
    match word {
        Word::Started => Report::Started { lease, from_step: 0 },
        Word::Completed => ended(Ending::Completed, BUDGET),
        Word::Diverged => ended(Ending::Diverged { step: MIDDLE }, MIDDLE),
        Word::Released => Report::Released { lease, reason: String::new(), train_seconds: 0.0 },
        Word::Crashed => {
            Report::Crashed { leases: vec![lease], class: FailureClass::Exited, reason: "broke".to_owned() }
        }
    }
}
