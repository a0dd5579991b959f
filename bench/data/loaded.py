"""The structures of a dataset that a yaml configures."""

from bench.config.plugins import PROJECT, Plugin, load_dataset
from bench.data.structures import Structures, check_structures


def loaded(config: Plugin) -> Structures:
    """Load a dataset, and check what a class from outside gives: the project's own check what they read.

    Raises UserError.
    """
    data: Structures = load_dataset(config)
    if not config["_target_"].startswith(PROJECT):
        check_structures(data)
    return data
