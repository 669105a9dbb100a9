"""Benchmarks that print their results: ``make bench``. They never count in the user's store."""

from tests.isolation import isolate

isolate()
