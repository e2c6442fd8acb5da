//! The stored form of a chunk of metrics: columns of numbers, packed without loss.
//!
//! A curve's values differ in their low bits only, and noise cannot be compressed: so each block of values is stored as its
//! smallest bit pattern and, in as many bits as the largest needs, how far each lies above it; or, where that is shorter,
//! the same of the differences from value to value. Shares of whole examples (accuracies) are stored as the whole numbers
//! they are made of. Owns this form and the older one it replaces: the canonical bytes under zstd. Which of the two a chunk
//! has is said by its first byte. Does not judge what is measured.

use plateau_common::limits;
use plateau_proto::v1;
use prost::Message;

/// First byte of the packed form. The older one begins with the first byte of every zstd frame, 0x28.
const PACKED: u8 = 1;
/// Values that share a smallest pattern and a number of bits.
const BLOCK: usize = 128;
/// In the head of a block, beside its number of bits: differences are stored.
const DIFFERENCES: u8 = 0x80;
/// How the values of a column are stored: as bit patterns, or as shares of a number that follows.
const PATTERNS: u8 = 0;
const SHARES: u8 = 1;
/// Shares are of at most so many examples.
const MOST_SHARED: u64 = limits::MAX_EVALUATION_EXAMPLES as u64;
/// Values in a chunk at most; those of a message fit.
const MOST_VALUES: usize = 2 * limits::MAX_MESSAGE_BYTES / size_of::<f64>();

/// Packs a chunk.
pub fn pack(chunk: &v1::MetricsChunk) -> Vec<u8> {
    let mut out = vec![PACKED];
    varint(chunk.steps.len() as u64, &mut out);
    series(&chunk.steps, &mut out);
    varint(chunk.columns.len() as u64, &mut out);
    for column in &chunk.columns {
        varint(column.name.len() as u64, &mut out);
        out.extend_from_slice(column.name.as_bytes());
        varint(column.missing.len() as u64, &mut out);
        column.missing.iter().for_each(|index| varint(u64::from(*index), &mut out));
        match shares(&column.values) {
            Some((whole, parts)) => {
                out.push(SHARES);
                varint(whole, &mut out);
                series(&parts, &mut out);
            }
            None => {
                out.push(PATTERNS);
                let patterns: Vec<u64> = column.values.iter().map(|value| value.to_bits()).collect();
                series(&patterns, &mut out);
            }
        }
    }
    out
}

/// A stored chunk, whichever form it has.
pub fn unpack(data: &[u8]) -> Result<v1::MetricsChunk, String> {
    // Nothing is a frame of nothing to zstd.
    let first = data.first().ok_or_else(|| "it is empty".to_owned())?;
    if *first != PACKED {
        let bytes =
            zstd::bulk::decompress(data, 2 * limits::MAX_MESSAGE_BYTES).map_err(|error| error.to_string())?;
        return v1::MetricsChunk::decode(bytes.as_slice()).map_err(|error| error.to_string());
    }
    let mut rest = Rest(data.get(1..).unwrap_or_default());
    unpack_columns(&mut rest).ok_or_else(|| "the packed columns are cut off or not well-formed".to_owned())
}

fn unpack_columns(rest: &mut Rest<'_>) -> Option<v1::MetricsChunk> {
    let length = rest.count(limits::MAX_CHUNK_EVALUATIONS)?;
    let steps = rest.series(length)?;
    let width = rest.count(limits::MAX_METRICS)?;
    if length * width > MOST_VALUES {
        return None;
    }
    let mut columns = Vec::new();
    for _ in 0..width {
        let name = rest.count(limits::MAX_NAME_BYTES)?;
        let name = String::from_utf8(rest.take(name)?.to_vec()).ok()?;
        let missing = rest.count(limits::MAX_CHUNK_EVALUATIONS)?;
        let missing = (0..missing).map(|_| u32::try_from(rest.varint()?).ok()).collect::<Option<_>>()?;
        let values = match rest.byte()? {
            PATTERNS => rest.series(length)?.into_iter().map(f64::from_bits).collect(),
            SHARES => {
                let whole = rest.varint()?;
                rest.series(length)?.into_iter().map(|part| part as f64 / whole as f64).collect()
            }
            _ => return None,
        };
        columns.push(v1::MetricColumn { name, values, missing });
    }
    rest.0.is_empty().then_some(v1::MetricsChunk { steps, columns })
}

/// The values as whole numbers and what they are shares of, if every one of them is such a share, bit for bit.
fn shares(values: &[f64]) -> Option<(u64, Vec<u64>)> {
    let mut whole = 1;
    for value in values {
        if share(*value, whole).is_none() {
            whole = common_multiple(whole, denominator(*value)?)?;
        }
    }
    let parts = values.iter().map(|value| share(*value, whole)).collect::<Option<_>>()?;
    Some((whole, parts))
}

/// The number whose share of `whole` this value is, bit for bit.
fn share(value: f64, whole: u64) -> Option<u64> {
    let part = (value * whole as f64).round() as u64;
    (part <= whole && (part as f64 / whole as f64).to_bits() == value.to_bits()).then_some(part)
}

/// The denominator of the simplest fraction that is this number, by its continued fraction; none: it is no share.
fn denominator(value: f64) -> Option<u64> {
    let (mut before, mut current) = (0.0, 1.0);
    let mut rest = value;
    while share(value, current as u64).is_none() {
        let inverse = 1.0 / rest;
        (before, current) = (current, inverse.floor() * current + before);
        rest = inverse - inverse.floor();
        // Not so for what is no number, too.
        if !(1.0..=MOST_SHARED as f64).contains(&current) {
            return None;
        }
    }
    Some(current as u64)
}

fn common_multiple(a: u64, b: u64) -> Option<u64> {
    let (mut divisor, mut rest) = (a, b);
    while rest != 0 {
        (divisor, rest) = (rest, divisor % rest);
    }
    (a / divisor).checked_mul(b).filter(|multiple| *multiple <= MOST_SHARED)
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Small for small differences in both directions.
fn difference(from: u64, to: u64) -> u64 {
    let signed = to.wrapping_sub(from) as i64;
    ((signed << 1) ^ (signed >> 63)) as u64
}

fn advance(from: u64, difference: u64) -> u64 {
    from.wrapping_add((difference >> 1) ^ (difference & 1).wrapping_neg())
}

fn bits(value: u64) -> u32 {
    u64::BITS - value.leading_zeros()
}

/// Numbers in blocks, after the one that the differences begin at.
fn series(values: &[u64], out: &mut Vec<u8>) {
    let Some(first) = values.first() else { return };
    varint(*first, out);
    let mut previous = *first;
    let mut differences = Vec::with_capacity(BLOCK);
    for block in values.get(1..).unwrap_or_default().chunks(BLOCK) {
        differences.clear();
        for value in block {
            differences.push(difference(previous, *value));
            previous = *value;
        }
        let range = |values: &[u64]| {
            let smallest = values.iter().min().copied().unwrap_or(0);
            let largest = values.iter().max().copied().unwrap_or(0);
            (smallest, bits(largest - smallest))
        };
        let (plain, step) = (range(block), range(&differences));
        // Beside the numbers, the smallest takes its place.
        let size = |(smallest, width): (u64, u32)| block.len() * width as usize + bits(smallest) as usize;
        let (flag, (smallest, width), numbers) = if size(step) < size(plain) {
            (DIFFERENCES, step, differences.as_slice())
        } else {
            (0, plain, block)
        };
        out.push(width as u8 | flag);
        varint(smallest, out);
        let (mut pending, mut filled) = (0u128, 0);
        for number in numbers {
            pending |= u128::from(number - smallest) << filled;
            filled += width;
            if filled >= u64::BITS {
                out.extend_from_slice(&(pending as u64).to_le_bytes());
                pending >>= u64::BITS;
                filled -= u64::BITS;
            }
        }
        out.extend_from_slice(pending.to_le_bytes().get(..filled.div_ceil(8) as usize).unwrap_or_default());
    }
}

/// What is left to read; every method returns `None` where the bytes say nothing possible.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for place in 0..10 {
            let byte = self.byte()?;
            let part = u64::from(byte & 0x7f);
            value |= part.checked_shl(7 * place).filter(|shifted| shifted >> (7 * place) == part)?;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn count(&mut self, most: usize) -> Option<usize> {
        usize::try_from(self.varint()?).ok().filter(|count| *count <= most)
    }

    fn series(&mut self, length: usize) -> Option<Vec<u64>> {
        let mut values = Vec::new();
        if length == 0 {
            return Some(values);
        }
        let mut previous = self.varint()?;
        values.push(previous);
        while values.len() < length {
            let count = (length - values.len()).min(BLOCK);
            let head = self.byte()?;
            let width = u32::from(head & !DIFFERENCES);
            if width > u64::BITS {
                return None;
            }
            let smallest = self.varint()?;
            let packed = self.take((count * width as usize).div_ceil(8))?;
            let mut bytes = packed.iter();
            let (mut pending, mut filled) = (0u128, 0);
            let mask = (1u128 << width) - 1;
            for _ in 0..count {
                while filled < width {
                    pending |= u128::from(*bytes.next()?) << filled;
                    filled += 8;
                }
                let number = smallest.checked_add((pending & mask) as u64)?;
                pending >>= width;
                filled -= width;
                previous = if head & DIFFERENCES == 0 { number } else { advance(previous, number) };
                values.push(previous);
            }
        }
        Some(values)
    }
}

#[cfg(test)]
mod tests {
    use plateau_common::random::Stream;
    use proptest::prelude::*;

    use super::*;

    fn chunk(steps: Vec<u64>, columns: Vec<Vec<f64>>) -> v1::MetricsChunk {
        let column = |(place, values): (usize, Vec<f64>)| v1::MetricColumn {
            name: format!("metric {place}"),
            missing: (0..values.len() as u32).step_by(7).collect(),
            values,
        };
        v1::MetricsChunk { steps, columns: columns.into_iter().enumerate().map(column).collect() }
    }

    /// Equal bit for bit, also where values are not numbers.
    fn assert_whole(chunk: &v1::MetricsChunk) -> usize {
        let packed = pack(chunk);
        assert_eq!(unpack(&packed).unwrap().encode_to_vec(), chunk.encode_to_vec());
        packed.len()
    }

    #[test]
    fn the_values_of_all_classes_come_back_bit_for_bit() {
        let odd =
            [0.0, -0.0, 1.0, f64::NAN, -f64::NAN, f64::INFINITY, f64::MIN_POSITIVE / 8.0, -1e300, f64::MAX];
        let tagged = f64::from_bits(0x7ff8_0000_dead_beef);
        let mut values = odd.to_vec();
        values.push(tagged);
        for length in 0..=values.len() {
            assert_whole(&chunk((0..length as u64).collect(), vec![values[..length].to_vec()]));
        }
        assert_whole(&v1::MetricsChunk::default());
        assert_whole(&chunk(vec![3, u64::MAX], vec![vec![0.5, 0.5], vec![1.0 / 3.0, 2.0 / 3.0]]));
    }

    #[test]
    fn a_noisy_curve_takes_what_its_noise_takes_and_shares_a_byte_or_two() {
        let mut random = Stream::new(1, "chunk", 0);
        let length = 1024;
        let losses: Vec<f64> = (0..length).map(|_| 2.0 * (0.05 * random.normal()).exp()).collect();
        let norms: Vec<f64> =
            (0..length).map(|step| 40.0 + 0.01 * f64::from(step) + 1e-6 * random.normal()).collect();
        let accuracies: Vec<f64> =
            (0..length).map(|_| (2000.0 + 30.0 * random.normal()).round() / 4705.0).collect();
        let steps: Vec<u64> = (0..length).map(|step| 10 * u64::try_from(step).unwrap()).collect();
        let size =
            |column: &[f64]| assert_whole(&chunk(steps.clone(), vec![column.to_vec()])) as f64 / 1024.0;
        // The 147 missing indices take 0.3 bytes a value.
        assert!(size(&losses) < 7.1, "{}", size(&losses));
        assert!(size(&norms) < 5.0, "{}", size(&norms));
        assert!(size(&accuracies) < 1.6, "{}", size(&accuracies));
        assert!(size(&[0.25; 1024]) < 0.5);
    }

    #[test]
    fn shares_are_found_whatever_they_are_of() {
        for whole in [1, 2, 97, 4704, 9409, MOST_SHARED] {
            let parts: Vec<u64> = (0..=100).map(|part| part * whole / 100).collect();
            let values: Vec<f64> = parts.iter().map(|part| *part as f64 / whole as f64).collect();
            let (found, found_parts) = shares(&values).unwrap();
            assert_eq!(whole % found, 0);
            assert_eq!(found_parts, parts.iter().map(|part| part * found / whole).collect::<Vec<_>>());
        }
        assert_eq!(shares(&[0.123_456_789_012_345_6]), None);
        assert_eq!(shares(&[-0.0]), None);
        assert_eq!(shares(&[1.5]), None);
    }

    #[test]
    fn chunks_of_the_older_form_are_read() {
        let chunk = chunk((0..20).collect(), vec![vec![0.1; 20], vec![f64::NAN; 20]]);
        let old = zstd::bulk::compress(&chunk.encode_to_vec(), 3).unwrap();
        assert_eq!(unpack(&old).unwrap().encode_to_vec(), chunk.encode_to_vec());
    }

    #[test]
    fn every_truncation_is_an_error_and_no_flipped_byte_panics() {
        let mut random = Stream::new(2, "chunk", 0);
        let column = (0..200).map(|_| random.normal()).collect();
        let packed = pack(&chunk((0..200).collect(), vec![column, vec![0.5; 200]]));
        for cut in 0..packed.len() {
            assert!(unpack(&packed[..cut]).is_err(), "{cut}");
            for flip in [0x01, 0x80, 0xff] {
                let mut flipped = packed.clone();
                flipped[cut] ^= flip;
                let _ = unpack(&flipped);
            }
        }
        assert!(unpack(&[packed.as_slice(), &[0]].concat()).is_err());
    }

    proptest! {
        #[test]
        fn any_numbers_come_back(
            patterns in proptest::collection::vec(prop_oneof![any::<u64>(), 0..9u64, Just(u64::MAX)], 0..300),
            shift in 0..64u32,
        ) {
            let values = patterns.iter().map(|pattern| f64::from_bits(pattern >> shift)).collect();
            assert_whole(&chunk(patterns.clone(), vec![values]));
        }

        #[test]
        fn any_bytes_are_an_error_or_harmless(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = unpack(&[&[PACKED], bytes.as_slice()].concat());
        }
    }
}
