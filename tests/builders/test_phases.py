"""A build's stopwatch: what is inside another phase counts once."""

from __future__ import annotations

import threading
import time

from builders.phases import Phases


def test_inner_time_is_not_counted_twice() -> None:
    phases = Phases()
    with phases.phase("write", 100):
        time.sleep(0.02)
        with phases.phase("quantize"):
            time.sleep(0.05)
            with phases.phase("read", 7):
                time.sleep(0.05)
    seconds = phases.seconds
    assert 0.02 <= seconds["write"] < 0.045
    assert 0.05 <= seconds["quantize"] < 0.09
    assert 0.05 <= seconds["read"] < 0.09
    assert (phases.bytes["write"], phases.bytes["read"]) == (100, 7)


def test_threads_count_each_their_own() -> None:
    phases = Phases()

    def work() -> None:
        with phases.phase("quantize", 1):
            time.sleep(0.05)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert phases.seconds["quantize"] >= 0.2
    assert phases.bytes["quantize"] == 4
