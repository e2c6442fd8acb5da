//! Query count (QC): how often does the query token occur in the sequence? (Yehudai et al. 2024, arXiv
//! 2407.15160; switches and label laws: docs/science.md, "Counting".)

use serde::Serialize;

use super::sequences::{Sequence, Sequences};
use super::test_set::read_test_examples;
use super::{
    Batch, Draw, Examples, Form, Memory, Output, ReadOut, Scale, Seeds, Split, Targets, Task, TaskShape,
};
use crate::fields::{ConfigError, ConfigResult, Fields};
use crate::limits;
use crate::random::Stream;

/// Where the query stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum QueryMode {
    /// The last token of the sequence is the query and counts itself: labels start at 1.
    LastInSequence,
    /// A further token after the sequence is the query: labels may be 0.
    Appended,
}

/// How a count is put out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Head {
    /// One number, mean squared error; right if it rounds to the count.
    Regress,
    /// One class per count.
    Classify,
}

/// The unit in which a regressed count is learnt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TargetScale {
    /// The count itself.
    Raw,
    /// Minus its mean, divided by its standard deviation; undone before rounding.
    Standardised,
}

/// Settings shared by the counting tasks.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Counting {
    /// Different tokens, m. Required, at least 2.
    pub vocab: usize,
    /// Tokens per sequence, n. Default `length-per-token` times `vocab`.
    pub length: usize,
    /// Default `"regress"`.
    pub head: Head,
    /// Default `"raw"`.
    pub target_scale: TargetScale,
    /// Classes 0..=max-count under `head = "classify"`; larger counts are put into the last. Default n.
    pub max_count: usize,
    /// Size of the fixed test set. Default 1600.
    pub test_examples: usize,
}

impl Counting {
    pub fn read(fields: &mut Fields<'_>) -> ConfigResult<Self> {
        let vocab = fields.integer("vocab", 2..=limits::MAX_VOCABULARY)?;
        let vocab = fields.require("vocab", vocab)?;
        let per_token = fields.integer("length-per-token", 1..=limits::MAX_LENGTH)?;
        let length = fields.integer("length", 1..=limits::MAX_LENGTH)?;
        let length = match (per_token, length) {
            (Some(per_token), Some(length)) if per_token.checked_mul(vocab) != Some(length) => {
                return Err(fields
                    .error(
                        "length",
                        format!("{length} contradicts length-per-token = {per_token} at vocab = {vocab}"),
                    )
                    .suggest("give one of the two"));
            }
            (_, Some(length)) => length,
            (per_token, None) => per_token.unwrap_or(10).saturating_mul(vocab),
        };
        if length > limits::MAX_LENGTH {
            return Err(fields
                .error("length-per-token", format!("sequences of {length} tokens are too long"))
                .suggest(format!("at most {}", limits::MAX_LENGTH)));
        }
        let heads = [("regress", Head::Regress), ("classify", Head::Classify)];
        let scales = [("raw", TargetScale::Raw), ("standardised", TargetScale::Standardised)];
        let test_examples = read_test_examples(fields, 1600, length)?;
        Ok(Counting {
            vocab,
            length,
            head: fields.choice("head", &heads)?.unwrap_or(Head::Regress),
            target_scale: fields.choice("target-scale", &scales)?.unwrap_or(TargetScale::Raw),
            max_count: fields.integer("max-count", 1..=limits::MAX_LENGTH)?.unwrap_or(length),
            test_examples,
        })
    }

    pub fn output(&self) -> Output {
        match self.head {
            Head::Regress => Output::Scalar,
            Head::Classify => Output::Classes(self.max_count + 1),
        }
    }

    /// Overwrites `batch` with `examples` sequences of `stream`; the answer to each is what `count` finds in it.
    pub fn write(
        &self,
        sequences: &Sequences,
        stream: Stream,
        examples: usize,
        form: Form,
        batch: &mut Batch,
        count: impl Fn(Sequence<'_>) -> u32,
    ) {
        let Memory { ids, counts, mut classes, mut scalars, .. } = batch.take_memory();
        let (input, targets) = match self.head {
            Head::Regress => {
                scalars.reserve(examples);
                let label = |sequence: Sequence<'_>| scalars.push(count(sequence) as f32);
                (sequences.draw(stream, examples, form, (ids, counts), label), Targets::Scalars(scalars))
            }
            Head::Classify => {
                classes.reserve(examples);
                let last = self.max_count as u32;
                let label = |sequence: Sequence<'_>| classes.push(count(sequence).min(last));
                (sequences.draw(stream, examples, form, (ids, counts), label), Targets::Classes(classes))
            }
        };
        *batch = Batch { input, targets, weights: None, also_correct: Vec::new() };
    }
}

/// `[task] kind = "query-count"`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct QueryCount {
    #[serde(flatten)]
    counting: Counting,
    /// Default `"last-in-sequence"`.
    pub query_mode: QueryMode,
}

impl QueryCount {
    fn appended(&self) -> bool {
        self.query_mode == QueryMode::Appended
    }

    /// Mean and variance of the label: 1 + Binomial(n - 1, 1/m), or Binomial(n, 1/m) for an appended query.
    pub fn label_moments(&self) -> (f64, f64) {
        let share = 1.0 / self.counting.vocab as f64;
        let (certain, trials) = match self.query_mode {
            QueryMode::LastInSequence => (1.0, self.counting.length as f64 - 1.0),
            QueryMode::Appended => (0.0, self.counting.length as f64),
        };
        (certain + trials * share, trials * share * (1.0 - share))
    }
}

impl Task for QueryCount {
    fn read(mut fields: Fields<'_>) -> ConfigResult<Self> {
        let counting = Counting::read(&mut fields)?;
        let modes = [("last-in-sequence", QueryMode::LastInSequence), ("appended", QueryMode::Appended)];
        let query_mode = fields.choice("query-mode", &modes)?.unwrap_or(QueryMode::LastInSequence);
        let task = QueryCount { counting, query_mode };
        if task.counting.target_scale == TargetScale::Standardised && task.label_moments().1 == 0.0 {
            return Err(ConfigError::new(
                fields.path_of("target-scale"),
                fields.location_of("target-scale"),
                "the count never varies at this length, so it cannot be standardised",
            )
            .suggest("use longer sequences"));
        }
        fields.finish()?;
        Ok(task)
    }

    fn shape(&self) -> TaskShape {
        TaskShape {
            vocabulary: self.counting.vocab,
            length: self.counting.length + usize::from(self.appended()),
            output: self.counting.output(),
            read_out: ReadOut::Last,
        }
    }

    fn training_set_size(&self) -> Option<usize> {
        None
    }

    fn supports_counts(&self) -> bool {
        true
    }

    fn examples(&self, seeds: Seeds) -> Box<dyn Examples> {
        let sequences = Sequences::new(seeds, self.counting.vocab, self.counting.length, self.appended());
        Box::new(QueryCountExamples { task: self.clone(), sequences })
    }
}

struct QueryCountExamples {
    task: QueryCount,
    sequences: Sequences,
}

impl QueryCountExamples {
    fn write(&self, stream: Stream, examples: usize, form: Form, batch: &mut Batch) {
        let count = |sequence: Sequence<'_>| sequence.counts[sequence.last as usize];
        self.task.counting.write(&self.sequences, stream, examples, form, batch, count);
    }
}

impl Examples for QueryCountExamples {
    fn draw(&self, draw: Draw, form: Form, batch: &mut Batch) {
        self.write(self.sequences.train.at(draw.update), draw.size.unwrap_or(1), form, batch);
    }

    fn evaluation(&self, split: Split, form: Form) -> Option<Batch> {
        let (stream, examples) = (self.sequences.test.at(0), self.task.counting.test_examples);
        match split {
            Split::Train => None,
            Split::Test => Some(Batch::filled(|batch| self.write(stream, examples, form, batch))),
        }
    }

    fn scale(&self) -> Scale {
        match self.task.counting.target_scale {
            TargetScale::Raw => Scale::RAW,
            TargetScale::Standardised => {
                let (mean, variance) = self.task.label_moments();
                Scale { mean, deviation: variance.sqrt() }
            }
        }
    }
}
