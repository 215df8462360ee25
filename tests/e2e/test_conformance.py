# SPDX-License-Identifier: MIT
"""HTTP/1.1 as RFC 9110 and RFC 9112 have it, a table of requests and what must come of each.

The tables cover every case of the public suites dropseed/h1spec (33, with its strict and its
hardening ones) and uNetworking/h1spec (33), as far as they do not ask for a server that echoes.
"""
import contextlib

from support import Closed, TestCase

HOST = "Host: 127.0.0.1\r\n"
TASK = '{"timestamp":"2020-01-01","message":"x"}'
SIZE = len(TASK)
# Sent behind every case: it is answered with 404 exactly where the connection goes on, and it
# shows where the server believes that a request begins.
PROBE = f"GET /tasks/probe HTTP/1.1\r\n{HOST}Connection: close\r\n\r\n"
BAD = (400,)


def get(fields="", line="GET /healthz HTTP/1.1", host=HOST):
    return f"{line}\r\n{host}{fields}\r\n"


def post(fields, content="", line="POST /schedule HTTP/1.1"):
    return f"{line}\r\n{HOST}{fields}\r\n{content}"


def chunked(content, fields=""):
    return post(f"{fields}Transfer-Encoding: chunked\r\n", content)


def chunks(first="", last="0\r\n\r\n"):
    """The task in two chunks, of which the first line of the first and the end are given."""
    return chunked(f"{first or '8'}\r\n{TASK[:8]}\r\n{SIZE - 8:x}\r\n{TASK[8:]}\r\n{last}")


class Conformance(TestCase):
    def setUp(self):
        super().setUp()
        self.target = self.server()

    def answers(self, data, methods):
        """The statuses of all that comes until the server closes."""
        with self.target.wire(seconds=10) as wire:
            wire.send_until_answered([data.encode("latin-1")])
            found = []
            with contextlib.suppress(Closed):
                while True:
                    method = methods[len(found)] if len(found) < len(methods) else "GET"
                    answer = wire.answer(method)
                    if answer.status == 100:
                        continue
                    if answer.status >= 400 and method != "HEAD":
                        self.assert_errors(answer, answer.status)
                    found.append(answer.status)
            return found

    def assert_goes_on(self, cases, methods=("GET",)):
        """Each is answered with one of its statuses, and the next request is too."""
        for name, data, statuses in cases:
            with self.subTest(name):
                found = self.answers(data + PROBE, methods)
                self.assertIn(found, [[status, 404] for status in statuses])

    def assert_ends(self, cases, methods=("GET",)):
        """Each is answered with one of its statuses, and nothing behind it is looked at."""
        for name, data, statuses in cases:
            with self.subTest(name):
                found = self.answers(data + PROBE, methods)
                self.assertIn(found, [[status] for status in statuses])


class RequestLine(Conformance):
    def test_a_well_formed_request_line_is_taken(self):
        self.assert_goes_on([
            ("plain", get(), (200,)),
            ("an empty line before it", "\r\n" + get(), (200,)),
            ("some empty lines before it", "\r\n\r\n\r\n" + get(), (200,)),
            ("a query", get(line="GET /tasks?limit=1 HTTP/1.1"), (200,)),
            ("an empty query", get(line="GET /healthz? HTTP/1.1"), (200,)),
            ("escapes that need not be", get(line="GET /%68ealth%7A HTTP/1.1"), (200,)),
            ("small letters in the method", get(line="get /healthz HTTP/1.1"), (405, 501)),
            ("an unknown method", get(line="BREW /healthz HTTP/1.1"), (405, 501)),
            ("an unknown method of odd letters", get(line="!#$%&'*+-.^_`|~ /healthz HTTP/1.1"),
             (405, 501)),
            ("an unknown path", get(line="GET /nothing HTTP/1.1"), (404,)),
        ])

    def test_a_malformed_request_line_is_400_and_the_end(self):
        odd = ("GET /healthz", "GET /", "GET / ", "GET", "GET /healthz HTTP/1.1 ",
               "GET /healthz HTTP/1.1 x", "GET /healthz http/1.1", "GET /healthz Http/1.1",
               "GET /healthz HTTP/1", "GET /healthz HTTP/1.", "GET /healthz HTTP/01.1",
               "GET /healthz HTTP/1.1.1", "GET /healthz HTTP /1.1", "GET /healthz HTTPS/1.1",
               "GET  /healthz HTTP/1.1", "GET /healthz  HTTP/1.1", " GET /healthz HTTP/1.1",
               "GET\t/healthz HTTP/1.1", "GET /healthz\tHTTP/1.1", "GET /hea lthz HTTP/1.1",
               "G@T /healthz HTTP/1.1", "G(T /healthz HTTP/1.1", "GET: /healthz HTTP/1.1",
               "GET /heal\0thz HTTP/1.1", "GET /heal\x7fthz HTTP/1.1", "GET /h\xe9althz HTTP/1.1",
               "GET /heal\rthz HTTP/1.1", "GET /healthz HTTP/1.1\r", "Extra lineGET / HTTP/1.1")
        self.assert_ends([(repr(line), get(line=line), BAD) for line in odd] + [
            ("an end with LF alone", f"GET /healthz HTTP/1.1\n{HOST}\r\n", BAD),
            ("a blank before the first field", f"GET /healthz HTTP/1.1\r\n {HOST}\r\n", BAD),
            ("an empty line of a blank", f" \r\nGET /healthz HTTP/1.1\r\n{HOST}\r\n", BAD),
        ])

    def test_another_version_of_http_is_told_and_the_end(self):
        self.assert_ends([(version, get(line=f"GET /healthz HTTP/{version}"), (400, 505))
                          for version in ("0.9", "2.0", "3.0", "9.9", "1.10", "11.1")])


class Target(Conformance):
    def test_the_absolute_form_goes_before_the_host_field(self):
        self.assert_goes_on([
            ("as it is", get(line="GET http://127.0.0.1/healthz HTTP/1.1"), (200,)),
            ("with a port", get(line="GET http://localhost:8080/healthz HTTP/1.1"), (200,)),
            ("large letters", get(line="GET HTTP://LOCALHOST/healthz HTTP/1.1"), (200,)),
            ("a query", get(line="GET http://127.0.0.1/tasks?limit=1 HTTP/1.1"), (200,)),
            ("without a path", get(line="GET http://127.0.0.1 HTTP/1.1"), (200, 404)),
            ("another Host, to be passed over",
             get(line="GET http://127.0.0.1/healthz HTTP/1.1", host="Host: evil.example\r\n"),
             (200,)),
            ("a foreign one", get(line="GET http://evil.example/healthz HTTP/1.1"), (403,)),
        ])

    def test_the_authority_form_belongs_to_connect_which_there_is_not(self):
        for target in ("127.0.0.1:443", "example.com:443", "[::1]:443"):
            with self.subTest(target):
                found = self.answers(get(line=f"CONNECT {target} HTTP/1.1") + PROBE, ())
                self.assertIn(found, ([405], [501], [405, 404], [501, 404]))
        self.assert_ends([(target, get(line=f"GET {target} HTTP/1.1"), BAD)
                          for target in ("127.0.0.1:80", "localhost", "example.com:443")])

    def test_the_asterisk_form_is_understood_where_options_has_it(self):
        with self.target.wire() as wire:
            wire.send(get(line="OPTIONS * HTTP/1.1") + PROBE)
            self.assertIn(wire.answer("OPTIONS").status, (200, 204, 404, 405))
            self.assertEqual(wire.answer().status, 404)
        for method in ("GET", "POST", "DELETE"):
            with self.subTest(method):
                found = self.answers(get(line=f"{method} * HTTP/1.1") + PROBE, ())
                self.assertIn(found, ([400], [404, 404], [405, 404]))

    def test_no_other_target_is_taken(self):
        odd = ("healthz", "*healthz", "//", "http://", "http:///healthz", "http:/healthz",
               "ftp://127.0.0.1/healthz", "http://a@127.0.0.1/healthz",
               "http://127.0.0.1:x/healthz", "http://127.0.0.1:1:1/healthz",
                "http://[::1/healthz", "http://a b/healthz", "?")
        for target in odd:
            with self.subTest(target):
                found = self.answers(get(line=f"GET {target} HTTP/1.1") + PROBE, ())
                self.assertIn(found, ([400], [404, 404]) if target == "//" else ([400],))


class Host(Conformance):
    def test_a_host_field_that_is_missing_or_repeated_is_400_and_the_end(self):
        self.assert_ends([
            ("none", get(host=""), BAD),
            ("none beside a length", get("Content-Length: 5\r\n", host=""), BAD),
            ("two", get(host=HOST + "Host: evil.example\r\n"), BAD),
            ("the same twice", get(host=HOST * 2), BAD),
            ("two beside the absolute form",
             get(line="GET http://127.0.0.1/healthz HTTP/1.1", host=HOST * 2), BAD),
            ("none beside the absolute form",
             get(line="GET http://127.0.0.1/healthz HTTP/1.1", host=""), BAD),
        ])

    def test_a_host_that_can_be_none_is_400(self):
        values = ("bad host", "127.0.0.1 evil.example", "127.0.0.1, evil.example", "127.0.0.1/",
                  "http://127.0.0.1", "user@127.0.0.1", "127.0.0.1:x", "127.0.0.1:-1",
                  "127.0.0.1:80:80", "[::1", "::1", "[::1]x", "[127.0.0.1]",
                  "[::g]", "local\0host", "a\tb", "\"a\"", "<a>", "a\\b", "a?b", "a#b", "a^b",
                  "{a}")
        for value in values:
            with self.subTest(value):
                found = self.answers(get(host=f"Host: {value}\r\n") + PROBE, ())
                self.assertIn(found, ([400], [400, 404]))

    def test_a_host_that_is_one_is_judged_by_whom_it_names(self):
        self.assert_goes_on(
            [(value, get(host=f"Host: {value}\r\n"), (200,))
             for value in ("127.0.0.1", "localhost", "LocalHost", "localhost:1", "127.0.0.1:65535",
                           "[::1]", "[::1]:80", "[0:0:0:0:0:0:0:1]", "\t127.0.0.1 \t")] +
            [(value, get(host=f"Host: {value}\r\n"), (403,))
             for value in ("evil.example", "evil.example:80", "my_host", "192.0.2.1",
                           "[2001:db8::1]", "localhost.evil.example")])
        self.assert_goes_on([("no blank behind the colon", get(host="Host:127.0.0.1\r\n"), (200,)),
                             ("letters of any size", get(host="hOsT: 127.0.0.1\r\n"), (200,))])


class Fields(Conformance):
    def test_well_formed_fields_are_taken(self):
        lines = ("X-Empty:", "X-Empty: ", "X-Empty: \t ", "X:y", "x: \xe9\xff", "X: a\tb",
                 "!#$%&'*+-.^_`|~1: x", "X: " + "y" * 9000, "X: \"quoted, ; = text\"", "x-y_z.1: x",
                 "Upgrade: h2c", "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c",
                 "TE: trailers, deflate;q=0.5", "Expect: 100-continue", "Content-Length: 0",
                 "Connection: closed", "Connection: x-close", "Max-Forwards: 0", "Via: 1.1 x")
        self.assert_goes_on([(line[:40], get(line + "\r\n"), (200,)) for line in lines])
        many = "".join(f"X-{n}: y\r\n" for n in range(90))
        self.assert_goes_on([("ninety of them", get(many), (200,))])

    def test_malformed_fields_are_400_and_the_end(self):
        lines = ("X : y", "X\t: y", ": y", " : y", "X", "X y", "a b: x", "X[]: y", "X(: y",
                 "X\": y", "X@: y", "X/: y",
                 "X\xe9: y", "X\0: y", "X: a\0b", "X: a\x07b", "X: a\x7fb",
                 "X: a\x1bb", "X: a\rb", "X: y\r\n folded", "X: y\r\n\tfolded", "X: y\r\n  ",
                 "X: y\r\n : z", "X: y\nZ: z", "X: y\n", "\rX: y", "X: y\r", "X: y\r\n\rZ: z",
                 "\x0bX: y", "Content-Length : 0", "Transfer-Encoding : chunked")
        self.assert_ends([(repr(line), get(line + "\r\n"), BAD) for line in lines])
        self.assert_ends([("the last line ends with LF alone",
                           f"GET /healthz HTTP/1.1\r\n{HOST}\n", BAD)])

    def test_more_than_a_head_may_have_is_refused(self):
        self.assert_ends([
            ("a line of 9,000 bytes", get(line=f"GET /{'a' * 9000} HTTP/1.1"), (414,)),
            ("101 fields", get("X: y\r\n" * 101), (431,)),
            ("17,000 bytes of a field", get(f"X: {'y' * 17_000}\r\n"), (431,)),
        ])


class Framing(Conformance):
    def test_a_body_ends_where_its_length_says(self):
        length = f"Content-Length: {SIZE}"
        self.assert_goes_on([
            ("its length", post(f"{length}\r\n", TASK), (200,)),
            ("any letters", post(f"content-LENGTH:{SIZE}\r\n", TASK), (200,)),
            ("blanks around it", post(f"Content-Length: \t {SIZE} \t\r\n", TASK), (200,)),
            ("zeros before it", post(f"Content-Length: 000{SIZE}\r\n", TASK), (200,)),
            ("of nothing", post("Content-Length: 0\r\n"), BAD),
            ("no body", post(""), BAD),
            ("of a GET", get(f"{length}\r\n") + TASK, (200,)),
            ("of an unknown path", post(f"{length}\r\n", TASK, "POST /nothing HTTP/1.1"), (404,)),
            ("of another method", post(f"{length}\r\n", TASK, "PUT /schedule HTTP/1.1"), (405,)),
            ("of no JSON", post("Content-Length: 5\r\n", "hello"), BAD),
        ])
        self.assert_goes_on([("of a HEAD", get(f"{length}\r\n", "HEAD /healthz HTTP/1.1") + TASK,
                              (200,))], ("HEAD",))

    def test_two_ways_to_tell_a_bodys_end_or_an_unclear_one_are_400_and_the_end(self):
        length, coding = f"Content-Length: {SIZE}", "Transfer-Encoding: chunked"
        fields = [f"{length}\r\n{length}", f"{length}\r\nContent-Length: {SIZE + 1}",
                  "Content-Length: 5\r\nContent-Length: 7", f"Content-Length: {SIZE}, {SIZE}",
                  f"Content-Length: {SIZE},", f"Content-Length: +{SIZE}", "Content-Length: -1234",
                  "Content-Length: -123456789123456789123456789", "Content-Length: abc",
                  "Content-Length: xyz", "Content-Length:", f"Content-Length: {SIZE}x",
                  f"Content-Length: 0x{SIZE:x}", f"Content-Length: {SIZE}.0",
                  f"Content-Length: {SIZE} 0", f"Content-Length: {SIZE}\r\n 0",
                  f"Content-Length: {SIZE};", "Content-Length: \xb2", f"Content-Length: 1_{SIZE}",
                  f"{length}\r\n{coding}", f"{coding}\r\n{length}",
                  "content-LengtH: 5\r\nTransFer-Encoding: chunked", f"{coding}\r\n{coding}",
                  f"{coding}, chunked", "Transfer-Encoding: chunked, identity",
                  "Transfer-Encoding: chunked, gzip", "Transfer-Encoding: nonsense",
                  "Transfer-Encoding: identity", "Transfer-Encoding: gzip",
                  "Transfer-Encoding: gzip, chunked", "Transfer-Encoding:",
                  "Transfer-Encoding: chunke", "Transfer-Encoding: xchunked",
                  "Transfer-Encoding: chunkedx", "Transfer-Encoding: \x0bchunked",
                  "Transfer-Encoding: chunked;q=1", "Transfer-Encoding: chunked\r\n , x",
                  "Transfer-Encoding: \"chunked\"", "Transfer-Encoding:\r\n chunked",
                  "Transfer-Encoding: ,chunked,x", "Transfer-Encoding: x\r\n" + coding]
        self.assert_ends([(field, post(f"{field}\r\n", f"5\r\nhello\r\n0\r\n\r\n{TASK}"),
                           (400, 415, 501) if "Transfer" in field else BAD) for field in fields])
        for method in ("GET", "DELETE", "OPTIONS"):
            both = get(f"{length}\r\n{coding}\r\n", f"{method} /tasks HTTP/1.1")
            self.assert_ends([(method, both, BAD)])

    def test_a_body_in_chunks_ends_with_the_last_one(self):
        self.assert_goes_on([
            ("plain", chunks(), (200,)),
            ("zeros before a size", chunks("0008"), (200,)),
            ("an extension", chunks("8;a"), (200,)),
            ("an extension with a value", chunks("8;a=b"), (200,)),
            ("an extension with a quoted value", chunks('8;a="b;c=d"'), (200,)),
            ("blanks around an extension", chunks("8 ; a = b"), (200,)),
            ("a last chunk of zeros", chunks(last="000\r\n\r\n"), (200,)),
            ("a last chunk with an extension", chunks(last="0;a=b\r\n\r\n"), (200,)),
            ("a trailer", chunks(last="0\r\nX: y\r\n\r\n"), (200,)),
            ("trailers that would frame", chunks(
                last="0\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"), (200,)),
            ("a trailer that would be a foreign host", chunks(
                last="0\r\nHost: evil\r\n\r\n"), (200,)),
            ("any letters of the coding", post(
                "TRANSFER-ENCODING:  Chunked \r\n", f"{SIZE:X}\r\n{TASK}\r\n0\r\n\r\n"), (200,)),
            ("of nothing", chunked("0\r\n\r\n"), BAD),
            ("of a GET", get("Transfer-Encoding: chunked\r\n") + "1\r\nx\r\n0\r\n\r\n", (200,)),
            ("of no JSON", chunked("c\r\nHellO world1\r\n0\r\n\r\n"), BAD),
        ])

    def test_chunks_that_are_none_are_400_and_the_end(self):
        self.assert_ends([(repr(size), chunks(size), BAD) for size in (
            "Z", "-8", "+8", "0x8", "8h", "8_", " 8", "\t8", "8 8", "8 x", "8\0", "\x0b8", "8,8",
            "8\r", "8\n", "8;a\nb", "8;a\rb", "fffffffffffffffff", "10000000000000008", "8.0",
            "\r\n8")])
        self.assert_ends([
            ("more data than its size", chunked("3\r\nhello\r\n0\r\n\r\n"), BAD),
            ("no end of data", chunked("5\r\nhello0\r\n\r\n"), BAD),
            ("data that ends with LF alone", chunked("5\r\nhello\n0\r\n\r\n"), BAD),
            ("data that ends with CR alone", chunked("5\r\nhello\r0\r\n\r\n"), BAD),
            ("a last chunk that ends with LF alone", chunks(last="0\n\r\n"), BAD),
            ("a trailer without a colon", chunks(last="0\r\nX\r\n\r\n"), BAD),
            ("a trailer with a blank before its colon", chunks(last="0\r\nX : y\r\n\r\n"), BAD),
            ("a folded trailer", chunks(last="0\r\nX: y\r\n z\r\n\r\n"), BAD),
            ("a trailer that ends with LF alone", chunks(last="0\r\nX: y\n\r\n"), BAD),
            ("a trailer without a name", chunks(last="0\r\n: y\r\n\r\n"), BAD),
            ("an end with LF alone", chunks(last="0\r\n\n"), BAD),
            ("HTTP/1.0", post("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n",
                              "POST /schedule HTTP/1.0"), BAD),
        ])


class Persistence(Conformance):
    def test_a_connection_goes_on_unless_either_side_ends_it(self):
        self.assert_ends([(line, get(line + "\r\n"), (200,)) for line in (
            "Connection: close", "Connection: CLOSE", "Connection: keep-alive, close",
            "Connection: close, keep-alive", "Connection: x,close", "Connection: close\t,x",
            "Connection: keep-alive\r\nConnection: close", "connection:close")])
        old = "GET /healthz HTTP/1.0"
        both = "Connection: keep-alive, close\r\n"
        self.assert_ends([("HTTP/1.0", get(line=old), (200,)),
                          ("HTTP/1.0, close", get("Connection: close\r\n", old), (200,)),
                          ("HTTP/1.0, both", get(both, old), (200,))])
        self.assert_goes_on([
            ("keep-alive", get("Connection: keep-alive\r\n"), (200,)),
            ("HTTP/1.0, keep-alive", get("Connection: Keep-Alive\r\n", old), (200,))])

    def test_the_answer_says_whether_the_connection_goes_on(self):
        for fields, line, wanted in (("", "GET /healthz HTTP/1.1", None),
                                     ("Connection: close\r\n", "GET /healthz HTTP/1.1", "close"),
                                     ("", "GET /healthz HTTP/1.0", "close"),
                                     ("Connection: keep-alive\r\n", "GET /healthz HTTP/1.0",
                                      "keep-alive")):
            with self.subTest(f"{line} {fields}"), self.target.wire() as wire:
                wire.send(get(fields, line))
                answer = wire.answer()
                self.assertEqual((answer.status, answer.header("Connection")), (200, wanted))
                self.assertIsNone(answer.header("Transfer-Encoding"))

    def test_pipelined_requests_are_answered_one_by_one(self):
        with self.target.wire() as wire:
            wire.send(get() + post(f"Content-Length: {SIZE}\r\n", TASK) + chunks() +
                      get(line="HEAD /healthz HTTP/1.1") + get(line="GET /nothing HTTP/1.1") +
                      get(line="OPTIONS /schedule HTTP/1.1") +
                      get(line="DELETE /tasks/x HTTP/1.1") + PROBE + get())
            found = [wire.answer(method).status for method in (
                "GET", "POST", "POST", "HEAD", "GET", "OPTIONS", "DELETE", "GET")]
            self.assertIn(found[5], (200, 204))
            self.assertEqual(found[:5] + found[6:], [200, 200, 200, 200, 404, 404, 404])
            self.assertTrue(wire.closed_by_server(), "behind the one that asked for it")

    def test_a_request_is_waited_for_wherever_it_is_cut(self):
        whole = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
        cuts = {"G": 1, "the target": 4, "within it": 10, "a blank": 13, "HTTP": 17, "the line": 21,
                "its CR": 22, "its LF": 23, "Hos": 26, "its colon": 28, "its blank": 29,
                "its value": 38, "the value's CR": 39, "the value's LF": 40, "the last CR": 41}
        wires = {cut: self.opened(self.target.wire()) for cut in cuts.values()}
        for cut, wire in wires.items():
            wire.send(whole[:cut])
        self.assertEqual(self.target.call("GET", "/healthz").status, 200)
        for cut, wire in wires.items():
            wire.socket.setblocking(False)
            with self.subTest(cut), self.assertRaises(BlockingIOError):
                wire.socket.recv(1)
            wire.socket.settimeout(10)
            wire.send(whole[cut:])
            self.assertEqual(wire.answer().status, 200)


class Answers(Conformance):
    def test_an_answer_to_head_has_the_head_of_the_answer_to_get_and_no_body(self):
        task = self.target.schedule("x")
        for path in ("/healthz", "/readyz", "/tasks", "/events", "/openapi.json", "/sinks",
                     "/tasks/" + task, "/nothing", "/tasks/nothing", "/tasks?nonsense=1"):
            with self.subTest(path), self.target.wire() as wire:
                got = wire.call("GET", path)
                wire.send(get(line=f"HEAD {path} HTTP/1.1") + PROBE)
                head = wire.answer("HEAD")
                self.assertEqual(head.status, got.status)
                self.assertEqual(head.header("Content-Length"), str(len(got.body)))
                self.assertEqual(head.header("Content-Type"), got.header("Content-Type"))
                self.assertEqual(wire.answer().status, 404, "no body between them")

    def test_a_method_that_a_path_has_not_is_405_with_those_that_it_has(self):
        for method, path, allowed in (("GET", "/schedule", "POST"), ("PUT", "/healthz", "GET"),
                                      ("POST", "/tasks/x", "DELETE"), ("TRACE", "/healthz", "GET")):
            with self.subTest(f"{method} {path}"):
                answer = self.target.call(method, path, "")
                self.assert_errors(answer, 405)
                self.assertIn(allowed, answer.header("Allow").split(", "))
        answer = self.target.call("OPTIONS", "/schedule")
        self.assertIn(answer.status, (200, 204))
        self.assertIn("POST", answer.header("Allow"))

    def test_100_continue_comes_where_it_is_waited_for_and_nowhere_else(self):
        expects = "Expect: 100-continue\r\n"
        with self.target.wire() as wire:
            wire.send(post(f"Content-Length: {SIZE}\r\n{expects}"))
            self.assertEqual(wire.answer().status, 100)
            wire.send(TASK)
            self.assertEqual(wire.answer().status, 200)
            wire.send(post(f"Transfer-Encoding: chunked\r\n{expects.upper()}"))
            self.assertEqual(wire.answer().status, 100)
            wire.send(f"{SIZE:x}\r\n{TASK}\r\n0\r\n\r\n")
            self.assertEqual(wire.answer().status, 200)
        refused = ("Content-Length: 99999999\r\n",
                   "Content-Length: 5\r\nContent-Encoding: gzip\r\n",
                   "Content-Length: 5\r\nContent-Type: multipart/form-data\r\n")
        for fields, status in zip(refused, (413, 415, 415)):
            with self.subTest(fields), self.target.wire() as wire:
                wire.send(post(fields + expects))
                self.assertEqual(wire.answer().status, status, "in place of it")
        with self.target.wire() as wire:  # HTTP/1.0 does not know it
            wire.send(post(f"Content-Length: {SIZE}\r\n{expects}", TASK, "POST /schedule HTTP/1.0"))
            self.assertEqual(wire.answer().status, 200)

    def test_a_task_whose_end_is_unclear_is_not_scheduled(self):
        for fields in (f"Content-Length: {SIZE}\r\nTransfer-Encoding: chunked\r\n",
                       f"Content-Length: {SIZE}\r\nContent-Length: 0\r\n",
                       f"Content-Length: {SIZE}\r\nContent-Length : 0\r\n",
                       "Transfer-Encoding: chunked, identity\r\n"):
            for content in (TASK, f"{SIZE:x}\r\n{TASK}\r\n0\r\n\r\n"):
                with self.subTest(fields + content[:5]):
                    self.assertEqual(len(self.answers(post(fields, content) + PROBE, ())), 1)
        self.assertEqual(self.target.page("/events")["data"], [])
