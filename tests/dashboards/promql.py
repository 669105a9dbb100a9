"""``promql_parser``. On Python 3.15, each of its classes warns when it is created."""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", r"type promql_parser\.", DeprecationWarning)
    import promql_parser

__all__ = ["promql_parser"]
