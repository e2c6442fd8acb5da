//! A problem written out as tokens: `question=answer∎`.
//!
//! Owns how numbers, symbols of places and pads are written. What is asked and what is right is the tasks' business.

use serde::Serialize;

use super::alphabet::{Alphabet, DIGITS, END, EQUALS, PAD, SYMBOLS};
use crate::random::Stream;

/// Whether every digit follows a symbol that names its place, the same in all numbers of a problem (McLeish et al. 2024,
/// appendix A.7.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum IndexHints {
    /// No symbols.
    None,
    /// A run of the list of 102 symbols from a random one on, with room for the problem's longest number before the list's end.
    Plain,
    /// A run from any symbol on; after the last comes the first.
    Cyclic,
}

impl IndexHints {
    /// Every kind by the name study files use.
    pub const ALL: [(&'static str, IndexHints); 3] =
        [("none", IndexHints::None), ("plain", IndexHints::Plain), ("cyclic", IndexHints::Cyclic)];

    /// The first symbol for a problem whose longest number has `digits` digits.
    pub fn draw(self, stream: &mut Stream, digits: usize) -> Option<usize> {
        let starts = match self {
            IndexHints::None => return None,
            IndexHints::Plain => SYMBOLS.len().saturating_sub(digits) + 1,
            IndexHints::Cyclic => SYMBOLS.len(),
        };
        Some(stream.below(starts as u32) as usize)
    }
}

/// Pads put before characters at random.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pads {
    /// That of a first pad before a character; of every further one a tenth of the one before.
    pub probability: f64,
    /// No more than these in one problem.
    pub most: usize,
}

/// A problem being written; its memory is used again for the next.
#[derive(Clone, Debug)]
pub struct Problem {
    tokens: Vec<u32>,
    /// Where the `=` is.
    equals: usize,
    padded: Vec<u32>,
}

impl Problem {
    /// An empty one that holds `capacity` tokens without more memory.
    pub fn with_capacity(capacity: usize) -> Self {
        Problem { tokens: Vec::with_capacity(capacity), equals: 0, padded: Vec::with_capacity(capacity) }
    }

    /// Begins anew.
    pub fn clear(&mut self) {
        self.tokens.clear();
        self.equals = 0;
    }

    /// Writes one token.
    pub fn push(&mut self, token: u32) {
        self.tokens.push(token);
    }

    /// Writes a number, units first, with the symbols from `hints` on before its digits.
    pub fn push_number(&mut self, digits: &[u32], hints: Option<usize>) {
        for (place, digit) in digits.iter().enumerate() {
            if let Some(first) = hints {
                self.push(Alphabet::Hinted.symbol(first + place));
            }
            self.push(DIGITS.start + digit);
        }
    }

    /// Writes `=`: the answer begins.
    pub fn push_equals(&mut self) {
        self.equals = self.tokens.len();
        self.push(EQUALS);
    }

    /// Writes the end.
    pub fn push_end(&mut self) {
        self.push(END);
    }

    /// Puts pads before characters, not before the end.
    pub fn insert_pads(&mut self, stream: &mut Stream, pads: Pads) {
        let mut left = pads.most;
        let mut equals = 0;
        self.padded.clear();
        for (place, token) in self.tokens.iter().enumerate() {
            let mut probability = if *token == END { 0.0 } else { pads.probability };
            while left > 0 && stream.unit() < probability {
                self.padded.push(PAD);
                probability *= 0.1;
                left -= 1;
            }
            if place == self.equals {
                equals = self.padded.len();
            }
            self.padded.push(*token);
        }
        self.equals = equals;
        std::mem::swap(&mut self.tokens, &mut self.padded);
    }

    /// What has been written.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Where the `=` is.
    pub fn equals(&self) -> usize {
        self.equals
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pads stand before characters until there are as many as may be, the rest is left as it was.
    #[test]
    fn pads_come_to_an_end() {
        let pads = Pads { probability: 0.9, most: 3 };
        let mut stopped = 0;
        for index in 0..200 {
            let mut problem = Problem::with_capacity(0);
            problem.push_number(&[1, 2, 3], None);
            problem.push_equals();
            problem.push_number(&[4], None);
            problem.push_end();
            problem.insert_pads(&mut Stream::new(1, "pads", index), pads);
            let left: Vec<u32> = problem.tokens().iter().copied().filter(|token| *token != PAD).collect();
            assert_eq!(left, [5, 6, 7, EQUALS, 8, END]);
            assert_eq!(problem.tokens()[problem.equals()], EQUALS);
            let pads = problem.tokens().len() - left.len();
            assert!(pads <= 3 && problem.tokens()[problem.tokens().len() - 2] != PAD);
            stopped += usize::from(pads == 3);
        }
        assert!(stopped > 150, "{stopped}");
    }
}
