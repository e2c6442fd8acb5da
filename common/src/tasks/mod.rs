//! Tasks: what is learnt. One file per task and one line in `task_list!` below.
//!
//! A task is a pure function: (configuration, seeds, step) -> examples. It therefore lives here, without tensors or I/O,
//! where the study file is validated as well; `plateau-lab` turns its batches into tensors.
//!
//! The contract of [`Task`] and [`Examples`] is checked for every entry of the list by `tests/tasks_conformance.rs`
//! and `tests/tasks_allocations.rs`.

mod addition;
mod arithmetic;
mod assessment;
mod batch;
mod bitwise_or;
mod dyck;
mod epochs;
mod grammar;
mod grid;
mod listing;
mod modular;
mod most_frequent;
mod multiplication;
mod noise;
mod query_count;
mod question_formation;
mod seeds;
mod sequences;
mod sorting;
mod subtraction;
mod tense_inflection;
mod test_set;

pub use addition::Addition;
pub use arithmetic::problem::IndexHints;
pub use arithmetic::rows::{LossMean, LossOn};
pub use assessment::{Assessment, AssessmentMetrics, Brackets, Mark, Questions, Ranked, Sentences};
pub use batch::{Batch, Draw, Form, Input, Memory, Targets, spans};
pub use bitwise_or::BitwiseOr;
pub use dyck::Dyck;
pub use grammar::settings::SetSettings;
pub use grid::{Cell, GridAxes};
pub use listing::{Listing, listings};
pub use modular::{Layout, Modular, Operation};
pub use most_frequent::{MostFrequent, MostFrequentTarget};
pub use multiplication::Multiplication;
pub use noise::Noise;
pub use query_count::{Head, QueryCount, QueryMode, TargetScale};
pub use question_formation::QuestionFormation;
pub use seeds::Seeds;
pub use sorting::Sorting;
pub use subtraction::Subtraction;
pub use tense_inflection::TenseInflection;

use std::borrow::Cow;
use std::ops::Range;

use serde::Serialize;

use crate::fields::{ConfigResult, Fields, unknown_word};

/// The sizes a model needs to know of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskShape {
    /// Input ids are below this.
    pub vocabulary: usize,
    /// Tokens per example.
    pub length: usize,
    /// What is predicted at a read position.
    pub output: Output,
    /// Where predictions are read.
    pub read_out: ReadOut,
}

/// What a model puts out at a read position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Logits over this many classes; cross-entropy.
    Classes(usize),
    /// One number; mean squared error.
    Scalar,
}

impl Output {
    /// Whether the output is one number.
    pub fn is_scalar(self) -> bool {
        self == Output::Scalar
    }

    /// Numbers per read position.
    pub fn width(self) -> usize {
        match self {
            Output::Classes(classes) => classes,
            Output::Scalar => 1,
        }
    }
}

/// Where predictions are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReadOut {
    /// At the last position only.
    Last,
    /// At every position.
    Every,
}

/// Which examples are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Split {
    /// Examples the model is trained on.
    Train,
    /// Held-out examples.
    Test,
}

/// Affine map from the model's scalar output to the task's unit: `value = output * deviation + mean`. The loss is taken
/// on the output side.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    /// Added.
    pub mean: f64,
    /// Multiplied; positive.
    pub deviation: f64,
}

impl Scale {
    /// No change of unit.
    pub const RAW: Scale = Scale { mean: 0.0, deviation: 1.0 };
}

/// A task's configuration and shape. Pure and cheap; all data comes from [`Task::examples`].
pub trait Task: Clone + std::fmt::Debug + PartialEq + Serialize + Sized {
    /// Reads and validates `[task]`; `kind` has been consumed. Must end with `fields.finish()`.
    fn read(fields: Fields<'_>) -> ConfigResult<Self>;
    /// Sizes a model needs.
    fn shape(&self) -> TaskShape;
    /// Number of training examples where that is finite; `None` where every step draws fresh ones.
    fn training_set_size(&self) -> Option<usize>;
    /// Whether [`Form::Counts`] may be asked for.
    fn supports_counts(&self) -> bool {
        false
    }
    /// Whether batches have weights.
    fn is_weighted(&self) -> bool {
        false
    }
    /// What [`Examples::assessments`] measure.
    fn assessment_metrics(&self) -> Vec<AssessmentMetrics> {
        Vec::new()
    }
    /// Whether [`Examples::sentences`] has some.
    fn has_sentences(&self) -> bool {
        false
    }
    /// Whether sequences have lengths of their own ([`Input::Ragged`]); then the mean number of their tokens, and the shape's length is the
    /// longest.
    fn mean_length(&self) -> Option<f64> {
        None
    }
    /// The tokens that are digits, for positions counted within numbers; empty: none are.
    fn digits(&self) -> Range<u32> {
        0..0
    }
    /// The sizes along which problems can be made longer than in training, where there are such.
    fn grid(&self) -> Option<GridAxes> {
        None
    }
    /// Tokens of a row as people read them, where they mean characters; what pads a row's end is left out.
    fn text(&self, tokens: &[u32]) -> Option<String> {
        let _ = tokens;
        None
    }
    /// How many words of a line ask, where lines are a prompt and its answer.
    fn prompt(&self, line: &[u32]) -> Option<usize> {
        let _ = line;
        None
    }
    /// The examples of the trial with these seeds: equal seeds give equal examples, always. What [`Examples::draw`] gives hangs on
    /// [`Seeds::order`] (and, where it comes out of a split of finite data, on the split); everything else, splits, evaluation sets,
    /// cells and scale, on [`Seeds::data`] alone.
    fn examples(&self, seeds: Seeds) -> Box<dyn Examples>;
}

/// The examples of one trial.
pub trait Examples: Send {
    /// Overwrites `batch` with that of an update. A pure function: neither earlier calls nor what `batch` held change what is
    /// drawn.
    ///
    /// A training step allocates nothing, so from the second draw of equal size and `form` into the same batch on this
    /// must not either: it writes into the batch's own [`Memory`], and what else it needs is kept between calls.
    fn draw(&self, draw: Draw, form: Form, batch: &mut Batch);
    /// The batch of [`Examples::draw`] in memory of its own, where all updates have batches of one size.
    fn train(&self, update: u64, size: Option<usize>, form: Form) -> Batch {
        Batch::filled(|batch| self.draw(Draw::of(update, size), form, batch))
    }
    /// The fixed evaluation set of a split, or `None` for the training split of a task with endless data.
    fn evaluation(&self, split: Split, form: Form) -> Option<Batch>;
    /// The problems of one cell of the evaluation grid, `problems` of them or all there are: a function of the seed and the
    /// cell. Sequences are as long as the cell's longest problem needs, whatever the length in training. Empty where the task has no
    /// [`Task::grid`].
    fn cell(&self, cell: Cell, problems: usize) -> Batch {
        let _ = (cell, problems);
        Batch::empty()
    }
    /// The sets that the task scores by a rule of its own, at an evaluation after `step` updates. (Most are the same at every step; a
    /// sample of a large one may not be.)
    fn assessments(&self, step: u64) -> Vec<Cow<'_, Assessment>> {
        let _ = step;
        Vec::new()
    }
    /// Marks what was decoded for sequence number `example` of an assessment: `said`, without the end. Only asked where the task has
    /// [`Questions::Decoded`].
    fn mark(&self, assessment: &Assessment, example: usize, said: &[u32]) -> Mark {
        let _ = (assessment, example, said);
        Mark::default()
    }
    /// So many sentences of the training data (or all there are), the same at every call, to look at a model's inside with; `None`: the task has no
    /// sentences.
    fn sentences(&self, count: usize) -> Option<Sentences> {
        let _ = count;
        None
    }
    /// The unit of scalar outputs.
    fn scale(&self) -> Scale {
        Scale::RAW
    }
}

/// Declares the list of tasks: the enum, reading by `kind`, and dispatch.
macro_rules! task_list {
    ($($kind:literal => $name:ident),+ $(,)?) => {
        /// A task's settings, by kind.
        #[derive(Clone, Debug, PartialEq, Serialize)]
        #[serde(tag = "kind")]
        pub enum TaskConfig {
            $(#[doc = concat!("`kind = \"", $kind, "\"`.")] #[serde(rename = $kind)] $name($name),)+
        }

        impl TaskConfig {
            /// Names of all tasks, in the order of the list.
            pub const KINDS: &'static [&'static str] = &[$($kind),+];

            /// Reads `[task]`.
            pub fn read(mut fields: Fields<'_>) -> ConfigResult<Self> {
                let kind = fields.text("kind")?;
                let kind = fields.require("kind", kind)?;
                match kind {
                    $($kind => Ok(TaskConfig::$name(<$name as Task>::read(fields)?)),)+
                    unknown => {
                        let words: Vec<(&str, ())> = Self::KINDS.iter().map(|kind| (*kind, ())).collect();
                        let error = fields.error("kind", format!("unknown task `{unknown}`"));
                        Err(unknown_word(error, unknown, &words))
                    }
                }
            }

            /// The task's name.
            pub fn kind(&self) -> &'static str {
                match self { $(TaskConfig::$name(_) => $kind,)+ }
            }

            /// Sizes a model needs.
            pub fn shape(&self) -> TaskShape {
                match self { $(TaskConfig::$name(task) => task.shape(),)+ }
            }

            /// Number of training examples where that is finite.
            pub fn training_set_size(&self) -> Option<usize> {
                match self { $(TaskConfig::$name(task) => task.training_set_size(),)+ }
            }

            /// Whether [`Form::Counts`] may be asked for.
            pub fn supports_counts(&self) -> bool {
                match self { $(TaskConfig::$name(task) => task.supports_counts(),)+ }
            }

            /// Whether batches have weights.
            pub fn is_weighted(&self) -> bool {
                match self { $(TaskConfig::$name(task) => task.is_weighted(),)+ }
            }

            /// What the sets that the task scores by a rule of its own measure.
            pub fn assessment_metrics(&self) -> Vec<AssessmentMetrics> {
                match self { $(TaskConfig::$name(task) => task.assessment_metrics(),)+ }
            }

            /// Whether there are sentences to look at a model's inside with.
            pub fn has_sentences(&self) -> bool {
                match self { $(TaskConfig::$name(task) => task.has_sentences(),)+ }
            }

            /// The mean number of tokens of a sequence, where they differ.
            pub fn mean_length(&self) -> Option<f64> {
                match self { $(TaskConfig::$name(task) => task.mean_length(),)+ }
            }

            /// The tokens that are digits; empty: none are.
            pub fn digits(&self) -> Range<u32> {
                match self { $(TaskConfig::$name(task) => task.digits(),)+ }
            }

            /// The sizes along which problems can be made longer than in training.
            pub fn grid(&self) -> Option<GridAxes> {
                match self { $(TaskConfig::$name(task) => task.grid(),)+ }
            }

            /// Tokens of a row as people read them, where they mean characters.
            pub fn text(&self, tokens: &[u32]) -> Option<String> {
                match self { $(TaskConfig::$name(task) => task.text(tokens),)+ }
            }

            /// How many words of a line ask, where lines are a prompt and its answer.
            pub fn prompt(&self, line: &[u32]) -> Option<usize> {
                match self { $(TaskConfig::$name(task) => task.prompt(line),)+ }
            }

            /// The examples of the trial with these seeds; a plain number stands for a trial's seed and its own order.
            pub fn examples(&self, seeds: impl Into<Seeds>) -> Box<dyn Examples> {
                let seeds = seeds.into();
                match self { $(TaskConfig::$name(task) => task.examples(seeds),)+ }
            }
        }
    };
}

task_list! {
    "modular" => Modular,
    "query-count" => QueryCount,
    "most-frequent" => MostFrequent,
    "noise" => Noise,
    "addition" => Addition,
    "subtraction" => Subtraction,
    "multiplication" => Multiplication,
    "sorting" => Sorting,
    "bitwise-or" => BitwiseOr,
    "question-formation" => QuestionFormation,
    "tense-inflection" => TenseInflection,
    "dyck" => Dyck,
}

impl TaskConfig {
    /// Whether this is addition modulo p, for which Fourier probes are defined.
    pub fn is_modular_addition(&self) -> bool {
        matches!(self, TaskConfig::Modular(task) if task.operation == Operation::Add)
    }
}
