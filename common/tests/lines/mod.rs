//! What the suites of the tasks over sentences share: lines of a batch as text, and how trees compare.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::collections::BTreeMap;

use plateau_common::tasks::{
    Assessment, Batch, Brackets, Examples, Form, Input, Sentences, Targets, TaskConfig,
};

/// The words of every line of a batch, after a look that it is one of language modelling: the start in front, every token's
/// answer the next one, no weights.
pub fn lines(task: &TaskConfig, batch: &Batch) -> Vec<String> {
    let Input::Ragged { tokens, ends, positions: None } = &batch.input else {
        panic!("lines have their lengths")
    };
    let Targets::Classes(targets) = &batch.targets else { panic!("answers are tokens") };
    assert!(batch.weights.is_none() && batch.also_correct.is_empty() && targets.len() == tokens.len());
    let start = task.shape().vocabulary as u32 - 1;
    let mut from = 0;
    let line = |end: &u32| {
        let own = from..*end as usize;
        from = *end as usize;
        let (input, answers) = (&tokens[own.clone()], &targets[own]);
        assert_eq!(input[0], start);
        assert_eq!(input[1..], answers[..answers.len() - 1]);
        task.text(answers).expect("lines are text")
    };
    ends.iter().map(line).collect()
}

/// All training lines.
pub fn training(task: &TaskConfig) -> Vec<String> {
    lines(task, &task.examples(1).train(1, None, Form::Tokens))
}

/// The assessment of this name at the start.
pub fn assessment(examples: &dyn Examples, name: &str) -> Assessment {
    let assessments = examples.assessments(0);
    let found = assessments.into_iter().find(|assessment| assessment.name == name);
    found.expect("an assessment of this name").into_owned()
}

/// How many of each.
pub fn count<T: Ord>(items: impl IntoIterator<Item = T>) -> BTreeMap<T, usize> {
    let mut counts = BTreeMap::new();
    items.into_iter().for_each(|item| *counts.entry(item).or_default() += 1);
    counts
}

/// Entropy of the distribution with these counts, in nats.
pub fn entropy<T>(counts: &BTreeMap<T, usize>) -> f64 {
    let total = counts.values().sum::<usize>() as f64;
    counts.values().map(|count| *count as f64 / total).map(|share| -share * share.ln()).sum()
}

/// Micro-averaged F1 of the brackets that `guess` puts over so many words against the right ones. As many are guessed as there are.
pub fn bracketing_f1(sentences: &Sentences, guess: impl Fn(u16) -> Brackets) -> f64 {
    let (mut hits, mut all) = (0, 0);
    for (words, tree) in sentences.sentences().zip(sentences.trees.as_ref().expect("gold trees")) {
        let guessed = guess(words.len() as u16);
        assert_eq!(guessed.len(), tree.len());
        hits += guessed.iter().filter(|bracket| tree.contains(bracket)).count();
        all += tree.len();
    }
    hits as f64 / all as f64
}

/// Every word opens a bracket to the end.
pub fn right_branching(words: u16) -> Brackets {
    (0..words - 1).map(|start| (start, words)).collect()
}

/// Every word closes a bracket from the start.
pub fn left_branching(words: u16) -> Brackets {
    (2..=words).map(|end| (0, end)).collect()
}
