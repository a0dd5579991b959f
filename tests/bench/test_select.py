"""Structures to label from a pool without labels: the cycle's picks, guards, what is known, records, large pools."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path

import ase
import ase.io
import jaxtyping
import numpy as np
import pytest
import torch
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from bench_commands import command
from conftest import PROJECT, make_structures, random_molecule, subprocess_environment

from bench import api
from bench.config.compose import compose_run
from bench.config.files import PROJECT_FILES, parse
from bench.config.plugins import load_dataset, plugin
from bench.config.schema import RunConfig
from bench.data import neighbours
from bench.data.neighbours import find_neighbours, shortest_distances
from bench.errors import NoRoomError, UserError
from bench.kernels.base import Embedding, squared_norms
from bench.launch.cluster import Local
from bench.launch.tasks import Task, do
from bench.learning.cycle import run_active_learning
from bench.pools import embedded, page
from bench.pools.coverage import coverage
from bench.pools.frames import digest, frames_of_atoms, read_frames
from bench.pools.guards import Guards
from bench.runs.record import read_arrays
from bench.select import Asked, _core, _repeated, _word, main, select, split_words
from bench.training.store import load_potential

TINY = ["model.hidden=[16,12]", "model.n_radial=3", "model.n_gaussians=5", "training.epochs=3"]
RUN = [
    *("scenario=demo", "scenario.initial=20", "scenario.validation=8", "scenario.pool=300", "scenario.test=5"),
    *(*TINY, "training.minibatch=10", "batch_size=5", "threads=1", "final_kernels=[]"),
]


@pytest.fixture(scope="module")
def aspirin():
    data = load_dataset(compose_run(RUN).dataset)
    return [
        ase.Atoms(data.atomic_numbers[atoms], data.positions[atoms].astype(float))
        for atoms in (slice(data.offsets[i], data.offsets[i + 1]) for i in range(len(data)))
    ]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Runs that end at 20 structures, where they pick nothing, and at 25: by algorithm."""
    results = tmp_path_factory.mktemp("results")
    done = {}

    def of(algorithm, final):
        if (algorithm, final) not in done:
            words = [*RUN, f"algorithm={algorithm}", f"scenario.final={final}", f"results={results / str(final)}"]
            done[algorithm, final] = run_active_learning(compose_run(words))
        return done[algorithm, final]

    return of


@pytest.fixture(scope="module")
def copper():
    """Small clusters of copper and gold, labelled by ASE's EMT."""
    generator = np.random.default_rng(0)
    frames = []
    for symbols in ["Cu4", "Cu3Au"] * 12:
        atoms = ase.Atoms(symbols, positions=[[0, 0, 0], [2.4, 0, 0], [1.2, 2.1, 0], [1.2, 0.7, 2.0]])
        atoms.positions += generator.normal(scale=0.1, size=(4, 3))
        atoms.calc = EMT()
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
        frames.append(atoms)
    return frames


@pytest.mark.parametrize("algorithm", ["lcmd_feat_ll", "maxdet_gp_ll", "maxdist_feat_rp", "maxdiag_qbc_f"])
def test_picks_are_those_of_the_cycle(run, aspirin, algorithm):
    """From the model of a run that ends at N_train, the rest of its pool: what a longer run picks there."""
    longer, ended = run(algorithm, 25), run(algorithm, 20)
    pool = read_arrays(longer.folder / "split.npz", {})["pool"]
    batch = api.select([aspirin[i] for i in pool], 5, model=api.load(ended.folder), algorithm=algorithm)
    assert pool[batch.rows].tolist() == longer.content.steps[0].picked
    assert batch.known == 20 and not batch.sieve.rejected
    if algorithm == "maxdet_gp_ll":
        twice = api.select([aspirin[i] for i in pool], 10, model=api.load(ended.folder), algorithm=algorithm)
        assert batch.next_coverage.largest == twice.coverage.largest
        assert batch.uncertainty.shape == (300,) and batch.coverage.uncertainty[-1] < batch.coverage.uncertainty[0]


def test_from_the_command_line_and_again_from_its_record(run, aspirin, tmp_path):
    model = run("lcmd_feat_ll", 20)
    ase.io.write(tmp_path / "pool.xyz", aspirin[:60])
    words = [f"pool={tmp_path}/pool.xyz@10:", "n=4", f"model={model.folder}", "algorithm=maxdet_gp_ll"]
    done = command(*words, f"output={tmp_path}/first.xyz", "threads=1", module="bench.select")
    assert done.returncode == 0 and "pool: 50 structures of 1 file\n" in done.stderr, done.stderr
    record = json.loads((tmp_path / "first.json").read_text())
    picked = ase.io.read(tmp_path / "first.xyz", ":")
    assert [one.info["order"] for one in picked] == [0, 1, 2, 3]
    for one, said in zip(picked, record["picks"], strict=True):
        assert said["pool_index"] == one.info["pool_index"] >= 10
        np.testing.assert_allclose(one.positions, aspirin[said["pool_index"]].positions, atol=1e-8)
        assert one.info["uncertainty_eV"] == pytest.approx(said["uncertainty_eV"]) and said["cluster"] >= 1
    assert (tmp_path / "first.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "first.html").read_text()
    assert "4 structures to label" in page and "uncertainty (eV)" in page and "more validate the model" in page
    assert "Coverage: how far the pool is" in page and "distance: in the features of the kernel" in page
    covered = record["coverage"]["mean_squared_distance"]
    assert f"({100 * (covered[-1] / covered[0] - 1):+.0f} %)" in done.stdout and "how far the pool is" in done.stdout
    again = command(f"repeat={tmp_path}/first.json", f"output={tmp_path}/again.xyz", module="bench.select")
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "again.xyz").read_bytes() == (tmp_path / "first.xyz").read_bytes()
    other = command(f"repeat={tmp_path}/first.json", "n=2", f"output={tmp_path}/other", module="bench.select")
    assert other.returncode == 0 and len(ase.io.read(tmp_path / "other.xyz", ":")) == 2
    ase.io.write(tmp_path / "pool.xyz", aspirin[:59])
    altered = command(f"repeat={tmp_path}/first.json", f"output={tmp_path}/none.xyz", module="bench.select")
    assert altered.returncode == 2 and "pool.xyz is not the file" in altered.stderr
    assert not (tmp_path / "none.xyz").exists()


def _choose(*words):
    asked, others = split_words(_repeated(words, PROJECT_FILES), PROJECT_FILES)
    select(asked, others, PROJECT_FILES)


def test_what_is_read_is_not_replaced(copper, tmp_path, monkeypatch):
    """Neither by the structures, nor by what is written beside them."""
    monkeypatch.chdir(tmp_path)
    ase.io.write("selected.xyz", copper)
    ase.io.write("pool.json", copper, format="json")
    for words, file in (
        (["pool=selected.xyz"], "selected.xyz"),
        (["pool=pool.json", "output=pool"], "pool.json"),
        (["pool=pool.json", "exclude=[selected.xyz@0:3]"], "selected.xyz"),
    ):
        before = Path(file).read_bytes()
        with pytest.raises(UserError, match=f"would replace {file}, which is read: give output another name"):
            _choose(*words, "n=2")
        assert Path(file).read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2


def test_labelled_structures_are_in_their_own_unit(copper, tmp_path, monkeypatch):
    """A descriptor sees them as a potential that is trained on them would: with dataset.length_unit."""
    monkeypatch.chdir(tmp_path)
    ase.io.write("pool.traj", [ase.Atoms(one.numbers, one.positions) for one in copper[:8]])
    ase.io.write("train.traj", [ase.Atoms(one.numbers, one.positions / 10) for one in copper[:3]])
    _choose(
        "pool=pool.traj", "n=2", "labelled=train.traj", "dataset.length_unit=nm", "kernel=descriptor", "selection=lcmd"
    )
    assert json.loads(Path("selected.json").read_text())["structures"]["rejected"] == {"labelled already": 3}


def test_every_file_that_was_read_is_held_to_be_as_it_was(copper, tmp_path, monkeypatch):
    """Those of an index or a pattern, too; a file that a pattern finds in addition is told."""
    monkeypatch.chdir(tmp_path)
    ase.io.write("pool.xyz", copper)
    ase.io.write("a_1.xyz", copper[:3])
    _choose("pool=po*.xyz", "n=2", "pending=a_*.xyz", "exclude=a_1.xyz@0:1")
    first = Path("selected.xyz").read_bytes()
    _choose("repeat=selected.json", "output=again.xyz")
    assert Path("again.xyz").read_bytes() == first
    for name in ("a_2.xyz", "pool_2.xyz"):
        ase.io.write(name, copper[5:6])
        with pytest.raises(UserError, match=f"{name} was not there when selected.json was made"):
            _choose("repeat=selected.json", "output=other.xyz")
        Path(name).unlink()
    ase.io.write("a_1.xyz", copper[:2])
    with pytest.raises(UserError, match=r"a_1.xyz is not the file that selected.json was made from"):
        _choose("repeat=selected.json", "output=other.xyz")


@pytest.mark.parametrize("name", ["a b", r"a\b", "a\\", r"\"a\\\"", "it's", "a,[b]=${c", "ü"])
def test_names_with_any_letters(name):
    """A word that this command makes says to Hydra what it was made of."""
    for value in (name, [name, "c"]):
        (read,) = parse([_word("pool", value)])
        assert read.value() == value
    assert _word("shards", 2) == "shards=2" and _word("pool", "a.xyz") == 'pool="a.xyz"'


def test_a_backslash_in_names(copper, tmp_path, monkeypatch):
    """Of the pool, again from its record, and of labelled structures."""
    monkeypatch.chdir(tmp_path)
    for name in (r"po\ol.xyz", r"tr\ain.xyz"):
        ase.io.write("file.xyz", copper[::2] if name.startswith("p") else copper[1::2])
        Path("file.xyz").rename(name)
    words = [r"pool='po\ol.xyz'", "n=2", r"labelled='tr\ain.xyz'", "kernel=descriptor", "selection=lcmd"]
    _choose(*words)
    first = Path("selected.xyz").read_bytes()
    _choose("repeat=selected.json", "output=again.xyz")
    assert Path("again.xyz").read_bytes() == first


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pool=a.xyz", "n=1", "labelled=b.xyz", "dataset.path=c.xyz"], "leave dataset.path=c.xyz out"),
        (["pool=a.xyz", "n=1", "labelled=b.xyz", "dataset=qm9"], "leave dataset=qm9 out"),
        (
            ["pool=a.xyz", "n=1", "dataset.path=c.xyz"],
            "labelled= names the files of labelled structures: leave dataset",
        ),
        (["pool=a.xyz", "n=1", "dataset.path="], "leave dataset.path= out"),
        (["pool=", "n=1"], "pool: an empty name (is a variable of the shell not set?): set pool=FILE"),
        (["pool=a.xyz", "n=1", "labelled="], "labelled: an empty name"),
        (["pool=a.xyz", "n=1", "pending="], "pending: an empty name"),
        (["pool=a.xyz", "n=1", "exclude=[a.xyz,'']"], "exclude: an empty name"),
        (["pool=a.xyz", "n=1", "model="], "model: an empty name"),
        (["pool=.", "n=1"], ". is a folder, which ASE cannot read: name the files in it, ./*.xyz"),
        (["n=3"], "say pool=FILE"),
        (["pool=a.xyz"], "say n=NUMBER"),
        (["pool=a.xyz", "n=0"], "configuration key n = 0"),
        (["pool=a.xyz", "n=3"], "no file a.xyz: set pool=FILE"),
        (["pool=a.xyz", "n=3", "guards.min_distanse=1"], "did you mean 'min_distance'"),
        (["pool=a.xyz", "n=3", "algoritm=lcmd_feat_ll"], "algorithm"),
        (["pool=a.xyz", "n=1,2"], "give one value"),
        (["pool=a.xyz", "n=3", "model=nowhere/model.pt"], "no folder of a finished run"),
        (["pool=[]", "n=3"], "pool=[] names no file"),
        (['pool="~nobody-here/a.xyz"', "n=3"], "no file ~nobody-here/a.xyz"),
        ([f"pool={'a' * 5000}", "n=3"], "aaa: set pool=FILE"),
        (["pool=a.xyz", "n=3", 'output=""'], "output=. is a folder: name a file"),
        (["pool=a.xyz", "n=3", "output=there/"], "output=there is a folder: name a file"),
        (["pool=a.xyz", "n=3", "output=.."], "output=.. is a folder: name a file"),
        (["pool=a.xyz", "n=1", "guards.max_force=5", "model=gmnn"], "only a trained model predicts forces"),
        (["repeat=nothing.json"], "no record of a selection"),
        (["pool=a.xyz", "n=3", "labeled=b.xyz"], "unknown word 'labeled': did you mean 'labelled'?"),
        (["pool=a.xyz", "n=3", "labelled=b.xyz", "algorithm=maxdiag_ae_f"], "AE(F) reads the labels of the pool"),
    ],
)
def test_mistakes_are_one_line(words, message, tmp_path, monkeypatch, capsys):
    if any(word.startswith(("model=", "pending=", "exclude=", "labelled=")) for word in words):
        ase.io.write(tmp_path / "a.xyz", ase.Atoms("Cu"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["bench.select", *words])
    with pytest.raises(SystemExit, match="2"):
        main()
    told = capsys.readouterr().err
    assert told.startswith("error: ") and told.count("\n") == 1 and message in told
    assert [path.name for path in tmp_path.iterdir()] in ([], ["a.xyz"])


def test_no_key_of_the_configuration_is_taken_for_a_slip():
    keys = {field.name for field in fields(RunConfig)} | set(PROJECT_FILES.groups())
    assert len(keys) > 15
    for key in keys:
        split_words(["pool=a.xyz", "n=1", f"{key}=1"], PROJECT_FILES)


def test_labelled_energies_are_in_ev_unless_said_otherwise(copper, tmp_path, monkeypatch, caplog):
    """The command needs no unit, and tells which it took; the same energies in another unit give the same picks."""
    monkeypatch.chdir(tmp_path)
    ase.io.write("pool.xyz", [ase.Atoms(atoms.numbers, atoms.positions) for atoms in copper])
    picks = []
    for factor, said in ((1, []), (1000, ["dataset.energy_unit=meV"])):
        labelled = []
        for one in copper:
            atoms = ase.Atoms(one.numbers, one.positions + 0.01)
            energy, forces = factor * one.get_potential_energy(), factor * one.get_forces()
            atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
            labelled.append(atoms)
        ase.io.write("a.xyz", labelled)
        words = [
            "pool=pool.xyz",
            "n=2",
            "labelled=a.xyz",
            "training.epochs=2",
            "dataset.reference_energies={Cu:0,Au:0}",
            *said,
        ]
        monkeypatch.setattr(sys, "argv", ["bench.select", *words])
        caplog.clear()
        with caplog.at_level("INFO"):
            main()
        assert ("energies are taken to be in eV" in caplog.text) is (not said)
        picks.append([atoms.info["pool_index"] for atoms in ase.io.read("selected.xyz", ":")])
    assert picks[0] == picks[1]


def test_a_pool_that_is_labelled_already_is_told_before_training(copper, tmp_path):
    ase.io.write(tmp_path / "pool.xyz", [ase.Atoms(atoms.numbers, atoms.positions) for atoms in copper])
    ase.io.write(tmp_path / "train.xyz", copper[1:])
    ase.io.write(tmp_path / "all.xyz", copper)
    references = "dataset.reference_energies={Cu:0,Au:0}"
    words = [f"pool={tmp_path}/pool.xyz", "n=2", references, f"results={tmp_path}/r", f"output={tmp_path}/o.xyz"]
    for name, told in (("all", "none of"), ("train", "n = 2, but 1 of")):
        done = command(*words, f"labelled={tmp_path}/{name}.xyz", module="bench.select")
        assert done.returncode == 2 and told in done.stderr and "labelled already" in done.stderr, done.stderr
        assert not (tmp_path / "r").exists() and not (tmp_path / "o.xyz").exists()


def test_a_page_has_no_column_of_what_is_not_known(aspirin, tmp_path):
    ase.io.write(tmp_path / "pool.xyz", aspirin[:20])
    words = [f"pool={tmp_path}/pool.xyz", "n=2", f"output={tmp_path}/first.xyz", "kernel=rnd", "selection=max_diag"]
    done = command(*words, module="bench.select")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "first.html").read_text()
    assert "uncertainty (eV)" not in page and "<th>distance" not in page and "validate" not in page
    assert "Uncertainty: how many structures" in page and "coverage:" not in page and "distance:" not in page


def test_a_page_of_one_feature(copper, tmp_path, monkeypatch):
    """The map has a second direction all the same; where the page cannot be drawn, nothing is written."""
    batch = api.select(copper, 3)
    kept = batch.chosen.embedding
    one = replace(kept, pool=kept.pool[:, :1], training=kept.training[:, :1])
    picture, _ = page.draw(replace(batch, chosen=replace(batch.chosen, embedding=one)))
    assert picture.startswith(b"\x89PNG")
    monkeypatch.setattr(page, "draw", lambda batch: 1 / 0)
    ase.io.write(tmp_path / "pool.xyz", copper)
    with pytest.raises(ZeroDivisionError):
        _choose(f"pool={tmp_path}/pool.xyz", "n=2", f"output={tmp_path}/selected.xyz")
    assert [path.name for path in tmp_path.iterdir()] == ["pool.xyz"]


def test_without_labels_and_without_a_model(aspirin):
    """LCMD on a fixed descriptor: the same for equal structures, whatever their rotation and order of atoms."""
    batch = api.select(aspirin[:50], 5)
    assert len(set(batch.rows.tolist())) == 5 and batch.uncertainty is None
    turned = []
    for atoms in aspirin[:50]:
        moved = atoms[::-1]
        moved.rotate(40, "z")
        moved.translate([1, 2, 3])
        turned.append(moved)
    assert api.select(turned, 5).rows.tolist() == batch.rows.tolist()
    covers = batch.coverage
    assert covers.largest[1] >= covers.largest[-1] and np.isnan(covers.largest[0])
    with pytest.raises(
        UserError, match=r"needs a trained model: give model=.* \(in Python model=api\.train\(labelled\)\)"
    ):
        api.select(aspirin[:50], 5, algorithm="maxdet_gp_ll")


def test_coverage_by_definition(generator):
    pool, training = generator.normal(size=(40, 6)), generator.normal(size=(7, 6))
    picked = np.array([3, 17, 8])
    features = torch.from_numpy(pool)
    found = coverage(Embedding(squared_norms(features), features, torch.from_numpy(training)), picked, 0.3)
    for k in range(4):
        centres = np.concatenate([training, pool[picked[:k]]])
        squared = ((pool[:, None] - centres[None]) ** 2).sum(2)
        assert found.largest[k] == pytest.approx(np.sqrt(squared.min(1).max()))
        assert found.mean_squared[k] == pytest.approx(squared.min(1).mean())
        own = pool[picked[:k]]
        gram = own @ own.T + 0.3 * np.eye(k)
        variance = (pool**2).sum(1) - np.einsum("np,pq,nq->n", pool @ own.T, np.linalg.inv(gram), pool @ own.T)
        assert found.uncertainty[k] == pytest.approx(np.sqrt(variance).mean())
    nearest = squared.argmin(1) - 7
    assert (found.nearest == np.where(nearest < 0, -1, nearest)).all()
    assert found.of_pool == [(nearest == k).sum() for k in range(3)]


def test_trained_here_and_kept_by_content(copper, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    words = [*TINY, f"results={tmp_path}", "threads=1", "dataset.reference_energies={Cu:0,Au:0}", "model.r_max=4"]
    model = api.train(copper, words=words)
    assert len(model.training) == 22 and len(model.validation) == 2
    assert "model trained on 22 of 24 labelled structures, 2 validate it" in caplog.text
    monkeypatch.setattr("bench.learning.models.fit", None)
    (model.file.parent / "training.pt.0.tmp").touch()  # of one that was killed while it saved its training
    again = api.train(copper, words=words)
    assert not list(tmp_path.rglob("*.tmp"))
    assert again.file == model.file and api.uncertainty(again, copper).shape == (24,)
    assert api.features(again, copper).shape == (24, 13)
    np.testing.assert_allclose(api.uncertainty(again, copper), api.uncertainty(model, copper))
    with pytest.raises(UserError, match="predicts no uncertainty of energies"):
        api.uncertainty(again, copper, kernel="feat_ll")
    with pytest.raises(UserError, match="has no features"):
        api.features(again, copper, kernel="rnd")
    with pytest.raises(
        UserError, match=r"committee of 3 models, .* \(in Python model=api\.train\(labelled, members=3\)\)"
    ):
        api.select(copper, 2, model=model, algorithm="maxdiag_qbc_e")
    monkeypatch.undo()
    committee = api.train(copper, members=3, words=words)
    batch = api.select([*_moved(copper, 0.05)], 2, model=committee, algorithm="maxdiag_qbc_e", words=words)
    np.testing.assert_allclose(batch.uncertainty, api.uncertainty(committee, _moved(copper, 0.05), "qbc_e"), rtol=1e-6)


def test_core_sets_are_for_what_is_labelled_now(copper, tmp_path, monkeypatch):
    """The same command goes on after a kill, and begins anew once its files hold other structures."""
    chosen = []

    def choose(tasks, cluster, folder):
        for task in tasks:
            (output,) = [word.partition("=")[2] for word in task.words if word.startswith("output=")]
            Path(json.loads(output)).with_suffix(".json").write_text('{"picks": [{"pool_index": 3}]}')
            chosen.append(output)

    monkeypatch.setattr("bench.launch.tasks.do", choose)
    asked = Asked(pool="pool.xyz", n=1, labelled="train.xyz", shards=2)
    pool, words = frames_of_atoms(copper), [f"results={tmp_path}"]
    results = str(tmp_path)
    for labelled, count in [("before", 2), ("before", 2), ("after", 4)]:
        core = _core(pool, {"train.xyz": labelled}, asked, words, [], PROJECT_FILES, results)
        assert core.index.tolist() == [3, 15] and len(set(chosen)) == count


def test_where_it_is_computed(tmp_path, monkeypatch):
    """Words on threads and device count from Python, too; a GPU that is not there makes no model look damaged."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        for words, threads in [([], 2), (["threads=1"], 1)]:
            with pytest.raises(UserError, match="holds 0 structures"):
                api.train([], words=words)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    with pytest.raises(UserError, match="'cuda' but torch sees no GPU here"):
        api.train([], words=["device=cuda"])
    with pytest.raises(UserError, match="'cuda' but torch sees no GPU here"):
        load_potential(tmp_path / "model.pt", "cuda")
    with pytest.raises(UserError, match="device = 'gpu': say cpu, cuda"):
        load_potential(tmp_path / "model.pt", "gpu")


def _moved(frames, by):
    generator = np.random.default_rng(1)
    moved = [frame.copy() for frame in frames]
    for frame in moved:
        frame.positions += generator.normal(scale=by, size=frame.positions.shape)
    return moved


@pytest.fixture(scope="module")
def model(copper, tmp_path_factory):
    """Trained on copper alone: gold it does not know."""
    words = [*TINY, f"results={tmp_path_factory.mktemp('models')}", "threads=1", "model.r_max=4"]
    return api.train(copper[::2], words=words)


def test_guards_keep_out_and_count(copper, model):
    fresh = _moved(copper[::2], 0.2)
    broken, strange, exploded = fresh[0].copy(), copper[1].copy(), fresh[1].copy()
    broken.positions[0, 0] = np.nan
    exploded.positions[1] = exploded.positions[0] + [0.3, 0, 0]
    flat = fresh[2].copy()
    flat.pbc = True
    pending, excluded = fresh[3], fresh[4]
    pool = [broken, strange, exploded, flat, copper[0], pending, excluded, *fresh[5:], fresh[6]]
    batch = api.select(pool, 3, model=model, pending=[pending], exclude=[excluded], guards=Guards(min_distance=0.8))
    assert dict(batch.sieve.rejected) == {
        "positions or a cell that are no numbers": 1,
        "elements the model does not know": 1,
        "atoms too close (below 0.8 Å)": 1,
        "periodic without a cell": 1,
        "labelled already": 1,
        "out for labelling": 1,
        "excluded": 1,
        "copies of an earlier structure of the pool": 1,
    }
    assert set(batch.rows.tolist()) <= set(range(7, 14))
    assert batch.known == len(model.training) + 1
    with pytest.raises(UserError, match=r"n = 8, but 7 of 15 structures are left to choose from \(1 .*: lower n"):
        api.select(pool, 8, model=model, pending=[pending], exclude=[excluded], guards=Guards(min_distance=0.8))
    # a label that failed is not pending any more: the structure is in the pool again
    back = api.select(pool, 8, model=model, exclude=[excluded], guards=Guards(min_distance=0.8))
    assert 5 in back.rows.tolist()


def test_structures_that_agree_to_the_last_digit_are_the_same(copper, model):
    """Coordinates on both sides of where a digit is rounded: labels in another unit of length, say."""
    generator = np.random.default_rng(3)
    pool = _moved(copper[::2], 0.2)
    near = [one.copy() for one in pool[:4]]
    for frame in near:
        frame.positions += generator.uniform(-0.9e-8, 0.9e-8, size=frame.positions.shape)
    far = pool[5].copy()
    far.positions[-1, 2] += 1.2e-8
    batch = api.select([*pool, far, *near, near[0]], 2, model=model, exclude=[near[1]])
    assert dict(batch.sieve.rejected) == {"copies of an earlier structure of the pool": 4, "excluded": 2}
    assert np.flatnonzero(~batch.sieve.allowed).tolist() == [1, *range(len(pool) + 1, len(pool) + 6)]
    for frame in (pool[0], near[2]):  # many of the same
        batch = api.select([frame] * 200 + pool[4:], 2, model=model, exclude=near)
        assert dict(batch.sieve.rejected) == {"excluded": 200}


def test_isolated_atoms_whose_energies_are_references_are_labelled(copper):
    def atom(symbol, energy, **keywords):
        one = ase.Atoms(symbol, [[0.5, 0, 0]], **keywords)
        one.calc = SinglePointCalculator(one, energy=energy, forces=np.zeros((1, 3)))
        return one

    alone = [atom("Cu", 3.0), atom("Au", 3.5)]
    words = [*TINY, "model.r_max=4", "dataset.reference_energies=isolated_atoms"]
    trained = api.train([*alone, *copper[:12]], words=words)
    far, near = (atom("Au", 0.0, cell=[edge] * 3, pbc=True) for edge in (12.0, 3.0))
    batch = api.select([atom("Cu", 0.0), far, near, *copper], 2, model=trained)
    assert dict(batch.sieve.rejected) == {"labelled already": 14}
    assert not batch.sieve.allowed[:2].any() and batch.sieve.allowed[2]


def test_what_the_model_cannot_describe_is_not_covered(copper, model, caplog):
    """Structures out for labelling, or labelled, that it does not know change nothing, and are told."""
    pool = _moved(copper[::2], 0.2)
    strange, broken, close = ase.Atoms("AgH3", pool[0].positions), pool[1].copy(), pool[2].copy()
    broken.positions[0, 0] = np.nan
    close.positions[1] = close.positions[0] + 0.01
    expected = api.select(pool[4:], 3, model=model, pending=[pool[3]])
    for odd in (strange, broken, close):
        caplog.clear()
        batch = api.select(pool[4:], 3, model=model, pending=[odd, pool[3]])
        assert batch.rows.tolist() == expected.rows.tolist() and batch.known == expected.known
        assert batch.coverage.mean_squared == expected.coverage.mean_squared
        assert "of the structures out for labelling these do not count as covered: 1 " in caplog.text
    labelled = [*copper[:8:2], strange]
    batch = api.select(pool[4:], 3, model=model, labelled=labelled)
    assert batch.known == 4
    assert batch.rows.tolist() == api.select(pool[4:], 3, model=model, labelled=labelled[:-1]).rows.tolist()


def test_numbers_are_of_what_the_model_knows_only(copper, model):
    """An element between those that it knows is none of these: refused, not computed as another one."""
    for symbol in ("Ag", "H", "Au"):
        with pytest.raises(UserError, match=r"of 1 of 2 structures .* does not know\), the first is atoms:1: leave"):
            api.uncertainty(model, [copper[0], ase.Atoms(f"Cu3{symbol}", copper[0].positions)])
    with pytest.raises(UserError, match="positions or a cell that are no numbers"):
        api.features(model, [ase.Atoms("Cu", [[np.nan, 0, 0]])])


def test_pools_of_which_nothing_can_be_chosen(copper, model):
    with pytest.raises(UserError, match=r"none of 3 structures of the pool can be chosen: 3 elements the model"):
        api.select([ase.Atoms("Au", [[i, 0, 0]]) for i in range(3)], 1, model=model)
    with pytest.raises(UserError, match="atoms:1 holds no atoms: remove that frame"):
        api.select([copper[0], ase.Atoms()], 1)


def test_guards_of_predictions(copper, model):
    pool = _moved(copper[::2], 0.3)
    free = api.select(pool, 5, model=model, algorithm="maxdiag_gp_ll")
    per_atom = free.uncertainty / 4
    bound = float(np.sort(per_atom)[-3:-1].mean())
    held = api.select(pool, 5, model=model, algorithm="maxdiag_gp_ll", guards=Guards(max_uncertainty=bound))
    assert held.sieve.rejected[f"uncertainty above max_uncertainty ({bound:g} eV per atom)"] == 2
    assert not set(np.argsort(per_atom)[-2:].tolist()) & set(held.rows.tolist())
    with pytest.raises(UserError, match=r"kernel FEAT\(LL\) predicts none of energies"):
        api.select(pool, 5, model=model, guards=Guards(max_uncertainty=1.0))
    wild = api.select(pool, 3, model=model, guards=Guards(max_force=1e9))
    assert not wild.sieve.rejected
    with pytest.raises(UserError, match=r"none of|are left to choose from"):
        api.select(pool, 3, model=model, guards=Guards(max_force=1e-9))
    with pytest.raises(UserError, match=r"guards.max_force: only a trained model predicts forces"):
        api.select(pool, 3, guards=Guards(max_force=1.0))
    for guards, key in ((Guards(per_file=0), "per_file = 0"), (Guards(tolerance=-1.0), "tolerance = -1")):
        with pytest.raises(UserError, match=f"guards.{key}"):
            api.select(pool, 3, model=model, guards=guards)
    with pytest.raises(UserError, match=r"QBC\(E\) needs a committee of 3 models"):
        api.uncertainty(model, pool, "qbc_e")


def test_atoms_that_nearly_coincide_are_kept_out_whatever_the_guard(copper, model, tmp_path):
    close = copper[0].copy()
    close.positions[1] = close.positions[0] + [0.05, 0, 0]
    ase.io.write(tmp_path / "pool.xyz", [*_moved(copper[2:8:2], 0.1), close])
    batch = api.select(tmp_path / "pool.xyz", 3, model=model, guards=Guards(min_distance=0.0))
    assert batch.sieve.rejected["atoms too close (below 0.1 Å)"] == 1 and 3 not in batch.rows


def test_nothing_known_that_a_posterior_could_rest_on(copper, model):
    pool = _moved(copper[::2], 0.3)
    with pytest.raises(UserError, match=r"kernel GP\(LL\) needs labelled structures, and the model can describe none"):
        api.select(pool, 2, model=model, labelled=[ase.Atoms("Au")], algorithm="maxdet_gp_ll")
    assert len(api.select(pool, 2, model=model, labelled=[ase.Atoms("Au")]).rows) == 2
    assert len(api.select(pool, 2, model=model, pending=[], exclude=[]).rows) == 2


def test_near_duplicates_and_caps(copper, model, tmp_path):
    pool = _moved(copper[::2], 0.2)
    twins = [*pool, *_moved(pool, 1e-5)]
    naive = api.select(twins, 6, model=model, algorithm="maxdiag_gp_ll")
    assert len({row % 12 for row in naive.rows.tolist()}) < 6
    batch = api.select(twins, 6, model=model, algorithm="maxdiag_gp_ll", guards=Guards(tolerance=0.01))
    assert len({row % 12 for row in batch.rows.tolist()}) == 6 and batch.sieve.rejected["near-duplicates"] >= 1
    for name, frames in (("a.xyz", pool[:8]), ("b.xyz", pool[8:])):
        ase.io.write(tmp_path / name, frames)
    capped = api.select(f"{tmp_path}/*.xyz", 5, model=model, guards=Guards(per_file=3))
    names = [capped.frames.files[capped.frames.file[row]] for row in capped.rows]
    assert max(names.count(name) for name in names) == 3 and capped.sieve.rejected["beyond a cap per file"] == 5
    mixed = api.select(copper, 8, guards=Guards(per_composition=4))
    assert sorted("Au" in copper[row].symbols for row in mixed.rows) == [False] * 4 + [True] * 4


def test_every_algorithm_refuses_or_picks(copper, model):
    with pytest.raises(UserError, match="reads the labels of the pool"):
        api.select(copper, 2, model=model, algorithm="maxdiag_ae_e")
    with pytest.raises(UserError, match="is diagonal"):
        api.select(copper, 2, model=model, words=["kernel=rnd", "selection=lcmd"])
    assert len(api.select(copper[1::2], 2, words=["kernel=rnd", "selection=max_diag"]).rows) == 2


def test_half_a_method_is_completed(copper, model):
    """What is not said is LCMD, or the features that the model has, whichever half it is."""
    pool = copper[1::2]
    expected = api.select(pool, 5).rows.tolist()
    for words in (["kernel=descriptor"], ["selection=lcmd"], ["kernel=descriptor", "selection=lcmd"]):
        assert api.select(pool, 5, words=words).rows.tolist() == expected
    farthest = api.select(pool, 5, words=["selection=max_dist", "kernel=descriptor"]).rows.tolist()
    assert api.select(pool, 5, words=["selection=max_dist"]).rows.tolist() == farthest
    pool = copper[::2]
    expected = api.select(pool, 5, model=model, labelled=pool[:2], algorithm="maxdist_feat_ll").rows.tolist()
    found = api.select(pool, 5, model=model, labelled=pool[:2], words=["selection=max_dist"]).rows.tolist()
    assert found == expected
    with pytest.raises(UserError, match="LCMD needs distances between structures, but kernel RND is diagonal"):
        api.select(pool, 5, words=["kernel=rnd"])


def test_results_of_another_geometry_are_no_labels(copper, tmp_path):
    """Atoms that share a calculator hold the results of the last, and those that moved what was before."""
    words, shared = [*TINY, f"results={tmp_path}"], EMT()
    moved = [one.copy() for one in copper[::2]]
    for place, one in enumerate(moved):
        one.calc = EMT()
        one.get_forces()
        one.rattle(0.1, seed=place)
    together = [one.copy() for one in copper[::2]]
    for one in together:
        one.calc = shared
        one.get_forces()
    for frames in (together, moved):
        with pytest.raises(UserError, match=r"^atoms:0: the calculator's results are of another geometry"):
            api.train(frames, words=words)
    for one in moved:
        one.get_forces()
    expected = [one.get_potential_energy() for one in moved]
    np.testing.assert_allclose(api.train(moved, words=words).data.energies, expected)


def test_keys_of_labels_hold_for_atoms_too(copper, tmp_path):
    frames = [one.copy() for one in copper[::2]]
    for one in frames:
        one.info["dft_energy"], one.arrays["dft_forces"] = float(len(one)), np.zeros((len(one), 3))
    words = [*TINY, f"results={tmp_path}", "dataset.energy_key=dft_energy", "dataset.forces_key=dft_forces"]
    data = api.train(frames, words=words).data
    np.testing.assert_array_equal(data.energies, [len(one) for one in frames])
    assert not data.forces.any()
    with pytest.raises(UserError, match="atoms:0 has no energy: it holds nothing that looks like it"):
        api.train([ase.Atoms("Cu2", np.eye(3)[:2])] * 3, words=words[:-2])


@pytest.fixture
def unchecked(monkeypatch):
    """Without the checks of types that run in tests alone: what a user meets."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.mark.parametrize("n", [2.0, "3", True, float("nan")])
@pytest.mark.usefixtures("unchecked")
def test_only_whole_numbers_are_chosen(copper, n):
    with pytest.raises(UserError, match="give a whole number of structures to choose"):
        api.select(copper, n)


def test_words_name_no_other_structures(copper, tmp_path):
    for word, told in (
        ("dataset.path=other.xyz", "leave dataset.path=other.xyz out"),
        ("dataset=qm9", "leave dataset="),
    ):
        with pytest.raises(UserError, match=f"words: the structures are those given: {told}"):
            api.train(copper, words=[word, f"results={tmp_path}"])


@pytest.mark.parametrize("members", [0, -1, 2.0, "2", True])
@pytest.mark.usefixtures("unchecked")
def test_only_whole_numbers_are_trained(copper, tmp_path, members):
    with pytest.raises(UserError, match=r"members = .*: give a whole number of models to train, at least 1"):
        api.train(copper, members=members, words=[*TINY, f"results={tmp_path}"])
    assert not [*tmp_path.iterdir()]


@pytest.mark.usefixtures("unchecked")
def test_the_folder_of_a_run_is_a_model(run, aspirin):
    """As it is for the command; anything else is told."""
    folder = run("lcmd_feat_ll", 20).folder
    model, pool = api.load(folder), aspirin[:30]
    assert api.select(pool, 3, model=str(folder)).rows.tolist() == api.select(pool, 3, model=model).rows.tolist()
    np.testing.assert_array_equal(api.features(folder, pool), api.features(model, pool))
    np.testing.assert_array_equal(api.uncertainty(folder, pool), api.uncertainty(model, pool))
    for call in (api.features, api.uncertainty, lambda given, pool: api.select(pool, 3, model=given)):
        with pytest.raises(UserError, match=r"nowhere is no folder of a finished run"):
            call("nowhere", pool)
        with pytest.raises(UserError, match=r"a model of type int: give api\.load\(FOLDER\) or api\.train"):
            call(3, pool)
    with pytest.raises(UserError, match=r"a model of type NoneType: give api\.load"):
        api.load(None)


@pytest.mark.usefixtures("unchecked")
def test_what_is_no_list_of_atoms(copper, model, tmp_path):
    one, listed = r"a single Atoms: give a list of ase\.Atoms", r"give a list of ase\.Atoms"
    for given in ({"pending": copper[0]}, {"labelled": copper[0]}, {"exclude": ase.Atoms()}):
        with pytest.raises(UserError, match=one):
            api.select(copper[::2], 2, model=model, **given)
    with pytest.raises(UserError, match=one):
        api.select(copper[0], 2, model=model)
    with pytest.raises(UserError, match=one):
        api.train(copper[0], words=[f"results={tmp_path}"])
    with pytest.raises(UserError, match=f"atoms:1 is of type str: {listed}"):
        api.uncertainty(model, [copper[0], "copper.xyz"])
    with pytest.raises(UserError, match=r"guards = .*: give bench\.pools\.guards\.Guards"):
        api.select(copper[::2], 2, model=model, guards={"min_distance": 1.0})
    pool = _moved(copper[::2], 0.05)
    expected = api.select(pool, 3, model=model, pending=pool[:2]).rows.tolist()
    generators = {"pending": (frame for frame in pool[:2])}
    assert api.select((frame for frame in pool), 3, model=model, **generators).rows.tolist() == expected


@pytest.mark.parametrize("number", [285, -227])
def test_atomic_numbers_that_one_byte_does_not_hold(copper, model, number):
    """285 would be 29 in a byte: copper, which the model knows."""
    strange = copper[0].copy()
    strange.numbers[0] = number
    with pytest.raises(UserError, match=f"atoms:1: {number} is no atomic number"):
        api.uncertainty(model, [copper[0], strange])
    with pytest.raises(UserError, match=f"{number} is no atomic number"):
        api.select([strange, *copper[::2]], 1, model=model)
    strange.calc = SinglePointCalculator(strange, energy=0.0, forces=np.zeros((len(strange), 3)))
    with pytest.raises(UserError, match=f"{number} is no atomic number"):
        api.train([*copper[::2], strange])


def test_arrays_of_npz(aspirin, tmp_path):
    """Flat arrays, and those of the published layouts: the picks are those of the same structures in XYZ."""
    expected = api.select(aspirin[:30], 3).rows.tolist()
    numbers, positions = aspirin[0].numbers, np.stack([atoms.positions for atoms in aspirin[:30]])
    flat = {"atomic_numbers": np.tile(numbers, 30), "positions": positions.reshape(-1, 3), "n_atoms": [21] * 30}
    np.savez(tmp_path / "flat.npz", **flat)
    np.savez(tmp_path / "md17.npz", z=numbers, R=positions)
    np.savez(tmp_path / "odd.npz", x=numbers)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "md17.npz").read_bytes()[:2000])
    (tmp_path / "text.npz").write_text("no arrays")
    for name in ("cut.npz", "text.npz"):
        with pytest.raises(UserError, match=f"{name} is no readable .npz file"):
            api.select(tmp_path / name, 3)
    for name in ("flat.npz", "md17.npz"):
        assert api.select(tmp_path / name, 3).rows.tolist() == expected
    for key, value, told in (
        ("cell", np.eye(3), "array cell is not read, so periodic structures would be molecules"),
        ("pbc", [True] * 3, "array pbc is not read"),
        ("r_unit", "bohr", "r_unit = bohr: convert the positions to Å"),
        ("positions", positions.reshape(3, -1), "the array of positions is (3, 630), expected (…, 3)"),
        ("n_atoms", [10.5, *[21] * 28, 31.5], "array n_atoms holds 10.5, expected whole numbers"),
        ("atomic_numbers", flat["atomic_numbers"] + 0.4, "expected whole numbers"),
    ):
        np.savez(tmp_path / "strange.npz", **flat | {key: value})
        with pytest.raises(UserError, match=re.escape(told)):
            api.select(tmp_path / "strange.npz", 3)
    np.savez(tmp_path / "said.npz", **flat, r_unit="Ang")
    assert api.select(tmp_path / "said.npz", 3).rows.tolist() == expected
    with pytest.raises(UserError, match=r"odd.npz holds the arrays x: name them atomic_numbers, positions, n_atoms"):
        api.select(tmp_path / "odd.npz", 3)


CRYSTALS = {
    "as they are": ({}, None),
    "periodic as numbers": ({"periodic": np.tile([1, 0, 1], (6, 1))}, None),
    "single precision": ({"cells": np.float32}, None),
    "whole numbers": ({"cells": np.int64}, None),
    "one cell": ({"cells": 5 * np.eye(3)}, r"cells or periodic is \(3, 3\), expected \(6, 3, 3\)"),
    "one periodic": ({"periodic": np.ones(3, dtype=bool)}, r"is \(3,\), expected \(6, 3\)"),
    "periodic without cells": ({"cells": None}, "6 periodic without a cell"),
    "symbols": ({"atomic_numbers": np.array(["Cu"] * 24)}, "atomic_numbers holds <U2, expected numbers"),
    "no element": ({"atomic_numbers": np.full(24, 285)}, "285 is no atomic number"),
    "an empty structure": ({"n_atoms": [0, 8, 4, 4, 4, 4]}, "n_atoms down to 0: each needs an atom"),
    "less than none": ({"n_atoms": [8, -4, 8, 4, 4, 4]}, "n_atoms down to -4"),
}


@pytest.mark.parametrize("case", CRYSTALS)
def test_crystals_of_npz(copper, tmp_path, case):
    """Any type of number gives the structures that ASE would; shapes that do not fit are told."""
    changes, message = CRYSTALS[case]
    arrays = {"atomic_numbers": np.full(24, 29), "positions": np.concatenate([one.positions for one in copper[:6]])}
    arrays |= {"n_atoms": [4] * 6, "cells": np.tile(5 * np.eye(3), (6, 1, 1)), "periodic": np.ones((6, 3), dtype=bool)}
    for key, value in changes.items():
        arrays[key] = arrays[key].astype(value) if isinstance(value, type) else value
    np.savez(tmp_path / "a.npz", **{key: value for key, value in arrays.items() if value is not None})
    if message is not None:
        with pytest.raises(UserError, match=message):
            api.select(tmp_path / "a.npz", 2)
        return
    periodic = arrays["periodic"][0].astype(bool)
    expected = frames_of_atoms([ase.Atoms("Cu4", one.positions, cell=[5, 5, 5], pbc=periodic) for one in copper[:6]])
    assert digest(read_frames(str(tmp_path / "a.npz"), "pool").data) == digest(expected.data)
    for index in ("@9", "@::0", "@3:3"):
        with pytest.raises(UserError, match=r"a.npz@"):
            read_frames(f"{tmp_path}/a.npz{index}", "pool")


def test_a_shard_gives_what_it_has(copper, tmp_path, monkeypatch):
    """Copies leave a shard with fewer than its core-set holds; one of which nothing can be chosen gives nothing."""
    monkeypatch.chdir(tmp_path)
    broken = [ase.Atoms("Cu4", np.full((4, 3), np.nan)) for _ in range(8)]
    ase.io.write("pool.xyz", [copper[0], *copper[:7], *copper[8:16], *broken])
    monkeypatch.setattr("bench.launch.tasks.do", lambda tasks, *_: [_choose(*task.words) for task in tasks])
    _choose("pool=pool.xyz", "n=2", "shards=3")
    assert len(ase.io.read("selected.xyz", ":")) == 2
    cores = [json.loads(path.read_text())["picks"] for path in sorted(tmp_path.glob("results/pools/*/core_*.json"))]
    assert [len(core) for core in cores] == [7, 8, 0]
    ase.io.write("broken.xyz", broken)
    with pytest.raises(UserError, match=r"none of 8 structures of the pool can be chosen: 8 positions"):
        _choose("pool=broken.xyz", "n=2")
    with pytest.raises(UserError, match="none of 8 structures of the pool can be chosen, whatever the shard"):
        _choose("pool=broken.xyz", "n=2", "shards=2")


def test_shards_give_as_many_as_the_pool_holds(copper, tmp_path, monkeypatch):
    """Where n is no multiple of the shards, and in a folder whose name has to be quoted."""
    monkeypatch.chdir(tmp_path)
    ase.io.write("pool.xyz", copper[:10])
    monkeypatch.setattr("bench.launch.tasks.do", lambda tasks, *_: [_choose(*task.words) for task in tasks])
    _choose("pool=pool.xyz", "n=10", "shards=3", 'results="my résultats"')
    assert len(ase.io.read("selected.xyz", ":")) == 10
    assert [path.name for path in tmp_path.glob("my*")] == ["my résultats"]


def test_a_large_pool_goes_through_a_file(aspirin, tmp_path, monkeypatch, caplog):
    """Block by block: nearly the same features, the same picks; a process that goes on does no block twice."""
    expected = api.select(aspirin[:64], 5).rows.tolist()
    monkeypatch.setattr(embedded, "BLOCK", 20)
    batch = api.select(aspirin[:64], 5, words=[f"results={tmp_path}"])
    assert batch.rows.tolist() == expected and batch.kept.is_relative_to(tmp_path)
    assert batch.kept.with_suffix(".lock").exists() and not batch.kept.exists()

    class Counting:
        def __init__(self, prepared):
            self.prepared, self.calls = prepared, []

        def embed(self, rows):
            self.calls.append(len(rows))
            return self.prepared.embed(rows)

        def uncertainty(self, errors):
            return None

    kernel = plugin(compose_run(["kernel=descriptor", "selection=lcmd"]).kernel, "kernel")
    from bench.kernels.base import KernelInputs
    from bench.pools.selecting import Method, _potential

    run = compose_run(["kernel=descriptor", "selection=lcmd"])
    method = Method(kernel, plugin(run.selection, "selection"), plugin(run.model, "model"))
    view, potential = _potential(batch.frames.data, method, None)
    counting = Counting(kernel.prepare(KernelInputs(potential, view, np.arange(0), 0)))
    folder = tmp_path / "again"
    whole = embedded.embed(counting, np.arange(64), "FEAT(D)", folder)
    assert counting.calls == [1, 20, 20, 20, 4] and np.load(folder / "features.npy").dtype == np.float32
    two = {"blocks": 2, "features": whole.pool.shape[1]}
    (folder / "done.json").write_text(json.dumps(two))
    counting.calls.clear()
    again = embedded.embed(counting, np.arange(64), "FEAT(D)", folder)
    assert counting.calls == [1, 20, 4] and torch.equal(again.pool, whole.pool)

    class Slow(Counting):
        def embed(self, rows):
            begun.set()
            assert ended.wait(60)
            return super().embed(rows)

    # another process that wants the same waits, and does nothing again; nor is the folder taken from under it
    begun, ended, shared = threading.Event(), threading.Event(), tmp_path / "shared"
    counting.calls.clear()
    caplog.set_level("INFO")
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(embedded.embed, Slow(counting.prepared), np.arange(64), "FEAT(D)", shared)
        assert begun.wait(60)
        second = threads.submit(embedded.embed, counting, np.arange(64), "FEAT(D)", shared)
        while "another process computes the features of this pool: waiting for it" not in caplog.text:
            time.sleep(0.05)
        ended.set()
        assert torch.equal(first.result().pool, whole.pool) and torch.equal(second.result().pool, whole.pool)
    assert counting.calls == [1]
    embedded.remove(shared)
    assert not shared.exists()

    def cut(path):
        path.write_bytes(path.read_bytes()[:-100])

    for damage in (cut, Path.unlink, lambda path: np.save(path, np.zeros((64, 3), np.float32))):
        damage(folder / "features.npy")
        (folder / "done.json").write_text(json.dumps(two))
        again = embedded.embed(counting, np.arange(64), "FEAT(D)", folder)
        assert torch.equal(again.pool, whole.pool)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(NoRoomError, match=r"cannot write .*diagonal.npy \(No space left on device\): make room"):
        embedded.embed(counting, np.arange(64), "FEAT(D)", tmp_path / "full")
    assert not list((tmp_path / "full").iterdir())
    monkeypatch.undo()
    monkeypatch.setattr(embedded, "BLOCK", 20)

    class Diverged(Counting):
        def embed(self, rows):
            found = super().embed(rows)
            return replace(found, diagonal=torch.full_like(found.diagonal, torch.nan)) if 45 in rows else found

    with pytest.raises(UserError, match=r"values of 20 of 20 structures are not finite \(structures 40, 41"):
        embedded.embed(Diverged(counting.prepared), np.arange(64), "FEAT(D)", tmp_path / "bad")
    assert json.loads((tmp_path / "bad/done.json").read_text())["blocks"] == 2


@pytest.mark.long
def test_killed_and_taken_up_again(aspirin, tmp_path):
    """kill -9 while features are computed: the same picks, and blocks that were done are not done again."""
    generator = np.random.default_rng(0)
    positions = np.stack([aspirin[i % len(aspirin)].positions for i in range(200_000)]).astype(np.float32)
    positions += generator.normal(scale=0.02, size=positions.shape).astype(np.float32)
    np.savez(tmp_path / "pool.npz", z=aspirin[0].numbers, R=positions)
    words = [sys.executable, "-m", "bench.select", f"pool={tmp_path}/pool.npz", "n=5", f"results={tmp_path}"]

    def start(name):
        with (tmp_path / f"{name}.log").open("w") as log:
            output, environment = f"output={tmp_path}/{name}.xyz", subprocess_environment()
            return subprocess.Popen([*words, output], cwd=PROJECT, env=environment, stderr=log)

    assert start("whole").wait() == 0
    killed = start("killed")
    while not list(tmp_path.glob("pools/*/done.json")):
        time.sleep(0.2)
        assert killed.poll() is None
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert start("again").wait() == 0
    assert "blocks are there already" in (tmp_path / "again.log").read_text()
    assert (tmp_path / "again.xyz").read_bytes() == (tmp_path / "whole.xyz").read_bytes()
    assert not list(tmp_path.glob("pools/*/"))


def test_pairs_of_molecules_are_those_of_any_search(generator, monkeypatch):
    """Sizes mixed; positions in both precisions; neighbours of an atom in another order."""
    monkeypatch.setattr(neighbours, "MANY", 0)
    molecules = [random_molecule(generator, n) for n in (5, 1, 3, 5, 7, 3)]
    data = make_structures(molecules)
    for dtype in (np.float64, np.float32):
        labelled = replace(data, positions=data.positions.astype(dtype))
        passing = replace(labelled, passing=True)
        whole, (_, some, _) = find_neighbours(labelled, 3.0), find_neighbours(passing, 3.0).of(passing, np.arange(6))
        np.testing.assert_array_equal(some.offsets, whole.offsets)
        np.testing.assert_array_equal(some.centres, whole.centres)
        order = np.lexsort((whole.neighbours, whole.centres, np.repeat(np.arange(6), np.diff(whole.offsets))))
        np.testing.assert_array_equal(some.neighbours, whole.neighbours[order])
        rows = np.arange(6)
        expected = shortest_distances(labelled, rows, 2.0)
        np.testing.assert_allclose(shortest_distances(passing, rows, 2.0), expected, rtol=1e-12)
    on_top = replace(passing, positions=np.zeros_like(passing.positions))
    with pytest.raises(UserError, match="atoms 0 and 1 of structure 0 are 0 Å apart"):
        find_neighbours(on_top, 3.0).of(on_top, np.arange(6))


def test_tasks_side_by_side(tmp_path):
    """All are done; one that fails is told after the others have ended."""
    (tmp_path / "good.json").write_text("{}")
    (tmp_path / "bad.json").write_text("{")
    cluster = Local(workers=1, gpus_per_worker=0, attempts=1, pack=1)

    def task(name, written):
        return Task("json.tool", [str(tmp_path / name), str(tmp_path / written)])

    do([task("good.json", "1"), task("good.json", "2")], cluster, tmp_path)
    assert (tmp_path / "1").exists() and (tmp_path / "2").exists()
    with pytest.raises(UserError, match="1 of 2 tasks failed"):
        do([task("bad.json", "3"), task("good.json", "4")], cluster, tmp_path)
    assert (tmp_path / "4").exists()
