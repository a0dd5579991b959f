"""What a method of one's own lacks, values that are not finite, and picks that are no batch: one line each."""

import dataclasses
import sys
import types

import numpy as np
import pytest
import torch

from bench.config.compose import compose_run
from bench.config.plugins import name_plugins
from bench.errors import UserError
from bench.kernels.base import Embedding, KernelFacts, squared_norms
from bench.kernels.random import PreparedRandom, Random
from bench.learning.cycle import run_active_learning
from bench.runs.record import read_record
from bench.selection.base import Copies, Selected, check_embedding, check_picks, check_uncertainty
from bench.selection.lcmd import LargestClusterMaximumDistance
from bench.selection.max_det import MaxDet
from bench.selection.max_diag import MaxDiag
from bench.selection.max_dist import MaxDist
from bench.selection.pairs import check

TINY = [
    *("scenario.initial=6", "scenario.final=10", "scenario.pool=60", "scenario.validation=8", "scenario.test=12"),
    *("batch_size=4", "training.epochs=2", "training.validation_checks=1", "threads=1", "model.hidden=[16,16]"),
]


@dataclasses.dataclass(frozen=True)
class Bare:
    """A selection, or a kernel, with a name alone."""

    name: str


@dataclasses.dataclass(frozen=True)
class NoNeedsFeatures:
    name: str

    def select(self, embedding, batch_size, generator):
        return Selected(np.arange(batch_size))


@dataclasses.dataclass(frozen=True)
class Repeats:
    name: str
    needs_features: bool = False

    def select(self, embedding, batch_size, generator):
        return Selected(np.array([7, 57, 7, 57][:batch_size]))


@dataclasses.dataclass(frozen=True)
class TooMany(Random):
    """As many uncertainties as there are data, not as it is asked for."""

    def prepare(self, inputs):
        return TooManyPrepared(np.ones(len(inputs.view.data)))


@dataclasses.dataclass(frozen=True)
class Forgets(Random):
    """To return what it has made."""

    def prepare(self, inputs):
        super().prepare(inputs)


@dataclasses.dataclass(frozen=True)
class OfForces(Random):
    """A quantity that is not called so."""

    uncertainty_of = "forces"


@dataclasses.dataclass(frozen=True)
class NoInputs(Random):
    def prepare(self):
        raise AssertionError


@dataclasses.dataclass(frozen=True)
class PicksAll(NoNeedsFeatures):
    needs_features: bool = False

    def select(self, embedding):
        raise AssertionError


class TooManyPrepared(PreparedRandom):
    def uncertainty(self, errors):
        return self.values


@dataclasses.dataclass(frozen=True)
class NotFinite(KernelFacts):
    """NaN for one structure of the pool."""

    def prepare(self, inputs):
        return self

    def embed(self, structures):
        values = np.ones(len(structures))
        values[3] = np.nan
        return Embedding(torch.from_numpy(values))

    def uncertainty(self, errors):
        return None


@pytest.fixture
def own_methods(monkeypatch):
    module = types.ModuleType("own_methods")
    for cls in (Bare, NoNeedsFeatures, Repeats, NotFinite, TooMany, Forgets, OfForces, NoInputs, PicksAll):
        setattr(module, cls.__name__, cls)
    monkeypatch.setitem(sys.modules, "own_methods", module)
    name_plugins("own_methods")


CONTRACTS = {
    "selection NoNeedsFeatures": "has no needs_features: give the class what bench.selection.base.Selection asks for",
    "selection Bare": "has no needs_features, select",
    "kernel NoInputs": r"NoInputs: prepare is called with \(inputs\), but too many positional arguments: have it take",
    "selection PicksAll": r"PicksAll: select is called with \(embedding, batch_size, generator\), but too many",
    "kernel Bare": "has no members, has_features, needs_forces, .*, prepare: .* bench.kernels.base.Kernel asks",
}


@pytest.mark.parametrize("case", CONTRACTS)
def test_what_a_class_lacks_is_told(own_methods, case):
    group, name = case.split()
    run = compose_run([])
    run = dataclasses.replace(run, **{group: {"_target_": f"own_methods.{name}", "name": "mine"}})
    with pytest.raises(UserError, match=CONTRACTS[case]) as caught:
        check(run)
    assert "\n" not in str(caught.value) and f"{group} " in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"selection": "Repeats"},
            "selection mine picked rows 7, 57, 7, 57 of a pool of 60, expected 4 different ones",
        ),
        ({"kernel": "NotFinite"}, "kernel mine: values of 1 of 60 structures are not finite"),
        (
            {"kernel": "Forgets"},
            "kernel mine: what its prepare returns, builtins.NoneType has no embed, uncertainty: give",
        ),
        ({"kernel": "TooMany"}, r"kernel mine: uncertainty returned .*, shape \(4019,\), expected .* shape \(12,\)"),
    ],
)
def test_nothing_wrong_is_recorded(own_methods, tmp_path, changes, message):
    run = compose_run([*TINY, f"results={tmp_path}"])
    plugins = {group: {"_target_": f"own_methods.{name}", "name": "mine"} for group, name in changes.items()}
    with pytest.raises(UserError, match=message):
        run_active_learning(dataclasses.replace(run, **plugins))
    (path,) = tmp_path.glob("runs/*/record.json")
    record = read_record(path)
    assert record.status == "failed" and record.steps == []


def test_what_a_class_cannot_state_is_told(own_methods, tmp_path):
    run = compose_run([*TINY, f"results={tmp_path}"])
    run = dataclasses.replace(run, kernel={"_target_": "own_methods.OfForces", "name": "mine"})
    with pytest.raises(UserError, match=r"kernel mine: uncertainty_of = 'forces' of its class: .*'energy' or 'force'"):
        run_active_learning(run)


def embedding(pool, training):
    features = torch.from_numpy(pool)
    return Embedding(squared_norms(features), features, torch.from_numpy(training))


def test_values_that_are_not_finite():
    generator = np.random.default_rng(0)
    pool, training, rows = generator.normal(size=(9, 3)), generator.normal(size=(2, 3)), np.arange(100, 109)
    check_embedding(embedding(pool, training), rows, "K")
    for value in (np.nan, np.inf, -np.inf):
        wrong = pool.copy()
        wrong[4, 1] = value
        with pytest.raises(UserError, match=r"kernel K: values of 1 of 9 .*\(structures 104 of the dataset\)"):
            check_embedding(embedding(wrong, training), rows, "K")
        wrong = training.copy()
        wrong[0, 0] = value
        with pytest.raises(UserError, match="features of training structures are not finite"):
            check_embedding(embedding(pool, wrong), rows, "K")


def bare(cls, **values):
    """An object as a class of somebody's own may return it: its fields are of any type."""
    made = object.__new__(cls)
    made.__dict__.update(values)
    return made


USUAL = {
    "diagonal": 3 * torch.ones(9).double(),
    "pool": torch.ones(9, 3).double(),
    "training": torch.ones(2, 3).double(),
}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"diagonal": np.ones(9)}, "diagonal is a numpy.ndarray, expected a tensor of torch"),
        ({"diagonal": torch.ones(8)}, r"diagonal has the shape \(8,\), expected \(9,\)"),
        ({"pool": [1.0]}, "pool is a list, expected a tensor"),
        ({"pool": torch.ones(9)}, r"pool has the shape \(9,\), expected \(9, any\)"),
        (
            {"pool": torch.ones(9, 0).double(), "training": torch.ones(2, 0).double()},
            r"pool has .*\(9, 0\), no feature",
        ),
        ({"training": None}, "training is None, expected a tensor"),
        ({"training": torch.ones(2, 4)}, r"training has the shape \(2, 4\), expected \(any, 3\)"),
    ],
)
def test_an_embedding_of_another_kind_or_shape(changes, told):
    check_embedding(bare(Embedding, **USUAL), np.arange(9), "K")
    with pytest.raises(UserError, match=f"kernel K: {told}.*: fix its embed"):
        check_embedding(bare(Embedding, **{**USUAL, **changes}), np.arange(9), "K")
    with pytest.raises(UserError, match="kernel K: embed returned a tuple, expected an Embedding: fix its embed"):
        check_embedding((1, 2), np.arange(9), "K")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"diagonal": torch.ones(9, dtype=torch.int64)}, "diagonal is a tensor of torch.int64"),
        ({"pool": torch.ones(9, 3)}, "pool is a tensor of torch.float32"),
        ({"pool": torch.ones(9, 3).double().requires_grad_()}, "pool is a tensor of torch.float64, with a gradient"),
        ({"pool": torch.ones(9, 3).double().to_sparse()}, "pool is a tensor of torch.float64, torch.sparse_coo"),
        ({"training": torch.ones(2, 3)}, "training is a tensor of torch.float32"),
    ],
)
def test_an_embedding_of_other_numbers(changes, told):
    with pytest.raises(UserError, match=rf"kernel K: {told}: give .detach\(\).double\(\), dense"):
        check_embedding(bare(Embedding, **{**USUAL, **changes}), np.arange(9), "K")


def test_an_embedding_that_contradicts_itself():
    check_embedding(bare(Embedding, **USUAL), np.arange(9), "K", 2)
    with pytest.raises(UserError, match=r"kernel K: training has the shape \(2, 3\), expected \(5, 3\)"):
        check_embedding(bare(Embedding, **USUAL), np.arange(9), "K", 5)
    wrong = USUAL["diagonal"].clone()
    wrong[4] = 300.0
    with pytest.raises(UserError, match=r"kernel K: diagonal is 300 for structure 104 .* norm of its features 3:"):
        check_embedding(bare(Embedding, **{**USUAL, "diagonal": wrong}), np.arange(100, 109), "K")


@pytest.mark.parametrize("method", [MaxDet, MaxDist, LargestClusterMaximumDistance])
def test_features_that_are_stated_and_not_given(method):
    with pytest.raises(UserError, match="selection S needs features, but the kernel's embed gives none"):
        method("S").select(Embedding(torch.ones(9).double()), 2, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["algorithm=maxdiag_qbc_f", "kernel.members=1"], "kernel.members = 1: .* greater than or equal to 2"),
        (["algorithm=lcmd_feat_rp", "kernel.n_projections=0"], "kernel.n_projections = 0: .* greater than 0"),
        (["model.hidden=[]"], r"model.hidden = \[\]: .* at least 1 item"),
    ],
)
def test_sizes_that_mean_nothing(words, told):
    with pytest.raises(UserError, match=f"configuration key {told}"):
        check(compose_run(words))


@pytest.mark.parametrize(
    ("returned", "told"),
    [
        (np.arange(3), "a numpy.ndarray"),
        (None, "None"),
        (bare(Selected, rows=[0, 1, 2]), "rows that are a list"),
        (bare(Selected, rows=np.arange(3.0)), "rows that are a numpy.ndarray of float64"),
    ],
)
def test_picks_of_another_kind(returned, told):
    with pytest.raises(UserError, match=rf"selection S returned {told}, expected Selected\(rows\)"):
        check_picks(returned, 9, 3, "S")


@pytest.mark.parametrize("rows", [[1, 2, 1], [1, 2], [1, 2, 9], [-1, 2, 3], [1, 2, 3, 4]])
def test_picks_that_are_no_batch(rows):
    check_picks(Selected(np.array([3, 1, 2])), 9, 3, "S")
    with pytest.raises(UserError, match=r"selection S picked rows .* of a pool of 9, expected 3 different ones"):
        check_picks(Selected(np.array(rows)), 9, 3, "S")


@pytest.mark.parametrize(
    ("returned", "told"),
    [
        (torch.ones(3).double(), "uncertainty returned a torch.Tensor, expected a numpy.ndarray of floats"),
        (np.ones(4), r"uncertainty returned a numpy.ndarray of float64, shape \(4,\), expected .* shape \(3,\)"),
        (np.ones((3, 1)), r"uncertainty returned a numpy.ndarray of float64, shape \(3, 1\), expected"),
        (np.ones(3, dtype=bool), "uncertainty returned a numpy.ndarray of bool"),
        ([1.0, 2.0, 3.0], "uncertainty returned a list"),
        (np.array([1.0, np.nan, 2.0]), r"uncertainties of 1 of 3 structures are not finite \(structures 8 of"),
    ],
)
def test_uncertainties_that_are_none(returned, told):
    for right in (None, np.ones(3), np.ones(3, dtype=np.float32)):
        check_uncertainty(right, np.array([7, 8, 9]), "K")
    with pytest.raises(UserError, match=f"kernel K: {told}"):
        check_uncertainty(returned, np.array([7, 8, 9]), "K")


@pytest.mark.parametrize("rows", [[[3], [1], [2]], 3])
def test_picks_that_are_no_row(rows):
    with pytest.raises(UserError, match=r"selection S picked rows 3.* in the shape \(.*\) of a pool of 9"):
        check_picks(bare(Selected, rows=np.array(rows), n_random=0), 9, 3, "S")


@pytest.mark.parametrize("n_random", [None, -1, 4, 1.0])
def test_picks_at_random_that_are_no_number(n_random):
    with pytest.raises(UserError, match=f"selection S returned n_random = {n_random}, expected an integer from 0 to 3"):
        check_picks(bare(Selected, rows=np.arange(3), n_random=n_random), 9, 3, "S")


def test_copies_are_found():
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(5, 40))
    pool = rows[[0, 1, 0, 2, 1, 0, 3]]
    pool[6, 0], training = -0.0, rows[[4, 2, 4]]
    copies = Copies(torch.from_numpy(pool), squared_norms(torch.from_numpy(pool)), torch.from_numpy(training))
    assert copies.others(5) == [0, 2, 5] and copies.others(4) == [1, 4] and copies.others(6) == [6]
    assert copies.of_training == [3]
    assert copies.lowest(5, [0]) == 2 and copies.lowest(2, []) == 0 and copies.lowest(6, []) == 6
    zeros = torch.zeros(3, 2, dtype=torch.float64)
    zeros[1] = -zeros[1]
    assert Copies(zeros, squared_norms(zeros)).others(1) == [0, 1, 2]


@pytest.mark.parametrize("n_train", [0, 3])
@pytest.mark.parametrize("width", [5, 513])
def test_equal_rows_come_lowest_first(n_train, width):
    """Products round equal rows differently: among them the lowest is picked first all the same."""
    generator = np.random.default_rng(width)
    kinds = generator.normal(size=(6, width))
    pool = kinds[generator.integers(0, 6, 2500)]
    training = np.concatenate([generator.normal(size=(2, width)), kinds[:1]])[:n_train]
    rows_of = {kind.tobytes(): np.flatnonzero((pool == kind).all(1)).tolist() for kind in kinds}
    for method in (MaxDiag("MaxDiag"), MaxDist("MaxDist"), LargestClusterMaximumDistance("LCMD"), MaxDet("MaxDet")):
        n = 5 if method.name == "MaxDet" else 40
        picked = method.select(embedding(pool, training), n, generator).rows.tolist()
        for rows in rows_of.values():
            chosen = [row for row in picked if row in rows]
            assert chosen == rows[: len(chosen)], method.name
        if method.name == "MaxDist":
            # every kind once, then copies, all at distance zero, in their order
            different = 6 if n_train < 3 else 5
            assert len({pool[row].tobytes() for row in picked[:different]}) == different
            rest = [row for row in range(2500) if row not in picked[:different]]
            assert picked[different:] == rest[: n - different]


def test_max_det_without_rank_is_one_line():
    pool = np.random.default_rng(0).normal(size=(4, 30))[np.arange(2000) % 4]
    with pytest.raises(UserError, match=r"MaxDet found 4 of 9 structures: .* copies or combinations of these: pick"):
        MaxDet("MaxDet").select(embedding(pool, np.zeros((0, 30))), 9, np.random.default_rng(0))
