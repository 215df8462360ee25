// SPDX-License-Identifier: MIT
//
// A journal that several schedulers have open at once, in one process and in memory: what a
// database does for nodes on several machines, and how it fails them.
//
//     const auto log = std::make_shared<support::SharedLog>();
//     options.make_journal = [log] { return log->open("a", support::Telling::thread); };
//
// Under Telling::caller nothing is told until the test calls log->pump("a").

#ifndef TESTS_SHARED_JOURNAL_HPP
#define TESTS_SHARED_JOURNAL_HPP

#include "../scheduler.hpp"

#include <map>

namespace support {

// Who tells a node what others have stored, and makes it the owner.
enum class Telling {
    thread,  // one of the journal's own, at once
    caller,  // whoever calls SharedLog::pump()
};

// Whether the database can be reached.
enum class Away {
    no,
    refuses,  // whatever needs it fails at once; an owner stops being one
    hangs,    // whatever needs it waits until it is back, or the journal is closed
};

// What becomes of something that a node stores.
enum class Fault {
    none,
    refused,  // it is not stored, and the node knows that
    lost,     // it is not stored, and the node does not know
    unknown,  // it is stored, and the node does not know
    late,     // arrive() stores it, if the epoch is the same then; the node does not know
    slow,     // it is stored, and the call returns when answer() is called
};

template <class Take>
void for_each_line(std::string_view text, const Take& take) {
    for (std::size_t end = 0; !text.empty(); text.remove_prefix(end + 1)) {
        end = text.find('\n');
        take(text.substr(0, end));
    }
}

class SharedJournal;

// The database: groups of records in the order of their numbers, a lease, and what every node is
// made to believe.  Any thread may call this.
class SharedLog : public std::enable_shared_from_this<SharedLog> {
public:
    struct Row {
        std::uint64_t number;
        std::uint64_t epoch;
        std::string node;
        std::string lines;  // each ends with a newline
    };

    // A node opens the journal; one of a name at a time.
    std::unique_ptr<scheduler::Journal> open(const std::string& node, Telling telling,
                                             const std::string& url = "");

    // ---- What goes wrong ----
    void away(Away how);
    // What becomes of the next thing that a node stores, or of one after it.
    void fail(const std::string& node, Fault fault, std::size_t after = 0);
    // Answers what is slow.
    void answer(const std::string& node);
    // What is late arrives now.  Returns whether it is stored.
    bool arrive();
    // The lease runs out: a node that stands may take it.  The owner learns of that when it is
    // told, or stores something.
    void expire();
    // The same, and the next owner can be this one only.
    void take(const std::string& node);
    // The owner gives up its lease, and knows.
    void give_up(const std::string& node);
    // A node that is paused is told nothing, and believes what it has believed.
    void pause(const std::string& node, bool paused);
    // Whether a node may become the owner; at first each may.
    void stand(const std::string& node, bool stands);
    // The node's process dies: it stores nothing more, and its lease lasts.
    void kill(const std::string& node);

    // Tells a node of at most so many groups, and makes it the owner if it may be.  Returns whether
    // it has been told anything, its own state included.
    bool pump(const std::string& node, std::size_t most = all);
    // Tells everybody, until nothing is left to be told.
    void pump_all();

    // ---- What there is ----
    std::string owner() const;  // empty: the lease is free
    std::uint64_t epoch() const;
    std::uint64_t stored() const;  // the number of the last group
    // All groups that were ever stored, from one on.
    std::vector<Row> rows(std::uint64_t first = 1) const;
    std::uint64_t generations() const;  // how often it was replaced
    std::uint64_t gone() const;         // the last group that is kept only as a part of that
    std::string text() const;           // what is kept
    // Whether a node is the owner, and believes so.
    bool is_owner(const std::string& node) const;
    bool believes_to_be_owner(const std::string& node) const;
    std::uint64_t applied(const std::string& node) const;
    // Whether something of what a node stores is still to go wrong.
    bool is_to_fail(const std::string& node) const;

    static constexpr std::size_t all = ~std::size_t{0};

private:
    friend class SharedJournal;
    using Lock = std::unique_lock<std::mutex>;
    struct Seat {
        SharedJournal* journal = nullptr;
        bool paused = false;
        bool stands = true;
        bool killed = false;
        Fault fault = Fault::none;
        std::size_t fault_after = 0;
        bool answered = false;
    };

    Fault next_fault_locked(Seat& seat) {
        if (seat.fault == Fault::none || seat.fault_after-- > 0) return Fault::none;
        return std::exchange(seat.fault, Fault::none);
    }
    template <class Change>
    void change(Change change) {
        const std::lock_guard<std::mutex> guard(mutex_);
        change();
        changed_.notify_all();
    }
    std::uint64_t last_locked() const { return rows_.size(); }
    void add_locked(Row row) {
        rows_.push_back(std::move(row));
        bytes_ += rows_.back().lines.size();
    }
    std::string text_locked() const {
        std::string text = base_text_;
        for (std::size_t i = base_; i < rows_.size(); ++i) text += rows_[i].lines;
        return text;
    }

    mutable std::mutex mutex_;
    std::condition_variable changed_;
    // All below is guarded by mutex_.
    std::map<std::string, Seat> seats_;
    std::vector<Row> rows_;    // row N is the N-th
    std::uint64_t base_ = 0;   // up to this one they are gone, and are in the base
    std::string base_text_;    // what the last replacement has copied
    std::uint64_t bytes_ = 0;  // of the base and the rows behind it
    std::uint64_t generations_ = 0;
    std::string owner_;  // who has the lease; empty: it is free
    std::string next_;   // who alone may take it; empty: each that stands
    std::uint64_t epoch_ = 0;
    Away away_ = Away::no;
    std::optional<Row> late_;
};

// One node's journal on it.
class SharedJournal : public scheduler::Journal {
public:
    SharedJournal(std::shared_ptr<SharedLog> log, std::string node, Telling telling,
                  std::string url)
        : log_(std::move(log)), node_(std::move(node)), url_(std::move(url)), telling_(telling) {
        const std::lock_guard<std::mutex> guard(log_->mutex_);
        SharedLog::Seat& seat = log_->seats_[node_];
        if (seat.journal) throw std::logic_error("node " + node_ + " is open already");
        seat.journal = this;
        seat.killed = false;
    }
    ~SharedJournal() override;

    bool read(const Take& take) override;
    void commit(std::string_view lines, std::uint64_t) override { store(lines); }
    void write(std::string_view lines, std::uint64_t) override { store(lines); }
    bool commit_waits() const override { return true; }
    scheduler::Ends write_ends(std::string_view lines, std::uint64_t) noexcept override;
    void sync() override {}
    bool wants_sync() const override { return false; }
    void replace(Source& source) override;
    // After an outcome that is not known, until it is.
    bool failed() const override { return in_doubt_; }
    scheduler::JournalFigures figures() const override;
    bool is_owner() const override { return is_owner_; }
    void follow(Follower follower) override { follower_ = std::move(follower); }
    void stop_following() override;
    std::uint64_t applied() const override { return applied_; }
    std::optional<scheduler::Cluster> cluster() const override;

private:
    friend class SharedLog;
    using Lock = SharedLog::Lock;
    using Error = scheduler::Error;
    using Errc = scheduler::Errc;

    void store(std::string_view lines);
    void send(Lock& lock, const std::function<void(std::uint64_t number)>& effect);
    void wait_for_turn(Lock& lock);
    [[noreturn]] void doubt_locked(std::uint64_t number, const Error& error);
    void check_lease_locked();
    bool has_lease_locked() const { return log_->owner_ == node_ && log_->epoch_ == epoch_; }
    void stop_owning_locked() {
        changed_ = is_owner_.exchange(false) || changed_;
        log_->changed_.notify_all();
    }
    bool may_own_locked() const;
    void own_locked();
    bool is_doubt_over_locked() const;
    bool has_news_locked() const;
    bool pump(std::size_t most);
    bool tell_next(Lock& lock);
    void run();

    const std::shared_ptr<SharedLog> log_;
    const std::string node_;
    const std::string url_;
    const Telling telling_;
    Follower follower_;
    std::atomic<bool> is_owner_{false};
    std::atomic<bool> in_doubt_{false};
    std::atomic<std::uint64_t> applied_{0};
    // All below is guarded by the log's mutex.
    bool has_read_ = false;
    bool is_stopped_ = false;
    bool is_telling_ = false;
    bool is_storing_ = false;
    bool is_late_ = false;        // what is being stored arrives later
    bool has_thrown_ = false;     // what was told last has failed
    bool changed_ = false;        // and it was not said
    std::uint64_t epoch_ = 0;     // in which it was the owner
    std::uint64_t doubtful_ = 0;  // the number of which the outcome is not known
    std::uint64_t written_ = 0;
    std::uint64_t replacements_ = 0;
    std::thread teller_;
};

// ---- The log ---------------------------------------------------------------

inline std::unique_ptr<scheduler::Journal> SharedLog::open(const std::string& node, Telling telling,
                                                           const std::string& url) {
    return std::make_unique<SharedJournal>(shared_from_this(), node, telling, url);
}

inline void SharedLog::away(Away how) {
    change([&] { away_ = how; });
}

inline void SharedLog::fail(const std::string& node, Fault fault, std::size_t after) {
    change([&] {
        seats_[node].fault = fault;
        seats_[node].fault_after = after;
        seats_[node].answered = false;
    });
}

inline void SharedLog::answer(const std::string& node) {
    change([&] { seats_[node].answered = true; });
}

inline bool SharedLog::arrive() {
    bool is_stored = false;
    change([&] {
        if (!late_) return;
        is_stored =
            late_->epoch == epoch_ && late_->node == owner_ && late_->number == last_locked() + 1;
        if (is_stored) add_locked(*late_);
        late_.reset();
    });
    return is_stored;
}

inline void SharedLog::expire() {
    change([&] { owner_.clear(); });
}

inline void SharedLog::take(const std::string& node) {
    change([&] {
        owner_.clear();
        next_ = node;
    });
}

inline void SharedLog::give_up(const std::string& node) {
    change([&] {
        Seat& seat = seats_[node];
        if (!seat.journal) return;
        if (owner_ == node) owner_.clear();
        seat.journal->stop_owning_locked();
    });
}

inline void SharedLog::pause(const std::string& node, bool paused) {
    change([&] { seats_[node].paused = paused; });
}

inline void SharedLog::stand(const std::string& node, bool stands) {
    change([&] { seats_[node].stands = stands; });
}

inline void SharedLog::kill(const std::string& node) {
    change([&] { seats_[node].killed = true; });
}

inline bool SharedLog::pump(const std::string& node, std::size_t most) {
    SharedJournal* journal = nullptr;
    {
        const std::lock_guard<std::mutex> guard(mutex_);
        journal = seats_[node].journal;
    }
    return journal && journal->pump(most);
}

inline void SharedLog::pump_all() {
    std::vector<std::string> nodes;
    {
        const std::lock_guard<std::mutex> guard(mutex_);
        for (const auto& seat : seats_) nodes.push_back(seat.first);
    }
    for (bool any = true; any;) {
        any = false;
        for (const std::string& node : nodes) any = pump(node) || any;
    }
}

inline std::string SharedLog::owner() const {
    const std::lock_guard<std::mutex> guard(mutex_);
    return owner_;
}

inline std::uint64_t SharedLog::epoch() const {
    const std::lock_guard<std::mutex> guard(mutex_);
    return epoch_;
}

inline std::uint64_t SharedLog::stored() const {
    const std::lock_guard<std::mutex> guard(mutex_);
    return last_locked();
}

inline std::vector<SharedLog::Row> SharedLog::rows(std::uint64_t first) const {
    const std::lock_guard<std::mutex> guard(mutex_);
    const std::size_t skipped = std::min<std::size_t>(first - 1, rows_.size());
    return {rows_.begin() + static_cast<std::ptrdiff_t>(skipped), rows_.end()};
}

inline std::uint64_t SharedLog::generations() const {
    const std::lock_guard<std::mutex> guard(mutex_);
    return generations_;
}

inline std::uint64_t SharedLog::gone() const {
    const std::lock_guard<std::mutex> guard(mutex_);
    return base_;
}

inline std::string SharedLog::text() const {
    const std::lock_guard<std::mutex> guard(mutex_);
    return text_locked();
}

inline bool SharedLog::is_owner(const std::string& node) const {
    const std::lock_guard<std::mutex> guard(mutex_);
    const auto seat = seats_.find(node);
    return seat != seats_.end() && seat->second.journal && seat->second.journal->is_owner() &&
           seat->second.journal->has_lease_locked();
}

inline bool SharedLog::believes_to_be_owner(const std::string& node) const {
    const std::lock_guard<std::mutex> guard(mutex_);
    const auto seat = seats_.find(node);
    return seat != seats_.end() && seat->second.journal && seat->second.journal->is_owner();
}

inline std::uint64_t SharedLog::applied(const std::string& node) const {
    const std::lock_guard<std::mutex> guard(mutex_);
    const auto seat = seats_.find(node);
    return seat == seats_.end() || !seat->second.journal ? 0 : seat->second.journal->applied();
}

inline bool SharedLog::is_to_fail(const std::string& node) const {
    const std::lock_guard<std::mutex> guard(mutex_);
    const auto seat = seats_.find(node);
    return seat != seats_.end() && seat->second.fault != Fault::none;
}

// ---- Reading and being told ------------------------------------------------

inline SharedJournal::~SharedJournal() {
    stop_following();
    const std::lock_guard<std::mutex> guard(log_->mutex_);
    SharedLog::Seat& seat = log_->seats_[node_];
    seat.journal = nullptr;
    if (!seat.killed && has_lease_locked()) log_->owner_.clear();
    log_->changed_.notify_all();
}

inline bool SharedJournal::read(const Take& take) {
    std::string text;
    std::uint64_t last = 0;
    {
        Lock lock(log_->mutex_);
        log_->changed_.wait(lock, [this] { return log_->away_ != Away::hangs || is_stopped_; });
        if (log_->away_ != Away::no) throw Error(Errc::journal_unreadable, "no database answers");
        text = log_->text_locked();
        last = log_->last_locked();
    }
    for_each_line(text, take);
    const std::lock_guard<std::mutex> guard(log_->mutex_);
    applied_ = last;
    has_read_ = true;
    if (may_own_locked()) own_locked();
    if (telling_ == Telling::thread) teller_ = std::thread([this] { run(); });
    return false;
}

inline void SharedJournal::stop_following() {
    Lock lock(log_->mutex_);
    is_stopped_ = true;
    log_->changed_.notify_all();
    log_->changed_.wait(lock, [this] { return !is_telling_; });
    lock.unlock();
    if (teller_.joinable()) teller_.join();
}

// One that is told everything, and whose calls have all returned.
inline bool SharedJournal::may_own_locked() const {
    const SharedLog::Seat& seat = log_->seats_[node_];
    const bool is_free = log_->owner_.empty() || log_->owner_ == node_;
    const bool is_chosen = log_->next_.empty() || log_->next_ == node_;
    return !is_owner_ && has_read_ && log_->away_ == Away::no && seat.stands && !seat.paused &&
           !is_storing_ && is_free && is_chosen && applied_ == log_->last_locked();
}

inline void SharedJournal::own_locked() {
    log_->owner_ = node_;
    log_->next_.clear();
    epoch_ = ++log_->epoch_;
    log_->changed_.notify_all();
    in_doubt_ = false;
    is_owner_ = true;
    changed_ = true;
}

// An outcome is known when it was told, or can never be stored any more.
inline bool SharedJournal::is_doubt_over_locked() const {
    return in_doubt_ && log_->away_ == Away::no && applied_ == log_->last_locked() &&
           (applied_ >= doubtful_ || log_->epoch_ > epoch_);
}

// Whether there is something to do for whoever tells.
inline bool SharedJournal::has_news_locked() const {
    if (log_->seats_[node_].paused || !has_read_ || is_stopped_ || is_telling_) return false;
    const bool has_lost = is_owner_ && (log_->away_ == Away::refuses || !has_lease_locked());
    const bool is_behind =
        log_->away_ == Away::no && !is_storing_ && applied_ < log_->last_locked();
    return changed_ || has_lost || is_behind || is_doubt_over_locked() || may_own_locked();
}

inline bool SharedJournal::pump(std::size_t most) {
    Lock lock(log_->mutex_);
    if (!has_news_locked()) return false;
    is_telling_ = true;
    has_thrown_ = false;
    if (is_owner_ && (log_->away_ == Away::refuses || !has_lease_locked())) stop_owning_locked();
    while (most > 0 && log_->away_ == Away::no && !is_storing_ && !is_stopped_ &&
           applied_ < log_->last_locked()) {
        if (!tell_next(lock)) break;
        changed_ = true;
        --most;
    }
    if (is_doubt_over_locked()) {
        in_doubt_ = false;
        changed_ = true;
    }
    if (may_own_locked()) own_locked();
    const bool changed = std::exchange(changed_, false);
    lock.unlock();
    try {
        if (changed && follower_.changed) follower_.changed();
        lock.lock();
    } catch (...) {  // it is said again
        lock.lock();
        has_thrown_ = changed_ = true;
    }
    is_telling_ = false;
    log_->changed_.notify_all();
    return !has_thrown_;
}

// Tells of the next group, or of everything if that is gone.  False: the follower has failed.
inline bool SharedJournal::tell_next(Lock& lock) {
    std::uint64_t number = applied_ + 1;
    try {
        const bool is_gone = applied_ < log_->base_;
        const std::string text = is_gone ? log_->text_locked() : log_->rows_[applied_].lines;
        if (is_gone) number = log_->last_locked();
        lock.unlock();
        if (is_gone) {
            follower_.reread([&text](const Take& take) { for_each_line(text, take); });
        } else {
            follower_.written(text);
        }
    } catch (...) {
        if (!lock.owns_lock()) lock.lock();
        has_thrown_ = true;
        return false;
    }
    lock.lock();
    applied_ = number;
    return true;
}

inline void SharedJournal::run() {
    for (;;) {
        {
            Lock lock(log_->mutex_);
            if (has_thrown_) log_->changed_.wait_for(lock, std::chrono::milliseconds(2));
            log_->changed_.wait(lock, [this] { return is_stopped_ || has_news_locked(); });
            if (is_stopped_) return;
        }
        pump(SharedLog::all);
    }
}

// ---- Storing ---------------------------------------------------------------

// Groups are stored one behind the other, and where the database hangs, so do they.
inline void SharedJournal::wait_for_turn(Lock& lock) {
    log_->changed_.wait(lock, [this] { return !is_storing_; });
    check_lease_locked();
    is_storing_ = true;
    log_->changed_.wait(lock, [this] { return log_->away_ != Away::hangs || is_stopped_; });
    if (log_->away_ == Away::no) return;
    is_storing_ = false;
    stop_owning_locked();
    throw Error(Errc::journal_failed, "the database does not answer");
}

inline void SharedJournal::check_lease_locked() {
    if (!is_owner_) throw Error(Errc::not_owner, "this node is not the owner");
}

inline void SharedJournal::doubt_locked(std::uint64_t number, const Error& error) {
    doubtful_ = number;
    in_doubt_ = true;
    stop_owning_locked();
    throw error;
}

// One statement, which is nothing where the lease is another's.
inline void SharedJournal::send(Lock& lock, const std::function<void(std::uint64_t)>& effect) {
    wait_for_turn(lock);
    const scheduler::detail::AtExit end([this] {
        is_storing_ = is_late_ = false;
        log_->changed_.notify_all();
    });
    // Made before anything is stored, as there may be no memory then.
    const Error unanswered(Errc::outcome_unknown, "the database has not answered");
    SharedLog::Seat& seat = log_->seats_[node_];
    const Fault fault = log_->next_fault_locked(seat);
    const std::uint64_t number = log_->last_locked() + 1;
    if (fault == Fault::lost) doubt_locked(number, unanswered);
    if (!has_lease_locked() || seat.killed) {
        stop_owning_locked();
        throw Error(Errc::not_owner, "another node has taken over");
    }
    if (fault == Fault::refused) throw Error(Errc::journal_failed, "the database has refused it");
    if (fault == Fault::late) {
        is_late_ = true;
        effect(number);
        doubt_locked(number, unanswered);
    }
    effect(number);
    if (fault == Fault::slow) {
        log_->changed_.notify_all();
        log_->changed_.wait(lock, [&] { return seat.answered || is_stopped_; });
        if (!seat.answered) doubt_locked(number, unanswered);
    }
    if (fault == Fault::unknown) doubt_locked(number, unanswered);
}

inline void SharedJournal::store(std::string_view lines) {
    Lock lock(log_->mutex_);
    if (lines.empty()) return check_lease_locked();
    std::uint64_t number = 0;
    send(lock, [&](std::uint64_t next) {
        SharedLog::Row row{next, epoch_, node_, std::string(lines)};
        if (is_late_) {
            log_->late_ = std::move(row);
        } else {
            log_->add_locked(std::move(row));
        }
        number = next;
    });
    written_ += lines.size();
    applied_ = number;
}

inline scheduler::Ends SharedJournal::write_ends(std::string_view lines, std::uint64_t) noexcept {
    try {
        store(lines);
        return scheduler::Ends::written;
    } catch (...) {
        const std::lock_guard<std::mutex> guard(log_->mutex_);
        stop_owning_locked();
        return scheduler::Ends::fenced;
    }
}

inline void SharedJournal::replace(Source& source) {
    {
        const std::lock_guard<std::mutex> guard(log_->mutex_);
        check_lease_locked();
    }
    std::string text;
    std::uint64_t base = 0;
    source.at_rest([&] {
        const std::lock_guard<std::mutex> guard(log_->mutex_);
        base = log_->last_locked();
    });
    source.copy([&text](std::string_view lines) { text += lines; });
    Lock lock(log_->mutex_);
    send(lock, [&](std::uint64_t) {
        written_ += text.size();
        log_->base_ = base;
        log_->base_text_ = std::move(text);
        log_->bytes_ = log_->base_text_.size();
        for (std::size_t i = base; i < log_->rows_.size(); ++i) {
            log_->bytes_ += log_->rows_[i].lines.size();
        }
        ++log_->generations_;
    });
    ++replacements_;
}

inline scheduler::JournalFigures SharedJournal::figures() const {
    const std::lock_guard<std::mutex> guard(log_->mutex_);
    scheduler::JournalFigures figures;
    figures.failed = in_doubt_;
    figures.bytes = log_->bytes_;
    figures.written = written_;
    figures.replacements = replacements_;
    return figures;
}

inline std::optional<scheduler::Cluster> SharedJournal::cluster() const {
    const std::lock_guard<std::mutex> guard(log_->mutex_);
    scheduler::Cluster cluster;
    cluster.node = node_;
    cluster.owner = log_->owner_;
    cluster.epoch = log_->epoch_;
    cluster.stored = log_->last_locked();
    cluster.applied = applied_;
    cluster.is_connected = log_->away_ == Away::no;
    if (!cluster.is_connected) cluster.problem = "the database does not answer";
    for (const auto& [name, seat] : log_->seats_) {
        if (!seat.journal) continue;
        if (name == log_->owner_) cluster.owner_url = seat.journal->url_;
        cluster.nodes.push_back({name, seat.journal->url_, seat.journal->applied(), {}});
    }
    return cluster;
}

}  // namespace support

#endif  // TESTS_SHARED_JOURNAL_HPP
