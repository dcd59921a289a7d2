"""Serves the panel with the stub behind it: ``python serve_stub.py PORT``, in any environment that has Gradio."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from lib_resize.panel.standalone import Address, serve
from tests.browser.stub_service import StubService

if __name__ == "__main__":
    serve(StubService().call, Address(port=int(sys.argv[1])))
