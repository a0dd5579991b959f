"""Where the workers of a sweep run: the classes behind conf/cluster."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.config.compose import composed_cluster
from bench.config.files import PROJECT_FILES, ConfigFiles
from bench.config.places import FROM_WHEEL, PROJECT
from bench.config.plugins import plugin
from bench.errors import UserError
from bench.runs.system import cores

MB_PER_GB = 1024
MOST_MB = 10**9
SECONDS_EARLY = 60
"""SLURM may send its signal so much earlier than asked."""


@dataclass(frozen=True)
class Local:
    """Workers on this machine, each with cores (and a GPU) of its own."""

    workers: int | None
    gpus_per_worker: int
    attempts: int
    pack: int


@dataclass(frozen=True)
class Slurm:
    """Workers as the elements of a SLURM job array."""

    workers: int
    parallel: int | None
    partition: str | None
    account: str | None
    qos: str | None
    minutes: int
    memory_gb: float
    cpus_per_worker: int
    gpus_per_worker: int
    attempts: int
    pack: int
    seconds_to_stop: int
    setup: list[str] = field(default_factory=list)
    additional: dict[str, Any] | None = None


Cluster = Local | Slurm


@dataclass(frozen=True)
class Place:
    """The cores of one local worker, and its GPU."""

    cores: list[int]
    gpu: str | None


def cluster_of(words: Sequence[str], files: ConfigFiles = PROJECT_FILES) -> Cluster:
    """Compose `cluster=NAME` and `cluster.key=value` words. Raises UserError."""
    cluster: Cluster = plugin(composed_cluster(words, files), "cluster")
    if not isinstance(cluster, Local | Slurm):
        raise UserError(f"cluster._target_: {type(cluster).__name__} is no cluster: take Local or Slurm of {__name__}")
    for key in ("workers", "attempts", "pack", "parallel", "minutes", "cpus_per_worker", "seconds_to_stop"):
        value = getattr(cluster, key, None)
        if value is not None and value < 1:
            raise UserError(f"cluster.{key} = {value}: must be at least 1")
    if cluster.gpus_per_worker not in (0, 1):
        raise UserError(f"cluster.gpus_per_worker = {cluster.gpus_per_worker}: a run uses one GPU or none")
    if isinstance(cluster, Slurm):
        _check_limits(cluster)
    return cluster


def _check_limits(cluster: Slurm) -> None:
    """Refuse what SLURM takes for no limit at all, or would not leave a worker time to work. Raises UserError."""
    if not 1 <= cluster.memory_gb * MB_PER_GB < MOST_MB:
        raise UserError(f"cluster.memory_gb = {cluster.memory_gb}: must be above 0, the memory of a worker in GB")
    needed = (cluster.seconds_to_stop + SECONDS_EARLY) // 60 + 1
    if cluster.minutes < needed:
        raise UserError(
            f"cluster.minutes = {cluster.minutes}: a worker is stopped cluster.seconds_to_stop ="
            f" {cluster.seconds_to_stop} s ahead of its limit, or a minute earlier: give at least {needed}"
        )


def share(cluster: Local) -> int:
    """How many cores a local worker has: as configured, however many runs are left. Raises UserError."""
    return max(1, len(cores()) // _limited(cluster))


def _limited(cluster: Local) -> int:
    """The workers that are asked for: one for every core or GPU where nothing is said. Raises UserError."""
    what = "GPUs" if cluster.gpus_per_worker else "cores"
    limit = len(visible_gpus() if cluster.gpus_per_worker else cores())
    workers = cluster.workers or limit
    if workers > limit or limit == 0:
        raise UserError(f"cluster.workers = {workers}: there are {limit} {what} here; every worker needs its own")
    return workers


def places(cluster: Local, most: int, cores_each: int, taken: Sequence[Place] = ()) -> list[Place]:
    """Cores and GPUs that this process may use and nobody has taken, for at most `most` workers.

    As many as `cluster.workers` says, or, where it says nothing, as there are left: none, maybe. Raises UserError.
    """
    mine = cores()
    wanted = _limited(cluster)
    shared = wanted > len(mine)  # more GPUs than cores
    busy = {core for place in taken for core in place.cores}
    free = mine if shared else [core for core in mine if core not in busy]
    room = wanted if shared else len(free) // cores_each
    gpus: list[str] = []
    if cluster.gpus_per_worker:
        gpus = [gpu for gpu in visible_gpus() if gpu not in {place.gpu for place in taken}]
        room = min(room, len(gpus))
    workers = min(wanted, most)
    if room < workers:
        workers = 0 if cluster.workers else room
    return [
        Place([free[(worker * cores_each + i) % len(free)] for i in range(cores_each)], gpus[worker] if gpus else None)
        for worker in range(workers)
    ]


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name for name in chosen.split(",") if name]
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return [str(number) for number, line in enumerate(listed.stdout.splitlines()) if line.startswith("GPU ")]


def environment(threads: int) -> dict[str, str]:
    """What keeps the libraries of one worker to its threads, and has it import this code whatever its folder holds."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
    return dict.fromkeys(names, str(threads)) | this_code()


def this_code() -> dict[str, str]:
    """Has a process of `python -m` find this code before anything in its working folder."""
    found = {"PYTHONSAFEPATH": "1"}
    if not FROM_WHEEL:
        # an empty entry would be the working folder
        others = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
        found["PYTHONPATH"] = os.pathsep.join([str(PROJECT), *others])
    return found
