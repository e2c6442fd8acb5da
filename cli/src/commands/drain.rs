//! `plateau drain`: gives an agent nothing more.

use clap::Args;
use plateau_proto::{convert, v1};

use super::Context;
use super::agents::{sentence, to_json};
use crate::client::{DataDirectory, refusal};
use crate::exit::{Exit, Outcome};
use crate::words;

const EXAMPLES: &str = "\
Examples:
  plateau drain node7-cuda0 --reason 'the card is throttling'
  plateau undrain node7-cuda0

What the agent trains it finishes; then it waits, connected, until `plateau undrain`. The
coordinator drains an agent itself when different trials crash on it in a row.";

/// Options of `plateau drain`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// The agent's name
    #[arg(value_name = "AGENT")]
    agent: String,

    /// Why, for the record
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,

    #[command(flatten)]
    data: DataDirectory,
}

/// Asks for it.
pub async fn run(arguments: &Arguments, context: &Context) -> Outcome {
    let what = format!("draining the agent `{}`", arguments.agent);
    let mut connection = context.connect(&arguments.data).await?;
    let request = v1::DrainRequest { agent: arguments.agent.clone(), reason: arguments.reason.clone() };
    let answer = connection.service.drain(request).await;
    let answer = answer.map_err(|status| refusal(&what, &status))?.into_inner();
    let agent = convert::required("agent", answer.agent)?;
    context.output.answer(|| sentence(&agent), || to_json(&agent), || words::one_line(&agent.name))?;
    connection.close().await?;
    Ok(Exit::Done)
}
