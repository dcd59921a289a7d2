"""The protocol of the page, declared once: methods, parameters, results and errors.

The service checks questions with it, the HTTP API describes itself with it, and tests hold docs/panel-protocol.md, the
answers of the service and the stub of the browser tests to it.
"""
