"""A promotion, retirement, rollback or publication as the command to copy into a shell. Pure; nothing is run here."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from phipack.api.arguments import as_reason
from targets.errors import MalformedReferenceError, PhipackError
from targets.printable import printable
from targets.references import Reference, check_channel
from targets.secrets import without_secrets

Kind = Literal["promote", "retire", "rollback"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Wanted:
    """What the form asks for, as it was sent."""

    kind: Kind = "promote"
    release: str = ""
    cell: str = ""
    channel: str = "production"
    reason: str = ""
    override: bool = False

    @classmethod
    def of(cls, sent: Mapping[str, str]) -> Wanted:
        """Return the fields. Raises `PhipackError` where there is no such kind."""
        kind = sent.get("do", "promote")
        if kind not in KINDS:
            raise PhipackError(f"{kind!r} can't be prepared", fix=f"choose one of {', '.join(KINDS)}")
        texts = {name: sent.get(name, "").strip() for name in ("release", "cell", "reason")}
        channel = sent.get("channel", "production").strip()
        return cls(kind, **texts, channel=channel, override=sent.get("override") == "yes")


def command(model: str, wanted: Wanted) -> str:
    """Return the command, quoted for a POSIX shell.

    Raises:
        PhipackError: it would be refused as it stands: a name that is none, an override without a reason.
    """
    check_channel(wanted.channel)
    reason = ("--reason", _reason(wanted.reason)) if wanted.reason else ()
    return shlex.join(("phipack", wanted.kind, *_ARGUMENTS[wanted.kind](model, wanted), *reason))


def publication(model: str, channel: str) -> str:
    """Return the command that publishes a channel."""
    Reference.parse(f"{model}:{channel}")
    return shlex.join(("phipack", "publish", model, "--channel", channel))


def _promotion(model: str, wanted: Wanted) -> tuple[str, ...]:
    if wanted.override and not wanted.reason:
        raise PhipackError("an override needs a reason, which the history keeps", fix="say why it goes ahead")
    cell = f"@{wanted.cell}" if wanted.cell else ""
    reference = Reference.parse(f"{model}:{wanted.release}{cell}")
    if reference.version is None:
        raise MalformedReferenceError(f"{wanted.release!r} is not a version", fix="choose a release")
    return str(reference), "--to", wanted.channel, *(("--override",) if wanted.override else ())


def _retirement(model: str, wanted: Wanted) -> tuple[str, ...]:
    if not wanted.cell:
        raise MalformedReferenceError("a retirement needs a cell", fix="choose the cell that is taken out")
    Reference.parse(f"{model}@{wanted.cell}")
    return f"{model}@{wanted.cell}", "--from", wanted.channel


def _rollback(model: str, wanted: Wanted) -> tuple[str, ...]:
    Reference.parse(model)
    return model, "--channel", wanted.channel


_ARGUMENTS = {"promote": _promotion, "retire": _retirement, "rollback": _rollback}


def _reason(given: str) -> str:
    """Return a reason that stands in the command as it was typed: nothing in it is replaced when it is shown."""
    text = " ".join(given.splitlines())
    if printable(text) != text:
        raise PhipackError("the reason has characters that a terminal obeys", fix="write it as plain text")
    if without_secrets(text) != text:
        raise PhipackError("the reason has a password or a token in it", fix="leave it out: the history is public")
    return as_reason(text)
