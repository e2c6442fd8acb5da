//! The contract of position schemes, checked for every entry of the list, how schemes are combined, and the exact rows of those
//! that look rows up.

mod task_list;

use std::collections::BTreeSet;

use plateau_common::config::{ModelConfig, TrialConfig};
use plateau_common::fields::ConfigResult;
use plateau_common::identity::TrialId;
use plateau_common::positions::{Entry, Position, Positions};
use plateau_common::random::Stream;
use plateau_common::tasks::{Form, Input, TaskConfig};
use proptest::prelude::*;
use serde_json::{Value, json};

/// At least one configuration of every scheme of the list, and of every scheme that has settings one with settings.
fn configurations() -> Vec<Value> {
    vec![
        json!({"positions": "learned"}),
        json!({"positions": "learned", "learned": {"rows": 77}}),
        json!({"positions": "sinusoidal"}),
        json!({"positions": "rotary"}),
        json!({"positions": "abacus", "abacus": {"k": 5, "rows": 40, "examples-per-offset": 3}}),
        json!({"positions": "abacus+fire", "fire": {"hidden": 7, "length": 20.5}}),
        json!({"positions": "learned+randomised", "randomised": {"positions": 99}}),
    ]
}

/// A trial whose model has these keys.
fn trial(task: &Value, model: &Value) -> ConfigResult<TrialConfig> {
    let mut whole = json!({"kind": "transformer", "layers": 1, "heads": 4, "dim": 16});
    for (key, value) in model.as_object().expect("a table") {
        whole[key] = value.clone();
    }
    TrialConfig::from_json(&json!({
        "task": task,
        "model": whole,
        "train": {"steps": 1, "batch": 4, "optimizer": {"kind": "adamw", "lr": 1e-3}},
    }))
}

fn addition(digits: usize) -> Value {
    json!({"kind": "addition", "digits": digits})
}

/// The schemes of a valid model for addition of 6 digits.
fn schemes(model: &Value) -> Positions {
    let ModelConfig::Transformer(model) = trial(&addition(6), model).expect("a valid model").model;
    model.positions
}

/// The schemes of every configuration.
fn for_every_scheme(check: impl Fn(&Position)) {
    for json in configurations() {
        println!("{json}");
        schemes(&json).schemes().iter().for_each(&check);
    }
}

fn rows(scheme: &Position, tokens: &[u32], length: usize, stream: Option<u64>) -> Vec<u32> {
    let mut stream = stream.map(|index| Stream::new(3, "test", index));
    let mut rows = Vec::new();
    scheme.rows(tokens, length, stream.as_mut(), &mut rows);
    rows
}

/// Tokens of one update's batch of additions, and the length of its sequences.
fn batch(digits: usize, update: u64) -> (Vec<u32>, usize) {
    let batch = task_list::read(&addition(digits)).examples(1).train(update, Some(24), Form::Tokens);
    match batch.input {
        Input::Tokens { tokens, length } => (tokens, length),
        Input::Counts { .. } | Input::Ragged { .. } => panic!("tokens were asked for"),
    }
}

#[test]
fn every_scheme_of_the_list_is_configured_here() {
    let configured: BTreeSet<&str> = configurations()
        .iter()
        .flat_map(|json| schemes(json).schemes().to_vec())
        .map(|own| own.word())
        .collect();
    assert_eq!(configured, Position::WORDS.iter().copied().collect());
}

#[test]
fn every_scheme_reads_back_from_its_canonical_form() {
    for json in configurations() {
        let config = trial(&addition(6), &json).expect("a valid model");
        let again = TrialConfig::from_json(&config.to_json()).expect("the canonical form is valid");
        assert_eq!(again, config);
        assert_eq!(again.to_json(), config.to_json());
        // What the study says is in it, so that it is part of the trial's identity.
        for (key, value) in json.as_object().expect("a table") {
            let canonical = &config.to_json()["model"][key];
            match value {
                Value::Object(settings) => {
                    settings
                        .iter()
                        .for_each(|(name, value)| assert_eq!(canonical[name], *value, "{key}.{name}"));
                }
                word => assert_eq!(canonical, word),
            }
        }
    }
}

#[test]
fn settings_of_schemes_that_are_not_used_are_checked_and_no_part_of_the_identity() {
    let id = |model: &Value| TrialId::of(&trial(&addition(6), model).expect("a valid model"));
    for json in configurations() {
        let mut unused = json.clone();
        unused["positions"] = json!("none");
        assert_eq!(id(&unused), id(&json!({"positions": "none"})), "{unused}");
    }
    for word in Position::WORDS {
        let wrong = json!({"positions": "none", *word: {"no-such-setting": 1}});
        let error = trial(&addition(6), &wrong).expect_err("an unknown setting").to_string();
        assert!(error.contains("no-such-setting") && error.contains(word), "{error}");
    }
}

#[test]
fn the_order_of_words_does_not_matter() {
    let combinations =
        |text: &str| TrialId::of(&trial(&addition(6), &json!({"positions": text})).expect("valid"));
    assert_eq!(combinations("fire+abacus"), combinations("abacus+fire"));
    assert_ne!(combinations("fire"), combinations("abacus+fire"));
}

#[test]
fn combinations_without_meaning_are_refused() {
    for (words, complaint) in [
        ("abacus+abacus", "named twice"),
        ("learned+sinusoidal", "two schemes add something by position"),
        ("randomised", "no positions to number"),
        ("abacus+randomised", "no positions to number"),
        ("rotary+randomised", "not offered for rotations"),
        ("abacus+none", "unknown position scheme `none`"),
        ("abakus", "unknown position scheme `abakus`"),
        ("", "unknown position scheme"),
    ] {
        let error = trial(&addition(6), &json!({"positions": words})).expect_err(words).to_string();
        assert!(error.contains(complaint), "{words}: {error}");
    }
    let modular = json!({"kind": "modular", "modulus": 7, "train-share": 0.5});
    let error = trial(&modular, &json!({"positions": "abacus"})).expect_err("no digits").to_string();
    assert!(error.contains("no digits"), "{error}");
}

/// Rows are appended, one for each token, inside the table; they depend on tokens, length and stream alone, without a stream on
/// each example alone, and never on tokens that come later, so that answers can be written token by token.
#[test]
fn rows_are_a_function_of_the_tokens_so_far() {
    for_every_scheme(|scheme| {
        for update in 1..=20 {
            let (tokens, length) = batch(6, update);
            for stream in [None, Some(update)] {
                let all = rows(scheme, &tokens, length, stream);
                assert_eq!(all.len(), tokens.len());
                assert_eq!(all, rows(scheme, &tokens, length, stream));
                let mut appended = vec![7];
                let mut draws = stream.map(|index| Stream::new(3, "test", index));
                scheme.rows(&tokens, length, draws.as_mut(), &mut appended);
                assert_eq!((appended[0], &appended[1..]), (7, &all[..]));
                let table = match scheme.entry() {
                    Entry::TokenTable { rows } => rows,
                    Entry::LearnedTable { rows } => rows.unwrap_or(length),
                    _ => length,
                };
                assert!(all.iter().all(|row| (*row as usize) < table), "{all:?}");
                for kept in 1..length {
                    let first: Vec<u32> =
                        tokens.chunks(length).flat_map(|own| own[..kept].to_vec()).collect();
                    let expected: Vec<u32> =
                        all.chunks(length).flat_map(|own| own[..kept].to_vec()).collect();
                    assert_eq!(rows(scheme, &first, kept, stream), expected);
                }
            }
            let together = rows(scheme, &tokens, length, None);
            let alone = tokens.chunks(length).flat_map(|own| rows(scheme, own, length, None));
            assert_eq!(alone.collect::<Vec<u32>>(), together, "without a stream nothing is random");
        }
    });
}

#[test]
fn what_is_added_by_position_or_pair_is_a_number() {
    for_every_scheme(|scheme| {
        let position = 0..50usize;
        match scheme.entry() {
            Entry::FixedTable(coordinate) => {
                for (at, index) in position.flat_map(|at| (0..16).map(move |index| (at, index))) {
                    assert!(coordinate(at, index, 16).is_finite());
                }
            }
            Entry::FixedBias(bias) => {
                for (query, key) in position.flat_map(|query| (0..=query).map(move |key| (query, key))) {
                    for (head, heads) in
                        [1, 2, 4, 12].iter().flat_map(|all| (0..*all).map(move |own| (own, *all)))
                    {
                        assert!(bias(head, heads, query, key).is_finite());
                    }
                }
            }
            Entry::Rotation { base } => assert!(base > 1.0),
            Entry::Fire(fire) => assert!(fire.hidden > 0 && fire.length >= 1.0),
            Entry::LearnedTable { .. } | Entry::TokenTable { .. } | Entry::RandomNumbering { .. } => {}
        }
    });
}

/// Tokens of a text, by the alphabet of calculations.
fn tokens_of(text: &str) -> Vec<u32> {
    let token = |character: char| match character {
        '0'..='9' => 4 + character.to_digit(10).expect("a digit"),
        '+' => 14,
        '=' => 17,
        '$' => 3,
        '_' => 0,
        other => panic!("{other} is no character of an addition"),
    };
    text.chars().map(token).collect()
}

fn abacus(k: u32, rows: usize, shared: Option<usize>) -> Position {
    let mut settings = json!({"k": k, "rows": rows});
    if let Some(shared) = shared {
        settings["examples-per-offset"] = json!(shared);
    }
    schemes(&json!({"positions": "abacus", "abacus": settings})).schemes()[0].clone()
}

/// The example of McLeish et al. 2024, section 3, with its end and a pad behind it.
const EXAMPLE: &str = "98282+3859172=2787472$_";

/// Section 3.1: digits count from 1 in each run, units first; everything else is 0.
#[test]
fn abacus_rows_of_the_papers_example() {
    let plain = rows(&abacus(1, 40, None), &tokens_of(EXAMPLE), EXAMPLE.len(), None);
    let expected = [1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7, 0, 0];
    assert_eq!(plain, expected);
    // k = 1 leaves no choice of an offset; a larger k none without a stream.
    assert_eq!(rows(&abacus(1, 40, None), &tokens_of(EXAMPLE), EXAMPLE.len(), Some(5)), expected);
    assert_eq!(rows(&abacus(9, 40, None), &tokens_of(EXAMPLE), EXAMPLE.len(), None), expected);
}

/// One offset of 0 to k - 1 for both operands and the answer of all examples; every one of them occurs.
#[test]
fn abacus_offsets_are_shared_and_take_every_value_below_k() {
    let (scheme, tokens) = (abacus(9, 40, None), tokens_of(&EXAMPLE.repeat(4)));
    let plain = rows(&scheme, &tokens, EXAMPLE.len(), None);
    let mut found = BTreeSet::new();
    for update in 0..300 {
        let shifted = rows(&scheme, &tokens, EXAMPLE.len(), Some(update));
        let offset = shifted[0] - plain[0];
        let expected = plain.iter().map(|row| if *row == 0 { 0 } else { row + offset });
        assert_eq!(shifted, expected.collect::<Vec<u32>>());
        found.insert(offset);
    }
    assert_eq!(found, (0..9).collect());
}

/// With `examples-per-offset = 3`, ten examples have four offsets.
#[test]
fn abacus_offsets_may_be_drawn_for_some_examples_at_a_time() {
    let (scheme, tokens) = (abacus(30, 60, Some(3)), tokens_of(&EXAMPLE.repeat(10)));
    let mut differed = false;
    for update in 0..20 {
        let all = rows(&scheme, &tokens, EXAMPLE.len(), Some(update));
        let offsets: Vec<u32> = all.chunks(EXAMPLE.len()).map(|own| own[0] - 1).collect();
        assert!(offsets.chunks(3).all(|group| group.iter().all(|offset| *offset == group[0])), "{offsets:?}");
        differed |= offsets[0] != offsets[3] && offsets[3] != offsets[6] && offsets[6] != offsets[9];
    }
    assert!(differed);
}

/// The last row that training uses is k + S, of an answer with a carry; the table must have it, and room for longer tests is asked for.
#[test]
fn abacus_tables_have_room_for_training_and_say_when_a_test_needs_more() {
    let longest = task_list::read(&addition(6)).shape().length;
    for (k, rows) in [(10, 10 + longest - 1), (1, longest)] {
        let refused = trial(&addition(6), &json!({"positions": "abacus", "abacus": {"k": k, "rows": rows}}));
        assert!(refused.expect_err("too few rows").to_string().contains("too few"), "{k} {rows}");
    }
    let positions = schemes(&json!({"positions": "abacus", "abacus": {"k": 1, "rows": longest + 1}}));
    let number = |digits: usize| tokens_of(&"7".repeat(digits));
    assert_eq!(positions.misfit(&number(longest), longest, longest), None);
    let problem = positions.misfit(&number(longest + 1), longest + 1, longest).expect("one row too few");
    assert!(problem.contains(&format!("{} are needed", longest + 2)), "{problem}");
}

/// Random numbering gives a learned table beside it a row for every number it may draw.
#[test]
fn a_learned_table_has_a_row_for_every_random_number() {
    let table = |model: Value| {
        schemes(&model).entries().find_map(|entry| match entry {
            Entry::LearnedTable { rows } => Some(rows),
            _ => None,
        })
    };
    assert_eq!(table(json!({"positions": "learned"})), Some(None));
    assert_eq!(table(json!({"positions": "learned+randomised"})), Some(Some(512)));
    let few =
        json!({"positions": "learned+randomised", "learned": {"rows": 50}, "randomised": {"positions": 51}});
    assert!(trial(&addition(6), &few).expect_err("too few rows").to_string().contains("50 rows"));
}

proptest! {
    /// Any text of digits and other characters: a digit's row is one above that of the digit before it, or the first of its run.
    #[test]
    fn abacus_counts_every_run(text in "[0-9+=$_]{1,60}", k in 1u32..50, update in 0u64..1000) {
        let scheme = abacus(k, 200, None);
        let tokens = tokens_of(&text);
        let found = rows(&scheme, &tokens, tokens.len(), Some(update));
        let mut first = None;
        for (at, character) in text.char_indices() {
            if !character.is_ascii_digit() {
                prop_assert_eq!(found[at], 0);
            } else if at > 0 && found[at - 1] > 0 {
                prop_assert_eq!(found[at], found[at - 1] + 1);
            } else {
                prop_assert!((1..=k).contains(&found[at]));
                prop_assert_eq!(*first.get_or_insert(found[at]), found[at]);
            }
        }
    }

    /// Of real problems of any size, in every task with digits, exactly the digits have rows above 0.
    #[test]
    fn abacus_marks_the_digits_of_every_task(choice in 0usize..4, seed in 0u64..100) {
        let json = [
            addition(4),
            json!({"kind": "subtraction", "digits": 3}),
            json!({"kind": "multiplication", "digits": 3}),
            json!({"kind": "sorting", "digits": 3, "items": 4}),
        ][choice].clone();
        let task: TaskConfig = task_list::read(&json);
        let ModelConfig::Transformer(model) = trial(&json, &json!({"positions": "abacus"})).expect("valid").model;
        let batch = task.examples(seed).train(1, Some(8), Form::Tokens);
        let Input::Tokens { tokens, length } = batch.input else { panic!("tokens were asked for") };
        let found = rows(&model.positions.schemes()[0], &tokens, length, Some(seed));
        for (token, row) in tokens.iter().zip(found) {
            prop_assert_eq!(task.digits().contains(token), row > 0);
        }
    }
}
