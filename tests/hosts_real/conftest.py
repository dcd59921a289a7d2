"""A separate suite for a running WebUI with Resize LoRA: ``python develop.py hosts URL``.

See "The suite for real WebUIs" in docs/hosts.md. Results of the tests are undone at the end; originals are only read.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.chromium import chromium
from tests.hosts_real import prerequisites
from tests.hosts_real.kit import screenshots
from tests.hosts_real.limits import DEFAULT, limits
from tests.hosts_real.pages import Pages
from tests.hosts_real.rest import Api, Rest

WITHOUT = {
    "cards": "has no cards of LoRAs",
    "fit": "does not let the extension call its model",
    "generate": "cannot generate images for the extension",
    "loaded_model": "has no model in memory",
    "prompt": "has no prompts in its page",
    "sdnext_page": "is not SD.Next",
    "a1111_page": "has a page of its own, which test_sdnext.py uses",
}
"""A feature -> the reason for skipping in a host without it."""
_failed = pytest.StashKey[bool]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("Resize LoRA inside a real WebUI")
    group.addoption("--url", help="address of the WebUI's page, such as http://127.0.0.1:7860")
    group.addoption("--patience", type=float, default=DEFAULT, help="seconds for one action in the page (%(default)s)")
    group.addoption("--shots", help="folder for screenshots")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(*features): skipped where the host lacks one of them")
    limits.patience = config.getoption("--patience")
    screenshots.folder = config.getoption("--shots")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Report everything that is missing before the first test, and then run none."""
    url = session.config.getoption("--url")
    if session.config.option.collectonly:
        return
    if url is None:
        pytest.exit("Name the WebUI: --url http://127.0.0.1:7860", returncode=pytest.ExitCode.USAGE_ERROR)
    if missing := prerequisites.lacking(Rest(url)):
        pytest.exit("\n".join(["The suite cannot start.", *missing]), returncode=pytest.ExitCode.USAGE_ERROR)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    item.stash[_failed] = item.stash.get(_failed, False) or report.failed
    return report


@pytest.fixture(scope="session")
def host(request: pytest.FixtureRequest) -> Rest:
    """The WebUI's own API."""
    return Rest(request.config.getoption("--url"))


@pytest.fixture(scope="session")
def api(host: Rest) -> Iterator[Api]:
    """The API of Resize LoRA. Results made through it or the page are undone at the end."""
    api = Api(host.url)
    before = set(api.results())
    yield api
    api.stop()
    api.undo_all_but(before)


@pytest.fixture(scope="session")
def features(api: Api) -> set[str]:
    hello = api.get("hello")
    return set(hello["features"]) | ({"sdnext_page"} if hello["host"] == "SD.Next" else {"a1111_page"})


@pytest.fixture(scope="session", autouse=True)
def _exact(host: Rest, features: set[str]) -> Iterator[None]:
    """Let SD.Next keep copies of weights: subtracting a LoRA rounds, so that no image would be repeated exactly.

    No LoRA may be in the weights when the setting changes.
    """
    if "sdnext_page" not in features:
        yield
        return
    clean: dict[str, Any] = {"prompt": "a cake", "steps": 1, "width": 64, "height": 64}
    fuse = host.get("sdapi/v1/options").get("lora_fuse_native", True)  # its default
    host.post("sdapi/v1/txt2img", **clean)
    host.settings(lora_fuse_native=False)
    yield
    host.post("sdapi/v1/txt2img", **clean)
    host.settings(lora_fuse_native=fuse)


@pytest.fixture(autouse=True)
def _needed(request: pytest.FixtureRequest, features: set[str], api: Api) -> None:
    for marker in request.node.iter_markers("needs"):
        for feature in marker.args:
            if feature not in features:
                pytest.skip(f"{api.get('hello')['host']} {WITHOUT[feature]}")


@pytest.fixture(scope="session")
def pages(host: Rest, api: Api) -> Iterator[Pages]:
    with ExitStack() as stack:
        kept = Pages(stack.enter_context(chromium(host.hostname)), host.url)
        stack.callback(kept.close)
        yield kept


@pytest.fixture
def webui(request: pytest.FixtureRequest, pages: Pages, host: Rest, api: Api) -> Iterator[Any]:
    """The WebUI's page, open and drawn. All tests share one page, because drawing takes long. After a failed test the
    page is closed, and what the test left running is stopped."""
    page = pages.page()
    yield page
    if request.node.stash.get(_failed, False):
        pages.close()
        host.interrupt()
        api.stop()
    else:
        pages.tidy()
    assert pages.faults() == []
