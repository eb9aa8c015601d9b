"""Dates and times as whole numbers of a stated unit since 1970-01-01, and back.

A column of dates is a column of whole units, so log p is a mass of each unit: of a day if all are days, of a second if some
are times to the second.  In another unit every row's number changes by the log of their ratio: P(day) ≈ 86 400 p(second).
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import numpy as np

from likeli.config import Configurable
from likeli.errors import InputError, require

Unit = Literal["D", "h", "m", "s", "ms", "us"]
UNITS: dict[Unit, str] = {"D": "days", "h": "hours", "m": "minutes", "s": "seconds", "ms": "milliseconds", "us": "microseconds"}
DATE = re.compile(r"(\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?)?)(Z|[+-](?:0\d|1[0-4]):?[0-5]\d)?")
FIRST, LAST = np.datetime64("0001-01-01", "us"), np.datetime64("9999-12-31T23:59:59.999999", "us")
FARTHEST = 2**53  # units from 1970 that float64 tells apart, which for microseconds are 285 years
RANGE = "a date from 0001-01-01 to 9999-12-31"


class Calendar(Configurable):
    """Dates from the year 1 to 9999 (in microseconds, from 1684 to 2255) as whole numbers of a unit since 1970-01-01, midnight.

    Arguments:
        unit: D (days), h, m, s, ms or us.
        zone: that times are shown in, such as `Europe/Rome` or `UTC+01:00`; they are counted in UTC then.  Empty for none.
    """

    def __init__(self, unit: Unit = "D", zone: str = "") -> None:
        self.unit, self.zone = unit, zone
        require(unit in UNITS, "unit", f"one of {', '.join(UNITS)}", unit)
        require(not zone or _known(zone), "zone", "a time zone such as UTC, Europe/Rome or UTC+01:00", zone)
        first, last = (int(t.astype(f"M8[{unit}]").astype(np.int64)) for t in (FIRST, LAST))
        self.low, self.high = max(first, -FARTHEST), min(last, FARTHEST)

    def __str__(self) -> str:
        return f"{UNITS[self.unit]} since 1970-01-01" + f" UTC, shown in {self.zone}" * bool(self.zone)

    @property
    def range(self) -> str:
        """The dates that it has, in words."""
        first, last = self.moments(np.array([self.low, self.high], np.float64)).astype("M8[D]")
        return f"a date from {first} to {last}"

    @classmethod
    def found(cls, moments: np.ndarray, zone: str = "") -> Calendar:
        """The coarsest unit of which all moments (n,) datetime64[us] are whole numbers."""
        seen = moments[~np.isnat(moments)]
        for unit in UNITS:
            if (seen.astype(f"M8[{unit}]") == seen).all():
                return cls(unit, zone)
        raise AssertionError("moments are whole microseconds")

    def encode(self, values: Any, what: str = "x") -> np.ndarray:
        """Dates, times or their texts as whole numbers of the unit, float64, NaN where missing.

        Raises:
            InputError: no dates, outside the calendar, finer than the unit, or with a zone where the column has none.
        """
        moments, zone = as_moments(values, what)
        gone = np.isnat(moments)
        expected = f"times with a zone, as {self.zone}" if self.zone else "times without a zone"
        require(gone.all() or bool(zone) == bool(self.zone), what, expected, zone or "none")
        finer = (moments.astype(f"M8[{self.unit}]") != moments) & ~gone
        _refuse(finer, moments, what, f"whole {UNITS[self.unit]}")
        return self.units(moments, what)

    def units(self, moments: np.ndarray, what: str = "x") -> np.ndarray:
        """datetime64 (n,) as whole numbers of the unit, float64, NaN where missing; what is finer is cut off.

        Raises:
            InputError: a date outside the calendar.
        """
        gone, x = np.isnat(moments), moments.astype(f"M8[{self.unit}]").astype(np.int64)
        _refuse(((x < self.low) | (x > self.high)) & ~gone, moments, what, self.range)
        return np.where(gone, np.nan, x.astype(np.float64))

    def moments(self, x: np.ndarray) -> np.ndarray:
        """Numbers of units (n,) as datetime64 of the unit, NaT where NaN; a fraction is rounded."""
        if x.dtype.kind == "M":
            return x.astype(f"M8[{self.unit}]")
        units = np.where(np.isnan(x), 0, x).round().clip(self.low, self.high).astype(np.int64).astype(f"M8[{self.unit}]")
        return np.where(np.isnan(x), np.datetime64("NaT"), units)

    def series(self, x: np.ndarray) -> Any:
        """Numbers of units, or datetime64 (n,), as a pandas Series of datetime64 in its zone."""
        import pandas

        fine = "s" if self.unit in ("D", "h", "m") else self.unit  # the units that pandas has
        dates = pandas.Series(self.moments(x).astype(f"M8[{fine}]"))
        return dates.dt.tz_localize("UTC").dt.tz_convert(self.zone) if self.zone else dates

    def texts(self, x: np.ndarray) -> list[str | None]:
        """Numbers of units (n,) as ISO 8601 writes them, None where missing."""
        precision = {"D": "days", "h": "minutes", "m": "minutes", "s": "seconds", "ms": "milliseconds", "us": "microseconds"}
        if not self.zone:
            unit = "m" if self.unit == "h" else self.unit
            return [None if np.isnat(t) else str(t) for t in self.moments(x).astype(f"M8[{unit}]")]
        spec = "minutes" if self.unit == "D" else precision[self.unit]
        return [None if t != t else t.isoformat(timespec=spec) for t in self.series(x)]


def _refuse(bad: np.ndarray, moments: np.ndarray, what: str, expected: str) -> None:
    if bad.any():
        row = int(bad.argmax())
        raise InputError(f"{what}: expected {expected}, got {moments[row]} at row {row}")


def _known(zone: str) -> bool:
    import pandas

    try:
        return str(pandas.DatetimeTZDtype(tz=zone).tz) == zone
    except Exception:  # pandas, zoneinfo and the system's files each refuse in their own way
        return False


def are_dates(texts: Iterable[str | None]) -> bool:
    """Whether most of the different texts are written as dates are, in ISO 8601."""
    known = {text for text in texts if text is not None}
    return 2 * sum(DATE.fullmatch(text) is not None for text in known) > len(known)


def as_moments(values: Any, what: str, place: Callable[[int], str] = "row {}".format) -> tuple[np.ndarray, str]:
    """Dates as (datetime64[us], the zone that they are shown in or nothing); with a zone they are in UTC.

    Arguments:
        values: a datetime64 array or pandas column, dates and times as Python has them, or texts; None, NaN or NaT is missing.
        what, place: how values and their rows are named in messages.

    Raises:
        InputError: no dates, outside the calendar, a zone in some rows only, or none that has a name.
    """
    zone = ""
    if hasattr(values, "dt") and getattr(values.dtype, "kind", "") == "M":
        if values.dt.tz is not None:
            zone, values = str(values.dt.tz), values.dt.tz_convert("UTC").dt.tz_localize(None)
            require(_known(zone), what, "a time zone with a name, such as UTC", zone)
        values = values.to_numpy()
    if getattr(values, "dtype", None) is not None and values.dtype.kind == "M":
        return _inside(values, what), zone
    given = [None if v is None or v != v else v for v in (values.tolist() if hasattr(values, "tolist") else values)]
    if any(isinstance(v, str) for v in given):
        return _parsed(given, what, place)
    odd = next((i for i, v in enumerate(given) if v is not None and not isinstance(v, datetime.date)), None)
    require(odd is None, what, "dates", f"{str(given[odd or 0])[:40]!r} at row {odd}")
    zoned = any(isinstance(v, datetime.datetime) and v.tzinfo for v in given)
    require(not zoned, what, "dates without a zone, or a column of datetime64 with one", "single times with a zone")
    return _inside(np.array(["NaT" if v is None else v for v in given], "M8[us]"), what), ""


def _inside(moments: np.ndarray, what: str) -> np.ndarray:
    """datetime64 of any unit as microseconds; what is finer is cut off."""
    years = moments.astype("M8[Y]").astype(np.int64) + 1970
    outside = ((years < 1) | (years > 9999)) & ~np.isnat(moments)
    _refuse(outside, moments, what, RANGE)
    return moments.astype("M8[us]")


def _parsed(texts: Sequence[Any], what: str, place: Callable[[int], str]) -> tuple[np.ndarray, str]:
    """Texts of dates, with one offset from UTC in every row or in none; where offsets differ the zone is UTC."""
    parts = [None if t is None else DATE.fullmatch(str(t).strip()) for t in texts]
    odd = next((i for i, (t, part) in enumerate(zip(texts, parts)) if t is not None and part is None), None)
    got = f"{str(texts[odd or 0])[:40]!r} at {place(odd or 0)}"
    require(odd is None, what, "dates such as 2020-12-31 or 2020-12-31T23:59:59", got)
    try:
        moments = np.array(["NaT" if part is None else part[1] for part in parts], "M8[us]")
    except ValueError as error:
        row = next(i for i, part in enumerate(parts) if part is not None and not _is_date(part[1]))
        raise InputError(f"{what}: expected {RANGE}, got {str(texts[row])[:40]!r} at {place(row)}") from error
    moments = _inside(moments, what)
    offsets = {part[2] for part in parts if part is not None}
    if offsets <= {None}:
        return moments, ""
    require(None not in offsets, what, "a time zone in every row or in none", "both")
    shift = {offset: _minutes(offset) for offset in offsets}
    late = np.array([0 if part is None else shift[part[2]] for part in parts], "m8[m]")
    same = len(set(shift.values())) == 1 and any(shift.values())
    sign, (hours, minutes) = ("-" if late.sum() < np.timedelta64(0) else "+"), divmod(abs(max(shift.values(), key=abs)), 60)
    return _inside(moments - late, what), f"UTC{sign}{hours:02}:{minutes:02}" if same else "UTC"


def _is_date(text: str) -> bool:
    try:
        np.datetime64(text)
    except ValueError:
        return False
    return True


def _minutes(offset: str) -> int:
    """The offset from UTC that `Z`, `+01:00` or `-0330` says."""
    hours, minutes = (0, 0) if offset == "Z" else (int(offset[1:3]), int(offset[-2:]))
    return (-1 if offset.startswith("-") else 1) * (60 * hours + minutes)
