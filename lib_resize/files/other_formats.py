"""Recognise files that are not safetensors files by their first bytes. Standard library only."""

from __future__ import annotations

from pathlib import Path

from ..errors import UnsupportedError
from .damage import damaged_file

_PICKLE_PROTOCOLS = (b"\x02", b"\x03", b"\x04", b"\x05")
_HTML = (b"<!doctype", b"<html", b"<head", b"<?xml", b"<body")
_JSON = (b'{"', b"{'", b"[{")
_LFS_ADVICE = "Run `git lfs pull`, or download the file from its page."
_WEB_ADVICE = "Download it again; the site may ask you to log in first."


def refuse_other_formats(path: Path, start: bytes) -> None:
    """Raise an error that names the format, where `start` (the first bytes of the file) shows it.

    Raises ``UnsupportedError`` for pickle and GGUF files, ``DamagedFileError`` for Git LFS pointers, web pages and JSON
    texts. Only for files that cannot be safetensors: a safetensors file can begin with the same bytes.
    """
    if start[:2] == b"PK" or (start[:1] == b"\x80" and start[1:2] in _PICKLE_PROTOCOLS):
        raise UnsupportedError(
            f"{path}: this is a PyTorch pickle file (.pt, .ckpt, .bin), and loading a pickle can run any "
            "code that is hidden in it; only safetensors files are read. Convert it with a tool you trust, "
            "for instance the WebUI's checkpoint merger with safetensors as output format."
        )
    if start[:4] == b"GGUF":
        raise UnsupportedError(f"{path}: this is a GGUF file; only safetensors files are read. Get that version.")
    if start.startswith(b"version https://git-lfs"):
        raise damaged_file(path, "this is a Git LFS pointer, not the file it points to", "the file itself", _LFS_ADVICE)
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(_HTML):
        raise damaged_file(
            path, "this is a web page, saved by a download that failed", "a safetensors file", _WEB_ADVICE
        )
    if text.startswith(_JSON):
        found = "this is a JSON text, often the error message of a failed download"
        raise damaged_file(path, found, "a safetensors file", _WEB_ADVICE)
