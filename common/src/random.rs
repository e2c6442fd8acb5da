//! Named counter-based random streams: every draw in Plateau is a pure function of (seed, purpose, index).
//!
//! A stream is ChaCha8 keyed by the BLAKE3 hash of the trial's seed and a purpose such as `"initialisation"` or
//! `"dropout"`; the index (a step, an epoch, a parameter's number) selects the ChaCha stream. So any step can be jumped
//! to without replaying the ones before it, and a replica draws the same numbers alone or in a cohort.
//!
//! The integer draws are ours, not a distribution crate's, because their values are part of a trial's meaning and must
//! not change with a dependency.

use chacha20::ChaCha8Rng;
use chacha20::rand_core::{Rng, SeedableRng};

/// Words drawn at once by [`Stream::fill_below`].
const BULK_WORDS: usize = 256;

/// A named stream of random numbers; cheap to make.
pub struct Stream {
    generator: ChaCha8Rng,
}

impl Stream {
    /// The stream for `purpose` at `index` of the trial with this `seed`.
    pub fn new(seed: u64, purpose: &str, index: u64) -> Self {
        StreamFamily::new(seed, purpose).at(index)
    }

    /// 64 uniform random bits.
    pub fn bits(&mut self) -> u64 {
        self.generator.next_u64()
    }

    /// A uniform number in `[0, bound)`; `bound` must not be 0. Unbiased (Lemire's method with rejection).
    pub fn below(&mut self, bound: u32) -> u32 {
        debug_assert!(bound > 0);
        let mut product = u64::from(self.generator.next_u32()) * u64::from(bound);
        // The threshold is below the bound, so that its division is hardly ever needed.
        if (product as u32) < bound {
            let threshold = bound.wrapping_neg() % bound;
            while (product as u32) < threshold {
                product = u64::from(self.generator.next_u32()) * u64::from(bound);
            }
        }
        (product >> 32) as u32
    }

    /// Fills `values` with the numbers of as many calls of [`Stream::below`], at a fraction of their cost.
    pub fn fill_as_below(&mut self, bound: u32, values: &mut [u32]) {
        debug_assert!(bound > 0);
        let threshold = bound.wrapping_neg() % bound;
        let mut words = [0u8; 4 * BULK_WORDS];
        let mut rest = values;
        while !rest.is_empty() {
            let wanted = rest.len().min(BULK_WORDS);
            let words = &mut words[..4 * wanted];
            self.generator.fill_bytes(words);
            let words = words.as_chunks::<4>().0;
            let product = |word: &[u8; 4]| u64::from(u32::from_le_bytes(*word)) * u64::from(bound);
            // Rejections are rare; without branches for them the loop runs in vectors.
            let mut lowest = u32::MAX;
            for (value, word) in rest.iter_mut().zip(words) {
                let product = product(word);
                lowest = lowest.min(product as u32);
                *value = (product >> 32) as u32;
            }
            let mut accepted = wanted;
            if lowest < threshold {
                accepted = 0;
                for product in words.iter().map(product).filter(|product| *product as u32 >= threshold) {
                    rest[accepted] = (product >> 32) as u32;
                    accepted += 1;
                }
            }
            rest = &mut rest[accepted..];
        }
    }

    /// Fills `values` with uniform numbers in `[0, bound)`; `bound` must not be 0. The law of [`Stream::below`] at a
    /// fraction of its cost: random words come in bulk, and there is one division for all of them. (The numbers are
    /// others than those of as many calls of `below`.)
    pub fn fill_below(&mut self, bound: u32, values: &mut [u32]) {
        debug_assert!(bound > 0);
        let threshold = bound.wrapping_neg() % bound;
        let mut words = [0u8; 4 * BULK_WORDS];
        for values in values.chunks_mut(BULK_WORDS) {
            let words = &mut words[..4 * values.len()];
            self.generator.fill_bytes(words);
            for (value, word) in values.iter_mut().zip(words.as_chunks::<4>().0) {
                let product = u64::from(u32::from_le_bytes(*word)) * u64::from(bound);
                *value = if product as u32 >= threshold { (product >> 32) as u32 } else { self.below(bound) };
            }
        }
    }

    /// Fills `words` with uniform random bits.
    pub fn fill_words(&mut self, words: &mut [u32]) {
        let mut bytes = [0u8; 4 * BULK_WORDS];
        for words in words.chunks_mut(BULK_WORDS) {
            let bytes = &mut bytes[..4 * words.len()];
            self.generator.fill_bytes(bytes);
            for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *word = u32::from_le_bytes(*bytes);
            }
        }
    }

    /// A uniform number in `[0, 1)` with 53 random bits.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// A standard normal number (Box–Muller; one of the pair is discarded so that draws stay countable).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        let angle = 2.0 * std::f64::consts::PI * self.unit();
        radius * angle.cos()
    }

    /// A uniform random permutation of `0..length` (Fisher–Yates).
    pub fn permutation(&mut self, length: u32) -> Vec<u32> {
        let mut order = Vec::new();
        self.permute(length, &mut order);
        order
    }

    /// Overwrites `order` with the numbers of [`Stream::permutation`], in the memory it has.
    pub fn permute(&mut self, length: u32, order: &mut Vec<u32>) {
        order.clear();
        order.extend(0..length);
        for last in (1..length).rev() {
            let other = self.below(last + 1);
            order.swap(last as usize, other as usize);
        }
    }
}

/// All streams of one (seed, purpose); keeps the derived key so that [`StreamFamily::at`] costs no hashing.
#[derive(Clone)]
pub struct StreamFamily {
    key: [u8; 32],
}

impl StreamFamily {
    /// Derives the key of `purpose` for a trial with this `seed`.
    pub fn new(seed: u64, purpose: &str) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("plateau 2026 random stream v1");
        hasher.update(&seed.to_le_bytes());
        hasher.update(purpose.as_bytes());
        StreamFamily { key: *hasher.finalize().as_bytes() }
    }

    /// The stream at `index`.
    pub fn at(&self, index: u64) -> Stream {
        let mut generator = ChaCha8Rng::from_seed(self.key);
        generator.set_stream(index);
        Stream { generator }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_a_function_of_seed_purpose_and_index() {
        let draw = |seed, purpose, index| Stream::new(seed, purpose, index).bits();
        assert_eq!(draw(1, "data", 5), draw(1, "data", 5));
        let all = [draw(1, "data", 5), draw(2, "data", 5), draw(1, "dropout", 5), draw(1, "data", 6)];
        let distinct: std::collections::BTreeSet<u64> = all.into_iter().collect();
        assert_eq!(distinct.len(), 4);
    }

    /// Golden draws: a changed value means every stored trial would change its meaning.
    #[test]
    fn golden_draws_do_not_change() {
        let mut stream = Stream::new(42, "golden", 7);
        let integers: Vec<u32> = (0..6).map(|_| stream.below(1000)).collect();
        insta::assert_debug_snapshot!((integers, stream.unit(), stream.normal(), stream.permutation(8)));
    }

    #[test]
    fn golden_bulk_draws_do_not_change() {
        let mut values = [0; 8];
        Stream::new(42, "golden", 7).fill_below(1000, &mut values);
        assert_eq!(values, [78, 640, 100, 500, 88, 283, 366, 497]);
    }

    #[test]
    fn bulk_draws_in_order_are_those_of_single_calls_also_where_many_words_are_rejected() {
        for bound in [1, 2, 7, 1000, 3 << 30, (1 << 31) + 1, u32::MAX] {
            let (mut bulk, mut single) = (Stream::new(8, "bulk", 1), Stream::new(8, "bulk", 1));
            for length in [0, 1, 255, 256, 257, 1000] {
                let mut values = vec![0; length];
                bulk.fill_as_below(bound, &mut values);
                assert_eq!(values, (0..length).map(|_| single.below(bound)).collect::<Vec<u32>>(), "{bound}");
            }
            assert_eq!(bulk.bits(), single.bits());
        }
    }

    /// A bound for which a quarter of all words is rejected: each kind of draw must stay uniform.
    #[test]
    fn bulk_draws_are_uniform_where_many_words_are_rejected() {
        let bound = 3 << 30;
        let mut values = vec![0; 300_000];
        Stream::new(5, "bulk", 0).fill_below(bound, &mut values);
        assert!(values.iter().all(|value| *value < bound));
        let mut thirds = [0u32; 3];
        values.iter().for_each(|value| thirds[(value >> 30) as usize] += 1);
        // Five standard deviations of a binomial count.
        assert!(thirds.iter().all(|count| count.abs_diff(100_000) < 1300), "{thirds:?}");
    }

    #[test]
    fn bulk_draws_go_on_where_the_last_ended() {
        let (mut parts, mut other) = (Stream::new(6, "bulk", 0), Stream::new(6, "bulk", 0));
        let (mut first, mut second, mut whole) = ([0; 256], [0; 44], [0; 300]);
        parts.fill_below(11, &mut first);
        parts.fill_below(11, &mut second);
        other.fill_below(11, &mut whole);
        assert_eq!([&first[..], &second[..]].concat(), whole);
    }

    #[test]
    fn moments_of_uniform_and_normal_draws() {
        let mut stream = Stream::new(3, "moments", 0);
        let count = 200_000;
        let (mut sum, mut square) = (0.0, 0.0);
        for _ in 0..count {
            let value = stream.normal();
            sum += value;
            square += value * value;
        }
        let (mean, variance) = (sum / f64::from(count), square / f64::from(count));
        assert!(mean.abs() < 0.01, "mean {mean}");
        assert!((variance - 1.0).abs() < 0.02, "variance {variance}");
        let mean_below: f64 = (0..count).map(|_| f64::from(stream.below(7))).sum::<f64>() / f64::from(count);
        assert!((mean_below - 3.0).abs() < 0.02);
    }

    #[test]
    fn a_permutation_holds_every_index_once() {
        let mut order = Stream::new(9, "permutation", 0).permutation(101);
        order.sort_unstable();
        assert_eq!(order, (0..101).collect::<Vec<u32>>());
    }
}
