//! The lazily expanded trials of a study.

use std::collections::HashMap;

use super::plan::{Assignment, Combinations, describe};
use super::{Study, StudyError};
use crate::config::TrialConfig;
use crate::fields::ConfigError;
use crate::identity::TrialId;

/// The trials of a study, in order; see [`Study::trials`].
pub struct Trials<'a> {
    study: &'a Study,
    combinations: Combinations<'a>,
    /// Id of every trial so far, with its number.
    seen: HashMap<TrialId, u64>,
    number: u64,
}

impl<'a> Trials<'a> {
    pub(super) fn new(study: &'a Study) -> Self {
        Trials { study, combinations: study.plan.combinations(), seen: HashMap::new(), number: 0 }
    }

    /// The values given to one combination, in words, by its number among the trials.
    fn describe_number(&self, number: u64) -> String {
        let mut combinations = self.study.plan.combinations();
        for _ in 0..number {
            combinations.next();
        }
        combinations.next().map(describe).unwrap_or_default()
    }
}

impl Iterator for Trials<'_> {
    type Item = Result<TrialConfig, StudyError>;

    fn next(&mut self) -> Option<Self::Item> {
        let assigned = self.combinations.next()?;
        let number = self.number;
        self.number += 1;
        let config = match resolve(self.study, assigned) {
            Ok(config) => config,
            Err(error) => return Some(Err(error)),
        };
        let Some(earlier) = self.seen.insert(TrialId::of(&config), number) else { return Some(Ok(config)) };
        let here = describe(assigned);
        let location = assigned.iter().find_map(|assignment| assignment.node.location);
        let problem = format!("this combination is a duplicate trial: {here}");
        let error = ConfigError::new("axes", location, problem).suggest(
            "drop one of the two; the number of steps (unless the schedule depends on it) and the checkpoint settings do \
             not make trials different",
        );
        let note = format!("the same trial as: {}", self.describe_number(earlier));
        Some(Err(self.study.error(error).note(note)))
    }
}

/// The trial of one combination.
fn resolve(study: &Study, assigned: &[Assignment<'_>]) -> Result<TrialConfig, StudyError> {
    let outcome = study.plan.configuration(assigned).and_then(|root| TrialConfig::read(&root));
    outcome.map_err(|mut error| {
        // A required value may be missing in a table that only an axis made: then the axis is the place to show.
        if error.location.is_none() {
            error.location = assigned.iter().rev().find_map(|assignment| assignment.node.location);
        }
        let placed = study.error(error);
        if assigned.is_empty() {
            placed
        } else {
            placed.note(format!("in the trial with {}", describe(assigned)))
        }
    })
}
