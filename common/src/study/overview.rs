//! What a study holds and costs, for `plateau check`.

use std::collections::{BTreeSet, HashMap};

use super::{Study, StudyError};
use crate::config::TrialConfig;
use crate::{cost, identity};

/// Numbers about a whole study.
#[derive(Clone, Debug, PartialEq)]
pub struct Overview {
    /// Trials.
    pub trials: u64,
    /// Cells: trials that differ only in seed.
    pub cells: u64,
    /// Cohorts in order of first appearance.
    pub cohorts: Vec<CohortOverview>,
    /// Fewest and most parameters of a trial.
    pub parameters: (u64, u64),
    /// Fewest and most floating-point operations of a trial (all its steps, without evaluation).
    pub flops_per_trial: (f64, f64),
    /// Floating-point operations of all trials together.
    pub flops: f64,
    /// Dotted path of every axis with more than one value, and its values as text.
    pub varying: Vec<(String, Vec<String>)>,
}

/// Trials that may be trained together as one batched model.
#[derive(Clone, Debug, PartialEq)]
pub struct CohortOverview {
    /// [`identity::cohort_key`].
    pub key: String,
    /// Its number of trials.
    pub trials: u64,
    /// Parameters of one of its trials.
    pub parameters: u64,
    /// Floating-point operations of one update of one trial.
    pub flops_per_update: f64,
    /// Estimate of the bytes one trial of it needs on its device; see [`cost::memory_bytes`].
    pub bytes_per_trial: u64,
    /// Estimate of the bytes its trials need together (at most [`crate::limits::MAX_COHORT`] of them at once).
    pub bytes: u64,
    /// The first trial's configuration, to describe the cohort by.
    pub example: TrialConfig,
}

pub(super) fn overview(study: &Study) -> Result<Overview, StudyError> {
    let mut cells = BTreeSet::new();
    let mut cohorts: Vec<CohortOverview> = Vec::new();
    let mut index_of = HashMap::new();
    let (mut trials, mut flops) = (0u64, 0.0);
    let mut flops_per_trial = (f64::INFINITY, 0.0f64);
    for config in study.trials() {
        let config = config?;
        trials += 1;
        cells.insert(identity::cell_key(&config));
        let key = identity::cohort_key(&config);
        let index = *index_of.entry(key.clone()).or_insert_with(|| {
            cohorts.push(CohortOverview {
                key,
                trials: 0,
                parameters: cost::parameters(&config),
                flops_per_update: cost::flops_per_update(&config),
                bytes_per_trial: cost::memory_bytes(&config, 1),
                bytes: 0,
                example: config.clone(),
            });
            cohorts.len() - 1
        });
        if let Some(cohort) = cohorts.get_mut(index) {
            cohort.trials += 1;
            let of_trial = cohort.flops_per_update * config.train.steps as f64;
            flops += of_trial;
            flops_per_trial = (flops_per_trial.0.min(of_trial), flops_per_trial.1.max(of_trial));
        }
    }
    for cohort in &mut cohorts {
        let together = usize::try_from(cohort.trials).unwrap_or(usize::MAX).min(crate::limits::MAX_COHORT);
        cohort.bytes = cost::memory_bytes(&cohort.example, together);
    }
    let counts = || cohorts.iter().map(|cohort| cohort.parameters);
    Ok(Overview {
        trials,
        cells: cells.len() as u64,
        parameters: (counts().min().unwrap_or(0), counts().max().unwrap_or(0)),
        flops_per_trial,
        flops,
        varying: study
            .axes()
            .filter(|axis| axis.values.len() > 1)
            .map(|axis| {
                (axis.path.clone(), axis.values.iter().map(|value| value.value.to_string()).collect())
            })
            .collect(),
        cohorts,
    })
}
