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
