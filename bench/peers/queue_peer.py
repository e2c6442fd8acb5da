"""Trials per second of other runners, with trials that do nothing: queue_peer.py optuna|ray|hyperqueue --trials N
[--processes P] --folder FOLDER. Prints one JSON object. Called by bench/load.py.

Each peer runs as its documentation shows it: Optuna with SQLite storage and random sampling (its default sampler takes
longer), Ray Tune with a function as trainable, HyperQueue as its wheel has it (a server and a worker in one process,
without a journal) and the program `true`, since its smallest task is a process.
"""

import argparse
import importlib.metadata
import json
import multiprocessing
import os
import pathlib
import sys
import time

TICKS = os.sysconf("SC_CLK_TCK")


def processor_seconds(pid):
    """User and system time of a process and of its children that have ended; 0 if it is gone."""
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0.0
    fields = text.rsplit(")", 1)[1].split()
    return sum(int(field) for field in fields[11:15]) / TICKS


def descendants(root):
    """Process ids below `root`, itself included."""
    parents = {}
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                text = (entry / "stat").read_text()
            except OSError:
                continue
            parents[int(entry.name)] = int(text.rsplit(")", 1)[1].split()[1])
    found = {root}
    while True:
        more = {child for child, parent in parents.items() if parent in found} - found
        if not more:
            return found
        found |= more


def objective(trial):
    trial.suggest_int("seed", 0, 1_000_000_000)
    return 0.0


def optimise(storage, trials, barrier, times):
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = optuna.samplers.RandomSampler()
    study = optuna.load_study(study_name="load", storage=storage, sampler=sampler)
    barrier.wait()
    before = time.process_time()
    begun = time.monotonic()
    study.optimize(objective, n_trials=trials)
    times.put((begun, time.monotonic(), time.process_time() - before))


def run_optuna(options):
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = f"sqlite:///{options.folder}/optuna.db"
    study = optuna.create_study(study_name="load", storage=storage)
    spawn = multiprocessing.get_context("spawn")
    barrier, times = spawn.Barrier(options.processes), spawn.Queue()
    share = options.trials // options.processes
    workers = [
        spawn.Process(target=optimise, args=(storage, share, barrier, times))
        for _ in range(options.processes)
    ]
    for worker in workers:
        worker.start()
    measured = [times.get(timeout=600) for _ in workers]
    for worker in workers:
        worker.join()
    done = len(study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.COMPLETE]))
    seconds = max(end for _, end, _ in measured) - min(begin for begin, _, _ in measured)
    return optuna.__version__, done, seconds, sum(used for _, _, used in measured)


def run_ray(options):
    import ray
    from ray import tune

    ray.init(num_cpus=options.processes, include_dashboard=False, log_to_driver=False, logging_level="ERROR")

    def trainable(_config):
        return {"loss": 0.0}

    def used():
        return sum(processor_seconds(pid) for pid in descendants(os.getpid()))

    tuner = tune.Tuner(
        trainable,
        param_space={"seed": tune.randint(0, 1_000_000_000)},
        tune_config=tune.TuneConfig(num_samples=options.trials),
        run_config=tune.RunConfig(storage_path=str(options.folder), verbose=0),
    )
    before, begun = used(), time.monotonic()
    results = tuner.fit()
    seconds = time.monotonic() - begun
    done = sum(1 for result in results if not result.error)
    processor = used() - before
    ray.shutdown()
    return ray.__version__, done, seconds, processor


def run_hyperqueue(options):
    import hyperqueue
    from hyperqueue.cluster import LocalCluster, WorkerConfig

    os.chdir(options.folder)

    def used():
        return processor_seconds(os.getpid())

    # Server and worker are threads of this process; the tasks are its children.
    with LocalCluster(server_dir=str(options.folder), worker_config=WorkerConfig(cores=options.processes)) as cluster:
        client = cluster.client()
        job = hyperqueue.Job()
        before, begun = used(), time.monotonic()
        for _ in range(options.trials):
            job.program(["true"], stdout=None, stderr=None)
        client.wait_for_jobs([client.submit(job)])
        seconds, processor = time.monotonic() - begun, used() - before
    # A task that fails is an exception.
    return importlib.metadata.version("hyperqueue"), options.trials, seconds, processor


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("peer", choices=("optuna", "ray", "hyperqueue"))
    parser.add_argument("--trials", type=int, required=True)
    parser.add_argument("--processes", type=int, default=1, help="processes, or cores that the peer may use")
    parser.add_argument("--folder", type=pathlib.Path, required=True, help="where it keeps its state")
    options = parser.parse_args()
    options.folder = options.folder.resolve()
    options.folder.mkdir(parents=True, exist_ok=True)
    run = {"optuna": run_optuna, "ray": run_ray, "hyperqueue": run_hyperqueue}[options.peer]
    version, done, seconds, processor = run(options)
    if done != options.trials:
        sys.exit(f"{options.peer} finished {done} of {options.trials} trials")
    print(
        json.dumps(
            {
                "peer": options.peer,
                "version": version,
                "processes": options.processes,
                "trials": done,
                "seconds": seconds,
                "completions_per_s": done / seconds,
                "processor_us_per_trial": 1e6 * processor / done,
            }
        )
    )


if __name__ == "__main__":
    main()
