//! Metrics as they travel and are stored: numbered columnar chunks of evaluations.
//!
//! A chunk holds consecutive evaluations of one trial in columns, one per metric name. Values are raw `f64`: NaN and
//! infinity are legitimate measurements (JSON would lose them, so chunks never pass through JSON).

use std::collections::{BTreeMap, HashSet};

use crate::results::Series;

/// What one evaluation measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// Updates made before it.
    pub step: u64,
    /// Metric name and value; names are unique.
    pub values: Vec<(String, f64)>,
}

/// Consecutive evaluations of one trial in columns.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MetricsChunk {
    /// Steps, strictly increasing.
    pub steps: Vec<u64>,
    /// Metric name -> one value per step; a metric absent at a step is listed in `missing`.
    pub columns: BTreeMap<String, Vec<f64>>,
    /// (index into `steps`, metric name) pairs that were not measured; the column holds NaN there.
    pub missing: Vec<(u32, String)>,
}

impl MetricsChunk {
    /// Columns from evaluations, which must have strictly increasing steps.
    pub fn from_evaluations(evaluations: &[Evaluation]) -> Self {
        let mut chunk = MetricsChunk::default();
        for evaluation in evaluations {
            for (name, _) in &evaluation.values {
                chunk.columns.entry(name.clone()).or_default();
            }
        }
        for (index, evaluation) in evaluations.iter().enumerate() {
            chunk.steps.push(evaluation.step);
            let measured: BTreeMap<&str, f64> =
                evaluation.values.iter().map(|(name, value)| (name.as_str(), *value)).collect();
            for (name, column) in &mut chunk.columns {
                match measured.get(name.as_str()) {
                    Some(value) => column.push(*value),
                    None => {
                        column.push(f64::NAN);
                        chunk.missing.push((index as u32, name.clone()));
                    }
                }
            }
        }
        chunk
    }

    /// The evaluations again, in order; the inverse of [`MetricsChunk::from_evaluations`].
    pub fn into_evaluations(self) -> Vec<Evaluation> {
        let absent = self.absent();
        let measured = |index: usize, name: &str| !absent.contains(&(name, index));
        let evaluation = |(index, step): (usize, &u64)| {
            let columns = self.columns.iter().filter(|(name, _)| measured(index, name));
            let values = columns.filter_map(|(name, column)| Some((name.clone(), *column.get(index)?)));
            Evaluation { step: *step, values: values.collect() }
        };
        self.steps.iter().enumerate().map(evaluation).collect()
    }

    /// What was not measured, to be asked about each value: (metric name, index into `steps`).
    fn absent(&self) -> HashSet<(&str, usize)> {
        self.missing.iter().map(|(index, name)| (name.as_str(), *index as usize)).collect()
    }

    /// Checks what the type cannot say; the error names the offence.
    pub fn validate(&self) -> Result<(), String> {
        if self.steps.windows(2).any(|pair| pair[0] >= pair[1]) {
            return Err("steps are not strictly increasing".to_owned());
        }
        if let Some((name, _)) = self.columns.iter().find(|(_, column)| column.len() != self.steps.len()) {
            return Err(format!("column `{name}` has not one value per step"));
        }
        let known = |(index, name): &(u32, String)| {
            (*index as usize) < self.steps.len() && self.columns.contains_key(name)
        };
        if !self.missing.iter().all(known) {
            return Err("a missing value lies outside the chunk".to_owned());
        }
        Ok(())
    }
}

/// Curves from chunks in the order they were recorded. Where a resumed attempt measured a step again, the later chunk
/// counts (on one CPU type both are equal bit for bit).
pub fn curves<'a>(chunks: impl IntoIterator<Item = &'a MetricsChunk>) -> BTreeMap<String, Series> {
    let mut points: BTreeMap<String, BTreeMap<u64, f64>> = BTreeMap::new();
    for chunk in chunks {
        let absent = chunk.absent();
        for (name, column) in &chunk.columns {
            let curve = points.entry(name.clone()).or_default();
            for (index, (step, value)) in chunk.steps.iter().zip(column).enumerate() {
                if !absent.contains(&(name.as_str(), index)) {
                    curve.insert(*step, *value);
                }
            }
        }
    }
    points
        .into_iter()
        .map(|(name, curve)| {
            let (steps, values) = curve.into_iter().unzip();
            (name, Series { steps, values })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evaluation(step: u64, values: &[(&str, f64)]) -> Evaluation {
        Evaluation { step, values: values.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect() }
    }

    #[test]
    fn a_metric_missing_at_a_step_is_absent_from_its_curve_and_nan_is_kept() {
        let chunk = MetricsChunk::from_evaluations(&[
            evaluation(0, &[("loss", f64::NAN), ("norm", 3.0)]),
            evaluation(5, &[("loss", 1.5)]),
        ]);
        assert_eq!(chunk.validate(), Ok(()));
        let again = chunk.clone().into_evaluations();
        assert_eq!((again[0].values.len(), &again[1]), (2, &evaluation(5, &[("loss", 1.5)])));
        let curves = curves([&chunk]);
        assert_eq!(curves["norm"], Series { steps: vec![0], values: vec![3.0] });
        assert_eq!(curves["loss"].steps, [0, 5]);
        assert!(curves["loss"].values[0].is_nan());
    }

    #[test]
    fn a_resumed_attempt_replaces_the_steps_it_repeats() {
        let first = MetricsChunk::from_evaluations(&[
            evaluation(1, &[("loss", 3.0)]),
            evaluation(2, &[("loss", 2.0)]),
        ]);
        let again = MetricsChunk::from_evaluations(&[
            evaluation(2, &[("loss", 2.5)]),
            evaluation(3, &[("loss", 1.0)]),
        ]);
        let curve = &curves([&first, &again])["loss"];
        assert_eq!((curve.steps.as_slice(), curve.values.as_slice()), (&[1, 2, 3][..], &[3.0, 2.5, 1.0][..]));
    }

    #[test]
    fn malformed_chunks_are_named() {
        let mut chunk = MetricsChunk::from_evaluations(&[evaluation(1, &[("loss", 3.0)])]);
        chunk.steps.push(1);
        assert!(chunk.validate().is_err());
        chunk.steps.pop();
        chunk.missing.push((7, "loss".to_owned()));
        assert!(chunk.validate().is_err());
    }
}
