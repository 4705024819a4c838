"""Secrets are not shown: passwords in URLs, and whatever has a name that tells of one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

MASK = "***"
# Words of a name, between _, - and the like: AWS_SECRET_ACCESS_KEY; its end, as in sslpassword; and S3's own `key`.
_WORDS = r"pass|token|credentials?|(?:api|access|private|account|shared)[_-]?key|sas"
_ENDS = r"pass(?:word|wd|phrase)|secret"
_NAME = re.compile(rf"(?i)(?:.*[^a-z])?(?:{_WORDS})(?:[^a-z].*)?|.*(?:{_ENDS})(?:[^a-z].*)?|key")
_IN_URL = re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://[^\s/:@]*):[^\s/@]+@")
_IN_QUERY = re.compile(r"([?&]([\w.-]+)=)[^\s&#]+")


def is_secret(name: str) -> bool:
    """Whether a key, or an environment variable, is named as what nobody else is to see."""
    return _NAME.fullmatch(name) is not None


def holds_secret(name: str, value: str) -> bool:
    """Whether an environment variable has something in it that nobody else is to see."""
    return bool(masked(value, name) != value)


def masked(value: Any, *names: str) -> Any:
    """A value as it may be shown.

    Args:
        value: of whatever kind.
        names: the keys under which it stands.
    """
    if isinstance(value, Mapping):
        return {key: masked(part, *names, str(key)) for key, part in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [masked(part, *names) for part in value]
    if value not in (None, "") and any(map(is_secret, names)):
        return MASK
    return without_passwords(value) if isinstance(value, str) else value


def without_passwords(text: str) -> str:
    """A text without the passwords of URLs in it."""
    text = _IN_URL.sub(rf"\1:{MASK}@", text)
    return _IN_QUERY.sub(lambda found: found[1] + MASK if is_secret(found[2]) else found[0], text)
