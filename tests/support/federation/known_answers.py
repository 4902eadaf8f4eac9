"""Known answers of ``plasmid-sa/2``, so that another implementation can check itself.

``PYTHONPATH=tests python -m known_answers`` writes ``tests/privacy/plasmid_sa_2.json`` anew. From ``inputs``,
all randomness among them, follow ``outputs``. A KEM ciphertext cannot be chosen, so one bundle is
``recorded``: it opens to shares and seeds that ``outputs`` name. Byte strings are hexadecimal, except inside
statements, whose form is that of the link. A body is here the masked words alone, little-endian.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from plasmid.core import merkle
from plasmid.core.canonical import digest_json
from plasmid.secagg import channels, keystream, samples, shamir, tags
from plasmid.secagg import site as secure_aggregation
from plasmid.secagg.coordinator import CoordinatorEpoch, sum_words
from plasmid.secagg.ring import Encoding, encode
from plasmid.secagg.site import SiteEpoch
from plasmid.secagg.statements import PROTOCOL
from support.federation.secure_sum import Sealed, contribution, reader

VECTORS = Path(__file__).parents[2] / "privacy" / "plasmid_sa_2.json"
SITES, SLOTS, C, THETA, SLOT = ("a", "b", "c", "d"), 2, 1, 3, 1
GONE = "c"
LONG = 4100


def stretched(label: str, size: int) -> str:
    """Return *size* bytes that look like nothing, from *label*."""
    return hashlib.shake_256(label.encode()).hexdigest(size)


def inputs() -> dict[str, Any]:
    """Return what the answers follow from."""
    secret = 2 * SLOTS * 32
    return {
        "protocol": PROTOCOL,
        "run": "known-answers",
        "epoch": 1,
        "document": stretched("document", 32),
        "slots": SLOTS,
        "c": C,
        "theta": THETA,
        "sites": {
            site: {
                "x25519_private": stretched(f"{site} C", 32),
                "mlkem768_seed": stretched(f"{site} E", 64),
                "b_then_k_of_each_slot": stretched(f"{site} secrets", secret),
                "g": stretched(f"{site} group", 32),
                "coefficients_of_x_then_x2": stretched(f"{site} coefficients", (THETA - 1) * secret),
            }
            for site in SITES
        },
        "derive": [
            {"secret": stretched("s", 32), "info": ["pair-seed", "b"], "length": 32},
            {"secret": stretched("s", 32), "info": ["blob"], "length": 32},
            {"secret": stretched("s", 32), "info": ["self", "hex:" + "a1" * 32], "length": 16},
            {"secret": stretched("s", 32), "info": ["pair", "hex:" + "a1" * 32], "length": 16},
            {"secret": stretched("s", 32), "info": ["total", "hex:" + "a1" * 32], "length": 16},
            {"secret": stretched("s", 96), "info": ["group", "hex:" + "5a" * 32], "length": 32},
            {"secret": stretched("s", 64), "info": ["channel", "hex:" + "5a" * 32], "length": 32},
        ],
        "encoding": {"bits": 32, "scale_log2": 20, "bound": 1.0, "length": 6, "noise_variance": 0.0},
        "slot": SLOT,
        "manifest": {
            "type": "manifest",
            "protocol": PROTOCOL,
            "run": "known-answers",
            "epoch": 1,
            "slot": SLOT,
            "round": 1,
            "invited": list(SITES),
            "bound": 1.0,
            "scale_log2": 20,
            "noise_variance": 0.0,
            "tiny": 1e-7,
            "text": "é\u2028",
        },
        "values": {
            site: [0.5, -0.25, 1.0, -1.0, 2.0**-21, (place + 1) / 8] for place, site in enumerate(SITES)
        },
        "survivors": [site for site in SITES if site != GONE],
        "two_rows_key": stretched("K", 32),
    }


@contextmanager
def randomness(site: dict[str, str]) -> Iterator[None]:
    """Give the implementation the secrets of one site instead of fresh ones."""
    x25519 = X25519PrivateKey.from_private_bytes(bytes.fromhex(site["x25519_private"]))
    mlkem = MLKEM768PrivateKey.from_seed_bytes(bytes.fromhex(site["mlkem768_seed"]))
    drawn = bytes.fromhex(site["b_then_k_of_each_slot"])
    coefficients = bytes.fromhex(site["coefficients_of_x_then_x2"])

    def exactly(*data: bytes) -> SimpleNamespace:
        return SimpleNamespace(token_bytes=lambda size: {len(one): one for one in data}[size])

    with (
        mock.patch.object(secure_aggregation, "secrets", exactly(drawn, bytes.fromhex(site["g"]))),
        mock.patch.object(shamir, "entropy", exactly(coefficients)),
        mock.patch.object(channels, "X25519PrivateKey", SimpleNamespace(generate=lambda: x25519)),
        mock.patch.object(channels, "MLKEM768PrivateKey", SimpleNamespace(generate=lambda: mlkem)),
    ):
        yield


def started(given: dict[str, Any]) -> dict[str, SiteEpoch]:
    """Return the sites with their adverts."""
    sites = {}
    for name, secrets in given["sites"].items():
        with randomness(secrets):
            sites[name] = SiteEpoch(
                run=given["run"],
                epoch=given["epoch"],
                site=name,
                document=given["document"],
                slots=given["slots"],
            )
    return sites


def derived(given: list[dict[str, Any]]) -> list[str]:
    """Return the keys of the examples; a part that begins with ``hex:`` is bytes."""
    return [
        keystream.derive(
            bytes.fromhex(one["secret"]),
            *(bytes.fromhex(part[4:]) if part.startswith("hex:") else part for part in one["info"]),
            length=one["length"],
        ).hex()
        for one in given
    ]


def outputs(given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the answers, and a bundle from the first site to the second."""
    sites = started(given)
    adverts = [site.advert for site in sites.values()]
    bundles = []
    for name, site in sites.items():
        with randomness(given["sites"][name]):
            bundles += site.bundles(adverts, c=given["c"], least=1)
    held = {}
    recoveries = {}
    for name, site in sites.items():
        recoveries[name] = site.recovery([bundle for bundle in bundles if bundle.receiver == name])
        held[name] = site._held.copy()
    ready = [site.ready([said for said, _ in recoveries.values()]) for site in sites.values()]
    for site in sites.values():
        site.seal(ready)
    epoch = Sealed(sites, CoordinatorEpoch(adverts, recoveries, c=given["c"]), recoveries, ready)
    encoding, slot, h = Encoding(**given["encoding"]), given["slot"], digest_json(given["manifest"])
    words = {name: encode(np.array(values), encoding) for name, values in given["values"].items()}
    masked, said = {}, {}
    for name in given["manifest"]["invited"]:
        masked[name] = words[name].copy()
        tag = sites[name].mask(masked[name], slot=slot, manifest=h, invited=given["manifest"]["invited"])
        body = masked[name].tobytes()
        said[name] = contribution(name, memoryview(body), run=given["run"], slot=slot, manifest=h, tag=tag)
        sites[name].contributed(said[name])
    alive = given["survivors"]
    consents = epoch.consents(alive, [said[name] for name in alive], slot=slot)
    answers = epoch.shares(alive, consents, slot=slot)
    pads = epoch.coordinator.pads(slot, h, invited=list(sites), survivors=alive, shares=answers)
    readers = [reader(masked[name]) for name in alive]
    total = sum_words(readers, encoding, pads, 0, encoding.length + 4)
    opened = epoch.coordinator.opening(slot, h, invited=list(sites), survivors=alive, shares=answers)[1]
    long = stretched("body", LONG * 4 + 88)
    leaves = samples.leaf_hashes(bytes.fromhex(long))
    answer = {
        "derive": derived(given["derive"]),
        "adverts": {advert.site: digest_json(advert.model_dump(mode="json")) for advert in adverts},
        "rho": epoch.coordinator.rho,
        "shares_of_b_then_k_by_holder_then_owner": {
            holder: {owner: held[holder][place, :2].tobytes().hex() for place, owner in enumerate(sites)}
            for holder in sites
        },
        "seeds_a_to_b": held["b"][0, 2].tobytes().hex(),
        "blobs": {name: [blob.hex() for blob in blobs] for name, (_, blobs) in recoveries.items()},
        "ready": ready[0].model_dump(mode="json"),
        "manifest_digest": h,
        "words": {name: vector.tolist() for name, vector in words.items()},
        "masked": {name: vector.tolist() for name, vector in masked.items()},
        "contributions": {name: one.model_dump(mode="json") for name, one in said.items()},
        "consent": consents[0].model_dump(mode="json"),
        "consent_digest": digest_json(consents[0].model_dump(mode="json")),
        "answers": [one.model_dump(mode="json") for one in answers],
        "pads": [{"key": pad.key.hex(), "subtract": pad.subtract} for pad in pads],
        "total": total.tolist(),
        "group_key": sites[alive[0]].group_key.hex(),
        "tags": {name: tags.tag(sites[name].group_key, h, vector, [name]) for name, vector in words.items()},
        "total_tag": tags.read_tag(tags.opened((said[name].tag for name in alive), pads)),
        "opening": opened.hex(),
        "sample": {
            "body": f"{len(long) // 2} bytes, SHAKE-256 of 'body'",
            "leaf_bytes": samples.leaf_bytes(len(long) // 2),
            "leaves": len(leaves),
            "root": samples.body_root(bytes.fromhex(long)),
            "index": 6,
            "leaf": long[2 * 6 * 256 : 2 * 7 * 256],
            "path": [one.hex() for one in merkle.inclusion_proof(leaves, 6)],
        },
        "two_rows": {
            "bits": 64,
            "words": f"{LONG} words, word i is 2**63 - 1 + i mod 2**64",
            "tag": tags.tag(
                bytes.fromhex(given["two_rows_key"]),
                h,
                np.arange(LONG, dtype="<u8") + np.uint64(2**63 - 1),
                alive,
            ),
        },
    }
    return answer, {"bundle_a_to_b": bundles[0].model_dump(mode="json")}


def main() -> None:
    """Write the file."""
    given = inputs()
    answer, recorded = outputs(given)
    about = (__doc__ or "").strip().splitlines()
    document = {"about": about, "inputs": given, "outputs": answer, "recorded": recorded}
    VECTORS.write_text(json.dumps(document, indent=1, ensure_ascii=True) + "\n")


if __name__ == "__main__":
    main()
