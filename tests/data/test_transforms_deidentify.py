"""Identifiers planted in generated notes are found, and little else; without a network, and in time."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from plasmid.data.transforms import _identifiers
from plasmid.data.transforms._identifiers import ENTITIES, finders
from plasmid.data.transforms.base import Place, load
from plasmid.data.transforms.deidentify import REGIONS, merged
from plasmid.recipes.columns import TextColumn

FIRST = ("Anna", "Jürgen", "Zoë", "Karl-Heinz", "Mehmet", "Olivia", "Seán", "Maria")
LAST = ("Meier", "Müller-Lüdenscheidt", "O'Brien", "Yılmaz", "Smith", "Özdemir", "Nguyen", "Weiß")  # noqa: RUF001
MONTHS = ("January", "March", "Mai", "Oktober", "December")

FILLER = (
    "Seit gestern Fieber bis 39.5, RR 120/80, Puls 72/min.",
    "Kalium 4.5 mmol/l, Kreatinin 1.2 mg/dl, Leukozyten 12.300/µl, CRP 0.5.",
    "Patient mit Diabetes mellitus Typ 2 (E11.9), z.B. Metformin 500 mg 1-0-1.",
    "No acute distress. EGFR p.L858R, NM_005228.5:c.2573T>G, CD4/CD8 ratio 1.4.",
    "Der Befund ist o.B.Die Lunge ist frei. HLA-A*02:01, TRBV5-1*01 CASSLGQAYEQYF.",
    "The patient was seen in the morning; see page 12, score 3/4, stage IIIA. May need O2.",
    "Troponin 14 ng/l (<14), 3 x 10^9/l, Dosis 2 x 500 mg, Zimmer 12, Bett 3.",
)


def planted(rng: random.Random) -> dict[str, str]:
    """Return an identifier of each kind, where ``|`` marks what must be replaced."""

    def digits(count: int) -> str:
        return "".join(rng.choices("0123456789", k=count))

    name = f"{rng.choice(FIRST)} {rng.choice(LAST)}"
    year, month, day = rng.randint(1930, 2025), rng.randint(1, 12), rng.randint(1, 28)
    account = digits(18)
    check = 98 - int(f"{account}131400") % 97
    card = "4" + digits(14)
    odd = sum(sum(divmod(2 * int(digit), 10)) for digit in card[::-1][::2])
    card += str(-(odd + sum(int(digit) for digit in card[::-1][1::2])) % 10)
    iban = f"DE{check:02}{account}"
    dates = (
        f"{year}-{month:02}-{day:02}", f"{day:02}.{month:02}.{year}", f"{month}/{day}/{year}",
        f"{day}. {rng.choice(MONTHS)} {year}", f"{rng.choice(MONTHS)} {day}, {year}",
    )  # fmt: skip
    phones = (
        f"+49 30 {rng.randint(2, 8)}{digits(6)}", f"030/{rng.randint(2, 8)}{digits(6)}",
        f"+44 20 7946 0{digits(3)}", f"(212) 5{rng.randint(20, 54)}-{digits(4)}",
    )  # fmt: skip
    return {
        "IBAN": f"Konto |{rng.choice([iban, ' '.join(iban[at : at + 4] for at in range(0, 22, 4))])}|.",
        "CREDIT_CARD": f"paid by |{card[:4]} {card[4:8]} {card[8:12]} {card[12:]}|",
        "NATIONAL_ID": rng.choice(["Karte |A123456780|", "NHS no: |943 476 5919|", "|15070649C103| (RV)"]),
        "RECORD_ID": f"{rng.choice(['MRN', 'Fallnummer', 'Patient ID', 'Case no.'])}: |{digits(8)}|",
        "EMAIL": f"mailto |{rng.choice('abc')}.{digits(3)}@klinik-{digits(2)}.{rng.choice(['de', 'local'])}|",
        "URL": f"siehe |{rng.choice(['https://', 'www.', ''])}portal{digits(3)}.org/p/{digits(5)}|",
        "IP": f"host |10.{rng.randint(0, 255)}.{rng.randint(0, 255)}.{rng.randint(1, 254)}|",
        "DATE": f"am |{rng.choice(dates)}|",
        "PHONE": f"Tel. |{rng.choice(phones)}|",
        "NAME": f"{rng.choice(['Herr', 'Frau', 'Dr.', 'Mrs.', 'Frau Prof. Dr. med.', 'Name:'])} |{name}|",
    }


def corpus(notes: int, seed: int = 1) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield notes, a third of them without identifiers, and the identifiers in them."""
    rng = random.Random(seed)
    for number in range(notes):
        parts = rng.sample(FILLER, 4)
        held = {}
        for entity in rng.sample(ENTITIES, 3) if number % 3 else ():
            before, held[entity], after = planted(rng)[entity].split("|")
            parts.insert(rng.randrange(len(parts) + 1), f"{before}{held[entity]}{after},")
        yield " ".join(parts), held


def deidentified(
    texts: list[str | None], folder: Path = Path(), **settings: Any
) -> tuple[list[str], dict[str, int]]:
    step = load("deidentify", {"columns": ["note"], **settings})
    step.prepare(Place({"note": TextColumn(type="text", max_length=500)}, None, folder, b""))
    return step.apply(pa.record_batch({"note": pa.array(texts)})).column("note").to_pylist(), step.counts()


def test_planted_identifiers_are_replaced_and_the_rest_stays() -> None:
    notes = list(corpus(180))
    after, counts = deidentified([text for text, _ in notes])
    held = dict.fromkeys(ENTITIES, 0)
    left = dict(held)
    for (_, planted_here), text in zip(notes, after, strict=True):
        for entity, identifier in planted_here.items():
            held[entity] += 1
            left[entity] += identifier in text
    assert min(held.values()) > 20
    assert left == dict.fromkeys(ENTITIES, 0)
    # Nothing beside: where nothing was planted, nothing changes; elsewhere one tag each.
    assert all(
        text == before for (before, planted_here), text in zip(notes, after, strict=True) if not planted_here
    )
    assert sum(counts[f"{entity} replaced"] for entity in ENTITIES) == sum(held.values())
    assert counts["texts"] == 180
    assert counts["texts changed"] == 120
    assert {entity: counts[f"{entity} replaced"] for entity in ENTITIES} == held


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("Frau Dr. med. Anna Meier, geb. 12.03.1950", "Frau Dr. med. <NAME>, geb. <DATE>"),
        ("Herr von der Heide klagt; MS Patient; Dr. med.", "Herr <NAME> klagt; MS Patient; Dr. med."),
        ("war.Der Befund, z.B. klinik.de/x?id=7", "war.Der Befund, z.B. <URL>"),
        ("Frau Mu\u0308ller kam.", "Frau <NAME> kam."),
        ("DE89 3704 0044 0532 0130 00 und weiter", "<IBAN> und weiter"),
        (
            "fe80::1 und 2021-03-04T10:15:00Z, 03/2021, am 3.4. wieder",
            "<IP> und <DATE>, <DATE>, am <DATE> wieder",
        ),
        ("tel (212) 555-2368 ext. 12; 2021 2345 678", "tel <PHONE>; 2021 2345 678"),
        ("Hr.Schulz, 20210312, 03-12-21, Mar 12th", "Hr.<NAME>, <DATE>, <DATE>, <DATE>"),
        ("Pat.Nr.: 00123456; Vers.-Nr. 12 150370 M 012", "Pat.Nr.: <RECORD_ID>; Vers.-Nr. <RECORD_ID>"),
        ("Anna kam ohne Titel.", "Anna kam ohne Titel."),
        ("", ""),
    ],
)
def test_examples(before: str, after: str) -> None:
    assert deidentified([before])[0] == [after]


def test_names_of_the_sites_list_and_chosen_kinds(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("Brown\nanna maria weiß\nAnna\n")
    texts = ["brown sugar; Brown, Anna-Lena, ANNA MARIA WEISS, Anna Maria Weiß; Tel 030 1234567", None]
    after, counts = deidentified(texts, tmp_path, names_file="names.txt", entities=["NAME"])
    assert after == ["brown sugar; <NAME>, Anna-Lena, <NAME>, <NAME>; Tel 030 1234567", None]
    assert counts == {"texts": 1, "texts changed": 1, "texts replaced as a whole": 0, "NAME replaced": 3}


def test_prefilters_change_no_result() -> None:
    rng = random.Random(2)
    notes = [text for text, _ in corpus(40, seed=3)]
    # Notes cut and mixed letter by letter, with what patterns look for.
    pieces = [
        "12",
        "3.4",
        "@",
        "::",
        "KVNR",
        "A12",
        "jan",
        "JAN-21",
        " x",
        "/",
        "-",
        "١٢٣",
        "\uff24",
        "\u017f",
        "+49",
        "(0",
    ]
    notes += ["".join(rng.choices([*pieces, *"0123456789 .:-"], k=30)) for _ in range(400)]
    for finder in finders(ENTITIES, REGIONS, {"Anna"}):
        passed = pc.match_substring_regex(pa.array(notes), finder.prefilter).to_pylist()
        missed = [note for note, may in zip(notes, passed, strict=True) if not may and any(finder.find(note))]
        assert missed == [], finder.entity


def test_nothing_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert deidentified(["a.b@klinik.example, www.klinik.example"])[0] == ["<EMAIL>, <URL>"]


def test_a_text_that_takes_too_long_is_replaced_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_identifiers, "PATTERN_LIMIT_S", 0.01)
    # The pattern of mail addresses takes time by the square of a word's length.
    after, counts = deidentified(["canary" * 20_000 + " @", "Frau Meier"], entities=["EMAIL", "NAME"])
    assert after == ["<TEXT>", "Frau <NAME>"]
    assert counts["texts replaced as a whole"] == 1


def test_presidio_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    from presidio_analyzer.predefined_recognizers import IbanRecognizer

    finders(["IBAN"], REGIONS, ())
    # It logs the text of what it cannot check.
    assert IbanRecognizer().validate_result("DE89 canary_") is False
    assert caplog.records == []


def test_overlapping_findings_are_one() -> None:
    assert merged([((5, 9), "DATE"), ((0, 6), "PHONE"), ((9, 10), "IP"), ((2, 3), "URL")]) == [
        ((0, 9), "PHONE"),
        ((9, 10), "IP"),
    ]
    assert merged([((0, 4), "IBAN"), ((0, 4), "PHONE"), ((2, 8), "DATE")]) == [((0, 8), "DATE")]
