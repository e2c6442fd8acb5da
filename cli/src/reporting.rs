//! From records to a report folder, and the tables of it that are printed.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::Context as _;
use plateau_analysis::analyses::AnalysisResult;
use plateau_analysis::report::{Provenance, Report};
use plateau_common::results::TrialRecord;
use serde_json::Value;

use crate::client::shell_word;
use crate::device;
use crate::output::Output;
use crate::study_file::ReadStudy;
use crate::table::{Columns, text};
use crate::words;

/// A report that lies in its folder.
pub struct Written {
    folder: PathBuf,
    report: Report,
}

/// Rows of an analysis table that are printed; the report has them all.
const PRINTED_ROWS: usize = 40;

/// Analyses the records of `sweep` as the study says and writes the report into `folder`, replacing an older one.
pub fn write(
    read: &ReadStudy,
    sweep: &str,
    records: &[TrialRecord],
    folder: &Path,
) -> anyhow::Result<Written> {
    let study = &read.study;
    let report =
        Report::build(&study.name, &study.description, &read.plan, records, &provenance(read, sweep))
            .with_context(|| format!("making the report of `{}`", study.name))?;
    report.write(folder)?;
    Ok(Written { folder: folder.to_owned(), report })
}

/// Where the results come from.
#[allow(clippy::disallowed_methods, reason = "for display")]
fn provenance(read: &ReadStudy, sweep: &str) -> Provenance {
    let source = read.study.source();
    let overrides: Vec<String> =
        source.overrides.iter().map(|(path, value)| format!("{path}={value}")).collect();
    let mut entries = vec![
        ("sweep".to_owned(), sweep.to_owned()),
        ("study file".to_owned(), source.file_name.clone()),
        ("study digest".to_owned(), read.study.digest().to_owned()),
        ("plateau".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        ("written".to_owned(), humantime::format_rfc3339_seconds(SystemTime::now()).to_string()),
        ("on".to_owned(), device::host()),
    ];
    if !overrides.is_empty() {
        entries.insert(2, ("overrides".to_owned(), overrides.join(", ")));
    }
    Provenance { entries }
}

impl Written {
    /// The tables and caveats of all analyses, for a terminal.
    pub fn tables(&self, output: &Output) -> String {
        let mut blocks = Vec::new();
        for result in &self.report.results {
            let mut block = vec![result.title.clone()];
            block.extend(result.findings.iter().map(|finding| words::one_line(finding)));
            for table in &result.tables {
                if !table.title.is_empty() && table.title != result.title {
                    block.push(format!("\n{}", table.title));
                }
                let headings: Vec<&str> = table.columns.iter().map(String::as_str).collect();
                let mut columns = Columns::new(output, &headings);
                for row in table.rows.iter().take(PRINTED_ROWS) {
                    columns.push(row.iter().map(|entry| text(words::one_line(entry))).collect());
                }
                block.push(columns.render());
                if table.rows.len() > PRINTED_ROWS {
                    block.push(format!("… and {} more rows in the report", table.rows.len() - PRINTED_ROWS));
                }
            }
            block.extend(result.caveats.iter().map(|caveat| format!("note: {caveat}")));
            blocks.push(block.join("\n"));
        }
        blocks.join("\n\n")
    }

    /// All results, for programs.
    pub fn results(&self) -> Value {
        self.report.results.iter().map(AnalysisResult::to_json).collect()
    }

    /// Where the report lies and how to open it.
    pub fn where_it_is(&self) -> String {
        let opener = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
        format!(
            "report: {}\n  {opener} {}",
            self.folder.display(),
            shell_word(&self.folder.join("report.html").to_string_lossy())
        )
    }
}
