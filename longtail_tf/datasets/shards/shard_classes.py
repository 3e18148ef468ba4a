"""The classes of many shards, gathered shard by shard, so that no shard's texts are kept twice."""

from __future__ import annotations

import numpy as np

from longtail_tf.datasets.shards.shard_index import NO_LABEL, ShardIndex
from longtail_tf.datasets.string_table import StringTable
from longtail_tf.errors import UserError


class ShardClasses:
    """Class ids in order of appearance; `finish` gives names and the final order.

    A class is known by its integer label, or by the hash of its text where there are no labels.
    """

    def __init__(self) -> None:
        self._by_label: bool | None = None
        self._all_named = True
        self._keys: np.ndarray = np.zeros(0, np.uint64)  # rising
        self._ids: np.ndarray = np.zeros(0, np.int32)  # the class of each key
        self._hashes: np.ndarray = np.zeros(0, np.uint64)  # the text of each class
        self._texts: list[StringTable] = []

    def add(self, index: ShardIndex, path: str) -> np.ndarray:
        """Takes in the classes of a shard: int32 [n], the class of each row."""
        if not len(index):
            return np.zeros(0, np.int32)
        unlabelled, unnamed = index.labels == NO_LABEL, index.text_ids < 0
        self._check_kind(unlabelled, unnamed, path)
        named = not unnamed.any()
        row_hashes = index.text_hashes[index.text_ids] if named else np.zeros(len(index), np.uint64)
        keys, first, classes = np.unique(
            index.labels.astype(np.uint64) if self._by_label else row_hashes,
            return_index=True,
            return_inverse=True,
        )
        at = np.asarray(np.searchsorted(self._keys, keys))
        known = np.zeros(len(keys), bool)
        inside = at < len(self._keys)
        known[inside] = self._keys[at[inside]] == keys[inside]
        ids = np.empty(len(keys), np.int32)
        ids[known] = self._ids[at[known]]
        new = np.flatnonzero(~known)
        ids[new] = np.arange(len(self._ids), len(self._ids) + len(new), dtype=np.int32)
        if len(new):
            self._keys = np.insert(self._keys, at[new], keys[new])
            self._ids = np.insert(self._ids, at[new], ids[new])
            self._hashes = np.concatenate([self._hashes, row_hashes[first[new]]])
            if named:
                self._texts.append(index.texts.take(index.text_ids[first[new]]))
        self._all_named &= named
        labels = ids[classes]
        if self._by_label and self._all_named:
            self._check_one_name(labels, row_hashes, index)
        return labels

    def finish(self) -> tuple[StringTable, np.ndarray]:
        """(class names, position of each class of `add` among them)."""
        order = self._ids  # classes by rising label
        if self._by_label and not self._all_named:
            names = StringTable.from_strings(str(label) for label in self._keys.tolist())
        else:
            names = StringTable.concatenate(self._texts)
            if self._by_label:
                self._check_distinct(names)
            else:
                order = np.array(sorted(range(len(names)), key=names.bytes_at), np.int32)
            names = names.take(order)
        positions = np.empty(len(order), np.int32)
        positions[order] = np.arange(len(order), dtype=np.int32)
        return names, positions

    def _check_kind(self, unlabelled: np.ndarray, unnamed: np.ndarray, path: str) -> None:
        if self._by_label is None:
            self._by_label = not unlabelled[0]
        if unlabelled.any() and (self._by_label or not unlabelled.all()):
            raise UserError(
                f"record {np.argmax(unlabelled)} of {path} has no integer label but others have; "
                "give every image a label, or name another feature with ?label_key=NAME in the "
                "data spec"
            )
        if not self._by_label and not unlabelled.any():
            raise UserError(
                f"the records of {path} have integer labels but those of the shards before have "
                "none; give every image a label, or only class texts (?label_key= in the data spec)"
            )
        if not self._by_label and unnamed.any():
            raise UserError(
                f"record {np.argmax(unnamed)} of {path} has neither a label nor a class text; name "
                "the features that hold them with ?label_key=NAME or ?text_key=NAME in the data "
                "spec"
            )

    def _check_one_name(
        self, labels: np.ndarray, row_hashes: np.ndarray, index: ShardIndex
    ) -> None:
        other = np.flatnonzero(self._hashes[labels] != row_hashes)
        if not len(other):
            return
        row, class_id = int(other[0]), int(labels[other[0]])
        both = sorted([index.texts[int(index.text_ids[row])], self._text(class_id)])
        raise UserError(
            f"the label {index.labels[row]} is called both {both[0]!r} and {both[1]!r} in the "
            "shards; correct the texts, or leave them out with ?text_key= in the data spec"
        )

    def _check_distinct(self, names: StringTable) -> None:
        order = np.argsort(self._hashes, kind="stable")
        twice = np.flatnonzero(self._hashes[order][1:] == self._hashes[order][:-1])
        if len(twice):
            both = order[twice[0] : twice[0] + 2]
            labels = sorted(int(self._keys[np.argmax(self._ids == class_id)]) for class_id in both)
            raise UserError(
                f"the labels {labels[0]} and {labels[1]} are both called {names[int(both[0])]!r} "
                "in the shards; give every class its own name, or leave the texts out with "
                "?text_key= in the data spec"
            )

    def _text(self, class_id: int) -> str:
        return StringTable.concatenate(self._texts)[class_id]
