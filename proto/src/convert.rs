//! Conversions between wire and domain types.

use std::collections::BTreeMap;

use plateau_common::config::TrialConfig;
use plateau_common::failure::FailureClass;
use plateau_common::identity::TrialId;
use plateau_common::limits;
use plateau_common::metrics::MetricsChunk;
use plateau_common::throughput::ThroughputCurve;
use plateau_common::trial::{Ending, TrialState};

use crate::v1;

/// A message that does not say what it must.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("field `{field}` of the message: {problem}")]
pub struct WireError {
    /// The field's name in the .proto file.
    pub field: &'static str,
    /// What is wrong with it.
    pub problem: String,
}

impl WireError {
    /// An error about `field`.
    pub fn new(field: &'static str, problem: impl Into<String>) -> Self {
        WireError { field, problem: problem.into() }
    }
}

impl From<WireError> for tonic::Status {
    fn from(error: WireError) -> Self {
        tonic::Status::invalid_argument(error.to_string())
    }
}

/// The value of a field that must be present.
pub fn required<T>(field: &'static str, value: Option<T>) -> Result<T, WireError> {
    value.ok_or_else(|| WireError::new(field, "is missing"))
}

/// A trial id.
pub fn trial_id(field: &'static str, text: &str) -> Result<TrialId, WireError> {
    TrialId::parse(text).ok_or_else(|| {
        let shown: String = text.chars().take(64).collect();
        WireError::new(field, format!("`{}` is not a trial id (32 hexadecimal digits)", shown.escape_debug()))
    })
}

/// A resolved configuration from its canonical JSON.
pub fn trial_config(field: &'static str, json: &str) -> Result<TrialConfig, WireError> {
    let json =
        serde_json::from_str(json).map_err(|error| WireError::new(field, format!("not JSON: {error}")))?;
    TrialConfig::from_json(&json).map_err(|error| WireError::new(field, error.to_string()))
}

/// A trial's state; unspecified and unknown numbers are errors.
pub fn trial_state(field: &'static str, number: i32) -> Result<TrialState, WireError> {
    match v1::TrialState::try_from(number) {
        Ok(v1::TrialState::Pending) => Ok(TrialState::Pending),
        Ok(v1::TrialState::Leased) => Ok(TrialState::Leased),
        Ok(v1::TrialState::Running) => Ok(TrialState::Running),
        Ok(v1::TrialState::Completed) => Ok(TrialState::Completed),
        Ok(v1::TrialState::Diverged) => Ok(TrialState::Diverged),
        Ok(v1::TrialState::Failed) => Ok(TrialState::Failed),
        Ok(v1::TrialState::Cancelled) => Ok(TrialState::Cancelled),
        Ok(v1::TrialState::Quarantined) => Ok(TrialState::Quarantined),
        Ok(v1::TrialState::Unspecified) | Err(_) => {
            Err(WireError::new(field, format!("{number} is not a state of a trial")))
        }
    }
}

/// The wire form of a trial's state.
pub fn trial_state_to_wire(state: TrialState) -> v1::TrialState {
    match state {
        TrialState::Pending => v1::TrialState::Pending,
        TrialState::Leased => v1::TrialState::Leased,
        TrialState::Running => v1::TrialState::Running,
        TrialState::Completed => v1::TrialState::Completed,
        TrialState::Diverged => v1::TrialState::Diverged,
        TrialState::Failed => v1::TrialState::Failed,
        TrialState::Cancelled => v1::TrialState::Cancelled,
        TrialState::Quarantined => v1::TrialState::Quarantined,
    }
}

/// How training broke. Classes that only the coordinator finds, and those that have a report of their own, have no number.
pub fn failure_class(field: &'static str, number: i32) -> Result<FailureClass, WireError> {
    let known = v1::FailureClass::try_from(number);
    let found = FailureClass::ALL.into_iter().find(|class| {
        known.is_ok_and(|known| {
            known != v1::FailureClass::Unspecified && failure_class_to_wire(*class) == known
        })
    });
    found.ok_or_else(|| WireError::new(field, format!("{number} is not a class of failures")))
}

/// The wire form of a class of failures.
pub fn failure_class_to_wire(class: FailureClass) -> v1::FailureClass {
    match class {
        FailureClass::Reported => v1::FailureClass::Reported,
        FailureClass::Exited => v1::FailureClass::Exited,
        FailureClass::EndedEarly => v1::FailureClass::EndedEarly,
        FailureClass::Signalled => v1::FailureClass::Signalled,
        FailureClass::ContextLost => v1::FailureClass::ContextLost,
        FailureClass::Contained => v1::FailureClass::Contained,
        FailureClass::DeviceMemoryFault => v1::FailureClass::DeviceMemoryFault,
        FailureClass::DeviceLost => v1::FailureClass::DeviceLost,
        FailureClass::Unresponsive => v1::FailureClass::Unresponsive,
        FailureClass::Unkillable => v1::FailureClass::Unkillable,
        FailureClass::Environment => v1::FailureClass::Environment,
        FailureClass::HostMemory
        | FailureClass::DeviceMemory
        | FailureClass::Stalled
        | FailureClass::Lost => v1::FailureClass::Unspecified,
    }
}

/// How an attempt ended.
pub fn ending(field: &'static str, ending: Option<v1::Ending>) -> Result<Ending, WireError> {
    match required(field, ending.and_then(|ending| ending.kind))? {
        v1::ending::Kind::Completed(_) => Ok(Ending::Completed),
        v1::ending::Kind::Diverged(diverged) => Ok(Ending::Diverged { step: diverged.step }),
        v1::ending::Kind::Failed(failed) => Ok(Ending::Failed { reason: failed.reason }),
    }
}

/// The wire form of an ending.
pub fn ending_to_wire(ending: &Ending) -> v1::Ending {
    let kind = match ending {
        Ending::Completed => v1::ending::Kind::Completed(v1::ending::Completed {}),
        Ending::Diverged { step } => v1::ending::Kind::Diverged(v1::ending::Diverged { step: *step }),
        Ending::Failed { reason } => v1::ending::Kind::Failed(v1::ending::Failed { reason: reason.clone() }),
    };
    v1::Ending { kind: Some(kind) }
}

/// The key of a cohort: 32 hexadecimal digits.
pub fn cohort_key(field: &'static str, text: &str) -> Result<u128, WireError> {
    // A trial's id is written the same way.
    let id = TrialId::parse(text).ok_or_else(|| {
        let shown: String = text.chars().take(64).collect();
        WireError::new(
            field,
            format!("`{}` is not a cohort's key (32 hexadecimal digits)", shown.escape_debug()),
        )
    })?;
    u128::from_str_radix(&id.to_string(), 16).map_err(|error| WireError::new(field, error.to_string()))
}

/// The wire form of a cohort's key.
pub fn cohort_key_to_wire(key: u128) -> String {
    format!("{key:032x}")
}

/// Points of a throughput curve, validated.
pub fn throughput(
    field: &'static str,
    points: Vec<v1::ThroughputPoint>,
) -> Result<ThroughputCurve, WireError> {
    if points.len() > limits::MAX_COHORT {
        return Err(WireError::new(
            field,
            format!("{} points are more than {}", points.len(), limits::MAX_COHORT),
        ));
    }
    let points = points.into_iter().map(|point| (point.cohort_size, point.replica_steps_per_second));
    ThroughputCurve::new(points).map_err(|problem| WireError::new(field, problem))
}

/// The wire form of a throughput curve.
pub fn throughput_to_wire(curve: &ThroughputCurve) -> Vec<v1::ThroughputPoint> {
    let point = |(cohort_size, replica_steps_per_second)| v1::ThroughputPoint {
        cohort_size,
        replica_steps_per_second,
    };
    curve.points().map(point).collect()
}

/// A metrics chunk, validated.
pub fn metrics_chunk(field: &'static str, chunk: v1::MetricsChunk) -> Result<MetricsChunk, WireError> {
    let error = |problem: String| WireError::new(field, problem);
    if chunk.steps.len() > limits::MAX_CHUNK_EVALUATIONS || chunk.columns.len() > limits::MAX_METRICS {
        return Err(error(format!(
            "{} evaluations of {} metrics are too many (at most {} of {})",
            chunk.steps.len(),
            chunk.columns.len(),
            limits::MAX_CHUNK_EVALUATIONS,
            limits::MAX_METRICS
        )));
    }
    let mut columns = BTreeMap::new();
    let mut missing = Vec::new();
    for column in chunk.columns {
        if column.name.is_empty() || column.name.len() > limits::MAX_NAME_BYTES {
            return Err(error("a metric has no name or too long a name".to_owned()));
        }
        // Before anything is made of them: a message has room for millions.
        if column.values.len() != chunk.steps.len() {
            return Err(error(format!("metric `{}` has not one value per step", column.name)));
        }
        if column.missing.windows(2).any(|pair| pair[0] >= pair[1])
            || column.missing.last().is_some_and(|index| *index as usize >= chunk.steps.len())
        {
            return Err(error(format!(
                "what is missing of metric `{}` is no increasing list of places in the chunk",
                column.name
            )));
        }
        missing.extend(column.missing.into_iter().map(|index| (index, column.name.clone())));
        if columns.insert(column.name.clone(), column.values).is_some() {
            return Err(error(format!("metric `{}` appears twice", column.name)));
        }
    }
    let chunk = MetricsChunk { steps: chunk.steps, columns, missing };
    chunk.validate().map_err(error)?;
    Ok(chunk)
}

/// The wire form of a metrics chunk.
pub fn metrics_chunk_to_wire(chunk: &MetricsChunk) -> v1::MetricsChunk {
    let mut missing: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
    for (index, metric) in &chunk.missing {
        missing.entry(metric).or_default().push(*index);
    }
    let columns = chunk.columns.iter().map(|(name, values)| v1::MetricColumn {
        name: name.clone(),
        values: values.clone(),
        missing: missing.remove(name.as_str()).unwrap_or_default(),
    });
    v1::MetricsChunk { steps: chunk.steps.clone(), columns: columns.collect() }
}

#[cfg(test)]
mod tests {
    use plateau_common::metrics::Evaluation;

    use super::*;

    #[test]
    fn every_state_survives_the_wire_and_unknown_numbers_are_refused() {
        for state in TrialState::ALL {
            assert_eq!(trial_state("state", trial_state_to_wire(state) as i32), Ok(state));
        }
        assert!(trial_state("state", 0).is_err());
        assert!(trial_state("state", 99).is_err());
    }

    #[test]
    fn classes_of_failures_survive_the_wire_and_others_are_refused() {
        for number in 1..=11 {
            let class = failure_class("class", number).unwrap();
            assert_eq!(failure_class_to_wire(class) as i32, number);
        }
        for number in [-1, 0, 12, i32::MAX] {
            assert!(failure_class("class", number).is_err(), "{number}");
        }
    }

    #[test]
    fn chunks_survive_the_wire_with_nan_and_missing_values() {
        let evaluation = |step, values: &[(&str, f64)]| Evaluation {
            step,
            values: values.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect(),
        };
        let chunk = MetricsChunk::from_evaluations(&[
            evaluation(0, &[("loss", f64::INFINITY), ("norm", 1.0)]),
            evaluation(9, &[("loss", 2.0)]),
        ]);
        let again = metrics_chunk("metrics", metrics_chunk_to_wire(&chunk)).unwrap();
        assert_eq!((again.steps, again.missing), (chunk.steps, chunk.missing));
        assert_eq!(again.columns["loss"], chunk.columns["loss"]);
        assert!(again.columns["norm"][1].is_nan());
    }

    #[test]
    fn case_57_more_missing_places_than_there_are_steps_are_refused() {
        let column =
            |missing: Vec<u32>| v1::MetricColumn { name: "loss".to_owned(), values: vec![1.0; 3], missing };
        let chunk = |missing| v1::MetricsChunk { steps: vec![1, 2, 3], columns: vec![column(missing)] };
        for missing in [vec![], vec![0], vec![0, 2], vec![0, 1, 2]] {
            let taken = metrics_chunk("metrics", chunk(missing.clone())).unwrap();
            assert_eq!(metrics_chunk_to_wire(&taken), chunk(missing));
        }
        for missing in [vec![3], vec![1, 1], vec![2, 1], vec![0; 4_000_000]] {
            let error = metrics_chunk("metrics", chunk(missing)).unwrap_err();
            assert!(error.problem.contains("missing"), "{error}");
        }
        let short = v1::MetricsChunk { steps: vec![1, 2], columns: vec![column(vec![0])] };
        assert!(metrics_chunk("metrics", short).unwrap_err().problem.contains("one value per step"));
    }

    #[test]
    fn a_bad_chunk_names_its_field() {
        let chunk = v1::MetricsChunk { steps: vec![3, 3], columns: Vec::new() };
        assert_eq!(metrics_chunk("metrics", chunk).unwrap_err().field, "metrics");
        assert_eq!(ending("ending", Some(v1::Ending { kind: None })).unwrap_err().field, "ending");
        assert!(trial_id("trial", "../../etc/passwd").unwrap_err().to_string().contains("not a trial id"));
    }

    #[test]
    fn curves_and_keys_survive_the_wire_and_nonsense_is_refused() {
        let curve = ThroughputCurve::new([(1, 2.5), (8, 20.0)]).unwrap();
        assert_eq!(throughput("points", throughput_to_wire(&curve)).unwrap(), curve);
        let never = v1::ThroughputPoint { cohort_size: 0, replica_steps_per_second: 1.0 };
        assert_eq!(throughput("points", vec![never]).unwrap_err().field, "points");
        let key = 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef;
        assert_eq!(cohort_key("cohort", &cohort_key_to_wire(key)), Ok(key));
        assert!(cohort_key("cohort", "0123").is_err());
    }
}
