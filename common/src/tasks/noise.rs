//! Noise: fresh random tokens and random answers that have nothing to do with them. There is nothing to learn, so no model
//! does better than ln(vocabulary) in loss and 1/vocabulary in accuracy: a null control for every measurement, and, at any
//! shape, work for measurements of speed.

use serde::Serialize;

use super::test_set::read_test_examples;
use super::{
    Batch, Draw, Examples, Form, Input, Memory, Output, ReadOut, Seeds, Split, Targets, Task, TaskShape,
};
use crate::fields::{ConfigResult, Fields};
use crate::limits;
use crate::random::{Stream, StreamFamily};

/// `[task] kind = "noise"`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Noise {
    /// Token ids, and classes to answer with. Required.
    pub vocab: usize,
    /// Tokens per example. Required.
    pub length: usize,
    /// Where an answer is asked for. Default `"last"`.
    pub read_out: ReadOut,
    /// Size of the fixed test set. Default 1000.
    pub test_examples: usize,
}

/// Size of the test set where the study says none.
const DEFAULT_TEST_EXAMPLES: usize = 1000;

impl Task for Noise {
    fn read(mut fields: Fields<'_>) -> ConfigResult<Self> {
        let vocab = fields.integer("vocab", 1..=limits::MAX_VOCABULARY)?;
        let vocab = fields.require("vocab", vocab)?;
        let length = fields.integer("length", 1..=limits::MAX_LENGTH)?;
        let length = fields.require("length", length)?;
        let places = [("last", ReadOut::Last), ("every", ReadOut::Every)];
        let read_out = fields.choice("read-out", &places)?.unwrap_or(ReadOut::Last);
        let test_examples = read_test_examples(&mut fields, DEFAULT_TEST_EXAMPLES, length)?;
        fields.finish()?;
        Ok(Noise { vocab, length, read_out, test_examples })
    }

    fn shape(&self) -> TaskShape {
        TaskShape {
            vocabulary: self.vocab,
            length: self.length,
            output: Output::Classes(self.vocab),
            read_out: self.read_out,
        }
    }

    fn training_set_size(&self) -> Option<usize> {
        None
    }

    fn examples(&self, seeds: Seeds) -> Box<dyn Examples> {
        Box::new(NoiseExamples {
            task: self.clone(),
            train: StreamFamily::new(seeds.order, "train-data"),
            test: StreamFamily::new(seeds.data, "test-data"),
        })
    }
}

struct NoiseExamples {
    task: Noise,
    train: StreamFamily,
    test: StreamFamily,
}

impl NoiseExamples {
    /// Overwrites `batch` with `examples` examples of `stream`.
    fn write(&self, mut stream: Stream, examples: usize, batch: &mut Batch) {
        let Noise { vocab, length, read_out, .. } = self.task;
        let read_positions = match read_out {
            ReadOut::Last => 1,
            ReadOut::Every => length,
        };
        let Memory { ids: mut tokens, classes: mut answers, .. } = batch.take_memory();
        tokens.resize(examples * length, 0);
        stream.fill_below(vocab as u32, &mut tokens);
        answers.resize(examples * read_positions, 0);
        stream.fill_below(vocab as u32, &mut answers);
        *batch = Batch {
            input: Input::Tokens { tokens, length },
            targets: Targets::Classes(answers),
            weights: None,
            also_correct: Vec::new(),
        };
    }
}

impl Examples for NoiseExamples {
    fn draw(&self, draw: Draw, _form: Form, batch: &mut Batch) {
        self.write(self.train.at(draw.update), draw.size.unwrap_or(1), batch);
    }

    fn evaluation(&self, split: Split, _form: Form) -> Option<Batch> {
        match split {
            Split::Train => None,
            Split::Test => {
                Some(Batch::filled(|batch| self.write(self.test.at(0), self.task.test_examples, batch)))
            }
        }
    }
}
