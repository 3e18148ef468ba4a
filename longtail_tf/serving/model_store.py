"""Models and versions in memory, kept in step with the folders on disk.

A new version is loaded, warmed up, and published before the old one goes: no request fails in a hot
swap. A version that is still being written or cannot be loaded never disturbs the ones that serve;
its state and reason are reported, and it is tried again when its files change, or after a while.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from absl import logging

from longtail_tf.serving import versions
from longtail_tf.serving.batching_parameters import BatchingParameters
from longtail_tf.serving.model_config import ModelConfig
from longtail_tf.serving.servable import Servable
from longtail_tf.serving.status import Code, ServingError, from_exception, invalid_argument
from longtail_tf.serving.versions import (
    AVAILABLE,
    END,
    LOADING,
    START,
    UNLOADING,
    Candidate,
    VersionState,
)
from longtail_tf.serving.warmup import warm_up

_REMEMBERED_ENDS = 50  # ended versions whose state is still reported, a model


class ModelStore:
    """Loads, publishes and unloads versions.

    Args:
      configs: the models to serve.
      batching: parameters of each version's batch queue; None runs each request alone.
      allow_labels_for_unavailable: whether a label may name a version that is not loaded.
      on_change: called after versions came or went (the health service listens).
    """

    def __init__(
        self,
        configs: list[ModelConfig],
        *,
        batching: BatchingParameters | None = None,
        allow_labels_for_unavailable: bool = False,
        on_change: Callable[[], None] = lambda: None,
    ):
        self._batching, self.on_change = batching, on_change
        self._allow_labels = allow_labels_for_unavailable
        self._lock = threading.RLock()  # one poll or reload at a time
        self._configs = {config.name: config for config in configs}
        self._labels = _labels_of(configs)
        # Replaced as a whole, never changed in place: requests read it without a lock.
        self._serving: dict[str, dict[int, Servable]] = {}
        self._states: dict[str, dict[int, VersionState]] = {}
        self._candidates: dict[tuple[str, int], Candidate] = {}

    def load_all(self) -> None:
        """The first poll: what is there is loaded at once, without waiting for a second look.

        Raises:
          ServingError: FAILED_PRECONDITION when a label names a version that did not load.
        """
        self.poll(at_once=True)
        self._check_labels(list(self._configs.values()))

    def poll(self, *, at_once: bool = False) -> None:
        """Looks at the folders once; loads and unloads what that asks for.

        Args:
          at_once: load new versions now, instead of when two polls saw the same files.
        """
        with self._lock:
            for config in list(self._configs.values()):
                try:
                    found = versions.found_versions(config.base_path)
                except OSError as error:  # a network folder that is away for a moment
                    logging.warning(
                        "the base path %s of model %s cannot be read (%s): what is loaded stays",
                        config.base_path, config.name, error,
                    )  # fmt: skip
                    continue
                self._follow(config, versions.wanted_versions(config, found), at_once=at_once)
            for name in [name for name in self._serving if name not in self._configs]:
                self._unload(name, list(self._serving[name]))

    def reload(self, configs: list[ModelConfig]) -> None:
        """Serves `configs` instead; returns when the new models are loaded.

        Raises:
          ServingError: a model did not load, or a label names a version that is not loaded. The
            new configuration stays in force and is tried further, as in the real server.
        """
        with self._lock:
            self._configs = {config.name: config for config in configs}
            self.poll(at_once=True)
            missing = [name for name in self._configs if not self._serving.get(name)]
            if missing:
                raise ServingError(
                    Code.UNKNOWN, f"Some models did not become available: {{{', '.join(missing)}}}"
                )
            self._check_labels(configs)
            self._labels = _labels_of(configs)

    @contextlib.contextmanager
    def lease(self, model_spec: Any) -> Iterator[Servable]:
        """The servable a ModelSpec names, kept loaded while the context lasts.

        Raises:
          ServingError: NOT_FOUND for an unknown model or version, INVALID_ARGUMENT for no name or
            an unknown label.
        """
        servable = self._find(model_spec)
        try:
            yield servable
        finally:
            servable.release()

    def _find(self, model_spec: Any) -> Servable:
        name, choice = model_spec.name, model_spec.WhichOneof("version_choice")
        if not name:
            raise invalid_argument("ModelSpec has no name specified.")
        number = model_spec.version.value if choice == "version" else None
        if choice == "version_label":
            number = self._labels.get((name, model_spec.version_label))
            if number is None:
                raise invalid_argument(
                    f"Unrecognized servable version label: {model_spec.version_label}"
                )
        while True:
            loaded = self._serving.get(name, {})
            servable = loaded.get(max(loaded) if number is None and loaded else number)
            if servable is None:
                request = f"Latest({name})" if number is None else f"Specific({name}, {number})"
                raise ServingError(Code.NOT_FOUND, f"Servable not found for request: {request}")
            if servable.acquire():
                return servable
            # it began to unload after we read the table: the table has changed, read it again

    def states(self, name: str) -> list[VersionState]:
        """Every known version of a model, newest first; empty for an unknown model."""
        states = self._states.get(name, {})
        return [states[number] for number in sorted(states, reverse=True)]

    def is_ready(self) -> bool:
        """Whether every configured model has an available version."""
        return bool(self._configs) and all(map(self.is_available, self._configs))

    def is_available(self, name: str) -> bool:
        """Whether any version of a model takes requests."""
        return bool(self._serving.get(name))

    def close(self) -> None:
        """Unloads everything; waits for requests that still run."""
        with self._lock:
            self._configs = {}
            for name in list(self._serving):
                self._unload(name, list(self._serving[name]))

    def _follow(self, config: ModelConfig, wanted: dict[int, str], *, at_once: bool) -> None:
        name = config.name
        for number, path in sorted(wanted.items(), reverse=True):
            if number not in self._serving.get(name, {}):
                self._try_to_load(name, number, path, at_once=at_once)
        for key in [key for key in self._candidates if key[0] == name and key[1] not in wanted]:
            del self._candidates[key]
        loaded = self._serving.get(name, {})
        gone = [number for number in loaded if number not in wanted]
        if wanted and not any(number in loaded for number in wanted):
            gone = []  # the new ones do not load (yet): the old ones keep serving
        self._unload(name, gone)

    def _try_to_load(self, name: str, number: int, path: str, *, at_once: bool) -> None:
        seen = versions.fingerprint(path)
        key, now = (name, number), time.monotonic()
        candidate = self._candidates.get(key)
        if candidate is None or candidate.fingerprint != seen:
            candidate = self._candidates[key] = Candidate(fingerprint=seen)
            if not at_once:
                self._set_state(name, VersionState(number, START))
                return
        elif now < candidate.retry_at and not at_once:
            return
        self._set_state(name, VersionState(number, LOADING))
        try:
            servable = self._load(name, number, path)
        except ServingError as error:
            candidate.failed(now)
            self._set_state(name, VersionState(number, END, int(error.code), error.message))
            logging.error("version %d of model %s does not load: %s", number, name, error.message)
            return
        del self._candidates[key]
        self._serving = {
            **self._serving, name: {**self._serving.get(name, {}), number: servable}
        }  # fmt: skip
        self._set_state(name, VersionState(number, AVAILABLE))
        logging.info("version %d of model %s is available", number, name)
        self.on_change()

    def _load(self, name: str, number: int, path: str) -> Servable:
        servable = Servable(path, name=name, version=number, batching=self._batching)
        try:
            warm_up(servable)
        except Exception as error:
            servable.close()
            raise from_exception(error) from error
        return servable

    def _unload(self, name: str, numbers: list[int]) -> None:
        for number in numbers:
            servable = self._serving[name][number]
            rest = {n: s for n, s in self._serving[name].items() if n != number}
            self._serving = {**self._serving, name: rest}
            self._set_state(name, VersionState(number, UNLOADING))
            self.on_change()
            servable.close()
            del servable
            self._set_state(name, VersionState(number, END))
            logging.info("version %d of model %s is unloaded", number, name)
        if numbers:
            give_back_memory()

    def _set_state(self, name: str, state: VersionState) -> None:
        states = {**self._states.get(name, {}), state.version: state}
        ended = sorted(number for number, known in states.items() if known.state == END)
        for number in ended[:-_REMEMBERED_ENDS]:
            del states[number]
        self._states = {**self._states, name: states}

    def _check_labels(self, configs: list[ModelConfig]) -> None:
        for config in configs:
            for _, number in config.labels:
                if number not in self._serving.get(config.name, {}) and not self._allow_labels:
                    raise ServingError(
                        Code.FAILED_PRECONDITION,
                        f"Request to assign label to version {number} of model {config.name}, "
                        "which is not currently available for inference",
                    )


def _labels_of(configs: list[ModelConfig]) -> dict[tuple[str, str], int]:
    return {(c.name, label): number for c in configs for label, number in c.labels}


def give_back_memory() -> None:
    """Collects cycles and returns free pages; about 0.1 s, in which other threads hardly run."""
    gc.collect()
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    """glibc's malloc_trim; None under another C library."""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None
