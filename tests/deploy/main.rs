//! The launch scripts, executed: on this host for real; `ssh` and `srun` are stand-ins that run the command here, so that
//! everything but the other machine is exercised.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context as _, ensure};
use plateau_tests::{Bench, small_study, wait_for};

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(name)
}

fn bench() -> anyhow::Result<Bench> {
    Bench::new(env!("CARGO_BIN_EXE_plateau-tested"))
}

/// Runs a script in the test's folder with the binary under test, and `bin` of the test's folder first in PATH.
fn run_script(bench: &Bench, name: &str, arguments: &[&str]) -> anyhow::Result<Output> {
    let path = format!("{}:{}", bench.path("bin").display(), std::env::var("PATH")?);
    let output = Command::new("bash")
        .arg(script(name))
        .args(arguments)
        .current_dir(bench.path(""))
        .env("PLATEAU", bench.binary())
        .env("PATH", path)
        .env("HOME", bench.path(""))
        .env_remove("CUDA_VISIBLE_DEVICES")
        .env_remove("PLATEAU_CA")
        .env_remove("PLATEAU_TOKEN_FILE")
        .output()?;
    Ok(output)
}

fn succeed(bench: &Bench, name: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let output = run_script(bench, name, arguments)?;
    ensure!(
        output.status.success(),
        "{name} {arguments:?} ended with {}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// A stand-in for a command that is not on this machine.
fn stand_in(bench: &Bench, name: &str, text: &str) -> anyhow::Result<()> {
    std::fs::create_dir_all(bench.path("bin"))?;
    let path = bench.write(&format!("bin/{name}"), text)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// A port that was free a moment ago.
fn free_port() -> anyhow::Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

#[test]
fn one_host_starts_trains_and_stops() -> anyhow::Result<()> {
    let bench = bench()?;
    bench.write("study.toml", &small_study("one-host", "[0, 1]", 200))?;
    let listen = format!("127.0.0.1:{}", free_port()?);
    let url = format!("http://{listen}");
    let said = succeed(&bench, "local.sh", &["start", "--listen", &listen, "--cpu-agents", "2"])?;
    ensure!(said.matches("started agent-").count() == 2, "{said}");
    let again = run_script(&bench, "local.sh", &["start", "--listen", &listen])?;
    ensure!(!again.status.success(), "a second start was not refused");
    bench.succeed(["--coordinator", &url, "submit", "study.toml"])?;
    bench.succeed(["--coordinator", &url, "watch", "last"])?;
    let status = succeed(&bench, "local.sh", &["status"])?;
    ensure!(status.matches("running").count() == 3, "{status}");
    let stopped = succeed(&bench, "local.sh", &["stop"])?;
    ensure!(stopped.matches("stopped").count() == 3, "{stopped}");
    ensure!(!bench.run(["--coordinator", &url, "list"])?.status.success(), "the coordinator still answers");
    Ok(())
}

#[test]
fn one_host_beyond_loopback_makes_keys_and_trains_with_them() -> anyhow::Result<()> {
    let bench = bench()?;
    bench.write("study.toml", &small_study("with-keys", "[0]", 200))?;
    let port = free_port()?;
    let listen = format!("0.0.0.0:{port}");
    let start = ["start", "--listen", &listen, "--cpu-agents", "1"];
    let refused = run_script(&bench, "local.sh", &start)?;
    ensure!(String::from_utf8_lossy(&refused.stderr).contains("plateau keys init"), "{refused:?}");
    let said = succeed(&bench, "local.sh", &[&start[..], &["--keys", "keys"]].concat())?;
    ensure!(said.contains("--token-file keys/submit.token"), "{said}");
    let url = format!("https://127.0.0.1:{port}");
    let target = ["--coordinator", &url, "--ca", "keys/ca.pem", "--token-file", "keys/submit.token"];
    bench.succeed([&["submit", "study.toml"], &target[..]].concat())?;
    bench.succeed([&["watch", "last"], &target[..]].concat())?;
    let stopped = succeed(&bench, "local.sh", &["stop"])?;
    ensure!(stopped.matches("stopped").count() == 2, "{stopped}");
    Ok(())
}

#[test]
fn hosts_of_a_host_file_get_agents_through_ssh() -> anyhow::Result<()> {
    let bench = bench()?;
    // Options, host, then the remote command as one string: what sshd hands to the login shell.
    stand_in(
        &bench,
        "ssh",
        "#!/usr/bin/env bash\nwhile [[ $1 == -o ]]; do shift 2; done\nshift\nexec bash -c \"$*\"\n",
    )?;
    bench.write("hosts", "# two hosts\nnode1 cpu cpu\n\nnode2 cpu  # one more\n")?;
    let coordinator = bench.coordinator("data")?;
    let binary = bench.binary().to_string_lossy().into_owned();
    let start = ["start", "--coordinator", &coordinator.url, "--plateau", &binary, "hosts"];
    let said = succeed(&bench, "ssh/launch.sh", &start)?;
    ensure!(said.matches("started").count() == 3, "{said}");
    let target = ["--coordinator", coordinator.url.as_str()];
    wait_for("three agents", || {
        let agents = bench.json(["agents", target[0], target[1]])?.to_string();
        let all = ["node1-cpu-0", "node1-cpu-1", "node2-cpu-0"];
        Ok(all.iter().all(|name| agents.contains(name)).then_some(()))
    })?;
    let stopped = succeed(&bench, "ssh/launch.sh", &["stop", "hosts"])?;
    ensure!(stopped.matches("stopped").count() == 3, "{stopped}");
    Ok(())
}

#[test]
fn agents_started_through_ssh_are_given_the_keys() -> anyhow::Result<()> {
    let bench = bench()?;
    stand_in(
        &bench,
        "ssh",
        "#!/usr/bin/env bash\nwhile [[ $1 == -o ]]; do shift 2; done\nshift\necho \"$*\" >>said-to-ssh\nexec bash -c \"$*\"\n",
    )?;
    bench.write("hosts", "node1 cpu\n")?;
    bench.succeed(["keys", "init", "keys", "--out", "submit.token"])?;
    bench.succeed(["keys", "token", "add", "keys", "nodes", "--role", "agent", "--out", "agent.token"])?;
    let listen = format!("127.0.0.1:{}", free_port()?);
    let serve = ["coordinator", "--data-dir", "data", "--listen", &listen, "--keys", "keys"];
    let _coordinator = bench.spawn("coordinator", &serve)?;
    let url = format!("https://{listen}");
    let binary = bench.binary().to_string_lossy().into_owned();
    let start = ["start", "--coordinator", &url, "--plateau", &binary, "hosts"];
    ensure!(!run_script(&bench, "ssh/launch.sh", &start)?.status.success(), "started without keys");
    let keys = ["--ca", "keys/ca.pem", "--token-file", "agent.token"];
    let said = succeed(&bench, "ssh/launch.sh", &[&start[..5], &keys, &["hosts"]].concat())?;
    ensure!(said.matches("started").count() == 1, "{said}");
    let target = ["--coordinator", &url, "--ca", "keys/ca.pem", "--token-file", "submit.token"];
    wait_for("the agent", || {
        let agents = bench.json([&["agents"], &target[..]].concat())?.to_string();
        Ok(agents.contains("node1-cpu-0").then_some(()))
    })?;
    succeed(&bench, "ssh/launch.sh", &["stop", "hosts"])?;
    let token = std::fs::read_to_string(bench.path("agent.token"))?;
    let mode = bench.path(".plateau/agent.token").metadata()?.permissions().mode() & 0o777;
    ensure!(mode == 0o600, "the copied token has mode {mode:o}");
    let commands = std::fs::read_to_string(bench.path("said-to-ssh"))?;
    ensure!(!commands.contains(token.trim()), "a token on a command line");
    Ok(())
}

#[test]
fn a_slurm_job_on_two_nodes_makes_keys_of_its_own_and_deletes_them() -> anyhow::Result<()> {
    let bench = bench()?;
    // Two tasks on one node, under a name of this host that its certificate must carry.
    let srun = "#!/usr/bin/env bash\nwhile [[ $1 == --* ]]; do shift; done\nexport SLURM_LOCALID=0\n\
                for task in 0 1; do SLURM_PROCID=$task \"$@\" & done\ntrap 'kill $(jobs -p)' TERM\nwait\nwait\n";
    stand_in(&bench, "srun", srun)?;
    stand_in(&bench, "hostname", "#!/bin/sh\necho localhost\n")?;
    // Numbers the port; any job would do.
    let job = (free_port()? % 20_000).to_string();
    stand_in(
        &bench,
        "two-nodes",
        &format!("#!/bin/sh\nexport SLURM_JOB_NUM_NODES=2 SLURM_JOB_ID={job}\nexec bash \"$@\"\n"),
    )?;
    bench.write("study.toml", &small_study("slurm", "[0, 1]", 200))?;
    let output = Command::new(bench.path("bin/two-nodes"))
        .arg(script("slurm/plateau.sbatch"))
        .arg("study.toml")
        .current_dir(bench.path(""))
        .env("PLATEAU", bench.binary())
        .env("PATH", format!("{}:{}", bench.path("bin").display(), std::env::var("PATH")?))
        .env("HOME", bench.path(""))
        .env_remove("CUDA_VISIBLE_DEVICES")
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{output:?}");
    let report = bench.path("report-slurm/report.html");
    ensure!(report.metadata().is_ok_and(|found| found.len() > 10_000), "no report: {said}");
    let left: Vec<_> = std::fs::read_dir(bench.path("plateau-data/launch"))?.collect::<Result<_, _>>()?;
    ensure!(!left.iter().any(|entry| entry.file_name().to_string_lossy().starts_with("job-")), "{left:?}");
    Ok(())
}

#[test]
fn a_slurm_job_runs_its_study_to_the_report() -> anyhow::Result<()> {
    let bench = bench()?;
    let srun = "#!/usr/bin/env bash\nwhile [[ $1 == --* ]]; do shift; done\nexport SLURM_LOCALID=0 SLURM_PROCID=0\nexec \"$@\"\n";
    stand_in(&bench, "srun", srun)?;
    bench.write("study.toml", &small_study("slurm", "[0, 1]", 200))?;
    let said = succeed(&bench, "slurm/plateau.sbatch", &["study.toml"])?;
    let report = bench.path("report-slurm/report.html");
    ensure!(report.metadata().is_ok_and(|found| found.len() > 10_000), "no report: {said}");
    Ok(())
}

#[test]
fn systemd_units_start_the_binary_with_flags_it_has() -> anyhow::Result<()> {
    let bench = bench()?;
    for (unit, verb) in [("plateau-coordinator.service", "coordinator"), ("plateau-agent@.service", "agent")]
    {
        let text = std::fs::read_to_string(script("systemd").join(unit))?;
        let start =
            text.lines().find(|line| line.starts_with("ExecStart=")).context("a unit starts something")?;
        ensure!(start.contains(&format!("/plateau {verb} ")), "{start}");
        let help = bench.succeed([verb, "--help"])?;
        let flags = start.split([' ', '\'']).filter(|word| word.starts_with("--"));
        for flag in flags {
            ensure!(help.contains(flag), "`plateau {verb}` has no {flag}");
        }
        let sections = text.lines().filter(|line| line.starts_with('[')).collect::<Vec<_>>();
        ensure!(sections == ["[Unit]", "[Service]", "[Install]"], "{sections:?}");
    }
    if Command::new("systemd-analyze").arg("--version").output().is_ok() {
        // The binary need not be installed for the units to be well-formed; verify then says so and nothing else.
        let unit = script("systemd/plateau-coordinator.service");
        let output = Command::new("systemd-analyze").arg("verify").arg(unit).output()?;
        let complaints = String::from_utf8(output.stderr)?;
        let others =
            complaints.lines().filter(|line| line.contains("plateau") && !line.contains("not executable"));
        ensure!(others.count() == 0, "{complaints}");
    }
    Ok(())
}
