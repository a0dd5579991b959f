"""constraints.txt as `make lock` writes it: every line one version, for any index, and all that is asked for."""

import tomllib

from conftest import PROJECT
from packaging.requirements import Requirement

LINES = [line for line in (PROJECT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
PROJECT_TABLE = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]


def test_every_line_is_a_version():
    """`pip` refuses a file with a line that it cannot read; a local version or an address would bind it to an index."""
    for line in LINES:
        requirement = Requirement(line)
        (specifier,) = requirement.specifier
        assert specifier.operator == "==" and "*" not in specifier.version and "+" not in specifier.version, line
        assert requirement.url is None and not requirement.extras, line


def test_all_that_is_asked_for_has_a_version_within_its_range():
    extras = PROJECT_TABLE["optional-dependencies"]
    tests = [one for one in extras["test"] if one != f"{PROJECT_TABLE['name']}[docs]"]
    asked = [*PROJECT_TABLE["dependencies"], *tests, *extras["docs"]]
    pinned = [Requirement(line) for line in LINES]
    for requirement in map(Requirement, asked):
        (version,) = [one for one in pinned if one.name == requirement.name]
        assert version.marker is None, f"{version}: tested everywhere"
        assert all(requirement.specifier.contains(pin.version) for pin in version.specifier)
