// Runs the scheduler in one's own epoll loop: it has no thread, and the loop waits for as long
// as there is nothing to do.
#include <scheduler.hpp>

#include <sys/epoll.h>

#include <cstdio>

int main() {
    using namespace std::chrono_literals;
    scheduler::Options options;
    options.drive = scheduler::Drive::caller;
    scheduler::Scheduler tasks(options);
    tasks.on_event([](const scheduler::Event& event) { std::puts(event.payload.c_str()); });
    tasks.schedule(100ms, R"({"led": "on"})");

    const int epoll = epoll_create1(EPOLL_CLOEXEC);  // to which one adds sockets, buttons and so on
    while (const auto wake = tasks.next_wake()) {
        const auto left = std::clamp<std::chrono::milliseconds>(*wake - tasks.now(), 0ms, 24h);
        epoll_event event{};
        epoll_wait(epoll, &event, 1, static_cast<int>(left.count()));
        tasks.run_due();
    }
    close(epoll);
}
