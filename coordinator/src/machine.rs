//! What a coordinator takes from the machine it runs on, and where a simulation puts in its own.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use futures::future::BoxFuture;
use plateau_machine::{Execution, Names, WallClock};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;

/// What a coordinator takes from the machine it runs on.
#[derive(Clone)]
pub struct Machine {
    /// Where work that blocks is done; [`Execution::OnTheSpot`] makes the engine a task of the runtime that starts it.
    pub execution: Execution,
    /// The clock that times for display are read from.
    pub wall: WallClock,
    /// Names of uploads.
    pub names: Names,
    /// Where it listens.
    pub network: Arc<dyn Network>,
}

impl Machine {
    /// This one.
    pub fn real() -> Self {
        Machine {
            execution: Execution::Threads,
            wall: WallClock::system(),
            names: Names::random(),
            network: Arc::new(Tcp),
        }
    }
}

/// A network to listen on.
pub trait Network: Send + Sync {
    /// Listens.
    fn listen(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>>;
}

/// An open port.
pub trait Listener: Send + Sync {
    /// Its address.
    fn local_addr(&self) -> io::Result<SocketAddr>;
    /// The next connection.
    fn accept(&self) -> BoxFuture<'_, io::Result<Box<dyn Socket>>>;
}

/// A connection's bytes.
pub trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Socket for S {}

struct Tcp;

impl Network for Tcp {
    fn listen(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let listener: Box<dyn Listener> = Box::new(TcpListener::bind(address).await?);
            Ok(listener)
        })
    }
}

impl Listener for TcpListener {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        TcpListener::local_addr(self)
    }

    fn accept(&self) -> BoxFuture<'_, io::Result<Box<dyn Socket>>> {
        Box::pin(async move {
            let (stream, _) = TcpListener::accept(self).await?;
            stream.set_nodelay(true)?;
            let socket: Box<dyn Socket> = Box::new(stream);
            Ok(socket)
        })
    }
}
