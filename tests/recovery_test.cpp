// SPDX-License-Identifier: MIT
//
// What is promised (L2 to L5) when calls fail and when the power does.
#include "support.hpp"

#include <random>

using namespace scheduler;
using support::FailingFiles;
using support::ManualClock;
using support::TempDir;

namespace {

// What a client was told, and what must therefore be so after a restart.
struct Promises {
    std::set<std::string> stored;     // answered: must be pending or emitted
    std::set<std::string> cancelled;  // answered: must be gone
    std::set<std::string> refused;    // answered with an error: must be gone
    std::map<std::string, TaskId> ids;
};

std::string message_of(const Payload& payload) {
    const std::string text = payload.str();
    const std::size_t at = text.find("\"message\":\"") + 11;
    return text.substr(at, text.find('"', at) - at);
}

// How many tasks bear each message.  One may be emitted between the two looks.
std::map<std::string, std::size_t> messages_in(const Scheduler& tasks) {
    std::map<std::string, std::set<TaskId>> found;
    TaskQuery query;
    query.limit = 100'000;
    for (const Task& task : tasks.tasks(query).tasks) {
        found[message_of(task.payload)].insert(task.id);
    }
    std::set<TaskId> seen;
    for (const Event& event : tasks.events_from(0, 100'000).events) {
        REQUIRE(seen.insert(event.id).second);
        found[message_of(event.payload)].insert(event.id);
    }
    std::map<std::string, std::size_t> counts;
    for (const auto& [message, ids] : found) counts[message] = ids.size();
    return counts;
}

void schedule(Scheduler& tasks, Promises& promises, const std::string& name, TimePoint due) {
    try {
        promises.ids[name] = tasks.schedule(due, '"' + name + '"');
        promises.stored.insert(name);
    } catch (const Error&) {
        promises.refused.insert(name);
    }
}

void cancel(Scheduler& tasks, Promises& promises, const std::string& name) {
    if (promises.stored.count(name) == 0) return;
    try {
        if (tasks.cancel(promises.ids.at(name))) {
            promises.stored.erase(name);
            promises.cancelled.insert(name);
        }
    } catch (const Error&) {  // then it still stands
    }
}

// Whether a task could be cancelled; it may have been emitted, or be gone.
bool is_cancelled(Scheduler& tasks, TaskId id) {
    try {
        return tasks.cancel(id);
    } catch (const Error&) {
        return false;
    }
}

void check_kept(const Scheduler& tasks, const Promises& promises) {
    const auto found = messages_in(tasks);
    for (const std::string& name : promises.stored) {
        CAPTURE(name);
        REQUIRE(found.count(name) == 1);
        REQUIRE(found.at(name) == 1);
    }
    for (const std::string& name : promises.cancelled) {
        CAPTURE(name);
        REQUIRE(found.count(name) == 0);
    }
    for (const std::string& name : promises.refused) {
        CAPTURE(name);
        REQUIRE(found.count(name) == 0);
    }
}

// Every kind of work, on a journal that is rewritten again and again.
void work(Scheduler& tasks, ManualClock& clock, Promises& promises) {
    const TimePoint start = clock.now();
    for (int i = 0; i < 6; ++i) {
        schedule(tasks, promises, "a" + std::to_string(i), start + std::chrono::seconds(10 * i));
    }
    cancel(tasks, promises, "a4");
    clock.advance(tasks, std::chrono::seconds(15));
    support::eventually([&] { return tasks.stats().emitted >= 1 || tasks.stats().pending < 4; });
    cancel(tasks, promises, "a1");  // too late, if it was stored
    try {
        const auto moved = TaskRequest::parse_change(R"({"timestamp":"2026-08-01"})", clock.now());
        if (promises.stored.count("a5")) tasks.change(promises.ids.at("a5"), moved);
    } catch (const Error&) {
    }
    const auto parse = [&](const char* name) {
        return TaskRequest::parse(
            R"({"timestamp":"2026-08-01","message":")" + std::string(name) + "\"}", clock.now());
    };
    try {
        tasks.schedule({parse("b0"), parse("b1")}, "key");
        promises.stored.insert({"b0", "b1"});
    } catch (const Error&) {
        promises.refused.insert({"b0", "b1"});
    }
}

Options options_for(const std::string& journal, ManualClock& clock, std::shared_ptr<FileOps> files,
                    Fsync fsync = Fsync::always) {
    Options options;
    options.journal = journal;
    options.fsync = fsync;
    options.now = clock.source();
    options.files = std::move(files);
    options.rewrite_min_bytes = 600;  // so that the work is full of rewrites
    return options;
}

// Where one thread waits until another lets it go on; ten seconds at most.
class Gate {
public:
    void pass() {
        std::unique_lock<std::mutex> lock(mutex_);
        reached_ = true;
        changed_.notify_all();
        changed_.wait_for(lock, std::chrono::seconds(10), [this] { return open_; });
    }
    bool was_reached() {
        std::unique_lock<std::mutex> lock(mutex_);
        return changed_.wait_for(lock, std::chrono::seconds(10), [this] { return reached_; });
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

// A file system that asks before some calls: a number but 0 makes one fail with it.
class AskingFiles : public FileOps {
public:
    using Ask = std::function<int(const std::string& call, const std::string& path)>;

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
        if (!refuses("pwrite", fd)) return FileOps::pwrite(fd, from, size, to);
        const int error = errno;  // half of it is written, but of what takes that back nothing
        if (*static_cast<const char*>(from) == '{') (void)!FileOps::pwrite(fd, from, size / 2, to);
        errno = error;
        return -1;
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
    bool refuses(const std::string& call, int fd) {
        Ask ask;
        std::string path;
        {
            const std::lock_guard<std::mutex> guard(mutex_);
            ask = ask_;
            path = paths_[fd];
        }
        const int error = ask ? ask(call, path) : 0;
        errno = error;
        return error != 0;
    }

    std::mutex mutex_;
    Ask ask_;
    std::map<int, std::string> paths_;
};

// A file system in memory that knows what a loss of power leaves of it.
class PowerlessFiles : public FileOps {
public:
    int open(const char* path, int flags, mode_t) override {
        const auto guard = call();
        const std::string name = path;
        Handle handle;
        handle.directory = (flags & O_DIRECTORY) != 0;
        if (!handle.directory) {
            auto found = names_.find(name);
            if (found == names_.end() && !(flags & O_CREAT)) return errno = ENOENT, -1;
            if (found == names_.end()) {
                found = names_.emplace(name, std::make_shared<Inode>()).first;
                changes_.push_back(names_);
            }
            handle.inode = found->second;
            if (flags & O_TRUNC) handle.inode->write({true, 0, ""});
        }
        handles_[next_fd_] = handle;
        return next_fd_++;
    }
    int close(int fd) override {
        const std::lock_guard<std::mutex> guard(mutex_);
        handles_.erase(fd);
        return 0;
    }
    int fstat(int fd, struct stat* out) override {
        const std::lock_guard<std::mutex> guard(mutex_);
        *out = {};
        out->st_mode = S_IFREG | 0600;
        out->st_size = static_cast<off_t>(handles_.at(fd).inode->now.size());
        return 0;
    }
    ssize_t pread(int fd, void* to, std::size_t size, off_t from) override {
        const std::lock_guard<std::mutex> guard(mutex_);
        const std::string& text = handles_.at(fd).inode->now;
        const auto at = std::min(static_cast<std::size_t>(from), text.size());
        return static_cast<ssize_t>(text.copy(static_cast<char*>(to), size, at));
    }
    ssize_t pwrite(int fd, const void* from, std::size_t size, off_t to) override {
        const auto guard = call();
        const std::string text(static_cast<const char*>(from), size);
        handles_.at(fd).inode->write({false, static_cast<std::size_t>(to), text});
        return static_cast<ssize_t>(size);
    }
    int ftruncate(int fd, off_t size) override {
        const auto guard = call();
        handles_.at(fd).inode->write({true, static_cast<std::size_t>(size), ""});
        return 0;
    }
    int reserve(int, off_t, off_t) override { return 0; }
    int fdatasync(int fd) override {
        const auto guard = call();
        Inode& inode = *handles_.at(fd).inode;
        inode.synced = inode.now;
        inode.unsynced.clear();
        return 0;
    }
    int fsync(int) override {  // of the one directory that there is
        const auto guard = call();
        durable_ = names_;
        changes_.clear();
        return 0;
    }
    int flock(int, int) override { return 0; }
    int rename(const char* from, const char* to) override {
        const auto guard = call();
        names_[to] = names_.at(from);
        names_.erase(from);
        changes_.push_back(names_);
        return 0;
    }
    int unlink(const char* path) override {
        const auto guard = call();
        names_.erase(path);
        changes_.push_back(names_);
        return 0;
    }

    // Loses the power just before the call with this number; `on_loss` is told.
    void lose_power_before(std::size_t call, unsigned seed, std::function<void()> on_loss) {
        const std::lock_guard<std::mutex> guard(mutex_);
        loss_at_ = call;
        random_.seed(seed);
        on_loss_ = std::move(on_loss);
    }
    // What is there after the loss, as a file system of its own; null: no loss yet.
    std::shared_ptr<PowerlessFiles> remains() const {
        const std::lock_guard<std::mutex> guard(mutex_);
        return remains_;
    }

private:
    struct Change {
        bool truncates;
        std::size_t at;
        std::string text;
    };
    struct Inode {
        std::string synced;
        std::string now;
        std::vector<Change> unsynced;
        void write(const Change& change) {
            apply(now, change);
            unsynced.push_back(change);
        }
    };
    using Names = std::map<std::string, std::shared_ptr<Inode>>;
    struct Handle {
        bool directory = false;
        std::shared_ptr<Inode> inode;
    };

    static void apply(std::string& text, const Change& change) {
        if (change.truncates) return text.resize(change.at, '\0');
        if (text.size() < change.at) text.resize(change.at, '\0');
        text.replace(change.at, change.text.size(), change.text);
    }
    std::unique_lock<std::mutex> call() {
        std::unique_lock<std::mutex> guard(mutex_);
        if (calls_++ == loss_at_) {
            lose_power();
            on_loss_();
        }
        return guard;
    }
    // Names: what was synced, and some of the changes since, in order.  Contents:
    // what was synced, any of the later writes, and of one of them only a part.
    void lose_power() {
        remains_ = std::make_shared<PowerlessFiles>();
        const std::size_t kept = random_() % (changes_.size() + 1);
        for (const auto& [name, inode] : kept == 0 ? durable_ : changes_[kept - 1]) {
            auto left = std::make_shared<Inode>();
            left->synced = inode->synced;
            for (Change change : inode->unsynced) {
                if (random_() % 2) continue;
                if (random_() % 4 == 0) change.text.resize(random_() % (change.text.size() + 1));
                apply(left->synced, change);
            }
            left->now = left->synced;
            remains_->names_[name] = left;
        }
        remains_->durable_ = remains_->names_;
    }

    mutable std::mutex mutex_;
    Names names_;
    Names durable_;
    std::vector<Names> changes_;  // the names after each change since the last sync
    std::map<int, Handle> handles_;
    int next_fd_ = 1'000'000;
    std::size_t calls_ = 0;
    std::size_t loss_at_ = static_cast<std::size_t>(-1);
    std::mt19937 random_;
    std::function<void()> on_loss_;
    std::shared_ptr<PowerlessFiles> remains_;
};

}  // namespace

TEST_SUITE("recovery") {
    TEST_CASE("whichever call fails, what was answered holds after a restart") {
        for (const Fsync fsync : {Fsync::always, Fsync::everysec, Fsync::no}) {
            for (const int error : {EIO, ENOSPC}) {
                std::size_t number = 0;
                for (bool failed = true; failed && number < 500; ++number) {
                    CAPTURE(number);
                    CAPTURE(error);
                    const TempDir dir;
                    ManualClock clock;
                    Promises promises;
                    auto files = std::make_shared<FailingFiles>();
                    files->fail_call(number, error);
                    try {
                        Scheduler tasks(options_for(dir.journal(), clock, files, fsync));
                        work(tasks, clock, promises);
                    } catch (const Error&) {  // it could not be opened
                    }
                    failed = files->has_failed();
                    Scheduler again(options_for(dir.journal(), clock, nullptr));
                    check_kept(again, promises);
                    CHECK(dir.names("tasks.jsonl.damaged-").empty());
                }
                CHECK(number > 20);  // or nothing was proved
                CHECK(number < 500);
            }
        }
    }

    TEST_CASE("whichever call fails at opening, the journal is as good as before") {
        std::size_t number = 0;
        for (bool failed = true; failed && number < 100; ++number) {
            CAPTURE(number);
            const TempDir dir;
            ManualClock clock;
            Promises promises;
            {
                Scheduler tasks(options_for(dir.journal(), clock, nullptr));
                work(tasks, clock, promises);
            }
            std::ofstream(dir.journal(), std::ios::app) << "garbage\n{\"op\":\"torn";
            auto files = std::make_shared<FailingFiles>();
            files->fail_call(number, EIO);
            try {
                Scheduler tasks(options_for(dir.journal(), clock, files));
            } catch (const Error&) {
            }
            failed = files->has_failed();
            Scheduler again(options_for(dir.journal(), clock, nullptr));
            check_kept(again, promises);
        }
        CHECK(number > 5);
    }

    TEST_CASE("after a failed sync tasks are refused, and then the journal is replaced") {
        const TempDir dir;
        ManualClock clock;
        Promises promises;
        auto files = std::make_shared<FailingFiles>();
        {
            Scheduler tasks(options_for(dir.journal(), clock, files));
            schedule(tasks, promises, "before", clock.now() + std::chrono::hours(1));
            files->fail_all("fdatasync", EIO);
            schedule(tasks, promises, "during", clock.now() + std::chrono::hours(1));
            CHECK(promises.refused.count("during") == 1);
            CHECK(tasks.stats().journal_failed);
            files->fail_all("fdatasync", 0);
            CHECK(support::eventually([&] {
                schedule(tasks, promises, "after", clock.now() + std::chrono::hours(1));
                return promises.stored.erase("after") == 1;
            }));
            CHECK_FALSE(tasks.stats().journal_failed);
        }
        promises.refused.erase("after");
        Scheduler again(options_for(dir.journal(), clock, nullptr));
        check_kept(again, promises);
    }

    TEST_CASE("a full disk refuses tasks, and stops neither emission nor cancelling") {
        const TempDir dir;
        ManualClock clock;
        Promises promises;
        auto files = std::make_shared<FailingFiles>();
        {
            Scheduler tasks(options_for(dir.journal(), clock, files));
            schedule(tasks, promises, "due", clock.now() + std::chrono::seconds(10));
            schedule(tasks, promises, "unwanted", clock.now() + std::chrono::hours(1));
            files->fail_all("reserve", ENOSPC);
            CHECK(support::errc_of([&] {
                      tasks.schedule(clock.now(), '"' + std::string(3'000'000, 'x') + '"');
                  }) == Errc::disk_full);
            cancel(tasks, promises, "unwanted");
            CHECK(promises.cancelled.count("unwanted") == 1);
            clock.advance(tasks, std::chrono::seconds(10));
            CHECK(support::eventually([&] { return tasks.stats().emitted == 1; }));
            files->fail_all("reserve", 0);
            schedule(tasks, promises, "after", clock.now() + std::chrono::hours(1));
            CHECK(promises.stored.count("after") == 1);
        }
        Scheduler again(options_for(dir.journal(), clock, nullptr));
        check_kept(again, promises);
        CHECK(again.stats().retained == 1);
    }

    TEST_CASE("what is due is emitted though the journal cannot be written") {
        const TempDir dir;
        ManualClock clock;
        auto files = std::make_shared<FailingFiles>();
        Scheduler tasks(options_for(dir.journal(), clock, files));
        tasks.schedule(std::chrono::seconds(10), "\"x\"");
        files->fail_all("pwrite", EIO);
        clock.advance(tasks, std::chrono::seconds(10));
        CHECK(support::eventually([&] { return tasks.stats().emitted == 1; }));
    }

    TEST_CASE("a sync that fails on one thread is not believed on another") {
        // The kernel reports a failure once, to whoever asks first.
        const TempDir dir;
        ManualClock clock;
        Gate gate;
        std::atomic<bool> reported{false};
        auto files = std::make_shared<AskingFiles>();
        Scheduler tasks(options_for(dir.journal(), clock, files));
        tasks.schedule(std::chrono::seconds(10), "\"x\"");
        files->ask([&](const std::string& call, const std::string& path) {
            if (call != "fdatasync" || path != dir.journal() || reported.exchange(true)) return 0;
            gate.pass();
            return EIO;
        });
        clock.advance(tasks, std::chrono::seconds(10));  // the emission is synced behind
        REQUIRE(gate.was_reached());
        std::atomic<bool> answered{false};
        std::optional<Errc> answer;
        std::thread client([&] {
            answer = support::errc_of([&] { tasks.schedule(std::chrono::hours(1), "\"y\""); });
            answered = true;
        });
        // Either it is answered, wrongly, or it waits for the sync that is going to fail.
        for (int i = 0; i < 200 && !answered; ++i) std::this_thread::sleep_for(milliseconds(1));
        gate.open();
        client.join();
        CHECK(answer == Errc::journal_failed);
    }

    TEST_CASE("an emission that could not be written beside a rewrite is in the new journal") {
        const TempDir dir;
        ManualClock clock;
        Gate gate;
        std::atomic<bool> full{false};
        std::atomic<bool> rewriting{false};
        auto files = std::make_shared<AskingFiles>();
        {
            Scheduler tasks(options_for(dir.journal(), clock, files));
            const std::uint64_t before = tasks.stats().journal_rewrites;
            const TaskId id = tasks.schedule(std::chrono::seconds(10), "\"x\"");
            files->ask([&](const std::string& call, const std::string& path) {
                if (path != dir.journal() && call == "fdatasync" && !rewriting.exchange(true)) {
                    gate.pass();
                }
                return path == dir.journal() && call == "pwrite" && full ? ENOSPC : 0;
            });
            for (int i = 0; i < 100 && !rewriting; ++i) {
                tasks.cancel(tasks.schedule(std::chrono::hours(1), "\"y\""));
            }
            REQUIRE(gate.was_reached());
            full = true;
            clock.advance(tasks, std::chrono::seconds(10));
            CHECK(tasks.wait_for_event(0, milliseconds(10'000)));
            CHECK(support::event_ids(tasks) == std::vector<TaskId>{id});
            full = false;
            gate.open();
            CHECK(support::eventually([&] { return tasks.stats().journal_rewrites > before; }));
        }
        Scheduler again(options_for(dir.journal(), clock, nullptr));
        CHECK(again.stats().recovered == 0);
        CHECK(again.stats().retained == 1);
    }

    TEST_CASE("what is forgotten does not take along what is emitted meanwhile") {
        const TempDir dir;
        ManualClock clock;
        Gate gate;
        std::atomic<bool> syncing{false};
        auto files = std::make_shared<AskingFiles>();
        TaskId id;
        {
            Scheduler tasks(options_for(dir.journal(), clock, files));
            tasks.schedule(milliseconds(0), "\"forgotten\"");
            CHECK(tasks.wait_for_event(0, milliseconds(10'000)));
            id = tasks.schedule(std::chrono::seconds(10), "\"x\"");
            files->ask([&](const std::string& call, const std::string&) {
                if (call == "fdatasync" && !syncing.exchange(true)) gate.pass();
                return 0;
            });
            std::thread leader([&] { tasks.schedule(std::chrono::hours(1), "\"y\""); });
            REQUIRE(gate.was_reached());
            std::thread forgetter([&] { tasks.forget(0, static_cast<std::uint64_t>(-1)); });
            // Long enough for it to wait for its group; if it is not, nothing is proved.
            for (int i = 0; i < 20; ++i) std::this_thread::sleep_for(milliseconds(1));
            clock.advance(tasks, std::chrono::seconds(10));
            CHECK(tasks.wait_for_event(1, milliseconds(10'000)));
            gate.open();
            leader.join();
            forgetter.join();
            CHECK(support::event_ids(tasks) == std::vector<TaskId>{id});
        }
        Scheduler again(options_for(dir.journal(), clock, nullptr));
        CHECK(support::event_ids(again) == std::vector<TaskId>{id});
    }

    TEST_CASE("a rewrite that goes well is never shown as a journal that has failed") {
        const TempDir dir;
        ManualClock clock;
        Gate gate;
        std::atomic<bool> renamed{false};
        auto files = std::make_shared<AskingFiles>();
        Scheduler tasks(options_for(dir.journal(), clock, files));
        files->ask([&](const std::string& call, const std::string&) {
            if (call == "fsync" && !renamed.exchange(true)) gate.pass();
            return 0;
        });
        std::thread client([&] {
            for (int i = 0; i < 100 && !renamed; ++i) {
                tasks.cancel(tasks.schedule(std::chrono::hours(1), "\"y\""));
            }
        });
        CHECK(gate.was_reached());
        CHECK_FALSE(tasks.stats().journal_failed);
        gate.open();
        client.join();
    }

    TEST_CASE("a refused task is in no copy of the journal, whatever else fails with it") {
        const TempDir dir;
        ManualClock clock;
        Gate gate;
        std::atomic<bool> syncing{false};
        std::atomic<bool> full{false};
        auto files = std::make_shared<AskingFiles>();
        Scheduler tasks(options_for(dir.journal(), clock, files));
        files->ask([&](const std::string& call, const std::string& path) {
            if (call == "fdatasync" && !syncing.exchange(true)) gate.pass();
            if (call != "pwrite" || path != dir.journal() || !full) return 0;
            return ENOSPC;
        });
        std::thread leader([&] { tasks.schedule(std::chrono::hours(1), "\"first\""); });
        REQUIRE(gate.was_reached());
        full = true;
        std::vector<std::thread> group;
        std::mutex mutex;
        for (const std::size_t size : {1U, 2'000U}) {
            group.emplace_back([&, size] {
                const std::string message = '"' + std::string(size, 'g') + '"';
                const auto code =
                    support::errc_of([&] { tasks.schedule(std::chrono::hours(1), message); });
                const std::lock_guard<std::mutex> guard(mutex);
                CHECK(code);
                CHECK(dir.read("tasks.jsonl").find("\"g\"") == std::string::npos);
            });
            for (int i = 0; i < 20; ++i) std::this_thread::sleep_for(milliseconds(1));
        }
        gate.open();
        leader.join();
        for (std::thread& client : group) client.join();
        CHECK(tasks.stats().pending == 1);
    }

    TEST_CASE("rewrites beside all kinds of work lose nothing and double nothing") {
        const TempDir dir;
        Options options;
        options.journal = dir.journal();
        options.rewrite_min_bytes = 2'000;  // so that there is always one under way
        options.history = 20;
        options.min_retention = milliseconds(5);
        options.files = std::make_shared<AskingFiles>();
        std::mutex mutex;
        std::set<TaskId> stored;
        std::set<TaskId> far;  // of them, due in an hour
        std::set<TaskId> ended;
        std::map<TaskId, int> emitted;
        std::uint64_t rewrites = 0;
        {
            Scheduler tasks(options);
            tasks.on_event([&](const Event& event) { ++emitted[event.id]; });
            std::vector<std::thread> clients;
            for (unsigned seed = 1; seed <= 4; ++seed) {
                clients.emplace_back([&, seed] {
                    std::mt19937 random(seed);
                    std::vector<TaskId> mine;
                    for (int i = 0; i < 400; ++i) {
                        const auto delay = milliseconds(random() % 2 ? random() % 5 : 3'600'000);
                        const TaskId id = tasks.schedule(delay, "\"some text\"");
                        mine.push_back(id);
                        const TaskId other = mine[random() % mine.size()];
                        const bool cancelled = random() % 3 == 0 && is_cancelled(tasks, other);
                        if (random() % 16 == 0) tasks.forget(0, tasks.next_seq());
                        const std::lock_guard<std::mutex> guard(mutex);
                        stored.insert(id);
                        if (delay > milliseconds(5)) far.insert(id);
                        if (cancelled) ended.insert(other);
                    }
                });
            }
            for (std::thread& client : clients) client.join();
            rewrites = tasks.stats().journal_rewrites;
        }
        CHECK(rewrites > 5);
        for (const auto& event : emitted) {
            REQUIRE(event.second == 1);
            REQUIRE(ended.count(event.first) == 0);
            ended.insert(event.first);
        }
        Scheduler again(options);
        std::set<TaskId> pending;
        for (const TaskId id : support::pending_ids(again)) pending.insert(id);
        for (const TaskId id : stored) {
            CAPTURE(id.str());
            // What was emitted may have been trimmed before the callback took it.
            if (pending.count(id)) REQUIRE(ended.count(id) == 0);
            if (far.count(id)) REQUIRE(pending.count(id) + ended.count(id) == 1);
        }
    }

    TEST_CASE("no loss of power takes away what was answered") {
        const char* rounds_text = std::getenv("SCHEDULER_TEST_ROUNDS");
        const unsigned rounds = rounds_text ? static_cast<unsigned>(std::atoi(rounds_text)) : 300;
        unsigned lost = 0;
        for (unsigned seed = 1; seed <= rounds; ++seed) {
            CAPTURE(seed);
            ManualClock clock;
            Promises now;
            Promises at_loss;
            std::mutex mutex;
            auto files = std::make_shared<PowerlessFiles>();
            files->lose_power_before(seed * 7919 % 140, seed, [&] {
                const std::lock_guard<std::mutex> guard(mutex);
                at_loss = now;
            });
            const Fsync fsync = seed % 5 == 0 ? Fsync::no : Fsync::always;
            {
                std::mt19937 random(seed);
                Scheduler tasks(options_for("/nowhere/tasks.jsonl", clock, files, fsync));
                for (int step = 0; step < 40; ++step) {
                    const std::string name = std::to_string(step);
                    const auto ahead = std::chrono::seconds(random() % 100);
                    Promises next = now;
                    if (random() % 4 == 0 && step > 0) {
                        const std::string victim =
                            std::to_string(random() % static_cast<unsigned>(step));
                        {
                            const std::lock_guard<std::mutex> guard(mutex);
                            now.stored.erase(victim);  // from here on it may be gone
                        }
                        cancel(tasks, next, victim);
                    } else {
                        schedule(tasks, next, name, clock.now() + ahead);
                    }
                    if (random() % 8 == 0) clock.advance(tasks, std::chrono::seconds(5));
                    const std::lock_guard<std::mutex> guard(mutex);
                    now = next;
                }
            }
            const auto remains = files->remains();
            if (!remains) continue;
            ++lost;
            Scheduler again(options_for("/nowhere/tasks.jsonl", clock, remains));
            if (fsync == Fsync::always) check_kept(again, at_loss);
            for (const auto& [name, count] : messages_in(again)) REQUIRE(count == 1);
        }
        CHECK(lost > rounds / 2);
    }
}
