// SPDX-License-Identifier: MIT
//
// What the tests share: a directory that goes away, a clock that is moved by
// hand, a file system whose calls fail on demand, and short ways to say things.

#ifndef TESTS_SUPPORT_HPP
#define TESTS_SUPPORT_HPP

#include "../scheduler.hpp"

#include <doctest/doctest.h>

#include <dirent.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <future>
#include <map>
#include <set>
#include <sstream>

namespace support {

using scheduler::milliseconds;
using scheduler::TimePoint;

inline TimePoint at(const char* text) {
    return scheduler::parse_time(text).value();
}

// A new directory, removed with all that is in it.
class TempDir {
public:
    TempDir() {
        char name[] = "/tmp/scheduler-test-XXXXXX";
        REQUIRE(::mkdtemp(name) != nullptr);
        path_ = name;
    }
    TempDir(const TempDir&) = delete;
    TempDir& operator=(const TempDir&) = delete;
    ~TempDir() {
        for (const std::string& name : names()) {
            const std::string file = path_ + '/' + name;
            if (::unlink(file.c_str()) != 0) ::rmdir(file.c_str());
        }
        ::rmdir(path_.c_str());
    }
    std::string path(const std::string& name) const { return path_ + '/' + name; }
    std::string journal() const { return path("tasks.jsonl"); }
    std::string write(const std::string& name, const std::string& text) const {
        std::ofstream(path(name), std::ios::binary) << text;
        return path(name);
    }
    std::string read(const std::string& name) const {
        std::ifstream file(path(name), std::ios::binary);
        std::ostringstream text;
        text << file.rdbuf();
        return text.str();
    }
    // The files in it whose names begin so.
    std::vector<std::string> names(const std::string& prefix = "") const {
        std::vector<std::string> found;
        DIR* directory = ::opendir(path_.c_str());
        while (const dirent* entry = ::readdir(directory)) {
            const std::string name = entry->d_name;
            if (name != "." && name != ".." && name.compare(0, prefix.size(), prefix) == 0) {
                found.push_back(name);
            }
        }
        ::closedir(directory);
        return found;
    }

private:
    std::string path_;
};

constexpr std::chrono::seconds long_enough{60};  // for what must happen, on any machine

// Waits until something that another thread does is so, for a minute at most if no more is said.
template <class Condition>
bool eventually(Condition condition, milliseconds most = long_enough) {
    const auto end = std::chrono::steady_clock::now() + most;
    while (!condition()) {
        if (std::chrono::steady_clock::now() > end) return false;
        std::this_thread::sleep_for(milliseconds(1));
    }
    return true;
}

// Keeps what a log is told, by whichever thread; that may be a moment after the call that it is
// about has returned.
class Heard {
public:
    std::function<void(const scheduler::LogRecord&)> log() {
        return [this](const scheduler::LogRecord& record) {
            const std::lock_guard<std::mutex> guard(mutex_);
            records_.push_back(record);
        };
    }
    std::vector<scheduler::LogRecord> all() {
        const std::lock_guard<std::mutex> guard(mutex_);
        return records_;
    }
    // The first record of this event, if there is one.
    std::optional<scheduler::LogRecord> find(const std::string& event) {
        for (const scheduler::LogRecord& record : all()) {
            if (record.event == event) return record;
        }
        return std::nullopt;
    }
    // The same, of an event that must be told.
    std::optional<scheduler::LogRecord> await(const std::string& event) {
        eventually([&] { return find(event).has_value(); });
        return find(event);
    }

private:
    std::mutex mutex_;
    std::vector<scheduler::LogRecord> records_;
};

// Time that stands still until it is moved.
class TestClock : public scheduler::ManualClock {
public:
    explicit TestClock(const char* start = "2026-03-01T12:00:00Z")
        : scheduler::ManualClock(at(start)) {}
    using scheduler::ManualClock::advance;
    void advance(scheduler::Scheduler& tasks, milliseconds by) {
        advance(by);
        tasks.clock_changed();
    }
};

// A file system that counts its calls and makes chosen ones fail.
class FailingFiles : public scheduler::FileOps {
public:
    // Every call counts; the one with this number, from 0, fails with `error`.
    void fail_call(std::size_t number, int error) {
        std::lock_guard<std::mutex> guard(mutex_);
        fails_at_ = number;
        error_ = error;
        calls_ = 0;
        failed_ = false;
    }
    // Every call of a kind fails until this is called with 0.
    void fail_all(const std::string& kind, int error) {
        std::lock_guard<std::mutex> guard(mutex_);
        kinds_[kind] = error;
    }
    // The call of a kind with this number, from 0 and from now on, fails with `error`.
    void fail_call(const std::string& kind, std::size_t number, int error) {
        std::lock_guard<std::mutex> guard(mutex_);
        failing_calls_[kind] = {counts_[kind] + number, error};
        failed_ = false;
    }
    // Reads and writes move this many bytes at most; 0: as many as they are asked to.
    void shorten(std::size_t bytes) { most_ = bytes; }
    bool has_failed() const { return failed_; }
    std::size_t count(const std::string& kind) const {
        std::lock_guard<std::mutex> guard(mutex_);
        const auto found = counts_.find(kind);
        return found == counts_.end() ? 0 : found->second;
    }

    int open(const char* path, int flags, mode_t mode) override {
        return fails("open") ? -1 : FileOps::open(path, flags, mode);
    }
    int fstat(int fd, struct stat* out) override {
        return fails("fstat") ? -1 : FileOps::fstat(fd, out);
    }
    ssize_t pread(int fd, void* to, std::size_t size, off_t from) override {
        return fails("pread") ? -1 : FileOps::pread(fd, to, shortened(size), from);
    }
    // A write that fails has written half of what it was to write.
    ssize_t pwrite(int fd, const void* from, std::size_t size, off_t to) override {
        if (!fails("pwrite")) return FileOps::pwrite(fd, from, shortened(size), to);
        const int error = errno;
        if (size > 1) (void)!FileOps::pwrite(fd, from, size / 2, to);
        errno = error;
        return -1;
    }
    int ftruncate(int fd, off_t size) override {
        return fails("ftruncate") ? -1 : FileOps::ftruncate(fd, size);
    }
    int reserve(int fd, off_t from, off_t size) override {
        return fails("reserve") ? -1 : FileOps::reserve(fd, from, size);
    }
    int fdatasync(int fd) override { return fails("fdatasync") ? -1 : FileOps::fdatasync(fd); }
    int fsync(int fd) override { return fails("fsync") ? -1 : FileOps::fsync(fd); }
    int flock(int fd, int operation) override {
        return fails("flock") ? -1 : FileOps::flock(fd, operation);
    }
    int rename(const char* from, const char* to) override {
        return fails("rename") ? -1 : FileOps::rename(from, to);
    }

private:
    struct FailingCall {
        std::size_t number;
        int error;
    };

    bool fails(const std::string& kind) {
        std::lock_guard<std::mutex> guard(mutex_);
        const std::size_t number = counts_[kind]++;
        const int error = kinds_[kind];
        if (calls_++ == fails_at_) {
            failed_ = true;
            errno = error_;
            return true;
        }
        const auto chosen = failing_calls_.find(kind);
        if (chosen != failing_calls_.end() && chosen->second.number == number) {
            failed_ = true;
            errno = chosen->second.error;
            return true;
        }
        errno = error;
        return error != 0;
    }
    std::size_t shortened(std::size_t size) const {
        const std::size_t most = most_;
        return most == 0 ? size : std::min(size, most);
    }

    mutable std::mutex mutex_;
    std::size_t calls_ = 0;
    std::size_t fails_at_ = static_cast<std::size_t>(-1);
    int error_ = EIO;
    std::map<std::string, int> kinds_;
    std::map<std::string, std::size_t> counts_;
    std::map<std::string, FailingCall> failing_calls_;
    std::atomic<std::size_t> most_{0};
    std::atomic<bool> failed_{false};
};

// Where one thread waits until another lets it go on; longer than anybody waits for what must not
// depend on that.
class Gate {
public:
    void pass() {
        std::unique_lock<std::mutex> lock(mutex_);
        reached_ = true;
        changed_.notify_all();
        changed_.wait_for(lock, long_enough + std::chrono::seconds(30), [this] { return open_; });
    }
    bool was_reached() {
        std::unique_lock<std::mutex> lock(mutex_);
        return changed_.wait_for(lock, long_enough, [this] { return reached_; });
    }
    void open() {
        const std::lock_guard<std::mutex> guard(mutex_);
        open_ = true;
        changed_.notify_all();
    }

private:
    std::mutex mutex_;
    std::condition_variable changed_;
    bool reached_ = false;
    bool open_ = false;
};

// A file system that asks before some calls what to do: a number but 0 makes the call fail with
// that error.  It asks without a lock, and an answer may take its time.
class AskingFiles : public scheduler::FileOps {
public:
    struct Call {
        std::string name;
        std::string path;
        std::string_view text;  // what is to be written
    };
    using Ask = std::function<int(const Call&)>;

    // Null: nothing is asked any more, and whatever was being asked has been answered when this
    // returns, so that what an Ask refers to may end.
    void ask(Ask ask) {
        std::unique_lock<std::mutex> lock(mutex_);
        ask_ = std::move(ask);
        if (!ask_) answered_.wait(lock, [this] { return being_asked_ == 0; });
    }
    int open(const char* path, int flags, mode_t mode) override {
        const int fd = FileOps::open(path, flags, mode);
        {
            const std::lock_guard<std::mutex> guard(mutex_);
            paths_[fd] = path;
        }
        const int error = errno;
        if (refuses("open", fd)) return -1;
        errno = error;
        return fd;
    }
    ssize_t pwrite(int fd, const void* from, std::size_t size, off_t to) override {
        const std::string_view text(static_cast<const char*>(from), size);
        return refuses("pwrite", fd, text) ? -1 : FileOps::pwrite(fd, from, size, to);
    }
    int fdatasync(int fd) override {
        return refuses("fdatasync", fd) ? -1 : FileOps::fdatasync(fd);
    }
    int fsync(int fd) override { return refuses("fsync", fd) ? -1 : FileOps::fsync(fd); }
    int rename(const char* from, const char* to) override {
        const std::lock_guard<std::mutex> guard(mutex_);
        for (auto& [fd, path] : paths_) {
            if (path == to) path += " (replaced)";
            if (path == from) path = to;
        }
        return FileOps::rename(from, to);
    }

private:
    bool refuses(const char* call, int fd, std::string_view text = {}) {
        Ask ask;
        std::string path;
        {
            const std::lock_guard<std::mutex> guard(mutex_);
            ask = ask_;
            path = paths_[fd];
            ++being_asked_;
        }
        const int error = ask ? ask({call, path, text}) : 0;
        {
            const std::lock_guard<std::mutex> guard(mutex_);
            --being_asked_;
        }
        answered_.notify_all();
        errno = error;
        return error != 0;
    }

    std::mutex mutex_;
    std::condition_variable answered_;
    int being_asked_ = 0;
    Ask ask_;
    std::map<int, std::string> paths_;
};

// Whether `call` returns; one that hangs fails the test and does not hang it.
template <class Call>
bool returns(Call call) {
    auto done = std::make_shared<std::promise<void>>();
    std::future<void> end = done->get_future();
    std::thread([call, done]() mutable {
        try {
            call();
            done->set_value();
        } catch (...) {
            done->set_exception(std::current_exception());
        }
    }).detach();
    return end.wait_for(long_enough) == std::future_status::ready;
}

inline scheduler::TaskId id_of(std::uint64_t number) {
    return {number, std::uint64_t{1} << 63};
}

inline scheduler::detail::TaskRef task_of(std::uint64_t number, TimePoint due,
                                          std::string_view payload = "{}") {
    return scheduler::detail::TaskRef::make(id_of(number), due, payload);
}

// What was answered to a request.
struct Scheduled {
    std::vector<scheduler::TaskId> ids;
    std::string timestamp;
};

// Schedules what clients asked for, and returns when that is stored.
inline Scheduled schedule(scheduler::Scheduler& tasks,
                          const std::vector<scheduler::TaskRequest>& requests,
                          std::string_view key = {}) {
    Scheduled scheduled;  // with room for what is told, which takes no memory once it is stored
    scheduled.ids.reserve(requests.size());
    scheduled.timestamp.reserve(64);
    scheduler::Ticket ticket = tasks.submit(requests, key);
    scheduled.ids = ticket.ids();
    scheduled.timestamp = ticket.timestamp();
    ticket.wait();
    return scheduled;
}

// Changes a task as a client asked for, and returns when that is stored.
inline scheduler::Task change(scheduler::Scheduler& tasks, scheduler::TaskId id,
                              const scheduler::TaskRequest& request) {
    for (;;) {
        scheduler::Ticket ticket = tasks.begin_change(id, request);
        ticket.wait();
        if (!ticket.again()) return ticket.task();
    }
}

inline std::size_t forget(scheduler::Scheduler& tasks, std::uint64_t begin, std::uint64_t end) {
    return tasks.forget({scheduler::Cursor(begin), scheduler::Cursor(end)});
}

inline scheduler::EventPage events_from(const scheduler::Scheduler& tasks, std::uint64_t seq,
                                        std::size_t limit = 100,
                                        std::size_t max_bytes = std::size_t{4} << 20) {
    return tasks.events({limit, scheduler::Cursor(seq), std::nullopt, max_bytes});
}

inline scheduler::EventPage events_before(const scheduler::Scheduler& tasks, std::uint64_t seq,
                                          std::size_t limit = 100,
                                          std::size_t max_bytes = std::size_t{4} << 20) {
    return tasks.events({limit, {}, scheduler::Cursor(seq), max_bytes});
}

// The ids of all pending tasks, by due time.
inline std::vector<scheduler::TaskId> pending_ids(const scheduler::Scheduler& tasks) {
    scheduler::TaskQuery query;
    query.limit = static_cast<std::size_t>(-1);
    query.max_bytes = static_cast<std::size_t>(-1);
    std::vector<scheduler::TaskId> ids;
    for (const auto& task : tasks.tasks(query).tasks) ids.push_back(task.id);
    return ids;
}

inline std::vector<scheduler::TaskId> event_ids(const scheduler::Scheduler& tasks) {
    std::vector<scheduler::TaskId> ids;
    const std::size_t all = static_cast<std::size_t>(-1);
    for (const auto& event : events_from(tasks, 0, all, all).events) ids.push_back(event.id);
    return ids;
}

// The code of the Error that `call` throws; nothing if it throws none.
template <class Call>
std::optional<scheduler::Errc> errc_of(Call call) {
    try {
        call();
        return std::nullopt;
    } catch (const scheduler::Error& error) {
        return error.code();
    }
}

}  // namespace support

#endif  // TESTS_SUPPORT_HPP
