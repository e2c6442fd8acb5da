//! Trace context: the identity of a span, as W3C `traceparent` text carries it between processes.
//!
//! Trial traces are derived from ids, not drawn: the same trial of the same sweep has the same trace id in every
//! process and after every restart, so its spans join up without a collector.

use std::fmt;

/// A position in a span tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// The tree.
    pub trace: u128,
    /// The parent span in it.
    pub span: u64,
}

impl TraceContext {
    /// The root span of one trial of one sweep.
    pub fn of_trial(sweep: &str, trial: &str) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("plateau 2026 trace v1");
        hasher.update(sweep.as_bytes());
        hasher.update(b"/");
        hasher.update(trial.as_bytes());
        let mut bytes = [0; 24];
        hasher.finalize_xof().fill(&mut bytes);
        let (trace, span) = bytes.split_at(16);
        let number = |bytes: &[u8]| bytes.iter().fold(0u128, |number, byte| number << 8 | u128::from(*byte));
        TraceContext { trace: number(trace).max(1), span: (number(span) as u64).max(1) }
    }

    /// A child span named by what it does, e.g. `"attempt/3"`.
    pub fn child(&self, name: &str) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("plateau 2026 child span v1");
        hasher.update(&self.span.to_le_bytes());
        hasher.update(&self.trace.to_le_bytes());
        hasher.update(name.as_bytes());
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        TraceContext { trace: self.trace, span: u64::from_le_bytes(bytes).max(1) }
    }

    /// Parses `00-<32 hex>-<16 hex>-<2 hex>`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let (version, trace, span) = (parts.next()?, parts.next()?, parts.next()?);
        if version != "00" || trace.len() != 32 || span.len() != 16 {
            return None;
        }
        let trace = u128::from_str_radix(trace, 16).ok()?;
        let span = u64::from_str_radix(span, 16).ok()?;
        (trace != 0 && span != 0).then_some(TraceContext { trace, span })
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-01", self.trace, self.span)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_survives_its_text_form_and_children_stay_in_the_tree() {
        let root = TraceContext::of_trial("s1", "t1");
        assert_eq!(TraceContext::parse(&root.to_string()), Some(root));
        let child = root.child("attempt/1");
        assert_eq!(child.trace, root.trace);
        assert_ne!(child.span, root.span);
        assert_eq!(TraceContext::parse("00-0-0-01"), None);
    }
}
