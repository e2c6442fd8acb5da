//! The structure of a written sentence: its shape, its main verb, and its binary tree.
//!
//! Owns the reading of words back into structure, by the parts of speech alone: one look ahead tells every rule apart. The trees are those
//! of the paper's constituency grammar, made binary: `(NP VP)`, `(Det N)`, `((Det N) PP)`, `((Det N) RC)`, `(Prep (Det N))`, `(Aux VBAR)`,
//! `(V NP)`, `(Rel VP)`, `(Rel ((Det N) (Aux V)))`.

use super::sentence::{Clause, Modifier, Predicate, Template};
use super::words::{Lexicon, Part};
use crate::tasks::{Brackets, Sentences};

/// What a sentence's words say about its structure.
#[derive(Clone, Debug, PartialEq)]
pub struct Structure {
    /// Its shape.
    pub template: Template,
    /// The place of the main clause's auxiliary, or of its verb where it has none.
    pub main: usize,
    /// Its binary tree.
    pub tree: Brackets,
}

/// Reads a sentence without its full stop; `None`: the words are none of the grammar's sentences.
pub fn structure(parts: &[Part]) -> Option<Structure> {
    let mut reader = Reader { parts, at: 0, tree: Vec::with_capacity(parts.len()) };
    let subject = reader.noun_phrase()?;
    let main = reader.at;
    let predicate = match reader.verb_phrase()? {
        None => Predicate::Intransitive,
        Some(object) => Predicate::Transitive(object),
    };
    let mut tree = reader.ended()?;
    tree.push((0, parts.len() as u16));
    tree.sort_unstable();
    Some(Structure { template: Template { subject, predicate }, main, tree })
}

/// Sentences, without their full stops, with their trees.
pub fn with_trees<'a>(lexicon: &Lexicon, lines: impl Iterator<Item = &'a [u8]>) -> Sentences {
    let (mut words, mut ends, mut trees) = (Vec::new(), Vec::new(), Vec::new());
    for line in lines {
        // Every line was written from a sentence.
        trees.extend(structure(&lexicon.parts(line)).map(|structure| structure.tree));
        words.extend(line.iter().map(|id| u32::from(*id)));
        ends.push(words.len() as u32);
    }
    Sentences { start: lexicon.vocabulary.start(), words, ends, trees: Some(trees) }
}

struct Reader<'a> {
    parts: &'a [Part],
    at: usize,
    tree: Brackets,
}

impl Reader<'_> {
    fn next_is(&self, part: Part) -> bool {
        self.parts.get(self.at).is_some_and(|next| next.is_like(part))
    }

    fn take(&mut self, part: Part) -> Option<()> {
        let found = self.next_is(part);
        self.at += usize::from(found);
        found.then_some(())
    }

    /// A node from `start` to here.
    fn node(&mut self, start: usize) {
        self.tree.push((start as u16, self.at as u16));
    }

    fn ended(self) -> Option<Brackets> {
        (self.at == self.parts.len()).then_some(self.tree)
    }

    /// A determiner and a noun.
    fn noun(&mut self) -> Option<()> {
        let start = self.at;
        self.take(Part::Determiner)?;
        matches!(self.parts.get(self.at), Some(Part::Noun(_))).then_some(())?;
        self.at += 1;
        self.node(start);
        Some(())
    }

    /// A noun and what modifies it.
    fn noun_phrase(&mut self) -> Option<Modifier> {
        let start = self.at;
        self.noun()?;
        let behind = self.at;
        let modifier = if self.take(Part::Preposition).is_some() {
            self.noun()?;
            self.node(behind);
            Modifier::Prepositional
        } else if self.take(Part::Relativizer).is_some() {
            let clause = self.relative_clause()?;
            self.node(behind);
            Modifier::Relative(clause)
        } else {
            return Some(Modifier::None);
        };
        self.node(start);
        Some(modifier)
    }

    /// What follows a relativizer.
    fn relative_clause(&mut self) -> Option<Clause> {
        if self.next_is(Part::Determiner) {
            let start = self.at;
            self.noun()?;
            let verb = self.at;
            if self.take(Part::Auxiliary).is_some() {
                self.take(Part::Verb)?;
                self.node(verb);
            } else {
                self.take(Part::Verb)?;
            }
            self.node(start);
            return Some(Clause::Object);
        }
        match self.verb_phrase()? {
            None => Some(Clause::SubjectIntransitive),
            Some(Modifier::None) => Some(Clause::SubjectTransitive),
            Some(_) => None,
        }
    }

    /// A verb, perhaps with its auxiliary and its object; how the object is modified.
    fn verb_phrase(&mut self) -> Option<Option<Modifier>> {
        let start = self.at;
        let auxiliary = self.take(Part::Auxiliary).is_some();
        let verb = self.at;
        self.take(Part::Verb)?;
        let object = if self.next_is(Part::Determiner) {
            let object = self.noun_phrase()?;
            self.node(verb);
            Some(object)
        } else {
            None
        };
        if auxiliary {
            self.node(start);
        }
        Some(object)
    }
}

#[cfg(test)]
mod tests {
    use super::super::sentence::Sentence;
    use super::super::words::{Lexicon, Tense, Verbs};
    use super::*;
    use crate::random::Stream;

    /// The brackets of a tree written with brackets.
    fn brackets(written: &str) -> Brackets {
        let (mut open, mut nodes, mut words) = (Vec::new(), Vec::new(), 0u16);
        for piece in written.split_inclusive(['(', ')']) {
            let (text, sign) = piece.split_at(piece.len() - 1);
            words += text.split_whitespace().count() as u16;
            match sign {
                "(" => open.push(words),
                ")" => nodes.extend(open.pop().map(|start| (start, words))),
                _ => {}
            }
        }
        nodes.sort_unstable();
        nodes
    }

    fn parts(lexicon: &Lexicon, written: &str) -> Vec<Part> {
        let words = written.replace(['(', ')'], " ");
        words.split_whitespace().map(|word| lexicon.part(u32::from(lexicon.vocabulary.id(word)))).collect()
    }

    #[test]
    fn trees_are_those_of_the_binary_rules() {
        let (bare, inflected) = (Lexicon::new(Verbs::Bare, &[]), Lexicon::new(Verbs::Inflected, &[]));
        for (lexicon, written) in [
            (&bare, "((the newt) (does giggle))"),
            (&bare, "(((my yak) (near (the newts))) (doesn't (admire (our quail))))"),
            (&bare, "(((my yak) (who (does sleep))) (doesn't (admire ((our quail) (by (the newt))))))"),
            (&bare, "(((my yak) (who ((the newts) (do amuse)))) (doesn't swim))"),
            (&bare, "((her newts) (do (amuse ((the yak) (that (does (accept (some zebras))))))))"),
            (&inflected, "((the newt) giggled)"),
            (
                &inflected,
                "(((the newts) (that (admire (your yak)))) (comfort ((our quail) (by (the newt)))))",
            ),
            (&inflected, "(((the newts) (that ((your yak) admires))) read)"),
            (&inflected, "(((the newts) (who slept)) (amused ((the yaks) (who read))))"),
        ] {
            let found = structure(&parts(lexicon, written)).map(|structure| structure.tree);
            assert_eq!(found, Some(brackets(written)), "{written}");
        }
    }

    #[test]
    fn what_the_grammar_does_not_make_is_no_sentence() {
        let lexicon = Lexicon::new(Verbs::Bare, &[]);
        for words in [
            "",
            "the newt",
            "the newt does",
            "does giggle",
            "the newt does giggle .",
            "the newt who does amuse the yak who does swim does swim",
            "newt the does giggle",
        ] {
            assert_eq!(structure(&parts(&lexicon, words)), None, "{words}");
        }
    }

    /// Every shape is drawn and read back; trees of n words have n - 1 nodes, the whole among them, that nest.
    #[test]
    fn drawn_sentences_are_read_back() {
        for (verbs, tense) in
            [(Verbs::Bare, Tense::Past), (Verbs::Inflected, Tense::Past), (Verbs::Inflected, Tense::Present)]
        {
            let lexicon = Lexicon::new(verbs, &[]);
            let mut sentence = Sentence::new(verbs == Verbs::Bare);
            let mut stream = Stream::new(1, "test", 0);
            let shapes = Modifier::ALL.iter().flat_map(|subject| {
                Predicate::ALL.map(|predicate| Template { subject: *subject, predicate })
            });
            for template in shapes.cycle().take(300) {
                sentence.draw(template, &mut stream);
                let part =
                    |word: &super::super::sentence::Word| lexicon.part(u32::from(lexicon.id(*word, tense)));
                let parts: Vec<Part> = sentence.words.iter().map(part).collect();
                let structure = structure(&parts).expect("a sentence");
                assert_eq!((structure.template, structure.main), (template, sentence.main));
                assert_eq!(structure.tree.len(), parts.len() - 1);
                assert!(structure.tree.contains(&(0, parts.len() as u16)));
                for (a, b) in structure.tree.iter().flat_map(|a| structure.tree.iter().map(move |b| (a, b))) {
                    let crosses = a.0 < b.0 && b.0 < a.1 && a.1 < b.1;
                    assert!(!crosses, "{:?}", structure.tree);
                }
            }
        }
    }
}
