"""Differences of vectors in a merge: those of biases and norms. Each is multiplied by its layer's strength and added.

ComfyUI and Forge add ``diff`` and ``w_norm`` to a weight, ``diff_b`` and ``b_norm`` to a bias, times the strength of
the LoRA. PEFT multiplies ``lora_B.bias`` by the scale of its layer as well.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...errors import LayerError
from ...files.reader import SafeFile
from ...linalg.casts import LARGEST, UNIT_ROUNDOFF, Single, largest_magnitude, singles
from ..keys.suffixes import parse_key, suffix_of
from ..layer import Copied
from .common_names import CommonNames

_BIASES = ("diff_b", "up_bias", "b_norm")


@dataclass(frozen=True)
class VectorTerm:
    """The vector of one file."""

    copied: Copied
    file: SafeFile
    place: str
    """Place of its layer, see `common_names`."""
    weight: float

    @property
    def goal(self) -> tuple[str, bool]:
        """The layer that it changes, and whether it changes the bias."""
        return self.place, parse_key(self.copied.key).role in _BIASES

    @property
    def dtype(self) -> str:
        return self.file.header.entries[self.copied.key].dtype

    def values(self) -> Single:
        """Return the vector times its strength, float32. Raises LayerError for integers, NaN and infinities."""
        if self.dtype not in LARGEST:
            raise LayerError(f"{self.file.path}: {self.copied.key} has the dtype {self.dtype}, which cannot be scaled.")
        gain = 1.0 if self.copied.gain is None else self.copied.gain
        found = singles(self.file.bits(self.copied.key), self.dtype) * np.float32(gain * self.weight)
        if not np.isfinite(found).all():
            raise LayerError(f"{self.file.path}: {self.copied.key} holds NaN or infinite values.")
        return np.asarray(found, np.float32)


def summed_vectors(terms: Sequence[VectorTerm], names: CommonNames) -> tuple[list[Copied], list[str]]:
    """Return the sums, one for each weight and bias, and the keys of those that cancel."""
    goals: dict[tuple[str, bool], list[VectorTerm]] = {}
    for term in terms:
        rows = names.row_ranges.get(term.place)
        place = rows.whole if rows else term.place
        goals.setdefault((place, term.goal[1]), []).append(term)
    found, cancelled = [], []
    for (place, _), members in goals.items():
        sum_, rounding = _sum(members, names)
        key = _key(place, members, names)
        if len(members) > 1 and float(np.linalg.norm(sum_)) <= rounding:
            cancelled.append(key)
        else:
            why, dtype = members[0].copied.why, _dtype(members, sum_)
            found.append(Copied(key, why, parse_key(key).stem, gain=1.0, made=sum_, dtype=dtype))
    return found, cancelled


def _sum(members: Sequence[VectorTerm], names: CommonNames) -> tuple[Single, float]:
    """Return the sum, and the norm of the rounding errors of its terms."""
    values = [_in_whole(term, names) for term in members]
    for term, one in zip(members, values, strict=True):
        if one.size != values[0].size:
            raise LayerError(
                f"{term.file.path}: {term.copied.key} has {one.size} numbers and {members[0].copied.key} of "
                f"{members[0].file.path.name} has {values[0].size}; these LoRAs cannot be merged."
            )
    lengths = [
        UNIT_ROUNDOFF[term.dtype] * float(np.linalg.norm(one)) for term, one in zip(members, values, strict=True)
    ]
    return np.sum([one.reshape(values[0].shape) for one in values], axis=0, dtype=np.float32), math.hypot(*lengths)


def _in_whole(term: VectorTerm, names: CommonNames) -> Single:
    values, rows = term.values(), names.row_ranges.get(term.place)
    return values if rows is None else rows.placed(values.reshape(-1), term.copied.stem)


def _key(place: str, members: Sequence[VectorTerm], names: CommonNames) -> str:
    """Return the key: the suffix of the first file after the name of the layer in the result."""
    parted = parse_key(members[0].copied.key)
    stem = names.name(place)
    if stem == parted.stem and len({parse_key(term.copied.key).suffix for term in members}) == 1:
        return members[0].copied.key
    return stem + (suffix_of("diff_b") if parted.role == "up_bias" else parted.suffix)


def _dtype(members: Sequence[VectorTerm], values: Single) -> str:
    """Return the files' dtype if it has 16 bits and holds the sum, else float32."""
    kinds = {term.dtype for term in members} - {"F8_E4M3"} or {"F16"}
    kind = kinds.pop() if len(kinds) == 1 else "F32"
    return kind if kind in ("F16", "BF16") and largest_magnitude(values) <= LARGEST[kind] else "F32"


def vector_terms(
    copied: Sequence[Copied], files: Sequence[SafeFile], places: Mapping[str, str], weights: Mapping[str, float]
) -> Iterator[VectorTerm]:
    """Yield the vectors of one file, without those of strength 0. `places` and `weights` are by stem."""
    for one in copied:
        if one.is_vector and weights[one.stem]:
            yield VectorTerm(one, files[one.source], places[one.stem], weights[one.stem])
