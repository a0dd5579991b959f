"""Which kernels and selections go together; what the project's own state of themselves is known without torch."""

import contextlib
import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.config.places import PACKAGE, cache_folder
from bench.config.plugins import PROJECT, check_name, offers, plugin
from bench.config.schema import RunConfig
from bench.errors import UserError
from bench.potentials.architecture import Architecture, check_precision, without_gradients
from bench.runs.record import write_atomically


@dataclass(frozen=True)
class Facts:
    """What a kernel and a selection state of themselves."""

    kernel: str
    members: int
    has_features: bool
    needs_forces: bool
    needs_gradients: bool
    needs_model: bool
    selection: str
    needs_features: bool


def check(run: RunConfig) -> Facts:
    """Refuse a pair that means nothing, or that the model does not serve. Raises UserError with the reason."""
    check_name("model", run.model)
    check_name("kernel", run.kernel)
    check_name("selection", run.selection)
    architecture: Architecture = offers(plugin(run.model, "model"), Architecture, "model")
    check_precision(architecture, run.precision)
    facts = _known(run.kernel, run.selection)
    if facts.needs_features and not facts.has_features:
        raise UserError(without_distances(facts.selection, facts.kernel))
    if facts.needs_gradients and not architecture.gradient_features:
        raise UserError(without_gradients(facts.kernel, architecture.name))
    if run.first_batch == "selected" and facts.needs_model:
        raise UserError(
            f"first_batch = 'selected', but kernel {facts.kernel} needs a trained model: choose kernel=descriptor,"
            " chgnet, sevennet or soap, or first_batch=random"
        )
    if facts.needs_forces and not run.training.forces:
        raise UserError(
            f"kernel {facts.kernel} needs forces, but training.force_weight = 0 in scenario {run.scenario.name}:"
            " choose a kernel of energies"
        )
    return facts


def without_distances(selection: str, kernel: str) -> str:
    """What is said where a selection needs features and the kernel has none."""
    return (
        f"selection {selection} needs distances between structures, but kernel {kernel} is diagonal: choose"
        " selection=max_diag, or a FEAT or GP kernel"
    )


def _known(kernel: dict[str, Any], selection: dict[str, Any]) -> Facts:
    """The facts of a pair. Those of the project's own classes are kept: building them takes torch, a second or more."""
    if not all(str(part.get("_target_", "")).startswith(PROJECT) for part in (kernel, selection)):
        return _stated(kernel, selection)
    file = cache_folder() / f"methods-{_digest(*_sources())}.json"
    key = _digest(json.dumps([kernel, selection], sort_keys=True).encode())
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return Facts(**json.loads(file.read_bytes())[key])
    facts = _stated(kernel, selection)
    with contextlib.suppress(OSError, UserError):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, json.dumps(_read(file) | {key: asdict(facts)}).encode())
    return facts


def _sources() -> list[bytes]:
    paths = sorted(path for group in ("kernels", "selection") for path in (PACKAGE / group).glob("*.py"))
    return [path.read_bytes() for path in paths]


def _stated(kernel: dict[str, Any], selection: dict[str, Any]) -> Facts:
    """What the classes themselves say. Raises UserError."""
    from bench.kernels.base import Kernel  # noqa: PLC0415 - torch
    from bench.selection.base import Selection  # noqa: PLC0415

    k: Kernel = offers(plugin(kernel, "kernel"), Kernel, "kernel")
    s: Selection = offers(plugin(selection, "selection"), Selection, "selection")
    gradients, model = bool(getattr(k, "needs_gradients", False)), bool(getattr(k, "needs_model", True))
    return Facts(k.name, k.members, k.has_features, k.needs_forces, gradients, model, s.name, s.needs_features)


def _read(file: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        content = json.loads(file.read_bytes())
        return content if isinstance(content, dict) else {}
    return {}


def _digest(*contents: bytes) -> str:
    return hashlib.sha256(b"\n".join(contents)).hexdigest()[:16]
