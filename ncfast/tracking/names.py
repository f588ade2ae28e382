"""What the keys of a record begin with."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Warn = Callable[[str, str], None]


class Names:
    """Prefixes of keys; nothing that is measured in two ways has one name.

    Args:
        several: whether several layers are tracked, whose names then stand in the keys.
    """

    def __init__(self, several: bool) -> None:
        self._several = several
        self._found: dict[tuple[str, str, str], str] = {}
        self._owners: dict[str, str] = {}

    def prefix(self, kind: str, split: str, layer: str, warn: Warn) -> str:
        """First part of the keys: the first to measure a split has its plain name.

        Args:
            kind: "batch", "window", "ema" or "snapshot".
            split: as the user calls it.
            layer: its name; empty for features that were passed in.
            warn: told of a split that is measured both ways: what it is about, and a message.
        """
        key = kind, split, layer
        if key not in self._found:
            plain = f"{split}/{layer}" if self._several and layer else split
            self._found[key] = plain if self._owns(kind, split, warn) else f"{kind}/{plain}"
        return self._found[key]

    def known(self, kind: str, layers: Sequence[str]) -> set[str]:
        """All prefixes so far, and those that a step of "train" or a snapshot of "test" will have.

        Args:
            kind: what a step measures.
            layers: those that are tracked.
        """
        found = set(self._found.values())
        lead = "" if kind == "batch" else f"{kind}/"
        for layer in (*(layers if self._several else ()), ""):
            found |= {f"{split}/{layer}".rstrip("/") for split in (f"{lead}train", "test")}
        return found

    def _owns(self, kind: str, split: str, warn: Warn) -> bool:
        if kind not in ("batch", "snapshot"):  # an average always says so
            return False
        owner = self._owners.setdefault(split, kind)
        if owner != kind:
            warn(f"split {split}", _SHARED.format(split=split, owner=owner, kind=kind))
        return owner == kind


_SHARED = (
    "The keys {split}/... hold what {owner} measures, so those of the {kind} begin with "
    "{kind}/{split}/. Give one of them another split=."
)
