//! From the coordinator's answers to the records that analysis and exports work on.

use std::collections::BTreeMap;

use anyhow::Context as _;
use plateau_common::config::{OMITTED_DEFAULTS, OmittedDefault};
use plateau_common::metrics::{MetricsChunk, curves};
use plateau_common::results::{Parameter, TrialRecord};
use plateau_common::trial::TrialState;
use plateau_proto::{WireError, convert, v1};
use serde_json::Value;

use crate::client::{Service, refusal};
use crate::progress;

/// The values of a configuration by dotted path: `{"model": {"dim": 32}}` gives `model.dim` -> 32. Lists of plain values
/// become words joined by `,`; absent (null) values are left out. Settings that the canonical form leaves out at their defaults
/// are filled in, so that axes over them have a value everywhere.
pub fn flatten(config: &Value) -> BTreeMap<String, Parameter> {
    let mut parameters = BTreeMap::new();
    flatten_into(&mut parameters, "", config);
    for (path, default) in OMITTED_DEFAULTS {
        let section = path.split('.').next().unwrap_or_default();
        if config.get(section).is_some_and(Value::is_object) {
            parameters.entry(path.to_owned()).or_insert_with(|| match default {
                OmittedDefault::Count(count) => Parameter::Number(count as f64),
                OmittedDefault::Switch(switch) => Parameter::Bool(switch),
                OmittedDefault::Word(word) => Parameter::Text(word.to_owned()),
            });
        }
    }
    parameters
}

fn flatten_into(parameters: &mut BTreeMap<String, Parameter>, path: &str, value: &Value) {
    let parameter = match value {
        Value::Object(table) => {
            for (key, inner) in table {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                flatten_into(parameters, &path, inner);
            }
            return;
        }
        Value::Null => return,
        Value::Bool(value) => Parameter::Bool(*value),
        Value::Number(number) => Parameter::Number(number.as_f64().unwrap_or(f64::NAN)),
        Value::String(text) => Parameter::Text(text.clone()),
        Value::Array(items) => {
            let words =
                items.iter().map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned));
            Parameter::Text(words.collect::<Vec<_>>().join(","))
        }
    };
    parameters.insert(path.to_owned(), parameter);
}

/// The configuration of a listed trial, flattened.
pub fn parameters(config_json: &str) -> Result<BTreeMap<String, Parameter>, WireError> {
    let config: Value = serde_json::from_str(config_json)
        .map_err(|error| WireError::new("config_json", format!("not JSON: {error}")))?;
    Ok(flatten(&config))
}

/// Puts the messages of a result stream together, one record per trial.
#[derive(Default)]
pub struct Collector {
    records: Vec<TrialRecord>,
    /// The trial whose metrics are still coming.
    open: Option<(v1::TrialSummary, Vec<MetricsChunk>)>,
}

impl Collector {
    /// Takes the next message of the stream.
    pub fn push(&mut self, message: v1::TrialResult) -> Result<(), WireError> {
        let summary = convert::required("trial", message.trial)?;
        let (summary, mut chunks) = match self.open.take() {
            Some((first, chunks)) if first.trial == summary.trial => (first, chunks),
            Some((first, _)) => {
                let problem =
                    format!("trial {} was announced to continue, but {} came", first.trial, summary.trial);
                return Err(WireError::new("more", problem));
            }
            None => (summary, Vec::new()),
        };
        for chunk in message.metrics {
            chunks.push(convert::metrics_chunk("metrics", chunk)?);
        }
        if message.more {
            self.open = Some((summary, chunks));
        } else {
            self.records.push(record(&summary, &chunks)?);
        }
        Ok(())
    }

    /// The records in the order of the stream, once it has ended.
    pub fn finish(self) -> Result<Vec<TrialRecord>, WireError> {
        match self.open {
            None => Ok(self.records),
            Some((summary, _)) => {
                Err(WireError::new("more", format!("the stream ended within trial {}", summary.trial)))
            }
        }
    }
}

/// One trial as the analysis sees it.
fn record(summary: &v1::TrialSummary, chunks: &[MetricsChunk]) -> Result<TrialRecord, WireError> {
    let id = convert::trial_id("trial", &summary.trial)?;
    let state = convert::trial_state("state", summary.state)?;
    // Read as a table, not as a `TrialConfig`: results of newer versions with further keys can still be looked at.
    let config: Value = serde_json::from_str(&summary.config_json)
        .map_err(|error| WireError::new("config_json", format!("not JSON: {error}")))?;
    let seed = config
        .get("seed")
        .and_then(Value::as_u64)
        .ok_or_else(|| WireError::new("config_json", "holds no seed"))?;
    Ok(TrialRecord {
        id: id.to_string(),
        parameters: flatten(&config),
        seed,
        state,
        last_step: summary.step,
        budget: summary.budget,
        diverged_at: (state == TrialState::Diverged).then_some(summary.diverged_at),
        train_seconds: summary.train_seconds,
        series: curves(chunks),
    })
}

/// All results of a sweep, in expansion order; an error where the stream ends before all of its trials came.
pub async fn fetch(service: &mut Service, sweep: &str) -> anyhow::Result<Vec<TrialRecord>> {
    let what = format!("fetching the results of `{sweep}`");
    let refused = |status: tonic::Status| refusal(&what, &status);
    let described = service.describe_sweep(v1::DescribeSweepRequest { sweep: sweep.to_owned() }).await;
    let described = described.map_err(refused)?.into_inner();
    let counts = described.summary.and_then(|summary| summary.counts).unwrap_or_default();
    let request = v1::GetResultsRequest { sweep: sweep.to_owned() };
    let mut stream = service.get_results(request).await.map_err(refused)?.into_inner();
    let mut collector = Collector::default();
    while let Some(message) = stream.message().await.map_err(refused)? {
        collector.push(message).with_context(|| what.clone())?;
    }
    let records = collector.finish().with_context(|| what.clone())?;
    check_complete(records.len(), &counts).with_context(|| what.clone())?;
    Ok(records)
}

/// Refuses fewer records than the sweep has trials. More are no fault: it may have been extended meanwhile.
fn check_complete(records: usize, counts: &v1::TrialCounts) -> anyhow::Result<()> {
    let trials = progress::total(counts);
    anyhow::ensure!(
        records as u64 >= trials,
        "the stream ended after {records} of {trials} trials; nothing is written from a part, try again"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use plateau_common::metrics::Evaluation;

    use super::*;

    fn message(trial: &str, state: TrialState, losses: &[(u64, f64)], more: bool) -> v1::TrialResult {
        let evaluations: Vec<Evaluation> = losses
            .iter()
            .map(|(step, loss)| Evaluation { step: *step, values: vec![("train_loss".to_owned(), *loss)] })
            .collect();
        v1::TrialResult {
            trial: Some(v1::TrialSummary {
                trial: trial.repeat(32),
                state: convert::trial_state_to_wire(state) as i32,
                step: 7,
                budget: 9,
                diverged_at: 3,
                train_seconds: 1.5,
                config_json:
                    r#"{"seed":4,"model":{"dim":32,"tied":true},"train":{"clip":null,"batch":"full"},
                    "evaluate":{"probes":["weight-norm","fourier"]}}"#
                        .to_owned(),
                ..Default::default()
            }),
            metrics: vec![convert::metrics_chunk_to_wire(&MetricsChunk::from_evaluations(&evaluations))],
            more,
        }
    }

    #[test]
    fn a_configuration_becomes_dotted_parameters() {
        let mut collector = Collector::default();
        collector.push(message("a", TrialState::Completed, &[(0, 2.0)], false)).unwrap();
        let records = collector.finish().unwrap();
        let shown: Vec<String> =
            records[0].parameters.iter().map(|(path, value)| format!("{path}={value}")).collect();
        assert_eq!(
            shown,
            [
                "evaluate.probes=weight-norm,fourier",
                "model.dim=32",
                "model.embedding-norm=false",
                "model.injection=none",
                "model.mlp-dropout=false",
                "model.read-out=linear",
                "model.recurrences=1",
                "model.scaled-embedding=false",
                "model.tied=true",
                "seed=4",
                "train.batch=full"
            ]
        );
        assert_eq!((records[0].seed, records[0].last_step, records[0].budget), (4, 7, 9));
        assert_eq!(records[0].diverged_at, None, "only diverged trials have a step of divergence");
    }

    #[test]
    fn a_trial_in_several_messages_becomes_one_record() {
        let mut collector = Collector::default();
        collector.push(message("a", TrialState::Diverged, &[(0, 2.0), (1, 1.0)], true)).unwrap();
        collector.push(message("a", TrialState::Diverged, &[(2, f64::NAN)], false)).unwrap();
        collector.push(message("b", TrialState::Pending, &[], false)).unwrap();
        let records = collector.finish().unwrap();
        assert_eq!(records.len(), 2);
        assert_eq!(records[0].diverged_at, Some(3));
        let curve = &records[0].series["train_loss"];
        assert_eq!(curve.steps, [0, 1, 2]);
        assert!(curve.values[2].is_nan(), "NaN is a measurement");
        assert!(records[1].series.is_empty());
    }

    #[test]
    fn fewer_records_than_trials_are_an_error() {
        let counts = v1::TrialCounts { completed: 2, diverged: 1, pending: 1, ..Default::default() };
        assert!(check_complete(4, &counts).is_ok());
        assert!(check_complete(5, &counts).is_ok(), "a sweep may grow meanwhile");
        let text = check_complete(3, &counts).unwrap_err().to_string();
        assert!(text.contains("after 3 of 4 trials"), "{text}");
    }

    #[test]
    fn a_broken_stream_is_an_error() {
        let mut collector = Collector::default();
        collector.push(message("a", TrialState::Running, &[(0, 2.0)], true)).unwrap();
        assert!(collector.push(message("b", TrialState::Running, &[], false)).is_err());
        let mut collector = Collector::default();
        collector.push(message("a", TrialState::Running, &[(0, 2.0)], true)).unwrap();
        assert_eq!(collector.finish().unwrap_err().field, "more");
        let mut wrong = message("a", TrialState::Running, &[], false);
        wrong.trial.as_mut().unwrap().config_json = "{}".to_owned();
        assert!(Collector::default().push(wrong).unwrap_err().problem.contains("no seed"));
    }
}
