"""The README is short, its links lead somewhere, and its commands are words that the commands take."""

import re
import shlex

import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from conftest import PROJECT

from bench.commands import COMMANDS
from bench.completion import FLAGS
from bench.config.command_line import HydraLine
from bench.config.compose import compose_run, split_cluster
from bench.config.files import parse, values_of
from bench.config.sweep import expand

PAGES = ["README.md", "docs/guide.md", "results/reference/README.md", "results/reference/perf/README.md"]
TEXT = (PROJECT / "README.md").read_text()
LINES = [line.split("  #")[0].strip() for line in TEXT.splitlines() if line.startswith("    bmdal-bench ")]


def test_it_is_short():
    assert len(TEXT.split()) <= 1200


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    path = PROJECT / page
    for link in re.findall(r"\]\(([^)#]*)(#[^)]*)?\)", path.read_text()):
        if not link[0].startswith("http"):
            target = path.parent / link[0] if link[0] else path
            assert target.exists(), link
            if link[1]:
                titles = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
                assert link[1][1:] in {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}


@pytest.fixture
def frames(tmp_path, monkeypatch):
    """A working folder with the reader's own structures."""
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    water = [molecule("H2O") for _ in range(30)]
    for atoms in water:
        atoms.positions += 0.05 * generator.normal(size=(3, 3))
        forces = 0.1 * generator.normal(size=(3, 3))
        atoms.calc = SinglePointCalculator(atoms, energy=float(generator.normal()), forces=forces)
    write("frames.xyz", water)


@pytest.mark.parametrize("line", LINES)
def test_commands_are_right(line, frames):
    """Every flag exists; what a run or a sweep is told composes (kernels of one's own in a test of `--config-dir`)."""
    command, *words = shlex.split(line)[1:]
    if command == "--help":
        return
    assert command in COMMANDS
    flags = [word for word in words if word.startswith("--")]
    assert set(flags) <= {*FLAGS[command]}
    given = [word for word in words if "=" in word]
    if command == "run" and "--config-dir" not in words:
        overrides = parse(HydraLine([word for word in words if word not in flags]).words)
        assert compose_run([values_of(override)[0] for override in overrides])
    elif command in ("launch", "plan") and given:
        assert expand(split_cluster(given)[1])
