//! Holm's correction of p-values for their number (Holm 1979).

/// The p-values corrected so that, of all tests together, a false one is called significant with at most the level's
/// probability. In the given order; values that are not finite are no tests and stay as they are.
pub fn adjusted(p_values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> =
        p_values.iter().enumerate().filter(|(_, p)| p.is_finite()).map(|(index, _)| index).collect();
    let value = |index: usize| p_values.get(index).copied().unwrap_or(f64::NAN);
    order.sort_by(|one, other| value(*one).total_cmp(&value(*other)));
    let mut adjusted = p_values.to_vec();
    let mut least: f64 = 0.0;
    for (rank, index) in order.iter().enumerate() {
        least = least.max(((order.len() - rank) as f64 * value(*index)).min(1.0));
        if let Some(slot) = adjusted.get_mut(*index) {
            *slot = least;
        }
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_values() {
        let found = adjusted(&[0.01, 0.04, f64::NAN, 0.03, 0.005]);
        for (found, expected) in found.iter().zip([0.03, 0.06, f64::NAN, 0.06, 0.02]) {
            assert!((found - expected).abs() < 1e-12 || (found.is_nan() && expected.is_nan()), "{found}");
        }
        assert_eq!(adjusted(&[0.6, 0.7]), [1.0, 1.0]);
        assert!(adjusted(&[]).is_empty());
    }
}
