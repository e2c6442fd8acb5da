//! `plateau undrain`: gives a drained agent trials again.

use clap::Args;
use plateau_proto::{convert, v1};

use super::Context;
use super::agents::{sentence, to_json};
use crate::client::{DataDirectory, refusal};
use crate::exit::{Exit, Outcome};
use crate::words;

const EXAMPLES: &str = "\
Examples:
  plateau undrain node7-cuda0";

/// Options of `plateau undrain`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// The agent's name
    #[arg(value_name = "AGENT")]
    agent: String,

    #[command(flatten)]
    data: DataDirectory,
}

/// Asks for it.
pub async fn run(arguments: &Arguments, context: &Context) -> Outcome {
    let what = format!("undraining the agent `{}`", arguments.agent);
    let mut connection = context.connect(&arguments.data).await?;
    let request = v1::UndrainRequest { agent: arguments.agent.clone() };
    let answer = connection.service.undrain(request).await;
    let answer = answer.map_err(|status| refusal(&what, &status))?.into_inner();
    let agent = convert::required("agent", answer.agent)?;
    context.output.answer(|| sentence(&agent), || to_json(&agent), || words::one_line(&agent.name))?;
    connection.close().await?;
    Ok(Exit::Done)
}
