"""The panel behind its page: what a browser asks is answered here, for any host. No Gradio, and no torch on import."""
