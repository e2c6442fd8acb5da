//! Sweeps from submission to results, over the wire, with scripted agents.

mod support;

use plateau_proto::v1;
use support::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_study_is_submitted_trained_and_its_results_are_read() {
    let data = tempfile::tempdir().unwrap();
    let running = coordinator(data.path()).await;
    let mut client = client(&running).await;
    let submitted = submit(&mut client, STUDY).await;
    assert_eq!((submitted.trials, submitted.new_trials, submitted.existing), (8, 8, false));

    let mut agent = Agent::connect(&running, "a").await;
    let mut trained = 0;
    while trained < 8 {
        let leases = agent.ask().await;
        // Four seeds per width and a limit of three: cohorts are of one width only.
        assert!(leases.len() <= 3);
        let widths: std::collections::BTreeSet<String> = leases
            .iter()
            .map(|lease| {
                serde_json::from_str::<serde_json::Value>(&lease.config_json).unwrap()["model"]["dim"]
                    .to_string()
            })
            .collect();
        assert_eq!(widths.len(), 1);
        agent.train(&leases).await;
        trained += leases.len();
    }
    let after = counts(&mut client, &submitted.sweep).await;
    assert_eq!((after.completed, after.pending), (8, 0));

    let results = results(&mut client, "tiny").await;
    assert_eq!(results.len(), 8);
    for (index, result) in results.iter().enumerate() {
        let trial = result.trial.as_ref().unwrap();
        assert_eq!((trial.index, trial.state(), trial.step), (index as u64, v1::TrialState::Completed, 10));
        assert_eq!(steps(result), (0..=10).collect::<Vec<u64>>());
    }
    running.stop().await.unwrap();
    assert!(!data.path().join("coordinator.json").exists());
}
