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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail where it stands")]
mod tests {
    use plateau_common::config::TrialConfig;
    use serde_json::json;

    use super::*;

    const WORDS: usize = 6;
    const WIDTH: usize = 16;
    const START: u32 = 6;
    /// Logits of what is not looked at, and by how much a level of the tree further out counts less.
    const NEVER: f64 = -60.0;
    const LEVEL: f64 = 0.1;
    /// What a word takes in of what it looks at.
    const TAKEN: f64 = 1.5;

    /// A model over sentences of six different words whose attention, by position, is given: `logits[query][key]`, where 0 is the start
    /// token's place.
    fn model(logits: &[[f64; WORDS + 1]; WORDS + 1]) -> Network {
        let config = TrialConfig::from_json(&json!({
            "task": {"kind": "noise", "vocab": 7, "length": WORDS + 1, "read-out": "every"},
            "model": {"kind": "transformer", "layers": 1, "heads": 1, "dim": WIDTH, "mlp-dim": 4, "norm": "none",
                "positions": "learned"},
            "train": {"steps": 1, "batch": 4, "optimizer": {"kind": "adam", "lr": 1e-3}}
        }));
        let config = config.unwrap();
        let mut network = Network::new(&config.model, config.task.shape(), 3);
        // Words are coordinates 0 to 5, places 8 to 14, weaker, so that sums are mostly words.
        let place = |position: usize| 8 + position;
        let weak = 0.1;
        let mut set = |name: &str, rows: usize, numbers: &[(usize, usize, f64)]| {
            let mut all = vec![0.0; rows * WIDTH];
            numbers.iter().for_each(|(row, column, number)| all[row * WIDTH + column] = *number);
            network.set(name, &all).unwrap();
        };
        let words: Vec<_> = (0..WORDS).map(|word| (word, word, 1.0)).collect();
        let places: Vec<_> = (0..=WORDS).map(|position| (position, place(position), weak)).collect();
        set("embedding.token", 7, &words);
        set("embedding.position", WORDS + 1, &places);
        let scale = (WIDTH as f64).sqrt() / (weak * weak);
        let asked = |query: usize| (0..=WORDS).map(move |key| (query, key));
        let queries: Vec<_> = (0..=WORDS)
            .flat_map(asked)
            .map(|(query, key)| (place(query), key, logits[query][key] * scale))
            .collect();
        let keys: Vec<_> = (0..=WORDS).map(|position| (place(position), position, 1.0)).collect();
        set("blocks.0.attention.query", WIDTH, &queries);
        set("blocks.0.attention.key", WIDTH, &keys);
        set("blocks.0.attention.value", WIDTH, &words);
        let taken: Vec<_> = (0..WORDS).map(|word| (word, word, TAKEN)).collect();
        set("blocks.0.attention.output", WIDTH, &taken);
        network.set("blocks.0.mlp.down", &[0.0; 4 * WIDTH]).unwrap();
        network
    }

    /// Every word looks at what comes before it in the constituents that end with it (but not in the sentence as a whole), most at
    /// the smallest.
    fn along(gold: &[(u16, u16)]) -> [[f64; WORDS + 1]; WORDS + 1] {
        let mut logits = [[NEVER; WORDS + 1]; WORDS + 1];
        for (word, logits) in logits.iter_mut().skip(1).enumerate() {
            logits[word + 1] = 0.0;
            let ending =
                |bracket: &&(u16, u16)| usize::from(bracket.1) == word + 1 && **bracket != (0, WORDS as u16);
            let mut constituents: Vec<usize> =
                gold.iter().filter(ending).map(|(first, _)| usize::from(*first)).collect();
            constituents.sort_unstable_by(|a, b| b.cmp(a));
            let mut end = word;
            for (level, first) in constituents.into_iter().enumerate() {
                (first..end).for_each(|key| logits[key + 1] = -LEVEL * level as f64);
                end = first;
            }
        }
        logits
    }

    fn sentences(gold: &[(u16, u16)]) -> Sentences {
        let orders = [[0, 1, 2, 3, 4, 5], [5, 3, 1, 0, 2, 4], [2, 0, 5, 4, 1, 3]];
        Sentences {
            start: START,
            words: orders.concat(),
            ends: vec![6, 12, 18],
            trees: Some(vec![gold.to_vec(); 3]),
        }
    }

    fn measured(network: &Network, sentences: &Sentences) -> Vec<(String, f64)> {
        let (mut scores, mut parse) = (Scores::default(), Parse::default());
        let mut number = 0;
        project(network, sentences, &mut |similarities| {
            let tree = Tree::greedy(similarities, &mut Stream::new(0, "splits", number as u64));
            scores.add(&tree, similarities);
            parse.add(&tree.brackets, &sentences.trees.as_ref().unwrap()[number], similarities.words);
            number += 1;
        })
        .unwrap();
        [scores.means(), parse.named()].concat()
    }

    fn value(measured: &[(String, f64)], name: &str) -> f64 {
        measured.iter().find(|(own, _)| own == name).unwrap().1
    }

    /// ((Det N) (Prep (Det N))) V; and Det N with a relative clause; and one that branches left.
    const TREES: [[(u16, u16); 5]; 3] = [
        [(0, 2), (0, 5), (0, 6), (2, 5), (3, 5)],
        [(0, 2), (0, 6), (2, 6), (3, 6), (4, 6)],
        [(0, 2), (0, 3), (0, 4), (0, 5), (0, 6)],
    ];

    #[test]
    fn a_model_that_composes_along_the_right_tree_is_found_to() {
        for gold in TREES {
            let sentences = sentences(&gold);
            let along_tree = measured(&model(&along(&gold)), &sentences);
            let mut even = [[0.0; WORDS + 1]; WORDS + 1];
            even.iter_mut().for_each(|row| row[0] = NEVER);
            let even = measured(&model(&even), &sentences);
            assert_eq!(value(&along_tree, "t_parseval"), 1.0, "{gold:?}");
            let right = gold.iter().filter(|(_, end)| *end == 6).count() as f64 / 5.0;
            let left = gold.iter().filter(|(first, _)| *first == 0).count() as f64 / 5.0;
            assert_eq!(value(&along_tree, "parse_baseline/right_branching"), right);
            assert_eq!(value(&along_tree, "parse_baseline/left_branching"), left);
            let (own, other) = (value(&along_tree, "t_score"), value(&even, "t_score"));
            assert!(own > 1.2 * other && own > 0.05, "{gold:?}: {own}, {other} of even attention");
            assert!(value(&along_tree, "t_score/random_trees") > 0.0, "other trees are further away");
        }
    }

    /// The suffix passes against the definition: one pass for each span, that sees the start token and the span only.
    #[test]
    fn suffixes_hold_the_states_of_all_spans() {
        let config = TrialConfig::from_json(&json!({
            "task": {"kind": "noise", "vocab": 7, "length": 9, "read-out": "every"},
            "model": {"kind": "transformer", "layers": 3, "heads": 2, "dim": WIDTH, "norm": "post",
                "positions": "sinusoidal", "scaled-embedding": true},
            "train": {"steps": 1, "batch": 4, "optimizer": {"kind": "adam", "lr": 1e-3}}
        }));
        let config = config.unwrap();
        let network = Network::new(&config.model, config.task.shape(), 5);
        let words = [3, 1, 4, 1, 5, 0, 2];
        let of_span = |first: usize, last: usize| {
            let tokens: Vec<u32> =
                std::iter::once(START).chain(words[first..=last].iter().copied()).collect();
            let positions = std::iter::once(0).chain(first as u32 + 1..=last as u32 + 1).collect();
            let ends = vec![tokens.len() as u32];
            let input = Input::Ragged { tokens, ends, positions: Some(positions) };
            let mut sums = Vec::new();
            network
                .run::<f32>(&input, true, |executor, micro_batch| {
                    let (_, place) =
                        executor.program().named.iter().find(|(name, _)| name == STATES).unwrap().clone();
                    let states = executor.place(place, micro_batch.examples);
                    // Sums behind each word.
                    let mut sum = vec![0.0; WIDTH];
                    for state in states.chunks_exact(WIDTH).skip(1) {
                        add(&mut sum, state);
                        sums.push(sum.clone());
                    }
                })
                .unwrap();
            sums
        };
        let whole = of_span(0, words.len() - 1);
        let sentence =
            Sentences { start: START, words: words.to_vec(), ends: vec![words.len() as u32], trees: None };
        let mut seen = 0;
        project(&network, &sentence, &mut |similarities| {
            seen += 1;
            for first in 0..words.len() {
                for last in first..words.len() {
                    let free = of_span(first, last);
                    let before = |index: usize| if first == 0 { 0.0 } else { whole[first - 1][index] };
                    let contextual: Vec<f64> =
                        (0..WIDTH).map(|index| whole[last][index] - before(index)).collect();
                    let expected = cosine(&contextual, free.last().unwrap());
                    let found = similarities.of(first, last);
                    assert!((found - expected).abs() < 1e-5, "{first}..={last}: {found}, {expected}");
                }
            }
            assert!(similarities.of(1, 3) < 0.999, "context matters in this model");
            assert!((similarities.of(0, 3) - 1.0).abs() < 1e-6, "nothing stands before a prefix");
        })
        .unwrap();
        assert_eq!(seen, 1);
    }

    /// S by hand: (0 1) 2 is best from the top; the expectation over trees by listing them all.
    #[test]
    fn scores_of_a_sentence_worked_out_by_hand() {
        let words = 4;
        let mut all = vec![0.0; words * words];
        let mut set = |first: usize, last: usize, number: f64| all[first * words + last] = number;
        (0..words).for_each(|word| set(word, word, 0.5));
        for (first, last, number) in
            [(0, 1, 0.9), (1, 2, 0.3), (2, 3, 0.6), (0, 2, 0.4), (1, 3, 0.2), (0, 3, 1.0)]
        {
            set(first, last, number);
        }
        let similarities = Similarities { words, all };
        let tree = Tree::greedy(&similarities, &mut Stream::new(1, "splits", 0));
        // Splits of the whole: 0.5 + 0.2, 0.9 + 0.6, 0.4 + 0.5.
        assert_eq!(tree.brackets, [(0, 2), (0, 4), (2, 4)]);
        assert!((tree.over_mean - (1.5 - 3.1 / 3.0)).abs() < 1e-12);
        assert!((tree.distance - (0.0 + 0.1 + 0.4 + 4.0 * 0.5)).abs() < 1e-12);
        let distance = |brackets: &[(usize, usize)]| -> f64 {
            2.0 + brackets.iter().map(|(first, last)| 1.0 - similarities.of(*first, *last)).sum::<f64>()
        };
        // The split behind the first word leaves two trees, that behind the second one, behind the third two.
        let expected = distance(&[(0, 3), (1, 3), (2, 3)]) / 6.0
            + distance(&[(0, 3), (1, 3), (1, 2)]) / 6.0
            + distance(&[(0, 3), (0, 1), (2, 3)]) / 3.0
            + distance(&[(0, 3), (0, 2), (0, 1)]) / 6.0
            + distance(&[(0, 3), (0, 2), (1, 2)]) / 6.0;
        assert!((random_distance(&similarities) - expected).abs() < 1e-12);
        // Drawn splits have the mean's expectation.
        let drawn = |number| Tree::greedy(&similarities, &mut Stream::new(1, "splits", number)).over_drawn;
        let mean = (0..4000).map(drawn).sum::<f64>() / 4000.0;
        assert!((mean - tree.over_mean).abs() < 0.02, "{mean} and {}", tree.over_mean);
    }

    #[test]
    fn brackets_are_counted_over_all_sentences() {
        let mut parse = Parse::default();
        parse.add(&[(0, 2), (0, 3)], &[(0, 3), (1, 3)], 3);
        parse.add(&[(0, 2)], &[(0, 2)], 2);
        parse.add(&[], &[], 1);
        let named = parse.named();
        // 2 of 3 in common; branching right 3 of 3, left as found.
        assert_eq!(value(&named, "t_parseval"), 2.0 / 3.0);
        assert_eq!(value(&named, "parse_baseline/right_branching"), 1.0);
        assert_eq!(value(&named, "parse_baseline/left_branching"), 2.0 / 3.0);
    }
}
