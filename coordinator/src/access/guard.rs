//! The guard in front of all services: looks up what a method needs, and lets a call through or not.
//!
//! It stands before anything of a message is read. A call that is let through stays bound to its token: when the token is
//! revoked, streams in both directions end.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use super::{Grant, Live, Need, need};

/// Puts the guard in front of the services. Without tokens it lets everybody through: the server is on loopback.
#[derive(Clone)]
pub struct Guard {
    live: Option<Arc<Live>>,
}

impl Guard {
    /// Guards with these tokens; `None`: nobody is asked.
    pub fn new(live: Option<Arc<Live>>) -> Self {
        Guard { live }
    }
}

impl<S> Layer<S> for Guard {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { live: self.live.clone(), inner }
    }
}

/// Services behind the guard.
#[derive(Clone)]
pub struct Guarded<S> {
    live: Option<Arc<Live>>,
    inner: S,
}

impl<S> Service<Request<Body>> for Guarded<S>
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
        let Some(live) = &self.live else { return Box::pin(self.inner.call(request)) };
        let grant = match admit(live, request.uri().path(), request.headers()) {
            Ok(None) => return Box::pin(self.inner.call(request)),
            Ok(Some(grant)) => grant,
            Err(status) => return Box::pin(async move { Ok(status.into_http()) }),
        };
        let revoked = grant.revoked();
        let answer = self.inner.call(request.map(|body| Body::new(Bound::new(body, grant.revoked(), false))));
        Box::pin(async move { Ok(answer.await?.map(|body| Body::new(Bound::new(body, revoked, true)))) })
    }
}

/// Whether a call is let through, and under which token.
fn admit(live: &Live, path: &str, headers: &HeaderMap) -> Result<Option<Grant>, Status> {
    let need = need(path);
    if need == Some(Need::Nothing) {
        return Ok(None);
    }
    // One answer for a missing, malformed, wrong and revoked token: which it was is nobody's business.
    let Some(grant) = bearer(headers).and_then(|token| live.check(token)) else {
        live.count_refusal();
        return Err(unauthenticated());
    };
    match need {
        Some(Need::Role(needed)) if grant.role.includes(needed) => Ok(Some(grant)),
        Some(Need::Role(needed)) => {
            tracing::warn!(token = grant.name, method = path, "a token's role does not allow a call");
            Err(Status::permission_denied(format!(
                "this needs a token with the role `{}`; this one has the role `{}`",
                needed.name(),
                grant.role.name()
            )))
        }
        Some(Need::Nothing) => Ok(None),
        None => Err(Status::unimplemented("there is no such method")),
    }
}

fn unauthenticated() -> Status {
    Status::unauthenticated("a valid token is required (--token-file FILE)")
}

/// The token of an `authorization: Bearer …` header.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    headers.get(AUTHORIZATION)?.as_bytes().strip_prefix(b"Bearer ")
}

/// A body that ends when a token is revoked: as an error to its reader, or, on the way to a client, as the status that
/// closes the call.
struct Bound {
    body: Body,
    revoked: Pin<Box<dyn Future<Output = ()> + Send>>,
    outgoing: bool,
    closed: bool,
}

impl Bound {
    fn new(body: Body, revoked: impl Future<Output = ()> + Send + 'static, outgoing: bool) -> Self {
        Bound { body, revoked: Box::pin(revoked), outgoing, closed: false }
    }
}

impl http_body::Body for Bound {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.closed {
            return Poll::Ready(None);
        }
        if self.revoked.as_mut().poll(context).is_ready() {
            self.closed = true;
            let status = unauthenticated();
            if !self.outgoing {
                return Poll::Ready(Some(Err(status)));
            }
            let mut trailers = HeaderMap::new();
            return Poll::Ready(Some(status.add_header(&mut trailers).map(|()| Frame::trailers(trailers))));
        }
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.closed || self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}
