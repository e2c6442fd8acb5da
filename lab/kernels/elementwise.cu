// What stands around matrix products: biases, activations, gates, residual sums, factors; and the gradients, with the
// partial sums of bias gradients (see sums.cu) taken on the way.
#include "common.cuh"

/// The activation of an epilogue.
enum Activation { NONE = 0, RELU = 1, GELU = 2 };

/// x Phi(x), exact (Hendrycks and Gimpel 2016).
__device__ inline float gelu(float x) { return x * 0.5f * (1.0f + erff(x * 0.70710678118654752f)); }

/// Its slope.
__device__ inline float gelu_slope(float x) {
    const float share = 0.5f * (1.0f + erff(x * 0.70710678118654752f));
    return share + x * 0.39894228040143268f * expf(-0.5f * x * x);
}

__device__ inline float activate(int activation, float x) {
    if (activation == RELU) return x < 0.0f ? 0.0f : x; // NaN stays NaN
    if (activation == GELU) return gelu(x);
    return x;
}

__device__ inline float activation_slope(int activation, float x) {
    if (activation == RELU) return x > 0.0f ? 1.0f : 0.0f;
    if (activation == GELU) return gelu_slope(x);
    return 1.0f;
}

/// y = activation(x + bias) + residual, in place of x or not. bias and residual may be null.
/// Grid: (ceil(rows width / block), K).
KERNEL void bias_activation(float *y, const float *x, const float *bias, i64 bias_stride, const float *residual, int rows,
                            int width, int activation) {
    const u32 at = blockIdx.x * blockDim.x + threadIdx.x; // below 2^31
    const i64 replica = blockIdx.y;
    if (at >= (u32)rows * (u32)width) return;
    const i64 place = replica * rows * width + at;
    float value = x[place];
    if (bias != nullptr) value += bias[replica * bias_stride + at % (u32)width];
    value = activate(activation, value);
    if (residual != nullptr) value += residual[place];
    y[place] = value;
}

/// y = gelu(gate) * x (Shazeer 2020). Grid: (ceil(numbers / block)).
KERNEL void gated_gelu(float *y, const float *gate, const float *x, i64 numbers) {
    const i64 at = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (at < numbers) y[at] = gelu(gate[at]) * x[at];
}

/// Gradients of gate and x from that of gelu(gate) * x, each added to what is there where its flag says so.
/// Grid: (ceil(numbers / block)).
KERNEL void gated_gelu_backward(float *to_gate, float *to_x, const float *to_y, const float *gate, const float *x,
                                i64 numbers, int accumulate_gate, int accumulate_x) {
    const i64 at = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= numbers) return;
    const float slope = to_y[at], opened = gate[at], value = x[at];
    const float gate_slope = slope * value * gelu_slope(opened), x_slope = slope * gelu(opened);
    to_gate[at] = accumulate_gate ? to_gate[at] + gate_slope : gate_slope;
    to_x[at] = accumulate_x ? to_x[at] + x_slope : x_slope;
}

/// to_x = to_y * activation'(before), in place of to_y or not, added to what is there with `accumulate`; and the partial
/// column sums of to_y * activation'(before) over segments of rows where `partial` is not null. `before` is what the
/// activation saw (for ReLU its result serves as well). Grid: (ceil(width / 32), segments, K); block (32, 8).
KERNEL void activation_backward(float *to_x, float *partial, i64 partial_stride, const float *to_y, const float *before,
                                int rows, int width, int segment, int activation, int accumulate) {
    __shared__ float tile[8][32];
    const int column = blockIdx.x * 32 + threadIdx.x;
    const int start = blockIdx.y * segment;
    const int end = start + segment < rows ? start + segment : rows;
    const i64 replica = blockIdx.z;
    float sum = 0;
    if (column < width)
        for (int row = start + threadIdx.y; row < end; row += 8) {
            const i64 place = (replica * rows + row) * width + column;
            const float value = to_y[place] * activation_slope(activation, before[place]);
            to_x[place] = accumulate ? to_x[place] + value : value;
            sum += value;
        }
    if (partial == nullptr) return; // the same for every thread
    tile[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y == 0 && column < width) {
        for (int lane = 1; lane < 8; ++lane) sum += tile[lane][threadIdx.x];
        partial[replica * partial_stride + (i64)blockIdx.y * width + column] = sum;
    }
}

/// y = x * factor number by number, in place or not, added to y with `accumulate`. Factors of neighbouring replicas are
/// `distance` numbers apart. Grid: (ceil(numbers of a replica / block), K).
KERNEL void multiply(float *y, const float *x, const float *factors, i64 distance, i64 numbers, int accumulate) {
    const i64 at = (i64)blockIdx.x * blockDim.x + threadIdx.x, replica = blockIdx.y;
    if (at >= numbers) return;
    const i64 place = replica * numbers + at;
    const float value = x[place] * factors[replica * distance + at];
    y[place] = accumulate ? y[place] + value : value;
}

/// y = a + b; a may be y. Grid: (ceil(numbers / block)).
KERNEL void add(float *y, const float *a, const float *b, i64 numbers) {
    const i64 at = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (at < numbers) y[at] = a[at] + b[at];
}
