//! The tables, and what version of them a file holds.

use rusqlite::Connection;

use super::StoreError;

/// Version of the tables written by this build; kept in SQLite's `user_version`.
pub const VERSION: i64 = MIGRATIONS.len() as i64 + 1;

/// The tables of version 1. A new file gets these and then every migration, as an old file does.
pub(super) const TABLES: &str = "
CREATE TABLE sweeps (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    mode TEXT NOT NULL,
    reason TEXT NOT NULL,
    submitted INTEGER NOT NULL,
    failed_trial TEXT,
    failed_reason TEXT,
    failed_at INTEGER,
    source BLOB
);
CREATE TABLE members (
    sweep INTEGER NOT NULL,
    position INTEGER NOT NULL,
    trial TEXT NOT NULL,
    budget INTEGER NOT NULL,
    cohort TEXT NOT NULL,
    cost INTEGER NOT NULL,
    PRIMARY KEY (sweep, position)
) WITHOUT ROWID;
CREATE TABLE configurations (
    trial TEXT PRIMARY KEY,
    json TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE trials (
    id TEXT PRIMARY KEY,
    state TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    step INTEGER NOT NULL,
    completed_step INTEGER NOT NULL,
    diverged_at INTEGER,
    reason TEXT NOT NULL,
    train_seconds REAL NOT NULL,
    crashes INTEGER NOT NULL,
    crashed_on TEXT NOT NULL,
    alone INTEGER NOT NULL,
    keep INTEGER NOT NULL,
    ending_attempt INTEGER,
    ending_kind TEXT,
    ending_step INTEGER,
    ending_detail TEXT,
    ending_hash TEXT,
    lease_agent TEXT,
    lease_incarnation TEXT,
    lease_budget INTEGER,
    lease_from INTEGER,
    lease_revoked INTEGER
) WITHOUT ROWID;
CREATE TABLE attempts (
    trial TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    agent TEXT NOT NULL,
    granted INTEGER NOT NULL,
    from_step INTEGER NOT NULL,
    started INTEGER,
    PRIMARY KEY (trial, attempt)
) WITHOUT ROWID;
CREATE TABLE checkpoints (
    trial TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    step INTEGER NOT NULL,
    weights_hash TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    PRIMARY KEY (trial, attempt, step)
) WITHOUT ROWID;
CREATE TABLE metrics (
    trial TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    chunk INTEGER NOT NULL,
    digest BLOB NOT NULL,
    data BLOB NOT NULL,
    UNIQUE (trial, attempt, chunk)
);
CREATE TABLE logs (
    trial TEXT NOT NULL,
    number INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    at INTEGER NOT NULL,
    level TEXT NOT NULL,
    message TEXT NOT NULL,
    PRIMARY KEY (trial, number)
) WITHOUT ROWID;
CREATE TABLE agents (
    name TEXT PRIMARY KEY,
    incarnation TEXT NOT NULL,
    host TEXT NOT NULL,
    device TEXT NOT NULL,
    description TEXT NOT NULL,
    max_cohort INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE history (
    subject TEXT NOT NULL,
    number INTEGER NOT NULL,
    at INTEGER NOT NULL,
    event TEXT NOT NULL,
    PRIMARY KEY (subject, number)
) WITHOUT ROWID;
";

/// The first leads from version 1 to version 2, and so on. One that was released is never changed.
pub(super) const MIGRATIONS: [&str; 6] = [
    // Why an agent is given nothing more; none: it is not drained.
    "ALTER TABLE agents ADD COLUMN drained TEXT",
    // Which checkpoints are kept for good; none: only the newest.
    "ALTER TABLE trials ADD COLUMN keep_every INTEGER",
    // Agents lost with a trial.
    "ALTER TABLE trials ADD COLUMN losses INTEGER NOT NULL DEFAULT 0",
    NUMBERED_TRIALS,
    // Which checkpoints around a trial's transition are kept (JSON), and where it was; and the largest numbers of what was
    // deleted, which never come again (one row).
    "CREATE TABLE retention (trial INTEGER PRIMARY KEY, keep_around TEXT NOT NULL, transition INTEGER);
     CREATE TABLE fence (attempt INTEGER NOT NULL, sweep INTEGER NOT NULL);
     INSERT INTO fence VALUES (0, 0);",
    // Whose forks trials are; the parent may be gone.
    "CREATE TABLE forks (trial INTEGER PRIMARY KEY, parent TEXT NOT NULL, step INTEGER NOT NULL)",
];

/// Trials get numbers in the order of their submission, which is about the order they run in, and every table about trials is
/// keyed by them: what one commit writes then lies side by side. Keyed by ids, which are hashes, each row of a commit lies
/// on a page of its own, and the cost of a trial grows with the number of trials. The history of trials gets a table of its
/// own.
const NUMBERED_TRIALS: &str = "
CREATE TABLE trial_numbers (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE
);
INSERT INTO trial_numbers (id) SELECT trial FROM members GROUP BY trial ORDER BY min(sweep), min(position);
INSERT OR IGNORE INTO trial_numbers (id)
    SELECT id FROM trials UNION SELECT trial FROM configurations UNION SELECT trial FROM attempts
    UNION SELECT trial FROM checkpoints UNION SELECT trial FROM metrics UNION SELECT trial FROM logs;

ALTER TABLE members RENAME TO old_members;
CREATE TABLE members (
    sweep INTEGER NOT NULL,
    position INTEGER NOT NULL,
    trial INTEGER NOT NULL,
    budget INTEGER NOT NULL,
    cohort TEXT NOT NULL,
    cost INTEGER NOT NULL,
    PRIMARY KEY (sweep, position)
) WITHOUT ROWID;
INSERT INTO members SELECT sweep, position, number, budget, cohort, cost
    FROM old_members JOIN trial_numbers ON id = trial ORDER BY sweep, position;
DROP TABLE old_members;

ALTER TABLE configurations RENAME TO old_configurations;
CREATE TABLE configurations (
    trial INTEGER PRIMARY KEY,
    json TEXT NOT NULL
);
INSERT INTO configurations SELECT number, json
    FROM trial_numbers JOIN old_configurations ON trial = id ORDER BY number;
DROP TABLE old_configurations;

ALTER TABLE trials RENAME TO old_trials;
CREATE TABLE trials (
    trial INTEGER PRIMARY KEY,
    state TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    step INTEGER NOT NULL,
    completed_step INTEGER NOT NULL,
    diverged_at INTEGER,
    reason TEXT NOT NULL,
    train_seconds REAL NOT NULL,
    crashes INTEGER NOT NULL,
    crashed_on TEXT NOT NULL,
    alone INTEGER NOT NULL,
    keep INTEGER NOT NULL,
    ending_attempt INTEGER,
    ending_kind TEXT,
    ending_step INTEGER,
    ending_detail TEXT,
    ending_hash TEXT,
    lease_agent TEXT,
    lease_incarnation TEXT,
    lease_budget INTEGER,
    lease_from INTEGER,
    lease_revoked INTEGER,
    keep_every INTEGER,
    losses INTEGER NOT NULL
);
INSERT INTO trials SELECT number, state, attempt, step, completed_step, diverged_at, reason, train_seconds, crashes,
        crashed_on, alone, keep, ending_attempt, ending_kind, ending_step, ending_detail, ending_hash, lease_agent,
        lease_incarnation, lease_budget, lease_from, lease_revoked, keep_every, losses
    FROM trial_numbers JOIN old_trials USING (id) ORDER BY number;
DROP TABLE old_trials;

ALTER TABLE attempts RENAME TO old_attempts;
CREATE TABLE attempts (
    trial INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    agent TEXT NOT NULL,
    granted INTEGER NOT NULL,
    from_step INTEGER NOT NULL,
    started INTEGER,
    PRIMARY KEY (trial, attempt)
) WITHOUT ROWID;
INSERT INTO attempts SELECT number, attempt, agent, granted, from_step, started
    FROM trial_numbers JOIN old_attempts ON trial = id ORDER BY number, attempt;
DROP TABLE old_attempts;

ALTER TABLE checkpoints RENAME TO old_checkpoints;
CREATE TABLE checkpoints (
    trial INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    step INTEGER NOT NULL,
    weights_hash TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    PRIMARY KEY (trial, attempt, step)
) WITHOUT ROWID;
INSERT INTO checkpoints SELECT number, attempt, step, weights_hash, bytes
    FROM trial_numbers JOIN old_checkpoints ON trial = id ORDER BY number, attempt, step;
DROP TABLE old_checkpoints;

ALTER TABLE metrics RENAME TO old_metrics;
CREATE TABLE metrics (
    trial INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    chunk INTEGER NOT NULL,
    digest BLOB NOT NULL,
    data BLOB NOT NULL,
    UNIQUE (trial, attempt, chunk)
);
INSERT INTO metrics SELECT number, attempt, chunk, digest, data
    FROM trial_numbers JOIN old_metrics ON trial = id ORDER BY number, attempt, chunk;
DROP TABLE old_metrics;

ALTER TABLE logs RENAME TO old_logs;
CREATE TABLE logs (
    trial INTEGER NOT NULL,
    number INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    at INTEGER NOT NULL,
    level TEXT NOT NULL,
    message TEXT NOT NULL,
    PRIMARY KEY (trial, number)
) WITHOUT ROWID;
INSERT INTO logs SELECT trial_numbers.number, old_logs.number, attempt, at, level, message
    FROM trial_numbers JOIN old_logs ON trial = id ORDER BY trial_numbers.number, old_logs.number;
DROP TABLE old_logs;

CREATE TABLE trial_history (
    trial INTEGER NOT NULL,
    number INTEGER NOT NULL,
    at INTEGER NOT NULL,
    event TEXT NOT NULL,
    PRIMARY KEY (trial, number)
) WITHOUT ROWID;
INSERT INTO trial_history SELECT trial_numbers.number, history.number, at, event
    FROM trial_numbers JOIN history ON subject = 'trial/' || id ORDER BY trial_numbers.number, history.number;
DELETE FROM history WHERE subject LIKE 'trial/%';
";

/// The id of the data directory, one row. Not among [`TABLES`]: files of this version made before it get it at their
/// next opening.
const DIRECTORY: &str = "CREATE TABLE IF NOT EXISTS directory (id TEXT NOT NULL)";

/// What cohorts cost and how fast they are; like [`DIRECTORY`] added to older files at their next opening. Points are a
/// JSON list of [size, replica-steps per second].
const PLANNING: &str = "
CREATE TABLE IF NOT EXISTS shapes (
    cohort TEXT PRIMARY KEY,
    state_bytes INTEGER NOT NULL,
    workspace_bytes INTEGER NOT NULL,
    flops_per_update REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS throughput (
    cohort TEXT NOT NULL,
    device_kind TEXT NOT NULL,
    points TEXT NOT NULL,
    calibrated INTEGER NOT NULL,
    evaluation_seconds REAL NOT NULL,
    PRIMARY KEY (cohort, device_kind)
) WITHOUT ROWID;
";

/// Makes the tables of a new file, or brings those of an old one to this build's version; a newer one is refused.
pub fn prepare(connection: &mut Connection, path: &str) -> Result<(), StoreError> {
    let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let from = match found {
        1..=VERSION => found,
        0 => {
            let tables: i64 = connection.query_row(
                "SELECT count(*) FROM sqlite_schema WHERE type = 'table'",
                [],
                |row| row.get(0),
            )?;
            if tables != 0 {
                return Err(StoreError::Foreign { path: path.to_owned() });
            }
            0
        }
        found => return Err(StoreError::Version { path: path.to_owned(), found, known: VERSION }),
    };
    let transaction = connection.transaction()?;
    if from == 0 {
        transaction.execute_batch(TABLES)?;
    }
    for migration in MIGRATIONS.iter().skip(usize::try_from(from - 1).unwrap_or(0)) {
        transaction.execute_batch(migration)?;
    }
    transaction.pragma_update(None, "user_version", VERSION)?;
    transaction.execute_batch(DIRECTORY)?;
    transaction.execute_batch(PLANNING)?;
    transaction.execute(
        "INSERT INTO directory (id) SELECT ?1 WHERE NOT EXISTS (SELECT 1 FROM directory)",
        [uuid::Uuid::new_v4().simple().to_string()],
    )?;
    transaction.commit()?;
    Ok(())
}
