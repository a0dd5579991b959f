"""One run, or with `-m` a Hydra multirun: python -m bench.run scenario=… algorithm=… batch_size=… seed=…"""

import itertools
import logging
import os
import sys
from typing import Any

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from bench.compose import CONF, bind_chosen, compose_run, parse, values_of
from bench.errors import UserError
from bench.loop import check, run_active_learning
from bench.schema import RunConfig

log = logging.getLogger(__name__)
_failures: list[str] = []


@hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")
def _hydra_main(config: DictConfig) -> None:
    try:
        plain: Any = OmegaConf.to_container(config, resolve=True)
        execute(bind_chosen(plain, HydraConfig.get().runtime.choices))
    except UserError as error:
        _failures.append(str(error))
        print(f"error: {error}", file=sys.stderr)
    except Exception as error:
        _failures.append(f"{type(error).__name__}: {error}")
        log.exception("run failed")


def execute(run: RunConfig) -> None:
    """Do one run in this process with its threads."""
    if run.device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"device = {run.device!r} but torch sees no GPU here: set device=cpu")
    torch.set_num_threads(run.threads or len(os.sched_getaffinity(0)))
    run_active_learning(run)


def check_command_line(arguments: list[str]) -> None:
    """Compose and bind every value on the command line once, so that a mistake is one line, before anything runs.

    Raises UserError with the nearest right name.
    """
    overrides = parse([word for word in arguments if not word.startswith("-")])
    choices = [values_of(o) for o in overrides if not (o.key_or_group or "").startswith("hydra")]
    first = [options[0] for options in choices]
    variants = [
        [*first[:position], option, *first[position + 1 :]]
        for position, options in enumerate(choices)
        for option in options[1:]
    ]
    for variant in itertools.chain([first], variants):
        check(compose_run(variant))


def main() -> None:
    """Entry point; exits with 0 only when every run is done, with 2 after a mistake in the input."""
    try:
        if not {"--help", "-h", "--hydra-help", "--version"} & set(sys.argv):
            check_command_line(sys.argv[1:])
    except UserError as error:
        sys.exit(_fail(error))
    _hydra_main()
    if _failures:
        sys.exit(2)


def _fail(error: UserError) -> int:
    print(f"error: {error}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
