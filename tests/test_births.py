"""Series that start at 0, since `increase()` cannot see a counter that is born at 1."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import children

_LOOK = """
    import inside, faultlens

    def series(name):
        return {
            "|".join(sample.labels.values()): sample.value
            for metric in faultlens.collector().collect()
            for sample in metric.samples
            if sample.name == "faultlens_failures_total" and name in sample.labels["class"]
        }
"""


@pytest.mark.parametrize("store", ["off", "on"])
def test_a_subclass_of_the_user_s_is_there_as_soon_as_it_is_defined(
    store: str, tmp_path: Path
) -> None:
    found = children.report(
        _LOOK
        + """
    from flyte import errors
    class MineUser(errors.RuntimeUserError): pass
    class MineSystem(errors.RuntimeSystemError): pass
    class MineEither(errors.BaseRuntimeError): pass
    class MineFurther(MineSystem, ValueError): pass
    before = series("Mine")
    try:
        raise MineFurther("c", "m")
    except MineSystem:
        pass
    inside.report([before, series("Further")])
    """,
        env={"FAULTLENS_STORE": "off" if store == "off" else str(tmp_path / "store")},
    )
    before, further = found
    assert before == {
        "__main__.MineUser|user|w": 0,
        "__main__.MineSystem|system|w": 0,
        "__main__.MineFurther|system|w": 0,
        **{f"__main__.MineEither|{kind}|w": 0 for kind in ("user", "system", "unknown")},
    }
    assert further == {"__main__.MineFurther|system|w": 1}


def test_a_subclass_that_was_defined_before_enable_is_there_too() -> None:
    found = children.report(
        _LOOK
        + """
    from flyte import errors
    class Mine(errors.RuntimeSystemError): pass
    faultlens.enable()
    inside.report(series("Mine"))
    """,
        env={"FAULTLENS": "0"},
    )
    assert found == {"__main__.Mine|system|w": 0}


def test_the_user_s_rule_gives_the_kind(tmp_path: Path) -> None:
    rules = tmp_path / "rules.toml"
    rules.write_text('flyte.errors.RuntimeUserError = "system"\n')
    source = (
        _LOOK
        + """
    from flyte import errors
    class Mine(errors.RuntimeUserError): pass
    inside.report(series("Mine"))
    """
    )
    found = children.report(source, env={"FAULTLENS_RULES": str(rules)})
    assert found == {"__main__.Mine|system|w": 0}


def test_a_thousand_subclasses_shut_nobody_out(tmp_path: Path) -> None:
    found = children.report(
        _LOOK
        + """
    from flyte.errors import RuntimeUserError as E
    classes = [type(f"Many{n}", (E,), {}) for n in range(1000)]
    class Last(E): pass
    for cls in (classes[0], classes[-1], Last):
        try:
            raise cls("c", "m")
        except E:
            pass
    inside.report([inside.failures(), len(series("Many")), inside.dropped()])
    """,
        env={"FAULTLENS_STORE": str(tmp_path / "store")},
    )
    counted = {f"__main__.{name}|user|w": 1 for name in ("Many0", "Many999", "Last")}
    assert found == [counted, 1000, {}]


def test_what_a_store_of_ended_processes_has_starts_at_0_too(tmp_path: Path) -> None:
    """The page has a class that only a worker process defines."""
    env = {"FAULTLENS_STORE": str(tmp_path / "store")}
    children.run("import flyte.errors\nclass Theirs(flyte.errors.RuntimeUserError): pass", env=env)
    found = children.report(
        _LOOK + "\n    import flyte.errors\n    inside.report(series('Theirs'))", env=env
    )
    assert found == {"__main__.Theirs|user|w": 0}


# The collector, and who serves it.


def test_the_host_s_registry_has_our_metrics_only_if_the_host_wants_them() -> None:
    found = children.report(
        """
        import faultlens, flyte.errors, inside
        from prometheus_client import REGISTRY, generate_latest

        def ours():
            lines = generate_latest().decode().splitlines()
            return [line for line in lines if line.startswith("faultlens_failures_total{")
                    and not line.endswith(" 0.0")]

        try:
            raise flyte.errors.OOMError("OOM", "m")
        except flyte.errors.OOMError:
            pass
        before = ours()
        collector = faultlens.collector()
        REGISTRY.register(collector)
        registered = ours()
        faultlens.disable()
        disabled = ours()
        faultlens.enable()
        enabled = ours()
        REGISTRY.unregister(collector)
        inside.report([before, registered, disabled, enabled, ours()])
        """
    )
    line = 'faultlens_failures_total{class="flyte.errors.OOMError",kind="user",worker="w"} 1.0'
    assert found == [[], [line], [], [line], []]


def test_the_collector_is_empty_before_an_sdk_is_imported() -> None:
    found = children.report("""
        import faultlens, inside
        from prometheus_client import CollectorRegistry, generate_latest
        registry = CollectorRegistry()
        registry.register(faultlens.collector())
        lines = generate_latest(registry).decode().splitlines()
        before = [line for line in lines if not line.startswith("#")]
        import flyte.errors
        inside.report([before, "faultlens_info" in generate_latest(registry).decode()])
    """)
    assert found == [[], True]


@pytest.mark.parametrize(("value", "serves"), [("0", False), ("1", True)])
def test_faultlens_serve_0_opens_no_port(value: str, serves: bool) -> None:
    found = children.report(
        """
        import sys
        import flyte.errors, inside
        from faultlens import pipeline
        server = pipeline.running().server
        if server is not None:
            inside.until(lambda: server.listening)
        try:
            raise flyte.errors.OOMError("OOM", "m")
        except flyte.errors.OOMError:
            pass
        inside.report([server is not None, inside.total()])
        """,
        env={"FAULTLENS_SERVE": value},
    )
    assert found == [serves, 1]
