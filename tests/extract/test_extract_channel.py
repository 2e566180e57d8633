"""The queue between threads."""

import threading
import time
from collections.abc import Callable

import pytest
from test_extract_crew import LIMIT, in_time, no_thread_is_left  # noqa: F401 - fixtures

from extract.channel import Channel, Closed


def test_a_channel_keeps_the_order():
    channel: Channel[int] = Channel(3)
    for number in range(3):
        channel.put(number)
    assert [channel.get() for _ in range(3)] == [0, 1, 2]


def test_putting_waits_for_room():
    channel: Channel[int] = Channel(1)
    channel.put(0)
    thread = threading.Thread(target=channel.put, args=(1,), daemon=True)
    thread.start()
    thread.join(0.05)
    assert thread.is_alive()
    assert channel.get() == 0
    thread.join(LIMIT)
    assert not thread.is_alive()
    assert channel.get() == 1


def test_a_closed_channel_takes_nothing_and_gives_what_it_holds():
    channel: Channel[int] = Channel(9)
    channel.put(1)
    channel.put(2)
    channel.close()
    with pytest.raises(Closed):
        channel.put(3)
    assert (channel.get(), channel.get_until(time.monotonic() - 1)) == (1, 2)
    for take in (channel.get, lambda: channel.get_until(time.monotonic() + 9)):
        with pytest.raises(Closed):
            take()
    channel.close()


def test_a_channel_closed_to_be_discarded_gives_nothing():
    channel: Channel[int] = Channel(9)
    channel.put(1)
    channel.close()
    channel.close(discard=True)
    with pytest.raises(Closed):
        channel.get()


@pytest.mark.parametrize("discard", [False, True])
def test_closing_wakes_all_who_wait(discard: bool):
    empty: Channel[int] = Channel(1)
    full: Channel[int] = Channel(1)
    full.put(0)
    raised = []

    def wait(work: Callable[[], object]) -> None:
        try:
            work()
        except Closed:
            raised.append(work)

    late = time.monotonic() + 2 * LIMIT
    works = [empty.get, empty.get, lambda: empty.get_until(late), lambda: full.put(1), lambda: full.put(2)]
    threads = [threading.Thread(target=wait, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    time.sleep(0.02)
    empty.close(discard)
    full.close(discard)
    for thread in threads:
        thread.join(LIMIT)
    assert len(raised) == 5


def test_get_until_gives_up_at_the_moment_and_not_before_what_comes():
    channel: Channel[int] = Channel(1)
    started = time.monotonic()
    assert channel.get_until(started + 0.05) is None
    assert 0.04 < time.monotonic() - started < 5
    assert channel.get_until(started - 9) is None
    threading.Timer(0.02, channel.put, (7,)).start()
    assert channel.get_until(time.monotonic() + LIMIT) == 7
