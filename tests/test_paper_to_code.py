"""The map from the paper to the code names only what exists, and leaves nothing out."""

import ast
import functools
import importlib
import re

import pytest
from conftest import PROJECT

PAGE = (PROJECT / "docs" / "paper_to_code.md").read_text(encoding="utf-8")
NAMES = sorted({name for name in re.findall(r"`([^`\n]+)`", PAGE) if not name.startswith("bmdal-bench")})
OBJECTS = [name for name in NAMES if re.fullmatch(r"(bench|analysis)(\.\w+)+", name)]
TESTS = [name for name in NAMES if "::" in name]
FILES = [name for name in NAMES if name not in OBJECTS and name not in TESTS and name != "conf/algorithm"]


def equations(text):
    return {int(number) for number in re.findall(r"\((\d+)\)", text)}


def test_every_equation_has_a_row():
    rows = re.findall(r"^- \*\*Eqs?\. ([^*]*)\*\*", PAGE, re.MULTILINE)
    found = [number for row in rows for number in sorted(equations(row))]
    assert found == list(range(1, 32)), "in the paper's order, none twice"


@pytest.mark.parametrize("name", OBJECTS)
def test_objects_exist(name):
    """The longest prefix that is a module, then attribute by attribute."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[end:]:
            found = getattr(found, attribute)
        assert end < len(parts), "names an object, not a module"
        return
    pytest.fail(f"{name} is no module")


@functools.cache
def functions(path):
    tree = ast.parse((PROJECT / path).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("name", TESTS)
def test_tests_exist(name):
    path, function = name.split("::")
    assert function in functions(path)


def test_files_exist():
    assert [name for name in FILES if not (PROJECT / name).is_file()] == []


@pytest.mark.parametrize("group", ["algorithm", "selection", "kernel", "scenario"])
def test_all_of_the_paper_s_configuration_is_named(group):
    """What is not the paper's: the demo, one's own data, one training, other potentials, kernels without training."""
    others = {"demo", "own", "single_training", "potentials_10_100", "tio2_10_100"}
    others |= {"descriptor", "chgnet", "chgnet_rp", "sevennet", "sevennet_rp", "soap"}
    pattern = r"\(algorithms/(?!index)(\w+)\.md\)" if group == "algorithm" else rf"conf/{group}/(\w+)\.yaml"
    named = set(re.findall(pattern, PAGE))
    assert named == {path.stem for path in (PROJECT / "conf" / group).glob("*.yaml")} - others


def test_all_figures_of_the_paper_are_named():
    assert set(re.findall(r"conf/sweep/(figure_\d+)", PAGE)) == {f"figure_{number}" for number in range(2, 12)}


def test_the_code_names_no_equation_that_does_not_exist():
    """Numbers in the docstrings of bench are those of the paper."""
    for path in (PROJECT / "bench").rglob("*.py"):
        for text in re.findall(r"Eqs?\. \(?(\d+)", path.read_text(encoding="utf-8")):
            assert 1 <= int(text) <= 31, path
