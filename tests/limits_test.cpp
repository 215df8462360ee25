// SPDX-License-Identifier: MIT
#include "support.hpp"

namespace limits_test {

using namespace scheduler;
using support::errc_of;
using support::Heard;
using support::TestClock;

namespace {

constexpr std::uint64_t mebibyte = std::uint64_t{1} << 20;

// What a scheduler and its server have of one budget, as the binary shares it out.
struct House {
    Options options;
    HttpOptions http;

    void derive(std::uint64_t memory) {
        options.max_memory = memory;
        options.memory_of_others = http.derive_limits(memory / 3);
        options.derive_limits();
    }
    // What all limits let the two take, gaps between blocks included.
    std::uint64_t most() const {
        return options.memory_of_others + 2 * mebibyte + options.max_bytes / 4 * 5;
    }
};

// Tasks of this size are scheduled until there is no room for another one.
std::size_t fill(Scheduler& tasks, std::size_t size) {
    std::size_t count = 0;
    const std::string message = '"' + std::string(size, 'x') + '"';
    while (!errc_of([&] { tasks.schedule(std::chrono::hours(1), message); })) ++count;
    return count;
}

// What the Error says that a call throws.
template <class Call>
std::string reason_of(Call call) {
    try {
        call();
    } catch (const Error& error) {
        return error.what();
    }
    return {};
}

}  // namespace

TEST_SUITE("limits") {
    TEST_CASE("from one budget of memory follow limits that keep within it") {
        struct Row {
            std::uint64_t memory;
            std::uint64_t bytes;
            std::size_t history;
            std::size_t connections;
            std::size_t body;
            std::size_t streams;
        };
        for (const Row& row : {Row{16, 7'000'000, 3'400, 40, 240'000, 60},
                               Row{24, 11'000'000, 5'300, 52, 400'000, 100},
                               Row{64, 33'000'000, 10'000, 80, 1'048'576, 330},
                               Row{1'024, 568'000'000, 10'000, 800, 1'048'576, 1'024},
                               Row{65'536, 4'294'967'296, 10'000, 4'096, 1'048'576, 1'024}}) {
            CAPTURE(row.memory);
            House house;
            house.derive(row.memory * mebibyte);
            const auto is_about = [](std::uint64_t value, std::uint64_t expected) {
                CAPTURE(expected);
                CHECK(value >= expected - expected / 8);
                CHECK(value <= expected + expected / 8);
            };
            is_about(house.options.max_bytes, row.bytes);
            is_about(house.options.history, row.history);
            is_about(house.http.max_connections, row.connections);
            is_about(house.http.max_body, row.body);
            is_about(house.http.max_streams, row.streams);
            CHECK(house.most() <= row.memory * mebibyte);
            CHECK(house.http.max_body * 2 <= house.http.max_bodies);
            CHECK(house.http.max_body * 2 <= house.http.max_answers);
            CHECK(house.options.max_dead <= 10'000);
            CHECK(house.options.sink_backlog_bytes <= house.options.max_bytes / 4);
        }
    }

    TEST_CASE("a limit that is given stands, and what it takes is missing elsewhere") {
        House usual;
        usual.derive(64 * mebibyte);
        House house;
        house.http.max_connections = 200;
        house.options.history = 123;
        house.options.max_tasks = 1'000;
        house.derive(64 * mebibyte);
        CHECK(house.http.max_connections == 200);
        CHECK(house.options.history == 123);
        CHECK(house.options.max_tasks == 1'000);
        CHECK(house.options.max_bytes < usual.options.max_bytes);
        CHECK(house.most() <= 64 * mebibyte);
        House given;
        given.options.max_bytes = 36 * mebibyte;
        given.derive(64 * mebibyte);
        CHECK(given.options.max_bytes == 36 * mebibyte);
    }

    TEST_CASE("a given limit that does not fit into the budget is refused") {
        House bytes;
        bytes.options.max_bytes = 1'024 * mebibyte;
        CHECK(errc_of([&] { bytes.derive(24 * mebibyte); }) == Errc::invalid_argument);
        House most;
        most.options.max_bytes = 60 * mebibyte;
        CHECK(errc_of([&] { most.derive(64 * mebibyte); }) == Errc::invalid_argument);
        House body;
        body.http.max_body = 100 * mebibyte;
        CHECK(errc_of([&] { body.derive(24 * mebibyte); }) == Errc::invalid_argument);
    }

    TEST_CASE("a body of the size that is given can be taken, also with a small budget") {
        House house;
        house.http.max_body = mebibyte;
        house.derive(24 * mebibyte);
        CHECK(house.http.max_body == mebibyte);
        CHECK(house.http.max_bodies >= 2 * mebibyte);
        CHECK(house.http.max_answers >= 2 * mebibyte);
        CHECK(house.most() <= 24 * mebibyte);
    }

    TEST_CASE("a limit that is given as it is usual anyway is not derived") {
        Options options;
        options.max_memory = 8 * mebibyte;
        options.history = 10'000;
        options.derive_limits();
        CHECK(options.history == 10'000);
        CHECK(options.max_dead < 10'000);
    }

    TEST_CASE("without a budget the limits are the usual ones") {
        Options options;
        options.derive_limits();
        CHECK(options.max_tasks == 10'000'000);
        CHECK(options.max_bytes == std::uint64_t{4} << 30);
        CHECK(options.history == 10'000);
    }

    TEST_CASE("a budget that is too small for a journal's buffers is refused with what it takes") {
        Options options;
        options.max_memory = 4 * mebibyte;
        options.memory_of_others = 3 * mebibyte;
        CHECK(errc_of([&] { Scheduler tasks(options); }) == Errc::invalid_argument);
        options.max_memory = 6 * mebibyte;
        const Scheduler tasks(options);
        CHECK(tasks.options().max_bytes == mebibyte / 5 * 4);
    }

    TEST_CASE("a budget counts what tasks take beside their payloads") {
        for (const std::size_t size : {1U, 100U, 10'000U}) {
            CAPTURE(size);
            Options options;
            options.max_memory = 4 * mebibyte;
            Scheduler tasks(options);
            const std::uint64_t most = tasks.options().max_bytes;
            const std::size_t count = fill(tasks, size);
            CHECK(count * (size + 112) <= most);
            CHECK(count * (size + 260) >= most);
            CHECK(tasks.stats().bytes <= most);
            CHECK(tasks.stats().refused == 1);
        }
    }

    TEST_CASE("idempotency keys leave room for tasks without one, and are known for a day") {
        TestClock clock;
        Options options;
        options.now = clock.source();
        options.max_memory = 4 * mebibyte;
        options.history = 0;
        options.min_retention = milliseconds(0);
        Scheduler tasks(options);
        const auto past =
            TaskRequest::parse(R"({"timestamp":"2020-01-01","message":"x"})", clock.now());
        const auto add = [&](std::size_t i) {
            support::schedule(tasks, {past}, "key " + std::to_string(i));
        };
        std::size_t count = 0;
        while (!errc_of([&] { add(count); })) {
            REQUIRE(count++ < 10'000);
            REQUIRE(support::eventually([&] { return tasks.stats().pending == 0; }));
        }
        CHECK(tasks.stats().refused == 1);
        const std::string reason = reason_of([&] { add(count); });
        CHECK(reason.find("idempotency keys take ") == 0);
        CHECK(reason.find("send without a key") != std::string::npos);
        tasks.schedule(std::chrono::hours(48), "\"without a key\"");
        CHECK(!errc_of([&] { add(0); }));  // a repeat
        CHECK(tasks.stats().pending == 1);
        clock.advance(tasks, std::chrono::hours(25));
        CHECK(!errc_of([&] { add(count); }));
    }

    TEST_CASE("a refusal for want of memory says what takes it and what to do") {
        Options options;
        options.max_memory = 4 * mebibyte;
        Scheduler tasks(options);
        fill(tasks, 100'000);
        const std::string message = '"' + std::string(100'000, 'x') + '"';
        const std::string reason =
            reason_of([&] { tasks.schedule(std::chrono::hours(1), message); });
        CAPTURE(reason);
        CHECK(reason.find("pending tasks take 1") != std::string::npos);
        CHECK(reason.find("past ones 0, idempotency keys 0 and dead letters 0; cancel") !=
              std::string::npos);
    }

    TEST_CASE("a journal that takes more memory than the limit opens, and the log says so") {
        const support::TempDir dir;
        Options options;
        options.journal = dir.journal();
        {
            Scheduler tasks(options);
            for (int i = 0; i < 50; ++i) {
                tasks.schedule(std::chrono::hours(1), '"' + std::string(50'000, 'x') + '"');
            }
        }
        Heard heard;
        options.max_memory = 4 * mebibyte;
        options.log = heard.log();
        Scheduler tasks(options);
        CHECK(heard.await("memory.over_limit"));
        CHECK(tasks.stats().pending == 50);
        CHECK(fill(tasks, 1) == 0);
        tasks.stop();
        const std::vector<LogRecord> told = heard.all();
        CHECK(std::count_if(told.begin(), told.end(), [](const LogRecord& record) {
                  return record.event == "memory.over_limit";
              }) == 1);
    }

    TEST_CASE("past events leave room for tasks, however large they are") {
        TestClock clock;
        Options options;
        options.now = clock.source();
        options.max_memory = 4 * mebibyte;
        Scheduler tasks(options);
        const std::string message = '"' + std::string(50'000, 'x') + '"';
        for (std::uint64_t i = 0; i < 100; ++i) {
            tasks.schedule(milliseconds(0), message);
            REQUIRE(tasks.wait_for(Cursor(i), support::long_enough));
            clock.advance(tasks, options.min_retention / 4);
        }
        CHECK(tasks.stats().retained > 4);
        CHECK(tasks.stats().retained * 50'000 <= tasks.options().max_bytes / 2);
        CHECK(fill(tasks, 50'000) > 8);
    }

    TEST_CASE("dead letters leave room for tasks, and the oldest go first") {
        TestClock clock;
        Options options;
        options.now = clock.source();
        options.max_memory = 4 * mebibyte;
        Scheduler tasks(options);
        SinkOptions one;
        one.name = "broken";
        one.sink = make_sink([](const Event&) { throw std::runtime_error("it is broken"); });
        one.retry.clear();
        Sinks sinks(tasks, {one});
        const std::string message = '"' + std::string(50'000, 'x') + '"';
        for (std::uint64_t i = 0; i < 60; ++i) {
            tasks.schedule(milliseconds(0), message);
            REQUIRE(support::eventually([&] {
                clock.advance(tasks, options.min_retention / 4);
                return tasks.sinks().front().dead + tasks.sinks().front().dropped == i + 1;
            }));
        }
        clock.advance(tasks, options.min_retention);
        const SinkStatus broken = tasks.sinks().front();
        CHECK(broken.dropped > 20);
        CHECK(broken.dead >= 2);
        CHECK(broken.dead * 50'000 <= tasks.options().max_bytes / 4);
    }
}

}  // namespace limits_test
