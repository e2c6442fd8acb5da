//! Bounds on what a call may send: messages no longer than the limit, and where one message is expected, one.
//!
//! A message that announces more than the limit is refused before its bytes come, with the limit's name. After its first
//! message a unary call is read to its end; without the second bound a peer could go on for as long as it liked.

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

/// Bounds the messages of all methods, and the number of those of methods that take one.
#[derive(Clone, Copy)]
pub struct MessageLimits;

impl<S> Layer<S> for MessageLimits {
    type Service = Bounded<S>;

    fn layer(&self, inner: S) -> Bounded<S> {
        Bounded { inner }
    }
}

/// Services whose requests are bounded.
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
        let single = !STREAMS.contains(&request.uri().path());
        let left = single.then_some(limits::MAX_MESSAGE_BYTES + PREFIX_BYTES);
        self.inner.call(request.map(|body| Body::new(Limited { body, left, messages: Messages::default() })))
    }
}

/// A body of messages that are not too long, and of so many bytes at most.
struct Limited {
    body: Body,
    left: Option<usize>,
    messages: Messages,
}

impl Limited {
    fn take(&mut self, data: &Bytes) -> Result<(), Status> {
        if let Some(announced) = self.messages.longest_in(data)
            && announced > limits::MAX_MESSAGE_BYTES
        {
            return Err(too_long(&format!("a message of {announced} bytes")));
        }
        if let Some(left) = &mut self.left {
            *left = left.checked_sub(data.remaining()).ok_or_else(|| too_long("a request that goes on"))?;
        }
        Ok(())
    }
}

fn too_long(what: &str) -> Status {
    let limit = limits::MAX_MESSAGE_BYTES;
    Status::resource_exhausted(format!("{what} is more than the {limit} bytes of MAX_MESSAGE_BYTES"))
}

impl http_body::Body for Limited {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &frame
            && let Some(data) = frame.data_ref()
            && let Err(status) = self.take(data)
        {
            return Poll::Ready(Some(Err(status)));
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

/// Finds the lengths of messages in the bytes of a body, however these are cut into pieces.
#[derive(Default)]
struct Messages {
    prefix: [u8; PREFIX_BYTES],
    /// Bytes of the prefix that have come.
    known: usize,
    /// Bytes of the message that are still to come.
    rest: usize,
}

impl Messages {
    /// The largest length that is announced within the next bytes.
    fn longest_in(&mut self, mut bytes: &[u8]) -> Option<usize> {
        let mut longest = None;
        while let Some((first, others)) = bytes.split_first() {
            if self.rest > 0 {
                let skipped = self.rest.min(bytes.len());
                self.rest -= skipped;
                bytes = bytes.get(skipped..).unwrap_or_default();
                continue;
            }
            if let Some(place) = self.prefix.get_mut(self.known) {
                *place = *first;
            }
            self.known += 1;
            bytes = others;
            if self.known == PREFIX_BYTES {
                let [_, length @ ..] = self.prefix;
                self.known = 0;
                self.rest = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
                longest = longest.max(Some(self.rest));
            }
        }
        longest
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

    #[test]
    fn case_57_lengths_are_found_however_the_bytes_are_cut() {
        let lengths = [3usize, 0, 300, 70_000, 1];
        let mut bytes = Vec::new();
        for length in lengths {
            bytes.push(0);
            bytes.extend((length as u32).to_be_bytes());
            // Content that looks like prefixes of long messages.
            bytes.extend(std::iter::repeat_n(0xff, length));
        }
        for piece in [1, 2, 3, 5, 7, 64, bytes.len()] {
            let mut messages = Messages::default();
            let found = bytes.chunks(piece).filter_map(|bytes| messages.longest_in(bytes)).max();
            assert_eq!((found, messages.known, messages.rest), (Some(70_000), 0, 0), "pieces of {piece}");
        }
        // The first bytes of a message that is too long are enough.
        let mut messages = Messages::default();
        assert_eq!(messages.longest_in(&[0, 0xff, 0xff]), None);
        assert_eq!(messages.longest_in(&[0xff, 0xff, 7]), Some(u32::MAX as usize));
    }
}
