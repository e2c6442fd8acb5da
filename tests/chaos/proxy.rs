//! A TCP proxy on loopback that can misbehave: the network between an agent and its coordinator.
//!
//! Knows bytes and directions, nothing of gRPC.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;

/// How the network behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mode {
    /// Bytes pass.
    Pass,
    /// Bytes of both directions vanish; connections stay open, new ones are accepted and silent.
    Swallow,
    /// Bytes from the agent vanish; those to it pass.
    SwallowToCoordinator,
    /// Every piece waits this long: [`SLOWNESS`].
    Slow,
    /// Nobody answers: connections are closed as soon as they are made.
    Refuse,
}

const MODES: [Mode; 5] = [Mode::Pass, Mode::Swallow, Mode::SwallowToCoordinator, Mode::Slow, Mode::Refuse];
/// Delay of a piece in [`Mode::Slow`].
const SLOWNESS: Duration = Duration::from_millis(300);
/// How often a waiting thread looks whether the proxy has ended.
const LOOK: Duration = Duration::from_millis(50);

struct Inner {
    mode: AtomicU8,
    /// Connections of an older generation are closed.
    generation: AtomicU64,
    ended: AtomicU8,
    target: SocketAddr,
    swallowed: AtomicU64,
}

impl Inner {
    fn mode(&self) -> Mode {
        MODES[usize::from(self.mode.load(Ordering::SeqCst)).min(MODES.len() - 1)]
    }

    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst) != 0
    }
}

/// A proxy; it ends when dropped.
pub struct Proxy {
    inner: Arc<Inner>,
    address: SocketAddr,
}

impl Proxy {
    /// A proxy on a free port that passes bytes to `target` (`127.0.0.1:PORT`).
    pub fn to(target: &str) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("listening for the proxy")?;
        listener.set_nonblocking(true)?;
        let inner = Arc::new(Inner {
            mode: AtomicU8::new(Mode::Pass as u8),
            generation: AtomicU64::new(0),
            ended: AtomicU8::new(0),
            target: target.parse().context("the address of the coordinator")?,
            swallowed: AtomicU64::new(0),
        });
        let address = listener.local_addr()?;
        let shared = inner.clone();
        std::thread::spawn(move || accept(&listener, &shared));
        Ok(Proxy { inner, address })
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on the network behaves like this.
    pub fn set(&self, mode: Mode) {
        self.inner.mode.store(mode as u8, Ordering::SeqCst);
    }

    /// Closes every connection.
    pub fn cut(&self) {
        self.inner.generation.fetch_add(1, Ordering::SeqCst);
    }

    /// Bytes that vanished.
    pub fn swallowed(&self) -> u64 {
        self.inner.swallowed.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.inner.ended.store(1, Ordering::SeqCst);
        self.cut();
    }
}

fn accept(listener: &TcpListener, inner: &Arc<Inner>) {
    while !inner.has_ended() {
        match listener.accept() {
            Ok((agent, _)) if inner.mode() != Mode::Refuse => connect(agent, inner),
            // Dropped, and so closed.
            Ok(_) => {}
            Err(_) => std::thread::sleep(LOOK),
        }
    }
}

/// Connects an agent with the coordinator; an agent whose coordinator is away is hung up on.
fn connect(agent: TcpStream, inner: &Arc<Inner>) {
    let Ok(coordinator) = TcpStream::connect(inner.target) else { return };
    let generation = inner.generation.load(Ordering::SeqCst);
    let directions = [(&agent, &coordinator, true), (&coordinator, &agent, false)];
    for (from, to, to_coordinator) in directions {
        let (Ok(from), Ok(to)) = (from.try_clone(), to.try_clone()) else { return };
        let inner = inner.clone();
        std::thread::spawn(move || {
            pass(&from, &to, to_coordinator, generation, &inner);
            // The other direction ends with this one.
            let _ = from.shutdown(Shutdown::Both);
            let _ = to.shutdown(Shutdown::Both);
        });
    }
}

/// Passes one direction until it ends.
fn pass(mut from: &TcpStream, mut to: &TcpStream, to_coordinator: bool, generation: u64, inner: &Inner) {
    let mut piece = vec![0; 64 << 10];
    if from.set_nonblocking(false).and_then(|()| from.set_read_timeout(Some(LOOK))).is_err() {
        return;
    }
    let mut lost = false;
    while inner.generation.load(Ordering::SeqCst) == generation {
        let count = match from.read(&mut piece) {
            Ok(0) => return,
            Ok(count) => count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
            Err(_) => return,
        };
        let mode = inner.mode();
        if mode == Mode::Swallow || (mode == Mode::SwallowToCoordinator && to_coordinator) {
            inner.swallowed.fetch_add(count as u64, Ordering::SeqCst);
            lost = true;
            continue;
        }
        if lost {
            // No network delivers what comes after bytes that it lost.
            return;
        }
        if mode == Mode::Slow {
            std::thread::sleep(SLOWNESS);
        }
        if to.write_all(&piece[..count]).is_err() {
            return;
        }
    }
}
