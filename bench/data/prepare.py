"""From a published source to the store: fetch, read, convert, check, write; nothing half-done is left behind."""

import contextlib
import hashlib
import logging
from pathlib import Path
from typing import Any

import numpy as np

from bench.data.convert import check_plausible, to_structures
from bench.data.datasets.stored import StoredDataset
from bench.data.download import fetch
from bench.data.neighbours import shortest_distances
from bench.data.read import read_source
from bench.data.store import DATA_FOLDER_VARIABLE, data_folder, write_store
from bench.data.structures import Structures
from bench.errors import UserError
from bench.runs.locks import locked

log = logging.getLogger(__name__)


def prepare(declared: StoredDataset, source: Path | None, rows: tuple[int, int] | None = None) -> dict[str, Any]:
    """Write the store of a dataset from a local source, or from what is fetched; return its meta.json.

    Of the source's structures those of `rows` (start, stop), or all. Raises UserError; then the store is as it was.
    """
    folder = data_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / f".{declared.name}.lock", wait=True, at_work="prepares this dataset"):
            trusted = True
            if source is None:
                source, trusted = _fetched(declared)
            return _prepare(declared, source, rows, trusted=trusted)
    except OSError as error:
        raise UserError(
            f"cannot write to {folder} ({error.strerror or error}): make room there,"
            f" or set {DATA_FOLDER_VARIABLE} to another folder"
        ) from None


def _prepare(declared: StoredDataset, source: Path, rows: tuple[int, int] | None, *, trusted: bool) -> dict[str, Any]:
    raw = read_source(source, declared.pattern)
    if len(raw.energies) > declared.structures:
        raise UserError(
            f"{source} holds {len(raw.energies)} structures, but {declared.name} has {declared.structures}:"
            " is this that dataset?"
        )
    units = declared.energy_unit, declared.length_unit
    data = to_structures(declared.name, raw, units, declared.reference_energies)
    if declared.checksum is not None and (len(data) == declared.structures or not trusted):
        _check_published(declared, data, trusted=trusted)
    if rows is not None:
        raw = raw.part(*rows)
        data = to_structures(declared.name, raw, units, declared.reference_energies)
    everyone = np.arange(len(data))
    plausible = declared.plausible
    shortest = shortest_distances(data, everyone, plausible.distances[1])
    check_plausible(data, plausible, raw.labels, everyone, shortest)
    facts = {
        "published_structures": declared.structures,
        "energy_unit": declared.energy_unit,
        "length_unit": declared.length_unit,
        "energy_unit_of_source": raw.energy_unit or declared.energy_unit,
        "source": str(source),
        "source_sha256": _checksums(source),
        "rows_of_source": rows,
    }
    return write_store(data, raw.labels, facts)


def _check_published(declared: StoredDataset, data: Structures, *, trusted: bool) -> None:
    """Compare with the checksum of the published content, where that is known: what nothing else vouches for needs it.

    Raises UserError.
    """
    found = data.published_checksum
    if found == declared.checksum:
        return
    message = f"the content has checksum {found[:12]}…, that of {declared.name} is {str(declared.checksum)[:12]}…"
    if not trusted:
        raise UserError(f"{message}: it was altered, on the way or where it is published; --from PATH takes it anyway")
    log.warning("note: %s: it is not what was published, or in another order", message)


def _fetched(declared: StoredDataset) -> tuple[Path, bool]:
    """Fetch the first source that can be had, and say whether a checksum of its own vouches for it.

    The files stay, so that a second attempt need not fetch them again.
    """
    for number, downloads in enumerate(declared.sources, start=1):
        folder = data_folder() / "downloads" / f"{declared.name}-{number}"
        log.info("fetching %s", ", ".join(d.url or f"package {d.package}" for d in downloads))
        try:
            fetch(downloads, folder, content_is_checked=declared.checksum is not None)
        except UserError as error:
            with contextlib.suppress(OSError):
                folder.rmdir()
            if number == len(declared.sources):
                raise UserError(f"{error}: fetch it elsewhere ({declared.page}) and give --from PATH") from None
            log.info("note: %s: trying the next address", error)
        else:
            return folder, all(download.checksum for download in downloads)
    raise UserError(
        f"dataset {declared.name} has no address to fetch it from: get it from {declared.page} and give --from PATH"
    )


def _checksums(source: Path) -> dict[str, str]:
    """SHA-256 of the files of a source; of many files in one folder, one over their names and checksums."""
    files = sorted(path for path in source.rglob("*") if path.is_file()) if source.is_dir() else [source]
    found = {}
    for path in files:
        with path.open("rb") as file:
            found[path.name if path == source else path.relative_to(source).as_posix()] = hashlib.file_digest(
                file, "sha256"
            ).hexdigest()
    if len(found) > 20:
        lines = "".join(f"{checksum}  {name}\n" for name, checksum in found.items())
        return {f"{len(found)} files": hashlib.sha256(lines.encode()).hexdigest()}
    return found
