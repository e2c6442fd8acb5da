//! `plateau pause`: stops a sweep for a while.

use clap::Args;
use plateau_proto::{convert, v1};

use super::Context;
use crate::client::{DataDirectory, refusal};
use crate::exit::{Exit, Outcome};
use crate::progress::sweep_state_name;
use crate::sweeps::{self, SweepArgument};

const EXAMPLES: &str = "\
Examples:
  plateau pause last
  plateau resume last

Running trials save a checkpoint, give their place back, and go on from there after `plateau resume`.";

/// Options of `plateau pause`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    #[command(flatten)]
    sweep: SweepArgument,
    #[command(flatten)]
    data: DataDirectory,
}

/// Asks for it.
pub async fn run(arguments: &Arguments, context: &Context) -> Outcome {
    let what = format!("pausing the sweep `{}`", arguments.sweep.sweep);
    let mut connection = context.connect(&arguments.data).await?;
    let request = v1::PauseRequest { sweep: arguments.sweep.sweep.clone() };
    let answer = connection.service.pause(request).await;
    let answer = answer.map_err(|status| refusal(&what, &status))?.into_inner();
    let summary = convert::required("summary", answer.summary)?;
    context.output.answer(
        || sweeps::sentence(&summary),
        || sweeps::json(&summary),
        || sweep_state_name(summary.state).to_owned(),
    )?;
    connection.close().await?;
    Ok(Exit::Done)
}
