// Scaled dot-product attention (Vaswani et al. 2017, 3.2), softmax taken on the way over the keys (Milakov and
// Gimelshein 2018; Dao et al. 2022): nothing of the size queries x keys is stored, however long the sequences are.
//
// A group of LANES neighbouring lanes works on one (replica, example, head, query), or in the last pass on one key; lane l
// holds coordinates l, l + LANES, ... of the head, COORDINATES of them at most. Groups of one warp may run for different
// numbers of steps, so shuffles name the lanes of the group only.
#include "common.cuh"

/// Extents and tables of a call.
struct Attention {
    RowMap query_map;     // groups are examples
    RowMap key_map;       // of keys and values alike
    i64 bias_distance;    // between replicas, in numbers
    i64 dropout_distance; // likewise
    const float *bias;    // [B, T] for each replica, added to the scaled logits, minus infinity hides; null: none
    const float *dropout; // [B, Q, H, T] for each replica, factors of the weights; null: none
    i64 logit_bias_distance; // between replicas, in numbers
    const float *logit_bias; // [H, T, T] (head, key, position of the query), added to the scaled logits; null: none
    int examples;         // B
    int queries;          // Q
    int keys;             // T
    int heads;            // H
    int head;             // h, coordinates of a head
    int query_rows;       // rows of the query matrix, per replica
    int key_rows;         // rows of the key and value matrices, per replica
    int causal;           // query i sees keys 0..=i (only where Q = T)
    float scale;          // 1 / sqrt(h)
    int first;            // the first example this launch works on
    int count;            // how many, from there on
    int padding;
};

/// Sum over the lanes of a group; every lane of it gets it.
template <int LANES>
__device__ inline float group_sum(float value, u32 group) {
    for (int distance = LANES / 2; distance > 0; distance /= 2) value += __shfl_xor_sync(group, value, distance);
    return value;
}

/// The bits of the lanes of this thread's group.
template <int LANES>
__device__ inline u32 group_mask() {
    const int first = (threadIdx.x % WARP) / LANES * LANES;
    return LANES == WARP ? ALL_LANES : ((1u << LANES) - 1u) << first;
}

template <int LANES, int COORDINATES>
__device__ inline void load(float *values, const float *row, int lane, int head) {
#pragma unroll
    for (int index = 0; index < COORDINATES; ++index) {
        const int coordinate = lane + index * LANES;
        values[index] = coordinate < head ? row[coordinate] : 0.0f;
    }
}

template <int LANES, int COORDINATES>
__device__ inline void store(float *row, const float *values, int lane, int head, int accumulate) {
#pragma unroll
    for (int index = 0; index < COORDINATES; ++index) {
        const int coordinate = lane + index * LANES;
        if (coordinate < head) row[coordinate] = accumulate ? row[coordinate] + values[index] : values[index];
    }
}

template <int LANES, int COORDINATES>
__device__ inline float dot(const float *a, const float *b, u32 group) {
    float sum = 0;
#pragma unroll
    for (int index = 0; index < COORDINATES; ++index) sum += a[index] * b[index];
    return group_sum<LANES>(sum, group);
}

/// Where one group works: position (query or key) fastest but for the head, then example, then replica.
struct Place {
    i64 replica;
    int example;
    int position;
    int head;
    __device__ Place(i64 group, int positions, const Attention &call) {
        head = (int)(group % call.heads);
        group /= call.heads;
        position = (int)(group % positions);
        group /= positions;
        example = call.first + (int)(group % call.count);
        replica = group / call.count;
    }
    __device__ i64 query_at(const Attention &call, int query) const {
        const u32 row = row_of(call.query_map, replica, example, query);
        return ((replica * call.query_rows + row) * call.heads + head) * call.head;
    }
    __device__ i64 key_at(const Attention &call, int key) const {
        const u32 row = row_of(call.key_map, replica, example, key);
        return ((replica * call.key_rows + row) * call.heads + head) * call.head;
    }
    /// Into [K, B, Q, H], and times h into [K, B Q, d].
    __device__ i64 answer(const Attention &call, int query) const {
        return ((replica * call.examples + example) * call.queries + query) * call.heads + head;
    }
    /// Into [K, B, T, H], and times h into [K, B T, d].
    __device__ i64 asked(const Attention &call, int key) const {
        return ((replica * call.examples + example) * call.keys + key) * call.heads + head;
    }
    __device__ float key_bias(const Attention &call, int key) const {
        return call.bias == nullptr ? 0.0f : call.bias[replica * call.bias_distance + (i64)example * call.keys + key];
    }
    __device__ float bias(const Attention &call, int query, int key) const {
        const float own = key_bias(call, key);
        if (call.logit_bias == nullptr) return own;
        const i64 row = replica * call.logit_bias_distance + ((i64)head * call.keys + key) * call.keys;
        return own + call.logit_bias[row + call.keys - call.queries + query];
    }
    __device__ float factor(const Attention &call, int query, int key) const {
        if (call.dropout == nullptr) return 1.0f;
        const i64 row = ((i64)example * call.queries + query) * call.heads + head;
        return call.dropout[replica * call.dropout_distance + row * call.keys + key];
    }
};

/// Output [K, B Q, d] and log-sum-exp of the logits [K, B, Q, H].
template <int LANES, int COORDINATES>
__device__ inline void forward(float *output, float *log_sums, const float *q, const float *k, const float *v,
                               const Attention &call, i64 groups) {
    const i64 group = ((i64)blockIdx.x * blockDim.x + threadIdx.x) / LANES;
    if (group >= groups) return; // whole groups leave
    const u32 lanes = group_mask<LANES>();
    const int lane = threadIdx.x % LANES;
    const Place place(group, call.queries, call);
    float query[COORDINATES], key[COORDINATES], value[COORDINATES], sum[COORDINATES];
    load<LANES, COORDINATES>(query, q + place.query_at(call, place.position), lane, call.head);
#pragma unroll
    for (int index = 0; index < COORDINATES; ++index) sum[index] = 0;
    float highest = -INFINITY, total = 0;
    const int visible = call.causal ? place.position + 1 : call.keys;
    for (int at = 0; at < visible; ++at) {
        const i64 from = place.key_at(call, at);
        load<LANES, COORDINATES>(key, k + from, lane, call.head);
        const float logit = dot<LANES, COORDINATES>(query, key, lanes) * call.scale + place.bias(call, place.position, at);
        if (logit == -INFINITY) continue; // a hidden key; the same for the whole group
        load<LANES, COORDINATES>(value, v + from, lane, call.head);
        const float higher = logit > highest ? logit : highest;
        // The first key gives exp(-infinity) = 0. A NaN logit makes the weight and so the output NaN.
        const float shrink = expf(highest - higher), weight = expf(logit - higher);
        const float dropped = weight * place.factor(call, place.position, at);
        total = total * shrink + weight;
#pragma unroll
        for (int index = 0; index < COORDINATES; ++index) sum[index] = sum[index] * shrink + dropped * value[index];
        highest = higher;
    }
    const float share = 1.0f / total;
#pragma unroll
    for (int index = 0; index < COORDINATES; ++index) sum[index] *= share;
    const i64 answer = place.answer(call, place.position);
    store<LANES, COORDINATES>(output + answer * call.head, sum, lane, call.head, 0);
    if (lane == 0 && log_sums != nullptr) log_sums[answer] = highest + logf(total);
}

/// Gradient of the queries by position [K, B Q, d], added to what is there with `accumulate`, and for each query the sum of
/// weight times weight's gradient, `means` [K, B, Q, H]: the output times its gradient, or, where the output is not kept
/// (null), by one more pass over the keys.
template <int LANES, int COORDINATES>
__device__ inline void backward_queries(float *to_q, float *means, const float *to_output, const float *output,
                                        const float *log_sums, const float *q, const float *k, const float *v,
                                        const Attention &call, i64 groups, int accumulate) {
    const i64 group = ((i64)blockIdx.x * blockDim.x + threadIdx.x) / LANES;
    if (group >= groups) return; // whole groups leave
    const u32 lanes = group_mask<LANES>();
    const int lane = threadIdx.x % LANES;
    const Place place(group, call.queries, call);
    const i64 answer = place.answer(call, place.position);
    float query[COORDINATES], slope[COORDINATES], key[COORDINATES], value[COORDINATES], sum[COORDINATES];
    load<LANES, COORDINATES>(query, q + place.query_at(call, place.position), lane, call.head);
    load<LANES, COORDINATES>(slope, to_output + answer * call.head, lane, call.head);
    const float log_sum = log_sums[answer];
    const int visible = call.causal ? place.position + 1 : call.keys;
    float mean = 0;
    if (output != nullptr) {
        load<LANES, COORDINATES>(value, output + answer * call.head, lane, call.head);
        mean = dot<LANES, COORDINATES>(slope, value, lanes);
    } else {
        for (int at = 0; at < visible; ++at) {
            const i64 from = place.key_at(call, at);
            load<LANES, COORDINATES>(key, k + from, lane, call.head);
            load<LANES, COORDINATES>(value, v + from, lane, call.head);
            const float logit = dot<LANES, COORDINATES>(query, key, lanes) * call.scale + place.bias(call, place.position, at);
            const float to_weight =
                dot<LANES, COORDINATES>(slope, value, lanes) * place.factor(call, place.position, at);
            mean += expf(logit - log_sum) * to_weight;
        }
    }
#pragma unroll
    for (int index = 0; index < COORDINATES; ++index) sum[index] = 0;
    for (int at = 0; at < visible; ++at) {
        const i64 from = place.key_at(call, at);
        load<LANES, COORDINATES>(key, k + from, lane, call.head);
        load<LANES, COORDINATES>(value, v + from, lane, call.head);
        const float logit = dot<LANES, COORDINATES>(query, key, lanes) * call.scale + place.bias(call, place.position, at);
        const float to_weight =
            dot<LANES, COORDINATES>(slope, value, lanes) * place.factor(call, place.position, at);
        const float to_logit = expf(logit - log_sum) * (to_weight - mean) * call.scale;
#pragma unroll
        for (int index = 0; index < COORDINATES; ++index) sum[index] += to_logit * key[index];
    }
    store<LANES, COORDINATES>(to_q + answer * call.head, sum, lane, call.head, accumulate);
    if (lane == 0) means[answer] = mean;
}

/// Gradients of keys and values by position [K, B T, d], each added to what is there where its flag says so; and where a bias
/// of the logits wants its gradient, the gradients of the biased logits [K, count, H, T, Q], of visible pairs only.
template <int LANES, int COORDINATES>
__device__ inline void backward_keys(float *to_k, float *to_v, float *to_logits, const float *to_output, const float *means,
                                     const float *log_sums, const float *q, const float *k, const float *v,
                                     const Attention &call, i64 groups, int accumulate_k, int accumulate_v) {
    const i64 group = ((i64)blockIdx.x * blockDim.x + threadIdx.x) / LANES;
    if (group >= groups) return; // whole groups leave
    const u32 lanes = group_mask<LANES>();
    const int lane = threadIdx.x % LANES;
    const Place place(group, call.keys, call);
    const i64 from = place.key_at(call, place.position);
    float key[COORDINATES], value[COORDINATES], query[COORDINATES], slope[COORDINATES];
    float key_sum[COORDINATES], value_sum[COORDINATES];
    load<LANES, COORDINATES>(key, k + from, lane, call.head);
    load<LANES, COORDINATES>(value, v + from, lane, call.head);
#pragma unroll
    for (int index = 0; index < COORDINATES; ++index) key_sum[index] = value_sum[index] = 0;
    const i64 own = ((place.replica * call.count + place.example - call.first) * call.heads + place.head) * call.keys + place.position;
    for (int at = call.causal ? place.position : 0; at < call.queries; ++at) {
        const i64 answer = place.answer(call, at);
        load<LANES, COORDINATES>(query, q + place.query_at(call, at), lane, call.head);
        load<LANES, COORDINATES>(slope, to_output + answer * call.head, lane, call.head);
        const float logit = dot<LANES, COORDINATES>(query, key, lanes) * call.scale + place.bias(call, at, place.position);
        const float weight = expf(logit - log_sums[answer]);
        const float factor = place.factor(call, at, place.position);
        const float to_weight = dot<LANES, COORDINATES>(slope, value, lanes) * factor;
        const float to_biased = weight * (to_weight - means[answer]), to_logit = to_biased * call.scale;
        const float dropped = weight * factor;
        if (lane == 0 && to_logits != nullptr) to_logits[own * call.queries + at] = to_biased;
#pragma unroll
        for (int index = 0; index < COORDINATES; ++index) {
            key_sum[index] += to_logit * query[index];
            value_sum[index] += dropped * slope[index];
        }
    }
    const i64 target = place.asked(call, place.position) * call.head;
    store<LANES, COORDINATES>(to_k + target, key_sum, lane, call.head, accumulate_k);
    store<LANES, COORDINATES>(to_v + target, value_sum, lane, call.head, accumulate_v);
}

/// The gradient of a bias of the logits, [K, H, T, T]: target[k, h, key, position] = sum over segments of
/// partial[k, s, h, key, query], 0 where no query asks or sees; with `accumulate` added to what is there.
/// Grid: (ceil(H T T / block), K).
KERNEL void attention_logit_bias(float *target, const float *partial, int segments, int heads, int keys, int queries, int causal,
                                 int accumulate) {
    const u32 at = blockIdx.x * blockDim.x + threadIdx.x; // below 2^31
    const i64 replica = blockIdx.y, all = (i64)heads * keys * keys, width = (i64)heads * keys * queries;
    if (at >= all) return;
    const u32 row = at / (u32)keys;
    const int query = (int)(at % (u32)keys) - (keys - queries), key = (int)(row % (u32)keys);
    target += replica * all + at;
    float total = accumulate ? *target : 0.0f;
    if (query >= 0 && !(causal && key > query)) {
        partial += replica * segments * width + (i64)row * queries + query;
        for (int segment = 0; segment < segments; ++segment) total += partial[segment * width];
    }
    *target = total;
}

// Grid of each: ceil(groups LANES / block), with groups = K count Q H (forward, queries) or K count T H (keys).
#define ATTENTION(LANES, COORDINATES)                                                                                  \
    KERNEL void attention_forward_##LANES##_##COORDINATES(float *output, float *log_sums, const float *q,              \
                                                          const float *k, const float *v, Attention call, i64 groups) {\
        forward<LANES, COORDINATES>(output, log_sums, q, k, v, call, groups);                                          \
    }                                                                                                                  \
    KERNEL void attention_backward_queries_##LANES##_##COORDINATES(                                                    \
        float *to_q, float *means, const float *to_output, const float *output, const float *log_sums, const float *q, \
        const float *k, const float *v, Attention call, i64 groups, int accumulate) {                                  \
        backward_queries<LANES, COORDINATES>(to_q, means, to_output, output, log_sums, q, k, v, call, groups,          \
                                             accumulate);                                                              \
    }                                                                                                                  \
    KERNEL void attention_backward_keys_##LANES##_##COORDINATES(                                                       \
        float *to_k, float *to_v, float *to_logits, const float *to_output, const float *means, const float *log_sums, \
        const float *q, const float *k, const float *v, Attention call, i64 groups, int accumulate_k,                  \
        int accumulate_v) {                                                                                            \
        backward_keys<LANES, COORDINATES>(to_k, to_v, to_logits, to_output, means, log_sums, q, k, v, call, groups,    \
                                          accumulate_k, accumulate_v);                                                 \
    }

ATTENTION(1, 4)
ATTENTION(2, 4)
ATTENTION(4, 4)
ATTENTION(8, 4)
ATTENTION(16, 4)
ATTENTION(32, 4)
ATTENTION(32, 8)
ATTENTION(32, 32)
