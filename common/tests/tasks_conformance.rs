//! The contract of tasks, checked for every entry of the list under several configurations, and the exact label laws of
//! the counting tasks.

mod task_list;

use plateau_common::tasks::{
    Assessment, AssessmentMetrics, Batch, Cell, Draw, Examples, Form, Input, Output, Questions, ReadOut,
    Seeds, Split, Targets, TaskConfig,
};
use serde_json::{Value, json};
use task_list::{batch_sizes, configurations, for_every_task, forms, read, sentences};

fn batch_size(task: &TaskConfig) -> Option<usize> {
    Some(task.training_set_size().unwrap_or(32).min(32))
}

fn tokens(batch: &Batch) -> (&[u32], usize) {
    match &batch.input {
        Input::Tokens { tokens, length } => (tokens, *length),
        other => panic!("rows of one length were asked for, not {other:?}"),
    }
}

/// The tokens of every example.
fn sequences(batch: &Batch) -> Vec<Vec<u32>> {
    match &batch.input {
        Input::Ragged { tokens, ends, .. } => {
            let starts = std::iter::once(&0).chain(ends);
            starts.zip(ends).map(|(start, end)| tokens[*start as usize..*end as usize].to_vec()).collect()
        }
        _ => {
            let (ids, length) = tokens(batch);
            ids.chunks(length).map(<[u32]>::to_vec).collect()
        }
    }
}

/// Whether the task's sequences have lengths of their own; then its data are the same for all seeds.
fn is_ragged(task: &TaskConfig) -> bool {
    task.mean_length().is_some()
}

#[test]
fn every_task_of_the_list_is_configured_here() {
    for kind in TaskConfig::KINDS {
        let found = configurations().iter().filter(|json| json["kind"] == *kind).count();
        assert!(found >= 2, "{kind} has {found} configurations");
    }
}

fn check_batch(task: &TaskConfig, batch: &Batch) {
    let shape = task.shape();
    let sequences = sequences(batch);
    assert_eq!(sequences.len(), batch.examples());
    assert!(sequences.iter().flatten().all(|id| (*id as usize) < shape.vocabulary));
    let lengths = || sequences.iter().map(Vec::len);
    let rows = if let Input::Ragged { tokens, ends, .. } = &batch.input {
        assert!(is_ragged(task) && shape.read_out == ReadOut::Every && !task.supports_counts());
        assert!(lengths().all(|length| (1..=shape.length).contains(&length)));
        assert_eq!(ends.last().map(|end| *end as usize), Some(tokens.len()));
        tokens.len()
    } else {
        assert!(!is_ragged(task) && lengths().all(|length| length == shape.length));
        batch.examples() * if shape.read_out == ReadOut::Last { 1 } else { shape.length }
    };
    assert!(batch.weights.is_none() || task.is_weighted());
    match (&batch.targets, shape.output) {
        (Targets::Classes(classes), Output::Classes(width)) => {
            assert_eq!(classes.len(), rows);
            assert!(classes.iter().all(|class| (*class as usize) < width));
            let also = &batch.also_correct;
            assert!(also.iter().all(|(row, class)| (*row as usize) < rows && (*class as usize) < width));
            assert!(also.iter().all(|(row, class)| classes[*row as usize] != *class));
        }
        (Targets::Scalars(numbers), Output::Scalar) => {
            assert_eq!(numbers.len(), rows);
            assert!(numbers.iter().all(|number| number.is_finite()));
            assert!(batch.also_correct.is_empty());
        }
        (targets, output) => panic!("{targets:?} do not fit {output:?}"),
    }
    if let Some(weights) = &batch.weights {
        assert_eq!(weights.len(), rows);
        assert!(weights.iter().all(|weight| weight.is_finite() && *weight >= 0.0));
    }
}

#[test]
fn batches_fit_the_shape() {
    for_every_task(|task| {
        let examples = task.examples(3);
        for update in [1, 2, 1_000_000] {
            let batch = examples.train(update, batch_size(task), Form::Tokens);
            assert_eq!(Some(batch.examples()), batch_size(task));
            check_batch(task, &batch);
        }
        check_batch(task, &examples.evaluation(Split::Test, Form::Tokens).expect("a test set"));
        assert!(examples.scale().deviation > 0.0 && examples.scale().mean.is_finite());
    });
}

#[test]
fn the_training_set_is_finite_exactly_where_the_task_says_so() {
    for_every_task(|task| {
        let examples = task.examples(3);
        let evaluated = examples.evaluation(Split::Train, Form::Tokens);
        assert_eq!(evaluated.is_some(), task.training_set_size().is_some());
        match evaluated {
            Some(evaluated) => {
                check_batch(task, &evaluated);
                for update in [1, 9] {
                    let whole = examples.train(update, None, Form::Tokens);
                    assert_eq!(Some(whole.examples()), task.training_set_size());
                    // Large training sets are evaluated by their first examples.
                    if is_ragged(task) {
                        check_batch(task, &whole);
                        assert!(sequences(&whole).starts_with(&sequences(&evaluated)));
                        let test = examples.evaluation(Split::Test, Form::Tokens).map(|test| test.examples());
                        assert_eq!(Some(evaluated.examples()), test.map(|test| test.min(whole.examples())));
                    } else {
                        assert_eq!(whole, evaluated);
                    }
                }
            }
            None => {
                let first = examples.train(1, batch_size(task), Form::Tokens);
                assert_ne!(
                    first,
                    examples.train(2, batch_size(task), Form::Tokens),
                    "fresh examples at every step"
                );
            }
        }
    });
}

#[test]
fn equal_seeds_give_equal_examples_and_different_seeds_different_ones() {
    for_every_task(|task| {
        let draw = |seed| {
            let examples = task.examples(seed);
            let train = examples.train(5, batch_size(task), Form::Tokens);
            (train, examples.evaluation(Split::Test, Form::Tokens), examples.scale())
        };
        let (first, again, other) = (draw(1), draw(1), draw(2));
        assert_eq!(first, again);
        assert_ne!(first.0, other.0);
        assert_eq!(
            first.1 == other.1,
            is_ragged(task),
            "sentences are the same for all seeds, in another order"
        );
    });
}

/// Another order changes what training meets and nothing that is measured; of a finite set it changes the order alone.
#[test]
fn another_order_changes_training_batches_and_nothing_else() {
    for_every_task(|task| {
        let seeds = Seeds::from(5);
        let (own, other) = (task.examples(seeds), task.examples(Seeds { order: 6, ..seeds }));
        let batches = [1, 2, 300].map(|update| {
            let batch = |examples: &dyn Examples| examples.train(update, batch_size(task), Form::Tokens);
            (batch(&*own), batch(&*other))
        });
        assert!(batches.iter().any(|(own, other)| own != other), "{batches:?}");
        for split in [Split::Train, Split::Test] {
            assert_eq!(own.evaluation(split, Form::Tokens), other.evaluation(split, Form::Tokens));
        }
        assert_eq!(own.scale(), other.scale());
        if task.training_set_size().is_some() {
            assert_eq!(own.train(3, None, Form::Tokens), other.train(3, None, Form::Tokens));
        }
        if let Some(axes) = task.grid() {
            let (row, column) = axes.trained;
            let cell = Cell { row, column };
            assert_eq!(own.cell(cell, 20), other.cell(cell, 20));
        }
        // Other data, in the same order's stream: the examples measured on are others.
        let elsewhere = task.examples(Seeds { data: 6, ..seeds });
        // (Sentences are the same for all seeds.)
        let tests = [&own, &elsewhere].map(|examples| examples.evaluation(Split::Test, Form::Tokens));
        assert_eq!(tests[0] == tests[1], is_ragged(task));
    });
}

#[test]
fn no_draw_depends_on_earlier_calls() {
    for_every_task(|task| {
        let (jumping, steady) = (task.examples(4), task.examples(4));
        let late = jumping.train(40, batch_size(task), Form::Tokens);
        let early = jumping.train(2, batch_size(task), Form::Tokens);
        for update in 1..=40 {
            let batch = steady.train(update, batch_size(task), Form::Tokens);
            let _ = steady.evaluation(Split::Test, Form::Tokens);
            if update == 2 {
                assert_eq!(batch, early);
            }
            if update == 40 {
                assert_eq!(batch, late);
            }
        }
        assert_eq!(
            jumping.evaluation(Split::Test, Form::Tokens),
            steady.evaluation(Split::Test, Form::Tokens)
        );
    });
}

/// A used batch of every kind that a draw may be given: of another form, size, kind of answer, with weights and ties.
fn used_batches(task: &TaskConfig) -> Vec<Batch> {
    let examples = task.examples(21);
    let mut used = vec![
        Batch::empty(),
        Batch {
            input: Input::Counts { counts: vec![7.5; 6], last: vec![99, 98] },
            targets: Targets::Scalars(vec![-1.0, f32::NAN]),
            weights: Some(vec![0.25, 0.5]),
            also_correct: vec![(1, 77), (0, 78)],
        },
        Batch {
            input: Input::Ragged { tokens: vec![96; 7], ends: vec![3, 7], positions: Some(vec![5; 7]) },
            targets: Targets::Classes(vec![95; 7]),
            weights: Some(vec![0.5; 7]),
            also_correct: vec![(6, 94)],
        },
        Batch {
            input: Input::Tokens { tokens: vec![99; 5000], length: 50 },
            targets: Targets::Classes(vec![98; 100]),
            weights: Some(vec![0.5; 100]),
            also_correct: vec![(3, 97); 500],
        },
    ];
    for form in forms(task) {
        used.extend(batch_sizes(task).into_iter().map(|size| examples.train(13, size, *form)));
    }
    used
}

#[test]
fn drawing_over_a_used_batch_gives_a_fresh_one() {
    for_every_task(|task| {
        for form in forms(task) {
            for size in batch_sizes(task) {
                let (fresh, reused) = (task.examples(9), task.examples(9));
                for (update, mut batch) in (1..).zip(used_batches(task)) {
                    reused.draw(Draw::of(update, size), *form, &mut batch);
                    assert_eq!(batch, fresh.train(update, size, *form), "{size:?} {form:?}");
                    reused.draw(Draw::of(update + 5, size), *form, &mut batch);
                    assert_eq!(batch, task.examples(9).train(update + 5, size, *form), "{size:?} {form:?}");
                }
            }
        }
    });
}

/// For finite tasks train and test together are the whole table, without overlap.
#[test]
fn finite_tasks_split_their_examples() {
    for_every_task(|task| {
        let examples = task.examples(6);
        let Some(train) = examples.evaluation(Split::Train, Form::Tokens) else { return };
        let test = examples.evaluation(Split::Test, Form::Tokens).expect("a test set");
        let rows = |batch: &Batch| sequences(batch).into_iter().collect::<std::collections::BTreeSet<_>>();
        let (train_rows, test_rows) = (rows(&train), rows(&test));
        assert!(train_rows.is_disjoint(&test_rows));
        // Short strings of brackets come again and again, as in the paper's data.
        if task.kind() != "dyck" {
            assert_eq!(train_rows.len() + test_rows.len(), train.examples() + test.examples());
        }
    });
}

#[test]
fn counts_are_the_histogram_of_the_tokens() {
    for_every_task(|task| {
        if !task.supports_counts() {
            return;
        }
        let examples = task.examples(8);
        let vocabulary = task.shape().vocabulary;
        let pair = |form| {
            let train = examples.train(3, batch_size(task), form);
            [train, examples.evaluation(Split::Test, form).expect("a test set")]
        };
        for (listed, counted) in pair(Form::Tokens).into_iter().zip(pair(Form::Counts)) {
            let (ids, length) = tokens(&listed);
            let Input::Counts { counts, last } = &counted.input else { panic!("counts were asked for") };
            assert_eq!(counts.len(), listed.examples() * vocabulary);
            for (row, ids) in ids.chunks(length).enumerate() {
                let mut histogram = vec![0.0f32; vocabulary];
                ids.iter().for_each(|id| histogram[*id as usize] += 1.0);
                assert_eq!(histogram, counts[row * vocabulary..(row + 1) * vocabulary]);
                assert_eq!(Some(&last[row]), ids.last());
            }
            assert_eq!(listed.targets, counted.targets);
            assert_eq!(listed.also_correct, counted.also_correct);
        }
    });
}

/// Tasks with a grid have cells of every size, with problems of one length in their own vocabulary, whatever that of training;
/// other tasks have none.
#[test]
fn cells_hold_problems_where_there_is_a_grid() {
    for_every_task(|task| {
        let examples = task.examples(3);
        let Some(axes) = task.grid() else {
            assert_eq!(examples.cell(Cell { row: 1, column: 1 }, 4), Batch::empty());
            return;
        };
        assert!(Cell { row: axes.trained.0, column: axes.trained.1 }.is_within(axes.largest));
        for (row, column) in [(1, 1), axes.trained, (axes.largest.0, 1), axes.largest] {
            let cell = examples.cell(Cell { row, column }, 4);
            assert!((1..=4).contains(&cell.examples()));
            let (ids, length) = tokens(&cell);
            let (Targets::Classes(classes), Some(weights)) = (&cell.targets, &cell.weights) else {
                panic!("answers are classes, and not everything is one")
            };
            assert!(
                ids.len() == cell.examples() * length
                    && classes.len() == ids.len()
                    && weights.len() == ids.len()
            );
            assert!(ids.iter().chain(classes).all(|id| (*id as usize) < task.shape().vocabulary));
            assert!(weights.chunks(length).all(|weights| weights.contains(&1.0)));
            for row in ids.chunks(length) {
                let text = task.text(row).expect("problems are text");
                assert!(!text.is_empty() && !text.contains(char::REPLACEMENT_CHARACTER), "{text}");
            }
        }
    });
}

/// What an assessment measures, by its examples.
fn metrics(examples: &dyn Examples, assessment: &Assessment) -> AssessmentMetrics {
    let has_linear_rule = match &assessment.questions {
        Questions::Ranked { questions, .. } => questions.iter().any(|question| question.linear.is_some()),
        Questions::Decoded { prompts, .. } => {
            (0..prompts.len()).any(|example| examples.mark(assessment, example, &[]).linear.is_some())
        }
    };
    AssessmentMetrics { name: assessment.name, classes: assessment.classes.clone(), has_linear_rule }
}

/// Questions fit the sequences they are about, are the same for all seeds at a given step unless they are a sample, and are marked: what is
/// right is right.
#[test]
fn assessments_ask_what_can_be_answered() {
    for_every_task(|task| {
        let examples = task.examples(3);
        let assessments = examples.assessments(100);
        assert_eq!(assessments, task.examples(3).assessments(100));
        assert_eq!(assessments.is_empty(), !is_ragged(task));
        let told: Vec<AssessmentMetrics> =
            assessments.iter().map(|assessment| metrics(&*examples, assessment)).collect();
        assert_eq!(task.assessment_metrics(), told);
        for assessment in &assessments {
            check_batch(task, &assessment.batch);
            let sequences = sequences(&assessment.batch);
            let Targets::Classes(targets) = &assessment.batch.targets else { panic!("answers are tokens") };
            let classes = assessment.classes.len();
            let fits = |class: &Option<u8>| class.is_none_or(|class| usize::from(class) < classes);
            match &assessment.questions {
                Questions::Ranked { candidates, questions } => {
                    assert!(!questions.is_empty() && questions.is_sorted_by_key(|question| question.row));
                    for question in questions {
                        assert_eq!(targets[question.row as usize], question.right);
                        assert!(candidates.contains(&question.right) && fits(&question.class));
                        assert!(question.linear.is_none_or(|linear| candidates.contains(&linear)));
                    }
                }
                Questions::Decoded { prompts, most, end, classes } => {
                    assert_eq!((prompts.len(), classes.len()), (sequences.len(), sequences.len()));
                    for (example, (prompt, sequence)) in prompts.iter().zip(&sequences).enumerate() {
                        let (_, answer) = sequence.split_at(*prompt as usize);
                        assert!(
                            *prompt > 0
                                && !answer.is_empty()
                                && answer.len() < *most
                                && !answer.contains(end)
                        );
                        let mark = |said: &[u32]| examples.mark(assessment, example, said).right;
                        assert!(mark(answer) && !mark(&answer[1..]) && !mark(&[]) && fits(&classes[example]));
                    }
                }
            }
        }
    });
}

/// Sentences are words of the training data, and trees of n words have n - 1 nodes, the whole among them.
#[test]
fn sentences_have_whole_trees() {
    for_every_task(|task| {
        let sentences = task.examples(3).sentences(50);
        assert_eq!((sentences.is_some(), task.has_sentences()), (is_ragged(task), is_ragged(task)));
        let Some(sentences) = sentences else { return };
        assert_eq!(Some(&sentences), task.examples(4).sentences(50).as_ref(), "the same for every seed");
        assert_eq!(sentences.sentences().count(), sentences.ends.len());
        assert!((1..=50).contains(&sentences.ends.len()));
        for (index, words) in sentences.sentences().enumerate() {
            assert!(!words.is_empty() && !words.contains(&sentences.start));
            assert!(words.iter().all(|word| (*word as usize) < task.shape().vocabulary));
            let Some(tree) = sentences.trees.as_ref().map(|trees| &trees[index]) else { continue };
            assert!(tree.len() == words.len() - 1 && tree.is_sorted());
            assert!(tree.contains(&(0, words.len() as u16)));
            assert!(tree.iter().all(|(start, end)| end - start >= 2));
        }
    });
}

/// A digest of what a task draws: training batches of several sizes in every form, test set, cells, unit.
fn digest(task: &TaskConfig) -> String {
    let examples = task.examples(11);
    let mut hasher = blake3::Hasher::new();
    let mut add = |batch: &Batch| {
        let mut words = |values: &[u32]| {
            values.iter().for_each(|value| {
                hasher.update(&value.to_le_bytes());
            });
        };
        let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<u32>>();
        match &batch.input {
            Input::Tokens { tokens, length } => words(&[&[*length as u32], &tokens[..]].concat()),
            Input::Counts { counts, last } => words(&[&bits(counts), &last[..]].concat()),
            Input::Ragged { tokens, ends, .. } => words(&[&ends[..], &tokens[..]].concat()),
        }
        match &batch.targets {
            Targets::Classes(classes) => words(classes),
            Targets::Scalars(numbers) => words(&bits(numbers)),
        }
        words(&bits(batch.weights.as_deref().unwrap_or_default()));
        batch.also_correct.iter().for_each(|(row, class)| words(&[*row, *class]));
    };
    for form in forms(task) {
        for size in batch_sizes(task) {
            (1..=9).for_each(|update| add(&examples.train(update, size, *form)));
        }
        add(&examples.evaluation(Split::Test, *form).expect("a test set"));
    }
    examples.assessments(700).iter().for_each(|assessment| add(&assessment.batch));
    if task.grid().is_some() {
        for (row, column) in [(1, 1), (5, 3), (25, 40)] {
            add(&examples.cell(Cell { row, column }, 10));
        }
    }
    let scale = examples.scale();
    hasher.update(&[scale.mean.to_le_bytes(), scale.deviation.to_le_bytes()].concat());
    hasher.finalize().to_hex()[..16].to_owned()
}

/// Digests of what was drawn when the task was added: a changed one means that every stored trial would change its
/// meaning.
#[test]
fn golden_examples_do_not_change() {
    for (json, expected) in [
        (json!({"kind": "modular", "modulus": 113, "train-share": 0.3}), "5a96fefda08c2310"),
        (
            json!({"kind": "modular", "modulus": 13, "train-share": 0.7, "operation": "x/y", "layout": "power"}),
            "f1f2020f58b7d691",
        ),
        (json!({"kind": "modular", "train-share": 0.3, "operation": "s5:xyx^-1"}), "1c3c175be49749ae"),
        (json!({"kind": "query-count", "vocab": 20}), "9ef4b7f45937bfbf"),
        (
            json!({"kind": "query-count", "vocab": 7, "length": 300, "query-mode": "appended"}),
            "22aa1891b0a5ed50",
        ),
        (json!({"kind": "query-count", "vocab": 6, "head": "classify", "max-count": 9}), "88d965901273998c"),
        (json!({"kind": "query-count", "vocab": 6, "target-scale": "standardised"}), "0b8ae7e0a197bbdb"),
        (json!({"kind": "most-frequent", "vocab": 100}), "766f5351476da6e5"),
        (json!({"kind": "most-frequent", "vocab": 8, "length": 16, "target": "token"}), "bdbee66cef32c99d"),
        (
            json!({"kind": "most-frequent", "vocab": 5, "head": "classify", "max-count": 14}),
            "d5a85643130d7290",
        ),
        (json!({"kind": "most-frequent", "vocab": 5, "target-scale": "standardised"}), "6d465b504f3a421f"),
        (json!({"kind": "noise", "vocab": 114, "length": 3}), "711506a5e68165ef"),
        (json!({"kind": "noise", "vocab": 9, "length": 70, "read-out": "every"}), "8e1265d4ba2492bc"),
        (json!({"kind": "addition", "digits": 20}), "4f2ae55b52f55639"),
        (
            json!({"kind": "addition", "digits": 6, "index-hints": "plain", "pad-probability": 0.1, "loss-on": "all"}),
            "a23c333edbc6c3aa",
        ),
        (
            json!({"kind": "subtraction", "digits": 7, "index-hints": "cyclic", "loss-mean": "samples"}),
            "09cd96f29c8c424a",
        ),
        (json!({"kind": "multiplication", "digits": 15}), "6019a990aba6ccbe"),
        (json!({"kind": "sorting", "digits": 10, "items": 10}), "8a30b2813aea464b"),
        (json!({"kind": "bitwise-or", "length": 20}), "f2191960898d26d8"),
        (sentences("question-formation", 300), "07d56cedf651e3c7"),
        (json!({"kind": "question-formation"}), "c9f6e0347c70d66a"),
        (sentences("tense-inflection", 300), "563d4162b275759f"),
        (json!({"kind": "tense-inflection", "generalisation-sample": 2000}), "026b9abed0cca34b"),
        (sentences("dyck", 300), "dbad934180e64cf2"),
        (
            json!({"kind": "dyck", "types": 3, "depth": 4, "min-length": 8, "max-length": 64, "training-examples": 900, "validation-examples": 99}),
            "1d750e93efbf6f9a",
        ),
    ] {
        assert_eq!(digest(&read(&json)), expected, "{json}");
    }
}

#[test]
fn labels_of_the_counting_tasks_are_what_they_say() {
    let labels = |json: &Value| {
        let batch = read(json).examples(1).evaluation(Split::Test, Form::Tokens).expect("a test set");
        let (ids, length) = tokens(&batch);
        let rows: Vec<Vec<u32>> = ids.chunks(length).map(<[u32]>::to_vec).collect();
        (rows, batch)
    };
    let count = |row: &[u32], token: u32| row.iter().filter(|id| **id == token).count() as f32;
    let (rows, batch) = labels(&json!({"kind": "query-count", "vocab": 4}));
    let expected: Vec<f32> = rows.iter().map(|row| count(row, row[row.len() - 1])).collect();
    assert_eq!(batch.targets, Targets::Scalars(expected));
    let (rows, batch) = labels(&json!({"kind": "query-count", "vocab": 4, "query-mode": "appended"}));
    let expected: Vec<f32> = rows.iter().map(|row| count(row, row[row.len() - 1]) - 1.0).collect();
    assert_eq!(batch.targets, Targets::Scalars(expected));
    let highest = |row: &[u32]| (0..4).map(|token| count(row, token)).fold(0.0, f32::max);
    let (rows, batch) = labels(&json!({"kind": "most-frequent", "vocab": 4}));
    assert_eq!(batch.targets, Targets::Scalars(rows.iter().map(|row| highest(row)).collect()));
    let (rows, batch) = labels(&json!({"kind": "most-frequent", "vocab": 4, "target": "token", "length": 8}));
    let Targets::Classes(classes) = &batch.targets else { panic!("tokens are classes") };
    for (index, (row, class)) in rows.iter().zip(classes).enumerate() {
        let mut right: Vec<u32> = (0..4).filter(|token| count(row, *token) == highest(row)).collect();
        assert_eq!(right.remove(0), *class);
        let also =
            batch.also_correct.iter().filter(|(row, _)| *row as usize == index).map(|(_, class)| *class);
        assert_eq!(also.collect::<Vec<u32>>(), right);
    }
}

/// Test labels of a counting task with n = 10 m.
fn test_labels(kind: &str, vocab: usize, examples: usize) -> Vec<f64> {
    let task = read(&json!({"kind": kind, "vocab": vocab, "test-examples": examples}));
    let batch = task.examples(2).evaluation(Split::Test, Form::Counts).expect("a test set");
    match batch.targets {
        Targets::Scalars(labels) => labels.into_iter().map(f64::from).collect(),
        Targets::Classes(_) => panic!("counts are regressed by default"),
    }
}

fn mean_and_variance(labels: &[f64]) -> (f64, f64) {
    let mean = labels.iter().sum::<f64>() / labels.len() as f64;
    (mean, labels.iter().map(|label| (label - mean).powi(2)).sum::<f64>() / (labels.len() - 1) as f64)
}

fn share(labels: &[f64], value: f64) -> f64 {
    labels.iter().filter(|label| **label == value).count() as f64 / labels.len() as f64
}

/// The highest probability of 1 + Binomial(n - 1, 1/m), and where it is.
fn modal_probability(vocab: usize) -> (usize, f64) {
    let (trials, chance) = (10 * vocab - 1, 1.0 / vocab as f64);
    let mut probability = (1.0 - chance).powi(trials as i32);
    let mut best = (1, probability);
    for hits in 1..=trials {
        probability *= (trials - hits + 1) as f64 / hits as f64 * chance / (1.0 - chance);
        if probability > best.1 {
            best = (hits + 1, probability);
        }
    }
    best
}

/// The query's count is 1 + Binomial(n - 1, 1/m): (m, mode, best accuracy of a constant, mean, variance) at n = 10 m.
#[test]
fn query_counts_follow_their_law() {
    for (vocab, chance, mean, variance) in [
        (5, 0.1398, 10.800, 7.840),
        (10, 0.1319, 10.900, 8.910),
        (20, 0.1284, 10.950, 9.452),
        (30, 0.1272, 10.967, 9.634),
        (50, 0.1264, 10.980, 9.780),
        (75, 0.1260, 10.987, 9.854),
        (100, 0.1257, 10.990, 9.890),
        (150, 0.1255, 10.993, 9.927),
    ] {
        let (mode, exact) = modal_probability(vocab);
        assert!((exact - chance).abs() < 5.1e-5, "m = {vocab}: {exact}");
        let TaskConfig::QueryCount(task) = read(&json!({"kind": "query-count", "vocab": vocab})) else {
            panic!("a query count")
        };
        let (exact_mean, exact_variance) = task.label_moments();
        assert!((exact_mean - mean).abs() < 6e-4 && (exact_variance - variance).abs() < 6e-4);
        let labels = test_labels("query-count", vocab, 1600);
        let error = (chance * (1.0 - chance) / 1600.0).sqrt();
        let found = share(&labels, mode as f64);
        assert!((found - chance).abs() < 3.0 * error, "m = {vocab}: a constant scores {found}, not {chance}");
        let (found_mean, found_variance) = mean_and_variance(&labels);
        assert!(
            (found_mean - mean).abs() < 3.5 * (variance / 1600.0).sqrt(),
            "m = {vocab}: mean {found_mean}"
        );
        // The variance of a sample variance of nearly normal numbers is 2 variance² / n.
        let error = variance * (2.0f64 / 1600.0).sqrt();
        assert!((found_variance - variance).abs() < 3.5 * error, "m = {vocab}: variance {found_variance}");
    }
}

/// The highest count has no closed form: (m, mode, share of the mode, mean, standard deviation) from an independent
/// simulation of 20,000 sequences (6,000 for m above 50) at n = 10 m.
#[test]
fn highest_counts_follow_their_law() {
    for (vocab, mode, chance, mean, deviation, simulated) in [
        (5, 13.0, 0.253, 13.84, 1.74, 20_000.0),
        (10, 14.0, 0.235, 15.12, 1.79, 20_000.0),
        (20, 16.0, 0.238, 16.32, 1.79, 20_000.0),
        (30, 16.0, 0.241, 16.98, 1.77, 20_000.0),
        (50, 17.0, 0.251, 17.76, 1.74, 20_000.0),
        (75, 18.0, 0.259, 18.35, 1.68, 6_000.0),
        (100, 18.0, 0.252, 18.75, 1.66, 6_000.0),
        (150, 19.0, 0.258, 19.27, 1.62, 6_000.0),
    ] {
        let labels = test_labels("most-frequent", vocab, 1600);
        let uncertainty = (1.0f64 / 1600.0 + 1.0 / simulated).sqrt();
        let found = share(&labels, mode);
        let error = f64::sqrt(chance * (1.0 - chance)) * uncertainty;
        assert!((found - chance).abs() < 3.0 * error, "m = {vocab}: a constant scores {found}, not {chance}");
        let (found_mean, found_variance) = mean_and_variance(&labels);
        assert!((found_mean - mean).abs() < 3.5 * deviation * uncertainty, "m = {vocab}: mean {found_mean}");
        // The law is skewed, so its sample deviation scatters somewhat more than a normal one's.
        let error = 1.5 * deviation * uncertainty / 2.0f64.sqrt();
        assert!(
            (found_variance.sqrt() - deviation).abs() < 3.5 * error,
            "m = {vocab}: sd {}",
            found_variance.sqrt()
        );
    }
}

/// Tokens and answers of the noise task are uniform, and no answer can be told from the token it is asked at.
#[test]
fn noise_is_uniform_and_its_answers_are_independent_of_its_tokens() {
    let (vocab, examples) = (5usize, 40_000usize);
    let json =
        json!({"kind": "noise", "vocab": vocab, "length": 3, "read-out": "every", "test-examples": examples});
    let batch = read(&json).examples(2).evaluation(Split::Test, Form::Tokens).expect("a test set");
    let Targets::Classes(answers) = &batch.targets else { panic!("noise has classes") };
    let mut pairs = vec![0usize; vocab * vocab];
    for (token, answer) in tokens(&batch).0.iter().zip(answers) {
        pairs[*token as usize * vocab + *answer as usize] += 1;
    }
    let expected = (3 * examples) as f64 / pairs.len() as f64;
    // Chi-squared with 24 degrees of freedom exceeds 60 with probability 6e-5.
    let statistic: f64 = pairs.iter().map(|count| (*count as f64 - expected).powi(2) / expected).sum();
    assert!(statistic < 60.0, "{statistic}: {pairs:?}");
}
