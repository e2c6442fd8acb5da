//! Every interleaving of what can happen to a few trials and two agents: breadth first, each distinct state once, with the
//! invariants after every input and the promises about history on every edge.

use std::collections::{HashSet, VecDeque};

use plateau_common::trial::TrialState;

use super::exploration::{Node, Step};
use super::possibilities::{AGENTS, Action, BUDGET, Bounds, FAULTS, Fault, WORDS, Word};
use crate::core::*;

/// What was seen on the way; a branch that no exploration takes would be tested by none.
#[derive(Debug, Default)]
struct Seen {
    states: usize,
    edges: usize,
    /// Reports under an attempt that is not current.
    stale: usize,
    /// Completions among them that were refused.
    late_completions: usize,
    /// Endings that were said again and acknowledged again.
    repeated: usize,
    revoked: usize,
    quarantined: usize,
    completed_after_cancel: usize,
    cancelled: usize,
    requeued: usize,
    fenced: usize,
}

/// Visits everything within `bounds`; the error is a breach and the shortest way to it.
fn explore(bounds: &Bounds) -> Seen {
    let fail = |path: &[Action], problem: String| -> ! { panic!("{problem}\nafter {path:#?}") };
    let first = Node::first(bounds).unwrap_or_else(|problem| fail(&[], problem));
    let mut seen = Seen::default();
    let mut visited = HashSet::from([first.identity()]);
    let mut waiting = VecDeque::from([first]);
    while let Some(node) = waiting.pop_front() {
        // Ending well costs a hundred inputs, so not every state is asked for it.
        if seen.states.is_multiple_of(16)
            && let Err(problem) = node.comes_to_an_end()
        {
            fail(&node.path, problem);
        }
        seen.states += 1;
        let identity = node.identity();
        let (stale, live): (Vec<_>, Vec<_>) =
            node.actions(bounds).into_iter().partition(|action| node.is_stale(*action));
        let mut copy = node.clone();
        for action in stale {
            seen.edges += 1;
            if let Err(problem) = refused(&node, action, &copy.answer(action), &mut seen) {
                fail(&[&node.path[..], &[action]].concat(), problem);
            }
        }
        if copy.identity() != identity {
            fail(&node.path, "news of something that is over changed the state".to_owned());
        }
        for action in live {
            seen.edges += 1;
            let step = node.after(action, bounds);
            let step = step.unwrap_or_else(|problem| fail(&[&node.path[..], &[action]].concat(), problem));
            if let Err(problem) = edge(&node, action, &step, &mut seen) {
                fail(&step.node.path, problem);
            }
            if visited.insert(step.node.identity()) {
                waiting.push_back(step.node);
            }
        }
    }
    seen
}

/// What must hold between a state and the next.
fn edge(before: &Node, action: Action, step: &Step, seen: &mut Seen) -> Result<(), String> {
    let after = &step.node;
    for (((id, old), new), ended) in
        before.state.trials.iter().zip(after.state.trials.values()).zip(&before.ended)
    {
        if new.attempt < old.attempt || new.completed_step < old.completed_step {
            return Err(format!("the attempt or the completion of {id} went back"));
        }
        if new.ending != old.ending
            && let Some(ending) = &new.ending
            && ending.attempt <= *ended
        {
            return Err(format!("attempt {} of {id} ended twice", ending.attempt));
        }
        let left = old.state.is_ending() && new.state != old.state;
        if left && action != Action::Resubmit {
            return Err(format!("{id} was {} and is {}", old.state, new.state));
        }
        if old.state == TrialState::Completed && left {
            return Err(format!("{id} was completed and is {}", new.state));
        }
        seen.requeued += usize::from(left);
        seen.quarantined +=
            usize::from(!left && old.state != new.state && new.state == TrialState::Quarantined);
        let cancelled = after.state.sweeps[&1].mode == SweepMode::Cancelled;
        let changed = old.state != new.state;
        seen.completed_after_cancel +=
            usize::from(changed && cancelled && new.state == TrialState::Completed);
        seen.cancelled += usize::from(changed && new.state == TrialState::Cancelled);
    }
    match action {
        Action::Anew(agent) => {
            let name = AGENTS[agent];
            let old: Vec<_> = before.state.agents[name].leases.iter().copied().collect();
            seen.fenced += old.len();
            for id in old {
                let (old, new) = (before.state.trials[&id].attempt, &after.state.trials[&id]);
                if new.current(old).is_some() {
                    return Err(format!("attempt {old} of {id} outlived the process that held it"));
                }
            }
        }
        Action::Cancel => {
            let revoked = step
                .effects
                .iter()
                .any(|effect| matches!(effect, Effect::Send { message: ToAgent::Revoke { .. }, .. }));
            seen.revoked += usize::from(revoked);
        }
        _ => {}
    }
    Ok(())
}

/// What must be said to news of something that is over: nothing is written, and whoever speaks in a live session is told.
fn refused(node: &Node, action: Action, effects: &[Effect], seen: &mut Seen) -> Result<(), String> {
    if effects.iter().any(|effect| matches!(effect, Effect::Write(_) | Effect::Delete(..))) {
        return Err(format!("news of something that is over was recorded: {effects:?}"));
    }
    let refused = effects.iter().any(|effect| match effect {
        Effect::Send { message: ToAgent::Refused { reason, .. }, .. } => !reason.is_empty(),
        Effect::Answer(Answer::Refused(..)) => true,
        _ => false,
    });
    let expected = match action {
        Action::Late(..) | Action::LateDisconnect(_) => return Ok(()),
        Action::Say(agent, word, lease) => {
            seen.stale += 1;
            let trial = &node.state.trials[&lease.trial];
            let ending = trial.ending.as_ref().filter(|known| known.attempt == lease.attempt);
            let again = trial.holder == AGENTS[agent]
                && ending.is_some_and(|known| match known.step {
                    BUDGET => word == Word::Completed,
                    _ => word == Word::Diverged,
                });
            seen.repeated += usize::from(again);
            seen.late_completions += usize::from(word == Word::Completed && !again);
            !again
        }
        // One that is stored already is stored.
        Action::Stored(lease, step) => {
            let known = &node.state.trials[&lease.trial].checkpoints;
            !known.iter().any(|known| (known.attempt, known.step) == (lease.attempt, step))
        }
        _ => true,
    };
    match refused == expected {
        true => Ok(()),
        false => Err(format!("{action:?} was answered by {effects:?}")),
    }
}

fn at_most(faults: &[(Fault, u8)]) -> [u8; FAULTS] {
    let mut each = [0; FAULTS];
    for (fault, times) in faults {
        each[*fault as usize] = *times;
    }
    each
}

#[test]
fn three_trials_two_agents_and_a_restart() {
    let each = at_most(&[
        (Fault::Restart, 1),
        (Fault::Silence, 1),
        (Fault::Disconnect, 1),
        (Fault::Anew, 1),
        (Fault::Crash, 1),
        (Fault::Cancel, 1),
    ]);
    let words = &[Word::Completed, Word::Crashed];
    let seen = explore(&Bounds { trials: 3, cohort: 2, faults: 2, each, words, checkpoints: false });
    assert!(seen.states > 80_000 && seen.fenced > 0 && seen.revoked > 0, "{seen:?}");
}

#[test]
fn case_13_a_late_completion_is_refused_in_every_interleaving() {
    let each = at_most(&[(Fault::Restart, 1), (Fault::Silence, 2)]);
    let seen = explore(&Bounds { trials: 2, cohort: 1, faults: 2, each, words: &WORDS, checkpoints: false });
    assert!(seen.states > 12_000 && seen.late_completions > 40_000 && seen.repeated > 10_000, "{seen:?}");
}

#[test]
fn case_14_a_process_started_anew_fences_its_predecessor_in_every_interleaving() {
    let each = at_most(&[(Fault::Restart, 1), (Fault::Anew, 1), (Fault::Disconnect, 1)]);
    let seen = explore(&Bounds { trials: 2, cohort: 2, faults: 2, each, words: &WORDS, checkpoints: false });
    assert!(seen.states > 18_000 && seen.fenced > 1_500, "{seen:?}");
}

#[test]
fn case_22_cancel_races_with_completion_and_grant_in_every_interleaving() {
    let each = at_most(&[(Fault::Cancel, 1), (Fault::Resubmit, 1), (Fault::Release, 1), (Fault::Restart, 1)]);
    let seen = explore(&Bounds { trials: 2, cohort: 2, faults: 2, each, words: &WORDS, checkpoints: false });
    assert!(seen.states > 9_000 && seen.requeued > 0, "{seen:?}");
    assert!(seen.completed_after_cancel > 0 && seen.cancelled > 0 && seen.revoked > 0, "{seen:?}");
}

#[test]
fn case_19_a_trial_that_crashes_is_quarantined_in_every_interleaving() {
    let each = at_most(&[(Fault::Restart, 1), (Fault::Silence, 1), (Fault::Crash, 3), (Fault::Resubmit, 1)]);
    let words = &[Word::Started, Word::Completed, Word::Crashed];
    let seen = explore(&Bounds { trials: 1, cohort: 1, faults: 4, each, words, checkpoints: true });
    assert!(seen.quarantined > 0 && seen.requeued > 0, "{seen:?}");
}
