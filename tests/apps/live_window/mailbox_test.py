"""Tests the mailbox, which keeps the newest message of each type."""

import threading

from fer_jax.apps.live_window.mailbox import Mailbox


def test_keeps_the_newest_message_of_each_type_in_fair_order():
  box: Mailbox[int | str] = Mailbox()
  assert box.take() is None
  for message in (1, "a", 2, 3, "b"):
    box.put(message)
  assert box.dropped == 3
  assert [box.take(), box.take(), box.take()] == [3, "b", None]
  # A replaced message keeps its position: many messages of one type do not delay another type.
  for message in ("c", 4, "d"):
    box.put(message)
  assert box.take() == "d"
  box.put(5)
  assert box.take() == 5


def test_notifies_only_if_it_was_empty():
  notified = []
  box: Mailbox[int | str] = Mailbox(lambda: notified.append(box.take(0.0) if len(notified) == 2 else None))
  for message in (1, "a", 2):
    box.put(message)
  assert notified == [None]
  assert [box.take(), box.take()] == [2, "a"]
  box.put(3)
  assert notified == [None, None]
  assert box.take() == 3
  box.put(4)
  assert notified == [None, None, 4]  # the message is in the mailbox when notify is called


def test_messages_and_close_wake_a_waiting_thread():
  box: Mailbox[int] = Mailbox()
  taken: list[int | None] = []
  first = threading.Event()

  def read():
    taken.append(box.take(None))
    first.set()
    taken.append(box.take(None))

  reader = threading.Thread(target=read, daemon=True)
  reader.start()
  box.put(7)
  assert first.wait(10)
  box.close()
  reader.join(10)
  assert taken == [7, None]
  box.put(8)
  assert box.take() is None
  assert box.closed
