//! Study files on disk and on the wire: reading, `--set`, and the analysis plan inside.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use clap::{Args, ValueHint};
use plateau_analysis::analyses::Known;
use plateau_analysis::metric::measured;
use plateau_analysis::plan::Plan;
use plateau_common::limits;
use plateau_common::study::{Format, Study, StudyError, StudySource};
use plateau_proto::v1;

use crate::exit::{Exit, Failure};
use crate::results;

/// A study file and its overrides, as given on the command line.
#[derive(Args, Clone, Debug)]
pub struct StudyArguments {
    /// Study file (.toml, .yaml or .json)
    #[arg(value_name = "STUDY", value_hint = ValueHint::FilePath)]
    pub study: PathBuf,

    /// Override a value, e.g. `--set train.steps=500` or `--set axes.seed=[0,1]`; may be repeated
    #[arg(long = "set", value_name = "PATH=VALUE", value_parser = parse_override)]
    pub overrides: Vec<(String, String)>,
}

/// A study that can be run, and what to make of its results.
pub struct ReadStudy {
    /// The study.
    pub study: Study,
    /// Its statistics and figures.
    pub plan: Plan,
}

impl StudyArguments {
    /// Reads and validates the study with its overrides.
    pub fn read(&self) -> Result<ReadStudy, Failure> {
        let source = read_source(&self.study, &self.overrides)?;
        read_study(&source)
    }

    /// The words that name the same study again on a command line.
    pub fn as_words(&self) -> String {
        let mut words = crate::client::shell_word(&self.study.to_string_lossy());
        for (path, value) in &self.overrides {
            words.push_str(&format!(" --set {}", crate::client::shell_word(&format!("{path}={value}"))));
        }
        words
    }
}

/// Reads `PATH=VALUE`.
pub fn parse_override(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((path, value)) if !path.trim().is_empty() => {
            Ok((path.trim().to_owned(), value.trim().to_owned()))
        }
        _ => Err("expected PATH=VALUE, e.g. train.steps=500".to_owned()),
    }
}

fn read_source(path: &Path, overrides: &[(String, String)]) -> Result<StudySource, Failure> {
    let shown = path.display();
    let invalid = |error: anyhow::Error| Failure::new(Exit::InvalidStudy, error);
    let file_name = path.to_string_lossy().into_owned();
    let format = Format::from_file_name(&file_name).ok_or_else(|| {
        invalid(anyhow!(
            "{shown}: a study file ends in .toml, .yaml, .yml or .json, so that its syntax is known"
        ))
    })?;
    let file = std::fs::File::open(path).with_context(|| format!("reading the study file {shown}"))?;
    let mut bytes = Vec::new();
    // One byte more than allowed, so that a file that is too long is noticed without being read.
    std::io::Read::read_to_end(
        &mut std::io::Read::take(file, limits::MAX_STUDY_BYTES as u64 + 1),
        &mut bytes,
    )
    .with_context(|| format!("reading the study file {shown}"))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let line = error
            .as_bytes()
            .iter()
            .take(error.utf8_error().valid_up_to())
            .filter(|byte| **byte == b'\n')
            .count();
        invalid(anyhow!("{shown}:{}: the file is not UTF-8 text", line + 1))
    })?;
    Ok(StudySource { text, file_name, format, overrides: overrides.to_vec() })
}

/// Reads a study from its source, with its analysis plan; errors name file and line.
pub fn read_study(source: &StudySource) -> Result<ReadStudy, Failure> {
    let study = Study::from_source(source).map_err(|error| Failure::new(Exit::InvalidStudy, error))?;
    let plan = read_plan(&study).map_err(|error| Failure::new(Exit::InvalidStudy, error))?;
    Ok(ReadStudy { study, plan })
}

/// Most trials that are walked to learn which parameters a study has.
const MAX_WALKED_TRIALS: u64 = 10_000;

fn read_plan(study: &Study) -> Result<Plan, StudyError> {
    let names = names_of(study)?;
    let known = names.as_ref().map_or_else(Known::default, |(parameters, metrics)| Known {
        parameters: Some(parameters),
        metrics: Some(metrics),
    });
    let plan = Plan::read(&study.analysis, &study.figures, known);
    Ok(plan.map_err(|error| study.error(error))?.with_axes(study.varying_paths()))
}

/// Dotted paths, and metrics.
type Names = (Vec<String>, Vec<String>);

/// All dotted paths that trials of the study have and all metrics that they measure, so that a slip in an analysis is
/// noticed before anything runs; `None` for studies too large to look at every trial.
fn names_of(study: &Study) -> Result<Option<Names>, StudyError> {
    if study.count() > MAX_WALKED_TRIALS {
        return Ok(None);
    }
    let mut paths: BTreeSet<String> = study.varying_paths().into_iter().collect();
    let mut metrics: BTreeSet<String> = BTreeSet::new();
    // What is measured follows from these; a grid can have thousands of metrics, most trials of a study the same.
    let mut looked_at: BTreeSet<String> = BTreeSet::new();
    for config in study.trials() {
        let config = config?;
        paths.extend(results::flatten(&config.to_json()).into_keys());
        let key = format!("{:?} {:?} {:?}", config.evaluate, config.model, config.task.grid());
        if looked_at.insert(key) {
            metrics.extend(measured(&config));
        }
    }
    Ok(Some((paths.into_iter().collect(), metrics.into_iter().collect())))
}

/// The wire form of a study.
pub fn to_wire(source: &StudySource) -> v1::StudySource {
    let format = match source.format {
        Format::Toml => v1::StudyFormat::Toml,
        Format::Yaml => v1::StudyFormat::Yaml,
        Format::Json => v1::StudyFormat::Json,
    };
    v1::StudySource {
        file_name: source.file_name.clone(),
        format: format as i32,
        text: source.text.clone(),
        overrides: source
            .overrides
            .iter()
            .map(|(path, value)| v1::Override { path: path.clone(), value: value.clone() })
            .collect(),
    }
}

/// The study in a coordinator's answer.
pub fn from_wire(source: Option<v1::StudySource>) -> anyhow::Result<StudySource> {
    let source = source.context("the coordinator's answer holds no study")?;
    let format = match v1::StudyFormat::try_from(source.format) {
        Ok(v1::StudyFormat::Toml) => Format::Toml,
        Ok(v1::StudyFormat::Yaml) => Format::Yaml,
        Ok(v1::StudyFormat::Json) => Format::Json,
        Ok(v1::StudyFormat::Unspecified) | Err(_) => {
            return Err(anyhow!(
                "the coordinator's answer holds a study of unknown format {}",
                source.format
            ));
        }
    };
    Ok(StudySource {
        text: source.text,
        file_name: source.file_name,
        format,
        overrides: source.overrides.into_iter().map(|set| (set.path, set.value)).collect(),
    })
}
