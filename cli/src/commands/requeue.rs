//! `plateau requeue`: tries trials again that failed, were quarantined or diverged.

use clap::Args;
use plateau_proto::v1;
use serde_json::json;

use super::Context;
use crate::client::{DataDirectory, refusal};
use crate::exit::{Exit, Outcome};
use crate::words;

const EXAMPLES: &str = "\
Examples:
  plateau requeue 3f2a91bc          one trial, which may also have diverged
  plateau requeue last              the failed and quarantined trials of a sweep
  plateau requeue last --diverged   and those that diverged

A requeued trial waits for an agent again, with no crashes held against it, and goes on from its
newest checkpoint.";

/// Options of `plateau requeue`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// A trial, by its id or the beginning of it, or a sweep
    #[arg(value_name = "TRIAL|SWEEP")]
    subject: String,

    /// Of a sweep, try the trials that diverged again too
    #[arg(long)]
    diverged: bool,

    #[command(flatten)]
    data: DataDirectory,
}

/// Asks for it.
pub async fn run(arguments: &Arguments, context: &Context) -> Outcome {
    let what = format!("requeueing `{}`", arguments.subject);
    let mut connection = context.connect(&arguments.data).await?;
    let request = v1::RequeueRequest { subject: arguments.subject.clone(), diverged: arguments.diverged };
    let answer = connection.service.requeue(request).await;
    let requeued = answer.map_err(|status| refusal(&what, &status))?.into_inner().requeued;
    context.output.answer(
        || format!("{} requeued", words::plural(requeued, "trial")),
        || json!({ "requeued": requeued }),
        || requeued.to_string(),
    )?;
    connection.close().await?;
    Ok(Exit::Done)
}
