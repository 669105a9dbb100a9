"""A failure that only Flyte's backend saw is counted in the parent."""

from __future__ import annotations

from pathlib import Path

import pytest

from faultlens.sdks.flyte import backend
from tests import children

pytest.importorskip("flyte")

ROOT = Path(__file__).parents[2]

PROGRAM = f"""
    import logging, sys
    sys.path.insert(0, {str(ROOT)!r})
    import inside
    from tests.sdks import provoke_flyte
    from tests.sdks.flyte_reports import REPORTS

    def issues():
        return inside.samples("faultlens_issues_total")

    def attempts():
        return inside.samples("faultlens_attempts_total")

    found = []
    for report in REPORTS:
        before = issues(), attempts()
        caught = provoke_flyte.child_ends("FAILED", report.error)
        found.append([inside.more(issues(), before[0]), inside.more(attempts(), before[1]),
                      caught.kind])
    inside.report(found)
"""
PARENT = {"flyte|provoke.parent|ok": 1}


def test_each_report_counts_once_with_its_code_its_reason_and_the_child_s_name() -> None:
    from tests.sdks.flyte_reports import REPORTS

    for report, (issues, attempts, kind) in zip(REPORTS, children.report(PROGRAM), strict=True):
        found = [issue.split("|") for issue in issues]
        counted = [f"{code} {reason}" for _, code, _, _, reason, _ in found]
        assert counted == ([] if report.counts_as is None else [report.counts_as]), report
        assert [issue[2:4] for issue in found] == [["child", kind]] * len(found), report
        unseen = {f"flyte|child|{kind}": 1} if found else {}
        assert attempts == PARENT | unseen, report


def test_the_table_has_a_row_for_each_code() -> None:
    from tests.sdks.flyte_reports import REPORTS

    told = {report.code for report in REPORTS if report.counts_as}
    told |= {(report.counts_as or " ").split(" ")[0] for report in REPORTS}
    known = {*backend.CODES, *backend.WAITING, *backend.SHARED, backend.EXCEEDED}
    assert known - told == set()


@pytest.mark.parametrize("depth", [1, 20, 1000])
def test_an_error_passed_on_many_times_is_read_in_bounded_time(depth: int) -> None:
    message = 'plugin "container" failed with system error 4 times: [MaxSystemFailuresExceeded] '
    report = backend.read(backend.EXCEEDED, message * depth)
    assert not report.unseen
