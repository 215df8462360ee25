// SPDX-License-Identifier: MIT
#include "support.hpp"

#include <ctime>

namespace http_test {

using namespace scheduler;
using support::eventually;
using support::FailingFiles;
using support::TempDir;
using support::TestClock;

namespace {

// A client that says exactly what it is told to, and reads what comes.
class Wire {
public:
    explicit Wire(int port) : fd_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_port = htons(static_cast<std::uint16_t>(port));
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        const timeval ten_seconds{10, 0};
        ::setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &ten_seconds, sizeof ten_seconds);
        REQUIRE(::connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
    }
    Wire(const Wire&) = delete;
    Wire& operator=(const Wire&) = delete;
    ~Wire() { ::close(fd_); }

    Wire& say(std::string_view text) {
        while (!text.empty()) {
            const ssize_t n = ::send(fd_, text.data(), text.size(), MSG_NOSIGNAL);
            if (n <= 0) break;  // the server has closed; what it said is still to be read
            text.remove_prefix(static_cast<std::size_t>(n));
        }
        return *this;
    }
    // Whether all of it can be sent.
    bool takes(std::string_view text) {
        return ::send(fd_, text.data(), text.size(), MSG_NOSIGNAL) ==
               static_cast<ssize_t>(text.size());
    }
    // What comes until it holds `mark`; all of it to the end, if it never does.
    std::string hear(const std::string& mark) {
        std::size_t at;
        while ((at = heard_.find(mark)) == std::string::npos) {
            char buffer[65'536];
            const ssize_t n = ::recv(fd_, buffer, sizeof buffer, 0);
            if (n <= 0) return std::exchange(heard_, {});
            heard_.append(buffer, static_cast<std::size_t>(n));
        }
        std::string text = heard_.substr(0, at + mark.size());
        heard_.erase(0, text.size());
        return text;
    }
    std::string hear_all() { return hear(std::string("\0nothing\0", 9)); }
    // One answer: its head, and the body by Content-Length.
    std::string answer() {
        std::string head = hear("\r\n\r\n");
        const std::size_t at = head.find("Content-Length: ");
        if (at == std::string::npos) return head;
        const auto size = static_cast<std::size_t>(std::atoi(head.c_str() + at + 16));
        while (heard_.size() < size) {
            char buffer[65'536];
            const ssize_t n = ::recv(fd_, buffer, sizeof buffer, 0);
            if (n <= 0) break;
            heard_.append(buffer, static_cast<std::size_t>(n));
        }
        head += heard_.substr(0, size);
        heard_.erase(0, size);
        return head;
    }
    void end() { ::shutdown(fd_, SHUT_WR); }
    // A copy of the descriptor at the other end, which must be in this process.
    int copy_of_peer() const {
        sockaddr_in own{};
        socklen_t size = sizeof own;
        ::getsockname(fd_, reinterpret_cast<sockaddr*>(&own), &size);
        for (int fd = 0; fd < 1'024; ++fd) {
            sockaddr_in peer{};
            size = sizeof peer;
            const bool known = ::getpeername(fd, reinterpret_cast<sockaddr*>(&peer), &size) == 0;
            if (known && peer.sin_family == AF_INET && peer.sin_port == own.sin_port) {
                return ::fcntl(fd, F_DUPFD_CLOEXEC, 0);
            }
        }
        return -1;
    }
    void reset() {
        const linger at_once{1, 0};
        ::setsockopt(fd_, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    }
    bool set_send_timeout(const timeval& timeout) {
        return ::setsockopt(fd_, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout) == 0;
    }
    // Whether something has come that was not heard yet.
    bool has_input() {
        char c;
        return !heard_.empty() || ::recv(fd_, &c, 1, MSG_PEEK | MSG_DONTWAIT) > 0;
    }
    // Whether the server ends the connection, and says nothing before.
    bool is_ended() {
        char c;
        return heard_.empty() && ::recv(fd_, &c, 1, 0) == 0;
    }

private:
    int fd_;
    std::string heard_;
};

int status_of(const std::string& answer) {
    return answer.size() > 12 ? std::atoi(answer.c_str() + 9) : 0;
}

// A server with a clock that is moved by hand.
struct Service {
    explicit Service(HttpOptions http = {}, Options options = {})
        : tasks(with(std::move(options))), server(tasks, std::move(http)) {
        port = server.listen("127.0.0.1", 0);
    }
    Options with(Options options) {
        options.now = clock.source();
        return options;
    }
    // One request on a connection of its own, and the whole answer.
    std::string ask(const std::string& line, const std::string& body = "",
                    const std::string& fields = "") const {
        std::string text = line + " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" + fields;
        if (!body.empty()) text += "Content-Length: " + std::to_string(body.size()) + "\r\n";
        return Wire(port).say(text + "\r\n" + body).hear_all();
    }
    TaskId task(const char* message = "\"x\"", milliseconds delay = std::chrono::hours(1)) {
        return tasks.schedule(delay, message);
    }

    TestClock clock;
    Scheduler tasks;
    HttpServer server;
    int port = 0;
};

// A file system where calls of one kind wait for as long as a test wants.
class SlowFiles : public FileOps {
public:
    // The kind that is slow; nothing: none is.
    void be_slow(const std::string& kind) {
        const std::lock_guard<std::mutex> guard(mutex_);
        slow_ = kind;
        waiting_ = false;
        changed_.notify_all();
    }
    bool has_waiting() {
        std::unique_lock<std::mutex> lock(mutex_);
        return changed_.wait_for(lock, support::long_enough, [this] { return waiting_; });
    }
    int fdatasync(int fd) override {
        wait("fdatasync");
        return FileOps::fdatasync(fd);
    }
    int rename(const char* from, const char* to) override {
        wait("rename");
        return FileOps::rename(from, to);
    }

private:
    void wait(const char* kind) {
        std::unique_lock<std::mutex> lock(mutex_);
        if (slow_ != kind) return;
        waiting_ = true;
        changed_.notify_all();
        changed_.wait(lock, [&] { return slow_ != kind; });
    }

    std::mutex mutex_;
    std::condition_variable changed_;
    std::string slow_;      // guarded by mutex_
    bool waiting_ = false;  // guarded by mutex_
};

const char* const good = R"({"timestamp":"2026-03-01T13:00:00Z","message":"x"})";

std::string schedule_request(const std::string& fields = "") {
    return "POST /schedule HTTP/1.1\r\nHost: localhost\r\n" + fields +
           "Content-Length: " + std::to_string(std::strlen(good)) + "\r\n\r\n" + good;
}

std::string stream_request(const std::string& query = "", const std::string& fields = "") {
    return "GET /sse" + query + " HTTP/1.1\r\nHost: localhost\r\n" + fields + "\r\n";
}

}  // namespace

TEST_SUITE("http") {
    TEST_CASE("a task is scheduled, listed, found, cancelled and gone") {
        Service service;
        const std::string answer = service.ask("POST /schedule", good);
        CHECK(status_of(answer) == 200);
        const std::string id = support::pending_ids(service.tasks).front().str();
        CHECK(answer.find(R"({"message":"Scheduled task at 2026-03-01T13:00:00Z","id":")" + id +
                          "\"}") != std::string::npos);
        CHECK(answer.find("\r\nLocation: /tasks/" + id + "\r\n") != std::string::npos);
        CHECK(answer.find("\r\nContent-Type: application/json\r\n") != std::string::npos);
        const std::string found = service.ask("GET /tasks/" + id);
        CHECK(found.find(R"({"id":")" + id +
                         R"(","status":"pending","due":"2026-03-01T13:00:00.000Z",)"
                         R"("payload":{"timestamp":"2026-03-01T13:00:00Z","message":"x"},)"
                         R"("stored_at":"2026-03-01T12:00:00.000Z","sinks":[]})") !=
              std::string::npos);
        CHECK(service.ask("GET /tasks").find(R"("page_info":{"total_count":1,"count":1,)") !=
              std::string::npos);
        const std::string cancelled = service.ask("POST /cancel", "{\"id\":\"" + id + "\"}");
        CHECK(status_of(cancelled) == 200);
        CHECK(cancelled.find("{\"message\":\"Cancelled task " + id + "\"}") != std::string::npos);
        CHECK(status_of(service.ask("GET /tasks/" + id)) == 404);
        CHECK(status_of(service.ask("DELETE /tasks/" + id)) == 404);
    }

    TEST_CASE("every route answers what the contract says") {
        Service service;
        const std::string id = service.task().str();
        const std::string past = service.task("\"past\"", milliseconds(0)).str();
        REQUIRE(service.tasks.wait_for(scheduler::Cursor(0), support::long_enough));
        const std::string none = "00000000-0000-7000-8000-000000000000";
        struct Case {
            std::string line;
            std::string body;
            int status;
            std::string part;
        };
        const Case cases[] = {
            {"POST /schedule", "", 400, "not valid JSON"},
            {"POST /schedule", "{\"a\":1}", 400, "\\\"timestamp\\\" is missing"},
            {"POST /schedule", "[" + std::string(good) + "," + good + "]", 200,
             "Scheduled 2 tasks"},
            {"POST /schedule", "[" + std::string(good) + ",{}]", 400, "[1]: "},
            {"POST /schedule", "[]", 400, "from 1 to 10000"},
            {"POST /cancel", "{}", 400, "\\\"id\\\" is missing"},
            {"POST /cancel", "{\"id\":\"nonsense\"}", 404, "no task nonsense"},
            {"POST /cancel", "{\"id\":\"" + past + "\"}", 409, "already emitted"},
            {"POST /cancel", "no json", 400, "not valid JSON"},
            {"DELETE /tasks/" + none, "", 404, "no task"},
            {"DELETE /tasks/" + past, "", 409, "already emitted"},
            {"PATCH /tasks/" + id, R"({"message":{"n":1.0}})", 200, R"("message":{"n":1.0}})"},
            {"PATCH /tasks/" + id, R"({"delay":"2h"})", 200, "2026-03-01T14:00:00.000Z"},
            {"PATCH /tasks/" + id, "{}", 400, "Nothing is to be changed"},
            {"PATCH /tasks/" + id, R"({"delay":"2h","more":1})", 400, "can be changed"},
            {"PATCH /tasks/" + past, R"({"delay":"2h"})", 409, "already emitted"},
            {"PATCH /tasks/" + none, R"({"delay":"2h"})", 404, "no task"},
            {"GET /tasks/" + past, "", 200, R"("status":"emitted")"},
            {"GET /tasks?limit=1", "", 200, R"("count":1)"},
            {"GET /tasks?limit=0", "", 400, "from 1 to 1000"},
            {"GET /tasks?limit=1001&after=x&due_after=y", "", 400, "end_cursor of a page"},
            {"GET /tasks?due_after=2026-03-01T13:30:00Z", "", 200, R"("count":1)"},
            {"GET /histogram?due_after=2026-03-01T12:00:00Z&due_before=2026-03-02&buckets=2", "",
             200,
             R"({"from":"2026-03-01T12:00:00.000Z","to":"2026-03-02T00:00:00.000Z","counts":[)"},
            {"GET /histogram?buckets=0", "", 400, R"(\"buckets\" must be a number from 1 to 500.)"},
            {"GET /histogram?buckets=501", "", 400, "from 1 to 500"},
            {"GET /histogram?buckets=-1", "", 400, "from 1 to 500"},
            {"GET /histogram?buckets=1.5&due_after=x&due_before=y", "", 400, "ISO 8601"},
            {"GET /histogram?due_after=2027&due_before=2027", "", 400, "must be earlier than"},
            {"GET /histogram?due_after=2028&due_before=2027", "", 400, "must be earlier than"},
            {"GET /histogram?from=2028", "", 400, "is unknown"},
            {"POST /histogram", "{}", 405, "GET"},
            {"GET /tasks?topic=a&topic=b*", "", 200, R"("matching_count":0})"},
            {"GET /events?topic=*", "", 200, R"("matching_count":0})"},
            {"GET /tasks?topic=", "", 400, "A topic to choose by must be"},
            {"GET /tasks?topic=a*b&q=", "", 400, "may end with a *"},
            {"GET /tasks?topic=a*b&q=", "", 400, "from 1 to 256"},
            {"GET /tasks?topic=a%00", "", 400, "A topic to choose by must be"},
            {"GET /tasks?topic=a&topic=%C3%A9", "", 400, "A topic to choose by must be"},
            {"GET /tasks?topic=" + std::string(129, 'a'), "", 400, "1 to 128"},
            {"GET /events?topic=%2A%2A", "", 400, "A topic to choose by must be"},
            {"DELETE /tasks?topic=**", "", 400, "A topic to choose by must be"},
            {"DELETE /tasks?topic=a&all=true", "", 400, "not both"},
            {"DELETE /tasks?topic=a&topic=a%2Fb", "", 200, R"({"cancelled":0})"},
            {"GET /tasks?q=%22a%22", "", 200, R"("end_cursor":null,"matching_count":0})"},
            {"GET /tasks?q=timestamp", "", 200, R"("count":3)"},
            {"GET /tasks?q=" + id, "", 200, R"("matching_count":1})"},
            {"HEAD /tasks?q=" + id, "", 200, "Content-Length"},
            {"GET /tasks?q=", "", 400, "from 1 to 256 bytes of UTF-8"},
            {"GET /tasks?q", "", 400, "from 1 to 256 bytes of UTF-8"},
            {"GET /tasks?q=a%00b", "", 400, "without control characters"},
            {"GET /tasks?q=%FF&limit=0", "", 400, "UTF-8"},
            {"GET /tasks?q=%FF&limit=0", "", 400, "limit"},
            {"GET /tasks?q=" + std::string(256, 'x'), "", 200, R"("data":[])"},
            {"GET /tasks?q=" + std::string(257, 'x'), "", 400, "from 1 to 256 bytes"},
            {"GET /tasks?q=a&q=b", "", 400, "given more than once"},
            {"GET /events?q=" + past, "", 200, R"("matching_count":1})"},
            {"GET /events?q=nothing&after=earliest", "", 200, R"("matching_count":0})"},
            {"GET /events?q=%C3", "", 400, "UTF-8"},
            {"GET /histogram?q=x", "", 400, "is unknown"},
            {"DELETE /tasks?q=", "", 400, "from 1 to 256"},
            {"DELETE /tasks?q=x&all=true", "", 400, "not both"},
            {"DELETE /tasks?q=nothing", "", 200, R"({"cancelled":0})"},
            {"GET /tasks?status=missed", "", 200, R"({"page_info":{"total_count":0,"count":0,)"},
            {"GET /tasks?status=pending&limit=1", "", 200, R"("count":1)"},
            {"GET /tasks?status=emitted&limit=0", "", 400, "GET /events lists what was emitted"},
            {"GET /tasks?status=", "", 400, "must be pending or missed"},
            {"DELETE /tasks", "", 400, "due_before"},
            {"DELETE /tasks?due_before=2026-03-01T13:30:00Z", "", 200, R"({"cancelled":2})"},
            {"GET /events", "", 200, R"("late_ms":0)"},
            {"GET /events?after=earliest", "", 200, past},
            {"GET /events?after=" + past, "", 200, R"("data":[])"},
            {"GET /events?after=" + none, "", 404, "the oldest is " + past},
            {"GET /events?before=" + past, "", 200, R"("data":[])"},
            {"GET /events?after=a&before=b", "", 400, "not both"},
            {"DELETE /events?start_id=" + none, "", 404, "has no event"},
            {"DELETE /events?start_id=" + past + "&end_id=" + past, "", 200, R"({"deleted":1})"},
            {"DELETE /events?all=true", "", 200, R"({"deleted":0})"},
            {"POST /pause", "[]", 400, "must be empty or an object"},
            {"POST /pause", "nonsense", 400, "not valid JSON"},
            {"POST /pause", R"({"reason":1,"more":2})", 400,
             R"(\"reason\" must be a string.","The)"},
            {"POST /pause", R"({"reason":null})", 400, "must be a string"},
            {"POST /pause", R"({"reason":"a\u0000b"})", 400, "without control characters"},
            {"POST /pause", R"({"reason":"a\nb","reason":"c"})", 400, "more than once"},
            {"POST /pause", R"({"reason":")" + std::string(10'000, 'x') + "\"}", 400, "500 bytes"},
            {"POST /pause", R"({"reason":"the receiver moves"})", 200, R"({"message":"Paused"})"},
            {"GET /readyz", "", 200,
             R"("paused":{"since":"2026-03-01T12:00:00.000Z","reason":"the receiver moves"}})"},
            {"GET /status", "", 200,
             R"("paused":{"since":"2026-03-01T12:00:00.000Z","reason":"the receiver moves"})"},
            {"GET /metrics", "", 200, "\ntask_scheduler_paused 1\n"},
            {"GET /metrics", "", 200,
             "\ntask_scheduler_pause_info{reason=\"the receiver moves\"} 1\n"},
            {"POST /resume", R"({"reason":"x"})", 400, R"(may not have \"reason\")"},
            {"POST /resume", R"({"secret":"x"})", 200, R"({"message":"Resumed"})"},
            {"POST /resume", "", 200, R"({"message":"Resumed"})"},
            {"GET /readyz", "", 200, R"("paused":null)"},
            {"GET /metrics", "", 200, "\ntask_scheduler_paused 0\n"},
            {"GET /pause", "", 405, "it knows POST"},
            {"GET /status", "", 200, R"("streams":{"open":0,"limit":1024},"access":"all"})"},
            {"GET /status?x=1", "", 400, "takes none"},
            {"GET /healthz", "", 200, R"({"status":"ok"})"},
            {"GET /readyz", "", 200, R"("status":"ready")"},
            {"GET /metrics", "", 200, "task_scheduler_events_emitted_total 1"},
            {"GET /nothing", "", 404, "nothing at this path"},
            {"GET /tasks/a/b", "", 404, "nothing at this path"},
            {"POST /nothing", "{}", 404, "nothing at this path"},
            {"PUT /tasks", "{}", 405, "GET, HEAD, DELETE"},
            {"GET /schedule", "", 405, "it knows POST"},
            {"TRACE /schedule", "", 405, "it knows POST"},
            {"TRACE /nothing", "", 404, "nothing at this path"},
            {"BREW /tasks", "", 405, "GET, HEAD, DELETE"},
            {"BREW /nothing", "", 404, "nothing at this path"},
            {"CONNECT example.org:443", "", 501, "no proxy"},
            {"CONNECT /tasks", "", 405, "GET, HEAD, DELETE"},
        };
        for (const Case& one : cases) {
            CAPTURE(one.line);
            const std::string answer = service.ask(one.line, one.body);
            CAPTURE(answer);
            CHECK(status_of(answer) == one.status);
            CHECK(answer.find(one.part) != std::string::npos);
            const std::size_t body = answer.find("\r\n\r\n") + 4;
            if (one.status != 200) CHECK(answer.compare(body, 12, "{\"errors\":[\"") == 0);
        }
        CHECK(service.ask("PUT /tasks", "{}").find("\r\nAllow: GET, HEAD, DELETE, OPTIONS\r\n") !=
              std::string::npos);
    }

    TEST_CASE("what was missed is listed, and says when and how late") {
        Service service;
        service.tasks.pause();
        const std::string id =
            status_of(service.ask("POST /schedule",
                                  R"({"delay":"1s","max_lateness":2,"message":"x"})")) == 200
                ? support::pending_ids(service.tasks).front().str()
                : "";
        service.clock.advance(service.tasks, std::chrono::seconds(4));
        service.tasks.resume();
        REQUIRE(eventually([&] { return service.tasks.stats().missed == 1; }));
        const std::string page = service.ask("GET /tasks?status=missed");
        CHECK(page.find("\"total_count\":1,\"count\":1,") != std::string::npos);
        const std::string said =
            R"({"id":")" + id +
            R"(","status":"missed",)"
            R"("due":"2026-03-01T12:00:01.000Z","missed_at":"2026-03-01T12:00:04.000Z","late_ms":3000,)";
        CHECK(page.find(said) != std::string::npos);
        CHECK(service.ask("GET /tasks/" + id).find(said) != std::string::npos);
        CHECK(service.ask("GET /metrics").find("task_scheduler_tasks_missed_total 1\n") !=
              std::string::npos);
        CHECK(service.ask("GET /status").find(R"("missed_kept":1)") != std::string::npos);
    }

    TEST_CASE("tasks that wait too long make it not ready, but not while it is paused") {
        TestClock clock;
        Options options;
        options.now = clock.source();
        options.drive = Drive::caller;  // nobody emits until this is told to
        Scheduler tasks(options);
        HttpServer server(tasks, {});
        const int port = server.listen("127.0.0.1", 0);
        const auto ready = [port] {
            return Wire(port).say("GET /readyz HTTP/1.0\r\nHost: localhost\r\n\r\n").hear_all();
        };
        tasks.schedule(std::chrono::seconds(10), "\"x\"");
        clock.advance(std::chrono::seconds(15));
        CHECK(status_of(ready()) == 200);
        clock.advance(std::chrono::seconds(1));
        CHECK(ready().find("A task is overdue by 6 s") != std::string::npos);
        tasks.pause();
        CHECK(status_of(ready()) == 200);
        tasks.resume();
        CHECK(status_of(ready()) == 503);
        tasks.run_due();
        CHECK(status_of(ready()) == 200);
    }

    TEST_CASE("a misspelt parameter is refused by its name, and nothing is done") {
        Service service;
        const std::string id = service.task().str();
        service.task("\"past\"", milliseconds(0));
        REQUIRE(service.tasks.wait_for(scheduler::Cursor(0), support::long_enough));
        const std::string past = support::events_from(service.tasks, 0).events.front().id.str();
        struct Case {
            std::string line;
            const char* known;  // what the refusal says
        };
        const Case cases[] = {
            {"DELETE /events?start_idd=" + past, R"(known are "start_id", "end_id" and "all".)"},
            {"DELETE /events?start_id=" + past + "&start_idd=x", R"("end_id" and "all".)"},
            {"DELETE /events?start_i%64d=" + past, R"("end_id" and "all".)"},
            {"DELETE /tasks?start_idd=2027-01-01&due_after=2020-01-01",
             R"(known are "due_after", "due_before", "topic", "q" and "all".)"},
            {"GET /tasks?start_idd=1", R"("due_after", "due_before", "status", "topic" and "q".)"},
            {"GET /events?start_idd=1",
             R"(known are "limit", "after", "before", "topic" and "q".)"},
            {"HEAD /events?start_idd=1", ""},
            {"GET /sse?start_idd", R"(known are "last_event_id", )"},
            {"GET /sinks/valve/dead?start_idd=1", R"(known are "limit" and "after".)"},
            {"POST /schedule?start_idd=1", "this request takes none."},
            {"POST /cancel?start_idd=1", "this request takes none."},
            {"GET /tasks/" + id + "?start_idd=1", "this request takes none."},
            {"PATCH /tasks/" + id + "?start_idd=1", "this request takes none."},
            {"DELETE /tasks/" + id + "?start_idd=1", "this request takes none."},
            {"GET /sinks?start_idd=1", "this request takes none."},
            {"POST /sinks/valve/redeliver?start_idd=1", "this request takes none."},
            {"POST /sinks/valve/pause?start_idd=1", "this request takes none."},
            {"POST /sinks/valve/resume?start_idd=1", "this request takes none."},
        };
        for (const Case& one : cases) {
            CAPTURE(one.line);
            std::string answer = service.ask(one.line, one.line[0] == 'P' ? "{}" : "");
            CAPTURE(answer);
            CHECK(status_of(answer) == 400);
            if (one.line[0] == 'H') continue;
            answer.erase(std::remove(answer.begin(), answer.end(), '\\'), answer.end());
            CHECK(answer.find(R"("start_i)") != std::string::npos);
            CHECK(answer.find(one.known) != std::string::npos);
        }
        CHECK(service.tasks.stats().pending == 1);
        CHECK(service.tasks.stats().retained == 1);
        // All of them are named at once, but no more than a person reads.
        CHECK(service.ask("GET /tasks?a=1&b=2").find(R"(\"b\" is unknown)") != std::string::npos);
        CHECK(service.ask("GET /tasks?" + std::string(8'000, '&') + "x").size() < 2'000);
        std::string many = "GET /tasks?x";
        for (int i = 0; i < 1'000; ++i) many += "&x" + std::to_string(i);
        CHECK(service.ask(many).size() < 4'000);
        // Who asks whether it lives may add what it likes; what is empty is no parameter.
        for (const char* line : {"GET /healthz?x=1", "GET /readyz?x=1", "GET /metrics?x=1",
                                 "GET /openapi.json?x=1", "GET /tasks?", "GET /tasks?&limit=1&"}) {
            CAPTURE(line);
            CHECK(status_of(service.ask(line)) == 200);
        }
    }

    TEST_CASE("everything is forgotten or cancelled only if all=true says so, and nothing else") {
        Service service;
        service.task();
        const std::string past = service.task("\"past\"", milliseconds(0)).str();
        REQUIRE(service.tasks.wait_for(scheduler::Cursor(0), support::long_enough));
        for (const std::string line :
             {"DELETE /events", "DELETE /events?all=false", "DELETE /events?all=1",
              "DELETE /events?all=TRUE", "DELETE /events?all", "DELETE /tasks",
              "DELETE /tasks?all=yes", "DELETE /tasks?all=", "DELETE /tasks?all=true&all=true"}) {
            CAPTURE(line);
            const std::string answer = service.ask(line);
            CAPTURE(answer);
            CHECK(status_of(answer) == 400);
            CHECK(answer.find("all") != std::string::npos);
        }
        for (const std::string& line :
             {"DELETE /events?all=true&start_id=" + past, "DELETE /events?all=true&end_id=" + past,
              std::string("DELETE /tasks?due_before=2027-01-01&all=true")}) {
            CAPTURE(line);
            CHECK(service.ask(line).find("not both") != std::string::npos);
        }
        CHECK(service.tasks.stats().retained == 1);
        CHECK(service.tasks.stats().pending == 1);
        CHECK(service.ask("DELETE /events?all=true").find(R"({"deleted":1})") != std::string::npos);
        CHECK(service.ask("DELETE /tasks?all=true").find(R"({"cancelled":1})") !=
              std::string::npos);
        CHECK(service.tasks.stats().retained == 0);
        CHECK(service.tasks.stats().pending == 0);
    }

    TEST_CASE(
        "a parameter that is given twice is refused, since one of them would be passed over") {
        Service service;
        service.task();
        for (const char* line : {"GET /tasks?limit=1&limit=2", "GET /events?limit=1&li%6Dit=1",
                                 "DELETE /tasks?due_before=2020-01-01&due_before=2027-01-01",
                                 "GET /sse?last_event_id=earliest&last_event_id=earliest"}) {
            CAPTURE(line);
            const std::string answer = service.ask(line);
            CAPTURE(answer);
            CHECK(status_of(answer) == 400);
            CHECK(answer.find("more than once") != std::string::npos);
        }
        CHECK(service.tasks.stats().pending == 1);
    }

    TEST_CASE("pages stay right while tasks come and go") {
        Service service;
        std::vector<TaskId> ids;
        for (int i = 0; i < 250; ++i) {
            ids.push_back(service.task("\"x\"", std::chrono::seconds(100 + i)));
        }
        std::set<std::string> seen;
        std::string after;
        for (int page = 0; page < 10 && after != "null"; ++page) {
            const std::string answer = service.ask("GET /tasks?limit=40" + after);
            for (const TaskId id : ids) {
                if (answer.find("{\"id\":\"" + id.str()) == std::string::npos) continue;
                CHECK(seen.insert(id.str()).second);
            }
            const std::size_t at = answer.find("\"end_cursor\":") + 13;
            if (answer.compare(at, 4, "null") == 0) break;
            after = "&after=" + answer.substr(at + 1, answer.find('"', at + 1) - at - 1);
            service.tasks.cancel(ids[static_cast<std::size_t>(page)]);
            service.task("\"new\"", std::chrono::seconds(50));
        }
        CHECK(seen.size() == 250);
    }

    TEST_CASE("the trace of a request is shown with its task and its event, if it is one") {
        Service service;
        const std::string parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        const std::string trace = "traceparent: " + parent + "\r\n";
        const char* const now = R"({"delay":0,"message":"x","topic":"a","max_lateness":"1h"})";
        service.ask("POST /schedule", now, trace + "TraceState: a=1\r\ntracestate: b=2\r\n");
        REQUIRE(service.tasks.wait_for(scheduler::Cursor(0), support::long_enough));
        const std::string shown = R"(","traceparent":")" + parent + R"(","tracestate":"a=1,b=2",)";
        CHECK(service.ask("GET /events").find(shown) != std::string::npos);
        service.ask("POST /schedule", good, trace + trace);
        service.ask("POST /schedule", good, "traceparent: 00-1\r\ntracestate: a=1\r\n");
        service.ask("POST /schedule", good, trace + "tracestate: A\r\n");
        const std::string tasks = service.ask("GET /tasks");
        CHECK(tasks.find(R"("total_count":3)") != std::string::npos);
        CHECK(tasks.find("\"traceparent\"") == tasks.rfind("\"traceparent\""));
        CHECK(tasks.find("tracestate") == std::string::npos);
        CHECK(status_of(service.ask("POST /schedule",
                                    R"({"delay":0,"message":"x","max_lateness":0})")) == 400);
    }

    TEST_CASE("a repeated Idempotency-Key is answered as the first time") {
        Service service;
        const std::string first = service.ask("POST /schedule", good, "Idempotency-Key: k\r\n");
        std::string again = service.ask("POST /schedule", good, "Idempotency-Key: k\r\n");
        const std::string told = "Idempotent-Replayed: true\r\n";
        REQUIRE(again.find(told) != std::string::npos);
        CHECK(again.erase(again.find(told), told.size()) == first);
        CHECK(service.tasks.stats().pending == 1);
        CHECK(status_of(service.ask("POST /schedule", R"({"delay":1,"message":"y"})",
                                    "Idempotency-Key: k\r\n")) == 422);
        CHECK(status_of(service.ask("POST /schedule", '[' + std::string(good) + ']',
                                    "Idempotency-Key: k\r\n")) == 422);
        const std::string long_key = "Idempotency-Key: " + std::string(256, 'k') + "\r\n";
        CHECK(status_of(service.ask("POST /schedule", good, long_key)) == 400);
    }

    TEST_CASE("HEAD and OPTIONS are what they are in HTTP") {
        Service service;
        const std::string head = service.ask("HEAD /healthz");
        CHECK(head.find("Content-Length: 15\r\n") != std::string::npos);
        CHECK(head.find("{") == std::string::npos);
        const std::string options = service.ask("OPTIONS /tasks");
        CHECK(status_of(options) == 204);
        CHECK(options.find("Allow: GET, HEAD, DELETE, OPTIONS\r\n") != std::string::npos);
        CHECK(status_of(service.ask("HEAD /sse")) == 200);
    }

    TEST_CASE("a secret must come with every request, in one of its places") {
        HttpOptions http;
        http.secrets = {"old-one", "new.one"};
        Service service(http);
        for (const char* line :
             {"POST /schedule", "POST /cancel", "GET /tasks", "GET /tasks/x", "DELETE /tasks/x",
              "PATCH /tasks/x", "GET /events", "GET /sse", "DELETE /events", "DELETE /tasks",
              "GET /metrics", "GET /nothing", "PUT /schedule", "OPTIONS /tasks"}) {
            CAPTURE(line);
            const std::string bare = service.ask(line);
            CHECK(status_of(bare) == 401);
            CHECK(bare.find("\r\nWWW-Authenticate: Bearer") != std::string::npos);
            for (const char* wrong :
                 {"x-pd-secret: old-on\r\n", "x-pd-secret: old-one2\r\n", "x-pd-secret:\r\n",
                  "Authorization: Bearer \r\n", "Authorization: Basic old-one\r\n"}) {
                CHECK(status_of(service.ask(line, "", wrong)) == 401);
            }
            if (std::string(line) == "GET /sse") continue;
            CHECK(status_of(service.ask(line, "", "x-pd-secret: old-one\r\n")) != 401);
            CHECK(status_of(service.ask(line, "", "Authorization: bearer new.one\r\n")) != 401);
        }
        const auto with = [](const char* secret) {
            return R"({"timestamp":"2026-03-01T13:00:00Z","message":"x","secret":")" +
                   std::string(secret) + "\"}";
        };
        CHECK(status_of(service.ask("POST /schedule", with("new.one"))) == 200);
        CHECK(status_of(service.ask("POST /schedule", with("new"))) == 401);
        CHECK(status_of(service.ask("POST /schedule", with("new.one") + "x")) == 401);
        CHECK(status_of(service.ask("POST /schedule", "[" + with("new.one") + "," + good + "]")) ==
              401);
        CHECK(status_of(service.ask("POST /schedule",
                                    "[" + with("new.one") + "," + with("old-one") + "]")) == 200);
        CHECK(status_of(service.ask("GET /tasks?secret=old-one")) == 401);
        CHECK(status_of(service.ask("GET /healthz")) == 200);
        CHECK(status_of(service.ask("GET /readyz")) == 200);
        Wire stream(service.port);
        CHECK(stream.say(stream_request("?secret=old-one")).hear("\n\n").find("200 OK") !=
              std::string::npos);
        for (const Task& task : service.tasks.tasks().tasks) {
            CHECK(task.payload.str().find("one") == std::string::npos);
        }
    }

    TEST_CASE("a read secret opens GET and HEAD, streams included, and nothing else") {
        HttpOptions http;
        http.secrets = {"writer"};
        http.read_secrets = {"reader-a", "reader.b"};
        Service service(http);
        const std::string id = service.task().str();
        for (const std::string& field : std::initializer_list<std::string>{
                 "x-pd-secret: reader-a\r\n", "X-PD-SECRET: reader.b\r\n",
                 "Authorization: Bearer reader-a\r\n", "authorization: bearer reader.b\r\n"}) {
            CAPTURE(field);
            for (const std::string& path : std::initializer_list<std::string>{
                     "/tasks", "/events", "/sinks", "/metrics", "/openapi.json"}) {
                CAPTURE(path);
                CHECK(status_of(service.ask("GET " + path, "", field)) == 200);
                CHECK(status_of(service.ask("HEAD " + path, "", field)) == 200);
                CHECK(status_of(service.ask("OPTIONS " + path, "", field)) == 403);
                CHECK(status_of(service.ask("get " + path, "", field)) == 403);
            }
            CHECK(status_of(service.ask("HEAD /sse", "", field)) == 200);
            CHECK(status_of(service.ask("GET /nowhere", "", field)) == 404);
            for (const std::string& line : std::initializer_list<std::string>{
                     "POST /schedule", "POST /cancel", "PUT /schedule", "PATCH /tasks/" + id,
                     "DELETE /tasks/" + id, "DELETE /tasks?all=true", "DELETE /events?all=true",
                     "POST /sinks/a/pause", "POST /sinks/a/redeliver", "DELETE /sinks/a",
                     "POST /nowhere", "POST /tasks", "POST /sse", "BREW /tasks",
                     "POST /sse?secret=reader-a", "POST //schedule",
                     "POST http://localhost/schedule", "POST /healthz"}) {
                CAPTURE(line);
                const std::string answer = service.ask(line, "{}", field);
                CHECK(status_of(answer) == 403);
                CHECK(answer.find("read secret") != std::string::npos);
                CHECK(answer.find("reader") == std::string::npos);
            }
        }
        const auto with = [](const std::string& secret) {
            return R"({"timestamp":"2026-03-01T13:00:00Z","message":"x","secret":")" + secret +
                   "\"}";
        };
        CHECK(status_of(service.ask("POST /schedule", with("reader-a"))) == 403);
        CHECK(status_of(service.ask("POST /schedule",
                                    '[' + with("writer") + ',' + with("reader-a") + ']')) == 403);
        CHECK(status_of(service.ask("POST /schedule",
                                    '[' + with("reader-a") + ',' + with("wrong") + ']')) == 401);
        CHECK(status_of(service.ask("POST /schedule", with("reader-a"),
                                    "Authorization: Bearer writer\r\n")) == 200);
        CHECK(status_of(service.ask("GET /tasks", R"({"secret":"reader-a"})")) == 200);
        CHECK(status_of(service.ask("GET /tasks?secret=reader-a")) == 401);
        CHECK(status_of(service.ask("GET /tasks", "", "x-pd-secret: reader-\r\n")) == 401);
        CHECK(service.tasks.find(*TaskId::parse(id))->status == Status::pending);
        CHECK(service.tasks.stats().pending == 2);
        Wire stream(service.port);
        CHECK(stream.say(stream_request("?secret=reader-a")).hear("\n\n").find("200 OK") !=
              std::string::npos);
    }

    TEST_CASE("secrets are replaced for every later request, and open streams stay") {
        HttpOptions http;
        http.secrets = {"old"};
        http.read_secrets = {"old-reader"};
        Service service(http);
        Wire stream(service.port);
        stream.say(stream_request("?secret=old-reader")).hear("\n\n");
        const auto ask = [&](const std::string& secret) {
            return status_of(service.ask("OPTIONS /tasks", "", "x-pd-secret: " + secret + "\r\n"));
        };
        CHECK(ask("old") == 204);
        CHECK_THROWS_AS(service.server.replace_secrets({"new"}, {"new"}), Error);
        CHECK_THROWS_AS(service.server.replace_secrets({"new", "not good"}), Error);
        CHECK_THROWS_AS(service.server.replace_secrets({}, {"new"}), Error);
        CHECK(ask("old") == 204);
        CHECK(ask("new") == 401);
        service.server.replace_secrets({"new"}, {"old"});
        CHECK(ask("old") == 403);
        CHECK(ask("old-reader") == 401);
        CHECK(ask("new") == 204);
        service.task("\"still\"", milliseconds(0));
        CHECK(stream.hear("still").find("data:") != std::string::npos);
        service.server.replace_secrets({});
        CHECK(ask("any") == 204);
        const std::string foreign = "GET /tasks HTTP/1.1\r\nHost: evil.example\r\n\r\n";
        CHECK(status_of(Wire(service.port).say(foreign).answer()) == 403);
    }

    TEST_CASE("whoever asks while secrets are replaced is judged by one of the two") {
        HttpOptions http;
        http.secrets = {"always", "first"};
        Service service(http);
        std::atomic<bool> done{false};
        std::thread replacing([&] {
            for (int i = 0; !done; ++i) {
                service.server.replace_secrets({"always", i % 2 ? "first" : "second"}, {"reader"});
            }
        });
        Wire wire(service.port);
        for (int i = 0; i < 200; ++i) {
            const std::string secret = i % 2 ? "always" : "never";
            wire.say("GET /tasks HTTP/1.1\r\nHost: localhost\r\nx-pd-secret: " + secret +
                     "\r\n\r\n");
            CHECK(status_of(wire.answer()) == (i % 2 ? 200 : 401));
        }
        done = true;
        replacing.join();
    }

    TEST_CASE("a foreign page cannot drive the server, and a listed one can") {
        HttpOptions http;
        http.cors_origins = {"https://example.org"};
        http.allowed_hosts = {"tasks.example"};
        Service service(http);
        const std::string port = std::to_string(service.port);
        const auto ask = [&](const std::string& host, const std::string& fields) {
            return Wire(service.port)
                .say("GET /tasks HTTP/1.1\r\nConnection: close\r\nHost: " + host + "\r\n" + fields +
                     "\r\n")
                .hear_all();
        };
        CHECK(status_of(ask("localhost:" + port, "")) == 200);
        CHECK(status_of(ask("127.0.0.1:" + port, "Origin: http://127.0.0.1:" + port + "\r\n")) ==
              200);
        CHECK(status_of(ask("[::1]:" + port, "")) == 200);
        CHECK(status_of(ask("tasks.example", "")) == 200);
        CHECK(status_of(ask("evil.example", "")) == 403);
        CHECK(status_of(ask("", "")) == 403);
        CHECK(status_of(ask("127.0.0.1.evil.example", "")) == 403);
        CHECK(status_of(ask("localhost:" + port, "Origin: http://localhost:1\r\n")) == 403);
        CHECK(status_of(ask("localhost", "Origin: https://evil.example\r\n")) == 403);
        CHECK(status_of(ask("localhost", "Origin: null\r\n")) == 403);
        const std::string listed = ask("localhost", "Origin: https://example.org\r\n");
        CHECK(listed.find("Access-Control-Allow-Origin: https://example.org\r\n") !=
              std::string::npos);
        const std::string preflight =
            service.ask("OPTIONS /schedule", "",
                        "Origin: https://example.org\r\nAccess-Control-Request-Method: POST\r\n");
        CHECK(status_of(preflight) == 204);
        CHECK(preflight.find("Access-Control-Allow-Methods: POST") != std::string::npos);
        CHECK(preflight.find("x-pd-secret") != std::string::npos);
    }

    TEST_CASE("however the loopback is spelt, a foreign name for it is refused") {
        for (const std::string host :
             {"127.0.0.1", "127.1", "127.8.9.10", "::1", "0:0:0:0:0:0:0:1", "::ffff:127.0.0.1",
              "::ffff:7f00:1", "::FFFF:127.8.9.10", "0:0:0:0:0:ffff:127.0.0.1"}) {
            CAPTURE(host);
            TestClock clock;
            Options options;
            options.now = clock.source();
            Scheduler tasks(options);
            HttpServer server(tasks);
            int port = 0;
            try {
                port = server.listen(host, 0);
            } catch (const std::runtime_error&) {
                WARN_MESSAGE(false, "this machine has no such address");
                continue;
            }
            httplib::Client client(host, port);
            const auto status = [&](const std::string& name) {
                const auto result = client.Get("/tasks", httplib::Headers{{"Host", name}});
                return result ? result->status : 0;
            };
            CHECK(status("evil.example") == 403);
            CHECK(status("[::ffff:8.8.8.8]") == 403);
            CHECK(status("[::1].evil.example") == 400);  // no host at all
            for (const std::string own : {"localhost", "127.0.0.1", "[::1]:80", "[0:0::1]",
                                          "[::ffff:127.0.0.1]:80", "[::ffff:7f00:1]"}) {
                CAPTURE(own);
                CHECK(status(own) == 200);
            }
        }
    }

    TEST_CASE("who connects before the server listens waits, and is answered rightly") {
        HttpListener listener("127.0.0.1", 0);
        CHECK(listener.is_loopback());
        Wire early(listener.port());
        early.say(schedule_request());
        CHECK_THROWS_WITH_AS(HttpListener("127.0.0.1", listener.port()),
                             doctest::Contains("in use"), std::runtime_error);
        TestClock clock;
        Options options;
        options.now = clock.source();
        Scheduler tasks(options);
        HttpServer server(tasks);
        CHECK(server.listen(std::move(listener)) > 0);
        CHECK(status_of(early.answer()) == 200);
        CHECK(tasks.stats().pending == 1);
    }

    TEST_CASE("options that would let in nobody, or everybody, are refused") {
        Scheduler tasks;
        const auto refusal = [&](const HttpOptions& options) -> std::string {
            try {
                HttpServer server(tasks, options);
            } catch (const Error& error) {
                CHECK(error.code() == Errc::invalid_argument);
                return error.what();
            }
            return "";
        };
        HttpOptions options;
        using Texts = std::vector<std::string>;
        for (const Texts& secrets :
             {Texts{""}, Texts{"good", ""}, Texts{"50%"}, Texts{"two words"}, Texts{"tab\t"},
              Texts{"line\n"}, Texts{"\x7F"}, Texts{"\x1B[1m"}, Texts{"a", "b", "c"}}) {
            CAPTURE(secrets.back());
            options.secrets = secrets;
            const std::string error = refusal(options);
            CHECK(error.find("secret") != std::string::npos);
            if (secrets.back().size() > 1) CHECK(error.find(secrets.back()) == std::string::npos);
        }
        options.secrets = {"good"};
        for (const Texts& readers : {Texts{"a", "b", "c"}, Texts{""}, Texts{"100%"}, Texts{"good"},
                                     Texts{"a", "good"}, Texts{"a b"}}) {
            CAPTURE(readers.back());
            options.read_secrets = readers;
            CHECK(refusal(options).find("secret") != std::string::npos);
        }
        options.secrets.clear();
        options.read_secrets = {"reader"};
        CHECK(refusal(options).find("needs a secret beside it") != std::string::npos);
        options.read_secrets.clear();
        options.secrets = {"good",
                           "g\xC3\xB6\xC3\xB6"
                           "d"};
        CHECK(refusal(options) == "");
        for (const std::string origin : {"",
                                         "*",
                                         "null",
                                         "example.org",
                                         "https://",
                                         "https://example.org/",
                                         "https://example.org/page",
                                         "https://Example.org",
                                         "HTTPS://example.org",
                                         "https://example.org:443",
                                         "http://example.org:80",
                                         "https://example.org:",
                                         "https://example.org:0",
                                         "https://example.org:65536",
                                         "https://a.example,b.example",
                                         "https://*.example.org",
                                         "https://a@example.org",
                                         "https://example.org ",
                                         "https://[::1",
                                         "https://[::x]",
                                         "://example.org",
                                         "https://b\xC3\xBC.example"}) {
            CAPTURE(origin);
            options.cors_origins = {"https://example.org", origin};
            CHECK(refusal(options).find("origin") != std::string::npos);
        }
        options.cors_origins = {"https://example.org",
                                "http://localhost:8080",
                                "http://[::1]:8080",
                                "http://127.0.0.1",
                                "http://example.org:443",
                                "app://obsidian.md",
                                "moz-extension://2c127fa4-62c7-7e4f-90e5-472b45eecfdc",
                                "https://xn--b-1ga.example"};
        CHECK(refusal(options) == "");
        for (const std::string host :
             {"", "*", "http://tasks.example", "tasks.example/", "*.example", "tasks example",
              "tasks.example:", "tasks.example:port", "fe80::1", "[fe80::1", "a@b"}) {
            CAPTURE(host);
            options.allowed_hosts = {"tasks.example", host};
            CHECK(refusal(options).find("host") != std::string::npos);
        }
        options.allowed_hosts = {"tasks.example", "Tasks_1:8080", "192.168.0.1", "[fe80::1]",
                                 "[fe80::1]:80"};
        CHECK(refusal(options) == "");
    }

    TEST_CASE("only a preflight from a listed origin is free of the secret") {
        HttpOptions http;
        http.secrets = {"hidden"};
        http.cors_origins = {"https://example.org"};
        Service service(http);
        const auto preflight = [&](const std::string& origin) {
            return status_of(
                service.ask("OPTIONS /schedule", "",
                            "Origin: " + origin + "\r\nAccess-Control-Request-Method: POST\r\n"));
        };
        CHECK(preflight("https://example.org") == 204);
        CHECK(preflight("https://evil.example") == 401);
        CHECK(preflight("http://127.0.0.1:" + std::to_string(service.port)) == 401);
    }

    TEST_CASE("the server may outlive the scheduler's work") {
        Service service;
        Wire stream(service.port);
        stream.say(stream_request()).hear("cursor");
        service.tasks.stop();
        CHECK(status_of(service.ask("POST /schedule", good)) == 503);
        CHECK(status_of(service.ask("GET /tasks")) == 200);
        service.server.stop();
        CHECK(stream.hear_all().find("event: cursor") == std::string::npos);
    }

    TEST_CASE("a body may be as large as the limit, however it comes") {
        HttpOptions http;
        http.max_body = 1'000;
        Service service(http);
        const auto body = [](std::size_t size) {
            std::string text = R"({"timestamp":"2026-03-01T13:00:00Z","message":""})";
            return text.insert(text.size() - 2, size - text.size(), 'x');
        };
        const auto chunked = [&](const std::string& text) {
            std::string request =
                "POST /schedule HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
            for (std::size_t at = 0; at < text.size(); at += 100) {
                const std::string part = text.substr(at, 100);
                char size[16];
                std::snprintf(size, sizeof size, "%zx\r\n", part.size());
                request += size + part + "\r\n";
            }
            return Wire(service.port).say(request + "0\r\n\r\n").answer();
        };
        CHECK(status_of(service.ask("POST /schedule", body(1'000))) == 200);
        CHECK(status_of(service.ask("POST /schedule", body(1'001))) == 413);
        CHECK(status_of(chunked(body(1'000))) == 200);
        CHECK(status_of(chunked(body(1'001))) == 413);
        CHECK(status_of(chunked(body(100'000))) == 413);
        CHECK(service.tasks.stats().pending == 2);
    }

    TEST_CASE("sinks and their dead letters are shown, and told what to do") {
        Service service;
        CHECK(service.ask("GET /sinks").find(R"({"data":[]})") != std::string::npos);
        const auto never = make_sink([](const Event&) { throw std::runtime_error("never"); });
        Sinks sinks(service.tasks, {{"a.b", never, {}, false}});
        const std::string one = service.task("\"1\"", milliseconds(0)).str();
        service.task("\"2\"", milliseconds(0));
        REQUIRE(eventually([&] { return service.tasks.sinks()[0].dead == 2; }));
        CHECK(service.ask("GET /sinks")
                  .find(R"("name":"a.b","kind":"callback","target":"",)"
                        R"("state":"active")") != std::string::npos);
        const std::string page = service.ask("GET /sinks/a.b/dead?limit=1");
        CHECK(page.find(R"({"page_info":{"total_count":2,"count":1,"start_cursor":")" + one +
                        R"(","end_cursor":")" + one) != std::string::npos);
        CHECK(page.find(R"("attempts":1,"error":"never","redelivering":false}]})") !=
              std::string::npos);
        CHECK(service.ask("GET /sinks/a.b/dead?after=" + one).find("\"end_cursor\":null") !=
              std::string::npos);
        CHECK(status_of(service.ask("GET /sinks/a.b/dead?after=x")) == 400);
        CHECK(status_of(service.ask("GET /sinks/a.b/dead?limit=0")) == 400);
        const std::string redeliver = "POST /sinks/a.b/redeliver";
        CHECK(service.ask(redeliver, R"({"id":")" + one + "\"}").find(R"({"redelivering":1})") !=
              std::string::npos);
        CHECK(service.ask(redeliver).find(R"({"redelivering":2})") != std::string::npos);
        CHECK(status_of(service.ask(redeliver, R"({"id":"x"})")) == 404);
        CHECK(status_of(service.ask(redeliver, R"({"id":7})")) == 404);
        CHECK(status_of(service.ask(redeliver, "[]")) == 400);
        CHECK(status_of(service.ask(redeliver, R"({"ids":[]})")) == 400);
        CHECK(service.ask(redeliver, R"({"secret":"x"})").find(R"({"redelivering":2})") !=
              std::string::npos);
        CHECK(status_of(service.ask(redeliver, "{")) == 400);
        CHECK(service.ask("POST /sinks/a.b/pause").find(R"("state":"paused")") !=
              std::string::npos);
        CHECK(service.ask("POST /sinks/a.b/resume").find(R"("state":"active")") !=
              std::string::npos);
        for (const char* line :
             {"GET /sinks/b/dead", "POST /sinks/b/redeliver", "POST /sinks/b/pause",
              "POST /sinks/b/resume", "GET /sinks/", "DELETE /sinks/b", "POST /sinks//pause",
              "POST /sinks/a/b/pause"}) {
            CAPTURE(line);
            CHECK(status_of(service.ask(line)) == 404);
        }
        CHECK(service.ask("GET /sinks/a.b").find("Allow: DELETE, OPTIONS\r\n") !=
              std::string::npos);
        CHECK(status_of(service.ask("DELETE /sinks/a.b")) == 409);
        CHECK(service.ask("GET /sinks/a.b/pause").find("Allow: POST, OPTIONS\r\n") !=
              std::string::npos);
        CHECK(
            service.ask("GET /metrics").find("task_scheduler_sink_dead_letters{sink=\"a.b\"} 2") !=
            std::string::npos);
    }

    TEST_CASE("a body is JSON whatever its type says, and encoded ones are refused") {
        Service service;
        for (const char* type :
             {"application/json", "application/x-www-form-urlencoded", "text/plain", "x"}) {
            const std::string message(20'000, 'm');
            const std::string body =
                R"({"timestamp":"2026-03-01T13:00:00Z","message":")" + message + "\"}";
            CHECK(status_of(service.ask("POST /schedule", body,
                                        std::string("Content-Type: ") + type + "\r\n")) == 200);
        }
        for (const char* field : {"Content-Encoding: gzip\r\n", "Content-Type: multipart/mixed\r\n",
                                  "content-type: Multipart/form-data; boundary=x\r\n"}) {
            CHECK(status_of(service.ask("POST /schedule", good, field)) == 415);
        }
        CHECK(status_of(service.ask("POST /schedule", good)) == 200);
    }

    TEST_CASE("requests come one after the other on one connection, also all at once") {
        Service service;
        Wire wire(service.port);
        const std::string one = schedule_request();
        for (int i = 0; i < 50; ++i) REQUIRE(status_of(wire.say(one).answer()) == 200);
        std::string many;
        for (int i = 0; i < 50; ++i)
            many += one + "GET /healthz HTTP/1.1\r\nHost: a.localhost\r\n\r\n";
        wire.say(many);
        int ok = 0;
        for (int i = 0; i < 100; ++i) ok += status_of(wire.answer()) == 200;
        CHECK(ok == 50);  // the other Host is none of the loopback's
        CHECK(service.tasks.stats().pending == 100);
    }

    TEST_CASE("what was answered is stored, and what could not be stored is refused, one by one") {
        const TempDir dir;
        const auto files = std::make_shared<FailingFiles>();
        Options options;
        options.journal = dir.journal();
        options.files = files;
        HttpOptions http;
        http.cors_origins = {"https://example.org"};
        std::size_t expected = 0;
        for (const Fsync fsync : {Fsync::always, Fsync::everysec, Fsync::no}) {
            options.fsync = fsync;
            Service service(http, options);
            const std::string one = schedule_request("Origin: https://example.org\r\n");
            std::string many;
            for (int i = 0; i < 20; ++i) many += one;
            Wire wire(service.port);
            const std::size_t before = service.tasks.stats().pending;
            files->fail_call("pwrite", 0, ENOSPC);  // half of what has come is written
            wire.say(many);
            std::size_t stored = 0;
            for (int i = 0; i < 20; ++i) {
                const std::string answer = wire.answer();
                const bool is_stored = status_of(answer) == 200;
                stored += is_stored;
                CHECK(is_stored == (i > 0 && status_of(answer) != 507));
                CHECK(is_stored == (answer.find("\r\nRetry-After: ") == std::string::npos));
                CHECK(is_stored == (answer.find("\r\nLocation: ") != std::string::npos));
                CHECK(answer.find("\r\nAccess-Control-Allow-Origin: ") != std::string::npos);
                CHECK(answer.find("Cache-Control") == answer.rfind("Cache-Control"));
            }
            CHECK(service.tasks.stats().pending == before + stored);
            expected += stored;
            files->fail_all("pwrite", EIO);  // half is written, and cannot be taken back
            wire.say(many);
            CHECK(wire.is_ended());  // nobody knows whether it is stored
            CHECK(status_of(service.ask("GET /readyz")) == 503);
            files->fail_all("pwrite", 0);
            CHECK(
                eventually([&] { return status_of(Wire(service.port).say(one).answer()) == 200; }));
            CHECK(service.tasks.stats().pending == before + stored + 1);
            ++expected;
        }
        CHECK(Scheduler(options).stats().recovered == expected);
    }

    TEST_CASE("an answer tells the time, as HTTP writes it") {
        CHECK(scheduler::detail::http_date(TimePoint(milliseconds(784'111'777'999))) ==
              "Sun, 06 Nov 1994 08:49:37 GMT");
        Service service;
        CHECK(service.ask("GET /healthz").find("\r\nDate: ") != std::string::npos);
    }

    TEST_CASE("bodies without the secret leave room for one that has it") {
        HttpOptions http;
        http.secrets = {"right"};
        http.max_bodies = 400'000;
        Service service(http);
        const std::string post = "POST /schedule HTTP/1.1\r\nHost: localhost\r\n";
        const std::string half = "Content-Length: 300000\r\n\r\n" + std::string(150'000, ' ');
        Wire first(service.port);
        Wire second(service.port);
        first.say(post + half);
        second.say(post + half);
        std::size_t refused = 0;  // one of them, whichever is read first
        CHECK(eventually([&] {
            for (Wire* wire : {&first, &second}) {
                if (wire->has_input())
                    refused = static_cast<std::size_t>(status_of(wire->answer()));
            }
            return refused != 0;
        }));
        CHECK(refused == 401);
        const std::string task = R"({"delay":"1h","message":"x"})";
        const std::string padded = task + std::string(100'000, ' ');
        CHECK(status_of(service.ask("POST /schedule", padded, "x-pd-secret: right\r\n")) == 200);
    }

    TEST_CASE("a server listens once, at an address that can be one") {
        Service service;
        CHECK_THROWS_AS(service.server.listen("127.0.0.1", 0), const std::runtime_error&);
        CHECK_THROWS_AS(HttpListener("127.0.0.1", 70'000), const std::runtime_error&);
        HttpListener listener("127.0.0.1", 0);
        const HttpListener moved = std::move(listener);
        HttpServer other(service.tasks);
        CHECK_THROWS_AS(other.listen(std::move(listener)), const std::runtime_error&);
        CHECK(status_of(service.ask("GET /healthz")) == 200);
    }

    TEST_CASE("what meets a put that is being stored follows it, and holds up nobody") {
        const TempDir dir;
        const auto files = std::make_shared<SlowFiles>();
        Options options;
        options.journal = dir.journal();
        options.files = files;
        Service service({}, options);
        const auto request = [](const char* line, const std::string& body, const char* field = "") {
            return std::string(line) + " /tasks/valve HTTP/1.1\r\nHost: localhost\r\n" + field +
                   "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
        };
        files->be_slow("fdatasync");
        Wire first(service.port);
        first.say(request("PUT", good));
        REQUIRE(files->has_waiting());
        Wire second(service.port);
        second.say(request("PUT", good, "If-None-Match: *\r\n"));
        second.say(request("PATCH", R"({"message":"changed"})") + request("DELETE", ""));
        second.say(request("PUT", good));
        for (int i = 0; i < 5; ++i) CHECK(status_of(service.ask("GET /tasks/valve")) == 404);
        CHECK_FALSE(second.has_input());
        files->be_slow("");
        CHECK(status_of(first.answer()) == 201);
        for (const int status : {412, 200, 200, 201}) CHECK(status_of(second.answer()) == status);
    }

    TEST_CASE("while the disk takes its time, whoever does not wait for it is answered") {
        const TempDir dir;
        const auto files = std::make_shared<SlowFiles>();
        Options options;
        options.journal = dir.journal();
        options.files = files;
        Service service({}, options);
        const std::string one = schedule_request();
        files->be_slow("fdatasync");
        std::vector<std::unique_ptr<Wire>> wires;
        for (int i = 0; i < 5; ++i) {
            wires.push_back(std::make_unique<Wire>(service.port));
            wires.back()->say(one);
            if (i == 0) REQUIRE(files->has_waiting());
        }
        for (int i = 0; i < 5; ++i) CHECK(status_of(service.ask("GET /healthz")) == 200);
        CHECK(status_of(service.ask("POST /schedule", "{}")) == 400);
        CHECK(service.tasks.stats().scheduled == 0);
        files->be_slow("");
        for (auto& wire : wires) CHECK(status_of(wire->answer()) == 200);
        CHECK(service.tasks.stats().scheduled == 5);
    }

    TEST_CASE("what is refused behind a request that is stored is answered behind it") {
        Service service;
        const std::string one = schedule_request();
        Wire wire(service.port);
        wire.say(one + one + "NONSENSE\r\n\r\n");
        CHECK(status_of(wire.answer()) == 200);
        CHECK(status_of(wire.answer()) == 200);
        CHECK(status_of(wire.answer()) == 400);
        CHECK(wire.is_ended());
    }

    TEST_CASE("a client that is gone while its request waits for the disk costs no time") {
        const TempDir dir;
        const auto files = std::make_shared<SlowFiles>();
        Options options;
        options.journal = dir.journal();
        options.files = files;
        Service service({}, options);
        const std::string id = service.task().str();
        files->be_slow("fdatasync");
        {
            Wire gone(service.port);
            gone.say("DELETE /tasks/" + id + " HTTP/1.1\r\nHost: localhost\r\n\r\n");
            REQUIRE(files->has_waiting());
            gone.reset();
        }
        const std::clock_t before = std::clock();  // of all threads
        std::this_thread::sleep_for(milliseconds(500));
        CHECK(std::clock() - before < CLOCKS_PER_SEC / 10);
        files->be_slow("");
        CHECK(eventually([&] { return service.tasks.stats().pending == 0; }));
    }

    TEST_CASE("a connection ends even if a child of the process has a copy of it") {
        Service service;
        const std::string rest =
            "Content-Length: " + std::to_string(std::strlen(good)) + "\r\n\r\n" + good;
        const std::string one = "POST /schedule HTTP/1.1\r\nHost: localhost\r\n";
        Wire wire(service.port);
        CHECK(status_of(wire.say(one + rest).answer()) == 200);
        const int copy = wire.copy_of_peer();
        REQUIRE(copy >= 0);
        CHECK(status_of(wire.say(one + "Connection: close\r\n" + rest).answer()) == 200);
        CHECK(wire.is_ended());
        wire.say("more");  // is nobody's
        CHECK(status_of(service.ask("POST /schedule", good)) == 200);
        ::close(copy);
    }

    TEST_CASE("a connection whose answers could not be sent in time ends there") {
        HttpOptions http;
        http.request_timeout = milliseconds(300);
        Service service(http);
        const std::string one =
            "GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: to be of 64 bytes\r\n\r\n";
        Wire wire(service.port);
        CHECK(status_of(wire.say(one).answer()) == 200);
        std::this_thread::sleep_for(milliseconds(100));  // it is idle once
        std::string many;                                // to the end of one read
        for (int i = 0; i < 256; ++i) many += one;
        REQUIRE(many.size() == 16'384);
        const timeval ten_seconds{10, 0};
        REQUIRE(wire.set_send_timeout(ten_seconds));
        while (wire.takes(many)) continue;  // until no answer can be sent, and the server ends it
        std::string answer;
        std::size_t count = 0;
        for (; status_of(answer = wire.answer()) == 200; ++count) {
            if (answer.size() < 4 || answer.substr(answer.size() - 4) != "ok\"}") break;
        }
        CHECK(count > 500);
        CHECK(wire.is_ended());  // in the middle of one, perhaps
    }

    TEST_CASE("while the journal is replaced, whoever does not wait for it is answered") {
        const TempDir dir;
        const auto files = std::make_shared<SlowFiles>();
        Options options;
        options.journal = dir.journal();
        options.files = files;
        options.fsync = Fsync::everysec;
        options.rewrite_min_bytes = 10'000;
        Service service({}, options);
        files->be_slow("rename");
        std::thread busy([&] {
            for (int i = 0; i < 100; ++i) service.tasks.cancel(service.task());
        });
        CHECK(files->has_waiting());
        std::vector<std::unique_ptr<Wire>> wires;
        for (int i = 0; i < 5; ++i) {
            wires.push_back(std::make_unique<Wire>(service.port));
            wires.back()->say("POST /schedule HTTP/1.1\r\nHost: localhost\r\nContent-Length: " +
                              std::to_string(std::strlen(good)) + "\r\n\r\n" + good);
        }
        for (int i = 0; i < 5; ++i) CHECK(status_of(service.ask("GET /healthz")) == 200);
        files->be_slow("");
        busy.join();
        for (auto& wire : wires) CHECK(status_of(wire->answer()) == 200);
        CHECK(service.tasks.stats().pending == 5);
    }

    TEST_CASE("a request that the end of the server cuts off is to be sent again") {
        Service service;
        const std::string one = schedule_request();
        Wire wire(service.port);
        CHECK(status_of(wire.say(one).answer()) == 200);
        wire.say(one.substr(0, one.size() - 1));
        service.server.stop();
        const std::string answer = wire.answer();
        CHECK(status_of(answer) == 503);
        CHECK(answer.find("\r\nRetry-After: ") != std::string::npos);
        CHECK(wire.is_ended());
    }

    TEST_CASE("an answer is whole, whatever the next request is") {
        Service service;
        const std::string one = schedule_request();
        for (const char* next : {"HEAD /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
                                 "GET /healthz HTTP/1.0\r\n\r\n"}) {
            Wire wire(service.port);
            const std::string answer = wire.say(one + next).answer();
            CHECK(status_of(answer) == 200);
            CHECK(answer.find("\r\n\r\n{\"message\":\"Scheduled ") != std::string::npos);
            CHECK(answer.find("keep-alive") == std::string::npos);
            CHECK(status_of(wire.hear("\r\n\r\n")) == 200);
        }
    }

    TEST_CASE("who asks for large answers and never reads them holds up nobody") {
        Service service;
        const std::string one = schedule_request();
        std::string many = one;  // to the end of one read, and with long answers
        for (int i = 0; i < 150; ++i) many += "POST /schedule HTTP/1.1\r\nHost:a\r\n\r\n";
        const std::string head =
            "POST /schedule HTTP/1.1\r\nHost:localhost\r\nContent-Length:00000\r\n\r\n";
        std::string body = "{\"delay\":1";
        while (many.size() + head.size() + body.size() < 16'370) body += ",\"delay\":1";
        body.resize(16'383 - many.size() - head.size(), ' ');
        const std::string size = std::to_string(body.size() + 1);
        many += head + body + '}';
        many.replace(many.rfind("00000"), 5, std::string(5 - size.size(), '0') + size);
        REQUIRE(many.size() == 16'384);
        Wire rude(service.port);
        for (std::size_t sent = 1; rude.takes(many); ++sent) {  // until its answers are stuck
            const auto is_taken = [&] { return service.tasks.stats().scheduled == sent; };
            if (!eventually(is_taken, milliseconds(500))) break;
        }
        for (int i = 0; i < 5; ++i) CHECK(status_of(service.ask("POST /schedule", good)) == 200);
    }

    TEST_CASE("who sends and never reads holds up nobody") {
        Service service;
        const std::string one =
            "POST /schedule HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2"
            "\r\n\r\n{}";
        std::string many;
        for (int i = 0; i < 200'000; ++i) many += one;
        std::vector<std::unique_ptr<Wire>> rude;
        for (int i = 0; i < 4; ++i) {
            rude.push_back(std::make_unique<Wire>(service.port));
            const timeval moment{0, 100'000};  // until nothing more is taken from it
            REQUIRE(rude.back()->set_send_timeout(moment));
            rude.back()->say(many);
        }
        for (int i = 0; i < 5; ++i) CHECK(status_of(service.ask("POST /schedule", good)) == 200);
    }

    TEST_CASE("a connection that is idle for too long ends, and one that is used does not") {
        HttpOptions http;
        http.idle_timeout = milliseconds(1'000);
        Service service(http);
        const std::string one = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
        using Clock = std::chrono::steady_clock;
        bool was_held_up = true;  // by this machine, so that nobody can tell it from an idle one
        for (int round = 0; round < 20 && was_held_up; ++round) {
            Wire silent(service.port);
            Wire quiet(service.port);
            Wire busy(service.port);
            CHECK(status_of(quiet.say(one).answer()) == 200);
            was_held_up = false;
            const auto begin = Clock::now();
            for (auto used = begin; !was_held_up && used - begin < milliseconds(1'500);) {
                const bool is_answered = status_of(busy.say(one).answer()) == 200;
                was_held_up = Clock::now() - std::exchange(used, Clock::now()) > milliseconds(500);
                if (!was_held_up) REQUIRE(is_answered);
                std::this_thread::sleep_for(milliseconds(10));
            }
            CHECK(silent.is_ended());
            CHECK(quiet.is_ended());
            CHECK(busy.is_ended());
        }
        CHECK_FALSE(was_held_up);
    }

    TEST_CASE("a client that expects 100 gets it, but not for a body that is too large") {
        Service service;
        Wire wire(service.port);
        const std::string head =
            "POST /schedule HTTP/1.1\r\nHost: localhost\r\nExpect: "
            "100-continue\r\nContent-Length: ";
        wire.say(head + std::to_string(std::strlen(good)) + "\r\n\r\n");
        CHECK(status_of(wire.hear("\r\n\r\n")) == 100);
        CHECK(status_of(wire.say(good).answer()) == 200);
        CHECK(status_of(Wire(service.port).say(head + "99999999\r\n\r\n").answer()) == 413);
    }

    TEST_CASE("a head that is not plainly HTTP is refused, and the connection closed") {
        Service service;
        const std::string start = "POST /schedule HTTP/1.1\r\nHost: localhost\r\n";
        std::string many_fields;
        for (int i = 0; i < 200; ++i) many_fields += "a: b\r\n";
        const std::pair<std::string, int> cases[] = {
            {"nonsense\r\n\r\n", 400},
            {"GET  /healthz HTTP/1.1\r\nHost: a\r\n\r\n", 400},
            {"GET /healthz HTTP/2.0\r\nHost: a\r\n\r\n", 400},
            {"GET /healthz HTTP/1.1\nHost: a\n\n", 400},
            {"GET healthz HTTP/1.1\r\nHost: a\r\n\r\n", 400},
            {"GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n", 400},
            {"GET /healthz HTTP/1.1\r\n\r\n", 400},
            {"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400},
            {"BR(EW /schedule HTTP/1.1\r\nHost: a\r\n\r\n", 400},
            {start + "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", 400},
            {start + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
            {start + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400},
            {start + "Content-Length: +5\r\n\r\nhello", 400},
            {start + "Content-Length: -5\r\n\r\nhello", 400},
            {start + "Content-Length: 0x5\r\n\r\nhello", 400},
            {start + "Content-Length:\r\n\r\n", 400},
            {start + "Content-Length : 5\r\n\r\nhello", 400},
            {start + "Content-Length: 5, 5\r\n\r\nhello", 400},
            {start + "a: b\r\n folded\r\n\r\n", 400},
            {start + "a\r\n\r\n", 400},
            {start + std::string("a: b\0c\r\n\r\n", 10), 400},
            {start + many_fields + "\r\n", 431},
            {start + "a: " + std::string(20'000, 'x') + "\r\n\r\n", 431},
            {"GET /" + std::string(60'000, 'x') + " HTTP/1.1\r\nHost: a\r\n\r\n", 414},
            {"GET /" + std::string(4'000, 'x') + " HTTP/1.1\r\nHost: a\r\n\r\n", 414},
        };
        for (const auto& one : cases) {
            const std::string& text = one.first;
            const int status = one.second;
            CAPTURE(text.substr(0, 80));
            Wire wire(service.port);
            const std::string answer = wire.say(text).hear_all();
            CHECK(status_of(answer) == status);
            CHECK(answer.find("\r\nConnection: close\r\n") != std::string::npos);
            CHECK(answer.find("{\"errors\":[") != std::string::npos);
        }
        CHECK(status_of(service.ask("GET /healthz")) == 200);
    }

    TEST_CASE("HTTP/1.0, absolute targets and empty lines before a request are understood") {
        Service service;
        CHECK(status_of(Wire(service.port).say("GET /healthz HTTP/1.0\r\n\r\n").hear_all()) == 200);
        CHECK(
            status_of(
                Wire(service.port)
                    .say("\r\n\r\nGET http://localhost/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
                    .answer()) == 200);
    }

    TEST_CASE("a request that comes too slowly is given up with 408") {
        HttpOptions http;
        http.request_timeout = milliseconds(50);
        Service service(http);
        CHECK(status_of(Wire(service.port).say("GET /healthz HT").hear_all()) == 408);
        CHECK(
            status_of(
                Wire(service.port)
                    .say(
                        "POST /schedule HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n{")
                    .hear_all()) == 408);
    }

    TEST_CASE("a body that was not read does not run as the next request") {
        HttpOptions http;
        http.max_body = 10;
        Service service(http);
        const std::string inner =
            "DELETE /tasks?due_after=2020 HTTP/1.1\r\nHost: localhost\r\n\r\n";
        service.task();
        const std::string answer =
            Wire(service.port)
                .say("POST /schedule HTTP/1.1\r\nHost: localhost\r\nContent-Length: " +
                     std::to_string(inner.size()) + "\r\n\r\n" + inner)
                .hear_all();
        CHECK(status_of(answer) == 413);
        CHECK(answer.find("HTTP/1.1", 10) == std::string::npos);
        CHECK(service.tasks.stats().pending == 1);
    }

    TEST_CASE("the body of any request is read, so that what follows it is the next") {
        HttpOptions http;
        http.secrets = {"s3cret"};
        Service service(http);
        for (const char* line : {"GET /tasks", "HEAD /tasks", "OPTIONS /tasks"}) {
            CAPTURE(line);
            const std::string head = std::string(line) + " HTTP/1.1\r\nHost: localhost\r\n";
            for (const char* body : {"Content-Length: 19\r\n\r\n{\"secret\":\"s3cret\"}",
                                     "Transfer-Encoding: chunked\r\n\r\n"
                                     "13\r\n{\"secret\":\"s3cret\"}\r\n0\r\n\r\n"}) {
                Wire wire(service.port);
                CHECK(status_of(wire.say(head + body).hear("\r\n\r\n")) / 100 == 2);
                if (line[0] == 'G') wire.hear("]}");
                wire.say("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
                CHECK(status_of(wire.answer()) == 200);
            }
        }
    }

    TEST_CASE("a target in absolute form names the host, and may have no path") {
        Service service;
        const auto ask = [&](const std::string& target) {
            return status_of(service.ask("GET " + target));
        };
        CHECK(ask("http://localhost/healthz") == 200);
        CHECK(ask("HTTP://localhost/healthz") == 200);
        CHECK(ask("http://evil.example/healthz") == 403);
        CHECK(ask("http://localhost?x=/healthz") == 404);
        CHECK(ask("http:///healthz") == 400);
    }

    TEST_CASE("a page of a listed origin sees also that it is refused, and no request has two") {
        HttpOptions http;
        http.secrets = {"s3cret"};
        http.cors_origins = {"https://ok.example"};
        Service service(http);
        const std::string ok = "Origin: https://ok.example\r\n";
        const std::string refused = service.ask("GET /tasks", "", ok);
        CHECK(status_of(refused) == 401);
        CHECK(refused.find("Access-Control-Allow-Origin: https://ok.example\r\n") !=
              std::string::npos);
        CHECK(status_of(service.ask("GET /tasks", "", ok + "Origin: https://evil.example\r\n")) ==
              400);
        CHECK(status_of(service.ask("POST /sse?secret=s3cret")) == 401);
    }

    TEST_CASE("what has no body is not judged by how one would be encoded") {
        Service service;
        for (const char* field : {"Content-Encoding: gzip\r\n", "Content-Type: multipart/x\r\n"}) {
            CHECK(status_of(service.ask("GET /healthz", "", field)) == 200);
        }
        CHECK(service.ask("HEAD /sse").find("Content-Length") == std::string::npos);
    }

    TEST_CASE("requests in a row cost no memory when they are answered") {
        Service service;
        Wire wire(service.port);
        std::string one = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: ";
        one += std::string(64 - one.size() - 4, 'a') + "\r\n\r\n";
        std::string many = one.substr(0, 47) + one.substr(49);  // so that no end meets a read's
        for (int i = 0; i < 16'384; ++i) many += one;
        std::thread saying([&] { wire.say(many).say(many).say(many); });
        std::size_t answers = 0;
        while (answers < 3 * 16'385 && status_of(wire.answer()) == 200) ++answers;
        saying.join();
        CHECK(answers == 3 * 16'385);
    }

    TEST_CASE("a connection ends when its client says so among other words") {
        Service service;
        for (const char* word : {"close", "Close", "close, TE", "TE , close", "keep-alive,close",
                                 "close\r\nConnection: keep-alive"}) {
            CAPTURE(word);
            const std::string answer =
                Wire(service.port)
                    .say("GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: " +
                         std::string(word) + "\r\n\r\n")
                    .hear_all();  // to its end
            CHECK(answer.find("\r\nConnection: close\r\n") != std::string::npos);
        }
    }

    TEST_CASE("a refusal has its body whatever the request before it was") {
        Service service;
        Wire wire(service.port);
        wire.say("HEAD /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").hear("\r\n\r\n");
        const std::string refusal = wire.say(std::string(20'000, 'x')).hear_all();
        CHECK(status_of(refusal) == 414);
        CHECK(refusal.find("\r\n\r\n{\"errors\":[") != std::string::npos);
    }

    TEST_CASE("a stream begins with its cursor and brings every event, id and data") {
        Service service;
        Wire stream(service.port);
        const std::string head = stream.say(stream_request()).hear("\n\n");
        CHECK(head.find("200 OK") != std::string::npos);
        CHECK(head.find("\r\nContent-Type: text/event-stream\r\n") != std::string::npos);
        CHECK(head.find("\r\nCache-Control: no-cache, no-transform\r\n") != std::string::npos);
        CHECK(head.find("\r\nX-Accel-Buffering: no\r\n") != std::string::npos);
        CHECK(head.find("\r\n\r\nretry: 3000\nevent: cursor\nid: earliest\ndata: {}\n\n") !=
              std::string::npos);
        const std::string id = service.task("{ \"n\" : 1.10 }", milliseconds(0)).str();
        CHECK(stream.hear("\n\n") ==
              "id: " + id +
                  "\ndata: "
                  "{\"timestamp\":\"2026-03-01T12:00:00.000Z\",\"message\":{\"n\":1.10}}\n\n");
    }

    TEST_CASE("a stream resumes behind the event that it names, without gap or repeat") {
        Service service;
        std::vector<TaskId> ids;
        for (int i = 0; i < 3'000; ++i) ids.push_back(service.task("\"x\"", milliseconds(0)));
        REQUIRE(service.tasks.wait_for(scheduler::Cursor(2'999), support::long_enough));
        ids = support::event_ids(service.tasks);
        const std::string last = ids[9].str();
        for (const std::string& request : {stream_request("", "Last-Event-ID: " + last + "\r\n"),
                                           stream_request("?last_event_id=" + last),
                                           stream_request("?last_event_id=earliest")}) {
            Wire stream(service.port);
            stream.say(request).hear("event: cursor\n");
            const bool all = request.find("earliest") != std::string::npos;
            CHECK(stream.hear("\n") == "id: " + (all ? "earliest" : last) + "\n");
            stream.hear("\n\n");
            for (std::size_t i = all ? 0 : 10; i < ids.size(); ++i) {
                REQUIRE(stream.hear("\n") == "id: " + ids[i].str() + "\n");
                stream.hear("\n\n");
            }
            const TaskId next = service.task("\"x\"", milliseconds(0));
            ids.push_back(next);
            REQUIRE(stream.hear("\n") == "id: " + next.str() + "\n");
        }
    }

    TEST_CASE("a stream resumes by what polyfills of EventSource send, before what its page gave") {
        Service service;
        const std::string first = service.task("\"1\"", milliseconds(0)).str();
        REQUIRE(service.tasks.wait_for(scheduler::Cursor(0), support::long_enough));
        const std::string second = service.task("\"2\"", milliseconds(0)).str();
        REQUIRE(service.tasks.wait_for(scheduler::Cursor(1), support::long_enough));
        for (const std::string& query :
             {"?lastEventId=" + first, "?lastEventID=" + first,
              "?last_event_id=earliest&lastEventId=" + first, "?lastEventId=&lastEventID=" + first,
              "?lastEventId=&last_event_id=" + first}) {
            CAPTURE(query);
            Wire stream(service.port);
            stream.say(stream_request(query));
            CHECK(stream.hear("\n\n").find("event: cursor\nid: " + first) != std::string::npos);
            CHECK(stream.hear("\n") == "id: " + second + "\n");
        }
    }

    TEST_CASE("a stream that asks for what is no more is told so, and gets the rest") {
        Service service;
        const TaskId id = service.task("\"x\"", milliseconds(0));
        REQUIRE(service.tasks.wait_for(scheduler::Cursor(0), support::long_enough));
        Wire stream(service.port);
        stream.say(stream_request("", "Last-Event-ID: gone\r\n")).hear("\r\n\r\n");
        CHECK(stream.hear("\n\n") ==
              "retry: 3000\nevent: gap\ndata: {\"requested\":\"gone\",\"oldest\":\"" + id.str() +
                  "\"}\n\n");
        CHECK(stream.hear("\n\n") == "event: cursor\nid: earliest\ndata: {}\n\n");
        CHECK(stream.hear("\n") == "id: " + id.str() + "\n");
    }

    TEST_CASE("over the limit of streams a client is told to come back later") {
        HttpOptions http;
        http.max_streams = 2;
        Service service(http);
        {
            Wire first(service.port);
            Wire second(service.port);
            first.say(stream_request()).hear("cursor");
            second.say(stream_request()).hear("cursor");
            const std::string third = Wire(service.port).say(stream_request()).hear_all();
            CHECK(status_of(third) == 200);
            CHECK(third.find("\r\n\r\nretry: 30000\n\n") != std::string::npos);
        }
        CHECK(eventually([&] {
            return Wire(service.port).say(stream_request()).hear("\n\n").find("cursor") !=
                   std::string::npos;
        }));
    }

    TEST_CASE("a quiet stream is kept alive") {
        HttpOptions http;
        http.keep_alive = milliseconds(20);
        Service service(http);
        Wire stream(service.port);
        stream.say(stream_request()).hear("{}\n\n");
        CHECK(stream.hear("\n\n") == ":keepalive\n\n");
        CHECK(stream.hear("\n\n") == ":keepalive\n\n");
    }

    TEST_CASE("a stream is kept alive from its first interval on") {
        HttpOptions http;
        http.keep_alive = milliseconds(2'000);
        Service service(http);
        bool is_in_time = false;
        for (int round = 0; round < 5 && !is_in_time; ++round) {  // this machine may be late once
            Wire stream(service.port);
            const auto start = std::chrono::steady_clock::now();
            stream.say(stream_request()).hear("{}\n\n");
            CHECK(stream.hear("\n\n") == ":keepalive\n\n");
            is_in_time = std::chrono::steady_clock::now() - start < milliseconds(3'900);
        }
        CHECK(is_in_time);
    }

    TEST_CASE("a reader that stalls holds up nobody and misses nothing") {
        Service service;
        Wire slow(service.port);
        slow.say(stream_request()).hear("cursor");
        slow.hear("\n\n");
        Wire quick(service.port);
        quick.say(stream_request()).hear("cursor");
        quick.hear("\n\n");
        std::vector<TaskId> ids;
        const std::string large = '"' + std::string(100'000, 'x') + '"';
        for (int i = 0; i < 200; ++i) {
            ids.push_back(service.task(large.c_str(), milliseconds(0)));
            REQUIRE(quick.hear("\n") == "id: " + ids.back().str() + "\n");
            quick.hear("\n\n");
        }
        for (const TaskId id : ids) {
            REQUIRE(slow.hear("\n") == "id: " + id.str() + "\n");
            slow.hear("\n\n");
        }
    }

    TEST_CASE("a reader that stalls beyond what is kept is told of the gap") {
        Options options;
        options.history = 1;
        Service service({}, options);
        Wire slow(service.port);
        slow.say(stream_request()).hear("cursor");
        slow.hear("\n\n");
        const std::string large = '"' + std::string(1'000'000, 'x') + '"';
        for (int i = 0; i < 30; ++i) service.task(large.c_str(), milliseconds(0));
        REQUIRE(service.tasks.wait_for(scheduler::Cursor(29), support::long_enough));
        service.clock.advance(service.tasks, std::chrono::minutes(2));
        REQUIRE(eventually([&] { return service.tasks.stats().retained == 1; }));
        const std::string text = slow.hear("event: gap");
        // Half an event cannot be finished: then the stream ends, and resumes with
        // the gap; between events it is told at once.
        const bool told = text.find("event: gap") != std::string::npos;
        CHECK((told || text.size() < 30'000'000));
    }

    TEST_CASE("a reader that stalls never gets the front of one event and the end of another") {
        Service service;
        Wire slow(service.port);
        slow.say(stream_request()).hear("cursor");
        slow.hear("\n\n");
        const TaskId first = service.task("\"first\"", milliseconds(0));
        const std::string large = '"' + std::string(30'000'000, 'a') + '"';
        const TaskId half = service.task(large.c_str(), milliseconds(0));
        REQUIRE(service.tasks.wait_for(scheduler::Cursor(1), support::long_enough));
        // The slow one has begun to get the large event when its start is here.
        REQUIRE(slow.hear("\n") == "id: " + first.str() + "\n");
        slow.hear("\n\n");
        REQUIRE(slow.hear("\n") == "id: " + half.str() + "\n");
        const std::uint64_t seq = service.tasks.cursor_of(half)->seq();
        CHECK(service.tasks.forget({scheduler::Cursor(seq), scheduler::Cursor(seq + 1)}) == 1);
        const std::string other = '"' + std::string(30'000'000, 'b') + '"';
        service.task(other.c_str(), milliseconds(0));
        REQUIRE(service.tasks.wait_for(scheduler::Cursor(seq + 1), support::long_enough));
        const std::string rest = slow.hear("\n\n");  // all of it, or the stream has ended
        CHECK(rest.find('b') == std::string::npos);
    }

    TEST_CASE("stopping ends streams and idle connections at once") {
        Service service;
        std::vector<std::unique_ptr<Wire>> streams;
        for (int i = 0; i < 50; ++i) {
            streams.push_back(std::make_unique<Wire>(service.port));
            streams.back()->say(stream_request()).hear("cursor");
        }
        Wire idle(service.port);
        CHECK(status_of(idle.say("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").answer()) ==
              200);
        service.server.stop();
        for (auto& stream : streams) stream->hear_all();
        CHECK(idle.hear_all().empty());
    }

    TEST_CASE("too many connections are turned away with 503") {
        HttpOptions http;
        http.max_connections = 3;
        Service service(http);
        std::vector<std::unique_ptr<Wire>> wires;
        for (int i = 0; i < 3; ++i) {
            wires.push_back(std::make_unique<Wire>(service.port));
            wires.back()->say("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
            REQUIRE(status_of(wires.back()->answer()) == 200);
        }
        const std::string refused = Wire(service.port).hear_all();
        CHECK(status_of(refused) == 503);
        CHECK(refused.find("Retry-After: ") != std::string::npos);
    }

    TEST_CASE("every refusal is counted by its reason, also of a request that was never read") {
        HttpOptions http;
        http.max_body = 100'000;
        http.max_bodies = 50'000;
        http.max_answers = 1'000;
        http.max_streams = 0;
        http.max_connections = 64;
        Options options;
        options.max_tasks = 3;
        Service service(http, options);
        const std::string past = service.task("\"past\"", milliseconds(0)).str();
        REQUIRE(service.tasks.wait_for(scheduler::Cursor(0), support::long_enough));
        std::map<std::string, int> expected;
        const auto ask = [&](const std::string& reason, const std::string& text) {
            CAPTURE(text.substr(0, 60));
            const std::string answer = Wire(service.port).say(text).answer();
            CHECK(status_of(answer) >= (reason == "streams" ? 200 : 400));
            ++expected[reason];
        };
        const auto post = [](const std::string& fields, const std::string& body) {
            return "POST /schedule HTTP/1.1\r\nHost: localhost\r\n" + fields +
                   "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
        };
        const auto get = [](const std::string& target, const std::string& fields = "") {
            return "GET " + target + " HTTP/1.1\r\nHost: localhost\r\n" + fields + "\r\n";
        };
        const std::string key = "Idempotency-Key: k\r\n";
        CHECK(status_of(Wire(service.port).say(post(key, good)).answer()) == 200);
        ask("key_reused", post(key, R"({"delay":1,"message":"y"})"));
        ask("invalid", post("", "{}"));
        ask("invalid", get("/tasks?misspelt=1"));
        ask("invalid", "no HTTP\r\n\r\n");
        ask("tls_on_plain_port", "\x16\x03\x01\x02");
        ask("host", "GET /tasks HTTP/1.1\r\nHost: evil.example\r\n\r\n");
        ask("origin", get("/tasks", "Origin: https://evil.example\r\n"));
        ask("not_found", get("/nothing"));
        ask("not_found", get("/tasks/00000000-0000-7000-8000-000000000000"));
        ask("method", get("/schedule"));
        ask("conflict", "DELETE /tasks/" + past + " HTTP/1.1\r\nHost: localhost\r\n\r\n");
        ask("too_large", post("", std::string(100'001, ' ')));
        ask("bodies", post("", std::string(90'000, ' ')));
        ask("target_too_long", get("/" + std::string(9'000, 'x')));
        ask("encoding", post("Content-Encoding: gzip\r\n", good));
        ask("head_too_large", get("/", "x: " + std::string(20'000, 'x') + "\r\n"));
        ask("streams", stream_request());
        service.task();
        service.task(('"' + std::string(100'000, 'x') + '"').c_str());
        ask("answers", get("/tasks"));
        ask("limit", post("", good));
        Wire kept(service.port);
        CHECK(status_of(kept.say(get("/healthz")).answer()) == 200);
        std::list<Wire> others;
        while (expected["connections"] == 0) {
            REQUIRE(others.size() < http.max_connections);
            others.emplace_back(service.port).say(get("/healthz"));
            if (status_of(others.back().answer()) == 503) ++expected["connections"];
        }
        service.tasks.stop();
        CHECK(status_of(kept.say(schedule_request()).answer()) == 503);
        ++expected["unavailable"];
        CHECK(status_of(kept.say(get("/readyz")).answer()) == 503);
        const std::string text = kept.say(get("/metrics")).answer();
        for (const char* none :
             {"secret", "timeout", "failure", "disk_full", "handshake", "plain_on_tls_port"}) {
            expected[none] = 0;
        }
        for (const auto& [name, count] : expected) {
            const std::string reason = name;
            CAPTURE(reason);
            CAPTURE(text);
            CHECK(text.find("task_scheduler_requests_refused_total{reason=\"" + reason + "\"} " +
                            std::to_string(count) + "\n") != std::string::npos);
        }
        std::size_t reasons = 0;
        for (std::size_t at = 0; (at = text.find("{reason=", at + 1)) != std::string::npos;) {
            ++reasons;
        }
        CHECK(reasons == expected.size());
    }

    TEST_CASE("who has not the secret, or is too slow, is counted") {
        HttpOptions http;
        http.secrets = {"s3cret"};
        http.request_timeout = milliseconds(300);
        Service service(http);
        for (int i = 0; i < 3; ++i) CHECK(status_of(service.ask("GET /tasks")) == 401);
        CHECK(status_of(Wire(service.port).say("GET /tasks").answer()) == 408);
        const std::string text = service.ask("GET /metrics", "", "x-pd-secret: s3cret\r\n");
        for (const char* count : {"secret\"} 3\n", "timeout\"} 1\n"}) {
            CHECK(text.find("task_scheduler_requests_refused_total{reason=\"" +
                            std::string(count)) != std::string::npos);
        }
    }

    TEST_CASE("a limit that is reached is 507, and says when to come back") {
        Options options;
        options.max_tasks = 1;
        Service service({}, options);
        CHECK(status_of(service.ask("POST /schedule", good)) == 200);
        const std::string refused = service.ask("POST /schedule", good);
        CHECK(status_of(refused) == 507);
        CHECK(refused.find("\r\nRetry-After: ") != std::string::npos);
    }

    TEST_CASE("a type in short says what JSON Schema says at length") {
        const auto schema_of = [](std::string_view type) {
            return detail::json_of(detail::Schema{type});
        };
        CHECK(schema_of("integer") == R"({"type":"integer"})");
        CHECK(schema_of("time") == R"({"type":"string","format":"date-time"})");
        CHECK(schema_of("Task") == R"({"$ref":"#/components/schemas/Task"})");
        CHECK(schema_of("Task[]") ==
              R"({"type":"array","items":{"$ref":"#/components/schemas/Task"}})");
        CHECK(schema_of("time|null") == R"({"format":"date-time","type":["string","null"]})");
        CHECK(schema_of("'on'|''") == R"({"enum":["on",""]})");
        CHECK(schema_of("A|B[]") ==
              R"({"oneOf":[{"$ref":"#/components/schemas/A"},{"type":"array",)"
              R"("items":{"$ref":"#/components/schemas/B"}}]})");
        CHECK(schema_of("{a:string,b?:Id[]}") ==
              R"({"type":"object","required":["a"],"properties":{"a":{"type":"string"},)"
              R"("b":{"type":"array","items":{"$ref":"#/components/schemas/Id"}}}})");
        CHECK(detail::json_of(detail::Schema{R"({"const":"true"})", "Why."}) ==
              R"({"const":"true","description":"Why."})");
    }

    TEST_CASE("a prefix that no path can begin with is refused") {
        Scheduler tasks;
        HttpApi api(tasks);
        for (const char* bad : {"/", "scheduler", "/scheduler/", "//a", "/a//b", "/..", "/a/./b",
                                "/{id}", "/a b", "/a%20b", "/(a|b)", "/[a]", "/a?b", "/\xC3\xBC"}) {
            CAPTURE(bad);
            httplib::Server server;
            CHECK_THROWS_WITH_AS(api.mount(server, bad), doctest::Contains("prefix"), Error);
        }
        for (const char* good_one : {"", "/scheduler", "/a/b.c/~d_e-1"}) {
            httplib::Server server;
            api.mount(server, good_one);
        }
    }

    TEST_CASE("one API stands behind several prefixes, and each answer names its own") {
        Scheduler tasks;
        HttpApi api(tasks);
        httplib::Server server;
        api.mount(server, "/a");
        api.mount(server, "/b.c");
        const int port = server.bind_to_any_port("127.0.0.1");
        std::thread listening([&] { server.listen_after_bind(); });
        const auto ask = [&](const std::string& line, const std::string& body) {
            return Wire(port)
                .say(line + " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" +
                     "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body)
                .hear_all();
        };
        const char* const later = R"({"delay":"1h","message":"x"})";
        for (const std::string prefix : {"/a", "/b.c"}) {
            CAPTURE(prefix);
            const std::string answer = ask("POST " + prefix + "/schedule", later);
            CHECK(status_of(answer) == 200);
            CHECK(answer.find("\r\nLocation: " + prefix + "/tasks/0") != std::string::npos);
            CHECK(ask("GET " + prefix + "/openapi.json", "")
                      .find(R"("servers":[{"url":")" + prefix + "\"}]") != std::string::npos);
            CHECK(status_of(ask("OPTIONS " + prefix + "/tasks", "")) == 204);
        }
        CHECK(tasks.stats().pending == 2);
        for (const char* path : {"/schedule", "/b/schedule", "/bXc/schedule", "/a/a/schedule"}) {
            CAPTURE(path);
            CHECK(status_of(ask(std::string("POST ") + path, later)) == 404);
        }
        api.stop();
        server.stop();
        listening.join();
    }

    TEST_CASE("the page is answered to anybody, and only where there is one") {
        HttpOptions http;
        http.secrets = {"hidden"};
        CHECK(status_of(Service(http).ask("GET /")) == 401);
        http.page = "<!doctype html><title>page</title>";
        Service service(http);
        const std::string answer = service.ask("GET /?q=a&whatever=1");
        CHECK(status_of(answer) == 200);
        CHECK(answer.substr(answer.find("\r\n\r\n") + 4) == http.page);
        for (const char* field : {"Content-Type: text/html; charset=utf-8",
                                  "Cache-Control: no-cache", "X-Content-Type-Options: nosniff",
                                  "Referrer-Policy: no-referrer", "frame-ancestors 'none'"}) {
            CAPTURE(field);
            CHECK(answer.find(field) != std::string::npos);
        }
        CHECK(status_of(service.ask("HEAD /")) == 200);
        const std::size_t tag = answer.find("ETag: ") + 6;
        const std::string known =
            "If-None-Match: \"x\", W/" + answer.substr(tag, answer.find('\r', tag) - tag) + "\r\n";
        const std::string same = service.ask("GET /", "", known);
        CHECK(status_of(same) == 304);
        CHECK(same.find("Content-Length") == std::string::npos);
        CHECK(same.substr(same.find("\r\n\r\n") + 4).empty());
        CHECK(status_of(service.ask("GET /", "", "If-None-Match: \"x\"\r\n")) == 200);
        CHECK(status_of(service.ask("GET /", "", "Origin: http://evil.example\r\n")) == 403);
        const std::string with = "x-pd-secret: hidden\r\n";
        CHECK(status_of(service.ask("POST /", "", with)) == 405);
        CHECK(service.ask("GET /openapi.json", "", with).find(R"("/":{"get")") !=
              std::string::npos);
        http.page.clear();
        Service without(http);
        CHECK(status_of(without.ask("GET /", "", with)) == 404);
        CHECK(without.ask("GET /openapi.json", "", with).find(R"("/":{"get")") ==
              std::string::npos);
    }

    TEST_CASE("a page asks the status what its secret opens") {
        HttpOptions http;
        http.secrets = {"all"};
        http.read_secrets = {"read"};
        Service service(http);
        for (const std::string secret : {"all", "read"}) {
            CAPTURE(secret);
            CHECK(service.ask("GET /status", "", "x-pd-secret: " + secret + "\r\n")
                      .find(R"("access":")" + secret + '"') != std::string::npos);
        }
    }

    TEST_CASE("the page stands behind a prefix too, with the slash at its end") {
        Scheduler tasks;
        HttpOptions http;
        http.page = "<!doctype html><title>page</title>";
        HttpApi api(tasks, http);
        httplib::Server server;
        api.mount(server, "/scheduler");
        const int port = server.bind_to_any_port("127.0.0.1");
        std::thread listening([&] { server.listen_after_bind(); });
        const auto ask = [&](const std::string& line) {
            return Wire(port)
                .say(line + " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                .hear_all();
        };
        const std::string page = ask("GET /scheduler/?q=x");
        CHECK(page.find(http.page) != std::string::npos);
        const std::size_t tag = page.find("ETag: ") + 6;
        const std::string known = page.substr(tag, page.find('\r', tag) - tag);
        CHECK(status_of(ask("GET /scheduler/ HTTP/1.1\r\nIf-None-Match: " + known + "\r\nX: ")) ==
              304);
        CHECK(status_of(ask("HEAD /scheduler/")) == 200);
        CHECK(status_of(ask("GET /")) == 404);
        api.stop();
        server.stop();
        listening.join();
    }

    TEST_CASE("at debug each request is a record, which holds neither a secret nor a payload") {
        support::Heard heard;
        Options options;
        options.log_level = LogLevel::debug;
        options.log = heard.log();
        HttpOptions http;
        http.secrets = {"s3cret-one"};
        Service service(http, options);
        const std::string header = "x-pd-secret: s3cret-one\r\n";
        service.ask("POST /schedule", good, header);
        service.ask("POST /schedule",
                    R"({"timestamp":"2026-03-01T13:00:00Z","message":"hidden-text",)"
                    R"("secret":"s3cret-one"})");
        service.ask("GET /tasks?limit=3", "", header);
        service.ask("GET /sse?secret=s3cret-wrong");
        service.ask("GET /sse?%73ecret=s3cret-wrong&topic=a");
        service.ask("GET /tasks?SECRET=s3cret-one&my_secret=s3cret-one");
        service.ask("GET /tasks?s3cret-one&token=s3cret-one");
        service.ask("GET /sse%3Fsecret=s3cret-one");
        service.ask("GET /sse;secret=s3cret-one");
        service.ask("GET /tasks", "", "Authorization: Bearer s3cret-wrong\r\n");
        Wire stream(service.port);
        stream.say(stream_request("?secret=s3cret-one")).hear("\n\n");
        Wire(service.port).say("s3cret-one\r\n\r\n").hear_all();
        service.server.stop();
        service.tasks.stop();  // after that all is told

        const std::vector<LogRecord> records = heard.all();
        REQUIRE(records.size() > 8);
        std::vector<std::string> paths;
        for (const LogRecord& record : records) {
            std::string all = to_line(record);
            for (const LogRecord::Field& field : record.fields) all += field.value;
            CAPTURE(all);
            CHECK(all.find("s3cret") == std::string::npos);
            CHECK(all.find("hidden-text") == std::string::npos);
            if (record.event == "request") CHECK(all.find("127.0.0.1:") != std::string::npos);
            for (const LogRecord::Field& field : record.fields) {
                if (record.event == "request" && field.name == "path") paths.push_back(field.value);
            }
        }
        std::vector<std::string> expected{"/schedule",
                                          "/schedule",
                                          "/tasks?limit=3",
                                          "/sse?secret=***",
                                          "/sse?secret=***&topic=a",
                                          "/tasks?***&***",
                                          "/tasks?***&***",
                                          "/sse***",
                                          "/sse***",
                                          "/tasks",
                                          "/sse?secret=***"};
        std::sort(paths.begin(), paths.end());  // several threads hand them over
        std::sort(expected.begin(), expected.end());
        CHECK(paths == expected);
    }

    TEST_CASE("a flood of refusals is a line for each reason, and their number in the end") {
        support::Heard heard;
        Options options;
        options.log = heard.log();
        HttpOptions http;
        http.secrets = {"s3cret-one"};
        Service service(http, options);
        for (int i = 0; i < 50; ++i) service.ask("GET /tasks");
        for (int i = 0; i < 5; ++i) service.ask("GET /nothing", "", "x-pd-secret: s3cret-one\r\n");
        Wire(service.port).say("nonsense\r\n\r\n").hear_all();
        service.server.stop();
        service.tasks.stop();  // after that all is told

        const std::vector<LogRecord> records = heard.all();
        REQUIRE(records.size() == 3);
        CHECK(records[0].event == "request.refused");
        CHECK(records[0].level == LogLevel::warning);
        CHECK(records[0].text.find("refused GET /tasks of 127.0.0.1:") == 0);
        CHECK(records[0].text.find(": 401, secret") != std::string::npos);
        CHECK(records[1].level == LogLevel::info);
        CHECK(records[1].text.find(": 400, invalid") != std::string::npos);
        CHECK(to_line(records[2]) ==
              "warning requests.refused: 49 more requests were refused: secret");
    }

    TEST_CASE("the API stands on any httplib::Server, streams and all") {
        TestClock clock;
        Options options;
        options.now = clock.source();
        Scheduler tasks(options);
        httplib::Server server;
        HttpApi api(tasks);
        api.mount(server);
        server.Get("/own", [](const httplib::Request&, httplib::Response& response) {
            response.set_content("mine", "text/plain");
        });
        const int port = server.bind_to_any_port("127.0.0.1");
        std::thread listening([&] { server.listen_after_bind(); });
        const std::string close = " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n";
        const auto ask = [&](const std::string& line, const std::string& body) {
            return Wire(port)
                .say(line + close + "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" +
                     body)
                .hear_all();
        };
        Wire stream(port);
        stream.say(stream_request()).hear("cursor");
        stream.hear("\n\n");
        CHECK(status_of(ask("POST /schedule", good)) == 200);
        CHECK(status_of(ask("POST /schedule", "nonsense")) == 400);
        CHECK(status_of(ask("PUT /schedule", "{}")) == 405);
        const std::string id = support::pending_ids(tasks).front().str();
        CHECK(status_of(ask("PATCH /tasks/" + id, R"({"message":"changed"})")) == 200);
        CHECK(ask("GET /tasks", "").find("changed") != std::string::npos);
        CHECK(ask("GET /own", "").find("mine") != std::string::npos);
        CHECK(status_of(ask("GET /nobodys", "")) == 404);
        clock.advance(tasks, std::chrono::hours(1));
        CHECK(stream.hear("\n") == "id: " + id + "\n");
        stream.hear("\n\n");
        const auto begin = std::chrono::steady_clock::now();
        api.stop();
        CHECK(stream.hear_all().empty());
        CHECK(std::chrono::steady_clock::now() - begin < std::chrono::seconds(9));  // not given up
        server.stop();
        listening.join();
    }
}

}  // namespace http_test
