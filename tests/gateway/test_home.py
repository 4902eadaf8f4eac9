"""A site's folder: its data file, and the key epochs that it has taken part in."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from plasmid.core.errors import DataError, ProtocolError, UsageError
from plasmid.gateway.home import SiteConfig, SiteHome


@pytest.fixture
def home(tmp_path: Path) -> SiteHome:
    made = SiteHome(tmp_path / "site")
    made.write_config(SiteConfig(name="alpha", organisation="A"))
    (made.folder / "data").mkdir()
    return made


def test_a_folder_without_a_site_is_no_site(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no site in") as caught:
        SiteHome(tmp_path).config()
    assert caught.value.code == "usage.no_site"


def test_the_settings_come_back(home: SiteHome) -> None:
    assert home.config() == SiteConfig(name="alpha", organisation="A", data="data")


def test_the_view_is_the_only_file_or_the_one_that_is_named_like_the_recipe(home: SiteHome) -> None:
    data = home.folder / "data"

    def refused() -> None:
        with pytest.raises(DataError) as caught:
            home.view("tcr")
        assert caught.value.code == "data.absent"

    refused()
    (data / "one.csv").touch()
    (data / "notes.txt").touch()
    assert home.view("tcr") == (data / "one.csv").resolve()
    (data / "two.csv").touch()
    refused()
    (data / "tcr.csv").touch()
    assert home.view("tcr") == (data / "tcr.csv").resolve()


def test_the_data_may_be_one_file_elsewhere(home: SiteHome, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").touch()
    home.write_config(SiteConfig(name="alpha", organisation="A", data=str(tmp_path / "rows.csv")))
    assert home.view("anything") == (tmp_path / "rows.csv").resolve()


def test_epochs_only_rise_and_survive_a_restart(home: SiteHome) -> None:
    def refused(epoch: int, run: str = "run-1") -> None:
        with pytest.raises(ProtocolError) as caught:
            SiteHome(home.folder).claim_epoch(run, epoch)
        assert caught.value.code == "protocol.epoch_used"

    refused(0)
    refused(-1)
    home.claim_epoch("run-1", 1)
    refused(1)
    home.claim_epoch("run-1", 3)
    refused(2)
    refused(3)
    home.claim_epoch("run-2", 1)
    assert [home.last_epoch(run) for run in ("run-1", "run-2", "run-3")] == [3, 1, 0]
    assert json.loads((home.folder / "epochs.json").read_text()) == {"run-1": 3, "run-2": 1}


def test_two_runs_at_once_do_not_forget_each_other(home: SiteHome) -> None:
    """Each run has its own thread: an epoch that is lost from the file could be used again."""
    names = [f"run-{index}" for index in range(8)]
    start = threading.Barrier(len(names))

    def claim(run: str) -> None:
        start.wait()
        for epoch in range(1, 6):
            home.claim_epoch(run, epoch)

    threads = [threading.Thread(target=claim, args=(run,)) for run in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert json.loads((home.folder / "epochs.json").read_text()) == dict.fromkeys(names, 5)


def test_one_claim_wins(home: SiteHome) -> None:
    """Two threads that ask for the same epoch: one gets it."""
    start = threading.Barrier(4)
    won: list[int] = []

    def claim(thread: int) -> None:
        start.wait()
        for epoch in range(1, 11):
            try:
                home.claim_epoch("run-1", epoch)
                won.append(epoch)
            except ProtocolError:
                continue

    threads = [threading.Thread(target=claim, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == len(set(won))
