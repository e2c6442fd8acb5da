//! The session with the coordinator: one task that connects, reconnects, and delivers messages in order.
//!
//! Messages that change state are kept until the coordinator has acknowledged or refused them and are sent again, in
//! their order, on every new connection: delivery is at least once, and the coordinator records once.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use plateau_common::limits;
use plateau_proto::connection::{Channel, Credentials, Route, innermost};
use plateau_proto::protocol::{OLDEST_PROTOCOL, OURS, PROTOCOL, Protocols};
use plateau_proto::v1::agent_message::{Body, Hello};
use plateau_proto::v1::coordinator_message::Body as Answer;
use plateau_proto::v1::{
    AgentMessage, CoordinatorMessage, LeaseKey, agent_service_client::AgentServiceClient,
};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use crate::backoff::Backoff;
use crate::machine::Network;

const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(5);
/// Messages between the link and the connection; beyond it senders wait.
const QUEUE: usize = 64;
/// Messages without an answer between the link and the connection; beyond it they are lost. Room for several about each
/// lease of a large cohort.
const NEWS: usize = 4096;

/// What became of a message that changes state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// It is on the coordinator's disk.
    Acknowledged,
    /// It was refused, with the reason; the lease is no longer ours.
    Refused(String),
}

/// What the coordinator wants, or news of the connection.
#[derive(Debug)]
pub enum LinkEvent {
    /// A session is open.
    Connected,
    /// A heartbeat was heard that was sent at this moment, by an agent that had seen so many grants of the session.
    Heard(Instant, u64),
    /// At this moment, or later, nothing listened at the coordinator's address: no coordinator ran there.
    NobodyThere(Instant),
    /// An order: train these leases, or stop.
    Message(Answer),
    /// Another agent of this name has taken over; the session is over for good.
    Superseded(String),
}

struct Outgoing {
    body: Body,
    reply: oneshot::Sender<Delivery>,
}

/// The sending side of the session.
#[derive(Clone)]
pub struct Link {
    outgoing: mpsc::Sender<Outgoing>,
    news: mpsc::Sender<Body>,
    held: Arc<Mutex<Vec<LeaseKey>>>,
    channel: Channel,
}

/// A client of the agent service with the project's message limit.
pub fn client(channel: Channel) -> AgentServiceClient<Channel> {
    AgentServiceClient::new(channel)
        .max_decoding_message_size(limits::MAX_MESSAGE_BYTES)
        .max_encoding_message_size(limits::MAX_MESSAGE_BYTES)
}

impl Link {
    /// Starts the session's task. Events arrive on the receiver; the task ends when every `Link` is dropped.
    pub fn start(
        url: &str,
        credentials: &Credentials,
        network: &dyn Network,
        hello: Hello,
    ) -> anyhow::Result<(Link, mpsc::Receiver<LinkEvent>)> {
        let (outgoing, commands) = mpsc::channel(QUEUE);
        let (news, latest) = mpsc::channel(NEWS);
        let (events, receiver) = mpsc::channel(QUEUE);
        let held = Arc::new(Mutex::new(Vec::new()));
        let route = Route::new(url, credentials)?;
        let channel = network.channel(&route);
        let session = Session {
            url: url.to_owned(),
            route,
            channel: channel.clone(),
            hello,
            held: Arc::clone(&held),
            commands,
            news: latest,
            events,
            unanswered: BTreeMap::new(),
            heartbeats: VecDeque::new(),
            next: 1,
            leaving: false,
        };
        tokio::spawn(session.run());
        Ok((Link { outgoing, news, held, channel }, receiver))
    }

    /// The connection, for checkpoint transfers beside the session.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// The leases to announce when the session is opened again.
    pub fn set_held(&self, leases: Vec<LeaseKey>) {
        // A poisoned lock means a panic elsewhere; the list itself is always whole.
        *self.held.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = leases;
    }

    /// Sends a message that needs no answer. Never waits: without a connection, or with one that does not keep up, it is
    /// lost.
    pub fn tell(&self, body: Body) {
        if self.news.try_send(body).is_err() {
            tracing::debug!("no room for a message that needs no answer");
        }
    }

    /// Queues a message that changes state; the receiver answers once the coordinator has, however many connections
    /// that takes.
    pub async fn deliver(&self, body: Body) -> oneshot::Receiver<Delivery> {
        let (reply, answer) = oneshot::channel();
        // An error means that the session's task is gone, and with it the agent.
        let _ = self.outgoing.send(Outgoing { body, reply }).await;
        answer
    }
}

struct Session {
    url: String,
    route: Route,
    channel: Channel,
    hello: Hello,
    held: Arc<Mutex<Vec<LeaseKey>>>,
    commands: mpsc::Receiver<Outgoing>,
    /// Messages that are worth sending only while they are new.
    news: mpsc::Receiver<Body>,
    events: mpsc::Sender<LinkEvent>,
    /// Messages sent and not yet answered, by sequence number, in order.
    unanswered: BTreeMap<u64, (Body, oneshot::Sender<Delivery>)>,
    /// Heartbeats of this connection that were not answered yet: their numbers, when they were sent, and the grants seen
    /// by then.
    heartbeats: VecDeque<(u64, Instant, u64)>,
    next: u64,
    /// Whether we have said goodbye, so that the end of the connection is no news.
    leaving: bool,
}

enum Over {
    /// Nobody wants the session any more.
    Closed,
    /// Connection lost; try again.
    Lost(String),
    /// Nothing listens at the coordinator's address; try again.
    NobodyThere(String),
    /// Another agent has our name.
    Superseded(String),
}

impl Over {
    fn of(status: &tonic::Status) -> Self {
        match status.code() {
            Code::Aborted => Over::Superseded(status.message().to_owned()),
            // Of a failed connection the message alone says no more than that.
            _ if std::error::Error::source(status).is_some() => {
                let reason = format!("{}: {}", status.message(), innermost(status));
                if is_refusal(status) { Over::NobodyThere(reason) } else { Over::Lost(reason) }
            }
            _ => Over::Lost(status.message().to_owned()),
        }
    }
}

/// Whether the coordinator's machine answered that nothing listens there. Silence is no such answer.
fn is_refusal(status: &tonic::Status) -> bool {
    let mut error: Option<&(dyn std::error::Error + 'static)> = Some(status);
    while let Some(current) = error {
        if let Some(io) = current.downcast_ref::<std::io::Error>()
            && io.kind() == std::io::ErrorKind::ConnectionRefused
        {
            return true;
        }
        error = current.source();
    }
    false
}

impl Session {
    async fn run(mut self) {
        // So that a fleet does not reconnect in step.
        let mut backoff = Backoff::new(FIRST_RETRY, LAST_RETRY, &self.hello.incarnation);
        loop {
            let (opened, tried) = (self.next, Instant::now());
            self.heartbeats.clear();
            match self.connection().await {
                Over::Closed => return,
                Over::Lost(_) | Over::NobodyThere(_) if self.leaving => return,
                Over::Superseded(reason) => {
                    // The agent may be gone already.
                    let _ = self.events.send(LinkEvent::Superseded(reason)).await;
                    return;
                }
                Over::Lost(reason) => {
                    tracing::warn!(coordinator = self.url, reason, "no connection to the coordinator")
                }
                Over::NobodyThere(reason) => {
                    tracing::warn!(coordinator = self.url, reason, "no coordinator at its address");
                    if self.events.send(LinkEvent::NobodyThere(tried)).await.is_err() {
                        return;
                    }
                }
            }
            if self.next > opened {
                backoff.reset();
            }
            tokio::time::sleep(backoff.pause()).await;
            if self.events.is_closed() {
                return;
            }
        }
    }

    async fn connection(&mut self) -> Over {
        // The token may have been replaced since.
        if let Err(error) = self.route.reload() {
            return Over::Lost(error.to_string());
        }
        let (sender, receiver) = mpsc::channel(QUEUE);
        let mut hello = self.hello.clone();
        (hello.protocol, hello.oldest_protocol) = (PROTOCOL, OLDEST_PROTOCOL);
        hello.held = self.held.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
        let first = AgentMessage { sequence: 0, body: Some(Body::Hello(hello)) };
        if sender.send(first).await.is_err() {
            return Over::Lost("the connection closed at once".to_owned());
        }
        let mut client = client(self.channel.clone());
        let mut incoming = match client.session(ReceiverStream::new(receiver)).await {
            Ok(response) => response.into_inner(),
            Err(status) => return Over::of(&status),
        };
        match incoming.message().await {
            Ok(Some(CoordinatorMessage { body: Some(Answer::Welcome(welcome)) })) => {
                if Protocols::new(welcome.protocol, welcome.protocol)
                    .and_then(|one| one.common(OURS))
                    .is_none()
                {
                    let (version, protocol) = (welcome.version, welcome.protocol);
                    return Over::Lost(format!(
                        "the coordinator (version {version}) wants to speak version {protocol} of the protocol, this agent {OURS}: use programs of one version"
                    ));
                }
                tracing::info!(coordinator = self.url, version = welcome.version, "connected");
            }
            Ok(other) => {
                return Over::Lost(format!("the coordinator answered {other:?} instead of a welcome"));
            }
            Err(status) => return Over::of(&status),
        }
        for (sequence, (body, _)) in &self.unanswered {
            let message = AgentMessage { sequence: *sequence, body: Some(body.clone()) };
            if sender.send(message).await.is_err() {
                return Over::Lost("the connection closed while messages were repeated".to_owned());
            }
        }
        // What was news before the connection is none any more.
        while self.news.try_recv().is_ok() {}
        if self.events.send(LinkEvent::Connected).await.is_err() {
            return Over::Closed;
        }
        loop {
            tokio::select! {
                // In this order: answers are few, and news are worth more the newer they are.
                biased;
                message = incoming.message() => match message {
                    Ok(Some(message)) => if !self.receive(message).await { return Over::Closed },
                    Ok(None) => return Over::Lost("the coordinator closed the session".to_owned()),
                    Err(status) => return Over::of(&status),
                },
                Some(body) = self.news.recv() => {
                    self.leaving |= matches!(body, Body::Goodbye(_));
                    let grants = match &body {
                        Body::Heartbeat(heartbeat) => Some(heartbeat.grants),
                        _ => None,
                    };
                    let message = self.number(body);
                    self.heartbeats.extend(grants.map(|grants| (message.sequence, Instant::now(), grants)));
                    if sender.send(message).await.is_err() {
                        return Over::Lost("the connection closed".to_owned());
                    }
                }
                command = self.commands.recv() => {
                    let Some(command) = command else { return Over::Closed };
                    let message = self.number(command.body.clone());
                    self.unanswered.insert(message.sequence, (command.body, command.reply));
                    if sender.send(message).await.is_err() {
                        return Over::Lost("the connection closed".to_owned());
                    }
                }
            }
        }
    }

    /// Gives a message its sequence number.
    fn number(&mut self, body: Body) -> AgentMessage {
        let sequence = self.next;
        self.next += 1;
        AgentMessage { sequence, body: Some(body) }
    }

    /// Handles one message; false when nobody listens any more.
    async fn receive(&mut self, message: CoordinatorMessage) -> bool {
        match message.body {
            Some(Answer::Acknowledged(done)) => {
                self.answer(done.sequence, Delivery::Acknowledged);
                return self.heard(done.sequence).await;
            }
            Some(Answer::Refused(refused)) => {
                self.answer(refused.sequence, Delivery::Refused(refused.reason))
            }
            Some(body) => return self.events.send(LinkEvent::Message(body)).await.is_ok(),
            None => tracing::warn!("the coordinator sent an empty message; a newer version?"),
        }
        true
    }

    /// Tells of the heartbeat of this number, if it is one; false when nobody listens any more.
    async fn heard(&mut self, sequence: u64) -> bool {
        while let Some((number, sent, grants)) = self.heartbeats.front().copied()
            && number <= sequence
        {
            self.heartbeats.pop_front();
            if number == sequence {
                return self.events.send(LinkEvent::Heard(sent, grants)).await.is_ok();
            }
        }
        true
    }

    fn answer(&mut self, sequence: u64, delivery: Delivery) {
        if let Some((_, reply)) = self.unanswered.remove(&sequence) {
            // Whoever asked may have stopped waiting.
            let _ = reply.send(delivery);
        }
    }
}
