"""Compares Plateau with its peers on one machine: called by bench/run, which prepares both.

For each workload: a short pass over the peers' settings (and over numbers of replicas for Plateau) finds the best of
each; these two are then measured in turns, several rounds. Prints tables, keeps them in bench/results as a text file
named by date and machine, and the figures in bench/results/training.json.
"""

import argparse
import concurrent.futures
import dataclasses
import datetime
import json
import os
import pathlib
import platform
import re
import statistics
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "peers"))
import common  # noqa: E402

RESULTS = HERE / "results"
FIRST_PASS_SECONDS = 2.0
# Settings this near the best of the first pass, which is short, are measured in the rounds as well.
FINALIST_SHARE = 0.8
MAX_FINALISTS = 2
# Both sides draw lengths at random, Plateau's side of additions in a few thousand examples.
TOKENS_TOLERANCE = 0.02


@dataclasses.dataclass(frozen=True)
class Setting:
    """One way of running a program: the words that tables show, and the arguments."""

    words: str
    program: str
    arguments: tuple


def peer_settings(device, cores):
    """The settings that are tried, per device. On a CPU one single-threaded process per core is usually the best."""
    if device == "cuda":
        torch = [
            Setting("torch eager", "torch", ()),
            Setting("torch compile", "torch", ("--mode", "compile")),
            Setting("torch compile, reduce-overhead", "torch", ("--mode", "reduce-overhead")),
            Setting("torch CUDA graph", "torch", ("--mode", "graphs")),
        ]
        for replicas in (16, 64):
            count = ("--replicas", str(replicas))
            torch.append(Setting(f"torch vmap K={replicas}", "torch", ("--mode", "vmap", *count)))
            torch.append(Setting(f"torch vmap + CUDA graph K={replicas}", "torch", ("--mode", "vmap-graphs", *count)))
        jax = [Setting(f"jax vmap K={replicas}", "jax", ("--replicas", str(replicas))) for replicas in (1, 16, 64)]
        return torch + jax
    each = ("--processes", str(cores), "--threads", "1")
    whole = ("--processes", "1", "--threads", str(cores))
    return [
        Setting(f"torch eager, {cores} processes x 1 thread", "torch", each),
        Setting(f"torch eager, 1 process x {cores} threads", "torch", whole),
        Setting(f"torch compile, {cores} processes x 1 thread", "torch", ("--mode", "compile", *each)),
        Setting(f"torch compile, 1 process x {cores} threads", "torch", ("--mode", "compile", *whole)),
        Setting(f"torch vmap K=8, {cores} processes x 1 thread", "torch", ("--mode", "vmap", *each)),
        Setting(f"jax, {cores} processes x 1 thread", "jax", ("--replicas", "1", *each)),
        Setting(f"jax vmap K=8, 1 process x {cores} threads", "jax", ("--replicas", "8", *whole)),
    ]


def offers(setting, sizes):
    """Whether a setting has the workload: replicas are mapped over random tokens only."""
    return "task" not in sizes or (setting.program == "torch" and "vmap" not in setting.words)


def call(command, environment=None):
    """The JSON object a command prints last; a RuntimeError with its complaint if it fails."""
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **(environment or {})}, check=False
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        complaint = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        program = next(pathlib.Path(word).name for word in command if not str(word).endswith(("python", "python3")))
        raise RuntimeError(f"{program}: {' / '.join(complaint[-3:])[:400]}")
    return json.loads(lines[-1])


class Machine:
    """Names of the machine, and what it can do at best."""

    def __init__(self, options):
        self.cores, self.device, self.options = options.cores, options.device, options
        cpu = platform.processor() or platform.machine()
        try:
            text = pathlib.Path("/proc/cpuinfo").read_text()
            cpu = re.search(r"model name\s*: (.*)", text).group(1).strip()
        except (OSError, AttributeError):
            pass
        self.words = f"{cpu}, {self.cores} cores"
        self.product_rate = self.card_streaming = None

    def measure(self):
        """Matrix products on all cores (or the card), by Plateau's library and by PyTorch's; the best counts."""
        torch = [self.options.python, HERE / "peers/torch_peer.py", "machine", "--device", self.device]
        found = call([*torch, "--processes", str(self.cores if self.device == "cpu" else 1), "--seconds", "1"])
        self.product_rate = found["matrix_product_flops_per_s"]
        if self.device == "cuda":
            self.words = f"{found['device']}; {self.words}"
            self.card_streaming = found["bytes_per_s"]
            return f"PyTorch {self.product_rate / 1e12:.1f} TFLOP/s (32 bits), {self.card_streaming / 1e9:.0f} GB/s"
        own = sum(line["matrix_product_flops_per_s"] for line in self.on_all_cores([]))
        text = f"gemm {own / 1e9:.0f} GFLOP/s, PyTorch {self.product_rate / 1e9:.0f} GFLOP/s (all cores)"
        self.product_rate = max(own, self.product_rate)
        return text

    def on_all_cores(self, arguments):
        """The lines of one single-threaded measuring process per core, run at the same time."""
        command = [self.options.binary, "machine", *arguments]
        with concurrent.futures.ThreadPoolExecutor(self.cores) as pool:
            runs = [pool.submit(call, command, {"RAYON_NUM_THREADS": "1"}) for _ in range(self.cores)]
            return [run.result() for run in runs]

    def floor_seconds(self, line):
        """Least time of one replica-step: arithmetic at the rate of matrix products, then the optimiser's bytes at the
        rate of streaming through the states (weights, gradients, two moments) of all replicas of a core."""
        if self.device == "cuda":
            streaming = self.card_streaming
        else:
            states = line["parameters"] * 16 * max(line["replicas"] // self.cores, 1)
            lines = self.on_all_cores(["--bytes", str(states)])
            streaming = sum(each["streaming"][0]["bytes_per_s"] for each in lines)
        return line["operations"] / self.product_rate + line["optimizer_bytes"] / streaming


class Comparison:
    def __init__(self, options, out):
        self.options, self.out = options, out
        self.unusable = set()

    def peer(self, setting, workload, seconds):
        script = HERE / "peers" / f"{setting.program}_peer.py"
        files = ["--workloads", self.options.workloads, "--device", self.options.device, "--seconds", str(seconds)]
        return call([self.options.python, script, "measure", *setting.arguments, *files, workload])

    def plateau(self, workload, seconds, replicas, threads):
        command = [self.options.binary, "train", "--workloads", self.options.workloads, workload]
        how = ["--device", self.options.device, "--replicas", str(replicas), "--threads", str(threads)]
        return call([*command, *how, "--seconds", str(seconds)])

    def finalists(self, workload):
        """The settings with the highest rates in a short pass, and all rates; settings that fail or lack a package are
        named and left out."""
        sizes = common.read_workloads(self.options.workloads)[workload]
        settings = peer_settings(self.options.device, self.options.cores)
        settings = [setting for setting in settings if offers(setting, sizes)]
        if self.options.peer:
            settings = [setting for setting in settings if self.options.peer in setting.words]
        if len(settings) == 1:
            return settings, {}
        rates = {}
        for setting in settings:
            if setting.program in self.unusable:
                continue
            try:
                rate = self.peer(setting, workload, FIRST_PASS_SECONDS)["replica_steps_per_s"]
            except RuntimeError as error:
                if "No module named" in str(error):
                    self.unusable.add(setting.program)
                self.out(f"  {workload}: {setting.words}: {error}")
                continue
            rates[setting] = rate
            self.out(f"  {workload}: {setting.words}: {rate:.1f}")
        if not rates:
            sys.exit(f"no peer could be measured on {workload}")
        ranking = sorted(rates, key=rates.get, reverse=True)[:MAX_FINALISTS]
        near = [setting for setting in ranking if rates[setting] >= FINALIST_SHARE * rates[ranking[0]]]
        return near, {setting.words: rate for setting, rate in rates.items()}

    def best_replicas(self, workload):
        counts = self.options.replicas
        if len(counts) == 1:
            return counts[0]
        rates = {}
        for count in counts:
            try:
                line = self.plateau(workload, FIRST_PASS_SECONDS, count, self.options.cores)
            except RuntimeError as error:
                self.out(f"  {workload}: plateau K={count}: {error}")
                continue
            rates[count] = line["replica_steps_per_s"]
            self.out(f"  {workload}: plateau K={count}: {rates[count]:.1f}")
        if not rates:
            sys.exit(f"Plateau could not be measured on {workload}")
        return max(rates, key=rates.get)

    def workload(self, name, machine):
        """Measures one workload; an object of training.json."""
        settings, tried = self.finalists(name)
        replicas = self.best_replicas(name)
        own, peers = [], {setting: [] for setting in settings}
        for round_number in range(self.options.rounds):
            turns = [lambda: own.append(self.plateau(name, self.options.seconds, replicas, self.options.cores))]
            for setting in settings:
                turns.append(
                    lambda setting=setting: peers[setting].append(self.peer(setting, name, self.options.seconds))
                )
            # Who goes first alternates, so that none profits from a machine that warms up or cools down.
            for measure in turns if round_number % 2 == 0 else reversed(turns):
                measure()
        setting = max(settings, key=lambda setting: median_rate(peers[setting]))
        other = peers[setting]
        if own[0]["parameters"] != other[0]["parameters"]:
            sys.exit(f"{name}: {own[0]['parameters']} parameters here, {other[0]['parameters']} in the peer's model")
        tokens, other_tokens = own[0]["tokens_per_step"], other[0].get("tokens_per_step")
        if other_tokens is not None and abs(other_tokens / tokens - 1) > TOKENS_TOLERANCE:
            sys.exit(f"{name}: {tokens:.1f} tokens an update here, {other_tokens:.1f} of the peer's")
        rates = [line["replica_steps_per_s"] for line in own]
        peer_rates = [line["replica_steps_per_s"] for line in other]
        ratios = [mine / theirs for mine, theirs in zip(rates, peer_rates, strict=True)]
        floor = machine.floor_seconds(own[0])
        return {
            "workload": name,
            "device": self.options.device,
            "machine": machine.words,
            "date": datetime.date.today().isoformat(),
            "plateau": median_rate(own),
            "replicas": replicas,
            "best_peer": median_rate(other),
            "peer_setting": setting.words,
            "ratio": statistics.median(ratios),
            "ratio_lowest": min(ratios),
            "ratio_highest": max(ratios),
            "floor": 1 / floor,
            "floor_share": median_rate(own) * floor,
            "rounds": self.options.rounds,
            "seconds": self.options.seconds,
            "plateau_rounds": rates,
            "peer_rounds": peer_rates,
            "plateau_memory_bytes": max(line["peak_memory_bytes"] or 0 for line in own),
            "peer_memory_bytes": max(line["peak_memory_bytes"] for line in other),
            "peer_device_memory_bytes": other[0].get("device_memory_bytes"),
            "operations": own[0]["operations"],
            "tokens_per_step": tokens,
            "parameters": own[0]["parameters"],
            "peer_settings_tried": tried,
        }

    def scaling(self, name):
        """Rates over numbers of replicas, on one core and on all, in turns; rows of a table."""
        counts, threads = (1, 2, 4, 8, 16), sorted({1, self.options.cores})
        found = {(count, number): [] for count in counts for number in threads}
        for _ in range(self.options.rounds):
            for (count, number), rates in found.items():
                rates.append(self.plateau(name, self.options.seconds, count, number)["replica_steps_per_s"])
        median = {key: statistics.median(rates) for key, rates in found.items()}
        for count in counts:
            one, all_cores = median[count, 1], median[count, threads[-1]]
            yield [
                name,
                str(count),
                number_words(one),
                f"{one / median[1, 1]:.2f}",
                number_words(all_cores),
                f"{all_cores / one:.2f}",
            ]


def median_rate(lines):
    return statistics.median(line["replica_steps_per_s"] for line in lines)


def number_words(value):
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def table(header, rows):
    """A Markdown table with aligned columns."""
    rows = [header, *rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def summary(entries):
    header = ["workload", "Plateau", "tokens/s", "best peer", "ratio", "(range)", "floor", "share", "memory", "peer's"]
    header.append("setting")
    rows = []
    for entry in entries:
        spread = f"{entry['ratio_lowest']:.2f} to {entry['ratio_highest']:.2f}"
        rows.append(
            [
                entry["workload"],
                number_words(entry["plateau"]),
                number_words(entry["plateau"] * entry["tokens_per_step"]),
                number_words(entry["best_peer"]),
                f"{entry['ratio']:.2f}",
                spread,
                number_words(entry["floor"]),
                f"{entry['floor_share']:.2f}",
                f"{entry['plateau_memory_bytes'] / 1e6:.0f} MB",
                f"{entry['peer_memory_bytes'] / 1e6:.0f} MB",
                f"K={entry['replicas']} : {entry['peer_setting']}",
            ]
        )
    return table(header, rows)


def keep_text(machine, kind, text):
    """Adds what was printed to a file named by date, machine and kind of measurement."""
    RESULTS.mkdir(exist_ok=True)
    slug = re.sub(r"[^a-z0-9]+", "-", machine.words.lower()).strip("-")
    path = RESULTS / f"{datetime.date.today()}-{slug}-{kind}.md"
    before = path.read_text() + "\n" if path.exists() else ""
    path.write_text(before + text)


def keep(name, entries, fields):
    """Puts the entries into a file of results in place of older ones that are equal in these fields."""
    path = RESULTS / name
    old = json.loads(path.read_text()) if path.exists() else []

    def key(entry):
        return tuple(entry[field] for field in fields)

    new = {key(entry) for entry in entries}
    kept = [entry for entry in old if key(entry) not in new]
    path.write_text(json.dumps(sorted(kept + entries, key=key), indent=1) + "\n")


def read_options():
    parser = argparse.ArgumentParser(
        prog="bench/run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="WORKLOAD", help="default: all of the file")
    parser.add_argument("--workloads", default=str(common.WORKLOADS), help="file of workloads, for other shapes")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument(
        "--replicas",
        type=lambda text: [int(word) for word in text.split(",")],
        help="trained together by Plateau; of several, the best (default: 16; 16,64,256 on a card)",
    )
    parser.add_argument("--peer", help="only settings of peers whose words contain this")
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)), help="cores to use")
    parser.add_argument(
        "--scaling",
        action="store_true",
        help="instead of the peers: Plateau with 1 to 16 replicas on one core and on all",
    )
    parser.add_argument("--no-keep", action="store_true", help="only print; write nothing to bench/results")
    parser.add_argument("--binary", required=True, help="plateau-bench, instead of building it")
    parser.add_argument("--python", required=True, help="Python with the peers' packages, instead of an environment")
    options = parser.parse_args()
    options.replicas = options.replicas or ([16] if options.device == "cpu" else [16, 64, 256])
    known = common.read_workloads(options.workloads)
    options.names = options.names or list(known)
    unknown = [name for name in options.names if name not in known]
    if unknown:
        parser.error(f"{options.workloads} has no workload {unknown[0]}; it has {', '.join(known)}")
    return options


def main():
    options = read_options()
    printed = []

    def out(text=""):
        print(text, flush=True)
        printed.append(text)

    machine, comparison, entries = Machine(options), Comparison(options, out), []
    out(f"# {'Scaling' if options.scaling else 'Training speed'}, {datetime.datetime.now():%Y-%m-%d %H:%M}\n")
    load = os.getloadavg()[0]
    if options.scaling:
        out(f"{machine.words}; {options.rounds} rounds in turns, {options.seconds:g} s each; load before: {load:.1f}\n")
        rows = [row for name in options.names for row in comparison.scaling(name)]
        header = ["workload", "replicas K", "1 core", "of K = 1", f"{options.cores} cores", "of 1 core"]
        out("Replica-steps per second, medians.\n\n" + table(header, rows))
    else:
        rates = machine.measure()
        out(f"{machine.words}; load before: {load:.1f}\nMatrix products: {rates}\n\nFirst pass, replica-steps/s:\n")
        for name in options.names:
            entries.append(comparison.workload(name, machine))
        out(f"\nReplica-steps per second, medians of {options.rounds} rounds in turns, {options.seconds:g} s each.\n")
        out(summary(entries))
    if not options.no_keep:
        keep_text(machine, "scaling" if options.scaling else "training", "\n".join(printed) + "\n")
        if entries:
            keep("training.json", entries, ("device", "workload"))


if __name__ == "__main__":
    try:
        main()
    except RuntimeError as error:
        sys.exit(f"bench/run cannot go on: {error}")
