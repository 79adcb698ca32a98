"""Seconds per stage: nested stages are told apart, and they add up to the whole."""

import pytest
import torch

from lorattt.episodes import clock as module
from lorattt.episodes.clock import StageTimer


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The host's clock, which shows what the test puts here."""
    now = [0.0]
    monkeypatch.setattr("lorattt.episodes.clock.time.perf_counter", lambda: now[0])
    return now


def test_a_stage_within_another_interrupts_it(ticking: list[float]) -> None:
    clock = StageTimer()
    with clock.stage("adapt"):
        ticking[0] += 1
        with clock.stage("encode"):
            ticking[0] += 10
            with clock.stage("views"):
                ticking[0] += 100
        ticking[0] += 2
        with clock.stage("encode"):
            ticking[0] += 20
    ticking[0] += 1000  # in no stage
    with clock.stage("write"):
        ticking[0] += 4
    assert clock.seconds() == {"adapt": 3, "encode": 30, "views": 100, "write": 4}


def test_a_stage_that_fails_is_counted_and_left(ticking: list[float]) -> None:
    clock = StageTimer()
    with pytest.raises(RuntimeError, match="broken"), clock.stage("adapt"):
        ticking[0] += 5
        raise RuntimeError("broken")
    ticking[0] += 7
    with clock.stage("write"):
        ticking[0] += 1
    assert clock.seconds() == {"adapt": 5, "write": 1}


def test_times_of_a_device_are_read_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Marks of a device wait in a queue; it stays short, and nothing is lost."""

    class Counted:
        made = read = 0

        def __init__(self, enable_timing: bool) -> None:
            Counted.made += 1
            self.at = Counted.made

        def record(self, stream: object) -> None:
            pass

        def synchronize(self) -> None:
            pass

        def elapsed_time(self, later: "Counted") -> float:
            Counted.read += 1
            return 1000.0 * (later.at - self.at)

    monkeypatch.setattr(torch.cuda, "Event", Counted)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    monkeypatch.setattr(module, "_PENDING", 8)
    clock = StageTimer()
    clock._device = torch.device("cuda")  # as on a machine that has one
    for number in range(100):
        with clock.stage("encode"):
            pass
        assert len(clock._pending) <= 8
        assert number > 3 or Counted.read == 0
    assert clock.seconds() == {"encode": 100}
    assert Counted.read == 100
