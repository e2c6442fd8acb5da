//! Random token sequences shared by the counting tasks: every token independently uniform (Yehudai et al.
//! 2024, arXiv 2407.15160; docs/science.md, "Counting").

use super::{Form, Input};
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
}

/// One example: token counts, and the last token.
pub(super) struct Sequence<'a> {
    /// Occurrences of every token among those drawn (an appended query is not counted).
    pub counts: &'a [u32],
    /// The last token of the sequence, appended or not.
    pub last: u32,
}

impl Sequences {
    pub fn new(seed: u64, vocabulary: usize, drawn: usize, appended: bool) -> Self {
        Sequences {
            vocabulary: vocabulary as u32,
            drawn,
            appended,
            train: StreamFamily::new(seed, "train-data"),
            test: StreamFamily::new(seed, "test-data"),
        }
    }

    /// Draws `examples` sequences, hands each to `label`, and writes the inputs in `form`.
    pub fn draw(
        &self,
        mut stream: Stream,
        examples: usize,
        form: Form,
        mut label: impl FnMut(Sequence<'_>),
    ) -> Input {
        let length = self.drawn + usize::from(self.appended);
        let vocabulary = self.vocabulary as usize;
        let mut tokens = Vec::with_capacity(if form == Form::Tokens { examples * length } else { 0 });
        let mut all_counts = Vec::with_capacity(if form == Form::Counts { examples * vocabulary } else { 0 });
        let mut all_last = Vec::with_capacity(examples);
        let mut counts = vec![0u32; vocabulary];
        for _ in 0..examples {
            counts.fill(0);
            let mut last = 0;
            for position in 0..length {
                last = stream.below(self.vocabulary);
                if position < self.drawn {
                    counts[last as usize] += 1;
                }
                if form == Form::Tokens {
                    tokens.push(last);
                }
            }
            label(Sequence { counts: &counts, last });
            if form == Form::Counts {
                let start = all_counts.len();
                all_counts.extend(counts.iter().map(|count| *count as f32));
                if self.appended {
                    all_counts[start + last as usize] += 1.0;
                }
            }
            all_last.push(last);
        }
        match form {
            Form::Tokens => Input::Tokens { tokens, length },
            Form::Counts => Input::Counts { counts: all_counts, last: all_last },
        }
    }
}
