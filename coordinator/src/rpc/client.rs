//! The service for people and scripts.

use std::collections::BTreeSet;
use std::pin::Pin;

use futures::Stream;
use plateau_common::limits;
use plateau_common::trace::TraceContext;
use plateau_proto::convert::{self, WireError};
use plateau_proto::v1;
use plateau_proto::v1::plateau_service_server::PlateauService;
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{Context, done, refused, results, select, submit, transfer, watch};
use crate::core::{
    Answer, Explanation, Input, Subject, SweepNumber, explain_agent, explain_sweep, explain_trial,
    find_sweep, find_trial,
};
use crate::wire;

/// Trials of one page where the client does not say, and at most.
const PAGE: usize = 500;
/// Results on their way to a client at once.
const RESULTS_IN_FLIGHT: usize = 8;
/// Pictures of a watched sweep on their way to a client at once.
const PICTURES_IN_FLIGHT: usize = 4;

/// The service for people and scripts.
pub struct Clients {
    context: Context,
}

impl Clients {
    /// The service.
    pub fn new(context: Context) -> Self {
        Clients { context }
    }

    async fn find(&self, selector: String) -> Result<SweepNumber, Status> {
        select::with_sweep(&self.context, selector, |_, _, number, _| number).await
    }

    async fn summary(&self, number: SweepNumber) -> Result<v1::SweepSummary, Status> {
        let found =
            self.context.engine.query(move |state, _| state.sweeps.get(&number).map(select::summary)).await?;
        found.ok_or_else(|| Status::not_found("the sweep does not exist"))
    }

    async fn change(&self, number: SweepNumber, input: Input) -> Result<Option<v1::SweepSummary>, Status> {
        done(self.context.engine.request(input).await?)?;
        Ok(Some(self.summary(number).await?))
    }

    async fn change_agent(&self, name: String, input: Input) -> Result<Option<v1::AgentSummary>, Status> {
        done(self.context.engine.request(input).await?)?;
        let summary = self.context.engine.query(move |state, now| {
            state.agents.get(&name).map(|agent| select::agent_summary(&name, agent, now))
        });
        Ok(summary.await?)
    }
}

/// The status of an answer that is none to what was asked.
fn unexpected(answer: Answer) -> Status {
    match answer {
        Answer::Refused(refusal, reason) => refused(refusal, reason),
        other => Status::internal(format!("the coordinator gave an answer of another kind: {other:?}")),
    }
}

type Outgoing<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl PlateauService for Clients {
    type WatchStream = Outgoing<v1::WatchResponse>;
    type GetResultsStream = Outgoing<v1::TrialResult>;
    type FetchCheckpointStream = Outgoing<v1::CheckpointChunk>;

    async fn submit(
        &self,
        request: Request<v1::SubmitRequest>,
    ) -> Result<Response<v1::SubmitResponse>, Status> {
        let request = request.into_inner();
        if let Some(context) = TraceContext::parse(&request.traceparent) {
            let (trace, span) = (format!("{:032x}", context.trace), format!("{:016x}", context.span));
            tracing::info!(trace, span, "submission received");
        }
        let source = wire::study_source("study", request.study)?;
        Ok(Response::new(submit::submit(&self.context, source).await?))
    }

    async fn list_sweeps(
        &self,
        _request: Request<v1::ListSweepsRequest>,
    ) -> Result<Response<v1::ListSweepsResponse>, Status> {
        let sweeps =
            self.context.engine.query(|state, _| state.sweeps.values().map(select::summary).collect());
        Ok(Response::new(v1::ListSweepsResponse { sweeps: sweeps.await? }))
    }

    async fn describe_sweep(
        &self,
        request: Request<v1::DescribeSweepRequest>,
    ) -> Result<Response<v1::DescribeSweepResponse>, Status> {
        let found = select::with_sweep(&self.context, request.into_inner().sweep, |_, _, number, sweep| {
            (number, select::summary(sweep), select::failure(sweep))
        });
        let (number, summary, last_failure) = found.await?;
        let source = self.context.read(move |reader| reader.source(number)).await?.unwrap_or_default();
        let study = v1::StudySource::decode(source.as_slice())
            .map_err(|error| Status::internal(format!("the stored study of the sweep: {error}")))?;
        Ok(Response::new(v1::DescribeSweepResponse {
            summary: Some(summary),
            study: Some(study),
            last_failure,
        }))
    }

    async fn list_trials(
        &self,
        request: Request<v1::ListTrialsRequest>,
    ) -> Result<Response<v1::ListTrialsResponse>, Status> {
        let request = request.into_inner();
        let states = request.states.into_iter().map(|number| convert::trial_state("states", number));
        let states = states.collect::<Result<Vec<_>, _>>()?;
        let limit = match request.limit as usize {
            0 => PAGE,
            limit => limit.min(PAGE),
        };
        let offset = usize::try_from(request.offset).map_err(|_| WireError::new("offset", "is too large"))?;
        let (page, next) = select::with_sweep(&self.context, request.sweep, move |state, _, _, sweep| {
            select::page(state, sweep, offset, limit, &states)
        })
        .await?;
        let trials = self.context.read(move |reader| {
            page.into_iter()
                .map(|(id, budget, mut summary)| {
                    summary.config_json = results::configuration(reader, id, budget)?;
                    Ok(summary)
                })
                .collect::<Result<Vec<_>, _>>()
        });
        let next_offset = next.unwrap_or(0) as u64;
        Ok(Response::new(v1::ListTrialsResponse { trials: trials.await?, next_offset }))
    }

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let number = self.find(request.into_inner().sweep).await?;
        let (sender, receiver) = mpsc::channel(PICTURES_IN_FLIGHT);
        tokio::spawn(watch::follow(self.context.clone(), number, sender));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn cancel(
        &self,
        request: Request<v1::CancelRequest>,
    ) -> Result<Response<v1::CancelResponse>, Status> {
        let request = request.into_inner();
        if request.reason.len() > limits::MAX_CANCEL_REASON_BYTES {
            let problem = format!("is longer than {} bytes", limits::MAX_CANCEL_REASON_BYTES);
            return Err(WireError::new("reason", problem).into());
        }
        let sweep = self.find(request.sweep).await?;
        let summary = self.change(sweep, Input::Cancel { sweep, reason: request.reason }).await?;
        Ok(Response::new(v1::CancelResponse { summary }))
    }

    async fn pause(&self, request: Request<v1::PauseRequest>) -> Result<Response<v1::PauseResponse>, Status> {
        let sweep = self.find(request.into_inner().sweep).await?;
        Ok(Response::new(v1::PauseResponse { summary: self.change(sweep, Input::Pause { sweep }).await? }))
    }

    async fn resume(
        &self,
        request: Request<v1::ResumeRequest>,
    ) -> Result<Response<v1::ResumeResponse>, Status> {
        let sweep = self.find(request.into_inner().sweep).await?;
        Ok(Response::new(v1::ResumeResponse { summary: self.change(sweep, Input::Resume { sweep }).await? }))
    }

    async fn requeue(
        &self,
        request: Request<v1::RequeueRequest>,
    ) -> Result<Response<v1::RequeueResponse>, Status> {
        let v1::RequeueRequest { subject, diverged } = request.into_inner();
        let found = self.context.engine.query(move |state, _| match find_sweep(state, &subject) {
            Ok(sweep) => Ok(Input::RequeueSweep { sweep, diverged }),
            Err(_) => find_trial(state, &subject).map(|trial| Input::RequeueTrial { trial }),
        });
        let input = found.await?.map_err(|problem| {
            Status::not_found(format!("neither a sweep nor a trial has this name ({problem})"))
        })?;
        match self.context.engine.request(input).await? {
            Answer::Requeued { trials } => Ok(Response::new(v1::RequeueResponse { requeued: trials })),
            other => Err(unexpected(other)),
        }
    }

    async fn drain(&self, request: Request<v1::DrainRequest>) -> Result<Response<v1::DrainResponse>, Status> {
        let v1::DrainRequest { agent, reason } = request.into_inner();
        if reason.len() > limits::MAX_CANCEL_REASON_BYTES {
            let problem = format!("is longer than {} bytes", limits::MAX_CANCEL_REASON_BYTES);
            return Err(WireError::new("reason", problem).into());
        }
        let input = Input::Drain { agent: agent.clone(), reason };
        Ok(Response::new(v1::DrainResponse { agent: self.change_agent(agent, input).await? }))
    }

    async fn undrain(
        &self,
        request: Request<v1::UndrainRequest>,
    ) -> Result<Response<v1::UndrainResponse>, Status> {
        let agent = request.into_inner().agent;
        let input = Input::Undrain { agent: agent.clone() };
        Ok(Response::new(v1::UndrainResponse { agent: self.change_agent(agent, input).await? }))
    }

    async fn delete_sweep(
        &self,
        request: Request<v1::DeleteSweepRequest>,
    ) -> Result<Response<v1::DeleteSweepResponse>, Status> {
        let v1::DeleteSweepRequest { sweep, dry_run } = request.into_inner();
        let found =
            select::with_sweep(&self.context, sweep, |_, _, number, sweep| (number, sweep.id.clone()));
        let (number, sweep) = found.await?;
        match self.context.engine.request(Input::Delete { sweep: number, dry_run }).await? {
            Answer::Freed(freed) => {
                tracing::info!(sweep, dry_run, trials = freed.trials, bytes = freed.bytes, "sweep deleted");
                Ok(Response::new(v1::DeleteSweepResponse { sweep, freed: Some(wire::freed_to_wire(freed)) }))
            }
            other => Err(unexpected(other)),
        }
    }

    async fn collect_garbage(
        &self,
        request: Request<v1::CollectGarbageRequest>,
    ) -> Result<Response<v1::CollectGarbageResponse>, Status> {
        let v1::CollectGarbageRequest { dry_run, keep, older_than_seconds } = request.into_inner();
        let older_than_milliseconds = older_than_seconds.saturating_mul(1000);
        let freed = match self
            .context
            .engine
            .request(Input::Collect { keep, older_than_milliseconds, dry_run })
            .await?
        {
            Answer::Freed(freed) => freed,
            other => return Err(unexpected(other)),
        };
        let orphans =
            self.context.orphans.look(&self.context.engine, &self.context.checkpoints, dry_run).await;
        let orphans = orphans.map_err(|error| Status::unavailable(format!("{error:#}")))?;
        tracing::info!(
            dry_run,
            checkpoints = freed.checkpoints,
            bytes = freed.bytes,
            ?orphans,
            "garbage collected"
        );
        Ok(Response::new(v1::CollectGarbageResponse {
            freed: Some(wire::freed_to_wire(freed)),
            orphans: orphans.deleted,
            orphan_bytes: orphans.deleted_bytes,
            waiting_orphans: orphans.waiting,
            waiting_orphan_bytes: orphans.waiting_bytes,
        }))
    }

    async fn extend(
        &self,
        request: Request<v1::ExtendRequest>,
    ) -> Result<Response<v1::ExtendResponse>, Status> {
        let request = request.into_inner();
        let sweep = self.find(request.sweep).await?;
        let (new_trials, continued_trials) =
            submit::extend(&self.context, sweep, request.seeds, request.steps).await?;
        let summary = Some(self.summary(sweep).await?);
        Ok(Response::new(v1::ExtendResponse { summary, new_trials, continued_trials }))
    }

    async fn explain(
        &self,
        request: Request<v1::ExplainRequest>,
    ) -> Result<Response<v1::ExplainResponse>, Status> {
        let text = request.into_inner().subject;
        let found = self.context.engine.query(move |state, now| {
            let explained =
                |subject: Subject, explanation: Option<Explanation>| Some((subject, explanation?));
            if state.agents.contains_key(&text) {
                return explained(Subject::Agent(text.clone()), explain_agent(state, &text, now))
                    .ok_or(String::new());
            }
            if let Ok(number) = find_sweep(state, &text) {
                return explained(Subject::Sweep(number), explain_sweep(state, number)).ok_or(String::new());
            }
            let id = find_trial(state, &text)?;
            explained(Subject::Trial(id), explain_trial(state, id)).ok_or(String::new())
        });
        let (subject, explanation) = found.await?.map_err(|problem| {
            Status::not_found(format!("neither a sweep, a trial nor an agent has this name ({problem})"))
        })?;
        let mut summary = explanation.summary;
        for low in self.context.room.refused() {
            summary.push_str(&format!(" Note: {low}."));
        }
        let history = self.context.read(move |reader| reader.history(&subject)).await?;
        let history =
            history.into_iter().map(|row| v1::HistoryEvent { unix_milliseconds: row.at, event: row.event });
        Ok(Response::new(v1::ExplainResponse {
            kind: explanation.kind.to_owned(),
            summary,
            history: history.collect(),
        }))
    }

    async fn get_results(
        &self,
        request: Request<v1::GetResultsRequest>,
    ) -> Result<Response<Self::GetResultsStream>, Status> {
        let (trials, _) =
            select::with_sweep(&self.context, request.into_inner().sweep, |state, _, _, sweep| {
                select::page(state, sweep, 0, usize::MAX, &[])
            })
            .await?;
        let (sender, receiver) = mpsc::channel(RESULTS_IN_FLIGHT);
        tokio::spawn(results::send(self.context.clone(), trials, sender));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn describe_trial(
        &self,
        request: Request<v1::DescribeTrialRequest>,
    ) -> Result<Response<v1::DescribeTrialResponse>, Status> {
        let described = select::with_trial(&self.context, request.into_inner().trial, select::describe_trial);
        let described = described.await?;
        let (id, budget, mut answer) =
            described.ok_or_else(|| Status::not_found("the trial belongs to no sweep any more"))?;
        let config = self.context.read(move |reader| results::configuration(reader, id, budget)).await?;
        if let Some(trial) = &mut answer.trial {
            trial.config_json = config;
        }
        Ok(Response::new(answer))
    }

    async fn list_checkpoints(
        &self,
        request: Request<v1::ListCheckpointsRequest>,
    ) -> Result<Response<v1::ListCheckpointsResponse>, Status> {
        let checkpoints = select::with_trial(&self.context, request.into_inner().trial, |_, id, trial| {
            trial.checkpoints.iter().map(|checkpoint| wire::checkpoint_to_wire(id, checkpoint)).collect()
        });
        Ok(Response::new(v1::ListCheckpointsResponse { checkpoints: checkpoints.await? }))
    }

    async fn fetch_checkpoint(
        &self,
        request: Request<v1::FetchCheckpointRequest>,
    ) -> Result<Response<Self::FetchCheckpointStream>, Status> {
        let v1::FetchCheckpointRequest { trial, step } = request.into_inner();
        let found = select::with_trial(&self.context, trial, move |_, id, trial| {
            let mut newest_first = trial.checkpoints.iter().rev();
            newest_first
                .find(|checkpoint| step == 0 || checkpoint.step == step)
                .map(|found| (id, found.clone()))
        });
        let Some((id, checkpoint)) = found.await? else {
            let which =
                if step == 0 { "no checkpoint".to_owned() } else { format!("no checkpoint at step {step}") };
            return Err(Status::not_found(format!("{which} of the trial is held")));
        };
        let chunks = transfer::fetch(&self.context, id, checkpoint.attempt, checkpoint.step).await?;
        Ok(Response::new(Box::pin(chunks)))
    }

    async fn get_logs(
        &self,
        request: Request<v1::GetLogsRequest>,
    ) -> Result<Response<v1::GetLogsResponse>, Status> {
        let id = select::with_trial(&self.context, request.into_inner().trial, |_, id, _| id).await?;
        let logs = self.context.read(move |reader| reader.logs(id)).await?;
        let attempts = logs.into_iter().map(|log| v1::AttemptLog {
            attempt: log.attempt.attempt,
            agent: log.attempt.agent,
            lines: log
                .lines
                .into_iter()
                .map(|line| v1::LogLine {
                    unix_milliseconds: line.at,
                    level: line.level,
                    message: line.message,
                })
                .collect(),
        });
        Ok(Response::new(v1::GetLogsResponse { attempts: attempts.collect() }))
    }

    async fn list_agents(
        &self,
        _request: Request<v1::ListAgentsRequest>,
    ) -> Result<Response<v1::ListAgentsResponse>, Status> {
        let agents = self.context.engine.query(select::agents).await?;
        Ok(Response::new(v1::ListAgentsResponse { agents }))
    }

    async fn list_throughput(
        &self,
        request: Request<v1::ListThroughputRequest>,
    ) -> Result<Response<v1::ListThroughputResponse>, Status> {
        let asked = request.into_inner().cohorts;
        let cohorts = asked.iter().map(|key| convert::cohort_key("cohorts", key));
        let cohorts: BTreeSet<u128> = cohorts.collect::<Result<_, WireError>>()?;
        let known = self.context.engine.query(move |state, _| select::throughput(state, &cohorts)).await?;
        Ok(Response::new(v1::ListThroughputResponse { known }))
    }
}
