//! The core's types to and from messages; what a message must say is checked here.

use plateau_common::identity::TrialId;
use plateau_common::limits;
use plateau_common::study::{Format, StudySource};
use plateau_proto::convert::{self, WireError};
use plateau_proto::v1;
use prost::Message;

use crate::chunk;
use crate::core::{Checkpoint, Freed, Introduction, LeaseKey, Report, ToAgent, Wish};

/// A lease's name.
pub fn lease_key(field: &'static str, key: Option<v1::LeaseKey>) -> Result<LeaseKey, WireError> {
    let key = convert::required(field, key)?;
    if key.attempt == 0 {
        return Err(WireError::new(field, "attempts are numbered from 1"));
    }
    Ok(LeaseKey { trial: convert::trial_id(field, &key.trial)?, attempt: key.attempt })
}

/// The wire form of a lease's name.
pub fn lease_key_to_wire(key: LeaseKey) -> v1::LeaseKey {
    v1::LeaseKey { trial: key.trial.to_string(), attempt: key.attempt }
}

/// The wire form of a checkpoint.
pub fn checkpoint_to_wire(trial: TrialId, checkpoint: &Checkpoint) -> v1::CheckpointReference {
    v1::CheckpointReference {
        trial: trial.to_string(),
        attempt: checkpoint.attempt,
        step: checkpoint.step,
        weights_hash: checkpoint.weights_hash.clone(),
        bytes: checkpoint.bytes,
    }
}

/// A short text of printable characters.
fn name(field: &'static str, text: String, may_be_empty: bool) -> Result<String, WireError> {
    if text.len() > limits::MAX_NAME_BYTES {
        return Err(WireError::new(field, format!("is longer than {} bytes", limits::MAX_NAME_BYTES)));
    }
    if (text.is_empty() && !may_be_empty) || text.chars().any(char::is_control) {
        return Err(WireError::new(field, "must be printable text and not empty"));
    }
    Ok(text)
}

/// The first message of a session.
pub fn introduction(hello: v1::agent_message::Hello) -> Result<Introduction, WireError> {
    bounded("held", hello.held.len(), limits::MAX_HELD_LEASES)?;
    let held = hello.held.into_iter().map(|key| lease_key("held", Some(key))).collect::<Result<_, _>>()?;
    Ok(Introduction {
        name: name("name", hello.name, false)?,
        incarnation: name("incarnation", hello.incarnation, false)?,
        host: name("host", hello.host, true)?,
        device: name("device", hello.device, false)?,
        description: name("device_description", hello.device_description, true)?,
        version: name("version", hello.version, true)?,
        threads: hello.threads,
        memory_bytes: hello.memory_bytes,
        max_cohort: hello.max_cohort,
        held,
    })
}

/// Any later message of a session.
pub fn report(body: v1::agent_message::Body) -> Result<Report, WireError> {
    use v1::agent_message::Body;
    Ok(match body {
        Body::Hello(_) => return Err(WireError::new("hello", "is the first message of a session only")),
        Body::Heartbeat(heartbeat) => {
            bounded("leases", heartbeat.leases.len(), limits::MAX_HELD_LEASES)?;
            let mut leases = Vec::with_capacity(heartbeat.leases.len());
            let mut waiting = Vec::new();
            for progress in heartbeat.leases {
                let key = lease_key("leases", progress.lease)?;
                leases.push((key, progress.step));
                if progress.waiting {
                    waiting.push(key);
                }
            }
            let places = match heartbeat.free_places {
                Some(free) => Some((convert::cohort_key("free_places", &free.cohort)?, free.places)),
                None => None,
            };
            let wish = Wish { grants: heartbeat.grants, next: heartbeat.wants_next, places };
            let speed = heartbeat.replica_steps_per_second;
            Report::Heartbeat { leases, speed, idle: heartbeat.idle, waiting, wish }
        }
        Body::Started(started) => {
            Report::Started { lease: lease_key("lease", started.lease)?, from_step: started.from_step }
        }
        Body::Metrics(metrics) => metrics_report(metrics)?,
        Body::Ended(ended) => Report::Ended {
            lease: lease_key("lease", ended.lease)?,
            ending: convert::ending("ending", ended.ending)?,
            step: ended.step,
            train_seconds: ended.train_seconds,
            weights_hash: name("weights_hash", ended.weights_hash, true)?,
        },
        Body::Released(released) => Report::Released {
            lease: lease_key("lease", released.lease)?,
            reason: released.reason,
            train_seconds: released.train_seconds,
        },
        Body::Log(log) => {
            bounded("lines", log.lines.len(), limits::MAX_LOG_LINES_PER_TRIAL as usize)?;
            let lines = log.lines.into_iter().map(|line| {
                (line.unix_milliseconds, cut(line.level, 16), cut(line.message, limits::MAX_LOG_LINE_BYTES))
            });
            Report::Log { lease: lease_key("lease", log.lease)?, lines: lines.collect() }
        }
        Body::Crashed(crashed) => {
            bounded("leases", crashed.leases.len(), limits::MAX_COHORT)?;
            let leases = crashed
                .leases
                .into_iter()
                .map(|key| lease_key("leases", Some(key)))
                .collect::<Result<_, _>>()?;
            let class = convert::failure_class("class", crashed.class)?;
            Report::Crashed { leases, class, reason: crashed.reason }
        }
        Body::OutOfMemory(out) => {
            bounded("leases", out.leases.len(), limits::MAX_COHORT)?;
            let leases = out.leases.into_iter().map(|key| lease_key("leases", Some(key)));
            Report::OutOfMemory {
                leases: leases.collect::<Result<_, _>>()?,
                cohort_size: out.cohort_size,
                suspected: out.suspected,
                reason: out.reason,
            }
        }
        Body::Throughput(measured) => Report::Throughput {
            cohort: convert::cohort_key("cohort", &measured.cohort)?,
            curve: convert::throughput("points", measured.points)?,
            calibrated: measured.calibrated,
            evaluation_seconds: match measured.evaluation_seconds {
                seconds if seconds.is_finite() && seconds >= 0.0 => seconds,
                seconds => return Err(WireError::new("evaluation_seconds", format!("{seconds} is no time"))),
            },
        },
        Body::Goodbye(_) => Report::Goodbye,
    })
}

fn bounded(field: &'static str, found: usize, limit: usize) -> Result<(), WireError> {
    if found > limit {
        return Err(WireError::new(field, format!("{found} items are more than {limit}")));
    }
    Ok(())
}

fn cut(mut text: String, bytes: usize) -> String {
    let mut end = text.len().min(bytes);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

fn metrics_report(metrics: v1::agent_message::MetricsReport) -> Result<Report, WireError> {
    let lease = lease_key("lease", metrics.lease)?;
    let validated = convert::metrics_chunk("metrics", convert::required("metrics", metrics.metrics)?)?;
    let last_step = validated.steps.last().copied().unwrap_or(0);
    // The canonical form (columns by name) is what is hashed and stored, however the message was ordered.
    let canonical = convert::metrics_chunk_to_wire(&validated);
    Ok(Report::Metrics {
        lease,
        chunk: metrics.chunk,
        digest: *blake3::hash(&canonical.encode_to_vec()).as_bytes(),
        recorded: None,
        last_step,
        data: chunk::pack(&canonical),
    })
}

/// A stored chunk of metrics.
pub fn stored_chunk(data: &[u8]) -> Result<v1::MetricsChunk, String> {
    chunk::unpack(data)
}

/// A stored chunk of metrics with the digest of its canonical bytes.
pub fn stored_chunk_with_digest(data: &[u8]) -> Result<(v1::MetricsChunk, [u8; 32]), String> {
    let chunk = stored_chunk(data)?;
    let digest = *blake3::hash(&chunk.encode_to_vec()).as_bytes();
    Ok((chunk, digest))
}

/// The key of the budget, as it is written.
const STEPS_KEY: &str = "\"steps\":";

/// A stored configuration with its budget set to `steps`.
pub fn configuration_for(json: &str, steps: u64) -> Result<String, String> {
    // Most often it is the budget that was submitted. The key stands once, in `train`: within a string of JSON its quotation
    // marks are escaped.
    let mut keys = json.match_indices(STEPS_KEY);
    if let (Some((place, key)), None) = (keys.next(), keys.next())
        && let Some(rest) =
            json.get(place + key.len()..).and_then(|rest| rest.strip_prefix(&*steps.to_string()))
        && rest.starts_with([',', '}'])
    {
        return Ok(json.to_owned());
    }
    let mut config: serde_json::Value = serde_json::from_str(json).map_err(|error| error.to_string())?;
    let train = config.get_mut("train").and_then(serde_json::Value::as_object_mut);
    let Some(train) = train else { return Err("the configuration has no `train` table".to_owned()) };
    train.insert("steps".to_owned(), steps.into());
    Ok(config.to_string())
}

/// The wire form of what is said to agents, grants excepted.
pub fn to_agent(message: ToAgent) -> v1::coordinator_message::Body {
    use v1::coordinator_message::{Acknowledged, Body, Grant, Refused, Revoke, Welcome};
    match message {
        ToAgent::Welcome => Body::Welcome(Welcome {
            protocol: plateau_proto::PROTOCOL,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            lease_seconds: limits::LEASE_SECONDS as u32,
            renewal_seconds: limits::RENEWAL_SECONDS as u32,
        }),
        // Its leases need their configurations, which the engine looks up.
        ToAgent::Grant { join, calibrate, .. } => Body::Grant(Grant { leases: Vec::new(), join, calibrate }),
        ToAgent::Acknowledged(sequence) => Body::Acknowledged(Acknowledged { sequence }),
        ToAgent::Refused { sequence, lease, reason } => {
            Body::Refused(Refused { sequence, lease: Some(lease_key_to_wire(lease)), reason })
        }
        ToAgent::Revoke { leases, reason } => {
            Body::Revoke(Revoke { leases: leases.into_iter().map(lease_key_to_wire).collect(), reason })
        }
    }
}

/// The wire form of what a deletion freed.
pub fn freed_to_wire(freed: Freed) -> v1::Freed {
    v1::Freed { trials: freed.trials, checkpoints: freed.checkpoints, bytes: freed.bytes }
}

/// A study as submitted.
pub fn study_source(field: &'static str, source: Option<v1::StudySource>) -> Result<StudySource, WireError> {
    let source = convert::required(field, source)?;
    bounded("overrides", source.overrides.len(), limits::MAX_OVERRIDES)?;
    if source.text.len() > limits::MAX_STUDY_BYTES {
        return Err(WireError::new("text", format!("is longer than {} bytes", limits::MAX_STUDY_BYTES)));
    }
    if source.file_name.len() > limits::MAX_FILE_NAME_BYTES {
        let problem = format!("is longer than {} bytes", limits::MAX_FILE_NAME_BYTES);
        return Err(WireError::new("file_name", problem));
    }
    let format = match v1::StudyFormat::try_from(source.format) {
        Ok(v1::StudyFormat::Toml) => Format::Toml,
        Ok(v1::StudyFormat::Yaml) => Format::Yaml,
        Ok(v1::StudyFormat::Json) => Format::Json,
        Ok(v1::StudyFormat::Unspecified) | Err(_) => {
            return Err(WireError::new(
                "format",
                format!("{} is not a format of study files", source.format),
            ));
        }
    };
    Ok(StudySource {
        text: source.text,
        file_name: source.file_name,
        format,
        overrides: source.overrides.into_iter().map(|set| (set.path, set.value)).collect(),
    })
}

/// The wire form of a study.
pub fn study_source_to_wire(source: &StudySource) -> v1::StudySource {
    let format = match source.format {
        Format::Toml => v1::StudyFormat::Toml,
        Format::Yaml => v1::StudyFormat::Yaml,
        Format::Json => v1::StudyFormat::Json,
    };
    let overrides = source.overrides.iter();
    v1::StudySource {
        file_name: source.file_name.clone(),
        format: format.into(),
        text: source.text.clone(),
        overrides: overrides
            .map(|(path, value)| v1::Override { path: path.clone(), value: value.clone() })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use v1::agent_message::Body;

    use super::*;

    /// One message of each kind, well-formed.
    fn messages() -> Vec<v1::AgentMessage> {
        use v1::agent_message::*;
        let lease = Some(v1::LeaseKey { trial: "0123456789abcdef".repeat(2), attempt: 3 });
        let leases = vec![lease.clone().unwrap_or_default()];
        let column = v1::MetricColumn { name: "loss".to_owned(), values: vec![0.5, 0.25], missing: vec![0] };
        let metrics = v1::MetricsChunk { steps: vec![1, 2], columns: vec![column] };
        let line = v1::LogLine { unix_milliseconds: 1, level: "INFO".to_owned(), message: "é".repeat(3000) };
        let point = v1::ThroughputPoint { cohort_size: 2, replica_steps_per_second: 3.0 };
        let diverged = v1::ending::Kind::Diverged(v1::ending::Diverged { step: 2 });
        let bodies = [
            Body::Heartbeat(Heartbeat {
                leases: vec![LeaseProgress { lease: lease.clone(), step: 1, waiting: true }],
                free_places: Some(FreePlaces { cohort: "0123456789abcdef".repeat(2), places: 1 }),
                ..Heartbeat::default()
            }),
            Body::Started(Started { lease: lease.clone(), from_step: 1 }),
            Body::Metrics(MetricsReport { lease: lease.clone(), chunk: 0, metrics: Some(metrics) }),
            Body::Ended(EndedReport {
                lease: lease.clone(),
                ending: Some(v1::Ending { kind: Some(diverged) }),
                ..EndedReport::default()
            }),
            Body::Released(Released { lease: lease.clone(), ..Released::default() }),
            Body::Log(LogReport { lease, lines: vec![line] }),
            Body::Crashed(Crashed { leases: leases.clone(), reason: "signal".to_owned(), class: 4 }),
            Body::OutOfMemory(OutOfMemory { leases, cohort_size: 2, ..OutOfMemory::default() }),
            Body::Throughput(Throughput {
                cohort: "0123456789abcdef".repeat(2),
                points: vec![point],
                ..Throughput::default()
            }),
            Body::Goodbye(Goodbye {}),
        ];
        bodies
            .into_iter()
            .zip(1..)
            .map(|(body, sequence)| v1::AgentMessage { sequence, body: Some(body) })
            .collect()
    }

    /// What the coordinator makes of bytes that a peer sent, all the way to the core's types.
    fn take(bytes: &[u8]) {
        if let Ok(v1::AgentMessage { body: Some(body), .. }) = v1::AgentMessage::decode(bytes) {
            let _ = report(body);
        }
        if let Ok(hello) = v1::agent_message::Hello::decode(bytes) {
            let _ = introduction(hello);
        }
        if let Ok(request) = v1::SubmitRequest::decode(bytes) {
            let _ = study_source("study", request.study);
        }
        if let Ok(request) = v1::UploadCheckpointRequest::decode(bytes)
            && let Some(v1::upload_checkpoint_request::Part::Header(header)) = request.part
        {
            let _ = lease_key("lease", header.lease);
        }
        // What is stored is read the same way: nothing on disk may panic either.
        let _ = stored_chunk(bytes);
        let _ = configuration_for(&String::from_utf8_lossy(bytes), 3);
    }

    #[test]
    fn every_kind_of_message_is_taken() {
        for message in messages() {
            let what = format!("{message:?}");
            assert!(report(message.body.unwrap()).is_ok(), "{what}");
        }
    }

    #[test]
    fn case_56_every_truncation_and_every_flipped_byte_is_an_error_or_harmless() {
        for message in messages() {
            // The text of the log line repeats: its first bytes stand for all.
            let bytes = message.encode_to_vec();
            for cut in 0..bytes.len().min(400) {
                take(&bytes[..cut]);
                for flip in [0x01, 0x80, 0xff] {
                    let mut flipped = bytes.clone();
                    flipped[cut] ^= flip;
                    take(&flipped);
                }
            }
        }
    }

    #[test]
    fn a_cut_never_falls_within_a_character() {
        let v1::AgentMessage { body: Some(Body::Log(mut log)), .. } = messages().remove(5) else { panic!() };
        for length in [limits::MAX_LOG_LINE_BYTES - 1, limits::MAX_LOG_LINE_BYTES, 5000] {
            log.lines[0].message = format!("x{}", "é".repeat(length));
            let Ok(Report::Log { lines, .. }) = report(Body::Log(log.clone())) else { panic!() };
            assert!(
                lines[0].2.len() <= limits::MAX_LOG_LINE_BYTES
                    && lines[0].2.len() >= limits::MAX_LOG_LINE_BYTES - 1
            );
        }
    }

    #[test]
    fn a_configuration_gets_the_budget_that_was_granted() {
        let json = r#"{"name":"\"steps\":7,","train":{"batch":3,"steps":20}}"#;
        assert_eq!(configuration_for(json, 20).as_deref(), Ok(json));
        for steps in [2, 7, 200] {
            let changed = json.replace(":20", &format!(":{steps}"));
            assert_eq!(configuration_for(json, steps), Ok(changed));
        }
        assert!(configuration_for(r#"{"name":"steps"}"#, 20).is_err());
        assert!(configuration_for("{", 20).is_err());
    }

    #[test]
    fn numbers_without_a_meaning_are_refused_by_name() {
        for format in [0, 4, -1, i32::MAX] {
            let source = v1::StudySource { format, ..v1::StudySource::default() };
            assert_eq!(study_source("study", Some(source)).unwrap_err().field, "format");
        }
        for seconds in [f64::NAN, f64::INFINITY, -1.0] {
            let v1::AgentMessage { body: Some(Body::Throughput(mut measured)), .. } = messages().remove(8)
            else {
                panic!()
            };
            measured.evaluation_seconds = seconds;
            assert_eq!(report(Body::Throughput(measured)).unwrap_err().field, "evaluation_seconds");
        }
    }

    proptest! {
        #[test]
        fn case_56_no_bytes_break_the_converters(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            take(&bytes);
        }

        #[test]
        fn case_56_no_mixture_of_two_messages_breaks_them(first in 0..10usize, second in 0..10usize, cut in 0..200usize) {
            // Concatenated, messages are merged field by field: a way to forms that no encoder makes.
            let (first, second) = (messages().remove(first).encode_to_vec(), messages().remove(second).encode_to_vec());
            take(&[&first[..cut.min(first.len())], &second[..]].concat());
        }
    }
}
