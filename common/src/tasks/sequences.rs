//! Random token sequences shared by the counting tasks: every token independently uniform (Yehudai et al.
//! 2024, arXiv 2407.15160; docs/science.md, "Counting").

use std::cell::RefCell;

use super::{Form, Input, Seeds};
use crate::random::{Stream, StreamFamily};

/// Draws sequences of one trial.
pub(super) struct Sequences {
    pub vocabulary: u32,
    /// Tokens drawn independently, without an appended query.
    pub drawn: usize,
    /// Whether a further uniform token is appended as the query.
    pub appended: bool,
    pub train: StreamFamily,
    pub test: StreamFamily,
    scratch: RefCell<Scratch>,
}

/// Memory kept between draws.
#[derive(Default)]
struct Scratch {
    /// The tokens of one sequence, where they are not written down.
    tokens: Vec<u32>,
    /// The counts of one sequence.
    counts: Vec<u32>,
}

/// One example: token counts, and the last token.
pub(super) struct Sequence<'a> {
    /// Occurrences of every token among those drawn (an appended query is not counted).
    pub counts: &'a [u32],
    /// The last token of the sequence, appended or not.
    pub last: u32,
}

impl Sequences {
    pub fn new(seeds: Seeds, vocabulary: usize, drawn: usize, appended: bool) -> Self {
        Sequences {
            vocabulary: vocabulary as u32,
            drawn,
            appended,
            train: StreamFamily::new(seeds.order, "train-data"),
            test: StreamFamily::new(seeds.data, "test-data"),
            scratch: RefCell::default(),
        }
    }

    /// Draws `examples` sequences, hands each to `label`, and writes the inputs in `form` into the emptied `ids` and
    /// `counts`.
    pub fn draw(
        &self,
        mut stream: Stream,
        examples: usize,
        form: Form,
        (mut ids, mut counts): (Vec<u32>, Vec<f32>),
        mut label: impl FnMut(Sequence<'_>),
    ) -> Input {
        let length = self.drawn + usize::from(self.appended);
        let scratch = &mut *self.scratch.borrow_mut();
        scratch.counts.resize(self.vocabulary as usize, 0);
        match form {
            Form::Tokens => {
                ids.resize(examples * length, 0);
                stream.fill_as_below(self.vocabulary, &mut ids);
                ids.chunks_exact(length).for_each(|tokens| label(self.count(tokens, &mut scratch.counts)));
                Input::Tokens { tokens: ids, length }
            }
            Form::Counts => {
                scratch.tokens.resize(length, 0);
                ids.reserve(examples);
                counts.reserve(examples * self.vocabulary as usize);
                for _ in 0..examples {
                    stream.fill_as_below(self.vocabulary, &mut scratch.tokens);
                    let sequence = self.count(&scratch.tokens, &mut scratch.counts);
                    let (start, last) = (counts.len(), sequence.last);
                    counts.extend(sequence.counts.iter().map(|count| *count as f32));
                    if self.appended {
                        counts[start + last as usize] += 1.0;
                    }
                    ids.push(last);
                    label(sequence);
                }
                Input::Counts { counts, last: ids }
            }
        }
    }

    /// Counts the tokens of one sequence into `counts`.
    fn count<'a>(&self, tokens: &[u32], counts: &'a mut [u32]) -> Sequence<'a> {
        counts.fill(0);
        tokens[..self.drawn].iter().for_each(|token| counts[*token as usize] += 1);
        Sequence { counts, last: tokens[tokens.len() - 1] }
    }
}
