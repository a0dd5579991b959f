"""Model, training, kernel and selection by words as of a run, where there is no run: no scenario, no sizes."""

from collections.abc import Sequence

from bench.config.compose import composed, plain
from bench.config.files import PROJECT_FILES, ConfigFiles, parse
from bench.config.schema import RunConfig, bind

UNIT = "dataset.energy_unit=eV"
"""What ASE and its files have; a benchmark asks for it, here one unit serves nearly all, and it is told."""
USUAL = (
    "scenario=own",
    *(f"scenario.{one}" for one in ("name=select", "initial=1", "final=1", "validation=1", "pool=0", "test=1")),
    "batch_size=1",
    "training.minibatch=${model.minibatch}",
    UNIT,
)
WITHOUT_MODEL = ("kernel=descriptor", "selection=lcmd")
WITH_MODEL = ("kernel=feat_ll", "selection=lcmd")
SAYS_UNIT = {"dataset", "dataset.energy_unit"}


def says_unit(words: Sequence[str], files: ConfigFiles = PROJECT_FILES) -> bool:
    """Whether words say the unit of energies, or a dataset, which knows its own."""
    return any(override.key_or_group in SAYS_UNIT for override in parse(words, files))


def configured(words: Sequence[str], files: ConfigFiles = PROJECT_FILES, *, with_model: bool = True) -> RunConfig:
    """Compose and bind; what is not said of the method is LCMD, on FEAT(LL) or on a descriptor that needs no model.

    So `kernel=soap` alone is LCMD on SOAP. Raises UserError.
    """
    keys = {override.key_or_group for override in parse(words, files)}
    usual = [*USUAL, *(() if "algorithm" in keys else WITH_MODEL if with_model else WITHOUT_MODEL)]
    left = [word for word, one in zip(usual, parse(usual, files), strict=True) if one.key_or_group not in keys]
    return bind(plain(composed([*left, *words], files), files))
