//! Stored checkpoints that are damaged with real bytes: the trial falls back, nobody is charged, what is left is kept.

use std::path::{Path, PathBuf};

use plateau_coordinator::Running;
use plateau_proto::v1;
use plateau_proto::v1::agent_message::{Body as Say, Crashed};

use crate::support::*;

/// A coordinator with one trial that has checkpoints at steps 3 and 6, granted anew to continue from the newer.
async fn granted_again(data: &Path) -> (Running, Agent, v1::Lease) {
    let running = coordinator(data).await;
    let mut client = client(&running).await;
    let study = STUDY.replace("seeds = 4", "seeds = 1").replace("[8, 16]", "[8]");
    submit(&mut client, &study).await;
    let mut agent = Agent::connect(&running, "a").await;
    let lease = agent.ask().await.remove(0);
    agent.started(&lease).await.unwrap();
    agent.upload(&lease, 3, b"weights at three").await.unwrap();
    agent.upload(&lease, 6, b"weights at six").await.unwrap();
    agent.released(&lease).await.unwrap();
    let lease = agent.ask().await.remove(0);
    assert_eq!(lease.resume.as_ref().unwrap().step, 6);
    (running, agent, lease)
}

fn folder(data: &Path, lease: &v1::Lease, step: u64) -> PathBuf {
    let trial = &lease.key.as_ref().unwrap().trial;
    data.join(format!("checkpoints/trials/{trial}/attempts/1/step-{step}"))
}

/// The trial asks for its checkpoint, which `harm` has damaged, and must be granted anew from step 3.
async fn falls_back(harm: impl FnOnce(&Path)) {
    let data = tempfile::tempdir().unwrap();
    let (running, mut agent, lease) = granted_again(data.path()).await;
    let damaged = folder(data.path(), &lease, 6);
    harm(&damaged);
    let reference = lease.resume.clone().unwrap();
    let status = agent.download(&lease, reference.clone()).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::DataLoss, "{status}");
    assert!(!damaged.exists(), "the damaged checkpoint is where readers look for it");
    // The lease is over: what an agent that knows no better says of it charges nobody.
    let crashed = Crashed {
        leases: lease.key.clone().into_iter().collect(),
        reason: "no".to_owned(),
        class: v1::FailureClass::Exited.into(),
    };
    agent.settle(Say::Crashed(crashed)).await.unwrap_err();

    let again = agent.ask().await.remove(0);
    let older = again.resume.clone().unwrap();
    assert_eq!((again.key.as_ref().unwrap().attempt, older.step), (3, 3));
    assert_eq!(agent.download(&again, older).await.unwrap().1, b"weights at threemoments");
    let status = agent.download(&again, reference).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::FailedPrecondition, "{status}");
    let mut client = client(&running).await;
    let trial = again.key.clone().unwrap().trial;
    let events: Vec<String> =
        explain(&mut client, &trial).await.history.into_iter().map(|event| event.event).collect();
    let told = events.iter().any(|event| event.starts_with("checkpoint at step 6 of attempt 1 is damaged"));
    assert!(told && !events.iter().any(|event| event.contains("lost")), "{events:?}");

    // A restart, which sweeps, keeps what was set aside.
    agent.train(&[again]).await;
    drop((agent, client));
    running.stop().await.unwrap();
    let kept = data.path().join("checkpoints/damaged");
    let before = std::fs::read_dir(&kept).map_or(0, Iterator::count);
    let running = coordinator(data.path()).await;
    assert_eq!(std::fs::read_dir(&kept).map_or(0, Iterator::count), before);
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn case_43_a_flipped_bit_makes_the_trial_fall_back() {
    for file in ["weights.safetensors", "optimizer.safetensors"] {
        falls_back(|folder| {
            let path = folder.join(file);
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[2] ^= 1;
            std::fs::write(path, bytes).unwrap();
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn case_42_a_torn_file_makes_the_trial_fall_back() {
    for (file, bytes) in [("weights.safetensors", 5), ("optimizer.safetensors", 0), ("manifest.json", 40)] {
        falls_back(|folder| {
            std::fs::OpenOptions::new().write(true).open(folder.join(file)).unwrap().set_len(bytes).unwrap();
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn case_42_a_missing_file_makes_the_trial_fall_back() {
    for file in ["weights.safetensors", "optimizer.safetensors", "manifest.json"] {
        falls_back(|folder| std::fs::remove_file(folder.join(file)).unwrap()).await;
    }
    falls_back(|folder| std::fs::remove_dir_all(folder).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn case_43_the_checkpoint_of_another_step_in_its_place_makes_the_trial_fall_back() {
    falls_back(|folder| {
        let older = folder.with_file_name("step-3");
        for entry in std::fs::read_dir(older).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, folder.join(path.file_name().unwrap())).unwrap();
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn case_43_without_a_good_checkpoint_the_trial_begins_anew() {
    let data = tempfile::tempdir().unwrap();
    let (running, mut agent, mut lease) = granted_again(data.path()).await;
    for step in [6, 3] {
        std::fs::write(folder(data.path(), &lease, step).join("weights.safetensors"), b"rot").unwrap();
        let reference = lease.resume.clone().unwrap();
        assert_eq!(reference.step, step);
        agent.download(&lease, reference).await.unwrap_err();
        lease = agent.ask().await.remove(0);
    }
    assert_eq!(lease.resume, None);
    assert_eq!(std::fs::read_dir(data.path().join("checkpoints/damaged")).unwrap().count(), 2);
    agent.train(&[lease]).await;
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn case_43_a_checkpoint_disk_that_is_not_there_damages_no_checkpoint() {
    let data = tempfile::tempdir().unwrap();
    let (running, mut agent, lease) = granted_again(data.path()).await;
    let (there, away) = (data.path().join("checkpoints/trials"), data.path().join("away"));
    std::fs::rename(&there, &away).unwrap();
    let reference = lease.resume.clone().unwrap();
    let status = agent.download(&lease, reference.clone()).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unavailable, "{status}");
    std::fs::rename(&away, &there).unwrap();
    assert_eq!(agent.download(&lease, reference).await.unwrap().1, b"weights at sixmoments");
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn case_44_what_a_kill_leaves_of_an_upload_is_swept_at_the_next_start() {
    let data = tempfile::tempdir().unwrap();
    let (running, agent, lease) = granted_again(data.path()).await;
    let kept = folder(data.path(), &lease, 6);
    drop(agent);
    running.stop().await.unwrap();
    // As the store names a file whose last byte never came, and one that was whole but never moved.
    let upload = data.path().join("checkpoints/uploads/7d1f");
    std::fs::create_dir_all(&upload).unwrap();
    std::fs::write(upload.join("weights.safetensors#1"), b"half").unwrap();
    std::fs::write(upload.join("optimizer.safetensors"), b"whole").unwrap();
    let forgotten = kept.with_file_name("step-5");
    std::fs::create_dir_all(&forgotten).unwrap();
    std::fs::write(forgotten.join("manifest.json"), b"{}").unwrap();
    let running = coordinator(data.path()).await;
    assert!(!upload.exists() && !forgotten.join("manifest.json").exists());
    assert!(kept.join("manifest.json").exists());
    running.stop().await.unwrap();
}
