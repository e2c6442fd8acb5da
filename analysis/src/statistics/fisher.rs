//! Fisher's exact test of two shares (Fisher 1922), two-sided.

use statrs::function::factorial::ln_binomial;

/// The probability, if both groups succeed equally often, of a table at most as likely as the one seen, given its margins.
/// `None` where a group is empty. Successes above the number of runs count as that number.
pub fn two_sided((first, first_runs): (usize, usize), (second, second_runs): (usize, usize)) -> Option<f64> {
    if first_runs == 0 || second_runs == 0 {
        return None;
    }
    let (first, second) = (first.min(first_runs), second.min(second_runs));
    let successes = first + second;
    let ln_choose = |of: usize, chosen: usize| ln_binomial(of as u64, chosen as u64);
    let total = ln_choose(first_runs + second_runs, successes);
    let probability = |in_first: usize| {
        (ln_choose(first_runs, in_first) + ln_choose(second_runs, successes - in_first) - total).exp()
    };
    // Tables that are equally likely differ by rounding errors.
    let seen = probability(first) * (1.0 + 1e-7);
    let possible = successes.saturating_sub(second_runs)..=successes.min(first_runs);
    Some(possible.map(probability).filter(|own| *own <= seen).sum::<f64>().min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_values() {
        let p = |first, second| two_sided(first, second).unwrap();
        // 2 (C(10, 9) / C(20, 9)), and twice the three most extreme of C(20, 10) tables.
        assert!((p((9, 10), (0, 10)) - 20.0 / 167_960.0).abs() < 1e-12);
        assert!((p((8, 10), (2, 10)) - 2.0 * 2126.0 / 184_756.0).abs() < 1e-12);
        // Fisher's tea: 3 of 4 against 1 of 4.
        assert!((p((3, 4), (1, 4)) - 34.0 / 70.0).abs() < 1e-12);
        assert_eq!(p((0, 5), (0, 7)), 1.0);
        assert_eq!(p((2, 3), (4, 9)), p((4, 9), (2, 3)));
        assert_eq!(two_sided((0, 0), (1, 2)), None);
    }
}
