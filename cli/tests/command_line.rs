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
