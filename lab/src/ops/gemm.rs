//! Matrix products on one thread.
//!
//! Ours rather than a library's for three reasons (measured with `bench/`, one AVX-512 core with a peak of 112 GFLOP/s): the
//! `gemm` crate allocates its packing memory in every call, which a training step must not do; it falls to 58–98 GFLOP/s
//! where the right operand is a transposed weight, which every backward pass multiplies by, against 86 to 109 here; and
//! bias, residual and activation are applied here while the tile is in registers.
//!
//! The right operand is packed into panels as wide as two vectors, unless it lies like a panel as it is; the left one is read
//! in place, a number at a time. Results no wider than half a vector are computed in vectors half as wide. Each
//! number of the result is one chain of fused multiply-adds over blocks of the inner dimension, whose lengths depend on that
//! dimension only. So a product gives the same bits however its rows or columns are split, and on any vector width.

use pulp::{Simd, WithSimd};

use crate::float::Float;

/// Longest block of the inner dimension: a panel of it stays in the first-level cache.
const BLOCK: usize = 256;
/// Widest panel.
const WIDEST: usize = 32;
/// Rows of the left operand that are copied at a time where reading them in place would be slow.
const COPIED_ROWS: usize = 168;
/// Numbers between copied rows beyond a block: keeps rows apart in the first-level cache.
const GAP: usize = 16;
/// Bytes after which lines of memory compete for one place in a first-level cache.
const CACHE_WAY: usize = 4096;
/// Numbers of scratch memory a product needs.
pub const SCRATCH: usize = BLOCK * WIDEST + COPIED_ROWS * (BLOCK + GAP);

/// A matrix inside a slice.
#[derive(Clone, Copy)]
pub struct Matrix<'a, T> {
    data: &'a [T],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a, T> Matrix<'a, T> {
    /// Row-major `rows` x `columns`.
    pub fn new(data: &'a [T], rows: usize, columns: usize) -> Self {
        Self::strided(data, rows, columns, columns)
    }

    /// `rows` x `columns` whose rows begin `row_stride` numbers apart; `data` begins with the first.
    pub fn strided(data: &'a [T], rows: usize, columns: usize, row_stride: usize) -> Self {
        assert!(
            fits(data.len(), rows, columns, row_stride),
            "a matrix of {rows} x {columns} by {row_stride} in {} numbers",
            data.len()
        );
        Matrix { data, rows, columns, row_stride, column_stride: 1 }
    }

    /// These columns of a row-major matrix.
    pub fn columns(self, columns: std::ops::Range<usize>) -> Self {
        assert!(
            self.column_stride == 1 && columns.end <= self.columns,
            "columns {columns:?} of {}",
            self.columns
        );
        let data = if self.rows == 0 { &[] } else { &self.data[columns.start..] };
        Matrix { data, columns: columns.len(), ..self }
    }

    /// Whether it lies in memory like a packed panel of `width` columns.
    fn is_panel(&self, width: usize) -> bool {
        self.column_stride == 1 && self.row_stride == width && self.columns == width
    }

    /// Its transpose, without a copy.
    pub fn transposed(self) -> Self {
        Matrix {
            data: self.data,
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
        }
    }
}

/// Whether a matrix with rows `row_stride` apart lies within `length` numbers, without overlap.
fn fits(length: usize, rows: usize, columns: usize, row_stride: usize) -> bool {
    rows == 0 || columns == 0 || (columns <= row_stride && (rows - 1) * row_stride + columns <= length)
}

/// What is done with a product before it is written.
#[derive(Clone, Copy)]
pub struct Finish<'a, T> {
    /// Added to every row.
    pub bias: Option<&'a [T]>,
    /// Added; laid out like the result.
    pub residual: Option<&'a [T]>,
    /// Negative numbers become 0.
    pub relu: bool,
}

impl<T> Finish<'_, T> {
    /// Nothing.
    pub const NONE: Self = Finish { bias: None, residual: None, relu: false };
}

/// `result` (rows `row_stride` apart) = lhs rhs, or result + lhs rhs where `accumulate`; then `finish`. `scratch` holds at least
/// [`SCRATCH`] numbers.
pub fn multiply<T: Float>(
    scratch: &mut [T],
    (result, row_stride): (&mut [T], usize),
    lhs: Matrix<'_, T>,
    rhs: Matrix<'_, T>,
    accumulate: bool,
    finish: Finish<'_, T>,
) {
    let (m, k, n) = (lhs.rows, lhs.columns, rhs.columns);
    assert_eq!(k, rhs.rows, "inner sizes of a matrix product");
    assert!(fits(result.len(), m, n, row_stride), "size of the result of a matrix product");
    assert!(scratch.len() >= SCRATCH, "scratch memory of a matrix product");
    assert!(finish.bias.is_none_or(|bias| bias.len() >= n), "size of the bias of a matrix product");
    assert!(
        finish.residual.is_none_or(|residual| fits(residual.len(), m, n, row_stride)),
        "size of the residual of a matrix product"
    );
    if m == 0 || n == 0 {
        return;
    }
    let product = Product { scratch, result, row_stride, lhs, rhs, accumulate, finish };
    #[cfg(target_arch = "x86_64")]
    if n * size_of::<T>() <= 32
        && let Some(simd) = pulp::x86::V3::try_new()
    {
        return Simd::vectorize(simd, product);
    }
    pulp::Arch::new().dispatch(product);
}

struct Product<'a, T> {
    scratch: &'a mut [T],
    result: &'a mut [T],
    row_stride: usize,
    lhs: Matrix<'a, T>,
    rhs: Matrix<'a, T>,
    accumulate: bool,
    finish: Finish<'a, T>,
}

impl<T: Float> WithSimd for Product<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let lanes = T::lanes::<S>();
        let narrow = self.rhs.columns <= lanes;
        // 32 vector registers with the widest vectors, else 16.
        let wide_registers = size_of::<T>() * lanes >= 64;
        match (wide_registers, narrow) {
            (true, false) => self.run::<S, 14, 2>(simd),
            (true, true) => self.run::<S, 14, 1>(simd),
            (false, false) => self.run::<S, 6, 2>(simd),
            (false, true) => self.run::<S, 12, 1>(simd),
        }
    }
}

impl<T: Float> Product<'_, T> {
    /// Whether rows of the left operand compete for one place in the cache, and are read often enough to be copied.
    fn copies_rows(&self, width: usize) -> bool {
        let stride = self.lhs.row_stride * size_of::<T>();
        let compete = self.lhs.column_stride == 1 && stride > 0 && stride.is_multiple_of(CACHE_WAY);
        compete && self.rhs.columns > 2 * width
    }

    /// All tiles of `ROWS` x `VECTORS` vectors.
    #[inline(always)]
    fn run<S: Simd, const ROWS: usize, const VECTORS: usize>(mut self, simd: S) {
        let (m, k) = (self.lhs.rows, self.lhs.columns);
        let copies = self.copies_rows(VECTORS * T::lanes::<S>());
        // Blocks of equal length, so that none is short.
        let block = k.div_ceil(k.div_ceil(BLOCK).max(1)).max(1);
        let most = if copies { COPIED_ROWS } else { m };
        let mut row = 0;
        while row < m {
            let rows = most.min(m - row);
            let mut from = 0;
            loop {
                let inner = block.min(k - from);
                self.block::<S, ROWS, VECTORS>(simd, (row, rows), (from, inner), copies);
                from += inner;
                if from >= k {
                    break;
                }
            }
            row += rows;
        }
    }

    /// The tiles of some rows, with one block of the inner dimension.
    #[inline(always)]
    #[allow(
        unsafe_code,
        reason = "tiles are read and written through pointers; every bound was checked in `multiply`"
    )]
    fn block<S: Simd, const ROWS: usize, const VECTORS: usize>(
        &mut self,
        simd: S,
        (first, count): (usize, usize),
        (from, inner): (usize, usize),
        copies: bool,
    ) {
        let n = self.rhs.columns;
        let width = VECTORS * T::lanes::<S>();
        let is_last = from + inner == self.lhs.columns;
        let (packed, copied) = self.scratch.split_at_mut(BLOCK * WIDEST);
        let start = first * self.lhs.row_stride + from * self.lhs.column_stride;
        let (lhs, row_stride, column_stride) = if copies {
            for (row, to) in copied.chunks_exact_mut(inner + GAP).take(count).enumerate() {
                to[..inner].copy_from_slice(&self.lhs.data[start + row * self.lhs.row_stride..][..inner]);
            }
            (&*copied, inner + GAP, 1)
        } else {
            (&self.lhs.data[start.min(self.lhs.data.len())..], self.lhs.row_stride, self.lhs.column_stride)
        };
        let mut column = 0;
        while column < n {
            let columns = width.min(n - column);
            let panel = if self.rhs.is_panel(width) {
                &self.rhs.data[from * width..]
            } else {
                pack::<T, S, VECTORS>(packed, self.rhs, (from, inner), (column, columns));
                &*packed
            };
            let mut row = 0;
            while row < count {
                let at = (first + row) * self.row_stride + column;
                // SAFETY: `multiply` checked that the matrices lie inside their slices for their rows and columns
                // (transposition swaps both alike), and that scratch, bias and residual are large enough; `first + count`
                // rows, `column + columns` columns and `from + inner` steps are within them, copies within the scratch.
                unsafe {
                    let tile = Tile {
                        inner,
                        lhs: lhs.as_ptr().add(row * row_stride),
                        row_stride,
                        column_stride,
                        panel: panel.as_ptr(),
                        result: self.result.as_mut_ptr().add(at),
                        result_stride: self.row_stride,
                        columns,
                        add: self.accumulate || from > 0,
                        bias: match self.finish.bias {
                            Some(bias) if is_last => bias.as_ptr().add(column),
                            _ => std::ptr::null(),
                        },
                        residual: match self.finish.residual {
                            Some(residual) if is_last => residual.as_ptr().add(at),
                            _ => std::ptr::null(),
                        },
                        relu: self.finish.relu && is_last,
                    };
                    row += tile.some_rows::<S, ROWS, VECTORS>(simd, ROWS.min(count - row));
                }
            }
            column += width;
        }
    }
}

/// Copies columns `column..column + columns` of rows `from..from + inner` into a panel, padded with zeros to its width.
#[inline(always)]
fn pack<T: Float, S: Simd, const VECTORS: usize>(
    panel: &mut [T],
    rhs: Matrix<'_, T>,
    (from, inner): (usize, usize),
    (column, columns): (usize, usize),
) {
    const STRIP: usize = 16;
    const GROUP: usize = 4;
    let width = VECTORS * T::lanes::<S>();
    let start = from * rhs.row_stride + column * rhs.column_stride;
    if rhs.column_stride == 1 {
        for (row, to) in panel.chunks_exact_mut(width).take(inner).enumerate() {
            let source = &rhs.data[start + row * rhs.row_stride..][..columns];
            if columns == width {
                to.copy_from_slice(source);
            } else {
                to[..columns].copy_from_slice(source);
                to[columns..].fill(T::ZERO);
            }
        }
        return;
    }
    // A transposed operand: read along its rows a strip at a time, so that both sides stay in the first-level cache.
    let panel = &mut panel[..inner * width];
    let mut strip = 0;
    while strip < inner {
        let length = STRIP.min(inner - strip);
        let mut offset = 0;
        if rhs.row_stride == 1 && length == STRIP {
            while offset + GROUP <= columns {
                let at = start + offset * rhs.column_stride + strip;
                let sources: [&[T]; GROUP] =
                    std::array::from_fn(|number| &rhs.data[at + number * rhs.column_stride..][..STRIP]);
                for (row, to) in panel[strip * width..].chunks_exact_mut(width).take(STRIP).enumerate() {
                    let to = &mut to[offset..offset + GROUP];
                    for (number, source) in to.iter_mut().zip(sources) {
                        *number = source[row];
                    }
                }
                offset += GROUP;
            }
        }
        for (column, row) in (offset..width).flat_map(|column| (0..length).map(move |row| (column, row))) {
            let at = start + column * rhs.column_stride + (strip + row) * rhs.row_stride;
            panel[(strip + row) * width + column] = if column < columns { rhs.data[at] } else { T::ZERO };
        }
        strip += length;
    }
}

/// One tile of the result: the rows a call covers, as many columns as a panel has.
#[derive(Clone, Copy)]
struct Tile<T> {
    inner: usize,
    lhs: *const T,
    row_stride: usize,
    column_stride: usize,
    panel: *const T,
    result: *mut T,
    result_stride: usize,
    columns: usize,
    add: bool,
    bias: *const T,
    residual: *const T,
    relu: bool,
}

/// Defines a kernel of some rows, two vectors wide and one vector wide. The sums are variables of their own: arrays of this
/// size are left in memory by the compiler in some builds, at half the speed.
macro_rules! kernels {
    ($wide:ident, $narrow:ident: $($row:literal $left:ident $right:ident),+) => {
        /// These rows of two vectors.
        ///
        /// # Safety
        /// All pointers must be good for that many rows, `inner` steps and `columns` columns.
        #[inline(always)]
        #[allow(unsafe_code, reason = "see the safety section")]
        unsafe fn $wide<S: Simd>(self, simd: S) {
            let lanes = T::lanes::<S>();
            let zero = T::splat(simd, T::ZERO);
            $(let (mut $left, mut $right) = (zero, zero);)+
            // SAFETY: within the bounds the caller promises.
            unsafe {
                let (mut lhs, mut panel) = (self.lhs, self.panel);
                for _ in 0..self.inner {
                    let (left, right) = (T::load(simd, panel), T::load(simd, panel.add(lanes)));
                    $(
                        let factor = T::splat(simd, *lhs.add($row * self.row_stride));
                        $left = T::multiply_add(simd, factor, left, $left);
                        $right = T::multiply_add(simd, factor, right, $right);
                    )+
                    lhs = lhs.add(self.column_stride);
                    panel = panel.add(2 * lanes);
                }
                $(self.write(simd, $row, [$left, $right]);)+
            }
        }

        /// These rows of one vector.
        ///
        /// # Safety
        /// All pointers must be good for that many rows, `inner` steps and `columns` columns.
        #[inline(always)]
        #[allow(unsafe_code, reason = "see the safety section")]
        unsafe fn $narrow<S: Simd>(self, simd: S) {
            let zero = T::splat(simd, T::ZERO);
            $(let mut $left = zero;)+
            // SAFETY: within the bounds the caller promises.
            unsafe {
                let (mut lhs, mut panel) = (self.lhs, self.panel);
                for _ in 0..self.inner {
                    let left = T::load(simd, panel);
                    $(
                        let factor = T::splat(simd, *lhs.add($row * self.row_stride));
                        $left = T::multiply_add(simd, factor, left, $left);
                    )+
                    lhs = lhs.add(self.column_stride);
                    panel = panel.add(T::lanes::<S>());
                }
                $(self.write(simd, $row, [$left]);)+
            }
        }
    };
}

impl<T: Float> Tile<T> {
    kernels!(wide14, narrow14: 0 a0 b0, 1 a1 b1, 2 a2 b2, 3 a3 b3, 4 a4 b4, 5 a5 b5, 6 a6 b6, 7 a7 b7, 8 a8 b8, 9 a9 b9,
        10 a10 b10, 11 a11 b11, 12 a12 b12, 13 a13 b13);
    kernels!(wide12, narrow12: 0 a0 b0, 1 a1 b1, 2 a2 b2, 3 a3 b3, 4 a4 b4, 5 a5 b5, 6 a6 b6, 7 a7 b7, 8 a8 b8, 9 a9 b9,
        10 a10 b10, 11 a11 b11);
    kernels!(wide8, narrow8: 0 a0 b0, 1 a1 b1, 2 a2 b2, 3 a3 b3, 4 a4 b4, 5 a5 b5, 6 a6 b6, 7 a7 b7);
    kernels!(wide6, narrow6: 0 a0 b0, 1 a1 b1, 2 a2 b2, 3 a3 b3, 4 a4 b4, 5 a5 b5);
    kernels!(wide4, narrow4: 0 a0 b0, 1 a1 b1, 2 a2 b2, 3 a3 b3);
    kernels!(wide2, narrow2: 0 a0 b0, 1 a1 b1);
    kernels!(wide1, narrow1: 0 a0 b0);

    /// Does the first of `rows` rows, as many as there is a kernel for; how many that were. `ROWS`: what the registers hold.
    ///
    /// # Safety
    /// All pointers must be good for that many rows, `inner` steps and `columns` columns.
    #[inline(always)]
    #[allow(unsafe_code, reason = "see the safety section")]
    unsafe fn some_rows<S: Simd, const ROWS: usize, const VECTORS: usize>(
        self,
        simd: S,
        rows: usize,
    ) -> usize {
        // SAFETY: the caller promises that `rows` rows lie inside; no kernel does more.
        macro_rules! kernel {
            ($rows:literal, $wide:ident, $narrow:ident) => {
                if $rows <= ROWS && rows >= $rows {
                    unsafe { if VECTORS == 2 { self.$wide(simd) } else { self.$narrow(simd) } }
                    return $rows;
                }
            };
        }
        kernel!(14, wide14, narrow14);
        kernel!(12, wide12, narrow12);
        kernel!(8, wide8, narrow8);
        kernel!(6, wide6, narrow6);
        kernel!(4, wide4, narrow4);
        kernel!(2, wide2, narrow2);
        kernel!(1, wide1, narrow1);
        0
    }

    /// Finishes a row.
    ///
    /// # Safety
    /// As for the kernels, with `row` one of their rows.
    #[inline(always)]
    #[allow(unsafe_code, reason = "see the safety section")]
    unsafe fn write<S: Simd, const VECTORS: usize>(self, simd: S, row: usize, sums: [T::Of<S>; VECTORS]) {
        let lanes = T::lanes::<S>();
        // SAFETY: the caller's promise; the buffer is as wide as the widest panel.
        unsafe {
            if self.columns == VECTORS * lanes {
                self.write_vectors(simd, row, sums);
            } else {
                let mut numbers = [T::ZERO; WIDEST];
                for (number, sum) in sums.into_iter().enumerate() {
                    T::store(simd, numbers.as_mut_ptr().add(number * lanes), sum);
                }
                self.write_numbers(row, &numbers[..self.columns]);
            }
        }
    }

    /// Finishes a row of whole vectors.
    #[inline(always)]
    #[allow(unsafe_code, reason = "see `rows`")]
    unsafe fn write_vectors<S: Simd, const VECTORS: usize>(
        self,
        simd: S,
        row: usize,
        sums: [T::Of<S>; VECTORS],
    ) {
        let lanes = T::lanes::<S>();
        for (number, mut sum) in sums.into_iter().enumerate() {
            let at = row * self.result_stride + number * lanes;
            // SAFETY: within the bounds the caller of `rows` promises.
            unsafe {
                let result = self.result.add(at);
                if self.add {
                    sum = T::plus(simd, T::load(simd, result), sum);
                }
                if !self.bias.is_null() {
                    sum = T::plus(simd, sum, T::load(simd, self.bias.add(number * lanes)));
                }
                if !self.residual.is_null() {
                    sum = T::plus(simd, sum, T::load(simd, self.residual.add(at)));
                }
                if self.relu {
                    sum = T::maximum(simd, T::splat(simd, T::ZERO), sum);
                }
                T::store(simd, result, sum);
            }
        }
    }

    /// Finishes a row number by number, by the same arithmetic.
    #[inline(never)]
    #[allow(unsafe_code, reason = "see `rows`")]
    unsafe fn write_numbers(self, row: usize, numbers: &[T]) {
        for (column, number) in numbers.iter().enumerate() {
            let at = row * self.result_stride + column;
            let mut sum = *number;
            // SAFETY: within the bounds the caller of `rows` promises.
            unsafe {
                let result = self.result.add(at);
                if self.add {
                    sum = *result + sum;
                }
                if !self.bias.is_null() {
                    sum += *self.bias.add(column);
                }
                if !self.residual.is_null() {
                    sum += *self.residual.add(at);
                }
                if self.relu && sum < T::ZERO {
                    sum = T::ZERO;
                }
                *result = sum;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Finish, Matrix, SCRATCH, multiply};
    use crate::float::Float;

    fn pattern<T: Float>(count: usize, place: usize) -> Vec<T> {
        (0..count).map(|at| T::of(((at * 7919 + place * 104_729) % 1013) as f64 / 500.0 - 1.0)).collect()
    }

    fn check<T: Float>(
        (m, k, n): (usize, usize, usize),
        transposed: [bool; 2],
        accumulate: bool,
        tolerance: f64,
    ) {
        let (a, b) = (pattern::<T>(m * k, 1), pattern::<T>(k * n, 2));
        let (bias, residual) = (pattern::<T>(n, 3), pattern::<T>(m * n, 4));
        let start = pattern::<T>(m * n, 5);
        let lhs = if transposed[0] { Matrix::new(&a, k, m).transposed() } else { Matrix::new(&a, m, k) };
        let rhs = if transposed[1] { Matrix::new(&b, n, k).transposed() } else { Matrix::new(&b, k, n) };
        let finish = Finish { bias: Some(&bias), residual: Some(&residual), relu: true };
        let mut scratch = vec![T::ZERO; SCRATCH];
        let mut result = start.clone();
        multiply(&mut scratch, (&mut result, n), lhs, rhs, accumulate, finish);
        for row in 0..m {
            for column in 0..n {
                let mut sum = if accumulate { start[row * n + column].wide() } else { 0.0 };
                for at in 0..k {
                    let left = if transposed[0] { a[at * m + row] } else { a[row * k + at] };
                    let right = if transposed[1] { b[column * k + at] } else { b[at * n + column] };
                    sum += left.wide() * right.wide();
                }
                sum += bias[column].wide() + residual[row * n + column].wide();
                let (found, expected) = (result[row * n + column].wide(), sum.max(0.0));
                assert!((found - expected).abs() <= tolerance, "{m}x{k}x{n}: {found}, not {expected}");
            }
        }
        // Any split of the rows gives the same bits.
        let mut split = start;
        let half = m / 3;
        for rows in [0..half, half..m] {
            let lhs = if transposed[0] {
                Matrix::strided(&a[rows.start..], k, rows.len(), m).transposed()
            } else {
                Matrix::new(&a[rows.start * k..rows.end * k], rows.len(), k)
            };
            let finish = Finish { residual: Some(&residual[rows.start * n..]), ..finish };
            multiply(
                &mut scratch,
                (&mut split[rows.start * n..rows.end * n], n),
                lhs,
                rhs,
                accumulate,
                finish,
            );
        }
        assert!(split == result, "{m}x{k}x{n} depends on how its rows are split");
    }

    #[test]
    fn products_of_all_shapes_and_layouts() {
        for (m, k, n) in [
            (1, 1, 1),
            (3, 5, 7),
            (12, 192, 32),
            (13, 193, 33),
            (40, 400, 65),
            (26, 31, 16),
            (9, 8, 5),
            (180, 1024, 100),
        ] {
            for transposed in [[false, false], [true, false], [false, true], [true, true]] {
                for accumulate in [false, true] {
                    check::<f32>((m, k, n), transposed, accumulate, 2e-5 * k as f64);
                    check::<f64>((m, k, n), transposed, accumulate, 1e-13 * k as f64);
                }
            }
        }
    }
}
