//! `plateau export`: the trials and metrics of a sweep as files for other tools.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, ValueEnum, ValueHint};
use plateau_analysis::cells::Dataset;
use plateau_analysis::export::{metrics_parquet, trials_parquet};
use plateau_common::results::TrialRecord;
use serde_json::json;

use super::Context;
use crate::client::DataDirectory;
use crate::exit::{Exit, Outcome};
use crate::sweeps::SweepArgument;
use crate::{export_csv, results, words};

const EXAMPLES: &str = "\
Examples:
  plateau export last --format parquet --out data
  plateau export last --format csv --out data
  duckdb -c \"select * from 'data/metrics.parquet' where metric = 'test_loss'\"

Writes two files: trials (one row per trial, one column per parameter) and metrics (one row per value).";

/// Options of `plateau export`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    #[command(flatten)]
    sweep: SweepArgument,

    /// Format of the files
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    format: Format,

    /// Folder to write; made if absent
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    out: PathBuf,

    #[command(flatten)]
    data: DataDirectory,
}

/// A format of exported files.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Format {
    /// Text, one line per row
    Csv,
    /// Columns, compressed; for pandas, DuckDB, Polars
    #[default]
    Parquet,
}

/// Writes the files.
pub async fn run(arguments: &Arguments, context: &Context) -> Outcome {
    let mut connection = context.connect(&arguments.data).await?;
    let records = results::fetch(&mut connection.service, &arguments.sweep.sweep).await?;
    connection.close().await?;
    let (trials, metrics) = encode(arguments.format, &records)?;
    let ending = match arguments.format {
        Format::Csv => "csv",
        Format::Parquet => "parquet",
    };
    std::fs::create_dir_all(&arguments.out)
        .with_context(|| format!("making the folder {}", arguments.out.display()))?;
    let mut files = Vec::new();
    for (name, bytes) in [("trials", trials), ("metrics", metrics)] {
        let path = arguments.out.join(format!("{name}.{ending}"));
        // Renamed into place, so that nobody reads half a file.
        let partial = path.with_extension(format!("{ending}.{}.partial", std::process::id()));
        std::fs::write(&partial, &bytes)
            .and_then(|()| std::fs::rename(&partial, &path))
            .with_context(|| format!("writing {}", path.display()))?;
        files.push((path, bytes.len() as u64));
    }
    context.output.answer(
        || {
            let lines = files.iter().map(|(path, size)| format!("{}  {}", path.display(), words::bytes(*size)));
            lines.collect::<Vec<_>>().join("\n")
        },
        || json!({ "files": files.iter().map(|(path, _)| path).collect::<Vec<_>>(), "trials": records.len() }),
        || files.iter().map(|(path, _)| path.display().to_string()).collect::<Vec<_>>().join("\n"),
    )?;
    Ok(Exit::Done)
}

/// The bytes of the trials file and of the metrics file.
fn encode(format: Format, records: &[TrialRecord]) -> anyhow::Result<(Vec<u8>, Vec<u8>)> {
    match format {
        Format::Csv => {
            let (mut trials, mut metrics) = (Vec::new(), Vec::new());
            export_csv::trials(records, &mut trials)?;
            export_csv::metrics(records, &mut metrics)?;
            Ok((trials, metrics))
        }
        Format::Parquet => {
            let data = Dataset::new(records, &[]);
            Ok((trials_parquet(&data)?, metrics_parquet(&data)?))
        }
    }
}
