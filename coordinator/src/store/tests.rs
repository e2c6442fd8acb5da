//! Versions, locks, group commit, and what is left after a kill.

use crate::checkpoints::Checkpoints;
use crate::core::tests::world::specification;
use crate::core::{Answer, Input, Introduction};
use crate::engine;
use crate::store::{Store, StoreError, VERSION};

fn submission() -> Input {
    let trials = (1..=5).map(|number| specification(number, 10, 0)).collect();
    Input::Submit { id: "abc".to_owned(), name: "study".to_owned(), source: vec![1, 2], trials }
}

#[test]
fn case_41_a_newer_format_is_refused_with_both_versions_named_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let path = store.path().to_owned();
    store.close().unwrap();
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.pragma_update(None, "user_version", VERSION + 1).unwrap();
    drop(connection);
    let before = std::fs::read(&path).unwrap();
    let problem = Store::open(folder.path()).err().unwrap().to_string();
    let named = |version: i64| problem.contains(&format!("format {version}"));
    assert!(named(VERSION + 1) && named(VERSION), "{problem}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[test]
fn a_file_of_an_older_version_gets_the_newer_columns_and_keeps_its_rows() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::open(folder.path()).unwrap();
    let mut state = Default::default();
    let batch = store.begin(0).unwrap();
    for effect in crate::core::apply(&mut state, submission(), Default::default()) {
        if let crate::core::Effect::Write(write) = effect {
            batch.write(&write, &state).unwrap();
        }
    }
    batch.commit().unwrap();
    for column in ["losses", "keep_every"] {
        store.connection.execute_batch(&format!("ALTER TABLE trials DROP COLUMN {column}")).unwrap();
    }
    store.connection.pragma_update(None, "user_version", 2).unwrap();
    store.close().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let loaded = store.load(Default::default()).unwrap();
    assert_eq!(loaded.trials.len(), 5);
    assert!(loaded.trials.values().all(|trial| (trial.keep, trial.keep_every) == (1, None)));
}

#[test]
fn a_file_of_version_1_is_brought_to_this_version_and_keeps_what_it_holds() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let path = store.path().to_owned();
    store.close().unwrap();
    let old = rusqlite::Connection::open(&path).unwrap();
    old.execute_batch(
        "ALTER TABLE agents DROP COLUMN drained;
         ALTER TABLE trials DROP COLUMN losses;
         ALTER TABLE trials DROP COLUMN keep_every;
         INSERT INTO agents VALUES ('a', '1', 'host', 'cpu', 'words', 4);
         PRAGMA user_version = 1;",
    )
    .unwrap();
    drop(old);
    for _ in 0..2 {
        let store = Store::open(folder.path()).unwrap();
        let agents = store.load(Default::default()).unwrap().agents;
        assert_eq!((agents["a"].max_cohort, agents["a"].drained.as_deref()), (4, None));
        store.close().unwrap();
    }
}

#[test]
fn somebody_elses_database_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(super::DATABASE_FILE);
    rusqlite::Connection::open(path).unwrap().execute_batch("CREATE TABLE recipes (name TEXT)").unwrap();
    assert!(matches!(Store::open(folder.path()), Err(StoreError::Foreign { .. })));
}

#[test]
fn a_second_writer_is_told_who_holds_the_directory() {
    let folder = tempfile::tempdir().unwrap();
    let first = Store::open(folder.path()).unwrap();
    let problem = Store::open(folder.path()).err().unwrap();
    let StoreError::Locked { holder, .. } = &problem else { panic!("{problem}") };
    assert_eq!(*holder, std::process::id().to_string());
    drop(first);
    assert!(Store::open(folder.path()).is_ok());
}

#[test]
fn a_damaged_row_is_named_and_not_guessed_at() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    store.connection.execute("INSERT INTO members VALUES (1, 0, ?1, 10, '00', 1)", ["0".repeat(32)]).unwrap();
    let problem = store.load(Default::default()).err().unwrap().to_string();
    assert!(problem.contains("members") && problem.contains("sweep 1"), "{problem}");
}

#[tokio::test(flavor = "multi_thread")]
async fn inputs_that_wait_together_are_committed_together() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let checkpoints = Checkpoints::in_folder(folder.path().join("checkpoints")).unwrap();
    let (engine, end) = engine::start(store, checkpoints).unwrap();
    // The engine is held inside a question until two hundred inputs wait.
    let (release, held) = std::sync::mpsc::channel::<()>();
    let (entered, inside) = tokio::sync::oneshot::channel();
    let holding = tokio::spawn({
        let engine = engine.clone();
        async move {
            let wait = engine.query(move |_, _| {
                entered.send(()).unwrap();
                held.recv().unwrap();
            });
            wait.await.unwrap();
        }
    });
    inside.await.unwrap();
    let before = engine.commits();
    for number in 0..200u64 {
        let agent = Introduction {
            name: format!("agent-{number}"),
            incarnation: "1".to_owned(),
            host: String::new(),
            device: "cpu".to_owned(),
            description: String::new(),
            version: String::new(),
            threads: 1,
            memory_bytes: 0,
            max_cohort: 1,
            held: Vec::new(),
        };
        engine.send(Input::Connected { session: number + 1, sequence: 1, agent }).await.unwrap();
    }
    release.send(()).unwrap();
    holding.await.unwrap();
    let agents = engine.query(|state, _| state.agents.len()).await.unwrap();
    assert_eq!((agents, engine.commits() - before), (200, 1));
    engine.stop().await;
    end.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_is_there_after_a_kill_and_a_repeated_request_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::in_folder(folder.path().join("checkpoints")).unwrap();
    let store = Store::open(folder.path()).unwrap();
    let (engine, end) = engine::start(store, checkpoints.clone()).unwrap();
    let first = engine.request(submission()).await.unwrap();
    assert_eq!(
        first,
        Answer::Submitted { sweep: "abc".to_owned(), existing: false, trials: 5, new_trials: 5 }
    );
    engine.abandon();
    drop(engine);
    end.await.unwrap().unwrap();

    let store = Store::open(folder.path()).unwrap();
    let (engine, _end) = engine::start(store, checkpoints).unwrap();
    // The answer had been lost, so the client asks again.
    let again = engine.request(submission()).await.unwrap();
    assert_eq!(
        again,
        Answer::Submitted { sweep: "abc".to_owned(), existing: true, trials: 5, new_trials: 0 }
    );
    assert_eq!(engine.query(|state, _| state.sweeps.len()).await.unwrap(), 1);
}

#[test]
fn a_batch_that_was_not_committed_never_happened() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::open(folder.path()).unwrap();
    let mut state = Default::default();
    let effects = crate::core::apply(&mut state, submission(), Default::default());
    let batch = store.begin(0).unwrap();
    for effect in &effects {
        if let crate::core::Effect::Write(write) = effect {
            batch.write(write, &state).unwrap();
        }
    }
    drop(batch);
    assert!(store.load(Default::default()).unwrap().sweeps.is_empty());
}
