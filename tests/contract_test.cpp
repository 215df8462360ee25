// SPDX-License-Identifier: MIT
//
// The promises of a Journal, kept by the file and by a journal that a user may write.
#include "journal_contract.hpp"

#include "shared_journal.hpp"

namespace contract_test {

using namespace scheduler;
using support::FailingFiles;
using support::TempDir;

namespace {

// A file in a folder of its own.
class FilePlace : public contract::Place {
public:
    explicit FilePlace(Fsync fsync) : fsync_(fsync) {}
    std::unique_ptr<Journal> open() override {
        return std::make_unique<detail::FileJournal>(dir_.journal(), fsync_, files_,
                                                     [](const LogRecord&) {});
    }
    bool can_fail() const override { return true; }
    void fail_call(std::size_t number) override { files_->fail_call(number, ENOSPC); }
    bool has_failed() const override { return files_->has_failed(); }
    void fail_all(bool fail) override {
        for (const char* kind : {"pwrite", "reserve", "fdatasync", "fsync", "rename"}) {
            files_->fail_all(kind, fail ? EIO : 0);
        }
    }

private:
    const Fsync fsync_;
    TempDir dir_;
    std::shared_ptr<FailingFiles> files_ = std::make_shared<FailingFiles>();
};

// What a user's journal keeps its records in, and how it fails.
struct Shelf {
    std::mutex mutex;
    std::string text;      // guarded by mutex
    bool broken = false;   // guarded by mutex
    std::size_t step = 0;  // guarded by mutex
    std::size_t failing_step = ~std::size_t{0};
    bool failed = false;

    void take_step_locked() {
        const bool fails = broken || step++ == failing_step;
        failed = failed || fails;
        if (fails) throw Error(Errc::disk_full, "the shelf is full");
    }
};

// A journal as a user may write it: records in memory, which outlives the scheduler.
class ShelfJournal : public Journal {
public:
    explicit ShelfJournal(std::shared_ptr<Shelf> shelf) : shelf_(std::move(shelf)) {}
    ~ShelfJournal() override {
        const std::lock_guard<std::mutex> guard(shelf_->mutex);
        try {
            write_locked({});
        } catch (const Error&) {  // then they happen again
        }
    }

    bool read(const Take& take) override {
        std::string text;
        {
            const std::lock_guard<std::mutex> guard(shelf_->mutex);
            text = shelf_->text;
        }
        std::istringstream lines(text);
        for (std::string line; std::getline(lines, line);) take(line);
        return false;
    }
    void commit(std::string_view lines, std::uint64_t) override {
        const std::lock_guard<std::mutex> guard(shelf_->mutex);
        write_locked(lines);
    }
    void write(std::string_view lines, std::uint64_t) override {
        const std::lock_guard<std::mutex> guard(shelf_->mutex);
        write_locked(lines);
    }
    bool commit_waits() const override { return false; }
    Ends write_ends(std::string_view lines, std::uint64_t) noexcept override {
        const std::lock_guard<std::mutex> guard(shelf_->mutex);
        try {
            write_locked(lines);
            return Ends::written;
        } catch (const Error&) {
            owed_ += lines;
            return Ends::unwritable;
        }
    }
    void sync() override {}
    bool wants_sync() const override { return false; }
    void replace(Source& source) override {
        std::string next;
        std::size_t behind = 0;  // what is copied, of the text and then of what is owed
        source.at_rest([&] {
            const std::lock_guard<std::mutex> guard(shelf_->mutex);
            behind = shelf_->text.size() + owed_.size();
        });
        source.copy([&next](std::string_view lines) { next += lines; });
        const std::lock_guard<std::mutex> guard(shelf_->mutex);
        shelf_->take_step_locked();
        // What is owed goes before what is written meanwhile, so both lie behind the text.
        next.append(shelf_->text + owed_, behind);
        shelf_->text = std::move(next);
        owed_.clear();
        ++replacements_;
    }
    bool failed() const override { return false; }
    JournalFigures figures() const override {
        const std::lock_guard<std::mutex> guard(shelf_->mutex);
        JournalFigures figures;
        figures.bytes = shelf_->text.size();
        figures.replacements = replacements_;
        return figures;
    }

private:
    void write_locked(std::string_view lines) {
        shelf_->take_step_locked();
        shelf_->text.append(owed_).append(lines);
        owed_.clear();
    }

    const std::shared_ptr<Shelf> shelf_;
    std::string owed_;                // guarded by the shelf's mutex
    std::uint64_t replacements_ = 0;  // guarded by the shelf's mutex
};

class ShelfPlace : public contract::Place {
public:
    std::unique_ptr<Journal> open() override { return std::make_unique<ShelfJournal>(shelf_); }
    bool can_fail() const override { return true; }
    void fail_call(std::size_t number) override {
        const std::lock_guard<std::mutex> guard(shelf_->mutex);
        shelf_->step = 0;
        shelf_->failing_step = number;
        shelf_->failed = false;
    }
    bool has_failed() const override {
        const std::lock_guard<std::mutex> guard(shelf_->mutex);
        return shelf_->failed;
    }
    void fail_all(bool fail) override {
        const std::lock_guard<std::mutex> guard(shelf_->mutex);
        shelf_->broken = fail;
    }

private:
    std::shared_ptr<Shelf> shelf_ = std::make_shared<Shelf>();
};

// What several nodes have open, opened by one.
class SharedPlace : public contract::Place {
public:
    std::unique_ptr<Journal> open() override { return log_->open("a", support::Telling::caller); }

private:
    const std::shared_ptr<support::SharedLog> log_ = std::make_shared<support::SharedLog>();
};

class Shared : public contract::SharedPlace {
public:
    explicit Shared(support::Telling telling) : telling_(telling) {}
    std::unique_ptr<Journal> open(const std::string& node) override {
        return log_->open(node, telling_);
    }
    void take(const std::string& node) override { log_->take(node); }
    void step() override {
        if (telling_ == support::Telling::thread) return contract::SharedPlace::step();
        for (const char* node : {"owner", "reader", "late", "first", "second"}) {
            log_->pump(node, 1);
        }
    }

private:
    const support::Telling telling_;
    const std::shared_ptr<support::SharedLog> log_ = std::make_shared<support::SharedLog>();
};

}  // namespace

TEST_SUITE("contract") {
    TEST_CASE("a file that is synced with every commit keeps what a journal promises") {
        contract::check_journal([] { return std::make_unique<FilePlace>(Fsync::always); });
        contract::check_journal([] { return std::make_unique<FilePlace>(Fsync::answers); });
    }

    TEST_CASE("a file that is synced every second keeps what a journal promises") {
        contract::check_journal([] { return std::make_unique<FilePlace>(Fsync::everysec); });
    }

    TEST_CASE("a file that is never synced keeps what a journal promises") {
        contract::check_journal([] { return std::make_unique<FilePlace>(Fsync::no); });
    }

    TEST_CASE("a journal that a user has written keeps what a journal promises") {
        contract::check_journal([] { return std::make_unique<ShelfPlace>(); });
    }

    TEST_CASE("a journal that several nodes share keeps what a journal promises") {
        contract::check_journal([] { return std::make_unique<SharedPlace>(); });
        for (const auto telling : {support::Telling::caller, support::Telling::thread}) {
            contract::check_shared_journal([&] { return std::make_unique<Shared>(telling); });
        }
    }
}

}  // namespace contract_test
