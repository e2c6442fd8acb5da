//! Drained agents: they finish what they hold and are given nothing more, until somebody undrains them.
//!
//! A drain is asked for by a person, or follows from what an agent does: different trials crash on it in a row
//! (`guilt`), or several processes take its name from each other.

use std::time::Duration;

use plateau_common::limits;

use super::effect::{Answer, Effect, Refusal, Subject, Write};
use super::state::{Now, State};

/// Drains an agent, if it is not.
pub(super) fn drain(state: &mut State, name: &str, reason: &str, effects: &mut Vec<Effect>) {
    let Some(agent) = state.agents.get_mut(name).filter(|agent| agent.drained.is_none()) else { return };
    agent.drained = Some(reason.to_owned());
    effects.push(Effect::Write(Write::Agent(name.to_owned(), Box::new(agent.clone()))));
    let event = format!("drained: {reason}");
    effects.push(Effect::Write(Write::History(Subject::Agent(name.to_owned()), event)));
}

/// A person asks for it.
pub(super) fn asked(state: &mut State, name: &str, reason: &str, effects: &mut Vec<Effect>) {
    if !state.agents.contains_key(name) {
        effects.push(Effect::Answer(unknown(name)));
        return;
    }
    let reason = if reason.is_empty() { "by hand" } else { reason };
    drain(state, name, reason, effects);
    effects.push(Effect::Answer(Answer::Done));
}

/// A person trusts the agent again; what was held against it is forgotten.
pub(super) fn undrain(state: &mut State, name: &str, effects: &mut Vec<Effect>) {
    let Some(agent) = state.agents.get_mut(name) else {
        effects.push(Effect::Answer(unknown(name)));
        return;
    };
    agent.crashed.clear();
    agent.failures = 0;
    agent.superseded.clear();
    if agent.drained.take().is_some() {
        effects.push(Effect::Write(Write::Agent(name.to_owned(), Box::new(agent.clone()))));
        let subject = Subject::Agent(name.to_owned());
        effects.push(Effect::Write(Write::History(subject, "undrained".to_owned())));
    }
    effects.push(Effect::Answer(Answer::Done));
}

fn unknown(name: &str) -> Answer {
    Answer::Refused(Refusal::NotFound, format!("no agent is called `{}`", name.escape_debug()))
}

/// A process on `host` took the name from one on `previous` that was still connected. Processes that do so again and again
/// are several under one name, which stops the training of both: the name is drained.
pub(super) fn superseded(
    state: &mut State,
    name: &str,
    previous: &str,
    host: &str,
    now: Now,
    effects: &mut Vec<Effect>,
) {
    let Some(agent) = state.agents.get_mut(name) else { return };
    let window = Duration::from_secs(limits::SUPERSESSION_WINDOW_SECONDS);
    agent.superseded.retain(|at| now.monotonic.saturating_sub(*at) <= window);
    agent.superseded.push(now.monotonic);
    if agent.superseded.len() > limits::MAX_SUPERSESSIONS {
        let reason = format!(
            "processes on hosts `{}` and `{}` take this name from each other: give each agent a name of its own",
            previous.escape_debug(),
            host.escape_debug()
        );
        drain(state, name, &reason, effects);
    }
}
