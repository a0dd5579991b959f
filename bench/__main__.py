"""The console command: bmdal-bench COMMAND …, or python -m bench COMMAND …"""

import importlib
import sys

from bench.commands import COMMANDS, PROGRAM, help_text
from bench.commands.frame import framed
from bench.errors import nearest


@framed
def main() -> int | None:
    """Hand over to the subcommand; exits with its status, with 2 if there is none of that name."""
    name, rest = (sys.argv[1] if len(sys.argv) > 1 else ""), sys.argv[2:]
    if name in ("", "-h", "--help"):
        print(help_text(), file=sys.stdout if name else sys.stderr)
        return 0 if name else 2
    if name not in COMMANDS:
        print(f"error: no command is called {name!r}: {nearest(name, COMMANDS)}", file=sys.stderr)
        return 2
    sys.argv = [f"{PROGRAM} {name}", *rest]
    status: int | None = importlib.import_module(COMMANDS[name].module).main()
    return status


if __name__ == "__main__":
    sys.exit(main())
