"""Errors and correlations on held-out structures (METHOD section 6), in kcal/mol and kcal/mol/Å."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int

from bench.model.geometry import GeometryBuilder
from bench.model.potential import Potential, make_batch
from bench.progress import progress
from bench.units import KCAL_PER_MOL


@dataclass(frozen=True)
class StructureErrors:
    """Errors of each structure, one row per committee member, in eV and eV/Å; force entries are None without forces.

    `force_mae` is ΔF(S) of Eq. (24), `force_mse` the mean squared component, `force_max` the largest |component|.
    """

    energy: Float[np.ndarray, "members structures"]
    force_mae: Float[np.ndarray, "members structures"] | None
    force_mse: Float[np.ndarray, "members structures"] | None
    force_max: Float[np.ndarray, "members structures"] | None
    n_atoms: Int[np.ndarray, " structures"]


def structure_errors(
    potential: Potential, builder: GeometryBuilder, structures: Int[np.ndarray, " n"], *, forces: bool
) -> StructureErrors:
    """Predict energies (and forces) of some structures in bounded memory and compare with their labels in float64."""
    data, members = builder.data, potential.n_models
    with_forces = forces and data.forces is not None
    energy = np.empty((members, len(structures)))
    force = np.zeros((3, members, len(structures))) if with_forces else None
    for rows, geometry in progress(builder.chunks(structures), "evaluation", unit="chunk"):
        everyone = torch.arange(len(geometry), device=potential.device).expand(members, -1)
        batch = make_batch(geometry, everyone, with_pairs=with_forces, whole=True)
        energies, predicted = potential.predict(batch, forces=with_forces)
        energy[:, rows] = energies.double().cpu().numpy() - data.residual_energies[structures[rows]]
        if force is None or predicted is None or data.forces is None:
            continue
        labels = data.forces[data.atoms_of(structures[rows])]
        error = np.abs(predicted.double().cpu().numpy().reshape(members, -1, 3) - labels)
        starts = np.cumsum(data.n_atoms[structures[rows]]) - data.n_atoms[structures[rows]]
        components = 3 * data.n_atoms[structures[rows]]
        force[0][:, rows] = np.add.reduceat(error.sum(2), starts, axis=1) / components
        force[1][:, rows] = np.add.reduceat((error**2).sum(2), starts, axis=1) / components
        force[2][:, rows] = np.maximum.reduceat(error.max(2), starts, axis=1)
    n_atoms = data.n_atoms[structures]
    if force is None:
        return StructureErrors(np.abs(energy), None, None, None, n_atoms)
    return StructureErrors(np.abs(energy), force[0], force[1], force[2], n_atoms)


def summarise(errors: StructureErrors) -> dict[str, float]:
    """The recorded errors: each is computed per committee member and averaged over the members (Section 3.1.5).

    MAE and RMSE pool all structures (energies) or all force components. `force_maxe` is the largest ΔF(S) of Eq. (24);
    the other readings of a maximum are recorded beside it.
    """
    energy = errors.energy / KCAL_PER_MOL
    metrics = {
        "energy_mae_kcal_mol": energy.mean(1),
        "energy_rmse_kcal_mol": np.sqrt((energy**2).mean(1)),
        "energy_maxe_kcal_mol": energy.max(1),
    }
    if errors.force_mae is not None and errors.force_mse is not None and errors.force_max is not None:
        weights = errors.n_atoms / errors.n_atoms.sum()
        metrics |= {
            "force_mae_kcal_mol_A": errors.force_mae @ weights / KCAL_PER_MOL,
            "force_rmse_kcal_mol_A": np.sqrt(errors.force_mse @ weights) / KCAL_PER_MOL,
            "force_maxe_kcal_mol_A": errors.force_mae.max(1) / KCAL_PER_MOL,
            "force_structure_mean_mae_kcal_mol_A": errors.force_mae.mean(1) / KCAL_PER_MOL,
            "force_max_structure_rmse_kcal_mol_A": np.sqrt(errors.force_mse).max(1) / KCAL_PER_MOL,
            "force_max_component_kcal_mol_A": errors.force_max.max(1) / KCAL_PER_MOL,
            "force_mean_max_component_kcal_mol_A": errors.force_max.mean(1) / KCAL_PER_MOL,
        }
    return {name: float(values.mean()) for name, values in metrics.items()}
