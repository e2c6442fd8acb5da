//! `plateau report`: statistics, figures and tables of a sweep, finished or not.

use std::path::PathBuf;

use anyhow::bail;
use clap::{Args, ValueHint};
use plateau_proto::{convert, v1};
use serde_json::json;

use super::Context;
use crate::client::{DataDirectory, Service, refusal};
use crate::exit::{Exit, Outcome};
use crate::study_file::{self, ReadStudy};
use crate::sweeps::SweepArgument;
use crate::{reporting, results};

const EXAMPLES: &str = "\
Examples:
  plateau report last
  plateau report counting-quick --out report --data-dir plateau-data
  plateau report last --study study.toml      with the analyses and figures of this file

The folder holds report.html (self-contained), figures as SVG and PNG, cells.csv, trials.parquet, metrics.parquet and
summary.json. A sweep that still runs is reported as far as it is.";

/// Options of `plateau report`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    #[command(flatten)]
    sweep: SweepArgument,

    /// Folder to write [default: report-NAME]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    out: Option<PathBuf>,

    /// Study file to take analyses and figures from, instead of the study as submitted
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    study: Option<PathBuf>,

    #[command(flatten)]
    data: DataDirectory,
}

/// Writes the report.
pub async fn run(arguments: &Arguments, context: &Context) -> Outcome {
    let sweep = &arguments.sweep.sweep;
    let given = match &arguments.study {
        Some(path) => Some(study_file::StudyArguments { study: path.clone(), overrides: Vec::new() }.read()?),
        None => None,
    };
    let mut connection = context.connect(&arguments.data).await?;
    let (id, read) = study_of(&mut connection.service, sweep, given).await?;
    let records = results::fetch(&mut connection.service, sweep).await?;
    connection.close().await?;
    if records.is_empty() {
        return Err(anyhow::anyhow!("the sweep `{sweep}` has no trials to report").into());
    }
    let folder =
        arguments.out.clone().unwrap_or_else(|| PathBuf::from(format!("report-{}", read.study.name)));
    let report = reporting::write(&read, &id, &records, &folder)?;
    context.output.answer(
        || format!("{}\n{}", report.tables(&context.output), report.where_it_is()),
        || json!({ "sweep": id, "report": folder, "analyses": report.results() }),
        || folder.display().to_string(),
    )?;
    Ok(Exit::Done)
}

/// The whole id of a sweep and its study: the one given, else the one submitted.
async fn study_of(
    service: &mut Service,
    sweep: &str,
    given: Option<ReadStudy>,
) -> anyhow::Result<(String, ReadStudy)> {
    let answer = service.describe_sweep(v1::DescribeSweepRequest { sweep: sweep.to_owned() }).await;
    let answer =
        answer.map_err(|status| refusal(&format!("looking at the sweep `{sweep}`"), &status))?.into_inner();
    let id = convert::required("summary", answer.summary)?.sweep;
    if let Some(read) = given {
        return Ok((id, read));
    }
    let source = study_file::from_wire(answer.study)?;
    match study_file::read_study(&source) {
        Ok(read) => Ok((id, read)),
        Err(failure) => bail!("reading the study of the sweep `{sweep}`: {:#}", failure.error),
    }
}
