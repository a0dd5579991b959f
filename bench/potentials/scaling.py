"""The constants of Eq. (4): the scale c and the initial shifts μ_Z."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

RIDGE = 1.0
ROUNDING = 1e-14
"""Of the mean energy per atom: equal total energies differ from it by less."""


@dataclass(frozen=True)
class EnergyScaling:
    """c in eV, μ_Z in units of c; `degenerate` says that all energies were equal and c = 1 was used."""

    scale: float
    shift: Float[np.ndarray, " species"]
    degenerate: bool


def fit_scaling(
    energies: Float[np.ndarray, " structures"], composition: Int[np.ndarray, "structures species"], factor: float = 1.0
) -> EnergyScaling:
    """Compute c and μ from the training energies (eV, relative to the references) and atoms per species.

    With the mean energy per atom Ē, e_k = E_k − n_k Ē: c = sqrt(Σ_k e_k²/n_k / Σ_k n_k), times `factor`; μ is the ridge
    regression of e_k on the composition (ridge 1) plus Ē, divided by c (docs/method.md; JCTC 2021, 17, 6658).
    """
    n_atoms = composition.sum(1)
    mean = energies.sum() / n_atoms.sum()
    excess = energies - n_atoms * mean
    counts = composition.astype(np.float64)
    regression = np.linalg.solve(counts.T @ counts + RIDGE * np.eye(counts.shape[1]), counts.T @ excess)
    scale = float(np.sqrt((excess**2 / n_atoms).sum() / n_atoms.sum()))
    degenerate = scale < max(1e-12, ROUNDING * abs(float(mean)))
    scale = 1.0 if degenerate else factor * scale
    return EnergyScaling(scale, (regression + mean) / scale, degenerate)
