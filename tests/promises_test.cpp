// SPDX-License-Identifier: MIT
//
// What is promised whatever else goes on at the same time: stopping, cancelling in bulk,
// replacing the journal, syncing and logging.
#include "support.hpp"

#include <future>

using namespace scheduler;
using support::errc_of;
using support::eventually;
using support::ManualClock;
using support::TempDir;

namespace {

// Where one thread waits until another lets it go on; twenty seconds at most.
class Gate {
public:
    void pass() {
        std::unique_lock<std::mutex> lock(mutex_);
        reached_ = true;
        changed_.notify_all();
        changed_.wait_for(lock, std::chrono::seconds(20), [this] { return open_; });
    }
    bool was_reached() {
        std::unique_lock<std::mutex> lock(mutex_);
        return changed_.wait_for(lock, std::chrono::seconds(20), [this] { return reached_; });
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
class AskingFiles : public FileOps {
public:
    struct Call {
        std::string name;
        std::string path;
        std::string_view text;  // what is to be written
    };
    using Ask = std::function<int(const Call&)>;

    void ask(Ask ask) {
        const std::lock_guard<std::mutex> guard(mutex_);
        ask_ = std::move(ask);
    }
    int open(const char* path, int flags, mode_t mode) override {
        const int fd = FileOps::open(path, flags, mode);
        const std::lock_guard<std::mutex> guard(mutex_);
        paths_[fd] = path;
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

private:
    bool refuses(const char* call, int fd, std::string_view text = {}) {
        Ask ask;
        std::string path;
        {
            const std::lock_guard<std::mutex> guard(mutex_);
            ask = ask_;
            path = paths_[fd];
        }
        const int error = ask ? ask({call, path, text}) : 0;
        errno = error;
        return error != 0;
    }

    std::mutex mutex_;
    Ask ask_;
    std::map<int, std::string> paths_;
};

}  // namespace

TEST_SUITE("promises") {
    TEST_CASE("several threads may stop a scheduler at once, and each returns when it is over") {
        for (int round = 0; round < 20; ++round) {
            // On its own, so that a stop() that hangs fails the test and does not hang it.
            struct Run {
                Scheduler tasks;
                std::atomic<bool> ended{false};
                std::atomic<int> returned{0};
                std::atomic<int> too_early{0};
            };
            const auto run = std::make_shared<Run>();
            run->tasks.on_event([run = run.get()](const Event&) { run->ended = true; });
            run->tasks.schedule(milliseconds(0), "{}");
            REQUIRE(run->tasks.wait_for_event(0, milliseconds(10'000)));
            std::vector<std::thread> threads;
            for (int i = 0; i < 4; ++i) {
                threads.emplace_back([run] {
                    run->tasks.stop();
                    if (!run->ended) ++run->too_early;
                    ++run->returned;
                });
            }
            const bool all_returned = eventually([&] { return run->returned == 4; });
            for (std::thread& thread : threads) all_returned ? thread.join() : thread.detach();
            REQUIRE(all_returned);
            CHECK(run->too_early == 0);
            CHECK(errc_of([&] { run->tasks.schedule(milliseconds(0), "{}"); }) == Errc::stopped);
        }
    }

    TEST_CASE("under everysec syncs begin a second apart, however long they take") {
        using Clock = std::chrono::steady_clock;
        for (const milliseconds taken : {milliseconds(1'200), milliseconds(0)}) {
            CAPTURE(taken.count());
            const TempDir dir;
            const auto files = std::make_shared<AskingFiles>();
            Options options;
            options.journal = dir.journal();
            options.fsync = Fsync::everysec;
            options.files = files;
            Scheduler tasks(options);
            std::mutex mutex;
            std::vector<std::pair<Clock::time_point, Clock::time_point>> syncs;  // begin and end
            const auto start = Clock::now();
            files->ask([&](const AskingFiles::Call& call) {
                if (call.name != "fdatasync") return 0;
                const auto begin = Clock::now();
                if (taken > milliseconds(0)) std::this_thread::sleep_for(taken);  // a slow disk
                const std::lock_guard<std::mutex> guard(mutex);
                syncs.emplace_back(begin, Clock::now());
                return 0;
            });
            const auto count = [&] {
                const std::lock_guard<std::mutex> guard(mutex);
                return syncs.size();
            };
            CHECK(eventually([&] {  // something is written all the time
                tasks.schedule(std::chrono::hours(1), "{}");
                return count() >= 4;
            }));
            const auto end = Clock::now();
            files->ask(nullptr);
            // One that took longer than a second is followed at once by the next, unless this
            // machine was late every time.
            Clock::duration least = Clock::duration::max();
            for (std::size_t i = 1; i < syncs.size(); ++i) {
                least = std::min(least, syncs[i].first - syncs[i - 1].second);
            }
            if (taken > milliseconds(0)) CHECK(least / milliseconds(1) < 1'000);
            CHECK(count() <= static_cast<std::size_t>((end - start) / std::chrono::seconds(1)) + 2);
        }
    }
}
