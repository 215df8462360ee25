// Schedules one message in memory and prints it when it is due.
#include <scheduler.hpp>

#include <cstdio>

int main() {
    scheduler::Scheduler tasks;
    tasks.on_event([](const scheduler::Event& event) { std::puts(event.payload.c_str()); });
    tasks.schedule(std::chrono::milliseconds(100), R"({"name": "Luke", "title": "Jedi"})");
    tasks.drain();  // until nothing is pending
}
