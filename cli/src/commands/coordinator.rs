//! `plateau coordinator`: runs a coordinator until it is asked to stop.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, ValueHint};
use serde_json::json;

use super::Context;
use crate::client::CHECKPOINT_STORE;
use crate::exit::{Exit, Outcome};
use crate::interrupt::{self, Interrupts, Parent};

const EXAMPLES: &str = "\
Examples:
  plateau coordinator --data-dir /data/plateau
  plateau coordinator --data-dir data --listen 0.0.0.0:7733 --keys keys

Everything the coordinator knows lies in its data directory; it may be stopped or killed at any time and goes on from there.";

/// Options of `plateau coordinator`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Folder for sweeps, metrics and checkpoints; made if absent
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    data_dir: PathBuf,

    /// Address and port to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:7733")]
    listen: SocketAddr,

    /// Folder of certificates and tokens (`plateau keys init`), needed to listen beyond loopback
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    keys: Option<PathBuf>,

    /// Where checkpoints are kept, as the URL of an object store [default: the folder checkpoints in the data directory]
    #[arg(long, value_name = "URL", env = CHECKPOINT_STORE, hide_env_values = true, value_hint = ValueHint::Url)]
    checkpoint_store: Option<String>,

    #[command(flatten)]
    pub(super) parent: Parent,
}

/// Runs the coordinator.
pub async fn run(arguments: &Arguments, context: &Context) -> Outcome {
    let interrupts = Interrupts::new()?;
    let data_dir = arguments.data_dir.display();
    let options = plateau_coordinator::Options {
        data_dir: arguments.data_dir.clone(),
        listen: arguments.listen,
        checkpoint_store: arguments.checkpoint_store.clone(),
        keys: arguments.keys.clone(),
    };
    let mut running = plateau_coordinator::start(options).await.with_context(|| {
        format!("starting a coordinator on {data_dir}, listening on {}", arguments.listen)
    })?;
    let scheme = if arguments.keys.is_some() { "https" } else { "http" };
    let address = format!("{scheme}://{}", running.local_addr);
    context.output.note(&format!("coordinator of {data_dir} listens on {address}; Ctrl-C stops it"));
    context.output.event(json!({ "event": "listening", "address": address }))?;
    tokio::select! {
        () = interrupt::requested(interrupts, arguments.parent.exit_with_parent) => {}
        // It ends by itself only where it cannot go on.
        ended = running.wait() => {
            ended.with_context(|| format!("the coordinator of {data_dir} cannot go on"))?;
            return Err(anyhow::anyhow!("the coordinator of {data_dir} stopped without being asked to").into());
        }
    }
    context.output.note("stopping");
    running.stop().await.with_context(|| format!("closing the data directory {data_dir}"))?;
    Ok(Exit::Done)
}
