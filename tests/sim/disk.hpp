// SPDX-License-Identifier: MIT
//
// A disk in memory.  It has a cache, as a kernel has: what is written can be read at once, and
// is on the disk only when it was synced.  What was not may be there after a loss of power or
// not, or by halves; the same holds for names.

#ifndef TESTS_SIM_DISK_HPP
#define TESTS_SIM_DISK_HPP

#include "memory.hpp"
#include "random.hpp"

#include "../../scheduler.hpp"

namespace sim {

// What remains of the writes that were not synced when the power is lost.
enum class Remains {
    prefix,     // the earlier ones, the last of them perhaps by half
    scattered,  // any of them, in whole or in part
};

class Disk {
public:
    explicit Disk(Random& random) : random_(random) {}

    // Which calls fail.
    struct Faults {
        double rate = 0;          // of a hundred calls, how many fail
        bool syncs_only = false;  // only those that sync
        bool all = false;         // every call
        bool shorten = false;     // reads and writes do a part of what they are asked to
    };
    Faults faults;
    // The largest space that can be set aside at once, as where others take what is left.
    std::uint64_t largest_reserve = ~std::uint64_t{0};
    // The process crashes at the call with this number from now on; 0: at none.
    std::size_t crash_in = 0;

    bool has_crashed() const { return crashed_; }
    // How many calls were made to fail.
    std::uint64_t failures() const { return failures_; }
    // Everybody else takes all the space that is left, or gives it back.
    void fill() { capacity_ = used(); }
    void empty() { capacity_ = size_; }
    bool is_full() const { return capacity_ != size_; }
    // Makes it a disk of so many bytes, which nobody else uses.
    void resize(std::uint64_t size) { capacity_ = size_ = size; }

    // The process is gone: whatever it still asks for fails.
    void end_process() { crashed_ = true; }
    // Another process starts, and finds what the cache holds.
    void begin_process();
    // The power is lost, and with it the cache.
    void lose_power(Remains remains);
    // The kernel writes its cache to the disk.
    void write_back();

    // Changes the bytes of a file behind everybody's back; there must be one of that name.
    template <class Change>
    void damage(const std::string& path, Change change) {
        write_back();
        Inode& inode = *names_.at(path);
        change(inode.cached);
        inode.durable = inode.cached;
    }
    // The bytes of a file, which may not exist.
    std::string read(const std::string& path) const {
        const auto found = names_.find(path);
        return found == names_.end() ? "" : found->second->cached;
    }
    bool exists(const std::string& path) const { return names_.count(path) != 0; }
    // Whether the directory has changes that a loss of power may undo.
    bool has_unsynced_names() const { return !name_changes_.empty(); }

    // Whether a sync has failed on a file that still has its name.  A process that crashes
    // then cannot tell the next one, which would believe what the cache shows.
    bool has_dropped() const {
        const auto is_dropped = [](const auto& name) { return name.second->dropped; };
        return std::any_of(names_.begin(), names_.end(), is_dropped) ||
               std::any_of(durable_names_.begin(), durable_names_.end(), is_dropped);
    }

    // The calls of a process on this disk.
    std::shared_ptr<scheduler::FileOps> calls();

private:
    class Calls;
    struct Write {
        std::uint64_t at = 0;
        std::string bytes;
        bool truncates = false;  // to the size `at`
    };
    struct Inode {
        std::string cached;
        std::string durable;
        std::vector<Write> unsynced;
        std::uint64_t reserved = 0;
        bool locked = false;
        bool dropped = false;  // what it holds is not what the cache shows
    };
    using Names = std::map<std::string, std::shared_ptr<Inode>>;
    struct NameChange {
        std::string name;
        std::shared_ptr<Inode> inode;
        std::string removed;  // name; empty: none
    };

    static void apply(std::string& content, const Write& write);
    static void apply(Names& names, const NameChange& change);
    void change_names(NameChange change);
    std::uint64_t used() const;
    bool fails(bool is_sync);
    void keep_some(Inode& inode, Remains remains);
    void drop_dirty(Inode& inode);

    Random& random_;
    Names names_;
    Names durable_names_;
    std::vector<NameChange> name_changes_;
    std::uint64_t size_ = std::uint64_t{1} << 40;
    std::uint64_t capacity_ = size_;  // what others have left of it
    bool crashed_ = false;
    std::uint64_t failures_ = 0;
};

inline void Disk::apply(std::string& content, const Write& write) {
    if (write.truncates) return content.resize(write.at);
    const std::size_t end = write.at + write.bytes.size();
    if (content.size() < end) content.resize(end, '\0');
    content.replace(write.at, write.bytes.size(), write.bytes);
}

inline void Disk::apply(Names& names, const NameChange& change) {
    if (!change.removed.empty()) names.erase(change.removed);
    if (change.inode) names[change.name] = change.inode;
}

inline void Disk::change_names(NameChange change) {
    apply(names_, change);
    name_changes_.push_back(std::move(change));
}

inline std::uint64_t Disk::used() const {
    std::uint64_t bytes = 0;
    for (const auto& [name, inode] : names_) {
        bytes += std::max<std::uint64_t>(inode->cached.size(), inode->reserved);
    }
    return bytes;
}

// Whether a call fails; the one at which the process crashes is the last that may have an
// effect, see Calls::pwrite().
inline bool Disk::fails(bool is_sync) {
    if (!crashed_ && crash_in > 0 && --crash_in == 0) crashed_ = true;
    errno = EIO;
    if (crashed_) return true;
    if (faults.syncs_only && !is_sync) return false;
    if (!faults.all && !(faults.rate > 0 && random_.chance(faults.rate))) return false;
    ++failures_;
    errno = EIO;
    return true;
}

inline void Disk::begin_process() {
    crashed_ = false;
    crash_in = 0;
    for (const auto& [name, inode] : names_) inode->locked = false;
}

inline void Disk::keep_some(Inode& inode, Remains remains) {
    const std::size_t kept = random_.below(inode.unsynced.size() + 1);
    for (std::size_t i = 0; i < inode.unsynced.size(); ++i) {
        Write write = inode.unsynced[i];
        const bool whole = remains == Remains::prefix ? i < kept : random_.chance(60);
        const bool torn = remains == Remains::prefix ? i == kept : random_.chance(50);
        if (!whole && !torn) continue;
        if (!whole) write.bytes.resize(random_.below(write.bytes.size() + 1));
        if (whole || !write.truncates) apply(inode.durable, write);
    }
}

inline void Disk::lose_power(Remains remains) {
    crashed_ = true;
    const std::size_t kept = random_.below(name_changes_.size() + 1);
    for (std::size_t i = 0; i < kept; ++i) apply(durable_names_, name_changes_[i]);
    name_changes_.clear();
    names_ = durable_names_;
    for (const auto& [name, inode] : names_) {
        keep_some(*inode, remains);
        inode->unsynced.clear();
        inode->cached = inode->durable;
        inode->reserved = 0;
        inode->dropped = false;
    }
}

inline void Disk::write_back() {
    for (const auto& [name, inode] : names_) {
        for (const Write& write : inode->unsynced) apply(inode->durable, write);
        inode->unsynced.clear();
    }
    for (const NameChange& change : name_changes_) apply(durable_names_, change);
    name_changes_.clear();
}

// After a sync that failed the kernel takes the pages for clean, whether they were written or
// not: no later sync writes them.
inline void Disk::drop_dirty(Inode& inode) {
    for (const Write& write : inode.unsynced) {
        inode.dropped = true;
        if (random_.chance(50)) apply(inode.durable, write);
    }
    inode.unsynced.clear();
}

class Disk::Calls : public scheduler::FileOps {
public:
    explicit Calls(Disk& disk) : disk_(disk) {}

    int open(const char* path, int flags, mode_t) override;
    int close(int fd) override;
    int fstat(int fd, struct stat* out) override;
    ssize_t pread(int fd, void* to, std::size_t size, off_t at) override;
    ssize_t pwrite(int fd, const void* from, std::size_t size, off_t at) override;
    int ftruncate(int fd, off_t size) override;
    int reserve(int fd, off_t at, off_t size) override;
    int fstatvfs(int fd, struct statvfs* out) override;
    int fdatasync(int fd) override;
    int fsync(int fd) override;
    int flock(int fd, int operation) override;
    int rename(const char* from, const char* to) override;
    int unlink(const char* path) override;

private:
    // An open file; without an inode it is the directory.
    struct Open {
        std::shared_ptr<Inode> inode;
        bool locks = false;
    };
    static int fail(int error) {
        errno = error;
        return -1;
    }
    std::size_t shortened(std::size_t size) {
        if (!disk_.faults.shorten || size < 2 || !disk_.random_.chance(30)) return size;
        return disk_.random_.between(1, size);
    }
    // How many bytes there is room for, of those that are to be written.
    std::size_t room(const Inode& inode, std::uint64_t at, std::size_t size) const;

    Disk& disk_;
    std::map<int, Open> files_;
    int next_ = 1'000;
};

inline std::shared_ptr<scheduler::FileOps> Disk::calls() {
    return std::make_shared<Calls>(*this);
}

inline int Disk::Calls::open(const char* path, int flags, mode_t) {
    const Memory::Pause pause;
    if (disk_.fails(false)) return -1;
    Open file;
    if (!(flags & O_DIRECTORY)) {
        const auto found = disk_.names_.find(path);
        if (found != disk_.names_.end()) {
            file.inode = found->second;
        } else if (flags & O_CREAT) {
            file.inode = std::make_shared<Inode>();
            disk_.change_names({path, file.inode, ""});
        } else {
            return fail(ENOENT);
        }
        if (flags & O_TRUNC) {
            file.inode->cached.clear();
            file.inode->unsynced.push_back({0, "", true});
        }
    }
    files_[next_] = std::move(file);
    return next_++;
}

inline int Disk::Calls::close(int fd) {
    const Memory::Pause pause;
    const auto file = files_.find(fd);
    if (file == files_.end()) return fail(EBADF);
    if (file->second.locks && !disk_.has_crashed()) file->second.inode->locked = false;
    files_.erase(file);
    return 0;
}

inline int Disk::Calls::fstat(int fd, struct stat* out) {
    const Memory::Pause pause;
    if (disk_.fails(false)) return -1;
    out->st_mode = S_IFREG | 0600;
    out->st_size = static_cast<off_t>(files_.at(fd).inode->cached.size());
    return 0;
}

inline ssize_t Disk::Calls::pread(int fd, void* to, std::size_t size, off_t at) {
    const Memory::Pause pause;
    if (disk_.fails(false)) return -1;
    const std::string& content = files_.at(fd).inode->cached;
    const auto begin = static_cast<std::size_t>(at);
    if (begin >= content.size()) return 0;
    const std::size_t count = shortened(std::min(size, content.size() - begin));
    std::copy_n(content.data() + begin, count, static_cast<char*>(to));
    return static_cast<ssize_t>(count);
}

inline std::size_t Disk::Calls::room(const Inode& inode, std::uint64_t at, std::size_t size) const {
    const std::uint64_t own = std::max<std::uint64_t>(inode.cached.size(), inode.reserved);
    const std::uint64_t others = disk_.used() - own;
    const std::uint64_t end =
        std::max(own, disk_.capacity_ > others ? disk_.capacity_ - others : 0);
    return at >= end ? 0 : static_cast<std::size_t>(std::min<std::uint64_t>(size, end - at));
}

// A write that fails, or during which the process crashes, may have written a part.
inline ssize_t Disk::Calls::pwrite(int fd, const void* from, std::size_t size, off_t at) {
    const Memory::Pause pause;
    const bool was_gone = disk_.has_crashed();
    const bool fails = disk_.fails(false);
    const int error = errno;
    if (was_gone) return -1;
    Inode& inode = *files_.at(fd).inode;
    const auto begin = static_cast<std::uint64_t>(at);
    std::size_t count = shortened(size);
    if (fails) count = disk_.random_.below(size + (disk_.has_crashed() ? 1 : 0));
    count = room(inode, begin, count);
    const std::string bytes(static_cast<const char*>(from), count);
    if (count > 0) {
        Write write{begin, bytes, false};
        apply(inode.cached, write);
        inode.unsynced.push_back(std::move(write));
    }
    if (fails) return fail(error);
    return count == 0 && size > 0 ? fail(ENOSPC) : static_cast<ssize_t>(count);
}

inline int Disk::Calls::ftruncate(int fd, off_t size) {
    const Memory::Pause pause;
    if (disk_.fails(false)) return -1;
    Inode& inode = *files_.at(fd).inode;
    const Write write{static_cast<std::uint64_t>(size), "", true};
    apply(inode.cached, write);
    inode.unsynced.push_back(write);
    inode.reserved = 0;
    return 0;
}

inline int Disk::Calls::reserve(int fd, off_t at, off_t size) {
    const Memory::Pause pause;
    if (disk_.fails(false)) return -1;
    Inode& inode = *files_.at(fd).inode;
    const auto end = static_cast<std::uint64_t>(at) + static_cast<std::uint64_t>(size);
    const bool is_large = static_cast<std::uint64_t>(size) > disk_.largest_reserve;
    if (is_large || room(inode, 0, end) < end) return fail(ENOSPC);
    inode.reserved = std::max(inode.reserved, end);
    return 0;
}

// To look is no effect, and fails only with the process.
inline int Disk::Calls::fstatvfs(int, struct statvfs* out) {
    const Memory::Pause pause;
    if (disk_.has_crashed()) return fail(EIO);
    const std::uint64_t used = disk_.used();
    out->f_bsize = out->f_frsize = 1;
    out->f_blocks = disk_.size_;
    out->f_bavail = disk_.capacity_ - std::min(disk_.capacity_, used);
    return 0;
}

inline int Disk::Calls::fdatasync(int fd) {
    const Memory::Pause pause;
    const bool was_gone = disk_.has_crashed();
    Inode& inode = *files_.at(fd).inode;
    if (disk_.fails(true)) {
        const int error = errno;
        if (!was_gone && !disk_.has_crashed()) disk_.drop_dirty(inode);
        return fail(error);
    }
    for (const Write& write : inode.unsynced) apply(inode.durable, write);
    inode.unsynced.clear();
    return 0;
}

inline int Disk::Calls::fsync(int fd) {
    const Memory::Pause pause;
    if (disk_.fails(true)) return -1;
    if (files_.at(fd).inode) return fdatasync(fd);
    for (const NameChange& change : disk_.name_changes_) apply(disk_.durable_names_, change);
    disk_.name_changes_.clear();
    return 0;
}

inline int Disk::Calls::flock(int fd, int) {
    const Memory::Pause pause;
    if (disk_.fails(false)) return -1;
    Open& file = files_.at(fd);
    if (file.inode->locked) return fail(EWOULDBLOCK);
    file.inode->locked = file.locks = true;
    return 0;
}

inline int Disk::Calls::rename(const char* from, const char* to) {
    const Memory::Pause pause;
    if (disk_.fails(false)) return -1;
    const auto found = disk_.names_.find(from);
    if (found == disk_.names_.end()) return fail(ENOENT);
    disk_.change_names({to, found->second, from});
    return 0;
}

inline int Disk::Calls::unlink(const char* path) {
    const Memory::Pause pause;
    if (disk_.fails(false)) return -1;
    if (!disk_.exists(path)) return fail(ENOENT);
    disk_.change_names({"", nullptr, path});
    return 0;
}

}  // namespace sim

#endif  // TESTS_SIM_DISK_HPP
