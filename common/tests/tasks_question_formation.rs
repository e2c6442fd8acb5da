//! Question formation held against the released data of McCoy, Frank and Linzen 2020 and Murty et al. 2023: mixes, counts, baselines, the
//! two rules by an oracle that reads words, and the loss that no model can go below.

mod lines;
mod task_list;

use std::collections::{BTreeMap, BTreeSet};

use lines::{assessment, bracketing_f1, count, entropy, left_branching, lines, right_branching, training};
use plateau_common::tasks::{Assessment, Form, Questions, Split, TaskConfig};
use serde_json::json;
use task_list::{read, sentences};

fn paper() -> TaskConfig {
    read(&json!({"kind": "question-formation"}))
}

const AUXILIARIES: [&str; 4] = ["do", "does", "don't", "doesn't"];

/// A line read by its words: sentence, task, output, and what the sentence is made of.
#[derive(Debug)]
struct Line<'a> {
    sentence: Vec<&'a str>,
    task: &'a str,
    output: Vec<&'a str>,
    /// Kind of the subject's modifier.
    subject: &'static str,
    /// Place of the main clause's auxiliary.
    main: usize,
    /// Kind of the object's modifier, or that there is no object.
    predicate: &'static str,
}

fn is_determiner(word: &str) -> bool {
    ["the", "some", "my", "your", "our", "her"].contains(&word)
}

fn is_relativizer(word: &str) -> bool {
    ["who", "that"].contains(&word)
}

fn is_auxiliary(word: &str) -> bool {
    AUXILIARIES.contains(&word)
}

/// The kind and the length of what stands behind a noun, up to a verb or the end.
fn modifier(behind: &[&str]) -> (&'static str, usize) {
    let word = |place: usize| behind.get(place).copied().unwrap_or(".");
    match () {
        () if is_auxiliary(word(0)) || word(0) == "." => ("none", 0),
        () if is_relativizer(word(0)) && is_determiner(word(1)) => ("object-relative", 5),
        () if is_relativizer(word(0)) && is_determiner(word(3)) => ("transitive-subject-relative", 5),
        () if is_relativizer(word(0)) => ("intransitive-subject-relative", 3),
        () => ("prepositional", 3),
    }
}

fn parse(line: &str) -> Line<'_> {
    let words: Vec<&str> = line.split(' ').collect();
    let stop = words.iter().position(|word| *word == ".").expect("a full stop");
    let (sentence, rest) = words.split_at(stop);
    let (subject, length) = modifier(&sentence[2..]);
    let main = 2 + length;
    assert!(is_auxiliary(sentence[main]), "{line}");
    let object = &sentence[main + 2..];
    let (predicate, behind) = match object.len() {
        0 => ("intransitive", 0),
        _ => modifier(&object[2..]),
    };
    assert!(object.is_empty() || object.len() == 2 + behind, "{line}");
    Line { sentence: sentence.to_vec(), task: rest[1], output: rest[2..].to_vec(), subject, main, predicate }
}

/// How the line must end by the rule that fronts the auxiliary at `place`.
fn fronted(sentence: &[&str], place: usize) -> Vec<String> {
    let mut output = vec![sentence[place].to_owned()];
    output.extend(
        sentence.iter().enumerate().filter(|(at, _)| *at != place).map(|(_, word)| (*word).to_owned()),
    );
    output.push("?".to_owned());
    output
}

fn is_plural(noun: &str) -> bool {
    noun.ends_with('s') && !["tyrannosaurus", "walrus"].contains(&noun)
}

fn check(line: &str) {
    let Line { sentence, task, output, main, .. } = parse(line);
    match task {
        "quest" => assert_eq!(output, fronted(&sentence, main), "{line}"),
        _ => assert_eq!((task, output), ("decl", [&sentence[..], &["."]].concat()), "{line}"),
    }
    // Auxiliaries agree with the noun before them, or with the subject where they are the main one or behind a relativizer.
    for (at, auxiliary) in sentence.iter().enumerate().filter(|(_, word)| is_auxiliary(word)) {
        let noun = match () {
            () if at == main => 1,
            () if is_relativizer(sentence[at - 1]) => at - 2,
            () => at - 1,
        };
        assert_eq!(auxiliary.starts_with("does"), !is_plural(sentence[noun]), "{line}");
    }
}

#[test]
fn sizes_are_those_of_the_paper() {
    let task = paper();
    let shape = task.shape();
    assert_eq!((shape.vocabulary, shape.length, task.training_set_size()), (71, 36, Some(100_000)));
    let examples = task.examples(0);
    assert_eq!(examples.evaluation(Split::Test, Form::Tokens).map(|batch| batch.examples()), Some(1_000));
    let all = lines(&task, &examples.train(1, None, Form::Tokens));
    let mean = all.iter().map(|line| line.split(' ').count() + 1).sum::<usize>() as f64 / 1e5;
    assert!((mean - 23.38).abs() < 0.05, "{mean}");
    assert!(task.mean_length().is_some_and(|exact| (exact - mean).abs() < 0.05), "{:?}", task.mean_length());
    assert_eq!(all.iter().map(|line| line.split(' ').count() + 1).max(), Some(36));
}

/// Shares of the released development and test files; five standard deviations of what was counted there and here.
#[test]
fn training_lines_are_mixed_as_the_released_ones() {
    let all = training(&paper());
    all.iter().for_each(|line| check(line));
    let parsed: Vec<Line<'_>> = all.iter().map(|line| parse(line)).collect();
    let share = |what: &dyn Fn(&Line<'_>) -> bool, of: &dyn Fn(&Line<'_>) -> bool| {
        let of: Vec<&Line<'_>> = parsed.iter().filter(|line| of(line)).collect();
        of.iter().filter(|line| what(line)).count() as f64 / of.len() as f64
    };
    let quest = |line: &Line<'_>| line.task == "quest";
    let relative = |line: &Line<'_>| line.subject.ends_with("relative");
    let asked = share(&quest, &|_| true);
    let declared = share(&relative, &|line| !quest(line));
    println!("asked {asked}, relative clauses of declared subjects {declared}");
    assert!((asked - 0.4036).abs() < 0.008, "{asked}");
    assert!((declared - 0.3088).abs() < 0.01, "{declared}");
    assert_eq!(share(&relative, &quest), 0.0, "asked subjects with relative clauses are withheld");
    let auxiliaries = count(all.iter().map(|line| {
        let sentence = line.split(" .").next().unwrap_or_default();
        sentence.split(' ').filter(|word| is_auxiliary(word)).count()
    }));
    for (number, released) in [(1, 5721), (2, 4628), (3, 651)] {
        let (found, released) = (auxiliaries[&number] as f64 / 1e5, f64::from(released) / 11_000.0);
        assert!((found - released).abs() < 0.01, "{number}: {found} and {released}");
    }
}

#[test]
fn no_input_comes_twice_and_sets_are_their_own() {
    let task = paper();
    let examples = task.examples(0);
    let mut seen = BTreeSet::new();
    let mut add = |lines: Vec<String>| {
        for line in lines {
            let (sentence, rest) = line.split_once(" . ").expect("a full stop");
            let task = rest.split(' ').next().unwrap_or_default();
            assert!(seen.insert(format!("{sentence} {task}")), "{line} comes twice");
        }
    };
    add(training(&task));
    add(lines(&task, &examples.evaluation(Split::Test, Form::Tokens).expect("validation")));
    add(lines(&task, &assessment(&*examples, "generalisation").batch));
}

/// Larger sets begin with the smaller ones, and neither validation nor generalisation depends on how much is trained on.
#[test]
fn more_training_lines_change_nothing_else() {
    let small = read(&sentences("question-formation", 300));
    let large = read(&sentences("question-formation", 3000));
    assert!(training(&large).starts_with(&training(&small)));
    let (few, many) = (small.examples(0), large.examples(0));
    assert_eq!(few.evaluation(Split::Test, Form::Tokens), many.evaluation(Split::Test, Form::Tokens));
    assert_eq!(few.assessments(0), many.assessments(0));
    let mut json = sentences("question-formation", 300);
    json["data-seed"] = json!(1);
    assert!(!training(&large).starts_with(&training(&read(&json))[..5]));
}

/// The questions of an assessment: the sentence's line so far, the right and the linear answer, the class.
fn questions(
    task: &TaskConfig,
    assessment: &Assessment,
) -> Vec<(String, String, Option<String>, Option<&'static str>)> {
    let Questions::Ranked { candidates, questions } = &assessment.questions else {
        panic!("words are ranked")
    };
    let mut words: Vec<String> = candidates.iter().filter_map(|word| task.text(&[*word])).collect();
    words.sort();
    assert_eq!(words, ["do", "does", "doesn't", "don't"].map(str::to_owned));
    let lines = lines(task, &assessment.batch);
    assert_eq!(lines.len(), questions.len());
    let text = |word: u32| task.text(&[word]).expect("a word");
    let question = |(line, question): (&String, &plateau_common::tasks::Ranked)| {
        let class = question.class.map(|class| assessment.classes[usize::from(class)]);
        (line.clone(), text(question.right), question.linear.map(text), class)
    };
    lines.iter().zip(questions).map(question).collect()
}

/// Which auxiliaries the two rules, and chance, get right.
#[test]
fn the_hierarchical_rule_solves_generalisation_and_the_linear_rule_nothing_of_it() {
    let task = paper();
    let withheld = assessment(&*task.examples(0), "generalisation");
    let questions = questions(&task, &withheld);
    assert_eq!(questions.len(), 10_000);
    let mut pairs = BTreeMap::new();
    for (line, right, linear, class) in &questions {
        assert_eq!(
            line.rsplit_once(' ').map(|(_, first)| first),
            Some(right.as_str()),
            "the answer follows the prompt"
        );
        let parsed = parse(line);
        assert_eq!((parsed.task, parsed.sentence[parsed.main]), ("quest", right.as_str()));
        let auxiliaries: Vec<&str> =
            parsed.sentence.iter().copied().filter(|word| is_auxiliary(word)).collect();
        assert_eq!(linear.as_deref(), Some(auxiliaries[0]));
        assert_ne!(auxiliaries[0], right, "the linear rule is always wrong");
        assert_eq!(auxiliaries.len(), 2, "a coin gets one half right");
        assert_eq!(auxiliaries[1], right);
        assert_eq!(*class, Some(parsed.subject));
        *pairs.entry((auxiliaries[0].to_owned(), right.clone())).or_insert(0) += 1;
    }
    let expected: [(&str, &str); 4] =
        [("do", "don't"), ("does", "doesn't"), ("doesn't", "does"), ("don't", "do")];
    assert!(pairs.keys().map(|(a, b)| (a.as_str(), b.as_str())).eq(expected));
    assert!(pairs.values().all(|count| (2_280..2_720).contains(count)), "{pairs:?}");
    let classes = count(questions.iter().filter_map(|(.., class)| *class));
    assert_eq!(classes["object-relative"], 3333);
    assert_eq!(classes["intransitive-subject-relative"], 3204);
    assert_eq!(classes["transitive-subject-relative"], 3463);
    let predicates = count(questions.iter().map(|(line, ..)| (parse(line).subject, parse(line).predicate)));
    assert_eq!(predicates[&("object-relative", "intransitive")], 1985);
    assert_eq!(predicates[&("transitive-subject-relative", "prepositional")], 702);
    // As in the released order, the first lines are as the grammar has them: half as many of what is refused twice as often.
    let first = count(questions[..1500].iter().filter_map(|(.., class)| *class));
    assert!(
        first["object-relative"].abs_diff(300) < 50
            && first["transitive-subject-relative"].abs_diff(600) < 60,
        "{first:?}"
    );
}

#[test]
fn validation_asks_the_questions_among_its_lines_where_both_rules_agree() {
    let task = paper();
    let examples = task.examples(0);
    let validation = lines(&task, &examples.evaluation(Split::Test, Form::Tokens).expect("validation"));
    let asked: Vec<&String> = validation.iter().filter(|line| line.contains(" quest ")).collect();
    let questions = questions(&task, &assessment(&*examples, "in_domain"));
    println!("{} of 1,000 validation lines are asked", questions.len());
    assert!((330..480).contains(&questions.len()));
    assert_eq!(asked.len(), questions.len());
    for (line, (prompt, right, linear, class)) in asked.into_iter().zip(&questions) {
        assert!(line.starts_with(prompt.as_str()));
        let parsed = parse(line);
        let first = parsed.sentence.iter().find(|word| is_auxiliary(word));
        assert_eq!(first, Some(&right.as_str()), "the linear rule is always right");
        assert_eq!((linear, class), (&None, &None));
    }
}

/// Murty et al. 2023 report 0.6628 for right-branching trees over the training sentences that are asked.
#[test]
fn branching_baselines_are_those_of_the_paper() {
    let sentences = paper().examples(0).sentences(usize::MAX).expect("sentences");
    let (right, left) =
        (bracketing_f1(&sentences, right_branching), bracketing_f1(&sentences, left_branching));
    println!("right-branching {right:.4}, left-branching {left:.4} over {} sentences", sentences.ends.len());
    assert!((right - 0.6628).abs() < 0.003, "{right}");
    assert!((left - 0.2878).abs() < 0.006, "{left}");
}

/// The loss of somebody who knows the distribution of the training lines: the entropy of the input (the output follows from
/// it) for each predicted token. 0.996 nats in the released data.
#[test]
fn the_loss_has_the_floor_of_the_released_data() {
    let all = training(&paper());
    let choices: f64 = all
        .iter()
        .flat_map(|line| line.split(" .").next().unwrap_or_default().split(' '))
        .map(|word| match word {
            word if is_determiner(word) => 6.0f64,
            word if is_relativizer(word) => 2.0,
            // Negated or not; number follows from the noun, a verb's kind from the shape.
            word if is_auxiliary(word) => 2.0,
            "around" | "near" | "with" | "upon" | "by" | "behind" | "above" | "below" => 8.0,
            word if [
                "newt", "orang", "peaco", "quail", "raven", "salam", "tyran", "unico", "vultu", "walru",
                "xylop", "yak", "zebra",
            ]
            .iter()
            .any(|noun| word.starts_with(noun)) =>
            {
                26.0
            }
            _ => 9.0,
        })
        .map(f64::ln)
        .sum();
    let parsed = all.iter().map(|line| parse(line)).map(|line| (line.task, line.subject, line.predicate));
    let shapes = entropy(&count(parsed));
    let predicted: usize = all.iter().map(|line| line.split(' ').count() + 1).sum();
    let floor = (choices + shapes * all.len() as f64) / predicted as f64;
    println!("shape and task {shapes:.4} nats a line, floor {floor:.4} nats a token");
    assert!((floor - 0.996).abs() < 0.01, "{floor}");
}

/// Murty et al. 2023: 6.37, 12.67, 18.97, 25.28 and 31.58 million at width 512; 3,150,336 a layer.
#[test]
fn parameters_are_those_of_the_paper() {
    for (layers, expected) in
        [(2, 6_373_447), (4, 12_674_119), (6, 18_974_791), (8, 25_275_463), (10, 31_576_135)]
    {
        let config = plateau_common::config::TrialConfig::from_json(&json!({
            "task": {"kind": "question-formation"},
            "model": {"kind": "transformer", "layers": layers, "heads": 8, "dim": 512, "norm": "post",
                "positions": "sinusoidal", "scaled-embedding": true, "read-out-bias": true, "dropout": 0.1,
                "mlp-dropout": true, "initialisation": "murty"},
            "train": {"steps": 1, "batch": 8, "optimizer": {"kind": "adamw", "lr": 1e-4}}
        }));
        let config = config.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(plateau_common::cost::parameters(&config), expected, "{layers} layers");
    }
}
