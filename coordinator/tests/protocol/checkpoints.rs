//! Checkpoints up and down: whole, verified, or not there.

use plateau_coordinator::{Options, start};
use plateau_proto::v1;

use crate::support::*;

/// The names of all files under a folder.
fn names(folder: &std::path::Path) -> Vec<String> {
    files(folder).into_iter().map(|(name, _)| name).collect()
}

async fn leased(running: &plateau_coordinator::Running) -> (Agent, v1::Lease) {
    let mut client = client(running).await;
    submit(&mut client, STUDY).await;
    let mut agent = Agent::connect(running, "a").await;
    let lease = agent.ask().await.remove(0);
    agent.started(&lease).await.unwrap();
    (agent, lease)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_comes_back_as_it_was_sent() {
    let data = tempfile::tempdir().unwrap();
    let running = coordinator(data.path()).await;
    let (mut agent, lease) = leased(&running).await;
    let weights: Vec<u8> = (0..900_000u32).flat_map(u32::to_le_bytes).take(3_000_000).collect();
    let upload = agent.upload(&lease, 5, &weights).await;
    upload.unwrap();
    // Again, as after a lost answer: accepted, and no second copy.
    agent.upload(&lease, 5, &weights).await.unwrap();
    let mut client = client(&running).await;
    let trial = lease.key.clone().unwrap().trial;
    let list = client
        .list_checkpoints(v1::ListCheckpointsRequest { trial: trial.clone() })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(list.checkpoints.len(), 1);
    let reference = list.checkpoints[0].clone();
    assert_eq!((reference.step, reference.attempt, reference.bytes), (5, 1, 3_000_007));
    let (manifest_bytes, data_bytes) = agent.download(&lease, reference).await.unwrap();
    assert_eq!(manifest_bytes, serde_json::to_vec(&manifest(&lease, 5, &weights)).unwrap());
    assert_eq!(data_bytes, [weights.as_slice(), b"moments"].concat());
    let fetched =
        client.fetch_checkpoint(v1::FetchCheckpointRequest { trial: trial.clone(), step: 0 }).await.unwrap();
    assert_eq!(collect(fetched.into_inner()).await.unwrap().1, data_bytes);
    let place = format!("trials/{trial}/attempts/1/step-5");
    assert_eq!(
        names(&data.path().join("checkpoints")),
        ["manifest.json", "optimizer.safetensors", "weights.safetensors"]
            .map(|name| format!("{place}/{name}"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_match_its_manifest_is_refused_and_leaves_nothing() {
    let data = tempfile::tempdir().unwrap();
    let running = coordinator(data.path()).await;
    let (mut agent, lease) = leased(&running).await;
    let mut wrong_digest = manifest(&lease, 5, b"weights");
    wrong_digest.files[0].blake3 = "0".repeat(64);
    let mut too_short = manifest(&lease, 5, b"weights");
    too_short.files[1].bytes = 1_000;
    let mut too_long = manifest(&lease, 5, b"weights");
    too_long.files[0].bytes = 3;
    let mut other_trial = manifest(&lease, 5, b"weights");
    other_trial.trial = "0".repeat(32);
    let mut traversal = manifest(&lease, 5, b"weights");
    traversal.files[0].name = "../../../coordinator.sqlite".to_owned();
    let other_step = manifest(&lease, 6, b"weights");
    for bad in [wrong_digest, too_short, too_long, other_trial, traversal, other_step] {
        let status = agent.upload_parts(&lease, 5, b"weights", bad.clone()).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument, "{bad:?}: {status}");
    }
    assert_eq!(names(&data.path().join("checkpoints")), Vec::<String>::new());
    agent.upload(&lease, 5, b"weights").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_on_disk_is_noticed_by_the_reader() {
    let data = tempfile::tempdir().unwrap();
    let running = coordinator(data.path()).await;
    let (mut agent, lease) = leased(&running).await;
    agent.upload(&lease, 5, b"weights").await.unwrap();
    let trial = lease.key.clone().unwrap().trial;
    let file = data.path().join(format!("checkpoints/trials/{trial}/attempts/1/step-5/weights.safetensors"));
    std::fs::write(file, b"weighty").unwrap();
    let mut client = client(&running).await;
    let fetched = client.fetch_checkpoint(v1::FetchCheckpointRequest { trial, step: 5 }).await.unwrap();
    assert_eq!(collect(fetched.into_inner()).await.unwrap_err().code(), tonic::Code::DataLoss);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_newest_are_kept() {
    let data = tempfile::tempdir().unwrap();
    let running = coordinator(data.path()).await;
    let (mut agent, lease) = leased(&running).await;
    for step in [2, 4, 6, 8] {
        agent.upload(&lease, step, format!("weights {step}").as_bytes()).await.unwrap();
    }
    let mut client = client(&running).await;
    let trial = lease.key.clone().unwrap().trial;
    let list = client.list_checkpoints(v1::ListCheckpointsRequest { trial }).await.unwrap().into_inner();
    // `checkpoint.keep` is 1 by default: the newest and one before it.
    assert_eq!(list.checkpoints.iter().map(|checkpoint| checkpoint.step).collect::<Vec<_>>(), [6, 8]);
    drop(agent);
    running.stop().await.unwrap();
    // What was forgotten but perhaps not yet deleted is swept at the latest by the next start.
    let _running = coordinator(data.path()).await;
    assert_eq!(names(&data.path().join("checkpoints")).len(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorded_step_is_not_replaced_by_other_weights() {
    let data = tempfile::tempdir().unwrap();
    let running = coordinator(data.path()).await;
    let (mut agent, lease) = leased(&running).await;
    agent.upload(&lease, 5, b"weights").await.unwrap();
    let status = agent.upload(&lease, 5, b"others!").await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::FailedPrecondition, "{status}");
    let mut client = client(&running).await;
    let trial = lease.key.clone().unwrap().trial;
    let fetched = client.fetch_checkpoint(v1::FetchCheckpointRequest { trial, step: 5 }).await.unwrap();
    assert_eq!(collect(fetched.into_inner()).await.unwrap().1, b"weightsmoments");
    assert_eq!(names(&data.path().join("checkpoints")).len(), 3, "nothing of the refused upload is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_data_directories_may_share_a_checkpoint_store() {
    let (shared, first, second) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let options = |data: &tempfile::TempDir| Options {
        data_dir: data.path().to_owned(),
        listen: "127.0.0.1:0".parse().unwrap(),
        checkpoint_store: Some(url::Url::from_directory_path(shared.path()).unwrap().to_string()),
        keys: None,
    };
    // The same study, so the same trials; each directory has checkpoints that the other does not know.
    for (data, step) in [(&first, 5), (&second, 6)] {
        let running = start(options(data)).await.unwrap();
        let (mut agent, lease) = leased(&running).await;
        agent.upload(&lease, step, format!("weights {step}").as_bytes()).await.unwrap();
        drop(agent);
        running.stop().await.unwrap();
    }
    assert_eq!(names(shared.path()).len(), 6);
    for (data, step) in [(&first, 5), (&second, 6)] {
        // Every start sweeps away what the directory does not name.
        let running = start(options(data)).await.unwrap();
        let mut client = client(&running).await;
        let request =
            v1::ListTrialsRequest { sweep: "last".to_owned(), states: Vec::new(), offset: 0, limit: 0 };
        let trials = client.list_trials(request).await.unwrap().into_inner().trials;
        let mut found = Vec::new();
        for trial in trials {
            let request = v1::FetchCheckpointRequest { trial: trial.trial, step: 0 };
            if let Ok(stream) = client.fetch_checkpoint(request).await {
                found.push(collect(stream.into_inner()).await.unwrap().1);
            }
        }
        assert_eq!(found, [format!("weights {step}moments").into_bytes()]);
        running.stop().await.unwrap();
    }
    assert_eq!(names(shared.path()).len(), 6);
}
