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
}

}  // namespace full_disk_test
