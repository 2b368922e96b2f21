"""Make a training's request from chosen settings, a preset's, and defaults."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quail_audit.schema.requests import TrainRequest


def request_of(**chosen: Any) -> TrainRequest:
    """Return a request with the chosen settings, else the preset's, else the defaults.

    Raises:
        UsageError: the objective is unknown, or a value is out of range.
    """
    from pydantic import ValidationError

    from quail_audit.schema.command_line import invalid_option
    from quail_audit.schema.requests import TrainRequest
    from quail_train.objectives.presets import preset_named

    settings = dict(preset_named(chosen["objective"]).settings) if "objective" in chosen else {}
    try:
        return TrainRequest.model_validate({**settings, **chosen})
    except ValidationError as error:
        raise invalid_option(error, "quail train") from error
