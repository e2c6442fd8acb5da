//! Byte offsets to lines and columns, in logarithmic time per question.

use crate::node::Location;

/// Bytes between two stored character counts.
const BLOCK: usize = 256;

/// Knows where the lines of a text begin.
pub(super) struct Places<'a> {
    text: &'a str,
    /// Byte offset of the start of every line.
    lines: Vec<usize>,
    /// Number of characters that start before byte `i * BLOCK`.
    characters: Vec<usize>,
}

impl<'a> Places<'a> {
    pub fn new(text: &'a str) -> Self {
        let mut lines = vec![0];
        let mut characters = Vec::with_capacity(text.len() / BLOCK + 1);
        let mut count = 0;
        for (offset, byte) in text.bytes().enumerate() {
            if offset % BLOCK == 0 {
                characters.push(count);
            }
            if starts_character(byte) {
                count += 1;
            }
            if byte == b'\n' {
                lines.push(offset + 1);
            }
        }
        Places { text, lines, characters }
    }

    /// The place of the character at byte `offset`; offsets beyond the end mean the end.
    pub fn at(&self, offset: usize) -> Location {
        let offset = offset.min(self.text.len());
        let line = self.lines.partition_point(|start| *start <= offset).max(1);
        let start = self.lines.get(line - 1).copied().unwrap_or(0);
        let column = self.characters_before(offset) - self.characters_before(start) + 1;
        Location { line: narrow(line), column: narrow(column) }
    }

    fn characters_before(&self, offset: usize) -> usize {
        let block = (offset / BLOCK).min(self.characters.len().saturating_sub(1));
        let counted = self.characters.get(block).copied().unwrap_or(0);
        let rest = self.text.as_bytes().get(block * BLOCK..offset).unwrap_or_default();
        counted + rest.iter().filter(|byte| starts_character(**byte)).count()
    }
}

fn starts_character(byte: u8) -> bool {
    byte & 0b1100_0000 != 0b1000_0000
}

/// Study files are far shorter than 4 GiB, so nothing is lost.
pub(super) fn narrow(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_characters_and_lines_from_one() {
        let text = format!("a\nüü{}=1\n\n", "é".repeat(300));
        let places = Places::new(&text);
        let at = |offset| (places.at(offset).line, places.at(offset).column);
        assert_eq!(at(0), (1, 1));
        assert_eq!(at(1), (1, 2));
        assert_eq!(at(2), (2, 1));
        assert_eq!(at(4), (2, 2));
        assert_eq!(at(2 + 4 + 600), (2, 303));
        assert_eq!(at(text.len()), (4, 1));
        assert_eq!(at(usize::MAX), (4, 1));
    }
}
