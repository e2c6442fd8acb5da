//! Question formation: `my yak who doesn't sleep does swim . quest` becomes `does my yak who doesn't sleep swim ?`; behind `decl` the
//! sentence is repeated (McCoy, Frank and Linzen 2020; Murty et al. 2023; docs/science.md, "Structural grokking: data").
//!
//! Which auxiliary goes to the front is what the task is about. In training the first of the sentence always does, since
//! subjects with relative clauses are never asked about; in the generalisation set it never does.

use std::borrow::Cow;
use std::sync::LazyLock;

use serde::Serialize;

use super::grammar::lines::{Corpus, Lines, Sets, write};
use super::grammar::pool::{Candidate, Pool, weighted};
use super::grammar::sentence::{Clause, Modifier, Predicate, Sentence, Template};
use super::grammar::settings::SetSettings;
use super::grammar::shared::Shared;
use super::grammar::tree::{structure, with_trees};
use super::grammar::words::{Lexicon, Part, Tense, Verbs};
use super::{
    Assessment, AssessmentMetrics, Batch, Draw, Examples, Form, Output, Questions, Ranked, ReadOut, Seeds,
    Sentences, Split, Task, TaskShape,
};
use crate::fields::{ConfigResult, Fields};
use crate::random::{Stream, StreamFamily};

/// Tokens of the longest line before its end: the start, 16 words and a full stop twice, the word that names the task.
const LONGEST: usize = 36;

/// In-domain lines of each kind among 11,000 released ones (counted on the development and test files of McCoy, Frank and
/// Linzen 2020; the published weights of their rules do not give these): questions and declarations, by the subject's modifier
/// (in the order of [`Modifier::ALL`]) and the predicate (of [`Predicate::ALL`]).
const IN_DOMAIN: [[[u32; 6]; 5]; 2] = [
    [
        [30, 858, 915, 573, 268, 286],
        [348, 352, 350, 226, 117, 117],
        [0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0],
    ],
    [
        [35, 850, 897, 581, 303, 309],
        [373, 341, 372, 228, 118, 127],
        [104, 120, 128, 81, 42, 41],
        [216, 217, 248, 152, 79, 86],
        [115, 116, 111, 83, 49, 38],
    ],
];

/// The subject's relative clauses of the generalisation set.
const CLAUSES: [Clause; 3] = [Clause::Object, Clause::SubjectIntransitive, Clause::SubjectTransitive];

/// Lines of each kind among the 10,000 released ones of the generalisation set: by [`CLAUSES`] and the first three of
/// [`Predicate::ALL`], since further auxiliaries are excluded.
const GENERALISATION: [[u32; 3]; 3] = [[1985, 658, 690], [1883, 636, 685], [2053, 708, 702]];

/// The words that name what is to be done.
const TASKS: [&str; 2] = ["quest", "decl"];

static LEXICON: LazyLock<Lexicon> = LazyLock::new(|| Lexicon::new(Verbs::Bare, &["?", TASKS[0], TASKS[1]]));

/// Sets in use.
static SETS: Shared<SetSettings, Sets> = Shared::new();

/// `[task] kind = "question-formation"`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct QuestionFormation {
    /// Sizes and seed. Default: 100,000 lines to train on, 1,000 of validation, 10,000 of generalisation.
    #[serde(flatten)]
    pub sets: SetSettings,
}

impl Task for QuestionFormation {
    fn read(mut fields: Fields<'_>) -> ConfigResult<Self> {
        let defaults = SetSettings {
            training_examples: 100_000,
            validation_examples: 1_000,
            generalisation_examples: 10_000,
            data_seed: 0,
        };
        let sets = defaults.read(&mut fields, 1, LONGEST)?;
        fields.finish()?;
        Ok(QuestionFormation { sets })
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
        let (mut lines, mut tokens) = (0.0, 0.0);
        for (template, count) in cells().map(|(_, template, count)| (template, f64::from(count))) {
            lines += count;
            // The sentence and its full stop twice, the start and the task.
            tokens += count * (2 * template.words(true) + 4) as f64;
        }
        Some(tokens / lines)
    }

    fn has_sentences(&self) -> bool {
        true
    }

    fn assessment_metrics(&self) -> Vec<AssessmentMetrics> {
        let metrics = |name, classes, has_linear_rule| AssessmentMetrics { name, classes, has_linear_rule };
        let classes = CLAUSES.map(Clause::name).to_vec();
        vec![metrics("in_domain", Vec::new(), false), metrics("generalisation", classes, true)]
    }

    fn text(&self, tokens: &[u32]) -> Option<String> {
        Some(LEXICON.vocabulary.text(tokens))
    }

    fn prompt(&self, line: &[u32]) -> Option<usize> {
        LEXICON.prompt(line)
    }

    fn examples(&self, seeds: Seeds) -> Box<dyn Examples> {
        let sets = SETS.get(&self.sets, || Writer::new().sets(self.sets));
        Box::new(QuestionExamples { corpus: Corpus::new(sets, seeds.order, LEXICON.vocabulary.start()) })
    }
}

/// The kinds of in-domain lines: whether the sentence is asked, its shape, and how often it comes.
fn cells() -> impl Iterator<Item = (bool, Template, u32)> {
    let rows = IN_DOMAIN.iter().zip([true, false]);
    rows.flat_map(|(rows, asked)| {
        Modifier::ALL.iter().zip(rows).flat_map(move |(subject, counts)| {
            let template = move |predicate| Template { subject: *subject, predicate };
            Predicate::ALL
                .iter()
                .zip(counts)
                .map(move |(predicate, count)| (asked, template(*predicate), *count))
        })
    })
}

/// Draws and writes lines.
struct Writer {
    sentence: Sentence,
    question_mark: u8,
    tasks: [u8; 2],
}

impl Writer {
    fn new() -> Self {
        let id = |word: &str| LEXICON.vocabulary.id(word);
        Writer { sentence: Sentence::new(true), question_mark: id("?"), tasks: TASKS.map(id) }
    }

    /// Writes the drawn sentence as a line.
    fn write(&self, asked: bool, candidate: &mut Candidate) {
        let Sentence { words, main, .. } = &self.sentence;
        let id = |place: usize| LEXICON.id(words[place], Tense::Present);
        let line = &mut candidate.line;
        line.clear();
        line.extend((0..words.len()).map(id));
        line.extend([LEXICON.stop, self.tasks[usize::from(!asked)]]);
        candidate.input = line.len();
        if asked {
            line.push(id(*main));
        }
        line.extend((0..words.len()).filter(|place| !asked || place != main).map(id));
        line.extend([if asked { self.question_mark } else { LEXICON.stop }, LEXICON.vocabulary.end() as u8]);
    }

    fn sets(mut self, settings: SetSettings) -> Sets {
        let mut pool = Pool::default();
        let family = |set: &str| StreamFamily::new(settings.data_seed, &format!("question-formation/{set}"));
        let cells: Vec<(bool, Template, u32)> = cells().collect();
        let total = cells.iter().map(|(_, _, count)| count).sum();
        let mut in_domain = |stream: &mut Stream, _: usize, candidate: &mut Candidate| {
            let cell = weighted(cells.iter().map(|(_, _, count)| *count), stream.below(total));
            let (asked, template, _) = cells[cell];
            self.sentence.draw(template, stream);
            self.write(asked, candidate);
            true
        };
        let validation = pool.draw(&family("validation"), settings.validation_examples, &mut in_domain);
        let training = pool.draw(&family("training"), settings.training_examples, &mut in_domain);
        let mut quotas = Quotas::new(settings.generalisation_examples);
        let withheld = |stream: &mut Stream, number: usize, candidate: &mut Candidate| {
            quotas.count(number);
            let clause = stream.below(CLAUSES.len() as u32) as usize;
            let counts = GENERALISATION[clause];
            let predicate = weighted(counts, stream.below(counts.iter().sum()));
            let kind = clause * counts.len() + predicate;
            let (subject, predicate) = (Modifier::Relative(CLAUSES[clause]), Predicate::ALL[predicate]);
            self.sentence.draw(Template { subject, predicate }, stream);
            self.write(true, candidate);
            self.sentence.auxiliaries_differ_in_negation_alone() && quotas.wants(kind)
        };
        let generalisation = pool.draw(&family("generalisation"), settings.generalisation_examples, withheld);
        let asked = self.tasks[0];
        let assessments = vec![
            questions("in_domain", &validation, asked, false),
            questions("generalisation", &generalisation, asked, true),
        ];
        Sets { training, validation, assessments }
    }
}

/// How many lines of each kind of [`GENERALISATION`] the set has yet to get.
///
/// Clauses come as the grammar has them, all alike; but as only those with auxiliaries of one number are taken, and an object relative has a second
/// noun to agree with, it comes half as often as either of the others, until their quotas are full. So the first lines of the set have a fifth of
/// object relatives, the whole a third. (The released files seem to have been drawn in this way: models that fail on object relatives
/// alone score 0.667 on the whole set and 0.805 on the first 1,500 released lines.)
struct Quotas {
    left: [usize; 9],
    /// Lines drawn so far, and the kind of the last candidate that was wanted.
    drawn: usize,
    last: Option<usize>,
}

impl Quotas {
    fn new(lines: usize) -> Self {
        let whole: u32 = GENERALISATION.iter().flatten().sum();
        // As released up to their number of lines, in proportion beyond.
        let scale = lines.div_ceil(whole as usize).max(1);
        let mut left = [0; 9];
        let counts = GENERALISATION.as_flattened().iter();
        left.iter_mut().zip(counts).for_each(|(left, count)| *left = *count as usize * scale);
        Quotas { left, drawn: 0, last: None }
    }

    /// Takes note of whether the last candidate became a line: there are `drawn` now.
    fn count(&mut self, drawn: usize) {
        if let Some(kind) = self.last.take().filter(|_| drawn > self.drawn) {
            self.left[kind] -= 1;
        }
        self.drawn = drawn;
    }

    fn wants(&mut self, kind: usize) -> bool {
        self.last = (self.left[kind] > 0).then_some(kind);
        self.last.is_some()
    }
}

fn is_asked(line: &[u8], asked: u8) -> bool {
    line.get(LEXICON.sentence(line).len() + 1) == Some(&asked)
}

/// Which auxiliary comes to the front? Where both rules say the same, the linear one is not asked about.
fn questions(name: &'static str, lines: &Lines, asked: u8, withheld: bool) -> Assessment {
    let prompt = |line: &[u8]| LEXICON.sentence(line).len() + 2;
    let asked: Vec<&[u8]> = lines.iter().filter(|line| is_asked(line, asked)).collect();
    let mut end = 0;
    let question = |line: &&[u8]| {
        end += prompt(line) as u32 + 1;
        let parts = LEXICON.parts(LEXICON.sentence(line));
        let subject = structure(&parts).map(|structure| structure.template.subject);
        let class = CLAUSES.iter().position(|clause| subject == Some(Modifier::Relative(*clause)));
        let first = parts.iter().position(|part| *part == Part::Auxiliary);
        Ranked {
            row: end - 1,
            right: u32::from(line[prompt(line)]),
            linear: first.filter(|_| withheld).map(|first| u32::from(line[first])),
            class: class.map(|class| class as u8),
        }
    };
    let questions = asked.iter().map(question).collect();
    Assessment {
        name,
        // The answers' first words are the prompts' last targets.
        batch: Batch::filled(|batch| {
            let lines = asked.iter().map(|line| &line[..=prompt(line)]);
            write(LEXICON.vocabulary.start(), lines, 0, batch)
        }),
        questions: Questions::Ranked { candidates: LEXICON.auxiliaries(), questions },
        classes: if withheld { CLAUSES.map(Clause::name).to_vec() } else { Vec::new() },
    }
}

struct QuestionExamples {
    corpus: Corpus,
}

impl Examples for QuestionExamples {
    fn draw(&self, draw: Draw, _form: Form, batch: &mut Batch) {
        self.corpus.draw(draw, batch);
    }

    fn evaluation(&self, split: Split, _form: Form) -> Option<Batch> {
        Some(self.corpus.evaluation(split))
    }

    fn assessments(&self, _step: u64) -> Vec<Cow<'_, Assessment>> {
        self.corpus.sets.assessments.iter().map(Cow::Borrowed).collect()
    }

    /// Sentences that are asked, as in the paper.
    fn sentences(&self, count: usize) -> Option<Sentences> {
        let asked = LEXICON.vocabulary.id(TASKS[0]);
        let lines = self.corpus.sets.training.iter().filter(|line| is_asked(line, asked));
        Some(with_trees(&LEXICON, lines.map(|line| LEXICON.sentence(line)).take(count)))
    }
}
