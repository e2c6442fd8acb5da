//! Most frequent element (MFE): how often does the most frequent token occur, or which one is it? (Yehudai et
//! al. 2024, arXiv 2407.15160; switches: docs/science.md, "Counting".)

use serde::Serialize;

use super::query_count::{Counting, TargetScale};
use super::sequences::{Sequence, Sequences};
use super::{
    Batch, Draw, Examples, Form, Head, Memory, Output, ReadOut, Scale, Seeds, Split, Targets, Task, TaskShape,
};
use crate::fields::{ConfigResult, Fields};
use crate::random::Stream;

/// What is asked about the most frequent token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum MostFrequentTarget {
    /// How often it occurs.
    Count,
    /// Which it is; any of several most frequent tokens is right, the lowest is trained towards.
    Token,
}

/// `[task] kind = "most-frequent"`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct MostFrequent {
    #[serde(flatten)]
    counting: Counting,
    /// Default `"count"`; `"token"` implies classification over the vocabulary.
    pub target: MostFrequentTarget,
}

/// Samples from which the mean and deviation of the label are measured for `target-scale = "standardised"`.
const SCALE_SAMPLES: usize = 2000;

impl Task for MostFrequent {
    fn read(mut fields: Fields<'_>) -> ConfigResult<Self> {
        let mut counting = Counting::read(&mut fields)?;
        let targets = [("count", MostFrequentTarget::Count), ("token", MostFrequentTarget::Token)];
        let target = fields.choice("target", &targets)?.unwrap_or(MostFrequentTarget::Count);
        if target == MostFrequentTarget::Token {
            if fields.node("head").is_some() && counting.head == Head::Regress {
                return Err(fields
                    .error("head", "a token cannot be regressed")
                    .suggest("remove `head`, or set target = \"count\""));
            }
            counting.head = Head::Classify;
        }
        fields.finish()?;
        Ok(MostFrequent { counting, target })
    }

    fn shape(&self) -> TaskShape {
        let output = match self.target {
            MostFrequentTarget::Count => self.counting.output(),
            MostFrequentTarget::Token => Output::Classes(self.counting.vocab),
        };
        TaskShape {
            vocabulary: self.counting.vocab,
            length: self.counting.length,
            output,
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
        let sequences = Sequences::new(seeds, self.counting.vocab, self.counting.length, false);
        let scale = match (self.target, self.counting.target_scale) {
            (MostFrequentTarget::Count, TargetScale::Standardised) => measured_scale(&sequences, seeds.data),
            _ => Scale::RAW,
        };
        Box::new(MostFrequentExamples { task: self.clone(), sequences, scale })
    }
}

fn highest(counts: &[u32]) -> u32 {
    counts.iter().copied().fold(0, u32::max)
}

fn measured_scale(sequences: &Sequences, seed: u64) -> Scale {
    let mut labels = Vec::with_capacity(SCALE_SAMPLES);
    let stream = Stream::new(seed, "target-scale", 0);
    sequences.draw(stream, SCALE_SAMPLES, Form::Counts, (Vec::new(), Vec::new()), |sequence| {
        labels.push(f64::from(highest(sequence.counts)));
    });
    let mean = labels.iter().sum::<f64>() / labels.len() as f64;
    let variance = labels.iter().map(|label| (label - mean).powi(2)).sum::<f64>() / labels.len() as f64;
    // A length of 1 has one label only; any positive deviation serves.
    Scale { mean, deviation: if variance > 0.0 { variance.sqrt() } else { 1.0 } }
}

struct MostFrequentExamples {
    task: MostFrequent,
    sequences: Sequences,
    scale: Scale,
}

impl MostFrequentExamples {
    fn write(&self, stream: Stream, examples: usize, form: Form, batch: &mut Batch) {
        match self.task.target {
            MostFrequentTarget::Count => {
                let count = |sequence: Sequence<'_>| highest(sequence.counts);
                self.task.counting.write(&self.sequences, stream, examples, form, batch, count);
            }
            MostFrequentTarget::Token => self.write_tokens(stream, examples, form, batch),
        }
    }

    /// Overwrites `batch` with sequences and the tokens that are most frequent in them.
    fn write_tokens(&self, stream: Stream, examples: usize, form: Form, batch: &mut Batch) {
        let Memory { ids, counts, mut classes, mut also_correct, .. } = batch.take_memory();
        classes.reserve(examples);
        // The most there can be, so that no draw with more ties than those before it needs more memory.
        also_correct.reserve(examples * (self.task.counting.vocab.min(self.task.counting.length) - 1));
        let input = self.sequences.draw(stream, examples, form, (ids, counts), |sequence| {
            let row = classes.len() as u32;
            let top = highest(sequence.counts);
            let mut winners =
                (0..).zip(sequence.counts).filter(|(_, count)| **count == top).map(|(token, _)| token);
            classes.push(winners.next().unwrap_or(0));
            also_correct.extend(winners.map(|token| (row, token)));
        });
        *batch = Batch { input, targets: Targets::Classes(classes), weights: None, also_correct };
    }
}

impl Examples for MostFrequentExamples {
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
        self.scale
    }
}
