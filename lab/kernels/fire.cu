// FIRE's bias of attention logits (Li et al. 2024): a small perceptron of the distance between query and key, computed once a pass
// for all examples of a replica. A pair's feature has 32 bits on the way forward; its derivatives, and all sums over pairs for the
// gradients of parameters, have 64.
#include "common.cuh"

/// Parameters (of replica 0; the next replica's are `stride` further on), positions and extents of a call.
struct Fire {
    const float *scale;       // c
    const float *multiplier;  // m
    const float *hidden;      // [U]
    const float *hidden_bias; // [U]
    const float *output;      // [U, H]
    const float *output_bias; // [H]
    i64 stride;               // between replicas' parameters
    const u32 *positions;     // [T] for each replica
    i64 distance;             // between replicas' positions; 0: one for all
    double length;            // L
    int units;                // U
    int heads;                // H
    int tokens;               // T
    int padding;
};

/// ln(|c| (i - j) + 1) / (ln(|c| max(i, |m| L) + 1) + 1e-6)
template <typename T>
struct Feature {
    T value, above, below, furthest, distance;
    bool beyond;
    __device__ Feature(T scale, T multiplier, T length, T query, T key) {
        const T threshold = fabs(multiplier) * length, size = fabs(scale);
        beyond = query > threshold;
        furthest = beyond ? query : threshold;
        distance = query - key;
        above = log1p(size * distance);
        below = log1p(size * furthest) + (T)1e-6;
        value = above / below;
    }
};

/// bias [K, H, T, T] (head, key, query), 0 where the key stands behind the query. Grid: (ceil(H T T / block), K).
KERNEL void fire_forward(float *bias, Fire call) {
    const u32 at = blockIdx.x * blockDim.x + threadIdx.x, tokens = (u32)call.tokens; // below 2^31
    const i64 replica = blockIdx.y, own = replica * call.stride;
    if (at >= (u32)call.heads * tokens * tokens) return;
    const u32 query = at % tokens, key = at / tokens % tokens, head = at / tokens / tokens;
    float sum = 0;
    if (key <= query) {
        const u32 *positions = call.positions + replica * call.distance;
        const Feature<float> feature(call.scale[own], call.multiplier[own], (float)call.length, (float)positions[query],
                                     (float)positions[key]);
        sum = call.output_bias[own + head];
        for (int unit = 0; unit < call.units; ++unit) {
            const float active = feature.value * call.hidden[own + unit] + call.hidden_bias[own + unit];
            if (active > 0) sum += active * call.output[own + (i64)unit * call.heads + head];
        }
    }
    bias[replica * call.heads * (i64)tokens * tokens + at] = sum;
}

/// Of every pair of a key and a query [K, T, T] that sees it: its feature, and what it adds to the gradients of c and m.
/// Grid: (ceil(T T / block), K).
KERNEL void fire_pairs(float *features, double *to_scale, double *to_multiplier, const float *gradient, Fire call) {
    const u32 at = blockIdx.x * blockDim.x + threadIdx.x, tokens = (u32)call.tokens, pairs = tokens * tokens; // below 2^31
    const i64 replica = blockIdx.y, own = replica * call.stride;
    if (at >= pairs) return;
    const u32 query = at % tokens, key = at / tokens;
    if (key > query) return;
    const u32 *positions = call.positions + replica * call.distance;
    const double scale = call.scale[own], multiplier = call.multiplier[own];
    const Feature<double> feature(scale, multiplier, call.length, (double)positions[query], (double)positions[key]);
    gradient += replica * call.heads * (i64)pairs + at;
    const float value = (float)feature.value;
    double to_feature = 0;
    for (int unit = 0; unit < call.units; ++unit) {
        const float weight = call.hidden[own + unit];
        if (!(value * weight + call.hidden_bias[own + unit] > 0)) continue;
        float to_active = 0;
        for (int head = 0; head < call.heads; ++head)
            to_active += call.output[own + (i64)unit * call.heads + head] * gradient[(i64)head * pairs];
        to_feature += (double)to_active * weight;
    }
    const double size = fabs(scale), sign = scale < 0 ? -1.0 : 1.0;
    const double below = feature.below, reach = size * feature.furthest + 1.0;
    const double above_slope = sign * feature.distance / (size * feature.distance + 1.0);
    const double below_slope = sign * feature.furthest / reach;
    const double by_scale = (above_slope * below - feature.above * below_slope) / (below * below);
    const double by_furthest = -feature.above / (below * below) * size / reach;
    const double by_multiplier = feature.beyond ? 0.0 : by_furthest * (multiplier < 0 ? -1.0 : 1.0) * call.length;
    const i64 place = replica * (i64)pairs + at;
    features[place] = value;
    to_scale[place] = to_feature * by_scale;
    to_multiplier[place] = to_feature * by_multiplier;
}

/// Adds the sums over pairs to the gradients of the parameters, whose places `to` has in the call's order: one block for each
/// number of c, m, hidden weights and biases, output weights and biases. Grid: (2 + 2 U + U H + H, K).
KERNEL void fire_backward(Fire to, const float *features, const double *to_scale, const double *to_multiplier,
                          const float *gradient, Fire call) {
    __shared__ double sums[WARP];
    const int units = call.units, heads = call.heads, tokens = call.tokens;
    const i64 replica = blockIdx.y, own = replica * call.stride;
    const u32 pairs = (u32)tokens * (u32)tokens; // below 2^31
    // Which parameter, and which of its numbers.
    const int counts[6] = {1, 1, units, units, units * heads, heads};
    int which = 0, number = blockIdx.x;
    while (number >= counts[which]) number -= counts[which++];
    const int unit = which == 4 ? number / heads : number, head = which == 4 ? number % heads : number;
    features += replica * pairs;
    to_scale += replica * pairs;
    to_multiplier += replica * pairs;
    gradient += replica * heads * (i64)pairs;
    const bool inner = which >= 2 && which <= 4;
    const float weight = inner ? call.hidden[own + unit] : 0.0f, bias = inner ? call.hidden_bias[own + unit] : 0.0f;
    double sum = 0;
    for (u32 pair = threadIdx.x; pair < pairs; pair += blockDim.x) {
        if (pair / (u32)tokens > pair % (u32)tokens) continue; // the key stands behind the query
        if (which == 0) sum += to_scale[pair];
        if (which == 1) sum += to_multiplier[pair];
        if (which == 5) sum += gradient[(i64)number * pairs + pair];
        if (!inner) continue;
        const float feature = features[pair], active = feature * weight + bias;
        if (!(active > 0)) continue;
        if (which == 4) {
            sum += (double)active * gradient[(i64)head * pairs + pair];
            continue;
        }
        float to_active = 0;
        for (int other = 0; other < heads; ++other)
            to_active += call.output[own + (i64)unit * heads + other] * gradient[(i64)other * pairs + pair];
        sum += which == 2 ? (double)to_active * feature : (double)to_active;
    }
    sum = block_sum(sum, sums);
    if (threadIdx.x != 0) return;
    const float *const all[6] = {to.scale, to.multiplier, to.hidden, to.hidden_bias, to.output, to.output_bias};
    float *target = const_cast<float *>(all[which]) + own + number;
    *target += (float)sum;
}
