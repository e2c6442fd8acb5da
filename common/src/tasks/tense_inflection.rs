//! Tense inflection: `my yaks near our newt slept . PRESENT` becomes `my yaks near our newt sleep .`; behind `PAST` the sentence is
//! repeated (McCoy, Frank and Linzen 2020; Murty et al. 2023; docs/science.md, "Structural grokking: data").
//!
//! Which noun the main verb agrees with is what the task is about. In training the nearest noun before it always has the subject's
//! number where it matters; in the generalisation set it never does.

use std::borrow::Cow;
use std::sync::LazyLock;

use serde::Serialize;

use super::grammar::lines::{Corpus, Lines, Sets, write};
use super::grammar::pool::{Candidate, Pool, interleaved};
use super::grammar::sentence::{Clause, Modifier, Number, Predicate, Sentence, Template};
use super::grammar::settings::SetSettings;
use super::grammar::shared::Shared;
use super::grammar::tree::{structure, with_trees};
use super::grammar::words::{Lexicon, Part, Tense, Verbs};
use super::{
    Assessment, AssessmentMetrics, Batch, Draw, Examples, Form, Input, Mark, Output, Questions, ReadOut,
    Seeds, Sentences, Split, Targets, Task, TaskShape,
};
use crate::fields::{ConfigResult, Fields};
use crate::random::{Stream, StreamFamily};

/// Tokens of the longest line before its end: the start, 13 words and a full stop twice, the word that names the task.
const LONGEST: usize = 30;

/// Mean tokens of a line before its end, in the training set of the default size.
const MEAN_LENGTH: f64 = 20.8;

/// Most words that are decoded for an answer, as in the paper's released code.
const MOST_DECODED: usize = 50;

/// The subject's modifiers of the generalisation set.
const MODIFIERS: [(&str, Modifier); 3] = [
    ("prepositional-phrase", Modifier::Prepositional),
    ("object-relative", Modifier::Relative(Clause::Object)),
    ("transitive-subject-relative", Modifier::Relative(Clause::SubjectTransitive)),
];

/// Lines of each kind among the 10,000 released ones of the generalisation set (counted on the file of McCoy, Frank and Linzen
/// 2020): by [`MODIFIERS`] and [`Predicate::ALL`].
const GENERALISATION: [[u32; 6]; 3] =
    [[1537, 1521, 1467, 477, 513, 530], [524, 527, 502, 148, 137, 167], [475, 490, 492, 172, 157, 164]];

/// The words that name what is to be done, in the order of the validation set's classes.
const TASKS: [&str; 2] = ["PAST", "PRESENT"];

static LEXICON: LazyLock<Lexicon> = LazyLock::new(|| Lexicon::new(Verbs::Inflected, &TASKS));

/// Sets in use.
static SETS: Shared<SetSettings, Sets> = Shared::new();

/// `[task] kind = "tense-inflection"`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct TenseInflection {
    /// Sizes and seed. Default: 100,000 lines to train on, 1,000 of validation, 10,000 of generalisation.
    #[serde(flatten)]
    pub sets: SetSettings,
    /// How many lines of the generalisation set an evaluation takes, drawn anew each time. Default: all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generalisation_sample: Option<usize>,
}

impl Task for TenseInflection {
    fn read(mut fields: Fields<'_>) -> ConfigResult<Self> {
        let defaults = SetSettings {
            training_examples: 100_000,
            validation_examples: 1_000,
            generalisation_examples: 10_000,
            data_seed: 0,
        };
        let sets = defaults.read(&mut fields, 1, LONGEST)?;
        let generalisation_sample =
            fields.integer("generalisation-sample", 1..=sets.generalisation_examples)?;
        fields.finish()?;
        Ok(TenseInflection { sets, generalisation_sample })
    }

    fn shape(&self) -> TaskShape {
        let vocabulary = LEXICON.vocabulary.rows();
        TaskShape {
            vocabulary,
            length: LONGEST,
            output: Output::Classes(vocabulary),
            read_out: ReadOut::Every,
        }
    }

    fn training_set_size(&self) -> Option<usize> {
        Some(self.sets.training_examples)
    }

    fn mean_length(&self) -> Option<f64> {
        Some(MEAN_LENGTH)
    }

    fn has_sentences(&self) -> bool {
        true
    }

    fn assessment_metrics(&self) -> Vec<AssessmentMetrics> {
        let metrics = |name, classes, has_linear_rule| AssessmentMetrics { name, classes, has_linear_rule };
        let classes = MODIFIERS.map(|(name, _)| name).to_vec();
        vec![metrics("in_domain", TASK_CLASSES.to_vec(), false), metrics("generalisation", classes, true)]
    }

    fn text(&self, tokens: &[u32]) -> Option<String> {
        Some(LEXICON.vocabulary.text(tokens))
    }

    fn prompt(&self, line: &[u32]) -> Option<usize> {
        LEXICON.prompt(line)
    }

    fn examples(&self, seeds: Seeds) -> Box<dyn Examples> {
        let sets = SETS.get(&self.sets, || Writer::new().sets(self.sets));
        let samples = StreamFamily::new(seeds.data, "generalisation-sample");
        Box::new(TenseExamples {
            corpus: Corpus::new(sets, seeds.order, LEXICON.vocabulary.start()),
            sample: self.generalisation_sample.map(|size| (size, samples)),
        })
    }
}

/// Draws and writes lines.
struct Writer {
    sentence: Sentence,
    tasks: [u8; 2],
}

impl Writer {
    fn new() -> Self {
        Writer { sentence: Sentence::new(false), tasks: TASKS.map(|word| LEXICON.vocabulary.id(word)) }
    }

    /// Writes the drawn sentence as a line that asks for `tense`.
    fn write(&self, tense: Tense, candidate: &mut Candidate) {
        let words = |tense| self.sentence.words.iter().map(move |word| LEXICON.id(*word, tense));
        let line = &mut candidate.line;
        line.clear();
        line.extend(words(Tense::Past));
        line.extend([LEXICON.stop, self.tasks[usize::from(tense == Tense::Present)]]);
        candidate.input = line.len();
        line.extend(words(tense));
        line.extend([LEXICON.stop, LEXICON.vocabulary.end() as u8]);
    }

    fn sets(mut self, settings: SetSettings) -> Sets {
        let mut pool = Pool::default();
        let family = |set: &str| StreamFamily::new(settings.data_seed, &format!("tense-inflection/{set}"));
        let mut in_domain = |stream: &mut Stream, _: usize, candidate: &mut Candidate| {
            self.sentence.draw(template(stream), stream);
            let tense = if stream.below(2) == 0 { Tense::Past } else { Tense::Present };
            self.write(tense, candidate);
            tense == Tense::Past || !self.sentence.nearest_noun_differs()
        };
        let validation = pool.draw(&family("validation"), settings.validation_examples, &mut in_domain);
        let training = pool.draw(&family("training"), settings.training_examples, &mut in_domain);
        let kinds = interleaved(GENERALISATION.as_flattened());
        let withheld = |stream: &mut Stream, number: usize, candidate: &mut Candidate| {
            let kind = kinds[number % kinds.len()];
            let (subject, predicate) = (MODIFIERS[kind / 6].1, Predicate::ALL[kind % 6]);
            self.sentence.draw(Template { subject, predicate }, stream);
            self.write(Tense::Present, candidate);
            self.sentence.nearest_noun_differs()
        };
        let generalisation = pool.draw(&family("generalisation"), settings.generalisation_examples, withheld);
        let class = |line: &[u8]| self.tasks.iter().position(|task| line.get(prompt(line) - 1) == Some(task));
        let in_domain = decoded("in_domain", &validation, &TASK_CLASSES, class);
        let generalisation =
            decoded("generalisation", &generalisation, &MODIFIERS.map(|(name, _)| name), modifier);
        Sets { training, validation, assessments: vec![in_domain, generalisation] }
    }
}

/// Names of the classes of the validation set, in the order of [`TASKS`].
const TASK_CLASSES: [&str; 2] = ["past", "present"];

/// Draws the shape of an in-domain sentence. The released sentences follow this scheme, not the published weights of the rules.
fn template(stream: &mut Stream) -> Template {
    let clause = |stream: &mut Stream| {
        let clauses = [Clause::SubjectIntransitive, Clause::Object, Clause::SubjectTransitive];
        Modifier::Relative(clauses[stream.below(3) as usize])
    };
    let subject = match stream.below(3) {
        0 => Modifier::None,
        1 => Modifier::Prepositional,
        _ => clause(stream),
    };
    let predicate = match stream.below(4) {
        0 => Predicate::Intransitive,
        1 => Predicate::Transitive(Modifier::None),
        2 => Predicate::Transitive(Modifier::Prepositional),
        _ => Predicate::Transitive(clause(stream)),
    };
    Template { subject, predicate }
}

/// Tokens of a line that ask: the sentence, its full stop, the task.
fn prompt(line: &[u8]) -> usize {
    LEXICON.sentence(line).len() + 2
}

/// The place of a line's class among [`MODIFIERS`].
fn modifier(line: &[u8]) -> Option<usize> {
    let structure = structure(&LEXICON.parts(LEXICON.sentence(line)))?;
    MODIFIERS.iter().position(|(_, modifier)| *modifier == structure.template.subject)
}

/// What is said behind the task?
fn decoded(
    name: &'static str,
    lines: &Lines,
    classes: &[&'static str],
    class: impl Fn(&[u8]) -> Option<usize>,
) -> Assessment {
    Assessment {
        name,
        batch: Batch::filled(|batch| write(LEXICON.vocabulary.start(), lines.iter(), 0, batch)),
        questions: Questions::Decoded {
            prompts: lines.iter().map(|line| prompt(line) as u32 + 1).collect(),
            most: MOST_DECODED,
            end: LEXICON.vocabulary.end(),
            classes: lines.iter().map(|line| class(line).map(|class| class as u8)).collect(),
        },
        classes: classes.to_vec(),
    }
}

/// The questions of these numbers, in their order.
fn sample(whole: &Assessment, numbers: &[u32]) -> Assessment {
    let mut sampled = Assessment { batch: Batch::empty(), ..whole.clone() };
    let (Input::Ragged { tokens, ends, .. }, Targets::Classes(targets)) =
        (&whole.batch.input, &whole.batch.targets)
    else {
        return sampled;
    };
    let (mut its_tokens, mut its_ends, mut its_targets) = (Vec::new(), Vec::new(), Vec::new());
    for number in numbers {
        let own = span(ends, *number as usize);
        its_tokens.extend_from_slice(&tokens[own.clone()]);
        its_targets.extend_from_slice(&targets[own]);
        its_ends.push(its_tokens.len() as u32);
    }
    if let Questions::Decoded { prompts, classes, .. } = &mut sampled.questions {
        *prompts = numbers.iter().map(|number| prompts[*number as usize]).collect();
        *classes = numbers.iter().map(|number| classes[*number as usize]).collect();
    }
    sampled.batch = Batch {
        input: Input::Ragged { tokens: its_tokens, ends: its_ends, positions: None },
        targets: Targets::Classes(its_targets),
        weights: None,
        also_correct: Vec::new(),
    };
    sampled
}

/// Where the tokens of an example lie.
fn span(ends: &[u32], example: usize) -> std::ops::Range<usize> {
    let start = example.checked_sub(1).map_or(0, |before| ends[before] as usize);
    start..ends[example] as usize
}

/// A sentence without its full stop, if it ends in one.
fn without_stop(words: &[u32]) -> &[u32] {
    match words.split_last() {
        Some((last, words)) if *last == u32::from(LEXICON.stop) => words,
        _ => words,
    }
}

/// The place of the main verb, as the paper's released code finds it: the second verb if the third word is a relativizer, else the
/// first.
fn main_verb(parts: &[Part]) -> Option<usize> {
    let before = usize::from(parts.get(2) == Some(&Part::Relativizer));
    parts.iter().enumerate().filter(|(_, part)| **part == Part::Verb).map(|(place, _)| place).nth(before)
}

/// Marks an answer by its main verb. It is right if it has the right verb in the right place and the parts of speech of the right answer,
/// whatever its other words. In the present, where the nearest noun before the verb is of another number than the subject's, it follows the linear rule if it has the
/// same verb in that noun's number.
fn mark(tense: Tense, right: &[u32], said: &[u32]) -> Mark {
    let (right, said) = (without_stop(right), without_stop(said));
    let parts = |words: &[u32]| words.iter().map(|word| LEXICON.part(*word)).collect::<Vec<Part>>();
    let (right_parts, said_parts) = (parts(right), parts(said));
    let Some(main) = main_verb(&right_parts) else { return Mark::default() };
    let same_form = right.len() == said.len()
        && right_parts.iter().zip(&said_parts).all(|(right, said)| right.is_like(*said));
    let mut numbers = right_parts[..main].iter().filter_map(|part| match part {
        Part::Noun(number) => Some(*number),
        _ => None,
    });
    let subject = numbers.next();
    let nearest: Option<Number> = numbers.next_back().or(subject);
    let tells = tense == Tense::Present && subject != nearest;
    let wrong = nearest.and_then(|number| LEXICON.present(right[main], number));
    Mark {
        right: same_form && said[main] == right[main],
        linear: tells.then(|| same_form && wrong == Some(said[main])),
    }
}

struct TenseExamples {
    corpus: Corpus,
    /// How much of the generalisation set is taken, and by which streams.
    sample: Option<(usize, StreamFamily)>,
}

impl Examples for TenseExamples {
    fn draw(&self, draw: Draw, _form: Form, batch: &mut Batch) {
        self.corpus.draw(draw, batch);
    }

    fn evaluation(&self, split: Split, _form: Form) -> Option<Batch> {
        Some(self.corpus.evaluation(split))
    }

    fn assessments(&self, step: u64) -> Vec<Cow<'_, Assessment>> {
        let mut assessments: Vec<Cow<'_, Assessment>> =
            self.corpus.sets.assessments.iter().map(Cow::Borrowed).collect();
        if let (Some((size, streams)), Some(generalisation)) = (&self.sample, assessments.last_mut()) {
            let mut numbers = streams.at(step).permutation(generalisation.batch.examples() as u32);
            numbers.truncate(*size);
            *generalisation = Cow::Owned(sample(generalisation, &numbers));
        }
        assessments
    }

    fn mark(&self, assessment: &Assessment, example: usize, said: &[u32]) -> Mark {
        let (Input::Ragged { tokens, ends, .. }, Questions::Decoded { prompts, .. }) =
            (&assessment.batch.input, &assessment.questions)
        else {
            return Mark::default();
        };
        let (prompt, answer) = tokens[span(ends, example)].split_at(prompts[example] as usize);
        let asked = prompt.last().copied();
        let past = asked == Some(u32::from(LEXICON.vocabulary.id(TASKS[0])));
        mark(if past { Tense::Past } else { Tense::Present }, answer, said)
    }

    fn sentences(&self, count: usize) -> Option<Sentences> {
        let lines = self.corpus.sets.training.iter().map(|line| LEXICON.sentence(line));
        Some(with_trees(&LEXICON, lines.take(count)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(words: &str) -> Vec<u32> {
        words.split_whitespace().map(|word| u32::from(LEXICON.vocabulary.id(word))).collect()
    }

    #[test]
    fn answers_are_marked_by_their_main_verb() {
        let marked = |right: &str, said: &str| {
            let Mark { right, linear } = mark(Tense::Present, &ids(right), &ids(said));
            (right, linear)
        };
        let plural = "my yaks near our newt read .";
        assert_eq!(marked(plural, plural), (true, Some(false)));
        assert_eq!(marked(plural, "my yaks near our newt reads ."), (false, Some(true)));
        assert_eq!(
            marked(plural, "our newt by the zebras read"),
            (true, Some(false)),
            "other words, no full stop"
        );
        assert_eq!(marked(plural, "my yaks near our newt sleeps ."), (false, Some(false)), "another verb");
        assert_eq!(marked(plural, "my yaks near our newt slept ."), (false, Some(false)), "another tense");
        assert_eq!(marked(plural, "my yaks read ."), (false, Some(false)));
        assert_eq!(marked(plural, "my yaks near our newt read read ."), (false, Some(false)));
        assert_eq!(marked(plural, ""), (false, Some(false)));
        // Behind a relativizer the second verb is the main one.
        let clause = "the newt who admires our yaks amuses the quails .";
        assert_eq!(marked(clause, "the newt who admire our yaks amuses the quails ."), (true, Some(false)));
        assert_eq!(marked(clause, "the newt who admires our yaks amuse the quails ."), (false, Some(true)));
        // Where both nouns agree, or in the past, the rules do not differ.
        assert_eq!(marked("my yaks near our newts sleep .", "my yaks near our newts sleep ."), (true, None));
        let past = ids("my yaks near our newt read .");
        assert_eq!(mark(Tense::Past, &past, &past), Mark { right: true, linear: None });
    }
}
