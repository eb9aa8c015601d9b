"""Dates are whole numbers of a unit, as `datetime` counts them, and come back as dates; what is no date is refused by name."""

import datetime
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest
import torch

import likeli
from likeli.config import build, describe
from likeli.errors import InputError
from likeli.spaces.dates import Calendar, as_moments

N = 400
RNG = np.random.default_rng(0)
DAYS = pd.Series(pd.Timestamp("2019-03-01") + pd.to_timedelta(RNG.integers(0, 900, N), "D"))
TIMES = pd.Series(pd.Timestamp("2020-01-01") + pd.to_timedelta(RNG.integers(0, 10**8, N), "s"))
X = RNG.normal(size=N)


def frame(**columns):
    return pd.DataFrame({**columns, "x": X, "c": RNG.choice(["u", "v"], N)})


def test_days_are_those_of_datetime():
    """date.toordinal counts days from 0001-01-01 as 1, and 1970-01-01 is the 719 163rd."""
    given = [datetime.date(1, 1, 1), datetime.date(1582, 10, 10), datetime.date(2024, 2, 29), None, datetime.date(9999, 12, 31)]
    x = Calendar("D").encode(given)
    assert np.isnan(x[3])
    assert x[[0, 1, 2, 4]].tolist() == [d.toordinal() - 719163 for d in given if d is not None]
    assert (x[0], x[4]) == (Calendar("D").low, Calendar("D").high)
    assert Calendar("D").texts(x) == [None if d is None else d.isoformat() for d in given]


@pytest.mark.parametrize("zone", ["UTC", "Europe/Rome", "America/St_Johns"])
def test_times_are_those_of_zoneinfo(zone):
    """Seconds since 1970-01-01 UTC as `datetime.timestamp` gives them, on both sides of a change of the clock."""
    given = [datetime.datetime(2021, month, 1, 7, 30, tzinfo=ZoneInfo(zone)) for month in (1, 7)]
    column = pd.Series(pd.DatetimeIndex(given))
    calendar = Calendar("s", zone)
    assert calendar.encode(column).tolist() == [t.timestamp() for t in given]
    assert calendar.series(calendar.encode(column)).tolist() == column.tolist()
    counted = as_moments([t.isoformat() for t in given], "d")[0]
    assert counted.tolist() == [t.astimezone(datetime.UTC).replace(tzinfo=None) for t in given]


@pytest.mark.parametrize("unit, times", [
    ("D", ["2020-01-01", "2020-05-04"]), ("h", ["2020-01-01T05:00", "2020-01-01"]), ("m", ["2020-01-01T05:01"]),
    ("s", ["2020-01-01 05:01:02"]), ("ms", ["2020-01-01T05:01:02.250"]), ("us", ["2020-01-01T05:01:02.250001"]),
])  # fmt: skip
def test_the_unit_is_the_coarsest_that_holds_all(unit, times):
    moments, zone = as_moments([*times, None], "d")
    calendar = Calendar.found(moments, zone)
    assert (calendar.unit, calendar.zone) == (unit, "")
    written = calendar.texts(calendar.encode([*times, None]))
    assert as_moments(written, "d")[0].astype(int).tolist() == moments.astype(int).tolist()
    assert build(describe(calendar), Calendar).unit == unit


@pytest.mark.parametrize("dates", ["days", "times", "with gaps", "with a zone", "as objects", "before 1970"])
def test_every_reader_ends_in_the_same_dates_and_gives_them_back(dates, tmp_path):
    column = {
        "days": DAYS, "times": TIMES, "with gaps": DAYS.mask(np.arange(N) % 5 == 0), "as objects": DAYS.dt.date,
        "with a zone": TIMES.dt.tz_localize("UTC"), "before 1970": DAYS.dt.as_unit("s") - np.timedelta64(365 * 900, "D"),
    }[dates]  # fmt: skip
    given = frame(d=column)
    given.to_csv(tmp_path / "t.csv", index=False)
    given.to_parquet(tmp_path / "t.parquet")
    read = [likeli.load_data(source) for source in (given, tmp_path / "t.csv", tmp_path / "t.parquet")]
    for data in read:
        assert data.space.columns[0].type == "date"
        assert torch.equal(data.x[:, 0].nan_to_num(-1), read[0].x[:, 0].nan_to_num(-1))
        assert any("column d: dates were taken as whole" in w and "since 1970-01-01" in w for w in data.warnings)
        back = data.space.frame(data.x)
        assert back["d"].isna().tolist() == column.isna().tolist()
        assert (back["d"].dropna() == pd.to_datetime(column.dropna())).all()
        assert torch.equal(data.space.check(back, missing=True).nan_to_num(-1), data.x.nan_to_num(-1))
        assert torch.equal(data.space.check(data.space.decode(data.x), missing=True).nan_to_num(-1), data.x.nan_to_num(-1))


def test_the_mass_of_the_calendar_is_one_but_for_the_tails():
    """Σ P(day) over the years 1 to 9999; what is missing lies beyond, where P(further than y) = tail/(1 + y/span)."""
    data = likeli.load_data(frame(d=DAYS))
    column = data.space.columns[0]
    days = torch.arange(column.calendar.low, column.calendar.high + 1, dtype=torch.float64)
    coding = likeli.spaces.Table((column,)).coding
    log_mass = coding.mass[0].log()[coding.symbols(days[:, None])[:, 0]] + coding.log_within(days[:, None])[:, 0]
    span = coding.span[0].item()
    ends = [column.marginal.low[0] - column.calendar.low, column.calendar.high - column.marginal.high[-1]]
    beyond = sum(column.marginal.escape / 2 / (1 + y / span) for y in ends)
    assert 0 < beyond < 1e-4
    assert log_mass.exp().sum().item() == pytest.approx(1 - beyond, abs=1e-9)


@pytest.mark.parametrize("family", ["vae", "gmm", "independent", "categorical_mixture", "autoregressive", "flow"])
def test_samples_are_dates_of_the_calendar(family):
    data = likeli.load_data(frame(d=DAYS, t=TIMES))
    model = _family(family)(data.space)
    likeli.fit(model, data, steps=30, progress=False)
    drawn = data.space.frame(model.sample(50))
    assert drawn["d"].dtype.kind == drawn["t"].dtype.kind == "M"
    assert (drawn["d"] == drawn["d"].dt.floor("D")).all()
    assert abs(drawn["d"].mean() - DAYS.mean()) < pd.Timedelta(days=300)  # 8 s.e. of 50 draws over 900 days
    assert model.log_likelihood(data.split("test")[0][:5]).value.isfinite().all()


def _family(name):
    from likeli.models import families

    return families()[name]


def test_missing_dates_are_imputed_as_dates():
    data = likeli.load_data(frame(d=DAYS, t=TIMES))
    model = _family("gmm")(data.space)
    likeli.fit(model, data, steps=5, progress=False)
    given = frame(d=DAYS, t=TIMES.dt.strftime("%Y-%m-%d %H:%M:%S")).head(4)
    given.loc[[1, 2], "d"] = pd.NaT
    given.loc[3, "t"] = None
    found = likeli.impute(model, given, 39)
    assert found.mean["d"].dtype == given["d"].dtype and found.mean["d"].notna().all()
    assert pd.Timestamp(found.mean.loc[3, "t"]) > pd.Timestamp("2019-01-01")
    cells = found.cells()
    assert cells["column"].tolist() == ["d", "d", "t"]
    assert all(low <= value <= high for low, value, high in zip(cells["low"], cells["value"], cells["high"]))


@pytest.mark.parametrize("column, pattern", [
    (["2021-02-30"] + ["2021-02-28"] * (N - 1), "column d: expected a date from 0001-01-01 to 9999-12-31, got '2021-02-30' at"),
    (["01/02/2021"] + list(DAYS.astype(str)[1:]), "column d: expected dates .*in categorical, got '01/02/2021' at row 0"),
    (["0000-01-01"] + ["2021-02-28"] * (N - 1), "column d: expected a date from 0001-01-01 to 9999-12-31, got 0000-01-01"),
    (["2021-02-01T00:00Z"] + ["2021-02-28"] * (N - 1), "column d: expected a time zone in every row or in none, got both"),
    (np.array([12_000 - 1970] * N, "M8[Y]").astype("M8[s]"), "column d: expected a date from 0001-01-01 to 9999-12-31"),
    ([datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)] * (N - 1) + [None], None),
    ([datetime.date(2020, 1, 1)] * (N - 1) + [3.5], "column d: expected dates, got '3.5' at row 399"),
    (pd.Series(pd.NaT, range(N), "datetime64[s]"), "column d: expected at least one value, got missing cells only"),
    (pd.to_timedelta(np.arange(N), "s"), "column d.*time spans"),
])  # fmt: skip
def test_what_is_no_date_is_refused_in_one_line(column, pattern):
    if pattern is None:
        assert likeli.load_data(frame(d=pd.Series(column))).space.columns[0].calendar.zone == "UTC"
        return
    with pytest.raises(InputError, match=pattern) as caught:
        likeli.load_data(frame(d=column))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("date, pattern", [
    (["2021-02-20T05:00"], "column d: expected whole days, got 2021-02-20T05:00"),
    (["2021-02-20T00:00Z"], "column d: expected times without a zone, got UTC"),
    (["Monday"], "column d: expected dates such as 2020-12-31"),
    ([18_000], "column d: expected dates, got '18000' at row 0"),
])  # fmt: skip
def test_rows_for_a_fitted_space_must_be_its_dates(date, pattern):
    space = likeli.load_data(frame(d=DAYS)).space
    with pytest.raises(InputError, match=pattern):
        space.check(pd.DataFrame({"d": date, "x": [0.0], "c": ["u"]}))
    with pytest.raises(InputError, match="a date from 0001-01-01 to 9999-12-31 in days since 1970-01-01, got 1e\\+07"):
        space.check(torch.tensor([[1e7, 0.0, 0.0]]))


def test_dates_that_are_names_stay_names():
    data = likeli.load_data(frame(d=pd.Series(RNG.choice(["2020-01-01", "2021-01-01"], N))), categorical=("d",))
    assert data.space.columns[0].categories == ("2020-01-01", "2021-01-01")
    data = likeli.load_data(frame(d=DAYS), labels="d")
    assert data.condition.names[0] == str(DAYS.min().date())


@pytest.mark.parametrize("make, pattern", [
    (lambda: Calendar("Y"), "unit: expected one of D, h"),
    (lambda: Calendar("D", "Atlantis"), "zone: expected a time zone"),
    (lambda: likeli.spaces.Column("d", "real", calendar=Calendar()), "a calendar only of dates"),
])  # fmt: skip
def test_calendars_are_checked(make, pattern):
    with pytest.raises(InputError, match=pattern):
        make()
