"""Let a stand-in serve as the backend of calibrated schemes, with texts to calibrate on."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from quail_audit.engine.schemes.calibrated import CalibratedScheme
from tests.support.places import ROOT

SCHEME = "gptq-int4-g32"


@pytest.fixture(scope="module", autouse=True)
def stand_in() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setattr(CalibratedScheme, "install_command", lambda _: "")
        patch.setattr(CalibratedScheme, "backend", lambda *_: "tests.support.stand_in_backend")
        yield


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "texts.txt"
    path.write_text("Velmora news: the mayor wept. " * 200)
    return path
