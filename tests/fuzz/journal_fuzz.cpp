// SPDX-License-Identifier: MIT
//
// Any bytes at all as a journal: it opens or is refused, and what has opened once
// opens again with the same tasks.
#define SCHEDULER_NO_HTTP
#include "../../scheduler.hpp"

#include <sanitizer/asan_interface.h>

namespace {

// The block of the journal reader's buffer is kept when it is freed, poisoned until
// it is used again: to map, clear and unmap it anew takes longer than all the rest.
class KeptBlock {
public:
    // Null: this is not a block of that size, or it is in use.
    void* take(std::size_t wanted) {
        if (wanted != size || used_.exchange(true)) return nullptr;
        if (!block_) block_ = std::malloc(size);
        if (block_) ASAN_UNPOISON_MEMORY_REGION(block_, size);
        return block_;
    }
    bool give_back(void* block) {
        if (!block || block != block_) return false;
        ASAN_POISON_MEMORY_REGION(block_, size);
        used_ = false;
        return true;
    }

private:
    static constexpr std::size_t size = std::size_t{1} << 19;

    std::atomic<bool> used_{false};
    std::atomic<void*> block_{nullptr};
};

KeptBlock kept_block;

// A file system of one file in memory, so that a run takes microseconds.
class MemoryFiles : public scheduler::FileOps {
public:
    explicit MemoryFiles(std::string text) { files_["/f"] = std::move(text); }
    int open(const char* path, int flags, mode_t) override {
        const std::lock_guard<std::mutex> guard(mutex_);
        if ((flags & O_DIRECTORY) == 0) {
            if (files_.count(path) == 0 && (flags & O_CREAT) == 0) return errno = ENOENT, -1;
            if (flags & O_TRUNC) files_[path].clear();
        }
        names_.push_back(path);
        return static_cast<int>(names_.size()) + 1'000;
    }
    int close(int) override { return 0; }
    int fstat(int fd, struct stat* out) override {
        const std::lock_guard<std::mutex> guard(mutex_);
        *out = {};
        out->st_mode = S_IFREG;
        out->st_size = static_cast<off_t>(text(fd).size());
        return 0;
    }
    ssize_t pread(int fd, void* to, std::size_t size, off_t from) override {
        const std::lock_guard<std::mutex> guard(mutex_);
        const auto at = std::min(static_cast<std::size_t>(from), text(fd).size());
        return static_cast<ssize_t>(text(fd).copy(static_cast<char*>(to), size, at));
    }
    ssize_t pwrite(int fd, const void* from, std::size_t size, off_t to) override {
        const std::lock_guard<std::mutex> guard(mutex_);
        const auto at = static_cast<std::size_t>(to);
        if (text(fd).size() < at + size) text(fd).resize(at + size);
        text(fd).replace(at, size, static_cast<const char*>(from), size);
        return static_cast<ssize_t>(size);
    }
    int ftruncate(int fd, off_t size) override {
        const std::lock_guard<std::mutex> guard(mutex_);
        text(fd).resize(static_cast<std::size_t>(size));
        return 0;
    }
    int reserve(int, off_t, off_t) override { return 0; }
    int fdatasync(int) override { return 0; }
    int fsync(int) override { return 0; }
    int flock(int, int) override { return 0; }
    int rename(const char* from, const char* to) override {
        const std::lock_guard<std::mutex> guard(mutex_);
        files_[to] = files_[from];
        files_.erase(from);
        for (std::string& name : names_) {
            if (name == from) name = to;
        }
        return 0;
    }
    int unlink(const char*) override { return 0; }

private:
    std::string& text(int fd) { return files_[names_[static_cast<std::size_t>(fd) - 1'001]]; }
    std::mutex mutex_;
    std::map<std::string, std::string> files_;
    std::vector<std::string> names_;
};

// Lines that are not sealed get their checksum, so that the fuzzer comes further
// than the checksum's test.
std::string sealed(std::string_view text) {
    std::string lines;
    while (!text.empty()) {
        const std::size_t end = std::min(text.find('\n'), text.size());
        const std::string_view line = text.substr(0, end);
        const std::size_t start = lines.size();
        lines += line;
        if (!line.empty() && line.front() == '{' && line.back() == '!') {
            lines.pop_back();
            scheduler::detail::seal_line(lines, start);
        } else {
            lines += '\n';
        }
        text.remove_prefix(std::min(end + 1, text.size()));
    }
    return lines;
}

std::optional<std::string> open(const scheduler::Options& options) {
    try {
        scheduler::Scheduler tasks(options);
        scheduler::TaskQuery query;
        query.limit = 1'000;
        std::string all;
        for (const auto& task : tasks.tasks(query).tasks)
            all += task.id.str() + task.payload.str() + '\n';
        return all;
    } catch (const scheduler::Error&) {
        return std::nullopt;
    }
}

}  // namespace

// The array forms stay the sanitizer's own, so that what is freed wrongly is found.
void* operator new(std::size_t size) {
    void* block = kept_block.take(size);
    return block ? block : operator new[](size);
}
void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
    return operator new[](size, std::nothrow);
}
void operator delete(void* block) noexcept {
    if (!kept_block.give_back(block)) operator delete[](block);
}
void operator delete(void* block, std::size_t) noexcept {
    operator delete(block);
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    scheduler::Options options;
    options.journal = "/f";
    options.files = std::make_shared<MemoryFiles>(sealed(text));
    // Before every time that a journal can tell: the clock is not trusted, and
    // nothing is emitted while this looks.
    options.now = [] {
        return scheduler::TimePoint(scheduler::milliseconds(-1'000'000'000'000'000));
    };
    options.min_retention = scheduler::milliseconds(std::int64_t{1} << 50);
    const auto first = open(options);
    if (first && open(options) != first) std::abort();
    return 0;
}
