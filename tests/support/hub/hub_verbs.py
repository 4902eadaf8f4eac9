"""Every verb of a stock Hugging Face client, against the hub of HF_ENDPOINT; prints verb to outcome.

``python hub_verbs.py FOLDER`` runs beside any version of the client and imports nothing of ours.

    HF_ENDPOINT, HF_HOME           the hub, a home for the client
    HUB_TOKEN, HUB_READER          of ada, who administers; of bob, who may read
    HUB_CUTTING                    the hub behind a proxy that cuts answers with weights
    HUB_STRICT, HUB_STRICT_TOKEN   a hub that takes only small files inside a commit

An outcome is ``ok``, ``absent`` where this version has no such verb, or what failed.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from pathlib import Path

import hub_verbs_libraries
import hub_verbs_reading
import hub_verbs_refusals
import hub_verbs_writing
import huggingface_hub as hub
from hub_frame import VERBS, Absent

PARTS = (hub_verbs_writing, hub_verbs_reading, hub_verbs_refusals, hub_verbs_libraries)


def main(folder: str) -> None:
    outcomes = {}
    Path(folder).mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    for name, work in sorted(VERBS.items(), key=lambda one: PARTS.index(sys.modules[one[1].__module__])):
        print(name, time.time(), file=sys.stderr)
        try:
            work()
            outcomes[name] = "ok"
        except Absent:
            outcomes[name] = "absent"
        except BaseException as error:  # noqa: BLE001 - an outcome
            place = traceback.extract_tb(error.__traceback__)[-1]
            outcomes[name] = f"{type(error).__name__} {place.name}:{place.lineno} {str(error)[:600]}"
    print(json.dumps({"version": hub.__version__, "outcomes": outcomes}))


if __name__ == "__main__":
    if sys.argv[1] == "--large":
        hub_verbs_writing.large()
    else:
        main(sys.argv[1])
