//! `plateau trials`: the trials of a sweep, with the values in which they differ.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context as _;
use clap::Args;
use clap::builder::PossibleValuesParser;
use plateau_common::results::Parameter;
use plateau_common::study::Study;
use plateau_common::trial::TrialState;
use plateau_proto::{convert, v1};
use serde_json::{Value, json};

use super::Context;
use crate::client::{DataDirectory, Service, refusal};
use crate::exit::{Exit, Failure, Outcome};
use crate::output::OutputMode;
use crate::results;
use crate::study_file;
use crate::sweeps::SweepArgument;
use crate::table::{Columns, number, text, trial_state};
use crate::values::Filter;
use crate::words;

const EXAMPLES: &str = "\
Examples:
  plateau trials last
  plateau trials last --state failed --state quarantined
  plateau trials last --filter model.dim=32 --filter seed=0
  plateau trials last --output json | jq '.trials[].trial'";

/// Rows of a table that are shown unless told otherwise.
const SHOWN_ROWS: usize = 200;

/// Options of `plateau trials`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    #[command(flatten)]
    sweep: SweepArgument,

    /// Only trials in this state; may be repeated
    #[arg(long, value_name = "STATE", value_delimiter = ',', value_parser = states())]
    state: Vec<String>,

    /// Only trials whose configuration has this value; may be repeated
    #[arg(long, value_name = "PATH=VALUE")]
    filter: Vec<Filter>,

    /// Show at most this many [default: 200 in a table, else all]
    #[arg(long, value_name = "N")]
    limit: Option<usize>,

    #[command(flatten)]
    data: DataDirectory,
}

fn states() -> PossibleValuesParser {
    PossibleValuesParser::new(TrialState::ALL.map(TrialState::name))
}

/// A listed trial, read.
struct Row {
    summary: v1::TrialSummary,
    state: TrialState,
    parameters: BTreeMap<String, Parameter>,
}

/// Lists the trials.
pub async fn run(arguments: &Arguments, context: &Context) -> Outcome {
    let mut connection = context.connect(&arguments.data).await?;
    let rows = fetch(&mut connection.service, arguments).await?;
    let axes = axes(&mut connection.service, &arguments.sweep.sweep).await?;
    connection.close().await?;
    for filter in &arguments.filter {
        let known = rows.iter().any(|row| row.parameters.contains_key(filter.path()));
        if !known && !rows.is_empty() {
            let paths: BTreeSet<&str> =
                rows.iter().flat_map(|row| row.parameters.keys().map(String::as_str)).collect();
            let advice = plateau_common::fields::nearest(filter.path(), paths)
                .map_or(String::new(), |path| format!("; did you mean `{path}`?"));
            return Err(Failure::usage(format!("no trial has a value `{}`{advice}", filter.path())));
        }
    }
    let kept: Vec<&Row> = rows
        .iter()
        .filter(|row| arguments.filter.iter().all(|filter| filter.keeps(&row.parameters)))
        .collect();
    let limit = match (arguments.limit, context.output.mode()) {
        (Some(limit), _) => limit,
        (None, OutputMode::Table) => SHOWN_ROWS,
        (None, OutputMode::Json | OutputMode::Quiet) => usize::MAX,
    };
    let shown = kept.get(..limit).unwrap_or(&kept);
    context.output.answer(
        || {
            let mut table = render(shown, &axes, context);
            if shown.len() < kept.len() {
                table.push_str(&format!(
                    "\n… and {} more (--limit {})",
                    kept.len() - shown.len(),
                    kept.len()
                ));
            }
            if kept.is_empty() { "no such trials".to_owned() } else { table }
        },
        || json!({ "trials": shown.iter().map(|row| to_json(row)).collect::<Vec<Value>>() }),
        || shown.iter().map(|row| row.summary.trial.as_str()).collect::<Vec<_>>().join("\n"),
    )?;
    Ok(Exit::Done)
}

async fn fetch(service: &mut Service, arguments: &Arguments) -> anyhow::Result<Vec<Row>> {
    let what = format!("listing the trials of `{}`", arguments.sweep.sweep);
    let states = arguments.state.iter().filter_map(|name| TrialState::from_name(name));
    let mut request = v1::ListTrialsRequest {
        sweep: arguments.sweep.sweep.clone(),
        states: states.map(|state| convert::trial_state_to_wire(state) as i32).collect(),
        offset: 0,
        limit: 0,
    };
    let mut rows = Vec::new();
    loop {
        let answer = service.list_trials(request.clone()).await;
        let page = answer.map_err(|status| refusal(&what, &status))?.into_inner();
        for summary in page.trials {
            let state = convert::trial_state("state", summary.state).with_context(|| what.clone())?;
            let parameters = results::parameters(&summary.config_json).with_context(|| what.clone())?;
            rows.push(Row { summary, state, parameters });
        }
        // A page that does not advance would be asked for without end.
        if page.next_offset <= request.offset {
            return Ok(rows);
        }
        request.offset = page.next_offset;
    }
}

/// The study's axes with more than one value; none if the study cannot be read here. Values that `[[when]]` sets follow
/// from the axes it matches and tell nothing more.
async fn axes(service: &mut Service, sweep: &str) -> anyhow::Result<Vec<String>> {
    let answer = service.describe_sweep(v1::DescribeSweepRequest { sweep: sweep.to_owned() }).await;
    let answer =
        answer.map_err(|status| refusal(&format!("looking at the sweep `{sweep}`"), &status))?.into_inner();
    let study = study_file::from_wire(answer.study).ok().and_then(|source| Study::from_source(&source).ok());
    let Some(study) = study else { return Ok(Vec::new()) };
    let mut axes: Vec<String> = Vec::new();
    for axis in study.axes().filter(|axis| axis.values.len() > 1) {
        if !axes.contains(&axis.path) {
            axes.push(axis.path.clone());
        }
    }
    Ok(axes)
}

/// The columns of parameters. They are chosen from the whole sweep, so that a filter does not take away the column it
/// filters by: all axes, an axis of whole tables by what differs beneath it. Without axes, what differs among the rows.
fn columns_of(rows: &[&Row], axes: &[String]) -> Vec<String> {
    let varying = varying(rows);
    if axes.is_empty() {
        return varying;
    }
    let mut columns: Vec<String> = Vec::new();
    // Seeds that were added by `plateau extend` are an axis that the study does not have.
    let seed = "seed".to_owned();
    let added = (!axes.contains(&seed) && varying.contains(&seed)).then_some(&seed);
    for axis in axes.iter().chain(added) {
        let beneath = format!("{axis}.");
        let found: Vec<&String> = if rows.iter().any(|row| row.parameters.contains_key(axis)) {
            vec![axis]
        } else {
            varying.iter().filter(|path| path.starts_with(&beneath)).collect()
        };
        for path in found {
            // An axis of whole tables may be refined by another one.
            if !columns.contains(path) {
                columns.push(path.clone());
            }
        }
    }
    columns
}

/// The parameters that are not the same in all rows.
fn varying(rows: &[&Row]) -> Vec<String> {
    let Some(first) = rows.first() else { return Vec::new() };
    let paths: BTreeSet<&String> = rows.iter().flat_map(|row| row.parameters.keys()).collect();
    let differs =
        |path: &&String| rows.iter().any(|row| row.parameters.get(*path) != first.parameters.get(*path));
    paths.into_iter().filter(differs).cloned().collect()
}

fn render(rows: &[&Row], axes: &[String], context: &Context) -> String {
    let mut varying = columns_of(rows, axes);
    // Said in one column of its own.
    varying.retain(|path| path != "fork.trial" && path != "fork.step");
    let short = |path: &String| {
        let last = path.rsplit('.').next().unwrap_or(path);
        let unique = varying.iter().filter(|other| other.rsplit('.').next() == Some(last)).count() == 1;
        if unique { last.to_owned() } else { path.clone() }
    };
    let names: Vec<String> = varying.iter().map(short).collect();
    let forked = rows.iter().any(|row| origin(row).is_some());
    let mut headings = vec!["trial", "state"];
    headings.extend(forked.then_some("forked from"));
    headings.extend(names.iter().map(String::as_str));
    headings.extend(["step", "of", "attempt", "agent", "reason"]);
    let mut columns = Columns::new(&context.output, &headings);
    for row in rows {
        let mut cells = vec![text(words::short(&row.summary.trial)), trial_state(row.state)];
        cells.extend(forked.then(|| text(origin(row).unwrap_or_else(|| "-".to_owned()))));
        cells.extend(varying.iter().map(|path| match row.parameters.get(path) {
            Some(value) => number(words::one_line(&value.to_string())),
            None => text("-"),
        }));
        cells.extend([
            number(row.summary.step),
            number(row.summary.budget),
            number(row.summary.attempt),
            text(words::one_line(&row.summary.agent)),
            text(reason(row)),
        ]);
        columns.push(cells);
    }
    columns.render()
}

/// Whose fork a trial is, as `plateau fork` takes it.
fn origin(row: &Row) -> Option<String> {
    let (trial, step) = (row.parameters.get("fork.trial")?, row.parameters.get("fork.step")?);
    Some(words::one_line(&format!("{}@{step}", words::short(&trial.to_string()))))
}

fn reason(row: &Row) -> String {
    match row.state {
        TrialState::Diverged => format!("at step {}", row.summary.diverged_at),
        _ => words::one_line(&row.summary.reason),
    }
}

fn to_json(row: &Row) -> Value {
    let summary = &row.summary;
    json!({
        "trial": summary.trial,
        "index": summary.index,
        "state": row.state.name(),
        "attempt": summary.attempt,
        "agent": summary.agent,
        "step": summary.step,
        "budget": summary.budget,
        "reason": summary.reason,
        "diverged_at": (row.state == TrialState::Diverged).then_some(summary.diverged_at),
        "train_seconds": summary.train_seconds,
        "config": serde_json::from_str::<Value>(&summary.config_json).unwrap_or(Value::Null),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::{ColorChoice, Output};

    fn row(seed: u64, dim: u64, state: TrialState) -> Row {
        let config_json = format!(r#"{{"seed":{seed},"model":{{"dim":{dim},"mlp-dim":{seed},"layers":1}}}}"#);
        Row {
            parameters: results::parameters(&config_json).unwrap(),
            state,
            summary: v1::TrialSummary {
                trial: format!("{seed:032x}"),
                step: 5,
                budget: 10,
                diverged_at: 3,
                config_json,
                ..Default::default()
            },
        }
    }

    #[test]
    fn forks_say_whose_they_are() {
        let context = Context {
            output: Output::new(OutputMode::Table, ColorChoice::Never),
            coordinator: String::new(),
            credentials: plateau_proto::connection::Credentials::default(),
            coordinator_named: false,
            log_file: None,
        };
        let mut fork = row(0, 8, TrialState::Completed);
        fork.parameters.insert("fork.trial".to_owned(), Parameter::Text("3f2a91bc".repeat(4)));
        fork.parameters.insert("fork.step".to_owned(), Parameter::Number(5000.0));
        let other = row(0, 8, TrialState::Completed);
        let table = render(&[&fork, &other], &["fork.step".to_owned()], &context);
        assert!(table.contains("forked from") && table.contains("3f2a91bc@5000"), "{table}");
        assert!(!render(&[&other], &[], &context).contains("forked from"));
    }

    #[test]
    fn the_table_shows_only_what_differs() {
        let rows = [row(0, 8, TrialState::Completed), row(1, 8, TrialState::Diverged)];
        let context = Context {
            output: Output::new(OutputMode::Table, ColorChoice::Never),
            coordinator: String::new(),
            credentials: plateau_proto::connection::Credentials::default(),
            coordinator_named: false,
            log_file: None,
        };
        let table = render(&rows.iter().collect::<Vec<_>>(), &["seed".to_owned()], &context);
        insta::assert_snapshot!(table);
        let filtered = [&rows[0]];
        assert_eq!(
            columns_of(&filtered, &["seed".to_owned(), "model.dim".to_owned()]),
            ["seed", "model.dim"]
        );
        assert_eq!(
            columns_of(&rows.iter().collect::<Vec<_>>(), &["model".to_owned()]),
            ["model.mlp-dim", "seed"]
        );
        assert!(columns_of(&filtered, &[]).is_empty());
        assert_eq!(to_json(&rows[1])["diverged_at"], 3);
        assert_eq!(to_json(&rows[0])["diverged_at"], Value::Null);
        assert_eq!(to_json(&rows[0])["config"]["model"]["dim"], 8);
    }
}
