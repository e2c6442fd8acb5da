//! A coordinator, a process of its own, dies or fails to write at each named place in turn while a client and an agent
//! talk to it; started anew, it is asked everything again. What was acknowledged is there once, nothing is half there, and
//! `verify` finds nothing.
//!
//! The places are those of `failpoint.rs`, each at its first passing, its second and so on, until an exchange comes to its
//! end without reaching the next. Builds without debug assertions have no such places; then these tests say so and pass.

// Helper functions of tests are no `#[test]` themselves, so clippy's exception for tests does not reach them.
#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

#[path = "protocol/support.rs"]
#[allow(dead_code, reason = "shared with the protocol's tests, which use all of it")]
mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use plateau_common::identity::TrialId;
use plateau_common::study::{Format, Study};
use plateau_coordinator::failpoint::PLACES;
use plateau_coordinator::{start, verify};
use plateau_proto::connection::{Channel, Credentials, Route};
use plateau_proto::v1;
use plateau_proto::v1::agent_message::{Body as Say, Heartbeat, Hello, Started};
use plateau_proto::v1::agent_service_client::AgentServiceClient;
use plateau_proto::v1::coordinator_message::Body as Hear;
use plateau_proto::v1::plateau_service_client::PlateauServiceClient;
use support::{PATIENCE, completed, metrics, options, steps_of};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

/// Where the coordinator in a process of its own keeps its data.
const DATA: &str = "PLATEAU_TEST_DATA";

/// Things an agent says about a trial from its grant to its end.
const SAYINGS: usize = 5;

/// Two trials.
const STUDY: &str = r#"
name = "two"
seeds = 2
task = { kind = "modular", modulus = 7, train-share = 0.5 }
model = { kind = "transformer", layers = 1, heads = 2, dim = 8 }
train = { steps = 4, optimizer = { kind = "adamw", lr = 1e-3 } }
"#;

/// The process under test: this very program, which runs this one "test".
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a coordinator that the other tests start as a process of its own"]
async fn coordinator_process() {
    let Some(data) = std::env::var_os(DATA) else { return };
    let mut running = start(options(Path::new(&data))).await.unwrap();
    running.wait().await.unwrap();
}

/// A coordinator in a process of its own, killed when dropped.
struct Coordinator {
    child: Child,
    url: String,
}

impl Coordinator {
    /// Starts one, if it comes as far as listening.
    async fn start(data: &Path, failpoint: Option<&str>) -> Option<Coordinator> {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "coordinator_process", "--ignored", "--nocapture"]).env(DATA, data);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if let Some(failpoint) = failpoint {
            command.env("PLATEAU_FAILPOINT", failpoint);
        }
        let mut child = command.spawn().unwrap();
        let until = Instant::now() + PATIENCE;
        loop {
            let written = std::fs::read(data.join("coordinator.json")).unwrap_or_default();
            let address = serde_json::from_slice::<serde_json::Value>(&written).unwrap_or_default();
            if address["pid"] == child.id() {
                let url = format!("http://{}", address["address"].as_str().unwrap());
                return Some(Coordinator { child, url });
            }
            if child.try_wait().unwrap().is_some() {
                return None;
            }
            assert!(Instant::now() < until, "the coordinator does not start");
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    }

    async fn channel(&self) -> Result<Channel, Status> {
        let route = Route::new(&self.url, &Credentials::default()).unwrap();
        route.connect().await.map_err(|error| Status::unavailable(error.to_string()))
    }

    /// Whether it has ended by itself; waits for it where the other end of a connection has gone.
    fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some_and(|status| !status.success())
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What was acknowledged, and what is repeated until it is.
#[derive(Default)]
struct Exchange {
    sweep: Option<String>,
    /// Leases granted to the agent, by trial, with the number of things said about each that were acknowledged.
    held: BTreeMap<String, (v1::Lease, usize)>,
    completed: Vec<String>,
}

/// The agent's session.
struct Session {
    outgoing: mpsc::Sender<v1::AgentMessage>,
    incoming: Streaming<v1::CoordinatorMessage>,
    service: AgentServiceClient<Channel>,
    sequence: u64,
}

impl Session {
    async fn open(coordinator: &Coordinator, held: Vec<v1::LeaseKey>) -> Result<Session, Status> {
        let mut service = AgentServiceClient::new(coordinator.channel().await?);
        let (outgoing, receiver) = mpsc::channel(64);
        let hello = Hello {
            protocol: plateau_proto::PROTOCOL,
            name: "a".to_owned(),
            incarnation: "first start".to_owned(),
            device: "cpu".to_owned(),
            max_cohort: 2,
            threads: 1,
            held,
            ..Hello::default()
        };
        let first = v1::AgentMessage { sequence: 0, body: Some(Say::Hello(hello)) };
        outgoing.send(first).await.map_err(|_| gone())?;
        let incoming = service.session(ReceiverStream::new(receiver)).await?.into_inner();
        let mut session = Session { outgoing, incoming, service, sequence: 0 };
        match session.hear().await? {
            Hear::Welcome(_) => Ok(session),
            other => panic!("{other:?} instead of a welcome"),
        }
    }

    async fn hear(&mut self) -> Result<Hear, Status> {
        let message =
            tokio::time::timeout(PATIENCE, self.incoming.message()).await.expect("nothing was heard");
        message?.and_then(|message| message.body).ok_or_else(gone)
    }

    async fn say(&mut self, body: Say) -> Result<u64, Status> {
        self.sequence += 1;
        let message = v1::AgentMessage { sequence: self.sequence, body: Some(body) };
        self.outgoing.send(message).await.map_err(|_| gone())?;
        Ok(self.sequence)
    }

    /// Says something and waits until it is acknowledged; a refusal is none of the endings a test expects.
    async fn settle(&mut self, body: Say) -> Result<(), Status> {
        let sequence = self.say(body).await?;
        loop {
            match self.hear().await? {
                Hear::Acknowledged(done) if done.sequence == sequence => return Ok(()),
                Hear::Refused(refused) if refused.sequence == sequence => {
                    panic!("refused: {}", refused.reason)
                }
                _ => {}
            }
        }
    }

    /// Asks for trials until some are granted.
    async fn ask(&mut self) -> Result<Vec<v1::Lease>, Status> {
        let heartbeat = Heartbeat { idle: true, ..Heartbeat::default() };
        self.say(Say::Heartbeat(heartbeat)).await?;
        loop {
            if let Hear::Grant(grant) = self.hear().await? {
                return Ok(grant.leases);
            }
        }
    }

    /// Says what there is to say about a trial, from the first thing that was not acknowledged.
    async fn train(&mut self, lease: &v1::Lease, acknowledged: &mut usize) -> Result<(), Status> {
        while *acknowledged < SAYINGS {
            match *acknowledged {
                0 => self.settle(Say::Started(Started { lease: lease.key.clone(), from_step: 0 })).await?,
                1 => self.settle(metrics(lease, 0, &[0, 1, 2], 1.0)).await?,
                2 => self.settle(metrics(lease, 1, &[3, 4], 1.0)).await?,
                3 => self.upload(lease, 4, b"weights").await?,
                _ => self.settle(completed(lease)).await?,
            }
            *acknowledged += 1;
        }
        Ok(())
    }

    async fn upload(&mut self, lease: &v1::Lease, step: u64, weights: &[u8]) -> Result<(), Status> {
        let parts = support::upload_messages(lease, step, weights, &support::manifest(lease, step, weights));
        self.service.upload_checkpoint(tokio_stream::iter(parts)).await.map(|_| ())
    }
}

fn gone() -> Status {
    Status::unavailable("the coordinator has gone")
}

impl Exchange {
    /// Goes on from what was acknowledged until everything is.
    async fn run(&mut self, coordinator: &Coordinator) -> Result<(), Status> {
        let mut client = PlateauServiceClient::new(coordinator.channel().await?);
        let request = v1::SubmitRequest { study: support::source(STUDY), traceparent: String::new() };
        let submitted = client.submit(request).await?.into_inner();
        assert_eq!(submitted.trials, 2);
        if let Some(known) = &self.sweep {
            assert_eq!((&submitted.sweep, submitted.existing, submitted.new_trials), (known, true, 0));
        }
        self.sweep = Some(submitted.sweep);
        let held = self.held.values().filter_map(|(lease, _)| lease.key.clone()).collect();
        let mut session = Session::open(coordinator, held).await?;
        loop {
            for (lease, acknowledged) in self.held.values_mut() {
                session.train(lease, acknowledged).await?;
            }
            self.completed.extend(std::mem::take(&mut self.held).into_keys());
            if self.completed.len() == 2 {
                return Ok(());
            }
            for lease in session.ask().await? {
                let trial = lease.key.as_ref().unwrap().trial.clone();
                assert!(!self.completed.contains(&trial), "{trial} is acknowledged and granted again");
                self.held.insert(trial, (lease, 0));
            }
        }
    }

    /// What a coordinator on this directory shows.
    async fn check(&self, coordinator: &Coordinator) {
        let mut client = PlateauServiceClient::new(coordinator.channel().await.unwrap());
        let sweeps = client.list_sweeps(v1::ListSweepsRequest {}).await.unwrap().into_inner().sweeps;
        assert_eq!(sweeps.len(), 1);
        assert_eq!(Some(&sweeps[0].sweep), self.sweep.as_ref());
        let results = support::results(&mut client, &sweeps[0].sweep).await;
        assert_eq!(results.len(), 2);
        for result in results {
            assert_eq!(steps_of(&result), [0, 1, 2, 3, 4]);
            let trial = result.trial.unwrap();
            assert_eq!(trial.state(), v1::TrialState::Completed);
            // Again only where the first grant was durable and not heard of.
            assert!(trial.attempt <= 2, "attempt {}", trial.attempt);
            let request = v1::ListCheckpointsRequest { trial: trial.trial };
            let checkpoints = client.list_checkpoints(request).await.unwrap().into_inner().checkpoints;
            assert_eq!(checkpoints.iter().map(|checkpoint| checkpoint.step).collect::<Vec<_>>(), [4]);
        }
    }
}

/// One exchange with one fault; whether it was met.
async fn with_fault(fault: &str) -> bool {
    let data = tempfile::tempdir().unwrap();
    let mut exchange = Exchange::default();
    let first = Coordinator::start(data.path(), Some(fault)).await;
    if let Some(mut first) = first {
        if exchange.run(&first).await.is_ok() && !first.has_ended() {
            return false;
        }
        // The connection may end a moment before the process does.
        let until = Instant::now() + PATIENCE;
        while !first.has_ended() {
            assert!(Instant::now() < until, "{fault}: the connection ended, the coordinator did not");
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    }
    let second = Coordinator::start(data.path(), None).await.expect("it does not start again");
    exchange.run(&second).await.unwrap();
    exchange.check(&second).await;
    drop(second);
    let found = verify::check(data.path(), None).await.unwrap();
    assert!(found.is_clean(), "{fault}: {:?}", found.findings);
    assert!(found.leftovers.is_empty(), "{fault}: {:?}", found.leftovers);
    true
}

/// One exchange, and a fork of one of its trials, with one fault; whether it was met.
async fn fork_with_fault(fault: &str) -> bool {
    let data = tempfile::tempdir().unwrap();
    let mut exchange = Exchange::default();
    let mut first = Coordinator::start(data.path(), Some(fault)).await.expect("it starts");
    exchange.run(&first).await.unwrap();
    if fork(&first).await.is_ok() {
        return false;
    }
    let until = Instant::now() + PATIENCE;
    while !first.has_ended() {
        assert!(Instant::now() < until, "{fault}: the connection ended, the coordinator did not");
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    let second = Coordinator::start(data.path(), None).await.expect("it does not start again");
    fork(&second).await.unwrap();
    drop(second);
    let found = verify::check(data.path(), None).await.unwrap();
    assert!(found.is_clean(), "{fault}: {:?}", found.findings);
    assert!(found.leftovers.is_empty(), "{fault}: {:?}", found.leftovers);
    true
}

/// Forks the first trial at its end, to train on, and looks at what the fork begins with.
async fn fork(coordinator: &Coordinator) -> Result<(), Status> {
    let study = Study::parse(STUDY, "two.toml", Format::Toml, &[]).unwrap();
    let parent = TrialId::of(&study.trials().next().unwrap().unwrap());
    let text = STUDY.replace("\"two\"", "\"forked\"").replace("seeds = 2", "seed = 0");
    let text =
        format!("{text}\nfork = {{ trial = \"{parent}\", step = 4 }}").replace("steps = 4", "steps = 8");
    let mut client = PlateauServiceClient::new(coordinator.channel().await?);
    let request = v1::SubmitRequest { study: support::source(&text), traceparent: String::new() };
    let sweep = client.submit(request).await?.into_inner().sweep;
    let results = support::results(&mut client, &sweep).await;
    assert_eq!(results.iter().map(steps_of).collect::<Vec<_>>(), [[0, 1, 2, 3, 4]]);
    let trial = results[0].trial.clone().unwrap().trial;
    let described = client.describe_trial(v1::DescribeTrialRequest { trial }).await?.into_inner();
    assert_eq!(described.checkpoints.iter().map(|known| known.step).collect::<Vec<_>>(), [4]);
    Ok(())
}

/// All occasions of a place with an action; how many there were.
async fn every_occasion(place: &str, action: &str) -> u32 {
    let mut occasion = 1;
    if place.starts_with("fork/") {
        while fork_with_fault(&format!("{place}:{occasion}:{action}")).await {
            occasion += 1;
        }
        return occasion - 1;
    }
    while with_fault(&format!("{place}:{occasion}:{action}")).await {
        occasion += 1;
    }
    occasion - 1
}

/// Goes through all occasions of these places, each of which must be met at least once.
async fn go_through(places: impl Iterator<Item = &'static str>, action: &str) {
    if !cfg!(debug_assertions) {
        println!("this build has no failpoints: nothing was tested");
        return;
    }
    for place in places {
        let occasions = every_occasion(place, action).await;
        println!("{place}, {action}: {occasions} occasions");
        assert!(occasions > 0, "{place} was never passed");
    }
}

fn places(prefix: &str) -> impl Iterator<Item = &'static str> {
    PLACES.into_iter().filter(move |place| place.starts_with(prefix))
}

#[tokio::test(flavor = "multi_thread")]
async fn case_01_killed_at_each_step_of_a_submission_a_study_is_there_once_or_not_at_all() {
    go_through(places("submit/"), "kill").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_each_step_of_a_fork_it_is_there_whole_or_not_at_all() {
    go_through(places("fork/"), "kill").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn case_02_03_05_killed_around_each_commit_what_was_acknowledged_is_there_once() {
    go_through(places("commit/"), "kill").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn case_42_44_killed_at_each_step_of_a_checkpoint_it_is_whole_or_invisible() {
    go_through(places("upload/"), "kill").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn case_37_a_commit_that_cannot_be_synchronised_ends_the_process_and_was_not_acknowledged() {
    // Before it reached the disk, and after: a failed synchronisation says neither.
    let commits = ["commit/synchronise", "commit/durable"];
    go_through(PLACES.into_iter().filter(|place| commits.contains(place)), "fail").await;
}
