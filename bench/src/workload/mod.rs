//! Workloads: sizes of a model and its batches (`bench/workloads.json` says what one step is), as configurations of
//! trials, with the arithmetic that a step cannot do without.
//!
//! One file per kind of data. An entry of the file with a `task` is of that kind, any other of random tokens.

mod addition;
mod noise;
mod question_formation;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, bail};
use plateau_common::config::TrialConfig;
use plateau_common::identity::TrialId;
use plateau_lab::Member;
use serde_json::Value;

pub use addition::Addition;
pub use noise::Noise;
pub use question_formation::QuestionFormation;

/// One workload.
#[derive(Clone, Debug, PartialEq)]
pub enum Workload {
    /// Random tokens.
    Noise(Noise),
    /// Random additions; `"task": "addition"`.
    Addition(Addition),
    /// Language modelling of question formation; `"task": "question-formation"`.
    QuestionFormation(QuestionFormation),
}

/// Bytes the optimiser moves per parameter: AdamW reads the parameter, its gradient and two moments, and writes all but
/// the gradient, each a 32-bit number.
const OPTIMIZER_BYTES_PER_PARAMETER: u64 = 7 * 4;

impl Workload {
    /// The workloads of a file, by name. Entries whose name begins with `_` are remarks.
    ///
    /// # Errors
    /// When the file cannot be read or is not a table of workloads.
    pub fn read_all(path: &Path) -> anyhow::Result<BTreeMap<String, Workload>> {
        let name = path.display();
        let text =
            std::fs::read_to_string(path).with_context(|| format!("reading the workloads of {name}"))?;
        let entries: BTreeMap<String, Value> =
            serde_json::from_str(&text).with_context(|| format!("{name} is not a JSON object"))?;
        let workloads = entries.into_iter().filter(|(name, _)| !name.starts_with('_'));
        workloads
            .map(|(workload, sizes)| {
                let sizes =
                    Workload::read(sizes).with_context(|| format!("workload `{workload}` of {name}"))?;
                Ok((workload, sizes))
            })
            .collect()
    }

    fn read(mut sizes: Value) -> anyhow::Result<Workload> {
        let task = sizes.as_object_mut().and_then(|sizes| sizes.remove("task"));
        match task.as_ref().map(|task| task.as_str().unwrap_or_default()) {
            None => Ok(Workload::Noise(serde_json::from_value(sizes)?)),
            Some("addition") => Ok(Workload::Addition(serde_json::from_value(sizes)?)),
            Some("question-formation") => Ok(Workload::QuestionFormation(serde_json::from_value(sizes)?)),
            Some(other) => bail!(
                "unknown task `{other}`: use \"addition\" or \"question-formation\", or leave `task` out"
            ),
        }
    }

    /// The configuration of one replica, which is only ever evaluated before its first and after its last update, on as
    /// little as possible.
    ///
    /// # Errors
    /// When the sizes do not make a model (heads that do not divide the width, for example).
    pub fn config(&self, seed: u64, steps: u64) -> anyhow::Result<TrialConfig> {
        match self {
            Workload::Noise(noise) => noise.config(seed, steps),
            Workload::Addition(addition) => addition.config(seed, steps),
            Workload::QuestionFormation(questions) => questions.config(seed, steps),
        }
    }

    /// `replicas` trials that differ in their seed only.
    ///
    /// # Errors
    /// As [`Workload::config`], and for no replicas.
    pub fn members(&self, replicas: usize, steps: u64) -> anyhow::Result<Vec<Member>> {
        if replicas == 0 {
            bail!("no replicas: there is nothing to train");
        }
        let member = |seed| {
            let config = self.config(seed, steps)?;
            Ok(Member { id: TrialId::of(&config), config, resume: None })
        };
        (0..replicas as u64).map(member).collect()
    }

    /// Floating-point operations in matrix products and attention that one step of one replica cannot do without; an
    /// addition and a multiplication count as two. Norms, softmax, loss and look-ups count nothing.
    ///
    /// # Errors
    /// As [`Workload::config`].
    pub fn operations(&self) -> anyhow::Result<f64> {
        match self {
            Workload::Noise(noise) => Ok(noise.operations()),
            Workload::Addition(addition) => addition.operations(),
            Workload::QuestionFormation(questions) => questions.operations(),
        }
    }

    /// Tokens that one step of one replica learns from, on average; padding does not count.
    ///
    /// # Errors
    /// As [`Workload::config`].
    pub fn tokens(&self) -> anyhow::Result<f64> {
        match self {
            Workload::Noise(noise) => Ok((noise.batch * noise.length) as f64),
            Workload::Addition(addition) => addition.tokens(),
            Workload::QuestionFormation(questions) => questions.tokens(),
        }
    }

    /// Bytes the optimiser must move in one step of one replica.
    ///
    /// # Errors
    /// As [`Workload::config`].
    pub fn optimizer_bytes(&self) -> anyhow::Result<u64> {
        Ok(OPTIMIZER_BYTES_PER_PARAMETER * self.parameters()?)
    }

    /// Trained numbers of one replica.
    ///
    /// # Errors
    /// As [`Workload::config`].
    pub fn parameters(&self) -> anyhow::Result<u64> {
        Ok(plateau_common::cost::parameters(&self.config(0, 1)?))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

    use super::*;

    fn of_file(name: &str) -> BTreeMap<String, Workload> {
        Workload::read_all(&Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
    }

    pub(super) fn of_the_project() -> BTreeMap<String, Workload> {
        of_file("workloads.json")
    }

    /// As many as `bench/peers/torch_peer.py` counts in PyTorch's models; those of the papers are said to have 122 and 18.97
    /// million.
    #[test]
    fn parameters_of_the_workloads() {
        for (file, expected) in [
            (
                "workloads.json",
                &[
                    ("arithmetic", 89_088),
                    ("arithmetic-fire", 85_388),
                    ("counting", 35_744),
                    ("grammar", 3_202_560),
                    ("modular", 227_584),
                    ("structural", 208_071),
                    ("tiny", 54_144),
                ][..],
            ),
            (
                "workloads-paper.json",
                &[
                    ("arithmetic-paper", 122_267_648),
                    ("arithmetic-paper-small", 122_267_648),
                    ("structural-paper", 18_974_791),
                ],
            ),
        ] {
            let counts: Vec<(String, u64)> = of_file(file)
                .into_iter()
                .map(|(name, workload)| (name, workload.parameters().unwrap()))
                .collect();
            let expected: Vec<(String, u64)> =
                expected.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
            assert_eq!(counts, expected);
        }
    }

    #[test]
    fn tokens_of_the_workloads() {
        let tokens = |name: &str| of_the_project()[name].tokens().unwrap();
        assert_eq!(tokens("tiny"), 768.0);
        // `a+b=c` with 3.5 digits on average in a and in b, and 4.6 in c: the longer one's 4.5 and sometimes a carry.
        assert!((64.0 * 13.0..64.0 * 14.0).contains(&tokens("arithmetic")), "{}", tokens("arithmetic"));
    }

    #[test]
    fn a_file_that_is_no_table_of_workloads_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mine.json");
        for (text, named) in [
            ("[1]", "mine.json"),
            (r#"{"_": "remark", "odd": {"batch": 1}}"#, "odd"),
            (r#"{"odd": {"task": "addition", "batch": 1}}"#, "odd"),
            (r#"{"odd": {"task": "subtraction"}}"#, "subtraction"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = format!("{:#}", Workload::read_all(&path).unwrap_err());
            assert!(error.contains(named), "{error}");
        }
        assert!(of_the_project()["tiny"].members(0, 1).is_err());
    }
}
