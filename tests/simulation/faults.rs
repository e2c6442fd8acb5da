//! Faults and their healing, drawn from a seed.

use std::time::Duration;

use plateau_common::random::Stream;

use crate::network::ABSENT;
use crate::trace::record;
use crate::world::{COORDINATOR, LATENCY, World};

/// Something that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// All packets between a host and the coordinator vanish.
    Cut,
    /// They wait, and arrive all at once in the end.
    Hold,
    /// Those to the coordinator vanish.
    CutTo,
    /// Those from the coordinator vanish: requests are done and their replies lost.
    CutFrom,
    /// They take long.
    Slow,
    /// A host's processes are killed.
    Crash,
    /// A host loses power: nobody is told.
    PowerLoss,
    /// The coordinator is killed.
    CoordinatorCrash,
    /// The coordinator's host loses power.
    CoordinatorPowerLoss,
}

/// All of them.
pub const FAULTS: [Fault; 9] = [
    Fault::Cut,
    Fault::Hold,
    Fault::CutTo,
    Fault::CutFrom,
    Fault::Slow,
    Fault::Crash,
    Fault::PowerLoss,
    Fault::CoordinatorCrash,
    Fault::CoordinatorPowerLoss,
];

impl Fault {
    /// Whether it strikes the coordinator and not one of the hosts.
    fn is_of_the_coordinator(self) -> bool {
        matches!(self, Fault::CoordinatorCrash | Fault::CoordinatorPowerLoss)
    }

    /// Lets it happen to a host (which is of no matter for the coordinator's own faults).
    pub fn strike(self, world: &mut World, host: &str) {
        record(format_args!("{self:?} of {host} begins"));
        match self {
            Fault::Cut => {
                world.cut.set(host, true);
                world.sim.partition(host, COORDINATOR);
            }
            Fault::Hold => world.sim.hold(host, COORDINATOR),
            Fault::CutTo => {
                world.cut.set(host, true);
                world.sim.partition_oneway(host, COORDINATOR);
            }
            Fault::CutFrom => {
                world.cut.set(host, true);
                world.sim.partition_oneway(COORDINATOR, host);
            }
            Fault::Slow => world.sim.set_link_latency(host, COORDINATOR, Duration::from_millis(1500)),
            Fault::Crash => world.sim.crash(host),
            Fault::PowerLoss => {
                Fault::Cut.strike(world, host);
                world.sim.crash(host);
            }
            Fault::CoordinatorCrash => {
                world.cut.set(ABSENT, true);
                world.sim.crash(COORDINATOR);
            }
            Fault::CoordinatorPowerLoss => {
                for host in everybody(world) {
                    Fault::Cut.strike(world, &host);
                }
                world.sim.crash(COORDINATOR);
            }
        }
    }

    /// Ends it.
    pub fn heal(self, world: &mut World, host: &str) {
        record(format_args!("{self:?} of {host} ends"));
        match self {
            Fault::Cut => {
                world.cut.set(host, false);
                world.sim.repair(host, COORDINATOR);
            }
            Fault::Hold => world.sim.release(host, COORDINATOR),
            Fault::CutTo => {
                world.cut.set(host, false);
                world.sim.repair_oneway(host, COORDINATOR);
            }
            Fault::CutFrom => {
                world.cut.set(host, false);
                world.sim.repair_oneway(COORDINATOR, host);
            }
            Fault::Slow => {
                world.sim.set_link_latency(host, COORDINATOR, LATENCY[0]);
                world.sim.set_link_max_message_latency(host, COORDINATOR, LATENCY[1]);
            }
            Fault::Crash => world.sim.bounce(host),
            Fault::PowerLoss => {
                Fault::Cut.heal(world, host);
                world.sim.bounce(host);
            }
            Fault::CoordinatorCrash => {
                world.cut.set(ABSENT, false);
                world.sim.bounce(COORDINATOR);
            }
            Fault::CoordinatorPowerLoss => {
                for host in everybody(world) {
                    Fault::Cut.heal(world, &host);
                }
                world.sim.bounce(COORDINATOR);
            }
        }
    }
}

fn everybody(world: &World) -> Vec<String> {
    world.hosts.iter().cloned().chain(["client".to_owned()]).collect()
}

/// Faults that strike at random moments, and at most one of a place at a time.
pub struct Schedule {
    stream: Stream,
    /// When the next one strikes.
    next: Duration,
    /// No fault begins later.
    quiet_from: Duration,
    /// When which ends.
    active: Vec<(Duration, Fault, String)>,
    /// What has struck.
    pub struck: Vec<Fault>,
}

impl Schedule {
    /// The faults of this seed, none of which begins later than `quiet_from`.
    pub fn new(seed: u64, quiet_from: Duration) -> Self {
        let stream = Stream::new(seed, "simulation/faults", 0);
        Schedule { stream, next: Duration::from_secs(1), quiet_from, active: Vec::new(), struck: Vec::new() }
    }

    /// Lets strike and heals what is due.
    pub fn act(&mut self, world: &mut World) {
        let now = world.now();
        let (due, active): (Vec<_>, Vec<_>) = self.active.drain(..).partition(|(end, ..)| *end <= now);
        self.active = active;
        for (_, fault, host) in due {
            fault.heal(world, &host);
        }
        if now < self.next || now >= self.quiet_from {
            return;
        }
        self.next = now + self.duration(500, 20_000);
        let fault = FAULTS[self.stream.below(FAULTS.len() as u32) as usize];
        let host = world.hosts[self.stream.below(world.hosts.len() as u32) as usize].clone();
        // Mostly short, now and then longer than a lease.
        let lasts = match self.stream.below(4) {
            0 => self.duration(40_000, 120_000),
            _ => self.duration(200, 20_000),
        };
        let is_free = match fault.is_of_the_coordinator() {
            true => self.active.is_empty(),
            false => self.active.iter().all(|(_, other, at)| !other.is_of_the_coordinator() && *at != host),
        };
        if is_free {
            fault.strike(world, &host);
            self.struck.push(fault);
            self.active.push((now + lasts, fault, host));
        }
    }

    /// Whether nothing is wrong any more, and nothing will be.
    pub fn is_over(&self, now: Duration) -> bool {
        now >= self.quiet_from && self.active.is_empty()
    }

    fn duration(&mut self, from: u32, to: u32) -> Duration {
        Duration::from_millis(u64::from(from + self.stream.below(to - from)))
    }
}
