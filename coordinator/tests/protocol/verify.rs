//! `verify` on real directories: clean after a sweep, and each kind of damage found as exactly what it is.

use std::path::Path;

use plateau_coordinator::verify::{Kind, Report, check};
use plateau_proto::v1;

use crate::support::*;
use crate::sweeps::finish;

/// Every step is evaluated, as the scripted agents do it.
fn study() -> String {
    format!("{STUDY}\n[evaluate]\nevery = 1\n")
}

/// A directory with a finished sweep of eight trials: each with two chunks of metrics and a checkpoint at its end.
async fn finished() -> tempfile::TempDir {
    let data = tempfile::tempdir().unwrap();
    let running = coordinator(data.path()).await;
    let mut client = client(&running).await;
    let sweep = submit(&mut client, &study()).await.sweep;
    let mut agent = Agent::connect(&running, "a").await;
    assert_eq!(finish(&mut agent, &mut client, &sweep).await, 8);
    agent.goodbye().await;
    drop(client);
    running.stop().await.unwrap();
    data
}

async fn verified(data: &Path) -> Report {
    check(data, None).await.unwrap()
}

fn database(data: &Path) -> rusqlite::Connection {
    rusqlite::Connection::open(data.join("coordinator.sqlite")).unwrap()
}

fn change(data: &Path, statement: &str) {
    let changed = database(data).execute(statement, []).unwrap();
    assert!(changed > 0, "`{statement}` changed nothing");
}

/// The id of the first trial, which the changes are about.
fn first(data: &Path) -> String {
    database(data).query_row("SELECT min(id) FROM trial_numbers", [], |row| row.get(0)).unwrap()
}

/// Changes rows of a trial; `{}` stands for its number in the tables.
fn change_of(data: &Path, trial: &str, statement: &str) {
    let number = "SELECT number FROM trial_numbers WHERE id = ?1";
    let number: i64 = database(data).query_row(number, [trial], |row| row.get(0)).unwrap();
    change(data, &statement.replace("{}", &number.to_string()));
}

/// The one finding after a change of the first trial's rows.
async fn found_after(statement: &str) -> (Kind, String) {
    let data = finished().await;
    let trial = first(data.path());
    change_of(data.path(), &trial, statement);
    let report = verified(data.path()).await;
    let [finding] = report.findings.as_slice() else { panic!("{statement}: {:?}", report.findings) };
    assert!(finding.place.contains(&trial), "{finding:?}");
    (finding.kind, finding.problem.clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_after_a_sweep_is_clean_and_unchanged_by_looking() {
    let data = finished().await;
    let before: Vec<_> = files(data.path());
    let report = verified(data.path()).await;
    assert_eq!((report.findings.as_slice(), report.leftovers.as_slice()), ([].as_slice(), [].as_slice()));
    let seen = (report.trials, report.attempts, report.chunks, report.checkpoints, report.checkpoint_bytes);
    assert_eq!(seen, (8, 8, 16, 8, 8 * 14));
    assert_eq!(files(data.path()), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_in_use_is_refused_and_the_user_is_named() {
    let data = tempfile::tempdir().unwrap();
    let running = coordinator(data.path()).await;
    let problem = format!("{:#}", check(data.path(), None).await.unwrap_err());
    assert!(problem.contains(&format!("process id {}", std::process::id())), "{problem}");
    running.stop().await.unwrap();
    assert!(verified(data.path()).await.is_clean());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_is_none_is_refused_and_nothing_is_made_in_it() {
    let folder = tempfile::tempdir().unwrap();
    check(folder.path(), None).await.unwrap_err();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_whose_coordinator_was_killed_is_read_with_its_log() {
    let data = tempfile::tempdir().unwrap();
    let running = coordinator(data.path()).await;
    let mut client = client(&running).await;
    submit(&mut client, &study()).await;
    let mut agent = Agent::connect(&running, "a").await;
    let cohort = agent.ask().await;
    agent.train(&cohort[..1]).await;
    // A copy while it runs has the files of a kill: the database with its write-ahead log, without a lock.
    let copy = tempfile::tempdir().unwrap();
    for (path, bytes) in files(data.path()) {
        let to = copy.path().join(&path);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::write(to, bytes).unwrap();
    }
    assert!(copy.path().join("coordinator.sqlite-wal").metadata().unwrap().len() > 0);
    let report = verified(copy.path()).await;
    assert_eq!(report.findings, []);
    assert_eq!((report.trials, report.chunks, report.checkpoints), (8, 2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_contradict_each_other_are_found() {
    let (kind, problem) = found_after("UPDATE trials SET ending_kind = NULL WHERE trial = {}").await;
    assert_eq!(kind, Kind::Trial);
    assert!(problem.contains("in part"), "{problem}");
    let unended =
        "UPDATE trials SET ending_kind = NULL, ending_attempt = NULL, ending_step = NULL WHERE trial = {}";
    let (kind, problem) = found_after(unended).await;
    assert_eq!((kind, problem.as_str()), (Kind::Trial, "it is completed, and its recorded ending is none"));
    let gap =
        "INSERT INTO attempts SELECT trial, 3, agent, granted, 0, started FROM attempts WHERE trial = {}";
    let (kind, problem) = found_after(gap).await;
    assert_eq!((kind, problem.as_str()), (Kind::Attempt, "attempt 2 is missing: the next is 3"));
    let (kind, problem) = found_after("UPDATE trials SET attempt = 3 WHERE trial = {}").await;
    assert_eq!((kind, problem.as_str()), (Kind::Attempt, "the last is 1, the trial counts 3"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_is_not_the_trials_is_found() {
    let other =
        "UPDATE configurations SET json = replace(json, '\"modulus\":7', '\"modulus\":11') WHERE trial = {}";
    let (kind, problem) = found_after(other).await;
    assert_eq!(kind, Kind::Configuration);
    assert!(problem.starts_with("it is that of trial "), "{problem}");
    let (kind, problem) = found_after("DELETE FROM configurations WHERE trial = {}").await;
    assert_eq!((kind, problem.as_str()), (Kind::Configuration, "it is missing"));
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_with_gaps_doubles_or_other_bytes_are_found() {
    let (kind, problem) = found_after("DELETE FROM metrics WHERE trial = {} AND chunk = 0").await;
    assert_eq!((kind, problem.as_str()), (Kind::Metrics, "attempt 1 lacks chunk 0: the next is 1"));
    let digest = "UPDATE metrics SET digest = zeroblob(32) WHERE trial = {} AND chunk = 1";
    let (kind, problem) = found_after(digest).await;
    assert_eq!(kind, Kind::Metrics);
    assert!(problem.starts_with("attempt 1, chunk 1: its bytes do not have"), "{problem}");
    let double = "INSERT INTO metrics SELECT trial, attempt, 2, digest, data FROM metrics WHERE trial = {} AND chunk = 1";
    let data = finished().await;
    let trial = first(data.path());
    change_of(data.path(), &trial, double);
    let report = verified(data.path()).await;
    assert!(report.findings.iter().all(|found| found.kind == Kind::Metrics), "{:?}", report.findings);
    assert_eq!(report.findings[0].problem, "attempt 1, chunk 2: step 5 follows step 10");
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_that_a_checkpoint_builds_on_and_are_not_there_are_found() {
    // The last chunk: nothing about the numbers shows that there was one.
    let data = finished().await;
    let trial = first(data.path());
    change_of(data.path(), &trial, "DELETE FROM metrics WHERE trial = {} AND chunk = 1");
    let report = verified(data.path()).await;
    let problems: Vec<&str> = report.findings.iter().map(|found| found.problem.as_str()).collect();
    // Of what is completed, and of what the checkpoint at its end would continue.
    assert_eq!(problems, ["step 5 was due and is missing, although step 10 is recorded"; 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_state_that_diverged_is_saved_and_needs_no_measurement() {
    let data = tempfile::tempdir().unwrap();
    let running = coordinator(data.path()).await;
    submit(&mut client(&running).await, &study()).await;
    let mut agent = Agent::connect(&running, "a").await;
    let lease = agent.ask().await.remove(0);
    agent.started(&lease).await.unwrap();
    agent.metrics(&lease, 0, &(0..7).collect::<Vec<u64>>()).await.unwrap();
    agent.upload(&lease, 7, b"infinite").await.unwrap();
    let trial = lease.key.clone().unwrap().trial;
    agent
        .settle(ended(&lease, 7, v1::ending::Kind::Diverged(v1::ending::Diverged { step: 7 })))
        .await
        .unwrap();
    drop(agent);
    running.stop().await.unwrap();
    assert_eq!(verified(data.path()).await.findings, []);
    // A checkpoint of any other kind is never ahead of its metrics.
    change_of(data.path(), &trial, "UPDATE trials SET diverged_at = 8 WHERE trial = {}");
    let report = verified(data.path()).await;
    let [finding] = report.findings.as_slice() else { panic!("{:?}", report.findings) };
    assert_eq!(finding.problem, "step 7 was due and is missing, although step 7 is recorded");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_that_is_damaged_or_not_as_recorded_is_found() {
    for harm in ["flip", "tear", "delete", "manifest"] {
        let data = finished().await;
        let trial = first(data.path());
        let place = format!("trials/{trial}/attempts/1/step-10");
        let folder = data.path().join("checkpoints").join(&place);
        let weights = folder.join("weights.safetensors");
        match harm {
            "flip" => std::fs::write(&weights, b"weighty").unwrap(),
            "tear" => std::fs::write(&weights, b"wei").unwrap(),
            "delete" => std::fs::remove_file(&weights).unwrap(),
            _ => std::fs::write(folder.join("manifest.json"), b"{").unwrap(),
        }
        let report = verified(data.path()).await;
        let [finding] = report.findings.as_slice() else { panic!("{harm}: {:?}", report.findings) };
        assert_eq!((finding.kind, finding.place.as_str()), (Kind::Checkpoint, place.as_str()), "{harm}");
    }
    let data = finished().await;
    let trial = first(data.path());
    change_of(data.path(), &trial, "UPDATE checkpoints SET weights_hash = 'other' WHERE trial = {}");
    let report = verified(data.path()).await;
    assert_eq!(report.findings[0].problem, "its weights are not those that were recorded");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nothing_names_is_listed_apart() {
    let data = finished().await;
    let trial = first(data.path());
    let store = data.path().join("checkpoints");
    let place = format!("trials/{trial}/attempts/1/step-7");
    for (folder, bytes) in [(place.as_str(), 10), ("uploads/1f", 20), ("damaged/x", 30)] {
        std::fs::create_dir_all(store.join(folder)).unwrap();
        std::fs::write(store.join(folder).join("weights.safetensors"), vec![0; bytes]).unwrap();
    }
    let report = verified(data.path()).await;
    assert_eq!(report.findings, []);
    let left: Vec<(&str, u64)> =
        report.leftovers.iter().map(|left| (left.place.as_str(), left.bytes)).collect();
    assert_eq!(left, [("damaged/x", 30), (place.as_str(), 10), ("uploads/1f", 20)]);
}

/// Zeroes or flips bytes of the database: found, or without any effect on what is read.
#[tokio::test(flavor = "multi_thread")]
async fn case_36_a_zeroed_or_cut_database_is_found_and_a_coordinator_refuses_it() {
    let data = finished().await;
    let path = data.path().join("coordinator.sqlite");
    let whole = std::fs::read(&path).unwrap();
    let pages = whole.len() / 4096;
    assert!(pages > 10, "{pages} pages");
    for page in 0..pages {
        let mut bytes = whole.clone();
        bytes[page * 4096..(page + 1) * 4096].fill(0);
        std::fs::write(&path, &bytes).unwrap();
        let found = check(data.path(), None).await;
        let clean = found.as_ref().is_ok_and(Report::is_clean);
        assert!(!clean, "page {page} of {pages} was zeroed and nothing was found");
    }
    // The header, and the second half cut off: no coordinator starts on it, and it is told why.
    for damage in ["header", "half"] {
        let mut bytes = whole.clone();
        match damage {
            "header" => bytes[..100].fill(0xff),
            _ => bytes.truncate(whole.len() / 2),
        }
        std::fs::write(&path, &bytes).unwrap();
        let problem = plateau_coordinator::start(options(data.path())).await.err().unwrap().to_string();
        assert!(
            problem.contains("coordinator.sqlite is damaged") && problem.contains("restore"),
            "{problem}"
        );
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "the damaged file was changed");
    }
    std::fs::write(&path, &whole).unwrap();
    assert!(verified(data.path()).await.is_clean());
}
