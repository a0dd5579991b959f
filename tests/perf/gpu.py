"""Everything that a machine with a GPU can show in the time given: python -m tests.perf.gpu [--minutes 25] [--dry].

One part after the other, each written to --out as it comes; the same command goes on where it was stopped:

    correctness   tests/bench/test_gpu.py
    throughput    steps of 1, 4, 16 and 64 models in lockstep at each precision, beside the network's products; memory
    profile       where the time of a step of the most models goes
    agreement     whole runs on the device beside whole runs on the CPU: their difference, and the noise of seeds
    forecast      the whole paper from the measured steps
    runs          real ones, TiO2 first, until the time is over

`report.md` in --out says what has been found. --dry does all of that on the CPU, by the engine that a GPU runs, with
fewer models and epochs: it shows that the command works, not how fast a GPU is.
"""

import argparse
import dataclasses
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from analysis.costs import BenchmarkedCosts
from bench.config.sweep import expand
from bench.runs.provenance import provenance
from bench.runs.record import RECORD, read_record
from tests.perf.features import PROJECT, Case, cases
from tests.perf.training import MINIBATCH, group_of, measure, per_structure, products_of, seconds_now

PRECISIONS = ("float32", "tf32", "bfloat16")
MODELS = (1, 4, 16, 64)
SMALL_MINIBATCH = 10
"""Of the scenarios that start with as few structures."""
SEEDS = range(5)
SHARE = {"throughput": 0.4, "profile": 0.45, "agreement": 0.65}
"""Of the time given, when what is left of a part is left out: something of every part is shown."""
SWEEPS = ("tio2_10_250", "md17_10_100", "qm9_1000_10000", "lmnto_100_1000", "md17_100_1000", "qm9_5000_25000")
ERROR = "force_mae_kcal_mol_A"


@dataclasses.dataclass
class Show:
    """The command at work: on which device, until when, and what has been found so far."""

    out: Path
    device: str
    ends: float
    minutes: float
    models: Sequence[int]

    def __post_init__(self) -> None:
        self.file = self.out / "found.json"
        self.found: dict[str, Any] = json.loads(self.file.read_text()) if self.file.exists() else {}

    @property
    def dry(self) -> bool:
        return self.device == "cpu"

    def left(self, part: str = "") -> float:
        """Seconds left for a part."""
        return self.ends - time.monotonic() - 60 * self.minutes * (1 - SHARE.get(part, 1.0))

    def keep(self, part: str, key: str, value: Any) -> None:
        """Write down what was found, and the report with it."""
        self.found.setdefault(part, {})[key] = value
        self.file.write_text(json.dumps(self.found, indent=1))
        (self.out / "report.md").write_text("\n".join(report(self)) + "\n")

    def known(self, part: str, key: str) -> bool:
        return key in self.found.get(part, {})


def correctness(show: Show) -> None:
    """The tests that need a GPU; in a dry run those on the emulated device."""
    if show.known("correctness", "ended"):
        return
    name = "test_emulated_device.py" if show.dry else "test_gpu.py"
    words = ["-m", "pytest", "-q", f"tests/bench/{name}", "-p", "no:cacheprovider"]
    log = show.out / "tests.log"
    with log.open("w") as file:
        done = subprocess.run([sys.executable, *words], cwd=PROJECT, stdout=file, stderr=file, check=False)
    show.keep("correctness", "ended", [name, done.returncode, log.read_text().strip().splitlines()[-1]])


def throughput(show: Show, known: list[Case]) -> None:
    """Rows of `measure`, the most models first: what does not fit into memory is said so."""
    steps = 3 if show.dry else 25
    for precision in PRECISIONS:
        size = 512 if show.dry else 8192
        show.keep("peak_gflops", precision, square_gflops(size, show.device, precision))
    for case in known:
        few = sorted({min(show.models), max(show.models)}, reverse=True)
        wanted = [(MINIBATCH, "float32", models) for models in sorted(show.models, reverse=True)]
        wanted += [(SMALL_MINIBATCH, "float32", models) for models in few]
        wanted += [(MINIBATCH, precision, models) for precision in PRECISIONS[1:] for models in few]
        for minibatch, precision, models in wanted:
            key = f"{case.name} {minibatch} {precision} {models}"
            if show.known("throughput", key) or show.left("throughput") < 0:
                continue
            show.keep("throughput", key, row_of(show, case, minibatch, models, precision, steps))
        if not show.known("per_structure", case.name) and show.left("throughput") > 0:
            show.keep("per_structure", case.name, per_structure(case, show.device))


def row_of(show: Show, case: Case, minibatch: int, models: int, precision: str, steps: int) -> dict[str, Any]:
    """A measured row with its memory, or what went wrong."""
    if not show.dry:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        row = measure(case, minibatch, models, steps, show.device, precision, plain=True)
    except torch.OutOfMemoryError as error:
        return {"error": str(error).splitlines()[0]}
    return row | ({} if show.dry else {"memory_mb": torch.cuda.max_memory_allocated() / 1024**2})


def square_gflops(size: int, device: str, precision: str) -> float:
    """What the device does in one large product."""
    left, right = (torch.randn(1, size, size, device=device) for _ in range(2))
    seconds = [products_of([(left, right)], 1, device, precision)[0] for _ in range(6)]
    return 2 * size**3 / statistics.median(seconds[1:]) / 1e9


def profile(show: Show, known: list[Case]) -> None:
    """The operations of a step of the most models that take longest, by torch's profiler."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as watched

    activities = [ProfilerActivity.CPU] + ([] if show.dry else [ProfilerActivity.CUDA])
    for case in known:
        if show.known("profile", case.name) or show.left("profile") < 0:
            continue
        try:
            (group,) = group_of(case, MINIBATCH, max(show.models), show.device, "float32", plain=True)
            for index in range(3):
                group.step(index, 0.5)
            seconds_now(show.device)
            with watched(activities=activities) as taken:
                for index in range(3):
                    group.step(3 + index, 0.5)
                seconds_now(show.device)
        except torch.OutOfMemoryError as error:
            show.keep("profile", case.name, [["out of memory", str(error).splitlines()[0], ""]])
            continue
        of = "self_cpu_time_total" if show.dry else "self_device_time_total"
        times = {one.key: getattr(one, of) / 3e3 for one in taken.key_averages()}
        longest = sorted(times, key=lambda name: -times[name])[:12]
        total = sum(times.values())
        show.keep("profile", case.name, [[name, times[name], times[name] / total] for name in longest])


def agreement(show: Show) -> None:
    """Whole runs of the small scenario: five seeds on the CPU and at each precision on the device."""
    cuts = ["scenario.final=20", "training.epochs=30"] if show.dry else []
    for device, precision in [("cpu", "float32")] + [(show.device, one) for one in PRECISIONS]:
        key = f"{device} {precision}"
        if show.known("agreement", key) or show.left("agreement") < 0:
            continue
        results = show.out / "agreement" / key.replace(" ", "-")
        if device == show.device and not show.dry:
            where = ["cluster.gpus_per_worker=1", f"cluster.pack={len(SEEDS)}", "cluster.workers=1"]
        else:
            where = ["cluster=local"]
        seeds = ",".join(map(str, SEEDS))
        words = ["sweep=demo", "algorithm=maxdiag_rnd", f"seed={seeds}", f"precision={precision}", f"results={results}"]
        launch(show, [*words, *cuts, *where], show.left("agreement"))
        records = [read_record(path) for path in sorted(results.glob(f"runs/*/{RECORD}"))]
        done = {record.identity["seed"]: record for record in records if record.status == "done"}
        if len(done) == len(SEEDS):
            errors = [done[seed].steps[-1].metrics.given()[ERROR] for seed in SEEDS]
            seconds = [sum(step.seconds for step in done[seed].steps) for seed in SEEDS]
            show.keep("agreement", key, {"errors": errors, "seconds": seconds})


def launch(show: Show, words: list[str], seconds: float) -> None:
    """Have runs done, for so many seconds at most: what is not finished then is saved and goes on next time."""
    if not show.dry:
        torch.cuda.empty_cache()  # they need the memory that this process has used
    command, started = [sys.executable, "-m", "bench.launch", *words], time.monotonic()
    with (show.out / "launch.log").open("a") as log:
        waiting = subprocess.Popen([*command, "--wait"], cwd=PROJECT, stdout=log, stderr=log)
        try:
            waiting.wait(timeout=max(seconds, 1.0))
        except subprocess.TimeoutExpired:
            subprocess.run([*command, "--cancel"], cwd=PROJECT, stdout=log, stderr=log, check=False)
            waiting.wait()
    print(f"{' '.join(words)}: {time.monotonic() - started:.0f} s", flush=True)


def forecast(show: Show) -> None:
    """Hours of every scenario of the paper at the measured milliseconds of one of the most models in lockstep."""
    rows = [row for row in show.found.get("throughput", {}).values() if "error" not in row]
    if not rows:
        return
    table = pd.DataFrame(rows)
    table = table[table["precision"] == "float32"].sort_values("models")
    each = show.found.get("per_structure", {})
    steps: dict[str, dict[float, float]] = {}
    structures: dict[str, dict[str, float]] = {}
    for (name, minibatch), part in table.groupby(["data", "minibatch"]):
        best = part.iloc[-1]
        steps.setdefault(name, {})[float(minibatch)] = best["step_ms"] / best["models"]
        if name in each:
            of_one = {key: value for key, value in each[name].items() if key.endswith("_ms")}
            evaluation = of_one.get("forces_ms", of_one.get("energies_ms", math.nan))
            structures[name] = of_one | {"validation_ms": best["validation_ms"], "evaluation_ms": evaluation}
    costs = BenchmarkedCosts({name: dict(sorted(curve.items())) for name, curve in steps.items()}, structures)
    hours: dict[str, float] = {}
    for cell in expand(["sweep=paper"]):
        name = cell.run.scenario.name
        hours[name] = hours.get(name, 0.0) + costs.to_come(cell.run, 0) / 3600
    for name, value in hours.items():
        show.keep("forecast", name, None if math.isnan(value) else value)


def runs(show: Show) -> None:
    """Real runs of the paper in packs, as many as there is time for."""
    cuts = ["training.epochs=3", "scenario.final=20", "seed=0", "algorithm=maxdiag_rnd"] if show.dry else []
    where = ["cluster=local"] if show.dry else ["cluster.gpus_per_worker=1", f"cluster.pack={max(MODELS) // 4}"]
    results = show.out / "paper"
    for sweep in SWEEPS:
        if show.left() < 30:
            break
        launch(show, [f"sweep={sweep}", *cuts, *where, f"results={results}"], show.left())
        records = [read_record(path) for path in sorted(results.glob(f"runs/*/{RECORD}"))]
        of_sweep = [record for record in records if record.identity["scenario"]["name"] == sweep]
        steps = sum(len(record.steps) for record in of_sweep)
        seconds = sum(step.seconds for record in of_sweep for step in record.steps)
        done = sum(record.status == "done" for record in of_sweep)
        show.keep("runs", sweep, {"runs": len(of_sweep), "done": done, "steps": steps, "seconds": seconds})


def report(show: Show) -> list[str]:
    """What has been found, as Markdown."""
    found, here = show.found, show.found.get("machine", {}).get("here", {})
    lines = ["# " + ("A dry run on the CPU: no GPU was used" if show.dry else f"On {here.get('device')}"), ""]
    if ended := found.get("correctness", {}).get("ended"):
        lines += [f"`{ended[0]}`: {ended[2]}", ""]
    rows = found.get("throughput", {})
    if rows:
        peak = found.get("peak_gflops", {})
        lines += ["Products of one large matrix, GFLOP/s: " + ", ".join(f"{k} {v:.0f}" for k, v in peak.items()), ""]
        lines += [
            "| data | minibatch | precision | models | step, ms | a model's, ms | × one | floor, ms | step / floor"
            " | floor, GFLOP/s | of float32's peak in a step | memory, MB |",
            "|" + "---|" * 12,
        ]
        for key, row in rows.items():
            name, minibatch, precision, models = key.split()
            if "error" in row:
                lines.append(f"| {name} | {minibatch} | {precision} | {models} | {row['error']} |" + " |" * 7)
                continue
            one = rows.get(f"{name} {minibatch} {precision} 1", {}).get("step_ms", math.nan)
            reached = row["floor_gflops"] * row["floor_ms"] / row["step_ms"] / peak["float32"]
            lines.append(
                f"| {name} | {minibatch} | {precision} | {models} | {row['step_ms']:.3g}"
                f" | {row['step_ms'] / row['models']:.3g} | {one * row['models'] / row['step_ms']:.3g}"
                f" | {row['floor_ms']:.3g} | {row['ratio']:.3g} | {row['floor_gflops']:.0f} | {reached:.2f}"
                f" | {row.get('memory_mb', math.nan):.0f} |"
            )
        lines.append("")
    for name, longest in found.get("profile", {}).items():
        lines += [f"A step of {max(show.models)} models on {name}, longest operations: ", ""]
        lines += [f"* {what}: {ms:.3g} ms, {100 * part:.0f} %" for what, ms, part in longest if part] + [""]
    runs_of = found.get("agreement", {})
    if "cpu float32" in runs_of:
        lines += [f"Whole runs, {len(SEEDS)} seeds, last {ERROR}: mean ± deviation of seeds; difference to the CPU's, "]
        lines += ["seed by seed, in units of its standard error and of what two sets of seeds differ by:", ""]
        reference = np.array(runs_of["cpu float32"]["errors"])
        for key, one in runs_of.items():
            errors = np.array(one["errors"])
            paired = errors - reference
            error = max(paired.std(ddof=1) / len(paired) ** 0.5, 1e-12)
            noise = reference.std(ddof=1) * (2 / len(reference)) ** 0.5
            lines.append(
                f"* {key}: {errors.mean():.3f} ± {errors.std(ddof=1):.3f}; {paired.mean():+.4f},"
                f" {paired.mean() / error:+.1f}, {paired.mean() / noise:+.2f};"
                f" {statistics.median(one['seconds']):.0f} s a run"
            )
        lines.append("")
    if hours := found.get("forecast"):
        lines += ["The paper at these steps, hours on one such device (features and validation as measured):", ""]
        lines += [
            f"* {name}: " + ("not measured" if value is None else f"{value:.3g}") for name, value in hours.items()
        ]
        if all(value is not None for value in hours.values()):
            lines.append(f"* all: {sum(hours.values()):.3g}")
        lines.append("")
    for name, one in found.get("runs", {}).items():
        begun = f"{one['done']} of {one['runs']} begun runs done, {one['steps']} steps"
        lines.append(f"* {name}: {begun if one['runs'] else 'no run begun: launch.log says why'}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=25.0)
    parser.add_argument("--dry", action="store_true", help="on the CPU")
    parser.add_argument("--out", type=Path, help="results/gpu, or results/gpu-dry")
    parser.add_argument("--data", nargs="*", default=["aspirin", "TiO2", "LMNTO", "QM9"])
    parser.add_argument("--parts", nargs="*", help="only these")
    arguments = parser.parse_args()
    if not arguments.dry and not torch.cuda.is_available():
        parser.error("torch sees no GPU here: --dry does what can be done without one (make gpu DRY=1)")
    out = (arguments.out or Path("results/gpu-dry" if arguments.dry else "results/gpu")).absolute()
    out.mkdir(parents=True, exist_ok=True)
    device, models = ("cpu", MODELS[:2]) if arguments.dry else ("cuda", MODELS)
    show = Show(out, device, time.monotonic() + 60 * arguments.minutes, arguments.minutes, models)
    if not arguments.dry:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)  # as runs do
        torch.utils.deterministic.fill_uninitialized_memory = False
    show.keep("machine", "here", provenance(device))
    known = cases(arguments.data)
    parts = {
        "correctness": lambda: correctness(show),
        "throughput": lambda: throughput(show, known),
        "profile": lambda: profile(show, known),
        "forecast": lambda: forecast(show),
        "agreement": lambda: agreement(show),
        "runs": lambda: runs(show),
    }
    for name, part in parts.items():
        if arguments.parts is None or name in arguments.parts:
            print(f"{name}: {show.left() / 60:.1f} minutes left", flush=True)
            part()
    print((out / "report.md").read_text())


if __name__ == "__main__":
    main()
