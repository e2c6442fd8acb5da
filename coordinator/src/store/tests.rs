//! Versions, locks, group commit, and what is left after a kill.

use plateau_common::identity::TrialId;
use plateau_common::limits;

use super::schema;
use crate::checkpoints::Checkpoints;
use crate::core::tests::world::specification;
use crate::core::{Answer, Effect, Input, Introduction, Subject, Write};
use crate::engine;
use crate::store::{ChunkRow, Store, StoreError, VERSION};

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

/// A database as `version` made it.
fn old_file(folder: &std::path::Path, version: i64) -> rusqlite::Connection {
    let old = rusqlite::Connection::open(folder.join(super::DATABASE_FILE)).unwrap();
    old.execute_batch(schema::TABLES).unwrap();
    for migration in schema::MIGRATIONS.iter().take(version as usize - 1) {
        old.execute_batch(migration).unwrap();
    }
    old.pragma_update(None, "user_version", version).unwrap();
    old
}

/// The last format whose tables name trials by their ids.
const LAST_WITHOUT_NUMBERS: i64 = 4;

const OLD_TRIALS: &str = "
INSERT INTO sweeps (number, id, name, mode, reason, submitted) VALUES (1, 'abc', 'study', 'active', '', 7);
INSERT INTO members VALUES (1, 0, 'ffffffffffffffffffffffffffffffff', 10, '0a', 1),
    (1, 1, '00000000000000000000000000000001', 20, '0b', 2);
INSERT INTO trials (id, state, attempt, step, completed_step, reason, train_seconds, crashes, crashed_on, alone, keep,
    ending_attempt, ending_kind, ending_step, ending_hash)
VALUES ('ffffffffffffffffffffffffffffffff', 'completed', 2, 10, 10, '', 1.5, 0, '[]', 0, 3, 2, 'completed', 10, 'hash'),
    ('00000000000000000000000000000001', 'pending', 0, 0, 0, '', 0.0, 1, '[\"a\"]', 1, 1, NULL, NULL, NULL, NULL);
INSERT INTO configurations VALUES ('00000000000000000000000000000001', 'one'),
    ('ffffffffffffffffffffffffffffffff', 'last'), ('00000000000000000000000000000002', 'not submitted');
INSERT INTO attempts VALUES ('ffffffffffffffffffffffffffffffff', 1, 'a', 5, 0, NULL),
    ('ffffffffffffffffffffffffffffffff', 2, 'b', 6, 4, 8);
INSERT INTO checkpoints VALUES ('ffffffffffffffffffffffffffffffff', 2, 4, 'weights', 12);
INSERT INTO metrics VALUES ('ffffffffffffffffffffffffffffffff', 2, 0, x'01', x'02');
INSERT INTO logs VALUES ('ffffffffffffffffffffffffffffffff', 1, 2, 9, 'INFO', 'said');
INSERT INTO history VALUES ('trial/ffffffffffffffffffffffffffffffff', 1, 9, 'granted'),
    ('trial/ffffffffffffffffffffffffffffffff', 4, 9, 'ended'), ('sweep/1', 1, 7, 'submitted');
";

#[test]
fn a_file_of_any_older_version_keeps_all_it_holds() {
    // Rows as they were before trials had numbers; later formats are migrated on the way.
    for version in 1..=LAST_WITHOUT_NUMBERS {
        let folder = tempfile::tempdir().unwrap();
        old_file(folder.path(), version).execute_batch(OLD_TRIALS).unwrap();
        // The second opening finds the newer version.
        for _ in 0..2 {
            let store = Store::open(folder.path()).unwrap();
            let loaded = store.load(Default::default()).unwrap();
            let [one, last] = [1, u128::MAX].map(|id| TrialId::parse(&format!("{id:032x}")).unwrap());
            assert_eq!(
                loaded.sweeps[&1].members.iter().map(|member| member.trial).collect::<Vec<_>>(),
                [last, one]
            );
            let trial = &loaded.trials[&last];
            assert_eq!((trial.attempt, trial.completed_step, trial.keep, trial.losses), (2, 10, 3, 0));
            assert_eq!((trial.holder.as_str(), trial.checkpoints[0].step), ("b", 4));
            assert_eq!(trial.ending.as_ref().unwrap().weights_hash, "hash");
            assert_eq!((loaded.trials.len(), loaded.trials[&one].alone), (2, true));
            let reader = store.reader().unwrap();
            let other = TrialId::parse(&format!("{:032x}", 2)).unwrap();
            let configurations = [one, last, other].map(|id| reader.configuration(id).unwrap().unwrap());
            assert_eq!(configurations, ["one", "last", "not submitted"]);
            assert_eq!(reader.chunks(last).unwrap(), [ChunkRow { attempt: 2, data: vec![2] }]);
            let attempts: Vec<_> = reader.attempts(last).unwrap().iter().map(|row| row.from_step).collect();
            assert_eq!(attempts, [0, 4]);
            assert_eq!(reader.logs(last).unwrap()[1].lines[0].message, "said");
            let events = |subject| -> Vec<String> {
                reader.history(&subject).unwrap().into_iter().map(|row| row.event).collect()
            };
            assert_eq!(events(Subject::Trial(last)), ["granted", "ended"]);
            assert_eq!((events(Subject::Trial(one)).len(), events(Subject::Sweep(1)).len()), (0, 1));
            store.close().unwrap();
        }
    }
}

#[test]
fn an_agent_of_version_1_is_not_drained() {
    let folder = tempfile::tempdir().unwrap();
    let old = old_file(folder.path(), 1);
    old.execute_batch("INSERT INTO agents VALUES ('a', '1', 'host', 'cpu', 'words', 4)").unwrap();
    let agents = Store::open(folder.path()).unwrap().load(Default::default()).unwrap().agents;
    assert_eq!((agents["a"].max_cohort, agents["a"].drained.as_deref()), (4, None));
}

#[test]
fn what_happens_to_a_trial_within_one_batch_becomes_one_row_of_its_last_state() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::open(folder.path()).unwrap();
    let mut state = Default::default();
    let effects = crate::core::apply(&mut state, submission(), Default::default());
    let id = *state.trials.keys().next().unwrap();
    let mut batch = store.begin(0).unwrap();
    for effect in effects {
        if let Effect::Write(write) = effect {
            batch.write(write, &state).unwrap();
        }
    }
    for reason in ["first", "second"] {
        let mut trial = state.trials[&id].clone();
        trial.reason = reason.to_owned();
        batch.write(Write::Trial(id, Box::new(trial)), &state).unwrap();
    }
    batch.commit().unwrap();
    assert_eq!(store.load(Default::default()).unwrap().trials[&id].reason, "second");
}

#[test]
fn a_history_keeps_its_last_events() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::open(folder.path()).unwrap();
    let id = TrialId::parse(&"0".repeat(32)).unwrap();
    let subjects = [Subject::Trial(id), Subject::Agent("a".to_owned())];
    let mut batch = store.begin(5).unwrap();
    for event in 0..limits::MAX_HISTORY_EVENTS + 3 {
        for subject in &subjects {
            batch.write(Write::History(subject.clone(), event.to_string()), &Default::default()).unwrap();
        }
    }
    batch.commit().unwrap();
    for subject in &subjects {
        let kept = store.reader().unwrap().history(subject).unwrap();
        assert_eq!(kept.len() as u64, limits::MAX_HISTORY_EVENTS);
        assert_eq!((kept[0].event.as_str(), kept[0].at), ("3", 5));
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
    let number = "INSERT INTO trial_numbers VALUES (1, ?1)";
    store.connection.execute(number, ["0".repeat(32)]).unwrap();
    store.connection.execute("INSERT INTO members VALUES (1, 0, 1, 10, '00', 1)", []).unwrap();
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
    let mut batch = store.begin(0).unwrap();
    for effect in effects {
        if let crate::core::Effect::Write(write) = effect {
            batch.write(write, &state).unwrap();
        }
    }
    drop(batch);
    assert!(store.load(Default::default()).unwrap().sweeps.is_empty());
}
