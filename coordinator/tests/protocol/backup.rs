//! Copies of a directory whose coordinator works, and going on from them.

use plateau_coordinator::backup::{Copied, backup};
use plateau_coordinator::verify;

use crate::support::*;
use crate::sweeps::finish;

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_taken_at_work_is_whole_and_a_coordinator_goes_on_from_it() {
    let data = tempfile::tempdir().unwrap();
    let copies = tempfile::tempdir().unwrap();
    let copy = copies.path().join("monday");
    let running = coordinator(data.path()).await;
    let mut client_before = client(&running).await;
    let study = format!("{STUDY}\n[evaluate]\nevery = 1\n");
    let sweep = submit(&mut client_before, &study).await.sweep;
    let mut agent = Agent::connect(&running, "a").await;
    let cohort = agent.ask().await;
    agent.train(&cohort[..1]).await;
    agent.started(&cohort[1]).await.unwrap();
    agent.metrics(&cohort[1], 0, &[0, 1, 2, 3]).await.unwrap();
    agent.upload(&cohort[1], 3, b"three").await.unwrap();

    let copied = backup(data.path(), None, &copy).await.unwrap();
    assert_eq!(copied, Copied { checkpoints: 2, checkpoint_bytes: 14 + 12, forgotten: 0 });
    let refused = backup(data.path(), None, &copy).await.unwrap_err().to_string();
    assert!(refused.contains("exists already"), "{refused}");
    // The one at work goes on, and what it does is not in the copy.
    agent.train(&cohort[2..]).await;
    let report = verify::check(&copy, None).await.unwrap();
    assert_eq!((report.findings.as_slice(), report.leftovers.as_slice()), ([].as_slice(), [].as_slice()));
    assert_eq!((report.trials, report.chunks, report.checkpoints), (8, 3, 2));
    assert_eq!(std::fs::read_dir(copies.path()).unwrap().count(), 1, "nothing unfinished is left");

    let restored = coordinator(&copy).await;
    let mut client = client(&restored).await;
    assert_eq!(counts(&mut client, &sweep).await.completed, 1);
    // Another process: what the copy knew to be with the agent waits again, from its checkpoint.
    let mut agent = Agent::connect_as(&restored, "a", "second start", Vec::new()).await;
    assert_eq!(finish(&mut agent, &mut client, &sweep).await, 7);
    for result in results(&mut client, &sweep).await {
        assert_eq!(steps_of(&result), (0..=10).collect::<Vec<u64>>());
    }
    agent.goodbye().await;
    restored.stop().await.unwrap();
    assert!(verify::check(&copy, None).await.unwrap().is_clean());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_that_cannot_be_copied_is_not_named_by_the_copy() {
    let data = tempfile::tempdir().unwrap();
    let copies = tempfile::tempdir().unwrap();
    let copy = copies.path().join("monday");
    let running = coordinator(data.path()).await;
    submit(&mut client(&running).await, STUDY).await;
    let mut agent = Agent::connect(&running, "a").await;
    let lease = agent.ask().await.remove(0);
    agent.started(&lease).await.unwrap();
    agent.metrics(&lease, 0, &(0..=6).collect::<Vec<u64>>()).await.unwrap();
    agent.upload(&lease, 3, b"three").await.unwrap();
    agent.upload(&lease, 6, b"six").await.unwrap();
    let trial = lease.key.clone().unwrap().trial;
    let weights = format!("checkpoints/trials/{trial}/attempts/1/step-6/weights.safetensors");
    std::fs::write(data.path().join(weights), b"rot").unwrap();
    let copied = backup(data.path(), None, &copy).await.unwrap();
    assert_eq!((copied.checkpoints, copied.forgotten), (1, 1));
    let report = verify::check(&copy, None).await.unwrap();
    assert_eq!(report.findings, []);
    assert_eq!((report.checkpoints, report.leftovers.len()), (1, 0));
    running.stop().await.unwrap();
}
