"""Real gateways of four sites, and an observer beside the honest ones.

Rules
-----
1. A site computes as :mod:`plasmid.gateway.run` does: from the newest state that its gateway has taken.
2. A refusal is counted by its code. Any other exception is a finding.
3. :meth:`World.reset` begins again where it was kept: files as they were, fresh gateways over them.
4. Observed are each vector that an honest site masks, sent or not, each state that it computes from, and each
   state that it signs to have verified itself.
"""

from __future__ import annotations

import copy
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hostile.answering import Answering
from hostile.protocol import DEFENCES, Vector
from plasmid.computations import api
from plasmid.core import settings
from plasmid.core.canonical import sha256_hex
from plasmid.core.errors import PlasmidError, ProtocolError
from plasmid.gateway import admission, epochs
from plasmid.gateway.gateway import Gateway
from plasmid.gateway.home import SiteHome
from plasmid.gateway.totals import Answered
from plasmid.protocol.messages import Admit, Epoch, Manifest, Relay, Signed
from plasmid.recipes.beside import shape_of
from plasmid.recipes.protection import Limits
from plasmid.recipes.query import PingDocument
from plasmid.secagg.ring import Words
from plasmid.secagg.samples import body_root
from plasmid.secagg.site import SiteEpoch
from support.federation.attacks import FOUR, count_document, private
from support.federation.in_memory import Federation

COLLUDER = "delta"
EARLY = 0.01
"""No state beyond it is the first one, nor near it."""
HONEST = tuple(site for site in FOUR if site != COLLUDER)
Place = tuple[str, int, int]
"""Run, epoch, slot."""


class Basis(Enum):
    """Why a site takes a state: what it knows of the sum of the round before."""

    OTHERS = "it did not answer that round, and takes the word of others; or there is no round before"
    TAG = "it agreed to no sum of its answer, so that it has the tag alone"
    OTHER_LIST = "it agreed to another survivor list than that of the sum that was opened"
    SAMPLES = "it agreed to the sum that was opened, or to one that never was"


@dataclass(frozen=True)
class Taken:
    """A state that an honest site computed from.

    Attributes
    ----------
    basis
        See :class:`Basis`.
    """

    site: str
    manifest: Manifest
    state: Vector
    basis: Basis


@dataclass(frozen=True)
class Vouched:
    """An honest site's word that it has verified a state itself.

    Attributes
    ----------
    state
        Its digest.
    could
        Whether the site, since it last forgot the run, computed the round before: it can check no other step.
    basis
        See :class:`Basis`.
    """

    site: str
    run: str
    round: int
    state: str
    could: bool
    basis: Basis


class World:
    """See the module's rules.

    Parameters
    ----------
    unit
        Whether its runs promise differential privacy for a record.
    """

    def __init__(self, root: Path, *, unit: bool) -> None:
        self.unit, self._root = unit, root
        self.federation = _federation(root, unit=unit)
        self.document, self.sites = self.federation.document, self.federation.sites
        self.colluder = self.federation.identities[COLLUDER]
        self.computation: Any = api.load(self.document.computation)
        self.shape: api.Shape = shape_of(self.computation, self.document, None)
        self.refused: Counter[str] = Counter()
        self.taken: list[Taken] = []
        self.vouched: list[Vouched] = []
        self._computed_rounds: dict[tuple[str, str], set[int]] = defaultdict(set)
        self.masked: dict[tuple[str, Place], set[str]] = defaultdict(set)
        self.bodies: dict[str, bytes] = {}
        self.answering = Answering(COLLUDER)
        self.settles = False
        self._known: dict[tuple[str, Path], Any] = {}
        self.federation.serve(self)

    @property
    def gateways(self) -> dict[str, Gateway]:
        """The gateways by site."""
        return self.federation.gateways

    def keep(self) -> None:
        """Make what is now the place where :meth:`reset` begins again; no site has masked anything yet."""
        self._files = {path: path.read_bytes() for path in self._root.rglob("*") if path.is_file()}
        self._runs = {site: gateway._runs for site, gateway in self.gateways.items()}
        admitted = [one for runs in self._runs.values() for one in runs.values()]
        fixed = [part for one in admitted for part in (one.document, one.requested, one.shape, one.opened)]
        self._fixed = {id(part): part for part in [self.computation, *fixed]}

    def reset(self) -> None:
        """Begin again."""
        for path in self._root.rglob("*"):
            if path.is_file() and path not in self._files:
                path.unlink()
        for path, data in self._files.items():
            if path.read_bytes() != data:
                path.write_bytes(data)  # the same file: a log that was replaced is refused
        for site in self.sites:
            self.federation.restart(site)._runs = copy.deepcopy(self._runs[site], dict(self._fixed))
        self.taken, self.masked, self.bodies, self.vouched = [], defaultdict(set), {}, []
        self.answering = Answering(COLLUDER)
        self._computed_rounds.clear()

    def restart(self, site: str) -> None:
        """Start the gateway of *site* anew, over what it has on disk."""
        self.federation.restart(site)
        for run in {run for of, run in self._computed_rounds if of == site}:
            del self._computed_rounds[site, run]

    def knows(self, site: str, run: str) -> bool:
        """Return whether *site* has *run* in memory."""
        return run in self.gateways[site]._runs

    def forget(self, site: str, run: str) -> None:
        """Have *site* drop all that it remembers of *run*."""
        self.gateways[site].forget(run)
        self._computed_rounds.pop((site, run), None)

    @contextmanager
    def playing(self, *, without: str = "") -> Iterator[None]:
        """Observe, with one defence off if it is named.

        What no message changes is looked at once: the text of settings, each site's view, what its owner lets
        leave. A statement whose signature is right stays so.
        """
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(settings, "parse_yaml", _parsed)
            patch.setattr(admission, "open_view", self._once(admission.open_view))
            patch.setattr(Gateway, "_check_may_leave", self._once(Gateway._check_may_leave))
            patch.setattr(SiteHome, "config", self._once(SiteHome.config))
            patch.setattr(epochs, "open_signed", _remembering(epochs.open_signed))
            patch.setattr(SiteEpoch, "mask", self._noting(SiteEpoch.mask))
            for owner, name, instead in DEFENCES[without]:
                patch.setattr(owner, name, instead)
            yield

    def _once(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return *function* of a site's folder or gateway, which is called once for each site."""

        def once(of: SiteHome | Gateway, *arguments: Any, **named: Any) -> Any:
            home = of.home if isinstance(of, Gateway) else of
            key = (function.__name__, home.folder)
            if key not in self._known:
                self._known[key] = function(of, *arguments, **dict.fromkeys(named, False))
            return self._known[key]

        return once

    def _noting(self, mask: Callable[..., bytes]) -> Callable[..., bytes]:
        def noted(epoch: SiteEpoch, words: Words, *, slot: int, **named: Any) -> bytes:
            tag = mask(epoch, words, slot=slot, **named)
            if epoch.site in HONEST:
                self.masked[epoch.site, (epoch.run, epoch.epoch, slot)].add(sha256_hex(words.tobytes()))
            return tag

        return noted

    # -- what sites do -----------------------------------------------------------------------------

    def answer(self, site: str, message: Any) -> Any:
        """Return what *site* answers to *message*; None if that is nothing or a refusal."""
        gateway = self.gateways[site]
        try:
            if isinstance(message, Admit):
                admitted = gateway.answer(message)
                self.refused[admitted.code] += not admitted.accepted
                return None
            if isinstance(message, Epoch):
                return gateway.begin_epoch(message)
            if isinstance(message, Relay):
                return self._noted(gateway.relay(message))
            return gateway.contribute(message, lambda said: self._computed(gateway, said))
        except PlasmidError as error:
            self.refused[error.code] += 1
            return None

    def _noted(self, said: Any) -> Any:
        verified = said.payload.get("verified") if isinstance(said, Signed) else None
        if isinstance(verified, dict) and said.signer in HONEST:
            run, round_ = said.payload["run"], verified["round"]
            could = round_ - 1 in self._computed_rounds[said.signer, run]
            basis = self._basis(self.gateways[said.signer].run(run).following.answered.get(round_ - 1))
            self.vouched.append(Vouched(said.signer, run, round_, verified["state"], could, basis))
        return said

    def _computed(self, gateway: Gateway, said: Manifest) -> Vector:
        following = gateway.run(said.run).following
        state, before = following.last, following.answered.get(said.round - 1)
        self._computed_rounds[gateway.site, said.run].add(said.round)
        if gateway.site in HONEST:
            self.taken.append(Taken(gateway.site, said, state, self._basis(before)))
        return self.vector(gateway.site, state)

    def _basis(self, before: Answered | None) -> Basis:
        if before is None or before.survivors is None:
            return Basis.OTHERS if before is None else Basis.TAG
        kept = self.answering.kept.get(before.manifest)
        agreed = {site: one.root.hex() for site, one in before.survivors.items()}
        opened = kept is None or agreed == {site: body_root(body) for site, body in kept.bodies.items()}
        return Basis.SAMPLES if opened else Basis.OTHER_LIST

    def vector(self, site: str, state: Vector) -> Vector:
        """Return what *site* computes: [length], within the bound and the clip.

        Where the run settles, little is left to learn after the first step: its states come near each other.
        """
        left = 2.0**-13 if self.settles and np.abs(state).max() > EARLY else 1.0
        value = left * 2.0 ** -self.sites.index(site) / 2
        return np.full(self.shape.schema.size, value, self.shape.dtype)

    # -- bodies ------------------------------------------------------------------------------------

    def publish(self, body: bytes) -> str:
        """Keep a body, for any site to fetch; return its digest."""
        digest = sha256_hex(body)
        self.bodies[digest] = body
        return digest

    def download(self, digest: str, size: int) -> bytes:
        """Return the body of *digest*, as the link does; a coordinator that has none refuses."""
        body = self.bodies.get(digest)
        if body is None or len(body) != size:
            raise ProtocolError("protocol.body", "there is no such body.")
        return body

    def sample(self, run: str, manifest: str, part: str, size: int) -> bytes:
        """Return what the coordinator answers."""
        return self.answering.sample(manifest, part, size)


def _remembering(open_signed: Callable[[Signed, str], Any]) -> Callable[[Signed, str], Any]:
    found: dict[tuple[int, str], tuple[Signed, Any]] = {}

    def opened(signed: Signed, key: str) -> Any:
        if (id(signed), key) not in found:
            found[id(signed), key] = signed, open_signed(signed, key)
        return found[id(signed), key][1]

    return opened


_parsed = lru_cache(maxsize=256)(settings.parse_yaml)


def _federation(root: Path, *, unit: bool) -> Federation:
    if unit:
        return private(root, document=count_document(spare=3))
    document = PingDocument(length=2, rounds=6, federation=Limits(spare_attempts=4))
    return Federation(root, document=document, sites=FOUR)
