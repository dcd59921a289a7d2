import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory):
    """Norms that other runs have cached are not looked at."""
    patch = pytest.MonkeyPatch()
    patch.setenv("RESIZE_LORA_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()
