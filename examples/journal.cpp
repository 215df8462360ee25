// A journal of one's own, in place of a file: here the records are kept in a string, as they could
// be in a database or in a chip's flash.  tests/journal_contract.hpp checks such a class.
#include <scheduler.hpp>

#include <cstdio>
#include <sstream>

struct Shelf {
    std::mutex mutex;
    std::string lines;  // guarded by mutex
};

class ShelfJournal : public scheduler::Journal {
public:
    explicit ShelfJournal(Shelf& shelf) : shelf_(shelf) {}

    bool read(const Take& take) override {
        std::istringstream lines(shelf_.lines);
        for (std::string line; std::getline(lines, line);) take(line);
        return shelf_.lines.empty();  // then it begins with a replacement
    }
    void commit(std::string_view lines, std::uint64_t) override {
        const std::lock_guard<std::mutex> guard(shelf_.mutex);
        if (failed_)
            throw scheduler::Error(scheduler::Errc::journal_failed, "it is to be replaced");
        shelf_.lines += lines;
    }
    void write(std::string_view lines, std::uint64_t pending) override { commit(lines, pending); }
    scheduler::Ends write_ends(std::string_view lines, std::uint64_t pending) noexcept override {
        try {
            commit(lines, pending);
            return scheduler::Ends::written;
        } catch (const std::exception&) {
            failed_ = true;  // and is replaced by what the scheduler remembers
            return scheduler::Ends::unwritable;
        }
    }
    void replace(Source& source) override {
        std::string next;
        std::size_t tail = 0;  // where begins what is written meanwhile
        source.at_rest([&] {
            const std::lock_guard<std::mutex> guard(shelf_.mutex);
            tail = shelf_.lines.size();
        });
        source.copy([&](std::string_view lines) { next += lines; });
        const std::lock_guard<std::mutex> guard(shelf_.mutex);
        next.append(shelf_.lines, tail);
        shelf_.lines.swap(next);
        failed_ = false;
        ++replacements_;
    }
    bool failed() const override { return failed_; }
    // A string has nothing to be synced.
    void sync() override {}
    bool wants_sync() const override { return false; }
    bool commit_waits() const override { return false; }
    scheduler::JournalFigures figures() const override {
        const std::lock_guard<std::mutex> guard(shelf_.mutex);
        scheduler::JournalFigures now;
        now.failed = failed_;
        now.bytes = shelf_.lines.size();
        now.replacements = replacements_;
        return now;
    }

private:
    Shelf& shelf_;
    std::atomic<bool> failed_{false};
    std::uint64_t replacements_ = 0;  // guarded by the shelf's mutex
};

int main() {
    using namespace std::chrono_literals;
    Shelf shelf;
    scheduler::Options options;
    options.make_journal = [&shelf] { return std::make_unique<ShelfJournal>(shelf); };
    scheduler::Scheduler(options).schedule(100ms, R"("from the shelf")");
    scheduler::Scheduler tasks(options);
    tasks.on_event([](const scheduler::Event& event) { std::puts(event.payload.c_str()); });
    tasks.drain();
}
