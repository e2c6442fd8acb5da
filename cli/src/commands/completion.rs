//! `plateau completion`: completion scripts for shells.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::Context;
use crate::arguments::Cli;
use crate::exit::{Exit, Outcome};

const EXAMPLES: &str = "\
Examples:
  plateau completion bash > ~/.local/share/bash-completion/completions/plateau
  plateau completion zsh > ~/.zfunc/_plateau
  plateau completion fish > ~/.config/fish/completions/plateau.fish";

/// Options of `plateau completion`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// The shell
    #[arg(value_name = "SHELL", value_enum)]
    shell: Shell,
}

/// Prints the script.
pub fn run(arguments: &Arguments, context: &Context) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "plateau", &mut script);
    context.output.line(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Done)
}
