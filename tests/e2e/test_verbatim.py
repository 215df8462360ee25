# SPDX-License-Identifier: MIT
"""What goes in comes out token for token, and what is no JSON does not go in."""
from support import TestCase, body, iso

VERBATIM = [
    # Numbers keep their text: none of these survives a double.
    '[12345678901234567890]', '[1.10]', '[-0.0]', '[-0]', '[1E400]', '[1e999]', '[-1e-999]',
    '[1e5,1E+5,1e-05,100000]', '[0.1000000000000000055511151231257827]', '[9007199254740993]',
    '[' + '9' * 5000 + ']',
    # Names keep their order and may repeat.
    '{"b":1,"a":2}', '{"a":1,"a":2,"a":1}', '{"":0}', '{"a":{"z":1,"y":{"b":[],"a":{}}}}',
    '{"__proto__":1,"constructor":2}',
    # Strings keep their escapes and their bytes.
    '"\\u00e9"', '"\\u00E9"', '"é"', '"\\/"', '"/"', '"\\b\\f\\n\\r\\t\\"\\\\"', '"\\u0000"',
    '"\\ud83d\\ude00"', '"😀"', '"\\ud800"', '"\\udc00\\ud800"', '["\\uDEAD"]', '{"\\ud800":1}',
    '"\x7f"', '"\u2028\u2029"', '"\ufeff"', '"\uffff"', '"\U0010ffff"', '"  spaces  stay  "',
    '"data: x"', '":"', '"id: 5\\n\\ndata: y"', '"a\u0085b"', '"' + "x" * 100_000 + '"',
    # Depth within the limit of 100.
    "[" * 90 + "]" * 90, '{"a":' * 90 + "{}" + "}" * 90,
    "[true,false,null]",
]


class Verbatim(TestCase):
    def test_messages_come_out_token_for_token_everywhere_also_after_a_restart(self):
        server = self.server()
        stamp = iso(3600)
        ids = []
        with server.stream() as stream:
            for message in VERBATIM:
                with self.subTest(message[:80]):
                    # Once an hour ahead, to see it pending and recovered; once at once.
                    text = f'{{"timestamp":"{stamp}","message":{message}}}'
                    answer = server.call("POST", "/schedule", text)
                    self.assertEqual(answer.status, 200, answer)
                    ids.append((answer.json["id"], text))
                    now = f'{{"timestamp":"2020-01-01","message":{message}}}'
                    answer = server.call("POST", "/schedule", now)
                    event = stream.next()
                    self.assertEqual(event.data.encode(), now.encode())
                    self.assertEqual(event.lines, ["id: " + answer.json["id"], "data: " + now])
        for round in ("before", "after"):
            for task, text in ids:
                with self.subTest(text[:120], restart=round):
                    answer = server.call("GET", "/tasks/" + task)
                    self.assertIn(f'"payload":{text}'.encode(), answer.body)
            pages = (server.call("GET", "/tasks?limit=1000").body,
                     server.call("GET", "/events?limit=1000").body)
            for message in VERBATIM:
                for page in pages:
                    self.assertIn(f'"message":{message}}}'.encode(), page)
            if round == "before":
                server.kill()
                server.start()

    def test_only_white_space_between_tokens_goes(self):
        server = self.server()
        with server.stream() as stream:
            for message, minified in (
                (' { "a b" :\t[ 1 ,\n2 ]\r\n , "c" : " d  e " } ', '{"a b":[1,2],"c":" d  e "}'),
                ("[\n\n]", "[]"), ("{ }", "{}"), ('[ "\\n" ,\t"\\t"]', '["\\n","\\t"]'),
                ("[-0.0 , 1E400\n]", "[-0.0,1E400]"),
            ):
                with self.subTest(message):
                    text = f'\r\n {{ "timestamp" : "2020-01-01" , "message":{message}}} \n'
                    answer = server.call("POST", "/schedule", text)
                    self.assertEqual(answer.status, 200, answer)
                    self.assertEqual(stream.next().data,
                                     f'{{"timestamp":"2020-01-01","message":{minified}}}')


class NotJson(TestCase):
    def refuse(self, server, cases):
        before = server.pending()
        for text in cases:
            with self.subTest(text[:100]):
                self.assert_errors(server.call("POST", "/schedule", text), 400)
        self.assertEqual(server.pending(), before)

    def test_bodies_that_are_no_json_object_are_400(self):
        good = body("x")
        self.refuse(self.server(), [
            "", " ", "\n", "x", "null", "true", "5", '"text"', "{", "}", "[1]", "{]", "{}{}", "{,}",
            good[:-1], good + "x", good + good, good + "}", good + "\0", "x" + good, good[1:],
            good.replace('"', "'"), good.replace(":", "="), "{" + good + "}", "// c\n" + good,
            good.replace(",", ",,"), good.replace("}", ",}"), "timestamp=2020&message=x",
        ])

    def test_messages_that_are_no_json_are_400(self):
        bad = ["[01]", "[-01]", "[1.]", "[.5]", "[2.e3]", "[-.123]", "[1e]", "[1e+]", "[+1]",
               "[0x10]", "[NaN]", "[Infinity]", "[-]", "[1 2]", "[1,]", "[,1]", "[1", "1]", "{1:2}",
               '{"a"}', '{"a":}', '{"a":1,}', '{"a" 1}', "{a:1}", '"', '"a', '"\\x"', '"\\u12"',
               '"\\u12g4"', '"\\"', '"\t"', '"\n"', '"\0"', '"\x1f"', "'a'", "[tru]", "[TRUE]",
               "[nul]", "[\x0b]", "[\xa0]", "[\ufeff]", "[1]]", '{"a":1}}', "[\"a\" \"b\"]"]
        self.refuse(self.server(), [f'{{"timestamp":"2020-01-01","message":{m}}}' for m in bad])

    def test_text_that_is_no_utf_8_is_400(self):
        bad = [b"\xff", b"\x80", b"\xc3", b"\xc3(", b"\xc0\xaf", b"\xe0\x80\xaf", b"\xed\xa0\x80",
               b"\xed\xbf\xbf", b"\xf0\x80\x80\xaf", b"\xf4\x90\x80\x80", b"\xf8\x88\x80\x80\x80",
               b"\xe2\x82", b"\xf0\x9f\x98", b"\xfe", b"a\xff"]
        server = self.server()
        self.refuse(server, [b'{"timestamp":"2020-01-01","message":"' + b + b'"}' for b in bad])
        self.refuse(server, [b'{"timestamp":"2020-01-01","message":{"' + b + b'":1}}' for b in bad])
        self.refuse(server, [b'{"timestamp":"' + b + b'","message":"x"}' for b in bad[:3]])
        self.refuse(server, [b'\xff\xfe{\0}\0', body("x").encode("utf-16"), b"\xff" * 1000])

    def test_nesting_beyond_the_limit_is_400_at_any_size(self):
        server = self.server()
        start = '{"timestamp":"2020-01-01","message":'
        self.refuse(server, [
            "[" * 100_000, "[" * 100_000 + "]" * 100_000, '{"a":' * 100_000, "[{" * 100_000,
            start + "[" * 150 + "]" * 150 + "}", start + '{"a":' * 150 + "1" + "}" * 151,
            start + "[" * 100_000, start + '{"a":[' * 100_000,
            '{"x":' + "[" * 100_000 + "]" * 100_000 + ',"timestamp":"2020-01-01","message":"m"}',
        ])
        # Wide is not deep.
        wide = "[" + ",".join(["[{}]"] * 50_000) + "]"
        self.assertEqual(server.call("POST", "/schedule", start + wide + "}").status, 200)

    def test_wrong_types_and_missing_members_are_400(self):
        server = self.server()
        stamps = ("5", "1597984140", "1e999", "null", "true", "{}", "[]", '["2020-01-01"]', '""')
        self.refuse(server, [f'{{"timestamp":{s},"message":"x"}}' for s in stamps])
        self.refuse(server, ['{"message":"x"}', '{"timestamp":"2020-01-01"}', "{}",
                             '{"Timestamp":"2020-01-01","Message":"x"}',
                             '{"a":{"timestamp":"2020-01-01","message":"x"}}'])
