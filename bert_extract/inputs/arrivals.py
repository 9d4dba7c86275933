"""Items of a source that may be slow -> the same items, and where it pauses.

A thread of its own reads the source, so that whoever takes the items can stop waiting.
"""

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")

# What is read before it is asked for: more than one item, since each change from one
# thread to another costs as much as some items; but items may be large.
_MAX_AHEAD = 256
_MAX_SIZE_AHEAD = 1 << 20


class Arrivals(Generic[Item]):
    """Items as they come; None where nothing came for some time."""

    def __init__(
        self, items: Iterable[Item], patience: float, size_of: Callable[[Item], int]
    ) -> None:
        """Makes them; nothing is read before they are iterated over, once.

        Args:
          items: the source; it is iterated over in another thread.
          patience: for how many seconds in all it is waited for items before there is
            a pause. A wait counts when an item came since the last pause: it may be
            that one which waits.
          size_of: an item's size in bytes, about.
        """
        self._items = items
        self._patience = patience
        self._size_of = size_of
        self._process_id = os.getpid()
        self._changed = threading.Condition()
        # All below is guarded by it.
        self._ahead: deque[Item] = deque()
        self._size_ahead = 0
        self._all_read = False
        self._error: BaseException | None = None
        self._closed = False

    def __iter__(self) -> Iterator[Item | None]:
        """Yields each item, and None for each pause.

        What the source raises is raised after the items before it.
        """
        threading.Thread(target=self._read, daemon=True).start()
        waited = 0.0
        has_come = False  # an item since the last pause
        while True:
            with self._changed:
                start = time.monotonic()
                self._changed.wait_for(
                    self._is_ready, self._patience - waited if has_come else None
                )
                waited += time.monotonic() - start if has_come else 0.0
                is_pause = not self._is_ready()
                if self._closed or not (is_pause or self._ahead):
                    break
                # Not kept here while the caller works on it: it may be large.
                taken = [] if is_pause else [self._take()]
            if is_pause:
                waited = 0.0
            has_come = not is_pause
            yield taken.pop() if taken else None
        if self._error is not None:
            raise self._error

    def _take(self) -> Item:
        item = self._ahead.popleft()
        self._size_ahead -= self._size_of(item)
        self._changed.notify_all()
        return item

    def _is_ready(self) -> bool:
        return bool(self._ahead) or self._all_read or self._closed

    def close(self) -> None:
        """Ends the iteration, and the thread as soon as the source lets go of it."""
        if os.getpid() != self._process_id:
            return  # there is no such thread, and it may have held the lock
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _read(self) -> None:
        try:
            for item in self._items:
                with self._changed:
                    self._ahead.append(item)
                    self._size_ahead += self._size_of(item)
                    del item
                    self._changed.notify_all()
                    self._changed.wait_for(self._has_room)
                    if self._closed:
                        return
        except BaseException as error:  # raised again in the caller's thread
            self._error = error
        finally:
            with self._changed:
                self._all_read = True
                self._changed.notify_all()

    def _has_room(self) -> bool:
        has_room = len(self._ahead) < _MAX_AHEAD and self._size_ahead < _MAX_SIZE_AHEAD
        return has_room or self._closed
