// Names a task, so that there is one of them however often it is put: a dead man's switch.
#include <scheduler.hpp>

#include <cstdio>

int main() {
    using namespace std::chrono_literals;
    scheduler::Scheduler tasks;
    tasks.on_event([](const scheduler::Event& event) {
        std::printf("%s: %s\n", std::string(event.name()).c_str(), event.payload.c_str());
    });
    for (int sign_of_life = 1; sign_of_life <= 3; ++sign_of_life) {
        const auto put = tasks.put("alarm", {tasks.now() + 100ms, R"("no sign of life")"});
        std::puts(put.created ? "made" : "moved");
    }
    std::printf("%zu is pending\n", tasks.stats().pending);
    tasks.drain();
}
