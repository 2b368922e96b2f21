"""The limits a verdict is judged by, and the TOML file that sets them. What the limits mean is in verdict.py."""

from typing import Annotated

from pydantic import Field, ValidationError

from quail_audit.errors import BadInputError
from quail_audit.events import Model
from quail_audit.toml_files import read_toml, refuse_unknown


class Policy(Model):
    """Limits, with DESIGN section 2's defaults. Layers are judged by overlap and survival, metrics by recovery."""

    max_recovery_percent: Annotated[float, Field(ge=0.0, le=100.0)] = 10.0
    informative_points: Annotated[float, Field(ge=0.0, le=100.0)] = 5.0  # ROUGE-L F1 x 100
    overlap_at_risk: Annotated[float, Field(ge=0.0, le=1.0)] = 0.999
    survival_at_risk: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5


def read_policy(path: str | None) -> Policy:
    """Read the [limits] table of a policy file; without one, the defaults.

    Raises:
        BadInputError: no such file, no TOML, an unknown key (with a suggestion), or a value out of range.
    """
    if path is None:
        return Policy()
    document = read_toml(path, "policy")
    refuse_unknown(document, {"limits"}, where=path, what="table")
    limits = document.get("limits", {})
    if not isinstance(limits, dict):
        raise BadInputError("[limits] must be a table", where=path)
    refuse_unknown(limits, set(Policy.model_fields), where=path, what="limit")
    try:
        return Policy.model_validate(limits)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise BadInputError(f"limit {first['loc'][0]}: {first['msg']}", where=path) from error
