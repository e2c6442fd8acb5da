//! Prints replica-steps per second of a fixed list of workloads: `throughput [threads] [replicas] [name]`, by the clock
//! (the best half second) and per second of processor time (which other programs do not disturb; Linux only).

use std::path::Path;

use anyhow::Context as _;
use plateau_common::config::TrialConfig;
use plateau_common::identity::TrialId;
use plateau_common::metrics::Evaluation;
use plateau_common::trial::Ending;
use plateau_lab::{Control, DeviceChoice, Member, Observer, train_cohort};
use serde_json::{Value, json};

/// Seconds each workload is measured for.
const SECONDS: f64 = 4.0;

/// Counts steps between the first report and the end.
struct Meter {
    begun: std::time::Instant,
    last: std::time::Instant,
    best: f64,
    calls: u32,
    steps: f64,
    processor_seconds: f64,
}

/// Processor time this process has used, in seconds; NaN where /proc does not tell.
fn processor_seconds() -> f64 {
    let ticks = std::fs::read_to_string("/proc/self/stat").ok().and_then(|text| {
        let mut fields = text.rsplit(')').next()?.split_whitespace().skip(11);
        Some(fields.next()?.parse::<f64>().ok()? + fields.next()?.parse::<f64>().ok()?)
    });
    ticks.map_or(f64::NAN, |ticks| ticks / 100.0)
}

impl Observer for Meter {
    fn started(&mut self, _: usize, _: u64) {}
    fn evaluated(&mut self, _: usize, _: Evaluation) {}
    fn checkpointed(&mut self, _: usize, _: u64, _: &Path) {}
    fn ended(&mut self, _: usize, _: Ending) {}
    fn progress(&mut self, _: u64, replica_steps_per_second: f64) -> Control {
        if replica_steps_per_second == 0.0 {
            // Still at the first evaluation.
            self.begun = std::time::Instant::now();
            return Control::Continue;
        }
        self.calls += 1;
        if self.calls == 3 {
            self.processor_seconds = processor_seconds();
        }
        if self.calls > 3 {
            self.best = self.best.max(replica_steps_per_second);
            self.steps += replica_steps_per_second * self.last.elapsed().as_secs_f64();
        }
        self.last = std::time::Instant::now();
        if self.begun.elapsed().as_secs_f64() > SECONDS { Control::Stop } else { Control::Continue }
    }
}

fn workloads() -> Vec<(&'static str, Value)> {
    let adamw = json!({"kind": "adamw", "lr": 1e-3, "weight-decay": 1.0});
    let train = |batch: Value| json!({"steps": 100_000_000, "batch": batch, "optimizer": adamw});
    let model = |layers: u32, dim: u32, mlp: u32, norm: &str, positions: &str, causal: bool| {
        json!({"kind": "transformer", "layers": layers, "heads": 4, "dim": dim, "mlp-dim": mlp, "norm": norm,
            "positions": positions, "causal": causal})
    };
    let modular = |p: u32, share: f64| json!({"kind": "modular", "modulus": p, "train-share": share});
    let count =
        |m: u32, per_token: u32| json!({"kind": "query-count", "vocab": m, "length-per-token": per_token});
    let all = |task: Value, model: Value, train: Value| json!({"task": task, "model": model, "train": train, "evaluate": {"every": 1_000_000_000}});
    vec![
        (
            "modular-31-d32",
            all(modular(31, 0.5), model(1, 32, 64, "none", "learned", true), train(json!("full"))),
        ),
        (
            "modular-59-d64",
            all(modular(59, 0.4), model(1, 64, 128, "none", "learned", true), train(json!("full"))),
        ),
        ("count-d4-m6", all(count(6, 10), model(1, 4, 16, "pre", "none", false), train(json!(64)))),
        ("count-d16-m24", all(count(24, 10), model(1, 16, 64, "pre", "none", false), train(json!(64)))),
        ("count-d32-m60", all(count(60, 10), model(1, 32, 128, "pre", "none", false), train(json!(64)))),
        ("modular", all(modular(113, 0.3), model(1, 128, 512, "pre", "learned", true), train(json!("full")))),
        ("tiny", all(modular(31, 0.5), model(1, 64, 256, "pre", "learned", true), train(json!(256)))),
        ("counting", all(count(64, 3), model(2, 32, 128, "pre", "learned", false), train(json!(16)))),
    ]
}

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let threads: usize =
        arguments.next().map_or(Ok(1), |text| text.parse()).context("threads is a number")?;
    let replicas: u64 =
        arguments.next().map_or(Ok(8), |text| text.parse()).context("replicas is a number")?;
    let wanted = arguments.next();
    println!("{threads} threads, {replicas} replicas: replica-steps per second, and per processor-second");
    for (name, mut json) in workloads() {
        if wanted.as_ref().is_some_and(|wanted| wanted != name) {
            continue;
        }
        let mut members = Vec::new();
        for seed in 0..replicas {
            json["seed"] = json!(seed);
            let config = TrialConfig::from_json(&json).map_err(|error| anyhow::anyhow!("{error}"))?;
            members.push(Member { id: TrialId::of(&config), config, resume: None });
        }
        let scratch = tempfile::tempdir()?;
        let now = std::time::Instant::now();
        let mut meter =
            Meter { begun: now, last: now, best: 0.0, calls: 0, steps: 0.0, processor_seconds: 0.0 };
        train_cohort(&members, &DeviceChoice::Cpu { threads }, scratch.path(), &mut meter)?;
        let per_processor_second = meter.steps / (processor_seconds() - meter.processor_seconds);
        println!("{name:16} {:8.0} {per_processor_second:8.0}", meter.best);
    }
    Ok(())
}
