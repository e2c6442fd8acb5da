//! Tree projections: how far a model computes a sentence's meaning along a tree (Murty et al. 2023, section 4.2 and appendix C).
//!
//! A span's *contextual* vector is the sum of the top states of its words in the whole sentence; its *context-free* one the same where
//! all layers see the start token and the span's words only. Their cosine S says how little the rest of the sentence matters to
//! the span. A binary tree is read off from the top: each span is split where S of the two parts adds up highest (the first of equals).
//!
//! Attention looks back only, so a word's context-free state depends on where its span begins and not on where it ends: n passes, over the
//! suffixes of the sentence with their positions unchanged, hold the states of all n (n + 1) / 2 spans, and the whole sentence is
//! one of them.
//!
//! - `t_score`: over the nodes of the tree, S of its split minus the mean over all splits, summed; mean over sentences;
//! - `t_score/sampled`: with one split drawn at random instead of the mean, as the released code has it (the same expectation);
//! - `t_score/random_trees`: the paper's form: the sum of 1 - S over a random tree's spans (each split equally likely), in expectation,
//!   minus that of the tree;
//! - `t_parseval`: F1 of the tree's brackets (spans of two words or more) against the right trees, counted over all sentences;
//! - `parse_baseline/right_branching`, `parse_baseline/left_branching`: the F1 of trees that branch one way only.

use plateau_common::random::{Stream, StreamFamily};
use plateau_common::tasks::{Input, Sentences};

use super::{Measured, Measuring};
use crate::error::LabError;
use crate::float::Float;
use crate::model::STATES;
use crate::network::Network;

/// Most numbers of states that are held at a time.
const STATE_NUMBERS: usize = 1 << 23;

pub(super) fn measure(measuring: &mut Measuring<'_>) -> Result<Measured, LabError> {
    let Some(sentences) = measuring.sentences else { return Ok(Vec::new()) };
    let splits = StreamFamily::new(0, "tree splits");
    let (mut scores, mut parse) = (Scores::default(), Parse::default());
    let mut number = 0;
    project(measuring.network, sentences, &mut |similarities| {
        let tree = Tree::greedy(similarities, &mut splits.at(number as u64));
        scores.add(&tree, similarities);
        if let Some(gold) = &sentences.trees {
            parse.add(&tree.brackets, &gold[number], similarities.words);
        }
        number += 1;
    })?;
    let mut measured = scores.means();
    if sentences.trees.is_some() {
        measured.extend(parse.named());
    }
    Ok(measured)
}

/// S of every span of a sentence.
struct Similarities {
    words: usize,
    /// `[first word, last word]`.
    all: Vec<f64>,
}

impl Similarities {
    /// Of the words `first..=last`.
    fn of(&self, first: usize, last: usize) -> f64 {
        self.all[first * self.words + last]
    }

    /// S of the two parts of `first..=last` that are split behind word `at`.
    fn split(&self, first: usize, at: usize, last: usize) -> f64 {
        self.of(first, at) + self.of(at + 1, last)
    }
}

/// Runs the model over all suffixes of all sentences and shows the similarities, sentence by sentence.
fn project(
    network: &Network,
    sentences: &Sentences,
    visit: &mut dyn FnMut(&Similarities),
) -> Result<(), LabError> {
    let mut group: Vec<&[u32]> = Vec::new();
    let mut tokens = 0;
    let width = network.width();
    for words in sentences.sentences() {
        // Its suffixes, each behind a start token.
        let own = words.len() * (words.len() + 3) / 2;
        if !group.is_empty() && (tokens + own) * width > STATE_NUMBERS {
            project_group(network, sentences.start, &group, visit)?;
            group.clear();
            tokens = 0;
        }
        group.push(words);
        tokens += own;
    }
    project_group(network, sentences.start, &group, visit)
}

fn project_group(
    network: &Network,
    start: u32,
    group: &[&[u32]],
    visit: &mut dyn FnMut(&Similarities),
) -> Result<(), LabError> {
    let (mut tokens, mut ends, mut positions) = (Vec::new(), Vec::new(), Vec::new());
    for words in group {
        for first in 0..words.len() {
            tokens.push(start);
            tokens.extend(&words[first..]);
            positions.push(0);
            positions.extend(first as u32 + 1..=words.len() as u32);
            ends.push(tokens.len() as u32);
        }
    }
    if tokens.is_empty() {
        return Ok(());
    }
    let input = Input::Ragged { tokens, ends, positions: Some(positions) };
    let mut states: Vec<f32> = Vec::new();
    let mut width = 0;
    network.run::<f32>(&input, true, |executor, micro_batch| {
        let named = &executor.program().named;
        if let Some((_, place)) = named.iter().find(|(name, _)| name == STATES) {
            width = place.extent.width;
            states.extend(executor.place(*place, micro_batch.examples));
        }
    })?;
    let mut from = 0;
    for words in group {
        let all = words.len() * (words.len() + 3) / 2 * width;
        visit(&similarities(words.len(), width, &states[from..from + all]));
        from += all;
    }
    Ok(())
}

/// From the states of a sentence's suffixes, `[suffix][start token and words][width]`.
fn similarities(words: usize, width: usize, states: &[f32]) -> Similarities {
    let mut all = vec![0.0; words * words];
    let whole = &states[width..];
    let mut suffix = 0;
    for first in 0..words {
        let own = &states[suffix + width..];
        let (mut contextual, mut free) = (vec![0.0; width], vec![0.0; width]);
        for last in first..words {
            add(&mut contextual, &whole[last * width..][..width]);
            add(&mut free, &own[(last - first) * width..][..width]);
            all[first * words + last] = cosine(&contextual, &free);
        }
        suffix += (words - first + 1) * width;
    }
    Similarities { words, all }
}

fn add(sum: &mut [f64], numbers: &[f32]) {
    sum.iter_mut().zip(numbers).for_each(|(sum, number)| *sum += number.wide());
}

/// The cosine of the angle between two vectors; 0 where one of them is nothing.
fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let size = (dot(a, a) * dot(b, b)).sqrt();
    if size > 0.0 { dot(a, b) / size } else { 0.0 }
}

/// The tree of a sentence.
#[derive(Default)]
struct Tree {
    /// What its nodes span: (first word, behind the last).
    brackets: Vec<(u16, u16)>,
    /// Sum over nodes of S of the split minus the mean over all splits, and minus that of one drawn at random.
    over_mean: f64,
    over_drawn: f64,
    /// Sum over all its spans, single words too, of 1 - S.
    distance: f64,
}

impl Tree {
    fn greedy(similarities: &Similarities, stream: &mut Stream) -> Self {
        let mut tree = Tree::default();
        let mut open = vec![(0, similarities.words - 1)];
        while let Some((first, last)) = open.pop() {
            tree.distance += 1.0 - similarities.of(first, last);
            if first == last {
                continue;
            }
            let (mut best, mut sum) = (first, 0.0);
            for at in first..last {
                let own = similarities.split(first, at, last);
                sum += own;
                if own > similarities.split(first, best, last) {
                    best = at;
                }
            }
            let drawn = first + stream.below((last - first) as u32) as usize;
            let highest = similarities.split(first, best, last);
            tree.over_mean += highest - sum / (last - first) as f64;
            tree.over_drawn += highest - similarities.split(first, drawn, last);
            tree.brackets.push((first as u16, last as u16 + 1));
            open.extend([(best + 1, last), (first, best)]);
        }
        tree.brackets.sort_unstable();
        tree
    }
}

/// The expected sum of 1 - S over the spans of a random tree, whose every split is equally likely.
fn random_distance(similarities: &Similarities) -> f64 {
    let words = similarities.words;
    let mut expected = vec![0.0; words * words];
    for length in 1..=words {
        for first in 0..=words - length {
            let last = first + length - 1;
            let parts =
                (first..last).map(|at| expected[first * words + at] + expected[(at + 1) * words + last]);
            let below = if length > 1 { parts.sum::<f64>() / (length - 1) as f64 } else { 0.0 };
            expected[first * words + last] = 1.0 - similarities.of(first, last) + below;
        }
    }
    expected[words - 1]
}

/// Sums over sentences.
#[derive(Default)]
struct Scores {
    over_mean: f64,
    over_drawn: f64,
    over_trees: f64,
    sentences: f64,
}

impl Scores {
    fn add(&mut self, tree: &Tree, similarities: &Similarities) {
        self.over_mean += tree.over_mean;
        self.over_drawn += tree.over_drawn;
        self.over_trees += random_distance(similarities) - tree.distance;
        self.sentences += 1.0;
    }

    fn means(&self) -> Measured {
        let named = [
            ("t_score", self.over_mean),
            ("t_score/sampled", self.over_drawn),
            ("t_score/random_trees", self.over_trees),
        ];
        named.into_iter().map(|(name, sum)| (name.to_owned(), sum / self.sentences)).collect()
    }
}

/// Brackets in common with the right trees, of the model's trees and of those that branch one way.
#[derive(Default)]
struct Parse {
    own: Overlap,
    right: Overlap,
    left: Overlap,
}

impl Parse {
    fn add(&mut self, brackets: &[(u16, u16)], gold: &[(u16, u16)], words: usize) {
        let words = words as u16;
        self.own.add(brackets.iter().copied(), gold);
        self.right.add((0..words.saturating_sub(1)).map(|first| (first, words)), gold);
        self.left.add((2..=words).map(|end| (0, end)), gold);
    }

    fn named(&self) -> Measured {
        let named = [
            ("t_parseval", self.own),
            ("parse_baseline/right_branching", self.right),
            ("parse_baseline/left_branching", self.left),
        ];
        named.into_iter().map(|(name, overlap)| (name.to_owned(), overlap.f1())).collect()
    }
}

/// Counts for F1.
#[derive(Clone, Copy, Default)]
struct Overlap {
    common: f64,
    found: f64,
    gold: f64,
}

impl Overlap {
    /// Adds one sentence; `gold` is sorted.
    fn add(&mut self, found: impl Iterator<Item = (u16, u16)>, gold: &[(u16, u16)]) {
        for bracket in found {
            self.found += 1.0;
            self.common += f64::from(u8::from(gold.binary_search(&bracket).is_ok()));
        }
        self.gold += gold.len() as f64;
    }

    /// 2 precision recall / (precision + recall).
    fn f1(self) -> f64 {
        2.0 * self.common / (self.found + self.gold)
    }
}
