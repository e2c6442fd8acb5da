//! Whole training steps under criterion, one benchmark per workload of `bench/workloads.json`, one thread:
//! `cargo bench -p plateau-bench -- step/tiny`. The figures are per step of all replicas together.

use std::path::Path;

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use plateau_bench::training::time_of_steps;
use plateau_bench::workload::Workload;
use plateau_lab::DeviceChoice;

/// Replicas of one cohort.
const REPLICAS: usize = 4;
/// Steps that criterion's count is multiplied by, so that starting a cohort weighs little.
const STEPS: u64 = 4;

fn steps(criterion: &mut Criterion) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads.json");
    let workloads = Workload::read_all(&file).expect("the project's workloads");
    let mut group = criterion.benchmark_group("step");
    group.sampling_mode(SamplingMode::Flat).sample_size(10);
    for (name, workload) in workloads {
        group.throughput(Throughput::Elements(REPLICAS as u64));
        group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
            bencher.iter_custom(|count| {
                let budget = STEPS * count;
                let members = workload.members(REPLICAS, budget).expect("a valid workload");
                let scratch = tempfile::tempdir().expect("a temporary folder");
                let device = DeviceChoice::Cpu { threads: 1 };
                let time =
                    time_of_steps(&members, budget, &device, scratch.path()).expect("training goes well");
                time / STEPS as u32
            });
        });
    }
    group.finish();
}

criterion_group!(benches, steps);
criterion_main!(benches);
