"""What a potential is to training, evaluation, kernels and calculator: none of them knows more of it than this.

Many models run at once: parameters carry a leading axis of models, and `Inputs` hold the structures of every model, the
same number each; atoms lie model by model, structure by structure. A single model is the case of one. Energies are in
eV relative to the dataset's reference energies, forces in eV/Å.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from bench.config.seeds import stream
from bench.data.neighbours import Neighbours, NeighboursOnDemand
from bench.data.structures import Structures
from bench.potentials.architecture import Architecture
from bench.potentials.scaling import EnergyScaling
from bench.runs.progress import progress

Parameters = dict[str, Float[Tensor, "models ..."]]


@runtime_checkable
class Inputs(Protocol):
    """Structures of every model as its potential takes them."""

    @property
    def n_models(self) -> int:
        """How many models."""

    @property
    def atoms_of_models(self) -> Int[Tensor, " models"]:
        """How many atoms each model has."""

    def sum_models(self, of_atoms: Float[Tensor, "atoms _"]) -> Float[Tensor, " models"]:
        """The sum over all atoms and columns of each model."""


@runtime_checkable
class Prepared(Protocol):
    """Some structures on the device, from which the inputs of minibatches are gathered."""

    def gather(self, rows: Int[np.ndarray, "models structures"]) -> Inputs:
        """Row m holds the structures of model m, as places among those prepared, repeats allowed."""


@runtime_checkable
class Repeated(Protocol):
    """`Prepared` that can work out beforehand what the same structures would ask for in every epoch; optional."""

    def repeated(self) -> Prepared:
        """The same structures, from which minibatches are gathered again and again."""


@runtime_checkable
class Padded(Prepared, Protocol):
    """`Prepared` whose minibatches can be padded to a few shapes, so that a GPU replays their steps; optional.

    Padding is a last structure of every model, of as many atoms as it lacks. They change nothing: their forces are
    zero, and `Potential.loss_gradient` is given no energy for that structure.
    """

    def with_padding(self) -> "Padded | None":
        """The same structures with that of padding, which has one atom, behind them; None where nothing is gained."""

    def gather_padded(
        self, rows: Int[Tensor, "models structures"], n_atoms: Int[Tensor, "models structures"], atoms_each: int
    ) -> tuple[Inputs, Int[Tensor, " atoms"]]:
        """`gather` of structures with these numbers of atoms, and the rows of all atoms among those prepared.

        Nothing in it depends on values on the host but the shapes and `atoms_each`, the atoms of every model.
        """


@dataclass(frozen=True)
class Draw:
    """What fresh parameters of one model depend on: seed, member of a committee, N_train, constants of Eq. (4)."""

    seed: int
    member: int
    n_train: int
    scaling: EnergyScaling

    def generator(self, use: str) -> np.random.Generator:
        """Random numbers for one use, the same whatever else is drawn."""
        return stream(self.seed, use, n_train=self.n_train, member=self.member)


@runtime_checkable
class View(Protocol):
    """An architecture on one dataset; runs of one pack share it.

    A view may say `side_by_side = True`: inputs are prepared, and features computed, by several threads at a time.
    """

    @property
    def architecture(self) -> Architecture:
        """What it is a view of."""

    @property
    def data(self) -> Structures:
        """The dataset."""

    @property
    def neighbours(self) -> Neighbours | NeighboursOnDemand:
        """Pairs within the cutoff."""

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of parameters and predictions."""

    @property
    def device(self) -> torch.device:
        """Where they live."""

    @property
    def lockstep(self) -> bool:
        """Whether a step of many models is one computation; otherwise each is trained by itself."""

    @property
    def atoms_per_chunk(self) -> int:
        """How many atoms a pass over many structures takes at once: bounds its memory."""

    def prepare(self, structures: Int[np.ndarray, " n"], *, forces: bool) -> Prepared:
        """Some structures of the dataset, for forces or for energies and features alone."""

    def draw(self, draws: Sequence[Draw]) -> "Potential":
        """Fresh models."""

    def potential(self, parameters: Parameters, scalings: Sequence[EnergyScaling]) -> "Potential":
        """Models with these parameters."""

    def make_ready(self, force_weight: float) -> None:
        """Do once what takes long the first time, such as compiling, so that no training's seconds hold it."""


@dataclass(frozen=True)
class Prediction:
    """What a simulation asks for: energies in eV, forces in eV/Å (atoms of all models in order), ∂E/∂ε in eV.

    ε strains cell and positions, r → (1 + ε) r: divided by the volume ∂E/∂ε is the stress, in ASE's sign. `atomic` are
    the energies of atoms where the potential has such.
    """

    energies: Float[Tensor, "models structures"]
    forces: Float[Tensor, "atoms 3"]
    virials: Float[Tensor, "models structures 3 3"]
    atomic: Float[Tensor, " atoms"] | None = None


@runtime_checkable
class Potential(Protocol):
    """Parameters of one or many models and what can be computed with them."""

    @property
    def architecture(self) -> Architecture:
        """What it is one of."""

    @property
    def n_models(self) -> int:
        """How many models."""

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the parameters."""

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""

    @property
    def parameters(self) -> Parameters:
        """All of them by name; training changes these tensors in place."""

    @property
    def rates(self) -> Mapping[str, str]:
        """The learning-rate group of each trained parameter; others are observed (`observe`)."""

    def predict(
        self, inputs: Any, *, forces: bool
    ) -> tuple[Float[Tensor, "models structures"], Float[Tensor, "atoms 3"] | None]:
        """Energies and, if asked, forces."""

    def predict_in_full(self, inputs: Any) -> Prediction:
        """What a simulation asks for."""

    def loss_gradient(
        self,
        inputs: Any,
        energies: Float[Tensor, "models structures"],
        forces: Float[Tensor, "atoms 3"] | None,
        force_weight: float,
    ) -> tuple[Float[Tensor, " models"], Parameters]:
        """The loss Σ_k |ΔE_k|² + w Σ_i |ΔF_i|² of Eq. (5), w = λ_F/3N, per model, and its gradient."""

    def observe(self, inputs: Any, rate: float | Tensor) -> None:
        """Before a step: move running means, where there are any, towards a minibatch's by a fraction `rate`."""

    def member(self, index: int) -> "Potential":
        """One model of many."""

    def state(self) -> dict[str, Any]:
        """Everything that `Architecture.load` needs, as tensors on the CPU, numbers, text, lists and dicts of them."""


OfInputs = Callable[[Any], Float[Tensor, "structures features"]]
"""A feature map: from the inputs of one model to a row for each structure, in float64."""
Projections = list[tuple[Float[Tensor, "_ projections"], Float[Tensor, "_ projections"]]]
"""(U_inᵀ, U_outᵀ) of every linear layer, entries N(0, 1)."""


@runtime_checkable
class GradientFeatures(Protocol):
    """A single model whose gradient with respect to its linear layers z = W x/√d + 0.1 b makes features (Eqs. 11-19).

    The rows of a layer may be atoms or edges: each belongs to a structure, over whose rows a feature is summed. With x̃
    a row's input to a layer, its bias's factor included, and ∂E/∂z its derivative at the layer's output, the gradient
    of the energy with respect to W and b is Σ x̃ ⊗ ∂E/∂z.
    """

    @property
    def layer_sizes(self) -> list[tuple[int, int]]:
        """(inputs + 1, outputs) of each linear layer; the last has one output, the energy of an atom."""

    def last_layer_features(self) -> OfInputs:
        """Σ x̃ ∂E/∂z of the last layer (Eq. 14)."""

    def projected_features(self, projections: Projections) -> OfInputs:
        """p^(−1/2) Σ_layers Σ_rows (U_in x̃) ⊙ (U_out ∂E/∂z), p = projections (Eq. 19)."""


@runtime_checkable
class Describes(Protocol):
    """A view whose architecture describes structures without any training."""

    def descriptor(self) -> tuple[OfInputs, int]:
        """A feature map that depends on the elements of the dataset alone, and how many features it has."""


@runtime_checkable
class AtomicFeatures(GradientFeatures, Protocol):
    """`GradientFeatures` of which each atom has a part; optional: without it atoms have no uncertainty of a GP."""

    def of_atoms(self) -> GradientFeatures:
        """The same features with a row for each atom: over a structure's atoms they add up to its feature."""


def untrained(view: View, seed: int) -> Potential:
    """One fresh model that no energy has told its scale: for what needs no training."""
    scaling = EnergyScaling(1.0, np.zeros(len(view.data.species)), False)
    return view.draw([Draw(seed, member=0, n_train=0, scaling=scaling)])


def rows_of_chunks(view: View, structures: Int[np.ndarray, " n"], *, share: int = 1) -> list[slice]:
    """Parts of some structures in order, of at most `view.atoms_per_chunk` atoms (or one structure) each.

    `share` is how many models' structures a chunk must have room for.
    """
    ends, room = np.cumsum(view.data.n_atoms[structures]), view.atoms_per_chunk // share
    borders = [0]
    while borders[-1] < len(ends):
        done = ends[borders[-1] - 1] if borders[-1] else 0
        stop = int(np.searchsorted(ends, done + room, side="right"))
        borders.append(max(borders[-1] + 1, stop))
    return [slice(start, stop) for start, stop in pairwise(borders)]


def chunks(
    view: View, structures: Int[np.ndarray, " n"], *, forces: bool, models: int = 1, what: str
) -> Iterator[tuple[slice, Inputs]]:
    """Go through structures in order in bounded memory: which rows of them, and their inputs for every model alike."""
    for rows in progress(rows_of_chunks(view, structures), what, unit="chunk"):
        part = structures[rows]
        yield rows, view.prepare(part, forces=forces).gather(np.tile(np.arange(len(part)), (models, 1)))


def each_chunk(
    view: View, structures: Int[np.ndarray, " n"], do: Callable[[slice, Inputs], None], *, what: str
) -> None:
    """Call `do` with the chunks of one model, without forces and without gradients, in any order.

    Of a view with `side_by_side` as many chunks at a time as torch has threads, each on one thread: the numbers are the
    same, and what cannot be divided among threads is done side by side.
    """
    threads, rows = torch.get_num_threads(), rows_of_chunks(view, structures)

    @torch.no_grad()
    def of_chunk(rows: slice) -> None:
        part = structures[rows]
        do(rows, view.prepare(part, forces=False).gather(np.arange(len(part))[None]))

    if threads == 1 or len(rows) < 2 * threads or not getattr(view, "side_by_side", False):
        for one in progress(rows, what, unit="chunk"):
            of_chunk(one)
        return
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for _ in progress(pool.map(of_chunk, rows), what, unit="chunk", total=len(rows)):
                pass
    finally:
        torch.set_num_threads(threads)


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """Move an array without waiting for the device: it is staged before the call returns."""
    return torch.from_numpy(array).to(device, non_blocking=True)
