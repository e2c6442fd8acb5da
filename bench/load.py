"""Measures the coordinator as users start it: completions per second under load, metrics per second, time to the first
lease after a kill; and how fast other runners finish trials that do nothing. Called by bench/load, which prepares both.

Processor time is the coordinator's own, from /proc, and depends less on what else the machine does than rates by the
clock, which is why the load average is printed with each. Medians of rounds.
"""

import argparse
import datetime
import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
sys.path.insert(0, str(HERE / "peers"))
import compare  # noqa: E402

PARTS = ("load", "ingest", "recovery", "peers")
# Evaluations in a chunk: those of a quick trial's last second, of a second at full speed, of a long silence.
CHUNKS = (16, 256, 4096)
# (peer, trials, processes or cores): as many trials as take it some seconds.
PEERS = (("optuna", 200, 1), ("optuna", 200, 2), ("hyperqueue", 2000, 2), ("ray", 10, 2))
PEER_SECONDS = 300


def bench(options, *arguments, program=None):
    program = program or [options.program]
    command = [options.binary, arguments[0], "--plateau", *program, ";", *map(str, arguments[1:])]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"`{' '.join(command)}` failed: {done.stderr.strip()}")
    return {**json.loads(done.stdout), "load_before": os.getloadavg()[0]}


def fresh(folder):
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def medians(lines):
    """The median of every number, for a list of equal measurements."""

    def middle(key):
        values = [line[key] for line in lines]
        numbers = all(isinstance(value, int | float) for value in values)
        return statistics.median(values) if numbers else values[0]

    return {**{key: middle(key) for key in lines[0]}, "rounds": len(lines)}


def verify(options, data):
    """What `plateau verify` says: every trial recorded once."""
    done = subprocess.run([options.program, "verify", str(data)], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"`plateau verify` found damage: {done.stdout}{done.stderr}")
    return done.stdout.strip().splitlines()[-1]


def synchronisations(options, data, trials):
    """Synchronisations with the disk of a load of its own, counted by strace, which makes only these calls slower."""
    counts = data.parent / "synchronisations"
    tracer = ["strace", "--seccomp-bpf", "-f", "-c", "-U", "calls,name", "-e", "trace=fsync,fdatasync", "-o", counts]
    line = bench(options, "load", "--data", data, "--trials", trials, program=[*map(str, tracer), options.program])
    calls = sum(int(found) for found in re.findall(r"^\s*(\d+)\s+f(?:data)?sync$", counts.read_text(), re.MULTILINE))
    return {"trials": trials, "calls": calls, "per_s": calls / line["seconds"], "per_trial": calls / trials}


def measure_load(options, folder, out):
    lines = []
    for number in range(options.rounds):
        data = fresh(folder / "load")
        lines.append(bench(options, "load", "--data", data, "--agents", options.agents, "--trials", options.trials))
        line = lines[-1]
        out(
            f"  round {number + 1}: {line['completions_per_s']:.0f} completions/s, "
            f"{line['processor_us_per_trial']:.0f} us per trial ({line['early_processor_us_per_trial']:.0f} at the "
            f"beginning, {line['late_processor_us_per_trial']:.0f} at the end); load average {line['load_before']:.1f}"
        )
    out(f"  plateau verify: {verify(options, folder / 'load')}")
    entry = medians(lines)
    if shutil.which("strace"):
        found = synchronisations(options, fresh(folder / "load"), options.trials // 5)
        calls = f"{found['calls']}, {found['per_s']:.0f} per second"
        out(f"  fsync and fdatasync (strace, {found['trials']} trials): {calls}")
        entry["synchronisations"] = found
    fresh(folder / "load")
    return [entry]


def measure_ingest(options, folder, out):
    entries = []
    for evaluations in CHUNKS:
        lines = []
        for _ in range(options.rounds):
            data = fresh(folder / "ingest")
            lines.append(bench(options, "ingest", "--data", data, "--evaluations", evaluations, "--seconds", 5))
        verify(options, folder / "ingest")
        fresh(folder / "ingest")
        entries.append({**medians(lines), "evaluations_per_chunk": evaluations})
        out(f"  chunks of {evaluations} evaluations: {entries[-1]['points_per_s'] / 1e6:.2f} million points/s")
    return entries


def measure_recovery(options, folder, out):
    original, data = fresh(folder / "killed"), folder / "recovery"
    bench(options, "load", "--data", original, "--trials", 110_000, "--kill-after", 100_000)
    lines = []
    for number in range(options.rounds):
        shutil.copytree(original, fresh(data))
        lines.append(bench(options, "recovery", "--data", data))
        line = lines[-1]
        out(
            f"  round {number + 1}: first lease after {line['seconds_to_lease']:.2f} s "
            f"({line['processor_seconds']:.2f} s of processor time); load average {line['load_before']:.1f}"
        )
    fresh(original), fresh(data)
    return [medians(lines)]


def measure_peers(options, folder, out):
    entries = []
    for peer, trials, processes in PEERS:
        command = [options.python, HERE / "peers/queue_peer.py", peer, "--trials", trials, "--processes", processes]
        lines, problem = [], None
        for _ in range(options.rounds):
            whole = [*map(str, command), "--folder", str(fresh(folder / peer))]
            try:
                done = subprocess.run(whole, capture_output=True, text=True, timeout=PEER_SECONDS)
            except subprocess.TimeoutExpired:
                problem = f"did not finish {trials} trials in {PEER_SECONDS} s"
                break
            if done.returncode != 0:
                problem = (done.stderr.strip().splitlines() or ["failed"])[-1]
                break
            lines.append(json.loads(done.stdout.strip().splitlines()[-1]))
        fresh(folder / peer)
        if not lines:
            out(f"  {peer}: {problem}")
            continue
        entries.append({"what": "peer", **medians(lines), "load_before": os.getloadavg()[0]})
        out(f"  {peer}, {processes}: {entries[-1]['completions_per_s']:.3g} trials/s")
    return entries


def summary(entries):
    tables = []
    kinds = ("load", "ingest", "recovery", "peer")
    of = {kind: [entry for entry in entries if entry["what"] == kind] for kind in kinds}
    if of["load"] or of["peer"]:
        rows = []
        for entry in of["load"] + of["peer"]:
            name = f"{entry['peer']} {entry['version']}" if "peer" in entry else "Plateau (its coordinator)"
            place = f"{entry['processes']} processes or cores" if "peer" in entry else f"{entry['agents']} agents"
            rate, used = entry["completions_per_s"], entry["processor_us_per_trial"]
            rows.append([name, place, f"{rate:.3g}" if rate < 10 else f"{rate:.0f}", f"{used:.0f} us"])
        tables.append(compare.table(["runner", "with", "trials/s", "processor time per trial"], rows))
    if of["load"]:
        header = ["completions/s", "processor time", "at first", "at last", "growth", "written", "generator", "memory"]
        rows = [
            [
                f"{entry['completions_per_s']:.0f}",
                f"{entry['processor_us_per_trial']:.0f} us",
                f"{entry['early_processor_us_per_trial']:.0f} us",
                f"{entry['late_processor_us_per_trial']:.0f} us",
                f"{entry['growth']:.2f}",
                f"{entry['written_bytes_per_trial']:.0f} B",
                f"{entry['generator_processor_us_per_trial']:.0f} us",
                f"{entry['peak_memory_bytes'] / 1e6:.0f} MB",
            ]
            for entry in of["load"]
        ]
        tables.append("Load, per trial:\n\n" + compare.table(header, rows))
    if of["ingest"]:
        header = ["evaluations per chunk", "points/s", "processor time per point", "disk per point", "generator"]
        rows = [
            [
                f"{entry['evaluations_per_chunk']}",
                f"{entry['points_per_s'] / 1e6:.2f} million",
                f"{entry['processor_us_per_point']:.3f} us",
                f"{entry['database_bytes_per_point']:.2f} B",
                f"{entry['generator_processor_us_per_point']:.3f} us",
            ]
            for entry in of["ingest"]
        ]
        tables.append("Ingest:\n\n" + compare.table(header, rows))
    if of["recovery"]:
        header = ["first lease after", "processor time", "memory", "database"]
        rows = [
            [
                f"{entry['seconds_to_lease']:.2f} s",
                f"{entry['processor_seconds']:.2f} s",
                f"{entry['peak_memory_bytes'] / 1e6:.0f} MB",
                f"{entry['database_bytes'] / 1e6:.0f} MB",
            ]
            for entry in of["recovery"]
        ]
        tables.append("Recovery, 100,000 finished and 10,000 pending trials:\n\n" + compare.table(header, rows))
    return "\n\n".join(tables)


def read_options():
    parser = argparse.ArgumentParser(
        prog="bench/load", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--agents", type=int, default=200)
    parser.add_argument("--trials", type=int, default=101_000, help="of the sweep that measures load")
    parser.add_argument("--only", default=",".join(PARTS), help="of these, some, comma-separated")
    parser.add_argument("--folder", type=pathlib.Path, help="where data directories are made [default: target/]")
    parser.add_argument("--no-keep", action="store_true", help="only print; write nothing to bench/results")
    parser.add_argument("--program", required=True, help="plateau, instead of building it")
    parser.add_argument("--binary", required=True, help="plateau-bench, instead of building it")
    parser.add_argument("--python", required=True, help="Python with the peers' packages, instead of an environment")
    options = parser.parse_args()
    options.cores, options.device = len(os.sched_getaffinity(0)), "cpu"
    options.parts = options.only.split(",")
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"{', '.join(unknown)}: choose of {', '.join(PARTS)}")
    return options


def main():
    options, printed = read_options(), []

    def out(text=""):
        print(text, flush=True)
        printed.append(text)

    machine = compare.Machine(options)
    out(f"# Load, {datetime.datetime.now():%Y-%m-%d %H:%M}\n")
    out(f"{machine.words}; load before: {os.getloadavg()[0]:.1f}\n")
    measure = {"load": measure_load, "ingest": measure_ingest, "recovery": measure_recovery, "peers": measure_peers}
    entries = []
    with tempfile.TemporaryDirectory(dir=options.folder or "target") as folder:
        for part in options.parts:
            out(f"{part}:")
            entries += measure[part](options, pathlib.Path(folder), out)
    out(f"\nMedians of {options.rounds} rounds.\n")
    out(summary(entries))
    if not options.no_keep:
        compare.keep_text(machine, "load", "\n".join(printed) + "\n")
        for entry in entries:
            entry["name"] = entry.get("peer", "plateau")
            entry["size"] = entry.get("processes", entry.get("evaluations_per_chunk", 0))
        compare.keep("load.json", entries, ("what", "name", "size"))


if __name__ == "__main__":
    try:
        main()
    except RuntimeError as error:
        sys.exit(f"bench/load cannot go on: {error}")
