// SPDX-License-Identifier: MIT
//
// With odr_b.cpp: a unit with HTTP and one without share their classes and make one program.
#include <scheduler.hpp>

std::size_t size_without_http();
void schedule_without_http(scheduler::Scheduler& tasks);

int main() {
    if (sizeof(scheduler::Scheduler) != size_without_http()) return 1;
    scheduler::Scheduler tasks;
    scheduler::HttpApi api(tasks);
    schedule_without_http(tasks);
    return 0;
}
