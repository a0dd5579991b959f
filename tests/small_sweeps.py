"""Sweeps of runs that take a second, of the few molecules and the kernel of `small_methods`."""

import os
import time
from pathlib import Path

import numpy as np
import torch
import yaml
from bench_commands import command, here
from conftest import PROJECT

from bench.errors import UserError
from bench.launch.__main__ import main
from bench.runs.locks import is_locked
from bench.runs.record import end_file, numbers_of, read_record

SIZES = [
    *("scenario.initial=2", "scenario.pool=12", "scenario.validation=4", "scenario.test=6", "batch_size=2"),
    *("model.hidden=[8,8]", "model.n_radial=2", "training.minibatch=2", "training.validation_checks=3"),
]


def words(results, *more, final=8, epochs=4, **kernel):
    """The words of a sweep after `sweep=demo`."""
    yaml_keys = yaml.safe_load((PROJECT / "conf/dataset/rmd17_aspirin.yaml").read_text())
    return [
        *SIZES,
        "plugins=[small_methods,own_kernel]",
        *("algorithm=maxdiag_rnd", "kernel._target_=small_methods.Misbehaving", "kernel.name=misbehaving"),
        *(f"+kernel.{key}={value}".replace(" ", "") for key, value in kernel.items()),
        *(f"~dataset.{key}" for key in yaml_keys if key not in ("_target_", "name")),
        *("dataset._target_=small_methods.FewMolecules", "dataset.name=few_molecules"),
        *(f"scenario.final={final}", f"training.epochs={epochs}", "final_kernels=[]", f"results={results}", *more),
    ]


def launch_command(results, *more, **settings):
    """The command with these words; `seed=…` and options are among `more`."""
    return command("sweep=demo", *words(results, *more, **settings), module="bench.launch")


def launch(results, *more, **settings):
    """The same, but for its workers in this process, which has imported already what the command would."""
    return here(main, "sweep=demo", *words(results, *more, **settings))


def numbers(folder):
    """Everything a run recorded but where, when, how fast, and beside which others."""
    record = read_record(folder / "record.json")
    steps = [numbers_of(step) for step in record.steps]
    arrays = {
        name: {key: values.tobytes() for key, values in np.load(folder / name).items()}
        for name in ("split.npz", end_file(record.finals[-1]))
    }
    model = torch.load(folder / "model.pt", weights_only=True)
    weights = {name: values.numpy().tobytes() for name, values in model["state"]["parameters"].items()}
    return record.status, record.identity, steps, arrays, weights


def all_numbers(results):
    """`numbers` of every run by its name."""
    return {folder.name: numbers(folder) for folder in sorted((results / "runs").iterdir())}


def states(results, *more, **settings):
    """The states that analysis.plan reports, by seed."""
    from analysis.plan import states as plan
    from analysis.records.found import read_records
    from bench.config.sweep import expand

    table = plan(expand(["sweep=demo", *words(results, *more, **settings)]), read_records(results)[0])
    return {row["seed"]: row["state"] for row in table}


def running(results):
    """How many runs a process is at work on."""
    return sum(is_locked(path) for path in results.glob("runs/*/run.lock"))


def wait_until(condition, seconds=600.0):
    """Wait for something that other processes do."""
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > seconds:
            raise UserError(f"waited {seconds} s in vain")
        time.sleep(0.1)


def process_ids(environment_word):
    """Processes in whose command line a word stands."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                arguments = (folder / "cmdline").read_bytes().decode().split("\0")
            except OSError:
                continue
            if any(environment_word in argument for argument in arguments):
                found.append(int(folder.name))
    return found
