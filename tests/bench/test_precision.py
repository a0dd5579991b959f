"""Products of lower precision: what is rounded, and that it is another run."""

from functools import partial

import numpy as np
import pytest
import torch
from conftest import make_builder, make_potential, whole_batch
from hypothesis import given
from hypothesis import strategies as st
from pair_potential import Pairs
from small_sweeps import SIZES

from bench.calculator import PotentialCalculator
from bench.config.compose import compose_run
from bench.config.identity import identity_of
from bench.errors import UserError
from bench.learning.cycle import run_active_learning
from bench.potentials.architecture import check_precision
from bench.potentials.gmnn.architecture import GaussianMoments
from bench.potentials.gmnn.products import ROUNDED, Products, _to_tf32, tensor_cores
from bench.runs.record import initial_model
from bench.training.store import load_potential

EPSILON = {"tf32": 2.0**-11, "bfloat16": 2.0**-8}
"""How far a factor is from its rounded value, relatively, at most."""


@given(st.lists(st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False), min_size=1))
def test_tf32_by_definition(numbers):
    """Eleven significant bits, halves to even."""
    values = np.array(numbers, dtype=np.float32)
    mantissa, exponent = np.frexp(values.astype(np.float64))
    expected = np.ldexp(np.round(mantissa * 2**11), exponent - 11)
    np.testing.assert_array_equal(_to_tf32(torch.from_numpy(values)).double().numpy(), expected)


@pytest.mark.parametrize("rounded", ROUNDED)
def test_products_by_definition(generator, rounded):
    left, right = (torch.from_numpy(generator.normal(size=size)).float() for size in ((2, 5, 7), (2, 7, 3)))
    bias, total = torch.ones(2, 3), torch.ones(2, 5, 3)
    round_ = torch.Tensor.bfloat16 if rounded == "bfloat16" else _to_tf32
    exact = round_(left).double() @ round_(right).double()
    products, tolerance = Products.of(rounded), 1e-5 if rounded == "tf32" else 2**-8
    close = {"rtol": tolerance, "atol": tolerance}
    torch.testing.assert_close(products.scaled(left, right, 0.5).double(), 0.5 * exact, **close)
    torch.testing.assert_close(products.affine(left, right, bias, 0.1, 0.5).double(), 0.5 * exact + 0.1, **close)
    products.add(total, left, right, 0.5)
    torch.testing.assert_close(total.double(), 0.5 * exact + 1, **close)
    assert not torch.equal(products.scaled(left, right, 1.0), Products().scaled(left, right, 1.0))


MATMUL = torch.backends.cuda.matmul


def setting():
    """Torch's setting of today, and of torch before 2.9 where it can be read."""
    today = getattr(MATMUL, "fp32_precision", None)
    return today, (MATMUL.allow_tf32, torch.get_float32_matmul_precision()) if today != "tf32" else "tf32"


@pytest.fixture
def untouched_setting():
    before = getattr(MATMUL, "fp32_precision", None)
    yield
    torch.set_float32_matmul_precision("highest")
    if before is not None:
        torch.backends.mkldnn.matmul.fp32_precision = MATMUL.fp32_precision = before


SAID = {
    "nothing": lambda: None,
    "high": lambda: torch.set_float32_matmul_precision("high"),
    "medium": lambda: torch.set_float32_matmul_precision("medium"),
    "allowed": lambda: setattr(MATMUL, "allow_tf32", True),
    "forbidden": lambda: setattr(MATMUL, "allow_tf32", False),
}
if hasattr(MATMUL, "fp32_precision"):
    SAID |= {one: partial(setattr, MATMUL, "fp32_precision", one) for one in ("tf32", "ieee")}


@pytest.mark.parametrize("said", SAID)
def test_tensor_cores_leave_what_was_set(untouched_setting, said):
    """Whatever the program around has said, in torch's old words or its new ones, and after a failure, too."""
    SAID[said]()
    before = setting()
    for wanted in (False, True):
        with tensor_cores(wanted):
            if not wanted:
                assert setting() == before
            elif before[0] != "tf32":
                assert MATMUL.allow_tf32
        assert setting() == before
        with pytest.raises(ZeroDivisionError), tensor_cores(wanted):
            _ = 1 / 0
        assert setting() == before


@pytest.mark.parametrize("rounded", ROUNDED)
def test_energies_forces_and_gradients_are_near_the_exact_ones(mixed_data, rounded):
    """As near as its bits allow; and not the same, so that the setting has an effect."""
    exact = make_potential(mixed_data, dtype=torch.float32)
    batch = whole_batch(make_builder(mixed_data, dtype=torch.float32).build(np.arange(6)), 1, with_pairs=True)
    labels = torch.zeros(1, 6), torch.from_numpy(mixed_data.forces).float()
    found = []
    for products in (Products(), Products.of(rounded)):
        one = type(exact)(exact.architecture, exact.species, exact.parameters, exact.energy_scale, products)
        energies, forces = one.predict(batch, forces=True)
        _, gradient = one.loss_gradient(batch, *labels, 4.0)
        found.append({"energies": energies, "forces": forces} | gradient)
    for name, values in found[0].items():
        error = float((found[1][name] - values).abs().max() / values.abs().max())
        assert error < 10 * EPSILON[rounded], name
    assert not torch.equal(found[0]["energies"], found[1]["energies"])


def test_another_precision_is_another_run(tmp_path):
    """Its record, its initial model and its model file say so, and what is predicted later is in that precision."""
    sizes = [*SIZES, "scenario.final=4", "training.epochs=3", "threads=1", f"results={tmp_path}"]
    runs = {name: compose_run([*sizes, f"precision={name}"]) for name in ("float32", *ROUNDED)}
    identities = {name: identity_of(run, "0" * 64) for name, run in runs.items()}
    assert "precision" not in identities["float32"]
    assert len({str(initial_model(run, "0" * 64, 1)) for run in runs.values()}) == 3
    records = {name: run_active_learning(run) for name, run in runs.items()}
    for name, record in records.items():
        assert record.content.deviations.get("precision", "float32") == name
        potential, *_ = load_potential(record.folder / "model.pt")
        assert potential.products == Products.of(name) and potential.member(0).products == potential.products
        assert PotentialCalculator(record.folder / "model.pt").potential.products == potential.products
    errors = {records[name].steps[-1].metrics.energy_mae_kcal_mol for name in runs}
    assert len(errors) == 3


def test_a_model_without_it_refuses():
    check_precision(GaussianMoments(r_max=4.0), "tf32")
    other = Pairs(r_max=4.0)
    check_precision(other, "float64")
    with pytest.raises(UserError, match="precision = 'tf32' but model PAIR has float32, float64: choose one of these"):
        check_precision(other, "tf32")
