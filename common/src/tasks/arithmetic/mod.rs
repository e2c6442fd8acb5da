//! What the tasks of McLeish et al. 2024 (arXiv 2405.17399) have in common: alphabets, numbers, problems as tokens, rows of a
//! batch, examples without end.
//!
//! Owns no task: each is a file of its own next to this folder. What the paper and its released code leave open is decided in
//! docs/science.md, "Arithmetic".

pub(super) mod alphabet;
pub(super) mod calculation;
pub(super) mod fresh;
pub(super) mod number;
pub(super) mod problem;
pub(super) mod rows;
