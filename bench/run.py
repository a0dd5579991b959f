"""One run, or with `-m` a Hydra multirun: python -m bench.run scenario=… algorithm=… batch_size=… seed=…"""

import itertools
import logging
import os
import sys
import uuid
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from bench.compose import bind_chosen, compose_run, parse, values_of
from bench.errors import UserError
from bench.places import CONF
from bench.record import make_folder
from bench.schema import RunConfig
from bench.stopping import Stopped, listen

log = logging.getLogger(__name__)
FAILURES = "BMDAL_BENCH_FAILURES"
"""Environment variable: the file in which the jobs that a launcher starts elsewhere tell of their failures."""
_failures: list[str] = []


@hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")
def _hydra_main(config: DictConfig) -> None:
    """One job. A failure is told and the sweep goes on; a signal ends the sweep."""
    try:
        listen()
        plain: Any = OmegaConf.to_container(config, resolve=True)
        execute(bind_chosen(plain, HydraConfig.get().runtime.choices))
    except Stopped as stop:
        print(stop, file=sys.stderr)
        sys.exit(stop.exit_code)
    except Exception as error:
        if isinstance(error, UserError):
            print(f"error: {error}", file=sys.stderr)
        else:
            log.exception("run failed")
        _tell(f"{type(error).__name__}: {error}")


def execute(run: RunConfig) -> None:
    """Do one run in this process with its threads."""
    from bench.device import prepare_device  # noqa: PLC0415 - torch, which takes seconds to import
    from bench.loop import run_active_learning  # noqa: PLC0415

    prepare_device(run)
    run_active_learning(run)


def check_command_line(arguments: list[str]) -> RunConfig:
    """Compose and bind every value on the command line once, so that a mistake is one line, before anything runs.

    Returns the first run. Raises UserError with the nearest right name.
    """
    overrides = parse([word for word in arguments if not word.startswith("-")])
    choices = [values_of(o) for o in overrides if not (o.key_or_group or "").startswith("hydra")]
    first = [options[0] for options in choices]
    variants = [
        [*first[:position], option, *first[position + 1 :]]
        for position, options in enumerate(choices)
        for option in options[1:]
    ]
    runs = [compose_run(variant) for variant in itertools.chain([first], variants)]
    from bench.loop import check  # noqa: PLC0415 - torch: a mistake above is told without waiting for it

    for run in runs:
        check(run)
    return runs[0]


def main() -> None:
    """Entry point; exits with 0 only when every run is done, with 2 after a mistake in the input."""
    if {"--help", "-h", "--hydra-help", "--version"} & set(sys.argv):
        _hydra_main()
        return
    try:
        first = check_command_line(sys.argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    told = Path(first.results).absolute() / "multirun" / f"failures.{os.getpid()}.{uuid.uuid4().hex}"
    os.environ[FAILURES] = str(told)
    _hydra_main()
    if told.exists():
        _failures.extend(told.read_text().splitlines())
        told.unlink()
    if _failures:
        sys.exit(2)


def _tell(failure: str) -> None:
    """Take note of a failure, in a file where another process waits for it."""
    _failures.append(failure)
    told = Path(os.environ[FAILURES])
    if told.name.split(".")[1] != str(os.getpid()):
        make_folder(told.parent)
        with told.open("a") as file:
            file.write(failure.replace("\n", " ") + "\n")


if __name__ == "__main__":
    main()
