// SPDX-License-Identifier: MIT
#include "shared_journal.hpp"
#include "support.hpp"
#include "wire.hpp"

namespace prefixes_test {

using namespace scheduler;
using namespace support::wire;
using support::Away;
using support::eventually;
using support::SharedLog;
using support::Telling;

namespace {

const char* const at_once = R"({"delay":0,"message":"x"})";
const char* const later = R"({"delay":"1d","message":"x"})";

HttpOptions behind(std::vector<std::string> prefixes) {
    HttpOptions options;
    options.prefixes = std::move(prefixes);
    options.page = "<title>page</title>";
    return options;
}

bool holds(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
}

// Two schedulers behind prefixes of one server.
struct Two {
    explicit Two(HttpOptions http = behind({"/a", "/b/c"}), const Options& of_a = {},
                 const Options& of_b = {})
        : a(of_a), b(of_b), server(std::move(http)) {
        server.serve(a, "/a");
        server.serve(b, "/b/c");
        port = server.listen("127.0.0.1", 0);
    }
    std::string ask(const std::string& line, const std::string& body = "",
                    const std::string& fields = "") const {
        return support::wire::ask(port, line, body, fields);
    }
    Scheduler a;
    Scheduler b;
    HttpServer server;
    int port = 0;
};

// A node of two shared journals.
struct Node {
    Node(const std::string& name, const std::shared_ptr<SharedLog>& log_a,
         const std::shared_ptr<SharedLog>& log_b)
        : listener("127.0.0.1", 0),
          port(listener.port()),
          a(options(name, log_a, "/a")),
          b(options(name, log_b, "/b")),
          server(behind({"/a", "/b"})) {
        server.serve(a, "/a");
        server.serve(b, "/b");
        server.listen(std::move(listener));
    }
    Options options(const std::string& name, const std::shared_ptr<SharedLog>& log,
                    const std::string& prefix) const {
        Options options;
        const std::string url = "http://127.0.0.1:" + std::to_string(port) + prefix;
        options.make_journal = [=] { return log->open(name, Telling::thread, url); };
        return options;
    }
    std::string ask(const std::string& line, const std::string& body = "") const {
        return support::wire::ask(port, line, body);
    }
    HttpListener listener;
    int port;
    Scheduler a;
    Scheduler b;
    HttpServer server;
};

}  // namespace

TEST_SUITE("prefixes") {
    TEST_CASE("each scheduler answers behind its prefix, and knows nothing of the other") {
        const Two two;
        const std::string made = two.ask("POST /b/c/schedule", later);
        REQUIRE(status_of(made) == 200);
        CHECK(holds(made, "Location: /b/c/tasks/" + id_of(made) + "\r\n"));
        CHECK(status_of(two.ask("GET /b/c/tasks/" + id_of(made))) == 200);
        CHECK(status_of(two.ask("GET /%62/%63/tasks/" + id_of(made))) == 200);
        CHECK(status_of(two.ask("GET /a/tasks/" + id_of(made))) == 404);
        CHECK(status_of(two.ask("PUT /a/tasks/name", later)) == 201);
        CHECK(status_of(two.ask("PUT /b/c/tasks/name", later)) == 201);
        CHECK(two.a.stats().pending == 1);
        CHECK(two.b.stats().pending == 2);
        CHECK(holds(two.ask("GET /a/tasks?limit=1"), R"("total_count":1)"));
        CHECK(status_of(two.ask("GET /a/tasks?limits=1")) == 400);
        CHECK(holds(two.ask("GET /b/c/openapi.json"), R"("servers":[{"url":"/b/c"}])"));
        CHECK(status_of(two.ask("GET /a/healthz")) == 200);
        CHECK(holds(two.ask("GET /a/metrics"), "task_scheduler_tasks_pending 1\n"));
    }

    TEST_CASE("a page is where its relative addresses are right") {
        const Two two;
        CHECK(body_of(two.ask("GET /a/")) == "<title>page</title>");
        for (const std::string path : {"/a", "/%61?x=1"}) {
            const std::string moved = two.ask("GET " + path);
            CHECK(status_of(moved) == 308);
            CHECK(holds(moved, "Location: /a/\r\n"));
        }
    }

    TEST_CASE("an idempotency key belongs to one scheduler") {
        const Two two;
        const std::string key = "Idempotency-Key: k\r\n";
        const std::string first = two.ask("POST /a/schedule", later, key);
        CHECK(id_of(first) == id_of(two.ask("POST /a/schedule", later, key)));
        const std::string other = two.ask("POST /b/c/schedule", later, key);
        CHECK(status_of(other) == 200);
        CHECK(id_of(first) != id_of(other));
    }

    TEST_CASE("requests to several schedulers on one connection are answered in their order") {
        const support::TempDir folder;
        support::TestClock clock("2026-11-01T00:00:00Z");
        Options of_a;
        of_a.now = clock.source();
        of_a.journal = folder.path("a.jsonl");
        Options of_b;
        of_b.now = of_a.now;
        of_b.journal = folder.path("b.jsonl");
        const Two two(behind({"/a", "/b/c"}), of_a, of_b);
        std::string all;
        constexpr int rounds = 50;
        for (int i = 0; i < rounds; ++i) {
            for (const std::string prefix : {"/a", "/a", "/b/c"}) {
                all += request("POST " + prefix + "/schedule",
                               R"({"timestamp":"2026-12-01T00:00:)" + std::to_string(i % 50 + 10) +
                                   R"(Z","message":"x"})");
            }
            all += request("GET /elsewhere");
        }
        Wire wire(two.port);
        wire.say(all);
        for (int i = 0; i < rounds; ++i) {
            const std::string time = "2026-12-01T00:00:" + std::to_string(i % 50 + 10) + "Z";
            for (const std::string prefix : {"/a", "/a", "/b/c"}) {
                const std::string answer = wire.message();
                CHECK(holds(answer, time));
                CHECK(holds(answer, "Location: " + prefix + "/tasks/"));
            }
            CHECK(status_of(wire.message()) == 404);
        }
        CHECK(two.a.stats().pending == 2 * rounds);
        CHECK(two.b.stats().pending == rounds);
    }

    TEST_CASE("a stream has the events of its scheduler, and ends with the server") {
        Two two;
        Wire of_a(two.port);
        Wire of_b(two.port);
        of_a.say(request("GET /a/sse")).hear("data: {}\n\n");
        of_b.say(request("GET /b/c/sse")).hear("data: {}\n\n");
        const std::string a = id_of(two.ask("POST /a/schedule", at_once));
        CHECK(holds(of_a.hear("\n\n"), "id: " + a));
        const std::string b = id_of(two.ask("POST /b/c/schedule", at_once));
        CHECK(holds(of_b.hear("\n\n"), "id: " + b));
        two.server.stop();
        CHECK_FALSE(holds(of_b.hear("never"), "id: "));
        CHECK_FALSE(holds(of_a.hear("never"), "id: "));
    }

    TEST_CASE("at the root a balancer learns whether all are ready, and others where they are") {
        Two two;
        CHECK(status_of(two.ask("GET /healthz")) == 200);
        CHECK(body_of(two.ask("GET /readyz")) == R"({"status":"ready"})");
        two.b.stop();
        const std::string unready = two.ask("GET /readyz");
        CHECK(status_of(unready) == 503);
        CHECK(body_of(unready) == R"({"errors":["/b/c: The scheduler has stopped."]})");
        CHECK(status_of(two.ask("GET /a/readyz")) == 200);
        for (const char* line : {"GET /", "GET /tasks", "GET /ab/tasks", "GET /b/tasks",
                                 "POST /schedule", "DELETE /b"}) {
            CAPTURE(line);
            const std::string answer = two.ask(line);
            CHECK(status_of(answer) == 404);
            CHECK(body_of(answer) ==
                  R"({"errors":["There is nothing at this path; there are schedulers behind )"
                  R"(/a, /b/c."]})");
        }
        CHECK(holds(two.ask("POST /readyz"), "Allow: GET, HEAD, OPTIONS\r\n"));
        two.server.replace_secrets({"secret"});
        CHECK(status_of(two.ask("GET /nowhere")) == 401);
        CHECK(status_of(two.ask("GET /readyz")) == 503);
        CHECK(status_of(two.ask("GET /b/c/tasks", "", "x-pd-secret: secret\r\n")) == 200);
    }

    TEST_CASE("until its scheduler is there, a prefix waits alone") {
        Scheduler a;
        Scheduler b;
        HttpServer server(behind({"/a", "/b"}));
        const int port = server.listen("127.0.0.1", 0);
        const std::string unready = body_of(ask(port, "GET /readyz"));
        CHECK(holds(unready, "\"/a: The journal is still being opened"));
        CHECK(holds(unready, "\"/b: The journal is still being opened"));
        CHECK(status_of(ask(port, "GET /b/")) == 200);
        Wire stream(port);
        stream.say(request("GET /b/sse"));
        server.serve(a, "/a");
        CHECK(status_of(ask(port, "POST /a/schedule", later)) == 200);
        CHECK(status_of(ask(port, "POST /b/schedule", later)) == 503);
        server.serve(b, "/b");
        CHECK(holds(stream.hear("event: cursor\n"), " 200 OK\r\n"));
        CHECK(status_of(ask(port, "GET /readyz")) == 200);
    }

    TEST_CASE("prefixes that do not go together are refused, and schedulers without one") {
        for (const std::vector<std::string>& prefixes :
             std::vector<std::vector<std::string>>{{"a"},
                                                   {"/a/"},
                                                   {"/a", "/a"},
                                                   {"/a", "/a/b"},
                                                   {"", "/a"},
                                                   {"/a b"},
                                                   {"/a", "/.."}}) {
            CHECK_THROWS_AS(HttpServer{behind(prefixes)}, Error);
        }
        Scheduler tasks;
        HttpServer server(behind({"/a", "/ab"}));
        CHECK_THROWS_AS(server.serve(tasks), std::runtime_error);
        CHECK_THROWS_AS(server.serve(tasks, "/b"), std::runtime_error);
        server.serve(tasks, "/a");
        CHECK_THROWS_AS(server.serve(tasks, "/a"), std::runtime_error);
    }

    TEST_CASE("a journal that hangs holds up nobody but its own scheduler's clients") {
        const auto log = std::make_shared<SharedLog>();
        Options shared;
        shared.make_journal = [&] { return log->open("a", Telling::thread); };
        const Two two(behind({"/a", "/b/c"}), shared);
        log->away(Away::hangs);
        Wire waits(two.port);
        waits.say(request("POST /a/schedule", later));
        Wire also(two.port);
        also.say(request("POST /a/pause"));
        for (int i = 0; i < 20; ++i) {
            CHECK(status_of(two.ask("POST /b/c/schedule", later)) == 200);
            CHECK(status_of(two.ask("GET /b/c/tasks?q=x")) == 200);
        }
        log->away(Away::no);
        CHECK(status_of(waits.message()) != 0);
        CHECK(status_of(also.message()) != 0);
    }

    TEST_CASE("a change is passed on to whoever owns its scheduler, behind the same prefix") {
        const auto log_a = std::make_shared<SharedLog>();
        const auto log_b = std::make_shared<SharedLog>();
        const Node one("one", log_a, log_b);
        const Node two("two", log_a, log_b);
        log_b->take("two");
        REQUIRE(eventually([&] { return two.b.is_owner() && !one.b.is_owner(); }));
        REQUIRE(one.a.is_owner());
        for (const std::string prefix : {"/a", "/b"}) {
            for (const Node* node : {&one, &two}) {
                const std::string made = node->ask("POST " + prefix + "/schedule", later);
                REQUIRE(status_of(made) == 200);
                CHECK(holds(made, "Location: " + prefix + "/tasks/" + id_of(made) + "\r\n"));
                CHECK(status_of(node->ask("GET " + prefix + "/tasks/" + id_of(made))) == 200);
            }
        }
        CHECK(one.a.stats().pending == 2);
        CHECK(two.b.stats().pending == 2);
        CHECK(holds(one.ask("GET /b/metrics"),
                    "task_scheduler_cluster_forwarded_total{outcome=\"answered\"} 1\n"));
    }
}

}  // namespace prefixes_test
