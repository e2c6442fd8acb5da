//! What a trial's examples are drawn from: a seed for the data themselves, and one for the order in which training meets them.
//!
//! Two, so that training can be repeated, or go on from a checkpoint, on the same data in another order. Which stream hangs on which
//! of the two is each task's business; the rule is in [`super::Task::examples`].

use crate::random::Stream;

/// The seeds of a trial's examples.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Seeds {
    /// Of the data: splits, fixed evaluation sets, evaluation cells.
    pub data: u64,
    /// Of the training batches: the order of a finite training set, or the fresh examples of an endless one.
    pub order: u64,
}

impl Seeds {
    /// Those of a trial with this `seed` and, where it has one, this number of its data order. Without one, order and data share the
    /// trial's seed.
    pub fn of(seed: u64, data_order: Option<u64>) -> Self {
        let other = |number| Stream::new(seed, "other-data-order", number).bits();
        Seeds { data: seed, order: data_order.map_or(seed, other) }
    }
}

/// The seeds of a trial with the seed's own order.
impl From<u64> for Seeds {
    fn from(seed: u64) -> Self {
        Seeds::of(seed, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_have_seeds_of_their_own_that_follow_from_seed_and_number() {
        assert_eq!(Seeds::from(7), Seeds { data: 7, order: 7 });
        let orders = [(7, Some(0)), (7, Some(1)), (7, Some(2)), (8, Some(1)), (7, None)]
            .map(|(seed, number)| Seeds::of(seed, number));
        assert_eq!(orders.map(|seeds| seeds.data), [7, 7, 7, 8, 7]);
        let distinct: std::collections::BTreeSet<u64> = orders.iter().map(|seeds| seeds.order).collect();
        assert_eq!(distinct.len(), 5);
        assert_eq!(Seeds::of(7, Some(1)), orders[1]);
    }

    /// A changed value would mean that forks stored under it mean something else.
    #[test]
    fn golden_seeds_of_orders_do_not_change() {
        assert_eq!(Seeds::of(42, Some(1)).order, 6_044_284_547_109_823_670);
    }
}
