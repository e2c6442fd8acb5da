//! The report: everything a study asked to know, as a self-contained page and the data files beside it.
//!
//! [`Report::build`] is pure; [`Report::write`] is the only output of this crate. Each file is written under another name
//! and then renamed, so a reader never sees half a file.

mod html;
mod lineage;

use std::io;
use std::path::{Path, PathBuf};

use plateau_common::results::TrialRecord;
use serde_json::{Value, json};

use crate::analyses::AnalysisResult;
use crate::analyses::population::measured_short;
use crate::cells::{self, Dataset};
use crate::export::{ExportError, cells_csv, metrics_parquet, trials_parquet};
use crate::figures::scene::DrawError;
use crate::plan::{Plan, is_file_name};

/// Where the results come from, as lines for people and machines: version, time, machine, sweep id and so on.
#[derive(Clone, Debug, Default)]
pub struct Provenance {
    /// Names and values, in the order they are shown.
    pub entries: Vec<(String, String)>,
}

/// A drawn figure as files.
#[derive(Clone, Debug)]
pub struct FigureFile {
    /// File name without extension.
    pub stem: String,
    /// The SVG document.
    pub svg: String,
    /// The PNG file.
    pub png: Vec<u8>,
    /// What it shows.
    pub caption: String,
}

/// A complete report.
#[derive(Clone)]
pub struct Report {
    /// The page.
    pub html: String,
    /// The figures.
    pub figures: Vec<FigureFile>,
    /// One line per cell.
    pub cells_csv: String,
    /// One row per trial.
    pub trials_parquet: Vec<u8>,
    /// One row per trial, metric and step.
    pub metrics_parquet: Vec<u8>,
    /// All results for machines.
    pub summary_json: String,
    /// All results, for the terminal.
    pub results: Vec<AnalysisResult>,
}

/// Why a report could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A figure could not be drawn.
    #[error("figure `{figure}`: {cause}")]
    Figure {
        /// Its name.
        figure: String,
        /// Why.
        cause: DrawError,
    },
    /// A table could not be encoded.
    #[error(transparent)]
    Export(#[from] ExportError),
}

/// Why a report could not be written.
#[derive(Debug, thiserror::Error)]
#[error("writing the report to `{}`: {cause}; check that the folder exists, is writable and not full", path.display())]
pub struct WriteError {
    /// The file or folder concerned.
    pub path: PathBuf,
    /// What the system said.
    pub cause: io::Error,
}

impl Report {
    /// Runs the plan on the records and binds everything together. `records` may come in any order and be incomplete.
    pub fn build(
        study: &str,
        description: &str,
        plan: &Plan,
        records: &[TrialRecord],
        provenance: &Provenance,
    ) -> Result<Report, BuildError> {
        let data = Dataset::new(records, &plan.preferred());
        let results: Vec<AnalysisResult> = plan.analyses.iter().map(|analysis| analysis.run(&data)).collect();
        let figures = plan
            .figures
            .iter()
            .map(|figure| {
                let drawing = figure.draw(&data, &results);
                let failed = |cause| BuildError::Figure { figure: figure.name().to_owned(), cause };
                Ok(FigureFile {
                    stem: figure.name().to_owned(),
                    svg: drawing.scene.to_svg().map_err(failed)?,
                    png: drawing.scene.to_png().map_err(failed)?,
                    caption: drawing.caption,
                })
            })
            .collect::<Result<Vec<_>, BuildError>>()?;
        let summary = summary(study, description, &data, &results, &figures, provenance);
        Ok(Report {
            html: html::page(study, description, &data, &results, &figures, provenance),
            cells_csv: cells_csv(&data, &results),
            trials_parquet: trials_parquet(&data)?,
            metrics_parquet: metrics_parquet(&data)?,
            summary_json: format!("{summary:#}\n"),
            figures,
            results,
        })
    }

    /// Writes `report.html`, `summary.json`, `cells.csv`, `trials.parquet`, `metrics.parquet` and `figures/*` into
    /// `folder`, creating it; figures of an earlier report there that this one does not have are removed. The page comes last: where it is there, everything it refers to is.
    pub fn write(&self, folder: &Path) -> Result<(), WriteError> {
        let figures = folder.join("figures");
        std::fs::create_dir_all(&figures).map_err(|cause| WriteError { path: figures.clone(), cause })?;
        let earlier = earlier_figures(&folder.join("summary.json"));
        for figure in &self.figures {
            replace(&figures.join(format!("{}.svg", figure.stem)), figure.svg.as_bytes())?;
            replace(&figures.join(format!("{}.png", figure.stem)), &figure.png)?;
        }
        replace(&folder.join("cells.csv"), self.cells_csv.as_bytes())?;
        replace(&folder.join("trials.parquet"), &self.trials_parquet)?;
        replace(&folder.join("metrics.parquet"), &self.metrics_parquet)?;
        replace(&folder.join("summary.json"), self.summary_json.as_bytes())?;
        replace(&folder.join("report.html"), self.html.as_bytes())?;
        let stale = |stem: &&String| self.figures.iter().all(|figure| figure.stem != **stem);
        for stem in earlier.iter().filter(stale) {
            for extension in ["svg", "png"] {
                remove(&figures.join(format!("{stem}.{extension}")))?;
            }
        }
        Ok(())
    }
}

/// The figures that the report in a folder lists, by its summary; none where there is no summary that can be read. Only
/// these are a report's to remove: the folder may hold other people's pictures.
fn earlier_figures(summary: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(summary).unwrap_or_default();
    let summary: Value = serde_json::from_str(&text).unwrap_or_default();
    let figures = summary["figures"].as_array().cloned().unwrap_or_default();
    let names = figures.iter().filter_map(|figure| figure["name"].as_str());
    names.filter(|name| is_file_name(name)).map(str::to_owned).collect()
}

fn remove(path: &Path) -> Result<(), WriteError> {
    match std::fs::remove_file(path) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
            Err(WriteError { path: path.to_owned(), cause })
        }
        _ => Ok(()),
    }
}

fn replace(path: &Path, bytes: &[u8]) -> Result<(), WriteError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.partial", std::process::id()));
    let partial = path.with_file_name(name);
    let written = std::fs::write(&partial, bytes).and_then(|()| std::fs::rename(&partial, path));
    written.map_err(|cause| {
        // The first error is the one to report; a leftover file is harmless.
        let _ = std::fs::remove_file(&partial);
        WriteError { path: path.to_owned(), cause }
    })
}

fn summary(
    study: &str,
    description: &str,
    data: &Dataset,
    results: &[AnalysisResult],
    figures: &[FigureFile],
    provenance: &Provenance,
) -> Value {
    let endings: serde_json::Map<String, Value> =
        data.endings().into_iter().map(|(state, count)| (state.name().to_owned(), count.into())).collect();
    let fixed: serde_json::Map<String, Value> =
        data.fixed.iter().map(|(name, value)| (name.clone(), cells::json(Some(value)))).collect();
    let following: serde_json::Map<String, Value> =
        data.following.iter().map(|(name, leader)| (name.clone(), leader.as_str().into())).collect();
    json!({
        "format": "plateau-summary-1",
        "study": study,
        "description": description,
        "provenance": provenance.entries.iter().map(|(name, value)| json!({"name": name, "value": value})).collect::<Vec<_>>(),
        "trials": data.trials().count(),
        "cells": data.cells.len(),
        "endings": endings,
        "caveats": measured_short(data).into_iter().collect::<Vec<_>>(),
        "varied": data.labels,
        "varied_along": following,
        "fixed": fixed,
        "lineage": lineage::json(data.trials()),
        "analyses": results.iter().map(AnalysisResult::to_json).collect::<Vec<_>>(),
        "figures": figures.iter().map(|figure| json!({"name": figure.stem, "caption": figure.caption})).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use plateau_common::node::Node;

    use super::*;
    use crate::analyses::Known;
    use crate::fixture::{counting, grokking};

    fn plan() -> Plan {
        let analyses = [
            serde_json::json!({"kind": "summary"}),
            serde_json::json!({"kind": "grokking", "linear-rule": true}),
        ];
        let figures = [serde_json::json!({"kind": "curves"}), serde_json::json!({"kind": "survival"})];
        let nodes = |items: &[Value]| items.iter().map(Node::from_json).collect::<Vec<_>>();
        Plan::read(&nodes(&analyses), &nodes(&figures), Known::default()).unwrap()
    }

    #[test]
    fn all_files_are_written_and_nothing_partial_remains() {
        let folder = tempfile::tempdir().unwrap();
        let provenance = Provenance { entries: vec![("version".to_owned(), "0.1.0".to_owned())] };
        let report = Report::build("grokking", "why", &plan(), &grokking(5), &provenance).unwrap();
        let target = folder.path().join("deep/report");
        report.write(&target).unwrap();
        report.write(&target).unwrap();
        let names = |folder: &Path| {
            let entries = std::fs::read_dir(folder).unwrap();
            let mut names: Vec<String> =
                entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        let expected =
            ["cells.csv", "figures", "metrics.parquet", "report.html", "summary.json", "trials.parquet"];
        assert_eq!(names(&target), expected);
        assert_eq!(
            names(&target.join("figures")),
            ["curves.png", "curves.svg", "survival.png", "survival.svg"]
        );
        let summary: Value = serde_json::from_str(&report.summary_json).unwrap();
        assert_eq!(summary["endings"]["completed"], 10);
        assert_eq!(summary["analyses"][1]["result"]["groups"][0]["delay"]["value"], "inf");
        assert!(!report.summary_json.contains("null"));
    }

    #[test]
    fn figures_of_an_earlier_report_do_not_stay_but_other_files_do() {
        let folder = tempfile::tempdir().unwrap();
        let write = |plan: &Plan| {
            let report = Report::build("s", "", plan, &[], &Provenance::default()).unwrap();
            report.write(folder.path()).unwrap();
        };
        write(&plan());
        let figures = folder.path().join("figures");
        std::fs::write(figures.join("mine.svg"), "x").unwrap();
        assert!(figures.join("survival.svg").exists());
        let curves = [Node::from_json(&serde_json::json!({"kind": "curves"}))];
        write(&Plan::read(&[], &curves, Known::default()).unwrap());
        let mut names: Vec<_> =
            std::fs::read_dir(&figures).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["curves.png", "curves.svg", "mine.svg"]);
    }

    #[test]
    fn a_summary_cannot_name_files_outside_the_figures() {
        let folder = tempfile::tempdir().unwrap();
        let summary = folder.path().join("summary.json");
        std::fs::write(&summary, r#"{"figures":[{"name":"../../x"},{"name":"kept"},{"name":3}]}"#).unwrap();
        assert_eq!(earlier_figures(&summary), ["kept"]);
        std::fs::write(&summary, "{").unwrap();
        assert!(earlier_figures(&summary).is_empty());
    }

    #[test]
    fn completed_trials_with_cut_curves_are_told_on_the_page_and_in_the_summary() {
        let mut records = grokking(2);
        records[0].series.values_mut().for_each(|curve| {
            curve.steps.truncate(17);
            curve.values.truncate(17);
        });
        let report = Report::build("s", "", &plan(), &records, &Provenance::default()).unwrap();
        let told = "1 trial was last evaluated at step 8000 of 10000";
        assert!(report.html.contains(told));
        let summary: Value = serde_json::from_str(&report.summary_json).unwrap();
        assert!(summary["caveats"][0].as_str().unwrap().starts_with(told));
        assert!(report.results.iter().all(|result| result.caveats.iter().any(|text| text.starts_with(told))));
    }

    #[test]
    fn an_unwritable_folder_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "x").unwrap();
        let report = Report::build("s", "", &plan(), &[], &Provenance::default()).unwrap();
        let error = report.write(&file).unwrap_err().to_string();
        assert!(error.contains("file"), "{error}");
    }

    #[test]
    fn user_text_is_escaped_everywhere() {
        let hostile = "<script>alert(1)</script>&\"'";
        let mut records = grokking(2);
        for (index, record) in records.iter_mut().enumerate() {
            let word = format!("{hostile}{}", index % 2);
            record.parameters.insert("task.kind".to_owned(), plateau_common::results::Parameter::Text(word));
            record
                .parameters
                .insert(hostile.to_owned(), plateau_common::results::Parameter::Text(hostile.to_owned()));
        }
        let provenance = Provenance { entries: vec![(hostile.to_owned(), hostile.to_owned())] };
        let report = Report::build(hostile, hostile, &plan(), &records, &provenance).unwrap();
        assert!(!report.html.contains("<script"), "{}", report.html);
        assert!(report.html.contains("&lt;script&gt;"));
        let (_, findings) = report.html.split_once("<ul class=\"findings\">").unwrap();
        assert!(findings.split_once("</ul>").unwrap().0.contains("= &lt;script&gt;"));
        assert!(report.figures.iter().all(|figure| !figure.svg.contains("<script")));
    }

    #[test]
    fn the_same_trials_in_another_order_give_the_same_bytes() {
        let mut records = counting(3);
        let one = Report::build("s", "", &plan(), &records, &Provenance::default()).unwrap();
        records.reverse();
        let other = Report::build("s", "", &plan(), &records, &Provenance::default()).unwrap();
        assert!(
            one.html == other.html
                && one.summary_json == other.summary_json
                && one.cells_csv == other.cells_csv
        );
        assert!(one.trials_parquet == other.trials_parquet && one.metrics_parquet == other.metrics_parquet);
    }
}
