// Rotary positions (Su et al. 2021): coordinates i and i + h/2 of each head turn by position / 10 000^(2i/h).
#include "common.cuh"

/// Turns every row of x [K, rows, width] by its angle; y may be x. cosines and sines are [positions, head / 2], row number r
/// is turned by number r modulo positions, the same in all replicas; direction 1 forward, -1 backward; with `accumulate`
/// added to y (then y must not be x).
/// Grid: (ceil(rows width / 2 / block), K).
KERNEL void rotary(float *y, const float *x, const float *cosines, const float *sines, int positions, int rows, int width,
                   int head, float direction, int accumulate) {
    const u32 at = blockIdx.x * blockDim.x + threadIdx.x; // below 2^31
    const i64 replica = blockIdx.y;
    const int half = head / 2, pairs = width / 2;
    if (at >= (u32)rows * (u32)pairs) return;
    const i64 row = at / (u32)pairs;
    const int pair = (int)(at % (u32)pairs), own = pair / half, index = pair % half;
    const i64 low = (replica * rows + row) * width + (i64)own * head + index, high = low + half;
    const int angle = (int)row % positions * half + index;
    const float cosine = cosines[angle], sine = direction * sines[angle];
    const float first = x[low], second = x[high];
    float turned_low = first * cosine - second * sine, turned_high = second * cosine + first * sine;
    if (accumulate) {
        turned_low += y[low];
        turned_high += y[high];
    }
    y[low] = turned_low;
    y[high] = turned_high;
}
