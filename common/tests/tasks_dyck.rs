//! Brackets held against the released validation file of Murty et al. 2023 and against the exact law of the automaton that writes them.

mod lines;
mod task_list;

use std::collections::{BTreeMap, BTreeSet};

use lines::{assessment, count, lines, training};
use plateau_common::tasks::{Form, Questions, Split, TaskConfig};
use serde_json::json;
use task_list::{read, sentences};

fn paper() -> TaskConfig {
    read(&json!({"kind": "dyck"}))
}

/// A string read by a stack: the components' patterns, the greatest depth, and for every closing bracket how far back its opening one is.
#[derive(Debug, Default)]
struct Read {
    components: Vec<String>,
    depth: usize,
    distances: Vec<usize>,
}

fn check(line: &str) -> Read {
    let (mut open, mut read, mut pattern) = (Vec::new(), Read::default(), String::new());
    for (place, token) in line.split(' ').enumerate() {
        if let Some(kind) = token.strip_prefix('(') {
            open.push((kind, place));
            pattern.push('(');
        } else {
            let (kind, opened) = open.pop().expect("an open bracket");
            assert_eq!(token, format!("{kind})"), "{line}");
            read.distances.push(place - opened);
            pattern.push(')');
        }
        read.depth = read.depth.max(open.len());
        if open.is_empty() {
            read.components.push(std::mem::take(&mut pattern));
        }
    }
    assert!(open.is_empty(), "{line}");
    read
}

fn tokens(line: &str) -> usize {
    line.split(' ').count()
}

/// Chi-squared of two samples' counts of the same things, over those that are not rare, and how many things these are.
fn chi_squared<T: Ord + Copy>(a: &BTreeMap<T, f64>, b: &BTreeMap<T, f64>) -> (f64, usize) {
    let (total_a, total_b): (f64, f64) = (a.values().sum(), b.values().sum());
    let mut things = 0;
    let mut statistic = 0.0;
    for thing in a.keys().chain(b.keys()).copied().collect::<BTreeSet<T>>() {
        let of = |counts: &BTreeMap<T, f64>| counts.get(&thing).copied().unwrap_or(0.0);
        let share = (of(a) + of(b)) / (total_a + total_b);
        if share * total_a.min(total_b) < 5.0 {
            continue;
        }
        things += 1;
        statistic += (of(a) - share * total_a).powi(2) / (share * total_a);
        statistic += (of(b) - share * total_b).powi(2) / (share * total_b);
    }
    (statistic, things)
}

fn numbers<T: Ord>(counts: BTreeMap<T, usize>) -> BTreeMap<T, f64> {
    counts.into_iter().map(|(thing, count)| (thing, count as f64)).collect()
}

#[test]
fn sizes_are_those_of_the_paper() {
    let task = paper();
    assert_eq!((task.shape().vocabulary, task.shape().length), (43, 257));
    // Words are numbered in the order of their bytes, padding, end and start are none.
    let words: Vec<String> =
        (0..43).filter_map(|id| task.text(&[id])).filter(|word| !word.is_empty()).collect();
    assert!(words.len() == 40 && words.is_sorted(), "{words:?}");
    assert_eq!(task.text(&[42, 1, 20, 40, 21, 41, 0]).as_deref(), Some("(a (t t) a)"));
    assert_eq!(task.training_set_size(), Some(200_000));
    let examples = task.examples(0);
    assert_eq!(examples.evaluation(Split::Test, Form::Tokens).map(|batch| batch.examples()), Some(20_000));
    let mean = training(&task).iter().map(|line| tokens(line) + 1).sum::<usize>() as f64 / 2e5;
    println!("mean length {mean}, by the law {:?}", task.mean_length());
    assert!(task.mean_length().is_some_and(|law| (law - mean).abs() < 0.6), "{mean}");
}

/// How likely each length is: the automaton's states followed token by token.
fn law(depth: usize, shortest: usize, longest: usize) -> BTreeMap<usize, f64> {
    let mut states = vec![0.0; depth + 1];
    states[0] = 1.0;
    let mut law = BTreeMap::new();
    for length in 0..=longest {
        let stopped = if length >= shortest { 0.5 * states[0] } else { 0.0 };
        if stopped > 0.0 {
            law.insert(length, stopped);
        }
        states[0] -= stopped;
        let mut next = vec![0.0; depth + 1];
        for (open, chance) in states.iter().enumerate() {
            match open {
                0 => next[1] += chance,
                open if open == depth => next[open - 1] += chance,
                open => {
                    next[open - 1] += 0.5 * chance;
                    next[open + 1] += 0.5 * chance;
                }
            }
        }
        states = next;
    }
    law
}

#[test]
fn training_strings_follow_the_law_of_the_automaton() {
    let all = training(&paper());
    let read: Vec<Read> = all.iter().map(|line| check(line)).collect();
    assert_eq!(read.iter().map(|read| read.depth).max(), Some(10));
    let lengths = numbers(count(all.iter().map(|line| tokens(line))));
    // As if of so large a sample that its own scatter does not count.
    let law: BTreeMap<usize, f64> =
        law(10, 4, 256).into_iter().map(|(length, chance)| (length, 1e12 * chance)).collect();
    let cut = 1.0 - law.values().sum::<f64>() / 1e12;
    let (statistic, things) = chi_squared(&lengths, &law);
    println!("chi-squared {statistic:.1} over {things} lengths; {cut:.4} of all strings are longer");
    assert!(things > 100 && statistic < things as f64 + 5.0 * (2.0 * things as f64).sqrt(), "{statistic}");
    assert_eq!(lengths.keys().next(), Some(&4));
    let kinds =
        numbers(count(all.iter().flat_map(|line| line.split(' ')).filter(|token| token.starts_with('('))));
    let even = kinds.keys().map(|kind| (*kind, 1e12)).collect();
    let (statistic, things) = chi_squared(&kinds, &even);
    assert!(things == 20 && statistic < 60.0, "{statistic}: {kinds:?}");
}

/// Numbers counted on the released validation file: 20,000 strings of mean length 13.3, of 6 tokens and more, since every string of 4 is
/// one of training.
#[test]
fn validation_strings_are_like_the_released_ones() {
    let task = paper();
    let examples = task.examples(0);
    let validation = lines(&task, &examples.evaluation(Split::Test, Form::Tokens).expect("validation"));
    let read: Vec<Read> = validation.iter().map(|line| check(line)).collect();
    let released: BTreeMap<usize, f64> = [1274, 6255, 6032, 3775, 1805, 659, 162, 29, 6, 3]
        .iter()
        .zip(1..)
        .map(|(n, depth)| (depth, f64::from(*n)))
        .collect();
    let depths = numbers(count(read.iter().map(|read| read.depth)));
    let (statistic, things) = chi_squared(&depths, &released);
    println!("depths {depths:?}: chi-squared {statistic:.1} over {things}");
    assert!(things >= 8 && statistic < 32.0, "{statistic}");
    let mut lengths: Vec<usize> = validation.iter().map(|line| tokens(line)).collect();
    lengths.sort_unstable();
    let mean = lengths.iter().sum::<usize>() as f64 / 2e4;
    let components: Vec<&String> = read.iter().flat_map(|read| &read.components).collect();
    let distances = || read.iter().flat_map(|read| &read.distances);
    let distant = distances().filter(|distance| **distance >= 10).count();
    let distinct: BTreeSet<&&String> = components.iter().collect();
    let repeats = validation.len() - validation.iter().collect::<BTreeSet<_>>().len();
    println!(
        "mean {mean}, median {}, from {} to {}, {} components a string, {} patterns, {} closing, {distant} distant, {repeats} repeats",
        lengths[10_000],
        lengths[0],
        lengths[19_999],
        components.len() as f64 / 2e4,
        distinct.len(),
        distances().count(),
    );
    assert!((mean - 13.3).abs() < 0.25, "{mean}");
    assert_eq!((lengths[0], lengths[10_000]), (6, 12));
    assert!((components.len() as f64 / 2e4 - 2.57).abs() < 0.04);
    assert!(distinct.len().abs_diff(2024) < 200, "{}", distinct.len());
    assert!(distances().count().abs_diff(132_673) < 2_500);
    assert!(distant.abs_diff(9_464) < 800, "{distant}");
    assert!(repeats.abs_diff(229) < 70, "{repeats}");
}

#[test]
fn generalisation_has_patterns_that_training_does_not_and_validation_does_not() {
    let task = read(&sentences("dyck", 3000));
    let examples = task.examples(0);
    let components = |line: &String| check(line).components;
    let trained = training(&task);
    let seen: BTreeSet<String> = trained.iter().flat_map(components).collect();
    let strings: BTreeSet<&String> = trained.iter().collect();
    let validation = lines(&task, &examples.evaluation(Split::Test, Form::Tokens).expect("validation"));
    assert_eq!(validation.len(), 200);
    for line in &validation {
        assert!(
            !strings.contains(line) && components(line).iter().all(|pattern| seen.contains(pattern)),
            "{line}"
        );
    }
    let withheld = lines(&task, &assessment(&*examples, "generalisation").batch);
    assert!(!withheld.is_empty());
    for line in &withheld {
        assert!(components(line).iter().any(|pattern| !seen.contains(pattern)), "{line}");
    }
    assert!(training(&read(&sentences("dyck", 5000))).starts_with(&trained));
}

/// Every closing bracket of the first strings is asked about until 5,000 are, and whoever remembers the open brackets is right.
#[test]
fn every_closing_bracket_is_asked_about() {
    let task = paper();
    let examples = task.examples(0);
    for (name, few) in [("in_domain", 700..900), ("generalisation", 50..300)] {
        let asked = assessment(&*examples, name);
        let Questions::Ranked { candidates, questions } = &asked.questions else {
            panic!("brackets are ranked")
        };
        let closers: BTreeSet<String> = candidates.iter().filter_map(|token| task.text(&[*token])).collect();
        assert!(closers.len() == 20 && closers.iter().all(|closer| closer.ends_with(')')));
        let strings = lines(&task, &asked.batch);
        println!("{name}: {} questions about {} strings", questions.len(), strings.len());
        assert!(few.contains(&strings.len()) && questions.len() >= 5000);
        let last = check(strings.last().expect("a string")).distances.len();
        assert!(questions.len() - last < 5000, "no string more than needed");
        let mut rows = 0;
        let mut expected = Vec::new();
        for line in &strings {
            let distances = check(line).distances;
            let closing = line.split(' ').enumerate().filter(|(_, token)| !token.starts_with('('));
            for ((place, token), distance) in closing.zip(distances) {
                expected.push((rows + place, token.to_owned(), distance >= 10));
            }
            rows += tokens(line) + 1;
        }
        assert_eq!((asked.batch.examples(), &asked.classes[..]), (strings.len(), &["distant"][..]));
        let found = questions.iter().map(|question| {
            assert_eq!(question.linear, None);
            (
                question.row as usize,
                task.text(&[question.right]).expect("a bracket"),
                question.class == Some(0),
            )
        });
        assert!(found.eq(expected));
    }
}

#[test]
fn sentences_are_strings_without_trees() {
    let task = paper();
    let sentences = task.examples(0).sentences(500).expect("strings");
    assert_eq!((sentences.ends.len(), sentences.trees.is_none(), sentences.start), (500, true, 42));
    for (words, line) in sentences.sentences().zip(training(&task)) {
        assert_eq!(task.text(words), Some(line));
    }
}
