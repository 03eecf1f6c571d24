"""A weighted mixture of streams, by tokens: at any moment each stream has given its share, to within a document.

No dice: the next document comes from the stream that lags its weight most. So a mixture has no seed and is the same on
every machine, and shares hold even over short runs, where drawing at random would drift.
"""
from __future__ import annotations

from collections.abc import Mapping

from doran.base.errors import ConfigError, DataError
from doran.data.corpus import Document, State, Stream


class Mixture:
    """Streams by name and their shares of the tokens (any positive numbers). It ends when one of its streams does."""

    def __init__(self, streams: Mapping[str, Stream], weights: Mapping[str, float]) -> None:
        if set(streams) != set(weights) or not streams:
            message = f"mixture: streams {sorted(streams)} but weights for {sorted(weights)}"
            raise ConfigError(message, hint="give each stream one weight")
        for name, weight in weights.items():
            if not 0 < weight < float("inf"):
                raise ConfigError(f"mixture: the weight of {name} is {weight}", hint="use a positive number")
        self._streams, self._weights = dict(streams), dict(weights)
        self._taken = dict.fromkeys(sorted(streams), 0)

    def next(self) -> Document:
        """A document of the stream with the fewest tokens for its weight (names break ties)."""
        name = min(self._taken, key=lambda name: (self._taken[name] / self._weights[name], name))
        document = self._streams[name].next()
        self._taken[name] += len(document.ids)
        return document

    @property
    def taken(self) -> dict[str, int]:
        """Tokens that came from each stream so far."""
        return dict(self._taken)

    def state(self) -> State:
        """Tokens taken and each stream's own position."""
        return {"taken": self.taken, "streams": {name: self._streams[name].state() for name in self._taken}}

    def load_state(self, state: State) -> None:
        """Go to a position; DataError where the mixture has other streams now."""
        if set(state["taken"]) != set(self._taken):
            raise DataError(
                f"mixture: the run began with {sorted(state['taken'])}, now it is {sorted(self._taken)}",
                hint="restore the mixture, or start a new run",
            )
        self._taken = {name: state["taken"][name] for name in self._taken}
        for name, stream in self._streams.items():
            stream.load_state(state["streams"][name])
