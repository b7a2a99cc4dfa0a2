"""How many requests come, second by second."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Series = npt.NDArray[np.float64]
"""One value a second."""

DAY = 86_400


def day(peak: float) -> Series:
    """A day: a tenth of the peak at eight in the morning, more at lunch, all of it at eight in the evening."""
    hours = np.arange(DAY) / 3600
    main = (1 + np.cos((hours - 20) / 24 * 2 * np.pi)) / 2
    lunch = 0.35 * np.exp(-(((hours - 13) / 2) ** 2))
    curve = np.clip(main + lunch, 0, None)
    rate: Series = peak * (0.1 + 0.9 * (curve - curve.min()) / (curve.max() - curve.min()))
    return rate


def spike(peak: float, seconds: int = 3600, times: float = 5.0) -> Series:
    """An hour in which a fifth of the peak becomes all of it within ten seconds, for ten minutes."""
    moments = np.arange(seconds)
    return np.interp(moments, [0, 600, 610, 1200, 1260, seconds], [peak / times] * 2 + [peak] * 2 + [peak / times] * 2)


TRAFFIC: dict[str, Callable[[float], Series]] = {"day": day, "spike": spike}
