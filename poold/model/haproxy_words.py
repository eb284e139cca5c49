"""Which words HAProxy takes for names and options, so that none becomes a command of its own. Pure.

Asked when a configuration is read, and again when a command line is written.
"""

from __future__ import annotations

import re

LONGEST_OPTIONS = 2000  # of the 16 kB that HAProxy takes as one line by default
HIGHEST_WEIGHT = 256

# What HAProxy itself allows in the names of proxies and servers.
_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,100}")
_OPTION = re.compile(r"[A-Za-z0-9_.:/,@%+=-]{1,200}")
# Words that are poold's to say, that would change who decides on a server, or that make another
# question of "add server".
_OUR_WORDS = frozenset({"weight", "disabled", "enabled", "id", "track", "agent-check", "help"})


def is_haproxy_name(text: str) -> bool:
    """Return whether a backend or server may be called so."""
    return _NAME.fullmatch(text) is not None


def why_no_options(options: str) -> str:
    """Return why these cannot be words of a server line, or nothing."""
    for word in options.split(" "):
        if word and not _OPTION.fullmatch(word):
            return f"cannot have {word!r} in it: letters, digits and _.:/,@%+=- make a word"
        if word in _OUR_WORDS:
            return f"cannot have {word!r} in it: poold says that itself, or it is in its way"
    return f"cannot be longer than {LONGEST_OPTIONS}" if len(options) > LONGEST_OPTIONS else ""
