//! What must hold of a data directory after a simulation, whatever went wrong in it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, ensure};
use plateau_common::config::TrialConfig;
use plateau_common::identity::TrialId;
use plateau_common::metrics::Evaluation;
use plateau_common::study::Study;
use plateau_coordinator::store::{Inspection, TrialRow};
use plateau_coordinator::{rpc, verify};
use plateau_proto::convert;
use rusqlite::types::ValueRef;

use crate::trainer::{diverges_at, evaluation, weights_hash};
use crate::world::World;

/// Columns that are for display: times by the coordinator's wall clock.
const TIMES: [&str; 5] = ["at", "failed_at", "granted", "started", "submitted"];
/// The table of the directory's id, which is drawn from the system's random numbers and used by nothing here.
const DIRECTORY: &str = "directory";

/// Everything that must hold once the sweeps have ended. Stops the cluster.
pub fn check(world: &mut World) -> anyhow::Result<()> {
    world.halt();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(verify::check(&world.data(), None))?;
    ensure!(report.is_clean(), "verify finds {:#?}", report.findings);

    let inspection = Inspection::open(&world.data())?;
    let rows: BTreeMap<String, TrialRow> =
        inspection.trials()?.into_iter().map(|row| (row.id.clone(), row)).collect();
    let mut expected = BTreeSet::new();
    for study in world.plan.studies() {
        let study = Study::from_source(&study).map_err(|error| anyhow::anyhow!("{error}"))?;
        for config in study.trials() {
            let config = config.map_err(|error| anyhow::anyhow!("{error}"))?;
            let id = TrialId::of(&config);
            if expected.insert(id.to_string()) {
                let row = rows.get(&id.to_string()).with_context(|| format!("trial {id} is not there"))?;
                check_trial(&inspection, row, id, &config).with_context(|| format!("trial {id}"))?;
            }
        }
    }
    ensure!(rows.len() == expected.len(), "{} trials, expected {}", rows.len(), expected.len());

    let state = inspection.state()?;
    let stored: Vec<&str> = state.sweeps.values().map(|sweep| sweep.id.as_str()).collect();
    let told = world.told();
    for (study, ids) in &told.acknowledged {
        ensure!(ids.windows(2).all(|pair| pair[0] == pair[1]), "{study} became {ids:?}");
        let count = stored.iter().filter(|id| Some(**id) == ids.first().map(String::as_str)).count();
        ensure!(count == 1, "the sweep of {study} is there {count} times");
    }
    ensure!(stored.len() == told.acknowledged.len(), "{} sweeps of {told:?}", stored.len());

    let violations = world.work.violations();
    ensure!(violations.is_empty(), "trained by two at once: {violations:#?}");
    Ok(())
}

/// One trial: one ending, the one that it has in peace; the metrics that it has in peace, each once; attempts that grow.
fn check_trial(
    inspection: &Inspection,
    row: &TrialRow,
    id: TrialId,
    config: &TrialConfig,
) -> anyhow::Result<()> {
    let (trial, steps) = (id.to_string(), config.train.steps);
    let diverged = diverges_at(&trial, steps);
    let end = diverged.unwrap_or(steps);
    match diverged {
        Some(at) => ensure!(row.state == "diverged" && row.diverged_at == Some(at as i64), "{row:?}"),
        None => ensure!(row.state == "completed" && row.completed_step == steps as i64, "{row:?}"),
    }
    ensure!(row.ending_step == Some(end as i64) && row.lease_agent.is_none(), "{row:?}");

    let attempts = inspection.reader().attempts(id)?;
    let numbers: Vec<u64> = attempts.iter().map(|attempt| attempt.attempt).collect();
    ensure!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "attempts {numbers:?}");
    ensure!(numbers.last().copied() == Some(row.attempt as u64), "attempts {numbers:?} of {row:?}");

    let checkpoints = inspection.checkpoints()?;
    let last =
        checkpoints.iter().filter(|checkpoint| checkpoint.trial == trial).max_by_key(|saved| saved.step);
    let last = last.context("no state was kept")?;
    ensure!(last.step == end as i64 && last.weights_hash == weights_hash(&trial, end), "{last:?}");

    let chunks = inspection.reader().chunks(id)?;
    let mut found: Vec<Evaluation> = Vec::new();
    for chunk in rpc::lineage(&attempts, &chunks, steps).map_err(anyhow::Error::msg)? {
        found.extend(convert::metrics_chunk("metrics", chunk)?.into_evaluations());
    }
    let last = diverged.map_or(steps, |at| at - 1);
    let due = (0..=last).filter(|step| config.evaluate.is_due(*step, steps));
    let peace: Vec<Evaluation> = due.map(|step| evaluation(&trial, step)).collect();
    ensure!(bits(&found) == bits(&peace), "other metrics than in peace: {found:?}");
    Ok(())
}

/// Equal where the bits are, NaN included.
fn bits(evaluations: &[Evaluation]) -> Vec<(u64, Vec<(&str, u64)>)> {
    evaluations
        .iter()
        .map(|evaluation| {
            let values = evaluation.values.iter().map(|(name, value)| (name.as_str(), value.to_bits()));
            (evaluation.step, values.collect())
        })
        .collect()
}

/// Every row of every table as text, in order; `with_times`: also what was read from the wall clock.
pub fn contents(world: &World, with_times: bool) -> anyhow::Result<Vec<String>> {
    let path = world.data().join(plateau_coordinator::store::DATABASE_FILE);
    let connection = rusqlite::Connection::open(path)?;
    let mut statement =
        connection.prepare("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")?;
    let tables: Vec<String> = statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    let mut lines = Vec::new();
    for table in tables.iter().filter(|table| *table != DIRECTORY) {
        let mut statement = connection.prepare(&format!("SELECT * FROM {table}"))?;
        let columns: Vec<String> = statement.column_names().map(str::to_owned).collect();
        let mut rows = statement.query([])?;
        let mut text = Vec::new();
        while let Some(row) = rows.next()? {
            let mut line = table.clone();
            for (place, column) in columns.iter().enumerate() {
                if with_times || !TIMES.contains(&column.as_str()) {
                    line.push_str(&format!(" {column}={}", shown(row.get_ref(place)?)));
                }
            }
            text.push(line);
        }
        text.sort();
        lines.extend(text);
    }
    Ok(lines)
}

fn shown(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => "null".to_owned(),
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) => format!("{number:e}"),
        ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned(),
        ValueRef::Blob(bytes) => blake3::hash(bytes).to_hex()[..16].to_owned(),
    }
}
