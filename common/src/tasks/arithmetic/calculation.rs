//! Calculations with two numbers, `a+b=c`, all written units first (McLeish et al. 2024, section 3).
//!
//! Owns the settings that addition, subtraction and multiplication share, and the writing of their problems.

use serde::Serialize;

use super::alphabet::{Alphabet, MINUS, PLUS, SYMBOLS, TIMES};
use super::fresh::{Fresh, Problems, Settings};
use super::number;
use super::problem::{IndexHints, Pads, Problem};
use super::rows::{LossMean, LossOn, Scoring};
use crate::fields::{ConfigResult, Fields};
use crate::limits;
use crate::random::Stream;
use crate::tasks::test_set::read_test_examples;
use crate::tasks::{Cell, Examples, GridAxes, Output, ReadOut, Seeds, TaskShape};

/// What is calculated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Operation {
    /// a + b.
    Add,
    /// a + b with this probability, else a - b.
    AddOrSubtract(f64),
    /// a b.
    Multiply,
}

impl Operation {
    /// Characters of the longest answer to operands of `digits` digits; a sign takes the place of a carry.
    fn longest_answer(self, digits: usize) -> usize {
        match self {
            Operation::Add | Operation::AddOrSubtract(_) => digits + 1,
            Operation::Multiply => 2 * digits,
        }
    }
}

/// Settings shared by addition, subtraction and multiplication.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Calculation {
    /// Operands trained on have 1 to this many digits, every pair of lengths equally often. Required.
    pub digits: usize,
    /// Size of the fixed test set, whose lengths are those of training. Default 1000.
    pub test_examples: usize,
    /// Default `"tokens"`; `"samples"` for multiplication.
    pub loss_mean: LossMean,
    /// Default `"answer"`. Tests are on answers in any case.
    pub loss_on: LossOn,
    /// Default `"none"`.
    pub index_hints: IndexHints,
    /// In training, the probability of a pad before a character, of a further one a tenth of the one before. Default 0.
    pub pad_probability: f64,
}

/// Size of the test set where the study says none.
pub const DEFAULT_TEST_EXAMPLES: usize = 1000;
/// The highest `pad-probability`; at 1 every character would have one.
const MAX_PAD_PROBABILITY: f64 = 0.9;

impl Calculation {
    /// Reads them, but `test-examples` last, which depends on the others.
    pub fn read(fields: &mut Fields<'_>, operation: Operation, mean: LossMean) -> ConfigResult<Self> {
        let digits = fields.integer("digits", 1..=limits::MAX_DIGITS)?;
        let digits = fields.require("digits", digits)?;
        let Scoring { mean: loss_mean, on: loss_on, .. } = Scoring::read(fields, mean)?;
        let index_hints = fields.choice("index-hints", &IndexHints::ALL)?.unwrap_or(IndexHints::None);
        let pad_probability = fields.number("pad-probability", 0.0..=MAX_PAD_PROBABILITY)?.unwrap_or(0.0);
        let mut calculation =
            Calculation { digits, test_examples: 0, loss_mean, loss_on, index_hints, pad_probability };
        let largest = calculation.largest(operation);
        if digits > largest {
            let symbols = SYMBOLS.len();
            return Err(fields
                .error("digits", format!("the {symbols} symbols of plain index hints do not reach that far"))
                .suggest(format!("at most {largest} digits, or index-hints = \"cyclic\"")));
        }
        let length = calculation.row(operation) - 1;
        calculation.test_examples = read_test_examples(fields, DEFAULT_TEST_EXAMPLES, length)?;
        Ok(calculation)
    }

    /// The alphabet.
    pub fn alphabet(&self) -> Alphabet {
        match self.index_hints {
            IndexHints::None => Alphabet::Calculation,
            IndexHints::Plain | IndexHints::Cyclic => Alphabet::Hinted,
        }
    }

    /// Digits of the largest operands that can be written.
    fn largest(&self, operation: Operation) -> usize {
        let fits = |digits: &usize| {
            self.index_hints != IndexHints::Plain || operation.longest_answer(*digits) <= SYMBOLS.len()
        };
        (1..=limits::MAX_DIGITS).rev().find(fits).unwrap_or(1)
    }

    /// Characters of the longest problem trained on, without pads and end.
    fn characters(&self, operation: Operation) -> usize {
        let numerals = 2 * self.digits + operation.longest_answer(self.digits);
        let per_digit = if self.index_hints == IndexHints::None { 1 } else { 2 };
        per_digit * numerals + 2
    }

    /// Pads put into problems trained on. Rows have room for twice as many as the longest problem has on average, and four.
    fn pads(&self, operation: Operation) -> Option<Pads> {
        let average = self.pad_probability * self.characters(operation) as f64;
        let most = (2.0 * average).ceil() as usize + 4;
        (self.pad_probability > 0.0).then_some(Pads { probability: self.pad_probability, most })
    }

    /// Tokens of a row with its end.
    fn row(&self, operation: Operation) -> usize {
        self.characters(operation) + self.pads(operation).map_or(0, |pads| pads.most) + 1
    }

    /// Sizes a model needs.
    pub fn shape(&self, operation: Operation) -> TaskShape {
        let vocabulary = self.alphabet().vocabulary();
        TaskShape {
            vocabulary,
            length: self.row(operation) - 1,
            output: Output::Classes(vocabulary),
            read_out: ReadOut::Every,
        }
    }

    /// Lengths of the operands.
    pub fn grid(&self, operation: Operation) -> GridAxes {
        let largest = self.largest(operation);
        GridAxes {
            rows: "digits of the first operand",
            columns: "digits of the second operand",
            trained: (self.digits, self.digits),
            largest: (largest, largest),
            scores_first: false,
        }
    }

    /// The examples of the trial with these seeds.
    pub fn examples(&self, operation: Operation, seeds: Seeds) -> Box<dyn Examples> {
        let GridAxes { trained, largest, .. } = self.grid(operation);
        let settings = Settings {
            trained,
            largest,
            row: self.row(operation),
            pads: self.pads(operation),
            training: Scoring { mean: self.loss_mean, on: self.loss_on, end: true },
            cells: Scoring::ANSWER,
            test_examples: self.test_examples,
        };
        Box::new(Fresh::new(seeds, settings, Calculations::new(operation, self.index_hints, settings.row)))
    }
}

/// Draws and writes calculations.
struct Calculations {
    operation: Operation,
    hints: IndexHints,
    first: Vec<u32>,
    second: Vec<u32>,
    answer: Vec<u32>,
}

impl Calculations {
    /// With memory for numbers of `capacity` digits.
    fn new(operation: Operation, hints: IndexHints, capacity: usize) -> Self {
        let [first, second, answer] = std::array::from_fn(|_| Vec::with_capacity(capacity));
        Calculations { operation, hints, first, second, answer }
    }

    /// Writes the problem of `first` and `second`, a difference if `subtracts`; the symbols of places are drawn.
    fn write_out(&mut self, subtracts: bool, stream: &mut Stream, problem: &mut Problem) {
        let Calculations { operation, hints, first, second, answer } = self;
        let (operator, negative) = match operation {
            Operation::AddOrSubtract(_) if subtracts => (MINUS, number::subtract(first, second, answer)),
            Operation::Add | Operation::AddOrSubtract(_) => {
                number::add(first, second, answer);
                (PLUS, false)
            }
            Operation::Multiply => {
                number::multiply(first, second, answer);
                (TIMES, false)
            }
        };
        let hints = hints.draw(stream, answer.len().max(first.len()).max(second.len()));
        problem.push_number(first, hints);
        problem.push(operator);
        problem.push_number(second, hints);
        problem.push_equals();
        problem.push_number(answer, hints);
        if negative {
            problem.push(MINUS);
        }
        problem.push_end();
    }
}

impl Problems for Calculations {
    fn write(&mut self, stream: &mut Stream, sizes: Cell, problem: &mut Problem) {
        // The coin is tossed at any share, so that the operands are the same at every one.
        let subtracts = matches!(self.operation, Operation::AddOrSubtract(share) if stream.unit() >= share);
        self.first.resize(sizes.row, 0);
        self.second.resize(sizes.column, 0);
        number::draw(stream, &mut self.first);
        number::draw(stream, &mut self.second);
        self.write_out(subtracts, stream, problem);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The problem of two numbers as text.
    fn written(operation: Operation, subtracts: bool, hints: IndexHints, (a, b): (&str, &str)) -> String {
        let digits = |text: &str| text.chars().rev().filter_map(|digit| digit.to_digit(10)).collect();
        let mut calculations = Calculations::new(operation, hints, 0);
        (calculations.first, calculations.second) = (digits(a), digits(b));
        let (mut stream, mut problem) = (Stream::new(4, "test", 0), Problem::with_capacity(0));
        calculations.write_out(subtracts, &mut stream, &mut problem);
        assert_eq!(problem.tokens()[problem.equals()], super::super::alphabet::EQUALS);
        let alphabet = if hints == IndexHints::None { Alphabet::Calculation } else { Alphabet::Hinted };
        alphabet.text(problem.tokens())
    }

    #[test]
    fn problems_are_written_as_in_the_paper() {
        let sum = |numbers| written(Operation::Add, false, IndexHints::None, numbers);
        assert_eq!(sum(("28289", "2719583")), "98282+3859172=2787472∎");
        assert_eq!(sum(("5", "5")), "5+5=01∎");
        assert_eq!(sum(("1", "999")), "1+999=0001∎");
        let product = |numbers| written(Operation::Multiply, false, IndexHints::None, numbers);
        assert_eq!(product(("12", "345")), "21x543=0414∎");
        assert_eq!(product(("1", "10")), "1x01=01∎");
        let difference = |numbers| written(Operation::AddOrSubtract(0.5), true, IndexHints::None, numbers);
        assert_eq!(difference(("123", "23")), "321-32=001∎");
        assert_eq!(difference(("23", "123")), "32-321=001-∎");
        assert_eq!(difference(("1000", "1")), "0001-1=999∎");
        assert_eq!(difference(("77", "77")), "77-77=0∎");
        assert_eq!(written(Operation::AddOrSubtract(0.5), false, IndexHints::None, ("9", "4")), "9+4=31∎");
    }

    /// The same symbols name the same places in operands and answer; a sign has none.
    #[test]
    fn hints_name_places() {
        let start = Stream::new(4, "test", 0).below(102 - 4 + 1) as usize;
        let symbols: Vec<String> = (start..start + 4).map(|index| SYMBOLS[index].to_string()).collect();
        let [a, b, c, d] = symbols.as_slice() else { panic!("four symbols") };
        assert_eq!(
            written(Operation::Add, false, IndexHints::Plain, ("999", "12")),
            format!("{a}9{b}9{c}9+{a}2{b}1={a}1{b}1{c}0{d}1∎")
        );
        let start = Stream::new(4, "test", 0).below(102) as usize;
        let symbol = |place: usize| SYMBOLS[(start + place) % 102];
        assert_eq!(
            written(Operation::AddOrSubtract(0.0), true, IndexHints::Cyclic, ("1", "13")),
            format!("{0}1-{0}3{1}1={0}2{1}1-∎", symbol(0), symbol(1))
        );
    }
}
