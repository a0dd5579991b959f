"""The on-the-fly example, made small: it runs, and goes on after any kill with the same numbers."""

import importlib.util
import json
import logging
import sys

import ase.io
import numpy as np
import pytest
import torch
from conftest import PROJECT

from bench.errors import UserError

SMALL = [
    *(
        [
            "--seeds",
            "0",
            "--cycles",
            "2",
            "--initial",
            "10",
            "--batch",
            "2",
            "--walkers",
            "2",
            "--steps",
            "12",
            "--every",
            "3",
            "--test",
            "4",
        ]
    ),
    *(["--epochs", "2", "--hidden", "8"]),
]


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("on_the_fly", PROJECT / "examples" / "on_the_fly.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["on_the_fly"] = module
    spec.loader.exec_module(module)
    threads = torch.get_num_threads()
    yield module
    torch.set_num_threads(threads)
    logging.getLogger("bench.data").setLevel(logging.NOTSET)


class KilledError(BaseException):
    """In place of a kill: nothing but the files is left."""


def contents(folder):
    names = ("*.xyz", "picks.json", "record.json", "records.json")
    return {path.relative_to(folder): path.read_bytes() for name in names for path in sorted(folder.rglob(name))}


def test_it_goes_on_after_kills_with_the_same_numbers(example, tmp_path, monkeypatch):
    words = [*SMALL, "--bound", "1e-4"]
    monkeypatch.setattr(example, "STOP", 1e9)
    example.main([*words, "--output", str(tmp_path / "whole")])
    write, left = example.write_atomically, [1]

    def killed_now_and_then(path, content):
        if left[0] == 0:
            left[0] = 5
            raise KilledError
        left[0] -= 1
        write(path, content)

    monkeypatch.setattr(example, "write_atomically", killed_now_and_then)
    kills = 0
    while True:
        try:
            example.main([*words, "--output", str(tmp_path / "parts")])
            break
        except KilledError:
            kills += 1
    assert kills > 1
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    assert (tmp_path / "whole" / "on_the_fly.png").stat().st_size > 10_000
    (records,) = json.loads((tmp_path / "whole" / "records.json").read_text()).values()
    assert [one["labelled"] for one in records] == [{"selected": n, "random": n} for n in (10, 12)]
    assert records[0]["errors"]["selected"] == records[0]["errors"]["random"]
    assert records[0]["steps_survived"] == records[0]["steps_asked"] == 24
    place = tmp_path / "whole" / "seed_0" / "cycle_0"
    frames = ase.io.read(place / "frames.xyz", ":")
    picks = json.loads((place / "picks.json").read_text())
    assert len(frames) == 10 and len(set(picks["selected"])) == len(set(picks["random"])) == 2
    labelled = ase.io.read(place / "selected.xyz", ":")
    for frame, row in zip(labelled, picks["selected"], strict=True):
        np.testing.assert_array_equal(frame.positions, frames[row].positions)
        exact = frame.copy()
        exact.calc = example.EMT()
        assert frame.get_potential_energy() == pytest.approx(exact.get_potential_energy(), abs=1e-6)
        np.testing.assert_allclose(frame.get_forces(), exact.get_forces(), atol=1e-6)
    assert {"energy_std", "walker", "step"} <= frames[0].info.keys() and "energies_std" in frames[0].arrays


def test_it_ends_where_it_is_sure_and_refuses_other_settings(example, tmp_path):
    words = [*SMALL, "--cycles", "3", "--bound", "1e6", "--output", str(tmp_path)]
    example.main(words)
    (records,) = json.loads((tmp_path / "records.json").read_text()).values()
    assert len(records) == example.CALM == 2
    with pytest.raises(UserError, match=r"was begun with another epochs: give another --output"):
        example.main([*words, "--epochs", "3"])


def test_labels_that_fail_are_left_out_here_and_elsewhere(example, tmp_path, monkeypatch):
    settings, _ = example.parsed([*SMALL, "--output", str(tmp_path)])
    generator = np.random.default_rng(0)
    good, broken, foreign = (example.SYSTEMS["cluster"].fresh(generator, 0.05) for _ in range(3))
    broken.positions[1] = broken.positions[0] + [0.3, 0, 0]
    foreign.symbols[0] = "Xe"
    (found,) = example.label(settings, [broken, good, foreign])
    elsewhere = example.parsed([*SMALL, "--output", str(tmp_path), "--cluster", "cluster=local", "cluster.workers=1"])[
        0
    ]
    for _ in range(2):  # the second time the files are there
        (again,) = example.label(elsewhere, [broken, good, foreign])
        assert again.get_potential_energy() == pytest.approx(found.get_potential_energy(), abs=1e-12)
        np.testing.assert_allclose(again.get_forces(), found.get_forces(), atol=1e-8)
    monkeypatch.setattr(example, "do", lambda tasks, *_: [example.label_part(*task.words[1:]) for task in tasks])
    assert example.label(elsewhere, [broken]) == []
