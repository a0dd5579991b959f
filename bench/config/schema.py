"""Typed configuration: what Hydra composes is bound to these classes, and unknown keys or wrong types fail at start."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from bench.config.plugins import Plugin, as_config, as_plain, build, name_plugins, plugin
from bench.errors import UserError

Seed = Annotated[int, Field(ge=0, lt=2**63)]
"""What tables hold as a whole number of 64 bits."""

Objective = Literal[
    "validation",
    "test_energy_mae",
    "test_energy_rmse",
    "test_energy_maxe",
    "test_force_mae",
    "test_force_rmse",
    "test_force_maxe",
]
"""What a run returns to a sweeper."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
"""What a scenario may be called: figures and tables of it are files of that name."""
REFERENCES = "dataset.reference_energies"
DEVICE = re.compile(r"cpu|cuda(:\d+)?")
COMPUTED = ("deviations", "filed_final")
"""What a run has that no word sets."""


@dataclass(frozen=True)
class Scenario:
    """Sizes of the parts, and the training set sizes to start and end with."""

    name: str
    initial: PositiveInt
    final: PositiveInt
    validation: PositiveInt
    pool: NonNegativeInt
    test: PositiveInt | None


@dataclass(frozen=True)
class TrainingSettings:
    """`force_weight` is λ_F/3N in Å² (0: energies only, whatever forces the data have).

    The minibatch and the schedule are the model's unless given, the learning rates are the model's: initial rates of
    its groups of parameters.
    `validation_checks` epochs are checked in all, half of them in the last quarter, the last epoch always (1: no early
    stopping). `decay` of the learning rates: linear to zero, exponential (by `decay_factor` every `decay_every`
    minibatches), or plateau (by that factor when the validation error has not fallen for so many epochs). What the
    paper leaves open: c of Eq. (4) is multiplied by `energy_scale_factor`; the `last_minibatch` of an epoch, where it
    is incomplete, is dropped, kept, or filled from the next epoch (carry); `early_stopping` by the validation
    MAE(E) + MAE(F) (energies alone without forces), by one of them, or by the loss of Eq. (5).
    """

    epochs: PositiveInt
    minibatch: PositiveInt
    learning_rates: dict[str, NonNegativeFloat]
    force_weight: NonNegativeFloat
    validation_checks: PositiveInt
    adam_betas: tuple[NonNegativeFloat, NonNegativeFloat] = (0.9, 0.999)
    adam_epsilon: PositiveFloat = 1e-7
    energy_scale_factor: PositiveFloat = 1.0
    last_minibatch: Literal["drop", "keep", "carry"] = "drop"
    decay: Literal["linear", "none", "exponential", "plateau"] = "linear"
    decay_factor: PositiveFloat = 0.5
    decay_every: PositiveInt = 50
    early_stopping: Literal["energies_and_forces", "energies", "forces", "loss"] = "energies_and_forces"

    @property
    def forces(self) -> bool:
        """Whether forces are trained and measured."""
        return self.force_weight > 0

    def minibatches(self, n_train: int, epochs: int) -> int:
        """How many minibatches so many epochs make of so many structures."""
        size = min(self.minibatch, n_train)
        if self.last_minibatch == "carry":
            return epochs * n_train // size
        return epochs * (-(-n_train // size) if self.last_minibatch == "keep" else n_train // size)

    def check_epochs(self) -> list[int]:
        """The epochs (1 to `epochs`) after which the validation error is measured."""
        late = max(1, self.validation_checks // 2)
        early = self.validation_checks - late
        turn = 0.75 * self.epochs
        chosen = {round(turn * (i + 1) / early) for i in range(early)}
        chosen |= {round(turn + (self.epochs - turn) * (i + 1) / late) for i in range(late)}
        return sorted(epoch for epoch in chosen | {self.epochs} if epoch >= 1)


@dataclass(frozen=True)
class RunConfig:
    """One run. `final_kernels` are correlated with the errors of the last step, whatever the run's own kernel.

    `deviations` are the values that differ from the scenario's, kernel's and selection's files: recorded, so that a
    reduced or altered run is never taken for the full one; `filed_final` is the final size in the scenario's file. A
    training in progress is saved every `checkpoint_seconds`. The first training set is drawn at random, or selected
    by a kernel that needs no model (`first_batch`). `plugins`: the modules outside the project whose classes `_target_`
    may name.
    """

    scenario: Scenario
    dataset: Plugin
    model: Plugin
    training: TrainingSettings
    kernel: Plugin
    selection: Plugin
    final_kernels: list[Plugin]
    batch_size: PositiveInt
    seed: Seed
    results: str
    device: str
    precision: Literal["float32", "float64", "tf32", "bfloat16"]
    threads: PositiveInt | None
    checkpoint_seconds: NonNegativeFloat = 120.0
    first_batch: Literal["random", "selected"] = "random"
    objective: Objective = "validation"
    plugins: list[str] | str = field(default_factory=list)
    deviations: dict[str, Any] = field(default_factory=dict)
    filed_final: PositiveInt | None = None

    def training_set_sizes(self) -> list[int]:
        """N_train of every step."""
        return [*range(self.scenario.initial, self.scenario.final, self.batch_size), self.scenario.final]

    def configuration(self) -> dict[str, Any]:
        """All that was asked for, resolved, as plain values; what only says where and how it is computed left out."""
        where = {"results", "device", "threads", "checkpoint_seconds", "objective", "plugins"}
        return as_plain(RunConfig, self, exclude={*where, "deviations", "filed_final"})


def computed(key: str) -> str:
    """What is said where a word sets what is computed."""
    return f"configuration key {key} is computed: do not set it"


def bind(config: Mapping[str, Any]) -> RunConfig:
    """Check a composed configuration and build it. Raises UserError naming the key."""
    for key in COMPUTED:
        if key in config:
            raise UserError(computed(key))
    run = _with_model(config)
    if "name" not in run.dataset:
        raise UserError("configuration key dataset.name: Field required")
    if not DEVICE.fullmatch(run.device):
        raise UserError(f"device = {run.device!r}: say cpu, cuda or, of several GPUs, cuda:1")
    if not run.results or run.results.startswith("~"):
        raise UserError(f"results = {run.results!r}: name a folder ($HOME for ~, which a shell leaves alone after a =)")
    if not NAME.fullmatch(run.scenario.name):
        raise UserError(
            f"scenario.name = {run.scenario.name!r}: at most 64 letters, digits and . _ + -, for it names files"
        )
    if run.scenario.final < run.scenario.initial:
        raise UserError(f"scenario.final = {run.scenario.final} is below scenario.initial = {run.scenario.initial}")
    if run.training.early_stopping == "forces" and not run.training.forces:
        raise UserError("training.early_stopping = 'forces', but training.force_weight = 0: choose 'energies'")
    if run.objective.startswith("test_force") and not run.training.forces:
        raise UserError(f"objective = {run.objective!r}, but training.force_weight = 0: choose an error of energies")
    if run.scenario.final - run.scenario.initial > run.scenario.pool:
        raise UserError(
            f"scenario.final = {run.scenario.final} asks for more than initial + pool ="
            f" {run.scenario.initial + run.scenario.pool} structures: lower scenario.final or raise scenario.pool"
        )
    return run


def _with_model(config: Mapping[str, Any]) -> RunConfig:
    """Build a run, with the learning rates and all values of its model. Raises UserError."""
    model, training = (dict(config.get(key) or {}) for key in ("model", "training"))
    rates, of_energies = (model.pop(key, None) for key in ("learning_rates", "learning_rates_of_energies"))
    for key in ("minibatch", "decay", "decay_factor", "decay_every"):
        model.pop(key, None)
    if "learning_rates" in training:
        raise UserError("configuration key training.learning_rates: they belong to the model: set model.learning_rates")
    training["learning_rates"] = (
        rates if of_energies is None or not _is_zero(training.get("force_weight")) else of_energies
    )
    try:
        run = build(RunConfig, {**config, "model": model, "training": training}, "")
    except UserError as error:
        raise UserError(str(error).replace("training.learning_rates", "model.learning_rates")) from None
    name_plugins(run.plugins)
    architecture = plugin(run.model, "model")
    groups, given = architecture.rate_groups, run.training.learning_rates
    if set(given) != set(groups):
        raise UserError(
            f"model.learning_rates = {given}: {architecture.name} has {', '.join(groups)}; give a rate for each"
        )
    return replace(run, model=as_config(architecture))


def _is_zero(value: Any) -> bool:
    """Whether a number is 0, also one that is written as text, as words in quotes and `${oc.env:…}` are."""
    try:
        return float(value) == 0
    except (TypeError, ValueError):
        return False


def deviations(run: RunConfig, as_filed: RunConfig, dataset: Plugin) -> dict[str, Any]:
    """The dotted keys whose values differ between two runs, seed, batch size, data file and hardware aside.

    Reference energies are compared with those of the run's own `dataset` as filed, where both have that key.
    """
    given, filed = (_flat(_asked(one)) for one in (run, as_filed))
    found = {key: given.get(key) for key in sorted(given.keys() | filed.keys()) if given.get(key) != filed.get(key)}
    key = "reference_energies"
    if dataset.get(key) and key in run.dataset and run.dataset[key] != dataset[key]:
        asked = plugin(run.dataset, "dataset").reference_energies
        if isinstance(asked, Mapping) and asked:
            asked = "{" + ",".join(f"{z}:{energy}" for z, energy in sorted(asked.items())) + "}"
        found[REFERENCES] = asked or "null"
    return found


def _asked(run: RunConfig) -> dict[str, Any]:
    """What of a configuration can depart from its scenario: names and values, never where code lives."""
    asked = run.configuration() | {"dataset": {"name": run.dataset["name"]}}
    for group in ("model", "kernel", "selection"):
        asked[group] = {key: value for key, value in asked[group].items() if key != "_target_"}
    return {key: value for key, value in asked.items() if key not in ("batch_size", "seed", "final_kernels")}


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
