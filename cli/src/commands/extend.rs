//! `plateau extend`: adds seeds or steps to a sweep.

use clap::Args;
use plateau_proto::{convert, v1};

use super::Context;
use crate::client::{DataDirectory, refusal};
use crate::exit::{Exit, Outcome};
use crate::sweeps::{self, SweepArgument};
use crate::values::Seeds;
use crate::words;

const EXAMPLES: &str = "\
Examples:
  plateau extend last --seeds 5,6        two more replicates of every cell
  plateau extend last --seeds 5-8
  plateau extend last --steps 200000     longer trials, continued from their last checkpoints

Only the difference runs.";

/// Options of `plateau extend`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
#[group(id = "what", required = true, multiple = true, args = ["seeds", "steps"])]
pub struct Arguments {
    #[command(flatten)]
    sweep: SweepArgument,

    /// Seeds to add, e.g. 5,6 or 5-8
    #[arg(long, value_name = "LIST")]
    seeds: Option<Seeds>,

    /// New number of steps of every trial
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=plateau_common::limits::MAX_STEPS))]
    steps: Option<u64>,

    #[command(flatten)]
    data: DataDirectory,
}

/// Extends the sweep.
pub async fn run(arguments: &Arguments, context: &Context) -> Outcome {
    let what = format!("extending the sweep `{}`", arguments.sweep.sweep);
    let mut connection = context.connect(&arguments.data).await?;
    let request = v1::ExtendRequest {
        sweep: arguments.sweep.sweep.clone(),
        seeds: arguments.seeds.clone().map(|seeds| seeds.0).unwrap_or_default(),
        steps: arguments.steps.unwrap_or(0),
    };
    let answer = connection.service.extend(request).await;
    let answer = answer.map_err(|status| refusal(&what, &status))?.into_inner();
    let summary = convert::required("summary", answer.summary)?;
    let options = context.target(&arguments.data).as_options();
    context.output.answer(
        || {
            let id = words::short(&summary.sweep);
            let next = sweeps::next_commands(&[(format!("plateau watch {id}{options}"), "follow it")]);
            format!(
                "{} added, {} continued\n{}\n\nNext:\n{next}",
                words::plural(answer.new_trials, "trial"),
                answer.continued_trials,
                sweeps::sentence(&summary)
            )
        },
        || {
            let mut json = sweeps::json(&summary);
            json["new_trials"] = answer.new_trials.into();
            json["continued_trials"] = answer.continued_trials.into();
            json
        },
        || summary.sweep.clone(),
    )?;
    connection.close().await?;
    Ok(Exit::Done)
}
