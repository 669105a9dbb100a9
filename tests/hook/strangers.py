"""Users' exceptions that fail when someone looks at them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

ERRORS = (RuntimeError, KeyboardInterrupt, SystemExit, MemoryError, RecursionError, GeneratorExit)

Make = Callable[[type[Exception]], Exception]
STRANGERS: dict[str, Make] = {}
calls: list[str] = []
"""The calls of a stranger's code."""


def _raising(error: type[BaseException]) -> Any:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(error.__name__)
        raise error("from the user's code")

    return method


def _add_methods() -> None:
    for method in ("__str__", "__repr__", "__eq__", "__hash__", "__bool__", "__getattribute__"):
        for error in ERRORS:

            def make(
                base: type[Exception], method: str = method, error: type[BaseException] = error
            ) -> Exception:
                return type("Stranger", (base,), {method: _raising(error)})("c", "m")

            STRANGERS[f"{method} raises {error.__name__}"] = make


def _add_properties() -> None:
    for name in ("kind", "worker", "code", "message", "__class__", "__traceback__", "__context__"):
        for error in (RuntimeError, KeyboardInterrupt, SystemExit, MemoryError):

            def make(
                base: type[Exception], name: str = name, error: type[BaseException] = error
            ) -> Exception:
                def init(self: Any, *args: Any) -> None:
                    Exception.__init__(self, *args)  # flyte's own __init__ would set the property

                body = {name: property(_raising(error)), "__init__": init}
                return type("Stranger", (base,), body)("c", "m")

            STRANGERS[f"{name} raises {error.__name__}"] = make


def _add_metaclasses() -> None:
    for name in ("__module__", "__name__", "__mro__", "__dict__", "__class__"):
        meta = type("Meta", (type,), {name: property(_raising(RuntimeError))})
        _add_metaclass(f"metaclass: {name} raises", meta)
    for method in ("__hash__", "__eq__", "__setattr__", "__delattr__", "__repr__", "__bool__"):
        meta = type("Meta", (type,), {method: _raising(RuntimeError)})
        _add_metaclass(f"metaclass: {method} raises", meta)
    # Not __subclasscheck__: the raise statement itself calls it.
    for method in ("__instancecheck__", "__subclasses__"):
        meta = type("Meta", (type,), {method: _raising(SystemExit)})
        _add_metaclass(f"metaclass: {method} exits", meta)

    def getattribute(cls: type, name: str) -> Any:
        if name == "__new__":  # the interpreter itself reads it if a class has one in Python
            return type.__getattribute__(cls, name)
        raise RuntimeError(name)

    meta = type("Meta", (type,), {"__getattribute__": getattribute})
    _add_metaclass("metaclass: __getattribute__ raises", meta)


def _add_metaclass(name: str, meta: type) -> None:
    def make(base: type[Exception]) -> Exception:
        stranger: Exception = meta("Stranger", (base,), {})("c", "m")
        return stranger

    STRANGERS[name] = make


def _make(function: Make) -> Make:
    STRANGERS[function.__name__.replace("_", " ")] = function
    return function


class _LyingText(str):
    """A string whose methods are all the user's."""

    __len__ = __eq__ = __hash__ = __str__ = encode = _raising(RuntimeError)


@_make
def attributes_that_are_no_strings(base: type[Exception]) -> Exception:
    exc: Any = base("c", "m")
    exc.code, exc.kind, exc.worker = object(), ["user"], b"worker"
    return exc  # type: ignore[no-any-return]


@_make
def attributes_that_are_strings_of_the_users(base: type[Exception]) -> Exception:
    exc: Any = base("c", "m")
    exc.code = exc.kind = exc.worker = _LyingText("text")
    return exc  # type: ignore[no-any-return]


@_make
def attributes_of_a_megabyte(base: type[Exception]) -> Exception:
    exc: Any = base("c" * 10**6, "m" * 10**6)
    exc.kind = exc.worker = "k" * 10**6
    return exc  # type: ignore[no-any-return]


@_make
def lone_surrogates_and_control_characters(base: type[Exception]) -> Exception:
    exc: Any = base("\ud800\n\0", "\udfff")
    exc.worker = "\ud800\n"
    return exc  # type: ignore[no-any-return]


@_make
def str_gives_no_string(base: type[Exception]) -> Exception:
    return type("Stranger", (base,), {"__str__": lambda self: calls.append("__str__")})("c", "m")


@_make
def str_raises_sdk_exceptions(base: type[Exception]) -> Exception:
    def text(self: Any) -> str:
        calls.append("__str__")
        raise base("c", "inner")

    return type("Stranger", (base,), {"__str__": text})("c", "m")


@_make
def str_recurses_without_end(base: type[Exception]) -> Exception:
    return type("Stranger", (base,), {"__str__": lambda self: str(self)})("c", "m")


@_make
def notes_that_are_no_strings(base: type[Exception]) -> Exception:
    exc: Any = base("c", "m")
    exc.__notes__ = [7, object(), b""]
    return exc  # type: ignore[no-any-return]


@_make
def notes_that_are_no_list(base: type[Exception]) -> Exception:
    exc: Any = base("c", "m")
    exc.__notes__ = 7
    return exc  # type: ignore[no-any-return]


@_make
def its_own_cause_and_context(base: type[Exception]) -> Exception:
    a, b = base("c", "a"), base("c", "b")
    a.__cause__, b.__cause__ = b, a
    a.__context__, b.__context__ = b, a
    return a


@_make
def a_class_without_a_module(base: type[Exception]) -> Exception:
    class Stranger(base):  # type: ignore[misc,valid-type]
        del __module__  # noqa: F821

    return Stranger("c", "m")


@_make
def a_class_with_a_name_of_a_megabyte(base: type[Exception]) -> Exception:
    return type("S" * 10**6, (base,), {})("c", "m")


@_make
def a_class_whose_module_is_no_text(base: type[Exception]) -> Exception:
    return type('S"\\\n', (base,), {"__module__": 7})("c", "m")


_add_methods()
_add_properties()
_add_metaclasses()
