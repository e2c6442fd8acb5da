//! The ready study files ask only for analyses and figures that exist, over parameters that they have.

use std::path::{Path, PathBuf};

use plateau_analysis::analyses::Known;
use plateau_analysis::metric::measured;
use plateau_analysis::plan::Plan;
use plateau_analysis::report::{Provenance, Report};
use plateau_common::study::{Format, Study};

fn study_files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../studies");
    let folders = std::fs::read_dir(folder).expect("the studies are beside this crate");
    let mut files: Vec<PathBuf> = folders
        .map(|entry| entry.expect("a readable folder").path())
        .filter(|path| path.is_dir())
        .flat_map(|path| std::fs::read_dir(path).expect("a readable folder"))
        .map(|entry| entry.expect("a readable file").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    files.sort();
    files
}

#[test]
fn every_study_has_a_plan_and_an_empty_report() {
    let files = study_files();
    assert!(files.len() >= 4, "{files:?}");
    for file in files {
        let name = file.display().to_string();
        let text = std::fs::read_to_string(&file).expect("a readable file");
        let study =
            Study::parse(&text, &name, Format::Toml, &[]).unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut parameters = study.base_paths();
        parameters.extend(study.varying_paths());
        let trials = study.trials().map(|config| config.unwrap_or_else(|error| panic!("{name}: {error}")));
        let metrics: Vec<String> = trials.flat_map(|config| measured(&config)).collect();
        let known = Known { parameters: Some(&parameters), metrics: Some(&metrics) };
        let plan = Plan::read(&study.analysis, &study.figures, known)
            .unwrap_or_else(|error| panic!("{name}: {}", study.error(error)))
            .with_axes(study.varying_paths());
        assert_eq!(plan.figures.len(), study.figures.len(), "{name}");
        let report = Report::build(&study.name, &study.description, &plan, &[], &Provenance::default())
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(report.html.contains("There are no trials yet."), "{name}");
    }
}
