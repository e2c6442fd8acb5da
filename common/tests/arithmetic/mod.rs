//! What the suites of the arithmetic tasks share: rows of a batch, their texts, and texts read back.
#![allow(dead_code, reason = "each test file uses its own part")]

use plateau_common::tasks::{Batch, Form, Input, Split, Targets, TaskConfig};
use serde_json::Value;

use crate::task_list::configurations;

/// Fills rows.
pub const PAD: u32 = 0;
/// Ends problems.
pub const END: u32 = 3;
/// `=`
pub const EQUALS: u32 = 17;
/// Written down once more, from the paper's released code.
pub const SYMBOLS: &str =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwyz!@£#$%^&*()~?.,<>{}[]:;/|βΓΔδεζηθκΛλμΞξΠπΣςτΦφχΨψΩω";

/// One row of a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub input: Vec<u32>,
    pub targets: Vec<u32>,
    pub weights: Vec<f32>,
}

impl Row {
    /// The whole problem: inputs and targets are it without its last and without its first token.
    pub fn tokens(&self) -> Vec<u32> {
        assert_eq!(self.input[1..], self.targets[..self.targets.len() - 1]);
        [&self.input[..1], &self.targets[..]].concat()
    }

    pub fn text(&self, task: &TaskConfig) -> String {
        task.text(&self.tokens()).expect("arithmetic is text")
    }
}

/// The rows of a batch.
pub fn rows(batch: &Batch) -> Vec<Row> {
    let Input::Tokens { tokens, length } = &batch.input else { panic!("arithmetic is tokens") };
    let Targets::Classes(classes) = &batch.targets else { panic!("answers are tokens") };
    let weights = batch.weights.as_ref().expect("questions do not count");
    assert!(batch.also_correct.is_empty() && tokens.len() == classes.len() && tokens.len() == weights.len());
    tokens
        .chunks(*length)
        .zip(classes.chunks(*length))
        .zip(weights.chunks(*length))
        .map(|((input, targets), weights)| Row {
            input: input.to_vec(),
            targets: targets.to_vec(),
            weights: weights.to_vec(),
        })
        .collect()
}

/// The first `count` training examples.
pub fn trained(task: &TaskConfig, seed: u64, count: usize) -> Vec<Row> {
    rows(&task.examples(seed).train(1, Some(count), Form::Tokens))
}

/// The test set.
pub fn tested(task: &TaskConfig, seed: u64) -> Vec<Row> {
    rows(&task.examples(seed).evaluation(Split::Test, Form::Tokens).expect("a test set"))
}

/// Rows as people read them.
pub fn texts(task: &TaskConfig, rows: &[Row]) -> Vec<String> {
    rows.iter().map(|row| row.text(task)).collect()
}

/// The configurations of arithmetic tasks.
pub fn arithmetic() -> Vec<Value> {
    let kinds = ["addition", "subtraction", "multiplication", "sorting", "bitwise-or"];
    configurations().into_iter().filter(|json| kinds.contains(&json["kind"].as_str().unwrap_or(""))).collect()
}

/// A text without symbols of places and pads.
pub fn bare(text: &str) -> String {
    text.chars().filter(|character| character.is_ascii_digit() || "+-x=∎".contains(*character)).collect()
}

/// Digits, units first.
pub fn digits(text: &str) -> Vec<u32> {
    text.chars().map(|digit| digit.to_digit(10).expect("a digit")).collect()
}

/// What a calculation says.
pub struct Calculation {
    pub first: String,
    pub second: String,
    pub operator: char,
    pub answer: String,
}

impl Calculation {
    pub fn parse(text: &str) -> Self {
        let text = bare(text);
        let (question, answer) =
            text.strip_suffix('∎').and_then(|text| text.split_once('=')).expect("a problem");
        let operator = question.chars().find(|character| !character.is_ascii_digit()).expect("an operator");
        let (first, second) = question.split_once(operator).expect("an operator");
        Calculation { first: first.into(), second: second.into(), operator, answer: answer.into() }
    }
}

/// Names, numbers and answer of a sorting problem.
pub fn sorted(text: &str) -> (Vec<char>, Vec<String>, Vec<char>) {
    let (question, answer) = text.strip_suffix('∎').and_then(|text| text.split_once('=')).expect("a problem");
    // Names may be separators themselves: read by place, not by splitting.
    let (mut names, mut numbers, mut rest) = (Vec::new(), Vec::new(), question.chars().peekable());
    while let Some(name) = rest.next() {
        assert_eq!(rest.next(), Some(':'), "{text}");
        let mut number = String::new();
        while let Some(digit) = rest.next_if(char::is_ascii_digit) {
            number.push(digit);
        }
        assert!(rest.peek().is_none() || rest.next() == Some(','), "{text}");
        names.push(name);
        numbers.push(number);
    }
    let answer: Vec<char> = answer.chars().collect();
    assert!(answer.iter().skip(1).step_by(2).all(|comma| *comma == ','), "{text}");
    (names, numbers, answer.into_iter().step_by(2).collect())
}
