"""What device time costs at an experiment's prices, and how both are shown."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from semigrid.data.plausible import DeviceSeconds


@dataclass(frozen=True)
class Bill:
    """Device-seconds and their price; ``unpriced`` are the kinds without a price in the file."""

    device_seconds: DeviceSeconds
    price: float
    unpriced: list[str] = field(default_factory=list)


def bill(device_seconds: DeviceSeconds, prices: Mapping[str, float]) -> Bill:
    """The price at the file's prices per device-hour."""
    price = sum(s / 3600 * prices.get(kind, 0.0) for kind, s in device_seconds.items())
    return Bill(device_seconds, price, [kind for kind in device_seconds if kind not in prices])


def show_bill(device_seconds: DeviceSeconds, prices: Mapping[str, float]) -> str:
    """``12.3 h of NVIDIA A10G, 0.4 h of CPU cores, price 14.78``."""
    hours = ", ".join(
        f"{show_hours(seconds)} of {device_name(kind)}"
        for kind, seconds in sorted(device_seconds.items())
    )
    if not hours:
        return "nothing"
    if not prices:
        return hours
    priced = bill(device_seconds, prices)
    unpriced = ", ".join(priced.unpriced)
    if len(priced.unpriced) == len(device_seconds):
        return f"{hours} (no price for {unpriced})"
    missing = f" without {unpriced}" if unpriced else ""
    return f"{hours}, price {show_price(priced.price)}{missing}"


def show_price(price: float) -> str:
    return f"{price:,.2f}" if price >= 0.095 or price == 0 else f"{price:.2g}"


def show_hours(seconds: float) -> str:
    """``310 h``, ``1.2 h``, ``4.5 min``, ``12 s``."""
    hours = seconds / 3600
    if hours >= 1:
        return f"{hours:,.0f} h" if hours >= 99.5 else f"{hours:.1f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.0f} s"


def device_name(kind: str) -> str:
    return "CPU cores" if kind == "cpu" else kind
