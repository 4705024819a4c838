"""The frequencies that a spectral window spans."""

from __future__ import annotations

from dataclasses import dataclass

from surgeline.context.records import SpectralWindow


@dataclass(frozen=True)
class FrequencyRange:
    """The edges of a spectral window in Hz, and how many channels lie between them."""

    low: float
    high: float
    channels: int

    @property
    def bandwidth(self) -> float:
        return self.high - self.low

    @property
    def channel_width(self) -> float:
        return self.bandwidth / self.channels


def frequency_range(window: SpectralWindow) -> FrequencyRange:
    """The edges of a spectral window, lower first.

    The reference frequency of an `Observation` is the centre of channel n/2 of n, rounded down and counted from 0. Of
    an odd number of channels that is the middle of the window; of an even number it lies half a channel beyond, in
    the direction of channels, that is below where the channel width is negative.
    """
    beyond = window.channel_width / 2.0 if window.channels % 2 == 0 else 0.0
    middle = window.reference_frequency - beyond
    half = abs(window.bandwidth) / 2.0
    return FrequencyRange(middle - half, middle + half, window.channels)
