//! Sizes along which a task's problems can be made longer than in training: what generalisation to lengths is measured on.
//!
//! Owns how a cell of such a grid is named and counted. Which cells a study evaluates is `evaluate.grid`'s business.

/// What the two sizes of a task's problems are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GridAxes {
    /// The first size for axes of figures, e.g. "digits of the first operand".
    pub rows: &'static str,
    /// The second.
    pub columns: &'static str,
    /// The largest sizes trained on (all from 1 are).
    pub trained: (usize, usize),
    /// The largest sizes that problems can be made of.
    pub largest: (usize, usize),
    /// Whether the first symbol of an answer means something by itself (of a sorted list the minimum) and is scored too.
    pub scores_first: bool,
}

/// Problems of one pair of sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cell {
    /// The first size, from 1.
    pub row: usize,
    /// The second, from 1.
    pub column: usize,
}

impl Cell {
    /// Whether both sizes are from 1 to these.
    pub fn is_within(self, largest: (usize, usize)) -> bool {
        (1..=largest.0).contains(&self.row) && (1..=largest.1).contains(&self.column)
    }

    /// The random stream of this cell's problem `number`: that of no other problem of any cell, for sizes and numbers below
    /// 2²¹.
    pub(super) fn stream(self, number: u64) -> u64 {
        (self.row as u64) << 42 | (self.column as u64) << 21 | number
    }
}

impl std::fmt::Display for Cell {
    /// `ROWxCOLUMN`, as metrics name it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}x{}", self.row, self.column)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_problems_of_any_cells_share_a_stream() {
        let sizes = [1, 2, 3, 199, 200, (1 << 21) - 1];
        let mut streams = std::collections::BTreeSet::new();
        for row in sizes {
            for column in sizes {
                for number in [0, 1, 200, 1 << 20, (1 << 21) - 1] {
                    assert!(streams.insert(Cell { row, column }.stream(number)), "{row}x{column}, {number}");
                }
            }
        }
    }

    #[test]
    fn sizes_count_from_one() {
        let within = |row, column| Cell { row, column }.is_within((3, 4));
        assert!(within(1, 1) && within(3, 4));
        assert!(!within(0, 1) && !within(1, 0) && !within(4, 4) && !within(3, 5));
    }
}
