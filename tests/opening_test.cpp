// SPDX-License-Identifier: MIT
#include "support.hpp"

namespace opening_test {

using namespace scheduler;
using support::TempDir;

namespace {

// A connection that says what it is told to, and hears until a mark comes or the end.
class Peer {
public:
    explicit Peer(int port) : fd_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
        sockaddr_in at{};
        at.sin_family = AF_INET;
        at.sin_port = htons(static_cast<std::uint16_t>(port));
        at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        const timeval ten_seconds{10, 0};
        ::setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &ten_seconds, sizeof ten_seconds);
        REQUIRE(::connect(fd_, reinterpret_cast<sockaddr*>(&at), sizeof at) == 0);
    }
    Peer(const Peer&) = delete;
    Peer& operator=(const Peer&) = delete;
    ~Peer() { ::close(fd_); }

    Peer& say(const std::string& text) {
        ::send(fd_, text.data(), text.size(), MSG_NOSIGNAL);
        return *this;
    }
    std::string hear(const std::string& mark) {
        char buffer[4'096];
        while (heard_.find(mark) == std::string::npos) {
            const ssize_t n = ::recv(fd_, buffer, sizeof buffer, 0);
            if (n <= 0) break;
            heard_.append(buffer, static_cast<std::size_t>(n));
        }
        return heard_;
    }
    std::string hear_all() { return hear(std::string("\0nothing\0", 9)); }
    bool has_heard_nothing() const {
        char c;
        return ::recv(fd_, &c, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && errno == EAGAIN;
    }

private:
    int fd_;
    std::string heard_;
};

std::string ask(int port, const std::string& line, const std::string& fields = "") {
    return Peer(port)
        .say(line + " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" + fields + "\r\n")
        .hear_all();
}

int status_of(const std::string& answer) {
    return answer.size() > 12 ? std::atoi(answer.c_str() + 9) : 0;
}

Options kept_in(const TempDir& dir) {
    Options options;
    options.journal = dir.journal();
    return options;
}

// A journal of so many tasks that it is read in several parts.
std::size_t fill(const TempDir& dir) {
    constexpr std::size_t count = 3'000;
    Options options = kept_in(dir);
    options.fsync = Fsync::no;
    Scheduler tasks(options);
    for (std::size_t i = 0; i < count; ++i) tasks.schedule(std::chrono::hours(1), "\"x\"");
    return count;
}

struct Interrupted {};

}  // namespace

TEST_SUITE("opening") {
    TEST_CASE("a server without its scheduler is alive, shows the page, and refuses the rest") {
        HttpOptions options;
        options.page = "<!DOCTYPE html>the page";
        HttpServer server(options);
        const int port = server.listen("127.0.0.1", 0);
        CHECK(status_of(ask(port, "GET /healthz")) == 200);
        CHECK(ask(port, "GET /").find("the page") != std::string::npos);
        for (const char* line : {"GET /readyz", "GET /tasks", "GET /status", "GET /metrics",
                                 "POST /schedule", "DELETE /tasks?all=true"}) {
            CAPTURE(line);
            const std::string answer = ask(port, line);
            CHECK(status_of(answer) == 503);
            CHECK(answer.find("\r\nRetry-After: ") != std::string::npos);
            CHECK(answer.find("still being opened") != std::string::npos);
        }
        CHECK(status_of(ask(port, "GET /nothing")) == 404);
        CHECK(status_of(ask(port, "PUT /schedule")) == 405);
        CHECK(status_of(ask(port, "GET /tasks?lmit=1")) == 400);
    }

    TEST_CASE("the secret is judged before a server has its scheduler, too") {
        HttpOptions options;
        options.secrets = {"open-sesame"};
        HttpServer server(options);
        const int port = server.listen("127.0.0.1", 0);
        CHECK(status_of(ask(port, "GET /tasks")) == 401);
        CHECK(status_of(ask(port, "GET /sse")) == 401);
        CHECK(status_of(ask(port, "GET /tasks", "x-pd-secret: open-sesame\r\n")) == 503);
    }

    TEST_CASE("a stream waits until the server has its scheduler, and misses nothing from there") {
        std::optional<Scheduler> tasks;  // outlives the server
        HttpServer server{HttpOptions()};
        const int port = server.listen("127.0.0.1", 0);
        Peer stream(port);
        stream.say("GET /sse HTTP/1.1\r\nHost: localhost\r\n\r\n");
        REQUIRE(status_of(ask(port, "GET /tasks")) == 503);
        CHECK(stream.has_heard_nothing());
        tasks.emplace();
        server.serve(*tasks);
        CHECK(stream.hear("event: cursor").find("200 OK") != std::string::npos);
        const TaskId id = tasks->schedule(milliseconds(0), "\"hello\"");
        CHECK(stream.hear("hello").find("id: " + id.str()) != std::string::npos);
        CHECK(status_of(ask(port, "GET /tasks")) == 200);
        CHECK(status_of(ask(port, "GET /readyz")) == 200);
        CHECK_THROWS_AS(server.serve(*tasks), const std::runtime_error&);
    }

    TEST_CASE("a server that never gets its scheduler stops, and a stream that waits ends") {
        HttpServer server{HttpOptions()};
        const int port = server.listen("127.0.0.1", 0);
        Peer stream(port);
        stream.say("GET /sse HTTP/1.1\r\nHost: localhost\r\n\r\n");
        REQUIRE(status_of(ask(port, "GET /healthz")) == 200);
        server.stop();
        CHECK(stream.hear_all().empty());
    }

    TEST_CASE("an opening tells how far it has come") {
        for (const Drive drive : {Drive::thread, Drive::caller}) {
            const TempDir dir;
            const std::size_t count = fill(dir);
            std::vector<Opening> told;
            Options options = kept_in(dir);
            options.drive = drive;
            options.on_opening = [&told](const Opening& opening) { told.push_back(opening); };
            Scheduler tasks(options);
            CHECK(tasks.stats().recovered == count);
            REQUIRE(told.size() > 1);
            for (std::size_t i = 1; i < told.size(); ++i) {
                CHECK(told[i].bytes >= told[i - 1].bytes);
                CHECK(told[i].tasks >= told[i - 1].tasks);
            }
            CHECK(told.back().bytes == dir.read("tasks.jsonl").size());
            CHECK(told.back().size == told.back().bytes);
            CHECK(told.back().tasks == count);
        }
    }

    TEST_CASE("an opening that is ended changes nothing, and what ends it comes out") {
        const TempDir dir;
        const std::size_t count = fill(dir);
        const std::string before = dir.read("tasks.jsonl");
        Options options = kept_in(dir);
        int calls = 0;
        options.on_opening = [&calls](const Opening&) {
            if (++calls == 2) throw Interrupted();
        };
        CHECK_THROWS_AS(Scheduler{options}, const Interrupted&);
        CHECK(calls == 2);
        CHECK(dir.read("tasks.jsonl") == before);
        CHECK(Scheduler(kept_in(dir)).stats().recovered == count);
    }

    TEST_CASE("an opening can be ended while it replaces a damaged journal") {
        const TempDir dir;
        const std::size_t count = fill(dir);
        std::string text = dir.read("tasks.jsonl");
        text.insert(text.find('\n') + 1, "damage\n");
        dir.write("tasks.jsonl", text);
        Options options = kept_in(dir);
        std::uint64_t last = 0;
        options.on_opening = [&last](const Opening& opening) {
            if (opening.bytes == last) throw Interrupted();  // nothing more is read
            last = opening.bytes;
        };
        CHECK_THROWS_AS(Scheduler{options}, const Interrupted&);
        CHECK(dir.read("tasks.jsonl") == text);
        CHECK(Scheduler(kept_in(dir)).stats().recovered == count);
    }
}

}  // namespace opening_test
