//! A task's examples as lines of text, for a person to read.
//!
//! Owns how examples are written down: their words where they have some, numbers of tokens otherwise, a TAB before the answer. Files are
//! somebody else's business.

use super::{Assessment, Batch, Form, Input, Questions, ReadOut, Seeds, Split, Targets, TaskConfig};

/// Examples of one set, a line each.
#[derive(Clone, Debug, PartialEq)]
pub struct Listing {
    /// What the set is called: `training`, `validation` (`test` where there are no assessments), and the assessments' names.
    pub name: &'static str,
    /// Fields with TABs between: the prompt, the right answer, and for assessments the answer by the linear rule (where there is such
    /// a rule) and the question's class (where it has one), else `-`. Without an answer of its own the whole line is one field.
    pub lines: Vec<String>,
    /// Whether these are only the first of examples without end.
    pub is_cut: bool,
}

/// Everything a task trains on and measures, and of endless training data the first `endless` examples.
pub fn listings(task: &TaskConfig, seeds: Seeds, endless: usize) -> Vec<Listing> {
    let examples = task.examples(seeds);
    let is_cut = task.training_set_size().is_none();
    let training = examples.train(1, is_cut.then_some(endless), Form::Tokens);
    let mut listings = vec![Listing { name: "training", lines: lines(task, &training), is_cut }];
    let assessments = examples.assessments(0);
    if let Some(test) = examples.evaluation(Split::Test, Form::Tokens) {
        let name = if assessments.is_empty() { "test" } else { "validation" };
        listings.push(Listing { name, lines: lines(task, &test), is_cut: false });
    }
    listings.extend(assessments.iter().map(|assessment| {
        let lines = questions(task, assessment);
        Listing { name: assessment.name, lines, is_cut: false }
    }));
    listings
}

/// Tokens as text: words, or numbers with spaces between.
fn text(task: &TaskConfig, tokens: &[u32]) -> String {
    task.text(tokens).unwrap_or_else(|| spaced(tokens))
}

fn spaced<T: ToString>(values: &[T]) -> String {
    values.iter().map(T::to_string).collect::<Vec<String>>().join(" ")
}

/// Where the tokens of each example lie.
fn spans(batch: &Batch) -> Vec<std::ops::Range<usize>> {
    match &batch.input {
        Input::Tokens { length, .. } => {
            (0..batch.examples()).map(|example| example * length..(example + 1) * length).collect()
        }
        Input::Ragged { ends, .. } => {
            let starts = std::iter::once(&0).chain(ends);
            starts.zip(ends).map(|(start, end)| *start as usize..*end as usize).collect()
        }
        Input::Counts { .. } => Vec::new(),
    }
}

fn tokens(batch: &Batch) -> &[u32] {
    match &batch.input {
        Input::Tokens { tokens, .. } | Input::Ragged { tokens, .. } => tokens,
        Input::Counts { .. } => &[],
    }
}

/// The examples of a batch.
fn lines(task: &TaskConfig, batch: &Batch) -> Vec<String> {
    let every = task.shape().read_out == ReadOut::Every;
    let line = |(example, span): (usize, std::ops::Range<usize>)| {
        let input = &tokens(batch)[span.clone()];
        match &batch.targets {
            // Where tokens are words, the answers are the words that come next.
            Targets::Classes(classes) if every && task.text(&[]).is_some() => {
                let weights = batch.weights.as_ref().map(|weights| &weights[span.clone()]);
                let said = [&input[..1], &classes[span]].concat();
                continued(task, &said, weights)
            }
            Targets::Classes(classes) if every => {
                format!("{}\t{}", text(task, input), spaced(&classes[span]))
            }
            Targets::Scalars(numbers) if every => {
                format!("{}\t{}", text(task, input), spaced(&numbers[span]))
            }
            Targets::Classes(classes) => {
                let also = batch.also_correct.iter().filter(|(row, _)| *row as usize == example);
                let right: Vec<String> = std::iter::once(classes[example])
                    .chain(also.map(|(_, class)| *class))
                    .map(|class| class.to_string())
                    .collect();
                format!("{}\t{}", text(task, input), right.join("|"))
            }
            Targets::Scalars(numbers) => format!("{}\t{}", text(task, input), numbers[example]),
        }
    };
    spans(batch).into_iter().enumerate().map(line).collect()
}

/// A line of words, its first token what it starts with. What counts in the loss is the answer, up to the last token that does; where all
/// tokens count, the task says what is the prompt.
fn continued(task: &TaskConfig, said: &[u32], weights: Option<&[f32]>) -> String {
    let counts = |weight: &f32| *weight > 0.0;
    let first = weights.and_then(|weights| weights.iter().position(counts)).unwrap_or(0);
    let end =
        weights.and_then(|weights| weights.iter().rposition(counts)).map_or(said.len(), |last| last + 2);
    let prompt = match first {
        0 => task.prompt(said),
        first => Some(first + 1),
    };
    match prompt {
        Some(prompt) => {
            let (prompt, answer) = said[..end].split_at(prompt);
            format!("{}\t{}", text(task, prompt), text(task, answer))
        }
        None => text(task, &said[..end]),
    }
}

/// The questions of an assessment with their right answers.
fn questions(task: &TaskConfig, assessment: &Assessment) -> Vec<String> {
    let batch = &assessment.batch;
    let spans = spans(batch);
    let class =
        |class: Option<u8>| class.and_then(|class| assessment.classes.get(usize::from(class))).copied();
    let named = |class: Option<&str>| class.unwrap_or("-").to_owned();
    match &assessment.questions {
        Questions::Ranked { questions, .. } => {
            let has_rule = questions.iter().any(|question| question.linear.is_some());
            let line = |question: &super::Ranked| {
                let row = question.row as usize;
                let own = spans.partition_point(|span| span.end <= row);
                let start = spans.get(own).map_or(0, |span| span.start);
                let mut fields = vec![text(task, &tokens(batch)[start..=row]), text(task, &[question.right])];
                if has_rule {
                    fields
                        .push(question.linear.map_or_else(|| "-".to_owned(), |linear| text(task, &[linear])));
                }
                if !assessment.classes.is_empty() {
                    fields.push(named(class(question.class)));
                }
                fields.join("\t")
            };
            questions.iter().map(line).collect()
        }
        Questions::Decoded { prompts, classes, .. } => {
            let line = |((span, prompt), own): ((std::ops::Range<usize>, &u32), &Option<u8>)| {
                let (prompt, answer) = tokens(batch)[span].split_at(*prompt as usize);
                format!("{}\t{}\t{}", text(task, prompt), text(task, answer), named(class(*own)))
            };
            spans.iter().cloned().zip(prompts).zip(classes).map(line).collect()
        }
    }
}
