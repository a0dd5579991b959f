"""The error on the validation set by which training stops early."""

import torch
from jaxtyping import Float
from torch import Tensor

from bench.config.schema import TrainingSettings
from bench.potentials.base import Potential
from bench.training.minibatches import Minibatch


def validation_error(
    potential: Potential, held_out: list[Minibatch], settings: TrainingSettings
) -> Float[Tensor, " models"]:
    """What early stopping compares, per model: MAE(E) per structure in eV plus MAE(F) per component in eV/Å.

    With `settings.early_stopping` one of them alone (without forces always MAE(E)), or the mean loss of a structure.
    """
    n_structures = sum(energies.shape[1] for _, energies, _ in held_out)
    n_components = sum(3 * inputs.atoms_of_models for inputs, _, forces in held_out if forces is not None)
    by = settings.early_stopping
    total = torch.zeros(potential.n_models, dtype=potential.dtype, device=potential.device)
    for inputs, energies, forces in held_out:
        predicted, predicted_forces = potential.predict(inputs, forces=forces is not None)
        error = predicted - energies
        if by == "loss":
            total += (error**2).sum(1) / n_structures
        elif by != "forces":
            total += error.abs().sum(1) / n_structures
        if forces is not None and predicted_forces is not None and by != "energies":
            of_atoms = (predicted_forces - forces).abs()
            if by == "loss":
                total += settings.force_weight * inputs.sum_models(of_atoms**2) / n_structures
            else:
                total += inputs.sum_models(of_atoms) / n_components
    return total
