// The kernels of lab/kernels for a processor, and the door through which the pretended driver runs them.
#include "emulated.h"

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <tuple>
#include <ucontext.h>
#include <utility>
#include <vector>

thread_local Extents threadIdx, blockIdx, blockDim, gridDim;

namespace {

constexpr size_t STACK = 64 << 10;

struct Fibre {
    ucontext_t context;
    std::vector<char> stack = std::vector<char>(STACK);
    Extents index;
    bool ended;
    bool at_barrier;
    uint32_t waiting_for; // lanes of an exchange; 0: none
};

struct Block {
    std::vector<Fibre> fibres;
    std::vector<std::vector<uint64_t>> given;  // per warp: what lanes bring to the exchange under way
    std::vector<std::vector<uint64_t>> taken;  // per fibre: what its last exchange gave
    ucontext_t scheduler;
    unsigned current;
    const std::function<void()> *kernel;
};

Block block;

[[noreturn]] void fail(const char *problem) {
    std::fprintf(stderr, "emulated kernel: %s\n", problem);
    std::abort();
}

void run_fibre() {
    (*block.kernel)();
    block.fibres[block.current].ended = true;
    swapcontext(&block.fibres[block.current].context, &block.scheduler);
}

void give_way() {
    const unsigned own = block.current;
    swapcontext(&block.fibres[own].context, &block.scheduler);
}

void run_block(unsigned threads) {
    for (unsigned at = 0; at < threads; ++at) {
        Fibre &fibre = block.fibres[at];
        fibre.ended = fibre.at_barrier = false;
        fibre.waiting_for = 0;
        fibre.index = {at % blockDim.x, at / blockDim.x % blockDim.y, at / blockDim.x / blockDim.y};
        getcontext(&fibre.context);
        fibre.context.uc_stack.ss_sp = fibre.stack.data();
        fibre.context.uc_stack.ss_size = STACK;
        fibre.context.uc_link = nullptr;
        makecontext(&fibre.context, run_fibre, 0);
    }
    for (;;) {
        bool moved = false, all_ended = true, all_at_barrier = true;
        for (unsigned at = 0; at < threads; ++at) {
            Fibre &fibre = block.fibres[at];
            if (fibre.ended) continue;
            all_ended = false;
            if (fibre.at_barrier) continue;
            all_at_barrier = false;
            if (fibre.waiting_for != 0) {
                // Ready when every lane of the mask waits for the same exchange.
                const unsigned first = at / 32 * 32;
                bool ready = true;
                for (unsigned lane = 0; lane < 32; ++lane) {
                    if (!(fibre.waiting_for >> lane & 1u)) continue;
                    if (first + lane >= threads || block.fibres[first + lane].ended)
                        fail("an exchange names a lane that has ended");
                    ready = ready && block.fibres[first + lane].waiting_for == fibre.waiting_for;
                }
                if (!ready) continue;
                const uint32_t mask = fibre.waiting_for;
                for (unsigned lane = 0; lane < 32; ++lane)
                    if (mask >> lane & 1u) {
                        block.taken[first + lane] = block.given[at / 32];
                        block.fibres[first + lane].waiting_for = 0;
                    }
                moved = true;
            }
            block.current = at;
            threadIdx = fibre.index;
            swapcontext(&block.scheduler, &fibre.context);
            moved = true;
        }
        if (all_ended) return;
        if (all_at_barrier) {
            for (unsigned at = 0; at < threads; ++at) block.fibres[at].at_barrier = false;
            continue;
        }
        if (!moved) fail("threads wait for one another at different places");
    }
}

} // namespace

void emulated_block_barrier() {
    block.fibres[block.current].at_barrier = true;
    give_way();
}

unsigned emulated_lane() { return block.current % 32; }

const uint64_t *emulated_exchange(uint32_t mask, uint64_t bits) {
    const unsigned own = block.current;
    if (!(mask >> (own % 32) & 1u)) fail("an exchange does not name the lane that calls it");
    block.given[own / 32][own % 32] = bits;
    block.fibres[own].waiting_for = mask;
    give_way();
    return block.taken[own].data();
}

#include "attention.cu"
#include "elementwise.cu"
#include "fire.cu"
#include "gather.cu"
#include "loss.cu"
#include "norm.cu"
#include "optimizer.cu"
#include "rotary.cu"
#include "sums.cu"

namespace {

/// A kernel with a copy of its arguments.
using Call = std::function<void()>;

template <typename... Arguments, size_t... Places>
Call hold(void (*kernel)(Arguments...), void *const *arguments, std::index_sequence<Places...>) {
    std::tuple<Arguments...> copies(*static_cast<std::remove_cv_t<Arguments> *>(arguments[Places])...);
    return [kernel, copies] { std::apply(kernel, copies); };
}

template <typename... Arguments>
Call hold(void (*kernel)(Arguments...), void *const *arguments) {
    return hold(kernel, arguments, std::index_sequence_for<Arguments...>{});
}

} // namespace

extern "C" {

void *emulated_bind(const char *name, void *const *arguments) {
#define KNOWN(kernel)                                                                                                  \
    if (!std::strcmp(name, #kernel)) return new Call(hold(kernel, arguments));
#include "names.h"
#undef KNOWN
    return nullptr;
}

/// Runs a bound kernel; extents are those of grid and block.
void emulated_run(void *call, const unsigned *extents) {
    gridDim = {extents[0], extents[1], extents[2]};
    blockDim = {extents[3], extents[4], extents[5]};
    const unsigned threads = blockDim.x * blockDim.y * blockDim.z;
    if (block.fibres.size() < threads) block.fibres.resize(threads);
    block.given.assign((threads + 31) / 32, std::vector<uint64_t>(32));
    block.taken.resize(threads);
    block.kernel = static_cast<Call *>(call);
    for (unsigned z = 0; z < gridDim.z; ++z)
        for (unsigned y = 0; y < gridDim.y; ++y)
            for (unsigned x = 0; x < gridDim.x; ++x) {
                blockIdx = {x, y, z};
                run_block(threads);
            }
}

void emulated_release(void *call) { delete static_cast<Call *>(call); }
}
