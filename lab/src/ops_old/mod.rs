//! Fused operations with hand-written gradients, one file each. Everything has a leading replica dimension K, and no
//! replica's arithmetic depends on K, on the other replicas or on the number of threads.
//!
//! Each operation runs fused on the CPU; its `reference`, made of plain tensor operations, says the same in a few lines.
//! References are what the fused forms are tested against, and what runs on other devices.

pub mod activation;
pub mod attention;
pub mod gather;
pub(crate) mod gemm;
pub mod layer_norm;
pub mod linear;
pub mod loss;
pub mod rotary;
pub mod sum;
pub mod tape;
