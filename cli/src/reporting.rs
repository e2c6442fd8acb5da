//! From records to a report folder, and the tables of it that are printed.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use plateau_analysis::analyses::AnalysisResult;
use plateau_analysis::report::Report;
use plateau_common::results::TrialRecord;
use serde_json::Value;

use crate::client::shell_word;
use crate::output::Output;
use crate::study_file::ReadStudy;
use crate::table::{Columns, text};
use crate::words;

/// A report that lies in its folder.
pub struct Written {
    folder: PathBuf,
    page: PathBuf,
    results: Vec<AnalysisResult>,
}

/// Rows of an analysis table that are printed; the report has them all.
const PRINTED_ROWS: usize = 40;

/// Analyses the records as the study says and writes the report into `folder`, replacing an older one.
pub fn write(read: &ReadStudy, records: &[TrialRecord], folder: &Path) -> anyhow::Result<Written> {
    let report = Report::build(&read.study.name, &read.study.description, &read.plan, records);
    report.write(folder).with_context(|| format!("writing the report to {}", folder.display()))?;
    Ok(Written { folder: folder.to_owned(), page: folder.join("report.html"), results: report.results })
}

impl Written {
    /// The tables and caveats of all analyses, for a terminal.
    pub fn tables(&self, output: &Output) -> String {
        let mut blocks = Vec::new();
        for result in &self.results {
            let mut block = vec![result.title.clone()];
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
    pub fn summary(&self) -> Value {
        self.results.iter().map(AnalysisResult::to_json).collect()
    }

    /// Where the report lies and how to open it.
    pub fn where_it_is(&self) -> String {
        let opener = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
        format!(
            "report: {}\n  {opener} {}",
            self.folder.display(),
            shell_word(&self.page.to_string_lossy())
        )
    }
}
