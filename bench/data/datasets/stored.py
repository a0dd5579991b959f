"""A published dataset: declared in a yaml, prepared once by `python -m bench.data prepare`, opened memory-mapped."""

import logging
from dataclasses import dataclass, field

from bench.data.convert import Plausible
from bench.data.download import Download
from bench.data.store import open_store
from bench.data.structures import Structures
from bench.errors import UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class StoredDataset:
    """What is known of a published dataset.

    `structures` is how many were published, and `checksum` that of their content (`Structures.published_checksum`),
    null where they could not be had. `energy_unit` and `length_unit` hold where the source's own names do not say the
    unit. `reference_energies` (eV per atomic number) are subtracted before anything is learned. `sources` are
    alternatives, tried in order, each a list of things to fetch; `pattern` is the path of this dataset in an archive of
    several. `remarks` are oddities that `verify` prints. `licence`, `citation` and `page` are for the reader.
    """

    name: str
    structures: int
    checksum: str | None = None
    energy_unit: str
    length_unit: str
    reference_energies: dict[int, float]
    plausible: Plausible
    sources: list[list[Download]] = field(default_factory=list)
    pattern: str | None = None
    remarks: list[str] = field(default_factory=list)
    licence: str
    citation: str
    page: str

    def load(self) -> Structures:
        """Open the store. Raises UserError if it is missing, damaged or was prepared with other units."""
        data, meta = open_store(self.name, self.reference_energies)
        for key in ("energy_unit", "length_unit"):
            if meta[key] != getattr(self, key):
                raise UserError(
                    f"dataset {self.name} was prepared with {key} = {meta[key]}, not {getattr(self, key)}:"
                    f" python -m bench.data prepare {self.name} [--from PATH]"
                )
        if len(data) < self.structures:
            log.info("note: dataset %s holds %d of the published %d structures", self.name, len(data), self.structures)
        return data
