//! `plateau resume`: lets a paused sweep go on.

use clap::Args;
use plateau_proto::{convert, v1};

use super::Context;
use crate::client::{DataDirectory, refusal};
use crate::exit::{Exit, Outcome};
use crate::progress::sweep_state_name;
use crate::sweeps::{self, SweepArgument};

const EXAMPLES: &str = "\
Examples:
  plateau resume last";

/// Options of `plateau resume`.
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
    let what = format!("resuming the sweep `{}`", arguments.sweep.sweep);
    let mut connection = context.connect(&arguments.data).await?;
    let request = v1::ResumeRequest { sweep: arguments.sweep.sweep.clone() };
    let answer = connection.service.resume(request).await;
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
