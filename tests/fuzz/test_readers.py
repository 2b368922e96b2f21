"""Whatever a file from outside holds, its reader reads it or says what is wrong: in time, in bounds, in plain text."""

import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.fuzz.guard import MOST_BYTES, bounded_memory, refused_or_read
from tests.fuzz.readers import READERS, Reader

FEW, MANY = 20, 10_000


def fuzz(reader: Reader, examples: int) -> str:
    """Try so many inputs, and shrink the first that the reader cannot bear; what came of them, in words."""
    inputs = reader.inputs()
    outcomes: Counter[str] = Counter()

    @settings(
        max_examples=examples,
        derandomize=examples == FEW,  # what everybody runs finds the same every time
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    @given(data=st.data())
    def try_one(data: st.DataObject) -> None:
        input_ = data.draw(inputs)
        with tempfile.TemporaryDirectory() as folder, refused_or_read(outcomes):
            reader.read(Path(folder), input_)

    with bounded_memory() as memory:
        try_one()
        assert memory.grown_bytes < MOST_BYTES
    counted = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
    return f"{counted}; {memory.grown_bytes / 2**20:.0f} MiB at most"


@pytest.mark.parametrize("name", [name for name, reader in READERS.items() if reader.is_quick])
def test_a_few_hostile_files(name: str) -> None:
    fuzz(READERS[name], FEW)


@pytest.mark.fuzz
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", READERS)
def test_many_hostile_files(name: str) -> None:
    print(f"\n{name}: {fuzz(READERS[name], MANY)}")
