//! A checkpoint loaded in Python with the safetensors package gives the same outputs.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use plateau_common::tasks::Input;
use plateau_tests::{Bench, small_study};

use crate::{bench, trials};

/// The Python with numpy and safetensors: the one named by `PLATEAU_PYTHON`, which must have them, or the machine's own
/// if it has them.
fn python() -> anyhow::Result<Option<String>> {
    let named = std::env::var("PLATEAU_PYTHON").ok();
    let python = named.clone().unwrap_or_else(|| "python3".to_owned());
    let probe = Command::new(&python).args(["-c", "import numpy, safetensors"]).output();
    let usable = probe.as_ref().is_ok_and(|output| output.status.success());
    ensure!(
        usable || named.is_none(),
        "PLATEAU_PYTHON={python} cannot import numpy and safetensors: {probe:?}"
    );
    Ok(usable.then_some(python))
}

fn outputs_in_python(python: &str, checkpoint: &Path, tokens: &[Vec<u32>]) -> anyhow::Result<Vec<Vec<f64>>> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/logits.py");
    let mut child = Command::new(python)
        .arg(script)
        .arg(checkpoint)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut input = child.stdin.take().context("a pipe to Python")?;
    input.write_all(serde_json::to_string(tokens)?.as_bytes())?;
    drop(input);
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "Python ended with {}", output.status);
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn compare(bench: &Bench, python: &str, name: &str, change: impl Fn(String) -> String) -> anyhow::Result<()> {
    let file = format!("{name}.toml");
    bench.write(&file, &change(small_study(name, "[5]", 150)))?;
    bench.succeed(["run", &file, "--agents", "1"])?;
    let all = trials(bench, ["--data-dir", "plateau-data"], "last")?;
    let id = all[0]["trial"].as_str().context("an id")?;
    let folder = format!("{name}-checkpoint");
    bench.succeed(["checkpoint", "fetch", id, "--out", &folder, "--data-dir", "plateau-data"])?;
    let checkpoint = bench.path(&folder);
    let tokens: Vec<Vec<u32>> = (0..20).map(|row| vec![row % 13, (row * 5 + 2) % 13, 13]).collect();
    let found = outputs_in_python(python, &checkpoint, &tokens)?;
    let input = Input::Tokens { tokens: tokens.concat(), length: 3 };
    let expected = plateau_lab::load_model(&checkpoint)?.outputs(&input)?;
    let found: Vec<f64> = found.into_iter().flatten().collect();
    ensure!(found.len() == expected.len() && expected.len().is_multiple_of(20));
    for (found, expected) in found.iter().zip(&expected) {
        ensure!(
            (found - expected).abs() < 1e-4 * (1.0 + expected.abs()),
            "{name}: {found} is not {expected}"
        );
    }
    Ok(())
}

#[test]
fn python_reads_checkpoints_and_gets_the_same_outputs() -> anyhow::Result<()> {
    // On a machine without Python packages there is nothing to compare with; `.ci/run` makes them and names them.
    let Some(python) = python()? else { return Ok(()) };
    let bench = bench()?;
    compare(&bench, &python, "plain", |study| study)?;
    compare(&bench, &python, "pre-norm-rotary", |study| {
        study
            .replace(
                "norm = \"none\"",
                "norm = \"pre\"\npositions = \"rotary\"\nactivation = \"geglu\"\nlayers = 2",
            )
            .replacen("layers = 1\n", "", 1)
    })?;
    compare(&bench, &python, "post-norm-tied", |study| {
        study.replace("norm = \"none\"", "norm = \"post\"\npositions = \"sinusoidal\"\nactivation = \"gelu\"\ntied = true\nattention-bias = true\ncausal = false")
    })
}
