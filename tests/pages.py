"""The blocks of the pages: which there are, whether their words are right, and how they are run.

A comment before a block says how it is run:

    <!-- run: fast -->                as it stands by `make test`, too
    <!-- run: fast with WORDS -->     by `make test` with these words added to each run, launch and selection
    <!-- run: with WORDS -->          by `make test-long` with these words added, since as it stands it takes hours
    <!-- run: never, REASON -->       by nobody, for one of the REASONS

All but the last two are run by `make test-long` as they stand, in the order of the page, in a fresh clone. A block
whose first line (after Hydra's own) is a comment with a file's name is written to it, and run if a comment says so.
"""

import ast
import contextlib
import importlib.util
import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml
from conftest import PROJECT

from bench.commands import COMMANDS
from bench.completion import FLAGS
from bench.config.command_line import HydraLine
from bench.config.compose import compose_run, split_cluster
from bench.config.files import PROJECT_FILES, parse, values_of
from bench.config.sweep import expand
from bench.launch.cluster import cluster_of
from bench.pools.words import configured
from bench.select import split_words

REASONS = {
    "slurm": "needs SLURM",
    "internet": "needs the internet",
    "set-up": "makes the environment in which the tests are",
    "this test": "would run this test",
    "days": "takes days",
    "another shell": "is for a shell that may not be here",
    "other data": "needs data that are not here",
    "extra": "needs an extra that the tests are without",
}
WORDS = {
    "tiny": "scenario.initial=2 scenario.final=4 scenario.pool=12 scenario.validation=4 scenario.test=6 batch_size=2"
    " training.epochs=2 training.validation_checks=1 training.minibatch=2 threads=1 final_kernels=[]",
    "small": "model.hidden=[8,8] model.n_radial=2",
}
"""Words that have a name in the comments."""
PAGES = sorted(
    str(path.relative_to(PROJECT))
    for pattern in ("*.md", "docs/**/*.md", "results/reference/README.md", "results/reference/perf/README.md")
    for path in PROJECT.glob(pattern)
)
SHELL = {"source", "eval", "cd", "cp", "mkdir", "ls", "pip", "git", "pre-commit"}
"""What else a shell block may call."""
MARK = r"(?:<!-- run: (?P<run>[^\n]*?) -->\n\n?)?"
BLOCK = re.compile(
    r"^" + MARK + r"(?P<indent> *)(?P<fence>```+)(?P<language>[^\n]*)\n(?P<text>.*?)^ *(?P=fence)$",
    re.MULTILINE | re.DOTALL,
)
INDENTED = re.compile(r"(?<=\n\n)" + MARK + r"(?P<text>(?:    [^\n]*\n|\n(?=    ))+)")
FILE = re.compile(r"(?:# @package [^\n]*\n)?# ([\w./-]+\.(?:py|yaml|toml|mplstyle|csv))\n")


@dataclass(frozen=True)
class Block:
    """A block of a page."""

    page: str
    line: int
    language: str
    text: str
    run: str | None = None

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def never(self) -> str | None:
        """Why it is not run."""
        return self.run.removeprefix("never, ") if self.run and self.run.startswith("never") else None

    @property
    def fast(self) -> bool:
        return self.run is not None and self.run.split(" ")[0] == "fast"

    def words(self, *, fast: bool) -> str:
        """What is added to a command."""
        how, _, added = (self.run or "").partition("with ")
        if fast != (how.strip() == "fast"):
            return ""
        return " ".join(WORDS.get(word, word) for word in added.replace(", ", " ").split())

    @property
    def file(self) -> str | None:
        """The file that it is the content of."""
        found = FILE.match(self.text)
        return found[1] if found else None


def blocks(page: str) -> list[Block]:
    """All blocks of a page, but directives of the site, which Sphinx looks at."""
    text = (PROJECT / page).read_text(encoding="utf-8")
    found = [
        Block(
            page,
            text[: one.start("fence")].count("\n") + 1,
            one["language"].strip(),
            _dedented(one["text"]),
            one["run"],
        )
        for one in BLOCK.finditer(text)
    ]
    outside = BLOCK.sub(lambda one: re.sub(r"[^\n]", "x", one[0]), text)
    for one in INDENTED.finditer(outside):
        content = _dedented(one["text"]).rstrip("\n") + "\n"
        found.append(Block(page, text[: one.start("text")].count("\n") + 1, _language(content), content, one["run"]))
    return [block for block in sorted(found, key=lambda block: block.line) if not block.language.startswith("{")]


def _dedented(text: str) -> str:
    lines = text.split("\n")
    least = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    return "\n".join(line[least:] for line in lines)


def _language(text: str) -> str:
    """What an indented block is."""
    if re.match(r"(bmdal-bench|python|make|source|pip|git) ", text):
        return "bash"
    if re.match(r"(from|import) ", text):
        return "python"
    return "yaml" if re.match(r"[\w_]+:", text) else "text"


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command of a shell block."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words:
            yield words


def with_words(text: str, added: str) -> str:
    """A shell block with these words added to each command that computes."""
    lines = [re.split(r"\s+#\s", line)[0].rstrip() for line in text.replace("\\\n", " ").splitlines()]
    computes = re.compile(r"(bmdal-bench (run|launch|select)|python (?!-m (analysis|bench\.(data|merge))))\b")
    return "\n".join(f"{line} {_quoted(added)}" if added and computes.match(line) else line for line in lines)


def _quoted(added: str) -> str:
    return " ".join(shlex.quote(word) for word in added.split())


def check(block: Block) -> None:
    """Whether a block is what it says: commands exist and compose, Python compiles and imports, yaml is read."""
    if block.never is not None:
        assert block.never in REASONS, f"{block.where}: no reason: {block.never}"
    if block.language == "bash":
        for words in commands(block.text):
            check_command(words)
    elif block.language == "python":
        _check_python(block)
    elif block.language == "yaml":
        yaml.safe_load(block.text)
    elif block.language == "toml":
        tomllib.loads(block.text)
    else:
        assert block.language == "text", f"{block.where}: say what it is: bash, python, yaml, toml or text"


def _check_python(block: Block) -> None:
    for node in ast.walk(ast.parse(block.text, block.where)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in ("bench", "analysis"):
            module = importlib.import_module(node.module)
            for alias in node.names:
                spec = importlib.util.find_spec(f"{node.module}.{alias.name}") if hasattr(module, "__path__") else None
                assert hasattr(module, alias.name) or spec, f"{block.where}: {node.module} has no {alias.name}"


def check_command(words: list[str]) -> None:
    """Every flag exists; what a run, a sweep or a selection is told composes."""
    program, *rest = words
    if program == "python" and rest[:1] == ["-m"]:
        by_module = {command.python_m: name for name, command in COMMANDS.items()}
        if rest[1] not in by_module:
            assert importlib.util.find_spec(rest[1]), f"no module is called {rest[1]}"
            return
        program, rest = "bmdal-bench", [by_module[rest[1]], *rest[2:]]
    if program == "bmdal-bench":
        _check_ours(*rest)
    elif program == "make":
        targets = re.findall(r"^([\w-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE)
        assert all("=" in word or word in targets for word in rest), f"no such target: {words}"
    elif program == "python":
        assert rest[0].endswith(".py")
    else:
        assert program in SHELL, f"{program}: not among the programs that pages use"


def _check_ours(command: str, *words: str) -> None:
    if command == "--help":
        return
    words = tuple(words[: words.index("|")]) if "|" in words else words
    assert command in COMMANDS, f"no command is called {command}"
    flags = [word for word in words if word.startswith("-")]
    known = {*FLAGS[command], "-m", "-sc", "-c"}
    assert set(flags) <= known, f"no such flags of {command}: {set(flags) - known}"
    given = [word for word in words if "=" in word and not word.startswith("install=")]
    if "--config-dir" in words:
        return  # the folder is made by the page: such blocks are run
    if command == "run":
        overrides = parse(HydraLine([word for word in words if word not in flags]).words)
        own = [override for override in overrides if not (override.key_or_group or "").startswith("hydra")]
        assert compose_run([values_of(override)[0] for override in own if not override.is_sweep_override()])
    elif command in ("launch", "plan") and given:
        named = any(word.startswith("sweep=") for word in given)
        of_cluster, own = split_cluster(given if named or command == "launch" else ["sweep=paper", *given])
        if command == "launch":
            cluster_of(of_cluster)
        assert expand(own)
    elif command == "select":
        asked, others = split_words(given, PROJECT_FILES)
        configured(split_cluster(others)[1], with_model=asked.model is not None or asked.labelled is not None)


def data_files(folder: Path) -> None:
    """The reader's own structures, as the pages call them: what a page makes by itself replaces them."""
    import ase
    import ase.io
    import numpy as np
    from ase.calculators.singlepoint import SinglePointCalculator

    raw = dict(np.load(PROJECT / "bench/data/embedded/rmd17_aspirin_4019.npz"))

    def aspirin(row: int, *, labels: bool = True) -> ase.Atoms:
        atoms = ase.Atoms(raw["Z"], raw["R"][row].astype(float))
        if labels:
            forces = raw["F_eV_A"][row].astype(float)
            atoms.calc = SinglePointCalculator(atoms, energy=float(raw["E_eV"][row]), forces=forces)
        return atoms

    ase.io.write(folder / "frames.xyz", [aspirin(row, labels=row < 200) for row in range(200)])
    ase.io.write(folder / "train.xyz", [aspirin(row) for row in range(1000, 1040)])
    ase.io.write(folder / "aspirin.xyz", aspirin(2000))
    (program,) = (block for block in blocks("docs/own/data.md") if block.file == "make_aspirin.py")
    with contextlib.chdir(folder):
        exec(compile(program.text, program.where, "exec"), {})
