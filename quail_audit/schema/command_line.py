"""Write a request as the command line that repeats it.

Options with their default are left out, except an audit's policy: its default depends on the working folder.
"""

from collections.abc import Collection, Mapping
from pathlib import Path

from pydantic import ValidationError

from quail_audit.core.errors import UsageError
from quail_audit.core.values import Value
from quail_audit.schema.policy import NO_FILE
from quail_audit.schema.requests import AuditRequest, TrainRequest

_REPEATED: Mapping[str, str] = {  # field -> the option that is given once a value
    "schemes": "--scheme",
    "metrics": "--metric",
    "skip_modules": "--skip-module",
    "layers": "--layers",
    "limits": "--limit",
}
_NO_OPTIONS = ("original", "unlearned", "goes_on_from")
_RENAMED: Mapping[str, str] = {"calibrate": "--calibration", "margin_logits": "--margin"}


def audit_arguments(request: AuditRequest, *, run_dir: Path | None = None) -> list[str]:
    """Return the arguments of `quail` that run this audit into this folder."""
    policy = request.policy
    said = NO_FILE if policy is None else f"./{policy}" if policy == NO_FILE else policy
    named = request.model_copy(update={"policy": said})
    return ["audit", request.original, request.unlearned, *_options(named, run_dir)]


def resume_arguments(folder: Path) -> list[str]:
    """Return the arguments of `quail` that resume the audit of this folder."""
    return ["audit", "--resume", str(folder)]


def train_arguments(request: TrainRequest, *, run_dir: Path | None = None, given: Collection[str] = ()) -> list[str]:
    """Return the arguments of `quail` that run this training into this folder.

    Args:
        request: what to train.
        run_dir: the run's folder.
        given: fields to write even with their default, as an objective may have another.
    """
    return ["train", request.original, request.unlearned, *_options(request, run_dir, given)]


def invalid_option(error: ValidationError, command: str) -> UsageError:
    """Return a request's first invalid field as a usage error that names its option.

    Args:
        error: raised while the request was made.
        command: whose help lists the options: "quail audit".
    """
    first = error.errors(include_url=False)[0]
    return UsageError(first["msg"], where=option_of(str(first["loc"][0])), mend=f"See {command} --help")


def option_of(field: str) -> str:
    """Return the option that sets a request's field."""
    return _REPEATED.get(field) or _RENAMED.get(field) or f"--{field.replace('_', '-')}"


def _options(request: Value, run_dir: Path | None, given: Collection[str] = ()) -> list[str]:
    arguments = []
    for name, field in type(request).model_fields.items():
        value = getattr(request, name)
        if name in _NO_OPTIONS or (name not in given and (value is None or value == field.default)):
            continue
        option = option_of(name)
        if isinstance(value, bool):  # a flag, of which only the other value is said
            arguments.append(option if value else option.replace("--", "--no-", 1))
            continue
        if isinstance(value, dict):
            value = tuple(f"{key}={_argument_text(each)}" for key, each in value.items())
        for one in value if isinstance(value, tuple) else (value,):
            arguments += [option, _argument_text(one)]
    if run_dir is not None:
        arguments += ["--run-dir", str(run_dir)]
    return arguments


def _argument_text(value: object) -> str:
    if value is None:  # the only field whose None can be asked for
        return "auto"
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)
