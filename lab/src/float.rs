//! The two float types training runs in, and the few scalar functions the fused operations need of them.
//!
//! The exponential is ours because the standard library's cannot be vectorised; it is a fixed sequence of IEEE
//! operations, multiplications and additions fused by name and never by the compiler, so it gives the same bits in a vector
//! lane and in a scalar remainder.

use candle_core::WithDType;

use crate::cpu::Call;
use crate::program::Operation;
use crate::vector::Vector;

/// `f32` or `f64`.
pub trait Float: WithDType + Vector + std::ops::Neg<Output = Self> {
    /// e to the power of `self`; exactly 0 below the range of normal numbers, relative error below 3 units in the last place.
    fn exp(self) -> Self;
    /// Square root.
    fn sqrt(self) -> Self;
    /// erfc(self) = 1 - erf(self) of a number that is not negative; absolute error below 3e-7 in 32 bits, 3e-16 in 64.
    fn erfc(self) -> Self;
    /// Nearest value of this type.
    fn of(value: f64) -> Self;
    /// The value in 64 bits.
    fn wide(self) -> f64;
    /// Runs a stage of an operation's forward pass.
    fn forward(operation: &dyn Operation, stage: usize, call: &Call<'_, Self>);
    /// Runs a stage of an operation's backward pass.
    fn backward(operation: &dyn Operation, stage: usize, call: &Call<'_, Self>);
    /// Smallest (most negative) infinity.
    const MINUS_INFINITY: Self;
    /// 0.
    const ZERO: Self;
    /// 1.
    const ONE: Self;
}

impl Float for f32 {
    #[inline(always)]
    fn exp(self) -> f32 {
        const MAGIC: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to whole numbers
        const LOW: f32 = -87.0;
        let x = if self > 88.0 { 88.0 } else { self };
        let shifted = x.mul_add(std::f32::consts::LOG2_E, MAGIC);
        let whole = shifted - MAGIC;
        let r = whole.mul_add(2.121_944_4e-4, whole.mul_add(-0.693_359_4, x));
        // Of all polynomials of this degree that begin with 1 + r the one with the least relative error, 4e-9.
        let mut sum: f32 = 0.001_381_453_8;
        for coefficient in [0.008_368_745, 0.041_668_39, 0.166_665_21, 0.499_999_94, 1.0, 1.0] {
            sum = sum.mul_add(r, coefficient);
        }
        let exponent = shifted.to_bits().wrapping_sub(MAGIC.to_bits()).wrapping_add(127) << 23;
        if self < LOW { 0.0 } else { sum * f32::from_bits(exponent) }
    }

    #[inline(always)]
    fn sqrt(self) -> f32 {
        f32::sqrt(self)
    }

    #[inline(always)]
    fn erfc(self) -> f32 {
        erfc_by(
            self,
            &[
                3.337_359e-4,
                -2.079_091_2e-4,
                -2.048_734_8e-3,
                1.776_564_6e-3,
                8.703_812e-3,
                -9.873_768e-3,
                -4.687_489e-2,
                4.734_310_5e-2,
                6.726_422e-1,
                -6.717_940_6e-1,
            ],
        )
    }

    #[inline(always)]
    fn of(value: f64) -> f32 {
        value as f32
    }

    #[inline(always)]
    fn wide(self) -> f64 {
        f64::from(self)
    }

    fn forward(operation: &dyn Operation, stage: usize, call: &Call<'_, f32>) {
        operation.forward_f32(stage, call);
    }

    fn backward(operation: &dyn Operation, stage: usize, call: &Call<'_, f32>) {
        operation.backward_f32(stage, call);
    }

    const MINUS_INFINITY: f32 = f32::NEG_INFINITY;
    const ZERO: f32 = 0.0;
    const ONE: f32 = 1.0;
}

impl Float for f64 {
    #[inline(always)]
    fn exp(self) -> f64 {
        const MAGIC: f64 = 6_755_399_441_055_744.0; // 1.5 * 2^52
        const LOW: f64 = -708.0;
        let x = if self > 709.0 { 709.0 } else { self };
        let shifted = x.mul_add(std::f64::consts::LOG2_E, MAGIC);
        let whole = shifted - MAGIC;
        let r = whole.mul_add(-1.908_214_929_270_587_7e-10, whole.mul_add(-6.931_471_803_691_238e-1, x));
        let mut sum: f64 = 1.0 / 6_227_020_800.0;
        for coefficient in [
            1.0 / 479_001_600.0,
            1.0 / 39_916_800.0,
            1.0 / 3_628_800.0,
            1.0 / 362_880.0,
            1.0 / 40_320.0,
            1.0 / 5040.0,
            1.0 / 720.0,
            1.0 / 120.0,
            1.0 / 24.0,
            1.0 / 6.0,
            0.5,
            1.0,
            1.0,
        ] {
            sum = sum.mul_add(r, coefficient);
        }
        let exponent = shifted.to_bits().wrapping_sub(MAGIC.to_bits()).wrapping_add(1023) << 52;
        if self < LOW { 0.0 } else { sum * f64::from_bits(exponent) }
    }

    #[inline(always)]
    fn sqrt(self) -> f64 {
        f64::sqrt(self)
    }

    #[inline(always)]
    fn erfc(self) -> f64 {
        erfc_by(
            self,
            &[
                -1.277_608_655_496_867_7e-8,
                2.980_513_364_515_172e-8,
                7.745_572_408_758_512e-8,
                -2.895_626_567_435_524e-7,
                -4.146_853_754_663_641e-8,
                1.283_394_915_356_199e-6,
                -1.409_445_991_433_531e-6,
                -2.963_484_230_959_699e-6,
                8.662_535_397_475_54e-6,
                1.398_937_047_761_105_3e-7,
                -3.023_784_054_007_137e-5,
                3.174_693_542_327_236e-5,
                7.141_810_433_422_301e-5,
                -1.743_041_298_692_593_7e-4,
                -9.373_894_767_667_295e-5,
                6.736_791_352_568_863e-4,
                -1.462_462_874_212_841e-4,
                -2.345_812_552_995_894e-3,
                1.758_933_507_402_803_2e-3,
                8.824_938_561_312_325e-3,
                -9.872_689_364_099_222e-3,
                -4.689_561_023_132_892e-2,
                4.734_330_684_186_352e-2,
                6.726_432_239_776_583e-1,
                -6.717_940_840_566_922e-1,
            ],
        )
    }

    #[inline(always)]
    fn of(value: f64) -> f64 {
        value
    }

    #[inline(always)]
    fn wide(self) -> f64 {
        self
    }

    fn forward(operation: &dyn Operation, stage: usize, call: &Call<'_, f64>) {
        operation.forward_f64(stage, call);
    }

    fn backward(operation: &dyn Operation, stage: usize, call: &Call<'_, f64>) {
        operation.backward_f64(stage, call);
    }

    const MINUS_INFINITY: f64 = f64::NEG_INFINITY;
    const ZERO: f64 = 0.0;
    const ONE: f64 = 1.0;
}

/// erfc(x) = t exp(-x² + P(2t - 1)), t = 1 / (1 + x/2), x >= 0: the coefficients of P, highest power first, are those of its
/// expansion in Chebyshev polynomials on t in [0, 1], cut off and written in powers (computed with 60 digits). One
/// formula for all x, so it runs in vectors.
#[inline(always)]
fn erfc_by<T: Float, const COUNT: usize>(x: T, coefficients: &[T; COUNT]) -> T {
    let t = T::ONE / (T::ONE + x * T::of(0.5));
    let s = t + t - T::ONE;
    let mut sum = coefficients[0];
    for coefficient in &coefficients[1..] {
        sum = sum * s + *coefficient;
    }
    t * Float::exp(sum - x * x)
}

/// Runs `work` with the widest vector instructions of this CPU; what it inlines is compiled for them.
#[inline(always)]
pub(crate) fn vectorised<R>(work: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(work)
}

const LANES: usize = 8;

#[inline(always)]
fn fold_lanes<T: Float>(lanes: [T; LANES], join: impl Fn(T, T) -> T) -> T {
    let pair = |first: usize| join(lanes[first], lanes[first + 4]);
    join(join(pair(0), pair(2)), join(pair(1), pair(3)))
}

/// Sum of `count` terms, in an order that depends on `count` only.
#[inline(always)]
pub(crate) fn sum_of<T: Float>(count: usize, term: impl Fn(usize) -> T) -> T {
    let whole = count / LANES * LANES;
    let mut total = T::ZERO;
    if whole > 0 {
        let mut lanes = [T::ZERO; LANES];
        let mut start = 0;
        while start < whole {
            for (lane, sum) in lanes.iter_mut().enumerate() {
                *sum += term(start + lane);
            }
            start += LANES;
        }
        total = fold_lanes(
            lanes,
            #[inline(always)]
            |a, b| a + b,
        );
    }
    for index in whole..count {
        total += term(index);
    }
    total
}

#[inline(always)]
fn higher<T: Float>(a: T, b: T) -> T {
    if b > a { b } else { a }
}

/// The highest of `values`, ignoring NaN; minus infinity of none.
#[inline(always)]
pub(crate) fn highest_of<T: Float>(values: &[T]) -> T {
    let mut lanes = [T::MINUS_INFINITY; LANES];
    let chunks = values.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = higher(*lane, *value);
        }
    }
    let mut highest = if values.len() < LANES { T::MINUS_INFINITY } else { fold_lanes(lanes, higher) };
    for value in rest {
        highest = higher(highest, *value);
    }
    highest
}

/// Every value becomes e to the power of (value - shift). The last few are computed as a whole vector like the others: one at a
/// time they would take as long as ten times as many.
#[inline(always)]
pub(crate) fn exponentials_of<T: Float>(values: &mut [T], shift: T) {
    const TOGETHER: usize = 16;
    let (chunks, rest) = values.as_chunks_mut::<TOGETHER>();
    let mut last = [shift; TOGETHER];
    last[..rest.len()].copy_from_slice(rest);
    for values in chunks.iter_mut().chain([&mut last]) {
        for value in values {
            *value = Float::exp(*value - shift);
        }
    }
    rest.copy_from_slice(&last[..rest.len()]);
}

#[cfg(test)]
mod tests {
    use super::{Float, exponentials_of};

    #[test]
    fn exponentials_agree_with_the_standard_library() {
        for step in -7000..7000 {
            let x = f64::from(step) * 0.1;
            let (found, expected) = (Float::exp(x), x.exp());
            assert!((found / expected - 1.0).abs() < 1e-15, "exp({x}) = {found}, not {expected}");
        }
        for step in -8600..8700 {
            let x = step as f32 * 0.01;
            let (found, expected) = (Float::exp(x), x.exp());
            assert!((found / expected - 1.0).abs() < 4e-7, "exp({x}) = {found}, not {expected}");
        }
        assert_eq!((Float::exp(f32::NEG_INFINITY), Float::exp(f64::NEG_INFINITY)), (0.0, 0.0));
        assert_eq!((Float::exp(0f32), Float::exp(0f64)), (1.0, 1.0));
        assert!(Float::exp(f32::NAN).is_nan() && Float::exp(f64::NAN).is_nan());
    }

    /// Values of the error function from tables of 20 digits (Abramowitz and Stegun 1964, table 7.1; DLMF 7.23).
    #[test]
    fn complementary_error_functions_are_those_of_the_tables() {
        let known: [(f64, f64); 7] = [
            (0.0, 1.0),
            (0.1, 0.887_537_083_981_715),
            (0.5, 0.479_500_122_186_953_5),
            (1.0, 0.157_299_207_050_285_13),
            (1.5, 0.033_894_853_524_689_27),
            (2.0, 0.004_677_734_981_047_266),
            (3.0, 2.209_049_699_858_544e-5),
        ];
        for (x, expected) in known {
            let (found, small) = (Float::erfc(x), Float::erfc(x as f32));
            assert!((found - expected).abs() < 3e-16, "erfc({x}) = {found}, not {expected}");
            assert!((f64::from(small) - expected).abs() < 3e-7, "erfc({x}) = {small}, not {expected}");
        }
        for step in 0..12_000 {
            let x = f64::from(step) * 0.001;
            let expected = 1.0 - candle_core::cpu::erf::erf_f64(x);
            assert!((Float::erfc(x) - expected).abs() < 5e-16, "erfc({x})");
            assert!((f64::from(Float::erfc(x as f32)) - expected).abs() < 3e-7, "erfc({x}) in 32 bits");
        }
        assert_eq!((Float::erfc(f32::INFINITY), Float::erfc(f64::INFINITY)), (0.0, 0.0));
        assert!(Float::erfc(f32::NAN).is_nan() && Float::erfc(f64::NAN).is_nan());
    }

    #[test]
    fn exponentials_of_a_slice_are_those_of_its_values() {
        for count in [0, 1, 15, 16, 17, 40] {
            let values: Vec<f32> = (0..count).map(|index| index as f32 * 0.7 - 9.0).collect();
            let mut found = values.clone();
            exponentials_of(&mut found, 1.5);
            let expected: Vec<f32> = values.iter().map(|value| Float::exp(value - 1.5)).collect();
            assert_eq!(found, expected, "{count}");
        }
    }
}
