"""``make sbom``: ``build/sbom.json``, what a node consists of, as CycloneDX 1.6.

Rules
-----
1. It lists the pins of ``constraints/node.txt``: purl, version, licence, and the SHA-256 of every file that
   the pin allows, for any machine.
2. The property ``plasmid:part`` says whether a package is the gateway's or only the worker's.
3. It is valid by the schema, or it is not written.
"""

from __future__ import annotations

import sys
import tomllib

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

from pins import FILES, REPOSITORY, UNSAID, Pin, read_pins

TARGET = REPOSITORY / "build" / "sbom.json"


def make() -> str:
    """Return the document. Raises ValueError where it does not meet the schema."""
    pins = {part: read_pins(path.read_text(encoding="utf-8")) for part, path in FILES.items()}
    gateway = {pin.name for pin in pins["gateway"]}
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    own = Component(
        name=project["name"],
        version=project["version"],
        type=ComponentType.APPLICATION,
        licenses=[LicenseFactory().make_from_string(project["license"])],
        purl=PackageURL("pypi", name=project["name"], version=project["version"]),
        bom_ref=project["name"],
    )
    parts = [_component(pin, "gateway" if pin.name in gateway else "worker") for pin in pins["node"]]
    bom = Bom(components=parts)
    bom.metadata.component = own
    bom.register_dependency(own, parts)
    text = JsonV1Dot6(bom).output_as_string(indent=1)
    problem = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if problem is not None:
        raise ValueError(f"no valid CycloneDX: {problem}")
    return text


def _component(pin: Pin, part: str) -> Component:
    licences = [] if pin.licence == UNSAID else [LicenseFactory().make_from_string(pin.licence)]
    return Component(
        name=pin.name,
        version=pin.version,
        type=ComponentType.LIBRARY,
        purl=PackageURL("pypi", name=pin.name, version=pin.version),
        bom_ref=pin.name,
        licenses=licences,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest) for digest in pin.hashes],
        properties=[Property(name="plasmid:part", value=part)],
    )


def main() -> None:
    """Write the document."""
    text = make()
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(text, encoding="utf-8")
    sys.stdout.write(f"{TARGET.relative_to(REPOSITORY)}: {text.count('purl')} components, CycloneDX 1.6\n")


if __name__ == "__main__":
    main()
