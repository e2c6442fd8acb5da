//! What arrives on the port from who knows where: lies about lengths, malformed messages, floods, garbage. All of it is
//! refused, nobody else notices, and it takes no memory worth mentioning. The coordinator runs in this very process, whose
//! memory is what is measured.

#![allow(
    clippy::unwrap_used,
    reason = "helper functions of tests are no `#[test]` themselves, so clippy's exception does not reach them"
)]

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use plateau_coordinator::{Options, Running, start};
use plateau_proto::connection::{Channel, Credentials, Route};
use plateau_proto::v1;
use plateau_proto::v1::agent_message::{Body as Say, EndedReport, Hello, MetricsReport};
use plateau_proto::v1::agent_service_client::AgentServiceClient;
use plateau_proto::v1::plateau_service_client::PlateauServiceClient;
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::{Code, Status};

/// Longest wait for something that must come; a test that reaches it has failed.
const PATIENCE: Duration = Duration::from_secs(60);
/// Resident memory that this process, coordinator and clients together, may ever have taken.
const RESIDENT: u64 = 400 << 20;
/// Address space that one test may add. A declared length is at most 4 GiB, so one that was believed would show.
const RESERVED: u64 = 2 << 30;

const GREETING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

async fn coordinator() -> (tempfile::TempDir, Running) {
    let data = tempfile::tempdir().unwrap();
    let options = Options {
        data_dir: data.path().to_owned(),
        listen: "127.0.0.1:0".parse().unwrap(),
        checkpoint_store: None,
        keys: None,
    };
    let running = start(options).await.unwrap();
    (data, running)
}

async fn channel(running: &Running) -> Channel {
    let url = format!("http://{}", running.local_addr);
    Route::new(&url, &Credentials::default()).unwrap().connect().await.unwrap()
}

/// A client that was connected before and goes on to be served.
struct Bystander(PlateauServiceClient<Channel>);

impl Bystander {
    async fn new(running: &Running) -> Bystander {
        let mut bystander = Bystander(PlateauServiceClient::new(channel(running).await));
        bystander.is_served().await;
        bystander
    }

    async fn is_served(&mut self) {
        let call = self.0.list_sweeps(v1::ListSweepsRequest {});
        tokio::time::timeout(PATIENCE, call).await.expect("a bystander is not served").unwrap();
    }
}

/// Of `/proc/self/status`, in bytes.
fn memory(what: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(':')).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

fn assert_modest(reserved_before: u64) {
    let (resident, reserved) = (memory("VmHWM"), memory("VmPeak"));
    assert!(resident < RESIDENT, "{} MiB were taken", resident >> 20);
    assert!(
        reserved < reserved_before + RESERVED,
        "{} MiB were reserved",
        (reserved - reserved_before) >> 20
    );
}

/// Every method, by its path.
fn methods() -> Vec<String> {
    let set = prost_types::FileDescriptorSet::decode(plateau_proto::FILE_DESCRIPTOR_SET).unwrap();
    let services = set.file.iter().flat_map(|file| file.service.iter().map(move |service| (file, service)));
    let names = services.flat_map(|(file, service)| {
        service
            .method
            .iter()
            .map(move |method| format!("/{}.{}/{}", file.package(), service.name(), method.name()))
    });
    names.collect()
}

/// An HTTP/2 connection that sends whatever it is told to.
async fn raw(address: SocketAddr) -> h2::client::SendRequest<Bytes> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    // Its end is seen by the requests.
    tokio::spawn(connection);
    sender.ready().await.unwrap()
}

fn request(path: &str) -> http::Request<()> {
    http::Request::post(format!("http://coordinator{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap()
}

/// Sends these bytes as the body of a call and gives its status, whether or not the body ends.
async fn exchange(sender: &h2::client::SendRequest<Bytes>, path: &str, body: Vec<u8>, end: bool) -> Code {
    let answer = async {
        let mut sender = sender.clone().ready().await.unwrap();
        let (response, mut stream) = sender.send_request(request(path), false).unwrap();
        stream.send_data(body.into(), end).unwrap();
        let response = response.await.unwrap();
        let status = |headers: &http::HeaderMap| {
            headers.get("grpc-status").map(|code| Code::from_bytes(code.as_bytes()))
        };
        if let Some(code) = status(response.headers()) {
            return code;
        }
        let mut answer = response.into_body();
        while let Some(data) = answer.data().await {
            let length = data.unwrap().len();
            answer.flow_control().release_capacity(length).unwrap();
        }
        answer.trailers().await.unwrap().as_ref().and_then(status).expect("a status at the end")
    };
    tokio::time::timeout(PATIENCE, answer).await.unwrap_or_else(|_| panic!("{path} was not answered"))
}

/// A message as it travels: not compressed, its length, its bytes.
fn framed(message: &[u8]) -> Vec<u8> {
    let mut frame = vec![0];
    frame.extend((message.len() as u32).to_be_bytes());
    frame.extend(message);
    frame
}

#[tokio::test(flavor = "multi_thread")]
async fn case_57_a_message_that_claims_gigabytes_is_refused_before_they_come() {
    let (_data, running) = coordinator().await;
    let mut bystander = Bystander::new(&running).await;
    let before = memory("VmPeak");
    let sender = raw(running.local_addr).await;
    for path in methods() {
        for length in [u32::MAX, 1 << 30, (4 << 20) + 1] {
            // The rest never comes: what is refused is the claim.
            let mut claim = vec![0];
            claim.extend(length.to_be_bytes());
            claim.extend([0x0a; 64]);
            let code = exchange(&sender, &path, claim, false).await;
            assert_eq!(code, Code::ResourceExhausted, "{path}: {length} bytes");
        }
        // 10 GB claimed by a field within a short message.
        let field = [0x0a, 0x80, 0xc8, 0xaf, 0xa0, 0x25, 0x01];
        let code = exchange(&sender, &path, framed(&field), true).await;
        assert!(!matches!(code, Code::Ok | Code::Unknown), "{path}: {code:?}");
        // Compressed: nothing is ever unpacked.
        let mut bomb = framed(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0]);
        bomb[0] = 1;
        let code = exchange(&sender, &path, bomb, true).await;
        assert!(!matches!(code, Code::Ok | Code::Unknown), "{path}, compressed: {code:?}");
    }
    bystander.is_served().await;
    assert_modest(before);
}

#[tokio::test(flavor = "multi_thread")]
async fn case_57_many_messages_that_never_end_take_no_memory() {
    let (_data, running) = coordinator().await;
    let mut bystander = Bystander::new(&running).await;
    let before = memory("VmPeak");
    let sender = raw(running.local_addr).await;
    let mut open = Vec::new();
    for _ in 0..200 {
        let mut sender = sender.clone().ready().await.unwrap();
        let (response, mut stream) =
            sender.send_request(request("/plateau.v1.PlateauService/Submit"), false).unwrap();
        // As much as is allowed, of which a hundred bytes come.
        let mut message = vec![0];
        message.extend((4u32 << 20).to_be_bytes());
        message.extend([0; 100]);
        stream.send_data(message.into(), false).unwrap();
        open.push((response, stream));
    }
    for _ in 0..20 {
        bystander.is_served().await;
    }
    assert_modest(before);
}

#[tokio::test(flavor = "multi_thread")]
async fn case_57_a_request_that_goes_on_for_ever_is_cut_off_at_its_limit() {
    let (_data, running) = coordinator().await;
    let mut bystander = Bystander::new(&running).await;
    let before = memory("VmPeak");
    let sender = raw(running.local_addr).await;
    // One message after the other where one is expected: the first is answered only when the last has come.
    let mut sender = sender.ready().await.unwrap();
    let (response, mut stream) =
        sender.send_request(request("/plateau.v1.PlateauService/ListSweeps"), false).unwrap();
    let empty_messages = Bytes::from(vec![0u8; 5 * 13_000]);
    let sending = async {
        for _ in 0..2000 {
            stream.reserve_capacity(empty_messages.len());
            while stream.capacity() < empty_messages.len() {
                match std::future::poll_fn(|context| stream.poll_capacity(context)).await {
                    Some(Ok(_)) => {}
                    _ => return true,
                }
            }
            if stream.send_data(empty_messages.clone(), false).is_err() {
                return true;
            }
        }
        false
    };
    let cut_off = tokio::time::timeout(PATIENCE, sending).await.expect("the requests neither end nor flow");
    assert!(cut_off, "130 MB were taken for one request");
    let response = tokio::time::timeout(PATIENCE, response).await.expect("no answer");
    if let Ok(response) = response {
        let code = response.headers().get("grpc-status").map(|code| Code::from_bytes(code.as_bytes()));
        assert_eq!(code, Some(Code::ResourceExhausted));
    }
    bystander.is_served().await;
    assert_modest(before);
}

#[tokio::test(flavor = "multi_thread")]
async fn case_56_malformed_messages_are_errors_of_the_call_and_of_nothing_else() {
    let (_data, running) = coordinator().await;
    let mut bystander = Bystander::new(&running).await;
    let sender = raw(running.local_addr).await;
    let nested = |depth: usize| [vec![0x0b; depth], vec![0x0c; depth]].concat();
    let malformed: [(&str, Vec<u8>); 7] = [
        ("a tag without a value", vec![0x0a]),
        ("an endless number", vec![0xff; 11]),
        ("a length beyond the end", vec![0x0a, 0x7f, 0x00]),
        ("field 0", vec![0x02, 0x00]),
        ("wire type 7", vec![0x0f, 0x00]),
        ("groups within groups", nested(10_000)),
        ("a group that ends without beginning", vec![0x0c]),
    ];
    for path in methods() {
        for (what, message) in &malformed {
            let code = exchange(&sender, &path, framed(message), true).await;
            assert!(matches!(code, Code::Internal | Code::InvalidArgument), "{path}, {what}: {code:?}");
        }
    }
    // Text that is not UTF-8, and a number where text belongs, in the first field of each request that has one.
    for method in ["DescribeSweep", "ListTrials", "Watch", "Cancel", "Explain", "GetLogs", "FetchCheckpoint"]
    {
        let path = format!("/plateau.v1.PlateauService/{method}");
        for message in [vec![0x0a, 0x02, 0xff, 0xfe], vec![0x08, 0x01], vec![0x0d, 0, 0, 0, 0]] {
            assert_eq!(
                exchange(&sender, &path, framed(&message), true).await,
                Code::Internal,
                "{path} {message:?}"
            );
        }
    }
    bystander.is_served().await;
}

fn hello() -> Hello {
    Hello {
        protocol: plateau_proto::PROTOCOL,
        name: "a".to_owned(),
        incarnation: "x".to_owned(),
        device: "cpu".to_owned(),
        max_cohort: 1,
        ..Hello::default()
    }
}

/// The status that a session of these messages ends with.
async fn session(running: &Running, messages: Vec<Option<Say>>) -> Status {
    let mut service = AgentServiceClient::new(channel(running).await);
    let messages = messages.into_iter().zip(1..).map(|(body, sequence)| v1::AgentMessage { sequence, body });
    let messages: Vec<_> = messages.collect();
    // Left open behind them: it is the coordinator that ends it.
    let messages = futures::StreamExt::chain(tokio_stream::iter(messages), tokio_stream::pending());
    let ended = async {
        let mut incoming = match service.session(messages).await {
            Ok(response) => response.into_inner(),
            Err(status) => return status,
        };
        loop {
            match incoming.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the session ended as if all was well"),
                Err(status) => return status,
            }
        }
    };
    tokio::time::timeout(PATIENCE, ended).await.expect("the session goes on")
}

#[tokio::test(flavor = "multi_thread")]
async fn case_56_what_a_message_must_say_is_named_where_it_does_not() {
    let (_data, running) = coordinator().await;
    let mut bystander = Bystander::new(&running).await;
    let lease = Some(v1::LeaseKey { trial: "0".repeat(32), attempt: 1 });
    let ended = |ending| Say::Ended(EndedReport { lease: lease.clone(), ending, ..EndedReport::default() });
    let metrics = |metrics| Say::Metrics(MetricsReport { lease: lease.clone(), chunk: 0, metrics });
    let greeted = |body| vec![Some(Say::Hello(hello())), body];
    let released = |lease| Say::Released(v1::agent_message::Released { lease, ..Default::default() });
    let named = |name: &str| vec![Some(Say::Hello(Hello { name: name.to_owned(), ..hello() }))];
    for (field, messages) in [
        ("hello", vec![None]),
        ("hello", vec![Some(Say::Goodbye(v1::agent_message::Goodbye {}))]),
        ("hello", greeted(Some(Say::Hello(hello())))),
        ("body", greeted(None)),
        ("ending", greeted(Some(ended(None)))),
        ("ending", greeted(Some(ended(Some(v1::Ending { kind: None }))))),
        ("metrics", greeted(Some(metrics(None)))),
        (
            "metrics",
            greeted(Some(metrics(Some(v1::MetricsChunk { steps: vec![2, 1], columns: Vec::new() })))),
        ),
        ("lease", greeted(Some(released(None)))),
        ("lease", greeted(Some(released(Some(v1::LeaseKey { trial: "../../x".to_owned(), attempt: 1 }))))),
        ("lease", greeted(Some(released(Some(v1::LeaseKey { trial: "0".repeat(32), attempt: 0 }))))),
        ("name", named("")),
        ("name", named("a\nb")),
        ("name", named("\u{1b}[2J")),
        ("name", named(&"a".repeat(10_000))),
    ] {
        let status = session(&running, messages).await;
        assert_eq!(status.code(), Code::InvalidArgument, "{field}: {status}");
        assert!(status.message().contains(&format!("field `{field}`")), "{field}: {}", status.message());
        assert!(status.message().len() < 300, "{}", status.message());
    }
    // A number that this version gives no meaning is not the default of its kind.
    for format in [0, 4, 99, -1, i32::MAX] {
        let study = v1::StudySource { format, text: "name = 'x'".to_owned(), ..v1::StudySource::default() };
        let request = v1::SubmitRequest { study: Some(study), traceparent: String::new() };
        let status = bystander.0.submit(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(status.message().contains("field `format`"), "{status}");
    }
    for state in [0, 99, -1] {
        let request =
            v1::ListTrialsRequest { sweep: "last".to_owned(), states: vec![state], offset: 0, limit: 0 };
        let status = bystander.0.list_trials(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(status.message().contains("field `states`"), "{status}");
    }
    bystander.is_served().await;
}

/// Writes to a connection of its own, and reads until the coordinator has closed it.
async fn is_closed_after(address: SocketAddr, bytes: &[u8]) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The coordinator may close before all of it is written.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    // Closed in order or reset: either will do.
    assert!(read.is_ok(), "still open after {:?}", &bytes[..bytes.len().min(16)]);
    assert!(answer.len() < 100_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn case_64_bytes_that_are_no_http_2_close_their_connection_only() {
    let (_data, running) = coordinator().await;
    let mut bystander = Bystander::new(&running).await;
    let address = running.local_addr;
    let frame = |kind: u8, flags: u8, stream: u32, payload: &[u8]| {
        let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        frame
    };
    let settings = frame(4, 0, 0, &[]);
    let mut noise = vec![0u8; 65_536];
    getrandom::fill(&mut noise).unwrap();
    for bytes in [
        noise.clone(),
        b"GET / HTTP/1.1\r\nHost: coordinator\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        [GREETING, &noise[..]].concat(),
        // A frame that claims more than may be; headers of stream 0; a block of headers that decodes to nothing.
        [GREETING, &settings, &[0xff, 0xff, 0xff, 1, 4, 0, 0, 0, 1][..]].concat(),
        [GREETING, &settings, &frame(1, 4, 0, b"")].concat(),
        [GREETING, &settings, &frame(1, 4, 1, &[0xff; 64])].concat(),
    ] {
        is_closed_after(address, &bytes).await;
        bystander.is_served().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn case_64_who_says_nothing_is_sent_away() {
    let (_data, running) = coordinator().await;
    let mut bystander = Bystander::new(&running).await;
    let silent = (0..100).map(|_| is_closed_after(running.local_addr, b""));
    futures::future::join_all(silent).await;
    bystander.is_served().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn case_64_headers_without_end_close_the_connection() {
    let (_data, running) = coordinator().await;
    let mut bystander = Bystander::new(&running).await;
    let before = memory("VmPeak");
    let mut stream = TcpStream::connect(running.local_addr).await.unwrap();
    let mut flood = GREETING.to_vec();
    flood.extend([0, 0, 0, 4, 0, 0, 0, 0, 0]);
    flood.extend([0, 0, 0, 1, 0, 0, 0, 0, 1]);
    stream.write_all(&flood).await.unwrap();
    // Continuations of 16 KiB: a header with a literal name and value each, never the last one.
    let mut continuation = vec![0, 0x40, 0, 9, 0, 0, 0, 0, 1];
    continuation.extend([0x00, 0x01, b'a', 0x7f, 0xfd, 0x7e]);
    continuation.resize(9 + 0x4000, b'x');
    let flooding = async {
        for _ in 0..20_000 {
            if stream.write_all(&continuation).await.is_err() {
                return true;
            }
        }
        false
    };
    let closed = tokio::time::timeout(PATIENCE, flooding).await.expect("the flood neither ends nor flows");
    assert!(closed, "320 MB of headers were taken");
    bystander.is_served().await;
    assert_modest(before);
}

#[tokio::test(flavor = "multi_thread")]
async fn case_64_who_resets_what_he_opens_is_cut_off() {
    let (_data, running) = coordinator().await;
    let mut bystander = Bystander::new(&running).await;
    let before = memory("VmPeak");
    let mut sender = raw(running.local_addr).await;
    let mut resets = 0;
    let flood = async {
        while resets < 200_000 {
            sender = match sender.ready().await {
                Ok(sender) => sender,
                Err(_) => return true,
            };
            let Ok((_, mut stream)) = sender.send_request(request("/plateau.v1.AgentService/Session"), false)
            else {
                return true;
            };
            stream.send_reset(h2::Reason::CANCEL);
            resets += 1;
        }
        false
    };
    let cut_off = tokio::time::timeout(PATIENCE, flood).await.expect("the flood neither ends nor flows");
    assert!(cut_off, "{resets} streams were opened and reset");
    bystander.is_served().await;
    assert_modest(before);
}
