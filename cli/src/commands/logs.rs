//! `plateau logs`: what a trial said, attempt by attempt.

use clap::Args;
use plateau_proto::v1;
use serde_json::{Value, json};

use super::Context;
use crate::client::{DataDirectory, refusal};
use crate::exit::{Exit, Outcome};
use crate::words;

const EXAMPLES: &str = "\
Examples:
  plateau logs 3f2a91bc
  plateau logs $(plateau trials last --state failed --limit 1 --output quiet)";

/// Options of `plateau logs`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Trial: its id or the beginning of it
    #[arg(value_name = "TRIAL")]
    trial: String,
    #[command(flatten)]
    data: DataDirectory,
}

/// Shows the log.
pub async fn run(arguments: &Arguments, context: &Context) -> Outcome {
    let mut connection = context.connect(&arguments.data).await?;
    let answer = connection.service.get_logs(v1::GetLogsRequest { trial: arguments.trial.clone() }).await;
    let what = format!("fetching the log of the trial `{}`", arguments.trial);
    let attempts = answer.map_err(|status| refusal(&what, &status))?.into_inner().attempts;
    let lines = || {
        let mut lines = Vec::new();
        for attempt in &attempts {
            // What a fork takes over is an attempt of its own that no agent made.
            let whose = match attempt.agent.as_str() {
                "" => "taken over from the trial it was forked from".to_owned(),
                agent => format!("on {}", words::one_line(agent)),
            };
            lines.push(format!("── attempt {} {whose} ──", attempt.attempt));
            lines.extend(attempt.lines.iter().map(line));
        }
        if attempts.iter().all(|attempt| attempt.lines.is_empty()) {
            lines.push(nothing(!attempts.is_empty(), &arguments.trial));
        }
        lines.join("\n")
    };
    context.output.answer(
        lines,
        || json!({ "attempts": attempts.iter().map(attempt_json).collect::<Vec<Value>>() }),
        || attempts.iter().flat_map(|attempt| attempt.lines.iter().map(line)).collect::<Vec<_>>().join("\n"),
    )?;
    connection.close().await?;
    Ok(Exit::Done)
}

/// What is said of a trial without lines: an attempt that failed before its trainer spoke has its reason elsewhere.
fn nothing(attempted: bool, trial: &str) -> String {
    if attempted {
        format!("no lines; `plateau explain {trial}` says why it ended")
    } else {
        format!("no attempt so far; `plateau explain {trial}` says what it waits for")
    }
}

fn line(line: &v1::LogLine) -> String {
    format!(
        "{} {:>5} {}",
        words::time(line.unix_milliseconds),
        words::one_line(&line.level).to_uppercase(),
        words::one_line(&line.message)
    )
}

fn attempt_json(attempt: &v1::AttemptLog) -> Value {
    let lines: Vec<Value> = attempt
        .lines
        .iter()
        .map(|line| {
            json!({ "time": words::time(line.unix_milliseconds), "level": line.level, "message": line.message })
        })
        .collect();
    json!({ "attempt": attempt.attempt, "agent": attempt.agent, "lines": lines })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trial_without_lines_points_to_its_reason() {
        assert_eq!(nothing(true, "3f2a"), "no lines; `plateau explain 3f2a` says why it ended");
        assert!(nothing(false, "3f2a").contains("no attempt so far"));
    }
}
