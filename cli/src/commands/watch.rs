//! `plateau watch`: follows a sweep until it ends.

use clap::Args;

use super::Context;
use crate::client::DataDirectory;
use crate::display::Display;
use crate::exit::{Exit, Outcome};
use crate::follow;
use crate::interrupt::Interrupts;
use crate::sweeps::SweepArgument;

const EXAMPLES: &str = "\
Examples:
  plateau watch last
  plateau watch counting-quick --output json | jq .done_steps

Leaving (Ctrl-C) stops nothing. The exit code is 3 if trials failed.";

/// Options of `plateau watch`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    #[command(flatten)]
    sweep: SweepArgument,
    #[command(flatten)]
    data: DataDirectory,
}

/// Follows the sweep.
pub async fn run(arguments: &Arguments, context: &Context) -> Outcome {
    let target = context.target(&arguments.data);
    let mut interrupts = Interrupts::new()?;
    let mut connection = target.connect().await?;
    if connection.is_own() {
        context
            .output
            .note("no coordinator was running on this data directory, so nothing will move while you watch");
    }
    let mut display = Display::new(&context.output, target.as_options());
    let followed = tokio::select! {
        followed = follow::follow(&mut connection.service, &arguments.sweep.sweep, &mut display) => Some(followed?),
        () = interrupts.next() => None,
    };
    display.finish();
    connection.close().await?;
    let Some(snapshot) = followed else { return Ok(Exit::Interrupted) };
    context.output.conclude(
        || format!("{}: {}", snapshot.name, snapshot.counts_text()),
        || {
            let mut json = snapshot.to_json();
            json["event"] = "ended".into();
            json
        },
        || crate::progress::sweep_state_name(snapshot.state as i32).to_owned(),
    )?;
    Ok(follow::exit_of(&snapshot))
}
