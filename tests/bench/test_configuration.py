"""Every yaml composes and binds; the identity of a run is what its numbers depend on."""

import itertools

import pytest
from conftest import PROJECT

from bench.config.compose import compose_run
from bench.config.identity import hash_of, identity_of
from bench.config.plugins import plugin
from bench.errors import UserError
from bench.selection.pairs import check

CONF = PROJECT / "conf"
GROUPS = ["scenario", "dataset", "model", "training", "kernel", "selection", "algorithm", "sweep", "reduced"]
CHOICES = [(group, path.stem) for group in GROUPS for path in sorted((CONF / group).glob("*.yaml"))]


def composed(*overrides):
    run = compose_run(overrides)
    check(run)
    return run


def test_every_file_belongs_to_a_group():
    files = {path.relative_to(CONF).with_suffix("").as_posix() for path in CONF.rglob("*.yaml")}
    clusters = {"cluster/local", "cluster/slurm"}  # composed by bench.launch, no part of a run
    assert files == {"config", "plugins", *clusters, *(f"{group}/{name}" for group, name in CHOICES)}


@pytest.mark.parametrize(("group", "name"), CHOICES, ids=lambda value: value)
def test_composes_and_binds(group, name):
    extra = ["selection=lcmd"] if (group, name) in [("kernel", name) for name in ("feat_ll", "feat_rp")] else []
    extra += ["dataset=rmd17_aspirin"] if name == "own" else []  # its sizes come from the data
    partner = {"selection": ["kernel=feat_ll"]}.get(group, extra)
    prefix = "+" if group in ("sweep", "reduced") else ""
    if (group, name) == ("sweep", "paper"):
        with pytest.raises(UserError, match="several grids"):
            composed("+sweep=paper")
        return
    run = composed(f"{prefix}{group}={name}", *partner)
    for where in ("dataset", "kernel", "selection"):
        plugin(getattr(run, where), where)


def test_identity():
    """Where and how a run is computed does not rename it; everything that changes numbers does."""
    base = composed()
    same = [composed("results=elsewhere"), composed("threads=1"), composed("dataset.path=copy.npz")]
    other = [
        composed("seed=1"),
        composed("batch_size=5"),
        composed("algorithm=lcmd_feat_ll"),
        composed("training.epochs=7"),
        composed("model.n_gaussians=7"),
        composed("scenario.pool=100"),
        composed("precision=float64"),
    ]
    names = [hash_of(identity_of(run, "checksum")) for run in (base, *same, *other)]
    assert len(set(names[:4])) == 1
    assert all(a != b for a, b in itertools.combinations([names[0], *names[4:]], 2))
    assert hash_of(identity_of(base, "another")) != names[0]


def test_a_zero_that_is_text_trains_energies_alone():
    """In quotes, or from `${oc.env:…}`: the same run, with the learning rates of energies."""
    without = compose_run(["training.force_weight=0"])
    assert compose_run(["training.force_weight='0'"]) == without
    assert without.training.learning_rates["network"] == 0.005


def test_paper_settings():
    """docs/method.md, Training, both sets of learning rates."""
    forces, energies = composed("scenario=single_training").training, composed("training=energies").training
    rates = forces.learning_rates
    assert (rates["network"], rates["radial"], rates["shift"], rates["scale"]) == (0.03, 0.02, 0.05, 0.001)
    assert (forces.epochs, forces.minibatch, forces.force_weight) == (1000, 32, 4.0)
    assert forces.adam_betas == (0.9, 0.999) and forces.adam_epsilon == 1e-7
    rates = energies.learning_rates
    assert (rates["network"], rates["radial"], rates["shift"], rates["scale"]) == (0.005, 0.0025, 0.05, 0.001)
    assert (composed("training=energies", "scenario.name=x").training.force_weight) == 0.0
