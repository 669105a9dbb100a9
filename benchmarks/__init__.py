"""Figures, printed: ``make bench``. Nothing here counts in the user's own store."""

from tests.isolation import isolate

isolate()
