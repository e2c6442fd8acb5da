//! Words by number: the padding, the words in the order of their bytes, the end and the start of a line.
//!
//! Owns the numbering, which is that of the paper's released code: id 0 pads, the end follows the last word, the start follows the end.

/// The id of what fills up rows of unequal length.
const PADDING: u32 = 0;

/// The words of a task. Ids fit a byte.
#[derive(Debug)]
pub struct Vocabulary {
    /// In the order of their bytes; the id of the first is 1.
    words: Vec<String>,
}

impl Vocabulary {
    /// Of these words, in any order and however often: at most 253.
    pub fn new(words: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let mut words: Vec<String> = words.into_iter().map(Into::into).collect();
        words.sort_unstable();
        words.dedup();
        debug_assert!(words.len() <= usize::from(u8::MAX) - 2);
        Vocabulary { words }
    }

    /// Ids: words, padding, end and start.
    pub fn rows(&self) -> usize {
        self.words.len() + 3
    }

    /// The id that ends a line.
    pub fn end(&self) -> u32 {
        self.words.len() as u32 + 1
    }

    /// The id that starts a line.
    pub fn start(&self) -> u32 {
        self.end() + 1
    }

    /// The id of a word; that of the padding where there is no such word.
    pub fn id(&self, word: &str) -> u8 {
        self.words.binary_search_by(|known| known.as_str().cmp(word)).map_or(PADDING as u8, |at| at as u8 + 1)
    }

    /// The words of `tokens` with spaces between; padding, start and end are left out.
    pub fn text(&self, tokens: &[u32]) -> String {
        let word = |token: &u32| self.words.get((*token as usize).checked_sub(1)?).map(String::as_str);
        tokens.iter().filter_map(word).collect::<Vec<&str>>().join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_numbered_in_the_order_of_their_bytes() {
        let vocabulary = Vocabulary::new(["yak", ".", "PAST", "do", "don't", "yak"]);
        assert_eq!(
            [".", "PAST", "do", "don't", "yak", "zebra"].map(|word| vocabulary.id(word)),
            [1, 2, 3, 4, 5, 0]
        );
        assert_eq!((vocabulary.end(), vocabulary.start(), vocabulary.rows()), (6, 7, 8));
        assert_eq!(vocabulary.text(&[7, 5, 3, 1, 6, 0, 0]), "yak do .");
    }
}
