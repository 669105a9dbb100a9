"""`faultlens.testing`, as a test of somebody's adapter or program uses it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import children
from tests.sdks import acme

SHOW = """
        def show(failures):
            print([(f.type.rpartition(".")[2], f.kind.value, f.role.value) for f in failures])
"""


@pytest.mark.parametrize("faultlens", ["0", "1"])
def test_the_records_of_a_block(faultlens: str, tmp_path: Path) -> None:
    store = tmp_path / "store"
    done = children.run(
        f"""
        import os
        import acme.errors, flyte.errors
        from catching import catch
        from faultlens.testing import recorded
        {SHOW}
        with recorded() as failures:
            catch(acme.errors.Lost)
            with recorded() as inner:
                catch(acme.errors.Refused)
            try:
                raise flyte.errors.OOMError("c", "m") from acme.errors.Lost()
            except flyte.errors.OOMError:
                pass
        catch(acme.errors.Lost)
        show(failures)
        show(inner)
        print(os.environ["FAULTLENS_STORE"], os.path.exists(os.environ["FAULTLENS_STORE"]))
        """,
        env={**acme.install(tmp_path), "FAULTLENS": faultlens, "FAULTLENS_STORE": str(store)},
    )
    assert done.stdout.splitlines()[-4:] == [
        "undone" if faultlens == "0" else "hooked 1",
        "[('Lost', 'system', 'origin'), ('Refused', 'user', 'origin'), "
        "('OOMError', 'user', 'origin')]",
        "[('Refused', 'user', 'origin')]",
        f"{store} {faultlens == '1'}",
    ]


def test_an_adapter_that_is_not_installed(tmp_path: Path) -> None:
    done = children.run(
        f"""
        import acme.errors
        from acme_faultlens import Acme
        from catching import catch
        from faultlens.testing import recorded
        {SHOW}
        for _ in range(2):
            with recorded(Acme) as failures:
                catch(acme.errors.Lost)
            show(failures)
        """,
        env={**acme.install(tmp_path, entry_points=""), "FAULTLENS": "0"},
    )
    assert done.stdout.splitlines() == ["hooked 1", "undone", "[('Lost', 'system', 'origin')]"] * 2
