"""Rules decide whose fault a failure is, by class, cause, code and message.

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

    [sdk.acme]  # declares the user's own errors module: see `faultlens.sdks.declared`
    modules = ["acme.errors"]
    kind = "user"

`FAULTLENS_PROFILE` adds the rules of a file that faultlens ships, in the same format. Kind, reason
and owner are decided one by one: by the user's rule, else by the profile's, else by the SDK.

    files.py     reads a file
    patterns.py  globs and regular expressions
    matching.py  finds the rule for an exception, inside a raise
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
"""The warnings already given. A file is read twice: once for the SDKs that it declares."""


def load(path: str, profile_name: str = "") -> Rules:
    """The rules of the file at `path` and of a profile; an empty string stands for none.

    A bad file is reported in one warning, and none of its rules is used: half a set of rules would
    silently blame the wrong people.
    """
    files = []
    if path:
        try:
            files.append(read(path))
        except RulesError as error:
            if str(error) not in _told:
                _told.add(str(error))
                _log.warning("faultlens: %s The built-in rules stay in force.", error)
    if profile_name:
        files.append(profile(profile_name))
    return Rules(files)
