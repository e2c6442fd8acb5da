//! `plateau show`: one sweep, its study and its state.

use std::collections::BTreeSet;

use clap::Args;
use plateau_common::study::Study;
use plateau_proto::{convert, v1};
use serde_json::json;

use super::Context;
use crate::client::{DataDirectory, refusal};
use crate::exit::{Exit, Outcome};
use crate::progress::{failure_json, sweep_state_name, total};
use crate::study_file;
use crate::sweeps::{self, SweepArgument};
use crate::words;

const EXAMPLES: &str = "\
Examples:
  plateau show last
  plateau show counting-quick --data-dir plateau-data
  plateau show 5ca1 --output json";

/// Options of `plateau show`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    #[command(flatten)]
    sweep: SweepArgument,
    #[command(flatten)]
    data: DataDirectory,
}

/// Shows the sweep.
pub async fn run(arguments: &Arguments, context: &Context) -> Outcome {
    let what = format!("showing the sweep `{}`", arguments.sweep.sweep);
    let mut connection = context.connect(&arguments.data).await?;
    let request = v1::DescribeSweepRequest { sweep: arguments.sweep.sweep.clone() };
    let answer = connection.service.describe_sweep(request).await;
    let answer = answer.map_err(|status| refusal(&what, &status))?.into_inner();
    let summary = convert::required("summary", answer.summary)?;
    let source = study_file::from_wire(answer.study)?;
    // A study of a newer version may be unreadable here; the rest is shown all the same.
    let study = Study::from_source(&source).ok();
    let failure = answer.last_failure;
    let options = context.target(&arguments.data).as_options();
    context.output.answer(
        || describe(&summary, &source.file_name, study.as_ref(), failure.as_ref(), &options),
        || {
            let mut json = sweeps::json(&summary);
            json["study"] = json!({
                "file_name": source.file_name,
                "text": source.text,
                "overrides": source.overrides.iter().map(|(path, value)| format!("{path}={value}")).collect::<Vec<_>>(),
            });
            json["last_failure"] = failure.as_ref().map(failure_json).into();
            json
        },
        || sweep_state_name(summary.state).to_owned(),
    )?;
    connection.close().await?;
    Ok(Exit::Done)
}

fn describe(
    summary: &v1::SweepSummary,
    file_name: &str,
    study: Option<&Study>,
    failure: Option<&v1::Failure>,
    options: &str,
) -> String {
    let counts = summary.counts.unwrap_or_default();
    let id = words::short(&summary.sweep);
    let mut lines = vec![
        format!("sweep      {}", summary.sweep),
        format!("study      {} ({})", words::one_line(&summary.name), words::one_line(file_name)),
        format!("state      {}", sweep_state_name(summary.state)),
        format!("trials     {}: {}", total(&counts), sweeps::states(&counts)),
        format!(
            "steps      {} of {} ({})",
            words::whole(u128::from(summary.done_steps)),
            words::whole(u128::from(summary.total_steps)),
            sweeps::percent(summary)
        ),
        format!(
            "submitted  {} ({})",
            words::time(summary.submitted_unix_milliseconds),
            words::ago(summary.submitted_unix_milliseconds)
        ),
    ];
    if let Some(study) = study {
        for axis in study.axes() {
            let values: Vec<String> = axis.values.iter().map(|value| value.value.to_string()).collect();
            lines.push(format!("axis       {} = {}", axis.path, super::check::shorten(&values)));
        }
    }
    lines.extend(study.into_iter().flat_map(origins));
    if let Some(failure) = failure {
        let trial = words::short(&failure.trial);
        lines.push(format!(
            "failure    trial {trial}, {}: {}",
            words::ago(failure.unix_milliseconds),
            words::one_line(&failure.reason)
        ));
        lines.push(format!("           see `plateau logs {trial}{options}`"));
    }
    let next = sweeps::next_commands(&[
        (format!("plateau trials {id}{options}"), "its trials"),
        (format!("plateau report {id}{options}"), "statistics and figures"),
        (format!("plateau explain {id}{options}"), "its history"),
    ]);
    lines.push(format!("\nNext:\n{next}"));
    lines.join("\n")
}

/// Trials of a study that are looked at to learn whose forks they are.
const LOOKED_AT: usize = 10_000;

/// Whose forks the study's trials are, a line each.
fn origins(study: &Study) -> Vec<String> {
    if !study.has_forks() {
        return Vec::new();
    }
    let forks = study.trials().take(LOOKED_AT).filter_map(|trial| trial.ok()?.fork);
    let places: BTreeSet<(String, u64)> = forks.map(|fork| (fork.trial.to_string(), fork.step)).collect();
    places.into_iter().map(|(trial, step)| format!("forked     from trial {trial} at step {step}")).collect()
}
