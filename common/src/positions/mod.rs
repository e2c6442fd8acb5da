//! Position schemes: how a transformer learns where a token stands. One file per scheme and one line in `scheme_list!`; a study
//! combines them freely, `positions = "abacus+fire"`.
//!
//! A scheme is plain data: its settings, how it enters the transformer ([`Entry`]), and which row of its table belongs to a
//! token. Owns those and how studies write them. The arithmetic of each kind of entry is `plateau-lab`'s, once for all schemes.

mod abacus;
mod fire;
mod learned;
mod randomised;
mod rotary;
mod sinusoidal;

pub use abacus::Abacus;
pub use fire::Fire;
pub use learned::Learned;
pub use randomised::Randomised;
pub use rotary::Rotary;
pub use sinusoidal::Sinusoidal;

use serde::ser::{Error as _, SerializeMap};
use serde::{Serialize, Serializer};

use crate::fields::{ConfigResult, Fields, unknown_word};
use crate::node::{Node, Table, Value};
use crate::random::Stream;
use crate::tasks::TaskConfig;

/// How a scheme enters the transformer.
#[derive(Clone, Copy, Debug)]
pub enum Entry {
    /// The row of a trained table at the token's position is added to its embedding; `rows` in the table, or as many as a
    /// training sequence has tokens.
    LearnedTable {
        /// Rows of the table.
        rows: Option<usize>,
    },
    /// The row that [`Scheme::rows`] names is added to the token's embedding; so it may depend on the other tokens.
    TokenTable {
        /// Rows of the table.
        rows: usize,
    },
    /// Numbers of (position, coordinate, width) are added to the token's embedding.
    FixedTable(fn(usize, usize, usize) -> f64),
    /// Queries and keys are rotated by their position (Su et al. 2021), in half-split pairs of coordinates.
    Rotation {
        /// Pair number i of h turns by position / base^(i/h).
        base: f64,
    },
    /// A multi-layer perceptron of the distance, one for each layer, is added to the attention logits (Li et al. 2024).
    Fire(Fire),
    /// Numbers of (head, heads, query, key) are added to the attention logits; positions count from 0 and the key's is at
    /// most the query's where attention is causal.
    FixedBias(fn(usize, usize, usize, usize) -> f64),
    /// It adds nothing itself: in training, the positions of the others are an increasing random choice of `0..positions`, one
    /// for all examples of an update (Ruoss et al. 2023); at evaluation they are 0, 1, 2, ….
    RandomNumbering {
        /// Positions to choose from.
        positions: usize,
    },
}

/// A scheme's settings and rules.
pub trait Scheme: Clone + std::fmt::Debug + PartialEq + Serialize + Sized {
    /// Reads `[model.<word>]`, an empty table where the study has none. Must end with `fields.finish()`.
    fn read(fields: Fields<'_>, task: &TaskConfig) -> ConfigResult<Self>;

    /// How it enters the transformer.
    fn entry(&self) -> Entry;

    /// For [`Entry::TokenTable`]: appends the row of every token of one batch, `[B, length]`, to `rows`. In training `stream`
    /// is the update's own; at evaluation there is none, and nothing may be random.
    fn rows(&self, tokens: &[u32], length: usize, stream: Option<&mut Stream>, rows: &mut Vec<u32>) {
        let _ = stream;
        rows.extend((0..tokens.len()).map(|at| (at % length.max(1)) as u32));
    }
}

/// Declares the list of schemes: the enum, reading by word, and dispatch.
macro_rules! scheme_list {
    ($($word:literal => $name:ident),+ $(,)?) => {
        /// A scheme with its settings.
        #[derive(Clone, Debug, PartialEq, Serialize)]
        #[serde(untagged)]
        pub enum Position {
            $(#[doc = concat!("`\"", $word, "\"`.")] $name($name),)+
        }

        impl Position {
            /// The words of all schemes, in the order of the list.
            pub const WORDS: &'static [&'static str] = &[$($word),+];

            /// Its word.
            pub fn word(&self) -> &'static str {
                match self { $(Position::$name(_) => $word,)+ }
            }

            /// How it enters the transformer.
            pub fn entry(&self) -> Entry {
                match self { $(Position::$name(scheme) => scheme.entry(),)+ }
            }

            /// See [`Scheme::rows`].
            pub fn rows(&self, tokens: &[u32], length: usize, stream: Option<&mut Stream>, rows: &mut Vec<u32>) {
                match self { $(Position::$name(scheme) => scheme.rows(tokens, length, stream, rows),)+ }
            }

            /// Reads the settings of all schemes that a study has some of, and of those that are `wanted`, which are returned.
            fn read_all(
                fields: &mut Fields<'_>,
                task: &TaskConfig,
                wanted: &[&str],
            ) -> ConfigResult<Vec<Position>> {
                let empty = Node { value: Value::Table(Table::default()), location: None };
                let mut schemes = Vec::new();
                $(
                    let own = fields.table($word)?;
                    let is_wanted = wanted.contains(&$word);
                    if own.is_some() || is_wanted {
                        let own = match own {
                            Some(own) => own,
                            None => Fields::new(fields.path_of($word), &empty)?,
                        };
                        // The settings of schemes that are not used here (but maybe elsewhere along an axis) are checked too.
                        let scheme = <$name as Scheme>::read(own, task)?;
                        if is_wanted {
                            schemes.push(Position::$name(scheme));
                        }
                    }
                )+
                Ok(schemes)
            }
        }
    };
}

scheme_list! {
    "learned" => Learned,
    "sinusoidal" => Sinusoidal,
    "rotary" => Rotary,
    "abacus" => Abacus,
    "fire" => Fire,
    "randomised" => Randomised,
}

/// The schemes of a model, in the order of the list; written `positions = "abacus+fire"`, or `"none"`, with settings in
/// `[model.abacus]` and so on.
#[derive(Clone, Debug, PartialEq)]
pub struct Positions {
    schemes: Vec<Position>,
}

impl Positions {
    /// No scheme at all: nothing but the causal mask tells positions apart.
    pub const NONE: Positions = Positions { schemes: Vec::new() };

    /// Learned absolute positions, the default.
    pub fn learned() -> Self {
        Positions { schemes: vec![Position::Learned(Learned { rows: None })] }
    }

    /// Reads `positions` (default `"learned"`) and the schemes' settings from `[model]`.
    pub fn read(fields: &mut Fields<'_>, task: &TaskConfig) -> ConfigResult<Self> {
        let text = fields.text("positions")?.unwrap_or("learned");
        let words: Vec<&str> = if text == "none" { Vec::new() } else { text.split('+').collect() };
        for (at, word) in words.iter().enumerate() {
            if !Position::WORDS.contains(word) {
                let error = fields.error("positions", format!("unknown position scheme `{word}`"));
                let known: Vec<(&str, ())> =
                    Position::WORDS.iter().chain(&["none"]).map(|word| (*word, ())).collect();
                let mut error = unknown_word(error, word, &known);
                if let Some(suggestion) = &mut error.suggestion {
                    suggestion.push_str("; schemes are combined with `+`");
                }
                return Err(error);
            }
            if words[..at].contains(word) {
                return Err(fields.error("positions", format!("`{word}` is named twice")));
            }
        }
        let schemes = Position::read_all(fields, task, &words)?;
        let mut positions = Positions { schemes };
        if let Err(problem) = positions.check_combination() {
            return Err(fields.error("positions", problem));
        }
        positions.make_room(fields)?;
        Ok(positions)
    }

    /// Positions to choose from, where they are chosen at random.
    pub fn random_positions(&self) -> Option<usize> {
        self.entries().find_map(|entry| match entry {
            Entry::RandomNumbering { positions } => Some(positions),
            _ => None,
        })
    }

    /// Gives a learned table a row for every position that may be drawn.
    fn make_room(&mut self, fields: &Fields<'_>) -> ConfigResult<()> {
        let Some(drawn) = self.random_positions() else { return Ok(()) };
        for scheme in &mut self.schemes {
            let Position::Learned(learned) = scheme else { continue };
            match learned.rows {
                Some(rows) if rows < drawn => {
                    let problem =
                        format!("a table of {rows} rows has none for some of the {drawn} positions drawn");
                    return Err(fields
                        .error("learned", problem)
                        .suggest(format!("use at least {drawn}, or lower randomised.positions")));
                }
                Some(_) => {}
                None => learned.rows = Some(drawn),
            }
        }
        Ok(())
    }

    fn check_combination(&self) -> Result<(), &'static str> {
        let has = |wanted: fn(&Entry) -> bool| self.schemes.iter().any(|scheme| wanted(&scheme.entry()));
        let by_position = |entry: &Entry| matches!(entry, Entry::LearnedTable { .. } | Entry::FixedTable(_));
        if self.entries().filter(by_position).count() > 1 {
            return Err("two schemes add something by position; keep one of them");
        }
        if !has(|entry| matches!(entry, Entry::RandomNumbering { .. })) {
            return Ok(());
        }
        if has(|entry| matches!(entry, Entry::Rotation { .. } | Entry::FixedBias(_))) {
            return Err("random numbering is not offered for rotations and fixed biases; combine it with \
                        `learned`, `sinusoidal` or `fire`");
        }
        if !has(|entry| matches!(entry, Entry::LearnedTable { .. } | Entry::FixedTable(_) | Entry::Fire(_))) {
            return Err(
                "there are no positions to number: combine it with `learned`, `sinusoidal` or `fire`",
            );
        }
        Ok(())
    }

    /// The schemes.
    pub fn schemes(&self) -> &[Position] {
        &self.schemes
    }

    /// How they enter the transformer.
    pub fn entries(&self) -> impl Iterator<Item = Entry> + '_ {
        self.schemes.iter().map(Position::entry)
    }

    /// Whether there is none.
    pub fn is_none(&self) -> bool {
        self.schemes.is_empty()
    }

    /// Whether something about positions is drawn anew for every update.
    pub fn is_random(&self) -> bool {
        let drawn = |entry: Entry| matches!(entry, Entry::TokenTable { .. } | Entry::RandomNumbering { .. });
        self.entries().any(drawn)
    }

    /// The words, as studies write them.
    pub fn words(&self) -> String {
        let words: Vec<&str> = self.schemes.iter().map(Position::word).collect();
        if words.is_empty() { "none".to_owned() } else { words.join("+") }
    }

    /// Whether a scheme has a table that sequences may be too long for.
    pub fn has_tables(&self) -> bool {
        self.entries().any(|entry| {
            matches!(
                entry,
                Entry::LearnedTable { .. } | Entry::TokenTable { .. } | Entry::RandomNumbering { .. }
            )
        })
    }

    /// Why sequences like these (`[B, length]`, at evaluation) are longer than the schemes' tables.
    pub fn misfit(&self, tokens: &[u32], length: usize, trained: usize) -> Option<String> {
        self.schemes.iter().find_map(|scheme| {
            let (needed, rows) = match scheme.entry() {
                Entry::LearnedTable { rows } => (length, rows.unwrap_or(trained)),
                Entry::TokenTable { rows } => {
                    let mut found = Vec::new();
                    scheme.rows(tokens, length, None, &mut found);
                    (found.iter().max().map_or(0, |row| *row as usize + 1), rows)
                }
                Entry::RandomNumbering { positions } => (length, positions),
                _ => return None,
            };
            let word = scheme.word();
            (needed > rows).then(|| format!("`{word}` has {rows} positions, {needed} are needed"))
        })
    }
}

impl Serialize for Positions {
    /// The words, and beside them the settings of schemes that have some: what [`Positions::read`] reads.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("positions", &self.words())?;
        for scheme in &self.schemes {
            let settings = serde_json::to_value(scheme).map_err(S::Error::custom)?;
            if settings.as_object().is_some_and(|settings| !settings.is_empty()) {
                map.serialize_entry(scheme.word(), &settings)?;
            }
        }
        map.end()
    }
}
