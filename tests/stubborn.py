"""Stands for a pool: python -m stubborn FOLDER [ignore]. With `ignore` it does not end on SIGTERM."""

import signal
import sys
import time

if "ignore" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(120)
