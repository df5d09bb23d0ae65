"""How numbers are written: to the digits that their errors leave."""

from __future__ import annotations

__all__ = [
    "decimals",
    "given",
    "one_in",
    "probability",
    "probability_interval",
    "probability_with_error",
    "rounded",
    "scientific",
    "share",
    "short",
    "tick",
]

import math

SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
SMALL, LARGE = 1e-3, 1e7  # beyond these a number is written with a power of ten


def decimals(error: float) -> int:
    """Returns how many decimals show an error, and the value beside it, to its second significant digit.

    Example:
        >>> decimals(0.24), decimals(0.0021), decimals(130.0)
        (2, 4, 0)
    """
    usable = math.isfinite(error) and error != 0
    return min(max(1 - math.floor(math.log10(abs(error))), 0), 6) if usable else 2


def probability(value: float, error: float = math.nan) -> str:
    """Writes a probability in percent, or with a power of ten where it is small.

    Arguments:
        value: The probability.
        error: Its standard error, which says how many digits are shown; without one there are two or three.

    Example:
        >>> probability(0.12345, 0.002), probability(3.19e-5, 1e-7), probability(0.5)
        ('12.35%', '3.190×10⁻⁵', '50%')
    """
    if value < SMALL or not math.isfinite(value):
        return scientific(value, error)
    usable = math.isfinite(error) and error > 0
    digits = decimals(100 * (error if usable else min(value, 1 - value) / 2))
    return "100%" if value == 1 else f"{100 * value:.{digits}f}%"


def probability_interval(low: float, high: float, error: float = math.nan) -> str:
    """Writes the two ends of an interval of a probability in one manner.

    Example:
        >>> probability_interval(9.1e-4, 0.00163, 2e-4), probability_interval(0.0, 3.69e-5)
        ('0.091% to 0.163%', '0 to 3.69×10⁻⁵')
    """
    if high < SMALL:
        return f"{scientific(low, error)} to {scientific(high, error)}"
    usable = math.isfinite(error) and error > 0
    digits = decimals(100 * (error if usable else high - low))
    ends = ["0" if low == 0 else f"{100 * low:.{digits}f}%", "100%" if high == 1 else f"{100 * high:.{digits}f}%"]
    return " to ".join(ends)


def probability_with_error(value: float, error: float) -> str:
    """Writes a probability and its standard error, both in percent or both with one power of ten.

    Example:
        >>> probability_with_error(0.12345, 0.002), probability_with_error(3.19e-5, 1e-7)
        ('12.35% ± 0.20%', '(3.190 ± 0.010)×10⁻⁵')
    """
    if not (math.isfinite(error) and error > 0) or value == 0:
        return probability(value)
    if value >= SMALL:
        return f"{probability(value, error)} ± {100 * error:.{decimals(100 * error)}f}%"
    mantissa, power = scientific(value, error).split("×10")
    digits = len(mantissa.partition(".")[2])
    scaled = error * float(mantissa) / value
    return f"({mantissa} ± {scaled:.{digits}f})×10{power}"


def one_in(value: float) -> str:
    """Writes a probability as a number of projects, or of whatever may happen to one of many.

    Example:
        >>> one_in(3.19e-5), one_in(0.42), one_in(1.0), one_in(0.0)
        ('1 in 31,300', '42 in 100', '100 in 100', '0')
    """
    if not 0 < value <= 0.1:
        return "0" if value == 0 else f"{share(value).rstrip('%')} in 100"
    number = 1 / value
    return f"1 in {round(number, 2 - _exponent(number)):,.0f}" if number < 1e9 else f"1 in {scientific(number)}"


def scientific(value: float, error: float = math.nan) -> str:
    """Writes a number with a power of ten where it is small or large.

    Arguments:
        value: The number.
        error: Its standard error, which says how many digits are shown; without one there are three.

    Example:
        >>> scientific(1234.5), scientific(3.19e-5), scientific(-2e9, 1e7)
        ('1,234', '3.19×10⁻⁵', '−2.000×10⁹')
    """
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else "undefined" if math.isnan(value) else "∞" if value > 0 else "−∞"
    usable = math.isfinite(error) and error > 0
    if SMALL <= abs(value) < LARGE:
        return rounded(value, error if usable else abs(value) / 10)
    digits = min(max(_exponent(value) - _exponent(error) + 1, 1), 6) if usable else 2
    mantissa, exponent = f"{value:.{digits}e}".split("e")
    return f"{mantissa}×10{str(int(exponent)).translate(SUPERSCRIPTS)}".replace("-", "−")


def given(value: float) -> str:
    """Writes a number as a person gave it.

    Example:
        >>> given(70.0), given(1234.5678)
        ('70', '1,234.5678')
    """
    return f"{value:,.10g}".replace("-", "−")


def short(value: float) -> str:
    """Writes a number to three digits, without zeros at the end.

    Example:
        >>> short(4.0), short(2.333333), short(1500.0)
        ('4', '2.33', '1,500')
    """
    text = scientific(value)
    return text.rstrip("0").rstrip(".") if "." in text and "×" not in text else text


def tick(value: float, largest: float) -> str:
    """Writes a number at an axis, with a power of ten where the axis is of small or large numbers.

    Arguments:
        value: The number.
        largest: The largest absolute number of the axis; of a logarithmic axis the number itself.

    Example:
        >>> tick(2e-5, 3e-5), tick(1e-5, 1e-5), tick(0.0005, 0.002), tick(-3.0, 5.0)
        ('2×10⁻⁵', '10⁻⁵', '0.0005', '−3')
    """
    if value == 0 or SMALL <= largest < LARGE:
        return f"{value:,.6g}".replace("-", "−")
    exponent = _exponent(value * (1 + 1e-12))
    mantissa = f"{value / 10.0**exponent:.4g}×".replace("-", "−")
    return ("" if mantissa == "1×" else mantissa) + f"10{str(exponent).translate(SUPERSCRIPTS)}"


def share(value: float) -> str:
    """Writes a share in whole percent, where only nothing is 0% and only everything is 100%.

    Example:
        >>> share(0.003), share(0.42), share(0.999), share(1.0)
        ('<1%', '42%', '>99%', '100%')
    """
    if 0 < value < 0.005:
        return "<1%"
    return ">99%" if 0.995 <= value < 1 else f"{value:.0%}"


def rounded(value: float, error: float) -> str:
    """Writes a number to the second significant digit of its error.

    Example:
        >>> rounded(-17.412, 0.31)
        '−17.41'
    """
    return f"{value:,.{decimals(error)}f}".replace("-", "−")


def _exponent(value: float) -> int:
    return math.floor(math.log10(abs(value)))
