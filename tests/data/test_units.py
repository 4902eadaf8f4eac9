"""Units convert by factor and offset, or say that they don't."""

from __future__ import annotations

import subprocess
import sys

import pytest

from plasmid.core.errors import DataError
from plasmid.data.views.units import conversion


@pytest.mark.parametrize(
    ("source", "target", "factor", "offset"),
    [
        ("mg/dL", "g/L", 0.01, 0.0),
        ("umol/L", "mmol/L", 0.001, 0.0),
        ("10*9/L", "10*3/uL", 1.0, 0.0),
        ("[lb_av]", "kg", 0.45359237, 0.0),
        ("%", "1", 0.01, 0.0),
        ("Cel", "K", 1.0, 273.15),
        ("no unit at all", "no unit at all", 1.0, 0.0),
    ],
)
def test_a_value_times_factor_plus_offset_is_in_the_other_unit(
    source: str, target: str, factor: float, offset: float
) -> None:
    assert conversion(source, target) == (factor, offset)


def test_a_fever_is_a_fever() -> None:
    factor, offset = conversion("[degF]", "Cel")
    assert 100.4 * factor + offset == pytest.approx(38.0, abs=1e-9)


@pytest.mark.parametrize(
    ("source", "target"), [("mg/dL", "mmol/L"), ("foo", "g"), ("g", ""), ("'; --", "kg")]
)
def test_what_does_not_convert_says_so(source: str, target: str) -> None:
    with pytest.raises(DataError) as caught:
        conversion(source, target)
    assert caught.value.code == "data.unit_unconvertible"
    assert repr(source) in caught.value.message
    assert "factor" in caught.value.hint


def test_equal_units_need_no_table_of_units() -> None:
    code = (
        "import sys; from plasmid.data.views.units import conversion; conversion('kg', 'kg'); "
        "assert not {'pint', 'ucumvert'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})
