r"""Takes secrets out of a text before it leaves: what stays is readable, ``?[scrubbed]``.

Each shape below begins with a sign, a few letters that `str.find` looks for. Its expression is
matched only where the sign is, so a plain message costs about a microsecond. A match is skipped as
a whole, and what an expression may look at in vain is bounded: the time is linear in the text.

| shape | example of what is left |
| --- | --- |
| the query of a signed URL: AWS, Google Cloud, Azure, CloudFront | ``https://b.s3/k?[scrubbed]`` |
| credentials in a URL | ``postgresql://[scrubbed]@host/db`` |
| the headers Authorization and Cookie | ``Authorization: Bearer [scrubbed]`` |
| a bearer or basic credential anywhere | ``bearer [scrubbed]`` |
| a password, secret, token or key, as pair, JSON, XML, option | ``password=[scrubbed]`` |
| a private key block | ``-----BEGIN PRIVATE KEY-----[scrubbed]-----END PRIVATE KEY-----`` |
| key ids of AWS, a JWT, tokens of GitHub, GitLab, Slack, Hugging Face, OpenAI | ``[scrubbed]`` |

``FAULTLENS_SCRUB`` adds regular expressions, one a line, or turns all of it off.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from typing import NamedTuple

from faultlens.rules.patterns import MESSAGE_LIMIT, expression
from faultlens.switch import on_or_off

__all__ = ["MARK", "Scrub", "load", "read"]

_log = logging.getLogger("faultlens")

MARK = "[scrubbed]"
"""What stands for a secret."""
SHORT_LIMIT = 1024
"""How many codes, names and places are remembered with what is left of them."""
MATCH_LIMIT = 200
"""The longest match of a user's expression that is found wherever it is, in characters."""


class _Shape(NamedTuple):
    """What a secret looks like."""

    sign: str
    """What the match begins with, in lower case."""
    pattern: str
    """An expression; its last group that matched is the secret."""
    only_if: str | None = None
    """An expression for what the match, in lower case, must have in it."""


# From a name to its value: `=`, `: `, `": "`, `\": \"`, `'] = `, `%3D`, `>`.
_SEP = r"""\\{0,4}["']?\]?(?:[ \t]{0,8}(?:=>|[:=]{1,2})[ \t]{0,8}|%3[ad]|>)"""
# Values that are no secret, and tell what is wrong.
_NOT = r"(?!(?:none|null|nil|true|false)\b|\[scrubbed)"
# In quotes, in quotes with a backslash, or a word; a bracket may close around it. What is in quotes
# may be the first item of a list, or the argument of a call.
_VALUE = r"""(?:[\w.]{0,40}[\[(]{1,2}(?=[bfru]{0,2}["']))?(?:[bfru]{1,2}(?=["']))?(?:
    \\{1,4}["']([^"'\\]*)
    | "((?:[^"\\]|\\.)*) | '((?:[^'\\]|\\.)*)
    | ([^\s&,;"'<>\\]*[^\s&,;"'<>\\)\]}])
)"""
_HEADER = r"""\\{0,4}["']?[ \t]{0,8}(?:=>|[:=]{1,2}|,)[ \t]{0,8}(?:b(?=["']))?\\{0,4}["']?"""
_IN_URL = r"""[^\s/?#@:"'<>\[]"""


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    """The expression, compiled when a text first needs it.

    Compiling all of them at import would take a tenth of ``import flyte``.
    """
    return re.compile(pattern, re.VERBOSE | re.DOTALL)


def _pair(sign: str, name: str, unlike: str = "") -> _Shape:
    """A name and its value. unlike: what the value must not begin with."""
    return _Shape(sign, f"(?i:{name}{_SEP}{_NOT}{unlike}{_VALUE})")


_KEY = "|".join(
    f"(?<={word})key|(?<={word}[ _-])key"
    for word in ("api", "access", "secret", "account", "private", "auth", "subscription")
)
# Not a name that begins like a token: those have a digit, those of Hugging Face no underscore.
_TOKENS = r"(?<![\w-])(?=[\w-]{0,200}?\d)([\w-]{20,})"
_OF_HUGGING_FACE = r"(?<![\w-])(hf_[a-zA-Z0-9]{20,})"

_LISTED = (
    _pair("pass", r"pass(?:word|wd|phrase|code)\d?"),
    _pair("pwd", "pwd", unlike="(?!/)"),  # the shell's PWD is a directory
    _pair("secret", "secret"),
    _pair("token", "token", unlike=r"(?=\S{6})"),  # as a parser says: unexpected token: '}'
    _pair("key", f"(?:{_KEY})"),
    _Shape(
        "--",
        r"""(?i:(?<!-)--(?!-)[\w-]{0,32}?(?:password|passwd|passphrase|token|secret|[is]-key)
        (?:["'],[ ]?["']([^"']+)|[ \t]{1,4}["']?([^\s"']{4,})))""",
    ),
    _Shape(
        "authorization",
        rf"""(?i:authorization{_HEADER}(?:
            (?:bearer|basic|token|negotiate|api-?key)[ \t]{{1,8}}([^\s"',;\\]+)
            | (digest[^\r\n]+) | ([^\r\n"'\\]{{8,}})
        ))""",
    ),
    _Shape("cookie", rf"""(?i:cookie{_HEADER}([^\r\n"'\\]+))"""),
    # Not "bearer authentication": a token has a digit.
    _Shape("bearer", r"(?i:bearer[ \t]{1,8}(?=[^\s\d]{0,256}\d)([\w.~+/=-]{8,}))"),
    # Not "basic authentication": Base64 has a digit, a capital letter within, or `=` at its end.
    _Shape(
        "basic",
        r"[Bb](?:asic|ASIC)[ \t]{1,8}(?=[a-zA-Z+/]{0,256}?(?:[\d=]|[a-z][A-Z]))([\w+/=]{8,})",
    ),
    _Shape(
        "-----begin",
        r"-----BEGIN[A-Z0-9 ]{0,40}PRIVATE\ KEY[A-Z ]{0,10}-----(.*?)(?:-----END|\Z)",
    ),
    _Shape(
        "://",
        # Not a port. A password may have a slash or an @ in it, though it should not.
        rf"""://(?:({_IN_URL}{{0,128}}:(?!//|\d{{1,5}}(?:[/?#]|\Z))[^\s@"'<>]{{0,256}}
            (?:@[^\s@/?#"'<>]{{0,128}}(?=@))?)(?:@|…\Z)
        | (?:(?<=[Tt][Pp]://)|(?<=[Pp][Ss]://))({_IN_URL}{{1,256}})@)""",
    ),
    _Shape(
        "?",
        r"""\?([^\s"'<>]*[^\s"'<>).,;\]}])""",
        only_if=(
            r"(?:[?&;]|%26|u0026)(?:amp;)?(?:x-(?:amz|goog|oss|obs|cos|tos)-[a-z]"
            r"|(?:sig|signature|awsaccesskeyid|googleaccessid|ossaccesskeyid|key-pair-id)=)"
        ),
    ),
    _Shape(
        "sig",
        r"""(?i:(?:signature|(?<![a-z])sig)(?:=|%3d)([^\s&,;"'<>]{15,}[^\s&,;"'<>)\]}.]))""",
    ),
    *(
        _Shape(
            sign.lower(),
            rf"(?<![A-Za-z0-9])({sign}(?:[A-Z0-9]{{16}}(?![A-Za-z0-9])|[A-Z0-9]{{0,15}}…))",
        )
        for sign in ("AKIA", "ASIA")
    ),
    _Shape("eyj", r"(?<![\w-])(eyJ[\w-]{8,}\.[\w-]{4,}[\w.-]*)"),  # a JWT
    *(
        _Shape(sign, _TOKENS)
        for sign in (
            *("ghp_", "gho_", "ghs_", "ghu_", "ghr_", "github_pat_", "glpat-"),
            *("xoxb-", "xoxp-", "xoxa-", "xapp-", "sk-", "aiza"),
        )
    ),
    _Shape("hf_", _OF_HUGGING_FACE),
)


_SHAPES = {shape.sign: shape for shape in _LISTED}
_SIGNS = tuple(_SHAPES)


class Scrub:
    """Takes secrets out of texts.

    expressions: the user's; the first group is the secret, or else the whole match.
    on: False changes nothing.
    """

    def __init__(self, expressions: Sequence[re.Pattern[str]] = (), on: bool = True) -> None:
        self.on = on
        self._expressions = tuple(expressions)
        self.short = lru_cache(SHORT_LIMIT)(self.text)
        """The same as `text`, remembered: for codes and names, which come again and again."""

    def text(self, text: str) -> str:
        """The text with `MARK` for each secret. Its time is linear.

        Raises nothing but a RecursionError or a MemoryError.
        """
        if not self.on:
            return text
        low = text.lower()
        if len(low) != len(text):  # a dotted capital I becomes two characters
            low = text.replace("\u0130", "I").lower()
        found: list[tuple[int, int]] = []
        for sign in [sign for sign in _SIGNS if sign in low]:
            found.extend(_spans(_SHAPES[sign], text, low))
        for wanted in self._expressions:
            found.extend(_spans_of(wanted, text))
        return _marked(text, found) if found else text


def _spans(shape: _Shape, text: str, low: str) -> Iterator[tuple[int, int]]:
    sign, match = shape.sign, _compiled(shape.pattern).match
    only_if = None if shape.only_if is None else _compiled(shape.only_if)
    at = low.find(sign)
    while at >= 0:
        found = match(text, at)
        if found is None:
            at = low.find(sign, at + 1)
            continue
        start, end = found.span(found.lastindex or 0)
        if only_if is None or only_if.search(low, found.start(), end):
            yield start, end
        at = low.find(sign, found.end())


def _spans_of(wanted: re.Pattern[str], text: str) -> Iterator[tuple[int, int]]:
    """Searched in windows of the length that `expression` weighs, so that the time is linear."""
    for start in range(0, len(text), MESSAGE_LIMIT - MATCH_LIMIT):
        for found in wanted.finditer(text, start, start + MESSAGE_LIMIT):
            yield found.span(1 if wanted.groups else 0)
        if start + MESSAGE_LIMIT >= len(text):
            break


def _marked(text: str, spans: list[tuple[int, int]]) -> str:
    parts: list[str] = []
    done = 0
    for start, end in sorted(spans):
        if end <= max(start, done):  # empty, of a group that did not match, or within another
            continue
        if start > done or not parts:
            parts += text[done:start], MARK
        done = end
    parts.append(text[done:])
    return "".join(parts)


def read(value: str) -> tuple[Scrub, list[str]]:
    """What `FAULTLENS_SCRUB` says, and what is wrong with the lines that cannot be used."""
    value = value.strip()
    on = on_or_off(value)
    if on is not None:
        return Scrub(on=on or not value), []
    expressions, problems = [], []
    for line in filter(None, map(str.strip, value.splitlines())):
        try:
            expressions.append(expression(line))
        except ValueError as error:
            problems.append(f"FAULTLENS_SCRUB: {line[:80]!r}: {error}; this line is ignored")
    return Scrub(expressions), problems


def load(value: str) -> Scrub:
    """What `FAULTLENS_SCRUB` says. Logs one warning for each line that cannot be used."""
    scrub, problems = read(value)
    for problem in problems:
        _log.warning("faultlens: %s.", problem)
    return scrub
