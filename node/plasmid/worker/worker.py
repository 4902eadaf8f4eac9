"""The worker process: it loads the base model once per run, stays warm, and runs site halves.

Rules
-----
1. It knows what the gateway sends over the channel (document, rows, base model path, states) and
   nothing else of the site.
2. ``loss``: the node trains (:mod:`plasmid.worker.engine`), or sums one sample's clipped gradients.
   ``per_record``: the node scores every record where the computation asks for it
   (:mod:`plasmid.worker.scoring`), clips it to its bound per coordinate, in L2 under a privacy unit, and
   sums. ``vector``: finished. What is sampled, clipped and noised is the gateway's word, not the
   computation's. Where the document asks for an audit, canaries (:mod:`plasmid.worker.canaries`) join the
   table, and the phase ``audit`` returns [guesses, right] instead. A document's own Python takes the half's
   place (:mod:`plasmid.worker.site_half`); under a privacy unit its failure is a vector of zeros, since on
   whose row it fails is nobody's to know. What learns in a round, and what of it is sent, is the method's
   word (:class:`plasmid.computations.api.Method`). Where a run may end early, rows are held back, and their
   mean loss at the round's state goes behind the vector (:mod:`plasmid.recipes.stopping`).
3. A reader thread watches the channel: ``stop`` interrupts training at the next step, end-of-file ends
   the process at once, whatever it is doing.
4. Frames in: ``open`` (document, base, rank of this site's factors or None; an open file: the view's
   snapshot), ``personal`` (body: what the site keeps for itself and the next ``compute`` begins with),
   ``compute`` (phase, round, seed, sampling: the fields of :class:`~plasmid.worker.dp.UnitSampling`, or
   None, and ``cells``, a hexadecimal key, where evidence about cells is wanted; body: state), ``stop``.
   Frames out: ``opened``, ``progress``
   (step, steps), ``cells`` (records; body: :class:`~plasmid.disclosure.contributors.Evidence`), ``personal``
   (body: what the site is to keep), ``figures`` (what is for its owner alone to see), ``result`` (body:
   vector), ``error``.
5. The phase ``personal`` trains the given state, with what the site keeps, on the site's rows for itself,
   without the privacy unit's clip and noise: its result is the whole adapter, and stays at the site.
"""

from __future__ import annotations

import math
import os
import queue
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from plasmid.bases.store import BaseModel, open_model
from plasmid.computations import api
from plasmid.computations._personal import personal_of, whole_of, with_personal
from plasmid.core.errors import PlasmidError, RunFailed, SiteFailed, place
from plasmid.core.gc_pause import uncollected
from plasmid.data.snapshot import Snapshot
from plasmid.data.table import Drawn, Table
from plasmid.protocol.body import Body, pack, unpack
from plasmid.protocol.channel import Channel, ChannelClosed
from plasmid.recipes.beside import shape_of
from plasmid.recipes.documents import parse_document
from plasmid.recipes.gain import GainDocument
from plasmid.recipes.schema import Learned
from plasmid.recipes.stopping import stop_of
from plasmid.worker import bundle
from plasmid.worker.contributors import evidence_of
from plasmid.worker.held_back import parted
from plasmid.worker.site_half import BundleHalf

Frame = tuple[dict[str, Any], Body]
IN_MEMORY_BYTES = 256 * 2**20
"""A larger snapshot stays in its file, from which rows are taken as they are drawn."""
SLOT_BYTES = 2 * 2**30
"""So does one whose covariates, encoded, take more: a sequence among them has thousands of slots."""

_OUT_OF_MEMORY = SiteFailed(
    "site.sandbox",
    "the worker needs more memory than it may use.",
    "'limits: memory_mib' in site.yaml says how much that is.",
)


def _slot_bytes(document: Any, rows: int) -> int:
    """Return what the encoded covariates of so many rows take, float32."""
    return 4 * rows * document.head().covariate_width if isinstance(document, Learned) else 0


class Session:
    """One run inside the worker."""

    def __init__(self, channel: Channel, stop: threading.Event, frame: Frame) -> None:
        header, _ = frame
        self._channel = channel
        self._stop = stop
        self.site: str = header.get("site", "")
        rows = header.get("descriptor")
        snapshot = None if rows is None else Snapshot(rows)  # first: it closes the descriptor
        self.document: Any = parse_document(header["document"])
        self.computation: Any = api.load(self.document.computation)
        large = snapshot is not None and (
            snapshot.nbytes > IN_MEMORY_BYTES or _slot_bytes(self.document, snapshot.rows) > SLOT_BYTES
        )
        self.table: Table | Snapshot | None = snapshot if snapshot is None or large else snapshot.table()
        base: BaseModel | None = None
        if header["base"] is not None:
            base = open_model(
                header["base"]["id"], revision=header["base"]["revision"], digest=header["base"]["digest"]
            )
        self._base = base
        self.shape = shape_of(self.computation, self.document, base)
        self.dtype = self.shape.dtype
        self._engine: Any = None
        self._canaries: Any = None
        self._first: NDArray[Any] | None = None
        self._own: NDArray[np.float32] | None = None
        self._held: Table | None = None
        self._half = api.site_half(self.computation, self.document)
        self._bundle = BundleHalf(self.document) if getattr(self.document, "bundle", None) else None
        self._scorer: Any = None

        def progress(step: int, steps: int) -> None:
            channel.send({"type": "progress", "step": step, "steps": steps})

        if getattr(self.computation, "SCORED", False):
            from plasmid.worker.scoring import Scorer

            assert base is not None, "an adapter has a base model"
            self._scorer = Scorer(cast(Learned, self.document), base, self._stop_if_asked)
        self._judge: Any = None
        if getattr(self.computation, "JUDGED", False):
            from plasmid.worker.gain import Judge

            assert base is not None, "an adapter has a base model"
            assert snapshot is not None, "a document with rows has a contract"
            self._judge = Judge(
                cast(GainDocument, self.document), base, snapshot, progress=progress, should_stop=stop.is_set
            )
        if self._half == "loss":
            from plasmid.worker.engine import Engine

            assert base is not None, "a document with a loss names a base model"
            assert self.table is not None, "a document with a loss has a contract"
            document: Any = self.document
            table: Drawn = self.table
            if stop_ := stop_of(document):
                table, self._held = parted(table, stop_.share, document.data.patient)
            if document.privacy.audit is not None:
                from plasmid.worker.canaries import Canaries

                self._canaries = Canaries(document, self.table, document.privacy.audit.canaries)
                table = self._canaries.table
            rank = document.adapter.ranks.get(self.site)
            self._engine = Engine(
                document.model_copy(update={"adapter": document.adapter.of_rank(rank)}) if rank else document,
                base,
                table,
                loss=self._bundle.loss if self._bundle else None,
                checkpointing=document.training.checkpointing,
                frames=api.method(document).frames(document, base),
                progress=progress,
                should_stop=stop.is_set,
            )

    def close(self) -> None:
        """End what runs beside this process."""
        if self._bundle is not None:
            self._bundle.close()

    def compute(self, frame: Frame) -> NDArray[Any]:
        """Return this site's raw vector for the state in *frame*."""
        header, body = frame
        state = unpack(body, "state", length=self.shape.state.size, dtype=self.dtype)
        if self._bundle is None:
            vector = self._computed(state, header)
            self._tell_cells(state, header.get("cells"))
            return vector
        try:
            return self._computed(state, header)
        except RunFailed as error:
            problem = error
        except Exception as error:  # noqa: BLE001 - it may come from the bundle's part of a gradient
            print(f"bundle: {bundle.place(error)}", file=sys.stderr, flush=True)  # noqa: T201 - worker.log
            problem = bundle.failure()
        at_home = header["phase"] == "personal"
        if self.document.privacy.unit == "none" or problem.code == "run.stopped" or at_home:
            raise problem
        print("bundle: this round's vector is zero", file=sys.stderr, flush=True)  # noqa: T201 - worker.log
        return np.zeros(self.shape.schema.size, self.dtype)

    def _computed(self, state: NDArray[Any], header: dict[str, Any]) -> NDArray[Any]:
        match self._half:
            case "loss" if header["phase"] == "audit":
                return self._audited(state)
            case "loss" if header["phase"] == "personal":
                return self._trained_on(state, header["seed"])
            case "loss":
                return self._trained(state, header)
            case "per_record":
                return self._sum_of_records(state, header["sampling"])
            case _ if self._bundle is not None:
                assert self.table is not None, "a document with a bundle has a contract"
                return self._bundle.vector(state, self.table, header["round"])
            case _ if self._judge is not None:
                return self._judged(state)
            case _:
                return np.asarray(self.computation.vector(self.document, state), dtype=state.dtype)

    def _trained(self, state: NDArray[Any], header: dict[str, Any]) -> NDArray[Any]:
        from plasmid.worker.rounds import site_vector

        assert self._base is not None, "what trains has a base model"
        own = self._own
        if self._first is None:
            self._first = self._adapter(state)
        self._own = None
        return site_vector(
            self._engine,
            self.document,
            self._base,
            state,
            site=self.site,
            round_=header["round"],
            seed=header["seed"],
            sampling=header["sampling"],
            held=self._held,
            own=own,
            keep=self._tell_personal,
        )

    def _trained_on(self, state: NDArray[Any], seed: int) -> NDArray[Any]:
        """Return the site's own adapter after its own steps."""
        from plasmid.worker.rounds import own_steps

        assert self._base is not None, "what trains has a base model"
        return own_steps(self._engine, self.document, self._base, self._adapter(state), seed=seed)

    def _judged(self, state: NDArray[Any]) -> NDArray[Any]:
        """Return what leaves of what an adapter is worth here; the site is told all of it."""
        own, self._own = self._own, None
        given = self.computation.adapter_of(self.shape, state) if self.document.run is None else own
        found = self._judge.judged(given)
        self._channel.send({"type": "figures", "figures": found.as_json()})
        return np.asarray(self.computation.vector(self.document, found.gain), dtype=state.dtype)

    def take_personal(self, body: Body) -> None:
        """Take what the site keeps, for the next :meth:`compute`: some tensors, or its whole own adapter."""
        kept = personal_of if self._judge is None else whole_of
        length = kept(self.document, self._base).size
        self._own = unpack(body, "personal", length=length, dtype=np.dtype("<f4"))

    def _adapter(self, state: NDArray[Any]) -> NDArray[np.float32]:
        """Return the adapter that *state* stands for at this site."""
        own, self._own = self._own, None
        adapter = self.computation.adapter(self.document, self._base, state)
        return with_personal(self.document, self._base, adapter, own)

    def _tell_personal(self, own: NDArray[np.float32]) -> None:
        """Send what of the trained adapter the site keeps for itself."""
        self._channel.send({"type": "personal"}, pack("personal", own))

    def _audited(self, state: NDArray[Any]) -> NDArray[np.float64]:
        assert self._first is not None, "an audit follows the rounds"
        columns = self._canaries.rows.columns
        last = self.computation.adapter(self.document, self._base, state)
        fell = self._engine.losses(self._first, columns) - self._engine.losses(last, columns)
        return np.array(self._canaries.guess(fell), np.float64)

    def _sum_of_records(self, state: NDArray[Any], sampling: dict[str, Any] | None) -> NDArray[np.float64]:
        clip = math.inf if sampling is None else float(sampling["clip"])
        bound = self.shape.record_bound
        total = np.zeros(self.shape.schema.size)
        for record in self._vectors(state):
            bounded = np.clip(np.nan_to_num(record, nan=0.0), -bound, bound)
            norm = float(np.linalg.norm(bounded))
            total += bounded if norm <= clip else bounded * (clip / norm)
        return total

    def _tell_cells(self, state: NDArray[Any], key: str | None) -> None:
        """Send what the gateway's rules against disclosure need beside the sum, if it asked for that."""
        layout = api.layout(self.computation, self.document)
        if key is None or layout is None:
            return
        found = evidence_of(
            self.computation, self.document, layout, self._records(state), key=bytes.fromhex(key)
        )
        self._channel.send({"type": "cells", "records": int(found.where.size)}, found.to_bytes())

    def _vectors(self, state: NDArray[Any]) -> Iterator[NDArray[np.float64]]:
        assert self.table is not None, "a document with records has a contract"
        if self._bundle is not None:
            yield from self._bundle.vectors(state, self.table, self._stop_if_asked)
            return
        for row in self._records(state):
            self._stop_if_asked()
            record = self.computation.per_record(self.document, state, row)
            if record is not None:
                yield record

    def _records(self, state: NDArray[Any]) -> Iterator[Mapping[str, Any]]:
        """Yield every row, with what the adapter in *state* says of it where that is asked for."""
        assert self.table is not None, "a document with records has a contract"
        if self._scorer is None:
            yield from self.table.records()
        else:
            yield from self._scorer.records(self.computation.adapter_of(self.shape, state), self.table)

    def _stop_if_asked(self) -> None:
        if self._stop.is_set():
            raise RunFailed("run.stopped", "The run was stopped.")


def serve(channel: Channel) -> None:
    """Answer frames until the gateway closes the channel."""
    frames: queue.SimpleQueue[Frame] = queue.SimpleQueue()
    stop = threading.Event()

    def read() -> None:
        try:
            while True:
                frame = channel.receive(files=True)
                if frame[0]["type"] == "stop":
                    stop.set()
                else:
                    frames.put(frame)
        except ChannelClosed:
            os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    session: Session | None = None
    while True:
        frame = frames.get()
        try:
            if frame[0]["type"] == "open":
                if session is not None:
                    session.close()
                with uncollected():
                    session = Session(channel, stop, frame)
                channel.send({"type": "opened"})
            elif session is not None and frame[0]["type"] == "personal":
                session.take_personal(frame[1])
            elif session is not None:
                channel.send({"type": "result"}, pack("vector", session.compute(frame)))
        except PlasmidError as error:
            channel.send({"type": "error", **error.as_dict()})
        except ChannelClosed:
            os._exit(0)
        except MemoryError:
            channel.send({"type": "error", **_OUT_OF_MEMORY.as_dict()})
        except Exception as error:  # noqa: BLE001 - a defect; where it is stays in the site's own worker log
            sys.stderr.write(place(error) + "\n")
            sys.stderr.flush()
            channel.send(
                {
                    "type": "error",
                    "code": "site.failed",
                    "message": "The worker failed; its log has the details.",
                    "hint": "",
                }
            )


def main() -> None:
    """Run on the channel that the launcher gave as standard input."""
    # Accelerate imports Amazon's client where that is installed, which tries a socket: a sandbox refuses it,
    # and the owner's log would say so of a recipe that did nothing.
    sys.modules.setdefault("boto3", None)  # type: ignore[arg-type]
    end = socket.socket(fileno=os.dup(0))
    null = os.open(Path(os.devnull), os.O_RDONLY)
    os.dup2(null, 0)
    serve(Channel(end))


if __name__ == "__main__":
    main()
