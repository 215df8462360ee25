// SPDX-License-Identifier: MIT
//
// The server's log: sentences on standard error, which nobody has to read.

#pragma once

#include "terminal.hpp"

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>

namespace cli {

// Writes sentences to standard error on a thread of its own, so that whoever says one never
// waits: not for a pipe that nobody reads, nor for a terminal that was stopped.  What does not
// fit into the queue meanwhile is dropped, counted, and told when there is room again.
class Logger {
public:
    Logger() : thread_([queue = queue_] { run(*queue); }) {}
    // Waits for what is still to be written, for a second at most.  A thread that cannot go on
    // is left behind and ends with the process.
    ~Logger();
    Logger(const Logger&) = delete;
    Logger& operator=(const Logger&) = delete;

    // Any thread may call this.  It does not throw.
    void say(const std::string& sentence) noexcept;

private:
    static constexpr std::size_t most = 1'000;  // lines

    // Shared with the thread, which may outlive the logger.
    struct Queue {
        std::mutex mutex;
        std::condition_variable changed;
        std::deque<std::string> lines;  // guarded by mutex
        std::size_t dropped = 0;        // guarded by mutex: of those said after the lines
        bool closed = false;            // guarded by mutex
        bool done = false;              // guarded by mutex: the thread has ended
    };

    static void run(Queue& queue);
    static void write_next(Queue& queue, std::unique_lock<std::mutex>& lock);
    static void write(std::string_view text);

    const std::shared_ptr<Queue> queue_ = std::make_shared<Queue>();
    std::thread thread_;  // last: starts when all the above exists
};

inline Logger::~Logger() {
    std::unique_lock<std::mutex> lock(queue_->mutex);
    queue_->closed = true;
    queue_->changed.notify_all();
    if (queue_->changed.wait_for(lock, std::chrono::seconds(1), [this] { return queue_->done; })) {
        lock.unlock();
        thread_.join();
    } else {
        thread_.detach();
    }
}

inline void Logger::say(const std::string& sentence) noexcept {
    const std::lock_guard<std::mutex> guard(queue_->mutex);
    try {
        if (queue_->lines.size() < most && queue_->dropped == 0) {
            queue_->lines.push_back("task-scheduler: " + visible(sentence) + '\n');
        } else {
            ++queue_->dropped;
        }
    } catch (const std::exception&) {  // there is no memory for it
        ++queue_->dropped;
    }
    queue_->changed.notify_all();
}

inline void Logger::run(Queue& queue) {
    std::unique_lock<std::mutex> lock(queue.mutex);
    for (;;) {
        queue.changed.wait(
            lock, [&queue] { return queue.closed || !queue.lines.empty() || queue.dropped > 0; });
        if (queue.lines.empty() && queue.dropped == 0) break;
        write_next(queue, lock);
    }
    queue.done = true;
    queue.changed.notify_all();
}

// The first line, or how many were dropped behind the last.
inline void Logger::write_next(Queue& queue, std::unique_lock<std::mutex>& lock) {
    if (!queue.lines.empty()) {
        const std::string line = std::move(queue.lines.front());
        queue.lines.pop_front();
        lock.unlock();
        write(line);
    } else {
        char line[96];
        const int size =
            std::snprintf(line, sizeof line,
                          "task-scheduler: %zu lines of this log were dropped, as nobody read it\n",
                          std::exchange(queue.dropped, 0));
        lock.unlock();
        write({line, static_cast<std::size_t>(size)});
    }
    lock.lock();
}

// Not by stdio, whose lock would be held for as long as the write takes.
inline void Logger::write(std::string_view text) {
    while (!text.empty()) {
        const ssize_t n = ::write(STDERR_FILENO, text.data(), text.size());
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return;  // there is nobody to tell
        text.remove_prefix(static_cast<std::size_t>(n));
    }
}

}  // namespace cli
