"""Structures with their labels on the device, and the minibatches of a training (Eq. 5)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from bench.config.schema import TrainingSettings
from bench.config.seeds import stream
from bench.data.structures import ragged_rows
from bench.potentials.base import Draw, Inputs, Padded, Repeated, View, rows_of_chunks, to_device


@dataclass(frozen=True)
class Labels:
    """Targets of some structures: energies relative to the references (eV) and forces (eV/Å) with atom offsets."""

    energies: Float[Tensor, " structures"]
    forces: Float[Tensor, "atoms 3"] | None


Minibatch = tuple[Inputs, Float[Tensor, "models structures"], Float[Tensor, "atoms 3"] | None]
"""Structures of some models with their energies and forces."""


def labels_of(view: View, picked: Int[np.ndarray, " picked"], forces: bool) -> Labels:
    """The labels of some structures in the precision and on the device of the model."""
    data = view.data
    energies = torch.from_numpy(data.residual_energies[picked]).to(view.device, view.dtype)
    if not forces or data.forces is None:
        return Labels(energies, None)
    return Labels(energies, torch.from_numpy(data.forces[data.atoms_of(picked)]).to(view.device, view.dtype))


class TrainingData:
    """Training sets of one size, end to end: the structures and their labels on the device."""

    def __init__(self, view: View, settings: TrainingSettings, sets: Sequence[Int[np.ndarray, " train"]]) -> None:
        picked = np.concatenate(sets)
        self.n_train = len(sets[0])
        prepared = view.prepare(picked, forces=settings.forces)
        self.prepared = prepared.repeated() if isinstance(prepared, Repeated) else prepared
        self.padded: Padded | None = None
        self.labels = labels_of(view, picked, settings.forces)
        self.n_atoms = view.data.n_atoms[picked]
        self.first_atom = np.cumsum(self.n_atoms) - self.n_atoms

    def pad(self) -> bool:
        """Make ready for `gather_padded`; False where the potential has nothing to gain."""
        if self.padded is None and isinstance(self.prepared, Padded):
            self.padded = self.prepared.with_padding()
            if self.padded is not None:
                self.prepared, (energies, forces) = self.padded, (self.labels.energies, self.labels.forces)
                self.labels = Labels(energies, None if forces is None else torch.cat([forces, forces.new_zeros(1, 3)]))
        return self.padded is not None

    def places(self, rows: Int[np.ndarray, "models structures"]) -> tuple[Int[np.ndarray, "2 models _"], int]:
        """What `gather_padded` has to know: structures and their atoms, padding behind them; the atoms of every model.

        Where structures differ in size that is rounded up, by an eighth at most, so that there are few shapes.
        """
        counts = self.n_atoms[rows]
        widest = int(counts.sum(1).max())
        if self.n_atoms.min() != self.n_atoms.max():
            unit = max(1, 2 ** (widest.bit_length() - 4))
            widest = -(-widest // unit) * unit
        padding = np.full((len(rows), 1), len(self.n_atoms)), widest - counts.sum(1, keepdims=True)
        return np.stack([np.hstack([rows, padding[0]]), np.hstack([counts, padding[1]])]), widest

    def gather_padded(self, places: Int[Tensor, "2 models structures_and_1"], atoms_each: int) -> Minibatch:
        """Inputs with their energies, that of padding excepted, and forces: by what the device alone knows."""
        if self.padded is None:
            raise ValueError("these structures are not padded")
        rows, forces = places[0], self.labels.forces
        inputs, atoms = self.padded.gather_padded(rows, places[1], atoms_each)
        return inputs, self.labels.energies[rows[:, :-1]], None if forces is None else forces[atoms]

    def gather(self, rows: Int[np.ndarray, "models structures"]) -> Minibatch:
        """Inputs with their energies and forces."""
        device, forces = self.labels.energies.device, self.labels.forces
        if forces is not None:
            flat = rows.flatten()
            forces = forces.index_select(0, to_device(ragged_rows(self.first_atom[flat], self.n_atoms[flat]), device))
        return self.prepared.gather(rows), self.labels.energies[to_device(rows, device)], forces


class Minibatches:
    """All structures where they fit into one minibatch, else parts of an order that is new in every epoch.

    Model m draws from set `sets[m]` of the data, in the order of its own draw. What is left of an epoch that
    minibatches do not divide is dropped, kept as a smaller one, or carried into the first minibatch of the next epoch.
    """

    def __init__(
        self, data: TrainingData, settings: TrainingSettings, sets: Sequence[int], draws: Sequence[Draw]
    ) -> None:
        self.data, self.draws, self.settings = data, draws, settings
        self.first = np.array(sets)[:, None] * data.n_train
        self.size = min(settings.minibatch, data.n_train)
        self.order, self.order_of = np.tile(np.arange(data.n_train), (len(sets), 1)), -1
        self.whole = data.gather(self.order + self.first) if self.size == data.n_train else None

    def done_after(self, epochs: int) -> int:
        """The minibatches of so many epochs."""
        return self.settings.minibatches(self.data.n_train, epochs)

    def at(self, minibatch: int) -> Minibatch:
        """A minibatch of the training, counted from 0; every model has its own order."""
        return self.data.gather(self.rows(minibatch)) if self.whole is None else self.whole

    def rows(self, minibatch: int) -> Int[np.ndarray, "models structures"]:
        """The structures of a minibatch, as places in the data."""
        carry = self.settings.last_minibatch == "carry"
        if carry:
            epoch, start = divmod(minibatch * self.size, self.data.n_train)
        else:
            epoch, step = divmod(minibatch, self.done_after(1))
            start = step * self.size
        rows = self._order(epoch)[:, start : start + self.size]
        if carry and (missing := self.size - rows.shape[1]):
            rows = np.concatenate([rows, self._order(epoch + 1)[:, :missing]], axis=1)
        return rows + self.first

    def _order(self, epoch: int) -> Int[np.ndarray, "models train"]:
        if epoch != self.order_of:
            n_train = self.data.n_train
            orders = [
                stream(one.seed, "order", n_train=n_train, member=one.member, epoch=epoch + 1).permutation(n_train)
                for one in self.draws
            ]
            self.order, self.order_of = np.stack(orders), epoch
        return self.order


def held_out(view: View, settings: TrainingSettings, sets: Sequence[Int[np.ndarray, " valid"]]) -> list[Minibatch]:
    """The validation sets of some models, of one size, in chunks of as many structures each."""
    held = []
    for rows in rows_of_chunks(view, sets[0], share=len(sets)):
        picked = np.concatenate([one[rows] for one in sets])
        everything = TrainingData(view, settings, [picked])
        held.append(everything.gather(np.arange(len(picked)).reshape(len(sets), -1)))
    return held
