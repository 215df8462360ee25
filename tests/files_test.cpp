// SPDX-License-Identifier: MIT
#include "support.hpp"

namespace files_test {

using namespace scheduler;
using scheduler::detail::File;

namespace {

// Moves one byte at a time, and every second call is interrupted.
class SlowFiles : public FileOps {
public:
    ssize_t pread(int fd, void* to, std::size_t size, off_t from) override {
        return interrupted() ? -1 : FileOps::pread(fd, to, size > 0 ? 1 : 0, from);
    }
    ssize_t pwrite(int fd, const void* from, std::size_t size, off_t to) override {
        return interrupted() ? -1 : FileOps::pwrite(fd, from, size > 0 ? 1 : 0, to);
    }

private:
    bool interrupted() {
        errno = EINTR;
        return calls_++ % 2 == 0;
    }
    int calls_ = 0;
};

}  // namespace

TEST_SUITE("files") {
    TEST_CASE("short and interrupted calls are gone on with") {
        const support::TempDir dir;
        SlowFiles ops;
        File file(ops, dir.path("f"), O_RDWR | O_CREAT);
        file.write("some text", 3);
        char text[16] = {};
        CHECK(file.read(text, 16, 3) == 9);
        CHECK(std::string(text) == "some text");
    }

    TEST_CASE("an error names the file and tells a full disk from a broken one") {
        const support::TempDir dir;
        support::FailingFiles ops;
        File file(ops, dir.path("f"), O_RDWR | O_CREAT);
        for (const int error : {ENOSPC, EDQUOT, EFBIG, EIO}) {
            ops.fail_all("pwrite", error);
            try {
                file.write("x", 0);
                FAIL("it did not throw");
            } catch (const Error& failure) {
                CHECK(failure.code() == (error == EIO ? Errc::journal_failed : Errc::disk_full));
                CHECK(std::string(failure.what()).find(dir.path("f")) != std::string::npos);
            }
        }
    }

    TEST_CASE("a read ends at the end of the file, however short its parts") {
        const support::TempDir dir;
        support::FailingFiles ops;
        const std::string text(10'000, 'x');
        File file(ops, dir.write("f", text), O_RDWR);
        ops.shorten(7);
        std::string read(20'000, '-');
        CHECK(file.read(&read[0], read.size(), 1) == 9'999);
        CHECK(read.substr(0, 9'999) == text.substr(1));
        CHECK(read[9'999] == '-');
        CHECK(file.read(&read[0], 10, 10'000) == 0);
        CHECK(ops.count("pread") > 1'000);
    }

    TEST_CASE("an interruption between two parts of a write loses and repeats nothing") {
        for (std::size_t number = 0; number < 4; ++number) {
            CAPTURE(number);
            const support::TempDir dir;
            support::FailingFiles ops;
            File file(ops, dir.path("f"), O_RDWR | O_CREAT);
            ops.shorten(3);
            ops.fail_call("pwrite", number, EINTR);
            file.write("0123456789ab", 0);
            CHECK(dir.read("f") == "0123456789ab");
            CHECK(ops.has_failed());
        }
    }

    TEST_CASE("a write that makes no headway is an error and not for ever") {
        class Stuck : public FileOps {
            ssize_t pwrite(int, const void*, std::size_t, off_t) override { return 0; }
        };
        const support::TempDir dir;
        Stuck ops;
        File file(ops, dir.path("f"), O_RDWR | O_CREAT);
        CHECK(support::errc_of([&] { file.write("x", 0); }) == Errc::journal_failed);
    }

    TEST_CASE("every call that fails is named, with its file and the reason") {
        const support::TempDir dir;
        support::FailingFiles ops;
        File file(ops, dir.path("f"), O_RDWR | O_CREAT);
        char byte = 0;
        struct Case {
            const char* kind;
            const char* what;
            std::function<void()> call;
        };
        const Case cases[] = {
            {"open", "cannot open", [&] { File(ops, dir.path("f"), O_RDONLY); }},
            {"fstat", "cannot examine", [&] { file.status(); }},
            {"pread", "cannot read", [&] { file.read(&byte, 1, 0); }},
            {"pwrite", "cannot write to", [&] { file.write("x", 0); }},
            {"ftruncate", "cannot truncate", [&] { file.truncate(0); }},
            {"fdatasync", "cannot sync", [&] { file.sync(); }},
            {"reserve", "cannot reserve space in", [&] { file.reserve(0, 1); }},
        };
        for (const Case& one : cases) {
            CAPTURE(one.kind);
            ops.fail_call(one.kind, 0, EIO);
            std::string told;
            try {
                one.call();
            } catch (const Error& failure) {
                told = failure.what();
            }
            const std::string reason = std::generic_category().message(EIO);
            CHECK(told == std::string(one.what) + ' ' + dir.path("f") + ": " + reason);
            CHECK_NOTHROW(one.call());
        }
    }

    TEST_CASE("a reservation that is interrupted is made again") {
        const support::TempDir dir;
        support::FailingFiles ops;
        File file(ops, dir.path("f"), O_RDWR | O_CREAT);
        ops.fail_call("reserve", 0, EINTR);
        file.reserve(0, 100);
        CHECK(ops.count("reserve") == 2);
    }

    TEST_CASE("a sync that failed is not tried again") {
        const support::TempDir dir;
        support::FailingFiles ops;
        File file(ops, dir.path("f"), O_RDWR | O_CREAT);
        for (const int error : {EIO, EINTR}) {
            CAPTURE(error);
            const std::size_t before = ops.count("fdatasync");
            ops.fail_call("fdatasync", 0, error);
            CHECK(support::errc_of([&] { file.sync(); }) == Errc::journal_failed);
            CHECK(ops.count("fdatasync") == before + 1);
        }
    }

    TEST_CASE("space that is reserved does not change what is in a file") {
        const support::TempDir dir;
        FileOps ops;
        File file(ops, dir.write("f", "text"), O_RDWR);
        file.reserve(4, 1'000'000);
        CHECK(file.status().st_size == 4);
        CHECK(dir.read("f") == "text");
    }

    TEST_CASE("a file that cannot be opened leaves no descriptor behind") {
        const support::TempDir dir;
        FileOps ops;
        const auto lowest_free = [&] { return File(ops, dir.path("f"), O_RDWR | O_CREAT).fd(); };
        const int before = lowest_free();
        CHECK(support::errc_of([&] { File(ops, dir.path("none"), O_RDWR); }) ==
              Errc::journal_failed);
        CHECK(lowest_free() == before);
    }

    TEST_CASE("a new name is made durable in its own directory") {
        class Watching : public support::FailingFiles {
        public:
            int open(const char* path, int flags, mode_t mode) override {
                if (flags & O_DIRECTORY) directories.push_back(path);
                return FailingFiles::open(path, flags, mode);
            }
            std::vector<std::string> directories;
        };
        const support::TempDir dir;
        Watching ops;
        detail::sync_directory_of(ops, dir.path("f"));
        detail::sync_directory_of(ops, "f");
        detail::sync_directory_of(ops, "/f");
        CHECK(ops.directories == std::vector<std::string>{dir.path(""), ".", "/"});
        CHECK(ops.count("fsync") == 3);
    }

    TEST_CASE("a directory that cannot be synced is an error, unless it has no need to") {
        const support::TempDir dir;
        support::FailingFiles ops;
        const auto sync = [&] { detail::sync_directory_of(ops, dir.path("f")); };
        ops.fail_call("fsync", 0, EIO);
        CHECK(support::errc_of(sync) == Errc::journal_failed);
        ops.fail_call("fsync", 0, EINVAL);
        CHECK_NOTHROW(sync());
        ops.fail_call("open", 0, EACCES);
        CHECK(support::errc_of(sync) == Errc::journal_failed);
    }

    TEST_CASE("a file system that cannot reserve space is none the worse for it") {
        const support::TempDir dir;
        support::FailingFiles ops;
        File file(ops, dir.path("f"), O_RDWR | O_CREAT);
        ops.fail_all("reserve", EOPNOTSUPP);
        file.reserve(0, 100);
        ops.fail_all("reserve", ENOSPC);
        CHECK(support::errc_of([&] { file.reserve(0, 100); }) == Errc::disk_full);
    }

    TEST_CASE("a file is opened close-on-exec and readable by nobody else") {
        const support::TempDir dir;
        FileOps ops;
        File file(ops, dir.path("f"), O_RDWR | O_CREAT);
        CHECK((::fcntl(file.fd(), F_GETFD) & FD_CLOEXEC) != 0);
        CHECK((file.status().st_mode & 0777U) == 0600U);
    }

    TEST_CASE("a wait ends at its moment of the wall clock, and not before") {
        detail::WallTimer timer;
        std::mutex mutex;
        std::unique_lock<std::mutex> lock(mutex);
        const TimePoint until = wall_clock() + milliseconds(20);
        while (wall_clock() < until) timer.wait(lock, until);  // a clock that is set may end it
        timer.wait(lock, TimePoint());
        timer.wait(lock, TimePoint::min());
        CHECK(lock.owns_lock());
    }

    TEST_CASE("a wait without end, or beyond January 2038, ends when it is told, and only then") {
        for (const std::optional<TimePoint> until :
             {std::optional<TimePoint>(), parse_time("2038-01-19T03:14:08Z"),
              parse_time("+200000-01-01"), std::optional(detail::last_time),
              std::optional(TimePoint::max())}) {
            CAPTURE(until.has_value());
            if (until && *until < wall_clock() + std::chrono::hours(1)) continue;
            detail::WallTimer timer;
            std::mutex mutex;
            auto waited = std::async(std::launch::async, [&] {
                std::unique_lock<std::mutex> lock(mutex);
                timer.wait(lock, until);
            });
            CHECK(waited.wait_for(milliseconds(20)) == std::future_status::timeout);
            for (auto state = std::future_status::timeout; state != std::future_status::ready;) {
                {
                    const std::lock_guard<std::mutex> guard(mutex);
                    timer.wake();  // one that comes before the wait is none
                }
                state = waited.wait_for(milliseconds(20));
            }
        }
    }
}

}  // namespace files_test
