"""What is sealed in a key epoch: bundles from site to site, and recovery blobs for the coordinator.

Rules
-----
1. A bundle's key is HKDF(X25519(C_i, C_j) | ML-KEM-768 secret to E_j, rho): who records the traffic must
   break both. Its associated data are run, epoch, sender and receiver.
2. A blob's key is HKDF(k, "blob") of one slot; its associated data are run, epoch, site and slot.
3. Each key seals one message under AES-256-GCM, so the nonce is constant.
4. The private keys C and E are drawn here, live in this object alone and are never shared.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from plasmid.core.errors import ProtocolError
from plasmid.secagg.keystream import blob_key, channel_key
from plasmid.secagg.statements import Advert, Bundle

_NONCE = bytes(12)


class Channel:
    """One site's key-agreement keys for one epoch."""

    def __init__(self) -> None:
        self._x25519 = X25519PrivateKey.generate()
        self._mlkem = MLKEM768PrivateKey.generate()

    @property
    def x25519(self) -> bytes:
        """The public key C, 32 bytes."""
        return self._x25519.public_key().public_bytes_raw()

    @property
    def mlkem768(self) -> bytes:
        """The public key E, 1184 bytes."""
        return self._mlkem.public_key().public_bytes_raw()

    def seal(self, plain: bytes, *, sender: Advert, receiver: Advert, rho: str) -> Bundle:
        """Return *plain* as a bundle from *sender*, whose keys these are, to *receiver*.

        Raises
        ------
        ProtocolError
            ``protocol.adverts``: a key of *receiver* is none.
        """
        try:
            encapsulated, kem = MLKEM768PublicKey.from_public_bytes(receiver.mlkem768).encapsulate()
            key = self._key(receiver, encapsulated, rho)
        except ValueError as error:
            raise ProtocolError(
                "protocol.adverts", f"a key in the advert of {receiver.site} is none.", "Start the run again."
            ) from error
        return Bundle(
            run=sender.run,
            epoch=sender.epoch,
            sender=sender.site,
            receiver=receiver.site,
            rho=rho,
            kem=kem,
            sealed=AESGCM(key).encrypt(_NONCE, plain, _place(sender, receiver.site)),
        )

    def open(self, bundle: Bundle, *, sender: Advert, receiver: Advert) -> bytes:
        """Return what *bundle*, from *sender* to *receiver*, whose keys these are, holds.

        Raises
        ------
        ProtocolError
            ``protocol.bundles``: it does not open.
        """
        try:
            key = self._key(sender, self._mlkem.decapsulate(bundle.kem), bundle.rho)
            return AESGCM(key).decrypt(_NONCE, bundle.sealed, _place(sender, receiver.site))
        except (InvalidTag, ValueError) as error:  # ValueError: its X25519 key is of small order
            raise ProtocolError(
                "protocol.bundles", f"the bundle of {sender.site} does not open.", "Start the run again."
            ) from error

    def _key(self, other: Advert, encapsulated: bytes, rho: str) -> bytes:
        exchanged = self._x25519.exchange(X25519PublicKey.from_public_bytes(other.x25519))
        return channel_key(exchanged, encapsulated, rho)


def seal_blob(secret: bytes, seeds: bytes, *, advert: Advert, slot: int) -> bytes:
    """Return the pair *seeds* that the author of *advert* was given for *slot*, under its slot secret k."""
    return AESGCM(blob_key(secret)).encrypt(_NONCE, seeds, _place(advert, str(slot)))


def open_blob(secret: bytes, blob: bytes, *, advert: Advert, slot: int) -> bytes:
    """Return what :func:`seal_blob` sealed.

    Raises
    ------
    ProtocolError
        ``protocol.recovery``: it does not open.
    """
    try:
        return AESGCM(blob_key(secret)).decrypt(_NONCE, blob, _place(advert, str(slot)))
    except (InvalidTag, ValueError) as error:  # ValueError: shorter than a tag
        raise ProtocolError(
            "protocol.recovery", f"the recovery blob of {advert.site} does not open.", "Try another slot."
        ) from error


def _place(advert: Advert, to: str) -> bytes:
    return f"{advert.run}|{advert.epoch}|{advert.site}|{to}".encode()
