//! A simulated agent: one real session with the coordinator, and trials that take no time.

use anyhow::Context as _;
use plateau_common::limits;
use plateau_proto::v1;
use plateau_proto::v1::agent_message::{Body, EndedReport, Heartbeat, Hello, MetricsReport, Started};
use plateau_proto::v1::agent_service_client::AgentServiceClient;
use plateau_proto::v1::coordinator_message::Body as Answer;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

/// Messages on their way from one agent at most.
const QUEUE: usize = 1024;

/// An open session.
pub struct Session {
    outgoing: mpsc::Sender<v1::AgentMessage>,
    incoming: Streaming<v1::CoordinatorMessage>,
    /// Number of the last message.
    sequence: u64,
    /// Grants received.
    grants: u64,
    /// Messages that await their answer.
    unanswered: u64,
}

impl Session {
    /// Introduces an agent that trains up to `max_cohort` trials together.
    pub async fn open(url: &str, name: &str, max_cohort: u32) -> anyhow::Result<Self> {
        let (outgoing, queue) = mpsc::channel(QUEUE);
        let hello = Hello {
            protocol: plateau_proto::protocol::PROTOCOL,
            oldest_protocol: plateau_proto::protocol::OLDEST_PROTOCOL,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            name: name.to_owned(),
            incarnation: format!("{name}/{}", std::process::id()),
            host: "simulated".to_owned(),
            device: "cpu".to_owned(),
            device_description: "simulated".to_owned(),
            max_cohort,
            held: Vec::new(),
            threads: 1,
            memory_bytes: 0,
        };
        let first = v1::AgentMessage { sequence: 0, body: Some(Body::Hello(hello)) };
        outgoing.send(first).await.context("queueing the first message")?;
        let mut client = AgentServiceClient::new(super::connect(url).await?)
            .max_decoding_message_size(limits::MAX_MESSAGE_BYTES)
            .max_encoding_message_size(limits::MAX_MESSAGE_BYTES);
        let opened = client.session(ReceiverStream::new(queue)).await.context("opening a session")?;
        let incoming = opened.into_inner();
        let mut session = Session { outgoing, incoming, sequence: 0, grants: 0, unanswered: 0 };
        match session.hear().await? {
            Answer::Welcome(_) => Ok(session),
            other => anyhow::bail!("the coordinator began with {other:?}"),
        }
    }

    async fn hear(&mut self) -> anyhow::Result<Answer> {
        let message = self.incoming.message().await.context("listening")?.context("the session ended")?;
        message.body.context("a message without content")
    }

    async fn say(&mut self, body: Body) -> anyhow::Result<()> {
        self.sequence += 1;
        let message = v1::AgentMessage { sequence: self.sequence, body: Some(body) };
        self.outgoing.send(message).await.ok().context("the session ended")
    }

    /// Says that it is idle and waits for a cohort.
    pub async fn ask(&mut self) -> anyhow::Result<Vec<v1::Lease>> {
        let heartbeat = Heartbeat { idle: true, grants: self.grants, ..Heartbeat::default() };
        self.say(Body::Heartbeat(heartbeat)).await?;
        loop {
            match self.hear().await? {
                Answer::Grant(grant) => {
                    self.grants += 1;
                    return Ok(grant.leases);
                }
                Answer::Acknowledged(_) => {}
                other => anyhow::bail!("expected a grant, heard {other:?}"),
            }
        }
    }

    /// Renews a lease that has reached `step`.
    pub async fn renew(&mut self, lease: &v1::Lease, step: u64) -> anyhow::Result<()> {
        let progress = v1::agent_message::LeaseProgress { lease: lease.key.clone(), step, waiting: false };
        let leases = vec![progress];
        self.say(Body::Heartbeat(Heartbeat { leases, grants: self.grants, ..Heartbeat::default() })).await
    }

    /// Reports that training began; not answered yet.
    pub async fn started(&mut self, lease: &v1::Lease) -> anyhow::Result<()> {
        self.unanswered += 1;
        self.say(Body::Started(Started { lease: lease.key.clone(), from_step: 0 })).await
    }

    /// Reports a chunk of metrics; not answered yet.
    pub async fn measured(
        &mut self,
        lease: &v1::Lease,
        chunk: u64,
        metrics: v1::MetricsChunk,
    ) -> anyhow::Result<()> {
        self.unanswered += 1;
        self.say(Body::Metrics(MetricsReport { lease: lease.key.clone(), chunk, metrics: Some(metrics) }))
            .await
    }

    /// Reports the completion at `step`; not answered yet.
    pub async fn completed(&mut self, lease: &v1::Lease, step: u64) -> anyhow::Result<()> {
        self.unanswered += 1;
        let kind = Some(v1::ending::Kind::Completed(v1::ending::Completed {}));
        let report = EndedReport {
            lease: lease.key.clone(),
            ending: Some(v1::Ending { kind }),
            step,
            train_seconds: 0.0,
            weights_hash: lease.key.as_ref().map(|key| key.trial.clone()).unwrap_or_default(),
        };
        self.say(Body::Ended(report)).await
    }

    /// Waits until at most `left` messages are not on the coordinator's disk; a refusal is an error.
    pub async fn settle(&mut self, left: u64) -> anyhow::Result<()> {
        while self.unanswered > left {
            match self.hear().await? {
                Answer::Acknowledged(_) => self.unanswered -= 1,
                other => anyhow::bail!("expected an acknowledgement, heard {other:?}"),
            }
        }
        Ok(())
    }
}
