"""Errors on labelled structures, committee disagreement, and correlations (docs/method.md, Measures; Eqs. 24, 25)."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from bench.config.units import KCAL_PER_MOL
from bench.potentials.base import Potential, View, chunks
from bench.runs.record_schema import Correlation, Metrics


@dataclass(frozen=True)
class ForceErrors:
    """Per member and structure: ΔF(S) of Eq. (24), mean squared component (eV²/Å²), largest |component| (eV/Å).

    `of_mean` is ΔF(S) of the committee's mean force, `disagreement` is σ_F of Eq. (25).
    """

    mae: Float[np.ndarray, "members structures"]
    mse: Float[np.ndarray, "members structures"]
    largest: Float[np.ndarray, "members structures"]
    of_mean: Float[np.ndarray, " structures"]
    disagreement: Float[np.ndarray, " structures"]


@dataclass(frozen=True)
class StructureErrors:
    """Errors of each structure: |ΔE| of every member and of the committee's mean in eV, σ_E of Eq. (25), and forces."""

    structures: Int[np.ndarray, " structures"]
    n_atoms: Int[np.ndarray, " structures"]
    energy: Float[np.ndarray, "members structures"]
    energy_of_mean: Float[np.ndarray, " structures"]
    energy_disagreement: Float[np.ndarray, " structures"]
    force: ForceErrors | None


def structure_errors(
    potential: Potential, view: View, structures: Int[np.ndarray, " n"], *, forces: bool
) -> StructureErrors:
    """Predict energies (and forces) of some structures in bounded memory and compare with their labels in float64.

    Structures that are `passing` have no labels: compared with zero, disagreement alone means something.
    """
    data, members = view.data, potential.n_models
    labels = data.forces if forces else None
    if forces and data.passing:
        labels = np.broadcast_to(np.zeros((1, 3)), data.positions.shape)
    error = np.empty((members, len(structures)))
    force_errors = []
    for rows, inputs in chunks(view, structures, forces=forces, models=members, what="evaluation"):
        picked = structures[rows]
        energies, predicted = potential.predict(inputs, forces=forces)
        error[:, rows] = energies.double().cpu().numpy()
        if not data.passing:
            error[:, rows] -= data.residual_energies[picked]
        if predicted is not None and labels is not None:
            by_member = predicted.double().cpu().numpy().reshape(members, -1, 3)
            force_errors.append(_force_errors(by_member, labels[data.atoms_of(picked)], data.n_atoms[picked]))
    return StructureErrors(
        structures=structures,
        n_atoms=data.n_atoms[structures],
        energy=np.abs(error),
        energy_of_mean=np.abs(error.mean(0)),
        energy_disagreement=error.std(0),
        force=_joined(force_errors) if force_errors else None,
    )


def _force_errors(
    predicted: Float[np.ndarray, "members atoms 3"],
    labels: Float[np.ndarray, "atoms 3"],
    n_atoms: Int[np.ndarray, " structures"],
) -> ForceErrors:
    starts = np.cumsum(n_atoms) - n_atoms

    def structure_mean(values: Float[np.ndarray, "*leading atoms 3"]) -> Float[np.ndarray, "*leading structures"]:
        return np.add.reduceat(values.sum(-1), starts, axis=-1) / (3 * n_atoms)

    error = np.abs(predicted - labels)
    return ForceErrors(
        mae=structure_mean(error),
        mse=structure_mean(error**2),
        largest=np.maximum.reduceat(error.max(2), starts, axis=1),
        of_mean=structure_mean(np.abs(predicted.mean(0) - labels)),
        disagreement=np.sqrt(structure_mean(predicted.var(0))),
    )


def _joined(parts: list[ForceErrors]) -> ForceErrors:
    return ForceErrors(
        **{name: np.concatenate([vars(part)[name] for part in parts], axis=-1) for name in vars(parts[0])}
    )


def summarise(errors: StructureErrors) -> Metrics:
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
    force = errors.force
    if force is not None:
        weights = errors.n_atoms / errors.n_atoms.sum()
        metrics |= {
            "force_mae_kcal_mol_A": force.mae @ weights / KCAL_PER_MOL,
            "force_rmse_kcal_mol_A": np.sqrt(force.mse @ weights) / KCAL_PER_MOL,
            "force_maxe_kcal_mol_A": force.mae.max(1) / KCAL_PER_MOL,
            "force_structure_mean_mae_kcal_mol_A": force.mae.mean(1) / KCAL_PER_MOL,
            "force_max_structure_rmse_kcal_mol_A": np.sqrt(force.mse).max(1) / KCAL_PER_MOL,
            "force_max_component_kcal_mol_A": force.largest.max(1) / KCAL_PER_MOL,
            "force_mean_max_component_kcal_mol_A": force.largest.mean(1) / KCAL_PER_MOL,
        }
    return Metrics(**{name: float(values.mean()) for name, values in metrics.items()})


def correlations(uncertainty: Float[np.ndarray, " structures"], errors: StructureErrors) -> dict[str, Correlation]:
    """Pearson and Spearman correlation of an uncertainty with |ΔE| and ΔF(S).

    For a committee both with the members' mean error and with the error of the members' mean. A correlation that does
    not exist (a constant, or fewer than two structures) is None.
    """
    from scipy import stats  # noqa: PLC0415 - takes half a second, which no command should spend before its work

    targets = {"energy": errors.energy.mean(0)}
    if errors.force is not None:
        targets["force"] = errors.force.mae.mean(0)
    if len(errors.energy) > 1:
        targets["energy_of_mean"] = errors.energy_of_mean
        if errors.force is not None:
            targets["force_of_mean"] = errors.force.of_mean
    found = {}
    for name, target in targets.items():
        defined = len(target) > 1 and np.ptp(uncertainty) > 0 and np.ptp(target) > 0
        found[name] = Correlation(
            pearson=float(stats.pearsonr(uncertainty, target).statistic) if defined else None,
            spearman=float(stats.spearmanr(uncertainty, target).statistic) if defined else None,
        )
    return found
