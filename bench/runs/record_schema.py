"""What a record holds: typed, validated when read and written; names, units and labels of its columns.

Recording, analysis and documentation all take them from here. A field that is added gets a default, under which older
records are read; a field that changes its meaning raises SCHEMA_VERSION, and `bench.migrate` brings records over.
"""

# ruff: noqa: N815 - units stand in the names of fields
from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, Strict, field_validator

from bench.config.schema import NAME

SCHEMA_VERSION: Final = 3
QUANTITIES = {"force": "kcal_mol_A", "energy": "kcal_mol"}
"""What errors are measured of, forces first, and the unit at the end of its columns' names."""
MEASURES = ("mae", "rmse", "maxe")
Quantity = Literal["energy", "force"]


class Column(NamedTuple):
    """How a column is called in a table or a figure, and its unit in plain text."""

    label: str
    unit: str = ""


class Recorded(BaseModel):
    """A part of a record: keys that are not known are refused, NaN and infinity are kept."""

    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="constants", validate_assignment=True)

    @classmethod
    def columns(cls) -> dict[str, Column]:
        """The columns of this part, by name."""
        found = {name: [m for m in info.metadata if isinstance(m, Column)] for name, info in cls.model_fields.items()}
        return {name: columns[0] for name, columns in found.items() if columns}

    def given(self) -> dict[str, Any]:
        """The columns that have a value."""
        return {name: value for name in self.columns() if (value := getattr(self, name)) is not None}


class Metrics(Recorded):
    """Errors on the test set, each computed per committee member and averaged over the members.

    `maxe` of forces is the largest ΔF(S) of Eq. (24), a structure's mean absolute component error.
    """

    energy_mae_kcal_mol: Annotated[float, Column("MAE of energies", "kcal/mol")]
    energy_rmse_kcal_mol: Annotated[float, Column("RMSE of energies", "kcal/mol")]
    energy_maxe_kcal_mol: Annotated[float, Column("Largest error of an energy", "kcal/mol")]
    force_mae_kcal_mol_A: Annotated[float | None, Column("MAE of force components", "kcal/mol/Å")] = None
    force_rmse_kcal_mol_A: Annotated[float | None, Column("RMSE of force components", "kcal/mol/Å")] = None
    force_maxe_kcal_mol_A: Annotated[float | None, Column("Largest ΔF(S) of a structure", "kcal/mol/Å")] = None
    force_structure_mean_mae_kcal_mol_A: Annotated[
        float | None, Column("Mean over structures of ΔF(S)", "kcal/mol/Å")
    ] = None
    force_max_structure_rmse_kcal_mol_A: Annotated[
        float | None, Column("Largest RMSE of a structure's force components", "kcal/mol/Å")
    ] = None
    force_max_component_kcal_mol_A: Annotated[
        float | None, Column("Largest error of a force component", "kcal/mol/Å")
    ] = None
    force_mean_max_component_kcal_mol_A: Annotated[
        float | None, Column("Mean over structures of the largest component error", "kcal/mol/Å")
    ] = None


class Correlation(Recorded):
    """Of an uncertainty with an error over the test set; None where it does not exist (a constant, one structure)."""

    pearson: float | None = None
    spearman: float | None = None


class Step(Recorded):
    """What was measured with so many training structures, and what was picked then.

    `picked` are indices into the dataset, in the order of picking; None at an end of the run, where nothing was picked
    yet. A run to an end that is no whole number of batches away takes the first of them. `correlations` are by kernel
    and target: energy, force, and for committees energy_of_mean, force_of_mean.
    """

    n_train: Annotated[PositiveInt, Column("N_train", "structures")]
    session: NonNegativeInt
    energy_scale_eV: float
    best_epochs: list[int]
    validation_eV: list[float]
    metrics: Metrics
    correlations: dict[str, dict[str, Correlation]] = Field(default_factory=dict)
    picked: list[int] | None = None
    picked_at_random: NonNegativeInt = 0
    pool_labels_read: NonNegativeInt = 0
    models_in_lockstep: PositiveInt = 1
    timing: Literal["", "compiling"] = ""
    """What taints the seconds: `compiling` is in those of the training. Such steps are in no table of times."""
    seconds_training: Annotated[float, Column("Training of all members, with validation", "s")]
    seconds_validation: Annotated[float | None, Column("Validation", "s")] = None
    seconds_evaluation: Annotated[float | None, Column("Errors on the test set", "s")] = None
    seconds_features: Annotated[float | None, Column("Features of pool and training set, with the posterior", "s")] = (
        None
    )
    seconds_selection: Annotated[float | None, Column("Selection", "s")] = None
    processor_seconds_training: Annotated[float | None, Column("Training, on all processors", "s")] = None
    processor_seconds_features: Annotated[float | None, Column("Features, on all processors", "s")] = None
    processor_seconds_selection: Annotated[float | None, Column("Selection, on all processors", "s")] = None
    peak_memory_mb: Annotated[float | None, Column("Largest resident memory of the process", "MB")] = None
    peak_gpu_memory_mb: Annotated[float | None, Column("Largest memory on the GPU", "MB")] = None

    @property
    def seconds(self) -> float:
        """All seconds of the step; those of validation are part of training."""
        parts = self.seconds_training, self.seconds_evaluation, self.seconds_features, self.seconds_selection
        return sum(part or 0.0 for part in parts)


class KernelFacts(Recorded):
    """What the analysis must know of a kernel, as the kernel states it (`bench.kernels.base.Kernel`)."""

    members: Annotated[PositiveInt, Strict()] = 1
    uncertainty: Quantity | None = None
    baseline: bool = False
    reads_pool_labels: bool = False


class Failure(Recorded):
    """How the last session that failed did."""

    error: str
    message: str
    traceback: str = ""
    host: str = ""
    attempt: PositiveInt = 1
    time: str = ""

    @property
    def line(self) -> str:
        """One line: the error's class and message."""
        return f"{self.error}: {self.message}".splitlines()[0]


class Session(Recorded):
    """Where, when and with what a run was computed from `first_step` on."""

    started: str
    host: str
    cpu: str
    cores: int
    threads: int
    device: str
    python: str
    platform: str = ""
    engine: int | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    sources: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Classes from outside the project: class, version and hash of the source, by group."""
    git_commit: str | None = None
    git_dirty: bool | None = None
    first_step: NonNegativeInt = 0
    differs: list[str] = Field(default_factory=list)
    """What is not as in the session before, or when the initial model was trained: numbers may differ by rounding."""

    def differences(self, before: "Session") -> list[str]:
        """What may change the last digits of sums: threads, the kind of processor or device."""
        pairs = {name: (getattr(before, name), getattr(self, name)) for name in ("threads", "cpu", "device")}
        return [f"{name}: {old} -> {new}" for name, (old, new) in pairs.items() if old != new]


class Record(Recorded):
    """A run: what was done (`identity`), what was asked for (`configuration`), and a step per training set size.

    `finals` are the ends asked for so far, the last of them now; `filed_final` is that of the scenario's file. An end
    is reached where its step stands. `status` is about the last of `finals`. `files`: the SHA-256 of the files beside
    it, by name; earlier records have none.
    """

    schema_version: Literal[3] = SCHEMA_VERSION
    run_id: str
    identity: dict[str, Any]
    configuration: dict[str, Any] = Field(default_factory=dict)
    kernels: dict[str, KernelFacts] = Field(default_factory=dict)
    deviations: dict[str, Any] = Field(default_factory=dict)
    filed_final: PositiveInt
    finals: list[PositiveInt]
    status: Literal["running", "done", "failed"] = "running"
    failure: Failure | None = None
    sessions: list[Session] = Field(default_factory=list)
    steps: list[Step] = Field(default_factory=list)
    files: dict[str, str] = Field(default_factory=dict)

    @field_validator("identity")
    @classmethod
    def _names_files(cls, identity: dict[str, Any]) -> dict[str, Any]:
        name = identity.get("scenario", {}).get("name")
        if name is not None and not NAME.fullmatch(str(name)):
            raise ValueError(f"scenario.name {name!r} is no name of a file")
        return identity

    @property
    def batch_size(self) -> int:
        """How many are picked at once."""
        return int(self.identity["batch_size"])

    @property
    def kernel(self) -> KernelFacts:
        """What the run's own kernel states of itself."""
        return self.kernels.get(self.identity["kernel"]["name"], KernelFacts())

    def step(self, n_train: int) -> Step | None:
        """The step of a training set size."""
        return next((step for step in self.steps if step.n_train == n_train), None)

    def path(self, final: int) -> Iterator[Step]:
        """The recorded steps on the way to an end: whole batches, and the end itself."""
        initial = self.identity["scenario"]["initial"]
        for step in self.steps:
            whole = step.n_train < final and (step.n_train - initial) % self.batch_size == 0
            if whole or step.n_train == final:
                yield step

    def picked_before(self, n_train: int) -> list[int]:
        """What was picked on the way to a training set size of this run, in order."""
        picked = [index for step in self.path(n_train) for index in step.picked or []]
        return picked[: n_train - self.identity["scenario"]["initial"]]

    def reached(self, final: int) -> bool:
        """Whether a run to this end is done."""
        return self.step(final) is not None

    def ends(self) -> list[int]:
        """The ends that this record speaks of: those asked for, and the scenario's own where it was passed."""
        passed = {self.filed_final} if self.reached(self.filed_final) else set()
        return sorted({*self.finals, *passed})

    def departures(self, final: int) -> dict[str, Any]:
        """The deviations of a run to this end."""
        return self.deviations | ({} if final == self.filed_final else {"scenario.final": final})
