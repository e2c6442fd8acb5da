//! The arithmetic tasks of McLeish et al. 2024: laws of what is drawn, and what must not change it.

mod arithmetic;
mod task_list;

use std::collections::BTreeSet;

use arithmetic::{Calculation, Row, SYMBOLS, arithmetic, bare, digits, rows, sorted, tested, texts, trained};
use plateau_common::tasks::{Batch, Cell, Draw, Examples, Form, TaskConfig};
use serde_json::{Value, json};
use task_list::read;

/// Both sizes of every row of a task's problems.
fn sizes(task: &TaskConfig, rows: &[Row]) -> Vec<(usize, usize)> {
    let size = |row: &Row| {
        let calculation = Calculation::parse(&row.text(task));
        (calculation.first.len(), calculation.second.len())
    };
    rows.iter().map(size).collect()
}

/// Every S² examples hold every pair of lengths once, in training and in the test set.
#[test]
fn lengths_are_stratified() {
    let task = read(&json!({"kind": "addition", "digits": 4, "test-examples": 64}));
    let all: BTreeSet<(usize, usize)> = (1..=4).flat_map(|i| (1..=4).map(move |j| (i, j))).collect();
    let examples = task.examples(9);
    let mut orders = BTreeSet::new();
    // Batches of 5: the blocks of 16 do not begin where batches do.
    let drawn: Vec<Row> =
        (1..=32).flat_map(|update| rows(&examples.train(update, Some(5), Form::Tokens))).collect();
    for part in [sizes(&task, &drawn), sizes(&task, &tested(&task, 9))] {
        for block in part.chunks(16) {
            assert_eq!(block.iter().copied().collect::<BTreeSet<_>>(), all);
            orders.insert(block.to_vec());
        }
    }
    assert_eq!(orders.len(), 14, "every block has an order of its own");
    // Sorting: lengths of lists, of 3 * 2 sizes each thrice.
    let task = read(&json!({"kind": "sorting", "digits": 3, "items": 2}));
    let lists = texts(&task, &trained(&task, 9, 600));
    for block in lists.chunks(6) {
        assert_eq!(block.iter().filter(|text| sorted(text).0.len() == 1).count(), 3);
    }
}

#[test]
fn examples_do_not_depend_on_the_batches_they_come_in() {
    for json in arithmetic() {
        let task = read(&json);
        let draw = |examples: &dyn Examples, update, first, size| {
            let mut batch = Batch::empty();
            examples.draw(Draw { update, first, size: Some(size) }, Form::Tokens, &mut batch);
            rows(&batch)
        };
        let examples = task.examples(3);
        let whole = draw(&*examples, 1, 70, 64);
        let parts = [draw(&*examples, 8, 70, 32), draw(&*examples, 3, 102, 32)].concat();
        assert_eq!(whole, parts, "{json}");
        let ragged = [draw(&*task.examples(3), 2, 70, 1), draw(&*task.examples(3), 2, 71, 63)].concat();
        assert_eq!(whole, ragged, "{json}");
        // Far ahead nothing is replayed, and the last numbers of all are no trap.
        assert_eq!(draw(&*examples, 1, 1 << 60, 40), draw(&*task.examples(3), 9, 1 << 60, 40), "{json}");
        assert_eq!(draw(&*examples, u64::MAX, u64::MAX - 3, 9).len(), 9);
    }
}

/// Chi-squared of counts that should be equal.
fn uneven(counts: &[usize]) -> f64 {
    let expected = counts.iter().sum::<usize>() as f64 / counts.len() as f64;
    counts.iter().map(|count| (*count as f64 - expected).powi(2) / expected).sum()
}

/// A limit that chi-squared of so many classes exceeds less than once in a million tests (Wilson and Hilferty 1931).
fn limit(classes: usize) -> f64 {
    let freedom = (classes - 1) as f64;
    let spread = 2.0 / (9.0 * freedom);
    freedom * (1.0 - spread + 4.9 * spread.sqrt()).powi(3)
}

#[test]
fn operands_are_uniform_among_those_of_their_length() {
    let task = read(&json!({"kind": "multiplication", "digits": 3, "test-examples": 27_000}));
    for rows in [trained(&task, 1, 27_000), tested(&task, 1)] {
        let mut singles = [0; 9];
        let mut pairs = vec![0; 90];
        let mut triples = vec![0; 900];
        for row in &rows {
            let calculation = Calculation::parse(&row.text(&task));
            for operand in [calculation.first, calculation.second] {
                let value = digits(&operand).iter().rev().fold(0, |sum, digit| sum * 10 + *digit as usize);
                match operand.len() {
                    1 => singles[value - 1] += 1,
                    2 => pairs[value - 10] += 1,
                    _ => triples[value - 100] += 1,
                }
            }
        }
        for counts in [&singles[..], &pairs, &triples] {
            assert_eq!(counts.iter().sum::<usize>(), 18_000);
            assert!(uneven(counts) < limit(counts.len()), "{} of {}", uneven(counts), counts.len());
        }
    }
}

#[test]
fn sizes_and_names_of_sorted_numbers_are_uniform() {
    let task = read(&json!({"kind": "sorting", "digits": 1, "items": 1, "test-examples": 1}));
    let found = rows(&task.examples(3).cell(Cell { row: 5, column: 4 }, 10_000));
    let (mut lengths, mut starts) = ([0; 5], vec![0; 102]);
    for row in &found {
        let (names, numbers, _) = sorted(&row.text(&task));
        numbers.iter().for_each(|number| lengths[number.len() - 1] += 1);
        starts[SYMBOLS.chars().position(|symbol| symbol == names[0]).expect("a symbol")] += 1;
    }
    assert!(uneven(&lengths) < limit(5), "{lengths:?}");
    assert!(uneven(&starts) < limit(102), "{starts:?}");
    // In training: the most digits are those of the stratum, so that of numbers of up to 2 digits a quarter has two.
    let task = read(&json!({"kind": "sorting", "digits": 2, "items": 1}));
    let two =
        texts(&task, &trained(&task, 3, 20_000)).iter().filter(|text| sorted(text).1[0].len() == 2).count();
    assert!(two.abs_diff(5000) < 310, "{two}");
}

#[test]
fn additions_among_subtractions_have_their_share() {
    // In training, the test set and a cell.
    let counts = |share: Value| {
        let mut json = json!({"kind": "subtraction", "digits": 3, "test-examples": 4000});
        if !share.is_null() {
            json["addition-share"] = share;
        }
        let task = read(&json);
        let cell = rows(&task.examples(4).cell(Cell { row: 7, column: 2 }, 4000));
        [trained(&task, 4, 4000), tested(&task, 4), cell]
            .map(|rows| texts(&task, &rows).iter().filter(|text| text.contains('+')).count())
    };
    assert_eq!((counts(json!(0)), counts(json!(1))), ([0; 3], [4000; 3]));
    // Five standard deviations.
    assert!(counts(Value::Null).iter().all(|count| count.abs_diff(2000) < 160));
    assert!(counts(json!(0.2)).iter().all(|count| count.abs_diff(800) < 130));
    // The operands are the same at every share.
    let operands = |share: f64| {
        let task = read(&json!({"kind": "subtraction", "digits": 3, "addition-share": share}));
        let parse = |row: &Row| Calculation::parse(&row.text(&task));
        let both = |calculation: Calculation| (calculation.first, calculation.second);
        trained(&task, 4, 100).iter().map(|row| both(parse(row))).collect::<Vec<(String, String)>>()
    };
    assert_eq!(operands(0.1), operands(0.9));
}

/// Hints and pads are put around the same problems; the symbols name the same places in all three numbers.
#[test]
fn index_hints_name_places_by_consecutive_symbols() {
    let symbols: Vec<char> = SYMBOLS.chars().collect();
    for kind in ["addition", "subtraction", "multiplication"] {
        let base = json!({"kind": kind, "digits": 5, "test-examples": 50});
        let bare_task = read(&base);
        for hints in ["plain", "cyclic"] {
            let mut json = base.clone();
            json["index-hints"] = json!(hints);
            let task = read(&json);
            let rows_of = |task: &TaskConfig| {
                let cell = rows(&task.examples(6).cell(Cell { row: 30, column: 4 }, 50));
                [trained(task, 6, 5000), tested(task, 6), cell].concat()
            };
            let mut starts = vec![0; 102];
            for (row, plain) in rows_of(&task).iter().zip(rows_of(&bare_task)) {
                let text = row.text(&task);
                assert_eq!(bare(&text), plain.text(&bare_task));
                let numbers: Vec<Vec<char>> = text
                    .trim_end_matches(['∎', '-'])
                    .split(['+', '-', 'x', '='])
                    .map(|number| number.chars().collect())
                    .collect();
                let start = symbols.iter().position(|symbol| *symbol == numbers[0][0]).expect("a symbol");
                starts[start] += 1;
                for number in &numbers {
                    for (place, pair) in number.chunks(2).enumerate() {
                        assert_eq!(pair[0], symbols[(start + place) % 102], "{text}");
                        assert!(pair[1].is_ascii_digit(), "{text}");
                    }
                    assert!(hints == "cyclic" || start + number.len() / 2 <= 102, "{text}");
                }
            }
            if hints == "cyclic" {
                assert!(uneven(&starts) < limit(102), "{starts:?}");
            } else {
                // There is always room for numbers of one place, hardly ever none for one of the training's.
                assert!(starts.iter().filter(|count| **count > 0).count() > 90);
            }
        }
    }
}

#[test]
fn pads_come_before_characters_with_decaying_probability_and_only_in_training() {
    let base = json!({"kind": "addition", "digits": 8, "test-examples": 200});
    let (task, probability) = (read(&base), 0.3);
    let mut json = base.clone();
    json["pad-probability"] = json!(probability);
    let padded = read(&json);
    let most = padded.shape().length - task.shape().length;
    assert_eq!(most, (2.0f64 * 0.3 * 27.0).ceil() as usize + 4);
    let (mut characters, mut first, mut second) = (0, 0, 0);
    for (row, plain) in trained(&padded, 8, 4000).iter().zip(trained(&task, 8, 4000)) {
        let text = row.text(&padded);
        assert_eq!(text.replace(' ', ""), plain.text(&task));
        assert!(!text.contains(" ∎") && text.matches(' ').count() <= most, "{text}");
        let mut run = 0;
        for character in text.trim_end_matches('∎').chars() {
            if character == ' ' {
                run += 1;
                continue;
            }
            characters += 1;
            first += usize::from(run >= 1);
            second += usize::from(run >= 2);
            run = 0;
        }
    }
    // Five standard deviations, and the little that the limit takes away.
    let near = |found: usize, of: usize, probability: f64| {
        let deviation = (probability * (1.0 - probability) / of as f64).sqrt();
        (found as f64 / of as f64 - probability).abs() < 5.0 * deviation + 1e-4
    };
    assert!(near(first, characters, 0.3), "{first} of {characters}");
    assert!(near(second, first, 0.03), "{second} of {first}");
    assert_eq!(texts(&padded, &tested(&padded, 8)), texts(&task, &tested(&task, 8)));
    let cell = Cell { row: 9, column: 4 };
    assert_eq!(padded.examples(8).cell(cell, 50), task.examples(8).cell(cell, 50));
}

/// All models of a seed are given the same cells, whatever they are trained on.
#[test]
fn cells_are_functions_of_the_seed_and_their_sizes() {
    let cell = Cell { row: 12, column: 7 };
    for (kind, variants) in [
        (
            "addition",
            vec![json!({"digits": 3}), json!({"digits": 20, "loss-on": "all", "loss-mean": "samples"})],
        ),
        ("subtraction", vec![json!({"digits": 3}), json!({"digits": 5, "pad-probability": 0.2})]),
        ("multiplication", vec![json!({"digits": 3}), json!({"digits": 4, "loss-mean": "tokens"})]),
        ("sorting", vec![json!({"digits": 3, "items": 3}), json!({"digits": 30, "items": 30})]),
        ("bitwise-or", vec![json!({"length": 3}), json!({"length": 20})]),
    ] {
        let task = |mut json: Value| {
            json["kind"] = json!(kind);
            read(&json)
        };
        let [first, second] = [variants[0].clone(), variants[1].clone()].map(task);
        let found = first.examples(1).cell(cell, 6);
        assert_eq!(found, second.examples(1).cell(cell, 6), "{kind}");
        // Neither earlier draws nor the number of problems change a problem.
        let examples = first.examples(1);
        let _ = examples.train(5, Some(4), Form::Tokens);
        let _ = examples.cell(Cell { row: 1, column: 1 }, 3);
        assert_eq!(examples.cell(cell, 6), found);
        let few = texts(&first, &rows(&examples.cell(cell, 3)));
        assert_eq!(few, texts(&first, &rows(&found))[..3], "{kind}");
        assert_eq!(found.examples(), 6);
        let distinct: BTreeSet<String> = texts(&first, &rows(&found)).into_iter().collect();
        assert_eq!(distinct.len(), 6, "{kind}");
        assert_ne!(found, first.examples(2).cell(cell, 6), "{kind}");
        let other = texts(&first, &rows(&examples.cell(Cell { row: 7, column: 12 }, 6)));
        assert!(other.iter().all(|text| !distinct.contains(text)), "{kind}");
        assert_eq!(examples.cell(cell, 0).examples(), 0);
        for (row, column) in [(0, 3), (3, 0), (201, 3), (3, 201)] {
            assert_eq!(examples.cell(Cell { row, column }, 6), Batch::empty(), "{kind} {row}x{column}");
        }
    }
}

/// Training, test set and cells come from streams of their own.
#[test]
fn tests_are_not_the_first_examples_of_training() {
    for kind in ["addition", "subtraction", "multiplication"] {
        let task = read(&json!({"kind": kind, "digits": 12, "test-examples": 500}));
        let long = |text: &&String| text.len() > 35;
        let keep =
            |rows: &[Row]| texts(&task, rows).iter().filter(long).cloned().collect::<BTreeSet<String>>();
        let cell = rows(&task.examples(1).cell(Cell { row: 12, column: 12 }, 500));
        let sets = [keep(&trained(&task, 1, 500)), keep(&tested(&task, 1)), keep(&cell)];
        assert!(sets.iter().all(|set| set.len() > 30));
        assert!(
            sets[0].is_disjoint(&sets[1]) && sets[0].is_disjoint(&sets[2]) && sets[1].is_disjoint(&sets[2])
        );
    }
}
