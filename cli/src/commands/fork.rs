//! `plateau fork`: new trials that begin with a checkpoint of another one.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::Context as _;
use clap::{Args, ValueHint};
use plateau_common::config::Fork;
use plateau_common::limits;
use plateau_common::study::{ForkPlan, Format, Study};
use plateau_proto::{convert, v1};
use serde_json::json;

use super::Context;
use super::submit::{sentence, submit};
use crate::client::{DataDirectory, Service, refusal};
use crate::exit::{Exit, Failure, Outcome};
use crate::study_file::{self, ReadStudy, StudyArguments, parse_override};
use crate::{sweeps, words};

const EXAMPLES: &str = "\
Examples:
  plateau fork 3f2a91bc@5000                 the same once more: exactly the same curve
  plateau fork 3f2a91bc@5000 --replicates 5  the data in five other orders from there on
  plateau fork 3f2a91bc@5000 --set train.optimizer.weight-decay=0
  plateau fork 3f2a91bc@5000 --set 'axes.train.optimizer.lr=[1e-3, 1e-4]' --replicates 3
  plateau checkpoint list 3f2a91bc           the steps that can be forked at
  plateau fork 3f2a91bc@5000 --data-dir plateau-data --out fork.json && plateau run fork.json

Forks are trials of a sweep of their own. Until the step their curves are the parent's; what the
parent does afterwards, and whether it is deleted, does not matter to them. The same fork again runs
nothing. What tensors and data follow from (task, model, seed) cannot be changed.";

/// Options of `plateau fork`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Trial, by its id or the beginning of it, and step of one of its checkpoints
    #[arg(value_name = "TRIAL@STEP")]
    place: Place,

    /// Change a value, e.g. `--set train.optimizer.lr=1e-4`; may be repeated
    #[arg(long = "set", value_name = "PATH=VALUE", value_parser = parse_override)]
    overrides: Vec<(String, String)>,

    /// Forks that differ in the order of their data from there on [default: one fork, with the trial's own order]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=limits::MAX_FORKS as u64))]
    replicates: Option<u64>,

    /// Name of the forks' sweep [default: from the trial's study, the trial and the step]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    /// Write the forks' study to this file (.json), for `plateau run`, instead of submitting it
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    out: Option<PathBuf>,

    #[command(flatten)]
    data: DataDirectory,
}

/// `TRIAL@STEP`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    trial: String,
    step: u64,
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let place = text.split_once('@').and_then(|(trial, step)| {
            let step = step.replace('_', "").parse().ok()?;
            Some(Place { trial: trial.to_owned(), step })
        });
        place
            .filter(|place| !place.trial.is_empty() && place.step > 0)
            .ok_or_else(|| "expected TRIAL@STEP, e.g. 3f2a91bc@5000".to_owned())
    }
}

/// Forks the trial.
pub async fn run(arguments: &Arguments, context: &Context) -> Outcome {
    let Place { trial, step } = &arguments.place;
    let what = format!("forking the trial `{trial}` at step {step}");
    let mut connection = context.connect(&arguments.data).await?;
    let request = v1::DescribeTrialRequest { trial: trial.clone() };
    let answer = connection.service.describe_trial(request).await;
    let described = answer.map_err(|status| refusal(&what, &status))?.into_inner();
    let summary = convert::required("trial", described.trial)?;
    let parent = convert::trial_config("config_json", &summary.config_json).with_context(|| what.clone())?;
    let fork = Fork { trial: convert::trial_id("trial", &summary.trial)?, step: *step };
    let study = first_study(&mut connection.service, described.sweeps.first()).await?;
    let plan = ForkPlan {
        fork,
        parent: &parent,
        study: study.as_ref(),
        name: arguments.name.as_deref(),
        replicates: arguments.replicates.unwrap_or(0),
        overrides: &arguments.overrides,
    };
    let source = plan.source().map_err(|problem| Failure::usage(format!("{what}: {problem}")))?;
    let read = study_file::read_study(&source)?;
    if let Some(file) = &arguments.out {
        connection.close().await?;
        return write(file, &read, &arguments.overrides, context, &arguments.data);
    }
    let answer = submit(&mut connection.service, &read).await?;
    let options = context.target(&arguments.data).as_options();
    context.output.answer(
        || {
            let id = words::short(&answer.sweep);
            let next = sweeps::next_commands(&[
                (format!("plateau watch {id}{options}"), "follow it"),
                (format!("plateau trials {id}{options}"), "list the forks"),
                (format!("plateau report {id}{options}"), "statistics and figures, at any time"),
            ]);
            let from = format!("forked from trial {} at step {step}", fork.trial.short());
            format!("{}\n{from}\n\nNext:\n{next}", sentence(&read.study.name, &answer))
        },
        || {
            json!({
                "sweep": answer.sweep,
                "name": read.study.name,
                "existing": answer.existing,
                "trials": answer.trials,
                "new_trials": answer.new_trials,
                "fork": { "trial": fork.trial, "step": step },
            })
        },
        || answer.sweep.clone(),
    )?;
    connection.close().await?;
    Ok(Exit::Done)
}

/// Writes the study for `plateau run`. What is changed stays on the command line, where reports know it from.
fn write(
    file: &Path,
    read: &ReadStudy,
    overrides: &[(String, String)],
    context: &Context,
    data: &DataDirectory,
) -> Outcome {
    if Format::from_file_name(&file.to_string_lossy()) != Some(Format::Json) {
        return Err(Failure::usage(format!(
            "{}: the study is written as JSON: name a file .json",
            file.display()
        )));
    }
    let source = read.study.source();
    std::fs::write(file, &source.text).with_context(|| format!("writing the study {}", file.display()))?;
    let arguments = StudyArguments { study: file.to_owned(), overrides: overrides.to_vec() };
    let options = context.target(data).as_options();
    context.output.answer(
        || {
            let run = format!("plateau run {}{options}", arguments.as_words());
            let next = sweeps::next_commands(&[(run, "train the forks on this machine")]);
            format!(
                "{}: the study `{}`, {}\n\nNext:\n{next}",
                file.display(),
                read.study.name,
                source.file_name
            )
        },
        || json!({ "study": file, "name": read.study.name, "trials": read.study.count() }),
        || file.display().to_string(),
    )?;
    Ok(Exit::Done)
}

/// The study of a sweep; none if it cannot be read here.
async fn first_study(service: &mut Service, sweep: Option<&String>) -> anyhow::Result<Option<Study>> {
    let Some(sweep) = sweep else { return Ok(None) };
    let answer = service.describe_sweep(v1::DescribeSweepRequest { sweep: sweep.clone() }).await;
    let answer =
        answer.map_err(|status| refusal(&format!("looking at the sweep `{sweep}`"), &status))?.into_inner();
    Ok(study_file::from_wire(answer.study).ok().and_then(|source| Study::from_source(&source).ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_trial_and_a_step() {
        let place = |text: &str| text.parse::<Place>().map(|place| (place.trial, place.step));
        assert_eq!(place("3f2a@5000"), Ok(("3f2a".to_owned(), 5000)));
        assert_eq!(place("3f2a@5_000"), Ok(("3f2a".to_owned(), 5000)));
        for wrong in ["3f2a", "@5", "3f2a@", "3f2a@0", "3f2a@-1", "3f2a@last"] {
            assert!(place(wrong).unwrap_err().contains("TRIAL@STEP"), "{wrong}");
        }
    }
}
