//! Lineage: of whose checkpoints the trials of a sweep are forks, and what tells the forks of one apart.

use std::collections::{BTreeMap, BTreeSet};

use plateau_common::results::{Parameter, TrialRecord};
use serde_json::{Value, json};

use super::Provenance;
use crate::cells::{self, human};
use crate::table::TextTable;

/// Values of one parameter that are listed.
const LISTED: usize = 8;

/// The forks of one trial at one step.
struct Origin<'a> {
    parent: String,
    step: Parameter,
    forks: Vec<&'a TrialRecord>,
}

/// The origins of all forks among the trials, by parent and step.
fn origins<'a>(trials: impl Iterator<Item = &'a TrialRecord>) -> Vec<Origin<'a>> {
    let mut origins: Vec<Origin<'a>> = Vec::new();
    for trial in trials {
        let (Some(Parameter::Text(parent)), Some(step)) =
            (trial.parameters.get("fork.trial"), trial.parameters.get("fork.step"))
        else {
            continue;
        };
        match origins.iter_mut().find(|origin| origin.parent == *parent && origin.step == *step) {
            Some(origin) => origin.forks.push(trial),
            None => origins.push(Origin { parent: parent.clone(), step: step.clone(), forks: vec![trial] }),
        }
    }
    origins.sort_by(|one, other| {
        one.parent.cmp(&other.parent).then(cells::compare(Some(&one.step), Some(&other.step)))
    });
    origins
}

impl Origin<'_> {
    /// The parameters in which the forks differ, with their values.
    fn differences(&self) -> BTreeMap<&str, Vec<Option<&Parameter>>> {
        let paths: BTreeSet<&str> =
            self.forks.iter().flat_map(|fork| fork.parameters.keys().map(String::as_str)).collect();
        let values = |path: &str| {
            let mut values: Vec<Option<&Parameter>> = Vec::new();
            for fork in &self.forks {
                let value = fork.parameters.get(path);
                if !values.contains(&value) {
                    values.push(value);
                }
            }
            values.sort_by(|one, other| cells::compare(*one, *other));
            values
        };
        paths.into_iter().map(|path| (path, values(path))).filter(|(_, values)| values.len() > 1).collect()
    }

    fn difference_in_words(&self) -> String {
        let parts = self.differences().into_iter().map(|(path, values)| {
            let mut words: Vec<String> = values.iter().take(LISTED).map(|value| human(*value)).collect();
            if values.len() > LISTED {
                words.push(format!("… ({} values)", values.len()));
            }
            format!("{path}: {}", words.join(", "))
        });
        let parts: Vec<String> = parts.collect();
        if parts.is_empty() { "–".to_owned() } else { parts.join("; ") }
    }
}

/// Name of the entry that says what was set over a study.
const OVERRIDES: &str = "overrides";

/// One row per origin; `None` where no trial is a fork. What was set over the study of a fork is what was changed of its parent.
pub fn table<'a>(
    trials: impl Iterator<Item = &'a TrialRecord>,
    provenance: &Provenance,
) -> Option<TextTable> {
    let origins = origins(trials);
    let set =
        provenance.entries.iter().find(|(name, _)| name == OVERRIDES).map_or("–", |(_, set)| set.as_str());
    let columns = ["trial", "at step", "forks", "set for all of them", "what differs among them"];
    let mut table = TextTable::new("Forked from", columns);
    for origin in &origins {
        table.push([
            origin.parent.clone(),
            human(Some(&origin.step)),
            origin.forks.len().to_string(),
            set.to_owned(),
            origin.difference_in_words(),
        ]);
    }
    (!origins.is_empty()).then_some(table)
}

/// The same for machines.
pub fn json<'a>(trials: impl Iterator<Item = &'a TrialRecord>) -> Value {
    let origin = |origin: &Origin<'_>| {
        let differs: serde_json::Map<String, Value> = origin
            .differences()
            .into_iter()
            .map(|(path, values)| (path.to_owned(), values.into_iter().map(cells::json).collect()))
            .collect();
        let forks: Vec<&str> = origin.forks.iter().map(|fork| fork.id.as_str()).collect();
        json!({ "trial": origin.parent, "step": cells::json(Some(&origin.step)), "forks": forks, "differs": differs })
    };
    origins(trials).iter().map(origin).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::grokking;

    fn forks() -> Vec<TrialRecord> {
        let mut records = grokking(2);
        records.truncate(4);
        for (number, record) in (1u32..).zip(&mut records) {
            let parameters = &mut record.parameters;
            parameters.clear();
            if number == 4 {
                continue;
            }
            parameters.insert("fork.trial".to_owned(), Parameter::Text("ab".repeat(16)));
            let step = if number == 3 { 700.0 } else { 5000.0 };
            parameters.insert("fork.step".to_owned(), Parameter::Number(step));
            parameters.insert("train.data-order".to_owned(), Parameter::Number(f64::from(number)));
            parameters.insert("train.clip".to_owned(), Parameter::Number(1.0));
        }
        records
    }

    #[test]
    fn forks_are_told_by_parent_and_step_with_what_differs_among_them() {
        let records = forks();
        let entries = vec![("overrides".to_owned(), "train.clip=1".to_owned())];
        let table = table(records.iter(), &Provenance { entries }).unwrap();
        assert_eq!(
            table.rows,
            [
                ["ab".repeat(16).as_str(), "700", "1", "train.clip=1", "–"],
                ["ab".repeat(16).as_str(), "5000", "2", "train.clip=1", "train.data-order: 1, 2"],
            ]
        );
        let json = json(records.iter());
        assert_eq!(json[1]["differs"], serde_json::json!({ "train.data-order": [1.0, 2.0] }));
        assert_eq!(json[1]["forks"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn a_sweep_without_forks_has_no_lineage() {
        let records = grokking(2);
        assert!(table(records.iter(), &Provenance::default()).is_none());
        assert_eq!(json(records.iter()), serde_json::json!([]));
    }
}
