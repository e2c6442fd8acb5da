//! Keys, tokens and the trainer's surroundings, with real processes.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, ensure};
use plateau_tests::{Bench, Process, small_study, wait_for};

use crate::bench;

/// A coordinator with keys; every process logs everything it can.
struct Locked {
    bench: Bench,
    _coordinator: Process,
    url: String,
}

impl Locked {
    fn start() -> anyhow::Result<Locked> {
        let bench = bench()?;
        bench.succeed(["keys", "init", "keys", "--out", "submit.token"])?;
        bench.succeed([
            "keys",
            "token",
            "add",
            "keys",
            "worker",
            "--role",
            "agent",
            "--out",
            "agent.token",
        ])?;
        let listen = ["coordinator", "--data-dir", "data", "--listen", "0.0.0.0:0", "--keys", "keys"];
        let coordinator = talkative(&bench, "coordinator", &listen, &[])?;
        let address = wait_for("the coordinator's address", || {
            let Ok(text) = std::fs::read_to_string(bench.path("data/coordinator.json")) else {
                return Ok(None);
            };
            let json: serde_json::Value = serde_json::from_str(&text)?;
            ensure!(json["tls"] == true, "{json}");
            Ok(json["address"].as_str().map(str::to_owned))
        })?;
        let port = address.rsplit(':').next().context("a port")?;
        let url = format!("https://127.0.0.1:{port}");
        Ok(Locked { bench, _coordinator: coordinator, url })
    }

    /// What every client is told; `token` is a file in the test's folder.
    fn target<'a>(&'a self, token: &'a str) -> [&'a str; 6] {
        ["--coordinator", &self.url, "--ca", "keys/ca.pem", "--token-file", token]
    }

    fn agent(&self) -> anyhow::Result<Process> {
        let arguments = [
            "agent",
            "--name",
            "worker",
            "--device",
            "cpu",
            "--threads",
            "1",
            "--work-dir",
            "work",
            "--coordinator",
        ];
        let environment = [
            ("PLATEAU_CA", "keys/ca.pem"),
            ("PLATEAU_TOKEN_FILE", "agent.token"),
            ("AWS_SECRET_ACCESS_KEY", "a secret of the agent's"),
        ];
        talkative(&self.bench, "worker", &[&arguments[..], &[&self.url]].concat(), &environment)
    }
}

/// Starts a process that logs at the finest level to `NAME.log`.
fn talkative(
    bench: &Bench,
    name: &str,
    arguments: &[&str],
    environment: &[(&str, &str)],
) -> anyhow::Result<Process> {
    let environment: Vec<(&str, &str)> = [&[("RUST_LOG", "trace")], environment].concat();
    bench.spawn_with(name, arguments, &environment)
}

/// The children of a process.
fn trainers(parent: u32) -> anyhow::Result<Vec<u32>> {
    let mut found = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{parent}/task"))? {
        // A thread may have ended meanwhile.
        let Ok(children) = std::fs::read_to_string(task?.path().join("children")) else { continue };
        found.extend(children.split_whitespace().filter_map(|id| id.parse::<u32>().ok()));
    }
    Ok(found)
}

fn commands_contain(secrets: &[String]) -> anyhow::Result<bool> {
    let output = Command::new("ps").args(["-A", "-o", "args="]).output();
    let Ok(output) = output else { return Ok(false) };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(secrets.iter().any(|secret| text.contains(secret)))
}

fn files_below(folder: &Path, found: &mut Vec<std::path::PathBuf>) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() { files_below(&path, found)? } else { found.push(path) }
    }
    Ok(())
}

#[test]
fn case_61_revoked_in_the_middle_an_agent_trains_on_and_finishes_with_a_new_token() -> anyhow::Result<()> {
    let locked = Locked::start()?;
    let bench = &locked.bench;
    bench.write("study.toml", &small_study("locked", "[0]", 6000))?;
    let target = locked.target("submit.token");
    let submit: Vec<&str> = [&["submit", "study.toml"], &target[..]].concat();
    wait_for("the coordinator to answer", || Ok(bench.run(&submit)?.status.success().then_some(())))?;
    let agent = locked.agent()?;
    let state = || -> anyhow::Result<serde_json::Value> {
        let list: Vec<&str> = [&["trials", "last"], &target[..]].concat();
        bench.json(list)?["trials"][0].as_object().cloned().map(Into::into).context("a trial")
    };
    wait_for("the trial to train", || Ok((state()?["state"] == "running").then_some(())))?;
    let trainer = *trainers(agent.id())?.first().context("no trainer")?;

    let mut secrets = vec![std::fs::read_to_string(bench.path("agent.token"))?.trim().to_owned()];
    bench.succeed(["keys", "token", "revoke", "keys", "worker"])?;
    wait_for("the agent to be refused", || {
        Ok(agent.log_text().contains("a valid token is required").then_some(()))
    })?;
    ensure!(Path::new(&format!("/proc/{trainer}")).exists(), "the trainer was stopped at once");
    // Renewed in place: the agent reads its token file again when it connects again.
    let again = ["keys", "token", "add", "keys", "worker-again", "--role", "agent", "--out", "new.token"];
    bench.succeed(again)?;
    std::fs::rename(bench.path("new.token"), bench.path("agent.token"))?;
    bench.succeed([&["watch", "last"], &target[..]].concat())?;
    let trial = state()?;
    ensure!(trial["state"] == "completed" && trial["attempt"] == 1, "{trial}");

    // Nothing anybody wrote or was started with tells a token or a private key.
    for file in ["agent.token", "submit.token"] {
        secrets.push(std::fs::read_to_string(bench.path(file))?.trim().to_owned());
    }
    for file in ["ca-key.pem", "server-key.pem"] {
        let pem = std::fs::read_to_string(bench.path("keys").join(file))?;
        secrets.push(pem.lines().nth(1).context("a line of the key")?.to_owned());
    }
    ensure!(secrets.iter().all(|secret| secret.len() >= 64), "not what is searched for");
    ensure!(!commands_contain(&secrets)?, "a secret on a command line");
    let mut files = Vec::new();
    files_below(&bench.path(""), &mut files)?;
    let mut searched = 0;
    for file in files {
        let holder = file.extension().is_some_and(|extension| extension == "token")
            || file.file_name().is_some_and(|name| name.to_string_lossy().ends_with("-key.pem"));
        if holder {
            continue;
        }
        let bytes = std::fs::read(&file)?;
        let text = String::from_utf8_lossy(&bytes);
        for secret in &secrets {
            // Half of it would be as bad as all of it.
            let digits = secret.trim_start_matches("plateau_");
            ensure!(!text.contains(&digits[..32]), "a secret in {}", file.display());
        }
        searched += 1;
    }
    let logs = [&agent.log_text(), &std::fs::read_to_string(bench.path("coordinator.log"))?].map(String::len);
    ensure!(
        searched > 5 && logs.iter().all(|length| *length > 10_000),
        "{searched} files, logs of {logs:?} bytes"
    );
    ensure!(agent.log_text().contains("TRACE"), "the agent's log is not as fine as it can be");
    Ok(())
}

#[test]
fn case_61_the_users_view_of_keys_and_refusals() -> anyhow::Result<()> {
    let locked = Locked::start()?;
    let bench = &locked.bench;
    let list: Vec<&str> = [&["list"], &locked.target("submit.token")[..]].concat();
    wait_for("the coordinator to answer", || Ok(bench.run(&list)?.status.success().then_some(())))?;
    bench.succeed(["keys", "token", "add", "keys", "reader", "--role", "read", "--out", "read.token"])?;
    bench.write("study.toml", &small_study("refused", "[0]", 100))?;
    let failure = |arguments: &[&str]| -> anyhow::Result<String> {
        let output = bench.run(arguments)?;
        ensure!(output.status.code() == Some(1), "{arguments:?}: {output:?}");
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    };
    // The list is read again each second, so a new token is good soon.
    let read = locked.target("read.token");
    wait_for("the new token", || {
        Ok(bench.run([&["list"], &read[..]].concat())?.status.success().then_some(()))
    })?;
    let text = failure(&[&["submit", "study.toml"], &read[..]].concat())?;
    ensure!(text.contains("needs a token with the role `submit`"), "{text}");
    let text = failure(&["list", "--coordinator", &locked.url])?;
    ensure!(text.contains("--ca FILE"), "{text}");
    let text = failure(&["list", "--coordinator", &locked.url, "--ca", "keys/ca.pem"])?;
    ensure!(text.contains("a valid token is required"), "{text}");
    bench.succeed(["keys", "init", "others"])?;
    let text = failure(&["list", "--coordinator", &locked.url, "--ca", "others/ca.pem"])?;
    ensure!(text.contains("UnknownIssuer") || text.contains("certificate"), "{text}");
    let plain = locked.url.replace("https", "http");
    failure(&["list", "--coordinator", &plain])?;
    let text = failure(&["list", "--coordinator", "http://192.0.2.1:7733", "--token-file", "read.token"])?;
    ensure!(text.contains("the token is not sent there"), "{text}");
    std::fs::set_permissions(bench.path("read.token"), std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
    let text = failure(&[&["list"], &read[..]].concat())?;
    ensure!(text.contains("chmod 600 read.token"), "{text}");
    let text = failure(&["coordinator", "--data-dir", "open", "--listen", "0.0.0.0:0"])?;
    ensure!(text.contains("plateau keys init"), "{text}");
    // Local commands find the coordinator by its data directory, with keys too.
    let by_folder = ["list", "--data-dir", "data", "--ca", "keys/ca.pem", "--token-file", "submit.token"];
    bench.succeed(by_folder)?;
    let text = failure(&["run", "study.toml", "--data-dir", "data"])?;
    ensure!(text.contains("without keys"), "{text}");
    let listed = bench.json(["keys", "token", "list", "keys"])?;
    let names: Vec<&str> =
        listed["tokens"].as_array().into_iter().flatten().filter_map(|t| t["name"].as_str()).collect();
    ensure!(names == ["first", "worker", "reader"], "{listed}");
    Ok(())
}

#[test]
fn case_65_a_trainer_inherits_no_secrets_and_has_a_folder_of_its_own() -> anyhow::Result<()> {
    let locked = Locked::start()?;
    let bench = &locked.bench;
    bench.write("study.toml", &small_study("confined", "[0]", 1_000_000))?;
    let target = locked.target("submit.token");
    let submit: Vec<&str> = [&["submit", "study.toml"], &target[..]].concat();
    wait_for("the coordinator to answer", || Ok(bench.run(&submit)?.status.success().then_some(())))?;
    let agent = locked.agent()?;
    let trainer = wait_for("a trainer", || Ok(trainers(agent.id())?.first().copied()))?;
    // Until it has become another program, a new process looks like its parent.
    wait_for("the trainer to be one", || {
        let command = std::fs::read_to_string(format!("/proc/{trainer}/cmdline"))?;
        Ok(command.split('\0').nth(1).filter(|verb| *verb == "trainer").map(|_| ()))
    })?;
    let environment = String::from_utf8(std::fs::read(format!("/proc/{trainer}/environ"))?)?;
    let names: Vec<&str> =
        environment.split('\0').filter_map(|variable| variable.split('=').next()).collect();
    ensure!(names.contains(&"PATH") && names.contains(&"RUST_LOG"), "{names:?}");
    ensure!(!names.iter().any(|name| name.starts_with("PLATEAU") || name.contains("SECRET")), "{names:?}");
    ensure!(!environment.contains("secret of the agent"), "{names:?}");
    let folder = std::fs::read_link(format!("/proc/{trainer}/cwd"))?;
    ensure!(folder.starts_with(std::fs::canonicalize(bench.path("work"))?), "{}", folder.display());
    wait_for("the trial to train there", || {
        let list: Vec<&str> = [&["trials", "last"], &target[..]].concat();
        Ok((bench.json(list)?["trials"][0]["state"] == "running").then_some(()))
    })?;
    Ok(())
}
