//! Identity of trials: the canonical form reads back as itself, and the id changes with exactly what it should.

mod support;

use plateau_common::config::TrialConfig;
use plateau_common::identity::{TrialId, cell_key, cohort_key};
use plateau_common::random::Stream;
use proptest::prelude::*;
use serde_json::{Value, json};
use support::{any_config, base};

fn id(json: &Value) -> TrialId {
    TrialId::of(&TrialConfig::from_json(json).expect("a valid configuration"))
}

fn with(mut json: Value, pointer: &str, value: Value) -> Value {
    let (table, key) = pointer.rsplit_once('/').expect("a pointer has a slash");
    json.pointer_mut(table)
        .and_then(Value::as_object_mut)
        .expect("the table exists")
        .insert(key.to_owned(), value);
    json
}

proptest! {
    #[test]
    fn the_canonical_form_reads_back_as_itself(json in any_config()) {
        let config = TrialConfig::from_json(&json).expect("generated configurations are valid");
        let text = config.to_json().to_string();
        let parsed: Value = serde_json::from_str(&text).expect("canonical JSON is JSON");
        let again = TrialConfig::from_json(&parsed).expect("canonical JSON is a configuration");
        prop_assert_eq!(&again, &config);
        prop_assert_eq!(TrialId::of(&again), TrialId::of(&config));
        prop_assert_eq!(again.to_json().to_string(), text);
    }

    #[test]
    fn an_id_is_written_and_read(json in any_config()) {
        let id = id(&json);
        prop_assert_eq!(TrialId::parse(&id.to_string()), Some(id));
    }

    #[test]
    fn the_id_follows_seed_and_learning_rate_but_not_checkpoints(json in any_config(), seed in 0u64..1 << 62) {
        let lr = json.pointer("/train/optimizer/lr").and_then(Value::as_f64).expect("a learning rate");
        let old_seed = json["seed"].as_u64().expect("a seed");
        prop_assert_eq!(id(&with(json.clone(), "/seed", json!(seed))) == id(&json), seed == old_seed);
        prop_assert_ne!(id(&with(json.clone(), "/train/optimizer/lr", json!(lr * 2.0))), id(&json));
        let checkpoint = json!({"every": 10, "seconds": 5.0, "keep": 3, "keep-every": 50, "keep-around": {"within": 100}});
        prop_assert_eq!(id(&with(json.clone(), "/checkpoint", checkpoint)), id(&json));
    }

    #[test]
    fn the_id_follows_the_budget_only_where_the_schedule_does(json in any_config()) {
        let kind = json.pointer("/train/schedule/kind").and_then(Value::as_str).unwrap_or("constant").to_owned();
        let steps = json.pointer("/train/steps").and_then(Value::as_u64).expect("steps");
        let longer = with(json.clone(), "/train/steps", json!(steps + 1));
        let depends = !["constant", "inverse-square-root"].contains(&kind.as_str());
        prop_assert_eq!(id(&longer) != id(&json), depends);
    }
}

#[test]
fn cells_and_cohorts_leave_out_what_varies_inside_them() {
    let key =
        |json: &Value, of: fn(&TrialConfig) -> String| of(&TrialConfig::from_json(json).expect("valid"));
    let base = base();
    let seed = with(base.clone(), "/seed", json!(7));
    let rate = with(base.clone(), "/train/optimizer/lr", json!(0.5));
    let wide = with(base.clone(), "/model/dim", json!(64));
    assert_eq!(key(&seed, cell_key), key(&base, cell_key));
    assert_ne!(key(&rate, cell_key), key(&base, cell_key));
    assert_eq!(key(&seed, cohort_key), key(&base, cohort_key));
    assert_eq!(key(&rate, cohort_key), key(&base, cohort_key));
    assert_ne!(key(&wide, cohort_key), key(&base, cohort_key));
    let base = with(base, "/train/batch", json!(8));
    let order = with(base.clone(), "/train/data-order", json!(1));
    let fork = with(base.clone(), "/fork", json!({"trial": "a".repeat(32), "step": 5}));
    let later = with(base.clone(), "/fork", json!({"trial": "a".repeat(32), "step": 6}));
    assert_eq!(key(&order, cell_key), key(&base, cell_key));
    assert_eq!(key(&order, cohort_key), key(&base, cohort_key));
    assert_eq!(key(&fork, cohort_key), key(&base, cohort_key));
    let cells = [&base, &fork, &later].map(|json| key(json, cell_key));
    assert!(cells[0] != cells[1] && cells[1] != cells[2], "where a trial comes from tells cells apart");
    let ids = [&base, &order, &fork, &later].map(id);
    let distinct: std::collections::BTreeSet<TrialId> = ids.into_iter().collect();
    assert_eq!(distinct.len(), 4);
}

/// Golden ids. A change here means that every stored trial would be run again: only ever with a new format version.
#[test]
fn ids_never_change_by_accident() {
    let modular = json!({
        "seed": 3,
        "task": {"kind": "modular", "modulus": 113, "train-share": 0.3},
        "model": {"kind": "transformer", "layers": 1, "heads": 4, "dim": 128, "norm": "none"},
        "train": {"steps": 20000, "optimizer": {"kind": "adamw", "lr": 1e-3, "weight-decay": 1.0}},
    });
    let cosine = with(base(), "/train/schedule", json!({"kind": "cosine", "warmup": 5}));
    let ids: Vec<String> = [base(), modular, cosine].iter().map(|json| id(json).to_string()).collect();
    insta::assert_debug_snapshot!(ids);
}

#[test]
fn case_77_random_streams_of_different_seeds_purposes_and_indices_neither_collide_nor_correlate() {
    const SEEDS: u64 = 1 << 16;
    let mut first = Vec::new();
    for seed in 0..SEEDS {
        for purpose in ["initialisation", "batch"] {
            for index in 0..2 {
                first.push(Stream::new(seed, purpose, index).bits());
            }
        }
    }
    // Of 2^18 numbers of 64 bits two are equal by chance once in half a billion tests.
    let mut sorted = first.clone();
    sorted.sort_unstable();
    assert!(sorted.windows(2).all(|pair| pair[0] != pair[1]), "two streams begin alike");
    // Neighbours (in index, purpose, both, seed): the correlation of n independent pairs is below 5/sqrt(n).
    let unit = |bits: u64| bits as f64 / u64::MAX as f64 - 0.5;
    for distance in [1, 2, 3, 4] {
        let pairs = first.iter().zip(&first[distance..]).map(|(one, other)| unit(*one) * unit(*other));
        let correlation = 12.0 * pairs.sum::<f64>() / first.len() as f64;
        assert!(
            correlation.abs() < 5.0 / (first.len() as f64).sqrt(),
            "at distance {distance}: {correlation}"
        );
    }
}
