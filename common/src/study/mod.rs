//! The study file: from text to the lazily expanded list of resolved trials.
//!
//! Owns: the three syntaxes, overrides from the command line, axes (`values`, `range`, `linspace`, `logspace`), `zip`,
//! `[[when]]`, `[[exclude]]`, counting without expanding, expansion, the study's digest and overview, and errors that
//! name file, line and key. Leaves `[[analysis]]` and `[[figure]]` as raw nodes for `plateau-analysis`, and reads no
//! files.
//!
//! # The file
//!
//! | key | meaning |
//! |---|---|
//! | `name` | required; `[a-z0-9-_.]`, not starting with a dot |
//! | `description` | free text |
//! | `task`, `model`, `train`, `evaluate`, `checkpoint`, `fork`, `seed` | the base configuration |
//! | `axes` | dotted path -> values; the grid is their product. The last axis of the file varies fastest |
//! | `seeds` | `5` is the axis `seed` with values 0 to 4, `[7, 8]` with those; it is the last axis |
//! | `zip` | `[["model.dim", "model.heads"], …]`: axes of equal length that advance together, in the place of the first |
//! | `when` | blocks with `match` and `axes`, `zip`, `set`: axes and values of the combinations that match |
//! | `exclude` | tables of path = value or list of values: combinations that are dropped |
//! | `analysis`, `figure` | what to make of the results |
//!
//! **Axes.** A list of values (tables too: `"train.optimizer" = [{ kind = "adam", lr = 1e-3 }, …]`), or a table:
//! `{ values = […] }`; `{ range = [start, stop, step] }` over integers, without `stop`, step 1 if absent;
//! `{ linspace = [first, last], count = n }` and `{ logspace = [first, last], count = n }` with both ends. With `round =
//! true` values are rounded to integers, halves away from zero, and values that become equal are merged. With `base = 10`
//! the ends of `logspace` are exponents of it. Values between the ends are rounded to twelve significant digits. An
//! axis wins over the base. Where one axis names a table and another a value inside it, the value inside wins.
//!
//! **Conditions** (`match`, `exclude`) look at axes, at values set by earlier `[[when]]` blocks and at values *written* in
//! the base, not at defaults. All of a table's conditions must hold; a list means any of its values. `set` takes dotted
//! paths (in quotation marks) and replaces what stands there.
//!
//! **Overrides** (`--set path=value`): see [`Study::parse`].

mod axis;
mod conditions;
mod definition;
mod document;
mod error;
mod fork;
mod overrides;
mod overview;
mod plan;
mod trials;

pub use axis::Axis;
pub use document::Format;
pub use error::{Diagnosis, Origin, StudyError};
pub use fork::ForkPlan;
pub use overview::{CohortOverview, Overview};
pub use trials::Trials;

use plan::{Plan, Uncountable};

use crate::fields::ConfigError;
use crate::limits;
use crate::node::{Node, Value};

/// A study file as submitted: all that is needed to read it again elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StudySource {
    /// The file's text.
    pub text: String,
    /// The file's name, for messages.
    pub file_name: String,
    /// Its syntax.
    pub format: Format,
    /// `--set path=value` arguments as (path, value), in order.
    pub overrides: Vec<(String, String)>,
}

/// A valid study: its grid is known and counted, its first trial can be trained.
#[derive(Clone, Debug)]
pub struct Study {
    /// Its name.
    pub name: String,
    /// Free text; empty if there is none.
    pub description: String,
    /// The `[[analysis]]` tables, in file order, unread.
    pub analysis: Vec<Node>,
    /// The `[[figure]]` tables, in file order, unread.
    pub figures: Vec<Node>,
    source: StudySource,
    plan: Plan,
    count: u64,
    digest: String,
}

impl Study {
    /// Reads a study. `file_name` is used in messages only.
    ///
    /// `overrides` are (path, value) pairs from `--set path=value`; the value is read as TOML and, where it is none, as a
    /// word. A path of the configuration (`train.steps`) replaces the base value, any axis over it and any `[[when]]`
    /// value of it by this single value; `axes.PATH` (`axes.seed=[7,8]`) replaces or adds an axis; `seeds`, `name`,
    /// `description`, `zip`, `when`, `exclude`, `analysis`, `figure` are replaced whole. Later overrides win.
    ///
    /// Fails with the first error: bad syntax, unknown or duplicate keys, wrong types, axes that are empty or hold a value
    /// twice, conditions that never hold, more than [`limits::MAX_TRIALS_PER_SWEEP`] trials (counted, not expanded), no
    /// trial at all, or a first trial that cannot be trained. Other impossible combinations are found by
    /// [`Study::trials`] or [`Study::overview`].
    pub fn parse(
        text: &str,
        file_name: &str,
        format: Format,
        overrides: &[(String, String)],
    ) -> Result<Study, StudyError> {
        let placed = |error: ConfigError| StudyError::new(error, file_name, text, overrides);
        let definition = definition::read(text, format, overrides).map_err(placed)?;
        let count = checked_count(&definition.plan).map_err(placed)?;
        let study = Study {
            name: definition.name,
            description: definition.description,
            analysis: definition.analysis,
            figures: definition.figures,
            digest: digest(&definition.document),
            plan: definition.plan,
            count,
            source: StudySource {
                text: text.to_owned(),
                file_name: file_name.to_owned(),
                format,
                overrides: overrides.to_vec(),
            },
        };
        study.trials().next().transpose()?;
        Ok(study)
    }

    /// Reads a study as submitted.
    pub fn from_source(source: &StudySource) -> Result<Study, StudyError> {
        Study::parse(&source.text, &source.file_name, source.format, &source.overrides)
    }

    /// The study as submitted.
    pub fn source(&self) -> &StudySource {
        &self.source
    }

    /// Hash of the study's content (32 hexadecimal digits): equal for files that differ in comments, order of keys, syntax
    /// or file name only, different where any key or value differs.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The number of trials: exact, found without expanding, at least 1 and at most [`limits::MAX_TRIALS_PER_SWEEP`].
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The resolved trials in order, one at a time. Items are errors for combinations that cannot be trained (naming the
    /// combination) and for trials that occur twice; the walk continues after an error.
    pub fn trials(&self) -> Trials<'_> {
        Trials::new(self)
    }

    /// All axes in order, those of `[[when]]` blocks after the others.
    pub fn axes(&self) -> impl Iterator<Item = &Axis> {
        self.plan.axes()
    }

    /// The paths that vary between trials: axes, then values set by `[[when]]`; each once.
    pub fn varying_paths(&self) -> Vec<String> {
        let mut paths: Vec<String> = Vec::new();
        let axes = self.plan.axes().filter(|axis| axis.values.len() > 1).map(|axis| &axis.path);
        for path in axes.chain(self.plan.set_values().map(|(path, _)| path)) {
            if !paths.contains(path) {
                paths.push(path.clone());
            }
        }
        paths
    }

    /// The dotted paths of all single values written in the base configuration, in file order.
    pub fn base_paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        collect_paths(&self.plan.base, "", &mut paths);
        paths
    }

    /// Whether any of its trials may be a fork of another.
    pub fn has_forks(&self) -> bool {
        let sets = self.plan.set_values().map(|(path, _)| path.as_str());
        let paths = self.plan.axes().map(|axis| axis.path.as_str()).chain(sets);
        self.plan.base.at_path("fork").is_some()
            || paths.into_iter().any(|path| plan::is_inside(path, "fork"))
    }

    /// What the study holds and costs; fails with the first combination that cannot be trained.
    pub fn overview(&self) -> Result<Overview, StudyError> {
        overview::overview(self)
    }

    /// An error found in a part of the study that is read elsewhere (`analysis`, `figures`), placed in its file.
    pub fn error(&self, error: ConfigError) -> StudyError {
        StudyError::new(error, &self.source.file_name, &self.source.text, &self.source.overrides)
    }
}

fn collect_paths(node: &Node, prefix: &str, paths: &mut Vec<String>) {
    match &node.value {
        Value::Table(table) => table.entries.iter().for_each(|entry| {
            let path = if prefix.is_empty() { entry.key.clone() } else { format!("{prefix}.{}", entry.key) };
            collect_paths(&entry.node, &path, paths);
        }),
        _ => paths.push(prefix.to_owned()),
    }
}

fn checked_count(plan: &Plan) -> Result<u64, ConfigError> {
    let axes: Vec<String> =
        plan.axes().map(|axis| format!("{} ({})", axis.path, axis.values.len())).collect();
    let longest = plan.axes().max_by_key(|axis| axis.values.len());
    let at = longest.and_then(|axis| axis.location);
    let advice = format!("at most {}; the axes are {}", limits::MAX_TRIALS_PER_SWEEP, axes.join(", "));
    let error = |problem: String| ConfigError::new("axes", at, problem).suggest(advice.clone());
    match plan.count() {
        Ok(0) => Err(ConfigError::new(
            "exclude",
            plan.first_exclusion(),
            "every combination is excluded, so no trial is left",
        )
        .suggest("drop fewer combinations")),
        Ok(count) if count > limits::MAX_TRIALS_PER_SWEEP => {
            Err(error(format!("the study has {count} trials, which is too many")))
        }
        Ok(count) => u64::try_from(count).map_err(|_| error(format!("the study has {count} trials"))),
        Err(Uncountable::Overflow) => Err(error("the study has more than 2^128 trials".to_owned())),
        Err(Uncountable::Conditions) => Err(error(format!(
            "the axes that `when` and `exclude` look at have more than {} combinations",
            limits::MAX_EXAMINED_COMBINATIONS
        ))),
    }
}

fn digest(document: &Node) -> String {
    let mut hasher = blake3::Hasher::new_derive_key("plateau 2026 study digest v1");
    let mut text = String::new();
    crate::identity::write_canonical(&document.to_json(), &mut text);
    hasher.update(text.as_bytes());
    hasher.finalize().to_hex().as_str().chars().take(32).collect()
}
