//! Examples written down for people: every task of the list, and what the lines say.

mod task_list;

use plateau_common::tasks::{Form, Listing, Seeds, Split, TaskConfig, listings};
use serde_json::{Value, json};
use task_list::{for_every_task, read, sentences};

fn listed(json: &Value) -> Vec<Listing> {
    listings(&read(json), Seeds::from(3), 20)
}

fn named<'a>(listings: &'a [Listing], name: &str) -> &'a [String] {
    let found = listings.iter().find(|listing| listing.name == name);
    &found.unwrap_or_else(|| panic!("{name} is not listed")).lines
}

#[test]
fn every_set_of_every_task_has_a_line_for_each_example() {
    for_every_task(|task: &TaskConfig| {
        let seeds = Seeds::from(3);
        let (examples, listed) = (task.examples(seeds), listings(task, seeds, 20));
        let training = task.training_set_size();
        assert_eq!((listed[0].name, listed[0].is_cut), ("training", training.is_none()));
        assert_eq!(listed[0].lines.len(), training.unwrap_or(20));
        let test = examples.evaluation(Split::Test, Form::Tokens).expect("a test set");
        assert_eq!(listed[1].lines.len(), test.examples());
        let names: Vec<&str> = listed.iter().map(|listing| listing.name).collect();
        let assessed: Vec<&str> = task.assessment_metrics().iter().map(|metrics| metrics.name).collect();
        assert_eq!(names[1], if assessed.is_empty() { "test" } else { "validation" });
        assert_eq!(names[2..], assessed);
        for line in listed.iter().flat_map(|listing| &listing.lines) {
            assert!(!line.is_empty() && !line.contains(['\n', char::REPLACEMENT_CHARACTER]), "{line}");
        }
        // Everything is what the task says, down to the last example.
        assert_eq!(listings(task, seeds, 20), listed);
    });
}

#[test]
fn rows_of_numbers_end_in_their_answer() {
    for line in named(&listed(&json!({"kind": "modular", "modulus": 7, "train-share": 0.5})), "test") {
        let (row, answer) = line.split_once('\t').expect("an answer");
        let numbers: Vec<u32> = row.split(' ').map(|token| token.parse().expect("a number")).collect();
        assert_eq!(((numbers[0] + numbers[1]) % 7).to_string(), answer, "{line}");
    }
    let ties = listed(
        &json!({"kind": "most-frequent", "vocab": 8, "length": 16, "target": "token", "test-examples": 200}),
    );
    let tie = named(&ties, "test").iter().find(|line| line.contains('|')).expect("a tie");
    let (row, right) = tie.split_once('\t').expect("an answer");
    let counts: Vec<usize> =
        right.split('|').map(|token| row.split(' ').filter(|other| *other == token).count()).collect();
    assert!(counts.iter().all(|count| *count == counts[0]) && counts[0] >= 2, "{tie}");
}

#[test]
fn problems_are_parted_where_the_answer_begins() {
    for line in named(&listed(&json!({"kind": "addition", "digits": 3, "test-examples": 50})), "test") {
        let (question, answer) = line.split_once('\t').expect("an answer");
        assert!(question.ends_with('=') && answer.ends_with('∎'), "{line}");
    }
    let whole = listed(&json!({"kind": "addition", "digits": 3, "loss-on": "all", "test-examples": 50}));
    assert!(named(&whole, "training").iter().all(|line| line.contains('=') && line.ends_with('∎')));
}

#[test]
fn sentences_are_written_as_in_the_released_files() {
    let questions = listed(&sentences("question-formation", 300));
    for line in named(&questions, "training").iter().chain(named(&questions, "validation")) {
        let (prompt, output) = line.split_once('\t').expect("an answer");
        assert!(
            prompt.ends_with(" . quest") && output.ends_with(" ?") || prompt == format!("{output} decl"),
            "{line}"
        );
    }
    for line in named(&questions, "generalisation") {
        let fields: Vec<&str> = line.split('\t').collect();
        let [prompt, right, linear, class] = fields[..] else { panic!("{line}") };
        assert!(prompt.ends_with(" . quest") && right != linear && class.contains("relative"), "{line}");
    }
    assert!(named(&questions, "in_domain").iter().all(|line| line.split('\t').count() == 2));
    let tenses = listed(&sentences("tense-inflection", 300));
    for line in named(&tenses, "in_domain") {
        let fields: Vec<&str> = line.split('\t').collect();
        assert!(
            fields.len() == 3 && fields[0].to_lowercase().ends_with(&format!(" . {}", fields[2])),
            "{line}"
        );
    }
    let brackets = listed(&sentences("dyck", 300));
    assert!(named(&brackets, "training").iter().all(|line| line.starts_with('(') && line.ends_with(')')));
    let (first, second) = (&named(&brackets, "in_domain")[0], &named(&brackets, "validation")[0]);
    let (prefix, closing) = first.split_once('\t').expect("an answer");
    assert!(
        second.starts_with(&format!("{prefix} {}", closing.trim_end_matches("\t-"))),
        "{first} and {second}"
    );
}
