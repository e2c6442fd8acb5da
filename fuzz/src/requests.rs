//! Every message that crosses the wire, decoded and converted.
//!
//! The first byte chooses the type.

use plateau_common::limits;
use plateau_coordinator::core::Report;
use plateau_coordinator::wire;
use plateau_proto::v1::agent_message::Body;
use plateau_proto::{convert, v1};
use prost::Message;

use crate::short;

/// One message.
pub fn run(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    match kind % 30 {
        0..=7 => agent_message(rest),
        8 => {
            if let Some(request) = decoded::<v1::SubmitRequest>(rest) {
                study(request);
            }
        }
        9 => {
            if let Some(request) = decoded::<v1::UploadCheckpointRequest>(rest)
                && let Some(v1::upload_checkpoint_request::Part::Header(header)) = request.part
            {
                lease(header.lease);
            }
        }
        10 => {
            if let Some(request) = decoded::<v1::DownloadCheckpointRequest>(rest) {
                lease(request.lease);
            }
        }
        11 => {
            if let Some(request) = decoded::<v1::ListTrialsRequest>(rest) {
                for state in request.states {
                    match convert::trial_state("states", state) {
                        Ok(known) => assert_eq!(convert::trial_state_to_wire(known) as i32, state),
                        Err(error) => short(error),
                    }
                }
            }
        }
        12 => {
            if let Some(request) = decoded::<v1::ListThroughputRequest>(rest) {
                for cohort in request.cohorts {
                    match convert::cohort_key("cohorts", &cohort) {
                        Ok(key) => assert_eq!(convert::cohort_key_to_wire(key), cohort),
                        Err(error) => short(error),
                    }
                }
            }
        }
        13 => {
            if let Some(result) = decoded::<v1::TrialResult>(rest) {
                for chunk in result.metrics {
                    if let Err(error) = convert::metrics_chunk("metrics", chunk) {
                        short(error);
                    }
                }
                if let Some(Err(error)) =
                    result.trial.map(|trial| convert::trial_config("config_json", &trial.config_json))
                {
                    short(error);
                }
            }
        }
        14 => coordinator_message(rest),
        15 => drop(decoded::<v1::WatchRequest>(rest)),
        16 => drop(decoded::<v1::CancelRequest>(rest)),
        17 => drop(decoded::<v1::ExtendRequest>(rest)),
        18 => drop(decoded::<v1::RequeueRequest>(rest)),
        19 => drop(decoded::<v1::DrainRequest>(rest)),
        20 => drop(decoded::<v1::ExplainRequest>(rest)),
        21 => drop(decoded::<v1::FetchCheckpointRequest>(rest)),
        22 => drop(decoded::<v1::GetLogsRequest>(rest)),
        23 => drop(decoded::<v1::CheckpointChunk>(rest)),
        24 => drop(decoded::<v1::DescribeSweepResponse>(rest)),

        25 => drop(decoded::<v1::WatchResponse>(rest)),
        26 => drop(decoded::<v1::ListAgentsResponse>(rest)),
        27 => drop(decoded::<v1::ListThroughputResponse>(rest)),
        28 => drop(decoded::<v1::DescribeTrialRequest>(rest)),
        _ => drop(decoded::<v1::DescribeTrialResponse>(rest)),
    }
}

/// A message, which is the same when it is written and read again.
fn decoded<M: Message + Default>(bytes: &[u8]) -> Option<M> {
    let message = M::decode(bytes).ok()?;
    let written = message.encode_to_vec();
    match M::decode(written.as_slice()) {
        Ok(again) => assert_eq!(again.encode_to_vec(), written),
        Err(error) => panic!("our own message is malformed: {error}"),
    }
    Some(message)
}

fn lease(key: Option<v1::LeaseKey>) {
    match wire::lease_key("lease", key.clone()) {
        Ok(lease) => assert_eq!(Some(wire::lease_key_to_wire(lease)), key),
        Err(error) => short(error),
    }
}

fn study(request: v1::SubmitRequest) {
    match wire::study_source("study", request.study) {
        Ok(source) => {
            let again = wire::study_source("study", Some(wire::study_source_to_wire(&source)));
            assert_eq!(again, Ok(source));
        }
        Err(error) => short(error),
    }
}

fn agent_message(bytes: &[u8]) {
    let Some(v1::AgentMessage { body: Some(body), .. }) = decoded::<v1::AgentMessage>(bytes) else { return };
    let hello = match body {
        Body::Hello(hello) => hello,
        body => return report(body),
    };
    match wire::introduction(hello) {
        Ok(agent) => {
            assert!(agent.held.len() <= limits::MAX_HELD_LEASES);
            let texts = [
                &agent.name,
                &agent.incarnation,
                &agent.host,
                &agent.device,
                &agent.description,
                &agent.version,
            ];
            assert!(texts.iter().all(|text| text.len() <= limits::MAX_NAME_BYTES));
        }
        Err(error) => short(error),
    }
}

fn report(body: Body) {
    let report = match wire::report(body) {
        Ok(report) => report,
        Err(error) => return short(error),
    };
    match report {
        Report::Heartbeat { leases, waiting, .. } => {
            assert!(leases.len() <= limits::MAX_HELD_LEASES && waiting.len() <= leases.len());
        }
        Report::Metrics { data, digest, last_step, .. } => match wire::stored_chunk_with_digest(&data) {
            Ok((chunk, stored)) => {
                assert_eq!(stored, digest, "what is stored is not what was sent");
                assert_eq!(chunk.steps.last().copied().unwrap_or(0), last_step);
            }
            Err(error) => panic!("a stored chunk cannot be read: {error}"),
        },
        Report::Log { lines, .. } => {
            assert!(lines.len() as u64 <= limits::MAX_LOG_LINES_PER_TRIAL);
            assert!(lines.iter().all(|(_, _, message)| message.len() <= limits::MAX_LOG_LINE_BYTES));
        }
        Report::Crashed { leases, .. } | Report::OutOfMemory { leases, .. } => {
            assert!(leases.len() <= limits::MAX_COHORT);
        }
        Report::Throughput { curve, evaluation_seconds, .. } => {
            assert!(evaluation_seconds.is_finite() && evaluation_seconds >= 0.0);
            assert!(curve.points().all(|(size, rate)| size > 0 && rate.is_finite() && rate > 0.0));
        }
        Report::Started { .. } | Report::Ended { .. } | Report::Released { .. } | Report::Goodbye => {}
    }
}

fn coordinator_message(bytes: &[u8]) {
    use v1::coordinator_message::Body;
    let Some(message) = decoded::<v1::CoordinatorMessage>(bytes) else { return };
    if let Some(Body::Grant(grant)) = message.body {
        for lease in grant.leases {
            if let Err(error) = convert::trial_config("config_json", &lease.config_json) {
                short(error);
            }
        }
    }
}
