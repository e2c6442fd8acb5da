//! The command line as a whole: options of every command, and the list of commands.

use std::path::PathBuf;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{Args, Parser, ValueHint};

use plateau_proto::connection::Credentials;

use crate::client::DEFAULT_ADDRESS;
use crate::commands::Command;
use crate::exit::EXIT_CODES;
use crate::output::{ColorChoice, OutputMode};

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

const EXAMPLES: &str = "\
Examples:
  plateau check study.toml               what a study holds and costs, without running it
  plateau run study.toml                 run it on this machine and write the report
  plateau run study.toml --set seeds=10  the same with ten seeds; only new ones run

  plateau coordinator --data-dir data    the same across machines: a coordinator,
  plateau agent --device cuda:0          an agent per device,
  plateau submit study.toml              a study from anywhere
  plateau watch last";

/// Runs sweeps of many small training runs, on one machine or many
#[derive(Debug, Parser)]
#[command(
    name = "plateau",
    version,
    styles = STYLES,
    max_term_width = 110,
    arg_required_else_help = true,
    after_help = format!("{EXAMPLES}\n\n{EXIT_CODES}")
)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Args, Debug)]
pub struct Global {
    /// Form of answers: table, json (errors are {"error": …}) or quiet (only ids and paths)
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORM",
        hide_possible_values = true,
        help_heading = "Global options"
    )]
    pub output: OutputMode,

    /// When to use colours: auto (on terminals, unless NO_COLOR is set), always or never
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "WHEN",
        hide_possible_values = true,
        help_heading = "Global options"
    )]
    pub color: ColorChoice,

    /// Append the log to this file, as lines of JSON (RUST_LOG chooses what is logged)
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "Global options")]
    pub log_file: Option<PathBuf>,

    /// Address of the coordinator
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "PLATEAU_COORDINATOR",
        hide_env_values = true,
        default_value = DEFAULT_ADDRESS,
        value_hint = ValueHint::Url,
        help_heading = "Global options"
    )]
    pub coordinator: String,

    /// Certificate to believe an https:// coordinator by (`ca.pem` of its keys)
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "PLATEAU_CA",
        hide_env_values = true,
        value_hint = ValueHint::FilePath,
        help_heading = "Global options"
    )]
    pub ca: Option<PathBuf>,

    /// File with the token for an https:// coordinator
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "PLATEAU_TOKEN_FILE",
        hide_env_values = true,
        value_hint = ValueHint::FilePath,
        help_heading = "Global options"
    )]
    pub token_file: Option<PathBuf>,
}

impl Global {
    /// What is needed to reach a coordinator beyond loopback.
    pub fn credentials(&self) -> Credentials {
        Credentials { ca: self.ca.clone(), token_file: self.token_file.clone() }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_shows_examples() {
        let mut cli = Cli::command();
        cli.build();
        for command in
            cli.get_subcommands().filter(|command| !command.is_hide_set() && command.get_name() != "help")
        {
            let nested = command.get_subcommands().next().is_some();
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(nested || help.contains("plateau "), "`plateau {}` has no examples", command.get_name());
            assert!(
                command.get_about().is_some(),
                "`plateau {}` does not say what it does",
                command.get_name()
            );
        }
    }
}
