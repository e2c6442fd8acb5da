"""Times a sweep from the command to the report: `plateau run` against a shell loop of PyTorch processes for the same
trials, and what of it is not training. Called by bench/end-to-end, which prepares both.

The trials differ in their seed only. Their number of steps is chosen such that Plateau trains one for about the asked
number of seconds on one core. The shell loop runs as many single-threaded PyTorch processes at a time as there are
cores (`xargs -P`); each trains one trial and saves it.
"""

import argparse
import datetime
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "peers"))
sys.path.insert(0, str(HERE))
import common  # noqa: E402
import compare  # noqa: E402

POLL_SECONDS = 0.1
ROLES = ("coordinator", "agent", "trainer")
TICKS = os.sysconf("SC_CLK_TCK")


def study(name, sizes, steps, trials):
    """The workload as a study, evaluated as little as the PyTorch script does."""
    return {
        "name": name,
        "seeds": trials,
        "task": {
            "kind": "noise",
            "vocab": sizes["vocab"],
            "length": sizes["length"],
            "test-examples": 1,
            "read-out": "last" if sizes["last"] else "every",
        },
        "model": {
            "kind": "transformer",
            "layers": sizes["layers"],
            "heads": sizes["heads"],
            "dim": sizes["dim"],
            "mlp-dim": sizes["mlp"],
            "causal": sizes["causal"],
            "initialisation": "pytorch",
        },
        "train": {
            "steps": steps,
            "batch": sizes["batch"],
            "optimizer": {"kind": "adamw", "lr": 1e-3, "weight-decay": 1.0},
        },
        "evaluate": {"every": steps, "probes": []},
    }


def processor_seconds(pid):
    """(parent, role, processor seconds) of a process, or None if it is gone."""
    folder = pathlib.Path("/proc") / str(pid)
    try:
        words = (folder / "cmdline").read_bytes().split(b"\0")
        fields = (folder / "stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return None
    # Options may stand before the verb.
    role = next((role for role in ROLES if role.encode() in words), "run")
    return int(fields[1]), role, (int(fields[11]) + int(fields[12])) / TICKS


class Household:
    """Follows the processor time of a process and its descendants while they live, by role."""

    def __init__(self, root):
        self.root, self.seconds, self.done = root, {}, threading.Event()
        self.thread = threading.Thread(target=self.follow)
        self.thread.start()

    def follow(self):
        while not self.done.wait(POLL_SECONDS):
            found = {}
            for entry in os.listdir("/proc"):
                if entry.isdigit():
                    found[int(entry)] = processor_seconds(entry)
            ours = {self.root}
            # A child's number may be below its parent's, so once over the list is not enough.
            while new := {pid for pid, told in found.items() if told and told[0] in ours} - ours:
                ours |= new
            for pid in ours:
                if told := found.get(pid):
                    self.seconds[pid] = told[1:]

    def by_role(self):
        self.done.set()
        self.thread.join()
        sums = dict.fromkeys(("run", *ROLES), 0.0)
        for role, seconds in self.seconds.values():
            sums[role] += seconds
        return sums


def run_plateau(options, steps, folder):
    """One `plateau run` in an empty data directory: seconds by the clock, and processor seconds by role."""
    file = pathlib.Path(folder) / "end-to-end.json"
    sizes = common.read_workloads(options.workloads)[options.workload]
    file.write_text(json.dumps(study("end-to-end", sizes, steps, options.trials)))
    command = [options.program, "run", str(file), "--data-dir", str(pathlib.Path(folder) / "data")]
    if options.agents:
        command += ["--agents", str(options.agents)]
    begun = time.perf_counter()
    with open(pathlib.Path(folder) / "plateau.log", "w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        household = Household(process.pid)
        status = process.wait()
        seconds = time.perf_counter() - begun
        roles = household.by_role()
        if status:
            log.seek(0)
            sys.exit(f"plateau run failed with status {status}:\n{log.read()[-2000:]}")
    return {"seconds": seconds, **roles}


def run_shell_loop(options, steps, folder):
    """The loop a PyTorch user would write; seconds by the clock."""
    script = [options.python, str(HERE / "peers/torch_peer.py"), "trial", "--workloads", options.workloads]
    trial = [*script, "--steps", str(steps), "--seed", "{}", "--save", f"{folder}/{{}}.pt", options.workload]
    seeds = "\n".join(str(seed) for seed in range(options.trials))
    begun = time.perf_counter()
    done = subprocess.run(
        ["xargs", "-P", str(options.cores), "-I{}", *trial], input=seeds, capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - begun
    if done.returncode:
        sys.exit(f"the shell loop failed:\n{done.stderr[-2000:]}")
    saved = len(list(pathlib.Path(folder).glob("*.pt")))
    if saved != options.trials:
        sys.exit(f"the shell loop saved {saved} of {options.trials} trials")
    return seconds


def steps_of(options, seconds):
    """Updates that a trial makes in so many seconds on one core, with all cores training."""
    replicas = max(options.trials // options.cores, 1)
    command = [options.binary, "train", "--workloads", options.workloads, "--replicas", str(replicas)]
    line = compare.call([*command, "--threads", "1", "--seconds", "3", options.workload])
    # Each of the replicas of a core gets its share of the core.
    return max(round(line["replica_steps_per_s"] * seconds), 1)


def measure(options, duration, out):
    """Rounds at one length of trials; an object of end-to-end.json."""
    steps = steps_of(options, duration)
    own, loops = [], []
    for round_number in range(options.rounds):
        pair = [(own, run_plateau), (loops, run_shell_loop)]
        for found, run in pair if round_number % 2 == 0 else reversed(pair):
            with tempfile.TemporaryDirectory() as folder:
                found.append(run(options, steps, folder))
        out(f"  round {round_number + 1}: plateau run {own[-1]['seconds']:.1f} s, shell loop {loops[-1]:.1f} s")

    def middle(key):
        return statistics.median(each[key] for each in own)

    training = middle("trainer")
    return {
        "workload": options.workload,
        "trials": options.trials,
        "steps": steps,
        "seconds_per_trial": training / options.trials,
        "plateau_seconds": middle("seconds"),
        "shell_loop_seconds": statistics.median(loops),
        "ratio": statistics.median(mine["seconds"] / loop for mine, loop in zip(own, loops, strict=True)),
        "training_processor_seconds": training,
        "coordinator_processor_seconds": middle("coordinator"),
        "agent_processor_seconds": middle("agent"),
        "run_processor_seconds": middle("run"),
        "overhead": statistics.median((each["coordinator"] + each["agent"]) / each["trainer"] for each in own),
        "idle_seconds": statistics.median(each["seconds"] - each["trainer"] / options.cores for each in own),
        "rounds": options.rounds,
    }


def summary(entries):
    header = [
        "trials",
        "plateau run",
        "shell loop",
        "ratio",
        "training",
        "coordinator + agents",
        "overhead",
        "plateau run itself",
        "wall - training/cores",
    ]
    rows = []
    for entry in entries:
        both = entry["coordinator_processor_seconds"] + entry["agent_processor_seconds"]
        rows.append(
            [
                f"{entry['trials']} of {entry['seconds_per_trial']:.1f} s",
                f"{entry['plateau_seconds']:.1f} s",
                f"{entry['shell_loop_seconds']:.1f} s",
                f"{entry['ratio']:.3f}",
                f"{entry['training_processor_seconds']:.1f} s",
                f"{both:.2f} s",
                f"{100 * entry['overhead']:.2f} %",
                f"{entry['run_processor_seconds']:.2f} s",
                f"{entry['idle_seconds']:.2f} s",
            ]
        )
    return compare.table(header, rows)


def read_options():
    parser = argparse.ArgumentParser(
        prog="bench/end-to-end", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workload", nargs="?", default="tiny")
    parser.add_argument("--workloads", default=str(common.WORKLOADS))
    parser.add_argument("--trials", type=int, default=16, help="seeds of the sweep")
    parser.add_argument("--durations", default="1,10", help="seconds of training per trial, comma-separated")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--agents", type=int, help="of `plateau run` [default: its own]")
    parser.add_argument("--no-keep", action="store_true", help="only print; write nothing to bench/results")
    parser.add_argument("--program", required=True, help="plateau, instead of building it")
    parser.add_argument("--binary", required=True, help="plateau-bench, instead of building it")
    parser.add_argument("--python", required=True, help="Python with PyTorch, instead of an environment")
    options = parser.parse_args()
    options.cores, options.device = len(os.sched_getaffinity(0)), "cpu"
    known = common.read_workloads(options.workloads)
    if "task" in known.get(options.workload, {"task": None}):
        parser.error(f"{options.workloads} has no workload {options.workload} of random tokens")
    return options


def main():
    options, printed = read_options(), []

    def out(text=""):
        print(text, flush=True)
        printed.append(text)

    machine = compare.Machine(options)
    out(f"# End to end, {datetime.datetime.now():%Y-%m-%d %H:%M}\n")
    out(f"{machine.words}; {options.workload}; load before: {os.getloadavg()[0]:.1f}\n")
    entries = []
    for duration in (float(word) for word in options.durations.split(",")):
        out(f"trials of about {duration:g} s:")
        entries.append({**measure(options, duration, out), "seconds_asked": duration})
    out("\nMedians. Training, coordinator, agents and `plateau run` itself in processor seconds.")
    out("Overhead: that of coordinator and agents, as a share of training.\n")
    out(summary(entries))
    if not options.no_keep:
        text = "\n".join(printed) + "\n"
        compare.keep_text(machine, "end-to-end", text)
        compare.keep("end-to-end.json", entries, ("workload", "seconds_asked"))


if __name__ == "__main__":
    try:
        main()
    except RuntimeError as error:
        sys.exit(f"bench/end-to-end cannot go on: {error}")
