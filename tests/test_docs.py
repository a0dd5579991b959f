"""The pages: the site builds, links lead somewhere, and what is shown is run."""

import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from conftest import PROJECT, subprocess_environment
from pages import PAGES, Block, blocks, check, data_files, with_words

BIN = Path(sys.executable).parent
BLOCKS = {page: found for page in PAGES if (found := blocks(page))}
RUN = "results/runs/NAME"
"""A finished run on the pages."""


def test_the_readme_is_short():
    assert len((PROJECT / "README.md").read_text(encoding="utf-8").split()) <= 700


def slugs(page: Path) -> set[str]:
    """The anchors of a page as a forge names them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    titles = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title) for title in re.findall(r"^#+ (.*)$", text, re.MULTILINE)]
    return {re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES)
def test_links_between_the_pages_lead_somewhere(page):
    """As they stand, on a forge; the next test follows them in the site."""
    path = PROJECT / page
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for link, anchor in re.findall(r"\]\(([^)#\s]*)(#[^)\s]*)?\)", re.sub(r"`[^`\n]*`", "", text)):
        if not urlsplit(link).scheme:
            target = path.parent / link if link else path
            assert target.exists(), link
            assert not anchor or anchor[1:] in slugs(target), link + anchor
    assert all(alt for alt in re.findall(r"!\[([^]]*)\]", text)), "a picture without a text in its place"


class _Page(HTMLParser):
    """The links and the anchors of a page of the site."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.links |= {given[name] for name in ("href", "src") if given.get(name)}
        self.anchors |= {given["id"]} if given.get("id") else set()


def test_the_site_builds_without_a_warning_and_its_links_lead_somewhere(tmp_path):
    site = tmp_path / "site"
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-c", "docs", "-d", tmp_path / "kept", "."]
    done = subprocess.run([*command, site], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pages = {path: _Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    broken = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or not link.strip("#"):
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchored = target not in pages or not parts.fragment or unquote(parts.fragment) in pages[target].anchors
            if not target.exists() or not anchored:
                broken.append(f"{path.relative_to(site)}: {link}")
    assert not broken


@pytest.fixture(scope="module")
def own_data(tmp_path_factory):
    """The reader's own structures."""
    data_files(folder := tmp_path_factory.mktemp("data"))
    return folder


@pytest.fixture
def folder(own_data, tmp_path, monkeypatch):
    """A working folder with the reader's own structures, in a checkout."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(own_data, tmp_path, dirs_exist_ok=True)
    for name in ("examples", "conf", "results/reference"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(PROJECT / name)
    return tmp_path


@pytest.mark.parametrize("page", BLOCKS)
def test_blocks_are_right(page, folder):
    """Commands exist and compose, Python imports what there is, yaml is yaml, and what is not run says why."""
    for block in BLOCKS[page]:
        check(block)


@pytest.mark.parametrize("page", [page for page, found in BLOCKS.items() if any(block.fast for block in found)])
def test_short_blocks_run(page, folder):
    do_all(page, folder, fast=True)


@pytest.mark.long
@pytest.mark.parametrize("page", BLOCKS)
def test_all_blocks_run(page, own_data, tmp_path):
    """In a fresh clone, with the environment of these tests."""
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", PROJECT, clone], check=True)
    (clone / ".venv").symlink_to(BIN.parent)
    shutil.copytree(own_data, clone, dirs_exist_ok=True)
    do_all(page, clone, fast=False)


def do_all(page: str, folder: Path, *, fast: bool) -> None:
    """Write the files of a page and run its blocks, in their order."""
    before = ""
    for block in BLOCKS[page]:
        if block.file:
            path = folder / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
        runs = block.fast if fast or block.file else block.never is None
        if runs and block.language in ("bash", "python"):
            do(block, folder, before, fast=fast)
            if block.language == "python" and not block.file:
                before += block.text


def do(block: Block, folder: Path, before: str, *, fast: bool) -> None:
    """Run a block; Python goes on from the blocks before it."""
    text = with_a_run(block.text, folder)
    if block.language == "python":
        command = [sys.executable, "-c", with_a_run(before, folder) + text]
    else:
        made = f'make() {{ command make VENV={BIN.parent} READY=/dev/null "$@"; }}\n'
        command = ["bash", "-euo", "pipefail", "-c", made + with_words(text, block.words(fast=fast))]
    called(folder, command, block.where)


def called(folder: Path, command: list[str], what: str) -> None:
    """Run a command that must not fail."""
    environment = subprocess_environment() | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    if (folder / "bench").is_dir():
        environment["PYTHONPATH"] = str(folder)
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{what}: {done.stdout[-2000:]}{done.stderr[-2000:]}"


def with_a_run(text: str, folder: Path) -> str:
    """The run that a page names, or draws, is one that the page has made, or a quick one."""
    if RUN not in text and not text.startswith("bmdal-bench build\n"):
        return text
    if not (folder / "results/runs").is_dir():
        words = ["scenario=demo", "scenario.final=20", "training.epochs=20", "model.hidden=[16,16]"]
        called(folder, [sys.executable, "-m", "bench.run", "algorithm=lcmd_feat_ll", *words], "a run")
    return text.replace(RUN, f"results/runs/{next((folder / 'results/runs').iterdir()).name}")
