// SPDX-License-Identifier: MIT
#include "support.hpp"

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
}
