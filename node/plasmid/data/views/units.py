"""Units of measure: from one UCUM unit to another, as ``value * factor + offset``.

Rules
-----
1. Only units decide: mg/dL becomes g/L. It doesn't become mmol/L, for that takes a molar mass, which a unit
   does not know; the owner's mapping gives ``factor`` there.
2. Factors are rounded to 15 digits, so that another release of pint gives the same rows.
3. pint and ucumvert are loaded where two different units meet, and nowhere else (1.4 s).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from plasmid.core.errors import DataError

_FAR = 1e6  # far enough that an offset of temperatures costs no digits of the factor


@lru_cache(maxsize=4096)
def conversion(from_ucum: str, to_ucum: str) -> tuple[float, float]:
    """Return ``(factor, offset)``: a value in *from_ucum* times factor plus offset is in *to_ucum*.

    Raises
    ------
    DataError
        ``data.unit_unconvertible``: one of them is no UCUM unit, or they measure different things.
    """
    if from_ucum == to_ucum:
        return 1.0, 0.0
    try:
        source, target = _registry().from_ucum(from_ucum), _registry().from_ucum(to_ucum)
        zero, far = (_convert(source, target, value) for value in (0.0, _FAR))
        factor = _convert(source, target, 1.0) if zero == 0 else (far - zero) / _FAR
    except ModuleNotFoundError:
        raise
    # pint and ucumvert raise half a dozen unrelated types, lark's among them
    except Exception:  # noqa: BLE001
        factor = None
    if factor is None:
        raise DataError(
            "data.unit_unconvertible",
            f"the unit {from_ucum!r} does not convert to {to_ucum!r}.",
            "Check that both are UCUM units; where a molar mass is needed (mg/dL to mmol/L), give factor in "
            "the view's mapping.",
        )
    return _rounded(factor), _rounded(zero)


def _convert(source: Any, target: Any, value: float) -> float:
    given = _registry().Quantity(value * source.magnitude, source.units)
    return float(given.to(target.units).magnitude / target.magnitude)


def _rounded(value: float) -> float:
    return float(f"{value:.15g}")


@lru_cache(maxsize=1)
def _registry() -> Any:
    from ucumvert import PintUcumRegistry  # see rule 3

    return PintUcumRegistry()
