//! A bound on what a call with a single request may send: one message, and not a stream of them that nobody reads.
//!
//! After its first message a unary call is read to its end; without this bound a peer could go on for as long as it liked.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes};
use http::Request;
use http_body::Frame;
use plateau_common::limits;
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

/// Methods whose requests are streams; each bounds its own.
const STREAMS: [&str; 3] = [
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/plateau.v1.AgentService/Session",
    "/plateau.v1.AgentService/UploadCheckpoint",
];
/// What stands before a message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;

/// Bounds the requests of all methods that take a single message.
#[derive(Clone, Copy)]
pub struct SingleRequests;

impl<S> Layer<S> for SingleRequests {
    type Service = Bounded<S>;

    fn layer(&self, inner: S) -> Bounded<S> {
        Bounded { inner }
    }
}

/// Services whose single requests are bounded.
#[derive(Clone)]
pub struct Bounded<S> {
    inner: S,
}

impl<S: Service<Request<Body>>> Service<Request<Body>> for Bounded<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> S::Future {
        if STREAMS.contains(&request.uri().path()) {
            return self.inner.call(request);
        }
        let left = limits::MAX_MESSAGE_BYTES + PREFIX_BYTES;
        self.inner.call(request.map(|body| Body::new(Limited { body, left })))
    }
}

/// A body of so many bytes at most.
struct Limited {
    body: Body,
    left: usize,
}

impl http_body::Body for Limited {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &frame {
            let bytes = frame.data_ref().map_or(0, Bytes::remaining);
            match self.left.checked_sub(bytes) {
                Some(left) => self.left = left,
                None => {
                    let limit = limits::MAX_MESSAGE_BYTES;
                    let problem = format!("a request has at most {limit} bytes (MAX_MESSAGE_BYTES)");
                    return Poll::Ready(Some(Err(Status::resource_exhausted(problem))));
                }
            }
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    #[test]
    fn exactly_the_methods_with_streams_of_requests_are_excepted() {
        let set = prost_types::FileDescriptorSet::decode(plateau_proto::FILE_DESCRIPTOR_SET).unwrap();
        for file in &set.file {
            for service in &file.service {
                for method in &service.method {
                    let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                    assert_eq!(STREAMS.contains(&path.as_str()), method.client_streaming(), "{path}");
                }
            }
        }
    }
}
