//! Leases, attempts and sessions: what a late, doubled, broken or restarted agent can and cannot do.

use plateau_proto::v1;
use plateau_proto::v1::agent_message::{Body as Say, Crashed, Hello};
use plateau_proto::v1::agent_service_client::AgentServiceClient;
use plateau_proto::v1::coordinator_message::Body as Hear;

use crate::support::*;

const ONE: &str = r#"
name = "one"
task = { kind = "modular", modulus = 7, train-share = 0.5 }
model = { kind = "transformer", layers = 1, heads = 2, dim = 8 }
train = { steps = 10, optimizer = { kind = "adamw", lr = 1e-3 } }
"#;

#[tokio::test(flavor = "multi_thread")]
async fn case_14_a_new_incarnation_fences_the_old_one_at_once() {
    let data = tempfile::tempdir().unwrap();
    let running = coordinator(data.path()).await;
    let mut client = client(&running).await;
    submit(&mut client, ONE).await;
    let mut old = Agent::connect(&running, "a").await;
    let lease = old.ask().await.remove(0);
    let mut new = Agent::connect_as(&running, "a", "second start", Vec::new()).await;
    // The old session is closed, once what was said before is read, and its lease is granted anew without waiting for its
    // term.
    while let Ok(before) = old.next().await {
        assert!(matches!(before, Hear::Acknowledged(_)), "{before:?}");
    }
    let again = new.ask().await.remove(0);
    assert_eq!(again.key.as_ref().unwrap().trial, lease.key.as_ref().unwrap().trial);
    assert_eq!(again.key.as_ref().unwrap().attempt, 2);
    // The same incarnation speaks under the stale attempt: refused by value, nothing changes.
    let refused = new.completed(&lease).await.unwrap_err();
    assert!(refused.contains("superseded by attempt 2"), "{refused}");
    assert!(new.metrics(&lease, 0, &[0]).await.is_err());
    assert_eq!(new.upload(&lease, 3, b"late").await.unwrap_err().code(), tonic::Code::FailedPrecondition);
    assert_eq!(counts(&mut client, "one").await.leased, 1);
    new.train(&[again]).await;
    assert_eq!(counts(&mut client, "one").await.completed, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_comes_back_keeps_what_it_holds() {
    let data = tempfile::tempdir().unwrap();
    let running = coordinator(data.path()).await;
    let mut client = client(&running).await;
    submit(&mut client, ONE).await;
    let mut agent = Agent::connect(&running, "a").await;
    let lease = agent.ask().await.remove(0);
    agent.started(&lease).await.unwrap();
    drop(agent);
    let held = vec![lease.key.clone().unwrap()];
    let mut agent = Agent::connect_as(&running, "a", "first start", held).await;
    agent.metrics(&lease, 0, &(0..=10).collect::<Vec<u64>>()).await.unwrap();
    agent.completed(&lease).await.unwrap();
    let result = results(&mut client, "one").await.remove(0);
    assert_eq!((result.trial.unwrap().attempt, result.metrics.len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_that_never_arrived_is_granted_again() {
    let data = tempfile::tempdir().unwrap();
    let running = coordinator(data.path()).await;
    let mut client = client(&running).await;
    submit(&mut client, ONE).await;
    let mut agent = Agent::connect(&running, "a").await;
    agent.ask().await;
    drop(agent);
    let mut agent = Agent::connect_as(&running, "a", "first start", Vec::new()).await;
    let lease = agent.ask().await.remove(0);
    assert_eq!(lease.key.unwrap().attempt, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_repeated_are_acknowledged_and_changed_ones_refused() {
    let data = tempfile::tempdir().unwrap();
    let running = coordinator(data.path()).await;
    let mut client = client(&running).await;
    submit(&mut client, ONE).await;
    let mut agent = Agent::connect(&running, "a").await;
    let lease = agent.ask().await.remove(0);
    agent.started(&lease).await.unwrap();
    agent.settle(metrics(&lease, 0, &[0, 1, 2], 1.0)).await.unwrap();
    agent.settle(metrics(&lease, 0, &[0, 1, 2], 1.0)).await.unwrap();
    let other = agent.settle(metrics(&lease, 0, &[0, 1, 2], 2.0)).await.unwrap_err();
    assert!(other.contains("other content"), "{other}");
    agent.completed(&lease).await.unwrap();
    agent.completed(&lease).await.unwrap();
    agent.settle(metrics(&lease, 0, &[0, 1, 2], 1.0)).await.unwrap();
    let kind = v1::ending::Kind::Diverged(v1::ending::Diverged { step: 3 });
    assert!(agent.settle(ended(&lease, 3, kind)).await.unwrap_err().contains("another ending"));
    let result = results(&mut client, "one").await.remove(0);
    assert_eq!(steps_of(&result), [0, 1, 2]);
    assert_eq!(result.trial.unwrap().state(), v1::TrialState::Completed);
}

#[tokio::test(flavor = "multi_thread")]
async fn case_23_another_agents_trial_is_not_ones_own() {
    let data = tempfile::tempdir().unwrap();
    let running = coordinator(data.path()).await;
    let mut client = client(&running).await;
    submit(&mut client, ONE).await;
    let mut owner = Agent::connect(&running, "a").await;
    let lease = owner.ask().await.remove(0);
    let mut thief = Agent::connect(&running, "b").await;
    let refused = thief.completed(&lease).await.unwrap_err();
    assert!(refused.contains("agent a holds"), "{refused}");
    owner.train(&[lease]).await;
    assert_eq!(counts(&mut client, "one").await.completed, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crashed_cohort_is_taken_apart_and_the_guilty_member_quarantined() {
    let data = tempfile::tempdir().unwrap();
    let running = coordinator(data.path()).await;
    let mut client = client(&running).await;
    let sweep = submit(&mut client, STUDY).await.sweep;
    let mut agent = Agent::connect(&running, "a").await;
    let cohort = agent.ask().await;
    assert_eq!(cohort.len(), 3);
    let guilty = cohort[1].key.clone().unwrap().trial;
    let crash = |leases: &[v1::Lease]| {
        let leases = leases.iter().filter_map(|lease| lease.key.clone()).collect();
        Say::Crashed(Crashed {
            leases,
            reason: "signal 11".to_owned(),
            class: v1::FailureClass::Exited.into(),
        })
    };
    agent.settle(crash(&cohort)).await.unwrap();
    let mut crashes = 1;
    let mut alone = 0;
    loop {
        let now = counts(&mut client, &sweep).await;
        if now.pending == 0 {
            break;
        }
        let leases = agent.ask().await;
        let suspect = leases[0].key.as_ref().unwrap().attempt > 1;
        if suspect {
            assert_eq!(leases.len(), 1, "a suspect is trained alone");
            alone += 1;
        }
        if leases[0].key.as_ref().unwrap().trial == guilty {
            crashes += 1;
            agent.settle(crash(&leases)).await.unwrap();
        } else {
            agent.train(&leases).await;
        }
    }
    assert_eq!((crashes, alone), (3, 4));
    let now = counts(&mut client, &sweep).await;
    assert_eq!((now.completed, now.quarantined), (7, 1));
    let explained = explain(&mut client, &guilty[..10]).await;
    assert!(explained.summary.contains("signal 11"), "{}", explained.summary);
    assert!(explained.history.iter().any(|event| event.event.contains("quarantined")));
    let described =
        client.describe_sweep(v1::DescribeSweepRequest { sweep: sweep.clone() }).await.unwrap().into_inner();
    assert_eq!(described.last_failure.unwrap().trial, guilty);
    // Submitting again tries it once more.
    assert_eq!(submit(&mut client, STUDY).await.new_trials, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn case_66_divergence_is_a_result_and_is_not_repeated() {
    let data = tempfile::tempdir().unwrap();
    let running = coordinator(data.path()).await;
    let mut client = client(&running).await;
    submit(&mut client, ONE).await;
    let mut agent = Agent::connect(&running, "a").await;
    let lease = agent.ask().await.remove(0);
    agent.started(&lease).await.unwrap();
    let kind = v1::ending::Kind::Diverged(v1::ending::Diverged { step: 6 });
    agent.settle(ended(&lease, 6, kind)).await.unwrap();
    assert_eq!(submit(&mut client, ONE).await.new_trials, 0);
    let trial = results(&mut client, "one").await.remove(0).trial.unwrap();
    assert_eq!((trial.state(), trial.diverged_at, trial.step), (v1::TrialState::Diverged, 6, 6));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_breaks_the_protocol_is_refused_with_its_reason() {
    let data = tempfile::tempdir().unwrap();
    let running = coordinator(data.path()).await;
    let mut service = AgentServiceClient::new(channel(&running).await);
    let hello = Hello { protocol: 99, version: "9.9".to_owned(), ..Hello::default() };
    let first = v1::AgentMessage { sequence: 1, body: Some(Say::Hello(hello)) };
    let status = service.session(tokio_stream::iter([first])).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::FailedPrecondition);
    assert!(
        status.message().contains("version 99 of the protocol")
            && status.message().contains("version 1 of the protocol"),
        "{status}"
    );
    let silent = v1::AgentMessage { sequence: 1, body: None };
    let status = service.session(tokio_stream::iter([silent])).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::InvalidArgument);

    let mut agent = Agent::connect(&running, "a").await;
    agent.say(Say::Started(Default::default())).await;
    let status = loop {
        match agent.next().await {
            Ok(Hear::Grant(_)) | Ok(_) => {}
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    // Others are not disturbed.
    assert!(Agent::connect(&running, "b").await.next_is_quiet());
}
