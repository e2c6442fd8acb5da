//! Each operation's form for cards: one file each, one line in the list.

mod activation;
mod attention;
mod constant;
mod embedding;
mod fire;
mod linear;
mod norm;
mod objective;
mod rotary;
mod rows;
mod select;
mod sum;

use super::error::CudaError;
use super::lower::Call;
use crate::ops;
use crate::program::Operation;

/// Activations as the kernels number them.
const NONE: i32 = 0;
const RELU: i32 = 1;
const GELU: i32 = 2;

/// An operation as commands for a card. What buffers hold when, and what may be overwritten, is as for processors.
pub(super) trait CardForm {
    /// Appends the commands of the forward pass.
    fn forward(&self, call: &mut Call<'_, '_>) -> Result<(), CudaError>;

    /// Appends the commands of the backward pass.
    fn backward(&self, call: &mut Call<'_, '_>) -> Result<(), CudaError>;
}

/// Finds the form of an operation among those of these types.
macro_rules! forms {
    ($($operation:ty),+ $(,)?) => {
        /// The form of an operation for cards.
        pub(super) fn form(operation: &dyn Operation) -> Result<&dyn CardForm, CudaError> {
            $(if let Some(own) = operation.as_any().downcast_ref::<$operation>() {
                return Ok(own);
            })+
            Err(CudaError::Unsupported(format!(
                "`{}` cannot be done on a card yet; train on the processor with `--device cpu`",
                operation.name()
            )))
        }
    };
}

forms! {
    ops::activation::Activation,
    ops::attention::Attention,
    ops::constant::Constant,
    ops::embedding::Embedding,
    ops::fire::Fire,
    ops::layer_norm::LayerNorm,
    ops::linear::Linear,
    ops::objective::Objective,
    ops::rms_norm::RmsNorm,
    ops::rotary::Rotary,
    ops::select::Select,
    ops::sum::Scaled,
    ops::sum::Sum,
}
