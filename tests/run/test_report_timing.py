import threading

import pytest

from cryorefine.run import report_timing
from cryorefine.run.report_timing import TimedReport


@pytest.fixture(autouse=True)
def always_due(monkeypatch):
    monkeypatch.setattr(report_timing, "_REPORT_SHARE", 0)


def test_a_report_between_iterations_is_written_beside_the_run(tmp_path):
    may_end, threads = threading.Event(), []

    def reporter(folder):
        threads.append(threading.current_thread())
        assert may_end.wait(20)

    report = TimedReport(tmp_path, reporter)
    report.write_if_cheap()  # returns while it is being written
    report.write_if_cheap()  # none is begun while one is being written
    may_end.set()
    report.write()
    assert len(threads) == 2
    assert threads[0] is not threads[1] is threading.current_thread()


def test_none_is_written_between_iterations_before_it_is_due(tmp_path, monkeypatch):
    monkeypatch.setattr(report_timing, "_REPORT_SHARE", 1e9)
    written = []
    report = TimedReport(tmp_path, written.append)
    report.write_if_cheap()
    assert not written
    report.write()
    assert written == [tmp_path]


def test_what_goes_wrong_beside_the_run_is_raised_by_the_run(tmp_path):
    def reporter(folder):
        raise ValueError("no ink")

    report = TimedReport(tmp_path, reporter)
    report.write_if_cheap()
    with pytest.raises(ValueError, match="no ink"):
        report.write()
