//! Vector instructions behind one name per float type.

use pulp::Simd;

/// A float type's vectors under an instruction set.
pub trait Vector: Copy {
    /// A vector.
    type Of<S: Simd>: Copy;
    /// Numbers per vector.
    fn lanes<S: Simd>() -> usize;
    /// All lanes equal.
    fn splat<S: Simd>(simd: S, value: Self) -> Self::Of<S>;
    /// Fused `a * b + c`.
    fn multiply_add<S: Simd>(simd: S, a: Self::Of<S>, b: Self::Of<S>, c: Self::Of<S>) -> Self::Of<S>;
    /// Sum.
    fn plus<S: Simd>(simd: S, a: Self::Of<S>, b: Self::Of<S>) -> Self::Of<S>;
    /// The larger; on x86 the second where one is not a number.
    fn maximum<S: Simd>(simd: S, a: Self::Of<S>, b: Self::Of<S>) -> Self::Of<S>;

    /// The vector that begins at `from`.
    ///
    /// # Safety
    /// `from` must be good for a vector's reads.
    #[inline(always)]
    #[allow(unsafe_code, reason = "see the safety section")]
    unsafe fn load<S: Simd>(_: S, from: *const Self) -> Self::Of<S> {
        // SAFETY: the caller's promise; vectors are plain numbers.
        unsafe { from.cast::<Self::Of<S>>().read_unaligned() }
    }

    /// Writes a vector that begins at `to`.
    ///
    /// # Safety
    /// `to` must be good for a vector's writes.
    #[inline(always)]
    #[allow(unsafe_code, reason = "see the safety section")]
    unsafe fn store<S: Simd>(_: S, to: *mut Self, vector: Self::Of<S>) {
        // SAFETY: the caller's promise; vectors are plain numbers.
        unsafe { to.cast::<Self::Of<S>>().write_unaligned(vector) }
    }
}

macro_rules! vector {
    ($float:ty, $vector:ident, $lanes:ident, $splat:ident, $multiply_add:ident, $add:ident, $max:ident) => {
        impl Vector for $float {
            type Of<S: Simd> = S::$vector;

            #[inline(always)]
            fn lanes<S: Simd>() -> usize {
                S::$lanes
            }

            #[inline(always)]
            fn splat<S: Simd>(simd: S, value: Self) -> S::$vector {
                simd.$splat(value)
            }

            #[inline(always)]
            fn multiply_add<S: Simd>(simd: S, a: S::$vector, b: S::$vector, c: S::$vector) -> S::$vector {
                simd.$multiply_add(a, b, c)
            }

            #[inline(always)]
            fn plus<S: Simd>(simd: S, a: S::$vector, b: S::$vector) -> S::$vector {
                simd.$add(a, b)
            }

            #[inline(always)]
            fn maximum<S: Simd>(simd: S, a: S::$vector, b: S::$vector) -> S::$vector {
                simd.$max(a, b)
            }
        }
    };
}

vector!(f32, f32s, F32_LANES, splat_f32s, mul_add_f32s, add_f32s, max_f32s);
vector!(f64, f64s, F64_LANES, splat_f64s, mul_add_f64s, add_f64s, max_f64s);
