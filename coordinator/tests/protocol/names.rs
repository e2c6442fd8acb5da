//! Names and texts of others: labels, never paths, and never orders to whatever shows them.

use std::path::Path;

use plateau_proto::v1;
use tonic::Code;

use crate::support::*;

/// Names that have taken somebody out of his folder somewhere.
const HOSTILE: [&str; 14] = [
    "../x",
    "../../coordinator.sqlite",
    "/etc/passwd",
    "a/../../b",
    "..",
    ".",
    "",
    "weights.safetensors\0",
    "weights.safetensors/",
    "./weights.safetensors",
    "WEIGHTS.safetensors",
    "CON",
    "manifest.json",
    "..\\x",
];

fn files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { found.push(path.display().to_string()) }
        }
    }
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn case_49_names_in_manifests_and_requests_never_become_paths() {
    let outside = tempfile::tempdir().unwrap();
    let running = coordinator(&outside.path().join("data")).await;
    let mut client = client(&running).await;
    submit(&mut client, STUDY).await;
    let mut agent = Agent::connect(&running, "a").await;
    let lease = agent.ask().await.remove(0);
    agent.started(&lease).await.unwrap();
    agent.upload(&lease, 4, b"weights").await.unwrap();
    let before = files(outside.path());
    for name in HOSTILE {
        for place in [0, 1] {
            let mut manifest = manifest(&lease, 5, b"weights");
            manifest.files[place].name = name.to_owned();
            let status = agent.upload_parts(&lease, 5, b"weights", manifest).await.unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument, "{name:?}: {status}");
        }
        let mut manifest = manifest(&lease, 5, b"weights");
        manifest.trial = name.to_owned();
        let status = agent.upload_parts(&lease, 5, b"weights", manifest).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{name:?}: {status}");
        // As a trial's id, on the way in and out.
        let stranger =
            v1::Lease { key: Some(v1::LeaseKey { trial: name.to_owned(), attempt: 1 }), ..lease.clone() };
        let reference =
            v1::CheckpointReference { trial: name.to_owned(), ..v1::CheckpointReference::default() };
        let status = agent.download(&stranger, reference.clone()).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{name:?}: {status}");
        let status = agent.download(&lease, reference).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{name:?}: {status}");
        let request = v1::FetchCheckpointRequest { trial: name.to_owned(), step: 0 };
        let status = client.fetch_checkpoint(request).await.err().unwrap();
        assert!(matches!(status.code(), Code::NotFound | Code::InvalidArgument), "{name:?}: {status}");
    }
    // A piece that names another file than the one that is due.
    let mut manifest = manifest(&lease, 5, b"weights");
    manifest.files.swap(0, 1);
    assert!(agent.upload_parts(&lease, 5, b"weights", manifest).await.is_err());
    assert_eq!(files(outside.path()), before, "a refused upload left something");
}

#[tokio::test(flavor = "multi_thread")]
async fn case_49_studies_and_agents_have_names_that_are_labels() {
    let data = tempfile::tempdir().unwrap();
    let running = coordinator(data.path()).await;
    let mut client = client(&running).await;
    for name in ["../x", "/etc", "a b", "A", "=1+1", "<b>", ".hidden", "\\u001b[2J", "a\\nb", "\\u202Ex"] {
        let text = STUDY.replace("name = \"tiny\"", &format!("name = \"{name}\""));
        assert_ne!(text, STUDY);
        let request = v1::SubmitRequest { study: source(&text), traceparent: String::new() };
        let status = client.submit(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{name}: {status}");
        assert!(!status.message().contains(|character: char| character.is_control() && character != '\n'));
    }
    // An agent may call itself what it likes, on one line; nothing is stored under its name.
    let name = "../../<script>=1+1";
    let mut agent = Agent::connect(&running, name).await;
    submit(&mut client, STUDY).await;
    let cohort = agent.ask().await;
    agent.train(&cohort).await;
    assert!(!files(data.path()).iter().any(|path| path.contains("script")));
    assert_eq!(explain(&mut client, name).await.kind, "agent");
}

#[tokio::test(flavor = "multi_thread")]
async fn case_49_links_planted_in_the_store_are_not_followed() {
    let folder = tempfile::tempdir().unwrap();
    let (data, outside) = (folder.path().join("data"), folder.path().join("outside"));
    std::fs::create_dir_all(outside.join("attempts/1/step-9")).unwrap();
    std::fs::write(outside.join("attempts/1/step-9/precious"), b"not ours").unwrap();
    let first = coordinator(&data).await;
    let mut submitter = client(&first).await;
    submit(&mut submitter, STUDY).await;
    let mut agent = Agent::connect(&first, "a").await;
    let leases = agent.ask().await;
    for lease in &leases {
        agent.started(lease).await.unwrap();
    }
    agent.upload(&leases[0], 4, b"weights").await.unwrap();
    // Where the second trial's checkpoints would go, there is a way out.
    let trials = data.join("checkpoints/trials");
    let of = |lease: &v1::Lease| trials.join(&lease.key.as_ref().unwrap().trial);
    std::os::unix::fs::symlink(&outside, of(&leases[1])).unwrap();
    let status = agent.upload(&leases[1], 9, b"weights").await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(status.message().contains("symbolic link"), "{status}");
    // A file of a stored checkpoint is replaced by a link to one that has the very same bytes.
    let place = of(&leases[0]).join("attempts/1/step-4");
    std::fs::rename(place.join("weights.safetensors"), outside.join("weights")).unwrap();
    std::os::unix::fs::symlink(outside.join("weights"), place.join("weights.safetensors")).unwrap();
    let trial = leases[0].key.as_ref().unwrap().trial.clone();
    let request = v1::FetchCheckpointRequest { trial, step: 4 };
    let fetched = match submitter.fetch_checkpoint(request).await {
        Ok(stream) => collect(stream.into_inner()).await.map(|_| ()),
        Err(status) => Err(status),
    };
    assert!(fetched.unwrap_err().message().contains("symbolic link"));
    // Beside what is kept, in a trial's folder, and at the top: a start sweeps away none of what lies behind them.
    std::os::unix::fs::symlink(&outside, place.join("more")).unwrap();
    std::os::unix::fs::symlink(&outside, trials.join("0123456789abcdef0123456789abcdef")).unwrap();
    drop((agent, submitter));
    first.stop().await.unwrap();
    let before = crate::support::files(&outside);
    let second = coordinator(&data).await;
    assert_eq!(crate::support::files(&outside), before, "what lies behind a link was touched");
    assert!(
        trials.join("0123456789abcdef0123456789abcdef").is_symlink(),
        "the link itself is not ours either"
    );
    second.stop().await.unwrap();
}
