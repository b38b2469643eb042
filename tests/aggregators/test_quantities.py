"""Which numbers with units are the same one."""

from __future__ import annotations

import pytest
import scipy.constants
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregators.quantities import quantity_key, unit_named


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("3 km", "3000 m"),
        ("3,000 metres", "3 kilometers."),
        ("three km", "3 km"),
        ("1 h 30 min", "90 minutes"),
        ("1 hour and 30 minutes", "1.5 hours"),
        ("1/2 hour", "30 min"),
        ("5 ft 3 in", "63 inches"),
        ("$5", "5 dollars"),
        ("$3 million", "3,000,000 USD"),
        ("-$5", "-5 dollars"),
        ("5 %", "5 per cent"),
        ("100 °C", "212 degrees Fahrenheit"),
        ("0 celsius", "273.15 K"),
        ("36 km/h", "10 metres per second"),
        ("10 m s^-1", "10 m/s"),
        ("9.8 m/s²", "9.8 metres per second squared"),
        ("2 m2", "20000 cm²"),
        ("2 square metres", "2 m^2"),
        ("1 kWh", "3.6 MJ"),
        ("1 N m", "1 J"),
        ("2 years", "24 months"),
        ("8 bits", "1 byte"),
        ("1e3 m", "1 × 10^3 m"),
        ("twelve", "12.0"),
    ],
)
def test_the_same_quantity_has_the_same_key(a, b):
    assert quantity_key(a) == quantity_key(b) is not None


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("3 km", "3 m"),
        ("5 mW", "5 MW"),
        ("5 %", "5"),
        ("5 %", "0.05"),
        ("5 euros", "5 dollars"),
        ("3 km", "3"),
        ("100 °C", "100 °F"),
        ("1 year", "365 days"),
        ("5 m", "5 min"),
        ("2 m", "2 m^2"),
        ("1 m/s", "1 m s"),
    ],
)
def test_another_quantity_has_another_key(a, b):
    assert None not in (quantity_key(a), quantity_key(b))
    assert quantity_key(a) != quantity_key(b)


NO_QUANTITIES = (
    *("", "no", "about 3 km", "3 km away", "12 apples", "12,5", "007", "3-5 km", "5 m 30 s", "3.10.2", "12:30", "5K"),
    *("$5 km", "20 °C 5 °C", "5 km/h/s", "5 per m", "3 5", "x = 5", "5 square", "5 squared", "1 min 2 h", "9" * 90),
)


@pytest.mark.parametrize("text", NO_QUANTITIES)
def test_what_holds_a_word_besides_or_is_in_doubt_is_none(text):
    assert quantity_key(text) is None


ORACLE = {
    "inch": scipy.constants.inch,
    "ft": scipy.constants.foot,
    "yard": scipy.constants.yard,
    "miles": scipy.constants.mile,
    "lb": scipy.constants.lb,
    "oz": scipy.constants.oz,
    "acre": scipy.constants.acre,
    "ha": scipy.constants.hectare,
    "mph": scipy.constants.mph,
    "km/h": scipy.constants.kmh,
    "knots": scipy.constants.knot,
    "atm": scipy.constants.atm,
    "bar": scipy.constants.bar,
    "eV": scipy.constants.eV,
    "litre": scipy.constants.liter,
    "kcal": 1000 * scipy.constants.calorie,
    "hour": scipy.constants.hour,
    "week": scipy.constants.week,
    "GiB": 8 * scipy.constants.gibi,
    "µm": scipy.constants.micro,
    "nF": None,
}


@pytest.mark.parametrize("name", ORACLE)
def test_factors_are_those_of_scipy(name):
    unit = unit_named(name)
    if ORACLE[name] is None:
        assert unit is None
    else:
        assert float(unit.factor) == pytest.approx(ORACLE[name], rel=1e-12)


@settings(deadline=None)
@given(
    st.integers(-(10**9), 10**9), st.sampled_from([("km", "m", 3), ("kg", "g", 3), ("MW", "kW", 3), ("GB", "MB", 3)])
)
def test_a_thousand_of_the_smaller_unit_is_one_of_the_larger(count, units):
    larger, smaller, power = units
    assert quantity_key(f"{count} {larger}") == quantity_key(f"{count * 10**power} {smaller}")


@settings(deadline=None)
@given(st.text(max_size=70))
def test_no_text_breaks_it(text):
    key = quantity_key(text)
    assert key is None or key.startswith("= ")
