//! `plateau delete`: a sweep and everything that is only its own.

use clap::Args;
use plateau_proto::{convert, v1};

use super::Context;
use super::gc::{freed_in_words, freed_to_json};
use crate::client::{DataDirectory, refusal};
use crate::exit::{Exit, Outcome};
use crate::sweeps::SweepArgument;
use crate::words;

const EXAMPLES: &str = "\
Examples:
  plateau delete 5ca1 --dry-run   what would be deleted?
  plateau delete 5ca1

A sweep that still runs is stopped at once. Trials that another sweep holds too keep everything;
of the others nothing stays: results, metrics, checkpoints, logs. `plateau cancel` keeps what is
done. Reports that were written stay where they are.";

/// Options of `plateau delete`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    #[command(flatten)]
    sweep: SweepArgument,

    /// Delete nothing; say what would be deleted
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    data: DataDirectory,
}

/// Asks for it.
pub async fn run(arguments: &Arguments, context: &Context) -> Outcome {
    let what = format!("deleting the sweep `{}`", arguments.sweep.sweep);
    let mut connection = context.connect(&arguments.data).await?;
    let request = v1::DeleteSweepRequest { sweep: arguments.sweep.sweep.clone(), dry_run: arguments.dry_run };
    let answer = connection.service.delete_sweep(request).await;
    let answer = answer.map_err(|status| refusal(&what, &status))?.into_inner();
    let freed = convert::required("freed", answer.freed)?;
    let sweep = words::one_line(&answer.sweep);
    let done = if arguments.dry_run { "would be deleted" } else { "deleted" };
    context.output.answer(
        || {
            let trials = words::plural(freed.trials, "trial");
            format!(
                "sweep {sweep} {done}, with {trials} that no other sweep holds: {}",
                freed_in_words(&freed)
            )
        },
        || {
            let mut json = freed_to_json(&freed);
            json["sweep"] = answer.sweep.clone().into();
            json["dry_run"] = arguments.dry_run.into();
            json
        },
        || sweep.clone(),
    )?;
    connection.close().await?;
    Ok(Exit::Done)
}
