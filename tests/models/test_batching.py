"""How rows become batches: what is learned, how long is waited, and who is refused."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import numpy as np
import pytest

from plasmid.adapters.adapter import Vector
from plasmid.bases.tokenizing import Encoded
from plasmid.core.errors import ModelError
from plasmid.encoders.batching import Batcher, Pace, Watched
from plasmid.encoders.mixed import Item


def _item(tokens: int, mark: int = 0) -> Item:
    return Item(Encoded([mark] * tokens, [0] * tokens), None, False)


def _pace(fixed_s: float, each_s: float) -> Pace:
    pace = Pace(target_s=0.2)
    pace.start([(tokens, fixed_s + each_s * tokens) for tokens in (16, 64, 256)])
    return pace


def test_the_pace_finds_the_fixed_part_and_the_part_by_tokens() -> None:
    assert Pace(target_s=0.2).fits(10**6)  # nothing is known yet
    pace = _pace(0.004, 0.0005)
    assert pace.fixed_s == pytest.approx(0.004, rel=1e-6)
    assert pace.each_s == pytest.approx(0.0005, rel=1e-6)
    assert pace.fits(191)  # 0.1 s, half of the target
    assert not pace.fits(193)


def test_a_measurement_that_cannot_be_is_bounded() -> None:
    pace = Pace(target_s=0.2)
    pace.start([(16, 0.3), (64, 0.2), (256, 0.1)])  # the machine was busy at first
    assert pace.each_s * 112 == pytest.approx(0.02)
    assert pace.fixed_s == pytest.approx(0.18)


def test_the_pace_follows_a_machine_that_becomes_slower() -> None:
    pace = _pace(0.002, 0.0005)
    for round_ in range(60):
        tokens = 32 * (1 + round_ % 4)
        pace.passed(tokens, 4 * (0.002 + 0.0005 * tokens))
    assert pace.each_s == pytest.approx(0.002, rel=0.01)
    assert pace.fixed_s == pytest.approx(0.008, rel=0.01)


def test_without_a_start_all_of_a_pass_is_by_the_token() -> None:
    pace = Pace(target_s=0.2)
    pace.passed(100, 0.05)
    assert (pace.fixed_s, pace.each_s) == (0.0, pytest.approx(0.0005))


def test_a_slow_machine_does_not_make_passes_too_small() -> None:
    pace = _pace(0.3, 0.01)
    assert pace.fits(119)  # 1.2 s beside 0.3 s that every pass takes
    assert not pace.fits(121)


def test_waiting_pays_only_where_the_next_row_is_near() -> None:
    pace = _pace(0.010, 0.0001)
    for arrival in range(20):
        pace.came(arrival * 0.5)
    assert pace.wait_s(10.0, 10.0, 1) == 0.0
    for arrival in range(80):
        pace.came(10.0 + arrival * 0.002)
    assert pace.wait_s(10.16, 10.16, 1) == pytest.approx(0.004, rel=0.01)
    assert pace.wait_s(10.16, 10.16, 4) > 0
    assert pace.wait_s(10.16, 10.16, 6) == 0.0  # 12 ms of theirs for 10 ms
    assert pace.wait_s(10.209, 10.16, 1) == pytest.approx(0.001)
    assert pace.wait_s(10.3, 10.16, 1) == 0.0


class _Model:
    """Gives each row its own mark; waits for :attr:`go` in the first pass."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.begun, self.go = threading.Event(), threading.Event()

    def run(self, items: Sequence[Item]) -> list[Vector]:
        self.batches.append(len(items))
        self.begun.set()
        assert self.go.wait(20)
        return [np.array([item.tokens.ids[0]], np.float32) for item in items]


def test_rows_that_come_during_a_pass_share_the_next_one() -> None:
    async def scene() -> list[float]:
        model = _Model()
        seen: list[tuple[int, int]] = []
        batcher = Batcher(
            model.run,
            target_s=10.0,
            watched=Watched(on_pass=lambda rows, mixed, _: seen.append((rows, mixed))),
        )
        first = asyncio.create_task(batcher.submit([_item(4, 1)]))
        await asyncio.to_thread(model.begun.wait, 20)
        others = [
            asyncio.create_task(batcher.submit([_item(4, 2 * n), _item(4, 2 * n + 1)])) for n in range(1, 4)
        ]
        await asyncio.sleep(0.01)
        model.go.set()
        found = [float(row[0]) for rows in await asyncio.gather(first, *others) for row in rows]
        await batcher.close()
        assert model.batches == [1, 6]
        assert seen == [(1, 1), (6, 1)]
        return found

    assert asyncio.run(scene()) == [1, 2, 3, 4, 5, 6, 7]


def test_a_pass_takes_what_fits_half_of_the_target() -> None:
    async def scene() -> list[int]:
        model = _Model()
        model.go.set()
        batcher = Batcher(model.run, target_s=0.2)
        batcher.pace.passed(16, 0.016)
        batcher.pace.passed = lambda *_: None  # type: ignore[method-assign]
        await batcher.submit([_item(30) for _ in range(7)] + [_item(500)])
        await batcher.close()
        return model.batches

    assert asyncio.run(scene()) == [3, 3, 1, 1]


def test_more_rows_than_patience_are_refused_and_a_failing_pass_is_told() -> None:
    async def scene() -> None:
        model = _Model()
        batcher = Batcher(model.run, target_s=0.01)
        batcher.pace.passed(10, 1.0)
        first = asyncio.create_task(batcher.submit([_item(10)]))
        await asyncio.to_thread(model.begun.wait, 20)
        second = asyncio.create_task(batcher.submit([_item(10)] * 200))
        await asyncio.sleep(0.01)
        with pytest.raises(ModelError) as caught:
            await batcher.submit([_item(10)] * 100)
        assert caught.value.code == "model.busy"
        assert "200 rows are waiting already" in caught.value.message
        second.cancel()
        model.go.set()
        assert [float(row[0]) for row in await first] == [0.0]
        await batcher.close()

        def fails(_items: Sequence[Item]) -> list[Vector]:
            raise ModelError("model.rows_mixed", "no")

        broken = Batcher(fails, target_s=1.0)
        for _ in range(2):
            with pytest.raises(ModelError):
                await broken.submit([_item(3)])
        await broken.close()

    asyncio.run(scene())
