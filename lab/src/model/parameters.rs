//! What a model's parameters are: names, shapes, starts.

use plateau_common::random::StreamFamily;

/// How a parameter's numbers are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Initial {
    /// Normal with mean 0 and this standard deviation.
    Normal(f64),
    /// Uniform between minus and plus this bound.
    Uniform(f64),
    /// All equal to this.
    Constant(f64),
}

/// One parameter of a model, without the replica dimension.
#[derive(Clone, Debug, PartialEq)]
pub struct ParameterSpecification {
    /// Dotted name; what stands before the first dots is the part a norm is reported for.
    pub name: String,
    /// Extents of one replica's.
    pub shape: Vec<usize>,
    /// Its start.
    pub initial: Initial,
}

impl ParameterSpecification {
    /// The starting values of one replica: a function of the trial's seed and the parameter's place in the model.
    pub fn draw(&self, family: &StreamFamily, place: u64) -> Vec<f64> {
        let count = self.shape.iter().product();
        let mut stream = family.at(place);
        match self.initial {
            Initial::Normal(deviation) => (0..count).map(|_| deviation * stream.normal()).collect(),
            Initial::Uniform(bound) => (0..count).map(|_| bound * (2.0 * stream.unit() - 1.0)).collect(),
            Initial::Constant(value) => vec![value; count],
        }
    }
}
