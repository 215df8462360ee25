// Simulates a day in no time: the clock stands still until one moves it.
#include <scheduler.hpp>

#include <cstdio>

int main() {
    using namespace std::chrono_literals;
    scheduler::ManualClock clock(scheduler::parse_time("2026-12-24T06:00:00Z").value());
    scheduler::Options options;
    options.drive = scheduler::Drive::caller;
    options.now = clock.source();
    scheduler::Scheduler tasks(options);
    tasks.on_event([](const scheduler::Event& event) { std::puts(event.payload.c_str()); });
    tasks.schedule(2h, R"("breakfast")");
    tasks.schedule(12h, R"("presents")");
    while (const auto wake = tasks.next_wake()) {
        clock.set(*wake);
        std::printf("%s: ", scheduler::format_time(*wake).c_str());
        tasks.run_due();
    }
}
