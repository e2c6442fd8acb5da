//! Names and labels: ids of trials and cohorts, selectors of sweeps and trials, names of studies and agents.

use plateau_common::identity::TrialId;
use plateau_common::study::{Format, Study};
use plateau_coordinator::core::{self, Input, Now, Shape, Specification, State};
use plateau_coordinator::wire;
use plateau_proto::{convert, v1};

use crate::short;

/// A state with two sweeps whose ids and trials begin alike.
fn state() -> State {
    let mut state = State::default();
    for (id, name) in [("0123456789ab", "grokking"), ("0123456789ff", "counting")] {
        let trials = ["0123456789abcdef0123456789abcdef", "0123456789abcdef0123456789abcdee"].map(|trial| {
            TrialId::parse(trial).map(|trial| Specification {
                trial,
                budget: 10,
                cohort: 1,
                cost: 1,
                keep: 1,
                keep_every: None,
                keep_around: None,
                shape: Shape { state_bytes: 1, workspace_bytes: 1, flops_per_update: 1.0 },
                fork: None,
                root: None,
            })
        });
        let trials = trials.into_iter().flatten().collect();
        let (id, name) = (id.to_owned(), name.to_owned());
        core::apply(&mut state, Input::Submit { id, name, source: Vec::new(), trials }, Now::default());
    }
    state
}

/// One name, in every place that takes one.
pub fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data).into_owned();
    let state = state();
    match core::find_trial(&state, &text) {
        Ok(trial) => assert!(trial.to_string().starts_with(&text)),
        Err(error) => short(error),
    }
    match core::find_sweep(&state, &text) {
        Ok(number) => assert!(state.sweeps.contains_key(&number)),
        Err(error) => short(error),
    }
    match convert::trial_id("trial", &text) {
        Ok(trial) => assert_eq!(trial.to_string(), text),
        Err(error) => short(error),
    }
    match convert::cohort_key("cohort", &text) {
        Ok(key) => assert_eq!(convert::cohort_key_to_wire(key), text),
        Err(error) => short(error),
    }
    study_name(&text);
    agent_name(text);
}

/// A name that a study is accepted with is one component of a path, on any system.
fn study_name(text: &str) {
    let base = serde_json::json!({
        "name": text,
        "task": { "kind": "query-count", "vocab": 8 },
        "model": { "kind": "transformer", "layers": 1, "heads": 2, "dim": 8 },
        "train": { "steps": 10, "batch": 4, "optimizer": { "kind": "adam", "lr": 0.5 } },
    });
    match Study::parse(&base.to_string(), "name.json", Format::Json, &[]) {
        Ok(study) => {
            assert_eq!(study.name, text);
            assert!(!text.starts_with('.') && text.len() <= plateau_common::limits::MAX_NAME_BYTES);
            let allowed =
                |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
            assert!(text.bytes().all(allowed), "{text:?}");
        }
        Err(error) => short(error),
    }
}

/// A name that an agent is accepted with stays on its line.
fn agent_name(text: String) {
    let hello = v1::agent_message::Hello {
        protocol: 1,
        name: text,
        incarnation: "1".to_owned(),
        device: "cpu".to_owned(),
        max_cohort: 1,
        ..v1::agent_message::Hello::default()
    };
    match wire::introduction(hello) {
        Ok(agent) => {
            assert!(!agent.name.is_empty() && agent.name.len() <= plateau_common::limits::MAX_NAME_BYTES);
            assert!(!agent.name.chars().any(char::is_control));
        }
        Err(error) => short(error),
    }
}
