"""Structures to label, from a pool without labels: python -m bench.select pool=frames.xyz n=50 [labelled=train.xyz]

What a word of the command line means:

  pool, n             files of structures, and how many of them to choose
  labelled            structures that have labels: a model is trained on them where the algorithm needs one;
                      with model= they stand in for those that it was trained on
  model               a finished run (its folder or model.pt), or the name of a potential to train (conf/model)
  pending, exclude    structures out for labelling, which count as covered; structures that must not be chosen
  output              where to write: selected.xyz, and beside it .json, .png and .html
  guards.…            min_distance, max_force, max_uncertainty, tolerance, per_file, per_composition
  shards              parts of a pool too large for one process, each chosen from by itself; cluster=slurm: as an array
  repeat              a .json written before: the same selection again
  algorithm=…, kernel=…, selection=…, training.…, dataset.…, seed=…   as for a run
"""

import argparse
import difflib
import hashlib
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import Quote, QuotedString
from pydantic import PositiveInt

from bench.commands import called
from bench.commands.frame import framed
from bench.config.command_line import OneLineParser, add_config_flags, files_of
from bench.config.compose import composed_once, split_cluster
from bench.config.files import ConfigFiles, parse
from bench.config.places import path_of
from bench.config.plugins import build
from bench.config.units import length_unit
from bench.data.loaded import loaded
from bench.errors import NothingLeftError, UserError, counted
from bench.pools.guards import Guards
from bench.pools.words import UNIT, configured, says_unit

if TYPE_CHECKING:
    from bench.data.structures import Structures
    from bench.learning.models import Model
    from bench.pools.frames import Frames
    from bench.pools.selecting import Batch

log = logging.getLogger(__name__)
FILES = ("pool", "labelled", "pending", "exclude")
"""The words that name files of structures."""
BESIDE = (".json", ".png", ".html")
"""What is written beside the structures."""
NEARLY = 0.7
"""How alike a word is to one of the command's own if it is a slip: no key of the configuration comes near."""


@dataclass(frozen=True)
class Asked:
    """The words that are the command's own; those of `guards` are Guards."""

    pool: str | list[str]
    n: PositiveInt
    labelled: str | list[str] | None = None
    model: str | None = None
    pending: str | list[str] | None = None
    exclude: str | list[str] | None = None
    output: str = "selected.xyz"
    shards: PositiveInt = 1
    core: bool = False
    """Said to shards: where fewer than `n` can be chosen, all of these are."""
    guards: Guards = field(default_factory=Guards)


@framed
def main() -> None:
    """Entry point; exits with 2 after a mistake in the input."""
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO, stream=sys.stderr)
    parser = OneLineParser(
        prog=called("select"), description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("words", nargs="*", metavar="KEY=VALUE", help="see above")
    add_config_flags(parser)
    arguments = parser.parse_intermixed_args()
    files, words = files_of(arguments, arguments.words)
    asked, words = split_words(_repeated(words, files), files)
    select(asked, words, files)


def split_words(words: Sequence[str], files: ConfigFiles) -> tuple[Asked, list[str]]:
    """The command's own words, and those for Hydra. Raises UserError."""
    own: dict[str, Any] = {}
    others = []
    for override in parse(words, files):
        key = override.key_or_group
        group, _, name = key.partition(".")
        if key == "model" and override.value() == "":
            raise UserError("model: an empty name (is a variable of the shell not set?): set model=RUN_FOLDER")
        is_file = key == "model" and (Path(str(override.value())).exists() or "/" in str(override.value()))
        if override.is_sweep_override():
            raise UserError(f"{override.input_line}: give one value")
        if group == "guards" and name:
            own.setdefault("guards", {})[name] = override.value()
        elif is_file or (key in Asked.__dataclass_fields__ and key not in ("model", "guards")):
            own[key] = override.value()
        else:
            _check_spelling(key)
            others.append(override.input_line or "")
    for key, what in (("pool", "pool=FILE, the structures to choose from"), ("n", "n=NUMBER, how many to choose")):
        if own.get(key) is None:
            raise UserError(f"say {what}")
    if own["pool"] == []:
        raise UserError("pool=[] names no file: say pool=FILE, the structures to choose from")
    asked: Asked = build(Asked, {key: value for key, value in own.items() if value != []}, "")
    return asked, others


def _check_spelling(key: str) -> None:
    """Refuse what is nearly one of the command's own words, such as `labeled`. Raises UserError."""
    own = [*Asked.__dataclass_fields__, "repeat"]
    close = difflib.get_close_matches(key, own, 1, NEARLY)
    if close and key not in own:
        raise UserError(f"unknown word {key!r}: did you mean {close[0]!r}?")


def _repeated(words: Sequence[str], files: ConfigFiles) -> list[str]:
    """The words of an earlier record where `repeat=` names one, with those given now in their place.

    Raises UserError if it is none, or if a file it names is not the same any more.
    """
    named = [override for override in parse(words, files) if override.key_or_group == "repeat"]
    if not named:
        return list(words)
    from bench.pools.written import sha256_of  # noqa: PLC0415 - ASE

    path = Path(str(named[0].value()))
    try:
        record = json.loads(path.read_bytes())
        before, inputs = [*map(str, record["words"])], dict(record["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"repeat={path} is no record of a selection ({type(error).__name__}): give its .json") from None
    for name, checksum in inputs.items():
        if not Path(name).exists() or sha256_of(Path(name)) != checksum:
            raise UserError(f"{name} is not the file that {path} was made from: give it as it was")
    given = [word for word in words if word != named[0].input_line]
    keys = {override.get_key_element() for override in parse(given, files)}
    same = [override for override in parse(before, files) if override.get_key_element() not in keys]
    for override in same:
        if override.key_or_group in FILES:
            now = [str(one) for one in _located(override.key_or_group, override.value())]
            new = [name for name in now if name not in inputs]
            if 0 < len(new) < len(now):  # early records name no file of some words
                raise UserError(f"{new[0]} was not there when {path} was made: give the files as they were")
    return [*(o.input_line or "" for o in same), *given]


def _located(what: str, given: Any) -> list[Path]:
    """The files that one of the command's own words names. Raises UserError."""
    from bench.data.datasets.file import located  # noqa: PLC0415 - ASE

    names = [] if given is None else [given] if isinstance(given, str) else given
    return [part.path for name in names for part in located(what, str(name), f"{what}=")]


def _check_output(output: Path, asked: Asked) -> None:
    """Refuse to replace what is read. Raises UserError."""
    read = [path for what in FILES for path in _located(what, getattr(asked, what))]
    for written in (output, *(output.with_suffix(ending) for ending in BESIDE)):
        if written.is_dir():
            raise UserError(f"output={output}: {written} is a folder: give output another name")
        if written.exists() and any(written.samefile(one) for one in read):
            raise UserError(f"output={output} would replace {written}, which is read: give output another name")


def select(asked: Asked, words: Sequence[str], files: ConfigFiles) -> None:
    """Choose, write, and say what was done; a shard of which nothing can be chosen gives no structure."""
    try:
        _select(asked, words, files)
    except NothingLeftError as error:
        if not asked.core:
            raise
        from bench.pools.written import write_record  # noqa: PLC0415 - ASE

        log.info("%s", error)
        write_record(Path(asked.output).with_suffix(".json"), {"picks": []})


def _select(asked: Asked, words: Sequence[str], files: ConfigFiles) -> None:
    of_cluster, words = split_cluster(words, files)
    if of_cluster and asked.shards == 1:
        raise UserError(f"{of_cluster[0]}: a pool of one shard is chosen from here: add shards=NUMBER")
    with_model = asked.model is not None or asked.labelled is not None
    run = configured([*_dataset(asked, words, files), *words], files, with_model=with_model)
    from bench.learning.models import of_run, trained  # noqa: PLC0415 - torch: mistakes above are told without it
    from bench.pools.embedded import remove  # noqa: PLC0415
    from bench.pools.frames import joined_structures, read_frames  # noqa: PLC0415
    from bench.pools.selecting import Known, Method, check_left, select_from  # noqa: PLC0415
    from bench.pools.written import record_of  # noqa: PLC0415
    from bench.runs.device import prepare_device  # noqa: PLC0415
    from bench.runs.record import make_folder  # noqa: PLC0415
    from bench.runs.stopping import listen  # noqa: PLC0415

    prepare_device(run)
    listen()
    output = _xyz(asked.output)
    make_folder(output.absolute().parent)
    method = Method.of(run, asked.guards)
    kernel, selection = method.kernel, method.selection
    _check_output(output, asked)
    pool = read_frames(asked.pool, "pool")
    log.info("pool: %s of %s", counted(len(pool), "structure"), counted(len(pool.files), "file"))
    pending, excluded = (
        None if given is None else joined_structures([read_frames(given, what).data])
        for what, given in (("pending", asked.pending), ("exclude", asked.exclude))
    )
    trains = asked.model is None and asked.labelled is not None and getattr(kernel, "needs_model", True)
    labelled = None if asked.labelled is None or trains else _covered(asked.labelled, run.dataset)
    known = Known(labelled, pending, excluded)
    model: "Model | None" = None
    if asked.model is not None:
        model = of_run(asked.model, run.device)
    elif trains:
        if not says_unit(words, files):
            log.info("labelled: energies are taken to be in eV, forces in eV/Å (%s, or another unit)", UNIT)
        data = loaded(run.dataset)
        if not asked.core:
            check_left(pool, asked.n, data, known)
        model = trained(run, data, kernel.members)
    frames = pool
    if asked.shards > 1:
        frames = _core(pool, _checksums(asked, pool, model), asked, words, of_cluster, files, run.results)
    batch = select_from(frames, asked.n, method, model=model, known=known, folder=Path(run.results), at_most=asked.core)
    said = {"kernel": kernel.name, "selection": selection.name, "seed": run.seed, "shards": asked.shards}
    said |= {"words": [*_own_words(asked), *words, *of_cluster], "pool_of_shards": len(pool)}
    said |= {"model": None if model is None else str(model.file)}
    record = record_of(batch, said | {"files": _checksums(asked, pool, model)})
    _write(output, batch, record)
    remove(batch.kept)
    _tell(record, output)


def _write(output: Path, batch: "Batch", record: dict[str, Any]) -> None:
    """Write structures, record and page, which is drawn before anything is written. Raises WriteError."""
    from bench.pools.page import page_of  # noqa: PLC0415
    from bench.pools.written import write_record, write_structures  # noqa: PLC0415
    from bench.runs.record import write_atomically  # noqa: PLC0415

    picture, page = page_of(batch, record)
    write_structures(output, batch)
    write_record(output.with_suffix(".json"), record)
    write_atomically(output.with_suffix(".png"), picture)
    write_atomically(output.with_suffix(".html"), page)


def _covered(given: str | list[str], dataset: Mapping[str, Any]) -> "Structures":
    """Labelled structures in Å, from the unit of length in which a model would be trained on them."""
    from bench.pools.frames import read_frames  # noqa: PLC0415 - ASE

    data, unit = read_frames(given, "labelled").data, length_unit(dataset.get("length_unit", "Å"))
    return data if unit == 1 else replace(data, positions=data.positions * unit, cells=data.cells * unit)


def _xyz(given: str) -> Path:
    """Where structures go: a name that does not say so is given the ending, so that ASE knows the format again.

    Raises UserError if there is no name.
    """
    output = path_of(given)
    if output.name in ("", "..") or given.endswith("/"):
        raise UserError(f"output={output} is a folder: name a file")
    return output if output.suffix in (".xyz", ".extxyz") else output.with_name(f"{output.name}.xyz")


def _checksums(asked: Asked, pool: "Frames", model: "Model | None") -> dict[str, str]:
    """The SHA-256 of every file that the selection was made from; a model trained for it is trained again."""
    from bench.pools.written import sha256_of  # noqa: PLC0415 - ASE

    others = [str(path) for what in FILES[1:] for path in _located(what, getattr(asked, what))]
    files = [*pool.files, *others, *([] if model is None or asked.model is None else [str(model.file)])]
    return {name: sha256_of(Path(name)) for name in files}


def _core(
    pool: "Frames",
    inputs: dict[str, str],
    asked: Asked,
    words: Sequence[str],
    of_cluster: Sequence[str],
    files: ConfigFiles,
    results: str,
) -> "Frames":
    """The core-sets that the shards of a pool give, each chosen by a process of this command.

    They are kept for the same command on the same content of its files, `inputs`: after a kill it goes on.
    """
    from bench.launch.cluster import cluster_of  # noqa: PLC0415
    from bench.launch.tasks import Task, do  # noqa: PLC0415
    from bench.pools.frames import digest  # noqa: PLC0415
    from bench.pools.shards import core_rows, core_size, write_shards  # noqa: PLC0415
    from bench.runs.locks import locked  # noqa: PLC0415
    from bench.runs.record import make_folder  # noqa: PLC0415

    size = core_size(asked.n, len(pool), asked.shards)
    of_shard = replace(
        asked, n=size, shards=1, core=True, guards=replace(asked.guards, per_file=None, per_composition=None)
    )
    said = [*_own_words(of_shard)[1:], *words, *files.words()]
    key = hashlib.sha256(
        json.dumps([digest(pool.data), sorted(inputs.items()), asked.shards, said]).encode()
    ).hexdigest()[:16]
    folder = Path(results) / "pools" / f"shards_{key}"
    make_folder(folder)
    with locked(folder / "shards.lock", wait=True, at_work="chooses from these shards"):
        places = write_shards(pool, asked.shards, folder)
        records = [folder / f"core_{number}.json" for number in range(len(places))]
        tasks = [
            Task("bench.select", [_word("pool", str(place)), *said, _word("output", str(record.with_suffix(".xyz")))])
            for place, record in zip(places, records, strict=True)
            if not record.exists()
        ]
        log.info("%d shards of %d structures: %d to choose from", len(places), len(pool), len(tasks))
        if tasks:
            do(tasks, cluster_of(of_cluster, files), folder)
    return pool.part(core_rows(records, len(pool)))


def _dataset(asked: Asked, words: Sequence[str], files: ConfigFiles) -> list[str]:
    """The labelled files as the path of the dataset. Raises UserError if the words name another."""
    for override in parse(words, files):
        line, key = override.input_line or "", override.key_or_group
        others = key == "dataset" and asked.labelled and "path" not in composed_once(files, (line,)).values["dataset"]
        if others or key == "dataset.path":
            raise UserError(f"labelled= names the files of labelled structures: leave {line} out")
    if asked.labelled is None:
        return []
    given = [asked.labelled] if isinstance(asked.labelled, str) else asked.labelled
    return [_word("dataset.path", given)]


def _word(key: str, value: Any) -> str:
    """A word of the command line that says a value, whatever letters are in it: quoted as Hydra reads it."""

    def said(one: Any) -> str:
        return QuotedString(one, Quote.double).with_quotes() if isinstance(one, str) else str(one)

    return f"{key}=[{', '.join(map(said, value))}]" if isinstance(value, list) else f"{key}={said(value)}"


def _own_words(asked: Asked) -> list[str]:
    """The command's own words again."""
    words = []
    for key in ("pool", "n", "labelled", "model", "pending", "exclude", "shards"):
        value = getattr(asked, key)
        if value is not None and (key, value) != ("shards", 1):
            words.append(_word(key, value))
    words += ["core=true"] if asked.core else []
    usual = Guards()
    changed = {key: value for key, value in vars(asked.guards).items() if value != getattr(usual, key)}
    return [*words, *(f"guards.{key}={value}" for key, value in changed.items())]


def _tell(record: dict[str, Any], output: Path) -> None:
    counts, covers = record["structures"], record["coverage"]
    rejected = ", ".join(f"{count} {why}" for why, count in counts["rejected"].items())
    print(
        f"{len(record['picks'])} of {counts['pool']} structures by {record['selection']} + {record['kernel']}:"
        f" {output}, {output.with_suffix('.json')}, {output.with_suffix('.html')}"
    )
    if rejected:
        print(f"kept out: {rejected}")
    if covers and covers["mean_squared_distance"][0] is not None:
        before, after = covers["mean_squared_distance"][0], covers["mean_squared_distance"][-1]
        further = record["coverage_with_the_next_batch"]
        more = f", with as many again to {further['mean_squared_distance']:.4g}" if further else ""
        fall = f" ({100 * (after / before - 1):+.0f} %)" if before else ""
        print(
            "how far the pool is from what is labelled (mean squared distance of a structure from the nearest, in"
            f" feature space): from {before:.4g} to {after:.4g} with these{fall}{more}"
        )


if __name__ == "__main__":
    main()
