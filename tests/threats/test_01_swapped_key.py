"""Row 1. Attack: the coordinator swaps a site's X25519 key.

Must hold: the other sites refuse: bad identity signature; no masked byte is sent.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from plasmid.core.errors import ProtocolError
from plasmid.gateway.members.peers import Peer, Peers, read_peers, write_peers
from plasmid.protocol.identity import Identity
from plasmid.protocol.messages import Signed
from plasmid.secagg.channels import Channel
from plasmid.secagg.statements import Advert, Bundle
from support.federation.attacks import FOUR, forged, insider, never, refusal
from support.federation.in_memory import Federation


def begun(tmp_path: Path) -> tuple[Federation, list[Signed]]:
    federation = Federation(tmp_path, sites=FOUR)
    federation.admit_all()
    return federation, federation.adverts()


def of_another_channel(advert: Signed, channel: Channel, keys: tuple[str, ...]) -> dict[str, Any]:
    """Return the payload of *advert* with *keys* of a channel that the coordinator made."""
    made = Advert.model_validate(advert.payload).model_copy(
        update={key: getattr(channel, key) for key in keys}
    )
    return made.model_dump(mode="json")


@pytest.mark.promise("keys-confirmed")
@pytest.mark.parametrize("keys", [("x25519",), ("mlkem768",), ("x25519", "mlkem768")])
@pytest.mark.parametrize("signer", ["nobody", "coordinator", "gamma", "a new key"])
def test_a_swapped_key_is_refused_and_nothing_masked_leaves(
    tmp_path: Path, keys: tuple[str, ...], signer: str
) -> None:
    federation, adverts = begun(tmp_path)
    payload = of_another_channel(adverts[1], Channel(), keys)
    bad = adverts[1].model_copy(update={"payload": payload})
    if signer != "nobody":
        by = {
            "coordinator": federation.coordinator,
            "gamma": federation.identities["gamma"],
            "a new key": Identity.generate("beta"),
        }[signer]
        bad = forged(adverts[1], by, **payload)
    for site in ("alpha", "delta", "gamma"):
        gateway = federation.gateways[site]
        with refusal("protocol.signature"):
            gateway.relay(federation.relay("advert", [adverts[0], bad, *adverts[2:]]))
        with refusal("protocol.manifest"):  # there is no rho to name yet
            gateway.contribute(federation.manifest(rho="0" * 64), never)
        events = [line["action"] for line in federation.log(site)]
        assert not {"manifest", "released"} & set(events)


def test_an_advert_under_another_site_s_name_is_refused(tmp_path: Path) -> None:
    """gamma signs, correctly, a second advert that says it is beta's."""
    federation, adverts = begun(tmp_path)
    payload = of_another_channel(adverts[1], Channel(), ("x25519", "mlkem768"))
    pretended = forged(adverts[1], federation.identities["gamma"], **payload).model_copy(
        update={"signer": "gamma"}
    )
    with refusal("protocol.signature"):
        federation.gateways["alpha"].relay(federation.relay("advert", [adverts[0], pretended, *adverts[2:]]))


def test_one_key_in_two_adverts_is_refused(tmp_path: Path) -> None:
    """Two sites that share a key (one has lent its own) would be one."""
    federation, adverts = begun(tmp_path)
    lent = {key: adverts[2].payload[key] for key in ("x25519", "mlkem768")}
    twice = forged(adverts[1], federation.identities["beta"], **lent)
    with refusal("protocol.adverts"):
        federation.gateways["alpha"].relay(federation.relay("advert", [adverts[0], twice, *adverts[2:]]))


def test_a_site_finds_its_own_advert_changed(tmp_path: Path) -> None:
    federation, adverts = begun(tmp_path)
    changed = forged(
        adverts[0],
        federation.identities["alpha"],
        **of_another_channel(adverts[0], Channel(), ("x25519",)),
    )
    with refusal("protocol.adverts"):
        federation.gateways["alpha"].relay(federation.relay("advert", [changed, *adverts[1:]]))


def test_control_where_the_wrong_identity_is_pinned_the_swapped_key_opens_the_bundle(tmp_path: Path) -> None:
    """What the signature prevents: whoever owns the key in the advert reads shares and pair seeds."""
    federation, adverts = begun(tmp_path)
    mallory, channel = Identity.generate("beta"), Channel()
    payload = of_another_channel(adverts[1], channel, ("x25519", "mlkem768"))
    swapped = forged(adverts[1], mallory, **payload)
    peers = read_peers(federation.home("alpha").peers)
    pinned = [
        Peer(name="beta", organisation=peer.organisation, key=mallory.public) if peer.name == "beta" else peer
        for peer in peers.sites
    ]
    write_peers(federation.home("alpha").peers, Peers(coordinator=peers.coordinator, sites=pinned))
    sent: Any = federation.gateways["alpha"].relay(
        federation.relay("advert", [adverts[0], swapped, *adverts[2:]])
    )
    (bundle,) = [said for said in sent.statements if said.payload["receiver"] == "beta"]
    opened = channel.open(
        Bundle.model_validate(bundle.payload),
        sender=Advert.model_validate(adverts[0].payload),
        receiver=Advert.model_validate(payload),
    )
    seed = insider(federation.gateways["alpha"], federation.run, slot=0).seeds["beta"]
    assert seed in opened
    # the honest key does not open it, so beta itself notices
    with pytest.raises(ProtocolError) as caught:
        federation.gateways["beta"].run(federation.run).epoch._channel.open(  # type: ignore[union-attr]
            Bundle.model_validate(bundle.payload),
            sender=Advert.model_validate(adverts[0].payload),
            receiver=Advert.model_validate(adverts[1].payload),
        )
    assert caught.value.code == "protocol.bundles"
