//! `plateau list`: all sweeps of a coordinator.

use clap::Args;
use plateau_proto::v1;
use serde_json::{Value, json};

use super::Context;
use crate::client::{DataDirectory, refusal};
use crate::exit::{Exit, Outcome};
use crate::progress::{done, failed, sweep_state_name, total};
use crate::table::{Columns, number, sweep_state, text};
use crate::{sweeps, words};

const EXAMPLES: &str = "\
Examples:
  plateau list
  plateau list --data-dir plateau-data
  plateau list --output json";

/// Options of `plateau list`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    #[command(flatten)]
    data: DataDirectory,
}

/// Lists the sweeps.
pub async fn run(arguments: &Arguments, context: &Context) -> Outcome {
    let mut connection = context.connect(&arguments.data).await?;
    let answer = connection.service.list_sweeps(v1::ListSweepsRequest {}).await;
    let sweeps = answer.map_err(|status| refusal("listing the sweeps", &status))?.into_inner().sweeps;
    context.output.answer(
        || {
            if sweeps.is_empty() {
                return "no sweeps yet; `plateau submit STUDY` makes one".to_owned();
            }
            let headings = ["sweep", "study", "state", "done", "failed", "trials", "steps", "submitted"];
            let mut columns = Columns::new(&context.output, &headings);
            for sweep in &sweeps {
                let counts = sweep.counts.unwrap_or_default();
                columns.push(vec![
                    text(words::short(&sweep.sweep)),
                    text(words::one_line(&sweep.name)),
                    sweep_state(sweep_state_name(sweep.state)),
                    number(done(&counts)),
                    number(failed(&counts)),
                    number(total(&counts)),
                    number(sweeps::percent(sweep)),
                    text(words::ago(sweep.submitted_unix_milliseconds)),
                ]);
            }
            columns.render()
        },
        || json!({ "sweeps": sweeps.iter().map(sweeps::json).collect::<Vec<Value>>() }),
        || sweeps.iter().map(|sweep| sweep.sweep.as_str()).collect::<Vec<_>>().join("\n"),
    )?;
    connection.close().await?;
    Ok(Exit::Done)
}
