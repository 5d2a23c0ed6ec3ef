"""One question at a time to a model, in evaluation mode: what threads share is changed by one of them only."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

from torch import nn

_LOCKS: WeakKeyDictionary[object, threading.RLock] = WeakKeyDictionary()
_LOCKS_LOCK = threading.Lock()


def lock_of(shared: object) -> threading.RLock:
    """Return the lock of an object that threads share: the same for all who ask, as long as the object lives.

    Args:
        shared: A model, or a tokenizer (whose padding is a state that every call sets).

    Returns:
        Its lock, which one thread may take several times.
    """
    with _LOCKS_LOCK:
        return _LOCKS.setdefault(shared, threading.RLock())


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Switch dropout off for a while, everywhere, for one thread at a time; then give each module back its own mode.

    The mode is a state of the model, and so is what some models note between the steps of an answer (the position
    offsets of Qwen2-VL): two questions at once would be answered with each other's. Code that does not ask by this,
    such as a training in another thread, is not held up.

    Args:
        model: The model, or what wraps it: a PEFT model and the one inside share their lock.
    """
    inside = model.get_base_model() if hasattr(model, "get_base_model") else model
    with lock_of(getattr(inside, "_orig_mod", inside)):
        modes = [(module, module.training) for module in model.modules()]
        model.eval()
        try:
            yield
        finally:
            for module, mode in modes:
                module.training = mode
