//! `plateau cancel`: gives a sweep up.

use clap::Args;
use plateau_proto::{convert, v1};

use super::Context;
use crate::client::{DataDirectory, refusal};
use crate::exit::{Exit, Outcome};
use crate::progress::sweep_state_name;
use crate::sweeps::{self, SweepArgument};

const EXAMPLES: &str = "\
Examples:
  plateau cancel last
  plateau cancel 5ca1 --reason 'the learning rate is wrong'

Trials that are done keep their results; `plateau report` works as before.";

/// Options of `plateau cancel`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    #[command(flatten)]
    sweep: SweepArgument,

    /// Why, for the record
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,

    #[command(flatten)]
    data: DataDirectory,
}

/// Asks for it.
pub async fn run(arguments: &Arguments, context: &Context) -> Outcome {
    let what = format!("cancelling the sweep `{}`", arguments.sweep.sweep);
    let mut connection = context.connect(&arguments.data).await?;
    let request =
        v1::CancelRequest { sweep: arguments.sweep.sweep.clone(), reason: arguments.reason.clone() };
    let answer = connection.service.cancel(request).await;
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
