//! The binary as people and scripts meet it: help, exit codes, errors, `check`. Nothing here needs a coordinator.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn studies() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/studies")
}

/// Runs `plateau` in the folder of the test studies, with nothing inherited that changes what it says.
fn plateau(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_plateau"));
    command.current_dir(studies()).args(arguments);
    for name in [
        "PLATEAU_COORDINATOR",
        "PLATEAU_CA",
        "PLATEAU_TOKEN_FILE",
        "PLATEAU_CHECKPOINT_STORE",
        "RUST_LOG",
        "COLUMNS",
    ] {
        command.env_remove(name);
    }
    command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("running {command:?}: {error}"))
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

const COMMANDS: [&[&str]; 39] = [
    &["run"],
    &["check"],
    &["submit"],
    &["list"],
    &["show"],
    &["trials"],
    &["watch"],
    &["cancel"],
    &["delete"],
    &["pause"],
    &["resume"],
    &["extend"],
    &["fork"],
    &["requeue"],
    &["explain"],
    &["logs"],
    &["report"],
    &["export"],
    &["checkpoint"],
    &["checkpoint", "list"],
    &["checkpoint", "fetch"],
    &["agents"],
    &["drain"],
    &["undrain"],
    &["devices"],
    &["verify"],
    &["gc"],
    &["backup"],
    &["coordinator"],
    &["agent"],
    &["keys"],
    &["keys", "init"],
    &["keys", "certify"],
    &["keys", "token"],
    &["keys", "token", "add"],
    &["keys", "token", "list"],
    &["keys", "token", "revoke"],
    &["completion"],
    &[],
];

#[test]
fn help_of_every_command() {
    for command in COMMANDS {
        let output = plateau(&[command, &["--help"]].concat());
        assert_eq!(output.status.code(), Some(0), "{command:?}");
        let name = if command.is_empty() { "plateau".to_owned() } else { command.join("-") };
        insta::assert_snapshot!(format!("help-{name}"), stdout(&output));
    }
}

#[test]
fn check_tells_what_a_study_holds_and_costs() {
    let output = plateau(&["check", "small.toml"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    insta::assert_snapshot!("check-small", stdout(&output));

    let json = plateau(&["check", "small.toml", "--output", "json", "--set", "axes.seed=[0,1,2]"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["trials"], 6);
    assert_eq!(json["cells"], 2);
    assert_eq!(json["cohorts"].as_array().unwrap().len(), 2);

    let quiet = plateau(&["check", "small.toml", "--output", "quiet"]);
    assert_eq!(stdout(&quiet), "4\n");
}

/// A folder of its own in the system's, gone with the test.
#[allow(clippy::unwrap_used, reason = "a test may fail where it stands")]
fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn the_data_of_a_study_are_written_as_text() {
    let own = folder();
    let path = own.path().join("data");
    let shown = path.to_str().unwrap();
    let output = plateau(&["check", "small.toml", "--dump", shown]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let set = path.join("1-modular");
    let said = format!("data        {}: training.txt (24 lines), test.txt (25 lines)", set.display());
    assert!(stdout(&output).lines().any(|line| line == said), "{}", stdout(&output));
    let read = |name: &str| std::fs::read_to_string(set.join(name)).unwrap();
    let (training, test) = (read("training.txt"), read("test.txt"));
    let mut rows: Vec<&str> = training.lines().chain(test.lines()).collect();
    rows.sort_unstable();
    rows.dedup();
    assert_eq!(rows.len(), 49, "the whole table, each row once");
    for row in rows {
        let (problem, answer) = row.split_once('\t').unwrap();
        let numbers: Vec<u32> = problem.split(' ').map(|number| number.parse().unwrap()).collect();
        assert_eq!(((numbers[0] + numbers[1]) % 7).to_string(), answer);
    }
    let settings: serde_json::Value = serde_json::from_str(&read("settings.json")).unwrap();
    assert_eq!(
        (&settings["task"]["modulus"], &settings["seed"]),
        (&serde_json::json!(7), &serde_json::json!(0))
    );

    // What is there stays.
    let again = plateau(&["check", "small.toml", "--dump", shown]);
    assert_eq!(again.status.code(), Some(1));
    let said = format!("error: the folder {shown} is not empty: name a new one, or an empty one");
    assert!(stderr(&again).starts_with(&said), "{}", stderr(&again));
    assert_eq!(read("test.txt"), test);
}

/// Two settings of one task are two sets, and of endless examples the first are written.
#[test]
fn every_data_set_has_a_folder_and_endless_ones_are_cut() {
    let own = folder();
    let path = own.path().join("data");
    let tasks = "axes.task=[{ kind = \"noise\", vocab = 5, length = 3 }, { kind = \"noise\", vocab = 6, length = 3 }]";
    let shown = path.to_str().unwrap();
    let study = ["check", "small.toml", "--set", "train.batch=8", "--set", tasks];
    let output = plateau(&[&study[..], &["--dump", shown, "--output", "json"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let dumped = json["dumped"].as_array().unwrap();
    assert_eq!(dumped.len(), 2);
    assert_eq!(
        dumped[1]["files"][0],
        serde_json::json!({"name": "training.txt", "lines": 1000, "is_cut": true})
    );
    let training = std::fs::read_to_string(path.join("2-noise/training.txt")).unwrap();
    assert_eq!(training.lines().count(), 1000);
}

/// Files may be 4 KiB large: the examples are longer.
#[test]
fn data_that_cannot_be_written_are_an_error_that_names_the_file() {
    let own = folder();
    let script = "trap '' XFSZ; ulimit -f 4; exec \"$0\" check small.toml --set train.batch=8 --set \"$1\" --dump \"$2\"";
    let task = "task={ kind = \"noise\", vocab = 50, length = 9 }";
    let mut command = Command::new("bash");
    command.current_dir(studies()).args(["-c", script, env!("CARGO_BIN_EXE_plateau"), task]).arg(own.path());
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", stdout(&output));
    let file = own.path().join("1-noise/training.txt");
    let said =
        format!("error: writing {}; what is in its folder is not complete: File too large", file.display());
    assert!(stderr(&output).starts_with(&said), "{}", stderr(&output));
}

#[test]
fn a_wrong_command_line_is_code_2() {
    for wrong in [
        &["check"] as &[&str],
        &["frobnicate"],
        &["check", "small.toml", "--sett", "a=b"],
        &["check", "small.toml", "--set", "nonsense"],
        &["extend", "last"],
        &["trials", "last", "--state", "dead"],
        &["agent", "--device", "gpu"],
        &["run", "small.toml", "--coordinator", "http://127.0.0.1:1"],
    ] {
        let output = plateau(wrong);
        assert_eq!(output.status.code(), Some(2), "{wrong:?}: {}", stderr(&output));
        assert!(stdout(&output).is_empty(), "{wrong:?} wrote to standard output");
        assert!(stderr(&output).contains("error: "), "{wrong:?}: {}", stderr(&output));
    }
    let output = plateau(&["--output", "json", "check", "small.toml", "--sett", "a=b"]);
    assert_eq!(output.status.code(), Some(2));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(json["error"].as_str().unwrap().contains("--sett"));
}

#[test]
fn a_bad_study_is_code_4_with_file_and_line() {
    for command in ["check", "submit", "run"] {
        let output = plateau(&[command, "unknown-key.toml"]);
        assert_eq!(output.status.code(), Some(4), "{command}");
        let text = stderr(&output);
        assert!(
            text.starts_with("error: unknown-key.toml:14:1: model.heads: is required but missing"),
            "{text}"
        );
        assert!(text.contains("did you mean `heads`?"), "{text}");
    }
    assert!(!studies().join("plateau-data").exists(), "a bad study must not leave a data directory");

    let output = plateau(&["check", "unknown-analysis.toml"]);
    assert_eq!(output.status.code(), Some(4));
    let text = stderr(&output);
    assert!(
        text.starts_with("error: unknown-analysis.toml:26:8: analysis[0].kind: unknown kind `sumary`"),
        "{text}"
    );

    let output = plateau(&["check", "small.toml", "--set", "model.heads=3"]);
    assert_eq!(output.status.code(), Some(4));
    assert!(stderr(&output).contains("--set model.heads=3"), "{}", stderr(&output));

    let output = plateau(&["check", "unknown-key.toml", "--output", "json"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["exit_code"], 4);
    assert!(stderr(&output).is_empty());
}

#[test]
fn a_device_that_is_not_there_is_refused_before_anything_starts() {
    for command in
        [&["agent", "--device", "cuda:4096"] as &[&str], &["run", "small.toml", "--device", "cuda:4096"]]
    {
        let output = plateau(command);
        assert_eq!(output.status.code(), Some(1), "{command:?}");
        let why = if cfg!(feature = "cuda") { "no such card" } else { "building with `--features cuda`" };
        let text = stderr(&output);
        assert!(text.starts_with("error: training on cuda:4096: ") && text.contains(why), "{text}");
    }
    assert!(!studies().join("plateau-data").exists(), "nothing was started");
}

#[test]
fn a_missing_or_nameless_study_file_is_explained() {
    let output = plateau(&["check", "absent.toml"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("reading the study file absent.toml"), "{}", stderr(&output));
    let output = plateau(&["check", "small"]);
    assert_eq!(output.status.code(), Some(4));
    assert!(stderr(&output).contains("ends in .toml"), "{}", stderr(&output));
}

#[test]
fn an_unreachable_coordinator_is_code_1_with_what_to_do() {
    for command in [
        &["list"] as &[&str],
        &["show", "last"],
        &["trials", "last"],
        &["submit", "small.toml"],
        &["explain", "x"],
        &["agents"],
    ] {
        let output = plateau(&[command, &["--coordinator", "http://127.0.0.1:1"]].concat());
        assert_eq!(output.status.code(), Some(1), "{command:?}");
        let text = stderr(&output);
        assert!(text.starts_with("error: no coordinator answers at http://127.0.0.1:1 ("), "{text}");
        assert!(text.contains("plateau coordinator --data-dir DIR"), "{text}");
    }
    let output = plateau(&["list", "--data-dir", "absent"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("there is no data directory absent"), "{}", stderr(&output));
}

#[test]
fn completion_scripts_know_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let output = plateau(&["completion", shell]);
        assert_eq!(output.status.code(), Some(0));
        assert!(stdout(&output).contains("checkpoint"), "{shell}");
    }
}

#[test]
fn the_processor_is_always_a_device() {
    assert!(stdout(&plateau(&["devices", "--output", "quiet"])).starts_with("cpu\n"));
}
