//! The data of a study as text files for a person to read (`plateau check --dump`).
//!
//! Owns folders and files; how examples are written down is [`plateau_common::tasks::listings`]'s business.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use plateau_common::study::Study;
use plateau_common::tasks::{Listing, Seeds, TaskConfig, listings};
use serde_json::json;

use crate::words;

/// Training examples that are written of a task that draws ever new ones.
const ENDLESS_EXAMPLES: usize = 1_000;
/// Most data sets that are written at once.
const MAX_DATA_SETS: usize = 100;

/// A data set that was written.
pub struct Dumped {
    /// Its folder.
    pub folder: PathBuf,
    /// Seed of the trials whose data these are.
    pub seed: u64,
    /// File name and number of lines of each set, and whether these are only the first of examples without end.
    pub files: Vec<(String, usize, bool)>,
}

impl Dumped {
    /// In words.
    pub fn describe(&self) -> String {
        let file = |(name, lines, is_cut): &(String, usize, bool)| {
            let first = if *is_cut { "the first " } else { "" };
            format!("{name} ({first}{} lines)", words::whole(*lines as u128))
        };
        let files: Vec<String> = self.files.iter().map(file).collect();
        format!("{}: {}", self.folder.display(), files.join(", "))
    }
}

/// Writes every data set of the study into a folder of its own in `folder`, which must be new or empty. Of trials with equal task
/// settings, those of the first one's seed.
pub fn write(study: &Study, folder: &Path) -> anyhow::Result<Vec<Dumped>> {
    let sets = data_sets(study)?;
    claim(folder)?;
    let digits = sets.len().to_string().len();
    let dumped = sets.iter().enumerate().map(|(index, (task, seed))| {
        let own = folder.join(format!("{:0digits$}-{}", index + 1, task.kind()));
        write_set(task, *seed, own)
    });
    dumped.collect()
}

/// The tasks of a study, each with the seed of its first trial.
fn data_sets(study: &Study) -> anyhow::Result<Vec<(TaskConfig, u64)>> {
    let mut sets: Vec<(TaskConfig, u64)> = Vec::new();
    for config in study.trials() {
        let config = config?;
        if sets.iter().any(|(task, _)| *task == config.task) {
            continue;
        }
        if sets.len() == MAX_DATA_SETS {
            bail!(
                "the study has more than {MAX_DATA_SETS} data sets: choose some of them with --set, such as --set axes.seed=[0] or \
                 one value of an axis of the task"
            );
        }
        sets.push((config.task, config.seed));
    }
    Ok(sets)
}

/// Makes the folder; one that holds something is somebody's.
fn claim(folder: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("making the folder {}", folder.display()))?;
    let mut entries =
        std::fs::read_dir(folder).with_context(|| format!("looking into the folder {}", folder.display()))?;
    if entries.next().is_some() {
        bail!("the folder {} is not empty: name a new one, or an empty one", folder.display());
    }
    Ok(())
}

fn write_set(task: &TaskConfig, seed: u64, folder: PathBuf) -> anyhow::Result<Dumped> {
    std::fs::create_dir(&folder).with_context(|| format!("making the folder {}", folder.display()))?;
    let settings = serde_json::to_string_pretty(&json!({ "task": task, "seed": seed }))?;
    write_lines(&folder.join("settings.json"), [settings.as_str()])?;
    let mut files = Vec::new();
    for Listing { name, lines, is_cut } in listings(task, Seeds::from(seed), ENDLESS_EXAMPLES) {
        let file = format!("{name}.txt");
        write_lines(&folder.join(&file), lines.iter().map(String::as_str))?;
        files.push((file, lines.len(), is_cut));
    }
    Ok(Dumped { folder, seed, files })
}

fn write_lines<'a>(path: &Path, lines: impl IntoIterator<Item = &'a str>) -> anyhow::Result<()> {
    let write = || -> io::Result<()> {
        let mut file = BufWriter::new(File::create_new(path)?);
        for line in lines {
            writeln!(file, "{line}")?;
        }
        // What a full disk refuses must not be lost with the writer.
        file.flush()
    };
    write().with_context(|| format!("writing {}; what is in its folder is not complete", path.display()))
}
