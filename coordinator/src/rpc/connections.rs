//! Incoming connections: at most so many at once, and none that stays silent.
//!
//! HTTP/2 pings find dead peers only once a connection speaks HTTP/2; what opens a port and says nothing, or stops in the
//! middle of its greeting, is closed here. Out of file descriptors, accepting waits and what is connected works on.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use plateau_common::limits;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};
use tonic::transport::server::Connected;

use crate::machine::{Listener, Socket};

/// Pause after a connection could not be accepted, e.g. for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long a connection may take to say its first byte.
const GREETING: Duration = Duration::from_secs(limits::GREETING_SECONDS);
/// How long it may be silent later. Peers answer pings, so only a dead one is.
const SILENCE: Duration = Duration::from_secs(limits::LEASE_SECONDS);

/// Accepts connections for ever; trouble with one is no end of the others.
pub fn incoming(listener: Box<dyn Listener>) -> impl Stream<Item = io::Result<Connection>> {
    let places = Arc::new(Semaphore::new(limits::MAX_CONNECTIONS));
    futures::stream::unfold((listener, places), |(listener, places)| async move {
        // The semaphore is never closed.
        let permit = places.clone().acquire_owned().await.ok()?;
        loop {
            match listener.accept().await {
                Ok(stream) => return Some((Ok(Connection::new(stream, permit)), (listener, places))),
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    })
}

/// One connection.
pub struct Connection {
    stream: Box<dyn Socket>,
    last_heard: Instant,
    allowed: Duration,
    /// Ends no earlier than the silence allowed after the last byte; set anew only when it ends, not at each byte.
    silence: Pin<Box<Sleep>>,
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    fn new(stream: Box<dyn Socket>, permit: OwnedSemaphorePermit) -> Self {
        Connection {
            stream,
            last_heard: Instant::now(),
            allowed: GREETING,
            silence: Box::pin(tokio::time::sleep(GREETING)),
            _permit: permit,
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if read.is_ready() {
            self.last_heard = Instant::now();
            self.allowed = SILENCE;
            return read;
        }
        while self.silence.as_mut().poll(context).is_ready() {
            let end = self.last_heard + self.allowed;
            if end <= Instant::now() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            self.silence.as_mut().reset(end);
        }
        Poll::Pending
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl Connected for Connection {
    /// Who is at the other end matters to nobody: agents and clients are known by what they say.
    type ConnectInfo = ();

    fn connect_info(&self) {}
}
