# SPDX-License-Identifier: MIT
"""Timestamps: which are accepted and what moment they mean; and that tasks are emitted then."""
import datetime
import json
import random
import time

import support
from support import TestCase, body, iso, millis, utc_now

# RFC 3339, ECMAScript's date-time format, and the offsets of `date +%z`.
ACCEPTED = {
    "2020-08-21T04:29:00.951Z": "2020-08-21T04:29:00.951Z",
    "2020-08-21T04:29:00Z": "2020-08-21T04:29:00.000Z",
    "2020-08-21T04:29Z": "2020-08-21T04:29:00.000Z",
    "2020-08-21": "2020-08-21T00:00:00.000Z",
    "2020-08": "2020-08-01T00:00:00.000Z",
    "2020": "2020-01-01T00:00:00.000Z",
    "2020-08T04:29Z": "2020-08-01T04:29:00.000Z",
    "2020T04:29:05": "2020-01-01T04:29:05.000Z",
    "+002020-08-21T04:29:00Z": "2020-08-21T04:29:00.000Z",
    # No zone is UTC.
    "2020-08-21T04:29": "2020-08-21T04:29:00.000Z",
    "2020-08-21T04:29:00": "2020-08-21T04:29:00.000Z",
    "2020-08-21T04:29:00.5": "2020-08-21T04:29:00.500Z",
    # Lower case, as RFC 3339's grammar allows.
    "2020-08-21t04:29:00z": "2020-08-21T04:29:00.000Z",
    # One to nine digits of fraction, cut and not rounded.
    "2020-08-21T04:29:00.1Z": "2020-08-21T04:29:00.100Z",
    "2020-08-21T04:29:00.12Z": "2020-08-21T04:29:00.120Z",
    "2020-08-21T04:29:00.9999Z": "2020-08-21T04:29:00.999Z",
    "2020-08-21T04:29:59.999999999Z": "2020-08-21T04:29:59.999Z",
    # Offsets: ±hh:mm, ±hhmm, ±hh.
    "2020-08-21T04:29:00+02:00": "2020-08-21T02:29:00.000Z",
    "2020-08-21T04:29:00-03:30": "2020-08-21T07:59:00.000Z",
    "2020-08-21T04:29:00+0530": "2020-08-20T22:59:00.000Z",
    "2020-08-21T04:29:00-0800": "2020-08-21T12:29:00.000Z",
    "2020-08-21T04:29:00+02": "2020-08-21T02:29:00.000Z",
    "2020-08-21T04:29:00-11": "2020-08-21T15:29:00.000Z",
    "2020-08-21T04:29:00-00:00": "2020-08-21T04:29:00.000Z",
    "2020-08-21T04:29:00+23:59": "2020-08-20T04:30:00.000Z",
    "2020-08-21T04:29:00.951+02:00": "2020-08-21T02:29:00.951Z",
    "2020-08-21T04:29+02:00": "2020-08-21T02:29:00.000Z",
    # The end of a day is the next midnight.
    "2020-08-21T24:00Z": "2020-08-22T00:00:00.000Z",
    "2020-12-31T24:00:00Z": "2021-01-01T00:00:00.000Z",
    "2020-08-21T24:00:00.000+02:00": "2020-08-21T22:00:00.000Z",
    # Calendars.
    "2020-02-29": "2020-02-29T00:00:00.000Z",
    "2000-02-29": "2000-02-29T00:00:00.000Z",
    "1970-01-01T00:00:00Z": "1970-01-01T00:00:00.000Z",
    "1969-12-31T23:59:59.999Z": "1969-12-31T23:59:59.999Z",
    "0001-01-01": "0001-01-01T00:00:00.000Z",
    "2016-12-31T23:59:60Z": None,  # a leap second that was: which moment is ours to choose
    "-000044-03-15T12:00:00Z": None,
}

REFUSED = [
    "", " ", "x", "now", "tomorrow", "1597984140", "1597984140000", "20200821", "20200821T042900Z",
    "2020-08-21 04:29:00.951Z ", " 2020-08-21", "2020-08-21 ", "2020-8-21", "20-08-21",
    "02020-08-21",
    "2020-00-10", "2020-13-01", "2020-08-00", "2020-08-32", "2020-02-30", "2021-02-29",
    "1900-02-29",
    "2020-04-31", "2020-234", "2020-W34-5", "21.08.2020", "08/21/2020", "2020/08/21",
    "Fri, 21 Aug 2020 04:29:00 GMT", "2020-08-21T", "2020-08-21T04", "2020-08-21T04Z",
    "2020-08-21T4:29Z", "2020-08-21T04:9Z", "2020-08-21T0429Z", "2020-08-21T04:29:0Z",
    "2020-08-21T25:00Z", "2020-08-21T24:01Z", "2020-08-21T24:00:01Z", "2020-08-21T24:00:00.001Z",
    "2020-08-21T04:60Z", "2020-08-21T04:29:61Z", "2020-08-21T-4:29Z", "2020-08-21T04:29:00.Z",
    "2020-08-21T04:29:00,5Z", "2020-08-21T04:29:00.0123456789Z", "2020-08-21T04:29.5Z",
    "2020-08-21T04:29:00+2:00", "2020-08-21T04:29:00+2", "2020-08-21T04:29:00+020",
    "2020-08-21T04:29:00+02:0", "2020-08-21T04:29:00+24:00", "2020-08-21T04:29:00+02:60",
    "2020-08-21T04:29:00+", "2020-08-21T04:29:00 +02:00", "2020-08-21T04:29:00 Z",
    "2020-08-21T04:29:00ZZ", "2020-08-21T04:29:00Z+02:00", "2020-08-21T04:29:00UTC",
    "2020-08-21T04:29:00+02:00:00", "2020-08-21Z", "2020-08-21+02:00", "2020-08-21TT04:29Z",
    "-000000-01-01T00:00:00Z", "+2020-08-21", "-2020-08-21", "2020-08-21T04:29:00\u221202:00",
    "２０２０-08-21", "2020-08-21T04:29:00Z\u0000", "2020-08-21\n", "2020-08-21T04:29:00Z" * 1000,
    "9" * 10_000, "99999-01-01", "2020-08-21T04:29:00.951Zjunk",
]


def a_year_ahead(moment):
    try:
        return moment.replace(year=moment.year + 1)
    except ValueError:  # on 29 February two answers are right
        return None


class Timestamps(TestCase):
    def test_what_rfc_3339_and_ecmascript_define_is_accepted(self):
        server = self.server()
        for stamp, due in ACCEPTED.items():
            with self.subTest(stamp):
                answer = server.call("POST", "/schedule", body("x", stamp))
                self.assertEqual(answer.status, 200, answer)
                self.assertEqual(answer.json["message"], "Scheduled task at " + stamp)
                if due:
                    self.assertEqual(server.page("/tasks/" + answer.json["id"])["due"], due)

    def test_anything_else_is_refused_and_never_guessed(self):
        server = self.server()
        for stamp in REFUSED:
            with self.subTest(stamp[:60]):
                # Not body(): that would replace an empty timestamp.
                text = json.dumps({"timestamp": stamp, "message": "x"})
                answer = server.call("POST", "/schedule", text)
                self.assertIn("timestamp", " ".join(self.assert_errors(answer, 400)))

    def test_one_calendar_year_ahead_is_the_latest(self):
        server = self.server()
        now = utc_now()
        year = a_year_ahead(now)
        if year is None:
            self.skipTest("29 February has no such day next year")
        minute = datetime.timedelta(minutes=1)
        for moment in (year - minute, year - datetime.timedelta(days=30)):
            self.assertEqual(server.call("POST", "/schedule", body("x", iso(moment))).status, 200)
        for stamp in (iso(year + minute), iso(year + datetime.timedelta(days=1)), "9999-12-31",
                      "9999-12-31T23:59:59.999999999-23:59", "+275760-09-13T00:00:00.000Z"):
            with self.subTest(stamp):
                errors = self.assert_errors(server.call("POST", "/schedule", body("x", stamp)), 400)
                # Of the minute that was when it was asked for, or of that which is now.
                latest = [iso(moment)[:16] for moment in (year, a_year_ahead(utc_now()) or year)]
                self.assertTrue(any(one in " ".join(errors) for one in latest), (errors, latest))
        self.assertEqual(server.pending(), 2)

    def test_times_in_answers_are_utc_with_milliseconds(self):
        server = self.server()
        zone = datetime.timezone(datetime.timedelta(hours=5, minutes=30))
        moment = utc_now().replace(microsecond=123_456) + datetime.timedelta(hours=1)
        stamp = moment.astimezone(zone).isoformat()
        task = server.call("POST", "/schedule", body("x", stamp)).json["id"]
        self.assertEqual(server.page("/tasks/" + task)["due"], iso(moment))
        self.assertEqual(server.page("/tasks")["data"][0]["payload"]["timestamp"], stamp)


class OnTime(TestCase):
    def test_tasks_are_emitted_in_order_of_due_time_never_early_and_on_time(self):
        server = self.server()
        chance = random.Random(support.SEED)
        start = int(time.time() * 1000) + 500
        expected = []
        with server.stream() as stream, server.wire() as wire:
            tasks = []
            for n in range(100):
                due = start + chance.randrange(0, 1500, 50)  # many share a moment
                moment = datetime.datetime.fromtimestamp(due / 1000, datetime.timezone.utc)
                tasks.append({"timestamp": iso(moment), "message": {"n": n}})
                expected.append((due, n))
            # All at once, so that none falls due before the last is there.
            answer = wire.call("POST", "/schedule", json.dumps(tasks))
            self.assertEqual(answer.status, 200, answer)
            expected = sorted((due, n, task) for (due, n), task in zip(expected, answer.json["ids"]))
            lateness = []
            for due, n, task in expected:
                event = stream.next()
                late = event.at * 1000 - due
                self.assertGreaterEqual(late, 0, "early")
                lateness.append(late)
                self.assertEqual(event.id, task, f"task {n}, due {due}")
        half = sorted(lateness)[len(lateness) // 2]
        self.note(f"half of them at most {half:.1f} ms late, the worst {max(lateness):.1f} ms")
        self.assertLess(half, 500)
        for event in server.page("/events?limit=1000")["data"]:
            self.assertGreaterEqual(millis(event["emitted_at"]), millis(event["due"]))

    def test_a_past_time_is_emitted_at_once(self):
        server = self.server()
        with server.stream() as stream:
            for stamp in ("2020-08-21T04:29:00.951Z", "0001-01-01", iso(-1)):
                began = time.monotonic()
                task = server.call("POST", "/schedule", body("x", stamp)).json["id"]
                self.assertEqual(stream.next().id, task)
                self.assertLess(time.monotonic() - began, support.SOON)

    def test_an_earlier_task_that_comes_later_is_not_kept_waiting(self):
        server = self.server()
        with server.stream() as stream:
            late = server.schedule("late", 0.8)
            early = server.schedule("early", 0.2)
            self.assertEqual([e.id for e in stream.messages(2)], [early, late])
