//! The core against itself: scenarios, the scheduler's choices, every interleaving of a little and random interleavings of
//! more, with restarts in between.

mod breaches;
mod cases;
mod damage;
mod details;
mod exhaustive;
mod explained;
mod exploration;
mod failures;
mod forks;
mod planning;
mod possibilities;
mod properties;
mod restart;
mod retention;
mod scenarios;
mod scheduling;
pub(crate) mod world;
