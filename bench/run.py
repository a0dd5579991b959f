"""One run, or with `-m` a Hydra multirun: python -m bench.run scenario=… algorithm=… batch_size=… seed=…"""

import contextlib
import logging
import os
import signal
import statistics
import sys
import uuid
from collections.abc import Iterable
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bench.commands.frame import framed
from bench.config.blame import in_one_line
from bench.config.command_line import HydraLine
from bench.config.compose import bind_chosen, bind_composed, compose_run, composed, plain
from bench.config.files import VERSION_BASE, is_pattern, parse, refuse_interval, values_of, written_out
from bench.config.hydra_mistakes import SEVERAL, dotted_keys
from bench.config.places import CONF
from bench.config.schema import RunConfig
from bench.config.sweep import is_plain
from bench.errors import UserError, nearest, tell
from bench.runs.record import make_folder, write_atomically
from bench.runs.record_schema import Step
from bench.runs.stopping import Stopped, die_with, listen
from bench.selection.pairs import check

log = logging.getLogger(__name__)
FAILURES = "BMDAL_BENCH_FAILURES"
"""Environment variable: the file in which the jobs that a launcher starts elsewhere tell of their failures."""
_failures: list[str] = []


@hydra.main(config_path=str(CONF), config_name="config", version_base=VERSION_BASE)
def _hydra_main(config: DictConfig) -> float | None:
    """One job; returns its objective for Hydra's sweepers, nothing where it failed.

    A failure is told and the sweep goes on; a signal ends the sweep.
    """
    main = int(Path(os.environ[FAILURES]).name.split(".")[1])
    # joblib's processes wait for ever for one that is gone: between runs they end with it, in a run once that is saved
    of_joblib = main != os.getpid() and "joblib" in str(HydraConfig.get().launcher.get("_target_"))
    try:
        listen()
        if of_joblib:
            die_with(main)
        return execute(bind_chosen(plain(config), HydraConfig.get().runtime))
    except Stopped as stop:
        stop.tell()
        if of_joblib and os.getppid() != main:
            os._exit(128 + stop.signum)
        raise
    except Exception as error:
        if line := str(error) if isinstance(error, UserError) else in_one_line(error):
            tell(line)
        else:
            log.exception("run failed")
        _tell(f"{type(error).__name__}: {error}")
        return None
    finally:
        if of_joblib:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def execute(run: RunConfig) -> float:
    """Do one run in this process with its threads. Returns its objective."""
    from bench.learning.cycle import run_active_learning  # noqa: PLC0415
    from bench.runs.device import prepare_device  # noqa: PLC0415 - torch, which takes seconds to import

    prepare_device(run)
    steps = run_active_learning(run).content.steps
    return objective(run, next(step for step in steps if step.n_train == run.scenario.final))


def objective(run: RunConfig, step: Step) -> float:
    """What a sweeper is to lower, of a run's last step: the mean over the models of a committee.

    The error on the validation set by which training stopped early (MAE(E) in eV + MAE(F) in eV/Å, or what
    `training.early_stopping` says), or an error on the test set in kcal/mol or kcal/mol/Å.
    """
    if run.objective == "validation":
        return float(statistics.fmean(step.validation_eV))
    unit = "kcal_mol_A" if "force" in run.objective else "kcal_mol"
    return float(getattr(step.metrics, f"{run.objective.removeprefix('test_')}_{unit}"))


def check_command_line(line: HydraLine) -> RunConfig:
    """Compose and bind every value on the command line once, so that a mistake is one line, before anything runs.

    Returns the first run. Raises UserError with the nearest right name.
    """
    overrides = parse(line.words, line.files)
    of_hydra = [override.input_line or "" for override in overrides if override.is_hydra_override()]
    for override in overrides:
        if override.is_hydra_override() and override.is_sweep_override():
            raise UserError(f"{override.input_line}: Hydra's own keys take one value, not several")
    own = {o.get_key_element(): o for o in overrides if not o.is_hydra_override()}
    words = [*of_hydra, *(values_of(override)[0] for override in own.values())]
    config = composed(words, line.files)
    if not isinstance(config.hydra.sweeper, DictConfig):
        raise UserError(f"hydra.sweeper = {config.hydra.sweeper}: choose one with hydra/sweeper=…")
    multirun = line.flags.multirun or config.hydra.mode == RunMode.MULTIRUN
    if multirun:
        params = config.hydra.sweeper.get("params") or {}
        swept = {o.get_key_element(): o for o in parse((f"{k}={v}" for k, v in params.items()), line.files)}
        line.overrides += [written_out(o) for key, o in swept.items() if key not in own and is_pattern(o)]
        own = swept | own
    given = [override for override in overrides if not override.is_hydra_override()]
    _check_sweeps([*given, *own.values()], config, multirun=multirun)
    choices = [values_of(override) for override in own.values()]
    first = [*of_hydra, *(options[0] for options in choices)]
    variants = [
        [*first[:position], option, *first[position + 1 :]]
        for position, options in enumerate(choices, len(of_hydra))
        for option in options[1:]
        if not is_plain(option)
    ]
    whole = config if first == words else composed(first, line.files)
    runs = [bind_composed(whole, line.files), *(compose_run(variant, line.files) for variant in variants)]
    for run in runs:
        check(run)
    results = own.get("results")
    if not (results and results.is_sweep_override()):
        _check_room(config, multirun=multirun)
    return runs[0]


def _check_room(config: DictConfig, *, multirun: bool) -> None:
    """Write what Hydra itself writes: it ends with a traceback where it cannot. Raises WriteError."""
    try:
        folder = Path(config.hydra.sweep.dir if multirun else config.hydra.run.dir)
    except OmegaConfBaseException:  # it refers to what only Hydra's application knows
        return
    if multirun:
        make_folder(folder)
        write_atomically(folder / "multirun.yaml", OmegaConf.to_yaml(config).encode())
    elif config.hydra.output_subdir is not None or not folder.is_dir():
        make_folder(folder)


def check_what_is_shown(line: HydraLine) -> None:
    """Compose what is to be shown, so that a mistake is one line. Raises UserError."""
    if line.flags.shell_completion:
        return
    config, package = composed(line.words, line.files), line.flags.package
    if line.flags.cfg and package not in (None, "_global_") and OmegaConf.select(config, package) is None:
        raise UserError(f"--package {package}: nothing is there; {nearest(package, dotted_keys(config))}")


def _check_sweeps(overrides: Iterable[Override], config: DictConfig, *, multirun: bool) -> None:
    """Refuse several values of a key where nothing sweeps over them. Raises UserError."""
    basic = "BasicSweeper" in str(config.hydra.sweeper.get("_target_"))
    for override in overrides:
        if override.is_sweep_override() and not multirun:
            raise UserError(f"{override.input_line}: {SEVERAL}")
        if basic:
            refuse_interval(override)


@framed
def main() -> None:
    """Entry point; exits with 0 only when every run is done, with 2 after a mistake in the input."""
    line = HydraLine(sys.argv[1:])
    if line.flags.experimental_rerun is not None:
        results = Path("results")
    elif line.only_shows:
        results = None
        check_what_is_shown(line)
    else:
        results = Path(check_command_line(line).results)
    sys.argv[1:] = line.arguments()
    if results is None:
        _hydra_main()
        return
    told = results.absolute() / "multirun" / f"failures.{os.getpid()}.{uuid.uuid4().hex}"
    os.environ[FAILURES] = str(told)
    try:
        _hydra_main()
    finally:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            _failures.extend(told.read_text(encoding="utf-8").splitlines())
            told.unlink()
    if _failures:
        sys.exit(2)


def _tell(failure: str) -> None:
    """Take note of a failure, in a file where another process waits for it."""
    _failures.append(failure)
    told = Path(os.environ[FAILURES])
    if told.name.split(".")[1] != str(os.getpid()):
        make_folder(told.parent)
        with told.open("a", encoding="utf-8") as file:
            file.write(failure.replace("\n", " ") + "\n")


if __name__ == "__main__":
    main()
