//! TLS, tokens and roles: who is let in, to what, and for how long.

use std::path::PathBuf;
use std::str::FromStr as _;

use plateau_coordinator::access::{CA_FILE, KeysFolder, Role};
use plateau_coordinator::{Options, Running, start};
use plateau_proto::connection::{Channel, Credentials, Route};
use plateau_proto::v1;
use plateau_proto::v1::plateau_service_client::PlateauServiceClient;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status};

use crate::support::*;

/// A coordinator with keys, and one token for each role.
struct Locked {
    folder: tempfile::TempDir,
    keys: KeysFolder,
    running: Running,
}

impl Locked {
    async fn start() -> Locked {
        let folder = tempfile::tempdir().unwrap();
        let keys = KeysFolder::create(&folder.path().join("keys"), &[]).unwrap();
        let locked = |running, folder, keys| Locked { folder, keys, running };
        for role in Role::ALL {
            write_token(&folder, role.name(), keys.tokens().add(role.name(), role, 0).unwrap().reveal());
        }
        let running = start(options(&folder, "127.0.0.1:0", true)).await.unwrap();
        locked(running, folder, keys)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn url(&self) -> String {
        format!("https://{}", self.running.local_addr)
    }

    /// A channel with the token in this file; `None`: without one.
    async fn channel(&self, token: Option<&str>) -> Channel {
        let credentials = Credentials {
            ca: Some(self.path("keys").join(CA_FILE)),
            token_file: token.map(|name| self.path(name)),
        };
        Route::new(&self.url(), &credentials).unwrap().connect().await.unwrap()
    }

    async fn client(&self, token: &str) -> PlateauServiceClient<Channel> {
        PlateauServiceClient::new(self.channel(Some(token)).await)
    }
}

fn options(folder: &tempfile::TempDir, listen: &str, keys: bool) -> Options {
    Options {
        data_dir: folder.path().join("data"),
        listen: listen.parse().unwrap(),
        checkpoint_store: None,
        keys: keys.then(|| folder.path().join("keys")),
    }
}

fn write_token(folder: &tempfile::TempDir, name: &str, token: &str) {
    let path = folder.path().join(name);
    std::fs::write(&path, token).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
}

/// Calls any method with an empty message.
async fn call(channel: Channel, path: &str) -> Result<(), Status> {
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.unwrap();
    let path = http::uri::PathAndQuery::from_str(path).unwrap();
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    let call = grpc.server_streaming(Request::new(()), path, codec);
    tokio::time::timeout(PATIENCE, call).await.expect("no answer").map(|_| ())
}

/// Every method of `plateau.v1`, by its path.
fn methods() -> Vec<String> {
    let set = prost_types::FileDescriptorSet::decode(plateau_proto::FILE_DESCRIPTOR_SET).unwrap();
    let mut methods = Vec::new();
    for file in &set.file {
        for service in &file.service {
            for method in &service.method {
                methods.push(format!("/{}.{}/{}", file.package(), service.name(), method.name()));
            }
        }
    }
    methods
}

/// The role each method needs, said a second time: what changes and what only reads is decided here, by hand.
fn expected(path: &str) -> Option<Role> {
    let (service, method) = path.rsplit_once('/').unwrap();
    match (service, method) {
        ("/plateau.v1.AgentService", _) => Some(Role::Agent),
        (
            "/plateau.v1.PlateauService",
            "Submit" | "Cancel" | "Pause" | "Resume" | "Extend" | "Requeue" | "Drain" | "Undrain"
            | "DeleteSweep" | "CollectGarbage",
        ) => Some(Role::Submit),
        ("/plateau.v1.PlateauService", method)
            if ["List", "Get", "Describe", "Watch", "Explain", "Fetch"]
                .iter()
                .any(|reading| method.starts_with(reading)) =>
        {
            Some(Role::Read)
        }
        ("/grpc.reflection.v1.ServerReflection", _) => Some(Role::Read),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn case_61_every_method_lets_its_roles_in_and_nobody_else() {
    let locked = Locked::start().await;
    let mut paths = methods();
    assert!(paths.len() >= 19, "{paths:?}");
    paths.push("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo".to_owned());
    for path in &paths {
        let needed = expected(path).unwrap_or_else(|| panic!("{path} has no role: see `access/methods.rs`"));
        let status = call(locked.channel(None).await, path).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated, "{path} without a token: {status}");
        for role in Role::ALL {
            let answer = call(locked.channel(Some(role.name())).await, path).await;
            let code = answer.err().map_or(Code::Ok, |status| status.code());
            let refused =
                matches!(code, Code::Unauthenticated | Code::PermissionDenied | Code::Unimplemented);
            assert_eq!(refused, !role.includes(needed), "{path} as {}: {code:?}", role.name());
            assert!(!refused || code == Code::PermissionDenied, "{path} as {}: {code:?}", role.name());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_open_and_what_is_not_listed_is_closed() {
    let locked = Locked::start().await;
    call(locked.channel(None).await, "/grpc.health.v1.Health/Check").await.unwrap();
    for path in ["/plateau.v1.PlateauService/Rob", "/plateau.v1.PlateauService/Submit/", "/", "/metrics"] {
        let code = call(locked.channel(None).await, path).await.unwrap_err().code();
        assert_eq!(code, Code::Unauthenticated, "{path}");
        let code = call(locked.channel(Some("submit")).await, path).await.unwrap_err().code();
        assert_eq!(code, Code::Unimplemented, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn case_61_missing_wrong_and_revoked_tokens_get_one_answer() {
    let locked = Locked::start().await;
    let path = "/plateau.v1.PlateauService/ListSweeps";
    locked.client("read").await.list_sweeps(v1::ListSweepsRequest {}).await.unwrap();
    let missing = call(locked.channel(None).await, path).await.unwrap_err();
    let good = std::fs::read_to_string(locked.path("read")).unwrap();
    let mut answers = Vec::new();
    let last = if good.ends_with('0') { "1" } else { "0" };
    write_token(&locked.folder, "wrong", &format!("{}{last}", &good[..good.len() - 1]));
    answers.push(call(locked.channel(Some("wrong")).await, path).await.unwrap_err());
    for header in ["", "Bearer", "Bearer ", "Basic cmVhZA==", good.trim(), &format!("bearer {good}")] {
        let mut service = PlateauServiceClient::new(locked.channel(None).await);
        let mut request = Request::new(v1::ListSweepsRequest {});
        request.metadata_mut().insert("authorization", header.parse().unwrap());
        answers.push(service.list_sweeps(request).await.unwrap_err());
    }
    locked.keys.tokens().revoke("read").unwrap();
    let until = tokio::time::Instant::now() + PATIENCE;
    loop {
        match call(locked.channel(Some("read")).await, path).await {
            Err(status) => break answers.push(status),
            Ok(()) => assert!(tokio::time::Instant::now() < until, "a revoked token is still good"),
        }
    }
    for status in answers {
        assert_eq!((status.code(), status.message()), (Code::Unauthenticated, missing.message()));
    }
    // The list itself gone, nobody is let in.
    std::fs::remove_file(locked.keys.tokens().path()).unwrap();
    while call(locked.channel(Some("submit")).await, path).await.is_ok() {
        assert!(tokio::time::Instant::now() < until, "tokens are good without a list");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn case_61_a_revoked_agent_loses_its_session_and_goes_on_with_a_new_token() {
    let locked = Locked::start().await;
    let mut client = locked.client("submit").await;
    submit(&mut client, STUDY).await;
    let connect = async |token: &str, held| {
        Agent::over(locked.channel(Some(token)).await, "a", "first start", held).await
    };
    let other = locked.keys.tokens().add("second", Role::Agent, 0).unwrap();
    write_token(&locked.folder, "second", other.reveal());
    let mut agent = connect("agent", Vec::new()).await.unwrap();
    let cohort = agent.ask().await;
    agent.started(&cohort[0]).await.unwrap();
    locked.keys.tokens().revoke("agent").unwrap();
    let end = loop {
        if let Err(status) = agent.next().await {
            break status;
        }
    };
    assert_eq!(end.code(), Code::Unauthenticated, "{end}");
    let held: Vec<_> = cohort.iter().filter_map(|lease| lease.key.clone()).collect();
    let refused = connect("agent", held.clone()).await.err().expect("a revoked token opens no session");
    assert_eq!(refused.code(), Code::Unauthenticated);
    // Its leases run on meanwhile; with a new token it reports under the same attempts.
    let mut agent = connect("second", held).await.unwrap();
    agent.train(&cohort).await;
    let done = counts(&mut client, "tiny").await;
    assert_eq!(done.completed, cohort.len() as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn case_61_revoking_ends_streams_in_both_directions() {
    let locked = Locked::start().await;
    let mut client = locked.client("submit").await;
    submit(&mut client, STUDY).await;
    let mut agent = Agent::over(locked.channel(Some("agent")).await, "a", "x", Vec::new()).await.unwrap();
    let lease = agent.ask().await.remove(0);
    agent.started(&lease).await.unwrap();
    let mut watching = locked.client("read").await;
    let request = v1::WatchRequest { sweep: "tiny".to_owned() };
    let mut pictures = watching.watch(request).await.unwrap().into_inner();
    pictures.message().await.unwrap().expect("a first picture");

    // An upload that goes on and on: its answer comes at the end, so only its requests can be stopped.
    let (pieces, receiver) = mpsc::channel(1);
    let part = |part| v1::UploadCheckpointRequest { part: Some(part) };
    let chunk =
        |chunk| part(v1::upload_checkpoint_request::Part::Chunk(v1::CheckpointChunk { part: Some(chunk) }));
    let mut large = manifest(&lease, 5, b"weights");
    large.files[0].bytes = 1 << 30;
    let header = v1::upload_checkpoint_request::Header { lease: lease.key.clone(), step: 5 };
    let mut uploading = agent.service.clone();
    let upload =
        tokio::spawn(async move { uploading.upload_checkpoint(ReceiverStream::new(receiver)).await });
    pieces.send(part(v1::upload_checkpoint_request::Part::Header(header))).await.unwrap();
    let bytes = serde_json::to_vec(&large).unwrap();
    pieces.send(chunk(v1::checkpoint_chunk::Part::Manifest(bytes))).await.unwrap();

    for role in ["agent", "read"] {
        locked.keys.tokens().revoke(role).unwrap();
    }
    let mut offset = 0;
    let until = tokio::time::Instant::now() + PATIENCE;
    while !upload.is_finished() {
        assert!(tokio::time::Instant::now() < until, "an upload goes on under a revoked token");
        let data = vec![0; 1024];
        let piece = v1::checkpoint_chunk::FileBytes { name: large.files[0].name.clone(), offset, data };
        offset += 1024;
        // Closed once the upload is refused.
        let _ = pieces.send(chunk(v1::checkpoint_chunk::Part::Data(piece))).await;
    }
    assert_eq!(upload.await.unwrap().unwrap_err().code(), Code::Unauthenticated);
    let end = loop {
        match tokio::time::timeout(PATIENCE, pictures.message()).await.expect("pictures without end") {
            Ok(picture) => assert!(picture.is_some(), "the stream ended as if all was well"),
            Err(status) => break status,
        }
    };
    assert_eq!(end.code(), Code::Unauthenticated, "{end}");
    assert_eq!(counts(&mut client, "tiny").await.completed, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_authority_and_the_wrong_scheme_are_refused() {
    let locked = Locked::start().await;
    let other = KeysFolder::create(&locked.path("other"), &[]).unwrap();
    let reach = async |url: String, ca: PathBuf| {
        let route = Route::new(&url, &Credentials { ca: Some(ca), token_file: None }).unwrap();
        let channel = match route.connect().await {
            Ok(channel) => channel,
            Err(error) => return Err(plateau_proto::connection::innermost(&error)),
        };
        call(channel, "/grpc.health.v1.Health/Check").await.map_err(|status| status.to_string())
    };
    let ours = locked.path("keys").join(CA_FILE);
    reach(locked.url(), ours.clone()).await.unwrap();
    reach(locked.url().replace("127.0.0.1", "localhost"), ours.clone()).await.unwrap();
    let wrong = reach(locked.url(), other.ca_file()).await.unwrap_err();
    assert!(wrong.contains("certificate"), "{wrong}");
    let plain = format!("http://{}", locked.running.local_addr);
    reach(plain, ours.clone()).await.unwrap_err();
    let open = coordinator(&locked.path("open")).await;
    reach(format!("https://{}", open.local_addr), ours.clone()).await.unwrap_err();
    // Whom the certificate does not name is not believed: 127.0.0.2 is this host too, but not in it.
    let all = tempfile::tempdir().unwrap();
    KeysFolder::create(&all.path().join("keys"), &[]).unwrap().tokens().add("a", Role::Read, 0).unwrap();
    let everywhere = start(options(&all, "0.0.0.0:0", true)).await.unwrap();
    let url = format!("https://127.0.0.2:{}", everywhere.local_addr.port());
    let misnamed = reach(url, all.path().join("keys").join(CA_FILE)).await.unwrap_err();
    assert!(misnamed.contains("not valid for name"), "{misnamed}");
    // None of this disturbed anybody.
    reach(locked.url(), ours).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_loopback_keys_are_needed_and_kept_to_oneself() {
    let folder = tempfile::tempdir().unwrap();
    for listen in ["0.0.0.0:0", "[::]:0"] {
        let text = format!("{:#}", start(options(&folder, listen, false)).await.err().unwrap());
        assert!(text.contains("plateau keys init"), "{text}");
    }
    let text = format!("{:#}", start(options(&folder, "0.0.0.0:0", true)).await.err().unwrap());
    assert!(text.contains("reading the keys in"), "{text}");
    let keys = KeysFolder::create(&folder.path().join("keys"), &[]).unwrap();
    keys.tokens().add("a", Role::Read, 0).unwrap();
    let exposed = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(keys.tokens().path(), exposed).unwrap();
    let text = format!("{:#}", start(options(&folder, "0.0.0.0:0", true)).await.err().unwrap());
    assert!(text.contains("chmod 600"), "{text}");
}
