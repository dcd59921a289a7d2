from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="session")
def _cache_of_long_fixtures(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What fixtures of a module measure is not kept for the person who runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RESIZE_LORA_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
