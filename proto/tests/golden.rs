//! Messages of `plateau.v1` as they were first recorded decode for ever, and nothing in them is lost.
//!
//! `golden/v1` holds one file for each message, every field set to something, and one for each member of a oneof. A file is
//! recorded once, by `PLATEAU_RECORD=1 cargo test --workspace --test golden`, and never changed: a field that is
//! renumbered, retyped or removed makes its file say something else when it is read and written again.

// Helper functions of tests are no `#[test]` themselves, so clippy's exception for tests does not reach them.
#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::path::{Path, PathBuf};

use plateau_proto::{FILE_DESCRIPTOR_SET, v1};
use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet};

/// Decodes bytes as a message and encodes it again.
type Again = fn(&[u8]) -> Result<Vec<u8>, prost::DecodeError>;

fn again<M: Message + Default>(bytes: &[u8]) -> Result<Vec<u8>, prost::DecodeError> {
    M::decode(bytes).map(|message| message.encode_to_vec())
}

macro_rules! messages {
    ($($name:literal => $($part:ident)::+,)*) => {
        /// Every message by its name within `plateau.v1`.
        const MESSAGES: &[(&str, Again)] = &[$(($name, again::<v1::$($part)::+>)),*];
    };
}

messages! {
    "AgentMessage" => AgentMessage,
    "AgentMessage.Crashed" => agent_message::Crashed,
    "AgentMessage.EndedReport" => agent_message::EndedReport,
    "AgentMessage.FreePlaces" => agent_message::FreePlaces,
    "AgentMessage.Goodbye" => agent_message::Goodbye,
    "AgentMessage.Heartbeat" => agent_message::Heartbeat,
    "AgentMessage.Hello" => agent_message::Hello,
    "AgentMessage.LeaseProgress" => agent_message::LeaseProgress,
    "AgentMessage.LogReport" => agent_message::LogReport,
    "AgentMessage.MetricsReport" => agent_message::MetricsReport,
    "AgentMessage.OutOfMemory" => agent_message::OutOfMemory,
    "AgentMessage.Released" => agent_message::Released,
    "AgentMessage.Started" => agent_message::Started,
    "AgentMessage.Throughput" => agent_message::Throughput,
    "AgentSummary" => AgentSummary,
    "AttemptLog" => AttemptLog,
    "CancelRequest" => CancelRequest,
    "CancelResponse" => CancelResponse,
    "CheckpointChunk" => CheckpointChunk,
    "CheckpointChunk.FileBytes" => checkpoint_chunk::FileBytes,
    "CheckpointReference" => CheckpointReference,
    "CollectGarbageRequest" => CollectGarbageRequest,
    "CollectGarbageResponse" => CollectGarbageResponse,
    "CoordinatorMessage" => CoordinatorMessage,
    "CoordinatorMessage.Acknowledged" => coordinator_message::Acknowledged,
    "CoordinatorMessage.Grant" => coordinator_message::Grant,
    "CoordinatorMessage.Refused" => coordinator_message::Refused,
    "CoordinatorMessage.Revoke" => coordinator_message::Revoke,
    "CoordinatorMessage.Shutdown" => coordinator_message::Shutdown,
    "CoordinatorMessage.Welcome" => coordinator_message::Welcome,
    "DeleteSweepRequest" => DeleteSweepRequest,
    "DeleteSweepResponse" => DeleteSweepResponse,
    "DescribeSweepRequest" => DescribeSweepRequest,
    "DescribeSweepResponse" => DescribeSweepResponse,
    "DescribeTrialRequest" => DescribeTrialRequest,
    "DescribeTrialResponse" => DescribeTrialResponse,
    "DownloadCheckpointRequest" => DownloadCheckpointRequest,
    "DrainRequest" => DrainRequest,
    "DrainResponse" => DrainResponse,
    "Ending" => Ending,
    "Ending.Completed" => ending::Completed,
    "Ending.Diverged" => ending::Diverged,
    "Ending.Failed" => ending::Failed,
    "ExplainRequest" => ExplainRequest,
    "ExplainResponse" => ExplainResponse,
    "ExtendRequest" => ExtendRequest,
    "ExtendResponse" => ExtendResponse,
    "Failure" => Failure,
    "FetchCheckpointRequest" => FetchCheckpointRequest,
    "Freed" => Freed,
    "GetLogsRequest" => GetLogsRequest,
    "GetLogsResponse" => GetLogsResponse,
    "GetResultsRequest" => GetResultsRequest,
    "HistoryEvent" => HistoryEvent,
    "KnownThroughput" => KnownThroughput,
    "Lease" => Lease,
    "LeaseKey" => LeaseKey,
    "ListAgentsRequest" => ListAgentsRequest,
    "ListAgentsResponse" => ListAgentsResponse,
    "ListCheckpointsRequest" => ListCheckpointsRequest,
    "ListCheckpointsResponse" => ListCheckpointsResponse,
    "ListSweepsRequest" => ListSweepsRequest,
    "ListSweepsResponse" => ListSweepsResponse,
    "ListThroughputRequest" => ListThroughputRequest,
    "ListThroughputResponse" => ListThroughputResponse,
    "ListTrialsRequest" => ListTrialsRequest,
    "ListTrialsResponse" => ListTrialsResponse,
    "LogLine" => LogLine,
    "MetricColumn" => MetricColumn,
    "MetricsChunk" => MetricsChunk,
    "Override" => Override,
    "PauseRequest" => PauseRequest,
    "PauseResponse" => PauseResponse,
    "RequeueRequest" => RequeueRequest,
    "RequeueResponse" => RequeueResponse,
    "ResumeRequest" => ResumeRequest,
    "ResumeResponse" => ResumeResponse,
    "StudySource" => StudySource,
    "SubmitRequest" => SubmitRequest,
    "SubmitResponse" => SubmitResponse,
    "SweepSummary" => SweepSummary,
    "ThroughputPoint" => ThroughputPoint,
    "TrainerCommand" => TrainerCommand,
    "TrainerCommand.AddMembers" => trainer_command::AddMembers,
    "TrainerCommand.Calibrate" => trainer_command::Calibrate,
    "TrainerCommand.DropMember" => trainer_command::DropMember,
    "TrainerCommand.Member" => trainer_command::Member,
    "TrainerCommand.Stop" => trainer_command::Stop,
    "TrainerCommand.Train" => trainer_command::Train,
    "TrainerEvent" => TrainerEvent,
    "TrainerEvent.Calibrated" => trainer_event::Calibrated,
    "TrainerEvent.Checkpointed" => trainer_event::Checkpointed,
    "TrainerEvent.Dropped" => trainer_event::Dropped,
    "TrainerEvent.Ended" => trainer_event::Ended,
    "TrainerEvent.Evaluated" => trainer_event::Evaluated,
    "TrainerEvent.Finished" => trainer_event::Finished,
    "TrainerEvent.FreePlaces" => trainer_event::FreePlaces,
    "TrainerEvent.Log" => trainer_event::Log,
    "TrainerEvent.OutOfMemory" => trainer_event::OutOfMemory,
    "TrainerEvent.Progress" => trainer_event::Progress,
    "TrainerEvent.Ready" => trainer_event::Ready,
    "TrainerEvent.Started" => trainer_event::Started,
    "TrialCounts" => TrialCounts,
    "TrialResult" => TrialResult,
    "TrialSummary" => TrialSummary,
    "UndrainRequest" => UndrainRequest,
    "UndrainResponse" => UndrainResponse,
    "UploadCheckpointRequest" => UploadCheckpointRequest,
    "UploadCheckpointRequest.Header" => upload_checkpoint_request::Header,
    "UploadCheckpointResponse" => UploadCheckpointResponse,
    "WatchRequest" => WatchRequest,
    "WatchResponse" => WatchResponse,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1")
}

/// All messages by name, nested ones as `Outer.Inner`.
fn descriptors() -> Vec<(String, DescriptorProto)> {
    fn collect(prefix: &str, list: &[DescriptorProto], found: &mut Vec<(String, DescriptorProto)>) {
        for message in list {
            let name = format!("{prefix}{}", message.name());
            collect(&format!("{name}."), &message.nested_type, found);
            found.push((name, message.clone()));
        }
    }
    let mut found = Vec::new();
    for file in FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap().file {
        if file.package() == "plateau.v1" {
            collect("", &file.message_type, &mut found);
        }
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

fn varint(mut number: u64, bytes: &mut Vec<u8>) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn key(field: &FieldDescriptorProto, wire_type: u64, bytes: &mut Vec<u8>) {
    varint((field.number() as u64) << 3 | wire_type, bytes);
}

fn delimited(field: &FieldDescriptorProto, content: &[u8], bytes: &mut Vec<u8>) {
    key(field, 2, bytes);
    varint(content.len() as u64, bytes);
    bytes.extend(content);
}

/// The field with a value of its own, encoded as the specification of protocol buffers says, not by the code under test.
fn field(all: &[(String, DescriptorProto)], field: &FieldDescriptorProto, bytes: &mut Vec<u8>) {
    let number = 1000 + field.number() as u64;
    let repeated = field.label() == Label::Repeated;
    let varints = |list: &[u64], bytes: &mut Vec<u8>| match repeated {
        true => {
            let mut packed = Vec::new();
            list.iter().for_each(|number| varint(*number, &mut packed));
            delimited(field, &packed, bytes);
        }
        false => {
            key(field, 0, bytes);
            varint(list[0], bytes);
        }
    };
    match field.r#type() {
        Type::Uint32 | Type::Uint64 | Type::Int64 => varints(&[number, number + 1], bytes),
        Type::Bool => varints(&[1, 1], bytes),
        Type::Enum => varints(&[1, 2], bytes),
        Type::Double => {
            let value = (number as f64 + 0.5).to_le_bytes();
            match repeated {
                true => delimited(field, &[value, f64::NAN.to_le_bytes()].concat(), bytes),
                false => {
                    key(field, 1, bytes);
                    bytes.extend(value);
                }
            }
        }
        Type::String | Type::Bytes => {
            for text in [field.name(), "é\n"].iter().take(1 + usize::from(repeated)) {
                delimited(field, text.as_bytes(), bytes);
            }
        }
        Type::Message => {
            let name = field.type_name().trim_start_matches(".plateau.v1.");
            let (_, inner) = all.iter().find(|(known, _)| known == name).unwrap();
            delimited(field, &message(all, inner, 0), bytes);
        }
        other => panic!("no value for a field of type {other:?}"),
    }
}

/// The message with every field set; of each oneof, the member of this number.
fn message(all: &[(String, DescriptorProto)], message: &DescriptorProto, member: usize) -> Vec<u8> {
    let mut fields: Vec<&FieldDescriptorProto> = message.field.iter().collect();
    fields.sort_by_key(|field| field.number());
    let mut bytes = Vec::new();
    let mut seen = 0;
    for one in fields {
        if one.oneof_index.is_some() {
            seen += 1;
            if seen != member + 1 {
                continue;
            }
        }
        field(all, one, &mut bytes);
    }
    bytes
}

/// The files there must be, and what a new one holds.
fn expected() -> Vec<(String, Vec<u8>)> {
    let all = descriptors();
    let mut files = Vec::new();
    for (name, descriptor) in &all {
        let members: Vec<&str> = descriptor
            .field
            .iter()
            .filter(|field| field.oneof_index.is_some())
            .map(|field| field.name())
            .collect();
        if members.is_empty() {
            files.push((name.clone(), message(&all, descriptor, 0)));
        }
        for (number, member) in members.iter().enumerate() {
            files.push((format!("{name}-{member}"), message(&all, descriptor, number)));
        }
    }
    files
}

#[test]
fn case_78_every_message_ever_recorded_decodes_and_loses_nothing() {
    let record = std::env::var_os("PLATEAU_RECORD").is_some();
    for (name, new) in expected() {
        let path = folder().join(format!("{name}.bin"));
        if record && !path.exists() {
            std::fs::write(&path, new).unwrap();
        }
        assert!(path.exists(), "{} is not recorded (see the head of this file)", path.display());
    }
    let mut seen = 0;
    for entry in std::fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_str().unwrap();
        let name = stem.split('-').next().unwrap();
        let (_, again) = MESSAGES
            .iter()
            .find(|(known, _)| *known == name)
            .unwrap_or_else(|| panic!("{stem}: the message is gone; old peers still send it"));
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(again(&bytes).unwrap(), bytes, "{stem} is not what it was");
        seen += 1;
    }
    assert!(seen >= MESSAGES.len(), "{seen} files of {} messages", MESSAGES.len());
}

#[test]
fn the_list_of_messages_is_complete() {
    let known: Vec<&str> = MESSAGES.iter().map(|(name, _)| *name).collect();
    let all: Vec<String> = descriptors().into_iter().map(|(name, _)| name).collect();
    assert_eq!(known, all);
}
