//! Fourier measures on logits whose frequencies are known.
#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::f64::consts::PI;

use plateau_lab::probes::{fourier_measures, gini};

const P: usize = 23;

/// Logits of a network that adds by rotation with these frequencies, plus what else it puts out.
fn rotating(frequencies: &[usize], height: f64, memorised: impl Fn(usize, usize, usize) -> f64) -> Vec<f64> {
    let mut logits = Vec::new();
    for a in 0..P {
        for b in 0..P {
            for c in 0..P {
                let waves: f64 = frequencies
                    .iter()
                    .map(|k| (2.0 * PI * *k as f64 * (a as f64 + b as f64 - c as f64) / P as f64).cos())
                    .sum();
                logits.push(height * waves + memorised(a, b, c));
            }
        }
    }
    logits
}

#[test]
fn a_rotating_network_shows_its_frequencies() {
    let is_train: Vec<bool> = (0..P * P).map(|pair| pair % 3 == 0).collect();
    let measures = fourier_measures(&rotating(&[2, 5, 9], 40.0, |_, _, _| 0.0), P, &is_train);
    assert_eq!(measures.key_frequencies, [2, 5, 9]);
    assert!(measures.restricted_loss < 1e-6, "{}", measures.restricted_loss);
    // Without its key frequencies nothing is left: the loss of a uniform guess.
    assert!((measures.excluded_loss - (P as f64).ln()).abs() < 1e-9);
}

/// A number between -1 and 1 that looks random.
fn noise(a: usize, b: usize, c: usize) -> f64 {
    ((a * 7919 + b * 104_729 + c * 1_299_709 + a * b * 31 + b * c * 17 + a * c * c * 13) as f64 * 12.9898)
        .sin()
}

#[test]
fn a_memorising_network_has_no_key_frequencies() {
    let trained = |a: usize, b: usize| noise(a, b, 5) > 0.4;
    let is_train: Vec<bool> = (0..P * P).map(|pair| trained(pair / P, pair % P)).collect();
    let chance = fourier_measures(&rotating(&[], 0.0, noise), P, &is_train);
    assert_eq!(chance.key_frequencies, Vec::<usize>::new());
    // Rotation on top of memory: without its key frequencies it still knows the training pairs.
    let memory = |a: usize, b: usize, c: usize| if trained(a, b) && (a + b) % P == c { 25.0 } else { 0.0 };
    let both = fourier_measures(&rotating(&[4], 60.0, memory), P, &is_train);
    assert_eq!(both.key_frequencies, [4]);
    assert!(both.excluded_loss < 0.1, "{}", both.excluded_loss);
    let only = fourier_measures(&rotating(&[4], 60.0, |_, _, _| 0.0), P, &is_train);
    assert!(only.excluded_loss > 3.0, "{}", only.excluded_loss);
}

#[test]
fn constant_logits_have_no_frequencies_and_the_loss_of_a_guess() {
    let measures = fourier_measures(&vec![1.0; P * P * P], P, &[true; P * P]);
    assert_eq!(measures.key_frequencies, Vec::<usize>::new());
    assert!((measures.restricted_loss - (P as f64).ln()).abs() < 1e-12);
}

#[test]
fn gini_coefficients_of_known_distributions() {
    assert!(gini(&[1.0; 7]).abs() < 1e-12);
    assert!((gini(&[0.0, 0.0, 0.0, 5.0]) - 0.75).abs() < 1e-12);
    assert!((gini(&[1.0, 3.0]) - 0.25).abs() < 1e-12);
}
