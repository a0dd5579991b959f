"""The uncertainty of a trained potential: fitted once, then asked of any structure.

With φ_i an atom's part of the feature φ(S) = Σ_i φ_i of a structure and C = σ² (Φᵀ Φ + σ² 1)⁻¹, Φ the features of the
training set (Eqs. 20-23), GP predicts the standard deviations sqrt(φ(S)ᵀ C φ(S)) of the energy and sqrt(φ_iᵀ C φ_i) of
an atom's own energy. The atoms' do not add up to the structure's, which is at most their sum: energies of atoms are
correlated. A committee predicts how its members' energies, energies of atoms and forces scatter about their means
(Eq. 25): sqrt(⟨(E − ⟨E⟩)²⟩) and sqrt(⟨|F_i − ⟨F_i⟩|²⟩), whose largest over the atoms is the usual trigger.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from bench.config.plugins import filed, plugin
from bench.errors import UserError, nearest
from bench.kernels.base import squared_norms
from bench.kernels.features import GradientKernel, GradientMaps
from bench.kernels.posterior import Posterior, fit_posterior
from bench.potentials.base import OfInputs, Potential, Prediction, Prepared, View, chunks
from bench.uncertainty.calibration import Calibration, calibrate

METHODS = ("gp_ll", "gp_rp", "committee")
KERNELS = {"gp_ll": "GP(LL)", "gp_rp": "GP(RP)"}


@dataclass(frozen=True)
class Deviations:
    """Standard deviations of structures in eV, of atoms' energies in eV, and of atoms' forces in eV/Å."""

    energy: Float[np.ndarray, " structures"]
    energies: Float[np.ndarray, " atoms"] | None = None
    forces: Float[np.ndarray, " atoms"] | None = None


@dataclass(frozen=True)
class Uncertainty:
    """What a fit found: a posterior (GP), and how errors compare on the validation set (None: not known)."""

    method: str
    seed: int
    n_train: int
    posterior: Posterior | None
    energy: Calibration | None = None
    force: Calibration | None = None

    def of(self, potential: Potential) -> "Estimator":
        """Ready to be asked of a potential. Raises UserError if it has not what the method needs."""
        check_method(self.method, potential)
        if self.posterior is None:
            return Estimator(self, None)
        return Estimator(self, _maps(self.method, potential, self.seed, self.n_train))


@dataclass(frozen=True)
class Estimator:
    """An uncertainty with the feature maps of its potential."""

    fitted: Uncertainty
    maps: GradientMaps | None

    @torch.no_grad()
    def of_one(self, prepared: Prepared, predicted: Prediction, *, calibrated: bool) -> Deviations:
        """Of a single structure and its prediction by all members; `calibrated` multiplies by the scales."""
        posterior = self.fitted.posterior
        if self.maps is None or posterior is None:
            found = _scatter(predicted)
        else:
            inputs = prepared.gather(np.zeros((1, 1), dtype=np.int64))
            if self.maps.of_atoms is None:
                found = Deviations(_deviations(self.maps.of_structures(inputs), posterior))
            else:
                by_atom = self.maps.of_atoms(inputs)
                both = _deviations(torch.cat([by_atom.sum(0, keepdim=True), by_atom]), posterior)
                found = Deviations(both[:1], both[1:])
        return self._calibrated(found) if calibrated else found

    def _calibrated(self, found: Deviations) -> Deviations:
        energy = self.fitted.energy.scale if self.fitted.energy else 1.0
        force = self.fitted.force.scale if self.fitted.force else 1.0
        return Deviations(
            found.energy * energy,
            None if found.energies is None else found.energies * energy,
            None if found.forces is None else found.forces * force,
        )


def check_method(method: str, potential: Potential) -> None:
    """Raises UserError for a method that is unknown or that the potential does not serve."""
    if method not in METHODS:
        raise UserError(f"uncertainty = {method!r}: {nearest(method, METHODS)}")
    if method == "committee" and potential.n_models == 1:
        raise UserError(
            "uncertainty = 'committee': the model file holds a single model: choose gp_ll or gp_rp, or train a"
            " committee (kernel=qbc_f)"
        )


def fit_uncertainty(
    method: str,
    potential: Potential,
    view: View,
    labelled: Int[np.ndarray, " labelled"],
    validation: Int[np.ndarray, " valid"],
    seed: int = 0,
) -> Uncertainty:
    """Fit the posterior to the labelled structures, and compare with the errors of the (mean) prediction of others.

    The validation structures have chosen the epoch at which training stopped and nothing else. Without any, deviations
    stay as they are predicted. Raises UserError.
    """
    check_method(method, potential)
    raw = Uncertainty(method, seed, len(labelled), None)
    if method in KERNELS:
        maps = _maps(method, potential, seed, len(labelled))
        raw = replace(raw, posterior=fit_posterior(_features(maps.of_structures, view, labelled)))
    if len(validation) == 0:
        return raw
    found = held_out(raw, potential, view, validation)
    return replace(
        raw,
        energy=calibrate(found.energy_error, found.deviations.energy, f"uncertainty {method} of energies"),
        force=None
        if found.force_error is None or found.deviations.forces is None
        else calibrate(found.force_error, found.deviations.forces, f"uncertainty {method} of forces"),
    )


@dataclass(frozen=True)
class HeldOut:
    """Deviations as predicted, and |ΔE| of structures and |ΔF_i| of atoms (committees) of the mean prediction.

    Atoms without neighbours are left out: no model says anything but zero of the force on these.
    """

    deviations: Deviations
    energy_error: Float[np.ndarray, " structures"]
    force_error: Float[np.ndarray, " atoms"] | None


@torch.no_grad()
def held_out(
    fitted: Uncertainty, potential: Potential, view: View, structures: Int[np.ndarray, " structures"]
) -> HeldOut:
    """Predict labelled structures in bounded memory: uncertainties as predicted, beside the errors."""
    data, members = view.data, potential.n_models
    labels = data.forces if fitted.posterior is None else None
    by_structure: list[np.ndarray] = [np.zeros((2, 0))]
    by_atom: list[np.ndarray] = []
    for rows, inputs in chunks(view, structures, forces=labels is not None, models=members, what="validation"):
        picked = structures[rows]
        energies, forces = potential.predict(inputs, forces=labels is not None)
        energies = energies.double()
        error = energies.mean(0).cpu().numpy() - data.residual_energies[picked]
        by_structure.append(np.stack([np.abs(error), _std(energies).cpu().numpy()]))
        if forces is not None and labels is not None:
            of_models = forces.double().reshape(members, -1, 3)
            off = np.linalg.norm(of_models.mean(0).cpu().numpy() - labels[data.atoms_of(picked)], axis=1)
            felt = of_models.abs().amax((0, 2)).cpu().numpy() != 0
            by_atom.append(np.stack([off, _vector_std(of_models).cpu().numpy()])[:, felt])
    error, deviation = np.concatenate(by_structure, axis=1)
    of_forces = np.concatenate(by_atom, axis=1) if by_atom else None
    if fitted.posterior is not None:
        maps = _maps(fitted.method, potential, fitted.seed, fitted.n_train)
        deviation = _deviations(_features(maps.of_structures, view, structures), fitted.posterior)
    return HeldOut(
        Deviations(deviation, forces=None if of_forces is None else of_forces[1]),
        error,
        None if of_forces is None else of_forces[0],
    )


def _maps(method: str, potential: Potential, seed: int, n_train: int) -> GradientMaps:
    kernel: GradientKernel = plugin(filed("kernel")[KERNELS[method]], "kernel")
    return kernel.maps(potential, seed, n_train)


@torch.no_grad()
def _features(of_inputs: OfInputs, view: View, structures: Int[np.ndarray, " n"]) -> Float[Tensor, "n features"]:
    found = [of_inputs(inputs) for _, inputs in chunks(view, structures, forces=False, what="features")]
    return torch.cat(found)


def _deviations(features: Float[Tensor, "n features"], posterior: Posterior) -> Float[np.ndarray, " n"]:
    return squared_norms(posterior.transform(features)).sqrt().cpu().numpy()


def _scatter(predicted: Prediction) -> Deviations:
    """Of the members' predictions of one structure."""
    members = len(predicted.energies)
    atomic = None if predicted.atomic is None else predicted.atomic.double().reshape(members, -1)
    return Deviations(
        _std(predicted.energies.double()).cpu().numpy(),
        None if atomic is None else _std(atomic).cpu().numpy(),
        _vector_std(predicted.forces.double().reshape(members, -1, 3)).cpu().numpy(),
    )


def _std(of_models: Float[Tensor, "models n"]) -> Float[Tensor, " n"]:
    return of_models.std(0, correction=0)


def _vector_std(of_models: Float[Tensor, "models atoms 3"]) -> Float[Tensor, " atoms"]:
    return of_models.var(0, correction=0).sum(-1).sqrt()
