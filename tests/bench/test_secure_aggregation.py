"""Both sides of the benchmark do what they are measured for: on small vectors, and exactly."""

from __future__ import annotations

import numpy as np
import pytest

from bench.ours.secure_aggregation import Client, Server, key_epoch
from bench.peers.flower_secagg import FlowerRound, upload_bytes


def test_flowers_round_gives_the_mean_of_the_survivors() -> None:
    flower, values = FlowerRound(5, 3), np.linspace(-1, 1, 200).astype(np.float32)
    vectors = {site: flower.protect(site, values * site) for site in (0, 2, 3, 4)}
    for vector in vectors.values():
        assert abs(np.corrcoef(vector[1], values)[0, 1]) < 0.5  # masked: standard deviation 0.07
    mean = flower.open(vectors.values(), flower.shares(1), 1)
    assert np.abs(mean - values * 9 / 4).max() < 1e-5
    # the positive control: without its share of the masks the sum is noise
    wrong = flower.open(list(vectors.values())[1:], flower.shares(1), 1)
    assert np.abs(wrong - values * 9 / 3).max() > 1


def test_our_server_opens_exactly_with_one_drop_out() -> None:
    server = Server(6, 1000)
    total = server.open()
    server.check(total)
    total[3] += 1
    with pytest.raises(RuntimeError, match="not the plain sum"):
        server.check(total)


def test_our_client_uploads_half_of_flowers_bytes() -> None:
    values = np.zeros(10_000, np.float32)
    client = Client(3, values.size, vectors=2)
    first, second = client.protect(values), client.protect(values)
    assert first.nbytes == 4 * 10_004
    assert not np.array_equal(first, second)
    assert client.upload_bytes < 0.51 * upload_bytes(FlowerRound(4, 3).protect(0, values))


def test_a_key_epochs_bytes_are_what_its_statements_weigh() -> None:
    """In base64, for a slot: its advert, a bundle to each later site, a blob; adverts and bundles down."""
    cpu_s, up, down = key_epoch(5, 8)
    more_cpu_s, more_up, more_down = key_epoch(5, 16)
    assert 0 < cpu_s < 10
    assert 0 < more_cpu_s < 10
    assert more_up - up == pytest.approx(8 * ((64 + 4 * 96) * 4 / 3 + 24), abs=40)
    assert more_down - down == pytest.approx(8 * (5 * 64 + 4 * 64) * 4 / 3, abs=40)
