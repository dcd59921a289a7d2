"""The page, the settings and the access rules of A1111's family of WebUIs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .access import Access, access_of, is_loopback
from .guard import attempt, attempt_list, guarded, host_module, read, warn_once
from .webui_modules import cmd_options, shared

_BUTTON = (
    '<div class="resize-lora-button card-button" title="Resize LoRA" '
    "onclick=\"resizeLoraFromCard(event, '{tabname}')\"></div>"
)


class WebUIPage:
    """What the extension adds to the host's page, and what users of the page may do."""

    def add_card_button(self) -> bool:
        """Put a button on every card of a LoRA. Call it each time the app has started. False where there are no cards.

        The host creates the templates of its cards again with every page.
        """
        pages = read(host_module("modules.ui_extra_networks"), "extra_pages", ())
        put = [_put_button(page) for page in attempt_list("the button on cards", pages)]
        return any(put)

    def xyz_script(self) -> Any | None:
        """Return the module of the X/Y/Z plot, which is not in `sys.modules`; None where there is none."""
        rows = attempt_list("the X/Y/Z plot", read(host_module("modules.scripts"), "scripts_data"))
        modules = (read(row, "module") for row in rows if Path(str(read(row, "path"))).name == "xyz_grid.py")
        return next((module for module in modules if read(module, "axis_options") is not None), None)

    def add_settings(self, section: tuple[str, str], offers: Iterable[Any]) -> None:
        """Add rows (`panel.preferences.Offer`) to the host's settings page."""
        make, options = shared("OptionInfo"), shared("opts")
        if make is None or options is None:
            warn_once("settings: not available in this host (modules.shared has no OptionInfo or no opts).")
            return
        for offer in offers:
            with guarded(f"the setting {offer.label!r}"):
                row = make(offer.default, offer.label, offer.component, offer.arguments, section=section)
                row = row.info(offer.info) if offer.info else row
                options.add_option(offer.key, row.needs_reload_ui() if offer.reload else row)

    def settings(self) -> Mapping[str, Any]:
        data = read(shared("opts"), "data")
        if not isinstance(data, Mapping):
            return {}
        return {
            key: value for key, value in dict(data).items() if isinstance(key, str) and key.startswith("resize_lora_")
        }

    def names_files(self) -> bool:
        """Return whether users may choose file names; ``--hide-ui-dir-config`` forbids it."""
        return not read(cmd_options(), "hide_ui_dir_config", False)

    def access(self) -> Access | None:
        """Return who may use the HTTP API; None where it is disabled."""
        options = cmd_options()
        return access_of(options, os.environ) if read(options, "resize_lora_api", False) else None

    def is_remote(self) -> bool:
        """Return the stricter answer, True, where the host's command line is missing or cannot be read."""
        return shared("cmd_opts") is None or attempt("the command line", _is_remote, True)


def _is_remote() -> bool:
    options = cmd_options()
    if read(options, "hide_ui_dir_config") or access_of(options, os.environ).exposed:
        return True
    # A1111 sets this for any --server-name, even for one of this machine.
    return bool(read(options, "disable_extension_access")) and not is_loopback(read(options, "server_name"))


def _put_button(page: Any) -> bool:
    """Put the button on the cards of a page. Return whether it is the page of LoRAs."""
    template = read(page, "btn_edit_item_tpl")
    if read(page, "name") != "lora" or not isinstance(template, str):
        return False
    if _BUTTON not in template:
        with guarded("the button on cards"):
            page.btn_edit_item_tpl = template + _BUTTON
    return True
