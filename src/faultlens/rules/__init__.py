"""Whose fault, by class, cause, code and message: the user's rules and the shipped profile.

`FAULTLENS_RULES` names a TOML file. Its rules are tried in order, and the first match decides::

    flyte.errors.OOMError = "system"  # the short form: a class, with its subclasses

    [[rule]]
    class = "flyte.errors.RuntimeUserError"  # a glob over the SDK class and its bases
    cause = "botocore.exceptions.*"          # the native class, its bases, and what caused it
    code = "Endpoint*"                       # a glob over the exception's code
    message = "timed out"                    # a regular expression
    kind = "system"
    reason = "storage"
    owner = "data-platform"

    [sdk.acme]  # an errors module of the user's own: see `faultlens.sdks.declared`
    modules = ["acme.errors"]
    kind = "user"

`FAULTLENS_PROFILE` adds the rules of a file that faultlens ships, in the same format. What the
user's rule does not give, the profile's gives; what neither gives, the SDK's own word.

    files.py     reads a file
    patterns.py  globs and regular expressions
    matching.py  finds the rule of an exception, inside a raise
    checking.py  finds rules that can never match
"""

from __future__ import annotations

import logging

from faultlens.rules.files import REASONS, RulesError, profile, read
from faultlens.rules.matching import (
    Candidates,
    Decision,
    DeclaredSdk,
    Entry,
    Link,
    RuleFile,
    Rules,
)

__all__ = [
    "REASONS",
    "Candidates",
    "Decision",
    "DeclaredSdk",
    "Entry",
    "Link",
    "RuleFile",
    "Rules",
    "RulesError",
    "load",
    "profile",
    "read",
]

_log = logging.getLogger("faultlens")

_told: set[str] = set()
"""What was warned of: a file is read again for the SDKs that it declares."""


def load(path: str, profile_name: str = "") -> Rules:
    """The rules of the file at `path` and of a profile, each if it is named.

    A file that cannot be used is one warning, and none of its rules holds: half a set of rules
    would misplace blame silently.
    """
    files = []
    if path:
        try:
            files.append(read(path))
        except RulesError as error:
            if str(error) not in _told:
                _told.add(str(error))
                _log.warning("%s The built-in rules stay in force.", error)
    if profile_name:
        files.append(profile(profile_name))
    return Rules(files)
