//! No text, however broken, makes the study reader panic, hang or grow without bound.

use plateau_common::study::{Format, Study};
use proptest::prelude::*;

const TOML: &str = r#"name = "good"
seeds = 2
zip = [["model.dim", "model.heads"]]
task = { kind = "query-count", vocab = 10 }
model = { kind = "transformer", layers = 1 }
train = { steps = 10, batch = 4, optimizer = { kind = "adam", lr = 0.5 } }
[axes]
"model.dim" = [8, 16]
"model.heads" = { range = [1, 3] }
"train.optimizer.lr" = { logspace = [1e-4, 1e-1], count = 4 }
[[when]]
match = { "model.dim" = 8 }
axes = { "train.clip" = { linspace = [1, 2], count = 3 } }
[[exclude]]
"model.dim" = 8
"train.clip" = 2
[[analysis]]
kind = "threshold"
"#;

const YAML: &str = "name: good\nseeds: 2\ntask: {kind: query-count, vocab: 10}\nmodel: &m\n  kind: transformer\n  layers: 1\n  \
    heads: 2\n  dim: 8\ntrain:\n  steps: 10\n  batch: 4\n  optimizer: {kind: adam, lr: 0.5}\naxes:\n  model: [*m]\n  \
    train.optimizer.lr: {logspace: [1e-4, 1e-1], count: 4}\nanalysis:\n  - kind: |\n      x\n";

const JSON: &str = r#"{"name": "good", "seeds": [1, 2], "task": {"kind": "query-count", "vocab": 10},
 "model": {"kind": "transformer", "layers": 1, "heads": 2, "dim": 8},
 "train": {"steps": 10, "batch": 4, "optimizer": {"kind": "adam", "lr": 0.5}},
 "axes": {"train.optimizer.lr": {"logspace": [1e-4, 0.1], "count": 4}}, "exclude": [{"seed": 1}]}"#;

fn read_whole(text: &str, format: Format, overrides: &[(String, String)]) {
    match Study::parse(text, "broken", format, overrides) {
        Ok(study) => study.trials().take(50).for_each(|trial| {
            if let Err(error) = trial {
                assert!(!error.to_string().is_empty());
            }
        }),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// Deletes, repeats or replaces some stretches of a text.
fn mutate(text: &str, changes: &[(prop::sample::Index, usize, String, bool)]) -> String {
    let mut characters: Vec<char> = text.chars().collect();
    for (at, length, replacement, keep) in changes {
        let start = at.index(characters.len() + 1);
        let end = if *keep { start } else { (start + length).min(characters.len()) };
        characters.splice(start..end, replacement.chars());
    }
    characters.into_iter().collect()
}

fn any_format() -> impl Strategy<Value = Format> {
    prop::sample::select(vec![Format::Toml, Format::Yaml, Format::Json])
}

fn any_changes() -> impl Strategy<Value = Vec<(prop::sample::Index, usize, String, bool)>> {
    let pieces = vec![
        "",
        "[",
        "]",
        "{",
        "}",
        "\"",
        "'",
        ",",
        ":",
        "=",
        "\n",
        "\t",
        "&a ",
        "*a",
        "- ",
        "-1",
        "0",
        "1e999",
        "nan",
        "inf",
        "null",
        "9223372036854775807",
        "-9223372036854775808",
        ".",
        "axes",
        "seed",
        "\u{0}",
        "\u{feff}",
        "é",
        "#",
        "|",
        "<<: *m",
    ];
    let piece = prop::sample::select(pieces).prop_map(str::to_owned);
    prop::collection::vec((any::<prop::sample::Index>(), 0usize..12, piece, any::<bool>()), 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn mutated_studies_do_not_panic(format in any_format(), changes in any_changes()) {
        let good = match format { Format::Toml => TOML, Format::Yaml => YAML, Format::Json => JSON };
        read_whole(&mutate(good, &changes), format, &[]);
    }

    #[test]
    fn random_text_does_not_panic(format in any_format(), text in "\\PC{0,200}") {
        read_whole(&text, format, &[]);
    }

    #[test]
    fn random_bytes_do_not_panic(format in any_format(), bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        read_whole(&String::from_utf8_lossy(&bytes), format, &[]);
    }

    #[test]
    fn random_overrides_do_not_panic(
        path in "(axes\\.|model\\.|seed|seeds|zip|when|[a-z.]{0,8}){0,4}",
        value in "[\\[\\]{}\"=,.0-9a-z -]{0,20}",
    ) {
        read_whole(TOML, Format::Toml, &[(path, value)]);
    }
}

#[test]
fn the_good_studies_are_good() {
    for (text, format, count) in [(TOML, Format::Toml, 24), (YAML, Format::Yaml, 8), (JSON, Format::Json, 4)]
    {
        match Study::parse(text, "good", format, &[]) {
            Ok(study) => assert_eq!(study.count(), count),
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn deep_and_long_documents_are_refused_without_overflowing_the_stack() {
    let opened = "[".repeat(400_000);
    let dotted = format!("{}a = 1", "a.".repeat(400_000));
    let nested_yaml: String = (0..700).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
    let headers = format!("[{}a]", "a.".repeat(200_000));
    for (text, format) in [
        (format!("a = {opened}"), Format::Toml),
        (format!("a: {opened}"), Format::Yaml),
        (format!("{{\"a\": {opened}"), Format::Json),
        (dotted, Format::Toml),
        (headers, Format::Toml),
        (nested_yaml, Format::Yaml),
        (format!("a = [{}]", "1,".repeat(400_000)), Format::Toml),
        (format!("a: [{}]", "1,".repeat(400_000)), Format::Yaml),
        (format!("{{\"a\": [{}1]}}", "1,".repeat(400_000)), Format::Json),
    ] {
        assert!(Study::parse(&text, "broken", format, &[]).is_err());
    }
    let path = format!("model{}", ".a".repeat(300_000));
    assert!(Study::parse(TOML, "good.toml", Format::Toml, &[(path, "1".to_owned())]).is_err());
}
