//! From a study's text to its trials: parsing, expanding and extending, on threads that may block.

use plateau_common::config::TrialConfig;
use plateau_common::identity::{TrialId, cohort_key};
use plateau_common::limits;
use plateau_common::node::Value;
use plateau_common::study::{Study, StudySource};
use plateau_common::{cost, node::Node};
use plateau_proto::v1;
use prost::Message;
use tonic::Status;

use super::forks::{self, Forked};
use super::{Context, Failure, blocking, refused};
use crate::core::{Answer, Input, Shape, Specification, SweepNumber};
use crate::failpoint;
use crate::wire;

/// Configurations stored per transaction.
const CONFIGURATIONS: usize = 4096;
/// Hexadecimal digits of a study's digest that make the id of its sweep.
const ID_DIGITS: usize = 12;

/// Accepts a study.
pub async fn submit(context: &Context, source: StudySource) -> Result<v1::SubmitResponse, Status> {
    let encoded = wire::study_source_to_wire(&source).encode_to_vec();
    let study = blocking(context.execution, move || Study::from_source(&source).map_err(invalid)).await?;
    let id: String = study.digest().chars().take(ID_DIGITS).collect();
    let name = study.name.clone();
    let known = context.engine.query({
        let id = id.clone();
        move |state, _| state.sweep_by_id(&id).is_some()
    });
    // One that is known needs no expansion and no room; if it is deleted meanwhile, the core says so.
    let trials = if known.await? && !study.has_forks() {
        Expanded::default()
    } else {
        context.room.check(&context.database, "a new study", 0)?;
        expand(context, study).await?
    };
    pass(failpoint::SUBMIT_CONFIGURED)?;
    let submit = |trials| Input::Submit { id, name, source: encoded, trials };
    match request(context, trials, submit).await? {
        Answer::Submitted { sweep, existing, trials, new_trials } => {
            pass(failpoint::SUBMIT_ACCEPTED)?;
            tracing::info!(sweep, existing, trials, new_trials, "study submitted");
            Ok(v1::SubmitResponse { sweep, existing, trials, new_trials })
        }
        Answer::Refused(refusal, reason) => Err(refused(refusal, reason)),
        other => Err(Status::internal(format!("unexpected answer {other:?}"))),
    }
}

/// All trials of a study.
#[derive(Default)]
struct Expanded {
    trials: Vec<Specification>,
    /// Those of them that are forks.
    forks: Vec<Forked>,
}

/// Asks the core for what `input` makes of the trials, after their forks have been given what they begin with.
async fn request(
    context: &Context,
    expanded: Expanded,
    input: impl FnOnce(Vec<Specification>) -> Input,
) -> Result<Answer, Status> {
    let Expanded { mut trials, forks } = expanded;
    if forks.is_empty() {
        return Ok(context.engine.request(input(trials)).await?);
    }
    let _alone = context.forking.lock().await;
    let placed = forks::prepare(context, &mut trials, &forks).await?;
    pass(failpoint::FORK_PLACED)?;
    let answer = context.engine.request(input(trials)).await?;
    if let Answer::Refused(..) = answer {
        placed.discard(context).await;
    }
    Ok(answer)
}

/// Comes by a place where tests make submissions fail.
fn pass(place: &'static str) -> Result<(), Status> {
    failpoint::pass(place).map_err(|error| Status::unavailable(error.to_string()))
}

fn invalid(error: plateau_common::study::StudyError) -> Failure {
    Failure::Status(Status::invalid_argument(error.to_string()))
}

/// All trials of a study; their configurations are stored on the way.
async fn expand(context: &Context, study: Study) -> Result<Expanded, Status> {
    let engine = context.engine.clone();
    blocking(context.execution, move || {
        // Refused before anything is stored: every combination is looked at once.
        for trial in study.trials() {
            trial.map_err(invalid)?;
        }
        let mut specifications = Vec::with_capacity(usize::try_from(study.count()).unwrap_or(0));
        let mut forks = Vec::new();
        let mut configurations = Vec::new();
        for trial in study.trials() {
            let config = trial.map_err(invalid)?;
            let specification = specify(&config)?;
            configurations.push((specification.trial, config.to_json().to_string()));
            if let Some(fork) = config.fork {
                forks.push(Forked { place: specifications.len(), fork, config });
            }
            specifications.push(specification);
            if configurations.len() == CONFIGURATIONS {
                let batch = std::mem::take(&mut configurations);
                engine.put_configurations(batch).map_err(|stopped| Failure::Status(stopped.into()))?;
            }
        }
        pass(failpoint::SUBMIT_EXPANDED).map_err(Failure::Status)?;
        engine.put_configurations(configurations).map_err(|stopped| Failure::Status(stopped.into()))?;
        Ok(Expanded { trials: specifications, forks })
    })
    .await
}

fn specify(config: &TrialConfig) -> Result<Specification, Failure> {
    let key = cohort_key(config);
    let cohort = u128::from_str_radix(&key, 16).map_err(|_| {
        Failure::Status(Status::internal(format!("the cohort key `{key}` is not hexadecimal")))
    })?;
    // Only compared with each other; saturates for absurd budgets.
    let cost = (cost::flops_per_update(config) * config.train.steps as f64) as u64;
    Ok(Specification {
        trial: TrialId::of(config),
        budget: config.train.steps,
        cohort,
        cost,
        keep: config.checkpoint.keep,
        keep_every: config.checkpoint.keep_every,
        keep_around: config.checkpoint.keep_around.clone(),
        shape: Shape {
            state_bytes: cost::state_bytes(config),
            workspace_bytes: cost::workspace_bytes(config),
            flops_per_update: cost::flops_per_update(config),
        },
        fork: config.fork,
        root: None,
    })
}

/// Adds seeds or steps to a sweep.
pub async fn extend(
    context: &Context,
    sweep: SweepNumber,
    seeds: Vec<u64>,
    steps: u64,
) -> Result<(u64, u64), Status> {
    if seeds.is_empty() && steps == 0 {
        return Err(Status::invalid_argument("nothing to extend by: give seeds or steps"));
    }
    if seeds.len() as u64 > limits::MAX_AXIS_VALUES || steps > limits::MAX_STEPS {
        let problem = format!("at most {} seeds and {} steps", limits::MAX_AXIS_VALUES, limits::MAX_STEPS);
        return Err(Status::resource_exhausted(problem));
    }
    context.room.check(&context.database, "an extension of a study", 0)?;
    let stored = context.read(move |reader| reader.source(sweep)).await?;
    let stored = stored.ok_or_else(|| Status::not_found("the study of the sweep is not stored"))?;
    let what = describe(&seeds, steps);
    let study = blocking(context.execution, move || {
        let message = v1::StudySource::decode(stored.as_slice())
            .map_err(|error| Failure::Status(Status::internal(format!("the stored study: {error}"))))?;
        let source =
            wire::study_source("study", Some(message)).map_err(|error| Failure::Status(error.into()))?;
        extended(source, &seeds, steps)
    })
    .await?;
    let encoded = wire::study_source_to_wire(study.source()).encode_to_vec();
    let trials = expand(context, study).await?;
    let extend = |trials| Input::Extend { sweep, source: encoded, trials, what };
    match request(context, trials, extend).await? {
        Answer::Extended { new_trials, continued_trials } => Ok((new_trials, continued_trials)),
        Answer::Refused(refusal, reason) => Err(refused(refusal, reason)),
        other => Err(Status::internal(format!("unexpected answer {other:?}"))),
    }
}

fn describe(seeds: &[u64], steps: u64) -> String {
    let mut parts = Vec::new();
    if !seeds.is_empty() {
        parts.push(format!("{} seeds", seeds.len()));
    }
    if steps > 0 {
        parts.push(format!("training to {steps} steps"));
    }
    parts.join(" and ")
}

/// The study with further overrides: a longer seed axis, more steps.
fn extended(mut source: StudySource, seeds: &[u64], steps: u64) -> Result<Study, Failure> {
    let study = Study::from_source(&source).map_err(invalid)?;
    if !seeds.is_empty() {
        let mut all = present_seeds(&study)?;
        for seed in seeds {
            if !all.contains(seed) {
                all.push(*seed);
            }
        }
        let list: Vec<String> = all.iter().map(u64::to_string).collect();
        source.overrides.push(("axes.seed".to_owned(), format!("[{}]", list.join(", "))));
    }
    if steps > 0 {
        let longest =
            study.trials().filter_map(Result::ok).map(|config| config.train.steps).max().unwrap_or(0);
        if steps < longest {
            let problem = format!("the sweep already trains to {longest} steps: {steps} would shorten it");
            return Err(Failure::Status(Status::failed_precondition(problem)));
        }
        source.overrides.push(("train.steps".to_owned(), steps.to_string()));
    }
    Study::from_source(&source).map_err(invalid)
}

fn present_seeds(study: &Study) -> Result<Vec<u64>, Failure> {
    let seed = |node: &Node| match node.value {
        Value::Integer(seed) => u64::try_from(seed).ok(),
        _ => None,
    };
    let mut axes = study.axes().filter(|axis| axis.path == "seed");
    if let Some(axis) = axes.next() {
        return Ok(axis.values.iter().filter_map(seed).collect());
    }
    let first = study.trials().next();
    Ok(first.transpose().map_err(invalid)?.map(|config| config.seed).into_iter().collect())
}
