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
from lib_resize.hosts.host import CARDS  # noqa: E402
from lib_resize.panel import layout, preferences, xyz  # noqa: E402
from lib_resize.panel.service import Service  # noqa: E402

_host = detect()
_services: list[Service] = []


def _service() -> Service | None:
    """The one of this load; made when it is first asked for, because without a page there is no tab that asks."""
    if _host is not None and not _services:
        _services.append(Service(_host))
    return _services[0] if _services else None


def _tabs() -> list[tuple[Any, str, str]]:
    service = _service()
    return [] if service is None else [(layout.build(service.call), layout.TAB_TITLE, layout.TAB_ID)]


def _settings() -> None:
    if _host is not None:
        offers = preferences.offers(cards=CARDS in _host.features, file_names=_host.names_files())
        _host.add_settings(preferences.SECTION, offers)


def _axis() -> None:
    """The plot's list is made anew with every load, and read when the page is made."""
    script = _host.xyz_script() if _host is not None else None
    if script is not None:
        xyz.register(script, lambda: _services[0].versions if _services else None)


def _started(_page: Any, app: Any) -> None:
    """The cards' template and the app are made anew with every page."""
    service = _service()
    if _host is None or service is None:
        return
    if preferences.read_preferences(_host.settings()).card_button:
        _host.add_card_button()
    access = _host.access()
    if access is not None:
        from lib_resize.panel import api

        api.mount(app, service.call, access)


def _unloaded() -> None:
    """Threads outlive a reload unless they are ended."""
    while _services:
        _services.pop().close()


_axis()  # without a page, scripts are asked for their parts before anything else is
script_callbacks.on_before_ui(_axis)
script_callbacks.on_ui_tabs(_tabs)
script_callbacks.on_ui_settings(_settings)
script_callbacks.on_app_started(_started)
script_callbacks.on_script_unloaded(_unloaded)
