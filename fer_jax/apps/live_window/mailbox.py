"""What one thread hands to another: of each kind of message the newest, and nothing older."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Mailbox(Generic[T]):
  """Holds one message of each class: a newer one takes the place of the one that nobody has fetched.

  Args:
    notify: called by the thread that puts a message into the empty box, after it is there.
  """

  def __init__(self, notify: Callable[[], None] | None = None):
    self._notify = notify
    self._messages: dict[type, T] = {}
    self._changed = threading.Condition()
    self._closed = False
    self._dropped = 0

  @property
  def dropped(self) -> int:
    """How many messages had to give way to a newer one."""
    return self._dropped

  @property
  def waiting(self) -> bool:
    """Whether a message lies in the box."""
    return bool(self._messages)

  @property
  def closed(self) -> bool:
    """Whether `close` was called."""
    return self._closed

  def put(self, message: T) -> None:
    """Leaves a message, without waiting; a closed box takes none."""
    with self._changed:
      if self._closed:
        return
      was_empty = not self._messages
      self._dropped += type(message) in self._messages
      # A message that is replaced keeps its turn, so a flood of one kind does not keep another waiting.
      self._messages[type(message)] = message
      self._changed.notify()
    if was_empty and self._notify is not None:
      self._notify()

  def take(self, timeout: float | None = 0.0) -> T | None:
    """Fetches the message whose kind has waited longest.

    Args:
      timeout: seconds to wait for one; None waits until there is one or the box is closed.

    Returns:
      None if there is none, or if the box is closed.
    """
    with self._changed:
      self._changed.wait_for(lambda: self._closed or self._messages, timeout)
      if self._closed or not self._messages:
        return None
      return self._messages.pop(next(iter(self._messages)))

  def close(self) -> None:
    """Throws everything away and wakes whoever waits; nothing is taken or given any more."""
    with self._changed:
      self._closed = True
      self._messages.clear()
      self._changed.notify_all()
