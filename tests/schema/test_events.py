import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from quail_audit.core.errors import BadInputError
from quail_audit.schema.events.audit import FilesAwaited, FilesFound, FilesHashed, LayerMeasured, SampleScored
from quail_audit.schema.events.common import Noted
from quail_audit.schema.events.lines import Event, from_line, to_line
from quail_audit.schema.figures import FileHash, FoundFile, Score
from tests.support.small_run import events, layer

finite = st.floats(allow_nan=False, allow_infinity=False)


FILES: tuple[Event, ...] = (
    FilesFound(
        files=(FoundFile(role="data", path="verbmem/forget.json", bytes=7, modified_ns=1_700_000_000_123_456_789),)
    ),
    FilesAwaited(done_bytes=1, total_bytes=7),
    FilesHashed(files=(FileHash(role="data", path="verbmem/forget.json", bytes=7, sha256="0f" * 32),)),
)


@pytest.mark.parametrize("event", [*events(), *FILES], ids=lambda event: event.type)
def test_every_event_survives_its_line(event: Event) -> None:
    line = to_line(event)
    assert "\n" not in line
    assert json.loads(line)["type"] == event.type
    assert from_line(line) == event


@given(
    text=st.text(st.characters(exclude_categories=["Cs"])),
    score=finite,
    at_s=st.floats(min_value=0, max_value=1e9),
)
def test_any_text_and_figure_survive(text: str, score: float, at_s: float) -> None:
    event = SampleScored(
        at_s=at_s,
        arm="a/full",
        metric="m",
        sample=0,
        done=1,
        total=1,
        score=score,
        prompt=text,
        truth=text,
        answer=text,
        way=text,
    )
    line = to_line(event)
    assert "\n" not in line
    assert "\x1b" not in line, "an escape code must not reach a terminal that shows the file"
    assert from_line(line) == event


@given(
    st.one_of(
        st.text(), st.binary().map(lambda b: b.decode("latin-1")), st.dictionaries(st.text(), finite).map(json.dumps)
    )
)
def test_what_is_no_event_is_refused(line: str) -> None:
    with pytest.raises(BadInputError):
        from_line(line)


def test_the_error_names_the_field() -> None:
    broken = to_line(LayerMeasured(scheme="nf4", index=1, total=1, layer=layer())).replace(
        '"overlap":1.0', '"overlap":1.5'
    )
    with pytest.raises(BadInputError, match=r"layer\.overlap"):
        from_line(broken)


def test_the_error_is_no_longer_than_a_person_reads() -> None:
    for line in ('{"type": "noted", "message": "a", "' + "k" * 5000 + '": 1}', '{"type": "' + "t" * 5000 + '"}'):
        with pytest.raises(BadInputError) as caught:
            from_line(line)
        assert len(str(caught.value)) < 2000


def test_unknown_fields_and_non_finite_figures_are_refused() -> None:
    with pytest.raises(ValidationError):
        Score(mean=float("nan"), low=0, high=1, samples=1)
    with pytest.raises(BadInputError):
        from_line('{"type": "noted", "message": "x", "extra": 1}')


def test_events_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        Noted(message="x").message = "y"  # type: ignore[misc]
