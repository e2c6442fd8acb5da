//! Isotonic regression by pooling adjacent violators (Ayer et al. 1955), for sequences that must not rise.

/// The weighted least-squares fit of a non-increasing sequence. `values` and `weights` (positive) have equal lengths;
/// entries that are not finite or have no weight stay as they are and take no part.
pub fn non_increasing(values: &[f64], weights: &[f64]) -> Vec<f64> {
    struct Block {
        mean: f64,
        weight: f64,
        members: Vec<usize>,
    }
    let mut blocks: Vec<Block> = Vec::new();
    for (index, (value, weight)) in values.iter().zip(weights).enumerate() {
        if !value.is_finite() || *weight <= 0.0 {
            continue;
        }
        let mut block = Block { mean: *value, weight: *weight, members: vec![index] };
        while let Some(before) = blocks.pop_if(|before| before.mean < block.mean) {
            let weight = before.weight + block.weight;
            block.mean = (before.mean * before.weight + block.mean * block.weight) / weight;
            block.weight = weight;
            block.members.extend(before.members);
        }
        blocks.push(block);
    }
    let mut fit = values.to_vec();
    for block in &blocks {
        for member in &block.members {
            if let Some(slot) = fit.get_mut(*member) {
                *slot = block.mean;
            }
        }
    }
    fit
}

#[cfg(test)]
mod tests {
    use plateau_common::random::Stream;

    use super::*;

    #[test]
    fn exact_values() {
        let fit = non_increasing(&[0.9981, 0.9344, 0.3913, 0.4256, 0.1856, 0.1644], &[1.0; 6]);
        for (fit, expected) in fit.iter().zip([0.9981, 0.9344, 0.40845, 0.40845, 0.1856, 0.1644]) {
            assert!((fit - expected).abs() < 1e-12);
        }
        assert_eq!(non_increasing(&[1.0, 2.0], &[3.0, 1.0]), [1.25, 1.25]);
    }

    #[test]
    fn the_fit_never_rises_keeps_the_weighted_mean_and_fits_itself() {
        for number in 0..200 {
            let mut stream = Stream::new(5, "isotonic", number);
            let length = 1 + stream.below(12) as usize;
            let values: Vec<f64> = (0..length).map(|_| stream.unit()).collect();
            let weights: Vec<f64> = (0..length).map(|_| 0.5 + stream.unit()).collect();
            let fit = non_increasing(&values, &weights);
            assert!(fit.windows(2).all(|pair| pair[0] >= pair[1]));
            let total =
                |of: &[f64]| of.iter().zip(&weights).map(|(value, weight)| value * weight).sum::<f64>();
            assert!((total(&fit) - total(&values)).abs() < 1e-9);
            let again = non_increasing(&fit, &weights);
            assert!(fit.iter().zip(&again).all(|(one, other)| (one - other).abs() < 1e-12));
        }
    }

    #[test]
    fn values_that_are_not_finite_take_no_part() {
        let fit = non_increasing(&[1.0, f64::NAN, 0.2, 0.4], &[1.0; 4]);
        assert!(fit[1].is_nan());
        assert!((fit[2] - 0.3).abs() < 1e-12 && fit[0] == 1.0);
        assert!(non_increasing(&[], &[]).is_empty());
    }
}
