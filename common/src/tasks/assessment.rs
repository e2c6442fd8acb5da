//! Assessments: examples that a task scores by a rule of its own, beside the loss over all tokens (the first word of a question, the main
//! verb, the type of a closing bracket).
//!
//! Owns what is asked and how an answer is marked. Running a model over the examples is `plateau-lab`'s business; it offers
//! two ways: ranking a few candidates behind a prefix, and decoding greedily from a prompt.

use super::{Batch, spans};

/// A fixed set of examples with questions about them.
#[derive(Clone, Debug, PartialEq)]
pub struct Assessment {
    /// What metrics are named after: `<name>_accuracy` and so on.
    pub name: &'static str,
    /// The sequences ([`Input::Ragged`](super::Input::Ragged)) with the right next token for every token.
    pub batch: Batch,
    /// What is asked.
    pub questions: Questions,
    /// Kinds of questions that have an accuracy of their own, `<name>_accuracy/<class>`.
    pub classes: Vec<&'static str>,
}

/// What an assessment measures, known without its examples.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AssessmentMetrics {
    /// As [`Assessment::name`].
    pub name: &'static str,
    /// As [`Assessment::classes`].
    pub classes: Vec<&'static str>,
    /// Whether there is a linear rule to hold answers against.
    pub has_linear_rule: bool,
}

impl AssessmentMetrics {
    /// The metrics' names: accuracy, accuracy of each class, share of answers by the linear rule.
    pub fn names(&self) -> impl Iterator<Item = String> + '_ {
        let classes = self.classes.iter().map(|class| format!("{}_accuracy/{class}", self.name));
        let linear = self.has_linear_rule.then(|| format!("{}_linear_rule", self.name));
        std::iter::once(format!("{}_accuracy", self.name)).chain(classes).chain(linear)
    }
}

/// How a model is asked.
#[derive(Clone, Debug, PartialEq)]
pub enum Questions {
    /// Which of a few tokens comes next?
    Ranked {
        /// The tokens to choose from; the first of equals wins.
        candidates: Vec<u32>,
        /// In the order of their rows.
        questions: Vec<Ranked>,
    },
    /// What comes behind the prompt, decoded greedily? One question for each sequence of the batch, which goes on behind its prompt with
    /// the right answer. Marked by [`Examples::mark`](super::Examples::mark).
    Decoded {
        /// Tokens of each sequence's prompt; at least one.
        prompts: Vec<u32>,
        /// Most tokens to decode.
        most: usize,
        /// The token that ends an answer; it is not part of it.
        end: u32,
        /// Place of each question's class in [`Assessment::classes`], if it has one.
        classes: Vec<Option<u8>>,
    },
}

/// One question by ranking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ranked {
    /// The token of the batch, counted through all sequences, behind which the answer comes.
    pub row: u32,
    /// The right answer.
    pub right: u32,
    /// What somebody says who follows the order of the words instead of the structure of the sentence, where there is such a rule.
    pub linear: Option<u32>,
    /// Place of its class in [`Assessment::classes`], if it has one.
    pub class: Option<u8>,
}

/// What an answer is worth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// Whether it is right.
    pub right: bool,
    /// Whether it follows the linear rule; `None`: the task has none.
    pub linear: Option<bool>,
}

/// Sentences to look at a model's inside with: words alone, without what a task adds to them.
#[derive(Clone, Debug, PartialEq)]
pub struct Sentences {
    /// The token that stands before the first word.
    pub start: u32,
    /// The words of all sentences, one after another.
    pub words: Vec<u32>,
    /// Where each sentence ends among the words.
    pub ends: Vec<u32>,
    /// The right binary tree over each sentence, where the task has one.
    pub trees: Option<Vec<Brackets>>,
}

/// A binary tree over words as the set of what its nodes span: (first word, behind the last), two words or more each, sorted.
pub type Brackets = Vec<(u16, u16)>;

impl Sentences {
    /// The words of every sentence.
    pub fn sentences(&self) -> impl Iterator<Item = &[u32]> {
        spans(&self.ends).map(|own| &self.words[own])
    }
}
