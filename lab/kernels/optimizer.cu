// One update of all parameters of all replicas: Adam (Kingma and Ba 2015), AdamW (Loshchilov and Hutter 2019), SGD with
// momentum, in PyTorch's order of operations. Gradients are clipped by each replica's norm; a replica whose loss or
// gradient is not finite stays as it is, from then on, without disturbing the others.
#include "common.cuh"

/// One replica's settings, and what belongs to the present update.
struct Rule {
    double lr;
    double decay;    // decoupled (AdamW), or added to the gradient (the others)
    double clip;     // largest gradient norm; infinity: none
    int decoupled;
    int unused;
};

/// What changes from update to update, the same for all replicas.
struct Update {
    i64 number;                // of this update, from 1
    double multiplier;         // of the learning rate
    double first_correction;   // 1 - beta1^number
    double second_correction;  // 1 - beta2^number
};

/// Coefficients of this update of one replica, for `adam` and `sgd`.
struct Coefficients {
    float clip;
    float lr;
    float coupled;
    float keep;
    int update; // 0: the replica stays as it is
    int unused;
};

/// partial[k, block] = sum of squares of the numbers of gradient[k, :] that belong to the block, in 64 bits.
/// Grid: (blocks, K); 256 threads.
KERNEL void square_sums(double *partial, const float *gradient, i64 stride, i64 numbers) {
    __shared__ double sums[WARP];
    gradient += blockIdx.y * stride;
    double sum = 0;
    for (i64 at = (i64)blockIdx.x * blockDim.x + threadIdx.x; at < numbers; at += (i64)gridDim.x * blockDim.x) {
        const double value = gradient[at];
        sum += value * value;
    }
    sum = block_sum(sum, sums);
    if (threadIdx.x == 0) partial[(i64)blockIdx.y * gridDim.x + blockIdx.x] = sum;
}

/// Ends a replica's sums and decides on its update. row_losses are [rows] for each replica, losses_distance numbers apart, squares [K, blocks]. Writes loss and norm of
/// the update, and diverged_at[k] = number of the first update with a loss or norm that is not finite (0 before).
/// Grid: (K); 256 threads.
KERNEL void decide(Coefficients *coefficients, double *losses, double *norms, i64 *diverged_at, const double *row_losses,
                   i64 losses_distance, int rows, const double *squares, int blocks, const Rule *rules, const Update *update) {
    __shared__ double sums[WARP];
    const i64 replica = blockIdx.x;
    double loss = 0, square = 0;
    for (int at = threadIdx.x; at < rows; at += blockDim.x) loss += row_losses[replica * losses_distance + at];
    for (int at = threadIdx.x; at < blocks; at += blockDim.x) square += squares[replica * blocks + at];
    loss = block_sum(loss, sums);
    square = block_sum(square, sums);
    if (threadIdx.x != 0) return;
    const Rule rule = rules[replica];
    const double norm = sqrt(square);
    const bool finite = isfinite(loss) && isfinite(norm);
    const bool before = diverged_at[replica] != 0;
    if (!before) {
        losses[replica] = loss;
        norms[replica] = norm;
    }
    if (!before && !finite) diverged_at[replica] = update->number;
    const double lr = rule.lr * update->multiplier, clip = rule.clip / (norm + 1e-6);
    Coefficients own;
    own.clip = (float)(clip < 1.0 ? clip : 1.0);
    own.lr = (float)lr;
    own.coupled = rule.decoupled ? 0.0f : (float)rule.decay;
    own.keep = rule.decoupled ? (float)(1.0 - lr * rule.decay) : 1.0f;
    own.update = finite && !before;
    own.unused = 0;
    coefficients[replica] = own;
}

/// Adam and AdamW over the arenas [K, stride]; numbers [i, i + 1) * 2^shift of every replica decay where decays[i] is not 0.
/// Grid: (blocks, K).
KERNEL void adam(float *parameters, float *first, float *second, const float *gradient, i64 stride, i64 numbers,
                 const unsigned char *decays, int shift, const Coefficients *coefficients, const Update *update, double beta1,
                 double beta2, double epsilon) {
    const Coefficients own = coefficients[blockIdx.y];
    if (!own.update) return;
    const i64 from = blockIdx.y * stride;
    const float b1 = (float)beta1, c1 = (float)(1.0 - beta1), b2 = (float)beta2, c2 = (float)(1.0 - beta2);
    const float step = own.lr / (float)update->first_correction;
    const float root = (float)(1.0 / sqrt(update->second_correction)), small = (float)epsilon;
    for (i64 at = (i64)blockIdx.x * blockDim.x + threadIdx.x; at < numbers; at += (i64)gridDim.x * blockDim.x) {
        const i64 place = from + at;
        const float parameter = parameters[place];
        const bool shrinks = decays[at >> shift] != 0;
        const float slope = gradient[place] * own.clip + parameter * (shrinks ? own.coupled : 0.0f);
        const float m = first[place] * b1 + slope * c1;
        const float v = second[place] * b2 + slope * slope * c2;
        first[place] = m;
        second[place] = v;
        parameters[place] = parameter * (shrinks ? own.keep : 1.0f) - step * m / (sqrtf(v) * root + small);
    }
}

/// SGD with momentum over the arenas [K, stride]; decay as for `adam`. Grid: (blocks, K).
KERNEL void sgd(float *parameters, float *velocity, const float *gradient, i64 stride, i64 numbers,
                const unsigned char *decays, int shift, const Coefficients *coefficients, double momentum) {
    const Coefficients own = coefficients[blockIdx.y];
    if (!own.update) return;
    const i64 from = blockIdx.y * stride;
    for (i64 at = (i64)blockIdx.x * blockDim.x + threadIdx.x; at < numbers; at += (i64)gridDim.x * blockDim.x) {
        const i64 place = from + at;
        const float parameter = parameters[place];
        const float coupled = decays[at >> shift] != 0 ? own.coupled : 0.0f;
        const float speed = velocity[place] * (float)momentum + (gradient[place] * own.clip + parameter * coupled);
        velocity[place] = speed;
        parameters[place] = parameter - own.lr * speed;
    }
}
