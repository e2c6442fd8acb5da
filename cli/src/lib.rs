//! The one binary of Plateau, `plateau`: coordinator, agent, trainer, and everything people ask of them.
//!
//! Owns the command line, the form of answers, progress, the processes of `plateau run`, and the way from a study file
//! to a report. Decides nothing about trials: that is the coordinator's, reached over the same protocol from every
//! command, `run` included.

pub mod arguments;
pub mod checkpoint;
pub mod child;
pub mod client;
pub mod commands;
pub mod device;
pub mod display;
pub mod dump;
pub mod exit;
pub mod export_csv;
pub mod follow;
pub mod household;
pub mod interrupt;
pub mod logging;
pub mod memory;
pub mod output;
pub mod prediction;
pub mod progress;
pub mod reporting;
pub mod results;
pub mod run_lock;
pub mod study_file;
pub mod sweeps;
pub mod table;
pub mod values;
pub mod words;

use std::process::ExitCode;

use clap::parser::ValueSource;
use clap::{CommandFactory as _, FromArgMatches as _};

use crate::arguments::Cli;
use crate::commands::Context;
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{Output, OutputMode};

/// The program: reads the command line, does what it says, and gives the exit code.
pub fn main() -> ExitCode {
    let matches = Cli::command().try_get_matches();
    let parsed = matches.and_then(|matches| {
        let named = matches.value_source("coordinator") == Some(ValueSource::CommandLine);
        Cli::from_arg_matches(&matches).map(|cli| (cli, named))
    });
    let (cli, coordinator_named) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => return command_line_error(&error),
    };
    let output = Output::new(cli.global.output, cli.global.color);
    match execute(cli, output, coordinator_named) {
        Ok(exit) => exit.into(),
        Err(failure) if output::is_broken_pipe(&failure.error) => Exit::Done.into(),
        Err(failure) => {
            output.failure(&failure);
            failure.exit.into()
        }
    }
}

/// Help and version are answers; everything else is a usage error, in JSON where that was asked for.
fn command_line_error(error: &clap::Error) -> ExitCode {
    let words: Vec<String> = std::env::args().collect();
    let wants_json = words.iter().any(|word| word == "--output=json")
        || words.windows(2).any(|pair| pair == ["--output".to_owned(), "json".to_owned()]);
    if error.use_stderr() && wants_json {
        let output = Output::new(OutputMode::Json, output::ColorChoice::Never);
        output.failure(&Failure::usage(error.render().to_string().trim()));
    } else {
        // A closed output is no reason to fail.
        let _ = error.print();
    }
    if error.use_stderr() { Exit::Usage.into() } else { Exit::Done.into() }
}

fn execute(cli: Cli, output: Output, coordinator_named: bool) -> Outcome {
    logging::start(logging::Logging {
        file: cli.global.log_file.as_deref(),
        stderr: cli.command.log_filter(),
        colors: output.colors_stderr(),
    })?;
    let context = Context {
        output,
        credentials: cli.global.credentials(),
        coordinator: cli.global.coordinator,
        coordinator_named,
        log_file: cli.global.log_file,
    };
    cli.command.run(&context)
}
