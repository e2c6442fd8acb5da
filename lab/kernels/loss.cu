// Losses and their derivatives, in 64 bits whatever the outputs are in: in 32 bits log-softmax underflows once the loss is
// small and learning stops or spikes (Prieto et al. 2025; Nanda et al. 2023 use 64 bits for it as well).
#include "common.cuh"

/// Cross-entropy of one row per warp: losses[k, n] = share * (log sum exp(outputs) - outputs[answer]), where share = the
/// row's weight (weights null: 1) times the replica's scale, and slopes[k, n, :] the loss's derivative (slopes may be null,
/// or the outputs themselves). Losses, answers and weights have a distance between replicas, in numbers.
/// Grid: (ceil(rows / warps of a block), K).
KERNEL void cross_entropy(double *losses, i64 losses_distance, float *slopes, const float *outputs, const u32 *answers,
                          i64 answers_distance, const float *weights, i64 weights_distance, const double *scales,
                          int rows, int classes) {
    const int row = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const i64 replica = blockIdx.y;
    if (row >= rows) return; // whole warps leave
    const i64 at = replica * rows + row;
    outputs += at * classes;
    float highest = -INFINITY;
    for (int index = lane; index < classes; index += WARP) highest = fmaxf(highest, outputs[index]);
    highest = warp_highest(highest);
    const u32 answer = answers[replica * answers_distance + row];
    // All but the answer, so that its slope does not round to 0 before the others' do.
    double others = 0;
    for (int index = lane; index < classes; index += WARP)
        if ((u32)index != answer) others += exp((double)outputs[index] - (double)highest);
    others = warp_sum(others);
    const double right = outputs[answer]; // before the slopes overwrite it
    const double sum = others + exp(right - (double)highest);
    const double weight = weights == nullptr ? 1.0 : (double)weights[replica * weights_distance + row];
    const double share = weight * scales[replica];
    __syncwarp();
    if (slopes != nullptr) {
        slopes += at * classes;
        for (int index = lane; index < classes; index += WARP) {
            const double other = exp((double)outputs[index] - (double)highest) / sum;
            slopes[index] = (float)(share * ((u32)index == answer ? -others / sum : other));
        }
    }
    if (lane == 0) losses[replica * losses_distance + row] = share * ((double)highest + log(sum) - right);
}

/// Squared error of scalar outputs [K, rows] against values: losses[k, n] = share * error^2, otherwise as above.
/// Grid: (ceil(rows / block), K).
KERNEL void squared_error(double *losses, i64 losses_distance, float *slopes, const float *outputs, const float *values,
                          i64 values_distance, const float *weights, i64 weights_distance, const double *scales,
                          int rows) {
    const i64 row = (i64)blockIdx.x * blockDim.x + threadIdx.x, replica = blockIdx.y;
    if (row >= rows) return;
    const i64 at = replica * rows + row;
    const double weight = weights == nullptr ? 1.0 : (double)weights[replica * weights_distance + row];
    const double share = weight * scales[replica];
    const double error = (double)outputs[at] - (double)values[replica * values_distance + row];
    if (slopes != nullptr) slopes[at] = (float)(share * 2.0 * error);
    losses[replica * losses_distance + row] = share * error * error;
}
