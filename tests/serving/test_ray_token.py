"""Ray asks for the token of the folder that it was secured with last, whenever Ray was imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SECURED = """
import sys
from pathlib import Path
import ray
from ray._raylet import AuthenticationMode, AuthenticationTokenLoader, get_authentication_mode
from plasmid.coordinator.coordinator import secure_ray

assert get_authentication_mode() == AuthenticationMode.DISABLED
for folder in map(Path, sys.argv[1:]):
    folder.mkdir()
    secure_ray(folder)
    assert get_authentication_mode() == AuthenticationMode.TOKEN
    said = AuthenticationTokenLoader.instance().get_token_for_http_header()
    assert said == {"authorization": "Bearer " + (folder / "ray.token").read_text()}, folder.name
"""


def test_ray_that_was_imported_before_still_asks_for_the_token_and_for_the_latest(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SECURED, str(tmp_path / "one"), str(tmp_path / "two")]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=_plain())
    assert found.returncode == 0, found.stderr


def _plain() -> dict[str, str]:
    """Return this process's environment without what an earlier test has told Ray."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
