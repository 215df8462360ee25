// SPDX-License-Identifier: MIT
//
// What a full disk does not stop: emission and cancelling, whatever else is asked for (J7).
#include "support.hpp"

#include <filesystem>

namespace full_disk_test {

using namespace scheduler;
using support::errc_of;
using support::TempDir;
using support::TestClock;

namespace {

// A disk that others can fill: then a file has the space that was set aside for it, and no more.
class FillingFiles : public FileOps {
public:
    void fill() { full_ = true; }
    void empty() { full_ = false; }
    int open(const char* path, int flags, mode_t mode) override {
        const int fd = FileOps::open(path, flags, mode);
        ends_[fd] = 0;
        return fd;
    }
    int reserve(int fd, off_t from, off_t size) override {
        if ((from + size) % step == 0 || (full_ && from + size > ends_[fd])) return refuse();
        ends_[fd] = std::max(ends_[fd], from + size);
        return 0;
    }
    ssize_t pwrite(int fd, const void* from, std::size_t size, off_t to) override {
        if (full_ && to + static_cast<off_t>(size) > ends_[fd]) return refuse();
        return FileOps::pwrite(fd, from, size, to);
    }

private:
    // What is set aside in such steps is more than is needed, and there is none of that.
    static constexpr off_t step = off_t{1} << 20;

    static int refuse() {
        errno = ENOSPC;
        return -1;
    }
    bool full_ = false;
    std::map<int, off_t> ends_;  // of the space of each open file
};

// A disk of so many bytes that has nothing but the journal, and what others put there.
class SmallFiles : public FileOps {
public:
    explicit SmallFiles(std::uint64_t size) : size_(size) {}
    // What others have there, in bytes.
    std::uint64_t others = 0;

    int open(const char* path, int flags, mode_t mode) override {
        const int fd = FileOps::open(path, flags, mode);
        if (fd >= 0) paths_[fd] = path;
        if (fd >= 0 && flags & O_TRUNC) ends_[path] = 0;
        return fd;
    }
    int reserve(int fd, off_t from, off_t size) override { return take(fd, from + size) ? 0 : -1; }
    ssize_t pwrite(int fd, const void* from, std::size_t size, off_t to) override {
        if (!take(fd, to + static_cast<off_t>(size))) return -1;
        return FileOps::pwrite(fd, from, size, to);
    }
    int rename(const char* from, const char* to) override {
        for (auto& [fd, path] : paths_) path = path == to ? "gone" : path == from ? to : path;
        ends_[to] = ends_[from];
        ends_.erase(from);
        return FileOps::rename(from, to);
    }
    int unlink(const char* path) override {
        ends_.erase(path);
        return FileOps::unlink(path);
    }
    int fstatvfs(int, struct statvfs* out) override {
        out->f_frsize = 1;
        out->f_blocks = size_;
        out->f_bavail = size_ - std::min(size_, used());
        return 0;
    }

private:
    std::uint64_t used() const {
        std::uint64_t bytes = others;
        for (const auto& [path, end] : ends_) bytes += end;
        return bytes;
    }
    bool take(int fd, off_t to) {
        std::uint64_t& end = ends_[paths_.at(fd)];
        const auto wanted = static_cast<std::uint64_t>(to);
        errno = ENOSPC;
        if (wanted > end && used() - end + wanted > size_) return false;
        end = std::max(end, wanted);
        return true;
    }

    const std::uint64_t size_;
    std::map<int, std::string> paths_;
    std::map<std::string, std::uint64_t> ends_;  // of what each file takes
};

// A scheduler without threads on such a disk.
struct Place {
    Options options() {
        Options options;
        options.now = clock.source();
        options.drive = Drive::caller;
        options.journal = dir.journal();
        options.files = files;
        return options;
    }
    TempDir dir;
    TestClock clock;
    std::shared_ptr<FillingFiles> files = std::make_shared<FillingFiles>();
};

std::vector<NewTask> tasks_in(TimePoint due, std::size_t count) {
    return std::vector<NewTask>(count, NewTask{due, "\"x\""});
}

}  // namespace

TEST_SUITE("full disk") {
    TEST_CASE("the ends of all tasks have space from the start on, and after a replacement") {
        Place place;
        std::vector<TaskId> ids;
        {
            Options options = place.options();
            options.rewrite_min_bytes = 1;
            Scheduler tasks(options);
            Ticket ticket = tasks.submit(tasks_in(place.clock.now() + std::chrono::hours(1), 300));
            ticket.wait();
            ids = ticket.ids();
            for (std::size_t i = 0; i < 200; ++i) CHECK(tasks.cancel(ids[i]));
            tasks.run_due();
            REQUIRE(tasks.stats().journal_rewrites > 1);
            place.files->fill();
            for (std::size_t i = 200; i < 250; ++i) CHECK(tasks.cancel(ids[i]));
            CHECK(errc_of([&] { tasks.submit(tasks_in(place.clock.now(), 200)).wait(); }) ==
                  Errc::disk_full);
            place.files->empty();
        }
        Scheduler tasks(place.options());
        place.files->fill();
        for (std::size_t i = 250; i < 300; ++i) CHECK(tasks.cancel(ids[i]));
        CHECK(tasks.stats().pending == 0);
    }

    TEST_CASE("a cancel is stored although what came with it has no room") {
        Place place;
        Scheduler tasks(place.options());
        const TaskId id = tasks.schedule(std::chrono::hours(1), "\"x\"");
        place.files->fill();
        Ticket large = tasks.submit(tasks_in(place.clock.now() + std::chrono::hours(1), 5'000));
        Ticket cancel = tasks.begin_cancel(id);
        Ticket bulk = tasks.begin_cancel(DueRange());
        CHECK(errc_of([&] { large.wait(); }) == Errc::disk_full);
        cancel.wait();
        bulk.wait();
        CHECK(bulk.count() == 0);
        CHECK_FALSE(tasks.find(id));
        CHECK(tasks.stats().pending == 0);
        CHECK(tasks.stats().cancelled == 1);
        CHECK(tasks.stats().refused == 5'000);
    }

    TEST_CASE("a bulk call of several parts has all the room that it takes") {
        Place place;
        Scheduler tasks(place.options());
        tasks.submit(tasks_in(place.clock.now() + std::chrono::hours(1), 5'100)).wait();
        place.files->fill();
        CHECK(tasks.cancel(DueRange()) == 5'100);
        CHECK(tasks.stats().pending == 0);
    }

    TEST_CASE("what sinks have taken takes no space from cancels and emissions") {
        Place place;
        std::size_t delivered = 0;
        const auto sink = [&delivered](const Event&) { ++delivered; };
        std::vector<TaskId> ids;
        const std::string journal = place.dir.journal();
        const std::string copy = journal + ".copy";
        constexpr std::size_t count = 6'000;  // their delivery takes more than was set aside
        {
            Scheduler tasks(place.options());
            Sinks sinks(tasks, {{"one", make_sink(sink)}});
            Ticket first = tasks.submit(tasks_in(place.clock.now(), count));
            first.wait();
            const TimePoint later = place.clock.now() + std::chrono::hours(1);
            Ticket second = tasks.submit(tasks_in(later, 100));
            second.wait();
            ids = second.ids();
            place.files->fill();
            while (tasks.stats().emitted < count || delivered < count) tasks.run_due();
            for (std::size_t i = 0; i < 50; ++i) CHECK(tasks.cancel(ids[i]));
            place.clock.set(later);
            while (tasks.run_due() > 0) {
            }
            CHECK(tasks.stats().emitted == count + 50);
            std::filesystem::copy_file(journal, copy);  // as a crash would leave it
            place.files->empty();
        }
        // What the crash has taken away of the deliveries happens again; nothing else does.
        Options options = place.options();
        options.journal = copy;
        Scheduler tasks(options);
        CHECK(tasks.stats().pending == 0);
        CHECK(tasks.stats().retained == count + 50);
    }

    TEST_CASE("on a disk of 2 MiB a scheduler runs for ever at a steady load") {
        Place place;
        Options options = place.options();
        options.fsync = Fsync::no;  // the file's own disk is not what is tested
        options.files = std::make_shared<SmallFiles>(std::uint64_t{2} << 20);
        Scheduler tasks(options);
        const NewTask waiting{place.clock.now() + std::chrono::hours(24 * 300), "\"x\""};
        tasks.submit(std::vector<NewTask>(1'000, waiting)).wait();
        for (int i = 0; i < 20'000; ++i) {
            tasks.schedule(std::chrono::seconds(60), '"' + std::string(100, 'x') + '"');
            place.clock.advance(std::chrono::seconds(1));
            tasks.run_due();
        }
        CHECK(tasks.stats().emitted == 20'000 - 59);
        CHECK(tasks.stats().refused == 0);
        CHECK_FALSE(tasks.stats().disk_full);
        CHECK(tasks.stats().retained > 500);  // as far as an eighth of the disk holds them
        CHECK(tasks.stats().retained < 1'000);
    }

    TEST_CASE("a sink that takes nothing does not fill a small disk, nor does a restart with it") {
        Place place;
        Options options = place.options();
        options.fsync = Fsync::no;  // the file's own disk is not what is tested
        options.min_retention = std::chrono::seconds(1);
        options.files = std::make_shared<SmallFiles>(std::uint64_t{2} << 20);
        for (int start = 0; start < 2; ++start) {
            Scheduler tasks(options);
            tasks.open_sinks({{"dead", "test", "", true}});
            for (int i = 0; i < 2'000; ++i) {
                tasks.schedule(std::chrono::seconds(1), '"' + std::string(1'000, 'x') + '"');
                place.clock.advance(std::chrono::seconds(1));
                tasks.run_due();
            }
            CHECK(tasks.stats().refused == 0);
            CHECK(tasks.stats().emitted == 2'000);
            const SinkStatus sink = tasks.sinks().front();
            CHECK(sink.lag > 100);  // as far as an eighth of the disk holds them,
            CHECK(sink.lag < 300);
            CHECK(sink.dead > 100);  // and likewise what became of those before
            CHECK(sink.dead < 300);
        }
    }

    TEST_CASE("a disk without room for a replacement takes no task until some are cancelled") {
        Place place;
        Options options = place.options();
        options.fsync = Fsync::no;  // the file's own disk is not what is tested
        std::vector<LogRecord> log;
        options.log = [&log](const LogRecord& record) { log.push_back(record); };
        options.files = std::make_shared<SmallFiles>(std::uint64_t{2} << 20);
        std::vector<TaskId> ids;
        const auto fill = [&](Scheduler& tasks) {
            return errc_of([&] {
                for (;;) ids.push_back(tasks.schedule(std::chrono::hours(1), "\"x\""));
            });
        };
        {
            Scheduler tasks(options);
            CHECK(fill(tasks) == Errc::disk_full);
            CHECK(fill(tasks) == Errc::disk_full);
            CHECK(tasks.stats().disk_full);
            CHECK(*tasks.stats().journal_room < tasks.stats().journal_needs);
            tasks.run_due();  // which hands over what is logged
            REQUIRE(log.size() == 1);
            CHECK(log[0].event == "journal.disk_full");
            CHECK(log[0].text.find(place.dir.journal()) != std::string::npos);
        }
        log.clear();
        Scheduler tasks(options);
        CHECK(tasks.stats().disk_full);
        REQUIRE(log.size() == 1);
        CHECK(log[0].event == "journal.disk_full");
        // Each cancel takes what was kept for its task's end, and more of the file is dead.
        const std::size_t count = ids.size();
        for (std::size_t i = 0; i < count / 4; ++i) CHECK(tasks.cancel(ids[i]));
        while (tasks.run_due() > 0) {
        }
        CHECK_FALSE(tasks.stats().disk_full);
        tasks.schedule(std::chrono::hours(1), "\"x\"");
        tasks.run_due();
        CHECK(log.back().event == "journal.disk_freed");
    }

    TEST_CASE("room that others take and give back is seen at once") {
        Place place;
        const auto files = std::make_shared<SmallFiles>(std::uint64_t{2} << 20);
        Options options = place.options();
        options.files = files;
        Scheduler tasks(options);
        tasks.schedule(std::chrono::hours(1), "\"x\"");
        files->others = std::uint64_t{2} << 20;
        CHECK(tasks.stats().disk_full);
        files->others = 0;
        CHECK_FALSE(tasks.stats().disk_full);
        tasks.schedule(std::chrono::hours(1), "\"x\"");
    }

    TEST_CASE("what a crash has left of a replacement takes no room") {
        Place place;
        { const Scheduler tasks(place.options()); }
        place.dir.write("tasks.jsonl.new", std::string(1'000, 'x'));
        const Scheduler tasks(place.options());
        CHECK_FALSE(std::filesystem::exists(place.dir.journal() + ".new"));
    }

    TEST_CASE("a disk that is full at the start is told in one line that says what to do") {
        Place place;
        const auto files = std::make_shared<SmallFiles>(std::uint64_t{2} << 20);
        files->others = std::uint64_t{2} << 20;
        Options options = place.options();
        options.files = files;
        std::string said;
        options.log = [&said](const LogRecord& record) { said += record.text; };
        try {
            const Scheduler tasks(options);
        } catch (const Error& error) {
            CHECK(error.code() == Errc::disk_full);
            said += error.what();
        }
        CHECK(said == "cannot write to " + place.dir.journal() +
                          ": No space left on device; make room there, or name a file on another "
                          "disk (--journal)");
    }
}

}  // namespace full_disk_test
