// SPDX-License-Identifier: MIT
#include "support.hpp"

#ifdef __linux__
#include <linux/capability.h>
#endif

namespace log_test {

using namespace scheduler;
using support::eventually;
using support::Heard;
using support::TempDir;
using support::TestClock;

namespace {

std::string value_of(const LogRecord& record, const std::string& name) {
    for (const LogRecord::Field& field : record.fields) {
        if (field.name == name) return field.value;
    }
    return "";
}

}  // namespace

TEST_SUITE("log") {
    TEST_CASE("a pause is told again after a restart in the letters that its reason was given in") {
        TempDir dir;
        Heard heard;
        Options options;
        options.journal = dir.journal();
        Scheduler(options).pause("das Ventil klemmt — schließen");
        options.log = heard.log();
        const Scheduler again(options);
        const auto paused = heard.await("scheduler.paused");
        REQUIRE(paused);
        CHECK(paused->text.find(": das Ventil klemmt — schließen") != std::string::npos);
    }

    TEST_CASE("what others have said is shown as far as it is text, and not cut in a character") {
        CHECK(detail::printable("schließen €", 64) == "schließen €");
        CHECK(detail::printable("€€", 5) == "€");
        CHECK(detail::printable("a\tb\x7F\xFF\xC2\x9B\xED\xA0\x80", 64) == "a?b??????");
    }

    TEST_CASE("a record has a level, an event, a sentence, and the fields that are in it") {
        Heard heard;
        Options options;
        options.log = heard.log();
        Scheduler tasks(options);
        tasks.pause("the valve is stuck");
        tasks.resume();
        const auto paused = heard.await("scheduler.paused");
        REQUIRE(paused);
        CHECK(paused->level == LogLevel::warning);
        CHECK(paused->text == "paused: nothing is emitted until resumed: the valve is stuck");
        CHECK(value_of(*paused, "reason") == "the valve is stuck");
        const auto resumed = heard.await("scheduler.resumed");
        REQUIRE(resumed);
        CHECK(resumed->level == LogLevel::info);
    }

    TEST_CASE("numbers among the fields are marked as such") {
        const LogRecord record =
            detail::make_record(LogLevel::info, "some.event", detail::named("count", 12U), " of ",
                                detail::named("name", std::string("12")));
        CHECK(record.text == "12 of 12");
        REQUIRE(record.fields.size() == 2);
        CHECK(record.fields[0].is_number);
        CHECK_FALSE(record.fields[1].is_number);
    }

    TEST_CASE("as one line a record cannot control a terminal") {
        CHECK(to_line({LogLevel::warning, "some.event", "a\nb\x1b[2Jc", {}}) ==
              "warning some.event: a?b?[2Jc");
    }

    TEST_CASE("records below the level are not made, and the level changes while it runs") {
        Heard heard;
        Options options;
        options.log = heard.log();
        options.log_level = LogLevel::error;
        Scheduler tasks(options);
        CHECK_FALSE(tasks.logs(LogLevel::warning));
        tasks.pause("why");
        CHECK(heard.all().empty());
        tasks.set_log_level(LogLevel::debug);
        CHECK(tasks.logs(LogLevel::debug));
        tasks.resume();
        CHECK(heard.await("scheduler.resumed"));
        CHECK(heard.all().size() == 1);
        tasks.log({LogLevel::debug, "mine", "something of the program's own", {}});
        CHECK(heard.await("mine"));
    }

    TEST_CASE("nobody who listens wants nothing") {
        Options options;
        options.log_level = LogLevel::debug;
        const Scheduler tasks(options);
        CHECK_FALSE(tasks.logs(LogLevel::error));
    }

    TEST_CASE("what a log throws ends nothing") {
        Options options;
        options.log = [](const LogRecord&) { throw std::runtime_error("no log"); };
        Scheduler tasks(options);
        tasks.pause("why");
        tasks.resume();
        tasks.log({LogLevel::error, "mine", "x", {}});
        tasks.schedule(milliseconds(0), "{}");
        CHECK(tasks.wait_for(Cursor(0), support::long_enough));
    }

    TEST_CASE("a replacement of the journal is told with its sizes") {
        const TempDir dir;
        Heard heard;
        Options options;
        options.journal = dir.journal();
        options.rewrite_min_bytes = 4'096;
        options.log = heard.log();
        options.history = 1;
        options.min_retention = milliseconds(0);
        Scheduler tasks(options);
        REQUIRE(eventually([&] {
            for (int i = 0; i < 20; ++i) {
                tasks.cancel(
                    tasks.schedule(std::chrono::hours(1), '"' + std::string(200, 'x') + '"'));
            }
            return heard.find("journal.replaced").has_value();
        }));
        const LogRecord record = *heard.find("journal.replaced");
        CHECK(record.level == LogLevel::info);
        CHECK(std::stoull(value_of(record, "before")) > std::stoull(value_of(record, "after")));
    }

    TEST_CASE("a clock that is set back is told once") {
        TestClock clock;
        Heard heard;
        Options options;
        options.now = clock.source();
        options.log = heard.log();
        options.drive = Drive::caller;
        Scheduler tasks(options);
        clock.advance(-std::chrono::hours(1));
        for (int i = 0; i < 2; ++i) {
            tasks.schedule(milliseconds(0), "{}");
            tasks.run_due();
        }
        tasks.stop();
        const auto record = heard.find("clock.stepped");
        REQUIRE(record);
        CHECK(record->text == "the clock was set back by 3600000 ms");
        CHECK(heard.all().size() == 1);
    }

    TEST_CASE("a sink tells of each failure, and once when it delivers again") {
        Heard heard;
        Options options;
        options.log = heard.log();
        Scheduler tasks(options);
        std::atomic<int> left{2};
        SinkOptions sink;
        sink.name = "billing";
        sink.retry = {milliseconds(1), milliseconds(1)};
        sink.sink = make_sink([&left](const Event&) {
            if (left-- > 0) throw std::runtime_error("not yet");
        });
        Sinks sinks(tasks, {sink});
        tasks.schedule(milliseconds(0), R"({"a":"payload"})");
        tasks.schedule(milliseconds(0), R"({"a":"payload"})");
        REQUIRE(eventually([&] { return tasks.sinks().at(0).delivered == 2; }));
        sinks.stop();
        tasks.stop();  // after that all is told
        const std::vector<LogRecord> records = heard.all();
        CHECK(records.size() == 3);
        for (const LogRecord& record : records) {
            CHECK(record.text.find("payload") == std::string::npos);
            if (record.event == "sink.recovered") {
                CHECK(record.text == "sink billing: delivers again after 2 failed attempts");
                continue;
            }
            CHECK(record.event == "sink.attempt_failed");
            CHECK(record.level == LogLevel::warning);
            CHECK(value_of(record, "sink") == "billing");
            CHECK(value_of(record, "error") == "not yet");
        }
        CHECK(heard.find("sink.recovered"));
    }

#ifdef __linux__
    TEST_CASE("a machine that cannot be woken is told once, and tasks are emitted on time") {
        Heard heard;
        Options options;
        options.log = heard.log();
        options.wake_device = true;
        std::thread without_rights([&] {
            __user_cap_header_struct self{_LINUX_CAPABILITY_VERSION_3, 0};  // of this thread alone
            std::array<__user_cap_data_struct, 2> none{};
            REQUIRE(::syscall(SYS_capset, &self, none.data()) == 0);
            Scheduler tasks(options);
            tasks.schedule(milliseconds(10), "{}");
            CHECK(tasks.drain());
            CHECK(tasks.stats().emitted == 1);
        });
        without_rights.join();
        const auto record = heard.find("device.not_woken");
        REQUIRE(record);
        CHECK(record->level == LogLevel::warning);
        CHECK(record->text ==
              "a task that is due will not wake a suspended machine: the right CAP_WAKE_ALARM is "
              "missing");
        CHECK(heard.all().size() == 1);
    }

    TEST_CASE("what a command writes is told with the name of its sink") {
        Heard heard;
        command_log(heard.log(), "valve")("opened");
        const LogRecord record = heard.all().at(0);
        CHECK(record.event == "command.output");
        CHECK(record.text == "sink valve: opened");
        CHECK(value_of(record, "sink") == "valve");
    }
#endif
}

}  // namespace log_test
