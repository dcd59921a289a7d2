"""The tab as Gradio sees it: a place for the script, and three hidden components that carry its calls.

The tab itself is drawn in the browser by ``javascript/resize_lora.js``. A call is one text each way, in the form of
``docs/panel-protocol.md``: the script fills the request, presses the button and reads the reply. So Gradio's own login
protects every call. Runs on Gradio 3.41 and 4.
"""

from __future__ import annotations

from collections.abc import Callable

import gradio as gr

TAB_TITLE = "Resize LoRA"
TAB_ID = "resize_lora"
"""Hosts show the tab as ``#tab_resize_lora``."""

_PLACE = "<p>This tab is drawn by a script. If this line stays, the script did not load: reload the page.</p>"


def build(call: Callable[[str], str]) -> gr.Blocks:
    """Return the Blocks of the tab. `call` answers one request text with one reply text and never raises."""
    with gr.Blocks(title=TAB_TITLE, analytics_enabled=False) as blocks:
        place = gr.HTML(_PLACE, elem_id="resize_lora_app")
        with gr.Row(elem_id="resize_lora_wire"):
            request = gr.Textbox(label="Resize LoRA request", elem_id="resize_lora_request")
            send = gr.Button("Resize LoRA send", elem_id="resize_lora_send")
            reply = gr.Textbox(label="Resize LoRA reply", elem_id="resize_lora_reply")
        # Outside of Gradio's queue: there a call would wait behind every generation.
        send.click(fn=call, inputs=[request], outputs=[reply], queue=False, show_progress="hidden")
    for component in (place, request, send, reply):
        component.do_not_save_to_config = True
    return blocks
