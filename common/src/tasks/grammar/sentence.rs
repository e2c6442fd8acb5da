//! Sentences of McCoy, Frank and Linzen 2020: a subject, perhaps modified, and a predicate, whose object may be modified in the same ways.
//!
//! Owns the shapes of sentences and how words are drawn into them: every word and every noun's number uniformly and independently. How
//! often each shape comes is each task's business.

use super::words::counts;
use crate::random::Stream;

/// Grammatical number; the place in tables of forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Number {
    /// One.
    Singular,
    /// Many.
    Plural,
}

/// A relative clause, by the place of the noun that it modifies and by its verb.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Clause {
    /// `who (does) giggle`.
    SubjectIntransitive,
    /// `who the yak (does) admire`.
    Object,
    /// `who (does) admire the yak`.
    SubjectTransitive,
}

impl Clause {
    /// The name of the class in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Clause::SubjectIntransitive => "intransitive-subject-relative",
            Clause::Object => "object-relative",
            Clause::SubjectTransitive => "transitive-subject-relative",
        }
    }
}

/// What follows a noun to modify it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Modifier {
    /// Nothing.
    None,
    /// A prepositional phrase.
    Prepositional,
    /// A relative clause.
    Relative(Clause),
}

impl Modifier {
    /// All of them, in the order of the tables of frequencies.
    pub const ALL: [Modifier; 5] = [
        Modifier::None,
        Modifier::Prepositional,
        Modifier::Relative(Clause::SubjectIntransitive),
        Modifier::Relative(Clause::Object),
        Modifier::Relative(Clause::SubjectTransitive),
    ];
}

/// What a sentence says of its subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Predicate {
    /// A verb alone.
    Intransitive,
    /// A verb and its object, so modified.
    Transitive(Modifier),
}

impl Predicate {
    /// All of them, in the order of the tables of frequencies.
    pub const ALL: [Predicate; 6] = [
        Predicate::Intransitive,
        Predicate::Transitive(Modifier::None),
        Predicate::Transitive(Modifier::Prepositional),
        Predicate::Transitive(Modifier::Relative(Clause::SubjectIntransitive)),
        Predicate::Transitive(Modifier::Relative(Clause::Object)),
        Predicate::Transitive(Modifier::Relative(Clause::SubjectTransitive)),
    ];
}

/// The shape of a sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Template {
    /// What modifies the subject.
    pub subject: Modifier,
    /// What is said of it.
    pub predicate: Predicate,
}

impl Modifier {
    /// Words of a noun so modified, its determiner among them, where a verb is so many words.
    fn words(self, verb: usize) -> usize {
        match self {
            Modifier::None => 2,
            Modifier::Prepositional => 5,
            Modifier::Relative(Clause::SubjectIntransitive) => 3 + verb,
            Modifier::Relative(Clause::Object | Clause::SubjectTransitive) => 5 + verb,
        }
    }
}

impl Template {
    /// Words of a sentence of this shape, without the full stop.
    pub fn words(self, auxiliaries: bool) -> usize {
        let verb = 1 + usize::from(auxiliaries);
        let object = match self.predicate {
            Predicate::Intransitive => 0,
            Predicate::Transitive(modifier) => modifier.words(verb),
        };
        self.subject.words(verb) + verb + object
    }
}

/// A drawn word, by its place in the lists of [`words`](super::words).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// A determiner.
    Determiner(u8),
    /// A noun.
    Noun(u8, Number),
    /// An auxiliary: whom it agrees with, and whether it negates.
    Auxiliary(Number, bool),
    /// A verb.
    Verb {
        /// Whether it has an object.
        transitive: bool,
        /// Its place among the verbs of its kind.
        which: u8,
        /// Whom it agrees with; `None` behind an auxiliary.
        number: Option<Number>,
    },
    /// A preposition.
    Preposition(u8),
    /// A relativizer.
    Relativizer(u8),
}

/// The most words of a sentence: seven each of a subject and an object with transitive relative clauses, two of the verb.
const MOST_WORDS: usize = 16;

/// A drawn sentence, without the full stop.
#[derive(Debug)]
pub struct Sentence {
    /// Its words.
    pub words: Vec<Word>,
    /// The place of the main clause's auxiliary, or of its verb where there are no auxiliaries.
    pub main: usize,
    /// Whether verbs have auxiliaries.
    auxiliaries: bool,
}

fn below(stream: &mut Stream, bound: u32) -> u8 {
    stream.below(bound) as u8
}

impl Sentence {
    /// With memory for every sentence.
    pub fn new(auxiliaries: bool) -> Self {
        Sentence { words: Vec::with_capacity(MOST_WORDS), main: 0, auxiliaries }
    }

    /// Draws a sentence of this shape over the last one.
    pub fn draw(&mut self, template: Template, stream: &mut Stream) {
        self.words.clear();
        let number = self.noun_phrase(template.subject, stream);
        self.main = self.words.len();
        self.verb(number, template.predicate != Predicate::Intransitive, stream);
        if let Predicate::Transitive(modifier) = template.predicate {
            self.noun_phrase(modifier, stream);
        }
    }

    /// A noun with its modifier; returns the noun's number.
    fn noun_phrase(&mut self, modifier: Modifier, stream: &mut Stream) -> Number {
        let number = self.noun(stream);
        match modifier {
            Modifier::None => {}
            Modifier::Prepositional => {
                self.words.push(Word::Preposition(below(stream, counts::PREPOSITIONS)));
                self.noun(stream);
            }
            Modifier::Relative(clause) => {
                self.words.push(Word::Relativizer(below(stream, counts::RELATIVIZERS)));
                match clause {
                    Clause::SubjectIntransitive => self.verb(number, false, stream),
                    Clause::Object => {
                        let inner = self.noun(stream);
                        self.verb(inner, true, stream);
                    }
                    Clause::SubjectTransitive => {
                        self.verb(number, true, stream);
                        self.noun(stream);
                    }
                }
            }
        }
        number
    }

    /// A determiner and a noun.
    fn noun(&mut self, stream: &mut Stream) -> Number {
        self.words.push(Word::Determiner(below(stream, counts::DETERMINERS)));
        let which = below(stream, counts::NOUNS);
        let number = if stream.below(2) == 0 { Number::Singular } else { Number::Plural };
        self.words.push(Word::Noun(which, number));
        number
    }

    fn verb(&mut self, subject: Number, transitive: bool, stream: &mut Stream) {
        if self.auxiliaries {
            self.words.push(Word::Auxiliary(subject, stream.below(2) == 1));
        }
        let which = below(stream, counts::VERBS);
        self.words.push(Word::Verb {
            transitive,
            which,
            number: if self.auxiliaries { None } else { Some(subject) },
        });
    }

    /// Whether the noun nearest before the main verb has another number than the subject's own noun.
    pub fn nearest_noun_differs(&self) -> bool {
        let mut numbers = self.words[..self.main].iter().filter_map(|word| match word {
            Word::Noun(_, number) => Some(*number),
            _ => None,
        });
        let subject = numbers.next();
        numbers.next_back().is_some_and(|nearest| Some(nearest) != subject)
    }

    /// Whether there are two auxiliaries, of one number, one of them negated: fronting the wrong one is then a mistake that shows.
    pub fn auxiliaries_differ_in_negation_alone(&self) -> bool {
        let mut auxiliaries = self.words.iter().filter_map(|word| match word {
            Word::Auxiliary(number, negated) => Some((*number, *negated)),
            _ => None,
        });
        let (first, second, further) = (auxiliaries.next(), auxiliaries.next(), auxiliaries.next());
        let (Some(first), Some(second), None) = (first, second, further) else { return false };
        first.0 == second.0 && first.1 != second.1
    }
}
