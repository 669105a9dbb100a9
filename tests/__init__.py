from tests.isolation import isolate

isolate()
