//! turmoil's network for coordinator, agents and clients, with a tap that records every frame.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use plateau_coordinator::machine::{Listener, Network, Socket};
use plateau_proto::connection::{Channel, Route};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::Uri;
use turmoil::net::{TcpListener, TcpStream};

use crate::trace::{Frames, record};

/// Where the coordinator listens.
pub const PORT: u16 = 7733;

/// Hosts whose packets to the coordinator or from it vanish, and [`ABSENT`] where no coordinator runs. turmoil refuses connections over a
/// cut link at once and leaves those to a host without processes unanswered; in the world it is the other way round, and an
/// agent concludes from it.
#[derive(Clone, Default)]
pub struct Cut(Arc<Mutex<BTreeSet<String>>>);

/// Stands for the coordinator's process.
pub const ABSENT: &str = "no coordinator";
/// How long a refusal is on its way.
const REFUSAL: Duration = Duration::from_millis(20);

impl Cut {
    /// Notes that a host is cut off, or no longer.
    pub fn set(&self, host: &str, is_cut: bool) {
        let mut cut = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if is_cut {
            cut.insert(host.to_owned());
        } else {
            cut.remove(host);
        }
    }

    fn is_cut(&self, host: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(host)
    }
}

/// The coordinator's side.
pub struct Listening;

impl Network for Listening {
    fn listen(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        // A simulated host's own addresses are all it has: its loopback is no way for others.
        Box::pin(async move {
            let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await?;
            let listener: Box<dyn Listener> = Box::new(Accepting(listener));
            Ok(listener)
        })
    }
}

struct Accepting(TcpListener);

impl Listener for Accepting {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    fn accept(&self) -> BoxFuture<'_, io::Result<Box<dyn Socket>>> {
        Box::pin(async move {
            let (stream, _) = self.0.accept().await?;
            let socket: Box<dyn Socket> = Box::new(stream);
            Ok(socket)
        })
    }
}

/// The side of an agent or client.
pub struct Connecting {
    /// The host.
    pub host: String,
    /// Who connects, for the trace.
    pub name: String,
    /// What is cut.
    pub cut: Cut,
}

impl plateau_agent::machine::Network for Connecting {
    fn channel(&self, route: &Route) -> Channel {
        let (host, name, cut) = (self.host.clone(), self.name.clone(), self.cut.clone());
        route.connect_by(|endpoint| {
            endpoint.connect_with_connector_lazy(tower::service_fn(move |uri: Uri| {
                let (host, name, cut) = (host.clone(), name.clone(), cut.clone());
                async move {
                    let target = (uri.host().unwrap_or_default().to_owned(), uri.port_u16().unwrap_or(PORT));
                    record(format_args!("{name} connects"));
                    if cut.is_cut(&host) {
                        // The greeting or its answer is lost. (turmoil's answer is never.)
                        std::future::pending::<()>().await;
                    }
                    if cut.is_cut(ABSENT) {
                        tokio::time::sleep(REFUSAL).await;
                        return Err(io::ErrorKind::ConnectionRefused.into());
                    }
                    match TcpStream::connect(target).await {
                        Ok(stream) => Ok(TokioIo::new(Tapped::new(stream, &name))),
                        Err(_) if cut.is_cut(&host) => std::future::pending().await,
                        Err(error) => Err(error),
                    }
                }
            }))
        })
    }
}

/// A connection whose frames are recorded.
struct Tapped {
    stream: TcpStream,
    sent: Frames,
    received: Frames,
}

impl Tapped {
    fn new(stream: TcpStream, name: &str) -> Self {
        let port = stream.local_addr().map_or(0, |address| address.port());
        Tapped {
            stream,
            sent: Frames::new(format!("{name}:{port} ->"), true),
            received: Frames::new(format!("{name}:{port} <-"), false),
        }
    }
}

impl AsyncRead for Tapped {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.received.follow(&buffer.filled()[before..]);
        read
    }
}

impl AsyncWrite for Tapped {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        if let Poll::Ready(Ok(count)) = written {
            self.sent.follow(&bytes[..count]);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
