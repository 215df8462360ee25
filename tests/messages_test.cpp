// SPDX-License-Identifier: MIT
//
// Section 13.2: HTTP/1.1 messages, taken out of bytes that come in any pieces (RFC 9112).
#include <doctest/doctest.h>

#include <random>

#include "scheduler.hpp"

namespace messages_test {

using scheduler::detail::MessageReader;
using Kind = MessageReader::Kind;
using Step = MessageReader::Step;

namespace {

// What a reader finds in a text that comes in pieces of these sizes, as text.
std::string read_in_pieces(Kind kind, std::string_view text,
                           const std::function<std::size_t()>& piece) {
    MessageReader reader(kind, 1'000);
    std::string found;
    const auto tell = [&](Step step) {
        if (step == Step::refused) {
            found += "refused " + std::to_string(reader.refusal().status) + '\n';
        } else if (step == Step::whole) {
            const auto& message = reader.request();
            found += std::string(message.method) + ' ' + std::string(message.target) + ' ';
            found += std::to_string(reader.status()) + '\n';
            for (const auto& [name, value] : message.fields) {
                found += std::string(name) + '=' + std::string(value) + '\n';
            }
            found += message.body + '\n' + std::to_string(message.body_status) + '\n';
            found += reader.can_go_on() ? "goes on\n" : "ends\n";
        }
        return step == Step::whole && reader.can_go_on();
    };
    for (std::string_view left = text; !left.empty();) {
        const std::string_view one = left.substr(0, piece());
        left.remove_prefix(one.size());
        reader.feed(one);
        Step step = reader.next();
        while (tell(step)) step = reader.next();
        if (step != Step::incomplete) return found;
    }
    tell(reader.end());
    return found;
}

std::string read_whole(Kind kind, std::string_view text) {
    return read_in_pieces(kind, text, [&] { return text.size(); });
}

// The only message of a text, or the status that it is refused with.
int refusal_of(std::string_view request) {
    MessageReader reader(Kind::requests, 1'000);
    reader.feed(request);
    const Step step = reader.next();
    CHECK(step != Step::incomplete);
    return step == Step::refused ? reader.refusal().status : reader.request().body_status;
}

const std::string host = "Host: localhost\r\n";

}  // namespace

TEST_CASE("a message is the same in whatever pieces it comes") {
    const std::string chunks = "Transfer-Encoding: chunked\r\n\r\n";
    const std::vector<std::pair<Kind, std::string>> texts{
        {Kind::requests, "GET / HTTP/1.1\r\n" + host + "\r\n"},
        {Kind::requests, "\r\n\r\nPOST /a?b=c HTTP/1.1\r\n" + host +
                             "Content-Length: 5\r\n\r\nhelloGET /next HTTP/1.1\r\n" + host +
                             "\r\n"},
        {Kind::requests,
         "POST / HTTP/1.1\r\n" + host + chunks +
             "3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nTrailer: 1\r\n\r\nGET / HTTP/1.0\r\n\r\n"},
        {Kind::requests, "POST / HTTP/1.1\r\n" + host + chunks + "3\r\nabcd\r\n"},
        {Kind::requests, "POST / HTTP/1.1\r\n" + host + chunks + "3 3\r\nabc\r\n0\r\n\r\n"},
        {Kind::requests, "POST / HTTP/1.1\r\n" + host + "Content-Length: 1001\r\n\r\nx"},
        {Kind::requests, "POST / HTTP/1.1\r\n" + host + "Content-Length: 9\r\n\r\nonly"},
        {Kind::requests, "GET / HTTP/1.1\n" + host + "\r\n"},
        {Kind::answers,
         "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"},
        {Kind::answers, "HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\n\r\nuntil the end"},
        {Kind::answers,
         "HTTP/1.1 503 \nRetry-After: 3\nTransfer-Encoding: chunked\n\n1\r\nx\r\n0\r\n\r\n"},
        {Kind::answers, "HTTP/1.1 200 OK\r\n\r\n" + std::string(1'001, 'x')},
        {Kind::answers, "SSH-2.0-OpenSSH\r\n\r\n"},
    };
    std::mt19937 random(1);
    for (const auto& one : texts) {
        const Kind kind = one.first;
        const std::string& text = one.second;
        CAPTURE(text);
        const std::string whole = read_whole(kind, text);
        CHECK(!whole.empty());
        CHECK(read_in_pieces(kind, text, [] { return std::size_t{1}; }) == whole);
        for (int i = 0; i < 50; ++i) {
            CHECK(read_in_pieces(kind, text, [&] { return random() % 20 + 1; }) == whole);
        }
    }
}

TEST_CASE("what is sent behind a message is the next one") {
    CHECK(read_whole(Kind::requests, "POST /1 HTTP/1.1\r\n" + host +
                                         "Content-Length: 2\r\n\r\nhiGET /2 HTTP/1.1\r\n" + host +
                                         "\r\n") ==
          "POST /1 0\nHost=localhost\nContent-Length=2\nhi\n200\ngoes on\n"
          "GET /2 0\nHost=localhost\n\n200\ngoes on\n");
}

TEST_CASE("a request that can be understood in two ways is refused") {
    const auto post = [](const std::string& fields) {
        return refusal_of("POST / HTTP/1.1\r\n" + host + fields + "\r\n0\r\n\r\n");
    };
    CHECK(post("Content-Length: 5\r\nContent-Length: 5\r\n") == 400);
    CHECK(post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n") == 400);
    CHECK(post("Content-Length: +5\r\n") == 400);
    CHECK(post("Content-Length: 5, 5\r\n") == 400);
    CHECK(post("Content-Length: 1234567890123456789\r\n") == 400);
    CHECK(post("Transfer-Encoding: gzip, chunked\r\n") == 400);
    CHECK(post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n") == 400);
    CHECK(post("Transfer-Encoding : chunked\r\n") == 400);
    CHECK(post(" folded: line\r\n") == 400);
    CHECK(post("no colon\r\n") == 400);
    CHECK(post("Name: con\x01trol\r\n") == 400);
    CHECK(post(host) == 400);
    CHECK(refusal_of("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n") == 400);
    CHECK(refusal_of("GET / HTTP/1.1\r\n\r\n") == 400);
    CHECK(refusal_of("GET  / HTTP/1.1\r\n" + host + "\r\n") == 400);
    CHECK(refusal_of("GET / HTTP/2.0\r\n" + host + "\r\n") == 400);
    CHECK(refusal_of("G@T / HTTP/1.1\r\n" + host + "\r\n") == 400);
    CHECK(refusal_of("GET * HTTP/1.1\r\n" + host + "\r\n") == 400);
    CHECK(refusal_of("GET path HTTP/1.1\r\n" + host + "\r\n") == 400);
    CHECK(refusal_of("GET / HTTP/1.1\r\nHost: local host\r\n\r\n") == 400);
    CHECK(refusal_of("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n") == 400);
    CHECK(refusal_of("GET / HTTP/1.1\r\nHost: a:b\r\n\r\n") == 400);
    CHECK(refusal_of("CONNECT a HTTP/1.1\r\n" + host + "\r\n") == 400);
}

TEST_CASE("a request in each of the four forms of a target is understood") {
    const auto target_of = [](const std::string& line) {
        MessageReader reader(Kind::requests, 1'000);
        reader.feed(line + " HTTP/1.1\r\nHost: other\r\n\r\n");
        CHECK(reader.next() == Step::whole);
        return std::string(reader.request().target) + " at " +
               std::string(reader.request().field("host").value_or(""));
    };
    CHECK(target_of("GET /a?b") == "/a?b at other");
    CHECK(target_of("GET http://example.org:80/a?b") == "/a?b at example.org:80");
    CHECK(target_of("GET HTTP://example.org?b") == "?b at example.org");
    CHECK(target_of("OPTIONS *") == "* at other");
    CHECK(target_of("CONNECT example.org:443") == "example.org:443 at other");
}

TEST_CASE("what is too large is refused before it is kept") {
    const auto head = [](std::size_t target, std::size_t fields, std::size_t size) {
        std::string text = "GET /?" + std::string(target, 'x') + " HTTP/1.1\r\n" + host;
        for (std::size_t i = 0; i < fields; ++i) text += "X: " + std::string(size, 'y') + "\r\n";
        return refusal_of(text + "\r\n");
    };
    CHECK(head(8'190, 99, 1) == 200);
    CHECK(head(8'191, 1, 1) == 414);
    CHECK(head(1, 100, 1) == 431);
    CHECK(head(1, 1, 16'384) == 431);
    CHECK(refusal_of("GET /" + std::string(2'048, 'x') + " HTTP/1.1\r\n" + host + "\r\n") == 414);
    MessageReader reader(Kind::requests, 1'000);
    reader.feed(std::string(8'300, 'x'));
    CHECK(reader.next() == Step::refused);
    CHECK(reader.refusal().status == 414);
    CHECK(refusal_of("POST / HTTP/1.1\r\n" + host + "Content-Length: 1001\r\n\r\n") == 413);
    CHECK(refusal_of("POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n3e9\r\n" +
                     std::string(1'001, 'x')) == 413);
}

TEST_CASE("a client that waits for leave to send its body gets it once") {
    MessageReader reader(Kind::requests, 1'000);
    reader.feed("POST / HTTP/1.1\r\n" + host + "Expect: 100-continue\r\nContent-Length: 2\r\n\r\n");
    CHECK(reader.next() == Step::incomplete);
    CHECK(reader.takes_leave());
    CHECK(!reader.takes_leave());
    reader.feed("ok");
    CHECK(reader.next() == Step::whole);
    CHECK(reader.request().body == "ok");
}

TEST_CASE("a body that is given up leaves a request without one, and no next one") {
    MessageReader reader(Kind::requests, 1'000);
    reader.feed("POST / HTTP/1.1\r\n" + host + "Content-Length: 9\r\n\r\nhalf");
    CHECK(reader.next() == Step::incomplete);
    CHECK(reader.has_head());
    CHECK(reader.give_up_body(503, "too much") == Step::whole);
    CHECK(reader.request().body.empty());
    CHECK(reader.request().body_status == 503);
    CHECK(!reader.can_go_on());
}

}  // namespace messages_test
