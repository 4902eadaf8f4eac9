"""Facts of three runs: noise at the sites, noise in shares, masks alone."""

from __future__ import annotations

from typing import Any

from plasmid.dp.claims import PrivacyFacts, SiteFacts
from plasmid.dp.skellam import plan_shared_noise

COMMON: dict[str, Any] = {
    "protocol": "plasmid-sa/2",
    "protect": "masked",
    "n": 5,
    "c": 1,
    "theta": 4,
    "min_sites": 4,
    "rounds": 10,
    "attempts": 12,
}
SITES = (SiteFacts("a", 5000, 0.0128, 0.8), SiteFacts("b", 1000, 0.064, 1.1))
DP_SGD = PrivacyFacts(
    **COMMON,
    unit="record",
    mechanism="dp-sgd",
    epsilon=8.0,
    delta=1e-5,
    record_clip=1.0,
    steps=5,
    participants=SITES,
)
MASKED = PrivacyFacts(**COMMON, unit="none", participants=(SiteFacts("a"), SiteFacts("b")))


def shared(**changed: Any) -> PrivacyFacts:
    figures: dict[str, Any] = {"unit": "record", "mechanism": "dp-fedsgd", "record_clip": 1.0, **changed}
    sites = changed.pop("participants", (SiteFacts("a", 5000, 0.05), SiteFacts("b", 9000, 0.02)))
    encoding, std = plan_shared_noise(
        length=3000,
        bound=8.0,
        sites=5,
        honest=3,
        sensitivity=1.0,
        releases=12,
        rate=max(site.rate for site in sites),
        epsilon=4.0,
        delta=1e-5,
    )
    return PrivacyFacts(
        **COMMON,
        **{**figures, "participants": sites},
        epsilon=4.0,
        delta=1e-5,
        noise_std=std,
        scale_log2=encoding.scale_log2,
        length=3000,
    )
