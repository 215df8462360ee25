// SPDX-License-Identifier: MIT
#include "support.hpp"

using scheduler::detail::JsonReader;

namespace {

bool accepts(std::string_view text) {
    JsonReader reader(text);
    std::string_view value;
    reader.value(value);
    return reader.finish();
}

std::string minified(std::string_view text) {
    JsonReader reader(text);
    std::string_view value;
    std::string out;
    REQUIRE(reader.value(value, &out));
    REQUIRE(reader.finish());
    return out;
}

std::string problem(std::string_view text) {
    JsonReader reader(text);
    std::string_view value;
    reader.value(value);
    reader.finish();
    return reader.problem();
}

// What RFC 3629 allows, by decoding first and judging the code points.
bool is_utf8(const std::string& text) {
    for (std::size_t at = 0; at < text.size();) {
        const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[at + i]); };
        const unsigned lead = byte(0);
        std::size_t length = 0;
        for (const unsigned ones : {1U, 2U, 3U, 4U}) {
            const unsigned mark = ones == 1 ? 0U : 0xFF00U >> ones & 0xFFU;
            const unsigned mask = ones == 1 ? 0x80U : mark | 0x80U >> ones;
            if ((lead & mask) == mark) length = ones;
        }
        if (length == 0 || at + length > text.size()) return false;
        std::uint32_t code = length == 1 ? lead : lead & (0x7FU >> length);
        for (std::size_t i = 1; i < length; ++i) {
            if (byte(i) >> 6 != 2) return false;
            code = code << 6 | (byte(i) & 0x3FU);
        }
        const std::uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
        if (code < least[length] || code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF)) {
            return false;
        }
        at += length;
    }
    return true;
}

}  // namespace

TEST_SUITE("text") {
    TEST_CASE("every kind of JSON value is accepted") {
        for (const char* text : {"null",
                                 "true",
                                 "false",
                                 "0",
                                 "-0",
                                 "-0.0",
                                 "1.10",
                                 "12345678901234567890",
                                 "1e999",
                                 "1E-2",
                                 "1e+2",
                                 "\"\"",
                                 "\"a\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9\"",
                                 "\"\\ud800\"",
                                 "[]",
                                 "{}",
                                 "[1,2]",
                                 "{\"a\":1,\"a\":2}",
                                 " [ { \"a\" : [ ] } ] ",
                                 "[[],{}]"}) {
            CAPTURE(text);
            CHECK(accepts(text));
        }
    }

    TEST_CASE("what RFC 8259 does not allow is refused") {
        for (const char* text : {"",
                                 " ",
                                 "nul",
                                 "nulll",
                                 "True",
                                 "01",
                                 "-",
                                 "-01",
                                 "1.",
                                 ".5",
                                 "-.5",
                                 "+1",
                                 "2.e3",
                                 "1e",
                                 "1e+",
                                 "0x1",
                                 "NaN",
                                 "Infinity",
                                 "'a'",
                                 "\"",
                                 "\"a",
                                 "\"\\x\"",
                                 "\"\\u12g4\"",
                                 "\"\\u12\"",
                                 "\"\t\"",
                                 "[",
                                 "]",
                                 "[1",
                                 "[1,",
                                 "[1,]",
                                 "[,1]",
                                 "[1 2]",
                                 "[1}",
                                 "{",
                                 "{\"a\"",
                                 "{\"a\":",
                                 "{\"a\":1",
                                 "{\"a\":1,",
                                 "{\"a\":1,}",
                                 "{a:1}",
                                 "{1:1}",
                                 "{\"a\" 1}",
                                 "{,}",
                                 "1 2",
                                 "{}x",
                                 "[]]",
                                 "\xEF\xBB\xBF{}",
                                 "/**/1",
                                 "[1]\f"}) {
            CAPTURE(text);
            CHECK_FALSE(accepts(text));
        }
        CHECK_FALSE(accepts(std::string_view("\0", 1)));
        CHECK_FALSE(accepts(std::string_view("1\0", 2)));
    }

    TEST_CASE("a message is copied token for token, and only white space goes") {
        CHECK(minified(" { \"z\" : 1.10 ,\n\"a\":[ -0.0 , 12345678901234567890 ],\t\"a\" : "
                       "\"\\u00e9 x\" } ") ==
              "{\"z\":1.10,\"a\":[-0.0,12345678901234567890],\"a\":\"\\u00e9 x\"}");
        CHECK(minified("\"a  b\"") == "\"a  b\"");
        CHECK(minified("[ ]") == "[]");
    }

    TEST_CASE("a hundred levels of nesting are accepted, and one more is refused") {
        const auto nested = [](std::size_t depth) {
            return std::string(depth, '[') + std::string(depth, ']');
        };
        CHECK(accepts(nested(100)));
        CHECK_FALSE(accepts(nested(101)));
        CHECK_FALSE(accepts(std::string(100'000, '[')));
        std::string objects;
        for (int i = 0; i < 101; ++i) objects += "{\"a\":";
        CHECK(problem(objects) == "nesting deeper than 100 levels at byte 500");
    }

    TEST_CASE("a text is valid exactly if all its characters are") {
        for (unsigned first = 0x80; first < 0x100; ++first) {
            for (unsigned second = 0; second < 0x100; ++second) {
                if (second == '"' || second == '\\' || second < 0x20) continue;
                const std::string pair{static_cast<char>(first), static_cast<char>(second)};
                CAPTURE(first);
                CAPTURE(second);
                REQUIRE(accepts('"' + pair + '"') == is_utf8(pair));
                for (const char* tail : {"\x80", "\xBF", "\x7F", "\xC0", "\x80\x80", "\xBF\xBF",
                                         "\x80\x7F", "\x80\xC0"}) {
                    REQUIRE(accepts('"' + pair + tail + '"') == is_utf8(pair + tail));
                }
            }
        }
    }

    TEST_CASE("a problem says what is wrong and where") {
        CHECK(problem("{\"a\":01}") == "a number with a leading zero at byte 6");
        CHECK(problem("[1 2]") == "',' or ']' expected at byte 3");
        CHECK(problem("{} x") == "text after the end of the value at byte 3");
    }

    TEST_CASE("an object is read member by member, with values as they stand") {
        JsonReader reader(R"( {"a" : [1, 2], "b\n": {} , "c":"x"} )");
        std::string_view key;
        std::string_view value;
        REQUIRE(reader.enter_object());
        REQUIRE(reader.next_member(key));
        CHECK(key == "a");
        REQUIRE(reader.value(value));
        CHECK(value == "[1, 2]");
        REQUIRE(reader.next_member(key));
        CHECK(key == "b\\n");
        REQUIRE(reader.enter_object());
        CHECK_FALSE(reader.next_member(key));
        REQUIRE(reader.next_member(key));
        CHECK(reader.peek() == '"');
        REQUIRE(reader.value(value));
        CHECK_FALSE(reader.next_member(key));
        CHECK(reader.finish());
    }

    TEST_CASE("an object that is not read to its end is not finished") {
        JsonReader reader("{\"a\":1}");
        std::string_view key;
        std::string_view value;
        REQUIRE(reader.enter_object());
        REQUIRE(reader.next_member(key));
        REQUIRE(reader.value(value));
        CHECK_FALSE(reader.finish());
    }

    TEST_CASE("a name means the same however it is escaped") {
        using scheduler::detail::is_named;
        CHECK(is_named("secret", "secret"));
        CHECK(is_named("s\\u0065cret", "secret"));
        CHECK_FALSE(is_named("Secret", "secret"));
        CHECK_FALSE(is_named("s\\ud800cret", "secret"));
    }

    TEST_CASE("a string's characters are read, and what is no text is not") {
        using scheduler::detail::read_string;
        CHECK(read_string("\"a b\"") == "a b");
        CHECK(read_string("\"\\u00e9\\ud83d\\ude00\\n\"") == "\xC3\xA9\xF0\x9F\x98\x80\n");
        CHECK_FALSE(read_string("12"));
        CHECK_FALSE(read_string("\"\\ud800\""));
    }

    TEST_CASE("text in quotes comes back as it was") {
        std::string text = "\"\\/ \xC3\xA9";
        for (char c = 0; c < 0x20; ++c) text += c;
        text += '\x7F';
        std::string quoted;
        scheduler::detail::append_quoted(quoted, text);
        CHECK(accepts(quoted));
        CHECK(scheduler::detail::read_string(quoted) == text);
    }

    TEST_CASE("a changed payload keeps everything but what was changed") {
        using scheduler::detail::changed_payload;
        const char* payload = R"({"x":1.0,"timestamp":"old","mess\u0061ge":{"a":1},"y":[]})";
        CHECK(changed_payload(payload, "new", "") ==
              R"({"x":1.0,"timestamp":"new","mess\u0061ge":{"a":1},"y":[]})");
        CHECK(changed_payload(payload, "", "[2]") ==
              R"({"x":1.0,"timestamp":"old","mess\u0061ge":[2],"y":[]})");
    }
}
