// SPDX-License-Identifier: MIT
//
// What a task has beside its time and message: topic, lateness, and the trace it came with.
#include "support.hpp"

namespace details_test {

using namespace scheduler;
using support::at;
using support::errc_of;
using support::TempDir;
using support::TestClock;

namespace {

const TimePoint noon = at("2026-03-01T12:00:00Z");
const char* const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

TaskRequest request(const std::string& members) {
    return TaskRequest::parse(R"({"delay":60,"message":"x")" + members + '}', noon);
}

void check_details(const Task& task) {
    CHECK(task.topic() == "garden/roses");
    CHECK(task.max_lateness() == std::chrono::seconds(90));
    CHECK(task.traceparent() == parent);
    CHECK(task.tracestate() == R"(rojo=1,congo="t\61")");
    CHECK(task.name().empty());
}

}  // namespace

TEST_SUITE("details") {
    TEST_CASE("a topic is read from the body, and what is none is just a member of it") {
        CHECK(request(R"(,"topic":"a/b.c_d~e-F9")").topic == "a/b.c_d~e-F9");
        CHECK(request(R"(,"topic":"\u0061")").topic == "a");
        CHECK(request(R"(,"topic":")" + std::string(128, 't') + '"').topic.size() == 128);
        for (const std::string other : {R"("")", R"("a b")", R"("a*")", R"("\u0000")", R"("ü")",
                                        R"("a%2Fb")", "7", "null", R"({"a":1})"}) {
            CAPTURE(other);
            const TaskRequest none = request(",\"topic\":" + other);
            CHECK(none.errors.empty());
            CHECK(none.topic.empty());
            CHECK(none.payload.find("\"topic\":" + other) != std::string::npos);
        }
        CHECK(request(R"(,"topic":")" + std::string(129, 't') + '"').topic.empty());
        CHECK(request(R"(,"topic":"a","topic":7)").errors ==
              std::vector<std::string>{R"("topic" is given more than once.)"});
    }

    TEST_CASE("max_lateness is a number of seconds or a duration, from a second to a year") {
        CHECK(request(R"(,"max_lateness":1)").max_lateness == std::chrono::seconds(1));
        CHECK(request(R"(,"max_lateness":1.5)").max_lateness == milliseconds(1'500));
        CHECK(request(R"(,"max_lateness":"1h30m")").max_lateness == std::chrono::minutes(90));
        CHECK(request(R"(,"max_lateness":"366d")").max_lateness == std::chrono::hours(24 * 366));
        CHECK_FALSE(request("").max_lateness);
        for (const std::string other :
             {"0", "-1", "0.999", "1e300", "99999999999", "null", "true", "[]", R"("")", R"("1")",
              R"("999ms")", R"("367d")", R"("-5s")"}) {
            CAPTURE(other);
            const TaskRequest wrong = request(",\"max_lateness\":" + other);
            REQUIRE(wrong.errors.size() == 1);
            CHECK(wrong.errors.front() ==
                  "\"max_lateness\" must be a number of seconds or a duration such as \"90s\", "
                  "from 1 second to 366 days.");
        }
        CHECK(request(R"(,"max_lateness":1,"max_lateness":1)").errors ==
              std::vector<std::string>{R"("max_lateness" is given more than once.)"});
    }

    TEST_CASE("a trace is kept as it came, and a malformed one is ignored") {
        const std::string valid = parent;
        const std::string ids = valid.substr(2, 51);
        CHECK(detail::is_traceparent(valid));
        CHECK(detail::is_traceparent("cc" + ids + "01-what-comes-next"));
        for (const std::string& other :
             {std::string(), "ff" + ids + "01", valid + "-more", "cc" + ids + "01.more",
              "00" + ids + "0", "00" + ids + "0X", "00" + ids + "0A",
              "00-" + std::string(32, '0') + "-b7ad6b7169203331-01",
              "00-0af7651916cd43dd8448eb211c80319c-" + std::string(16, '0') + "-01",
              "cc" + ids + "01-\n", "cc" + ids + "01-" + std::string(100, 'a')}) {
            CAPTURE(other);
            CHECK_FALSE(detail::is_traceparent(other));
        }
        for (const char* state : {"a=b", "a=b,,c=d ", "a@b=1 2", "0-_*/=~", R"(a="x")"}) {
            CAPTURE(state);
            CHECK(detail::is_tracestate(state));
        }
        for (const std::string& state :
             {std::string(), std::string(","), std::string("a"), std::string("a="),
              std::string("A=1"), std::string("=1"), std::string("a=b=c"), std::string("a=ü"),
              "a=" + std::string(257, 'x'), std::string("a=1,b"), std::string(512, 'a') + "=1"}) {
            CAPTURE(state);
            CHECK_FALSE(detail::is_tracestate(state));
        }
    }

    TEST_CASE("a task keeps its details through a change, an emission and restarts") {
        TempDir dir;
        TestClock clock;
        Options options;
        options.now = clock.source();
        options.journal = dir.journal();
        TaskId id;
        for (int round = 0; round < 4; ++round) {
            CAPTURE(round);
            Scheduler tasks(options);
            if (round == 0) {
                TaskRequest one = TaskRequest::parse(
                    R"({"delay":3600,"message":"x","topic":"garden/roses","max_lateness":"90s"})",
                    clock.now());
                one.set_trace(parent, R"(rojo=1,congo="t\61")");
                Ticket ticket = tasks.submit(std::vector<TaskRequest>{one});
                id = ticket.ids().front();
                ticket.wait();
            }
            check_details(*tasks.find(id));
            if (round == 1) tasks.change(id, {std::nullopt, R"("another")"});
            if (round == 2) {
                clock.advance(tasks, std::chrono::hours(1));
                REQUIRE(tasks.wait_for(scheduler::Cursor(0), support::long_enough));
                const Event event = support::events_from(tasks, 0).events.front();
                CHECK(event.topic() == "garden/roses");
                CHECK(event.traceparent() == parent);
                CHECK(event.text().find("another") != std::string_view::npos);
            }
            check_details(*tasks.find(id));
            CHECK(tasks.stats().bytes > tasks.find(id)->text().size() + 12 + 55);
        }
    }

    TEST_CASE("what C++ says of a task goes into its payload, as in a request") {
        TestClock clock;
        Options options;
        options.now = clock.source();
        Scheduler tasks(options);
        const TimePoint due = clock.now() + std::chrono::hours(1);
        Ticket ticket = tasks.submit({NewTask{due, "[1]", "garden", std::chrono::seconds(2)}});
        ticket.wait();
        const Task task = *tasks.find(ticket.ids().front());
        CHECK(task.topic() == "garden");
        CHECK(task.max_lateness() == std::chrono::seconds(2));
        CHECK(task.text() == "{\"timestamp\":\"" + format_time(due) +
                                 R"(","message":[1],"topic":"garden","max_lateness":"2000ms"})");
        CHECK(errc_of([&] {
                  (void)tasks.submit({NewTask{due, "[1]", "a b"}});
              }) == Errc::invalid_argument);
        CHECK(errc_of([&] {
                  (void)tasks.submit({NewTask{due, "[1]", "", milliseconds(999)}});
              }) == Errc::invalid_argument);
    }
}

}  // namespace details_test
