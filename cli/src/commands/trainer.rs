//! `plateau trainer` (hidden): the trainer child of an agent.

use clap::Args;

use crate::exit::{Exit, Outcome};

/// Options of `plateau trainer`: none; everything comes through the pipe.
#[derive(Args, Debug)]
pub struct Arguments {}

/// Serves the agent until it closes the pipe.
pub fn run(_arguments: &Arguments) -> Outcome {
    plateau_agent::trainer_main()?;
    Ok(Exit::Done)
}
