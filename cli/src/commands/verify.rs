//! `plateau verify`: looks over a data directory at rest.

use std::path::PathBuf;

use clap::{Args, ValueHint};
use plateau_coordinator::verify::{Finding, Leftover, Report, check};
use serde_json::{Value, json};

use super::Context;
use crate::client::CHECKPOINT_STORE;
use crate::exit::{Exit, Outcome};
use crate::output::Output;
use crate::table::{Columns, number, text};
use crate::words;

const EXAMPLES: &str = "\
Examples:
  plateau verify plateau-data
  plateau verify /data/plateau --output json

Reads everything and changes nothing; no coordinator may use the directory meanwhile. Every
checkpoint and every chunk of metrics is held against its digest. Exit code 1 if anything is
wrong. What an abrupt end left behind, and the next start sweeps away, is listed apart.";

/// Options of `plateau verify`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Data directory of a coordinator that does not run
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    data_dir: PathBuf,

    /// Where checkpoints are kept, as the URL of an object store [default: the folder checkpoints in the data directory]
    #[arg(long, value_name = "URL", env = CHECKPOINT_STORE, hide_env_values = true, value_hint = ValueHint::Url)]
    checkpoint_store: Option<String>,
}

/// Looks and tells.
pub async fn run(arguments: &Arguments, context: &Context) -> Outcome {
    let report = check(&arguments.data_dir, arguments.checkpoint_store.as_deref()).await?;
    context.output.answer(
        || table(&report, &context.output),
        || to_json(&report),
        || report.findings.iter().map(|found| words::one_line(&found.place)).collect::<Vec<_>>().join("\n"),
    )?;
    Ok(if report.is_clean() { Exit::Done } else { Exit::Error })
}

fn table(report: &Report, output: &Output) -> String {
    let mut parts = Vec::new();
    if !report.findings.is_empty() {
        let mut columns = Columns::new(output, &["wrong", "where", "problem", "what to do"]);
        for finding in &report.findings {
            columns.push(vec![
                text(finding.kind.name()),
                text(words::one_line(&finding.place)),
                text(words::one_line(&finding.problem)),
                text(finding.remedy),
            ]);
        }
        parts.push(columns.render());
    }
    if !report.leftovers.is_empty() {
        let mut columns = Columns::new(output, &["left over", "size", "what it is"]);
        for left in &report.leftovers {
            columns.push(vec![
                text(words::one_line(&left.place)),
                number(words::bytes(left.bytes)),
                text(left.what),
            ]);
        }
        parts.push(columns.render());
    }
    let seen = format!(
        "{}, {}, {} of metrics, {} ({})",
        words::plural(report.trials, "trial"),
        words::plural(report.attempts, "attempt"),
        words::plural(report.chunks, "chunk"),
        words::plural(report.checkpoints, "checkpoint"),
        words::bytes(report.checkpoint_bytes)
    );
    parts.push(match report.findings.len() as u64 {
        0 => format!("{seen}: everything is as it must be"),
        found => format!("{seen}: {} wrong", words::plural(found, "thing")),
    });
    parts.join("\n\n")
}

fn to_json(report: &Report) -> Value {
    let finding = |found: &Finding| {
        json!({
            "kind": found.kind.name(),
            "place": found.place,
            "problem": found.problem,
            "remedy": found.remedy,
        })
    };
    let leftover = |left: &Leftover| json!({ "place": left.place, "bytes": left.bytes, "what": left.what });
    json!({
        "clean": report.is_clean(),
        "trials": report.trials,
        "attempts": report.attempts,
        "chunks": report.chunks,
        "checkpoints": report.checkpoints,
        "checkpoint_bytes": report.checkpoint_bytes,
        "findings": report.findings.iter().map(finding).collect::<Vec<Value>>(),
        "leftovers": report.leftovers.iter().map(leftover).collect::<Vec<Value>>(),
    })
}
