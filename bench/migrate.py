"""Records of schema version 2 brought over to the present one: python -m bench.migrate RESULTS [RESULTS …]

No measured number is altered. Every folder is brought over by itself, under its lock, in steps that can be repeated:
killed anywhere, the same command goes on. Folders get the names of their new identities.
"""

import statistics
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bench.commands import called
from bench.commands.frame import framed, named
from bench.config.command_line import PlainParser
from bench.config.compose import compose_run
from bench.config.identity import hash_of, identity_of
from bench.config.plugins import build, plugin
from bench.config.schema import REFERENCES, RunConfig
from bench.errors import BusyError, NoRoomError, UserError, WriteError, tell
from bench.learning.opened import facts_of
from bench.runs.locks import locked
from bench.runs.record import (
    LOCK,
    RECORD,
    as_json,
    end_file,
    listed,
    may_be_there,
    read_json,
    read_validated,
    record_paths,
    remove_leftovers,
    write_atomically,
)
from bench.runs.record_schema import SCHEMA_VERSION, KernelFacts, Record, Step
from bench.training.store import FIRST

OLD = 2
OLD_END = "last_step.npz"
COMPILING_SECONDS = 10.0
"""A first training that took so much longer than the session's others, per minibatch, has compiling in its seconds."""


@framed
def main() -> None:
    """Entry point; exits with 1 if a record is damaged or in use, with 2 after a mistake in the input."""
    parser = PlainParser(prog=called("migrate"), description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", nargs="+", type=named, metavar="RESULTS", help="a folder given to runs as results=")
    outcomes: Counter[str] = Counter()
    for results in parser.parse_args().folders:
        outcomes.update(migrate(results))
    print(", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items())) or "nothing to migrate")
    sys.exit(1 if outcomes["left as it is"] else 0)


def migrate(results: Path) -> list[str]:
    """Bring over every run below `results`; returns what became of each.

    Raises NoRoomError, and UserError if there are no results.
    """
    outcomes, paths = [], record_paths(results)
    if not (results / "runs").is_dir():
        raise UserError(f"no results in {results}: give a folder with runs/ in it")
    for path in paths:
        try:
            read_json(path)  # what is closed to this user cannot be locked
            with locked(path.parent / LOCK, wait=False):
                outcomes.append(_migrate_run(path.parent))
        except (BusyError, UserError) as error:
            if isinstance(error, NoRoomError):
                raise
            tell(error)
            outcomes.append("left as it is")
    return outcomes


def _migrate_run(folder: Path) -> str:
    remove_leftovers(folder, "*")
    content = read_json(folder / RECORD)
    new = content["schema_version"] == SCHEMA_VERSION
    record = read_validated(folder / RECORD) if new else brought_over(content, folder / RECORD)
    target = folder.with_name(record.run_id)
    named = target == folder
    if not named and may_be_there(target / RECORD):
        raise UserError(f"{folder} and {target} are the same run: move one away")
    end = folder / end_file(record.finals[0])
    if (folder / OLD_END).exists():
        _moved(folder / OLD_END, end)
    if not new:
        write_atomically(folder / RECORD, as_json(record))
    if not named:
        _take_over(target)
        _moved(folder, target)
    return "already there" if new and named else "brought over"


def _take_over(target: Path) -> None:
    """Remove a folder without a record, as a run that was killed at its start leaves it. Raises BusyError."""
    if target.is_dir():
        with locked(target / LOCK, wait=False):
            try:
                for path in listed(target):
                    path.unlink()
                target.rmdir()
            except OSError as error:
                raise WriteError(f"cannot remove {target} ({error.strerror}): remove it, migrate again") from None


def _moved(old: Path, new: Path) -> None:
    try:
        old.replace(new)
    except OSError as error:
        raise WriteError(f"cannot rename {old} to {new} ({error.strerror}): make it writable, migrate again") from None


def brought_over(content: Mapping[str, Any], path: Path) -> Record:
    """A record of version 2 in the present schema. Raises UserError if it is damaged or of an older version."""
    if content["schema_version"] != OLD:
        raise UserError(f"{path} has schema version {content['schema_version']}, only {OLD} can be brought over")
    try:
        old = content["identity"]
        run = _run_of(old, content["deviations"])
        identity = identity_of(run, old["dataset"]["checksum"])
        final = int(old["scenario"]["final"])
        filed = content["deviations"].get("scenario.final")
        steps = _steps(content["steps"], run)
        return Record(
            run_id=hash_of(identity),
            identity=identity,
            configuration=run.configuration() | {"dataset": old["dataset"]},
            kernels=_kernels(run, steps),
            deviations={key: value for key, value in content["deviations"].items() if _departs(key)},
            filed_final=_filed_final(run) if filed else final,
            finals=[final],
            status=content["status"],
            failure=content.get("failure"),
            sessions=content["sessions"],
            steps=steps,
        )
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (KeyError, TypeError, AttributeError, ValidationError) as error:
        reason = " ".join(str(error).split())[:80]
        raise UserError(f"{path} is damaged ({reason}): move that folder away") from None


def _departs(key: str) -> bool:
    """Whether a deviation of version 2 is one still: an end is not, nor are diagnostics and where code lives."""
    return key not in ("scenario.final", "final_kernels") and not key.endswith("._target_")


def _run_of(old: Mapping[str, Any], deviations: Mapping[str, Any]) -> RunConfig:
    """The configuration that an identity of version 2 spelt out."""
    kept = {key: value for key, value in old.items() if key not in ("numerics_version", "dataset")}
    references = {REFERENCES: old["dataset"]["reference_energies"]} if "reference_energies" in old["dataset"] else {}
    more = {"dataset": {"name": old["dataset"]["name"]}, "deviations": {**deviations, **references}}
    # the potential was no plugin then, and its cutoff was the scenario's, too
    kept["model"] = {"_target_": FIRST, "name": "GM-NN", **old["model"]}
    kept["scenario"] = {key: value for key, value in old["scenario"].items() if key != "r_max"}
    run: RunConfig = build(RunConfig, kept | more | {"results": "", "device": "cpu", "threads": None}, "")
    return run


def _filed_final(run: RunConfig) -> int:
    """The final size of the scenario's file; the run's own where there is no such file any more."""
    try:
        return compose_run([f"scenario={run.scenario.name}"]).scenario.final
    except UserError:
        return run.scenario.final


def _kernels(run: RunConfig, steps: Sequence[Step]) -> dict[str, KernelFacts]:
    """What the kernels of a run state of themselves; for one that cannot be imported, what its steps tell."""
    facts = {}
    for config in (*run.final_kernels, run.kernel):
        name = config["name"]
        try:
            facts[name] = facts_of(plugin(config, "kernel"))
        except UserError:
            facts[name] = KernelFacts(
                members=len(steps[0].best_epochs) if steps else 1,
                uncertainty="energy" if any(name in step.correlations for step in steps) else None,
                reads_pool_labels=any(step.pool_labels_read for step in steps),
            )
    return facts


def _steps(rows: Sequence[Mapping[str, Any]], run: RunConfig) -> list[Step]:
    steps = []
    for row in rows:
        changes = {key: None for key in ("picked",) if not row["picked"]}
        steps.append(Step.model_validate({**row, **changes}))
    for session in {step.session for step in steps}:
        own = [step for step in steps if step.session == session]
        if _tainted(own, run):
            own[0].timing = "compiling"
    return steps


def _tainted(steps: Sequence[Step], run: RunConfig) -> bool:
    """Whether compiling is in the seconds of the first training of a session: it stands out from the others."""
    each = [s.seconds_training / run.training.minibatches(s.n_train, run.training.epochs) for s in steps]
    if len(each) < 2:
        return False
    usual = statistics.median(each[1:])
    excess = (each[0] - usual) * run.training.minibatches(steps[0].n_train, run.training.epochs)
    return each[0] > 1.5 * usual and excess > COMPILING_SECONDS


if __name__ == "__main__":
    main()
