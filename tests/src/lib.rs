//! Support for the whole-system tests: the binary under test, processes that do not outlive a test, and a folder each.

pub mod outcome;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};

/// How long anything a test waits for may take. Far above what it takes, even on a loaded machine: it bounds a hang.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// A folder of its own for one test, with the binary under test.
pub struct Bench {
    binary: PathBuf,
    folder: tempfile::TempDir,
}

impl Bench {
    /// `binary` is `env!("CARGO_BIN_EXE_plateau-tested")`.
    pub fn new(binary: &str) -> anyhow::Result<Self> {
        Ok(Bench { binary: PathBuf::from(binary), folder: tempfile::tempdir()? })
    }

    /// The binary under test.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// A path inside the test's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file into the test's folder.
    pub fn write(&self, name: &str, text: &str) -> anyhow::Result<PathBuf> {
        let path = self.path(name);
        std::fs::write(&path, text)?;
        Ok(path)
    }

    /// `plateau ARGUMENTS`, in the test's folder.
    pub fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env_remove("PLATEAU_COORDINATOR")
            .env_remove("PLATEAU_CA")
            .env_remove("PLATEAU_TOKEN_FILE")
            .stdin(Stdio::null());
        command
    }

    /// Runs `plateau ARGUMENTS` to its end.
    pub fn run<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> anyhow::Result<Output> {
        let mut command = self.command(arguments);
        let output = command.output().with_context(|| format!("running {command:?}"))?;
        Ok(output)
    }

    /// Runs `plateau ARGUMENTS`, which must succeed, and gives its standard output.
    pub fn succeed<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> anyhow::Result<String> {
        let mut command = self.command(arguments);
        let output = command.output()?;
        ensure!(
            output.status.success(),
            "{command:?} ended with {}\n--- stdout\n{}\n--- stderr\n{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?)
    }

    /// The same, with `--output json`, parsed.
    pub fn json<S: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = S>,
    ) -> anyhow::Result<serde_json::Value> {
        let flags = ["--output", "json"].map(|flag| OsStr::new(flag).to_owned());
        let arguments = arguments.into_iter().map(|argument| argument.as_ref().to_owned());
        let text = self.succeed(flags.into_iter().chain(arguments))?;
        serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))
    }

    /// Starts `plateau ARGUMENTS` in the background; its output goes to `NAME.log` in the test's folder.
    pub fn spawn(&self, name: &str, arguments: &[&str]) -> anyhow::Result<Process> {
        self.spawn_with(name, arguments, &[])
    }

    /// The same with further environment variables.
    pub fn spawn_with(
        &self,
        name: &str,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> anyhow::Result<Process> {
        let log = self.path(&format!("{name}.log"));
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&log)?;
        let mut command = self.command(arguments);
        let child =
            command.envs(environment.iter().copied()).stdout(file.try_clone()?).stderr(file).spawn()?;
        Ok(Process { name: name.to_owned(), child, log })
    }

    /// Starts a coordinator on a free port of loopback with the data directory `data`, and waits until it answers.
    pub fn coordinator(&self, data: &str) -> anyhow::Result<Coordinator> {
        self.coordinator_at(data, "127.0.0.1:0")
    }

    /// The same at a given address.
    pub fn coordinator_at(&self, data: &str, listen: &str) -> anyhow::Result<Coordinator> {
        let file = self.path(data).join("coordinator.json");
        // A killed coordinator leaves its file behind; the new one's must be told from it.
        let _ = std::fs::remove_file(&file);
        let mut process =
            self.spawn("coordinator", &["coordinator", "--data-dir", data, "--listen", listen])?;
        let address = wait_for("the coordinator's address", || {
            if let Some(status) = process.child.try_wait()? {
                bail!("the coordinator ended with {status}: {}", process.log_text());
            }
            let Ok(text) = std::fs::read_to_string(&file) else { return Ok(None) };
            let Ok(json) = serde_json::from_str::<serde_json::Value>(&text) else { return Ok(None) };
            Ok(json["address"].as_str().map(str::to_owned))
        })?;
        let url = format!("http://{address}");
        wait_for("the coordinator to answer", || {
            Ok(self.run(["--coordinator", &url, "list"])?.status.success().then_some(()))
        })?;
        Ok(Coordinator { process, address, url })
    }

    /// Starts a CPU agent with one thread.
    pub fn agent(&self, name: &str, url: &str) -> anyhow::Result<Process> {
        let arguments = [
            "agent",
            "--coordinator",
            url,
            "--name",
            name,
            "--device",
            "cpu",
            "--threads",
            "1",
            "--work-dir",
            "work",
        ];
        self.spawn(name, &arguments)
    }
}

/// A coordinator in the background.
pub struct Coordinator {
    /// Its process.
    pub process: Process,
    /// `127.0.0.1:PORT`.
    pub address: String,
    /// `http://127.0.0.1:PORT`.
    pub url: String,
}

/// A process in the background; killed when dropped.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has written so far.
    pub fn log_text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// `kill -9`, and waits for the end.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Sends a signal by name, e.g. `TERM`.
    pub fn signal(&self, signal: &str) -> anyhow::Result<()> {
        let status =
            Command::new("kill").args([format!("-{signal}"), self.child.id().to_string()]).status()?;
        ensure!(status.success(), "kill -{signal} {} failed", self.name);
        Ok(())
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> anyhow::Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Waits for the end and gives the exit code.
    pub fn wait(&mut self) -> anyhow::Result<Option<i32>> {
        let what = format!("{} to end", self.name);
        let status = wait_for(&what, || Ok(self.child.try_wait()?)).with_context(|| {
            format!("its log: {}", std::fs::read_to_string(&self.log).unwrap_or_default())
        })?;
        Ok(status.code())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks again and again until there is an answer; an error ends the waiting.
pub fn wait_for<T>(what: &str, mut ask: impl FnMut() -> anyhow::Result<Option<T>>) -> anyhow::Result<T> {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        ensure!(start.elapsed() < PATIENCE, "waited {} s in vain for {what}", PATIENCE.as_secs());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A study of `trials` seeds of modular addition that takes about `steps` quick steps each.
pub fn small_study(name: &str, seeds: &str, steps: u32) -> String {
    format!(
        r#"name = "{name}"
[task]
kind = "modular"
modulus = 13
train-share = 0.5
[model]
layers = 1
heads = 2
dim = 16
mlp-dim = 32
norm = "none"
[train]
steps = {steps}
optimizer = {{ kind = "adamw", lr = 3e-3, weight-decay = 1.0 }}
[evaluate]
every = 100
[checkpoint]
every = 200
[axes]
seed = {seeds}
"#
    )
}
