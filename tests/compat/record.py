"""Records a data directory: `record.py PLATEAU FOLDER`, where PLATEAU is the program of that time.

A coordinator and an agent are killed in the middle of the study beside this file, once trials have ended and another has a
checkpoint, so that the directory holds what a crash leaves: ended and live trials, leases, metrics, checkpoints.
"""

import pathlib
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time

program, folder = sys.argv[1], pathlib.Path(sys.argv[2]).absolute()
work = pathlib.Path(tempfile.mkdtemp())
# Named without a folder: a study is recorded with the name it was given.
study = "study.toml"
shutil.copy(pathlib.Path(__file__).with_name(study), work)
quiet = dict(cwd=work, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def rows(question):
    database = sqlite3.connect(f"file:{folder}/coordinator.sqlite?mode=ro", uri=True)
    try:
        return database.execute(question).fetchall()
    finally:
        database.close()


coordinator = subprocess.Popen([program, "coordinator", "--data-dir", folder, "--listen", "127.0.0.1:47733"], **quiet)
agent = None
try:
    url = "http://127.0.0.1:47733"
    while subprocess.run([program, "submit", study, "--coordinator", url], **quiet).returncode:
        time.sleep(0.2)
    agent = subprocess.Popen(
        [program, "agent", "--coordinator", url, "--name", "one", "--device", "cpu", "--threads", "1",
         "--max-cohort", "1", "--work-dir", work], **quiet)
    while True:
        ended = rows("SELECT count(*) FROM trials WHERE state = 'completed'")[0][0]
        # Trials were keyed by their ids up to format 4, since then by numbers.
        key = "trial" if rows("PRAGMA user_version")[0][0] > 4 else "id"
        saved = rows(
            f"SELECT count(*) FROM checkpoints JOIN trials ON trials.{key} = checkpoints.trial WHERE state = 'running'"
        )[0][0]
        if ended >= 1 and saved >= 1:
            break
        time.sleep(0.02)
finally:
    coordinator.kill()
    coordinator.wait()
    if agent:
        agent.kill()
        agent.wait()
    shutil.rmtree(work, ignore_errors=True)

# Only what a start reads: the log of writes is moved into the database, so that the directory is small.
database = sqlite3.connect(folder / "coordinator.sqlite")
database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
print(database.execute("PRAGMA user_version").fetchone(), database.execute("SELECT state, count(*) FROM trials GROUP BY state").fetchall())
database.close()
for name in ["logs", "coordinator.json", "coordinator.lock", "coordinator.sqlite-wal", "coordinator.sqlite-shm"]:
    path = folder / name
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
