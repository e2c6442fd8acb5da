//! Peers of other versions: refused with both versions and what to do, or served in a version that both speak.

use plateau_proto::connection::Channel;
use plateau_proto::protocol::{HEADER, PROTOCOL};
use plateau_proto::v1;
use plateau_proto::v1::agent_message::{Body as Say, Hello};
use plateau_proto::v1::agent_service_client::AgentServiceClient;
use plateau_proto::v1::coordinator_message::Body as Hear;
use plateau_proto::v1::plateau_service_client::PlateauServiceClient;
use tonic::{Code, Request, Status};

use crate::support::*;

/// The version that a session with an agent of these versions is welcomed in.
async fn welcome(channel: Channel, oldest: u32, newest: u32) -> Result<u32, Status> {
    let hello = Hello {
        protocol: newest,
        oldest_protocol: oldest,
        version: "9.9.9".to_owned(),
        name: "a".to_owned(),
        incarnation: "first start".to_owned(),
        device: "cpu".to_owned(),
        max_cohort: 1,
        ..Hello::default()
    };
    let first = v1::AgentMessage { sequence: 0, body: Some(Say::Hello(hello)) };
    let messages = futures::StreamExt::chain(tokio_stream::iter([first]), tokio_stream::pending());
    let mut session = AgentServiceClient::new(channel).session(messages).await?.into_inner();
    match session.message().await?.and_then(|message| message.body) {
        Some(Hear::Welcome(welcome)) => Ok(welcome.protocol),
        other => panic!("{other:?} instead of a welcome"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn case_78_agents_of_other_versions_are_refused_or_spoken_to_in_a_common_one() {
    let data = tempfile::tempdir().unwrap();
    let running = coordinator(data.path()).await;
    // From before there was a range, of this version, and of a newer one that still speaks this one.
    for (oldest, newest) in [(0, PROTOCOL), (PROTOCOL, PROTOCOL), (1, PROTOCOL + 3)] {
        let version = welcome(channel(&running).await, oldest, newest).await.unwrap();
        assert_eq!(version, PROTOCOL, "{oldest} to {newest}");
    }
    let newer = welcome(channel(&running).await, PROTOCOL + 1, PROTOCOL + 3).await.unwrap_err();
    assert_eq!(newer.code(), Code::FailedPrecondition);
    let ours = format!("version {PROTOCOL} of the protocol");
    let theirs = format!("versions {} to {} of the protocol", PROTOCOL + 1, PROTOCOL + 3);
    for part in [&ours, &theirs, "9.9.9", "update the coordinator"] {
        assert!(newer.message().contains(part), "{part}: {newer}");
    }
    for (oldest, newest) in [(0, 0), (3, 2)] {
        let status = welcome(channel(&running).await, oldest, newest).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{oldest} to {newest}: {status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn case_78_clients_of_other_versions_are_refused_before_anything_is_read() {
    let data = tempfile::tempdir().unwrap();
    let running = coordinator(data.path()).await;
    let url = format!("http://{}", running.local_addr);
    let plain = tonic::transport::Endpoint::from_shared(url).unwrap().connect().await.unwrap();
    let mut client = PlateauServiceClient::new(plain);
    let mut list = async |versions: Option<&str>| {
        let mut request = Request::new(v1::ListSweepsRequest {});
        if let Some(versions) = versions {
            request.metadata_mut().insert(HEADER, versions.parse().unwrap());
        }
        client.list_sweeps(request).await.map(|_| ())
    };
    // A script that says nothing of versions, and clients that have one in common.
    for versions in [None, Some("1-1"), Some("1-7")] {
        list(versions).await.unwrap_or_else(|status| panic!("{versions:?}: {status}"));
    }
    let status = list(Some("8-9")).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("versions 8 to 9") && status.message().contains("update"), "{status}");
    assert_eq!(list(Some("new")).await.unwrap_err().code(), Code::InvalidArgument);
}
