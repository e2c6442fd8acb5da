//! Lines out of a pool of candidates, with or without repeats.
//!
//! Candidate number c of a set is a function of the data seed, the set's name and c; it becomes a line of the set if the task does not
//! refuse it and, for [`Pool::draw`], its input is no line's of any set so far. So a larger set begins with the smaller one.

use std::collections::HashSet;

use super::lines::Lines;
use crate::random::{Stream, StreamFamily};

/// The inputs that were drawn so far, of all sets.
#[derive(Default)]
pub struct Pool {
    known: HashSet<Box<[u8]>>,
}

/// A candidate being written.
#[derive(Default)]
pub struct Candidate {
    /// Its tokens with the end.
    pub line: Vec<u8>,
    /// How many of them are the input, by which lines are told apart.
    pub input: usize,
}

/// Draws a set. `draw` writes a candidate for the line with this number over the last one, and says whether it is one.
pub fn fill(
    set: &StreamFamily,
    lines: usize,
    mut draw: impl FnMut(&mut Stream, usize, &mut Candidate) -> bool,
) -> Lines {
    let mut drawn = Lines::default();
    let mut candidate = Candidate::default();
    for number in 0.. {
        if drawn.len() == lines {
            break;
        }
        if draw(&mut set.at(number), drawn.len(), &mut candidate) {
            drawn.push(&candidate.line);
        }
    }
    drawn.shrink()
}

impl Pool {
    /// Draws a set of lines whose inputs are no others'.
    pub fn draw(
        &mut self,
        set: &StreamFamily,
        lines: usize,
        mut draw: impl FnMut(&mut Stream, usize, &mut Candidate) -> bool,
    ) -> Lines {
        self.known.reserve(lines);
        fill(set, lines, |stream, number, candidate| {
            draw(stream, number, candidate) && self.add(&candidate.line[..candidate.input])
        })
    }

    /// Whether the input is new; it is not from now on.
    fn add(&mut self, input: &[u8]) -> bool {
        !self.known.contains(input) && self.known.insert(input.into())
    }
}

/// The kinds 0, 1, … in proportion to `counts`, spread evenly: a prefix of the list has nearly their proportions. As long as the counts'
/// sum.
pub fn interleaved(counts: &[u32]) -> Vec<usize> {
    let places =
        |count: u32| (0..u64::from(count)).map(move |place| ((2 * place + 1) << 32) / u64::from(count));
    let kinds = counts.iter().enumerate();
    let mut kinds: Vec<(u64, usize)> =
        kinds.flat_map(|(kind, count)| places(*count).map(move |place| (place, kind))).collect();
    kinds.sort_unstable();
    kinds.into_iter().map(|(_, kind)| kind).collect()
}

/// The place of `drawn` in a table of counts, where `drawn` is below their sum.
pub fn weighted(counts: impl IntoIterator<Item = u32>, mut drawn: u32) -> usize {
    for (place, count) in counts.into_iter().enumerate() {
        match drawn.checked_sub(count) {
            Some(rest) => drawn = rest,
            None => return place,
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interleaved_kinds_have_their_counts_and_every_prefix_nearly_its_share() {
        let counts = [1537, 0, 24, 3, 1];
        let kinds = interleaved(&counts);
        let total: u32 = counts.iter().sum();
        assert_eq!(kinds.len(), total as usize);
        let mut found = [0u32; 5];
        for (place, kind) in (1..).zip(&kinds) {
            found[*kind] += 1;
            for (found, count) in found.iter().zip(counts) {
                let share = f64::from(count) * f64::from(place) / f64::from(total);
                assert!((f64::from(*found) - share).abs() <= 2.0, "{place}: {found} of {share}");
            }
        }
        assert_eq!(found, counts);
    }

    #[test]
    fn tables_are_drawn_by_their_counts() {
        let places: Vec<usize> = (0..6).map(|drawn| weighted([2, 0, 3, 1], drawn)).collect();
        assert_eq!(places, [0, 0, 2, 2, 2, 3]);
    }
}
