//! Expansion of studies: examples of every way to write axes, and random grids against a naive expansion.

use std::collections::BTreeMap;

use plateau_common::config::{ModelConfig, TrialConfig};
use plateau_common::node::Value;
use plateau_common::study::{Format, Study};
use proptest::prelude::*;

const BASE: &str = r#"
name = "grid"
task = { kind = "query-count", vocab = 10 }
model = { kind = "transformer", layers = 1, heads = 1, dim = 8 }
train = { steps = 10, batch = 4, optimizer = { kind = "adam", lr = 0.5 } }
"#;

fn study_with(rest: &str, overrides: &[(&str, &str)]) -> Study {
    let overrides: Vec<(String, String)> =
        overrides.iter().map(|(path, value)| ((*path).to_owned(), (*value).to_owned())).collect();
    match Study::parse(&format!("{BASE}{rest}"), "grid.toml", Format::Toml, &overrides) {
        Ok(study) => study,
        Err(error) => panic!("{error}"),
    }
}

/// All trials, after checking that they were counted right.
fn trials(study: &Study) -> Vec<TrialConfig> {
    let trials: Vec<TrialConfig> = study
        .trials()
        .map(|trial| match trial {
            Ok(trial) => trial,
            Err(error) => panic!("{error}"),
        })
        .collect();
    assert_eq!(study.count(), trials.len() as u64);
    trials
}

/// The values of one axis as JSON text.
fn values_of(axis: &str) -> String {
    let study = study_with(&format!("[axes]\n{axis}\n"), &[]);
    let axis = study.axes().next().expect("one axis");
    axis.values.iter().map(|node| node.to_json().to_string()).collect::<Vec<_>>().join(" ")
}

#[test]
fn lists_and_ranges_and_spacings() {
    assert_eq!(values_of("seed = [4, 2, 9]"), "4 2 9");
    assert_eq!(values_of("seed = { values = [4, 2] }"), "4 2");
    assert_eq!(values_of("seed = { range = [0, 3] }"), "0 1 2");
    assert_eq!(values_of("seed = { range = [10, 0, -4] }"), "10 6 2");
    assert_eq!(values_of("seed = { range = [1, 10, 4] }"), "1 5 9");
    assert_eq!(values_of("\"train.clip\" = { linspace = [0.1, 0.4], count = 4 }"), "0.1 0.2 0.3 0.4");
    assert_eq!(values_of("\"model.dim\" = { linspace = [8, 32], count = 4 }"), "8 16 24 32");
    assert_eq!(
        values_of("\"train.optimizer.lr\" = { logspace = [1e-4, 1.0], count = 5 }"),
        "0.0001 0.001 0.01 0.1 1.0"
    );
    assert_eq!(
        values_of("\"train.optimizer.lr\" = { logspace = [-4, -2], base = 10, count = 3 }"),
        "0.0001 0.001 0.01"
    );
    assert_eq!(
        values_of("\"model.dim\" = { logspace = [1, 3], base = 2, count = 3, round = true }"),
        "2 4 8"
    );
}

#[test]
fn rounding_merges_values_that_become_equal() {
    assert_eq!(
        values_of("\"model.dim\" = { logspace = [1, 10], count = 10, round = true }"),
        "1 2 3 4 5 6 8 10"
    );
    assert_eq!(values_of("\"model.dim\" = { linspace = [1, 3], count = 9, round = true }"), "1 2 3");
}

/// The vocabulary grid of the counting study: 20 even steps from 5 to 150, rounded.
#[test]
fn the_vocabularies_of_the_counting_study() {
    assert_eq!(
        values_of("\"task.vocab\" = { linspace = [5, 150], count = 20, round = true }"),
        "5 13 20 28 36 43 51 58 66 74 81 89 97 104 112 119 127 135 142 150"
    );
}

fn dims_and_seeds(study: &Study) -> Vec<(usize, u64)> {
    let pair = |trial: TrialConfig| {
        let ModelConfig::Transformer(model) = trial.model;
        (model.dim, trial.seed)
    };
    trials(study).into_iter().map(pair).collect()
}

#[test]
fn the_last_axis_varies_fastest_and_seeds_is_the_last() {
    let expected = vec![(8, 0), (8, 1), (4, 0), (4, 1)];
    assert_eq!(dims_and_seeds(&study_with("seeds = 2\n[axes]\n\"model.dim\" = [8, 4]", &[])), expected);
    assert_eq!(dims_and_seeds(&study_with("[axes]\nmodel.dim = [8, 4]\nseed = [0, 1]", &[])), expected);
    assert_eq!(dims_and_seeds(&study_with("seeds = [5]", &[])), vec![(8, 5)]);
}

#[test]
fn an_axis_over_tables_and_one_inside_them() {
    let rest = r#"[axes]
"train.optimizer.lr" = [0.1, 0.2]
"train.optimizer" = [{ kind = "adam", lr = 9.0 }, { kind = "sgd", lr = 9.0, momentum = 0.9 }]
"#;
    let rates: Vec<f64> =
        trials(&study_with(rest, &[])).iter().map(|trial| trial.train.optimizer.lr()).collect();
    assert_eq!(rates, [0.1, 0.1, 0.2, 0.2]);
}

/// A condition sees what the trial is given: the value inside the table, and its refinement where there is one.
#[test]
fn conditions_look_into_tables() {
    let axes = r#"[axes]
"train.optimizer.lr" = [0.1, 0.2]
"train.optimizer" = [{ kind = "adam", lr = 9.0 }, { kind = "sgd", lr = 9.0, momentum = 0.9 }]
[[exclude]]
"#;
    let count = |condition: &str| {
        let study = study_with(&format!("{axes}{condition}"), &[]);
        trials(&study).len()
    };
    assert_eq!(count("\"train.optimizer.lr\" = 0.1"), 2);
    assert_eq!(count("\"train.optimizer.kind\" = \"sgd\""), 2);
    assert_eq!(count("\"train.optimizer.kind\" = \"sgd\"\n\"train.optimizer.lr\" = 0.1"), 3);
    assert_eq!(count("\"train.optimizer.lr\" = 9.0"), 4);
}

#[test]
fn zipped_axes_may_repeat_a_value_but_not_all_of_a_step() {
    let rest = |heads: &str| {
        format!(
            "zip = [[\"model.dim\", \"model.heads\"]]\n[axes]\n\"model.dim\" = [8, 8]\n\"model.heads\" = {heads}"
        )
    };
    let study = study_with(&rest("[2, 4]"), &[]);
    let heads = |trial: &TrialConfig| trial.to_json()["model"]["heads"].as_u64();
    assert_eq!(trials(&study).iter().map(heads).collect::<Vec<_>>(), [Some(2), Some(4)]);
    let refused = Study::parse(&format!("{BASE}{}", rest("[2, 2]")), "grid.toml", Format::Toml, &[]);
    let error = refused.expect_err("two equal steps").to_string();
    assert!(error.contains("the values `8`, `2` occur twice (places 1 and 2)"), "{error}");
}

#[test]
fn zipped_axes_advance_together_where_the_first_stood() {
    let rest = "zip = [[\"model.dim\", \"seed\"]]\n[axes]\n\"model.dim\" = [8, 4]\n\"task.vocab\" = [5, 6]\nseed = [1, 2]";
    let study = study_with(rest, &[]);
    assert_eq!(dims_and_seeds(&study), vec![(8, 1), (8, 1), (4, 2), (4, 2)]);
    assert_eq!(study.varying_paths(), ["model.dim", "seed", "task.vocab"]);
}

#[test]
fn conditional_axes_and_values() {
    let rest = r#"seeds = 2
[axes]
"model.norm" = ["pre", "none"]
[[when]]
match = { "model.norm" = "none" }
axes = { "train.clip" = [1.0, 2.0, 3.0] }
set = { "model.dim" = 16 }
[[when]]
match = { "train.clip" = [1, 3], "model.dim" = 16 }
set = { "task.vocab" = 20 }
"#;
    let study = study_with(rest, &[]);
    let found: Vec<(usize, Option<f64>, usize)> = trials(&study)
        .into_iter()
        .filter(|trial| trial.seed == 0)
        .map(|trial| {
            let ModelConfig::Transformer(model) = trial.model;
            (model.dim, trial.train.clip, trial.task.shape().vocabulary)
        })
        .collect();
    assert_eq!(found, [(8, None, 10), (16, Some(1.0), 20), (16, Some(2.0), 10), (16, Some(3.0), 20)]);
    assert_eq!(study.count(), 8);
}

#[test]
fn overrides_replace_values_and_axes() {
    let rest = r#"zip = [["model.dim", "model.heads"]]
[axes]
"model.dim" = [8, 4]
"model.heads" = [2, 1]
seed = { range = [0, 3] }
[[when]]
match = { seed = 0 }
set = { "train.clip" = 1.0 }
"#;
    assert_eq!(study_with(rest, &[]).count(), 6);
    assert_eq!(study_with(rest, &[("axes.seed", "[7, 8, 0]")]).count(), 6);
    assert_eq!(study_with(rest, &[("seeds", "5")]).count(), 10);
    assert_eq!(study_with(rest, &[("model.dim", "16")]).count(), 6);
    assert_eq!(study_with(rest, &[("axes.train.steps", "[5]"), ("name", "other")]).name, "other");
    let clipped = study_with(rest, &[("train.clip", "0.5")]);
    assert!(trials(&clipped).iter().all(|trial| trial.train.clip == Some(0.5)));
    let worded =
        study_with("", &[("train.optimizer.kind", "sgd"), ("train.steps", "20"), ("train.steps", "30")]);
    let trial = &trials(&worded)[0];
    assert_eq!(trial.train.steps, 30);
    assert_eq!(trial.to_json()["train"]["optimizer"]["kind"], "sgd");
}

#[test]
fn one_study_in_three_syntaxes_is_one_study() {
    let toml = "name = \"x\"\nseeds = 2\ntask = { kind = \"query-count\", vocab = 10 } # a remark\n\
        model = { kind = \"transformer\", layers = 1, heads = 1, dim = 8 }\n\
        [train]\nsteps = 10\nbatch = 4\noptimizer.kind = \"adam\"\noptimizer.lr = 0.001\n[axes]\nmodel.norm = [\"pre\", \"post\"]\n";
    let yaml = "# a remark\ntask: &task {vocab: 10, kind: query-count}\nname: x\nseeds: 2\n\
        model: {kind: transformer, layers: 1, heads: 1, dim: 8}\n\
        train:\n  steps: 10\n  batch: 4\n  optimizer: {kind: adam, lr: 1e-3}\naxes:\n  model.norm: [pre, post]\n";
    let json = "{\n\t\"name\": \"x\", \"seeds\": 2, \"task\": {\"kind\": \"query-count\", \"vocab\": 10},\n\
        \t\"model\": {\"kind\": \"transformer\", \"layers\": 1, \"heads\": 1, \"dim\": 8},\n\
        \t\"train\": {\"steps\": 10, \"batch\": 4, \"optimizer\": {\"kind\": \"adam\", \"lr\": 1.0e-3}},\n\
        \t\"axes\": {\"model.norm\": [\"pre\", \"p\\u006fst\"]}\n}";
    let parse = |text, name, format| match Study::parse(text, name, format, &[]) {
        Ok(study) => study,
        Err(error) => panic!("{error}"),
    };
    let studies = [
        parse(toml, "x.toml", Format::Toml),
        parse(yaml, "x.yaml", Format::Yaml),
        parse(json, "x.json", Format::Json),
    ];
    for study in &studies {
        assert_eq!(study.digest(), studies[0].digest());
        assert_eq!(trials(study), trials(&studies[0]));
        let again = Study::from_source(study.source()).expect("a submitted study reads again");
        assert_eq!(again.digest(), study.digest());
    }
    let changed = parse(&toml.replace("steps = 10", "steps = 11"), "x.toml", Format::Toml);
    assert_ne!(changed.digest(), studies[0].digest());
}

#[test]
fn aliases_stand_for_what_they_name() {
    let yaml = "name: x\ntask: {kind: query-count, vocab: 10}\nmodel: {kind: transformer, layers: 1, heads: 1, dim: &width 8}\n\
        train: {steps: 10, batch: *width, optimizer: {kind: adam, lr: 1}}\n";
    let study = Study::parse(yaml, "x.yml", Format::Yaml, &[]).expect("a valid study");
    assert_eq!(trials(&study)[0].to_json()["train"]["batch"], 8);
}

#[test]
fn analysis_figures_and_base_paths_are_kept() {
    let rest = "seed = 3\n[[analysis]]\nkind = \"threshold\"\nlevel = 0.8\n[[figure]]\nkind = \"heatmap\"\n[[figure]]\nkind = \"curve\"";
    let study = study_with(rest, &[]);
    let kind = |node: &plateau_common::node::Node| node.at_path("kind").map(|kind| kind.value.clone());
    assert_eq!(
        study.analysis.iter().map(kind).collect::<Vec<_>>(),
        [Some(Value::Text("threshold".to_owned()))]
    );
    assert_eq!(study.figures.len(), 2);
    assert_eq!(study.figures[1].location.map(|place| place.line), Some(12));
    assert_eq!(
        study.base_paths(),
        [
            "task.kind",
            "task.vocab",
            "model.kind",
            "model.layers",
            "model.heads",
            "model.dim",
            "train.steps",
            "train.batch",
            "train.optimizer.kind",
            "train.optimizer.lr",
            "seed"
        ]
    );
}

#[test]
fn the_overview_adds_up() {
    let study =
        study_with("seeds = 3\n[axes]\n\"model.dim\" = [8, 16]\n\"train.optimizer.lr\" = [0.1, 0.2]", &[]);
    let overview = study.overview().expect("every trial is valid");
    assert_eq!((overview.trials, overview.cells, overview.cohorts.len()), (12, 4, 2));
    assert_eq!(overview.cohorts.iter().map(|cohort| cohort.trials).collect::<Vec<_>>(), [6, 6]);
    let by_width: Vec<u64> = overview.cohorts.iter().map(|cohort| cohort.parameters).collect();
    assert_eq!(overview.parameters, (by_width[0], by_width[1]));
    let total: f64 =
        overview.cohorts.iter().map(|cohort| cohort.flops_per_update * 10.0 * cohort.trials as f64).sum();
    assert!((overview.flops / total - 1.0).abs() < 1e-12);
    let names: Vec<&str> = overview.varying.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(names, ["model.dim", "train.optimizer.lr", "seed"]);
}

#[test]
fn every_broken_combination_is_reported_and_the_walk_goes_on() {
    let study = study_with("[axes]\n\"model.dim\" = [8, 9, 10, 11]\nmodel.heads = [1, 2]", &[]);
    let outcomes: Vec<bool> = study.trials().map(|trial| trial.is_ok()).collect();
    assert_eq!(outcomes, [true, true, true, false, true, true, true, false]);
    let error = study.trials().find_map(Result::err).expect("9 is odd").to_string();
    assert!(
        error.contains("note: in the trial with model.dim = 9 (line 7), model.heads = 2 (line 8)"),
        "{error}"
    );
}

/// A grid over four axes with integer values, with conditions, as data.
#[derive(Clone, Debug)]
struct Grid {
    /// (path, values) in file order.
    axes: Vec<(&'static str, Vec<i64>)>,
    /// Whether the first two axes (cut to equal length) are zipped.
    zipped: bool,
    /// "When this path has this value": gets two seeds-like values on `train.steps` (under a cosine schedule).
    when: Option<(usize, i64)>,
    /// Pairs of (axis, value) that exclude together.
    excludes: Vec<Vec<(usize, i64)>>,
}

const PATHS: [&str; 4] = ["task.vocab", "model.dim", "train.batch", "seed"];

fn any_grid() -> impl Strategy<Value = Grid> {
    let lengths = prop::collection::vec(1i64..5, 1..=4);
    let order = Just(PATHS.to_vec()).prop_shuffle();
    (lengths, order, any::<bool>(), prop::option::of((0usize..4, 2i64..7)), excludes()).prop_map(
        |(lengths, order, zipped, when, excludes)| {
            let mut axes: Vec<(&'static str, Vec<i64>)> = order
                .into_iter()
                .zip(lengths)
                .map(|(path, length)| (path, (2..2 + length).collect()))
                .collect();
            let zipped = zipped && axes.len() > 1;
            if zipped {
                let shorter = axes[0].1.len().min(axes[1].1.len());
                axes[0].1.truncate(shorter);
                axes[1].1.truncate(shorter);
            }
            let exists = |(axis, value): &(usize, i64)| {
                axes.get(*axis).is_some_and(|(_, values)| values.contains(value))
            };
            let when = when.filter(exists);
            let excludes =
                excludes.into_iter().filter(|pairs| !pairs.is_empty() && pairs.iter().all(exists)).collect();
            Grid { axes, zipped, when, excludes }
        },
    )
}

fn excludes() -> impl Strategy<Value = Vec<Vec<(usize, i64)>>> {
    let pairs = prop::collection::btree_map(0usize..4, 2i64..7, 1..3);
    prop::collection::vec(pairs.prop_map(|pairs| pairs.into_iter().collect()), 0..3)
}

impl Grid {
    fn text(&self) -> String {
        let mut text = String::new();
        if self.zipped {
            text.push_str(&format!("zip = [[\"{}\", \"{}\"]]\n", self.axes[0].0, self.axes[1].0));
        }
        text.push_str("[axes]\n");
        for (path, values) in &self.axes {
            text.push_str(&format!("\"{path}\" = {values:?}\n"));
        }
        if let Some((axis, value)) = self.when {
            let path = self.axes[axis].0;
            text.push_str(&format!(
                "[[when]]\nmatch = {{ \"{path}\" = {value} }}\naxes = {{ \"train.steps\" = [20, 30] }}\n"
            ));
        }
        for pairs in &self.excludes {
            text.push_str("[[exclude]]\n");
            for (axis, value) in pairs {
                text.push_str(&format!("\"{}\" = {value}\n", self.axes[*axis].0));
            }
        }
        text
    }

    /// The expected combinations, by recursion over the axes.
    fn expand(&self) -> Vec<BTreeMap<&'static str, i64>> {
        let mut found = Vec::new();
        self.expand_from(0, &mut BTreeMap::new(), &mut found);
        found
    }

    fn expand_from(
        &self,
        axis: usize,
        chosen: &mut BTreeMap<&'static str, i64>,
        found: &mut Vec<BTreeMap<&'static str, i64>>,
    ) {
        let has = |chosen: &BTreeMap<&'static str, i64>, (axis, value): &(usize, i64)| {
            chosen.get(self.axes[*axis].0) == Some(value)
        };
        let Some((path, values)) = self.axes.get(axis) else {
            if self.excludes.iter().any(|pairs| pairs.iter().all(|pair| has(chosen, pair))) {
                return;
            }
            let steps: &[i64] =
                if self.when.is_some_and(|pair| has(chosen, &pair)) { &[20, 30] } else { &[10] };
            for steps in steps {
                let mut trial = chosen.clone();
                trial.insert("train.steps", *steps);
                found.push(trial);
            }
            return;
        };
        for (index, value) in values.iter().enumerate() {
            chosen.insert(path, *value);
            if self.zipped && axis == 0 {
                chosen.insert(self.axes[1].0, self.axes[1].1[index]);
                self.expand_from(2, chosen, found);
            } else {
                self.expand_from(axis + 1, chosen, found);
            }
        }
    }
}

fn number_at(trial: &TrialConfig, path: &str) -> i64 {
    let pointer = format!("/{}", path.replace('.', "/"));
    trial.to_json().pointer(&pointer).and_then(serde_json::Value::as_i64).expect("an integer")
}

proptest! {
    #[test]
    fn case_58_random_grids_expand_as_a_naive_expansion_does(grid in any_grid()) {
        let expected = grid.expand();
        // Under a cosine schedule the number of steps makes trials different.
        let cosine = [("train.schedule.kind".to_owned(), "cosine".to_owned())];
        let parsed = Study::parse(&format!("{BASE}{}", grid.text()), "grid.toml", Format::Toml, &cosine);
        if expected.is_empty() {
            let error = parsed.expect_err("a study without trials is refused").to_string();
            prop_assert!(error.contains("no trial is left"), "{}", error);
            return Ok(());
        }
        let study = match parsed {
            Ok(study) => study,
            Err(error) => return Err(TestCaseError::fail(format!("{error}\n{}", grid.text()))),
        };
        prop_assert_eq!(study.count(), expected.len() as u64);
        let found = trials(&study);
        for (trial, expected) in found.iter().zip(&expected) {
            for (path, value) in expected {
                prop_assert_eq!(number_at(trial, path), *value, "{}", path);
            }
        }
        prop_assert_eq!(trials(&study), found);
    }

}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// However long the axes are, counting takes no time: the product is checked, never expanded.
    #[test]
    fn case_58_long_axes_are_counted_without_expanding(lengths in prop::collection::vec(1u64..1_000_000, 4)) {
        let text = format!(
            "{BASE}[axes]\nseed = {{ range = [0, {}] }}\n\"task.vocab\" = {{ range = [2, {}] }}\n\
             \"train.steps\" = {{ range = [1, {}] }}\n\"model.dim\" = {{ range = [1, {}] }}\n",
            lengths[0], lengths[1] + 2, lengths[2] + 1, lengths[3] + 1
        );
        let count: u128 = lengths.iter().map(|length| u128::from(*length)).product();
        match Study::parse(&text, "grid.toml", Format::Toml, &[]) {
            Ok(study) => prop_assert_eq!(u128::from(study.count()), count),
            Err(error) => {
                prop_assert!(count > plateau_common::limits::MAX_TRIALS_PER_SWEEP, "{}", error);
                prop_assert!(error.to_string().contains(&format!("has {count} trials")), "{}", error);
            }
        }
    }
}
