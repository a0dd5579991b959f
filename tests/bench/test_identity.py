"""Identity is what was done, in names and values: what of the code may change, and which committed runs feel it."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest
from conftest import PROJECT, subprocess_environment
from reidentified import reidentified

from bench.config import versions
from bench.config.compose import compose_run
from bench.config.identity import _not_default, cell_of, hash_of, identity_of, is_current
from bench.config.plugins import class_of, filed, name_plugins, plugin
from bench.config.schema import TrainingSettings
from bench.errors import UserError
from bench.kernels.base import KernelFacts
from bench.kernels.random import Random
from bench.learning import cycle
from bench.learning.opened import facts_of, outside_sources
from bench.runs.record import RunRecord, read_validated
from bench.runs.record_schema import KernelFacts as Facts
from bench.runs.record_schema import Session
from bench.selection.pairs import check

REFERENCE = PROJECT / "results" / "reference"
STUDIES = ("aspirin", "fidelity", "tio2", "qm9")
LAST_LAYER = ("config", "kernel/gp_ll", "kernel/feat_ll")
GOLDEN = json.loads((PROJECT / "tests/golden/identities.json").read_text())


def test_golden_identities():
    """Every committed run is named as ever, and is what today's configuration asks for by the same words."""
    golden = GOLDEN["runs"]
    assert len(golden) >= 51
    for study in STUDIES:
        found = reidentified(REFERENCE / study)
        mine = {name.split("/")[1]: identity for name, identity in golden.items() if name.startswith(f"{study}/")}
        assert mine.keys() == found.keys()
        for run, identity in mine.items():
            assert hash_of(identity) == run
            recorded = json.loads((REFERENCE / study / "runs" / run / "record.json").read_text())
            assert recorded["identity"] == identity and recorded["run_id"] == run
        assert all(value[:2] == [run, "current"] for run, value in found.items())


@pytest.mark.parametrize("group", ["kernel", "selection"])
def test_golden_methods(group):
    """A name stands for these values: whoever changes one raises that method's version (bench/config/versions.py)."""
    assert set(filed(group)) == set(versions.METHODS[group])
    for name, config in filed(group).items():
        given = {key: value for key, value in config.items() if key not in ("_target_", "name")}
        assert given == GOLDEN["methods"][group][name]
        of_class = {f.name: f.default for f in dataclasses.fields(class_of(config, group))}
        # a key left out stands for the class's default, so that both must say the same
        assert all(of_class[k] in (v, dataclasses.MISSING) for k, v in given.items())


CHANGES = {
    "a new setting with a default": (
        [
            (
                "bench/config/schema.py",
                "    adam_epsilon: PositiveFloat = 1e-7\n",
                "\\g<0>    clipping: NonNegativeFloat = 0.0\n",
            )
        ],
        set(),
    ),
    "a new setting of a method, in its file": (
        [
            ("bench/selection/max_det.py", "    on_deficit: Literal.*\n", "\\g<0>    shuffle: bool = False\n"),
            ("conf/selection/max_det.yaml", "on_deficit: fail\n", "\\g<0>shuffle: false\n"),
        ],
        set(),
    ),
    "a module moved": (
        [
            ("bench/kernels/last_layer.py", None, "bench/kernels/gradients/last.py"),
            *((f"conf/{file}.yaml", "kernels.last_layer", "kernels.gradients.last") for file in LAST_LAYER),
        ],
        set(),
    ),
    "a class renamed": (
        [
            ("bench/kernels/last_layer.py", r"class LastLayer\b", "class LastLayerGradient"),
            *((f"conf/{file}.yaml", "LastLayer", "LastLayerGradient") for file in LAST_LAYER),
        ],
        set(),
    ),
    "another module of diagnostics": ([("conf/config.yaml", "  - {_target_: .*random_projection.*\n", "")], set()),
    "the version of a selection": ([("bench/config/versions.py", '"MaxDet": 1', '"MaxDet": 2')], {"MaxDet"}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_which_runs_a_change_of_the_code_makes_stale(tmp_path, change):
    """The project is copied and changed; the committed runs are asked for in the same words as before."""
    edits, stale = CHANGES[change]
    for part in ("bench", "analysis", "conf"):
        shutil.copytree(PROJECT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__", "embedded"))
    shutil.copy(PROJECT / "tests/reidentified.py", tmp_path)
    for file, pattern, replacement in edits:
        path = tmp_path / file
        if pattern is None:
            (tmp_path / replacement).parent.mkdir()
            path.rename(tmp_path / replacement)
            continue
        text, count = re.subn(pattern, replacement, path.read_text())
        assert count, file
        path.write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "reidentified", REFERENCE / "aspirin", REFERENCE / "tio2"],
        cwd=tmp_path,
        env=subprocess_environment() | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) >= 27
    changed = {run for run, (identity, state, _) in found.items() if state == "stale" or identity != run}
    assert changed == {run for run, (*_, selection) in found.items() if selection in stale}


def test_defaults_are_not_named():
    run = compose_run(["algorithm=maxdet_gp_rp"])
    identity = identity_of(run, "c")
    assert identity["kernel"] == {"name": "GP(RP)"} and identity["selection"] == {"name": "MaxDet"}
    assert identity["model"] == {"name": "GM-NN", "r_max": 4.0} and "precision" not in identity
    assert "adam_epsilon" not in identity["training"] and identity["training"]["epochs"] == 100
    assert identity_of(compose_run(["algorithm=maxdet_gp_rp", "kernel.n_projections=512"]), "c") == identity
    assert identity_of(compose_run(["algorithm=maxdet_gp_rp", "~kernel.n_projections"]), "c") == identity
    altered = compose_run(["algorithm=maxdet_gp_rp", "kernel.n_projections=64", "+training.adam_epsilon=1e-8"])
    assert identity_of(altered, "c")["kernel"] == {"name": "GP(RP)", "n_projections": 64}
    assert identity_of(altered, "c")["training"]["adam_epsilon"] == 1e-8
    assert altered.deviations == {"kernel.n_projections": 64, "training.adam_epsilon": 1e-8}


def test_what_is_measured_at_the_end_and_the_end_itself_name_no_run():
    base = identity_of(compose_run([]), "c")
    assert identity_of(compose_run(["final_kernels=[]"]), "c") == base
    longer = compose_run(["scenario.final=60"])
    assert identity_of(longer, "c") == base and longer.deviations == {"scenario.final": 60} and longer.filed_final == 40
    assert compose_run(["final_kernels=[]"]).deviations == {}


def test_every_default_is_found_in_an_identity():
    """A value that differs from the default is named, whichever setting it belongs to."""
    settings = compose_run([]).training
    other = {"adam_betas": (0.8, 0.99), "adam_epsilon": 1e-3, "energy_scale_factor": 2.0, "last_minibatch": "carry"}
    other |= {"decay": "none", "decay_factor": 0.1, "decay_every": 7, "early_stopping": "loss"}
    defaulted = {f.name for f in dataclasses.fields(TrainingSettings) if f.default is not dataclasses.MISSING}
    assert set(other) == defaulted
    for key, value in other.items():
        assert _not_default(replace(settings, **{key: value})).keys() - _not_default(settings).keys() == {key}


@dataclass(frozen=True)
class Mine(KernelFacts):
    """A kernel from outside the project."""

    sharpness: float = 1.0
    version = 3
    uncertainty_of = "force"

    def prepare(self, inputs):
        raise NotImplementedError


@dataclass(frozen=True)
class Other(Random):
    """Another one."""


@pytest.fixture(autouse=True)
def _plugins():
    name_plugins(__name__)


def mine(**fields):
    run = compose_run(["algorithm=maxdiag_rnd"])
    return replace(run, kernel={"_target_": f"{__name__}.Mine", "name": "mine", **fields})


def test_a_class_from_outside_carries_its_version(monkeypatch):
    identity = identity_of(mine(), "c")
    assert identity["kernel"] == {"name": "mine", "version": 3} == identity_of(mine(sharpness=1.0), "c")["kernel"]
    assert identity_of(mine(sharpness=2.0), "c")["kernel"] == {"name": "mine", "version": 3, "sharpness": 2.0}
    assert is_current(identity, "c") and not is_current(identity, "d") and is_current(identity, None)
    monkeypatch.setattr(Mine, "version", 4)
    raised = identity_of(mine(), "c")
    assert hash_of(raised) != hash_of(identity) and cell_of(raised) == cell_of(identity)
    assert facts_of(plugin(mine().kernel, "kernel")) == Facts(uncertainty="force")


@pytest.mark.parametrize("version", ["b", None, 1.5, 0, True])
def test_a_version_that_is_no_number_is_told(version, monkeypatch):
    monkeypatch.setattr(Mine, "version", version)
    with pytest.raises(UserError, match=rf"Mine: version = {version!r}, expected a whole number from 1 on"):
        identity_of(mine(), "c")


def test_members_that_are_no_number_are_told(monkeypatch):
    kernel = plugin(mine().kernel, "kernel")
    for members in ("3", 0, 2.5):
        monkeypatch.setattr(Mine, "members", members)
        with pytest.raises(UserError, match=rf"kernel mine: members = {members!r} of its class"):
            facts_of(kernel)


def test_an_edited_plugin_of_a_done_run_is_told(monkeypatch):
    """Nothing is computed again, so nothing else would say that the numbers are of the code of before."""
    run, asked = mine(), []
    opened = SimpleNamespace(record=SimpleNamespace(done=True, content="content"))
    monkeypatch.setattr(cycle, "open_run", lambda *_: opened)
    monkeypatch.setattr(cycle, "with_first_batch", lambda one: one)
    monkeypatch.setattr(cycle, "complete", lambda _: None)
    monkeypatch.setattr(cycle, "outside_sources", lambda *given: asked.append(given))
    with pytest.raises(StopIteration):
        next(cycle.cycle_of(run, cycle.Shared(), None))
    assert asked == [(run, "content")]


def test_one_of_the_project_s_classes_under_another_name_says_which_method_it_is():
    words = ["kernel=gp_rp", "kernel.name=GP-RP-64", "kernel.n_projections=64", "selection=max_det"]
    identity = identity_of(compose_run(words), "c")
    assert identity["kernel"] == {"name": "GP-RP-64", "like": "GP(RP)", "n_projections": 64}
    assert versions.of_method("kernel", identity["kernel"]) == versions.KERNELS["GP(RP)"]
    for more, version in (({}, 1), ({"on_deficit": "random"}, 2)):
        assert versions.of_method("selection", {"name": "Mine", "like": "MaxDet"} | more) == version


@pytest.mark.parametrize(
    ("group", "target", "name"),
    [
        ("kernel", f"{__name__}.Other", "RND"),
        ("selection", "bench.selection.lcmd.LargestClusterMaximumDistance", "MaxDet"),
    ],
)
def test_a_name_that_belongs_to_another_class_is_refused(group, target, name):
    run = replace(compose_run(["algorithm=maxdet_gp_ll"]), **{group: {"_target_": target, "name": name}})
    with pytest.raises(UserError, match=f"{group}.name = '{name}' belongs to bench") as caught:
        check(run)
    assert str(caught.value).endswith("a name of its own") and "\n" not in str(caught.value)


def test_the_record_holds_the_source_of_an_outside_class(tmp_path, caplog):
    """Its hash tells that the code has changed; a class of another name cannot go on under the same one."""
    run = mine()
    record = RunRecord.open(tmp_path, run, identity_of(run, "c"))
    sources = outside_sources(run, record.content)
    assert set(sources) == {"kernel"} and sources["kernel"]["class"] == f"{__name__}.Mine"
    assert sources["kernel"]["version"] == 3 and len(sources["kernel"]["sha256"]) == 64
    session = Session(started="", host="", cpu="", cores=1, threads=1, device="cpu", python="", sources=sources)
    record.save(sessions=[session])
    assert outside_sources(run, read_record_of(tmp_path)) == sources and not caplog.records
    changed = session.model_copy(update={"sources": {"kernel": sources["kernel"] | {"sha256": "0" * 64}}})
    record.save(sessions=[changed])
    assert outside_sources(run, read_record_of(tmp_path)) == sources
    assert "the source of" in caplog.text and "raise its version" in caplog.text
    other = {"kernel": sources["kernel"] | {"sha256": "0" * 64, "class": "elsewhere.Theirs"}}
    record.save(sessions=[session.model_copy(update={"sources": other})])
    with pytest.raises(UserError, match=r"'mine' belongs to elsewhere.Theirs in run .*a name of its own"):
        outside_sources(run, read_record_of(tmp_path))


def read_record_of(folder):
    return read_validated(folder / "record.json")
