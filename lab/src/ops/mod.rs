//! Fused operations with hand-written gradients, one file each: how a model records it, its form for processors, its form
//! for cards, and its `reference`, which says the same in a few plain tensor operations.
//!
//! An operation computes one replica's numbers; no replica's arithmetic depends on the others or on the number of threads.

pub mod activation;
pub mod attention;
pub mod constant;
pub mod embedding;
pub mod fire;
pub mod gemm;
pub mod layer_norm;
pub mod linear;
pub mod objective;
pub mod rms_norm;
pub mod rotary;
pub mod rows;
pub mod select;
pub mod sum;
