//! From a task's batches to a program's slots.

use std::sync::LazyLock;

use plateau_common::random::Stream;
use plateau_common::tasks::{Batch, Input, Scale, Targets, spans};

use crate::cpu::{Feed, Sequences};
use crate::error::LabError;
use crate::float::Float;
use crate::program::{Program, Ragged, SlotSpecification, Source};

fn misfit(what: &str) -> LabError {
    LabError::Compute { doing: "preparing a batch", message: format!("{what} does not fit the model") }
}

/// What is random in an update besides its batch; nothing of it at evaluation.
#[derive(Default)]
pub(crate) struct Chance {
    /// The probability of dropout and the update's stream of it.
    pub dropout: Option<(f64, Stream)>,
    /// The update's stream of positions.
    pub positions: Option<Stream>,
}

/// Fills the slots of a program with a batch, in place. Sequences of lengths of their own are padded for a program that is laid out
/// for one length.
pub(crate) fn fill<T: Float>(
    feed: &mut Feed<T>,
    program: &Program,
    batch: &Batch,
    scale: Scale,
    chance: Chance,
) -> Result<(), LabError> {
    let mut sequences = std::mem::take(&mut feed.sequences);
    let filled = match (&batch.input, program.ragged) {
        (Input::Ragged { ends, positions: None, .. }, None) => {
            sequences.set(ends);
            let mut padded = std::mem::take(&mut feed.padded);
            batch.pad_into(program.output_rows(), &mut padded);
            let filled = fill_rows(feed, program, (&padded, &sequences), scale, chance);
            feed.padded = padded;
            filled
        }
        (Input::Ragged { tokens, ends, .. }, Some(ragged)) => {
            check_ends(tokens, ends, ragged).and_then(|()| {
                sequences.set(ends);
                fill_rows(feed, program, (batch, &sequences), scale, chance)
            })
        }
        (Input::Ragged { .. }, None) | (_, Some(_)) => Err(misfit("a batch of sequences of other lengths")),
        (_, None) => {
            sequences.set(&[]);
            fill_rows(feed, program, (batch, &sequences), scale, chance)
        }
    };
    feed.sequences = sequences;
    filled
}

/// Refuses sequences that are empty, too long or not those of the tokens.
fn check_ends(tokens: &[u32], ends: &[u32], ragged: Ragged) -> Result<(), LabError> {
    let mut start = 0;
    for end in ends {
        if *end <= start || (*end - start) as usize > ragged.longest {
            return Err(misfit(&format!("a sequence of {} tokens", i64::from(*end) - i64::from(start))));
        }
        start = *end;
    }
    if start as usize != tokens.len() { Err(misfit("the ends of the sequences")) } else { Ok(()) }
}

/// The outputs of padded sequences, sequence by sequence, without those of the padding: `visit(first token, outputs)`. `outputs` are those
/// of all rows, `length` a sequence, from sequence number `first` on.
pub(crate) fn without_padding<T>(
    ends: &[u32],
    (length, width): (usize, usize),
    first: usize,
    outputs: &[T],
    visit: &mut dyn FnMut(usize, &[T]),
) {
    for (sequence, outputs) in (first..).zip(outputs.chunks_exact(length * width)) {
        let start = sequence.checked_sub(1).map_or(0, |before| ends[before] as usize);
        visit(start, &outputs[..(ends[sequence] as usize - start) * width]);
    }
}

/// Fills the slots with a batch that is laid out as the program has it; `sequences` are those of its tokens, where there are such.
fn fill_rows<T: Float>(
    feed: &mut Feed<T>,
    program: &Program,
    (batch, sequences): (&Batch, &Sequences),
    scale: Scale,
    mut chance: Chance,
) -> Result<(), LabError> {
    let examples = match &batch.input {
        Input::Ragged { tokens, .. } => tokens.len(),
        _ => batch.examples(),
    };
    feed.examples = examples;
    feed.slots.resize_with(program.slots.len(), || crate::cpu::SlotData::Constant);
    let rows = examples * program.output_rows();
    let total = match &batch.weights {
        Some(weights) => weights.iter().map(|weight| f64::from(*weight)).sum(),
        None => rows as f64,
    };
    feed.loss_scale = 1.0 / total;
    for (slot, specification) in program.slots.iter().enumerate() {
        let count = match specification.source {
            Source::AttentionDropout { heads } if program.ragged.is_some() => {
                heads * sequences.squares_before(sequences.count())
            }
            _ => specification.extent.count(examples),
        };
        match specification.source {
            Source::Constant => {}
            Source::Dropout | Source::AttentionDropout { .. } => {
                let Some((probability, stream)) = &mut chance.dropout else {
                    return Err(misfit("an update without dropout"));
                };
                let numbers = feed.numbers_mut(slot);
                numbers.clear();
                let mut factors = Factors::new(*probability, stream);
                let padded = program.ragged.is_none().then(|| program.output_rows());
                match (specification.source, padded) {
                    (_, Some(_)) if sequences.count() == 0 => factors.draw(count, numbers),
                    (Source::AttentionDropout { heads }, _) => {
                        drop_weights(sequences, heads, padded, &mut factors, numbers);
                    }
                    (_, None) => factors.draw(count, numbers),
                    (_, Some(length)) => {
                        let width = specification.extent.rows.count(1) / length * specification.extent.width;
                        drop_rows(sequences, width, length, &mut factors, numbers);
                    }
                }
            }
            Source::Positions => {
                let Input::Ragged { positions, .. } = &batch.input else {
                    return Err(misfit("an input without sequences"));
                };
                let ids = feed.ids_mut(slot);
                ids.clear();
                match positions {
                    Some(own) => ids.extend(own),
                    None => (0..sequences.count()).for_each(|sequence| {
                        ids.extend(0..sequences.tokens(sequence).len() as u32);
                    }),
                }
            }
            Source::TokenRows { scheme } => {
                let (scheme, ids) = (&program.schemes[scheme], feed.ids_mut(slot));
                ids.clear();
                match &batch.input {
                    Input::Tokens { tokens, length } => {
                        scheme.rows(tokens, *length, chance.positions.as_mut(), ids);
                    }
                    Input::Ragged { tokens, ends, .. } => {
                        for own in spans(ends) {
                            let length = own.len();
                            scheme.rows(&tokens[own], length, chance.positions.as_mut(), ids);
                        }
                    }
                    Input::Counts { .. } => return Err(misfit("an input without positions")),
                }
            }
            Source::Numbering { positions } => {
                let Some(stream) = &mut chance.positions else {
                    return Err(misfit("an update without random positions"));
                };
                choose(stream, positions, count, feed.ids_mut(slot));
            }
            Source::Tokens
            | Source::Pairs { .. }
            | Source::LastPair { .. }
            | Source::LogCounts
            | Source::LastToken => {
                fill_input(feed, slot, specification, &batch.input)?;
            }
            Source::Classes | Source::Values | Source::Weights => {
                fill_answers(feed, slot, specification, batch, scale, program.outputs.extent.width)?;
            }
        }
        let filled = match &feed.slots[slot] {
            crate::cpu::SlotData::Constant => count,
            crate::cpu::SlotData::Ids(ids) => ids.len(),
            crate::cpu::SlotData::Numbers(numbers) => numbers.len(),
        };
        if specification.source != Source::Constant && filled != count {
            return Err(misfit(&format!(
                "a batch with {filled} numbers for {count} of {}",
                specification.name
            )));
        }
    }
    Ok(())
}

/// Random words drawn at once for dropout.
const WORDS: usize = 256;

/// Draws dropout factors: 0 with the probability (to within 2⁻³²), else what keeps the mean.
struct Factors<'a> {
    stream: &'a mut Stream,
    words: [u32; WORDS],
    /// Words of them that have been used.
    used: usize,
    /// Words below this mean 0.
    threshold: u32,
    keep: f64,
}

impl<'a> Factors<'a> {
    fn new(probability: f64, stream: &'a mut Stream) -> Self {
        let threshold = (probability * 2f64.powi(32)).round() as u32;
        Factors { stream, words: [0; WORDS], used: WORDS, threshold, keep: 1.0 / (1.0 - probability) }
    }

    /// Adds `count` factors to `numbers`.
    fn draw<T: Float>(&mut self, count: usize, numbers: &mut Vec<T>) {
        let (keep, threshold) = (T::of(self.keep), self.threshold);
        let mut wanted = count;
        while wanted > 0 {
            if self.used == WORDS {
                self.stream.fill_words(&mut self.words);
                self.used = 0;
            }
            let taken = wanted.min(WORDS - self.used);
            let words = &self.words[self.used..self.used + taken];
            numbers.extend(words.iter().map(|word| if *word < threshold { T::ZERO } else { keep }));
            self.used += taken;
            wanted -= taken;
        }
    }
}

/// Dropout factors of the rows, `width` wide, of sequences that are padded to `length`: padding takes no chances, so that padded sequences
/// drop out as others do.
fn drop_rows<T: Float>(
    sequences: &Sequences,
    width: usize,
    length: usize,
    factors: &mut Factors<'_>,
    numbers: &mut Vec<T>,
) {
    for sequence in 0..sequences.count() {
        factors.draw(sequences.tokens(sequence).len() * width, numbers);
        numbers.resize((sequence + 1) * length * width, T::ZERO);
    }
}

/// Dropout factors of all weights that causal attention has: for each sequence of n tokens `[n, heads, n]`, 0 where a query does not see
/// the key; or with each n padded to one length.
fn drop_weights<T: Float>(
    sequences: &Sequences,
    heads: usize,
    padded: Option<usize>,
    factors: &mut Factors<'_>,
    numbers: &mut Vec<T>,
) {
    for sequence in 0..sequences.count() {
        let tokens = sequences.tokens(sequence).len();
        let length = padded.unwrap_or(tokens);
        for query in 0..tokens {
            for _ in 0..heads {
                factors.draw(query + 1, numbers);
                numbers.extend(std::iter::repeat_n(T::ZERO, length - query - 1));
            }
        }
        numbers.extend(std::iter::repeat_n(T::ZERO, (length - tokens) * heads * length));
    }
}

/// An increasing random choice of `count` out of `0..all` (Knuth's selection sampling).
fn choose(stream: &mut Stream, all: usize, count: usize, chosen: &mut Vec<u32>) {
    chosen.clear();
    for candidate in 0..all {
        let wanted = count - chosen.len();
        if wanted > 0 && (stream.below((all - candidate) as u32) as usize) < wanted {
            chosen.push(candidate as u32);
        }
    }
}

fn fill_input<T: Float>(
    feed: &mut Feed<T>,
    slot: usize,
    specification: &SlotSpecification,
    input: &Input,
) -> Result<(), LabError> {
    match (specification.source, input) {
        (Source::Tokens, Input::Tokens { tokens, .. } | Input::Ragged { tokens, .. }) => {
            refill(feed.ids_mut(slot), tokens.iter().copied())
        }
        (Source::Pairs { vocabulary }, Input::Tokens { tokens, length }) => {
            let pair = |(at, token): (usize, &u32)| (at % length * vocabulary) as u32 + token;
            refill(feed.ids_mut(slot), tokens.iter().enumerate().map(pair));
        }
        (Source::LastPair { vocabulary }, Input::Tokens { tokens, length }) => {
            let from = ((length - 1) * vocabulary) as u32;
            let last = tokens.iter().skip(length - 1).step_by(*length).map(|token| from + token);
            refill(feed.ids_mut(slot), last);
        }
        (Source::LogCounts, Input::Counts { counts, .. }) => {
            let numbers = feed.numbers_mut(slot);
            numbers.clear();
            numbers.extend(counts.iter().map(|count| T::of(logarithm_of_count(*count))));
        }
        (Source::LastToken, Input::Counts { last, .. }) => refill(feed.ids_mut(slot), last.iter().copied()),
        _ => return Err(misfit("the form of a batch's inputs")),
    }
    Ok(())
}

/// The natural logarithm of a count; those of small ones are looked up.
fn logarithm_of_count(count: f32) -> f64 {
    static SMALL: LazyLock<[f64; 1024]> = LazyLock::new(|| std::array::from_fn(|count| (count as f64).ln()));
    let whole = count as usize;
    match SMALL.get(whole) {
        Some(logarithm) if whole as f32 == count => *logarithm,
        _ => f64::from(count).ln(),
    }
}

fn refill(ids: &mut Vec<u32>, from: impl Iterator<Item = u32>) {
    ids.clear();
    ids.extend(from);
}

fn fill_answers<T: Float>(
    feed: &mut Feed<T>,
    slot: usize,
    specification: &SlotSpecification,
    batch: &Batch,
    scale: Scale,
    classes: usize,
) -> Result<(), LabError> {
    match (specification.source, &batch.targets) {
        (Source::Classes, Targets::Classes(ids)) => {
            if ids.iter().any(|id| *id as usize >= classes) {
                return Err(misfit("an answer beyond the classes"));
            }
            refill(feed.ids_mut(slot), ids.iter().copied());
        }
        (Source::Values, Targets::Scalars(values)) => {
            let numbers = feed.numbers_mut(slot);
            numbers.clear();
            let value = |number: &f32| T::of((f64::from(*number) - scale.mean) / scale.deviation);
            numbers.extend(values.iter().map(value));
        }
        (Source::Weights, _) => {
            let numbers = feed.numbers_mut(slot);
            numbers.clear();
            let weights = batch.weights.iter().flatten();
            numbers.extend(weights.map(|weight| T::of(f64::from(*weight))));
        }
        _ => return Err(misfit("the kind of a batch's answers")),
    }
    Ok(())
}

/// Refuses tokens that a model of this vocabulary has no embedding for.
pub(crate) fn check_tokens(input: &Input, vocabulary: usize) -> Result<(), LabError> {
    let ids = match input {
        Input::Tokens { tokens, .. } | Input::Ragged { tokens, .. } => tokens,
        Input::Counts { last, .. } => last,
    };
    if ids.iter().any(|id| *id as usize >= vocabulary) {
        return Err(misfit(&format!("a token beyond the vocabulary of {vocabulary}")));
    }
    Ok(())
}
