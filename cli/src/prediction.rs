//! `plateau check --predict`: how long a sweep will take, from a short measurement here or from what a running coordinator
//! knows of its agents.
//!
//! Owns the choice of what is measured; the playing through is `plateau_common::prediction`.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context as _, bail};
use clap::Args;
use plateau_common::prediction::{self, Agents, Job, Speed};
use plateau_common::study::{CohortOverview, Overview};
use plateau_common::throughput::{CALIBRATION_SECONDS, ThroughputCurve};
use plateau_common::{cost, limits};
use plateau_proto::v1::{self, trainer_command};
use plateau_proto::{convert, v1::AgentSummary};

use crate::client::{Connection, refusal};
use crate::device::{self, Device};
use crate::{memory, words};

/// Options of a prediction.
#[derive(Args, Debug)]
pub struct PredictionArguments {
    /// Predict how long the sweep will take, from a short measurement on this machine; with --coordinator, from what that
    /// coordinator's agents have measured
    #[arg(long)]
    pub predict: bool,

    /// Agents to predict for [default: as many as --threads leaves room for; one on a card]
    #[arg(long, value_name = "N", requires = "predict", value_parser = clap::value_parser!(u16).range(1..=1024))]
    agents: Option<u16>,

    /// Threads of each agent on a processor
    #[arg(long, value_name = "N", requires = "predict", default_value_t = 1, value_parser = crate::commands::agent::parse_threads)]
    threads: usize,

    /// Device of the agents: cpu or cuda:N
    #[arg(long, value_name = "DEVICE", requires = "predict", default_value = "cpu")]
    device: Device,

    /// About how long to measure; shapes there is no time for are carried over from others by their arithmetic
    #[arg(long, value_name = "SECONDS", requires = "predict", default_value_t = 20.0, value_parser = parse_seconds)]
    seconds: f64,
}

fn parse_seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.1..=86_400.0).contains(&seconds) => Ok(seconds),
        _ => Err("expected seconds from 0.1 to 86400".to_owned()),
    }
}

/// How long a sweep will take, and how that was found out.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction {
    /// Seconds until the last trial has ended; the report comes after.
    pub seconds: f64,
    /// Agents it is for.
    pub agents: usize,
    /// Cohort keys of the shapes that were measured.
    pub measured: Vec<String>,
    /// Shapes of the study.
    pub shapes: usize,
    /// Where the measurements come from, in words.
    pub source: String,
}

/// Processes that start one after another before the first update: coordinator, agent, trainer.
const STARTS: f64 = 3.0;

/// Predicts from measurements on this machine.
pub async fn on_this_machine(
    arguments: &PredictionArguments,
    overview: &Overview,
) -> anyhow::Result<Prediction> {
    device::require(arguments.device)?;
    let agents = match (arguments.agents, arguments.device) {
        (Some(agents), _) => usize::from(agents),
        (None, Device::Cuda(_)) => 1,
        (None, Device::Cpu) => (device::cores() / arguments.threads).max(1),
    };
    let scratch = tempfile::tempdir().context("making a temporary folder to measure in")?;
    // More children than the machine has room for would measure its overload.
    let children = match arguments.device {
        Device::Cpu => agents.min((device::cores() / arguments.threads).max(1)),
        Device::Cuda(_) => 1,
    };
    let chosen = spread(&overview.cohorts, (arguments.seconds / CALIBRATION_SECONDS).max(1.0) as usize);
    let memory = memory::share(arguments.device, arguments.threads);
    let seconds = (arguments.seconds / chosen.len().max(1) as f64).min(CALIBRATION_SECONDS);
    let shapes: Vec<trainer_command::Calibrate> = chosen
        .iter()
        .map(|cohort| trainer_command::Calibrate {
            config_json: cohort.example.to_json().to_string(),
            threads: u32::try_from(arguments.threads).unwrap_or(u32::MAX),
            scratch: scratch.path().to_string_lossy().into_owned(),
            memory_bytes: memory.unwrap_or(0),
            seconds,
            max_cohort: largest(cohort, agents),
            ..trainer_command::Calibrate::default()
        })
        .collect();
    let program = std::env::current_exe().context("finding the program's own file, to start trainers")?;
    let began = Instant::now();
    let devices = vec![arguments.device.to_string(); children];
    let (measured, start_seconds) = plateau_agent::measure(&program, &devices, shapes).await?;
    let speeds: Vec<Speed> = chosen
        .iter()
        .zip(&measured)
        .map(|(cohort, measured)| Speed {
            flops_per_update: cohort.flops_per_update.max(1.0),
            curve: measured.curve.clone(),
            evaluation_seconds: measured.evaluation_seconds,
        })
        .collect();
    let keys: Vec<String> = chosen.iter().map(|cohort| cohort.key.clone()).collect();
    let own: BTreeMap<&str, &Speed> = keys.iter().map(String::as_str).zip(&speeds).collect();
    let hardware = match arguments.device {
        Device::Cpu => cost::Hardware::Processor { threads: arguments.threads },
        Device::Cuda(_) => cost::Hardware::Card,
    };
    let fits = |cohort: &CohortOverview| {
        let need = cost::memory_need(
            cost::state_bytes(&cohort.example),
            cost::workspace_bytes(&cohort.example),
            hardware,
        );
        memory.map_or(u64::MAX, |memory| need.most(memory))
    };
    let jobs = jobs(overview, &own, &speeds, |cohort| {
        u32::try_from(fits(cohort)).unwrap_or(u32::MAX).min(largest(cohort, agents))
    })?;
    let setup =
        measured.iter().map(|measured| measured.setup_seconds).sum::<f64>() / measured.len().max(1) as f64;
    let team = Agents { count: agents, threads: arguments.threads, setup_seconds: setup };
    let source = format!(
        "measured here in {:.0} s by {}",
        began.elapsed().as_secs_f64(),
        words::plural(children as u64, "trainer")
    );
    let seconds = STARTS * start_seconds + prediction::seconds(&jobs, team);
    Ok(Prediction { seconds, agents, measured: keys, shapes: overview.cohorts.len(), source })
}

/// Predicts from what a coordinator knows of its connected agents.
pub async fn on_agents_of(connection: &mut Connection, overview: &Overview) -> anyhow::Result<Prediction> {
    let answer = connection.service.list_agents(v1::ListAgentsRequest {}).await;
    let answer = answer.map_err(|status| refusal("asking for the agents", &status))?.into_inner();
    let agents: Vec<AgentSummary> = answer.agents.into_iter().filter(|agent| agent.connected).collect();
    if agents.is_empty() {
        bail!("predicting for the coordinator's agents: none is connected; start some with `plateau agent`");
    }
    let answer = connection.service.list_throughput(v1::ListThroughputRequest::default()).await;
    let known = answer.map_err(|status| refusal("asking for measured speeds", &status))?.into_inner().known;
    // The kind that most agents are of stands for all.
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for agent in &agents {
        *kinds.entry(agent.device_kind.as_str()).or_default() += 1;
    }
    let kind = kinds.iter().max_by_key(|(_, count)| **count).map_or("", |(kind, _)| *kind);
    let mut speeds = Vec::new();
    let mut keys = Vec::new();
    for found in known.into_iter().filter(|found| found.device_kind == kind && !found.points.is_empty()) {
        let curve: ThroughputCurve = convert::throughput("points", found.points)?;
        let (flops_per_update, evaluation_seconds) =
            (found.flops_per_update.max(1.0), found.evaluation_seconds);
        speeds.push(Speed { flops_per_update, curve, evaluation_seconds });
        keys.push(found.cohort);
    }
    if speeds.is_empty() {
        bail!(
            "predicting for the coordinator's agents: none of them ({kind}) has trained anything yet; \
             predict from a measurement on this machine, without --coordinator"
        );
    }
    let own: BTreeMap<&str, &Speed> = keys.iter().map(String::as_str).zip(&speeds).collect();
    let most = agents.iter().map(|agent| agent.max_cohort).max().unwrap_or(1);
    let jobs = jobs(overview, &own, &speeds, |_| most)?;
    let of_study = overview.cohorts.iter().filter(|cohort| own.contains_key(cohort.key.as_str()));
    Ok(Prediction {
        seconds: prediction::seconds(&jobs, Agents { count: agents.len(), threads: 1, setup_seconds: 0.0 }),
        agents: agents.len(),
        measured: of_study.map(|cohort| cohort.key.clone()).collect(),
        shapes: overview.cohorts.len(),
        source: format!("measured by the coordinator's agents ({kind})"),
    })
}

/// The largest cohort that agents make of a shape's trials.
fn largest(cohort: &CohortOverview, agents: usize) -> u32 {
    let share = usize::try_from(cohort.trials).unwrap_or(usize::MAX).div_ceil(agents.max(1));
    share.min(limits::MAX_COHORT) as u32
}

/// Up to `most` cohorts, the cheapest and the costliest among them, spread evenly between by the order of their cost.
fn spread(cohorts: &[CohortOverview], most: usize) -> Vec<&CohortOverview> {
    let mut sorted: Vec<&CohortOverview> = cohorts.iter().collect();
    sorted.sort_by(|a, b| b.flops_per_update.total_cmp(&a.flops_per_update));
    match (sorted.len(), most) {
        (count, most) if count <= most => sorted,
        (_, 0 | 1) => sorted.into_iter().take(1).collect(),
        (count, most) => (0..most).map(|place| sorted[place * (count - 1) / (most - 1)]).collect(),
    }
}

fn jobs(
    overview: &Overview,
    own: &BTreeMap<&str, &Speed>,
    speeds: &[Speed],
    most: impl Fn(&CohortOverview) -> u32,
) -> anyhow::Result<Vec<Job>> {
    let job = |cohort: &CohortOverview| {
        let speed = match own.get(cohort.key.as_str()) {
            Some(speed) => (*speed).clone(),
            None => Speed::carried_over(speeds, cohort.flops_per_update.max(1.0))
                .context("carrying measured speeds over to another shape")?,
        };
        Ok(Job {
            trials: cohort.trials,
            steps: cohort.example.train.steps,
            evaluations: prediction::evaluations(&cohort.example),
            speed,
            most: most(cohort),
        })
    };
    overview.cohorts.iter().map(job).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measured_shapes_are_spread_over_all() {
        let text = r#"
            name = "s"
            task = { kind = "modular", modulus = 7, train-share = 0.5 }
            model = { layers = 1, heads = 1 }
            train = { steps = 10, optimizer = { kind = "adam", lr = 1e-3 } }
            axes = { "model.dim" = [16, 8, 64, 32, 128] }
        "#;
        let study =
            plateau_common::study::Study::parse(text, "s.toml", plateau_common::study::Format::Toml, &[]);
        let overview = study.unwrap_or_else(|error| panic!("{error}")).overview().unwrap();
        let widths = |most| -> Vec<usize> {
            let chosen = spread(&overview.cohorts, most);
            let width = |cohort: &&CohortOverview| {
                let plateau_common::config::ModelConfig::Transformer(model) = &cohort.example.model;
                model.dim
            };
            chosen.iter().map(width).collect()
        };
        assert_eq!(widths(9), [128, 64, 32, 16, 8]);
        assert_eq!(widths(3), [128, 32, 8]);
        assert_eq!(widths(2), [128, 8]);
        assert_eq!(widths(1), [128]);
    }
}
