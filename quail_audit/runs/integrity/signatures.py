"""Sign a run with an Ed25519 key, in a file beside its report, and read signatures.

The signed statement has three lines: its purpose, the report's digest, and the SHA-256 of the run's events, which hold
the samples. The purpose keeps a signature from passing for one of anything else. Keys are never stored or shown.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from quail_audit.core.errors import BadInputError, EnvironmentProblemError
from quail_audit.core.reading import read_bounded
from quail_audit.core.values import Value
from quail_audit.core.writing import write_whole
from quail_audit.schema.figures import Sha256

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

DOMAIN = "quail-audit run, version 1"
NO_EVENTS = "none"  # for a report by itself
LARGEST_BYTES = 1 << 16  # of a key, and of a signature's file
SHOWN_DIGITS = 16  # of a key's fingerprint, in the name of a signature's file
_EXPECTED = "Expected an Ed25519 key, as openssl genpkey -algorithm ed25519 or ssh-keygen -t ed25519 makes it"


class Signature(Value):
    """A signature's file."""

    statement: str
    key: Sha256  # the fingerprint: of the public key as DER
    signature: str  # of the statement's bytes, base64


def statement_of(digest: str, events_sha256: str | None) -> str:
    """Return the text that is signed.

    Args:
        digest: the report's.
        events_sha256: of the run's events.jsonl; None for a report by itself.
    """
    events = NO_EVENTS if events_sha256 is None else f"sha256:{events_sha256}"
    return f"{DOMAIN}\nreport sha256:{digest}\nevents {events}\n"


def signature_file(report: Path, fingerprint: str) -> Path:
    """Return the path of a report's signature by a key."""
    return report.with_name(f"{report.stem}.{fingerprint[:SHOWN_DIGITS]}.sig.json")


def signature_files(report: Path) -> list[Path]:
    """Return the signatures beside a report, found by name."""
    return sorted(report.parent.glob(f"{_glob_literal(report.stem)}.{'[0-9a-f]' * SHOWN_DIGITS}.sig.json"))


def _glob_literal(text: str) -> str:
    return "".join(f"[{character}]" if character in "*?[" else character for character in text)


def write_signature(report: Path, statement: str, key: Ed25519PrivateKey) -> Path:
    """Sign, and write the signature beside the report.

    Raises:
        EnvironmentProblemError: it cannot be written.
    """
    fingerprint = fingerprint_of(key.public_key())
    signed = Signature(
        statement=statement, key=fingerprint, signature=base64.b64encode(key.sign(statement.encode())).decode()
    )
    path = signature_file(report, fingerprint)
    write_whole(path, signed.model_dump_json(indent=2) + "\n")
    return path


def read_signature(path: Path) -> Signature:
    """Read a signature's file.

    Raises:
        BadInputError: it cannot be read, or is not a signature.
    """
    try:
        return Signature.model_validate_json(read_bounded(path, "the signature", most_bytes=LARGEST_BYTES))
    except ValidationError as error:
        raise BadInputError("is not a signature made by quail sign", where=str(path)) from error


def is_by(signature: Signature, key: Ed25519PublicKey) -> bool:
    """Return whether the key's owner signed the statement."""
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(base64.b64decode(signature.signature, validate=True), signature.statement.encode())
    except (InvalidSignature, binascii.Error, UnicodeEncodeError):
        return False
    return True


def fingerprint_of(key: Ed25519PublicKey) -> str:
    """Return the SHA-256 of a public key as DER: openssl pkey -pubin -in KEY -outform DER | sha256sum."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def read_private_key(path: Path, ask: Callable[[], str | None]) -> Ed25519PrivateKey:
    """Read a key to sign with: PEM, as openssl or ssh-keygen writes it.

    Args:
        path: the key's file.
        ask: returns the passphrase of an encrypted key; None if there is no terminal to ask on.

    Raises:
        EnvironmentProblemError: the library is not installed.
        BadInputError: the file cannot be read, or is not such a key; or the passphrase is wrong.
    """
    _require_library()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_ssh_private_key

    written = read_bounded(path, "the key", most_bytes=LARGEST_BYTES)
    load = load_ssh_private_key if b"BEGIN OPENSSH PRIVATE KEY" in written else load_pem_private_key
    try:
        try:
            key = load(written, None)
        except TypeError:  # the library's way to say that it is encrypted
            passphrase = ask()
            if passphrase is None:
                raise BadInputError(
                    "the key is encrypted, and there is no terminal to ask for its passphrase",
                    where=str(path),
                    mend="Sign in a terminal, or use a key that is not encrypted",
                ) from None
            key = load(written, passphrase.encode())
    except (ValueError, UnsupportedAlgorithm, UnicodeEncodeError) as error:
        # from None: the library's message may hold parts of the key
        raise BadInputError(
            "not a private key, wrong passphrase, or unsupported encryption",
            where=str(path),
            mend=_EXPECTED,
        ) from (None if isinstance(error, ValueError) else error)
    if not isinstance(key, Ed25519PrivateKey):
        raise BadInputError("is another kind of private key", where=str(path), mend=_EXPECTED)
    return key


def read_public_key(path: Path) -> Ed25519PublicKey:
    """Read a key to verify with: PEM, as openssl pkey -pubout writes it, or a line of ssh-keygen's .pub.

    Raises:
        EnvironmentProblemError: the library is not installed.
        BadInputError: the file cannot be read, or is not such a key.
    """
    _require_library()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key, load_ssh_public_key

    written = read_bounded(path, "the key", most_bytes=LARGEST_BYTES)
    if b"PRIVATE KEY" in written:
        raise BadInputError(
            "is a private key; verifying does not need it, and it should stay secret",
            where=str(path),
            mend="Give the public key: openssl pkey -in KEY -pubout writes it",
        )
    try:
        key = load_ssh_public_key(written) if written.startswith(b"ssh-") else load_pem_public_key(written)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise BadInputError("is not a public key", where=str(path), mend=_EXPECTED) from error
    if not isinstance(key, Ed25519PublicKey):
        raise BadInputError("is another kind of public key", where=str(path), mend=_EXPECTED)
    return key


def _require_library() -> None:
    try:
        import cryptography.hazmat.primitives.asymmetric.ed25519  # noqa: F401
    except ImportError as error:
        raise EnvironmentProblemError(
            "signatures need the package cryptography", mend="pip install 'quail-audit[sign]'"
        ) from error
