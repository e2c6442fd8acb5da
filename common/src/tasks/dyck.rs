//! Strings of well-nested brackets of several types, up to a depth: `(a (b b) a) (c c)` (the Dyck-(k, depth) of Murty et al. 2023;
//! docs/science.md, "Structural grokking: data").
//!
//! The type of a closing bracket follows from the one it closes, however far back. In-domain strings consist of components (from no open
//! bracket to no open bracket) whose patterns of opening and closing the training set has; strings for generalisation have another.

use std::borrow::Cow;
use std::collections::HashSet;

use serde::Serialize;

use super::grammar::lines::{Corpus, Lines, Sets, write};
use super::grammar::pool::{Candidate, fill};
use super::grammar::settings::SetSettings;
use super::grammar::shared::Shared;
use super::{
    Assessment, AssessmentMetrics, Batch, Draw, Examples, Form, Output, Questions, Ranked, ReadOut, Seeds,
    Sentences, Split, Task, TaskShape,
};
use crate::fields::{ConfigResult, Fields};
use crate::limits;
use crate::random::{Stream, StreamFamily};

/// Closing brackets of a set that are asked about, as in the paper's released code: strings are taken until there are so many.
const QUESTIONS: usize = 5_000;

/// Tokens between a closing bracket and the one it closes from which on it is a distant one.
const DISTANT: usize = 10;

/// Fewest strings to train on: fewer may have so few patterns that no other string consists of them.
const FEWEST_TRAINING: usize = 100;

/// Kinds of questions that have an accuracy of their own.
const CLASSES: [&str; 1] = ["distant"];

/// Sets in use.
static SETS: Shared<Dyck, Sets> = Shared::new();

/// `[task] kind = "dyck"`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Dyck {
    /// Types of brackets. Default 20.
    pub types: usize,
    /// Most brackets that are open at once. Default 10; with fewer than 3, hardly a pattern is new.
    pub depth: usize,
    /// Fewest tokens of a string: it may end before, but does not. Default 4.
    pub min_length: usize,
    /// Most tokens of a string; longer ones are drawn anew. Default 256.
    pub max_length: usize,
    /// Sizes and seed. Default: 200,000 strings to train on, 20,000 of validation, 20,000 of generalisation.
    #[serde(flatten)]
    pub sets: SetSettings,
}

impl Dyck {
    /// The token that starts a string.
    fn start(&self) -> u32 {
        2 * self.types as u32 + 2
    }

    /// The token that ends one.
    fn end(&self) -> u8 {
        2 * self.types as u8 + 1
    }

    /// The bracket that opens `kind`; in the order of their bytes these come first.
    fn opening(kind: u8) -> u8 {
        1 + kind
    }

    /// The bracket that closes `kind`.
    fn closing(&self, kind: u8) -> u8 {
        1 + self.types as u8 + kind
    }

    fn opens(&self, token: u8) -> bool {
        usize::from(token) <= self.types
    }

    /// The mean number of tokens of a string, by the law of the automaton that writes it.
    fn mean_tokens(&self) -> f64 {
        // How likely it is that so many brackets are open behind so many tokens.
        let mut open = vec![0.0; self.depth + 2];
        open[0] = 1.0;
        let (mut strings, mut tokens) = (0.0, 0.0);
        for length in 0..=self.max_length {
            let stops = if length >= self.min_length { open[0] / 2.0 } else { 0.0 };
            strings += stops;
            tokens += stops * length as f64;
            let mut next = vec![0.0; self.depth + 2];
            next[1] += open[0] - stops;
            for depth in 1..self.depth {
                next[depth + 1] += open[depth] / 2.0;
                next[depth - 1] += open[depth] / 2.0;
            }
            next[self.depth - 1] += open[self.depth];
            open = next;
        }
        tokens / strings
    }
}

impl Task for Dyck {
    fn read(mut fields: Fields<'_>) -> ConfigResult<Self> {
        let types = fields.integer("types", 2..=limits::MAX_BRACKET_TYPES)?.unwrap_or(20);
        let depth = fields.integer("depth", 3..=limits::MAX_BRACKET_DEPTH)?.unwrap_or(10);
        // Strings that must be long hardly ever consist of patterns that were seen.
        let min_length = fields.integer("min-length", 2..=32)?.unwrap_or(4);
        let max_length = fields.integer("max-length", 64..=limits::MAX_BRACKETS)?.unwrap_or(256);
        let defaults = SetSettings {
            training_examples: 200_000,
            validation_examples: 20_000,
            generalisation_examples: 20_000,
            data_seed: 0,
        };
        let sets = defaults.read(&mut fields, FEWEST_TRAINING, max_length + 1)?;
        fields.finish()?;
        Ok(Dyck { types, depth, min_length, max_length, sets })
    }

    fn shape(&self) -> TaskShape {
        let vocabulary = 2 * self.types + 3;
        TaskShape {
            vocabulary,
            length: self.max_length + 1,
            output: Output::Classes(vocabulary),
            read_out: ReadOut::Every,
        }
    }

    fn training_set_size(&self) -> Option<usize> {
        Some(self.sets.training_examples)
    }

    fn mean_length(&self) -> Option<f64> {
        Some(1.0 + self.mean_tokens())
    }

    fn text(&self, tokens: &[u32]) -> Option<String> {
        let types = self.types as u32;
        let letter = |kind: u32| char::from_u32(u32::from('a') + kind);
        let word = |token: &u32| match token.checked_sub(1)? {
            kind if kind < types => Some(format!("({}", letter(kind)?)),
            kind if kind < 2 * types => Some(format!("{})", letter(kind - types)?)),
            _ => None,
        };
        Some(tokens.iter().filter_map(word).collect::<Vec<String>>().join(" "))
    }

    fn has_sentences(&self) -> bool {
        true
    }

    fn assessment_metrics(&self) -> Vec<AssessmentMetrics> {
        let metrics = |name| AssessmentMetrics { name, classes: CLASSES.to_vec(), has_linear_rule: false };
        ["in_domain", "generalisation"].map(metrics).to_vec()
    }

    fn examples(&self, seeds: Seeds) -> Box<dyn Examples> {
        let sets = SETS.get(self, || Writer { task: self, open: Vec::with_capacity(self.depth) }.sets());
        Box::new(DyckExamples { start: self.start(), corpus: Corpus::new(sets, seeds.order, self.start()) })
    }
}

/// Draws and writes strings.
struct Writer<'a> {
    task: &'a Dyck,
    /// The types of the open brackets.
    open: Vec<u8>,
}

impl Writer<'_> {
    /// Draws a string by the automaton of the paper's released code: with no bracket open it opens one or stops, with as many open as
    /// there may be it closes, else it opens or closes, all with equal chances. False: the string is too long.
    fn write(&mut self, stream: &mut Stream, line: &mut Vec<u8>) -> bool {
        let task = self.task;
        line.clear();
        self.open.clear();
        while line.len() + self.open.len() <= task.max_length {
            let opens = self.open.len() < task.depth && stream.below(2) == 0;
            match (opens, self.open.pop()) {
                (true, last) => {
                    self.open.extend(last);
                    let kind = stream.below(task.types as u32) as u8;
                    self.open.push(kind);
                    line.push(Dyck::opening(kind));
                }
                (false, Some(kind)) => line.push(task.closing(kind)),
                // Stops too early are passed over.
                (false, None) if line.len() < task.min_length => {}
                (false, None) => {
                    line.push(task.end());
                    return true;
                }
            }
        }
        false
    }

    fn sets(mut self) -> Sets {
        let task = self.task;
        let family = |set: &str| StreamFamily::new(task.sets.data_seed, &format!("dyck/{set}"));
        let training = fill(&family("training"), task.sets.training_examples, |stream, _, candidate| {
            self.write(stream, &mut candidate.line)
        });
        let mut pattern = Vec::new();
        let mut seen: HashSet<Box<[bool]>> = HashSet::new();
        for line in training.iter() {
            components(task, line, &mut pattern, |component| {
                if !seen.contains(component) {
                    seen.insert(component.into());
                }
                true
            });
        }
        let strings: HashSet<&[u8]> = training.iter().collect();
        let mut of_seen =
            |line: &[u8]| components(task, line, &mut pattern, |component| seen.contains(component));
        let validation = fill(
            &family("validation"),
            task.sets.validation_examples,
            |stream, _, candidate: &mut Candidate| {
                let line = &mut candidate.line;
                self.write(stream, line) && !strings.contains(&line[..]) && of_seen(line)
            },
        );
        let generalisation =
            fill(&family("generalisation"), task.sets.generalisation_examples, |stream, _, candidate| {
                let line = &mut candidate.line;
                self.write(stream, line) && !of_seen(line)
            });
        drop(strings);
        let assessments = vec![
            questions("in_domain", task, &validation),
            questions("generalisation", task, &generalisation),
        ];
        Sets { training, validation, assessments }
    }
}

/// Calls `check` with the pattern of each component of a string, opening or closing, until it says no; whether it never did.
fn components(
    task: &Dyck,
    line: &[u8],
    pattern: &mut Vec<bool>,
    mut check: impl FnMut(&[bool]) -> bool,
) -> bool {
    pattern.clear();
    let mut depth = 0;
    for token in &line[..line.len() - 1] {
        let opens = task.opens(*token);
        pattern.push(opens);
        depth = if opens { depth + 1 } else { depth - 1 };
        if depth == 0 {
            if !check(pattern) {
                return false;
            }
            pattern.clear();
        }
    }
    true
}

/// Which type does each bracket close?
fn questions(name: &'static str, task: &Dyck, lines: &Lines) -> Assessment {
    let (mut questions, mut first, mut asked) = (Vec::new(), 0, 0);
    let mut open = Vec::with_capacity(task.depth);
    for line in lines.iter() {
        if questions.len() >= QUESTIONS {
            break;
        }
        for (place, token) in line[..line.len() - 1].iter().enumerate() {
            if task.opens(*token) {
                open.push(place);
            } else if let Some(opened) = open.pop() {
                let distant = place - opened >= DISTANT;
                questions.push(Ranked {
                    // The start stands in front, so this is the row of the token before.
                    row: (first + place) as u32,
                    right: u32::from(*token),
                    linear: None,
                    class: distant.then_some(0),
                });
            }
        }
        first += line.len();
        asked += 1;
    }
    Assessment {
        name,
        batch: Batch::filled(|batch| write(task.start(), lines.iter().take(asked), 0, batch)),
        questions: Questions::Ranked {
            candidates: (0..task.types as u8).map(|kind| u32::from(task.closing(kind))).collect(),
            questions,
        },
        classes: CLASSES.to_vec(),
    }
}

struct DyckExamples {
    start: u32,
    corpus: Corpus,
}

impl Examples for DyckExamples {
    fn draw(&self, draw: Draw, _form: Form, batch: &mut Batch) {
        self.corpus.draw(draw, batch);
    }

    fn evaluation(&self, split: Split, _form: Form) -> Option<Batch> {
        Some(self.corpus.evaluation(split))
    }

    fn assessments(&self, _step: u64) -> Vec<Cow<'_, Assessment>> {
        self.corpus.sets.assessments.iter().map(Cow::Borrowed).collect()
    }

    fn sentences(&self, count: usize) -> Option<Sentences> {
        let (mut words, mut ends) = (Vec::new(), Vec::new());
        for line in self.corpus.sets.training.iter().take(count) {
            words.extend(line[..line.len() - 1].iter().map(|token| u32::from(*token)));
            ends.push(words.len() as u32);
        }
        Some(Sentences { start: self.start, words, ends, trees: None })
    }
}
