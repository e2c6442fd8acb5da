//! Scaled dot-product attention (Vaswani et al. 2017, 3.2) over rows that examples share.
//!
//! Queries, keys and values are rows `[K, S, d]` of a table; a [`Plan`] says which row each position of each example
//! looks at. So keys that many examples have in common (embeddings of the first layer, token types in count space) are
//! computed once, and their gradients are summed here, in the order of the examples.

mod shared;

use std::sync::{Arc, OnceLock};

use candle_core::backend::BackendStorage as _;
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};

use super::gather::{self, Index};
use super::tape::apply3;
use crate::float::{Float, highest_of, read, slice, sum_of, vectorised, with_float};

/// Which rows attend to which.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Attention heads; each sees `d / heads` consecutive coordinates.
    pub heads: usize,
    /// Examples, B.
    pub examples: usize,
    /// Queries per example, Q: 1 (the last position, which sees all) or as many as there are keys.
    pub queries: usize,
    /// Keys per example, T.
    pub keys: usize,
    /// Query rows, `[K, B, Q]`.
    pub query_rows: Index,
    /// Key and value rows, `[K, B, T]`.
    pub key_rows: Index,
    /// Query i sees keys 0..=i only (where Q = T; a single query is the last and sees all).
    pub causal: bool,
    /// Added to the scaled logits, `[K, B, T]`; minus infinity hides a key. At least one key must be visible.
    pub bias: Option<Tensor>,
    /// Dropout factors of the weights, `[K, B, Q, H, T]`.
    pub dropout: Option<Tensor>,
    /// Promises that key t of every example is row t, so that whole matrices can be multiplied.
    pub keys_in_order: bool,
}

impl Plan {
    fn visible(&self, query: usize) -> usize {
        if self.causal && self.queries == self.keys { query + 1 } else { self.keys }
    }
}

/// softmax(q kᵀ / sqrt(d / H) + bias) v, head by head: `[K, B Q, d]` from q `[K, S', d]`, k and v `[K, S, d]`.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, plan: &Arc<Plan>) -> Result<Tensor> {
    if !q.device().is_cpu() {
        return reference(q, k, v, plan);
    }
    apply3(q, k, v, Attention { plan: plan.clone(), weights: OnceLock::new() })
}

/// The same from plain tensor operations.
pub fn reference(q: &Tensor, k: &Tensor, v: &Tensor, plan: &Plan) -> Result<Tensor> {
    let (replicas, _, width) = q.dims3()?;
    let size = width / plan.heads;
    let weights = reference_weights(q, k, plan)?;
    let weights = match &plan.dropout {
        // [K, B, Q, H, T] to [K B, H, Q, T]
        Some(factors) => {
            let factors = factors.transpose(2, 3)?.contiguous()?;
            weights.mul(&factors.reshape(weights.shape())?)?
        }
        None => weights,
    };
    let examples = replicas * plan.examples;
    let v = gather::reference(v, &plan.key_rows)?.reshape((examples, plan.keys, plan.heads, size))?;
    let mixed = weights.matmul(&v.transpose(1, 2)?.contiguous()?)?;
    mixed.transpose(1, 2)?.contiguous()?.reshape((replicas, plan.examples * plan.queries, width))
}

/// Attention weights `[K B, H, Q, T]` from plain tensor operations, before dropout.
pub fn reference_weights(q: &Tensor, k: &Tensor, plan: &Plan) -> Result<Tensor> {
    let (replicas, _, width) = q.dims3()?;
    let (size, examples) = (width / plan.heads, replicas * plan.examples);
    let split = |rows: Tensor, count: usize| {
        rows.reshape((examples, count, plan.heads, size))?.transpose(1, 2)?.contiguous()
    };
    let q = split(gather::reference(q, &plan.query_rows)?, plan.queries)?;
    let k = split(gather::reference(k, &plan.key_rows)?, plan.keys)?;
    let mut logits = (q.matmul(&k.transpose(2, 3)?.contiguous()?)? / (size as f64).sqrt())?;
    if let Some(bias) = &plan.bias {
        logits = logits.broadcast_add(&bias.reshape((examples, 1, 1, plan.keys))?)?;
    }
    if plan.causal && plan.queries == plan.keys {
        let hidden: Vec<f64> = (0..plan.queries)
            .flat_map(|query| {
                (0..plan.keys).map(move |key| if key > query { f64::NEG_INFINITY } else { 0.0 })
            })
            .collect();
        let hidden =
            Tensor::from_vec(hidden, (1, 1, plan.queries, plan.keys), q.device())?.to_dtype(q.dtype())?;
        logits = logits.broadcast_add(&hidden)?;
    }
    let shifted = logits.broadcast_sub(&logits.max_keepdim(3)?.detach())?.exp()?;
    shifted.broadcast_div(&shifted.sum_keepdim(3)?)
}

struct Attention {
    plan: Arc<Plan>,
    /// `[K, B, Q, H, T]`, kept for the backward pass.
    weights: OnceLock<Tensor>,
}

/// Extents of one call.
#[derive(Clone, Copy)]
struct Sizes {
    replicas: usize,
    query_rows: usize,
    key_rows: usize,
    width: usize,
}

fn sizes(q: &Shape, k: &Shape, v: &Shape, plan: &Plan) -> Result<Sizes> {
    let (replicas, query_rows, width) = q.dims3()?;
    let (key_replicas, key_rows, key_width) = k.dims3()?;
    let agrees = k == v
        && (replicas, width) == (key_replicas, key_width)
        && width.is_multiple_of(plan.heads)
        && plan.query_rows.rows().len() == replicas * plan.examples * plan.queries
        && plan.key_rows.rows().len() == replicas * plan.examples * plan.keys;
    if !agrees || plan.query_rows.table_rows() > query_rows || plan.key_rows.table_rows() > key_rows {
        candle_core::bail!("attention of {q:?} over {k:?} and {v:?} does not fit its plan");
    }
    Ok(Sizes { replicas, query_rows, key_rows, width })
}

#[inline(always)]
fn dot<T: Float>(a: &[T], b: &[T]) -> T {
    sum_of(a.len().min(b.len()), |index| a[index] * b[index])
}

#[inline(always)]
fn add_scaled<T: Float>(sum: &mut [T], factor: T, values: &[T]) {
    for (sum, value) in sum.iter_mut().zip(values) {
        *sum += factor * *value;
    }
}

/// Softmax in place.
#[inline(always)]
fn softmax<T: Float>(logits: &mut [T]) {
    let highest = highest_of(logits);
    for logit in logits.iter_mut() {
        *logit = (*logit - highest).exp();
    }
    let sum = sum_of(logits.len(), |index| logits[index]);
    let scale = T::ONE / sum;
    for logit in logits.iter_mut() {
        *logit *= scale;
    }
}

/// Output `[K, B Q, d]` and weights `[K, B, Q, H, T]`. `SIZE` is the head size, if it is one the compiler should unroll
/// loops for, else 0.
fn forward<T: Float, const SIZE: usize>(
    q: &[T],
    k: &[T],
    v: &[T],
    bias: Option<&[T]>,
    dropout: Option<&[T]>,
    plan: &Plan,
    sizes: Sizes,
) -> (Vec<T>, Vec<T>) {
    let Plan { heads, examples, queries, keys, .. } = *plan;
    let size = if SIZE > 0 { SIZE } else { sizes.width / heads };
    let scale = T::of(1.0 / (size as f64).sqrt());
    let mut output = vec![T::ZERO; sizes.replicas * examples * queries * sizes.width];
    let mut weights = vec![T::ZERO; sizes.replicas * examples * queries * heads * keys];
    vectorised(|| {
        let per_example = weights.chunks_exact_mut((queries * heads * keys).max(1));
        for (example, weights) in per_example.enumerate() {
            let replica = example / examples;
            let q = &q[replica * sizes.query_rows * sizes.width..][..sizes.query_rows * sizes.width];
            let k = &k[replica * sizes.key_rows * sizes.width..][..sizes.key_rows * sizes.width];
            let v = &v[replica * sizes.key_rows * sizes.width..][..sizes.key_rows * sizes.width];
            let key_rows = &plan.key_rows.rows()[example * keys..][..keys];
            let query_rows = &plan.query_rows.rows()[example * queries..][..queries];
            let bias = bias.map(|bias| &bias[example * keys..][..keys]);
            for (query, query_row) in query_rows.iter().enumerate() {
                let visible = plan.visible(query);
                let output = &mut output[(example * queries + query) * sizes.width..][..sizes.width];
                for head in 0..heads {
                    let at = (query * heads + head) * keys;
                    let weights = &mut weights[at..][..visible];
                    let q = &q[*query_row as usize * sizes.width + head * size..][..size];
                    for (weight, row) in weights.iter_mut().zip(key_rows) {
                        *weight = dot(q, &k[*row as usize * sizes.width + head * size..][..size]) * scale;
                    }
                    if let Some(bias) = bias {
                        for (weight, bias) in weights.iter_mut().zip(bias) {
                            *weight += *bias;
                        }
                    }
                    softmax(weights);
                    let output = &mut output[head * size..][..size];
                    let factors = dropout.map(|all| &all[example * queries * heads * keys + at..][..visible]);
                    for (key, (weight, row)) in weights.iter().zip(key_rows).enumerate() {
                        let weight = factors.map_or(*weight, |factors| *weight * factors[key]);
                        add_scaled(output, weight, &v[*row as usize * sizes.width + head * size..][..size]);
                    }
                }
            }
        }
    });
    (output, weights)
}

/// Gradients of q, k and v; `SIZE` as in [`forward`].
fn backward<T: Float, const SIZE: usize>(
    [q, k, v, weights, gradient]: [&[T]; 5],
    dropout: Option<&[T]>,
    plan: &Plan,
    sizes: Sizes,
) -> [Vec<T>; 3] {
    let Plan { heads, examples, queries, keys, .. } = *plan;
    let (width, size) = (sizes.width, if SIZE > 0 { SIZE } else { sizes.width / heads });
    let scale = T::of(1.0 / (size as f64).sqrt());
    let mut to_q = vec![T::ZERO; q.len()];
    let mut to_k = vec![T::ZERO; k.len()];
    let mut to_v = vec![T::ZERO; v.len()];
    let mut to_weights = vec![T::ZERO; keys];
    vectorised(|| {
        for example in 0..sizes.replicas * examples {
            let replica = example / examples;
            let (query_start, key_start) =
                (replica * sizes.query_rows * width, replica * sizes.key_rows * width);
            let key_rows = &plan.key_rows.rows()[example * keys..][..keys];
            for query in 0..queries {
                let visible = plan.visible(query);
                let query_row = plan.query_rows.rows()[example * queries + query] as usize;
                for head in 0..heads {
                    let at = ((example * queries + query) * heads + head) * keys;
                    let weights = &weights[at..][..visible];
                    let factors = dropout.map(|all| &all[at..][..visible]);
                    let gradient = &gradient[(example * queries + query) * width + head * size..][..size];
                    let offset = |row: u32| key_start + row as usize * width + head * size;
                    let mut sum = T::ZERO;
                    for (key, (weight, row)) in weights.iter().zip(key_rows).enumerate() {
                        let start = offset(*row);
                        let factor = factors.map_or(T::ONE, |factors| factors[key]);
                        let to_weight = dot(gradient, &v[start..][..size]) * factor;
                        add_scaled(&mut to_v[start..][..size], *weight * factor, gradient);
                        to_weights[key] = to_weight;
                        sum += to_weight * *weight;
                    }
                    let query_at = query_start + query_row * width + head * size;
                    let q = &q[query_at..][..size];
                    let to_q = &mut to_q[query_at..][..size];
                    for (key, (weight, row)) in weights.iter().zip(key_rows).enumerate() {
                        let start = offset(*row);
                        let to_logit = *weight * (to_weights[key] - sum) * scale;
                        add_scaled(to_q, to_logit, &k[start..][..size]);
                        add_scaled(&mut to_k[start..][..size], to_logit, q);
                    }
                }
            }
        }
    });
    [to_q, to_k, to_v]
}

/// Calls a function with the head size as a constant where that is a common one.
macro_rules! by_head_size {
    ($size:expr, $function:ident::<$T:ty>($($argument:expr),*)) => {
        match $size {
            4 => $function::<$T, 4>($($argument),*),
            8 => $function::<$T, 8>($($argument),*),
            16 => $function::<$T, 16>($($argument),*),
            32 => $function::<$T, 32>($($argument),*),
            _ => $function::<$T, 0>($($argument),*),
        }
    };
}

/// Calls `work` with the numbers of an optional tensor.
fn read_optional<T: Float, R>(
    tensor: Option<&Tensor>,
    work: impl FnOnce(Option<&[T]>) -> Result<R>,
) -> Result<R> {
    match tensor {
        Some(tensor) => read::<T, _>(tensor, |values| work(Some(values))),
        None => work(None),
    }
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        k: &CpuStorage,
        k_layout: &Layout,
        v: &CpuStorage,
        v_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let plan = &*self.plan;
        let sizes = sizes(q_layout.shape(), k_layout.shape(), v_layout.shape(), plan)?;
        let shape = Shape::from((sizes.replicas, plan.examples * plan.queries, sizes.width));
        with_float!(q.dtype(), T => {
            let (q, k, v) = (slice::<T>(q, q_layout)?, slice::<T>(k, k_layout)?, slice::<T>(v, v_layout)?);
            let (output, weights) = read_optional::<T, _>(plan.bias.as_ref(), |bias| {
                read_optional::<T, _>(plan.dropout.as_ref(), |dropout| {
                    Ok(match shared::applies(plan, sizes) {
                        true => shared::forward([q, k, v], bias, plan, sizes),
                        false => by_head_size!(sizes.width / plan.heads, forward::<T>(q, k, v, bias, dropout, plan, sizes)),
                    })
                })
            })?;
            let count = weights.len();
            // The cell is empty: an op is applied once.
            let _ = self.weights.set(Tensor::from_vec(weights, (count,), &candle_core::Device::Cpu)?);
            Ok((candle_core::WithDType::to_cpu_storage_owned(output), shape))
        })
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let plan = &*self.plan;
        let sizes = sizes(q.shape(), k.shape(), v.shape(), plan)?;
        let gradient = gradient.contiguous()?;
        let Some(weights) = self.weights.get() else {
            candle_core::bail!("attention went backward before forward");
        };
        with_float!(q.dtype(), T => {
            let [to_q, to_k, to_v] = read::<T, _>(q, |q| read::<T, _>(k, |k| read::<T, _>(v, |v| {
                read::<T, _>(weights, |weights| read::<T, _>(&gradient, |gradient| {
                    read_optional::<T, _>(plan.dropout.as_ref(), |dropout| {
                        let all = [q, k, v, weights, gradient];
                        Ok(match shared::applies(plan, sizes) {
                            true => shared::backward(all, plan, sizes),
                            false => by_head_size!(sizes.width / plan.heads, backward::<T>(all, dropout, plan, sizes)),
                        })
                    })
                }))
            })))?;
            Ok((
                Some(Tensor::from_vec(to_q, q.shape(), q.device())?),
                Some(Tensor::from_vec(to_k, k.shape(), k.device())?),
                Some(Tensor::from_vec(to_v, v.shape(), v.device())?),
            ))
        })
    }
}
