//! `plateau agent`: runs an agent until it is asked to stop.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, ValueHint};

use super::Context;
use crate::client;
use crate::device::{self, Device};
use crate::exit::{Exit, Outcome};
use crate::interrupt::{self, Interrupts, Parent};
use crate::memory;

const EXAMPLES: &str = "\
Examples:
  plateau agent --device cpu --threads 4
  plateau agent --coordinator https://node1:7733 --ca ca.pem --token-file agent.token --device cuda:0
  PLATEAU_COORDINATOR=https://node1:7733 plateau agent --device cuda:1

Asked to stop (Ctrl-C, SIGTERM), it saves checkpoints, gives its trials back and leaves; asked twice, it leaves at once.";

/// Options of `plateau agent`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Device to train on: cpu or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    device: Device,

    /// Name, unique among live agents [default: made of host and device]
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    name: Option<String>,

    /// Threads of the trainer on a processor
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = parse_threads)]
    threads: usize,

    /// Most trials to train together [default: as many as the device's measured speed suggests]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=plateau_common::limits::MAX_COHORT as i64))]
    max_cohort: Option<u32>,

    /// Memory that training may take, e.g. 512M or 4G [default: an even share of this machine's, or what the card has]
    #[arg(long, value_name = "BYTES", value_parser = plateau_common::bytes::parse)]
    memory: Option<u64>,

    /// Folder for checkpoints in the making [default: a temporary one]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    work_dir: Option<PathBuf>,

    /// Where the kernel's log is read for errors of the card: /dev/kmsg, or a file that the system's logger writes
    #[arg(long, value_name = "FILE", default_value = plateau_agent::KERNEL_LOG, value_hint = ValueHint::FilePath)]
    kernel_log: PathBuf,

    #[command(flatten)]
    pub(super) parent: Parent,
}

fn parse_name(text: &str) -> Result<String, String> {
    let longest = plateau_common::limits::MAX_NAME_BYTES;
    if text.is_empty() || text.len() > longest || text.chars().any(char::is_control) {
        return Err(format!("a name has 1 to {longest} bytes and no control characters"));
    }
    Ok(text.to_owned())
}

/// Reads a number of threads.
pub fn parse_threads(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(threads @ 1..=1024) => Ok(threads),
        _ => Err("expected a number from 1 to 1024".to_owned()),
    }
}

/// The name of an agent that was given none. One agent owns a card, so its name is the card's and a new agent takes
/// over from an old one; a processor has room for several.
fn default_name(device: Device) -> String {
    match device {
        Device::Cpu => format!("{}-cpu-{}", device::host(), std::process::id()),
        Device::Cuda(_) => format!("{}-{}", device::host(), device.word()),
    }
}

/// Runs the agent.
pub async fn run(arguments: &Arguments, context: &Context) -> Outcome {
    device::require(arguments.device)?;
    let interrupts = Interrupts::new()?;
    // Kept until the end: dropped, a temporary folder is deleted.
    let temporary = match arguments.work_dir {
        Some(_) => None,
        None => {
            Some(tempfile::tempdir().context("making a temporary work folder; name one with --work-dir")?)
        }
    };
    let named = arguments.work_dir.clone();
    let work_dir = named.or(temporary.as_ref().map(|folder| folder.path().to_owned())).unwrap_or_default();
    std::fs::create_dir_all(&work_dir)
        .with_context(|| format!("making the work folder {}", work_dir.display()))?;
    let name = arguments.name.clone().unwrap_or_else(|| default_name(arguments.device));
    let options = plateau_agent::AgentOptions {
        coordinator: client::url(&context.coordinator),
        credentials: context.credentials.clone(),
        device: arguments.device.to_string(),
        device_description: device::describe(arguments.device),
        threads: arguments.threads,
        max_cohort: arguments.max_cohort.unwrap_or(plateau_common::limits::MAX_COHORT as u32),
        memory_bytes: arguments.memory.or_else(|| memory::share(arguments.device, arguments.threads)),
        work_dir,
        trainer_program: std::env::current_exe()
            .context("finding the program's own file, to start the trainer")?,
        log_file: context.log_file.clone(),
        driver_log: device::address(arguments.device)
            .map(|card| plateau_agent::DriverLog { file: arguments.kernel_log.clone(), card }),
        name: name.clone(),
    };
    let stop = interrupt::requested(interrupts, arguments.parent.exit_with_parent);
    plateau_agent::run(options, stop)
        .await
        .with_context(|| format!("agent `{name}` on {} for {}", arguments.device, context.coordinator))?;
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_of_one_processor_have_different_names_and_cards_have_their_own() {
        assert!(default_name(Device::Cpu).ends_with(&format!("-cpu-{}", std::process::id())));
        assert!(default_name(Device::Cuda(2)).ends_with("-cuda2"));
        assert!(parse_name("a\u{1b}b").is_err());
        assert!(parse_threads("0").is_err());
        assert_eq!(parse_threads("16"), Ok(16));
    }
}
