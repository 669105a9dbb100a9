"""Secrets are taken out of texts, and everything else stays."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faultlens.scrub import _LISTED, MARK, Scrub, _compiled, _Shape, load, read

SCRUB = Scrub()

# The secrets, each of which must be gone; what must stay is in the expected text.
KEY = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9"
AWS = (
    "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1"
    "%2Fs3%2Faws4_request&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host"
    "&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
)
PEM = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj"

CORPUS = {
    # Signed URLs.
    "AWS, version 4": (
        f"GET https://b.s3.amazonaws.com/in/a.parquet?{AWS} failed: 403",
        "GET https://b.s3.amazonaws.com/in/a.parquet?[scrubbed] failed: 403",
    ),
    "AWS, in quotes, with a session token": (
        f"Cannot open 'https://b.s3.eu-west-1.amazonaws.com/k?{AWS}&X-Amz-Security-Token=IQoJb3JpZ2'",
        "Cannot open 'https://b.s3.eu-west-1.amazonaws.com/k?[scrubbed]'",
    ),
    "AWS, version 2": (
        "(https://b.s3.amazonaws.com/k?AWSAccessKeyId=AKIAIOSFODNN7EXAMPLE&Expires=1175139620"
        "&Signature=NpgCjnDzrM%2BWFzoENXmpNDUsSSk%3D)",
        "(https://b.s3.amazonaws.com/k?[scrubbed])",
    ),
    "AWS, as Go writes it into JSON": (
        '{"url":"https://b.s3.amazonaws.com/k?' + AWS.replace("&", "\\u0026") + '","n":1}',
        '{"url":"https://b.s3.amazonaws.com/k?[scrubbed]","n":1}',
    ),
    "AWS, in HTML": (
        f'<a href="https://b.s3.amazonaws.com/k?{AWS.replace("&", "&amp;")}">k</a>',
        '<a href="https://b.s3.amazonaws.com/k?[scrubbed]">k</a>',
    ),
    "AWS, with a parameter of another's in front": (
        f"https://b.s3.amazonaws.com/k?versionId=3&{AWS}, retried",
        "https://b.s3.amazonaws.com/k?[scrubbed], retried",
    ),
    "AWS, cut off": (
        f"https://b.s3.amazonaws.com/k?{AWS[:90]}…",
        "https://b.s3.amazonaws.com/k?[scrubbed]",
    ),
    "Google Cloud, version 4": (
        "https://storage.googleapis.com/b/o?X-Goog-Algorithm=GOOG4-RSA-SHA256&X-Goog-Credential="
        "sa%40p.iam.gserviceaccount.com%2F20200301&X-Goog-Signature=247a2aa45f169edf4d187d54e7cc46e4",
        "https://storage.googleapis.com/b/o?[scrubbed]",
    ),
    "Google Cloud, version 2": (
        "https://storage.googleapis.com/b/o?GoogleAccessId=sa@p.iam.gserviceaccount.com&Expires=1&"
        "Signature=ABCDEFGH12345%3D",
        "https://storage.googleapis.com/b/o?[scrubbed]",
    ),
    "Azure": (
        "https://a.blob.core.windows.net/c/b.csv?sp=r&st=2024-01-01T00:00:00Z&se=2024-01-02T00:00:00Z"
        "&spr=https&sv=2022-11-02&sr=b&sig=abcDEF123%2Bxyz%3D: 403 Server failed",
        "https://a.blob.core.windows.net/c/b.csv?[scrubbed] 403 Server failed",
    ),
    "a signature alone": ("k?X-Amz-Signature=hunter2", "k?[scrubbed]"),
    "CloudFront": (
        "https://d1.cloudfront.net/f?Policy=eyJTdGF0&Signature=nitfHRCrtziwO2HwPfWw&Key-Pair-Id=K2J",
        "https://d1.cloudfront.net/f?[scrubbed]",
    ),
    # Credentials in URLs.
    "a database": (
        'connection to "postgresql://app:hunter2@db.prod:5432/orders?sslmode=require" failed',
        'connection to "postgresql://[scrubbed]@db.prod:5432/orders?sslmode=require" failed',
    ),
    "without a user": ("redis://:hunter2@cache:6379/0", "redis://[scrubbed]@cache:6379/0"),
    "a slash and an @ in the password": (
        "amqp://app:hun/ter@2@mq/vhost is down",
        "amqp://[scrubbed]@mq/vhost is down",
    ),
    "a token as user": (
        "fatal: unable to access 'https://ghp_16C7e42F292c6912E7710c838347Ae178B4a@github.com/o/r/'",
        "fatal: unable to access 'https://[scrubbed]@github.com/o/r/'",
    ),
    "a proxy": (
        "ProxyError('http://alice:hunter2@proxy:3128')",
        "ProxyError('http://[scrubbed]@proxy:3128')",
    ),
    "cut off before the @": ("mongodb://app:hunter2…", "mongodb://[scrubbed]…"),
    # Headers.
    "a header": (
        "> Authorization: Bearer abc.def-123\n> Accept: */*",
        "> Authorization: Bearer [scrubbed]\n> Accept: */*",
    ),
    "a basic header": (
        "authorization: basic dXNlcjpwYXNz is wrong",
        "authorization: basic [scrubbed] is wrong",
    ),
    "a signature of AWS": (
        f"Authorization: AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/"
        f"aws4_request, SignedHeaders=host, Signature={'f0e8bdb8' * 8}\nHost: s3",
        "Authorization: [scrubbed]\nHost: s3",
    ),
    "a digest": (
        'Authorization: Digest username="Mufasa", realm="r", response="6629fae49393a05397',
        "Authorization: [scrubbed]",
    ),
    "a dictionary": (
        "headers={'Authorization': 'Bearer abc123def456', 'Accept': '*/*'}",
        "headers={'Authorization': 'Bearer [scrubbed]', 'Accept': '*/*'}",
    ),
    "gRPC metadata": (
        "metadata=(('authorization', 'Bearer abc123def456'), ('x-id', '7'))",
        "metadata=(('authorization', 'Bearer [scrubbed]'), ('x-id', '7'))",
    ),
    "bytes": (
        "[(b'authorization', b'Basic dXNlcjpwYXNz')]",
        "[(b'authorization', b'Basic [scrubbed]')]",
    ),
    "JSON in JSON": (
        r'"{\"authorization\":\"Bearer abc123def456\",\"n\":1}"',
        r'"{\"authorization\":\"Bearer [scrubbed]\",\"n\":1}"',
    ),
    "a scheme of one's own": (
        "Authorization: 3f2a8c77e1aa\nHost: h",
        "Authorization: [scrubbed]\nHost: h",
    ),
    "a cookie": (
        "Set-Cookie: session=8a7b6c; Path=/\nHost: h",
        "Set-Cookie: [scrubbed]\nHost: h",
    ),
    "a bearer without a header": (
        "the server refused bearer abc123def456 for run r1",
        "the server refused bearer [scrubbed] for run r1",
    ),
    "an API key's header": (
        "X-Api-Key: 0123456789abcdef; Accept: json",
        "X-Api-Key: [scrubbed]; Accept: json",
    ),
    # Pairs.
    "a connection string": (
        "host=db user=app password=hunter2 dbname=orders",
        "host=db user=app password=[scrubbed] dbname=orders",
    ),
    "a connection string of Azure": (
        f"DefaultEndpointsProtocol=https;AccountName=a;AccountKey={KEY}==;EndpointSuffix=core",
        "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=[scrubbed];EndpointSuffix=core",
    ),
    "ODBC": (
        "Driver={ODBC Driver 18};Server=s;Uid=app;Pwd=hunter2;",
        "Driver={ODBC Driver 18};Server=s;Uid=app;Pwd=[scrubbed];",
    ),
    "JSON": (
        json.dumps({"user": "app", "password": 'hun"ter2', "port": 5432}),
        '{"user": "app", "password": "[scrubbed]", "port": 5432}',
    ),
    "JSON, twice": (
        json.dumps(json.dumps({"password": "hunter2", "port": 5432})),
        r'"{\"password\": \"[scrubbed]\", \"port\": 5432}"',
    ),
    "a repr": (
        "Config(user='app', db_password='hunter 2', token=None)",
        "Config(user='app', db_password='[scrubbed]', token=None)",
    ),
    "a call": ("connect(password=hunter2)", "connect(password=[scrubbed])"),
    "an item": (
        "os.environ['SLACK_TOKEN'] = 'abcdef'",
        "os.environ['SLACK_TOKEN'] = '[scrubbed]'",
    ),
    "an environment": (
        f"AWS_SECRET_ACCESS_KEY={KEY} AWS_REGION=eu",
        "AWS_SECRET_ACCESS_KEY=[scrubbed] AWS_REGION=eu",
    ),
    "a credentials file": (
        f"aws_secret_access_key = {KEY}\nregion = eu",
        "aws_secret_access_key = [scrubbed]\nregion = eu",
    ),
    "YAML": (
        "clientSecret: 8Q~abcdefgh\nname: x",
        "clientSecret: [scrubbed]\nname: x",
    ),
    "XML": ("<password>hunter2</password>", "<password>[scrubbed]</password>"),
    "a query": (
        "https://h/p?page=2&api_key=0123456789&x=1",
        "https://h/p?page=2&api_key=[scrubbed]&x=1",
    ),
    "a query that is quoted": ("next=%2Fp%3Ftoken%3Dabcdef123", "next=%2Fp%3Ftoken%3D[scrubbed]"),
    "an option": (
        "mysql --user app --password hunter2 --host h",
        "mysql --user app --password [scrubbed] --host h",
    ),
    "a command line": (
        "Command '['curl', '--api-key', 'hunter2', 'h']' returned non-zero exit status 1.",
        "Command '['curl', '--api-key', '[scrubbed]', 'h']' returned non-zero exit status 1.",
    ),
    "cut off in quotes": ("password='hunter2", "password='[scrubbed]"),
    # Keys and tokens by themselves.
    "a private key": (
        f"bad: -----BEGIN RSA PRIVATE KEY-----\n{PEM}\n-----END RSA PRIVATE KEY-----\n; see docs",
        "bad: -----BEGIN RSA PRIVATE KEY-----[scrubbed]-----END RSA PRIVATE KEY-----\n; see docs",
    ),
    "a service account": (
        json.dumps(
            {"private_key": f"-----BEGIN PRIVATE KEY-----\n{PEM}\n-----END PRIVATE KEY-----\n"}
        ),
        '{"private_key": "[scrubbed]"}',
    ),
    "a private key that is cut off": (
        f"-----BEGIN OPENSSH PRIVATE KEY-----\n{PEM}…",
        "-----BEGIN OPENSSH PRIVATE KEY-----[scrubbed]",
    ),
    "a key id": (
        "The key id AKIAIOSFODNN7EXAMPLE does not exist",
        "The key id [scrubbed] does not exist",
    ),
    "a temporary key id": (
        "<AWSAccessKeyId>ASIAIOSFODNN7EXAMPLE</AWSAccessKeyId>",
        "<AWSAccessKeyId>[scrubbed]</AWSAccessKeyId>",
    ),
    "a JWT": (f"cannot decode {JWT}!", "cannot decode [scrubbed]!"),
    "a token of GitHub": (
        "remote: ghp_16C7e42F292c6912E7710c838347Ae178B4a is revoked",
        "remote: [scrubbed] is revoked",
    ),
    "a user's token of GitHub": (
        "remote: ghu_16C7e42F292c6912E7710c838347Ae178B4a is revoked",
        "remote: [scrubbed] is revoked",
    ),
    "a user's token of Slack": (
        "xoxp-2345678901-2345678901-AbCdEfGhIjKl: invalid_auth",
        "[scrubbed]: invalid_auth",
    ),
    "a token of Hugging Face": (
        "401 for hf_abcdefghijklmnopqrstuvwxyzABCDEFGH",
        "401 for [scrubbed]",
    ),
    "in a list, as parse_qs and JSON have it": (
        "{'user': ['me'], 'password': ['S3cr3t'], \"token\": [\"S3cr3tS3cr3t\"]}",
        "{'user': ['me'], 'password': ['[scrubbed]'], \"token\": [\"[scrubbed]\"]}",
    ),
    "in a tuple": ("password=('S3cr3t',)", "password=('[scrubbed]',)"),
    "in a call": (
        "Config(password=pydantic.SecretStr(b'S3cr3t'))",
        "Config(password=pydantic.SecretStr(b'[scrubbed]'))",
    ),
}
PLAIN = [
    "",
    "out of memory",
    "[Errno 28] No space left on device: '/data/part-0003.parquet'",
    "https://h:8080/p?x=1&y=me@example.com is 404",
    "s3://bucket/prefix/key?versionId=3",
    "abfss://container@account.dfs.core.windows.net/path",
    "ssh://git@github.com/o/r.git",
    "http://[::1]:9464/metrics@x",
    "Bearer authentication failed; basic authentication is off",
    "Unexpected token: '<' at line 3",
    "max_tokens=4096 and 128 tokens: too many",
    "the password is wrong, the secret is missing, the token has expired",
    "token=None, password=null, secret: false",
    "PWD=/home/flyte USER=flyte",
    "KeyError: 'user_id'; key: 7; keyboard=qwertz; primary_key=12345678",
    "Secret not found: key openai in group llm",
    "the request signature we calculated does not match",
    "def f(x: int) -> str: signature=(self, x)",
    "task-with-a-rather-long-name-of-its-own: failed",
    "hf_load_model_and_tokenizer: sk-learn-pipeline-training, aizawa-embedding-fine-tuning",
    "MALAKIA and ASIAN",
    "-" * 200,
    "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
    "--token is missing",
    "Was it? Really?? See https://h/?q=a.",
    "İstanbul: no space left",
]


@pytest.mark.parametrize("name", CORPUS)
def test_a_secret_goes_and_the_rest_stays(name: str) -> None:
    text, left = CORPUS[name]
    assert SCRUB.text(text) == left


@pytest.mark.parametrize("name", CORPUS)
def test_it_does_not_matter_what_is_around_it(name: str) -> None:
    text, left = CORPUS[name]
    if "…" not in text and not left.endswith(MARK):  # those reach to the end
        around = "İ" * 3 + " task failed: {}\n  retried 3 times"
        assert SCRUB.text(around.format(text)) == around.format(left)


@pytest.mark.parametrize("text", PLAIN)
def test_what_is_no_secret_stays(text: str) -> None:
    assert SCRUB.text(text) == text


# Whatever the text, the same whether once or twice.

_SIGNS = [shape.sign for shape in _LISTED]
_PIECES = st.sampled_from(
    [
        *_SIGNS,
        *map(str.upper, _SIGNS),
        "=",
        ": ",
        "'",
        '"',
        "\\",
        "/",
        "@",
        "a:",
        "x1",
        " ",
        "\n",
        "…",
    ]
)
_TEXTS = st.lists(_PIECES | st.text(max_size=5), max_size=40).map("".join)


@given(_TEXTS)
def test_twice_is_as_once(text: str) -> None:
    once = SCRUB.text(text)
    assert SCRUB.text(once) == once


@given(
    _TEXTS, st.sampled_from(["password={}", 'the "token": "{}"', "redis://:{}@h", "api-key: {}"])
)
def test_no_text_in_front_saves_a_secret(text: str, around: str) -> None:
    secret = "S3cr3tS3cr3t"
    assert secret not in SCRUB.text(f"{text} \n {around.format(secret)}")


# In linear time.

_LONG = 100_000


@given(st.lists(_PIECES, min_size=1, max_size=4).map("".join), _TEXTS)
def test_a_long_text_of_anything_takes_no_long_time(unit: str, start: str) -> None:
    """A search in quadratic time would take minutes here."""
    SCRUB.text((start + unit * _LONG)[:_LONG])


def _repeats(items: Any, within: bool = False) -> Iterator[str]:
    """The repetitions within repetitions of a parsed expression. `?` and `{3}` repeat nothing."""
    for op, argument in items:
        inside = within
        if "REPEAT" in str(op):
            least, most, argument = argument
            if within:
                yield f"{op} {least} {most}"
            inside = within or (least != most and most != 1)
            argument = (argument,)
        parts = argument if isinstance(argument, (tuple, list)) else (argument,)
        for part in parts:
            for inner in part if isinstance(part, list) else (part,):
                if hasattr(inner, "getwidth"):
                    yield from _repeats(inner, inside)


@pytest.mark.parametrize("shape", _LISTED, ids=_SIGNS)
def test_no_quantifier_is_within_another(shape: _Shape) -> None:
    for pattern in map(_compiled, filter(None, (shape.pattern, shape.only_if))):
        assert list(_repeats(_parse(pattern.pattern, pattern.flags))) == []


def test_a_quantifier_within_another_would_be_seen() -> None:
    assert list(_repeats(_parse("x(?:a|(?=(b+)c))*", 0)))
    assert list(_repeats(_parse("(?:a{3})+b", 0)))


def _parse(pattern: str, flags: int) -> Any:
    name = "sre_parse" if sys.version_info < (3, 11) else "re._parser"
    return import_module(name).parse(pattern, flags)


# What the user adds.


def test_the_user_s_expressions_are_secrets_too() -> None:
    scrub = load("ORD-\\d+\n  customer=(\\w+); \n")
    assert scrub.text("ORD-17 of customer=alice; password=x") == (
        "[scrubbed] of customer=[scrubbed]; password=[scrubbed]"
    )


@pytest.mark.parametrize("before", [0, 3, 799, 801, 950, 999, 1001, 3000])
def test_a_user_s_expression_is_found_anywhere(before: int) -> None:
    scrub = load(r"<\w+>")
    secret = f"<{'s' * 198}>"
    assert scrub.text(" " * before + secret + " " * 900 + secret) == (
        " " * before + MARK + " " * 900 + MARK
    )


@pytest.mark.parametrize("value", ["off", "0", " OFF ", "false"])
def test_it_can_be_turned_off(value: str) -> None:
    assert load(value).text("password=x") == "password=x"


@pytest.mark.parametrize("value", ["", "on", "1", "true"])
def test_it_is_on_by_default(value: str) -> None:
    assert load(value).text("password=x") == "password=[scrubbed]"


def test_a_line_that_cannot_be_used_is_one_warning_and_the_others_hold(
    caplog: pytest.LogCaptureFixture,
) -> None:
    scrub = load("(unclosed\n(a+)+b\nORD-\\d+")
    assert scrub.text("ORD-17 password=x") == "[scrubbed] password=[scrubbed]"
    unclosed, slow = (record.getMessage() for record in caplog.records)
    assert unclosed == (
        "faultlens: FAULTLENS_SCRUB: '(unclosed': expected a regular expression: missing ), "
        "unterminated subpattern at position 0; this line is ignored."
    )
    start = "faultlens: FAULTLENS_SCRUB: '(a+)+b': it could take more than 20,000,000 steps"
    assert slow.startswith(start)


@given(st.text(max_size=200))
def test_no_setting_makes_it_raise(value: str) -> None:
    scrub, _ = read(value)
    scrub.text(value)


def test_an_expression_may_match_nothing() -> None:
    assert load("x*").text("axxb") == "a[scrubbed]b"
    assert load("a(x)?b").text("ab axb") == "ab a[scrubbed]b"
