//! Data sets shared by the trials of a process.
//!
//! A cohort of ten seeds on one data set must neither hold it ten times nor generate it ten times. Owns nothing for longer than somebody
//! uses it.

use std::sync::{Arc, Mutex, PoisonError, Weak};

/// What was made of which settings, as long as it is in use.
pub struct Shared<K, V> {
    held: Mutex<Vec<(K, Weak<V>)>>,
}

impl<K: Clone + PartialEq, V> Shared<K, V> {
    /// Nothing yet.
    pub const fn new() -> Self {
        Shared { held: Mutex::new(Vec::new()) }
    }

    /// What `make` makes of `key`: the one that is in use, if there is one. Who asks for it at the same time waits.
    pub fn get(&self, key: &K, make: impl FnOnce() -> V) -> Arc<V> {
        // A panic while making leaves the list as it was.
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|(_, value)| value.strong_count() > 0);
        if let Some(value) =
            held.iter().find(|(known, _)| known == key).and_then(|(_, value)| value.upgrade())
        {
            return value;
        }
        let value = Arc::new(make());
        held.push((key.clone(), Arc::downgrade(&value)));
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_settings_share_what_is_in_use_and_nothing_is_kept() {
        let shared = Shared::new();
        let (first, again, other) =
            (shared.get(&1, || "a"), shared.get(&1, || panic!("made twice")), shared.get(&2, || "b"));
        assert!(Arc::ptr_eq(&first, &again) && *other == "b");
        drop((first, again));
        assert_eq!(*shared.get(&1, || "c"), "c");
    }
}
