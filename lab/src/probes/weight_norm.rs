//! `weight_norm`: Euclidean norm of all parameters; `weight_norm/<part>`: of the embeddings, each block, the final norm
//! and the read-out.

use super::{Measured, Measuring};
use crate::optimizer::square_sum;

/// The part a parameter belongs to: its first name, or the first two for blocks.
fn part(name: &str) -> &str {
    let ends: Vec<usize> = name.match_indices('.').map(|(at, _)| at).collect();
    let wanted = if name.starts_with("blocks.") { 1 } else { 0 };
    ends.get(wanted).map_or(name, |end| &name[..*end])
}

pub(super) fn measure(measuring: &Measuring<'_>) -> Measured {
    let mut parts: Vec<(String, f64)> = Vec::new();
    let mut total = 0.0;
    let layout = measuring.network.layout();
    for (place, parameter) in layout.parameters.iter().enumerate() {
        let square = square_sum(&measuring.network.weights()[layout.range(place)]);
        total += square;
        match parts.iter_mut().find(|(known, _)| known == part(&parameter.name)) {
            Some((_, sum)) => *sum += square,
            None => parts.push((part(&parameter.name).to_owned(), square)),
        }
    }
    let mut measured = vec![("weight_norm".to_owned(), total.sqrt())];
    measured.extend(parts.into_iter().map(|(part, square)| (format!("weight_norm/{part}"), square.sqrt())));
    measured
}
