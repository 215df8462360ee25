# SPDX-License-Identifier: MIT
"""HttpApi on a plain httplib::Server: the same contract, with a prefix before all paths and
without, and what such a server lets through that the scheduler's own does not."""
import support
import test_contract
import test_hostile
import test_secret
import test_streams
import test_verbatim
from support import TestCase, body

# What another server answers by itself: other paths, and methods that it does not know.  Some
# releases drop fields without a value, and requests that are sent before the answer to the last.
ITS_OWN = {"test_an_unknown_path_is_404", "test_options_of_the_whole_server_names_every_method",
           "test_a_method_that_nobody_knows_is_405_and_connect_is_for_proxies",
           "test_without_the_secret_an_unknown_method_is_401_too",
           "test_an_empty_origin_is_a_foreign_one_too",
           "test_history_and_live_meet_without_a_gap_or_a_repeat_under_a_burst"}


class Mounted(TestCase):
    prefix = ""

    def setUp(self):
        if not support.MOUNTED:
            self.skipTest("no program with a mounted HttpApi was given: --mounted")
        self.where = {"program": support.MOUNTED, "prefix": self.prefix}
        super().setUp()


def mounted(base, prefix):
    """The tests of a class against a mounted HttpApi."""
    name = base.__name__ + ("MountedBehindAPrefix" if prefix else "Mounted")
    members = {"prefix": prefix, "nowhere": [], "__module__": __name__}
    return type(name, (Mounted, base), members | dict.fromkeys(ITS_OWN & set(dir(base))))


for at in ("", "/scheduler/v1.0"):
    for one in (test_contract.Schedule, test_contract.Cancel, test_contract.Read,
                test_contract.Routes, test_verbatim.Verbatim, test_verbatim.NotJson,
                test_secret.Secret, test_secret.Origin):
        test = mounted(one, at)
        globals()[test.__name__] = test
for one in (test_streams.Format, test_streams.Resume):  # their requests are bare, without a prefix
    test = mounted(one, "")
    globals()[test.__name__] = test
del one, test


class Beside(Mounted):
    """What is the server's own stays its own, and what is the scheduler's is right."""
    prefix = "/scheduler"

    def own(self, server, method, path, content=None, headers=()):
        with support.Wire(server.port) as wire:
            return wire.call(method, path, content, headers)

    def test_the_servers_own_routes_are_untouched(self):
        for prefix in ("", "/scheduler"):
            server = self.server(prefix=prefix, env={"SCHEDULER_SECRET": "s"})
            self.assertEqual(self.own(server, "GET", "/own").body, b"mine")
            self.assertEqual(self.own(server, "POST", "/own", "to it").body, b"to it")
            for path in ("/openapiXjson", "/nope", "/tasks/a/b", "/schedulerX/tasks"):
                self.assertEqual(self.own(server, "GET", path).status, 404, path)

    def test_behind_a_prefix_nothing_is_left_at_the_root(self):
        server = self.server()
        for path in ("/tasks", "/schedule", "/sse", "/healthz", "/openapi.json"):
            self.assertEqual(self.own(server, "GET", path).status, 404, path)
            self.assertEqual(server.call("OPTIONS", path).status, 204, path)

    def test_a_location_leads_to_the_task(self):
        server = self.server()
        place = server.call("POST", "/schedule", body("x")).header("Location")
        self.assertRegex(place, "^/scheduler/tasks/")
        self.assertEqual(self.own(server, "GET", place).json["status"], "pending")

    def test_the_description_says_where_its_paths_are(self):
        for prefix, url in (("", "/"), ("/scheduler", "/scheduler")):
            server = self.server(prefix=prefix)
            document = server.call("GET", "/openapi.json").json
            self.assertEqual(document["servers"], [{"url": url}])
            self.assertIn("/tasks/{id}", document["paths"])

    def test_every_described_path_says_what_it_allows(self):
        server = self.server()
        for path, item in server.call("GET", "/openapi.json").json["paths"].items():
            path = path.replace("{id}", support.UNKNOWN).replace("{name}", "valve")
            answer = server.call("OPTIONS", path)
            self.assertEqual(answer.status, 204, path)
            methods = set(answer.header("Allow").lower().split(", ")) - {"head", "options"}
            self.assertEqual(methods, set(item) - {"parameters"})
            other = next(method for method in ("PUT", "POST") if method.lower() not in methods)
            refused = server.call(other, path, "{}")
            self.assertEqual(refused.status, 405)
            self.assertEqual(refused.header("Allow"), answer.header("Allow"))

    def test_a_stream_begins_goes_on_and_resumes(self):
        server = self.server()
        with server.stream() as stream:
            first, second = server.schedule("1", 0), server.schedule("2", 0)
            self.assertEqual([stream.next().id, stream.next().id], [first, second])
        with server.stream(last=first) as stream:
            self.assertEqual(stream.next().id, second)

    def test_a_stream_ends_when_the_server_is_told_to(self):
        server = self.server()
        with server.stream() as stream:
            status, seconds = server.stop()
            self.assertEqual(status, 0)
            self.assertLess(seconds, 8)
            self.assertEqual(stream.rest(), b"")


class Hostile(Mounted, test_hostile.Hostile):
    """Bytes on the wire, so there is no prefix."""

    def once(self, data):
        """Sends bytes; all that comes until the server closes, which an idle one does soon."""
        with self.target.wire() as wire:
            wire.send(data.encode("latin-1"))
            return wire.rest()

    def test_a_body_without_end_is_refused_before_it_is_read(self):
        block = b"x" * (1 << 20)
        for head, chunk in (("Content-Length: 104857600", block),
                            ("Transfer-Encoding: chunked", b"100000\r\n" + block + b"\r\n"),
                            ("Transfer-Encoding: chunked", b"1\r\nx\r\n" * 100_000)):
            for method, path in (("POST", "/schedule"), ("PUT", "/schedule"),
                                 ("PATCH", "/tasks/x"), ("DELETE", "/tasks/x")):
                with self.subTest(head, path=path), self.target.wire() as wire:
                    wire.send(f"{method} {path} HTTP/1.1\r\n{test_hostile.HOST}{head}\r\n\r\n")
                    sent = wire.send_until_answered([chunk] * 100)
                    # Some releases do not read chunks after DELETE: it is as if there were none.
                    unread = {404} if method == "DELETE" else set()
                    self.assertIn(wire.answer().status, {405, 413} | unread)
                    self.assertLess(sent, 32 << 20)
                    self.assertTrue(wire.closed_by_server())

    def test_a_compressed_body_is_not_unpacked(self):
        for coding in ("gzip", "br", "deflate", "zstd"):
            bomb = f"{test_hostile.POST}Content-Encoding: {coding}\r\nContent-Length: 9\r\n\r\n"
            self.assertIn(b" 415 ", self.once(bomb + "\x1f\x8b" + "\0" * 7)[:20])

    def test_framing_that_a_proxy_may_read_otherwise_is_400_and_the_end(self):
        task, chunks = test_hostile.TASK, "0\r\n\r\n"
        length = f"Content-Length: {len(task)}"
        for head in (f"{length}\r\n{length}", f"{length}\r\nContent-Length: 5",
                     f"Transfer-Encoding: chunked\r\n{length}",
                     "Transfer-Encoding: gzip, chunked", "Transfer-Encoding: xchunked",
                     f"Content-Length : {len(task)}", f" {length}", f"X: y\r\n {length}",
                     f"Content-Length: +{len(task)}", f"Content-Length: 0x{len(task):x}"):
            for start in ("POST /schedule", "DELETE /tasks/x", "GET /tasks", "POST /cancel"):
                with self.subTest(f"{start} {head}"):
                    text = self.once(f"{start} HTTP/1.1\r\n{test_hostile.HOST}{head}\r\n\r\n"
                                     f"{chunks}{task}{test_hostile.SMUGGLED}")
                    self.assertIn(text[:12], (b"", b"HTTP/1.1 400"))
                    self.assertLessEqual(text.count(b"HTTP/1.1 "), 1, text)
                    self.assertNotIn(b"smuggled", text)
        self.assertEqual(self.target.pending(), 1)

    def test_a_body_that_was_refused_is_never_run_as_a_request(self):
        inner = test_hostile.SMUGGLED
        for start in ("PUT /schedule", "DELETE /tasks/x", "GET /tasks", "OPTIONS /tasks"):
            for framing in (f"Content-Length: {len(inner)}\r\n\r\n{inner}",
                            f"Content-Encoding: gzip\r\nContent-Length: {len(inner)}\r\n\r\n"
                            f"{inner}",
                            f"Transfer-Encoding: chunked\r\n\r\n{len(inner):x}\r\n{inner}\r\n"
                            "0\r\n\r\n"):
                with self.subTest(start + framing[:20]):
                    text = self.once(f"{start} HTTP/1.1\r\n{test_hostile.HOST}{framing}")
                    self.assertEqual(text.count(b"HTTP/1.1 "), 1, text)

    def test_a_range_is_passed_over(self):
        whole = self.target.call("GET", "/tasks/" + self.task)
        for value in ("bytes=0-0", "bytes=0-1,3-4,-1", "bytes=" + "0-," * 2_000 + "0-",
                      "bytes=99999-", "bytes=9999999999999999999-"):
            with self.subTest(value[:30]):
                answer = self.target.call("GET", "/tasks/" + self.task, None, [("Range", value)])
                if answer.status in (400, 416):  # that server has refused to read it
                    continue
                self.assertEqual((answer.status, answer.body), (200, whole.body))

    def test_a_long_path_or_query_harms_nobody(self):
        for path in ("/tasks/" + "x" * 129, "/tasks/" + "x" * 7_000, "/" + "x" * 7_000,
                     "/sinks/" + "x" * 7_000 + "/dead", "/tasks/" + "%41" * 2_000,
                     "/tasks?" + "a=b&" * 1_900):
            with self.subTest(path[:20]):
                self.assertIn(self.target.call("GET", path).status, (400, 404, 414))

    def test_no_value_is_reflected_into_a_header(self):
        test_hostile.Framing.test_nothing_of_a_request_is_reflected_into_headers(self)

    def test_odd_headers_change_nothing(self):
        for line in ("Range: x", "REMOTE_ADDR: 10.0.0.1", "X-HTTP-Method-Override: DELETE",
                     "Upgrade: h2c", "Connection: upgrade", "If-None-Match: *", "Cookie: a=%00",
                     "X-Forwarded-For: %0d%0a", "User-Agent: %s%n%x",
                     "Last-Event-ID: %0d%0aX: y", "Origin: %0d%0aX: y"):
            with self.subTest(line):
                text = self.once(f"GET /tasks/{self.task} HTTP/1.1\r\n{test_hostile.HOST}"
                                 f"Connection: close\r\n{line}\r\n\r\n")
                self.assertRegex(text[:12], b"^(HTTP/1.1 (200|400|403|416)|)$")
                self.assertNotIn(b"\r\nX: y", text)
                self.assertNotIn(b"EXCEPTION_WHAT", text)
