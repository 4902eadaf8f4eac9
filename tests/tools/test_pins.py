"""``constraints/``: each dependency of a node is pinned by hashes, under a licence that is allowed."""

from __future__ import annotations

import tomllib
from importlib.metadata import PackageNotFoundError, distribution

import pytest
from packaging.requirements import Requirement

from pins import FILES, REPOSITORY, UNSAID, Pin, atoms, licence, named, read_pins, written

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TEXTS = {part: path.read_text(encoding="utf-8") for part, path in FILES.items()}
PINS = {part: {pin.name: pin for pin in read_pins(text)} for part, text in TEXTS.items()}
OPEN = {
    "0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0",
    "CC0-1.0", "CNRI-Python", "ISC", "LicenseRef-BSD", "MIT", "MIT-0", "MPL-2.0", "NCSA", "PSF-2.0", "Zlib",
}  # fmt: skip
"""MPL-2.0 alone has a copyleft, for its own files."""
NVIDIA = "LicenseRef-NVIDIA-Proprietary"


def wanted(part: str) -> list[Requirement]:
    """Return what the project asks for in *part*: the base install, or with the extras of a whole site."""
    lines = list(PROJECT["dependencies"])
    if part == "node":
        extras = PROJECT["optional-dependencies"]
        lines += [line for extra in ("worker", "page") for line in extras[extra]]
    return [Requirement(line) for line in lines if not line.startswith("plasmid[")]


@pytest.mark.parametrize("part", FILES)
def test_every_dependency_is_pinned_within_its_range_and_by_hashes(part: str) -> None:
    for requirement in wanted(part):
        pin = PINS[part].get(named(requirement.name))
        assert pin is not None, f"{requirement} is not in {FILES[part].name}: run 'make constraints'"
        assert requirement.specifier.contains(pin.version), f"{pin.name} {pin.version} is not {requirement}"
    for pin in PINS[part].values():
        assert pin.hashes, pin.name
        assert len(set(pin.hashes)) == len(pin.hashes)


@pytest.mark.parametrize("part", FILES)
def test_what_the_pinned_packages_need_is_pinned_too(part: str) -> None:
    """pip refuses a file by hashes that is not closed. Packages that are installed here are asked."""
    for pin in PINS[part].values():
        try:
            needs = distribution(pin.name).requires or []
        except PackageNotFoundError:
            continue
        for requirement in map(Requirement, needs):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                assert named(requirement.name) in PINS[part], f"{pin.name} needs {requirement}"


def test_the_gateway_s_pins_are_the_node_s() -> None:
    assert {name: PINS["node"].get(name) for name in PINS["gateway"]} == PINS["gateway"]
    assert len(PINS["gateway"]) < len(PINS["node"]) / 2


@pytest.mark.parametrize("part", FILES)
def test_no_pin_names_an_index_or_a_build_of_one_machine(part: str) -> None:
    assert "://" not in TEXTS[part]
    assert "--index" not in TEXTS[part]
    assert [pin.version for pin in PINS[part].values() if "+" in pin.version] == []


@pytest.mark.parametrize("part", FILES)
def test_every_licence_is_on_the_list(part: str) -> None:
    """Proprietary are NVIDIA's libraries alone, which torch brings on Linux; the gateway has none of them."""
    others = {pin.name: pin.licence for pin in PINS[part].values() if not set(atoms(pin.licence)) <= OPEN}
    assert {name: said for name, said in others.items() if said not in (NVIDIA, UNSAID)} == {}
    assert {name for name, said in others.items() if said == UNSAID} <= {
        "cuda-toolkit"
    }  # no files of its own
    assert [name for name, said in others.items() if said == NVIDIA and not name.startswith("nvidia-")] == []
    if part == "gateway":
        assert others == {}


def test_a_licence_is_the_one_that_the_installed_package_states() -> None:
    compared = 0
    for pin in PINS["node"].values():
        try:
            installed = distribution(pin.name)
        except PackageNotFoundError:
            continue
        if installed.version.partition("+")[0] == pin.version:
            compared += 1
            assert licence(installed.metadata.json) == pin.licence, pin.name
    assert compared > 30


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"license_expression": "mit", "license": "GPL"}, "MIT"),
        ({"license": "Apache 2.0 License"}, "Apache-2.0"),
        ({"license": "Copyright (c) 2001", "classifier": ["License :: BSD License"]}, "LicenseRef-BSD"),
        ({"classifier": ["License :: OSI Approved :: MIT License", "Topic :: License Tools"]}, "MIT"),
        ({"license": "AGPL-3.0-only"}, "AGPL-3.0-only"),
        ({}, "NOASSERTION"),
    ],
)  # fmt: skip
def test_how_metadata_names_a_licence(metadata: dict[str, str], said: str) -> None:
    assert licence(metadata) == said


def test_a_line_without_a_hash_is_no_pin() -> None:
    pin = Pin("numpy", "2.4.6", ("a" * 64, "b" * 64), "MIT")
    assert read_pins(written(pin)) == [pin]
    for bad in ("numpy==2.4.6\n", written(pin).replace("a" * 64, "a" * 63), "-r other.txt\n" + written(pin)):
        with pytest.raises(ValueError, match="make constraints"):
            read_pins(bad)
