"""Runs in each local worker process before its work: Ctrl-C in a terminal reaches all processes, and the driver stops
the workers."""

from __future__ import annotations

import signal
import threading

if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
