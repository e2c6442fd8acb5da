//! `plateau checkpoint`: the checkpoints of a trial.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueHint};
use plateau_proto::v1;
use serde_json::{Value, json};

use super::Context;
use crate::checkpoint::Download;
use crate::client::{DataDirectory, refusal};
use crate::exit::{Exit, Outcome};
use crate::table::{Columns, number, text};
use crate::words;

const LIST_EXAMPLES: &str = "\
Examples:
  plateau checkpoint list 3f2a91bc";

const FETCH_EXAMPLES: &str = "\
Examples:
  plateau checkpoint fetch 3f2a91bc --out checkpoint
  plateau checkpoint fetch 3f2a91bc --step 5000 --out checkpoint-5000

The folder holds weights.safetensors, optimizer.safetensors and manifest.json (configuration, step, digests). Every byte
is checked against its digest.";

/// Options of `plateau checkpoint`.
#[derive(Args, Debug)]
pub struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the checkpoints of a trial
    #[command(after_help = LIST_EXAMPLES)]
    List(ListArguments),
    /// Fetch a checkpoint into a folder
    #[command(after_help = FETCH_EXAMPLES)]
    Fetch(FetchArguments),
}

#[derive(Args, Debug)]
struct ListArguments {
    /// Trial: its id or the beginning of it
    #[arg(value_name = "TRIAL")]
    trial: String,
    #[command(flatten)]
    data: DataDirectory,
}

#[derive(Args, Debug)]
struct FetchArguments {
    /// Trial: its id or the beginning of it
    #[arg(value_name = "TRIAL")]
    trial: String,
    /// Folder to make
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    out: PathBuf,
    /// Step of the checkpoint [default: the newest]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    step: Option<u64>,
    #[command(flatten)]
    data: DataDirectory,
}

/// Lists or fetches.
pub async fn run(arguments: &Arguments, context: &Context) -> Outcome {
    match &arguments.action {
        Action::List(arguments) => list(arguments, context).await,
        Action::Fetch(arguments) => fetch(arguments, context).await,
    }
}

async fn list(arguments: &ListArguments, context: &Context) -> Outcome {
    let what = format!("listing the checkpoints of the trial `{}`", arguments.trial);
    let mut connection = context.connect(&arguments.data).await?;
    let request = v1::ListCheckpointsRequest { trial: arguments.trial.clone() };
    let answer = connection.service.list_checkpoints(request).await;
    let checkpoints = answer.map_err(|status| refusal(&what, &status))?.into_inner().checkpoints;
    context.output.answer(
        || {
            if checkpoints.is_empty() {
                return "no checkpoints so far".to_owned();
            }
            let mut columns = Columns::new(&context.output, &["step", "attempt", "size", "weights hash"]);
            for checkpoint in &checkpoints {
                columns.push(vec![
                    number(checkpoint.step),
                    number(checkpoint.attempt),
                    number(words::bytes(checkpoint.bytes)),
                    text(words::one_line(&checkpoint.weights_hash)),
                ]);
            }
            columns.render()
        },
        || json!({ "checkpoints": checkpoints.iter().map(to_json).collect::<Vec<Value>>() }),
        || checkpoints.iter().map(|checkpoint| checkpoint.step.to_string()).collect::<Vec<_>>().join("\n"),
    )?;
    connection.close().await?;
    Ok(Exit::Done)
}

fn to_json(checkpoint: &v1::CheckpointReference) -> Value {
    json!({
        "trial": checkpoint.trial,
        "attempt": checkpoint.attempt,
        "step": checkpoint.step,
        "weights_hash": checkpoint.weights_hash,
        "bytes": checkpoint.bytes,
    })
}

async fn fetch(arguments: &FetchArguments, context: &Context) -> Outcome {
    let what = format!("fetching a checkpoint of the trial `{}`", arguments.trial);
    let mut download = Download::new(&arguments.out)?;
    let mut connection = context.connect(&arguments.data).await?;
    let request =
        v1::FetchCheckpointRequest { trial: arguments.trial.clone(), step: arguments.step.unwrap_or(0) };
    let answer = connection.service.fetch_checkpoint(request).await;
    let mut stream = answer.map_err(|status| refusal(&what, &status))?.into_inner();
    while let Some(chunk) = stream.message().await.map_err(|status| refusal(&what, &status))? {
        download.push(chunk).with_context(|| what.clone())?;
    }
    let manifest = download.finish().with_context(|| what.clone())?;
    context.output.answer(
        || {
            let bytes = manifest.files.iter().map(|file| file.bytes).sum();
            format!(
                "{}: trial {} after {} steps, {}, digests right",
                arguments.out.display(),
                words::short(&manifest.trial),
                manifest.step,
                words::bytes(bytes)
            )
        },
        || {
            json!({
                "folder": arguments.out,
                "trial": manifest.trial,
                "step": manifest.step,
                "weights_hash": manifest.weights_hash,
            })
        },
        || arguments.out.display().to_string(),
    )?;
    connection.close().await?;
    Ok(Exit::Done)
}
