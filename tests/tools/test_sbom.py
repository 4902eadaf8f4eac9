"""The bill of materials lists what is pinned, with purl, version, licence, hashes, and meets the schema."""

from __future__ import annotations

import json

import pytest

import sbom
from pins import FILES, UNSAID, Pin, read_pins


def test_it_lists_every_pin_of_a_node_and_nothing_else() -> None:
    pins = {pin.name: pin for pin in read_pins(FILES["node"].read_text(encoding="utf-8"))}
    gateway = {pin.name for pin in read_pins(FILES["gateway"].read_text(encoding="utf-8"))}
    document = json.loads(sbom.make())
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    assert document["metadata"]["component"]["purl"] == "pkg:pypi/plasmid@0.1.0"
    found = {one["name"]: one for one in document["components"]}
    assert found.keys() == pins.keys()
    for name, pin in pins.items():
        one = found[name]
        assert (one["version"], one["purl"]) == (pin.version, f"pkg:pypi/{name}@{pin.version}")
        assert {(each["alg"], each["content"]) for each in one["hashes"]} == {
            ("SHA-256", digest) for digest in pin.hashes
        }
        assert stated(one) == ([] if pin.licence == UNSAID else [pin.licence])
        part = "gateway" if name in gateway else "worker"
        assert one["properties"] == [{"name": "plasmid:part", "value": part}]


def stated(component: dict[str, list[dict[str, dict[str, str]]]]) -> list[str]:
    """Return the licences of a component: CycloneDX has an identifier, a name or an expression."""
    return [
        str(one.get("expression") or one["license"].get("id") or one["license"]["name"])
        for one in component.get("licenses", [])
    ]


def test_what_does_not_meet_the_schema_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sbom, "read_pins", lambda _: [Pin("numpy", "1", ("no digest",), "MIT")])
    with pytest.raises(ValueError, match="no valid CycloneDX"):
        sbom.make()
