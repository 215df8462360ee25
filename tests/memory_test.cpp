// SPDX-License-Identifier: MIT
//
// Whichever allocation fails, the process lives, and what it has answered holds.
// It is a program of its own, because it replaces operator new.
// GCC does not see that both halves are replaced.
#pragma GCC diagnostic ignored "-Wpragmas"
#pragma GCC diagnostic ignored "-Wunknown-warning-option"
#pragma GCC diagnostic ignored "-Wmismatched-new-delete"

#include "support.hpp"

#include <malloc.h>

#include <new>

using namespace scheduler;
using support::TempDir;

namespace {

// The allocation that fails: counted down by every thread; negative: none does.
std::atomic<long> fails_in{-1};

// Bytes that are allocated and not freed.
std::atomic<std::int64_t> held{0};

void* counted(void* memory) {
    held += static_cast<std::int64_t>(::malloc_usable_size(memory));
    return memory;
}

struct Armed {
    explicit Armed(long number) { fails_in = number; }
    ~Armed() { fails_in = -1; }
};

}  // namespace

void* operator new(std::size_t size) {
    if (fails_in.load(std::memory_order_relaxed) >= 0 && fails_in-- == 0) throw std::bad_alloc();
    if (void* memory = std::malloc(size == 0 ? 1 : size)) return counted(memory);
    throw std::bad_alloc();
}
void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
    void* memory = std::malloc(size == 0 ? 1 : size);
    return memory ? counted(memory) : nullptr;
}
void operator delete(void* memory) noexcept {
    held -= static_cast<std::int64_t>(::malloc_usable_size(memory));
    std::free(memory);
}
void operator delete(void* memory, std::size_t) noexcept {
    held -= static_cast<std::int64_t>(::malloc_usable_size(memory));
    std::free(memory);
}
void operator delete(void* memory, const std::nothrow_t&) noexcept {
    held -= static_cast<std::int64_t>(::malloc_usable_size(memory));
    std::free(memory);
}

namespace {

Options options_for(const TempDir& dir) {
    Options options;
    options.journal = dir.journal();
    options.fsync = Fsync::no;
    options.rewrite_min_bytes = 2'000;
    return options;
}

// One request and the status of its answer over a bare socket, without an allocation
// here.  0: the connection was closed; -1: nothing comes.
int ask(int port, const char* request) {
    const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<std::uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const timeval limit{10, 0};
    ::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    char answer[4'096] = {};
    ssize_t n = 0;
    if (::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0 &&
        ::send(fd, request, std::strlen(request), MSG_NOSIGNAL) > 0) {
        n = ::recv(fd, answer, sizeof answer - 1, 0);
    }
    const bool hangs = n < 0 && errno == EAGAIN;
    ::close(fd);
    return hangs ? -1 : n > 12 ? std::atoi(answer + 9) : 0;
}

}  // namespace

TEST_SUITE("memory") {
    TEST_CASE("whichever allocation fails, what was answered is kept and the rest is refused") {
        for (long number = 0; number < 2'000; ++number) {
            CAPTURE(number);
            const TempDir dir;
            const Options options = options_for(dir);
            std::array<TaskId, 40> stored{};
            std::size_t count = 0;
            std::size_t refused = 0;
            std::optional<TaskId> cancelled;
            {
                const Armed armed(number);
                try {
                    Scheduler tasks(options);
                    for (int i = 0; i < 40; ++i) {
                        try {
                            const auto delay = milliseconds(i % 4 == 0 ? 0 : 3'600'000);
                            stored[count] = tasks.schedule(delay, "\"some message\"");
                            ++count;
                        } catch (const std::exception&) {
                            ++refused;
                        }
                    }
                    try {
                        if (count > 1 && tasks.cancel(stored[count - 1]))
                            cancelled = stored[--count];
                    } catch (const std::exception&) {  // then it stands
                    }
                } catch (const std::exception&) {  // it did not open
                }
            }
            Scheduler again(options);
            for (std::size_t i = 0; i < count; ++i) REQUIRE(again.find(stored[i]));
            if (cancelled) REQUIRE_FALSE(again.find(*cancelled));
            const Stats stats = again.stats();
            REQUIRE(stats.pending + stats.retained == count);
            REQUIRE(stats.damaged_lines == 0);
        }
    }

    TEST_CASE("whichever allocation fails while a long journal is read, opening it throws") {
        const TempDir dir;
        const Options options = options_for(dir);
        constexpr std::size_t count = 6;
        {
            Scheduler tasks(options);
            for (std::size_t i = 0; i < count; ++i) {  // read in several parts, on several threads
                tasks.schedule(milliseconds(3'600'000), '"' + std::string(400'000, 'x') + '"');
            }
        }
        std::size_t failed = 0;
        int good = 0;  // openings in a row that nothing failed
        for (long number = 0; good < 10; ++number) {
            CAPTURE(number);
            const Armed armed(number);
            try {
                const Scheduler tasks(options);
                fails_in = -1;
                REQUIRE(tasks.stats().pending == count);
                ++good;
            } catch (const std::bad_alloc&) {
                ++failed;
                good = 0;
            }
        }
        CHECK(failed > 50);
    }

    TEST_CASE("whichever allocation fails, a request is answered or its connection closed") {
        Options options;
        Scheduler tasks(options);
        HttpServer server(tasks);
        const int port = server.listen("127.0.0.1", 0);
        const char* schedule =
            "POST /schedule HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            "Content-Length: 44\r\n\r\n{\"timestamp\":\"2026-01-01\",\"message\":{\"a\":1}}";
        const char* list = "GET /tasks HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        const char* stream = "GET /sse HTTP/1.1\r\nHost: localhost\r\n\r\n";
        std::size_t good = 0;
        std::size_t failed = 0;
        for (long number = 0; number < 600; ++number) {
            CAPTURE(number);
            for (const char* request : {schedule, list, stream}) {
                int status = 0;
                {
                    const Armed armed(number);
                    status = ask(port, request);
                }
                const bool well = status == 200 || status == 0 || (status >= 500 && status < 600);
                CAPTURE(status);
                CAPTURE(request);
                REQUIRE(well);
                ++(status == 200 ? good : failed);
            }
        }
        CHECK(good > 100);
        CHECK(failed > 30);
        REQUIRE(ask(port, schedule) == 200);
        CHECK(support::eventually([&] { return tasks.stats().pending == 0; }));
    }

    TEST_CASE("what idempotency keys make the scheduler hold counts against max_bytes") {
        support::ManualClock clock;
        Options options;
        options.now = clock.source();
        options.history = 0;
        options.min_retention = milliseconds(0);
        options.max_bytes = std::uint64_t{1} << 20;
        Scheduler tasks(options);
        const std::vector<TaskRequest> batch(
            2'000, TaskRequest::parse(R"({"timestamp":"2026-03-01","message":"x"})", clock.now()));
        const std::int64_t before = held;
        std::size_t stored = 0;
        const auto refusal = support::errc_of([&] {
            for (; stored < 5'000; ++stored) {
                tasks.schedule(batch, std::to_string(stored) + std::string(200, 'k'));
                REQUIRE(support::eventually([&] { return tasks.stats().pending == 0; }));
                clock.advance(tasks, milliseconds(1));
                REQUIRE(support::eventually([&] { return tasks.stats().retained == 0; }));
                if (held - before > (std::int64_t{8} << 20)) break;
            }
        });
        CHECK(refusal == Errc::task_limit);
        CHECK(stored > 500);
        CHECK(held - before < (std::int64_t{8} << 20));
    }
}
