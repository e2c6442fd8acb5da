//! Tasks whose examples are sentences of a grammar, after Murty et al. 2023 (docs/science.md, "Structural grokking: data").
//!
//! Owns what such tasks share: the words and sentences of McCoy, Frank and Linzen 2020 ([`words`], [`sentence`]), their trees ([`tree`]), the
//! compact sets of lines that a language model is trained on ([`lines`]), how they are drawn without repeats ([`pool`]), and the memory that
//! trials of a process share ([`shared`]). What is asked about the lines is each task's own business.

pub(super) mod lines;
pub(super) mod pool;
pub(super) mod sentence;
pub(super) mod settings;
pub(super) mod shared;
pub(super) mod tree;
pub(super) mod vocabulary;
pub(super) mod words;
