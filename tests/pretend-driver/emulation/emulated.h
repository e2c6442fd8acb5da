// CUDA's device language for a processor: every thread of a block is a fibre, and a fibre that waits at a barrier or for a
// shuffle lets the others go on. Slow and exact: a kernel that leaves threads behind at a barrier, or shuffles among lanes
// that do not all take part, ends the process with a message instead of hanging.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#define __global__
#define __device__
#define __shared__ static

struct Extents {
    unsigned x, y, z;
};

extern thread_local Extents threadIdx, blockIdx, blockDim, gridDim;

/// Waits for the threads of the block that have not ended.
void emulated_block_barrier();
/// Waits for the lanes of the mask; every lane's 8 bytes are then in the warp's exchange. Returns that exchange.
const uint64_t *emulated_exchange(uint32_t mask, uint64_t bits);
/// This thread's lane.
unsigned emulated_lane();

inline void __syncthreads() { emulated_block_barrier(); }
inline void __syncwarp(uint32_t mask = 0xffffffffu) { emulated_exchange(mask, 0); }

template <typename T>
inline T __shfl_xor_sync(uint32_t mask, T value, int distance) {
    static_assert(sizeof(T) <= 8, "at most 8 bytes are exchanged");
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof(T));
    bits = emulated_exchange(mask, bits)[emulated_lane() ^ (unsigned)distance];
    std::memcpy(&value, &bits, sizeof(T));
    return value;
}

inline uint32_t __ballot_sync(uint32_t mask, bool vote) {
    const uint64_t *all = emulated_exchange(mask, vote ? 1 : 0);
    uint32_t votes = 0;
    for (unsigned lane = 0; lane < 32; ++lane)
        if ((mask >> lane & 1u) && all[lane]) votes |= 1u << lane;
    return votes;
}

inline int __popc(uint32_t bits) { return __builtin_popcount(bits); }

using std::isfinite;
