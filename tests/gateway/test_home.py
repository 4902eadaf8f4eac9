"""A site's folder: its settings, its data file, its paths."""

from __future__ import annotations

from pathlib import Path

import pytest

from plasmid.core.errors import DataError, RecipeError, UsageError
from plasmid.gateway.home import SiteConfig, SiteHome
from plasmid.gateway.keys.keystore import Cost, EncryptedFile


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
            home.table("tcr")
        assert caught.value.code == "data.absent"

    refused()
    (data / "one.csv").touch()
    (data / "notes.txt").touch()
    assert home.table("tcr") == (data / "one.csv").resolve()
    (data / "two.csv").touch()
    refused()
    (data / "tcr.csv").touch()
    assert home.table("tcr") == (data / "tcr.csv").resolve()


def test_the_data_may_be_one_file_elsewhere(home: SiteHome, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").touch()
    home.write_config(SiteConfig(name="alpha", organisation="A", data=str(tmp_path / "rows.csv")))
    assert home.table("anything") == (tmp_path / "rows.csv").resolve()


def test_every_path_is_inside_the_folder(home: SiteHome) -> None:
    paths = [home.policy, home.peers, home.audit, home.ledger, home.heads, home.runs]
    paths += [home.keys, home.paused, home.revoked, home.status, home.lock]
    assert {path.parent for path in paths} == {home.folder}
    assert len(set(paths)) == len(paths)


def test_a_site_has_one_population_and_no_public_size_until_its_owner_says_so(home: SiteHome) -> None:
    assert (home.config().population, home.config().public_size) == ("default", None)
    home.write_config(SiteConfig(name="alpha", organisation="A", public_size=5000, population="ward-3"))
    assert (home.config().population, home.config().public_size) == ("ward-3", 5000)


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("public_size: 0", "greater than or equal to 1"),
        ("public_size: 5000.5", "integer"),
        ("public_size: '5000'", "integer"),
        ("public_size: 10000000000000", "less than or equal to"),
        ("population: Ward 3", "match pattern"),
        ("population: ''", "match pattern"),
        ("publicsize: 5", "did you mean 'public_size'?"),
    ],
)
def test_settings_that_are_none_are_refused_with_their_line(home: SiteHome, line: str, what: str) -> None:
    path = home.folder / "site.yaml"
    path.write_text(f"name: alpha\norganisation: A\n{line}\n")
    with pytest.raises(RecipeError) as caught:
        home.config()
    assert caught.value.code == "recipe.invalid"
    assert f"{path}:3: " in caught.value.message
    assert what in caught.value.message


def test_a_site_s_public_key_needs_no_passphrase(home: SiteHome) -> None:
    keys = EncryptedFile.create(home.keys, "alpha", lambda: "twelve letters and more", cost=Cost(n=2))
    assert home.public == keys.identity().public
