# SPDX-License-Identifier: MIT
"""kill -9 at random moments, under load: what was acked is kept, and no subscriber misses any."""
import collections
import datetime
import json
import random
import threading
import time

import support
from support import Closed, Stream, TestCase, Wire, body, iso, millis, wait_for

LOST = (Closed, ConnectionError, TimeoutError)


class Client(threading.Thread):
    """Schedules and cancels as fast as it is answered, and remembers what it was told."""

    def __init__(self, number, server, stopping):
        super().__init__(daemon=True)
        self.chance = random.Random(f"{support.SEED} {number}")
        self.number, self.server, self.stopping = number, server, stopping
        self.acked = {}  # id -> (marker, due)
        self.unsure = set()  # markers whose request was never answered: they may have happened
        self.cancelled, self.maybe_cancelled, self.emitted = set(), set(), set()
        self.errors = []
        self.count = 0

    def run(self):
        while not self.stopping.is_set():
            try:
                with Wire(self.server.port) as wire:
                    while not self.stopping.is_set():
                        if self.chance.random() < 0.3 and len(self.acked) > 3:
                            self.cancel(wire)
                        else:
                            self.schedule(wire)
            except LOST:
                time.sleep(0.005)  # it is down for a moment
            except Exception as error:
                self.errors.append(repr(error))
                return

    def schedule(self, wire):
        self.count += 1
        marker = f"{self.number}-{self.count}"
        far = self.chance.random() < 0.4
        seconds = 3600 + self.chance.random() * 1000 if far else self.chance.random()
        stamp = iso(seconds)
        self.unsure.add(marker)
        answer = wire.call("POST", "/schedule", body(marker, stamp))
        self.unsure.remove(marker)
        if answer.status == 200:
            self.acked[answer.json["id"]] = (marker, stamp)
        elif answer.status != 503:  # on its way down or up it may say so
            self.errors.append(repr(answer))

    def cancel(self, wire):
        task = self.chance.choice(list(self.acked)[-50:])
        known = task in self.cancelled or task in self.maybe_cancelled
        self.maybe_cancelled.add(task)
        if self.chance.random() < 0.5:
            answer = wire.call("DELETE", "/tasks/" + task)
        else:
            answer = wire.call("POST", "/cancel", json.dumps({"id": task}))
        if answer.status == 200:
            if task in self.cancelled or task in self.emitted:
                self.errors.append(f"a second end for {task}: {answer}")
            self.cancelled.add(task)
        elif answer.status == 409:
            self.emitted.add(task)
        elif not (answer.status == 404 and known):
            self.errors.append(f"cancel {task}: {answer}")
        if not known and task not in self.cancelled:
            self.maybe_cancelled.discard(task)


class Subscriber(threading.Thread):
    """Follows the stream over every crash as EventSource does: by the last id that came whole."""

    def __init__(self, server, stopping):
        super().__init__(daemon=True)
        self.server, self.stopping = server, stopping
        self.events, self.errors, self.last, self.connects = [], [], "earliest", 0

    def run(self):
        while not self.stopping.is_set():
            try:
                with Stream(self.server.port, last=self.last, seconds=1) as stream:
                    stream.open()
                    self.connects += 1
                    while not self.stopping.is_set():
                        try:
                            event = stream.next()
                        except TimeoutError:
                            continue
                        if event.type == "message":
                            self.events.append((event.id, event.data, event.at))
                        else:
                            self.errors.append(repr(event))
                        self.last = event.id
            except LOST:
                time.sleep(0.005)
            except Exception as error:
                self.errors.append(repr(error))
                return


class Crash(TestCase):
    def load(self, server, clients, rounds, end):
        """Runs the clients and ends the server again and again; returns them when all is over."""
        chance = random.Random(support.SEED)
        stopping, deaf = threading.Event(), threading.Event()
        workers = [Client(n, server, stopping) for n in range(clients)]
        listeners = [Subscriber(server, deaf) for _ in range(2)]
        self.addCleanup(stopping.set)
        self.addCleanup(deaf.set)
        for thread in workers + listeners:
            thread.start()
        for round in range(rounds):
            time.sleep(chance.uniform(0.05, 0.6))
            end(round)
            server.start("--fsync", ("always", "everysec", "no")[round % 3])
        time.sleep(0.3)
        stopping.set()
        for worker in workers:
            worker.join(20)
            self.assertFalse(worker.is_alive(), "a client hangs")
        # The last of what is due soon, then no more comes: every listener has what history has.
        wait_for(lambda: server.page(f"/tasks?due_before={iso(60)}")["data"] == [], what="emission")
        total = server.page("/events?limit=1")["page_info"]["total_count"]
        try:
            wait_for(lambda: all(len(i.events) >= total for i in listeners), what="listening")
        except AssertionError:
            pass  # what is missing is told by verify()
        deaf.set()
        for listener in listeners:
            listener.join(20)
        return workers, listeners

    def verify(self, server, workers, listeners):
        acked, cancelled, maybe, told, unsure = {}, set(), set(), set(), set()
        for worker in workers:
            self.assertEqual(worker.errors, [])
            acked.update(worker.acked)
            cancelled |= worker.cancelled
            maybe |= worker.maybe_cancelled
            told |= worker.emitted
            unsure |= worker.unsure
        pending = {task["id"]: task["payload"]["message"] for task in server.walk("/tasks")}
        history = [event["id"] for event in server.walk("/events")]
        for listener in listeners:
            self.assertEqual(listener.errors, [])
            ids = [event[0] for event in listener.events]
            twice = [i for i, n in collections.Counter(ids).items() if n > 1]
            self.assertEqual(twice, [], "an id twice")
            self.assertEqual(ids, history, "missed, or out of order")
            for task, data, at in listener.events:
                payload = json.loads(data)
                self.assertGreaterEqual(at * 1000, millis(payload["timestamp"]), "early")
                if task in acked:
                    self.assertEqual((payload["message"], payload["timestamp"]), acked[task])
                else:
                    self.assertIn(payload["message"], unsure, "nobody asked for it")
        emitted = set(history)
        self.assertEqual(set(acked) - set(pending) - emitted - maybe - cancelled, set(), "lost")
        self.assertEqual(cancelled & (emitted | set(pending)), set(), "cancelled, and there")
        self.assertEqual(emitted & set(pending), set(), "emitted, and pending")
        self.assertLessEqual(told, emitted, "said to be emitted")
        strangers = {m for i, m in pending.items() if i not in acked} - unsure
        self.assertEqual(strangers, set(), "pending, and nobody asked for it")
        self.note(f"{len(acked)} acked, {len(cancelled)} cancelled, {len(emitted)} emitted, "
                  f"{len(unsure)} never answered, {listeners[0].connects} connects")
        self.assertGreater(len(acked), 50, "it was no load")

    def test_kill_9_at_any_moment_loses_nothing_that_was_acked_and_repeats_nothing(self):
        server = self.server("--history", "1000000")
        clients, rounds = (8, 200) if support.LONG else (4, 5)
        self.verify(server, *self.load(server, clients, rounds, lambda round: server.kill()))

    def test_an_orderly_stop_under_load_loses_nothing_either(self):
        server = self.server("--history", "1000000")

        def stop(round):
            status, seconds = server.stop()
            self.assertEqual(status, 0, server.stderr()[-2000:])
            self.assertLess(seconds, support.SOON)

        self.verify(server, *self.load(server, 4, 12 if support.LONG else 2, stop))

    def test_a_kill_in_the_midst_of_a_burst_of_emissions_neither_loses_nor_repeats(self):
        rounds, count = (10, 5000) if support.LONG else (2, 1500)
        chance = random.Random(support.SEED)
        for round in range(rounds):
            policy = ("always", "no")[round // 2 % 2]
            server = self.server("--fsync", policy, "--history", "1000000")
            due = support.utc_now() + datetime.timedelta(seconds=1.2)
            ids = []
            with server.wire() as wire:
                for n in range(0, count, 50):
                    for m in range(50):
                        wire.request("POST", "/schedule", body({"n": n + m}, iso(due)))
                    ids += [wire.answer().json["id"] for _ in range(50)]
            deaf = threading.Event()
            listener = Subscriber(server, deaf)
            self.addCleanup(deaf.set)
            listener.start()
            # In turn at a moment about the due time, and when some have come through.
            if round % 2:
                wait = (due - support.utc_now()).total_seconds() + chance.uniform(0, 0.01)
                time.sleep(max(0, wait))
            else:
                some = chance.randrange(1, 100)
                wait_for(lambda: len(listener.events) >= some, what="emission")
            server.kill()
            before = len(listener.events)
            server.start()
            wait_for(lambda: len(listener.events) >= count, what="all emissions")
            deaf.set()
            listener.join(10)
            self.assertEqual(listener.errors, [])
            self.assertEqual([event[0] for event in listener.events], ids)
            self.note(f"killed at {before} of {count}")


class Retry(TestCase):
    def test_a_keyed_retry_after_a_kill_schedules_once(self):
        server = self.server()
        task, key = {"delay": "1h", "message": "once"}, {"Idempotency-Key": "k"}
        first = server.ask("POST", "/schedule", task, key)[2]
        server.kill()
        server.start()
        self.assertEqual(server.ask("POST", "/schedule", task, key)[2], first)
        self.assertEqual(server.pending(), 1)
