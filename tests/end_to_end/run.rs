//! `plateau run`: from a study file to a report, again, extended, interrupted.

use anyhow::{Context as _, ensure};
use plateau_tests::{small_study, wait_for};

use crate::{bench, results, trials};

const DATA: [&str; 2] = ["--data-dir", "plateau-data"];

#[test]
fn run_leaves_a_report_and_running_again_runs_nothing() -> anyhow::Result<()> {
    let bench = bench()?;
    bench.write("study.toml", &small_study("first", "[0, 1, 2]", 400))?;
    bench.succeed(["run", "study.toml", "--agents", "2"])?;
    let report = bench.path("plateau-data/reports/first");
    for file in ["report.html", "cells.csv", "trials.parquet", "metrics.parquet", "summary.json"] {
        ensure!(
            report.join(file).metadata().is_ok_and(|found| found.len() > 0),
            "{file} is missing or empty"
        );
    }
    let figures = std::fs::read_dir(report.join("figures"))?.count();
    ensure!(figures >= 2, "{figures} figure files");
    let before = results(&bench, DATA, "last")?;
    ensure!(before.len() == 3, "{before:?}");
    let attempts =
        |list: &[serde_json::Value]| list.iter().map(|trial| trial["attempt"].clone()).collect::<Vec<_>>();
    let first = attempts(&trials(&bench, DATA, "last")?);

    bench.succeed(["run", "study.toml", "--agents", "2"])?;
    ensure!(attempts(&trials(&bench, DATA, "last")?) == first, "a finished study ran again");

    // One more seed and nothing else.
    bench.write("study.toml", &small_study("first", "[0, 1, 2, 3]", 400))?;
    bench.succeed(["run", "study.toml", "--agents", "2"])?;
    let after = results(&bench, DATA, "last")?;
    ensure!(after.len() == 4 && before.iter().all(|(id, result)| after.get(id) == Some(result)));
    let attempts = trials(&bench, DATA, "last")?;
    ensure!(attempts.iter().all(|trial| trial["attempt"] == 1), "{attempts:?}");
    Ok(())
}

#[test]
fn a_longer_budget_continues_and_gives_the_bits_of_one_long_run() -> anyhow::Result<()> {
    let bench = bench()?;
    bench.write("short.toml", &small_study("short", "[0, 1]", 300))?;
    bench.write("long.toml", &small_study("long", "[0, 1]", 700))?;
    bench.succeed(["run", "short.toml", "--agents", "1"])?;
    bench.succeed(["run", "long.toml", "--agents", "1"])?;
    bench.succeed(["run", "long.toml", "--agents", "1", "--data-dir", "fresh"])?;
    let continued = results(&bench, DATA, "last")?;
    ensure!(continued == results(&bench, ["--data-dir", "fresh"], "last")?);
    ensure!(trials(&bench, DATA, "last")?.iter().all(|trial| trial["attempt"] == 2));
    Ok(())
}

#[test]
fn interrupted_and_continued_gives_the_same_bits() -> anyhow::Result<()> {
    let bench = bench()?;
    bench.write("study.toml", &small_study("long", "[0, 1]", 6000))?;
    let mut run = bench.spawn("run", &["--output", "json", "run", "study.toml", "--agents", "1"])?;
    wait_for("training to begin", || {
        ensure!(!run.log_text().contains("\"finished\""), "the study ended before it was interrupted");
        Ok(run.log_text().lines().filter_map(done_steps).any(|steps| steps > 500).then_some(()))
    })?;
    run.signal("INT")?;
    let code = run.wait()?;
    ensure!(code == Some(130), "exit code {code:?}: {}", run.log_text());
    bench.succeed(["run", "study.toml", "--agents", "1"])?;
    bench.succeed(["run", "study.toml", "--agents", "2", "--data-dir", "peace"])?;
    ensure!(results(&bench, DATA, "last")? == results(&bench, ["--data-dir", "peace"], "last")?);
    ensure!(trials(&bench, DATA, "last")?.iter().any(|trial| trial["attempt"].as_u64() > Some(1)));
    Ok(())
}

/// Steps made, from a line of progress events.
fn done_steps(line: &str) -> Option<u64> {
    serde_json::from_str::<serde_json::Value>(line).ok()?["done_steps"].as_u64()
}

#[test]
fn mistakes_have_exit_codes_and_say_what_to_do() -> anyhow::Result<()> {
    let bench = bench()?;
    let text = small_study("bad", "[0]", 100).replace("heads = 2", "heads = 3");
    bench.write("bad.toml", &text)?;
    let output = bench.run(["run", "bad.toml"])?;
    let message = String::from_utf8(output.stderr)?;
    ensure!(output.status.code() == Some(4), "{:?} {message}", output.status);
    ensure!(message.contains("bad.toml:8") && message.contains("heads may be"), "{message}");
    ensure!(bench.run(["run", "--no-such-flag"])?.status.code() == Some(2));
    let output = bench.run(["--coordinator", "http://127.0.0.1:9", "list"])?;
    let message = String::from_utf8(output.stderr)?;
    ensure!(output.status.code() == Some(1) && message.contains("127.0.0.1:9"), "{message}");
    Ok(())
}

#[test]
fn a_diverging_trial_is_a_result_and_disturbs_nobody() -> anyhow::Result<()> {
    let bench = bench()?;
    let both =
        small_study("both", "[0]", 200).replace("[axes]", "[axes]\n\"train.optimizer.lr\" = [3e-3, 1e6]");
    let alone = small_study("alone", "[0]", 200).replace("[axes]", "[axes]\n\"train.optimizer.lr\" = [3e-3]");
    bench.write("both.toml", &both.replace("norm = \"none\"", "norm = \"none\"\nactivation = \"gelu\""))?;
    bench.write("alone.toml", &alone.replace("norm = \"none\"", "norm = \"none\"\nactivation = \"gelu\""))?;
    bench.succeed(["run", "both.toml", "--agents", "1"])?;
    let all = trials(&bench, DATA, "last")?;
    let state = |lr: f64| {
        let trial = all.iter().find(|trial| trial["config"]["train"]["optimizer"]["lr"].as_f64() == Some(lr));
        trial.map(|trial| trial["state"].clone()).context("a trial for each learning rate")
    };
    ensure!(state(3e-3)? == "completed" && state(1e6)? == "diverged", "{all:?}");
    bench.succeed(["run", "alone.toml", "--agents", "1", "--data-dir", "alone"])?;
    let alone = results(&bench, ["--data-dir", "alone"], "last")?;
    let id = alone.keys().next().context("one trial")?.clone();
    let list = bench.json(["checkpoint", "list", &id, DATA[0], DATA[1]])?;
    ensure!(list["checkpoints"][0]["weights_hash"].as_str() == Some(alone[&id].1.as_str()), "{list}");
    Ok(())
}

/// Every line of the logs of a data directory, parsed, with the file it is from.
fn log_lines(folder: &std::path::Path) -> anyhow::Result<Vec<(String, serde_json::Value)>> {
    let mut lines = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        for line in std::fs::read_to_string(&path)?.lines() {
            lines
                .push((name.clone(), serde_json::from_str(line).with_context(|| format!("{name}: {line}"))?));
        }
    }
    Ok(lines)
}

#[test]
fn the_logs_of_all_processes_join_in_one_trace_per_trial() -> anyhow::Result<()> {
    let bench = bench()?;
    bench.write("study.toml", &small_study("traced", "[0]", 300))?;
    bench.succeed(["run", "study.toml", "--agents", "1"])?;
    let lines = log_lines(&bench.path("plateau-data/logs"))?;
    let granted = lines.iter().find(|(file, line)| {
        file == "coordinator.jsonl"
            && line["fields"]["message"].as_str().is_some_and(|text| text.contains("granted"))
    });
    let (_, granted) = granted.context("the coordinator logs the grant")?;
    let trace = granted["fields"]["trace"].as_str().context("the grant has a trace")?;
    let has = |file: &str, what: &dyn Fn(&serde_json::Value) -> bool| {
        lines.iter().any(|(name, line)| name == file && line.to_string().contains(trace) && what(line))
    };
    ensure!(has("cpu-1.jsonl", &|line| line["span"]["name"] == "attempt"), "no span of the attempt");
    for name in ["steps", "evaluate", "checkpoint"] {
        let closed = |line: &serde_json::Value| {
            line["fields"]["message"] == "close"
                && line["span"]["name"] == name
                && line["spans"][0]["name"] == "cohort"
        };
        ensure!(has("cpu-1.jsonl", &closed), "no span `{name}` inside the trial's cohort");
    }
    Ok(())
}
