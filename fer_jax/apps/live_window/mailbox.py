"""Mailbox between two threads that keeps only the newest message of each type."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Mailbox(Generic[T]):
  """Stores at most one message per class; a newer message replaces one that has not been taken.

  Args:
    notify: Function that is called, in the sender's thread, after a message was put into an empty mailbox.
  """

  def __init__(self, notify: Callable[[], None] | None = None):
    self._notify = notify
    self._messages: dict[type, T] = {}
    self._changed = threading.Condition()
    self._closed = False
    self._dropped = 0

  @property
  def dropped(self) -> int:
    """Number of messages that were replaced before they were taken."""
    return self._dropped

  @property
  def waiting(self) -> bool:
    """Whether the mailbox contains a message."""
    return bool(self._messages)

  @property
  def closed(self) -> bool:
    """Whether the mailbox is closed."""
    return self._closed

  def put(self, message: T) -> None:
    """Stores a message without blocking; does nothing if the mailbox is closed."""
    with self._changed:
      if self._closed:
        return
      was_empty = not self._messages
      self._dropped += type(message) in self._messages
      # A replaced message keeps its position in the dict, so frequent messages of one type cannot starve another type.
      self._messages[type(message)] = message
      self._changed.notify()
    # Outside the lock, so `notify` may use the mailbox.
    if was_empty and self._notify is not None:
      self._notify()

  def take(self, timeout: float | None = 0.0) -> T | None:
    """Removes and returns the message whose type has been in the mailbox longest.

    Args:
      timeout: Maximum number of seconds to block; None blocks until there is a message or the mailbox is closed.

    Returns:
      Message, or None if there is none or the mailbox is closed.
    """
    with self._changed:
      self._changed.wait_for(lambda: self._closed or self._messages, timeout)
      if self._closed or not self._messages:
        return None
      return self._messages.pop(next(iter(self._messages)))

  def close(self) -> None:
    """Discards all messages, wakes blocked threads, and refuses further messages."""
    with self._changed:
      self._closed = True
      self._messages.clear()
      self._changed.notify_all()
