"""Do a run that is sent a signal when some function is called for the n-th time.

kill_at.py SIGNAL MODULE FUNCTION N ARGUMENTS…
"""

import importlib
import os
import signal
import sys

name_of_signal, module_name, path, count, *arguments = sys.argv[1:]
owner = importlib.import_module(module_name)
*parents, name = path.split(".")
for parent in parents:
    owner = getattr(owner, parent)
original = getattr(owner, name)
calls = 0


def deadly(*positional, **keywords):
    global calls  # noqa: PLW0603
    calls += 1
    if calls == int(count):
        os.kill(os.getpid(), signal.Signals[name_of_signal])
    return original(*positional, **keywords)


setattr(owner, name, deadly)
sys.argv = ["bench.run", *arguments]
importlib.import_module("bench.run").main()
