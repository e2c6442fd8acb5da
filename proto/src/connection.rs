//! How agents and clients reach a coordinator: which addresses are accepted, TLS, and the token on every call.
//!
//! A coordinator on loopback needs nothing but its address. Everything else is `https://`, believed only with the
//! certificate of the coordinator's own authority (`ca.pem` of its keys folder), and asks for a token, which is read from a
//! file that nobody else can read. A token never stands in an argument, a URL, an error or a log, and is never sent in clear.

use std::fs::File;
use std::io::{self, Read as _};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};
use tonic::{Request, Status};

use crate::protocol::{HEADER, OURS};

/// What every token begins with, so that searches for leaked secrets find it.
pub const TOKEN_PREFIX: &str = "plateau_";
/// Hexadecimal digits after it.
const TOKEN_DIGITS: usize = 64;
/// Bytes read of a token file at most.
const MAX_TOKEN_FILE_BYTES: u64 = 4096;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEPALIVE_ANSWER: Duration = Duration::from_secs(10);

/// A channel that puts the versions spoken and the token on every call.
pub type Channel = InterceptedService<tonic::transport::Channel, Bearer>;

/// What is needed besides an address to reach a coordinator beyond loopback.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credentials {
    /// Certificate of the authority that signed the coordinator's.
    pub ca: Option<PathBuf>,
    /// File that holds the token.
    pub token_file: Option<PathBuf>,
}

/// Why a coordinator is not even tried.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// Not an address.
    #[error(
        "`{0}` is not the address of a coordinator (expected e.g. http://127.0.0.1:7733 or https://node1:7733)"
    )]
    BadAddress(String),
    /// Something before an `@`.
    #[error(
        "the address of a coordinator carries no name or password: give the token with --token-file FILE"
    )]
    SecretInAddress,
    /// TLS without anything to check the certificate with.
    #[error(
        "{0} is encrypted: name the certificate to believe it by with --ca FILE (`ca.pem` of the coordinator's keys)"
    )]
    NoAuthority(String),
    /// A token would travel in clear.
    #[error(
        "{0} is not encrypted: the token is not sent there. Use https:// (`plateau keys init` makes the certificates), or a tunnel to 127.0.0.1"
    )]
    TokenInClear(String),
    /// A file cannot be read.
    #[error("reading {what} {}: {source}", path.display())]
    Unreadable {
        /// What it holds.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Others can read the token.
    #[error("the token file {} can be read by other users (mode {mode:o}): run `chmod 600 {}`", path.display(), path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// There is no token in it.
    #[error("{} does not hold a token (one line, `{TOKEN_PREFIX}` and {TOKEN_DIGITS} digits, as `plateau keys token add` prints it)", .0.display())]
    NoToken(PathBuf),
    /// The certificate cannot be used.
    #[error("{} is not a certificate in PEM form (expected `ca.pem` of the coordinator's keys)", .0.display())]
    BadAuthority(PathBuf),
}

/// An address that has been looked at, with what goes along with it.
#[derive(Clone, Debug)]
pub struct Route {
    endpoint: Endpoint,
    bearer: Bearer,
}

impl Route {
    /// The route to `url` (`http://…` or `https://…`) with these credentials.
    pub fn new(url: &str, credentials: &Credentials) -> Result<Route, ConnectionError> {
        let bad = || ConnectionError::BadAddress(url.escape_debug().to_string());
        let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|_| bad())?;
        let uri = endpoint.uri().clone();
        let host = uri.host().ok_or_else(bad)?.trim_matches(['[', ']']).to_owned();
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err(ConnectionError::SecretInAddress);
        }
        let endpoint = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_ANSWER)
            .keep_alive_while_idle(true)
            .tcp_nodelay(true);
        let token_file = credentials.token_file.as_deref();
        match uri.scheme_str() {
            // On loopback nobody is asked for a token, and whoever listens there gets none.
            Some("http") if is_loopback(&host) => Ok(Route { endpoint, bearer: Bearer::default() }),
            Some("http") if token_file.is_some() => Err(ConnectionError::TokenInClear(url.to_owned())),
            Some("http") => Ok(Route { endpoint, bearer: Bearer::default() }),
            Some("https") => {
                let ca =
                    credentials.ca.as_deref().ok_or_else(|| ConnectionError::NoAuthority(url.to_owned()))?;
                let tls = ClientTlsConfig::new().ca_certificate(authority(ca)?).domain_name(host);
                let endpoint =
                    endpoint.tls_config(tls).map_err(|_| ConnectionError::BadAuthority(ca.to_owned()))?;
                Ok(Route { endpoint, bearer: Bearer::from_file(token_file)? })
            }
            _ => Err(bad()),
        }
    }

    /// Connects now; fails if nothing answers.
    pub async fn connect(&self) -> Result<Channel, tonic::transport::Error> {
        Ok(InterceptedService::new(self.endpoint.connect().await?, self.bearer.clone()))
    }

    /// A channel that connects when it is used, and again whenever it has lost its connection.
    pub fn connect_lazy(&self) -> Channel {
        InterceptedService::new(self.endpoint.connect_lazy(), self.bearer.clone())
    }

    /// [`Route::connect_lazy`] with a connection that `connect` makes of the endpoint: for a network that is not this
    /// machine's.
    pub fn connect_by(&self, connect: impl FnOnce(&Endpoint) -> tonic::transport::Channel) -> Channel {
        InterceptedService::new(connect(&self.endpoint), self.bearer.clone())
    }

    /// Reads the token file again, for calls from now on: a token is renewed without a restart.
    pub fn reload(&self) -> Result<(), ConnectionError> {
        self.bearer.reload()
    }
}

/// Whether a host name or address means this very machine.
fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn authority(path: &Path) -> Result<Certificate, ConnectionError> {
    let unreadable =
        |source| ConnectionError::Unreadable { what: "the certificate", path: path.to_owned(), source };
    let pem = std::fs::read_to_string(path).map_err(unreadable)?;
    if !pem.contains("-----BEGIN CERTIFICATE-----") {
        return Err(ConnectionError::BadAuthority(path.to_owned()));
    }
    Ok(Certificate::from_pem(pem))
}

/// Puts the versions spoken on calls, and `authorization: Bearer TOKEN` where there is a token.
#[derive(Clone, Debug, Default)]
pub struct Bearer {
    source: Option<Arc<Source>>,
}

struct Source {
    path: PathBuf,
    header: RwLock<MetadataValue<Ascii>>,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Source").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Bearer {
    fn from_file(path: Option<&Path>) -> Result<Self, ConnectionError> {
        let Some(path) = path else { return Ok(Bearer::default()) };
        let source = Source { path: path.to_owned(), header: RwLock::new(read_token(path)?) };
        Ok(Bearer { source: Some(Arc::new(source)) })
    }

    fn reload(&self) -> Result<(), ConnectionError> {
        if let Some(source) = &self.source {
            let header = read_token(&source.path)?;
            *source.header.write().unwrap_or_else(PoisonError::into_inner) = header;
        }
        Ok(())
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Ok(versions) = OURS.header().parse() {
            request.metadata_mut().insert(HEADER, versions);
        }
        if let Some(source) = &self.source {
            let header = source.header.read().unwrap_or_else(PoisonError::into_inner).clone();
            request.metadata_mut().insert("authorization", header);
        }
        Ok(request)
    }
}

/// The header with the token in this file. It is marked as sensitive: not kept in compression tables, not printed.
fn read_token(path: &Path) -> Result<MetadataValue<Ascii>, ConnectionError> {
    let unreadable =
        |source| ConnectionError::Unreadable { what: "the token file", path: path.to_owned(), source };
    let file = File::open(path).map_err(unreadable)?;
    let mode = file.metadata().map_err(unreadable)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(ConnectionError::Exposed { path: path.to_owned(), mode });
    }
    let mut text = String::new();
    file.take(MAX_TOKEN_FILE_BYTES).read_to_string(&mut text).map_err(unreadable)?;
    bearer(&text).ok_or_else(|| ConnectionError::NoToken(path.to_owned()))
}

/// The header that carries the token in `text`; none where there is no token in it. Debug output does not show it.
pub fn bearer(text: &str) -> Option<MetadataValue<Ascii>> {
    let digits = text.trim().strip_prefix(TOKEN_PREFIX)?;
    if digits.len() != TOKEN_DIGITS || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut header: MetadataValue<Ascii> = format!("Bearer {TOKEN_PREFIX}{digits}").parse().ok()?;
    header.set_sensitive(true);
    Some(header)
}

/// The cause at the bottom of an error: `transport error` alone tells nobody that a certificate was not believed.
pub fn innermost(error: &dyn std::error::Error) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token_file(content: &str, mode: u32) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        (folder, path)
    }

    fn token() -> String {
        format!("{TOKEN_PREFIX}{}", "0123456789abcdef".repeat(4))
    }

    #[test]
    fn loopback_needs_nothing_and_is_sent_no_token() {
        let (_folder, path) = token_file(&token(), 0o600);
        let credentials = Credentials { ca: None, token_file: Some(path) };
        for url in
            ["http://127.0.0.1:7733", "http://127.8.8.8:1", "http://localhost:7733", "http://[::1]:7733"]
        {
            assert!(Route::new(url, &Credentials::default()).is_ok(), "{url}");
            assert!(Route::new(url, &credentials).unwrap().bearer.source.is_none(), "{url}");
        }
    }

    #[test]
    fn case_61_a_token_is_never_sent_in_clear() {
        let (_folder, path) = token_file(&token(), 0o600);
        let credentials = Credentials { ca: None, token_file: Some(path) };
        for url in [
            "http://node7:7733",
            "http://10.0.0.1:7733",
            "http://localhost.example:1",
            "http://[2001:db8::1]:1",
        ] {
            assert!(matches!(Route::new(url, &credentials), Err(ConnectionError::TokenInClear(_))), "{url}");
            assert!(Route::new(url, &Credentials::default()).is_ok(), "{url}");
        }
        assert!(matches!(
            Route::new("https://node7:7733", &credentials),
            Err(ConnectionError::NoAuthority(_))
        ));
        assert!(matches!(
            Route::new("https://plateau_0@node7:1", &credentials),
            Err(ConnectionError::SecretInAddress)
        ));
        for bad in ["", "node7", "ftp://node7:1", "http://", "https://exa mple:1"] {
            assert!(Route::new(bad, &credentials).is_err(), "{bad}");
        }
    }

    #[test]
    fn case_61_a_token_file_that_others_can_read_is_refused_with_the_chmod_to_use() {
        for mode in [0o640, 0o604, 0o660, 0o644] {
            let (_folder, path) = token_file(&token(), mode);
            let text = read_token(&path).unwrap_err().to_string();
            assert!(text.contains("chmod 600") && text.contains(&format!("{mode:o}")), "{text}");
        }
    }

    #[test]
    fn errors_never_quote_what_was_in_the_token_file() {
        let (almost, short) = (format!("{}0", token()), &token()[1..]);
        for content in ["", "hunter2", short, almost.as_str(), "plateau_\u{1f600}"] {
            let (_folder, path) = token_file(content, 0o600);
            let text = read_token(&path).unwrap_err().to_string();
            assert!(text.contains("does not hold a token"), "{text}");
            assert!(content.is_empty() || !text.contains(content), "{text}");
        }
    }

    #[test]
    fn case_78_every_call_says_which_versions_are_spoken() {
        let request = Bearer::default().call(Request::new(())).unwrap();
        let header = request.metadata().get(HEADER).unwrap().to_str().unwrap();
        assert_eq!(crate::protocol::Protocols::parse(header), Some(OURS));
    }

    #[test]
    fn a_token_is_put_on_calls_unseen_and_read_anew() {
        let (_folder, path) = token_file(&format!("{}\n", token()), 0o600);
        let mut bearer = Bearer::from_file(Some(&path)).unwrap();
        let header = |bearer: &mut Bearer| {
            let request = bearer.call(Request::new(())).unwrap();
            request.metadata().get("authorization").unwrap().clone()
        };
        let first = header(&mut bearer);
        assert_eq!(first.to_str().unwrap(), format!("Bearer {}", token()));
        assert!(!format!("{first:?} {bearer:?}").contains("0123456789"), "a token in Debug output");
        std::fs::write(&path, token().replace("0123", "3210")).unwrap();
        bearer.reload().unwrap();
        assert_ne!(header(&mut bearer), first);
    }
}
