//! Every bad study of `bad_studies/` is refused, and its message is as stored: file, line, key, source line, advice.

use std::path::Path;

use plateau_common::study::{Format, Study, StudyError};

fn diagnose(text: &str, file_name: &str, overrides: &[(String, String)]) -> Option<StudyError> {
    let format = Format::from_file_name(file_name).expect("the file's ending names a format");
    match Study::parse(text, file_name, format, overrides) {
        Err(error) => Some(error),
        Ok(study) => study.overview().err(),
    }
}

#[test]
fn every_bad_study_has_its_message() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bad_studies");
    let mut names: Vec<String> = std::fs::read_dir(&folder)
        .expect("the folder of bad studies exists")
        .map(|entry| entry.expect("its entries can be listed").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    assert!(names.len() >= 24, "only {} bad studies", names.len());
    for name in names {
        let text = std::fs::read_to_string(folder.join(&name)).expect("a bad study is readable");
        let shown = format!("studies/{name}");
        let Some(error) = diagnose(&text, &shown, &[]) else { panic!("{name} was accepted") };
        insta::with_settings!({ snapshot_path => "snapshots/bad_studies", prepend_module_to_snapshot => false }, {
            insta::assert_snapshot!(name, error.to_string());
        });
    }
}

const GOOD: &str = r#"name = "good"
task = { kind = "query-count", vocab = 10 }
model = { kind = "transformer", layers = 1, heads = 2, dim = 8 }
train = { steps = 10, batch = 4, optimizer = { kind = "adam", lr = 0.1 } }
[axes]
"train.optimizer" = [{ kind = "adam", lr = 0.1 }, { kind = "sgd", lr = 0.2 }]
"#;

fn diagnose_override(path: &str, value: &str) -> String {
    let overrides = [(path.to_owned(), value.to_owned())];
    diagnose(GOOD, "studies/good.toml", &overrides).expect("the override is refused").to_string()
}

#[test]
fn errors_of_overrides_name_the_override() {
    insta::assert_snapshot!(
        [
            diagnose_override("model.heads", "3"),
            diagnose_override("model.head", "3"),
            diagnose_override("modle.heads", "3"),
            diagnose_override("axes.model.dim", "[8, 8]"),
            diagnose_override("axes.modle.dim", "[8]"),
            diagnose_override("model.dim", "[8, 16"),
            diagnose_override("model.dim", "wide"),
            diagnose_override("train.optimizer.lr", "0.5"),
            diagnose_override("analysis.kind", "x"),
            diagnose_override("", "x"),
        ]
        .join("\n\n")
    );
}

#[test]
fn a_file_beyond_the_limit_is_not_read() {
    let text = "#".repeat(plateau_common::limits::MAX_STUDY_BYTES + 1);
    let error = diagnose(&text, "studies/long.toml", &[]).expect("refused").to_string();
    assert!(error.starts_with("studies/long.toml: the study file has 1048577 bytes"), "{error}");
}
