"""Activation by the environment, as a user's processes see it."""

from __future__ import annotations

import pytest

from tests import children

LOADED = """
    import json, sys
    print(json.dumps(sorted(m for m in sys.modules if m.split(".")[0] == "faultlens")))
"""
ON_IMPORT = """
    import faultlens.startup, sys
    from faultlens import imports
    print(imports._finder in sys.meta_path)
"""


@pytest.mark.parametrize("value", [None, ""])
def test_unset_nothing_is_imported(value: str | None) -> None:
    assert children.report(LOADED, env={"FAULTLENS": value}) == []


@pytest.mark.parametrize("value", ["0", "false", "No", "OFF"])
def test_off_nothing_is_hooked(value: str) -> None:
    assert children.run(ON_IMPORT, env={"FAULTLENS": value}).stdout == "False\n"


@pytest.mark.parametrize("value", ["1", "true", "Yes", " ON "])
def test_on_waits_for_an_sdk_with_nothing_heavy_imported(value: str) -> None:
    assert children.run(ON_IMPORT, env={"FAULTLENS": value}).stdout == "True\n"
    assert set(children.report(LOADED, env={"FAULTLENS": value})) == {
        "faultlens",
        "faultlens.imports",
        "faultlens.startup",
        "faultlens.switch",
    }
    heavy = """
        import json, sys
        heavy = ("prometheus_client", "opentelemetry", "dataclasses", "logging", "asyncio")
        print(json.dumps([name for name in heavy if name in sys.modules]))
    """
    assert children.report(heavy, env={"FAULTLENS": value}) == []


def test_a_value_that_is_neither_warns_once_and_stays_off() -> None:
    done = children.run(ON_IMPORT, env={"FAULTLENS": "banana"})
    assert done.stdout == "False\n"
    assert done.stderr.splitlines() == [
        "faultlens: FAULTLENS='banana' is neither on (1, true, yes, on) nor off "
        "(0, false, no, off); faultlens stays off."
    ]


def test_prometheus_client_is_imported_when_the_metrics_are_read() -> None:
    assert children.report(
        """
        import sys
        import flyte.errors
        try:
            raise flyte.errors.OOMError("OOM", "m")
        except flyte.errors.OOMError:
            pass
        before = "prometheus_client" in sys.modules
        import inside
        inside.report([before, inside.failures()])
        """,
        env={"FAULTLENS_SERVE": "0"},
    ) == [False, {"flyte.errors.OOMError|user|w": 1}]


def test_a_program_without_an_sdk_opens_no_port() -> None:
    done = children.run(
        """
        import threading, json, asyncio, sys
        print(threading.active_count(), "prometheus_client" in sys.modules)
        """
    )
    assert done.stdout == "1 False\n"


SDK = """
    import sys, importlib.abc, importlib.util
    class Sdk(importlib.abc.MetaPathFinder, importlib.abc.Loader):
        source = ""
        def find_spec(self, name, path, target=None):
            if name in ("flyte", "flyte.errors"):
                return importlib.util.spec_from_loader(name, self, is_package=name == "flyte")
        def create_module(self, spec):
            return None
        def exec_module(self, module):
            if module.__name__ == "flyte.errors":
                exec(self.source, vars(module))
    sys.meta_path.insert(1, Sdk())
"""


def test_an_sdk_that_fails_to_import_fails_as_ever_and_may_be_tried_again() -> None:
    found = children.report(
        SDK
        + """
    import inside
    Sdk.source = "class Half(Exception): pass\\n1/0"
    try:
        import flyte.errors
    except ZeroDivisionError as error:
        first = [type(error).__name__, "flyte.errors" in sys.modules]
    Sdk.source = "class Whole(Exception): pass"
    import flyte.errors
    try:
        raise flyte.errors.Whole
    except flyte.errors.Whole:
        pass
    inside.report([first, inside.failures()])
    """
    )
    assert found == [["ZeroDivisionError", False], {"flyte.errors.Whole|unknown|w": 1}]


def test_without_a_module_that_faultlens_needs_one_line_says_so_and_it_stays_off() -> None:
    done = children.run("""
        import sys
        sys.modules["mmap"] = None  # as if this Python were built without it
        import flyte.errors, durable_workflow.errors
        import faultlens; faultlens.disable(); faultlens.enable()
        try:
            raise flyte.errors.OOMError("OOM", "m")
        except flyte.errors.OOMError:
            pass
    """)
    why = "ModuleNotFoundError: import of mmap halted; None in sys.modules"
    assert done.stderr.splitlines() == [f"faultlens: could not start and stays off: {why}"] * 2


@pytest.mark.parametrize(
    "source",
    [
        "",
        "errors = 7",
        "class NotAnException: pass",
        "import ssl\nSSLError = ssl.SSLError",
        "class M(type):\n"
        "    def __getattribute__(cls, name): raise RuntimeError(name)\n"
        "class E(Exception, metaclass=M): pass",
    ],
)
def test_an_sdk_of_an_unknown_shape_does_not_break_its_import(source: str) -> None:
    done = children.run(
        SDK + f"\n    Sdk.source = {source!r}\n    import flyte.errors\n    print('imported')"
    )
    assert done.stdout == "imported\n"


def test_the_module_s_spec_and_loader_are_its_own() -> None:
    found = children.report("""
        import flyte.errors, inside
        inside.report([type(flyte.errors.__loader__).__name__,
                       type(flyte.errors.__spec__.loader).__name__])
    """)
    assert found == ["SourceFileLoader", "SourceFileLoader"]


def test_enable_by_hand_works_whatever_the_variable_says_and_before_or_after_the_sdk() -> None:
    raise_one = """
        try:
            raise flyte.errors.OOMError("OOM", "m")
        except flyte.errors.OOMError:
            pass
        inside.report(inside.failures())
    """
    before = "\n        import faultlens; faultlens.enable(); import flyte.errors, inside"
    after = "\n        import flyte.errors, inside, faultlens; faultlens.enable()"
    for order in (before, after):
        assert children.report(order + raise_one, env={"FAULTLENS": "0"}) == {
            "flyte.errors.OOMError|user|w": 1
        }


def test_disable_restores_every_attribute_that_enable_patched() -> None:
    found = children.report(
        """
        import sys
        def state():
            # The names that an SDK's classes have, and the very objects behind the patched ones.
            classes = [c for m in (flyte.errors, durable_workflow.errors)
                       for c in vars(m).values() if isinstance(c, type)]
            modules = [dict(vars(m)) for m in (convert, taskrunner, entrypoints)]
            observe = sys.modules.get("flyte._observe")
            others = [vars(m).get(name) for m, name in (
                (durable_workflow.worker, "Worker"), (durable_workflow.workflow, "FailWorkflow"),
                (durable_workflow.workflow, "FailUpdate"), (logs, "AsyncLogViewer"),
                (testing, "WorkflowEnvironment"))]
            return ([(c, dict(vars(c))) for c in (*classes, *filter(None, others))],
                    modules, observe and list(observe._observers),
                    list(sys.meta_path), sys.gettrace(), sys.excepthook)
        import flyte.errors, durable_workflow.worker, inside, faultlens, inspect
        import flyte.remote._logs as logs
        from flyte._internal.runtime import convert, entrypoints, taskrunner
        try:
            from durable_workflow import testing
        except ImportError:  # 0.2.0
            testing = durable_workflow
        before = state()
        signatures = [str(inspect.signature(flyte.errors.OOMError)),
                      str(inspect.signature(flyte.errors.BaseRuntimeError))]
        for _ in range(3):
            faultlens.enable(); faultlens.enable()
            patched = state() != before
            signatures += [str(inspect.signature(flyte.errors.OOMError)),
                           str(inspect.signature(flyte.errors.BaseRuntimeError))]
            faultlens.disable(); faultlens.disable()
        inside.report([patched, state() == before, len(set(signatures)),
                       [n for n in ("faultlens_failures_total",) if inside.samples(n)]])
        """,
        env={"FAULTLENS": "0"},
    )
    assert found == [True, True, 2, []]


def test_what_was_raised_and_not_yet_seen_is_counted_by_disable() -> None:
    """On 3.10 and 3.11 that is what was raised in another thread than it was made in."""
    assert children.report("""
            import threading
            import faultlens, flyte.errors, inside
            from faultlens import pipeline
            made = []
            maker = threading.Thread(target=lambda: made.append(flyte.errors.OOMError("OOM", "m")))
            maker.start()
            maker.join()
            try:
                raise made[0]
            except flyte.errors.OOMError:
                pass
            ledger = pipeline.running().ledger
            faultlens.disable()
            inside.report([[*key, count.number] for key, count in ledger.own().items()])
        """) == [["failures", "flyte.errors.OOMError", "user", "w", "OOM", "", "oom", "", 1]]


def test_counts_go_on_where_disable_left_them() -> None:
    found = children.report("""
        import faultlens, flyte.errors, inside
        def attempt():
            try:
                raise flyte.errors.OOMError("OOM", "m")
            except flyte.errors.OOMError:
                pass
        attempt()
        faultlens.disable()
        attempt()
        faultlens.enable()
        attempt()
        inside.report(inside.failures())
    """)
    assert found == {"flyte.errors.OOMError|user|w": 2}


def test_the_instrumentor_obeys_a_switch_that_is_set() -> None:
    program = """
        import json, sys
        from faultlens.instrumentor import FaultlensInstrumentor
        from faultlens import imports
        instrumentor = FaultlensInstrumentor()
        instrumentor.instrument(skip_dep_check=True)
        on = imports._finder in sys.meta_path
        instrumentor.uninstrument()
        print(json.dumps([on, imports._finder in sys.meta_path]))
    """
    for value, on in ((None, True), ("1", True), ("0", False), ("banana", False)):
        assert children.report(program, env={"FAULTLENS": value}) == [on, False]


def test_opentelemetry_finds_the_instrumentor() -> None:
    from importlib.metadata import entry_points

    (entry,) = entry_points(group="opentelemetry_instrumentor", name="faultlens")
    assert entry.load()().instrumentation_dependencies() == ()
