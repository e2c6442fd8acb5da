//! `plateau backup`: a copy of a data directory, also while its coordinator works.

use std::path::PathBuf;

use clap::{Args, ValueHint};
use plateau_coordinator::backup::backup;
use serde_json::json;

use super::Context;
use crate::client::CHECKPOINT_STORE;
use crate::exit::{Exit, Outcome};
use crate::words;

const EXAMPLES: &str = "\
Examples:
  plateau backup plateau-data /backups/plateau-monday
  plateau verify /backups/plateau-monday                   is the copy whole?
  plateau coordinator --data-dir /backups/plateau-monday   restore: go on from the copy

The coordinator may go on working meanwhile. Copied are the database, as it is at one moment,
and every checkpoint it names, each held against its digest; not copied are reports and logs.";

/// Options of `plateau backup`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Data directory of a coordinator, running or not
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    data_dir: PathBuf,

    /// Folder to make
    #[arg(value_name = "COPY", value_hint = ValueHint::DirPath)]
    copy: PathBuf,

    /// Where checkpoints are kept, as the URL of an object store [default: the folder checkpoints in the data directory]
    #[arg(long, value_name = "URL", env = CHECKPOINT_STORE, hide_env_values = true, value_hint = ValueHint::Url)]
    checkpoint_store: Option<String>,
}

/// Copies and tells.
pub async fn run(arguments: &Arguments, context: &Context) -> Outcome {
    let copied = backup(&arguments.data_dir, arguments.checkpoint_store.as_deref(), &arguments.copy).await?;
    let place = arguments.copy.display().to_string();
    context.output.answer(
        || {
            let mut text = format!(
                "copied to {place}: the database and {} ({})",
                words::plural(copied.checkpoints, "checkpoint"),
                words::bytes(copied.checkpoint_bytes)
            );
            if copied.forgotten > 0 {
                text += &format!(
                    "; not copied: {}, deleted meanwhile or damaged, whose trials would continue from older ones",
                    words::plural(copied.forgotten, "checkpoint")
                );
            }
            text
        },
        || {
            json!({
                "copy": place,
                "checkpoints": copied.checkpoints,
                "checkpoint_bytes": copied.checkpoint_bytes,
                "forgotten": copied.forgotten,
            })
        },
        || place.clone(),
    )?;
    Ok(Exit::Done)
}
