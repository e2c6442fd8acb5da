//! Which states around a trial's transition are kept for good.

use serde::Serialize;

use crate::fields::{ConfigResult, Fields};
use crate::limits;
use crate::node::{Node, Value};

/// A metric in which transitions show. The first four every evaluation has; the others are those of tasks with a generalisation set, and
/// never reach their level elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TransitionMetric {
    /// Falls to the level.
    TrainLoss,
    /// Rises to the level.
    TrainAccuracy,
    /// Falls to the level.
    TestLoss,
    /// Rises to the level.
    TestAccuracy,
    /// Rises to the level.
    InDomainAccuracy,
    /// Rises to the level.
    GeneralisationAccuracy,
}

impl TransitionMetric {
    /// Every one by the name that evaluations use.
    pub const ALL: [(&'static str, TransitionMetric); 6] = [
        ("train_loss", TransitionMetric::TrainLoss),
        ("train_accuracy", TransitionMetric::TrainAccuracy),
        ("test_loss", TransitionMetric::TestLoss),
        ("test_accuracy", TransitionMetric::TestAccuracy),
        ("in_domain_accuracy", TransitionMetric::InDomainAccuracy),
        ("generalisation_accuracy", TransitionMetric::GeneralisationAccuracy),
    ];

    /// The name that evaluations use.
    pub fn name(self) -> &'static str {
        TransitionMetric::ALL.iter().find(|(_, metric)| *metric == self).map_or("", |(name, _)| name)
    }

    fn rises(self) -> bool {
        !matches!(self, TransitionMetric::TrainLoss | TransitionMetric::TestLoss)
    }
}

/// How far from the transition states are kept.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Window {
    /// So many steps before and after.
    Steps(u64),
    /// This share of the transition's step before and after.
    Share(f64),
}

/// `checkpoint.keep-around`: states near the first evaluation at which a metric reaches a level are kept for good. Until
/// then it is not known which those are, so all that may turn out to be near are kept for the time being.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KeepAround {
    /// Which metric. Default `test_accuracy`.
    pub metric: TransitionMetric,
    /// Accuracies rise to it, losses fall to it. Default 0.99 for accuracies, as the grokking analysis has it; required for losses.
    pub level: f64,
    /// How near. Required.
    pub within: Window,
    /// Bytes that the states kept near the transition, or because they may be near it, take at most; the nearest stay densest.
    /// Default: no bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<u64>,
}

impl KeepAround {
    /// Reads `[checkpoint.keep-around]` of a trial of `steps` steps that is saved every `every` steps.
    pub(super) fn read(mut fields: Fields<'_>, every: Option<u64>, steps: u64) -> ConfigResult<Self> {
        let policy = Self::read_values(&mut fields)?;
        let within = policy.within;
        let Some(every) = every else {
            return Err(fields
                .error("within", "no states on the way are saved, so there would be none to keep")
                .suggest("set `checkpoint.every`"));
        };
        let reach = match within {
            Window::Steps(steps) => steps as f64,
            Window::Share(share) => share * steps as f64,
        };
        if reach < every as f64 {
            let problem = format!("states are saved every {every} steps, so there may be none so near");
            return Err(fields
                .error("within", problem)
                .suggest("set a smaller `checkpoint.every`, or a wider `within`"));
        }
        let most = 2.0 * reach / every as f64 + 1.0;
        // Within a budget of bytes they are thinned out to as many.
        if policy.budget.is_none() && most > f64::from(limits::MAX_KEPT_AROUND_TRANSITION) {
            let problem = format!(
                "up to {most:.0} states would be kept of each trial, more than {} (MAX_KEPT_AROUND_TRANSITION)",
                limits::MAX_KEPT_AROUND_TRANSITION
            );
            return Err(fields
                .error("within", problem)
                .suggest("set a larger `checkpoint.every`, or a `budget`"));
        }
        fields.finish()?;
        Ok(policy)
    }

    fn read_values(fields: &mut Fields<'_>) -> ConfigResult<Self> {
        let metric =
            fields.choice("metric", &TransitionMetric::ALL)?.unwrap_or(TransitionMetric::TestAccuracy);
        let level = fields.number("level", 0.0..=1e12)?;
        let level = match metric.rises() {
            true => level.unwrap_or(0.99),
            false => fields.require("level", level)?,
        };
        let share = matches!(fields.node("within").map(|node| &node.value), Some(Value::Float(_)));
        let within = match share {
            true => fields.number("within", 1e-6..=0.999_999)?.map(Window::Share),
            false => fields.integer("within", 1..=limits::MAX_STEPS)?.map(Window::Steps),
        };
        let within = fields.require("within", within)?;
        let budget = read_budget(fields)?;
        Ok(KeepAround { metric, level, within, budget })
    }

    /// Reads the stored form, which was valid when it was submitted.
    pub fn from_json(json: &serde_json::Value) -> ConfigResult<Self> {
        let node = Node::from_json(json);
        // Saved often enough and not too often, as was seen when it was accepted.
        Self::read_values(&mut Fields::new("checkpoint.keep-around", &node)?)
    }

    /// Whether an evaluation with this value of the metric is at or beyond the level.
    pub fn is_reached(&self, value: f64) -> bool {
        // NaN has reached nothing.
        if self.metric.rises() { value >= self.level } else { value <= self.level }
    }

    /// Whether the state after `step` updates is near a transition at `transition`.
    pub fn is_near(&self, transition: u64, step: u64) -> bool {
        let distance = transition.abs_diff(step);
        match self.within {
            Window::Steps(steps) => distance <= steps,
            Window::Share(share) => distance as f64 <= share * transition as f64,
        }
    }

    /// Whether the state after `step` updates may turn out to be near a transition that has not come by step `reached`.
    pub fn may_be_near(&self, reached: u64, step: u64) -> bool {
        // The nearer the transition, the nearer its window begins.
        step >= reached || self.is_near(reached, step)
    }
}

/// Reads `budget`: bytes, as a number or with a unit.
fn read_budget(fields: &mut Fields<'_>) -> ConfigResult<Option<u64>> {
    match fields.node("budget").map(|node| &node.value) {
        Some(Value::Text(text)) => {
            let bytes = crate::bytes::parse(text).map_err(|problem| fields.error("budget", problem))?;
            Ok(Some(bytes))
        }
        _ => fields.integer("budget", 1..=1 << 60),
    }
}

impl std::fmt::Display for KeepAround {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {}", self.metric.name(), if self.metric.rises() { "≥" } else { "≤" }, self.level)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn policy(within: Window) -> KeepAround {
        KeepAround { metric: TransitionMetric::TestAccuracy, level: 0.9, within, budget: None }
    }

    #[test]
    fn accuracies_rise_to_the_level_and_losses_fall_to_it() {
        let rises = policy(Window::Steps(1));
        let falls = KeepAround { metric: TransitionMetric::TestLoss, ..rises.clone() };
        assert_eq!(
            [0.89, 0.9, 1.0, f64::NAN].map(|value| rises.is_reached(value)),
            [false, true, true, false]
        );
        assert_eq!(
            [0.91, 0.9, 0.0, f64::NAN].map(|value| falls.is_reached(value)),
            [false, true, true, false]
        );
    }

    #[test]
    fn a_budget_is_a_number_of_bytes_or_one_with_a_unit() {
        let read = |budget: serde_json::Value| {
            let json = serde_json::json!({ "within": 100, "budget": budget });
            KeepAround::from_json(&json).map_err(|error| error.to_string())
        };
        assert_eq!(read("200 MB".into()).unwrap().budget, Some(200 << 20));
        assert_eq!(read(5000.into()).unwrap().budget, Some(5000));
        assert_eq!(read(serde_json::Value::Null).unwrap().budget, None);
        let stored = serde_json::to_value(read("1G".into()).unwrap()).unwrap();
        assert_eq!(KeepAround::from_json(&stored).unwrap().budget, Some(1 << 30));
        assert!(read("much".into()).unwrap_err().contains("write e.g. 512M or 4G"));
        assert!(read(0.into()).unwrap_err().contains("out of range"));
    }

    #[test]
    fn accuracies_of_generalisation_rise_to_a_level_too() {
        let read =
            |metric| KeepAround::from_json(&serde_json::json!({ "within": 100, "metric": metric })).unwrap();
        let policy = read("generalisation_accuracy");
        assert_eq!((policy.level, policy.metric.name()), (0.99, "generalisation_accuracy"));
        assert!(policy.is_reached(0.995) && !read("in_domain_accuracy").is_reached(0.98));
    }

    proptest! {
        #[test]
        fn whatever_is_near_in_the_end_was_kept_all_along(
            steps in 1u64..5000, share in 0.001f64..0.999, transition in 1u64..100_000, step in 0u64..200_000,
            reached in 0u64..100_000,
        ) {
            prop_assume!(reached <= transition);
            for within in [Window::Steps(steps), Window::Share(share)] {
                let policy = policy(within);
                if policy.is_near(transition, step) {
                    prop_assert!(policy.may_be_near(reached, step), "{within:?}");
                }
            }
        }
    }
}
