"""SDK modules that are loaded anew: what is raised still counts, each raise once."""

from __future__ import annotations

import pytest

from tests import children

pytest.importorskip("flyte")
pytest.importorskip("durable_workflow")

SDKS = {
    "flyte": ("flyte.errors", "RuntimeUserError", "('CODE', 'm')"),
    "durable_workflow": ("durable_workflow.errors", "NonRetryableError", "('m')"),
}

AGAIN = {
    "reloaded": "importlib.reload(sys.modules[name])",
    "dropped": "del sys.modules[name]",
    "dropped with its package": """
for other in list(sys.modules):
    if other.partition(".")[0] == name.partition(".")[0]:
        del sys.modules[other]
""",
}

RAISES = """
import importlib, sys, faultlens, inside

name, short = {name!r}, {short!r}

def catch(cls):
    try:
        raise cls{args}
    except cls:
        pass

kinds = []
for _ in range(3):
    cls = getattr(importlib.import_module(name), short)
    kinds.append(cls)
    kinds.append(type("Mine", (cls,), {{"__module__": "mine"}}))
    for kind in kinds:
        catch(kind)
{again}
assert len(set(kinds)) == 6
counted = [sorted(inside.failures().values()), inside.suppressed()]
faultlens.disable()
for kind in kinds:
    catch(kind)
ours = [
    kind for kind in kinds for part in vars(kind).values()
    if hasattr(getattr(part, "__func__", part), "__faultlens_original__")
]
inside.report([*counted, len(ours)])
"""


@pytest.mark.parametrize("again", AGAIN)
@pytest.mark.parametrize("sdk", SDKS)
def test_old_classes_and_new_ones_count_each_raise_once(sdk: str, again: str) -> None:
    name, short, args = SDKS[sdk]
    indented = AGAIN[again].strip().replace("\n", "\n    ")
    source = RAISES.format(name=name, short=short, args=args, again="    " + indented)
    # One raise of each class in the first round, two in the second with the new ones, ...
    assert children.report(source) == [[1 + 2 + 3, 1 + 2 + 3], {}, 0]


CONVERSIONS = """
    import importlib, sys
    import flyte, inside

    def run(flyte):
        # A native exception ends a task of Flyte's, which raises what it made of it.
        environment = flyte.TaskEnvironment(name="reload")

        @environment.task
        async def fail():
            raise ValueError("m")

        flyte.init()
        flyte.with_runcontext(mode="local")
        try:
            flyte.run(fail)
        except RuntimeError as error:
            assert type(error).__module__ == "flyte.errors"

    def drop(*names):
        for name in names:
            sys.modules.pop(name, None)

    run(flyte)
    name = {name!r}
    {again}
    run(importlib.import_module("flyte"))
    inside.report([sum(inside.failures().values()), inside.suppressed()])
"""

RELOAD = "importlib.reload(importlib.import_module(name))"
DROP = "drop(*[other for other in sys.modules if other.startswith(name)])"


@pytest.mark.parametrize(
    ("name", "again"),
    [
        ("flyte.errors", RELOAD),
        ("flyte._internal.runtime.convert", RELOAD),
        ("flyte._internal.runtime.taskrunner", RELOAD),
        ("flyte.errors", DROP),
        ("flyte", DROP),
    ],
)
def test_a_task_that_fails_counts_once_before_and_after(name: str, again: str) -> None:
    failures, suppressed = children.report(CONVERSIONS.format(name=name, again=again))
    # Of which class they are depends on Flyte: its own modules have old classes and new ones now.
    assert failures == 2
    assert sum(suppressed.values()) == 2
    assert all(series.endswith("|propagated") for series in suppressed)
