//! The training threads of one cohort: each trains its shards in turns and takes up further work between turns.
//!
//! Owns the hand-over of work from the caller's thread to the training threads, and the taking apart of a shard that a
//! member leaves early. Leaves the arithmetic to the shard and the choice of what is trained where to `roster`.

use std::collections::{BTreeSet, VecDeque};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::shard::Shard;
use super::{Event, Start};
use crate::checkpoint;
use crate::engine::Workbench;
use crate::error::LabError;

/// Work for a thread.
pub(super) enum Order {
    /// Train these, which start at one step, as shard `shard`.
    Train {
        /// Number of the shard.
        shard: usize,
        /// Its members.
        starts: Vec<Start>,
    },
    /// Save this member and train it no further.
    Drop(usize),
}

/// What the caller's thread and the training threads share.
pub(super) struct Crew {
    /// Save everything and end.
    stop: AtomicBool,
    /// End without saving.
    abandon: AtomicBool,
    desk: Mutex<Desk>,
    /// Orders came, or none will any more.
    news: Condvar,
}

struct Desk {
    /// Orders of each thread that it has not taken up.
    orders: Vec<VecDeque<Order>>,
    /// No further orders will come.
    closed: bool,
    failure: Option<LabError>,
}

impl Crew {
    pub fn new(threads: usize) -> Self {
        let orders = (0..threads).map(|_| VecDeque::new()).collect();
        Crew {
            stop: AtomicBool::new(false),
            abandon: AtomicBool::new(false),
            desk: Mutex::new(Desk { orders, closed: false, failure: None }),
            news: Condvar::new(),
        }
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        // The desk is whole between any two statements.
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves an order for a thread.
    pub fn order(&self, thread: usize, order: Order) {
        if let Some(orders) = self.desk().orders.get_mut(thread) {
            orders.push_back(order);
        }
        self.news.notify_all();
    }

    /// Leaves an order for every thread.
    pub fn order_all(&self, order: impl Fn() -> Order) {
        self.desk().orders.iter_mut().for_each(|orders| orders.push_back(order()));
        self.news.notify_all();
    }

    /// Tells that no further orders will come.
    pub fn close(&self) {
        self.desk().closed = true;
        self.news.notify_all();
    }

    /// Has everything saved and ended.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        self.close();
    }

    /// Has everything ended as it is.
    pub fn abandon(&self) {
        self.abandon.store(true, Ordering::Relaxed);
        self.close();
    }

    /// Ends the training of all threads because of an error; the first one counts.
    pub fn fail(&self, error: LabError) {
        self.desk().failure.get_or_insert(error);
        self.stop();
    }

    /// Whether no more work may be given out.
    pub fn is_ending(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.abandon.load(Ordering::Relaxed)
    }

    /// The first error.
    pub fn into_failure(self) -> Option<LabError> {
        self.desk.into_inner().unwrap_or_else(PoisonError::into_inner).failure
    }

    /// A thread's new orders. One that has nothing else to do waits for them; `None`: there will not be any.
    fn orders(&self, thread: usize, busy: bool) -> Option<Vec<Order>> {
        let mut desk = self.desk();
        loop {
            let orders: Vec<Order> =
                desk.orders.get_mut(thread).map(|orders| orders.drain(..).collect()).unwrap_or_default();
            if self.is_ending() && !busy {
                return None;
            }
            if !orders.is_empty() || busy {
                return Some(orders);
            }
            if desk.closed {
                return None;
            }
            desk = self.news.wait(desk).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// A shard and those of its members that are still in training.
struct Place<'a> {
    shard: Shard<'a>,
    number: usize,
    live: Vec<Start>,
}

impl<'a> Place<'a> {
    fn new(
        number: usize,
        starts: Vec<Start>,
        bench: &'a Workbench,
        scratch: &'a Path,
        send: &mut dyn FnMut(Event),
    ) -> Result<Self, LabError> {
        let shard = Shard::new(&starts, number, bench, scratch)?;
        let mut place = Place { shard, number, live: starts };
        place.watch(send, |shard, send| shard.begin(send))?;
        Ok(place)
    }

    /// Lets the shard work, and strikes off the members that end.
    fn watch<T>(
        &mut self,
        send: &mut dyn FnMut(Event),
        work: impl FnOnce(&mut Shard<'a>, &mut dyn FnMut(Event)) -> T,
    ) -> T {
        let live = &mut self.live;
        work(&mut self.shard, &mut |event| {
            if let Event::Ended { replica, .. } = &event {
                live.retain(|start| start.replica != *replica);
            }
            send(event);
        })
    }

    /// One turn; tells whether there is more to do.
    fn advance(&mut self, send: &mut dyn FnMut(Event), stop: &AtomicBool) -> Result<bool, LabError> {
        self.watch(send, |shard, send| shard.advance(send, stop))
    }

    /// Saves all members and goes on with those that stay, from what was saved: the same bits as if nothing had
    /// happened. `Err(place)` where the shard had nothing new to save, and must make a turn first.
    fn part(
        mut self,
        leaving: &BTreeSet<usize>,
        bench: &'a Workbench,
        scratch: &'a Path,
        send: &mut dyn FnMut(Event),
    ) -> Result<Result<Option<Self>, Self>, LabError> {
        let mut saved = Vec::new();
        let stop = AtomicBool::new(true);
        // Announced only after they were read: whoever is told owns the folders.
        self.shard.advance(&mut |event| saved.push(event), &stop)?;
        let mut staying = Vec::new();
        for start in self.live.iter().filter(|start| !leaving.contains(&start.replica)) {
            let folder = saved.iter().find_map(|event| match event {
                Event::Checkpointed { replica, folder, .. } if *replica == start.replica => Some(folder),
                _ => None,
            });
            let Some(folder) = folder else { break };
            staying.push(Start { resumed: Some(checkpoint::load(folder)?), ..start.clone() });
        }
        let stayers = self.live.iter().filter(|start| !leaving.contains(&start.replica)).count();
        let complete = staying.len() == stayers;
        let steps = |event: &Event| matches!(event, Event::Steps { step: None, .. });
        // The report that the shard is done is true only where nobody stays.
        saved.into_iter().filter(|event| stayers == 0 || !steps(event)).for_each(&mut *send);
        if !complete {
            return Ok(Err(self));
        }
        for start in self.live.iter().filter(|start| leaving.contains(&start.replica)) {
            send(Event::Dropped { replica: start.replica });
        }
        if staying.is_empty() {
            return Ok(Ok(None));
        }
        let mut place =
            Place { shard: Shard::new(&staying, self.number, bench, scratch)?, live: staying, ..self };
        // Its members have been announced.
        place.watch(send, |shard, send| {
            shard.begin(&mut |event| {
                if !matches!(event, Event::Started { .. }) {
                    send(event);
                }
            })
        })?;
        Ok(Ok(Some(place)))
    }
}

/// Trains what thread `thread` is ordered to, until there is nothing left and nothing more will come.
pub(super) fn train(
    crew: &Crew,
    thread: usize,
    bench: &Workbench,
    scratch: &Path,
    send: &mut dyn FnMut(Event),
) -> Result<(), LabError> {
    // Two lists that take turns, so that a turn allocates nothing.
    let mut places: Vec<Place<'_>> = Vec::new();
    let mut unfinished = Vec::new();
    let mut leaving = BTreeSet::new();
    while let Some(orders) = crew.orders(thread, !places.is_empty()) {
        for order in orders {
            match order {
                Order::Train { shard, starts } => {
                    places.push(Place::new(shard, starts, bench, scratch, send)?)
                }
                Order::Drop(replica) => drop(leaving.insert(replica)),
            }
        }
        for mut place in places.drain(..) {
            if crew.abandon.load(Ordering::Relaxed) {
                return Ok(());
            }
            if !place.advance(send, &crew.stop)? {
                continue;
            }
            if place.live.iter().any(|start| leaving.contains(&start.replica)) {
                match place.part(&leaving, bench, scratch, send)? {
                    Ok(rest) => unfinished.extend(rest),
                    Err(unchanged) => unfinished.push(unchanged),
                }
            } else {
                unfinished.push(place);
            }
        }
        std::mem::swap(&mut places, &mut unfinished);
        let live = |replica: &usize| {
            places.iter().any(|place| place.live.iter().any(|start| start.replica == *replica))
        };
        leaving.retain(live);
    }
    Ok(())
}
