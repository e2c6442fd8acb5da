//! Who is in a cohort, and which thread trains whom.
//!
//! Owns the numbering of replicas and shards and the dealing of members to threads; trains nothing.

use std::collections::BTreeMap;
use std::path::Path;

use plateau_common::config::TrialConfig;
use plateau_common::identity::cohort_key;

use super::crew::Order;
use super::{DeviceChoice, Member, Start};
use crate::checkpoint::{self, Checkpoint};
use crate::error::LabError;

/// The members of one cohort.
pub(super) struct Roster {
    /// Members trained at the same time at most.
    places: usize,
    /// Replicas of a shard at most: one on a processor, so that its numbers stay in the cache for a turn; as many as there
    /// are on a card, which wants large batches.
    largest: usize,
    /// Identity of the cohort, and the trial that gave it.
    key: String,
    /// Trial that came first, for messages.
    first: String,
    /// Thread of each replica that has not left.
    live: BTreeMap<usize, usize>,
    /// Live replicas of each thread.
    loads: Vec<usize>,
    /// Updates made by each shard's members (`None`: all have left).
    steps: Vec<Option<u64>>,
    /// Last answer of [`Roster::slowest`].
    slowest: u64,
    /// Replicas numbered so far.
    replicas: usize,
}

impl Roster {
    /// An empty roster with `places` places for trials like `config`.
    pub fn new(places: usize, config: &TrialConfig, device: &DeviceChoice) -> Self {
        let (threads, largest) = match device {
            DeviceChoice::Cpu { threads } => ((*threads).clamp(1, places.max(1)), 1),
            DeviceChoice::Cuda(_) => (1, places.max(1)),
        };
        Roster {
            places,
            largest,
            key: cohort_key(config),
            first: String::new(),
            live: BTreeMap::new(),
            loads: vec![0; threads],
            steps: Vec::new(),
            slowest: 0,
            replicas: 0,
        }
    }

    /// Threads that train.
    pub fn threads(&self) -> usize {
        self.loads.len()
    }

    /// Places nobody has.
    pub fn free(&self) -> usize {
        self.places.saturating_sub(self.live.len())
    }

    /// Whether everybody has left.
    pub fn is_empty(&self) -> bool {
        self.live.is_empty()
    }

    /// A member has left.
    pub fn left(&mut self, replica: usize) {
        if let Some(thread) = self.live.remove(&replica) {
            self.loads[thread] = self.loads[thread].saturating_sub(1);
        }
    }

    /// The members of a shard have made `step` updates.
    pub fn reached(&mut self, shard: usize, step: Option<u64>) {
        if let Some(known) = self.steps.get_mut(shard) {
            *known = step;
        }
        self.slowest = self.steps.iter().flatten().copied().min().unwrap_or(self.slowest);
    }

    /// Updates that every live member has made.
    pub fn slowest(&self) -> u64 {
        self.slowest
    }

    /// Numbers new members, loads what they continue from, and deals them to shards, and these to threads.
    pub fn admit(&mut self, members: Vec<Member>) -> Result<Vec<(usize, Order)>, LabError> {
        let mut starts = Vec::with_capacity(members.len());
        for member in members {
            if self.first.is_empty() {
                self.first = member.id.to_string();
            }
            if cohort_key(&member.config) != self.key {
                return Err(LabError::MixedCohort {
                    first: self.first.clone(),
                    other: member.id.to_string(),
                });
            }
            let resumed = match &member.resume {
                Some(folder) => Some(load_for(&member, folder)?),
                None => None,
            };
            starts.push(Start { replica: self.replicas, member, resumed });
            self.replicas += 1;
        }
        starts.sort_by_key(|start| (start.step(), start.replica));
        let mut orders = Vec::new();
        for group in starts.chunk_by(|a, b| a.step() == b.step()) {
            let shards = self.threads().max(group.len().div_ceil(self.largest));
            for starts in deal(group, shards) {
                let thread = self.idlest();
                self.loads[thread] += starts.len();
                self.live.extend(starts.iter().map(|start| (start.replica, thread)));
                let shard = self.steps.len();
                self.steps.push(starts.first().map(Start::step));
                orders.push((thread, Order::Train { shard, starts: starts.to_vec() }));
            }
        }
        self.slowest = self.steps.iter().flatten().copied().min().unwrap_or(0);
        Ok(orders)
    }

    fn idlest(&self) -> usize {
        (0..self.loads.len()).min_by_key(|thread| self.loads[*thread]).unwrap_or(0)
    }
}

fn load_for(member: &Member, folder: &Path) -> Result<Checkpoint, LabError> {
    let checkpoint = checkpoint::load(folder)?;
    checkpoint::check_configuration(&checkpoint, &member.config, folder)?;
    Ok(checkpoint)
}

/// Deals members to at most `most` shards of nearly equal size.
fn deal(group: &[Start], most: usize) -> Vec<&[Start]> {
    let shards = most.min(group.len());
    (0..shards)
        .map(|shard| &group[shard * group.len() / shards..(shard + 1) * group.len() / shards])
        .collect()
}
