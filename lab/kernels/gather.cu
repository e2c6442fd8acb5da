// Rows of a table by number, and their gradient: the sum of the rows that came from each row of the table.
#include "common.cuh"

/// output[k, n, :] = factor table_k[map(n), :] (+ second_k[second_map(n), :], where second is not null). Tables of neighbouring
/// replicas are as many numbers apart as their strides say. Grid: (ceil(count width / block), K).
KERNEL void gather_rows(float *output, const float *table, i64 table_stride, RowMap map, const float *second,
                        i64 second_stride, RowMap second_map, int count, int width, float factor) {
    const u32 at = blockIdx.x * blockDim.x + threadIdx.x; // below 2^31
    const i64 replica = blockIdx.y;
    if (at >= (u32)count * (u32)width) return;
    const int n = (int)(at / (u32)width), column = (int)(at % (u32)width);
    const i64 from = row_of(map, replica, n / map.positions, n % map.positions);
    float value = factor * table[replica * table_stride + from * width + column];
    if (second != nullptr) {
        const i64 other = row_of(second_map, replica, n / second_map.positions, n % second_map.positions);
        value += second[replica * second_stride + other * width + column];
    }
    output[replica * count * width + at] = value;
}

/// The gradient of a table's rows: sums[k, s, row, :] = factor times the sum of gradient[k, n, :] over the places n of segment s with
/// map(n) == row, in the order of n. With one segment the sums may go straight to their place: sums_stride is the distance
/// between replicas, and `accumulate` adds to what is there. Segment s covers places [s, s + 1) * segment; where groups have
/// rows of their own, a row's block looks at its group only, and there is one segment.
/// Grid: (table rows, segments, K); block: a multiple of 32 threads, at most 256.
KERNEL void gather_backward(float *sums, i64 sums_stride, const float *gradient, i64 gradient_stride, RowMap map,
                            int count, int width, int segment, int accumulate, float factor) {
    __shared__ int matches[256];
    __shared__ int matches_of_warp[8];
    const u32 row = blockIdx.x;
    const i64 replica = blockIdx.z;
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
    int start = blockIdx.y * segment;
    int end = start + segment < count ? start + segment : count;
    if (map.rows_per_group > 0) {
        start = (int)(row / map.rows_per_group) * map.positions;
        end = start + map.positions;
    }
    gradient += replica * gradient_stride;
    float *target = sums + replica * sums_stride + ((i64)blockIdx.y * gridDim.x + row) * width;
    for (int tile = 0; tile < width; tile += blockDim.x) {
        const int column = tile + threadIdx.x;
        float sum = 0;
        for (int chunk = start; chunk < end; chunk += blockDim.x) {
            const int n = chunk + threadIdx.x;
            const bool match = n < end && row_of(map, replica, n / map.positions, n % map.positions) == row;
            const u32 mask = __ballot_sync(ALL_LANES, match);
            __syncthreads(); // the matches of the chunk before have been used
            if (lane == 0) matches_of_warp[warp] = __popc(mask);
            __syncthreads();
            int before = 0, found = 0;
            for (int other = 0; other < warps; ++other) {
                if (other < warp) before += matches_of_warp[other];
                found += matches_of_warp[other];
            }
            if (match) matches[before + __popc(mask & ((1u << lane) - 1u))] = n;
            __syncthreads();
            if (column < width)
                for (int index = 0; index < found; ++index) sum += gradient[(i64)matches[index] * width + column];
        }
        if (column < width) {
            sum *= factor;
            if (accumulate) sum += target[column];
            target[column] = sum;
        }
    }
}
