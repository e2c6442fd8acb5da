//! What a person may do to agents and to trials that ended badly: drain, undrain, requeue.

use plateau_proto::v1;
use plateau_proto::v1::agent_message::{Body as Say, Crashed};
use tonic::Code;

use crate::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_outlives_the_coordinator_and_ends_with_an_undrain() {
    let data = tempfile::tempdir().unwrap();
    let running = coordinator(data.path()).await;
    let mut people = client(&running).await;
    let drain = |agent: &str| v1::DrainRequest { agent: agent.to_owned(), reason: "new card".to_owned() };
    assert_eq!(people.drain(drain("a")).await.unwrap_err().code(), Code::NotFound);
    let agent = Agent::connect(&running, "a").await;
    let drained = people.drain(drain("a")).await.unwrap().into_inner().agent.unwrap();
    assert_eq!((drained.name.as_str(), drained.drained.as_str()), ("a", "new card"));
    drop(agent);
    running.stop().await.unwrap();

    let running = coordinator(data.path()).await;
    let mut people = client(&running).await;
    let sweep = submit(&mut people, STUDY).await.sweep;
    let mut agent = Agent::connect(&running, "a").await;
    agent.idle().await;
    let listed = people.list_agents(v1::ListAgentsRequest {}).await.unwrap().into_inner().agents;
    assert_eq!(listed[0].drained, "new card");
    assert_eq!(counts(&mut people, &sweep).await.pending, 8);
    let explained = explain(&mut people, "a").await;
    assert!(explained.summary.starts_with("Drained (new card)"), "{}", explained.summary);
    let request = v1::UndrainRequest { agent: "a".to_owned() };
    let undrained = people.undrain(request).await.unwrap().into_inner().agent.unwrap();
    assert_eq!(undrained.drained, "");
    assert!(!agent.grant().await.is_empty(), "it had said that it is idle");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_requeue_names_a_trial_or_a_sweep() {
    let data = tempfile::tempdir().unwrap();
    let running = coordinator(data.path()).await;
    let mut people = client(&running).await;
    let sweep = submit(&mut people, STUDY).await.sweep;
    let mut agent = Agent::connect(&running, "a").await;
    let cohort = agent.ask().await;
    agent.started(&cohort[0]).await.unwrap();
    let kind = v1::ending::Kind::Diverged(v1::ending::Diverged { step: 3 });
    agent.settle(ended(&cohort[0], 3, kind)).await.unwrap();
    let kind = v1::ending::Kind::Failed(v1::ending::Failed { reason: "no".to_owned() });
    agent.settle(ended(&cohort[1], 0, kind)).await.unwrap();
    let keys: Vec<v1::LeaseKey> = cohort.iter().map(|lease| lease.key.clone().unwrap()).collect();
    agent
        .settle(Say::Crashed(Crashed {
            leases: keys[2..].to_vec(),
            reason: "x".to_owned(),
            class: v1::FailureClass::Exited.into(),
        }))
        .await
        .unwrap();

    let requeue = |subject: &str, diverged| v1::RequeueRequest { subject: subject.to_owned(), diverged };
    let answer = people.requeue(requeue(&sweep, false)).await.unwrap().into_inner();
    assert_eq!(answer.requeued, 1, "the failed one");
    let answer = people.requeue(requeue(&keys[0].trial[..12], false)).await.unwrap().into_inner();
    assert_eq!(answer.requeued, 1, "one that is named may have diverged");
    assert_eq!(counts(&mut people, &sweep).await.pending, 8);
    let again = people.requeue(requeue(&keys[0].trial, false)).await.unwrap_err();
    assert_eq!(again.code(), Code::FailedPrecondition);
    assert!(again.message().contains("is pending"), "{again}");
    assert_eq!(people.requeue(requeue("nothing", false)).await.unwrap_err().code(), Code::NotFound);
}
