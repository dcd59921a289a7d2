"""The door to a WebUI: run by the host at each start and at each reload of its page.

The extension's folder is on `sys.path` only while this file runs, so everything that is ever needed from it is a part
of `lib_resize`, imported here. A reload runs this file again but leaves modules as they were: the old ones are put
out first, so that an update takes effect.
"""

from __future__ import annotations

import sys
from typing import Any

for _name in [name for name in sys.modules if name.partition(".")[0] == "lib_resize"]:
    del sys.modules[_name]

from modules import script_callbacks  # noqa: E402

from lib_resize.hosts.detect import detect  # noqa: E402
from lib_resize.panel import layout  # noqa: E402
from lib_resize.panel.service import Service  # noqa: E402

_services: list[Service] = []


def _tabs() -> list[tuple[Any, str, str]]:
    host = detect()
    if host is None:
        return []
    _services.append(Service(host))
    return [(layout.build(_services[-1].call), layout.TAB_TITLE, layout.TAB_ID)]


def _started(*_: Any) -> None:
    """The cards' template is made anew with every page."""
    host = detect()
    if host is not None and hasattr(host, "add_card_button"):
        host.add_card_button()


def _unloaded() -> None:
    """Threads outlive a reload unless they are ended."""
    while _services:
        _services.pop().close()


script_callbacks.on_ui_tabs(_tabs)
script_callbacks.on_app_started(_started)
script_callbacks.on_script_unloaded(_unloaded)
