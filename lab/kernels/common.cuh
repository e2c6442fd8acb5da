// What every kernel shares: integer names, sums over warps and blocks in a fixed order.
//
// Conventions of all kernels. Activations are row-major [K, rows, width]; a parameter of replica k stands at k * stride
// (in numbers) from the pointer given. Nothing is added with atomics, so that every sum has one order and a step gives
// the same bits each time. A grid covers the work by rounding up; threads beyond the end leave before the first
// synchronisation of their warp or block, or take part with neutral values.
#pragma once

#ifdef PLATEAU_EMULATED
#include "emulated.h"
#endif

typedef unsigned int u32;
typedef long long i64;

#define KERNEL extern "C" __global__

constexpr int WARP = 32;
constexpr u32 ALL_LANES = 0xffffffffu;

/// Sum over the 32 lanes of a warp; every lane gets it. All lanes must call.
template <typename T>
__device__ inline T warp_sum(T value) {
    for (int distance = WARP / 2; distance > 0; distance /= 2)
        value += __shfl_xor_sync(ALL_LANES, value, distance);
    return value;
}

/// Largest of the 32 lanes of a warp; NaN is not looked for. All lanes must call.
template <typename T>
__device__ inline T warp_highest(T value) {
    for (int distance = WARP / 2; distance > 0; distance /= 2) {
        T other = __shfl_xor_sync(ALL_LANES, value, distance);
        value = other > value ? other : value;
    }
    return value;
}

/// Sum over a block of whole warps (at most 32); every thread gets it. All threads must call.
template <typename T>
__device__ inline T block_sum(T value, T *partial) {
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, warps = blockDim.x / WARP;
    value = warp_sum(value);
    __syncthreads();
    if (lane == 0) partial[warp] = value;
    __syncthreads();
    value = lane < warps ? partial[lane] : T(0);
    return warp_sum(value);
}

/// Which row of a value or table each place n of a list stands for. Places come in groups (of one example, mostly) of
/// `positions`; place n is position n mod positions of group n / positions.
struct RowMap {
    const u32 *table;   // a row for each place; null: the position plus `first`
    i64 distance;       // between the tables of neighbouring replicas, in numbers; 0: one for all
    int positions;
    int table_step;     // numbers of the table per group: positions, or 0 where groups share them
    int rows_per_group; // rows of a group: its rows are counted from the group's number times this; 0: groups share rows
    int first;
};

__device__ inline u32 row_of(const RowMap &map, i64 replica, int group, int position) {
    const u32 own = map.table == nullptr
                        ? (u32)(position + map.first)
                        : map.table[replica * map.distance + (i64)group * map.table_step + position];
    return (u32)group * (u32)map.rows_per_group + own;
}
