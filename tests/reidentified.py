"""What today's code says of recorded runs: composed anew from the words a user would type, which identity and state.

python -m tests.reidentified RESULTS [RESULTS …] prints, per run folder, the hash of that identity and whether the
record still counts.
"""

import json
import sys
from pathlib import Path

from analysis.records.found import read_records
from bench.config.compose import compose_run
from bench.config.identity import hash_of, identity_of, is_current
from bench.config.plugins import CONF, filed


def words_of(record):
    """The command line that asks for a record's run."""
    choices = {group: dict.fromkeys(filed(group)) for group in ("kernel", "selection")}
    for group, names in choices.items():
        for path in (CONF / group).glob("*.yaml"):
            name = next(line for line in path.read_text().splitlines() if line.startswith("name:"))
            names[name.removeprefix("name:").strip()] = path.stem
    identity, final = record.identity, record.finals[-1]
    deviations = {key: value for key, value in record.departures(final).items() if key != "dataset.name"}
    return [
        f"scenario={identity['scenario']['name']}",
        f"dataset={identity['dataset']['name']}",
        *(f"{group}={names[identity[group]['name']]}" for group, names in choices.items()),
        f"batch_size={record.batch_size}",
        f"seed={record.identity['seed']}",
        *(f"{key}={'null' if value is None else value}" for key, value in deviations.items()),
    ]


def reidentified(results):
    """By run folder: the hash of the identity composed anew, and `current` or `stale`."""
    found = {}
    for one in read_records(Path(results))[0]:
        checksum = one.record.identity["dataset"]["checksum"]
        identity = identity_of(compose_run(words_of(one.record)), checksum)
        state = "current" if is_current(one.record.identity, checksum) else "stale"
        found[one.run_id] = [hash_of(identity), state, one.record.identity["selection"]["name"]]
    return found


if __name__ == "__main__":
    print(json.dumps({run: value for results in sys.argv[1:] for run, value in reidentified(results).items()}))
