// SPDX-License-Identifier: MIT
//
// scheduler.hpp: a one-time task scheduler in one header.
//
// Give it a JSON message and a moment up to a year ahead; at that moment it
// emits the message, exactly as it was given, to everyone who listens.
//
//     scheduler::Scheduler tasks;
//     tasks.on_event([](const scheduler::Event& event) { std::puts(event.payload.c_str()); });
//     tasks.schedule(std::chrono::seconds(30), R"({"name": "Luke", "title": "Jedi"})");
//
// Contents (search for the number with its dot):
//
//   1. Configuration   version, the one switch, includes
//   2. Vocabulary      what every later section speaks
//   3. Text            check and delimit JSON without changing it
//   4. Time            ISO 8601 in and out, delays, the clock
//   5. Files           the few POSIX calls, behind one seam
//   6. Records         what a journal can say
//   7. State           what records mean: queue, tasks by id, history, keys, sinks
//   8. Journal         where records are kept: the interface, and the file
//   9. Store           state and journal under one lock: begin, commit, emit, replace
//  10. Scheduler       the thread that decides when, and the public API
//  11. Sinks           who takes every event, durably; commands
//  12. Pages           JSON, metrics and the OpenAPI document as text
//  13. HTTP            event streams, connections, routes, a server
//  14. Webhooks        the sink that needs HTTP, and sinks from a file
//  15. Client          the HTTP interface from the other side
//
// How a task flows, one way and without going back: a call or a request is checked
// (3, 4) and begun (9); its record (6) is stored (8), applied (7) and answered.  The
// scheduler's thread takes what is due (10), writes and applies that, and wakes the
// readers, each of which is a cursor over the history: callbacks (10), sinks (11, 14)
// and event streams (13).

#ifndef SCHEDULER_HPP
#define SCHEDULER_HPP

// ============================================================================
//  1. Configuration
// ============================================================================

#define SCHEDULER_VERSION_MAJOR 0
#define SCHEDULER_VERSION_MINOR 1
#define SCHEDULER_VERSION_PATCH 0
#define SCHEDULER_VERSION "0.1.0"

// What cannot work is told in one sentence, and nothing else of this file is read.
#if __cplusplus < 201703L
#error "scheduler.hpp needs C++17 or later: compile with -std=c++17"
#elif !defined(__linux__) && !defined(SCHEDULER_NO_HTTP)
#error "scheduler.hpp needs Linux for HTTP; define SCHEDULER_NO_HTTP to do without on other systems"
#elif !__has_include(<unistd.h>)
#error "scheduler.hpp needs a system like Unix"
#elif !defined(__cpp_exceptions)
#error "scheduler.hpp needs exceptions: compile without -fno-exceptions"
#else

// Names that headers of other libraries (Qt, X11, Windows' for Wine) are known to define as
// macros.  They are set aside while this file is read and come back at its end.
#pragma push_macro("emit")
#undef emit
#pragma push_macro("error")
#undef error
#pragma push_macro("far")
#undef far
#pragma push_macro("max")
#undef max
#pragma push_macro("min")
#undef min
#pragma push_macro("near")
#undef near
#pragma push_macro("signals")
#undef signals
#pragma push_macro("slots")
#undef slots
#pragma push_macro("status")
#undef status
#pragma push_macro("Status")
#undef Status

// Casts to std::size_t and time_t say something on 32-bit machines only; and OpenSSL marks as
// unused what is to be used.
#pragma GCC diagnostic push
#ifdef __clang__
#pragma GCC diagnostic ignored "-Wused-but-marked-unused"
#else
#pragma GCC diagnostic ignored "-Wuseless-cast"
#endif

// Define SCHEDULER_NO_HTTP before the inclusion to leave out sections 13 to 15 and
// with them the need for cpp-httplib.  It removes whole sections and changes no
// class, so a program may mix translation units with and without it.
#if !defined(SCHEDULER_NO_HTTP) && !__has_include(<httplib.h>)
#error "scheduler.hpp needs cpp-httplib's httplib.h; define SCHEDULER_NO_HTTP to do without HTTP"
#endif

#if !__has_include(<picojson/picojson.h>) && !__has_include(<picojson.h>)
#error "scheduler.hpp needs picojson.h (Debian: picojson-dev)"
#endif

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <deque>
#include <exception>
#include <functional>
#include <initializer_list>
#include <iterator>
#include <limits>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <numeric>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <type_traits>
#include <unordered_map>
#include <utility>
#include <vector>

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifdef __GLIBC__
#include <malloc.h>
#endif
#ifdef __linux__
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#endif

#if __has_include(<picojson/picojson.h>)
#include <picojson/picojson.h>
#else
#include <picojson.h>
#endif

#ifndef SCHEDULER_NO_HTTP
#include <httplib.h>

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>

#ifdef CPPHTTPLIB_OPENSSL_SUPPORT
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#endif
#endif

namespace scheduler {

// ============================================================================
//  2. Vocabulary
// ============================================================================

// ---- 2.1 Times, errors and ids ---------------------------------------------

using std::chrono::milliseconds;

/// A moment on the wall clock (UTC), to the millisecond.
using TimePoint = std::chrono::time_point<std::chrono::system_clock, milliseconds>;

/// Why a call was refused.  `Error::what()` says the rest in a sentence.
enum class Errc {
    invalid_argument,    ///< the task, its time or its message is not acceptable
    unknown_task,        ///< no task, or no event, has this id
    unknown_sink,        ///< no sink has this name
    sink_listed,         ///< the sink is delivered to; it cannot be forgotten
    already_emitted,     ///< the task was emitted; it can be neither cancelled nor changed
    key_reused,          ///< the idempotency key came with another request before
    condition_failed,    ///< a put was to make a task that there is, or to replace one that is not
    task_limit,          ///< `Options::max_tasks` or `Options::max_bytes` is reached
    disk_full,           ///< the journal's file system has no room for the record
    journal_failed,      ///< the journal cannot be written or synced
    outcome_unknown,     ///< the same, and the change may be found stored after a restart
    journal_busy,        ///< another process or object has the journal open
    journal_unreadable,  ///< the file cannot be opened, is no journal, or is too new
    clock_untrusted,     ///< the clock is behind the newest record of the journal
    not_owner,           ///< another process owns the journal, or none does at this moment
    stopped,             ///< the scheduler is shutting down
    refused,             ///< `Client`: the server refuses the request for another reason
    unreachable,         ///< `Client`: there is no server, or its answer is not understood
};

/// The one exception that the library throws on purpose.
class Error : public std::runtime_error {
public:
    /// What is said of a refusal of this kind, in a sentence.
    Error(Errc code, const std::string& what) : std::runtime_error(what), code_(code) {}
    /// What kind of refusal it is.
    Errc code() const noexcept { return code_; }

private:
    Errc code_;
};

namespace detail {

// Adds a number in decimal digits.
inline void append_number(std::string& out, std::uint64_t number) {
    std::array<char, 20> digits;
    out.append(digits.data(),
               std::to_chars(digits.data(), digits.data() + digits.size(), number).ptr);
}

// A part of a sentence: a text, or a number that is not negative.
struct Part {
    Part(std::string_view its_text)
        : text(its_text.empty() ? "" : its_text.data()), size(its_text.size()) {}
    Part(const std::string& its_text) : text(its_text.data()), size(its_text.size()) {}
    Part(const char* its_text) : text(its_text), size(std::string_view(its_text).size()) {}
    template <class Int, class = std::enable_if_t<std::is_integral_v<Int>>>
    Part(Int number) : size(static_cast<std::uint64_t>(number)) {}
    Part(char) = delete;  // which would be a number

    const char* text = nullptr;  // null: it is a number
    std::uint64_t size;          // of the text, or the number
};

inline void append_part(std::string& to, const Part& part) {
    if (part.text) {
        to.append(part.text, static_cast<std::size_t>(part.size));
    } else {
        append_number(to, part.size);
    }
}

// A sentence of these parts.  It takes less code, and no string for each step, as + does.
inline std::string concat(std::initializer_list<Part> parts) {
    std::string sentence;
    for (const Part& part : parts) append_part(sentence, part);
    return sentence;
}

// Refuses with a sentence of these parts.
[[noreturn]] inline void throw_as(Errc code, std::initializer_list<Part> parts) {
    throw Error(code, concat(parts));
}

}  // namespace detail

/// The id of a task and of its event: a UUID version 7 (RFC 9562).  Ids rise
/// strictly within one journal, so their order is the order of arrival.
class TaskId {
public:
    /// The nil id, which no task has.
    constexpr TaskId() = default;
    /// An id from its two halves in network order.
    constexpr TaskId(std::uint64_t high, std::uint64_t low) : high_(high), low_(low) {}

    /// Reads the canonical text form, in either case of letters.  Nothing for
    /// any other text.
    static std::optional<TaskId> parse(std::string_view text);
    /// The canonical text form: 36 characters, lower case.
    std::string str() const;

    /// The first 64 bits; the upper 48 of them count milliseconds since 1970.
    constexpr std::uint64_t high() const { return high_; }
    /// The last 64 bits.
    constexpr std::uint64_t low() const { return low_; }
    /// The id that is `n` further in the run of ids that begins with this one.
    constexpr TaskId plus(std::uint64_t n) const { return TaskId(high_, low_ + n); }
    /// When the id was made, as it says.
    constexpr TimePoint time() const {
        return TimePoint(milliseconds(static_cast<std::int64_t>(high_ >> 16)));
    }

    /// Whether both are the same.
    friend constexpr bool operator==(TaskId a, TaskId b) {
        return a.high_ == b.high_ && a.low_ == b.low_;
    }
    /// Whether they are not.
    friend constexpr bool operator!=(TaskId a, TaskId b) { return !(a == b); }
    /// Whether `a` was made first, within one journal.
    friend constexpr bool operator<(TaskId a, TaskId b) {
        return a.high_ != b.high_ ? a.high_ < b.high_ : a.low_ < b.low_;
    }

private:
    std::uint64_t high_ = 0;
    std::uint64_t low_ = 0;
};

/// What becomes of a task.
enum class Status {
    pending,  ///< waits for its due time
    emitted,  ///< is in the history
    missed,   ///< was too late to be emitted, by its own `max_lateness` or that of `Options`
};

namespace detail {

struct PayloadAccess;

// Where a task stands on its way, see State.
enum class Stage : std::uint8_t {
    arriving,  // has a name, and the record that makes it is on its way
    pending,   // in the queue
    held,      // a record that changes or cancels it is on its way
    emitting,  // the record of its emission is on its way
    emitted,   // in the history
    missed,    // in the list of those that were too late to be emitted
};

inline bool is_ended(Stage stage) {
    return stage == Stage::emitted || stage == Stage::missed;
}

// What a task may have beside its payload and its due time; empty: it has not.
struct Details {
    std::string_view name;         // that PUT gave it
    std::string_view topic;        // as the payload says
    milliseconds max_lateness{0};  // later than this it is missed, and not emitted
    std::string_view traceparent;  // of the request that scheduled it (W3C Trace Context)
    std::string_view tracestate;   // likewise

    // Calls fn(bit, text) for each of the texts, in the order in which a task keeps them.
    template <class Self, class Fn>
    static void for_each_text(Self& self, Fn fn) {
        fn(2U, self.topic);
        fn(4U, self.name);
        fn(8U, self.traceparent);
        fn(16U, self.tracestate);
    }
    static constexpr unsigned lateness_bit = 1;
    static constexpr unsigned name_bit = 4;
};

// A task in one allocation: its payload lies right behind it and is ended by a NUL, and behind
// that its details, each with the size of its text.  Size, due time, payload and details never
// change, and the id not once others can see it, so that readers share them without a lock; the
// rest is guarded by the store's lock.
struct StoredTask {
    std::atomic<std::uint32_t> references{1};
    std::uint32_t size = 0;  // of the payload, in bytes
    TaskId id;
    TimePoint due{};
    TimePoint ended_at{};
    std::uint64_t seq = 0;       // in the history; while it is held, the number of what holds it
    StoredTask* next = nullptr;  // in its chain, see TaskIndex
    Stage stage = Stage::pending;
    std::uint8_t given = 0;  // a bit for each of the details that it has

    char* data() { return reinterpret_cast<char*>(this) + header; }
    const char* data() const { return reinterpret_cast<const char*>(this) + header; }
    std::string_view text() const { return {data(), size}; }
    Details details() const { return given == 0 ? Details() : read_details(); }
    // How late it may be, if it says so itself.
    std::optional<milliseconds> max_lateness() const {
        if ((given & Details::lateness_bit) == 0) return std::nullopt;
        return read_details().max_lateness;
    }
    bool has_name() const { return (given & Details::name_bit) != 0; }
    // Of payload and details, a name's place in the index included: what differs from task to task
    // of what counts towards `Options::max_bytes`.
    std::size_t bytes() const;
    // What each takes beside that: itself, its places in the index and the queue or the history,
    // and what the allocator adds.
    static constexpr std::size_t beside = 112;
    std::size_t memory() const { return bytes() + beside; }

    static const std::size_t header;
    using TextSize = std::uint16_t;
    static std::size_t details_size(const Details& details);

private:
    Details read_details() const;
};

// The payload begins behind the last member, not behind the padding.
inline constexpr std::size_t StoredTask::header = offsetof(StoredTask, given) + 1;

inline std::size_t StoredTask::details_size(const Details& details) {
    std::size_t size = details.max_lateness.count() > 0 ? sizeof(milliseconds::rep) : 0;
    Details::for_each_text(details, [&size](unsigned, std::string_view text) {
        if (!text.empty()) size += sizeof(TextSize) + text.size();
    });
    return size;
}

inline std::size_t StoredTask::bytes() const {
    constexpr std::size_t name_in_index = 80;
    const std::size_t in_index = has_name() ? name_in_index : 0;
    return given == 0 ? size : size + details_size(details()) + in_index;
}

inline Details StoredTask::read_details() const {
    Details details;
    const char* at = data() + size + 1;
    if ((given & Details::lateness_bit) != 0) {
        milliseconds::rep count = 0;
        std::memcpy(&count, at, sizeof count);
        details.max_lateness = milliseconds(count);
        at += sizeof count;
    }
    Details::for_each_text(details, [this, &at](unsigned bit, std::string_view& text) {
        if ((given & bit) == 0) return;
        TextSize length = 0;
        std::memcpy(&length, at, sizeof length);
        text = {at + sizeof length, length};
        at += sizeof length + length;
    });
    return details;
}

// A counted reference to a task: the task is freed with the last of them.
class TaskRef {
public:
    TaskRef() = default;
    // Each text of the details takes at most 65,535 bytes.
    static TaskRef make(TaskId id, TimePoint due, std::string_view payload,
                        const Details& details = {});
    static TaskRef share(StoredTask* task) {
        task->references.fetch_add(1, std::memory_order_relaxed);
        return TaskRef(task);
    }
    // Takes over a reference that release() gave away.
    static TaskRef adopt(StoredTask* task) { return TaskRef(task); }

    TaskRef(const TaskRef& other) : task_(other.task_) {
        if (task_) task_->references.fetch_add(1, std::memory_order_relaxed);
    }
    TaskRef(TaskRef&& other) noexcept : task_(std::exchange(other.task_, nullptr)) {}
    TaskRef& operator=(TaskRef other) noexcept {
        std::swap(task_, other.task_);
        return *this;
    }
    ~TaskRef() {
        if (task_ && task_->references.fetch_sub(1, std::memory_order_acq_rel) == 1) {
            task_->~StoredTask();
            ::operator delete(task_);
        }
    }

    StoredTask* release() { return std::exchange(task_, nullptr); }
    StoredTask* get() const { return task_; }
    StoredTask* operator->() const { return task_; }
    explicit operator bool() const { return task_ != nullptr; }

private:
    explicit TaskRef(StoredTask* task) : task_(task) {}
    StoredTask* task_ = nullptr;
};

inline TaskRef TaskRef::make(TaskId id, TimePoint due, std::string_view payload,
                             const Details& details) {
    const std::size_t size =
        StoredTask::header + payload.size() + 1 + StoredTask::details_size(details);
    void* memory = ::operator new(std::max(size, sizeof(StoredTask)));
    auto* task = new (memory) StoredTask;
    task->size = static_cast<std::uint32_t>(payload.size());
    task->id = id;
    task->due = due;
    std::copy(payload.begin(), payload.end(), task->data());
    char* at = task->data() + payload.size();
    *at++ = '\0';
    if (const milliseconds::rep count = details.max_lateness.count(); count > 0) {
        task->given = Details::lateness_bit;
        std::memcpy(at, &count, sizeof count);
        at += sizeof count;
    }
    Details::for_each_text(details, [task, &at](unsigned bit, std::string_view text) {
        if (text.empty()) return;
        const auto length = static_cast<StoredTask::TextSize>(text.size());
        task->given = static_cast<std::uint8_t>(task->given | bit);
        std::memcpy(at, &length, sizeof length);
        at = std::copy(text.begin(), text.end(), at + sizeof length);
    });
    return TaskRef(task);
}

inline char hex_digit(unsigned value) {
    return "0123456789abcdef"[value & 15U];
}

constexpr std::array<std::int8_t, 256> make_hex_values() {
    std::array<std::int8_t, 256> values{};
    for (std::int8_t& value : values) value = -1;
    for (std::int8_t i = 0; i < 16; ++i) {
        values[static_cast<unsigned char>("0123456789abcdef"[i])] = i;
        values[static_cast<unsigned char>("0123456789ABCDEF"[i])] = i;
    }
    return values;
}

inline constexpr auto hex_values = make_hex_values();

// The value of a hexadecimal digit, or -1.
inline int hex_value(char c) {
    return hex_values[static_cast<unsigned char>(c)];
}

// The number that four hexadecimal digits say, or -1.
inline int hex_number(const char* four) {
    const int a = hex_value(four[0]);
    const int b = hex_value(four[1]);
    const int c = hex_value(four[2]);
    const int d = hex_value(four[3]);
    return (a | b | c | d) < 0 ? -1 : ((a * 16 + b) * 16 + c) * 16 + d;
}

}  // namespace detail

/// The JSON text that a task carries, and what else it was given: immutable, shared, cheap to
/// copy, valid for as long as a copy of it lives.
class Payload {
public:
    /// An empty text.
    Payload() = default;

    /// The text.
    std::string_view view() const { return task_ ? task_->text() : std::string_view(); }
    /// The text, ended by a NUL.
    const char* c_str() const { return task_ ? task_->data() : ""; }
    /// A copy of the text.
    std::string str() const { return std::string(view()); }

    /// The name that the task was put by; empty if it has none.
    std::string_view name() const { return details().name; }
    /// The topic that the text says; empty if it says none.
    std::string_view topic() const { return details().topic; }
    /// By how much the task may be late and is emitted all the same, if it says so itself.
    std::optional<milliseconds> max_lateness() const {
        const milliseconds most = details().max_lateness;
        return most.count() > 0 ? std::optional(most) : std::nullopt;
    }
    /// The trace of the request that scheduled the task (W3C Trace Context), or empty.
    std::string_view traceparent() const { return details().traceparent; }
    /// What vendors added to that, or empty.
    std::string_view tracestate() const { return details().tracestate; }

private:
    friend struct detail::PayloadAccess;
    detail::Details details() const { return task_ ? task_->details() : detail::Details(); }

    detail::TaskRef task_;
};

namespace detail {

// Leads from a payload to the task that holds its text, and back: a payload's private parts are
// for this header alone.
struct PayloadAccess {
    static Payload make(TaskRef task) {
        Payload payload;
        payload.task_ = std::move(task);
        return payload;
    }
    static const TaskRef& task_of(const Payload& payload) { return payload.task_; }
    static Details details_of(const Payload& payload) { return payload.details(); }
};

}  // namespace detail

// ---- 2.2 Tasks and events --------------------------------------------------

/// A task as the scheduler knows it at one moment.
struct Task {
    TaskId id;                        ///< also the id of its event
    TimePoint due{};                  ///< when it is to be emitted
    Status status = Status::pending;  ///< what became of it
    TimePoint ended_at{};             ///< when it was emitted or missed, if it was
    Payload payload;                  ///< what is emitted: a JSON object

    /// What its payload has: see `Payload`.
    std::string_view text() const { return payload.view(); }
    std::string_view name() const { return payload.name(); }    ///< see `Payload::name`
    std::string_view topic() const { return payload.topic(); }  ///< see `Payload::topic`
    /// See `Payload::max_lateness`.
    std::optional<milliseconds> max_lateness() const { return payload.max_lateness(); }
    /// See `Payload::traceparent`.
    std::string_view traceparent() const { return payload.traceparent(); }
    /// See `Payload::tracestate`.
    std::string_view tracestate() const { return payload.tracestate(); }
};

/// A task to schedule.
struct NewTask {
    TimePoint due{};      ///< when it is to be emitted
    std::string message;  ///< JSON text of an object, an array or a string
    /// What it is about, which readers may choose by: 1 to 128 letters, digits and characters
    /// of `._~/-`; empty: nothing.
    std::string topic{};
    /// Later than this it is missed, and not emitted: from a second to 366 days; this stands
    /// above `Options::max_lateness`.
    std::optional<milliseconds> max_lateness{};
};

/// When a put does what it says; else it throws `Error` with `condition_failed`.
enum class PutIf {
    any,      ///< always
    absent,   ///< only if no task of the name is pending: it only creates
    present,  ///< only if one is: it only replaces
};

/// What a put came to.
struct PutResult {
    TaskId id;             ///< of the task that the name means from then on
    bool created = false;  ///< whether it is a new one
};

/// What is to change of a pending task; nothing given stays as it is.
struct TaskChange {
    std::optional<TimePoint> due;        ///< when it is to be emitted
    std::optional<std::string> message;  ///< JSON text of an object, an array or a string
};

/// Which pending tasks, by due time; both bounds are exclusive.
struct DueRange {
    std::optional<TimePoint> after;   ///< only those due later than this
    std::optional<TimePoint> before;  ///< only those due earlier than this
};

/// Which tasks or events: those that every member chooses.  An empty member chooses all.
struct Filter {
    /// Only those whose payload's text, name or id holds this.
    std::string text;
    /// Only those whose topic one of these chooses: a topic, or the beginning of one and a `*`,
    /// which stands for any rest.  What has no topic is chosen by none.
    std::vector<std::string> topics{};

    /// Whether it chooses all.
    bool is_open() const { return text.empty() && topics.empty(); }
};

/// How many tasks are pending in each of some equal spans of time.
struct Histogram {
    TimePoint from{};                 ///< where the first span begins
    TimePoint to{};                   ///< where the last span ends
    std::vector<std::size_t> counts;  ///< of each span, which has its begin and not its end

    /// How many spans there can be.
    static constexpr std::size_t max_buckets = 500;
};

/// A task that was emitted.
struct Event {
    TaskId id;               ///< the task's id
    TimePoint due{};         ///< when it was to be emitted
    TimePoint emitted_at{};  ///< when it was
    std::uint64_t seq = 0;   ///< its place in the order of emission
    Payload payload;         ///< what is emitted: a JSON object

    /// What its payload has: see `Payload`.
    std::string_view text() const { return payload.view(); }
    std::string_view name() const { return payload.name(); }    ///< see `Payload::name`
    std::string_view topic() const { return payload.topic(); }  ///< see `Payload::topic`
    /// See `Payload::max_lateness`.
    std::optional<milliseconds> max_lateness() const { return payload.max_lateness(); }
    /// See `Payload::traceparent`.
    std::string_view traceparent() const { return payload.traceparent(); }
    /// See `Payload::tracestate`.
    std::string_view tracestate() const { return payload.tracestate(); }

    /// By how much it was emitted after it was due.
    milliseconds late() const { return emitted_at - due; }
};

/// A place in the order of pending tasks, by due time and then by id.
struct TaskCursor {
    TimePoint due{};  ///< of the task before it
    TaskId id;        ///< likewise
};

/// Which pending tasks to list.
struct TaskQuery {
    std::size_t limit = 100;                       ///< how many at most
    std::optional<TaskCursor> after;               ///< only those behind this place
    DueRange due;                                  ///< only those due in this range
    std::size_t max_bytes = std::size_t{4} << 20;  ///< a page ends when its payloads reach this
    Filter filter{};      ///< only those; a page ends when `max_searched` were looked at
    bool counts = false;  ///< whether all that it chooses are counted, too
    Status status = Status::pending;  ///< pending tasks, or those that were missed
};

/// How many tasks or events are looked at for a page, or for a count, in search of those that
/// a filter chooses.
inline constexpr std::size_t max_searched = 100'000;

/// Pending tasks by due time, or missed ones in the order in which they were.
struct TaskPage {
    std::vector<Task> tasks;  ///< of this page
    std::size_t total = 0;  ///< of all pending tasks, or of all missed ones that are kept
    bool more = false;      ///< whether others may follow that the query asks for
    std::optional<TaskCursor> next;       ///< if so: where the next page begins, its `after`
    std::optional<std::size_t> matching;  ///< how many the query chooses, on all pages, if it
                                          ///< counts them and all could be looked at
};

/// A place in the order of emission: right before an event, or behind all of them.
class Cursor {
public:
    /// Before the oldest event that is retained.
    constexpr Cursor() = default;
    /// Before the event with this seq.
    explicit constexpr Cursor(std::uint64_t seq) : seq_(seq) {}
    /// The oldest event that is retained at the moment of the call that it is given to.
    static constexpr Cursor earliest() { return Cursor(); }
    /// Behind the newest event at the moment of the call that it is given to.
    static constexpr Cursor now() { return Cursor(~std::uint64_t{0}); }
    /// Behind an event.
    static constexpr Cursor behind(const Event& event) { return Cursor(event.seq + 1); }

    /// The seq of the event that it stands before.
    constexpr std::uint64_t seq() const { return seq_; }

    /// Whether both stand before the same event.
    friend constexpr bool operator==(Cursor a, Cursor b) { return a.seq_ == b.seq_; }
    /// Whether they are not.
    friend constexpr bool operator!=(Cursor a, Cursor b) { return a.seq_ != b.seq_; }
    /// Whether `a` comes first.
    friend constexpr bool operator<(Cursor a, Cursor b) { return a.seq_ < b.seq_; }

private:
    std::uint64_t seq_ = 0;
};

/// Which past events to list: those from a cursor on, or the last ones before one.
struct EventQuery {
    std::size_t limit = 100;                       ///< how many at most
    Cursor from{};                                 ///< the first of them comes right behind this
    std::optional<Cursor> before{};                ///< in place of `from`: the last comes before it
    std::size_t max_bytes = std::size_t{4} << 20;  ///< a page ends when its payloads reach this
    Filter filter{};      ///< only those; a page ends when `max_searched` were looked at
    bool counts = false;  ///< whether all that it chooses are counted, too
};

/// Which past events: from the cursor `begin` to before the cursor `end`.
struct EventRange {
    Cursor begin{};              ///< the oldest event that is retained, if nothing else is said
    Cursor end = Cursor::now();  ///< all of them, likewise
};

/// Past events in order of emission.
struct EventPage {
    std::vector<Event> events;  ///< of this page, in order of emission
    std::size_t total = 0;  ///< of all retained events
    bool more = false;      ///< whether others follow
    bool lost = false;      ///< whether the cursor asked for events that were trimmed
    Cursor next;            ///< the cursor behind the last that was looked at
    std::optional<TaskId> first;          ///< the first that was looked at, if any
    std::optional<TaskId> last;           ///< the last that was looked at, if any
    std::optional<std::size_t> matching;  ///< how many the query chooses, on all pages, if it
                                          ///< counts them and all could be looked at
};

// ---- 2.3 Sinks and figures -------------------------------------------------

/// Whether a sink is delivered to.
enum class SinkState {
    active,    ///< it is
    paused,    ///< not until `Scheduler::resume_sink`
    disabled,  ///< the same, because the receiver asked for it
    unlisted,  ///< not until it is one of those given to `Sinks` again
};

/// What becomes of the sinks that the journal knows and `Sinks` is not given.
enum class Unlisted {
    keep,    ///< their cursors and dead letters stay until they are listed again or forgotten
    forget,  ///< their cursors and dead letters are dropped
};

/// A sink as whoever delivers to it describes it.
struct SinkSetup {
    std::string name;            ///< 1 to 64 letters, digits, '-', '_' and '.'
    std::string kind;            ///< what it is, in a word
    std::string target;          ///< where it delivers to, without anything secret
    bool from_earliest = false;  ///< a new one begins with the oldest event that is retained
    std::vector<std::string> topics{};  ///< as `Filter::topics`: what they do not choose counts as
                                        ///< taken
};

/// How a sink stands.
struct SinkStatus {
    std::string name;                       ///< that of its cursor in the journal
    std::string kind;                       ///< "webhook", "exec", "callback"
    std::string target;                     ///< where to, without what may be secret; of
                                            ///< equal ones the second ends with " (2)"
    std::vector<std::string> topics{};      ///< which events it takes; none: all
    SinkState state = SinkState::active;    ///< whether it is delivered to
    std::optional<TaskId> cursor;           ///< the last event it has taken, if retained
    std::size_t lag = 0;                    ///< events it has not taken yet
    std::uint32_t attempts = 0;             ///< that failed, of the event at hand
    std::optional<TimePoint> next_attempt;  ///< when the event at hand is tried again
    std::string last_error;                 ///< why the last failed attempt did
    std::uint64_t delivered = 0;            ///< events, since the scheduler was made
    std::uint64_t failed = 0;               ///< attempts, since the scheduler was made
    std::uint64_t postponed = 0;            ///< times that an attempt could not be made here
    std::size_t dead = 0;                   ///< dead letters
    std::uint64_t dropped = 0;              ///< dead letters beyond `Options::max_dead`
};

/// An event on its way to a sink, or several at once.
struct Delivery {
    std::string sink;           ///< its name
    Event event;                ///< what is delivered
    std::vector<Event> more;    ///< what follows it and goes with it, if the sink takes a batch
    std::uint32_t attempt = 1;  ///< which attempt this is
    bool again = false;         ///< it was a dead letter
    milliseconds wait{0};       ///< how long it has to wait before this attempt
};

/// What became of an attempt to deliver an event.
struct Outcome {
    /// The ways in which it can end.
    enum class Result {
        delivered,  ///< the sink has taken it
        failed,     ///< it is to be tried again
        disabled,   ///< it is to be kept, and nothing more to be delivered
        postponed,  ///< it could not be tried here; it is to be tried soon
    };
    Result result = Result::delivered;  ///< how it ended
    std::string error;                  ///< why it failed
    std::optional<milliseconds> wait;   ///< the least time before the next attempt, if any

    /// The sink has not taken the event.
    static Outcome failed(std::string why, std::optional<milliseconds> wait = std::nullopt) {
        return {Result::failed, std::move(why), wait};
    }
    /// The receiver wants no more events.
    static Outcome disabled(std::string why) {
        return {Result::disabled, std::move(why), std::nullopt};
    }
    /// There is no descriptor, memory or thread to try with.  That is no attempt, and the
    /// event is tried again within seconds until it can be.
    static Outcome postponed(std::string why) {
        return {Result::postponed, std::move(why), std::nullopt};
    }
};

/// An event that a sink did not take.
struct DeadLetter {
    Event event;                 ///< what was not delivered
    TimePoint at{};              ///< when it was given up
    std::uint32_t attempts = 0;  ///< how often it was tried
    std::string error;           ///< why the last attempt failed
    bool redelivering = false;   ///< it is about to be tried again
};

/// Dead letters of a sink, in order of emission.
struct DeadPage {
    std::vector<DeadLetter> letters;  ///< of this page
    std::size_t total = 0;  ///< of all of them
    bool more = false;      ///< whether others follow
};

/// A time in which nothing is emitted, see `Scheduler::pause`.
struct Pause {
    TimePoint since{};   ///< when it began
    std::string reason;  ///< what whoever asked for it has said; empty: nothing
};

/// What a scheduler has done since it was made, and what it holds.
struct Stats {
    std::size_t pending = 0;             ///< tasks that wait
    std::size_t retained = 0;            ///< events in the history
    std::size_t bytes = 0;               ///< of memory, as `Options::max_bytes` counts them
    std::uint64_t scheduled = 0;         ///< tasks stored
    std::uint64_t cancelled = 0;         ///< tasks cancelled
    std::uint64_t emitted = 0;           ///< events emitted
    std::uint64_t late = 0;              ///< of them, later than a second after they were due
    std::uint64_t missed = 0;            ///< tasks that were too late to be emitted
    std::uint64_t refused = 0;           ///< tasks refused at a limit or a failing journal
    std::size_t recovered = 0;           ///< tasks that were pending in the journal
    std::uint64_t damaged_lines = 0;     ///< lines of the journal that could not be read
    std::uint64_t torn_bytes = 0;        ///< bytes cut off its end
    bool clock_trusted = true;           ///< false: nothing is emitted; see `Options::trust_clock`
    bool paused = false;                 ///< nothing is emitted until `Scheduler::resume`
    milliseconds overdue{0};             ///< since when the earliest pending task should be emitted
    bool stopped = false;                ///< it was stopped: nothing is accepted or emitted
    bool journal_failed = false;         ///< the journal cannot be written at this moment
    bool disk_full = false;              ///< tasks are refused until its disk has more room
    std::uint64_t journal_failures = 0;  ///< groups of records that could not be stored
    std::uint64_t journal_bytes = 0;     ///< its size
    std::uint64_t journal_written = 0;   ///< bytes written to it, rewrites included
    std::uint64_t journal_syncs = 0;     ///< how often it was synced
    std::uint64_t journal_rewrites = 0;  ///< how often it was rewritten
    std::optional<std::uint64_t> journal_room;  ///< bytes free on its disk; nothing: not known
    std::uint64_t journal_needs = 0;     ///< how much of that it takes to store one task more
    std::uint64_t payload_accepted = 0;  ///< bytes of payload of the tasks stored
};

/// How much a record of the log matters.
enum class LogLevel {
    debug,    ///< every request
    info,     ///< what is as it should be, such as a replacement of the journal
    warning,  ///< what somebody should look at
    error,    ///< what does not work
};

/// Something that happened, for `Options::log`.  It holds neither a payload nor a secret.
struct LogRecord {
    /// A detail that the sentence names too, for machines.
    struct Field {
        std::string name;        ///< such as `sink`
        std::string value;       ///< as the sentence has it
        bool is_number = false;  ///< the value is digits, and JSON needs no quotes around it
    };
    LogLevel level = LogLevel::info;  ///< how much it matters
    std::string event;          ///< such as `journal.replaced`; each kind has its own
    std::string text;           ///< a sentence for people, which may have any characters
    std::vector<Field> fields;  ///< of the sentence
};

/// The name of a level, such as `warning`.
inline const char* name_of(LogLevel level) {
    constexpr std::array<const char*, 4> names{"debug", "info", "warning", "error"};
    return names[static_cast<std::size_t>(level)];
}

/// A record as one line of text: level, event and sentence, such as
/// `info journal.replaced: the journal …`.  Control characters become question marks.
inline std::string to_line(const LogRecord& record) {
    std::string line = std::string(name_of(record.level)) + ' ' + record.event + ": " + record.text;
    for (char& c : line) {
        if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) c = '?';
    }
    return line;
}

/// How long something took, each time: how often it was how long, and in all.
struct Durations {
    /// What is counted in.
    using microseconds = std::chrono::microseconds;
    /// How long those of each count took at most; those of the last count took longer.
    static constexpr std::array<std::int64_t, 18> bounds{
        100,       500,       1'000,      2'500,      5'000,       10'000,
        25'000,    50'000,    100'000,    250'000,    500'000,     1'000'000,
        2'500'000, 5'000'000, 10'000'000, 60'000'000, 600'000'000, 3'600'000'000};
    std::array<std::uint64_t, bounds.size() + 1> counts{};  ///< of each span alone
    microseconds sum{0};                                    ///< of all

    /// Counts one.
    void add(microseconds duration) noexcept {
        std::size_t i = 0;
        while (i < bounds.size() && duration.count() > bounds[i]) ++i;
        ++counts[i];
        sum += duration;
    }
};

/// A limit, which is what is usual until somebody sets it: then it is given.  It reads and is set
/// as a number is.
template <class Number, Number usual>
class Limit {
public:
    constexpr Limit() = default;
    /// One that is given.
    constexpr Limit(Number value) : value_(value), is_given_(true) {}
    /// What it is.
    constexpr operator Number() const { return value_; }
    /// Whether it was set, be it to what is usual.
    constexpr bool is_given() const { return is_given_; }
    /// Sets one that is not given, which it stays: to this, and to no more than is usual.
    constexpr void derive(std::uint64_t value) {
        if (!is_given_) value_ = static_cast<Number>(std::min<std::uint64_t>(value, usual));
    }

private:
    Number value_ = usual;
    bool is_given_ = false;
};

/// When a record counts as stored; but for `answers` the names are those of Redis.
enum class Fsync {
    always,    ///< when fdatasync has returned: survives the loss of power
    answers,   ///< as always; an emission is synced with the next change, or at the end
    everysec,  ///< when it is written: survives a crash of the process; synced within a second
    no,        ///< when it is written; the system decides when to sync
};

/// The name of a policy, such as `everysec`.
inline const char* name_of(Fsync policy) {
    constexpr std::array<const char*, 4> names{"always", "answers", "everysec", "no"};
    return names[static_cast<std::size_t>(policy)];
}

inline std::optional<TaskId> TaskId::parse(std::string_view text) {
    if (text.size() != 36 || text[8] != '-' || text[13] != '-' || text[18] != '-' ||
        text[23] != '-') {
        return std::nullopt;
    }
    int wrong = 0;  // negative if any digit was
    const auto add = [&](std::uint64_t& half, std::size_t at) {
        const int number = detail::hex_number(text.data() + at);
        wrong |= number;
        half = half << 16 | static_cast<std::uint64_t>(number & 0xFFFF);
    };
    std::uint64_t high = 0;
    std::uint64_t low = 0;
    for (const std::size_t at : {0U, 4U, 9U, 14U}) add(high, at);
    for (const std::size_t at : {19U, 24U, 28U, 32U}) add(low, at);
    if (wrong < 0) return std::nullopt;
    return TaskId(high, low);
}

namespace detail {

// Adds the canonical text form of an id.
inline void append_id(std::string& out, TaskId id) {
    char text[] = "00000000-0000-0000-0000-000000000000";
    const auto put = [&text](std::uint64_t half, std::initializer_list<std::size_t> places) {
        for (const std::size_t at : places) {
            for (std::size_t i = 0; i < 4; ++i, half <<= 4) {
                text[at + i] = hex_digit(static_cast<unsigned>(half >> 60));
            }
        }
    };
    put(id.high(), {0, 4, 9, 14});
    put(id.low(), {19, 24, 28, 32});
    out.append(text, 36);
}

// Empties a text and gives its memory back; assigning an empty one keeps it.
inline void release_text(std::string& text) noexcept { std::string().swap(text); }

// A part of a sentence of the log.  One with a name is also a field of its record.
struct LogPart {
    LogPart(const Part& its_part, const char* its_name = nullptr)
        : part(its_part), name(its_name) {}

    Part part;
    const char* name;
};

template <class Value>
LogPart named(const char* name, const Value& value) {
    return {Part(value), name};
}

inline LogRecord record_of(LogLevel level, const char* event,
                           std::initializer_list<LogPart> parts) {
    LogRecord record;
    record.level = level;
    record.event = event;
    for (const LogPart& one : parts) {
        const std::size_t begin = record.text.size();
        append_part(record.text, one.part);
        if (one.name)
            record.fields.push_back({one.name, record.text.substr(begin), !one.part.text});
    }
    return record;
}

// A record whose sentence is made of parts.
template <class... Parts>
LogRecord make_record(LogLevel level, const char* event, const Parts&... parts) {
    return record_of(level, event, {LogPart(parts)...});
}

// Hands a record whose sentence is made of parts to a log, if there is one.  For handlers of
// failures: it does not throw.  Without memory for the sentence, what is said is short enough
// to take none.
inline void tell_parts(const std::function<void(const LogRecord&)>& log, LogLevel level,
                       const char* event, std::initializer_list<LogPart> parts) noexcept {
    if (!log) return;
    try {
        try {
            log(record_of(level, event, parts));
        } catch (const std::bad_alloc&) {
            log({LogLevel::error, "memory", "out of memory", {}});
        }
    } catch (...) {  // there is nobody left to tell
    }
}

template <class... Parts>
void tell(const std::function<void(const LogRecord&)>& log, LogLevel level, const char* event,
          const Parts&... parts) noexcept {
    tell_parts(log, level, event, {LogPart(parts)...});
}

}  // namespace detail

inline std::string TaskId::str() const {
    std::string text;
    detail::append_id(text, *this);
    return text;
}

// ============================================================================
//  3. Text
// ============================================================================
//
// JSON (RFC 8259) is checked and cut up here, never rewritten.
//
//   T1  What passes is exactly what RFC 8259 allows, in valid UTF-8 (RFC 3629),
//       nested at most `max_depth` deep.  Nothing is recursive.
//   T2  A value is copied token for token: only white space between tokens goes.
//   T3  picojson reads values, and only from text that has passed.

namespace detail {

// ---- 3.1 JSON --------------------------------------------------------------

// Reads a JSON text from front to back in one pass.  The first violation ends
// it: every call after that returns false, and `problem()` says what and where.
//
//     JsonReader reader(text);
//     std::string_view key, value;
//     if (reader.enter_object())
//         while (reader.next_member(key)) reader.value(value);
//     if (!reader.finish()) refuse(reader.problem());
class JsonReader {
public:
    static constexpr std::size_t max_depth = 100;
    // For what we have put such a text into: a record of the journal, a page.
    static constexpr std::size_t outer_depth = max_depth + 8;

    explicit JsonReader(std::string_view text, std::size_t most = max_depth)
        : begin_(text.data()), at_(begin_), end_(begin_ + text.size()), most_(most) {}

    // Goes into the object or array that starts here; false, and no violation,
    // if the value that starts here is another one.
    bool enter_object() { return enter('{'); }
    bool enter_array() { return enter('['); }
    // Goes to the next member's value, or out of the object; `key` is the text
    // between the quotes, as it stands.
    bool next_member(std::string_view& key);
    // The same, and passes over the value, which is given as it stands.
    bool next_member(std::string_view& key, std::string_view& slice) {
        return next_member(key) && value(slice);
    }
    // Goes to the next element, or out of the array.
    bool next_element();
    // Passes over the value that starts here.  `slice` is its text as it stands;
    // with `minified`, it is also appended there without white space (T2).
    bool value(std::string_view& slice, std::string* minified = nullptr);
    // The first character of the value that starts here, or NUL.
    char peek();
    // True if the text was one whole value and is at its end.
    bool finish();

    bool failed() const { return problem_ != nullptr; }
    // What is wrong and where, such as "an unknown escape at byte 17"; empty if nothing is.
    std::string problem() const;

private:
    bool enter(char open);
    bool close_or_continue(char closing);
    bool key(std::string_view& key);
    bool skip_value();
    bool scalar();
    bool string();
    bool escape();
    bool utf8();
    bool number();
    bool digits();
    bool literal(std::string_view word);
    void space() {
        if (at_ != end_ && *at_ <= ' ') skip_space();
    }
    void skip_space();
    bool open(char container);
    bool fail(const char* what) {
        if (!problem_) problem_ = what;
        return false;
    }
    bool at(char c) const { return at_ != end_ && *at_ == c; }

    const char* begin_;
    const char* at_;
    const char* end_;
    std::size_t most_;  // levels
    const char* problem_ = nullptr;
    std::string* minified_ = nullptr;  // where value() copies to, if anywhere
    const char* run_ = nullptr;        // first byte that is not copied yet
    bool first_ = false;               // no member or element of this container was read yet
    bool whole_ = false;               // the outermost value was read to its end
    std::size_t depth_ = 0;
    std::array<char, outer_depth> containers_;  // the first depth_ are set
};

inline void JsonReader::skip_space() {
    const char* start = at_;
    while (at_ != end_ && (*at_ == ' ' || *at_ == '\n' || *at_ == '\t' || *at_ == '\r')) ++at_;
    if (minified_ && at_ != start) {
        minified_->append(run_, start);
        run_ = at_;
    }
}

inline char JsonReader::peek() {
    space();
    return at_ == end_ ? '\0' : *at_;
}

inline bool JsonReader::open(char container) {
    if (depth_ == most_) return fail("nesting deeper than 100 levels");
    containers_[depth_++] = container;
    first_ = true;
    ++at_;
    return true;
}

inline bool JsonReader::enter(char container) {
    return !failed() && !whole_ && peek() == container && open(container);
}

inline bool JsonReader::close_or_continue(char closing) {
    if (failed()) return false;
    const char container = closing == '}' ? '{' : '[';
    if (depth_ == 0 || containers_[depth_ - 1] != container) {
        return fail(closing == '}' ? "an object expected" : "an array expected");
    }
    space();
    if (at(closing)) {
        ++at_;
        whole_ = --depth_ == 0;
        first_ = false;
        return false;
    }
    if (first_) {
        first_ = false;
        return true;
    }
    if (!at(',')) return fail(closing == '}' ? "',' or '}' expected" : "',' or ']' expected");
    ++at_;
    return true;
}

inline bool JsonReader::next_member(std::string_view& name) {
    return close_or_continue('}') && key(name);
}

inline bool JsonReader::next_element() {
    return close_or_continue(']');
}

inline bool JsonReader::key(std::string_view& name) {
    space();
    if (!at('"')) return fail("a member's name in quotes expected");
    const char* start = at_ + 1;
    if (!string()) return false;
    name = std::string_view(start, static_cast<std::size_t>(at_ - 1 - start));
    space();
    if (!at(':')) return fail("':' expected");
    ++at_;
    return true;
}

inline bool JsonReader::value(std::string_view& slice, std::string* minified) {
    if (failed()) return false;
    if (whole_) return fail("text after the end of the value");
    space();
    const char* start = at_;
    minified_ = minified;
    run_ = at_;
    const bool good = skip_value();
    if (good && minified) minified->append(run_, at_);
    minified_ = nullptr;
    whole_ = good && depth_ == 0;
    slice = std::string_view(start, static_cast<std::size_t>(at_ - start));
    return good;
}

// Without recursion: whatever container is innermost leads on to its next value, until the one
// that was begun with has ended.
inline bool JsonReader::skip_value() {
    const std::size_t base = depth_;
    std::string_view name;
    do {
        space();
        const bool opens = at('{') || at('[');
        if (opens ? !open(*at_) : !scalar()) return false;
        if (!opens) first_ = false;
        while (depth_ > base &&
               !(containers_[depth_ - 1] == '{' ? next_member(name) : next_element())) {
            if (failed()) return false;
        }
    } while (depth_ > base);
    return true;
}

inline bool JsonReader::scalar() {
    if (at_ == end_) return fail("a value expected, but the text ends");
    switch (*at_) {
        case '"':
            return string();
        case 't':
            return literal("true");
        case 'f':
            return literal("false");
        case 'n':
            return literal("null");
        default:
            return number();
    }
}

inline bool JsonReader::literal(std::string_view word) {
    if (static_cast<std::size_t>(end_ - at_) < word.size() ||
        std::memcmp(at_, word.data(), word.size()) != 0) {
        return fail("a value expected");
    }
    at_ += word.size();
    return true;
}

inline bool JsonReader::digits() {
    const char* start = at_;
    while (at_ != end_ && *at_ >= '0' && *at_ <= '9') ++at_;
    return at_ != start;
}

inline bool JsonReader::number() {
    const char* start = at_;
    if (at('-')) ++at_;
    if (at('0')) {
        ++at_;
        if (at_ != end_ && *at_ >= '0' && *at_ <= '9') {
            return fail("a number with a leading zero");
        }
    } else if (!digits()) {
        return fail(at_ == start ? "a value expected" : "a digit expected");
    }
    if (at('.')) {
        ++at_;
        if (!digits()) return fail("a digit expected after the point");
    }
    if (at('e') || at('E')) {
        ++at_;
        if (at('+') || at('-')) ++at_;
        if (!digits()) return fail("a digit expected in the exponent");
    }
    return true;
}

// How many of eight characters come before the first that is not plain: a quote, a
// backslash, a control character, or not ASCII.  Each byte is looked at in its place in the
// word; a borrow can only mark bytes behind one that is marked rightly.
inline std::size_t plain_prefix(const char* eight) {
    constexpr std::uint64_t ones = 0x0101010101010101U;
    constexpr std::uint64_t highs = 0x8080808080808080U;
    std::uint64_t word = 0;
    std::memcpy(&word, eight, sizeof word);
    const auto has_zero = [](std::uint64_t w) { return (w - ones) & ~w & highs; };
    const std::uint64_t below_blank = (word - ones * 0x20) & ~word & highs;
    const std::uint64_t marks =
        has_zero(word ^ ones * '"') | has_zero(word ^ ones * '\\') | below_blank | (word & highs);
    if (marks == 0) return 8;
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    return static_cast<std::size_t>(__builtin_ctzll(marks)) / 8;
#else
    return 0;
#endif
}

inline bool JsonReader::string() {
    ++at_;
    while (at_ != end_) {
        if (end_ - at_ >= 8) {
            const std::size_t plain = plain_prefix(at_);
            at_ += plain;
            if (plain == 8) continue;
        }
        const auto c = static_cast<unsigned char>(*at_);
        if (c == '"') {
            ++at_;
            return true;
        }
        if (c == '\\') {
            if (!escape()) return false;
        } else if (c < 0x20) {
            return fail("a control character in a string (it must be escaped)");
        } else if (c < 0x80) {
            ++at_;
        } else if (!utf8()) {
            return false;
        }
    }
    return fail("a string without its closing quote");
}

inline bool JsonReader::escape() {
    ++at_;
    if (at_ == end_) return fail("a string without its closing quote");
    std::ptrdiff_t size = 1;
    if (*at_ == 'u') {
        for (; size <= 4; ++size) {
            if (end_ - at_ <= size || hex_value(at_[size]) < 0) {
                return fail("four hexadecimal digits expected after \\u");
            }
        }
    } else if (std::string_view("\"\\/bfnrt").find(*at_) == std::string_view::npos) {
        return fail("an unknown escape");
    }
    at_ += size;
    return true;
}

// The size of the character beyond ASCII at the front of a text, as RFC 3629 allows it: no
// overlong form, no surrogate, nothing above U+10FFFF.  0: there is none.
inline std::size_t utf8_size(std::string_view text) {
    const auto byte = [text](std::size_t i) -> unsigned {
        return i < text.size() ? static_cast<unsigned char>(text[i]) : 0U;
    };
    const auto follows = [&byte](std::size_t i) { return (byte(i) & 0xC0U) == 0x80U; };
    const unsigned lead = byte(0);
    const unsigned second = byte(1);
    if (!follows(1)) return 0;
    if (lead >= 0xC2 && lead <= 0xDF) return 2;
    if ((lead & 0xF0U) == 0xE0U) {
        const bool overlong = lead == 0xE0 && second < 0xA0;
        const bool surrogate = lead == 0xED && second > 0x9F;
        return overlong || surrogate || !follows(2) ? 0 : 3;
    }
    const bool outside = (lead == 0xF0 && second < 0x90) || (lead == 0xF4 && second > 0x8F);
    return lead < 0xF0 || lead > 0xF4 || outside || !follows(2) || !follows(3) ? 0 : 4;
}

inline bool JsonReader::utf8() {
    const std::size_t size = utf8_size({at_, static_cast<std::size_t>(end_ - at_)});
    if (size == 0) return fail("invalid UTF-8");
    at_ += size;
    return true;
}

inline bool JsonReader::finish() {
    if (failed()) return false;
    space();
    if (depth_ != 0 || (at_ == end_ && !whole_)) return fail("the text ends too early");
    return at_ == end_ || fail("text after the end of the value");
}

inline std::string JsonReader::problem() const {
    if (!problem_) return "";
    return concat({problem_, " at byte ", at_ - begin_});
}

// What a token that has passed the reader stands for (T3), if picojson can tell and it is a T.
template <class T>
std::optional<T> value_of(std::string_view token) {
    try {
        picojson::value value;
        std::string problem;
        picojson::parse(value, token.begin(), token.end(), &problem);
        if (!problem.empty() || !value.is<T>()) return std::nullopt;
        return value.get<T>();
    } catch (const std::exception&) {
        return std::nullopt;
    }
}

// The characters that a string token stands for.  Nothing if they are not text,
// such as a lone surrogate.  `token` has passed the reader, quotes included.
inline std::optional<std::string> read_string(std::string_view token) {
    if (token.size() < 2 || token.front() != '"') return std::nullopt;
    const std::string_view inner = token.substr(1, token.size() - 2);
    if (inner.find('\\') == std::string_view::npos) return std::string(inner);
    return value_of<std::string>(token);
}

// Whether the name of a member, as it stands between its quotes, means `name`.
inline bool is_named(std::string_view raw, std::string_view name) {
    if (raw.find('\\') == std::string_view::npos) return raw == name;
    const auto text = read_string(concat({"\"", raw, "\""}));
    return text && *text == name;
}

// Appends `text` as a JSON string, in quotes.  `text` is UTF-8.
inline void append_quoted(std::string& out, std::string_view text) {
    const auto is_plain = [](char c) {
        return c != '"' && c != '\\' && static_cast<unsigned char>(c) >= 0x20 && c != 0x7F;
    };
    out += '"';
    for (auto at = text.begin(); at != text.end();) {
        const auto run = std::find_if_not(at, text.end(), is_plain);
        out.append(at, run);
        at = run;
        if (at == text.end()) break;
        if (*at == '"' || *at == '\\') {
            out += '\\';
            out += *at;
        } else {
            const auto code = static_cast<unsigned char>(*at);
            out += "\\u00";
            out += hex_digit(code >> 4);
            out += hex_digit(code);
        }
        ++at;
    }
    out += '"';
}

// Whether a text has nothing but letters and digits of ASCII and these others.
inline bool consists_of_alnum_and(std::string_view others, std::string_view text) {
    return std::all_of(text.begin(), text.end(), [others](char c) {
        return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
               others.find(c) != std::string_view::npos;
    });
}

// Without blanks at its ends.
inline std::string_view trimmed(std::string_view text) {
    const auto blank = [](char c) { return c == ' ' || c == '\t'; };
    while (!text.empty() && blank(text.front())) text.remove_prefix(1);
    while (!text.empty() && blank(text.back())) text.remove_suffix(1);
    return text;
}

// What is between the quotes of a string, as it stands.
inline std::string_view inside(std::string_view token) {
    return token.size() < 2 ? std::string_view() : token.substr(1, token.size() - 2);
}

// The number that one to 18 digits say, and nothing for any other text: every number that can
// be read can also be counted on from.
inline std::optional<std::uint64_t> read_digits(std::string_view text) {
    std::uint64_t number = 0;
    const char* const end = text.data() + text.size();
    const bool good =
        !text.empty() && text.size() <= 18 && std::from_chars(text.data(), end, number).ptr == end;
    return good ? std::optional(number) : std::nullopt;
}

// The beginning of a text from elsewhere, for an answer, a log or a record: so many bytes of whole
// characters at most, with a question mark for each control character and each byte that is no
// UTF-8.
inline std::string printable(std::string_view text, std::size_t limit) {
    std::string out;
    while (!text.empty()) {
        const std::size_t size = std::max<std::size_t>(utf8_size(text), 1);
        if (out.size() + size > limit) break;
        const bool is_c1 = size == 2 && text[0] == '\xC2' && text[1] < '\xA0';
        const bool is_shown = size == 1 ? text[0] >= 0x20 && text[0] < 0x7F : !is_c1;
        out += is_shown ? text.substr(0, size) : "?";
        text.remove_prefix(size);
    }
    return out;
}

// ---- 3.2 Names, topics, traces and payloads --------------------------------

// Whether a text consists of 1 to 128 letters, digits and characters of `others`.
inline bool is_label(std::string_view text, std::string_view others) {
    return !text.empty() && text.size() <= 128 && consists_of_alnum_and(others, text);
}

constexpr const char* name_rule =
    "A task's name must be 1 to 128 letters, digits, '.', '_', '~' and '-', and neither a UUID "
    "nor \".\" nor \"..\".";

}  // namespace detail

/// Whether a task may have this name: 1 to 128 letters, digits and characters of `._~-`, but no
/// UUID, nor "." nor "..".
inline bool is_task_name(std::string_view text) {
    return detail::is_label(text, "._~-") && text != "." && text != ".." && !TaskId::parse(text);
}

namespace detail {

inline bool is_topic(std::string_view text) {
    return is_label(text, "._~/-");
}

// A topic, or the beginning of one and a `*`.
inline bool is_topic_pattern(std::string_view text) {
    if (text == "*") return true;
    if (!text.empty() && text.back() == '*') text.remove_suffix(1);
    return is_topic(text);
}

// Whether one of the patterns chooses a topic; an empty one is none, and chosen by none.
inline bool chooses_topic(const std::vector<std::string>& patterns, std::string_view topic) {
    return std::any_of(patterns.begin(), patterns.end(), [topic](std::string_view pattern) {
        if (pattern.back() != '*') return topic == pattern;
        pattern.remove_suffix(1);
        return !topic.empty() && topic.substr(0, pattern.size()) == pattern;
    });
}

// VERSION-TRACE-PARENT-FLAGS, in small hexadecimal digits; versions after 00 may add to that.
inline bool is_traceparent(std::string_view text) {
    constexpr std::size_t size = 55;
    constexpr std::size_t most = 128;
    if (text.size() < size || text.size() > most) return false;
    for (std::size_t i = 0; i < size; ++i) {
        const bool is_dash = i == 2 || i == 35 || i == 52;
        const bool fits =
            is_dash ? text[i] == '-' : hex_value(text[i]) >= 0 && (text[i] < 'A' || text[i] > 'F');
        if (!fits) return false;
    }
    const auto says = [text](std::size_t at, std::size_t count) {
        return text.substr(at, count).find_first_not_of('0') != std::string_view::npos;
    };
    const std::string_view version = text.substr(0, 2);
    if (version == "ff" || !says(3, 32) || !says(36, 16)) return false;
    if (text.size() > size && (version == "00" || text[size] != '-')) return false;
    return std::all_of(text.begin() + size, text.end(), [](char c) { return c > ' ' && c <= '~'; });
}

// KEY=VALUE of a tracestate.
inline bool is_tracestate_member(std::string_view text) {
    const std::size_t equals = text.find('=');
    if (equals == std::string_view::npos || equals == 0 || equals > 256) return false;
    const std::string_view key = text.substr(0, equals);
    const std::string_view value = text.substr(equals + 1);
    const auto in_key = [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ||
               std::string_view("_-*/@").find(c) != std::string_view::npos;
    };
    const auto in_value = [](char c) { return c >= ' ' && c <= '~' && c != '='; };
    return consists_of_alnum_and("", key.substr(0, 1)) &&
           std::all_of(key.begin(), key.end(), in_key) && !value.empty() && value.size() <= 256 &&
           std::all_of(value.begin(), value.end(), in_value);
}

// Up to 32 members with commas between them, of 512 bytes in all.
inline bool is_tracestate(std::string_view text) {
    constexpr std::size_t most_members = 32;
    if (text.empty() || text.size() > 512) return false;
    std::size_t members = 0;
    for (std::size_t at = 0; at <= text.size();) {
        const std::size_t comma = std::min(text.find(',', at), text.size());
        const std::string_view member = trimmed(text.substr(at, comma - at));
        if (!member.empty() && (++members > most_members || !is_tracestate_member(member))) {
            return false;
        }
        at = comma + 1;
    }
    return members > 0;
}

// Whether a task may have these, whose lateness is judged elsewhere.
inline bool are_acceptable(const Details& details) {
    const auto fits = [](std::string_view text, bool (*rule)(std::string_view)) {
        return text.empty() || rule(text);
    };
    return fits(details.name, is_task_name) && fits(details.topic, is_topic) &&
           fits(details.traceparent, is_traceparent) && fits(details.tracestate, is_tracestate);
}

// A payload with another timestamp, another message, or both; what is empty stays
// as it is.
inline std::string changed_payload(std::string_view payload, std::string_view timestamp,
                                   std::string_view message) {
    std::string changed = "{";
    JsonReader reader(payload);
    std::string_view key;
    std::string_view value;
    reader.enter_object();
    while (reader.next_member(key, value)) {
        if (changed.size() > 1) changed += ',';
        changed.append("\"").append(key).append("\":");
        if (!timestamp.empty() && is_named(key, "timestamp")) {
            append_quoted(changed, timestamp);
        } else {
            changed += !message.empty() && is_named(key, "message") ? message : value;
        }
    }
    return changed + '}';
}

}  // namespace detail

/// Why a text is not one JSON value (RFC 8259) in valid UTF-8, and where; empty if it is.
inline std::string json_problem(std::string_view text) {
    detail::JsonReader reader(text);
    std::string_view value;
    if (reader.value(value) && reader.finish()) return "";
    return reader.problem();
}

/// Why topics cannot be chosen by these patterns, of `Filter::topics`; empty if they can.
inline std::string topics_problem(const std::vector<std::string>& patterns) {
    constexpr std::size_t most = 100;
    if (patterns.size() > most) return detail::concat({"At most ", most, " topics can be chosen."});
    if (std::all_of(patterns.begin(), patterns.end(), detail::is_topic_pattern)) return "";
    return "A topic to choose by must be 1 to 128 letters, digits and characters of \"._~/-\", and "
           "may end with a *, which stands for any rest.";
}

/// The text, which is UTF-8, as a JSON string in quotes.
inline std::string quote_json(std::string_view text) {
    std::string json;
    detail::append_quoted(json, text);
    return json;
}

/// The message in a payload, as it stands there; empty if it has none.
inline std::string_view message_of(std::string_view payload) {
    detail::JsonReader reader(payload);
    std::string_view key;
    std::string_view value;
    std::string_view message;
    reader.enter_object();
    while (reader.next_member(key, value)) {
        if (detail::is_named(key, "message")) message = value;
    }
    return message;
}

// ============================================================================
//  4. Time
// ============================================================================
//
//   C1  Text is read strictly: what RFC 3339 or ECMAScript's date-time format
//       defines, and the offsets +hhmm and +hh that `date +%z` prints.  Anything
//       else is refused, never guessed.
//       A moment before or after the years of six digits is refused as well: what
//       is read can always be written and read again.
//   C2  A moment is a count of milliseconds, and goes to the kernel and comes from
//       it in 64 bits: a time_t of 32 bits ends in January 2038.

namespace detail {

// Days since 1970-01-01 of a date in the proleptic Gregorian calendar.  Years
// are counted from March, so that the leap day is a year's last.
constexpr std::int64_t days_from_date(std::int64_t year, int month, int day) {
    if (month <= 2) --year;
    const std::int64_t era = (year >= 0 ? year : year - 399) / 400;
    const std::int64_t year_of_era = year - era * 400;
    const std::int64_t day_of_year = (153 * (month > 2 ? month - 3 : month + 9) + 2) / 5 + day - 1;
    return era * 146'097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year -
           719'468;
}

struct Date {
    std::int64_t year;
    int month;
    int day;
};

inline Date date_from_days(std::int64_t days) {
    days += 719'468;
    const std::int64_t era = (days >= 0 ? days : days - 146'096) / 146'097;
    const std::int64_t day_of_era = days - era * 146'097;
    const std::int64_t year_of_era =
        (day_of_era - day_of_era / 1'460 + day_of_era / 36'524 - day_of_era / 146'096) / 365;
    const auto day_of_year =
        static_cast<int>(day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100));
    const int shifted = (5 * day_of_year + 2) / 153;
    const int month = shifted < 10 ? shifted + 3 : shifted - 9;
    return {year_of_era + era * 400 + (month <= 2 ? 1 : 0), month,
            day_of_year - (153 * shifted + 2) / 5 + 1};
}

inline int days_in_month(std::int64_t year, int month) {
    if (month == 2) return year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) ? 29 : 28;
    return month == 4 || month == 6 || month == 9 || month == 11 ? 30 : 31;
}

constexpr std::int64_t ms_per_day = 86'400'000;
// The first and the last moment that the years of six digits have.
constexpr TimePoint first_time(milliseconds(days_from_date(-999'999, 1, 1) * ms_per_day));
constexpr TimePoint last_time(milliseconds(days_from_date(1'000'000, 1, 1) * ms_per_day - 1));
// What is longer comes to the same, and can be added to any time of our days.
constexpr milliseconds longest_wait = std::chrono::hours(24 * 365 * 100);

// How many whole days lie between 1970-01-01 and a moment; below 0 before that.
inline std::int64_t day_of(TimePoint time) {
    const std::int64_t ms = time.time_since_epoch().count();
    return ms / ms_per_day - (ms % ms_per_day < 0 ? 1 : 0);
}

// Reads one date-time (C1).
class TimeReader {
public:
    explicit TimeReader(std::string_view text) : rest_(text) {}
    std::optional<TimePoint> read();

private:
    bool take(char c) {
        if (rest_.empty() || rest_.front() != c) return false;
        rest_.remove_prefix(1);
        return true;
    }
    bool next_is(char c) const { return !rest_.empty() && rest_.front() == c; }
    bool digit(int& out);
    bool two_digits(int& out, int least = 0, int most = 99);
    bool date();
    bool time();
    bool fraction();
    bool zone();
    std::optional<TimePoint> moment() const;

    std::string_view rest_;
    int year_ = 0;
    int month_ = 1;
    int day_ = 1;
    int hour_ = 0;
    int minute_ = 0;
    int second_ = 0;
    int ms_ = 0;
    bool exact_ = true;  // no digit of the fraction but zeros
    int offset_minutes_ = 0;
};

inline bool TimeReader::digit(int& out) {
    if (rest_.empty() || rest_[0] < '0' || rest_[0] > '9') return false;
    out = rest_[0] - '0';
    rest_.remove_prefix(1);
    return true;
}

inline bool TimeReader::two_digits(int& out, int least, int most) {
    if (rest_.size() < 2) return false;
    const int tens = rest_[0] - '0';
    const int ones = rest_[1] - '0';
    if (tens < 0 || tens > 9 || ones < 0 || ones > 9) return false;
    rest_.remove_prefix(2);
    out = tens * 10 + ones;
    return out >= least && out <= most;
}

inline std::optional<TimePoint> TimeReader::read() {
    if (!date()) return std::nullopt;
    if (!rest_.empty() && !(time() && zone() && rest_.empty())) return std::nullopt;
    return moment();
}

// YYYY, YYYY-MM or YYYY-MM-DD; the year may be of six digits with a sign.
inline bool TimeReader::date() {
    const bool negative = next_is('-');
    int ten_thousands = 0;
    if ((take('+') || take('-')) && !two_digits(ten_thousands)) return false;
    int hundreds = 0;
    if (!two_digits(hundreds) || !two_digits(year_)) return false;
    year_ += ten_thousands * 10'000 + hundreds * 100;
    if (negative && year_ == 0) return false;
    if (negative) year_ = -year_;
    if (!take('-')) return true;
    if (!two_digits(month_, 1, 12)) return false;
    return !take('-') || two_digits(day_, 1, days_in_month(year_, month_));
}

// HH:MM, HH:MM:SS or HH:MM:SS.f with one to nine digits of fraction.  RFC 3339
// allows a small t, and a blank in its place.
inline bool TimeReader::time() {
    if (!take('T') && !take('t') && !take(' ')) return false;
    if (!two_digits(hour_, 0, 24) || !take(':') || !two_digits(minute_, 0, 59)) return false;
    if (take(':')) {
        if (!two_digits(second_, 0, 60)) return false;
        if (take('.') && !fraction()) return false;
    }
    return hour_ < 24 || (minute_ == 0 && second_ == 0 && exact_);
}

inline bool TimeReader::fraction() {
    int digits = 0;
    for (int next = 0; digit(next); ++digits) {
        if (digits < 3) ms_ = ms_ * 10 + next;
        if (next != 0) exact_ = false;
    }
    for (int i = digits; i < 3; ++i) ms_ *= 10;
    return digits >= 1 && digits <= 9;
}

// The zone behind the time: nothing and Z mean UTC, +hh:mm, +hhmm and +hh an offset from it.
inline bool TimeReader::zone() {
    if (rest_.empty() || take('Z') || take('z')) return true;
    const bool west = next_is('-');
    if (!take('+') && !take('-')) return false;
    int hours = 0;
    int minutes = 0;
    if (!two_digits(hours, 0, 23)) return false;
    if (!rest_.empty()) {
        take(':');
        if (!two_digits(minutes, 0, 59)) return false;
    }
    offset_minutes_ = (hours * 60 + minutes) * (west ? -1 : 1);
    return true;
}

// A leap second (RFC 3339, 5.7) ends a month of UTC and is the moment after it.
inline std::optional<TimePoint> TimeReader::moment() const {
    const std::int64_t minutes =
        days_from_date(year_, month_, day_) * 1'440 + hour_ * 60 + minute_ - offset_minutes_;
    if (second_ == 60) {
        const std::int64_t next = minutes + 1;
        if (next % 1'440 != 0 || date_from_days(next / 1'440).day != 1) return std::nullopt;
    }
    const int ms = second_ == 60 ? 0 : ms_;
    const TimePoint time(milliseconds((minutes * 60 + second_) * 1'000 + ms));
    return time >= first_time && time <= last_time ? std::optional(time) : std::nullopt;
}

// Writes the last digits of a number, and returns where they end.
inline char* put_digits(char* at, std::int64_t value, int width) {
    for (int i = width; i-- > 0; value /= 10) at[i] = static_cast<char>('0' + value % 10);
    return at + width;
}

// Years that have no four digits have a sign and six (ECMAScript), or as many as it takes.
inline void append_time(std::string& out, TimePoint time) {
    const std::int64_t day = day_of(time);
    const Date date = date_from_days(day);
    std::int64_t of_day = time.time_since_epoch().count() % ms_per_day;
    if (of_day < 0) of_day += ms_per_day;
    std::array<char, 32> text;
    char* end = text.data();
    if (date.year >= 0 && date.year <= 9'999) {
        end = put_digits(end, date.year, 4);
    } else {
        const std::int64_t year = date.year < 0 ? -date.year : date.year;
        *end++ = date.year < 0 ? '-' : '+';
        end = put_digits(end, year, year > 999'999 ? 9 : 6);
    }
    const auto put = [&end](char before, std::int64_t value, int width) {
        *end++ = before;
        end = put_digits(end, value, width);
    };
    put('-', date.month, 2);
    put('-', date.day, 2);
    put('T', of_day / 3'600'000, 2);
    put(':', of_day / 60'000 % 60, 2);
    put(':', of_day / 1'000 % 60, 2);
    put('.', of_day % 1'000, 3);
    *end++ = 'Z';
    out.append(text.data(), end);
}

// A JSON number of seconds, which is not negative; up to about 300 years.
inline std::optional<milliseconds> read_seconds(std::string_view token) {
    const std::optional<double> seconds = value_of<double>(token);
    if (!seconds || !(*seconds >= 0 && *seconds <= 1e10)) return std::nullopt;
    return milliseconds(static_cast<std::int64_t>(*seconds * 1'000 + 0.5));
}

}  // namespace detail

/// Time that stands still until it is moved, for tests and simulations: its `source()` is for
/// `Options::now`.  Any thread may call it.
class ManualClock {
public:
    /// A clock that shows this time.
    explicit ManualClock(TimePoint start = TimePoint()) : now_(start.time_since_epoch().count()) {}
    /// The time that it shows.
    TimePoint now() const { return TimePoint(milliseconds(now_.load())); }
    /// Shows another time, an earlier one too.  `Scheduler::clock_changed()` is to follow.
    void set(TimePoint time) { now_ = time.time_since_epoch().count(); }
    /// Moves it forward, or back.  `Scheduler::clock_changed()` is to follow.
    void advance(milliseconds by) { now_ += by.count(); }
    /// What tells the time; the clock must outlive it.
    std::function<TimePoint()> source() {
        return [this] { return now(); };
    }

private:
    std::atomic<milliseconds::rep> now_;
};

/// Reads a date and time: what RFC 3339 or ECMAScript's date-time format
/// defines, and the offsets +hhmm and +hh.  A date alone is midnight UTC, a time
/// without an offset is UTC, fractions are cut to the millisecond.  Nothing for
/// any other text.
inline std::optional<TimePoint> parse_time(std::string_view text) {
    return detail::TimeReader(text).read();
}

/// Reads a duration: numbers with the units d, h, m, s and ms, each at most once
/// and from the largest to the smallest, such as `1h30m`.  Nothing for any other
/// text.
inline std::optional<milliseconds> parse_duration(std::string_view text) {
    struct Unit {
        std::string_view name;
        std::int64_t ms;
    };
    constexpr Unit units[] = {
        {"d", detail::ms_per_day}, {"h", 3'600'000}, {"m", 60'000}, {"s", 1'000}, {"ms", 1}};
    constexpr std::int64_t longest = 100'000'000'000'000'000;  // three million years
    std::int64_t total = 0;
    const Unit* next = std::begin(units);
    if (text.empty()) return std::nullopt;
    while (!text.empty()) {
        std::size_t digits = 0;
        std::int64_t value = 0;
        for (; digits < text.size() && text[digits] >= '0' && text[digits] <= '9'; ++digits) {
            value = value * 10 + (text[digits] - '0');
            if (value > longest) return std::nullopt;
        }
        const std::size_t end = std::min(text.find_first_of("0123456789", digits), text.size());
        const std::string_view name = text.substr(digits, end - digits);
        next = std::find_if(next, std::end(units),
                            [name](const Unit& unit) { return unit.name == name; });
        if (digits == 0 || next == std::end(units)) return std::nullopt;
        if (value > (longest - total) / next->ms) return std::nullopt;
        total += value * next->ms;
        ++next;
        text.remove_prefix(end);
    }
    return milliseconds(total);
}

namespace detail {

// What a JSON token says: a number of seconds, or a duration as text.
inline std::optional<milliseconds> read_duration(std::string_view token) {
    const auto text = read_string(token);
    return text ? parse_duration(*text) : read_seconds(token);
}

constexpr const char* max_lateness_rule =
    R"(must be a number of seconds or a duration such as "90s", from 1 second to 366 days)";

inline bool is_max_lateness(milliseconds most) {
    return most >= std::chrono::seconds(1) && most <= std::chrono::hours(24 * 366);
}

}  // namespace detail

/// The time as UTC ISO 8601 with milliseconds and `Z`.
inline std::string format_time(TimePoint time) {
    std::string text;
    detail::append_time(text, time);
    return text;
}

/// The wall clock, cut to the millisecond.
inline TimePoint wall_clock() {
#ifdef SYS_clock_gettime64  // where a time_t may have 32 bits (C2)
    std::array<std::int64_t, 2> now;
    if (::syscall(SYS_clock_gettime64, CLOCK_REALTIME, now.data()) == 0) {
        return TimePoint(milliseconds(now[0] * 1'000 + now[1] / 1'000'000));
    }
#endif
    return std::chrono::time_point_cast<milliseconds>(std::chrono::system_clock::now());
}

/// The same date and time of day one calendar year later, which is the latest
/// due time at that moment; from 29 February to 28 February.
inline TimePoint one_year_after(TimePoint time) {
    const std::int64_t day = detail::day_of(time);
    const detail::Date date = detail::date_from_days(day);
    const int last = detail::days_in_month(date.year + 1, date.month);
    const std::int64_t later =
        detail::days_from_date(date.year + 1, date.month, std::min(date.day, last));
    return time + milliseconds((later - day) * detail::ms_per_day);
}

// ============================================================================
//  5. Files
// ============================================================================

/// The calls that the journal makes on the file system.  Each does what POSIX
/// says of the function of its name: -1 and `errno` on failure.  A test derives
/// from it and makes calls fail; a program has no need to.  Any thread calls it.
class FileOps {
public:
    virtual ~FileOps() = default;
    /// Opens a file, always with O_CLOEXEC.
    virtual int open(const char* path, int flags, mode_t mode) {
        return ::open(path, flags | O_CLOEXEC, mode);
    }
    /// Closes a descriptor.
    virtual int close(int fd) { return ::close(fd); }
    /// Tells what a file is.
    virtual int fstat(int fd, struct stat* out) { return ::fstat(fd, out); }
    /// Reads at an offset.
    virtual ssize_t pread(int fd, void* to, std::size_t size, off_t at) {
        return ::pread(fd, to, size, at);
    }
    /// Writes at an offset.
    virtual ssize_t pwrite(int fd, const void* from, std::size_t size, off_t at) {
        return ::pwrite(fd, from, size, at);
    }
    /// Sets a file's size.
    virtual int ftruncate(int fd, off_t size) { return ::ftruncate(fd, size); }
    /// Sets space aside without changing the file's size (FALLOC_FL_KEEP_SIZE).
    virtual int reserve(int fd, off_t at, off_t size) {
#ifdef __linux__
        return ::fallocate(fd, FALLOC_FL_KEEP_SIZE, at, size);
#else
        static_cast<void>(fd + at + size);
        errno = EOPNOTSUPP;
        return -1;
#endif
    }
    /// Syncs a file's data.
    virtual int fdatasync(int fd) {
#ifdef F_FULLFSYNC  // on macOS only this reaches the disk
        return ::fcntl(fd, F_FULLFSYNC);
#else
        return ::fdatasync(fd);
#endif
    }
    /// Tells how large the file's file system is, and how much of it is free.
    virtual int fstatvfs(int fd, struct statvfs* out) {
        return ::fstatvfs(fd, out);
    }
    /// Syncs a directory, which makes the names in it durable.
    virtual int fsync(int fd) { return ::fsync(fd); }
    /// Takes or leaves the lock of a file.
    virtual int flock(int fd, int operation) { return ::flock(fd, operation); }
    /// Renames a file.
    virtual int rename(const char* from, const char* to) { return ::rename(from, to); }
    /// Removes a file.
    virtual int unlink(const char* path) { return ::unlink(path); }
};

namespace detail {

// An open file.  Failing calls throw an Error that names the file, or what it is a part
// of; EINTR and short counts are dealt with here.
class File {
public:
    File(FileOps& ops, std::string path, int flags, std::string part_of = "")
        : ops_(ops),
          path_(std::move(path)),
          shown_(part_of.empty() ? path_ : std::move(part_of)),
          fd_(ops.open(path_.c_str(), flags, 0600)) {
        if (fd_ < 0) fail("cannot open", errno);
    }
    ~File() { ops_.close(fd_); }
    File(const File&) = delete;
    File& operator=(const File&) = delete;

    const std::string& path() const { return path_; }
    int fd() const { return fd_; }

    struct stat status() {
        struct stat out {};
        if (ops_.fstat(fd_, &out) != 0) fail("cannot examine", errno);
        return out;
    }
    // Fewer bytes than asked for only at the end of the file.
    std::size_t read(char* to, std::size_t size, std::uint64_t at) {
        std::size_t done = 0;
        while (done < size) {
            const ssize_t n = ops_.pread(fd_, to + done, size - done, offset(at + done));
            if (n == 0) break;
            if (n < 0 && errno != EINTR) fail("cannot read", errno);
            if (n > 0) done += static_cast<std::size_t>(n);
        }
        return done;
    }
    void write(std::string_view text, std::uint64_t at) {
        while (!text.empty()) {
            const ssize_t n = ops_.pwrite(fd_, text.data(), text.size(), offset(at));
            if (n < 0 && errno != EINTR) fail("cannot write to", errno);
            if (n == 0) fail("cannot write to", EIO);  // else this would never end
            if (n > 0) {
                text.remove_prefix(static_cast<std::size_t>(n));
                at += static_cast<std::uint64_t>(n);
            }
        }
    }
    void truncate(std::uint64_t size) {
        if (ops_.ftruncate(fd_, offset(size)) != 0) fail("cannot truncate", errno);
    }
    void sync() {
        if (ops_.fdatasync(fd_) != 0) fail("cannot sync", path_, errno, Errc::journal_failed);
    }
    // A file system that cannot set space aside is none the worse for it.
    void reserve(std::uint64_t at, std::uint64_t size) {
        int result = 0;
        do {
            result = ops_.reserve(fd_, offset(at), offset(size));
        } while (result != 0 && errno == EINTR);
        if (result != 0 && errno != EOPNOTSUPP && errno != ENOSYS && errno != EINVAL) {
            fail("cannot reserve space in", errno);
        }
    }

    [[noreturn]] void fail(const char* what, int error) const { fail(what, shown_, error); }
    [[noreturn]] static void fail(const char* what, const std::string& path, int error) {
        const bool full = error == ENOSPC || error == EDQUOT || error == EFBIG;
        fail(what, path, error, full ? Errc::disk_full : Errc::journal_failed);
    }
    [[noreturn]] static void fail(const char* what, const std::string& path, int error, Errc code) {
        throw_as(code, {what, " ", path, ": ", std::generic_category().message(error)});
    }

private:
    static_assert(sizeof(off_t) == 8, "compile with -D_FILE_OFFSET_BITS=64");
    static off_t offset(std::uint64_t at) { return static_cast<off_t>(at); }

    FileOps& ops_;
    std::string path_;
    std::string shown_;  // the name that an error says
    int fd_;
};

// Calls a function at the end of a scope, however that is left.  The function does not throw.
template <class Fn>
class AtExit {
public:
    explicit AtExit(Fn fn) : fn_(std::move(fn)) {}
    ~AtExit() { fn_(); }
    AtExit(const AtExit&) = delete;
    AtExit& operator=(const AtExit&) = delete;

private:
    Fn fn_;
};
template <class Fn>
AtExit(Fn) -> AtExit<Fn>;

// Runs a function on a thread of its own; or, without threads, when it is waited for.
class Beside {
public:
    Beside(bool has_threads, std::function<void()> run) : run_(std::move(run)) {
        if (has_threads) thread_ = std::thread([this] { run_and_keep_failure(); });
    }
    ~Beside() {
        if (thread_.joinable()) thread_.join();
    }
    Beside(const Beside&) = delete;
    Beside& operator=(const Beside&) = delete;
    // Returns when the function has, or throws what it has thrown.  Only called once.
    void wait() {
        if (!thread_.joinable()) return run_();
        thread_.join();
        if (failure_) std::rethrow_exception(failure_);
    }

private:
    void run_and_keep_failure() {
        try {
            run_();
        } catch (...) {
            failure_ = std::current_exception();
        }
    }

    const std::function<void()> run_;
    std::exception_ptr failure_;  // read when the thread has ended
    std::thread thread_;          // last: starts when all the above exists
};

// A descriptor that closes itself.
class Descriptor {
public:
    explicit Descriptor(int fd = -1) : fd_(fd) {}
    ~Descriptor() { reset(); }
    Descriptor(const Descriptor&) = delete;
    Descriptor& operator=(const Descriptor&) = delete;
    int get() const { return fd_; }
    int release() { return std::exchange(fd_, -1); }
    void reset(int fd = -1) {
        if (fd_ >= 0) ::close(fd_);
        fd_ = fd;
    }

private:
    int fd_;
};

// Numbers at random, which are no secret (splitmix64).  The header <random> costs whoever includes
// this file as much as a quarter of all others.
class Random {
public:
    Random() {
        const Descriptor source(::open("/dev/urandom", O_RDONLY | O_CLOEXEC));
        if (::read(source.get(), &state_, sizeof state_) == sizeof state_) return;
        state_ = static_cast<std::uint64_t>(wall_clock().time_since_epoch().count());
    }
    std::uint64_t operator()() {
        state_ += 0x9E3779B97F4A7C15U;
        std::uint64_t mixed = state_;
        mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9U;
        mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EBU;
        return mixed ^ mixed >> 31;
    }

private:
    std::uint64_t state_ = 0;
};

// Waits for a moment of the wall clock, wherever that is set meanwhile, and however long the
// machine sleeps.  Its calls need the mutex of the lock that wait() is given.  A condition variable
// cannot do it: musl's waits for so long as it was until then when the wait began.
class WallTimer {
public:
    // Throws std::system_error if there is no descriptor left.
    WallTimer();
    // Has wait() rouse a suspended machine.  Returns why it cannot; empty: it can.
    std::string wake_device();
    // Until this moment, or without end.  wake() ends it earlier, and so may a clock that is set.
    // At `rouse` the machine is roused.
    void wait(std::unique_lock<std::mutex>& lock, std::optional<TimePoint> until,
              std::optional<TimePoint> rouse = std::nullopt);
    void wake();

private:
#ifdef __linux__
    static bool set(int timer, std::optional<TimePoint> at);

    const Descriptor timer_;
    Descriptor alarm_;  // nobody reads it: what rouses the machine ends the wait for timer_ too
#else
    std::condition_variable changed_;
#endif
};

#ifdef __linux__
inline WallTimer::WallTimer() : timer_(::timerfd_create(CLOCK_REALTIME, TFD_CLOEXEC)) {
    if (timer_.get() >= 0 && set(timer_.get(), std::nullopt)) return;
    throw std::system_error(errno, std::generic_category(), "cannot make a timer");
}

inline std::string WallTimer::wake_device() {
    alarm_.reset(::timerfd_create(CLOCK_REALTIME_ALARM, TFD_CLOEXEC | TFD_NONBLOCK));
    const int error = alarm_.get() < 0 || !set(alarm_.get(), std::nullopt) ? errno : 0;
    if (error == EPERM) return "the right CAP_WAKE_ALARM is missing";
    if (error != 0) return std::generic_category().message(error);
    for (char clock = '0'; clock <= '9'; ++clock) {
        const std::string alarm = std::string("/sys/class/rtc/rtc") + clock + "/wakealarm";
        if (::access(alarm.c_str(), F_OK) == 0) return "";
    }
    return "no clock that could is in /sys/class/rtc";
}

// A timer that is set to what is past ends the wait at once.
inline void WallTimer::wake() {
    set(timer_.get(), TimePoint());
}

inline void WallTimer::wait(std::unique_lock<std::mutex>& lock, std::optional<TimePoint> until,
                            std::optional<TimePoint> rouse) {
    set(timer_.get(), until);
    if (alarm_.get() >= 0) set(alarm_.get(), rouse);
    lock.unlock();
    std::uint64_t ends = 0;
    if (::read(timer_.get(), &ends, sizeof ends) < 0) ends = 0;  // the clock was set (ECANCELED)
    lock.lock();
}

// The kernel follows the clock in any case, but only a timer that is cancelled also ends a wait
// that seems longer now; some sandboxes do not know how.
inline bool WallTimer::set(int timer, std::optional<TimePoint> at) {
    const std::int64_t ms = at ? std::max<std::int64_t>(at->time_since_epoch().count(), 1) : 0;
    const std::int64_t nanoseconds = ms % 1'000 * 1'000'000;
    for (const int flags : {TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, TFD_TIMER_ABSTIME + 0}) {
#ifdef SYS_timerfd_settime64  // where a time_t may have 32 bits (C2)
        const std::array<std::int64_t, 4> wide{0, 0, ms / 1'000, nanoseconds};
        const long done = ::syscall(SYS_timerfd_settime64, timer, flags, wide.data(), nullptr);
        if (done == 0 || errno == ECANCELED) return true;
#endif
        itimerspec spec{};
        constexpr std::int64_t last = std::numeric_limits<decltype(spec.it_value.tv_sec)>::max();
        spec.it_value.tv_sec = static_cast<std::time_t>(std::min(ms / 1'000, last));
        spec.it_value.tv_nsec = static_cast<decltype(spec.it_value.tv_nsec)>(nanoseconds);
        if (::timerfd_settime(timer, flags, &spec, nullptr) == 0 || errno == ECANCELED) return true;
    }
    return false;
}
#else
// Nothing tells when the clock is set: it is looked at each minute.
inline WallTimer::WallTimer() = default;

inline std::string WallTimer::wake_device() {
    return "only Linux can";
}

inline void WallTimer::wake() {
    changed_.notify_one();
}

inline void WallTimer::wait(std::unique_lock<std::mutex>& lock, std::optional<TimePoint> until,
                            std::optional<TimePoint>) {
    if (!until) return changed_.wait(lock);
    constexpr milliseconds longest = std::chrono::minutes(1);
    changed_.wait_for(lock, *until < wall_clock() + longest ? *until - wall_clock() : longest);
}
#endif

inline std::string directory_of(const std::string& path) {
    const std::size_t slash = path.rfind('/');
    return slash == std::string::npos ? "." : path.substr(0, slash + 1);
}

// What a path means behind symbolic links; the path itself if there is nothing.
inline std::string real_path(const std::string& path) {
    const std::unique_ptr<char, void (*)(void*)> real(::realpath(path.c_str(), nullptr), std::free);
    return real ? real.get() : path;
}

// Makes the name of a new or renamed file durable.
inline void sync_directory_of(FileOps& ops, const std::string& path) {
    const std::string directory = directory_of(path);
    const int fd = ops.open(directory.c_str(), O_RDONLY | O_DIRECTORY, 0);
    if (fd < 0) File::fail("cannot open", directory, errno);
    const int result = ops.fsync(fd);
    const int error = errno;
    ops.close(fd);
    // A file system that does not know how (EINVAL) has no need to.
    if (result != 0 && error != EINVAL) File::fail("cannot sync", directory, error);
}

// A file that takes its name only when it is whole: it is written beside that, synced and renamed.
// What is not finished leaves nothing.
class NewFile {
public:
    // Throws if there is a file of this name already, unless it may be overwritten, or if there
    // is something else.
    NewFile(FileOps& ops, const std::string& path, bool overwrite);
    ~NewFile() {
        if (file_) ops_.unlink(file_->path().c_str());
    }
    NewFile(const NewFile&) = delete;
    NewFile& operator=(const NewFile&) = delete;

    void append(std::string_view text) {
        file_->write(text, size_);
        size_ += text.size();
    }
    std::uint64_t size() const { return size_; }
    void finish();

private:
    void check_target() const;

    FileOps& ops_;
    std::string path_;
    const bool overwrite_;
    std::unique_ptr<File> file_;
    std::uint64_t size_ = 0;
};

// A name that is a symbolic link stays one.
inline NewFile::NewFile(FileOps& ops, const std::string& path, bool overwrite)
    : ops_(ops), path_(real_path(path)), overwrite_(overwrite) {
    check_target();
    const std::string beside = concat({path_, ".part-", ::getpid()});
    file_ = std::make_unique<File>(ops_, beside, O_WRONLY | O_CREAT | O_TRUNC, path_);
}

inline void NewFile::check_target() const {
    struct stat known {};
    if (::stat(path_.c_str(), &known) != 0) return;
    if (!S_ISREG(known.st_mode)) {
        throw_as(Errc::invalid_argument, {path_, " is not a regular file"});
    }
    if (overwrite_) return;
    throw_as(Errc::invalid_argument,
             {path_, " is there already; to overwrite it has to be asked for (--force)"});
}

inline void NewFile::finish() {
    file_->sync();
    check_target();
    if (ops_.rename(file_->path().c_str(), path_.c_str()) != 0) {
        file_->fail("cannot rename", errno);
    }
    file_.reset();
    sync_directory_of(ops_, path_);
}

}  // namespace detail

/// What a small file holds, such as a secret's; a pipe may keep it waiting for 5 s at a time.
/// Throws `Error` with `invalid_argument`, which names the file, if it cannot be read or is
/// larger than `most` bytes.
inline std::string read_file(const std::string& path, std::size_t most = std::size_t{1} << 20) {
    const auto refuse = [&path](const std::string& why) {
        detail::throw_as(Errc::invalid_argument, {"cannot read ", path, ": ", why});
    };
    const detail::Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    if (file.get() < 0) refuse(std::generic_category().message(errno));
    std::string text;
    std::array<char, 4'096> buffer;
    for (ssize_t n = 1; n != 0;) {
        n = ::read(file.get(), buffer.data(), buffer.size());
        pollfd waited{file.get(), POLLIN, 0};
        if (n < 0 && errno == EAGAIN && ::poll(&waited, 1, 5'000) > 0) continue;
        if (n < 0 && errno != EINTR) refuse(std::generic_category().message(errno));
        if (n > 0) text.append(buffer.data(), static_cast<std::size_t>(n));
        if (text.size() > most) refuse(detail::concat({"it is larger than ", most, " bytes"}));
    }
    return text;
}

// ============================================================================
//  6. Records
// ============================================================================
//
// What a journal can say.  A record is one line of JSON; its last member, "crc", is
// the CRC-32 (as in zlib) of all bytes before it, so that `jq` reads every line and a
// torn or damaged one is told from a whole one.
//
//     {"journal":"task-scheduler","version":1,"seq":0,"last_id":"…","crc":"…"}
//     {"op":"schedule","tasks":[{"id":"…","due":"…","payload":{…}}],"crc":"…"}
//     {"op":"emit","seq":0,"at":"…","ids":["…"],"crc":"…"}
//     {"op":"cancel","at":"…","ids":["…"],"crc":"…"}
//     {"op":"part","bulk":1,"at":"…","ids":["…"],"crc":"…"}
//     {"op":"miss","at":"…","ids":["…"],"crc":"…"}
//     {"op":"forget","at":"…","seq":0,"end":9,"crc":"…"}
//     {"op":"answer","at":"…","key":"…","digest":"…","timestamp":"…","ids":[],"counts":[],…}
//     {"op":"clock","at":"…","crc":"…"}
//     {"op":"pause","at":"…","reason":"…","crc":"…"}
//     {"op":"resume","at":"…","crc":"…"}
//     {"op":"sink","sink":"…","at":"…","seq":9,"state":"active",…}
//     {"op":"deliver","sink":"…","at":"…","seq":10,"crc":"…"}
//     {"op":"dead","sink":"…","at":"…","seq":11,"attempts":7,"error":"…","task":{…},…}
//     {"op":"redeliver","sink":"…","at":"…","dead":[10],"crc":"…"}
//     {"op":"drop","sink":"…","at":"…","crc":"…"}
//     {"op":"overflow","sink":"…","at":"…","seq":12,"crc":"…"}
//
//   R1  There is one type for each operation, which describes its members once: they
//       are written and read here and nowhere else, and what was written is read back
//       as it was.  Only "op" has a place; the other members are read in any order.
//   R2  A record owns what applying it needs: its tasks, the node of its key, its
//       dead letter.  So applying one that was stored allocates nothing of these.
//   R3  A record that is intact but not understood was written by a newer version:
//       reading it throws, and nothing is guessed.  Unknown members are passed over.
//   R4  A cancel record that is too large for one line has parts, which are nothing
//       without the line that ends them and bears the same number.

namespace detail {

// The tables of CRC-32 for eight bytes at a time: table k holds what a byte comes
// to when k zero bytes follow it.
constexpr std::array<std::array<std::uint32_t, 256>, 8> make_crc_tables() {
    std::array<std::array<std::uint32_t, 256>, 8> tables{};
    for (std::uint32_t byte = 0; byte < 256; ++byte) {
        std::uint32_t crc = byte;
        for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1U ? 0xEDB88320U : 0U);
        tables[0][byte] = crc;
    }
    for (std::size_t k = 1; k < tables.size(); ++k) {
        for (std::size_t byte = 0; byte < 256; ++byte) {
            const std::uint32_t crc = tables[k - 1][byte];
            tables[k][byte] = crc >> 8 ^ tables[0][crc & 0xFFU];
        }
    }
    return tables;
}

inline constexpr auto crc_tables = make_crc_tables();

inline std::uint32_t crc32(std::string_view text) {
    const auto byte = [&text](std::size_t i) {
        return static_cast<std::uint32_t>(static_cast<unsigned char>(text[i]));
    };
    const auto word = [&byte](std::size_t i) {
        return byte(i) | byte(i + 1) << 8 | byte(i + 2) << 16 | byte(i + 3) << 24;
    };
    // What four bytes come to when `behind` others follow them.
    const auto four = [](std::uint32_t bytes, std::size_t behind) {
        return crc_tables[behind + 3][bytes & 0xFFU] ^ crc_tables[behind + 2][bytes >> 8 & 0xFFU] ^
               crc_tables[behind + 1][bytes >> 16 & 0xFFU] ^ crc_tables[behind][bytes >> 24];
    };
    std::uint32_t crc = 0xFFFFFFFFU;
    for (; text.size() >= 8; text.remove_prefix(8)) {
        crc = four(crc ^ word(0), 4) ^ four(word(4), 0);
    }
    for (std::size_t i = 0; i < text.size(); ++i) {
        crc = crc >> 8 ^ crc_tables[0][(crc ^ byte(i)) & 0xFFU];
    }
    return ~crc;
}

constexpr std::size_t seal_size = 18;  // ,"crc":"01234567"}

// Ends the record that starts at `start` of `lines` and has no closing brace yet.
inline void seal_line(std::string& lines, std::size_t start) {
    std::uint32_t crc = crc32(std::string_view(lines).substr(start));
    char seal[] = ",\"crc\":\"00000000\"}\n";
    for (std::size_t i = 15; i > 7; --i, crc >>= 4) seal[i] = hex_digit(crc);
    lines.append(seal, seal_size + 1);
}

// The sum that a text states at its end; nothing if it does not end as a record does.
inline std::optional<std::uint32_t> stated_crc(std::string_view text) {
    if (text.size() <= seal_size || text.substr(text.size() - 2) != "\"}" ||
        text.substr(text.size() - seal_size, 8) != R"(,"crc":")") {
        return std::nullopt;
    }
    const char* const digits = text.data() + text.size() - 10;
    const int high = hex_number(digits);
    const int low = hex_number(digits + 4);
    if ((high | low) < 0) return std::nullopt;
    return static_cast<std::uint32_t>(high) << 16 | static_cast<std::uint32_t>(low);
}

// Whether a line, without its end, has the shape of a sealed record.
inline bool looks_sealed(std::string_view line) {
    return !line.empty() && line.front() == '{' && stated_crc(line).has_value();
}

inline bool is_intact(std::string_view line) {
    if (line.empty() || line.front() != '{') return false;
    const auto stated = stated_crc(line);
    return stated && *stated == crc32(line.substr(0, line.size() - seal_size));
}

// ---- 6.1 The types ---------------------------------------------------------
//
// Each record names its members once, with describe(), in the order in which they are
// written: io("seq", r.seq) writes the member if `io` is a RecordWriter, and takes it
// over if `io` is a RecordReader and the member is the one that is read.

// Ids in order of arrival.  Those of a batch count up, so a run of them is kept as its
// first and how many they are.
class IdRuns {
public:
    void add(TaskId first, std::uint64_t count = 1) {
        if (!firsts_.empty() && firsts_.back().plus(counts_.back()) == first) {
            counts_.back() += count;
        } else {
            firsts_.push_back(first);
            counts_.push_back(count);
        }
        size_ += static_cast<std::size_t>(count);
    }
    std::size_t size() const { return size_; }
    std::size_t runs() const { return firsts_.size(); }
    // How much memory the ids take.
    std::size_t bytes() const { return runs() * (sizeof(TaskId) + sizeof(std::uint64_t)); }
    std::vector<TaskId> all() const {
        std::vector<TaskId> ids;
        ids.reserve(size_);
        any([&ids](TaskId id) {
            ids.push_back(id);
            return false;
        });
        return ids;
    }
    // Whether fn(id) is true of any of them.
    template <class Fn>
    bool any(Fn fn) const {
        for (std::size_t run = 0; run < runs(); ++run) {
            for (std::uint64_t i = 0; i < counts_[run]; ++i) {
                if (fn(firsts_[run].plus(i))) return true;
            }
        }
        return false;
    }
    static constexpr auto describe = [](auto& io, auto& r) {
        io("ids", r.firsts_)("counts", r.counts_);
    };
    // Completes what was read: without counts the ids are one each.  False if there is not
    // one count for each id.
    bool complete();

private:
    std::vector<TaskId> firsts_;         // of each run
    std::vector<std::uint64_t> counts_;  // of each run
    std::size_t size_ = 0;
};

inline bool IdRuns::complete() {
    if (counts_.empty()) counts_.assign(firsts_.size(), 1);
    if (counts_.size() != firsts_.size()) return false;
    IdRuns whole;
    for (std::size_t run = 0; run < runs(); ++run) {
        if (firsts_[run] == TaskId() || counts_[run] == 0) return false;
        whole.add(firsts_[run], counts_[run]);
    }
    *this = std::move(whole);
    return true;
}

// What was answered under an idempotency key.
struct Answer {
    std::string digest;     // of the request, without its secret
    std::string timestamp;  // of the first task, as it was given
    IdRuns ids;
    TimePoint first_use{};
    std::pair<const std::string, Answer>* later = nullptr;  // the next in line, see KeyBook
};
using Answers = std::map<std::string, Answer, std::less<>>;

// An event that a sink did not take.
struct Letter {
    TaskRef event;   // with its seq and when it was emitted
    TimePoint at{};  // when it was given up
    std::uint32_t attempts = 0;
    std::string error;
    bool again = false;      // it is about to be delivered again
    bool counts = false;     // in SinkBook::bytes(): the history has not got the event
    TimePoint emitted_at{};  // as the event says, which may be read after this
};
using Letters = std::map<std::uint64_t, Letter>;

// A node of its own is the only way to make one.
inline Answers::node_type make_answer(std::string key, Answer answer) {
    Answers one;
    one.emplace(std::move(key), std::move(answer));
    return one.extract(one.begin());
}

inline Letters::node_type make_letter(std::uint64_t seq, Letter letter) {
    if (letter.event) letter.emitted_at = letter.event->ended_at;
    Letters one;
    one.emplace(seq, std::move(letter));
    return one.extract(one.begin());
}

// What a journal begins with.
struct HeadRecord {
    static constexpr std::string_view op = "task-scheduler";
    std::uint64_t version = 1;
    std::uint64_t seq = 0;  // the first that is free
    TaskId last_id;         // every later id is greater
    static constexpr auto describe = [](auto& io, auto& r) {
        io("version", r.version)("seq", r.seq)("last_id", r.last_id);
    };
};

// Tasks are new, or stand in the place of those with the same ids.  The record bears no
// time of its own where the ids do: they begin with the moment at which they were made.
struct ScheduleRecord {
    static constexpr std::string_view op = "schedule";
    std::optional<TimePoint> at;
    Answers::node_type answer;  // empty: it came without an idempotency key
    std::vector<TaskRef> tasks;
    static constexpr auto describe = [](auto& io, auto& r) {
        io("at", r.at).key(r.answer)("tasks", r.tasks);
    };
};

struct EmitRecord {
    static constexpr std::string_view op = "emit";
    TimePoint at{};
    std::uint64_t seq = 0;  // of the first of them
    std::vector<TaskId> ids;
    static constexpr auto describe = [](auto& io, auto& r) {
        io("seq", r.seq)("at", r.at)("ids", r.ids);
    };
};

struct CancelRecord {
    static constexpr std::string_view op = "cancel";
    TimePoint at{};
    std::optional<std::uint64_t> bulk;  // the number of a bulk call, which this ends (R4)
    std::vector<TaskId> ids;
    static constexpr auto describe = [](auto& io, auto& r) {
        io("bulk", r.bulk)("at", r.at)("ids", r.ids);
    };
};

struct PartRecord {
    static constexpr std::string_view op = "part";
    TimePoint at{};
    std::uint64_t bulk = 0;
    std::vector<TaskId> ids;
    static constexpr auto describe = [](auto& io, auto& r) {
        io("bulk", r.bulk)("at", r.at)("ids", r.ids);
    };
};

struct MissRecord {
    static constexpr std::string_view op = "miss";
    TimePoint at{};
    std::vector<TaskId> ids;
    static constexpr auto describe = [](auto& io, auto& r) { io("at", r.at)("ids", r.ids); };
};

struct ForgetRecord {
    static constexpr std::string_view op = "forget";
    TimePoint at{};
    std::uint64_t begin = 0;
    std::uint64_t end = 0;
    static constexpr auto describe = [](auto& io, auto& r) {
        io("at", r.at)("seq", r.begin)("end", r.end);
    };
};

struct AnswerRecord {
    static constexpr std::string_view op = "answer";
    Answers::node_type answer = make_answer({}, {});

    // These members are also those of a schedule record that came with a key.
    static constexpr auto describe_key = [](auto& io, auto& node) {
        io("key", node.key())("digest", node.mapped().digest);
        io("timestamp", node.mapped().timestamp);
    };
    static constexpr auto describe = [](auto& io, auto& r) {
        io("at", r.answer.mapped().first_use);
        describe_key(io, r.answer);
        IdRuns::describe(io, r.answer.mapped().ids);
    };
};

struct ClockRecord {
    static constexpr std::string_view op = "clock";
    TimePoint at{};  // from here on the journal's clock counts
    static constexpr auto describe = [](auto& io, auto& r) { io("at", r.at); };
};

// Nothing is emitted from here on.  A pause that follows another one may give another reason.
struct PauseRecord {
    static constexpr std::string_view op = "pause";
    TimePoint at{};
    std::optional<std::string> reason;
    static constexpr auto describe = [](auto& io, auto& r) { io("at", r.at)("reason", r.reason); };
};

// The end of a pause.
struct ResumeRecord {
    static constexpr std::string_view op = "resume";
    TimePoint at{};
    static constexpr auto describe = [](auto& io, auto& r) { io("at", r.at); };
};

// What is given changes of a sink; a sink that has both a cursor and a state may be new.
struct SinkRecord {
    static constexpr std::string_view op = "sink";
    std::string sink;
    TimePoint at{};
    std::optional<std::uint64_t> seq;
    std::optional<SinkState> state;
    std::optional<std::uint32_t> attempts;  // that failed
    std::optional<TimePoint> next;          // attempt; the epoch: none
    std::optional<std::string> error;
    std::optional<std::vector<std::string>> topics = std::nullopt;  // none in it: all events
    static constexpr auto describe = [](auto& io, auto& r) {
        io.sink(r.sink)("at", r.at)("seq", r.seq)("state", r.state);
        io("attempts", r.attempts)("next", r.next)("error", r.error)("topics", r.topics);
    };
};

// The sink has taken the event before the cursor `seq`, or these dead letters.
struct DeliverRecord {
    static constexpr std::string_view op = "deliver";
    std::string sink;
    TimePoint at{};
    std::optional<std::uint64_t> seq;
    std::vector<std::uint64_t> dead;
    // Where what was taken together begins; none: it is the one event before `seq`.
    std::optional<std::uint64_t> from = std::nullopt;
    static constexpr auto describe = [](auto& io, auto& r) {
        io.sink(r.sink)("at", r.at)("seq", r.seq)("dead", r.dead)("from", r.from);
    };
};

// A letter is dead, and the cursor goes to `seq`, if that is given.
struct DeadRecord {
    static constexpr std::string_view op = "dead";
    std::string sink;
    std::optional<std::uint64_t> seq;
    Letters::node_type letter = make_letter(0, {});
    static constexpr auto describe = [](auto& io, auto& r) {
        auto& said = r.letter.mapped();
        io.sink(r.sink)("at", said.at)("seq", r.seq)("attempts", said.attempts);
        io("error", said.error)("event", r.letter.key())("again", said.again);
        io("emitted_at", said.emitted_at)("task", said.event);
    };
};

struct RedeliverRecord {
    static constexpr std::string_view op = "redeliver";
    std::string sink;
    TimePoint at{};
    std::vector<std::uint64_t> dead;
    static constexpr auto describe = [](auto& io, auto& r) {
        io.sink(r.sink)("at", r.at)("dead", r.dead);
    };
};

struct DropRecord {
    static constexpr std::string_view op = "drop";
    std::string sink;
    TimePoint at{};
    static constexpr auto describe = [](auto& io, auto& r) { io.sink(r.sink)("at", r.at); };
};

// What the sink wanted before `seq`, and the history cannot keep, is dead.
struct OverflowRecord {
    static constexpr std::string_view op = "overflow";
    std::string sink;
    TimePoint at{};
    std::uint64_t seq = 0;
    static constexpr auto describe = [](auto& io, auto& r) {
        io.sink(r.sink)("at", r.at)("seq", r.seq);
    };
};

// One of several types of records.  A std::variant of as many costs whoever includes this file a
// second, since it makes a table of functions for whatever is done with it.
template <class... Records>
class OneOf {
public:
    template <class R, class = std::enable_if_t<(std::is_same_v<R, Records> || ...)>>
    OneOf(R record) : index_(index_of<R>()) {
        put(record);
    }
    OneOf(OneOf&& other) noexcept : index_(other.index_) {
        other.visit([this](auto& one) { this->put(one); });
    }
    OneOf& operator=(OneOf&& other) noexcept {
        if (this == &other) return *this;
        destroy();
        index_ = other.index_;
        other.visit([this](auto& one) { this->put(one); });
        return *this;
    }
    ~OneOf() { destroy(); }

    // Calls fn with the record.
    template <class Fn>
    void visit(Fn fn) {
        ((void)(is<Records>() && (fn(*get_if<Records>()), true)), ...);
    }
    template <class Fn>
    void visit(Fn fn) const {
        ((void)(is<Records>() && (fn(*get_if<Records>()), true)), ...);
    }
    template <class R>
    bool is() const {
        return index_ == index_of<R>();
    }
    // The record if it is of this type, or null.
    template <class R>
    R* get_if() {
        return is<R>() ? std::launder(reinterpret_cast<R*>(room_)) : nullptr;
    }
    template <class R>
    const R* get_if() const {
        return is<R>() ? std::launder(reinterpret_cast<const R*>(room_)) : nullptr;
    }
    // Calls fn with a null pointer to each type, until it returns true.
    template <class Fn>
    static bool any_type(Fn fn) {
        return (fn(static_cast<Records*>(nullptr)) || ...);
    }

private:
    template <class R>
    static constexpr std::size_t index_of() {
        constexpr bool same[] = {std::is_same_v<R, Records>...};
        std::size_t index = 0;
        while (!same[index]) ++index;
        return index;
    }
    template <class R>
    void put(R& record) {
        ::new (static_cast<void*>(room_)) R(std::move(record));
    }
    void destroy() {
        visit([](auto& one) { std::destroy_at(&one); });
    }

    std::size_t index_;
    alignas(Records...) unsigned char room_[std::max({sizeof(Records)...})];
};

using Record =
    OneOf<ScheduleRecord, EmitRecord, CancelRecord, PartRecord, MissRecord, ForgetRecord,
          AnswerRecord, ClockRecord, PauseRecord, ResumeRecord, SinkRecord, DeliverRecord,
          DeadRecord, RedeliverRecord, DropRecord, OverflowRecord, HeadRecord>;

// The member that a record begins with; its value is the record's `op`.
template <class R>
constexpr std::string_view record_tag = std::is_same_v<R, HeadRecord> ? "journal" : "op";

// What a record says of a task.  The payload is a view into the record's line.
struct TaskParts {
    TaskId id;
    TimePoint due{};
    std::string_view payload;  // JSON, as it stands
};

// The same with what only some tasks have.
struct DetailedParts : TaskParts {
    std::optional<std::string> name;
    std::optional<std::string> topic;
    std::optional<std::uint64_t> max_lateness;  // in milliseconds
    std::optional<std::string> traceparent;
    std::optional<std::string> tracestate;
    static constexpr auto describe = [](auto& io, auto& r) {
        io("id", r.id)("due", r.due)("payload", r.payload);
        io("name", r.name)("topic", r.topic)("max_lateness", r.max_lateness);
        io("traceparent", r.traceparent)("tracestate", r.tracestate);
    };

    void set(const Details& details);
    Details details() const;
};

inline void DetailedParts::set(const Details& details) {
    const auto given = [](std::string_view text) {
        return text.empty() ? std::nullopt : std::optional<std::string>(text);
    };
    name = given(details.name);
    topic = given(details.topic);
    if (const auto most = details.max_lateness.count(); most > 0) {
        max_lateness = static_cast<std::uint64_t>(most);
    }
    traceparent = given(details.traceparent);
    tracestate = given(details.tracestate);
}

inline Details DetailedParts::details() const {
    const auto view = [](const std::optional<std::string>& text) {
        return text ? std::string_view(*text) : std::string_view();
    };
    const milliseconds most(static_cast<milliseconds::rep>(max_lateness.value_or(0)));
    return {view(name), view(topic), most, view(traceparent), view(tracestate)};
}

// An upper bound for the bytes of a record that ends one task.
constexpr std::uint64_t end_record_size = 160;

constexpr std::string_view journal_mark = R"({"journal":"task-scheduler")";
// The last one is shown only: the journal has the state that a sink comes back to.
constexpr std::array<std::string_view, 4> sink_states{"active", "paused", "disabled", "unlisted"};
constexpr const char* sink_name_rule = "must be 1 to 64 letters, digits, '-', '_' and '.'";

inline bool is_sink_name(std::string_view name) {
    return !name.empty() && name.size() <= 64 && consists_of_alnum_and("-_.", name);
}

// ---- 6.2 Writing -----------------------------------------------------------

// Appends the members that a describe() names.  Those that are empty or false are left out
// where their absence says the same.
class RecordWriter {
public:
    explicit RecordWriter(std::string& lines) : lines_(lines) {}

    template <class T>
    RecordWriter& operator()(std::string_view name, const T& value) {
        if (is_left_out(value)) return *this;
        lines_ += lines_.back() == '{' ? "\"" : ",\"";
        lines_.append(name).append("\":");
        append(value);
        return *this;
    }
    RecordWriter& sink(const std::string& name) { return (*this)("sink", name); }
    RecordWriter& key(const Answers::node_type& answer) {
        if (answer) AnswerRecord::describe_key(*this, answer);
        return *this;
    }

private:
    template <class T>
    static bool is_left_out(const T&) {
        return false;
    }
    template <class T>
    static bool is_left_out(const std::optional<T>& value) {
        return !value;
    }
    static bool is_left_out(bool value) { return !value; }
    static bool is_left_out(const std::vector<std::uint64_t>& value) { return value.empty(); }

    void append(std::uint64_t value) { append_number(lines_, value); }
    void append(std::uint32_t value) { append_number(lines_, value); }
    void append(bool value) { lines_ += value ? "true" : "false"; }
    void append(const std::string& value) { append_quoted(lines_, value); }
    void append(std::string_view json) { lines_ += json; }
    void append(SinkState value) {
        append_quoted(lines_, sink_states[static_cast<std::size_t>(value)]);
    }
    void append(TimePoint value) {
        lines_ += '"';
        append_time(lines_, value);
        lines_ += '"';
    }
    void append(TaskId value) {
        lines_ += '"';
        append_id(lines_, value);
        lines_ += '"';
    }
    void append(const TaskRef& task) {
        DetailedParts parts{{task->id, task->due, task->text()}, {}, {}, {}, {}, {}};
        if (task->given != 0) parts.set(task->details());
        lines_ += '{';
        DetailedParts::describe(*this, parts);
        lines_ += '}';
    }
    template <class T>
    void append(const std::optional<T>& value) {
        append(*value);
    }
    template <class T>
    void append(const std::vector<T>& values) {
        char before = '[';
        for (const T& value : values) {
            lines_ += std::exchange(before, ',');
            append(value);
        }
        lines_ += values.empty() ? "[]" : "]";
    }

    std::string& lines_;
};

template <class R>
void write(std::string& lines, const R& record) {
    const std::size_t start = lines.size();
    lines.append("{\"").append(record_tag<R>).append("\":\"").append(R::op) += '"';
    RecordWriter writer(lines);
    R::describe(writer, record);
    seal_line(lines, start);
}

inline void write(std::string& lines, const Record& record) {
    record.visit([&lines](const auto& one) { write(lines, one); });
}

// ---- 6.3 Reading -----------------------------------------------------------

[[noreturn]] inline void not_understood(const std::string& why) {
    throw_as(Errc::journal_unreadable, {"the journal has a record that is intact but ", why,
                                        "; a newer version of task-scheduler may have "
                                        "written it"});
}

// For what every record must fulfil: reading one that does not ends the reading (R3).
inline void require(bool condition) {
    if (!condition) not_understood("not understood");
}

template <class T>
T require(std::optional<T> value) {
    require(value.has_value());
    return std::move(*value);
}

// Reads the record in one intact line, without its newline.
class RecordReader {
public:
    explicit RecordReader(std::string_view line) : reader_(line, JsonReader::outer_depth) {}
    Record read();

    template <class T>
    RecordReader& operator()(std::string_view name, T& value) {
        if (!meets(name)) return *this;
        take(value);
        waits_ = false;
        return *this;
    }
    RecordReader& sink(std::string& name);
    RecordReader& key(Answers::node_type& answer);

private:
    template <class R>
    R read_as();
    // Reads the members that follow, up to the end of their object; describe() names them.
    template <class Describe>
    void members(Describe describe);
    bool meets(std::string_view name) const { return waits_ && name_ == name; }
    std::string_view token() {
        std::string_view value;
        reader_.value(value);
        return value;
    }

    void take(std::uint64_t& value) { value = require(read_digits(token())); }
    void take(std::uint32_t& value);
    void take(bool& value) { value = token() == "true"; }
    void take(std::string& value) { value = require(read_string(token())); }
    void take(std::string_view& json) { json = token(); }
    void take(SinkState& value);
    void take(TimePoint& value) { value = require(parse_time(inside(token()))); }
    void take(TaskId& value) { value = require(TaskId::parse(inside(token()))); }
    void take(TaskRef& task);
    template <class T>
    void take(std::optional<T>& value) {
        take(value.emplace());
    }
    template <class T>
    void take(std::vector<T>& values) {
        values.clear();
        require(reader_.enter_array());
        while (reader_.next_element()) take(values.emplace_back());
    }

    JsonReader reader_;
    std::string_view name_;  // of the member that was met last
    bool waits_ = false;     // its value was not taken yet
};

// Reads the task of a line that write() makes of one new task without a key, which is most of
// what a journal holds.  Nothing: the line is another one, for a RecordReader.
inline std::optional<TaskParts> read_usual_task(std::string_view line) {
    constexpr std::size_t id_size = 36;
    constexpr std::size_t time_size = 24;
    constexpr std::size_t levels = 3;  // around the payload
    const auto next_is = [&line](std::string_view text) {
        if (line.substr(0, text.size()) != text) return false;
        line.remove_prefix(text.size());
        return true;
    };
    const auto next = [&line](std::size_t size) {
        const std::string_view text = line.substr(0, size);
        line.remove_prefix(text.size());
        return text;
    };
    if (!next_is(R"({"op":"schedule","tasks":[{"id":")")) return std::nullopt;
    const auto id = TaskId::parse(next(id_size));
    if (!id || *id == TaskId() || !next_is(R"(","due":")")) return std::nullopt;
    const auto due = parse_time(next(time_size));
    if (!due || !next_is(R"(","payload":)")) return std::nullopt;
    JsonReader reader(line, JsonReader::outer_depth - levels);
    std::string_view payload;
    if (!reader.value(payload) || payload.data() != line.data()) return std::nullopt;
    line.remove_prefix(payload.size());
    if (line.size() != 2 + seal_size || !stated_crc(line) || !next_is("}]")) return std::nullopt;
    return TaskParts{*id, *due, payload};
}

inline Record read_record(std::string_view line) {
    if (const auto task = read_usual_task(line)) {
        ScheduleRecord record;
        record.tasks.push_back(TaskRef::make(task->id, task->due, task->payload));
        return record;
    }
    return RecordReader(line).read();
}

inline Record RecordReader::read() {
    std::string_view tag;
    std::string_view op;
    require(reader_.enter_object() && reader_.next_member(tag) && reader_.value(op));
    op = inside(op);
    std::optional<Record> record;
    Record::any_type([&](auto* type) {
        using R = std::remove_pointer_t<decltype(type)>;
        const bool fits = op == R::op && tag == record_tag<R>;
        if (fits) record.emplace(read_as<R>());
        return fits;
    });
    if (record) return std::move(*record);
    require(tag == "op");
    not_understood(concat({"of an unknown kind, '", printable(op, 64), "'"}));
}

// What a record must say beyond its members (R3), and what these say together.
template <class R>
void complete(R&) {}

inline void complete(HeadRecord& head) {
    if (head.version == 1) return;
    throw_as(Errc::journal_unreadable,
             {"the journal was written by a newer version of task-scheduler"});
}

inline void complete(ScheduleRecord& record) {
    require(!record.tasks.empty());
    if (!record.answer) return;
    require(!record.answer.key().empty());
    Answer& answer = record.answer.mapped();
    answer.first_use = record.at.value_or(record.tasks.front()->id.time());
    for (const TaskRef& task : record.tasks) answer.ids.add(task->id);
}

inline void complete(SinkRecord& record) {
    require(!record.topics || topics_problem(*record.topics).empty());
}

inline void complete(AnswerRecord& record) {
    require(!record.answer.key().empty() && record.answer.mapped().ids.complete());
}

inline void complete(DeadRecord& record) {
    const Letter& letter = record.letter.mapped();
    require(static_cast<bool>(letter.event));
    letter.event->seq = record.letter.key();
    letter.event->ended_at = letter.emitted_at;
    letter.event->stage = Stage::emitted;
}

template <class R>
R RecordReader::read_as() {
    R record;
    members([&] { R::describe(*this, record); });
    if (!reader_.finish()) not_understood(concat({"not JSON (", reader_.problem(), ")"}));
    complete(record);
    return record;
}

// The value of a member that no describe() names is passed over.
template <class Describe>
void RecordReader::members(Describe describe) {
    while (reader_.next_member(name_)) {
        waits_ = true;
        describe();
        if (waits_) token();
    }
    waits_ = false;
}

inline RecordReader& RecordReader::sink(std::string& name) {
    if (!meets("sink")) return *this;
    (*this)("sink", name);
    require(is_sink_name(name));
    return *this;
}

// The first of its members that is met makes the node.
inline RecordReader& RecordReader::key(Answers::node_type& answer) {
    const bool begins = meets("key") || meets("digest") || meets("timestamp");
    if (begins && !answer) answer = make_answer({}, {});
    if (answer) AnswerRecord::describe_key(*this, answer);
    return *this;
}

inline void RecordReader::take(std::uint32_t& value) {
    const std::uint64_t number = require(read_digits(token()));
    require(number <= std::numeric_limits<std::uint32_t>::max());
    value = static_cast<std::uint32_t>(number);
}

inline void RecordReader::take(SinkState& value) {
    const std::string_view text = inside(token());
    const auto* const end = sink_states.end() - 1;  // the last one is not kept
    const auto* const state = std::find(sink_states.begin(), end, text);
    require(state != end);
    value = static_cast<SinkState>(state - sink_states.begin());
}

inline void RecordReader::take(TaskRef& task) {
    DetailedParts parts;
    require(reader_.enter_object());
    members([&] { DetailedParts::describe(*this, parts); });
    require(parts.id != TaskId() && !parts.payload.empty());
    const Details details = parts.details();
    require(are_acceptable(details));
    task = TaskRef::make(parts.id, parts.due, parts.payload, details);
}

}  // namespace detail

// ============================================================================
//  7. State
// ============================================================================
//
// What records mean.  Nothing here knows a clock, a thread, a file or a lock: times are
// arguments, and whoever calls holds the lock.
//
//   Q1  apply() is the one place that changes what is remembered: it is called with
//       each record after it was stored, and again when the journal is read.
//   Q2  Applying a record that was begun cannot fail: begin() has made the room.
//       Applying it twice does no harm.
//   Q3  The queue holds what may be emitted.  A task whose change or end is on its way
//       is held apart, so that nobody walks over it, and its place is kept free.
//   Q4  The index owns every task, pending or past; queues and history point to it.
//   Q5  Ids rise strictly, so their order is the order of arrival.
//   Q6  Whatever a client can make this hold is counted in bytes().
//   Q7  A name means at most one task, which is pending or on its way to be.  Where a journal
//       has two, as one that lost an emission may, it means the newer, and the older has no
//       name any more.
//
// The stages of a task, and what moves it from one to the next:
//
//     begin(schedule) ──► arriving, if it has a name ──► undo(schedule): gone
//                           │
//                           ▼      hold()        apply(cancel), apply(schedule): gone, replaced
//     apply(schedule) ──► pending ◄──────► held ─────►
//                           │     release()
//          begin_emission() │ ▲ release_emission()
//                           ▼ │
//                        emitting ──► emitted, in history()   ──► trim(), apply(forget): gone
//                     apply(emit) └─► missed, in missed()     ──► trim(): gone
//                     apply(miss)

namespace detail {

// ---- 7.1 The queue ---------------------------------------------------------

// The tasks of a queue in order of due time, then of arrival.
struct DueKey {
    TimePoint due;
    TaskId id;
    friend bool operator<(const DueKey& a, const DueKey& b) {
        return a.due != b.due ? a.due < b.due : a.id < b.id;
    }
};

inline DueKey key_of(const StoredTask* task) {
    return {task->due, task->id};
}

// A row of sorted blocks: the first task is at hand, any is found by two binary
// searches, and a walk in order of due time, which pages and the journal's replacement
// need, is a walk along memory.
//
// What a journal holds is put in faster in order of arrival, between begin_filling() and
// sort(); until then only insert() and erase() may be called.
class DueQueue {
public:
    bool empty() const { return size_ == 0; }
    std::size_t size() const { return size_; }
    // The earliest task, and the last one.  The queue must not be empty.
    StoredTask* front() const { return blocks_.front()->begin()->task; }
    StoredTask* back() const { return (blocks_.back()->end() - 1)->task; }
    // Makes room for `count` tasks more.  Each insert() after that uses one of these
    // places and cannot fail.
    void promise(std::size_t count);
    // Gives up places that were promised and will not be used.
    void withdraw(std::size_t count) {
        promised_ -= count;
        while (spare_.size() > 1 && room() - Block::capacity >= promised_) spare_.pop_back();
    }
    void insert(StoredTask* task);
    // The task must be in the queue.
    void erase(StoredTask* task);
    class Walk;
    class Counter;
    void begin_filling() { filling_ = true; }
    void sort();

private:
    // The due time lies beside the pointer, so that a search seldom leaves it.
    struct Entry {
        TimePoint due;
        StoredTask* task;
        bool before(const DueKey& key) const {
            return due != key.due ? due < key.due : task->id < key.id;
        }
        bool after(const DueKey& key) const {
            return due != key.due ? due > key.due : key.id < task->id;
        }
    };
    // Entries first_ to last_ of a fixed room.  Taking from the front moves
    // first_ alone.
    struct Block {
        static constexpr std::size_t capacity = 128;
        std::array<Entry, capacity> room;
        std::size_t first = 0;
        std::size_t last = 0;

        Entry* begin() { return room.data() + first; }
        Entry* end() { return room.data() + last; }
        std::size_t size() const { return last - first; }
        bool full() const { return size() == capacity; }
        void insert(Entry* at, Entry entry);
        void erase(Entry* at);
    };
    using Blocks = std::vector<std::unique_ptr<Block>>;

    std::size_t room() const { return (blocks_.size() + spare_.size()) * Block::capacity - size_; }
    void add_block(std::size_t index) {
        blocks_.insert(blocks_.begin() + static_cast<std::ptrdiff_t>(index),
                       std::move(spare_.back()));
        sizes_.insert(sizes_.begin() + static_cast<std::ptrdiff_t>(index), 0);
        spare_.pop_back();
    }
    void insert_into(std::size_t index, Entry* at, Entry entry) {
        blocks_[index]->insert(at, entry);
        ++sizes_[index];
    }
    void erase_from(std::size_t index, Entry* at) {
        blocks_[index]->erase(at);
        --sizes_[index];
    }
    void add_spare();
    void remove_block(std::size_t index);
    // The block that holds `key`, or where it belongs.
    std::size_t block_of(const DueKey& key) const;
    static Entry* position(Block& block, const DueKey& key);
    std::size_t make_room(std::size_t index, const DueKey& key);
    void split(std::size_t index);
    void shift_to_room(std::size_t index);
    void close_gaps();
    static void sort_by_due(std::vector<Entry>& entries);

    Blocks blocks_;                     // none is empty
    std::vector<std::uint32_t> sizes_;  // of each block: so many lie beside each other in a line
    Blocks spare_;  // room for what is promised; there is always room for all blocks here
    std::size_t size_ = 0;
    std::size_t promised_ = 0;
    bool filling_ = false;
    std::vector<Entry> unsorted_;  // while filling; a task's seq is its place here
};

inline void DueQueue::Block::insert(Entry* at, Entry entry) {
    if (last == capacity) {  // make room at the end
        std::move(begin(), end(), room.data());
        at -= first;
        last -= first;
        first = 0;
    }
    std::move_backward(at, end(), end() + 1);
    *at = entry;
    ++last;
}

inline void DueQueue::Block::erase(Entry* at) {
    if (at == begin()) {
        ++first;
    } else {
        std::move(at + 1, end(), at);
        --last;
    }
}

inline std::size_t DueQueue::block_of(const DueKey& key) const {
    const auto after = std::upper_bound(
        blocks_.begin(), blocks_.end(), key,
        [](const DueKey& k, const std::unique_ptr<Block>& b) { return b->begin()->after(k); });
    return after == blocks_.begin() ? 0 : static_cast<std::size_t>(after - blocks_.begin()) - 1;
}

inline DueQueue::Entry* DueQueue::position(Block& block, const DueKey& key) {
    return std::lower_bound(block.begin(), block.end(), key,
                            [](const Entry& entry, const DueKey& k) { return entry.before(k); });
}

// Room in total is enough: when the block that wants it is full and there is none to
// spare, the entries between it and the nearest room move up (see shift_to_room).
inline void DueQueue::promise(std::size_t count) {
    while (room() < promised_ + count) add_spare();
    promised_ += count;
}

inline void DueQueue::add_spare() {
    const std::size_t blocks = blocks_.size() + spare_.size() + 1;
    if (blocks > blocks_.capacity()) blocks_.reserve(2 * blocks);
    if (blocks > sizes_.capacity()) sizes_.reserve(2 * blocks);
    if (blocks > spare_.capacity()) spare_.reserve(2 * blocks);
    spare_.push_back(std::make_unique<Block>());
}

inline void DueQueue::split(std::size_t index) {
    add_block(index + 1);
    Block& lower = *blocks_[index];
    Block& upper = *blocks_[index + 1];
    const std::size_t half = lower.size() / 2;
    std::copy(lower.begin() + half, lower.end(), upper.room.data());
    upper.first = 0;
    upper.last = lower.size() - half;
    lower.last = lower.first + half;
    sizes_[index] = static_cast<std::uint32_t>(half);
    sizes_[index + 1] = static_cast<std::uint32_t>(upper.last);
}

// Without memory for a block: hands an entry from each full block to the next one until
// one has room, to the right or else to the left.
inline void DueQueue::shift_to_room(std::size_t index) {
    std::size_t free = index;
    while (free < blocks_.size() && blocks_[free]->full()) ++free;
    if (free < blocks_.size()) {
        for (; free > index; --free) {
            Entry* const last = blocks_[free - 1]->end() - 1;
            insert_into(free, blocks_[free]->begin(), *last);
            erase_from(free - 1, last);
        }
        return;
    }
    for (free = index; blocks_[free]->full(); --free) {
    }
    for (; free < index; ++free) {
        Entry* const first = blocks_[free + 1]->begin();
        insert_into(free, blocks_[free]->end(), *first);
        erase_from(free + 1, first);
    }
}

// A full block is halved, except at the end of the queue, where tasks that come in
// order of due time would leave half-empty blocks behind.
inline std::size_t DueQueue::make_room(std::size_t index, const DueKey& key) {
    try {
        if (spare_.empty()) add_spare();
    } catch (const std::bad_alloc&) {
        shift_to_room(index);
        return block_of(key);
    }
    if (index + 1 == blocks_.size() && (blocks_[index]->end() - 1)->before(key)) {
        add_block(index + 1);
        return index + 1;
    }
    split(index);
    return blocks_[index + 1]->begin()->after(key) ? index : index + 1;
}

inline void DueQueue::insert(StoredTask* task) {
    if (promised_ > 0) --promised_;
    const DueKey key = key_of(task);
    if (filling_) {
        if (unsorted_.size() == unsorted_.capacity() && size_ < unsorted_.size() / 2) close_gaps();
        task->seq = unsorted_.size();
        unsorted_.push_back({task->due, task});
        ++size_;
        return;
    }
    if (blocks_.empty()) {
        if (spare_.empty()) add_spare();  // nobody has promised a place
        add_block(0);
    }
    std::size_t index = size_ == 0 ? 0 : block_of(key);
    if (blocks_[index]->full()) index = make_room(index, key);
    insert_into(index, position(*blocks_[index], key), {task->due, task});
    ++size_;
}

// A block that is empty is kept when what is promised needs its room.
inline void DueQueue::remove_block(std::size_t index) {
    std::unique_ptr<Block> block = std::move(blocks_[index]);
    blocks_.erase(blocks_.begin() + static_cast<std::ptrdiff_t>(index));
    sizes_.erase(sizes_.begin() + static_cast<std::ptrdiff_t>(index));
    if (spare_.empty() || room() < promised_) {
        block->first = block->last = 0;
        spare_.push_back(std::move(block));
    }
}

inline void DueQueue::erase(StoredTask* task) {
    --size_;
    if (filling_) {
        unsorted_[static_cast<std::size_t>(task->seq)].task = nullptr;
        return;
    }
    const DueKey key = key_of(task);
    const bool is_first = blocks_.front()->begin()->task == task;  // as in an emission
    const std::size_t index = is_first ? 0 : block_of(key);
    Block& block = *blocks_[index];
    erase_from(index, is_first ? block.begin() : position(block, key));
    if (block.size() == 0) remove_block(index);
}

// Goes over the tasks in order, from the first that is not before a key on.  The queue must
// not change meanwhile.
class DueQueue::Walk {
public:
    explicit Walk(const DueQueue& queue, const DueKey& from = {TimePoint::min(), TaskId()})
        : queue_(queue) {
        if (queue.empty()) return;
        block_ = queue.block_of(from);
        at_ = position(*queue.blocks_[block_], from);
        skip_end();
    }
    // The task at hand, or nullptr behind the last.
    StoredTask* task() const { return at_ ? at_->task : nullptr; }
    void next() {
        ++at_;
        skip_end();
    }

private:
    void skip_end() {
        if (at_ != queue_.blocks_[block_]->end()) return;
        at_ = ++block_ < queue_.blocks_.size() ? queue_.blocks_[block_]->begin() : nullptr;
    }

    const DueQueue& queue_;
    std::size_t block_ = 0;
    Entry* at_ = nullptr;
};

// Counts the tasks that are due before a moment, again and again for moments that do not
// decrease.  It adds up the sizes of blocks, and looks into two of them for each moment.  The
// queue must not change meanwhile.
class DueQueue::Counter {
public:
    explicit Counter(const DueQueue& queue) : queue_(queue) {}
    std::size_t before(TimePoint due) {
        if (queue_.empty()) return 0;
        const DueKey key{due, TaskId()};
        const std::size_t block = queue_.block_of(key);
        const auto at = queue_.sizes_.begin();
        count_ = std::accumulate(at + static_cast<std::ptrdiff_t>(block_),
                                 at + static_cast<std::ptrdiff_t>(block), count_);
        block_ = block;
        Block& last = *queue_.blocks_[block];
        return count_ + static_cast<std::size_t>(position(last, key) - last.begin());
    }

private:
    const DueQueue& queue_;
    std::size_t block_ = 0;
    std::size_t count_ = 0;  // of the blocks before block_
};

// Forgets the places of tasks that were erased while the queue was filled.
inline void DueQueue::close_gaps() {
    const auto is_gap = [](const Entry& entry) { return !entry.task; };
    unsorted_.erase(std::remove_if(unsorted_.begin(), unsorted_.end(), is_gap), unsorted_.end());
    if (!filling_) return;  // nobody asks for places any more
    for (std::size_t i = 0; i < unsorted_.size(); ++i) unsorted_[i].task->seq = i;
}

// A radix sort, which keeps the order of equals: by some bits of the due time, from the
// lowest to the highest that differ.
inline void DueQueue::sort_by_due(std::vector<Entry>& entries) {
    constexpr int bits = 11;
    constexpr std::size_t radix = std::size_t{1} << bits;
    if (entries.empty()) return;
    const auto [first, last] =
        std::minmax_element(entries.begin(), entries.end(),
                            [](const Entry& a, const Entry& b) { return a.due < b.due; });
    const TimePoint earliest = first->due;
    const auto offset = [earliest](const Entry& entry) {
        return static_cast<std::uint64_t>((entry.due - earliest).count());
    };
    const std::uint64_t range = offset(*last);
    std::vector<Entry> sorted(entries.size());
    for (int shift = 0; shift < 64 && range >> shift != 0; shift += bits) {
        const auto digit = [&](const Entry& entry) {
            return static_cast<std::size_t>(offset(entry) >> shift) & (radix - 1);
        };
        std::array<std::size_t, radix + 1> places{};
        for (const Entry& entry : entries) ++places[digit(entry) + 1];
        std::partial_sum(places.begin(), places.end(), places.begin());
        for (const Entry& entry : entries) sorted[places[digit(entry)]++] = entry;
        entries.swap(sorted);
    }
}

// Entries of one due time are in order already if they came in order of arrival.  The
// blocks are left with room.
inline void DueQueue::sort() {
    constexpr std::size_t share = Block::capacity * 3 / 4;
    filling_ = false;
    close_gaps();
    std::vector<Entry> entries = std::move(unsorted_);
    unsorted_ = {};
    sort_by_due(entries);
    const auto earlier_id = [](const Entry& a, const Entry& b) { return a.task->id < b.task->id; };
    for (auto run = entries.begin(); run != entries.end();) {
        const auto end = std::find_if(
            run, entries.end(), [due = run->due](const Entry& entry) { return entry.due != due; });
        if (!std::is_sorted(run, end, earlier_id)) std::sort(run, end, earlier_id);
        run = end;
    }
    for (std::size_t begin = 0; begin < entries.size(); begin += share) {
        const std::size_t count = std::min(share, entries.size() - begin);
        add_spare();
        add_block(blocks_.size());
        std::copy_n(entries.begin() + static_cast<std::ptrdiff_t>(begin), count,
                    blocks_.back()->room.begin());
        blocks_.back()->last = count;
        sizes_.back() = static_cast<std::uint32_t>(count);
    }
}

// ---- 7.2 The index ---------------------------------------------------------

// Finds tasks by id, and owns them.  Tasks whose hashes lead to the same place are a chain
// through StoredTask::next, so that adding one takes no memory and cannot fail.  There are many
// small tables of chains, chosen by some bits of the hash, so that none takes long to grow.
class TaskIndex {
public:
    TaskIndex() = default;
    TaskIndex(const TaskIndex&) = delete;
    // Gives the other one what this had.
    TaskIndex& operator=(TaskIndex&& other) noexcept {
        tables_.swap(other.tables_);
        std::swap(size_, other.size_);
        std::swap(newest_, other.newest_);
        return *this;
    }
    ~TaskIndex();

    std::size_t size() const { return size_; }
    StoredTask* find(TaskId id) const {
        if (newest_ < id) return nullptr;  // as most ids are that are new
        StoredTask* task = *chain_of(id);
        while (task && task->id != id) task = task->next;
        return task;
    }
    // Makes a find() or insert() that follows soon faster.  Inlined, because g++ drops calls
    // of functions that do nothing but prefetch.
    [[gnu::always_inline]] void prefetch(TaskId id) const { __builtin_prefetch(chain_of(id)); }
    // There must be no task with its id.
    void insert(TaskRef task) noexcept;
    // Takes the task out; it must be there.
    TaskRef remove(StoredTask* task) noexcept;

private:
    static constexpr int table_bits = 8;

    struct Table {
        // Where the chain begins that a hash leads to: the bits behind those that choose the
        // table are taken for a fraction of one.
        std::size_t place_of(std::uint64_t hash) const {
            const std::uint64_t fraction = hash << table_bits >> 32;
            return static_cast<std::size_t>(fraction * chains.size() >> 32);
        }
        void put(StoredTask* task) {
            StoredTask*& first = chains[place_of(hash_of(task->id))];
            task->next = std::exchange(first, task);
        }
        void resize(std::size_t count) noexcept;

        static constexpr std::size_t least = 4;
        std::vector<StoredTask*> chains = std::vector<StoredTask*>(least);
        std::size_t size = 0;  // of all chains
    };

    static std::uint64_t hash_of(TaskId id) { return (id.high() ^ id.low()) * 0x9E3779B97F4A7C15U; }
    static std::size_t number_of_table(std::uint64_t hash) {
        return static_cast<std::size_t>(hash >> (64 - table_bits));
    }
    Table& table_of(TaskId id) { return tables_[number_of_table(hash_of(id))]; }
    StoredTask* const* chain_of(TaskId id) const {
        const std::uint64_t hash = hash_of(id);
        const Table& table = tables_[number_of_table(hash)];
        return &table.chains[table.place_of(hash)];
    }

    std::array<Table, std::size_t{1} << table_bits> tables_;
    std::size_t size_ = 0;
    TaskId newest_;  // no task has ever had an id that is greater
};

inline TaskIndex::~TaskIndex() {
    for (const Table& table : tables_) {
        for (StoredTask* task : table.chains) {
            while (task) task = TaskRef::adopt(task)->next;
        }
    }
}

// Makes another number of chains of the same tasks.  Where there is no memory for that, they stay
// as long as they are.
inline void TaskIndex::Table::resize(std::size_t count) noexcept {
    std::vector<StoredTask*> others;
    try {
        others.resize(count);
    } catch (const std::bad_alloc&) {
        return;
    }
    others.swap(chains);
    constexpr std::size_t ahead = 8;
    for (std::size_t i = 0; i < others.size(); ++i) {
        if (i + ahead < others.size()) __builtin_prefetch(others[i + ahead]);
        StoredTask* task = others[i];
        while (task) put(std::exchange(task, task->next));
    }
}

inline void TaskIndex::insert(TaskRef task) noexcept {
    newest_ = std::max(newest_, task->id);
    Table& table = table_of(task->id);
    const std::size_t chains = table.chains.size();
    if (table.size >= chains) table.resize(2 * chains);
    table.put(task.release());
    ++table.size;
    ++size_;
}

inline TaskRef TaskIndex::remove(StoredTask* task) noexcept {
    Table& table = table_of(task->id);
    StoredTask** at = &table.chains[table.place_of(hash_of(task->id))];
    while (*at != task) at = &(*at)->next;
    *at = task->next;
    --table.size;
    --size_;
    const std::size_t chains = table.chains.size();
    if (chains > 16 * Table::least && table.size * 8 < chains) table.resize(chains / 4);
    return TaskRef::adopt(task);
}

// Which pending task a name means.  The names lie in a tree: whoever chooses them cannot make a
// search slow, and letting one mean another task needs no memory.
class NameIndex {
public:
    StoredTask* find(std::string_view name) const {
        const auto found = tasks_.find(name);
        return found == tasks_.end() ? nullptr : found->second;
    }
    // Lets the task's name mean it.  Takes memory only if the name means nothing yet.
    void set(StoredTask* task) {
        const std::string_view name = task->details().name;
        auto node = tasks_.extract(name);
        if (!node) {
            tasks_.emplace(name, task);
            return;
        }
        node.key() = name;  // whose text is that of the task
        node.mapped() = task;
        tasks_.insert(std::move(node));
    }
    // Lets the task's name mean nothing, unless it means another task.
    void remove(const StoredTask* task) {
        const auto found = tasks_.find(task->details().name);
        if (found != tasks_.end() && found->second == task) tasks_.erase(found);
    }

    std::size_t size() const { return tasks_.size(); }

private:
    std::map<std::string_view, StoredTask*> tasks_;
};

// Makes ids that rise strictly, also when the clock stands still or steps back
// (RFC 9562, 6.2: a counter in the twelve bits behind the milliseconds).  The ids of a
// batch are a run: they count up in their last bits.
class IdSource {
public:
    // The first of a run of ids; the others follow by TaskId::plus().
    TaskId next(TimePoint now) {
        const auto ms =
            static_cast<std::uint64_t>(std::max<std::int64_t>(now.time_since_epoch().count(), 0));
        if (ms > ms_) {
            ms_ = ms;
            counter_ = random_() & 0x7FFU;
        } else if (++counter_ > 0xFFFU) {
            ++ms_;
            counter_ = 0;
        }
        // One bit is left free, so that no run reaches the next value.
        return TaskId(ms_ << 16 | 0x7000U | counter_, random_() >> 3 | std::uint64_t{1} << 63);
    }
    // Makes every id that next() returns from now on greater than this one.
    void pass(TaskId id) {
        const std::uint64_t ms = id.high() >> 16;
        const std::uint64_t counter = id.high() & 0xFFFU;
        if (ms > ms_ || (ms == ms_ && counter > counter_)) {
            ms_ = ms;
            counter_ = counter;
        }
    }
    // An id that no later one is less than.
    TaskId last() const { return TaskId(ms_ << 16 | 0x7000U | counter_, ~std::uint64_t{0}); }

private:
    std::uint64_t ms_ = 0;
    std::uint64_t counter_ = 0;
    Random random_;
};

// ---- 7.3 The past, keys and sinks ------------------------------------------

}  // namespace detail

/// How late the events of one minute were: by how much each was emitted after it was due, or,
/// where its time was past when the task came, after that.
struct LatenessMinute {
    TimePoint at{};            ///< when the minute began
    std::uint64_t events = 0;  ///< that were emitted in it
    milliseconds p50{0};       ///< half of them were at most so late, to a sixteenth of that
    milliseconds p95{0};       ///< 19 in twenty of them
    milliseconds p99{0};       ///< 99 in a hundred
    milliseconds max{0};       ///< all of them
};

/// What happened at a moment that explains how late events were.
struct Mark {
    /// The kinds of it.
    enum class Kind {
        start,        ///< the scheduler was made
        clock_step,   ///< the clock was set, or the machine slept; found at the next emission
        pause,        ///< a pause began
        resume,       ///< a pause ended
        replacement,  ///< the journal was replaced
    };
    Kind kind = Kind::start;  ///< which of them
    TimePoint at{};           ///< when it was noticed
    milliseconds by{0};       ///< how far the clock was set forward, or backward if negative
};

namespace detail {

// The newest of what was added, up to a number, in order.
template <class T, std::size_t most>
class Newest {
public:
    void add(const T& item) noexcept { items_[count_++ % most] = item; }
    std::vector<T> all() const {
        std::vector<T> items;
        for (std::size_t i = count_ - std::min(count_, most); i < count_; ++i) {
            items.push_back(items_[i % most]);
        }
        return items;
    }

private:
    std::array<T, most> items_{};
    std::size_t count_ = 0;
};

// How late events were, by the minute in which they were emitted, and what explains that.  A
// minute begins with its first event, so that nobody has to wake up for it.
class LatenessBook {
public:
    void add(TimePoint at, milliseconds late) noexcept;
    void mark(const Mark& mark) noexcept { marks_.add(mark); }
    std::vector<Mark> marks() const { return marks_.all(); }
    // Those of the last hours in which something was emitted, the one at hand included.
    std::vector<LatenessMinute> minutes() const;
    const Durations& all() const { return all_; }

private:
    static constexpr std::size_t most_minutes = 240;
    static constexpr std::size_t most_marks = 100;
    // Up to 16 ms each count has a millisecond; from there on each doubling has sixteen counts.
    static constexpr unsigned fine_bits = 4;
    static constexpr unsigned most_bits = 37;  // four years
    static std::size_t place_of(std::uint64_t late);
    static std::uint64_t largest_of(std::size_t place);
    milliseconds quantile(std::uint64_t percent) const;
    LatenessMinute at_hand() const;

    std::array<std::uint64_t, (most_bits - fine_bits + 1) << fine_bits> counts_{};
    TimePoint minute_{};  // at hand
    std::uint64_t events_ = 0;
    milliseconds max_{0};
    Durations all_;
    Newest<LatenessMinute, most_minutes> past_;
    Newest<Mark, most_marks> marks_;
};

inline std::size_t LatenessBook::place_of(std::uint64_t late) {
    unsigned shift = 0;
    while (late >> shift >= 2U << fine_bits) ++shift;
    return (std::size_t{shift} << fine_bits) + static_cast<std::size_t>(late >> shift);
}

inline std::uint64_t LatenessBook::largest_of(std::size_t place) {
    const std::size_t shift = place >> fine_bits > 0 ? (place >> fine_bits) - 1 : 0;
    return ((std::uint64_t{place} - (shift << fine_bits) + 1) << shift) - 1;
}

inline void LatenessBook::add(TimePoint at, milliseconds late) noexcept {
    if (at < minute_ || at >= minute_ + std::chrono::minutes(1)) {
        if (events_ > 0) past_.add(at_hand());
        counts_.fill(0);
        events_ = 0;
        max_ = milliseconds(0);
        minute_ = std::chrono::floor<std::chrono::minutes>(at);
    }
    constexpr auto most = static_cast<std::int64_t>((std::uint64_t{1} << most_bits) - 1);
    const auto ms = std::clamp<std::int64_t>(late.count(), 0, most);
    ++counts_[place_of(static_cast<std::uint64_t>(ms))];
    all_.add(milliseconds(ms));
    ++events_;
    max_ = std::max(max_, milliseconds(ms));
}

inline milliseconds LatenessBook::quantile(std::uint64_t percent) const {
    std::uint64_t left = (events_ * percent + 99) / 100;
    std::size_t place = 0;
    while (counts_[place] < left) left -= counts_[place++];
    return std::min(milliseconds(largest_of(place)), max_);
}

inline LatenessMinute LatenessBook::at_hand() const {
    return {minute_, events_, quantile(50), quantile(95), quantile(99), max_};
}

inline std::vector<LatenessMinute> LatenessBook::minutes() const {
    std::vector<LatenessMinute> minutes = past_.all();
    if (events_ > 0) minutes.push_back(at_hand());
    return minutes;
}

// Tasks that have ended, in order.  A task's `seq` is its place for ever; some places are
// empty, as tasks are trimmed and forgotten, so a reader's cursor is the seq that it
// wants next.
class History {
public:
    bool empty() const { return size_ == 0; }
    std::size_t size() const { return size_; }
    std::size_t bytes() const { return bytes_; }  // of payload
    std::size_t memory() const { return bytes_ + size_ * StoredTask::beside; }
    // The seq that the next task gets.
    std::uint64_t next_seq() const { return next_seq_; }
    // The seq of the oldest task, or of the next one if there is none.
    std::uint64_t first_seq() const { return empty() ? next_seq_ : oldest()->seq; }
    StoredTask* oldest() const { return at(0); }
    StoredTask* at(std::size_t index) const {
        return (*blocks_[(first_ + index) / block_size])[(first_ + index) % block_size];
    }
    // How many tasks come before that seq.
    std::size_t index_of(std::uint64_t seq) const;
    // Makes room, so that the next `count` calls of append() cannot fail.
    void reserve(std::size_t count);
    // The task's seq must not be below next_seq().
    void append(StoredTask* task) {
        reserve(1);
        slot(size_++) = task;
        bytes_ += task->bytes();
        next_seq_ = task->seq + 1;
    }
    void skip_to(std::uint64_t seq) { next_seq_ = std::max(next_seq_, seq); }
    void drop_oldest();
    // Takes out `count` of them from index `first` on.
    void take(std::size_t first, std::size_t count, StoredTask** taken);

private:
    static constexpr std::size_t block_size = 1'024;
    using Block = std::array<StoredTask*, block_size>;

    StoredTask*& slot(std::size_t index) {
        return (*blocks_[(first_ + index) / block_size])[(first_ + index) % block_size];
    }
    std::size_t blocks_for(std::size_t count) const {
        return (first_ + count + block_size - 1) / block_size;
    }
    void drop_front(std::size_t count);
    void free_blocks();

    // The tasks lie in blocks, so that none has to move when there are more of them.  Behind
    // the blocks in use are those that reserve() has made room with.
    std::vector<std::unique_ptr<Block>> blocks_;
    std::size_t first_ = 0;  // where the oldest task lies in the first block
    std::size_t size_ = 0;
    std::size_t bytes_ = 0;
    std::uint64_t next_seq_ = 0;
};

inline std::size_t History::index_of(std::uint64_t seq) const {
    std::size_t low = 0;
    for (std::size_t high = size_; low < high;) {
        const std::size_t middle = low + (high - low) / 2;
        if (at(middle)->seq < seq) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

inline void History::reserve(std::size_t count) {
    const std::size_t needed = blocks_for(size_ + count);
    while (blocks_.size() < needed) blocks_.push_back(std::make_unique<Block>());
}

inline void History::drop_oldest() {
    bytes_ -= oldest()->bytes();
    drop_front(1);
}

inline void History::drop_front(std::size_t count) {
    size_ -= count;
    for (first_ += count; first_ >= block_size; first_ -= block_size) {
        std::rotate(blocks_.begin(), blocks_.begin() + 1, blocks_.end());
    }
    free_blocks();
}

// What one emission may have reserved stays.
inline void History::free_blocks() {
    constexpr std::size_t spare = 2;
    while (blocks_.size() > blocks_for(size_) + spare) blocks_.pop_back();
}

// Closes the gap from the side on which fewer tasks have to move.
inline void History::take(std::size_t first, std::size_t count, StoredTask** taken) {
    for (std::size_t i = 0; i < count; ++i) {
        taken[i] = at(first + i);
        bytes_ -= taken[i]->bytes();
    }
    const std::size_t behind = size_ - first - count;
    if (first <= behind) {
        for (std::size_t i = first; i > 0; --i) slot(i - 1 + count) = at(i - 1);
        drop_front(count);
    } else {
        for (std::size_t i = 0; i < behind; ++i) slot(first + i) = at(first + count + i);
        size_ -= count;
        free_blocks();
    }
}

// What was answered under idempotency keys.  The keys lie in a tree: whoever chooses them
// cannot make a search slow, and an insertion needs no memory.  They also stand in line, in
// the order of use.
class KeyBook {
public:
    const Answer* find(std::string_view key) const {
        const auto found = answers_.find(key);
        return found == answers_.end() ? nullptr : &found->second;
    }
    const Answers& all() const { return answers_; }
    std::size_t bytes() const { return bytes_; }
    // How much a key and its answer count in bytes(): their texts, and what the tree needs.
    static std::size_t size_of(const std::string& key, const Answer& answer) {
        constexpr std::size_t beside = 256;
        return key.size() + answer.timestamp.size() + answer.ids.bytes() + beside;
    }
    // Another answer under the same key has had its day: this one takes its place.
    void insert(Answers::node_type node);
    // Drops answers that were first used before `limit`, unless is_needed(answer): these go
    // to the end of the line.  Stops when about `most` tasks were asked for.
    template <class Needed>
    void drop_before(TimePoint limit, std::size_t most, Needed is_needed);

private:
    void stand_in_line(Answers::value_type* answer) {
        (last_ ? last_->second.later : first_) = answer;
        last_ = answer;
    }

    Answers answers_;
    Answers::value_type* first_ = nullptr;  // in line
    Answers::value_type* last_ = nullptr;
    std::size_t bytes_ = 0;
};

inline void KeyBook::insert(Answers::node_type node) {
    bytes_ += size_of(node.key(), node.mapped());
    auto added = answers_.insert(std::move(node));
    if (added.inserted) return stand_in_line(&*added.position);
    Answer& known = added.position->second;
    bytes_ -= size_of(added.position->first, known);
    added.node.mapped().later = known.later;  // it keeps its place in line
    known = std::move(added.node.mapped());
}

template <class Needed>
void KeyBook::drop_before(TimePoint limit, std::size_t most, Needed is_needed) {
    const Answers::value_type* const end = last_;
    for (std::size_t asked = 0; first_ && first_->second.first_use < limit && asked < most;) {
        Answers::value_type* const answer = first_;
        asked += 1 + answer->second.ids.size();
        first_ = std::exchange(answer->second.later, nullptr);
        if (!first_) last_ = nullptr;
        if (is_needed(answer->second)) {
            stand_in_line(answer);
        } else {
            bytes_ -= size_of(answer->first, answer->second);
            answers_.erase(answer->first);
        }
        if (answer == end) return;
    }
}

// What is remembered of the sinks: cursors, failed attempts and dead letters.
class SinkBook {
public:
    // Whether somebody delivers to a sink: unknown while nobody has said which there are.
    enum class Listing { unknown, listed, unlisted };
    // What is shown of it as it stands, but for its place in the history and its letters.
    struct Sink : SinkStatus {
        std::uint64_t seq = 0;  // of the event that it wants next
        TimePoint next{};       // attempt; the epoch: at once
        Letters letters;
        std::uint64_t first_again = 0;  // no letter before this one is to be delivered again
        bool overflowing = false;       // the last letter was never tried
        Listing listing = Listing::unknown;
        bool told_dropped = false;  // the log was told of `dropped`
        std::size_t passed = 0;     // events since that was written last, see Store::pass()
        TimePoint passed_at{};      // when it was

        // Whether its topics choose an event.
        bool wants(const StoredTask& event) const {
            return topics.empty() || chooses_topic(topics, event.details().topic);
        }
        // The first dead letter that is to be delivered again.
        const Letter* letter_again() const;
    };

    // Most of a sink, and of all of them in bytes.
    SinkBook(std::size_t max_dead, std::uint64_t max_bytes)
        : max_dead_(max_dead), max_bytes_(max_bytes) {}
    // Of the letters no more are kept than take so many bytes of the journal; each sink keeps one.
    void limit(std::uint64_t max_bytes) { max_bytes_ = max_bytes; }
    std::uint64_t max_bytes() const { return max_bytes_; }

    const std::map<std::string, Sink>& all() const { return sinks_; }
    const Sink* find(const std::string& name) const {
        const auto found = sinks_.find(name);
        return found == sinks_.end() ? nullptr : &found->second;
    }
    Sink* find(const std::string& name) {
        const auto found = sinks_.find(name);
        return found == sinks_.end() ? nullptr : &found->second;
    }
    // The seq of the oldest event that some sink wants.
    std::uint64_t first_wanted() const;
    // A seq that no event has yet, as far as the sinks know.
    std::uint64_t next_seq() const;
    // Of dead letters, with their events where these are not in the history.
    std::size_t bytes() const { return bytes_; }
    // Of the records of all dead letters in a journal, about.
    std::size_t record_bytes() const { return record_bytes_; }
    // Makes room for a sink that may be new, so that add() cannot fail.
    void expect(const std::string& name) {
        if (!find(name)) expected_.emplace(name, Sink());
    }
    // The sink of this name, which is a new one if there was none and it is expected.
    Sink& add(const std::string& name) noexcept {
        if (Sink* const known = find(name)) return *known;
        return sinks_.insert(expected_.extract(name)).position->second;
    }
    void set(Sink& sink, SinkRecord& record);
    void move(Sink& sink, std::uint64_t seq);
    void bury(Sink& sink, Letters::node_type letter, bool is_retained);
    void erase(Sink& sink, std::uint64_t seq);
    void remove(const std::string& name);
    // Told when the history drops an event: dead letters of it count in bytes() from then on.
    void drop(const StoredTask* event);
    // Nobody delivers to sinks from here on.
    void close() {
        for (auto& [name, sink] : sinks_) {
            if (sink.listing == Listing::listed) sink.listing = Listing::unknown;
        }
    }

private:
    static std::size_t memory_of(const Letter& letter) {
        constexpr std::size_t beside = 144;
        return letter.error.size() + beside + (letter.counts ? letter.event->memory() : 0);
    }
    static std::size_t record_size(const Letter& letter) {
        constexpr std::size_t beside = 350;
        return letter.event->bytes() + letter.error.size() + beside;
    }

    std::size_t max_dead_;
    std::uint64_t max_bytes_;
    std::map<std::string, Sink> sinks_;
    std::map<std::string, Sink> expected_;
    std::size_t bytes_ = 0;
    std::size_t record_bytes_ = 0;
};

inline const Letter* SinkBook::Sink::letter_again() const {
    for (auto at = letters.lower_bound(first_again); at != letters.end(); ++at) {
        if (at->second.again) return &at->second;
    }
    return nullptr;
}

inline std::uint64_t SinkBook::first_wanted() const {
    std::uint64_t first = ~std::uint64_t{0};
    for (const auto& [name, sink] : sinks_) first = std::min(first, sink.seq);
    return first;
}

inline std::uint64_t SinkBook::next_seq() const {
    std::uint64_t next = 0;
    for (const auto& [name, sink] : sinks_) {
        next = std::max(next, sink.seq);
        if (!sink.letters.empty()) next = std::max(next, sink.letters.rbegin()->first + 1);
    }
    return next;
}

inline void SinkBook::set(Sink& sink, SinkRecord& record) {
    if (record.topics) sink.topics = std::move(*record.topics);
    // One about an event that was given up meanwhile says nothing.
    if (record.seq && *record.seq < sink.seq) return;
    if (record.seq) sink.seq = *record.seq;
    if (record.state) sink.state = *record.state;
    if (record.attempts) sink.attempts = *record.attempts;
    if (record.next) sink.next = *record.next;
    if (record.error) sink.last_error = std::move(*record.error);
}

inline void SinkBook::move(Sink& sink, std::uint64_t seq) {
    sink.overflowing = false;
    if (seq <= sink.seq) return;
    sink.seq = seq;
    sink.attempts = 0;
    sink.next = TimePoint();
}

inline void SinkBook::bury(Sink& sink, Letters::node_type node, bool is_retained) {
    erase(sink, node.key());
    Letter& letter = node.mapped();
    letter.counts = !is_retained;
    bytes_ += memory_of(letter);
    record_bytes_ += record_size(letter);
    try {
        if (!letter.error.empty()) sink.last_error = letter.error;
    } catch (const std::bad_alloc&) {  // the sink's status shows an older one
    }
    if (letter.again) sink.first_again = std::min(sink.first_again, node.key());
    sink.letters.insert(std::move(node));
    while (sink.letters.size() > max_dead_ ||
           (record_bytes_ > max_bytes_ && sink.letters.size() > 1)) {
        ++sink.dropped;
        erase(sink, sink.letters.begin()->first);
    }
}

inline void SinkBook::erase(Sink& sink, std::uint64_t seq) {
    const auto letter = sink.letters.find(seq);
    if (letter == sink.letters.end()) return;
    bytes_ -= memory_of(letter->second);
    record_bytes_ -= record_size(letter->second);
    sink.letters.erase(letter);
}

inline void SinkBook::remove(const std::string& name) {
    Sink* const sink = find(name);
    if (!sink) return;
    while (!sink->letters.empty()) erase(*sink, sink->letters.begin()->first);
    sinks_.erase(name);
}

inline void SinkBook::drop(const StoredTask* event) {
    for (auto& [name, sink] : sinks_) {
        const auto letter = sink.letters.find(event->seq);
        if (letter == sink.letters.end() || std::exchange(letter->second.counts, true)) continue;
        bytes_ += event->memory();
    }
}

// ---- 7.4 The state ---------------------------------------------------------

// All that is remembered: what the records of the journal have come to so far.
class State {
public:
    // How much of what has ended is kept, see `Options`.
    struct Limits {
        std::size_t history;
        milliseconds min_retention;
        std::size_t sink_backlog;
        std::size_t sink_backlog_bytes;
        std::size_t max_dead;
        std::uint64_t share;  // in bytes: of events, of missed tasks, of dead letters
    };
    // Called between the parts of what may take long; it may let others have the lock, so
    // it is called only where everything is consistent.  Empty: nothing.
    using Breathe = std::function<void()>;

    explicit State(const Limits& limits) : limits_(limits), sinks_(limits.max_dead, limits.share) {}

    // While a journal is read, between these two, whatever a sink wants is kept.
    void begin_loading();
    // Returns how many tasks have lost their names to newer ones (Q7).
    std::size_t end_loading();

    // Makes the room that applying the record takes, and holds the tasks that it changes or
    // ends.  Throws std::bad_alloc, and then has done nothing.
    void begin(const Record& record);
    // Does what a record says (Q1).  A record that was begun is used up by that.
    void apply(Record& record, const Breathe& breathe = {});
    void apply(HeadRecord& record, const Breathe& breathe = {});
    void apply(ScheduleRecord& record, const Breathe& breathe = {});
    void apply(EmitRecord& record, const Breathe& breathe = {});
    void apply(CancelRecord& record, const Breathe& breathe = {});
    void apply(PartRecord& record, const Breathe& breathe = {});
    void apply(MissRecord& record, const Breathe& breathe = {});
    void apply(ForgetRecord& record, const Breathe& breathe = {});
    void apply(AnswerRecord& record, const Breathe& breathe = {});
    void apply(ClockRecord& record, const Breathe& breathe = {});
    void apply(PauseRecord& record, const Breathe& breathe = {});
    void apply(ResumeRecord& record, const Breathe& breathe = {});
    void apply(SinkRecord& record, const Breathe& breathe = {});
    void apply(DeliverRecord& record, const Breathe& breathe = {});
    void apply(DeadRecord& record, const Breathe& breathe = {});
    void apply(RedeliverRecord& record, const Breathe& breathe = {});
    void apply(DropRecord& record, const Breathe& breathe = {});
    void apply(OverflowRecord& record, const Breathe& breathe = {});
    // Does what a record says that another process has stored; nothing is held meanwhile.  Throws
    // std::bad_alloc; then it, and those since which nothing failed, may be followed once more.
    void follow(Record& record, const Breathe& breathe = {});
    // Takes back what begin() has done for a record that could not be stored.
    void undo(Record& record, const Breathe& breathe = {});
    void undo(CancelRecord& record, const Breathe& breathe = {});
    // Holds one of many tasks that a call cancels; apply() or undo() of the record that
    // names it ends that.  Throws std::bad_alloc.
    void hold(StoredTask* task);

    // Marks up to `most` tasks that are due at `at`, and says in the two records which are
    // emitted and which are missed, being later than their own lateness allows, or, where a task
    // has none, `max_lateness`.  apply() follows, or release_emission().  Throws std::bad_alloc,
    // and then has done nothing.
    void begin_emission(TimePoint at, std::optional<milliseconds> max_lateness, std::size_t most,
                        EmitRecord& emitted, MissRecord& missed);
    void release_emission(const EmitRecord& emitted, const MissRecord& missed);

    // Forgets what has ended and need not be kept any longer.  Returns whether there was
    // any.
    bool trim(TimePoint now, const Breathe& breathe = {});
    // Of what has ended, no more is kept for long than so many bytes of the journal, and likewise
    // of dead letters.
    void limit_past(std::uint64_t bytes) {
        most_past_bytes_ = bytes;
        sinks_.limit(std::min(limits_.share, bytes));
    }
    // When trim() has something to do, if ever, or, if sinks may give up events, next_overflow().
    std::optional<TimePoint> next_trim(bool may_overflow = true) const;
    // What a sink has to give up, because the history cannot keep it for longer.
    std::optional<OverflowRecord> next_overflow(TimePoint now) const;
    // Forgets answers that were first used a day before `now`, about `most` tasks' worth.
    void drop_answers(TimePoint now, std::size_t most = 1'000);

    // ---- What there is
    StoredTask* find(TaskId id) const { return index_.find(id); }
    // The pending task that a name means, or the one on its way to be (Q7).
    StoredTask* find(std::string_view name) const { return names_.find(name); }
    std::size_t pending() const { return queue_.size() + held_.size(); }
    // The pending tasks, and the new ones whose records are still on their way to the journal.
    std::size_t expected() const { return pending() + arriving_; }
    std::size_t arriving() const { return arriving_; }
    std::optional<TimePoint> next_due() const;
    // For how long the earliest pending task is overdue.
    milliseconds overdue(TimePoint now) const;
    std::size_t names() const { return names_.size(); }
    // Calls fn(task) for pending tasks in order, from the first that is not before `from` on,
    // until it returns false.
    template <class Fn>
    void walk(const DueKey& from, Fn fn) const;
    // How many tasks are due in a range.
    std::size_t count(const DueRange& range) const;
    // The spans run to the ends of the range, or to the first and the last task where it is
    // open.
    Histogram histogram(const DueRange& range, std::size_t buckets, TimePoint now) const;
    const DueQueue& queue() const { return queue_; }
    const History& history() const { return history_; }
    const History& missed() const { return missed_; }
    const KeyBook& keys() const { return keys_; }
    const SinkBook& sinks() const { return sinks_; }
    SinkBook& sinks() { return sinks_; }
    std::vector<SinkStatus> sink_statuses() const;
    IdSource& ids() { return ids_; }
    const IdSource& ids() const { return ids_; }
    // How many events were emitted later than a second after they were due.
    std::uint64_t late() const { return late_; }
    // Nothing: tasks are emitted.
    const std::optional<Pause>& paused() const { return paused_; }
    // Of what was emitted since the journal was read.
    const LatenessBook& lateness() const { return lateness_; }
    LatenessBook& lateness() { return lateness_; }
    // A number that no bulk call in the journal has.
    std::uint64_t new_bulk() { return ++bulk_; }
    void drop_parts() { parts_.clear(); }
    // The latest time of all records that were applied; a clock that is behind it is not trusted.
    TimePoint newest_stamp() const { return newest_stamp_; }
    void set_newest_stamp(TimePoint stamp) { newest_stamp_ = stamp; }
    // What clients make this hold in memory, also on its way: tasks, keys with what they
    // answered, dead letters (Q6).
    std::size_t bytes() const {
        return bytes_ + (index_.size() + arriving_) * StoredTask::beside + arriving_bytes_ +
               keys_.bytes() + sinks_.bytes();
    }
    std::size_t key_bytes() const { return keys_.bytes(); }
    std::size_t letter_bytes() const { return sinks_.bytes(); }
    // About what a journal would come to with just this and what is on its way.
    std::uint64_t record_bytes(std::size_t tasks = 0, std::size_t bytes = 0) const;

    static constexpr std::chrono::hours key_lifetime{24};

private:
    void begin_one(const ScheduleRecord& record);
    void begin_one(const CancelRecord& record);
    void begin_one(const SinkRecord& record) {
        if (record.seq && record.state) sinks_.expect(record.sink);
    }
    template <class Other>
    void begin_one(const Other&) {}

    void undo(ScheduleRecord& record, const Breathe& breathe);
    template <class Other>
    void undo(Other&, const Breathe&) {}

    // A task with a time that was past when it came is late from then on.
    static TimePoint late_from(const StoredTask* task) {
        return std::max(task->due, task->id.time());
    }
    void stamp(TimePoint at) { newest_stamp_ = std::max(newest_stamp_, at); }
    static constexpr std::size_t ahead = 8;  // tasks whose places in the index are fetched
    static void pause(const Breathe& breathe, std::size_t done) {
        if (breathe && done % 64 == 63) breathe();
    }
    void put(TaskRef task);
    void name(StoredTask* task);
    std::size_t settle_names();
    void take_out(StoredTask* task);
    void release(StoredTask* task);
    StoredTask* find_ending(const std::vector<TaskId>& ids, std::size_t i) const;
    void cancel(const std::vector<TaskId>& ids, const Breathe& breathe);
    void end(StoredTask* task, Stage stage, TimePoint at, History& history, std::uint64_t seq);
    void forget(StoredTask* task);
    // Whether so many past tasks, which take so many bytes, are more than is to be kept.
    bool is_too_much(std::size_t count, std::size_t bytes) const {
        return count > limits_.history ||
               (count > 0 && (bytes > limits_.share || is_too_long(count, bytes)));
    }
    // Whether they are more than the journal's disk is to hold of them.
    bool is_too_long(std::size_t count, std::size_t bytes) const {
        constexpr std::uint64_t more = record_beside + end_record_size - StoredTask::beside;
        return bytes + count * more > most_past_bytes_;
    }
    // Whether so many events can wait for a sink.
    bool is_backlog(std::size_t count, std::size_t bytes) const {
        return count <= limits_.sink_backlog && bytes <= limits_.sink_backlog_bytes &&
               !is_too_long(count, bytes + count * StoredTask::beside);
    }
    bool trim(History& past, TimePoint now, const Breathe& breathe);
    bool is_old(const StoredTask* ended, TimePoint now) const;
    bool is_wanted(const StoredTask* event) const { return event->seq >= sinks_.first_wanted(); }
    bool pass_over(SinkBook::Sink& sink, std::uint64_t end, TimePoint at);

    // Of a task's record, what is not its payload, about.
    static constexpr std::uint64_t record_beside = 140;

    Limits limits_;
    std::uint64_t most_past_bytes_ = ~std::uint64_t{0};
    TaskIndex index_;
    NameIndex names_;
    DueQueue queue_;
    DueQueue held_;  // Q3
    History history_;
    History missed_;
    KeyBook keys_;
    SinkBook sinks_;
    IdSource ids_;
    TimePoint newest_stamp_{};
    std::size_t bytes_ = 0;                   // of payload, pending and past
    std::size_t arriving_ = 0;                // tasks that were begun and are not applied
    std::size_t arriving_bytes_ = 0;          // of their payload, and of keys likewise
    std::uint64_t bulk_ = 0;                  // the number of the last bulk call with parts (R4)
    std::uint64_t bulk_of_parts_ = 0;         // another's is below that if one here was not stored
    std::vector<std::vector<TaskId>> parts_;  // of the call with that number, if it has not ended
    std::vector<TaskId> unnamed_;             // while loading: their names meant newer tasks
    std::uint64_t first_free_seq_ = 0;        // as the journal's head says
    std::vector<StoredTask*> emitting_;  // the tasks of the record that begin_emission() has made
    std::uint64_t late_ = 0;
    std::optional<Pause> paused_;
    LatenessBook lateness_;
    bool loading_ = false;
    bool following_ = false;
};

// ---- 7.5 Begun and undone --------------------------------------------------

inline void State::begin(const Record& record) {
    record.visit([this](const auto& one) { begin_one(one); });
}

inline void State::undo(Record& record, const Breathe& breathe) {
    record.visit([this, &breathe](auto& one) { undo(one, breathe); });
}

inline void State::hold(StoredTask* task) {
    held_.promise(1);
    try {
        queue_.promise(1);  // its place, for release()
    } catch (...) {
        held_.withdraw(1);
        throw;
    }
    queue_.erase(task);
    held_.insert(task);
    task->stage = Stage::held;
}

inline void State::release(StoredTask* task) {
    held_.erase(task);
    task->stage = Stage::pending;
    queue_.insert(task);
}

// A record for a known id is a change of that task, and the only one of its record.  A new task
// that has a name is the only one of its record as well.
inline void State::begin_one(const ScheduleRecord& record) {
    StoredTask* const first = record.tasks.front().get();
    StoredTask* const known = index_.find(first->id);
    if (known) {
        hold(known);  // its place in the queue is for either of the two
    } else {
        queue_.promise(record.tasks.size());
        try {
            if (first->has_name()) names_.set(first);
        } catch (...) {
            queue_.withdraw(record.tasks.size());
            throw;
        }
        if (first->has_name()) first->stage = Stage::arriving;
        arriving_ += record.tasks.size();
    }
    for (const TaskRef& task : record.tasks) arriving_bytes_ += task->bytes();
    if (record.answer) {
        arriving_bytes_ += KeyBook::size_of(record.answer.key(), record.answer.mapped());
    }
}

inline void State::undo(ScheduleRecord& record, const Breathe&) {
    StoredTask* const known = index_.find(record.tasks.front()->id);
    if (known) {
        release(known);
    } else {
        queue_.withdraw(record.tasks.size());
        if (record.tasks.front()->has_name()) names_.remove(record.tasks.front().get());
        arriving_ -= record.tasks.size();
    }
    for (const TaskRef& task : record.tasks) arriving_bytes_ -= task->bytes();
    if (record.answer) {
        arriving_bytes_ -= KeyBook::size_of(record.answer.key(), record.answer.mapped());
    }
}

// The tasks of a bulk call are held already.
inline void State::begin_one(const CancelRecord& record) {
    if (!record.bulk) hold(index_.find(record.ids.front()));
}

inline void State::undo(CancelRecord& record, const Breathe& breathe) {
    if (record.bulk) return;  // whoever has begun the call releases all that it holds
    for (std::size_t i = 0; i < record.ids.size(); ++i) {
        if (StoredTask* const task = find_ending(record.ids, i)) release(task);
        pause(breathe, i);
    }
}

// ---- 7.6 Applied -----------------------------------------------------------

inline void State::begin_loading() {
    loading_ = true;
    queue_.begin_filling();
}

inline std::size_t State::end_loading() {
    loading_ = false;
    parts_.clear();
    const std::size_t unnamed = settle_names();
    queue_.sort();
    history_.skip_to(first_free_seq_);
    // A crash may take away an emission and leave what a sink made of it.
    history_.skip_to(sinks_.next_seq());
    return unnamed;
}

inline void State::apply(Record& record, const Breathe& breathe) {
    record.visit([this, &breathe](auto& one) { apply(one, breathe); });
}

// The room that begin() and begin_emission() make comes first, as nothing may fail behind that.
inline void State::follow(Record& record, const Breathe& breathe) {
    if (const auto* const scheduled = record.get_if<ScheduleRecord>()) {
        const StoredTask* const known = index_.find(scheduled->tasks.front()->id);
        if (known && is_ended(known->stage)) return;  // all of it was followed before
        begin_one(*scheduled);
    } else if (const auto* const emitted = record.get_if<EmitRecord>()) {
        history_.reserve(emitted->ids.size());
    } else if (const auto* const missed = record.get_if<MissRecord>()) {
        missed_.reserve(missed->ids.size());
    } else if (const auto* const sink = record.get_if<SinkRecord>()) {
        begin_one(*sink);
    }
    following_ = true;
    const AtExit followed([this] { following_ = false; });
    apply(record, breathe);
}

inline void State::apply(HeadRecord& record, const Breathe&) {
    first_free_seq_ = std::max(first_free_seq_, record.seq);
    ids_.pass(record.last_id);
}

inline void State::apply(ScheduleRecord& record, const Breathe& breathe) {
    for (std::size_t i = 0; i < record.tasks.size(); ++i) {
        if (i + ahead < record.tasks.size()) index_.prefetch(record.tasks[i + ahead]->id);
        TaskRef& task = record.tasks[i];
        if (!record.at) stamp(task->id.time());
        if (!loading_) arriving_bytes_ -= task->bytes();
        put(std::move(task));
        pause(breathe, i);
    }
    if (record.at) stamp(*record.at);
    if (!record.answer) return;
    if (!loading_) {
        arriving_bytes_ -= KeyBook::size_of(record.answer.key(), record.answer.mapped());
    }
    keys_.insert(std::move(record.answer));
}

// Puts a task into the queue, in the place of the one that it changes.  What a replacement
// of the journal leaves in its tail of a task that has ended is nothing.
inline void State::put(TaskRef task) {
    const bool is_new = ids_.last() < task->id;  // Q5
    StoredTask* const known = is_new ? nullptr : index_.find(task->id);
    if (known && is_ended(known->stage)) return;
    if (task->has_name()) name(task.get());
    if (known) {
        take_out(known);
    } else if (!loading_) {
        --arriving_;
    }
    task->stage = Stage::pending;
    bytes_ += task->bytes();
    ids_.pass(task->id);
    queue_.insert(task.get());
    index_.insert(std::move(task));
}

// Lets the task's name mean it, unless that means a newer one (Q7).
inline void State::name(StoredTask* task) {
    const StoredTask* const other = names_.find(task->details().name);
    if (other && task->id < other->id) return unnamed_.push_back(task->id);
    if (other && other->id < task->id) unnamed_.push_back(other->id);
    names_.set(task);
}

// What is pending and has lost its name to a newer task goes on without, or gets it back if that
// has ended.
inline std::size_t State::settle_names() {
    std::size_t unnamed = 0;
    for (const TaskId id : std::exchange(unnamed_, {})) {
        StoredTask* const task = index_.find(id);
        if (!task || is_ended(task->stage) || !task->has_name()) continue;
        Details details = task->details();
        const StoredTask* const meant = names_.find(details.name);
        if (!meant) names_.set(task);
        if (!meant || meant == task) continue;
        details.name = {};
        put(TaskRef::make(id, task->due, task->text(), details));
        ++unnamed;
    }
    return unnamed;
}

// Takes a pending task out of queue and index.
inline void State::take_out(StoredTask* task) {
    (task->stage == Stage::held ? held_ : queue_).erase(task);
    forget(task);
}

inline void State::forget(StoredTask* task) {
    bytes_ -= task->bytes();
    if (task->has_name()) names_.remove(task);
    index_.remove(task);
}

// The task with the i-th of these ids, if it has not ended: the end of any other is
// nothing.
inline StoredTask* State::find_ending(const std::vector<TaskId>& ids, std::size_t i) const {
    if (i + ahead < ids.size()) index_.prefetch(ids[i + ahead]);
    StoredTask* const task = index_.find(ids[i]);
    return task && !is_ended(task->stage) ? task : nullptr;
}

inline void State::end(StoredTask* task, Stage stage, TimePoint at, History& history,
                       std::uint64_t seq) {
    queue_.erase(task);
    if (task->has_name()) names_.remove(task);
    task->stage = stage;
    task->ended_at = at;
    task->seq = seq;
    history.append(task);
}

// A seq that is past was trimmed or forgotten while the journal's replacement was copied.
inline void State::apply(EmitRecord& record, const Breathe&) {
    stamp(record.at);
    if (loading_) history_.reserve(record.ids.size());
    for (std::size_t i = 0; i < record.ids.size(); ++i) {
        const bool is_at_hand = i < emitting_.size() && emitting_[i]->id == record.ids[i];
        StoredTask* const task = is_at_hand ? emitting_[i] : find_ending(record.ids, i);
        if (!task) continue;
        if (record.at - task->due > std::chrono::seconds(1)) ++late_;
        if (!loading_) lateness_.add(record.at, record.at - late_from(task));
        if (record.seq + i >= history_.next_seq()) {
            end(task, Stage::emitted, record.at, history_, record.seq + i);
        } else {
            take_out(task);
        }
    }
    history_.skip_to(record.seq + record.ids.size());
    trim(record.at);
    emitting_.clear();
}

inline void State::apply(MissRecord& record, const Breathe&) {
    stamp(record.at);
    if (loading_) missed_.reserve(record.ids.size());
    for (std::size_t i = 0; i < record.ids.size(); ++i) {
        StoredTask* const task = find_ending(record.ids, i);
        if (task) end(task, Stage::missed, record.at, missed_, missed_.next_seq());
    }
    // In a replaced journal they come after all events, also those that are newer.
    loading_ ? trim(missed_, record.at, {}) : trim(record.at);
}

inline void State::apply(CancelRecord& record, const Breathe& breathe) {
    stamp(record.at);
    if (record.bulk && record.bulk == bulk_of_parts_) {
        for (const std::vector<TaskId>& part : parts_) cancel(part, breathe);
    }
    if (record.bulk) parts_.clear();
    bulk_ = std::max(bulk_, record.bulk.value_or(0));
    cancel(record.ids, breathe);
}

// A part of another call makes those of one that never came to its end nothing.
inline void State::apply(PartRecord& record, const Breathe&) {
    stamp(record.at);
    if (record.bulk != bulk_of_parts_) parts_.clear();
    bulk_of_parts_ = record.bulk;
    bulk_ = std::max(bulk_, record.bulk);
    parts_.push_back(std::move(record.ids));
}

inline void State::cancel(const std::vector<TaskId>& ids, const Breathe& breathe) {
    for (std::size_t i = 0; i < ids.size(); ++i) {
        StoredTask* const task = find_ending(ids, i);
        if (task && task->stage == Stage::held) queue_.withdraw(1);
        if (task) take_out(task);
        pause(breathe, i);
    }
}

inline void State::apply(ForgetRecord& record, const Breathe& breathe) {
    constexpr std::size_t most = 64;
    stamp(record.at);
    std::array<StoredTask*, most> forgotten;
    for (std::size_t count = most; count == most;) {
        const std::size_t first = history_.index_of(record.begin);
        const std::size_t last = std::max(first, history_.index_of(record.end));
        count = std::min(most, last - first);
        history_.take(first, count, forgotten.data());
        for (std::size_t i = 0; i < count; ++i) {
            sinks_.drop(forgotten[i]);
            forget(forgotten[i]);
        }
        if (breathe) breathe();
    }
}

inline void State::apply(AnswerRecord& record, const Breathe&) {
    stamp(record.answer.mapped().first_use);
    keys_.insert(std::move(record.answer));
}

// The time of this record replaces all times before it, later ones too.
inline void State::apply(ClockRecord& record, const Breathe&) {
    newest_stamp_ = record.at;
}

inline void State::apply(PauseRecord& record, const Breathe&) {
    stamp(record.at);
    if (!paused_ && !loading_) lateness_.mark({Mark::Kind::pause, record.at});
    if (!paused_) paused_.emplace().since = record.at;
    if (record.reason) paused_->reason = std::move(*record.reason);
}

inline void State::apply(ResumeRecord& record, const Breathe&) {
    stamp(record.at);
    if (paused_ && !loading_) lateness_.mark({Mark::Kind::resume, record.at});
    paused_.reset();
}

// ---- 7.7 Sinks -------------------------------------------------------------

// What has a cursor and a state may be a new sink.  Anything else about a sink that there
// is not is nothing.
inline void State::apply(SinkRecord& record, const Breathe&) {
    stamp(record.at);
    const bool creates = record.seq && record.state;
    if (creates && loading_) sinks_.expect(record.sink);
    SinkBook::Sink* const sink = creates ? &sinks_.add(record.sink) : sinks_.find(record.sink);
    if (sink) sinks_.set(*sink, record);
}

// Makes what the sink wanted before `end`, and the history still has, dead letters, but for what
// its topics do not choose.  False: there was no memory for all of them.
inline bool State::pass_over(SinkBook::Sink& sink, std::uint64_t end, TimePoint at) {
    constexpr const char* too_late = "it waited for longer than the history can keep";
    for (std::size_t i = history_.index_of(sink.seq);
         i < history_.size() && history_.at(i)->seq < end; ++i) {
        StoredTask* const event = history_.at(i);
        try {
            Letter letter{TaskRef::share(event), at, sink.attempts, too_late};
            if (sink.wants(*event)) {
                sinks_.bury(sink, make_letter(event->seq, std::move(letter)), true);
            }
        } catch (const std::bad_alloc&) {
            if (loading_ || following_) throw;
            return false;
        }
        sinks_.move(sink, event->seq + 1);
    }
    return true;
}

// A cursor that goes past events which the history still has leaves dead letters: the
// record of their delivery is lost.
inline void State::apply(DeliverRecord& record, const Breathe&) {
    stamp(record.at);
    SinkBook::Sink* const sink = sinks_.find(record.sink);
    if (!sink) return;
    for (const std::uint64_t seq : record.dead) sinks_.erase(*sink, seq);
    if (!record.seq) return;
    if (*record.seq > 0) {
        const std::uint64_t last = *record.seq - 1;
        const std::uint64_t from = std::min(record.from.value_or(last), last);
        pass_over(*sink, from, record.at);
        // Letters of what was given up on its way.
        for (auto letter = sink->letters.lower_bound(from);
             letter != sink->letters.end() && letter->first <= last;
             letter = sink->letters.lower_bound(from)) {
            sinks_.erase(*sink, letter->first);
        }
    }
    sinks_.move(*sink, *record.seq);
}

// The history's copy of the event serves for both, if it has one.
inline void State::apply(DeadRecord& record, const Breathe&) {
    Letter& letter = record.letter.mapped();
    stamp(letter.at);
    SinkBook::Sink* const sink = sinks_.find(record.sink);
    if (!sink) return;
    StoredTask* const event = index_.find(letter.event->id);
    const bool retained =
        event && event->stage == Stage::emitted && event->seq == record.letter.key();
    if (retained && event != letter.event.get()) letter.event = TaskRef::share(event);
    if (record.seq && *record.seq > 0) pass_over(*sink, *record.seq - 1, letter.at);
    sinks_.bury(*sink, std::move(record.letter), retained);
    if (record.seq) sinks_.move(*sink, *record.seq);
}

inline void State::apply(RedeliverRecord& record, const Breathe&) {
    stamp(record.at);
    SinkBook::Sink* const sink = sinks_.find(record.sink);
    if (!sink) return;
    for (const std::uint64_t seq : record.dead) {
        const auto letter = sink->letters.find(seq);
        if (letter == sink->letters.end()) continue;
        letter->second.again = true;
        sink->first_again = std::min(sink->first_again, seq);
    }
}

inline void State::apply(DropRecord& record, const Breathe&) {
    stamp(record.at);
    sinks_.remove(record.sink);
}

// Without memory for the letters the sink comes less far, and the record says how far.
inline void State::apply(OverflowRecord& record, const Breathe&) {
    stamp(record.at);
    SinkBook::Sink* const sink = sinks_.find(record.sink);
    if (!sink) return;
    if (pass_over(*sink, record.seq, record.at)) sinks_.move(*sink, record.seq);
    record.seq = sink->seq;
    sink->overflowing = true;
}

// ---- 7.8 Emission and what has ended ---------------------------------------

inline void State::begin_emission(TimePoint at, std::optional<milliseconds> max_lateness,
                                  std::size_t most, EmitRecord& emitted, MissRecord& missed) {
    emitted = EmitRecord{at, history_.next_seq(), std::move(emitted.ids)};
    missed.at = at;
    emitted.ids.clear();
    missed.ids.clear();
    emitted.ids.reserve(most);
    missed.ids.reserve(most);
    emitting_.clear();
    emitting_.reserve(most);
    history_.reserve(most);
    missed_.reserve(most);
    for (DueQueue::Walk walk(queue_); walk.task() && walk.task()->due <= at; walk.next()) {
        if (emitted.ids.size() + missed.ids.size() == most) break;
        StoredTask* const task = walk.task();
        const auto own = task->max_lateness();
        const auto most_late = own ? own : max_lateness;
        const bool is_missed = most_late && at - late_from(task) > *most_late;
        (is_missed ? missed.ids : emitted.ids).push_back(task->id);
        if (!is_missed) emitting_.push_back(task);
        task->stage = Stage::emitting;
    }
}

inline void State::release_emission(const EmitRecord& emitted, const MissRecord& missed) {
    for (const std::vector<TaskId>* ids : {&emitted.ids, &missed.ids}) {
        for (const TaskId id : *ids) index_.find(id)->stage = Stage::pending;
    }
    emitting_.clear();
}

inline std::optional<TimePoint> State::next_due() const {
    if (queue_.empty()) return std::nullopt;
    return queue_.front()->due;
}

inline milliseconds State::overdue(TimePoint now) const {
    if (queue_.empty()) return milliseconds(0);
    return std::max(now - late_from(queue_.front()), milliseconds(0));
}

// Whether it may be trimmed.  A stamp that lies ahead is that of a clock which ran ahead,
// and would keep what bears it for as long.
inline bool State::is_old(const StoredTask* ended, TimePoint now) const {
    return ended->ended_at + limits_.min_retention <= now ||
           ended->ended_at > now + limits_.min_retention;
}

inline bool State::trim(TimePoint now, const Breathe& breathe) {
    const bool any = trim(history_, now, breathe);
    return trim(missed_, now, breathe) || any;
}

inline bool State::trim(History& past, TimePoint now, const Breathe& breathe) {
    std::size_t trimmed = 0;
    while (is_too_much(past.size(), past.memory()) && is_old(past.oldest(), now)) {
        StoredTask* const task = past.oldest();
        if (&past == &history_ && is_wanted(task)) break;
        past.drop_oldest();
        if (&past == &history_) sinks_.drop(task);
        forget(task);
        pause(breathe, trimmed++);
    }
    return trimmed > 0;
}

inline std::optional<TimePoint> State::next_trim(bool may_overflow) const {
    std::optional<TimePoint> next;
    for (const History* past : {&history_, &missed_}) {
        if (!is_too_much(past->size(), past->memory())) continue;
        if (past == &history_ && is_wanted(past->oldest())) {
            if (is_backlog(history_.size(), history_.bytes()) || !may_overflow) continue;
        }
        const TimePoint at = past->oldest()->ended_at + limits_.min_retention;
        if (!next || at < *next) next = at;
    }
    return next;
}

// Of the sink that is furthest behind, which wants the oldest event.
inline std::optional<OverflowRecord> State::next_overflow(TimePoint now) const {
    constexpr std::size_t most = 1'024;
    std::size_t count = 0;
    std::size_t bytes = history_.bytes();
    for (std::size_t left = history_.size(); count < most; --left) {
        if (!is_too_much(left, bytes + left * StoredTask::beside)) break;
        const StoredTask* const event = history_.at(count);
        if (is_backlog(left, bytes) || !is_old(event, now)) break;
        bytes -= event->bytes();
        ++count;
    }
    if (count == 0) return std::nullopt;
    const std::uint64_t end = history_.at(count - 1)->seq + 1;
    for (const auto& [name, sink] : sinks_.all()) {
        if (sink.seq <= history_.at(0)->seq) return OverflowRecord{name, now, end};
    }
    return std::nullopt;
}

// A key is known for a day from its first use, and for as long as one of its tasks is
// pending.
inline void State::drop_answers(TimePoint now, std::size_t most) {
    keys_.drop_before(now - key_lifetime, most, [this](const Answer& answer) {
        return answer.ids.any([this](TaskId id) {
            const StoredTask* const task = index_.find(id);
            return task && !is_ended(task->stage);
        });
    });
}

// ---- 7.9 What there is -----------------------------------------------------

// With so many more tasks, and bytes of payload.
inline std::uint64_t State::record_bytes(std::size_t tasks, std::size_t bytes) const {
    const std::uint64_t past = history_.size() + missed_.size();
    return bytes_ + arriving_bytes_ + bytes + sinks_.record_bytes() + keys_.bytes() +
           (expected() + tasks) * record_beside + past * (record_beside + end_record_size);
}

// What never changes of a task.
inline Task pending_task_of(TaskRef stored) {
    Task task;
    task.id = stored->id;
    task.due = stored->due;
    task.payload = PayloadAccess::make(std::move(stored));
    return task;
}

inline Task task_of(StoredTask* stored) {
    Task task = pending_task_of(TaskRef::share(stored));
    if (stored->stage == Stage::emitted) task.status = Status::emitted;
    if (stored->stage == Stage::missed) task.status = Status::missed;
    if (is_ended(stored->stage)) task.ended_at = stored->ended_at;
    return task;
}

inline Event event_of(StoredTask* stored) {
    return {stored->id, stored->due, stored->ended_at, stored->seq,
            PayloadAccess::make(TaskRef::share(stored))};
}

inline std::size_t State::count(const DueRange& range) const {
    std::size_t count = 0;
    for (const DueQueue* queue : {&queue_, &held_}) {
        DueQueue::Counter counter(*queue);
        const TimePoint first = range.after ? *range.after + milliseconds(1) : TimePoint::min();
        const std::size_t begin = counter.before(first);
        const std::size_t end =
            range.before ? counter.before(std::max(first, *range.before)) : queue->size();
        count += end - begin;
    }
    return count;
}

inline std::vector<SinkStatus> State::sink_statuses() const {
    std::vector<SinkStatus> all;
    for (const auto& [name, sink] : sinks_.all()) {
        SinkStatus& status = all.emplace_back(sink);
        const std::size_t index = history_.index_of(sink.seq);
        status.name = name;
        if (sink.listing == SinkBook::Listing::unlisted) status.state = SinkState::unlisted;
        if (index > 0) status.cursor = history_.at(index - 1)->id;
        status.lag = history_.size() - index;
        if (sink.next != TimePoint()) status.next_attempt = sink.next;
        status.dead = sink.letters.size();
    }
    return all;
}

inline Histogram State::histogram(const DueRange& range, std::size_t buckets, TimePoint now) const {
    constexpr milliseconds tick{1};
    std::optional<TimePoint> first;
    std::optional<TimePoint> last;
    for (const DueQueue* queue : {&queue_, &held_}) {
        if (queue->empty()) continue;
        first = std::min(first.value_or(queue->front()->due), queue->front()->due);
        last = std::max(last.value_or(queue->back()->due), queue->back()->due);
    }
    Histogram histogram;
    histogram.from = range.after.value_or(first.value_or(now));
    histogram.to = range.before.value_or(std::max(last.value_or(now), histogram.from) + tick);
    if (!range.after) histogram.from = std::min(histogram.from, histogram.to - tick);
    histogram.counts.assign(buckets, 0);
    const auto count = static_cast<milliseconds::rep>(buckets);
    const milliseconds whole = (histogram.to - histogram.from) / count;
    const milliseconds rest = (histogram.to - histogram.from) % count;
    for (const DueQueue* queue : {&queue_, &held_}) {
        DueQueue::Counter counter(*queue);
        const TimePoint begin = range.after ? *range.after + tick : histogram.from;
        std::size_t before = counter.before(begin);
        for (milliseconds::rep i = 1; i <= count; ++i) {
            const TimePoint end = histogram.from + whole * i + rest * i / count;
            const std::size_t all = counter.before(std::max(begin, end));
            histogram.counts[static_cast<std::size_t>(i) - 1] += all - before;
            before = all;
        }
    }
    return histogram;
}

// Throws unless topics can be chosen by these patterns.
inline void check_topics(const std::vector<std::string>& patterns) {
    const std::string problem = topics_problem(patterns);
    if (!problem.empty()) throw_as(Errc::invalid_argument, {problem});
}

// Whether one text holds another, in time that grows with their sizes and not with their product.
// An empty view may have no address, which memmem() must not be given.
inline bool holds(std::string_view text, std::string_view part) {
    if (text.size() < part.size() || part.empty()) return part.empty();
    return ::memmem(text.data(), text.size(), part.data(), part.size()) != nullptr;
}

// Whether a filter chooses a task or an event.  That looks at nothing that changes, so no lock is
// needed.
inline bool chooses(const Filter& filter, const StoredTask& task) {
    if (!filter.topics.empty() && !chooses_topic(filter.topics, task.details().topic)) return false;
    if (filter.text.empty() || holds(task.text(), filter.text)) return true;
    return holds(task.details().name, filter.text) ||
           (filter.text.size() <= 36 && holds(task.id.str(), filter.text));
}

// Goes over the queue and over what is held apart side by side.
template <class Fn>
void State::walk(const DueKey& from, Fn fn) const {
    DueQueue::Walk queue(queue_, from);
    DueQueue::Walk held(held_, from);
    while (queue.task() || held.task()) {
        const bool from_queue =
            !held.task() || (queue.task() && key_of(queue.task()) < key_of(held.task()));
        DueQueue::Walk& next = from_queue ? queue : held;
        if (!fn(next.task())) return;
        next.next();
    }
}

}  // namespace detail

// ============================================================================
//  8. Journal
// ============================================================================
//
// Where records are kept.  `Journal` says what an implementation must promise;
// `FileJournal` keeps its promises with a file of JSON lines:
//
//   J1  A group of records is one write, and under `Fsync::always` and `answers` one sync.
//       It is stored when that has returned, and acknowledged only then.
//   J2  What could not be written is overwritten with empty lines, which are nothing,
//       so that a request that was refused leaves no trace.  Where that fails too, the
//       outcome is unknown until the file is replaced, and so it is said.
//   J3  After a failed sync the kernel may have dropped the pages: the file is never
//       written or trusted again, only replaced from memory.
//   J4  A file is created, and replaced, in one way: complete beside the old one,
//       synced, renamed over it, and the directory synced.
//   J5  While a replacement is under way every written line is kept as its tail, and is
//       the last thing that goes into the new file.  From its last sync until the
//       directory is synced commits wait; ends wait for nothing but the rename.
//   J6  Reading keeps every intact record.  A torn tail is cut; damaged lines go to a
//       file beside the journal.  Nothing on disk changes before all of it was read
//       and understood.
//   J7  Space for a record, and for the later end of every pending task, is reserved
//       before the first byte is written: a full disk stops neither emission nor
//       cancelling.  Only ends take of that space, and a new file has it too, or does
//       not take the place of the old one.
//   J8  The disk keeps room for a new file beside the old one.  The store replaces the
//       journal, and forgets old events, before that is gone, and refuses what would take it;
//       cancelling and forgetting go on, and make room.

// ---- 8.1 The interface -----------------------------------------------------

/// What became of records of the end of tasks, see `Journal::write_ends`.
enum class Ends {
    written,     ///< they may be shown
    unwritable,  ///< they could not be written, and are to be shown all the same
    fenced,      ///< this process is not the owner any more: nothing may be shown
};

/// How a journal stands, and what it has done since it was opened.
struct JournalFigures {
    bool failed = false;              ///< it cannot be written at this moment
    std::uint64_t bytes = 0;          ///< its size
    std::uint64_t written = 0;        ///< bytes written to it, replacements included
    std::uint64_t syncs = 0;          ///< how often it was synced
    std::uint64_t replacements = 0;   ///< how often it was replaced
    std::uint64_t damaged_lines = 0;  ///< lines that could not be read
    std::uint64_t torn_bytes = 0;     ///< bytes cut off its end
    /// Bytes that were free on its disk when that was last looked at, and that disk's size; all
    /// bits set: not known.
    std::uint64_t room = ~std::uint64_t{0};
    std::uint64_t disk = ~std::uint64_t{0};  ///< see `room`
};

/// One of the processes that have the same journal open.
struct Node {
    std::string name;           ///< what it is called
    std::string url;            ///< where it answers HTTP; empty: it does not say
    std::uint64_t applied = 0;  ///< the last group that it was known to have applied
    TimePoint seen_at{};        ///< when it was last heard of
};

/// How the processes stand to each other that have the same journal open, as far as one knows.
struct Cluster {
    std::string node;             ///< which of them this is
    std::string owner;            ///< which one commits and emits; empty: none, or unknown
    std::string owner_url;        ///< where it answers HTTP; empty: it does not say
    std::uint64_t epoch = 0;      ///< how often another owner has come
    std::uint64_t stored = 0;     ///< the last group that is known to be stored
    std::uint64_t applied = 0;    ///< the last group that this process has applied
    bool is_connected = false;    ///< whether it can reach what keeps the journal
    bool is_stuck = false;        ///< whether it cannot apply what is stored, and tries again
    std::string problem;          ///< why it is not connected, is stuck, or may not own
    milliseconds clock_ahead{0};  ///< how far its clock is ahead of the journal's
    std::vector<Node> nodes;      ///< all that were heard of lately, by name
};

/// What a journal held at one moment: whole records, which stay as they were whatever becomes of
/// the journal.  It holds the disk's space for them for as long as it lives.
class JournalSnapshot {
public:
    virtual ~JournalSnapshot() = default;
    /// How many bytes it has.
    virtual std::uint64_t size() const = 0;
    /// Reads `size` bytes from byte `at` on, fewer only at the end, and returns how many they
    /// were.  May wait for the disk.  Any thread may call this.  Throws `Error`.
    virtual std::size_t read(char* to, std::size_t size, std::uint64_t at) const = 0;
};

/// Keeps records: whole lines of JSON, each ended by a newline, which it need not
/// understand.  A scheduler calls it; `Options::make_journal` takes one of your own.
///
/// An implementation promises:
///
/// - read() gives, byte for byte and in the order in which they were written, all records for
///   which commit() or write() has returned and all that write_ends() has written, and none of
///   those for which commit() has thrown: they are taken back before it throws, or it throws
///   `outcome_unknown`.
/// - A record is kept once, except that a replacement may hold one twice if it was written
///   while the replacement copied: once as remembered, and once as written.
/// - replace() is all or nothing.  What is kept afterwards is what the source has copied, and
///   then what was written since its at_rest() has called `begin`.
/// - commit(), write() and replace() are called by one thread at a time each, write_ends() and
///   the others by several, all beside one another.  No call holds, while it calls the source, what
///   commit() or write_ends() waits for: at_rest() waits until those have ended.
/// - Where failed() is true nothing is stored until replace() has returned, and what read()
///   would give is not known; a scheduler replaces such a journal before it ends, if it can.
///
/// A journal that several processes may have open at once promises besides:
///
/// - At any moment at most one of them, the owner, stores anything.  While is_owner() is false
///   commit(), write() and replace() throw `not_owner` at once and write_ends() returns `fenced`.
/// - is_owner() becomes true only when `Follower::written` has returned for all that is stored.
/// - Every process is told all that others have stored, in one order.  What commit() has left with
///   `outcome_unknown`, or write_ends() as `fenced`, is told as well if it turns out to be stored;
///   what a call is still waiting for is settled before anything that was stored after it is told.
///
/// Lines are of any length.  The test suite tests/journal_contract.hpp holds an implementation
/// to this.
class Journal {
public:
    /// Called with each record, without its newline.
    using Take = std::function<void(std::string_view line)>;
    /// Hands over a record for the log.
    using Log = std::function<void(const LogRecord&)>;
    /// What a replacement is made of; the scheduler implements it.
    class Source {
    public:
        virtual ~Source() = default;
        /// Calls `begin` at a moment when no record is between its write and its effect:
        /// what is written after that belongs to the replacement too.  Blocks until then.
        /// Called once, before copy().
        virtual void at_rest(const std::function<void()>& begin) = 0;
        /// Calls `append` with all that is remembered, as whole records, some at a time.
        /// Throws what `append` throws, or `Error` if the scheduler is stopped meanwhile.
        virtual void copy(const std::function<void(std::string_view lines)>& append) = 0;
    };
    /// Told what other processes do that keep the same journal.  The scheduler fills it in; the
    /// journal calls these on a thread of its own, one at a time, and never within a call of its
    /// own functions or while it holds what those wait for.
    struct Follower {
        /// Called with whole records, in order, that were stored since read() and not by a call of
        /// this process that has returned.  They are remembered when it returns.  What it throws
        /// means that they are not, or not all of them: the journal calls it again with the same.
        Take written;
        /// Forgets everything, and takes what the function that it is given reads, as read() gives
        /// it: for a process that has fallen behind what is kept.
        std::function<void(const std::function<void(const Take&)>& read)> reread;
        /// What is_owner(), applied() or cluster() answers may have changed; after the others were
        /// called too, whether they have thrown or not.  Must not block.
        std::function<void()> changed;
    };

    virtual ~Journal() = default;
    /// Reads everything that is kept, in order, and mends what a crash has left.  Called
    /// once, before anything else.  True: it must be replaced before it can be written.
    /// Throws `Error` with `journal_unreadable`, or what `take` throws, and has then changed
    /// nothing that is kept.
    virtual bool read(const Take& take) = 0;
    /// Stores records, all or none, and blocks until that is done.  `pending` is how many
    /// tasks will still need a record of their end, for which space is worth reserving.
    /// Throws `Error`: with `disk_full` or `journal_failed`, and then nothing is stored; or with
    /// `outcome_unknown` if some of it may be and could not be taken back, and then failed() is
    /// true, and nothing of it is there once replace() has returned.
    virtual void commit(std::string_view lines, std::uint64_t pending) = 0;
    /// As commit(), but does not wait until it is synced: records that are kept by whoever calls
    /// until they are written, and lost without harm in a crash.
    virtual void write(std::string_view lines, std::uint64_t pending) = 0;
    /// Whether commit() would wait for more than a write.
    virtual bool commit_waits() const = 0;
    /// Writes records of what has happened whether that can be written or not, and does not
    /// wait until it is synced.  They may take the space that was reserved for them.  What cannot
    /// be written is kept and goes before the next record that can, or is written when the journal
    /// is destroyed, for as long as there is memory for it; a replacement holds it because it is
    /// remembered.  With no lines it only reserves space.
    virtual Ends write_ends(std::string_view lines, std::uint64_t pending) noexcept = 0;
    /// Syncs what is written.  Throws `Error` with `journal_failed`.
    virtual void sync() = 0;
    /// Whether the policy wants a sync of what was written; cheap, from any thread.
    virtual bool wants_sync() const = 0;
    /// Replaces everything by what `source` gives and what is written meanwhile.  Blocks.
    /// Throws `Error`, or what `source` throws; then the old one stands, with what was written
    /// meanwhile, unless failed() is true.  After it has returned, failed() is false.
    virtual void replace(Source& source) = 0;
    /// Whether it can only be replaced; cheap, from any thread.
    virtual bool failed() const = 0;
    /// Figures of this moment.  A scheduler relies on `failed`, on `replacements`, and on `bytes`,
    /// `room` and `disk`, by which it judges when to replace and whether there is room for another
    /// task; the others are only shown.
    virtual JournalFigures figures() const = 0;
    /// Looks how much room there is; a journal does so by itself when it takes some.  Does not
    /// wait for the disk.  Any thread may call this.
    virtual void look_at_room() noexcept {}
    /// How long its syncs took, which is only shown.
    virtual Durations sync_durations() const { return {}; }
    /// Whether this process may commit and emit; cheap, from any thread.
    virtual bool is_owner() const { return true; }
    /// Asks for what other processes do; called once, before read().  Nothing is told before read()
    /// has returned, or after stop_following().
    virtual void follow(Follower) {}
    /// Tells nothing any more, and returns when nothing is being told.  Calls that wait for others
    /// end soon.
    virtual void stop_following() {}
    /// The number of the last group of records of which this process has applied all; groups are
    /// numbered in the order in which they are stored, by whichever process.  Cheap, from any
    /// thread.
    virtual std::uint64_t applied() const { return 0; }
    /// Says that another process has stored the group of this number, and that somebody waits until
    /// it is applied here: a hint.  Must not block.  Any thread may call this.
    virtual void look_for(std::uint64_t) noexcept {}
    /// How the processes stand to each other; from any thread.  Nothing: only one may have it open.
    virtual std::optional<Cluster> cluster() const { return std::nullopt; }
    /// What is stored at this moment, to be copied.  May wait for a commit that is under way.
    /// Null: this journal is no file that could be copied.  Throws `Error` with `journal_failed`.
    virtual std::shared_ptr<const JournalSnapshot> snapshot() { return nullptr; }
};

namespace detail {

// The journal of a scheduler that has none on disk: it accepts everything and keeps nothing.
class MemoryJournal : public Journal {
public:
    bool read(const Take&) override { return false; }
    void commit(std::string_view, std::uint64_t) override {}
    void write(std::string_view, std::uint64_t) override {}
    bool commit_waits() const override { return false; }
    Ends write_ends(std::string_view, std::uint64_t) noexcept override { return Ends::written; }
    void sync() override {}
    bool wants_sync() const override { return false; }
    void replace(Source&) override {}
    bool failed() const override { return false; }
    JournalFigures figures() const override { return {}; }
};

// ---- 8.2 Reading -----------------------------------------------------------

// The JSON value that a text begins with, or nothing.
inline std::string_view first_value(std::string_view text) {
    JsonReader reader(text, JsonReader::outer_depth);
    std::string_view value;
    return reader.value(value) ? value : std::string_view();
}

// A step of the checksum can be taken back: the first byte of the register tells which
// entry of the table went into it.
constexpr std::array<std::uint8_t, 256> make_crc_entries() {
    std::array<std::uint8_t, 256> entries{};
    for (std::size_t i = 0; i < entries.size(); ++i) {
        entries[crc_tables[0][i] >> 24] = static_cast<std::uint8_t>(i);
    }
    return entries;
}

inline constexpr auto crc_entries = make_crc_entries();

// The whole record that a text ends with, or nothing.  The checksum is taken back from the
// value that is stated at the end, byte by byte: where a record begins it is as it was at the
// start.  Within a record nothing else can look like its beginning: `{"op":"` stands in no
// string of JSON, and an object inside ends before the record does.  So one pass finds it,
// whatever the text holds.
inline std::string_view intact_tail(std::string_view text) {
    const auto stated = stated_crc(text);
    if (!stated) return {};
    std::uint32_t crc = ~*stated;
    for (std::size_t at = text.size() - seal_size; at-- > 0;) {
        const std::uint32_t entry = crc_entries[crc >> 24];
        const auto byte = static_cast<unsigned char>(text[at]);
        crc = (crc ^ crc_tables[0][entry]) << 8 | (entry ^ byte);
        if (crc != 0xFFFFFFFFU) continue;
        const std::string_view tail = text.substr(at);
        const bool begins = tail.substr(0, 7) == R"({"op":")" ||
                            tail.substr(0, journal_mark.size()) == journal_mark;
        if (begins && first_value(tail).size() == tail.size()) return tail;
    }
    return {};
}

// The whole record that a text begins with, or nothing.
inline std::string_view intact_front(std::string_view text) {
    const std::string_view front = first_value(text);
    return front.data() == text.data() && is_intact(front) ? front : std::string_view();
}

// The whole records of a damaged line: those that it begins with and those that it ends
// with, parted from each other by the byte that damage has made of a newline, or by nothing.
// None is looked for between others that are damaged: a message may hold what looks like a
// record.
inline std::vector<std::string_view> intact_parts(std::string_view line) {
    std::vector<std::string_view> parts;
    const auto front = [&line] {
        const std::string_view here = intact_front(line);
        return !here.empty() || line.empty() ? here : intact_front(line.substr(1));
    };
    const auto tail = [&line] {
        const std::string_view here = intact_tail(line);
        return !here.empty() || line.empty() ? here : intact_tail(line.substr(0, line.size() - 1));
    };
    for (std::string_view part = front(); !part.empty(); part = front()) {
        parts.push_back(part);
        line.remove_prefix(static_cast<std::size_t>(part.data() - line.data()) + part.size());
    }
    const auto fronts = static_cast<std::ptrdiff_t>(parts.size());
    for (std::string_view part = tail(); !part.empty(); part = tail()) {
        parts.push_back(part);
        line = line.substr(0, static_cast<std::size_t>(part.data() - line.data()));
    }
    std::reverse(parts.begin() + fronts, parts.end());
    return parts;
}

// Reads a journal's file, chunk by chunk, and tells whole records from damage (J6).  While
// the lines of a chunk are taken, the next one is read and its sums are checked.
class JournalReader {
public:
    struct Range {
        std::uint64_t begin;
        std::uint64_t end;
        std::uint64_t line;   // its number, from 1 on
        const char* problem;  // a part of a sentence
        std::size_t kept;     // whole records that were found in it
    };
    JournalReader(File& file, const Journal::Take& take, bool has_threads)
        : file_(file), take_(take), has_threads_(has_threads) {}
    // Takes every intact record.  Throws if the file is no journal.
    void read();

    std::uint64_t records() const { return records_; }
    const std::vector<Range>& damaged() const { return damaged_; }
    // The place in the file behind the last whole record.
    std::uint64_t good_end() const { return good_end_; }
    // The place behind everything but a torn tail.
    std::uint64_t end() const {
        return damaged_.empty() ? good_end_ : std::max(good_end_, damaged_.back().end);
    }
    // The number of the last line that was taken, from 1 on.
    std::uint64_t line() const { return line_; }
    // Whether the last record that counts has no newline.
    bool is_unfinished() const { return unfinished_; }
    bool is_empty() const { return !any_; }

private:
    struct Line {
        std::string_view text;  // without its end
        std::uint64_t begin;
        std::uint64_t end;  // behind its newline, if it has one
        bool has_newline;
        bool is_intact;
    };
    struct Chunk {
        std::vector<char> room;
        std::vector<Line> lines;
        std::uint64_t end = 0;  // of the lines, in the file
        bool is_last = false;
    };
    std::size_t read_text(Chunk& chunk, std::uint64_t begin) const;
    void read_chunk(Chunk& chunk, std::uint64_t begin) const;
    void take_line(const Line& line);
    void take_damaged(const Line& line);
    void take_record(std::string_view record, const Line& line, bool has_newline);
    static bool is_plausible(const Line& line);
    static const char* problem_of(std::string_view line, std::size_t kept);

    File& file_;
    const Journal::Take& take_;
    const bool has_threads_;
    std::vector<Range> damaged_;
    std::uint64_t records_ = 0;
    std::uint64_t line_ = 0;
    std::uint64_t good_end_ = 0;
    bool unfinished_ = false;
    bool any_ = false;
    bool has_head_ = false;   // among its records is the one that a journal begins with
    bool plausible_ = false;  // some line looks like one of a journal
};

// Reads some whole lines, one at least; the last may be the file's last, without a newline.
inline std::size_t JournalReader::read_text(Chunk& chunk, std::uint64_t begin) const {
    if (chunk.room.empty()) chunk.room.resize(std::size_t{1} << 19);
    for (;;) {
        const std::size_t size = file_.read(chunk.room.data(), chunk.room.size(), begin);
        chunk.is_last = size < chunk.room.size();
        if (chunk.is_last) return size;
        const std::size_t newline = std::string_view(chunk.room.data(), size).rfind('\n');
        if (newline != std::string_view::npos) return newline + 1;
        chunk.room.resize(2 * chunk.room.size());
    }
}

inline void JournalReader::read_chunk(Chunk& chunk, std::uint64_t begin) const {
    const std::size_t size = read_text(chunk, begin);
    const std::string_view text(chunk.room.data(), size);
    chunk.lines.clear();
    for (std::size_t at = 0; at < text.size();) {
        const std::size_t newline = std::min(text.find('\n', at), text.size());
        const std::size_t end = std::min(newline + 1, text.size());
        std::string_view line = text.substr(at, newline - at);
        if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
        chunk.lines.push_back(
            {line, begin + at, begin + end, newline < text.size(), is_intact(line)});
        at = end;
    }
    chunk.end = begin + text.size();
}

inline void JournalReader::read() {
    std::array<Chunk, 2> chunks;
    read_chunk(chunks[0], 0);
    for (std::size_t i = 0;; i = 1 - i) {
        const Chunk& chunk = chunks[i];
        const bool reads = !chunk.is_last;
        Beside next(has_threads_ && reads,
                    [this, &chunk, &other = chunks[1 - i]] { read_chunk(other, chunk.end); });
        for (const Line& line : chunk.lines) take_line(line);
        if (!reads) break;
        next.wait();
    }
    if (any_ && !plausible_) {
        throw_as(Errc::journal_unreadable, {"is not a journal of task-scheduler"});
    }
    const bool starts_damaged = !damaged_.empty() && damaged_.front().line == 1;
    if (records_ > 0 && !has_head_ && !starts_damaged) {
        const char* const problem = "the line that a journal begins with is missing";
        damaged_.insert(damaged_.begin(), {0, 0, 1, problem, 0});
    }
}

inline void JournalReader::take_record(std::string_view record, const Line& line,
                                       bool has_newline) {
    try {
        take_(record);
    } catch (const Error& error) {
        if (error.code() != Errc::journal_unreadable) throw;
        throw_as(error.code(), {"line ", line_, ": ", error.what()});
    }
    ++records_;
    has_head_ = has_head_ || record.substr(0, journal_mark.size()) == journal_mark;
    good_end_ = line.end;
    unfinished_ = !has_newline;
}

inline void JournalReader::take_line(const Line& line) {
    ++line_;
    if (!line.is_intact) return take_damaged(line);
    any_ = plausible_ = true;
    take_record(line.text, line, line.has_newline);
}

inline void JournalReader::take_damaged(const Line& line) {
    constexpr std::string_view blanks(" \t\r\0", 4);
    if (line.text.find_first_not_of(blanks) == std::string_view::npos) return;
    any_ = true;
    plausible_ = plausible_ || is_plausible(line);
    const std::vector<std::string_view> parts = intact_parts(line.text);
    if (!line.has_newline && parts.empty()) return;  // a torn tail
    damaged_.push_back(
        {line.begin, line.end, line_, problem_of(line.text, parts.size()), parts.size()});
    for (const std::string_view part : parts) take_record(part, line, true);
}

// What damage has done to a line, as far as that tells.
inline const char* JournalReader::problem_of(std::string_view line, std::size_t kept) {
    if (kept > 1) return "the newline between records is damaged";
    if (kept == 1) return "there are other bytes beside a whole record";
    if (looks_sealed(line)) return "the checksum does not match";
    if (line.find('\0') != std::string_view::npos) return "it holds bytes that are zero";
    return line.front() == '{' ? "its end is missing" : "it does not begin as a record does";
}

// A file that only looks a little like a journal is damaged; one that does not at all is
// somebody's other file.
inline bool JournalReader::is_plausible(const Line& line) {
    const std::size_t common = std::min(line.text.size(), journal_mark.size());
    const bool whole = line.has_newline || line.begin > 0;
    const bool first = line.text.substr(0, common) == journal_mark.substr(0, common) &&
                       (!whole || common == journal_mark.size());
    return first || looks_sealed(line.text);
}

// ---- 8.3 The file ----------------------------------------------------------

constexpr std::uint64_t small_disk = std::uint64_t{64} << 20;

// How much is reserved at once: less on a small disk, of which nothing is to be wasted.
inline std::uint64_t reserve_step(std::uint64_t disk) {
    constexpr std::uint64_t page = 4'096;
    return std::max(page, std::min(disk, small_disk) / 64 / page * page);
}

// What to do where no file can be made beside a journal, for the end of a sentence.
inline std::string folder_advice(const std::string& path) {
    if (::access(directory_of(path).c_str(), W_OK | X_OK) == 0) return "";
    return "; a journal needs a folder that exists and can be written (--journal names the file)";
}

class FileJournal : public Journal {
public:
    // Locks and opens the file.  Throws journal_busy and journal_unreadable.  `threads`: it
    // may make some.
    FileJournal(const std::string& path, Fsync fsync, std::shared_ptr<FileOps> ops, Log log,
                bool threads = true);
    ~FileJournal() override;

    bool read(const Take& take) override;
    void commit(std::string_view lines, std::uint64_t pending) override;
    void write(std::string_view lines, std::uint64_t pending) override;
    bool commit_waits() const override { return commit_syncs() || swapping_.load(); }
    Ends write_ends(std::string_view lines, std::uint64_t pending) noexcept override;
    void sync() override;
    bool wants_sync() const override {
        const bool by_itself = fsync_ == Fsync::always || fsync_ == Fsync::everysec;
        return by_itself && unsynced_.load();
    }
    void replace(Source& source) override;
    bool failed() const override { return failed_.load(); }
    JournalFigures figures() const override;
    void look_at_room() noexcept override;
    Durations sync_durations() const override;
    std::shared_ptr<const JournalSnapshot> snapshot() override;

private:
    // A part of a file that is not written any more, even if the file is not the journal's now.
    struct Snapshot : JournalSnapshot {
        std::shared_ptr<File> file;
        std::uint64_t end = 0;
        std::uint64_t size() const override { return end; }
        std::size_t read(char* to, std::size_t size, std::uint64_t at) const override {
            const auto left = std::min<std::uint64_t>(size, end - std::min(end, at));
            return file->read(to, static_cast<std::size_t>(left), at);
        }
    };
    // The new file while it is written; removed unless it has taken the journal's name.
    struct Replacement {
        Replacement(FileOps& files, const std::string& name, const std::string& replaced)
            : ops(files), file(open(files, name, replaced)) {}
        ~Replacement() {
            if (file) ops.unlink(file->path().c_str());
        }
        static std::shared_ptr<File> open(FileOps& files, const std::string& name,
                                          const std::string& replaced) {
            try {
                return std::make_shared<File>(files, name, O_RDWR | O_CREAT | O_TRUNC, replaced);
            } catch (const Error& error) {
                if (error.code() == Errc::disk_full) throw;
                throw_as(error.code(), {error.what() + folder_advice(replaced)});
            }
        }
        FileOps& ops;
        std::shared_ptr<File> file;
        std::uint64_t size = 0;
    };

    bool commit_syncs() const { return fsync_ == Fsync::always || fsync_ == Fsync::answers; }
    void lock();
    void name_holder();
    void open_existing();
    void keep_damaged(const std::vector<JournalReader::Range>& damaged);
    void append(File& file, std::uint64_t& size, std::string_view lines);
    void append_locked(std::string_view lines, std::size_t copied = 0);
    void append_owed_locked();
    void prepare_locked(std::string_view lines, std::uint64_t pending);
    void owe_locked(std::string_view lines) noexcept;
    void reserve_locked(std::uint64_t bytes);
    void reserve_steps_locked(std::uint64_t bytes);
    bool blank(File& file, std::uint64_t from, std::uint64_t size) noexcept;
    [[noreturn]] void take_back(File& file, std::uint64_t start, std::uint64_t size,
                                const std::exception& failure);
    void copy_tail(Replacement& next);
    std::uint64_t reserve_for_ends(Replacement& next);
    void finish(Replacement& next);

    const std::string path_;
    const std::string next_path_;
    const Fsync fsync_;
    const bool threads_;
    const std::shared_ptr<FileOps> ops_;
    const Log log_;
    // What is said of an unknown outcome where there is no memory to say more.
    const std::exception_ptr unknown_ = std::make_exception_ptr(
        Error(Errc::outcome_unknown, "the journal has failed; what was written may be stored"));
    std::unique_ptr<File> lock_;
    std::uint64_t damaged_lines_ = 0;
    std::uint64_t torn_bytes_ = 0;

    std::atomic<bool> failed_{false};
    std::atomic<bool> unsynced_{false};
    std::atomic<bool> swapping_{false};
    std::atomic<std::uint64_t> size_{0};  // of the good part; changed under file_mutex_
    std::atomic<std::uint64_t> written_{0};
    std::atomic<std::uint64_t> syncs_{0};
    std::atomic<std::uint64_t> replacements_{0};
    std::atomic<std::uint64_t> room_{~std::uint64_t{0}};  // see JournalFigures
    std::atomic<std::uint64_t> disk_{~std::uint64_t{0}};

    std::mutex commit_mutex_;     // before the others: a commit, or the end of a replacement
    std::mutex sync_mutex_;       // before file_mutex_
    std::mutex file_mutex_;       // held over a write, and over the rename
    std::shared_ptr<File> file_;  // guarded by file_mutex_
    std::uint64_t reserved_ = 0;  // guarded by file_mutex_: where the reserved space ends
    std::string owed_;            // guarded by file_mutex_: ends still to be written
    std::size_t copied_ = 0;      // guarded by file_mutex_: of owed_, what a replacement copies
    bool tailing_ = false;        // guarded by file_mutex_: what is written is kept in tail_
    std::string tail_;            // guarded by file_mutex_ (J5)
    std::atomic<std::uint64_t> pending_{0};  // at most so many tasks need a record of their end
    mutable std::mutex durations_mutex_;     // behind all others
    Durations sync_durations_;               // guarded by durations_mutex_
};

// ---- 8.4 Opening -----------------------------------------------------------

// Who holds the lock, as the file says; the one that holds it has written that.
inline std::string named_holder(File& lock) {
    std::array<char, 512> buffer;
    std::string_view text;
    try {
        text = {buffer.data(), lock.read(buffer.data(), buffer.size(), 0)};
    } catch (const Error&) {  // then nobody is named
    }
    text = text.substr(0, text.find('\n') == std::string_view::npos ? 0 : text.find('\n'));
    const std::size_t blank = text.find_first_not_of("0123456789");
    const bool good = blank != std::string_view::npos && blank > 0 && text[blank] == ' ';
    const std::string_view host = good ? text.substr(blank + 1) : std::string_view();
    const auto is_plain = [](char c) { return c > 0x20 && c < 0x7F; };
    if (host.empty() || !std::all_of(host.begin(), host.end(), is_plain)) return "another process";
    return concat({"process ", text.substr(0, blank), " on ", host});
}

inline FileJournal::FileJournal(const std::string& path, Fsync fsync, std::shared_ptr<FileOps> ops,
                                Log log, bool threads)
    : path_(real_path(path)),
      next_path_(path_ + ".new"),
      fsync_(fsync),
      threads_(threads),
      ops_(std::move(ops)),
      log_(std::move(log)) {
    lock();
    look_at_room();
    open_existing();
}

// The lock is a file of its own, as one on the journal would not survive a rename.
inline void FileJournal::lock() {
    const std::string name = path_ + ".lock";
    try {
        lock_ = std::make_unique<File>(*ops_, name, O_RDWR | O_CREAT);
    } catch (const Error& error) {
        if (error.code() == Errc::disk_full) throw;
        throw_as(Errc::journal_unreadable, {error.what() + folder_advice(path_)});
    }
    while (ops_->flock(lock_->fd(), LOCK_EX | LOCK_NB) != 0) {
        if (errno == EINTR) continue;
        if (errno == EWOULDBLOCK) {
            throw_as(Errc::journal_busy,
                     {"the journal ", path_, " is in use by ", named_holder(*lock_)});
        }
        throw_as(Errc::journal_unreadable,
                 {"cannot lock ", name, ": ", std::generic_category().message(errno)});
    }
    name_holder();
}

// Writes into the lock who holds it, for others to read: a process, and the host, since the
// number alone means nothing beside another container's.
inline void FileJournal::name_holder() {
    char host[256] = "";
    if (::gethostname(host, sizeof host - 1) != 0) return;
    const std::string text = concat({::getpid(), " ", host, "\n"});
    try {
        lock_->write(text, 0);
        lock_->truncate(text.size());
    } catch (const Error&) {  // the lock holds without it
    }
}

inline void FileJournal::open_existing() {
    const int fd = ops_->open(path_.c_str(), O_RDWR, 0);
    const int error = errno;
    if (fd < 0 && error == ENOENT) return;
    const std::string refusal = concat({"cannot open the journal ", path_, ": "});
    if (fd < 0) {
        throw_as(Errc::journal_unreadable, {refusal + std::generic_category().message(error)});
    }
    ops_->close(fd);
    try {
        file_ = std::make_shared<File>(*ops_, path_, O_RDWR);
        if (!S_ISREG(file_->status().st_mode)) {
            throw_as(Errc::journal_unreadable, {refusal, "it is not a regular file"});
        }
        size_ = static_cast<std::uint64_t>(file_->status().st_size);
    } catch (const Error& failure) {
        throw_as(Errc::journal_unreadable, {failure.what()});
    }
}

inline bool FileJournal::read(const Take& take) {
    if (!file_) return true;
    JournalReader reader(*file_, take, threads_);
    try {
        reader.read();
    } catch (const Error& error) {
        if (error.code() != Errc::journal_unreadable) throw;
        throw_as(error.code(), {path_, ": ", error.what()});
    }
    const auto file_size = static_cast<std::uint64_t>(file_->status().st_size);
    const bool damaged = !reader.damaged().empty();
    // What a crash has left of a replacement takes room that the next one needs.
    if (ops_->unlink(next_path_.c_str()) == 0) look_at_room();
    if (damaged) keep_damaged(reader.damaged());
    size_ = reader.good_end();
    torn_bytes_ = file_size - std::min(file_size, reader.end());
    if (torn_bytes_ > 0 && !reader.is_empty()) {
        log_(make_record(LogLevel::warning, "journal.cut", "the journal ", named("journal", path_),
                         " ended in ", named("bytes", torn_bytes_),
                         " bytes that are no whole record; they were cut off"));
    }
    if (damaged || reader.is_unfinished() || reader.records() == 0) return true;
    // A process that crashed may have left what was never synced, the file's name included, and
    // from here on answers rest on it.  After a failed sync only a new file is to be believed (J3).
    try {
        if (file_size != reader.good_end()) file_->truncate(reader.good_end());
        if (fsync_ != Fsync::no || file_size != reader.good_end()) file_->sync();
        if (fsync_ != Fsync::no) sync_directory_of(*ops_, path_);
    } catch (const Error& error) {
        log_(make_record(LogLevel::error, "journal.failed", error.what()));
        return true;
    }
    return false;
}

// Puts the damaged lines aside, durably, before anything else changes.
inline void FileJournal::keep_damaged(const std::vector<JournalReader::Range>& damaged) {
    std::string stamp = format_time(wall_clock());
    stamp.erase(std::remove(stamp.begin(), stamp.end(), ':'), stamp.end());
    const std::string path = concat({path_, ".damaged-", stamp});
    damaged_lines_ = damaged.size();
    const char* lines = damaged.size() == 1 ? " damaged line, " : " damaged lines, ";
    std::uint64_t bytes = 0;
    for (const JournalReader::Range& range : damaged) bytes += range.end - range.begin;
    if (bytes == 0) {  // there is nothing to put aside
        return log_(make_record(LogLevel::error, "journal.damaged", "the journal ",
                                named("journal", path_), " has ", named("lines", damaged.size()),
                                lines, named("reason", damaged.front().problem),
                                "; it is replaced by a whole one"));
    }
    // A loss of power may damage what was not stored yet.  On a small disk that must not, again
    // and again, take the room that the journal needs.
    if (disk_ < small_disk && room_ < bytes + disk_ / 2) {
        return log_(make_record(LogLevel::error, "journal.damaged", "the journal ",
                                named("journal", path_), " has ", named("lines", damaged.size()),
                                lines,
                                "which were dropped: its small disk has no room to put "
                                "them aside"));
    }
    File aside(*ops_, path, O_WRONLY | O_CREAT | O_TRUNC);
    std::uint64_t size = 0;
    for (const JournalReader::Range& range : damaged) {
        std::string text(static_cast<std::size_t>(range.end - range.begin), '\0');
        text.resize(file_->read(&text[0], text.size(), range.begin));
        append(aside, size, text);
    }
    aside.sync();
    sync_directory_of(*ops_, path_);
    log_(make_record(LogLevel::error, "journal.damaged", "the journal ", named("journal", path_),
                     " has ", named("lines", damaged.size()), lines, "moved to ",
                     named("moved_to", path)));
}

// ---- 8.5 Writing -----------------------------------------------------------

inline void FileJournal::append(File& file, std::uint64_t& size, std::string_view lines) {
    file.write(lines, size);
    size += lines.size();
    written_ += lines.size();
}

inline void FileJournal::commit(std::string_view lines, std::uint64_t pending) {
    const std::lock_guard<std::mutex> one_at_a_time(commit_mutex_);
    std::shared_ptr<File> file;
    std::uint64_t start = 0;
    try {
        {
            const std::lock_guard<std::mutex> guard(file_mutex_);
            prepare_locked(lines, pending);
            file = file_;
            start = size_;
            append_locked(lines);
        }
        if (commit_syncs()) sync();
    } catch (const std::exception& failure) {
        if (!file) throw;  // nothing of it was written
        take_back(*file, start, lines.size(), failure);
    }
    pending_ = pending;
}

inline void FileJournal::write(std::string_view lines, std::uint64_t pending) {
    const std::lock_guard<std::mutex> guard(file_mutex_);
    prepare_locked(lines, pending);
    append_locked(lines);
}

// What comes before the records of a group, and can fail.
inline void FileJournal::prepare_locked(std::string_view lines, std::uint64_t pending) {
    if (failed_) {
        throw_as(Errc::journal_failed, {"the journal ", path_,
                                        " cannot be written or synced; tasks are refused "
                                        "until it is replaced"});
    }
    reserve_locked(owed_.size() + lines.size() + pending * end_record_size);
    append_owed_locked();
}

// A refusal leaves no trace, or says that it may have left one (J2).  What was written after
// a failed sync is as good as any other once it is synced: only what was written before is not.
inline void FileJournal::take_back(File& file, std::uint64_t start, std::uint64_t size,
                                   const std::exception& failure) {
    // A failed write was overwritten at once, as the next one may follow.
    bool is_gone = !failed_ || blank(file, start, size);
    try {
        if (is_gone && commit_syncs()) failed_ ? file.sync() : sync();
    } catch (const std::exception&) {
        is_gone = false;
    }
    if (is_gone) throw;
    try {
        throw_as(Errc::outcome_unknown, {failure.what()});
    } catch (const std::bad_alloc&) {
        std::rethrow_exception(unknown_);
    }
}

// What can fail for lack of memory comes before the write.  The first `copied` bytes are in
// the new file anyway, if there is going to be one.
inline void FileJournal::append_locked(std::string_view lines, std::size_t copied) {
    if (lines.empty()) return;
    if (tailing_) tail_ += lines.substr(copied);
    const std::uint64_t start = size_;
    try {
        file_->write(lines, start);
    } catch (...) {
        if (tailing_) tail_.resize(tail_.size() - (lines.size() - copied));
        blank(*file_, start, lines.size());
        throw;
    }
    size_ = start + lines.size();
    written_ += lines.size();
    unsynced_ = true;
}

inline void FileJournal::append_owed_locked() {
    append_locked(owed_, copied_);
    owed_.clear();
    copied_ = 0;
}

// The last chance of what is owed; without it, those tasks are emitted again.
inline FileJournal::~FileJournal() {
    const std::lock_guard<std::mutex> guard(file_mutex_);
    if (failed_ || owed_.empty()) return;
    try {
        append_owed_locked();
        if (fsync_ != Fsync::no) file_->sync();
    } catch (const std::exception&) {
    }
}

inline Ends FileJournal::write_ends(std::string_view lines, std::uint64_t pending) noexcept {
    const std::lock_guard<std::mutex> guard(file_mutex_);
    if (failed_) {
        if (tailing_) owe_locked(lines);
        return Ends::unwritable;
    }
    pending_ = std::max(pending_.load(), pending);
    try {
        reserve_locked(owed_.size() + lines.size() + pending * end_record_size);
    } catch (const std::exception&) {  // the space that was reserved before has to do
    }
    try {
        append_owed_locked();
        append_locked(lines);
        return Ends::written;
    } catch (const std::exception&) {
        owe_locked(lines);
        return Ends::unwritable;
    }
}

// Without memory the new file is made from what is remembered, as after a failed sync.
inline void FileJournal::owe_locked(std::string_view lines) noexcept {
    constexpr std::size_t most = std::size_t{1} << 20;
    try {
        if (owed_.size() + lines.size() <= most) {
            owed_ += lines;
            return;
        }
    } catch (const std::bad_alloc&) {
    }
    failed_ = true;
    tailing_ = false;
}

// Overwrites what was written and is not to be there (J2): for whoever reads the file after
// this process, empty lines are nothing.  False: it may be there all the same.
inline bool FileJournal::blank(File& file, std::uint64_t from, std::uint64_t size) noexcept {
    std::array<char, 4'096> lines;
    lines.fill('\n');
    try {
        const auto end = std::min(static_cast<std::uint64_t>(file.status().st_size), from + size);
        for (std::uint64_t at = from; at < end; at += lines.size()) {
            const auto left = std::min<std::uint64_t>(lines.size(), end - at);
            file.write({lines.data(), static_cast<std::size_t>(left)}, at);
        }
        return true;
    } catch (...) {
        failed_ = true;
        return false;
    }
}

inline void FileJournal::reserve_locked(std::uint64_t bytes) {
    if (size_ + bytes <= reserved_) return;
    const AtExit look([this] { look_at_room(); });
    reserve_steps_locked(bytes);
}

// Reserves in large steps, and in the exact one when the disk is nearly full (J7).
inline void FileJournal::reserve_steps_locked(std::uint64_t bytes) {
    const std::uint64_t step = reserve_step(disk_);
    const std::uint64_t needed = size_ + bytes;
    const std::uint64_t rounded = (needed + step - 1) / step * step;
    try {
        file_->reserve(size_, rounded - size_);
        reserved_ = rounded;
    } catch (const Error& error) {
        if (error.code() != Errc::disk_full) throw;
        file_->reserve(size_, bytes);
        reserved_ = needed;
    }
}

inline void FileJournal::look_at_room() noexcept {
    struct statvfs disk {};
    if (ops_->fstatvfs(lock_->fd(), &disk) != 0 || disk.f_blocks == 0) return;
    const std::uint64_t block = disk.f_frsize ? disk.f_frsize : disk.f_bsize;
    disk_ = disk.f_blocks * block;
    room_ = disk.f_bavail * block;
}

// The kernel reports a failure once, to whoever asks first: so one sync at a time, and none
// after one that failed.
inline void FileJournal::sync() {
    const std::lock_guard<std::mutex> one_at_a_time(sync_mutex_);
    std::shared_ptr<File> file;
    {
        const std::lock_guard<std::mutex> guard(file_mutex_);
        if (failed_) throw_as(Errc::journal_failed, {"the journal ", path_, " has failed"});
        file = file_;
        unsynced_ = false;
    }
    try {
        const auto begin = std::chrono::steady_clock::now();
        file->sync();
        ++syncs_;
        const auto took = std::chrono::steady_clock::now() - begin;
        const std::lock_guard<std::mutex> guard(durations_mutex_);
        sync_durations_.add(std::chrono::duration_cast<std::chrono::microseconds>(took));
    } catch (...) {
        const std::lock_guard<std::mutex> guard(file_mutex_);
        if (file != file_ && !failed_) return;  // replaced by one that has all of it
        failed_ = true;
        tailing_ = false;  // the tail holds what is going to be refused
        tail_.clear();
        throw;
    }
}

// ---- 8.6 Replacing ---------------------------------------------------------

inline void FileJournal::replace(Source& source) {
    const AtExit end_of_tail([this] {
        {
            const std::lock_guard<std::mutex> guard(file_mutex_);
            tailing_ = false;
            release_text(tail_);
            copied_ = 0;
        }
        look_at_room();
    });
    Replacement next(*ops_, next_path_, path_);
    source.at_rest([this] {
        const std::lock_guard<std::mutex> guard(file_mutex_);
        tailing_ = true;
        copied_ = owed_.size();  // what it says is remembered
    });
    source.copy([&](std::string_view lines) { append(*next.file, next.size, lines); });
    next.file->sync();  // most of it, before anybody has to wait
    for (int round = 0; round < 8; ++round) {
        {
            const std::lock_guard<std::mutex> guard(file_mutex_);
            if (tail_.size() < 65'536) break;
        }
        copy_tail(next);
    }
    finish(next);
}

inline void FileJournal::copy_tail(Replacement& next) {
    std::string tail;
    {
        const std::lock_guard<std::mutex> guard(file_mutex_);
        tail.swap(tail_);
    }
    append(*next.file, next.size, tail);
    next.file->sync();
}

// Returns where the space ends that is reserved for the ends of all pending tasks (J7).  A
// file that has failed has none of that to lose: then the next commit says what is missing.
inline std::uint64_t FileJournal::reserve_for_ends(Replacement& next) {
    const std::uint64_t size = pending_ * end_record_size;
    try {
        next.file->reserve(next.size, size);
        return next.size + size;
    } catch (const Error&) {
        if (!failed_) throw;
        return 0;
    }
}

// Whatever was acknowledged is synced in the new file before that takes the name.  Ends that
// come in between are synced behind, as ever.
inline void FileJournal::finish(Replacement& next) {
    swapping_ = true;
    const AtExit end_of_swapping([this] { swapping_ = false; });
    const std::lock_guard<std::mutex> no_commit(commit_mutex_);
    copy_tail(next);
    const std::uint64_t reserved = reserve_for_ends(next);
    std::shared_ptr<File> old;  // closing it frees its space, which takes time
    {
        const std::lock_guard<std::mutex> guard(file_mutex_);
        if (!tailing_) {
            throw_as(Errc::journal_failed, {"the journal ", path_, " failed meanwhile"});
        }
        append(*next.file, next.size, tail_);
        append(*next.file, next.size, std::string_view(owed_).substr(copied_));
        if (ops_->rename(next_path_.c_str(), path_.c_str()) != 0) {
            next.file->fail("cannot rename", errno);
        }
        // The new file has the journal's name: there is no way back, whatever fails here.
        unsynced_ = !tail_.empty() || !owed_.empty();
        old = std::exchange(file_, std::move(next.file));
        size_ = next.size;
        reserved_ = reserved;
        owed_.clear();
        tailing_ = false;
        failed_ = false;
    }
    ++replacements_;
    try {
        sync_directory_of(*ops_, path_);
    } catch (...) {
        failed_ = true;  // its name is not known to be durable
        throw;
    }
}

inline JournalFigures FileJournal::figures() const {
    return {failed_,        size_,       written_, syncs_, replacements_,
            damaged_lines_, torn_bytes_, room_,    disk_};
}

inline Durations FileJournal::sync_durations() const {
    const std::lock_guard<std::mutex> guard(durations_mutex_);
    return sync_durations_;
}

// No group is on its way then, so that none is in it that is going to be refused.
inline std::shared_ptr<const JournalSnapshot> FileJournal::snapshot() {
    auto taken = std::make_shared<Snapshot>();
    const std::lock_guard<std::mutex> no_commit(commit_mutex_);
    const std::lock_guard<std::mutex> guard(file_mutex_);
    if (failed_) {
        throw_as(Errc::journal_failed, {"the journal ", path_,
                                        " has failed, and cannot be copied until it is "
                                        "replaced"});
    }
    taken->file = file_;
    taken->end = size_;
    return taken;
}

}  // namespace detail

// ============================================================================
//  9. Store
// ============================================================================
//
// State and journal under one lock.  A change flows one way: begin_… checks it against
// the state and adds its record to the open group; whoever waits first stores the group,
// outside the lock; then its records are applied.
//
//   S1  The order of appending decides.  A change that meets another of the same task on
//       its way begins nothing: its ticket says again().
//   S2  A group stands or falls as a whole, but for the ends of tasks in it, which a full
//       disk does not stop (J7).  It rests on no group before it.
//   S3  The lock is never held over a read, a write, a sync or a line for the log, but
//       while the journal is being opened; and by no call for more than about a
//       millisecond: what takes longer lets others have it in between (Breath).
//   S4  An emission is written before it is shown, and synced behind it.  The emitting
//       thread waits for nothing but a write that is under way.
//   S5  A bulk call takes the tasks that were stored before it, each as the records before
//       it leave it, all or none, and no later ones.  Bulk calls are stored in their order.
//   S6  What can fail comes before the first effect.  Handlers of failures allocate
//       nothing that they could not do without.
//   S7  While a group with a pause is being stored no emission begins, and it is written only
//       when the last one is shown: what follows it in the journal was emitted after a resume.
//   S8  Where several processes keep the journal, only its owner begins, emits, overflows and
//       replaces; the others follow it.  What one began that is not the owner any more has
//       failed before it follows the next.
//
//                begin_…          lead()                settle_group()
//     (a call) ──────────► open ──────────► being committed ──────────► applied
//                            ▲ the next group is open then     └──────► undone

// ---- 9.1 Options -----------------------------------------------------------

/// Who runs what is to be done.
enum class Drive {
    thread,  ///< threads of the scheduler's own
    caller,  ///< no thread at all: `Scheduler::run_due()` does it
};

/// How far the opening of a journal has come.
struct Opening {
    std::uint64_t bytes = 0;  ///< that were read
    std::uint64_t size = 0;   ///< of the whole journal; 0: it is not known
    std::size_t tasks = 0;    ///< that are pending, as far as it was read
};

/// How a `Scheduler` behaves.  Every field has a default that is right for most.
struct Options {
    /// The journal's path.  Empty: nothing is kept on disk.
    std::string journal;
    /// When a task counts as stored.
    Fsync fsync = Fsync::always;
    /// How much memory all of this may take, in bytes; 0: as much as the limits below let it.  From
    /// this those limits are derived that are not given, see `derive_limits()`.
    std::uint64_t max_memory = 0;
    /// How much of `max_memory` is for others: the program around this, and a server, see
    /// `HttpOptions::derive_limits()`.
    std::uint64_t memory_of_others = 0;
    /// How many tasks may be pending at once.
    Limit<std::size_t, 10'000'000> max_tasks;
    /// How many bytes of memory clients may make this hold: tasks pending and retained, each with
    /// its payload and what it takes beside, keys with what they answered, dead letters.  Keys are
    /// taken until they have half of it.
    Limit<std::uint64_t, std::uint64_t{4} << 30> max_bytes;
    /// How many past events are kept, and likewise missed tasks, as long as they take no more than
    /// a quarter of `max_bytes` and an eighth of the journal's disk; each is kept for
    /// `min_retention` in any case.
    Limit<std::size_t, 10'000> history;
    /// For how long each event is kept at least.
    milliseconds min_retention{60'000};
    /// How many past events, and how many bytes of them, are kept while a sink has not
    /// taken them, as long as they take no more than an eighth of the journal's disk; beyond that
    /// the oldest become dead letters of the sink.
    Limit<std::size_t, 100'000> sink_backlog;
    Limit<std::size_t, std::size_t{256} << 20> sink_backlog_bytes;  ///< see `sink_backlog`
    /// How many dead letters of a sink are kept, as long as those of all sinks take no more than a
    /// quarter of `max_bytes` and an eighth of the journal's disk; beyond that its oldest are
    /// dropped.
    Limit<std::size_t, 10'000> max_dead;
    /// A task that is later than this is missed instead of emitted, unless it says by itself
    /// how late it may be.
    std::optional<milliseconds> max_lateness;
    /// Believe the clock although it is behind the newest record of the journal.
    bool trust_clock = false;
    /// Below this size the journal is not replaced, however much of it is dead, unless its disk
    /// gets full.
    std::uint64_t rewrite_min_bytes = std::uint64_t{4} << 20;
    /// Whether the scheduler has threads, or the caller runs what is due.
    Drive drive = Drive::thread;
    /// Rouses a suspended machine when a task is due.  Where the machine has no clock for that, or
    /// the program not the right (CAP_WAKE_ALARM), a warning is logged, and all else goes on.
    /// With `Drive::thread`, on Linux.
    bool wake_device = false;

    /// Called with a record of what was repaired, dropped, refused or failed, without a lock and
    /// after its effect is shown: on the thread where it happened, which waits for it, or, for
    /// what the emitting thread has to say, on the journal's.  It may ask the scheduler; several
    /// threads may call it at once; what it throws is lost.  The record ends with the call.
    /// Default: silence.
    std::function<void(const LogRecord&)> log;
    /// Records below this level are not made; see `Scheduler::set_log_level`.
    LogLevel log_level = LogLevel::info;
    /// Called when a callback of `on_event` throws, on the callback's thread.
    std::function<void(std::exception_ptr)> on_error;
    /// Called now and then while the journal is opened, many times a second, on the thread that
    /// makes the scheduler.  What it throws ends the opening, and nothing that is kept has changed;
    /// it comes out of the constructor.
    std::function<void(const Opening&)> on_opening;

    /// Makes the journal, in place of the file that `journal` names.
    std::function<std::unique_ptr<Journal>()> make_journal;
    /// Replaces the wall clock, for tests and simulations: whoever sets it also calls
    /// `Scheduler::clock_changed()` when its time has moved; see `ManualClock`.
    std::function<TimePoint()> now;
    /// Replaces the file system, for tests.
    std::shared_ptr<FileOps> files;

    /// Derives from `max_memory` each limit that is not given, as a `Scheduler` does when it is
    /// made.  Throws `Error` with `invalid_argument` if `max_memory` is too little, also for the
    /// `max_bytes` that are given.
    void derive_limits();
};

// What the state does not hold is for the journal's buffers when it is opened, written and
// replaced, and for the stacks of threads; and what it holds lies with gaps between.
inline void Options::derive_limits() {
    constexpr std::uint64_t mebibyte = std::uint64_t{1} << 20;
    constexpr std::uint64_t least_task = 128;
    constexpr std::uint64_t usual_event = 512;
    if (max_memory == 0) return;
    const std::uint64_t others = memory_of_others + 2 * mebibyte;
    const std::uint64_t tasks = max_bytes.is_given() ? std::uint64_t{max_bytes} : mebibyte;
    if (max_memory < others || max_memory - others < tasks) {
        throw Error(Errc::invalid_argument,
                    "the limit of " + std::to_string(max_memory) + " bytes of memory is too low: " +
                        std::to_string(tasks) + " are for tasks, and what is not for tasks takes " +
                        std::to_string(others));
    }
    max_bytes.derive((max_memory - others) / 5 * 4);
    max_tasks.derive(max_bytes / least_task);
    history.derive(max_bytes / 4 / usual_event);
    sink_backlog.derive(max_bytes / 4 / usual_event);
    sink_backlog_bytes.derive(max_bytes / 4);
    max_dead.derive(max_bytes / 4 / usual_event);
}

/// How a sink stands to one event.
struct SinkShare {
    /// What has become of the event there.
    enum class State {
        taken,    ///< the sink has it, does not want it, or began after it
        waiting,  ///< the sink is still to get it
        dead,     ///< it is a dead letter
    };
    std::string sink;                       ///< its name
    State state = State::taken;             ///< what has become of the event
    std::uint32_t attempts = 0;             ///< that failed, as far as that is still known
    std::string error;                      ///< why the last of them did
    std::optional<TimePoint> next_attempt;  ///< when it is tried again, if it has failed
};

/// All that is known of a task.
struct TaskStory {
    Task task;                     ///< the task
    TimePoint stored_at{};         ///< when it came, which its id says
    std::vector<SinkShare> sinks;  ///< of an emitted one: how each sink stands to its event
};

/// How a scheduler stands: what whoever looks after it asks first.
struct Overview {
    Stats stats;                           ///< figures of this moment
    TimePoint now{};                       ///< the scheduler's clock
    TimePoint started_at{};                ///< when the scheduler was made, by that clock
    milliseconds uptime{0};                ///< how long that is ago, however the clock was set
    std::optional<TimePoint> next_due;     ///< of the earliest pending task
    std::size_t overdue = 0;               ///< pending tasks whose time has come
    std::size_t missed = 0;                ///< missed tasks that are kept
    std::optional<Pause> paused;           ///< why nothing is emitted
    std::vector<LatenessMinute> lateness;  ///< of the last 240 minutes in which events were emitted
    std::vector<Mark> marks;               ///< the last 100, in order
    Durations late;                        ///< how late events were, since the start
    Durations syncs;                       ///< how long syncs of the journal took
    std::uint64_t clock_steps = 0;         ///< how often the clock was set, as marks tell
    std::size_t key_bytes = 0;             ///< of `Stats::bytes`: keys with what they answered
    std::size_t letter_bytes = 0;          ///< of `Stats::bytes`: dead letters
};

namespace detail {

// ---- 9.2 What a store is made of -------------------------------------------

// A client's word that requests with this key are one request.
struct Idempotency {
    std::string_view key;        // empty: there is none
    std::string_view identity;   // of the request
    std::string_view timestamp;  // what the answer says
};

// Two different 64-bit hashes (FNV-1a, and one started elsewhere) of a request,
// as 32 hexadecimal digits.  It tells a reused key from a repeated request; it
// need not withstand whoever chooses both.
inline std::string digest_of(std::string_view text) {
    std::uint64_t hashes[] = {0xCBF29CE484222325U, 0x9E3779B97F4A7C15U};
    for (const char c : text) {
        for (std::uint64_t& hash : hashes) {
            hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3U;
        }
    }
    std::string digits;
    for (const std::uint64_t hash : hashes) {
        for (int shift = 60; shift >= 0; shift -= 4) {
            digits += hex_digit(static_cast<unsigned>(hash >> shift));
        }
    }
    return digits;
}

constexpr std::size_t max_pause_reason = 500;  // in bytes

// Records for the log, from any thread, to be handed over where no lock is held.
class Notes {
public:
    using Log = std::function<void(const LogRecord&)>;

    // Keeps a record whose sentence is made of parts; one for which there is no room or memory is
    // counted.
    template <class... Parts>
    void add(LogLevel level, const char* event, const Parts&... parts) noexcept {
        if (!wants(level)) return;
        try {
            return keep(make_record(level, event, parts...));
        } catch (...) {
        }
        ++lost_;
        any_ = true;
    }
    void keep(LogRecord record) noexcept;
    bool empty() const { return !any_; }
    bool wants(LogLevel level) const { return level >= least_.load(std::memory_order_relaxed); }
    void set_level(LogLevel level) { least_ = level; }
    // Calls the log with what is kept.  What it throws is lost with its record.
    void hand_over(const Log& log) noexcept;
    // Hands over at the end of a scope; it is declared before what locks.
    class AtEnd {
    public:
        AtEnd(Notes& notes, const Log& log) : notes_(notes), log_(log) {}
        ~AtEnd() { notes_.hand_over(log_); }
        AtEnd(const AtEnd&) = delete;
        AtEnd& operator=(const AtEnd&) = delete;

    private:
        Notes& notes_;
        const Log& log_;
    };

private:
    static constexpr std::size_t most = 1'000;

    std::mutex mutex_;
    std::vector<LogRecord> records_;  // guarded by mutex_
    std::atomic<std::size_t> lost_{0};
    std::atomic<bool> any_{false};  // whether some wait, without the mutex
    std::atomic<LogLevel> least_{LogLevel::info};
};

inline void Notes::keep(LogRecord record) noexcept {
    if (!wants(record.level)) return;
    try {
        const std::lock_guard<std::mutex> guard(mutex_);
        any_ = true;
        if (records_.size() < most) return records_.push_back(std::move(record));
    } catch (...) {
    }
    ++lost_;
    any_ = true;
}

inline void Notes::hand_over(const Log& log) noexcept {
    if (!any_.exchange(false)) return;
    std::vector<LogRecord> records;
    {
        const std::lock_guard<std::mutex> guard(mutex_);
        records.swap(records_);
    }
    for (const LogRecord& record : records) {
        try {
            if (log) log(record);
        } catch (...) {  // there is nobody left to tell
        }
    }
    const std::size_t lost = lost_.exchange(0);
    if (lost > 0) {
        tell(log, LogLevel::warning, "log.lost", named("lines", lost),
             " lines of the log were lost");
    }
}

// What a group of changes, or a call that cancels many tasks, has come to.
struct Fate {
    std::atomic<bool> settled{false};  // what is below does not change any more
    std::exception_ptr error;
    std::uint64_t replacements = 0;  // of the journal, that were tried before this failed
    bool dropped = false;            // a ticket of it is gone, so that nobody hears of a failure
    std::shared_ptr<Notes> notes;    // if it has failed: where to tell of that

    void fail(std::exception_ptr why, const std::shared_ptr<Notes>& where) noexcept;
    // Tells of the failure in place of a ticket that is gone.
    void tell_failure() const noexcept;
};

inline void Fate::fail(std::exception_ptr why, const std::shared_ptr<Notes>& where) noexcept {
    error = std::move(why);
    notes = where;
    if (dropped) tell_failure();
}

inline void Fate::tell_failure() const noexcept {
    constexpr const char* what = "what nobody waited for was not stored: ";
    try {
        std::rethrow_exception(error);
    } catch (const std::exception& reason) {
        notes->add(LogLevel::error, "change.unstored", what, reason.what());
    } catch (...) {
        notes->add(LogLevel::error, "change.unstored", what,
                   "the journal has thrown what is no std::exception");
    }
}

// Changes that are stored together: one write, and one sync if the policy asks for it (J1).
// Where there is room for ends of tasks alone, these are stored without the others.
struct Group : Fate {
    Fate ended;  // of the records that end tasks
    std::uint64_t number = 0;
    std::vector<Record> records;
    std::string lines;             // of the first of them
    std::size_t written = 0;       // how many these are
    std::uint64_t ends = 0;        // tasks that its records end
    bool pauses = false;           // one of its records does (S7)
    bool schedules = false;        // one of its records does
    bool rests_on_behind = false;  // on what is written behind, see Store::write_behind()
    std::condition_variable changed;

    bool is_written() const { return written == records.size(); }
    static bool is_end(const Record& record) {
        return record.is<CancelRecord>() || record.is<PartRecord>();
    }
};

// One call that cancels many tasks: which it asks for, and which it holds so far (S5).
struct Bulk : Fate {
    static constexpr std::size_t part_size = 4'096;
    static constexpr std::size_t chunk_size = 64;

    std::uint64_t number = 0;
    DueRange range;
    Filter filter;
    TaskId last;  // the last one that was stored when the call came
    // What was on its way when the call came: all groups up to this one, and of this one so
    // many records.  A task that they change and leave pending belongs to the call too.
    std::shared_ptr<Group> before;
    std::size_t records = 0;
    std::deque<TaskId> ids;   // of the tasks that are held
    std::size_t count = 0;    // of them, in the end
    std::size_t written = 0;  // of them, whose end is written and not applied
    bool marked = false;      // the whole queue was looked through
    CancelRecord chunk;       // room for some ids, so that nothing fails after a commit

    Bulk() { chunk.ids.reserve(chunk_size); }
    // Moves the last of the ids to `chunk`.
    void take_chunk() {
        const std::size_t taken = std::min(chunk_size, ids.size());
        const auto from = ids.end() - static_cast<std::ptrdiff_t>(taken);
        chunk.ids.assign(from, ids.end());
        ids.erase(from, ids.end());
    }
    bool is_later_than(const Group& group, std::size_t record) const {
        if (!before || group.number > before->number) return false;
        return group.number < before->number || record < records;
    }
    bool is_for(const StoredTask* task) const {
        return (!range.after || task->due > *range.after) &&
               (!range.before || task->due < *range.before) && chooses(filter, *task);
    }
};

// Lets others have a lock that is held for long.  It sleeps without it: whoever waits for a
// mutex takes some time to wake up, in which the one that has let go would have it back.
// A State::Breathe refers to it, since to hold it would take memory where a pointer has 32 bits.
class Breath {
public:
    explicit Breath(std::unique_lock<std::mutex>& lock) : lock_(lock) {}
    void operator()() {
        constexpr std::chrono::microseconds longest{200};
        constexpr std::chrono::microseconds pause{50};
        const auto now = std::chrono::steady_clock::now();
        if (now - since_ < longest) return;
        lock_.unlock();
        std::this_thread::sleep_for(pause);
        lock_.lock();
        since_ = std::chrono::steady_clock::now();
    }

private:
    std::unique_lock<std::mutex>& lock_;
    std::chrono::steady_clock::time_point since_ = std::chrono::steady_clock::now();
};

class Store;

}  // namespace detail

// ---- 9.3 Tickets -----------------------------------------------------------

/// A change that was begun.  It counts when wait() has returned.  One whose ticket is dropped
/// is stored by the journal's thread (under `Drive::caller` by the next `run_due()`), and its
/// failure is logged.  `Scheduler::stop()` stores whatever was begun.  Used by one thread at a
/// time, and not after its scheduler is gone, except to be destroyed.
class [[nodiscard]] Ticket {
public:
    /// Takes over another one's change, which that has no more.
    Ticket(Ticket&& other) noexcept : Ticket() { swap(other); }
    /// The same; what this was is not waited for any more.
    Ticket& operator=(Ticket&& other) noexcept {
        Ticket(std::move(other)).swap(*this);
        return *this;
    }
    Ticket(const Ticket&) = delete;
    Ticket& operator=(const Ticket&) = delete;
    ~Ticket() { abandon(); }

    /// The tasks that it schedules, in the order of the request; of a repeated idempotency
    /// key, those of the first request.
    const std::vector<TaskId>& ids() const { return ids_; }
    /// The timestamp of the first of them, as it was given.
    const std::string& timestamp() const { return timestamp_; }
    /// How many tasks it cancels, or events it forgets; exact when wait() has returned.
    std::size_t count() const { return count_; }
    /// The task as it is changed, or the one that is cancelled by its id or name.
    const Task& task() const { return task_; }
    /// Of a put: whether there was no task of the name, and this makes one.
    bool creates() const { return creates_; }
    /// Of a request with an idempotency key: whether it came before, so that this makes nothing.
    bool repeats() const { return repeats_; }
    /// Nothing was begun: another change of the same task is on its way, or its emission is and
    /// this would put another in its place, or other events are being forgotten.  wait() returns
    /// when that has ended, without its error, and then the call is to be made again.
    bool again() const { return again_; }
    /// Stores it, if that takes no more than a write.  False: wait() would block for longer,
    /// or storing has failed, and wait() says why.
    bool try_store();
    /// Blocks until it is stored.  Throws `Error`: with `disk_full`, `journal_failed` or
    /// `stopped` if it could not be, and then nothing of it has happened; with
    /// `outcome_unknown` if the journal has failed while it was written and could not be
    /// replaced: the change has not happened here, and may be found stored after a restart.
    void wait();

private:
    friend class detail::Store;
    Ticket() = default;
    void swap(Ticket& other) noexcept;
    void abandon() noexcept;
    detail::Fate& fate() const;
    // Whether there is nothing to wait for, as it was stored, or the other one has ended.
    bool is_done() const {
        return emitting_ == TaskId() && fate().settled && (again_ || !fate().error);
    }

    std::vector<TaskId> ids_;
    std::string timestamp_;
    std::size_t count_ = 0;
    Task task_;
    bool again_ = false;
    bool creates_ = false;
    bool repeats_ = false;
    bool ends_ = false;               // it ends a task
    bool told_ = false;               // wait() has thrown
    detail::Store* store_ = nullptr;  // null: there is nothing to wait for
    std::shared_ptr<detail::Group> group_;
    std::shared_ptr<detail::Bulk> bulk_;
    TaskId emitting_;  // wait() returns when this task is shown; nil: none
};

// ---- 9.4 The store ---------------------------------------------------------

namespace detail {

class Store {
public:
    // Opens the journal.  Throws as `Scheduler` does.
    explicit Store(Options options);
    ~Store() { close(); }
    // Stores what was begun, ends the journal's thread and syncs; every later change is
    // refused.
    void close();

    // ---- Changes: each checks, and adds its record to the open group.
    Ticket begin_schedule(std::vector<TaskRef> tasks, const Idempotency& idempotency);
    template <class Key>  // an id, or a name
    Ticket begin_cancel(Key key);
    // What is due in the range, was stored before this, is still pending and chosen by the
    // filter: all or nothing.
    Ticket begin_cancel(const DueRange& range, const Filter& filter);
    // Makes the task that its name means, or puts it in the place of the one that that means.
    Ticket begin_put(TaskRef task, std::string_view timestamp, PutIf condition);
    // Changes the due time, the message, or both; what is not given stays as it is.
    template <class Key>
    Ticket begin_change(Key key, std::optional<TimePoint> due, std::string_view timestamp,
                        std::string_view message);
    Ticket begin_forget(const EventRange& range);
    // Holds back emissions, also while they are held back already, or goes on with them.
    Ticket begin_pause(std::string_view reason);
    Ticket begin_resume();

    void wait(Ticket& ticket);
    bool try_store(const Ticket& ticket);
    void abandon(const Ticket& ticket) noexcept;
    // Has what was begun stored, although nobody waits for it yet.
    void store_begun_locked() {
        unwaited_ = true;
        wake_tender_locked();
    }

    // ---- Emission
    // Emits what is due, at most one batch of it.  False: nothing was.
    bool emit_due();
    // When emit_due() has something to do, if ever.
    std::optional<TimePoint> next_wake_locked() const;
    std::optional<TimePoint> next_emission_locked() const;
    // Whether nothing may be emitted, though it be due (S7).
    bool is_paused_locked() const {
        return state_.paused() || (committing_ && committing_->pauses);
    }
    // Whether no task waits, is being stored or is being emitted.
    bool is_empty_locked() const { return state_.expected() == 0; }

    // ---- Reading
    template <class Key>
    std::optional<Task> find(Key key) const;
    template <class Key>
    std::optional<TaskStory> story(Key key) const;
    TaskPage tasks(const TaskQuery& query) const;
    Histogram histogram(const DueRange& range, std::size_t buckets) const;
    EventPage events(const EventQuery& query) const;
    // How many a filter chooses, if no more than `max_searched` have to be looked at for that.
    std::optional<std::size_t> count_tasks(const DueRange& range, const Filter& filter) const;
    TaskPage missed_tasks(const TaskQuery& query) const;
    std::optional<std::size_t> count_events(const Filter& filter) const;
    std::optional<Pause> paused() const;
    Overview overview() const;
    std::optional<Cursor> cursor_of(TaskId event) const;
    bool is_to_come(TaskId event) const;
    std::optional<TaskId> event_before(Cursor cursor) const;
    Cursor oldest() const;
    Cursor newest() const;
    Cursor newest_locked() const { return Cursor(state_.history().next_seq()); }
    Stats stats() const;

    // ---- Sinks
    // Makes these the sinks that are delivered to.  A new one begins at `newest`, or with the
    // oldest event that is retained.
    void open_sinks(const std::vector<SinkSetup>& setups, Cursor newest, Unlisted others);
    // Nobody delivers to sinks from here on.
    void close_sinks();
    // Drops a sink that nobody delivers to.
    void forget_sink(const std::string& sink);
    // What a sink is to be given next, if anything: `most` events at once.
    std::optional<Delivery> next_delivery(const std::string& sink, std::size_t most = 1,
                                          std::size_t retries = 0);
    // Remembers what became of a delivery.  A failed one without a time to wait is not tried
    // again.
    void settle(const Delivery& delivery, const Outcome& outcome);
    void set_sink_state(const std::string& sink, SinkState state);
    std::size_t redeliver(const std::string& sink, std::optional<TaskId> id);
    std::vector<SinkStatus> sinks() const;
    DeadPage dead_letters(const std::string& sink, std::optional<TaskId> after, std::size_t limit,
                          std::size_t max_bytes) const;

    // ---- The journal's work, of its thread or of whoever drives
    // Does what is to be done for the journal now.
    void tend_now() {
        Lock lock(mutex_);
        tend_now(lock);
    }
    // When tend_now() has something to do, if ever.
    std::optional<TimePoint> next_tending_locked() const;
    // Has the journal replaced by what is remembered, less what the limits do not keep.
    void compact();
    std::shared_ptr<const JournalSnapshot> snapshot() { return journal_->snapshot(); }
    JournalFigures journal_figures() const { return journal_->figures(); }
    bool is_owner() const { return journal_->is_owner(); }
    std::optional<Cluster> cluster() const { return journal_->cluster(); }
    std::uint64_t applied() const { return journal_->applied(); }
    void look_for(std::uint64_t group) noexcept { journal_->look_for(group); }
    std::size_t pending() const {
        const std::lock_guard<std::mutex> guard(mutex_);
        return state_.pending();
    }

    // The clock's time, within what a journal can say even a year later.
    TimePoint now() const {
        const TimePoint time = options_.now ? options_.now() : wall_clock();
        return std::clamp(time, first_time, last_time - std::chrono::hours(24 * 366));
    }
    const Options& options() const { return options_; }
    std::mutex& mutex() const { return mutex_; }
    // Hands a record to the log, which is not to be done under a lock.
    void say(LogRecord record) noexcept;
    bool logs(LogLevel level) const { return options_.log && notes_.wants(level); }
    void set_log_level(LogLevel level) { notes_.set_level(level); }
    // Called under the lock when next_wake_locked() may have become earlier.
    std::function<void()> on_due_changed;
    // Called without the lock when another process may have changed something; set under the lock.
    std::function<void()> on_followed;

    static constexpr std::size_t batch = 1'024;

private:
    // How many tasks a bulk call looks at without a pause.
    static constexpr std::size_t most_marked = 256;
    // Memory is given back to the system once tasks have taken this much of it, and from then on
    // whenever half of it is free, until they take less than the other.
    static constexpr std::uint64_t much_memory = std::uint64_t{16} << 20;
    static constexpr std::uint64_t little_memory = std::uint64_t{64} << 10;
    // How many bytes of payloads go with an event of a batch.
    static constexpr std::size_t most_batch_bytes = std::size_t{1} << 20;
    // How many bytes of records may wait to be written behind before sinks have to wait.
    static constexpr std::size_t most_behind = std::size_t{1} << 20;

    using Lock = std::unique_lock<std::mutex>;
    // A request with a key that is on its way.
    struct Arriving {
        const Answer* answer;  // in the group's record
        std::shared_ptr<Group> group;
    };
    class Copy;
    friend class Copy;
    class TaskScan;
    class EventScan;

    // Opening the journal and reading it.
    std::unique_ptr<Journal> make_journal();
    void open();
    void recover();
    bool load(State& state, const std::function<bool(const Journal::Take&)>& read,
              const std::function<void(std::uint64_t bytes)>& tell, bool has_thread);
    void tell_of_opening();
    class Loader;
    void judge_clock(bool& replace_first);

    // Following the owner of the journal, if that is another process (S8).
    Journal::Follower follower();
    void follow(std::string_view lines);
    void reread(const std::function<void(const Journal::Take&)>& read);
    void give_up_begun(Lock& lock);
    void tell_of_following();

    // Beginning a change, and its ticket.
    Ticket begin_change(StoredTask* task, TaskRef next, TimePoint at);
    Ticket begin_named(TaskRef task, TimePoint at);
    Ticket ticket_for(std::shared_ptr<Group> group);
    Ticket ticket_again(const StoredTask* task);
    std::shared_ptr<Group> group_on_its_way_locked() const {
        return open_->records.empty() ? committing_ : open_;
    }
    template <class One>
    std::shared_ptr<Group> begin(One one);
    std::optional<Ticket> repeated(const Idempotency& idempotency, const std::string& digest);
    ScheduleRecord new_record(std::vector<TaskRef> tasks, const Idempotency& idempotency,
                              const std::string& digest, TimePoint at);
    void check_open_locked() const;
    void check_accepting_locked(TimePoint at);
    Stats stats_locked() const;
    void check_limits_locked(std::size_t tasks, std::size_t bytes);
    void check_keys_locked();
    void check_room_locked(std::size_t tasks, std::size_t bytes);
    std::uint64_t needed_room_locked(const JournalFigures& journal, std::size_t tasks = 0,
                                     std::size_t bytes = 0) const;
    std::uint64_t wanted_room_locked(const JournalFigures& journal, bool was_full) const;
    bool is_disk_full_locked(const JournalFigures& journal) const {
        return refused_by_disk_ || journal.room < wanted_room_locked(journal, told_of_full_disk_);
    }
    static std::string room_text(const JournalFigures& journal, std::uint64_t needed);
    void tell_of_room_locked(const char* why) noexcept;
    Error bytes_limit() const;
    void tell_of_memory_locked() noexcept;
    template <class Key>
    StoredTask* find_open(Key key);

    // Cancelling many tasks: they are marked, their records are stored, and all are taken out.
    void mark(Lock& lock, Bulk& bulk);
    std::size_t mark_some(Lock& lock, Bulk& bulk, DueKey& from);
    std::size_t keep_chosen(Lock& lock, const Filter& filter, StoredTask** tasks,
                            std::size_t count);
    void hold_for(Bulk& bulk, StoredTask* task);
    template <class IsFor>
    void offer_locked(TaskId id, IsFor is_for) noexcept;
    void await(Lock& lock, const std::shared_ptr<Bulk>& bulk);
    void store_bulk(Lock& lock, Bulk& bulk);
    void write_parts(Lock& lock, Bulk& bulk);
    void cancel_all(Lock& lock, Bulk& bulk);
    void release_all(Lock& lock, Bulk& bulk);

    // Storing the open group, and doing what its records say.
    void commit(Lock& lock, const std::shared_ptr<Group>& group);
    void await(Lock& lock, const std::shared_ptr<Group>& group);
    // How many tasks still need a record of their end.
    std::uint64_t ends_to_come_locked() const {
        return state_.expected() - (storing_bulk_ ? bulks_.front()->written : 0);
    }
    void lead(Lock& lock);
    std::exception_ptr store_ends(const Group& group, const std::exception_ptr& error,
                                  std::uint64_t pending) noexcept;
    void judge_disk_locked(const Group& group, const std::exception_ptr& error) noexcept;
    void settle_group(Lock& lock, Group& group);
    void keep_room(Group& group) noexcept;
    void count_locked(const Record& record, bool failed);
    void tell_of_pause_locked(bool was_paused) noexcept;
    [[noreturn]] void throw_failure(Lock& lock, const Fate& fate);

    // Emitting what is due, of the scheduler's thread alone.
    Ends write_emission(std::uint64_t pending) noexcept;
    void show_emission(TimePoint begun);
    bool is_clock_trusted_locked(TimePoint at);
    void watch_clock_locked(TimePoint at) noexcept;
    bool trim(Lock& lock, TimePoint at);
    void overflow(Lock& lock, TimePoint at);

    // Reading.
    EventPage all_events(const EventQuery& query) const;
    EventPage search_events(const EventQuery& query) const;

    // Sinks.
    // Which sinks are delivered to.
    struct Listing {
        std::vector<SinkSetup> setups;
        Cursor newest;  // where a new one begins
        Unlisted others;
    };
    const SinkBook::Sink& sink_locked(const std::string& name) const;
    bool is_delivering_locked() const { return journal_->is_owner() && !awaits_listing_; }
    bool is_delivering() const {
        const std::lock_guard<std::mutex> guard(mutex_);
        return is_delivering_locked();
    }
    void list_sinks(Lock& lock, const Listing& listing);
    void list_awaited_sinks(Lock& lock) noexcept;
    void set_kinds_locked();
    void set_topics(Lock& lock, const SinkSetup& setup, TimePoint at);
    void unlist(Lock& lock, const std::string& name, Unlisted others, TimePoint at);
    template <class One>
    void change_sink(Lock& lock, One one);
    template <class One>
    void change_behind(Lock& lock, One one);
    bool pass(Lock& lock, const std::string& name);
    template <class One>
    void write_behind_locked(const One& one);
    void write_behind();
    void write_behind(Lock& lock) noexcept;
    void tell_of_locked(const std::string& sink);
    void bury(Lock& lock, const Delivery& delivery, const Event& event, TimePoint at,
              const std::string& error);

    // What the journal's thread does; under Drive::caller whoever drives does it.
    void tend();
    void tend_now(Lock& lock);
    void hand_over_notes(Lock& lock);
    bool wants_tending_locked() const;
    bool wants_listing_locked() const { return awaits_listing_ && journal_->is_owner(); }
    bool wants_replacement_locked() const;
    // When whoever drives tries it again, a second after it has failed; at once if the clock
    // was stepped back since.
    TimePoint next_replacement_locked() const {
        const TimePoint at = now();
        const bool waits = at < replace_again_ && replace_again_ <= at + std::chrono::seconds(1);
        return waits ? replace_again_ : at;
    }
    // Under Drive::caller nobody can be waiting while the caller is at work.
    bool has_unwaited_locked() const {
        const bool begun = !open_->records.empty() || !bulks_.empty();
        return unwaited_ || (options_.drive == Drive::caller && begun);
    }
    void commit_unwaited(Lock& lock);
    void sync(Lock& lock);
    std::exception_ptr replace(Lock& lock);
    void misjudge_room_locked(const JournalFigures& journal) noexcept;
    std::chrono::steady_clock::time_point next_sync() const {
        const bool delayed = options_.fsync == Fsync::everysec;
        return delayed ? synced_at_ + std::chrono::seconds(1) : synced_at_;
    }
    // Tasks are freed in any order, so that the last of them may hold most of the pages:
    // what was once much is given back again and again until it is little.
    bool wants_release_locked() const {
        return had_much_memory_ && state_.bytes() < most_memory_ / 2;
    }
    void release_memory(Lock& lock);
    void wake_tender_locked() {
        most_memory_ = std::max<std::uint64_t>(most_memory_, state_.bytes());
        had_much_memory_ =
            had_much_memory_ || most_memory_ >= std::min(much_memory, options_.max_bytes / 4);
        const bool wants_sync = journal_->wants_sync() && !awaits_sync_;
        if (!wants_sync && !wants_tending_locked()) return;
        asked_ = true;
        if (!tending_) tender_wakes_.notify_one();
    }

    const Options options_;
    const bool keeps_;  // whether there is a journal worth writing records for
    std::unique_ptr<Journal> journal_;
    bool is_shared_ = false;  // whether other processes may have it open too
    // Whoever has called hands them over when it has no lock; the emitting thread, which does
    // not wait for a log, leaves that to the journal's thread.
    const std::shared_ptr<Notes> shared_notes_ = std::make_shared<Notes>();
    Notes& notes_ = *shared_notes_;

    mutable std::mutex mutex_;
    State state_;                                              // guarded by mutex_
    std::shared_ptr<Group> open_ = std::make_shared<Group>();  // guarded by mutex_
    std::shared_ptr<Group> next_;        // guarded by mutex_: made ahead by begin()
    std::shared_ptr<Group> committing_;  // guarded by mutex_: null: none
    std::vector<Record> spare_records_;  // guarded by mutex_: empty, room for the next group
    std::string spare_lines_;            // guarded by mutex_: likewise
    std::shared_ptr<Group> forgetting_;  // guarded by mutex_: the last that forgets events
    std::map<std::string, Arriving, std::less<>> arriving_;  // guarded by mutex_: by key
    std::list<std::shared_ptr<Bulk>> bulks_;  // guarded by mutex_: in order of their calls
    bool storing_bulk_ = false;               // guarded by mutex_: the first of them
    std::uint64_t last_number_ = 0;           // guarded by mutex_: of a group or a bulk call
    TaskId last_stored_;                      // guarded by mutex_: no task above it is stored
    bool commits_paused_ = false;             // guarded by mutex_: no commit may begin
    bool emissions_paused_ = false;           // guarded by mutex_: no emission may begin
    bool emitting_ = false;                   // guarded by mutex_
    bool replacing_ = false;                  // guarded by mutex_
    bool unwaited_ = false;                   // guarded by mutex_: nobody may wait for a change
    bool tending_ = false;                    // guarded by mutex_: the journal's thread is at work
    bool asked_ = false;                      // guarded by mutex_: and is to look again
    bool awaits_sync_ = false;                // guarded by mutex_: it sleeps until the next sync
    bool opened_ = false;                     // guarded by mutex_: the constructor has ended
    bool closed_ = false;                     // guarded by mutex_
    std::optional<Listing> listing_;          // guarded by mutex_: nothing: no sinks are open
    bool awaits_listing_ = false;             // guarded by mutex_: until this process is the owner
    bool clock_trusted_ = true;               // guarded by mutex_
    Stats stats_;                             // guarded by mutex_: the counters
    std::uint64_t late_before_ = 0;           // events that were late before this process
    std::string behind_;                      // guarded by mutex_: records to be written behind
    std::size_t behind_size_ = 0;             // guarded by mutex_: with those of unwritten_
    bool told_of_behind_ = false;             // guarded by mutex_: that they cannot be written
    bool behind_is_old_ = false;              // guarded by mutex_: others have stored since
    bool owes_behind_ = false;                // guarded by mutex_: since before it was the owner
    std::uint64_t replace_above_ = 0;         // guarded by mutex_: size that asks for a replacement
    std::uint64_t live_then_ = 0;      // guarded by mutex_: what was live when it was last copied
    std::uint64_t replacements_ = 0;   // guarded by mutex_: replacements tried
    std::uint64_t misjudged_room_ = 0;  // guarded by mutex_: which a replacement needed besides
    bool told_of_full_disk_ = false;    // guarded by mutex_: and not yet that there is room again
    bool refused_by_disk_ = false;      // guarded by mutex_: although it has room, as by a quota
    TimePoint replace_again_{};        // guarded by mutex_: not before this, under Drive::caller
    std::uint64_t most_memory_ = 0;    // guarded by mutex_: since some was given back
    bool had_much_memory_ = false;     // guarded by mutex_: and may still hold its pages
    std::mutex behind_mutex_;          // before mutex_: who writes what is written behind
    std::string unwritten_;            // guarded by behind_mutex_: what goes before behind_
    bool unwritten_is_old_ = false;    // guarded by behind_mutex_: as behind_is_old_
    std::condition_variable settled_;  // a commit, an emission or a bulk call has ended
    mutable std::condition_variable tender_wakes_;
    // Of the journal's thread: when its last sync began.
    std::chrono::steady_clock::time_point synced_at_{};
    const std::chrono::steady_clock::time_point made_at_ = std::chrono::steady_clock::now();
    const TimePoint started_at_ = now();
    TimePoint seen_at_ = started_at_;  // guarded by mutex_: the clock when it was watched
    std::uint64_t clock_steps_ = 0;    // guarded by mutex_
    std::chrono::steady_clock::time_point seen_steady_ = made_at_;  // guarded by mutex_: likewise
    std::optional<Opening> opening_;    // while the constructor opens the journal
    std::exception_ptr opening_ended_;  // what Options::on_opening has thrown
    EmitRecord emitted_;                // of the emitting thread, as the next two
    MissRecord missed_;
    std::string emission_lines_;
    std::thread tender_;  // last: starts when all the above exists
};

inline Options with_limits(Options options) {
    options.derive_limits();
    return options;
}

inline State::Limits past_limits_of(const Options& options) {
    return {options.history,      std::min(options.min_retention, longest_wait),
            options.sink_backlog, options.sink_backlog_bytes,
            options.max_dead,     options.max_bytes / 4};
}

inline Store::Store(Options options)
    : options_(with_limits(std::move(options))),
      keeps_(!options_.journal.empty() || options_.make_journal),
      state_(past_limits_of(options_)) {
    emitted_.ids.reserve(batch);
    missed_.ids.reserve(batch);
    emission_lines_.reserve(batch * 40 + 256);
    notes_.set_level(options_.log_level);
    const Notes::AtEnd told(notes_, options_.log);
    state_.lateness().mark({Mark::Kind::start, started_at_});
    try {
        journal_ = make_journal();
        is_shared_ = journal_->cluster().has_value();
        open();
    } catch (const Error& error) {
        if (error.code() != Errc::disk_full) throw;
        const char* advice = "; make room there, or name a file on another disk (--journal)";
        throw Error(error.code(), std::string(error.what()) + advice);
    }
    if (options_.drive == Drive::thread) tender_ = std::thread([this] { tend(); });
}

// What others do is told from the first reading on, and waits until all of that is opened.
inline void Store::open() {
    if (is_shared_) journal_->follow(follower());
    const auto end = [this](bool Store::*reached) {
        const std::lock_guard<std::mutex> guard(mutex_);
        this->*reached = true;
        settled_.notify_all();
    };
    try {
        recover();
    } catch (...) {
        end(&Store::closed_);
        journal_->stop_following();
        throw;
    }
    end(&Store::opened_);
}

inline void Store::close() {
    {
        const std::lock_guard<std::mutex> guard(mutex_);
        if (std::exchange(closed_, true)) return;
        tender_wakes_.notify_one();
        settled_.notify_all();
    }
    if (tender_.joinable()) {
        tender_.join();
    } else {
        tend();
    }
    journal_->stop_following();
    notes_.hand_over(options_.log);
}

// ---- 9.5 Opening -----------------------------------------------------------

inline std::unique_ptr<Journal> Store::make_journal() {
    if (options_.make_journal) {
        auto made = options_.make_journal();
        if (made) return made;
        throw Error(Errc::invalid_argument, "Options::make_journal has made none");
    }
    if (options_.journal.empty()) return std::make_unique<MemoryJournal>();
    auto files = options_.files ? options_.files : std::make_shared<FileOps>();
    return std::make_unique<FileJournal>(
        options_.journal, options_.fsync, std::move(files),
        [this](const LogRecord& record) { notes_.keep(record); }, options_.drive != Drive::caller);
}

// Reads the journal on a thread of its own, if there may be one, and applies batch by batch, on
// the thread that opens it, what it says.  There the tasks are made as well: memory that one
// thread takes and another one frees is slow.
class Store::Loader {
public:
    Loader(State& state, std::function<void(std::uint64_t bytes)> tell)
        : state_(state), tell_(std::move(tell)) {
        filling_.text.reserve(text_size);
        handed_.text.reserve(text_size);
    }
    // Returns what `read` does, which is Journal::read() or one like it.
    bool load(const std::function<bool(const Journal::Take&)>& read, bool has_thread);

private:
    struct Batch {
        struct Item {
            TaskParts task;  // if there is no record
            std::optional<Record> record;
        };
        std::vector<Item> items;
        std::string text;  // the payloads of the tasks, which never outgrow the room for it
        std::uint64_t bytes = 0;  // of their lines
    };
    static constexpr std::size_t most_items = 1'024;
    static constexpr std::size_t text_size = std::size_t{1} << 18;

    void take(std::string_view line);
    void hand_over();
    void apply(Batch& read);
    void apply_handed();

    State& state_;
    const std::function<void(std::uint64_t bytes)> tell_;  // called with what has been applied
    Batch filling_;                   // of the thread that reads
    Record tasks_{ScheduleRecord()};  // a run of tasks, each of which had a record of its own
    bool has_thread_ = false;
    std::mutex mutex_;
    std::condition_variable changed_;
    Batch handed_;             // guarded by mutex_; while `is_handed_`, of the thread that applies
    bool is_handed_ = false;   // guarded by mutex_
    bool has_ended_ = false;   // guarded by mutex_: nothing more is read
    bool has_failed_ = false;  // guarded by mutex_: nothing more is applied
};

inline bool Store::Loader::load(const std::function<bool(const Journal::Take&)>& read,
                                bool has_thread) {
    has_thread_ = has_thread;
    bool result = false;
    Beside reading(has_thread, [&] {
        const AtExit tell([this] {
            const std::lock_guard<std::mutex> guard(mutex_);
            has_ended_ = true;
            changed_.notify_one();
        });
        result = read([this](std::string_view line) { take(line); });
        hand_over();
    });
    try {
        if (has_thread) apply_handed();
    } catch (...) {
        const std::lock_guard<std::mutex> guard(mutex_);
        has_failed_ = true;
        changed_.notify_one();
        throw;
    }
    reading.wait();
    return result;
}

inline void Store::Loader::take(std::string_view line) {
    std::optional<TaskParts> task = read_usual_task(line);
    const std::size_t size = task ? task->payload.size() : 0;
    if (filling_.items.size() == most_items || filling_.text.size() + size > text_size ||
        filling_.bytes > text_size) {
        hand_over();
    }
    filling_.bytes += line.size() + 1;
    if (!task || size > text_size) {
        filling_.items.push_back({{}, read_record(line)});
        return;
    }
    filling_.text.append(task->payload);
    task->payload = std::string_view(filling_.text).substr(filling_.text.size() - size);
    filling_.items.push_back({*task, std::nullopt});
}

inline void Store::Loader::hand_over() {
    if (!has_thread_) return apply(filling_);
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [this] { return !is_handed_ || has_failed_; });
    if (has_failed_) throw Error(Errc::stopped, "what is read cannot be applied");
    std::swap(filling_, handed_);
    is_handed_ = true;
    changed_.notify_one();
}

inline void Store::Loader::apply_handed() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
        changed_.wait(lock, [this] { return is_handed_ || has_ended_; });
        if (!is_handed_) return;
        lock.unlock();
        apply(handed_);
        lock.lock();
        is_handed_ = false;
        changed_.notify_one();
    }
}

inline void Store::Loader::apply(Batch& read) {
    std::vector<TaskRef>& tasks = tasks_.get_if<ScheduleRecord>()->tasks;
    const auto end_run = [&] {
        state_.apply(tasks_);
        tasks.clear();
    };
    for (Batch::Item& item : read.items) {
        if (!item.record) {
            tasks.push_back(TaskRef::make(item.task.id, item.task.due, item.task.payload));
            continue;
        }
        end_run();
        state_.apply(*item.record);
    }
    end_run();
    read.items.clear();
    read.text.clear();
    tell_(std::exchange(read.bytes, 0));
}

// Reads a journal into an empty state.  Returns what `read` does.
inline bool Store::load(State& state, const std::function<bool(const Journal::Take&)>& read,
                        const std::function<void(std::uint64_t bytes)>& tell, bool has_thread) {
    state.begin_loading();
    const bool result = Loader(state, tell).load(read, has_thread);
    const std::size_t unnamed = state.end_loading();
    if (unnamed > 0) {
        notes_.add(LogLevel::warning, "journal.names_lost", named("tasks", unnamed),
                   " tasks have lost their names to newer tasks");
    }
    state.limit_past(journal_->figures().disk / 8);
    return result;
}

inline void Store::recover() {
    if (!keeps_) return;
    opening_.emplace();
    opening_->size = journal_->figures().bytes;
    const AtExit opened([this] { opening_.reset(); });
    const auto tell = [this](std::uint64_t bytes) {
        opening_->bytes += bytes;
        opening_->tasks = state_.pending();
        tell_of_opening();
    };
    const auto read = [this](const Journal::Take& take) { return journal_->read(take); };
    bool replace_first = load(state_, read, tell, options_.drive == Drive::thread);
    stats_.recovered = state_.pending();
    late_before_ = state_.late();
    last_stored_ = state_.ids().last();
    judge_clock(replace_first);
    for (const auto& [name, sink] : state_.sinks().all()) tell_of_locked(name);
    if (const auto& paused = state_.paused()) {
        notes_.add(LogLevel::warning, "scheduler.paused",
                   "nothing is emitted until resumed: it was paused at ",
                   named("since", format_time(paused->since)), paused->reason.empty() ? "" : ": ",
                   printable(paused->reason, max_pause_reason));
    }
    state_.drop_answers(now(), ~std::size_t{0});
    if (replace_first) {
        Lock lock(mutex_);
        const std::exception_ptr failure = replace(lock);
        if (opening_ended_) std::rethrow_exception(opening_ended_);
        if (failure) std::rethrow_exception(failure);
    }
    journal_->write_ends({}, state_.pending());  // which reserves space for them
    if (state_.bytes() > options_.max_bytes) tell_of_memory_locked();
    if (const JournalFigures journal = journal_->figures(); is_disk_full_locked(journal)) {
        tell_of_room_locked(room_text(journal, wanted_room_locked(journal, true)).c_str());
    }
}

// Whoever opens may end it, also in a replacement, which keeps to itself what it meets.
inline void Store::tell_of_opening() {
    if (!options_.on_opening) return;
    try {
        options_.on_opening(*opening_);
    } catch (...) {
        opening_ended_ = std::current_exception();
        throw;
    }
}

// A device without a battery starts long ago.  To emit by such a clock would be
// late, to store by it would be a lie (L1), and it may be set at any moment.
inline void Store::judge_clock(bool& replace_first) {
    const TimePoint at = now();
    const TimePoint newest = state_.newest_stamp();
    if (at + std::chrono::seconds(10) >= newest) return;
    const std::string times = "the clock says " + format_time(at) +
                              ", but the journal was written at " + format_time(newest);
    if (options_.trust_clock) {
        notes_.add(LogLevel::warning, "clock.behind", times,
                   "; the clock is trusted, as was asked for");
        state_.set_newest_stamp(at);
        replace_first = true;  // which writes a clock record
    } else {
        notes_.add(LogLevel::error, "clock.untrusted", times,
                   "; nothing is emitted and tasks are refused until the clock has passed that: "
                   "set it right, by NTP for one, or have it believed as it is (--trust-clock)");
        clock_trusted_ = false;
    }
}

// ---- 9.6 Changes -----------------------------------------------------------

inline Ticket Store::ticket_for(std::shared_ptr<Group> group) {
    Ticket ticket;
    ticket.store_ = this;
    ticket.group_ = std::move(group);
    return ticket;
}

// For a change that meets another one: waiting for it is waiting for what holds the task.
inline Ticket Store::ticket_again(const StoredTask* task) {
    Ticket ticket;
    ticket.store_ = this;
    ticket.again_ = true;
    for (const std::shared_ptr<Bulk>& bulk : bulks_) {
        if (bulk->number == task->seq) ticket.bulk_ = bulk;
    }
    const bool committing = committing_ && committing_->number == task->seq;
    if (!ticket.bulk_) ticket.group_ = committing ? committing_ : open_;
    return ticket;
}

// Whether a record takes so little time to write that it is written under the lock, while the
// group before it is being synced.  Whoever leads the group writes the others (S3).
template <class One>
bool is_short(const One&) {
    return true;
}

inline bool is_short(const ScheduleRecord& record) {
    constexpr std::size_t most_tasks = 16;
    constexpr std::size_t most_bytes = 16'384;
    if (record.tasks.size() > most_tasks) return false;
    std::size_t bytes = 0;
    for (const TaskRef& task : record.tasks) bytes += task->bytes();
    return bytes <= most_bytes;
}

inline bool is_short(const CancelRecord& record) {
    return record.ids.size() <= 16;
}

inline bool is_short(const PartRecord&) {
    return false;
}

// Adds a record to the open group, and makes all the room that storing and applying it, or
// undoing it, will take.
template <class One>
std::shared_ptr<Group> Store::begin(One one) {
    if (!next_) next_ = std::make_shared<Group>();
    Group& group = *open_;
    if (group.records.empty()) {
        group.records.swap(spare_records_);
        group.lines.swap(spare_lines_);
    }
    if (group.records.size() == group.records.capacity()) {
        group.records.reserve(std::max<std::size_t>(4, 2 * group.records.size()));
    }
    const std::size_t start = group.lines.size();
    const bool writes = group.is_written() && is_short(one);
    Record record(std::move(one));
    try {
        if (keeps_ && writes) write(group.lines, *record.template get_if<One>());
        state_.begin(record);
    } catch (...) {
        group.lines.resize(start);
        throw;
    }
    if constexpr (std::is_same_v<One, CancelRecord> || std::is_same_v<One, PartRecord>) {
        group.ends += record.template get_if<One>()->ids.size();
    } else if constexpr (std::is_same_v<One, PauseRecord>) {
        group.pauses = true;
    } else if constexpr (std::is_same_v<One, ScheduleRecord>) {
        group.schedules = true;
    } else {
        group.rests_on_behind = true;
    }
    group.records.push_back(std::move(record));
    if (writes) ++group.written;
    return open_;
}

inline Ticket Store::begin_schedule(std::vector<TaskRef> tasks, const Idempotency& idempotency) {
    const Notes::AtEnd told(notes_, options_.log);
    const bool keyed = !idempotency.key.empty();
    if (keyed && keeps_ && !json_problem(quote_json(idempotency.key)).empty()) {
        throw Error(Errc::invalid_argument, "an idempotency key must be UTF-8 to be kept");
    }
    const std::string digest = keyed ? digest_of(idempotency.identity) : std::string();
    std::size_t bytes = 0;
    for (const TaskRef& task : tasks) bytes += task->bytes();
    Ticket ticket;
    ticket.ids_.reserve(tasks.size());
    ticket.timestamp_ = idempotency.timestamp;
    const Lock lock(mutex_);
    const TimePoint at = now();
    if (keyed) {
        state_.drop_answers(at);
        if (auto first = repeated(idempotency, digest)) return std::move(*first);
    }
    check_accepting_locked(at);
    check_limits_locked(tasks.size(), bytes);
    if (keyed) check_keys_locked();
    const TaskId first = state_.ids().next(at);
    for (std::size_t i = 0; i < tasks.size(); ++i) {
        tasks[i]->id = first.plus(i);
        ticket.ids_.push_back(tasks[i]->id);
    }
    ScheduleRecord record = new_record(std::move(tasks), idempotency, digest, at);
    decltype(arriving_) arriving;  // the room for it comes first, see S6
    if (keyed) arriving.emplace(idempotency.key, Arriving{&record.answer.mapped(), nullptr});
    ticket.group_ = begin(std::move(record));
    for (auto& [key, one] : arriving) one.group = ticket.group_;
    arriving_.merge(arriving);
    ticket.store_ = this;
    return ticket;
}

inline ScheduleRecord Store::new_record(std::vector<TaskRef> tasks, const Idempotency& idempotency,
                                        const std::string& digest, TimePoint at) {
    ScheduleRecord record;
    if (tasks.front()->id.time() != at) record.at = at;
    record.tasks = std::move(tasks);
    if (idempotency.key.empty()) return record;
    Answer answer{digest, std::string(idempotency.timestamp), {}, at};
    for (const TaskRef& task : record.tasks) answer.ids.add(task->id);
    record.answer = make_answer(std::string(idempotency.key), std::move(answer));
    return record;
}

// The ticket of the first request that came with the same key: if that is still on its way,
// it is waited for, and fails with it.
inline std::optional<Ticket> Store::repeated(const Idempotency& idempotency,
                                             const std::string& digest) {
    const auto arriving = arriving_.find(idempotency.key);
    const bool arrives = arriving != arriving_.end();
    const Answer* const first =
        arrives ? arriving->second.answer : state_.keys().find(idempotency.key);
    if (!first) return std::nullopt;
    if (first->digest != digest) {
        throw Error(Errc::key_reused, "the Idempotency-Key was used with another request before");
    }
    Ticket ticket;
    ticket.ids_ = first->ids.all();
    ticket.timestamp_ = first->timestamp;
    ticket.repeats_ = true;
    if (!arrives) return ticket;
    ticket.group_ = arriving->second.group;
    ticket.store_ = this;  // last, as one that has it takes the lock when it goes
    return ticket;
}

inline void Store::check_open_locked() const {
    if (closed_) throw Error(Errc::stopped, "the scheduler is shutting down");
    if (!journal_->is_owner()) {
        throw Error(Errc::not_owner, "this node does not own the journal, so it changes nothing");
    }
}

// Due times are judged by the clock, so without one none is taken.
inline void Store::check_accepting_locked(TimePoint at) {
    check_open_locked();
    if (is_clock_trusted_locked(at)) return;
    throw Error(Errc::clock_untrusted, "the clock is behind the newest record of the journal, of " +
                                           format_time(state_.newest_stamp()) +
                                           "; tasks are refused until it has passed that");
}

inline void Store::check_limits_locked(std::size_t tasks, std::size_t bytes) {
    const bool fits = state_.bytes() + bytes + tasks * StoredTask::beside <= options_.max_bytes;
    if (state_.expected() + tasks <= options_.max_tasks && fits) {
        return check_room_locked(tasks, bytes);
    }
    stats_.refused += 1;
    if (!fits) throw bytes_limit();
    throw Error(Errc::task_limit,
                "the limit of " + std::to_string(options_.max_tasks) + " pending tasks is reached");
}

// A key is known for a day and may not be forgotten before, so keys leave room for what comes
// without one.
inline void Store::check_keys_locked() {
    if (state_.key_bytes() < options_.max_bytes / 2) return;
    stats_.refused += 1;
    throw Error(Errc::task_limit,
                "idempotency keys take " + std::to_string(state_.key_bytes()) + " of " +
                    std::to_string(options_.max_bytes) +
                    " bytes of memory, and half is for them: each is kept for 24 hours and while "
                    "its tasks are pending; send without a key, or raise --max-memory or "
                    "--max-bytes");
}

// What the disk has to have free for the journal to be replaced when so much more was stored, and
// for something to be gained by that.  The ends of tasks need their room in the new file too.
inline std::uint64_t Store::needed_room_locked(const JournalFigures& journal, std::size_t tasks,
                                               std::size_t bytes) const {
    const std::uint64_t copy = state_.record_bytes(tasks, bytes) +
                               (state_.expected() + tasks) * end_record_size + misjudged_room_;
    return copy + copy / 8 + 2 * reserve_step(journal.disk);
}

// What it takes for the disk not to be called full: room for another small task, and some more if
// there was none.
inline std::uint64_t Store::wanted_room_locked(const JournalFigures& journal, bool was_full) const {
    constexpr std::size_t small = 4'096;
    const std::uint64_t needed = needed_room_locked(journal, 1, small);
    return was_full ? needed + needed / 16 : needed;
}

// Refuses what could not be stored without taking the room that a replacement needs (J8).
inline void Store::check_room_locked(std::size_t tasks, std::size_t bytes) {
    JournalFigures journal = journal_->figures();
    const std::uint64_t needed = needed_room_locked(journal, tasks, bytes);
    if (journal.room >= needed) return;
    journal_->look_at_room();  // others may have made some
    journal = journal_->figures();
    if (journal.room >= needed) return;
    ++stats_.refused;
    // What it says for a full disk is what readiness does, which comes back a little later.
    const bool is_full = is_disk_full_locked(journal);
    const std::uint64_t wanted = is_full ? wanted_room_locked(journal, true) : needed;
    const std::string why = room_text(journal, std::max(needed, wanted));
    if (is_full) tell_of_room_locked(why.c_str());
    wake_tender_locked();
    throw Error(Errc::disk_full, "no space left for the journal " + options_.journal + ": " + why);
}

inline std::string Store::room_text(const JournalFigures& journal, std::uint64_t needed) {
    return std::to_string(needed) + " bytes must be free on its disk, and " +
           std::to_string(journal.room) + " are; cancel tasks, forget events or make room";
}

// Tells the log, once, that tasks are refused for want of room, and why, or, without a reason,
// that they are not any more.
inline void Store::tell_of_room_locked(const char* why) noexcept {
    const bool was_told = std::exchange(told_of_full_disk_, why != nullptr);
    if (was_told == told_of_full_disk_) return;
    if (why) {
        return notes_.add(LogLevel::error, "journal.disk_full", "the journal ",
                          named("journal", options_.journal),
                          " takes no more tasks: ", named("reason", why));
    }
    notes_.add(LogLevel::info, "journal.disk_freed", "the journal ",
               named("journal", options_.journal), " has room again; tasks are accepted");
}

inline constexpr const char* less_memory =
    "cancel tasks, forget events, or raise --max-memory or --max-bytes";

inline Error Store::bytes_limit() const {
    const std::size_t past = state_.history().memory() + state_.missed().memory();
    const std::size_t others = past + state_.key_bytes() + state_.letter_bytes();
    const std::size_t pending = state_.bytes() - std::min(state_.bytes(), others);
    return Error(Errc::task_limit, "the limit of " + std::to_string(options_.max_bytes) +
                                       " bytes of memory is reached: pending tasks take " +
                                       std::to_string(pending) + ", past ones " +
                                       std::to_string(past) + ", idempotency keys " +
                                       std::to_string(state_.key_bytes()) + " and dead letters " +
                                       std::to_string(state_.letter_bytes()) + "; " + less_memory);
}

inline void Store::tell_of_memory_locked() noexcept {
    notes_.add(LogLevel::warning, "memory.over_limit", "what the journal ",
               named("journal", options_.journal), " keeps takes ", named("bytes", state_.bytes()),
               " bytes of memory, more than the limit of ",
               named("limit", std::uint64_t{options_.max_bytes}),
               ": no task is accepted until it takes less; ", less_memory);
}

inline std::string text_of(TaskId id) {
    return id.str();
}
inline std::string text_of(std::string_view name) {
    return printable(name, 128);
}

// Whether a record that makes, changes or cancels the task is on its way.
inline bool is_held(const StoredTask* task) {
    return task->stage == Stage::held || task->stage == Stage::arriving;
}

// The task with this id or name that has not ended.  Throws if there is none, or if it was
// emitted.
template <class Key>
StoredTask* Store::find_open(Key key) {
    check_open_locked();
    StoredTask* const task = state_.find(key);
    if (!task || task->stage == Stage::missed) {
        throw Error(Errc::unknown_task, "there is no task " + text_of(key));
    }
    if (task->stage == Stage::emitting || task->stage == Stage::emitted) {
        throw Error(Errc::already_emitted, "task " + text_of(key) + " was already emitted");
    }
    return task;
}

template <class Key>
Ticket Store::begin_cancel(Key key) {
    const Notes::AtEnd told(notes_, options_.log);
    const Lock lock(mutex_);
    StoredTask* const task = find_open(key);
    if (is_held(task)) return ticket_again(task);
    CancelRecord record;
    record.at = now();
    record.ids.push_back(task->id);
    Task cancelled = task_of(task);
    Ticket ticket = ticket_for(begin(std::move(record)));
    task->seq = open_->number;
    ticket.task_ = std::move(cancelled);
    ticket.ends_ = true;
    ticket.count_ = 1;
    return ticket;
}

// A put that meets the emission of the task that its name means begins when that is shown, and
// the name is free.
inline Ticket Store::begin_put(TaskRef task, std::string_view timestamp, PutIf condition) {
    const Notes::AtEnd told(notes_, options_.log);
    const std::string name(task->details().name);
    std::string text(timestamp);
    std::vector<TaskId> ids(1);
    const Lock lock(mutex_);
    const TimePoint at = now();
    check_accepting_locked(at);
    StoredTask* const known = state_.find(std::string_view(name));
    if (known && is_held(known)) return ticket_again(known);
    Ticket ticket;
    if (known && known->stage == Stage::emitting) {
        ticket.store_ = this;
        ticket.again_ = true;
        ticket.emitting_ = known->id;
        return ticket;
    }
    if (condition == (known ? PutIf::absent : PutIf::present)) {
        throw Error(Errc::condition_failed,
                    known ? "there is a pending task " + name : "there is no pending task " + name);
    }
    if (known) {
        task->id = known->id;
        ids.front() = known->id;
        ticket = begin_change(known, std::move(task), at);
    } else {
        check_limits_locked(1, task->bytes());
        task->id = ids.front() = state_.ids().next(at);
        ticket = begin_named(std::move(task), at);
    }
    ticket.ids_ = std::move(ids);
    ticket.timestamp_ = std::move(text);
    return ticket;
}

inline Ticket Store::begin_named(TaskRef task, TimePoint at) {
    StoredTask* const begun = task.get();
    std::vector<TaskRef> tasks;
    tasks.push_back(std::move(task));
    Ticket ticket = ticket_for(begin(new_record(std::move(tasks), {}, {}, at)));
    begun->seq = open_->number;
    ticket.creates_ = true;
    return ticket;
}

// The new payload is made of the old one without the lock, as both may be large; another
// change that is stored meanwhile has it made again.
template <class Key>
Ticket Store::begin_change(Key key, std::optional<TimePoint> due, std::string_view timestamp,
                           std::string_view message) {
    const Notes::AtEnd told(notes_, options_.log);
    TaskRef known;  // kept, so that no other task is at its place meanwhile
    TaskRef next;
    for (;;) {
        Lock lock(mutex_);
        StoredTask* const task = find_open(key);
        if (is_held(task)) return ticket_again(task);
        const TimePoint at = now();
        check_accepting_locked(at);
        if (task == known.get()) return begin_change(task, std::move(next), at);
        known = TaskRef::share(task);
        lock.unlock();
        next = TaskRef::make(known->id, due.value_or(known->due),
                             changed_payload(known->text(), timestamp, message), known->details());
    }
}

inline Ticket Store::begin_change(StoredTask* task, TaskRef next, TimePoint at) {
    const std::size_t before = task->bytes();
    const std::size_t after = next->bytes();
    if (after > before && state_.bytes() - before + after > options_.max_bytes) {
        ++stats_.refused;
        throw bytes_limit();
    }
    check_room_locked(0, after - std::min(before, after));
    Task changed = task_of(next.get());
    ScheduleRecord record;
    record.at = at;
    record.tasks.push_back(std::move(next));
    Ticket ticket = ticket_for(begin(std::move(record)));
    task->seq = open_->number;
    ticket.task_ = std::move(changed);
    return ticket;
}

inline Ticket Store::begin_forget(const EventRange& range) {
    const Lock lock(mutex_);
    check_open_locked();
    if (forgetting_ && !forgetting_->settled) {
        Ticket ticket = ticket_for(forgetting_);
        ticket.again_ = true;
        return ticket;
    }
    const History& history = state_.history();
    ForgetRecord record;
    record.at = now();
    record.begin = range.begin.seq();
    // None that is emitted meanwhile, and none that a sink has not taken.
    record.end = std::min({range.end.seq(), history.next_seq(), state_.sinks().first_wanted()});
    Ticket ticket;
    if (record.begin >= record.end) return ticket;
    const std::size_t count = history.index_of(record.end) - history.index_of(record.begin);
    ticket = ticket_for(begin(std::move(record)));
    ticket.count_ = count;
    forgetting_ = ticket.group_;
    return ticket;
}

inline Ticket Store::begin_pause(std::string_view reason) {
    const Lock lock(mutex_);
    check_open_locked();
    PauseRecord record{now(), std::nullopt};
    if (!reason.empty()) record.reason = reason;
    return ticket_for(begin(std::move(record)));
}

inline Ticket Store::begin_resume() {
    const Lock lock(mutex_);
    check_open_locked();
    return ticket_for(begin(ResumeRecord{now()}));
}

// ---- 9.7 Bulk cancelling ---------------------------------------------------

// All tasks are held first, some at a time; then the record is stored, part by part (R4).
// One call at a time looks through the queue.
inline Ticket Store::begin_cancel(const DueRange& range, const Filter& filter) {
    const Notes::AtEnd told(notes_, options_.log);
    check_topics(filter.topics);
    auto bulk = std::make_shared<Bulk>();
    bulk->range = range;
    bulk->filter = filter;
    Lock lock(mutex_);
    settled_.wait(lock, [this] { return bulks_.empty() || bulks_.back()->marked; });
    check_open_locked();
    bulk->number = ++last_number_;
    bulk->last = last_stored_;
    bulk->before = group_on_its_way_locked();
    if (bulk->before) bulk->records = bulk->before->records.size();
    bulks_.push_back(bulk);
    try {
        mark(lock, *bulk);
    } catch (...) {
        bulk->error = std::current_exception();
        release_all(lock, *bulk);
        bulks_.remove(bulk);
        bulk->settled = true;
        settled_.notify_all();
        throw;
    }
    bulk->marked = true;
    settled_.notify_all();
    Ticket ticket;
    ticket.count_ = bulk->ids.size();
    ticket.store_ = this;
    ticket.bulk_ = std::move(bulk);
    return ticket;
}

inline void Store::mark(Lock& lock, Bulk& bulk) {
    DueKey from{bulk.range.after ? *bulk.range.after + milliseconds(1) : TimePoint::min(),
                TaskId()};
    Breath breathe(lock);
    while (mark_some(lock, bulk, from) > 0) {
        breathe();
        check_open_locked();
    }
}

// Holds some of the tasks from `from` on, which moves on; returns how many were looked at.
inline std::size_t Store::mark_some(Lock& lock, Bulk& bulk, DueKey& from) {
    std::array<StoredTask*, most_marked> found;
    std::size_t count = 0;
    std::size_t looked_at = 0;
    DueQueue::Walk walk(state_.queue(), from);
    for (; walk.task() && looked_at < most_marked; walk.next(), ++looked_at) {
        StoredTask* const task = walk.task();
        if (bulk.range.before && task->due >= *bulk.range.before) break;
        from = DueKey{task->due, task->id.plus(1)};
        if (task->stage == Stage::pending && !(bulk.last < task->id)) found[count++] = task;
    }
    if (!bulk.filter.is_open()) count = keep_chosen(lock, bulk.filter, found.data(), count);
    for (std::size_t i = 0; i < count; ++i) hold_for(bulk, found[i]);
    return looked_at;
}

// Keeps the tasks that a filter chooses, which is found out without the lock, and that are still
// pending then.  Returns how many these are.
inline std::size_t Store::keep_chosen(Lock& lock, const Filter& filter, StoredTask** tasks,
                                      std::size_t count) {
    std::array<TaskRef, most_marked> found;
    for (std::size_t i = 0; i < count; ++i) found[i] = TaskRef::share(tasks[i]);
    lock.unlock();
    for (std::size_t i = 0; i < count; ++i) {
        if (!chooses(filter, *found[i].get())) found[i] = TaskRef();
    }
    lock.lock();
    std::size_t kept = 0;
    for (std::size_t i = 0; i < count; ++i) {
        StoredTask* const task = found[i].get();
        if (!task || state_.find(task->id) != task || task->stage != Stage::pending) continue;
        tasks[kept++] = task;
    }
    return kept;
}

inline void Store::hold_for(Bulk& bulk, StoredTask* task) {
    bulk.ids.push_back(task->id);
    try {
        state_.hold(task);
    } catch (...) {
        bulk.ids.pop_back();
        throw;
    }
    task->seq = bulk.number;
}

// Gives a task that was on its way, and is pending again, to the first bulk call that came
// later and wants it.
template <class IsFor>
void Store::offer_locked(TaskId id, IsFor is_for) noexcept {
    StoredTask* const task = state_.find(id);
    if (!task || task->stage != Stage::pending) return;
    for (const std::shared_ptr<Bulk>& bulk : bulks_) {
        if (bulk->error || !is_for(*bulk)) continue;
        if (bulk->last < id || !bulk->is_for(task)) continue;
        try {
            return hold_for(*bulk, task);
        } catch (...) {  // all or nothing
            bulk->error = std::current_exception();
        }
    }
}

// Returns when the call is settled.  Calls are stored in their order, as a later one may get
// what an earlier one has to let go.
inline void Store::await(Lock& lock, const std::shared_ptr<Bulk>& bulk) {
    while (!bulk->settled) {
        const std::shared_ptr<Bulk> first = bulks_.front();
        if (storing_bulk_ || commits_paused_ || !first->marked) {
            settled_.wait(lock);
        } else {
            store_bulk(lock, *first);
        }
    }
}

inline void Store::store_bulk(Lock& lock, Bulk& bulk) {
    storing_bulk_ = true;
    bulk.replacements = replacements_;
    try {
        if (bulk.before) await(lock, bulk.before);
        if (bulk.error) std::rethrow_exception(bulk.error);
        write_parts(lock, bulk);
        cancel_all(lock, bulk);
    } catch (...) {
        bulk.fail(std::current_exception(), shared_notes_);
        bulk.written = 0;
        release_all(lock, bulk);
    }
    bulk.before = nullptr;
    bulks_.pop_front();
    bulk.settled = true;
    storing_bulk_ = false;
    settled_.notify_all();
    if (on_due_changed) on_due_changed();
    wake_tender_locked();
}

inline void Store::write_parts(Lock& lock, Bulk& bulk) {
    const TimePoint at = now();
    const std::uint64_t number = state_.new_bulk();
    const auto store = [&](const std::shared_ptr<Group>& group) {
        await(lock, group);
        const Fate& fate = group->ended;
        if (!fate.error) return;
        bulk.replacements = fate.replacements;
        std::rethrow_exception(fate.error);
    };
    if (bulk.ids.empty()) return;
    bulk.chunk.at = at;
    auto from = bulk.ids.begin();
    while (static_cast<std::size_t>(bulk.ids.end() - from) > Bulk::part_size) {
        const auto to = from + static_cast<std::ptrdiff_t>(Bulk::part_size);
        PartRecord part{at, number, {from, to}};
        store(begin(PartRecord(part)));
        if (is_shared_) state_.apply(part);  // for an end that is told, as nobody knew of it
        bulk.written += Bulk::part_size;
        from = to;
    }
    store(begin(CancelRecord{at, number, {from, bulk.ids.end()}}));
    state_.drop_parts();
    bulk.written = bulk.ids.size();
}

// What the cancel record says is done beside other commits, which would have to wait for long.
inline void Store::cancel_all(Lock& lock, Bulk& bulk) {
    bulk.count = bulk.ids.size();
    stats_.cancelled += bulk.count;
    Breath breathe(lock);
    while (!bulk.ids.empty()) {
        bulk.take_chunk();
        bulk.written -= bulk.chunk.ids.size();
        state_.apply(bulk.chunk);
        breathe();
    }
}

inline void Store::release_all(Lock& lock, Bulk& bulk) {
    Breath breath(lock);
    const State::Breathe breathe = std::ref(breath);
    const auto is_later = [&bulk](const Bulk& other) { return bulk.number < other.number; };
    while (!bulk.ids.empty()) {
        bulk.take_chunk();
        state_.undo(bulk.chunk);
        for (const TaskId id : bulk.chunk.ids) offer_locked(id, is_later);
        breathe();
    }
    if (on_due_changed) on_due_changed();
}

// ---- 9.8 Committing --------------------------------------------------------

// Returns when the group is settled: whoever comes first when none is being committed
// commits all that was added so far.
inline void Store::await(Lock& lock, const std::shared_ptr<Group>& group) {
    while (!group->settled) {
        if (committing_ || commits_paused_) {
            group->changed.wait(lock);
        } else {
            lead(lock);
        }
    }
}

inline void Store::commit(Lock& lock, const std::shared_ptr<Group>& group) {
    await(lock, group);
    if (group->error) throw_failure(lock, *group);
}

// What can fail under the lock comes first: begin() has made the next group already.
inline void Store::lead(Lock& lock) {
    if (!next_) next_ = std::make_shared<Group>();
    committing_ = std::move(open_);
    open_ = std::move(next_);
    next_ = nullptr;
    open_->number = ++last_number_;
    Group& group = *committing_;
    if (group.pauses) settled_.wait(lock, [this] { return !emitting_; });  // S7
    // A full disk must not stop a cancel: it takes the place that was kept for its task's end.
    const std::uint64_t pending = ends_to_come_locked() - group.ends;
    const std::uint64_t known = pending - state_.arriving();
    lock.unlock();
    std::exception_ptr error;
    try {
        try {
            write_behind();
        } catch (const std::exception&) {
            if (group.rests_on_behind) throw;
        }
        for (std::size_t i = group.written; keeps_ && i < group.records.size(); ++i) {
            group.records[i].visit([&group](const auto& one) { write(group.lines, one); });
        }
        if (!group.lines.empty()) journal_->commit(group.lines, pending);
    } catch (...) {
        error = std::current_exception();
    }
    std::exception_ptr end_error = error;
    if (error && group.ends > 0) end_error = store_ends(group, error, known);
    lock.lock();
    if (group.schedules || told_of_full_disk_) judge_disk_locked(group, error);
    if (error) group.fail(std::move(error), shared_notes_);
    if (end_error) group.ended.fail(std::move(end_error), shared_notes_);
    settle_group(lock, group);
    const std::shared_ptr<Group> settled = std::move(committing_);
    committing_ = nullptr;
    group.changed.notify_all();
    open_->changed.notify_one();  // the next group's leader
    settled_.notify_all();
    if (on_due_changed) on_due_changed();
    wake_tender_locked();
}

// Whether there is room shows when there is none, and when tasks are stored again.
inline void Store::judge_disk_locked(const Group& group, const std::exception_ptr& error) noexcept {
    if (!error) {
        if (group.schedules) refused_by_disk_ = false;
        if (told_of_full_disk_ && !is_disk_full_locked(journal_->figures())) {
            tell_of_room_locked(nullptr);
        }
        return;
    }
    try {
        std::rethrow_exception(error);
    } catch (const Error& failure) {
        if (failure.code() != Errc::disk_full) return;
        refused_by_disk_ = false;
        refused_by_disk_ = !is_disk_full_locked(journal_->figures());
        tell_of_room_locked(failure.what());
    } catch (...) {
    }
}

inline bool tells_of_full_disk(const std::exception_ptr& failure) {
    try {
        std::rethrow_exception(failure);
    } catch (const Error& error) {
        return error.code() == Errc::disk_full;
    } catch (...) {
        return false;
    }
}

// What of a group that has failed ends tasks is stored all the same if the disk is full: for
// that there is room (J7).  Returns why it could not be.
inline std::exception_ptr Store::store_ends(const Group& group, const std::exception_ptr& error,
                                            std::uint64_t pending) noexcept {
    const bool alone = std::all_of(group.records.begin(), group.records.end(), Group::is_end);
    if (alone || !tells_of_full_disk(error)) return error;
    try {
        std::string lines;
        for (const Record& record : group.records) {
            if (Group::is_end(record)) write(lines, record);
        }
        journal_->commit(lines, pending);
    } catch (...) {
        return std::current_exception();
    }
    return nullptr;
}

// The parts of a bulk call are nothing by themselves: store_bulk() sees to them.
inline void Store::settle_group(Lock& lock, Group& group) {
    if (group.error) ++stats_.journal_failures;
    group.replacements = group.ended.replacements = replacements_;
    Breath breath(lock);
    const State::Breathe breathe = std::ref(breath);
    for (std::size_t i = 0; i < group.records.size(); ++i) {
        if (i % 32 == 31) breathe();
        Record& record = group.records[i];
        TaskId first;
        TaskId last;
        if (auto* const scheduled = record.get_if<ScheduleRecord>()) {
            if (scheduled->answer) arriving_.erase(arriving_.find(scheduled->answer.key()));
            first = scheduled->tasks.front()->id;
            last = scheduled->tasks.back()->id;
        } else if (auto* const cancelled = record.get_if<CancelRecord>()) {
            if (cancelled->bulk) continue;
            first = cancelled->ids.front();
        } else if (record.is<PartRecord>()) {
            continue;
        }
        const bool failed = (Group::is_end(record) ? group.ended : group).error != nullptr;
        count_locked(record, failed);
        if (failed) {
            state_.undo(record, breathe);
        } else {
            const bool was_paused = state_.paused().has_value();
            state_.apply(record, breathe);
            last_stored_ = std::max(last_stored_, last);
            if (was_paused != state_.paused().has_value()) tell_of_pause_locked(was_paused);
        }
        if (bulks_.empty()) continue;
        offer_locked(first, [&group, i](const Bulk& bulk) { return bulk.is_later_than(group, i); });
    }
    group.settled = group.ended.settled = true;
    keep_room(group);
}

inline void Store::tell_of_pause_locked(bool was_paused) noexcept {
    if (was_paused) {
        return notes_.add(LogLevel::info, "scheduler.resumed", "resumed: tasks are emitted again");
    }
    const std::string& reason = state_.paused()->reason;
    notes_.add(LogLevel::warning, "scheduler.paused", "paused: nothing is emitted until resumed",
               reason.empty() ? "" : ": ", named("reason", reason));
}

// The room that a group took, unless it is large, serves the next one.
inline void Store::keep_room(Group& group) noexcept {
    group.records.clear();
    group.lines.clear();
    if (group.records.capacity() <= 256) spare_records_.swap(group.records);
    if (group.lines.capacity() <= 65'536) spare_lines_.swap(group.lines);
    group.records = std::vector<Record>();
    release_text(group.lines);
}

// Counts a record in the statistics.  This comes before the record is applied or undone, as the
// index tells until then whether its task is new.
inline void Store::count_locked(const Record& record, bool failed) {
    if (!failed && record.is<CancelRecord>()) ++stats_.cancelled;
    const auto* const scheduled = record.get_if<ScheduleRecord>();
    if (!scheduled || state_.find(scheduled->tasks.front()->id)) return;
    if (failed) {
        stats_.refused += scheduled->tasks.size();
        return;
    }
    stats_.scheduled += scheduled->tasks.size();
    for (const TaskRef& task : scheduled->tasks) stats_.payload_accepted += task->bytes();
}

// What was refused must leave no trace, and a file that cannot be written or synced may
// hold one: the refusal waits until replacing it was tried (J3), which takes an unknown outcome
// to a known one.  Each thread that waits gets an exception of its own.
inline void Store::throw_failure(Lock& lock, const Fate& fate) {
    const auto is_over = [this, &fate] {
        return closed_ || replacements_ != fate.replacements || !journal_->failed();
    };
    if (options_.drive == Drive::thread) {
        settled_.wait(lock, is_over);
    } else if (!is_over()) {
        replace(lock);
    }
    try {
        std::rethrow_exception(fate.error);
    } catch (const Error& error) {
        Errc code = error.code();
        const bool is_known = !is_shared_ && !journal_->failed();
        if (code == Errc::outcome_unknown && is_known) code = Errc::journal_failed;
        try {
            throw Error(code, error.what());
        } catch (const std::bad_alloc&) {
            if (code != Errc::outcome_unknown) throw;
        }
        throw;
    }
}

inline void Store::wait(Ticket& ticket) {
    const Notes::AtEnd told(notes_, options_.log);
    Lock lock(mutex_);
    if (ticket.emitting_ != TaskId()) {
        return settled_.wait(lock, [this, &ticket] {
            const StoredTask* const task = state_.find(ticket.emitting_);
            return !task || task->stage != Stage::emitting;
        });
    }
    if (ticket.bulk_) {
        await(lock, ticket.bulk_);
    } else {
        await(lock, ticket.group_);
    }
    const Fate& fate = ticket.fate();
    if (fate.error && !ticket.again_) throw_failure(lock, fate);
}

inline bool Store::try_store(const Ticket& ticket) {
    const Notes::AtEnd told(notes_, options_.log);
    if (ticket.bulk_ || ticket.again_ || journal_->commit_waits()) return false;
    Lock lock(mutex_);
    while (!ticket.group_->settled) {
        // A pause waits for the emission under way, which a slow disk may hold up.
        const auto takes_a_write = [](const Group& one) { return one.is_written() && !one.pauses; };
        const bool is_quick =
            takes_a_write(*ticket.group_) && (!committing_ || takes_a_write(*committing_));
        if (commits_paused_ || !is_quick) return false;
        if (committing_) {
            ticket.group_->changed.wait(lock);
        } else {
            lead(lock);
        }
    }
    return !ticket.fate().error;
}

inline void Store::abandon(const Ticket& ticket) noexcept {
    const std::lock_guard<std::mutex> guard(mutex_);
    Fate& fate = ticket.fate();
    fate.dropped = true;
    if (!fate.settled) return store_begun_locked();
    if (fate.error) fate.tell_failure();
}

// ---- 9.9 Emission ----------------------------------------------------------

inline bool Store::emit_due() {
    Lock lock(mutex_);
    const TimePoint at = now();
    watch_clock_locked(at);
    const bool trusted_before = clock_trusted_;
    if (!is_clock_trusted_locked(at)) return false;
    if (!journal_->is_owner()) {
        trim(lock, at);
        return false;
    }
    settled_.wait(lock, [this] { return !emissions_paused_; });
    const std::size_t most = is_paused_locked() ? 0 : batch;
    state_.begin_emission(at, options_.max_lateness, most, emitted_, missed_);
    if (emitted_.ids.empty() && missed_.ids.empty()) {
        const bool trimmed = trim(lock, at);
        return trimmed || !trusted_before;  // what waits by the clock looks again
    }
    emitting_ = true;
    const std::uint64_t pending = ends_to_come_locked();
    lock.unlock();
    const Ends ends = write_emission(pending);
    lock.lock();
    emitting_ = false;
    if (ends == Ends::fenced) {
        state_.release_emission(emitted_, missed_);
        settled_.notify_all();
        return false;
    }
    show_emission(at);
    settled_.notify_all();
    overflow(lock, at);
    wake_tender_locked();
    return true;
}

// What is due is emitted whether that can be written or not (L3), unless others follow (S8).
inline Ends Store::write_emission(std::uint64_t pending) noexcept {
    if (!keeps_) return Ends::written;
    Ends ends = is_shared_ ? Ends::fenced : Ends::unwritable;
    try {
        emission_lines_.clear();
        if (!emitted_.ids.empty()) write(emission_lines_, emitted_);
        if (!missed_.ids.empty()) write(emission_lines_, missed_);
        ends = journal_->write_ends(emission_lines_, pending);
    } catch (const std::bad_alloc&) {
    }
    if (!missed_.ids.empty() && ends != Ends::fenced) {
        notes_.add(LogLevel::warning, "tasks.missed", named("tasks", missed_.ids.size()),
                   " tasks were later than the largest lateness allowed; they are missed");
    }
    if (ends == Ends::unwritable) {
        notes_.add(LogLevel::error, "journal.unwritable",
                   "the journal cannot be written; tasks are emitted all the same");
    }
    return ends;
}

// The writing took its time; a clock that was stepped back meanwhile takes nothing back.  Where
// others read what was written, all show the time that it has.
inline void Store::show_emission(TimePoint begun) {
    if (!is_shared_) emitted_.at = missed_.at = std::max(begun, now());
    stats_.emitted += emitted_.ids.size();
    stats_.missed += missed_.ids.size();
    if (!emitted_.ids.empty()) state_.apply(emitted_);
    if (!missed_.ids.empty()) state_.apply(missed_);
}

// The two clocks go alike, but for what somebody sets the one by, or the time in which the machine
// sleeps.  A clock of the options is moved by its owner, and only a step back is worth a mark.
inline void Store::watch_clock_locked(TimePoint at) noexcept {
    constexpr std::chrono::seconds least{1};
    const auto steady = std::chrono::steady_clock::now();
    milliseconds by = at - seen_at_;
    if (!options_.now) by -= std::chrono::duration_cast<milliseconds>(steady - seen_steady_);
    seen_at_ = at;
    seen_steady_ = steady;
    if (by < -least || (by > least && !options_.now)) {
        state_.lateness().mark({Mark::Kind::clock_step, at, by});
        ++clock_steps_;
        notes_.add(LogLevel::warning, "clock.stepped", "the clock was set ",
                   by < milliseconds(0) ? "back by " : "forward by ",
                   named("ms", std::abs(by.count())), " ms");
    }
}

// A clock that has once been behind the journal is trusted when it has caught up.
inline bool Store::is_clock_trusted_locked(TimePoint at) {
    if (!clock_trusted_ && at >= state_.newest_stamp()) {
        clock_trusted_ = true;
        notes_.add(LogLevel::info, "clock.trusted",
                   "the clock has caught up with the journal; tasks are emitted again");
    }
    return clock_trusted_;
}

inline std::optional<TimePoint> Store::next_emission_locked() const {
    return is_paused_locked() ? std::nullopt : state_.next_due();
}

// A task whose change is on its way is not waited for: when that has ended,
// on_due_changed tells.
inline std::optional<TimePoint> Store::next_wake_locked() const {
    if (!clock_trusted_) return state_.newest_stamp();
    const bool owns = journal_->is_owner();
    const std::optional<TimePoint> due = owns ? next_emission_locked() : std::nullopt;
    const std::optional<TimePoint> trim = state_.next_trim(owns);
    if (!due || !trim) return due ? due : trim;
    return std::min(*due, *trim);
}

// Drops what need not be kept any longer, and has sinks give up what cannot be.  Returns whether
// the former was anything.
inline bool Store::trim(Lock& lock, TimePoint at) {
    Breath breath(lock);
    const bool any = state_.trim(at, std::ref(breath));
    overflow(lock, at);
    wake_tender_locked();  // it hands over what was said
    if (on_due_changed) on_due_changed();
    return any;
}

inline void Store::overflow(Lock& lock, TimePoint at) {
    if (!journal_->is_owner()) return;
    while (auto record = state_.next_overflow(at)) {
        const SinkBook::Sink& sink = *state_.sinks().find(record->sink);
        const std::uint64_t before = sink.seq;
        if (!sink.overflowing) {
            notes_.add(LogLevel::warning, "sink.overflowing", "sink ", named("sink", record->sink),
                       " is too far behind; its oldest events become dead letters");
        }
        state_.apply(*record);
        tell_of_locked(record->sink);
        if (record->seq == before) return;  // there is no memory for a letter
        try {
            if (behind_size_ <= 2 * most_behind) write_behind_locked(*record);
        } catch (const std::bad_alloc&) {  // it is given up again after a restart
        }
        Breath breath(lock);
        state_.trim(at, std::ref(breath));
    }
    write_behind(lock);
}

// ---- 9.10 Reading ----------------------------------------------------------

template <class Key>
std::optional<Task> Store::find(Key key) const {
    const std::lock_guard<std::mutex> guard(mutex_);
    StoredTask* const task = state_.find(key);
    if (!task || task->stage == Stage::arriving) return std::nullopt;
    return task_of(task);
}

template <class Key>
std::optional<TaskStory> Store::story(Key key) const {
    const std::lock_guard<std::mutex> guard(mutex_);
    StoredTask* const task = state_.find(key);
    if (!task || task->stage == Stage::arriving) return std::nullopt;
    TaskStory story{task_of(task), task->id.time(), {}};
    if (task->stage != Stage::emitted) return story;
    for (const auto& [name, sink] : state_.sinks().all()) {
        if (!sink.wants(*task)) continue;
        SinkShare& share = story.sinks.emplace_back();
        share.sink = name;
        const auto letter = sink.letters.find(task->seq);
        if (letter != sink.letters.end()) {
            share.state = SinkShare::State::dead;
            share.attempts = letter->second.attempts;
            share.error = letter->second.error;
        } else if (task->seq >= sink.seq) {
            share.state = SinkShare::State::waiting;
            if (state_.history().index_of(sink.seq) != state_.history().index_of(task->seq))
                continue;
            share.attempts = sink.attempts;
            if (sink.attempts > 0) share.error = sink.last_error;
            if (sink.next != TimePoint()) share.next_attempt = sink.next;
        }
    }
    return story;
}

// Goes over the pending tasks that are due in a range, behind a place in it.  It takes some at a
// time under the lock, and gives them out without it: so a filter may take long, and what
// happens meanwhile happens to the tasks, and not to what is given out.
class Store::TaskScan {
public:
    TaskScan(const Store& store, const DueRange& range, const std::optional<TaskCursor>& after,
             std::size_t slice)
        : store_(store), range_(range), slice_(slice) {
        if (range.after) from_.due = *range.after + milliseconds(1);
        if (after) pass({after->due, after->id});
        tasks_.reserve(slice);
    }
    // The next task, or none at the end.
    TaskRef next() {
        if (at_ == tasks_.size() && !is_last_) take_some();
        return at_ == tasks_.size() ? TaskRef() : std::move(tasks_[at_++]);
    }

private:
    void pass(const DueKey& key) {
        if (key < from_) return;
        from_ = key;
        passed_ = true;
    }
    void take_some() {
        tasks_.clear();
        at_ = 0;
        const std::lock_guard<std::mutex> guard(store_.mutex_);
        is_last_ = true;
        store_.state_.walk(from_, [this](StoredTask* task) {
            if (range_.before && task->due >= *range_.before) return false;
            if (passed_ && !(from_ < key_of(task))) return true;
            is_last_ = tasks_.size() < slice_;
            if (is_last_) tasks_.push_back(TaskRef::share(task));
            return is_last_;
        });
        if (!tasks_.empty()) pass(key_of(tasks_.back().get()));
    }

    const Store& store_;
    const DueRange range_;
    const std::size_t slice_;
    DueKey from_{TimePoint::min(), TaskId()};
    bool passed_ = false;  // the task at from_ itself, if there is one
    bool is_last_ = false;
    std::vector<TaskRef> tasks_;
    std::size_t at_ = 0;  // of the next one to give out
};

inline TaskPage Store::tasks(const TaskQuery& query) const {
    check_topics(query.filter.topics);
    if (query.status == Status::missed) return missed_tasks(query);
    TaskPage page;
    if (query.counts) page.matching = count_tasks(query.due, query.filter);
    {
        const std::lock_guard<std::mutex> guard(mutex_);
        page.total = state_.pending();
    }
    const bool searches = !query.filter.is_open();
    TaskScan scan(*this, query.due, query.after,
                  searches ? batch : std::min(query.limit, batch - 1) + 1);
    std::size_t bytes = 0;
    page.next = query.after;
    for (std::size_t searched = 0;; ++searched) {
        TaskRef task = scan.next();
        page.more = static_cast<bool>(task);
        if (!task || (searches && searched == max_searched)) break;
        const TaskCursor place{task->due, task->id};
        if (!searches || chooses(query.filter, *task.get())) {
            if (page.tasks.size() == query.limit || bytes >= query.max_bytes) break;
            bytes += task->bytes();
            page.tasks.push_back(pending_task_of(std::move(task)));
        }
        page.next = place;
    }
    if (!page.more) page.next = std::nullopt;
    return page;
}

inline std::optional<std::size_t> Store::count_tasks(const DueRange& range,
                                                     const Filter& filter) const {
    {
        const std::lock_guard<std::mutex> guard(mutex_);
        const std::size_t all = state_.count(range);
        if (filter.is_open()) return all;
        if (all > max_searched) return std::nullopt;
    }
    std::size_t count = 0;
    TaskScan scan(*this, range, std::nullopt, batch);
    while (const TaskRef task = scan.next()) {
        if (chooses(filter, *task.get())) ++count;
    }
    return count;
}

inline Histogram Store::histogram(const DueRange& range, std::size_t buckets) const {
    if (buckets < 1 || buckets > Histogram::max_buckets) {
        throw Error(
            Errc::invalid_argument,
            "a histogram has from 1 to " + std::to_string(Histogram::max_buckets) + " buckets");
    }
    if (range.after && range.before && !(*range.after < *range.before)) {
        throw Error(Errc::invalid_argument, "a histogram must begin before it ends");
    }
    const std::lock_guard<std::mutex> guard(mutex_);
    return state_.histogram(range, buckets, now());
}

// Goes over what has ended from a cursor on, or backwards from the event before it, as a
// TaskScan does over tasks.
class Store::EventScan {
public:
    EventScan(const Store& store, const History& past, Cursor from, bool backwards)
        : store_(store), past_(past), seq_(from.seq()), backwards_(backwards) {
        events_.reserve(batch);
    }
    TaskRef next() {
        if (at_ == events_.size()) take_some();
        return at_ == events_.size() ? TaskRef() : std::move(events_[at_++]);
    }

private:
    void take_some() {
        events_.clear();
        at_ = 0;
        const std::lock_guard<std::mutex> guard(store_.mutex_);
        std::size_t index = past_.index_of(seq_);
        while (events_.size() < batch && (backwards_ ? index > 0 : index < past_.size())) {
            events_.push_back(TaskRef::share(past_.at(backwards_ ? --index : index++)));
        }
        if (!events_.empty()) seq_ = events_.back()->seq + (backwards_ ? 0 : 1);
    }

    const Store& store_;
    const History& past_;
    std::uint64_t seq_;  // of the next one, or behind it if this goes backwards
    const bool backwards_;
    std::vector<TaskRef> events_;
    std::size_t at_ = 0;  // of the next one to give out
};

// The oldest missed tasks are the first to be trimmed, so that all follow one that is gone.
inline TaskPage Store::missed_tasks(const TaskQuery& query) const {
    TaskPage page;
    Cursor from;
    {
        const std::lock_guard<std::mutex> guard(mutex_);
        page.total = state_.missed().size();
        const StoredTask* const after = query.after ? state_.find(query.after->id) : nullptr;
        if (after && after->stage == Stage::missed) from = Cursor(after->seq + 1);
    }
    const auto is_chosen = [&query](const StoredTask& task) {
        return (!query.due.after || task.due > *query.due.after) &&
               (!query.due.before || task.due < *query.due.before) && chooses(query.filter, task);
    };
    if (query.counts && page.total <= max_searched) {
        EventScan all(*this, state_.missed(), Cursor::earliest(), false);
        page.matching = 0;
        while (const TaskRef task = all.next()) *page.matching += is_chosen(*task.get()) ? 1 : 0;
    }
    EventScan scan(*this, state_.missed(), from, false);
    std::size_t bytes = 0;
    for (std::size_t searched = 0;; ++searched) {
        const TaskRef task = scan.next();
        page.more = static_cast<bool>(task);
        if (!task || searched == max_searched) break;
        if (is_chosen(*task.get())) {
            if (page.tasks.size() == query.limit || bytes >= query.max_bytes) break;
            bytes += task->bytes();
            page.tasks.push_back(task_of(task.get()));
        }
        page.next = TaskCursor{task->due, task->id};
    }
    if (!page.more) page.next = std::nullopt;
    return page;
}

inline EventPage Store::events(const EventQuery& query) const {
    check_topics(query.filter.topics);
    EventPage page = query.filter.is_open() ? all_events(query) : search_events(query);
    if (query.counts) page.matching = count_events(query.filter);
    return page;
}

// The page grows forwards or backwards, until no more is to be looked at.
inline EventPage Store::search_events(const EventQuery& query) const {
    EventPage page;
    std::uint64_t newest = 0;
    {
        const std::lock_guard<std::mutex> guard(mutex_);
        const History& past = state_.history();
        page.total = past.size();
        page.lost = !query.before && query.from.seq() < past.first_seq();
        page.next = query.before ? Cursor(std::min(query.before->seq(), past.next_seq()))
                                 : std::max(query.from, Cursor(past.first_seq()));
        newest = past.next_seq();
    }
    const bool backwards = query.before.has_value();
    EventScan scan(*this, state_.history(), page.next, backwards);
    std::size_t bytes = 0;
    for (std::size_t searched = 0; searched < max_searched; ++searched) {
        const TaskRef event = scan.next();
        if (!event) break;
        if (chooses(query.filter, *event.get())) {
            if (page.events.size() == query.limit || bytes >= query.max_bytes) break;
            bytes += event->bytes();
            page.events.push_back(event_of(event.get()));
        }
        if (!page.first || backwards) page.first = event->id;
        if (!page.last || !backwards) page.last = event->id;
        if (!backwards) page.next = Cursor(event->seq + 1);
    }
    if (backwards) std::reverse(page.events.begin(), page.events.end());
    page.more = page.next.seq() < newest;
    return page;
}

inline std::optional<std::size_t> Store::count_events(const Filter& filter) const {
    {
        const std::lock_guard<std::mutex> guard(mutex_);
        const std::size_t all = state_.history().size();
        if (filter.is_open()) return all;
        if (all > max_searched) return std::nullopt;
    }
    std::size_t count = 0;
    EventScan scan(*this, state_.history(), Cursor::earliest(), false);
    while (const TaskRef event = scan.next()) {
        if (chooses(filter, *event.get())) ++count;
    }
    return count;
}

inline EventPage Store::all_events(const EventQuery& query) const {
    const std::lock_guard<std::mutex> guard(mutex_);
    const History& past = state_.history();
    // The page grows from where the query says, forwards or backwards: it is what lies from
    // index `first` to before index `last`.
    std::size_t first = past.index_of(query.before ? query.before->seq() : query.from.seq());
    std::size_t last = first;
    std::size_t bytes = 0;
    const auto has_room = [&](std::size_t next) {
        if (last - first == query.limit || bytes >= query.max_bytes) return false;
        bytes += past.at(next)->bytes();
        return true;
    };
    if (query.before) {
        while (first > 0 && has_room(first - 1)) --first;
    } else {
        while (last < past.size() && has_room(last)) ++last;
    }
    EventPage page;
    page.total = past.size();
    page.more = last < past.size();
    page.lost = !query.before && query.from.seq() < past.first_seq();
    page.events.reserve(last - first);
    for (std::size_t i = first; i < last; ++i) page.events.push_back(event_of(past.at(i)));
    if (first < last) page.first = page.events.front().id;
    if (first < last) page.last = page.events.back().id;
    page.next = Cursor(first == last ? past.next_seq() : past.at(last - 1)->seq + 1);
    return page;
}

inline std::optional<Pause> Store::paused() const {
    const std::lock_guard<std::mutex> guard(mutex_);
    return state_.paused();
}

inline bool Store::is_to_come(TaskId event) const {
    const std::lock_guard<std::mutex> guard(mutex_);
    const StoredTask* const task = state_.find(event);
    // Others may show what the owner has written before it does so itself.
    if (journal_->is_owner()) return task && task->stage == Stage::emitting;
    return task ? !is_ended(task->stage) : state_.ids().last() < event;
}

inline std::optional<Cursor> Store::cursor_of(TaskId event) const {
    const std::lock_guard<std::mutex> guard(mutex_);
    const StoredTask* const task = state_.find(event);
    if (!task || task->stage != Stage::emitted) return std::nullopt;
    return Cursor(task->seq);
}

inline std::optional<TaskId> Store::event_before(Cursor cursor) const {
    const std::lock_guard<std::mutex> guard(mutex_);
    const std::size_t index = state_.history().index_of(cursor.seq());
    if (index == 0) return std::nullopt;
    return state_.history().at(index - 1)->id;
}

inline Cursor Store::oldest() const {
    const std::lock_guard<std::mutex> guard(mutex_);
    return Cursor(state_.history().first_seq());
}

inline Cursor Store::newest() const {
    const std::lock_guard<std::mutex> guard(mutex_);
    return newest_locked();
}

inline Stats Store::stats() const {
    journal_->look_at_room();
    const std::lock_guard<std::mutex> guard(mutex_);
    return stats_locked();
}

inline Stats Store::stats_locked() const {
    const JournalFigures journal = journal_->figures();
    Stats stats = stats_;
    stats.pending = state_.pending();
    stats.retained = state_.history().size();
    stats.bytes = state_.bytes();
    stats.late = state_.late() - late_before_;
    stats.clock_trusted = clock_trusted_;
    stats.paused = state_.paused().has_value();
    stats.overdue = state_.overdue(now());
    stats.stopped = closed_;
    stats.damaged_lines = journal.damaged_lines;
    stats.torn_bytes = journal.torn_bytes;
    stats.journal_syncs = journal.syncs;
    stats.journal_rewrites = journal.replacements;
    stats.journal_failed = journal.failed;
    stats.disk_full = is_disk_full_locked(journal);
    if (~journal.room != 0) stats.journal_room = journal.room;
    stats.journal_needs = wanted_room_locked(journal, told_of_full_disk_);
    stats.journal_bytes = journal.bytes;
    stats.journal_written = journal.written;
    return stats;
}

inline Overview Store::overview() const {
    journal_->look_at_room();
    const std::lock_guard<std::mutex> guard(mutex_);
    Overview overview;
    overview.now = now();
    overview.stats = stats_locked();
    overview.started_at = started_at_;
    overview.uptime =
        std::chrono::duration_cast<milliseconds>(std::chrono::steady_clock::now() - made_at_);
    overview.next_due = state_.next_due();
    overview.overdue = DueQueue::Counter(state_.queue()).before(overview.now + milliseconds(1));
    overview.missed = state_.missed().size();
    overview.paused = state_.paused();
    overview.lateness = state_.lateness().minutes();
    overview.marks = state_.lateness().marks();
    overview.late = state_.lateness().all();
    overview.syncs = journal_->sync_durations();
    overview.clock_steps = clock_steps_;
    overview.key_bytes = state_.key_bytes();
    overview.letter_bytes = state_.letter_bytes();
    return overview;
}

// ---- 9.11 Sinks ------------------------------------------------------------

inline const SinkBook::Sink& Store::sink_locked(const std::string& name) const {
    if (const SinkBook::Sink* const sink = state_.sinks().find(name)) return *sink;
    throw Error(Errc::unknown_sink, "there is no sink " + printable(name, 64));
}

// Stores a change, and returns when that is done.
template <class One>
void Store::change_sink(Lock& lock, One one) {
    check_open_locked();
    const std::string name = one.sink;
    commit(lock, begin(std::move(one)));
    tell_of_locked(name);
}

// For a change that may happen again after a crash: it counts at once, and is written
// without the lock.  What cannot be written waits in memory until it can; when that is much,
// no such change is taken.
template <class One>
void Store::change_behind(Lock& lock, One one) {
    const TimePoint at = one.at;
    if (behind_size_ > most_behind) {
        lock.unlock();
        write_behind();
        lock.lock();
    }
    write_behind_locked(one);
    state_.apply(one);
    trim(lock, at);
    wake_tender_locked();
}

template <class One>
void Store::write_behind_locked(const One& one) {
    if (!keeps_) return;
    const std::size_t start = behind_.size();
    try {
        write(behind_, one);
    } catch (...) {
        behind_.resize(start);  // no half of a record
        throw;
    }
    behind_size_ += behind_.size() - start;
}

inline std::vector<Record> records_of(std::string_view lines) {
    std::vector<Record> records;
    while (!lines.empty()) {
        const std::size_t end = std::min(lines.find('\n'), lines.size());
        if (end > 0) records.push_back(read_record(lines.substr(0, end)));
        lines.remove_prefix(std::min(end + 1, lines.size()));
    }
    return records;
}

// Writes what waits for that, in the order in which it was done.  Throws what the journal
// does; then all of it waits on.  Writing it twice, as after a replacement that has it
// already, does no harm.
inline void Store::write_behind() {
    const std::lock_guard<std::mutex> in_order(behind_mutex_);
    std::uint64_t pending = 0;
    {
        const std::lock_guard<std::mutex> guard(mutex_);
        if (behind_size_ == 0) return;
        unwritten_is_old_ = std::exchange(behind_is_old_, false) || unwritten_is_old_;
        if (unwritten_.empty()) {
            unwritten_.swap(behind_);
        } else {
            unwritten_ += behind_;
            behind_.clear();
        }
        pending = ends_to_come_locked();
    }
    journal_->write(unwritten_, pending);
    const std::lock_guard<std::mutex> guard(mutex_);
    // It is stored behind what others have stored, and comes to the same here as there.
    if (unwritten_is_old_) {
        for (Record& record : records_of(unwritten_)) state_.follow(record);
    }
    unwritten_is_old_ = false;
    behind_size_ -= unwritten_.size();
    told_of_behind_ = false;
    release_text(unwritten_);
}

// Nobody waits for it, so that a failure is told once.  One that is not the owner any more keeps
// it until it is: what it delivers then rests on that.
inline void Store::write_behind(Lock& lock) noexcept {
    if (behind_size_ == 0 || !journal_->is_owner()) return;
    lock.unlock();
    try {
        write_behind();
        lock.lock();
    } catch (const std::exception& error) {
        lock.lock();
        if (std::exchange(told_of_behind_, true)) return;
        notes_.add(LogLevel::error, "sinks.unwritten",
                   "what sinks have taken cannot be written and is kept in memory: ", error.what());
    }
}

// Says once of a sink that its oldest dead letters are dropped.
inline void Store::tell_of_locked(const std::string& name) {
    SinkBook::Sink* const sink = state_.sinks().find(name);
    if (!sink || sink->dropped == 0 || std::exchange(sink->told_dropped, true)) return;
    const std::size_t most = options_.max_dead;
    if (sink->letters.size() >= most) {
        notes_.add(LogLevel::warning, "sink.dropping", "sink ", named("sink", name),
                   " has more than ", named("most", most), " dead letters; the oldest are dropped");
    } else {
        notes_.add(LogLevel::warning, "sink.dropping", "dead letters take more than ",
                   named("bytes", state_.sinks().max_bytes()), " bytes; the oldest of sink ",
                   named("sink", name), " are dropped");
    }
}

// Only the owner can store what that comes to; another one does when it becomes the owner.
inline void Store::open_sinks(const std::vector<SinkSetup>& setups, Cursor newest,
                              Unlisted others) {
    const Notes::AtEnd told(notes_, options_.log);
    Listing listing{setups, newest, others};
    Lock lock(mutex_);
    const bool waits = is_shared_ && !journal_->is_owner();
    if (!waits) list_sinks(lock, listing);
    listing_ = std::move(listing);
    awaits_listing_ = waits;
    set_kinds_locked();
}

inline void Store::list_sinks(Lock& lock, const Listing& listing) {
    const TimePoint at = now();
    std::set<std::string> unlisted;
    for (const auto& [name, sink] : state_.sinks().all()) unlisted.insert(name);
    for (const SinkSetup& setup : listing.setups) {
        if (state_.sinks().find(setup.name)) set_topics(lock, setup, at);
    }
    for (const SinkSetup& setup : listing.setups) {
        if (unlisted.erase(setup.name) > 0) continue;
        // What may go, goes first: read back, it would be gone.
        Breath breath(lock);
        state_.trim(at, std::ref(breath));
        SinkRecord record;
        record.sink = setup.name;
        record.at = at;
        // Not with an event that is gone: read back, that may still be there.
        const std::uint64_t oldest = state_.history().first_seq();
        record.seq = setup.from_earliest ? oldest : std::max(listing.newest.seq(), oldest);
        record.state = SinkState::active;
        if (!setup.topics.empty()) record.topics = setup.topics;
        change_sink(lock, std::move(record));
    }
    for (const std::string& name : unlisted) unlist(lock, name, listing.others, at);
    trim(lock, at);
}

// Of a process that has become the owner; one that is not any more tries it again when it is.
inline void Store::list_awaited_sinks(Lock& lock) noexcept {
    try {
        awaits_listing_ = false;
        list_sinks(lock, Listing(*listing_));
        set_kinds_locked();
    } catch (const std::exception& error) {
        if (!lock.owns_lock()) lock.lock();
        awaits_listing_ = true;
        if (journal_->is_owner()) notes_.add(LogLevel::error, "sinks.failed", error.what());
    }
    lock.unlock();
    if (on_followed) on_followed();
    lock.lock();
}

inline void Store::set_kinds_locked() {
    if (!listing_) return;
    for (const SinkSetup& setup : listing_->setups) {
        SinkBook::Sink* const sink = state_.sinks().find(setup.name);
        if (!sink) continue;
        sink->kind = setup.kind;
        sink->target = setup.target;
        sink->listing = SinkBook::Listing::listed;
    }
}

// What other topics have not chosen so far stays taken.
inline void Store::set_topics(Lock& lock, const SinkSetup& setup, TimePoint at) {
    while (pass(lock, setup.name)) {
    }
    if (sink_locked(setup.name).topics == setup.topics) return;
    SinkRecord record;
    record.sink = setup.name;
    record.at = at;
    record.topics = setup.topics;
    change_sink(lock, std::move(record));
}

inline void Store::unlist(Lock& lock, const std::string& name, Unlisted others, TimePoint at) {
    SinkBook::Sink* const sink = state_.sinks().find(name);
    if (!sink) return;  // it was forgotten meanwhile
    const bool keep = others == Unlisted::keep;
    if (keep && sink->listing == SinkBook::Listing::unlisted) return;
    notes_.add(LogLevel::warning, "sink.unlisted", "sink ", named("sink", name),
               " is not configured: its cursor and ", named("dead", sink->letters.size()),
               " dead letters are ",
               keep ? "kept until it is configured again or forgotten" : "forgotten");
    if (keep) {
        sink->listing = SinkBook::Listing::unlisted;
    } else {
        change_sink(lock, DropRecord{name, at});
    }
}

inline void Store::close_sinks() {
    const Notes::AtEnd told(notes_, options_.log);
    const std::lock_guard<std::mutex> guard(mutex_);
    listing_.reset();
    awaits_listing_ = false;
    state_.sinks().close();
}

inline void Store::forget_sink(const std::string& name) {
    const Notes::AtEnd told(notes_, options_.log);
    Lock lock(mutex_);
    if (sink_locked(name).listing == SinkBook::Listing::listed) {
        throw Error(Errc::sink_listed, "sink " + name +
                                           " is configured, so it cannot be forgotten: start "
                                           "without it first");
    }
    const TimePoint at = now();
    change_sink(lock, DropRecord{name, at});
    trim(lock, at);
}

// Has a sink pass over the next events, as far as its topics do not choose them: they count as
// taken.  Passing them again after a crash does no harm, so that is written only once for many
// events or for a while.  False: the sink has come to one that it wants, or to the end.
inline bool Store::pass(Lock& lock, const std::string& name) {
    constexpr std::size_t most = 1'000;
    constexpr std::chrono::minutes longest{1};
    const SinkBook::Sink* sink = &sink_locked(name);
    if (sink->topics.empty()) return false;
    const History& past = state_.history();
    const std::size_t first = past.index_of(sink->seq);
    std::size_t next = first;
    while (next < past.size() && next - first < most && !sink->wants(*past.at(next))) ++next;
    if (next == first) return false;
    const TimePoint at = now();
    DeliverRecord record{name, at, past.at(next - 1)->seq + 1, {}, past.at(first)->seq};
    const std::size_t passed = sink->passed + next - first;
    const bool writes = passed >= most || at - sink->passed_at >= longest || at < sink->passed_at;
    if (writes) {
        change_behind(lock, std::move(record));
    } else {
        state_.apply(record);
        trim(lock, at);
    }
    if (SinkBook::Sink* const moved = state_.sinks().find(name)) {
        moved->passed = writes ? 0 : passed;
        if (writes) moved->passed_at = at;
    }
    return next - first == most;
}

// How many events an attempt is of: all at first and one at the last, so that an event that
// cannot be taken does not spoil the others of its batch, and in equal steps between.
inline std::size_t batch_size(std::size_t most, std::uint32_t failed, std::size_t retries) {
    std::size_t halvings = 0;
    while (most >> halvings > 1) ++halvings;
    const std::size_t steps = std::max<std::size_t>(retries, 1);
    const std::size_t done = (std::min<std::size_t>(failed, steps) * halvings + steps - 1) / steps;
    return most >> done;
}

// Letters that are to be delivered again go first, and do not wait for the event
// that is being tried.
inline std::optional<Delivery> Store::next_delivery(const std::string& name, std::size_t most,
                                                    std::size_t retries) {
    Lock lock(mutex_);
    if (!is_delivering_locked()) return std::nullopt;
    while (pass(lock, name)) {
    }
    const SinkBook::Sink& sink = sink_locked(name);
    if (sink.state != SinkState::active || sink.listing == SinkBook::Listing::unlisted) {
        return std::nullopt;
    }
    Delivery delivery;
    delivery.sink = name;
    if (const Letter* const letter = sink.letter_again()) {
        delivery.event = event_of(letter->event.get());
        delivery.attempt = letter->attempts + 1;
        delivery.again = true;
        return delivery;
    }
    const std::size_t index = state_.history().index_of(sink.seq);
    if (index == state_.history().size()) return std::nullopt;
    delivery.event = event_of(state_.history().at(index));
    delivery.attempt = sink.attempts + 1;
    if (sink.next != TimePoint()) {
        delivery.wait = std::max(sink.next - now(), milliseconds(0));
    }
    most = batch_size(most, sink.attempts, retries);
    std::size_t bytes = delivery.event.text().size();
    for (std::size_t i = index + 1; i < state_.history().size() && i - index < most; ++i) {
        if (!sink.wants(*state_.history().at(i))) continue;
        Event event = event_of(state_.history().at(i));
        bytes += event.text().size();
        if (bytes > std::min<std::uint64_t>(most_batch_bytes, options_.max_bytes / 64)) break;
        delivery.more.push_back(std::move(event));
    }
    return delivery;
}

inline void Store::settle(const Delivery& delivery, const Outcome& outcome) {
    const Notes::AtEnd told(notes_, options_.log);
    using Result = Outcome::Result;
    const Event& event = delivery.event;
    const std::uint64_t seq = event.seq;
    const TimePoint at = now();
    const auto count = [&](std::uint64_t SinkBook::Sink::*counter, std::size_t by = 1) {
        if (SinkBook::Sink* const sink = state_.sinks().find(delivery.sink)) sink->*counter += by;
    };
    if (!is_delivering()) return;  // the owner delivers it again
    if (outcome.result == Result::delivered) {
        DeliverRecord record{delivery.sink, at, std::nullopt, {}};
        if (delivery.again) {
            record.dead.push_back(seq);
        } else {
            record.seq = (delivery.more.empty() ? event : delivery.more.back()).seq + 1;
            if (!delivery.more.empty()) record.from = seq;
        }
        Lock lock(mutex_);
        change_behind(lock, std::move(record));
        return count(&SinkBook::Sink::delivered, 1 + delivery.more.size());
    }
    if (outcome.result == Result::postponed) {
        const std::lock_guard<std::mutex> guard(mutex_);
        return count(&SinkBook::Sink::postponed);
    }
    const std::string error = printable(outcome.error, 200);
    Lock lock(mutex_);
    if (outcome.result == Result::disabled) {
        SinkRecord record{delivery.sink, at, {}, SinkState::disabled, {}, {}, error};
        change_sink(lock, std::move(record));
    } else if (outcome.wait && !delivery.again) {
        const TimePoint next = at + *outcome.wait + milliseconds(1);  // as `at` was cut
        change_behind(lock, SinkRecord{delivery.sink, at, seq, {}, delivery.attempt, next, error});
        return count(&SinkBook::Sink::failed);
    } else {
        bury(lock, delivery, event, at, error);
        for (const Event& one : delivery.more) bury(lock, delivery, one, at, error);
    }
    count(&SinkBook::Sink::failed);  // once, however often that was tried
    trim(lock, at);
}

// Makes an event a dead letter, unless it is one: what fails behind it is done again.
inline void Store::bury(Lock& lock, const Delivery& delivery, const Event& event, TimePoint at,
                        const std::string& error) {
    const SinkBook::Sink* const sink = state_.sinks().find(delivery.sink);
    if (sink && !delivery.again && sink->seq > event.seq) return;
    Letter letter{PayloadAccess::task_of(event.payload), at, delivery.attempt, error};
    DeadRecord record{delivery.sink, {}, make_letter(event.seq, std::move(letter))};
    if (!delivery.again) record.seq = event.seq + 1;
    change_sink(lock, std::move(record));
}

// What was resumed is tried at once, and from the first attempt on.
inline void Store::set_sink_state(const std::string& name, SinkState state) {
    const Notes::AtEnd told(notes_, options_.log);
    Lock lock(mutex_);
    const SinkBook::Sink& sink = sink_locked(name);
    if (state == SinkState::paused && sink.state == SinkState::disabled) return;
    SinkRecord record;
    record.sink = name;
    record.at = now();
    record.state = state;
    if (state == SinkState::active) {
        record.attempts = 0;
        record.next = TimePoint();
    }
    change_sink(lock, std::move(record));
}

// Returns how many letters are delivered again.
inline std::size_t Store::redeliver(const std::string& name, std::optional<TaskId> id) {
    Lock lock(mutex_);
    RedeliverRecord record{name, now(), {}};
    for (const auto& [seq, letter] : sink_locked(name).letters) {
        if (!id || letter.event->id == *id) record.dead.push_back(seq);
    }
    const std::size_t count = record.dead.size();
    if (id && count == 0) {
        throw Error(Errc::unknown_task, "sink " + name + " has no dead letter " + id->str());
    }
    if (count > 0) change_sink(lock, std::move(record));
    return count;
}

inline std::vector<SinkStatus> Store::sinks() const {
    const std::lock_guard<std::mutex> guard(mutex_);
    return state_.sink_statuses();
}

inline DeadPage Store::dead_letters(const std::string& name, std::optional<TaskId> after,
                                    std::size_t limit, std::size_t max_bytes) const {
    const std::lock_guard<std::mutex> guard(mutex_);
    const Letters& dead = sink_locked(name).letters;
    auto at = dead.begin();
    if (after) {
        at = std::find_if(dead.begin(), dead.end(),
                          [&](const auto& item) { return item.second.event->id == *after; });
        if (at == dead.end()) {
            throw Error(Errc::unknown_task, "sink " + name + " has no dead letter " + after->str());
        }
        ++at;
    }
    DeadPage page;
    page.total = dead.size();
    for (std::size_t bytes = 0;
         at != dead.end() && page.letters.size() < limit && bytes < max_bytes; ++at) {
        const Letter& letter = at->second;
        bytes += letter.event->bytes();
        page.letters.push_back(
            {event_of(letter.event.get()), letter.at, letter.attempts, letter.error, letter.again});
    }
    page.more = at != dead.end();
    return page;
}

// ---- 9.12 The journal's thread ---------------------------------------------

inline bool Store::wants_replacement_locked() const {
    const JournalFigures journal = journal_->figures();
    if (journal.failed) return true;
    if (!journal_->is_owner()) return false;
    const std::uint64_t live = state_.record_bytes();
    const std::uint64_t copy = live + state_.expected() * end_record_size + misjudged_room_;
    if (journal.room < copy) return false;
    // A replacement that gained little is worth another when half of what was live then is gone.
    const std::uint64_t above = 2 * live < live_then_ ? 0 : replace_above_;
    if (journal.bytes > std::max({options_.rewrite_min_bytes, 2 * live, above})) return true;
    // On a disk that gets full it is worth one when more is dead than may still be written (J8).
    const std::uint64_t dead = journal.bytes - std::min(journal.bytes, live);
    const std::uint64_t needed = needed_room_locked(journal);
    const std::uint64_t left = journal.room - std::min(journal.room, needed);
    return dead > std::max(live / 8, 2 * reserve_step(journal.disk)) && dead > left;
}

inline bool Store::wants_tending_locked() const {
    return has_unwaited_locked() || wants_replacement_locked() || wants_release_locked() ||
           wants_listing_locked() || owes_behind_ || !notes_.empty();
}

inline std::optional<TimePoint> Store::next_tending_locked() const {
    if (has_unwaited_locked() || wants_listing_locked() || owes_behind_ || !notes_.empty()) {
        return now();
    }
    std::optional<TimePoint> next;
    if (wants_replacement_locked()) next = next_replacement_locked();
    if (!journal_->wants_sync() || journal_->failed()) return next;
    const auto left = std::chrono::duration_cast<milliseconds>(
        next_sync() - std::chrono::steady_clock::now() + milliseconds(1));
    const TimePoint sync = now() + std::max(left, milliseconds(0));
    return next ? std::min(*next, sync) : sync;
}

inline void Store::say(LogRecord record) noexcept {
    notes_.keep(std::move(record));
    notes_.hand_over(options_.log);
}

// A journal that has failed and could not be replaced is tried again when somebody needs
// it; until then the thread sleeps.
inline void Store::tend() {
    Lock lock(mutex_);
    tending_ = true;
    while (!closed_) {
        asked_ = false;
        tend_now(lock);
        awaits_sync_ = journal_->wants_sync() && !journal_->failed();
        tending_ = false;
        const auto woken = [this] { return asked_ || closed_; };
        if (awaits_sync_) {
            tender_wakes_.wait_until(lock, next_sync(), woken);
        } else {
            tender_wakes_.wait(lock, woken);
        }
        awaits_sync_ = false;
        tending_ = true;
    }
    unwaited_ = true;
    commit_unwaited(lock);
    write_behind(lock);
    sync(lock);
    if (journal_->failed()) replace(lock);  // whoever opens it next would believe it
    hand_over_notes(lock);
}

// Does what is to be done for the journal now.
inline void Store::tend_now(Lock& lock) {
    commit_unwaited(lock);
    if (wants_listing_locked()) list_awaited_sinks(lock);
    if (std::exchange(owes_behind_, false)) write_behind(lock);
    const bool is_asked = options_.drive == Drive::thread;
    if (wants_replacement_locked() && (is_asked || next_replacement_locked() <= now())) {
        replace(lock);
    }
    if (journal_->wants_sync() && std::chrono::steady_clock::now() >= next_sync()) sync(lock);
    if (wants_release_locked()) release_memory(lock);
    hand_over_notes(lock);
}

// The C library keeps what was freed between blocks that are in use.  Giving it back takes
// some 30 ms for 200 MB, during which others may have to wait for memory: so it is done when
// half of what there was is free.
inline void Store::release_memory(Lock& lock) {
    most_memory_ = state_.bytes();
    had_much_memory_ = most_memory_ >= little_memory;
    lock.unlock();
#ifdef __GLIBC__
    ::malloc_trim(0);
#endif
    lock.lock();
}

inline void Store::hand_over_notes(Lock& lock) {
    if (notes_.empty()) return;
    lock.unlock();
    notes_.hand_over(options_.log);
    lock.lock();
}

// Stores what nobody may wait for.  It does not wait for a replacement of the journal, which
// may be its caller's to do.
inline void Store::commit_unwaited(Lock& lock) {
    if (!has_unwaited_locked()) return;
    unwaited_ = false;
    while (!bulks_.empty()) await(lock, std::shared_ptr<Bulk>(bulks_.front()));
    if (const std::shared_ptr<Group> group = group_on_its_way_locked()) await(lock, group);
}

inline void Store::sync(Lock& lock) {
    if (journal_->failed()) return;
    synced_at_ = std::chrono::steady_clock::now();
    lock.unlock();
    try {
        journal_->sync();
        lock.lock();
    } catch (const std::exception& error) {
        notes_.add(LogLevel::error, "journal.failed", error.what());
        lock.lock();
        asked_ = true;  // it is to be replaced
    }
}

// ---- 9.13 Replacing the journal --------------------------------------------

// What a journal is replaced by: all that is live, copied beside the work that goes on.  What
// changes meanwhile is in the journal's tail (J5).
class Store::Copy : public Journal::Source {
public:
    Copy(Store& store, Lock& lock) : store_(store), state_(store.state_), lock_(lock) {}
    void at_rest(const std::function<void()>& begin) override;
    void copy(const std::function<void(std::string_view)>& append) override;
    // How many bytes were handed over: the size of what was live.
    std::uint64_t size() const { return size_; }

private:
    // Calls write_page() under the lock until it returns that there is no more, and hands over
    // each page without the lock.
    template <class WritePage>
    void in_pages(WritePage write_page);
    void copy_pending();
    void copy_keys();
    void copy_ended(const History& past);
    void copy_letters();
    void write_new_cursors();

    // Whether a page of so many records has enough.
    bool is_full(std::size_t count) const { return count >= 100 || lines_.size() >= 262'144; }

    Store& store_;
    const State& state_;
    Lock& lock_;  // held while something is written to lines_
    const std::function<void(std::string_view)>* append_ = nullptr;
    std::string lines_;
    std::set<std::string> sinks_;  // whose cursors were copied
    std::uint64_t size_ = 0;
};

// A record must not be between its write and its effect when the tail begins.  A running
// commit may take as long as a sync, and emissions go on meanwhile; then these wait for no
// more than one write of theirs.
inline void Store::Copy::at_rest(const std::function<void()>& begin) {
    lock_.lock();
    const AtExit go_on([this] {
        store_.commits_paused_ = store_.emissions_paused_ = false;
        store_.open_->changed.notify_one();
        store_.settled_.notify_all();
        lock_.unlock();
    });
    store_.settled_.wait(lock_, [this] { return !store_.storing_bulk_; });
    store_.commits_paused_ = true;
    store_.settled_.wait(lock_, [this] { return !store_.committing_; });
    store_.emissions_paused_ = true;
    store_.settled_.wait(lock_, [this] { return !store_.emitting_; });
    begin();
}

template <class WritePage>
void Store::Copy::in_pages(WritePage write_page) {
    for (bool more = true; more;) {
        more = write_page();
        lock_.unlock();
        (*append_)(lines_);
        size_ += lines_.size();
        lines_.clear();
        if (store_.opening_) store_.tell_of_opening();
        lock_.lock();
        // One that replaces a journal which has failed is finished (J3).
        if (store_.closed_ && !store_.journal_->failed()) {
            throw Error(Errc::stopped, "the replacement of the journal was broken off");
        }
    }
}

// Pending tasks first, then what has ended: a task that moves from one to the other
// meanwhile is met at least once.  Events that are trimmed meanwhile become dead letters, so
// these come behind them.  A clock record comes last, because the ids of old tasks may bear the
// times of a clock that was wrong.
inline void Store::Copy::copy(const std::function<void(std::string_view)>& append) {
    append_ = &append;
    lock_.lock();
    const AtExit unlock([this] {
        if (lock_.owns_lock()) lock_.unlock();
    });
    store_.live_then_ = state_.record_bytes();
    write(lines_, HeadRecord{1, state_.history().next_seq(), state_.ids().last()});
    copy_pending();
    copy_keys();
    copy_ended(state_.history());
    copy_ended(state_.missed());
    copy_letters();
    in_pages([this] {
        if (const auto& paused = state_.paused()) {
            write(lines_, PauseRecord{paused->since, paused->reason});
        }
        const TimePoint stamp = state_.newest_stamp();
        if (stamp != TimePoint()) write(lines_, ClockRecord{stamp});
        return false;
    });
}

inline void Store::Copy::copy_pending() {
    DueKey from{TimePoint::min(), TaskId()};
    in_pages([&] {
        std::size_t count = 0;
        bool more = false;
        state_.walk(from, [&](StoredTask* task) {
            more = is_full(count++);
            from = {task->due, more ? task->id : task->id.plus(1)};
            if (!more) write(lines_, ScheduleRecord{{}, {}, {TaskRef::share(task)}});
            return !more;
        });
        return more;
    });
}

inline void Store::Copy::copy_keys() {
    std::string last;
    in_pages([&] {
        const Answers& all = state_.keys().all();
        auto at = all.upper_bound(last);
        for (std::size_t ids = 0; at != all.end() && !is_full(ids); ++at) {
            write(lines_, AnswerRecord{make_answer(at->first, at->second)});
            ids += 1 + at->second.ids.size() / 8;
            last = at->first;
        }
        return at != all.end();
    });
}

// Events are trimmed by what the sinks want of them, so the cursors come first: also that of
// a sink which has come since, before events that have.
inline void Store::Copy::write_new_cursors() {
    for (const auto& [name, sink] : state_.sinks().all()) {
        if (!sinks_.insert(name).second) continue;
        SinkRecord record;
        record.sink = name;
        record.at = state_.newest_stamp();
        record.seq = sink.seq;
        record.state = sink.state;
        record.attempts = sink.attempts;
        if (sink.next != TimePoint()) record.next = sink.next;
        if (!sink.last_error.empty()) record.error = sink.last_error;
        if (!sink.topics.empty()) record.topics = sink.topics;
        write(lines_, record);
    }
}

inline void Store::Copy::copy_ended(const History& past) {
    std::uint64_t seq = 0;
    in_pages([&] {
        write_new_cursors();
        std::size_t i = past.index_of(seq);
        for (std::size_t n = 0; i < past.size() && !is_full(n); ++i, ++n) {
            StoredTask* const task = past.at(i);
            write(lines_, ScheduleRecord{{}, {}, {TaskRef::share(task)}});
            if (task->stage == Stage::emitted) {
                write(lines_, EmitRecord{task->ended_at, task->seq, {task->id}});
            } else {
                write(lines_, MissRecord{task->ended_at, {task->id}});
            }
            seq = task->seq + 1;
        }
        return i < past.size();
    });
}

inline void Store::Copy::copy_letters() {
    for (const std::string& name : sinks_) {
        std::uint64_t seq = 0;
        in_pages([&] {
            const SinkBook::Sink* const sink = state_.sinks().find(name);
            if (!sink) return false;
            auto at = sink->letters.lower_bound(seq);
            for (std::size_t n = 0; at != sink->letters.end() && !is_full(n); ++at, ++n) {
                write(lines_, DeadRecord{name, {}, make_letter(at->first, at->second)});
                seq = at->first + 1;
            }
            return at != sink->letters.end();
        });
    }
}

// Has the journal replaced by what is remembered.  One replacement at a time: whoever asks for
// another meanwhile waits for that one.
inline std::exception_ptr Store::replace(Lock& lock) {
    if (replacing_) {
        settled_.wait(lock, [this] { return !replacing_; });
        return nullptr;
    }
    replacing_ = true;
    std::exception_ptr failure;
    const bool had_failed = journal_->failed();
    const std::uint64_t before = journal_->figures().bytes;
    lock.unlock();
    try {
        Copy copy(*this, lock);
        journal_->replace(copy);
        lock.lock();
        // One that gained little, but for what came meanwhile, was asked for by a poor
        // estimate, and is not repeated.
        const std::uint64_t size = copy.size();
        replace_above_ = size > before / 5 * 4 ? size + size / 4 : 0;
        misjudged_room_ /= 2;
        refused_by_disk_ = false;
        state_.lateness().mark({Mark::Kind::replacement, now()});
        if (before > 0) {
            notes_.add(LogLevel::info, "journal.replaced", "the journal was replaced: of ",
                       named("before", before), " bytes ", named("after", size), " were live");
        }
    } catch (const std::exception& error) {
        failure = std::current_exception();
        if (!opening_) notes_.add(LogLevel::error, "journal.replace_failed", error.what());
        if (!lock.owns_lock()) lock.lock();
        const JournalFigures journal = journal_->figures();
        replace_above_ = journal.bytes + journal.bytes / 4;
        replace_again_ = now() + std::chrono::seconds(1);
        if (tells_of_full_disk(failure)) misjudge_room_locked(journal);
    }
    if (had_failed || !journal_->failed()) ++replacements_;
    replacing_ = false;
    settled_.notify_all();
    return failure;
}

// What was a little too much for the disk is tried again when it has more room for it.
inline void Store::misjudge_room_locked(const JournalFigures& journal) noexcept {
    const std::uint64_t copy = state_.record_bytes() + state_.expected() * end_record_size;
    const std::uint64_t step = reserve_step(journal.disk);
    if (journal.room > 2 * (copy + step)) return;  // it is not for want of that
    replace_above_ = 0;
    if (journal.room >= copy) misjudged_room_ = journal.room - copy + step;
}

inline void Store::compact() {
    Lock lock(mutex_);
    state_.trim(now());
    lock.unlock();
    Copy copy(*this, lock);
    journal_->replace(copy);
}

// ---- 9.14 Following another process ----------------------------------------

inline Journal::Follower Store::follower() {
    return {[this](std::string_view lines) { follow(lines); },
            [this](const std::function<void(const Journal::Take&)>& read) { reread(read); },
            [this] { tell_of_following(); }};
}

// Does what the owner has stored.
inline void Store::follow(std::string_view lines) {
    std::vector<Record> records = records_of(lines);
    Lock lock(mutex_);
    give_up_begun(lock);
    Breath breath(lock);
    const State::Breathe breathe = std::ref(breath);
    for (Record& record : records) {
        const auto* const scheduled = record.get_if<ScheduleRecord>();
        if (scheduled) last_stored_ = std::max(last_stored_, scheduled->tasks.back()->id);
        const bool was_paused = state_.paused().has_value();
        state_.follow(record, breathe);
        if (was_paused != state_.paused().has_value()) tell_of_pause_locked(was_paused);
        breathe();
    }
    state_.drop_answers(now());
    set_kinds_locked();
}

// What is remembered is read aside and changed for the other at once.
inline void Store::reread(const std::function<void(const Journal::Take&)>& read) {
    State fresh(past_limits_of(options_));
    const auto read_all = [&read](const Journal::Take& take) {
        read(take);
        return false;
    };
    const auto tell_nobody = [](std::uint64_t) {};
    load(fresh, read_all, tell_nobody, false);
    {
        Lock lock(mutex_);
        give_up_begun(lock);
    }
    const std::lock_guard<std::mutex> in_order(behind_mutex_);
    Lock lock(mutex_);
    release_text(unwritten_);
    release_text(behind_);
    behind_size_ = 0;
    unwritten_is_old_ = behind_is_old_ = false;
    fresh.lateness() = std::move(state_.lateness());
    state_ = std::move(fresh);
    last_stored_ = state_.ids().last();
    set_kinds_locked();
}

// What was begun when this process was the owner cannot be stored any more, and fails.
inline void Store::give_up_begun(Lock& lock) {
    settled_.wait(lock, [this] { return opened_ || closed_; });
    const auto is_at_rest = [this] {
        return !committing_ && !emitting_ && open_->records.empty() && bulks_.empty();
    };
    while (!is_at_rest()) {
        unwaited_ = true;
        commit_unwaited(lock);
        settled_.wait(lock, [this] { return !committing_ && !emitting_; });
    }
    behind_is_old_ = behind_is_old_ || behind_size_ > 0;
}

// Sinks are listed again by whoever becomes the owner, as another one may have changed them.
inline void Store::tell_of_following() {
    Lock lock(mutex_);
    if (!opened_ || closed_) return;
    if (!journal_->is_owner()) awaits_listing_ = listing_.has_value();
    owes_behind_ = behind_size_ > 0 && journal_->is_owner();
    if (on_due_changed) on_due_changed();
    wake_tender_locked();
    const auto tell = on_followed;
    lock.unlock();
    if (tell) tell();
}

}  // namespace detail

inline void Ticket::swap(Ticket& other) noexcept {
    std::swap(ids_, other.ids_);
    std::swap(timestamp_, other.timestamp_);
    std::swap(count_, other.count_);
    std::swap(task_, other.task_);
    std::swap(again_, other.again_);
    std::swap(creates_, other.creates_);
    std::swap(repeats_, other.repeats_);
    std::swap(ends_, other.ends_);
    std::swap(told_, other.told_);
    std::swap(store_, other.store_);
    std::swap(group_, other.group_);
    std::swap(bulk_, other.bulk_);
    std::swap(emitting_, other.emitting_);
}

inline detail::Fate& Ticket::fate() const {
    if (bulk_) return *bulk_;
    return ends_ ? group_->ended : *group_;
}

inline bool Ticket::try_store() {
    if (!store_) return true;
    if (!is_done() && (again_ || fate().settled || !store_->try_store(*this))) return false;
    if (!again_ && bulk_) count_ = bulk_->count;
    store_ = nullptr;
    return true;
}

inline void Ticket::wait() {
    if (!store_) return;
    try {
        if (!is_done()) store_->wait(*this);
        if (bulk_ && !again_) count_ = bulk_->count;
    } catch (...) {
        told_ = true;
        throw;
    }
    store_ = nullptr;
}

// What is settled is left alone: the scheduler may be gone.
inline void Ticket::abandon() noexcept {
    if (!store_ || again_ || told_) return;
    if (!fate().settled) return store_->abandon(*this);
    if (fate().error) fate().tell_failure();
}

// ---- 9.15 Journals without a scheduler -------------------------------------

/// A line of a journal that is damaged.
struct JournalDamage {
    std::uint64_t line;   ///< its number, from 1 on
    std::uint64_t at;     ///< where it begins, in bytes
    std::uint64_t bytes;  ///< its size
    std::string problem;  ///< what is wrong with it, such as "the checksum does not match"
    std::size_t kept;     ///< whole records that are in it, and are kept
};

/// What a journal holds, see `verify_journal()`.
struct JournalReport {
    std::string path;           ///< of the journal
    std::uint64_t bytes = 0;    ///< its size
    std::uint64_t records = 0;  ///< whole records
    /// How many of these there are of each operation; `head` is what a journal begins with.
    std::map<std::string, std::uint64_t> operations;
    std::size_t pending = 0;            ///< tasks that are pending
    std::size_t named = 0;              ///< those of them that have names
    std::size_t emitted = 0;            ///< past events
    std::size_t missed = 0;             ///< tasks that were too late to be emitted
    std::uint64_t cancelled = 0;        ///< tasks that its records cancel
    std::size_t keys = 0;               ///< idempotency keys that are still known
    std::optional<TimePoint> next_due;  ///< when the first pending task is due
    std::optional<TimePoint> newest;    ///< the latest moment that its records tell of
    std::optional<Pause> paused;        ///< since when and why nothing is emitted
    std::vector<SinkStatus> sinks;      ///< how each sink stands
    std::vector<JournalDamage> damage;  ///< in order
    std::uint64_t torn_bytes = 0;       ///< at its end, as a crash leaves them: no damage
    std::string used_by;                ///< the process that has it open, if that is known

    /// Whether it is as a scheduler leaves it, be it by a crash.
    bool is_sound() const { return damage.empty() && (records > 0 || bytes == 0); }
};

/// Reads a journal as a scheduler does that opens it, and tells what is in it.  Changes
/// nothing and locks nothing, so a scheduler may have it open.  Takes as much memory as a
/// scheduler with it.  Throws `Error` with `journal_unreadable` if the file is missing, may not be
/// read, is no journal or holds what a newer version has written.
inline JournalReport verify_journal(const std::string& path,
                                    std::shared_ptr<FileOps> files = nullptr);

/// What compact_journal() has done.
struct CompactResult {
    std::uint64_t before = 0;  ///< its size, in bytes
    std::uint64_t after = 0;   ///< its size, in bytes
    std::size_t pending = 0;   ///< tasks in it
};

/// Replaces the journal that `options` names by one that holds only what is live, in which
/// there are no more past events than `options.history` and the sinks want.  It is opened as by a
/// scheduler, which mends damage.  If this fails the old one stands.  Throws `Error`: with
/// `journal_busy` if a scheduler has it open, or with `journal_unreadable`, `disk_full` or
/// `journal_failed`.
inline CompactResult compact_journal(Options options);

namespace detail {

inline std::unique_ptr<File> open_journal_to_read(FileOps& ops, const std::string& path) {
    try {
        auto file = std::make_unique<File>(ops, path, O_RDONLY | O_NONBLOCK);
        if (S_ISREG(file->status().st_mode)) return file;
    } catch (const Error& error) {
        throw Error(Errc::journal_unreadable, error.what());
    }
    throw Error(Errc::journal_unreadable, path + " is not a regular file");
}

// Whether somebody has locked a file, as /proc/locks tells: to try it would keep a scheduler out
// that starts at this moment.  The kernel may show the file's device by another number than
// stat(), and then the holder that the file names decides.
inline bool is_locked(const struct stat& file, const std::string& holder) {
    const auto number = static_cast<std::uint64_t>(file.st_dev);  // as makedev() puts it together
    const auto major = static_cast<unsigned>((number >> 8 & 0xFFFU) | (number >> 32 & ~0xFFFU));
    const auto minor = static_cast<unsigned>((number & 0xFFU) | (number >> 12 & ~0xFFU));
    char device[32];
    std::snprintf(device, sizeof device, "%02x:%02x", major, minor);
    const std::string inode = ':' + std::to_string(file.st_ino) + ' ';
    const std::string place = ' ' + std::string(device) + inode;
    const std::string locks = read_file("/proc/locks");
    for (std::size_t at = 0, end; at < locks.size(); at = end + 1) {
        end = std::min(locks.find('\n', at), locks.size());
        const std::string line = locks.substr(at, end - at);
        const std::size_t found = line.find(inode);
        if (found == std::string::npos || line.find(" FLOCK ") == std::string::npos) continue;
        if (line.find(place) != std::string::npos) return true;
        const std::size_t space = line.rfind(' ', found);
        const std::size_t before = space == 0 ? 0 : line.rfind(' ', space - 1) + 1;
        const std::string process = line.substr(before, space - before);
        if (holder.rfind("process " + process + ' ', 0) == 0) return true;
    }
    return false;
}

// Who has a journal open.  Empty: nobody, as far as that can be known.
inline std::string user_of_journal(FileOps& ops, const std::string& path) {
    try {
        File lock(ops, real_path(path) + ".lock", O_RDONLY | O_NONBLOCK);
        const std::string holder = named_holder(lock);
        return is_locked(lock.status(), holder) ? holder : "";
    } catch (const Error&) {  // it was never locked, or we may not know
        return "";
    }
}

// A scheduler that has a file open would go on with what is not there any more.
inline void check_unused(FileOps& ops, const std::string& path) {
    const std::string user = user_of_journal(ops, path);
    if (user.empty()) return;
    throw Error(Errc::journal_busy, path + " is a journal that is in use by " + user);
}

// Reads a journal and counts what it says.
class JournalVerifier {
public:
    JournalReport report;

    void read(File& file);

private:
    void take(std::string_view line);
    void tell_state();

    static constexpr std::size_t any = ~std::size_t{0};
    State state_{{any, longest_wait, any, any, any, any}};
};

inline void JournalVerifier::read(File& file) {
    const Journal::Take take = [this](std::string_view line) { this->take(line); };
    JournalReader reader(file, take, false);
    report.bytes = static_cast<std::uint64_t>(file.status().st_size);
    state_.begin_loading();
    reader.read();
    state_.end_loading();
    report.records = reader.records();
    for (const JournalReader::Range& range : reader.damaged()) {
        report.damage.push_back(
            {range.line, range.begin, range.end - range.begin, range.problem, range.kept});
    }
    report.torn_bytes = report.bytes - std::min(report.bytes, reader.end());
    tell_state();
}

inline void JournalVerifier::take(std::string_view line) {
    Record record = read_record(line);
    const auto count = [this](const auto& one) {
        using R = std::decay_t<decltype(one)>;
        ++report.operations[std::is_same_v<R, HeadRecord> ? "head" : std::string(R::op)];
        if constexpr (std::is_same_v<R, CancelRecord> || std::is_same_v<R, PartRecord>) {
            report.cancelled += one.ids.size();
        }
    };
    record.visit(count);
    state_.apply(record);
}

inline void JournalVerifier::tell_state() {
    state_.drop_answers(wall_clock(), any);
    report.pending = state_.pending();
    report.named = state_.names();
    report.emitted = state_.history().size();
    report.missed = state_.missed().size();
    report.keys = state_.keys().all().size();
    report.next_due = state_.next_due();
    if (state_.newest_stamp() != TimePoint()) report.newest = state_.newest_stamp();
    report.paused = state_.paused();
    report.sinks = state_.sink_statuses();
}

}  // namespace detail

inline JournalReport verify_journal(const std::string& path, std::shared_ptr<FileOps> files) {
    if (!files) files = std::make_shared<FileOps>();
    const std::unique_ptr<detail::File> file = detail::open_journal_to_read(*files, path);
    detail::JournalVerifier verifier;
    verifier.report.path = path;
    verifier.report.used_by = detail::user_of_journal(*files, path);
    try {
        verifier.read(*file);
    } catch (const Error& error) {  // a file that cannot be read is none that was damaged
        const std::string what = error.what();
        const bool names_it = what.find(path) != std::string::npos;
        throw Error(Errc::journal_unreadable, names_it ? what : path + ": " + what);
    }
    return std::move(verifier.report);
}

inline CompactResult compact_journal(Options options) {
    if (!options.files) options.files = std::make_shared<FileOps>();
    options.drive = Drive::caller;
    detail::open_journal_to_read(*options.files, options.journal);  // or it would be made
    CompactResult result;
    const auto size = [&options] {
        const auto file = detail::open_journal_to_read(*options.files, options.journal);
        return static_cast<std::uint64_t>(file->status().st_size);
    };
    result.before = size();
    detail::Store store(options);
    store.compact();
    result.pending = store.pending();
    store.close();
    result.after = size();
    return result;
}

// ============================================================================
// 10. Scheduler
// ============================================================================
//
//   W1  One thread waits, on the wall clock, until exactly the next due time, and
//       without end when nothing is pending.  A clock that is stepped ends or
//       lengthens the wait by itself, and so does a machine that was suspended.
//   W2  It is woken only by a task that is due before everything it waits for.
//   W3  Readers are cursors over the history.  A callback has a thread, so that a
//       slow one delays nobody and may call the scheduler.

namespace detail {

inline std::string too_far_ahead(TimePoint latest) {
    return concat({"The task is due more than a year ahead; the latest that is accepted is ",
                   format_time(latest), "."});
}

// Throws unless a task may be due at this time.
inline void check_due(TimePoint due, TimePoint latest) {
    if (due > latest) throw Error(Errc::invalid_argument, too_far_ahead(latest));
    if (due >= first_time) return;
    throw Error(Errc::invalid_argument, "The due time must not lie before the year -999999.");
}

// The time that lies so much later, or earlier, within what a journal can say.
inline TimePoint later(TimePoint time, milliseconds delay) {
    return std::clamp(delay, first_time - time, last_time - time) + time;
}

// Appends a message without white space, before it is put into a larger text: it is one
// JSON object, array or string, and no more.
inline void append_message(std::string& out, std::string_view message) {
    JsonReader reader(message);
    const char first = reader.peek();
    std::string_view value;
    if (!reader.value(value, &out) || !reader.finish()) {
        throw_as(Errc::invalid_argument, {"The message is not valid JSON: ", reader.problem()});
    }
    if (first == '{' || first == '[' || first == '"') return;
    throw Error(Errc::invalid_argument, R"("message" must be an object, an array or a string.)");
}

// What is wrong with the reason of a pause; empty: nothing.
inline std::string reason_problem(std::string_view reason) {
    const bool plain = std::none_of(reason.begin(), reason.end(),
                                    [](unsigned char c) { return c < 0x20 || c == 0x7F; });
    if (reason.size() <= max_pause_reason && plain && json_problem(quote_json(reason)).empty()) {
        return "";
    }
    return concat({"The reason of a pause must be text of at most ", max_pause_reason,
                   " bytes of UTF-8 without control characters."});
}

// Throws unless a task may have these.
inline void check_details(const Details& details) {
    if (!details.name.empty() && !is_task_name(details.name)) {
        throw Error(Errc::invalid_argument, name_rule);
    }
    if (!details.topic.empty() && !is_topic(details.topic)) {
        throw Error(Errc::invalid_argument,
                    "A topic must be 1 to 128 letters, digits and "
                    "characters of \"._~/-\".");
    }
    if (details.max_lateness.count() != 0 && !is_max_lateness(details.max_lateness)) {
        throw_as(Errc::invalid_argument, {"max_lateness ", max_lateness_rule, "."});
    }
}

// The payload of a task, as a request in JSON would have made it.
inline std::string payload_of(const NewTask& task) {
    check_details({{}, task.topic, task.max_lateness.value_or(milliseconds(0)), {}, {}});
    if (task.max_lateness == milliseconds(0)) {
        throw_as(Errc::invalid_argument, {"max_lateness ", max_lateness_rule, "."});
    }
    std::string payload = R"({"timestamp":")";
    append_time(payload, task.due);
    payload += R"(","message":)";
    append_message(payload, task.message);
    if (!task.topic.empty()) payload.append(R"(,"topic":")").append(task.topic) += '"';
    if (task.max_lateness) {
        payload.append(R"(,"max_lateness":")").append(std::to_string(task.max_lateness->count()));
        payload += R"(ms")";
    }
    return payload + '}';
}

}  // namespace detail

// ---- 10.1 Requests ---------------------------------------------------------

/// The JSON form of a task to schedule, or of a change to one, taken apart:
/// `{"timestamp": ISO 8601, "message": object, array or string, "secret"?, …}`,
/// with `delay` in place of `timestamp` if the caller likes: a number of seconds
/// or a duration such as `"1h30m"`.
struct TaskRequest {
    TimePoint due{};                  ///< what the timestamp or the delay says
    std::string timestamp;            ///< as it was given, or what the delay comes to; or empty
    std::string message;              ///< of a change: the new message, or empty
    std::string payload;              ///< the object, without white space and `secret`, and with
                                      ///< the timestamp that a delay comes to in its place
    std::string identity;             ///< what tells it from other requests under one key, such as
                                      ///< the delay as it was given; empty: the payload does
    std::string topic;                ///< the payload's member, if that is a topic
    std::optional<milliseconds> max_lateness;  ///< the payload's member, if there is one
    std::vector<std::string> errors;  ///< all that is wrong, a sentence each; empty: nothing

    /// Reads `json`; `now` is what delays are counted from, and tells which due
    /// times are too far ahead.  Does not throw for any text: what is wrong is in
    /// `errors`.
    static TaskRequest parse(std::string_view json, TimePoint now);
    /// Reads a change: `timestamp` or `delay`, `message`, or both.
    static TaskRequest parse_change(std::string_view json, TimePoint now);
    /// Keeps the trace that the request is part of (W3C Trace Context) with the task.  What is
    /// malformed is ignored, and `tracestate` also without a `traceparent`.
    void set_trace(std::string_view traceparent, std::string_view tracestate);

private:
    friend class Scheduler;

    void read(std::string_view json, TimePoint now);
    void take_member(detail::JsonReader& reader, std::string_view key, TimePoint now);
    void take_timestamp(std::string_view token);
    void take_delay(std::string_view token, TimePoint now);
    void take_message(std::string_view token);
    void take_topic(std::string_view token);
    void take_max_lateness(std::string_view token);
    bool first_of(bool& seen, const char* name);
    void check_due(TimePoint now);

    bool has_timestamp_ = false;
    bool has_delay_ = false;
    bool has_message_ = false;
    bool has_secret_ = false;
    bool has_topic_ = false;
    bool has_max_lateness_ = false;
    bool has_others_ = false;
    std::string traceparent_;
    std::string tracestate_;
    bool due_known_ = false;
    bool is_task_ = false;  // parse() has read it, and found nothing wrong
};

inline TaskRequest TaskRequest::parse(std::string_view json, TimePoint now) {
    TaskRequest request;
    request.read(json, now);
    if (!request.errors.empty() && request.payload.empty()) return request;
    if (!request.has_timestamp_ && !request.has_delay_) {
        request.errors.push_back(
            R"("timestamp" is missing; give the moment as an ISO 8601 string, or a "delay".)");
    }
    if (!request.has_message_) {
        request.errors.push_back(R"("message" is missing; give an object, an array or a string.)");
    }
    request.message.clear();
    request.is_task_ = request.errors.empty();
    return request;
}

inline TaskRequest TaskRequest::parse_change(std::string_view json, TimePoint now) {
    TaskRequest request;
    request.read(json, now);
    if (!request.errors.empty() && request.payload.empty()) return request;
    if (!request.has_timestamp_ && !request.has_delay_ && !request.has_message_) {
        request.errors.push_back(
            R"(Nothing is to be changed; give "timestamp" or "delay", "message", or both.)");
    }
    if (request.has_others_) {
        request.errors.push_back(R"(Only the time and "message" can be changed.)");
    }
    return request;
}

// The payload stays empty if there is no object to speak of.
inline void TaskRequest::read(std::string_view json, TimePoint now) {
    payload.reserve(json.size());
    payload += '{';
    detail::JsonReader reader(json);
    std::string_view key;
    std::string_view value;
    const bool object = reader.enter_object();
    if (object) {
        while (reader.next_member(key)) take_member(reader, key, now);
    } else {
        reader.value(value);
    }
    payload += '}';
    if (!reader.finish()) {
        *this = TaskRequest();
        errors.push_back(detail::concat({"The body is not valid JSON: ", reader.problem(), "."}));
    } else if (!object) {
        payload.clear();
        errors.push_back(R"(The body must be a JSON object with "timestamp" and "message".)");
    } else {
        if (has_delay_) identity += '}';
        if (has_timestamp_ && has_delay_) {
            errors.push_back(R"(Give "timestamp" or "delay", not both.)");
        }
        check_due(now);
    }
}

inline void TaskRequest::take_member(detail::JsonReader& reader, std::string_view key,
                                     TimePoint now) {
    std::string_view value;
    const char first = reader.peek();
    if (detail::is_named(key, "secret")) {
        if (reader.value(value) && first_of(has_secret_, "secret") && first != '"') {
            errors.push_back(R"("secret" must be a string.)");
        }
        return;
    }
    std::string member = payload.size() > 1 ? ",\"" : "\"";
    member.append(key).append("\":");
    const std::size_t start = member.size();
    if (!reader.value(value, &member)) return;
    const std::string_view token = std::string_view(member).substr(start);
    if (detail::is_named(key, "delay")) {
        if (first_of(has_delay_, "delay")) {
            take_delay(token, now);
            identity = payload + member;
            payload.append(member, 0, member.size() - token.size() - key.size() - 3);
            payload += detail::concat({R"("timestamp":")", timestamp, "\""});
        }
        return;
    }
    payload += member;
    if (has_delay_) identity += member;
    if (detail::is_named(key, "timestamp")) {
        if (first_of(has_timestamp_, "timestamp")) take_timestamp(token);
    } else if (detail::is_named(key, "message")) {
        if (first_of(has_message_, "message")) take_message(token);
    } else {
        has_others_ = true;
        if (detail::is_named(key, "topic")) {
            if (first_of(has_topic_, "topic")) take_topic(token);
        } else if (detail::is_named(key, "max_lateness")) {
            if (first_of(has_max_lateness_, "max_lateness")) take_max_lateness(token);
        }
    }
}

inline bool TaskRequest::first_of(bool& seen, const char* name) {
    if (seen) errors.push_back(detail::concat({"\"", name, "\" is given more than once."}));
    return !std::exchange(seen, true);
}

inline void TaskRequest::take_timestamp(std::string_view token) {
    const auto text = detail::read_string(token);
    const auto time = text ? parse_time(*text) : std::nullopt;
    if (!time) {
        errors.push_back(
            R"("timestamp" must be an ISO 8601 string such as "2026-08-21T04:29:00.951Z".)");
        return;
    }
    timestamp = *text;
    due = *time;
    due_known_ = true;
}

inline void TaskRequest::take_delay(std::string_view token, TimePoint now) {
    const std::optional<milliseconds> delay = detail::read_duration(token);
    if (!delay) {
        errors.push_back(R"("delay" must be a number of seconds that is not negative, or a )"
                         R"(duration such as "90s" or "1h30m".)");
        return;
    }
    due = now + *delay;
    timestamp = format_time(due);
    due_known_ = true;
}

inline void TaskRequest::take_message(std::string_view token) {
    if (token[0] != '{' && token[0] != '[' && token[0] != '"') {
        errors.push_back(R"("message" must be an object, an array or a string.)");
    }
    message = token;
}

inline void TaskRequest::take_topic(std::string_view token) {
    auto text = detail::read_string(token);
    if (text && detail::is_topic(*text)) topic = std::move(*text);
}

inline void TaskRequest::take_max_lateness(std::string_view token) {
    max_lateness = detail::read_duration(token);
    if (!max_lateness || !detail::is_max_lateness(*max_lateness)) {
        errors.push_back(detail::concat({"\"max_lateness\" ", detail::max_lateness_rule, "."}));
    }
}

inline void TaskRequest::set_trace(std::string_view traceparent, std::string_view tracestate) {
    const bool is_whole = detail::is_traceparent(traceparent);
    traceparent_ = is_whole ? traceparent : std::string_view();
    tracestate_ = is_whole && detail::is_tracestate(tracestate) ? tracestate : std::string_view();
}

inline void TaskRequest::check_due(TimePoint now) {
    const TimePoint latest = one_year_after(now);
    if (due_known_ && due > latest) errors.push_back(detail::too_far_ahead(latest));
}

/// A line of an export: a request to schedule a task, in JSON, with the member `name` where the
/// task has a name.  A payload that has such a member itself comes behind a `name` that is null.
struct ExportLine {
    std::string name;     ///< of the task, or empty
    std::string request;  ///< what `POST /schedule` takes, each token as it stands in the line

    /// The line of a task, without a newline.  The trace that it was part of is left out.
    static std::string write(const Task& task);
    /// Throws `Error` with `invalid_argument` if the line is no JSON object, or if its first
    /// member `name` is neither null nor the name of a task.
    static ExportLine read(std::string_view line);
};

inline std::string ExportLine::write(const Task& task) {
    const std::string_view payload = task.text();
    detail::JsonReader reader(payload, detail::JsonReader::outer_depth);
    std::string_view key;
    std::string_view value;
    bool has_name = false;
    reader.enter_object();
    while (!has_name && reader.next_member(key) && reader.value(value)) {
        has_name = detail::is_named(key, "name");
    }
    std::string line = "{";
    if (!task.name().empty()) {
        line += detail::concat({"\"name\":", quote_json(task.name()), ","});
    } else if (has_name) {
        line += "\"name\":null,";
    }
    return line.append(payload.substr(1));  // a payload has two members at least
}

inline ExportLine ExportLine::read(std::string_view line) {
    detail::JsonReader reader(line, detail::JsonReader::outer_depth);
    std::string_view key;
    std::string_view value;
    std::optional<std::string_view> name;
    ExportLine read{"", "{"};
    const bool is_object = reader.enter_object();
    if (!is_object) reader.value(value);
    while (is_object && reader.next_member(key) && reader.value(value)) {
        if (!name && detail::is_named(key, "name")) {
            name = value;
            continue;
        }
        if (read.request.size() > 1) read.request += ',';
        read.request.append("\"").append(key).append("\":").append(value);
    }
    read.request += '}';
    if (!reader.finish()) {
        detail::throw_as(Errc::invalid_argument, {"it is not valid JSON: ", reader.problem()});
    }
    if (!is_object) detail::throw_as(Errc::invalid_argument, {"it is not a JSON object"});
    if (!name || *name == "null") return read;
    read.name = detail::read_string(*name).value_or("");
    if (is_task_name(read.name)) return read;
    detail::throw_as(Errc::invalid_argument,
                     {"its first member \"name\" is not the name of a task, nor null"});
}

class Scheduler;

namespace detail {

// ---- 10.2 Readers ----------------------------------------------------------

// Whoever reads events by a callback: a cursor over the history.
struct Reader {
    std::function<void(const Event&)> callback;
    Filter filter;
    Cursor next;             // guarded by the hub's mutex: the first that it has not finished
    bool stopping = false;   // guarded by the hub's mutex
    bool ended = false;      // guarded by the hub's mutex: the thread does nothing more
    std::thread::id caller;  // guarded by the hub's mutex: of the thread that runs a call
    std::thread thread;      // guarded by the hub's mutex; none under Drive::caller

    bool is_over() const { return stopping && ended && caller == std::thread::id(); }
};

// What readers and the emitting thread share; it lives for as long as any of them.
struct ReaderHub {
    std::mutex mutex;
    std::condition_variable changed;  // an emission, the end of a call, or of everything
    Cursor newest;                    // guarded by mutex
    bool stopping = false;            // guarded by mutex
    std::thread::id runner;           // guarded by mutex: of the thread that is in run_due()
    std::list<std::shared_ptr<Reader>> readers;  // guarded by mutex

    // Whether this thread is inside a callback, or inside what run_due() runs.
    bool is_inside_locked() const {
        const std::thread::id me = std::this_thread::get_id();
        return runner == me ||
               std::any_of(readers.begin(), readers.end(),
                           [me](const auto& reader) { return reader->caller == me; });
    }
    // Marks the reader and waits until its running call has ended, but not inside that.
    void stop(const std::shared_ptr<Reader>& reader);
    // Lets go of the readers that were stopped inside their own calls.
    void drop_ended();
    // Waits until the reader's thread, or its call, has ended.
    void join(std::unique_lock<std::mutex>& lock, const std::shared_ptr<Reader>& reader);
};

inline void ReaderHub::stop(const std::shared_ptr<Reader>& reader) {
    std::unique_lock<std::mutex> lock(mutex);
    reader->stopping = true;
    changed.notify_all();
    if (reader->caller == std::this_thread::get_id()) return;  // its thread is joined later
    changed.wait(lock, [&reader] { return reader->caller == std::thread::id(); });
    join(lock, reader);
    readers.remove(reader);
}

inline void ReaderHub::drop_ended() {
    std::list<std::shared_ptr<Reader>> ended;
    {
        const std::lock_guard<std::mutex> guard(mutex);
        for (const std::shared_ptr<Reader>& reader : readers) {
            if (reader->is_over()) ended.push_back(reader);
        }
    }
    for (const std::shared_ptr<Reader>& reader : ended) stop(reader);
}

inline void ReaderHub::join(std::unique_lock<std::mutex>& lock,
                            const std::shared_ptr<Reader>& reader) {
    if (reader->thread.joinable()) {
        std::thread thread = std::move(reader->thread);
        lock.unlock();
        thread.join();
        lock.lock();
    } else {
        changed.wait(lock,
                     [&reader] { return reader->ended && reader->caller == std::thread::id(); });
    }
}

}  // namespace detail

/// A callback that is called with events, for as long as this object lives.
class [[nodiscard]] Subscription {
public:
    /// None.
    Subscription() = default;
    /// Takes over another one's, which is none then.
    Subscription(Subscription&&) noexcept = default;
    /// The same; what this was before ends.
    Subscription& operator=(Subscription&& other) noexcept {
        stop();
        hub_ = std::move(other.hub_);
        reader_ = std::move(other.reader_);
        return *this;
    }
    ~Subscription() { stop(); }
    /// Ends it: it is not called again.  Blocks until a running call has returned, except
    /// inside that call.  It may come after the end of the scheduler.
    void stop() {
        if (const auto reader = std::exchange(reader_, nullptr)) hub_->stop(reader);
    }

private:
    friend class Scheduler;
    std::shared_ptr<detail::ReaderHub> hub_;
    std::shared_ptr<detail::Reader> reader_;
};

/// What runs beside a scheduler, such as sinks and servers.
struct Companion {
    /// Called after events were emitted, on the emitting thread; after a sink was paused,
    /// resumed or told to deliver again, on the thread that did it; and once when the
    /// scheduler stops, and, of a journal that several processes have open, when is_owner(),
    /// applied() or cluster() may answer otherwise.  It must not block.
    std::function<void()> notify;
    /// Under `Drive::caller`: does what is to be done, inside `Scheduler::run_due()`, by one
    /// thread at a time.
    std::function<void()> run;
    /// Under `Drive::caller`: when `run` has something to do, if ever.
    std::function<std::optional<TimePoint>()> next_wake;
};

// ---- 10.3 The public API ---------------------------------------------------

/// Keeps tasks and emits each at its due time.  Every member function may be
/// called from any thread.
class Scheduler {
public:
    /// Called with an event.
    using Callback = std::function<void(const Event&)>;

    /// Opens the journal, if `options` names one, and starts.  Blocks while the
    /// journal is read.  Throws `Error` with `journal_busy`, `journal_unreadable`, `disk_full`
    /// or `journal_failed`.
    explicit Scheduler(Options options = {});
    /// As `stop()`.  Not to be called from a callback.
    ~Scheduler() { stop(); }
    Scheduler(const Scheduler&) = delete;
    Scheduler& operator=(const Scheduler&) = delete;

    // ---- Tasks

    /// Schedules `message`, which is JSON text of an object, an array or a string.
    /// The event's payload is `{"timestamp": due, "message": message}`.  Blocks
    /// until the task is stored.  Throws `Error` if it is refused.
    TaskId schedule(TimePoint due, std::string_view message);
    /// The same, for a moment that lies `delay` ahead.
    TaskId schedule(milliseconds delay, std::string_view message) {
        return schedule(detail::later(now(), delay), message);
    }
    /// Begins to schedule tasks, all of them or none.  A `key` says that requests with it are
    /// one request: a repeated one changes nothing and gets the first answer, for a day and
    /// for as long as a task of it is pending.  Does not block.  Throws `Error`: with
    /// `invalid_argument` if a task or the key is not acceptable or there is no task, with
    /// `key_reused` if the key came with another request, or with `task_limit`,
    /// `clock_untrusted`, `stopped`.
    Ticket submit(const std::vector<NewTask>& tasks, std::string_view key = {});
    /// The same for what a client asked for in JSON, as `TaskRequest::parse` read it.
    Ticket submit(const std::vector<TaskRequest>& requests, std::string_view key = {});
    /// Begins to cancel a pending task.  Does not block.  Throws `Error`: with
    /// `unknown_task`, or with `already_emitted` if it comes too late.
    Ticket begin_cancel(TaskId id) { return store_.begin_cancel(id); }
    /// The same for the pending task that a name means.
    Ticket begin_cancel(std::string_view name) { return store_.begin_cancel(name); }
    /// Begins to cancel the tasks that are due in a range, are chosen by the filter, were
    /// stored before this call and are still pending, all of them or none.  Does not wait for
    /// the disk; takes about half a second for a million tasks.  Throws `Error` with `stopped`.
    Ticket begin_cancel(const DueRange& range, const Filter& filter = {}) {
        return store_.begin_cancel(range, filter);
    }
    /// Begins to make the task of a name, or to replace it in place with everything it has, but
    /// for its id, if one is pending: `ticket.creates()` tells which.  A name is 1 to 128
    /// letters, digits and characters of `._~-`, but no UUID, nor "." nor ".."; it means the
    /// pending task alone and is free again when that has ended.  Does not block; `again()` says
    /// that another change of the task, or its emission, is on its way.  Throws `Error` as
    /// submit() does, and with `condition_failed`.
    Ticket begin_put(std::string_view name, const NewTask& task, PutIf condition = PutIf::any);
    /// The same for what a client asked for in JSON, as `TaskRequest::parse` read it.
    Ticket begin_put(std::string_view name, const TaskRequest& request,
                     PutIf condition = PutIf::any);
    /// Begins to change a pending task in place; it keeps its id.  Does not block.  Throws
    /// `Error` as begin_cancel() does, and with `invalid_argument`.
    Ticket begin_change(TaskId id, const TaskChange& change);
    /// The same for the pending task that a name means.
    Ticket begin_change(std::string_view name, const TaskChange& change);
    /// The same for what a client asked for, as `TaskRequest::parse_change` read it.
    Ticket begin_change(TaskId id, const TaskRequest& change);
    /// The same for the pending task that a name means.
    Ticket begin_change(std::string_view name, const TaskRequest& change);
    /// Begins to forget past events.  Does not block.  Throws `Error` with `stopped`.
    Ticket begin_forget(const EventRange& range) { return store_.begin_forget(range); }

    /// Cancels a pending task.  Blocks until that is stored.  False: there is no such task.
    /// Throws `Error`: with `already_emitted` if it comes too late.
    bool cancel(TaskId id);
    /// The same for the pending task that a name means.
    bool cancel(std::string_view name);
    /// Cancels as begin_cancel() does, and returns how many.  Blocks until that is stored.
    std::size_t cancel(const DueRange& range, const Filter& filter = {});
    /// Changes a pending task in place.  Blocks until that is stored and returns the task.
    /// Throws `Error` as begin_change() does.
    Task change(TaskId id, const TaskChange& change);
    /// The same for the pending task that a name means.
    Task change(std::string_view name, const TaskChange& change);
    /// Makes the task of a name, or replaces the pending one in place, as begin_put() does.
    /// Blocks until that is stored.  Two calls at once end in one task; one that meets the
    /// task's emission makes another when that is shown.
    PutResult put(std::string_view name, const NewTask& task, PutIf condition = PutIf::any);
    /// Forgets past events, and returns how many.  Blocks until that is stored.
    std::size_t forget(const EventRange& range);

    // ---- Several processes with one journal

    /// Whether this scheduler may change tasks and emits them: always, unless its journal is one
    /// that several processes have open.  Of these the others follow: they show what the owner
    /// does, every change throws `Error` with `not_owner`, and their sinks rest.
    bool is_owner() const { return store_.is_owner(); }
    /// The last group of records that is applied here, see `Journal::applied`.
    std::uint64_t applied() const { return store_.applied(); }
    /// Has this group, which another process has stored, applied soon.  Does not block.
    void look_for(std::uint64_t group) noexcept { store_.look_for(group); }
    /// How these processes stand.  Nothing: the journal is this one's alone.
    std::optional<Cluster> cluster() const { return store_.cluster(); }

    // ---- Reading

    /// The task with this id, pending or in the history.
    std::optional<Task> find(TaskId id) const { return store_.find(id); }
    /// The pending task that a name means.
    std::optional<Task> find(std::string_view name) const { return store_.find(name); }
    /// The same tasks, with all that is known of them.
    std::optional<TaskStory> story(TaskId id) const { return store_.story(id); }
    /// The same for the pending task that a name means.
    std::optional<TaskStory> story(std::string_view name) const { return store_.story(name); }
    /// Pending tasks by due time, or missed ones, the newest last: of these `Options::history` are
    /// kept, each for `Options::min_retention` at least.  Emitted ones are in events().  Throws
    /// `Error` with `invalid_argument` if a topic of its filter cannot be one, as all do that
    /// take a filter.
    TaskPage tasks(const TaskQuery& query = {}) const { return store_.tasks(query); }
    /// How many tasks are pending in each of `buckets` equal spans, at most
    /// `Histogram::max_buckets`, from `range.after` to `range.before`, which are exclusive
    /// as ever; where one is not given, from the first task or to the last.  It takes about
    /// as long as there are buckets, however many tasks there are.  Throws `Error` with
    /// `invalid_argument`.
    Histogram histogram(const DueRange& range = {}, std::size_t buckets = 100) const {
        return store_.histogram(range, buckets);
    }
    /// Past events in order of emission.
    EventPage events(const EventQuery& query = {}) const { return store_.events(query); }

    // ---- Pausing

    /// Begins to hold back all emissions, until resumed, also after a restart.  Tasks are
    /// taken, changed and cancelled meanwhile; what falls due waits.  `reason`, of at most
    /// 500 bytes of UTF-8 without control characters, is shown wherever the pause
    /// is; a pause that follows another one keeps the beginning of that, and its reason too
    /// unless it gives another.  Does not block.  Throws `Error` with `invalid_argument` or
    /// `stopped`.
    Ticket begin_pause(std::string_view reason = {});
    /// Begins to end a pause: what fell due meanwhile is emitted, or missed, by its lateness.
    /// Without a pause it changes nothing.  Does not block.  Throws `Error` with `stopped`.
    Ticket begin_resume() { return store_.begin_resume(); }
    /// Holds back all emissions, see begin_pause().  Blocks until that is stored: nothing is
    /// emitted from then on, and what was being emitted is shown.
    void pause(std::string_view reason = {}) { begin_pause(reason).wait(); }
    /// Ends a pause, see begin_resume().  Blocks until that is stored.
    void resume() { begin_resume().wait(); }
    /// Since when and why nothing is emitted.  Nothing: it is not paused.
    std::optional<Pause> paused() const { return store_.paused(); }

    // ---- Callbacks

    /// Calls `callback` for each event from the cursor `from` on, in order, on a thread of
    /// its own (under `Drive::caller` inside `run_due()`), until the subscription ends.  It
    /// may call the scheduler, but not `stop()`.  What it throws goes to `Options::on_error`.
    /// With a filter it is called with those alone that this chooses.
    Subscription subscribe(Callback callback, Cursor from = Cursor::now(), Filter filter = {});
    /// The same for the scheduler's life, from the first event on that this object emits.
    void on_event(Callback callback);
    /// Blocks until there is an event at or behind the cursor (true), or until `timeout`
    /// has passed by the real clock, or the scheduler stops (false).  Under `Drive::caller` it
    /// does not block.
    bool wait_for(Cursor cursor, milliseconds timeout) const;
    /// Blocks until no task is pending and every callback has had every event that the history
    /// still held for it (`Options::history`, `Options::min_retention`), those of tasks
    /// that callbacks schedule meanwhile included (true), or until the scheduler stops
    /// (false).  While paused it waits, for tasks that are due too, until another thread resumes.
    /// It does not wait for sinks or streams.  Under `Drive::caller` it runs what is
    /// due by itself.  Throws `Error` with `invalid_argument` inside a callback, which would
    /// wait for itself, and under `Drive::caller` with a clock that you set, which does not go
    /// by itself.
    bool drain();

    // ---- The journal

    /// What is stored at this moment, to be copied.  May wait for a commit that is under way, and
    /// nothing waits for what is done with it.  Null: there is no file.  Throws `Error` with
    /// `journal_failed`.
    std::shared_ptr<const JournalSnapshot> snapshot() { return store_.snapshot(); }
    /// Writes what is stored at this moment to a file of its own, which is a journal, and
    /// returns its size.  It gets its name when it is whole and synced.  Blocks; nothing else waits
    /// for it.  Throws `Error`: with `invalid_argument` if there is no journal, or if there is such
    /// a file and it may not be overwritten, with `journal_busy` if a scheduler has it
    /// open, or with `disk_full` or `journal_failed`.
    std::uint64_t backup(const std::string& path, bool overwrite = false);

    // ---- Time and threads

    /// When run_due() has something to do next, if ever; another call may make that earlier.
    std::optional<TimePoint> next_wake() const;
    /// Under `Drive::caller`: emits what is due, calls callbacks and sinks, and does the
    /// journal's work.  Blocks for as long as that takes; several threads take turns.
    /// Returns how many tasks were emitted.  Inside a callback or a sink it does nothing, nor
    /// under `Drive::thread`.
    std::size_t run_due();
    /// The scheduler's clock.
    TimePoint now() const { return store_.now(); }
    /// Makes the scheduler look at its clock again; needed only with `Options::now`.
    void clock_changed();
    /// Whether the thread that emits has, since the last call, emitted something or found nothing
    /// that it may emit, as while it is paused; and has it look again.  For a watchdog, which asks
    /// now and then; the first call, and every one under `Drive::caller`, is true.
    bool check_pulse();
    /// Figures of this moment.
    Stats stats() const { return store_.stats(); }
    /// How this stands: the figures, what is overdue, and how late events were, by minute.
    Overview overview() const { return store_.overview(); }
    /// The options that it was made with.
    const Options& options() const { return store_.options(); }
    /// Stops emitting, ends the callbacks when they have had every event, stores what was begun
    /// and closes the journal.  What is pending stays in the journal.  Every later change
    /// throws `Error` with `stopped`.  May be called again, and by several threads at once:
    /// each call returns when all of this is done.  Throws `Error` with `invalid_argument`
    /// inside a callback, which would wait for itself.
    void stop();

    // ---- For sinks and servers

    /// The cursor of a retained event: reading goes on with it.
    std::optional<Cursor> cursor_of(TaskId event) const { return store_.cursor_of(event); }
    /// Whether others may have heard of an event with this id before this process: it is being
    /// emitted here; or elsewhere, as its task is pending, or newer than all that there were.
    bool is_to_come(TaskId event) const { return store_.is_to_come(event); }
    /// The id of the event right before a cursor, if it is retained.
    std::optional<TaskId> event_before(Cursor cursor) const { return store_.event_before(cursor); }
    /// The cursor of the oldest event that is retained.
    Cursor oldest() const { return store_.oldest(); }
    /// The cursor behind the newest event: that of the next one.
    Cursor newest() const { return store_.newest(); }

    /// How each sink stands, by name.
    std::vector<SinkStatus> sinks() const { return store_.sinks(); }
    /// At most `limit` dead letters of a sink, in order of emission, behind the one with
    /// the id `after`; they end when their payloads reach `max_bytes`.  Throws `Error` with
    /// `unknown_sink` or `unknown_task`.
    DeadPage dead_letters(const std::string& sink, std::optional<TaskId> after = std::nullopt,
                          std::size_t limit = 100,
                          std::size_t max_bytes = std::size_t{4} << 20) const {
        return store_.dead_letters(sink, after, limit, max_bytes);
    }
    /// Has a dead letter delivered again, or all of them; each is tried once.  Blocks
    /// until that is stored and returns how many they are.  Throws `Error` as above.
    std::size_t redeliver(const std::string& sink, std::optional<TaskId> id = std::nullopt);
    /// Holds back a sink's events, or goes on with them at once.  Blocks until that is
    /// stored.  Throws `Error` with `unknown_sink`.
    void pause_sink(const std::string& sink) { set_sink_state(sink, SinkState::paused); }
    /// Goes on with a sink's events at once.  Blocks and throws as `pause_sink()` does.
    void resume_sink(const std::string& sink) { set_sink_state(sink, SinkState::active); }
    /// Drops the cursor and the dead letters of a sink that nobody delivers to.  Blocks
    /// until that is stored.  Throws `Error` with `unknown_sink`, or with `sink_listed`
    /// while it is one of those given to `Sinks`.
    void forget_sink(const std::string& sink);
    /// Makes these the sinks that are delivered to: one that the journal does not know begins
    /// with the first event that this object emits, or with the oldest that is retained;
    /// `others` says what becomes of those that are not named here.  Blocks until that is
    /// stored.  Once at a time: until close_sinks(), it throws `Error` with
    /// `invalid_argument`.
    void open_sinks(const std::vector<SinkSetup>& setups, Unlisted others = Unlisted::keep);
    /// Makes these the sinks that are delivered to, in the place of those of open_sinks(): one
    /// that the journal does not know begins with the next event that is emitted, or with the
    /// oldest that is retained; one that is left out is kept, unlisted.  Blocks until that is
    /// stored.
    void replace_sinks(const std::vector<SinkSetup>& setups);
    /// Lets open_sinks() be called again; what the sinks have taken stays.
    void close_sinks();
    /// What a sink is to be given next.  Nothing: it has taken all there is, or is not
    /// active; `Companion::notify` tells when that may have changed.
    /// With `most`, up to so many events that wait, at the first attempt; each further one is
    /// of fewer, and the last of `retries` is of one.
    std::optional<Delivery> next_delivery(const std::string& sink, std::size_t most = 1,
                                          std::size_t retries = 0) {
        return store_.next_delivery(sink, most, retries);
    }
    /// Remembers what became of a delivery.  A failure with a time to wait is one more
    /// failed attempt; without, the event, and each that went with it, is a dead letter, and the
    /// call blocks until that is stored.  Throws `Error`.
    void settle(const Delivery& delivery, const Outcome& outcome) {
        store_.settle(delivery, outcome);
    }
    /// Hands a record to `Options::log`, if it wants its level.  Not to be called under a lock
    /// that the log takes.  Does not throw.
    void log(LogRecord record) noexcept { store_.say(std::move(record)); }
    /// Whether `Options::log` is called with records of this level.  Any thread.
    bool logs(LogLevel level) const noexcept { return store_.logs(level); }
    /// Records below this level are not made from here on.  Any thread.
    void set_log_level(LogLevel level) noexcept { store_.set_log_level(level); }
    /// Whether the caller runs what is due.
    Drive drive() const { return store_.options().drive; }
    /// Adds what runs beside this; returns a handle to remove it by.
    std::size_t add_companion(Companion companion);
    /// Removes it; none of its functions is being called when this returns, unless this is
    /// called by its `run`.
    void remove_companion(std::size_t handle);

private:
    static detail::TaskRef make_task(const NewTask& task, std::string_view name, TimePoint latest);
    static detail::TaskRef make_task(const TaskRequest& request, std::string_view name,
                                     TimePoint latest);
    template <class Key>
    Ticket begin_change_of(Key key, const TaskChange& change);
    template <class Key>
    Ticket begin_change_of(Key key, const TaskRequest& change);
    template <class Begin>
    static Ticket carry_out(Begin begin);
    template <class Key>
    bool cancel_one(Key key);
    void run();
    bool emit_due(bool& emitted) noexcept;
    // Hands a record to the log; without memory for it, that is said instead.
    void say(LogLevel level, const char* event, const char* sentence) noexcept {
        detail::tell([this](const LogRecord& record) { store_.say(record); }, level, event,
                     sentence);
    }
    auto take_turn();
    void check_outside(const char* call) const;
    void call_readers();
    void run_companions();
    std::shared_ptr<detail::Reader> add_reader(Callback callback, Cursor from, Filter filter);
    void run_reader(const std::shared_ptr<detail::Reader>& reader);
    bool read_on(const std::shared_ptr<detail::Reader>& reader);
    void call(const Callback& callback, const Event& event) const noexcept;
    void wake_readers();
    void notify_companions();
    void set_sink_state(const std::string& sink, SinkState state);
    std::optional<Cursor> wait_for_last_emission();
    bool wait_for_callbacks(Cursor end);
    bool drain_here();
    void sleep(std::unique_lock<std::mutex>& lock, std::optional<TimePoint> until);

    detail::Store store_;
    const Cursor first_;                       // of the first event that this object emits
    detail::WallTimer wake_;                   // with the store's mutex
    std::condition_variable drained_;          // with the store's mutex: it may be empty, or stops
    std::optional<TimePoint> sleeping_until_;  // guarded by the store's mutex
    bool sleeping_ = false;                    // guarded by the store's mutex
    bool stopping_ = false;                    // guarded by the store's mutex
    std::atomic<bool> has_turned_{true};       // since check_pulse() was called

    const std::shared_ptr<detail::ReaderHub> hub_ = std::make_shared<detail::ReaderHub>();
    mutable std::mutex companions_mutex_;
    std::vector<Companion> companions_;   // guarded by companions_mutex_; empty ones are removed
    std::optional<std::size_t> running_;  // guarded by companions_mutex_: whose run() is called
    std::thread::id running_on_;          // guarded by companions_mutex_
    std::condition_variable ran_;         // with companions_mutex_
    std::mutex listing_mutex_;            // held while it changes which sinks there are
    bool sinks_open_ = false;             // guarded by listing_mutex_
    std::mutex stop_mutex_;               // before all others: of who stops
    std::thread thread_;                  // last: starts when all the above exists
};

inline Scheduler::Scheduler(Options options) : store_(std::move(options)), first_(store_.newest()) {
    hub_->newest = first_;
    store_.on_due_changed = [this] {
        drained_.notify_all();
        if (!sleeping_) return;
        const auto wake = store_.next_wake_locked();
        const bool is_earlier = wake && (!sleeping_until_ || *wake < *sleeping_until_);
        if (is_earlier || drive() == Drive::caller) wake_.wake();  // W2; or it sleeps in drain()
    };
    {
        const std::lock_guard<std::mutex> guard(store_.mutex());
        store_.on_followed = [this] { wake_readers(); };
    }
    if (drive() == Drive::caller) return;
    if (store_.options().wake_device) {
        const std::string problem = wake_.wake_device();
        if (!problem.empty()) {
            const std::string told = "a task that is due will not wake a suspended machine: ";
            say(LogLevel::warning, "device.not_woken", (told + problem).c_str());
        }
    }
    thread_ = std::thread([this] { run(); });
}

// ---- 10.4 Tasks ------------------------------------------------------------

inline TaskId Scheduler::schedule(TimePoint due, std::string_view message) {
    Ticket ticket = submit({NewTask{due, std::string(message)}});
    const TaskId id = ticket.ids().front();
    ticket.wait();
    return id;
}

inline detail::TaskRef Scheduler::make_task(const NewTask& task, std::string_view name,
                                            TimePoint latest) {
    const milliseconds most = task.max_lateness.value_or(milliseconds(0));
    const detail::Details details{name, task.topic, most, {}, {}};
    detail::check_due(task.due, latest);
    detail::check_details({name, {}, {}, {}, {}});  // payload_of() checks the others
    return detail::TaskRef::make(TaskId(), task.due, detail::payload_of(task), details);
}

inline detail::TaskRef Scheduler::make_task(const TaskRequest& request, std::string_view name,
                                            TimePoint latest) {
    if (!request.errors.empty()) throw Error(Errc::invalid_argument, request.errors.front());
    if (!request.is_task_) {
        throw Error(Errc::invalid_argument, "TaskRequest::parse() has not read this request");
    }
    const detail::Details details{name, request.topic,
                                  request.max_lateness.value_or(milliseconds(0)),
                                  request.traceparent_, request.tracestate_};
    detail::check_due(request.due, latest);
    detail::check_details(details);
    return detail::TaskRef::make(TaskId(), request.due, request.payload, details);
}

inline Ticket Scheduler::submit(const std::vector<NewTask>& tasks, std::string_view key) {
    if (tasks.empty()) throw Error(Errc::invalid_argument, "there is no task to schedule");
    const TimePoint latest = one_year_after(now());
    std::vector<detail::TaskRef> stored;
    std::string identity;
    stored.reserve(tasks.size());
    for (const NewTask& task : tasks) {
        stored.push_back(make_task(task, {}, latest));
        const std::string_view payload = stored.back()->text();
        if (!key.empty()) identity.append(payload) += '\n';
    }
    const std::string timestamp = format_time(tasks.front().due);
    return store_.begin_schedule(std::move(stored), {key, identity, timestamp});
}

inline Ticket Scheduler::submit(const std::vector<TaskRequest>& requests, std::string_view key) {
    if (requests.empty()) throw Error(Errc::invalid_argument, "there is no task to schedule");
    const TimePoint latest = one_year_after(now());
    std::vector<detail::TaskRef> tasks;
    std::string identity;
    tasks.reserve(requests.size());
    for (const TaskRequest& request : requests) {
        tasks.push_back(make_task(request, {}, latest));
        if (key.empty()) continue;
        identity += request.identity.empty() ? request.payload : request.identity;
        identity += '\n';
    }
    return store_.begin_schedule(std::move(tasks), {key, identity, requests.front().timestamp});
}

inline Ticket Scheduler::begin_put(std::string_view name, const NewTask& task, PutIf condition) {
    if (!is_task_name(name)) throw Error(Errc::invalid_argument, detail::name_rule);
    return store_.begin_put(make_task(task, name, one_year_after(now())), format_time(task.due),
                            condition);
}

inline Ticket Scheduler::begin_put(std::string_view name, const TaskRequest& request,
                                   PutIf condition) {
    if (!is_task_name(name)) throw Error(Errc::invalid_argument, detail::name_rule);
    return store_.begin_put(make_task(request, name, one_year_after(now())), request.timestamp,
                            condition);
}

template <class Key>
Ticket Scheduler::begin_change_of(Key key, const TaskChange& change) {
    std::string message;
    if (change.message) detail::append_message(message, *change.message);
    const TimePoint latest = one_year_after(now());
    if (change.due) detail::check_due(*change.due, latest);
    const std::string timestamp = change.due ? format_time(*change.due) : std::string();
    return store_.begin_change(key, change.due, timestamp, message);
}

template <class Key>
Ticket Scheduler::begin_change_of(Key key, const TaskRequest& change) {
    if (!change.errors.empty()) throw Error(Errc::invalid_argument, change.errors.front());
    const bool moved = !change.timestamp.empty();
    return store_.begin_change(key, moved ? std::optional(change.due) : std::nullopt,
                               change.timestamp, change.message);
}

inline Ticket Scheduler::begin_change(TaskId id, const TaskChange& change) {
    return begin_change_of(id, change);
}

inline Ticket Scheduler::begin_change(std::string_view name, const TaskChange& change) {
    return begin_change_of(name, change);
}

inline Ticket Scheduler::begin_change(TaskId id, const TaskRequest& change) {
    return begin_change_of(id, change);
}

inline Ticket Scheduler::begin_change(std::string_view name, const TaskRequest& change) {
    return begin_change_of(name, change);
}

inline Ticket Scheduler::begin_pause(std::string_view reason) {
    const std::string problem = detail::reason_problem(reason);
    if (!problem.empty()) throw Error(Errc::invalid_argument, problem);
    return store_.begin_pause(reason);
}

// Begins a change, again and again while another one of the same thing is on its way, and
// returns when it is stored.
template <class Begin>
Ticket Scheduler::carry_out(Begin begin) {
    for (;;) {
        Ticket ticket = begin();
        ticket.wait();
        if (!ticket.again()) return ticket;
    }
}

template <class Key>
bool Scheduler::cancel_one(Key key) {
    try {
        return carry_out([&] { return begin_cancel(key); }).count() > 0;
    } catch (const Error& error) {
        if (error.code() == Errc::unknown_task) return false;
        throw;
    }
}

inline bool Scheduler::cancel(TaskId id) {
    return cancel_one(id);
}

inline bool Scheduler::cancel(std::string_view name) {
    return cancel_one(name);
}

inline std::size_t Scheduler::cancel(const DueRange& range, const Filter& filter) {
    return carry_out([&] { return begin_cancel(range, filter); }).count();
}

inline Task Scheduler::change(TaskId id, const TaskChange& change) {
    return carry_out([&] { return begin_change(id, change); }).task();
}

inline Task Scheduler::change(std::string_view name, const TaskChange& change) {
    return carry_out([&] { return begin_change(name, change); }).task();
}

inline PutResult Scheduler::put(std::string_view name, const NewTask& task, PutIf condition) {
    const Ticket ticket = carry_out([&] { return begin_put(name, task, condition); });
    return {ticket.ids().front(), ticket.creates()};
}

inline std::size_t Scheduler::forget(const EventRange& range) {
    return carry_out([&] { return begin_forget(range); }).count();
}

// ---- 10.5 Emission ---------------------------------------------------------

inline void Scheduler::run() {
    std::unique_lock<std::mutex> lock(store_.mutex());
    while (!stopping_) {
        const auto wake = store_.next_wake_locked();
        if (wake && *wake <= store_.now()) {
            lock.unlock();
            bool emitted = false;
            const bool well = emit_due(emitted);
            if (well) has_turned_ = true;
            lock.lock();
            if (store_.is_empty_locked()) drained_.notify_all();
            if (!well) wake_.wait(lock, wall_clock() + std::chrono::seconds(1));
            continue;
        }
        has_turned_ = true;
        sleep(lock, wake);
    }
}

// A clock of the options is not waited for: its owner calls clock_changed().
inline void Scheduler::sleep(std::unique_lock<std::mutex>& lock, std::optional<TimePoint> until) {
    sleeping_ = true;
    sleeping_until_ = until;
    if (store_.options().now) {
        wake_.wait(lock, std::nullopt);
    } else {
        wake_.wait(lock, until, store_.next_emission_locked());  // W1
    }
    sleeping_ = false;
}

// False: there was no memory for all of it, and it is to be tried again.
inline bool Scheduler::emit_due(bool& emitted) noexcept {
    bool well = true;
    try {
        emitted = store_.emit_due();
    } catch (const std::exception& error) {
        emitted = true;  // it may be
        well = false;
        say(LogLevel::error, "emission.failed", error.what());
    }
    if (emitted) wake_readers();
    return well;
}

inline void Scheduler::wake_readers() {
    {
        const std::lock_guard<std::mutex> guard(hub_->mutex);
        hub_->newest = store_.newest();
    }
    hub_->changed.notify_all();
    notify_companions();
}

inline void Scheduler::notify_companions() {
    const std::lock_guard<std::mutex> guard(companions_mutex_);
    for (const Companion& companion : companions_) {
        if (companion.notify) companion.notify();
    }
}

inline std::size_t Scheduler::add_companion(Companion companion) {
    const std::lock_guard<std::mutex> guard(companions_mutex_);
    companions_.push_back(std::move(companion));
    return companions_.size() - 1;
}

inline void Scheduler::remove_companion(std::size_t handle) {
    Companion removed;  // its functions end without the lock
    std::unique_lock<std::mutex> lock(companions_mutex_);
    std::swap(removed, companions_[handle]);
    ran_.wait(lock, [this, handle] {
        return running_ != handle || running_on_ == std::this_thread::get_id();
    });
    lock.unlock();
}

inline std::optional<TimePoint> Scheduler::next_wake() const {
    std::optional<TimePoint> wake;
    const auto add = [&wake](std::optional<TimePoint> one) {
        if (one && (!wake || *one < *wake)) wake = one;
    };
    {
        const std::lock_guard<std::mutex> guard(store_.mutex());
        if (stopping_) return std::nullopt;
        add(store_.next_wake_locked());
        if (drive() == Drive::caller) add(store_.next_tending_locked());
    }
    if (drive() == Drive::thread) return wake;
    {
        const std::lock_guard<std::mutex> guard(hub_->mutex);
        for (const auto& reader : hub_->readers) {
            if (!reader->stopping && reader->next < hub_->newest) add(now());
        }
    }
    const std::lock_guard<std::mutex> guard(companions_mutex_);
    for (const Companion& companion : companions_) {
        if (companion.next_wake) add(companion.next_wake());
    }
    return wake;
}

// Waits for this thread's turn in run_due(), and gives it up at the end of a scope.
inline auto Scheduler::take_turn() {
    std::unique_lock<std::mutex> lock(hub_->mutex);
    hub_->changed.wait(lock, [this] { return hub_->runner == std::thread::id(); });
    hub_->runner = std::this_thread::get_id();
    return detail::AtExit([this] {
        const std::lock_guard<std::mutex> guard(hub_->mutex);
        hub_->runner = std::thread::id();
        hub_->changed.notify_all();
    });
}

inline void Scheduler::check_outside(const char* call) const {
    const std::lock_guard<std::mutex> guard(hub_->mutex);
    if (!hub_->is_inside_locked()) return;
    throw Error(Errc::invalid_argument,
                std::string(call) + " inside a callback would wait for itself");
}

inline std::size_t Scheduler::run_due() {
    if (drive() == Drive::thread) return 0;
    {
        const std::lock_guard<std::mutex> guard(hub_->mutex);
        if (hub_->is_inside_locked()) return 0;
    }
    const auto turn = take_turn();
    const std::uint64_t before = stats().emitted;
    const auto is_due = [this] {
        const std::lock_guard<std::mutex> guard(store_.mutex());
        const auto wake = store_.next_wake_locked();
        return !stopping_ && wake && *wake <= store_.now();
    };
    {
        const std::lock_guard<std::mutex> guard(store_.mutex());
        if (stopping_) return 0;
    }
    store_.tend_now();
    for (bool emitted = true; emitted && is_due();) {
        if (!emit_due(emitted)) break;
    }
    call_readers();
    run_companions();
    store_.tend_now();
    return static_cast<std::size_t>(stats().emitted - before);
}

// Calls all callbacks, in a thread's turn, until they have had every event.
inline void Scheduler::call_readers() {
    for (bool more = true; more;) {
        more = false;
        std::vector<std::shared_ptr<detail::Reader>> readers;
        {
            const std::lock_guard<std::mutex> guard(hub_->mutex);
            readers.assign(hub_->readers.begin(), hub_->readers.end());
        }
        for (const auto& reader : readers) more = read_on(reader) || more;
    }
}

inline void Scheduler::run_companions() {
    for (std::size_t i = 0;; ++i) {
        std::function<void()> run;
        {
            const std::lock_guard<std::mutex> guard(companions_mutex_);
            if (i >= companions_.size()) return;
            run = companions_[i].run;
            if (!run) continue;
            running_ = i;
            running_on_ = std::this_thread::get_id();
        }
        const detail::AtExit end([this] {
            const std::lock_guard<std::mutex> guard(companions_mutex_);
            running_.reset();
            ran_.notify_all();
        });
        run();
    }
}

// ---- 10.6 Callbacks --------------------------------------------------------

inline std::shared_ptr<detail::Reader> Scheduler::add_reader(Callback callback, Cursor from,
                                                             Filter filter) {
    detail::check_topics(filter.topics);
    auto reader = std::make_shared<detail::Reader>();
    reader->callback = std::move(callback);
    reader->filter = std::move(filter);
    hub_->drop_ended();
    const std::lock_guard<std::mutex> guard(hub_->mutex);
    if (hub_->stopping) detail::throw_as(Errc::stopped, {"the scheduler is shutting down"});
    reader->next = std::min(from, store_.newest());  // Cursor::now() is behind everything
    hub_->readers.push_back(reader);
    reader->ended = drive() == Drive::caller;
    if (reader->ended) return reader;
    try {
        reader->thread = std::thread([this, reader] { run_reader(reader); });
    } catch (...) {
        hub_->readers.pop_back();
        throw;
    }
    return reader;
}

inline Subscription Scheduler::subscribe(Callback callback, Cursor from, Filter filter) {
    Subscription subscription;
    subscription.reader_ = add_reader(std::move(callback), from, std::move(filter));
    subscription.hub_ = hub_;
    return subscription;
}

inline void Scheduler::on_event(Callback callback) {
    add_reader(std::move(callback), first_, {});
}

inline void Scheduler::run_reader(const std::shared_ptr<detail::Reader>& reader) {
    const std::shared_ptr<detail::ReaderHub> hub = hub_;
    std::unique_lock<std::mutex> lock(hub->mutex);
    for (;;) {
        hub->changed.wait(
            lock, [&] { return hub->stopping || reader->stopping || reader->next < hub->newest; });
        if (reader->stopping || !(reader->next < hub->newest)) break;
        lock.unlock();
        const bool well = read_on(reader);
        lock.lock();
        if (!well) hub->changed.wait_for(lock, std::chrono::seconds(1));
    }
    reader->ended = true;
    hub->changed.notify_all();
}

// Calls the callback with the next events, at most a page of them.  False: there were none,
// or there is no memory for a page.
inline bool Scheduler::read_on(const std::shared_ptr<detail::Reader>& reader) {
    EventQuery query;
    {
        const std::lock_guard<std::mutex> guard(hub_->mutex);
        if (reader->stopping || !(reader->next < hub_->newest)) return false;
        query.from = reader->next;
        reader->caller = std::this_thread::get_id();
    }
    query.limit = detail::Store::batch;
    EventPage page;
    try {
        query.filter = reader->filter;
        page = events(query);
    } catch (const std::exception&) {
        page.next = query.from;
    }
    if (page.lost && query.from != Cursor::earliest()) {
        say(LogLevel::warning, "callback.lagged",
            "a callback was too slow; events that it had not taken are gone");
    }
    for (const Event& event : page.events) {
        {
            const std::lock_guard<std::mutex> guard(hub_->mutex);
            if (reader->stopping) break;
        }
        call(reader->callback, event);
    }
    const std::lock_guard<std::mutex> guard(hub_->mutex);
    reader->next = page.next;
    reader->caller = std::thread::id();
    hub_->changed.notify_all();
    return page.next != query.from;
}

// What a callback throws, and what telling of it throws, ends nothing.
inline void Scheduler::call(const Callback& callback, const Event& event) const noexcept {
    try {
        callback(event);
    } catch (...) {
        try {
            if (store_.options().on_error) store_.options().on_error(std::current_exception());
        } catch (...) {
        }
    }
}

inline bool Scheduler::wait_for(Cursor cursor, milliseconds timeout) const {
    std::unique_lock<std::mutex> lock(hub_->mutex);
    if (cursor == Cursor::now()) cursor = store_.newest();
    const auto ready = [this, cursor] { return hub_->stopping || cursor < hub_->newest; };
    if (drive() == Drive::thread) {
        hub_->changed.wait_for(lock, std::clamp(timeout, milliseconds(0), detail::longest_wait),
                               ready);
    }
    return cursor < hub_->newest;
}

inline bool Scheduler::drain() {
    check_outside("drain()");
    if (drive() == Drive::caller) return drain_here();
    // A callback may have scheduled more, so nothing counts until nothing has changed.
    for (std::optional<Cursor> end = wait_for_last_emission(); end;) {
        if (!wait_for_callbacks(*end)) return false;
        const auto now = wait_for_last_emission();
        if (now == end) return true;
        end = now;
    }
    return false;
}

// Under Drive::caller, where the clock must go by itself.
inline bool Scheduler::drain_here() {
    for (;;) {
        run_due();
        std::unique_lock<std::mutex> lock(store_.mutex());
        if (stopping_) return false;
        if (store_.is_empty_locked()) return true;
        const auto wake = store_.next_wake_locked();
        if (wake && store_.options().now) {
            if (*wake <= store_.now()) continue;
            detail::throw_as(Errc::invalid_argument,
                             {"drain() cannot wait for a clock that you set"});
        }
        if (!wake || sleeping_) {  // what another thread has begun is on its way
            drained_.wait(lock);
        } else {
            sleep(lock, wake);
            drained_.notify_all();
        }
    }
}

// Blocks until no task is pending, and returns the cursor behind the newest event.
// Nothing: the scheduler stops.
inline std::optional<Cursor> Scheduler::wait_for_last_emission() {
    std::unique_lock<std::mutex> lock(store_.mutex());
    store_.store_begun_locked();  // whose tickets this thread may hold
    drained_.wait(lock, [this] { return stopping_ || store_.is_empty_locked(); });
    if (stopping_) return std::nullopt;
    return store_.newest_locked();
}

// Blocks until every callback has finished the events before `end`.  False: the
// scheduler stops.
inline bool Scheduler::wait_for_callbacks(Cursor end) {
    std::unique_lock<std::mutex> lock(hub_->mutex);
    const auto is_done = [end](const std::shared_ptr<detail::Reader>& reader) {
        return reader->stopping || !(reader->next < end);
    };
    hub_->changed.wait(lock, [this, is_done] {
        return hub_->stopping || std::all_of(hub_->readers.begin(), hub_->readers.end(), is_done);
    });
    return !hub_->stopping;
}

// ---- 10.7 Sinks ------------------------------------------------------------

inline void Scheduler::open_sinks(const std::vector<SinkSetup>& setups, Unlisted others) {
    const std::lock_guard<std::mutex> guard(listing_mutex_);
    if (sinks_open_) {
        detail::throw_as(Errc::invalid_argument,
                         {"this scheduler's sinks are already delivered to"});
    }
    store_.open_sinks(setups, first_, others);
    sinks_open_ = true;
}

inline void Scheduler::replace_sinks(const std::vector<SinkSetup>& setups) {
    const std::lock_guard<std::mutex> guard(listing_mutex_);
    if (!sinks_open_)
        detail::throw_as(Errc::invalid_argument, {"this scheduler's sinks are not open"});
    store_.open_sinks(setups, store_.newest(), Unlisted::keep);
}

inline void Scheduler::close_sinks() {
    const std::lock_guard<std::mutex> guard(listing_mutex_);
    store_.close_sinks();
    sinks_open_ = false;
}

inline void Scheduler::forget_sink(const std::string& sink) {
    const std::lock_guard<std::mutex> guard(listing_mutex_);
    store_.forget_sink(sink);
}

inline std::size_t Scheduler::redeliver(const std::string& sink, std::optional<TaskId> id) {
    const std::size_t count = store_.redeliver(sink, id);
    notify_companions();
    return count;
}

inline void Scheduler::set_sink_state(const std::string& sink, SinkState state) {
    store_.set_sink_state(sink, state);
    notify_companions();
}

// ---- 10.8 Backups ----------------------------------------------------------

inline std::uint64_t Scheduler::backup(const std::string& path, bool overwrite) {
    FileOps ops;
    detail::check_unused(ops, path);
    detail::NewFile copy(ops, path, overwrite);
    const auto taken = snapshot();
    if (!taken)
        detail::throw_as(Errc::invalid_argument, {"there is no journal that could be copied"});
    std::vector<char> room(std::size_t{1} << 18);
    while (copy.size() < taken->size()) {
        const std::size_t size = taken->read(room.data(), room.size(), copy.size());
        if (size == 0)
            detail::throw_as(Errc::journal_failed, {"the journal is shorter than it was"});
        copy.append({room.data(), size});
    }
    copy.finish();
    return copy.size();
}

// ---- 10.9 The end ----------------------------------------------------------

inline void Scheduler::clock_changed() {
    const std::lock_guard<std::mutex> guard(store_.mutex());
    wake_.wake();
}

inline bool Scheduler::check_pulse() {
    if (drive() == Drive::caller) return true;
    const bool has_turned = has_turned_.exchange(false);
    clock_changed();
    return has_turned;
}

inline void Scheduler::stop() {
    check_outside("stop()");
    const std::lock_guard<std::mutex> one_at_a_time(stop_mutex_);
    {
        const std::lock_guard<std::mutex> guard(store_.mutex());
        stopping_ = true;
        wake_.wake();
        drained_.notify_all();
    }
    if (thread_.joinable()) thread_.join();
    if (drive() == Drive::caller) {
        const auto turn = take_turn();
        call_readers();
    }
    std::list<std::shared_ptr<detail::Reader>> readers;
    {
        const std::lock_guard<std::mutex> guard(hub_->mutex);
        hub_->stopping = true;
        readers = hub_->readers;
    }
    hub_->changed.notify_all();
    for (const auto& reader : readers) {
        std::unique_lock<std::mutex> lock(hub_->mutex);
        hub_->join(lock, reader);
        hub_->readers.remove(reader);
    }
    store_.close();
    const std::lock_guard<std::mutex> guard(companions_mutex_);
    for (Companion& companion : companions_) {
        if (companion.notify) companion.notify();
        companion = Companion();  // handles stay valid
    }
}

// ============================================================================
// 11. Sinks
// ============================================================================
//
// A sink takes every event, durably: its cursor is in the journal, so that what was
// emitted while it, or the scheduler, was down reaches it all the same.
//
//   K1  A sink gets one event, or one batch, at a time, in order, on a thread of its own.  A
//       slow or dead one delays nobody else.
//   K2  An event counts as taken when deliver() says so.  The record of that is
//       written behind: what a crash takes away is delivered again, with the same id.
//   K3  A failed attempt is journaled with the time of the next, so that waits go on
//       after a restart.  After the last one the event is a dead letter, durably,
//       before the next event has its turn.
//   K4  What is secret of a sink is never shown, logged or journaled.
//   K5  What fails for want of a descriptor, memory or a thread of ours is no attempt: a
//       receiver is not blamed for it.

namespace detail {

// There is no descriptor, memory or thread for something.
struct Shortage : std::runtime_error {
    using std::runtime_error::runtime_error;
};

inline bool is_shortage(int error) {
    return error == EMFILE || error == ENFILE || error == ENOMEM || error == ENOBUFS;
}

// Throws for a call that has failed with this errno: Shortage if something was used up here,
// else std::system_error.
[[noreturn]] inline void throw_errno(int error, const std::string& what) {
    if (!is_shortage(error)) throw std::system_error(error, std::generic_category(), what);
    throw Shortage(concat({what, ": ", std::generic_category().message(error)}));
}

}  // namespace detail

// ---- 11.1 The public API ---------------------------------------------------

/// Takes events, one or a batch at a time, each at least once.
class Sink {
public:
    virtual ~Sink() = default;
    /// Delivers an event, on the sink's own thread; blocks until it is taken or that has
    /// failed.  What it throws is a failure, but for `std::bad_alloc` and a
    /// `std::system_error` that tells of no memory or no descriptor: those postpone it.
    /// It may call the scheduler.
    virtual Outcome deliver(const Delivery& delivery) = 0;
    /// How many events deliver() takes at once, of those that wait: the first, and the others
    /// in `Delivery::more`, in order.  They share their outcome.
    virtual std::size_t max_batch() const { return 1; }
    /// Makes a deliver() that is under way return soon.  From another thread; it may be
    /// called again and again.
    virtual void interrupt() {}
    /// What it is, in a word.
    virtual std::string kind() const { return "callback"; }
    /// Where it delivers to, without anything secret.
    virtual std::string target() const { return ""; }
};

/// A sink and how it is delivered to.
struct SinkOptions {
    /// The name of its cursor: 1 to 64 letters, digits, '-', '_' and '.'.
    std::string name;
    /// What its events are delivered to.
    std::shared_ptr<Sink> sink;
    /// The waits between attempts; after the last attempt the event is a dead letter.
    /// Each is lengthened by up to a tenth, at random.
    std::vector<milliseconds> retry{std::chrono::seconds(5),  std::chrono::minutes(5),
                                    std::chrono::minutes(30), std::chrono::hours(2),
                                    std::chrono::hours(5),    std::chrono::hours(10)};
    /// Whether a sink that is new begins with the oldest event that is retained, not
    /// with the first that the scheduler emits.
    bool from_earliest = false;
    /// Which events it takes, as `Filter::topics` chooses them; none: all.  The others count as
    /// taken.
    std::vector<std::string> topics{};
    /// What `sink` was made of, as text, which is shown nowhere: `Sinks::replace()` takes two
    /// sinks of the same settings for the same one.  Empty: only the same object is the same.
    std::string settings{};
};

/// Delivers events to sinks.
///
///     scheduler::Sinks sinks(tasks, {{"billing", scheduler::make_sink(bill)}});
///
/// The scheduler must outlive it.
class Sinks {
public:
    /// Starts to deliver to these sinks.  One that the journal knows goes on from its
    /// cursor; `others` says what becomes of those that it knows and that are not here.
    /// Throws `Error`: with `invalid_argument` if a name is not good or comes twice.
    Sinks(Scheduler& scheduler, std::vector<SinkOptions> sinks, Unlisted others = Unlisted::keep);
    ~Sinks() { stop(); }
    Sinks(const Sinks&) = delete;
    Sinks& operator=(const Sinks&) = delete;
    /// Delivers to these sinks from here on.  One that was there and is the same goes on
    /// undisturbed.  One with other settings has them from its next attempt on, and one that
    /// is left out becomes unlisted; an attempt that is under way ends as it began.  Any thread
    /// may call this, a sink's too.  Blocks until it is stored, and not for attempts.  Throws
    /// `Error`, and then the sinks stay as they are: with `invalid_argument` if a name is not
    /// good or comes twice, with `stopped` after stop().
    void replace(std::vector<SinkOptions> sinks);
    /// Ends the deliveries; one that is interrupted is not counted as an attempt.
    /// Blocks until all threads have ended.  Not to be called from a sink.
    void stop();

private:
    // How a sink is delivered to.  It does not change; another takes its place.
    struct Config {
        SinkOptions options;
        SinkSetup setup;
        std::string where;  // for the log: the target in brackets, if there is one
        bool is_same_as(const Config& other) const;
    };
    using Configs = std::vector<std::shared_ptr<const Config>>;

    struct Worker {
        std::shared_ptr<const Config> config;  // guarded by mutex_: of the next attempt
        // Of the attempt under way and of its outcome: set by its own thread, and guarded by
        // mutex_ for the others.
        std::shared_ptr<const Config> used;
        detail::Random random;
        // What is at hand, and what has become of it, which is kept until that is stored.
        std::optional<Delivery> delivery;
        std::optional<Outcome> outcome;
        // How long to wait because something could not be done here (K5); 0: nothing is wrong.
        std::atomic<milliseconds> pause{milliseconds(0)};
        bool postponed = false;  // no attempt could be made, as the log was told
        std::uint64_t failed = 0;  // attempts in a row, of which the log was told
        // The delivery that is waited for, and until when: a clock that is stepped back
        // does not lengthen the wait.
        std::uint64_t seq = 0;
        std::uint32_t attempt = 0;
        std::chrono::steady_clock::time_point until;
        bool is_started = false;         // guarded by mutex_
        bool is_leaving = false;         // guarded by mutex_: it was replaced by none
        bool done = false;               // guarded by mutex_
        std::shared_ptr<Worker> before;  // of the same name, and still to end
        std::thread thread;              // none under Drive::caller
    };
    using Workers = std::vector<std::shared_ptr<Worker>>;

    static Configs read(std::vector<SinkOptions> sinks);
    static std::vector<SinkSetup> setups_of(const Configs& configs);
    static std::shared_ptr<Worker> find(const Workers& workers, const Config& config);
    Workers workers() const {
        const std::lock_guard<std::mutex> guard(mutex_);
        return workers_;
    }
    std::shared_ptr<Worker> make_worker(std::shared_ptr<const Config> config);
    void start(Worker& worker);
    void leave(const Workers& workers);
    void join_done();
    void adopt(const Configs& configs, Workers added);
    bool may_go_on(const Worker& worker) const { return !stopping_ && !worker.is_leaving; }
    bool use_config(Worker& worker);
    void run(Worker& worker);
    void run_here();
    std::optional<TimePoint> next_wake() const;
    bool advance(Worker& worker);
    bool is_ready(Worker& worker) const;
    bool attempt(Worker& worker);
    Outcome deliver(const Worker& worker) const;
    void judge_failure(Worker& worker, Outcome& outcome) const;
    template <class... Parts>
    void say(LogLevel level, const char* event, const Parts&... parts) const noexcept {
        detail::tell([this](const LogRecord& record) { scheduler_.log(record); }, level, event,
                     parts...);
    }
    void say_failure(const Worker& worker, const char* event, const Outcome& outcome,
                     const char* what_now) const noexcept;
    void say_if_recovered(Worker& worker, const Outcome& outcome) const noexcept;
    bool is_stopping() {
        const std::lock_guard<std::mutex> guard(mutex_);
        return stopping_;
    }

    static constexpr milliseconds max_retry_after = std::chrono::hours(24);
    static constexpr milliseconds first_pause{10};
    static constexpr milliseconds longest_pause{5'000};

    Scheduler& scheduler_;
    std::mutex replacing_;  // held while the workers are replaced
    mutable std::mutex mutex_;
    std::condition_variable changed_;
    std::uint64_t changes_ = 0;  // guarded by mutex_: how often it was notified
    bool stopping_ = false;      // guarded by mutex_
    Workers workers_;            // guarded by mutex_
    std::optional<std::size_t> companion_;
};

inline bool Sinks::Config::is_same_as(const Config& other) const {
    const bool same_sink =
        options.sink == other.options.sink ||
        (!options.settings.empty() && options.settings == other.options.settings);
    return same_sink && options.retry == other.options.retry;
}

inline Sinks::Sinks(Scheduler& scheduler, std::vector<SinkOptions> sinks, Unlisted others)
    : scheduler_(scheduler) {
    const Configs configs = read(std::move(sinks));
    scheduler_.open_sinks(setups_of(configs), others);
    try {
        const auto notify = [this] {
            {
                const std::lock_guard<std::mutex> guard(mutex_);
                ++changes_;
            }
            changed_.notify_all();
        };
        companion_ = scheduler_.add_companion(
            {notify, [this] { run_here(); }, [this] { return next_wake(); }});
        for (const auto& config : configs) {
            workers_.push_back(make_worker(config));
            start(*workers_.back());
        }
        adopt(configs, {});
    } catch (...) {
        stop();
        throw;
    }
}

inline Sinks::Configs Sinks::read(std::vector<SinkOptions> sinks) {
    Configs configs;
    std::set<std::string> names;
    std::map<std::string, int> targets;
    const auto check = [](bool good, const std::string& problem) {
        if (!good) detail::throw_as(Errc::invalid_argument, {problem});
    };
    for (SinkOptions& options : sinks) {
        check(detail::is_sink_name(options.name),
              std::string("a sink's name ") + detail::sink_name_rule);
        check(names.insert(options.name).second, "two sinks have the name " + options.name);
        check(options.sink != nullptr, detail::concat({"sink ", options.name, " is none"}));
        const std::string problem = topics_problem(options.topics);
        check(problem.empty(), detail::concat({"sink ", options.name, ": ", problem}));
        // What is secret may be all that tells two of them apart: then their order does.
        std::string target = options.sink->target();
        const int number = ++targets[target];
        if (number > 1 && !target.empty()) target += detail::concat({" (", number, ")"});
        Config config;
        config.where = target.empty() ? "" : detail::concat({" (", target, ")"});
        config.setup = {options.name, options.sink->kind(), std::move(target),
                        options.from_earliest, options.topics};
        config.options = std::move(options);
        configs.push_back(std::make_shared<const Config>(std::move(config)));
    }
    return configs;
}

inline std::vector<SinkSetup> Sinks::setups_of(const Configs& configs) {
    std::vector<SinkSetup> setups;
    for (const auto& config : configs) setups.push_back(config->setup);
    return setups;
}

// ---- 11.2 Workers ----------------------------------------------------------
//
// A worker delivers to the sink of one name.
//
//                    adopt()              replace(), without it        its attempt has ended
//     make_worker() ────────► delivering ──────────────────────► leaving ──────────────────► done
//                               │    ▲
//                               └────┘ replace(), with other settings: for the next attempt

inline std::shared_ptr<Sinks::Worker> Sinks::make_worker(std::shared_ptr<const Config> config) {
    auto worker = std::make_shared<Worker>();
    worker->used = config;
    worker->config = std::move(config);
    return worker;
}

inline void Sinks::start(Worker& worker) {
    if (scheduler_.drive() == Drive::caller) return;
    worker.thread = std::thread([this, &worker] { run(worker); });
}

// The worker of the same name that is not leaving.
inline std::shared_ptr<Sinks::Worker> Sinks::find(const Workers& workers, const Config& config) {
    for (const auto& worker : workers) {
        const bool is_same = worker->used->setup.name == config.setup.name;
        if (is_same && !worker->is_leaving) return worker;
    }
    return nullptr;
}

inline void Sinks::replace(std::vector<SinkOptions> sinks) {
    const std::lock_guard<std::mutex> in_order(replacing_);
    const Configs configs = read(std::move(sinks));
    join_done();
    Workers added;
    try {
        {
            const std::lock_guard<std::mutex> guard(mutex_);
            if (stopping_) throw Error(Errc::stopped, "these sinks have been stopped");
            for (const auto& config : configs) {
                if (!find(workers_, *config)) added.push_back(make_worker(config));
            }
            workers_.reserve(workers_.size() + added.size());
        }
        for (const auto& worker : added) start(*worker);
        scheduler_.replace_sinks(setups_of(configs));
    } catch (...) {
        leave(added);
        throw;
    }
    adopt(configs, std::move(added));
}

// Ends workers that have not begun.
inline void Sinks::leave(const Workers& workers) {
    {
        const std::lock_guard<std::mutex> guard(mutex_);
        for (const auto& worker : workers) worker->is_leaving = true;
    }
    changed_.notify_all();
    for (const auto& worker : workers) {
        if (worker->thread.joinable()) worker->thread.join();
    }
}

// Forgets the workers that have left.
inline void Sinks::join_done() {
    Workers ended;
    {
        const std::lock_guard<std::mutex> guard(mutex_);
        const auto stay = std::stable_partition(
            workers_.begin(), workers_.end(), [](const std::shared_ptr<Worker>& worker) {
                return !worker->is_leaving || !(worker->done || !worker->thread.joinable());
            });
        ended.assign(stay, workers_.end());
        workers_.erase(stay, workers_.end());
    }
    for (const auto& worker : ended) {
        if (worker->thread.joinable()) worker->thread.join();
    }
}

// Has each of these delivered to, and no other.
inline void Sinks::adopt(const Configs& configs, Workers added) {
    {
        const std::lock_guard<std::mutex> guard(mutex_);
        Workers left = workers_;
        for (const auto& worker : added) {
            for (const auto& other : workers_) {  // the last of them is the one to wait for
                if (other->used->setup.name == worker->used->setup.name) worker->before = other;
            }
            workers_.push_back(worker);
        }
        for (const auto& config : configs) {
            Worker& worker = *find(workers_, *config);
            worker.is_started = true;
            if (!config->is_same_as(*worker.config)) worker.config = config;
            for (auto& other : left) {
                if (other.get() == &worker) other.reset();
            }
        }
        for (const auto& other : left) {
            if (other) other->is_leaving = true;
        }
        ++changes_;
    }
    changed_.notify_all();
}

// ---- 11.3 Delivering -------------------------------------------------------

// A delivery that has just begun may not hear of an interruption: it is told again.
inline void Sinks::stop() {
    {
        const std::lock_guard<std::mutex> in_order(replacing_);
        const std::lock_guard<std::mutex> guard(mutex_);
        if (std::exchange(stopping_, true)) return;
    }
    changed_.notify_all();
    std::unique_lock<std::mutex> lock(mutex_);  // nobody changes the workers from here on
    for (const auto& worker : workers_) {
        while (worker->thread.joinable() && !worker->done) {
            const auto used = worker->used;
            lock.unlock();
            used->options.sink->interrupt();
            lock.lock();
            changed_.wait_for(lock, milliseconds(20), [&] { return worker->done; });
        }
    }
    lock.unlock();
    for (const auto& worker : workers_) {
        if (worker->thread.joinable()) worker->thread.join();
    }
    if (companion_) scheduler_.remove_companion(*companion_);
    scheduler_.close_sinks();
}

// A receiver or a command that is gone must not end the program: writing to it is an
// error, and no signal.
inline void Sinks::run(Worker& worker) {
    sigset_t broken_pipe;
    sigemptyset(&broken_pipe);
    sigaddset(&broken_pipe, SIGPIPE);
    ::pthread_sigmask(SIG_BLOCK, &broken_pipe, nullptr);
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [&] {
        const bool is_next = !worker.before || worker.before->done;
        return stopping_ || (is_next && (worker.is_started || worker.is_leaving));
    });
    worker.before.reset();
    while (may_go_on(worker)) {
        const auto changed = [&, seen = changes_] {
            return !may_go_on(worker) || changes_ != seen;
        };
        lock.unlock();
        const bool more = advance(worker);
        lock.lock();
        if (more) continue;
        if (worker.pause.load() > milliseconds(0)) {
            changed_.wait_for(lock, worker.pause.load(), [&] { return !may_go_on(worker); });
        } else if (worker.delivery) {
            changed_.wait_until(lock, worker.until, changed);
        } else {
            changed_.wait(lock, changed);
        }
    }
    worker.done = true;
    changed_.notify_all();
}

// Under Drive::caller: delivers all that may be delivered now, inside run_due().
inline void Sinks::run_here() {
    for (const auto& worker : workers()) {
        while (advance(*worker)) {
        }
    }
}

inline std::optional<TimePoint> Sinks::next_wake() const {
    std::optional<TimePoint> wake;
    for (const auto& worker : workers()) {
        const auto delivery = scheduler_.next_delivery(worker->used->setup.name);
        if (!delivery) continue;
        const TimePoint at = scheduler_.now() + std::max(worker->pause.load(), delivery->wait);
        if (!wake || at < *wake) wake = at;
    }
    return wake;
}

// Makes the attempt that is due, and stores what became of it.  False: there is nothing to do
// for now.  What cannot be stored is kept and stored later, and the delivery is not repeated.
inline bool Sinks::advance(Worker& worker) {
    try {
        if (!use_config(worker)) return false;
        if (!worker.outcome) {
            const SinkOptions& options = worker.used->options;
            worker.delivery = scheduler_.next_delivery(
                worker.used->setup.name, options.sink->max_batch(), options.retry.size());
            const bool ready = worker.delivery && is_ready(worker);
            if (!ready || !attempt(worker)) {
                worker.pause = milliseconds(0);
                return false;
            }
        }
        scheduler_.settle(*worker.delivery, *worker.outcome);
        const Outcome outcome = *std::exchange(worker.outcome, std::nullopt);
        say_if_recovered(worker, outcome);
        if (outcome.result != Outcome::Result::postponed) {
            worker.postponed = false;
            worker.pause = milliseconds(0);
            return true;
        }
        if (!std::exchange(worker.postponed, true)) {
            say(LogLevel::warning, "sink.postponed", "sink ",
                detail::named("sink", worker.used->setup.name), worker.used->where,
                ": no attempt can be made, so it waits until one can: ",
                detail::printable(outcome.error, 200));
        }
    } catch (const std::exception& error) {  // there is no memory, for instance
        say(LogLevel::error, "sink.failed", "sink ", detail::named("sink", worker.used->setup.name),
            ": ", error.what());
    }
    worker.pause = std::clamp(worker.pause.load() * 2, first_pause, longest_pause);
    return false;
}

// Takes other settings, unless there is an outcome of those before.  False: it is leaving.
inline bool Sinks::use_config(Worker& worker) {
    std::shared_ptr<const Config> config;  // the one before ends without the lock
    const std::lock_guard<std::mutex> guard(mutex_);
    config = worker.outcome ? worker.used : worker.config;
    worker.used.swap(config);
    return !worker.is_leaving;
}

// Whether the delivery at hand has waited long enough.
inline bool Sinks::is_ready(Worker& worker) const {
    const Delivery& delivery = *worker.delivery;
    if (delivery.wait == milliseconds(0)) return true;
    if (scheduler_.drive() == Drive::caller) return false;
    const auto now = std::chrono::steady_clock::now();
    milliseconds longest = max_retry_after;
    for (const milliseconds wait : worker.used->options.retry)
        longest = std::max(longest, wait * 2);
    const auto until = now + std::min(delivery.wait, longest);
    if (worker.seq != delivery.event.seq || worker.attempt != delivery.attempt) {
        worker.seq = delivery.event.seq;
        worker.attempt = delivery.attempt;
        worker.until = until;
    }
    worker.until = std::min(worker.until, until);
    return now >= worker.until;
}

// False: it was interrupted, and will be the same attempt again.
inline bool Sinks::attempt(Worker& worker) {
    using Result = Outcome::Result;
    worker.attempt = 0;  // the next wait is another, whatever it is for
    Outcome outcome = deliver(worker);
    if (outcome.result != Result::delivered && is_stopping()) return false;
    if (outcome.result == Result::failed || outcome.result == Result::disabled) {
        judge_failure(worker, outcome);
    }
    worker.outcome = std::move(outcome);
    return true;
}

inline Outcome Sinks::deliver(const Worker& worker) const {
    try {
        return worker.used->options.sink->deliver(*worker.delivery);
    } catch (const std::bad_alloc&) {
        return Outcome::postponed("no memory");  // a text that needs none
    } catch (const std::system_error& error) {
        const bool ours = error.code().category() == std::generic_category() ||
                          error.code().category() == std::system_category();
        if (ours && detail::is_shortage(error.code().value())) {
            return Outcome::postponed(error.what());
        }
        return Outcome::failed(error.what());
    } catch (const std::exception& error) {
        return Outcome::failed(error.what());
    } catch (...) {
        return Outcome::failed("it has thrown what is no std::exception");
    }
}

// How long a failed delivery waits, if it is tried again, and what the log says.
inline void Sinks::judge_failure(Worker& worker, Outcome& outcome) const {
    ++worker.failed;
    if (outcome.result == Outcome::Result::disabled) {
        return say_failure(worker, "sink.disabled", outcome,
                           "; it is disabled until it is resumed");
    }
    const Delivery& delivery = *worker.delivery;
    const auto& retry = worker.used->options.retry;
    if (delivery.again || delivery.attempt > retry.size()) {
        outcome.wait.reset();
        return say_failure(worker, "sink.dead_letter", outcome, "; it is a dead letter now");
    }
    const milliseconds::rep base = retry[delivery.attempt - 1].count();
    const std::uint64_t jitter = worker.random() % (static_cast<std::uint64_t>(base) / 10 + 1);
    const milliseconds wished = std::min(outcome.wait.value_or(milliseconds(0)), max_retry_after);
    outcome.wait = std::max(milliseconds(base + static_cast<milliseconds::rep>(jitter)), wished);
    say_failure(worker, "sink.attempt_failed", outcome, "; the next is in ");
}

inline void Sinks::say_if_recovered(Worker& worker, const Outcome& outcome) const noexcept {
    if (outcome.result != Outcome::Result::delivered || worker.failed == 0) return;
    say(LogLevel::info, "sink.recovered", "sink ", detail::named("sink", worker.used->setup.name),
        worker.used->where, ": delivers again after ", detail::named("failed", worker.failed),
        " failed attempts");
    worker.failed = 0;
}

inline void Sinks::say_failure(const Worker& worker, const char* event, const Outcome& outcome,
                               const char* what_now) const noexcept {
    const LogLevel level = outcome.wait ? LogLevel::warning : LogLevel::error;
    const auto sink = detail::named("sink", worker.used->setup.name);
    try {
        const Delivery& delivery = *worker.delivery;
        const bool is_disabled = outcome.result == Outcome::Result::disabled;
        const std::string wait =
            outcome.wait ? std::to_string(outcome.wait->count()) + " ms" : std::string();
        const std::string others =
            delivery.more.empty() ? "" : " and " + std::to_string(delivery.more.size()) + " more";
        say(level, event, "sink ", sink, worker.used->where, ": attempt ",
            detail::named("attempt", delivery.attempt), " at ",
            detail::named("id", delivery.event.id.str()), others,
            " has failed: ", detail::named("error", detail::printable(outcome.error, 200)),
            what_now, is_disabled ? "" : wait.c_str());
    } catch (const std::bad_alloc&) {
        say(level, event, "sink ", sink, worker.used->where, ": an attempt has failed", what_now);
    }
}

/// A sink that calls `callback` with each event, on the sink's thread.  When it throws,
/// the event is tried again.
inline std::shared_ptr<Sink> make_sink(std::function<void(const Event&)> callback) {
    class CallbackSink : public Sink {
    public:
        explicit CallbackSink(std::function<void(const Event&)> called)
            : callback_(std::move(called)) {}
        Outcome deliver(const Delivery& delivery) override {
            callback_(delivery.event);
            return {};
        }

    private:
        const std::function<void(const Event&)> callback_;
    };
    return std::make_shared<CallbackSink>(std::move(callback));
}

// ---- 11.4 Commands ---------------------------------------------------------

#ifdef __linux__

/// How a `CommandSink` runs its command.
struct CommandOptions {
    /// The program, looked for in PATH unless it has a slash, and its arguments.
    std::vector<std::string> command;
    /// How long it may run; then it, and what it has started, is killed.
    milliseconds timeout{30'000};
    /// Called with each line that it writes, on the sink's thread.  Default: silence.
    std::function<void(const std::string&)> log;
};

/// On Linux: runs a command for each event, without a shell: the payload is its standard input,
/// and `SCHEDULER_TASK_ID`, `SCHEDULER_DUE`, `SCHEDULER_LATE_MS` and
/// `SCHEDULER_ATTEMPT` are in its environment, where no other `SCHEDULER_` variable is;
/// so are `TRACEPARENT` and `TRACESTATE`, if the event has a trace, and of no other.
/// Exit status 0 means that it has taken the event.  Needs Linux 5.3.
class CommandSink : public Sink {
public:
    /// Runs what the options say; throws `Error` with `invalid_argument` where that cannot be run.
    explicit CommandSink(CommandOptions options);
    Outcome deliver(const Delivery& delivery) override;
    void interrupt() override;
    std::string kind() const override { return "exec"; }
    std::string target() const override { return options_.command.front(); }

    /// Why a program cannot be run at this moment, with the search that a command is subject
    /// to; empty if it can be.
    static std::string problem(const std::string& program);

private:
    enum class End { exited, timed_out, interrupted };

    Outcome run(const Delivery& delivery) const;
    static int payload_file(std::string_view payload);
    static std::vector<std::string> environment(const Delivery& delivery);
    static void close_others(posix_spawn_file_actions_t& actions);
    pid_t spawn(const Delivery& delivery, int input, int output) const;
    End watch(pid_t pid, int output) const;
    void read_output(int output, std::string& line, std::size_t& lines) const;
    void log_line(std::string& line, std::size_t& lines) const;
    static Outcome judge(pid_t pid, End end);

    static constexpr std::size_t max_lines = 1'000;  // of output, for one event

    const CommandOptions options_;
    const detail::Descriptor interruption_;  // an eventfd
};

inline CommandSink::CommandSink(CommandOptions options)
    : options_(std::move(options)), interruption_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    if (options_.command.empty() || options_.command.front().empty()) {
        detail::throw_as(Errc::invalid_argument, {"a command must name a program"});
    }
    const detail::Descriptor self(static_cast<int>(::syscall(SYS_pidfd_open, ::getpid(), 0)));
    if (self.get() < 0 || interruption_.get() < 0) {
        detail::throw_as(Errc::invalid_argument, {"commands cannot be run here (Linux 5.3 can): ",
                                                  std::generic_category().message(errno)});
    }
}

inline std::string CommandSink::problem(const std::string& program) {
    const auto reason_for = [](const std::string& path) -> const char* {
        struct stat status {};
        if (::stat(path.c_str(), &status) != 0) return "there is no such program";
        if (S_ISDIR(status.st_mode)) return "it is a folder";
        return ::faccessat(AT_FDCWD, path.c_str(), X_OK, AT_EACCESS) == 0 ? nullptr
                                                                          : "it is not executable";
    };
    const char* reason = reason_for(program);
    if (program.find('/') == std::string::npos) {
        const char* variable = std::getenv("PATH");
        const std::string path = variable ? variable : "/bin:/usr/bin";
        reason = "there is no such program";
        for (std::size_t begin = 0, end = 0; reason && end != std::string::npos; begin = end + 1) {
            end = path.find(':', begin);
            const std::string folder = path.substr(begin, end - begin);
            if (!reason_for(detail::concat({(folder.empty() ? "." : folder), "/", program})))
                reason = nullptr;
        }
    }
    return reason ? detail::concat({"cannot run ", program, ": ", reason}) : "";
}

inline void CommandSink::interrupt() {
    ::eventfd_write(interruption_.get(), 1);
}

inline Outcome CommandSink::deliver(const Delivery& delivery) {
    eventfd_t ignored = 0;
    ::eventfd_read(interruption_.get(), &ignored);
    try {
        return run(delivery);
    } catch (const detail::Shortage& error) {
        return Outcome::postponed(error.what());
    }
}

// The payload is put into a file in memory, so that nobody has to feed the command,
// and one that does not read it is no trouble.
inline Outcome CommandSink::run(const Delivery& delivery) const {
    const detail::Descriptor input(payload_file(delivery.event.text()));
    std::array<int, 2> pipe{-1, -1};
    if (::pipe2(pipe.data(), O_CLOEXEC) != 0) {
        detail::throw_errno(errno, "cannot make a pipe");
    }
    const detail::Descriptor output(pipe[0]);
    detail::Descriptor output_end(pipe[1]);
    ::fcntl(output.get(), F_SETFL, O_NONBLOCK);
    const pid_t pid = spawn(delivery, input.get(), output_end.get());
    output_end.reset();
    return judge(pid, watch(pid, output.get()));
}

inline int CommandSink::payload_file(std::string_view payload) {
    detail::Descriptor file(::memfd_create("event", MFD_CLOEXEC));
    while (file.get() >= 0 && !payload.empty()) {
        const ssize_t n = ::write(file.get(), payload.data(), payload.size());
        if (n < 0) break;
        payload.remove_prefix(static_cast<std::size_t>(n));
    }
    if (!payload.empty() || ::lseek(file.get(), 0, SEEK_SET) != 0) {
        detail::throw_errno(errno, "cannot hand over the payload");
    }
    return file.release();
}

inline std::vector<std::string> CommandSink::environment(const Delivery& delivery) {
    constexpr std::string_view own = "SCHEDULER_";
    std::vector<std::string> all;
    const auto set = [&all](std::string_view name, std::string_view value) {
        all.emplace_back(name).append("=").append(value);
    };
    for (char** variable = ::environ; *variable; ++variable) {
        const std::string_view name(*variable, std::strcspn(*variable, "="));
        const bool is_passed_on =
            name.substr(0, own.size()) != own && name != "TRACEPARENT" && name != "TRACESTATE";
        if (is_passed_on) all.emplace_back(*variable);
    }
    const Event& event = delivery.event;
    set("SCHEDULER_TASK_ID", event.id.str());
    set("SCHEDULER_DUE", format_time(event.due));
    set("SCHEDULER_LATE_MS", std::to_string(event.late().count()));
    set("SCHEDULER_ATTEMPT", std::to_string(delivery.attempt));
    if (!event.traceparent().empty()) set("TRACEPARENT", event.traceparent());
    if (!event.tracestate().empty()) set("TRACESTATE", event.tracestate());
    return all;
}

// Musl has no call that closes all but the three: those are named that would be inherited.
inline void CommandSink::close_others(posix_spawn_file_actions_t& actions) {
#if defined(__GLIBC__) && (__GLIBC__ > 2 || __GLIBC_MINOR__ >= 34)
    ::posix_spawn_file_actions_addclosefrom_np(&actions, STDERR_FILENO + 1);
#else
    DIR* const folder = ::opendir("/proc/self/fd");
    while (const dirent* const entry = folder ? ::readdir(folder) : nullptr) {
        const int fd = std::atoi(entry->d_name);
        const int flags = fd > STDERR_FILENO ? ::fcntl(fd, F_GETFD) : -1;
        if (flags == 0) ::posix_spawn_file_actions_addclose(&actions, fd);
    }
    if (folder) ::closedir(folder);
#endif
}

// The command gets a process group of its own, the signals as they are by default, and
// no descriptor but the three.
inline pid_t CommandSink::spawn(const Delivery& delivery, int input, int output) const {
    std::vector<std::string> words = options_.command;
    std::vector<std::string> variables = environment(delivery);
    const auto pointers = [](std::vector<std::string>& texts) {
        std::vector<char*> all;
        for (std::string& text : texts) all.push_back(text.data());
        all.push_back(nullptr);
        return all;
    };
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none;
    sigset_t all;
    sigemptyset(&none);
    sigfillset(&all);
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawn_file_actions_adddup2(&actions, input, STDIN_FILENO);
    ::posix_spawn_file_actions_adddup2(&actions, output, STDOUT_FILENO);
    ::posix_spawn_file_actions_adddup2(&actions, output, STDERR_FILENO);
    close_others(actions);
    ::posix_spawnattr_init(&attributes);
    ::posix_spawnattr_setflags(
        &attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    ::posix_spawnattr_setpgroup(&attributes, 0);
    ::posix_spawnattr_setsigmask(&attributes, &none);
    ::posix_spawnattr_setsigdefault(&attributes, &all);
    pid_t pid = -1;
    const int error = ::posix_spawnp(&pid, words.front().c_str(), &actions, &attributes,
                                     pointers(words).data(), pointers(variables).data());
    ::posix_spawn_file_actions_destroy(&actions);
    ::posix_spawnattr_destroy(&attributes);
    const std::string what = "cannot run " + words.front();
    if (error == EAGAIN) throw detail::Shortage(what + ": there are too many processes");
    if (error != 0) detail::throw_errno(error, what);
    return pid;
}

// Logs what the command writes until it has ended.  One that is interrupted is asked to
// end, and killed a second later.
inline CommandSink::End CommandSink::watch(pid_t pid, int output) const {
    const detail::Descriptor process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
    const int unwatched = process.get() < 0 ? errno : 0;
    auto deadline = std::chrono::steady_clock::now() + options_.timeout;
    std::string line;
    std::size_t lines = 0;
    End end = End::exited;
    if (unwatched != 0) {  // it is killed, waited for, and run again
        ::kill(-pid, SIGKILL);
        judge(pid, end);
        detail::throw_errno(unwatched, "cannot watch the command");
    }
    std::array<pollfd, 3> watched{pollfd{process.get(), POLLIN, 0}, pollfd{output, POLLIN, 0},
                                  pollfd{interruption_.get(), POLLIN, 0}};
    for (;;) {
        const auto left =
            std::chrono::duration_cast<milliseconds>(deadline - std::chrono::steady_clock::now());
        if (left.count() <= 0) {
            if (end == End::exited) end = End::timed_out;
            break;
        }
        const auto ms = std::min<milliseconds::rep>(left.count(), 1'000'000'000);
        if (::poll(watched.data(), watched.size(), static_cast<int>(ms)) <= 0) continue;
        if (watched[1].revents != 0) {
            read_output(output, line, lines);
            if (watched[1].revents & POLLHUP) watched[1].fd = -1;
        }
        if (watched[0].revents != 0) break;
        if (watched[2].revents != 0) {
            watched[2].fd = -1;
            end = End::interrupted;
            ::kill(-pid, SIGTERM);
            deadline = std::min(deadline, std::chrono::steady_clock::now() + milliseconds(1'000));
        }
    }
    if (end != End::exited) ::kill(-pid, SIGKILL);  // with all that it has started
    read_output(output, line, lines);
    if (!line.empty()) log_line(line, lines);
    return end;
}

inline void CommandSink::read_output(int output, std::string& line, std::size_t& lines) const {
    constexpr std::size_t longest = 1'000;
    constexpr int most = 64;  // reads, so that a command that never stops is watched on
    std::array<char, 4'096> buffer;
    ssize_t n = 0;
    for (int i = 0; i < most && (n = ::read(output, buffer.data(), buffer.size())) > 0; ++i) {
        for (ssize_t at = 0; at < n; ++at) {
            const char c = buffer[static_cast<std::size_t>(at)];
            if (c != '\n') line += c;
            if (c == '\n' || line.size() == longest) log_line(line, lines);
        }
    }
}

/// For `CommandOptions::log`: hands what the command of this sink writes to a log of records.
inline std::function<void(const std::string&)> command_log(
    std::function<void(const LogRecord&)> log, std::string sink) {
    return [log = std::move(log), sink = std::move(sink)](const std::string& line) {
        detail::tell(log, LogLevel::info, "command.output", "sink ", detail::named("sink", sink),
                     ": ", line);
    };
}

inline void CommandSink::log_line(std::string& line, std::size_t& lines) const {
    for (char& c : line) {
        if ((static_cast<unsigned char>(c) < 0x20 && c != '\t') || c == 0x7F) c = '?';
    }
    ++lines;
    if (options_.log && lines <= max_lines) options_.log(line);
    if (options_.log && lines == max_lines) options_.log("(more is not shown)");
    line.clear();
}

// Waits for the end, so that no zombie is left.
inline Outcome CommandSink::judge(pid_t pid, End end) {
    int status = 0;
    pid_t waited = 0;
    do {
        waited = ::waitpid(pid, &status, 0);
    } while (waited < 0 && errno == EINTR);
    if (waited < 0) return Outcome::failed("its exit status is lost: SIGCHLD is ignored");
    if (end == End::timed_out) return Outcome::failed("the command took too long and was killed");
    if (end == End::interrupted) return Outcome::failed("the command was interrupted");
    if (WIFSIGNALED(status)) {
        return Outcome::failed("the command was ended by signal " +
                               std::to_string(WTERMSIG(status)));
    }
    if (WEXITSTATUS(status) == 0) return {};
    return Outcome::failed("the command ended with status " + std::to_string(WEXITSTATUS(status)));
}

#endif  // __linux__

// ============================================================================
// 12. Pages
// ============================================================================

namespace detail {

// ---- 12.1 JSON that is shown -------------------------------------------------

// JSON that grows at its end.  append() adds a value of any type that has an overload, be it
// declared below: this being a type of its own, that is found all the same.
struct Json {
    std::string text;

    // An object or an array without a member; one that stands at the end grows by add().
    Json& object() {
        text += "{}";
        return *this;
    }
    Json& array() {
        text += "[]";
        return *this;
    }
    template <class Value>
    Json& add(std::string_view name, const Value& value) {
        open();
        append_quoted(text, name);
        text += ':';
        append(*this, value);
        text += '}';
        return *this;
    }
    template <class Value>
    Json& add(const Value& value) {
        open();
        append(*this, value);
        text += ']';
        return *this;
    }

private:
    void open() {
        text.pop_back();
        if (text.back() != '{' && text.back() != '[') text += ',';
    }
};

// Text that is JSON already.
struct JsonView {
    std::string_view text;
};

inline void append(Json& to, JsonView json) {
    to.text += json.text;
}
inline void append(Json& to, const Json& json) {
    to.text += json.text;
}
inline void append(Json& to, TaskId id) {
    append_quoted(to.text, id.str());
}
inline void append(Json& to, TimePoint time) {
    append_quoted(to.text, format_time(time));
}

template <class Value>
void append(Json& to, const Value& value) {
    if constexpr (std::is_same_v<Value, bool>) {
        to.text += value ? "true" : "false";
    } else if constexpr (std::is_same_v<Value, milliseconds>) {
        to.text += std::to_string(value.count());
    } else if constexpr (std::is_integral_v<Value>) {
        to.text += std::to_string(value);
    } else {
        append_quoted(to.text, value);
    }
}

template <class Value>
void append(Json& to, const std::optional<Value>& value) {
    if (!value) {
        to.text += "null";
    } else {
        append(to, *value);
    }
}

template <class Value>
void append(Json& to, const std::vector<Value>& values) {
    to.array();
    for (const Value& value : values) to.add(value);
}

template <class Value>
std::string json_of(const Value& value) {
    Json json;
    append(json, value);
    return std::move(json.text);
}

// Text, or null where there is none.
inline std::optional<std::string_view> text_or_null(const std::string& text) {
    return text.empty() ? std::nullopt : std::optional<std::string_view>(text);
}

// {"errors":["…"]}
inline std::string errors_json(const std::vector<std::string>& errors) {
    return json_of(Json().object().add("errors", errors));
}

// The text of an exception, which begins small and ends open, as a sentence.
inline std::string sentence(std::string text) {
    if (!text.empty() && text[0] >= 'a' && text[0] <= 'z') {
        text[0] = static_cast<char>(text[0] - 'a' + 'A');
    }
    return text.empty() || text.back() == '.' ? text : text + '.';
}

// The string that a member of an object says; nothing if `json` is no object, is
// not valid, or has no such member.
inline std::optional<std::string> member_of(std::string_view json, std::string_view name) {
    JsonReader reader(json);
    std::string_view key;
    std::string_view value;
    std::optional<std::string> found;
    if (!reader.enter_object()) return std::nullopt;
    while (reader.next_member(key) && reader.value(value)) {
        if (!found && is_named(key, name)) found = read_string(value);
    }
    return reader.finish() ? found : std::nullopt;
}

// Calls fn(key, value) for each member of an object.
template <class Fn>
void for_each_member(std::string_view json, Fn fn) {
    JsonReader reader(json, JsonReader::outer_depth);
    std::string_view key;
    std::string_view value;
    reader.enter_object();
    while (reader.next_member(key) && reader.value(value)) fn(key, value);
    if (!reader.finish()) {
        throw_as(Errc::unreachable, {"the answer is not that of a scheduler"});
    }
}

// Calls fn(text) for each element of an array, or once for any other value; false
// if `json` is not valid, perhaps after some calls.
template <class Fn>
bool for_each_element(std::string_view json, Fn fn) {
    JsonReader reader(json, JsonReader::outer_depth);
    std::string_view value;
    if (!reader.enter_array()) {
        if (!reader.value(value) || !reader.finish()) return false;
        fn(value);
        return true;
    }
    while (reader.next_element() && reader.value(value)) fn(value);
    return reader.finish();
}

// The members of a task or an event that only some have.
template <class Of>
void add_details(Json& to, const Of& of) {
    const Details details = PayloadAccess::details_of(of.payload);
    if (!details.name.empty()) to.add("name", details.name);
    if (!details.traceparent.empty()) to.add("traceparent", details.traceparent);
    if (!details.tracestate.empty()) to.add("tracestate", details.tracestate);
}

inline constexpr std::array<std::string_view, 3> task_statuses{"pending", "emitted", "missed"};

inline void append(Json& to, const Task& task) {
    to.object().add("id", task.id);
    add_details(to, task);
    to.add("status", task_statuses[static_cast<std::size_t>(task.status)]).add("due", task.due);
    if (task.status != Status::pending) {
        to.add(task.status == Status::emitted ? "emitted_at" : "missed_at", task.ended_at);
        to.add("late_ms", task.ended_at - task.due);
    }
    to.add("payload", JsonView{task.text()});
}

inline void append(Json& to, const Event& event) {
    to.object().add("id", event.id);
    add_details(to, event);
    to.add("due", event.due).add("emitted_at", event.emitted_at).add("late_ms", event.late());
    to.add("payload", JsonView{event.text()});
}

inline void append(Json& to, const Pause& pause) {
    to.object().add("since", pause.since).add("reason", text_or_null(pause.reason));
}

inline void append(Json& to, const SinkStatus& sink) {
    to.object().add("name", sink.name).add("kind", sink.kind).add("target", sink.target);
    if (!sink.topics.empty()) to.add("topics", sink.topics);
    to.add("state", sink_states[static_cast<std::size_t>(sink.state)]);
    to.add("cursor", sink.cursor).add("lag", sink.lag).add("attempts", sink.attempts);
    to.add("next_attempt", sink.next_attempt).add("last_error", text_or_null(sink.last_error));
    to.add("delivered", sink.delivered).add("failed", sink.failed);
    to.add("postponed", sink.postponed).add("dead", sink.dead).add("dropped", sink.dropped);
}

inline void append(Json& to, const DeadLetter& letter) {
    append(to, letter.event);
    to.add("given_up_at", letter.at).add("attempts", letter.attempts).add("error", letter.error);
    to.add("redelivering", letter.redelivering);
}

inline constexpr std::array<std::string_view, 3> share_states{"taken", "waiting", "dead"};

inline void append(Json& to, const SinkShare& share) {
    to.object().add("name", share.sink);
    to.add("state", share_states[static_cast<std::size_t>(share.state)]);
    to.add("attempts", share.attempts).add("error", text_or_null(share.error));
    to.add("next_attempt", share.next_attempt);
}

inline void append(Json& to, const TaskStory& story) {
    append(to, story.task);
    to.add("stored_at", story.stored_at).add("sinks", story.sinks);
}

inline void append(Json& to, const Histogram& histogram) {
    to.object().add("from", histogram.from).add("to", histogram.to);
    to.add("counts", histogram.counts);
}

inline void append(Json& to, const JournalDamage& damage) {
    to.object().add("line", damage.line).add("at", damage.at).add("bytes", damage.bytes);
    to.add("problem", damage.problem).add("kept", damage.kept);
}

inline void append(Json& to, const JournalReport& report) {
    Json operations;
    operations.object();
    for (const auto& [name, count] : report.operations) operations.add(name, count);
    to.object().add("journal", report.path).add("sound", report.is_sound());
    to.add("used_by", text_or_null(report.used_by));
    to.add("bytes", report.bytes).add("records", report.records).add("operations", operations);
    to.add("pending", report.pending).add("named", report.named).add("emitted", report.emitted);
    to.add("missed", report.missed).add("cancelled", report.cancelled).add("keys", report.keys);
    to.add("next_due", report.next_due).add("newest", report.newest).add("paused", report.paused);
    to.add("sinks", report.sinks).add("damage", report.damage);
    to.add("torn_bytes", report.torn_bytes);
}

}  // namespace detail

/// What a journal holds: a JSON object.
inline std::string to_json(const JournalReport& report) {
    return detail::json_of(report);
}
/// The task as the HTTP interface shows it: a JSON object.
inline std::string to_json(const Task& task) {
    return detail::json_of(task);
}
/// All that is known of a task, as the HTTP interface shows it: a JSON object.
inline std::string to_json(const TaskStory& story) {
    return detail::json_of(story);
}
/// The event as the HTTP interface shows it: a JSON object.
inline std::string to_json(const Event& event) {
    return detail::json_of(event);
}
/// How a sink stands, as the HTTP interface shows it: a JSON object.
inline std::string to_json(const SinkStatus& sink) {
    return detail::json_of(sink);
}
/// The dead letter as the HTTP interface shows it: a JSON object.
inline std::string to_json(const DeadLetter& letter) {
    return detail::json_of(letter);
}

namespace detail {

// About how many bytes a page of these takes.
template <class Of>
std::size_t size_of(const Of& task_or_event) {
    return PayloadAccess::task_of(task_or_event.payload)->bytes() + 192;
}
inline std::size_t size_of(const DeadLetter& letter) {
    return size_of(letter.event) + letter.error.size() + 96;
}
template <class Item>
std::size_t size_of(const std::vector<Item>& items) {
    std::size_t size = 0;
    for (const Item& item : items) size += size_of(item);
    return size;
}

// Where a page stands among all.
struct PageInfo {
    std::size_t total = 0;
    std::string start;                         // where it begins; empty: nowhere
    std::string end;                           // where the next one begins; empty: nowhere
    bool counts = false;                       // whether `matching` is said
    std::optional<std::size_t> matching = {};  // on all pages
};

// A page of things: the answer of a list.
template <class Item>
std::string page_json(const PageInfo& page, const std::vector<Item>& items) {
    Json info;
    info.object().add("total_count", page.total).add("count", items.size());
    info.add("start_cursor", text_or_null(page.start)).add("end_cursor", text_or_null(page.end));
    if (page.counts) info.add("matching_count", page.matching);
    return json_of(Json().object().add("page_info", info).add("data", items));
}

// A place in the order of pending tasks as text, and back.
inline std::string cursor_of(const TaskCursor& cursor) {
    return concat({std::to_string(cursor.due.time_since_epoch().count()), "_", cursor.id.str()});
}

inline std::optional<TaskCursor> parse_cursor(const std::string& text) {
    const std::size_t bar = text.find('_');
    if (bar == std::string::npos || bar == 0 || bar > 18) return std::nullopt;
    char* end = nullptr;
    const long long due = std::strtoll(text.c_str(), &end, 10);
    const auto id = TaskId::parse(std::string_view(text).substr(bar + 1));
    if (end != text.c_str() + bar || !id) return std::nullopt;
    return TaskCursor{TimePoint(milliseconds(due)), *id};
}

// ---- 12.2 Figures ------------------------------------------------------------

// Adds the value of a label, in quotes.
inline void append_label(std::string& text, std::string_view value) {
    text += '"';
    for (const char c : value) {
        if (c == '"' || c == '\\') text += '\\';
        text += static_cast<unsigned char>(c) < 0x20 ? '?' : c;
    }
    text += '"';
}

// Writes figures in Prometheus's text format (version 0.0.4).
class MetricsText {
public:
    void gauge(const char* name, const char* help, std::uint64_t value) {
        add(name, "gauge", help, std::to_string(value));
    }
    void counter(const char* name, const char* help, std::uint64_t value) {
        add(name, "counter", help, std::to_string(value));
    }
    void seconds(const char* name, const char* help, std::chrono::microseconds value) {
        add(name, "gauge", help, text_of(value));
    }
    void histogram(const char* name, const char* help, const Durations& durations);
    // What samples of several labels have in common; they follow.
    void head(const char* name, const char* type, const char* help);
    void sample(const char* name,
                std::initializer_list<std::pair<const char*, std::string_view>> labels,
                std::uint64_t value);
    // The figures of the process, as other programs call them, as far as they are to be had.
    void process();
    std::string take() { return std::move(text_); }

private:
    void add(const char* name, const char* type, const char* help, const std::string& value);
    void descriptors();
    static std::string text_of(std::chrono::microseconds duration);

    std::string text_;
};

inline void MetricsText::head(const char* name, const char* type, const char* help) {
    text_.append("# HELP ").append(name).append(" ").append(help);
    text_.append("\n# TYPE ").append(name).append(" ").append(type) += '\n';
}

inline void MetricsText::add(const char* name, const char* type, const char* help,
                             const std::string& value) {
    head(name, type, help);
    text_.append(name).append(" ").append(value) += '\n';
}

inline void MetricsText::sample(
    const char* name, std::initializer_list<std::pair<const char*, std::string_view>> labels,
    std::uint64_t value) {
    text_ += name;
    char separator = '{';
    for (const auto& [label, is] : labels) {
        text_.append(1, separator).append(label) += '=';
        append_label(text_, is);
        separator = ',';
    }
    text_.append("} ").append(std::to_string(value)) += '\n';
}

// In seconds, without zeros at the end.
inline std::string MetricsText::text_of(std::chrono::microseconds duration) {
    constexpr std::int64_t second = 1'000'000;
    const std::int64_t count = std::abs(duration.count());
    std::string text = duration.count() < 0 ? "-" : "";
    text += std::to_string(count / second);
    if (count % second == 0) return text;
    const std::string rest = std::to_string(second + count % second);  // its 1 stands for the point
    text.append(".").append(rest, 1, rest.find_last_not_of('0'));
    return text;
}

inline void MetricsText::histogram(const char* name, const char* help, const Durations& durations) {
    head(name, "histogram", help);
    const std::string bucket = std::string(name) + "_bucket";
    std::uint64_t count = 0;
    for (std::size_t i = 0; i < durations.counts.size(); ++i) {
        count += durations.counts[i];
        const bool is_last = i == Durations::bounds.size();
        const std::string bound =
            is_last ? "+Inf" : text_of(std::chrono::microseconds(Durations::bounds[i]));
        sample(bucket.c_str(), {{"le", bound}}, count);
    }
    text_.append(name).append("_sum ").append(text_of(durations.sum)) += '\n';
    text_.append(name).append("_count ").append(std::to_string(count)) += '\n';
}

// What /proc tells of this process.
inline void MetricsText::process() {
    descriptors();
#ifdef __linux__
    std::string stat;
    try {
        stat = read_file("/proc/self/stat");
    } catch (const Error&) {  // there is no /proc
        return;
    }
    // Behind the name of the program, which may have blanks, from the third field on.
    std::vector<std::uint64_t> fields(3);
    const std::size_t begin = std::min(stat.rfind(')'), stat.size());
    for (std::size_t at = stat.find(' ', begin); at != std::string::npos;) {
        fields.push_back(std::strtoull(stat.c_str() + at, nullptr, 10));
        at = stat.find(' ', at + 1);
    }
    if (fields.size() < 25) return;
    const auto ticks = static_cast<std::uint64_t>(std::max(::sysconf(_SC_CLK_TCK), 1L));
    const auto page = static_cast<std::uint64_t>(std::max(::sysconf(_SC_PAGESIZE), 1L));
    const auto time_of = [ticks](std::uint64_t count) {
        return std::chrono::microseconds(count * 1'000'000 / ticks);
    };
    timespec up{};
    ::clock_gettime(CLOCK_BOOTTIME, &up);
    const auto since_boot =
        std::chrono::seconds(up.tv_sec) + std::chrono::microseconds(up.tv_nsec / 1'000);
    add("process_cpu_seconds_total", "counter", "Processor time used, in seconds.",
        text_of(time_of(fields[14] + fields[15])));
    gauge("process_threads", "Threads of the process.", fields[20]);
    seconds("process_start_time_seconds", "When the process began, in seconds since 1970.",
            wall_clock().time_since_epoch() - (since_boot - time_of(fields[22])));
    gauge("process_virtual_memory_bytes", "Size of the address space.", fields[23]);
    gauge("process_resident_memory_bytes", "Memory in use.", fields[24] * page);
#endif
}

inline void MetricsText::descriptors() {
    rlimit limit{};
    if (::getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        gauge("process_max_fds", "Descriptors that may be open.", limit.rlim_cur);
    }
    DIR* const folder = ::opendir("/proc/self/fd");
    if (!folder) return;
    std::uint64_t count = 0;
    while (::readdir(folder)) ++count;
    ::closedir(folder);
    gauge("process_open_fds", "Descriptors that are open.",
          count - std::min<std::uint64_t>(count, 3));
}

inline void append_sinks(MetricsText& text, const std::vector<SinkStatus>& sinks) {
    if (sinks.empty()) return;
    text.head("task_scheduler_sink_info", "gauge",
              "Always 1: what a sink is, and where it delivers to.");
    for (const SinkStatus& sink : sinks) {
        text.sample("task_scheduler_sink_info",
                    {{"sink", sink.name}, {"kind", sink.kind}, {"target", sink.target}}, 1);
    }
    const auto add = [&](const char* name, const char* type, const char* help, auto value) {
        text.head(name, type, help);
        for (const SinkStatus& sink : sinks) {
            text.sample(name, {{"sink", sink.name}}, static_cast<std::uint64_t>(value(sink)));
        }
    };
    add("task_scheduler_sink_active", "gauge", "0 while a sink is paused, disabled or unlisted.",
        [](const SinkStatus& sink) { return sink.state == SinkState::active ? 1 : 0; });
    add("task_scheduler_sink_unlisted", "gauge", "1 while a sink is not configured, but kept.",
        [](const SinkStatus& sink) { return sink.state == SinkState::unlisted ? 1 : 0; });
    add("task_scheduler_sink_lag_events", "gauge", "Events that a sink has not taken yet.",
        [](const SinkStatus& sink) { return sink.lag; });
    add("task_scheduler_sink_dead_letters", "gauge", "Dead letters of a sink.",
        [](const SinkStatus& sink) { return sink.dead; });
    add("task_scheduler_sink_delivered_total", "counter", "Events that a sink has taken.",
        [](const SinkStatus& sink) { return sink.delivered; });
    add("task_scheduler_sink_failed_attempts_total", "counter", "Attempts to deliver that failed.",
        [](const SinkStatus& sink) { return sink.failed; });
    add("task_scheduler_sink_postponed_total", "counter", "Attempts that could not be made here.",
        [](const SinkStatus& sink) { return sink.postponed; });
    add("task_scheduler_sink_dropped_total", "counter", "Dead letters dropped, being too many.",
        [](const SinkStatus& sink) { return sink.dropped; });
}

// What holds up emission.
inline void append_emission(MetricsText& text, const Overview& overview) {
    const Stats& stats = overview.stats;
    if (overview.next_due) {
        text.seconds("task_scheduler_next_due_timestamp_seconds",
                     "When the earliest pending task is due, in seconds since 1970.",
                     overview.next_due->time_since_epoch());
    }
    text.seconds("task_scheduler_overdue_seconds",
                 "For how long the earliest pending task is overdue.", stats.overdue);
    text.gauge("task_scheduler_clock_trusted", "0 while the clock is behind the journal.",
               stats.clock_trusted);
    text.counter("task_scheduler_clock_steps_total",
                 "Times the clock was set by more than a second, or the machine slept.",
                 overview.clock_steps);
    text.gauge("task_scheduler_paused", "1 while nothing is emitted, being paused.", stats.paused);
    if (!overview.paused) return;
    text.seconds("task_scheduler_pause_start_timestamp_seconds",
                 "When the pause began, in seconds since 1970.",
                 overview.paused->since.time_since_epoch());
    text.head("task_scheduler_pause_info", "gauge", "Why nothing is emitted.");
    text.sample("task_scheduler_pause_info", {{"reason", overview.paused->reason}}, 1);
}

inline void append_journal(MetricsText& text, const Stats& stats, const Durations& syncs) {
    text.gauge("task_scheduler_journal_failed", "1 while the journal cannot be written.",
               stats.journal_failed);
    text.gauge("task_scheduler_journal_disk_full",
               "1 while tasks are refused for want of room on the journal's disk.",
               stats.disk_full);
    if (stats.journal_room) {
        text.gauge("task_scheduler_journal_room_bytes", "Bytes free on the journal's disk.",
                   *stats.journal_room);
        text.gauge("task_scheduler_journal_needed_bytes",
                   "Bytes that must be free there for another task.", stats.journal_needs);
    }
    text.gauge("task_scheduler_journal_bytes", "Size of the journal.", stats.journal_bytes);
    text.gauge("task_scheduler_journal_damaged_lines",
               "Lines of the journal that could not be read at start.", stats.damaged_lines);
    text.gauge("task_scheduler_journal_torn_bytes", "Bytes cut off the journal's end at start.",
               stats.torn_bytes);
    text.counter("task_scheduler_journal_written_bytes_total",
                 "Bytes written to the journal, rewrites included.", stats.journal_written);
    text.histogram("task_scheduler_journal_sync_duration_seconds",
                   "How long the journal's syncs took.", syncs);
    text.counter("task_scheduler_journal_rewrites_total", "Times the journal was rewritten.",
                 stats.journal_rewrites);
    text.counter("task_scheduler_journal_failures_total",
                 "Groups of records that could not be stored.", stats.journal_failures);
}

// How many groups of records a process has not applied.
inline std::uint64_t lag_of(const Cluster& cluster) {
    return cluster.stored - std::min(cluster.stored, cluster.applied);
}

inline void append_cluster(MetricsText& text, const Cluster& cluster, bool is_owner) {
    text.gauge("task_scheduler_cluster_owner", "1 while this node owns the journal.", is_owner);
    text.gauge("task_scheduler_cluster_owner_known", "0 while no node owns it, or none is known.",
               is_owner || !cluster.owner.empty());
    text.gauge("task_scheduler_cluster_connected",
               "0 while this node cannot reach what keeps the journal.", cluster.is_connected);
    text.gauge("task_scheduler_cluster_epoch", "Which owner in a row it is.", cluster.epoch);
    text.counter("task_scheduler_cluster_owner_changes_total", "Times that another owner came.",
                 cluster.epoch);
    text.gauge("task_scheduler_cluster_lag_groups",
               "Groups of records that are stored and not applied by this node.", lag_of(cluster));
    text.gauge("task_scheduler_cluster_nodes", "Nodes that were heard of lately.",
               cluster.nodes.size());
    text.seconds("task_scheduler_cluster_clock_ahead_seconds",
                 "How far this node's clock is ahead of that of what keeps the journal.",
                 cluster.clock_ahead);
}

// How a scheduler stands, and its process.
inline void append_scheduler(MetricsText& text, const Overview& overview, const Options& options) {
    const Stats& stats = overview.stats;
    text.head("task_scheduler_build_info", "gauge", "Always 1: which version this is.");
    text.sample("task_scheduler_build_info", {{"version", SCHEDULER_VERSION}}, 1);
    text.gauge("task_scheduler_tasks_pending", "Tasks that wait for their due time.",
               stats.pending);
    text.gauge("task_scheduler_tasks_pending_max", "How many tasks may be pending.",
               options.max_tasks);
    text.gauge("task_scheduler_tasks_recovered", "Tasks that were pending in the journal at start.",
               stats.recovered);
    text.counter("task_scheduler_tasks_scheduled_total", "Tasks stored.", stats.scheduled);
    text.counter("task_scheduler_tasks_cancelled_total", "Tasks cancelled.", stats.cancelled);
    text.counter("task_scheduler_tasks_missed_total", "Tasks that were too late to be emitted.",
                 stats.missed);
    text.counter("task_scheduler_tasks_refused_total",
                 "Tasks refused at a limit or by the journal.", stats.refused);
    text.gauge("task_scheduler_events_retained", "Events in the history.", stats.retained);
    text.counter("task_scheduler_events_emitted_total", "Events emitted.", stats.emitted);
    text.counter("task_scheduler_events_late_total", "Events emitted more than a second late.",
                 stats.late);
    text.histogram("task_scheduler_event_lateness_seconds",
                   "How long after they were due events were emitted.", overview.late);
    text.head(
        "task_scheduler_held_bytes", "gauge",
        "Bytes that clients make it hold: payloads pending and retained, keys, dead letters.");
    const std::size_t others = overview.key_bytes + overview.letter_bytes;
    text.sample("task_scheduler_held_bytes", {{"kind", "payloads"}},
                stats.bytes - std::min(stats.bytes, others));
    text.sample("task_scheduler_held_bytes", {{"kind", "keys"}}, overview.key_bytes);
    text.sample("task_scheduler_held_bytes", {{"kind", "dead_letters"}}, overview.letter_bytes);
    text.gauge("task_scheduler_held_bytes_max", "How many bytes it may hold.", options.max_bytes);
    text.counter("task_scheduler_payload_accepted_bytes_total", "Bytes of payload of tasks stored.",
                 stats.payload_accepted);
    append_emission(text, overview);
    append_journal(text, stats, overview.syncs);
    text.process();
}

inline std::string because(const Cluster& cluster) {
    return cluster.problem.empty() ? "" : ": " + cluster.problem;
}

// Why a process does not get to know what is stored; empty: it does.
inline std::string cut_off(const Cluster& cluster) {
    if (!cluster.is_connected) {
        return "This node cannot reach what keeps the journal" + because(cluster);
    }
    return cluster.is_stuck ? "This node cannot apply what is stored" + because(cluster) : "";
}

// Why a process is not ready that has a journal open as others have, if it is not that of any.
inline void add_unready(std::vector<std::string>& reasons, const Cluster& cluster, bool is_owner) {
    constexpr std::uint64_t most_lag = 1'000;
    if (const std::string why = cut_off(cluster); !why.empty()) {
        reasons.push_back(sentence(why));
    } else if (!is_owner && cluster.owner.empty()) {
        reasons.push_back(
            sentence("No node owns the journal; nothing is emitted and changes are "
                     "refused" +
                     because(cluster)));
    }
    if (!is_owner && lag_of(cluster) > most_lag) {
        reasons.push_back(
            concat({"This node is ", lag_of(cluster), " groups of records behind the owner."}));
    }
}

// Why a scheduler is not ready, a sentence each.  Where it follows an owner, what is due and not
// emitted is the owner's business.
inline std::vector<std::string> unready(const Stats& stats, const std::optional<Cluster>& cluster,
                                        bool is_owner) {
    std::vector<std::string> reasons;
    if (stats.stopped) reasons.push_back("The scheduler has stopped.");
    if (cluster) add_unready(reasons, *cluster, is_owner);
    if (!is_owner) return reasons;
    if (stats.journal_failed) {
        reasons.push_back("The journal cannot be written; tasks are refused.");
    }
    if (stats.disk_full) {
        const bool known = stats.journal_room && *stats.journal_room < stats.journal_needs;
        reasons.push_back(concat(
            {"The disk of the journal is full; tasks are refused",
             (known ? " until " + std::to_string(stats.journal_needs) + " bytes are free, where " +
                          std::to_string(*stats.journal_room) + " are"
                    : std::string()),
             ": cancel tasks, forget events or make room."}));
    }
    if (!stats.clock_trusted) {
        reasons.push_back(
            "The clock is behind the newest record of the journal; nothing is "
            "emitted and tasks are refused until it has caught up.");
    }
    if (!stats.paused && stats.overdue > std::chrono::seconds(5)) {
        reasons.push_back(
            concat({"A task is overdue by ", std::to_string(stats.overdue.count() / 1'000),
                    " s and was not emitted yet."}));
    }
    return reasons;
}

// ---- 12.3 The OpenAPI document -----------------------------------------------

inline std::vector<std::string_view> split(std::string_view text, char mark) {
    std::vector<std::string_view> parts;
    for (;;) {
        const std::size_t end = std::min(text.find(mark), text.size());
        parts.push_back(text.substr(0, end));
        if (end == text.size()) return parts;
        text.remove_prefix(end + 1);
    }
}

// A member of an object.  A name that ends with ? may be absent.  The type is written as
// Schema has it.
struct ApiMember {
    std::string_view name;
    std::string_view type;
    std::string_view description = {};
};

// A type with a name, which others refer to by that name.
struct ApiSchema {
    std::string_view name;
    std::string_view type;
    std::vector<ApiMember> members = {};  // of an object
    std::string_view description = {};
    std::string_view more = {};  // what else JSON Schema says of it: members, without braces
};

// The JSON Schema of a type in short: `string`, `integer` and JSON's other types; `time` and
// `uuid` for strings of that kind; a name with a capital for a type of api_schemas(); `Task[]`
// for an array; `string|null` or `'on'|'off'` for a choice; `{a:Task,b:integer}` for an object.
// What has a quote right behind its brace is JSON Schema already.
struct Schema {
    std::string_view type;
    std::string_view description = {};
};

inline void append(Json& to, const Schema& schema);

// The schema of an object that has these members.
inline void append_object(Json& to, const std::vector<ApiMember>& members) {
    std::vector<std::string_view> required;
    Json properties;
    properties.object();
    for (const ApiMember& member : members) {
        std::string_view name = member.name;
        if (name.back() == '?') {
            name.remove_suffix(1);
        } else {
            required.push_back(name);
        }
        properties.add(name, Schema{member.type, member.description});
    }
    to.object().add("type", "object");
    if (!required.empty()) to.add("required", required);
    to.add("properties", properties);
}

// The schema of a choice: of words in quotes, of JSON's own types, or of any others.
inline void append_choice(Json& to, const std::vector<std::string_view>& choices) {
    const auto is_name = [](std::string_view one) { return one[0] >= 'A' && one[0] <= 'Z'; };
    const bool has_words = choices.front().front() == '\'';
    const bool has_names = std::any_of(choices.begin(), choices.end(), is_name);
    Json items;
    items.array();
    to.object();
    for (std::string_view choice : choices) {
        if (has_words) choice = choice.substr(1, choice.size() - 2);
        if (choice == "time") to.add("format", "date-time");
        if (has_names) {
            items.add(Schema{choice});
        } else {
            items.add(choice == "time" ? "string" : choice);
        }
    }
    to.add(has_words ? "enum" : has_names ? "oneOf" : "type", items);
}

inline void append_type(Json& to, std::string_view type) {
    const bool is_object = type.front() == '{';
    if (is_object && type.substr(1, 1) == "\"") {
        append(to, JsonView{type});
    } else if (is_object) {
        std::vector<ApiMember> members;
        for (const std::string_view one : split(type.substr(1, type.size() - 2), ',')) {
            members.push_back({one.substr(0, one.find(':')), one.substr(one.find(':') + 1)});
        }
        append_object(to, members);
    } else if (type.find('|') != std::string_view::npos) {
        append_choice(to, split(type, '|'));
    } else if (type.back() == ']') {
        to.object().add("type", "array").add("items", Schema{type.substr(0, type.size() - 2)});
    } else if (type.front() >= 'A' && type.front() <= 'Z') {
        to.object().add("$ref", "#/components/schemas/" + std::string(type));
    } else if (type == "time" || type == "uuid") {
        to.object().add("type", "string").add("format", type == "time" ? "date-time" : type);
    } else {
        to.object().add("type", type);
    }
}

inline void append(Json& to, const Schema& schema) {
    append_type(to, schema.type);
    if (!schema.description.empty()) to.add("description", schema.description);
}

// What the types of the interface are called, and what they hold.
inline std::vector<ApiSchema> api_schemas() {
    constexpr std::string_view verbatim = "Emitted token for token.";
    constexpr std::string_view sentences =
        R"({"type":"array","items":{"type":"string"},"minItems":1})";
    // clang-format off
    return {
        {"Id", "uuid"},
        {"Errors", "object", {{"errors", sentences}}},
        {"Message", "{message:string}"},
        {"State", "{status:string,damaged_lines?:integer,paused?:Pause|null}"},
        {"Pause", "{since:time,reason:string|null}", {}, "Nothing is emitted until resumed."},
        {"Delay", "number|string", {}, "Seconds, or a duration such as 90s or 1h30m."},
        {"NewTask", "object", {
            {"timestamp?", "string", "ISO 8601, at most a year ahead."},
            {"delay?", "Delay"},
            {"message", "object|array|string", verbatim},
            {"topic?", R"({"description":"What it is about: 1 to 128 of A-Za-z0-9._~/-."})"},
            {"max_lateness?", "number|string",
                "Seconds, or a duration: later than this it is missed, and not emitted."},
            {"secret?", "string"}},
            "", R"("oneOf":[{"required":["timestamp"]},{"required":["delay"]}])"},
        {"Change", "object", {
            {"timestamp?", "string"},
            {"delay?", "Delay"},
            {"message?", "object|array|string", verbatim},
            {"secret?", "string"}},
            "", R"("minProperties":1,"additionalProperties":false)"},
        {"Scheduled", "{message:string,id:Id}"},
        {"ScheduledMany", "{message:string,ids:Id[]}"},
        {"Put", "{message:string,id:Id,name:string}"},
        {"PageInfo", "object", {
            {"total_count", "integer", "Of all that there are."},
            {"matching_count?", "integer|null",
                "How many the request chooses, on all pages; null where they could not all be "
                "looked at."},
            {"count", "integer", "Of those on this page."},
            {"start_cursor", "string|null"},
            {"end_cursor", "string|null", "Null when nothing follows."}}},
        {"Task",
            "{id:Id,name?:string,traceparent?:string,tracestate?:string,"
            "status:'pending'|'emitted'|'missed',due:time,emitted_at?:time,"
            "missed_at?:time,late_ms?:integer,payload:object}"},
        {"Histogram", "object", {
            {"from", "time"},
            {"to", "time"},
            {"counts", "integer[]", "Of each span, which has its begin and not its end."}}},
        {"TaskStory",
            R"({"allOf":[{"$ref":"#/components/schemas/Task"},{"type":"object",)"
            R"("required":["stored_at","sinks"],"properties":{)"
            R"("stored_at":{"type":"string","format":"date-time"},)"
            R"("sinks":{"type":"array","items":{"$ref":"#/components/schemas/SinkShare"}}}}]})"},
        {"SinkShare", "object", {
            {"name", "string"},
            {"state", "'taken'|'waiting'|'dead'",
                "taken: it has the event, does not want it, or began after it."},
            {"attempts", "integer", "That failed, as far as that is still known."},
            {"error", "string|null"},
            {"next_attempt", "time|null"}}},
        {"Event",
            "{id:Id,name?:string,traceparent?:string,tracestate?:string,due:time,emitted_at:time,"
            "late_ms:integer,payload:object}"},
        {"SinkState", "'active'|'paused'|'disabled'|'unlisted'", {},
            "unlisted: it is not configured any more, and kept until it is or is forgotten."},
        {"Sink", "object", {
            {"name", "string"},
            {"kind", "'webhook'|'exec'|'callback'|''"},
            {"target", "string"},
            {"topics?", "string[]",
                "Which events it takes; what they do not choose counts as taken."},
            {"state", "SinkState"},
            {"cursor", "string|null", "The last event it has taken."},
            {"lag", "integer", "Events it has not taken yet."},
            {"attempts", "integer", "That failed at the event at hand."},
            {"next_attempt", "time|null"},
            {"last_error", "string|null"},
            {"delivered", "integer"},
            {"failed", "integer"},
            {"postponed", "integer",
                "Times that an attempt could not be made for want of a descriptor, memory or a "
                "thread."},
            {"dead", "integer"},
            {"dropped", "integer"}}},
        {"Status", "object", {
            {"version", "string"},
            {"now", "time"},
            {"started_at", "time"},
            {"uptime_s", "integer"},
            {"ready", "boolean", "What GET /readyz says."},
            {"problems", "string[]", "Why it is not ready, a sentence each."},
            {"paused", "Pause|null"},
            {"pending", "integer"},
            {"next_due", "time|null"},
            {"overdue", "integer", "Pending tasks whose time has come."},
            {"overdue_ms", "integer", "Since when the earliest of them should be emitted."},
            {"scheduled", "integer", "Since the start, as those that follow."},
            {"cancelled", "integer"},
            {"refused", "integer"},
            {"emitted", "integer"},
            {"late", "integer", "Emitted more than a second after they were due."},
            {"missed", "integer"},
            {"events_kept", "integer"},
            {"missed_kept", "integer"},
            {"bytes", "integer", "Of payload, pending and retained."},
            {"clock", "{trusted:boolean}"},
            {"cluster", "Cluster|null", "Null where only one process may have the journal open."},
            {"journal",
                "{file:string|null,fsync:string,failed:boolean,disk_full:boolean,"
                "room_bytes:integer|null,needed_bytes:integer,failures:integer,bytes:integer,"
                "written_bytes:integer,syncs:integer,rewrites:integer,recovered:integer,"
                "damaged_lines:integer,torn_bytes:integer}"},
            {"limits",
                "{memory:integer,tasks:integer,bytes:integer,history:integer,sink_backlog:integer,"
                "sink_backlog_bytes:integer,dead_letters:integer,body:integer,bodies:integer,"
                "answers:integer,connections:integer,streams:integer,stream_pages:integer,"
                "max_lateness_ms:integer|null}"},
            {"sinks", "Sink[]"},
            {"lateness", "LatenessMinute[]",
                "How late events were, by the minute, as far as there were any."},
            {"marks", "Mark[]", "What explains that."},
            {"streams", "{open:integer,limit:integer}"},
            {"access", "'all'|'read'", "What the secret of this request opens."}}},
        {"Cluster", "object", {
            {"node", "string", "Which node this is."},
            {"role", "'owner'|'follower'", "The owner stores and emits."},
            {"owner", "string|null", "Null: there is none, or it is not known."},
            {"owner_url", "string|null", "Where changes are passed on to."},
            {"epoch", "integer", "How often another owner came."},
            {"stored", "integer", "The last group of records that is known to be stored."},
            {"applied", "integer", "The last one that this node has applied."},
            {"lag", "integer", "How many it has not applied."},
            {"connected", "boolean", "Whether this node reaches what keeps the journal."},
            {"problem", "string|null", "Why not, or why it may not own."},
            {"clock_ahead_ms", "integer", "How far this node's clock is ahead of the journal's."},
            {"nodes", "ClusterNode[]", "All that were heard of lately, by name."}}},
        {"ClusterNode", "{node:string,url:string|null,applied:integer,seen:time|null}"},
        {"LatenessMinute",
            "{at:time,events:integer,p50_ms:integer,p95_ms:integer,p99_ms:integer,"
            "max_ms:integer}"},
        {"Mark", "object", {
            {"at", "time"},
            {"what", "'start'|'clock_step'|'pause'|'resume'|'replacement'"},
            {"by_ms?", "integer", "How far the clock was set forward."}}},
        {"DeadLetter",
            "{id:Id,name?:string,traceparent?:string,tracestate?:string,due:time,emitted_at:time,"
            "late_ms:integer,payload:object,given_up_at:time,attempts:integer,error:string,"
            "redelivering:boolean}"},
    };
    // clang-format on
}

// The refusals that several requests have in common.
struct ApiRefusal {
    int status;
    std::string_view name;
    std::string_view description;
};

inline constexpr std::array<ApiRefusal, 10> api_refusals{{
    {400, "Invalid",
     "The request is not valid, or has a query parameter that is not described here."},
    {401, "Unauthorized", "The secret is missing or wrong."},
    {403, "Forbidden", "A foreign Origin or Host, or a read secret where it takes the secret."},
    {404, "NotFound", "There is no such task, event or sink."},
    {409, "AlreadyEmitted", "The task was already emitted."},
    {413, "TooLarge", "The body is too large."},
    {415, "Encoded", "The body is encoded."},
    {422, "KeyReused", "The Idempotency-Key came with another request before."},
    {503, "Unavailable",
     "The journal has failed, the clock is not trusted, the server is stopping, or the node that "
     "owns the journal cannot be reached."},
    {507, "Full", "A limit is reached or the disk is full."},
}};

// One request of the interface: what is checked before its handler is called, and what the
// OpenAPI document says of it.  Types are written as Schema has them.  Its functions
// add to it and return it, so that a table of requests reads like their description.
struct Operation {
    struct Param {
        std::string_view in;  // query or header
        ApiMember what;
        bool repeats = false;  // it may be given more than once
    };
    struct Answer {
        int status;
        std::string_view type;
        std::string_view description;
        std::string_view media;
        std::vector<ApiMember> fields = {};  // of its head
    };

    Operation(std::string_view its_method, std::string_view its_path, std::string_view its_id,
              std::string_view its_summary)
        : method(its_method), path(its_path), id(its_id), summary(its_summary) {}

    Operation& query(std::string_view name, std::string_view type, std::string_view description) {
        params.push_back({"query", {name, type, description}});
        return *this;
    }
    // The topics that are chosen, in a parameter each.
    Operation& topics() {
        constexpr std::string_view patterns =
            R"({"type":"array","maxItems":100,"items":{"type":"string",)"
            R"("pattern":"^([A-Za-z0-9._~/-]{1,128}\\*?|\\*)$"}})";
        params.push_back({"query",
                          {"topic", patterns,
                           "Only those whose topic is this, or begins so where it ends with a *. "
                           "It may be repeated."},
                          true});
        return *this;
    }
    Operation& header(std::string_view name, std::string_view type,
                      std::string_view description = {}) {
        params.push_back({"header", {name, type, description}});
        return *this;
    }
    Operation& body(std::string_view type) {
        body_type = type;
        return *this;
    }
    Operation& optional_body(std::string_view type) {
        needs_body = false;
        return body(type);
    }
    Operation& answers(std::string_view type, std::string_view description,
                       std::string_view media = "application/json") {
        return answers(200, type, description, media);
    }
    Operation& answers(int status, std::string_view type, std::string_view description,
                       std::string_view media = "application/json") {
        all_answers.push_back({status, type, description, media});
        return *this;
    }
    // The answer before has this field in its head.
    Operation& with_field(std::string_view name, std::string_view description) {
        all_answers.back().fields.push_back({name, "string", description});
        return *this;
    }
    // Those of `api_refusals` that refusals_of() does not derive, and one of its own.
    Operation& refuses(std::initializer_list<int> statuses) {
        refusals.insert(statuses);
        return *this;
    }
    Operation& refuses(int status, std::string_view description) {
        all_answers.push_back({status, "Errors", description, "application/json"});
        return *this;
    }
    Operation& without_secret() {
        is_free = true;
        return *this;
    }
    Operation& with_any_query() {
        takes_any_query = true;
        return *this;
    }

    std::string_view method;
    std::string_view path;  // in which {id} or {name} may stand for a segment
    std::string_view id;
    std::string_view summary;
    std::vector<Param> params;
    std::string_view body_type;
    bool needs_body = true;
    std::vector<Answer> all_answers;
    std::set<int> refusals;
    bool is_free = false;          // of the secret
    bool takes_any_query = false;  // it passes over parameters that it does not know
};

// What a request may be refused with: what follows from its kind, and what it names.
inline std::set<int> refusals_of(const Operation& operation) {
    std::set<int> statuses = operation.refusals;
    statuses.insert(403);
    if (!operation.is_free) statuses.insert(401);
    if (!operation.takes_any_query) statuses.insert(400);
    if (operation.method != "GET") statuses.insert(503);
    if (operation.method != "GET" && operation.method != "DELETE") statuses.insert({413, 415});
    return statuses;
}

inline void add_content(Json& to, std::string_view media, std::string_view type) {
    Json schema;
    schema.object().add("schema", Schema{type});
    to.add("content", Json().object().add(media, schema));
}

inline void append(Json& to, const Operation::Answer& answer) {
    to.object().add("description", answer.description);
    if (!answer.type.empty()) add_content(to, answer.media, answer.type);
    if (answer.fields.empty()) return;
    Json fields;
    fields.object();
    for (const ApiMember& one : answer.fields) {
        Json field;
        field.object().add("description", one.description).add("schema", Schema{one.type});
        fields.add(one.name, field);
    }
    to.add("headers", fields);
}

inline Json responses_of(const Operation& operation) {
    std::map<int, Json> responses;
    const std::set<int> refusals = refusals_of(operation);
    for (const ApiRefusal& refusal : api_refusals) {
        if (refusals.count(refusal.status) == 0) continue;
        const std::string place = "#/components/responses/" + std::string(refusal.name);
        responses[refusal.status].object().add("$ref", place);
    }
    for (const Operation::Answer& answer : operation.all_answers) {
        append(responses[answer.status] = {}, answer);
    }
    Json json;
    json.object();
    for (const auto& [status, response] : responses) json.add(std::to_string(status), response);
    return json;
}

inline void append(Json& to, const Operation::Param& param) {
    to.object().add("name", param.what.name).add("in", param.in);
    if (!param.what.description.empty()) to.add("description", param.what.description);
    to.add("schema", Schema{param.what.type});
}

inline void append(Json& to, const Operation& operation) {
    to.object().add("operationId", operation.id).add("summary", operation.summary);
    if (!operation.params.empty()) to.add("parameters", operation.params);
    if (!operation.body_type.empty()) {
        Json body;
        body.object();
        if (operation.needs_body) body.add("required", true);
        add_content(body, "application/json", operation.body_type);
        to.add("requestBody", body);
    }
    if (operation.is_free) to.add("security", Json().array());
    to.add("responses", responses_of(operation));
}

inline void append(Json& to, const ApiSchema& schema) {
    if (schema.members.empty()) {
        append(to, Schema{schema.type, schema.description});
    } else {
        append_object(to, schema.members);
    }
    if (schema.more.empty()) return;
    to.text.back() = ',';
    to.text.append(schema.more) += '}';
}

// What the paths refer to.
inline Json api_components() {
    Json responses;
    responses.object();
    for (const ApiRefusal& refusal : api_refusals) {
        responses.add(refusal.name, Operation::Answer{refusal.status, "Errors", refusal.description,
                                                      "application/json"});
    }
    Json schemas;
    schemas.object();
    for (const ApiSchema& schema : api_schemas()) schemas.add(schema.name, schema);
    constexpr JsonView secrets{
        R"({"secretHeader":{"type":"apiKey","in":"header","name":"x-pd-secret"},)"
        R"("bearer":{"type":"http","scheme":"bearer"}})"};
    constexpr JsonView sink_name{R"({"SinkName":{"name":"name","in":"path","required":true,)"
                                 R"("schema":{"type":"string"}}})"};
    Json json;
    json.object().add("securitySchemes", secrets).add("parameters", sink_name);
    return json.add("responses", responses).add("schemas", schemas);
}

// The OpenAPI document of these requests, of which those of one path stand together; they are
// reached behind a prefix.
inline std::string openapi_text(const std::vector<const Operation*>& operations,
                                std::string_view prefix) {
    constexpr JsonView id{R"([{"name":"id","in":"path","required":true,)"
                          R"("schema":{"$ref":"#/components/schemas/Id"}}])"};
    constexpr JsonView sink_name{R"([{"$ref":"#/components/parameters/SinkName"}])"};
    Json paths;
    paths.object();
    Json path;
    path.object();
    for (std::size_t i = 0; i < operations.size(); ++i) {
        const Operation& operation = *operations[i];
        std::string method(operation.method);
        for (char& c : method) c = static_cast<char>(c | 0x20);
        path.add(method, operation);
        if (i + 1 < operations.size() && operations[i + 1]->path == operation.path) continue;
        const auto has = [&](const char* what) {
            return operation.path.find(what) != operation.path.npos;
        };
        if (has("{id}")) path.add("parameters", id);
        if (has("{name}")) path.add("parameters", sink_name);
        paths.add(operation.path, path);
        path = Json().object();
    }
    constexpr std::string_view description =
        "Keeps JSON messages, emits each at its due time. Errors are {\"errors\": [...]}, all that "
        "is wrong at once. Where a secret is configured it comes with every request: as the header "
        "x-pd-secret, as Authorization: Bearer, as the member secret of a body, or, for /sse only, "
        "as the query parameter secret. A read secret, where one is configured, opens GET and HEAD "
        "only.";
    Json info;
    info.object().add("title", "Task Scheduler").add("version", SCHEDULER_VERSION);
    info.add("description", description);
    info.add("license", JsonView{R"({"name":"MIT","identifier":"MIT"})"});
    Json server;
    server.object().add("url", prefix.empty() ? "/" : prefix);
    Json json;
    json.object()
        .add("openapi", "3.1.0")
        .add("info", info)
        .add("servers", Json().array().add(server));
    json.add("security", JsonView{R"([{},{"secretHeader":[]},{"bearer":[]}])"});
    json.add("paths", paths).add("components", api_components());
    return std::move(json.text);
}

// ---- 12.4 The status ---------------------------------------------------------

inline void append(Json& to, const LatenessMinute& minute) {
    to.object().add("at", minute.at).add("events", minute.events).add("p50_ms", minute.p50);
    to.add("p95_ms", minute.p95).add("p99_ms", minute.p99).add("max_ms", minute.max);
}

inline void append(Json& to, const Mark& mark) {
    static constexpr std::array<std::string_view, 5> kinds{"start", "clock_step", "pause", "resume",
                                                           "replacement"};
    to.object().add("at", mark.at).add("what", kinds[static_cast<std::size_t>(mark.kind)]);
    if (mark.kind == Mark::Kind::clock_step) to.add("by_ms", mark.by);
}

inline Json journal_json(const Stats& stats, const Options& options) {
    Json json;
    json.object().add("file", text_or_null(options.journal)).add("fsync", name_of(options.fsync));
    json.add("failed", stats.journal_failed);
    json.add("disk_full", stats.disk_full).add("room_bytes", stats.journal_room);
    json.add("needed_bytes", stats.journal_needs).add("failures", stats.journal_failures);
    json.add("bytes", stats.journal_bytes).add("written_bytes", stats.journal_written);
    json.add("syncs", stats.journal_syncs).add("rewrites", stats.journal_rewrites);
    json.add("recovered", stats.recovered).add("damaged_lines", stats.damaged_lines);
    return json.add("torn_bytes", stats.torn_bytes);
}

// Limits by their names, in `GET /status` and in metrics.
using NamedLimits = std::vector<std::pair<const char*, std::uint64_t>>;

inline NamedLimits limits_of(const Options& options) {
    return {
        {"memory", options.max_memory},         {"tasks", options.max_tasks},
        {"bytes", options.max_bytes},           {"history", options.history},
        {"sink_backlog", options.sink_backlog}, {"sink_backlog_bytes", options.sink_backlog_bytes},
        {"dead_letters", options.max_dead}};
}

inline Json limits_json(const NamedLimits& limits, const Options& options) {
    Json json;
    json.object();
    for (const auto& [name, limit] : limits) json.add(name, limit);
    return json.add("max_lateness_ms", options.max_lateness);
}

inline void append(Json& to, const Node& node) {
    const bool was_seen = node.seen_at != TimePoint();
    to.object().add("node", node.name).add("url", text_or_null(node.url));
    to.add("applied", node.applied);
    to.add("seen", was_seen ? std::optional<TimePoint>(node.seen_at) : std::nullopt);
}

inline Json cluster_json(const Cluster& cluster, bool is_owner) {
    Json json;
    json.object().add("node", cluster.node).add("role", is_owner ? "owner" : "follower");
    json.add("owner", text_or_null(cluster.owner));
    json.add("owner_url", text_or_null(cluster.owner_url)).add("epoch", cluster.epoch);
    json.add("stored", cluster.stored).add("applied", cluster.applied);
    json.add("lag", lag_of(cluster)).add("connected", cluster.is_connected);
    json.add("problem", text_or_null(cluster.problem));
    return json.add("clock_ahead_ms", cluster.clock_ahead).add("nodes", cluster.nodes);
}

// How a scheduler stands, as an object to which a server adds its own.
inline Json status_json(const Scheduler& scheduler, const NamedLimits& limits) {
    const Overview overview = scheduler.overview();
    const Options& options = scheduler.options();
    const std::optional<Cluster> cluster = scheduler.cluster();
    const bool is_owner = scheduler.is_owner();
    const Stats& stats = overview.stats;
    const std::vector<std::string> problems = unready(stats, cluster, is_owner);
    Json json;
    json.object().add("version", SCHEDULER_VERSION).add("now", overview.now);
    json.add("started_at", overview.started_at).add("uptime_s", overview.uptime.count() / 1'000);
    json.add("ready", problems.empty()).add("problems", problems).add("paused", overview.paused);
    json.add("pending", stats.pending).add("next_due", overview.next_due);
    json.add("overdue", overview.overdue).add("overdue_ms", stats.overdue);
    json.add("scheduled", stats.scheduled).add("cancelled", stats.cancelled);
    json.add("refused", stats.refused).add("emitted", stats.emitted).add("late", stats.late);
    json.add("missed", stats.missed).add("events_kept", stats.retained);
    json.add("missed_kept", overview.missed).add("bytes", stats.bytes);
    json.add("clock", Json().object().add("trusted", stats.clock_trusted));
    json.add("cluster",
             cluster ? std::optional<Json>(cluster_json(*cluster, is_owner)) : std::nullopt);
    json.add("journal", journal_json(stats, options)).add("limits", limits_json(limits, options));
    json.add("sinks", scheduler.sinks())
        .add("lateness", overview.lateness)
        .add("marks", overview.marks);
    return json;
}

}  // namespace detail

#ifndef SCHEDULER_NO_HTTP

// ============================================================================
// 13. HTTP
// ============================================================================
//
// `HttpApi` answers requests, and stands on any `httplib::Server`.  `HttpServer` is a
// server that holds up to the open network, and makes no more of a request than these
// few paths need.
//
//   H1  A secret, where one is configured, is judged before anything else of a
//       request, and compared in constant time.  A read secret opens GET and HEAD.
//   H2  A body is read piece by piece and never beyond `max_body`.
//   H3  A head is judged as a whole before anything is done: bounded, with one way
//       of framing, or it is refused.
//   H4  A connection whose request was not read to its end is closed after the
//       answer, so that a body never runs as the next request.
//   H5  A stream costs its socket and its cursor.  One thread writes them all, or
//       from some thousand on one for each processor, but for a few events to a few
//       streams; what a slow one has not taken stays in the history and nowhere else.
//   H6  No request and no client has a thread.  Beside the streams' writers there are
//       three, whatever clients do: the loop, which owns every connection that is no
//       stream and never waits for anything else; the committer, which waits for
//       tickets; and the worker, which does what takes long.  Of these two each scheduler
//       has its own, so that none waits for the journal of another.
//   H7  What several clients ask for at once is stored at once: by the loop, if that
//       is one quick write, else by the committer.
//   H8  A client costs what it has sent, and what is on its way to it.  All of them
//       together have a limit of connections, streams, descriptors, bodies and answers;
//       beyond it a request is answered with 503.
//   H9  TLS is spoken by the threads that are there.  A handshake has the time of a head, and
//       all of them together a share of each round of the loop.

/// How `HttpApi` and `HttpServer` behave.
struct HttpOptions {
    /// Any one of these must come with every request; none: anybody may.  There may be
    /// two, neither of them empty or with `%`, blanks or control characters.
    std::vector<std::string> secrets;
    /// One or two more, of the same kind, that open GET and HEAD, event streams included, and
    /// nothing else.  They need a secret beside them, and are none of the secrets.
    std::vector<std::string> read_secrets;
    /// Origins whose pages may call the API, as browsers send them, such as
    /// `https://example.org`.
    std::vector<std::string> cors_origins;
    /// Names that `Host` may have beside those of the loopback, where that is checked,
    /// with a port or without.
    std::vector<std::string> allowed_hosts;
    /// Refuse a `Host` that is neither a loopback name nor allowed.  `HttpServer`
    /// does so by itself when it is bound to the loopback and has no secret.
    bool check_host = false;
    /// The largest body of a request, in bytes.
    Limit<std::size_t, std::size_t{1} << 20> max_body;
    /// How many event streams may be open.
    Limit<std::size_t, 1'024> max_streams;
    /// After how long without an event a stream gets a comment.
    milliseconds keep_alive{15'000};
    /// The HTML document that `GET /` answers, to anybody; empty: there is nothing at `/`.  The
    /// binary's own is made of the files in `page/`; its addresses are relative, so that it works
    /// behind a prefix too.
    std::string page;

    /// `HttpServer`: the prefixes behind which it has a scheduler each, such as `/heating`; none:
    /// it has one, without a prefix.  Segments as of `HttpApi::mount()`; none may lie behind
    /// another.  All limits here are those of the whole server.
    std::vector<std::string> prefixes;
    /// `HttpServer`: told of what HTTP has to tell, as `Options::log` is; null: the log of the
    /// scheduler that it serves first.  That scheduler's level counts in any case.
    std::function<void(const LogRecord&)> log;

    /// `HttpServer`: files of the certificate, with those between it and its authority behind
    /// it, and of its key, in PEM.  With both it speaks TLS, 1.3 or 1.2, and nothing else, but for
    /// sockets in the file system.  It needs a build with OpenSSL.
    std::string tls_certificate;
    std::string tls_key;  ///< see `tls_certificate`
    /// `HttpServer`: a file of authorities, in PEM.  With it every client must show a certificate
    /// that one of them has signed.
    std::string tls_client_ca;
    /// A file of authorities, in PEM, that have signed the certificates of the nodes that own a
    /// shared journal, for changes that are passed on to the owner by https; empty: the system's,
    /// or `SSL_CERT_FILE`.  The certificate above is shown to an owner that asks for one.
    std::string tls_owner_ca;
    /// How long a change may take that is passed on to the owner of a shared journal, until it is
    /// applied here too; then its connection ends without an answer.
    milliseconds owner_timeout{5'000};

    /// `HttpServer`: how many bytes of large answers may be on their way at once.  A page ends when
    /// it takes a quarter of them.
    Limit<std::size_t, std::size_t{64} << 20> max_answers;
    /// `HttpServer`: how many bytes of large bodies may be on their way at once.
    Limit<std::size_t, std::size_t{64} << 20> max_bodies;
    /// `HttpServer`: how many bytes of past events each thread that writes event streams keeps as
    /// these get them; there is one for about each thousand streams.
    Limit<std::size_t, std::size_t{4} << 20> max_stream_pages;
    /// `HttpServer`: how many connections may be open, event streams not counted.  A few
    /// descriptors of the process's limit are left to others, whatever this says.
    Limit<std::size_t, 4'096> max_connections;
    /// `HttpServer`: about how many bytes the system keeps for a client that does not read; 0: as
    /// many as it likes, which may be some MiB.
    std::size_t send_buffer = 0;
    /// `HttpServer`: how long a request may take to come in, and its answer to go out.
    milliseconds request_timeout{30'000};
    /// `HttpServer`: how long a connection may be idle between requests.
    milliseconds idle_timeout{60'000};

    /// Throws `Error` with `invalid_argument` if a secret, an origin or a host cannot be one, or
    /// a file of TLS cannot be used.  `HttpApi` and `HttpServer` do so when they are made.
    void check() const;
    /// Derives each limit that is not given from how many bytes of memory a server may take, and
    /// returns how many it takes at most by all its limits together: more, where those that are
    /// given do not fit.  `Options::memory_of_others` is the place for that.
    std::uint64_t derive_limits(std::uint64_t memory);
};

namespace detail {

// How many bytes of a body or an answer are many, if so many of all answers may be on their way.
inline std::size_t large_size(std::size_t max_answers) {
    return std::clamp<std::size_t>(max_answers / 128, 4'096, 65'536);
}

}  // namespace detail

// A connection has a request's head, and answers that are not large; a stream has a few numbers.
// A body is there twice, as what was received and as what is stored of it.
inline std::uint64_t HttpOptions::derive_limits(std::uint64_t memory) {
    constexpr std::uint64_t kibibyte = 1'024;
    constexpr std::uint64_t buffers = 1'536 * kibibyte;  // of the threads, and of backups
    const std::uint64_t session = tls_certificate.empty() ? 0 : 40 * kibibyte;
    const std::uint64_t part = (memory - std::min(memory, buffers)) / 16;
    const std::uint64_t two_bodies = max_body.is_given() ? 2 * std::uint64_t{max_body} : 0;
    max_answers.derive(std::max({4 * part, 128 * kibibyte, two_bodies}));
    const std::uint64_t a_connection =
        20 * kibibyte + 2 * detail::large_size(max_answers) + session;
    const std::uint64_t a_stream = 4 * kibibyte + session;
    max_connections.derive(std::max<std::uint64_t>(6 * part / a_connection, 8));
    max_bodies.derive(std::max({2 * part, 128 * kibibyte, two_bodies}));
    max_body.derive(std::min(max_bodies / 2, max_answers / 2));
    max_streams.derive(std::max<std::uint64_t>(part / a_stream, 4));
    max_stream_pages.derive(std::max(part / (1 + max_streams / 1'000), 64 * kibibyte));
    if (send_buffer == 0) send_buffer = std::max<std::size_t>(max_answers / 64, 16'384);
    return buffers + max_connections * a_connection + max_answers + 2 * max_bodies +
           max_streams * a_stream + max_stream_pages * (1 + max_streams / 1'000);
}

namespace detail {

// ---- 13.1 What the parts share ---------------------------------------------

#ifndef CPPHTTPLIB_OPENSSL_SUPPORT
// httplib::SSLClient::is_valid() by the name that the linker knows.  Only a cpp-httplib that
// was compiled with OpenSSL has it; elsewhere the address is null.
extern "C" __attribute__((weak)) void _ZNK7httplib9SSLClient8is_validEv();
#endif

// A library that was compiled with OpenSSL has larger requests and clients than one without,
// and a program in which both meet would crash.
inline void check_httplib() {
#ifdef CPPHTTPLIB_OPENSSL_SUPPORT
    // This does not link with a library that was compiled without OpenSSL.
    [[maybe_unused]] void (httplib::Client::*volatile needed)(bool) =
        &httplib::Client::enable_server_certificate_verification;
#else
    if (&_ZNK7httplib9SSLClient8is_validEv == nullptr) return;
    throw_as(Errc::invalid_argument,
             {"the installed cpp-httplib was compiled with OpenSSL and this program without: "
              "compile it with $(pkg-config --cflags --libs cpp-httplib) -lssl -lcrypto"});
#endif
}

inline bool same_secret(std::string_view given, std::string_view secret) {
    std::size_t difference = given.size() ^ secret.size();
    for (std::size_t i = 0; i < given.size() && !secret.empty(); ++i) {
        difference |= static_cast<unsigned char>(given[i] ^ secret[i % secret.size()]);
    }
    return difference == 0;
}

// How much a request may do, by the secret that it carries.
enum class Access { none, read, all };

// What a name in HTTP may hold (RFC 9110, 5.6.2).
inline bool is_token(std::string_view text) {
    return !text.empty() && consists_of_alnum_and("!#$%&'*+-.^_`|~", text);
}

inline bool equal_ignoring_case(std::string_view a, std::string_view b) {
    return a.size() == b.size() &&
           std::equal(a.begin(), a.end(), b.begin(), [](unsigned char x, unsigned char y) {
               return x == y ||
                      ((x | 0x20U) == (y | 0x20U) && (x | 0x20U) >= 'a' && (x | 0x20U) <= 'z');
           });
}

// A host without its port, in brackets or not.
inline std::string_view host_without_port(std::string_view host) {
    if (host.empty() || host.front() != '[') return host.substr(0, host.find(':'));
    const std::size_t end = host.find("]:");
    return end == std::string_view::npos ? host : host.substr(0, end + 1);
}

inline bool is_loopback(const in_addr& address) {
    return ntohl(address.s_addr) >> 24 == 127;
}

// An address of IPv4 may be written as one of IPv6, and is reached by it.
inline bool is_loopback(const in6_addr& address) {
    if (!IN6_IS_ADDR_V4MAPPED(&address)) return IN6_IS_ADDR_LOOPBACK(&address);
    in_addr mapped{};
    std::memcpy(&mapped, &address.s6_addr[12], sizeof mapped);
    return is_loopback(mapped);
}

inline bool is_loopback_name(std::string_view host) {
    if (equal_ignoring_case(host, "localhost")) return true;
    in_addr v4{};
    if (::inet_pton(AF_INET, std::string(host).c_str(), &v4) == 1) return is_loopback(v4);
    if (host.size() < 2 || host.front() != '[' || host.back() != ']') return false;
    in6_addr v6{};
    const std::string inside(host.substr(1, host.size() - 2));
    return ::inet_pton(AF_INET6, inside.c_str(), &v6) == 1 && is_loopback(v6);
}

// An address of the internet as it is written, with its port, and by this name for its host if
// there is one; of another kind: nothing.
inline std::string internet_address(const sockaddr* at, std::string host = "") {
    std::array<char, INET6_ADDRSTRLEN> number{};
    const bool is_v6 = at->sa_family == AF_INET6;
    if (at->sa_family != AF_INET && !is_v6) return "";
    const auto* const v6 = reinterpret_cast<const sockaddr_in6*>(at);
    const auto* const v4 = reinterpret_cast<const sockaddr_in*>(at);  // whose port is at that place
    const void* const bytes = is_v6 ? static_cast<const void*>(&v6->sin6_addr) : &v4->sin_addr;
    if (host.empty()) host = ::inet_ntop(at->sa_family, bytes, number.data(), number.size());
    if (host.find(':') != std::string::npos) host = concat({"[", host, "]"});
    return concat({host, ":", ntohs(v4->sin_port)});
}

// Whether this is an address of IPv6 in brackets.
inline bool is_ipv6_in_brackets(std::string_view host) {
    in6_addr v6{};
    return host.size() > 2 && host.front() == '[' && host.back() == ']' &&
           ::inet_pton(AF_INET6, std::string(host.substr(1, host.size() - 2)).c_str(), &v6) == 1;
}

// What Host may say (RFC 9110, 7.2): a host, in as many characters as RFC 3986 allows, and
// perhaps a port; or nothing.
inline bool is_host_value(std::string_view text) {
    const std::string_view host = host_without_port(text);
    const std::string_view port = text.substr(host.size());
    if (port.find_first_not_of("0123456789", 1) != std::string_view::npos) return false;
    return is_ipv6_in_brackets(host) || consists_of_alnum_and("-._~%!$&'()*+,;=", host);
}

// The host and the port of an authority (RFC 3986, 3.2), without user information.
struct Authority {
    std::string_view host;  // of IPv6 with its brackets
    std::string_view port;  // empty: it has none
};

inline std::optional<Authority> parse_authority(std::string_view text) {
    const std::string_view host = host_without_port(text);
    const bool is_name = !host.empty() && consists_of_alnum_and("-._", host);
    if (!is_name && !is_ipv6_in_brackets(host)) return std::nullopt;
    if (host.size() == text.size()) return Authority{host, {}};
    const std::string_view port = text.substr(host.size() + 1);
    const bool good_port = !port.empty() && port.size() <= 5 &&
                           port.find_first_not_of("0123456789") == std::string_view::npos &&
                           std::stoul(std::string(port)) - 1 < 65'535;
    if (!good_port) return std::nullopt;
    return Authority{host, port};
}

// Where a server is to be found.
struct Url {
    std::string origin;     // scheme, host and port
    std::string authority;  // host and port, as given
    std::string host;       // without brackets
    std::string port;
    std::string target;  // path and query
    bool secure = false;
    std::string socket;  // the path of one in the file system, in place of host and port
};

// What the URL of a server may be (RFC 3986, without user, fragment and non-ASCII).
inline std::optional<Url> parse_url(std::string_view text) {
    constexpr std::string_view plain = "http://";
    constexpr std::string_view secure = "https://";
    Url url;
    url.secure = text.substr(0, secure.size()) == secure;
    if (!url.secure && text.substr(0, plain.size()) != plain) return std::nullopt;
    const bool printable = std::all_of(text.begin(), text.end(), [](unsigned char c) {
        return c > 0x20 && c < 0x7F && c != '#' && c != '\\' && c != '"';
    });
    const std::size_t start = url.secure ? secure.size() : plain.size();
    const std::size_t end = std::min(text.find_first_of("/?", start), text.size());
    const std::string_view authority = text.substr(start, end - start);
    const auto parts = parse_authority(authority);
    if (!printable || !parts) return std::nullopt;
    const auto [host, port] = *parts;
    url.origin = text.substr(0, end);
    url.authority = authority;
    url.host = host.front() == '[' ? host.substr(1, host.size() - 2) : host;
    url.port = !port.empty() ? port : url.secure ? "443" : "80";
    url.target = text.substr(end);
    if (url.target.empty() || url.target[0] != '/') url.target.insert(0, 1, '/');
    return url;
}

// Whether this is an origin as browsers write it (RFC 6454, 6.2; WHATWG URL), since it is
// compared byte for byte.
inline bool is_origin(std::string_view text) {
    const std::size_t end = text.find("://");
    if (end == std::string_view::npos) return false;
    const std::string_view scheme = text.substr(0, end);
    constexpr std::string_view letters = "abcdefghijklmnopqrstuvwxyz";
    constexpr std::string_view others = "abcdefghijklmnopqrstuvwxyz0123456789+-.";
    if (scheme.empty() || letters.find(scheme.front()) == std::string_view::npos ||
        scheme.find_first_not_of(others) != std::string_view::npos) {
        return false;
    }
    const std::string_view rest = text.substr(end + 3);
    const auto authority = parse_authority(rest);
    const bool small =
        std::none_of(rest.begin(), rest.end(), [](char c) { return c >= 'A' && c <= 'Z'; });
    const std::string_view port = authority ? authority->port : std::string_view();
    const bool implied = port == (scheme == "http" ? "80" : scheme == "https" ? "443" : "none");
    return authority && small && !implied && port.substr(0, 1) != "0";
}

// The secrets of a server.  They do not change; others take their place as a whole.
struct Secrets {
    std::vector<std::string> all;   // open everything; none of them: everything is open
    std::vector<std::string> read;  // open GET and HEAD

    // Throws `Error` with `invalid_argument` if one cannot be a secret.
    void check() const;
    // How much this text opens.  How long that takes does not tell how near it is to a secret.
    Access access_of(std::string_view given) const {
        bool opens_all = false;
        bool reads = false;
        for (const std::string& one : all) opens_all |= same_secret(given, one);
        for (const std::string& one : read) reads |= same_secret(given, one);
        return opens_all ? Access::all : reads ? Access::read : Access::none;
    }
};

inline void Secrets::check() const {
    const auto refuse = [](const std::string& why) { throw_as(Errc::invalid_argument, {why}); };
    if (all.size() > 2) refuse("there may be two secrets at most");
    if (read.size() > 2) refuse("there may be two read secrets at most");
    for (const auto* const secrets : {&all, &read}) {
        for (const std::string& secret : *secrets) {
            if (secret.empty()) refuse("a secret must not be empty");
            const bool bad = std::any_of(secret.begin(), secret.end(), [](unsigned char c) {
                return c == '%' || c <= 0x20 || c == 0x7F;
            });
            if (bad) refuse("a secret must not hold %, blanks or control characters");
        }
    }
    if (!read.empty() && all.empty()) {
        refuse("a read secret needs a secret beside it, for all that is not reading");
    }
    for (const std::string& secret : read) {
        if (std::find(all.begin(), all.end(), secret) == all.end()) continue;
        refuse("a read secret must not be the same as a secret, which opens everything");
    }
}

// Whether a path is like a pattern, in which a name in braces may stand for a segment: `id`.
inline bool matches(std::string_view pattern, std::string_view path, std::string& id) {
    const std::size_t place = pattern.find('{');
    if (place == std::string_view::npos) return path == pattern;
    const std::string_view rest = pattern.substr(pattern.find('}') + 1);
    if (path.size() <= place + rest.size() || path.substr(0, place) != pattern.substr(0, place) ||
        path.substr(path.size() - rest.size()) != rest) {
        return false;
    }
    const std::string_view segment = path.substr(place, path.size() - place - rest.size());
    if (segment.find('/') != std::string_view::npos) return false;
    id = segment;
    return true;
}

// Whether paths may begin with this: nothing, or segments that need no escape and mean themselves.
inline bool is_prefix(std::string_view text) {
    if (text.empty()) return true;
    if (text.front() != '/') return false;
    const std::vector<std::string_view> segments = split(text.substr(1), '/');
    return std::all_of(segments.begin(), segments.end(), [](std::string_view segment) {
        return !segment.empty() && segment != "." && segment != ".." &&
               consists_of_alnum_and("._~-", segment);
    });
}

inline void check_prefix(std::string_view text) {
    if (is_prefix(text)) return;
    throw_as(Errc::invalid_argument,
             {"the prefix \"", printable(text, 128),
              "\" must be empty or like /scheduler: segments of letters, digits and ._~- that "
              "begin with a slash each, and no slash at the end"});
}

// Whether a decoded path is this prefix, or behind it.
inline bool is_behind(std::string_view path, std::string_view prefix) {
    return path.substr(0, prefix.size()) == prefix &&
           (prefix.empty() || path.size() == prefix.size() || path[prefix.size()] == '/');
}

// The regular expression that a path is for cpp-httplib.  It takes stack for each character that
// an expression without bounds would match, so a segment is bounded.
inline std::string path_pattern(std::string_view path) {
    std::string pattern;
    for (const char c : path.substr(0, path.find('{'))) {
        if (c == '.') pattern += '\\';
        pattern += c;
    }
    const std::size_t end = path.find('}');
    if (end == std::string_view::npos) return pattern;
    return concat({pattern, "[^/]{1,128}", path.substr(end + 1)});
}

// GET, HEAD for GET.
inline std::string method_list(std::string_view method) {
    return method == "GET" ? "GET, HEAD" : std::string(method);
}

// Percent-decoded; with `plus`, a + is a blank, as in a query.  What is no escape
// stays as it is.
inline std::string url_decoded(std::string_view text, bool plus) {
    std::string decoded;
    decoded.reserve(text.size());
    for (std::size_t i = 0; i < text.size(); ++i) {
        const int high = text[i] == '%' && i + 2 < text.size() ? hex_value(text[i + 1]) : -1;
        const int low = high >= 0 ? hex_value(text[i + 2]) : -1;
        if (low >= 0) {
            decoded += static_cast<char>(high << 4 | low);
            i += 2;
        } else {
            decoded += plus && text[i] == '+' ? ' ' : text[i];
        }
    }
    return decoded;
}

// ---- 13.2 Messages ---------------------------------------------------------

// A message's header fields and body.
struct HttpMessage {
    std::vector<std::pair<std::string_view, std::string_view>> fields;
    std::string body;

    // The first field with this name, if there is one.
    std::optional<std::string_view> field(std::string_view name) const;
};

inline std::optional<std::string_view> HttpMessage::field(std::string_view name) const {
    for (const auto& [known, value] : fields) {
        if (equal_ignoring_case(known, name)) return value;
    }
    return std::nullopt;
}

// A request as the API sees it, whatever server it came to, which owns the texts.
struct HttpRequest : HttpMessage {
    std::string_view method;
    std::string_view target;  // path and query, as they were sent; of CONNECT, an authority
    std::string_view prefix;  // of every path, where the API is mounted behind one
    int body_status = 200;    // or why there is no body
    std::string body_error;
    bool lacks_room = false;  // that is why: too many bodies are on their way
    bool is_by_loopback = false;  // it came by an address of the loopback to an HttpServer
    bool has_waited = false;      // for an event, as HttpAnswer::waits_for_event asks
    std::string peer;             // who has sent it, where that is known

    // The path behind the prefix, decoded.
    std::string path() const {
        std::string path = url_decoded(target.substr(0, target.find('?')), false);
        if (std::string_view(path).substr(0, prefix.size()) == prefix) {
            path.erase(0, prefix.size());
        }
        return path.empty() ? "/" : path;
    }
    // The first parameter of the query with this name.
    std::optional<std::string> param(std::string_view name) const;
    // All values of a parameter that may be repeated.
    std::vector<std::string> all_params(std::string_view name) const;
    // Calls fn(name, value) for each parameter of the query, the value as it was sent.
    template <class Fn>
    void for_each_param(Fn fn) const;
    // Notes why there is no body.
    void refuse_body(int status, std::string error) {
        body.clear();
        body_status = status;
        body_error = std::move(error);
    }
};

template <class Fn>
void HttpRequest::for_each_param(Fn fn) const {
    std::string_view query = target.substr(std::min(target.find('?'), target.size()));
    while (!query.empty()) {
        query.remove_prefix(1);  // ? or &
        const std::string_view one = query.substr(0, query.find('&'));
        const std::size_t equals = std::min(one.find('='), one.size());
        if (!one.empty()) {
            fn(url_decoded(one.substr(0, equals), true),
               one.substr(std::min(equals + 1, one.size())));
        }
        query.remove_prefix(one.size());
    }
}

inline std::vector<std::string> HttpRequest::all_params(std::string_view name) const {
    std::vector<std::string> found;
    for_each_param([&](const std::string& known, std::string_view value) {
        if (known == name) found.push_back(url_decoded(value, true));
    });
    return found;
}

inline std::optional<std::string> HttpRequest::param(std::string_view name) const {
    std::optional<std::string> found;
    for_each_param([&](const std::string& known, std::string_view value) {
        if (!found && known == name) found = url_decoded(value, true);
    });
    return found;
}

// Why a body is not taken, if that can be told from the head.
inline void judge_body_fields(HttpRequest& request, std::uint64_t size, std::size_t most) {
    constexpr std::string_view multipart = "multipart/";
    const std::string_view type = request.field("Content-Type").value_or("");
    if (request.field("Content-Encoding")) {
        request.refuse_body(415, "A body must be sent as it is, without Content-Encoding.");
    } else if (equal_ignoring_case(type.substr(0, multipart.size()), multipart)) {
        request.refuse_body(415, "The body must be JSON, not a multipart form.");
    } else if (size > most) {
        request.refuse_body(
            413, concat({"The body is too large; at most ", most, " bytes are accepted."}));
    }
}

// Takes a body in chunks apart (RFC 9112, 7.1), as its bytes come.
class ChunkDecoder {
public:
    // Takes from the front of `text` what is data or a whole line, up to the end of the body, and
    // calls fn(data) for what belongs to the body.  Returns how many bytes it took; the rest comes
    // again, with more behind it.
    template <class Fn>
    std::size_t take(std::string_view text, Fn fn);
    bool is_done() const { return next_ == Next::nothing; }
    bool is_bad() const { return next_ == Next::bad; }

private:
    enum class Next { size, data, end_of_data, trailer, nothing, bad };
    Next judge(std::string_view line);
    Next judge_size(std::string_view line);

    static constexpr std::size_t max_extras = 8'192;  // bytes of extensions and trailers

    Next next_ = Next::size;
    std::uint64_t left_ = 0;  // of the chunk
    std::size_t extras_ = 0;
};

template <class Fn>
std::size_t ChunkDecoder::take(std::string_view text, Fn fn) {
    std::size_t at = 0;
    while (at < text.size() && !is_done() && !is_bad()) {
        const std::string_view rest = text.substr(at);
        if (next_ == Next::data) {
            const auto n = static_cast<std::size_t>(std::min<std::uint64_t>(left_, rest.size()));
            fn(rest.substr(0, n));
            at += n;
            left_ -= n;
            if (left_ == 0) next_ = Next::end_of_data;
            continue;
        }
        const std::size_t end = rest.find('\r');
        const std::string_view line = rest.substr(0, end);
        const bool is_whole = line.size() + 1 < rest.size();
        const bool is_long = line.size() > max_extras || line.find('\n') != line.npos;
        const bool begins = next_ == Next::size          ? hex_value(rest[0]) >= 0
                            : next_ == Next::end_of_data ? line.empty()
                                                         : true;
        if (is_long || !begins || (is_whole && rest[end + 1] != '\n')) {
            next_ = Next::bad;
        } else if (is_whole) {
            next_ = judge(line);
            at += end + 2;
        } else {
            break;
        }
    }
    return at;
}

inline ChunkDecoder::Next ChunkDecoder::judge(std::string_view line) {
    if (next_ == Next::size) return judge_size(line);
    if (next_ == Next::end_of_data) return line.empty() ? Next::size : Next::bad;
    if (line.empty()) return Next::nothing;
    const std::size_t colon = line.find(':');
    extras_ += line.size();
    const bool good = colon != line.npos && is_token(line.substr(0, colon));
    return good && extras_ <= max_extras ? Next::trailer : Next::bad;
}

// Digits, and perhaps an extension, which is passed over, with blanks before it.
inline ChunkDecoder::Next ChunkDecoder::judge_size(std::string_view line) {
    constexpr std::size_t most_digits = 15;
    const std::size_t digits =
        std::min(line.find_first_not_of("0123456789abcdefABCDEF"), line.size());
    const std::string_view extension = trimmed(line.substr(digits));
    extras_ += line.size() - digits;
    if (digits == 0 || digits > most_digits || extras_ > max_extras) return Next::bad;
    if (line.size() > digits && extension.substr(0, 1) != ";") return Next::bad;
    std::from_chars(line.data(), line.data() + digits, left_, 16);
    return left_ > 0 ? Next::data : Next::trailer;
}

// ---- The reader ------------------------------------------------------------

// Reads HTTP/1.1 messages (RFC 9112), requests or answers, out of bytes that come in pieces of
// any size.  It knows no socket and no clock.
//
//     reader.feed(bytes);
//     while (reader.next() == MessageReader::Step::whole) answer(reader.request());
class MessageReader {
public:
    enum class Kind { requests, answers };
    enum class Step {
        incomplete,  // more bytes are needed
        whole,       // a message has come, or as much of it as is to be read
        refused      // this is no HTTP; refusal() says why, and nothing more is read
    };
    struct Refusal {
        int status = 400;
        const char* error = "";
        bool is_tls = false;  // what has come begins as TLS does
    };

    // Of requests; those who answer were chosen by us, and may say more.
    static constexpr std::size_t max_head = 16'384;
    static constexpr std::size_t max_target = 8'192;
    static constexpr std::size_t max_path = 2'048;
    static constexpr std::size_t max_fields = 100;
    static constexpr std::size_t max_answer_head = 65'536;

    MessageReader(Kind kind, std::size_t max_body) : kind_(kind), max_body_(max_body) {}
    MessageReader(const MessageReader&) = delete;
    MessageReader& operator=(const MessageReader&) = delete;

    // Takes bytes that have come.
    void feed(std::string_view bytes);
    // Reads on.  After `whole`, the next message begins, and what was said of this one ends.
    Step next();
    // Reads on when no more bytes come: a body without a length is whole then, any other is not.
    Step end();
    // Gives up a body that has not come whole: the message goes on without it.
    Step give_up_body(int status, std::string error);

    // The message at hand; of an answer, its fields and its body.
    HttpRequest& request() { return message_; }
    const HttpRequest& request() const { return message_; }
    // Of an answer.
    int status() const { return status_; }
    const Refusal& refusal() const { return refusal_; }

    // Whether a message has begun to come, and whether its head is whole.
    bool has_begun() const { return stage_ != Stage::head || has_more(); }
    bool has_head() const { return stage_ == Stage::body || stage_ == Stage::whole; }
    // Whether the message was read to its end: if not, nothing may follow it (H4).
    bool is_consumed() const;
    // Whether another message may follow.
    bool can_go_on() const { return persistent_ && is_consumed(); }
    bool is_old() const { return old_; }  // HTTP/1.0
    // True once, when the sender waits for leave to send the body (RFC 9110, 10.1.1).
    bool takes_leave() { return wants_leave() && std::exchange(expects_continue_, false); }
    // Whether bytes have come behind the message.
    bool has_more() const { return at_ < in_.size(); }
    // How many bytes it holds, the room for more of a body too.
    std::size_t size() const { return in_.size() - at_ + head_.size() + message_.body.capacity(); }

private:
    enum class Stage { head, body, whole, refused };

    void begin();
    bool wants_leave() const {
        return expects_continue_ && !old_ && stage_ == Stage::body && at_ == in_.size();
    }
    std::size_t head_size();
    Step read_head();
    bool judge_first_byte();
    bool judge_head_size(std::size_t size);
    bool judge();
    bool judge_line(std::string_view line);
    bool judge_request_line(std::string_view line);
    bool judge_target(std::string_view target);
    bool judge_status_line(std::string_view line);
    bool judge_field(std::string_view line);
    void judge_connection(std::string_view options);
    bool judge_framing(std::string_view name, std::string_view value);
    bool judge_whole();
    void begin_body();
    bool take_body();
    void take_chunks(std::string_view arrived);
    bool refuse(int status, const char* error) {
        refusal_ = {status, error, false};
        return false;
    }

    static constexpr std::size_t large = 16'384;  // a buffer that is not kept

    const Kind kind_;
    const std::size_t max_body_;
    std::string in_;           // what has come
    std::size_t at_ = 0;       // how much of it was read
    std::size_t scanned_ = 0;  // how far the end of a head was looked for
    Stage stage_ = Stage::head;
    Refusal refusal_;

    // Of the message at hand:
    std::string head_;
    std::string_view authority_;  // of a target in absolute form
    HttpRequest message_;
    int status_ = 0;
    bool old_ = false;
    bool persistent_ = true;
    bool closes_ = false;  // a Connection field says so
    bool framed_ = false;  // by Content-Length
    bool chunked_ = false;
    bool until_end_ = false;  // the body goes on until the end of the connection
    bool expects_continue_ = false;
    std::uint64_t body_left_ = 0;  // of a framed body
    std::uint64_t body_size_ = 0;  // what has come of it
    ChunkDecoder chunks_;
    std::size_t hosts_ = 0;
    std::size_t origins_ = 0;
};

inline void MessageReader::feed(std::string_view bytes) {
    in_.erase(0, at_);
    scanned_ -= std::min(scanned_, at_);
    at_ = 0;
    if (in_.empty() && in_.capacity() > large) in_.shrink_to_fit();
    in_ += bytes;
}

// Whatever a large message took is given back.
inline void MessageReader::begin() {
    stage_ = Stage::head;
    message_.method = message_.target = {};
    message_.fields.clear();
    message_.body.clear();
    message_.body_status = 200;
    message_.lacks_room = message_.has_waited = false;
    if (message_.body.capacity() > large) message_.body.shrink_to_fit();
    authority_ = {};
    status_ = 0;
    persistent_ = true;
    old_ = closes_ = framed_ = chunked_ = until_end_ = expects_continue_ = false;
    body_left_ = body_size_ = 0;
    chunks_ = {};
    hosts_ = origins_ = 0;
    if (at_ == in_.size() && in_.capacity() > large) feed({});
}

inline MessageReader::Step MessageReader::next() {
    if (stage_ == Stage::whole) begin();
    if (stage_ == Stage::head) {
        const Step step = read_head();
        if (step != Step::whole) return step;
    }
    if (stage_ == Stage::refused) return Step::refused;
    if (stage_ == Stage::body && !take_body()) return Step::incomplete;
    stage_ = Stage::whole;
    return Step::whole;
}

inline MessageReader::Step MessageReader::end() {
    if (stage_ != Stage::body) return stage_ == Stage::refused ? Step::refused : Step::incomplete;
    if (!until_end_) return give_up_body(400, "The body did not arrive whole.");
    until_end_ = persistent_ = false;
    stage_ = Stage::whole;
    return Step::whole;
}

inline MessageReader::Step MessageReader::give_up_body(int status, std::string error) {
    message_.refuse_body(status, std::move(error));
    message_.body.shrink_to_fit();
    stage_ = Stage::whole;
    return Step::whole;
}

inline bool MessageReader::is_consumed() const {
    if (stage_ == Stage::refused || message_.body_status != 200) return false;
    return chunked_ ? chunks_.is_done() : body_left_ == 0 && !until_end_;
}

// The size of the head that comes next, with its empty line; 0: it is not whole yet.
inline std::size_t MessageReader::head_size() {
    for (scanned_ = std::max(scanned_, at_);; ++scanned_) {
        scanned_ = std::min(in_.find('\n', scanned_), in_.size());
        const std::string_view behind =
            std::string_view(in_).substr(std::min(scanned_ + 1, in_.size()), 2);
        if (behind.empty() || behind == "\r") return 0;
        if (behind[0] == '\n') return scanned_ + 2 - at_;
        if (behind == "\r\n") return scanned_ + 3 - at_;
    }
}

// Whole: a head was taken, and the body follows, if it has one.
inline MessageReader::Step MessageReader::read_head() {
    do {
        // Empty lines before a message are nothing (RFC 9112, 2.2).
        while (at_ < in_.size() && (in_[at_] == '\r' || in_[at_] == '\n')) ++at_;
        const std::size_t size = head_size();
        const bool good = judge_first_byte() && judge_head_size(size);
        if (good && size == 0) return Step::incomplete;
        head_.assign(in_, at_, good ? size : 0);
        at_ += head_.size();
        if (!good || !judge()) {
            stage_ = Stage::refused;
            return Step::refused;
        }
        if (status_ / 100 == 1) begin();  // what only comes before an answer
    } while (kind_ == Kind::answers && status_ == 0);
    begin_body();
    return Step::whole;
}

// A handshake of TLS says nothing that ends a head, and its client waits for an answer.
inline bool MessageReader::judge_first_byte() {
    constexpr char handshake = 0x16;  // RFC 8446, 5.1
    if (!has_more() || in_[at_] != handshake) return true;
    refusal_ = {400, "This port does not speak TLS; begin its URL with http://.", true};
    return false;
}

// A head of size 0 is not whole.
inline bool MessageReader::judge_head_size(std::size_t size) {
    const std::string_view unread = std::string_view(in_).substr(at_);
    const std::size_t least = size > 0 ? size : unread.size();
    if (kind_ == Kind::answers) {
        return least <= max_answer_head || refuse(431, "Its head is too large.");
    }
    if (size == 0 && unread.size() > max_target + 32 && unread.find('\n') == unread.npos) {
        return refuse(414, "The first line is too long; at most 8192 bytes are accepted.");
    }
    return least <= max_head ||
           refuse(431, "The head is too large; at most 16384 bytes are accepted.");
}

inline bool MessageReader::judge() {
    std::string_view raw = head_;
    for (std::size_t count = 0; !raw.empty(); ++count) {
        const std::size_t newline = raw.find('\n');
        std::string_view line = raw.substr(0, newline);
        raw.remove_prefix(newline + 1);
        if (!line.empty() && line.back() == '\r') {
            line.remove_suffix(1);
        } else if (kind_ == Kind::requests) {
            return refuse(400, "Every line of a head must end with CR LF.");
        }
        if (line.empty()) break;
        if (count > max_fields && kind_ == Kind::requests) {
            return refuse(431, "The head has too many fields; at most 100 are accepted.");
        }
        if (count == 0 ? !judge_line(line) : !judge_field(line)) return false;
    }
    return kind_ == Kind::answers || judge_whole();
}

inline bool MessageReader::judge_line(std::string_view line) {
    return kind_ == Kind::requests ? judge_request_line(line) : judge_status_line(line);
}

inline bool MessageReader::judge_request_line(std::string_view line) {
    const std::size_t first = line.find(' ');
    const std::size_t second = line.find(' ', first == std::string_view::npos ? first : first + 1);
    const std::string_view version =
        second == std::string_view::npos ? std::string_view() : line.substr(second + 1);
    old_ = version == "HTTP/1.0";
    persistent_ = !old_;
    if (version != "HTTP/1.1" && !old_) {
        return refuse(400, "The first line must be a method, a target and HTTP/1.1.");
    }
    message_.method = line.substr(0, first);
    if (!is_token(message_.method)) return refuse(400, "The method must be a word.");
    return judge_target(line.substr(first + 1, second - first - 1));
}

inline bool MessageReader::judge_target(std::string_view target) {
    std::string_view scheme = "http://";
    if (equal_ignoring_case(target.substr(0, 8), "https://")) scheme = "https://";
    if (message_.method == "CONNECT" && target.substr(0, 1) != "/") {  // RFC 9112, 3.2.3
        const auto authority = parse_authority(target);
        if (!authority || authority->port.empty()) {
            return refuse(400, "The target of CONNECT must be a host and a port.");
        }
        message_.target = target;
        return true;
    }
    if (equal_ignoring_case(target.substr(0, scheme.size()), scheme)) {
        // absolute-form (RFC 9112, 3.2.2): its host and path are what counts.
        const std::size_t end = std::min(target.find_first_of("/?", scheme.size()), target.size());
        authority_ = target.substr(scheme.size(), end - scheme.size());
        target.remove_prefix(end);
        if (authority_.empty() || !is_host_value(authority_)) {
            return refuse(400, "The target must name a host.");
        }
        if (target.empty()) target = "/";
    }
    if (target.size() > max_target || std::min(target.find('?'), target.size()) > max_path) {
        return refuse(414,
                      "The target is too long; at most 2048 bytes of path and 8192 in all are "
                      "accepted.");
    }
    const bool printable = std::all_of(target.begin(), target.end(),
                                       [](unsigned char c) { return c > 0x20 && c < 0x7F; });
    const bool absolute_query = !authority_.empty() && target[0] == '?';
    const bool asterisk = target == "*" && message_.method == "OPTIONS";
    if (!printable || target.empty() || (target[0] != '/' && !asterisk && !absolute_query)) {
        return refuse(400, "The target must be a path that begins with a slash, in ASCII.");
    }
    message_.target = target;
    return true;
}

inline bool MessageReader::judge_status_line(std::string_view line) {
    const bool good = line.size() >= 12 && line.substr(0, 7) == "HTTP/1." && line[8] == ' ' &&
                      line.find_first_not_of("0123456789", 9) >= 12 && line[9] != '0' &&
                      (line.size() == 12 || line[12] == ' ');
    if (!good) return refuse(400, "The first line must be HTTP/1.1 and a status.");
    status_ = std::stoi(std::string(line.substr(9, 3)));
    old_ = line[7] == '0';
    persistent_ = !old_;
    return true;
}

inline bool MessageReader::judge_field(std::string_view line) {
    const std::size_t colon = line.find(':');
    const std::string_view name = line.substr(0, colon);
    if (colon == std::string_view::npos || !is_token(name)) {
        return refuse(400, "A header field must be a name, a colon and a value on one line.");
    }
    const std::string_view value = trimmed(line.substr(colon + 1));
    const bool control = std::any_of(value.begin(), value.end(), [](unsigned char c) {
        return (c < 0x20 && c != '\t') || c == 0x7F;
    });
    if (control) return refuse(400, "A header field must not hold control characters.");
    const bool is_host = equal_ignoring_case(name, "Host");
    if (is_host && ++hosts_ && !is_host_value(value)) {
        return refuse(400, "Host must be a host and perhaps a port.");
    }
    message_.fields.emplace_back(name, is_host && !authority_.empty() ? authority_ : value);
    if (equal_ignoring_case(name, "Origin")) ++origins_;
    if (equal_ignoring_case(name, "Connection")) judge_connection(value);
    if (equal_ignoring_case(name, "Expect")) {
        expects_continue_ = equal_ignoring_case(value, "100-continue");
    }
    return judge_framing(name, value);
}

// A list, in which close is stronger than keep-alive (RFC 9112, 9.6).
inline void MessageReader::judge_connection(std::string_view options) {
    bool close = false;
    bool keep = false;
    while (!options.empty()) {
        const std::size_t end = std::min(options.find_first_of(", \t"), options.size());
        close = close || equal_ignoring_case(options.substr(0, end), "close");
        keep = keep || equal_ignoring_case(options.substr(0, end), "keep-alive");
        options.remove_prefix(std::min(end + 1, options.size()));
    }
    closes_ = closes_ || close;
    if (closes_ || keep) persistent_ = !closes_;
}

// One way to tell where the body ends, or none (RFC 9112, 6.3).
inline bool MessageReader::judge_framing(std::string_view name, std::string_view value) {
    if (equal_ignoring_case(name, "Transfer-Encoding")) {
        if (chunked_ || !equal_ignoring_case(value, "chunked")) {
            return refuse(400, "The only Transfer-Encoding that is accepted is chunked, once.");
        }
        chunked_ = true;
    } else if (equal_ignoring_case(name, "Content-Length")) {
        const bool digits =
            std::all_of(value.begin(), value.end(), [](char c) { return c >= '0' && c <= '9'; });
        if (framed_ || value.empty() || value.size() > 18 || !digits) {
            return refuse(400, "There must be at most one Content-Length, a plain number.");
        }
        framed_ = true;
        body_left_ = std::strtoull(std::string(value).c_str(), nullptr, 10);
    }
    return true;
}

inline bool MessageReader::judge_whole() {
    if (hosts_ > 1 || (hosts_ == 0 && !old_)) {
        return refuse(400, "A request must have exactly one Host field.");
    }
    if (origins_ > 1) return refuse(400, "A request must have at most one Origin field.");
    if (chunked_ && (framed_ || old_)) {
        return refuse(400,
                      "Content-Length and Transfer-Encoding must not come together, and "
                      "HTTP/1.0 has no Transfer-Encoding.");
    }
    return true;
}

// Tells how the body ends, and whether it is read at all; what speaks against that is noted, and
// judged after the secret.
inline void MessageReader::begin_body() {
    stage_ = Stage::body;
    if (kind_ == Kind::requests) {
        if (!is_consumed()) judge_body_fields(message_, body_left_, max_body_);
        return;
    }
    if (status_ == 204 || status_ == 304) {
        chunked_ = false;
        body_left_ = 0;
    } else if (chunked_) {
        body_left_ = 0;
    } else {
        until_end_ = !framed_;
    }
    if (body_left_ > max_body_) message_.refuse_body(413, "The body is too large.");
}

// Takes what has come of the body.  False: there is more to come (H2).
inline bool MessageReader::take_body() {
    if (message_.body_status != 200 || is_consumed()) return true;
    const std::string_view arrived = std::string_view(in_).substr(at_);
    if (chunked_) {
        take_chunks(arrived);
        return is_consumed() || message_.body_status != 200;
    }
    const std::uint64_t most = until_end_ ? max_body_ - body_size_ : body_left_;
    const auto n = static_cast<std::size_t>(std::min<std::uint64_t>(arrived.size(), most));
    message_.body.append(arrived.substr(0, n));
    at_ += n;
    body_size_ += n;
    if (!until_end_) return (body_left_ -= n) == 0;
    if (n == arrived.size()) return false;
    message_.refuse_body(413, "The body is too large.");
    return true;
}

inline void MessageReader::take_chunks(std::string_view arrived) {
    at_ += chunks_.take(arrived, [this](std::string_view data) {
        body_size_ += data.size();
        if (body_size_ <= max_body_) {
            message_.body.append(data);
        } else {
            judge_body_fields(message_, body_size_, max_body_);
        }
    });
    if (message_.body_status == 200 && chunks_.is_bad()) {
        message_.refuse_body(400, "The chunks of the body are malformed.");
    }
}

// ---- 13.3 Answers ----------------------------------------------------------

// Names as a sentence lists them: "a", "b" and "c".
inline std::string quoted_list(const std::vector<std::string_view>& names) {
    std::string list;
    for (std::size_t i = 0; i < names.size(); ++i) {
        if (i > 0) list += i + 1 == names.size() ? " and " : ", ";
        list.append("\"").append(names[i]).append("\"");
    }
    return list;
}

// What is wrong with the names of a query's parameters: a sentence for each that the operation
// does not know, or that comes more than once, up to some.
inline std::vector<std::string> query_errors(const HttpRequest& request,
                                             const Operation& operation) {
    constexpr std::size_t most_errors = 16;
    std::vector<std::string> errors;
    if (request.target.find('?') == std::string_view::npos) return errors;
    std::vector<std::string_view> known;
    std::set<std::string_view> repeating;
    for (const Operation::Param& param : operation.params) {
        if (param.in == "query") known.push_back(param.what.name);
        if (param.repeats) repeating.insert(param.what.name);
    }
    std::set<std::string> seen;
    request.for_each_param([&](const std::string& name, std::string_view) {
        if (errors.size() >= most_errors) return;
        const bool is_known = std::find(known.begin(), known.end(), name) != known.end();
        const std::string shown = concat({"\"", printable(name, 64), "\""});
        if (!is_known) {
            const std::string ours = known.empty() ? "this request takes none."
                                     : known.size() == 1
                                         ? concat({"known is ", quoted_list(known), "."})
                                         : concat({"known are ", quoted_list(known), "."});
            errors.push_back(concat({"The query parameter ", shown, " is unknown; ", ours}));
        } else if (!seen.insert(name).second && repeating.count(name) == 0) {
            errors.push_back(concat({"The query parameter ", shown, " is given more than once."}));
        }
    });
    return errors;
}

// Where a stream begins: what it is told first, and its cursor.
struct StreamStart {
    std::string preamble;
    std::uint64_t seq = 0;
    std::vector<std::string> topics = {};  // none: it is sent all events
    bool has_passed = false;               // on a foreign server: events that it was not told of
};

// Why a request is refused, as refusals are counted.
enum class Refusal {
    invalid,
    secret,
    host,
    origin,
    not_found,
    method,
    timeout,
    conflict,
    too_large,
    target_too_long,
    encoding,
    key_reused,
    head_too_large,
    failure,
    unavailable,
    connections,
    streams,
    bodies,
    answers,
    limit,
    disk_full,
    handshake,
    tls_on_plain_port,
    plain_on_tls_port,
    none,  // the last
};

inline constexpr std::array<std::string_view, static_cast<std::size_t>(Refusal::none)>
    refusal_names{"invalid",
                  "secret",
                  "host",
                  "origin",
                  "not_found",
                  "method",
                  "timeout",
                  "conflict",
                  "too_large",
                  "target_too_long",
                  "encoding",
                  "key_reused",
                  "head_too_large",
                  "failure",
                  "unavailable",
                  "connections",
                  "streams",
                  "bodies",
                  "answers",
                  "limit",
                  "disk_full",
                  "handshake",
                  "tls_on_plain_port",
                  "plain_on_tls_port"};

// A share of a limit that all connections have together, for as long as it lives.
class Share {
public:
    Share() = default;
    Share(std::atomic<std::size_t>& used, std::size_t size) : used_(&used), size_(size) {
        used += size;
    }
    Share(Share&& other) noexcept
        : used_(std::exchange(other.used_, nullptr)), size_(other.size_) {}
    Share& operator=(Share&& other) noexcept {
        std::swap(used_, other.used_);
        std::swap(size_, other.size_);
        return *this;
    }
    ~Share() {
        if (used_) *used_ -= size_;
    }

private:
    std::atomic<std::size_t>* used_ = nullptr;
    std::size_t size_ = 0;
};

// A copy of the journal on its way to a client, piece by piece.
struct Transfer {
    std::shared_ptr<const JournalSnapshot> snapshot;
    Share share;           // of how many there may be at once
    std::uint64_t at = 0;  // what comes before this was read

    static constexpr std::size_t most = 4;              // at once
    static constexpr std::size_t piece_size = 262'144;  // bytes

    bool is_over() const { return at == snapshot->size(); }
    // The next piece.  Throws.
    std::string next() {
        const auto size = std::min<std::uint64_t>(piece_size, snapshot->size() - at);
        std::string piece(static_cast<std::size_t>(size), '\0');
        piece.resize(snapshot->read(&piece[0], piece.size(), at));
        if (piece.empty() && !is_over()) {
            throw_as(Errc::journal_failed, {"the journal is shorter than it was"});
        }
        at += piece.size();
        return piece;
    }
};

// What the API answers.
struct HttpAnswer {
    int status = 200;
    std::string_view type = "application/json";
    std::vector<std::pair<std::string_view, std::string>> fields;
    std::string body;
    std::optional<StreamStart> stream;  // what follows the head, in place of a body
    std::unique_ptr<Transfer> transfer;  // likewise
    bool closes = false;                // the connection ends behind it
    std::optional<Ticket> ticket;       // what it tells of, see HttpApi::finish()
    bool is_begun = false;           // what was asked for may be stored: no error may be answered
    bool is_silent = false;          // the connection ends in place of it
    bool is_for_worker = false;      // nothing was begun, as it may take long
    bool is_for_owner = false;       // nothing was begun, as that is another process
    bool tells_applied = false;      // it goes to a process that is not the owner
    Share share;                     // of what may be on its way, if it is large
    bool waits_for_opening = false;  // there is none yet: it is to be begun again
    bool waits_for_event = false;    // likewise, as it names one that is yet to be applied here
    bool has_length = true;          // the head tells the size of the body
    std::optional<Refusal> refusal;  // what it counts as, if the status does not say so

    // Adds a field to its head.
    void field(std::string_view name, std::string_view value) { fields.emplace_back(name, value); }
};

// Answers with JSON.
inline void fill(HttpAnswer& answer, int status, std::string json) {
    answer.status = status;
    answer.field("Cache-Control", "no-store");
    if (status == 429 || status == 503 || status == 507) {
        answer.field("Retry-After", "5");
    }
    answer.body = std::move(json);
}

inline void refuse(HttpAnswer& answer, int status, const std::string& error) {
    fill(answer, status, errors_json({error}));
}

// A status with its reason phrase (RFC 9110, 15), and what an answer with it says by itself.
struct StatusLine {
    int status;
    std::string_view reason;
    Refusal refusal;
};

inline StatusLine status_line(int status) {
    constexpr StatusLine known[] = {
        {200, "OK", Refusal::none},
        {201, "Created", Refusal::none},
        {204, "No Content", Refusal::none},
        {304, "Not Modified", Refusal::none},
        {308, "Permanent Redirect", Refusal::none},
        {400, "Bad Request", Refusal::invalid},
        {401, "Unauthorized", Refusal::secret},
        {403, "Forbidden", Refusal::origin},
        {404, "Not Found", Refusal::not_found},
        {405, "Method Not Allowed", Refusal::method},
        {408, "Request Timeout", Refusal::timeout},
        {409, "Conflict", Refusal::conflict},
        {412, "Precondition Failed", Refusal::conflict},
        {413, "Content Too Large", Refusal::too_large},
        {414, "URI Too Long", Refusal::target_too_long},
        {415, "Unsupported Media Type", Refusal::encoding},
        {422, "Unprocessable Content", Refusal::key_reused},
        {431, "Request Header Fields Too Large", Refusal::head_too_large},
        {500, "Internal Server Error", Refusal::failure},
        {501, "Not Implemented", Refusal::method},
        {503, "Service Unavailable", Refusal::unavailable},
        {507, "Insufficient Storage", Refusal::limit}};
    for (const StatusLine& line : known) {
        if (line.status == status) return line;
    }
    return {status, "Unknown", Refusal::failure};
}

inline Refusal refusal_of(const HttpAnswer& answer) {
    return answer.refusal.value_or(status_line(answer.status).refusal);
}

// How much the log makes of a refusal.  What a good client may meet is told with its request.
inline LogLevel level_of(Refusal why) {
    switch (why) {
        case Refusal::not_found:
        case Refusal::conflict:
        case Refusal::tls_on_plain_port:
        case Refusal::none:
            return LogLevel::debug;
        case Refusal::invalid:
        case Refusal::method:
        case Refusal::timeout:
        case Refusal::too_large:
        case Refusal::target_too_long:
        case Refusal::encoding:
        case Refusal::key_reused:
        case Refusal::head_too_large:
        case Refusal::handshake:
        case Refusal::plain_on_tls_port:
            return LogLevel::info;
        case Refusal::failure:
            return LogLevel::error;
        default:
            return LogLevel::warning;
    }
}

// How many requests were refused, by reason, and of how many the log is still to tell: for each
// reason it does so at once, and then not for a while, however many there are.  Any thread.
class Refusals {
public:
    using SteadyTime = std::chrono::steady_clock::time_point;

    void count(Refusal why) {
        if (why == Refusal::none) return;
        ++reasons_[static_cast<std::size_t>(why)].count;
        any_ = true;
    }
    void count(const HttpAnswer& answer) { count(refusal_of(answer)); }
    // How many the log is to be told of now; 0: none, or not yet.
    std::uint64_t take_untold(Refusal why, SteadyTime now);
    // The same for all reasons, with fn(why, how many).
    template <class Fn>
    void take_all_untold(SteadyTime now, Fn fn);
    // When the log is to be told of more.
    std::optional<SteadyTime> next_telling() const;
    void append(MetricsText& text) const {
        constexpr const char* name = "task_scheduler_requests_refused_total";
        text.head(name, "counter", "HTTP requests refused.");
        for (std::size_t i = 0; i < reasons_.size(); ++i) {
            text.sample(name, {{"reason", refusal_names[i]}}, reasons_[i].count.load());
        }
    }

private:
    static constexpr std::chrono::seconds quiet{10};

    struct Reason {
        std::atomic<std::uint64_t> count{0};
        std::atomic<std::uint64_t> told{0};
        std::atomic<SteadyTime> tells_again{SteadyTime()};  // at once
    };
    bool has_untold(std::size_t i) const {
        return level_of(static_cast<Refusal>(i)) != LogLevel::debug &&
               reasons_[i].count > reasons_[i].told;
    }
    std::array<Reason, refusal_names.size()> reasons_{};
    std::atomic<bool> any_{false};
};

inline std::uint64_t Refusals::take_untold(Refusal why, SteadyTime now) {
    if (why == Refusal::none || !has_untold(static_cast<std::size_t>(why))) return 0;
    Reason& reason = reasons_[static_cast<std::size_t>(why)];
    SteadyTime again = reason.tells_again;
    if (now < again) return 0;
    if (!reason.tells_again.compare_exchange_strong(again, now + quiet)) return 0;
    const std::uint64_t count = reason.count;
    return count - reason.told.exchange(count);
}

template <class Fn>
void Refusals::take_all_untold(SteadyTime now, Fn fn) {
    for (std::size_t i = 0; i < reasons_.size(); ++i) {
        const auto why = static_cast<Refusal>(i);
        const std::uint64_t untold = take_untold(why, now);
        if (untold > 0) fn(why, untold);
    }
}

inline std::optional<Refusals::SteadyTime> Refusals::next_telling() const {
    std::optional<SteadyTime> next;
    for (std::size_t i = 0; any_ && i < reasons_.size(); ++i) {
        const SteadyTime again = reasons_[i].tells_again;
        if (has_untold(i) && (!next || again < *next)) next = again;
    }
    return next;
}

// Whether the log may show the value of a parameter: one that is known, and that holds neither a
// secret nor a part of a message.
inline bool is_shown_param(std::string_view name) {
    constexpr std::array<std::string_view, 14> names{
        "after", "all",         "before",      "buckets",       "due_after", "due_before", "end_id",
        "limit", "lastEventId", "lastEventID", "last_event_id", "start_id",  "status",     "topic"};
    return std::find(names.begin(), names.end(), name) != names.end();
}

// A request's target as the log shows it, not too long: a client may have put a secret anywhere, so
// it tells only the beginning that is like a path of ours, and parameters that are known.
inline std::string shown_target(const HttpRequest& request) {
    const std::string_view target = request.target;
    const std::string_view path = target.substr(0, target.find('?'));
    constexpr std::string_view plain =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._~/-";
    const std::size_t end = path.find_first_not_of(plain);
    std::string shown(path.substr(0, end));
    if (end != std::string_view::npos) return printable(shown + "***", 256);
    char separator = '?';
    request.for_each_param([&](const std::string& name, std::string_view value) {
        const bool is_named = is_shown_param(name) || name == "q" || name == "secret";
        shown += separator;
        if (is_named) shown.append(name).append("=");
        shown += is_shown_param(name) ? value : "***";
        separator = '&';
    });
    return printable(shown, 256);
}

// What the log tells of a request when it is answered.
struct Asked {
    explicit Asked(const HttpRequest& request)
        : method(printable(request.method, 32)), target(shown_target(request)) {}
    std::string method;
    std::string target;
    std::chrono::steady_clock::time_point at = std::chrono::steady_clock::now();
};

// Of a request that is refused, and that nothing was noted of so far.
inline void note_if_refused(std::unique_ptr<Asked>& asked, const HttpRequest& request,
                            const HttpAnswer& answer) noexcept {
    if (asked || level_of(refusal_of(answer)) == LogLevel::debug) return;
    try {
        asked = std::make_unique<Asked>(request);
    } catch (const std::bad_alloc&) {  // then the log tells less of it
    }
}

// ---- 13.4 TLS --------------------------------------------------------------
//
// A TlsSession behaves as a socket does that does not block, at a server's side and at a client's.
// What it has taken to send and the socket does not take stays in the session, at most a record of
// it, so that nothing is ever handed to it twice.  It is used by one thread at a time: a server's
// by the loop's, and from when it becomes an event stream by the writer's.

// Why TLS has ended, of what can be told apart.
enum class TlsFault {
    other,
    plain,         // the other side speaks without TLS
    expired,       // its certificate is that
    not_yet_good,  // likewise
    other_host,    // its certificate is for another host
    unknown,       // no authority that is known has signed its certificate
    wants_ours,    // it asks for a certificate
    refuses_ours   // it does not accept the certificate that it was shown
};

// What a certificate is read from, and its key, and those who sign the other side's, in PEM.
struct TlsFiles {
    std::string certificate;
    std::string key;
    std::string authorities;
};

enum class TlsSide { server, client };

#ifdef CPPHTTPLIB_OPENSSL_SUPPORT

// Calls the function of OpenSSL that frees a thing.
struct TlsFree {
    void operator()(SSL_CTX* context) const { ::SSL_CTX_free(context); }
    void operator()(SSL* session) const { ::SSL_free(session); }
    void operator()(BIO_METHOD* method) const { ::BIO_meth_free(method); }
    void operator()(BIO* bio) const { ::BIO_free(bio); }
    void operator()(X509* certificate) const { ::X509_free(certificate); }
    void operator()(EVP_PKEY* key) const { ::EVP_PKEY_free(key); }
};
template <class T>
using TlsPointer = std::unique_ptr<T, TlsFree>;

// What OpenSSL says of the call that has just failed.
inline std::string tls_reason() {
    const char* const reason = ::ERR_reason_error_string(::ERR_peek_last_error());
    ::ERR_clear_error();
    return reason ? reason : "OpenSSL does not say why";
}

// One side of TLS on the socket of one connection, which is not its own.
class TlsSession {
public:
    // A client's side is told the name or address of its server.  Throws std::bad_alloc.
    TlsSession(SSL_CTX* context, int fd, TlsSide side, const std::string& host = "");
    TlsSession(const TlsSession&) = delete;
    TlsSession& operator=(const TlsSession&) = delete;

    // As recv() and send(): -1 with EAGAIN, or EPROTO, behind which there is nothing more.  With
    // EINTR, receive() has had its share for now.  The first calls shake hands.
    ssize_t receive(char* to, std::size_t size);
    ssize_t send(std::string_view text);
    // Sends what the socket has not taken.  False: not all of it, see errno.
    bool flush();
    bool has_unsent() const { return !unsent_.empty(); }
    // Whether all that has come was received.
    bool is_drained() const { return is_drained_ && ::SSL_has_pending(session_.get()) == 0; }
    // Does so before anything else is received or sent.  False: not yet, or never, see errno.
    bool shake_hands();
    // Whether hands have been shaken.
    bool is_established() const { return ::SSL_is_init_finished(session_.get()) == 1; }
    // Whether anything has come.
    bool has_begun() const { return has_begun_; }
    // Why it has failed, after EPROTO; and that in words.
    TlsFault fault() const;
    std::string problem() const;
    // Tells the other side, if it can be told, that nothing more follows.
    void end();

private:
    void expect(const std::string& host);
    ssize_t failure(int result);
    int alert() const;
    static const BIO_METHOD* socket_method();
    static int write_socket(BIO* bio, const char* from, int size);
    static int read_socket(BIO* bio, char* to, int size);
    static long control_socket(BIO* bio, int command, long, void*);

    static constexpr std::size_t share = 65'536;  // bytes that one receive() takes from the socket

    const int fd_;
    std::size_t left_ = 0;  // of the share
    bool has_begun_ = false;
    bool has_ended_ = false;  // the other side sends no more
    bool is_plain_ = false;   // what came first was no TLS
    bool is_drained_ = false;
    bool has_failed_ = false;
    unsigned long error_ = 0;  // with which it has failed
    std::string unsent_;
    TlsPointer<SSL> session_;
};

inline TlsSession::TlsSession(SSL_CTX* context, int fd, TlsSide side, const std::string& host)
    : fd_(fd), session_(::SSL_new(context)) {
    BIO* const bio = session_ ? ::BIO_new(socket_method()) : nullptr;
    if (!bio) throw std::bad_alloc();
    ::BIO_set_data(bio, this);
    ::BIO_set_init(bio, 1);
    ::SSL_set_bio(session_.get(), bio, bio);  // the session's from here on
    if (side == TlsSide::server) {
        ::SSL_set_accept_state(session_.get());
    } else {
        ::SSL_set_connect_state(session_.get());
        expect(host);
    }
}

// Has the other side show a certificate that is for this host.
inline void TlsSession::expect(const std::string& host) {
    in6_addr ignored{};
    const bool is_number = ::inet_pton(AF_INET, host.c_str(), &ignored) == 1 ||
                           ::inet_pton(AF_INET6, host.c_str(), &ignored) == 1;
    SSL* const session = session_.get();
    std::string name = host;  // SSL_set_tlsext_host_name() casts it in the old style
    const bool well =
        is_number ? ::X509_VERIFY_PARAM_set1_ip_asc(::SSL_get0_param(session), host.c_str()) == 1
                  : ::SSL_ctrl(session, SSL_CTRL_SET_TLSEXT_HOSTNAME, TLSEXT_NAMETYPE_host_name,
                               name.data()) == 1 &&
                        ::SSL_set1_host(session, host.c_str()) == 1;
    if (!well) throw std::bad_alloc();
}

inline bool TlsSession::shake_hands() {
    if (!flush()) return false;
    left_ = share;
    ::ERR_clear_error();
    const int result = ::SSL_do_handshake(session_.get());
    if (result == 1) return true;
    if (failure(result) == 0) errno = EPROTO;
    return false;
}

inline ssize_t TlsSession::receive(char* to, std::size_t size) {
    if (!flush()) return -1;  // so that what it answers by itself is bounded
    std::size_t done = 0;
    left_ = share;
    ::ERR_clear_error();
    const int result = ::SSL_read_ex(session_.get(), to, size, &done);
    return result == 1 ? static_cast<ssize_t>(done) : failure(result);
}

inline ssize_t TlsSession::send(std::string_view text) {
    if (!flush()) return -1;
    std::size_t sent = 0;
    left_ = share;
    while (sent < text.size() && unsent_.empty()) {
        std::size_t done = 0;
        ::ERR_clear_error();
        const int result =
            ::SSL_write_ex(session_.get(), text.data() + sent, text.size() - sent, &done);
        if (result != 1) return sent > 0 ? static_cast<ssize_t>(sent) : failure(result);
        sent += done;
    }
    return static_cast<ssize_t>(sent);
}

inline bool TlsSession::flush() {
    while (!unsent_.empty()) {
        const ssize_t n = ::send(fd_, unsent_.data(), unsent_.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return false;
        unsent_.erase(0, static_cast<std::size_t>(n));
        if (unsent_.empty()) unsent_.shrink_to_fit();
    }
    return true;
}

inline void TlsSession::end() {
    ::ERR_clear_error();
    if (!has_failed_ && is_established()) ::SSL_shutdown(session_.get());
    ::ERR_clear_error();
}

inline ssize_t TlsSession::failure(int result) {
    const int error = ::SSL_get_error(session_.get(), result);
    if (error == SSL_ERROR_ZERO_RETURN) return 0;
    const bool waits = error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE;
    if (!waits && !std::exchange(has_failed_, true)) error_ = ::ERR_peek_error();
    ::ERR_clear_error();
    errno = !waits ? EPROTO : left_ == 0 ? EINTR : EAGAIN;
    return -1;
}

// The alert of the other side that has ended it, as RFC 8446, 6 numbers them; -1: it sent none.
inline int TlsSession::alert() const {
    const int alert = ERR_GET_REASON(error_) - SSL_AD_REASON_OFFSET;
    return ERR_GET_LIB(error_) == ERR_LIB_SSL && alert >= 0 ? alert : -1;
}

inline TlsFault TlsSession::fault() const {
    constexpr int handshake_failure = 40;  // also of TLS 1.2, where it lacks a certificate
    constexpr int bad_certificate = 42;
    constexpr int unknown_authority = 48;
    constexpr int certificate_required = 116;
    if (is_plain_) return TlsFault::plain;
    switch (::SSL_get_verify_result(session_.get())) {
        case X509_V_OK:
            break;
        case X509_V_ERR_CERT_HAS_EXPIRED:
            return TlsFault::expired;
        case X509_V_ERR_CERT_NOT_YET_VALID:
            return TlsFault::not_yet_good;
        case X509_V_ERR_HOSTNAME_MISMATCH:
        case X509_V_ERR_IP_ADDRESS_MISMATCH:
            return TlsFault::other_host;
        default:
            return TlsFault::unknown;
    }
    const int said = alert();
    const bool was_asked = ::SSL_get_client_CA_list(session_.get()) != nullptr;
    if (said == certificate_required) return TlsFault::wants_ours;
    if (said == handshake_failure && was_asked && !::SSL_is_server(session_.get()) &&
        !::SSL_get_certificate(session_.get())) {
        return TlsFault::wants_ours;
    }
    const bool is_refusal = said >= bad_certificate && said <= unknown_authority;
    return is_refusal ? TlsFault::refuses_ours : TlsFault::other;
}

inline std::string TlsSession::problem() const {
    const bool is_server = ::SSL_is_server(session_.get()) == 1;
    const std::string its = is_server ? "the client's certificate " : "the server's certificate ";
    const std::string verdict =
        ::X509_verify_cert_error_string(::SSL_get_verify_result(session_.get()));
    const std::string said = alert() < 0 ? "" : ::SSL_alert_desc_string_long(alert());
    switch (fault()) {
        case TlsFault::plain:
            return is_server ? "plain HTTP on a TLS port" : "the server does not speak TLS";
        case TlsFault::expired:
            return its + "has expired";
        case TlsFault::not_yet_good:
            return its + "is not good yet";
        case TlsFault::other_host:
            return its + "is for another host";
        case TlsFault::unknown:
            return concat({its, "is of no authority that is known here (", verdict, ")"});
        case TlsFault::wants_ours:
            return "the server asks for a certificate of the client";
        case TlsFault::refuses_ours:
            return concat({"the ", (is_server ? "client" : "server"),
                           " does not accept the certificate (", said, ")"});
        case TlsFault::other:
            break;
    }
    if (error_ == 0 || has_ended_) return "the connection was cut";
    constexpr int internal_error = 80;  // which HttpServer::reject() sends
    if (!is_server && alert() == internal_error) {
        return concat({"the server cannot take this connection now, perhaps as it has too many (",
                       said, ")"});
    }
    if (!said.empty()) return "the other side says: " + said;
    const char* const reason = ::ERR_reason_error_string(error_);
    return reason ? reason : "TLS failed";
}

// Unlike OpenSSL's own BIO of a socket, it takes all that is written, and raises no SIGPIPE.
inline const BIO_METHOD* TlsSession::socket_method() {
    static const BIO_METHOD* const method = [] {
        TlsPointer<BIO_METHOD> made(
            ::BIO_meth_new(::BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "quiet socket"));
        if (!made) throw std::bad_alloc();
        ::BIO_meth_set_write(made.get(), write_socket);
        ::BIO_meth_set_read(made.get(), read_socket);
        ::BIO_meth_set_ctrl(made.get(), control_socket);
        return made.release();
    }();
    return method;
}

inline int TlsSession::write_socket(BIO* bio, const char* from, int size) {
    TlsSession& tls = *static_cast<TlsSession*>(::BIO_get_data(bio));
    std::string_view text(from, static_cast<std::size_t>(size));
    ::BIO_clear_retry_flags(bio);
    if (tls.unsent_.empty()) {
        const ssize_t n = ::send(tls.fd_, from, text.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno != EAGAIN && errno != EINTR) return -1;
        if (n > 0) text.remove_prefix(static_cast<std::size_t>(n));
    }
    try {
        tls.unsent_ += text;
    } catch (const std::bad_alloc&) {
        return -1;
    }
    return size;
}

// A record begins with its type, which is no letter; HTTP without TLS does.
inline int TlsSession::read_socket(BIO* bio, char* to, int size) {
    TlsSession& tls = *static_cast<TlsSession*>(::BIO_get_data(bio));
    ::BIO_clear_retry_flags(bio);
    const std::size_t most = std::min(static_cast<std::size_t>(size), tls.left_);
    const ssize_t n = most == 0 ? -1 : ::recv(tls.fd_, to, most, MSG_DONTWAIT);
    if (n < 0 && (most == 0 || errno == EAGAIN || errno == EINTR)) ::BIO_set_retry_read(bio);
    tls.is_drained_ = n < size && most == static_cast<std::size_t>(size);
    tls.has_ended_ = n == 0;
    if (n <= 0) return static_cast<int>(n);
    tls.left_ -= static_cast<std::size_t>(n);
    tls.is_plain_ = !std::exchange(tls.has_begun_, true) && to[0] >= 'A' && to[0] <= 'Z';
    return tls.is_plain_ ? -1 : static_cast<int>(n);
}

inline long TlsSession::control_socket(BIO* bio, int command, long, void*) {
    if (command == BIO_CTRL_EOF) return static_cast<TlsSession*>(::BIO_get_data(bio))->has_ended_;
    return command == BIO_CTRL_FLUSH;
}

// ---- What the sessions of a side have in common

// The certificate and key of a side, and whom it believes, as they were read from files.  Any
// thread.
class TlsContext {
public:
    // A server has a certificate, and asks for one if there are authorities; a client need not have
    // one, and without authorities believes those of the system (or SSL_CERT_FILE).  Throws `Error`
    // with `invalid_argument` and a sentence that names the file.
    TlsContext(TlsSide side, const TlsFiles& files);
    // The host is that of a client's server.
    std::unique_ptr<TlsSession> session(int fd, const std::string& host = "") const {
        return std::make_unique<TlsSession>(context_.get(), fd, side_, host);
    }
    // Until when the certificate is good.
    TimePoint expiry() const { return end_; }
    // What is wrong with the certificate's time, in a sentence; or nothing.
    std::string problem(TimePoint now) const;

private:
    void set_up();
    void set_up_server();
    void use_certificate();
    void use_key(const std::string& path);
    void use_authorities(const std::string& path);
    template <class Take>
    static std::size_t read_certificates(const std::string& path, Take take);
    static std::string read_pem(const std::string& path);
    static TimePoint time_of(const ASN1_TIME* time);
    static int choose_protocol(SSL*, const unsigned char** chosen, unsigned char* size,
                               const unsigned char* offered, unsigned offered_size, void*);
    [[noreturn]] static void refuse(const std::string& path, const std::string& why) {
        throw_as(Errc::invalid_argument, {"TLS: ", path, " ", why});
    }

    const TlsSide side_;
    const std::string certificate_;  // its file
    TlsPointer<SSL_CTX> context_;
    TimePoint begin_;
    TimePoint end_;
};

inline TlsContext::TlsContext(TlsSide side, const TlsFiles& files)
    : side_(side),
      certificate_(files.certificate),
      context_(::SSL_CTX_new(side == TlsSide::server ? TLS_server_method() : TLS_client_method())) {
    if (!context_) throw std::bad_alloc();
    set_up();
    if (side == TlsSide::server) set_up_server();
    if (!certificate_.empty()) use_certificate();
    if (!certificate_.empty()) use_key(files.key);
    if (!files.authorities.empty()) {
        use_authorities(files.authorities);
    } else if (side == TlsSide::client) {
        ::SSL_CTX_set_default_verify_paths(context_.get());
    }
    ::ERR_clear_error();
}

inline void TlsContext::set_up() {
    SSL_CTX* const context = context_.get();
    ::SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION);
    ::SSL_CTX_set_options(context, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
    ::SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_RELEASE_BUFFERS);
    ::SSL_CTX_set_read_ahead(context, 1);
    ::SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    if (side_ == TlsSide::client) ::SSL_CTX_set_verify(context, SSL_VERIFY_PEER, nullptr);
}

// A session is resumed by what the client keeps of it; here nothing is kept.
inline void TlsContext::set_up_server() {
    SSL_CTX* const context = context_.get();
    ::SSL_CTX_set_cipher_list(context, "ECDHE+AESGCM:ECDHE+CHACHA20");  // of TLS 1.2
#ifdef SSL_OP_IGNORE_UNEXPECTED_EOF
    ::SSL_CTX_set_options(context, SSL_OP_IGNORE_UNEXPECTED_EOF);
#endif
    ::SSL_CTX_set_num_tickets(context, 1);
    constexpr std::string_view name = "task-scheduler";
    ::SSL_CTX_set_session_id_context(context, reinterpret_cast<const unsigned char*>(name.data()),
                                     static_cast<unsigned>(name.size()));
    ::SSL_CTX_set_alpn_select_cb(context, choose_protocol, nullptr);
}

// HTTP/1.1, or an alert to a client that would rather have something else.
inline int TlsContext::choose_protocol(SSL*, const unsigned char** chosen, unsigned char* size,
                                       const unsigned char* offered, unsigned offered_size, void*) {
    constexpr std::string_view ours = "http/1.1";
    const std::string_view all(reinterpret_cast<const char*>(offered), offered_size);
    for (std::size_t at = 0; at < all.size(); at += 1 + offered[at]) {
        if (all.substr(at + 1, offered[at]) != ours) continue;
        *chosen = offered + at + 1;
        *size = static_cast<unsigned char>(ours.size());
        return SSL_TLSEXT_ERR_OK;
    }
    return SSL_TLSEXT_ERR_ALERT_FATAL;
}

inline std::string TlsContext::read_pem(const std::string& path) {
    std::string text = read_file(path);
    if (text.empty()) refuse(path, "is empty");
    return text;
}

// Calls take(certificate) for each in a file; returns how many there are.
template <class Take>
std::size_t TlsContext::read_certificates(const std::string& path, Take take) {
    const std::string text = read_pem(path);
    const TlsPointer<BIO> bio(::BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
    if (!bio) throw std::bad_alloc();
    ::ERR_clear_error();
    for (std::size_t count = 0;; ++count) {
        TlsPointer<X509> one(::PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr));
        if (one) {
            if (!take(std::move(one))) refuse(path, "cannot be used: " + tls_reason());
            continue;
        }
        const bool is_end = ERR_GET_REASON(::ERR_peek_last_error()) == PEM_R_NO_START_LINE;
        if (count == 0 && is_end) refuse(path, "holds no certificate in PEM");
        if (!is_end) refuse(path, "holds a damaged certificate: " + tls_reason());
        ::ERR_clear_error();
        return count;
    }
}

inline void TlsContext::use_certificate() {
    bool is_first = true;
    read_certificates(certificate_, [&](TlsPointer<X509> one) {
        if (std::exchange(is_first, false)) {
            begin_ = time_of(::X509_get0_notBefore(one.get()));
            end_ = time_of(::X509_get0_notAfter(one.get()));
            return ::SSL_CTX_use_certificate(context_.get(), one.get()) == 1;
        }
        if (::SSL_CTX_add0_chain_cert(context_.get(), one.get()) != 1) return false;
        one.release();  // the context's
        return true;
    });
}

inline void TlsContext::use_key(const std::string& path) {
    const std::string text = read_pem(path);
    const TlsPointer<BIO> bio(::BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
    if (!bio) throw std::bad_alloc();
    bool is_locked = false;
    const auto no_passphrase = [](char*, int, int, void* flag) {
        *static_cast<bool*>(flag) = true;
        return -1;
    };
    ::ERR_clear_error();
    const TlsPointer<EVP_PKEY> key(
        ::PEM_read_bio_PrivateKey(bio.get(), nullptr, no_passphrase, &is_locked));
    if (is_locked) refuse(path, "is locked by a passphrase; give a key without one");
    if (!key) refuse(path, "holds no private key in PEM that can be read");
    if (::X509_check_private_key(::SSL_CTX_get0_certificate(context_.get()), key.get()) != 1) {
        refuse(path, "is not the key of the certificate in " + certificate_);
    }
    if (::SSL_CTX_use_PrivateKey(context_.get(), key.get()) != 1) {
        refuse(path, "cannot be used: " + tls_reason());
    }
    ::ERR_clear_error();
}

inline void TlsContext::use_authorities(const std::string& path) {
    const bool is_server = side_ == TlsSide::server;
    read_certificates(path, [&](const TlsPointer<X509>& one) {
        return ::X509_STORE_add_cert(::SSL_CTX_get_cert_store(context_.get()), one.get()) == 1 &&
               (!is_server || ::SSL_CTX_add_client_CA(context_.get(), one.get()) == 1);
    });
    if (!is_server) return;
    ::SSL_CTX_set_verify(context_.get(), SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT,
                         nullptr);
}

inline TimePoint TlsContext::time_of(const ASN1_TIME* time) {
    std::tm parts{};
    if (::ASN1_TIME_to_tm(time, &parts) != 1) return TimePoint::max();
    return TimePoint(std::chrono::seconds(::timegm(&parts)));
}

inline std::string TlsContext::problem(TimePoint now) const {
    if (now > end_) {
        return concat({"the certificate in ", certificate_, " has expired, on ", format_time(end_),
                       ": clients will not trust it"});
    }
    if (now >= begin_) return "";
    return concat({"the certificate in ", certificate_, " is good only from ", format_time(begin_),
                   ": clients will not trust it before"});
}

#else

// Without OpenSSL nobody makes one.
class TlsSession {
public:
    ssize_t receive(char*, std::size_t) { return 0; }
    ssize_t send(std::string_view) { return -1; }
    bool flush() { return true; }
    bool has_unsent() const { return false; }
    bool is_drained() const { return true; }
    bool shake_hands() { return true; }
    bool is_established() const { return true; }
    bool has_begun() const { return true; }
    TlsFault fault() const { return TlsFault::other; }
    std::string problem() const { return ""; }
    void end() {}
};

class TlsContext {
public:
    TlsContext(TlsSide, const TlsFiles&) {
        throw_as(Errc::invalid_argument,
                 {"TLS (https, --tls-cert and --tls-key) needs a build with OpenSSL"});
    }
    std::unique_ptr<TlsSession> session(int, const std::string& = "") const { return nullptr; }
    TimePoint expiry() const { return {}; }
    std::string problem(TimePoint) const { return ""; }
};

#endif

// The TLS of a server, if it has any.  Its files may be read again while it runs.  Any thread.
class ServerTls {
public:
    explicit ServerTls(const HttpOptions& options);
    // Null: it speaks without TLS.
    std::shared_ptr<const TlsContext> context() const {
        const std::lock_guard<std::mutex> guard(mutex_);
        return context_;
    }
    // Reads the files again.  Throws, and keeps what there is.
    void reload();
    void append_metrics(MetricsText& text) const;

private:
    std::shared_ptr<const TlsContext> read() const {
        return std::make_shared<const TlsContext>(TlsSide::server, files_);
    }

    const TlsFiles files_;
    std::atomic<std::uint64_t> failures_{0};
    mutable std::mutex mutex_;
    std::shared_ptr<const TlsContext> context_;  // guarded by mutex_
};

inline ServerTls::ServerTls(const HttpOptions& options)
    : files_{options.tls_certificate, options.tls_key, options.tls_client_ca} {
    if (files_.certificate.empty() && files_.key.empty() && files_.authorities.empty()) return;
    if (files_.certificate.empty() || files_.key.empty()) {
        throw_as(Errc::invalid_argument,
                 {"TLS needs a certificate and its key (--tls-cert and --tls-key)"});
    }
    context_ = read();
}

inline void ServerTls::reload() {
    if (!context()) throw_as(Errc::invalid_argument, {"this server does not speak TLS"});
    try {
        auto next = read();
        const std::lock_guard<std::mutex> guard(mutex_);
        context_.swap(next);
    } catch (const std::exception&) {
        ++failures_;
        throw;
    }
}

inline void ServerTls::append_metrics(MetricsText& text) const {
    const auto now = context();
    if (!now) return;
    text.seconds("task_scheduler_tls_certificate_expiry_timestamp_seconds",
                 "Until when the certificate is good, in seconds since 1970.",
                 now->expiry().time_since_epoch());
    text.counter("task_scheduler_tls_reload_failures_total",
                 "Times the files of TLS could not be read again.", failures_);
}

}  // namespace detail

inline void HttpOptions::check() const {
    const auto refuse = [](const std::string& why) {
        detail::throw_as(Errc::invalid_argument, {why});
    };
    detail::Secrets{secrets, read_secrets}.check();
    for (const std::string& origin : cors_origins) {
        if (detail::is_origin(origin)) continue;
        refuse(detail::concat(
            {"the origin \"", detail::printable(origin, 128),
             "\" must be as browsers send it, such as https://example.org: scheme and host in "
             "small letters, a port only where it is not the scheme's, and no path"}));
    }
    for (const std::string& host : allowed_hosts) {
        if (detail::parse_authority(host)) continue;
        refuse(detail::concat(
            {"the host \"", detail::printable(host, 128),
             "\" must be a name such as tasks.example or tasks.example:8080, without scheme and "
             "path, or an address, of IPv6 in brackets"}));
    }
    for (const std::string& prefix : prefixes) {
        detail::check_prefix(prefix);
        const auto count = [&](const std::string& one) { return detail::is_behind(one, prefix); };
        if (std::count_if(prefixes.begin(), prefixes.end(), count) == 1) continue;
        refuse(detail::concat({"the prefix \"", prefix,
                               "\" is given twice, or another one lies behind it; each scheduler "
                               "needs one of its own"}));
    }
    detail::ServerTls{*this};
    if (!tls_owner_ca.empty()) detail::TlsContext(detail::TlsSide::client, {"", "", tls_owner_ca});
}

namespace detail {

// ---- 13.5 Event streams ----------------------------------------------------
//
// A stream is a socket and a cursor over the history.  A StreamWriter has many of them, and one
// thread; HttpServer has one writer for each scheduler, and from some thousand streams on one for
// each processor.
//
//   E1  Live streams, which are at the head of the history, are served before those that
//       catch up.  These take turns, a page each, for a slice of time that a new event ends.
//       A pause behind it leaves the processor to other threads.
//   E2  Streams share pages of frames.  These end at multiples of `page_events`, so that streams
//       meet wherever they began.  The pages that were used last are kept, up to `max_cached`
//       bytes, while any stream has events to come.
//   E3  A stream holds no events, only its cursor and how many bytes of the next frame it has
//       sent.  It ends if that frame cannot be finished, since its event was trimmed or
//       forgotten; between frames it is told of the gap.
//   E4  Every stream ends in close(), where it is counted: its client is gone, its frame
//       cannot be finished, or the writer stops.
//   E5  A client that sends nothing more keeps its stream.  A comment, sent at once and then
//       with each keep-alive, brings the reset that says if it is gone altogether.  One whose
//       machine acknowledges nothing ends after four keep-alives, and a minute at least.
//   E6  A stream goes from list to list without an allocation.  What lacks memory for a page
//       stays where it is, and is tried again.
//   E7  A stream with topics is sent of the shared pages what these choose, and passes over the
//       rest.  So that it resumes behind what it has passed, the next keep-alive tells its cursor
//       in place of the comment.
//
// The lists that a stream is in, one at a time:
//
//                     new events              the socket takes no more
//              idle ─────────────► live, behind ─────────────► blocked
//                   ◄─────────────              ◄─────────────
//                    it has them all              it takes more

// A run of events as streams send them.
struct Frames {
    struct End {
        std::size_t offset;  // in the text
        std::uint64_t next;  // the cursor behind its event
        std::size_t topic;   // in the topics, where its own ends
    };
    std::uint64_t begin = 0;  // the cursor before the first
    std::uint64_t next = 0;   // the cursor behind the last
    bool lost = false;        // events were trimmed between the cursor asked for and `begin`
    std::string text;
    std::string topics;     // of all frames, one behind the other
    std::vector<End> ends;  // of each frame

    bool covers(std::uint64_t seq) const { return begin <= seq && seq < next; }
    std::size_t bytes() const {
        return text.capacity() + topics.capacity() + ends.capacity() * sizeof(End);
    }
    // The end of the first frame that is not before a cursor.
    std::vector<End>::const_iterator frame_at(std::uint64_t seq) const {
        return std::upper_bound(ends.begin(), ends.end(), seq,
                                [](std::uint64_t one, const End& end) { return one < end.next; });
    }
    // Whether one of these patterns chooses the topic of a frame.
    bool chooses(const std::vector<std::string>& patterns, std::size_t frame) const {
        const std::size_t start = frame == 0 ? 0 : ends[frame - 1].topic;
        return chooses_topic(patterns,
                             std::string_view(topics).substr(start, ends[frame].topic - start));
    }
    // The frames that these patterns choose, or all if there is none; and whether the last was
    // not chosen, if there was any.
    std::string text_of(const std::vector<std::string>& patterns, bool& has_passed) const;
};

inline std::string Frames::text_of(const std::vector<std::string>& patterns,
                                   bool& has_passed) const {
    if (patterns.empty()) return text;
    std::string chosen;
    for (std::size_t i = 0; i < ends.size(); ++i) {
        has_passed = !chooses(patterns, i);
        const std::size_t start = i == 0 ? 0 : ends[i - 1].offset;
        if (!has_passed) chosen.append(text, start, ends[i].offset - start);
    }
    return chosen;
}

// The page of frames that begins at a cursor (E2), and ends when it has so many bytes.
inline Frames make_frames(const Scheduler& scheduler, std::uint64_t seq,
                          std::size_t most = std::size_t{1} << 18) {
    constexpr std::size_t page_events = 1'024;
    EventQuery query;
    query.limit = page_events - seq % page_events;
    query.from = Cursor(seq);
    query.max_bytes = most;
    const EventPage page = scheduler.events(query);
    Frames frames;
    frames.next = page.next.seq();
    frames.lost = page.lost;
    frames.begin = !page.lost ? seq : page.events.empty() ? frames.next : page.events.front().seq;
    constexpr std::size_t around = 36 + std::string_view("id: \ndata: \n\n").size();
    std::size_t size = 0;
    for (const Event& event : page.events) size += around + event.text().size();
    frames.text.reserve(size);
    frames.ends.reserve(page.events.size());
    for (const Event& event : page.events) {
        frames.text += "id: ";
        append_id(frames.text, event.id);
        frames.text.append("\ndata: ").append(event.text()) += "\n\n";
        frames.topics += event.topic();
        frames.ends.push_back({frames.text.size(), event.seq + 1, frames.topics.size()});
    }
    return frames;
}

constexpr std::string_view keep_alive_comment = ":keepalive\n\n";

// event: gap, then a cursor to go on from.
inline std::string gap_text(const Scheduler& scheduler, std::string_view requested) {
    const EventPage page = scheduler.events({1});
    std::optional<TaskId> oldest;
    if (!page.events.empty()) oldest = page.events.front().id;
    Json json;
    json.object().add("requested", printable(requested, 64)).add("oldest", oldest);
    return concat({"event: gap\ndata: ", json.text, "\n\n"});
}

inline std::string cursor_text(const Scheduler& scheduler, std::uint64_t seq) {
    const auto before = scheduler.event_before(Cursor(seq));
    return concat({"event: cursor\nid: ", (before ? before->str() : "earliest"), "\ndata: {}\n\n"});
}

// Writes event streams to sockets that do not block, on one thread, which the first of them starts.
// It sleeps in epoll_wait: without limit when it has no stream, else until the next keep-alive.
class StreamWriter {
public:
    // `on_closed` is called once for each stream that has ended.
    StreamWriter(const Scheduler& scheduler, milliseconds keep_alive,
                 std::function<void()> on_closed,
                 std::size_t max_cached = HttpOptions().max_stream_pages);
    ~StreamWriter() { stop(); }
    using Topics = std::vector<std::string>;

    // Takes over a socket: `head` goes out first, then the events from the cursor `seq` on, those
    // alone that the topics choose if there are any.  Where there is no memory for the stream, or
    // the writer has stopped, it ends at once.  Any thread.
    // With TLS, it goes out by this session, which is used by nobody else from here on.
    void adopt(int fd, std::string head, std::uint64_t seq, Topics topics = {},
               std::unique_ptr<TlsSession> tls = nullptr) noexcept;
    // How many streams it has.  Any thread.
    std::size_t size() const { return size_; }
    // There may be new events.  For the thread that has emitted them: a few for a few streams
    // it writes by itself, which saves the time that another thread takes to wake up.
    void write_or_wake() noexcept;
    // Ends every stream, after what is there already.  begin_stop() does not block.
    void begin_stop();
    void stop();

private:
    enum class Place { idle, live, behind, blocked, closed };
    struct Stream {
        Stream(int socket, std::string first, std::uint64_t at, Topics chosen,
               std::unique_ptr<TlsSession> session)
            : fd(socket), tls(std::move(session)), head(std::move(first)), seq(at) {
            if (!chosen.empty()) topics = std::make_unique<const Topics>(std::move(chosen));
        }
        int fd;
        std::unique_ptr<TlsSession> tls;  // null: without
        Place place = Place::idle;
        bool is_live = false;         // or was before its socket took no more
        bool is_half_closed = false;  // the client sends nothing more
        bool has_passed = false;      // events that it was not told of (E7)
        std::string head;             // what goes out before the events
        std::uint64_t seq;            // of the event that is to be written next
        std::size_t skip = 0;         // bytes of its frame that are sent
        std::unique_ptr<const Topics> topics;  // null: it is sent all events
        std::list<Stream>::iterator self;
    };
    using Streams = std::list<Stream>;

    void run();
    void round();
    void wait_for_sockets(std::unique_lock<std::mutex>& lock, int timeout);
    void finish();
    int time_to_sleep() const;
    void wake();
    void take_adopted();
    void on_socket(Stream& stream, std::uint32_t events);
    void find_new_events();
    void write_live();
    void write_behind();
    void keep_alive();
    bool is_unreachable(const Stream& stream) const;
    void write(Stream& stream);
    bool write_head(Stream& stream);
    void write_run(Stream& stream, const Frames& page, std::size_t end);
    void write_chosen(Stream& stream, const Frames& page);
    void write_comment(Stream& stream);
    void write_cursor(Stream& stream, const std::string& text);
    std::optional<std::size_t> send(Stream& stream, std::string_view text);
    bool flush(Stream& stream);
    const Frames& page_at(std::uint64_t seq);
    void drop_pages();
    void settle(Stream& stream);
    void move(Stream& stream, Place place);
    void close(Stream& stream);
    static void end(int fd);
    Streams& in(Place place) { return places_[static_cast<std::size_t>(place)]; }
    const Streams& in(Place place) const { return places_[static_cast<std::size_t>(place)]; }
    bool has_work() const { return !in(Place::live).empty() || !in(Place::behind).empty(); }

    static constexpr std::size_t few_streams = 8;
    static constexpr std::uint64_t few_events = 8;  // a stream with so few to come is at the head
    static constexpr std::uint64_t many_events = 4'096;  // one with more to come is not live
    static constexpr std::size_t max_pages = 32;
    static constexpr milliseconds slice{2};                // of those that catch up
    static constexpr std::chrono::microseconds pause{50};  // behind a slice, see E1

    const Scheduler& scheduler_;
    const milliseconds keep_alive_;
    const std::function<void()> on_closed_;
    const std::size_t max_cached_;
    const Descriptor epoll_;
    const Descriptor wake_fd_;
    std::atomic<std::size_t> size_{0};
    std::atomic<bool> woken_{false};
    std::atomic<bool> stopping_{false};
    std::mutex adopted_mutex_;
    Streams adopted_;     // guarded by adopted_mutex_
    bool ended_ = false;  // guarded by adopted_mutex_

    // Of whoever writes, under this mutex, which nobody holds while it sleeps:
    std::mutex writing_mutex_;
    std::array<Streams, 5> places_;  // closed ones until epoll cannot name them any more
    std::list<Frames> pages_;        // the one that was used last comes first
    std::size_t cached_ = 0;         // bytes of pages_
    std::uint64_t next_seq_ = 0;     // as far as the history went when it was last looked at
    std::chrono::steady_clock::time_point next_keep_alive_;
    std::thread thread_;  // guarded by adopted_mutex_, but for its end
};

inline StreamWriter::StreamWriter(const Scheduler& scheduler, milliseconds keep_alive,
                                  std::function<void()> on_closed, std::size_t max_cached)
    : scheduler_(scheduler),
      keep_alive_(keep_alive),
      on_closed_(std::move(on_closed)),
      max_cached_(max_cached),
      epoll_(::epoll_create1(EPOLL_CLOEXEC)),
      wake_fd_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.ptr = nullptr;
    if (epoll_.get() < 0 || wake_fd_.get() < 0 ||
        ::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, wake_fd_.get(), &event) != 0) {
        throw std::system_error(errno, std::generic_category(), "cannot set up event streams");
    }
}

// ---- From other threads

inline void StreamWriter::adopt(int fd, std::string head, std::uint64_t seq, Topics topics,
                                std::unique_ptr<TlsSession> tls) noexcept {
    bool taken = false;
    try {
        Streams one;
        one.emplace_back(fd, std::move(head), seq, std::move(topics), std::move(tls));
        const std::lock_guard<std::mutex> guard(adopted_mutex_);
        if (!ended_ && !thread_.joinable()) thread_ = std::thread([this] { run(); });
        taken = !ended_;
        if (taken) {
            adopted_.splice(adopted_.end(), one);
            ++size_;
        }
    } catch (const std::exception&) {  // it is not taken
    }
    if (taken) return wake();
    end(fd);
    on_closed_();
}

inline void StreamWriter::wake() {
    if (!woken_.exchange(true)) ::eventfd_write(wake_fd_.get(), 1);
}

inline void StreamWriter::write_or_wake() noexcept {
    if (size_ == 0) return;
    const std::unique_lock<std::mutex> lock(writing_mutex_, std::try_to_lock);
    const bool few = lock && !has_work() && in(Place::idle).size() <= few_streams &&
                     scheduler_.newest().seq() - next_seq_ <= few_events;
    if (!few) return wake();
    try {
        find_new_events();
        write_live();
    } catch (const std::exception&) {  // what is not written is the thread's
    }
    if (has_work()) return wake();
    drop_pages();
}

inline void StreamWriter::begin_stop() {
    stopping_ = true;
    wake();
}

inline void StreamWriter::stop() {
    begin_stop();
    {
        const std::lock_guard<std::mutex> guard(adopted_mutex_);
        ended_ = ended_ || !thread_.joinable();
    }
    if (thread_.joinable()) thread_.join();
}

// ---- The thread

inline void StreamWriter::run() {
    while (!stopping_) {
        try {
            round();
        } catch (const std::exception&) {  // later there may be memory again (E6)
            {
                const std::lock_guard<std::mutex> guard(writing_mutex_);
                drop_pages();
            }
            std::this_thread::sleep_for(milliseconds(100));
        }
    }
    finish();
}

// Waits until there is something to do, and does some of it.
inline void StreamWriter::round() {
    std::unique_lock<std::mutex> lock(writing_mutex_);
    if (!has_work()) drop_pages();
    wait_for_sockets(lock, time_to_sleep());
    take_adopted();
    find_new_events();
    write_live();
    write_behind();
    keep_alive();
    if (in(Place::behind).empty() || woken_) return;
    lock.unlock();
    std::this_thread::sleep_for(pause);
}

inline void StreamWriter::wait_for_sockets(std::unique_lock<std::mutex>& lock, int timeout) {
    in(Place::closed).clear();
    std::array<epoll_event, 256> events;
    const int size = static_cast<int>(events.size());
    lock.unlock();
    const int count = ::epoll_wait(epoll_.get(), events.data(), size, timeout);
    lock.lock();
    for (int i = 0; i < count; ++i) {
        const epoll_event& event = events[static_cast<std::size_t>(i)];
        if (event.data.ptr) {
            on_socket(*static_cast<Stream*>(event.data.ptr), event.events);
        } else {
            eventfd_t ignored = 0;
            ::eventfd_read(wake_fd_.get(), &ignored);
            woken_ = false;
        }
    }
}

// In ms, for epoll_wait; -1: without limit.
inline int StreamWriter::time_to_sleep() const {
    if (has_work()) return 0;
    if (size_ == 0) return -1;
    const auto left = next_keep_alive_ - std::chrono::steady_clock::now();
    const std::int64_t ms = std::chrono::duration_cast<milliseconds>(left).count() + 1;
    return static_cast<int>(std::clamp<std::int64_t>(ms, 0, 3'600'000));
}

inline void StreamWriter::take_adopted() {
    Streams adopted;
    {
        const std::lock_guard<std::mutex> guard(adopted_mutex_);
        const bool are_first = !adopted_.empty() && adopted_.size() == size_;
        if (are_first) next_keep_alive_ = std::chrono::steady_clock::now() + keep_alive_;
        adopted.swap(adopted_);
        ended_ = stopping_;
    }
    while (!adopted.empty()) {
        in(Place::idle).splice(in(Place::idle).end(), adopted, adopted.begin());
        Stream& stream = in(Place::idle).back();
        stream.self = std::prev(in(Place::idle).end());
        ::fcntl(stream.fd, F_SETFL, ::fcntl(stream.fd, F_GETFL) | O_NONBLOCK);
        const int on = 1;
        ::setsockopt(stream.fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
        epoll_event event{};
        event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
        event.data.ptr = &stream;
        if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, stream.fd, &event) != 0) {
            close(stream);
        } else if (write_head(stream)) {
            settle(stream);
        }
    }
}

// What a client still says is not listened to.
inline void StreamWriter::on_socket(Stream& stream, std::uint32_t events) {
    if (stream.place == Place::closed) return;  // in this round
    if (events & (EPOLLERR | EPOLLHUP)) return close(stream);
    if (events & EPOLLIN) {
        std::array<char, 4'096> ignored;
        [[maybe_unused]] const ssize_t n =
            ::recv(stream.fd, ignored.data(), ignored.size(), MSG_DONTWAIT);
    }
    if ((events & EPOLLRDHUP) && !std::exchange(stream.is_half_closed, true) &&
        stream.place == Place::idle) {
        write_comment(stream);  // E5
    }
    if ((events & EPOLLOUT) && stream.place == Place::blocked && flush(stream)) settle(stream);
}

inline void StreamWriter::find_new_events() {
    const std::uint64_t newest = scheduler_.newest().seq();
    if (newest == next_seq_) return;
    next_seq_ = newest;
    for (std::size_t left = in(Place::idle).size(); left > 0; --left) {
        settle(in(Place::idle).front());
    }
}

// A page to each that has events to come (E1).
inline void StreamWriter::write_live() {
    for (std::size_t left = in(Place::live).size(); left > 0; --left) {
        write(in(Place::live).front());
    }
}

// A page to each in turn, until live streams may have something to get (E1).
inline void StreamWriter::write_behind() {
    const auto end = std::chrono::steady_clock::now() + slice;
    while (!in(Place::behind).empty()) {
        write(in(Place::behind).front());
        if (woken_ || !in(Place::live).empty() || std::chrono::steady_clock::now() >= end) break;
    }
}

// Those that have events to come need no comment (E5), but perhaps their cursor (E7).
inline void StreamWriter::keep_alive() {
    const auto now = std::chrono::steady_clock::now();
    if (now < next_keep_alive_) return;
    next_keep_alive_ = now + keep_alive_;
    std::uint64_t seq = 0;
    std::string cursor;  // that of `seq`, which most of them have in common
    for (const Place place : {Place::idle, Place::live, Place::behind, Place::blocked}) {
        for (auto at = in(place).begin(); at != in(place).end();) {
            Stream& stream = *at++;
            if (is_unreachable(stream)) close(stream);
            if (stream.place == Place::blocked || stream.place == Place::closed) continue;
            if (stream.has_passed && stream.head.empty() && stream.skip == 0) {
                if (cursor.empty() || seq != stream.seq) {
                    seq = stream.seq;
                    cursor = cursor_text(scheduler_, seq);
                }
                write_cursor(stream, cursor);
            } else if (stream.place == Place::idle) {
                write_comment(stream);
            }
        }
    }
}

// A client that only does not read still acknowledges, so that what was sent is not sent again.
inline bool StreamWriter::is_unreachable(const Stream& stream) const {
    const milliseconds limit = std::max(4 * keep_alive_, milliseconds(60'000));
    tcp_info info{};
    socklen_t size = sizeof info;
    return ::getsockopt(stream.fd, IPPROTO_TCP, TCP_INFO, &info, &size) == 0 &&
           info.tcpi_unacked > 0 && info.tcpi_retransmits > 0 &&
           milliseconds(info.tcpi_last_ack_recv) > limit;
}

// What is there already goes out, as far as the sockets take it within a moment.  Where there
// is no memory for it, streams end without it, and resume elsewhere.
inline void StreamWriter::finish() {
    const auto end = std::chrono::steady_clock::now() + milliseconds(100);
    std::unique_lock<std::mutex> lock(writing_mutex_);
    take_adopted();
    find_new_events();
    try {
        while (std::chrono::steady_clock::now() < end) {
            write_live();
            write_behind();
            if (!has_work() && in(Place::blocked).empty()) break;
            wait_for_sockets(lock, has_work() ? 0 : 10);
        }
    } catch (const std::exception&) {
    }
    for (const Place place : {Place::idle, Place::live, Place::behind, Place::blocked}) {
        while (!in(place).empty()) close(in(place).front());
    }
    in(Place::closed).clear();
    drop_pages();
}

// ---- One stream

// Writes what the socket takes of the head, or of one page, and puts the stream where it
// belongs then.
inline void StreamWriter::write(Stream& stream) {
    if (!write_head(stream)) return;
    if (stream.seq < next_seq_) {
        const Frames& page = page_at(stream.seq);
        if (stream.seq >= page.begin && stream.topics) {
            write_chosen(stream, page);
        } else if (stream.seq >= page.begin) {
            write_run(stream, page, page.ends.size());
        } else if (stream.skip > 0) {
            close(stream);  // E3
        } else {
            stream.head = gap_text(scheduler_, "") + cursor_text(scheduler_, page.begin);
            stream.seq = page.begin;
        }
    }
    if (stream.place != Place::blocked && stream.place != Place::closed) settle(stream);
}

// False: not all of it is out.
inline bool StreamWriter::write_head(Stream& stream) {
    if (stream.head.empty()) return true;
    const auto sent = send(stream, stream.head);
    if (!sent) return false;
    stream.head.erase(0, *sent);
    if (stream.head.empty()) stream.head.shrink_to_fit();
    return stream.place != Place::blocked;
}

// The frames of a page from where the stream stands up to before the frame `last`.
inline void StreamWriter::write_run(Stream& stream, const Frames& page, std::size_t last) {
    const auto offset_of = [&page](auto frame) {
        return frame == page.ends.begin() ? 0 : std::prev(frame)->offset;
    };
    const auto frame = page.frame_at(stream.seq);
    const bool is_gone = frame == page.ends.end() || frame->next != stream.seq + 1;
    if (stream.skip > 0 && is_gone) return close(stream);  // E3
    const std::size_t begin = offset_of(frame) + stream.skip;
    const std::size_t size = last == 0 ? 0 : page.ends[last - 1].offset - begin;
    const auto sent = send(stream, std::string_view(page.text).substr(begin, size));
    if (!sent) return;
    const std::size_t end = begin + *sent;
    const auto next = std::upper_bound(
        frame, page.ends.end(), end,
        [](std::size_t offset, const Frames::End& one) { return offset < one.offset; });
    stream.seq = next == page.ends.end() ? page.next : next->next - 1;
    stream.skip = end - offset_of(next);
}

// Sends each run of frames that the topics choose, until the socket takes no more.  What was
// begun is finished, and closes the stream if it is gone.
inline void StreamWriter::write_chosen(Stream& stream, const Frames& page) {
    do {
        auto frame = static_cast<std::size_t>(page.frame_at(stream.seq) - page.ends.begin());
        const auto is_passed = [&](std::size_t one) { return !page.chooses(*stream.topics, one); };
        if (stream.skip == 0) {
            while (frame < page.ends.size() && is_passed(frame)) {
                stream.seq = page.ends[frame++].next;
                stream.has_passed = true;
            }
            if (frame == page.ends.size()) stream.seq = page.next;
            if (frame == page.ends.size()) return;
        }
        std::size_t end = std::min(frame + 1, page.ends.size());
        while (end < page.ends.size() && !is_passed(end)) ++end;
        stream.has_passed = false;
        write_run(stream, page, end);
    } while (stream.place != Place::blocked && stream.place != Place::closed &&
             page.covers(stream.seq));
}

// It takes memory, and so comes before anything is sent (E6).
inline void StreamWriter::write_cursor(Stream& stream, const std::string& text) {
    stream.head = text;
    stream.has_passed = false;
    write_head(stream);
}

// The rest of one that does not go out whole fits into the string itself (E6).
inline void StreamWriter::write_comment(Stream& stream) {
    const auto sent = send(stream, keep_alive_comment);
    if (sent) stream.head = keep_alive_comment.substr(*sent);
}

// Sends what the socket takes.  Nothing: the stream has ended.
inline std::optional<std::size_t> StreamWriter::send(Stream& stream, std::string_view text) {
    ssize_t n = 0;
    do {
        n = stream.tls ? stream.tls->send(text)
                       : ::send(stream.fd, text.data(), text.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    } while (n < 0 && errno == EINTR);
    if (n < 0 && errno != EAGAIN) {
        close(stream);
        return std::nullopt;
    }
    const std::size_t sent = n < 0 ? 0 : static_cast<std::size_t>(n);
    const bool is_full = sent < text.size() || (stream.tls && stream.tls->has_unsent());
    if (is_full) move(stream, Place::blocked);
    return sent;
}

// Sends what the session holds back.  False: the socket does not take it all.
inline bool StreamWriter::flush(Stream& stream) {
    if (!stream.tls || stream.tls->flush()) return true;
    if (errno != EAGAIN) close(stream);
    return false;
}

// The page that holds an event, or begins behind it if that was trimmed.
inline const Frames& StreamWriter::page_at(std::uint64_t seq) {
    const auto found = std::find_if(pages_.begin(), pages_.end(),
                                    [seq](const Frames& page) { return page.covers(seq); });
    if (found != pages_.end()) {
        pages_.splice(pages_.begin(), pages_, found);
        return pages_.front();
    }
    const std::size_t size = std::min(std::size_t{1} << 18, max_cached_ / 2);
    pages_.push_front(make_frames(scheduler_, seq, size));
    cached_ += pages_.front().bytes();
    while (pages_.size() > max_pages || (cached_ > max_cached_ && pages_.size() > 1)) {
        cached_ -= pages_.back().bytes();
        pages_.pop_back();
    }
    return pages_.front();
}

inline void StreamWriter::drop_pages() {
    pages_.clear();
    cached_ = 0;
}

// Puts a stream whose socket takes more to where it belongs: to the end, if it was there.
inline void StreamWriter::settle(Stream& stream) {
    const std::uint64_t left = next_seq_ - std::min(next_seq_, stream.seq);
    stream.is_live = left <= (stream.is_live ? many_events : few_events);
    const bool has_all = left == 0 && stream.head.empty();
    move(stream, has_all ? Place::idle : stream.is_live ? Place::live : Place::behind);
}

inline void StreamWriter::move(Stream& stream, Place place) {
    in(place).splice(in(place).end(), in(stream.place), stream.self);
    stream.place = place;
}

inline void StreamWriter::close(Stream& stream) {
    ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, stream.fd, nullptr);
    if (stream.tls) stream.tls->end();
    end(stream.fd);
    move(stream, Place::closed);
    --size_;
    on_closed_();
}

// A child that is just being started may still have a copy of the socket.
inline void StreamWriter::end(int fd) {
    ::shutdown(fd, SHUT_RDWR);
    ::close(fd);
}

// The stream writers of an HttpServer: one, and from some thousand streams on another for
// each processor.
class StreamWriters {
public:
    StreamWriters(const Scheduler& scheduler, milliseconds keep_alive,
                  std::function<void()> on_closed,
                  std::size_t max_cached = HttpOptions().max_stream_pages)
        : make_([&scheduler, keep_alive, on_closed = std::move(on_closed), max_cached] {
              return std::make_unique<StreamWriter>(scheduler, keep_alive, on_closed, max_cached);
          }) {
        writers_[0] = make_();
    }
    // As those of StreamWriter.
    void adopt(int fd, std::string head, std::uint64_t seq, StreamWriter::Topics topics = {},
               std::unique_ptr<TlsSession> tls = nullptr) noexcept;
    void write_or_wake() noexcept {
        for (std::size_t i = 0; i < count_; ++i) writers_[i]->write_or_wake();
    }
    void stop() {
        for (std::size_t i = 0; i < count_; ++i) writers_[i]->begin_stop();
        for (std::size_t i = 0; i < count_; ++i) writers_[i]->stop();
    }

private:
    static constexpr std::size_t share = 1'000;  // streams that are not worth another thread

    const std::function<std::unique_ptr<StreamWriter>()> make_;
    std::mutex adopting_mutex_;
    std::array<std::unique_ptr<StreamWriter>, 8> writers_;
    std::atomic<std::size_t> count_{1};  // of those that are there; they stay
};

inline void StreamWriters::adopt(int fd, std::string head, std::uint64_t seq,
                                 StreamWriter::Topics topics,
                                 std::unique_ptr<TlsSession> tls) noexcept {
    const std::lock_guard<std::mutex> guard(adopting_mutex_);
    const auto least = [this] {
        return std::min_element(writers_.begin(),
                                writers_.begin() + static_cast<std::ptrdiff_t>(count_.load()),
                                [](const auto& a, const auto& b) { return a->size() < b->size(); });
    };
    const std::size_t most =
        std::min<std::size_t>(writers_.size(), std::thread::hardware_concurrency());
    if ((*least())->size() >= share && count_ < most) {
        try {
            writers_[count_] = make_();
            ++count_;
        } catch (const std::exception&) {  // those that are there go on
        }
    }
    (*least())->adopt(fd, std::move(head), seq, std::move(topics), std::move(tls));
}

// ---- 13.6 The owner --------------------------------------------------------

using Resolve =
    std::function<int(const char* host, const char* port, const addrinfo* hints, addrinfo** found)>;
using Addresses = std::unique_ptr<addrinfo, void (*)(addrinfo*)>;

// An address in digits, which needs no thread; null: it is a name.
inline Addresses numeric_address(const Url& url) {
    addrinfo hints{};
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
    addrinfo* found = nullptr;
    const bool is_one = ::getaddrinfo(url.host.c_str(), url.port.c_str(), &hints, &found) == 0;
    return {is_one ? found : nullptr, ::freeaddrinfo};
}

// Finds a server's addresses on a thread of its own, because getaddrinfo() cannot be
// interrupted.  Whoever gives up waiting leaves the thread behind.  There is one at most: until
// it has ended, whoever asks again waits for the same answer.
class Lookup {
public:
    Lookup(std::string host, std::string port, Resolve resolve)
        : state_(std::make_shared<State>()) {
        state_->host = std::move(host);
        state_->port = std::move(port);
        state_->resolve = resolve ? std::move(resolve) : ::getaddrinfo;
    }
    // Begins, unless one is under way.
    void start();
    // Readable when there is an answer.
    int fd() const { return state_->answered.get(); }
    // The answer.  Throws if there is no address.
    Addresses take();

private:
    // The thread has a share in it, so that it may outlive the Lookup.
    struct State {
        std::string host;
        std::string port;
        Resolve resolve;
        const Descriptor answered{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
        std::mutex mutex;
        bool running = false;                      // guarded by mutex
        int error = 0;                             // guarded by mutex: as of getaddrinfo()
        int number = 0;                            // guarded by mutex: errno, if that says more
        Addresses found{nullptr, ::freeaddrinfo};  // guarded by mutex
    };

    static void run(State& state);

    const std::shared_ptr<State> state_;
};

// The thread takes no signal that is meant for the program's own.
inline void Lookup::start() {
    const std::lock_guard<std::mutex> guard(state_->mutex);
    if (state_->running) return;
    eventfd_t ignored = 0;
    ::eventfd_read(fd(), &ignored);
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = 0;
    try {
        std::thread([state = state_] { run(*state); }).detach();
        state_->running = true;
    } catch (const std::system_error& failure) {
        error = failure.code().value();
    }
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
    if (error != 0) {
        throw Shortage("no thread to resolve a name: " + std::generic_category().message(error));
    }
}

// The resolver does not always say that it had no descriptor: then there is still none.
inline void Lookup::run(State& state) {
    addrinfo hints{};
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = AI_NUMERICSERV;
    addrinfo* found = nullptr;
    int error = EAI_FAIL;
    try {
        error = state.resolve(state.host.c_str(), state.port.c_str(), &hints, &found);
    } catch (...) {  // a test's
    }
    int number = error == EAI_MEMORY ? ENOMEM : error == EAI_SYSTEM ? errno : 0;
    if (error != 0 && !is_shortage(number)) {
        const Descriptor probe(::eventfd(0, EFD_CLOEXEC));
        if (probe.get() < 0) number = errno;
    }
    const std::lock_guard<std::mutex> guard(state.mutex);
    state.running = false;
    state.error = error;
    state.number = number;
    state.found.reset(error == 0 ? found : nullptr);
    ::eventfd_write(state.answered.get(), 1);
}

inline Addresses Lookup::take() {
    const std::lock_guard<std::mutex> guard(state_->mutex);
    if (state_->error == 0) return std::move(state_->found);
    const std::string what = "the name cannot be resolved";
    if (state_->number != 0) throw_errno(state_->number, what);
    throw std::runtime_error(what + ": " + ::gai_strerror(state_->error));
}

// ---- What is passed on

using SteadyTime = std::chrono::steady_clock::time_point;

struct Connection;

// How far an exchange has come that is passed on to the owner.
struct Passage {
    SteadyTime deadline{};      // of its answer
    SteadyTime after{};         // it is not tried again before this
    std::size_t begin = 0;      // its place in what its link sends
    std::uint64_t applied = 0;  // the group that has to be applied here before it is answered
    bool is_sent = false;       // some of it, at least
    bool may_be_made = false;   // the change: an earlier attempt was sent and not answered
};

// A request that was begun, and its answer.
struct Exchange {
    Connection* connection = nullptr;
    const HttpRequest* request = nullptr;  // stays while it is begun
    HttpAnswer answer;
    Passage passage;
    bool is_schedule = false;  // see HttpApi::is_schedule
    bool is_last = false;      // the connection ends behind it
    bool is_old = false;       // HTTP/1.0
    bool is_head = false;
    bool is_piece = false;         // the answer has gone out, but for a transfer
    std::unique_ptr<Asked> asked;  // if the log is told of it
    const char* cause = "";        // why it is refused, if it was no request
};

using Exchanges = std::list<Exchange>;

inline constexpr const char* forwarded_field = "Task-Scheduler-Forwarded";
inline constexpr const char* applied_field = "Task-Scheduler-Applied";

// A request's target behind the prefix of its paths, of which any character may be escaped.
inline std::string_view target_behind_prefix(const HttpRequest& request) {
    std::string_view target = request.target;
    for (std::size_t i = 0; i < request.prefix.size(); ++i) {
        target.remove_prefix(std::min<std::size_t>(target.front() == '%' ? 3 : 1, target.size()));
        if (target.empty()) break;
    }
    return target;
}

// A process that owns the journal, as it is reached by others.
struct Owner {
    std::string name;
    std::string text;  // its URL
    std::string node;  // what this process is called
    Url url;
    std::string prefix;                         // of its paths
    std::shared_ptr<const TlsContext> context;  // null: without TLS
};

// Writes a request as it goes to the owner.  False: it has a field that cannot be passed on.
inline bool append_forwarded(std::string& to, const HttpRequest& request, const Owner& owner) {
    constexpr std::array<std::string_view, 8> passed{
        "Authorization", "Content-Type", "Idempotency-Key", "If-Match",
        "If-None-Match", "traceparent",  "tracestate",      "x-pd-secret"};
    const std::size_t begin = to.size();
    to.append(request.method).append(" ").append(owner.prefix);
    to.append(target_behind_prefix(request)).append(" HTTP/1.1\r\n");
    const auto add = [&to](std::string_view name, std::string_view value) {
        to.append(name).append(": ").append(value).append("\r\n");
    };
    add("Host", owner.url.authority);
    for (const auto& [name, value] : request.fields) {
        const bool is_passed = std::any_of(
            passed.begin(), passed.end(),
            [known = name](std::string_view one) { return equal_ignoring_case(known, one); });
        if (!is_passed) continue;
        const bool is_plain = std::all_of(value.begin(), value.end(), [](unsigned char c) {
            return (c >= 0x20 || c == '\t') && c != 0x7F;
        });
        if (!is_plain) {  // as foreign servers decode them
            to.resize(begin);
            return false;
        }
        add(name, value);
    }
    add(forwarded_field, printable(owner.node, 128));
    add("Content-Length", std::to_string(request.body.size()));
    to.append("\r\n").append(request.body);
    return true;
}

// Takes an owner's answer for a client's.  False: it does not tell whether the change was made.
inline bool take_answer(HttpAnswer& made, HttpMessage& message, int status, const Owner& owner,
                        std::string_view prefix) {
    constexpr std::array<std::string_view, 5> passed{"Cache-Control", "Idempotent-Replayed",
                                                     "Location", "Retry-After", "WWW-Authenticate"};
    constexpr std::string_view json = "application/json";
    const std::string_view type = message.field("Content-Type").value_or("");
    const bool is_refusal = status / 100 == 4 || status == 503 || status == 507;
    const bool is_ours = type.substr(0, json.size()) == json;
    if (is_refusal && !is_ours) {
        refuse(made, 503,
               concat({"What answers at the URL of the owner, ", printable(owner.text, 256),
                       ", is no scheduler; try again later."}));
        return true;
    }
    if (!is_ours || (status / 100 != 2 && !is_refusal)) return false;
    for (const std::string_view name : passed) {
        const auto value = message.field(name);
        if (!value) continue;
        std::string text(*value);
        if (name == "Location" && text.compare(0, owner.prefix.size(), owner.prefix) == 0) {
            text.replace(0, owner.prefix.size(), prefix);
        }
        made.field(name, std::move(text));
    }
    made.status = status;
    made.body = std::move(message.body);
    if (status == 401) {
        refuse(made, 401, "The owner asks for another secret than this node; all need the same.");
    }
    return true;
}

// ---- Links to the owner

// A connection to the owner, which is kept.
struct Link {
    Link(std::shared_ptr<const Owner> its_owner, std::shared_ptr<const addrinfo> found,
         std::size_t max_answer)
        : owner(std::move(its_owner)),
          addresses(std::move(found)),
          next(addresses.get()),
          answers(MessageReader::Kind::answers, max_answer) {}

    const std::shared_ptr<const Owner> owner;
    const std::shared_ptr<const addrinfo> addresses;
    const addrinfo* next;  // address to try; null: there is none
    Descriptor socket;
    std::unique_ptr<TlsSession> tls;  // null: without
    MessageReader answers;
    std::string out;       // what goes out
    std::size_t sent = 0;  // of that
    Exchanges begun;       // in the order of their answers
    SteadyTime since{};    // when it last had something to do
    bool is_connected = false;
    bool is_last = false;   // nothing more is begun on it
    bool is_over = false;   // it is to be removed
    bool has_news = false;  // in this round

    // Whether requests can go out.
    bool is_open() const { return is_connected && (!tls || tls->is_established()); }
    // What poll() is to look for.  A session that shakes hands says itself when it has to write.
    short events() const {
        const bool writes = tls ? tls->has_unsent() : sent < out.size();
        return static_cast<short>(!is_connected ? POLLOUT : writes ? POLLIN | POLLOUT : POLLIN);
    }
    // Several requests to schedule may be on their way, for the owner begins them at once.
    bool takes(const Exchange& exchange) const {
        constexpr std::size_t most = 16;
        if (is_last || begun.empty()) return !is_last;
        return exchange.is_schedule && begun.back().is_schedule && begun.size() < most;
    }
    // Sends what the socket takes.  False: the connection has failed.
    bool flush();
};

inline bool Link::flush() {
    bool waits = false;
    while (sent < out.size() && !waits) {
        const std::string_view part = std::string_view(out).substr(sent);
        const ssize_t n =
            tls ? tls->send(part)
                : ::send(socket.get(), part.data(), part.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno != EINTR && errno != EAGAIN) return false;
        waits = n < 0 && errno == EAGAIN;
        if (n > 0) sent += static_cast<std::size_t>(n);
    }
    for (auto one = begun.rbegin(); one != begun.rend() && !one->passage.is_sent; ++one) {
        one->passage.is_sent = sent > one->passage.begin;
    }
    if (sent == out.size()) {
        constexpr std::size_t large = 65'536;
        sent = 0;
        out.clear();
        if (out.capacity() > large) out.shrink_to_fit();
    }
    return !tls || tls->flush() || errno == EAGAIN;
}

// Passes changes on to the process that owns the journal.
//
//     pushed -> `waiting_` -> `begun` of a link -- answered -> `behind_` -- applied here --> done
//                  ^                |
//                  +-- not sent ----+---- sent, and the link is lost --> `again_`, if a key makes
//                                                                        it one request, or done
//
//   O1  What was sent and not answered may have been made: it is never answered with an error.
//       Its client's connection ends without an answer, after `owner_timeout` at the latest.
//   O2  What was not sent is refused with 503 where the owner cannot be reached, or is not known.
//   O3  One thread does it, for as many clients as there are.  It waits for no owner, and sleeps
//       when there is nothing to do.  There is none until there is something to pass on.
class Forwarder {
public:
    using Done = std::function<void(Exchanges&)>;
    static constexpr std::size_t max_links = 32;

    // Exchanges are given back to `done`, which must not throw: answered, or to be begun by this
    // process (`is_for_worker`), which is the owner now.
    Forwarder(Scheduler& scheduler, const HttpOptions& options, Done done)
        : scheduler_(scheduler),
          files_{options.tls_certificate, options.tls_key, options.tls_owner_ca},
          max_answer_(options.max_body + (std::size_t{1} << 20)),
          patience_(options.owner_timeout),
          idle_(options.idle_timeout / 2),
          done_(std::move(done)),
          wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}
    ~Forwarder() { stop(); }
    // Takes the exchanges over.  Any thread.
    void push(Exchanges& exchanges) noexcept;
    // The owner, or what was applied here, may have changed.  Does not block; any thread.
    void look_again() noexcept {
        has_changed_ = true;
        if (count_ > 0) ::eventfd_write(wake_.get(), 1);
    }
    // The files of TLS may have changed.  Any thread.
    void reload() noexcept { reloads_ = true; }
    // Gives everything back soon, and from then on at once, answered or not.
    void end() noexcept {
        is_ending_ = true;
        ::eventfd_write(wake_.get(), 1);
    }
    // The same, and returns when that is done.
    void stop() noexcept;
    void append_metrics(MetricsText& text) const;

private:
    enum class Outcome { answered, refused, unknown, behind };

    void run() noexcept;
    int timeout() const;
    void wait_for_news() noexcept;
    void take_pushed() noexcept;
    void find_owner() noexcept;
    void replace_owner(const Cluster& cluster);
    bool find_addresses();
    void begin_waiting() noexcept;
    void give_back_applied() noexcept;
    Link* link_for(const Exchange& exchange);
    Link* open_link();
    bool connect(Link& link, std::string& problem) const;
    void begin(Link& link, Exchanges& from);
    void advance(Link& link) noexcept;
    bool receive(Link& link);
    bool take_answers(Link& link);
    void take_answer(Link& link);
    void lose(Link& link, const char* why) noexcept;
    void lose_begun(Link& link) noexcept;
    void rest(std::string_view problem) noexcept;
    void refuse_first(const char* problem) noexcept;
    static void refuse_unsent(HttpAnswer& answer, const char* problem) noexcept;
    void finish(Exchanges& from, Outcome outcome) noexcept;
    void meet_deadlines() noexcept;
    void tell_unanswered() noexcept;
    template <class... Parts>
    void say(LogLevel level, const char* event, const Parts&... parts) noexcept {
        tell([this](const LogRecord& record) { scheduler_.log(record); }, level, event, parts...);
    }

    static constexpr milliseconds connect_time{2'000};
    static constexpr milliseconds pause{100};  // between attempts, and looks at deadlines

    Scheduler& scheduler_;
    const TlsFiles files_;
    const std::size_t max_answer_;
    const milliseconds patience_;  // of an exchange
    const milliseconds idle_;      // how long a link is kept
    const Done done_;
    const Descriptor wake_;                // an eventfd
    std::atomic<std::size_t> count_{0};    // exchanges that it has
    std::atomic<bool> has_changed_{true};  // since the owner was looked for
    std::atomic<bool> reloads_{false};
    std::atomic<bool> is_ending_{false};
    std::array<std::atomic<std::uint64_t>, 4> outcomes_{};

    // The thread's own:
    SteadyTime now_;
    std::shared_ptr<const Owner> owner_;         // null: there is none, or it cannot be reached
    SteadyTime looks_again_;                     // for it
    std::shared_ptr<const addrinfo> addresses_;  // of it; null: they are not known
    std::optional<Lookup> lookup_;               // of these
    bool looks_up_ = false;
    bool has_found_ = false;  // the lookup has ended
    std::string problem_;     // why nothing can be passed on
    std::string told_problem_;  // the last one that the log was told of
    std::uint64_t untold_ = 0;  // unanswered ones that the log is to be told of
    SteadyTime tells_again_;    // of more
    SteadyTime rests_until_;  // for that reason
    std::list<Link> links_;
    Exchanges waiting_;
    Exchanges again_;
    Exchanges behind_;              // by what they wait for
    std::uint64_t looked_for_ = 0;  // of that
    Exchanges finished_;  // in this round

    std::mutex mutex_;
    Exchanges pushed_;          // guarded by mutex_
    bool is_stopping_ = false;  // guarded by mutex_
    std::thread thread_;        // guarded by mutex_, but for its end
};

inline void Forwarder::push(Exchanges& exchanges) noexcept {
    const SteadyTime now = std::chrono::steady_clock::now();
    for (Exchange& exchange : exchanges) {
        exchange.answer.is_for_owner = false;
        if (exchange.passage.deadline == SteadyTime()) exchange.passage.deadline = now + patience_;
    }
    const std::size_t size = exchanges.size();
    count_ += size;
    try {
        const std::lock_guard<std::mutex> guard(mutex_);
        if (!is_stopping_ && !thread_.joinable()) thread_ = std::thread([this] { run(); });
        if (!is_stopping_) pushed_.splice(pushed_.end(), exchanges);
    } catch (const std::exception&) {  // there is no thread
    }
    ::eventfd_write(wake_.get(), 1);
    if (exchanges.empty()) return;
    count_ -= size;
    for (Exchange& exchange : exchanges) {
        refuse_unsent(exchange.answer, "This node passes nothing on now; try again later.");
        ++outcomes_[static_cast<std::size_t>(Outcome::refused)];
    }
    done_(exchanges);
}

inline void Forwarder::stop() noexcept {
    is_ending_ = true;
    {
        const std::lock_guard<std::mutex> guard(mutex_);
        is_stopping_ = true;
    }
    ::eventfd_write(wake_.get(), 1);
    if (thread_.joinable()) thread_.join();
}

inline void Forwarder::append_metrics(MetricsText& text) const {
    constexpr const char* name = "task_scheduler_cluster_forwarded_total";
    constexpr std::array<std::string_view, 4> names{"answered", "refused", "unknown", "behind"};
    text.head(name, "counter",
              "Changes passed on to the owner, by what came of it; unknown and behind: they ended "
              "without an answer.");
    for (std::size_t i = 0; i < names.size(); ++i) {
        text.sample(name, {{"outcome", names[i]}}, outcomes_[i].load());
    }
}

// ---- The forwarder's thread

inline void Forwarder::run() noexcept {
    for (bool goes_on = true; goes_on;) {
        wait_for_news();
        now_ = std::chrono::steady_clock::now();
        {
            const std::lock_guard<std::mutex> guard(mutex_);
            waiting_.splice(waiting_.end(), pushed_);
            goes_on = !is_stopping_;
        }
        find_owner();
        for (Link& link : links_) {
            if (link.has_news) advance(link);
        }
        begin_waiting();
        give_back_applied();
        meet_deadlines();
        if (untold_ > 0 && (now_ >= tells_again_ || !goes_on)) tell_unanswered();
        links_.remove_if([](const Link& link) { return link.is_over; });
        if (finished_.empty()) continue;
        count_ -= finished_.size();
        done_(finished_);
    }
}

inline void Forwarder::give_back_applied() noexcept {
    const std::uint64_t applied = scheduler_.applied();
    while (!behind_.empty() && behind_.front().passage.applied <= applied) {
        finish(behind_, Outcome::answered);
    }
    const std::uint64_t newest = behind_.empty() ? 0 : behind_.back().passage.applied;
    if (newest > looked_for_) scheduler_.look_for(looked_for_ = newest);
}

// For how long there will be nothing to do, in ms; -1: for ever.
inline int Forwarder::timeout() const {
    if (count_ > 0) return static_cast<int>(pause.count());
    if (links_.empty() && untold_ == 0) return -1;
    SteadyTime first = untold_ > 0 ? tells_again_ : SteadyTime::max();
    for (const Link& link : links_) first = std::min(first, link.since + idle_);
    const auto left = std::chrono::duration_cast<milliseconds>(first - now_).count() + 1;
    return static_cast<int>(std::clamp<std::int64_t>(left, 0, 60'000));
}

// There are twice as many links while another owner takes over from one.
inline void Forwarder::wait_for_news() noexcept {
    std::array<pollfd, 2 + 2 * max_links> watched{};
    watched[0] = {wake_.get(), POLLIN, 0};
    watched[1] = {looks_up_ ? lookup_->fd() : -1, POLLIN, 0};
    nfds_t count = 2;
    for (const Link& link : links_) watched[count++] = {link.socket.get(), link.events(), 0};
    if (::poll(watched.data(), count, timeout()) < 0) count = 0;  // it was interrupted
    std::size_t i = 2;
    for (Link& link : links_) link.has_news = i < count && watched[i++].revents != 0;
    eventfd_t ignored = 0;
    ::eventfd_read(wake_.get(), &ignored);
    has_found_ = count > 0 && watched[1].revents != 0;
}

inline void Forwarder::find_owner() noexcept {
    try {
        if (has_found_ && std::exchange(looks_up_, false)) addresses_ = lookup_->take();
        if (waiting_.empty() && again_.empty()) return;
        const bool is_lost = !owner_ || now_ < rests_until_;
        if (has_changed_.exchange(false) || is_lost || now_ >= looks_again_) {
            looks_again_ = now_ + pause;
            replace_owner(scheduler_.cluster().value_or(Cluster()));
        }
    } catch (const std::bad_alloc&) {  // one that is known stays
        looks_again_ = now_;
    } catch (const std::exception& error) {
        rest(error.what());
    }
}

inline void Forwarder::replace_owner(const Cluster& cluster) {
    const std::string why = cut_off(cluster);
    const bool is_other = why.empty() && !cluster.owner.empty() && cluster.owner != cluster.node;
    const std::string text = is_other ? cluster.owner_url : "";
    if (owner_ && owner_->name == cluster.owner && owner_->text == text && !reloads_) return;
    owner_.reset();
    addresses_.reset();
    lookup_.reset();
    looks_up_ = reloads_ = false;
    for (Link& link : links_) {  // what was sent by them may still be answered
        if (link.is_last) lose(link, "there is another owner");
        link.is_last = true;
    }
    if (!is_other) return rest(why.empty() ? "no node owns the journal at this moment" : why);
    const std::optional<Url> url = parse_url(text);
    if (!url) {
        return rest("the owner, " + printable(cluster.owner, 64) +
                    ", does not say at which URL it answers");
    }
    auto owner = std::make_shared<Owner>();
    owner->name = cluster.owner;
    owner->text = text;
    owner->node = cluster.node;
    owner->url = *url;
    owner->prefix = url->target.substr(0, url->target.find('?'));
    while (!owner->prefix.empty() && owner->prefix.back() == '/') owner->prefix.pop_back();
    if (url->secure) owner->context = std::make_shared<TlsContext>(TlsSide::client, files_);
    owner_ = std::move(owner);
    rests_until_ = SteadyTime();
}

// Whether the owner's addresses are known; else they are being looked up.
inline bool Forwarder::find_addresses() {
    if (!addresses_ && !looks_up_) addresses_ = numeric_address(owner_->url);
    if (addresses_ || looks_up_) return addresses_ != nullptr;
    if (!lookup_) lookup_.emplace(owner_->url.host, owner_->url.port, nullptr);
    lookup_->start();
    looks_up_ = true;
    return false;
}

inline void Forwarder::begin_waiting() noexcept {
    if (is_ending_) return;
    if (scheduler_.is_owner()) {
        for (Exchanges* const from : {&again_, &waiting_}) {
            for (Exchange& exchange : *from) exchange.answer.is_for_worker = true;
            finished_.splice(finished_.end(), *from);
        }
        return;
    }
    for (Exchanges* const from : {&again_, &waiting_}) {
        while (!from->empty() && now_ >= from->front().passage.after) {
            if (now_ < rests_until_ || !owner_) {
                while (!waiting_.empty()) refuse_first(problem_.c_str());
                break;
            }
            try {
                Link* const link = link_for(from->front());
                if (link) {
                    begin(*link, *from);
                } else if (now_ >= rests_until_) {
                    break;
                }
            } catch (const std::bad_alloc&) {
                from->front().passage.after = now_ + pause;
                if (from == &waiting_) refuse_first("This node is out of memory; try again later.");
            } catch (const std::exception& error) {
                rest(error.what());
            }
        }
    }
}

// A link by which a request can go out now.  Null: there is none yet, or none at all.
inline Link* Forwarder::link_for(const Exchange& exchange) {
    Link* best = nullptr;
    std::size_t count = 0;
    for (Link& link : links_) {
        if (!link.is_last) ++count;
        if (!link.takes(exchange)) continue;
        if (!best || link.begun.size() < best->begun.size()) best = &link;
    }
    const bool may_open = count < max_links && links_.size() < 2 * max_links;
    return may_open && !(best && best->begun.empty()) ? open_link() : best;
}

inline Link* Forwarder::open_link() {
    if (!find_addresses()) return nullptr;
    std::string problem;
    std::list<Link> made;
    made.emplace_back(owner_, addresses_, max_answer_);
    made.front().since = now_;
    if (!connect(made.front(), problem)) {
        rest(problem);
        return nullptr;
    }
    links_.splice(links_.end(), made);
    return &links_.back();
}

// Begins to connect to the next address that can be tried.
inline bool Forwarder::connect(Link& link, std::string& problem) const {
    while (link.next) {
        const addrinfo& at = *std::exchange(link.next, link.next->ai_next);
        link.tls.reset();
        link.socket.reset(
            ::socket(at.ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, at.ai_protocol));
        const int on = 1;
        ::setsockopt(link.socket.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        if (link.socket.get() >= 0 &&
            (::connect(link.socket.get(), at.ai_addr, at.ai_addrlen) == 0 ||
             errno == EINPROGRESS)) {
            const Owner& owner = *link.owner;
            if (owner.context) link.tls = owner.context->session(link.socket.get(), owner.url.host);
            return true;
        }
        problem = std::generic_category().message(errno);
    }
    return false;
}

// Has the first of these go out by a link.
inline void Forwarder::begin(Link& link, Exchanges& from) {
    Exchange& exchange = from.front();
    exchange.passage.begin = link.out.size();
    exchange.passage.is_sent = false;
    bool well = false;
    try {
        well = append_forwarded(link.out, *exchange.request, *link.owner);
    } catch (const std::bad_alloc&) {
        link.out.resize(exchange.passage.begin);
        throw;
    }
    if (!well) {
        refuse(exchange.answer, 400, "A header field must not hold control characters.");
        return finish(from, Outcome::refused);
    }
    link.begun.splice(link.begun.end(), from, from.begin());
    link.since = now_;
    if (link.is_open() && !link.flush()) lose(link, "the connection was cut");
}

// ---- What a link does

// Does what can be done without waiting.
inline void Forwarder::advance(Link& link) noexcept {
    try {
        if (!link.is_connected) {
            int error = 0;
            socklen_t size = sizeof error;
            ::getsockopt(link.socket.get(), SOL_SOCKET, SO_ERROR, &error, &size);
            if (error != 0) return lose(link, std::generic_category().message(error).c_str());
            link.is_connected = true;
        }
        const bool well = receive(link) && link.flush();
        if (!well && !link.is_over) {
            const std::string why =
                link.tls && !link.is_open() ? link.tls->problem() : "the connection was cut";
            lose(link, why.c_str());
        }
    } catch (const std::bad_alloc&) {
        lose(link, "out of memory");
    }
}

// False: there is nothing more to come.
inline bool Forwarder::receive(Link& link) {
    std::array<char, 16'384> buffer;
    for (;;) {
        const ssize_t n = link.tls ? link.tls->receive(buffer.data(), buffer.size())
                                   : ::recv(link.socket.get(), buffer.data(), buffer.size(), 0);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && errno == EAGAIN) return true;
        if (n <= 0) {
            if (n == 0 && !link.begun.empty() && link.answers.end() == MessageReader::Step::whole) {
                take_answer(link);
            }
            return false;
        }
        link.answers.feed({buffer.data(), static_cast<std::size_t>(n)});
        if (!take_answers(link)) return false;
    }
}

// False: nothing that may follow is read.
inline bool Forwarder::take_answers(Link& link) {
    using Step = MessageReader::Step;
    for (;;) {
        const Step step = link.answers.next();
        if (step == Step::incomplete) return true;
        if (step == Step::refused || link.begun.empty()) return false;
        take_answer(link);
        if (!link.answers.is_consumed()) return false;
        link.is_last = link.is_last || !link.answers.can_go_on();
    }
}

// Takes the answer at hand.
inline void Forwarder::take_answer(Link& link) {
    HttpRequest& message = link.answers.request();
    Exchange& exchange = link.begun.front();
    const int status = link.answers.status();
    const auto applied = read_digits(message.field(applied_field).value_or("-"));
    link.since = now_;
    if (exchange.passage.may_be_made && status == 503) {  // which says nothing of the first attempt
        exchange.passage.after = now_ + pause;
        return again_.splice(again_.end(), link.begun, link.begun.begin());
    }
    bool well = message.body_status == 200;
    try {
        well = well && detail::take_answer(exchange.answer, message, status, *link.owner,
                                           exchange.request->prefix);
    } catch (const std::bad_alloc&) {
        well = false;
    }
    if (!well) return finish(link.begun, Outcome::unknown);
    told_problem_.clear();
    exchange.passage.applied = applied.value_or(0);
    auto place = behind_.end();
    while (place != behind_.begin() &&
           std::prev(place)->passage.applied > exchange.passage.applied) {
        --place;
    }
    behind_.splice(place, link.begun, link.begun.begin());
}

// Ends a link, or tries the next address.
inline void Forwarder::lose(Link& link, const char* why) noexcept {
    const bool was_open = link.is_open();
    try {
        std::string ignored;
        link.is_connected = false;
        if (!was_open && !link.is_last && !is_ending_ && connect(link, ignored)) {
            link.since = now_;
            return;
        }
    } catch (const std::bad_alloc&) {  // then it is lost
    }
    if (was_open && link.tls) link.tls->end();
    link.tls.reset();
    link.socket.reset();
    link.is_over = link.is_last = true;
    lose_begun(link);
    if (!was_open && link.owner == owner_) rest(why);
}

// What is known not to be begun goes out by another link.
inline void Forwarder::lose_begun(Link& link) noexcept {
    Exchanges unsent;
    while (!link.begun.empty()) {
        Exchange& exchange = link.begun.front();
        Passage& passage = exchange.passage;
        const HttpRequest& request = *exchange.request;
        const std::string_view target = target_behind_prefix(request);
        if (!passage.is_sent) {
            Exchanges& to = passage.may_be_made ? again_ : unsent;
            to.splice(to.end(), link.begun, link.begun.begin());
        } else if (request.method == "POST" && target.substr(0, target.find('?')) == "/schedule" &&
                   request.field("Idempotency-Key")) {
            passage.may_be_made = true;
            passage.after = now_ + pause;
            again_.splice(again_.end(), link.begun, link.begun.begin());
        } else {
            finish(link.begun, Outcome::unknown);
        }
    }
    waiting_.splice(waiting_.begin(), unsent);
}

// ---- The end of an exchange

// The owner cannot be reached: who waits is told so, and it is left alone for a moment.
inline void Forwarder::rest(std::string_view problem) noexcept {
    rests_until_ = now_ + pause;
    addresses_.reset();  // they may be others by then
    try {
        problem_ = sentence(std::string(problem));
        if (owner_) {
            problem_ = "The owner, " + printable(owner_->name, 64) + " at " + owner_->url.origin +
                       ", cannot be reached: ";
            problem_ += problem;
        }
        if (problem_.back() == '.') problem_.pop_back();
        problem_ += "; nothing was changed, try again later.";
        if (problem_ != told_problem_) say(LogLevel::warning, "owner.unreachable", problem_);
        told_problem_ = problem_;
    } catch (const std::bad_alloc&) {
        problem_.clear();
    }
    while (!waiting_.empty()) refuse_first(problem_.c_str());
}

// Of those who wait.
inline void Forwarder::refuse_first(const char* problem) noexcept {
    refuse_unsent(waiting_.front().answer, problem);
    finish(waiting_, Outcome::refused);
}

// Nothing was changed.
inline void Forwarder::refuse_unsent(HttpAnswer& answer, const char* problem) noexcept {
    const char* const reason = *problem ? problem : "The owner cannot be reached; try again later.";
    try {
        refuse(answer, 503, reason);
    } catch (const std::bad_alloc&) {
        answer.is_silent = true;
    }
}

// Has the first of these given back.
inline void Forwarder::finish(Exchanges& from, Outcome outcome) noexcept {
    ++outcomes_[static_cast<std::size_t>(outcome)];
    const bool is_answer = outcome == Outcome::answered || outcome == Outcome::refused;
    if (!is_answer) {
        from.front().answer.is_silent = true;
        ++untold_;
    }
    finished_.splice(finished_.end(), from, from.begin());
}

// Tells the log of those that have ended without an answer: at once, and then not for a while.
inline void Forwarder::tell_unanswered() noexcept {
    constexpr std::chrono::seconds quiet{10};
    const std::uint64_t count = std::exchange(untold_, 0);
    tells_again_ = now_ + quiet;
    say(LogLevel::warning, "owner.unanswered", named("requests", count),
        count == 1 ? " change that was passed on to the owner has ended without an answer"
                   : " changes that were passed on to the owner have ended without an answer",
        ", and may have been made");
}

inline void Forwarder::meet_deadlines() noexcept {
    const bool ends = is_ending_;
    for (Link& link : links_) {
        const bool is_late = !link.begun.empty() && link.begun.front().passage.deadline <= now_;
        const bool is_idle = link.begun.empty() && (link.is_last || now_ - link.since >= idle_);
        const bool is_slow = !link.is_open() && now_ - link.since >= connect_time;
        if (!link.is_over && (is_late || is_idle || is_slow || ends))
            lose(link, "it takes too long");
    }
    const auto end = [&](Exchanges& exchanges, Outcome outcome) {
        for (auto one = exchanges.begin(); one != exchanges.end();) {
            Exchanges over;
            const auto next = std::next(one);
            if (ends || one->passage.deadline <= now_) over.splice(over.end(), exchanges, one);
            if (!over.empty()) finish(over, outcome);
            one = next;
        }
    };
    end(behind_, Outcome::behind);
    end(again_, Outcome::unknown);
    while (!waiting_.empty() && (ends || waiting_.front().passage.deadline <= now_)) {
        refuse_first(ends ? "The server is shutting down; send the request again."
                          : "The owner takes too long; nothing was changed, try again later.");
    }
}

}  // namespace detail

// ---- 13.7 The API ----------------------------------------------------------

namespace detail {

struct Site;

// What all schedulers of a server have in common.
struct HttpShared {
    explicit HttpShared(HttpOptions its_options)
        : options(std::move(its_options)),
          page_tag(concat({"\"", digest_of(options.page), "\""})),
          tls(options) {
        options.check();
        replace_secrets(options.secrets, options.read_secrets);
    }
    std::shared_ptr<const Secrets> secrets() const {
        const std::lock_guard<std::mutex> guard(secrets_mutex);
        return secrets_now;
    }
    void replace_secrets(std::vector<std::string> all, std::vector<std::string> read) {
        auto next = std::make_shared<const Secrets>(Secrets{std::move(all), std::move(read)});
        next->check();
        const std::lock_guard<std::mutex> guard(secrets_mutex);
        secrets_now.swap(next);
    }

    const HttpOptions options;
    const std::string page_tag;              // an entity tag (RFC 9110, 8.8.3)
    std::atomic<Scheduler*> first{nullptr};  // that is served, whose log is told of requests
    std::atomic<std::size_t> streams{0};
    std::atomic<std::size_t> connections{0};  // of an HttpServer
    std::atomic<std::size_t> answers{0};      // bytes of large ones on their way
    std::atomic<std::size_t> backups{0};      // on their way
    Refusals refusals;
    ServerTls tls;  // an HttpServer's
    mutable std::mutex secrets_mutex;
    std::shared_ptr<const Secrets> secrets_now;  // guarded by secrets_mutex
};

}  // namespace detail

/// Answers the HTTP requests of a scheduler, on any `httplib::Server`.
///
///     httplib::Server server;
///     scheduler::HttpApi api(tasks);
///     api.mount(server);
///     server.listen("127.0.0.1", 8080);
///
/// It must outlive the server's listening, and the scheduler must outlive it.
class HttpApi {
public:
    /// The routes of a scheduler, which must outlive it.
    explicit HttpApi(Scheduler& scheduler, HttpOptions options = {})
        : HttpApi(std::make_shared<detail::HttpShared>(std::move(options))) {
        serve(scheduler);
    }
    ~HttpApi();
    HttpApi(const HttpApi&) = delete;
    HttpApi& operator=(const HttpApi&) = delete;

    /// Adds the routes to `server`, behind `prefix` if there is one, such as `/scheduler`.  What
    /// other paths answer stays the server's business.  Each open event stream holds one of the
    /// server's threads.  Throws `Error` with `invalid_argument` if the prefix is not made of
    /// segments, each a slash and some of `A-Za-z0-9._~-`, or if an installed cpp-httplib needs
    /// flags that are missing.
    void mount(httplib::Server& server, const std::string& prefix = "");
    /// Puts these in the place of the secrets and the read secrets, for every request that is
    /// judged from here on; a stream that is open stays.  Any thread may call this.  Throws
    /// `Error` with `invalid_argument`, and changes nothing, if one of them cannot be a secret.
    void replace_secrets(std::vector<std::string> secrets,
                         std::vector<std::string> read_secrets = {}) {
        shared_->replace_secrets(std::move(secrets), std::move(read_secrets));
    }
    /// Ends the event streams.  Call it before `httplib::Server::stop()`, which
    /// waits for them.
    void stop();

private:
    friend class HttpServer;
    friend struct detail::Site;

    // The schedulers of a server, each with its prefix.
    using Members = std::vector<std::pair<std::string, const HttpApi*>>;
    struct Call {
        const detail::HttpRequest& request;
        detail::HttpAnswer& answer;
        bool may_block;  // this thread may wait, and take long
        std::string id;  // of the path, where it has one, or a name
        // Passes on the result of a change, which is made from here on.
        template <class Result>
        Result made(Result result) {
            answer.is_begun = true;
            return result;
        }
    };
    // An entry in the table of all that can be asked for.
    struct Route {
        detail::Operation operation;
        void (HttpApi::*handler)(Call&);
    };

    // One that has no scheduler until it is to serve it: see HttpServer.
    explicit HttpApi(std::shared_ptr<detail::HttpShared> shared)
        : shared_(std::move(shared)), routes_(all_routes(!shared_->options.page.empty())) {}
    // One that never has: it tells of these, and where they are.
    HttpApi(std::shared_ptr<detail::HttpShared> shared, Members members)
        : shared_(std::move(shared)), routes_(probe_routes()), members_(std::move(members)) {}
    void serve(Scheduler& scheduler);
    bool is_serving() const { return served_.load() != nullptr; }
    Scheduler& scheduler() const { return *served_.load(); }
    // Null: nothing is passed on.
    detail::Forwarder* forwarder() { return is_serving() && forwarder_ ? &*forwarder_ : nullptr; }
    bool is_open_for(Call& call, const Route& route) const;
    bool logs(LogLevel level) const {
        const Scheduler* const first = shared_->first.load();
        return first && first->logs(level);
    }

    static std::vector<Route> all_routes(bool with_page);
    static std::vector<Route> task_routes();
    static std::vector<Route> event_routes();
    static std::vector<Route> sink_routes();
    static std::vector<Route> state_routes();
    static std::vector<Route> probe_routes();
    static Route page_route();
    const Route* find_route(Call& call) const;
    detail::HttpAnswer answer(const detail::HttpRequest& request);
    template <class PeerOf>
    void tell_of(const detail::Asked* asked, const detail::HttpAnswer& answer, PeerOf peer_of,
                 std::string_view cause = "") noexcept;
    void tell_of_refusals(std::chrono::steady_clock::time_point now) noexcept;
    template <class... Parts>
    void say(LogLevel level, const char* event, const Parts&... parts) noexcept {
        if (!logs(level)) return;
        const auto log = [this](const LogRecord& record) {
            if (shared_->options.log) return shared_->options.log(record);
            shared_->first.load()->log(record);
        };
        detail::tell(log, level, event, parts...);
    }
    static bool is_schedule(const detail::HttpRequest& request);
    void begin(const detail::HttpRequest& request, detail::HttpAnswer& answer,
               bool may_block) noexcept;
    static bool leave_to_worker(Call& call);
    bool admit(Call& call, std::size_t size);
    void finish(detail::HttpAnswer& answer);
    void wait_for(detail::HttpAnswer& answer);
    void tell_applied(detail::HttpAnswer& answer) noexcept;
    bool is_made_here(Call& call);
    void change(Call& call, const Route& route);
    void pass_on(const detail::HttpRequest& request, detail::HttpAnswer& answer);
    void begin_again(detail::Exchange& exchange);
    template <class Fn>
    static void guard(detail::HttpAnswer& answer, Fn fn) noexcept;
    void dispatch(Call& call);
    bool authorize(Call& call) const;
    static detail::Access access_by_head(const detail::HttpRequest& request,
                                         const detail::Secrets& secrets);
    static detail::Access access_by_body(const detail::HttpRequest& request,
                                         const detail::Secrets& secrets);
    bool from_allowed_origin(Call& call) const;
    bool is_listed_origin(const detail::HttpRequest& request) const;
    bool is_allowed_host(std::string_view host) const;
    void answer_without_route(Call& call) const;
    std::string directions() const;
    void preflight(Call& call, const std::string& allow) const;

    void post_schedule(Call& call);
    void read_requests(const Call& call, bool many, std::vector<TaskRequest>& requests,
                       std::vector<std::string>& errors);
    static void set_trace(const Call& call, TaskRequest& request);
    static std::string idempotency_key(const Call& call, std::vector<std::string>& errors);
    static PutIf put_condition(const Call& call, std::vector<std::string>& errors);
    template <class Fn>
    static bool with_key(const std::string& text, Fn fn);
    static void refuse_task(Call& call, const std::string& text) {
        refuse(call, 404, detail::concat({"There is no task ", detail::printable(text, 64), "."}));
    }
    template <class Begin>
    static std::optional<Ticket> begin_change(Call& call, Begin begin);
    void put_task(Call& call);
    void patch_task(Call& call);
    void delete_tasks(Call& call);
    void delete_events(Call& call);
    void post_cancel(Call& call);
    void delete_task(Call& call);
    void get_task(Call& call);
    void get_tasks(Call& call);
    void get_histogram(Call& call);
    void get_events(Call& call);
    void get_sse(Call& call);
    void get_sinks(Call& call);
    void get_dead(Call& call);
    void post_redeliver(Call& call);
    void post_pause_sink(Call& call);
    void post_resume_sink(Call& call);
    void delete_sink(Call& call);
    void answer_sink(Call& call) const;
    void post_pause(Call& call);
    void post_resume(Call& call);
    detail::NamedLimits limits() const;
    void get_status(Call& call);
    void get_backup(Call& call);
    void get_healthz(Call& call);
    std::vector<std::string> unready() const;
    void get_readyz(Call& call);
    void get_metrics(Call& call);
    void get_openapi(Call& call);
    void get_page(Call& call);

    void cancel(Call& call, const std::string& text);
    template <class Fn>
    static std::vector<std::string> read_optional(const Call& call, std::string_view name, Fn fn);
    static std::vector<std::string> range_errors(const Call& call,
                                                 const std::vector<std::string_view>& bounds);
    static std::size_t number_of(const Call& call, const char* name, std::size_t most,
                                 std::vector<std::string>& errors);
    static std::size_t limit_of(const Call& call, std::vector<std::string>& errors) {
        return number_of(call, "limit", 1'000, errors);
    }
    static std::optional<TimePoint> time_of(const Call& call, const char* name,
                                            std::vector<std::string>& errors);
    static Filter filter_of(const Call& call, std::vector<std::string>& errors);
    std::optional<std::uint64_t> seq_at(const std::string& text) const;
    std::optional<std::uint64_t> seq_at(Call& call, const std::string& text);
    void refuse_event(Call& call, const std::string& text) const;
    detail::StreamStart stream_start(Call& call);

    void serve(const std::string& prefix, const httplib::Request& from, httplib::Response& to,
               const httplib::ContentReader* reader);
    static std::string problem_of(const httplib::Request& request);
    bool read_body(detail::HttpRequest& request, const httplib::ContentReader& reader) const;
    void answer_and_end(httplib::Response& response, detail::HttpAnswer& made);
    static void end_without_answer(httplib::Response& response);
    void stream_here(httplib::Response& response, detail::StreamStart start);
    static void transfer_here(httplib::Response& response, detail::HttpAnswer& made);
    std::string next_text(detail::StreamStart& stream);

    static void answer(Call& call, int status, std::string json) {
        detail::fill(call.answer, status, std::move(json));
    }
    // Answers 200 with an object of one member.
    template <class Value>
    static void answer_with(Call& call, std::string_view name, const Value& value) {
        answer(call, 200, detail::json_of(detail::Json().object().add(name, value)));
    }
    static void refuse(Call& call, int status, const std::string& error) {
        detail::refuse(call.answer, status, error);
    }
    static int status_of(Errc code);

    static constexpr std::size_t small = 16'384;  // bytes of a body
    // How many bytes of a body or an answer are many.
    std::size_t large() const { return detail::large_size(shared_->options.max_answers); }
    // How many bytes of tasks or events a page ends with.
    std::size_t page_bytes() const {
        return std::min<std::size_t>(TaskQuery().max_bytes, shared_->options.max_answers / 4);
    }
    static constexpr const char* earliest = "earliest";
    static constexpr const char* opening_error =
        "The journal is still being opened; try again later.";
    static constexpr std::string_view page_limit =
        R"({"type":"integer","minimum":1,"maximum":1000,"default":100})";
    static constexpr std::string_view bucket_limit =
        R"({"type":"integer","minimum":1,"maximum":500,"default":100})";
    static constexpr std::string_view search_text =
        R"({"type":"string","minLength":1,"maxLength":256})";
    static constexpr std::string_view holds_text =
        "Only those whose payload's text, name or id holds this.";
    static constexpr std::string_view just_true = R"({"const":"true"})";
    static constexpr std::size_t max_batch = 10'000;

    const std::shared_ptr<detail::HttpShared> shared_;
    const std::vector<Route> routes_;
    const Members members_;  // of a server whose schedulers are all behind prefixes, for its root
    std::atomic<Scheduler*> served_{nullptr};

    // The streams on foreign servers wait here, and changes for the owner.
    std::mutex mutex_;
    std::condition_variable changed_;
    bool stopping_ = false;       // guarded by mutex_
    detail::Exchanges returned_;  // guarded by mutex_: they were passed on
    std::size_t companion_ = 0;
    detail::Forwarder::Done take_back_;           // an HttpServer's, for its own exchanges
    std::optional<detail::Forwarder> forwarder_;  // only where the journal is shared
};

inline void HttpApi::serve(Scheduler& scheduler) {
    const auto notify = [this] {
        { std::lock_guard<std::mutex> guard(mutex_); }
        changed_.notify_all();
        if (forwarder_) forwarder_->look_again();
    };
    if (!take_back_) {
        take_back_ = [this](detail::Exchanges& exchanges) {
            const std::lock_guard<std::mutex> guard(mutex_);
            returned_.splice(returned_.end(), exchanges);
            changed_.notify_all();
        };
    }
    if (scheduler.cluster()) forwarder_.emplace(scheduler, shared_->options, take_back_);
    companion_ = scheduler.add_companion({notify, nullptr, nullptr});
    Scheduler* none = nullptr;
    shared_->first.compare_exchange_strong(none, &scheduler);
    served_.store(&scheduler);
}

inline HttpApi::~HttpApi() {
    stop();
    if (is_serving()) scheduler().remove_companion(companion_);
}

inline void HttpApi::stop() {
    {
        std::lock_guard<std::mutex> guard(mutex_);
        stopping_ = true;
    }
    changed_.notify_all();
    if (forwarder_) forwarder_->stop();
    tell_of_refusals(std::chrono::steady_clock::now() + std::chrono::hours(1));  // of all
}

// ---- The table of routes ---------------------------------------------------

// Adding to the interface takes an entry here and a handler.  The methods of a path stand
// together.
inline std::vector<HttpApi::Route> HttpApi::all_routes(bool with_page) {
    std::vector<Route> routes;
    for (const auto part : {task_routes, event_routes, sink_routes, state_routes, probe_routes}) {
        for (Route& route : part()) routes.push_back(std::move(route));
    }
    if (with_page) routes.push_back(page_route());
    return routes;
}

inline std::vector<HttpApi::Route> HttpApi::task_routes() {
    using detail::Operation;
    constexpr std::string_view key = R"({"type":"string","minLength":1,"maxLength":255})";
    constexpr std::string_view one_or_many =
        R"({"oneOf":[{"$ref":"#/components/schemas/NewTask"},{"type":"array",)"
        R"("items":{"$ref":"#/components/schemas/NewTask"},"minItems":1,"maxItems":10000}]})";
    return {
        {Operation("POST", "/schedule", "schedule",
                   "Schedules a task, or an array of tasks, all or none.")
             .header("Idempotency-Key", key,
                     "Requests with the same key are one request, for a day and while its task is "
                     "pending.")
             .header("traceparent", "string", "Kept with the task (W3C Trace Context).")
             .header("tracestate", "string", "Likewise.")
             .body(one_or_many)
             .answers("Scheduled|ScheduledMany", "Stored.")
             .with_field("Location", "The task, if it is one.")
             .with_field("Idempotent-Replayed",
                         "`true` where the key came before: this is the first answer again.")
             .refuses({422, 507}),
         &HttpApi::post_schedule},
        {Operation("POST", "/cancel", "cancel", "Cancels a task.")
             .body("{id:string,secret?:string}")
             .answers("Message", "Cancelled.")
             .refuses({404, 409}),
         &HttpApi::post_cancel},
        {Operation("GET", "/tasks", "listTasks",
                   "Pending tasks by due time, or missed ones, the newest last.")
             .query("limit", page_limit, "How many at most.")
             .query("after", "string", "The end_cursor of a page.")
             .query("due_after", "time", "Only those due later than this.")
             .query("due_before", "time", "Only those due earlier than this.")
             .query("status", "'pending'|'missed'", "Which of them; pending if it is not given.")
             .topics()
             .query("q", search_text, holds_text)
             .answers("{page_info:PageInfo,data:Task[]}", "A page."),
         &HttpApi::get_tasks},
        {Operation("DELETE", "/tasks", "cancelTasks",
                   "Cancels the pending tasks that are chosen, all of these or none.")
             .query("due_after", "time", "Only those due later than this.")
             .query("due_before", "time", "Only those due earlier than this.")
             .topics()
             .query("q", search_text, holds_text)
             .query("all", just_true, "All that are pending, in place of a choice.")
             .answers("{cancelled:integer}", "Cancelled."),
         &HttpApi::delete_tasks},
        {Operation("GET", "/histogram", "countTasks",
                   "How many tasks are pending in each of some equal spans of time.")
             .query("due_after", "time", "Only those due later than this: where the spans begin.")
             .query("due_before", "time", "Only those due earlier than this: where they end.")
             .query("buckets", bucket_limit, "How many spans.")
             .answers("Histogram", "The counts. Without a bound the first or the last task is."),
         &HttpApi::get_histogram},
        {Operation("GET", "/tasks/{id}", "getTask", "A task.")
             .answers("TaskStory", "The task, and how each sink stands to its event.")
             .refuses({404}),
         &HttpApi::get_task},
        {Operation("PUT", "/tasks/{id}", "putTask",
                   "Makes the task of a name, or replaces the pending one in place.")
             .header("If-None-Match", "'*'", "Only makes one.")
             .header("If-Match", "'*'", "Only replaces one.")
             .header("traceparent", "string", "Kept with the task (W3C Trace Context).")
             .header("tracestate", "string", "Likewise.")
             .body("NewTask")
             .answers("Put", "Replaced.")
             .with_field("Location", "The task.")
             .answers(201, "Put", "Made.")
             .with_field("Location", "The task.")
             .refuses(412, "There is such a task, or there is none.")
             .refuses({507}),
         &HttpApi::put_task},
        {Operation("PATCH", "/tasks/{id}", "changeTask", "Changes a pending task in place.")
             .body("Change")
             .answers("Task", "The changed task.")
             .refuses({404, 409, 507}),
         &HttpApi::patch_task},
        {Operation("DELETE", "/tasks/{id}", "cancelTask", "Cancels a task.")
             .answers("Message", "Cancelled.")
             .refuses({404, 409}),
         &HttpApi::delete_task},
    };
}

inline std::vector<HttpApi::Route> HttpApi::event_routes() {
    using detail::Operation;
    return {
        {Operation("GET", "/events", "listEvents",
                   "Past events in order of emission: the newest, or those right after or before "
                   "one.")
             .query("limit", page_limit, "How many at most.")
             .query("after", "string", "An event's id, or earliest.")
             .query("before", "string", "An event's id.")
             .topics()
             .query("q", search_text, holds_text)
             .answers("{page_info:PageInfo,data:Event[]}", "A page.")
             .refuses({404}),
         &HttpApi::get_events},
        {Operation("DELETE", "/events", "forgetEvents",
                   "Forgets past events, an inclusive range or all.")
             .query("start_id", "Id", "The first.")
             .query("end_id", "Id", "The last.")
             .query("all", just_true, "All of them, in place of a range.")
             .answers("{deleted:integer}", "Forgotten.")
             .refuses({404}),
         &HttpApi::delete_events},
        {Operation("GET", "/sse", "stream",
                   "The event stream: id is the task's id, data its payload. It resumes behind "
                   "Last-Event-ID.")
             .header("Last-Event-ID", "string")
             .query("last_event_id", "string", "The same, for who cannot set headers; or earliest.")
             .query("lastEventId", "string", "The same, as polyfills of EventSource send it.")
             .query("lastEventID", "string", "The same, as other polyfills send it.")
             .query("secret", "string", "The secret, likewise.")
             .topics()
             .answers("string",
                      "Events. event: cursor comes first, and with topics also where others have "
                      "passed; event: gap where events are missing; "
                      "over the limit of streams, retry: 30000 and the end.",
                      "text/event-stream"),
         &HttpApi::get_sse},
    };
}

inline std::vector<HttpApi::Route> HttpApi::sink_routes() {
    using detail::Operation;
    return {
        {Operation("GET", "/sinks", "listSinks", "How each sink stands.")
             .answers("{data:Sink[]}", "All sinks."),
         &HttpApi::get_sinks},
        {Operation("DELETE", "/sinks/{name}", "forgetSink",
                   "Forgets an unlisted sink's cursor and dead letters.")
             .answers("Message", "Forgotten.")
             .refuses(409, "The sink is configured.")
             .refuses({404, 507}),
         &HttpApi::delete_sink},
        {Operation("GET", "/sinks/{name}/dead", "listDeadLetters",
                   "The events that a sink did not take, in order of emission.")
             .query("limit", page_limit, "How many at most.")
             .query("after", "string", "The end_cursor of a page.")
             .answers("{page_info:PageInfo,data:DeadLetter[]}", "A page.")
             .refuses({404}),
         &HttpApi::get_dead},
        {Operation("POST", "/sinks/{name}/redeliver", "redeliver",
                   "Has a dead letter delivered again, or without a body all of them.")
             .optional_body("{id?:string,secret?:string}")
             .answers("{redelivering:integer}", "They are tried again, once each.")
             .refuses({404, 507}),
         &HttpApi::post_redeliver},
        {Operation("POST", "/sinks/{name}/pause", "pauseSink", "Holds back a sink's events.")
             .answers("Sink", "The sink.")
             .refuses({404, 507}),
         &HttpApi::post_pause_sink},
        {Operation("POST", "/sinks/{name}/resume", "resumeSink",
                   "Goes on with a sink's events at once, also if it was disabled.")
             .answers("Sink", "The sink.")
             .refuses({404, 507}),
         &HttpApi::post_resume_sink},
    };
}

inline std::vector<HttpApi::Route> HttpApi::state_routes() {
    using detail::Operation;
    constexpr std::string_view document = R"({"type":"object","required":["openapi","paths"]})";
    return {
        {Operation("POST", "/pause", "pause",
                   "Holds back all emissions, until resumed, also across restarts.")
             .optional_body("{reason?:string,secret?:string}")
             .answers("Message", "Paused: nothing is emitted from here on.")
             .refuses({507}),
         &HttpApi::post_pause},
        {Operation("POST", "/resume", "resume",
                   "Ends a pause: what fell due meanwhile is emitted, or missed.")
             .optional_body("{secret?:string}")
             .answers("Message", "Resumed.")
             .refuses({507}),
         &HttpApi::post_resume},
        {Operation("GET", "/status", "status",
                   "How it stands: what is overdue, how late events were, journal, sinks, limits.")
             .answers("Status", "How it stands."),
         &HttpApi::get_status},
        {Operation("GET", "/backup", "backup",
                   "The journal as it stands at this moment, which is a journal by itself.")
             .answers("string", "Lines of JSON, a record each.", "application/jsonl")
             .refuses(404, "There is no journal that is a file.")
             .refuses({503}),
         &HttpApi::get_backup},
        {Operation("GET", "/metrics", "metrics", "Figures in Prometheus's text format.")
             .with_any_query()
             .answers("string", "Figures.", "text/plain"),
         &HttpApi::get_metrics},
        {Operation("GET", "/openapi.json", "describe", "This description.")
             .with_any_query()
             .answers(document, "OpenAPI 3.1."),
         &HttpApi::get_openapi},
    };
}

inline std::vector<HttpApi::Route> HttpApi::probe_routes() {
    using detail::Operation;
    return {
        {Operation("GET", "/healthz", "alive", "Whether it is alive.")
             .without_secret()
             .with_any_query()
             .answers("State", "It is."),
         &HttpApi::get_healthz},
        {Operation("GET", "/readyz", "ready", "Whether tasks are accepted and emitted.")
             .without_secret()
             .with_any_query()
             .answers("State", "It is.")
             .refuses({503}),
         &HttpApi::get_readyz},
    };
}

inline HttpApi::Route HttpApi::page_route() {
    return {
        detail::Operation("GET", "/", "page", "The page to look at and to work with.")
            .without_secret()
            .with_any_query()
            .answers("string", "It holds no data: it asks for them as anybody does.", "text/html")
            .answers(304, "", "It is still the one with the tag of If-None-Match.")
            .answers(308, "", "It is behind a slash: its addresses are relative."),
        &HttpApi::get_page};
}

// ---- On a foreign server ---------------------------------------------------

inline void HttpApi::mount(httplib::Server& server, const std::string& prefix) {
    detail::check_httplib();
    if (shared_->tls.context()) {
        detail::throw_as(Errc::invalid_argument,
                         {"TLS is the business of the server that the routes are mounted on"});
    }
    detail::check_prefix(prefix);
    const auto plain = [this, prefix](const httplib::Request& from, httplib::Response& to) {
        serve(prefix, from, to, nullptr);
    };
    const auto with_body = [this, prefix](const httplib::Request& from, httplib::Response& to,
                                          const httplib::ContentReader& reader) {
        serve(prefix, from, to, &reader);
    };
    std::string_view last;
    for (const Route& route : routes_) {
        if (last == route.operation.path) continue;  // the methods of a path stand together
        last = route.operation.path;
        const std::string pattern = detail::path_pattern(prefix + std::string(last));
        server.Get(pattern, plain);
        server.Options(pattern, plain);
        server.Post(pattern, with_body);
        server.Put(pattern, with_body);
        server.Patch(pattern, with_body);
        server.Delete(pattern, with_body);
    }
}

// What cannot be answered for want of memory ends the connection, whatever was read of it.
inline void HttpApi::serve(const std::string& prefix, const httplib::Request& from,
                           httplib::Response& to, const httplib::ContentReader* reader) {
    // There are no ranges here, and a server may pass over them (RFC 9110, 14.2); some releases
    // would send a range over and over.  The request is the server's own, and not constant.
    const_cast<httplib::Request&>(from).ranges.clear();
    detail::HttpAnswer made;
    try {
        detail::HttpRequest request;
        request.method = from.method;
        request.target = from.target;
        request.prefix = prefix;
        request.peer = from.remote_addr;
        for (const auto& field : from.headers) {
            request.fields.emplace_back(field.first, field.second);
        }
        const std::string problem = problem_of(from);
        if (!problem.empty()) request.refuse_body(400, problem);
        const bool has_body = request.field("Transfer-Encoding") ||
                              request.field("Content-Length").value_or("0") != "0";
        const bool unread =
            !problem.empty() || (has_body && !(reader && read_body(request, *reader)));
        made = answer(request);
        if (made.is_silent) return end_without_answer(to);
        to.status = made.status;
        for (const auto& field : made.fields) to.set_header(std::string(field.first), field.second);
        if (unread) {
            answer_and_end(to, made);
        } else if (made.stream && request.method != "HEAD") {
            stream_here(to, *made.stream);
        } else if (made.transfer) {
            transfer_here(to, made);
        } else if (made.status != 204 && made.status != 304) {
            to.set_content(std::move(made.body), std::string(made.type));
        }
    } catch (const std::exception&) {
        if (made.stream) --shared_->streams;
        end_without_answer(to);
    }
}

// Why a head is refused that cpp-httplib lets pass, as some releases do: one that a proxy may
// understand otherwise.  Empty: it is good.
inline std::string HttpApi::problem_of(const httplib::Request& request) {
    for (const auto& field : request.headers) {
        if (!detail::is_token(field.first)) {
            return "A header field must be a name, a colon and a value on one line.";
        }
    }
    if (request.version != "HTTP/1.0" && !request.has_header("Host")) {
        return "A request must have exactly one Host field.";
    }
    for (const char* name : {"Host", "Origin", "Content-Length", "Transfer-Encoding"}) {
        if (request.get_header_value_count(name) > 1) {
            return detail::concat({"A request must have at most one ", name, " field."});
        }
    }
    const bool chunked = request.has_header("Transfer-Encoding");
    if (chunked && request.has_header("Content-Length")) {
        return "Content-Length and Transfer-Encoding must not come together.";
    }
    if (chunked &&
        !detail::equal_ignoring_case(request.get_header_value("Transfer-Encoding"), "chunked")) {
        return "The only Transfer-Encoding that is accepted is chunked.";
    }
    const std::string length = request.get_header_value("Content-Length");
    if (length.size() > 18 || length.find_first_not_of("0123456789") != std::string::npos) {
        return "Content-Length must be a plain number.";
    }
    return "";
}

// The server must write a head.  To any client this one announces the answer, which never
// comes: the connection ends.
inline void HttpApi::end_without_answer(httplib::Response& response) {
    response.headers.clear();
    response.body.clear();
    response.status = 100;
    response.set_content_provider("text/plain",
                                  [](std::size_t, httplib::DataSink&) { return false; });
}

// Some releases run a body that was not read as the next request, whatever the answer
// says of the connection; none goes on after a provider that has failed.
inline void HttpApi::answer_and_end(httplib::Response& response, detail::HttpAnswer& made) {
    response.set_header("Connection", "close");
    if (made.body.empty()) made.body = " ";
    const std::size_t size = made.body.size();
    response.set_content_provider(
        size, std::string(made.type),
        [text = std::move(made.body)](std::size_t, std::size_t, httplib::DataSink& sink) {
            sink.write(text.data(), text.size());
            return false;
        });
    if (made.stream) --shared_->streams;
}

// The library writes the size, and asks for nothing where only that is wanted.
inline void HttpApi::transfer_here(httplib::Response& response, detail::HttpAnswer& made) {
    const std::size_t size = static_cast<std::size_t>(made.transfer->snapshot->size());
    const std::shared_ptr<detail::Transfer> transfer = std::move(made.transfer);
    response.set_content_provider(size, std::string(made.type),
                                  [transfer](std::size_t at, std::size_t, httplib::DataSink& sink) {
                                      try {
                                          transfer->at = at;
                                          const std::string piece = transfer->next();
                                          return sink.write(piece.data(), piece.size());
                                      } catch (const std::exception&) {
                                          return false;
                                      }
                                  });
}

// What cannot be read is noted, and judged after the secret.  False: there may be more of it.
inline bool HttpApi::read_body(detail::HttpRequest& request,
                               const httplib::ContentReader& reader) const {
    const std::string length(request.field("Content-Length").value_or("0"));
    const std::size_t most = shared_->options.max_body;
    const std::uint64_t size = std::strtoull(length.c_str(), nullptr, 10);
    detail::judge_body_fields(request, size, most);
    const bool whole =
        request.body_status == 200 && reader([&](const char* data, std::size_t more) {
            if (more > most - request.body.size()) {
                detail::judge_body_fields(request, most + std::uint64_t{1}, most);
                return false;
            }
            request.body.append(data, more);
            return true;
        });
    if (!whole && request.body_status == 200) {
        request.refuse_body(400, "The body did not arrive whole, or its chunks are malformed.");
    }
    // Some releases say so of a body in chunks that they have not touched, after DELETE.
    return whole && !(request.body.empty() && request.field("Transfer-Encoding"));
}

// ---- Answering -------------------------------------------------------------

inline detail::HttpAnswer HttpApi::answer(const detail::HttpRequest& request) {
    std::unique_ptr<detail::Asked> asked;
    if (logs(LogLevel::debug)) asked = std::make_unique<detail::Asked>(request);
    detail::HttpAnswer made;
    begin(request, made, true);
    if (made.is_for_owner) pass_on(request, made);
    finish(made);
    detail::note_if_refused(asked, request, made);
    tell_of(asked.get(), made, [&request] { return request.peer; });
    return made;
}

// Tells the log of an answer: of each at debug, and of refusals as Refusals has it.  What was no
// request at all has a cause.
template <class PeerOf>
void HttpApi::tell_of(const detail::Asked* asked, const detail::HttpAnswer& answer, PeerOf peer_of,
                      std::string_view cause) noexcept {
    using detail::named;
    const detail::Refusal why = detail::refusal_of(answer);
    const auto now = std::chrono::steady_clock::now();
    try {
        if (asked && logs(LogLevel::debug)) {
            const auto spent =
                std::chrono::duration_cast<std::chrono::microseconds>(now - asked->at);
            say(LogLevel::debug, "request", named("method", asked->method), " ",
                named("path", asked->target), ": ", named("status", answer.status), ", ",
                named("bytes", answer.body.size()), " bytes, ", named("us", spent.count()), " us, ",
                named("peer", peer_of()));
        }
        const std::string_view reason = detail::refusal_names[static_cast<std::size_t>(why)];
        if (!cause.empty()) {
            say(LogLevel::debug, "connection.refused", "refused ", named("peer", peer_of()), ": ",
                named("status", answer.status), ", ", named("reason", reason), ": ",
                named("cause", cause));
        }
        const std::uint64_t untold = shared_->refusals.take_untold(why, now);
        if (untold == 0 || !logs(detail::level_of(why))) return;
        const std::string request =
            asked ? detail::concat({asked->method, " ", asked->target}) : std::string("a request");
        const std::string more =
            untold == 1 ? "" : detail::concat({", and ", untold - 1, " more for this reason"});
        const std::string because = cause.empty() ? "" : ": " + std::string(cause);
        say(detail::level_of(why), "request.refused", "refused ", named("request", request), " of ",
            named("peer", peer_of()), ": ", named("status", answer.status), ", ",
            named("reason", reason), because, more);
    } catch (const std::bad_alloc&) {  // it is counted all the same
    }
}

// Tells the log how many more were refused for the reasons that it has heard of.
inline void HttpApi::tell_of_refusals(std::chrono::steady_clock::time_point now) noexcept {
    shared_->refusals.take_all_untold(now, [this](detail::Refusal why, std::uint64_t untold) {
        say(detail::level_of(why), "requests.refused", detail::named("requests", untold),
            untold == 1 ? " more request was refused: " : " more requests were refused: ",
            detail::named("reason", detail::refusal_names[static_cast<std::size_t>(why)]));
    });
}

// Whether this is a request to schedule that begin() makes short work of.
inline bool HttpApi::is_schedule(const detail::HttpRequest& request) {
    return request.method == "POST" && request.body.size() <= small &&
           detail::target_behind_prefix(request) == "/schedule";
}

// Begins what is asked for, and answers what it can.  A thread that must not block leaves what
// may take long to another one, by `is_for_worker`.
inline void HttpApi::begin(const detail::HttpRequest& request, detail::HttpAnswer& made,
                           bool may_block) noexcept {
    guard(made, [&] {
        Call call{request, made, may_block, {}};
        dispatch(call);
    });
}

// Whether this thread must not go on, and another one begins anew.
inline bool HttpApi::leave_to_worker(Call& call) {
    call.answer.is_for_worker = !call.may_block;
    return call.answer.is_for_worker;
}

// Whether an answer of this size may be built, by this thread and now.
inline bool HttpApi::admit(Call& call, std::size_t size) {
    if (size <= large()) return true;
    if (leave_to_worker(call)) return false;
    detail::Share share(shared_->answers, size);
    if (shared_->answers <= shared_->options.max_answers) {
        call.answer.share = std::move(share);
        return true;
    }
    call.answer.refusal = detail::Refusal::answers;
    refuse(call, 503, "Too many large answers are on their way; try again later.");
    return false;
}

// An answer tells only what is stored.  A 503 has changed nothing, for which nobody need wait.
inline void HttpApi::finish(detail::HttpAnswer& answer) {
    if (answer.ticket) wait_for(answer);
    if (answer.tells_applied && !answer.is_silent && answer.status != 503) tell_applied(answer);
    shared_->refusals.count(answer);
}

// The process that has passed the request on answers when it has applied as much.
inline void HttpApi::tell_applied(detail::HttpAnswer& answer) noexcept {
    try {
        answer.field(detail::applied_field, std::to_string(scheduler().applied()));
    } catch (const std::bad_alloc&) {
        answer.is_silent = true;
    }
}

inline void HttpApi::wait_for(detail::HttpAnswer& answer) {
    Ticket ticket = std::move(*answer.ticket);
    answer.ticket.reset();
    const auto is_of_success = [](const auto& field) {
        return field.first == "Location" || field.first == "Cache-Control";
    };
    guard(answer, [&] {
        try {
            ticket.wait();
        } catch (...) {
            answer.is_begun = false;  // it is known not to be stored
            auto& fields = answer.fields;
            fields.erase(std::remove_if(fields.begin(), fields.end(), is_of_success), fields.end());
            throw;
        }
    });
}

// The one place where exceptions become answers.  What was begun may be stored, so what fails
// from then on is no answer; and neither is one that there is no memory for.
template <class Fn>
void HttpApi::guard(detail::HttpAnswer& made, Fn fn) noexcept {
    try {
        try {
            return fn();
        } catch (const Error& error) {
            if (!made.is_begun && error.code() != Errc::outcome_unknown) {
                if (error.code() == Errc::disk_full) made.refusal = detail::Refusal::disk_full;
                return detail::refuse(made, status_of(error.code()),
                                      detail::sentence(error.what()));
            }
        } catch (const std::bad_alloc&) {
            if (!made.is_begun) {
                return detail::refuse(made, 503, "The server is out of memory; try again later.");
            }
        } catch (const std::exception& error) {
            if (!made.is_begun) {
                return detail::refuse(
                    made, 500,
                    detail::sentence(std::string("unexpected failure: ") + error.what()));
            }
        }
    } catch (const std::exception&) {  // there is no memory for the refusal
    }
    made.is_silent = true;
}

// First the secret (H1), then where the request comes from, then what it is.
inline void HttpApi::dispatch(Call& call) {
    const Route* const route = find_route(call);
    if (is_listed_origin(call.request)) {  // so that its page sees also a refusal
        call.answer.field("Access-Control-Allow-Origin",
                          std::string(*call.request.field("Origin")));
        call.answer.field("Vary", "Origin");
    }
    const bool is_preflight = call.request.method == "OPTIONS" && is_listed_origin(call.request) &&
                              call.request.field("Access-Control-Request-Method");
    if (!(route && route->operation.is_free) && !is_preflight && !authorize(call)) return;
    if (!from_allowed_origin(call)) return;
    if (!route) return answer_without_route(call);
    if (call.request.body_status != 200) {
        if (call.request.lacks_room) call.answer.refusal = detail::Refusal::bodies;
        return refuse(call, call.request.body_status, call.request.body_error);
    }
    if (!route->operation.takes_any_query) {
        const auto errors = detail::query_errors(call.request, route->operation);
        if (!errors.empty()) return answer(call, 400, detail::errors_json(errors));
    }
    if (!is_open_for(call, *route)) return;
    if (route->operation.method != "GET" && forwarder_) return change(call, *route);
    (this->*route->handler)(call);
}

// Where several processes have the journal open, changes are the owner's.
inline bool HttpApi::is_made_here(Call& call) {
    const bool was_passed_on = call.request.field(detail::forwarded_field).has_value();
    call.answer.tells_applied = was_passed_on;
    if (scheduler().is_owner()) return true;
    call.answer.is_for_owner = !was_passed_on;
    if (was_passed_on) {  // never twice
        const std::string own = scheduler().cluster().value_or(Cluster()).node;
        const bool is_own =
            call.request.field(detail::forwarded_field) == detail::printable(own, 128);
        refuse(call, 503,
               is_own ? "The URL of the owner leads back to this node; see its --advertise."
                      : detail::concat({"This node, ", detail::printable(own, 64),
                                        ", does not own the journal any more; try again later."}));
    }
    return false;
}

// A process that ceases to be the owner before anything is begun passes the change on.
inline void HttpApi::change(Call& call, const Route& route) {
    if (!is_made_here(call)) return;
    try {
        (this->*route.handler)(call);
    } catch (const Error& error) {
        const bool is_nothing = error.code() == Errc::not_owner && !call.answer.is_begun;
        if (!is_nothing || is_made_here(call)) throw;
    }
}

// Blocks until the owner has answered, or until this process is the owner, and has answered itself.
inline void HttpApi::pass_on(const detail::HttpRequest& request, detail::HttpAnswer& answer) {
    detail::Exchanges one(1);
    detail::Exchange& exchange = one.front();
    exchange.request = &request;
    exchange.answer = std::move(answer);
    while (exchange.answer.is_for_owner) {
        forwarder_->push(one);
        std::unique_lock<std::mutex> lock(mutex_);
        const auto find = [this, &exchange] {
            return std::find_if(returned_.begin(), returned_.end(),
                                [&](const auto& each) { return &each == &exchange; });
        };
        changed_.wait(lock, [&] { return find() != returned_.end(); });
        one.splice(one.end(), returned_, find());
        lock.unlock();
        if (exchange.answer.is_for_worker) begin_again(exchange);
    }
    answer = std::move(exchange.answer);
}

// Begins what another thread has left to this one, or what came back as this process is the owner
// now: of a change that may be made already, an error would be no answer.
inline void HttpApi::begin_again(detail::Exchange& exchange) {
    exchange.answer = detail::HttpAnswer();
    exchange.answer.is_begun = exchange.passage.may_be_made;
    begin(*exchange.request, exchange.answer, true);
}

// While a journal is opened there is nothing to tell but that this is alive.  To refuse a stream
// would end an EventSource for good, so it waits.
inline bool HttpApi::is_open_for(Call& call, const Route& route) const {
    if (is_serving() || route.operation.is_free) return true;
    call.answer.waits_for_opening = route.handler == &HttpApi::get_sse;
    if (!call.answer.waits_for_opening) refuse(call, 503, opening_error);
    return false;
}

inline const HttpApi::Route* HttpApi::find_route(Call& call) const {
    const std::string path = call.request.path();
    const std::string_view method = call.request.method == "HEAD" ? "GET" : call.request.method;
    for (const Route& route : routes_) {
        if (method == route.operation.method &&
            detail::matches(route.operation.path, path, call.id)) {
            return &route;
        }
    }
    return nullptr;
}

// Answers OPTIONS, and refuses what nothing else answers (RFC 9110, 15.5.6 and 15.6.2).
inline void HttpApi::answer_without_route(Call& call) const {
    const std::string_view method = call.request.method;
    const std::string path = call.request.path();
    const bool is_of_all = method == "OPTIONS" && path == "*";  // what the server knows at all
    std::string allow;
    for (const Route& route : routes_) {
        const std::string list = detail::method_list(route.operation.method);
        if (!is_of_all && !detail::matches(route.operation.path, path, call.id)) continue;
        if (allow.find(list) == std::string::npos) allow += (allow.empty() ? "" : ", ") + list;
    }
    if (method == "CONNECT" && allow.empty()) {
        return refuse(call, 501, "This server is no proxy: it does not know CONNECT.");
    }
    if (allow.empty()) return refuse(call, 404, "There is nothing at this path" + directions());
    if (method == "OPTIONS") return preflight(call, allow);
    call.answer.field("Allow", allow + ", OPTIONS");
    refuse(call, 405,
           detail::concat({"This path does not know this method; it knows ", allow, "."}));
}

// Refuses what the secret of the request, if it has any, does not open.
inline bool HttpApi::authorize(Call& call) const {
    const auto known = shared_->secrets();
    if (known->all.empty()) return true;
    const bool reads = call.request.method == "GET" || call.request.method == "HEAD";
    detail::Access access = access_by_head(call.request, *known);
    if (access != detail::Access::all) {
        access = std::max(access, access_by_body(call.request, *known));
    }
    if (access == detail::Access::all || (access == detail::Access::read && reads)) return true;
    if (access == detail::Access::read) {
        call.answer.refusal = detail::Refusal::secret;
        refuse(call, 403,
               "This is a read secret, which opens GET and HEAD only; this needs the secret.");
        return false;
    }
    call.answer.field("WWW-Authenticate", "Bearer realm=\"task-scheduler\"");
    refuse(call, 401,
           "The secret is missing or wrong; give it as the header x-pd-secret, as Authorization: "
           "Bearer, or as the member \"secret\" of the body.");
    return false;
}

// Of the secrets in its head, the one that opens most counts.
inline detail::Access HttpApi::access_by_head(const detail::HttpRequest& request,
                                              const detail::Secrets& secrets) {
    if (secrets.all.empty()) return detail::Access::all;
    detail::Access access = secrets.access_of(request.field("x-pd-secret").value_or(""));
    const std::string_view authorization = request.field("Authorization").value_or("");
    constexpr std::string_view bearer = "Bearer ";
    if (detail::equal_ignoring_case(authorization.substr(0, bearer.size()), bearer)) {
        access = std::max(access, secrets.access_of(authorization.substr(bearer.size())));
    }
    const bool reads = request.method == "GET" || request.method == "HEAD";
    if (!reads || request.path() != "/sse") return access;
    return std::max(access, secrets.access_of(request.param("secret").value_or("")));
}

// Of the objects in its body, the one whose secret opens least counts.
inline detail::Access HttpApi::access_by_body(const detail::HttpRequest& request,
                                              const detail::Secrets& secrets) {
    bool is_empty = true;
    detail::Access least = detail::Access::all;
    const bool valid = detail::for_each_element(request.body, [&](std::string_view object) {
        const auto secret = detail::member_of(object, "secret");
        least = std::min(least, secrets.access_of(secret.value_or("")));
        is_empty = false;
    });
    return valid && !is_empty ? least : detail::Access::none;
}

// A web page must not drive a scheduler that its visitor can reach: neither by a
// request of its own nor by a name that it has pointed here (DNS rebinding).
inline bool HttpApi::from_allowed_origin(Call& call) const {
    const auto host = call.request.field("Host");
    const bool checks_host = shared_->options.check_host ||
                             (call.request.is_by_loopback && shared_->secrets()->all.empty());
    if (checks_host && host && !is_allowed_host(*host)) {
        call.answer.refusal = detail::Refusal::host;
        refuse(call, 403,
               "The Host field names neither this machine's loopback nor an allowed "
               "host; see --allowed-host.");
        return false;
    }
    const auto origin = call.request.field("Origin");
    if (!origin) return true;
    if (is_listed_origin(call.request)) return true;
    const std::size_t scheme = origin->find("://");
    const bool own = scheme != std::string::npos && host && !host->empty() &&
                     detail::equal_ignoring_case(origin->substr(scheme + 3), *host);
    if (!own) refuse(call, 403, "Pages of this origin may not use this server; see --cors-origin.");
    return own;
}

inline bool HttpApi::is_listed_origin(const detail::HttpRequest& request) const {
    const auto& listed = shared_->options.cors_origins;
    const auto origin = request.field("Origin");
    return origin && std::find(listed.begin(), listed.end(), *origin) != listed.end();
}

inline bool HttpApi::is_allowed_host(std::string_view host) const {
    const std::string_view name = detail::host_without_port(host);
    if (detail::is_loopback_name(name)) return true;
    return std::any_of(shared_->options.allowed_hosts.begin(), shared_->options.allowed_hosts.end(),
                       [&](const std::string& allowed) {
                           return detail::equal_ignoring_case(allowed, name) ||
                                  detail::equal_ignoring_case(allowed, host);
                       });
}

// Where the schedulers are, for who is elsewhere.
inline std::string HttpApi::directions() const {
    std::string places;
    for (const auto& [prefix, api] : members_) places += (places.empty() ? "" : ", ") + prefix;
    return places.empty() ? "." : "; there are schedulers behind " + places + ".";
}

inline void HttpApi::preflight(Call& call, const std::string& allow) const {
    call.answer.status = 204;
    call.answer.field("Allow", allow + ", OPTIONS");
    if (!is_listed_origin(call.request)) return;
    call.answer.field("Access-Control-Allow-Methods", allow);
    std::string headers = "Authorization, Content-Type, x-pd-secret";
    for (const Route& route : routes_) {
        for (const auto& param : route.operation.params) {
            if (param.in == "header") headers.append(", ").append(param.what.name);
        }
    }
    call.answer.field("Access-Control-Allow-Headers", headers);
    call.answer.field("Access-Control-Max-Age", "600");
}

inline int HttpApi::status_of(Errc code) {
    switch (code) {
        case Errc::invalid_argument:
            return 400;
        case Errc::unknown_task:
        case Errc::unknown_sink:
            return 404;
        case Errc::sink_listed:
        case Errc::already_emitted:
            return 409;
        case Errc::condition_failed:
            return 412;
        case Errc::key_reused:
            return 422;
        case Errc::task_limit:
        case Errc::disk_full:
            return 507;
        case Errc::journal_failed:
        case Errc::outcome_unknown:  // which is not answered, see guard()
        case Errc::journal_busy:
        case Errc::journal_unreadable:
        case Errc::clock_untrusted:
        case Errc::not_owner:
        case Errc::stopped:
        case Errc::unreachable:
            return 503;
        case Errc::refused:
            return 400;
    }
    return 500;
}

// ---- Changes of tasks and events

inline void HttpApi::post_schedule(Call& call) {
    if (call.request.body.size() > large() && leave_to_worker(call)) return;
    std::vector<std::string> errors;
    std::vector<TaskRequest> requests;
    const bool many = detail::JsonReader(call.request.body).enter_array();
    read_requests(call, many, requests, errors);
    const std::string key = idempotency_key(call, errors);
    if (!errors.empty()) return answer(call, 400, detail::errors_json(errors));
    if (many && requests.size() == 1 && !key.empty()) {  // not the same as the task alone
        TaskRequest& only = requests.front();
        only.identity = '[' + (only.identity.empty() ? only.payload : only.identity);
    }
    for (TaskRequest& request : requests) set_trace(call, request);
    call.answer.ticket = call.made(scheduler().submit(requests, key));
    const Ticket& scheduled = *call.answer.ticket;
    if (scheduled.repeats()) call.answer.field("Idempotent-Replayed", "true");
    detail::Json json;
    json.text.reserve(many ? 64 + 39 * scheduled.ids().size() : 127);
    json.object();
    if (many) {
        const std::string count = std::to_string(scheduled.ids().size());
        json.add("message", detail::concat({"Scheduled ", count, " tasks"}))
            .add("ids", scheduled.ids());
    } else {
        const std::string id = scheduled.ids().front().str();
        json.add("message", "Scheduled task at " + scheduled.timestamp()).add("id", id);
        call.answer.fields.reserve(2);
        call.answer.field("Location", detail::concat({call.request.prefix, "/tasks/", id}));
    }
    answer(call, 200, std::move(json.text));
}

inline void HttpApi::read_requests(const Call& call, bool many, std::vector<TaskRequest>& requests,
                                   std::vector<std::string>& errors) {
    constexpr std::size_t most_errors = 100;
    const TimePoint now = scheduler().now();
    if (!many) {
        requests.push_back(TaskRequest::parse(call.request.body, now));
        errors = requests.front().errors;
        return;
    }
    std::size_t index = 0;
    const bool valid = detail::for_each_element(call.request.body, [&](std::string_view text) {
        const std::string place = detail::concat({"[", index++, "]: "});
        if (index > max_batch || errors.size() >= most_errors) return;
        requests.push_back(TaskRequest::parse(text, now));
        for (const std::string& error : requests.back().errors) errors.push_back(place + error);
    });
    if (!valid) {
        requests = {TaskRequest::parse(call.request.body, now)};
        errors = requests.front().errors;
    } else if (index == 0 || index > max_batch) {
        errors.push_back(detail::concat({"An array must hold from 1 to ", max_batch, " tasks."}));
    }
}

// The request's place in a trace, which is malformed if it is given twice.  Several fields of
// `tracestate` are one.
inline void HttpApi::set_trace(const Call& call, TaskRequest& request) {
    std::string_view parent;
    std::string state;
    for (const auto& [name, value] : call.request.fields) {
        if (detail::equal_ignoring_case(name, "traceparent")) {
            if (!parent.empty()) return;
            parent = value;
        } else if (detail::equal_ignoring_case(name, "tracestate")) {
            if (!state.empty()) state += ',';
            state += value;
        }
    }
    if (!parent.empty()) request.set_trace(parent, state);
}

inline std::string HttpApi::idempotency_key(const Call& call, std::vector<std::string>& errors) {
    const auto field = call.request.field("Idempotency-Key");
    if (!field) return "";
    const bool printable = std::all_of(field->begin(), field->end(),
                                       [](unsigned char c) { return c >= 0x20 && c < 0x7F; });
    if (field->empty() || field->size() > 255 || !printable) {
        errors.push_back("Idempotency-Key must be from 1 to 255 printable ASCII characters.");
    }
    return std::string(*field);
}

// A change that met another one of the same task has to be made again when that has ended.
template <class Begin>
std::optional<Ticket> HttpApi::begin_change(Call& call, Begin begin) {
    for (;;) {
        Ticket ticket = begin();
        if (!ticket.again()) return call.made(std::move(ticket));
        if (leave_to_worker(call)) return std::nullopt;
        ticket.wait();
    }
}

// Calls fn with the id or the name of a task that a text says.  False: it can be neither.
template <class Fn>
bool HttpApi::with_key(const std::string& text, Fn fn) {
    if (const auto id = TaskId::parse(text)) {
        fn(*id);
    } else if (is_task_name(text)) {
        fn(std::string_view(text));
    } else {
        return false;
    }
    return true;
}

inline PutIf HttpApi::put_condition(const Call& call, std::vector<std::string>& errors) {
    const auto absent = call.request.field("If-None-Match");
    const auto present = call.request.field("If-Match");
    if (absent && present) errors.push_back("Give If-None-Match or If-Match, not both.");
    if (absent.value_or("*") != "*") errors.push_back("If-None-Match can only be *.");
    if (present.value_or("*") != "*") errors.push_back("If-Match can only be *.");
    return absent ? PutIf::absent : present ? PutIf::present : PutIf::any;
}

inline void HttpApi::put_task(Call& call) {
    if (call.request.body.size() > large() && leave_to_worker(call)) return;
    TaskRequest request = TaskRequest::parse(call.request.body, scheduler().now());
    std::vector<std::string> errors = request.errors;
    if (!is_task_name(call.id)) errors.push_back(detail::name_rule);
    const PutIf condition = put_condition(call, errors);
    if (call.request.field("Idempotency-Key")) {
        errors.push_back("Idempotency-Key is for POST /schedule; a PUT is known by its name.");
    }
    if (!errors.empty()) return answer(call, 400, detail::errors_json(errors));
    set_trace(call, request);
    call.answer.ticket =
        begin_change(call, [&] { return scheduler().begin_put(call.id, request, condition); });
    if (!call.answer.ticket) return;
    const Ticket& put = *call.answer.ticket;
    const std::string id = put.ids().front().str();
    detail::Json json;
    json.object().add("message", "Scheduled task at " + put.timestamp());
    json.add("id", id).add("name", call.id);
    call.answer.fields.reserve(2);
    call.answer.field("Location", detail::concat({call.request.prefix, "/tasks/", id}));
    answer(call, put.creates() ? 201 : 200, std::move(json.text));
}

inline void HttpApi::patch_task(Call& call) {
    const TaskRequest change = TaskRequest::parse_change(call.request.body, scheduler().now());
    if (!change.errors.empty()) return answer(call, 400, detail::errors_json(change.errors));
    const bool may_be = with_key(call.id, [&](auto key) {
        call.answer.ticket =
            begin_change(call, [&] { return scheduler().begin_change(key, change); });
    });
    if (!may_be) return refuse_task(call, call.id);
    if (!call.answer.ticket) return;
    answer(call, 200, to_json(call.answer.ticket->task()));
}

// What deletes takes a range, or says that it means everything: leaving out, or
// misspelling, a bound must not.
inline std::vector<std::string> HttpApi::range_errors(const Call& call,
                                                      const std::vector<std::string_view>& bounds) {
    const auto all = call.request.param("all");
    const bool bounded = std::any_of(bounds.begin(), bounds.end(), [&](std::string_view name) {
        return call.request.param(name).has_value();
    });
    const std::string names = detail::quoted_list(bounds);
    if (all && *all != "true") return {"\"all\" can only be true."};
    if (all && bounded) return {detail::concat({"Give \"all\" or any of ", names, ", not both."})};
    if (all || bounded) return {};
    return {
        detail::concat({"Say which, by one or more of ", names, "; or all=true, for everything."})};
}

inline void HttpApi::delete_tasks(Call& call) {
    if (leave_to_worker(call)) return;
    std::vector<std::string> errors = range_errors(call, {"due_after", "due_before", "topic", "q"});
    DueRange range;
    range.after = time_of(call, "due_after", errors);
    range.before = time_of(call, "due_before", errors);
    const Filter filter = filter_of(call, errors);
    if (!errors.empty()) return answer(call, 400, detail::errors_json(errors));
    answer_with(call, "cancelled", call.made(scheduler().cancel(range, filter)));
}

inline void HttpApi::delete_events(Call& call) {
    if (leave_to_worker(call)) return;
    const std::vector<std::string> errors = range_errors(call, {"start_id", "end_id"});
    if (!errors.empty()) return answer(call, 400, detail::errors_json(errors));
    EventRange range{Cursor::earliest(), scheduler().newest()};
    for (const char* name : {"start_id", "end_id"}) {
        const auto text = call.request.param(name);
        if (!text) continue;
        const auto id = TaskId::parse(*text);
        const auto cursor = id ? scheduler().cursor_of(*id) : std::nullopt;
        if (!cursor) return refuse_event(call, *text);
        if (name[0] == 's') {
            range.begin = *cursor;
        } else {
            range.end = Cursor(cursor->seq() + 1);
        }
    }
    const std::size_t deleted = range.begin < range.end ? call.made(scheduler().forget(range)) : 0;
    answer_with(call, "deleted", deleted);
}

inline void HttpApi::post_cancel(Call& call) {
    detail::JsonReader reader(call.request.body);
    std::string_view value;
    if (!reader.value(value) || !reader.finish()) {
        return refuse(call, 400,
                      detail::concat({"The body is not valid JSON: ", reader.problem(), "."}));
    }
    const auto id = detail::member_of(call.request.body, "id");
    if (!id) return refuse(call, 400, R"("id" is missing; give the task's id as a string.)");
    cancel(call, *id);
}

inline void HttpApi::delete_task(Call& call) {
    cancel(call, call.id);
}

inline void HttpApi::cancel(Call& call, const std::string& text) {
    const bool may_be = with_key(text, [&](auto key) {
        call.answer.ticket = begin_change(call, [&] { return scheduler().begin_cancel(key); });
    });
    if (!may_be) return refuse_task(call, text);
    if (!call.answer.ticket) return;
    const std::string id = call.answer.ticket->task().id.str();
    answer_with(call, "message", "Cancelled task " + id);
}

// ---- A task, and how the scheduler stands

inline void HttpApi::get_task(Call& call) {
    std::optional<TaskStory> story;
    with_key(call.id, [&](auto key) { story = scheduler().story(key); });
    if (!story) return refuse_task(call, call.id);
    answer(call, 200, to_json(*story));
}

// Reads a body that may be empty, and else is an object with no members but `secret` and those
// that are named.  Calls fn(value) for each of these; what else is wrong is in the errors.
template <class Fn>
std::vector<std::string> HttpApi::read_optional(const Call& call, std::string_view name, Fn fn) {
    std::vector<std::string> errors;
    std::set<std::string> seen;
    detail::JsonReader reader(call.request.body);
    std::string_view key;
    std::string_view value;
    if (call.request.body.empty()) return errors;
    const bool object = reader.enter_object();
    while (object && reader.next_member(key) && reader.value(value)) {
        const bool known = !name.empty() && detail::is_named(key, name);
        if (known) fn(value, errors);
        if (!known && !detail::is_named(key, "secret")) {
            errors.push_back(
                detail::concat({"The body may not have \"", detail::printable(key, 64), "\"."}));
        } else if (!seen.emplace(key).second) {
            errors.push_back(detail::concat({"\"", key, "\" is given more than once."}));
        }
    }
    if (!object) reader.value(value);
    if (!reader.finish())
        return {detail::concat({"The body is not valid JSON: ", reader.problem(), "."})};
    if (!object) return {"The body must be empty or an object."};
    return errors;
}

inline void HttpApi::post_pause(Call& call) {
    std::string reason;
    const auto take = [&reason](std::string_view value, std::vector<std::string>& errors) {
        const auto text = detail::read_string(value);
        reason = text.value_or("");
        const std::string problem = detail::reason_problem(reason);
        if (!text) errors.push_back("\"reason\" must be a string.");
        if (!problem.empty()) errors.push_back(problem);
    };
    const auto errors = read_optional(call, "reason", take);
    if (!errors.empty()) return answer(call, 400, detail::errors_json(errors));
    call.answer.ticket = call.made(scheduler().begin_pause(reason));
    answer(call, 200, R"({"message":"Paused"})");
}

inline void HttpApi::post_resume(Call& call) {
    const auto errors = read_optional(call, "", [](std::string_view, std::vector<std::string>&) {});
    if (!errors.empty()) return answer(call, 400, detail::errors_json(errors));
    call.answer.ticket = call.made(scheduler().begin_resume());
    answer(call, 200, R"({"message":"Resumed"})");
}

// Where a commit is under way, the copy begins behind it: another thread waits for that.
inline void HttpApi::get_backup(Call& call) {
    if (leave_to_worker(call)) return;
    detail::Share share(shared_->backups, 1);
    if (shared_->backups > detail::Transfer::most) {
        call.answer.refusal = detail::Refusal::answers;
        return refuse(call, 503, "Too many copies of the journal are on their way; try later.");
    }
    auto snapshot = scheduler().snapshot();
    if (!snapshot) {
        return refuse(call, 404,
                      "There is no file to copy: the tasks are not kept in one; GET /tasks lists "
                      "what is pending.");
    }
    call.answer.transfer =
        std::make_unique<detail::Transfer>(detail::Transfer{std::move(snapshot), std::move(share)});
    call.answer.type = "application/jsonl";
    call.answer.field("Cache-Control", "no-store");
}

inline detail::NamedLimits HttpApi::limits() const {
    detail::NamedLimits limits = detail::limits_of(scheduler().options());
    limits.insert(limits.end(), {{"body", shared_->options.max_body},
                                 {"bodies", shared_->options.max_bodies},
                                 {"answers", shared_->options.max_answers},
                                 {"connections", shared_->options.max_connections},
                                 {"streams", shared_->options.max_streams},
                                 {"stream_pages", shared_->options.max_stream_pages}});
    return limits;
}

inline void HttpApi::get_status(Call& call) {
    detail::Json json = detail::status_json(scheduler(), limits());
    detail::Json streams;
    streams.object().add("open", shared_->streams.load());
    streams.add("limit", std::size_t{shared_->options.max_streams});
    const bool reads = access_by_head(call.request, *shared_->secrets()) == detail::Access::read;
    json.add("streams", streams).add("access", reads ? "read" : "all");
    answer(call, 200, std::move(json.text));
}

inline void HttpApi::get_healthz(Call& call) {
    answer(call, 200, R"({"status":"ok"})");
}

// Why not all that is served here is ready, a sentence each, behind its prefix where it has one.
inline std::vector<std::string> HttpApi::unready() const {
    std::vector<std::string> reasons;
    for (const auto& [prefix, api] : members_) {
        for (const std::string& reason : api->unready()) {
            reasons.push_back(detail::concat({prefix, ": ", reason}));
        }
    }
    if (!members_.empty()) return reasons;
    if (!is_serving()) return {opening_error};
    return detail::unready(scheduler().stats(), scheduler().cluster(), scheduler().is_owner());
}

inline void HttpApi::get_readyz(Call& call) {
    call.answer.refusal = detail::Refusal::none;  // it is the answer
    const std::vector<std::string> reasons = unready();
    if (!reasons.empty()) return answer(call, 503, detail::errors_json(reasons));
    detail::Json json;
    json.object().add("status", "ready");
    if (is_serving()) {
        json.add("damaged_lines", scheduler().stats().damaged_lines);
        json.add("paused", scheduler().paused());
    }
    answer(call, 200, detail::json_of(json));
}

inline void HttpApi::get_openapi(Call& call) {
    std::vector<const detail::Operation*> operations;
    for (const Route& route : routes_) operations.push_back(&route.operation);
    answer(call, 200, detail::openapi_text(operations, call.request.prefix));
}

// The document says itself which scripts and styles it has; no header of ours could know the
// digests of an embedder's.  What follows cannot be said there.
inline void HttpApi::get_page(Call& call) {
    if (!call.request.prefix.empty() &&
        detail::target_behind_prefix(call.request).substr(0, 1) != "/") {
        call.answer.status = 308;
        return call.answer.field("Location", detail::concat({call.request.prefix, "/"}));
    }
    call.answer.field("Cache-Control", "no-cache");
    call.answer.field("Content-Security-Policy",
                      "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
                      "object-src 'none'");
    call.answer.field("Cross-Origin-Opener-Policy", "same-origin");
    call.answer.field("Referrer-Policy", "no-referrer");
    call.answer.field("X-Content-Type-Options", "nosniff");
    call.answer.field("ETag", shared_->page_tag);
    call.answer.type = "text/html; charset=utf-8";
    const std::string_view known = call.request.field("If-None-Match").value_or("");
    if (known.find(shared_->page_tag) == std::string_view::npos) {
        call.answer.body = shared_->options.page;
    } else {
        call.answer.status = 304;
        call.answer.has_length = false;
    }
}

// To count descriptors takes a while where there are many.
inline void HttpApi::get_metrics(Call& call) {
    if (leave_to_worker(call)) return;
    detail::MetricsText text;
    detail::append_scheduler(text, scheduler().overview(), scheduler().options());
    detail::append_sinks(text, scheduler().sinks());
    if (const auto cluster = scheduler().cluster()) {
        detail::append_cluster(text, *cluster, scheduler().is_owner());
    }
    if (forwarder_) forwarder_->append_metrics(text);
    text.gauge("task_scheduler_streams", "Event streams that are open.", shared_->streams);
    text.gauge("task_scheduler_streams_max", "How many event streams may be open.",
               shared_->options.max_streams);
    text.gauge("task_scheduler_connections", "Connections that are open, but for event streams.",
               shared_->connections);
    text.gauge("task_scheduler_connections_max", "How many connections may be open.",
               shared_->options.max_connections);
    text.head("task_scheduler_limit", "gauge",
              "The limits that GET /status tells; 0: there is none.");
    for (const auto& [name, limit] : limits()) {
        text.sample("task_scheduler_limit", {{"of", name}}, limit);
    }
    shared_->refusals.append(text);
    call.answer.type = "text/plain; version=0.0.4; charset=utf-8";
    shared_->tls.append_metrics(text);
    call.answer.body = text.take();
}

// ---- Pages

// A number from 1 to `most`; 100 where there is none.
inline std::size_t HttpApi::number_of(const Call& call, const char* name, std::size_t most,
                                      std::vector<std::string>& errors) {
    const auto text = call.request.param(name);
    if (!text) return 100;
    const bool digits = !text->empty() && text->size() <= 4 &&
                        text->find_first_not_of("0123456789") == std::string::npos;
    const std::size_t number = digits ? std::strtoul(text->c_str(), nullptr, 10) : 0;
    if (number < 1 || number > most) {
        errors.push_back(detail::concat({"\"", name, "\" must be a number from 1 to ", most, "."}));
    }
    return number;
}

inline std::optional<TimePoint> HttpApi::time_of(const Call& call, const char* name,
                                                 std::vector<std::string>& errors) {
    const auto text = call.request.param(name);
    if (!text) return std::nullopt;
    const auto time = parse_time(*text);
    if (!time) {
        errors.push_back(
            detail::concat({"\"", name,
                            "\" must be an ISO 8601 time such as "
                            "2026-08-21T04:29:00.951Z (a + is written as %2B here)."}));
    }
    return time;
}

// Payloads hold UTF-8 and no control characters, so a text that is anything else is a mistake.
inline Filter HttpApi::filter_of(const Call& call, std::vector<std::string>& errors) {
    constexpr std::size_t longest = 256;
    Filter filter;
    filter.topics = call.request.all_params("topic");
    const std::string problem = topics_problem(filter.topics);
    if (!problem.empty()) errors.push_back(problem);
    const auto text = call.request.param("q");
    if (!text) return filter;
    const bool has_controls = std::any_of(text->begin(), text->end(), [](char c) {
        return static_cast<unsigned char>(c) < 0x20 || c == 0x7F;
    });
    if (text->empty() || text->size() > longest || has_controls ||
        !json_problem(quote_json(*text)).empty()) {
        errors.push_back("\"q\" must be from 1 to 256 bytes of UTF-8 without control characters.");
    }
    filter.text = *text;
    return filter;
}

inline void HttpApi::get_tasks(Call& call) {
    std::vector<std::string> errors;
    TaskQuery query;
    query.limit = limit_of(call, errors);
    query.due.after = time_of(call, "due_after", errors);
    query.due.before = time_of(call, "due_before", errors);
    query.filter = filter_of(call, errors);
    if (const auto status = call.request.param("status")) {
        if (*status == "missed") query.status = Status::missed;
        if (*status != "missed" && *status != "pending") {
            errors.push_back(
                R"("status" must be pending or missed; GET /events lists what was emitted.)");
        }
    }
    if (const auto after = call.request.param("after")) {
        query.after = detail::parse_cursor(*after);
        if (!query.after) errors.push_back("\"after\" must be the end_cursor of a page.");
    }
    if (!errors.empty()) return answer(call, 400, detail::errors_json(errors));
    query.counts = true;
    query.max_bytes = page_bytes();
    const bool is_quick = query.filter.is_open() && query.status == Status::pending;
    if (!is_quick && leave_to_worker(call)) return;
    const TaskPage page = scheduler().tasks(query);
    if (!admit(call, detail::size_of(page.tasks))) return;
    detail::PageInfo info{page.total, {}, {}, true, page.matching};
    if (!page.tasks.empty()) {
        info.start = detail::cursor_of({page.tasks.front().due, page.tasks.front().id});
    }
    if (page.next) info.end = detail::cursor_of(*page.next);
    answer(call, 200, detail::page_json(info, page.tasks));
}

inline void HttpApi::get_histogram(Call& call) {
    std::vector<std::string> errors;
    DueRange range;
    range.after = time_of(call, "due_after", errors);
    range.before = time_of(call, "due_before", errors);
    const std::size_t buckets = number_of(call, "buckets", Histogram::max_buckets, errors);
    if (range.after && range.before && *range.after >= *range.before) {
        errors.push_back("\"due_after\" must be earlier than \"due_before\".");
    }
    if (!errors.empty()) return answer(call, 400, detail::errors_json(errors));
    answer(call, 200, detail::json_of(scheduler().histogram(range, buckets)));
}

inline void HttpApi::get_events(Call& call) {
    std::vector<std::string> errors;
    const std::size_t limit = limit_of(call, errors);
    const auto after = call.request.param("after");
    const auto before = call.request.param("before");
    EventQuery query;
    query.limit = limit;
    query.filter = filter_of(call, errors);
    query.counts = true;
    query.max_bytes = page_bytes();
    if (after && before) errors.push_back("Give \"after\" or \"before\", not both.");
    if (!errors.empty()) return answer(call, 400, detail::errors_json(errors));
    if (after || before) {
        const std::string& text = after ? *after : *before;
        const auto seq = seq_at(call, text);
        if (call.answer.waits_for_event) return;
        if (!seq) return refuse_event(call, text);
        if (after) query.from = Cursor(text == earliest ? *seq : *seq + 1);
        if (before) query.before = Cursor(*seq);
    } else {
        query.before = Cursor::now();
    }
    if (!query.filter.is_open() && leave_to_worker(call)) return;
    const EventPage page = scheduler().events(query);
    if (!admit(call, detail::size_of(page.events))) return;
    detail::PageInfo info{page.total, {}, {}, true, page.matching};
    if (page.first) info.start = page.first->str();
    if (page.last && page.more) info.end = page.last->str();
    answer(call, 200, detail::page_json(info, page.events));
}

// The seq of the event with this id; of the oldest one for "earliest".
inline std::optional<std::uint64_t> HttpApi::seq_at(const std::string& text) const {
    if (text == earliest) return scheduler().oldest().seq();
    const auto id = TaskId::parse(text);
    const auto cursor = id ? scheduler().cursor_of(*id) : std::nullopt;
    return cursor ? std::optional(cursor->seq()) : std::nullopt;
}

// The same for a request.  One that comes from another process, which is ahead of this one, is to
// be begun again when this one is as far, or when it has waited; or it waits, on its own thread.
inline std::optional<std::uint64_t> HttpApi::seq_at(Call& call, const std::string& text) {
    const auto id = TaskId::parse(text);
    const auto is_ahead = [&] { return id && scheduler().is_to_come(*id); };
    if (!call.request.has_waited && is_ahead()) {
        call.answer.waits_for_event = !call.may_block;
        if (!call.may_block) return std::nullopt;
        std::unique_lock<std::mutex> lock(mutex_);
        changed_.wait_for(lock, shared_->options.owner_timeout,
                          [&] { return stopping_ || !is_ahead(); });
    }
    const auto seq = seq_at(text);
    if (seq || !is_ahead()) return seq;
    // What cannot hear of it cannot say that it was never there.
    const auto cluster = scheduler().cluster();
    call.answer.is_silent = cluster && !cluster->is_connected;
    return seq;
}

inline void HttpApi::refuse_event(Call& call, const std::string& text) const {
    const EventPage oldest = scheduler().events({1});
    refuse(call, 404,
           detail::concat({"The history has no event ", detail::printable(text, 64),
                           (oldest.events.empty()
                                ? "; it is empty."
                                : "; the oldest is " + oldest.events.front().id.str() + ".")}));
}

// ---- Sinks

inline void HttpApi::get_sinks(Call& call) {
    answer_with(call, "data", scheduler().sinks());
}

inline void HttpApi::get_dead(Call& call) {
    std::vector<std::string> errors;
    const std::size_t limit = limit_of(call, errors);
    std::optional<TaskId> after;
    if (const auto text = call.request.param("after")) {
        after = TaskId::parse(*text);
        if (!after) errors.push_back("\"after\" must be the end_cursor of a page.");
    }
    if (!errors.empty()) return answer(call, 400, detail::errors_json(errors));
    const DeadPage page = scheduler().dead_letters(call.id, after, limit, page_bytes());
    if (!admit(call, detail::size_of(page.letters))) return;
    detail::PageInfo info{page.total, {}, {}};
    if (!page.letters.empty()) {
        info.start = page.letters.front().event.id.str();
        if (page.more) info.end = page.letters.back().event.id.str();
    }
    answer(call, 200, detail::page_json(info, page.letters));
}

// An empty body means all of them.
inline void HttpApi::post_redeliver(Call& call) {
    if (leave_to_worker(call)) return;
    std::optional<std::string> text;
    const auto errors =
        read_optional(call, "id", [&text](std::string_view value, std::vector<std::string>&) {
            text = detail::read_string(value).value_or("");
        });
    if (!errors.empty()) return answer(call, 400, detail::errors_json(errors));
    const auto id = text ? TaskId::parse(*text) : std::nullopt;
    if (text && !id) {
        return refuse(
            call, 404,
            detail::concat({"There is no dead letter ", detail::printable(*text, 64), "."}));
    }
    answer_with(call, "redelivering", call.made(scheduler().redeliver(call.id, id)));
}

inline void HttpApi::post_pause_sink(Call& call) {
    if (leave_to_worker(call)) return;
    scheduler().pause_sink(call.id);
    call.answer.is_begun = true;
    answer_sink(call);
}

inline void HttpApi::post_resume_sink(Call& call) {
    if (leave_to_worker(call)) return;
    scheduler().resume_sink(call.id);
    call.answer.is_begun = true;
    answer_sink(call);
}

inline void HttpApi::delete_sink(Call& call) {
    if (leave_to_worker(call)) return;
    scheduler().forget_sink(call.id);
    call.answer.is_begun = true;
    answer_with(call, "message", "Forgot sink " + call.id);
}

inline void HttpApi::answer_sink(Call& call) const {
    std::string json;
    for (const SinkStatus& sink : scheduler().sinks()) {
        if (sink.name == call.id) json = to_json(sink);
    }
    answer(call, 200, json);
}

// ---- Streams

inline void HttpApi::get_sse(Call& call) {
    const std::vector<std::string> topics = call.request.all_params("topic");
    const std::string problem = topics_problem(topics);
    if (!problem.empty()) return refuse(call, 400, problem);
    call.answer.type = "text/event-stream";
    call.answer.field("Cache-Control", "no-cache, no-transform");
    call.answer.field("X-Accel-Buffering", "no");
    call.answer.has_length = false;
    if (call.request.method == "HEAD") return;
    detail::StreamStart start = stream_start(call);
    if (call.answer.waits_for_event || call.answer.is_silent) return;
    start.topics = topics;
    if (++shared_->streams > shared_->options.max_streams) {
        --shared_->streams;
        call.answer.refusal = detail::Refusal::streams;
        call.answer.body = "retry: 30000\n\n";
        call.answer.closes = call.answer.has_length = true;
    } else {
        call.answer.stream = std::move(start);
    }
}

inline detail::StreamStart HttpApi::stream_start(Call& call) {
    std::string last(call.request.field("Last-Event-ID").value_or(""));
    // A polyfill adds its parameter to what its page has given, and knows better.
    for (const char* name : {"lastEventId", "lastEventID", "last_event_id"}) {
        if (last.empty()) last = call.request.param(name).value_or("");
    }
    detail::StreamStart start{"retry: 3000\n", scheduler().newest().seq()};
    if (!last.empty()) {
        const auto seq = seq_at(call, last);
        if (call.answer.waits_for_event || call.answer.is_silent) return start;
        start.seq = !seq ? scheduler().oldest().seq() : last == earliest ? *seq : *seq + 1;
        if (!seq) start.preamble += detail::gap_text(scheduler(), last);
    }
    start.preamble += detail::cursor_text(scheduler(), start.seq);
    return start;
}

// A stream on a foreign server, whose thread it keeps.
inline void HttpApi::stream_here(httplib::Response& response, detail::StreamStart start) {
    const auto state = std::make_shared<detail::StreamStart>(std::move(start));
    response.set_header("Connection", "close");  // which is what ends the stream
    response.set_content_provider(
        "text/event-stream",
        [this, state](std::size_t, httplib::DataSink& sink) {
            std::string text = std::exchange(state->preamble, {});
            if (text.empty()) text = next_text(*state);
            // The end: a failure, so that the connection ends with the stream.
            return !text.empty() && sink.write(text.data(), text.size());
        },
        [this, state](bool) { --shared_->streams; });
}

// Waits for what a stream is to say next; nothing: its end.
inline std::string HttpApi::next_text(detail::StreamStart& stream) {
    const auto end = std::chrono::steady_clock::now() + shared_->options.keep_alive;
    while (std::chrono::steady_clock::now() < end) {
        {
            std::unique_lock<std::mutex> lock(mutex_);
            const bool due = changed_.wait_until(lock, end, [this, &stream] {
                return stopping_ || scheduler().newest().seq() > stream.seq;
            });
            if (stopping_) return "";
            if (!due) break;
        }
        const detail::Frames frames = detail::make_frames(scheduler(), stream.seq);
        stream.seq = frames.lost ? frames.begin : frames.next;
        if (frames.lost) {
            return detail::gap_text(scheduler(), "") + detail::cursor_text(scheduler(), stream.seq);
        }
        std::string text = frames.text_of(stream.topics, stream.has_passed);
        // The events may have been forgotten meanwhile; an empty text would be the end.
        if (!text.empty()) return text;
    }
    if (!std::exchange(stream.has_passed, false)) return std::string(detail::keep_alive_comment);
    return detail::cursor_text(scheduler(), stream.seq);
}

// ---- 13.8 Listeners --------------------------------------------------------

/// An address that is taken, for an `HttpServer` that is made later.  Who connects
/// meanwhile waits, and is answered when it listens.
///
///     scheduler::HttpListener listener("127.0.0.1", 8080);  // before a journal is made
///     scheduler::Scheduler tasks(options);
///     scheduler::HttpServer server(tasks);
///     server.listen(std::move(listener));
class HttpListener {
public:
    /// Takes an address; port 0 takes a free one.  Blocks only while a name is looked up.
    /// Throws `std::runtime_error` if it cannot be had.
    HttpListener(const std::string& host, int port) { listen_on(host, port); }
    /// The same for an address as it is written: `127.0.0.1:8080`, `localhost:0`, `[::1]:8080`,
    /// `*:8080` for every address of this machine, or `unix:/path` for a socket in the file system.
    /// That belongs to this process's user and group
    /// and lets only them connect (mode 0660); it takes the place of one that nobody listens at any
    /// more, and is removed with the listener.  Throws also `Error` with `invalid_argument`, if the
    /// text is no address.
    explicit HttpListener(const std::string& address);
    /// Takes over a socket that listens already, as a service manager hands it over.  Others may
    /// have it as well: it is closed here at the end, but not ended.  Throws `std::runtime_error`
    /// if it is no such socket, which is then still the caller's.
    static HttpListener adopt(int fd);
    /// Takes over the socket of another one, which has none then.
    HttpListener(HttpListener&& other) noexcept;
    HttpListener& operator=(HttpListener&&) = delete;
    ~HttpListener();

    /// Whether it has one, which it gives away when it is moved from.
    bool has_address() const { return fd_ >= 0; }
    /// The port that it has; 0: it has none, see `is_unix()`.
    int port() const;
    /// The address, as it is written: with the port that it has, and the host that was given.
    std::string address() const;
    /// Whether only this machine can connect to it.
    bool is_loopback() const;
    /// Whether it is a socket in the file system, which no browser can connect to.
    bool is_unix() const { return at_.ss_family == AF_UNIX; }
    /// The socket, which stays the listener's.
    int fd() const { return fd_; }
    /// Lets nobody connect any more, unless the socket was adopted.
    void stop();
    /// Gives up the socket, which is the caller's to close, with its place in the file system.
    int release();

private:
    HttpListener() = default;
    void take(int fd);
    void listen_on(const std::string& host, int port);
    void listen_at(const std::string& path);
    static int open(const addrinfo& at, bool takes_all);
    static void remove_stale(const sockaddr_un& at, const std::string& refusal);

    int fd_ = -1;
    sockaddr_storage at_{};  // where the socket is
    bool is_adopted_ = false;
    std::string host_;     // as it was given
    std::string path_;     // of a socket that is removed at the end
    struct stat made_ {};  // what was found there when it was made
};

inline HttpListener::HttpListener(const std::string& address) {
    constexpr std::string_view unix_prefix = "unix:";
    if (address.compare(0, unix_prefix.size(), unix_prefix) == 0) {
        listen_at(address.substr(unix_prefix.size()));
        return;
    }
    const std::size_t colon = std::min(address.rfind(':'), address.size());
    std::string host = address.substr(0, colon);
    const std::string port = address.substr(std::min(colon + 1, address.size()));
    const bool is_v6 = detail::is_ipv6_in_brackets(host);
    const bool good_port = port.size() <= 5 && detail::read_digits(port).value_or(65'536) <= 65'535;
    if (host.empty() || !good_port || (host.find_first_of(":[]") != std::string::npos && !is_v6)) {
        detail::throw_as(
            Errc::invalid_argument,
            {"'", detail::printable(address, 128),
             "' is no address to listen on; give ADDRESS:PORT, [ADDRESS]:PORT for "
             "IPv6, *:PORT for all addresses, or unix:/PATH; a port is from 0 to 65535"});
    }
    if (is_v6) host = host.substr(1, host.size() - 2);
    listen_on(host, std::stoi(port));
}

inline HttpListener::HttpListener(HttpListener&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)),
      at_(other.at_),
      is_adopted_(other.is_adopted_),
      host_(std::move(other.host_)),
      path_(std::exchange(other.path_, {})),
      made_(other.made_) {}

// What another process has put there since is left alone.
inline HttpListener::~HttpListener() {
    struct stat found {};
    if (!path_.empty() && ::lstat(path_.c_str(), &found) == 0 && found.st_ino == made_.st_ino &&
        found.st_dev == made_.st_dev) {
        ::unlink(path_.c_str());
    }
    if (fd_ >= 0) ::close(fd_);
}

inline void HttpListener::listen_on(const std::string& host, int port) {
    if (port < 0 || port > 65'535) throw std::runtime_error("a port must be from 0 to 65535");
    addrinfo hints{};
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
    addrinfo* found = nullptr;
    const std::string where = detail::concat({host, " port ", port});
    const bool is_all = host == "*";
    if (is_all) {  // one of IPv6 takes IPv4 as well
        const detail::Descriptor probe(::socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
        hints.ai_family = probe.get() >= 0 ? AF_INET6 : AF_INET;
    }
    const int unknown = ::getaddrinfo(is_all ? nullptr : host.c_str(), std::to_string(port).c_str(),
                                      &hints, &found);
    if (unknown != 0) {
        throw std::runtime_error(
            detail::concat({"cannot listen on ", where, ": ", ::gai_strerror(unknown)}));
    }
    const std::unique_ptr<addrinfo, void (*)(addrinfo*)> addresses(found, ::freeaddrinfo);
    host_ = host;
    int fd = -1;
    int error = 0;
    for (const addrinfo* at = found; at && fd < 0; at = at->ai_next) {
        fd = open(*at, is_all);
        if (fd < 0) error = errno;
    }
    if (fd < 0) {
        throw std::runtime_error(detail::concat(
            {"cannot listen on ", where, ": ", std::generic_category().message(error)}));
    }
    take(fd);
}

inline void HttpListener::take(int fd) {
    socklen_t size = sizeof at_;
    ::getsockname(fd, reinterpret_cast<sockaddr*>(&at_), &size);
    fd_ = fd;
}

// It listens at once: what is only bound may be taken by another process, too.
inline int HttpListener::open(const addrinfo& at, bool takes_all) {
    const int fd =
        ::socket(at.ai_family, at.ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, at.ai_protocol);
    if (fd < 0) return -1;
    const int on = 1;  // accepted sockets inherit it
    ::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    const int off = 0;
    if (takes_all) ::setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
    if (::bind(fd, at.ai_addr, at.ai_addrlen) == 0 && ::listen(fd, 1'024) == 0) return fd;
    const int error = errno;
    ::close(fd);
    errno = error;
    return -1;
}

// Nobody can connect before listen(), so its mode is the right one from the first client on.
inline void HttpListener::listen_at(const std::string& path) {
    const std::string refusal = detail::concat(
        {"cannot listen on unix:", detail::printable(path, sizeof(sockaddr_un)), ": "});
    sockaddr_un at{};
    at.sun_family = AF_UNIX;
    if (path.empty() || path.front() != '/' || path.find('\0') != std::string::npos) {
        detail::throw_as(Errc::invalid_argument, {refusal, "the path must begin with a slash"});
    }
    if (path.size() >= sizeof at.sun_path) {
        detail::throw_as(Errc::invalid_argument,
                         {refusal, "the path has ", path.size(),
                          " bytes, and that of a socket may have ", sizeof at.sun_path - 1});
    }
    path.copy(at.sun_path, path.size());
    detail::Descriptor fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    const auto bind = [&] {
        return ::bind(fd.get(), reinterpret_cast<const sockaddr*>(&at), sizeof at) == 0;
    };
    bool is_bound = bind();
    if (!is_bound && errno == EADDRINUSE) {
        remove_stale(at, refusal);
        is_bound = bind();
    }
    if (!is_bound || ::chmod(at.sun_path, 0660) != 0 || ::lstat(at.sun_path, &made_) != 0 ||
        ::listen(fd.get(), 1'024) != 0) {
        const int error = errno;
        if (is_bound) ::unlink(at.sun_path);
        throw std::runtime_error(refusal + std::generic_category().message(error));
    }
    path_ = path;
    take(fd.release());
}

// Removes a socket that its process has left behind.
inline void HttpListener::remove_stale(const sockaddr_un& at, const std::string& refusal) {
    struct stat found {};
    if (::lstat(at.sun_path, &found) == 0 && !S_ISSOCK(found.st_mode)) {
        throw std::runtime_error(refusal + "there is a file of this name, which is no socket");
    }
    const detail::Descriptor probe(
        ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (::connect(probe.get(), reinterpret_cast<const sockaddr*>(&at), sizeof at) == 0 ||
        errno == EAGAIN) {
        throw std::runtime_error(refusal + "another process listens there");
    }
    if (errno == ECONNREFUSED) ::unlink(at.sun_path);
}

inline HttpListener HttpListener::adopt(int fd) {
    const auto option = [fd](int name) {
        int value = -1;
        socklen_t size = sizeof value;
        return ::getsockopt(fd, SOL_SOCKET, name, &value, &size) == 0 ? value : -1;
    };
    const int domain = option(SO_DOMAIN);
    const bool is_inet = domain == AF_INET || domain == AF_INET6;
    if (option(SO_TYPE) != SOCK_STREAM || option(SO_ACCEPTCONN) != 1 ||
        !(is_inet || domain == AF_UNIX)) {
        throw std::runtime_error(
            detail::concat({"the descriptor ", fd, " is no stream socket that listens"}));
    }
    const int on = 1;
    if (is_inet) ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    ::fcntl(fd, F_SETFD, FD_CLOEXEC);
    ::fcntl(fd, F_SETFL, ::fcntl(fd, F_GETFL) | O_NONBLOCK);
    HttpListener listener;
    listener.take(fd);
    listener.is_adopted_ = true;
    return listener;
}

inline int HttpListener::port() const {
    if (at_.ss_family == AF_UNIX) return 0;
    return ntohs(reinterpret_cast<const sockaddr_in*>(&at_)->sin_port);  // or IPv6's, at that place
}

inline std::string HttpListener::address() const {
    if (at_.ss_family == AF_UNIX) {
        const char* const path = reinterpret_cast<const sockaddr_un*>(&at_)->sun_path;
        return std::string("unix:") + (*path ? path : "");
    }
    return detail::internet_address(reinterpret_cast<const sockaddr*>(&at_), host_);
}

inline bool HttpListener::is_loopback() const {
    if (at_.ss_family == AF_UNIX) return true;
    return at_.ss_family == AF_INET6
               ? detail::is_loopback(reinterpret_cast<const sockaddr_in6*>(&at_)->sin6_addr)
               : detail::is_loopback(reinterpret_cast<const sockaddr_in*>(&at_)->sin_addr);
}

// A child that is just being started may still have a copy of the socket.
inline void HttpListener::stop() {
    if (fd_ >= 0 && !is_adopted_) ::shutdown(fd_, SHUT_RDWR);
}

inline int HttpListener::release() {
    path_.clear();
    return std::exchange(fd_, -1);
}

// ---- 13.9 The server -------------------------------------------------------

namespace detail {

// Bytes that go out to a client: texts gathered for one call, and behind them perhaps a large
// one, which is not copied.
class OutBuffer {
public:
    explicit OutBuffer(std::size_t large) : most_(large) {}

    bool empty() const { return sent_ == text_.size() + large_.size(); }
    // Whether it takes more before it has been sent.
    bool is_full() const { return !large_.empty() || text_.size() > most_; }
    // Puts an answer behind what is there: all of it or, when memory fails, nothing.
    void append(const std::string& head, std::string&& body);
    // Sends what the socket takes, by the session if there is one.  False: the connection has
    // failed.
    bool send(int fd, TlsSession* tls);
    // What has not been sent, taken out.
    std::string take() { return std::exchange(text_, {}).substr(std::exchange(sent_, 0)); }

private:
    const std::size_t most_;  // of a text
    std::string text_;
    std::string large_;
    std::size_t sent_ = 0;  // of both
};

inline void OutBuffer::append(const std::string& head, std::string&& body) {
    const bool is_large = body.size() > most_;
    text_.reserve(text_.size() + head.size() + (is_large ? 0 : body.size()));
    text_ += head;
    if (is_large) {
        large_ = std::move(body);
    } else {
        text_ += body;
    }
}

inline bool OutBuffer::send(int fd, TlsSession* tls) {
    if (tls && !tls->flush()) return errno == EAGAIN;
    while (!empty()) {
        std::string_view part = text_;
        std::size_t from = sent_;
        int flags = MSG_NOSIGNAL | MSG_DONTWAIT;
        if (sent_ < text_.size() && !large_.empty()) flags |= MSG_MORE;
        if (sent_ >= text_.size()) {
            part = large_;
            from -= text_.size();
        }
        part.remove_prefix(from);
        const ssize_t n = tls ? tls->send(part) : ::send(fd, part.data(), part.size(), flags);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return errno == EAGAIN;
        sent_ += static_cast<std::size_t>(n);
    }
    sent_ = 0;
    text_.clear();
    if (text_.capacity() > most_) text_.shrink_to_fit();
    release_text(large_);
    return true;
}

// The time as HTTP writes it (RFC 9110, 5.6.7).
inline std::string http_date(TimePoint time) {
    constexpr const char* days[] = {"Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"};
    constexpr const char* months[] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                      "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
    const std::int64_t day = day_of(time);
    const Date date = date_from_days(day);
    const std::string iso = format_time(time);  // 1970-01-01T00:00:00.000Z
    const std::string_view text = iso;
    std::string out = days[(day % 7 + 7) % 7];
    out.append(", ").append(text.substr(8, 2)).append(" ").append(months[date.month - 1]);
    out.append(" ").append(text.substr(0, 4)).append(" ").append(text.substr(11, 8));
    return out + " GMT";
}

// Writes the head of an answer as it goes out, in place of what `text` holds.
inline void write_head(std::string& text, const HttpAnswer& answer, std::string_view date,
                       bool is_last, bool is_old) {
    text.clear();
    const auto field = [&text](std::string_view name, std::string_view value) {
        text.append(name).append(": ").append(value).append("\r\n");
    };
    text.append("HTTP/1.1 ").append(std::to_string(answer.status)) += ' ';
    text.append(status_line(answer.status).reason).append("\r\n");
    field("Date", date);
    for (const auto& [name, value] : answer.fields) field(name, value);
    if (answer.status != 204) field("Content-Type", answer.type);
    if (answer.has_length && answer.status != 204) {
        const auto size = answer.transfer ? answer.transfer->snapshot->size() : answer.body.size();
        field("Content-Length", std::to_string(size));
    }
    if (is_last) field("Connection", "close");
    if (!is_last && is_old) field("Connection", "keep-alive");
    text += "\r\n";
}

// Who is at the other end of a connection, for the log.
struct Peer {
    sockaddr_in6 at{};  // or one of IPv4; of a socket in the file system nothing but that it is one

    sockaddr* address() { return reinterpret_cast<sockaddr*>(&at); }
    std::string text() const {
        const std::string text = internet_address(reinterpret_cast<const sockaddr*>(&at));
        return text.empty() ? "a local client" : text;
    }
};

struct Site;

// A connection of an HttpServer.
//
//                     +------------------- the answer is sent ------------------+
//                     v                                                         |
//    accepted -> `reading` -- a whole request -> `storing` or `waiting` -> `writing`
//                  |  |                         answered by ticket or worker    |
//                  |  +--------- answered at once -----------------------> `writing`
//                  v                                                            v
//    `closed` <- end, error, deadline                    the last one: `lingering` -> `closed`
//
// In `storing`, further requests to schedule are begun; in all other states one request is
// answered before the next is looked at.
struct Connection {
    enum class State {
        reading,    // for a request, or for more of one
        storing,    // its requests to schedule are begun, and wait for their tickets
        waiting,    // its request waits for its ticket, or for the worker
        writing,    // its answers go out
        lingering,  // its last answer is sent; what still comes is thrown away, so that no
                    // reset takes the answer from the client
        closed      // forgotten when no exchange of it is on its way
    };
    enum class Wait { nothing, idle, request, write, linger, event };

    Connection(Site& its_site, std::size_t max_body, std::size_t large_answer)
        : site(&its_site), reader(MessageReader::Kind::requests, max_body), out(large_answer) {}

    Site* site;  // whose all requests are that are begun
    Descriptor socket;
    Peer peer;
    std::unique_ptr<TlsSession> tls;  // null: without
    MessageReader reader;
    OutBuffer out;
    Share large;  // of the limit of answers, until `out` is sent
    std::unique_ptr<Transfer> transfer;  // what its answer goes on with
    State state = State::reading;
    bool may_read = true;      // there may be bytes that were not received
    bool has_ended = false;    // the client sends no more
    bool has_request = false;  // one is whole in the reader, and not begun
    bool is_last = false;      // nothing is read after the answer that is begun
    bool is_ready = false;     // it is in HttpServer::ready_
    bool is_by_loopback = false;  // it was accepted at an address of the loopback
    int receives = 0;          // in this round
    std::size_t begun = 0;     // its exchanges that are on their way
    std::size_t counted = 0;   // bytes of its reader that are counted for all
    Wait wait = Wait::nothing;
    SteadyTime deadline;                                     // of what it waits for
    SteadyTime gives_up;                                     // of an event that it waits for
    std::multimap<SteadyTime, Connection*>::iterator timer;  // not later than that
    std::list<Connection>::iterator self;

    // Whether it cannot speak before hands are shaken.
    bool shakes_hands() const { return tls && !tls->is_established(); }
};

// A thread, and the exchanges that it takes care of, in order.  There is none until there are some.
class Lane {
public:
    explicit Lane(std::function<void(Exchanges&)> work) : work_(std::move(work)) {}
    ~Lane() { stop(); }
    // Takes the exchanges over.  Cannot fail.  Any thread, which does the work itself where there
    // cannot be a thread for it.
    void push(Exchanges& exchanges);
    // Ends the thread when it has done what was pushed.
    void stop();

private:
    void run();

    const std::function<void(Exchanges&)> work_;
    std::mutex mutex_;
    std::condition_variable changed_;
    Exchanges queue_;        // guarded by mutex_
    bool stopping_ = false;  // guarded by mutex_
    std::thread thread_;     // guarded by mutex_, but for its end
};

inline void Lane::push(Exchanges& exchanges) {
    try {
        const std::lock_guard<std::mutex> guard(mutex_);
        if (!exchanges.empty() && !thread_.joinable()) thread_ = std::thread([this] { run(); });
        queue_.splice(queue_.end(), exchanges);
    } catch (const std::exception&) {
        return work_(exchanges);
    }
    changed_.notify_one();
}

inline void Lane::stop() {
    if (!thread_.joinable()) return;
    {
        const std::lock_guard<std::mutex> guard(mutex_);
        stopping_ = true;
    }
    changed_.notify_one();
    thread_.join();
}

inline void Lane::run() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
        changed_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
        if (queue_.empty()) return;
        Exchanges taken;
        taken.swap(queue_);
        lock.unlock();
        work_(taken);
        lock.lock();
    }
}

// A scheduler of an HttpServer, with what is its alone.
struct Site {
    using Work = std::function<void(Exchanges&)>;

    template <class... Of>
    Site(std::string paths, Work commit, Work work, Of&&... of)
        : prefix(std::move(paths)),
          api(std::forward<Of>(of)...),
          committer(std::move(commit)),
          worker(std::move(work)) {}

    const std::string prefix;  // of its paths
    HttpApi api;
    std::optional<StreamWriters> streams;  // made before the API has its scheduler
    std::size_t companion = 0;
    Exchanges begun;                                   // in this round of the loop
    std::atomic<SteadyTime> wary_until{SteadyTime()};  // after a slow write, see store_here()
    Lane committer;
    Lane worker;
};

}  // namespace detail

/// A hardened HTTP server for a scheduler, or for several behind prefixes.
///
///     scheduler::HttpServer server(tasks);
///     const int port = server.listen("127.0.0.1", 8080);
///
/// It has a few threads, however many clients there are and whatever they do, and sleeps when
/// there is nothing to do.  The scheduler must outlive it.
class HttpServer {
public:
    /// A server of a scheduler, which must outlive it.
    explicit HttpServer(Scheduler& scheduler, HttpOptions options = {})
        : HttpServer(std::move(options)) {
        serve(scheduler);
    }
    /// One that has no scheduler until serve() is called, so that it can listen while a large
    /// journal is opened: until then it answers `/healthz` and the page, event streams wait, and
    /// all else is 503.  With `HttpOptions::prefixes` that holds behind each of them.  Then
    /// `/healthz` and `/readyz` at the root tell of all schedulers, and nothing else is there.
    explicit HttpServer(HttpOptions options);
    ~HttpServer() { stop(); }
    HttpServer(const HttpServer&) = delete;
    HttpServer& operator=(const HttpServer&) = delete;

    /// Starts to answer at this address; port 0 takes a free one.  Returns the
    /// port and does not block.  Throws `std::runtime_error` if that cannot be.
    int listen(const std::string& host, int port) { return listen(HttpListener(host, port)); }
    /// The same at an address that was taken before; the port is 0 if it has none.
    int listen(HttpListener listener);
    /// The same at all of these, of which there is one at least.
    void listen(std::vector<HttpListener> listeners);
    /// Answers for this scheduler from here on, behind a prefix that `HttpOptions::prefixes`
    /// names.  Once for each, and from one thread with listen() and stop().
    void serve(Scheduler& scheduler, const std::string& prefix = "");
    /// Whether the loop has turned since the last call; and has it turn again.  For a watchdog,
    /// which asks now and then; the first call is true.  Does not block.
    bool check_pulse();
    /// As `HttpApi::replace_secrets()`.
    void replace_secrets(std::vector<std::string> secrets,
                         std::vector<std::string> read_secrets = {}) {
        shared_->replace_secrets(std::move(secrets), std::move(read_secrets));
    }
    /// Reads the files of TLS again, for every connection that comes from here on.  Any thread
    /// may call this.  Throws `Error` with `invalid_argument`, which names the file, and changes
    /// nothing, if one of them cannot be used.
    void reload_tls();
    /// Refuses new connections, lets requests finish, and ends event streams.
    /// Blocks until that is done, half a second for slow clients.
    void stop();

private:
    using Site = detail::Site;
    using Connection = detail::Connection;
    using State = Connection::State;
    using Wait = Connection::Wait;
    using Exchange = detail::Exchange;
    using Exchanges = detail::Exchanges;
    using SteadyTime = detail::SteadyTime;
    using Step = detail::MessageReader::Step;

    // The loop:
    void loop();
    void read_clocks();
    void take_news(const epoll_event& event);
    int timeout() const;
    void meet_deadlines();
    void release_memory() noexcept;
    void make_all_ready();
    void begin_to_end();
    bool watch_listeners(int operation);
    void accept_some(const HttpListener& listener);
    bool leaves_descriptors(int fd);
    void adopt(int fd, const detail::Peer& peer, const HttpListener& listener);
    void reject(int fd, const detail::Peer& peer, const HttpListener& listener);
    void count_refusal(detail::Refusal why, int status, const detail::Peer& peer,
                       std::string_view cause);
    std::shared_ptr<const detail::TlsContext> tls_at(const HttpListener& listener) const;
    void warn_of_certificate();

    // Of what is no scheduler's.
    Site& root() { return root_ ? *root_ : sites_.front(); }

    // A client:
    void make_ready(Connection& connection);
    void advance(Connection& connection);
    bool step(Connection& connection);
    bool read_on(Connection& connection);
    bool holds_too_much(const Connection& connection) const;
    bool receive(Connection& connection);
    ssize_t receive_tls(Connection& connection, char* to, std::size_t size);
    bool end_tls(Connection& connection);
    bool end_of_input(Connection& connection);
    bool pause(Connection& connection);
    bool give_up(Connection& connection, int status, const char* error);
    bool begin(Connection& connection);
    bool begin_another(Connection& connection);
    bool keep_request(Connection& connection);
    bool wait_for_event(Connection& connection);
    void begin_awaiting();
    bool refuse(Connection& connection, int status, const char* error,
                std::optional<detail::Refusal> why = std::nullopt);
    bool write_on(Connection& connection);
    bool transfer_on(Connection& connection);
    bool linger(Connection& connection);
    bool hand_over(Connection& connection, Exchange& exchange);
    void count(Connection& connection, std::size_t size);
    void wait_for(Connection& connection, Wait wait);
    void expire(Connection& connection);
    void close(Connection& connection);

    // Exchanges:
    void take_spare(Exchanges& one);
    Site& site_of(detail::HttpRequest& request);
    void store(Site& site);
    static bool store_here(Site& site);
    void work(Exchanges& exchanges);
    static void read_piece(Exchange& exchange) noexcept;
    void commit(Exchanges& exchanges);
    void take_passed_on(Exchanges& exchanges);
    static void note_write(Site& site, SteadyTime since);
    void give_back(Exchanges& exchanges);
    void take_back();
    void deliver(Exchanges& exchanges);
    void answer(Connection& connection, Exchange& exchange);
    void tell_of(const Connection& connection, const Exchange& exchange) noexcept;

    static constexpr std::size_t max_begun = 64;          // requests of a client at once
    static constexpr std::size_t max_spare = 64;          // exchanges that are kept
    static constexpr std::size_t max_uncounted = 16'384;  // bytes that a client's reader holds
    static constexpr int max_receives = 4;                // of a client in a round
    static constexpr milliseconds slow_write{40};
    static constexpr milliseconds shaking_time{2};  // of handshakes in a round
    static constexpr milliseconds wary_time{10'000};
    static constexpr milliseconds linger_time{2'000};
    static constexpr milliseconds end_time{500};

    const std::shared_ptr<detail::HttpShared> shared_;
    const HttpOptions& options_;
    std::list<Site> sites_;
    std::optional<Site> root_;  // what is behind no prefix, where all schedulers are behind one
    std::atomic<std::size_t> served_{0};  // sites that have a scheduler
    const detail::Descriptor epoll_;
    const detail::Descriptor wake_;  // an eventfd, for the loop
    std::vector<HttpListener> listeners_;
    std::atomic<std::size_t> sinks_{0};  // when it began to serve or to listen
    std::atomic<bool> stopping_{false};
    std::atomic<bool> has_turned_{true};                // since check_pulse() was called
    std::atomic<bool> awaits_events_{false};            // a request waits for one
    std::atomic<bool> has_followed_{false};             // more was applied since those began

    // The loop's own:
    std::size_t serves_ = 0;  // as many had a scheduler when that was last looked at
    std::list<Connection> clients_;
    std::list<Connection> closed_;    // until this round is over
    std::vector<Connection*> ready_;  // they have something to do
    std::vector<Connection*> turn_;   // those of this round
    std::multimap<SteadyTime, Connection*> timers_;
    Exchanges spare_;             // those of earlier rounds, to be used again
    SteadyTime now_;              // when it began
    std::string date_;            // the time of that, as answers tell it
    std::int64_t date_at_ = -1;   // of date_, in seconds
    std::string head_;            // of the answer at hand
    std::chrono::nanoseconds shaken_{0};  // for handshakes, in this round
    std::size_t bodies_ = 0;              // bytes that the readers hold of large messages
    std::size_t most_held_ = 0;   // bytes that clients held at once, since it was half of that
    detail::Descriptor reserve_;  // given up to take a client that is told there is none
    std::optional<SteadyTime> accepts_again_;
    std::optional<SteadyTime> ends_at_;  // it is stopping

    std::mutex returned_mutex_;
    Exchanges returned_;  // guarded by returned_mutex_: with their answers

    std::thread loop_;
};

inline HttpServer::HttpServer(HttpOptions options)
    : shared_(std::make_shared<detail::HttpShared>(std::move(options))),
      options_(shared_->options),
      epoll_(::epoll_create1(EPOLL_CLOEXEC)),
      wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    const auto commits = [this](Exchanges& exchanges) { commit(exchanges); };
    const auto works = [this](Exchanges& exchanges) { work(exchanges); };
    if (options_.prefixes.empty()) sites_.emplace_back("", commits, works, shared_);
    HttpApi::Members members;
    for (const std::string& prefix : options_.prefixes) {
        Site& site = sites_.emplace_back(prefix, commits, works, shared_);
        members.emplace_back(prefix, &site.api);
    }
    for (Site& site : sites_) {
        site.api.take_back_ = [this](Exchanges& exchanges) { take_passed_on(exchanges); };
    }
    if (!members.empty()) root_.emplace("", commits, works, shared_, std::move(members));
}

inline void HttpServer::serve(Scheduler& scheduler, const std::string& prefix) {
    const auto site = std::find_if(sites_.begin(), sites_.end(),
                                   [&](const Site& one) { return one.prefix == prefix; });
    if (site == sites_.end()) {
        throw std::runtime_error("this server has no scheduler behind \"" + prefix + '"');
    }
    if (site->api.is_serving()) throw std::runtime_error("this server has a scheduler");
    sinks_ += scheduler.sinks().size();
    site->streams.emplace(
        scheduler, options_.keep_alive, [this] { --shared_->streams; },
        options_.max_stream_pages / sites_.size());
    const auto notify = [this, &streams = *site->streams] {
        streams.write_or_wake();
        has_followed_ = true;
        if (awaits_events_) ::eventfd_write(wake_.get(), 1);
    };
    site->companion = scheduler.add_companion({notify, nullptr, nullptr});
    site->api.serve(scheduler);
    if (++served_ == 1 && loop_.joinable()) warn_of_certificate();
    ::eventfd_write(wake_.get(), 1);
}

inline int HttpServer::listen(HttpListener listener) {
    const int port = listener.has_address() ? listener.port() : 0;
    std::vector<HttpListener> one;
    one.push_back(std::move(listener));
    listen(std::move(one));
    return port;
}

inline void HttpServer::listen(std::vector<HttpListener> listeners) {
    if (loop_.joinable() || stopping_) throw std::runtime_error("this server has listened before");
    const auto has_address = [](const HttpListener& one) { return one.has_address(); };
    if (listeners.empty() || !std::all_of(listeners.begin(), listeners.end(), has_address)) {
        throw std::runtime_error("this listener has no address any more");
    }
    sinks_ = 0;
    for (const Site& site : sites_) {
        if (site.api.is_serving()) sinks_ += site.api.scheduler().sinks().size();
    }
    warn_of_certificate();
    listeners_ = std::move(listeners);
    for (const HttpListener& one : listeners_) {  // which the system doubles, for connections too
        const int half = static_cast<int>(options_.send_buffer / 2);
        if (half > 0) ::setsockopt(one.fd(), SOL_SOCKET, SO_SNDBUF, &half, sizeof half);
    }
    epoll_event event{};
    event.events = EPOLLIN | EPOLLET;  // so that it need not be read
    if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, wake_.get(), &event) != 0 ||
        !watch_listeners(EPOLL_CTL_ADD)) {
        throw std::runtime_error("cannot watch connections: " +
                                 std::generic_category().message(errno));
    }
    loop_ = std::thread([this] { loop(); });
}

inline void HttpServer::reload_tls() {
    shared_->tls.reload();
    for (Site& site : sites_) {
        if (auto* const forwarder = site.api.forwarder()) forwarder->reload();
    }
    warn_of_certificate();
}

// Sockets in the file system speak without TLS: what they carry leaves no machine.
inline std::shared_ptr<const detail::TlsContext> HttpServer::tls_at(
    const HttpListener& listener) const {
    return listener.is_unix() ? nullptr : shared_->tls.context();
}

inline void HttpServer::warn_of_certificate() {
    const auto tls = shared_->tls.context();
    const std::string problem = tls ? tls->problem(wall_clock()) : "";
    if (problem.empty()) return;
    root().api.say(LogLevel::warning, "tls.certificate", problem);
}

inline bool HttpServer::check_pulse() {
    const bool has_turned = has_turned_.exchange(false);
    ::eventfd_write(wake_.get(), 1);
    return has_turned;
}

inline void HttpServer::stop() {
    stopping_ = true;
    ::eventfd_write(wake_.get(), 1);
    if (loop_.joinable()) loop_.join();
    for (Site& site : sites_) {
        site.worker.stop();
        site.committer.stop();
        if (auto* const forwarder = site.api.forwarder()) forwarder->stop();
    }
    root().api.tell_of_refusals(std::chrono::steady_clock::now() +
                                std::chrono::hours(1));  // of all
    listeners_.clear();
    for (Site& site : sites_) {
        if (!site.api.is_serving()) continue;
        site.api.scheduler().remove_companion(site.companion);
        site.streams->stop();
    }
}

// ---- The loop

inline void HttpServer::loop() {
    std::array<epoll_event, 256> events;
    while (!ends_at_ || !clients_.empty()) {
        const int size = static_cast<int>(events.size());
        const int count = ::epoll_wait(epoll_.get(), events.data(), size, timeout());
        read_clocks();
        for (int i = 0; i < count; ++i) take_news(events[static_cast<std::size_t>(i)]);
        shared_->connections = clients_.size();
        take_back();
        if (serves_ != served_) make_all_ready();
        begin_awaiting();
        if (stopping_ && !ends_at_) begin_to_end();
        turn_.swap(ready_);
        shaken_ = {};
        for (Connection* connection : turn_) {
            connection->is_ready = false;
            advance(*connection);
        }
        turn_.clear();
        for (Site& site : sites_) store(site);
        meet_deadlines();
        closed_.clear();
        release_memory();
        has_turned_.store(true, std::memory_order_relaxed);
    }
}

inline void HttpServer::read_clocks() {
    now_ = std::chrono::steady_clock::now();
    const TimePoint time = wall_clock();
    const std::int64_t second = time.time_since_epoch().count() / 1'000;
    if (std::exchange(date_at_, second) == second) return;
    try {
        date_ = detail::http_date(time);
    } catch (const std::bad_alloc&) {  // then it is a second late
        date_at_ = -1;
    }
}

// Epoll tells of edges: what it has told of a client holds until a call says that nothing is
// left to be read, or no room to write.
inline void HttpServer::take_news(const epoll_event& event) {
    if (!event.data.ptr) return;  // give_back() or stop(), which are looked at anyway
    for (const HttpListener& listener : listeners_) {
        if (event.data.ptr == &listener) return accept_some(listener);
    }
    Connection& connection = *static_cast<Connection*>(event.data.ptr);
    connection.may_read = connection.may_read || event.events != EPOLLOUT || connection.tls;
    connection.has_ended =
        connection.has_ended || (event.events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0;
    make_ready(connection);
}

// For how long there will be nothing to do, in ms; -1: for ever.
inline int HttpServer::timeout() const {
    const auto has_begun = [](const Site& site) { return !site.begun.empty(); };
    if (!ready_.empty() || std::any_of(sites_.begin(), sites_.end(), has_begun)) return 0;
    SteadyTime next = timers_.empty() ? SteadyTime::max() : timers_.begin()->first;
    if (accepts_again_) next = std::min(next, *accepts_again_);
    if (ends_at_ && *ends_at_ > now_) next = std::min(next, *ends_at_);
    if (const auto telling = shared_->refusals.next_telling()) next = std::min(next, *telling);
    if (next == SteadyTime::max()) return -1;
    const auto left = next - std::chrono::steady_clock::now() + milliseconds(1);
    const auto ms = std::chrono::duration_cast<milliseconds>(left).count();
    return static_cast<int>(std::clamp<std::int64_t>(ms, 0, 60'000));
}

inline void HttpServer::meet_deadlines() {
    if (accepts_again_ && *accepts_again_ <= now_) {
        accepts_again_ = std::nullopt;
        if (!watch_listeners(EPOLL_CTL_ADD)) accepts_again_ = now_ + milliseconds(100);
    }
    while (!timers_.empty() && timers_.begin()->first <= now_) {
        auto node = timers_.extract(timers_.begin());
        Connection& connection = *node.mapped();
        const bool is_over = connection.deadline <= now_;
        node.key() = is_over ? SteadyTime::max() : connection.deadline;
        connection.timer = timers_.insert(std::move(node));
        if (is_over) expire(connection);
    }
    if (const auto telling = shared_->refusals.next_telling(); telling && *telling <= now_) {
        root().api.tell_of_refusals(now_);
    }
    if (!ends_at_ || now_ < *ends_at_) return;
    for (Site& site : sites_) {
        if (auto* const forwarder = site.api.forwarder()) forwarder->end();
    }
    for (auto connection = clients_.begin(); connection != clients_.end();) close(*connection++);
}

// The C library keeps what clients have freed.  When half of what they had at most is free, the
// worker gives that back, for it takes a while.
inline void HttpServer::release_memory() noexcept {
    constexpr std::size_t much = std::size_t{8} << 20;
    const std::size_t held = bodies_ + shared_->answers + clients_.size() * max_uncounted;
    most_held_ = std::max(most_held_, held);
    if (most_held_ < much || held > most_held_ / 2) return;
    most_held_ = held;
    try {
        Exchanges of_nobody(1);
        sites_.front().worker.push(of_nobody);
    } catch (const std::bad_alloc&) {  // then what was freed is needed
    }
}

// What has waited for a scheduler is begun again.
inline void HttpServer::make_all_ready() {
    serves_ = served_;
    for (Connection& connection : clients_) make_ready(connection);
}

// Requests that have come are answered; the connections end behind them.
inline void HttpServer::begin_to_end() {
    ends_at_ = now_ + end_time;
    accepts_again_ = std::nullopt;
    for (HttpListener& listener : listeners_) listener.stop();
    watch_listeners(EPOLL_CTL_DEL);
    for (Connection& connection : clients_) {
        connection.may_read = true;
        make_ready(connection);
    }
}

// False: one of them cannot be watched.
inline bool HttpServer::watch_listeners(int operation) {
    bool well = true;
    for (HttpListener& listener : listeners_) {
        epoll_event event{};
        event.events = EPOLLIN;
        event.data.ptr = &listener;
        well =
            (::epoll_ctl(epoll_.get(), operation, listener.fd(), &event) == 0 || errno == EEXIST) &&
            well;
    }
    return well;
}

// A client that there is no descriptor for is told so by means of the one in reserve.
// Any other lack passes when connections end, or by itself.
inline void HttpServer::accept_some(const HttpListener& listener) {
    constexpr int most = 64;
    constexpr int flags = SOCK_CLOEXEC | SOCK_NONBLOCK;
    if (reserve_.get() < 0) reserve_.reset(::eventfd(0, EFD_CLOEXEC));
    for (int i = 0; i < most && !stopping_; ++i) {
        detail::Peer peer;
        socklen_t size = sizeof peer.at;
        int fd = ::accept4(listener.fd(), peer.address(), &size, flags);
        if (fd >= 0) {
            adopt(fd, peer, listener);
            continue;
        }
        if ((errno == EMFILE || errno == ENFILE) && reserve_.get() >= 0) {
            reserve_.reset();
            fd = ::accept4(listener.fd(), peer.address(), &size, flags);
            const int error = errno;
            if (fd >= 0) reject(fd, peer, listener);
            reserve_.reset(::eventfd(0, EFD_CLOEXEC));
            if (fd >= 0) continue;
            errno = error;
        }
        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            accepts_again_ = now_ + milliseconds(100);
            watch_listeners(EPOLL_CTL_DEL);
        }
        return;
    }
}

// Whether there are descriptors left for the journal, the sinks and the reserve beside
// this one, below which, as the system always gives the lowest, all are taken.
inline bool HttpServer::leaves_descriptors(int fd) {
    rlimit limit{};
    if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return true;
    rlim_t links = 0;
    for (Site& site : sites_) links += site.api.forwarder() ? detail::Forwarder::max_links : 0;
    const rlim_t kept = std::min<rlim_t>(16 + 4 * sinks_ + links, limit.rlim_cur / 4);
    return static_cast<rlim_t>(fd) + kept < limit.rlim_cur;
}

inline void HttpServer::adopt(int fd, const detail::Peer& peer, const HttpListener& listener) {
    if (clients_.size() >= options_.max_connections || !leaves_descriptors(fd)) {
        return reject(fd, peer, listener);
    }
    std::list<Connection> one;
    try {
        for (auto* list : {&ready_, &turn_}) {  // make_ready() cannot fail
            if (list->capacity() <= clients_.size()) list->reserve(2 * clients_.size() + 16);
        }
        one.emplace_back(root(), options_.max_body, root().api.large());
        if (const auto tls = tls_at(listener)) one.front().tls = tls->session(fd);
        one.front().timer = timers_.emplace(SteadyTime::max(), &one.front());
    } catch (const std::bad_alloc&) {
        return reject(fd, peer, listener);
    }
    Connection& connection = one.front();
    connection.socket.reset(fd);
    connection.peer = peer;
    connection.is_by_loopback = listener.is_loopback() && !listener.is_unix();
    connection.self = one.begin();
    clients_.splice(clients_.end(), one);
    epoll_event event{};
    event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
    event.data.ptr = &connection;
    if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) return close(connection);
    wait_for(connection, connection.tls ? Wait::request : Wait::idle);
}

// What it answers takes no memory, which may be what there is not.  In TLS it is an alert, as hands
// were not shaken.
inline void HttpServer::reject(int fd, const detail::Peer& peer, const HttpListener& listener) {
    count_refusal(detail::Refusal::connections, 503, peer, "too many connections are open");
    constexpr std::string_view alert("\x15\x03\x03\0\x02\x02\x50", 7);
    constexpr std::string_view sentence =
        "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\n"
        "Content-Type: application/json\r\nContent-Length: 62\r\nConnection: close\r\n\r\n"
        R"({"errors":["Too many connections are open; try again later."]})";
    std::array<char, 4'096> ignored;
    const std::string_view text = tls_at(listener) ? alert : sentence;
    ::send(fd, text.data(), text.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    ::shutdown(fd, SHUT_WR);
    [[maybe_unused]] const ssize_t n = ::recv(fd, ignored.data(), ignored.size(), MSG_DONTWAIT);
    ::close(fd);
}

// What is refused before there is a request.
inline void HttpServer::count_refusal(detail::Refusal why, int status, const detail::Peer& peer,
                                      std::string_view cause) {
    detail::HttpAnswer answer;
    answer.status = status;
    answer.refusal = why;
    shared_->refusals.count(answer);
    root().api.tell_of(
        nullptr, answer, [&peer] { return peer.text(); }, cause);
}

// ---- A client

inline void HttpServer::make_ready(Connection& connection) {
    if (connection.state == State::closed || std::exchange(connection.is_ready, true)) return;
    ready_.push_back(&connection);
}

// Does for a client what can be done without waiting.
inline void HttpServer::advance(Connection& connection) {
    connection.receives = 0;
    try {
        while (step(connection)) continue;
    } catch (const std::bad_alloc&) {
        close(connection);
    }
}

// False: it has to wait.
inline bool HttpServer::step(Connection& connection) {
    switch (connection.state) {
        case State::reading:
            return read_on(connection);
        case State::storing:
            return begin_another(connection);
        case State::writing:
            return write_on(connection);
        case State::lingering:
            return linger(connection);
        case State::waiting:
        case State::closed:
            break;
    }
    return false;
}

inline bool HttpServer::read_on(Connection& connection) {
    if (connection.is_last || connection.transfer || connection.out.is_full()) {
        connection.state = State::writing;
        return true;
    }
    if (connection.has_request) return begin(connection);
    const Step step = connection.reader.next();
    if (step == Step::refused) {
        const auto& [status, error, is_tls] = connection.reader.refusal();
        return is_tls ? refuse(connection, status, error, detail::Refusal::tls_on_plain_port)
                      : refuse(connection, status, error);
    }
    if (step == Step::whole) return begin(connection);
    count(connection, connection.reader.size());
    if (connection.counted > 0 && connection.reader.has_head() && holds_too_much(connection)) {
        connection.reader.request().lacks_room = true;
        return give_up(connection, 503, "Too many bodies are on their way; try again later.");
    }
    return receive(connection) || pause(connection);
}

// Whether there is no room for this body.  Those that have not shown the secret cannot fill all
// of it, so that some is left to those who have.
inline bool HttpServer::holds_too_much(const Connection& connection) const {
    if (bodies_ <= options_.max_bodies / 2) return false;
    return bodies_ > options_.max_bodies ||
           HttpApi::access_by_head(connection.reader.request(), *shared_->secrets()) !=
               detail::Access::all;
}

// True: something has come.
inline bool HttpServer::receive(Connection& connection) {
    if (!connection.may_read) return false;
    if (connection.receives++ == max_receives) {
        make_ready(connection);  // for the next round
        return false;
    }
    std::array<char, 16'384> buffer;
    const ssize_t n = connection.tls
                          ? receive_tls(connection, buffer.data(), buffer.size())
                          : ::recv(connection.socket.get(), buffer.data(), buffer.size(), 0);
    if (n > 0) {
        const bool is_all =
            connection.tls ? connection.tls->is_drained() : n < static_cast<ssize_t>(buffer.size());
        connection.may_read = connection.has_ended || !is_all;
        connection.reader.feed({buffer.data(), static_cast<std::size_t>(n)});
        return true;
    }
    connection.may_read = n < 0 && errno == EINTR;
    if (connection.may_read) make_ready(connection);  // for the next round, too
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return false;
    const bool fails = connection.tls && (n < 0 || connection.shakes_hands());
    return fails ? end_tls(connection) : end_of_input(connection);
}

// Handshakes cost much more than requests: in a round they have a share of time, so that others
// are served meanwhile.  What is left over has its turn in the next.
inline ssize_t HttpServer::receive_tls(Connection& connection, char* to, std::size_t size) {
    const bool shakes_hands = connection.shakes_hands();
    ssize_t n = -1;
    errno = EINTR;
    if (!shakes_hands) {
        n = connection.tls->receive(to, size);
    } else if (shaken_ < shaking_time) {
        const SteadyTime start = std::chrono::steady_clock::now();
        n = connection.tls->receive(to, size);
        const int error = errno;
        shaken_ += std::chrono::steady_clock::now() - start;
        errno = error;
    }
    return n;
}

// A client that speaks without TLS is answered likewise.
inline bool HttpServer::end_tls(Connection& connection) {
    using detail::Refusal;
    if (connection.tls->fault() == detail::TlsFault::plain) {
        connection.tls.reset();
        return refuse(connection, 400, "This port speaks TLS; begin its URL with https://.",
                      Refusal::plain_on_tls_port);
    }
    if (connection.shakes_hands() && connection.tls->has_begun()) {
        count_refusal(Refusal::handshake, 400, connection.peer, connection.tls->problem());
    }
    return end_of_input(connection);
}

// Requests that are whole have been answered; half a head is nothing.
inline bool HttpServer::end_of_input(Connection& connection) {
    if (connection.reader.end() == Step::whole) return connection.has_request = true;
    connection.is_last = true;
    return true;
}

// Nothing can be done until more comes.
inline bool HttpServer::pause(Connection& connection) {
    if (connection.reader.takes_leave()) connection.out.append("HTTP/1.1 100 Continue\r\n\r\n", {});
    if (!connection.out.empty()) {
        connection.state = State::writing;
        return true;
    }
    if (ends_at_ && !connection.may_read) {
        if (!connection.reader.has_head()) {
            close(connection);
            return false;
        }
        return give_up(connection, 503, "The server is shutting down; send the request again.");
    }
    const bool has_begun = connection.reader.has_begun() || connection.shakes_hands();
    wait_for(connection, has_begun ? Wait::request : Wait::idle);
    return false;
}

// The request at hand is judged without its body, which others have room for at once.
inline bool HttpServer::give_up(Connection& connection, int status, const char* error) {
    connection.reader.give_up_body(status, error);
    count(connection, connection.reader.size());
    return connection.has_request = true;
}

// Begins what the request at hand asks for.
inline bool HttpServer::begin(Connection& connection) {
    detail::HttpRequest& request = connection.reader.request();
    Site& site = site_of(request);
    connection.site = &site;
    request.is_by_loopback = connection.is_by_loopback;
    Exchanges one;  // before anything is begun
    take_spare(one);
    Exchange& exchange = one.front();
    exchange.connection = &connection;
    exchange.request = &request;
    exchange.is_schedule = HttpApi::is_schedule(request);
    exchange.is_old = connection.reader.is_old();
    exchange.is_head = request.method == "HEAD";
    exchange.is_last = !connection.reader.can_go_on();
    connection.has_request = false;
    wait_for(connection, Wait::nothing);
    if (site.api.logs(LogLevel::debug)) exchange.asked = std::make_unique<detail::Asked>(request);
    site.api.begin(request, exchange.answer, false);
    if (exchange.answer.waits_for_opening) {
        keep_request(connection);
        return false;
    }
    if (exchange.answer.waits_for_event) return wait_for_event(connection);
    request.has_waited = true;
    connection.gives_up = SteadyTime();
    if (exchange.answer.stream) return hand_over(connection, exchange);
    const bool is_for_owner = exchange.answer.is_for_owner;
    if ((exchange.answer.is_for_worker || is_for_owner) && connection.begun > 0) {
        connection.has_request = true;  // behind those that are being stored
        return false;
    }
    exchange.is_last = exchange.is_last || exchange.answer.closes;
    connection.is_last = exchange.is_last;
    if (exchange.answer.is_for_worker || is_for_owner) {
        connection.state = State::waiting;
        ++connection.begun;
        is_for_owner ? site.api.forwarder_->push(one) : site.worker.push(one);
        return false;
    }
    if (!exchange.answer.ticket && connection.begun == 0) {
        site.api.finish(exchange.answer);
        detail::note_if_refused(exchange.asked, request, exchange.answer);
        answer(connection, exchange);
        return true;
    }
    const bool is_schedule = exchange.is_schedule;
    connection.state = is_schedule ? State::storing : State::waiting;
    ++connection.begun;
    site.begun.splice(site.begun.end(), one);
    return is_schedule;
}

// The request stays where it is.  A client that was reset is not waited for.  True: the connection
// is closed.
inline bool HttpServer::keep_request(Connection& connection) {
    char next;
    const bool is_gone = connection.has_ended &&
                         ::recv(connection.socket.get(), &next, 1, MSG_PEEK | MSG_DONTWAIT) < 0 &&
                         errno != EAGAIN && errno != EINTR;
    connection.has_request = true;
    if (is_gone || ends_at_) close(connection);
    return is_gone || ends_at_;
}

// Until more is applied here, or for as long as a change may take.  The first that waits looks once
// more, as nobody was told of what came meanwhile.
inline bool HttpServer::wait_for_event(Connection& connection) {
    if (keep_request(connection)) return false;
    if (connection.gives_up == SteadyTime()) connection.gives_up = now_ + options_.owner_timeout;
    wait_for(connection, Wait::event);
    return !awaits_events_.exchange(true);
}

inline void HttpServer::begin_awaiting() {
    if (!awaits_events_ || !has_followed_.exchange(false)) return;
    awaits_events_ = false;
    for (Connection& connection : clients_) {
        if (connection.wait == Wait::event) make_ready(connection);
    }
}

// Behind requests to schedule that were begun in this round: another one of the same scheduler, if
// it has come whole.
inline bool HttpServer::begin_another(Connection& connection) {
    if (connection.is_last || connection.has_request || connection.begun >= max_begun) return false;
    if (connection.reader.next() != Step::whole) return false;
    detail::HttpRequest& request = connection.reader.request();
    if (&site_of(request) == connection.site && HttpApi::is_schedule(request)) {
        return begin(connection);
    }
    connection.has_request = true;
    return false;
}

// Answers what is no request; the connection ends behind it.
inline bool HttpServer::refuse(Connection& connection, int status, const char* error,
                               std::optional<detail::Refusal> why) {
    Exchange exchange;
    exchange.is_last = true;
    exchange.answer.status = status;
    exchange.answer.refusal = why;
    exchange.answer.body = detail::errors_json({error});
    exchange.cause = error;
    shared_->refusals.count(exchange.answer);
    answer(connection, exchange);
    return true;
}

inline bool HttpServer::write_on(Connection& connection) {
    detail::TlsSession* const tls = connection.tls.get();
    if (!connection.out.send(connection.socket.get(), tls)) {
        close(connection);
        return false;
    }
    if (!connection.out.empty() || (tls && tls->has_unsent())) {
        wait_for(connection, Wait::write);
        return false;
    }
    connection.large = {};
    if (connection.transfer) return transfer_on(connection);
    connection.state = connection.is_last ? State::lingering : State::reading;
    if (connection.is_last) {
        if (tls) tls->end();
        ::shutdown(connection.socket.get(), SHUT_WR);
        connection.may_read = true;
        wait_for(connection, Wait::linger);
    }
    return true;
}

// The worker reads the next piece, which may have to come from the disk.
inline bool HttpServer::transfer_on(Connection& connection) {
    if (connection.transfer->is_over()) {
        connection.transfer.reset();
        return true;
    }
    Exchanges one;
    take_spare(one);
    one.front().connection = &connection;
    one.front().is_piece = true;
    one.front().is_last = connection.is_last;
    connection.state = State::waiting;
    ++connection.begun;
    wait_for(connection, Wait::nothing);
    connection.site->worker.push(one);
    return false;
}

// To close a connection with input that was not read would reset it, which may take the
// answer from the client: so the rest is read first, of TLS as it comes.
inline bool HttpServer::linger(Connection& connection) {
    std::array<char, 16'384> ignored;
    for (int i = 0; connection.may_read && i < max_receives; ++i) {
        const ssize_t n = ::recv(connection.socket.get(), ignored.data(), ignored.size(), 0);
        connection.may_read = n > 0;
        const bool waits = n < 0 && (errno == EAGAIN || errno == EINTR);
        if (n == 0 || (n < 0 && !waits) || (waits && connection.reader.is_consumed()))
            close(connection);
    }
    if (connection.state == State::lingering && connection.may_read) make_ready(connection);
    return false;
}

// From here on the socket is the stream writer's.
inline bool HttpServer::hand_over(Connection& connection, Exchange& exchange) {
    tell_of(connection, exchange);
    try {
        detail::write_head(head_, exchange.answer, date_, true, false);
        std::string head = connection.out.take() + head_ + exchange.answer.stream->preamble;
        ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, connection.socket.get(), nullptr);
        connection.site->streams->adopt(
            connection.socket.release(), std::move(head), exchange.answer.stream->seq,
            std::move(exchange.answer.stream->topics), std::move(connection.tls));
    } catch (const std::bad_alloc&) {
        --shared_->streams;
    }
    close(connection);
    return false;
}

// Counts what the reader of a client holds, if it is much.
inline void HttpServer::count(Connection& connection, std::size_t size) {
    const std::size_t counted = size > max_uncounted ? size : 0;
    bodies_ = bodies_ - connection.counted + counted;
    connection.counted = counted;
}

// What a client waits for already keeps its deadline.
inline void HttpServer::wait_for(Connection& connection, Wait wait) {
    if (connection.wait == wait) return;
    connection.wait = wait;
    switch (wait) {
        case Wait::nothing:
            connection.deadline = SteadyTime::max();
            break;
        case Wait::idle:
            connection.deadline = now_ + options_.idle_timeout;
            break;
        case Wait::request:
        case Wait::write:
            connection.deadline = now_ + options_.request_timeout;
            break;
        case Wait::linger:
            connection.deadline = now_ + linger_time;
            break;
        case Wait::event:
            connection.deadline = connection.gives_up;
            break;
    }
    // Its timer may come too early, but not too late.
    if (connection.deadline >= connection.timer->first) return;
    auto node = timers_.extract(connection.timer);
    node.key() = connection.deadline;
    connection.timer = timers_.insert(std::move(node));
}

inline void HttpServer::expire(Connection& connection) {
    if (connection.shakes_hands()) {
        count_refusal(detail::Refusal::handshake, 408, connection.peer, "it took too long");
        return close(connection);
    }
    if (connection.wait == Wait::event) {
        connection.reader.request().has_waited = true;
        return advance(connection);
    }
    if (connection.wait != Wait::request) return close(connection);
    if (connection.reader.has_head()) {
        give_up(connection, 408, "The body took too long to arrive; send the request again.");
    } else {
        refuse(connection, 408, "The request took too long to arrive; send it again.");
    }
    advance(connection);
}

// A child that is just being started may still have a copy of the socket, with which
// epoll would go on to report it.
inline void HttpServer::close(Connection& connection) {
    if (connection.state == State::closed) return;
    connection.state = State::closed;
    if (connection.socket.get() >= 0) {
        ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, connection.socket.get(), nullptr);
        if (connection.tls) connection.tls->end();
        ::shutdown(connection.socket.get(), SHUT_RDWR);
        connection.socket.reset();
    }
    if (connection.is_ready) ready_.erase(std::find(ready_.begin(), ready_.end(), &connection));
    timers_.erase(connection.timer);
    count(connection, 0);
    connection.large = {};
    if (connection.begun == 0) connection.transfer.reset();
    if (connection.begun == 0) closed_.splice(closed_.end(), clients_, connection.self);
}

// ---- Exchanges

inline void HttpServer::take_spare(Exchanges& one) {
    if (spare_.empty()) {
        one.emplace_back();
    } else {
        one.splice(one.end(), spare_, spare_.begin());
    }
}

// Whose this request is, which learns of the prefix of its paths.
inline HttpServer::Site& HttpServer::site_of(detail::HttpRequest& request) {
    if (!root_) return sites_.front();
    request.prefix = "";
    const std::string path = request.path();
    const auto found = std::find_if(sites_.begin(), sites_.end(), [&path](const Site& site) {
        return detail::is_behind(path, site.prefix);
    });
    if (found == sites_.end()) return *root_;
    request.prefix = found->prefix;
    return *found;
}

// What was begun in this round.
inline void HttpServer::store(Site& site) {
    if (store_here(site)) return deliver(site.begun);
    for (Exchange& exchange : site.begun) {  // nothing more is begun behind them
        State& state = exchange.connection->state;
        if (state == State::storing) state = State::waiting;
    }
    site.committer.push(site.begun);
}

// Stores that, if it takes but a quick write.  After a slow one it is the committer's business for
// a while: then no client waits for it who did not ask for it.
inline bool HttpServer::store_here(Site& site) {
    if (site.begun.empty()) return true;
    const SteadyTime start = std::chrono::steady_clock::now();
    if (start < site.wary_until.load()) return false;
    for (Exchange& exchange : site.begun) {
        if (exchange.answer.ticket && !exchange.answer.ticket->try_store()) return false;
    }
    for (Exchange& exchange : site.begun) site.api.finish(exchange.answer);
    note_write(site, start);
    return true;
}

// A worker's thread.
inline void HttpServer::work(Exchanges& exchanges) {
    while (!exchanges.empty()) {
        Exchanges one;
        one.splice(one.end(), exchanges, exchanges.begin());
        Exchange& exchange = one.front();
        if (!exchange.connection) {  // see release_memory()
#ifdef __GLIBC__
            ::malloc_trim(0);
#endif
            continue;
        }
        if (exchange.is_piece) {
            read_piece(exchange);
            give_back(one);
            continue;
        }
        Site& site = *exchange.connection->site;
        site.api.begin_again(exchange);
        if (exchange.answer.is_for_owner) {
            site.api.forwarder_->push(one);
        } else if (exchange.answer.ticket) {
            site.committer.push(one);
        } else {
            site.api.finish(exchange.answer);
            give_back(one);
        }
    }
}

// A forwarder's thread.
inline void HttpServer::take_passed_on(Exchanges& exchanges) {
    Exchanges answered;
    while (!exchanges.empty()) {
        Exchanges one;
        one.splice(one.end(), exchanges, exchanges.begin());
        Site& site = *one.front().connection->site;
        if (one.front().answer.is_for_worker) {
            site.worker.push(one);
        } else {
            site.api.finish(one.front().answer);
            answered.splice(answered.end(), one);
        }
    }
    give_back(answered);
}

// What cannot be read ends the connection, by which the client knows that it has not got all.
inline void HttpServer::read_piece(Exchange& exchange) noexcept {
    try {
        exchange.answer.body = exchange.connection->transfer->next();
    } catch (const std::exception&) {
        exchange.answer.is_silent = true;
    }
}

// A committer's thread.  What is stored need not wait for the rest.
inline void HttpServer::commit(Exchanges& exchanges) {
    Exchanges done;
    while (!exchanges.empty()) {
        Site& site = *exchanges.front().connection->site;
        detail::HttpAnswer& answer = exchanges.front().answer;
        if (!done.empty() && answer.ticket && !answer.ticket->try_store()) give_back(done);
        const SteadyTime start = std::chrono::steady_clock::now();
        site.api.finish(answer);
        note_write(site, start);
        done.splice(done.end(), exchanges, exchanges.begin());
    }
    give_back(done);
}

inline void HttpServer::note_write(Site& site, SteadyTime since) {
    const SteadyTime now = std::chrono::steady_clock::now();
    if (now - since >= slow_write) site.wary_until = now + wary_time;
}

inline void HttpServer::give_back(Exchanges& exchanges) {
    {
        const std::lock_guard<std::mutex> guard(returned_mutex_);
        returned_.splice(returned_.end(), exchanges);
    }
    ::eventfd_write(wake_.get(), 1);
}

inline void HttpServer::take_back() {
    Exchanges returned;
    {
        const std::lock_guard<std::mutex> guard(returned_mutex_);
        returned.swap(returned_);
    }
    deliver(returned);
}

inline void HttpServer::deliver(Exchanges& exchanges) {
    Exchanges delivered;  // meanwhile others are begun
    delivered.swap(exchanges);
    for (Exchange& exchange : delivered) {
        Connection& connection = *exchange.connection;
        --connection.begun;
        if (connection.state != State::closed) {
            answer(connection, exchange);
            if (connection.begun > 0) continue;
            connection.state = State::reading;
            advance(connection);
        } else if (connection.begun == 0) {
            closed_.splice(closed_.end(), clients_, connection.self);
        }
    }
    while (!delivered.empty() && spare_.size() < max_spare) {
        const bool is_large = delivered.front().answer.body.capacity() > max_uncounted;
        if (is_large) {  // to assign to a string leaves it its room
            delivered.pop_front();
            continue;
        }
        delivered.front() = Exchange();
        spare_.splice(spare_.end(), delivered, delivered.begin());
    }
}

inline void HttpServer::tell_of(const Connection& connection, const Exchange& exchange) noexcept {
    const detail::HttpAnswer& answer = exchange.answer;
    if (!exchange.asked && answer.status < 400 && !answer.refusal) return;
    connection.site->api.tell_of(
        exchange.asked.get(), answer, [&connection] { return connection.peer.text(); },
        exchange.cause);
}

// Puts an answer behind those that go out already.  One that there is no memory for, or that
// cannot be given, is none: the connection ends in its place.
inline void HttpServer::answer(Connection& connection, Exchange& exchange) {
    detail::HttpAnswer& made = exchange.answer;
    connection.is_last = exchange.is_last || ends_at_;
    tell_of(connection, exchange);
    try {
        if (!made.is_silent && exchange.is_piece) {
            connection.out.append({}, std::move(made.body));
        } else if (!made.is_silent) {
            detail::write_head(head_, made, date_, connection.is_last, exchange.is_old);
            if (exchange.is_head) made.body.clear();
            connection.out.append(head_, std::move(made.body));
            connection.large = std::move(made.share);
            if (!exchange.is_head) connection.transfer = std::move(made.transfer);
        }
    } catch (const std::bad_alloc&) {
        made.is_silent = true;
    }
    connection.is_last = connection.is_last || made.is_silent;
    if (made.is_silent) connection.transfer.reset();
}

// ============================================================================
// 14. Webhooks
// ============================================================================
//
// The sink that needs HTTP, after the specification of Standard Webhooks 1.0.0, and
// sinks from a file.
//
//   B1  2xx is success, once the answer is whole; 410 disables the sink; anything else,
//       a redirect too, is a failure.
//   B2  An attempt ends by its timeout, and at once when it is interrupted, however slowly the
//       receiver answers and its name is resolved.
//   B3  Where the build has no OpenSSL, what needs it is refused, never skipped.

// ---- 14.1 Addresses and signatures -----------------------------------------

/// What a `WebhookSink` sends.
enum class WebhookFormat {
    payload,      ///< the payload; of a batch, an array of events as `to_json()` writes them
    cloudevents,  ///< CloudEvents 1.0 in binary mode; of a batch, in the JSON batch format
};

/// Where a `WebhookSink` delivers to.
struct WebhookOptions {
    /// `http://` or `https://`, a host, and perhaps a port, a path and a query.
    std::string url;
    /// Up to two of `whsec_` and base64; each signs every request.  None: unsigned.
    std::vector<std::string> secrets;
    /// Further header fields.
    std::vector<std::pair<std::string, std::string>> headers;
    /// How long an attempt may take in all.
    milliseconds timeout{15'000};
    /// How an event is sent.
    WebhookFormat format = WebhookFormat::payload;
    /// The `source` of CloudEvents, a URI or a relative reference.
    std::string source = "task-scheduler";
    /// How many events that wait are sent at once, from 1 to 1,000, and about a MiB of payloads;
    /// 0: one, which is no array.
    std::size_t batch = 0;
    /// Replaces getaddrinfo(), for tests; freeaddrinfo() frees what it has found.  Called
    /// on a thread that may outlive the sink.
    std::function<int(const char* host, const char* port, const addrinfo* hints, addrinfo** found)>
        resolve;
};

namespace detail {

// A URL without what may be secret: of the path only what begins it and looks like words,
// nothing of the query.
inline std::string shown_url(const Url& url) {
    constexpr std::size_t most_words = 3;
    constexpr std::size_t longest_word = 12;
    const auto is_plain = [](char c) { return (c >= 'a' && c <= 'z') || c == '-' || c == '_'; };
    std::string shown = url.origin;
    std::string_view rest = url.target;
    if (rest == "/") return shown;
    for (std::size_t words = 0; words < most_words && rest.size() > 1 && rest[0] == '/'; ++words) {
        const std::size_t end = std::min(rest.find_first_of("/?", 1), rest.size());
        const std::string_view word = rest.substr(1, end - 1);
        if (word.size() > longest_word || !std::all_of(word.begin(), word.end(), is_plain)) break;
        shown += rest.substr(0, end);
        rest.remove_prefix(end);
    }
    if (rest.empty() || rest == "/") return shown.append(rest);
    return shown.append(1, rest[0]).append("...");
}

// Whether all characters may stand in a reference (RFC 3986), and so in a header field.
inline bool is_uri_reference(std::string_view text) {
    return !text.empty() && std::all_of(text.begin(), text.end(), [](unsigned char c) {
        return c > 0x20 && c < 0x7F && !std::strchr("\"<>\\^`{|}", c);
    });
}

// A receiver's Retry-After: seconds, or a date (RFC 9110, 10.2.3).
inline std::optional<milliseconds> parse_retry_after(const std::string& text, TimePoint now) {
    const auto seconds = read_digits(text);
    if (seconds && text.size() <= 9) return std::chrono::seconds(*seconds);
    std::tm parts{};
    const char* const end = ::strptime(text.c_str(), "%a, %d %b %Y %H:%M:%S GMT", &parts);
    if (!end || *end != '\0') return std::nullopt;
    const TimePoint time(std::chrono::seconds(::timegm(&parts)));
    return std::max(time - now, milliseconds(0));
}

#ifdef CPPHTTPLIB_OPENSSL_SUPPORT

// The key of whsec_…; empty: it is none.
inline std::string webhook_key(std::string_view secret) {
    constexpr std::string_view prefix = "whsec_";
    if (secret.substr(0, prefix.size()) != prefix) return "";
    secret.remove_prefix(prefix.size());
    if (secret.empty() || secret.size() % 4 != 0 || secret.size() > 1'024) return "";
    const std::size_t end = std::min(secret.find('='), secret.size());
    const std::size_t padding = secret.size() - end;
    const bool good = std::all_of(secret.begin(), secret.end(), [](unsigned char c) {
        return (c >= '0' && c <= '9') || ((c | 0x20U) >= 'a' && (c | 0x20U) <= 'z') || c == '+' ||
               c == '/' || c == '=';
    });
    if (!good || padding > 2 || (padding == 2 && secret.back() != '=')) return "";
    std::string key(secret.size() / 4 * 3, '\0');
    const int size = ::EVP_DecodeBlock(reinterpret_cast<unsigned char*>(&key[0]),
                                       reinterpret_cast<const unsigned char*>(secret.data()),
                                       static_cast<int>(secret.size()));
    if (size < 0) return "";
    key.resize(key.size() - padding);
    return key;
}

// v1,base64 of HMAC-SHA256
inline std::string webhook_signature(const std::string& key, const std::string& text) {
    std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
    unsigned size = 0;
    ::HMAC(::EVP_sha256(), key.data(), static_cast<int>(key.size()),
           reinterpret_cast<const unsigned char*>(text.data()), text.size(), digest.data(), &size);
    std::string base64((size + 2) / 3 * 4 + 1, '\0');
    const int length = ::EVP_EncodeBlock(reinterpret_cast<unsigned char*>(&base64[0]),
                                         digest.data(), static_cast<int>(size));
    base64.resize(static_cast<std::size_t>(length));
    return "v1," + base64;
}

constexpr bool has_openssl = true;

#else

inline std::string webhook_key(std::string_view) {
    return "";
}
inline std::string webhook_signature(const std::string&, const std::string&) {
    return "";
}
constexpr bool has_openssl = false;

#endif

// ---- 14.2 Connections ------------------------------------------------------

// The time for something is up, or it was interrupted.
struct TooLate : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// TLS has failed, or is not spoken by the other side.
struct TlsFailure : std::runtime_error {
    explicit TlsFailure(const TlsSession& session)
        : std::runtime_error(session.problem()), fault(session.fault()) {}
    TlsFault fault;
};

// A connection to a server, plain or TLS.  What it does ends by a deadline, and when it is
// interrupted; what fails throws.
class Channel {
public:
    using SteadyTime = std::chrono::steady_clock::time_point;

    // What `server` calls the other side in a sentence.  For https it has the context, or one that
    // believes the system's authorities.
    explicit Channel(const Url& url, Resolve resolve = nullptr,
                     std::shared_ptr<const TlsContext> context = nullptr,
                     const char* server = "the receiver")
        : url_(url),
          server_(server),
          context_(std::move(context)),
          interruption_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
          lookup_(url.host, url.port, std::move(resolve)) {
        if (interruption_.get() < 0 || lookup_.fd() < 0) {
            throw std::system_error(errno, std::generic_category(), "cannot make a connection");
        }
        if (!url_.secure || context_) return;
        context_ = std::make_shared<const TlsContext>(TlsSide::client, TlsFiles());
    }
    // From another thread: makes what is under way, or comes next, fail.
    void interrupt() { ::eventfd_write(interruption_.get(), 1); }
    // Forgets interruptions.
    void begin(SteadyTime deadline) {
        eventfd_t ignored = 0;
        ::eventfd_read(interruption_.get(), &ignored);
        end_by(deadline);
    }
    // Sets another deadline, and forgets no interruption.
    void end_by(SteadyTime deadline) { deadline_ = deadline; }
    // Whether there is a connection that the other side has not ended.
    bool is_open() const;
    void connect();
    void close();
    void send(std::string_view text);
    // 0: the end.
    std::size_t receive(char* to, std::size_t size);
    // Receives something for a reader.  False: the connection is at its end.
    bool receive(MessageReader& reader);
    // Receives the rest of an answer.  look() is called whenever more of it has come, and returns
    // false where that is enough.
    template <class Look>
    void receive_answer(MessageReader& answer, Look look);

private:
    Addresses addresses();
    void connect_to(int family, const sockaddr* address, socklen_t size);
    void connect_to_any(const Addresses& found);
    void connect_to_socket();
    void wait_for(short events) const {
        wait_for(socket_.get(), events, server_ + " took too long");
    }
    void wait_for(int fd, short events, const std::string& too_late) const;
    void wait_to_go_on(short events) const;

    const Url url_;
    const std::string server_;
    std::shared_ptr<const TlsContext> context_;  // null: without TLS
    const Descriptor interruption_;              // an eventfd
    Lookup lookup_;
    Descriptor socket_;
    SteadyTime deadline_;
    std::unique_ptr<TlsSession> tls_;  // of the socket
};

// Nothing is to come between answers, but the end.
inline bool Channel::is_open() const {
    pollfd socket{socket_.get(), POLLIN, 0};
    return socket_.get() >= 0 && ::poll(&socket, 1, 0) == 0;
}

inline void Channel::wait_for(int fd, short events, const std::string& too_late) const {
    std::array<pollfd, 2> watched{pollfd{fd, events, 0}, pollfd{interruption_.get(), POLLIN, 0}};
    for (;;) {
        const auto left =
            std::chrono::duration_cast<milliseconds>(deadline_ - std::chrono::steady_clock::now());
        if (left.count() <= 0) throw TooLate(too_late);
        const auto ms = std::min<milliseconds::rep>(left.count() + 1, 1'000'000'000);
        if (::poll(watched.data(), watched.size(), static_cast<int>(ms)) <= 0) continue;
        if (watched[1].revents != 0) throw TooLate("it was interrupted");
        return;
    }
}

// After a call that has failed: waits until it may be made again, or throws why not.
inline void Channel::wait_to_go_on(short events) const {
    const int error = errno;
    if (error == EINTR) return;
    if (tls_ && error == EPROTO) throw TlsFailure(*tls_);
    if (error != EAGAIN) throw std::system_error(error, std::generic_category());
    wait_for(tls_ && tls_->has_unsent() ? short{POLLOUT} : events);
}

inline Addresses Channel::addresses() {
    if (Addresses found = numeric_address(url_)) return found;
    lookup_.start();
    wait_for(lookup_.fd(), POLLIN, "resolving the name took too long");
    return lookup_.take();
}

inline void Channel::connect() {
    close();
    if (!url_.socket.empty()) return connect_to_socket();
    connect_to_any(addresses());
    if (!context_) return;
    tls_ = context_->session(socket_.get(), url_.host);
    while (!tls_->shake_hands()) wait_to_go_on(POLLIN);
}

inline void Channel::connect_to_any(const Addresses& found) {
    for (const addrinfo* address = found.get();; address = address->ai_next) {
        try {
            return connect_to(address->ai_family, address->ai_addr, address->ai_addrlen);
        } catch (const std::system_error&) {
            if (!address->ai_next) throw;
        }
    }
}

inline void Channel::connect_to_socket() {
    sockaddr_un at{};
    at.sun_family = AF_UNIX;
    url_.socket.copy(at.sun_path, sizeof at.sun_path - 1);
    connect_to(AF_UNIX, reinterpret_cast<const sockaddr*>(&at), sizeof at);
}

inline void Channel::connect_to(int family, const sockaddr* address, socklen_t size) {
    socket_.reset(::socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (socket_.get() < 0) throw_errno(errno, "there is no socket");
    const int on = 1;
    ::setsockopt(socket_.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    int error = 0;
    if (::connect(socket_.get(), address, size) != 0) {
        error = errno;
        if (error == EINPROGRESS) {
            wait_for(POLLOUT);
            socklen_t error_size = sizeof error;
            ::getsockopt(socket_.get(), SOL_SOCKET, SO_ERROR, &error, &error_size);
        }
    }
    if (error != 0) throw std::system_error(error, std::generic_category());
}

inline void Channel::close() {
    if (tls_) tls_->end();
    tls_.reset();
    socket_.reset();
}

inline void Channel::send(std::string_view text) {
    while (!text.empty() || (tls_ && tls_->has_unsent())) {
        const ssize_t n =
            tls_ ? tls_->send(text) : ::send(socket_.get(), text.data(), text.size(), MSG_NOSIGNAL);
        if (n >= 0) text.remove_prefix(static_cast<std::size_t>(n));
        if (n < 0) wait_to_go_on(POLLOUT);
    }
}

inline std::size_t Channel::receive(char* to, std::size_t size) {
    for (;;) {
        if (!tls_ || tls_->is_drained()) wait_for(POLLIN);
        const ssize_t n = tls_ ? tls_->receive(to, size) : ::recv(socket_.get(), to, size, 0);
        if (n >= 0) return static_cast<std::size_t>(n);
        wait_to_go_on(POLLIN);
    }
}

inline bool Channel::receive(MessageReader& reader) {
    std::array<char, 16'384> buffer;
    const std::size_t n = receive(buffer.data(), buffer.size());
    reader.feed({buffer.data(), n});
    return n > 0;
}

template <class Look>
void Channel::receive_answer(MessageReader& answer, Look look) {
    using Step = MessageReader::Step;
    bool more = true;
    Step step = answer.next();
    while (look() && step == Step::incomplete && more) {
        more = receive(answer);
        step = more ? answer.next() : answer.end();
    }
    if (step == Step::refused) {
        throw std::runtime_error(std::string("it cannot be read: ") + answer.refusal().error);
    }
    if (!answer.has_head()) throw std::runtime_error(server_ + " has ended the connection");
    const int reason = answer.request().body_status;
    if (reason == 200 || reason == 413) return;
    throw std::runtime_error(
        concat({server_, " answers ", answer.status(), ", but not to the end"}));
}

}  // namespace detail

// ---- 14.3 The sink ---------------------------------------------------------

/// POSTs each event's payload, or several at once, to a URL, on a connection that is kept.
class WebhookSink : public Sink {
public:
    /// Throws `Error` with `invalid_argument` if an option is not good, or needs OpenSSL
    /// and the build has none.
    explicit WebhookSink(WebhookOptions options);
    Outcome deliver(const Delivery& delivery) override;
    std::size_t max_batch() const override { return std::max<std::size_t>(options_.batch, 1); }
    void interrupt() override { channel_->interrupt(); }
    std::string kind() const override { return "webhook"; }
    std::string target() const override { return detail::shown_url(url_); }

private:
    void check_fields() const;
    std::string batch_body(const Delivery& delivery) const;
    std::vector<std::pair<std::string_view, std::string>> attributes(const Event& event) const;
    void append_event_fields(std::string& head, const Event& event) const;
    std::string request(const Delivery& delivery) const;
    void send(const std::string& request);
    Outcome judge() const;

    static constexpr std::size_t max_body = 65'536;  // of a larger one, the rest is not read

    const WebhookOptions options_;
    detail::Url url_;
    std::vector<std::string> keys_;
    std::unique_ptr<detail::Channel> channel_;
    std::optional<detail::MessageReader> reader_;  // of the answer at hand
};

inline WebhookSink::WebhookSink(WebhookOptions options) : options_(std::move(options)) {
    const auto refuse = [](const std::string& why) {
        detail::throw_as(Errc::invalid_argument, {why});
    };
    const auto url = detail::parse_url(options_.url);
    if (!url) {
        refuse(
            "a webhook's URL must be like https://example.org/hook, in ASCII and without a user");
    }
    url_ = *url;
    if (!detail::has_openssl && url_.secure) refuse("https needs a build with OpenSSL");
    if (!detail::has_openssl && !options_.secrets.empty()) {
        refuse("signatures need a build with OpenSSL");
    }
    if (options_.secrets.size() > 2) refuse("there may be two secrets at most");
    for (const std::string& secret : options_.secrets) {
        keys_.push_back(detail::webhook_key(secret));
        if (keys_.back().empty()) refuse("a secret must be whsec_ and base64");
    }
    if (options_.timeout < milliseconds(1)) refuse("a timeout must be longer than nothing");
    if (options_.batch > 1'000) refuse("a batch must be of 1,000 events at most");
    if (!detail::is_uri_reference(options_.source)) {
        refuse("a source must be a URI or a relative reference, in ASCII");
    }
    check_fields();
    channel_ = std::make_unique<detail::Channel>(url_, options_.resolve);
}

inline void WebhookSink::check_fields() const {
    for (const auto& [name, value] : options_.headers) {
        const auto is = [&known = name](const char* other) {
            return detail::equal_ignoring_case(known, other);
        };
        const bool of_cloudevents = is("ce-id") || is("ce-source") || is("ce-type") ||
                                    is("ce-time") || is("ce-subject") || is("ce-specversion");
        const bool ours = is("Host") || is("Content-Length") || is("Transfer-Encoding") ||
                          is("Connection") || is("Content-Type") || is("webhook-id") ||
                          is("webhook-timestamp") || is("webhook-signature") || is("traceparent") ||
                          is("tracestate") ||
                          (of_cloudevents && options_.format == WebhookFormat::cloudevents);
        const bool control = std::any_of(value.begin(), value.end(),
                                         [](unsigned char c) { return c < 0x20 || c > 0x7E; });
        if (!detail::is_token(name) || ours || control) {
            detail::throw_as(Errc::invalid_argument, {"the header ", detail::printable(name, 64),
                                                      (ours ? " is set by the scheduler"
                                                            : " is not one, or not in ASCII")});
        }
    }
}

// An array of the events, each with its id and the payload as it is.
inline std::string WebhookSink::batch_body(const Delivery& delivery) const {
    detail::Json batch;
    batch.array();
    const auto add = [&](const Event& event) {
        if (options_.format == WebhookFormat::payload) return void(batch.add(event));
        detail::Json json;
        json.object();
        for (const auto& [name, value] : attributes(event)) json.add(name, value);
        // CloudEvents' extension for traces.
        if (!event.traceparent().empty()) json.add("traceparent", event.traceparent());
        if (!event.tracestate().empty()) json.add("tracestate", event.tracestate());
        json.add("datacontenttype", "application/json");
        batch.add(json.add("data", detail::JsonView{event.text()}));
    };
    add(delivery.event);
    for (const Event& event : delivery.more) add(event);
    return std::move(batch.text);
}

// Of CloudEvents.
inline std::vector<std::pair<std::string_view, std::string>> WebhookSink::attributes(
    const Event& event) const {
    std::vector<std::pair<std::string_view, std::string>> all{
        {"specversion", "1.0"},
        {"id", event.id.str()},
        {"source", options_.source},
        {"type", "task-scheduler.task.emitted"},
        {"time", format_time(event.due)}};
    if (!event.topic().empty()) all.emplace_back("subject", event.topic());
    return all;
}

// What the event has in the head, unless it is one of a batch.
inline void WebhookSink::append_event_fields(std::string& head, const Event& event) const {
    const auto field = [&head](std::string_view name, std::string_view value) {
        if (!value.empty()) head.append(name).append(": ").append(value).append("\r\n");
    };
    field("traceparent", event.traceparent());
    field("tracestate", event.tracestate());
    if (options_.format != WebhookFormat::cloudevents) return;
    for (const auto& [name, value] : attributes(event)) field("ce-" + std::string(name), value);
}

// The id is the same in every attempt at the same events, the timestamp is the attempt's.
inline std::string WebhookSink::request(const Delivery& delivery) const {
    const bool is_batch = options_.batch > 0;
    const bool is_cloudevents = options_.format == WebhookFormat::cloudevents;
    const std::string array = is_batch ? batch_body(delivery) : std::string();
    const std::string_view body = is_batch ? array : delivery.event.text();
    std::string id = delivery.event.id.str();
    if (!delivery.more.empty()) id += '_' + delivery.more.back().id.str();
    const auto now =
        std::chrono::duration_cast<std::chrono::seconds>(wall_clock().time_since_epoch());
    const std::string timestamp = std::to_string(now.count());
    std::string text = detail::concat({"POST ", url_.target, " HTTP/1.1\r\n"});
    const auto field = [&text](std::string_view name, std::string_view value) {
        text.append(name).append(": ").append(value).append("\r\n");
    };
    field("Host", url_.authority);
    bool names_agent = false;
    for (const auto& [name, value] : options_.headers) {
        field(name, value);
        names_agent = names_agent || detail::equal_ignoring_case(name, "User-Agent");
    }
    if (!names_agent) field("User-Agent", "task-scheduler/" SCHEDULER_VERSION);
    field("Content-Type",
          is_batch && is_cloudevents ? "application/cloudevents-batch+json" : "application/json");
    field("Content-Length", std::to_string(body.size()));
    field("webhook-id", id);
    field("webhook-timestamp", timestamp);
    std::string signatures;
    for (const std::string& key : keys_) {
        if (!signatures.empty()) signatures += ' ';
        std::string signed_text = detail::concat({id, ".", timestamp, "."});
        signatures += detail::webhook_signature(key, signed_text.append(body));
    }
    if (!signatures.empty()) field("webhook-signature", signatures);
    if (!is_batch) append_event_fields(text, delivery.event);
    return text.append("\r\n").append(body);
}

inline Outcome WebhookSink::deliver(const Delivery& delivery) {
    channel_->begin(std::chrono::steady_clock::now() + options_.timeout);
    try {
        send(request(delivery));
        channel_->receive_answer(*reader_, [] { return true; });
    } catch (const detail::Shortage& error) {
        channel_->close();
        return Outcome::postponed(error.what());
    } catch (const std::bad_alloc&) {
        channel_->close();
        throw;
    } catch (const std::exception& error) {
        channel_->close();
        return Outcome::failed(std::string("no whole answer: ") + error.what());
    }
    if (!reader_->can_go_on() || reader_->has_more()) channel_->close();
    return judge();
}

// A receiver may end a kept connection at any time, also just now: then the request,
// which bears its id, goes out once more.
inline void WebhookSink::send(const std::string& request) {
    reader_.emplace(detail::MessageReader::Kind::answers, max_body);
    if (channel_->is_open()) {
        try {
            channel_->send(request);
            if (channel_->receive(*reader_)) return;
        } catch (const detail::TooLate&) {
            throw;
        } catch (const std::exception&) {  // it was at its end
        }
    }
    channel_->connect();
    channel_->send(request);
}

// B1
inline Outcome WebhookSink::judge() const {
    const int status = reader_->status();
    if (status / 100 == 2) return {};
    if (status == 410) {
        return Outcome::disabled("the receiver answers 410, it wants no more events");
    }
    const std::string retry_after(reader_->request().field("Retry-After").value_or(""));
    return Outcome::failed("the receiver answers " + std::to_string(status),
                           detail::parse_retry_after(retry_after, wall_clock()));
}

// ---- 14.4 Sinks from a file ------------------------------------------------

/// The name of a sink that was given none, from its kind and its URL or command: always
/// the same for the same.
inline std::string default_sink_name(std::string_view kind, std::string_view text) {
    return detail::concat({kind, "-", detail::digest_of(text).substr(0, 8)});
}

namespace detail {

// Reads sinks from JSON.  What is wrong is thrown with the place where it is.
class SinkReader {
public:
    SinkReader(std::function<void(const LogRecord&)> log, std::string source)
        : log_(std::move(log)), source_(std::move(source)) {}
    std::vector<SinkOptions> read(std::string_view json);

private:
    [[noreturn]] static void refuse(const std::string& place, const std::string& why) {
        throw_as(Errc::invalid_argument, {place, ": ", why});
    }
    template <class Fn>
    static void members(std::string_view json, const std::string& place, Fn fn);
    template <class Fn>
    static void elements(std::string_view json, const std::string& place, Fn fn);
    static std::string string_of(std::string_view json, const std::string& place);
    static milliseconds duration_of(std::string_view json, const std::string& place);
    // An array, each element of which read_one() reads.
    template <class One>
    static std::vector<One> all_of(std::string_view json, const std::string& place,
                                   One (*read_one)(std::string_view, const std::string&));
    // Whether a string is the second of two that it may be.
    static bool is_second(std::string_view json, const std::string& place, const char* first,
                          const char* second);
    // What is said of a sink, before it is one.
    struct Draft {
        SinkOptions options;
        WebhookOptions webhook;
        CommandOptions command;
        std::set<std::string> said;  // the names of the members
    };
    static std::string file_of(std::string_view json, const std::string& place);
    static std::size_t batch_of(std::string_view json, const std::string& place);
    static bool take(Draft& draft, const std::string& key, std::string_view value,
                     const std::string& place);
    static bool take_headers(Draft& draft, std::string_view value, const std::string& place,
                             std::string (*read_one)(std::string_view, const std::string&));
    SinkOptions read_sink(std::string_view json, const std::string& place) const;
    std::string settings_of(std::string_view json, const WebhookOptions& webhook) const;
    std::shared_ptr<Sink> make(const Draft& draft) const;

    const std::function<void(const LogRecord&)> log_;
    const std::string source_;  // of CloudEvents
};

template <class Fn>
void SinkReader::members(std::string_view json, const std::string& place, Fn fn) {
    if (json.empty() || json.front() != '{') refuse(place, "must be an object");
    std::set<std::string> seen;
    for_each_member(json, [&](std::string_view key, std::string_view value) {
        const std::string name = read_string(concat({"\"", key, "\""})).value_or("");
        const std::string where = concat({place, ".", printable(name, 64)});
        if (!seen.insert(name).second) refuse(where, "is given more than once");
        if (!fn(name, value, where)) refuse(where, "is not known");
    });
}

template <class Fn>
void SinkReader::elements(std::string_view json, const std::string& place, Fn fn) {
    if (json.empty() || json.front() != '[') refuse(place, "must be an array");
    std::size_t index = 0;
    for_each_element(json, [&](std::string_view value) {
        fn(value, concat({place, "[", index++, "]"}));
    });
}

inline std::string SinkReader::string_of(std::string_view json, const std::string& place) {
    const auto text = read_string(json);
    if (!text || text->find('\0') != std::string::npos) refuse(place, "must be a string");
    return *text;
}

inline milliseconds SinkReader::duration_of(std::string_view json, const std::string& place) {
    const auto text = read_string(json);
    const auto duration = text ? parse_duration(*text) : std::nullopt;
    if (!duration || *duration < milliseconds(1) || *duration > std::chrono::hours(24 * 30)) {
        refuse(place, "must be a duration such as \"15s\" or \"5m\", 30 days at most");
    }
    return *duration;
}

template <class One>
std::vector<One> SinkReader::all_of(std::string_view json, const std::string& place,
                                    One (*read_one)(std::string_view, const std::string&)) {
    std::vector<One> all;
    elements(json, place, [&](std::string_view value, const std::string& where) {
        all.push_back(read_one(value, where));
    });
    return all;
}

inline std::vector<SinkOptions> SinkReader::read(std::string_view json) {
    JsonReader reader(json);
    std::string_view whole;
    if (!reader.value(whole) || !reader.finish()) {
        throw_as(Errc::invalid_argument, {"it is not valid JSON: ", reader.problem()});
    }
    std::vector<SinkOptions> sinks;
    std::set<std::string> names;
    bool found = false;
    members(whole, "the file", [&](const std::string& key, std::string_view value, const auto&) {
        if (key != "sinks") return false;
        found = true;
        elements(value, "sinks", [&](std::string_view sink, const std::string& place) {
            sinks.push_back(read_sink(sink, place));
            if (!names.insert(sinks.back().name).second) {
                refuse(place + ".name", "another sink is called " + sinks.back().name);
            }
        });
        return true;
    });
    if (!found) refuse("the file", "must have the member \"sinks\"");
    return sinks;
}

inline bool SinkReader::is_second(std::string_view json, const std::string& place,
                                  const char* first, const char* second) {
    const std::string text = string_of(json, place);
    if (text != first && text != second) {
        refuse(place, concat({"must be \"", first, "\" or \"", second, "\""}));
    }
    return text == second;
}

// What is in a file, which may end with a newline.
inline std::string SinkReader::file_of(std::string_view json, const std::string& place) {
    constexpr std::size_t most = 16'384;
    std::string text;
    try {
        text = read_file(string_of(json, place), most);
    } catch (const Error& error) {
        refuse(place, error.what());
    }
    if (!text.empty() && text.back() == '\n') text.pop_back();
    if (!text.empty() && text.back() == '\r') text.pop_back();
    if (text.empty()) refuse(place, "the file is empty");
    return text;
}

inline std::size_t SinkReader::batch_of(std::string_view json, const std::string& place) {
    const auto number = json.size() <= 4 ? read_digits(json) : std::nullopt;
    if (!number || *number < 1 || *number > 1'000) {
        refuse(place, "must be a whole number from 1 to 1000");
    }
    return static_cast<std::size_t>(*number);
}

inline bool SinkReader::take_headers(Draft& draft, std::string_view value, const std::string& place,
                                     std::string (*read_one)(std::string_view,
                                                             const std::string&)) {
    members(value, place, [&](const std::string& name, std::string_view text, const auto& at) {
        draft.webhook.headers.emplace_back(name, read_one(text, at));
        return true;
    });
    return true;
}

// False: there is no such member.
inline bool SinkReader::take(Draft& draft, const std::string& key, std::string_view value,
                             const std::string& place) {
    draft.said.insert(key);
    SinkOptions& options = draft.options;
    WebhookOptions& webhook = draft.webhook;
    if (key == "name") {
        options.name = string_of(value, place);
        if (!is_sink_name(options.name)) refuse(place, sink_name_rule);
    } else if (key == "webhook") {
        webhook.url = string_of(value, place);
    } else if (key == "exec") {
        draft.command.command = all_of(value, place, string_of);
    } else if (key == "secrets" || key == "secret_files") {
        for (std::string& secret : all_of(value, place, key == "secrets" ? string_of : file_of)) {
            webhook.secrets.push_back(std::move(secret));
        }
    } else if (key == "headers" || key == "header_files") {
        return take_headers(draft, value, place, key == "headers" ? string_of : file_of);
    } else if (key == "format") {
        const bool is_event = is_second(value, place, "payload", "cloudevents");
        webhook.format = is_event ? WebhookFormat::cloudevents : WebhookFormat::payload;
    } else if (key == "batch") {
        webhook.batch = batch_of(value, place);
    } else if (key == "timeout") {
        webhook.timeout = draft.command.timeout = duration_of(value, place);
    } else if (key == "retry") {
        options.retry = all_of(value, place, duration_of);
    } else if (key == "topics") {
        options.topics = all_of(value, place, string_of);
        if (options.topics.empty()) {
            refuse(place, "must name a topic; leave it out for all events");
        }
        const std::string problem = topics_problem(options.topics);
        if (!problem.empty()) refuse(place, problem);
    } else if (key == "from") {
        options.from_earliest = is_second(value, place, "newest", "earliest");
    } else {
        return false;
    }
    return true;
}

inline SinkOptions SinkReader::read_sink(std::string_view json, const std::string& place) const {
    Draft draft;
    members(json, place, [&](const std::string& key, std::string_view value, const auto& where) {
        return take(draft, key, value, where);
    });
    SinkOptions& options = draft.options;
    if (options.name.empty()) refuse(place + ".name", "is missing");
    const bool is_command = draft.said.count("exec") > 0;
    if (is_command == (draft.said.count("webhook") > 0)) {
        refuse(place, "must have one of \"webhook\" and \"exec\"");
    }
    for (const char* key :
         {"secrets", "secret_files", "headers", "header_files", "format", "batch"}) {
        if (is_command && draft.said.count(key) > 0) {
            refuse(concat({place, ".", key}), "is only for a webhook");
        }
    }
    options.settings = settings_of(json, draft.webhook);
    try {
        options.sink = make(draft);
    } catch (const Error& error) {
        refuse(place, error.what());
    }
    return std::move(options);
}

// All that a sink is made of, what was read from files included.
inline std::string SinkReader::settings_of(std::string_view json,
                                           const WebhookOptions& webhook) const {
    std::string settings(json);
    const auto add = [&settings](std::string_view text) { settings.append(1, '\0').append(text); };
    add(source_);
    for (const std::string& secret : webhook.secrets) add(secret);
    for (const auto& field : webhook.headers) add(field.second);
    return settings;
}

inline std::shared_ptr<Sink> SinkReader::make(const Draft& draft) const {
    if (draft.said.count("webhook") > 0) {
        WebhookOptions options = draft.webhook;
        options.source = source_;
        return std::make_shared<WebhookSink>(std::move(options));
    }
    CommandOptions options = draft.command;
    if (log_) options.log = command_log(log_, draft.options.name);
    auto sink = std::make_shared<CommandSink>(std::move(options));
    // It may be there when it is needed; until then its events are tried again.
    const std::string problem = CommandSink::problem(sink->target());
    if (!problem.empty()) {
        tell(log_, LogLevel::warning, "command.missing", "sink ", named("sink", draft.options.name),
             ": ", problem);
    }
    return sink;
}

}  // namespace detail

/// Reads sinks from JSON:
///
///     {"sinks": [{"name": "billing", "webhook": "https://example.org/hook",
///                 "secrets": ["whsec_…"], "headers": {"X-Team": "a"}, "timeout": "15s",
///                 "secret_files": ["/run/new"], "header_files": {"X-Token": "/run/token"},
///                 "format": "cloudevents", "batch": 100, "retry": ["5s", "5m"],
///                 "from": "newest"},
///                {"name": "valve", "exec": ["/usr/bin/valve", "open"], "timeout": "30s"}]}
///
/// `log` gets what commands write, and `source` is that of CloudEvents.  Files are read at
/// once.  Throws `Error` with `invalid_argument`, which names the place where the text is wrong.
inline std::vector<SinkOptions> parse_sinks(std::string_view json,
                                            std::function<void(const LogRecord&)> log = nullptr,
                                            std::string source = "task-scheduler") {
    return detail::SinkReader(std::move(log), std::move(source)).read(json);
}

// ============================================================================
// 15. Client
// ============================================================================

/// Where a `Client` finds its server.
struct ClientOptions {
    /// Scheme, host and port, and the prefix of the scheduler where it has one, such as
    /// `http://tasks.example:8080/heating`; a slash at the end means nothing.  Or `unix:/path`, of
    /// a socket in the file system, with a prefix `unix:/path:/heating`.
    std::string url = "http://127.0.0.1:8080";
    /// Sent with every request, if not empty.
    std::string secret;
    /// How long a connection, and an answer, may take.
    milliseconds timeout{15'000};
    /// For https: a file of authorities, in PEM, that the server's certificate is checked against;
    /// empty: the system's, or `SSL_CERT_FILE`.
    std::string ca_file;
    /// For https: files of the client's certificate and its key, in PEM, where the server asks.
    std::string certificate;
    std::string key;  ///< see `certificate`
};

/// Which events to list: the newest, or those right after or before one.
struct HistoryQuery {
    std::size_t limit = 100;  ///< how many at most, up to 1000
    std::string after;        ///< only those after this id, or `earliest`; or empty
    std::string before;       ///< only those before this id; or empty
    Filter filter{};          ///< only those
};

/// What a submission came to, see `Client::submit`.
struct SubmitResult {
    std::vector<TaskId> ids;  ///< of the tasks, in order
    bool created = false;     ///< false: the key came before, and these are the tasks of then
};

/// A client of the HTTP interface.  Every call makes a connection of its own, blocks
/// until it is answered, may be made from any thread, and throws `Error`: with
/// `unreachable` if there is no answer, else with what the server's status says.
class Client {
public:
    /// Called with an event's id and payload, on the subscription's thread.
    using OnEvent = std::function<void(TaskId, std::string_view payload)>;

    /// Throws `Error` with `invalid_argument` if the URL cannot be one, or a file cannot be used.
    explicit Client(ClientOptions options = {});

    /// Schedules a task.  A request with a key is made once, however often it is sent.
    TaskId schedule(const NewTask& task, const std::string& key = "") const {
        return schedule_body(detail::payload_of(task), key);
    }
    /// The same, for a moment that lies `delay` ahead by the server's clock, whatever `task.due`
    /// says.
    TaskId schedule(milliseconds delay, const NewTask& task, const std::string& key = "") const {
        return schedule_body(delayed(delay, task), key);
    }
    /// Schedules `message`, JSON text of an object, an array or a string.
    TaskId schedule(TimePoint due, std::string_view message, const std::string& key = "") const {
        return schedule(NewTask{due, std::string(message)}, key);
    }
    /// The same, for a moment that lies `delay` ahead by the server's clock.
    TaskId schedule(milliseconds delay, std::string_view message,
                    const std::string& key = "") const {
        return schedule(delay, NewTask{TimePoint(), std::string(message)}, key);
    }
    /// Cancels the pending tasks that are due in a range and that the filter chooses, all of
    /// them or none; returns how many.
    std::size_t cancel(const DueRange& range, const Filter& filter = {}) const;
    /// Makes the task of a name, or replaces the pending one in place, as `Scheduler::put`.
    PutResult put(std::string_view name, const NewTask& task, PutIf condition = PutIf::any) const {
        return put_body(name, detail::payload_of(task), condition);
    }
    /// The same, for a moment that lies `delay` ahead by the server's clock, whatever `task.due`
    /// says.
    PutResult put(std::string_view name, milliseconds delay, const NewTask& task,
                  PutIf condition = PutIf::any) const {
        return put_body(name, delayed(delay, task), condition);
    }
    /// Cancels a task.  False: there is no such task.
    bool cancel(TaskId id) const { return cancel_path(path_of(id)); }
    /// Cancels the pending task that a name means.
    bool cancel(std::string_view name) const { return cancel_path(path_of(name)); }
    /// Moves a task to another time.
    Task move(TaskId id, TimePoint due) const { return move_path(path_of(id), due); }
    /// The same for the pending task that a name means.
    Task move(std::string_view name, TimePoint due) const { return move_path(path_of(name), due); }
    /// Moves a task to a moment that lies `delay` ahead by the server's clock.
    Task move(TaskId id, milliseconds delay) const { return move_path(path_of(id), delay); }
    /// The same for the pending task that a name means.
    Task move(std::string_view name, milliseconds delay) const {
        return move_path(path_of(name), delay);
    }
    /// The task with this id.
    std::optional<Task> find(TaskId id) const { return find_path(path_of(id)); }
    /// The pending task that a name means.
    std::optional<Task> find(std::string_view name) const { return find_path(path_of(name)); }
    /// All that is known of the task with this id.
    std::optional<TaskStory> story(const std::string& id) const;
    /// Pending tasks by due time, or missed ones; `query.limit` is at most 1000.  All that the
    /// query chooses are always counted, if they can be.
    TaskPage tasks(const TaskQuery& query = {}) const;
    /// How many tasks are pending in each of `buckets` equal spans, as `Scheduler::histogram`.
    Histogram histogram(const DueRange& range = {}, std::size_t buckets = 100) const;
    /// Past events in order of emission.  Their `seq`, and the page's `next`, are 0.
    EventPage events(const HistoryQuery& query = {}) const;
    /// Holds back all emissions until resumed; `reason` may be empty.
    void pause(const std::string& reason = "") const;
    /// Ends a pause.
    void resume() const { ask("POST", "/resume"); }
    /// Since when and why nothing is emitted.  Nothing: it is not paused.
    std::optional<Pause> paused() const;
    /// Throws unless the server is alive, which it is also while it opens its journal.  Needs no
    /// secret, as the next one.
    void check_alive() const { ask("GET", "/healthz"); }
    /// Throws unless it accepts and emits tasks, or is paused: with `refused`, and why.
    void check_ready() const { ask("GET", "/readyz"); }
    /// How the server stands, as `GET /status` tells it: a JSON object.
    std::string status() const { return ask("GET", "/status"); }
    /// Schedules what is written as requests, in JSON, as `POST /schedule` takes them: all of them
    /// or none, up to 10,000.  With a key, as schedule().
    SubmitResult submit(const std::vector<std::string>& requests,
                        const std::string& key = "") const;
    /// As put(), with the task written as a request in JSON.
    PutResult put_request(std::string_view name, const std::string& request,
                          PutIf condition = PutIf::any) const {
        return put_body(name, request, condition);
    }
    /// Hands over the server's journal as it stands at this moment, piece by piece, and returns
    /// its size.  Throws `Error` with `unreachable` if it does not come whole, and with
    /// `refused` if the server has none that is a file.
    std::uint64_t backup(const std::function<void(std::string_view piece)>& take) const;
    /// Writes it to a file, which gets its name when it is whole and synced.  Throws `Error` also
    /// with what `Scheduler::backup` throws.
    std::uint64_t backup(const std::string& path, bool overwrite = false) const;
    /// How each sink stands.
    std::vector<SinkStatus> sinks() const;
    /// Dead letters of a sink, in order of emission, behind the one with the id `after`;
    /// `limit` is at most 1000.  The seq of their events is 0.
    DeadPage dead_letters(const std::string& sink, std::optional<TaskId> after = std::nullopt,
                          std::size_t limit = 100) const;
    /// Has a dead letter delivered again, or all of them; returns how many they are.
    std::size_t redeliver(const std::string& sink, std::optional<TaskId> id = std::nullopt) const;
    /// Holds back a sink's events.
    void pause_sink(const std::string& sink) const { ask("POST", sink_path(sink, "/pause")); }
    /// Goes on with a sink's events at once.
    void resume_sink(const std::string& sink) const { ask("POST", sink_path(sink, "/resume")); }
    /// Drops the cursor and the dead letters of an unlisted sink.  Throws with `sink_listed`
    /// if it is configured.
    void forget_sink(const std::string& sink) const;

    class Subscription;
    /// Calls `on_event` for each event after the one with the id `last_event_id`
    /// (`earliest`: for all that are retained; empty: from now on), for as long as the
    /// subscription lives.  It reconnects by itself and resumes where it was;
    /// `on_gap` is called when events are missing, `on_error` with why a connection
    /// failed.  With `topics`, as those of `Filter`, only events come that they choose.
    std::unique_ptr<Subscription> subscribe(
        OnEvent on_event, std::string last_event_id = "", std::function<void()> on_gap = nullptr,
        std::function<void(const std::string&)> on_error = nullptr,
        std::vector<std::string> topics = {}) const;

private:
    using Fields = std::vector<std::pair<std::string_view, std::string>>;
    using Look = std::function<bool()>;
    struct Answer {
        int status;
        std::string body;
        bool is_replayed;  // it is the first one of an idempotency key
    };

    std::string request(const char* method, const std::string& path, const Fields& more = {},
                        const std::string& body = "") const;
    Answer answer_to(const char* method, const std::string& path, const std::string& body = "",
                     const Fields& more = {}) const;
    std::string ask(const char* method, const std::string& path,
                    const std::string& body = "") const {
        return answer_to(method, path, body).body;
    }
    void exchange(const std::string& request, detail::MessageReader& answer,
                  const Look& look) const;
    void exchange_by(detail::Channel& channel, const std::string& request, milliseconds patience,
                     detail::MessageReader& answer, const Look& look) const;
    std::string reason_in_hand() const;
    std::string advice_on(detail::TlsFault fault) const;
    [[noreturn]] void refuse(int status, const std::string& body) const;
    static std::string delayed(milliseconds delay, const NewTask& task);
    TaskId schedule_body(const std::string& body, const std::string& key) const;
    PutResult put_body(std::string_view name, const std::string& body, PutIf condition) const;
    bool cancel_path(const std::string& path) const;
    Task move_path(const std::string& path, TimePoint due) const;
    Task move_path(const std::string& path, milliseconds delay) const;
    std::optional<Task> find_path(const std::string& path) const;
    static std::string path_of(TaskId id) { return "/tasks/" + id.str(); }
    static std::string path_of(std::string_view name);
    static std::string sink_path(const std::string& sink, const std::string& what = "");

    static constexpr std::size_t any_size = std::numeric_limits<std::size_t>::max();

    const ClientOptions options_;
    const detail::Url url_;
    const std::shared_ptr<const detail::TlsContext> tls_;  // null: without
};

namespace detail {

// Reads an event stream as it comes (HTML, 9.2.6), as far as this server writes it.
class StreamReader {
public:
    struct Event {
        std::string name;
        std::string id;
        std::string data;
    };

    // Calls fn(event) for each event that `text` completes.
    template <class Fn>
    void read(std::string_view text, Fn fn) {
        buffer_ += text;
        std::size_t begin = 0;
        for (std::size_t end; (end = buffer_.find('\n', begin)) != std::string::npos;
             begin = end + 1) {
            const std::string_view line = std::string_view(buffer_).substr(begin, end - begin);
            if (line.empty()) {
                if (!event_.data.empty()) fn(event_);
                event_ = {};
            } else {
                take(line);
            }
        }
        buffer_.erase(0, begin);
    }
    std::optional<milliseconds> retry() const { return retry_; }

private:
    void take(std::string_view line) {
        const std::size_t colon = line.find(':');
        const std::string_view name = line.substr(0, colon);
        std::string_view value = colon == std::string_view::npos ? "" : line.substr(colon + 1);
        if (!value.empty() && value.front() == ' ') value.remove_prefix(1);
        if (name == "event") event_.name = value;
        if (name == "id") event_.id = value;
        if (name == "data") event_.data += value;
        if (name == "retry" && value.size() < 9) {
            retry_ = milliseconds(std::atoi(std::string(value).c_str()));
        }
    }

    std::string buffer_;
    Event event_;
    std::optional<milliseconds> retry_;
};

// What a payload says of its task.
inline void read_details(DetailedParts& parts) {
    for_each_member(parts.payload, [&parts](std::string_view key, std::string_view value) {
        const auto text = read_string(value);
        if (is_named(key, "topic") && text && is_topic(*text)) parts.topic = text;
        if (!is_named(key, "max_lateness")) return;
        const auto most = read_duration(value);
        if (most) parts.max_lateness = static_cast<std::uint64_t>(most->count());
    });
}

// read() takes a value out of JSON.  False: what is there is of another kind.
inline bool read(JsonView from, JsonView& to) {
    to = from;
    return true;
}
inline bool read(JsonView from, std::string& to) {
    auto text = read_string(from.text);
    if (text) to = std::move(*text);
    return text.has_value();
}
inline bool read(JsonView from, bool& to) {
    to = from.text == "true";
    return to || from.text == "false";
}
inline bool read(JsonView from, TaskId& to) {
    const auto id = TaskId::parse(inside(from.text));
    if (id) to = *id;
    return id.has_value();
}
inline bool read(JsonView from, TimePoint& to) {
    const auto time = parse_time(inside(from.text));
    if (time) to = *time;
    return time.has_value();
}
template <class Number>
std::enable_if_t<std::is_integral_v<Number>, bool> read(JsonView from, Number& to) {
    const auto number = read_digits(from.text);
    if (number) to = static_cast<Number>(*number);
    return number.has_value();
}
template <class Value>
bool read(JsonView from, std::optional<Value>& to) {
    if (from.text == "null" || !read(from, to.emplace())) to.reset();
    return to.has_value();
}
template <class Value>
bool read(JsonView from, std::vector<Value>& to) {
    bool good = true;
    const bool valid = for_each_element(from.text, [&](std::string_view one) {
        to.emplace_back();
        good = read(JsonView{one}, to.back()) && good;
    });
    return valid && good;
}
// One of several words, which stand for the values of an enumeration.
template <std::size_t count, class Value>
bool read(JsonView from, const std::array<std::string_view, count>& words, Value& to) {
    const auto* const word = std::find(words.begin(), words.end(), inside(from.text));
    if (word != words.end()) to = static_cast<Value>(word - words.begin());
    return word != words.end();
}
inline bool read(JsonView from, Status& to) {
    return read(from, task_statuses, to);
}
inline bool read(JsonView from, SinkState& to) {
    return read(from, sink_states, to);
}
inline bool read(JsonView from, SinkShare::State& to) {
    return read(from, share_states, to);
}

// The members of an object, each of which is read by its name.
class JsonMembers {
public:
    explicit JsonMembers(std::string_view json) {
        for_each_member(json, [this](std::string_view name, std::string_view value) {
            members_.push_back({name, {value}});
        });
    }
    // False: there is no such member of this kind.
    template <class Value>
    bool has(std::string_view name, Value& to) const {
        bool found = false;
        for (const auto& [key, value] : members_) {
            if (key == name) found = read(value, to);
        }
        return found;
    }
    template <class Value>
    const JsonMembers& get(std::string_view name, Value& to) const {
        has(name, to);
        return *this;
    }

private:
    std::vector<std::pair<std::string_view, JsonView>> members_;
};

// The value of a member, which an answer must have.
template <class Value>
Value member_in(std::string_view json, std::string_view name) {
    Value value{};
    if (JsonMembers(json).has(name, value)) return value;
    throw_as(Errc::unreachable, {"the answer is not that of a scheduler"});
}

// An answer that is one object.
template <class Value>
Value read_as(std::string_view json) {
    Value value;
    read(JsonView{json}, value);
    return value;
}

inline bool read(JsonView from, Task& to) {
    DetailedParts parts;
    JsonView payload;
    JsonMembers(from.text)
        .get("id", to.id)
        .get("due", to.due)
        .get("status", to.status)
        .get("emitted_at", to.ended_at)
        .get("missed_at", to.ended_at)
        .get("payload", payload)
        .get("name", parts.name)
        .get("traceparent", parts.traceparent)
        .get("tracestate", parts.tracestate);
    parts.payload = payload.text;
    if (!parts.payload.empty()) read_details(parts);
    const Details details = parts.details();
    if (!are_acceptable(details)) {
        throw_as(Errc::unreachable, {"the answer is not that of a scheduler"});
    }
    to.payload = PayloadAccess::make(TaskRef::make(to.id, to.due, parts.payload, details));
    return true;
}

inline bool read(JsonView from, Event& to) {
    const auto task = read_as<Task>(from.text);
    to = {task.id, task.due, task.ended_at, 0, task.payload};
    return true;
}

inline bool read(JsonView from, Pause& to) {
    JsonMembers(from.text).get("since", to.since).get("reason", to.reason);
    return true;
}

inline bool read(JsonView from, SinkShare& to) {
    JsonMembers(from.text)
        .get("name", to.sink)
        .get("state", to.state)
        .get("attempts", to.attempts)
        .get("error", to.error)
        .get("next_attempt", to.next_attempt);
    return true;
}

inline bool read(JsonView from, TaskStory& to) {
    read(from, to.task);
    JsonMembers(from.text).get("stored_at", to.stored_at).get("sinks", to.sinks);
    return true;
}

inline bool read(JsonView from, Histogram& to) {
    JsonMembers(from.text).get("from", to.from).get("to", to.to).get("counts", to.counts);
    return true;
}

inline bool read(JsonView from, SinkStatus& to) {
    JsonMembers(from.text)
        .get("name", to.name)
        .get("kind", to.kind)
        .get("target", to.target)
        .get("topics", to.topics)
        .get("state", to.state)
        .get("cursor", to.cursor)
        .get("lag", to.lag)
        .get("attempts", to.attempts)
        .get("next_attempt", to.next_attempt)
        .get("last_error", to.last_error)
        .get("delivered", to.delivered)
        .get("failed", to.failed)
        .get("postponed", to.postponed)
        .get("dead", to.dead)
        .get("dropped", to.dropped);
    return true;
}

inline bool read(JsonView from, DeadLetter& to) {
    read(from, to.event);
    JsonMembers(from.text)
        .get("given_up_at", to.at)
        .get("attempts", to.attempts)
        .get("error", to.error)
        .get("redelivering", to.redelivering);
    return true;
}

// A page: adds what it holds to `items`, and returns where it stands.
template <class Item>
PageInfo read_page(std::string_view json, std::vector<Item>& items) {
    PageInfo page;
    JsonMembers(json).get("data", items);
    JsonMembers(member_in<JsonView>(json, "page_info").text)
        .get("start_cursor", page.start)
        .get("end_cursor", page.end)
        .get("total_count", page.total)
        .get("matching_count", page.matching);
    return page;
}

// A segment of a path, or a value in a query: a text in which nothing has another meaning.
inline std::string url_encoded(std::string_view text) {
    std::string encoded;
    for (const char c : text) {
        const auto byte = static_cast<unsigned char>(c);
        if (consists_of_alnum_and("-._~", {&c, 1})) {
            encoded += c;
        } else {
            encoded += {'%', hex_digit(byte >> 4U), hex_digit(byte)};
        }
    }
    return encoded;
}

// The parameters of a query that choose, each behind an `&`.
inline std::string params_of(const DueRange& range, const Filter& filter) {
    std::string params;
    if (range.after) params += "&due_after=" + url_encoded(format_time(*range.after));
    if (range.before) params += "&due_before=" + url_encoded(format_time(*range.before));
    for (const std::string& topic : filter.topics) params += "&topic=" + url_encoded(topic);
    if (!filter.text.empty()) params += "&q=" + url_encoded(filter.text);
    return params;
}

// Where a server is: [http[s]://]HOST[:PORT][/PREFIX], a slash behind it means nothing; or
// unix:/PATH[:/PREFIX].  A password, which has no place in it, is not repeated.  The target is the
// prefix.
inline Url server_url(std::string_view text) {
    constexpr std::string_view unix_scheme = "unix:";
    const auto refuse = [](const std::string& why) { throw_as(Errc::invalid_argument, {why}); };
    const std::string shown = concat({"cannot use the URL ", printable(text, 128), ": "});
    if (text.substr(0, unix_scheme.size()) == unix_scheme) {
        const std::size_t colon = std::min(text.find(":/", unix_scheme.size()), text.size());
        const std::string path(text.substr(unix_scheme.size(), colon - unix_scheme.size()));
        std::string prefix(text.substr(std::min(colon + 1, text.size())));
        if (!prefix.empty() && prefix.back() == '/') prefix.pop_back();
        if (path.empty() || path.front() != '/' || path.size() >= sizeof(sockaddr_un::sun_path) ||
            !is_prefix(prefix)) {
            refuse(shown +
                   "it must be like unix:/run/tasks.sock, and no longer than the path of a socket "
                   "may be");
        }
        return {std::string(text), "localhost", {}, {}, std::move(prefix), false, path};
    }
    if (text.find('@') != std::string_view::npos) {
        refuse(
            "the URL of a server has no user and no password; a secret is given by itself (on the "
            "command line: --secret-file)");
    }
    if (!text.empty() && text.back() == '/') text.remove_suffix(1);
    const bool has_scheme = text.find("://") != std::string_view::npos;
    const std::string whole = (has_scheme ? "" : "http://") + std::string(text);
    std::optional<Url> url = parse_url(whole);
    if (url) url->target = whole.substr(url->origin.size());
    if (!url || !is_prefix(url->target)) refuse(shown + "it must be like http://127.0.0.1:8080");
    return *url;
}

// Null: it speaks without TLS.
inline std::shared_ptr<const TlsContext> client_context(const ClientOptions& options,
                                                        const Url& url) {
    if (!url.secure) return nullptr;
    if (options.certificate.empty() != options.key.empty()) {
        throw_as(Errc::invalid_argument,
                 {"a client's certificate and its key must be given together (on the command "
                  "line: --client-cert and --client-key)"});
    }
    return std::make_shared<const TlsContext>(
        TlsSide::client, TlsFiles{options.certificate, options.key, options.ca_file});
}

}  // namespace detail

// ---- Calls -----------------------------------------------------------------

inline Client::Client(ClientOptions options)
    : options_(std::move(options)),
      url_(detail::server_url(options_.url)),
      tls_(detail::client_context(options_, url_)) {
    const auto is_control = [](unsigned char c) { return c < 0x20 || c == 0x7F; };
    if (std::any_of(options_.secret.begin(), options_.secret.end(), is_control)) {
        detail::throw_as(Errc::invalid_argument, {"a secret must not hold control characters"});
    }
}

inline std::string Client::request(const char* method, const std::string& path, const Fields& more,
                                   const std::string& body) const {
    std::string text = detail::concat({method, " ", url_.target, path, " HTTP/1.1\r\n"});
    const auto field = [&text](std::string_view name, std::string_view value) {
        text.append(name).append(": ").append(value).append("\r\n");
    };
    field("Host", url_.authority);
    field("User-Agent", "task-scheduler/" SCHEDULER_VERSION);
    field("Connection", "close");
    if (!options_.secret.empty()) field("x-pd-secret", options_.secret);
    for (const auto& [name, value] : more) field(name, value);
    if (!body.empty()) field("Content-Type", "application/json");
    if (method != std::string_view("GET")) field("Content-Length", std::to_string(body.size()));
    return text.append("\r\n").append(body);
}

// Sends a request and reads its answer, each piece of which may take so long.  look() is called
// when more has come; it may take away the body, and returns false where that is enough.
inline void Client::exchange_by(detail::Channel& channel, const std::string& request,
                                milliseconds patience, detail::MessageReader& answer,
                                const Look& look) const {
    const auto end_in = [&channel](milliseconds time) {
        channel.end_by(std::chrono::steady_clock::now() + time);
    };
    end_in(options_.timeout);
    channel.connect();
    try {
        channel.send(request);
    } catch (const std::system_error&) {  // it may have answered before it has got all
    }
    channel.receive_answer(answer, [&] {
        end_in(patience);
        return !answer.has_head() || look();
    });
}

// The same over a connection of its own.
inline void Client::exchange(const std::string& request, detail::MessageReader& answer,
                             const Look& look) const {
    try {
        detail::Channel channel(url_, nullptr, tls_, "the server");
        exchange_by(channel, request, options_.timeout, answer, look);
    } catch (const std::bad_alloc&) {
        throw;
    } catch (const std::exception&) {
        detail::throw_as(Errc::unreachable, {"cannot reach ", url_.origin, ": ", reason_in_hand()});
    }
}

// Throws what the status says, unless it is one of success.
inline Client::Answer Client::answer_to(const char* method, const std::string& path,
                                        const std::string& body, const Fields& more) const {
    detail::MessageReader answer(detail::MessageReader::Kind::answers, any_size);
    exchange(request(method, path, more, body), answer, [] { return true; });
    std::string& text = answer.request().body;
    if (answer.status() != 200 && answer.status() != 201) refuse(answer.status(), text);
    const bool is_replayed = answer.request().field("Idempotent-Replayed").has_value();
    return {answer.status(), std::move(text), is_replayed};
}

// Why there is no answer, and what to do about it, of the exception that is being handled.
inline std::string Client::reason_in_hand() const {
    try {
        throw;
    } catch (const detail::TlsFailure& failure) {
        return failure.what() + advice_on(failure.fault);
    } catch (const std::system_error& failure) {
        const int number = failure.code().value();
        const bool is_nobody = number == ECONNREFUSED || number == ENOENT;
        return std::string(failure.what()) + (is_nobody ? "; is the server running?" : "");
    } catch (const std::exception& failure) {
        return failure.what();
    }
}

inline std::string Client::advice_on(detail::TlsFault fault) const {
    using detail::TlsFault;
    switch (fault) {
        case TlsFault::plain:
            return "; begin its URL with http://";
        case TlsFault::expired:
            return "; it needs a new one";
        case TlsFault::not_yet_good:
            return "; is the clock of this machine right?";
        case TlsFault::other_host:
            return "; use a URL with a name that the certificate has";
        case TlsFault::unknown:
            return "; name the file of the authority that has signed it (on the command line: "
                   "--ca-file)";
        case TlsFault::wants_ours:
            return "; give one with its key (on the command line: --client-cert and --client-key)";
        case TlsFault::refuses_ours:
            return options_.certificate.empty() ? "" : "; it is that of " + options_.certificate;
        case TlsFault::other:
            break;
    }
    return "";
}

inline void Client::refuse(int status, const std::string& body) const {
    std::vector<std::string> errors;
    try {
        detail::JsonMembers(body).get("errors", errors);
    } catch (const Error&) {  // somebody else's answer
    }
    std::string sentences;
    for (const std::string& error : errors) {
        if (!sentences.empty()) sentences += ' ';
        sentences += error;
    }
    if (sentences.empty()) sentences = "the server answers " + std::to_string(status);
    if (status == 401) {
        sentences = detail::concat({"the server ", url_.origin, " wants ",
                                    (options_.secret.empty() ? "a secret" : "another secret"),
                                    " (on the command line: --secret-file)"});
    }
    switch (status) {
        case 400:
        case 413:
            detail::throw_as(Errc::invalid_argument, {sentences});
        case 404:
            detail::throw_as(Errc::unknown_task, {sentences});
        case 409:
            detail::throw_as(Errc::already_emitted, {sentences});
        case 412:
            detail::throw_as(Errc::condition_failed, {sentences});
        case 422:
            detail::throw_as(Errc::key_reused, {sentences});
        case 507:
            detail::throw_as(Errc::task_limit, {sentences});
        default:
            detail::throw_as(Errc::refused, {sentences});
    }
}

// ---- Scheduling ------------------------------------------------------------

namespace detail {

// Throws unless a header field can hold this idempotency key, or there is none.
inline void check_key(std::string_view key) {
    const bool printable =
        std::all_of(key.begin(), key.end(), [](unsigned char c) { return c >= 0x20 && c < 0x7F; });
    if (key.size() <= 255 && printable) return;
    throw_as(Errc::invalid_argument,
             {"An idempotency key must be from 1 to 255 printable ASCII characters."});
}

}  // namespace detail

// The request for a task that is due so far ahead.
inline std::string Client::delayed(milliseconds delay, const NewTask& task) {
    NewTask now = task;
    now.due = TimePoint();
    std::string body = detail::payload_of(now);
    const std::string timestamp = detail::concat({R"("timestamp":")", format_time(now.due), "\""});
    return body.replace(1, timestamp.size(),
                        detail::concat({R"("delay":")", std::to_string(delay.count()), "ms\""}));
}

inline TaskId Client::schedule_body(const std::string& body, const std::string& key) const {
    Fields more;
    detail::check_key(key);
    if (!key.empty()) more.emplace_back("Idempotency-Key", key);
    return detail::member_in<TaskId>(answer_to("POST", "/schedule", body, more).body, "id");
}

inline SubmitResult Client::submit(const std::vector<std::string>& requests,
                                   const std::string& key) const {
    Fields more;
    detail::check_key(key);
    if (!key.empty()) more.emplace_back("Idempotency-Key", key);
    std::string body = "[";
    for (const std::string& request : requests) {
        if (body.size() > 1) body += ',';
        body += request;
    }
    const Answer answer = answer_to("POST", "/schedule", body + ']', more);
    SubmitResult result{detail::member_in<std::vector<TaskId>>(answer.body, "ids"),
                        !answer.is_replayed};
    if (result.ids.size() == requests.size()) return result;
    detail::throw_as(Errc::unreachable, {"the answer is not that of a scheduler"});
}

// ---- Backups ---------------------------------------------------------------

inline std::uint64_t Client::backup(const std::function<void(std::string_view piece)>& take) const {
    std::uint64_t size = 0;
    bool is_journal = true;
    std::exception_ptr failure = nullptr;  // what `take` has thrown, which ends the connection
    detail::MessageReader answer(detail::MessageReader::Kind::answers, any_size);
    const auto look = [&] {
        if (answer.status() != 200) return true;
        const std::string piece = std::exchange(answer.request().body, {});
        const std::size_t known = std::min(piece.size(), detail::journal_mark.size());
        if (size == 0) is_journal = piece.compare(0, known, detail::journal_mark, 0, known) == 0;
        size += piece.size();
        try {
            if (is_journal && !piece.empty()) take(piece);
        } catch (...) {
            failure = std::current_exception();
        }
        return is_journal && !failure;
    };
    try {
        exchange(request("GET", "/backup"), answer, look);
    } catch (const Error&) {
        if (size == 0) throw;
        detail::throw_as(Errc::unreachable,
                         {"the copy of the journal broke off after ", size, " bytes"});
    }
    if (failure) std::rethrow_exception(failure);
    if (!is_journal) detail::throw_as(Errc::unreachable, {"the answer is not a journal"});
    if (answer.status() == 200) {
        const detail::HttpMessage& head = answer.request();
        if (size == 0) detail::throw_as(Errc::refused, {"the journal is empty yet: no copy"});
        if (head.field("Content-Length") || head.field("Transfer-Encoding")) return size;
        detail::throw_as(Errc::unreachable,
                         {"nothing tells whether the copy of the journal is whole"});
    }
    try {
        refuse(answer.status(), answer.request().body);
    } catch (const Error& error) {
        if (error.code() != Errc::unknown_task) throw;
        detail::throw_as(Errc::refused, {error.what()});
    }
}

inline std::uint64_t Client::backup(const std::string& path, bool overwrite) const {
    FileOps ops;
    detail::check_unused(ops, path);
    detail::NewFile copy(ops, path, overwrite);
    backup([&copy](std::string_view piece) { copy.append(piece); });
    copy.finish();
    return copy.size();
}

// ---- Names, and changes of tasks -------------------------------------------

inline std::string Client::path_of(std::string_view name) {
    if (!is_task_name(name)) detail::throw_as(Errc::invalid_argument, {detail::name_rule});
    return "/tasks/" + std::string(name);
}

inline PutResult Client::put_body(std::string_view name, const std::string& body,
                                  PutIf condition) const {
    Fields more;
    if (condition == PutIf::absent) more.emplace_back("If-None-Match", "*");
    if (condition == PutIf::present) more.emplace_back("If-Match", "*");
    const Answer answer = answer_to("PUT", path_of(name), body, more);
    return {detail::member_in<TaskId>(answer.body, "id"), answer.status == 201};
}

inline bool Client::cancel_path(const std::string& path) const {
    try {
        ask("DELETE", path);
        return true;
    } catch (const Error& error) {
        if (error.code() == Errc::unknown_task) return false;
        throw;
    }
}

inline std::size_t Client::cancel(const DueRange& range, const Filter& filter) const {
    const std::string params = detail::params_of(range, filter);
    const std::string path = "/tasks?" + (params.empty() ? "all=true" : params.substr(1));
    return detail::member_in<std::size_t>(ask("DELETE", path), "cancelled");
}

inline Task Client::move_path(const std::string& path, TimePoint due) const {
    const std::string body = detail::concat({R"({"timestamp":")", format_time(due), "\"}"});
    return detail::read_as<Task>(ask("PATCH", path, body));
}

inline Task Client::move_path(const std::string& path, milliseconds delay) const {
    const std::string body =
        detail::concat({R"({"delay":")", std::to_string(delay.count()), "ms\"}"});
    return detail::read_as<Task>(ask("PATCH", path, body));
}

inline std::optional<Task> Client::find_path(const std::string& path) const {
    try {
        return detail::read_as<Task>(ask("GET", path));
    } catch (const Error& error) {
        if (error.code() == Errc::unknown_task) return std::nullopt;
        throw;
    }
}

// ---- Pages -----------------------------------------------------------------

inline std::optional<TaskStory> Client::story(const std::string& id) const {
    std::string json;
    if (id.empty()) return std::nullopt;
    try {
        json = ask("GET", "/tasks/" + detail::url_encoded(id));
    } catch (const Error& error) {
        if (error.code() == Errc::unknown_task) return std::nullopt;
        throw;
    }
    return detail::read_as<TaskStory>(json);
}

inline TaskPage Client::tasks(const TaskQuery& query) const {
    std::string path = "/tasks?limit=" + std::to_string(query.limit);
    path += detail::params_of(query.due, query.filter);
    if (query.after) path += "&after=" + detail::cursor_of(*query.after);
    if (query.status == Status::missed) path += "&status=missed";
    TaskPage page;
    const detail::PageInfo info = detail::read_page(ask("GET", path), page.tasks);
    page.total = info.total;
    page.matching = info.matching;
    page.next = detail::parse_cursor(info.end);
    page.more = page.next.has_value();
    return page;
}

inline Histogram Client::histogram(const DueRange& range, std::size_t buckets) const {
    const std::string path =
        detail::concat({"/histogram?buckets=", buckets, detail::params_of(range, {})});
    return detail::read_as<Histogram>(ask("GET", path));
}

inline EventPage Client::events(const HistoryQuery& query) const {
    for (const std::string* cursor : {&query.after, &query.before}) {
        if (cursor->empty() || *cursor == "earliest" || TaskId::parse(*cursor)) continue;
        detail::throw_as(Errc::invalid_argument,
                         {"a cursor of events is an event's id, or earliest"});
    }
    std::string path = "/events?limit=" + std::to_string(query.limit);
    if (!query.after.empty()) path += "&after=" + query.after;
    if (!query.before.empty()) path += "&before=" + query.before;
    path += detail::params_of({}, query.filter);
    EventPage page;
    const detail::PageInfo info = detail::read_page(ask("GET", path), page.events);
    page.total = info.total;
    page.matching = info.matching;
    page.first = TaskId::parse(info.start);
    page.last = TaskId::parse(info.end);
    page.more = page.last.has_value();
    if (!page.last && !page.events.empty()) page.last = page.events.back().id;
    return page;
}

inline std::optional<Pause> Client::paused() const {
    std::optional<Pause> paused;
    detail::JsonMembers(status()).get("paused", paused);
    return paused;
}

inline void Client::pause(const std::string& reason) const {
    ask("POST", "/pause",
        reason.empty() ? "" : detail::concat({R"({"reason":)", quote_json(reason), "}"}));
}

// ---- Sinks -----------------------------------------------------------------

inline std::string Client::sink_path(const std::string& sink, const std::string& what) {
    if (!detail::is_sink_name(sink)) {
        detail::throw_as(Errc::invalid_argument,
                         {std::string("a sink's name ") + detail::sink_name_rule});
    }
    return detail::concat({"/sinks/", sink, what});
}

// A sink's name alone cannot be in the way of a task.
inline void Client::forget_sink(const std::string& sink) const {
    try {
        ask("DELETE", sink_path(sink));
    } catch (const Error& error) {
        if (error.code() == Errc::already_emitted)
            detail::throw_as(Errc::sink_listed, {error.what()});
        if (error.code() == Errc::unknown_task)
            detail::throw_as(Errc::unknown_sink, {error.what()});
        throw;
    }
}

inline std::vector<SinkStatus> Client::sinks() const {
    return detail::member_in<std::vector<SinkStatus>>(ask("GET", "/sinks"), "data");
}

inline DeadPage Client::dead_letters(const std::string& sink, std::optional<TaskId> after,
                                     std::size_t limit) const {
    std::string path = detail::concat({sink_path(sink, "/dead"), "?limit=", limit});
    if (after) path += "&after=" + after->str();
    DeadPage page;
    const detail::PageInfo info = detail::read_page(ask("GET", path), page.letters);
    page.total = info.total;
    page.more = !info.end.empty();
    return page;
}

inline std::size_t Client::redeliver(const std::string& sink, std::optional<TaskId> id) const {
    const std::string body = id ? detail::concat({R"({"id":")", id->str(), "\"}"}) : "";
    return detail::member_in<std::size_t>(ask("POST", sink_path(sink, "/redeliver"), body),
                                          "redelivering");
}

// ---- Subscriptions ---------------------------------------------------------

/// A subscriber that is being called; see `Client::subscribe`.
class Client::Subscription {
public:
    ~Subscription() { stop(); }
    Subscription(const Subscription&) = delete;
    Subscription& operator=(const Subscription&) = delete;
    /// Ends it, from any thread but its own; when this returns no call is under way.
    void stop();

private:
    friend class Client;
    Subscription(const Client& client, OnEvent on_event, std::string last_event_id,
                 std::function<void()> on_gap, std::function<void(const std::string&)> on_error,
                 const std::vector<std::string>& topics);
    void run();
    void follow();
    void take(const detail::StreamReader::Event& event);
    void report(const std::string& problem) const {
        if (on_error_) on_error_(problem);
    }
    bool is_stopping() {
        const std::lock_guard<std::mutex> guard(mutex_);
        return stopping_;
    }

    const Client client_;
    const OnEvent on_event_;
    const std::function<void()> on_gap_;
    const std::function<void(const std::string&)> on_error_;
    const std::string path_;
    std::string last_event_id_;  // of the thread
    milliseconds retry_{3'000};  // of the thread: what the server asked for
    milliseconds wait_{0};       // of the thread: before the next connection
    detail::Channel channel_;
    std::mutex mutex_;
    std::condition_variable changed_;
    bool stopping_ = false;  // guarded by mutex_
    std::thread thread_;     // last: starts when all the above exists
};

inline std::unique_ptr<Client::Subscription> Client::subscribe(
    OnEvent on_event, std::string last_event_id, std::function<void()> on_gap,
    std::function<void(const std::string&)> on_error, std::vector<std::string> topics) const {
    detail::check_topics(topics);
    return std::unique_ptr<Subscription>(
        new Subscription(*this, std::move(on_event), std::move(last_event_id), std::move(on_gap),
                         std::move(on_error), topics));
}

inline Client::Subscription::Subscription(const Client& client, OnEvent on_event,
                                          std::string last_event_id, std::function<void()> on_gap,
                                          std::function<void(const std::string&)> on_error,
                                          const std::vector<std::string>& topics)
    : client_(client),
      on_event_(std::move(on_event)),
      on_gap_(std::move(on_gap)),
      on_error_(std::move(on_error)),
      path_(topics.empty() ? "/sse" : "/sse?" + detail::params_of({}, {{}, topics}).substr(1)),
      last_event_id_(std::move(last_event_id)),
      channel_(client.url_, nullptr, client.tls_, "the server") {
    thread_ = std::thread([this] { run(); });
}

inline void Client::Subscription::stop() {
    {
        const std::lock_guard<std::mutex> guard(mutex_);
        stopping_ = true;
    }
    changed_.notify_all();
    channel_.interrupt();
    if (thread_.joinable()) thread_.join();
}

// After a failure the wait doubles, from what the server asked for up to a minute.
inline void Client::Subscription::run() {
    std::unique_lock<std::mutex> lock(mutex_);
    while (!stopping_) {
        lock.unlock();
        wait_ = std::min(std::max(wait_ * 2, retry_), milliseconds(60'000));
        follow();
        lock.lock();
        if (wait_ != milliseconds(0)) wait_ = std::max(wait_, retry_);
        changed_.wait_for(lock, wait_, [this] { return stopping_; });
    }
}

inline void Client::Subscription::follow() {
    constexpr milliseconds several_keep_alives{60'000};
    Fields fields{{"Accept", "text/event-stream"}};
    if (!last_event_id_.empty()) fields.emplace_back("Last-Event-ID", last_event_id_);
    detail::MessageReader answer(detail::MessageReader::Kind::answers, any_size);
    detail::StreamReader reader;
    const auto look = [&] {
        if (answer.status() != 200) return false;
        std::string& text = answer.request().body;
        reader.read(text, [this](const auto& event) { take(event); });
        text.clear();
        if (reader.retry()) retry_ = *reader.retry();
        return !is_stopping();
    };
    std::string problem;
    try {
        client_.exchange_by(channel_, client_.request("GET", path_, fields), several_keep_alives,
                            answer, look);
        if (answer.status() != 200) {
            problem = "the server answers " + std::to_string(answer.status());
        }
    } catch (const std::exception&) {
        problem = "the connection ended: " + client_.reason_in_hand();
    }
    channel_.close();
    if (!problem.empty() && !is_stopping()) report(problem);
}

inline void Client::Subscription::take(const detail::StreamReader::Event& event) {
    wait_ = milliseconds(0);  // this connection is one; over a limit no event comes
    if (!event.id.empty()) last_event_id_ = event.id;
    if (event.name == "gap" && on_gap_) on_gap_();
    const auto id = TaskId::parse(event.id);
    if (!event.name.empty() || !id) return;
    try {
        on_event_(*id, event.data);
    } catch (const std::exception& error) {
        report(std::string("a subscriber has thrown: ") + error.what());
    } catch (...) {
        report("a subscriber has thrown");
    }
}

#endif  // SCHEDULER_NO_HTTP

}  // namespace scheduler

#pragma GCC diagnostic pop

#pragma pop_macro("emit")
#pragma pop_macro("error")
#pragma pop_macro("far")
#pragma pop_macro("max")
#pragma pop_macro("min")
#pragma pop_macro("near")
#pragma pop_macro("signals")
#pragma pop_macro("slots")
#pragma pop_macro("status")
#pragma pop_macro("Status")

#endif  // C++17, Linux and exceptions
#endif  // SCHEDULER_HPP
