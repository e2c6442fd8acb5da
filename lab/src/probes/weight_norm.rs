//! `weight_norm`: Euclidean norm of all parameters; `weight_norm/<part>`: of the embeddings, each block, the final norm
//! and the read-out.

use super::{Measured, Measuring};
use crate::error::{Doing, LabError};
use crate::optimizer::square_sums;

/// The part a parameter belongs to: its first name, or the first two for blocks.
fn part(name: &str) -> &str {
    let ends: Vec<usize> = name.match_indices('.').map(|(at, _)| at).collect();
    let wanted = if name.starts_with("blocks.") { 1 } else { 0 };
    ends.get(wanted).map_or(name, |end| &name[..*end])
}

pub(super) fn measure(measuring: &Measuring<'_>) -> Result<Measured, LabError> {
    let mut parts: Vec<(String, Vec<f64>)> = Vec::new();
    let mut total = vec![0.0; measuring.parameters.replicas()];
    for (name, tensor) in measuring.parameters.iter() {
        let squares = square_sums(tensor).doing("measuring the weight norm")?;
        total.iter_mut().zip(&squares).for_each(|(total, square)| *total += square);
        match parts.iter_mut().find(|(known, _)| known == part(name)) {
            Some((_, sums)) => sums.iter_mut().zip(&squares).for_each(|(sum, square)| *sum += square),
            None => parts.push((part(name).to_owned(), squares)),
        }
    }
    let root = |squares: Vec<f64>| squares.into_iter().map(f64::sqrt).collect();
    let mut measured = vec![("weight_norm".to_owned(), root(total))];
    measured.extend(parts.into_iter().map(|(part, squares)| (format!("weight_norm/{part}"), root(squares))));
    Ok(measured)
}
