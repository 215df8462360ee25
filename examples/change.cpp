// Changes a task that is pending, and cancels another one.
#include <scheduler.hpp>

#include <cstdio>

int main() {
    using namespace std::chrono_literals;
    scheduler::Scheduler tasks;
    tasks.on_event([](const scheduler::Event& event) { std::puts(event.payload.c_str()); });

    const scheduler::TaskId tea = tasks.schedule(1h, R"({"drink": "tea"})");
    const scheduler::TaskId cake = tasks.schedule(1h, R"({"eat": "cake"})");
    std::puts(tasks.cancel(cake) ? "cancelled" : "there is no such task");
    tasks.change(tea, {tasks.now(), R"({"drink": "coffee"})"});  // at once, and something else
    tasks.drain();
    try {
        tasks.cancel(tea);
    } catch (const scheduler::Error& error) {
        std::puts(error.what());  // too late
    }
}
