//! The size of a test set that is drawn once, as `test-examples` gives it.

use crate::fields::{ConfigResult, Fields};
use crate::limits;

/// Reads `test-examples`: how many sequences of `length` tokens.
pub(super) fn read_test_examples(
    fields: &mut Fields<'_>,
    default: usize,
    length: usize,
) -> ConfigResult<usize> {
    let examples = fields.integer("test-examples", 1..=limits::MAX_EVALUATION_EXAMPLES)?.unwrap_or(default);
    if examples.saturating_mul(length) > limits::MAX_TOKENS_AT_ONCE {
        return Err(fields
            .error("test-examples", format!("{examples} sequences of {length} tokens are too many at once"))
            .suggest(format!("at most {} tokens", limits::MAX_TOKENS_AT_ONCE)));
    }
    Ok(examples)
}
