//! Measures a card: how long opening it takes, how long an update of the benchmarks' workloads takes for K replicas, as a
//! graph and command by command, and what reduced precision costs and gains; and last a model of McLeish et al. 2024. One JSON
//! object a line.
//!
//!     cargo run --release -p plateau-lab --features cuda --example card -- bench/workloads.json [SECONDS]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use plateau_common::config::TrialConfig;
use plateau_common::random::{Stream, StreamFamily};
use plateau_lab::cpu::Feed;
use plateau_lab::cuda::{CudaDevice, CudaError, Executor, MatrixMode};
use plateau_lab::model::{self, Occasion};
use plateau_lab::program::{Layout, Program, SlotKind, Source};
use serde_json::{Value, json};

/// Replicas that are tried, as far as memory goes.
const REPLICAS: [usize; 6] = [1, 4, 16, 64, 256, 1024];

/// Updates between looks at the clock.
const STRETCH: u64 = 20;

/// The workload that [`paper`] measures, in words of its own.
const PAPER: &str = "arithmetic-paper";

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().context("name the file of workloads, e.g. bench/workloads.json")?;
    let seconds: f64 =
        arguments.next().map_or(Ok(1.0), |word| word.parse()).context("reading the seconds")?;
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let workloads: BTreeMap<String, Value> =
        serde_json::from_str(&text).with_context(|| format!("understanding {path}"))?;
    let begun = Instant::now();
    let device = CudaDevice::open(0)?;
    let (free, total) = device.memory()?;
    println!(
        "{}",
        json!({"card": device.describe(), "opened_s": begun.elapsed().as_secs_f64(), "free_bytes": free, "bytes": total})
    );
    // Those with a task of their own are measured by `bench/run`.
    let plain = |workload: &Value| workload.is_object() && workload.get("task").is_none();
    for (name, workload) in workloads.iter().filter(|(_, workload)| plain(workload)) {
        measure(&device, name, workload, seconds).with_context(|| format!("measuring {name}"))?;
    }
    paper(&device, seconds).with_context(|| format!("measuring {PAPER}"))
}

/// One replica of the 16-layer model of width 1024 with Abacus embeddings (McLeish et al. 2024, section 3.1) on batches of 512, in as
/// few micro-batches as the card has memory for.
fn paper(device: &CudaDevice, seconds: f64) -> anyhow::Result<()> {
    let config = json!({
        "seed": 0,
        "task": {"kind": "addition", "digits": 20},
        "model": {"kind": "transformer", "layers": 16, "heads": 16, "dim": 1024, "mlp-dim": 1024, "activation": "geglu",
            "norm": "post", "mlp-bias": false, "embedding-norm": true, "read-out": "transform", "positions": "abacus",
            "injection": "layer", "initialisation": "deepnorm-straight", "abacus": {"k": 100}},
        "train": {"steps": 1, "batch": 512, "clip": 0.5,
            "optimizer": {"kind": "adamw", "lr": 1e-4, "beta2": 0.98, "weight-decay": 0.01}},
    });
    let config = TrialConfig::from_json(&config).map_err(|error| anyhow::anyhow!("{error}"))?;
    let (shape, occasion) = (config.task.shape(), Occasion::of_training(&config));
    let model = model::build(&config.model, shape);
    let layout = Layout::new(model.parameters());
    for mode in [MatrixMode::Bf16, MatrixMode::Tf32, MatrixMode::F32] {
        let mut executor = Executor::empty(device, &layout, 1, Some(&config.train.optimizer), mode)?;
        let room = (executor.room()?, i32::MAX as usize);
        let program = Arc::new(model::program_in_room(&*model, shape, &occasion, room)?);
        executor.load(program.clone(), occasion.examples)?;
        let feeds = vec![draw(&mut executor, &program, (0, occasion.examples))?];
        let commands = executor.commands(occasion.examples)?;
        let (first_s, each) = timed(device, &mut executor, &feeds, seconds)?;
        let tokens = (occasion.examples * occasion.length) as f64;
        let finite = executor.outcomes()?.iter().all(|outcome| outcome.diverged_at.is_none());
        println!(
            "{}",
            json!({
                "workload": PAPER, "precision": format!("{mode:?}"), "parameters": program.layout.count(),
                "batch": occasion.examples, "micro_batch": program.micro_batch, "length": occasion.length,
                "commands": commands, "first_updates_s": first_s, "update_ms": each * 1e3,
                "tokens_per_s": tokens / each, "finite": finite,
            })
        );
    }
    Ok(())
}

/// Seconds of the first updates, and of each later one.
fn timed(
    device: &CudaDevice,
    executor: &mut Executor,
    feeds: &[Feed<f32>],
    seconds: f64,
) -> Result<(f64, f64), CudaError> {
    let (begun, mut update) = (Instant::now(), 1);
    for _ in 0..3 {
        executor.update(update, 1.0, feeds, true)?;
        update += 1;
    }
    device.synchronize()?;
    let first_s = begun.elapsed().as_secs_f64();
    let (begun, from) = (Instant::now(), update);
    while begun.elapsed().as_secs_f64() < seconds {
        for _ in 0..STRETCH {
            executor.update(update, 1.0, feeds, true)?;
            update += 1;
        }
        device.synchronize()?;
    }
    Ok((first_s, begun.elapsed().as_secs_f64() / (update - from) as f64))
}

/// All measurements of one workload.
fn measure(device: &CudaDevice, name: &str, workload: &Value, seconds: f64) -> anyhow::Result<()> {
    let config = config(workload)?;
    let model = model::build(&config.model, config.task.shape());
    let occasion = Occasion::of_training(&config);
    let program = model::program_within(&*model, config.task.shape(), &occasion, false, usize::MAX)?;
    let program = Arc::new(program);
    accuracy(device, name, &config, &program, occasion.examples)?;
    for replicas in REPLICAS {
        for mode in [MatrixMode::F32, MatrixMode::Tf32, MatrixMode::Bf16] {
            for graphs in [true, false] {
                // Command by command, one precision says it all.
                if !graphs && mode != MatrixMode::F32 {
                    continue;
                }
                let made = executor(device, &config, &program, replicas, occasion.examples, mode);
                let (mut executor, feeds) = match made {
                    Ok(made) => made,
                    Err(CudaError::OutOfMemory { needed, available }) => {
                        println!(
                            "{}",
                            json!({"workload": name, "replicas": replicas, "needed": needed, "available": available})
                        );
                        return Ok(());
                    }
                    Err(error) => return Err(error.into()),
                };
                executor.use_graphs(graphs);
                let commands = executor.commands(occasion.examples)?;
                let (first_s, each) = timed(device, &mut executor, &feeds, seconds)?;
                let finite = executor.outcomes()?.iter().all(|outcome| outcome.diverged_at.is_none());
                println!(
                    "{}",
                    json!({
                        "workload": name, "replicas": replicas, "precision": format!("{mode:?}"), "graph": graphs,
                        "commands": commands, "first_updates_s": first_s, "update_us": each * 1e6,
                        "replica_steps_per_s": replicas as f64 / each, "finite": finite,
                    })
                );
            }
        }
    }
    Ok(())
}

/// How far losses and gradients in reduced precision are from those in 32 bits.
fn accuracy(
    device: &CudaDevice,
    name: &str,
    config: &TrialConfig,
    program: &Arc<Program>,
    examples: usize,
) -> anyhow::Result<()> {
    let of = |mode: MatrixMode| -> anyhow::Result<(f64, Vec<f32>)> {
        let (mut executor, feeds) = executor(device, config, program, 2, examples, mode)?;
        let losses = executor.differentiate(&feeds)?;
        Ok((losses[1], executor.gradients(1)?))
    };
    let (loss, gradient) = of(MatrixMode::F32)?;
    let norm =
        |numbers: &mut dyn Iterator<Item = f64>| numbers.map(|number| number * number).sum::<f64>().sqrt();
    let length = norm(&mut gradient.iter().map(|slope| f64::from(*slope)));
    for mode in [MatrixMode::F32, MatrixMode::Tf32, MatrixMode::Bf16] {
        let (own_loss, own) = of(mode)?;
        let difference = norm(&mut own.iter().zip(&gradient).map(|(a, b)| f64::from(*a) - f64::from(*b)));
        println!(
            "{}",
            json!({
                "workload": name, "precision": format!("{mode:?}"), "loss_error": (own_loss - loss).abs() / loss,
                "gradient_error": difference / length,
            })
        );
    }
    Ok(())
}

fn config(workload: &Value) -> anyhow::Result<TrialConfig> {
    let read_out = if workload["last"] == json!(true) { "last" } else { "every" };
    let config = json!({
        "seed": 0,
        "task": {"kind": "noise", "vocab": workload["vocab"], "length": workload["length"], "test-examples": 1,
            "read-out": read_out},
        "model": {"kind": "transformer", "layers": workload["layers"], "heads": workload["heads"],
            "dim": workload["dim"], "mlp-dim": workload["mlp"], "causal": workload["causal"],
            "initialisation": "pytorch"},
        "train": {"steps": 1, "batch": workload["batch"],
            "optimizer": {"kind": "adamw", "lr": 1e-3, "weight-decay": 1.0}},
    });
    TrialConfig::from_json(&config).map_err(|error| anyhow::anyhow!("{error}"))
}

/// Replicas with starting weights of their own, and random batches.
fn executor(
    device: &CudaDevice,
    config: &TrialConfig,
    program: &Arc<Program>,
    replicas: usize,
    examples: usize,
    mode: MatrixMode,
) -> Result<(Executor, Vec<Feed<f32>>), CudaError> {
    let mut executor =
        Executor::new(device, program.clone(), replicas, examples, &config.train.optimizer, mode)?;
    let mut feeds = Vec::new();
    for replica in 0..replicas {
        feeds.push(draw(&mut executor, program, (replica, examples))?);
    }
    Ok((executor, feeds))
}

/// Gives a replica its starting weights; its batch.
fn draw(
    executor: &mut Executor,
    program: &Program,
    (replica, examples): (usize, usize),
) -> Result<Feed<f32>, CudaError> {
    let family = StreamFamily::new(replica as u64, "card");
    let parameters = program.layout.parameters.iter().enumerate();
    let weights = parameters.flat_map(|(place, parameter)| parameter.draw(&family, place as u64));
    executor.set_parameters(replica, &weights.map(|number| number as f32).collect::<Vec<f32>>())?;
    Ok(feed(program, examples, &mut family.at(u64::MAX / 2)))
}

fn feed(program: &Program, examples: usize, stream: &mut Stream) -> Feed<f32> {
    let mut feed = Feed::empty(program.slots.len());
    feed.examples = examples;
    feed.loss_scale = 1.0 / (examples * program.output_rows()) as f64;
    let vocabulary =
        program.layout.parameters.first().and_then(|table| table.shape.first()).copied().unwrap_or(1);
    for (slot, specification) in program.slots.iter().enumerate() {
        let count = specification.extent.count(examples);
        match (specification.source, specification.kind) {
            (Source::Constant, _) => {}
            (Source::Pairs { vocabulary }, _) => {
                let length = specification.extent.rows.count(1);
                let pair = |at: usize| (at % length * vocabulary) as u32 + stream.below(vocabulary as u32);
                feed.ids_mut(slot).extend((0..count).map(pair));
            }
            (Source::Classes, _) => {
                let classes = program.outputs.extent.width as u32;
                feed.ids_mut(slot).extend((0..count).map(|_| stream.below(classes)));
            }
            (_, SlotKind::Ids) => {
                feed.ids_mut(slot).extend((0..count).map(|_| stream.below(vocabulary as u32)))
            }
            (_, SlotKind::Numbers) => feed.numbers_mut(slot).extend((0..count).map(|_| 1.0)),
        }
    }
    feed
}
