//! A coordinator that stops without warning and starts again on what it left.

use plateau_coordinator::{Options, start};
use plateau_proto::v1;

use crate::support::*;
use crate::sweeps::finish;

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_survives_the_coordinator_and_nothing_is_counted_twice() {
    let data = tempfile::tempdir().unwrap();
    let first = coordinator(data.path()).await;
    let mut client_before = client(&first).await;
    let sweep = submit(&mut client_before, STUDY).await.sweep;
    let mut agent = Agent::connect(&first, "a").await;
    let cohort = agent.ask().await;
    agent.train(&cohort[..1]).await;
    agent.started(&cohort[1]).await.unwrap();
    agent.metrics(&cohort[1], 0, &[0, 1, 2]).await.unwrap();
    // No goodbye: the coordinator is gone in the middle.
    drop((first, client_before));

    let second = restarted(data.path()).await;
    let mut client = client(&second).await;
    let now = counts(&mut client, &sweep).await;
    assert_eq!((now.completed, now.running, now.leased, now.pending), (1, 1, 1, 5));
    // The agent comes back with what it holds and repeats what it is not sure of.
    let held = cohort.iter().filter_map(|lease| lease.key.clone()).collect();
    let mut agent = Agent::connect_as(&second, "a", "first start", held).await;
    agent.completed(&cohort[0]).await.unwrap();
    agent.metrics(&cohort[1], 0, &[0, 1, 2]).await.unwrap();
    agent.metrics(&cohort[1], 1, &(3..=10).collect::<Vec<u64>>()).await.unwrap();
    agent.completed(&cohort[1]).await.unwrap();
    agent.train(&cohort[2..]).await;
    assert_eq!(finish(&mut agent, &mut client, &sweep).await, 5);
    let results = results(&mut client, &sweep).await;
    assert_eq!(results.len(), 8);
    for result in results {
        assert_eq!(steps_of(&result), (0..=10).collect::<Vec<u64>>());
        let trial = result.trial.unwrap();
        assert_eq!((trial.state(), trial.attempt), (v1::TrialState::Completed, 1));
    }
    assert_eq!(submit(&mut client, STUDY).await.new_trials, 0);
}

/// The lock of a dropped coordinator is released when its engine's thread and its connections have gone.
async fn restarted(data: &std::path::Path) -> plateau_coordinator::Running {
    let until = tokio::time::Instant::now() + PATIENCE;
    loop {
        match start(options(data)).await {
            Ok(running) => return running,
            Err(problem) => assert!(tokio::time::Instant::now() < until, "{problem}"),
        }
        tokio::task::yield_now().await;
    }
}

fn options(data: &std::path::Path) -> Options {
    Options {
        data_dir: data.to_owned(),
        listen: "127.0.0.1:0".parse().unwrap(),
        checkpoint_store: None,
        keys: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_coordinator_on_the_same_directory_is_refused() {
    let data = tempfile::tempdir().unwrap();
    let _first = coordinator(data.path()).await;
    let problem = start(options(data.path())).await.err().unwrap().to_string();
    assert!(problem.contains(&std::process::id().to_string()), "{problem}");
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_for_want_of_keys_a_coordinator_leaves_nothing_behind() {
    let data = tempfile::tempdir().unwrap();
    let options = Options { listen: "0.0.0.0:0".parse().unwrap(), ..options(data.path()) };
    let problem = start(options).await.err().unwrap().to_string();
    assert!(problem.contains("plateau keys init"), "{problem}");
    assert!(!data.path().join("coordinator.sqlite").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_tells_the_agents_and_the_next_start_goes_on() {
    let data = tempfile::tempdir().unwrap();
    let running = coordinator(data.path()).await;
    let address: serde_json::Value =
        serde_json::from_slice(&std::fs::read(data.path().join("coordinator.json")).unwrap()).unwrap();
    assert_eq!(address["address"], running.local_addr.to_string());
    let mut client_before = client(&running).await;
    let sweep = submit(&mut client_before, STUDY).await.sweep;
    let mut agent = Agent::connect(&running, "a").await;
    let cohort = agent.ask().await;
    let stopping = tokio::spawn(running.stop());
    agent.shutdown().await;
    drop((agent, client_before));
    stopping.await.unwrap().unwrap();

    // What the agent trained meanwhile counts: it comes back with its leases.
    let running = coordinator(data.path()).await;
    let mut client = client(&running).await;
    let held = cohort.iter().filter_map(|lease| lease.key.clone()).collect();
    let mut agent = Agent::connect_as(&running, "a", "first start", held).await;
    for lease in &cohort {
        agent.upload(lease, 3, b"three").await.unwrap();
        agent.released(lease).await.unwrap();
    }
    assert_eq!(counts(&mut client, &sweep).await.pending, 8);
    let mut resumed = 0;
    for _ in 0..8 {
        if counts(&mut client, &sweep).await.pending == 0 {
            break;
        }
        let leases = agent.ask().await;
        resumed += leases
            .iter()
            .filter(|lease| lease.resume.as_ref().is_some_and(|resume| resume.step == 3))
            .count();
        agent.train(&leases).await;
    }
    assert_eq!(resumed, cohort.len());
    agent.goodbye().await;
}
