//! Files of a checkpoint as the trainer reads them.

use plateau_lab::checkpoint::{parse_tensors, weights_hash};

use crate::short;

/// One safetensors file.
pub fn run(data: &[u8]) {
    match parse_tensors(data) {
        Ok(tensors) => {
            let bytes: usize =
                tensors.iter().map(|(_, tensor)| tensor.elem_count() * tensor.dtype().size_in_bytes()).sum();
            assert!(bytes <= data.len(), "{bytes} bytes of tensors in a file of {}", data.len());
            assert!(weights_hash(&tensors).is_ok());
        }
        Err(error) => short(error),
    }
}
