// SPDX-License-Identifier: MIT
//
// A process that is killed while it works keeps what it has answered.
#include "support.hpp"

#include <signal.h>
#include <sys/wait.h>

#include <random>

namespace crash_test {

using namespace scheduler;
using support::TempDir;

namespace {

// Schedules and cancels on two threads for ever, and tells each answer through a
// pipe: "+id" stored, "?id" about to be cancelled, "-id" cancelled.
[[noreturn]] void work(const std::string& journal, int answers) {
    Options options;
    options.journal = journal;
    options.rewrite_min_bytes = 20'000;
    Scheduler tasks(options);
    const auto tell = [answers](char what, TaskId id) {
        const std::string line = what + id.str() + '\n';
        if (::write(answers, line.data(), line.size()) < 0) ::_exit(1);
    };
    const auto client = [&](unsigned seed) {
        std::mt19937 random(seed);
        std::vector<TaskId> ids;
        for (;;) {
            const auto delay = milliseconds(random() % 3 == 0 ? random() % 20 : 3'600'000);
            ids.push_back(tasks.schedule(delay, "\"some text\""));
            tell('+', ids.back());
            if (random() % 3 != 0) continue;
            const TaskId victim = ids[random() % ids.size()];
            tell('?', victim);
            try {
                if (tasks.cancel(victim)) tell('-', victim);
            } catch (const Error&) {  // it was emitted
            }
        }
    };
    std::thread other([&] { client(1); });
    client(2);
    std::abort();  // it does not come to this
}

}  // namespace

TEST_SUITE("crash") {
    TEST_CASE("kill -9 at any moment loses no answered task and revives no cancelled one") {
        const char* rounds_text = std::getenv("SCHEDULER_TEST_ROUNDS");
        const int rounds = rounds_text ? std::atoi(rounds_text) : 15;
        std::mt19937 random(3);
        for (int round = 0; round < rounds; ++round) {
            CAPTURE(round);
            const TempDir dir;
            int answers[2];
            REQUIRE(::pipe(answers) == 0);
            const pid_t child = ::fork();
            if (child == 0) {
                ::close(answers[0]);
                work(dir.journal(), answers[1]);
            }
            ::close(answers[1]);
            std::thread killer([&] {
                std::this_thread::sleep_for(milliseconds(5 + random() % 120));
                ::kill(child, SIGKILL);
            });
            std::string text;
            char buffer[4'096];
            for (ssize_t n; (n = ::read(answers[0], buffer, sizeof buffer)) > 0;) {
                text.append(buffer, static_cast<std::size_t>(n));
            }
            ::close(answers[0]);
            killer.join();
            ::waitpid(child, nullptr, 0);

            std::map<TaskId, char> answered;
            std::istringstream lines(text);
            for (std::string line; std::getline(lines, line);) {
                const auto id = TaskId::parse(std::string_view(line).substr(1));
                if (id) answered[*id] = line[0];
            }
            Options options;
            options.journal = dir.journal();
            Scheduler tasks(options);
            for (const auto& entry : answered) {
                const TaskId id = entry.first;
                const char answer = entry.second;
                CAPTURE(id.str());
                if (answer == '+') REQUIRE(tasks.find(id));
                if (answer == '-') REQUIRE_FALSE(tasks.find(id));
            }
            CHECK(dir.names("tasks.jsonl.damaged-").empty());
        }
    }
}

}  // namespace crash_test
