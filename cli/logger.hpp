// SPDX-License-Identifier: MIT
//
// The server's log: a line for each record on standard error, which nobody has to read.

#pragma once

#include "log_format.hpp"

#include <atomic>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>

namespace cli {

// Writes lines to standard error on a thread of its own, so that whoever says one never
// waits: not for a pipe that nobody reads, nor for a terminal that was stopped.  What does not
// fit into the queue meanwhile is dropped, counted, and told when there is room again.
class Logger {
public:
    explicit Logger(scheduler::LogLevel least, LogFormat format)
        : queue_(std::make_shared<Queue>()), thread_([queue = queue_] { run(*queue); }) {
        set(least, format);
    }
    // Waits for what is still to be written, for a second at most.  A thread that cannot go on
    // is left behind and ends with the process.
    ~Logger();
    Logger(const Logger&) = delete;
    Logger& operator=(const Logger&) = delete;

    // Any thread may call these.  They do not throw.
    void say(const scheduler::LogRecord& record) noexcept;
    void set(scheduler::LogLevel least, LogFormat format) noexcept {
        queue_->least = least;
        queue_->format = format;
    }

private:
    static constexpr std::size_t most = 1'000;  // lines

    // Shared with the thread, which may outlive the logger.
    struct Queue {
        std::string line_of(const scheduler::LogRecord& record) const;

        std::atomic<scheduler::LogLevel> least{scheduler::LogLevel::info};
        std::atomic<LogFormat> format{LogFormat::text};
        const bool is_for_journald = is_read_by_journald();
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

    const std::shared_ptr<Queue> queue_;
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

inline std::string Logger::Queue::line_of(const scheduler::LogRecord& record) const {
    if (is_for_journald) {
        return concat(
            {priority_prefix(record.level), log_line(record, format, std::nullopt), "\n"});
    }
    return log_line(record, format, scheduler::wall_clock()) + '\n';
}

inline void Logger::say(const scheduler::LogRecord& record) noexcept {
    if (record.level < queue_->least) return;
    const std::lock_guard<std::mutex> guard(queue_->mutex);
    try {
        if (queue_->lines.size() < most && queue_->dropped == 0) {
            queue_->lines.push_back(queue_->line_of(record));
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
        const std::string number = std::to_string(std::exchange(queue.dropped, 0));
        lock.unlock();
        try {
            write(queue.line_of({scheduler::LogLevel::warning,
                                 "log.dropped",
                                 number + " lines of this log were dropped, as nobody read it",
                                 {{"lines", number, true}}}));
        } catch (const std::bad_alloc&) {
            write("task-scheduler: lines of this log were dropped\n");
        }
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
