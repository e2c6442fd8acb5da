//! Binary operation tables: modular arithmetic and the permutations of five things (Power et al. 2022; Nanda et al.
//! 2023). Part of the table is trained on, the rest is the test set; the split is drawn from the trial's seed.

use serde::Serialize;

use super::epochs::Epochs;
use super::{
    Batch, Draw, Examples, Form, Input, Memory, Output, ReadOut, Seeds, Split, Targets, Task, TaskShape,
};
use crate::fields::{ConfigResult, Fields};
use crate::limits;
use crate::random::Stream;

/// The twelve operations of Power et al. 2022 (appendix A.1.1), and multiplication.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Operation {
    /// x + y mod p.
    #[serde(rename = "x+y")]
    Add,
    /// x - y mod p.
    #[serde(rename = "x-y")]
    Subtract,
    /// x / y mod p, y not 0.
    #[serde(rename = "x/y")]
    Divide,
    /// x / y if y is odd, else x - y, mod p.
    #[serde(rename = "x/y-if-y-odd-else-x-y")]
    ParityMixed,
    /// x^2 + y^2 mod p.
    #[serde(rename = "x^2+y^2")]
    SquareSum,
    /// x^2 + xy + y^2 mod p.
    #[serde(rename = "x^2+xy+y^2")]
    Quadratic,
    /// x^2 + xy + y^2 + x mod p.
    #[serde(rename = "x^2+xy+y^2+x")]
    QuadraticPlusX,
    /// x^3 + xy mod p.
    #[serde(rename = "x^3+xy")]
    CubicXy,
    /// x^3 + xy^2 + y mod p.
    #[serde(rename = "x^3+xy^2+y")]
    CubicXyy,
    /// x y mod p (not among Power's twelve).
    #[serde(rename = "x*y")]
    Multiply,
    /// x then y in S5.
    #[serde(rename = "s5:xy")]
    S5Product,
    /// x y x^-1 in S5.
    #[serde(rename = "s5:xyx^-1")]
    S5Conjugate,
    /// x y x in S5.
    #[serde(rename = "s5:xyx")]
    S5Sandwich,
}

impl Operation {
    /// Every operation by the name study files use.
    pub const ALL: [(&'static str, Operation); 13] = [
        ("x+y", Operation::Add),
        ("x-y", Operation::Subtract),
        ("x/y", Operation::Divide),
        ("x/y-if-y-odd-else-x-y", Operation::ParityMixed),
        ("x^2+y^2", Operation::SquareSum),
        ("x^2+xy+y^2", Operation::Quadratic),
        ("x^2+xy+y^2+x", Operation::QuadraticPlusX),
        ("x^3+xy", Operation::CubicXy),
        ("x^3+xy^2+y", Operation::CubicXyy),
        ("x*y", Operation::Multiply),
        ("s5:xy", Operation::S5Product),
        ("s5:xyx^-1", Operation::S5Conjugate),
        ("s5:xyx", Operation::S5Sandwich),
    ];

    fn is_s5(self) -> bool {
        matches!(self, Operation::S5Product | Operation::S5Conjugate | Operation::S5Sandwich)
    }

    fn divides(self) -> bool {
        matches!(self, Operation::Divide | Operation::ParityMixed)
    }
}

/// How a row of the table is written as tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    /// `a b =` (Nanda et al. 2023, 3); vocabulary n + 1.
    Nanda,
    /// `<eos> a op b =` (Power et al. 2022); vocabulary n + 3. The answer is scored; the constant closing `<eos>`,
    /// which the original code scores as well, is not.
    Power,
}

/// `[task] kind = "modular"`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Modular {
    /// Which table. Default `"x+y"`.
    pub operation: Operation,
    /// Residues are 0..modulus. Required, and absent for S5 (whose 120 elements are fixed).
    pub modulus: u32,
    /// Share of the table that is trained on, in (0, 1). Required.
    pub train_share: f64,
    /// How a row is written. Default `"nanda"`.
    pub layout: Layout,
}

const S5_ELEMENTS: u32 = 120;

impl Modular {
    /// Elements of the group or field.
    fn elements(&self) -> u32 {
        if self.operation.is_s5() { S5_ELEMENTS } else { self.modulus }
    }

    /// Rows of the table: p^2, or p (p - 1) for division.
    pub fn rows(&self) -> usize {
        let elements = self.elements() as usize;
        if self.operation == Operation::Divide { elements * (elements - 1) } else { elements * elements }
    }

    /// The whole table, rows (x, y, answer), x-major.
    pub fn table(&self) -> Vec<[u32; 3]> {
        let elements = self.elements();
        let first_y = u32::from(self.operation == Operation::Divide);
        let group = if self.operation.is_s5() { Some(S5::new()) } else { None };
        let mut rows = Vec::with_capacity(self.rows());
        for x in 0..elements {
            for y in first_y..elements {
                let answer = match &group {
                    Some(group) => group.answer(self.operation, x, y),
                    None => modular_answer(self.operation, u64::from(x), u64::from(y), u64::from(elements)),
                };
                rows.push([x, y, answer]);
            }
        }
        rows
    }
}

fn modular_answer(operation: Operation, x: u64, y: u64, p: u64) -> u32 {
    let inverse = |y: u64| power(y, p - 2, p); // Fermat: p is prime wherever we divide
    let answer = match operation {
        Operation::Add => x + y,
        Operation::Subtract => x + p - y,
        Operation::Divide => x * inverse(y),
        Operation::ParityMixed if y % 2 == 1 => x * inverse(y),
        Operation::ParityMixed => x + p - y,
        Operation::SquareSum => x * x + y * y,
        Operation::Quadratic => x * x + x * y + y * y,
        Operation::QuadraticPlusX => x * x + x * y + y * y + x,
        Operation::CubicXy => x * x * x + x * y,
        Operation::CubicXyy => x * x * x + x * y * y + y,
        Operation::Multiply => x * y,
        // Permutations never come here; the arm keeps the match total.
        Operation::S5Product | Operation::S5Conjugate | Operation::S5Sandwich => 0,
    };
    (answer % p) as u32
}

fn power(mut base: u64, mut exponent: u64, p: u64) -> u64 {
    let mut result = 1;
    base %= p;
    while exponent > 0 {
        if exponent % 2 == 1 {
            result = result * base % p;
        }
        base = base * base % p;
        exponent /= 2;
    }
    result
}

fn is_prime(number: u32) -> bool {
    number >= 2
        && (2..)
            .take_while(|divisor| divisor * divisor <= number)
            .all(|divisor| !number.is_multiple_of(divisor))
}

/// The permutations of {0..4} in lexicographic order.
struct S5 {
    permutations: Vec<[u8; 5]>,
}

impl S5 {
    fn new() -> Self {
        let mut permutations = Vec::with_capacity(S5_ELEMENTS as usize);
        for code in 0..5u32.pow(5) {
            let digits = [625, 125, 25, 5, 1].map(|place| (code / place % 5) as u8);
            let mut seen = [false; 5];
            digits.iter().for_each(|digit| seen[*digit as usize] = true);
            if seen == [true; 5] {
                permutations.push(digits);
            }
        }
        S5 { permutations }
    }

    /// The product of the original code: `result[i] = b[a[i]]`.
    fn product(a: [u8; 5], b: [u8; 5]) -> [u8; 5] {
        a.map(|image| b[image as usize])
    }

    fn inverse(a: [u8; 5]) -> [u8; 5] {
        let mut result = [0; 5];
        for (from, to) in a.into_iter().enumerate() {
            result[to as usize] = from as u8;
        }
        result
    }

    fn answer(&self, operation: Operation, x: u32, y: u32) -> u32 {
        let (x, y) = (self.permutations[x as usize], self.permutations[y as usize]);
        let xy = Self::product(x, y);
        let answer = match operation {
            Operation::S5Conjugate => Self::product(xy, Self::inverse(x)),
            Operation::S5Sandwich => Self::product(xy, x),
            _ => xy,
        };
        // The list is sorted and closed under products.
        self.permutations.binary_search(&answer).unwrap_or(0) as u32
    }
}

impl Task for Modular {
    fn read(mut fields: Fields<'_>) -> ConfigResult<Self> {
        let operation = fields.choice("operation", &Operation::ALL)?.unwrap_or(Operation::Add);
        let modulus = fields.integer("modulus", 2..=limits::MAX_MODULUS)?;
        let modulus = match (operation.is_s5(), modulus) {
            (true, None | Some(S5_ELEMENTS)) => S5_ELEMENTS,
            (true, Some(_)) => {
                return Err(fields
                    .error("modulus", "the permutations of five things have no modulus")
                    .suggest("remove `modulus`"));
            }
            (false, modulus) => fields.require("modulus", modulus)?,
        };
        if operation.divides() && !is_prime(modulus) {
            return Err(fields
                .error("modulus", format!("{modulus} is not prime, so division is not defined"))
                .suggest("use a prime such as 31, 59, 97 or 113"));
        }
        let train_share = fields.number("train-share", 0.0..=1.0)?;
        let train_share = fields.require("train-share", train_share)?;
        let layouts = [("nanda", Layout::Nanda), ("power", Layout::Power)];
        let layout = fields.choice("layout", &layouts)?.unwrap_or(Layout::Nanda);
        let task = Modular { operation, modulus, train_share, layout };
        let (rows, train) = (task.rows(), task.training_rows());
        if train == 0 || train == rows {
            return Err(fields
                .error(
                    "train-share",
                    format!(
                        "{train_share} of {rows} rows leaves no row for {}",
                        if train == 0 { "training" } else { "testing" }
                    ),
                )
                .suggest("choose a share strictly between 0 and 1"));
        }
        fields.finish()?;
        Ok(task)
    }

    fn shape(&self) -> TaskShape {
        let elements = self.elements() as usize;
        let (vocabulary, length) = match self.layout {
            Layout::Nanda => (elements + 1, 3),
            Layout::Power => (elements + 3, 5),
        };
        TaskShape { vocabulary, length, output: Output::Classes(vocabulary), read_out: ReadOut::Last }
    }

    fn training_set_size(&self) -> Option<usize> {
        Some(self.training_rows())
    }

    fn examples(&self, seeds: Seeds) -> Box<dyn Examples> {
        let table = self.table();
        let order = Stream::new(seeds.data, "split", 0).permutation(table.len() as u32);
        let rows: Vec<[u32; 3]> = order.iter().map(|index| table[*index as usize]).collect();
        let (train, test) = rows.split_at(self.training_rows());
        Box::new(Table {
            task: self.clone(),
            train: train.to_vec(),
            test: test.to_vec(),
            order: Epochs::new(seeds.order, "data-order", train.len()),
        })
    }
}

impl Modular {
    /// Rows trained on: the whole part of share times rows (3,830 of 12,769 at 0.3, as in Nanda et al.).
    fn training_rows(&self) -> usize {
        // The nudge keeps shares such as 0.29 * 100 from falling below a whole number by rounding.
        (self.train_share * self.rows() as f64 + 1e-9).floor() as usize
    }
}

struct Table {
    task: Modular,
    train: Vec<[u32; 3]>,
    test: Vec<[u32; 3]>,
    /// In which the training rows come; a batch may span several epochs.
    order: Epochs,
}

impl Table {
    /// Overwrites `batch` with `rows`.
    fn write(&self, rows: impl ExactSizeIterator<Item = [u32; 3]>, batch: &mut Batch) {
        let (elements, length) = (self.task.elements(), self.task.shape().length);
        let Memory { ids: mut tokens, classes: mut answers, .. } = batch.take_memory();
        tokens.reserve(rows.len() * length);
        answers.reserve(rows.len());
        for [x, y, answer] in rows {
            match self.task.layout {
                Layout::Nanda => tokens.extend_from_slice(&[x, y, elements]),
                Layout::Power => tokens.extend_from_slice(&[elements + 2, x, elements, y, elements + 1]),
            }
            answers.push(answer);
        }
        *batch = Batch {
            input: Input::Tokens { tokens, length },
            targets: Targets::Classes(answers),
            weights: None,
            also_correct: Vec::new(),
        };
    }
}

impl Examples for Table {
    fn draw(&self, draw: Draw, _form: Form, batch: &mut Batch) {
        let Some(size) = draw.size else { return self.write(self.train.iter().copied(), batch) };
        let rows = (0..size).map(|row| self.train[self.order.item(draw.first.saturating_add(row as u64))]);
        self.write(rows, batch);
    }

    fn evaluation(&self, split: Split, _form: Form) -> Option<Batch> {
        let rows = match split {
            Split::Train => &self.train,
            Split::Test => &self.test,
        };
        Some(Batch::filled(|batch| self.write(rows.iter().copied(), batch)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(operation: Operation, modulus: u32, train_share: f64) -> Modular {
        Modular { operation, modulus, train_share, layout: Layout::Nanda }
    }

    #[test]
    fn table_sizes_of_power_and_nanda() {
        assert_eq!(task(Operation::Add, 97, 0.5).table().len(), 9_409);
        assert_eq!(task(Operation::Divide, 97, 0.5).table().len(), 9_312);
        assert_eq!(task(Operation::S5Product, 120, 0.5).table().len(), 14_400);
        assert_eq!(task(Operation::Add, 113, 0.3).training_set_size(), Some(3_830));
    }

    #[test]
    fn division_inverts_multiplication() {
        for [x, y, answer] in task(Operation::Divide, 31, 0.5).table() {
            assert_eq!(answer * y % 31, x);
        }
        for [x, y, answer] in task(Operation::ParityMixed, 31, 0.5).table() {
            if y % 2 == 1 { assert_eq!(answer * y % 31, x) } else { assert_eq!((answer + y) % 31, x) }
        }
    }

    #[test]
    fn polynomials_at_a_point() {
        let at = |operation| modular_answer(operation, 5, 7, 97);
        assert_eq!(at(Operation::SquareSum), 74);
        assert_eq!(at(Operation::Quadratic), 109 % 97);
        assert_eq!(at(Operation::QuadraticPlusX), 114 % 97);
        assert_eq!(at(Operation::CubicXy), 160 % 97);
        assert_eq!(at(Operation::CubicXyy), (125 + 245 + 7) % 97);
        assert_eq!(at(Operation::Subtract), 95);
    }

    #[test]
    fn s5_is_a_group_and_conjugation_keeps_the_identity() {
        let group = S5::new();
        assert_eq!(group.permutations.len(), 120);
        assert_eq!(group.permutations[0], [0, 1, 2, 3, 4]);
        for x in 0..120 {
            assert_eq!(group.answer(Operation::S5Product, x, 0), x);
            assert_eq!(group.answer(Operation::S5Product, 0, x), x);
            assert_eq!(group.answer(Operation::S5Conjugate, x, 0), 0);
        }
        // [1,2,0,3,4] then [1,0,2,3,4]: 0 -> 1 -> 0, 1 -> 2 -> 2, 2 -> 0 -> 1.
        assert_eq!(S5::product([1, 2, 0, 3, 4], [1, 0, 2, 3, 4]), [0, 2, 1, 3, 4]);
    }

    #[test]
    fn an_epoch_of_mini_batches_visits_every_row_once() {
        let task = task(Operation::Add, 11, 0.5);
        let examples = task.examples(Seeds::from(3));
        let mut seen: Vec<Vec<u32>> = Vec::new();
        for update in 1..=6 {
            let Input::Tokens { tokens, .. } = examples.train(update, Some(10), Form::Tokens).input else {
                panic!("modular tables are token sequences");
            };
            seen.extend(tokens.chunks(3).map(<[u32]>::to_vec));
        }
        seen.sort();
        let Some(Batch { input: Input::Tokens { tokens, .. }, .. }) =
            examples.evaluation(Split::Train, Form::Tokens)
        else {
            panic!("a finite task has a training set");
        };
        let mut rows: Vec<Vec<u32>> = tokens.chunks(3).map(<[u32]>::to_vec).collect();
        rows.sort();
        assert_eq!(seen, rows);
    }
}
