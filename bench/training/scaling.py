"""The constants of Eq. (4) from the labels of a training set, with a word about labels that look wrong."""

import logging

import numpy as np
from jaxtyping import Int

from bench.data.structures import Structures
from bench.potentials.scaling import EnergyScaling, fit_scaling

log = logging.getLogger(__name__)

FEWEST, FAR, FAR_ALONE = 5, 100.0, 10.0
"""Of so many labels one is told that lies so many times as far from the median as half of them, and as the next."""


def scaling_of(data: Structures, training: Int[np.ndarray, " train"], factor: float) -> EnergyScaling:
    """The constants of Eq. (4); says so where all energies are equal."""
    counts = np.zeros((len(training), len(data.species)), dtype=np.int64)
    structure = np.repeat(np.arange(len(training)), data.n_atoms[training])
    np.add.at(counts, (structure, data.species_index[data.atoms_of(training)]), 1)
    scaling = fit_scaling(data.residual_energies[training], counts, factor)
    if scaling.degenerate:
        log.warning("all training energies are equal: the energy scale c of Eq. (4) is set to 1 eV")
    per_atom = data.residual_energies[training] / data.n_atoms[training]
    away = np.abs(per_atom - np.median(per_atom))
    worst, (next_to, farthest) = int(np.argmax(away)), np.sort(away)[-2:] if len(away) > 1 else (0.0, 0.0)
    if len(away) >= FEWEST and farthest > FAR * np.median(away) and farthest > FAR_ALONE * next_to:
        log.warning(
            "note: the energy of training structure %d, %.6g eV, lies %.3g eV per atom from the median, the next %.3g:"
            " is that label right? It decides the scale of all",
            training[worst],
            data.energies[training[worst]],
            farthest,
            next_to,
        )
    return scaling
