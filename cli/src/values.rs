//! Small notations of the command line: lists of seeds, filters on configuration values.

use std::collections::BTreeMap;

use plateau_common::limits::MAX_NAMED_SEEDS;
use plateau_common::results::Parameter;

/// Seeds written as `5,6`, `5-8` or `1,3,5-8`; in order, each once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seeds(pub Vec<u64>);

impl std::str::FromStr for Seeds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut seeds = Vec::new();
        for part in text.split(',').map(str::trim) {
            let number = |digits: &str| {
                let digits = digits.trim().replace('_', "");
                digits
                    .parse::<u64>()
                    .map_err(|_| format!("`{part}` is neither a seed (5) nor a range of seeds (5-8)"))
            };
            let (first, last) = match part.split_once('-') {
                Some((first, last)) => (number(first)?, number(last)?),
                None => (number(part)?, number(part)?),
            };
            if first > last {
                return Err(format!("the range `{part}` is empty; did you mean {last}-{first}?"));
            }
            if last - first >= MAX_NAMED_SEEDS || seeds.len() as u64 + (last - first) >= MAX_NAMED_SEEDS {
                return Err(format!("`{text}` names more than {MAX_NAMED_SEEDS} seeds"));
            }
            seeds.extend(first..=last);
        }
        let mut seen = std::collections::BTreeSet::new();
        seeds.retain(|seed| seen.insert(*seed));
        Ok(Seeds(seeds))
    }
}

/// `path=value`: keeps trials whose configuration has this value there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Dotted path, or its last part where that is unambiguous for the reader.
    path: String,
    value: String,
}

impl std::str::FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((path, value)) if !path.trim().is_empty() => {
                Ok(Filter { path: path.trim().to_owned(), value: value.trim().to_owned() })
            }
            _ => Err("expected PATH=VALUE, e.g. model.dim=32".to_owned()),
        }
    }
}

impl Filter {
    /// The path that is looked at.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether a trial with these parameters is kept. Numbers are compared as numbers (`1e-3` is `0.001`).
    pub fn keeps(&self, parameters: &BTreeMap<String, Parameter>) -> bool {
        match parameters.get(&self.path) {
            Some(Parameter::Number(number)) => self.value.replace('_', "").parse() == Ok(*number),
            Some(other) => other.to_string() == self.value,
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_lists_and_ranges() {
        assert_eq!("1,3,5-8, 3".parse(), Ok(Seeds(vec![1, 3, 5, 6, 7, 8])));
        assert_eq!("1_000".parse(), Ok(Seeds(vec![1000])));
        assert!("8-5".parse::<Seeds>().unwrap_err().contains("5-8"));
        assert!("a".parse::<Seeds>().unwrap_err().contains("`a`"));
        assert!("0-18446744073709551615".parse::<Seeds>().unwrap_err().contains("more than"));
        assert!("".parse::<Seeds>().is_err());
    }

    #[test]
    fn filters_compare_numbers_as_numbers() {
        let parameters = BTreeMap::from([
            ("train.optimizer.lr".to_owned(), Parameter::Number(0.001)),
            ("task.kind".to_owned(), Parameter::Text("modular".to_owned())),
        ]);
        let keeps = |text: &str| text.parse::<Filter>().unwrap().keeps(&parameters);
        assert!(keeps("train.optimizer.lr=1e-3"));
        assert!(keeps("task.kind = modular"));
        assert!(!keeps("task.kind=query-count"));
        assert!(!keeps("model.dim=8"));
        assert!("model.dim".parse::<Filter>().is_err());
    }
}
