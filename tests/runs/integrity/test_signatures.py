"""Signatures, against openssl and ssh-keygen where they are, and keys and files that are none."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from quail_audit.core.errors import BadInputError, EnvironmentProblemError
from quail_audit.runs.folder import new_run
from quail_audit.runs.integrity.signatures import fingerprint_of, read_private_key, read_public_key
from quail_audit.runs.integrity.verify import sign, verify
from quail_audit.runs.names import EVENTS, REPORT
from quail_audit.runs.record import record
from tests.support.places import ROOT
from tests.support.quail_command import quail
from tests.support.small_run import REQUEST, events

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
needs_ssh = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed")


def nobody() -> None:
    """Whom to ask for a passphrase where nobody is there."""


def openssl(*arguments: str | Path) -> bytes:
    return subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True).stdout


@pytest.fixture
def run(tmp_path: Path) -> Path:
    with new_run(tmp_path / "run", REQUEST) as folder:
        list(record(events(), folder))
    return folder


def write_key(folder: Path, name: str, encryption: KeySerializationEncryption | None = None) -> Path:
    """A new key's file; its public key lies beside it."""
    key = Ed25519PrivateKey.generate()
    path = folder / f"{name}.pem"
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption()))
    path.with_suffix(".pub.pem").write_bytes(
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    return path


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return write_key(tmp_path, "release")


def public(key: Path) -> Path:
    return key.with_suffix(".pub.pem")


def standing(run: Path, public_key: Path | None) -> tuple[str, str]:
    """Of its signature: the standing and why."""
    (check,) = [each for each in verify(run, {}, public_key=public_key).checks if each.part == "signature"]
    return check.standing, check.message


@needs_openssl
def test_openssl_finds_the_signature_good_and_its_key_signs_alike(run: Path, tmp_path: Path) -> None:
    """As the page says it is done by hand."""
    key, public_key = tmp_path / "key.pem", tmp_path / "key.pub.pem"
    openssl("genpkey", "-algorithm", "ed25519", "-out", key)
    openssl("pkey", "-in", key, "-pubout", "-out", public_key)
    signed = json.loads(sign(run, key, nobody).read_text())
    report = json.loads((run / REPORT).read_text())
    expected = (
        "quail-audit run, version 1\n"
        f"report sha256:{report['digest']}\n"
        f"events sha256:{hashlib.sha256((run / EVENTS).read_bytes()).hexdigest()}\n"
    )
    assert signed["statement"] == expected
    assert signed["key"] == hashlib.sha256(openssl("pkey", "-pubin", "-in", public_key, "-outform", "DER")).hexdigest()
    (tmp_path / "statement").write_text(expected)
    (tmp_path / "signature").write_bytes(base64.b64decode(signed["signature"]))
    files = ("-rawin", "-in", tmp_path / "statement")
    said = openssl("pkeyutl", "-verify", "-pubin", "-inkey", public_key, "-sigfile", tmp_path / "signature", *files)
    assert b"Verified Successfully" in said
    assert openssl("pkeyutl", "-sign", "-inkey", key, *files) == (tmp_path / "signature").read_bytes()
    assert standing(run, public_key) == ("unchanged", "signed by this key")


@needs_openssl
@pytest.mark.parametrize("forged", [False, True])
def test_the_commands_of_the_page_check_a_signature_without_quail(run: Path, key: Path, forged: bool) -> None:
    page = (ROOT / "docs" / "integrity.md").read_text()
    (commands,) = [
        block for block in re.findall(r"^```sh\n(.*?)^```$", page, re.MULTILINE | re.DOTALL) if "pkeyutl" in block
    ]
    path = sign(run, key, nobody)
    shutil.copy(public(key), run / "release.pub.pem")
    if forged:
        edit(path, statement=json.loads(path.read_text())["statement"].replace("version 1", "version 2"))
    done = subprocess.run(["sh", "-c", commands], cwd=run, capture_output=True, text=True)
    assert ("Verified Successfully" in done.stdout) is not forged


@needs_ssh
def test_keys_of_ssh_sign_and_verify(run: Path, tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "id"], check=True)
    sign(run, tmp_path / "id", nobody)
    assert standing(run, tmp_path / "id.pub") == ("unchanged", "signed by this key")


def test_a_signature_lies_beside_the_report_by_its_key_and_each_signer_has_one(run: Path, tmp_path: Path) -> None:
    first, second = write_key(tmp_path, "first"), write_key(tmp_path, "second")
    for key in (first, second):
        path = sign(run, key, nobody)
        fingerprint = fingerprint_of(read_public_key(public(key)))
        assert path == run / f"report.{fingerprint[:16]}.sig.json"
    for key in (first, second):
        assert standing(run, public(key))[0] == "unchanged"
    assert standing(run, public(write_key(tmp_path, "third")))[0] == "missing"
    unread = [check for check in verify(run, {}, public_key=None).checks if check.part == "signature"]
    assert [check.standing for check in unread] == ["not checked", "not checked"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda run: (run / EVENTS).write_text((run / EVENTS).read_text().replace("47 tests", "48 tests")), "events"),
        (lambda run: (run / REPORT).write_text((run / REPORT).read_text().replace("a note", "no note")), "report"),
    ],
    ids=["a sample's text", "the report"],
)
def test_what_was_signed_and_changed_is_told(
    spoil: Callable[[Path], object], message: str, run: Path, key: Path
) -> None:
    """A sample's text is in no digest but this one."""
    sign(run, key, nobody)
    spoil(run)
    found, why = standing(run, public(key))
    assert found == "changed"
    assert message in why


def edit(path: Path, **changes: str) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_signature_that_was_altered_or_is_anothers_is_told(run: Path, key: Path, tmp_path: Path) -> None:
    path = sign(run, key, nobody)
    whole = path.read_text()
    other = json.loads(sign(run, write_key(tmp_path, "other"), nobody).read_text())
    for changes in (
        {"signature": other["signature"]},
        {"signature": "no base64"},
        {"signature": ""},
        {"statement": other["statement"] + "\n"},
        {"statement": "quail-audit run, version 2\n"},
        {"key": other["key"]},
    ):
        path.write_text(whole)
        edit(path, **changes)
        assert standing(run, public(key))[0] == "changed", changes
    for text in ("", "{}", "[" * 10_000, "x" * 100_000, whole.replace("statement", "statemenT")):
        path.write_text(text)
        assert standing(run, public(key))[0] == "changed"


def test_a_statement_about_anything_else_is_no_signature_of_a_run(run: Path, key: Path) -> None:
    """Signed by the right key all the same."""
    path = sign(run, key, nobody)
    private = read_private_key(key, nobody)
    for statement in (
        "",
        "release 1.0\n",
        json.loads(path.read_text())["statement"].replace("run, version 1", "build"),
    ):
        signature = base64.b64encode(private.sign(statement.encode())).decode()
        edit(path, statement=statement, signature=signature)
        assert standing(run, public(key)) == ("changed", "this key signed something else")


def test_a_report_alone_can_be_signed_and_verified(run: Path, key: Path, tmp_path: Path) -> None:
    alone = tmp_path / "june.json"
    shutil.copy(run / REPORT, alone)
    path = sign(alone, key, nobody)
    assert path.name.startswith("june.")
    assert standing(alone, public(key)) == ("unchanged", "signed by this key, without the events")
    path = sign(run, key, nobody)
    shutil.copy(path, tmp_path / path.name.replace("report", "june"))
    assert standing(alone, public(key)) == ("unchanged", "signed by this key")


def test_what_does_not_fit_together_is_not_signed(run: Path, key: Path) -> None:
    before = (run / EVENTS).read_text()
    (run / EVENTS).write_text(before.replace('"outcome":"fail"', '"outcome":"pass"'))
    with pytest.raises(BadInputError, match="not signed: they do not add up to the report"):
        sign(run, key, nobody)
    (run / EVENTS).write_text(before)
    (run / REPORT).unlink()
    with pytest.raises(BadInputError, match="missing, so it is not signed"):
        sign(run, key, nobody)
    assert not list(run.glob("*.sig.json"))


def test_a_key_that_is_encrypted_asks_for_its_passphrase(run: Path, tmp_path: Path) -> None:
    key = write_key(tmp_path, "locked", BestAvailableEncryption(b"open sesame"))
    with pytest.raises(BadInputError, match="no terminal"):
        sign(run, key, nobody)
    with pytest.raises(BadInputError, match="wrong passphrase"):
        sign(run, key, lambda: "open barley")
    sign(run, key, lambda: "open sesame")
    assert standing(run, public(key))[0] == "unchanged"


def test_other_keys_are_refused_and_never_shown(tmp_path: Path, key: Path) -> None:
    elliptic = generate_private_key(SECP256R1())
    other = elliptic.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    theirs = elliptic.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    secret = key.read_bytes().splitlines()[1]
    path = tmp_path / "wrong"
    for written in (b"", b"\xff\x00", b"x" * 100_000, other, key.read_bytes()[:-40], secret, public(key).read_bytes()):
        path.write_bytes(written)
        with pytest.raises(BadInputError) as caught:
            read_private_key(path, nobody)
        assert caught.value.__cause__ is None
        assert secret.decode() not in str(caught.value)
    for written in (b"", b"\xff\x00", b"ssh-rsa AAAA", theirs, key.read_bytes()):
        path.write_bytes(written)
        with pytest.raises(BadInputError) as caught:
            read_public_key(path)
        assert secret.decode() not in str(caught.value)
    with pytest.raises(BadInputError, match="cannot read the key"):
        read_private_key(tmp_path / "nowhere", nobody)


def test_without_the_library_it_is_said_what_to_install(run: Path, key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.asymmetric.ed25519", None)
    with pytest.raises(EnvironmentProblemError) as caught:
        sign(run, key, nobody)
    assert caught.value.mend == "pip install 'quail-audit[sign]'"
    with pytest.raises(EnvironmentProblemError):
        verify(run, {}, public_key=public(key))


def test_the_command_signs_and_says_where(run: Path, key: Path) -> None:
    done = quail("sign", run, "--key", key)
    assert (done.returncode, done.stdout) == (0, "")
    (path,) = run.glob("*.sig.json")
    assert str(path) in done.stderr
    assert standing(run, public(key))[0] == "unchanged"
