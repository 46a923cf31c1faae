"""Several data sets as one, by the names of their classes; classes that are renamed, merged or left out."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from opendetr.data.index import OF_OBJECTS, DatasetIndex, LeftOut, Objects, Texts, Unused, id_array
from opendetr.labels import LabelMap
from opendetr.raw_values import RawId


def joined(parts: Sequence[DatasetIndex], new_names: Sequence[Sequence[str]]) -> DatasetIndex:
    """The pictures of all parts as one split.

    Ids of pictures, objects and classes stay, but for those that an earlier part has already: a class gets the next
    free number, and so does a picture or an object. A file that an earlier part lists is left out.

    Args:
        parts: the same split of every set.
        new_names: of every part, a name per class; classes of one name become one.
    """
    label_map = _joined_labels(parts, new_names)
    place = {name: index for index, name in enumerate(label_map.names)}
    repairs: Counter[str] = Counter()
    parts = _without_repeated_files([
        part.with_labels(label_map, np.array([place[name] for name in names]))
        for part, names in zip(parts, new_names)
    ])  # fmt: skip
    starts = np.cumsum([0, *map(len, parts)])
    every = [part.objects for part in parts]
    objects = Objects(
        np.concatenate([one.pictures + start for one, start in zip(every, starts)]),
        np.concatenate([one.labels for one in every]), np.concatenate([one.boxes_xywh for one in every]),
        np.concatenate([one.areas for one in every]), np.concatenate([one.reasons for one in every]),
        _distinct([one.ids for one in every], repairs, "object"),
    )  # fmt: skip
    for part in parts:
        repairs.update(part.repairs)
    return DatasetIndex(
        # Of one set it is its file; of several a text for messages, which is no place.
        parts[0].source if len(parts) == 1 else Path(" and ".join(str(part.source) for part in parts)),
        " and ".join(dict.fromkeys(part.layout for part in parts)), label_map,
        Texts(path for part in parts for path in part.paths),
        _distinct([part.image_ids for part in parts], repairs, "picture"),
        np.concatenate([part.sizes for part in parts]), objects,
        tuple(one for part in parts for one in part.left_out), dict(repairs),
        tuple(note for part in parts for note in part.notes), classes_by_name=True,
    )  # fmt: skip


def _joined_labels(parts: Sequence[DatasetIndex], new_names: Sequence[Sequence[str]]) -> LabelMap:
    """A class per name. Of classes that become one, the id of the one that had the name before counts."""
    id_of: dict[str, RawId] = {}
    for part, names in zip(parts, new_names):
        of_part = list(zip(part.label_map.category_ids, part.label_map.names, names))
        for category_id, _, name in sorted(of_part, key=lambda one: one[1] != one[2]):
            if category_id is not None and name not in id_of:
                taken = set(id_of.values())
                id_of[name] = _next_number(taken) if category_id in taken else category_id
    return LabelMap.from_categories([{"id": one, "name": name} for name, one in id_of.items()], str(parts[0].source))


def _next_number(taken: set[RawId]) -> int:
    return max((one for one in taken if isinstance(one, int)), default=0) + 1


def _without_repeated_files(parts: Sequence[DatasetIndex]) -> list[DatasetIndex]:
    """The parts without pictures whose file an earlier part has."""
    source_of: dict[str, object] = {}
    found = []
    for part in parts:
        repeated = [position for position, path in enumerate(part.paths) if path in source_of]
        if repeated:
            chosen = sorted(set(range(len(part))) - set(repeated))
            few = part.subset(chosen)
            sentences = [
                f"{part.source} lists {part.paths[at]}, and so does {source_of[part.paths[at]]}" for at in repeated
            ]
            pictures = [LeftOut("picture", Unused.LISTED_TWICE, sentence) for sentence in sentences]
            lost = np.flatnonzero(np.isin(part.objects.pictures, repeated)).tolist()
            objects = [
                LeftOut("object", Unused.LISTED_TWICE, f"{part.source}: annotation {part.objects.ids[number]}")
                for number in lost
            ]  # fmt: skip
            part = replace(few, left_out=(*part.left_out, *pictures, *objects), repairs=part.repairs)
        source_of |= {path: part.source for path in part.paths}
        found.append(part)
    return found


def _distinct(several: Sequence[np.ndarray], repairs: Counter[str], kind: str) -> np.ndarray:
    """Ids of all parts; one that an earlier part has becomes the next free number."""
    seen: set[RawId] = set()
    free = max((one for ids in several for one in ids.tolist() if isinstance(one, int)), default=0) + 1
    found: list[RawId] = []
    for ids in several:
        own: list[RawId] = ids.tolist()
        taken = [position for position, one in enumerate(own) if one in seen]
        for position in taken:
            own[position], free = free, free + 1
        if taken:
            repairs[f"{kind} with the id of one in another set: numbered anew"] += len(taken)
        seen.update(own)
        found += own
    return id_array(found)


def keep_classes(index: DatasetIndex, kept: set[str]) -> DatasetIndex:
    """The split with the classes of these names, of which it has at least one; objects of others are `NOT_ASKED`."""
    labels, one = index.label_map, index.objects
    chosen = [position for position, name in enumerate(labels.names) if name in kept]
    new = np.full(labels.num_classes, -1)
    new[chosen] = np.arange(len(chosen))
    reasons = (
        np.where(new[one.labels] < 0, OF_OBJECTS.index(Unused.NOT_ASKED), one.reasons) if len(one) else one.reasons
    )
    objects = Objects(one.pictures, one.labels, one.boxes_xywh, one.areas, reasons, one.ids)
    few = LabelMap(
        tuple(labels.category_ids[position] for position in chosen), tuple(labels.names[at] for at in chosen)
    )
    return replace(index, objects=objects).with_labels(few, new)
