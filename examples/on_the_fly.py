"""On the fly: dynamics with a model, a batch of what it met labelled by a real calculator, trained again, until sure.

    python examples/on_the_fly.py                               # a Cu7Au6 cluster, ASE's EMT: nothing else is needed
    python examples/on_the_fly.py --system ethanol              # tblite's GFN2-xTB: pip install 'bmdal-bench[examples]'
    python examples/on_the_fly.py --cluster cluster=local cluster.workers=2       # labels in parallel, or cluster=slurm

A cycle: some walkers run Langevin dynamics with the model, each from another structure, until the uncertainty of the
energy is STOP times its bound (nothing beyond is worth a label); of the frames on their way, `--batch` are selected,
labelled and added to the training set; the model is trained anew. It ends when no frame of CALM cycles in a row is
above the bound. Beside it, for comparison, as many frames are drawn at random from the same trajectories for a model
of its own, and both are tried on a trajectory that the real calculator drives. Uncertainties are calibrated on the
validation structures, a tenth of the labelled.

Labels are made here, or by the launcher: `--cluster` takes its words (run from the checkout). Every product is a file,
written whole: after a kill the same command goes on, with the same numbers. Per seed and cycle: frames.xyz (with
uncertainties), picks.json, selected.xyz and random.xyz (labelled), record.json.
"""

import argparse
import hashlib
import io
import json
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ase
import ase.build
import ase.cluster
import ase.io
import numpy as np
import torch
from ase import units
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.md.langevin import Langevin
from matplotlib.figure import Figure

from bench import api
from bench.calculator import PotentialCalculator
from bench.config.seeds import stream
from bench.errors import UserError
from bench.launch.cluster import cluster_of
from bench.launch.tasks import Task, do
from bench.learning.models import Model
from bench.runs.record import write_atomically
from bench.runs.system import cores
from bench.uncertainty.observer import TooUncertain, UncertaintyObserver, with_uncertainty

log = logging.getLogger("on_the_fly")
MODULE, LABEL = "examples.on_the_fly", "label"
"""By which a worker finds `label_part`."""
START = 0.03
"""Å: how far atoms are displaced where a trajectory begins."""
STOP = 3.0
"""Times the bound: where a walker stops."""
CALM = 2
"""Cycles in a row without a frame above the bound, after which it ends: one alone may be luck."""
BROKEN = 30.0
"""eV/Å: a label with such a force is no structure to learn from."""


@dataclass(frozen=True)
class System:
    """What is simulated: fresh structures, displaced by so many Å, and the real calculator; K, fs, Å, eV per atom.

    The first labels are of structures displaced by up to `widest`, so that the first model knows where it ends.
    """

    fresh: Callable[[np.random.Generator, float], ase.Atoms]
    calculator: Callable[[], Any]
    temperature: float
    timestep: float
    cutoff: float
    bound: float
    widest: float


def cluster(generator: np.random.Generator, displaced: float) -> ase.Atoms:
    """An icosahedron of 13 atoms with gold at six random places."""
    atoms = ase.cluster.Icosahedron("Cu", 2)
    atoms.symbols[generator.permutation(13)[:6]] = "Au"
    atoms.positions *= 1.05
    atoms.positions += generator.normal(scale=displaced, size=(13, 3))
    return atoms


def ethanol(generator: np.random.Generator, displaced: float) -> ase.Atoms:
    """The molecule, distorted."""
    atoms = ase.build.molecule("CH3CH2OH")
    atoms.positions += generator.normal(scale=displaced, size=(9, 3))
    return atoms


def gfn2() -> Any:
    """A semi-empirical method for molecules. Raises UserError where it is not installed."""
    try:
        from tblite.ase import TBLite  # noqa: PLC0415 - an extra
    except ImportError:
        raise UserError("--system ethanol needs tblite: pip install 'bmdal-bench[examples]'") from None
    return TBLite(method="GFN2-xTB", verbosity=0)


SYSTEMS = {
    "cluster": System(cluster, EMT, temperature=700.0, timestep=4.0, cutoff=5.0, bound=0.008, widest=0.25),
    "ethanol": System(ethanol, gfn2, temperature=500.0, timestep=0.5, cutoff=4.0, bound=0.003, widest=0.12),
}


@dataclass(frozen=True)
class Settings:
    """What the command line says."""

    system: str
    output: Path
    cycles: int
    initial: int
    batch: int
    walkers: int
    steps: int
    every: int
    test: int
    bound: float
    uncertainty: str
    algorithm: str
    epochs: int
    hidden: int
    cluster: tuple[str, ...]

    def words(self) -> list[str]:
        """A small network, trained for a short time: this is an example."""
        return [
            *(
                f"model.r_max={SYSTEMS[self.system].cutoff}",
                "model.n_radial=4",
                f"model.hidden=[{self.hidden},{self.hidden}]",
            ),
            *(f"training.epochs={self.epochs}", "training.minibatch=5", f"results={self.output}"),
        ]


def labelled_by(name: str, atoms: ase.Atoms) -> ase.Atoms | None:
    """A structure with energy and forces of the real calculator; None where that fails or says nonsense."""
    copy = ase.Atoms(atoms.symbols, atoms.positions.round(8), cell=atoms.cell, pbc=atoms.pbc)  # as in a file
    copy.calc = SYSTEMS[name].calculator()
    try:
        energy, forces = copy.get_potential_energy(), copy.get_forces()
    except UserError:
        raise
    except Exception as error:  # every calculator has its own errors; the structure is left out
        log.warning("a label failed (%s: %s)", type(error).__name__, error)
        return None
    if not (np.isfinite(energy) and np.abs(forces).max() < BROKEN):
        return None
    copy.calc = SinglePointCalculator(copy, energy=energy, forces=forces)
    return copy


def label(settings: Settings, structures: Sequence[ase.Atoms]) -> list[ase.Atoms]:
    """Label structures, here or by the workers of a cluster; those that fail are left out."""
    if settings.cluster:
        return label_elsewhere(settings, structures)
    found = [labelled_by(settings.system, atoms) for atoms in structures]
    return [atoms for atoms in found if atoms is not None]


def label_elsewhere(settings: Settings, structures: Sequence[ase.Atoms]) -> list[ase.Atoms]:
    """The same in as many parts as there are workers; each is a file named by its content, so a kill repeats none."""
    cluster, folder = cluster_of(settings.cluster), settings.output / "labelling"
    parts = []
    for rows in np.array_split(np.arange(len(structures)), min(len(structures), cluster.workers or len(cores()))):
        text = as_text([ase.Atoms(structures[row].symbols, structures[row].positions) for row in rows])
        parts.append(folder / f"{hashlib.sha256(text).hexdigest()[:16]}.xyz")
        write(parts[-1], text)
    tasks = [Task(MODULE, [LABEL, settings.system, str(part)]) for part in parts if not done(part).exists()]
    if tasks:
        do(tasks, cluster, folder)
    return [atoms for part in parts if done(part).stat().st_size for atoms in ase.io.read(done(part), ":")]


def done(part: Path) -> Path:
    """The file of a part's labels."""
    return part.with_suffix(".labelled.xyz")


def label_part(system: str, path: str) -> None:
    """What a worker does."""
    found = [labelled_by(system, atoms) for atoms in ase.io.read(path, ":")]
    write(done(Path(path)), as_text([atoms for atoms in found if atoms is not None]))


def as_text(structures: Sequence[ase.Atoms]) -> bytes:
    """Structures as extended XYZ."""
    text = io.StringIO()
    for atoms in structures:
        ase.io.write(text, atoms, format="extxyz")
    return text.getvalue().encode()


def write(path: Path, content: bytes) -> None:
    """Write a file as a whole, with its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content)


def made(path: Path, make: Callable[[], list[ase.Atoms]]) -> list[ase.Atoms]:
    """The structures of a file, which is made if it is not there; what is used is what the file says."""
    if not path.exists():
        write(path, as_text(make()))
    return ase.io.read(path, ":")


def made_json(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The same for anything else."""
    if not path.exists():
        write(path, json.dumps(make(), indent=1).encode())
    content: dict[str, Any] = json.loads(path.read_bytes())
    return content


def moving(system: System, atoms: ase.Atoms, generator: np.random.Generator) -> Langevin:
    """Langevin dynamics of atoms with their calculator, at the system's temperature from the start."""
    spread = np.sqrt(units.kB * system.temperature * atoms.get_masses())[:, None]
    atoms.set_momenta(spread * generator.standard_normal((len(atoms), 3)))
    options = {"temperature_K": system.temperature, "friction": 0.01 / units.fs, "fixcm": False, "rng": generator}
    return Langevin(atoms, system.timestep * units.fs, **options)


def walk(settings: Settings, model: Model, seed: int, cycle: int) -> list[ase.Atoms]:
    """The frames that walkers met with the model: every few steps, and where one stopped."""
    system, frames = SYSTEMS[settings.system], []
    for walker in range(settings.walkers):
        generator = stream(seed, "dynamics", n_train=cycle, member=walker)
        atoms = system.fresh(generator, START)
        atoms.calc = PotentialCalculator(model, uncertainty=settings.uncertainty)
        dynamics = moving(system, atoms, generator)
        stopping = UncertaintyObserver(atoms, energy_std_per_atom=STOP * settings.bound)
        dynamics.attach(stopping)
        met: list[ase.Atoms] = []

        def keep(atoms: ase.Atoms = atoms, met: list[ase.Atoms] = met, dynamics: Langevin = dynamics) -> None:
            met.append(with_uncertainty(atoms))
            met[-1].info["step"] = dynamics.nsteps

        dynamics.attach(keep, interval=settings.every)
        try:
            dynamics.run(settings.steps)
        except TooUncertain as stopped:
            met.append(stopped.structure)
            met[-1].info["step"] = dynamics.nsteps
        except UserError as error:  # atoms were flung away before the observer could look
            log.warning("walker %d: %s", walker, error)
        for frame in met:
            del frame.arrays["momenta"]
            frame.info["walker"] = walker
        frames += met
    return frames


def pick(settings: Settings, model: Model, frames: list[ase.Atoms], seed: int, cycle: int) -> dict[str, Any]:
    """Rows of frames: a batch selected by the algorithm, and as many at random of those that it could choose from."""
    n = min(settings.batch, len(frames) // 2)
    batch = api.select(frames, n, model=model, algorithm=settings.algorithm, seed=seed, words=settings.words())
    drawn = stream(seed, "random frames", n_train=cycle).choice(batch.chosen.among, n, replace=False)
    return {"selected": batch.rows.tolist(), "random": drawn.tolist()}


def errors(model: Model, test: list[ase.Atoms]) -> dict[str, float]:
    """Root mean square errors on labelled frames: energy per atom (meV) and force component (meV/Å)."""
    calculator, energy, forces = PotentialCalculator(model), [], []
    for frame in test:
        atoms = frame.copy()
        atoms.calc = calculator
        energy.append((atoms.get_potential_energy() - frame.get_potential_energy()) / len(frame))
        forces.append(atoms.get_forces() - frame.get_forces())
    rms = [1000 * float(np.sqrt(np.mean(np.square(values)))) for values in (energy, forces)]
    largest = 1000 * float(max(np.abs(one).max() for one in forces))
    return {"energy_meV_per_atom": rms[0], "force_meV_A": rms[1], "largest_force_meV_A": largest}


def beginning(settings: Settings, seed: int) -> list[ase.Atoms]:
    """Labelled structures to start with."""
    system, generator = SYSTEMS[settings.system], stream(seed, "initial structures")
    displaced = generator.uniform(START, system.widest, settings.initial)
    return label(settings, [system.fresh(generator, size) for size in displaced])


def truth(settings: Settings, seed: int) -> list[ase.Atoms]:
    """Labelled frames of trajectories that the real calculator drives, apart in time."""
    system, frames = SYSTEMS[settings.system], []
    for walker in range(2):
        generator = stream(seed, "test trajectory", member=walker)
        atoms = system.fresh(generator, START)
        atoms.calc = system.calculator()
        dynamics = moving(system, atoms, generator)
        for _ in range(settings.test // 2):
            dynamics.run(2 * settings.every)
            frames.append(atoms.copy())
    return label(settings, frames)


def run_seed(settings: Settings, seed: int) -> list[dict[str, Any]]:
    """All cycles of a seed, or what is left of them."""
    folder = settings.output / f"seed_{seed}"
    initial = made(folder / "initial.xyz", partial(beginning, settings, seed))
    test = made(folder / "test.xyz", partial(truth, settings, seed))
    sets = {"selected": [*initial], "random": [*initial]}
    records: list[dict[str, Any]] = []
    for cycle in range(settings.cycles):
        place = folder / f"cycle_{cycle}"
        models = {arm: api.train(known, seed=seed, words=settings.words()) for arm, known in sets.items()}
        model = models["selected"]
        frames = made(place / "frames.xyz", partial(walk, settings, model, seed, cycle))
        picks = made_json(place / "picks.json", partial(pick, settings, model, frames, seed, cycle))
        for arm in sets:
            chosen = [frames[row] for row in picks[arm]]
            sets[arm] += made(place / f"{arm}.xyz", partial(label, settings, chosen))

        def record(
            cycle: int = cycle, models: dict[str, Model] = models, frames: list[ase.Atoms] = frames
        ) -> dict[str, Any]:
            above = [frame.info["energy_std"] / len(frame) for frame in frames]
            last = {int(frame.info["walker"]): int(frame.info["step"]) for frame in frames}
            return {
                "cycle": cycle,
                "labelled": {arm: len(models[arm].data) for arm in models},
                "errors": {arm: errors(models[arm], test) for arm in models},
                "steps_survived": sum(last.values()),
                "steps_asked": settings.walkers * settings.steps,
                "largest_energy_std_per_atom": float(max(above)),
                "mean_energy_std_per_atom": float(np.mean(above)),
            }

        records.append(made_json(place / "record.json", record))
        tell(seed, records[-1])
        if len(records) >= CALM and all(
            one["largest_energy_std_per_atom"] <= settings.bound for one in records[-CALM:]
        ):
            break
    return records


def tell(seed: int, record: dict[str, Any]) -> None:
    """A line about a cycle."""
    of_force = {arm: values["force_meV_A"] for arm, values in record["errors"].items()}
    log.info(
        "seed %d, cycle %d: %d labelled, largest uncertainty %.1f meV/atom, %d of %d steps; force RMSE %.0f meV/Å,"
        " %.0f with as many at random",
        *(seed, record["cycle"], record["labelled"]["selected"], 1000 * record["largest_energy_std_per_atom"]),
        *(record["steps_survived"], record["steps_asked"], of_force["selected"], of_force["random"]),
    )


def draw(settings: Settings, by_seed: dict[int, list[dict[str, Any]]]) -> Figure:
    """Errors against labels for both ways to choose, and the largest uncertainty that the walkers met."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    force, energy, sure = figure.subplots(1, 3)
    looks = {"selected": ("#0b6e4f", "o", settings.algorithm), "random": ("#888888", "s", "random")}
    for axes, key, name in (
        (force, "force_meV_A", "RMSE of forces / meV Å$^{-1}$"),
        (energy, "energy_meV_per_atom", "RMSE of energy / meV per atom"),
    ):
        for arm, (colour, marker, legend) in looks.items():
            curves = [
                ([one["labelled"][arm] for one in records], [one["errors"][arm][key] for one in records])
                for records in by_seed.values()
            ]
            for labels, values in curves:
                axes.plot(labels, values, color=colour, alpha=0.35, lw=1)
            shortest = min(len(labels) for labels, _ in curves)
            mean = [np.mean([part[:shortest] for part in parts], axis=0) for parts in zip(*curves, strict=True)]
            axes.plot(*mean, color=colour, marker=marker, label=f"{legend}, mean of {len(curves)}")
        axes.set(xlabel="labelled structures", ylabel=name, yscale="log")
        axes.set_title("on trajectories of the real calculator", fontsize="medium")
    for seed, records in by_seed.items():
        values = [1000 * one["largest_energy_std_per_atom"] for one in records]
        sure.plot([one["labelled"]["selected"] for one in records], values, marker="o", label=f"seed {seed}")
    sure.axhline(1000 * settings.bound, color="k", ls=":", label="bound")
    sure.axhline(1000 * STOP * settings.bound, color="#b00020", ls=":", label="walkers stop")
    sure.set(xlabel="labelled structures", ylabel="largest uncertainty met / meV per atom", yscale="log")
    sure.set_title("on trajectories of the model", fontsize="medium")
    sure.set_ylim(bottom=sure.get_ylim()[0] / 3)  # room for the legend
    for axes in (force, energy, sure):
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
        axes.tick_params(axis="y", which="both", labelsize="small")
        axes.legend(fontsize="small", loc="lower left" if axes is sure else "upper right")
    return figure


def parsed(words: Sequence[str] | None = None) -> tuple[Settings, list[int]]:
    """What the command line says, and the seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--system", choices=SYSTEMS, default="cluster")
    parser.add_argument("--output", type=Path, default=None, help="default: results/on_the_fly/SYSTEM")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--bound", type=float, default=None, help="eV per atom; default: the system's")
    parser.add_argument("--uncertainty", choices=("gp_ll", "gp_rp"), default="gp_rp")
    parser.add_argument(
        *("--cluster", "-c"), nargs="*", default=(), help="who labels: cluster=local cluster.workers=2, cluster=slurm …"
    )
    parser.add_argument("--algorithm", default="lcmd_feat_ll", help="of conf/algorithm")
    for name, value, what in (
        ("cycles", 12, "at most"),
        ("initial", 40, "structures to start with"),
        ("batch", 10, "labels a cycle"),
        ("walkers", 4, ""),
        ("steps", 500, "of a walker"),
        ("every", 10, "steps between frames"),
        ("test", 100, "frames of the test trajectories"),
        ("epochs", 200, "of each training"),
        ("hidden", 64, "width of the network's two layers"),
    ):
        parser.add_argument(f"--{name}", type=int, default=value, help=f"{what} (default: {value})".strip())
    given = vars(parser.parse_args(words))
    seeds = given.pop("seeds")
    given["output"] = given["output"] or Path("results/on_the_fly") / given["system"]
    given["cluster"] = tuple(given["cluster"])
    given["bound"] = given["bound"] or SYSTEMS[given["system"]].bound
    return Settings(**given), seeds


def main(words: Sequence[str] | None = None) -> None:
    """Run all seeds, or what is left, and draw the figure."""
    settings, seeds = parsed(words)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    log.setLevel(logging.INFO)
    logging.getLogger("bench.data").setLevel(logging.ERROR)  # GFN2's energies look like those of another unit
    torch.set_num_threads(1)  # small networks gain nothing, and the numbers are the same everywhere
    asked = {key: str(value) for key, value in vars(settings).items() if key not in ("output", "cluster", "cycles")}
    before = made_json(settings.output / "settings.json", lambda: asked)
    if before != asked:
        changed = ", ".join(key for key in asked if before.get(key) != asked[key])
        raise UserError(f"{settings.output} was begun with another {changed}: give another --output")
    by_seed = {seed: run_seed(settings, seed) for seed in seeds}
    write(settings.output / "records.json", json.dumps(by_seed, indent=1).encode())
    figure = io.BytesIO()
    draw(settings, by_seed).savefig(figure, format="png", dpi=150)
    write(settings.output / "on_the_fly.png", figure.getvalue())
    log.info("figure and records: %s", settings.output)


if __name__ == "__main__":
    try:
        if sys.argv[1:2] == [LABEL]:
            label_part(*sys.argv[2:])
        else:
            main()
    except UserError as error:
        sys.exit(f"error: {error}")
