//! The arithmetic tasks of McLeish et al. 2024: sizes, exact labels, right answers by an independent calculation, advice.

mod arithmetic;
mod task_list;

use std::collections::BTreeSet;

use arithmetic::{
    Calculation, END, EQUALS, PAD, Row, SYMBOLS, arithmetic, digits, rows, sorted, tested, texts, trained,
};
use plateau_common::fields::Fields;
use plateau_common::node::Node;
use plateau_common::tasks::{Cell, Form, Output, ReadOut, Split, TaskConfig};
use serde_json::{Value, json};
use task_list::read;

/// A number of any length modulo a prime.
fn residue(number: &str, prime: u128) -> u128 {
    digits(number).iter().rev().fold(0, |sum, digit| (sum * 10 + u128::from(*digit)) % prime)
}

/// Checks the answer modulo two primes near 2⁶¹ and 10¹⁷: a wrong one passes once in 10³⁵.
fn check(calculation: &Calculation) {
    let Calculation { first, second, operator, answer } = calculation;
    let (magnitude, negative) =
        answer.strip_suffix('-').map_or((answer.as_str(), false), |magnitude| (magnitude, true));
    for number in [first, second] {
        assert!(!number.ends_with('0'), "{number} begins with a zero, or is one");
    }
    assert!(magnitude == "0" || !magnitude.ends_with('0'), "{answer} begins with a zero");
    assert!(!(negative && magnitude == "0"), "0 has no sign");
    for prime in [(1 << 61) - 1, 100_000_000_000_000_003] {
        let [a, b, c] = [first.as_str(), second, magnitude].map(|number| residue(number, prime));
        let right = match operator {
            '+' => (a + b) % prime,
            '-' if negative => (prime + b - a) % prime,
            '-' => (prime + a - b) % prime,
            'x' => a * b % prime,
            other => panic!("{other} is no operator"),
        };
        assert_eq!(c, right, "{first}{operator}{second}={answer}");
    }
}

/// Rows with their ends, vocabularies: 3S + 4, 4S + 3, 3S + 3, L(d + 5), and with a symbol before every digit.
#[test]
fn sizes_are_those_of_the_paper() {
    for (json, row, vocabulary) in [
        (json!({"kind": "addition", "digits": 20}), 64, 19),
        (json!({"kind": "addition", "digits": 40}), 124, 19),
        (json!({"kind": "subtraction", "digits": 20}), 64, 19),
        (json!({"kind": "multiplication", "digits": 15}), 63, 19),
        (json!({"kind": "bitwise-or", "length": 20}), 63, 19),
        (json!({"kind": "sorting", "digits": 10, "items": 10}), 150, 118),
        (json!({"kind": "addition", "digits": 20, "index-hints": "plain"}), 6 * 20 + 5, 121),
        (json!({"kind": "multiplication", "digits": 15, "index-hints": "cyclic"}), 8 * 15 + 3, 121),
        // 63 characters, twice 6.3 pads rounded up and 4, the end.
        (json!({"kind": "addition", "digits": 20, "pad-probability": 0.1}), 63 + 13 + 4 + 1, 19),
    ] {
        let task = read(&json);
        let shape = task.shape();
        assert_eq!((shape.length + 1, shape.vocabulary), (row, vocabulary), "{json}");
        assert_eq!((shape.output, shape.read_out), (Output::Classes(vocabulary), ReadOut::Every));
        assert_eq!(task.digits(), 4..14);
    }
}

/// A row is as long as the longest problem and no longer.
#[test]
fn the_longest_problem_fills_its_row() {
    for json in [
        json!({"kind": "addition", "digits": 2}),
        json!({"kind": "addition", "digits": 2, "index-hints": "plain"}),
        json!({"kind": "subtraction", "digits": 2}),
        json!({"kind": "subtraction", "digits": 2, "addition-share": 0}),
        json!({"kind": "multiplication", "digits": 2, "index-hints": "cyclic"}),
        json!({"kind": "sorting", "digits": 3, "items": 3}),
        json!({"kind": "bitwise-or", "length": 4}),
    ] {
        let task = read(&json);
        let rows = trained(&task, 1, 400.min(task.training_set_size().unwrap_or(400)));
        let used = |row: &Row| row.tokens().iter().position(|token| *token == END).expect("an end") + 1;
        assert_eq!(rows.iter().map(used).max(), Some(task.shape().length + 1), "{json}");
    }
}

/// Of every task two problems written out: tokens, targets, and what counts.
#[test]
fn labels_of_written_out_problems() {
    let addition = json!({"kind": "addition", "digits": 1});
    let all = json!({"kind": "addition", "digits": 1, "loss-on": "all"});
    let samples = json!({"kind": "addition", "digits": 1, "loss-on": "all", "loss-mean": "samples"});
    let subtraction = json!({"kind": "subtraction", "digits": 1});
    let multiplication = json!({"kind": "multiplication", "digits": 1});
    let sorting = json!({"kind": "sorting", "digits": 1, "items": 2});
    let or = json!({"kind": "bitwise-or", "length": 2});
    let third = 1.0 / 3.0;
    let cases: [(&Value, &str, &[u32], &[f32]); 11] = [
        (&addition, "5+7=21∎", &[9, 14, 11, 17, 6, 5, 3], &[0., 0., 0., 1., 1., 1.]),
        (&addition, "2+3=5∎", &[6, 14, 7, 17, 9, 3, 0], &[0., 0., 0., 1., 1., 0.]),
        (&all, "2+3=5∎", &[6, 14, 7, 17, 9, 3, 0], &[1., 1., 1., 1., 1., 0.]),
        (&samples, "2+3=5∎", &[6, 14, 7, 17, 9, 3, 0], &[0.2, 0.2, 0.2, 0.2, 0.2, 0.]),
        (&subtraction, "3-5=2-∎", &[7, 15, 9, 17, 6, 15, 3], &[0., 0., 0., 1., 1., 1.]),
        (&subtraction, "8-8=0∎", &[12, 15, 12, 17, 4, 3, 0], &[0., 0., 0., 1., 1., 0.]),
        (&multiplication, "3x4=21∎", &[7, 16, 8, 17, 6, 5, 3], &[0., 0., 0., third, third, third]),
        (&multiplication, "2x3=6∎", &[6, 16, 7, 17, 10, 3, 0], &[0., 0., 0., 0.5, 0.5, 0.]),
        (
            &sorting,
            "C:9,D:1=D,C∎",
            &[21, 16, 13, 15, 14, 16, 5, 17, 14, 15, 21, 3],
            &[0., 0., 0., 0., 0., 0., 0., 1., 1., 1., 1.],
        ),
        (
            &sorting,
            "A:5=A∎",
            &[19, 16, 9, 17, 19, 3, 0, 0, 0, 0, 0, 0],
            &[0., 0., 0., 1., 1., 0., 0., 0., 0., 0., 0.],
        ),
        (&or, "1+00=10∎", &[5, 14, 4, 4, 17, 5, 4, 3, 0], &[0., 0., 0., 0., 1., 1., 1., 0.]),
    ];
    for (json, text, tokens, weights) in cases {
        let task = read(json);
        let count = task.training_set_size().unwrap_or(20_000);
        let found = trained(&task, 1, count).into_iter().find(|row| row.text(&task) == text);
        let row = found.unwrap_or_else(|| panic!("{text} is never drawn"));
        assert_eq!(row.input, tokens[..tokens.len() - 1], "{text}");
        assert_eq!(row.targets, tokens[1..], "{text}");
        assert_eq!(row.weights, weights, "{text}");
    }
}

/// In every row of every configuration: what counts is what comes after `=`, up to the end.
#[test]
fn answers_and_their_ends_count() {
    for json in arithmetic() {
        let task = read(&json);
        let (all, samples) = (json["loss-on"] == "all", {
            let default = if json["kind"] == "multiplication" { "samples" } else { "tokens" };
            json["loss-mean"].as_str().unwrap_or(default) == "samples"
        });
        let count = task.training_set_size().unwrap_or(200);
        let check = |row: &Row, question: bool| {
            let tokens = row.tokens();
            let equals = tokens.iter().position(|token| *token == EQUALS).expect("an equals sign");
            let end = tokens.iter().position(|token| *token == END).expect("an end");
            assert!(tokens[end + 1..].iter().all(|token| *token == PAD));
            let counting: Vec<usize> =
                (1..=end).filter(|at| tokens[*at] != PAD && (question || *at > equals)).collect();
            let weight = if samples { 1.0 / counting.len() as f32 } else { 1.0 };
            let mut expected = vec![0.0; row.weights.len()];
            counting.iter().for_each(|at| expected[at - 1] = weight);
            assert_eq!(row.weights, expected, "{json} {}", row.text(&task));
        };
        trained(&task, 1, count).iter().for_each(|row| check(row, all));
        tested(&task, 1).iter().for_each(|row| check(row, false));
    }
}

#[test]
fn calculations_are_right_in_training_tests_and_cells() {
    for json in arithmetic() {
        if json["kind"] == "sorting" || json["kind"] == "bitwise-or" {
            continue;
        }
        let task = read(&json);
        let examples = task.examples(5);
        let mut all = trained(&task, 5, 1000);
        all.extend(tested(&task, 5));
        let most = json["digits"].as_u64().expect("digits") as usize;
        for row in &all {
            let calculation = Calculation::parse(&row.text(&task));
            check(&calculation);
            assert!(
                (1..=most).contains(&calculation.first.len())
                    && (1..=most).contains(&calculation.second.len())
            );
        }
        let largest = task.grid().expect("a grid").largest;
        for (row, column) in [(1, 1), (most, most + 1), (50, 3), largest, (1, largest.1)] {
            let found = rows(&examples.cell(Cell { row, column }, 20));
            assert_eq!(found.len(), 20);
            for row_of_cell in &found {
                let calculation = Calculation::parse(&row_of_cell.text(&task));
                check(&calculation);
                assert_eq!((calculation.first.len(), calculation.second.len()), (row, column), "{json}");
            }
            let used = |row: &Row| row.tokens().iter().position(|token| *token == END).expect("an end");
            assert_eq!(found.iter().map(used).max(), Some(found[0].input.len()), "as long as needed");
        }
    }
}

#[test]
fn lists_are_sorted_and_named_by_a_run_of_symbols() {
    let symbols: Vec<char> = SYMBOLS.chars().collect();
    let value =
        |number: &str| number.chars().rev().collect::<String>().parse::<u128>().expect("short numbers");
    let check = |text: &str| {
        let (names, numbers, answer) = sorted(text);
        let start = symbols.iter().position(|symbol| *symbol == names[0]).expect("a symbol");
        let run: Vec<char> = (start..start + names.len()).map(|index| symbols[index % 102]).collect();
        assert_eq!(names, run);
        let mut order: Vec<(u128, usize)> = numbers.iter().map(|number| value(number)).zip(0..).collect();
        order.sort_unstable();
        assert_eq!(answer, order.iter().map(|(_, item)| names[*item]).collect::<Vec<char>>(), "{text}");
        assert!(numbers.iter().all(|number| !number.ends_with('0')));
        (names.len(), numbers.iter().map(String::len).max().unwrap_or(0))
    };
    for (digits, items) in [(1, 9), (4, 30), (2, 102)] {
        let task = read(&json!({"kind": "sorting", "digits": digits, "items": items, "test-examples": 50}));
        for row in trained(&task, 2, 2000).iter().chain(&tested(&task, 2)) {
            let (length, longest) = check(&row.text(&task));
            assert!((1..=items).contains(&length) && longest <= digits);
        }
        for (row, column) in [(1, 1), (38, 3), (3, 102)] {
            let found = rows(&task.examples(2).cell(Cell { row, column }, 30));
            for each in &found {
                let (length, longest) = check(&each.text(&task));
                assert!(length == column && longest <= row);
                // The end is there, but nobody has to say it.
                let end = each.targets.iter().position(|token| *token == END).expect("an end");
                assert!(each.weights[end] == 0.0 && each.weights[end - 1] == 1.0);
                assert_eq!(each.weights.iter().sum::<f32>(), 2.0 * column as f32 - 1.0);
            }
        }
    }
}

/// 2,870 strings at length 20, each once an epoch, and what the coins decided against.
#[test]
fn bitwise_or_is_exhaustive() {
    let task = read(&json!({"kind": "bitwise-or", "length": 20}));
    assert_eq!(task.training_set_size(), Some(2870));
    let examples = task.examples(7);
    let all = rows(&examples.evaluation(Split::Train, Form::Tokens).expect("a training set"));
    let all: BTreeSet<String> = texts(&task, &all).into_iter().collect();
    let test: BTreeSet<String> = texts(&task, &tested(&task, 7)).into_iter().collect();
    let string = |length: usize, one: Option<usize>| -> String {
        (0..length).map(|at| if Some(at) == one { '1' } else { '0' }).collect()
    };
    let mut expected = 0;
    for i in 1..=20usize {
        for j in 1..=20 {
            for place in 0..i.min(j) {
                let answer = string(i.max(j), Some(place));
                let first = format!("{}+{}={answer}∎", string(i, Some(place)), string(j, None));
                let second = format!("{}+{}={answer}∎", string(i, None), string(j, Some(place)));
                match i.cmp(&j) {
                    std::cmp::Ordering::Less => assert!(all.contains(&first) && !all.contains(&second)),
                    std::cmp::Ordering::Greater => assert!(all.contains(&second) && !all.contains(&first)),
                    std::cmp::Ordering::Equal => {
                        assert!(all.contains(&first) != all.contains(&second), "{first}");
                        let mirrored = if all.contains(&first) { second } else { first };
                        assert!(test.contains(&mirrored));
                        expected += 1;
                    }
                }
            }
        }
    }
    assert_eq!((all.len(), test.len(), expected), (2870, 210, 210));
    // An epoch of batches of 41 (2870 = 70 * 41).
    let epoch = |number: u64| -> Vec<String> {
        let updates = number * 70 + 1..=(number + 1) * 70;
        updates
            .flat_map(|update| texts(&task, &rows(&examples.train(update, Some(41), Form::Tokens))))
            .collect()
    };
    let (first, second) = (epoch(0), epoch(1));
    assert_eq!(first.iter().cloned().collect::<BTreeSet<String>>(), all);
    assert_eq!(second.iter().cloned().collect::<BTreeSet<String>>(), all);
    assert_ne!(first, second, "every epoch has an order of its own");
    // Fair coins: 210 of them, five standard deviations.
    let held = test.iter().filter(|text| text.find('1') < text.find('+')).count();
    assert!(held.abs_diff(105) < 37, "{held} of 210");
}

#[test]
fn cells_of_bitwise_or_hold_different_strings_as_far_as_there_are() {
    let task = read(&json!({"kind": "bitwise-or", "length": 3}));
    let examples = task.examples(7);
    for (row, column, problems, expected) in
        [(5, 9, 100, 5), (9, 5, 100, 5), (40, 60, 7, 7), (200, 200, 100, 100), (1, 200, 3, 1)]
    {
        let found = rows(&examples.cell(Cell { row, column }, problems));
        let distinct: BTreeSet<String> = texts(&task, &found).into_iter().collect();
        assert_eq!((found.len(), distinct.len()), (expected, expected));
        for text in distinct {
            let (first, second) = text.split_once('+').expect("a plus");
            let (second, answer) = second.split_once('=').expect("an equals sign");
            assert_eq!((first.len(), second.len()), (row, column));
            let holder = match row.cmp(&column) {
                std::cmp::Ordering::Less => first,
                std::cmp::Ordering::Greater => second,
                std::cmp::Ordering::Equal => {
                    if first.contains('1') {
                        first
                    } else {
                        second
                    }
                }
            };
            let ones = |text: &str| text.chars().filter(|digit| *digit == '1').count();
            assert_eq!((ones(first) + ones(second), ones(answer)), (1, 1), "{text}");
            assert_eq!(holder.find('1'), answer.find('1'), "{text}");
        }
    }
}

#[test]
fn grids_say_how_far_problems_go() {
    for (json, trained, largest, scores_first) in [
        (json!({"kind": "addition", "digits": 20}), (20, 20), (200, 200), false),
        (json!({"kind": "addition", "digits": 20, "index-hints": "cyclic"}), (20, 20), (200, 200), false),
        (json!({"kind": "addition", "digits": 20, "index-hints": "plain"}), (20, 20), (101, 101), false),
        (json!({"kind": "multiplication", "digits": 15, "index-hints": "plain"}), (15, 15), (51, 51), false),
        (json!({"kind": "sorting", "digits": 10, "items": 9}), (10, 9), (200, 102), true),
        (json!({"kind": "bitwise-or", "length": 20}), (20, 20), (200, 200), false),
    ] {
        let axes = read(&json).grid().expect("a grid");
        assert_eq!(
            (axes.trained, axes.largest, axes.scores_first),
            (trained, largest, scores_first),
            "{json}"
        );
        assert_ne!(axes.rows, axes.columns);
    }
    assert_eq!(read(&json!({"kind": "noise", "vocab": 3, "length": 2})).grid(), None);
    assert_eq!(read(&json!({"kind": "noise", "vocab": 3, "length": 2})).text(&[1, 2]), None);
}

#[test]
fn what_cannot_be_is_refused_with_advice() {
    for (json, path, words) in [
        (json!({"kind": "addition"}), "task.digits", "required"),
        (json!({"kind": "addition", "digits": 0}), "task.digits", "1 to 200"),
        (json!({"kind": "addition", "digits": 201}), "task.digits", "1 to 200"),
        (
            json!({"kind": "addition", "digits": 102, "index-hints": "plain"}),
            "task.digits",
            "at most 101 digits",
        ),
        (
            json!({"kind": "multiplication", "digits": 52, "index-hints": "plain"}),
            "task.digits",
            "at most 51 digits",
        ),
        (json!({"kind": "addition", "digits": 3, "index-hints": "circular"}), "task.index-hints", "cyclic"),
        (
            json!({"kind": "addition", "digits": 3, "addition-share": 0.5}),
            "task.addition-share",
            "unknown key",
        ),
        (json!({"kind": "addition", "digits": 3, "pad-probability": 1}), "task.pad-probability", "0 to 0.9"),
        (json!({"kind": "subtraction", "digits": 3, "addition-share": 2}), "task.addition-share", "0 to 1"),
        (
            json!({"kind": "addition", "digits": 200, "test-examples": 1_000_000}),
            "task.test-examples",
            "too many",
        ),
        (json!({"kind": "sorting", "digits": 3}), "task.items", "required"),
        (json!({"kind": "sorting", "digits": 3, "items": 103}), "task.items", "1 to 102"),
        (json!({"kind": "bitwise-or", "length": 128}), "task.length", "at most 127"),
    ] {
        let node = Node::from_json(&json);
        let error = TaskConfig::read(Fields::new("task", &node).expect("a table")).expect_err("refused");
        assert_eq!(error.path, path, "{json}");
        assert!(error.to_string().contains(words), "{json}: {error}");
    }
    read(&json!({"kind": "bitwise-or", "length": 127}));
    read(&json!({"kind": "addition", "digits": 101, "index-hints": "plain"}));
}
