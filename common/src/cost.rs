//! What a trial costs.
