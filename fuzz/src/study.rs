//! Study files in all three notations, with overrides: parsed, counted, expanded.
//!
//! The first byte chooses the notation; after the text, each separated by a zero byte, come overrides `path=value`.

use plateau_common::config::TrialConfig;
use plateau_common::identity::TrialId;
use plateau_common::study::{Format, Study};

use crate::short;

/// Trials that are expanded at most.
const EXPANDED: u64 = 100;

/// One study file.
pub fn run(data: &[u8]) {
    let Some((notation, rest)) = data.split_first() else { return };
    let format = [Format::Toml, Format::Yaml, Format::Json][usize::from(notation % 3)];
    let text = String::from_utf8_lossy(rest);
    let mut parts = text.split('\0');
    let text = parts.next().unwrap_or_default();
    let overrides: Vec<(String, String)> = parts
        .filter_map(|set| set.split_once('='))
        .map(|(path, value)| (path.to_owned(), value.to_owned()))
        .collect();
    match Study::parse(text, "fuzzed", format, &overrides) {
        Ok(study) => expand(&study),
        Err(error) => short(error),
    }
}

/// What holds of every study that is accepted.
pub(crate) fn expand(study: &Study) {
    assert!(study.count() > 0);
    let mut found = 0;
    for trial in study.trials().take(EXPANDED as usize + 1) {
        found += 1;
        match trial {
            Ok(config) => same_again(&config),
            Err(error) => short(error),
        }
    }
    assert_eq!(found, study.count().min(EXPANDED + 1), "the count is not the length of the expansion");
    let again = Study::from_source(study.source()).map(|again| (again.count(), again.digest().to_owned()));
    assert!(again.is_ok_and(|again| again == (study.count(), study.digest().to_owned())));
}

/// A resolved configuration says the same when it is written and read again.
fn same_again(config: &TrialConfig) {
    let json = config.to_json();
    let text = json.to_string();
    let read = serde_json::from_str(&text).map_err(|error| error.to_string());
    let read = read.and_then(|json| TrialConfig::from_json(&json).map_err(|error| error.to_string()));
    match read {
        Ok(again) => assert_eq!(TrialId::of(&again), TrialId::of(config), "{text}"),
        Err(error) => panic!("{error}: {text}"),
    }
}
