"""The program behind `make gpu`, by its dry run: every part on a CPU, and going on where it was stopped."""

import dataclasses
import json
import math
import sys

import pytest
import torch
from bench_commands import here

from tests.perf import gpu, training
from tests.perf.features import cases, first


def few(names):
    return [dataclasses.replace(one, data=first(one.data, 40)) for one in cases(names)]


@pytest.fixture
def small(monkeypatch):
    for module in (gpu, training):
        monkeypatch.setattr(module, "MINIBATCH", 4)
    monkeypatch.setattr(gpu, "SMALL_MINIBATCH", 2)
    monkeypatch.setattr(gpu, "MODELS", (1, 2))
    for name in ("N_TRAIN", "N_VALID", "N_EVALUATED"):
        monkeypatch.setattr(training, name, 12)
    monkeypatch.setattr(gpu, "cases", few)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def program(*words):
    def main():
        gpu.main()
        sys.exit()

    return here(main, *words)


def test_what_is_measured(small, tmp_path, monkeypatch):
    words = ["--dry", "--data", "aspirin", "--minutes", "600", "--out", tmp_path, "--parts", "throughput", "profile"]
    done = program(*words, "forecast")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    kinds = ("4 float32", "2 float32", "4 tf32", "4 bfloat16")
    assert list(found["throughput"]) == [f"aspirin {kind} {models}" for kind in kinds for models in (2, 1)]
    for row in found["throughput"].values():
        assert all(0 < row[name] < math.inf for name in ("step_ms", "floor_ms", "ratio", "validation_ms")), row
    assert set(found["peak_gflops"]) == set(gpu.PRECISIONS)
    assert all(found["per_structure"]["aspirin"][f"{name}_ms"] > 0 for name in ("forces", "LL", "RP"))
    longest = found["profile"]["aspirin"]
    assert longest[0][1] > 0 and 0 < sum(part for _, _, part in longest) <= 1 + 1e-9
    assert found["forecast"]["md17_10_100"] > 0 and found["forecast"]["tio2_10_250"] is None
    report = (tmp_path / "report.md").read_text()
    assert report.startswith("# A dry run on the CPU") and report in done.stdout
    assert "| aspirin | 2 | float32 | 2 |" in report and "nan | nan" not in report
    assert "A step of 2 models on aspirin" in report and "* tio2_10_250: not measured" in report

    monkeypatch.setattr(gpu, "measure", None)  # nothing is measured twice
    assert program(*words).returncode == 0
    again = json.loads((tmp_path / "found.json").read_text())
    assert again["throughput"] == found["throughput"] and again["profile"] == found["profile"]


def test_without_a_gpu_it_says_what_can_be_done(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    done = program("--out", tmp_path / "none")
    assert done.returncode == 2 and "make gpu DRY=1" in done.stderr and not (tmp_path / "none").exists()


@pytest.mark.long
def test_what_runs(tmp_path, monkeypatch):
    """The tests of the emulated device; whole runs at each precision; a sweep, and one that cannot begin."""
    monkeypatch.setattr(gpu, "SEEDS", range(2))
    monkeypatch.setattr(gpu, "SWEEPS", ("demo", "nowhere"))
    words = ["--dry", "--data", "aspirin", "--minutes", "600", "--out", tmp_path]
    done = program(*words, "--parts", "correctness", "agreement", "runs")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["correctness"]["ended"][1] == 0, (tmp_path / "tests.log").read_text()
    launched = (tmp_path / "launch.log").read_text()
    assert set(found["agreement"]) == {f"cpu {one}" for one in gpu.PRECISIONS}, launched
    for one in found["agreement"].values():
        assert len(one["errors"]) == len(one["seconds"]) == 2 and min(one["errors"]) > 0
    demo = found["runs"]["demo"]
    assert (demo["runs"], demo["done"], demo["steps"]) == (1, 1, 2) and found["runs"]["nowhere"]["runs"] == 0, launched
    report = (tmp_path / "report.md").read_text()
    assert "Whole runs, 2 seeds" in report and "* demo: 1 of 1 begun runs done, 2 steps" in report
    assert "* nowhere: no run begun: launch.log says why" in report and "nowhere" in launched
