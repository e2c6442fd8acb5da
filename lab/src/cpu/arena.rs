//! The numbers of one replica that last: parameters and the optimiser's moments, each one stretch of memory.

use super::Executor;
use super::memory::Numbers;
use super::team::Team;
use crate::float::Float;
use crate::optimizer::{ReplicaRule, Stretch, square_sum, update};

/// Numbers whose squares one part adds up in one go; how a sum is divided depends on the count only.
const STRETCH: usize = 1 << 14;

/// A replica's parameters and moments, in the layout's order.
pub struct Arena<T> {
    parameters: Numbers<T>,
    /// Mean of gradients and of their squares, or velocity and nothing.
    moments: [Numbers<T>; 2],
    last_norm: f64,
    /// Which parameters decay.
    stretches: Vec<Stretch>,
}

impl<T: Float> Arena<T> {
    /// From numbers in 64 bits; missing moments are 0. All parameters decay.
    pub fn new(parameters: &[f64], moments: &[Vec<f64>], last_norm: f64) -> Self {
        let narrow = |numbers: Option<&[f64]>| {
            let mut all = Numbers::zeros(parameters.len());
            for (to, number) in all.slice_mut().iter_mut().zip(numbers.unwrap_or_default()) {
                *to = T::of(*number);
            }
            all
        };
        let moment = |at: usize| narrow(moments.get(at).map(Vec::as_slice));
        let moments = [moment(0), moment(1)];
        let stretches = vec![Stretch { end: parameters.len(), decays: true }];
        Arena { parameters: narrow(Some(parameters)), moments, last_norm, stretches }
    }

    /// The same with parameters that do not decay.
    pub fn with_stretches(self, stretches: Vec<Stretch>) -> Self {
        Arena { stretches, ..self }
    }

    /// The parameters.
    pub fn parameters(&self) -> &[T] {
        self.parameters.slice()
    }

    /// First and second moments.
    pub fn moments(&self) -> [&[T]; 2] {
        [self.moments[0].slice(), self.moments[1].slice()]
    }

    /// Norm of the gradient of the last update; not a number before the first.
    pub fn last_norm(&self) -> f64 {
        self.last_norm
    }
}

impl<T: Float> Executor<T> {
    /// Makes update `number` of a replica with the gradients of the last [`Executor::differentiate`], unless `finite` is
    /// false or their norm is not finite; the norm.
    pub fn apply(
        &mut self,
        team: &Team,
        arena: &mut Arena<T>,
        (rule, number, multiplier): (&ReplicaRule, u64, f64),
        finite: bool,
    ) -> f64 {
        let norm = self.gradient_norm(team);
        if !finite || !norm.is_finite() {
            return norm;
        }
        let gradients = self.gradients();
        let count = gradients.len();
        let parameters = arena.parameters.share();
        let [first, second] = &mut arena.moments;
        let moments = [first.share(), second.share()];
        let stretches = &arena.stretches;
        team.run(&|part| {
            let mut from = part * count / team.parts();
            let end = (part + 1) * count / team.parts();
            for stretch in stretches.iter().filter(|stretch| stretch.end > part * count / team.parts()) {
                let length = stretch.end.min(end).saturating_sub(from);
                // SAFETY: the stretches of different parts do not overlap, nor do those of one, and the arena is borrowed for the
                // time of `run`.
                #[allow(unsafe_code, reason = "stretches of one arena for several threads")]
                let (parameters, moments) = unsafe {
                    (parameters.write(from, length), moments.map(|moment| moment.write(from, length)))
                };
                let gradients = &gradients[from..from + length];
                update(rule, (norm, number, multiplier), stretch.decays, parameters, gradients, moments);
                from += length;
            }
        });
        arena.last_norm = norm;
        norm
    }

    /// Norm of the gradients, in 64 bits.
    fn gradient_norm(&mut self, team: &Team) -> f64 {
        let (gradients, sums) = self.gradients_and_sums();
        let shared = sums.share();
        let count = gradients.len().div_ceil(STRETCH);
        team.run(&|part| {
            let (from, to) = (part * count / team.parts(), (part + 1) * count / team.parts());
            // SAFETY: the stretches of different parts do not overlap, and the sums are borrowed for the time of `run`.
            #[allow(unsafe_code, reason = "sums by several threads")]
            let own = unsafe { shared.write(from, to - from) };
            for (sum, stretch) in own.iter_mut().zip(gradients.chunks(STRETCH).skip(from)) {
                *sum = square_sum(stretch);
            }
        });
        sums.slice()[..count].iter().sum::<f64>().sqrt()
    }

    /// How many sums [`Executor::gradient_norm`] needs memory for.
    pub(super) fn sum_count(parameters: usize) -> usize {
        parameters.div_ceil(STRETCH)
    }
}
