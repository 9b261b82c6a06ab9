"""A mailbox holds the newest message of each kind."""

import threading

from fer_jax.apps.live_window.mailbox import Mailbox


def test_the_newest_of_a_kind_wins_and_the_kinds_take_turns():
  box: Mailbox[int | str] = Mailbox()
  assert box.take() is None
  for message in (1, "a", 2, 3, "b"):
    box.put(message)
  assert box.dropped == 3
  assert [box.take(), box.take(), box.take()] == [3, "b", None]
  # What is replaced keeps its turn: a flood of numbers does not hold the text up, nor the other way round.
  for message in ("c", 4, "d"):
    box.put(message)
  assert box.take() == "d"
  box.put(5)
  assert box.take() == 5


def test_it_tells_of_the_first_message_only():
  told = []
  box: Mailbox[int | str] = Mailbox(lambda: told.append(box.take(0.0) if len(told) == 2 else None))
  for message in (1, "a", 2):
    box.put(message)
  assert told == [None]
  assert [box.take(), box.take()] == [2, "a"]
  box.put(3)
  assert told == [None, None]
  assert box.take() == 3
  box.put(4)
  assert told == [None, None, 4]  # it is there by then


def test_who_waits_is_woken_by_a_message_and_by_the_end():
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
