//! Every interleaving of what can happen to a few trials and two agents: breadth first, each distinct state once, with the
//! invariants after every input and the promises about history on every edge.

use std::collections::{HashSet, VecDeque};

use plateau_common::trial::TrialState;

use super::exploration::{Action, BUDGET, Bounds, FAULTS, Fault, Node, Step, Word};
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
    let start = std::time::Instant::now();
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
        for action in node.actions(bounds) {
            seen.edges += 1;
            let step = node.after(action, bounds);
            let step = step.unwrap_or_else(|problem| fail(&[&node.path[..], &[action]].concat(), problem));
            let next = step.node.identity();
            if let Err(problem) = edge(&node, action, &step, identity == next, &mut seen) {
                fail(&step.node.path, problem);
            }
            if visited.insert(next) {
                waiting.push_back(step.node);
            }
        }
    }
    eprintln!("{bounds:?} {seen:?} {:?}", start.elapsed());
    seen
}

/// What must hold between a state and the next.
fn edge(before: &Node, action: Action, step: &Step, same: bool, seen: &mut Seen) -> Result<(), String> {
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
    let writes = || step.effects.iter().any(|effect| matches!(effect, Effect::Write(_)));
    let refused = || {
        step.effects.iter().any(|effect| {
            matches!(effect, Effect::Send { message: ToAgent::Refused { reason, .. }, .. } if !reason.is_empty())
        })
    };
    let unchanged = |why: &str| match same && !writes() {
        true => Ok(()),
        false => Err(format!("{why} changed something: {:?}", step.effects)),
    };
    match action {
        Action::Late(..) | Action::LateDisconnect(_) => unchanged("news of a session that is over")?,
        Action::Say(agent, word, lease) if !before.is_current(agent, lease) => {
            seen.stale += 1;
            unchanged("a report under an attempt that is not current")?;
            let recorded = before.state.trials[&lease.trial].ending.as_ref();
            let recorded = recorded.filter(|known| known.attempt == lease.attempt);
            let again = recorded.is_some_and(|known| {
                let completed = known.step == BUDGET;
                word == if completed { Word::Completed } else { Word::Diverged }
            });
            if again == refused() {
                return Err(format!("a stale report was answered by {:?}", step.effects));
            }
            seen.repeated += usize::from(again);
            seen.late_completions += usize::from(word == Word::Completed && !again);
        }
        Action::Stored(lease, _) => {
            let held = before.state.trials[&lease.trial].current(lease.attempt).is_some();
            if !held {
                unchanged("a checkpoint under an attempt that is not current")?;
            }
        }
        Action::Anew(agent) => {
            let name = super::exploration::AGENTS[agent];
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
    let seen = explore(&Bounds { trials: 3, cohort: 2, faults: 2, each, checkpoints: false });
    assert!(seen.states > 1_000, "{seen:?}");
}

#[test]
fn case_13_a_late_completion_is_refused_in_every_interleaving() {
    let each = at_most(&[
        (Fault::Restart, 1),
        (Fault::Silence, 2),
        (Fault::Disconnect, 1),
        (Fault::Crash, 1),
        (Fault::Release, 1),
    ]);
    let seen = explore(&Bounds { trials: 2, cohort: 1, faults: 2, each, checkpoints: false });
    assert!(seen.late_completions > 100 && seen.repeated > 100, "{seen:?}");
}

#[test]
fn case_14_a_process_started_anew_fences_its_predecessor_in_every_interleaving() {
    let each = at_most(&[(Fault::Restart, 1), (Fault::Anew, 2), (Fault::Disconnect, 1)]);
    let seen = explore(&Bounds { trials: 2, cohort: 2, faults: 3, each, checkpoints: false });
    assert!(seen.fenced > 100 && seen.stale > 100, "{seen:?}");
}

#[test]
fn case_22_cancel_races_with_completion_and_grant_in_every_interleaving() {
    let each = at_most(&[
        (Fault::Cancel, 1),
        (Fault::Resubmit, 1),
        (Fault::Restart, 1),
        (Fault::Disconnect, 1),
        (Fault::Release, 1),
    ]);
    let seen = explore(&Bounds { trials: 2, cohort: 2, faults: 3, each, checkpoints: false });
    assert!(seen.completed_after_cancel > 0 && seen.cancelled > 0 && seen.revoked > 0, "{seen:?}");
    assert!(seen.requeued > 0, "{seen:?}");
}

#[test]
fn case_19_a_trial_that_crashes_is_quarantined_in_every_interleaving() {
    let each = at_most(&[
        (Fault::Restart, 1),
        (Fault::Silence, 1),
        (Fault::Anew, 1),
        (Fault::Crash, 3),
        (Fault::Resubmit, 1),
    ]);
    let seen = explore(&Bounds { trials: 1, cohort: 1, faults: 4, each, checkpoints: true });
    assert!(seen.quarantined > 0 && seen.requeued > 0, "{seen:?}");
}
