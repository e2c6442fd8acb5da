//! `plateau run`: a whole study on this machine, from the file to the report.
//!
//! Starts a coordinator and agents as child processes (see `household`) and is then a client like any other: submits,
//! follows, fetches the results. There is no second way of running things.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, ValueHint};
use plateau_proto::v1;
use serde_json::json;

use super::{Context, submit};
use crate::client::{Connection, Service, Target, refusal, shell_word};
use crate::device::{self, Device};
use crate::display::Display;
use crate::exit::{Exit, Failure, Outcome};
use crate::follow;
use crate::household::{AgentSpecification, Household, connected_agents};
use crate::interrupt::Interrupts;
use crate::progress::Snapshot;
use crate::study_file::{ReadStudy, StudyArguments};
use crate::{reporting, results, words};

const EXAMPLES: &str = "\
Examples:
  plateau run studies/grokking/quick.toml
  plateau run study.toml --set train.steps=500 --set seeds=10
  plateau run study.toml --agents 2 --threads 4
  plateau run study.toml --device cuda:0 --device cuda:1

Ctrl-C saves checkpoints and stops; the same command goes on from there. Trials that are done are never run again.";

/// Options of `plateau run`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    #[command(flatten)]
    study: StudyArguments,

    /// Folder for sweeps, metrics, checkpoints, logs and reports; made if absent
    #[arg(long, value_name = "DIR", default_value = "plateau-data", value_hint = ValueHint::DirPath)]
    data_dir: PathBuf,

    /// Agents per processor [default: as many as --threads leaves room for]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    agents: Option<u16>,

    /// Threads of each agent on a processor
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = super::agent::parse_threads)]
    threads: usize,

    /// Device to train on, cpu or cuda:N; may be repeated [default: all cards, else the processor]
    #[arg(long, value_name = "DEVICE")]
    device: Vec<Device>,

    /// Most trials an agent trains together [default: as many as its device's measured speed suggests]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=plateau_common::limits::MAX_COHORT as i64))]
    max_cohort: Option<u32>,

    /// Memory that training may take on each device, e.g. 512M or 4G [default: an even share of the machine's, or what the card has]
    #[arg(long, value_name = "BYTES", value_parser = plateau_common::bytes::parse)]
    memory: Option<u64>,

    /// Folder for the report [default: reports/NAME in the data directory]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    report: Option<PathBuf>,
}

/// Runs the study.
pub async fn run(arguments: &Arguments, context: &Context) -> Outcome {
    if context.coordinator_named {
        return Err(Failure::usage(
            "`plateau run` starts a coordinator of its own; hand a study to a running one with `plateau submit`",
        ));
    }
    let read = arguments.study.read()?;
    arguments.device.iter().try_for_each(|device| device::require(*device))?;
    let mut interrupts = Interrupts::new()?;
    let (mut household, mut connection) = Household::start(&arguments.data_dir, &context.output).await?;
    let ended = tokio::select! {
        ended = train(arguments, context, &read, &mut household, &mut connection) => Some(ended),
        () = interrupts.next() => None,
    };
    let outcome = match ended {
        Some(Ok(snapshot)) => finish(arguments, context, &read, &mut connection.service, &snapshot).await,
        None => {
            context.output.note("\nstopping: checkpoints are being saved; Ctrl-C again stops at once");
            Ok(Exit::Interrupted)
        }
        Some(Err(error)) => Err(error.into()),
    };
    drop(connection);
    let orderly = tokio::select! {
        orderly = household.stop() => orderly,
        // Dropped unfinished, the household is killed.
        () = interrupts.next() => false,
    };
    if matches!(outcome, Ok(Exit::Interrupted)) {
        let kept =
            if orderly { "everything done is kept" } else { "everything up to the last checkpoints is kept" };
        let command = again(arguments);
        context.output.note(&format!("interrupted; {kept}. To go on:\n  {command}"));
        context.output.event(json!({ "event": "interrupted", "orderly": orderly, "continue": command }))?;
    }
    outcome
}

/// The command that goes on with this run.
fn again(arguments: &Arguments) -> String {
    let mut command = format!("plateau run {}", arguments.study.as_words());
    if arguments.data_dir.as_os_str() != "plateau-data" {
        command.push_str(&format!(" --data-dir {}", shell_word(&arguments.data_dir.to_string_lossy())));
    }
    for device in &arguments.device {
        command.push_str(&format!(" --device {device}"));
    }
    if let Some(agents) = arguments.agents {
        command.push_str(&format!(" --agents {agents}"));
    }
    if arguments.threads != 1 {
        command.push_str(&format!(" --threads {}", arguments.threads));
    }
    if let Some(max_cohort) = arguments.max_cohort {
        command.push_str(&format!(" --max-cohort {max_cohort}"));
    }
    if let Some(memory) = arguments.memory {
        command.push_str(&format!(" --memory {memory}"));
    }
    if let Some(report) = &arguments.report {
        command.push_str(&format!(" --report {}", shell_word(&report.to_string_lossy())));
    }
    command
}

/// Submits the study, starts agents as needed, and follows the sweep to its end.
async fn train(
    arguments: &Arguments,
    context: &Context,
    read: &ReadStudy,
    household: &mut Household,
    connection: &mut Connection,
) -> anyhow::Result<Snapshot> {
    let answer = submit::submit(&mut connection.service, read).await?;
    context.output.note(&submit::sentence(&read.study.name, &answer));
    context.output.event(json!({
        "event": "submitted",
        "sweep": answer.sweep,
        "trials": answer.trials,
        "new_trials": answer.new_trials,
    }))?;
    let summary = describe(&mut connection.service, &answer.sweep).await?;
    if summary.state() == v1::SweepState::Paused {
        context.output.note("the sweep was paused; it goes on now");
        let request = v1::ResumeRequest { sweep: answer.sweep.clone() };
        let resumed = connection.service.resume(request).await;
        resumed.map_err(|status| refusal("resuming the sweep", &status))?;
    }
    let counts = summary.counts.unwrap_or_default();
    let waiting = counts.pending + counts.leased + counts.running;
    if waiting == 0 {
        context.output.note("all of its trials have ended; nothing runs");
    } else if answer.existing {
        context.output.note(&format!("going on: {} to run", words::plural(waiting, "trial")));
    }
    if waiting > 0 && (household.owns_coordinator() || connected_agents(connection).await? == 0) {
        let agents = agents(arguments, waiting);
        undrain(&agents, connection, context).await?;
        household.start_agents(&agents)?;
        let devices: Vec<String> = agents.iter().map(|agent| agent.device.to_string()).collect();
        tracing::info!(agents = agents.len(), ?devices, "agents started");
    }
    let target = Target {
        coordinator: connection.address.clone(),
        data_dir: Some(arguments.data_dir.clone()),
        credentials: context.credentials.clone(),
    };
    let mut display = Display::new(&context.output, target.as_options());
    let announce = display.announcer();
    let followed = tokio::select! {
        followed = follow::follow(&mut connection.service, &answer.sweep, &mut display) => followed,
        error = household.supervise(announce) => Err(error.context("the run cannot go on")),
    };
    display.finish();
    followed
}

/// Tries agents of this run again that were drained in an earlier one: whoever starts them trusts them.
async fn undrain(
    agents: &[AgentSpecification],
    connection: &mut Connection,
    context: &Context,
) -> anyhow::Result<()> {
    let known = connection.service.list_agents(v1::ListAgentsRequest {}).await;
    let known = known.map_err(|status| refusal("listing the agents", &status))?.into_inner().agents;
    let ours = |known: &&v1::AgentSummary| agents.iter().any(|agent| agent.name == known.name);
    for agent in known.iter().filter(ours).filter(|agent| !agent.drained.is_empty()) {
        let reason = words::one_line(&agent.drained);
        context.output.note(&format!("agent {} was drained ({reason}); it is tried again", agent.name));
        let undrained = connection.service.undrain(v1::UndrainRequest { agent: agent.name.clone() }).await;
        undrained.map_err(|status| refusal("undraining an agent", &status))?;
    }
    Ok(())
}

async fn describe(service: &mut Service, sweep: &str) -> anyhow::Result<v1::SweepSummary> {
    let answer = service.describe_sweep(v1::DescribeSweepRequest { sweep: sweep.to_owned() }).await;
    let answer = answer.map_err(|status| refusal("looking at the sweep", &status))?;
    answer.into_inner().summary.context("the coordinator's answer says nothing of the sweep")
}

/// The agents to start: one per card, as many per processor as there are cores for, none without a trial to train.
fn agents(arguments: &Arguments, waiting: u64) -> Vec<AgentSpecification> {
    let devices = if arguments.device.is_empty() { default_devices() } else { arguments.device.clone() };
    let mut agents = Vec::new();
    for device in devices {
        let copies = match device {
            Device::Cuda(_) => 1,
            Device::Cpu => arguments.agents.map_or((device::cores() / arguments.threads).max(1), usize::from),
        };
        for copy in 1..=copies {
            let name = match device {
                Device::Cuda(_) => device.word(),
                Device::Cpu => format!("cpu-{copy}"),
            };
            let max_cohort = arguments.max_cohort;
            let (threads, memory) = (arguments.threads, arguments.memory);
            agents.push(AgentSpecification { name, device, threads, max_cohort, memory });
        }
    }
    agents.truncate(usize::try_from(waiting).unwrap_or(usize::MAX));
    // The agent that connects first must not take the share of those a moment behind it.
    let share = u32::try_from(waiting.div_ceil(agents.len().max(1) as u64)).unwrap_or(u32::MAX);
    for agent in &mut agents {
        agent.max_cohort.get_or_insert(share.clamp(1, plateau_common::limits::MAX_COHORT as u32));
    }
    agents
}

fn default_devices() -> Vec<Device> {
    let devices: Vec<Device> = device::present().into_iter().map(|(device, _)| device).collect();
    let cards: Vec<Device> = devices.iter().copied().filter(|device| *device != Device::Cpu).collect();
    if cards.is_empty() { devices } else { cards }
}

/// Writes the report of a sweep that has ended.
async fn finish(
    arguments: &Arguments,
    context: &Context,
    read: &ReadStudy,
    service: &mut Service,
    snapshot: &Snapshot,
) -> Outcome {
    let records = results::fetch(service, &snapshot.sweep).await?;
    let folder =
        arguments.report.clone().unwrap_or_else(|| arguments.data_dir.join("reports").join(&read.study.name));
    let report = reporting::write(read, &snapshot.sweep, &records, &folder)?;
    let data = shell_word(&arguments.data_dir.to_string_lossy());
    context.output.conclude(
        || {
            let mut text = report.tables(&context.output);
            if let Some(failure) = snapshot.failure_text(&format!(" --data-dir {data}")) {
                text.push_str(&format!("\n{failure}\n"));
            }
            text.push_str(&format!("\n{}\n{}", snapshot.counts_text(), report.where_it_is()));
            text
        },
        || {
            json!({
                "event": "ended",
                "sweep": snapshot.sweep,
                "state": crate::progress::sweep_state_name(snapshot.state as i32),
                "trials": crate::progress::counts_json(&snapshot.counts),
                "report": folder,
            })
        },
        || folder.display().to_string(),
    )?;
    let id = words::short(&snapshot.sweep);
    context.output.note(&format!("more: plateau trials {id} --data-dir {data}"));
    Ok(follow::exit_of(snapshot))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::arguments::Cli;
    use crate::commands::Command;

    fn parse(words: &str) -> Arguments {
        let cli = Cli::try_parse_from(format!("plateau run s.toml {words}").split_whitespace()).unwrap();
        match cli.command {
            Command::Run(arguments) => arguments,
            other => panic!("{other:?} is not run"),
        }
    }

    #[test]
    fn agents_fill_the_devices_but_never_outnumber_the_trials() {
        let names = |words: &str, waiting| -> Vec<String> {
            agents(&parse(words), waiting).into_iter().map(|agent| agent.name).collect()
        };
        assert_eq!(names("--device cpu --agents 3", 100), ["cpu-1", "cpu-2", "cpu-3"]);
        assert_eq!(names("--device cpu --agents 3", 2), ["cpu-1", "cpu-2"]);
        assert_eq!(names("--device cuda:0 --device cuda:1 --agents 3", 100), ["cuda0", "cuda1"]);
        assert!(names("--device cpu", 0).is_empty());
        let cohort = |words: &str, waiting| agents(&parse(words), waiting)[0].max_cohort;
        assert_eq!(cohort("--device cpu --agents 2", 10), Some(5));
        assert_eq!(cohort("--device cpu --agents 2", 120), Some(60));
        assert_eq!(cohort("--device cpu --agents 2 --max-cohort 3", 10), Some(3));
        assert_eq!(names("--device cpu --threads 1024", 9), ["cpu-1"]);
    }

    #[test]
    fn the_command_to_go_on_repeats_what_matters() {
        assert_eq!(again(&parse("")), "plateau run s.toml");
        assert_eq!(
            again(&parse("--set a.b=[1,2] --data-dir d --device cpu --agents 2")),
            "plateau run s.toml --set 'a.b=[1,2]' --data-dir d --device cpu --agents 2"
        );
        assert_eq!(
            again(&parse("--report out --max-cohort 4 --threads 2 --memory 1K")),
            "plateau run s.toml --threads 2 --max-cohort 4 --memory 1024 --report out"
        );
    }
}
