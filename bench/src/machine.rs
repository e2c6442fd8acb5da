//! What one core of this machine can do at best: the rate of matrix products and of streaming through memory. The floor
//! of a workload's step follows from both.
//!
//! Measures one thread; the caller runs one process per core at the same time, since cores share caches, memory and power.
//! `RAYON_NUM_THREADS=1` keeps the matrix products on one thread.

use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};

/// Extents (rows, inner, columns) of the products that are tried; the best counts.
const PRODUCTS: [(usize, usize, usize); 4] =
    [(256, 256, 256), (512, 512, 512), (1024, 512, 1024), (2048, 256, 512)];

/// Floating-point operations per second of the best of several 32-bit matrix products, `each` long.
///
/// # Errors
/// When a product cannot be computed.
pub fn matrix_product_rate(each: Duration) -> candle_core::Result<f64> {
    let mut best: f64 = 0.0;
    for (rows, inner, columns) in PRODUCTS {
        let left = Tensor::randn(0f32, 1.0, (rows, inner), &Device::Cpu)?;
        let right = Tensor::randn(0f32, 1.0, (inner, columns), &Device::Cpu)?;
        let operations = 2.0 * (rows * inner * columns) as f64;
        let begun = Instant::now();
        while begun.elapsed() < each {
            let now = Instant::now();
            let product = left.matmul(&right)?;
            std::hint::black_box(product);
            best = best.max(operations / now.elapsed().as_secs_f64());
        }
    }
    Ok(best)
}

/// Bytes per second of a pass like the optimiser's (four streams read, three of them written) over `bytes` of memory
/// altogether, repeated for as long as `limit`; the fastest pass counts.
pub fn streaming_rate(bytes: usize, limit: Duration) -> f64 {
    let count = (bytes / (4 * size_of::<f32>())).max(1024);
    let mut states = [vec![1f32; count], vec![1f32; count], vec![1f32; count]];
    let gradient = vec![1e-3f32; count];
    let architecture = pulp::Arch::new();
    let moved = (count * 7 * size_of::<f32>()) as f64;
    let mut best: f64 = 0.0;
    let begun = Instant::now();
    while begun.elapsed() < limit {
        let now = Instant::now();
        architecture.dispatch(|| update(&mut states, &gradient));
        best = best.max(moved / now.elapsed().as_secs_f64());
    }
    std::hint::black_box(&states);
    best
}

/// One multiplication and addition per number: far less arithmetic than an optimiser's, so that only memory counts.
#[inline(always)]
fn update(states: &mut [Vec<f32>; 3], gradient: &[f32]) {
    let [parameters, first, second] = states;
    for (((parameter, first), second), gradient) in
        parameters.iter_mut().zip(first.iter_mut()).zip(second.iter_mut()).zip(gradient)
    {
        *parameter += 0.5 * gradient;
        *first += 0.25 * gradient;
        *second += 0.125 * gradient;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_pass_reads_the_gradient_and_writes_the_three_others() {
        let mut states = [vec![1f32; 5], vec![2f32; 5], vec![3f32; 5]];
        update(&mut states, &[8.0; 5]);
        assert_eq!(states, [vec![5f32; 5], vec![4f32; 5], vec![4f32; 5]]);
    }
}
