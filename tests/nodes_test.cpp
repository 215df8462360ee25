// SPDX-License-Identifier: MIT
#include "shared_journal.hpp"
#include "support.hpp"
#include "wire.hpp"

#include <doctest/doctest.h>

namespace nodes_test {

using namespace scheduler;
using support::at;
using support::eventually;
using support::SharedLog;
using support::Telling;
using support::TestClock;
namespace wire = support::wire;
using namespace wire;

namespace {

// What is to be told to all nodes of a journal about an owner that the test plays itself.
class PlayedOwner {
public:
    PlayedOwner() : listener_("127.0.0.1", 0) {}
    std::string url() const { return "http://127.0.0.1:" + std::to_string(listener_.port()); }
    // The next connection that is made.
    Wire accept() {
        pollfd watched{listener_.fd(), POLLIN, 0};
        ::poll(&watched, 1, 30'000);
        return Wire::of(::accept4(listener_.fd(), nullptr, nullptr, SOCK_CLOEXEC));
    }

private:
    HttpListener listener_;
};

// A node of a shared journal, with a server.  Its clock is moved by hand.
struct Node {
    explicit Node(const std::shared_ptr<SharedLog>& log, const std::string& name,
                  HttpOptions http = {}, const std::string& url = "")
        : listener("127.0.0.1", 0), port(listener.port()), tasks(options(log, name, url)) {
        if (http.owner_timeout == milliseconds(5'000)) http.owner_timeout = milliseconds(30'000);
        server.emplace(tasks, std::move(http));
        server->listen(std::move(listener));
    }
    Options options(const std::shared_ptr<SharedLog>& log, const std::string& name,
                    const std::string& url) {
        Options options;
        options.now = clock.source();
        options.log = [this](const LogRecord& record) {
            const std::lock_guard<std::mutex> guard(mutex);
            logged += to_line(record) + '\n';
        };
        const std::string own = url.empty() ? "http://127.0.0.1:" + std::to_string(port) : url;
        options.make_journal = [log, name, own] { return log->open(name, Telling::thread, own); };
        return options;
    }
    std::string ask(const std::string& line, const std::string& body = "",
                    const std::string& fields = "") const {
        return wire::ask(port, line, body, fields);
    }

    // Whether the log is told this.
    bool tells(const std::string& what) {
        return eventually([&] {
            const std::lock_guard<std::mutex> guard(mutex);
            return logged.find(what) != std::string::npos;
        });
    }

    TestClock clock;
    std::mutex mutex;
    std::string logged;  // guarded by mutex
    HttpListener listener;
    int port;
    Scheduler tasks;
    std::optional<HttpServer> server;
};

// An owner and a follower.
struct Pair {
    explicit Pair(const HttpOptions& http = {}) : a(log, "a", http), b(log, "b", http) {
        REQUIRE(a.tasks.is_owner());
        REQUIRE_FALSE(b.tasks.is_owner());
    }
    std::shared_ptr<SharedLog> log = std::make_shared<SharedLog>();
    Node a;
    Node b;
};

// A follower whose owner has no server but what the test plays.
struct Follower {
    explicit Follower(milliseconds owner_timeout = milliseconds(30'000)) {
        Options options;
        options.make_journal = [this] { return log->open("a", Telling::thread, played.url()); };
        owner.emplace(options);
        HttpOptions http;
        http.owner_timeout = owner_timeout;
        b.emplace(log, "b", http);
    }
    PlayedOwner played;
    std::shared_ptr<SharedLog> log = std::make_shared<SharedLog>();
    std::optional<Scheduler> owner;
    std::optional<Node> b;
};

}  // namespace

TEST_SUITE("nodes") {
    TEST_CASE("every change is answered by a follower as by the owner, and can be read at once") {
        Pair pair;
        Node& b = pair.b;
        const std::string made = b.ask("POST /schedule", good);
        CHECK(status_of(made) == 200);
        CHECK(body_of(made).find("Scheduled task at 2026-03-01T13:00:00Z") != std::string::npos);
        const std::string id = id_of(made);
        CHECK(made.find("Location: /tasks/" + id) != std::string::npos);
        CHECK(made.find("Task-Scheduler") == std::string::npos);
        CHECK(status_of(b.ask("GET /tasks/" + id)) == 200);
        CHECK(status_of(b.ask("PATCH /tasks/" + id, R"({"message":"y"})")) == 200);
        CHECK(b.ask("GET /tasks/" + id).find(R"("message":"y")") != std::string::npos);
        CHECK(status_of(b.ask("PUT /tasks/name", good)) == 201);
        CHECK(status_of(b.ask("PUT /tasks/name", good)) == 200);
        CHECK(status_of(b.ask("PUT /tasks/name", good, "If-None-Match: *\r\n")) == 412);
        CHECK(status_of(b.ask("PUT /tasks/other", good, "If-Match: *\r\n")) == 412);
        CHECK(status_of(b.ask("GET /tasks/name")) == 200);
        CHECK(status_of(b.ask("POST /cancel", R"({"id":")" + id + "\"}")) == 200);
        CHECK(status_of(b.ask("GET /tasks/" + id)) == 404);
        CHECK(status_of(b.ask("DELETE /tasks/name")) == 200);
        CHECK(status_of(b.ask("DELETE /tasks/name")) == 404);
        const std::string many =
            b.ask("POST /schedule", std::string("[") + good + "," + good + "]");
        CHECK(body_of(many).find("Scheduled 2 tasks") != std::string::npos);
        CHECK(body_of(b.ask("DELETE /tasks?all=true")) == R"({"cancelled":2})");
        CHECK(body_of(b.ask("GET /tasks")).find(R"("total_count":0)") != std::string::npos);
        CHECK(status_of(b.ask("POST /pause", R"({"reason":"r"})")) == 200);
        CHECK(b.tasks.paused());
        CHECK(status_of(b.ask("POST /resume")) == 200);
        CHECK_FALSE(b.tasks.paused());
        CHECK(body_of(b.ask("DELETE /events?all=true")) == R"({"deleted":0})");
        CHECK(status_of(b.ask("POST /sinks/none/pause")) == 404);
        CHECK(status_of(b.ask("POST /sinks/none/resume")) == 404);
        CHECK(status_of(b.ask("POST /sinks/none/redeliver")) == 404);
        CHECK(status_of(b.ask("DELETE /sinks/none")) == 404);
        CHECK(status_of(b.ask("POST /schedule", "{}")) == 400);
        CHECK(status_of(b.ask("POST /schedule?x=1", good)) == 400);
    }

    TEST_CASE("large changes and long answers come through whole") {
        Pair pair;
        const std::string large(900'000, 'x');
        const std::string made =
            pair.b.ask("POST /schedule", R"({"delay":9,"message":")" + large + "\"}");
        CHECK(status_of(made) == 200);
        CHECK(pair.b.ask("GET /tasks/" + id_of(made)).find(large) != std::string::npos);
        const std::string changed =
            pair.b.ask("PATCH /tasks/" + id_of(made), R"({"timestamp":"2026-03-01T14:00:00Z"})");
        CHECK(changed.find(large) != std::string::npos);
        std::string many = "[";
        for (int i = 0; i < 10'000; ++i) many += std::string(i > 0 ? "," : "") + good;
        const std::string ids = pair.b.ask("POST /schedule", many + ']');
        CHECK(status_of(ids) == 200);
        CHECK(body_of(ids).size() > 10'000 * 38);
        CHECK(pair.b.tasks.stats().pending == 10'001);
        CHECK(status_of(pair.b.ask("POST /schedule", std::string(2'000'000, ' '))) == 413);
    }

    TEST_CASE("the same key is the same request on every node") {
        Pair pair;
        const std::string key = "Idempotency-Key: k\r\n";
        const std::string first = pair.b.ask("POST /schedule", good, key);
        const std::string second = pair.a.ask("POST /schedule", good, key);
        const std::string third = pair.b.ask("POST /schedule", good, key);
        CHECK(id_of(first) == id_of(second));
        CHECK(body_of(first) == body_of(third));
        CHECK(third.find("Idempotent-Replayed: true") != std::string::npos);
        CHECK(status_of(pair.b.ask("POST /schedule", R"({"delay":9,"message":"x"})", key)) == 422);
    }

    TEST_CASE("a client of a follower reads what it has just written, every time") {
        Pair pair;
        Wire wire(pair.b.port);
        for (int i = 0; i < 200; ++i) {
            const std::string id = id_of(wire.say(request("POST /schedule", good)).message());
            CHECK(status_of(wire.say(request("GET /tasks/" + id)).message()) == 200);
        }
    }

    TEST_CASE("requests that a client sends at once are answered in their order") {
        Pair pair;
        std::string all;
        for (int i = 0; i < 50; ++i) {
            all +=
                request("POST /schedule", R"({"delay":9,"message":")" + std::to_string(i) + "\"}");
        }
        Wire wire(pair.b.port);
        wire.say(all);
        for (int i = 0; i < 50; ++i) {
            const std::string id = id_of(wire.message());
            const std::string task = pair.a.ask("GET /tasks/" + id);
            CHECK(task.find("\"message\":\"" + std::to_string(i) + '"') != std::string::npos);
        }
    }

    TEST_CASE("what cannot reach an owner is refused with a sentence, and nothing is changed") {
        Pair pair;
        pair.a.server->stop();
        const std::string answer = pair.b.ask("POST /schedule", good);
        CHECK(status_of(answer) == 503);
        CHECK(answer.find("Retry-After: ") != std::string::npos);
        CHECK(body_of(answer).find("The owner, a at http://127.0.0.1:") != std::string::npos);
        CHECK(pair.a.tasks.stats().pending == 0);
        CHECK(pair.b.tells("warning owner.unreachable: The owner, a at http://127.0.0.1:"));
        pair.log->stand("a", false);
        pair.log->stand("b", false);
        pair.log->expire();
        REQUIRE(eventually([&] { return !pair.a.tasks.is_owner(); }));
        CHECK(body_of(pair.b.ask("POST /schedule", good)).find("No node owns the journal") !=
              std::string::npos);
        CHECK(status_of(pair.b.ask("GET /tasks")) == 200);
    }

    TEST_CASE(
        "a node that is cut off from what is stored refuses changes, which it could not show") {
        Pair pair;
        pair.log->away(support::Away::hangs);
        const std::string answer = pair.b.ask("POST /schedule", good);
        CHECK(status_of(answer) == 503);
        CHECK(answer.find("Retry-After: ") != std::string::npos);
        CHECK(body_of(answer) ==
              R"({"errors":["This node cannot reach what keeps the journal: the )"
              R"(database does not answer; nothing was changed, try again later."]})");
        pair.log->away(support::Away::no);
        CHECK(eventually([&] { return status_of(pair.b.ask("POST /schedule", good)) == 200; }));
        CHECK(pair.a.tasks.stats().pending == 1);
    }

    TEST_CASE("an owner is found by its name, and a name that nobody has is said") {
        for (const char* host : {"localhost", "no.such.host.invalid"}) {
            const auto log = std::make_shared<SharedLog>();
            HttpListener at("127.0.0.1", 0);
            const std::string url = std::string("http://") + host + ':' + std::to_string(at.port());
            Options options;
            options.make_journal = [&] { return log->open("a", Telling::thread, url); };
            Scheduler owner(options);
            HttpServer server(owner);
            server.listen(std::move(at));
            const Node b(log, "b");
            const std::string answer = b.ask("POST /schedule", good);
            CHECK(status_of(answer) == (host[0] == 'l' ? 200 : 503));
            if (host[0] == 'n') CHECK(answer.find("cannot be resolved") != std::string::npos);
        }
    }

    TEST_CASE("a node that becomes the owner makes the changes itself, and the other passes on") {
        Pair pair;
        CHECK(status_of(pair.b.ask("POST /schedule", good)) == 200);
        pair.log->take("b");
        REQUIRE(eventually([&] { return pair.b.tasks.is_owner(); }));
        CHECK(status_of(pair.b.ask("POST /schedule", good)) == 200);
        REQUIRE(eventually([&] { return !pair.a.tasks.is_owner(); }));
        CHECK(status_of(pair.a.ask("POST /schedule", good)) == 200);
        CHECK(pair.a.tasks.stats().pending == 3);
    }

    TEST_CASE("a change that was passed on is never passed on again") {
        const auto log = std::make_shared<SharedLog>();
        PlayedOwner unused;
        Options options;
        const Node c(log, "c");  // whom the others take for the owner
        log->stand("c", false);
        log->expire();
        REQUIRE(eventually([&] { return !c.tasks.is_owner(); }));
        const Node a(log, "a", {}, "http://127.0.0.1:" + std::to_string(c.port));
        REQUIRE(eventually([&] { return a.tasks.is_owner(); }));
        const Node b(log, "b");
        const std::string answer = b.ask("POST /schedule", good);
        CHECK(status_of(answer) == 503);
        CHECK(answer.find("This node, c, does not own the journal any more") != std::string::npos);
        CHECK(c.ask("POST /schedule", good, "Task-Scheduler-Forwarded: c\r\n")
                  .find("leads back to this node") != std::string::npos);
        CHECK(a.tasks.stats().pending == 0);
        // Nobody need wait for what that node has applied, which may never come.
        const std::string refused =
            c.ask("POST /schedule", good, "Task-Scheduler-Forwarded: b\r\n");
        CHECK(status_of(refused) == 503);
        CHECK(refused.find("Task-Scheduler-Applied") == std::string::npos);
        const std::string told = a.ask("POST /schedule", good, "Task-Scheduler-Forwarded: b\r\n");
        CHECK(told.find("Task-Scheduler-Applied: " + std::to_string(log->stored())) !=
              std::string::npos);
    }

    TEST_CASE("an owner that hangs holds up nobody else, and who waits for it gets no answer") {
        Follower follower(milliseconds(300));
        std::vector<Wire> waiting;
        for (int i = 0; i < 100; ++i) {
            waiting.emplace_back(follower.b->port);
            waiting.back().say(request("POST /schedule", good));
        }
        std::vector<Wire> links;
        for (int i = 0; i < 32; ++i) links.push_back(follower.played.accept());
        CHECK(links[0].message().find("Task-Scheduler-Forwarded: b") != std::string::npos);
        CHECK(status_of(follower.b->ask("GET /tasks")) == 200);
        for (Wire& wire : waiting) CHECK(wire.message() == "");
        CHECK(status_of(follower.b->ask("GET /tasks")) == 200);
        CHECK(follower.b->tells("warning owner.unanswered: "));
    }

    TEST_CASE("half an answer of the owner is none") {
        Follower follower;
        for (const char* half : {"HTTP/1.1 200 OK\r\nContent-", "",
                                 "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                                 "Content-Length: 99\r\n\r\n{\"message\":",
                                 "HTTP/1.1 502 Bad Gateway\r\nContent-Type: application/json\r\n"
                                 "Content-Length: 2\r\n\r\n{}",
                                 "SSH-2.0-OpenSSH_9.2\r\n\r\n"}) {
            CAPTURE(half);
            Wire client(follower.b->port);
            client.say(request("POST /schedule", good));
            {
                Wire link = follower.played.accept();
                CHECK(link.message().find(good) != std::string::npos);
                link.say(half);
            }
            CHECK(client.message() == "");
        }
    }

    TEST_CASE("a request with a key is tried again when the owner is lost, as it is one request") {
        Follower follower;
        Wire client(follower.b->port);
        client.say(request("POST /schedule", good, "Idempotency-Key: k\r\n"));
        CHECK(follower.played.accept().message().find("Idempotency-Key: k") != std::string::npos);
        Wire busy = follower.played.accept();  // which does not own any more
        CHECK(busy.message().find("Idempotency-Key: k") != std::string::npos);
        busy.say(
            "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n"
            "Content-Length: 2\r\n\r\n{}");
        CHECK(busy.message().find("Idempotency-Key: k") != std::string::npos);
        busy.say(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}");
        CHECK(status_of(client.message()) == 200);
        client.say(request("POST /schedule", good, "Idempotency-Key: l\r\n"));
        CHECK(busy.message().find("Idempotency-Key: l") != std::string::npos);
        follower.log->take("b");  // it is the owner itself now
        REQUIRE(eventually([&] { return follower.b->tasks.is_owner(); }));
        busy.say("nonsense\r\n\r\n");
        CHECK(status_of(client.message()) == 200);
        CHECK(follower.b->tasks.stats().pending == 1);
    }

    TEST_CASE("an answer waits until the node has applied as much as the owner has") {
        Follower follower;
        Wire client(follower.b->port);
        client.say(request("POST /cancel", R"({"id":"x"})"));
        Wire link = follower.played.accept();
        CHECK(link.message().find("POST /cancel") != std::string::npos);
        const std::uint64_t next = follower.log->stored() + 1;
        link.say(
            "HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\nTask-Scheduler-Applied: " +
            std::to_string(next) + "\r\nContent-Length: 4\r\n\r\n{  }");
        CHECK(status_of(follower.b->ask("GET /tasks")) == 200);
        follower.owner->schedule(std::chrono::hours(1), "\"x\"");
        CHECK(status_of(client.message()) == 404);
        CHECK(follower.b->tasks.stats().pending == 1);
    }

    TEST_CASE("an answer that the node cannot catch up with is none") {
        Follower follower(milliseconds(300));
        Wire client(follower.b->port);
        client.say(request("POST /cancel", R"({"id":"x"})"));
        Wire link = follower.played.accept();
        link.message();
        link.say(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTask-Scheduler-Applied: "
            "999999\r\nContent-Length: 2\r\n\r\n{}");
        CHECK(client.message() == "");
    }

    TEST_CASE("what matters of a request reaches the owner as it came, and nothing else") {
        Follower follower;
        Wire client(follower.b->port);
        const std::string body = R"({ "timestamp" : "2026-03-01T13:00:00Z",)"
                                 R"( "message":{"n":9007199254740993,"n":1}, "secret":"s" })";
        client.say(request("PUT /tasks/a%7Eb", body,
                           "traceparent: 00-1-2-3\r\ntracestate: a=1\r\ntracestate: b=2\r\n"
                           "If-Match: *\r\nX-PD-Secret: s\r\nAuthorization: Bearer s\r\n"
                           "Cookie: c\r\nContent-Type: text/plain\r\n"));
        const std::string passed = follower.played.accept().message();
        CHECK(passed.substr(0, passed.find("\r\n")) == "PUT /tasks/a%7Eb HTTP/1.1");
        for (const char* field : {"traceparent: 00-1-2-3", "tracestate: a=1", "tracestate: b=2",
                                  "If-Match: *", "X-PD-Secret: s", "Authorization: Bearer s",
                                  "Content-Type: text/plain", "Task-Scheduler-Forwarded: b"}) {
            CAPTURE(field);
            CHECK(passed.find("\r\n" + std::string(field) + "\r\n") != std::string::npos);
        }
        CHECK(passed.find("Cookie") == std::string::npos);
        CHECK(body_of(passed) == body);
    }

    TEST_CASE("a follower judges the secret before it passes anything on, and the owner again") {
        HttpOptions http;
        http.secrets = {"s"};
        Pair pair(http);
        CHECK(status_of(pair.b.ask("POST /schedule", good)) == 401);
        CHECK(status_of(pair.b.ask("POST /schedule", good, "x-pd-secret: s\r\n")) == 200);
        CHECK(status_of(pair.b.ask("POST /schedule", good, "Authorization: Bearer s\r\n")) == 200);
        CHECK(status_of(pair.b.ask("POST /schedule",
                                   R"({"delay":9,"message":"x","secret":"s"})")) == 200);
        CHECK(pair.b.tasks.stats().pending == 3);
        pair.a.server->replace_secrets({"t"});
        const std::string refused = pair.b.ask("POST /schedule", good, "x-pd-secret: s\r\n");
        CHECK(status_of(refused) == 401);
        CHECK(refused.find("asks for another secret than this node") != std::string::npos);
        CHECK(refused.find("WWW-Authenticate: Bearer") != std::string::npos);
    }

    TEST_CASE("while owners come and go, what was acknowledged is there once, on every node") {
        const auto log = std::make_shared<SharedLog>();
        std::list<Node> nodes;
        for (const char* name : {"a", "b", "c"}) nodes.emplace_back(log, name);
        constexpr int clients = 4;
        constexpr int each = 60;
        std::atomic<int> done{0};
        std::array<std::vector<std::string>, clients> ids;
        std::vector<std::thread> threads;
        for (int c = 0; c < clients; ++c) {
            threads.emplace_back([&, c] {
                for (int i = 0; i < each; ++i) {
                    const std::string key =
                        "Idempotency-Key: " + std::to_string(c) + '-' + std::to_string(i) + "\r\n";
                    std::string answer;
                    for (auto node = nodes.begin(); status_of(answer) != 200; ++node) {
                        if (node == nodes.end()) node = nodes.begin();
                        answer = node->ask("POST /schedule", good, key);
                    }
                    ids[static_cast<std::size_t>(c)].push_back(id_of(answer));
                    ++done;
                }
            });
        }
        const char* const names[] = {"b", "c", "a"};
        for (int i = 0; done < clients * each; ++i) {
            const int before = done;
            log->take(names[i % 3]);
            eventually([&] { return done >= std::min(before + 10, clients * each); });
        }
        for (std::thread& thread : threads) thread.join();
        std::set<std::string> all;
        for (const auto& some : ids) all.insert(some.begin(), some.end());
        CHECK(all.size() == clients * each);
        for (const Node& node : nodes) {
            CHECK(eventually([&] { return node.tasks.stats().pending == clients * each; }));
        }
    }

    TEST_CASE("a client of a node without an owner is told so, as of any server that cannot now") {
        Pair pair;
        ClientOptions options;
        options.url = "http://127.0.0.1:" + std::to_string(pair.b.port);
        const Client client(options);
        CHECK(client.find(client.schedule(at("2026-03-01T13:00:00Z"), "\"x\"")));
        pair.a.server->stop();
        try {
            client.schedule(at("2026-03-01T13:00:00Z"), "\"x\"");
            CHECK(false);
        } catch (const Error& error) {
            CHECK(error.code() == Errc::refused);
            CHECK(std::string(error.what()).find("cannot be reached") != std::string::npos);
        }
    }

    TEST_CASE("a server ends soon, whatever it has passed on") {
        Follower follower;
        std::vector<Wire> waiting;
        for (int i = 0; i < 600; ++i) {
            waiting.emplace_back(follower.b->port);
            waiting.back().say(request("POST /schedule", good));
        }
        std::vector<Wire> links;
        for (int i = 0; i < 32; ++i) links.push_back(follower.played.accept());
        CHECK(support::returns([&] { follower.b->server->stop(); }));
    }

    TEST_CASE("each node says how it stands to the others, and whether it is ready") {
        Pair pair;
        const std::string status = pair.b.ask("GET /status");
        for (const char* part :
             {R"("cluster":{"node":"b","role":"follower","owner":"a","owner_url":"http://127)",
              R"("epoch":1,)", R"("lag":0,"connected":true,"problem":null,"clock_ahead_ms":0,)",
              R"("nodes":[{"node":"a","url":"http://127.0.0.1:)", R"("seen":null},{"node":"b")"}) {
            CAPTURE(part);
            CHECK(status.find(part) != std::string::npos);
        }
        CHECK(pair.a.ask("GET /status").find(R"("node":"a","role":"owner")") != std::string::npos);
        pair.b.ask("POST /schedule", good);
        const std::string metrics = pair.b.ask("GET /metrics");
        for (const char* line :
             {"task_scheduler_cluster_owner 0", "task_scheduler_cluster_owner_known 1",
              "task_scheduler_cluster_connected 1", "task_scheduler_cluster_epoch 1",
              "task_scheduler_cluster_lag_groups 0", "task_scheduler_cluster_nodes 2",
              "task_scheduler_cluster_clock_ahead_seconds 0",
              "task_scheduler_cluster_forwarded_total{outcome=\"answered\"} 1"}) {
            CAPTURE(line);
            CHECK(metrics.find("\n" + std::string(line) + "\n") != std::string::npos);
        }
        CHECK(pair.a.ask("GET /metrics").find("cluster_owner 1\n") != std::string::npos);
        pair.a.ask("POST /pause");
        pair.b.clock.advance(std::chrono::hours(2));
        CHECK(status_of(pair.b.ask("GET /readyz")) == 200);  // what is overdue is the owner's task
        pair.log->stand("a", false);
        pair.log->stand("b", false);
        pair.log->expire();
        REQUIRE(eventually([&] { return !pair.a.tasks.is_owner(); }));
        CHECK(pair.b.ask("GET /readyz").find("No node owns the journal") != std::string::npos);
        pair.log->away(support::Away::refuses);
        CHECK(pair.b.ask("GET /readyz").find("cannot reach what keeps the journal: the database") !=
              std::string::npos);
        CHECK(status_of(pair.b.ask("GET /healthz")) == 200);
    }

    TEST_CASE("a clock may be behind that of what keeps the journal, and ahead of it") {
        detail::MetricsText text;
        Cluster cluster;
        cluster.clock_ahead = milliseconds(-1'250);
        cluster.stored = 7;
        cluster.applied = 4;
        detail::append_cluster(text, cluster, false);
        const std::string all = text.take();
        CHECK(all.find("clock_ahead_seconds -1.25\n") != std::string::npos);
        CHECK(all.find("lag_groups 3\n") != std::string::npos);
        cluster.is_connected = true;
        cluster.owner = "a";
        CHECK(detail::unready(Stats(), cluster, false).empty());
        cluster.stored = 1'005;
        CHECK(detail::unready(Stats(), cluster, false).at(0) ==
              "This node is 1001 groups of records behind the owner.");
        cluster.stored = cluster.applied;
        cluster.is_stuck = true;
        cluster.problem = "it is not understood";
        CHECK(detail::unready(Stats(), cluster, false).at(0) ==
              "This node cannot apply what is stored: it is not understood.");
    }

    TEST_CASE("a stream goes on at another node where it was cut, with the same ids in one order") {
        Pair pair;
        const std::string ask_stream = "GET /sse HTTP/1.1\r\nHost: localhost\r\n";
        Wire at_a(pair.a.port);
        Wire at_b(pair.b.port);
        at_a.say(ask_stream + "\r\n").hear("data: {}\n\n");
        at_b.say(ask_stream + "\r\n").hear("data: {}\n\n");
        std::vector<std::string> ids;
        for (int i = 0; i < 20; ++i) {
            Node& node = i % 2 == 0 ? pair.a : pair.b;
            ids.push_back(id_of(node.ask("POST /schedule", good)));
        }
        pair.b.clock.advance(std::chrono::hours(2));
        pair.a.clock.advance(pair.a.tasks, std::chrono::hours(2));
        for (const std::string& id : ids) {
            CHECK(at_a.hear("\n\n").find("id: " + id) != std::string::npos);
            CHECK(at_b.hear("\n\n").find("id: " + id) != std::string::npos);
        }
        Wire resumed(pair.b.port);
        resumed.say(ask_stream + "Last-Event-ID: " + ids[9] + "\r\n\r\n").hear("data: {}\n\n");
        for (std::size_t i = 10; i < ids.size(); ++i) {
            CHECK(resumed.hear("\n\n").find("id: " + ids[i]) != std::string::npos);
        }
    }

    TEST_CASE("a client that knows more than a node goes on there when the node has caught up") {
        Pair pair;
        const std::string first = id_of(pair.a.ask("POST /schedule", good));
        pair.log->pause("b", true);
        const std::string second = id_of(pair.a.ask("POST /schedule", good));
        const std::string third = id_of(pair.a.ask("POST /schedule", good));
        pair.a.clock.advance(pair.a.tasks, std::chrono::hours(2));
        REQUIRE(eventually([&] { return pair.a.tasks.stats().emitted == 3; }));
        // One event that is pending at the other node, and one of which that does not know.
        const auto resumed = [&](const std::string& id) {
            Wire wire(pair.b.port);
            wire.say("GET /sse HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: " + id + "\r\n\r\n");
            return wire;
        };
        Wire after_first = resumed(first);
        Wire after_second = resumed(second);
        Wire page(pair.b.port);
        page.say(request("GET /events?after=" + second));
        CHECK(status_of(pair.b.ask("GET /healthz")) == 200);  // nobody else waits
        pair.log->pause("b", false);
        const std::string begun = after_first.hear("id: " + third);
        CHECK(begun.find("gap") == std::string::npos);
        CHECK(begun.find("id: " + second) != std::string::npos);
        const std::string rest = after_second.hear("id: " + third);
        CHECK(rest.find("gap") == std::string::npos);
        CHECK(rest.find("id: " + first) == std::string::npos);
        const std::string answer = page.message();
        CHECK(status_of(answer) == 200);
        CHECK(answer.find(third) != std::string::npos);
    }

    TEST_CASE("a client goes on at the owner that has not heard yet that its event is stored") {
        Pair pair;
        const std::string id = id_of(pair.a.ask("POST /schedule", good));
        pair.log->fail("a", support::Fault::slow);
        pair.a.clock.advance(pair.a.tasks, std::chrono::hours(2));
        REQUIRE(eventually([&] { return pair.b.tasks.events({1}).events.size() == 1; }));
        Wire wire(pair.a.port);
        wire.say("GET /sse HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: " + id + "\r\n\r\n");
        CHECK(status_of(pair.a.ask("GET /healthz")) == 200);  // nobody else waits
        pair.log->answer("a");
        const std::string begun = wire.hear("data: {}\n\n");
        CHECK(begun.find("gap") == std::string::npos);
        CHECK(begun.find("id: " + id) != std::string::npos);
    }

    TEST_CASE(
        "a node that is cut off ends who asks for what it may have missed, and tells no gap") {
        HttpOptions http;
        http.owner_timeout = milliseconds(50);
        Pair pair(http);
        const std::string id = id_of(pair.a.ask("POST /schedule", good));
        pair.log->away(support::Away::refuses);
        REQUIRE(eventually([&] { return !pair.b.tasks.cluster()->is_connected; }));
        CHECK(pair.b.ask("GET /events?after=" + id).empty());
        Wire wire(pair.b.port);
        wire.say("GET /sse HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: " + id + "\r\n\r\n");
        CHECK(wire.hear("data:").empty());
        pair.log->away(support::Away::no);
    }

    TEST_CASE("an event that never comes is waited for no longer than a change") {
        HttpOptions http;
        http.owner_timeout = milliseconds(50);
        Pair pair(http);
        const std::string unknown = "ffffffff-ffff-7fff-bfff-ffffffffffff";
        CHECK(status_of(pair.b.ask("GET /events?after=" + unknown)) == 404);
        Wire wire(pair.b.port);
        wire.say("GET /sse HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: " + unknown + "\r\n\r\n");
        wire.hear("event: gap");
        CHECK(status_of(pair.a.ask("GET /events?after=" + unknown)) == 404);  // at once
    }

    TEST_CASE("all nodes show the same time for an event, however long its writing took") {
        const auto log = std::make_shared<SharedLog>();
        std::atomic<int> looks{0};
        Options options;
        options.now = [&looks] {
            return TimePoint(std::chrono::hours(500'000) + milliseconds(looks++));
        };
        options.make_journal = [log] { return log->open("a", Telling::thread, ""); };
        Scheduler a(options);
        options.make_journal = [log] { return log->open("b", Telling::thread, ""); };
        Scheduler b(options);
        a.schedule(TimePoint(std::chrono::hours(499'999)), "\"x\"");
        REQUIRE(eventually([&] { return b.events({1}).events.size() == 1; }));
        CHECK(b.events({1}).events[0].emitted_at == a.events({1}).events[0].emitted_at);
    }

    TEST_CASE(
        "a follower may stand on any httplib::Server, behind a prefix, and so may the owner") {
        const auto log = std::make_shared<SharedLog>();
        struct Mounted {
            Mounted(const std::shared_ptr<SharedLog>& log, const std::string& name,
                    const std::string& prefix) {
                port = server.bind_to_any_port("127.0.0.1");
                Options options;
                const std::string url = "http://127.0.0.1:" + std::to_string(port) + prefix + '/';
                options.make_journal = [=] { return log->open(name, Telling::thread, url); };
                tasks.emplace(options);
                api.emplace(*tasks);
                api->mount(server, prefix);
                thread = std::thread([this] { server.listen_after_bind(); });
                REQUIRE(eventually([this] { return server.is_running(); }));
            }
            ~Mounted() {
                api->stop();
                server.stop();
                thread.join();
            }
            httplib::Server server;
            int port;
            std::optional<Scheduler> tasks;
            std::optional<HttpApi> api;
            std::thread thread;
        };
        Mounted a(log, "a", "/owner");
        Mounted b(log, "b", "/follower");
        REQUIRE(a.tasks->is_owner());
        for (const char* path : {"/follower/schedule", "/%66ollowe%72/schedule"}) {
            const std::string answer = ask(b.port, std::string("POST ") + path, good);
            CHECK(status_of(answer) == 200);
            CHECK(answer.find("Location: /follower/tasks/" + id_of(answer)) != std::string::npos);
            CHECK(status_of(ask(b.port, "GET /follower/tasks/" + id_of(answer))) == 200);
        }
        const std::string hidden = "Idempotency-Key: a%0d%0aEvil: b\r\n";
        CHECK(status_of(ask(b.port, "POST /follower/schedule", good, hidden)) == 400);
        a.api->stop();
        log->take("b");
        REQUIRE(eventually([&] { return b.tasks->is_owner(); }));
        CHECK(status_of(ask(b.port, "POST /follower/schedule", good)) == 200);
    }
}

}  // namespace nodes_test
