"""The three kinds of failure, told apart by one question: will trying again help?

Everything that crosses a boundary (engine, host, API, command line) fails with one of these.
The text starts with "cannot" and names the object; the hint is the way out; the code is stable
and meant for programs. Travels with the agent: standard library only, Python 3.9.
"""

from __future__ import annotations

from typing import Any


class Problem(Exception):
    """A failure that can be shown to an operator as it is.

    `code` is stable, dotted and lower case ("criu.live-connection"); `hint` says the way out;
    `detail` carries evidence of several lines, such as the tail of CRIU's log.
    """

    kind = "permanent"

    def __init__(
        self,
        code: str,
        message: str,
        *,
        hint: str = "",
        detail: str = "",
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
        self.detail = detail
        self.retry_after_seconds = retry_after_seconds

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message

    def to_json(self) -> dict[str, Any]:
        """Return the form used on the wire and in the store; empty fields are left out."""
        fields = {
            "kind": self.kind,
            "code": self.code,
            "message": self.message,
            "hint": self.hint,
            "detail": self.detail,
            "retry_after_seconds": self.retry_after_seconds,
        }
        return {key: value for key, value in fields.items() if value not in ("", None)}


class Temporary(Problem):
    """The same request may succeed later, nobody has to change anything for it."""

    kind = "temporary"


class Permanent(Problem):
    """Trying again will not help until somebody changes something."""

    kind = "permanent"


class Refused(Problem):
    """The request itself is wrong; nothing was done."""

    kind = "refused"


_KINDS: dict[str, type[Problem]] = {kind.kind: kind for kind in (Temporary, Permanent, Refused)}


def problem_from_json(value: Any) -> Problem:
    """Rebuild a problem from `Problem.to_json`; anything else becomes a Permanent that says so."""
    if not isinstance(value, dict) or not isinstance(value.get("message"), str):
        return Permanent("wire.bad-problem", f"cannot read a reported problem: {value!r:.200}")
    retry = value.get("retry_after_seconds")
    return _KINDS.get(str(value.get("kind")), Permanent)(
        str(value.get("code", "unknown")),
        value["message"],
        hint=str(value.get("hint", "")),
        detail=str(value.get("detail", "")),
        retry_after_seconds=float(retry) if isinstance(retry, (int, float)) else None,
    )
