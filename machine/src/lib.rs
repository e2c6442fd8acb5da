//! What coordinator and agent take from the machine they run on, besides its network: the wall clock, names that nobody
//! else draws, and threads that may block.
//!
//! A process has the real ones. A simulation puts others in their place, so that one seed gives one run, to the message.
//! Time that decides anything is not here: it is `tokio::time`, which a simulation drives by itself. The network is each
//! crate's own, because one listens and the other connects.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::task::JoinError;

/// Where work that blocks is done: reading and writing files, and whatever takes long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Execution {
    /// On threads of their own, so that messages do not wait for disks.
    #[default]
    Threads,
    /// At once, on the thread that asks. Threads finish in an order that nobody can repeat; a simulation, in which disks
    /// take no time, has none.
    OnTheSpot,
}

impl Execution {
    /// Does `work`. An error means that it panicked, or that the process is ending.
    pub async fn run<T: Send + 'static>(
        self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        match self {
            Execution::Threads => tokio::task::spawn_blocking(work).await,
            Execution::OnTheSpot => Ok(work()),
        }
    }
}

/// The wall clock. For display only: no decision reads it.
#[derive(Clone)]
pub struct WallClock(Arc<dyn Fn() -> Duration + Send + Sync>);

impl WallClock {
    /// The machine's.
    #[allow(clippy::disallowed_methods, reason = "for display")]
    pub fn system() -> Self {
        WallClock::reading(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
    }

    /// A clock that reads what `read` says: the time since 1970 UTC.
    pub fn reading(read: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        WallClock(Arc::new(read))
    }

    /// Milliseconds since 1970 UTC.
    pub fn unix_milliseconds(&self) -> i64 {
        i64::try_from((self.0)().as_millis()).unwrap_or(i64::MAX)
    }
}

impl fmt::Debug for WallClock {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "WallClock({})", self.unix_milliseconds())
    }
}

/// Names that nobody else draws.
#[derive(Clone)]
pub struct Names(Arc<dyn Fn() -> u128 + Send + Sync>);

impl Names {
    /// From the machine's random numbers.
    pub fn random() -> Self {
        Names::drawing(|| uuid::Uuid::new_v4().as_u128())
    }

    /// From what `draw` gives; it must not give the same number twice.
    pub fn drawing(draw: impl Fn() -> u128 + Send + Sync + 'static) -> Self {
        Names(Arc::new(draw))
    }

    /// A new name: 32 hexadecimal digits.
    pub fn draw(&self) -> String {
        format!("{:032x}", (self.0)())
    }
}

impl fmt::Debug for Names {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Names")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_differ_and_have_one_form() {
        let names = Names::random();
        let (a, b) = (names.draw(), names.draw());
        assert_ne!(a, b);
        assert!(a.len() == 32 && a.bytes().all(|byte| byte.is_ascii_hexdigit()), "{a}");
        assert_eq!(Names::drawing(|| 255).draw(), format!("{:032x}", 255));
    }

    #[test]
    fn the_wall_clock_reads_what_it_is_given_and_the_systems_is_of_this_century() {
        assert_eq!(WallClock::reading(|| Duration::from_millis(7)).unix_milliseconds(), 7);
        assert!(WallClock::system().unix_milliseconds() > 1_000_000_000_000);
    }
}
