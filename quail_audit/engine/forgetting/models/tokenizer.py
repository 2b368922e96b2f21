"""Load a checkpoint's tokenizer."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from quail_audit.core.errors import BadInputError, EnvironmentProblemError, QuailError, first_line
from quail_audit.engine.checkpoints.model.transformers_rules import is_version_5
from quail_audit.engine.checkpoints.weight_files import read_json_object
from quail_audit.engine.forgetting.models.quiet import quiet_transformers

if TYPE_CHECKING:
    from quail_audit.engine.checkpoints.checkpoint import Checkpoint


TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tiktoken.model",
    "vocab.json",
    "vocab.txt",
)


# Files that SentencePiece writes, or tiktoken, whatever their name says.
_MODELS = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "tiktoken.model")
_SAVE_AGAIN = (
    "Check the file, or save the tokenizer anew as tokenizer.json: AutoTokenizer.from_pretrained(…).save_pretrained(…)"
)


def _refuse_missing_package(folder: Path) -> None:
    """Raise EnvironmentProblemError if only a package that is missing can read a folder's tokenizer.

    transformers takes any model file that it fails to read for one of tiktoken's, and asks for that package.
    """
    if (folder / "tokenizer.json").exists():
        return
    file = _model_file(folder)
    if file is None:
        return
    needed = {"google.protobuf": "protobuf", "sentencepiece": "sentencepiece"}
    for module, package in needed.items() if _is_sentencepiece(file) else [("tiktoken", "tiktoken")]:
        if not _is_installed(module):
            raise EnvironmentProblemError(
                f"{package}, which reads {file.name}, is not installed",
                where=str(file),
                mend=f"pip install {package}",
            )


def _model_file(folder: Path) -> Path | None:
    return next((folder / name for name in _MODELS if (folder / name).is_file()), None)


def _is_sentencepiece(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(1) == b"\n"  # the tag of its first field; a file of tiktoken's begins with base64


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the package that it lies in is missing
        return False


def _reading_error(folder: Path, error: Exception) -> QuailError:
    model = _model_file(folder)
    if "tiktoken" in str(error) and model is not None and _is_sentencepiece(model):  # its packages are here: see above
        what = f"{model.name} is damaged"
    elif isinstance(error, ImportError):
        return EnvironmentProblemError(f"the tokenizer needs a package: {first_line(error)}", where=str(folder))
    else:
        what = first_line(error)
    return BadInputError(f"the tokenizer cannot be read: {what}", where=str(folder), mend=_SAVE_AGAIN)


def _tokenizer_class(folder: Path) -> Any:
    """Return AutoTokenizer, or the class of 4.47 that reads the same file if it cannot know version 5's."""
    config = folder / "tokenizer_config.json"
    if is_version_5() or not (folder / "tokenizer.json").exists() or not config.exists():
        return AutoTokenizer
    named = read_json_object(config).get("tokenizer_class")
    return PreTrainedTokenizerFast if named == "TokenizersBackend" else AutoTokenizer


def load_tokenizer(
    checkpoint: Checkpoint, stand_in: Checkpoint | None
) -> tuple[PreTrainedTokenizerBase, tuple[str, ...]]:
    """Return a checkpoint's tokenizer, or its base's, or the stand-in's; and a note if it is not its own.

    Raises:
        BadInputError: there is none, or it cannot be read.
        EnvironmentProblemError: a package that reads it is missing.
    """
    candidates = [checkpoint, checkpoint.adapter_of, stand_in]
    for candidate in candidates:
        if candidate is None:
            continue
        beside = any((candidate.folder / name).exists() for name in TOKENIZER_FILES)
        if not beside and candidate.gguf is None:
            continue
        _refuse_missing_package(candidate.folder)
        file = {} if beside or candidate.gguf is None else {"gguf_file": candidate.gguf.name}
        try:
            with quiet_transformers():
                tokenizer: PreTrainedTokenizerBase = _tokenizer_class(candidate.folder).from_pretrained(
                    candidate.folder, local_files_only=True, trust_remote_code=False, **file
                )
        except Exception as error:  # as in _loading
            raise _reading_error(candidate.folder, error) from error
        if candidate is checkpoint:
            return tokenizer, ()
        return tokenizer, (f"{checkpoint.source} has no tokenizer; that of {candidate.source} was used",)
    raise BadInputError(
        "the checkpoint has no tokenizer",
        where=str(checkpoint.folder),
        mend=f"Put one beside the weights: {TOKENIZER_FILES[0]}, or {TOKENIZER_FILES[1]}",
    )
