//! `plateau explain`: why something is where it is, with its history.

use clap::Args;
use plateau_proto::v1;
use serde_json::{Value, json};

use super::Context;
use crate::client::{DataDirectory, refusal};
use crate::exit::{Exit, Outcome};
use crate::words;

const EXAMPLES: &str = "\
Examples:
  plateau explain last          a sweep
  plateau explain 3f2a91bc      a trial, by its id or the beginning of it
  plateau explain node7-cuda0   an agent, by its name";

/// Options of `plateau explain`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// A sweep, a trial or an agent
    #[arg(value_name = "SUBJECT")]
    subject: String,
    #[command(flatten)]
    data: DataDirectory,
}

/// Asks for the explanation.
pub async fn run(arguments: &Arguments, context: &Context) -> Outcome {
    let mut connection = context.connect(&arguments.data).await?;
    let answer = connection.service.explain(v1::ExplainRequest { subject: arguments.subject.clone() }).await;
    let what = format!("explaining `{}`", arguments.subject);
    let answer = answer.map_err(|status| refusal(&what, &status))?.into_inner();
    context.output.answer(
        || {
            let mut lines =
                vec![format!("{}: {}", words::one_line(&answer.kind), words::one_line(&answer.summary))];
            lines.extend(answer.history.iter().map(|event| {
                format!("  {}  {}", words::time(event.unix_milliseconds), words::one_line(&event.event))
            }));
            lines.join("\n")
        },
        || {
            let history: Vec<Value> = answer
                .history
                .iter()
                .map(|event| json!({ "time": words::time(event.unix_milliseconds), "unix_milliseconds": event.unix_milliseconds, "event": event.event }))
                .collect();
            json!({ "kind": answer.kind, "summary": answer.summary, "history": history })
        },
        || words::one_line(&answer.summary),
    )?;
    connection.close().await?;
    Ok(Exit::Done)
}
