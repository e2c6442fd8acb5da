//! Numbers of any length as digits, units first.
//!
//! Owns drawing and calculating; how a number is written down is the business of [`super::problem`]. No number has zeros
//! behind its top digit, but 0, which is one digit.

use std::cmp::Ordering;

use crate::random::Stream;

/// Draws a uniform number of exactly `digits.len()` digits; the top digit is not 0.
pub fn draw(stream: &mut Stream, digits: &mut [u32]) {
    stream.fill_below(10, digits);
    if let Some(top) = digits.last_mut() {
        *top = 1 + stream.below(9);
    }
}

/// Overwrites `sum` with a + b.
pub fn add(a: &[u32], b: &[u32], sum: &mut Vec<u32>) {
    sum.clear();
    let mut carry = 0;
    for place in 0..a.len().max(b.len()) {
        let total = digit(a, place) + digit(b, place) + carry;
        sum.push(total % 10);
        carry = total / 10;
    }
    if carry > 0 {
        sum.push(carry);
    }
}

/// Overwrites `difference` with |a - b|; says whether a - b is negative.
pub fn subtract(a: &[u32], b: &[u32], difference: &mut Vec<u32>) -> bool {
    let negative = compare(a, b).is_lt();
    let (larger, smaller) = if negative { (b, a) } else { (a, b) };
    difference.clear();
    let mut borrowed = 0;
    for (place, top) in larger.iter().enumerate() {
        let total = 10 + top - digit(smaller, place) - borrowed;
        difference.push(total % 10);
        borrowed = u32::from(total < 10);
    }
    trim(difference);
    negative
}

/// Overwrites `product` with a b.
pub fn multiply(a: &[u32], b: &[u32], product: &mut Vec<u32>) {
    product.clear();
    product.resize(a.len() + b.len(), 0);
    for (start, x) in a.iter().enumerate() {
        let mut carry = 0;
        for (sum, y) in product[start..].iter_mut().zip(b) {
            let total = *sum + x * y + carry;
            *sum = total % 10;
            carry = total / 10;
        }
        product[start + b.len()] = carry;
    }
    trim(product);
}

/// Which of two numbers is larger.
pub fn compare(a: &[u32], b: &[u32]) -> Ordering {
    a.len().cmp(&b.len()).then_with(|| a.iter().rev().cmp(b.iter().rev()))
}

fn digit(number: &[u32], place: usize) -> u32 {
    number.get(place).copied().unwrap_or(0)
}

fn trim(number: &mut Vec<u32>) {
    while number.len() > 1 && number.last() == Some(&0) {
        number.pop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digits(mut value: u128) -> Vec<u32> {
        let mut digits = vec![(value % 10) as u32];
        while value >= 10 {
            value /= 10;
            digits.push((value % 10) as u32);
        }
        digits
    }

    /// Every pair out of numbers at the edges of lengths and random ones, against machine arithmetic.
    #[test]
    fn calculations_are_those_of_the_machine() {
        let mut stream = Stream::new(1, "numbers", 0);
        let mut numbers: Vec<u128> = vec![0, 1, 2, 5, 9, 10, 11, 99, 100, 101, 999_999, 1_000_000];
        numbers.extend((0..64).map(|bits| u128::from(stream.bits() >> bits)));
        let mut result = vec![7; 3];
        for a in &numbers {
            for b in &numbers {
                let (x, y) = (digits(*a), digits(*b));
                add(&x, &y, &mut result);
                assert_eq!(result, digits(a + b), "{a} + {b}");
                let negative = subtract(&x, &y, &mut result);
                assert_eq!((negative, &result), (a < b, &digits(a.abs_diff(*b))), "{a} - {b}");
                multiply(&x, &y, &mut result);
                assert_eq!(result, digits(a * b), "{a} * {b}");
                assert_eq!(compare(&x, &y), a.cmp(b), "{a} ? {b}");
            }
        }
    }
}
