// SPDX-License-Identifier: MIT
//
// Whichever allocation fails, the process lives, and what it has answered holds.
// It is a program of its own, because it replaces operator new.
// GCC does not see that both halves are replaced.
#pragma GCC diagnostic ignored "-Wpragmas"
#pragma GCC diagnostic ignored "-Wunknown-warning-option"
#pragma GCC diagnostic ignored "-Wmismatched-new-delete"

#include "shared_journal.hpp"
#include "support.hpp"

#include <malloc.h>

#include <new>

using namespace scheduler;
using support::TempDir;

namespace {

// Which allocations fail, counted down by every thread: that one, or all from it on.
std::atomic<bool> armed{false};
std::atomic<bool> for_good{false};
std::atomic<long> fails_in{0};
std::atomic<long> failures{0};

bool fails() {
    if (!armed.load(std::memory_order_relaxed)) return false;
    const long left = fails_in--;
    if (for_good ? left > 0 : left != 0) return false;
    ++failures;
    return true;
}

// Bytes that are allocated and not freed.
std::atomic<std::int64_t> held{0};

void* counted(void* memory) {
    held += static_cast<std::int64_t>(::malloc_usable_size(memory));
    return memory;
}

struct Armed {
    explicit Armed(long number, bool all = false) {
        fails_in = number;
        for_good = all;
        failures = 0;
        armed = true;
    }
    ~Armed() { armed = false; }
};

}  // namespace

void* operator new(std::size_t size) {
    if (fails()) throw std::bad_alloc();
    if (void* memory = std::malloc(size == 0 ? 1 : size)) return counted(memory);
    throw std::bad_alloc();
}
void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
    void* memory = fails() ? nullptr : std::malloc(size == 0 ? 1 : size);
    return memory ? counted(memory) : nullptr;
}
void operator delete(void* memory) noexcept {
    held -= static_cast<std::int64_t>(::malloc_usable_size(memory));
    std::free(memory);
}
void operator delete(void* memory, std::size_t) noexcept {
    held -= static_cast<std::int64_t>(::malloc_usable_size(memory));
    std::free(memory);
}
void operator delete(void* memory, const std::nothrow_t&) noexcept {
    held -= static_cast<std::int64_t>(::malloc_usable_size(memory));
    std::free(memory);
}

namespace {

Options options_for(const TempDir& dir) {
    Options options;
    options.journal = dir.journal();
    options.fsync = Fsync::no;
    options.rewrite_min_bytes = 2'000;
    return options;
}

// One request and the status of its answer over a bare socket, without an allocation
// here.  0: the connection was closed; -1: nothing comes.
int ask(int port, const char* request) {
    const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<std::uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const timeval limit{10, 0};
    ::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    char answer[4'096] = {};
    ssize_t n = 0;
    if (::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0 &&
        ::send(fd, request, std::strlen(request), MSG_NOSIGNAL) > 0) {
        n = ::recv(fd, answer, sizeof answer - 1, 0);
    }
    const bool hangs = n < 0 && errno == EAGAIN;
    ::close(fd);
    return hangs ? -1 : n > 12 ? std::atoi(answer + 9) : 0;
}

// Syncs nothing, which thousands of runs would wait for; every call for a sync can be made
// to fail.
class HastyFiles : public FileOps {
public:
    std::atomic<bool> fails{false};
    int fdatasync(int) override {
        errno = EIO;
        return fails ? -1 : 0;
    }
    int fsync(int) override { return 0; }
};

// A scheduler with a journal and a sink, what was asked of it and what must come of that.
class House {
public:
    House() {
        options_.journal = dir_.journal();
        options_.now = clock.source();
        options_.files = files;
        options_.log = [](const scheduler::LogRecord& record) {  // as a log does that needs memory
            const std::string copy = record.text + " is what happened, and it takes some room";
            if (copy.empty()) std::abort();
        };
        taken_.reserve(10'000);
    }
    House(const House&) = delete;
    House& operator=(const House&) = delete;
    ~House() { close(); }

    // False: it could not be opened.
    bool open() {
        try {
            tasks = std::make_unique<Scheduler>(options_);
            SinkOptions sink;
            sink.name = "sink";
            sink.sink = sink_;
            sink.retry = {milliseconds(1)};
            std::vector<SinkOptions> all;
            all.push_back(std::move(sink));
            sinks_ = std::make_unique<Sinks>(*tasks, std::move(all));
            return true;
        } catch (const std::exception&) {
            close();
            return false;
        }
    }
    void close() {
        sinks_.reset();
        tasks.reset();
    }
    void rewrite_often() { options_.rewrite_min_bytes = 1; }

    // What is asked for, and what it was answered.  False: it was refused.
    bool schedule(milliseconds delay, std::size_t count, const char* key = "") {
        try {
            const std::string json = R"({"timestamp":")" + format_time(clock.now() + delay) +
                                     R"(","message":"a message that takes some room"})";
            const std::vector<TaskRequest> batch(count, TaskRequest::parse(json, clock.now()));
            const support::Scheduled scheduled = support::schedule(*tasks, batch, key);
            std::copy(scheduled.ids.begin(), scheduled.ids.end(), kept.begin() + count_);
            count_ += static_cast<std::ptrdiff_t>(count);
            return true;
        } catch (const std::exception&) {
            return false;
        }
    }
    bool cancel(std::size_t place) {
        try {
            if (!tasks->cancel(kept[place])) return false;
            kept[place] = TaskId();
            return true;
        } catch (const std::exception&) {
            return false;
        }
    }
    bool change(std::size_t place) {
        try {
            const auto change =
                TaskRequest::parse_change(R"({"message":["changed"]})", clock.now());
            support::change(*tasks, kept[place], change);
            return true;
        } catch (const std::exception&) {
            return false;
        }
    }
    // Moves the clock, and waits until what is due was emitted or memory has failed: then
    // `left` tasks are pending.  False: neither comes.
    bool advance(milliseconds by, std::size_t left) {
        clock.advance(*tasks, by);
        return support::eventually([&] {
            clock.advance(*tasks, milliseconds(0));
            return failures > 0 || tasks->stats().pending <= left;
        });
    }
    // With memory again: all that was kept is emitted once, in order, and taken by the sink;
    // also after a restart nothing else is there.
    void check() {
        TaskId last;
        REQUIRE(support::eventually([&] {  // a journal that has failed is replaced first
            return !support::errc_of([&] { last = tasks->schedule(milliseconds(0), "[]"); });
        }));
        std::set<TaskId> expected(kept.begin(), kept.begin() + count_);
        expected.erase(TaskId());
        expected.insert(last);
        clock.advance(std::chrono::hours(48));
        REQUIRE(support::eventually([&] {
            clock.advance(*tasks, milliseconds(0));
            return tasks->stats().pending == 0;
        }));
        const std::vector<TaskId> emitted = support::event_ids(*tasks);
        REQUIRE(std::set<TaskId>(emitted.begin(), emitted.end()) == expected);
        REQUIRE(emitted.size() == expected.size());
        REQUIRE(support::eventually([&] {
            tasks->resume_sink("sink");  // it tries again at once
            return taken().size() >= emitted.size();
        }));
        REQUIRE(support::eventually([&] { return tasks->sinks().at(0).lag == 0; }));
        std::vector<TaskId> once = taken();
        once.erase(std::unique(once.begin(), once.end()), once.end());
        REQUIRE(once == emitted);
        close();
        REQUIRE(open());
        REQUIRE(support::event_ids(*tasks) == emitted);
        REQUIRE(tasks->stats().pending == 0);
        REQUIRE(tasks->stats().damaged_lines == 0);
        REQUIRE(tasks->sinks().at(0).lag == 0);
    }
    std::vector<TaskId> taken() const {
        const std::lock_guard<std::mutex> guard(mutex_);
        return taken_;
    }

    support::TestClock clock;
    std::shared_ptr<HastyFiles> files = std::make_shared<HastyFiles>();
    std::unique_ptr<Scheduler> tasks;
    std::array<TaskId, 1'000> kept{};  // nil: cancelled
    std::atomic<bool> sink_fails{false};
    std::atomic<int> failed_deliveries{0};

private:
    TempDir dir_;
    Options options_;
    std::ptrdiff_t count_ = 0;
    mutable std::mutex mutex_;
    std::vector<TaskId> taken_;  // guarded by mutex_
    std::shared_ptr<Sink> sink_ = make_sink([this](const Event& event) {
        if (sink_fails) {
            ++failed_deliveries;
            throw std::runtime_error("the receiver does not want this one now");
        }
        const std::lock_guard<std::mutex> guard(mutex_);
        taken_.push_back(event.id);
    });
    std::unique_ptr<Sinks> sinks_;
};

// The status of the answer to a request, while the allocations from `number` on fail; 0: the
// connection ends where the answer would come.
int ask_failing(int port, const std::string& line, const std::string& body, long number, bool all) {
    const std::string request = line + " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" +
                                "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" +
                                body;
    const Armed some(number, all);
    const int status = ask(port, request.c_str());
    return status == 100 ? 0 : status;
}

// Both ends of a stream: the writer's, and that of a client.
class Stream {
public:
    Stream() {
        int ends[2];
        REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
        own_.reset(ends[0]);
        writers_.reset(ends[1]);
        const timeval limit{20, 0};
        ::setsockopt(own_.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    }
    int release() { return writers_.release(); }
    void leave() { own_.reset(); }
    bool has_more() const {
        char c = 0;
        return ::recv(own_.get(), &c, 1, MSG_PEEK | MSG_DONTWAIT) > 0;
    }
    // Of the events that come, up to this one; none: the stream has ended.
    std::vector<TaskId> ids_until(TaskId last) {
        std::vector<TaskId> ids;
        while (ids.empty() || ids.back() != last) {
            for (std::size_t at; (at = heard_.find("\n\n")) != std::string::npos;) {
                ids.push_back(TaskId::parse(heard_.substr(4, 36)).value_or(TaskId()));
                heard_.erase(0, at + 2);
            }
            char buffer[4'096];
            if (!ids.empty() && ids.back() == last) break;
            const ssize_t n = ::recv(own_.get(), buffer, sizeof buffer, 0);
            if (n <= 0) return {};
            heard_.append(buffer, static_cast<std::size_t>(n));
        }
        return ids;
    }

private:
    detail::Descriptor own_;
    detail::Descriptor writers_;
    std::string heard_;
};

std::vector<TaskId> ids_from(const Scheduler& tasks, std::uint64_t seq) {
    std::vector<TaskId> ids;
    for (const Event& event : tasks.events({1'000, Cursor(seq)}).events) ids.push_back(event.id);
    return ids;
}

// Runs what is given with each of the first allocations failing, and with all from each on,
// until it needs no more of them; `SCHEDULER_TEST_LONG` in the environment: with each of 2,000.
template <class Try>
void for_each_failing_allocation(Try attempt) {
    const bool is_long = std::getenv("SCHEDULER_TEST_LONG") != nullptr;
    for (const bool all : {false, true}) {
        CAPTURE(all);
        int untouched = 0;  // runs one after the other in which nothing has failed
        for (long number = 0; number < 2'000 && (is_long || untouched < 5);
             number += is_long || number < 100 ? 1 : 1 + number / 50) {
            CAPTURE(number);
            attempt(number, all);
            untouched = failures == 0 ? untouched + 1 : 0;
        }
    }
}

}  // namespace

TEST_SUITE("memory") {
    TEST_CASE("whichever allocation fails, what was answered is kept and the rest is refused") {
        const bool is_long = std::getenv("SCHEDULER_TEST_LONG") != nullptr;
        for (long number = 0; number < 2'000; number += is_long || number < 100 ? 1 : 11) {
            CAPTURE(number);
            const TempDir dir;
            const Options options = options_for(dir);
            std::array<TaskId, 40> stored{};
            std::size_t count = 0;
            std::size_t refused = 0;
            std::optional<TaskId> cancelled;
            {
                const Armed one(number);
                try {
                    Scheduler tasks(options);
                    for (int i = 0; i < 40; ++i) {
                        try {
                            const auto delay = milliseconds(i % 4 == 0 ? 0 : 3'600'000);
                            stored[count] = tasks.schedule(delay, "\"some message\"");
                            ++count;
                        } catch (const std::exception&) {
                            ++refused;
                        }
                    }
                    try {
                        if (count > 1 && tasks.cancel(stored[count - 1]))
                            cancelled = stored[--count];
                    } catch (const std::exception&) {  // then it stands
                    }
                } catch (const std::exception&) {  // it did not open
                }
            }
            Scheduler again(options);
            for (std::size_t i = 0; i < count; ++i) REQUIRE(again.find(stored[i]));
            if (cancelled) REQUIRE_FALSE(again.find(*cancelled));
            const Stats stats = again.stats();
            REQUIRE(stats.pending + stats.retained == count);
            REQUIRE(stats.damaged_lines == 0);
        }
    }

    TEST_CASE("whichever allocation fails while a long journal is read, opening it throws") {
        const TempDir dir;
        const Options options = options_for(dir);
        constexpr std::size_t count = 6;
        {
            Scheduler tasks(options);
            for (std::size_t i = 0; i < count; ++i) {  // read in several parts, on several threads
                tasks.schedule(milliseconds(3'600'000), '"' + std::string(400'000, 'x') + '"');
            }
        }
        std::size_t failed = 0;
        int good = 0;  // openings in a row that nothing failed
        for (long number = 0; good < 10; ++number) {
            CAPTURE(number);
            const Armed one(number);
            try {
                const Scheduler tasks(options);
                armed = false;
                REQUIRE(tasks.stats().pending == count);
                ++good;
            } catch (const std::bad_alloc&) {
                ++failed;
                good = 0;
            }
        }
        CHECK(failed > 30);
    }

    TEST_CASE("whichever allocation fails, a request is answered or its connection closed") {
        Options options;
        Scheduler tasks(options);
        HttpServer server(tasks);
        const int port = server.listen("127.0.0.1", 0);
        const char* schedule =
            "POST /schedule HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            "Content-Length: 44\r\n\r\n{\"timestamp\":\"2026-01-01\",\"message\":{\"a\":1}}";
        const char* list = "GET /tasks HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        const char* stream = "GET /sse HTTP/1.1\r\nHost: localhost\r\n\r\n";
        std::size_t good = 0;
        std::size_t failed = 0;
        for (long number = 0; number < 600; ++number) {
            CAPTURE(number);
            for (const char* request : {schedule, list, stream}) {
                int status = 0;
                {
                    const Armed one(number);
                    status = ask(port, request);
                }
                const bool well = status == 200 || status == 0 || (status >= 500 && status < 600);
                CAPTURE(status);
                CAPTURE(request);
                REQUIRE(well);
                ++(status == 200 ? good : failed);
            }
        }
        CHECK(good > 100);
        CHECK(failed > 30);
        REQUIRE(ask(port, schedule) == 200);
        CHECK(support::eventually([&] { return tasks.stats().pending == 0; }));
    }

    TEST_CASE("what idempotency keys make the scheduler hold counts against max_bytes") {
        support::TestClock clock;
        Options options;
        options.now = clock.source();
        options.history = 0;
        options.min_retention = milliseconds(0);
        options.max_bytes = std::uint64_t{1} << 18;
        Scheduler tasks(options);
        const std::vector<TaskRequest> batch(
            500, TaskRequest::parse(R"({"timestamp":"2026-03-01","message":"x"})", clock.now()));
        const std::int64_t before = held;
        std::size_t stored = 0;
        const auto refusal = support::errc_of([&] {
            for (; stored < 5'000; ++stored) {
                support::schedule(tasks, batch, std::to_string(stored) + std::string(200, 'k'));
                REQUIRE(support::eventually([&] { return tasks.stats().pending == 0; }));
                clock.advance(tasks, milliseconds(1));
                REQUIRE(support::eventually([&] { return tasks.stats().retained == 0; }));
                if (held - before > (std::int64_t{2} << 20)) break;
            }
        });
        CHECK(refusal == Errc::task_limit);
        CHECK(stored > 200);
        CHECK(held - before < (std::int64_t{2} << 20));
    }

    TEST_CASE("whichever allocations fail at a start, the next one finds everything") {
        for_each_failing_allocation([](long number, bool all) {
            House house;
            REQUIRE(house.open());
            REQUIRE(house.schedule(milliseconds(0), 3, "an idempotency key of some length"));
            REQUIRE(house.schedule(std::chrono::hours(1), 2));
            REQUIRE(house.advance(milliseconds(1), 2));
            house.close();
            bool opened = false;
            {
                const Armed some(number, all);
                opened = house.open();
            }
            if (!opened) REQUIRE(house.open());
            house.check();
        });
    }

    TEST_CASE("whichever allocations fail, a task is stored if that was answered, and only then") {
        for_each_failing_allocation([](long number, bool all) {
            House house;
            REQUIRE(house.open());
            bool first = false;
            {
                const Armed some(number, all);
                house.schedule(std::chrono::hours(1), 1);
                first = house.schedule(std::chrono::hours(1), 3, "the same key again and again");
                house.schedule(std::chrono::hours(2), 1);
            }
            // The key is known if it was answered, and free if it was not.
            const std::size_t before = house.tasks->stats().pending;
            if (!first)
                REQUIRE(house.schedule(std::chrono::hours(1), 3, "the same key again and again"));
            REQUIRE(house.tasks->stats().pending == before + (first ? 0 : 3));
            house.check();
        });
    }

    TEST_CASE("whichever allocations fail, a task is cancelled or changed if that was answered") {
        for_each_failing_allocation([](long number, bool all) {
            House house;
            REQUIRE(house.open());
            REQUIRE(house.schedule(std::chrono::hours(1), 6));
            bool changed = false;
            std::size_t cancelled = 0;
            {
                const Armed some(number, all);
                cancelled += house.cancel(0) ? 1 : 0;
                changed = house.change(1);
                cancelled += house.cancel(2) ? 1 : 0;
            }
            REQUIRE(house.tasks->stats().pending == 6 - cancelled);
            const std::string text = house.tasks->find(house.kept[1])->payload.str();
            REQUIRE((text.find("changed") != std::string::npos) == changed);
            house.check();
        });
    }

    TEST_CASE("whichever allocations fail, it is paused if that was answered, and only then") {
        for_each_failing_allocation([](long number, bool all) {
            House house;
            REQUIRE(house.open());
            REQUIRE(house.schedule(std::chrono::hours(1), 2));
            bool paused = false;
            {
                const Armed some(number, all);
                try {
                    house.tasks->pause("a reason that takes some room in memory");
                    paused = true;
                } catch (const std::exception&) {  // then nothing was
                }
            }
            REQUIRE(house.tasks->paused().has_value() == paused);
            house.clock.advance(*house.tasks, std::chrono::hours(1));
            if (paused) {
                REQUIRE(house.tasks->stats().emitted == 0);
                REQUIRE(support::eventually(
                    [&] { return !support::errc_of([&] { house.tasks->resume(); }); }));
            }
            house.check();
        });
    }

    TEST_CASE("whichever allocations fail, tasks are cancelled in bulk if that was answered") {
        constexpr std::size_t count = 600;  // more than are marked at once
        for_each_failing_allocation([](long number, bool all) {
            House house;
            REQUIRE(house.open());
            REQUIRE(house.schedule(std::chrono::hours(1), count));
            bool cancelled = false;
            {
                const Armed some(number, all);
                try {
                    cancelled = house.tasks->cancel(DueRange{}) == count;
                } catch (const std::exception&) {  // then nothing was
                }
            }
            REQUIRE(house.tasks->stats().pending == (cancelled ? 0 : count));
            if (!cancelled && number % 2 == 1) {  // in half of the cases it is tried again
                cancelled = true;
                REQUIRE(support::eventually(
                    [&] { return !support::errc_of([&] { house.tasks->cancel(DueRange{}); }); }));
            }
            if (cancelled) house.kept.fill(TaskId());
            house.check();
        });
    }

    TEST_CASE("whichever allocations fail, what is due is emitted once, and delivered") {
        for_each_failing_allocation([](long number, bool all) {
            House house;
            REQUIRE(house.open());
            REQUIRE(house.schedule(std::chrono::hours(1), 3));
            REQUIRE(house.schedule(std::chrono::hours(2), 3));
            REQUIRE(house.schedule(std::chrono::hours(9), 1));
            bool goes_on = true;
            {
                const Armed some(number, all);
                goes_on = house.advance(std::chrono::hours(1), 4) &&
                          house.advance(std::chrono::hours(1), 1);
            }
            REQUIRE(goes_on);
            house.check();
        });
    }

    TEST_CASE("whichever allocations fail, a stream has every event once, or ends and is counted") {
        Scheduler tasks;
        std::atomic<std::size_t> ended{0};
        detail::StreamWriters writers(tasks, std::chrono::hours(1), [&ended] { ++ended; });
        const std::size_t companion =
            tasks.add_companion({[&writers] { writers.write_or_wake(); }, nullptr, nullptr});
        Stream live;
        writers.adopt(live.release(), "", 0);
        std::size_t attempts = 0;
        std::size_t refused = 0;
        for_each_failing_allocation([&](long number, bool all) {
            const std::uint64_t before = tasks.newest().seq();
            const std::uint64_t begin = before - std::min<std::uint64_t>(before, 3);
            Stream late;
            bool taken = false;
            {
                const Armed some(number, all);
                try {
                    tasks.schedule(milliseconds(0), "\"as it was\"");
                } catch (const std::exception&) {  // there may be one event less
                }
                writers.adopt(late.release(), "", begin);
                taken = ended == attempts;
                support::eventually(
                    [&] { return failures > 0 || (live.has_more() && late.has_more()); });
            }
            const TaskId last = tasks.schedule(milliseconds(0), "\"with memory again\"");
            const std::vector<TaskId> heard = live.ids_until(last);
            REQUIRE(heard == ids_from(tasks, before));
            REQUIRE(late.ids_until(last) ==
                    (taken ? ids_from(tasks, begin) : std::vector<TaskId>()));
            REQUIRE(ended == attempts + (taken ? 0 : 1));
            refused += taken ? 0 : 1;
            late.leave();
            ++attempts;
            REQUIRE(support::eventually([&] { return ended == attempts; }));
        });
        CHECK(refused > 0);
        tasks.remove_companion(companion);
    }

    TEST_CASE("whichever allocations fail, a sink that fails gets every event all the same") {
        for_each_failing_allocation([](long number, bool all) {
            House house;
            REQUIRE(house.open());
            REQUIRE(house.schedule(std::chrono::hours(1), 3));
            house.sink_fails = true;
            house.clock.advance(*house.tasks, std::chrono::hours(1));
            REQUIRE(support::eventually([&] { return house.tasks->stats().pending == 0; }));
            bool goes_on = true;
            {
                const Armed some(number, all);
                goes_on = support::eventually([&] {
                    house.clock.advance(*house.tasks, milliseconds(10));
                    return failures > 0 || house.failed_deliveries >= 5;  // of six
                });
            }
            REQUIRE(goes_on);
            house.sink_fails = false;
            REQUIRE(support::eventually([&] {
                house.tasks->resume_sink("sink");
                house.clock.advance(*house.tasks, milliseconds(10));
                if (house.tasks->sinks().at(0).dead > 0) house.tasks->redeliver("sink");
                return house.taken().size() == 3;
            }));
        });
    }

    TEST_CASE("whichever allocations fail while the journal is replaced, nothing is lost") {
        for (const bool sync_fails : {false, true}) {
            CAPTURE(sync_fails);
            for_each_failing_allocation([sync_fails](long number, bool all) {
                House house;
                house.rewrite_often();
                REQUIRE(house.open());
                REQUIRE(
                    house.schedule(std::chrono::hours(1), 3, "an idempotency key of some length"));
                REQUIRE(house.schedule(std::chrono::hours(2), 2));
                bool goes_on = true;
                {
                    const Armed some(number, all);
                    house.files->fails = sync_fails;
                    std::size_t later = house.schedule(std::chrono::hours(3), 1) ? 3 : 2;
                    house.files->fails = false;
                    house.cancel(0);
                    if (house.schedule(std::chrono::hours(3), 1)) ++later;
                    goes_on = house.advance(std::chrono::hours(1), later);
                    house.schedule(std::chrono::hours(3), 1);
                }
                REQUIRE(goes_on);
                house.schedule(std::chrono::hours(3), 1);
                house.check();
            });
        }
    }

    TEST_CASE("whichever allocations fail, an error is answered only if nothing was done") {
        for (const bool has_journal : {false, true}) {
            CAPTURE(has_journal);
            const TempDir dir;
            Options options;
            options.files = std::make_shared<HastyFiles>();
            if (has_journal) options.journal = dir.journal();
            Scheduler tasks(options);
            HttpServer server(tasks);
            const int port = server.listen("127.0.0.1", 0);
            std::size_t good = 0;
            std::size_t errors = 0;
            std::size_t silent = 0;
            const auto check = [&](int status, bool is_done) {
                CAPTURE(status);
                REQUIRE(status >= 0);
                if (status == 200) REQUIRE(is_done);
                if (status >= 400) REQUIRE_FALSE(is_done);
                ++(status == 200 ? good : status == 0 ? silent : errors);
            };
            for_each_failing_allocation([&](long number, bool all) {
                const std::string text = "a message of some length";
                const std::size_t before = tasks.stats().pending;
                int status =
                    ask_failing(port, "POST /schedule",
                                R"({"delay":"1h","message":")" + text + "\"}", number, all);
                // What was not answered may still be under way.
                if (status != 0) check(status, tasks.stats().pending == before + 1);
                const TaskId id = tasks.schedule(std::chrono::hours(1), '"' + text + '"');
                status = ask_failing(port, "PATCH /tasks/" + id.str(),
                                     R"({"message":"changed to )" + text + "\"}", number, all);
                check(status, tasks.find(id)->payload.str().find("changed") != std::string::npos);
                status = ask_failing(port, "DELETE /tasks/" + id.str(), "", number, all);
                check(status, !tasks.find(id));
            });
            CHECK(good >= 4);
            CHECK(errors > 10);
            CHECK(silent > 10);
        }
    }

    TEST_CASE(
        "whichever allocations fail at a node and the owner, no error is answered to a change") {
        const auto log = std::make_shared<support::SharedLog>();
        HttpListener at("127.0.0.1", 0);
        const std::string url = "http://127.0.0.1:" + std::to_string(at.port());
        Options options;
        options.make_journal = [&] { return log->open("a", support::Telling::thread, url); };
        Scheduler owner(options);
        HttpServer owner_server(owner);
        owner_server.listen(std::move(at));
        options.make_journal = [&] { return log->open("b", support::Telling::thread); };
        Scheduler follower(options);
        HttpServer server(follower);
        const int port = server.listen("127.0.0.1", 0);
        std::size_t good = 0;
        std::size_t errors = 0;
        for_each_failing_allocation([&](long number, bool all) {
            CAPTURE(number);
            CAPTURE(all);
            const std::string name =
                std::to_string(good + errors) + (all ? "all" : "one") + std::to_string(number);
            const int status =
                ask_failing(port, "PUT /tasks/" + name,
                            R"({"delay":"1h","message":"a message of some length"})", number, all);
            REQUIRE(status >= 0);
            if (status >= 200 && status < 300) REQUIRE(owner.find(name));
            if (status >= 400) REQUIRE_FALSE(owner.find(name));
            ++(status == 201 ? good : errors);
        });
        CHECK(good >= 4);
        CHECK(errors > 10);
        CHECK(ask(port, "GET /tasks HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n") ==
              200);
        CHECK(
            support::eventually([&] { return follower.stats().pending == owner.stats().pending; }));
    }

    TEST_CASE("a task that is stored is not answered with an error by another server either") {
        // What cpp-httplib itself does without memory is its own affair: so allocations fail
        // from a call of the clock on, until there is an answer, or rather none.
        std::atomic<long> number{-1};
        Options options;
        options.now = [&number] {
            const long chosen = number.exchange(-1);
            if (chosen < 0) return wall_clock();
            fails_in = chosen;
            for_good = false;
            armed = true;
            return wall_clock();
        };
        Scheduler tasks(options);
        HttpApi api(tasks);
        httplib::Server server;
        api.mount(server);
        const int port = server.bind_to_any_port("127.0.0.1");
        std::thread thread([&] { server.listen_after_bind(); });
        const bool listens = support::eventually([&] { return server.is_running(); });
        const char* request =
            "POST /schedule HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            "Content-Length: 28\r\n\r\n{\"delay\":\"1h\",\"message\":[1]}";
        int status = -1;
        std::size_t stored_errors = 0;
        for (long n = 0; listens && n < 200; ++n) {
            const std::uint64_t before = tasks.stats().scheduled;
            number = n;
            status = ask(port, request);
            armed = false;
            if (status >= 400 && tasks.stats().scheduled != before) ++stored_errors;
            if (status < 400) break;
        }
        server.stop();
        thread.join();
        CHECK(status == 100);  // it announces an answer, and ends
        CHECK(stored_errors == 0);
    }

#if defined(__has_feature)
#define HAS_SANITIZER (__has_feature(address_sanitizer) || __has_feature(thread_sanitizer))
#elif defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define HAS_SANITIZER 1
#else
#define HAS_SANITIZER 0
#endif
#if !HAS_SANITIZER && defined(__GLIBC__)
    TEST_CASE("the memory that cancelled tasks took is given back") {
        const auto resident = [] {
            std::size_t pages = 0;
            std::ifstream("/proc/self/statm") >> pages >> pages;
            return pages * static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
        };
        std::vector<TaskRequest> batch;
        for (int i = 0; i < 10'000; ++i) {  // in no order
            batch.push_back(TaskRequest::parse(
                R"({"delay":)" + std::to_string(10'000 + i * 7'919 % 10'000) +
                    R"(,"message":"a message of the usual length, which is some fifty bytes"})",
                wall_clock()));
        }
        for (const bool has_journal : {false, true}) {
            CAPTURE(has_journal);
            const TempDir dir;
            Options options;
            options.files = std::make_shared<HastyFiles>();
            if (has_journal) options.journal = dir.journal();
            Scheduler tasks(options);
            const std::size_t before = resident();
            for (int i = 0; i < 20; ++i) support::schedule(tasks, batch);
            const std::size_t full = resident() - before;
            REQUIRE(full > (std::size_t{30} << 20));
            CHECK(tasks.cancel(DueRange()) == 200'000);
            CHECK(support::eventually([&] { return resident() < before + full / 3; }));
        }
    }
#endif
}
