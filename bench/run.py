"""One run, or with `-m` a Hydra multirun: python -m bench.run scenario=… algorithm=… batch_size=… seed=…"""

import itertools
import logging
import os
import re
import sys
from typing import Any

import hydra
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bench.data.datasets.molecule_npz import PROJECT
from bench.errors import UserError, nearest
from bench.loop import check, run_active_learning
from bench.schema import RunConfig, bind

log = logging.getLogger(__name__)
CONF = str(PROJECT / "conf")
_failures: list[str] = []


@hydra.main(config_path=CONF, config_name="config", version_base="1.3")
def _hydra_main(config: DictConfig) -> None:
    try:
        execute(configure(config))
    except UserError as error:
        _failures.append(str(error))
        print(f"error: {error}", file=sys.stderr)
    except Exception as error:
        _failures.append(f"{type(error).__name__}: {error}")
        log.exception("run failed")


def configure(config: DictConfig) -> RunConfig:
    """Bind a composed configuration. Raises UserError."""
    plain: Any = OmegaConf.to_container(config, resolve=True)
    run = bind(plain)
    check(run)
    return run


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
    words = [word for word in arguments if not word.startswith("-")]
    try:
        overrides = OverridesParser.create().parse_overrides(words)
        choices = [
            [f"{(o.input_line or '').split('=', 1)[0]}={value}" for value in o.sweep_string_iterator()]
            if o.is_sweep_override()
            else [o.input_line or ""]
            for o in overrides
        ]
        with initialize_config_dir(CONF, version_base="1.3"):
            first = [options[0] for options in choices]
            variants = [
                [*first[:position], option, *first[position + 1 :]]
                for position, options in enumerate(choices)
                for option in options[1:]
            ]
            for variant in itertools.chain([first], variants):
                configure(compose("config", [word for word in variant if not word.startswith("hydra")]))
    except OverrideParseException as error:
        raise UserError(f"cannot read {error.override!r} on the command line: quote it or mend it") from None
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(_one_line(str(error))) from None
    finally:
        GlobalHydra.instance().clear()


def _one_line(message: str) -> str:
    """Hydra's message without its advice, with the nearest known name in its place."""
    first = message.strip().splitlines()[0]
    unknown = re.search(r"Could not override '([^']+)'", first)
    if unknown:
        with initialize_config_dir(CONF, version_base="1.3"):
            known = _dotted_keys(OmegaConf.to_container(compose("config"), resolve=False))
        return f"unknown configuration key {unknown[1]!r}: {nearest(unknown[1], known)}"
    missing = re.search(r"Could not find '([^']+)/([^'/]+)'|Could not load '([^']+)/([^'/]+)'", message)
    if missing:
        group, name = (missing[1] or missing[3]), (missing[2] or missing[4])
        known = [path.stem for path in (PROJECT / "conf" / group).glob("*.yaml")]
        return f"no {group} is called {name!r}: {nearest(name, known)}"
    return first


def _dotted_keys(tree: Any, prefix: str = "") -> list[str]:
    keys = []
    for key, value in tree.items():
        keys.append(f"{prefix}{key}")
        if isinstance(value, dict):
            keys += _dotted_keys(value, f"{prefix}{key}.")
    return keys


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
