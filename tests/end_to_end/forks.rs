//! Forks: the parent's curve to the step, then their own; whatever happens to the parent or the coordinator.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use plateau_tests::{Bench, small_study};

use crate::{bench, metrics, results, trials};

/// A study of one trial that is trained in batches and keeps all its checkpoints: at 200, 400 and so on to 1000.
fn study() -> String {
    let study = small_study("parents", "[0]", 1000);
    study
        .replace("steps = 1000", "steps = 1000\nbatch = 16")
        .replace("every = 200", "every = 200\nkeep = 100")
}

/// What a trial measured: (step, metric) -> value, as it was exported.
type Curve = BTreeMap<(u64, String), String>;

/// The curves of a sweep by trial.
fn curves(bench: &Bench, target: [&str; 2], sweep: &str) -> anyhow::Result<BTreeMap<String, Curve>> {
    let mut curves: BTreeMap<String, Curve> = BTreeMap::new();
    for line in metrics(bench, target, sweep, "metrics")?.iter().filter(|line| !line.starts_with("trial,")) {
        let fields: Vec<&str> = line.split(',').collect();
        let [trial, metric, step, value] = fields[..] else { anyhow::bail!("not a value: {line}") };
        let step: u64 = step.parse()?;
        let curve = curves.entry(trial.to_owned()).or_default();
        curve.insert((step, metric.to_owned()), value.to_owned());
    }
    Ok(curves)
}

/// The part of a curve up to a step, and what comes after.
fn split(curve: &Curve, step: u64) -> (Curve, Curve) {
    curve.clone().into_iter().partition(|((at, _), _)| *at <= step)
}

/// The only trial of a sweep.
fn only(bench: &Bench, target: [&str; 2], sweep: &str) -> anyhow::Result<String> {
    let trials = trials(bench, target, sweep)?;
    ensure!(trials.len() == 1, "{trials:?}");
    Ok(trials[0]["trial"].as_str().context("a trial has an id")?.to_owned())
}

fn text(value: &serde_json::Value) -> anyhow::Result<String> {
    Ok(value.as_str().with_context(|| format!("{value} is no text"))?.to_owned())
}

#[test]
fn a_fork_is_its_parent_to_the_step_and_its_own_afterwards() -> anyhow::Result<()> {
    let bench = bench()?;
    bench.write("study.toml", &study())?;
    let mut coordinator = bench.coordinator("data")?;
    let (address, url) = (coordinator.address.clone(), coordinator.url.clone());
    let target = ["--coordinator", url.as_str()];
    let agent = bench.agent("one", &url)?;
    bench.succeed(["submit", "study.toml", target[0], target[1]])?;
    bench.succeed(["watch", "last", target[0], target[1]])?;
    let parent = only(&bench, target, "parents")?;
    let place = format!("{}@600", &parent[..8]);
    let parents = curves(&bench, target, "parents")?.remove(&parent).context("the parent's curve")?;

    // Without any change: the same bits to the end.
    let same = bench.json(["fork", &place, target[0], target[1]])?;
    ensure!(same["new_trials"] == 1 && same["fork"]["trial"] == parent.as_str(), "{same}");
    let sweep = text(&same["sweep"])?;
    bench.succeed(["watch", &sweep, target[0], target[1]])?;
    let twin = only(&bench, target, &sweep)?;
    ensure!(twin != parent);
    ensure!(curves(&bench, target, &sweep)?.get(&twin) == Some(&parents), "another curve than the parent's");
    let hash = |sweep: &str| anyhow::Ok(results(&bench, target, sweep)?.into_values().collect::<Vec<_>>());
    ensure!(hash(&sweep)? == hash("parents")?, "other weights than the parent's");

    // With other orders of the data, and a coordinator that is killed as soon as it has accepted them.
    let orders = bench.json(["fork", &place, "--replicates", "2", target[0], target[1]])?;
    coordinator.process.kill()?;
    ensure!(orders["new_trials"] == 2, "{orders}");
    let coordinator = bench.coordinator_at("data", &address)?;
    let sweep = text(&orders["sweep"])?;
    let again = bench.json(["fork", &place, "--replicates", "2", target[0], target[1]])?;
    ensure!(
        again["sweep"] == orders["sweep"] && again["existing"] == true && again["new_trials"] == 0,
        "{again}"
    );
    bench.succeed(["watch", &sweep, target[0], target[1]])?;
    let (prefix, rest) = split(&parents, 600);
    ensure!(prefix.len() > 20 && rest.len() > 10);
    let mut ends = vec![rest];
    for (trial, curve) in curves(&bench, target, &sweep)? {
        let (own, rest) = split(&curve, 600);
        ensure!(own == prefix, "trial {trial} does not begin as its parent");
        ensure!(rest.keys().eq(ends[0].keys()), "trial {trial} was measured elsewhere");
        ensure!(!ends.contains(&rest), "trial {trial} does not differ");
        ends.push(rest);
    }
    ensure!(ends.len() == 3);

    let shown = bench.succeed(["show", &sweep, target[0], target[1]])?;
    ensure!(shown.contains(&format!("from trial {parent} at step 600")), "{shown}");
    let listed = bench.succeed(["trials", &sweep, target[0], target[1]])?;
    ensure!(
        listed.contains("forked from") && listed.contains(&place) && listed.contains("data-order"),
        "{listed}"
    );
    bench.succeed(["report", &sweep, "--out", "report", target[0], target[1]])?;
    let page = std::fs::read_to_string(bench.path("report/report.html"))?;
    ensure!(
        page.contains("Forked from") && page.contains(&parent) && page.contains("train.data-order: 1, 2")
    );
    ensure!(page.contains("2 trials in 1 cell"), "replicates are replicates");

    drop((agent, coordinator));
    let verified = bench.json(["verify", "data"])?;
    ensure!(verified["clean"] == true, "{verified}");
    Ok(())
}

#[test]
fn forks_are_run_on_one_machine_too() -> anyhow::Result<()> {
    let bench = bench()?;
    bench.write("study.toml", &study())?;
    bench.succeed(["run", "study.toml", "--agents", "1"])?;
    let target = ["--data-dir", "plateau-data"];
    let place = format!("{}@800", only(&bench, target, "parents")?);
    let written =
        bench.json(["fork", &place, "--out", "fork.json", "--name", "once-more", target[0], target[1]])?;
    ensure!(written["trials"] == 1, "{written}");
    bench.succeed(["run", "fork.json", "--agents", "1"])?;
    let hash = |sweep: &str| anyhow::Ok(results(&bench, target, sweep)?.into_values().collect::<Vec<_>>());
    ensure!(hash("once-more")? == hash("parents")?, "other weights than the parent's");
    Ok(())
}

#[test]
fn a_fork_outlives_its_parent_and_says_what_cannot_be_forked() -> anyhow::Result<()> {
    let bench = bench()?;
    bench.write("study.toml", &study())?;
    let coordinator = bench.coordinator("data")?;
    let target = ["--coordinator", coordinator.url.as_str()];
    let agent = bench.agent("one", &coordinator.url)?;
    bench.succeed(["submit", "study.toml", target[0], target[1]])?;
    bench.succeed(["watch", "last", target[0], target[1]])?;
    drop(agent);
    let parent = only(&bench, target, "parents")?;
    let refused = |place: String, more: &[&str]| -> anyhow::Result<String> {
        let mut arguments = vec!["fork", place.as_str(), target[0], target[1]];
        arguments.extend(more);
        let output = bench.run(arguments)?;
        ensure!(!output.status.success(), "{place} {more:?} was accepted");
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let missing = refused(format!("{parent}@500"), &[])?;
    ensure!(missing.contains("those kept are of the steps 200, 400, 600, 800, 1000"), "{missing}");
    let shape = refused(format!("{parent}@600"), &["--set", "model.dim=32"])?;
    ensure!(shape.contains("`model.dim`") && shape.contains("the trial forked from has 16"), "{shape}");
    let typing = refused(format!("{parent}@600"), &["--set", "train.optimizer.lrate=1"])?;
    ensure!(typing.contains("unknown key"), "{typing}");

    // Nobody trains yet; the parent goes first.
    let changed =
        ["--set", "train.optimizer.weight-decay=0", "--set", "train.steps=1200", "--name", "no-decay"];
    let place = format!("{parent}@400");
    let mut arguments = vec!["fork", place.as_str(), target[0], target[1]];
    arguments.extend(changed);
    let forked = bench.json(arguments)?;
    ensure!(forked["name"] == "no-decay" && forked["new_trials"] == 1, "{forked}");
    let parents = curves(&bench, target, "parents")?.remove(&parent).context("the parent's curve")?;
    bench.succeed(["delete", "parents", target[0], target[1]])?;
    let _agent = bench.agent("one", &coordinator.url)?;
    bench.succeed(["watch", "no-decay", target[0], target[1]])?;
    let fork = only(&bench, target, "no-decay")?;
    ensure!(results(&bench, target, "no-decay")?.get(&fork).is_some_and(|(step, _)| *step == 1200));
    let curve = curves(&bench, target, "no-decay")?.remove(&fork).context("the fork's curve")?;
    ensure!(split(&curve, 400).0 == split(&parents, 400).0);
    let explained = bench.succeed(["explain", &fork, target[0], target[1]])?;
    ensure!(explained.contains(&format!("forked from trial {} at step 400", &parent[..8])), "{explained}");
    Ok(())
}
