//! Sweeps as answers: one look for every command that names them.

use clap::Args;
use plateau_proto::v1;
use serde_json::{Value, json};

use crate::progress::{by_state, counts_json, done, failed, sweep_state_name, total};
use crate::words;

/// Which sweep a command is about.
#[derive(Args, Clone, Debug)]
pub struct SweepArgument {
    /// Sweep: its id, the beginning of its id, the name of its study (its newest sweep), or "last"
    #[arg(value_name = "SWEEP")]
    pub sweep: String,
}

/// A sweep for programs.
pub fn json(summary: &v1::SweepSummary) -> Value {
    json!({
        "sweep": summary.sweep,
        "name": summary.name,
        "state": sweep_state_name(summary.state),
        "trials": counts_json(&summary.counts.unwrap_or_default()),
        "total_steps": summary.total_steps,
        "done_steps": summary.done_steps,
        "submitted": words::time(summary.submitted_unix_milliseconds),
    })
}

/// A sweep in one line: ``sweep 5ca1ab1e `counting`: active, 37 of 120 trials done, 1 failed``.
pub fn sentence(summary: &v1::SweepSummary) -> String {
    let counts = summary.counts.unwrap_or_default();
    let mut text = format!(
        "sweep {} `{}`: {}, {} of {} trials done",
        words::short(&summary.sweep),
        words::one_line(&summary.name),
        sweep_state_name(summary.state),
        done(&counts),
        total(&counts)
    );
    if failed(&counts) > 0 {
        text.push_str(&format!(", {} failed", failed(&counts)));
    }
    text
}

/// The states that trials are in: `36 completed, 1 diverged, 83 pending`.
pub fn states(counts: &v1::TrialCounts) -> String {
    let present = by_state(counts).into_iter().filter(|(_, count)| *count > 0);
    let words: Vec<String> = present.map(|(state, count)| format!("{count} {state}")).collect();
    if words.is_empty() { "none".to_owned() } else { words.join(", ") }
}

/// Commands a user may want next, one per line, indented.
pub fn next_commands(commands: &[(String, &str)]) -> String {
    let width = commands.iter().map(|(command, _)| command.chars().count()).max().unwrap_or(0);
    let lines: Vec<String> =
        commands.iter().map(|(command, purpose)| format!("  {command:<width$}  {purpose}")).collect();
    lines.join("\n")
}

/// The share of steps made, in percent.
pub fn percent(summary: &v1::SweepSummary) -> String {
    match summary.total_steps {
        0 => "100%".to_owned(),
        total => format!("{:.0}%", 100.0 * summary.done_steps as f64 / total as f64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary() -> v1::SweepSummary {
        v1::SweepSummary {
            sweep: "5ca1ab1e00000000".to_owned(),
            name: "counting".to_owned(),
            state: v1::SweepState::Active as i32,
            counts: Some(v1::TrialCounts {
                pending: 3,
                completed: 4,
                diverged: 1,
                failed: 2,
                ..Default::default()
            }),
            submitted_unix_milliseconds: 0,
            total_steps: 200,
            done_steps: 50,
        }
    }

    #[test]
    fn a_sweep_in_words_and_for_programs() {
        assert_eq!(sentence(&summary()), "sweep 5ca1ab1e `counting`: active, 5 of 10 trials done, 2 failed");
        assert_eq!(states(&summary().counts.unwrap()), "3 pending, 4 completed, 1 diverged, 2 failed");
        assert_eq!(percent(&summary()), "25%");
        assert_eq!(json(&summary())["trials"]["total"], 10);
        assert_eq!(json(&summary())["state"], "active");
    }

    #[test]
    fn next_commands_are_aligned() {
        let text = next_commands(&[("a".to_owned(), "one"), ("bcd".to_owned(), "two")]);
        assert_eq!(text, "  a    one\n  bcd  two");
    }
}
