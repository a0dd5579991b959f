"""What a forge and its readers look for: citation, contributing, changelog, templates, hooks; all of it true."""

import re
import shlex
import tomllib

import pytest
import yaml
from conftest import PROJECT
from test_house import test_house_rules as house_rules

from bench.config import versions
from bench.data.store import STORE_VERSION
from bench.runs.record_schema import SCHEMA_VERSION

CHANGES = (PROJECT / "CHANGELOG.md").read_text(encoding="utf-8")
DOI = "10.1039/D2DD00034B"


def read(name):
    return (PROJECT / name).read_text(encoding="utf-8")


def test_citation_has_what_its_form_asks_for():
    """The required keys of CFF 1.2.0, of the project and of each reference; licence as in pyproject.toml."""
    cited = yaml.safe_load(read("CITATION.cff"))
    assert cited["cff-version"] == "1.2.0" and cited["type"] == "software" and cited["message"]
    project = tomllib.loads(read("pyproject.toml"))["project"]
    assert cited["title"] == project["name"] and cited["license"] == project["license"]
    paper, *others = cited["references"]
    for reference in (paper, *others):
        assert {"type", "title", "authors"} <= set(reference)
        assert all({"family-names", "given-names"} == set(author) for author in reference["authors"])
    assert paper["doi"] == DOI and paper["license"] == "CC-BY-3.0" and len(paper["authors"]) == 4
    assert cited["authors"] and "version" not in cited, "the version is the tag's"


def test_contributing_fits_on_a_screen_and_names_what_exists():
    text = read("CONTRIBUTING.md")
    assert len(text.splitlines()) <= 50 and max(map(len, text.splitlines())) <= 160
    for link in re.findall(r"\]\(([^)#]+)", text):
        assert (PROJECT / link).exists(), link
    targets = re.findall(r"^([a-z-]+):.*##", read("Makefile"), re.MULTILINE)
    assert set(re.findall(r"make ([a-z-]+)", text)) <= set(targets)
    for place in re.findall(r"`((?:bench|tests|conf|docs|results)/[\w/.]*)`", text):
        assert (PROJECT / place).exists(), place


def test_hooks_are_the_tests_checks_and_fetch_nothing():
    tools = next(mark.args[1] for mark in house_rules.pytestmark if mark.name == "parametrize")
    (repository,) = yaml.safe_load(read(".pre-commit-config.yaml"))["repos"]
    assert repository["repo"] == "local"
    assert [hook["entry"] for hook in repository["hooks"]] == list(tools)
    assert all(hook["language"] == "system" and not hook["pass_filenames"] for hook in repository["hooks"])


@pytest.mark.parametrize("path", sorted((PROJECT / ".github" / "ISSUE_TEMPLATE").glob("*.md")), ids=lambda p: p.stem)
def test_issue_templates_have_a_head(path):
    head = yaml.safe_load(path.read_text(encoding="utf-8").split("---")[1])
    assert head["name"] and head["about"] and head["labels"]


def test_commands_in_templates_exist():
    """Modules and subcommands that a reader is told to run."""
    from bench.commands import COMMANDS

    texts = [path.read_text(encoding="utf-8") for path in (PROJECT / ".github").rglob("*.md")] + [
        read("CONTRIBUTING.md")
    ]
    for command in re.findall(r"`((?:bmdal-bench|python -m) [^`]+)`", "\n".join(texts)):
        words = shlex.split(command)
        if words[0] == "bmdal-bench":
            assert words[1] in COMMANDS
        else:
            assert (PROJECT / (words[2].replace(".", "/") + ".py")).is_file()


def table(after):
    """The rows of the first table after a line."""
    lines = CHANGES[CHANGES.index(after) :].splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[first:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows[2:]


def test_changelog_is_in_the_form_of_keep_a_changelog():
    heads = re.findall(r"^## (.*)$", CHANGES, re.MULTILINE)
    assert heads[:2] == ["What versions mean", "[Unreleased]"]
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", head) for head in heads[2:])
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    for release in CHANGES.split("\n## ")[2:]:
        found = re.findall(r"^### (.*)$", release, re.MULTILINE)
        assert set(found) <= kinds and len(set(found)) == len(found)


def test_changelog_tells_every_version_of_today():
    """The last number told of each part is that of the code."""
    told = {name: int(number) for name, number, *_ in table("Each of them so far:")}
    today = {"data": versions.DATA, "engine": versions.ENGINE, "record": SCHEMA_VERSION, "store": STORE_VERSION}
    assert {name: told[name] for name in today} == today
    assert told["GM-NN"] == versions.MODELS["GM-NN"]
    for group, name in (("kernel", "kernels"), ("selection", "selections")):
        own = {key: told.get(key, told[name]) for key in versions.METHODS[group]}
        assert own == versions.METHODS[group]


@pytest.mark.parametrize(
    "name", ["analysis/paper/reference/README.md", "results/reference/README.md", "docs/benchmark/index.md"]
)
def test_the_paper_s_numbers_name_the_paper_and_its_licence(name):
    text = read(name)
    assert DOI in text and "CC BY 3.0" in text and "Zaverkin" in text
