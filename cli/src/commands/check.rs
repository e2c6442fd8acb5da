//! `plateau check`: what a study holds and costs, without running it; on request, how long it will take, and its data as text.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use clap::{Args, ValueHint};
use plateau_common::results::Parameter;
use plateau_common::study::{CohortOverview, Overview};
use serde_json::{Value, json};

use super::Context;
use crate::client;
use crate::dump::{self, Dumped};
use crate::exit::{Exit, Failure, Outcome};
use crate::output::Output;
use crate::prediction::{self, Prediction, PredictionArguments};
use crate::study_file::{ReadStudy, StudyArguments};
use crate::table::{Columns, number};
use crate::{results, words};

const EXAMPLES: &str = "\
Examples:
  plateau check study.toml
  plateau check study.toml --set axes.seed=[0,1] --set train.steps=500
  plateau check study.toml --predict --agents 2
  plateau check study.toml --predict --coordinator http://node1:7733
  plateau check study.toml --dump data
  plateau check study.toml --output json

Errors name file, line and key; the exit code is then 4.";

/// Cohorts that are shown one by one.
const SHOWN_COHORTS: usize = 20;
/// Values of an axis that are shown one by one.
const SHOWN_VALUES: usize = 8;

/// Options of `plateau check`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    #[command(flatten)]
    study: StudyArguments,

    /// Write what the study's tasks train on and measure into this new or empty folder, as text: a line for each example, with a TAB
    /// before the answer
    #[arg(long, value_name = "FOLDER", value_hint = ValueHint::DirPath)]
    dump: Option<PathBuf>,

    #[command(flatten)]
    prediction: PredictionArguments,
}

/// Checks the study.
pub async fn run(arguments: &Arguments, context: &Context) -> Outcome {
    let read = arguments.study.read()?;
    let overview = read.study.overview().map_err(|error| Failure::new(Exit::InvalidStudy, error))?;
    let prediction = match (arguments.prediction.predict, context.coordinator_named) {
        (false, _) => None,
        (true, false) => Some(prediction::on_this_machine(&arguments.prediction, &overview).await?),
        (true, true) => {
            let mut connection = client::connect(&context.coordinator, &context.credentials).await?;
            Some(prediction::on_agents_of(&mut connection, &overview).await?)
        }
    };
    let prediction = prediction.as_ref();
    let dumped = arguments.dump.as_deref().map(|folder| dump::write(&read.study, folder)).transpose()?;
    let dumped = dumped.unwrap_or_default();
    context.output.answer(
        || describe(&read, &overview, prediction, &dumped, &context.output),
        || to_json(&read, &overview, prediction, &dumped),
        || overview.trials.to_string(),
    )?;
    Ok(Exit::Done)
}

/// `8, 16, 32` or, for many values, `5, 13, 20, … , 150 (20 values)`.
pub fn shorten(values: &[String]) -> String {
    match values {
        [first @ .., last] if values.len() > SHOWN_VALUES => {
            let first: Vec<&str> = first.iter().take(SHOWN_VALUES - 2).map(String::as_str).collect();
            format!("{}, …, {last} ({} values)", first.join(", "), values.len())
        }
        values => values.join(", "),
    }
}

fn between<T: PartialEq>(low: T, high: T, word: impl Fn(&T) -> String) -> String {
    if low == high { word(&low) } else { format!("{} to {}", word(&low), word(&high)) }
}

fn describe(
    read: &ReadStudy,
    overview: &Overview,
    prediction: Option<&Prediction>,
    dumped: &[Dumped],
    output: &Output,
) -> String {
    let study = &read.study;
    let mut lines = vec![format!("study       {}", study.name)];
    if !study.description.is_empty() {
        lines.push(format!("            {}", words::one_line(study.description.trim())));
    }
    let (fewest, most) = overview.parameters;
    let (least, largest) = overview.flops_per_trial;
    let memory = |pick: fn(&CohortOverview) -> u64| overview.cohorts.iter().map(pick);
    let bytes = memory(|cohort| cohort.bytes_per_trial);
    lines.extend([
        format!(
            "trials      {} in {} ({} per cell)",
            words::whole(u128::from(overview.trials)),
            words::plural(overview.cells, "cell"),
            words::count(overview.trials as f64 / overview.cells.max(1) as f64)
        ),
        format!("steps       {} in all", words::whole(total_steps(overview))),
        format!(
            "parameters  {} per trial",
            between(fewest, most, |number| words::whole(u128::from(*number)))
        ),
        format!(
            "arithmetic  {} FLOP per trial, {} FLOP in all",
            between(words::count(least), words::count(largest), String::clone),
            words::count(overview.flops)
        ),
        format!(
            "memory      about {} per trial",
            between(
                words::bytes(bytes.clone().min().unwrap_or(0)),
                words::bytes(bytes.max().unwrap_or(0)),
                String::clone
            )
        ),
    ]);
    if let Some(predicted) = prediction {
        let carried = match predicted.shapes - predicted.measured.len().min(predicted.shapes) {
            0 => "every shape".to_owned(),
            _ => format!(
                "{} of {} shapes, the others carried over by their arithmetic",
                predicted.measured.len(),
                predicted.shapes
            ),
        };
        lines.push(format!(
            "duration    about {} with {}, without the report",
            words::duration(predicted.seconds),
            words::plural(predicted.agents as u64, "agent")
        ));
        lines.push(format!("            {}: {carried}", predicted.source));
    }
    for (path, values) in &overview.varying {
        lines.push(format!("axis        {path} = {}", shorten(values)));
    }
    lines.extend(
        read.plan
            .analyses
            .iter()
            .map(|analysis| format!("analysis    {}", named(analysis.kind(), analysis.name()))),
    );
    lines.extend(read.plan.figures.iter().map(|figure| format!("figure      {}", figure.name())));
    lines.extend(dumped.iter().map(|set| format!("data        {}", set.describe())));
    lines.push(format!(
        "\n{} (trials of equal shape, trained together as one batched model):",
        words::plural(overview.cohorts.len() as u64, "cohort")
    ));
    lines.push(cohorts(overview, output));
    lines.join("\n")
}

/// Steps of all trials together.
fn total_steps(overview: &Overview) -> u128 {
    let steps = |cohort: &CohortOverview| u128::from(cohort.trials) * u128::from(cohort.example.train.steps);
    overview.cohorts.iter().map(steps).sum()
}

fn named(kind: &str, name: &str) -> String {
    if kind == name { kind.to_owned() } else { format!("{kind} ({name})") }
}

fn cohorts(overview: &Overview, output: &Output) -> String {
    let differing = differing_paths(overview);
    let mut headings: Vec<&str> = differing.iter().map(String::as_str).collect();
    headings.extend(["trials", "steps", "parameters", "FLOP/step", "memory"]);
    let mut columns = Columns::new(output, &headings);
    for cohort in overview.cohorts.iter().take(SHOWN_COHORTS) {
        let parameters = results::flatten(&cohort.example.to_json());
        let mut cells: Vec<comfy_table::Cell> = differing
            .iter()
            .map(|path| number(parameters.get(path).map_or_else(|| "-".to_owned(), ToString::to_string)))
            .collect();
        cells.extend([
            number(cohort.trials),
            number(words::whole(u128::from(cohort.example.train.steps))),
            number(words::whole(u128::from(cohort.parameters))),
            number(words::count(cohort.flops_per_update)),
            number(words::bytes(cohort.bytes)),
        ]);
        columns.push(cells);
    }
    let mut table = columns.render();
    if overview.cohorts.len() > SHOWN_COHORTS {
        table.push_str(&format!("\n… and {} more cohorts", overview.cohorts.len() - SHOWN_COHORTS));
    }
    table
}

/// The axes whose values tell the cohorts apart (an axis of whole tables by what differs beneath it). Values that
/// `[[when]]` sets follow from the axes it matches, and of axes that change together the first is enough.
fn differing_paths(overview: &Overview) -> Vec<String> {
    let examples: Vec<BTreeMap<String, Parameter>> =
        overview.cohorts.iter().map(|cohort| results::flatten(&cohort.example.to_json())).collect();
    let all: BTreeSet<&String> = examples.iter().flat_map(BTreeMap::keys).collect();
    let mut paths: Vec<String> = Vec::new();
    let mut partitions: Vec<Vec<usize>> = Vec::new();
    for (axis, _) in &overview.varying {
        let beneath = format!("{axis}.");
        for path in all.iter().filter(|path| **path == axis || path.starts_with(&beneath)) {
            let partition = partition(&examples, path);
            if partition.iter().any(|value| *value > 0) && !partitions.contains(&partition) {
                partitions.push(partition);
                paths.push((*path).clone());
            }
        }
    }
    paths
}

/// For each example the number of its value at `path`, in order of first appearance.
fn partition(examples: &[BTreeMap<String, Parameter>], path: &str) -> Vec<usize> {
    let mut values: Vec<Option<&Parameter>> = Vec::new();
    examples
        .iter()
        .map(|example| {
            let value = example.get(path);
            values.iter().position(|known| *known == value).unwrap_or_else(|| {
                values.push(value);
                values.len() - 1
            })
        })
        .collect()
}

fn to_json(
    read: &ReadStudy,
    overview: &Overview,
    prediction: Option<&Prediction>,
    dumped: &[Dumped],
) -> Value {
    let cohorts: Vec<Value> = overview
        .cohorts
        .iter()
        .map(|cohort| {
            json!({
                "key": cohort.key,
                "trials": cohort.trials,
                "parameters": cohort.parameters,
                "flops_per_update": cohort.flops_per_update,
                "bytes_per_trial": cohort.bytes_per_trial,
                "bytes": cohort.bytes,
                "example": cohort.example.to_json(),
            })
        })
        .collect();
    json!({
        "name": read.study.name,
        "digest": read.study.digest(),
        "trials": overview.trials,
        "cells": overview.cells,
        "cohorts": cohorts,
        "parameters": overview.parameters,
        "flops_per_trial": overview.flops_per_trial,
        "flops": overview.flops,
        "predicted": prediction.map(|predicted| json!({
            "seconds": predicted.seconds,
            "agents": predicted.agents,
            "measured_cohorts": predicted.measured,
            "source": predicted.source,
        })),
        "steps": u64::try_from(total_steps(overview)).unwrap_or(u64::MAX),
        "axes": overview.varying.iter().map(|(path, values)| json!({ "path": path, "values": values })).collect::<Vec<_>>(),
        "analyses": read.plan.analyses.iter().map(|analysis| analysis.name()).collect::<Vec<_>>(),
        "figures": read.plan.figures.iter().map(|figure| figure.name()).collect::<Vec<_>>(),
        "dumped": dumped.iter().map(|set| json!({
            "folder": set.folder,
            "seed": set.seed,
            "files": set.files.iter().map(|(name, lines, is_cut)| json!({
                "name": name,
                "lines": lines,
                "is_cut": is_cut,
            })).collect::<Vec<_>>(),
        })).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cohorts_are_told_apart_by_axes_that_do_not_follow_one_another() {
        let text = r#"
            name = "s"
            task = { kind = "modular", modulus = 7, train-share = 0.5 }
            model = { layers = 1, heads = 1, dim = 8 }
            train = { steps = 10, optimizer = { kind = "adam", lr = 1e-3 } }
            zip = [["model.dim", "model.mlp-dim"]]
            axes = { "model.dim" = [8, 16], "model.mlp-dim" = [24, 48], "model.layers" = [1, 2], seed = [0, 1] }
            when = [{ match = { "model.layers" = 2 }, set = { "model.norm" = "none", "train.batch" = 5 } }]
        "#;
        let study =
            plateau_common::study::Study::parse(text, "s.toml", plateau_common::study::Format::Toml, &[]);
        let overview = study.unwrap_or_else(|error| panic!("{error}")).overview().unwrap();
        assert_eq!(overview.cohorts.len(), 4);
        assert_eq!(differing_paths(&overview), ["model.dim", "model.layers"]);
    }

    #[test]
    fn long_axes_are_shortened() {
        let values: Vec<String> = (1..=20).map(|value| value.to_string()).collect();
        assert_eq!(shorten(&values[..8]), "1, 2, 3, 4, 5, 6, 7, 8");
        assert_eq!(shorten(&values), "1, 2, 3, 4, 5, 6, …, 20 (20 values)");
        assert_eq!(shorten(&[]), "");
        assert_eq!(between(3, 3, ToString::to_string), "3");
        assert_eq!(between(3, 4, ToString::to_string), "3 to 4");
    }
}
