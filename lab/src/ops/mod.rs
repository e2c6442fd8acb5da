//! Fused operations with hand-written gradients, one file each: how a model records it, its form for processors, its form
//! for cards, and its `reference`, which says the same in a few plain tensor operations.
//!
//! An operation computes one replica's numbers; no replica's arithmetic depends on the others or on the number of threads.

pub mod gemm;
pub mod linear;
pub mod rows;
