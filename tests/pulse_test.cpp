// SPDX-License-Identifier: MIT
#include "support.hpp"

namespace pulse_test {

using namespace scheduler;
using support::eventually;
using support::TempDir;
using support::TestClock;

namespace {

// Something that does not return until it is let go.
class Hang {
public:
    ~Hang() { let_go(); }
    void hang() {
        std::unique_lock<std::mutex> lock(mutex_);
        if (!is_on_) return;
        hangs_ = true;
        changed_.notify_all();
        changed_.wait(lock, [this] { return !is_on_; });
        hangs_ = false;
    }
    void begin() {
        const std::lock_guard<std::mutex> guard(mutex_);
        is_on_ = true;
    }
    bool is_met() {
        std::unique_lock<std::mutex> lock(mutex_);
        return changed_.wait_for(lock, support::long_enough, [this] { return hangs_; });
    }
    void let_go() {
        const std::lock_guard<std::mutex> guard(mutex_);
        is_on_ = false;
        changed_.notify_all();
    }

private:
    std::mutex mutex_;
    std::condition_variable changed_;
    bool is_on_ = false;  // guarded by mutex_
    bool hangs_ = false;  // guarded by mutex_
};

// A disk that stops in the middle of a write.
class HangingFiles : public FileOps {
public:
    ssize_t pwrite(int fd, const void* data, std::size_t size, off_t at) override {
        hang.hang();
        return FileOps::pwrite(fd, data, size, at);
    }
    Hang hang;
};

// Whether the thread that is asked turns, whatever it did before it was first asked.
template <class Of>
bool goes_on(Of& of) {
    of.check_pulse();
    return eventually([&] { return of.check_pulse(); });
}

// Whether it does not, however often it is asked and although it is given time.
template <class Of>
bool stands_still(Of& of) {
    of.check_pulse();
    for (int i = 0; i < 20; ++i) {
        if (of.check_pulse()) return false;
        std::this_thread::sleep_for(milliseconds(1));
    }
    return true;
}

}  // namespace

TEST_SUITE("pulse") {
    TEST_CASE(
        "a scheduler has a pulse while there is nothing to do, and under the caller's drive") {
        Scheduler tasks;
        CHECK(tasks.check_pulse());
        CHECK(goes_on(tasks));
        tasks.schedule(std::chrono::hours(1), "\"later\"");
        CHECK(goes_on(tasks));
        Options options;
        options.drive = Drive::caller;
        Scheduler driven(options);
        CHECK(driven.check_pulse());
        CHECK(driven.check_pulse());
    }

    TEST_CASE("a pause with tasks that are due is no reason to lose it") {
        Scheduler tasks;
        tasks.pause("for a while");
        tasks.schedule(milliseconds(0), "\"held\"");
        CHECK(goes_on(tasks));
        CHECK(goes_on(tasks));
        CHECK(tasks.stats().pending == 1);
    }

    TEST_CASE("a clock that is not trusted is no reason to lose it") {
        const TempDir dir;
        TestClock clock;
        Options options;
        options.journal = dir.journal();
        options.now = clock.source();
        { Scheduler(options).schedule(milliseconds(0), "\"first\""); }
        clock.advance(-std::chrono::hours(1));
        Scheduler tasks(options);
        REQUIRE_FALSE(tasks.stats().clock_trusted);
        CHECK(goes_on(tasks));
        CHECK(goes_on(tasks));
    }

    TEST_CASE("a backlog in progress is no reason to lose it") {
        Scheduler tasks;
        tasks.pause();
        constexpr std::size_t count = 50'000;
        const std::vector<NewTask> some(1'000, {tasks.now(), "\"overdue\""});
        for (std::size_t i = 0; i < count; i += some.size()) tasks.submit(some).wait();
        tasks.resume();
        do {
            CHECK(goes_on(tasks));
        } while (tasks.stats().emitted < count);
    }

    TEST_CASE("whoever holds up the thread that emits takes its pulse, until it goes on") {
        Scheduler tasks;
        Hang hang;
        const std::size_t handle =
            tasks.add_companion({[&hang] { hang.hang(); }, nullptr, nullptr});
        hang.begin();
        tasks.schedule(milliseconds(0), "\"x\"");
        REQUIRE(hang.is_met());
        CHECK(stands_still(tasks));
        hang.let_go();
        CHECK(goes_on(tasks));
        tasks.remove_companion(handle);
    }

    TEST_CASE("a disk that takes nothing holds up what is due, and takes the pulse") {
        const TempDir dir;
        const auto files = std::make_shared<HangingFiles>();
        TestClock clock;
        Options options;
        options.journal = dir.journal();
        options.files = files;
        options.now = clock.source();
        Scheduler tasks(options);
        tasks.schedule(std::chrono::hours(1), "\"x\"");
        files->hang.begin();
        clock.advance(std::chrono::hours(1));
        tasks.clock_changed();
        REQUIRE(files->hang.is_met());
        CHECK(stands_still(tasks));
        files->hang.let_go();
        CHECK(goes_on(tasks));
    }

    TEST_CASE("a callback that hangs holds up no emission, and does not take it") {
        Scheduler tasks;
        Hang hang;
        hang.begin();
        tasks.on_event([&hang](const Event&) { hang.hang(); });
        tasks.schedule(milliseconds(0), "\"x\"");
        REQUIRE(hang.is_met());
        CHECK(goes_on(tasks));
        hang.let_go();
        tasks.stop();
    }

    TEST_CASE("a server has a pulse while its loop turns") {
        Hang hang;
        Options options;
        options.now = [&hang] {
            hang.hang();
            return wall_clock();
        };
        Scheduler tasks(options);
        HttpServer server(tasks);
        const int port = server.listen("127.0.0.1", 0);
        CHECK(server.check_pulse());
        CHECK(goes_on(server));
        hang.begin();
        const detail::Descriptor client(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        sockaddr_in at{};
        at.sin_family = AF_INET;
        at.sin_port = htons(static_cast<std::uint16_t>(port));
        at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        REQUIRE(::connect(client.get(), reinterpret_cast<sockaddr*>(&at), sizeof at) == 0);
        const std::string request =
            "POST /schedule HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}";
        REQUIRE(::send(client.get(), request.data(), request.size(), MSG_NOSIGNAL) > 0);
        REQUIRE(hang.is_met());  // by the loop, or by a thread that is a moment earlier
        CHECK(eventually([&] { return stands_still(server); }));
        hang.let_go();
        CHECK(goes_on(server));
        server.stop();
    }
}

}  // namespace pulse_test
