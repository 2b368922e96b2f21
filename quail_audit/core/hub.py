"""Fetch a checkpoint from a Hugging Face hub into its cache.

Complete files are not fetched again. After a lost connection, a file resumes where it stopped; after a killed process,
it starts anew (huggingface_hub 2.4 keeps no part of it). HF_ENDPOINT, HF_HOME, HF_TOKEN and HF_HUB_OFFLINE
work as in huggingface_hub.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from quail_audit.core.errors import BadInputError, EnvironmentProblemError
from quail_audit.core.paths import DESCRIPTIONS
from quail_audit.core.untrusted import printable
from quail_audit.core.writing import is_disk_full

_SAFETENSORS = ("model.safetensors", "adapter_model.safetensors", "*-of-*.safetensors")
_TORCH_BINS = ("pytorch_model.bin", "adapter_model.bin", "pytorch_model-*-of-*.bin")
_NEVER = ("*/*", "consolidated*")  # other layouts of the same weights

_COMMIT = re.compile(r"[0-9a-f]{40}", re.ASCII)
_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


class HubId(NamedTuple):
    """A model repository, and one of its branches, tags or commits."""

    repository: str  # "org/name"
    revision: str | None


class FetchedCheckpoint(NamedTuple):
    folder: Path
    commit: str


def parse_hub_id(source: str) -> HubId | None:
    """Parse `org/name` or `org/name@revision`; None for any other text."""
    repository, at, revision = source.partition("@")
    if not _ID.fullmatch(repository) or repository.startswith((".", "-")) or (at and not revision):
        return None
    return HubId(repository, revision or None)


def fetch(hub_id: HubId) -> FetchedCheckpoint:
    """Download configuration, tokenizer and weights of a repository into the cache.

    Raises:
        BadInputError: there is no such repository or revision, or it is gated and these credentials do not open it.
        EnvironmentProblemError: no network, offline and not in the cache, the hub fails, or the disk is full.
    """
    from huggingface_hub import snapshot_download

    with _explain_errors(hub_id), _hide_progress_off_terminals():
        folder = Path(
            snapshot_download(
                hub_id.repository,
                revision=hub_id.revision,
                allow_patterns=[*DESCRIPTIONS, *_SAFETENSORS],
                ignore_patterns=list(_NEVER),
            )
        )
        if not any(folder.glob("*.safetensors")):
            # Pinned to the commit just fetched: the branch may have moved in between.
            snapshot_download(
                hub_id.repository,
                revision=folder.name,
                allow_patterns=[*DESCRIPTIONS, *_TORCH_BINS],
                ignore_patterns=list(_NEVER),
            )
    return FetchedCheckpoint(folder, folder.name)


def find_in_cache(hub_id: HubId, commit: str) -> Path | None:
    """Return the cached folder of a repository's commit; None if there is none. Downloads nothing."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    if not _COMMIT.fullmatch(commit):  # it would be looked up as a branch, by its path
        return None
    try:
        return Path(snapshot_download(hub_id.repository, revision=commit, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, OSError):
        return None


@contextmanager
def _explain_errors(hub_id: HubId) -> Iterator[None]:
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    name = hub_id.repository if hub_id.revision is None else f"{hub_id.repository}@{hub_id.revision}"
    try:
        yield
    except GatedRepoError as error:
        raise BadInputError(
            "is gated: accept its terms first",
            where=name,
            mend=f"Accept them at {constants.ENDPOINT}/{hub_id.repository}, then log in with: hf auth login",
        ) from error
    except RepositoryNotFoundError as error:
        raise BadInputError(
            "is neither a local folder nor a model you can access on the hub",
            where=name,
            mend="Check the spelling; if the model is private, log in with: hf auth login",
        ) from error
    except RevisionNotFoundError as error:
        raise BadInputError(
            f"the hub has the model, but no branch, tag or commit {printable(hub_id.revision or 'main')!r}",
            where=name,
            mend=f"See the commits at {constants.ENDPOINT}/{hub_id.repository}/commits/main",
        ) from error
    except HFValidationError as error:
        raise BadInputError("is neither a local folder nor a valid Hugging Face id", where=name) from error
    except LocalEntryNotFoundError as error:  # offline by choice, or no connection
        raise EnvironmentProblemError(
            "is not a local folder, is not complete in the hub's cache, and the hub cannot be reached",
            where=name,
            mend="Check the network, HF_ENDPOINT and HF_HUB_OFFLINE, or download the model and give its folder",
        ) from error
    except HfHubHTTPError as error:
        raise EnvironmentProblemError(
            f"the hub answered {error.response.status_code}",
            where=name,
            mend="Try again later; complete files are kept",
        ) from error
    except Exception as error:  # the network's errors belong to whichever HTTP client the library uses
        if is_disk_full(error):
            raise EnvironmentProblemError(
                "the disk is full",
                where=constants.HF_HUB_CACHE,
                mend="Free some space there, or set HF_HOME to a folder on another disk; complete files are kept",
            ) from error
        raise EnvironmentProblemError(
            f"could not be downloaded: {printable(f'{type(error).__name__}: {error}', limit=300)}",
            where=name,
            mend="Try again; complete files are kept",
        ) from error


@contextmanager
def _hide_progress_off_terminals() -> Iterator[None]:
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if sys.stderr.isatty() or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
