"""What a site keeps for itself of a run: its personal tensors after each round, its own adapter at the end.

Rules
-----
1. Only this process writes here and reads from here, in ``personal/RUN``, for the site's user alone. Nothing
   here is part of anything that is sent.
2. The tensors of a round are on disk before what was trained with them leaves. A round begins with those of
   the newest round below it, whether the worker, the node or the attempt ended in between: an attempt that is
   made again begins as the first one did.
3. The log has what was kept before it is: names, shapes, sizes and a digest, never a value; of what the site
   finds out about itself (its gain), the figures.
4. It is kept as long as who was in the run (:mod:`plasmid.gateway.retention`), and forgotten with that.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plasmid.adapters.adapter import AdapterSchema, Vector
from plasmid.adapters.files import adapter_files, json_file
from plasmid.bases.store import BaseModel
from plasmid.core.canonical import sha256_hex
from plasmid.core.errors import ModelError, ProtocolError, StorageError, UsageError
from plasmid.core.files import folder_atomic, storage_error, write_atomic
from plasmid.gateway.contribution_entry import tensors
from plasmid.log.audit_log import AuditLog
from plasmid.protocol.body import pack, unpack
from plasmid.release.result import adapter_settings

SCHEMA = "plasmid-personal/1"
"""Of the provenance of a site's own adapter, by which it is told from one that may be handed on."""
_DTYPE = np.dtype("<f4")
_CARD = """# This site's own adapter of the run {run}

Trained by the recipe {name} on this site's rows, beside what all sites learned together. It stays here:
nobody else has seen it, and it holds what only this site's rows have taught it. Whoever hands it on gives
that away; no promise of the run covers it.

    plasmid predict personal:{run} --data rows.csv
"""


class Personal:
    """Everything that is kept in one folder, by run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def before(self, run: str, round_: int, schema: AdapterSchema) -> Vector | None:
        """Return the tensors that *round_* begins with, float32 [schema.size]; None where none were kept.

        Raises
        ------
        StorageError
            ``storage.personal_damaged``.
        """
        kept = [path for number, path in self._rounds(run) if number < round_]
        if not kept or not schema.tensors:
            return None
        try:
            return unpack(kept[-1].read_bytes(), "personal", length=schema.size, dtype=_DTYPE)
        except (OSError, ProtocolError):
            pass
        raise StorageError(
            "storage.personal_damaged",
            f"{kept[-1]} does not hold what this site kept for itself.",
            "Restore it from your backup, or forget it with 'plasmid site purge': it then starts anew.",
        )

    def keep(
        self, audit: AuditLog, run: str, round_: int, schema: AdapterSchema, values: NDArray[Any]
    ) -> None:
        """Keep the tensors *values* [schema.size] of *round_*, and of earlier rounds the newest.

        Raises
        ------
        StorageError
            It cannot be logged, or not be written.
        """
        body = pack("personal", np.asarray(values, _DTYPE))
        audit.write(
            "personal.kept",
            object=sha256_hex(body),
            run=run,
            round=round_,
            bytes=len(body),
            tensors=tensors(schema),
        )
        folder = self._made(run)
        write_atomic(folder / f"{round_:06}.safetensors", body, mode=0o600)
        earlier = [path for number, path in self._rounds(run) if number < round_]
        for path in earlier[:-1]:
            path.unlink(missing_ok=True)

    def finish(
        self,
        audit: AuditLog,
        run: str,
        document: Any,
        base: BaseModel,
        adapter: Vector,
        facts: Mapping[str, Any],
    ) -> Path:
        """Write the site's own *adapter*, float32 [adapter size], and return its folder.

        Parameters
        ----------
        facts
            What its provenance says beside the run.

        Raises
        ------
        StorageError
            As :meth:`keep`.
        ModelError
            ``model.not_finite``.
        """
        files = adapter_files(**adapter_settings(document, base, adapter))
        about = {"schema": SCHEMA, "run": run, "recipe": document.name, **facts}
        files["provenance.json"] = json_file(about)
        files["README.md"] = _CARD.format(run=run, name=document.name).encode()
        audit.write(
            "personal.adapter", object=sha256_hex(files["adapter_model.safetensors"]), run=run, **facts
        )
        folder = self._made(run) / "adapter"
        try:
            with folder_atomic(folder) as new:
                for name, content in files.items():
                    write_atomic(new / name, content, mode=0o600)
        except OSError as error:
            raise storage_error(error, folder) from error
        return folder

    def adapter(self, run: str) -> Path:
        """Return the folder of the site's own adapter of *run*.

        Raises
        ------
        ModelError
            ``model.no_personal``: there is none.
        UsageError
            ``usage.run``.
        """
        folder = self._path(run) / "adapter"
        if not (folder / "head.json").is_file():
            raise ModelError(
                "model.no_personal",
                f"this site keeps no adapter of its own of the run {run}.",
                f"It does of {', '.join(self.runs()) or 'none'}; recipes with personal parts or "
                "training.personal_steps leave one.",
            )
        return folder

    def steps(self, run: str) -> int | None:
        """Return how many steps the site's own adapter of *run* had after it; None where there is none."""
        try:
            return int(json.loads((self.adapter(run) / "provenance.json").read_bytes())["steps"])
        except (ModelError, OSError, ValueError, KeyError, TypeError):
            return None

    def runs(self) -> list[str]:
        """Return the runs of which there is an adapter of the site's own."""
        return sorted(path.parent.parent.name for path in self.folder.glob("*/adapter/head.json"))

    def tell(self, audit: AuditLog, run: str, name: str, found: Mapping[str, Any]) -> Path:
        """Log what this site has *found* out in *run* and write it to *name*.json, for its owner to see.

        Raises
        ------
        StorageError
            As :meth:`keep`.
        """
        audit.write(f"personal.{name}", run=run, **found)
        path = self._made(run) / f"{name}.json"
        write_atomic(path, json_file(found), mode=0o600)
        return path

    # -- retention ---------------------------------------------------------------------------------

    def knows(self, run: str) -> bool:
        """Return whether anything is kept of *run*. Raises UsageError (``usage.run``)."""
        return self._path(run).is_dir()

    def purge(self, run: str) -> bool:
        """Forget everything of *run*; return whether there was anything. Raises StorageError."""
        path = self._path(run)
        if not path.is_dir():
            return False
        try:
            shutil.rmtree(path)
        except OSError as error:
            raise storage_error(error, path) from error
        return True

    def expired(self, days: int, time: datetime) -> list[str]:
        """Return the runs of which nothing was written in the last *days* before *time*."""
        limit = (time - timedelta(days=days)).timestamp()
        return [
            path.name
            for path in sorted(self.folder.glob("*"))
            if max(one.stat().st_mtime for one in (path, *path.rglob("*"))) < limit
        ]

    def _rounds(self, run: str) -> Iterator[tuple[int, Path]]:
        """Yield what is kept, by round, in order."""
        for path in sorted(self._path(run).glob("*.safetensors")):
            if path.stem.isdigit():
                yield int(path.stem), path

    def _made(self, run: str) -> Path:
        path = self._path(run)
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise storage_error(error, path) from error
        return path

    def _path(self, run: str) -> Path:
        if not run.replace("-", "").isalnum():
            raise UsageError("usage.run", f"{run!r} is no run's id.", "'plasmid audit ls' names the runs.")
        return self.folder / run
