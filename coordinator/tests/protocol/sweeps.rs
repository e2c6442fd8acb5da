//! Sweeps from submission to results, over the wire, with scripted agents.

use plateau_proto::connection::Channel;
use plateau_proto::v1;
use plateau_proto::v1::plateau_service_client::PlateauServiceClient;

use crate::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_study_is_submitted_trained_and_its_results_are_read() {
    let data = tempfile::tempdir().unwrap();
    let running = coordinator(data.path()).await;
    let mut client = client(&running).await;
    let submitted = submit(&mut client, STUDY).await;
    assert_eq!((submitted.trials, submitted.new_trials, submitted.existing), (8, 8, false));

    let mut agent = Agent::connect(&running, "a").await;
    let mut trained = 0;
    while trained < 8 {
        let leases = agent.ask().await;
        // Four seeds per width and a limit of three: cohorts are of one width only.
        assert!(leases.len() <= 3);
        let widths: std::collections::BTreeSet<String> = leases
            .iter()
            .map(|lease| {
                serde_json::from_str::<serde_json::Value>(&lease.config_json).unwrap()["model"]["dim"]
                    .to_string()
            })
            .collect();
        assert_eq!(widths.len(), 1);
        agent.train(&leases).await;
        trained += leases.len();
    }
    let after = counts(&mut client, &submitted.sweep).await;
    assert_eq!((after.completed, after.pending), (8, 0));

    let results = results(&mut client, "tiny").await;
    assert_eq!(results.len(), 8);
    for (index, result) in results.iter().enumerate() {
        let trial = result.trial.as_ref().unwrap();
        assert_eq!((trial.index, trial.state(), trial.step), (index as u64, v1::TrialState::Completed, 10));
        assert_eq!(steps_of(result), (0..=10).collect::<Vec<u64>>());
    }
    drop(agent);
    running.stop().await.unwrap();
    assert!(!data.path().join("coordinator.json").exists());
}

type Client = PlateauServiceClient<Channel>;

/// Trains whatever the agent is given until the sweep has no trial that waits or runs.
pub async fn finish(agent: &mut Agent, client: &mut Client, sweep: &str) -> usize {
    let mut trained = 0;
    loop {
        let now = counts(client, sweep).await;
        if now.pending + now.leased + now.running == 0 {
            return trained;
        }
        let leases = agent.ask().await;
        agent.train(&leases).await;
        trained += leases.len();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_agents_share_a_sweep_and_no_trial_goes_to_both() {
    let data = tempfile::tempdir().unwrap();
    let running = coordinator(data.path()).await;
    let mut client = client(&running).await;
    let mut first = Agent::connect(&running, "a").await;
    let mut second = Agent::connect(&running, "b").await;
    let sweep = submit(&mut client, STUDY).await.sweep;
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..8 {
        let one = first.ask().await;
        let two = second.ask().await;
        for lease in one.iter().chain(&two) {
            assert!(seen.insert(lease.key.clone().unwrap().trial), "granted twice");
        }
        first.train(&one).await;
        second.train(&two).await;
        if seen.len() == 8 {
            break;
        }
    }
    assert_eq!(counts(&mut client, &sweep).await.completed, 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_study_again_runs_nothing_however_it_is_written() {
    let data = tempfile::tempdir().unwrap();
    let running = coordinator(data.path()).await;
    let mut client = client(&running).await;
    let mut agent = Agent::connect(&running, "a").await;
    let sweep = submit(&mut client, STUDY).await.sweep;
    assert_eq!(finish(&mut agent, &mut client, &sweep).await, 8);

    let again = submit(&mut client, &format!("# a comment\n{STUDY}")).await;
    assert_eq!((again.sweep.as_str(), again.existing, again.new_trials), (sweep.as_str(), true, 0));
    // Another study that shares four of the trials: only the others run.
    let wider = submit(&mut client, &STUDY.replace("[8, 16]", "[16, 32]").replace("tiny", "wider")).await;
    assert_eq!((wider.trials, wider.new_trials, wider.existing), (8, 4, false));
    assert_eq!(counts(&mut client, &wider.sweep).await.completed, 4);
    assert_eq!(finish(&mut agent, &mut client, &wider.sweep).await, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn extending_runs_only_the_difference() {
    let data = tempfile::tempdir().unwrap();
    let running = coordinator(data.path()).await;
    let mut client = client(&running).await;
    let mut agent = Agent::connect(&running, "a").await;
    let sweep = submit(&mut client, STUDY).await.sweep;
    finish(&mut agent, &mut client, &sweep).await;

    let seeds = v1::ExtendRequest { sweep: sweep.clone(), seeds: vec![4, 5, 0], steps: 0 };
    let extended = client.extend(seeds).await.unwrap().into_inner();
    assert_eq!((extended.new_trials, extended.continued_trials), (4, 0));
    assert_eq!(finish(&mut agent, &mut client, &sweep).await, 4);

    let steps = v1::ExtendRequest { sweep: sweep.clone(), seeds: Vec::new(), steps: 15 };
    let extended = client.extend(steps).await.unwrap().into_inner();
    assert_eq!((extended.new_trials, extended.continued_trials), (0, 12));
    let leases = agent.ask().await;
    assert!(leases.iter().all(|lease| lease.resume.as_ref().unwrap().step == 10 && budget(lease) == 15));
    agent.train(&leases).await;
    assert_eq!(finish(&mut agent, &mut client, &sweep).await, 12 - leases.len());
    for result in results(&mut client, &sweep).await {
        assert_eq!(steps_of(&result), (0..=15).collect::<Vec<u64>>());
    }
    let shorter = v1::ExtendRequest { sweep: sweep.clone(), seeds: Vec::new(), steps: 5 };
    assert_eq!(client.extend(shorter).await.unwrap_err().code(), tonic::Code::FailedPrecondition);
    // The original study is still the same sweep, and has nothing to run.
    let again = submit(&mut client, STUDY).await;
    assert_eq!((again.sweep, again.new_trials, again.trials), (sweep, 0, 12));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_with_fewer_steps_sees_a_longer_trial_up_to_its_own_budget() {
    let data = tempfile::tempdir().unwrap();
    let running = coordinator(data.path()).await;
    let mut client = client(&running).await;
    let mut agent = Agent::connect(&running, "a").await;
    let long = submit(&mut client, &STUDY.replace("steps = 10", "steps = 20")).await.sweep;
    finish(&mut agent, &mut client, &long).await;
    let short = submit(&mut client, STUDY).await;
    assert_eq!(short.new_trials, 0);
    let result = results(&mut client, &short.sweep).await.remove(0);
    let trial = result.trial.clone().unwrap();
    assert_eq!((trial.step, trial.budget), (10, 10));
    assert!(trial.config_json.contains("\"steps\":10"));
    assert_eq!(steps_of(&result), (0..=10).collect::<Vec<u64>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn pausing_revokes_and_resuming_continues_from_the_checkpoint() {
    let data = tempfile::tempdir().unwrap();
    let running = coordinator(data.path()).await;
    let mut client = client(&running).await;
    let mut agent = Agent::connect(&running, "a").await;
    let sweep = submit(&mut client, STUDY).await.sweep;
    let leases = agent.ask().await;
    agent.started(&leases[0]).await.unwrap();

    let paused = client.pause(v1::PauseRequest { sweep: sweep.clone() }).await.unwrap().into_inner();
    assert_eq!(paused.summary.unwrap().state(), v1::SweepState::Paused);
    let revoked = agent.revoked().await;
    assert_eq!(revoked.len(), leases.len());
    agent.metrics(&leases[0], 0, &[0, 1, 2, 3, 4]).await.unwrap();
    agent.upload(&leases[0], 4, b"half").await.unwrap();
    for lease in &leases {
        agent.released(lease).await.unwrap();
    }
    agent.idle().await;
    let explained = explain(&mut client, &leases[0].key.as_ref().unwrap().trial).await;
    assert!(
        explained.summary.contains("is paused") && explained.summary.contains("from step 4"),
        "{explained:?}"
    );
    let now = counts(&mut client, &sweep).await;
    assert_eq!((now.pending, now.leased, now.running), (8, 0, 0));

    client.resume(v1::ResumeRequest { sweep: sweep.clone() }).await.unwrap();
    let mut first = agent.grant().await;
    agent.train(&first).await;
    while !first.iter().any(|lease| lease.resume.is_some()) {
        first = agent.ask().await;
        agent.train(&first).await;
    }
    let resumed = first.iter().find(|lease| lease.resume.is_some()).unwrap();
    assert_eq!((resumed.resume.as_ref().unwrap().step, resumed.key.as_ref().unwrap().attempt), (4, 2));
    finish(&mut agent, &mut client, &sweep).await;
    for result in results(&mut client, &sweep).await {
        assert_eq!(steps_of(&result), (0..=10).collect::<Vec<u64>>());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_ends_what_waits_at_once_and_what_runs_when_it_is_released() {
    let data = tempfile::tempdir().unwrap();
    let running = coordinator(data.path()).await;
    let mut client = client(&running).await;
    let mut agent = Agent::connect(&running, "a").await;
    let sweep = submit(&mut client, STUDY).await.sweep;
    let leases = agent.ask().await;
    agent.started(&leases[0]).await.unwrap();
    let request = v1::CancelRequest { sweep: "last".to_owned(), reason: "wrong data".to_owned() };
    client.cancel(request).await.unwrap();
    agent.revoked().await;
    // It ended before it was told: the first one recorded wins, and a result is a result.
    agent.completed(&leases[0]).await.unwrap();
    for lease in &leases[1..] {
        agent.released(lease).await.unwrap();
    }
    let now = counts(&mut client, &sweep).await;
    assert_eq!((now.completed, now.cancelled), (1, 7));
    assert!(explain(&mut client, &sweep).await.summary.contains("wrong data"));
    let again = submit(&mut client, STUDY).await;
    assert_eq!((again.existing, again.new_trials), (true, 7));
    assert_eq!(finish(&mut agent, &mut client, &sweep).await, 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn watching_follows_a_sweep_to_its_end() {
    let data = tempfile::tempdir().unwrap();
    let running = coordinator(data.path()).await;
    let mut client = client(&running).await;
    let mut agent = Agent::connect(&running, "a").await;
    let sweep = submit(&mut client, STUDY).await.sweep;
    let mut stream = client.watch(v1::WatchRequest { sweep: sweep.clone() }).await.unwrap().into_inner();
    let first = stream.message().await.unwrap().unwrap();
    assert_eq!(first.summary.unwrap().counts.unwrap().pending, 8);
    assert_eq!(first.agents[0].name, "a");
    finish(&mut agent, &mut client, &sweep).await;
    let mut last = None;
    while let Some(message) = tokio::time::timeout(PATIENCE, stream.message()).await.unwrap().unwrap() {
        last = message.summary;
    }
    let last = last.unwrap();
    assert_eq!((last.state(), last.counts.unwrap().completed), (v1::SweepState::Finished, 8));
    assert_eq!((last.done_steps, last.total_steps), (80, 80));
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_say_what_is_wrong() {
    let data = tempfile::tempdir().unwrap();
    let running = coordinator(data.path()).await;
    let mut client = client(&running).await;
    let bad = v1::SubmitRequest {
        study: source(&STUDY.replace("heads = 2", "heads = 3")),
        traceparent: String::new(),
    };
    let status = client.submit(bad).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    assert!(status.message().contains("tiny.toml"), "{status}");
    let huge = STUDY.replace("seeds = 4", "seeds = 1000000");
    let status = client
        .submit(v1::SubmitRequest { study: source(&huge), traceparent: String::new() })
        .await
        .unwrap_err();
    assert!(status.message().contains("2000000"), "{status}");
    let unknown = v1::DescribeSweepRequest { sweep: "nothing".to_owned() };
    assert_eq!(client.describe_sweep(unknown).await.unwrap_err().code(), tonic::Code::NotFound);
    let state = v1::ListTrialsRequest { sweep: "last".to_owned(), states: vec![77], offset: 0, limit: 0 };
    assert_eq!(client.list_trials(state).await.unwrap_err().code(), tonic::Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn trials_are_listed_in_pages_and_filtered_by_state() {
    let data = tempfile::tempdir().unwrap();
    let running = coordinator(data.path()).await;
    let mut client = client(&running).await;
    let sweep = submit(&mut client, STUDY).await.sweep;
    let mut indices = Vec::new();
    let mut offset = 0;
    loop {
        let request = v1::ListTrialsRequest { sweep: sweep.clone(), states: Vec::new(), offset, limit: 3 };
        let page = client.list_trials(request).await.unwrap().into_inner();
        indices.extend(page.trials.iter().map(|trial| trial.index));
        offset = page.next_offset;
        if offset == 0 {
            break;
        }
    }
    assert_eq!(indices, (0..8).collect::<Vec<u64>>());
    let states = vec![v1::TrialState::Completed as i32];
    let request = v1::ListTrialsRequest { sweep, states, offset: 0, limit: 0 };
    assert!(client.list_trials(request).await.unwrap().into_inner().trials.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn results_that_cannot_be_read_end_in_an_error() {
    let data = tempfile::tempdir().unwrap();
    let running = coordinator(data.path()).await;
    let mut client = client(&running).await;
    let sweep = submit(&mut client, STUDY).await.sweep;
    let last = results(&mut client, &sweep).await.pop().unwrap().trial.unwrap().trial;
    let database = rusqlite::Connection::open(data.path().join("coordinator.sqlite")).unwrap();
    let delete = "DELETE FROM configurations WHERE trial = (SELECT number FROM trial_numbers WHERE id = ?1)";
    assert_eq!(database.execute(delete, [&last]).unwrap(), 1);
    let request = v1::GetResultsRequest { sweep };
    let mut stream = client.get_results(request).await.unwrap().into_inner();
    for _ in 0..7 {
        stream.message().await.unwrap().unwrap();
    }
    let status = stream.message().await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Internal);
    assert!(status.message().contains(&last), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn watching_shows_the_agents_that_are_there() {
    let data = tempfile::tempdir().unwrap();
    let running = coordinator(data.path()).await;
    let mut client = client(&running).await;
    let sweep = submit(&mut client, STUDY).await.sweep;
    let mut gone = Agent::connect(&running, "gone").await;
    gone.goodbye().await;
    let _here = Agent::connect(&running, "here").await;
    let names = |agents: Vec<v1::AgentSummary>| -> Vec<String> {
        agents.into_iter().map(|agent| agent.name).collect()
    };
    let all = client.list_agents(v1::ListAgentsRequest {}).await.unwrap().into_inner().agents;
    assert_eq!(names(all), ["gone", "here"]);
    let mut pictures = client.watch(v1::WatchRequest { sweep }).await.unwrap().into_inner();
    let picture = pictures.message().await.unwrap().unwrap();
    assert_eq!(names(picture.agents), ["here"]);
}
