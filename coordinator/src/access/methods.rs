//! The role each gRPC method needs. A method that is not listed is refused to everybody, so forgetting one cannot open it.

use super::Role;

/// What a call needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// No token: it says nothing about studies, and probes of load balancers carry none.
    Nothing,
    /// A token whose role includes this one.
    Role(Role),
}

const AGENT: Need = Need::Role(Role::Agent);
const SUBMIT: Need = Need::Role(Role::Submit);
const READ: Need = Need::Role(Role::Read);

/// Every method that is served, by its path.
const METHODS: [(&str, Need); 29] = [
    ("/grpc.health.v1.Health/Check", Need::Nothing),
    ("/grpc.health.v1.Health/List", Need::Nothing),
    ("/grpc.health.v1.Health/Watch", Need::Nothing),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", READ),
    ("/plateau.v1.AgentService/DownloadCheckpoint", AGENT),
    ("/plateau.v1.AgentService/Session", AGENT),
    ("/plateau.v1.AgentService/UploadCheckpoint", AGENT),
    ("/plateau.v1.PlateauService/Cancel", SUBMIT),
    ("/plateau.v1.PlateauService/CollectGarbage", SUBMIT),
    ("/plateau.v1.PlateauService/DeleteSweep", SUBMIT),
    ("/plateau.v1.PlateauService/DescribeSweep", READ),
    ("/plateau.v1.PlateauService/DescribeTrial", READ),
    ("/plateau.v1.PlateauService/Drain", SUBMIT),
    ("/plateau.v1.PlateauService/Explain", READ),
    ("/plateau.v1.PlateauService/Extend", SUBMIT),
    ("/plateau.v1.PlateauService/FetchCheckpoint", READ),
    ("/plateau.v1.PlateauService/GetLogs", READ),
    ("/plateau.v1.PlateauService/GetResults", READ),
    ("/plateau.v1.PlateauService/ListAgents", READ),
    ("/plateau.v1.PlateauService/ListCheckpoints", READ),
    ("/plateau.v1.PlateauService/ListSweeps", READ),
    ("/plateau.v1.PlateauService/ListThroughput", READ),
    ("/plateau.v1.PlateauService/ListTrials", READ),
    ("/plateau.v1.PlateauService/Pause", SUBMIT),
    ("/plateau.v1.PlateauService/Requeue", SUBMIT),
    ("/plateau.v1.PlateauService/Resume", SUBMIT),
    ("/plateau.v1.PlateauService/Submit", SUBMIT),
    ("/plateau.v1.PlateauService/Undrain", SUBMIT),
    ("/plateau.v1.PlateauService/Watch", READ),
];

/// What a call of the method at `path` needs; `None`: there is no such method.
pub fn need(path: &str) -> Option<Need> {
    METHODS.iter().find(|(method, _)| *method == path).map(|(_, need)| *need)
}
