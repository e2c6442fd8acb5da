//! `plateau-bench`: Plateau's side of every measurement, as one JSON object a line. `bench/run` calls it beside the peers.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use plateau_bench::service;
use plateau_bench::workload::Workload;
use plateau_bench::{machine, peak_memory_bytes, training};
use plateau_common::identity::{TrialId, cohort_key};
use plateau_common::study::{Format, Study};
use plateau_lab::{DeviceChoice, Member};
use serde_json::json;

/// A budget no measurement reaches.
const ENDLESS: u64 = 100_000_000_000;

#[derive(Parser)]
#[command(about = "Measures training speed and the coordinator; prints one JSON object a line")]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Train replicas of workloads for a while
    Train(Train),
    /// Train the cohorts of a study for a while each
    Study(OfStudy),
    /// Rates of matrix products and of streaming through memory, on one thread
    Machine(Machine),
    /// Completions per second of agents whose trials take no time
    Load(Load),
    /// Metrics per second
    Ingest(Ingest),
    /// Time from a coordinator's start to its first lease, on a directory that a load left
    Recovery(Service),
}

#[derive(Args)]
struct Service {
    /// The binary to measure, with words in front of it if another program is to start it
    #[arg(long, default_value = "target/release/plateau", num_args = 1.., value_terminator = ";", allow_hyphen_values = true)]
    plateau: Vec<String>,
    /// Data directory of the coordinator
    #[arg(long)]
    data: PathBuf,
}

#[derive(Args)]
struct Load {
    #[command(flatten)]
    service: Service,
    /// Simulated agents
    #[arg(long, default_value_t = 200)]
    agents: u32,
    /// Trials of the sweep
    #[arg(long, default_value_t = 101_000)]
    trials: u64,
    /// Completions after which the coordinator is killed
    #[arg(long)]
    kill_after: Option<u64>,
    /// Largest cohort an agent takes; a processor whose speed is not known is granted 8
    #[arg(long, default_value_t = 64)]
    max_cohort: u32,
    /// Completions in each window that growth is read from
    #[arg(long, default_value_t = 5000)]
    window: u64,
}

#[derive(Args)]
struct Ingest {
    #[command(flatten)]
    service: Service,
    /// Simulated agents
    #[arg(long, default_value_t = 16)]
    agents: u32,
    /// Evaluations in one chunk
    #[arg(long, default_value_t = 256)]
    evaluations: u64,
    /// Seconds of streaming
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
}

#[derive(Args)]
struct How {
    /// Replicas trained together
    #[arg(long, default_value_t = 16)]
    replicas: usize,
    /// Threads, on a processor
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// cpu, cuda or cuda:N
    #[arg(long, default_value = "cpu", value_parser = parse_device)]
    device: Device,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Seconds of training before
    #[arg(long, default_value_t = 1.0)]
    warm_up: f64,
}

#[derive(Args)]
struct Train {
    /// Names of workloads [default: all of the file]
    workload: Vec<String>,
    /// File of workloads
    #[arg(long, default_value = "bench/workloads.json")]
    workloads: PathBuf,
    #[command(flatten)]
    how: How,
}

#[derive(Args)]
struct OfStudy {
    /// Study file
    study: PathBuf,
    /// Change of the study
    #[arg(long, value_name = "PATH=VALUE")]
    set: Vec<String>,
    #[command(flatten)]
    how: How,
}

#[derive(Args)]
struct Machine {
    /// Bytes to stream through; may be repeated
    #[arg(long)]
    bytes: Vec<usize>,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 0.5)]
    seconds: f64,
}

/// Where training is measured.
#[derive(Clone, Copy)]
enum Device {
    Cpu,
    Cuda(usize),
}

fn parse_device(word: &str) -> Result<Device, String> {
    match word.split_once(':') {
        None if word == "cpu" => Ok(Device::Cpu),
        None if word == "cuda" => Ok(Device::Cuda(0)),
        Some(("cuda", number)) => match number.parse() {
            Ok(number) => Ok(Device::Cuda(number)),
            Err(error) => Err(format!("`{number}` is not the number of a card: {error}")),
        },
        _ => Err("expected cpu, cuda or cuda:N".to_owned()),
    }
}

impl How {
    fn choice(&self) -> DeviceChoice {
        match self.device {
            Device::Cpu => DeviceChoice::Cpu { threads: self.threads },
            Device::Cuda(number) => DeviceChoice::Cuda(number),
        }
    }

    /// Trains and describes what was measured.
    fn measure(&self, members: &[Member]) -> anyhow::Result<serde_json::Value> {
        let scratch = tempfile::tempdir().context("making a temporary folder")?;
        let (warm_up, limit) = (Duration::from_secs_f64(self.warm_up), Duration::from_secs_f64(self.seconds));
        let speed = training::measure(members, &self.choice(), scratch.path(), warm_up, limit)?;
        let speed =
            speed.context("training ended before the time was over: give fewer --seconds or more steps")?;
        Ok(json!({
            "program": "plateau",
            "device": match self.device {
                Device::Cpu => "cpu".to_owned(),
                Device::Cuda(number) => format!("cuda:{number}"),
            },
            "threads": self.threads,
            "replicas": members.len(),
            "replica_steps_per_s": speed.per_second(),
            "replica_steps_per_processor_s": speed.per_processor_second(),
            "seconds": speed.seconds,
            "peak_memory_bytes": peak_memory_bytes(),
        }))
    }
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().what {
        What::Train(arguments) => train(&arguments),
        What::Study(arguments) => study(&arguments),
        What::Machine(arguments) => measure_machine(&arguments),
        What::Load(arguments) => measure_service(
            service::Load {
                program: arguments.service.plateau,
                data: arguments.service.data,
                agents: arguments.agents,
                trials: arguments.trials,
                kill_after: arguments.kill_after,
                max_cohort: arguments.max_cohort,
                window: arguments.window,
            }
            .measure(),
        ),
        What::Ingest(arguments) => measure_service(
            service::Ingest {
                program: arguments.service.plateau,
                data: arguments.service.data,
                agents: arguments.agents,
                evaluations: arguments.evaluations,
                duration: Duration::from_secs_f64(arguments.seconds),
            }
            .measure(),
        ),
        What::Recovery(Service { plateau, data }) => {
            measure_service(service::Recovery { program: plateau, data }.measure())
        }
    }
}

/// Runs a measurement of the coordinator and prints it.
fn measure_service(
    measurement: impl Future<Output = anyhow::Result<serde_json::Value>>,
) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    println!("{}", runtime.context("starting the runtime")?.block_on(measurement)?);
    Ok(())
}

fn train(arguments: &Train) -> anyhow::Result<()> {
    let workloads = Workload::read_all(&arguments.workloads)?;
    let names: Vec<String> = match arguments.workload.is_empty() {
        true => workloads.keys().cloned().collect(),
        false => arguments.workload.clone(),
    };
    for name in names {
        let workload = workloads.get(&name).with_context(|| {
            let known: Vec<&str> = workloads.keys().map(String::as_str).collect();
            format!("{} has no workload `{name}`; it has {}", arguments.workloads.display(), known.join(", "))
        })?;
        let members = workload.members(arguments.how.replicas, ENDLESS)?;
        let mut line =
            arguments.how.measure(&members).with_context(|| format!("measuring workload `{name}`"))?;
        line["workload"] = json!(name);
        line["parameters"] = json!(workload.parameters()?);
        line["operations"] = json!(workload.operations()?);
        line["tokens_per_step"] = json!(workload.tokens()?);
        line["optimizer_bytes"] = json!(workload.optimizer_bytes()?);
        println!("{line}");
    }
    Ok(())
}

fn study(arguments: &OfStudy) -> anyhow::Result<()> {
    let how = &arguments.how;
    for members in cohorts(&arguments.study, &arguments.set, how.replicas)? {
        let mut line = how.measure(&members)?;
        let config = &members[0].config;
        line["model"] = config.to_json()["model"].clone();
        line["task"] = config.to_json()["task"].clone();
        println!("{line}");
    }
    Ok(())
}

/// One cohort of at most `replicas` trials for each shape of a study.
fn cohorts(file: &Path, set: &[String], replicas: usize) -> anyhow::Result<Vec<Vec<Member>>> {
    let name = file.display().to_string();
    let text = std::fs::read_to_string(file).with_context(|| format!("reading {name}"))?;
    let set: Vec<(String, String)> = set
        .iter()
        .map(|word| word.split_once('=').map(|(path, value)| (path.to_owned(), value.to_owned())))
        .collect::<Option<_>>()
        .context("--set takes path=value")?;
    let format = Format::from_file_name(&name).context("a study ends in .toml, .yaml or .json")?;
    let study = Study::parse(&text, &name, format, &set)?;
    let mut cohorts: Vec<(String, Vec<Member>)> = Vec::new();
    for config in study.trials() {
        let config = config?;
        let key = cohort_key(&config);
        let member = Member { id: TrialId::of(&config), config, resume: None };
        match cohorts.iter_mut().find(|(known, _)| *known == key) {
            Some((_, members)) if members.len() < replicas => members.push(member),
            Some(_) => {}
            None => cohorts.push((key, vec![member])),
        }
    }
    Ok(cohorts.into_iter().map(|(_, members)| members).collect())
}

fn measure_machine(arguments: &Machine) -> anyhow::Result<()> {
    let each = Duration::from_secs_f64(arguments.seconds);
    let rate = machine::matrix_product_rate(each).context("measuring matrix products")?;
    let streaming: Vec<serde_json::Value> = arguments
        .bytes
        .iter()
        .map(|bytes| json!({"bytes": bytes, "bytes_per_s": machine::streaming_rate(*bytes, each)}))
        .collect();
    println!("{}", json!({"matrix_product_flops_per_s": rate, "streaming": streaming}));
    Ok(())
}
