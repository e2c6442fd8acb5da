//! The words of McCoy, Frank and Linzen 2020 ("Does syntax need to grow on trees?", TACL 8; the grammars of their released code), as ids of a
//! [`Vocabulary`], and the part of speech of every id.
//!
//! Owns the word lists. Which sentences are made of them is [`sentence`](super::sentence)'s business.

use super::sentence::{Number, Word};
use super::vocabulary::Vocabulary;

/// Determiners.
const DETERMINERS: [&str; 6] = ["the", "some", "my", "your", "our", "her"];

/// Nouns, singular and plural.
const NOUNS: [[&str; 2]; 13] = [
    ["newt", "newts"],
    ["orangutan", "orangutans"],
    ["peacock", "peacocks"],
    ["quail", "quails"],
    ["raven", "ravens"],
    ["salamander", "salamanders"],
    ["tyrannosaurus", "tyrannosauruses"],
    ["unicorn", "unicorns"],
    ["vulture", "vultures"],
    ["walrus", "walruses"],
    ["xylophone", "xylophones"],
    ["yak", "yaks"],
    ["zebra", "zebras"],
];

/// Intransitive verbs: the bare form, which is the present plural too, the present singular, the past. `read` is its own past.
const INTRANSITIVE: [[&str; 3]; 9] = [
    ["giggle", "giggles", "giggled"],
    ["smile", "smiles", "smiled"],
    ["sleep", "sleeps", "slept"],
    ["swim", "swims", "swam"],
    ["wait", "waits", "waited"],
    ["move", "moves", "moved"],
    ["change", "changes", "changed"],
    ["read", "reads", "read"],
    ["eat", "eats", "ate"],
];

/// Transitive verbs, in the same forms.
const TRANSITIVE: [[&str; 3]; 9] = [
    ["entertain", "entertains", "entertained"],
    ["amuse", "amuses", "amused"],
    ["high_five", "high_fives", "high_fived"],
    ["applaud", "applauds", "applauded"],
    ["confuse", "confuses", "confused"],
    ["admire", "admires", "admired"],
    ["accept", "accepts", "accepted"],
    ["remember", "remembers", "remembered"],
    ["comfort", "comforts", "comforted"],
];

/// Auxiliaries: singular and plural, each without and with a negation.
const AUXILIARIES: [[&str; 2]; 2] = [["does", "doesn't"], ["do", "don't"]];

/// Prepositions.
const PREPOSITIONS: [&str; 8] = ["around", "near", "with", "upon", "by", "behind", "above", "below"];

/// Ends sentences.
const STOP: &str = ".";

/// Relativizers.
const RELATIVIZERS: [&str; 2] = ["who", "that"];

/// How many of each kind there are to draw from.
pub mod counts {
    /// Determiners.
    pub const DETERMINERS: u32 = super::DETERMINERS.len() as u32;
    /// Nouns of one number.
    pub const NOUNS: u32 = super::NOUNS.len() as u32;
    /// Verbs of one kind.
    pub const VERBS: u32 = super::INTRANSITIVE.len() as u32;
    /// Prepositions.
    pub const PREPOSITIONS: u32 = super::PREPOSITIONS.len() as u32;
    /// Relativizers.
    pub const RELATIVIZERS: u32 = super::RELATIVIZERS.len() as u32;
}

/// The part of speech of a word. All forms of all verbs are verbs, as in the released code's evaluation; so `read`, present plural
/// and past, has one part of speech.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// A determiner.
    Determiner,
    /// A noun of this number.
    Noun(Number),
    /// A verb in any form.
    Verb,
    /// An auxiliary.
    Auxiliary,
    /// A preposition.
    Preposition,
    /// A relativizer.
    Relativizer,
    /// Punctuation, words that name a task, and ids that are no words.
    Other,
}

impl Part {
    /// Whether two words are of one part of speech; nouns are, whatever their number.
    pub fn is_like(self, other: Part) -> bool {
        matches!((self, other), (Part::Noun(_), Part::Noun(_))) || self == other
    }
}

/// In which form verbs stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verbs {
    /// Bare, behind auxiliaries.
    Bare,
    /// Present and past.
    Inflected,
}

/// When the verbs of a sentence happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tense {
    /// Agrees with the subject.
    Present,
    /// One form for both numbers.
    Past,
}

/// The words of a task by kind, as ids.
#[derive(Debug)]
pub struct Lexicon {
    /// All words of the task.
    pub vocabulary: Vocabulary,
    /// The full stop.
    pub stop: u8,
    determiners: [u8; DETERMINERS.len()],
    nouns: [[u8; 2]; NOUNS.len()],
    verbs: [[[u8; 3]; INTRANSITIVE.len()]; 2],
    auxiliaries: [[u8; 2]; 2],
    prepositions: [u8; PREPOSITIONS.len()],
    relativizers: [u8; RELATIVIZERS.len()],
    parts: Vec<Part>,
}

impl Lexicon {
    /// The words of sentences with such verbs, the full stop, and `others`.
    pub fn new(verbs: Verbs, others: &[&'static str]) -> Self {
        let forms = INTRANSITIVE.iter().chain(&TRANSITIVE);
        let mut words =
            [&DETERMINERS[..], NOUNS.as_flattened(), &PREPOSITIONS, &RELATIVIZERS, &[STOP], others].concat();
        match verbs {
            Verbs::Bare => {
                words.extend(forms.map(|[bare, ..]| bare));
                words.extend(AUXILIARIES.as_flattened());
            }
            Verbs::Inflected => words.extend(forms.flatten()),
        }
        let vocabulary = Vocabulary::new(words);
        let id = |word: &str| vocabulary.id(word);
        let mut lexicon = Lexicon {
            determiners: DETERMINERS.map(id),
            nouns: NOUNS.map(|forms| forms.map(id)),
            verbs: [INTRANSITIVE, TRANSITIVE].map(|verbs| verbs.map(|forms| forms.map(id))),
            auxiliaries: AUXILIARIES.map(|forms| forms.map(id)),
            prepositions: PREPOSITIONS.map(id),
            relativizers: RELATIVIZERS.map(id),
            parts: vec![Part::Other; vocabulary.rows()],
            stop: id(STOP),
            vocabulary,
        };
        lexicon.name_parts();
        lexicon
    }

    fn name_parts(&mut self) {
        let parts = &mut self.parts;
        let mut name = |ids: &[u8], part: Part| ids.iter().for_each(|id| parts[usize::from(*id)] = part);
        name(&self.determiners, Part::Determiner);
        for [singular, plural] in self.nouns {
            name(&[singular], Part::Noun(Number::Singular));
            name(&[plural], Part::Noun(Number::Plural));
        }
        name(self.verbs.as_flattened().as_flattened(), Part::Verb);
        name(self.auxiliaries.as_flattened(), Part::Auxiliary);
        name(&self.prepositions, Part::Preposition);
        name(&self.relativizers, Part::Relativizer);
        // Forms that the task does not have were looked up in vain.
        parts[0] = Part::Other;
    }

    /// The id of a drawn word.
    pub fn id(&self, word: Word, tense: Tense) -> u8 {
        match word {
            Word::Determiner(which) => self.determiners[usize::from(which)],
            Word::Noun(which, number) => self.nouns[usize::from(which)][number as usize],
            Word::Auxiliary(number, negated) => self.auxiliaries[number as usize][usize::from(negated)],
            Word::Preposition(which) => self.prepositions[usize::from(which)],
            Word::Relativizer(which) => self.relativizers[usize::from(which)],
            Word::Verb { transitive, which, number } => {
                let form = match (number, tense) {
                    (None, _) | (Some(Number::Plural), Tense::Present) => 0,
                    (Some(Number::Singular), Tense::Present) => 1,
                    (Some(_), Tense::Past) => 2,
                };
                self.verbs[usize::from(transitive)][usize::from(which)][form]
            }
        }
    }

    /// The sentence that a line starts with, without its full stop.
    pub fn sentence<'a>(&self, line: &'a [u8]) -> &'a [u8] {
        line.split(|token| *token == self.stop).next().unwrap_or_default()
    }

    /// How many words of a line ask: the sentence, its full stop, and the word that names the task.
    pub fn prompt(&self, line: &[u32]) -> Option<usize> {
        let stop = line.iter().position(|word| *word == u32::from(self.stop))?;
        Some(stop + 2).filter(|words| *words < line.len())
    }

    /// The part of speech of an id.
    pub fn part(&self, id: u32) -> Part {
        self.parts.get(id as usize).copied().unwrap_or(Part::Other)
    }

    /// The ids of the auxiliaries.
    pub fn auxiliaries(&self) -> Vec<u32> {
        self.auxiliaries.as_flattened().iter().map(|id| u32::from(*id)).collect()
    }

    /// The parts of speech of words.
    pub fn parts(&self, words: &[u8]) -> Vec<Part> {
        words.iter().map(|id| self.part(u32::from(*id))).collect()
    }

    /// The present form, agreeing with `number`, of the verb of which `id` is a form.
    pub fn present(&self, id: u32, number: Number) -> Option<u32> {
        let mut verbs = self.verbs.as_flattened().iter();
        let forms = verbs.find(|forms| forms.iter().any(|form| u32::from(*form) == id))?;
        Some(u32::from(forms[if number == Number::Singular { 1 } else { 0 }]))
    }
}
