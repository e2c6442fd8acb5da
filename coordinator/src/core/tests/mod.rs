//! The core against itself: scenarios, the scheduler's choices, and random interleavings with reloads.

mod damage;
mod planning;
mod properties;
mod scenarios;
mod scheduling;
pub(crate) mod world;
