// SPDX-License-Identifier: MIT
#include "support.hpp"

namespace client_test {

using namespace scheduler;
using support::errc_of;
using support::eventually;
using support::TestClock;

namespace {

struct Service {
    explicit Service(HttpOptions http = {}) : tasks(options()), server(tasks, std::move(http)) {
        port = server.listen("127.0.0.1", 0);
    }
    Options options() {
        Options made;
        made.now = clock.source();
        return made;
    }
    Client client(const std::string& secret = "") const {
        ClientOptions made;
        made.url = "http://127.0.0.1:" + std::to_string(port);
        made.secret = secret;
        return Client(made);
    }

    TestClock clock;
    Scheduler tasks;
    HttpServer server;
    int port = 0;
};

// What a subscription was called with.
class Seen {
public:
    Client::OnEvent callback() {
        return [this](TaskId id, std::string_view) {
            const std::lock_guard<std::mutex> guard(mutex_);
            ids_.push_back(id);
        };
    }
    std::vector<TaskId> ids() {
        const std::lock_guard<std::mutex> guard(mutex_);
        return ids_;
    }

private:
    std::mutex mutex_;
    std::vector<TaskId> ids_;
};

}  // namespace

TEST_SUITE("client") {
    TEST_CASE("a task is scheduled, found, listed, moved and cancelled from the other side") {
        Service service;
        const Client client = service.client();
        const TaskId id = client.schedule(support::at("2026-04-01"), R"({"n":1.10})");
        const auto found = client.find(id);
        REQUIRE(found);
        CHECK(found->due == support::at("2026-04-01"));
        CHECK(found->status == Status::pending);
        CHECK(found->payload.str() ==
              R"({"timestamp":"2026-04-01T00:00:00.000Z","message":{"n":1.10}})");
        CHECK(client.tasks().total == 1);
        CHECK(client.move(id, std::chrono::hours(2)).due == support::at("2026-03-01T14:00:00Z"));
        CHECK(client.move(id, support::at("2026-05-01")).due == support::at("2026-05-01"));
        CHECK(client.cancel(id));
        CHECK_FALSE(client.cancel(id));
        CHECK_FALSE(client.find(id));
    }

    TEST_CASE("a task is put, found, moved and cancelled by its name from the other side") {
        Service service;
        const Client client = service.client();
        NewTask task{support::at("2026-04-01"), "[1]"};
        task.topic = "garden";
        task.max_lateness = std::chrono::seconds(90);
        const PutResult made = client.put("valve", task, PutIf::absent);
        CHECK(made.created);
        const auto found = client.find("valve");
        REQUIRE(found);
        CHECK(found->id == made.id);
        CHECK(found->name() == "valve");
        CHECK(found->topic() == "garden");
        CHECK(found->max_lateness() == std::chrono::seconds(90));
        const PutResult replaced = client.put("valve", std::chrono::hours(2), {{}, "[2]"});
        CHECK_FALSE(replaced.created);
        CHECK(replaced.id == made.id);
        CHECK(client.find("valve")->due == support::at("2026-03-01T14:00:00Z"));
        CHECK(client.find("valve")->topic().empty());
        CHECK(client.move("valve", support::at("2026-05-01")).id == made.id);
        CHECK(errc_of([&] { client.put("valve", task, PutIf::absent); }) == Errc::condition_failed);
        CHECK(client.cancel("valve"));
        CHECK_FALSE(client.cancel("valve"));
        CHECK_FALSE(client.find("valve"));
        CHECK(errc_of([&] { client.put("valve", task, PutIf::present); }) ==
              Errc::condition_failed);
        CHECK(errc_of([&] { client.put("../tasks", task); }) == Errc::invalid_argument);
    }

    TEST_CASE("a delay goes as far as a calendar year, leap day included, and no further") {
        Service service;
        const Client client = service.client();
        const auto day = std::chrono::hours(24);
        for (const int days : {11, 12, 100, 365}) {
            const auto found = client.find(client.schedule(day * days, "\"x\""));
            REQUIRE(found);
            CHECK(found->due == service.clock.now() + day * days);
        }
        const TaskId id = client.schedule(day, "\"x\"");
        CHECK(client.move(id, day * 365).due == support::at("2027-03-01T12:00:00Z"));
        CHECK(errc_of([&] { client.move(id, day * 365 + milliseconds(1)); }) ==
              Errc::invalid_argument);
        service.clock.set(support::at("2027-03-01T12:00:00Z"));  // before 29 February 2028
        service.tasks.clock_changed();
        const TaskId longest = client.schedule(day * 366, "\"x\"");
        CHECK(client.find(longest)->due == support::at("2028-03-01T12:00:00Z"));
    }

    TEST_CASE("a message that is not one JSON value is not sent") {
        Service service;
        const Client client = service.client();
        for (const char* message : {"", "{", R"("x","secret":"y")", R"({"a":1}})"}) {
            CHECK(errc_of([&] { client.schedule(milliseconds(0), message); }) ==
                  Errc::invalid_argument);
        }
        CHECK(service.tasks.stats().scheduled == 0);
    }

    TEST_CASE("pages and events come as they are asked for") {
        Service service;
        const Client client = service.client();
        for (int i = 0; i < 25; ++i) client.schedule(std::chrono::seconds(i + 1), "\"x\"");
        TaskQuery query;
        query.limit = 10;
        std::size_t count = 0;
        for (bool more = true; more;) {
            const TaskPage page = client.tasks(query);
            count += page.tasks.size();
            more = page.more;
            if (more) query.after = TaskCursor{page.tasks.back().due, page.tasks.back().id};
        }
        CHECK(count == 25);
        const TimePoint noon = service.clock.now();
        const Histogram histogram = client.histogram({noon, noon + std::chrono::seconds(30)}, 3);
        CHECK(histogram.from == noon);
        CHECK(histogram.to == noon + std::chrono::seconds(30));
        CHECK(histogram.counts == std::vector<std::size_t>{9, 10, 6});
        service.clock.advance(service.tasks, std::chrono::minutes(1));
        REQUIRE(service.tasks.wait_for(scheduler::Cursor(24), support::long_enough));
        HistoryQuery newest;
        newest.limit = 5;
        CHECK(client.events(newest).events.size() == 5);
        HistoryQuery all;
        all.after = "earliest";
        const EventPage page = client.events(all);
        CHECK(page.events.size() == 25);
        CHECK(page.events.front().late() == std::chrono::seconds(59));
    }

    TEST_CASE("what was missed is listed from the other side") {
        Service service;
        const Client client = service.client();
        service.tasks.pause();
        service.tasks.submit({NewTask{service.tasks.now(), "\"x\"", {}, std::chrono::seconds(1)}})
            .wait();
        service.clock.advance(service.tasks, std::chrono::seconds(2));
        client.resume();
        TaskQuery query;
        query.status = Status::missed;
        REQUIRE(eventually([&] { return client.tasks(query).total == 1; }));
        const Task task = client.tasks(query).tasks.at(0);
        CHECK(task.status == Status::missed);
        CHECK(task.ended_at == service.tasks.now());
        CHECK(client.tasks().total == 0);
    }

    TEST_CASE("a server is paused, resumed and asked how it stands from the other side") {
        Service service;
        const Client client = service.client();
        CHECK_FALSE(client.paused());
        client.pause("a \"reason\"");
        CHECK(client.paused()->reason == "a \"reason\"");
        CHECK(client.paused()->since == service.tasks.now());
        client.pause();
        CHECK(service.tasks.paused()->reason == "a \"reason\"");
        CHECK(json_problem(client.status()) == "");
        CHECK(client.status().find("\"ready\":true") != std::string::npos);
        CHECK(errc_of([&] { client.pause("a\nb"); }) == Errc::invalid_argument);
        client.resume();
        CHECK_FALSE(client.paused());
    }

    TEST_CASE("tasks and events are searched for and cancelled from the other side") {
        Service service;
        const Client client = service.client();
        for (int i = 0; i < 30; ++i) {
            client.schedule(std::chrono::seconds(i + 1), i % 3 ? "\"hay+& %\"" : "\"needle\"");
        }
        TaskQuery query;
        query.filter.text = "needle";
        query.limit = 4;
        std::size_t found = 0;
        for (bool more = true; more;) {
            const TaskPage page = client.tasks(query);
            CHECK(page.total == 30);
            CHECK(page.matching == std::size_t{10});
            found += page.tasks.size();
            more = page.more;
            query.after = page.next;
        }
        CHECK(found == 10);
        const TimePoint noon = service.clock.now();
        CHECK(client.cancel({noon + std::chrono::seconds(15), {}}, {"hay+& %"}) == 10);
        CHECK(client.cancel({{}, noon + std::chrono::seconds(2)}) == 1);
        service.clock.advance(service.tasks, std::chrono::minutes(1));
        REQUIRE(service.tasks.wait_for(scheduler::Cursor(18), support::long_enough));
        HistoryQuery past;
        past.filter.text = "needle";
        past.after = "earliest";
        past.limit = 2;
        found = 0;
        for (bool more = true; more;) {
            const EventPage page = client.events(past);
            CHECK(page.total == 19);
            CHECK(page.matching == std::size_t{9});
            found += page.events.size();
            more = page.more && page.last;
            if (more) past.after = page.last->str();
        }
        CHECK(found == 9);
        client.schedule(std::chrono::seconds(1), "\"x\"");
        CHECK(client.cancel(DueRange{}) == 1);
    }

    TEST_CASE("sinks are looked at, held back and told to deliver again from the other side") {
        Service service;
        std::atomic<bool> works{false};
        const auto flaky = make_sink([&works](const Event&) {
            if (!works) throw std::runtime_error("not today");
        });
        Sinks sinks(service.tasks, {{"a", flaky, {}, false}});
        const Client client = service.client();
        const TaskId id = client.schedule(milliseconds(0), "\"x\"");
        CHECK(eventually([&] { return client.sinks().at(0).dead == 1; }));
        const SinkStatus status = client.sinks()[0];
        CHECK(status.name == "a");
        CHECK(status.kind == "callback");
        CHECK(status.cursor == id);
        CHECK(status.failed == 1);
        CHECK(status.last_error == "not today");
        const DeadPage page = client.dead_letters("a");
        REQUIRE(page.letters.size() == 1);
        CHECK(page.total == 1);
        CHECK(page.letters[0].event.id == id);
        CHECK(page.letters[0].event.text() == service.tasks.find(id)->text());
        CHECK(page.letters[0].error == "not today");
        CHECK(client.dead_letters("a", id).letters.empty());
        const auto story = client.story(id.str());
        REQUIRE(story);
        CHECK(story->task.status == Status::emitted);
        CHECK(story->stored_at == id.time());
        REQUIRE(story->sinks.size() == 1);
        CHECK(story->sinks[0].sink == "a");
        CHECK(story->sinks[0].state == SinkShare::State::dead);
        CHECK(story->sinks[0].attempts == 1);
        CHECK(story->sinks[0].error == "not today");
        CHECK(to_json(*story) == to_json(*service.tasks.story(id)));
        CHECK_FALSE(client.story("no such/task?"));
        CHECK_FALSE(client.story(""));
        client.pause_sink("a");
        CHECK(client.sinks()[0].state == SinkState::paused);
        client.resume_sink("a");
        CHECK(client.sinks()[0].state == SinkState::active);
        works = true;
        CHECK(client.redeliver("a", id) == 1);
        CHECK(eventually([&] { return client.sinks()[0].dead == 0; }));
        CHECK(client.redeliver("a") == 0);
        CHECK(errc_of([&] { client.redeliver("a", id); }) == Errc::unknown_task);
        CHECK(errc_of([&] { client.pause_sink("b"); }) == Errc::unknown_task);
        CHECK(errc_of([&] { client.pause_sink("../tasks"); }) == Errc::invalid_argument);
    }

    TEST_CASE("an unlisted sink is shown and forgotten from the other side, a listed one is not") {
        Service service;
        const auto never = make_sink([](const Event&) { throw std::runtime_error("never"); });
        { const Sinks sinks(service.tasks, {{"a", never, {}, false}}); }
        const Sinks sinks(service.tasks, {{"b", never, {}, false}});
        const Client client = service.client();
        REQUIRE(client.sinks().size() == 2);
        CHECK(client.sinks()[0].state == SinkState::unlisted);
        client.forget_sink("a");
        REQUIRE(client.sinks().size() == 1);
        CHECK(client.sinks()[0].name == "b");
        CHECK(errc_of([&] { client.forget_sink("a"); }) == Errc::unknown_sink);
        CHECK(errc_of([&] { client.forget_sink("b"); }) == Errc::sink_listed);
        CHECK(errc_of([&] { client.forget_sink("b/c"); }) == Errc::invalid_argument);
    }

    TEST_CASE("a refusal says what the server says, and no server is another matter") {
        HttpOptions http;
        http.secrets = {"secret"};
        Service service(http);
        const Client client = service.client("secret");
        CHECK(errc_of([&] { service.client("wrong").tasks(); }) == Errc::refused);
        CHECK(errc_of([&] { client.schedule(support::at("2030-01-01"), "\"x\""); }) ==
              Errc::invalid_argument);
        const TaskId id = client.schedule(milliseconds(0), "\"x\"");
        REQUIRE(service.tasks.wait_for(scheduler::Cursor(0), support::long_enough));
        CHECK(errc_of([&] { client.cancel(id); }) == Errc::already_emitted);
        client.schedule(milliseconds(1), "\"x\"", "key");
        CHECK(errc_of([&] { client.schedule(milliseconds(2), "\"x\"", "key"); }) ==
              Errc::key_reused);
        service.server.stop();
        CHECK(errc_of([&] { client.tasks(); }) == Errc::unreachable);
    }

    TEST_CASE("a subscription gets every event across a restart of the server") {
        TestClock clock;
        Options options;
        options.now = clock.source();
        Scheduler tasks(options);
        auto server = std::make_unique<HttpServer>(tasks);
        const int port = server->listen("127.0.0.1", 0);
        ClientOptions where;
        where.url = "http://127.0.0.1:" + std::to_string(port);
        Seen seen;
        const auto subscription = Client(where).subscribe(seen.callback(), "earliest");
        for (int i = 0; i < 3; ++i) tasks.schedule(milliseconds(0), "\"x\"");
        CHECK(eventually([&] { return seen.ids().size() == 3; }));
        server.reset();
        for (int i = 0; i < 3; ++i) tasks.schedule(milliseconds(0), "\"x\"");
        server = std::make_unique<HttpServer>(tasks);
        REQUIRE(server->listen("127.0.0.1", port) == port);
        CHECK(eventually([&] { return seen.ids().size() == 6; }));
        CHECK(seen.ids() == support::event_ids(tasks));
    }

    TEST_CASE("a subscription with topics gets what these choose, also after a restart") {
        Service service;
        const Client client = service.client();
        const auto add = [&](const std::string& topic) {
            NewTask task{service.clock.now(), "\"x\"", topic};
            service.tasks.submit({task}).wait();
        };
        for (const char* topic : {"a", "b", "a/c", ""}) add(topic);
        std::mutex mutex;
        std::vector<std::string> got;
        const auto subscription = client.subscribe(
            [&](TaskId id, std::string_view) {
                const std::lock_guard<std::mutex> guard(mutex);
                got.emplace_back(service.tasks.find(id)->topic());
            },
            "earliest", nullptr, nullptr, {"a*", "c"});
        add("c");
        const std::vector<std::string> wanted{"a", "a/c", "c"};
        CHECK(support::eventually([&] {
            const std::lock_guard<std::mutex> guard(mutex);
            return got == wanted;
        }));
        CHECK(errc_of([&] { client.subscribe(nullptr, "", nullptr, nullptr, {"*a"}); }) ==
              Errc::invalid_argument);
        HistoryQuery past;
        past.filter.topics = {"a/*", "b"};
        CHECK(client.events(past).events.size() == 2);
    }

    TEST_CASE("a gap is reported, and what is left comes") {
        Service service;
        service.tasks.schedule(milliseconds(0), "\"x\"");
        REQUIRE(service.tasks.wait_for(scheduler::Cursor(0), support::long_enough));
        Seen seen;
        std::atomic<int> gaps{0};
        const auto subscription = service.client().subscribe(
            seen.callback(), "00000000-0000-7000-8000-000000000000", [&] { ++gaps; });
        CHECK(eventually([&] { return seen.ids().size() == 1; }));
        CHECK(gaps == 1);
    }

    TEST_CASE("a subscription stops, with a server and without") {
        Service service;
        const Client client = service.client();
        std::atomic<int> problems{0};
        const auto report = [&](const std::string&) { ++problems; };
        auto quiet = client.subscribe([](TaskId, std::string_view) {}, "", nullptr, report);
        quiet.reset();
        service.server.stop();
        auto failing = client.subscribe([](TaskId, std::string_view) {}, "", nullptr, report);
        CHECK(eventually([&] { return problems > 0; }));
        CHECK(support::returns([&] { failing.reset(); }));
    }

    TEST_CASE("a subscriber that throws is reported, and gets the next event") {
        Service service;
        std::atomic<int> calls{0};
        std::atomic<int> problems{0};
        const auto subscription = service.client().subscribe(
            [&](TaskId, std::string_view) {
                if (++calls == 1) throw std::runtime_error("oops");
            },
            "earliest", nullptr, [&](const std::string&) { ++problems; });
        for (int i = 0; i < 2; ++i) service.tasks.schedule(milliseconds(0), "\"x\"");
        CHECK(eventually([&] { return calls == 2; }));
        CHECK(problems == 1);
    }

    TEST_CASE("a subscriber that is told to come back later does not, and ends at once meanwhile") {
        std::atomic<int> connections{0};
        httplib::Server counting;
        counting.Get("/sse", [&](const httplib::Request&, httplib::Response& response) {
            ++connections;
            response.set_content("retry: 30000\n\n", "text/event-stream");
        });
        const int port = counting.bind_to_any_port("127.0.0.1");
        std::thread listening([&] { counting.listen_after_bind(); });
        ClientOptions where;
        where.url = "http://127.0.0.1:" + std::to_string(port);
        std::chrono::steady_clock::time_point began;  // to end, which does not wait for that
        {
            const auto subscription = Client(where).subscribe([](TaskId, std::string_view) {});
            CHECK(eventually([&] { return connections == 1; }));
            std::this_thread::sleep_for(milliseconds(100));  // in which it must not come back
            began = std::chrono::steady_clock::now();
        }
        CHECK(connections == 1);
        CHECK(std::chrono::steady_clock::now() - began < std::chrono::seconds(20));
        counting.stop();
        listening.join();
    }

    TEST_CASE("a URL that cannot be one is refused where it is given") {
        ClientOptions where;
        for (const char* url :
             {"gopher://127.0.0.1:70", "", "http://", "http:///", "http://a/b?c", "http://a/b//",
              "http://a/..", "http://a//", "http://a:", "http://a:x", "http://a:65536",
              "http://a b", "http://a?b", "http://u@a", "://a"}) {
            CAPTURE(url);
            where.url = url;
            CHECK(errc_of([&] { Client client(where); }) == Errc::invalid_argument);
        }
        for (const char* url : {"http://127.0.0.1:80/", "http://[::1]:80", "http://[::1]",
                                "http://a", "localhost:8080", "a", "a/b", "http://a/b/"}) {
            CAPTURE(url);
            where.url = url;
            CHECK_NOTHROW(Client{where});
        }
    }

    TEST_CASE("a slash at the end of the URL means nothing") {
        Service service;
        ClientOptions where;
        where.url = "http://127.0.0.1:" + std::to_string(service.port) + '/';
        CHECK(Client(where).tasks().total == 0);
    }

    TEST_CASE("a URL with a prefix means the scheduler behind it, and its stream") {
        const support::TempDir folder;
        const std::string socket = "unix:" + folder.path("socket");
        Scheduler tasks;
        HttpOptions http;
        http.prefixes = {"/a", "/b"};
        HttpServer server(http);
        server.serve(tasks, "/b");
        std::vector<HttpListener> listeners;
        listeners.emplace_back("127.0.0.1", 0);
        listeners.emplace_back(socket);
        const std::string port = std::to_string(listeners.front().port());
        server.listen(std::move(listeners));
        for (const std::string& url : {"http://127.0.0.1:" + port + "/b/", socket + ":/b"}) {
            ClientOptions where;
            where.url = url;
            const Client client(where);
            std::promise<TaskId> heard;
            const auto id = client.schedule(milliseconds(0), R"("x")");
            const auto stream = client.subscribe(
                [&](TaskId one, std::string_view) {
                    if (one == id) heard.set_value(one);
                },
                "earliest");
            CHECK(heard.get_future().get() == id);
        }
    }

    TEST_CASE("what a call finds wrong says what to do about it") {
        HttpOptions http;
        http.secrets = {"secret"};
        Service service(http);
        const auto problem_of = [](const Client& client) -> std::string {
            try {
                client.tasks();
            } catch (const Error& error) {
                return error.what();
            }
            return "none";
        };
        const auto says = [](const std::string& problem, const std::string& words) {
            return problem.find(words + " (on the command line: --secret-file)") !=
                   std::string::npos;
        };
        CHECK(says(problem_of(service.client()), "wants a secret"));
        CHECK(says(problem_of(service.client("wrong")), "wants another secret"));
        service.server.stop();
        CHECK(problem_of(service.client("secret")).find("is the server running?") !=
              std::string::npos);
    }

    TEST_CASE("what was read is written as the server writes it") {
        Service service;
        const Client client = service.client();
        const TaskId id = client.schedule(milliseconds(0), R"({"n":1.10,"n":2})");
        client.schedule(std::chrono::hours(1), "\"x\"");
        REQUIRE(service.tasks.wait_for(scheduler::Cursor(0), support::long_enough));
        httplib::Client wire("127.0.0.1", service.port);
        CHECK(wire.Get("/tasks/" + id.str())->body == to_json(*client.story(id.str())));
        const std::string events = wire.Get("/events")->body;
        CHECK(events.find('[' + to_json(client.events().events.at(0)) + ']') != std::string::npos);
        const std::string tasks = wire.Get("/tasks")->body;
        CHECK(tasks.find('[' + to_json(client.tasks().tasks.at(0)) + ']') != std::string::npos);
    }

    TEST_CASE("a server's journal is copied to a file here, and holds what was pending") {
        const support::TempDir dir;
        Options options;
        options.journal = dir.journal();
        Scheduler tasks(options);
        HttpOptions http;
        http.secrets = {"all"};
        http.read_secrets = {"read"};
        HttpServer server(tasks, http);
        ClientOptions there;
        there.url = "http://127.0.0.1:" + std::to_string(server.listen("127.0.0.1", 0));
        CHECK(errc_of([&] { Client(there).backup(dir.path("copy.jsonl")); }) == Errc::refused);
        there.secret = "read";
        const Client client(there);
        const std::string message = '"' + std::string(100'000, 'x') + '"';
        for (int i = 0; i < 12; ++i) tasks.schedule(std::chrono::hours(1), message);  // pieces
        const std::uint64_t size = client.backup(dir.path("copy.jsonl"));
        CHECK(size == dir.read("copy.jsonl").size());
        CHECK(dir.read("copy.jsonl") == dir.read("tasks.jsonl"));
        CHECK(verify_journal(dir.path("copy.jsonl")).pending == 12);
        CHECK(errc_of([&] { client.backup(dir.path("copy.jsonl")); }) == Errc::invalid_argument);
        CHECK(errc_of([&] { client.backup(dir.journal(), true); }) == Errc::journal_busy);
        CHECK(client.backup(dir.path("copy.jsonl"), true) == size);
        CHECK(errc_of([&] {
                  client.backup([](std::string_view) { throw Error(Errc::disk_full, "full"); });
              }) == Errc::disk_full);
        CHECK(dir.names("copy.jsonl").size() == 1);
    }

    TEST_CASE("a journal is copied from a server of one's own as well") {
        const support::TempDir dir;
        Options options;
        options.journal = dir.journal();
        Scheduler tasks(options);
        const std::string message = '"' + std::string(100'000, 'x') + '"';
        for (int i = 0; i < 6; ++i) tasks.schedule(std::chrono::hours(1), message);
        httplib::Server server;
        HttpApi api(tasks);
        api.mount(server);
        ClientOptions there;
        there.url = "http://127.0.0.1:" + std::to_string(server.bind_to_any_port("127.0.0.1"));
        std::thread listening([&server] { server.listen_after_bind(); });
        Client(there).backup(dir.path("copy.jsonl"));
        CHECK(dir.read("copy.jsonl") == dir.read("tasks.jsonl"));
        httplib::Client plain(there.url);
        const auto head = plain.Head("/backup");
        REQUIRE(head);
        CHECK(head->get_header_value("Content-Length") ==
              std::to_string(dir.read("tasks.jsonl").size()));
        api.stop();
        server.stop();
        listening.join();
    }

    TEST_CASE("a server that keeps its tasks in memory says that there is no journal to copy") {
        const Service service;
        const support::TempDir dir;
        CHECK(errc_of([&] { service.client().backup(dir.path("copy.jsonl")); }) == Errc::refused);
        CHECK(dir.names().empty());
    }

    TEST_CASE("requests are made as they are written, all of them or none") {
        Service service;
        const Client client = service.client();
        const std::string one = R"({"timestamp":"2026-04-01T02:00:00+02:00","message":{"n":1.10}})";
        const std::string bad = R"({"timestamp":"2026-04-01","message":7})";
        const auto [ids, created] = client.submit({one, one}, "key");
        REQUIRE(ids.size() == 2);
        CHECK(created);
        const auto repeated = client.submit({one, one}, "key");
        CHECK(repeated.ids == ids);
        CHECK(!repeated.created);
        CHECK(client.find(ids[1])->payload.str() == one);
        CHECK(errc_of([&] { client.submit({one, bad}); }) == Errc::invalid_argument);
        CHECK(errc_of([&] { client.submit({one}, "key"); }) == Errc::key_reused);
        CHECK(client.put_request("valve", one).created);
        CHECK(client.find("valve")->payload.str() == one);
        CHECK(client.tasks().total == 3);
    }
}

}  // namespace client_test
