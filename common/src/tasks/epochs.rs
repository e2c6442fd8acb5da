//! Endless passes over a finite set, each in an order of its own: what is `place` of all that is ever drawn?
//!
//! Owns the order only. What the items are (rows of a table, pairs of lengths) is the tasks' business.

use std::cell::RefCell;

use crate::random::StreamFamily;

/// Epochs over the items 0 to n, shuffled one by one and laid end to end. Any place can be jumped to: an epoch's order is a
/// function of the seed, the purpose and its number.
pub(super) struct Epochs {
    items: u32,
    orders: StreamFamily,
    /// The epoch used last.
    current: RefCell<Epoch>,
}

#[derive(Default)]
struct Epoch {
    /// From 0; `None` before the first use.
    number: Option<u64>,
    order: Vec<u32>,
}

impl Epochs {
    /// Epochs over `items` items, at least one.
    pub fn new(seed: u64, purpose: &str, items: usize) -> Self {
        Epochs { items: items as u32, orders: StreamFamily::new(seed, purpose), current: RefCell::default() }
    }

    /// The item at `place`, counted through all epochs.
    pub fn item(&self, place: u64) -> usize {
        let items = u64::from(self.items);
        let (number, place) = (place / items, (place % items) as usize);
        let epoch = &mut *self.current.borrow_mut();
        if epoch.number != Some(number) {
            self.orders.at(number).permute(self.items, &mut epoch.order);
            epoch.number = Some(number);
        }
        epoch.order[place] as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_epoch_holds_every_item_once_in_an_order_of_its_own() {
        let epochs = Epochs::new(3, "order", 20);
        let epoch = |number: u64| -> Vec<usize> {
            (number * 20..(number + 1) * 20).map(|place| epochs.item(place)).collect()
        };
        let orders = [0, 1, 7].map(epoch);
        for order in &orders {
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..20).collect::<Vec<usize>>());
        }
        assert!(orders[0] != orders[1] && orders[1] != orders[2]);
        assert_eq!(orders[0], epoch(0), "an epoch can be returned to");
    }
}
