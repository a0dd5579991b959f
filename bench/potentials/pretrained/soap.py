"""SOAP averaged over the atoms of a structure: the fixed descriptor that people know, by dscribe (Apache).

A. P. Bartók, R. Kondor, G. Csányi, Phys. Rev. B 2013, 87, 184115.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
from ase import Atoms
from jaxtyping import Float
from pydantic import PositiveFloat, PositiveInt

from bench.data.structures import Structures
from bench.potentials.describer import check_installed

NAME = "SOAP"


@dataclass(frozen=True)
class Soap:
    """Cutoff in Å, radial functions, largest l, and the width of an atom's Gaussian in Å."""

    r_cut: PositiveFloat = 5.0
    n_max: PositiveInt = 8
    l_max: PositiveInt = 6
    sigma: PositiveFloat = 0.5

    def content(self) -> str:
        """See `bench.potentials.describer.Describer`."""
        return f"{self} of dscribe {version('dscribe')}"

    def check(self, data: Structures) -> None:
        """See `bench.potentials.describer.Describer`."""
        check_installed("dscribe", NAME, "soap")

    def describe(
        self, structures: Sequence[Atoms], species: tuple[int, ...]
    ) -> Float[np.ndarray, "structures features"]:
        """See `bench.potentials.describer.Describer`."""
        from dscribe.descriptors import SOAP  # noqa: PLC0415 - optional, seconds

        made = {
            periodic: SOAP(
                species=list(species),
                r_cut=self.r_cut,
                n_max=self.n_max,
                l_max=self.l_max,
                sigma=self.sigma,
                average="outer",
                periodic=periodic,
            )
            for periodic in {bool(one.pbc.any()) for one in structures}
        }
        return np.array([made[bool(one.pbc.any())].create(one) for one in structures], dtype=np.float64)
