//! What a model sees: the inputs of K replicas, and the dropout factors of one update.

use candle_core::{DType, Device, Result, Tensor};
use plateau_common::random::{Stream, StreamFamily};
use plateau_common::tasks::Input;

/// The inputs of B examples of each of K replicas.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// Replicas, K.
    pub replicas: usize,
    /// Examples per replica, B.
    pub examples: usize,
    /// The examples themselves.
    pub form: InputForm,
}

/// How the examples are written.
#[derive(Clone, Debug)]
pub enum InputForm {
    /// Token ids `[K, B, T]`.
    Tokens {
        /// Row-major ids.
        tokens: Vec<u32>,
        /// T.
        length: usize,
    },
    /// How often each token occurs, and which is last.
    Counts {
        /// Logarithms of the occurrences, `[K, B, vocabulary]`; minus infinity for tokens that do not occur.
        logarithms: Tensor,
        /// Last tokens `[K, B]`.
        last: Vec<u32>,
    },
}

impl Inputs {
    /// Puts the inputs of K replicas side by side; all must be of one form and size.
    pub fn new(replicas: &[Input], vocabulary: usize, dtype: DType, device: &Device) -> Result<Self> {
        let Some(first) = replicas.first() else { candle_core::bail!("a batch of no replicas") };
        match first {
            Input::Tokens { length, .. } => {
                let mut all = Vec::new();
                for input in replicas {
                    match input {
                        Input::Tokens { tokens, length: own } if own == length => all.extend(tokens),
                        _ => candle_core::bail!("replicas of a cohort have inputs of different forms"),
                    }
                }
                let per_example = replicas.len() * *length;
                if !all.len().is_multiple_of(per_example)
                    || all.iter().any(|token| *token as usize >= vocabulary)
                {
                    candle_core::bail!(
                        "a batch does not fit {} replicas or a vocabulary of {vocabulary}",
                        replicas.len()
                    );
                }
                let examples = all.len() / per_example;
                Ok(Inputs {
                    replicas: replicas.len(),
                    examples,
                    form: InputForm::Tokens { tokens: all, length: *length },
                })
            }
            Input::Counts { .. } => {
                let (mut logarithms, mut all_last) = (Vec::new(), Vec::new());
                for input in replicas {
                    let Input::Counts { counts, last } = input else {
                        candle_core::bail!("replicas of a cohort have inputs of different forms")
                    };
                    logarithms.extend(counts.iter().map(|count| f64::from(*count).ln()));
                    all_last.extend(last);
                }
                let examples = all_last.len() / replicas.len();
                let shape = (replicas.len(), examples, vocabulary);
                let logarithms =
                    Tensor::from_vec(logarithms, shape, &Device::Cpu)?.to_dtype(dtype)?.to_device(device)?;
                Ok(Inputs {
                    replicas: replicas.len(),
                    examples,
                    form: InputForm::Counts { logarithms, last: all_last },
                })
            }
        }
    }
}

/// Draws the dropout factors of one update: 0 with the given probability, else 1 / (1 - probability).
pub struct Dropout {
    probability: f64,
    streams: Vec<Stream>,
}

impl Dropout {
    /// The factors of update `update`; replica k draws from the stream of its own family.
    pub fn new(probability: f64, families: &[StreamFamily], update: u64) -> Self {
        Dropout { probability, streams: families.iter().map(|family| family.at(update)).collect() }
    }

    /// The next `[K, …]` factors; `shape` is one replica's.
    pub fn factors(&mut self, shape: &[usize], dtype: DType, device: &Device) -> Result<Tensor> {
        let count: usize = shape.iter().product();
        let keep = 1.0 / (1.0 - self.probability);
        let probability = self.probability;
        let mut factors = Vec::with_capacity(count * self.streams.len());
        for stream in &mut self.streams {
            factors.extend((0..count).map(|_| if stream.unit() < probability { 0.0 } else { keep }));
        }
        let mut full = vec![self.streams.len()];
        full.extend(shape);
        Tensor::from_vec(factors, full, &Device::Cpu)?.to_dtype(dtype)?.to_device(device)
    }
}
