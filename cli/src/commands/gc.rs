//! `plateau gc`: checkpoints that nothing needs any more.

use std::time::Duration;

use clap::Args;
use plateau_proto::{convert, v1};
use serde_json::{Value, json};

use super::Context;
use crate::client::{DataDirectory, refusal};
use crate::exit::{Exit, Outcome};
use crate::words;

const EXAMPLES: &str = "\
Examples:
  plateau gc --dry-run             what would be deleted?
  plateau gc
  plateau gc --older-than 30days   only of sweeps submitted so long ago
  plateau gc --keep 0              not even the last states, so nothing can be continued

Deleted are checkpoints of trials that have ended: all of those that only cancelled sweeps hold;
of the others all but the newest and those that the study keeps for good (keep-every,
keep-around). Results and metrics stay. Trials in training are not touched, so this is safe while
the coordinator works. Files that no record names are deleted after two hours.";

/// Options of `plateau gc`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Delete nothing; say what would be deleted
    #[arg(long)]
    dry_run: bool,

    /// Only of trials whose sweeps were all submitted at least so long ago, e.g. 12h or 30days
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = humantime::parse_duration)]
    older_than: Duration,

    /// Newest checkpoints that each ended trial keeps
    #[arg(long, value_name = "N", default_value_t = 1)]
    keep: u32,

    #[command(flatten)]
    data: DataDirectory,
}

/// Asks for it.
pub async fn run(arguments: &Arguments, context: &Context) -> Outcome {
    let mut connection = context.connect(&arguments.data).await?;
    let request = v1::CollectGarbageRequest {
        dry_run: arguments.dry_run,
        keep: arguments.keep,
        older_than_seconds: arguments.older_than.as_secs(),
    };
    let answer = connection.service.collect_garbage(request).await;
    let answer = answer.map_err(|status| refusal("collecting garbage", &status))?.into_inner();
    let freed = convert::required("freed", answer.freed)?;
    context.output.answer(
        || sentence(&answer, &freed, arguments.dry_run),
        || {
            let mut json = freed_to_json(&freed);
            json["dry_run"] = arguments.dry_run.into();
            json["orphans"] = json!({ "files": answer.orphans, "bytes": answer.orphan_bytes });
            json["waiting_orphans"] =
                json!({ "files": answer.waiting_orphans, "bytes": answer.waiting_orphan_bytes });
            json
        },
        || (freed.bytes + answer.orphan_bytes).to_string(),
    )?;
    connection.close().await?;
    Ok(Exit::Done)
}

fn sentence(answer: &v1::CollectGarbageResponse, freed: &v1::Freed, dry_run: bool) -> String {
    let done = if dry_run { "would free" } else { "freed" };
    let mut text = format!("{done} {} of {}", freed_in_words(freed), words::plural(freed.trials, "trial"));
    for (verb, files, bytes) in [
        ("deleted", answer.orphans, answer.orphan_bytes),
        ("to be deleted later", answer.waiting_orphans, answer.waiting_orphan_bytes),
    ] {
        if files > 0 {
            let files = words::plural(files, "file");
            text += &format!("; {verb}: {files} that nothing names ({})", words::bytes(bytes));
        }
    }
    text
}

/// What was freed: `12 checkpoints (3.4 MiB)`.
pub fn freed_in_words(freed: &v1::Freed) -> String {
    format!("{} ({})", words::plural(freed.checkpoints, "checkpoint"), words::bytes(freed.bytes))
}

/// What was freed, for programs.
pub fn freed_to_json(freed: &v1::Freed) -> Value {
    json!({ "trials": freed.trials, "checkpoints": freed.checkpoints, "bytes": freed.bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_it_freed_and_what_waits() {
        let freed = v1::Freed { trials: 1, checkpoints: 2, bytes: 2048 };
        let mut answer = v1::CollectGarbageResponse::default();
        assert_eq!(sentence(&answer, &freed, true), "would free 2 checkpoints (2.0 KiB) of 1 trial");
        (answer.waiting_orphans, answer.waiting_orphan_bytes) = (1, 512);
        let said = sentence(&answer, &freed, false);
        assert!(said.ends_with("; to be deleted later: 1 file that nothing names (512 B)"), "{said}");
    }
}
