//! Forks over the wire: what a fork is given, what is refused, and that parent and fork go their own ways.

use plateau_common::identity::TrialId;
use plateau_common::study::{Format, Study};
use plateau_coordinator::verify;
use plateau_proto::v1;

use super::support::*;

/// One trial of 10 steps that keeps every checkpoint.
const PARENT: &str = r#"
name = "parent"
task = { kind = "modular", modulus = 7, train-share = 0.5 }
model = { kind = "transformer", layers = 1, heads = 2, dim = 8 }
train = { steps = 10, batch = 4, optimizer = { kind = "adamw", lr = 1e-3 } }
evaluate = { every = 1 }
checkpoint = { every = 1, keep = 100 }
"#;

fn parent() -> TrialId {
    let study = Study::parse(PARENT, "parent.toml", Format::Toml, &[]).unwrap();
    TrialId::of(&study.trials().next().unwrap().unwrap())
}

/// The parent's study with a fork at `step`, and more.
fn forked(step: u64, more: &str) -> String {
    let text = PARENT.replace("\"parent\"", "\"forked\"");
    format!("{text}\nfork = {{ trial = \"{}\", step = {step} }}\n{more}\n", parent())
}

/// Trains the parent in two attempts, with a checkpoint at each of some steps.
async fn train_parent(agent: &mut Agent) {
    let lease = agent.ask().await.remove(0);
    agent.started(&lease).await.unwrap();
    agent.metrics(&lease, 0, &[0, 1, 2, 3]).await.unwrap();
    agent.upload(&lease, 2, b"weights 2").await.unwrap();
    agent.upload(&lease, 3, b"weights 3").await.unwrap();
    agent.metrics(&lease, 1, &[4, 5]).await.unwrap();
    agent.released(&lease).await.unwrap();
    let lease = agent.ask().await.remove(0);
    assert_eq!(lease.resume.as_ref().unwrap().step, 3);
    agent.started(&lease).await.unwrap();
    agent.settle(metrics(&lease, 0, &[4, 5, 6, 7, 8, 9, 10], 2.0)).await.unwrap();
    agent.upload(&lease, 6, b"weights 6").await.unwrap();
    agent.upload(&lease, 10, b"weights 10").await.unwrap();
    agent.completed(&lease).await.unwrap();
}

/// Steps and values of a trial's curve.
fn curve(result: &v1::TrialResult) -> Vec<(u64, f64)> {
    let chunks = result.metrics.iter();
    chunks.flat_map(|chunk| chunk.steps.iter().copied().zip(chunk.columns[0].values.clone())).collect()
}

async fn refusal(running: &plateau_coordinator::Running, text: &str) -> tonic::Status {
    let request = v1::SubmitRequest { study: source(text), traceparent: String::new() };
    client(running).await.submit(request).await.unwrap_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_has_its_parents_curve_and_state_and_outlives_it() {
    let data = tempfile::tempdir().unwrap();
    let running = coordinator(data.path()).await;
    let mut client = client(&running).await;
    let first = submit(&mut client, PARENT).await.sweep;
    let mut agent = Agent::connect(&running, "a").await;
    train_parent(&mut agent).await;
    let parents = curve(&results(&mut client, &first).await[0]);
    // Two forks with other orders of the data, measured more rarely than their parent.
    let text = forked(6, "axes = { \"train.data-order\" = [1, 2] }").replace("every = 1 }", "every = 2 }");
    let second = submit(&mut client, &text).await;
    assert_eq!((second.existing, second.trials, second.new_trials), (false, 2, 2));
    let again = submit(&mut client, &text).await;
    assert_eq!((again.existing, again.new_trials), (true, 0));
    for result in results(&mut client, &second.sweep).await {
        assert_eq!(curve(&result), parents[..7], "the parent's line, of both attempts, to the fork");
    }
    let described = v1::DescribeTrialRequest { trial: parent().short() };
    let described = client.describe_trial(described).await.unwrap().into_inner();
    assert_eq!((described.forks.len(), &described.sweeps), (2, &vec![first.clone()]));
    assert_eq!(described.checkpoints.iter().map(|known| known.step).collect::<Vec<_>>(), [2, 3, 6, 10]);
    assert!(described.trial.unwrap().config_json.contains("\"modulus\":7"));
    // The parent goes; its forks have what they need.
    let delete = v1::DeleteSweepRequest { sweep: first, dry_run: false };
    client.delete_sweep(delete).await.unwrap();
    let leases = agent.ask().await;
    assert_eq!(leases.len(), 2, "forks of one step are trained together");
    for lease in &leases {
        let resume = lease.resume.clone().unwrap();
        let trial = lease.key.as_ref().unwrap().trial.clone();
        assert_eq!((resume.step, &resume.trial), (6, &trial));
        let (manifest, bytes) = agent.download(lease, resume).await.unwrap();
        assert_eq!(bytes, b"weights 6moments");
        let manifest = plateau_common::checkpoint::Manifest::parse(&manifest).unwrap();
        let own: serde_json::Value = serde_json::from_str(&lease.config_json).unwrap();
        assert_eq!((manifest.trial, manifest.step, manifest.config), (trial, 6, own));
        agent.started(lease).await.unwrap();
        agent.metrics(lease, 0, &[8, 10]).await.unwrap();
        agent.upload(lease, 10, b"other weights").await.unwrap();
        agent.completed(lease).await.unwrap();
    }
    for result in results(&mut client, &second.sweep).await {
        assert_eq!(steps_of(&result), [0, 1, 2, 3, 4, 5, 6, 8, 10]);
    }
    agent.goodbye().await;
    running.stop().await.unwrap();
    let found = verify::check(data.path(), None).await.unwrap();
    assert!(found.is_clean() && found.leftovers.is_empty(), "{found:?}");
    assert_eq!(found.checkpoints, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_of_a_fork_has_the_whole_curve() {
    let data = tempfile::tempdir().unwrap();
    let running = coordinator(data.path()).await;
    let mut client = client(&running).await;
    submit(&mut client, PARENT).await;
    let mut agent = Agent::connect(&running, "a").await;
    train_parent(&mut agent).await;
    let first = submit(&mut client, &forked(3, "")).await;
    let lease = agent.ask().await.remove(0);
    agent.started(&lease).await.unwrap();
    agent.settle(metrics(&lease, 0, &[4, 5, 6, 7], 3.0)).await.unwrap();
    agent.upload(&lease, 7, b"weights 7").await.unwrap();
    let child = lease.key.as_ref().unwrap().trial.clone();
    // In training or not: what is stored can be forked.
    let text = forked(7, "").replace(&parent().to_string(), &child);
    let second = submit(&mut client, &text).await;
    assert_ne!(first.sweep, second.sweep);
    let line = curve(&results(&mut client, &second.sweep).await[0]);
    let values: Vec<f64> = line.iter().map(|(step, value)| value * (*step + 1) as f64).collect();
    assert_eq!(
        values.iter().map(|value| value.round()).collect::<Vec<_>>(),
        [1., 1., 1., 1., 3., 3., 3., 3.]
    );
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn forks_that_cannot_be_made_say_why_and_leave_nothing() {
    let data = tempfile::tempdir().unwrap();
    let running = coordinator(data.path()).await;
    let mut client = client(&running).await;
    let early = refusal(&running, &forked(6, "")).await;
    assert!(early.message().contains("which is to be forked, is not here"), "{early:?}");
    submit(&mut client, PARENT).await;
    let mut agent = Agent::connect(&running, "a").await;
    train_parent(&mut agent).await;
    let step = refusal(&running, &forked(5, "")).await;
    assert_eq!(step.code(), tonic::Code::FailedPrecondition);
    assert!(step.message().contains("those kept are of the steps 2, 3, 6, 10"), "{step:?}");
    let shape = refusal(&running, &forked(6, "").replace("dim = 8", "dim = 16")).await;
    assert_eq!(shape.code(), tonic::Code::InvalidArgument);
    assert!(shape.message().contains("`model.dim`") && shape.message().contains("has 8"), "{shape:?}");
    // A checkpoint that is damaged is set aside, as when a trial is to continue from it.
    let place = format!("checkpoints/trials/{}/attempts/2/step-6/weights.safetensors", parent());
    std::fs::write(data.path().join(place), b"weights !").unwrap();
    let damaged = refusal(&running, &forked(6, "")).await;
    assert_eq!(damaged.code(), tonic::Code::DataLoss, "{damaged:?}");
    let gone = refusal(&running, &forked(6, "")).await;
    assert!(gone.message().contains("those kept are of the steps 2, 3, 10"), "{gone:?}");
    let sweeps = client.list_sweeps(v1::ListSweepsRequest {}).await.unwrap().into_inner().sweeps;
    assert_eq!(sweeps.len(), 1);
    agent.goodbye().await;
    running.stop().await.unwrap();
    let found = verify::check(data.path(), None).await.unwrap();
    assert!(found.is_clean(), "{:?}", found.findings);
    assert!(found.leftovers.iter().all(|left| left.place.starts_with("damaged")), "{:?}", found.leftovers);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_longer_fork_sweep_goes_on_and_other_seeds_are_refused() {
    let data = tempfile::tempdir().unwrap();
    let running = coordinator(data.path()).await;
    let mut client = client(&running).await;
    submit(&mut client, PARENT).await;
    let mut agent = Agent::connect(&running, "a").await;
    train_parent(&mut agent).await;
    let sweep = submit(&mut client, &forked(6, "")).await.sweep;
    let extend = |seeds: Vec<u64>, steps| v1::ExtendRequest { sweep: sweep.clone(), seeds, steps };
    let longer = client.extend(extend(vec![], 20)).await.unwrap().into_inner();
    assert_eq!((longer.new_trials, longer.continued_trials), (0, 0));
    assert_eq!(budget(&agent.ask().await[0]), 20);
    let seeds = client.extend(extend(vec![5], 0)).await.unwrap_err();
    assert!(seeds.message().contains("`seed`: initialisation and data follow from the seed"), "{seeds:?}");
    running.stop().await.unwrap();
}
