"""The entry point of a WebUI: run by the host at each start and at each reload of its page.

The extension's folder is on `sys.path` only while this file runs, so everything it needs later is imported here. A
reload runs this file again but keeps loaded modules: they are removed first, so that an update takes effect.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

for _name in [name for name in sys.modules if name.partition(".")[0] == "lib_resize"]:
    del sys.modules[_name]

from lib_resize.hosts.detect import detect  # noqa: E402
from lib_resize.hosts.guard import attempt, guarded, host_module  # noqa: E402
from lib_resize.hosts.host import CARDS  # noqa: E402
from lib_resize.panel import layout, preferences, xyz  # noqa: E402
from lib_resize.panel.service import Service  # noqa: E402

_host = attempt("the tab", detect, None)
_services: list[Service] = []


def _service() -> Service | None:
    """Return the service of this load, made on first use: without a page no tab needs it."""
    if _host is not None and not _services:
        _services.append(Service(_host))
    return _services[0] if _services else None


def _tabs() -> list[tuple[Any, str, str]]:
    with guarded("the tab"):
        service = _service()
        if service is not None:
            return [(layout.build(service.call), layout.TAB_TITLE, layout.TAB_ID)]
    return []


def _settings() -> None:
    with guarded("settings"):
        if _host is not None:
            rows = preferences.setting_rows(cards=CARDS in _host.features, file_names=_host.names_files())
            _host.add_settings(preferences.SECTION, rows)


def _axis() -> None:
    """Add the axis. The plot's list is rebuilt with every load, and read when the page is built."""
    with guarded("the axis of the X/Y/Z plot"):
        script = _host.xyz_script() if _host is not None else None
        if script is not None:
            xyz.register(script, lambda: _services[0].desk.versions if _services else None)


def _started(_page: Any, app: Any) -> None:
    """Add the button and the API. The template of cards and the app are rebuilt with every page."""
    with guarded("the button on cards"):
        if _host is not None and preferences.read_preferences(_host.settings()).card_button:
            _host.add_card_button()
    with guarded("the HTTP API"):
        _serve(app)


def _serve(app: Any) -> None:
    service, access = _service(), None if _host is None else _host.access()
    if service is not None and access is not None:
        from lib_resize.panel import api

        api.mount(app, service.call, access)


def _unloaded() -> None:
    """End the threads, which survive a reload otherwise."""
    while _services:
        with guarded("ending the service"):
            _services.pop().close()


def _register(event: str, callback: Callable[..., Any]) -> None:
    """Register a callback. On a host without the event only its feature is missing."""
    with guarded(f"what needs the event {event}"):
        getattr(host_module("modules.script_callbacks"), event)(callback)


_register("on_ui_tabs", _tabs)
_register("on_ui_settings", _settings)
_register("on_app_started", _started)
_register("on_script_unloaded", _unloaded)
_register("on_before_ui", _axis)
_axis()  # without a page, on_before_ui comes after the scripts are set up
