//! Trials grouped into cells, and what tells the cells apart.
//!
//! A cell is the set of trials that differ only in their seed. Labels are the parameters that vary among the trials,
//! without those that merely follow another one (a width that is always four times the model's): a table or a figure
//! names cells by labels only. Order is by value, never by arrival, so that shuffled records give the same report.

use std::cmp::Ordering;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use plateau_common::results::{Parameter, TrialRecord};
use plateau_common::tasks::GridAxes;
use plateau_common::trial::TrialState;
use serde_json::Value;

use crate::filter::Filter;
use crate::lengths::{self, AxesOf};
use crate::number;

/// Orders parameters: numbers by value, then switches, then words; absent ones first.
pub fn compare(one: Option<&Parameter>, other: Option<&Parameter>) -> Ordering {
    let rank = |parameter: Option<&Parameter>| match parameter {
        None => 0,
        Some(Parameter::Number(_)) => 1,
        Some(Parameter::Bool(_)) => 2,
        Some(Parameter::Text(_)) => 3,
    };
    match (one, other) {
        (Some(Parameter::Number(one)), Some(Parameter::Number(other))) => one.total_cmp(other),
        (Some(Parameter::Bool(one)), Some(Parameter::Bool(other))) => one.cmp(other),
        (Some(Parameter::Text(one)), Some(Parameter::Text(other))) => one.cmp(other),
        _ => rank(one).cmp(&rank(other)),
    }
}

/// A parameter's value for people; absent ones are a dash.
pub fn human(parameter: Option<&Parameter>) -> String {
    match parameter {
        None => "–".to_owned(),
        Some(Parameter::Number(value)) => number::significant(*value, 6),
        Some(other) => other.to_string(),
    }
}

/// A parameter's value as JSON; absent ones are the empty string.
pub fn json(parameter: Option<&Parameter>) -> Value {
    match parameter {
        None => Value::from(""),
        Some(Parameter::Number(value)) => number::json(*value),
        Some(Parameter::Bool(value)) => Value::from(*value),
        Some(Parameter::Text(value)) => Value::from(value.as_str()),
    }
}

/// Whether a parameter says what a trial is: its seed, the order of its data and how it is checkpointed do not distinguish cells.
fn distinguishes(name: &str) -> bool {
    name != "seed" && name != "train.data-order" && !name.starts_with("checkpoint.")
}

/// Values of some parameters, in a fixed order of parameters.
pub type Values = Vec<Option<Parameter>>;

fn compare_values(one: &Values, other: &Values) -> Ordering {
    one.iter()
        .zip(other)
        .map(|(one, other)| compare(one.as_ref(), other.as_ref()))
        .find(|order| order.is_ne())
        .unwrap_or_else(|| one.len().cmp(&other.len()))
}

/// The trials that differ only in their seed.
#[derive(Clone, Debug)]
pub struct Cell<'a> {
    /// The value of each label of the data set, in its order.
    pub values: Values,
    /// The cell's trials in ascending seed.
    pub trials: Vec<&'a TrialRecord>,
}

/// Cells that agree in some parameters.
#[derive(Clone, Debug)]
pub struct Group<'d, 'a> {
    /// The values they agree in.
    pub values: Values,
    /// The cells, in the data set's order.
    pub cells: Vec<&'d Cell<'a>>,
}

/// All trials of a sweep, grouped.
#[derive(Clone, Debug)]
pub struct Dataset<'a> {
    /// The cells, ordered by their values.
    pub cells: Vec<Cell<'a>>,
    /// The parameters that tell cells apart.
    pub labels: Vec<String>,
    /// Varying parameters that follow another and are therefore not labels: (parameter, the other). They do so one to one,
    /// or are present only together with some values of the other, as the settings of one choice among several are.
    pub following: Vec<(String, String)>,
    /// Those of them that are not one to one.
    partial: BTreeSet<String>,
    /// Parameters that are the same in all trials.
    pub fixed: BTreeMap<String, Parameter>,
    /// All parameters that differ between trials, labels and followers.
    varying: BTreeSet<String>,
    preferred: Vec<String>,
    axes_of: AxesOf,
}

impl<'a> Dataset<'a> {
    /// Groups `records`. Where several parameters vary together one to one, the label is the first of them in
    /// `preferred` (the study's axes, then what its analyses mention), else the one with the shortest name.
    pub fn new(records: &'a [TrialRecord], preferred: &[String]) -> Self {
        Dataset::of(records.iter().collect(), preferred, lengths::axes)
    }

    /// The same trials with another way to learn the sizes of their problems.
    #[cfg(test)]
    pub fn with_axes_of(self, axes_of: AxesOf) -> Self {
        Dataset { axes_of, ..self }
    }

    /// What the sizes of a cell's problems are, where its task has such.
    pub fn axes(&self, cell: &Cell) -> Option<GridAxes> {
        cell.trials.first().and_then(|trial| (self.axes_of)(trial))
    }

    /// The data set of those trials that pass `filter`.
    pub fn only(&self, filter: &Filter) -> Dataset<'a> {
        Dataset::of(
            self.trials().filter(|trial| filter.admits(trial)).collect(),
            &self.preferred,
            self.axes_of,
        )
    }

    fn of(records: Vec<&'a TrialRecord>, preferred: &[String], axes_of: AxesOf) -> Self {
        let names: BTreeSet<&str> =
            records.iter().flat_map(|record| record.parameters.keys()).map(String::as_str).collect();
        let names: Vec<&str> = names.into_iter().filter(|name| distinguishes(name)).collect();
        let values_of = |record: &TrialRecord, names: &[&str]| -> Values {
            names.iter().map(|name| record.parameters.get(*name).cloned()).collect()
        };
        let mut fixed = BTreeMap::new();
        let mut varying: Vec<&str> = Vec::new();
        for name in &names {
            let mut values = records.iter().map(|record| record.parameters.get(*name));
            let first = values.next().flatten();
            if values.all(|value| compare(value, first).is_eq()) {
                if let Some(value) = first {
                    fixed.insert((*name).to_owned(), value.clone());
                }
            } else {
                varying.push(name);
            }
        }
        let rank = |name: &str| {
            let place = preferred.iter().position(|wanted| wanted == name).unwrap_or(usize::MAX);
            (place, name.len(), name.to_owned())
        };
        varying.sort_by_key(|name| rank(name));

        let mut partitions: BTreeMap<Vec<usize>, &str> = BTreeMap::new();
        let mut following = Vec::new();
        for name in &varying {
            match partitions.entry(partition(&records, name)) {
                Entry::Occupied(leader) => following.push(((*name).to_owned(), (*leader.get()).to_owned())),
                Entry::Vacant(place) => {
                    place.insert(name);
                }
            }
        }
        let mut labels: Vec<&str> = Vec::new();
        let mut partial = BTreeSet::new();
        let mut leaders: Vec<(&Vec<usize>, &str)> =
            partitions.iter().map(|(own, name)| (own, *name)).collect();
        leaders.sort_by_key(|(_, name)| rank(name));
        for (own, name) in &leaders {
            let absent = records.iter().any(|record| !record.parameters.contains_key(*name));
            let implied = absent && !preferred.iter().any(|wanted| wanted == name);
            let leader = leaders.iter().find(|(other, leader)| leader != name && determines(other, own));
            match leader.filter(|_| implied) {
                Some((_, leader)) => {
                    following.push(((*name).to_owned(), (*leader).to_owned()));
                    partial.insert((*name).to_owned());
                }
                None => labels.push(name),
            }
        }

        let mut keyed: Vec<(Values, &TrialRecord)> =
            records.iter().map(|record| (values_of(record, &labels), *record)).collect();
        keyed.sort_by(|(one_values, one), (other_values, other)| {
            compare_values(one_values, other_values)
                .then_with(|| one.seed.cmp(&other.seed))
                .then_with(|| one.id.cmp(&other.id))
        });
        let cells = keyed
            .chunk_by(|(one, _), (other, _)| compare_values(one, other).is_eq())
            .map(|trials| Cell {
                values: trials.first().map(|(values, _)| values.clone()).unwrap_or_default(),
                trials: trials.iter().map(|(_, trial)| *trial).collect(),
            })
            .collect();
        Dataset {
            cells,
            labels: labels.iter().map(|name| (*name).to_owned()).collect(),
            following,
            partial,
            fixed,
            varying: varying.iter().map(|name| (*name).to_owned()).collect(),
            preferred: preferred.to_vec(),
            axes_of,
        }
    }

    /// All trials, cell by cell.
    pub fn trials(&self) -> impl Iterator<Item = &'a TrialRecord> + '_ {
        self.cells.iter().flat_map(|cell| cell.trials.iter().copied())
    }

    /// Trials per state, for the states that occur.
    pub fn endings(&self) -> Vec<(TrialState, usize)> {
        TrialState::ALL
            .into_iter()
            .map(|state| (state, self.trials().filter(|trial| trial.state == state).count()))
            .filter(|(_, count)| *count > 0)
            .collect()
    }

    /// Whether a parameter varies among the trials.
    pub fn varies(&self, name: &str) -> bool {
        self.varying.contains(name)
    }

    /// The label that stands for `name`: itself, or the one it follows one to one.
    pub fn label_of<'n>(&'n self, name: &'n str) -> &'n str {
        if self.partial.contains(name) {
            return name;
        }
        self.following.iter().find(|(follower, _)| follower == name).map_or(name, |(_, leader)| leader)
    }

    /// The labels but those that `names` stand for.
    pub fn labels_without(&self, names: &[&str]) -> Vec<&str> {
        let taken: Vec<&str> = names.iter().map(|name| self.label_of(name)).collect();
        self.labels.iter().map(String::as_str).filter(|label| !taken.contains(label)).collect()
    }

    /// The cells grouped by the values of `names`, ordered by them.
    pub fn group_by<'d>(&'d self, names: &[&str]) -> Vec<Group<'d, 'a>> {
        group(self.cells.iter(), names)
    }

    /// The values of a cell's labels as JSON.
    pub fn parameters_of(&self, cell: &Cell) -> serde_json::Map<String, Value> {
        self.labels
            .iter()
            .zip(&cell.values)
            .map(|(label, value)| (label.clone(), json(value.as_ref())))
            .collect()
    }

    /// A cell's name for people: its labels and their values; `all trials` where nothing varies.
    pub fn name_of(&self, cell: &Cell) -> String {
        let labels: Vec<&str> = self.labels.iter().map(String::as_str).collect();
        describe(&labels, &cell.values)
    }
}

/// `cells` grouped by the values of `names`, ordered by them.
pub fn group<'d, 'a: 'd>(cells: impl Iterator<Item = &'d Cell<'a>>, names: &[&str]) -> Vec<Group<'d, 'a>> {
    let mut keyed: Vec<(Values, &'d Cell<'a>)> =
        cells.map(|cell| (names.iter().map(|name| cell.parameter(name).cloned()).collect(), cell)).collect();
    // The sort is stable, so that cells keep their order within a group.
    keyed.sort_by(|(one, _), (other, _)| compare_values(one, other));
    keyed
        .chunk_by(|(one, _), (other, _)| compare_values(one, other).is_eq())
        .map(|group| Group {
            values: group.first().map(|(values, _)| values.clone()).unwrap_or_default(),
            cells: group.iter().map(|(_, cell)| *cell).collect(),
        })
        .collect()
}

impl<'a> Cell<'a> {
    /// The value of any parameter; all trials of a cell share it.
    pub fn parameter(&self, name: &str) -> Option<&'a Parameter> {
        self.trials.first().and_then(|trial| trial.parameters.get(name))
    }
}

/// The number of the group whose values these are.
pub fn place_of(groups: &[Group], values: &Values) -> Option<usize> {
    groups.iter().position(|group| compare_values(&group.values, values).is_eq())
}

/// `weight-decay = 1, dim = 32`: the last part of each path where that is unambiguous, with its value.
pub fn describe(names: &[&str], values: &Values) -> String {
    if names.is_empty() {
        return "all trials".to_owned();
    }
    let parts: Vec<String> = names
        .iter()
        .zip(values)
        .map(|(name, value)| format!("{} = {}", short_name(name, names), human(value.as_ref())))
        .collect();
    parts.join(", ")
}

/// The last part of a dotted path, or all of it where another of `among` ends alike.
pub fn short_name<'n>(name: &'n str, among: &[&str]) -> &'n str {
    let last = |path: &'n str| path.rsplit('.').next().unwrap_or(path);
    let short = last(name);
    let alike = among.iter().filter(|other| other.rsplit('.').next() == Some(short)).count();
    if alike > 1 { name } else { short }
}

/// For each record the number of its value of `name` in order of first appearance: equal partitions mean that the
/// parameters vary together.
fn partition(records: &[&TrialRecord], name: &str) -> Vec<usize> {
    let mut numbers: BTreeMap<String, usize> = BTreeMap::new();
    records
        .iter()
        .map(|record| {
            let key = record.parameters.get(name).map(|value| format!("{value:?}")).unwrap_or_default();
            let next = numbers.len();
            *numbers.entry(key).or_insert(next)
        })
        .collect()
}

/// Whether records that agree in the first partition agree in the second.
fn determines(one: &[usize], other: &[usize]) -> bool {
    let mut seen: BTreeMap<usize, usize> = BTreeMap::new();
    one.iter().zip(other).all(|(one, other)| seen.entry(*one).or_insert(*other) == other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::trial;

    fn records() -> Vec<TrialRecord> {
        let mut records = Vec::new();
        for dim in [32.0, 8.0, 16.0] {
            for decay in [1.0, 0.0] {
                for seed in [2, 0, 1] {
                    let mut record = trial(seed, &[("model.dim", dim), ("model.mlp", 4.0 * dim)]);
                    record.parameters.insert("train.weight-decay".to_owned(), Parameter::Number(decay));
                    record.parameters.insert("task.kind".to_owned(), Parameter::Text("modular".to_owned()));
                    records.push(record);
                }
            }
        }
        records
    }

    #[test]
    fn cells_are_ordered_by_value_and_labelled_only_by_what_varies() {
        let records = records();
        let data = Dataset::new(&records, &[]);
        assert_eq!(data.labels, ["model.dim", "train.weight-decay"]);
        assert_eq!(data.following, [("model.mlp".to_owned(), "model.dim".to_owned())]);
        assert_eq!(data.fixed.keys().collect::<Vec<_>>(), ["task.kind"]);
        assert_eq!(data.cells.len(), 6);
        let names: Vec<String> = data.cells.iter().map(|cell| data.name_of(cell)).collect();
        assert_eq!(names[0], "dim = 8, weight-decay = 0");
        assert_eq!(names[5], "dim = 32, weight-decay = 1");
        let seeds: Vec<u64> = data.cells[0].trials.iter().map(|trial| trial.seed).collect();
        assert_eq!(seeds, [0, 1, 2]);
    }

    #[test]
    fn the_axis_is_preferred_among_parameters_that_vary_together() {
        let records = records();
        let data = Dataset::new(&records, &["model.mlp".to_owned()]);
        assert_eq!(data.labels, ["model.mlp", "train.weight-decay"]);
        assert_eq!(data.label_of("model.dim"), "model.mlp");
        assert_eq!(data.labels_without(&["model.dim"]), ["train.weight-decay"]);
    }

    #[test]
    fn settings_of_one_choice_among_several_are_no_labels() {
        let positions = |word: &str, k: Option<f64>, dim: f64| {
            let mut record = trial(0, &[("model.dim", dim)]);
            record.parameters.insert("model.positions".to_owned(), Parameter::Text(word.to_owned()));
            record.parameters.extend(k.map(|k| ("model.abacus.k".to_owned(), Parameter::Number(k))));
            record
        };
        let one = |dim| {
            [positions("abacus", Some(9.0), dim), positions("fire", None, dim), positions("none", None, dim)]
        };
        let mut records: Vec<TrialRecord> = [8.0, 16.0].into_iter().flat_map(one).collect();
        let data = Dataset::new(&records, &[]);
        assert_eq!(data.labels, ["model.dim", "model.positions"]);
        assert_eq!(data.following, [("model.abacus.k".to_owned(), "model.positions".to_owned())]);
        assert_eq!(data.labels_without(&["model.abacus.k"]), ["model.dim", "model.positions"]);
        assert_eq!(data.group_by(&["model.abacus.k"]).len(), 2);
        let wanted = ["model.abacus.k".to_owned()];
        assert_eq!(Dataset::new(&records, &wanted).labels.len(), 3, "what is asked for stays a label");
        records.push(positions("abacus", Some(5.0), 8.0));
        assert_eq!(
            Dataset::new(&records, &[]).labels.len(),
            3,
            "a setting that varies within its choice is a label"
        );
    }

    #[test]
    fn the_order_of_records_changes_nothing() {
        let records = records();
        let mut shuffled = records.clone();
        shuffled.rotate_left(5);
        shuffled.swap(0, 9);
        let describe = |records: &[TrialRecord]| {
            let data = Dataset::new(records, &[]);
            let seeds = |cell: &Cell| cell.trials.iter().map(|trial| trial.seed).collect::<Vec<_>>();
            data.cells.iter().map(|cell| (data.name_of(cell), seeds(cell))).collect::<Vec<_>>()
        };
        assert_eq!(describe(&records), describe(&shuffled));
    }

    #[test]
    fn groups_join_cells_across_the_other_parameters() {
        let records = records();
        let data = Dataset::new(&records, &[]);
        let groups = data.group_by(&["train.weight-decay"]);
        assert_eq!(groups.iter().map(|group| group.cells.len()).collect::<Vec<_>>(), [3, 3]);
        assert_eq!(data.group_by(&[]).len(), 1);
        assert!(Dataset::new(&[], &[]).cells.is_empty());
    }
}
