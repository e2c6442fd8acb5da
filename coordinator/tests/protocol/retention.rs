//! What is kept, collected and deleted, over the wire: the rows and the files, and a clean directory afterwards.

use std::path::Path;

use plateau_coordinator::verify;
use plateau_proto::v1;
use plateau_proto::v1::agent_message::{Body as Say, MetricsReport};
use tonic::Code;

use crate::support::*;

const AROUND: &str = "
[evaluate]
every = 1
[checkpoint]
every = 1
keep-around = { level = 0.9, within = 2 }
";

/// The steps of the checkpoints that are listed, and of those whose files are there.
async fn kept(
    client: &mut plateau_proto::v1::plateau_service_client::PlateauServiceClient<
        plateau_proto::connection::Channel,
    >,
    data: &Path,
    trial: &str,
) -> (Vec<u64>, Vec<u64>) {
    let request = v1::ListCheckpointsRequest { trial: trial.to_owned() };
    let listed = client.list_checkpoints(request).await.unwrap().into_inner().checkpoints;
    let mut there: Vec<u64> = files(&data.join("checkpoints"))
        .into_iter()
        .filter(|(name, _)| name.contains(trial) && name.ends_with("manifest.json"))
        .filter_map(|(name, _)| name.split("step-").nth(1)?.split('/').next()?.parse().ok())
        .collect();
    there.sort_unstable();
    (listed.iter().map(|known| known.step).collect(), there)
}

/// Trains a trial of ten steps with a checkpoint after each; its test accuracy is `accuracy` at each step.
async fn train(agent: &mut Agent, lease: &v1::Lease, accuracy: impl Fn(u64) -> f64) {
    agent.started(lease).await.unwrap();
    for step in 0..=10 {
        let column = v1::MetricColumn {
            name: "test_accuracy".to_owned(),
            values: vec![accuracy(step)],
            missing: Vec::new(),
        };
        let metrics = Some(v1::MetricsChunk { steps: vec![step], columns: vec![column] });
        let report = MetricsReport { lease: lease.key.clone(), chunk: step, metrics };
        agent.settle(Say::Metrics(report)).await.unwrap();
        if step > 0 {
            agent.upload(lease, step, &step.to_le_bytes()).await.unwrap();
        }
    }
    agent.completed(lease).await.unwrap();
}

/// Deletions follow their acknowledgement; waits for them.
async fn settled(
    data: &Path,
    trial: &str,
    expected: &[u64],
    client: &mut plateau_proto::v1::plateau_service_client::PlateauServiceClient<
        plateau_proto::connection::Channel,
    >,
) {
    for _ in 0..400 {
        if kept(client, data, trial).await == (expected.to_vec(), expected.to_vec()) {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(25)).await;
    }
    panic!("expected {expected:?}, found {:?}", kept(client, data, trial).await);
}

/// The same for the whole store.
async fn emptied(data: &Path) {
    for _ in 0..400 {
        if files(&data.join("checkpoints")).is_empty() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(25)).await;
    }
    panic!("{:?} is left", files(&data.join("checkpoints")).first());
}

fn gc(dry_run: bool) -> v1::CollectGarbageRequest {
    v1::CollectGarbageRequest { dry_run, keep: 1, older_than_seconds: 0 }
}

#[tokio::test(flavor = "multi_thread")]
async fn case_84_kept_around_the_transition_then_collected_then_deleted() {
    let data = tempfile::tempdir().unwrap();
    let running = coordinator(data.path()).await;
    let mut client = client(&running).await;
    let study = format!("{STUDY}\n{AROUND}").replace("seeds = 4", "seeds = 1");
    let sweep = submit(&mut client, &study).await.sweep;
    let mut agent = Agent::connect(&running, "a").await;
    let lease = agent.ask().await.remove(0);
    let trial = lease.key.clone().unwrap().trial;
    // Reached at 5, lost again, reached again: the first time counts.
    train(&mut agent, &lease, |step| if step == 5 || step > 8 { 0.95 } else { 0.1 }).await;
    settled(data.path(), &trial, &[3, 4, 5, 6, 7, 9, 10], &mut client).await;
    let history = explain(&mut client, &trial).await.history;
    let said =
        history.iter().filter(|event| event.event.starts_with("test_accuracy ≥ 0.9 at step 5")).count();
    assert_eq!(said, 1, "{history:#?}");

    let would = client.collect_garbage(gc(true)).await.unwrap().into_inner();
    assert_eq!(would.freed, Some(v1::Freed { trials: 1, checkpoints: 1, bytes: 15 }));
    let did = client.collect_garbage(gc(false)).await.unwrap().into_inner();
    assert_eq!(did.freed, would.freed);
    settled(data.path(), &trial, &[3, 4, 5, 6, 7, 10], &mut client).await;

    // The other trial is in training while its sweep is deleted.
    let other = agent.ask().await.remove(0);
    agent.started(&other).await.unwrap();
    agent.metrics(&other, 0, &[0, 1]).await.unwrap();
    agent.upload(&other, 1, b"one").await.unwrap();
    let deletion = |dry_run| v1::DeleteSweepRequest { sweep: sweep.clone(), dry_run };
    let would = client.delete_sweep(deletion(true)).await.unwrap().into_inner();
    assert_eq!(would.freed, Some(v1::Freed { trials: 2, checkpoints: 7, bytes: 6 * 15 + 10 }));
    assert_eq!(client.delete_sweep(deletion(false)).await.unwrap().into_inner(), would);
    assert_eq!(agent.metrics(&other, 1, &[2]).await, Err("no such trial".to_owned()));
    assert_eq!(agent.upload(&other, 2, b"two").await.unwrap_err().code(), Code::FailedPrecondition);
    let gone = client.delete_sweep(deletion(false)).await.unwrap_err();
    assert_eq!(gone.code(), Code::NotFound);
    emptied(data.path()).await;

    // The study again: nothing is left to continue from, and the attempts go on above the old ones.
    let again = submit(&mut client, &study).await;
    assert_eq!((again.existing, again.new_trials), (false, 2));
    let cohort = agent.ask().await;
    assert!(cohort.iter().all(|lease| lease.resume.is_none() && lease.key.as_ref().unwrap().attempt == 2));
    agent.train(&cohort).await;
    agent.goodbye().await;
    running.stop().await.unwrap();
    let report = verify::check(data.path(), None).await.unwrap();
    assert_eq!((report.findings.as_slice(), report.leftovers.as_slice()), ([].as_slice(), [].as_slice()));
    // Of deleted trials not even the configuration is left after the next start.
    let configurations = || {
        let tables = rusqlite::Connection::open(data.path().join("coordinator.sqlite")).unwrap();
        tables.query_row("SELECT count(*) FROM configurations", [], |row| row.get::<_, i64>(0)).unwrap()
    };
    assert_eq!(configurations(), 2);
    let running = coordinator(data.path()).await;
    let request = v1::DeleteSweepRequest { sweep: again.sweep, dry_run: false };
    crate::support::client(&running).await.delete_sweep(request).await.unwrap();
    emptied(data.path()).await;
    running.stop().await.unwrap();
    coordinator(data.path()).await.stop().await.unwrap();
    assert_eq!(configurations(), 0);
    assert!(verify::check(data.path(), None).await.unwrap().is_clean());
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_nothing_names_are_seen_and_wait() {
    let data = tempfile::tempdir().unwrap();
    let running = coordinator(data.path()).await;
    let mut client = client(&running).await;
    submit(&mut client, STUDY).await;
    let mut agent = Agent::connect(&running, "a").await;
    let lease = agent.ask().await.remove(0);
    agent.started(&lease).await.unwrap();
    agent.metrics(&lease, 0, &[0, 1, 2, 3]).await.unwrap();
    agent.upload(&lease, 3, b"three").await.unwrap();
    let place = |attempt: u64, step: u64| {
        let trial = &lease.key.as_ref().unwrap().trial;
        data.path().join(format!("checkpoints/trials/{trial}/attempts/{attempt}/step-{step}"))
    };
    // Of the live attempt: an upload may be on its way there. Of another: nobody's.
    for (attempt, step) in [(1, 7), (9, 7)] {
        std::fs::create_dir_all(place(attempt, step)).unwrap();
        std::fs::write(place(attempt, step).join("weights.safetensors"), b"12345").unwrap();
    }
    let found = client.collect_garbage(gc(false)).await.unwrap().into_inner();
    assert_eq!((found.waiting_orphans, found.waiting_orphan_bytes, found.orphans), (1, 5, 0));
    assert!(place(9, 7).join("weights.safetensors").exists() && place(1, 3).join("manifest.json").exists());
    agent.goodbye().await;
    running.stop().await.unwrap();
}
