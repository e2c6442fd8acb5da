"""What the peers share: reading workloads, running several processes side by side, and the line each run prints."""

import json
import multiprocessing
import pathlib
import queue
import resource

WORKLOADS = pathlib.Path(__file__).resolve().parent.parent / "workloads.json"
START_SECONDS = 900  # compilation may take minutes


def read_workloads(path):
    """Workloads by name; entries that begin with an underscore are remarks."""
    table = json.loads(pathlib.Path(path).read_text())
    return {name: sizes for name, sizes in table.items() if not name.startswith("_")}


def peak_memory_bytes():
    """Most memory this process has held in RAM."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _child(train, workload, settings, barrier, results):
    try:
        results.put(train(workload, settings, lambda: barrier.wait(START_SECONDS)))
    except BaseException as error:
        barrier.abort()
        results.put({"error": f"{type(error).__name__}: {error}"})


def side_by_side(train, workload, settings, processes):
    """Runs `train(workload, settings, ready)` in `processes` processes, which start measuring together when all have
    called `ready()`. Each returns a dictionary with its `rate`, `memory` and `parameters`; rates and memory are summed.
    """
    context = multiprocessing.get_context("spawn")
    results, barrier = context.Queue(), context.Barrier(processes)
    children = [
        context.Process(target=_child, args=(train, workload, settings, barrier, results)) for _ in range(processes)
    ]
    for child in children:
        child.start()
    found = []
    while len(found) < processes:
        try:
            found.append(results.get(timeout=5))
        except queue.Empty:
            if not any(child.is_alive() for child in children):
                found.append({"error": f"a process died with status {[child.exitcode for child in children]}"})
                break
    for child in children:
        child.join(60)
        if child.is_alive():
            child.kill()
    errors = [each["error"] for each in found if "error" in each]
    if errors:
        # The first to fail breaks the barrier for the others, whose errors say nothing.
        telling = [error for error in errors if not error.startswith("BrokenBarrierError")]
        raise SystemExit((telling or errors)[0])
    line = {
        "replica_steps_per_s": sum(each["rate"] for each in found),
        "peak_memory_bytes": sum(each["memory"] for each in found),
        "parameters": found[0]["parameters"],
    }
    if "tokens_per_step" in found[0]:
        line["tokens_per_step"] = found[0]["tokens_per_step"]
    if "processor_rate" in found[0]:
        line["replica_steps_per_processor_s"] = sum(each["processor_rate"] for each in found) / len(found)
    if "device_memory" in found[0]:
        line["device_memory_bytes"] = sum(each["device_memory"] for each in found)
    return line
