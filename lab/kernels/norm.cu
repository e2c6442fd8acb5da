// Layer normalisation (Ba et al. 2016) and root-mean-square normalisation (Zhang and Sennrich 2019): one warp per row.
#include "common.cuh"

/// y = (x - mean) * scale * gain + bias per row, with scale = 1 / sqrt(variance + epsilon). With centred = 0 (RMS norm)
/// the mean is taken as 0; bias may be null. Saves mean and scale [K, rows] where the pointers are not null.
/// Grid: (ceil(rows / warps of a block), K).
KERNEL void norm_forward(float *y, float *means, float *scales, const float *x, const float *gain, const float *bias,
                         i64 parameter_stride, int rows, int width, float epsilon, int centred) {
    const int row = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const i64 replica = blockIdx.y;
    if (row >= rows) return; // whole warps leave
    const i64 at = replica * rows + row;
    x += at * width;
    y += at * width;
    gain += replica * parameter_stride;
    float mean = 0;
    if (centred) {
        for (int column = lane; column < width; column += WARP) mean += x[column];
        mean = warp_sum(mean) / width;
    }
    float variance = 0;
    for (int column = lane; column < width; column += WARP) {
        const float centre = x[column] - mean;
        variance += centre * centre;
    }
    variance = warp_sum(variance) / width;
    const float scale = 1.0f / sqrtf(variance + epsilon);
    for (int column = lane; column < width; column += WARP) {
        float value = (x[column] - mean) * scale * gain[column];
        if (bias != nullptr) value += bias[replica * parameter_stride + column];
        y[column] = value;
    }
    if (lane == 0 && means != nullptr) means[at] = mean;
    if (lane == 0 && scales != nullptr) scales[at] = scale;
}

/// Gradient of the input; with `accumulate` it is added to what is there. means may be null: 0. Grid as norm_forward.
KERNEL void norm_backward_input(float *to_x, const float *to_y, const float *x, const float *gain, i64 parameter_stride,
                                const float *means, const float *scales, int rows, int width, int centred,
                                int accumulate) {
    const int row = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const i64 replica = blockIdx.y;
    if (row >= rows) return; // whole warps leave
    const i64 at = replica * rows + row;
    x += at * width;
    to_x += at * width;
    to_y += at * width;
    gain += replica * parameter_stride;
    const float mean = means == nullptr ? 0.0f : means[at], scale = scales[at];
    float sum = 0, along = 0;
    for (int column = lane; column < width; column += WARP) {
        const float slope = to_y[column] * gain[column];
        sum += slope;
        along += slope * (x[column] - mean) * scale;
    }
    sum = centred ? warp_sum(sum) / width : 0.0f;
    along = warp_sum(along) / width;
    for (int column = lane; column < width; column += WARP) {
        float value = scale * (to_y[column] * gain[column] - sum - (x[column] - mean) * scale * along);
        if (accumulate) value += to_x[column];
        to_x[column] = value;
    }
}

/// Partial sums of the gradients of gain and bias over segments of rows (see sums.cu):
/// to_gain[k, s, :], to_bias[k, s, :] (to_bias and means may be null). Grid: (ceil(width / 32), segments, K); block (32, 8).
KERNEL void norm_backward_parameters(float *to_gain, float *to_bias, i64 partial_stride, const float *to_y,
                                     const float *x, const float *means, const float *scales, int rows, int width,
                                     int segment) {
    __shared__ float gains[8][32];
    __shared__ float biases[8][32];
    const int column = blockIdx.x * 32 + threadIdx.x;
    const int start = blockIdx.y * segment;
    const int end = start + segment < rows ? start + segment : rows;
    const i64 replica = blockIdx.z;
    x += replica * rows * width;
    to_y += replica * rows * width;
    if (means != nullptr) means += replica * rows;
    scales += replica * rows;
    float gain = 0, bias = 0;
    if (column < width)
        for (int row = start + threadIdx.y; row < end; row += 8) {
            const float slope = to_y[(i64)row * width + column];
            const float mean = means == nullptr ? 0.0f : means[row];
            gain += slope * (x[(i64)row * width + column] - mean) * scales[row];
            bias += slope;
        }
    gains[threadIdx.y][threadIdx.x] = gain;
    biases[threadIdx.y][threadIdx.x] = bias;
    __syncthreads();
    if (threadIdx.y == 0 && column < width) {
        for (int lane = 1; lane < 8; ++lane) {
            gain += gains[lane][threadIdx.x];
            bias += biases[lane][threadIdx.x];
        }
        const i64 at = replica * partial_stride + (i64)blockIdx.y * width + column;
        to_gain[at] = gain;
        if (to_bias != nullptr) to_bias[at] = bias;
    }
}
