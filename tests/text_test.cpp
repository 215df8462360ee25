// SPDX-License-Identifier: MIT
#include "support.hpp"

namespace text_test {

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
        std::string mixed = "0";
        for (int i = 0; i < 50; ++i) mixed = "{\"a\":[" + mixed + "]}";
        CHECK(accepts(mixed));
        CHECK_FALSE(accepts('[' + mixed + ']'));
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

    TEST_CASE("a character that the text's end cuts short is refused, and nothing behind it read") {
        for (const char* start : {"\"\xC3", "\"\xE2", "\"\xE2\x82", "\"\xF0", "\"\xF0\x9F",
                                  "\"\xF0\x9F\x98", "\"\\", "\"\\u", "\"\\u00e"}) {
            const std::string_view text(start);
            const std::vector<char> exact(text.begin(), text.end());  // a sanitizer guards its end
            CAPTURE(text);
            CHECK_FALSE(accepts(std::string_view(exact.data(), exact.size())));
        }
    }

    TEST_CASE("a problem says what is wrong and where") {
        const std::pair<const char*, const char*> cases[] = {
            {"", "a value expected, but the text ends at byte 0"},
            {" ?", "a value expected at byte 1"},
            {"[1,]", "a value expected at byte 3"},
            {"{\"a\":01}", "a number with a leading zero at byte 6"},
            {"-x", "a digit expected at byte 1"},
            {"1.x", "a digit expected after the point at byte 2"},
            {"1e+", "a digit expected in the exponent at byte 3"},
            {"[1 2]", "',' or ']' expected at byte 3"},
            {"{\"a\":1]", "',' or '}' expected at byte 6"},
            {"{\"a\" 1}", "':' expected at byte 5"},
            {"{\"a\":1,}", "a member's name in quotes expected at byte 7"},
            {"\"ab", "a string without its closing quote at byte 3"},
            {"\"a\n\"", "a control character in a string (it must be escaped) at byte 2"},
            {"\"a\\x\"", "an unknown escape at byte 3"},
            {"\"\\u12g4\"", "four hexadecimal digits expected after \\u at byte 2"},
            {"\"\xC3\xA9\xFF\"", "invalid UTF-8 at byte 3"},
            {"{} x", "text after the end of the value at byte 3"},
            {"[1]", ""},
        };
        for (const auto& one : cases) {
            const auto& text = one.first;
            const auto& expected = one.second;
            CAPTURE(text);
            CHECK(problem(text) == expected);
        }
    }

    TEST_CASE("what is there of a text is enough, and one byte less is not") {
        const std::string whole = R"({"a":[1.5e-3,"\u00e9",{"b":null}],"c":{"d":[true,false]}})";
        for (std::size_t size = 0; size < whole.size(); ++size) {
            CAPTURE(size);
            REQUIRE_FALSE(accepts(whole.substr(0, size)));
            REQUIRE(problem(whole.substr(0, size)).find(" at byte ") != std::string::npos);
        }
        CHECK(accepts(whole));
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

    TEST_CASE("an array is read element by element, into arrays within it as well") {
        JsonReader reader(" [ 1 , [ 2, 3 ] , [ ] ] ");
        std::string_view value;
        std::string seen;
        REQUIRE(reader.enter_array());
        while (reader.next_element()) {
            if (reader.enter_array()) {
                seen += '(';
                while (reader.next_element() && reader.value(value)) seen += value;
                seen += ')';
            } else if (reader.value(value)) {
                seen += value;
            }
        }
        CHECK(reader.finish());
        CHECK(seen == "1(23)()");
    }

    TEST_CASE("to ask for a container where there is none is no violation") {
        JsonReader reader(" 12");
        std::string_view value;
        CHECK_FALSE(reader.enter_object());
        CHECK_FALSE(reader.enter_array());
        CHECK_FALSE(reader.failed());
        CHECK(reader.value(value));
        CHECK(value == "12");
        CHECK(reader.finish());
    }

    TEST_CASE("a text of which nothing was read is not finished") {
        for (const char* text : {"", " ", "1"}) {
            CAPTURE(text);
            JsonReader reader(text);
            CHECK_FALSE(reader.enter_object());
            CHECK_FALSE(reader.finish());
        }
    }

    TEST_CASE("a text is one value, and what follows it is not read") {
        for (const char* text : {"1 2", "{}{}", "[] 1", "1 {}"}) {
            CAPTURE(text);
            JsonReader reader(text);
            std::string_view value;
            REQUIRE(reader.value(value));
            CHECK_FALSE(reader.enter_object());
            CHECK_FALSE(reader.value(value));
            CHECK_FALSE(reader.finish());
        }
    }

    TEST_CASE("a container ends by its own bracket, and only from within") {
        std::string_view key;
        JsonReader outside("}");
        CHECK_FALSE(outside.next_member(key));
        CHECK_FALSE(outside.finish());
        JsonReader mixed("{\"a\":1]");
        std::string_view value;
        REQUIRE(mixed.enter_object());
        REQUIRE(mixed.next_member(key));
        REQUIRE(mixed.value(value));
        CHECK_FALSE(mixed.next_element());
        CHECK_FALSE(mixed.finish());
        CHECK(mixed.problem() == "an array expected at byte 6");
    }

    TEST_CASE("after the first violation nothing more is read") {
        JsonReader reader("[?, 1]");
        std::string_view value;
        REQUIRE(reader.enter_array());
        REQUIRE(reader.next_element());
        REQUIRE_FALSE(reader.value(value));
        const std::string first = reader.problem();
        CHECK_FALSE(reader.next_element());
        CHECK_FALSE(reader.value(value));
        CHECK_FALSE(reader.enter_array());
        CHECK_FALSE(reader.finish());
        CHECK(reader.problem() == first);
    }

    TEST_CASE("a trailing comma is refused by whoever reads step by step") {
        JsonReader array("[1,]");
        std::string_view key;
        std::string_view value;
        REQUIRE(array.enter_array());
        while (array.next_element() && array.value(value)) continue;
        CHECK_FALSE(array.finish());
        JsonReader object("{\"a\":1,}");
        REQUIRE(object.enter_object());
        while (object.next_member(key) && object.value(value)) continue;
        CHECK_FALSE(object.finish());
    }

    TEST_CASE("a value is copied behind what is there, and its slice is untouched") {
        JsonReader reader("{\"a\" : [ 1 , 2 ] , \"b\":3}");
        std::string_view key;
        std::string_view value;
        std::string out = "kept:";
        REQUIRE(reader.enter_object());
        REQUIRE(reader.next_member(key));
        REQUIRE(reader.value(value, &out));
        CHECK(out == "kept:[1,2]");
        CHECK(value == "[ 1 , 2 ]");
        REQUIRE(reader.next_member(key));
        REQUIRE(reader.value(value));
        CHECK(out == "kept:[1,2]");
    }

    TEST_CASE("a name means the same however it is escaped") {
        using scheduler::detail::is_named;
        CHECK(is_named("secret", "secret"));
        CHECK(is_named("s\\u0065cret", "secret"));
        CHECK_FALSE(is_named("Secret", "secret"));
        CHECK_FALSE(is_named("s\\ud800cret", "secret"));
        CHECK_FALSE(is_named("secret\\u0000", "secret"));
        CHECK_FALSE(is_named("", "secret"));
        std::string escaped;
        for (const char c : std::string("timestamp")) {
            escaped += "\\u00";
            escaped += scheduler::detail::hex_digit(static_cast<unsigned>(c) >> 4);
            escaped += scheduler::detail::hex_digit(static_cast<unsigned>(c));
        }
        CHECK(is_named(escaped, "timestamp"));
    }

    TEST_CASE("a string's characters are read, and what is no text is not") {
        using scheduler::detail::read_string;
        CHECK(read_string("\"a b\"") == "a b");
        CHECK(read_string("\"\\u00e9\\ud83d\\ude00\\n\"") == "\xC3\xA9\xF0\x9F\x98\x80\n");
        CHECK_FALSE(read_string("12"));
        CHECK_FALSE(read_string("\"\\ud800\""));
        CHECK_FALSE(read_string("\"\\udc00\""));
        CHECK_FALSE(read_string("\"\\ud800\\ud800\""));
        CHECK_FALSE(read_string(""));
        CHECK_FALSE(read_string("null"));
        CHECK(read_string("\"\"") == "");
        CHECK(read_string("\"\\u0000\"") == std::string(1, '\0'));
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

    TEST_CASE("text in quotes holds no control character, and is otherwise as it was") {
        std::string quoted;
        scheduler::detail::append_quoted(quoted, "a\x1F\x7F~/\xC2\x80\"");
        CHECK(quoted == "\"a\\u001f\\u007f~/\xC2\x80\\\"\"");
    }

    TEST_CASE("text in quotes is read by others as it was, one character at a time") {
        for (unsigned code = 0; code < 0x80; ++code) {
            const std::string text = "<" + std::string(1, static_cast<char>(code)) + ">";
            std::string quoted = "before";
            scheduler::detail::append_quoted(quoted, text);
            picojson::value value;
            CAPTURE(code);
            REQUIRE(picojson::parse(value, quoted.substr(6)).empty());
            REQUIRE(value.get<std::string>() == text);
        }
    }

    TEST_CASE("a changed payload keeps everything but what was changed") {
        using scheduler::detail::changed_payload;
        const char* payload = R"({"x":1.0,"timestamp":"old","mess\u0061ge":{"a":1},"y":[]})";
        CHECK(changed_payload(payload, "new", "") ==
              R"({"x":1.0,"timestamp":"new","mess\u0061ge":{"a":1},"y":[]})");
        CHECK(changed_payload(payload, "", "[2]") ==
              R"({"x":1.0,"timestamp":"old","mess\u0061ge":[2],"y":[]})");
    }

    TEST_CASE("JSON is checked and quoted, and a message found, by functions that are public") {
        using namespace scheduler;
        CHECK(json_problem(R"({"a":[1,"x"]})").empty());
        CHECK(json_problem(" 1 ").empty());
        CHECK(json_problem(R"({"a":)").find(" at byte 5") != std::string::npos);
        CHECK_FALSE(json_problem("").empty());
        CHECK_FALSE(json_problem("1 2").empty());
        CHECK(quote_json("a\"\\\n\x7F\xC2\x9B") == "\"a\\\"\\\\\\u000a\\u007f\xC2\x9B\"");
        CHECK_FALSE(json_problem(quote_json("\xFF")).empty());
        CHECK(message_of(R"({"timestamp":"x","m\u0065ssage":{"n":1.10},"message2":1})") ==
              R"({"n":1.10})");
        CHECK(message_of("{}").empty());
        CHECK(message_of("").empty());
    }
}

}  // namespace text_test
