//! Alphabets: one character is one token. The numbers of the tokens are those of the paper's released code, which names its
//! alphabets "pad", "index" and "sort".

use std::ops::Range;

/// Fills rows behind their text, and stands for a space within it.
pub const PAD: u32 = 0;
/// Ends every text. (The tokens between, "unknown" and "beginning", are never used.)
pub const END: u32 = 3;
/// The digits 0 to 9.
pub const DIGITS: Range<u32> = 4..14;
/// `+`
pub const PLUS: u32 = 14;
/// `-`
pub const MINUS: u32 = 15;
/// `x`
pub const TIMES: u32 = 16;
/// `=`, in every alphabet.
pub const EQUALS: u32 = 17;
/// `,` when sorting.
pub const COMMA: u32 = 15;
/// `:` when sorting.
pub const COLON: u32 = 16;
/// The first symbol behind those above; 18 is a space, which is written as [`PAD`] instead.
const FIRST_SYMBOL: u32 = 19;

/// Characters 14 to 17 of calculations.
const OPERATORS: [char; 4] = ['+', '-', 'x', '='];
/// The same of sorting.
const SEPARATORS: [char; 4] = ['D', ',', ':', '='];

/// Symbols that name places, in their order.
#[rustfmt::skip]
pub const SYMBOLS: [char; 102] = [
    'A', 'B', 'C', 'D', 'E', 'F', 'G', 'H', 'I', 'J', 'K', 'L', 'M', 'N', 'O', 'P', 'Q', 'R', 'S', 'T', 'U', 'V', 'W', 'X', 'Y', 'Z',
    'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j', 'k', 'l', 'm', 'n', 'o', 'p', 'q', 'r', 's', 't', 'u', 'v', 'w', 'y', 'z',
    '!', '@', '£', '#', '$', '%', '^', '&', '*', '(', ')', '~', '?', '.', ',', '<', '>', '{', '}', '[', ']', ':', ';', '/', '|',
    'β', 'Γ', 'Δ', 'δ', 'ε', 'ζ', 'η', 'θ', 'κ', 'Λ', 'λ', 'μ', 'Ξ', 'ξ', 'Π', 'π', 'Σ', 'ς', 'τ', 'Φ', 'φ', 'χ', 'Ψ', 'ψ', 'Ω', 'ω',
];

/// The tokens of the symbols when sorting: three of them are separators as well and keep those tokens.
const SORTING_SYMBOLS: [u32; SYMBOLS.len()] = {
    let mut tokens = [0; SYMBOLS.len()];
    let (mut index, mut next) = (0, FIRST_SYMBOL);
    while index < SYMBOLS.len() {
        tokens[index] = match SYMBOLS[index] {
            'D' => PLUS,
            ',' => COMMA,
            ':' => COLON,
            _ => {
                next += 1;
                next - 1
            }
        };
        index += 1;
    }
    tokens
};

/// The characters of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alphabet {
    /// Digits, `+`, `-`, `x`, `=`.
    Calculation,
    /// The same and the symbols.
    Hinted,
    /// Digits, `,`, `:`, `=` and the symbols.
    Sorting,
}

impl Alphabet {
    /// Number of tokens, those that no text has included.
    pub fn vocabulary(self) -> usize {
        FIRST_SYMBOL as usize
            + match self {
                Alphabet::Calculation => 0,
                Alphabet::Hinted => SYMBOLS.len(),
                Alphabet::Sorting => SYMBOLS.len() - 3,
            }
    }

    /// The token of the symbol `index`, counted around the list's end.
    pub fn symbol(self, index: usize) -> u32 {
        let index = index % SYMBOLS.len();
        match self {
            Alphabet::Sorting => SORTING_SYMBOLS[index],
            Alphabet::Calculation | Alphabet::Hinted => FIRST_SYMBOL + index as u32,
        }
    }

    /// Tokens for people: a pad is a space, `∎` the end, `�` what no text has. Spaces at the end are left out.
    pub fn text(self, tokens: &[u32]) -> String {
        let used = tokens.iter().rposition(|token| *token != PAD).map_or(0, |last| last + 1);
        tokens[..used].iter().map(|token| self.character(*token)).collect()
    }

    fn character(self, token: u32) -> char {
        let named = match token {
            PAD => Some(' '),
            END => Some('∎'),
            _ if DIGITS.contains(&token) => char::from_digit(token - DIGITS.start, 10),
            PLUS..=EQUALS => {
                let named = if self == Alphabet::Sorting { SEPARATORS } else { OPERATORS };
                Some(named[(token - PLUS) as usize])
            }
            _ => match self {
                Alphabet::Calculation => None,
                Alphabet::Hinted => {
                    token.checked_sub(FIRST_SYMBOL).and_then(|index| SYMBOLS.get(index as usize)).copied()
                }
                Alphabet::Sorting => {
                    SORTING_SYMBOLS.iter().position(|symbol| *symbol == token).map(|index| SYMBOLS[index])
                }
            },
        };
        named.unwrap_or(char::REPLACEMENT_CHARACTER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vocabularies_and_tokens_are_those_of_the_released_code() {
        let all = [Alphabet::Calculation, Alphabet::Hinted, Alphabet::Sorting];
        assert_eq!(all.map(Alphabet::vocabulary), [19, 121, 118]);
        assert_eq!(Alphabet::Calculation.text(&(4..18).collect::<Vec<u32>>()), "0123456789+-x=");
        assert_eq!(Alphabet::Sorting.text(&(4..18).collect::<Vec<u32>>()), "0123456789D,:=");
        let symbols: String = SYMBOLS.iter().collect();
        assert_eq!(Alphabet::Hinted.text(&(19..121).collect::<Vec<u32>>()), symbols);
        let others: String = symbols.chars().filter(|symbol| !"D,:".contains(*symbol)).collect();
        assert_eq!(Alphabet::Sorting.text(&(19..118).collect::<Vec<u32>>()), others);
    }

    #[test]
    fn symbols_are_different_and_read_back() {
        let distinct: std::collections::BTreeSet<char> = SYMBOLS.into_iter().collect();
        assert_eq!(distinct.len(), 102);
        for alphabet in [Alphabet::Hinted, Alphabet::Sorting] {
            for (index, symbol) in SYMBOLS.iter().enumerate() {
                assert_eq!(alphabet.text(&[alphabet.symbol(index)]), symbol.to_string());
                assert_eq!(alphabet.symbol(index + 102), alphabet.symbol(index));
            }
        }
    }

    #[test]
    fn texts_show_pads_within_and_not_behind_and_mark_what_cannot_be() {
        assert_eq!(Alphabet::Calculation.text(&[5, 0, 0, 17, 6, 3, 0, 0]), "1  =2∎");
        assert_eq!(Alphabet::Calculation.text(&[0, 0]), "");
        assert_eq!(Alphabet::Calculation.text(&[1, 2, 18, 19, u32::MAX]), "�����");
        assert_eq!(Alphabet::Hinted.text(&[18, 121]), "��");
        assert_eq!(Alphabet::Sorting.text(&[18, 118]), "��");
    }
}
