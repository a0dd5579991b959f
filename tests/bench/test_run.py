"""The commands as a user types them: a run, run again, killed and resumed, and one line for every mistake."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace

import ase
import numpy as np
import pytest
import torch
from bench_commands import command, file_system, here, record_at, records, resume
from conftest import PROJECT, make_builder, subprocess_environment
from small_sweeps import numbers

from bench.calculator import PotentialCalculator
from bench.config.compose import compose_run
from bench.config.identity import hash_of
from bench.data.split import Split
from bench.errors import UserError
from bench.learning.cycle import run_active_learning
from bench.run import main
from bench.runs import stopping
from bench.runs.record import RunRecord, read_record
from bench.runs.stopping import listen
from bench.training import shared
from bench.training.checkpoint import Checkpoint

TINY = [
    *("scenario.initial=6", "scenario.final=10", "scenario.pool=60", "scenario.validation=8", "scenario.test=12"),
    *("batch_size=2", "training.epochs=6", "training.validation_checks=3", "threads=1"),
    *("model.hidden=[16,16]", "model.n_radial=3"),
]


def only_folder(results):
    (folder,) = (results / "runs").iterdir()
    return folder


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    results = tmp_path_factory.mktemp("undisturbed")
    done = command(*TINY, "algorithm=lcmd_feat_ll", f"results={results}")
    assert done.returncode == 0, done.stderr
    return results, done


def test_a_run_records_everything(undisturbed):
    results, done = undisturbed
    folder = only_folder(results)
    record = record_at(folder)
    assert record["status"] == "done"
    assert [step["n_train"] for step in record["steps"]] == [6, 8, 10]
    assert folder.name == record["run_id"]
    split = np.load(folder / "split.npz")
    picked = [index for step in record["steps"] for index in step.get("picked", [])]
    assert len(set(picked)) == 4 and set(picked) <= set(split["pool"].tolist())
    session = record["sessions"][0]
    assert {"host", "cpu", "cores", "threads", "versions", "git_commit", "git_dirty"} <= set(session)
    for step in record["steps"]:
        metrics = step["metrics"]
        for quantity in ("energy", "force"):
            unit = "kcal_mol" + ("_A" if quantity == "force" else "")
            assert 0 < metrics[f"{quantity}_mae_{unit}"] <= metrics[f"{quantity}_rmse_{unit}"]
        assert metrics["force_maxe_kcal_mol_A"] <= metrics["force_max_component_kcal_mol_A"]
        assert step["seconds_training"] > 0 and step["peak_memory_mb"] > 100
        assert step["processor_seconds_features"] > 0 and step["processor_seconds_training"] > 0
        assert ("processor_seconds_selection" in step) == (step["n_train"] < 10)
    last = np.load(folder / "end_10.npz")
    metrics = record["steps"][-1]["metrics"]
    kcal = 23.060547830619
    assert metrics["force_maxe_kcal_mol_A"] == pytest.approx(last["force_error_eV_A"].max() * kcal, rel=1e-5)
    assert metrics["force_mae_kcal_mol_A"] == pytest.approx(last["force_error_eV_A"].mean() * kcal, rel=1e-5)
    assert metrics["energy_mae_kcal_mol"] == pytest.approx(last["energy_error_eV"].mean() * kcal, rel=1e-5)
    assert "N_train 10: force MAE" in done.stderr


def test_run_again_says_that_it_is_done(undisturbed):
    results, _ = undisturbed
    before = (only_folder(results) / "record.json").read_bytes()
    again = command(*TINY, "algorithm=lcmd_feat_ll", f"results={results}")
    assert again.returncode == 0 and "is done" in again.stderr
    assert (only_folder(results) / "record.json").read_bytes() == before


def test_deviations_follow_the_scenario_s_file(tmp_path):
    """A record made before the file was changed says what it departs from today; nothing else in it changes."""
    run = compose_run(["algorithm=maxdiag_rnd", "training.minibatch=10"])
    folder = tmp_path / hash_of({"seed": 0})
    folder.mkdir()
    record = RunRecord.open(folder, run, {"seed": 0})
    record.save(status="done")
    again = RunRecord.open(folder, replace(run, deviations={}), {"seed": 0}).content
    assert record.content.deviations == {"training.minibatch": 10}
    assert again == record.content.model_copy(update={"deviations": {}})
    assert read_record(folder / "record.json") == again


def test_the_model_loads_as_a_calculator(undisturbed):
    """The kept model, through ASE, gives back the recorded errors of the last step; forces are −dE/dr."""
    results, _ = undisturbed
    folder = only_folder(results)
    data = np.load(PROJECT / "bench/data/embedded/rmd17_aspirin_4019.npz")
    numbers_z, positions, energies, forces = (data[key] for key in ("Z", "R", "E_eV", "F_eV_A"))
    last = np.load(folder / "end_10.npz")
    calculator = PotentialCalculator(folder / "model.pt")
    for position, structure in enumerate(last["structure"][:4]):
        atoms = ase.Atoms(numbers_z, positions[structure], calculator=calculator)
        energy_error = abs(atoms.get_potential_energy() - energies[structure])
        assert energy_error == pytest.approx(last["energy_error_eV"][position], abs=2e-5)
        error = np.abs(atoms.get_forces() - forces[structure]).mean()
        assert error == pytest.approx(last["force_error_eV_A"][position], rel=1e-4)
    with pytest.raises(Exception, match="atoms hold Z = \\[79\\]"):
        ase.Atoms("Au", calculator=calculator).get_potential_energy()


KILLED = {
    "in the initial training": ("bench.training.optimizer", "Optimizer.step", 4),
    "in a later training": ("bench.training.optimizer", "Optimizer.step", 9),
    "in the last training": ("bench.training.optimizer", "Optimizer.step", 17),
    "in selection": ("bench.selection.lcmd", "nearest_of_training", 2),
    "in writing the initial model": ("pathlib", "Path.replace", 3),
    "in writing a step": ("pathlib", "Path.replace", 5),
    "in writing the last arrays": ("pathlib", "Path.replace", 6),
    "in writing the model": ("os", "fsync", 7),
    "in writing the last step": ("os", "fsync", 8),
}


def sent(signum, module, function, count, *arguments, **environment):
    """A run that is sent a signal when a function is called for the n-th time."""
    return subprocess.run(
        [sys.executable, PROJECT / "tests/kill_at.py", signum.name, module, function, str(count), *arguments],
        cwd=PROJECT,
        env=subprocess_environment() | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("where", KILLED)
def test_killed_and_resumed_equals_undisturbed(undisturbed, tmp_path, where):
    module, function, count = KILLED[where]
    arguments = [*TINY, "algorithm=lcmd_feat_ll", f"results={tmp_path}"]
    assert sent(signal.SIGKILL, module, function, count, *arguments).returncode == -signal.SIGKILL
    for record in records(tmp_path):
        assert record["status"] == "running"
    resume(*arguments)
    assert numbers(only_folder(tmp_path)) == numbers(only_folder(undisturbed[0]))
    assert not list(tmp_path.rglob("*.tmp"))


def test_nothing_is_said_after_a_stop_while_torch_is_imported():
    """Torch has set up its logs when its import is over; before, it would list its caches at exit."""
    stop_amid = """
import importlib.abc, logging, signal, sys
from bench.runs.stopping import Stopped, listen
listen()
logging.basicConfig(level=logging.INFO)
class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "torch._meta_registrations" and "torch._subclasses.fake_tensor" in sys.modules:
            signal.raise_signal(signal.SIGTERM)
sys.meta_path.insert(0, Finder())
try:
    import torch
except Stopped as stop:
    stop.tell()
    raise
"""
    stopped = subprocess.run(
        [sys.executable, "-c", stop_amid],
        cwd=PROJECT,
        env=subprocess_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert stopped.returncode == 128 + signal.SIGTERM
    assert stopped.stderr.splitlines() == ["stopped by SIGTERM: the same command goes on from here"]


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGALRM])
def test_stopped_by_a_signal_and_resumed(undisturbed, tmp_path, signum):
    """In a training: it is saved, one line is said; the same command goes on in it with the same numbers.

    SIGALRM is what `listen` sets for the end of a SLURM job's time.
    """
    arguments = [*TINY, "algorithm=lcmd_feat_ll", f"results={tmp_path}"]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell has it ignored, also for children
    ahead = {"SLURM_JOB_END_TIME": str(int(time.time()) + 10**6)}
    stopped = sent(signum, "bench.training.optimizer", "Optimizer.step", 9, *arguments, **ahead)
    assert stopped.returncode == 128 + signum
    assert stopped.stderr.splitlines()[-1] == f"stopped by {signum.name}: the same command goes on from here"
    assert "Traceback" not in stopped.stderr
    assert records(tmp_path)[0]["status"] == "running" and list(tmp_path.rglob("training.pt"))
    assert "training on 8 structures goes on after" in resume(*arguments)
    assert numbers(only_folder(tmp_path)) == numbers(only_folder(undisturbed[0]))
    assert not list(tmp_path.rglob("training.pt"))


def test_a_signal_whose_exception_was_swallowed(monkeypatch, tmp_path):
    """Python drops what a handler raises within a finaliser: the run stops after the training all the same."""
    run = compose_run([*TINY, "algorithm=maxdiag_rnd", f"results={tmp_path}"])
    original = shared.fit_requests

    def swallowing(requests):
        outcomes = original(requests)
        stopping._listener.received = signal.SIGTERM
        return outcomes

    monkeypatch.setattr(stopping._listener, "received", None)
    with monkeypatch.context() as patch:
        patch.setattr(shared, "fit_requests", swallowing)
        with pytest.raises(stopping.Stopped):
            run_active_learning(run)
    assert [one["status"] for one in records(tmp_path)] == ["running"]
    stopping._listener.received = None
    assert run_active_learning(run).done


@pytest.mark.parametrize(("most", "tried"), [(2, [7, 4, 2, 2, 3, 2, 1]), (0, [3, 2, 1, 1, 1])])
def test_what_does_not_fit_into_memory_together_is_halved(tmp_path, mixed_data, monkeypatch, most, tried):
    """A GPU's: one training that does not fit alone fails with a line, the others go on."""
    sizes = []

    def fit_requests(requests):
        sizes.append(len(requests))
        if len(requests) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.41 GiB.")
        return [RuntimeError(one.run.seed) for one in requests]

    monkeypatch.setattr(shared, "fit_requests", fit_requests)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**30, 80 * 2**30))
    run = compose_run([*TINY, f"results={tmp_path}"])
    rows, checkpoint = np.arange(2), Checkpoint(tmp_path / "training.pt", 60.0)
    one = shared.Request(run, make_builder(mixed_data), np.arange(10), Split(rows, rows, rows, rows), 3, checkpoint)
    requests = [replace(one, run=replace(run, seed=seed)) for seed in range(tried[0])]
    outcomes = shared.trained(requests)
    assert sizes == tried
    if most:
        assert [one.args for one in outcomes] == [(seed,) for seed in range(7)]
        return
    assert all(isinstance(one, UserError) for one in outcomes)
    assert str(outcomes[0]) == (
        "device = cpu: training 3 models on 10 structures needs more memory than is free of its 80.0 GiB: end what"
        " else uses it, lower training.minibatch, or set device=cpu"
    )


def test_the_end_of_a_job_s_time_is_known(monkeypatch):
    """SLURM tells a job when it will end: a run is stopped a minute ahead of it; a job that is over tells nothing."""
    asked = []
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(signal, "setitimer", lambda timer, seconds: asked.append((timer, seconds)))
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    listen()
    assert asked == []
    for end in ("1075", "1030", "", "unlimited", "999", "9" * 23, "9" * 5000):
        monkeypatch.setenv("SLURM_JOB_END_TIME", end)
        listen()
    assert asked == [(signal.ITIMER_REAL, 15.0), (signal.ITIMER_REAL, 1.0)]


def test_multirun_shares_the_initial_model_and_pairs_runs(tmp_path):
    """Plain Hydra multirun: at one seed all algorithms have the same split and the same first model."""
    done = command("-m", *TINY, "algorithm=maxdiag_rnd,maxdet_gp_ll", "seed=0,1", f"results={tmp_path}")
    assert done.returncode == 0, done.stderr
    found = records(tmp_path)
    assert len(found) == 4 and all(record["status"] == "done" for record in found)
    assert len(list((tmp_path / "initial").glob("*.pt"))) == 2
    first = {}
    for record in found:
        first.setdefault(record["identity"]["seed"], []).append(json.dumps(record["steps"][0]["metrics"]))
    assert all(len(set(values)) == 1 for values in first.values())
    assert first[0] != first[1]
    splits = {(tmp_path / "runs" / r["run_id"] / "split.npz").read_bytes() for r in found}
    assert len(splits) == 2
    assert [path.name for path in (tmp_path / "multirun").iterdir()] == ["multirun.yaml"]  # no empty log beside it


FIFTEEN = sorted(path.stem for path in (PROJECT / "conf/algorithm").glob("*.yaml"))


def test_every_algorithm_runs(tmp_path):
    """All fifteen on the embedded data, in one multirun; committees and labels are accounted for."""
    assert len(FIFTEEN) == 15
    done = command("-m", *TINY, "scenario.final=8", f"algorithm={','.join(FIFTEEN)}", f"results={tmp_path}")
    assert done.returncode == 0, done.stderr
    found = {
        (record["identity"]["selection"]["name"], record["identity"]["kernel"]["name"]): record
        for record in records(tmp_path)
    }
    assert len(found) == 15 and all(record["status"] == "done" for record in found.values())
    assert len(list((tmp_path / "initial").glob("*.pt"))) == 2  # one model, one committee
    for (_, kernel), record in found.items():
        committee = kernel.startswith("QBC")
        for step in record["steps"][:-1]:
            assert len(step["best_epochs"]) == (3 if committee else 1)
            assert step["pool_labels_read"] == (60 if kernel.startswith("AE") else 0)
            assert set(step["correlations"]) == ({kernel} if kernel.startswith(("GP", "QBC")) else set())
        last = record["steps"][-1]["correlations"]
        assert {"GP(LL)", "GP(RP)"} <= set(last)
        assert all(-1 <= values["pearson"] <= 1 for by_target in last.values() for values in by_target.values())
        arrays = np.load(tmp_path / "runs" / record["run_id"] / "end_8.npz")
        assert {"uncertainty GP(LL)", "uncertainty GP(RP)"} <= set(arrays.files)


def test_initial_model_is_trained_once_when_runs_start_together(tmp_path):
    """Three processes at the same moment: one trains the initial model, the others take it."""
    arguments = [sys.executable, "-m", "bench.run", *TINY, "scenario.final=8", f"results={tmp_path}"]
    algorithms = ["maxdiag_rnd", "maxdet_gp_ll", "lcmd_feat_ll"]
    started = [
        subprocess.Popen(
            [*arguments, f"algorithm={name}"],
            cwd=PROJECT,
            env=subprocess_environment(),
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in algorithms
    ]
    messages = [process.communicate()[1] for process in started]
    assert all(process.returncode == 0 for process in started), messages
    assert sum("taken from" in message for message in messages) == 2
    assert len({json.dumps(record["steps"][0]["metrics"]) for record in records(tmp_path)}) == 1


MISTAKES = {
    "unknown key": (["training.epoch=3"], "unknown configuration key 'training.epoch': did you mean 'training.epochs'"),
    "added key": (["+training.epoch=3"], "unknown configuration key training.epoch: did you mean 'epochs'"),
    "plugin key": (["+selection.foo=3"], "unknown configuration key selection.foo"),
    "choice": (["algorithm=maxdet_gp_l"], "no algorithm is called 'maxdet_gp_l': did you mean 'maxdet_gp_ll'"),
    "type": (["training.epochs=many"], "configuration key training.epochs = 'many'"),
    "seed": ([f"seed={2**63}"], f"configuration key seed = {2**63}: Input should be less than {2**63}"),
    "number": (["batch_size=0"], "configuration key batch_size = 0: Input should be greater than 0"),
    "negative": (["seed=-3"], "configuration key seed = -3: Input should be greater than or equal to 0"),
    "not a number": (["model.learning_rates.network=nan"], "model.learning_rates.network = nan"),
    "one bad value of a sweep": (["-m", "seed=0,1,x"], "configuration key seed = 'x'"),
    "too large": (["scenario.pool=5000"], "holds 4019 structures, but the scenario asks for"),
    "final": (["scenario.final=9000"], "scenario.final = 9000 asks for more than initial + pool"),
    "a name that files cannot have": (["scenario.name=my/test"], "scenario.name = 'my/test': at most 64 letters"),
    "shrinking": (["scenario.final=5"], "scenario.final = 5 is below scenario.initial = 6"),
    "illegal pair": (["kernel=rnd", "selection=lcmd"], "selection LCMD needs distances"),
    "no forces": (
        ["algorithm=maxdiag_ae_f", "training=energies"],
        "kernel AE(F) needs forces, but training.force_weight = 0",
    ),
    "missing file": (["dataset.path=nowhere.npz"], "no file nowhere.npz: set dataset.path"),
    "checksum": ([f"dataset.sha256={'0' * 64}"], "expected 000000000000"),
    "not prepared": (["dataset=tio2"], "python -m bench.data prepare tio2 [--from PATH]"),
    "no unit": (
        ["dataset=file", "dataset.path=a.xyz"],
        "say in which unit the energies of a.xyz are: give dataset.energy_unit=eV",
    ),
    "unit": (["dataset.energy_unit=ev"], "energy unit 'ev' is not known: did you mean 'eV'"),
    "target": (["kernel._target_=bench.kernels.nothing.Nothing"], "kernel._target_ = 'bench.kernels.nothing.Nothing'"),
    "syntax": (["batch_size=[1"], "batch_size=[1"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_one_line(tmp_path, tmp_path_factory, monkeypatch, case):
    arguments, message = MISTAKES[case]
    monkeypatch.setenv("BMDAL_BENCH_DATA", str(tmp_path_factory.mktemp("data")))  # nothing is prepared there
    done = here(main, *TINY, f"results={tmp_path}", *arguments)
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 2, done.stderr
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    assert message in lines[0]
    assert not list(tmp_path.rglob("*"))


def test_unwritable_results(tmp_path):
    (tmp_path / "file").write_text("in the way")
    done = command(*TINY, f"results={tmp_path}/file")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: cannot write to {tmp_path}/file/runs/")
    assert len(done.stderr.strip().splitlines()) == 1
    several = here(main, "-m", *TINY, f"results={tmp_path}/file")
    assert several.returncode == 2 and len(several.stderr.strip().splitlines()) == 1
    assert several.stderr.startswith(f"error: cannot write to {tmp_path}/file/multirun (Not a directory)")


def test_full_disk(tmp_path):
    """A file system without room: one line, no half-written file, and a second attempt with room works."""
    with file_system(tmp_path, "16k") as remount:
        done = command(*TINY, f"results={tmp_path}")
        assert done.returncode == 2
        assert done.stderr.strip().splitlines()[-1].startswith("error: cannot write")
        assert "No space left" in done.stderr
        assert not list(tmp_path.rglob("*.tmp"))
        remount("size=64M")
        resume(*TINY, f"results={tmp_path}")
        assert records(tmp_path)[0]["status"] == "done"


def test_damaged_record(tmp_path):
    resume(*TINY, f"results={tmp_path}")
    path = only_folder(tmp_path) / "record.json"
    path.write_bytes(path.read_bytes()[:100])
    done = command(*TINY, f"results={tmp_path}")
    assert done.returncode == 2 and f"{path} is damaged" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
