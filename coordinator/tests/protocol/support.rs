//! A scripted agent that speaks the real protocol to an in-process coordinator.

use std::path::Path;
use std::time::Duration;

use futures::StreamExt;
use plateau_common::checkpoint::{FORMAT, Manifest, ManifestFile, OPTIMIZER_FILE, WEIGHTS_FILE};
use plateau_coordinator::{Options, Running, start};
use plateau_proto::connection::{Channel, Credentials, Route};
use plateau_proto::v1;
use plateau_proto::v1::agent_message::{
    Body as Say, EndedReport, Heartbeat, Hello, MetricsReport, Released, Started,
};
use plateau_proto::v1::agent_service_client::AgentServiceClient;
use plateau_proto::v1::coordinator_message::Body as Hear;
use plateau_proto::v1::plateau_service_client::PlateauServiceClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

/// Longest wait for something that must come; a test that reaches it has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub const STUDY: &str = r#"
name = "tiny"
seeds = 4

[task]
kind = "modular"
modulus = 7
train-share = 0.5

[model]
kind = "transformer"
layers = 1
heads = 2

[train]
steps = 10
optimizer = { kind = "adamw", lr = 1e-3 }

[axes]
"model.dim" = [8, 16]
"#;

/// A coordinator on a free port of loopback.
pub fn options(data: &Path) -> Options {
    Options {
        data_dir: data.to_owned(),
        listen: "127.0.0.1:0".parse().unwrap(),
        checkpoint_store: None,
        keys: None,
    }
}

pub async fn coordinator(data: &Path) -> Running {
    start(options(data)).await.unwrap()
}

/// Every file under a folder by its path from there, with its bytes, sorted. The coordinator may be deleting some of it.
pub fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in there(std::fs::read_dir(next)).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().display().to_string();
                found.extend(there(std::fs::read(&path)).map(|bytes| (name, bytes)));
            }
        }
    }
    found.sort();
    found
}

/// What was asked for, unless it has just been deleted.
fn there<T>(found: std::io::Result<T>) -> Option<T> {
    match found {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        found => Some(found.unwrap()),
    }
}

pub async fn channel(running: &Running) -> Channel {
    let url = format!("http://{}", running.local_addr);
    Route::new(&url, &Credentials::default()).unwrap().connect().await.unwrap()
}

pub async fn client(running: &Running) -> PlateauServiceClient<Channel> {
    PlateauServiceClient::new(channel(running).await)
}

pub fn source(text: &str) -> Option<v1::StudySource> {
    Some(v1::StudySource {
        file_name: "tiny.toml".to_owned(),
        format: v1::StudyFormat::Toml.into(),
        text: text.to_owned(),
        overrides: Vec::new(),
    })
}

pub async fn submit(client: &mut PlateauServiceClient<Channel>, text: &str) -> v1::SubmitResponse {
    let request = v1::SubmitRequest { study: source(text), traceparent: String::new() };
    client.submit(request).await.unwrap().into_inner()
}

pub async fn counts(client: &mut PlateauServiceClient<Channel>, sweep: &str) -> v1::TrialCounts {
    let request = v1::DescribeSweepRequest { sweep: sweep.to_owned() };
    client.describe_sweep(request).await.unwrap().into_inner().summary.unwrap().counts.unwrap()
}

pub async fn results(client: &mut PlateauServiceClient<Channel>, sweep: &str) -> Vec<v1::TrialResult> {
    let request = v1::GetResultsRequest { sweep: sweep.to_owned() };
    let mut stream = client.get_results(request).await.unwrap().into_inner();
    let mut results = Vec::new();
    while let Some(result) = stream.next().await {
        results.push(result.unwrap());
    }
    results
}

/// The session of one scripted agent.
pub struct Agent {
    pub service: AgentServiceClient<Channel>,
    outgoing: mpsc::Sender<v1::AgentMessage>,
    incoming: Streaming<v1::CoordinatorMessage>,
    sequence: u64,
    /// Messages heard while waiting for another kind.
    heard: std::collections::VecDeque<Hear>,
}

impl Agent {
    pub async fn connect(running: &Running, name: &str) -> Agent {
        Agent::connect_as(running, name, "first start", Vec::new()).await
    }

    pub async fn connect_as(
        running: &Running,
        name: &str,
        incarnation: &str,
        held: Vec<v1::LeaseKey>,
    ) -> Agent {
        Agent::over(channel(running).await, name, incarnation, held).await.unwrap()
    }

    /// Opens a session; an error where it is refused.
    pub async fn over(
        channel: Channel,
        name: &str,
        incarnation: &str,
        held: Vec<v1::LeaseKey>,
    ) -> Result<Agent, Status> {
        let mut service = AgentServiceClient::new(channel);
        let (outgoing, receiver) = mpsc::channel(64);
        let hello = Hello {
            protocol: plateau_proto::PROTOCOL,
            version: "test".to_owned(),
            name: name.to_owned(),
            incarnation: incarnation.to_owned(),
            host: "localhost".to_owned(),
            device: "cpu".to_owned(),
            device_description: "scripted".to_owned(),
            max_cohort: 3,
            threads: 1,
            memory_bytes: 0,
            held,
            ..Hello::default()
        };
        let first = v1::AgentMessage { sequence: 1, body: Some(Say::Hello(hello)) };
        outgoing.send(first).await.unwrap();
        let incoming = service.session(ReceiverStream::new(receiver)).await?.into_inner();
        let mut agent =
            Agent { service, outgoing, incoming, sequence: 1, heard: std::collections::VecDeque::new() };
        let Hear::Welcome(welcome) = agent.next().await.unwrap() else { panic!("expected Welcome") };
        assert_eq!(welcome.protocol, plateau_proto::PROTOCOL);
        Ok(agent)
    }

    async fn read(&mut self) -> Result<Hear, Status> {
        let message =
            tokio::time::timeout(PATIENCE, self.incoming.message()).await.expect("nothing was heard");
        match message? {
            Some(message) => Ok(message.body.expect("a body")),
            None => Err(Status::aborted("the session ended")),
        }
    }

    pub async fn next(&mut self) -> Result<Hear, Status> {
        match self.heard.pop_front() {
            Some(heard) => Ok(heard),
            None => self.read().await,
        }
    }

    /// The next message that `pick` accepts; others are kept.
    pub async fn wait<T>(&mut self, mut pick: impl FnMut(&Hear) -> Option<T>) -> T {
        for place in 0..self.heard.len() {
            if let Some(found) = pick(&self.heard[place]) {
                self.heard.remove(place);
                return found;
            }
        }
        loop {
            let message = self.read().await.unwrap();
            match pick(&message) {
                Some(found) => return found,
                None => self.heard.push_back(message),
            }
        }
    }

    pub async fn say(&mut self, body: Say) -> u64 {
        self.sequence += 1;
        self.outgoing.send(v1::AgentMessage { sequence: self.sequence, body: Some(body) }).await.unwrap();
        self.sequence
    }

    /// Says something and waits for its acknowledgement (Ok) or refusal (Err with the reason).
    pub async fn settle(&mut self, body: Say) -> Result<(), String> {
        let sequence = self.say(body).await;
        self.wait(|message| match message {
            Hear::Acknowledged(acknowledged) if acknowledged.sequence == sequence => Some(Ok(())),
            Hear::Refused(refused) if refused.sequence == sequence => Some(Err(refused.reason.clone())),
            _ => None,
        })
        .await
    }

    pub async fn idle(&mut self) {
        let heartbeat = Heartbeat { replica_steps_per_second: 10.0, idle: true, ..Heartbeat::default() };
        self.say(Say::Heartbeat(heartbeat)).await;
    }

    pub async fn grant(&mut self) -> Vec<v1::Lease> {
        self.wait(|message| match message {
            Hear::Grant(grant) => Some(grant.leases.clone()),
            _ => None,
        })
        .await
    }

    /// Says that it is idle and waits for a cohort.
    pub async fn ask(&mut self) -> Vec<v1::Lease> {
        self.idle().await;
        self.grant().await
    }

    pub async fn started(&mut self, lease: &v1::Lease) -> Result<(), String> {
        let from_step = lease.resume.as_ref().map_or(0, |checkpoint| checkpoint.step);
        self.settle(Say::Started(Started { lease: lease.key.clone(), from_step })).await
    }

    pub async fn metrics(&mut self, lease: &v1::Lease, chunk: u64, steps: &[u64]) -> Result<(), String> {
        self.settle(metrics(lease, chunk, steps, 1.0)).await
    }

    pub async fn completed(&mut self, lease: &v1::Lease) -> Result<(), String> {
        self.settle(completed(lease)).await
    }

    /// The leases of the next revocation.
    pub async fn revoked(&mut self) -> Vec<v1::LeaseKey> {
        self.wait(|message| match message {
            Hear::Revoke(revoke) => Some(revoke.leases.clone()),
            _ => None,
        })
        .await
    }

    pub async fn shutdown(&mut self) {
        self.wait(|message| matches!(message, Hear::Shutdown(_)).then_some(())).await;
    }

    pub async fn goodbye(&mut self) {
        self.say(Say::Goodbye(v1::agent_message::Goodbye {})).await;
        while self.read().await.is_ok() {}
    }

    /// Whether nothing but Welcome was heard.
    pub fn next_is_quiet(&self) -> bool {
        self.heard.is_empty()
    }

    pub async fn released(&mut self, lease: &v1::Lease) -> Result<(), String> {
        let released =
            Released { lease: lease.key.clone(), reason: "asked to".to_owned(), train_seconds: 1.0 };
        self.settle(Say::Released(released)).await
    }

    /// Trains a cohort to its end, honestly: started, metrics of every step in two chunks, a checkpoint, the ending.
    pub async fn train(&mut self, leases: &[v1::Lease]) {
        for lease in leases {
            self.started(lease).await.unwrap();
            let from = lease.resume.as_ref().map_or(0, |checkpoint| checkpoint.step);
            let end = budget(lease);
            let steps: Vec<u64> = (from..=end).collect();
            let (first, second) = steps.split_at(steps.len() / 2);
            self.metrics(lease, 0, first).await.unwrap();
            self.metrics(lease, 1, second).await.unwrap();
            self.upload(lease, end, b"weights").await.unwrap();
            self.completed(lease).await.unwrap();
        }
    }

    pub async fn upload(&mut self, lease: &v1::Lease, step: u64, weights: &[u8]) -> Result<(), Status> {
        self.upload_parts(lease, step, weights, manifest(lease, step, weights)).await
    }

    pub async fn upload_parts(
        &mut self,
        lease: &v1::Lease,
        step: u64,
        weights: &[u8],
        manifest: Manifest,
    ) -> Result<(), Status> {
        let parts = upload_messages(lease, step, weights, &manifest);
        self.service.upload_checkpoint(tokio_stream::iter(parts)).await.map(|_| ())
    }

    pub async fn download(
        &mut self,
        lease: &v1::Lease,
        checkpoint: v1::CheckpointReference,
    ) -> Result<(Vec<u8>, Vec<u8>), Status> {
        let request =
            v1::DownloadCheckpointRequest { lease: lease.key.clone(), checkpoint: Some(checkpoint) };
        collect(self.service.download_checkpoint(request).await?.into_inner()).await
    }
}

/// The messages of an upload: header, manifest, files in two pieces each.
pub fn upload_messages(
    lease: &v1::Lease,
    step: u64,
    weights: &[u8],
    manifest: &Manifest,
) -> Vec<v1::UploadCheckpointRequest> {
    let chunk = |part| v1::UploadCheckpointRequest {
        part: Some(v1::upload_checkpoint_request::Part::Chunk(v1::CheckpointChunk { part: Some(part) })),
    };
    let header = v1::upload_checkpoint_request::Header { lease: lease.key.clone(), step };
    let mut parts = vec![
        v1::UploadCheckpointRequest { part: Some(v1::upload_checkpoint_request::Part::Header(header)) },
        chunk(v1::checkpoint_chunk::Part::Manifest(serde_json::to_vec(manifest).unwrap())),
    ];
    for (name, bytes) in [(WEIGHTS_FILE, weights), (OPTIMIZER_FILE, b"moments".as_slice())] {
        // In two pieces, to see that offsets are followed.
        let (first, second) = bytes.split_at(bytes.len() / 2);
        for (offset, data) in [(0, first), (first.len(), second)] {
            parts.push(chunk(v1::checkpoint_chunk::Part::Data(v1::checkpoint_chunk::FileBytes {
                name: name.to_owned(),
                offset: offset as u64,
                data: data.to_vec(),
            })));
        }
    }
    parts
}

/// Manifest and file bytes of a checkpoint's stream.
pub async fn collect(mut stream: Streaming<v1::CheckpointChunk>) -> Result<(Vec<u8>, Vec<u8>), Status> {
    let (mut manifest, mut data) = (Vec::new(), Vec::new());
    while let Some(chunk) = stream.message().await? {
        match chunk.part.unwrap() {
            v1::checkpoint_chunk::Part::Manifest(bytes) => manifest = bytes,
            v1::checkpoint_chunk::Part::Data(bytes) => data.extend(bytes.data),
        }
    }
    Ok((manifest, data))
}

pub fn manifest(lease: &v1::Lease, step: u64, weights: &[u8]) -> Manifest {
    let file = |name: &str, bytes: &[u8]| ManifestFile {
        name: name.to_owned(),
        bytes: bytes.len() as u64,
        blake3: blake3::hash(bytes).to_hex().to_string(),
    };
    Manifest {
        format: FORMAT,
        trial: lease.key.as_ref().unwrap().trial.clone(),
        step,
        config: serde_json::from_str(&lease.config_json).unwrap(),
        files: vec![file(WEIGHTS_FILE, weights), file(OPTIMIZER_FILE, b"moments")],
        weights_hash: blake3::hash(weights).to_hex().to_string(),
        plateau: "test".to_owned(),
        device: "scripted".to_owned(),
    }
}

pub fn budget(lease: &v1::Lease) -> u64 {
    let config = plateau_proto::convert::trial_config("config_json", &lease.config_json).unwrap();
    config.train.steps
}

pub fn metrics(lease: &v1::Lease, chunk: u64, steps: &[u64], value: f64) -> Say {
    let column = v1::MetricColumn {
        name: "loss".to_owned(),
        values: steps.iter().map(|step| value / (*step + 1) as f64).collect(),
        missing: Vec::new(),
    };
    Say::Metrics(MetricsReport {
        lease: lease.key.clone(),
        chunk,
        metrics: Some(v1::MetricsChunk { steps: steps.to_vec(), columns: vec![column] }),
    })
}

pub fn completed(lease: &v1::Lease) -> Say {
    ended(lease, budget(lease), v1::ending::Kind::Completed(v1::ending::Completed {}))
}

pub fn ended(lease: &v1::Lease, step: u64, kind: v1::ending::Kind) -> Say {
    Say::Ended(EndedReport {
        lease: lease.key.clone(),
        ending: Some(v1::Ending { kind: Some(kind) }),
        step,
        train_seconds: 2.0,
        weights_hash: "hash".to_owned(),
    })
}

/// All steps of a trial's curve, over all its messages and chunks.
pub fn steps_of(result: &v1::TrialResult) -> Vec<u64> {
    result.metrics.iter().flat_map(|chunk| chunk.steps.clone()).collect()
}

pub async fn explain(client: &mut PlateauServiceClient<Channel>, subject: &str) -> v1::ExplainResponse {
    let request = v1::ExplainRequest { subject: subject.to_owned() };
    client.explain(request).await.unwrap().into_inner()
}
