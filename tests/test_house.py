"""The house rules: lint, format, types and the direction of imports; no torch in analysis."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent


@pytest.mark.parametrize("tool", ["ruff check .", "ruff format --check .", "mypy", "lint-imports --no-cache"])
def test_house_rules(tool):
    name, *arguments = tool.split()
    done = subprocess.run([BIN / name, *arguments], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_analysis_needs_no_torch():
    code = "import sys, analysis.build, analysis.plan; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_ladder_in_the_architecture_page_is_that_of_the_imports():
    contracts = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    expected = [set(layer.split(" : ")) for layer in contracts[0]["layers"]]
    lines = (PROJECT / "ARCHITECTURE.md").read_text(encoding="utf-8").splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("    select >"))
    ladder = " ".join(lines[first : lines.index("", first)])
    assert [set(layer.split(", ")) for layer in map(str.strip, ladder.split(">"))] == expected
