//! Measurements of the coordinator as users start it: a `plateau coordinator` process on a real disk, and simulated agents
//! that speak the real protocol from this one.
//!
//! Owns the load, the ingest of metrics and the recovery after a kill; what is printed is one JSON object a run. Leaves
//! rounds, medians and peers to `bench/load.py`.

mod agent;
mod coordinator;
mod curves;
mod ingest;
mod load;
mod recovery;

pub use coordinator::{Coordinator, Usage};
pub use ingest::Ingest;
pub use load::Load;
pub use recovery::Recovery;

use anyhow::Context as _;
use plateau_proto::connection::{Channel, Credentials, Route};
use plateau_proto::v1;
use plateau_proto::v1::plateau_service_client::PlateauServiceClient;

/// Largest answer a client takes: pages of trials.
const MAX_ANSWER_BYTES: usize = 64 << 20;

async fn connect(url: &str) -> anyhow::Result<Channel> {
    let route = Route::new(url, &Credentials::default())?;
    route.connect().await.with_context(|| format!("connecting to the coordinator at {url}"))
}

/// Submits a study of `trials` small trials that differ in their seed, evaluated at every one of `steps`; returns the
/// sweep's id.
async fn submit(url: &str, name: &str, trials: u64, steps: u64) -> anyhow::Result<String> {
    let text = format!(
        "name = \"{name}\"\n\
         [task]\nkind = \"modular\"\nmodulus = 97\ntrain-share = 0.5\n\
         [model]\nkind = \"transformer\"\nlayers = 1\nheads = 4\ndim = 128\n\
         [train]\nsteps = {steps}\noptimizer = {{ kind = \"adamw\", lr = 1e-3, weight-decay = 1.0 }}\n\
         [evaluate]\nevery = 1\n\
         [axes]\nseed = {{ range = [0, {trials}] }}\n"
    );
    let study = v1::StudySource {
        file_name: format!("{name}.toml"),
        format: v1::StudyFormat::Toml.into(),
        text,
        overrides: Vec::new(),
    };
    let mut client =
        PlateauServiceClient::new(connect(url).await?).max_decoding_message_size(MAX_ANSWER_BYTES);
    let request = v1::SubmitRequest { study: Some(study), traceparent: String::new() };
    let answer = client.submit(request).await.context("submitting the study")?.into_inner();
    anyhow::ensure!(answer.trials == trials, "{} trials were accepted of {trials}", answer.trials);
    Ok(answer.sweep)
}

/// Trials of a sweep by state, as the coordinator counts them.
async fn counts(url: &str, sweep: &str) -> anyhow::Result<v1::TrialCounts> {
    let mut client = PlateauServiceClient::new(connect(url).await?);
    let request = v1::DescribeSweepRequest { sweep: sweep.to_owned() };
    let answer = client.describe_sweep(request).await.context("asking for the sweep")?.into_inner();
    answer.summary.and_then(|summary| summary.counts).context("the coordinator told no counts")
}
