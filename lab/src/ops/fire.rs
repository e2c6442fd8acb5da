//! FIRE's bias of attention logits: a small perceptron of the distance between query and key (Li et al. 2024; McLeish et al.
//! 2024, appendix A.1.1).
//!
//! `f_h(ln(|c (i - j)| + 1) / (ln(|c max(i, L)| + 1) + 1e-6))` with `L = |m| length` for the query at position i and the key at
//! j <= i of head h. It is computed once an update for all examples, in 64 bits, by one part of a team: its work is that of a few rows
//! of a layer. Knows no attention.

use std::any::Any;

use candle_core::{DType, Result, Tensor};

use crate::cpu::{Call, CpuOperation};
use crate::float::Float;
use crate::program::reference::Given;
use crate::program::{Extent, Graph, Operation, Rows, SlotKind, Value};

/// Keeps the denominator away from zero.
const EPSILON: f64 = 1e-6;

/// Parameters of a bias, as places.
#[derive(Clone, Copy, Debug)]
pub struct FireParameters {
    /// `c`, one number.
    pub scale: usize,
    /// `m`, one number.
    pub multiplier: usize,
    /// `[1, hidden]`, and its bias `[hidden]`.
    pub hidden: [usize; 2],
    /// `[hidden, heads]`, and its bias `[heads]`.
    pub output: [usize; 2],
}

/// The bias. Parameters: c, m, hidden weight and bias, output weight and bias. Slot: positions of the tokens. Output:
/// `[head, key, query]`, 0 where the key stands behind the query.
#[derive(Debug)]
pub struct Fire {
    length: f64,
    hidden: usize,
    heads: usize,
    tokens: usize,
}

impl Graph {
    /// The bias for tokens at the positions that a slot of fixed row numbers holds: `Fixed(heads * tokens)` rows of `tokens`.
    pub fn fire(&mut self, parameters: FireParameters, length: f64, positions: usize) -> Result<Value> {
        let shape = |place: usize| self.parameter_shape(place).to_vec();
        let FireParameters { scale, multiplier, hidden, output } = parameters;
        let (Rows::Fixed(tokens), true) = (
            self.slot_extent(positions).rows,
            self.slots[positions].kind == SlotKind::Ids && self.slot_extent(positions).width == 1,
        ) else {
            candle_core::bail!("FIRE needs the positions of fixed rows");
        };
        let [width, heads] = shape(output[0])[..] else {
            candle_core::bail!("FIRE's output map is no matrix")
        };
        let fits = shape(scale) == [1]
            && shape(multiplier) == [1]
            && shape(hidden[0]) == [1, width]
            && shape(hidden[1]) == [width]
            && shape(output[1]) == [heads];
        if !fits {
            candle_core::bail!("parameters of FIRE do not fit each other");
        }
        let all = [scale, multiplier, hidden[0], hidden[1], output[0], output[1]];
        let operation = Fire { length, hidden: width, heads, tokens };
        let extent = Extent { rows: Rows::Fixed(heads * tokens), width: tokens };
        Ok(self.record(operation, &[], &all, &[positions], extent))
    }
}

/// The feature of a pair and its derivatives by c and m.
struct Feature {
    value: f64,
    by_scale: f64,
    by_multiplier: f64,
}

impl Fire {
    /// Distance up to which an update's features depend on the distance alone.
    pub fn length(&self) -> f64 {
        self.length
    }

    /// (hidden width, heads, tokens).
    pub fn sizes(&self) -> (usize, usize, usize) {
        (self.hidden, self.heads, self.tokens)
    }

    fn feature(&self, weights: &Weights<'_>, query: u32, key: u32) -> Feature {
        let (scale, multiplier) = (weights.scalars[0], weights.scalars[1]);
        let (distance, threshold) = (f64::from(query) - f64::from(key), multiplier.abs() * self.length);
        let beyond = f64::from(query) > threshold;
        let furthest = f64::from(query).max(threshold);
        let size = scale.abs();
        let (above, below) = ((size * distance).ln_1p(), (size * furthest).ln_1p() + EPSILON);
        let above_slope = scale.signum() * distance / (size * distance + 1.0);
        let below_slope = scale.signum() * furthest / (size * furthest + 1.0);
        let by_furthest = -above / (below * below) * size / (size * furthest + 1.0);
        Feature {
            value: above / below,
            by_scale: (above_slope * below - above * below_slope) / (below * below),
            by_multiplier: if beyond { 0.0 } else { by_furthest * multiplier.signum() * self.length },
        }
    }

    /// Every pair of a query and a key that it may see, by place.
    fn pairs(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let tokens = self.tokens;
        (0..tokens).flat_map(move |key| (key..tokens).map(move |query| (key, query)))
    }

    /// Numbers of all parameters.
    fn count(&self) -> usize {
        2 + 2 * self.hidden + self.hidden * self.heads + self.heads
    }

    /// The parameters in 64 bits.
    fn wide<'a, T: Float>(&self, call: &Call<'_, T>, memory: &'a mut [f64]) -> Weights<'a> {
        let all = (0..6).flat_map(|parameter| call.parameter(parameter));
        memory.iter_mut().zip(all).for_each(|(wide, number)| *wide = number.wide());
        self.split(memory)
    }

    fn split<'a>(&self, memory: &'a mut [f64]) -> Weights<'a> {
        let (scalars, rest) = memory.split_at_mut(2);
        let (hidden, rest) = rest.split_at_mut(self.hidden);
        let (hidden_bias, rest) = rest.split_at_mut(self.hidden);
        let (output, output_bias) = rest.split_at_mut(self.hidden * self.heads);
        Weights { scalars, hidden, hidden_bias, output, output_bias: &mut output_bias[..self.heads] }
    }
}

/// The parameters in 64 bits, or sums for their gradients; in the operation's order.
struct Weights<'a> {
    /// c and m.
    scalars: &'a mut [f64],
    hidden: &'a mut [f64],
    hidden_bias: &'a mut [f64],
    output: &'a mut [f64],
    output_bias: &'a mut [f64],
}

impl CpuOperation for Fire {
    fn wide_scratch(&self) -> usize {
        2 * self.count() + self.heads
    }

    fn forward<T: Float>(&self, _: usize, call: &Call<'_, T>) {
        let (rows, result) = call.output_share_by(self.heads * self.tokens);
        if rows.is_empty() {
            return;
        }
        let (memory, bias) = call.wide_scratch().split_at_mut(2 * self.count());
        let (weights, positions) = (self.wide(call, &mut memory[..self.count()]), call.ids(0));
        let bias = &mut bias[..self.heads];
        result.fill(T::ZERO);
        for (key, query) in self.pairs() {
            let feature = self.feature(&weights, positions[query], positions[key]);
            bias.copy_from_slice(weights.output_bias);
            for unit in 0..self.hidden {
                let active = feature.value * weights.hidden[unit] + weights.hidden_bias[unit];
                if active > 0.0 {
                    let own = &weights.output[unit * self.heads..][..self.heads];
                    bias.iter_mut().zip(own).for_each(|(sum, weight)| *sum += active * weight);
                }
            }
            for (head, bias) in bias.iter().enumerate() {
                result[(head * self.tokens + key) * self.tokens + query] = T::of(*bias);
            }
        }
    }

    fn backward<T: Float>(&self, _: usize, call: &Call<'_, T>) {
        // All parameters belong to one part; the others have nothing to do.
        let shares: [_; 6] = std::array::from_fn(|parameter| {
            let count = call.parameter(parameter).len();
            call.to_parameter(parameter, count)
        });
        if shares[0].numbers.is_empty() {
            return;
        }
        let (memory, rest) = call.wide_scratch().split_at_mut(self.count());
        let (sums, own) = rest.split_at_mut(self.count());
        sums.fill(0.0);
        let weights = self.wide(call, memory);
        self.add_gradients(
            &weights,
            self.split(sums),
            (call.ids(0), call.gradient()),
            &mut own[..self.heads],
        );
        let mut sums = sums.iter();
        for share in shares {
            for (to, sum) in share.numbers.iter_mut().zip(&mut sums) {
                *to = if share.accumulate { *to + T::of(*sum) } else { T::of(*sum) };
            }
        }
    }
}

impl Fire {
    /// Adds what every pair contributes; `own` is memory for a pair's gradients by head.
    fn add_gradients<T: Float>(
        &self,
        weights: &Weights<'_>,
        sums: Weights<'_>,
        (positions, gradient): (&[u32], &[T]),
        own: &mut [f64],
    ) {
        let (hidden, heads, tokens) = (self.hidden, self.heads, self.tokens);
        for (key, query) in self.pairs() {
            let feature = self.feature(weights, positions[query], positions[key]);
            for (head, own) in own.iter_mut().enumerate() {
                *own = gradient[(head * tokens + key) * tokens + query].wide();
                sums.output_bias[head] += *own;
            }
            let mut to_feature = 0.0;
            for unit in 0..hidden {
                let active = feature.value * weights.hidden[unit] + weights.hidden_bias[unit];
                if active <= 0.0 {
                    continue;
                }
                let mut to_active = 0.0;
                for (head, own) in own.iter().enumerate() {
                    sums.output[unit * heads + head] += active * own;
                    to_active += weights.output[unit * heads + head] * own;
                }
                sums.hidden[unit] += to_active * feature.value;
                sums.hidden_bias[unit] += to_active;
                to_feature += to_active * weights.hidden[unit];
            }
            sums.scalars[0] += to_feature * feature.by_scale;
            sums.scalars[1] += to_feature * feature.by_multiplier;
        }
    }
}

impl Operation for Fire {
    fn name(&self) -> &'static str {
        "fire"
    }

    fn keeps_input(&self, _: usize) -> bool {
        false
    }

    fn reference(&self, given: &Given<'_>) -> Result<Tensor> {
        let (replicas, tokens) = (given.replicas, self.tokens);
        let device = given.parameter(0).device();
        let dtype = given.parameter(0).dtype();
        let ids = given.ids(0)?;
        let place = |replica: usize, at: usize| f64::from(ids[replica * tokens + at]);
        let mut all = [Vec::new(), Vec::new(), Vec::new()];
        for replica in 0..replicas {
            for key in 0..tokens {
                for query in 0..tokens {
                    all[0].push((place(replica, query) - place(replica, key)).max(0.0));
                    all[1].push(place(replica, query));
                    all[2].push(f64::from(u8::from(key <= query)));
                }
            }
        }
        let pairs = tokens * tokens;
        let [distance, query, seen] =
            all.map(|numbers| Tensor::from_vec(numbers, (replicas, pairs, 1), device)?.to_dtype(dtype));
        let (distance, query, seen) = (distance?, query?, seen?);
        let scalar = |parameter: usize| given.parameter(parameter).reshape((replicas, 1, 1))?.abs();
        let (scale, threshold) = (scalar(0)?, (scalar(1)? * self.length)?);
        let furthest = query.broadcast_maximum(&threshold)?;
        let below = ((furthest.broadcast_mul(&scale)? + 1.0)?.log()? + EPSILON)?;
        let feature = ((distance.broadcast_mul(&scale)? + 1.0)?.log()? / below)?;
        let bias = |parameter: usize, width: usize| given.parameter(parameter).reshape((replicas, 1, width));
        let weight = |parameter: usize, shape: (usize, usize)| {
            given.parameter(parameter).reshape((replicas, shape.0, shape.1))
        };
        let hidden =
            feature.matmul(&weight(2, (1, self.hidden))?)?.broadcast_add(&bias(3, self.hidden)?)?.relu()?;
        let result = hidden
            .matmul(&weight(4, (self.hidden, self.heads))?)?
            .broadcast_add(&bias(5, self.heads)?)?
            .broadcast_mul(&seen.to_dtype(DType::F64)?.to_dtype(dtype)?)?;
        result
            .reshape((replicas, tokens, tokens, self.heads))?
            .permute((0, 3, 1, 2))?
            .contiguous()?
            .reshape((replicas, self.heads * tokens, tokens))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fire() -> Fire {
        Fire { length: 512.0, hidden: 1, heads: 1, tokens: 4 }
    }

    fn feature(scale: f64, multiplier: f64, query: u32, key: u32) -> Feature {
        let mut memory = [scale, multiplier, 0.0, 0.0, 0.0, 0.0];
        let fire = fire();
        let weights = fire.split(&mut memory);
        fire.feature(&weights, query, key)
    }

    /// At the start (c = 0.1, m = 1) all sequences of less than 512 tokens have one denominator, ln 52.2, so that the feature
    /// depends on the distance alone.
    #[test]
    fn features_at_the_start_are_logarithms_of_the_distance() {
        let denominator = 52.2f64.ln() + 1e-6;
        assert!((denominator - 3.955).abs() < 1e-3);
        for (query, key, expected) in
            [(0, 0, 0.0), (10, 0, 2f64.ln()), (63, 53, 2f64.ln()), (63, 13, 6f64.ln())]
        {
            let found = feature(0.1, 1.0, query, key).value;
            assert!((found - expected / denominator).abs() < 1e-12, "{query} {key}: {found}");
        }
        // Beyond L the query's own position takes its place: L = 8 here.
        let found = feature(0.5, -8.0 / 512.0, 20, 6).value;
        assert!((found - 8f64.ln() / (11f64.ln() + 1e-6)).abs() < 1e-12, "{found}");
    }

    #[test]
    fn derivatives_are_slopes() {
        for (scale, multiplier, query, key) in
            [(0.1, 1.0, 40, 3), (-0.3, 0.02, 9, 2), (0.7, -0.01, 30, 29), (0.2, 0.1, 5, 5)]
        {
            let own = feature(scale, multiplier, query, key);
            let step = 1e-6;
            let by_scale = (feature(scale + step, multiplier, query, key).value
                - feature(scale - step, multiplier, query, key).value)
                / (2.0 * step);
            let by_multiplier = (feature(scale, multiplier + step, query, key).value
                - feature(scale, multiplier - step, query, key).value)
                / (2.0 * step);
            assert!((own.by_scale - by_scale).abs() < 1e-7, "{scale} {query}");
            assert!((own.by_multiplier - by_multiplier).abs() < 1e-7, "{multiplier} {query}");
        }
    }
}
