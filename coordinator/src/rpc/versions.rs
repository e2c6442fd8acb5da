//! Callers that speak no version of the protocol in common with this build are told so, before anything of a message is
//! read.

use std::pin::Pin;
use std::task::{Context, Poll};

use http::{HeaderMap, Request, Response};
use plateau_proto::protocol::{HEADER, OURS, Protocols};
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

/// Looks at the versions of every call.
#[derive(Clone, Copy)]
pub struct Versions;

impl<S> Layer<S> for Versions {
    type Service = Versioned<S>;

    fn layer(&self, inner: S) -> Versioned<S> {
        Versioned { inner }
    }
}

/// Services that are called in a version they speak.
#[derive(Clone)]
pub struct Versioned<S> {
    inner: S,
}

impl<S> Service<Request<Body>> for Versioned<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        match check(request.headers()) {
            Ok(()) => Box::pin(self.inner.call(request)),
            Err(status) => Box::pin(async move { Ok(status.into_http()) }),
        }
    }
}

fn check(headers: &HeaderMap) -> Result<(), Status> {
    let Some(header) = headers.get(HEADER) else { return Ok(()) };
    let theirs = header.to_str().ok().and_then(Protocols::parse);
    let theirs = theirs.ok_or_else(|| {
        Status::invalid_argument(format!("the header `{HEADER}` is not a range of versions (`1-2`)"))
    })?;
    negotiate("the caller", theirs).map(|_| ())
}

/// The version to speak with `who`, or why there is none.
pub fn negotiate(who: &str, theirs: Protocols) -> Result<u32, Status> {
    theirs.common(OURS).ok_or_else(|| {
        let advice = match theirs.is_newer_than(OURS) {
            true => "update the coordinator, or use a program of its version",
            false => "update the program to the coordinator's version",
        };
        Status::failed_precondition(format!(
            "{who} speaks {theirs}, this coordinator (version {}) {OURS}: {advice}",
            env!("CARGO_PKG_VERSION")
        ))
    })
}
