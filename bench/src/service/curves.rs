//! Curves like those of real trials, to be sent as metrics: a transformer that groks modular addition, seen at every
//! update, with the noise of mini-batches.
//!
//! The six series are those every trial has by default. Losses, norms and the noise on them are full 64-bit numbers, as the
//! trainer's are; accuracies are shares of whole examples.

use plateau_common::random::Stream;
use plateau_proto::v1;

/// Examples that accuracies are shares of: half of the pairs modulo 97 for training, the rest for the test.
const TRAIN_EXAMPLES: f64 = 4704.0;
const TEST_EXAMPLES: f64 = 4705.0;
/// Relative noise of losses and of the gradient's norm.
const NOISE: f64 = 0.05;

/// One trial's curves.
pub struct Curves {
    columns: Vec<(&'static str, Vec<f64>)>,
}

/// Names of the series, in the order of the wire.
pub const SERIES: usize = 6;

impl Curves {
    /// The curves of one seed over `length` updates.
    pub fn new(seed: u64, length: usize) -> Self {
        let mut random = Stream::new(seed, "bench/curves", 0);
        let memorised = 140.0 * (1.0 + 0.2 * random.normal());
        let groks = length as f64 * 0.5 * (1.0 + 0.1 * random.normal());
        let mut columns: Vec<(&'static str, Vec<f64>)> =
            ["gradient_norm", "test_accuracy", "test_loss", "train_accuracy", "train_loss", "weight_norm"]
                .map(|name| (name, Vec::with_capacity(length)))
                .into();
        for step in 0..length {
            let step = step as f64;
            let mut noisy = |value: f64| value * (NOISE * random.normal()).exp();
            let train_loss = noisy(4.6 * (-step / memorised).exp() + 2e-4);
            let grokked = 1.0 / (1.0 + (-(step - groks) / (0.02 * length as f64)).exp());
            let test_loss =
                noisy(4.6 + 6.0 * (1.0 - (-step / memorised).exp()) * (1.0 - grokked) - 4.59 * grokked);
            let gradient_norm = noisy(0.8 * (-step / memorised).exp() + 3e-3);
            let weight_norm =
                30.0 + 25.0 * (1.0 - grokked) * (1.0 - (-step / 300.0).exp()) + 1e-3 * random.normal();
            let mut share = |mean: f64, examples: f64| {
                let deviation = (mean * (1.0 - mean) * examples).sqrt();
                (mean * examples + deviation * random.normal()).round().clamp(0.0, examples) / examples
            };
            let train_accuracy = share(1.0 - 0.99 * (-step / memorised).exp(), TRAIN_EXAMPLES);
            let test_accuracy = share(0.01 + 0.985 * grokked, TEST_EXAMPLES);
            let values = [gradient_norm, test_accuracy, test_loss, train_accuracy, train_loss, weight_norm];
            for ((_, column), value) in columns.iter_mut().zip(values) {
                column.push(value);
            }
        }
        Curves { columns }
    }

    /// `count` evaluations from `step` on, as a message; the curves begin again when they are over.
    pub fn chunk(&self, step: u64, count: u64) -> v1::MetricsChunk {
        let column = |(name, values): &(&'static str, Vec<f64>)| v1::MetricColumn {
            name: (*name).to_owned(),
            values: (step..step + count)
                .filter_map(|step| values.get(step as usize % values.len()).copied())
                .collect(),
            missing: Vec::new(),
        };
        v1::MetricsChunk {
            steps: (step..step + count).collect(),
            columns: self.columns.iter().map(column).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_has_every_series_and_the_curves_look_like_grokking() {
        let curves = Curves::new(1, 2000);
        let chunk = curves.chunk(1990, 20);
        assert_eq!((chunk.steps.len(), chunk.columns.len()), (20, SERIES));
        assert!(chunk.columns.iter().all(|column| column.values.len() == 20));
        let of = |name: &str| &curves.columns.iter().find(|(known, _)| *known == name).unwrap().1;
        assert!(of("test_accuracy")[500] < 0.1 && of("train_accuracy")[900] > 0.95);
        assert!(of("test_accuracy")[1900] > 0.9 && of("train_loss")[1900] < 1e-2);
        // No two losses are equal: there is noise.
        assert!(of("test_loss").windows(2).all(|pair| pair[0] != pair[1]));
    }
}
