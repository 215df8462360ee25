// SPDX-License-Identifier: MIT
#include "support.hpp"

#include <random>

namespace streams_test {

using namespace scheduler;
using scheduler::detail::Frames;
using scheduler::detail::keep_alive_comment;
using scheduler::detail::make_frames;
using scheduler::detail::StreamWriter;
using scheduler::detail::StreamWriters;
using support::eventually;

namespace {

// Both ends of a connection: one for a writer of streams, the other for a client that says
// nothing and reads what comes.
class Reader {
public:
    Reader() {
        const detail::Descriptor listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        socklen_t size = sizeof address;
        auto* const name = reinterpret_cast<sockaddr*>(&address);
        REQUIRE(::bind(listener.get(), name, size) == 0);
        REQUIRE(::listen(listener.get(), 1) == 0);
        REQUIRE(::getsockname(listener.get(), name, &size) == 0);
        own_.reset(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        const timeval limit{20, 0};
        ::setsockopt(own_.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
        REQUIRE(::connect(own_.get(), name, size) == 0);
        writers_.reset(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
        REQUIRE(writers_.get() >= 0);
    }

    // The writer's end, which it closes.
    int release() { return writers_.release(); }
    void shut_down_sending() const { ::shutdown(own_.get(), SHUT_WR); }
    void leave() { own_.reset(); }
    // What comes up to the next empty line; nothing at the end.
    std::string block() {
        std::size_t end;
        while ((end = heard_.find("\n\n")) == std::string::npos) {
            char buffer[65'536];
            const ssize_t n = ::recv(own_.get(), buffer, sizeof buffer, 0);
            if (n <= 0) return "";
            heard_.append(buffer, static_cast<std::size_t>(n));
        }
        std::string text = heard_.substr(0, end + 2);
        heard_.erase(0, end + 2);
        return text;
    }

private:
    detail::Descriptor own_;
    detail::Descriptor writers_;
    std::string heard_;
};

constexpr milliseconds seldom = std::chrono::hours(1);

// A writer of streams for a scheduler with a history.
struct Service {
    explicit Service(int events = 0, milliseconds keep_alive = seldom)
        : writers(tasks, keep_alive, [this] { ++closed; }),
          companion(tasks.add_companion({[this] { writers.write_or_wake(); }, nullptr, nullptr})) {
        emit(events);
    }
    ~Service() { tasks.remove_companion(companion); }
    Service(const Service&) = delete;
    Service& operator=(const Service&) = delete;

    void emit(int events) {
        const std::uint64_t before = tasks.newest().seq();
        for (int i = 0; i < events; ++i) tasks.schedule(milliseconds(0), "\"a message\"");
        if (events == 0) return;
        const Cursor last(before + static_cast<std::uint64_t>(events) - 1);
        REQUIRE(tasks.wait_for(last, milliseconds(20'000)));
    }
    void adopt(Reader& client, std::uint64_t seq, std::vector<std::string> topics = {}) {
        writers.adopt(client.release(), ":head\n\n", seq, std::move(topics));
    }
    // Emits an event for each of these topics.
    void emit(const std::vector<std::string>& topics, std::size_t size = 9) {
        const std::uint64_t before = tasks.newest().seq();
        std::vector<NewTask> all;
        for (const std::string& topic : topics) {
            all.push_back({tasks.now(), quote_json(std::string(size, 'm')), topic});
        }
        tasks.submit(all).wait();
        REQUIRE(tasks.wait_for(Cursor(before + topics.size() - 1), milliseconds(20'000)));
    }
    // Whether the client is given the events before `end` that topics choose, and nothing else.
    bool gives_chosen(Reader& client, std::uint64_t from, std::uint64_t end,
                      const std::vector<std::string>& topics) const {
        for (const Event& event :
             tasks.events({10'000, Cursor(from), {}, ~std::size_t{0}}).events) {
            if (event.seq >= end || !detail::chooses_topic(topics, event.topic())) continue;
            const std::string text = "id: " + event.id.str() + "\ndata: " + event.payload.str();
            if (client.block() != text + "\n\n") return false;
        }
        return true;
    }
    std::string newest_id() const { return tasks.event_before(Cursor::now())->str(); }
    // Whether the client is given its head and then these events, each once and in order.
    bool gives(Reader& client, std::uint64_t from, std::uint64_t end) const {
        if (client.block() != ":head\n\n") return false;
        return goes_on(client, from, end);
    }
    bool goes_on(Reader& client, std::uint64_t from, std::uint64_t end) const {
        while (from < end) {
            const EventPage page = tasks.events({1'000, Cursor(from)});
            for (const Event& event : page.events) {
                if (event.seq >= end) return true;
                const std::string text = event.payload.str();
                if (client.block() != "id: " + event.id.str() + "\ndata: " + text + "\n\n") {
                    return false;
                }
            }
            if (page.events.empty()) return false;
            from = page.next.seq();
        }
        return true;
    }

    Scheduler tasks;
    std::atomic<std::size_t> closed{0};
    StreamWriters writers;
    std::size_t companion;
};

}  // namespace

TEST_SUITE("streams") {
    TEST_CASE("streams that begin anywhere meet at the same pages") {
        Service service(2'100);
        const auto end_of_page = [&](std::uint64_t seq) {
            const Frames frames = make_frames(service.tasks, seq);
            CHECK(frames.begin == seq);
            return frames.next;
        };
        for (const std::uint64_t seq : {0U, 1U, 700U, 1'023U}) CHECK(end_of_page(seq) == 1'024);
        for (const std::uint64_t seq : {1'024U, 1'500U}) CHECK(end_of_page(seq) == 2'048);
        CHECK(end_of_page(2'099) == 2'100);
    }

    TEST_CASE("a stream with topics has what they choose, in order, from wherever it begins") {
        Service service;
        std::mt19937 random(4);
        const std::vector<std::string> all{"", "a", "ab", "b", "a/b"};
        std::vector<std::string> topics;
        for (int i = 0; i < 3'000; ++i) topics.push_back(all[random() % all.size()]);
        service.emit(topics);
        const std::vector<std::vector<std::string>> choices{{"a"},       {"a*"},   {"*"},
                                                            {"a*", "b"}, {"none"}, {}};
        for (const std::uint64_t from : {0U, 5U, 1'023U, 2'990U}) {
            std::vector<std::unique_ptr<Reader>> clients;
            for (const auto& choice : choices) {
                clients.push_back(std::make_unique<Reader>());
                service.adopt(*clients.back(), from, choice);
                CHECK(clients.back()->block() == ":head\n\n");
            }
            const std::uint64_t end = service.tasks.newest().seq() + 5;
            service.emit(all);
            for (std::size_t i = 0; i + 1 < choices.size(); ++i) {
                CAPTURE(i);
                CHECK(service.gives_chosen(*clients[i], from, end, choices[i]));
            }
            CHECK(service.goes_on(*clients.back(), from, end));
        }
    }

    TEST_CASE("frames of a stream with topics are whole, however much a socket takes at once") {
        Service service;
        std::mt19937 random(6);
        std::vector<std::string> topics;
        for (int i = 0; i < 60; ++i) topics.push_back(random() % 3 ? "a" : "b");
        service.emit(topics, 300'000);
        Reader client;
        service.adopt(client, 0, {"a"});
        CHECK(client.block() == ":head\n\n");
        CHECK(service.gives_chosen(client, 0, 60, {"a"}));
    }

    TEST_CASE("a stream on which nothing matches is told its cursor, once, with a keep-alive") {
        Service service(10, milliseconds(100));
        Reader client;
        service.adopt(client, 0, {"a"});
        CHECK(client.block() == ":head\n\n");
        const auto after_comments = [&client] {
            std::string block = client.block();
            while (block == keep_alive_comment) block = client.block();
            return block;
        };
        const auto cursor = [&service] {
            return "event: cursor\nid: " + service.newest_id() + "\ndata: {}\n\n";
        };
        CHECK(after_comments() == cursor());
        CHECK(client.block() == keep_alive_comment);
        service.emit(3);
        std::string told = after_comments();
        while (told != cursor() && told.find("event: cursor") == 0) told = after_comments();
        CHECK(told == cursor());
        service.emit({"a"});
        CHECK(after_comments().find("data: {\"timestamp\"") != std::string::npos);
        CHECK(client.block() == keep_alive_comment);  // it knows where it is
    }

    TEST_CASE("a stream resumes from the cursor that it was told, and misses nothing") {
        Service service(5, milliseconds(50));
        Reader first;
        service.adopt(first, 0, {"a"});
        std::string block;
        while (block.find("event: cursor") != 0) block = first.block();
        const auto id = TaskId::parse(std::string_view(block).substr(18, 36));
        REQUIRE(id.has_value());
        const std::uint64_t from = service.tasks.cursor_of(*id)->seq() + 1;
        CHECK(from == 5);
        service.emit({"b", "a", "", "a"});
        Reader second;
        service.adopt(second, from, {"a"});
        CHECK(second.block() == ":head\n\n");
        CHECK(service.gives_chosen(second, from, 9, {"a"}));
    }

    TEST_CASE("a stream has all that is retained and then what is new, from wherever it begins") {
        Service service(3'000);
        for (const std::uint64_t from : {0U, 1U, 1'023U, 1'024U, 1'900U, 2'999U, 3'000U}) {
            CAPTURE(from);
            Reader client;
            service.adopt(client, from);
            const std::uint64_t before = service.tasks.newest().seq();
            REQUIRE(service.gives(client, from, before));
            service.emit(3);
            REQUIRE(service.goes_on(client, before, before + 3));
        }
    }

    TEST_CASE(
        "a client that sends nothing more keeps its stream and is told at once that it has it") {
        Service service;
        Reader client;
        service.adopt(client, 0);
        REQUIRE(client.block() == ":head\n\n");
        client.shut_down_sending();
        CHECK(client.block() == ":keepalive\n\n");
        service.emit(2);
        CHECK(service.goes_on(client, 0, 2));
        CHECK(service.closed == 0);
    }

    TEST_CASE("a client that is gone makes room at once, and one that was silent before, soon") {
        Service service;
        Reader one;
        service.adopt(one, 0);
        REQUIRE(one.block() == ":head\n\n");
        one.leave();  // the comment that it is sent finds nobody
        CHECK(eventually([&] { return service.closed == 1; }));

        Service other(0, milliseconds(20));
        Reader silent;
        other.adopt(silent, 0);
        REQUIRE(silent.block() == ":head\n\n");
        silent.shut_down_sending();
        REQUIRE(silent.block() == ":keepalive\n\n");
        silent.leave();
        CHECK(eventually([&] { return other.closed == 1; }));
    }

    TEST_CASE("every stream is counted once, however it ends") {
        Service service(10);
        std::vector<std::unique_ptr<Reader>> clients;
        for (int i = 0; i < 60; ++i) {
            clients.push_back(std::make_unique<Reader>());
            service.adopt(*clients.back(), static_cast<std::uint64_t>(i) % 10);
            if (i % 3 == 0) clients.back()->leave();
        }
        CHECK(eventually([&] { return service.closed == 20; }));
        service.writers.stop();
        CHECK(service.closed == 60);
        Reader late;
        service.adopt(late, 0);
        CHECK(late.block().empty());
        CHECK(service.closed == 61);
    }

    TEST_CASE("a stream that the end of the server meets has what is there already, and ends") {
        Service service(5'000);
        for (const std::uint64_t from : {0U, 2'500U, 5'000U}) {
            CAPTURE(from);
            StreamWriter writer(service.tasks, seldom, [] {});
            Reader client;
            writer.adopt(client.release(), ":head\n\n", from);
            std::thread ending([&] { writer.stop(); });
            std::string last;
            std::size_t events = 0;
            for (std::string block; !(block = client.block()).empty(); ++events) last = block;
            ending.join();
            REQUIRE(events > 0);
            // What does not go out within a moment is had by resuming, behind a whole event.
            CHECK(events <= 5'001 - from);
            if (events == 5'001 - from && from < 5'000) {
                const EventPage newest = service.tasks.events({1, Cursor(4'999)});
                CHECK(last.find(newest.events.at(0).id.str()) != std::string::npos);
            }
        }
    }

    TEST_CASE("events that were forgotten in its way do not hold up a stream") {
        Service service(20);
        CHECK(service.tasks.forget({Cursor(15), Cursor(20)}) == 5);
        Reader in_front;
        service.adopt(in_front, 10);
        Reader amid;
        service.adopt(amid, 17);
        REQUIRE(service.gives(in_front, 10, 15));
        REQUIRE(amid.block() == ":head\n\n");
        service.emit(1);
        CHECK(service.goes_on(in_front, 20, 21));
        CHECK(service.goes_on(amid, 20, 21));
    }

    TEST_CASE("a stream is told of a gap once, and has the rest") {
        Service service(30);
        CHECK(service.tasks.forget({Cursor(0), Cursor(12)}) == 12);
        Reader client;
        service.adopt(client, 4);
        REQUIRE(client.block() == ":head\n\n");
        const std::string oldest = service.tasks.events({1}).events.at(0).id.str();
        CHECK(client.block() ==
              "event: gap\ndata: {\"requested\":\"\",\"oldest\":\"" + oldest + "\"}\n\n");
        CHECK(client.block() == "event: cursor\nid: earliest\ndata: {}\n\n");
        CHECK(service.goes_on(client, 12, 30));
    }
}

}  // namespace streams_test
