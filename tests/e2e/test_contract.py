# SPDX-License-Identifier: MIT
"""The requests of the contract, one by one: statuses, headers, bodies."""
import json
import re

from support import STAMP, UNKNOWN, UUID, TestCase, body, iso, millis, wait_for

TIME = "2020-08-21T04:29:00.951Z"


class Schedule(TestCase):
    def test_a_task_is_answered_with_its_timestamp_as_given_its_id_and_its_place(self):
        server = self.server()
        for stamp in (TIME, "2020-08-21", "2020-08-21t06:29:00.951+02:00"):
            answer = server.call("POST", "/schedule", body("x", stamp))
            self.assertEqual(answer.status, 200, answer)
            self.assertRegex(answer.body.decode(), r'^\{"message":"Scheduled task at ' +
                             re.escape(stamp) + r'","id":"' + UUID + r'"\}$')
            self.assertEqual(answer.header("Location"),
                             f"{server.prefix}/tasks/{answer.json['id']}")
            self.assertEqual(answer.header("Content-Type").split(";")[0], "application/json")

    def test_the_payload_is_the_request_as_an_object_minified_and_without_secret(self):
        server = self.server()
        cases = [
            (f'{{ "timestamp" : "{TIME}" ,\r\n\t"message" : [ 1 , "a b" ] }}',
             f'{{"timestamp":"{TIME}","message":[1,"a b"]}}'),
            # Other members stay, in their order, before and between.
            (f'{{"b":2,"message":"x","a":{{"z":[ ],"y":null}},"timestamp":"{TIME}","c":1.10}}',
             f'{{"b":2,"message":"x","a":{{"z":[],"y":null}},"timestamp":"{TIME}","c":1.10}}'),
            # The secret goes wherever it stands, also when none is configured, and however its
            # name is written; inside a message it is just a word.
            (f'{{"secret":"s3","timestamp":"{TIME}","message":"x"}}',
             f'{{"timestamp":"{TIME}","message":"x"}}'),
            (f'{{"timestamp":"{TIME}", "secret" : "s3" , "message":"x"}}',
             f'{{"timestamp":"{TIME}","message":"x"}}'),
            (f'{{"timestamp":"{TIME}","message":"x","secret":"s3"}}',
             f'{{"timestamp":"{TIME}","message":"x"}}'),
            (f'{{"timestamp":"{TIME}","s\\u0065cret":"s3","message":"x"}}',
             f'{{"timestamp":"{TIME}","message":"x"}}'),
            (f'{{"timestamp":"{TIME}","message":{{"secret":"kept"}},"o":{{"secret":"kept"}}}}',
             f'{{"timestamp":"{TIME}","message":{{"secret":"kept"}},"o":{{"secret":"kept"}}}}'),
            # A member that is named by an escape is that member, and keeps its spelling.
            (f'{{"t\\u0069mestamp":"{TIME}","mess\\u0061ge":"x"}}',
             f'{{"t\\u0069mestamp":"{TIME}","mess\\u0061ge":"x"}}'),
        ]
        with server.stream() as stream:
            for text, payload in cases:
                with self.subTest(text):
                    answer = server.call("POST", "/schedule", text)
                    self.assertEqual(answer.status, 200, answer)
                    event = stream.next()
                    self.assertEqual(event.id, answer.json["id"])
                    self.assertEqual(event.data, payload)
                    task = server.call("GET", "/tasks/" + event.id)
                    self.assertIn(f'"payload":{payload}'.encode(), task.body)

    def test_a_message_is_an_object_an_array_or_a_string(self):
        server = self.server()
        for message in ('{}', '[]', '""', '{"a":{}}', '[[]]', '"x"'):
            text = f'{{"timestamp":"{TIME}","message":{message}}}'
            answer = server.call("POST", "/schedule", text)
            self.assertEqual(answer.status, 200, answer)
        for message in ("null", "true", "false", "0", "1.5"):
            with self.subTest(message):
                answer = server.call("POST", "/schedule",
                                     f'{{"timestamp":"{TIME}","message":{message}}}')
                self.assertIn("message", " ".join(self.assert_errors(answer, 400)))

    def test_all_that_is_wrong_is_answered_at_once(self):
        server = self.server()
        for text, names in [
            ("{}", ("timestamp", "message")),
            ('{"timestamp":5,"message":5}', ("timestamp", "message")),
            ('{"timestamp":"tomorrow","message":null}', ("timestamp", "message")),
            ('{"timestamp":"9999-01-01"}', ("year", "message")),
            ('{"timestamp":{}}', ("timestamp", "message")),
        ]:
            with self.subTest(text):
                errors = self.assert_errors(server.call("POST", "/schedule", text), 400, 2)
                for name in names:
                    self.assertTrue(any(name in error for error in errors), errors)

    def test_a_second_timestamp_message_or_secret_is_refused(self):
        server = self.server()
        good = f'"timestamp":"{TIME}","message":"x","secret":"s"'
        for extra in (f'"timestamp":"{TIME}"', '"message":"x"', '"secret":"s"',
                      '"m\\u0065ssage":"x"', '"secre\\u0074":"s"'):
            with self.subTest(extra):
                self.assert_errors(server.call("POST", "/schedule", f"{{{good},{extra}}}"), 400)
        answer = server.call("POST", "/schedule", f'{{{good},"a":1,"a":2}}')
        self.assertEqual(answer.status, 200, "other members may repeat")

    def test_a_refused_request_leaves_no_trace(self):
        server = self.server()
        with server.stream() as stream:
            for text in ("", "{}", f'{{"timestamp":"{TIME}","message":5}}',
                         body("x", "9999-01-01"), body("x", TIME) + "x"):
                self.assert_errors(server.call("POST", "/schedule", text), 400)
            self.assertEqual(server.pending(), 0)
            self.assertEqual(server.page("/events")["page_info"]["total_count"], 0)
            last = server.schedule("the only one", 0)
            self.assertEqual(stream.next().id, last)

    def test_the_content_type_does_not_matter(self):
        server = self.server()
        for kind in ("application/x-www-form-urlencoded", "text/plain", "application/octet-stream",
                     "application/json; charset=utf-8", "nonsense", ""):
            for size in (10, 20_000):
                with self.subTest(kind, size=size):
                    answer = server.call("POST", "/schedule", body("x" * size),
                                         [("Content-Type", kind)])
                    self.assertEqual(answer.status, 200, answer)

    def test_a_multipart_body_is_415_whatever_is_in_it(self):
        server = self.server()
        kind = [("Content-Type", "multipart/form-data; boundary=b")]
        parts = ('--b\r\nContent-Disposition: form-data; name="timestamp"\r\n\r\n' + TIME
                 + '\r\n--b--\r\n')
        for text in (body("x"), parts):
            self.assert_errors(server.call("POST", "/schedule", text, kind), 415)
        self.assertEqual(server.pending(), 0)

    def test_a_compressed_body_is_415(self):
        server = self.server()
        for coding in ("gzip", "br", "deflate", "GZIP"):
            with self.subTest(coding):
                answer = server.call("POST", "/schedule", body("x"), [("Content-Encoding", coding)])
                self.assert_errors(answer, 415)
        self.assertEqual(server.pending(), 0)

    def test_the_task_limit_is_507_until_there_is_room(self):
        server = self.server("--max-tasks", "3")
        ids = [server.schedule(n) for n in ("a", "b", "c")]
        self.assert_errors(server.call("POST", "/schedule", body("d")), 507)
        self.assertEqual(server.pending(), 3)
        self.assertEqual(server.call("DELETE", "/tasks/" + ids[1]).status, 200)
        server.schedule("d")
        self.assertEqual(server.pending(), 3)


class Cancel(TestCase):
    def cancel_both_ways(self, server, task):
        yield lambda: server.call("POST", "/cancel", json.dumps({"id": task}))
        yield lambda: server.call("DELETE", "/tasks/" + task)

    def test_a_cancelled_task_is_gone(self):
        server = self.server()
        for way in (0, 1):
            task = server.schedule("x")
            answer = list(self.cancel_both_ways(server, task))[way]()
            self.assertEqual(answer.status, 200, answer)
            self.assertEqual(answer.body, f'{{"message":"Cancelled task {task}"}}'.encode())
            self.assert_errors(server.call("GET", "/tasks/" + task), 404)
            for again in self.cancel_both_ways(server, task):
                self.assert_errors(again(), 404)
        self.assertEqual(server.pending(), 0)

    def test_a_cancelled_task_is_never_emitted(self):
        server = self.server()
        with server.stream() as stream:
            task = server.schedule("cancelled", 0.3)
            self.assertEqual(server.call("DELETE", "/tasks/" + task).status, 200)
            after = server.schedule("after", 0.5)
            self.assertEqual(stream.next().id, after)

    def test_an_emitted_task_is_409_and_an_unknown_one_404(self):
        server = self.server()
        with server.stream() as stream:
            task = server.schedule("x", 0)
            stream.next()
        for attempt in self.cancel_both_ways(server, task):
            self.assert_errors(attempt(), 409)
        for attempt in self.cancel_both_ways(server, UNKNOWN):
            self.assert_errors(attempt(), 404)
        self.assert_errors(server.call("DELETE", "/tasks/nonsense"), 404)

    def test_a_cancel_that_names_no_id_is_400(self):
        server = self.server()
        for text in ("", "{}", "[]", '"x"', "null", '{"id":5}', '{"id":null}', '{"id":["x"]}', "{",
                     f'{{"id":"{UNKNOWN}"}} x'):
            with self.subTest(text):
                self.assert_errors(server.call("POST", "/cancel", text), 400)


class Read(TestCase):
    def test_a_task_shows_its_status_before_and_after(self):
        server = self.server()
        stamp = iso(0.4)
        payload = {"timestamp": stamp, "message": {"a": 1}}
        with server.stream() as stream:
            task = server.call("POST", "/schedule", json.dumps(payload)).json["id"]
            answer = server.call("GET", "/tasks/" + task)
            self.assertEqual(answer.status, 200)
            self.assertEqual(answer.header("Content-Type").split(";")[0], "application/json")
            pending = answer.json
            stored = pending.pop("stored_at")
            self.assertRegex(stored, f"^{STAMP}$")
            self.assertEqual(pending, {"id": task, "status": "pending", "due": stamp,
                                       "payload": payload, "sinks": []})
            stream.next()
        shown = server.page("/tasks/" + task)
        emitted, late = shown.pop("emitted_at"), shown.pop("late_ms")
        self.assertEqual(shown, {"id": task, "status": "emitted", "due": stamp, "payload": payload,
                                 "stored_at": stored, "sinks": []})
        self.assertRegex(emitted, f"^{STAMP}$")
        self.assertEqual(millis(emitted) - millis(stamp), late)
        self.assertGreaterEqual(late, 0)
        for unknown in (UNKNOWN, "nonsense", "%00", task + "x"):
            self.assert_errors(server.call("GET", "/tasks/" + unknown), 404)

    def test_pending_tasks_are_listed_by_due_time_and_ties_by_arrival(self):
        server = self.server()
        same = iso(5000)
        ids = {}
        for name, stamp in (("d", iso(9000)), ("b1", same), ("a", iso(4000)), ("b2", same),
                            ("c", iso(6000)), ("b3", same)):
            ids[name] = server.call("POST", "/schedule", body(name, stamp)).json["id"]
        page = server.page("/tasks")
        names = [task["payload"]["message"] for task in page["data"]]
        self.assertEqual(names, ["a", "b1", "b2", "b3", "c", "d"])
        self.assertEqual(list(page), ["page_info", "data"])
        self.assertEqual(page["page_info"]["total_count"], 6)
        self.assertEqual(page["page_info"]["count"], 6)
        self.assertIsNone(page["page_info"]["end_cursor"], "nothing follows")
        self.assertEqual([task["id"] for task in page["data"]], [ids[name] for name in names])
        for task in page["data"]:
            self.assertEqual(task["status"], "pending")
            self.assertEqual(task["due"], task["payload"]["timestamp"])

    def test_an_empty_list_is_an_empty_page(self):
        server = self.server()
        for path in ("/tasks", "/events"):
            self.assertEqual(server.page(path), {
                "page_info": {"total_count": 0, "count": 0, "start_cursor": None,
                              "end_cursor": None, "matching_count": 0}, "data": []})

    def test_pages_of_tasks_follow_each_other_while_tasks_come_and_go(self):
        server = self.server()
        stamps = [iso(1000 + n // 3) for n in range(30)]  # several share a due time
        ids = [server.call("POST", "/schedule", body(str(n), stamp)).json["id"]
               for n, stamp in enumerate(stamps)]
        seen, cursor, sizes = [], None, []
        while True:
            page = server.page("/tasks?limit=7" + (f"&after={cursor}" if cursor else ""))
            self.assertEqual(page["page_info"]["count"], len(page["data"]))
            seen += [task["id"] for task in page["data"]]
            sizes.append(len(page["data"]))
            cursor = page["page_info"]["end_cursor"]
            if cursor is None:
                break
            if len(sizes) == 1:
                # The very task that the cursor came from goes, others come before and after it.
                for gone in (seen[-1], ids[2], ids[20]):
                    self.assertEqual(server.call("DELETE", "/tasks/" + gone).status, 200)
                server.schedule("before", 900)
                server.schedule("after", 3000)
        self.assertEqual(len(seen), len(set(seen)), "an item twice")
        self.assertEqual(seen[:-1], [i for i in ids if i != ids[20]])
        self.assertEqual(sizes, [7, 7, 7, 7, 2])

    def test_tasks_are_filtered_by_due_time(self):
        server = self.server()
        for name, seconds in (("a", 1000), ("b", 2000), ("c", 3000)):
            server.schedule(name, seconds)

        def names(query):
            page = server.page("/tasks?" + query)
            self.assertEqual(page["page_info"]["total_count"], 3, "counts all pending")
            return "".join(task["payload"]["message"] for task in page["data"])

        self.assertEqual(names(f"due_after={iso(1500)}"), "bc")
        self.assertEqual(names(f"due_before={iso(2500)}"), "ab")
        self.assertEqual(names(f"due_after={iso(1500)}&due_before={iso(2500)}"), "b")
        self.assertEqual(names(f"due_after={iso(2500)}&due_before={iso(1500)}"), "")
        self.assertEqual(names(f"due_after={iso(500)}&limit=2"), "ab")

    def test_tasks_and_events_are_searched_for(self):
        server = self.server()
        for n in range(5):
            server.schedule(f"needle {n}" if n % 2 else f"hay {n}", 1000 + n)
        server.schedule("needle past", 0)
        wait_for(lambda: server.page("/events")["data"], what="an event")
        for path, found in (("/tasks?q=needle", ["needle 1", "needle 3"]),
                            ("/tasks?q=hay&limit=2", ["hay 0", "hay 2"]),
                            ("/events?q=needle", ["needle past"]), ("/events?q=hay", [])):
            with self.subTest(path):
                page = server.page(path)
                self.assertEqual([one["payload"]["message"] for one in page["data"]], found)
        page = server.page("/tasks?q=hay&limit=2")["page_info"]
        self.assertEqual((page["total_count"], page["matching_count"]), (5, 3))
        page = server.page(f"/tasks?q=hay&after={page['end_cursor']}")
        self.assertEqual([one["payload"]["message"] for one in page["data"]], ["hay 4"])
        for query in ("q=", "q", "q=%00", "q=%ff", "q=" + 257 * "x"):
            for method, path in (("GET", "/tasks"), ("GET", "/events"), ("DELETE", "/tasks")):
                with self.subTest(method + path + query):
                    self.assert_errors(server.call(method, f"{path}?{query}"), 400)
        self.assertEqual(server.call("DELETE", "/tasks?q=needle").json, {"cancelled": 2})
        self.assertEqual(server.pending(), 3)

    def test_pending_tasks_are_counted_by_spans_of_time(self):
        server = self.server()
        for seconds in (10, 20, 30, 3600):
            server.schedule("x", seconds)
        got = server.call("GET", "/histogram").json
        self.assertEqual((len(got["counts"]), sum(got["counts"]), got["counts"][-1]), (100, 4, 1))
        end = iso(1800)
        got = server.call("GET", f"/histogram?buckets=2&due_before={end}").json
        self.assertEqual((got["counts"], got["to"]), ([3, 0], end))
        for query in ("buckets=0", "buckets=501", "buckets=-1", "buckets=x", "buckets=",
                      "due_after=2027&due_before=2027", "due_after=2027&due_before=2026", "n=1"):
            with self.subTest(query):
                self.assert_errors(server.call("GET", "/histogram?" + query), 400)

    def test_bad_queries_are_400(self):
        server = self.server()
        server.schedule("x", 0)
        wait_for(lambda: server.page("/events")["data"], what="an event")
        for path in ("/tasks", "/events"):
            for query in ("limit=0", "limit=1001", "limit=-1", "limit=x", "limit=", "limit=1.5",
                          "limit=99999999999999999999"):
                with self.subTest(path + "?" + query):
                    self.assert_errors(server.call("GET", f"{path}?{query}"), 400)
            self.assertEqual(server.call("GET", path + "?limit=1000").status, 200)
        for query in ("due_after=x", "due_before=", "after=nonsense"):
            with self.subTest(query):
                self.assert_errors(server.call("GET", "/tasks?" + query), 400)

    def test_events_are_listed_in_order_of_emission(self):
        server = self.server()
        with server.stream() as stream:
            ids = []
            for n in range(10):
                ids.append(server.schedule(str(n), 0, extra=[n]))
                self.assertEqual(stream.next().id, ids[-1])
        page = server.page("/events")
        self.assertEqual([event["id"] for event in page["data"]], ids)
        info = page["page_info"]
        self.assertEqual((info["total_count"], info["count"], info["end_cursor"]), (10, 10, None))
        for n, event in enumerate(page["data"]):
            self.assertEqual(list(event), ["id", "due", "emitted_at", "late_ms", "payload"])
            self.assertEqual(event["payload"]["extra"], [n])
            self.assertEqual(millis(event["emitted_at"]) - millis(event["due"]), event["late_ms"])

        def get(query):
            return [event["id"] for event in server.page("/events?" + query)["data"]]

        self.assertEqual(get("limit=3"), ids[7:], "the newest")
        self.assertEqual(get("limit=3&after=earliest"), ids[:3], "from the start")
        self.assertEqual(get(f"limit=3&after={ids[3]}"), ids[4:7], "right after")
        self.assertEqual(get(f"limit=3&before={ids[7]}"), ids[4:7], "right before")
        self.assertEqual(get(f"after={ids[9]}"), [])
        self.assertEqual(get(f"before={ids[0]}"), [])
        walked, cursor = [], "earliest"
        while cursor:
            page = server.page(f"/events?limit=4&after={cursor}")
            walked += [event["id"] for event in page["data"]]
            cursor = page["page_info"]["end_cursor"]
        self.assertEqual(walked, ids)
        for way in ("after", "before"):
            errors = self.assert_errors(server.call("GET", f"/events?{way}={UNKNOWN}"), 404)
            self.assertIn(ids[0], " ".join(errors), "names the oldest")

    def test_health_is_answered(self):
        answer = self.server().call("GET", "/healthz")
        self.assertEqual(answer.status, 200, answer)


class Routes(TestCase):
    def test_an_unknown_path_is_404(self):
        server = self.server()
        for path in ("/nope", "/schedule/", "/SCHEDULE", "/tasks/a/b", "/schedulex", "/cancel/x",
                     "/sse/x", "//schedule", "/events/" + UNKNOWN, "/../schedule", "/%2fschedule"):
            for method in ("GET", "POST", "DELETE"):
                with self.subTest(f"{method} {path}"):
                    content = "{}" if method == "POST" else None
                    self.assert_errors(server.call(method, path, content), 404)

    def test_a_known_path_with_another_method_is_405_and_says_what_it_allows(self):
        server = self.server()
        task = server.schedule("x")
        for method, path, allowed in (
            ("GET", "/schedule", {"POST"}), ("PUT", "/schedule", {"POST"}),
            ("DELETE", "/schedule", {"POST"}), ("PATCH", "/schedule", {"POST"}),
            ("GET", "/cancel", {"POST"}), ("POST", "/tasks/" + task, {"GET", "DELETE"}),
            ("PUT", "/tasks", {"GET", "DELETE"}), ("POST", "/tasks", {"GET"}),
            ("GET", "/pause", {"POST"}), ("PUT", "/resume", {"POST"}), ("POST", "/status", {"GET"}),
            ("PUT", "/events", {"GET"}), ("POST", "/sse", {"GET"}), ("DELETE", "/sse", {"GET"}),
            ("POST", "/healthz", {"GET"}),
        ):
            with self.subTest(f"{method} {path}"):
                answer = server.call(method, path, "{}")
                self.assert_errors(answer, 405)
                allow = set(re.split(r", *", answer.header("Allow") or ""))
                self.assertLessEqual(allowed, allow)
                self.assertNotIn(method, allow)
        self.assertEqual(server.pending(), 1)

    def test_a_method_that_nobody_knows_is_405_and_connect_is_for_proxies(self):
        server = self.server()
        for method, path, status in (("BREW", "/schedule", 405), ("get", "/tasks", 405),
                                     ("BREW", "/nope", 404), ("CONNECT", "example.org:443", 501)):
            with self.subTest(f"{method} {path}"):
                self.assert_errors(server.call(method, path), status)

    def test_options_of_the_whole_server_names_every_method(self):
        server = self.server()
        answer = server.call("OPTIONS", "*")
        self.assertEqual(answer.status, 204, answer)
        self.assertEqual(set(answer.header("Allow").split(", ")),
                         {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

    def test_head_is_get_without_the_body(self):
        server = self.server()
        task = server.schedule("x")
        with server.wire() as wire:
            for path in ("/healthz", "/tasks", "/tasks/" + task, "/events", "/tasks/" + UNKNOWN):
                with self.subTest(path):
                    head = wire.call("HEAD", path)
                    get = wire.call("GET", path)  # nothing was left over on the connection
                    self.assertEqual(head.status, get.status)
                    self.assertEqual(head.header("Content-Type"), get.header("Content-Type"))
                    self.assertEqual(head.header("Content-Length"), get.header("Content-Length"))

    def test_head_of_the_stream_ends(self):
        with self.server().wire() as wire:
            wire.request("HEAD", "/sse", None, [("Connection", "close")])
            answer = wire.answer("HEAD")
            self.assertIn(answer.status, (200, 405))
            self.assertTrue(wire.closed_by_server(), "no body after a HEAD")
