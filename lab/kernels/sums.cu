// Sums over rows for the gradients of biases, gains and tables, in two stages: partial sums of segments of rows, written
// by the kernels that have the rows at hand, and one kernel that adds up the partial sums of many parameters at once.
#include "common.cuh"

/// Columns of a tile; a block is (COLUMNS, LANES_OF_ROWS).
constexpr int COLUMNS = 32;
constexpr int LANES_OF_ROWS = 8;

/// partial[k, s, :] = sum over the rows of segment s of x[k, row, :].
/// Grid: (ceil(width / 32), segments, K); block (32, 8). Segment s covers rows [s, s + 1) * segment.
KERNEL void column_sums(float *partial, i64 partial_stride, const float *x, int rows, int width, int segment) {
    __shared__ float tile[LANES_OF_ROWS][COLUMNS];
    const int column = blockIdx.x * COLUMNS + threadIdx.x;
    const int start = blockIdx.y * segment;
    const int end = start + segment < rows ? start + segment : rows;
    const i64 replica = blockIdx.z;
    x += replica * rows * width;
    float sum = 0;
    if (column < width)
        for (int row = start + threadIdx.y; row < end; row += LANES_OF_ROWS) sum += x[(i64)row * width + column];
    tile[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y == 0 && column < width) {
        for (int lane = 1; lane < LANES_OF_ROWS; ++lane) sum += tile[lane][threadIdx.x];
        partial[replica * partial_stride + (i64)blockIdx.y * width + column] = sum;
    }
}

/// One sum to finish: `segments` partial sums of `width` numbers each.
struct PartialSum {
    i64 partial;        // from the partial buffer's start, replica 0
    i64 partial_stride; // between replicas
    i64 target;         // from the target's start, replica 0
    i64 width;
    int segments;
    int padding;
};

/// target[k * target_stride + sum.target + column] += sum over segments, for every sum of a list.
/// Grid: (ceil(widest / block), sums, K).
KERNEL void finish_sums(float *target, i64 target_stride, const float *partial, const PartialSum *sums) {
    const PartialSum sum = sums[blockIdx.y];
    const i64 column = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    const i64 replica = blockIdx.z;
    if (column >= sum.width) return;
    partial += sum.partial + replica * sum.partial_stride + column;
    target += replica * target_stride + sum.target + column;
    float total = 0;
    for (int segment = 0; segment < sum.segments; ++segment) total += partial[(i64)segment * sum.width];
    *target += total;
}

/// target[k, :] = sum over segments of partial[k, s, :], for one sum whose partial sums stand one after another; with
/// `accumulate` added to what is there. Grid: (ceil(width / block), K).
KERNEL void add_segments(float *target, i64 target_stride, const float *partial, int segments, i64 width, int accumulate) {
    const i64 column = (i64)blockIdx.x * blockDim.x + threadIdx.x, replica = blockIdx.y;
    if (column >= width) return;
    partial += replica * segments * width + column;
    target += replica * target_stride + column;
    float total = accumulate ? *target : 0.0f;
    for (int segment = 0; segment < segments; ++segment) total += partial[segment * width];
    *target = total;
}
