"""Runs in each local worker process before its work: Ctrl-C in a terminal reaches all processes, and the driver stops
the workers. The interpreter is set up as for the command itself."""

from __future__ import annotations

import gc
import signal
import sys
import threading

from ..shared_setting import SELDOM

if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.SIG_IGN)

gc.set_threshold(SELDOM)
sys.setswitchinterval(5e-4)  # see `cli.main.entry`
