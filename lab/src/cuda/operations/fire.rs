//! FIRE's bias of attention logits: a thread for each number on the way forward, a block for each number of the parameters on the
//! way back.

use super::CardForm;
use crate::cuda::commands::arguments;
use crate::cuda::error::CudaError;
use crate::cuda::lower::{Call, FireCall, ParameterPlace, THREADS, int};
use crate::ops::fire::Fire;

/// Threads that add up the pairs for one number of the parameters.
const THREADS_OF_SUM: usize = 128;

impl CardForm for Fire {
    fn forward(&self, call: &mut Call<'_, '_>) -> Result<(), CudaError> {
        let (y, own) = (call.output(), description(self, call, |call, number| call.parameter(number))?);
        call.launch_by_number("fire_forward", y.count(), arguments![y.address, own])
    }

    fn backward(&self, call: &mut Call<'_, '_>) -> Result<(), CudaError> {
        let (units, heads, tokens) = self.sizes();
        let (replicas, pairs) = (call.replicas(), tokens * tokens);
        let gradient = call.gradient().address;
        let own = description(self, call, |call, number| call.parameter(number))?;
        let to = description(self, call, |call, number| call.to_parameter(number))?;
        let features = call.scratch(replicas * pairs);
        let to_scale = call.wide_scratch(replicas * pairs);
        let to_multiplier = call.wide_scratch(replicas * pairs);
        int(pairs)?;
        let grid = (pairs.div_ceil(THREADS), replicas, 1);
        let all = arguments![features, to_scale, to_multiplier, gradient, own];
        call.launch("fire_pairs", grid, (THREADS as u32, 1, 1), all)?;
        // All gradients of parameters are zero at first, so adding is always right.
        let numbers = 2 + 2 * units + units * heads + heads;
        let all = arguments![to, features, to_scale, to_multiplier, gradient, own];
        call.launch("fire_backward", (numbers, replicas, 1), (THREADS_OF_SUM as u32, 1, 1), all)
    }
}

fn description(
    fire: &Fire,
    call: &Call<'_, '_>,
    place: impl Fn(&Call<'_, '_>, usize) -> ParameterPlace,
) -> Result<FireCall, CudaError> {
    let (units, heads, tokens) = fire.sizes();
    let positions = call.slot(0);
    Ok(FireCall {
        parameters: std::array::from_fn(|number| place(call, number).address),
        stride: call.stride(),
        positions: positions.address,
        distance: positions.distance,
        length: fire.length(),
        units: int(units)?,
        heads: int(heads)?,
        tokens: int(tokens)?,
        padding: 0,
    })
}
