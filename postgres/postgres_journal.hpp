// SPDX-License-Identifier: MIT
//
// The journal of a scheduler in PostgreSQL: several processes keep one, and the one that owns it
// commits and emits.  Needs libpq (Debian: libpq-dev); works with SCHEDULER_NO_HTTP.
//
//     scheduler::Options options;
//     options.make_journal = [] {
//         scheduler::PostgresOptions where;
//         where.connection = "postgresql://tasks@db.example/tasks";
//         return std::make_unique<scheduler::PostgresJournal>(where);
//     };
//
//   P1  A group of records is one row, text as it came.  One statement looks at the epoch, locks
//       the lease and stores the row: what a process stores without owning the journal is nothing.
//       Rows are numbered by the owner, each one more than the one before, across generations.
//   P2  An epoch belongs to one connection of one process.  A connection that is lost ends it; a
//       process that connects again owns nothing until it has taken an epoch of its own.
//   P3  The owner's session holds an advisory lock, whose end tells the others of its death within
//       milliseconds; the lease, which it renews, tells of the rest.  It counts the lease by its
//       own clock, from before it asked for it, and stops before another may take it.
//   P4  A new owner reads what is stored after it has the lease, and owns when all of that is
//       applied: whatever was stored under an older epoch was stored by then.
//   P5  What became of a group whose connection was lost is looked up by its number, once there is
//       an epoch above its own: only then can it not be stored any more.  Nothing is guessed.
//   P6  One thread uses the main connection, never blocks in libpq, and holds nothing while it
//       calls the follower.  A failure of whatever kind ends the connection, and it connects again.
//   P7  A replacement is a table of its own, a generation.  Its copy has numbers below zero, what
//       was stored since has its own.  The old table is not written any more, and goes when those
//       who read it are past it.
//   P8  What is read and written is bounded: rows, batches, and the time of every statement.
//
//     connect ──► follows ──(owner's lock or lease ends)──► has the lease ──(all applied)──► owns
//        ▲           │                                           │                           │
//        └───────────┴───────────── connection or lease lost ────┴───────────────────────────┘

#ifndef TASK_SCHEDULER_POSTGRES_JOURNAL_HPP
#define TASK_SCHEDULER_POSTGRES_JOURNAL_HPP

#include "scheduler.hpp"

#include <libpq-fe.h>

namespace scheduler {

/// Where a `PostgresJournal` keeps its records, and as whom.
struct PostgresOptions {
    /// What libpq takes: a URI, or keywords.  Empty: the environment (PGHOST, PGSERVICE …).
    /// Several hosts may be named; one that takes writes is used.
    std::string connection;
    /// The schema that has its tables; made if there is none.
    std::string schema = "task_scheduler";
    /// What this process is called; each needs a name of its own.  Empty: its host and number.
    std::string node;
    /// Where this process answers HTTP, which the others are told.
    std::string url;
    /// After how long without a sign of the owner another takes its place; at least 500 ms.  A sign
    /// is given three times in it, and every two seconds.  The death of its process or connection
    /// is seen at once.
    milliseconds lease{10'000};
    /// How far this machine's clock may be off the database's for this process to own.
    milliseconds max_clock_error{500};
    /// Called with what happened, on the journal's thread.
    std::function<void(const LogRecord&)> log;
    /// Replaces the wall clock, for tests.
    std::function<TimePoint()> now;
};

namespace detail {

// ---- 1 The connection ------------------------------------------------------

// A clock that cannot be set, and goes on while the machine sleeps.
struct LeaseClock {
    using duration = std::chrono::nanoseconds;
    using rep = duration::rep;
    using period = duration::period;
    using time_point = std::chrono::time_point<LeaseClock>;
    static constexpr bool is_steady = true;
    static time_point now() noexcept {
        timespec time{};
        ::clock_gettime(CLOCK_BOOTTIME, &time);
        return time_point(std::chrono::seconds(time.tv_sec) + duration(time.tv_nsec));
    }
};
using Moment = LeaseClock::time_point;

// A statement, or the connection, has failed.
class PgError : public std::runtime_error {
public:
    PgError(const std::string& what, std::string state, bool lost)
        : std::runtime_error(what), state_(std::move(state)), is_lost_(lost) {}
    // The SQLSTATE begins with this.
    bool is(std::string_view state) const { return state_.compare(0, state.size(), state) == 0; }
    // The connection is gone: what became of the statement is not known.
    bool is_lost() const { return is_lost_; }

private:
    std::string state_;
    bool is_lost_;
};

// The wait was ended because the journal is being closed.
struct PgStopped {};

// What ends a wait early: `check` is called whenever the descriptor is readable, and may throw.
struct PgInterruption {
    int fd;
    std::function<void()> check;
    std::function<Moment(Moment begun, Moment deadline)> limit;  // of a wait that goes on
};

// A parameter of a statement: text, a number, or bytes, which are not copied.
struct PgParam {
    explicit PgParam(std::int64_t number) : text(std::to_string(number)) {}
    explicit PgParam(std::string value) : text(std::move(value)) {}
    explicit PgParam(std::string_view value) : bytes(value), is_bytes(true) {}
    const char* data() const { return is_bytes ? bytes.data() : text.c_str(); }
    int size() const { return static_cast<int>(is_bytes ? bytes.size() : text.size()); }

    std::string text;
    std::string_view bytes;
    bool is_bytes = false;
};

// Rows that a statement has given.
class PgRows {
public:
    PgRows() = default;
    explicit PgRows(PGresult* result) : result_(result) {}
    explicit operator bool() const { return result_ != nullptr; }
    PGresult* get() const { return result_.get(); }
    int size() const { return PQntuples(result_.get()); }
    std::string_view text(int row, int column) const {
        return {PQgetvalue(result_.get(), row, column),
                static_cast<std::size_t>(PQgetlength(result_.get(), row, column))};
    }
    std::int64_t number(int row, int column) const {
        const std::string_view digits = text(row, column);
        std::int64_t number = 0;
        std::from_chars(digits.data(), digits.data() + digits.size(), number);
        return number;
    }
    bool is_null(int row, int column) const { return PQgetisnull(result_.get(), row, column); }
    // How many rows the statement has changed.
    bool changed_any() const { return std::string_view(PQcmdTuples(result_.get())) != "0"; }

private:
    struct Clear {
        void operator()(PGresult* result) const { PQclear(result); }
    };
    std::unique_ptr<PGresult, Clear> result_;
};

// What PQconnectStartParams() takes: what comes later counts.
using PgSettings = std::vector<std::pair<const char*, std::string>>;

// The servers that are named, if they are several, each by itself: libpq would wait for the first
// for ever if that takes the connection and then says nothing.
inline std::vector<PgSettings> pg_servers(const std::string& connection) {
    constexpr std::array<const char*, 3> names{"host", "hostaddr", "port"};
    std::array<std::vector<std::string>, names.size()> lists;
    for (PQconninfoOption* const all :
         {PQconninfoParse(connection.c_str(), nullptr), PQconndefaults()}) {
        const std::unique_ptr<PQconninfoOption, void (*)(PQconninfoOption*)> freed(all,
                                                                                   PQconninfoFree);
        for (const PQconninfoOption* one = all; one && one->keyword; ++one) {
            const auto name = std::find(names.begin(), names.end(), std::string_view(one->keyword));
            if (name == names.end() || !one->val) continue;
            auto& list = lists.at(static_cast<std::size_t>(name - names.begin()));
            std::string_view text = list.empty() ? one->val : "";
            while (!text.empty()) {
                const std::size_t end = std::min(text.find(','), text.size());
                list.emplace_back(text.substr(0, end));
                text.remove_prefix(std::min(end + 1, text.size()));
            }
        }
    }
    std::vector<PgSettings> servers(std::max(lists[0].size(), lists[1].size()));
    for (std::size_t i = 0; i < names.size(); ++i) {
        const bool is_one_port = i == 2 && lists[i].size() == 1;
        if (!lists[i].empty() && !is_one_port && lists[i].size() != servers.size()) return {};
        for (std::size_t k = 0; k < servers.size() && !lists[i].empty(); ++k) {
            servers[k].emplace_back(names[i], lists[i][is_one_port ? 0 : k]);
        }
    }
    return servers.size() > 1 ? servers : std::vector<PgSettings>();
}

// A connection that never blocks longer than it is told to.
class PgConnection {
public:
    // Connects.  Throws PgError, or what the interruption throws.
    PgConnection(const PgSettings& settings, const PgInterruption& interruption, Moment deadline);

    // Runs one statement.
    template <class... Values>
    PgRows run(const std::string& sql, Moment deadline, Values&&... values) {
        send(sql, std::forward<Values>(values)...);
        return finish(deadline);
    }
    template <class... Values>
    void send(const std::string& sql, Values&&... values) {
        const std::array<PgParam, sizeof...(Values)> all{PgParam(std::forward<Values>(values))...};
        send_values(sql.c_str(), false, all.data(), all.size());
    }
    // Runs a statement that was prepared.
    template <class... Values>
    PgRows call(const char* name, Moment deadline, Values&&... values) {
        const std::array<PgParam, sizeof...(Values)> all{PgParam(std::forward<Values>(values))...};
        send_values(name, true, all.data(), all.size());
        return finish(deadline);
    }
    void prepare(const char* name, const std::string& sql, Moment deadline);
    // Runs several statements as one transaction.
    void run_all(const std::string& sql, Moment deadline);
    // Whether finish() would not wait.
    bool is_ready();
    // What the statement that was sent has given.  Throws PgError.
    PgRows finish(Moment deadline);
    void put(std::string_view bytes, Moment deadline);
    void end_put(Moment deadline);

    // Takes what has come in; throws PgError if the connection has ended.
    void take_input();
    // A notification that has come in: its text.
    std::optional<std::string> notification();
    bool is_idle() const { return PQtransactionStatus(pg_.get()) == PQTRANS_IDLE; }
    int fd() const { return PQsocket(pg_.get()); }
    PGconn* get() const { return pg_.get(); }

private:
    struct Finish {
        void operator()(PGconn* pg) const { PQfinish(pg); }
    };
    void send_values(const char* what, bool prepared, const PgParam* values, std::size_t count);
    void wait(short events, Moment begun, Moment deadline);
    void flush(Moment begun, Moment deadline);
    [[noreturn]] void fail_lost() const;

    const PgInterruption* interruption_;
    std::unique_ptr<PGconn, Finish> pg_;
};

// What libpq says, as one line, without what is there for people at a terminal.
inline std::string pg_sentence(const char* message) {
    std::string_view text(message);
    for (const std::string_view start : {"ERROR:  ", "FATAL:  ", "PANIC:  "}) {
        if (text.substr(0, start.size()) == start) text.remove_prefix(start.size());
    }
    for (const char* const rest : {"\n\t", "\nLINE ", "\nDETAIL", "\nHINT", "\nCONTEXT"}) {
        text = text.substr(0, text.find(rest));
    }
    std::string line;
    for (const char c : text) line += c == '\n' ? std::string("; ") : std::string(1, c);
    return line.substr(0, line.find_last_not_of("; ") + 1);
}

inline PgConnection::PgConnection(const PgSettings& settings, const PgInterruption& interruption,
                                  Moment deadline)
    : interruption_(&interruption) {
    std::vector<const char*> names;
    std::vector<const char*> values;
    for (const auto& [name, value] : settings) {
        names.push_back(name);
        values.push_back(value.c_str());
    }
    names.push_back(nullptr);
    values.push_back(nullptr);
    const Moment begun = LeaseClock::now();
    pg_.reset(PQconnectStartParams(names.data(), values.data(), 1));
    if (!pg_) throw std::bad_alloc();
    PQsetNoticeProcessor(
        pg_.get(), [](void*, const char*) {}, nullptr);
    auto state =
        PQstatus(pg_.get()) == CONNECTION_BAD ? PGRES_POLLING_FAILED : PGRES_POLLING_WRITING;
    while (state != PGRES_POLLING_OK) {
        if (state == PGRES_POLLING_FAILED) fail_lost();
        wait(state == PGRES_POLLING_READING ? POLLIN : POLLOUT, begun, deadline);
        state = PQconnectPoll(pg_.get());
    }
    if (PQsetnonblocking(pg_.get(), 1) != 0) fail_lost();
}

inline void PgConnection::fail_lost() const {
    throw PgError(pg_sentence(PQerrorMessage(pg_.get())), "", true);
}

inline void PgConnection::wait(short events, Moment begun, Moment deadline) {
    std::array<pollfd, 2> watched{pollfd{fd(), events, 0}, pollfd{interruption_->fd, POLLIN, 0}};
    while (true) {
        const Moment now = LeaseClock::now();
        const auto left = interruption_->limit(begun, deadline) - now;
        if (left <= left.zero()) throw PgError("the database does not answer", "", true);
        const auto rounded = std::chrono::duration_cast<milliseconds>(left) + milliseconds(1);
        const int ready = ::poll(watched.data(), watched.size(), static_cast<int>(rounded.count()));
        if (ready > 0 && watched[1].revents) interruption_->check();
        if (ready > 0 && watched[0].revents) return;
    }
}

inline void PgConnection::send_values(const char* what, bool prepared, const PgParam* values,
                                      std::size_t count) {
    std::array<const char*, 12> data{};
    std::array<int, 12> sizes{};
    std::array<int, 12> formats{};
    for (std::size_t i = 0; i < count; ++i) {
        data.at(i) = values[i].data();
        sizes.at(i) = values[i].size();
        formats.at(i) = values[i].is_bytes ? 1 : 0;
    }
    const int number = static_cast<int>(count);
    const int sent = prepared ? PQsendQueryPrepared(pg_.get(), what, number, data.data(),
                                                    sizes.data(), formats.data(), 0)
                              : PQsendQueryParams(pg_.get(), what, number, nullptr, data.data(),
                                                  sizes.data(), formats.data(), 0);
    if (!sent) fail_lost();  // a part of it may have been sent
}

inline void PgConnection::prepare(const char* name, const std::string& sql, Moment deadline) {
    if (!PQsendPrepare(pg_.get(), name, sql.c_str(), 0, nullptr)) fail_lost();
    finish(deadline);
}

inline void PgConnection::run_all(const std::string& sql, Moment deadline) {
    if (!PQsendQuery(pg_.get(), sql.c_str())) fail_lost();
    finish(deadline);
}

inline void PgConnection::take_input() {
    if (!PQconsumeInput(pg_.get())) fail_lost();
}

inline void PgConnection::flush(Moment begun, Moment deadline) {
    while (true) {
        const int left = PQflush(pg_.get());
        if (left < 0) fail_lost();
        if (left == 0) return;
        wait(POLLIN | POLLOUT, begun, deadline);
        take_input();
    }
}

inline bool PgConnection::is_ready() {
    if (PQflush(pg_.get()) < 0) fail_lost();
    take_input();
    return !PQisBusy(pg_.get());
}

inline PgRows PgConnection::finish(Moment deadline) {
    const Moment begun = LeaseClock::now();
    flush(begun, deadline);
    PgRows last;
    std::optional<PgError> error;
    while (true) {
        while (PQisBusy(pg_.get())) {
            wait(POLLIN, begun, deadline);
            take_input();
        }
        PgRows next(PQgetResult(pg_.get()));
        if (!next) break;
        last = std::move(next);
        const ExecStatusType status = PQresultStatus(last.get());
        if (status == PGRES_COPY_IN) return last;
        if (status == PGRES_COMMAND_OK || status == PGRES_TUPLES_OK || error) continue;
        const char* const state = PQresultErrorField(last.get(), PG_DIAG_SQLSTATE);
        error.emplace(pg_sentence(PQresultErrorMessage(last.get())), state ? state : "", false);
    }
    // After a fatal error a group may be stored all the same, whatever it says.
    if (PQstatus(pg_.get()) == CONNECTION_BAD) {
        throw PgError(error ? error->what() : pg_sentence(PQerrorMessage(pg_.get())), "", true);
    }
    if (error) throw std::move(*error);
    return last;
}

inline void PgConnection::put(std::string_view bytes, Moment deadline) {
    const Moment begun = LeaseClock::now();
    int done = 0;
    while ((done = PQputCopyData(pg_.get(), bytes.data(), static_cast<int>(bytes.size()))) == 0) {
        wait(POLLOUT, begun, deadline);
    }
    if (done < 0) fail_lost();
    flush(begun, deadline);
}

inline void PgConnection::end_put(Moment deadline) {
    const Moment begun = LeaseClock::now();
    int done = 0;
    while ((done = PQputCopyEnd(pg_.get(), nullptr)) == 0) wait(POLLOUT, begun, deadline);
    if (done < 0) fail_lost();
    finish(deadline);
}

inline std::optional<std::string> PgConnection::notification() {
    const std::unique_ptr<PGnotify, void (*)(void*)> found(PQnotifies(pg_.get()), PQfreemem);
    if (!found) return std::nullopt;
    return std::string(found->extra);
}

// ---- 2 The tables ----------------------------------------------------------

inline constexpr std::int64_t pg_tables_version = 1;

// A name as SQL has it.
inline std::string pg_quoted(std::string_view name, char quote = '"') {
    std::string text(1, quote);
    for (const char c : name) {
        if (c == quote) text += c;
        text += c;
    }
    return text += quote;
}

// A statement with what stands for $S, the schema, $L, its name as a text, $J, the table of a
// generation, and $K, that of the one after.
inline std::string pg_sql(std::string_view sql, std::string_view schema,
                          std::int64_t generation = 0, std::int64_t next_generation = 0) {
    std::string text;
    for (std::size_t i = 0; i < sql.size(); ++i) {
        const char next = sql[i] == '$' && i + 1 < sql.size() ? sql[i + 1] : '\0';
        if (next == 'S') {
            text += pg_quoted(schema);
        } else if (next == 'L') {
            text += pg_quoted(schema, '\'');
        } else if (next == 'J' || next == 'K') {
            text += pg_quoted(schema) + ".journal_" +
                    std::to_string(next == 'J' ? generation : next_generation);
        } else {
            text += sql[i];
            continue;
        }
        ++i;
    }
    return text;
}

// The table of a generation.  It only grows, and goes as a whole: there is nothing to vacuum.
inline constexpr std::string_view pg_make_generation = R"(
CREATE TABLE $J (n bigint PRIMARY KEY, epoch bigint NOT NULL, lines text NOT NULL)
    WITH (autovacuum_enabled = false, toast.autovacuum_enabled = false);
ALTER TABLE $J ALTER COLUMN lines SET STORAGE EXTERNAL)";

// `lease` has one row, and `generations` is the number that was given to a table last.
inline constexpr std::string_view pg_make_tables = R"(
CREATE TABLE $S.lease (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row), version integer NOT NULL,
    generation bigint NOT NULL, generations bigint NOT NULL, first bigint NOT NULL,
    bytes bigint NOT NULL, epoch bigint NOT NULL, node text NOT NULL, url text NOT NULL,
    until timestamptz NOT NULL, pid integer NOT NULL) WITH (fillfactor = 10);
INSERT INTO $S.lease VALUES (true, 1, 1, 1, 0, 0, 0, '', '', to_timestamp(0), 0);
CREATE TABLE $S.nodes (
    node text PRIMARY KEY, url text NOT NULL, applied bigint NOT NULL, version text NOT NULL,
    seen timestamptz NOT NULL) WITH (fillfactor = 10);
)";

// For people.  The views read the whole table of the generation that is the present one, which they
// find by themselves, so that a replacement changes nothing of them and waits for nobody.  What
// jsonb cannot hold (\u0000, half a surrogate pair, numbers that `numeric` has no room for, whose
// exponent has five digits or that are thousands long) is shown otherwise; to catch that takes a
// subtransaction, of which parallel workers are not capable.
inline constexpr std::string_view pg_make_views = R"(
CREATE FUNCTION $S.as_jsonb(line text) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE STRICT
SET search_path = pg_catalog AS $body$
BEGIN
    RETURN line::jsonb;
EXCEPTION WHEN OTHERS THEN
    line := regexp_replace(line, '\\u(0000|[dD][89a-fA-F][0-9a-fA-F]{2})', '\\ufffd', 'g');
    line := regexp_replace(line, '([:,[]-?[0-9.]+)[eE][+-]?[0-9]{5,}', '\1e0', 'g');
    line := regexp_replace(line, '([:,[]-?[0-9]{1,99})[0-9]*(\.[0-9]{1,99})?[0-9]*', '\1\2', 'g');
    RETURN line::jsonb;
END $body$;
CREATE FUNCTION $S.records() RETURNS TABLE (n bigint, k bigint, record jsonb) LANGUAGE plpgsql
STABLE SECURITY DEFINER SET search_path = pg_catalog AS $body$
BEGIN
    RETURN QUERY EXECUTE format($query$
        SELECT j.n, l.k, CASE WHEN length(l.line) > 5000 OR l.line ~ '\\u|[eE][+-]?[0-9]{5}'
                              THEN %1$I.as_jsonb(l.line) ELSE l.line::jsonb END
        FROM %1$I.%2$I j, string_to_table(j.lines, chr(10)) WITH ORDINALITY l(line, k)
        WHERE l.line <> ''$query$, $L, 'journal_' || (SELECT generation FROM $S.lease));
END $body$;
REVOKE ALL ON FUNCTION $S.records() FROM PUBLIC;
CREATE FUNCTION $S.waits_for_end_of_owner(key bigint) RETURNS boolean LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog AS $body$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(key);
    RETURN true;
EXCEPTION WHEN lock_not_available THEN
    RETURN false;
END $body$;
CREATE VIEW $S.tasks AS
WITH r AS MATERIALIZED (SELECT * FROM $S.records()),
begun AS (SELECT DISTINCT ON (t.task->>'id') t.task->>'id' AS id, r.n, r.k, t.task
    FROM r, jsonb_array_elements(r.record->'tasks') t(task) WHERE r.record->>'op' = 'schedule'
    ORDER BY 1, 2 DESC, 3 DESC),
ended AS (SELECT i.id, r.n, r.k FROM r, jsonb_array_elements_text(r.record->'ids') i(id)
    WHERE r.record->>'op' IN ('emit', 'miss', 'cancel') OR r.record->>'op' = 'part' AND EXISTS (
        SELECT FROM r c WHERE c.record->>'op' = 'cancel' AND c.record->'bulk' = r.record->'bulk'
            AND (c.n, c.k) > (r.n, r.k)))
SELECT id::uuid, (task->>'due')::timestamptz AS due, task->>'name' AS name,
    task->>'topic' AS topic, task->'payload' AS payload
FROM begun b WHERE NOT EXISTS (SELECT FROM ended e WHERE e.id = b.id AND (e.n, e.k) > (b.n, b.k));
CREATE VIEW $S.events AS
WITH r AS MATERIALIZED (SELECT * FROM $S.records()),
begun AS (SELECT DISTINCT ON (t.task->>'id') t.task->>'id' AS id, t.task
    FROM r, jsonb_array_elements(r.record->'tasks') t(task) WHERE r.record->>'op' = 'schedule'
    ORDER BY 1, r.n DESC, r.k DESC),
emitted AS (SELECT DISTINCT ON (i.id) i.id, (r.record->>'seq')::bigint + i.at - 1 AS seq,
        (r.record->>'at')::timestamptz AS emitted_at
    FROM r, jsonb_array_elements_text(r.record->'ids') WITH ORDINALITY i(id, at)
    WHERE r.record->>'op' = 'emit' ORDER BY i.id, r.n, r.k),
forgotten AS MATERIALIZED (SELECT (record->>'seq')::bigint AS first, (record->>'end')::bigint AS past
    FROM r WHERE record->>'op' = 'forget')
SELECT seq, id::uuid, (task->>'due')::timestamptz AS due, emitted_at, task->>'name' AS name,
    task->>'topic' AS topic, task->'payload' AS payload
FROM emitted JOIN begun USING (id)
WHERE NOT EXISTS (SELECT FROM forgotten f WHERE seq >= f.first AND seq < f.past);
)";

// One round trip three times a lease, and every two seconds: a sign of life, the lease renewed by
// its owner, how all stand, and the database's clock.
inline constexpr std::string_view pg_tick = R"(
WITH beat AS (
    INSERT INTO $S.nodes AS o (node, url, applied, version, seen)
    VALUES ($1, $2, $3::bigint, $4, clock_timestamp())
    ON CONFLICT (node) DO UPDATE SET url = excluded.url, applied = excluded.applied,
        version = excluded.version, seen = excluded.seen),
renewed AS (
    UPDATE $S.lease SET until = clock_timestamp() + $6::bigint * interval '1 millisecond'
    WHERE epoch = $5::bigint RETURNING 1)
SELECT l.generation, l.first, l.bytes, l.epoch, l.node, l.url, l.pid,
    (extract(epoch FROM l.until - clock_timestamp()) * 1000)::bigint,
    (SELECT count(*) FROM renewed), (extract(epoch FROM clock_timestamp()) * 1000)::bigint,
    o.node, o.url, o.applied, (extract(epoch FROM o.seen) * 1000)::bigint,
    (SELECT url FROM $S.nodes WHERE node = $1)
FROM $S.lease l LEFT JOIN $S.nodes o
    ON o.node <> $1 AND o.seen > clock_timestamp() - $6::bigint * interval '2 milliseconds')";

// P1: no row comes of it if the epoch is another's.
inline constexpr std::string_view pg_store = R"(
WITH l AS (SELECT FROM $S.lease WHERE epoch = $1::bigint FOR UPDATE)
INSERT INTO $J (n, epoch, lines) SELECT $2::bigint, $1::bigint, $3::text FROM l)";

// Some of the rows behind one, as many as a batch holds, and at least one.
inline constexpr std::string_view pg_rows = R"(
SELECT n, epoch, lines FROM (
    SELECT n, epoch, lines,
        sum(octet_length(lines)) OVER (ORDER BY n) - octet_length(lines) AS before
    FROM (SELECT n, epoch, lines FROM $J WHERE n > $1::bigint ORDER BY n LIMIT 1000) few) summed
WHERE before < $2::bigint ORDER BY n)";

// Takes the lease, from whoever has lost it.  $6: nobody can have this epoch any more.
inline constexpr std::string_view pg_take = R"(
UPDATE $S.lease SET epoch = epoch + 1, node = $2, url = $3, pid = pg_backend_pid(),
    until = CASE WHEN $4::bigint > 0 THEN clock_timestamp() + $4::bigint * interval '1 millisecond'
            ELSE to_timestamp(0) END
WHERE epoch = $1::bigint AND ($5::boolean OR until < clock_timestamp())
RETURNING generation, first, bytes)";

// It need not be durable, and says so, since it would be synced otherwise.
inline constexpr std::string_view pg_announce =
    "SELECT set_config('synchronous_commit', 'off', true), pg_notify($1, $2)";

// The present generation changes, and the rest of what was stored goes into it.
inline constexpr std::string_view pg_switch = R"(
WITH l AS (
    UPDATE $S.lease SET generation = $2::bigint, first = $3::bigint, bytes = $4::bigint
    WHERE epoch = $1::bigint RETURNING 1),
moved AS (INSERT INTO $K SELECT j.n, j.epoch, j.lines FROM $J j, l WHERE j.n > $5::bigint)
SELECT FROM l)";

}  // namespace detail

// ---- 3 The journal ---------------------------------------------------------

/// The journal in PostgreSQL.  Any number of processes may have the same one open; one of them owns
/// it.  See `Journal` for what it promises, and docs/cluster.md for what to do with it.
class PostgresJournal : public Journal {
public:
    /// Does nothing yet: read() connects.  Throws `Error` with `invalid_argument`.
    explicit PostgresJournal(PostgresOptions options);
    /// Gives ownership up, so that another process has it at once.
    ~PostgresJournal() override;
    PostgresJournal(const PostgresJournal&) = delete;
    PostgresJournal& operator=(const PostgresJournal&) = delete;

    /// Connects, makes the tables if there are none, becomes the owner if nobody is, and reads.
    /// Throws `Error` with `journal_unreadable`, or what `take` throws.
    bool read(const Take& take) override;
    void commit(std::string_view lines, std::uint64_t pending) override;
    void write(std::string_view lines, std::uint64_t pending) override { commit(lines, pending); }
    bool commit_waits() const override { return true; }
    /// Never `Ends::unwritable`: what cannot be stored is not shown, and ownership ends with it.
    Ends write_ends(std::string_view lines, std::uint64_t pending) noexcept override;
    void sync() override {}
    bool wants_sync() const override { return false; }
    void replace(Source& source) override;
    /// Never: a connection that is lost is made again, and is_owner() is false until then.
    bool failed() const override { return false; }
    JournalFigures figures() const override;
    /// How long it took to store a group.
    Durations sync_durations() const override;
    bool is_owner() const override {
        return detail::LeaseClock::now().time_since_epoch().count() < owner_until_.load();
    }
    void follow(Follower follower) override { follower_ = std::move(follower); }
    void stop_following() override;
    std::uint64_t applied() const override { return static_cast<std::uint64_t>(applied_.load()); }
    void look_for(std::uint64_t group) noexcept override;
    std::optional<Cluster> cluster() const override;

private:
    using Moment = detail::Moment;
    using Clock = detail::LeaseClock;
    using Connection = detail::PgConnection;
    using PgError = detail::PgError;
    using Rows = detail::PgRows;

    // What became of a call.
    enum class Fate { waits, stored, not_owner, disk_full, failed, unknown };
    // A call that waits, on its thread's stack: records to be stored, or work for the I/O thread.
    struct Call {
        std::string_view lines;
        bool has_ends = false;
        const std::function<void()>* work = nullptr;
        std::exception_ptr failure{};  // of the work
        Fate fate = Fate::waits;       // guarded by mutex_
        Call* next = nullptr;          // guarded by mutex_ while it is queued
    };
    // Calls in order; whoever takes them out settles them.
    struct Calls {
        Call* first = nullptr;
        Call* last = nullptr;
        explicit operator bool() const { return first != nullptr; }
        void add(Call& call) {
            call.next = nullptr;
            (last ? last->next : first) = &call;
            last = &call;
        }
        bool have_ends() const {
            const Call* call = first;
            while (call && !call->has_ends) call = call->next;
            return call != nullptr;
        }
        Call& pop() {
            Call& call = *first;
            first = call.next;
            if (!first) last = nullptr;
            return call;
        }
    };
    // How the lease row was when it was last read.
    struct Lease {
        std::int64_t generation = 0;
        std::int64_t first = 0;  // the last group that the generation's copy stands for
        std::int64_t bytes = 0;  // of that copy
        std::int64_t epoch = -1;
        std::string node;
        std::string url;
        std::int64_t pid = 0;  // of the owner's session
        Moment until{};
    };
    // How far one has read.
    struct Place {
        std::int64_t generation = 0;
        std::int64_t first = 0;        // as in the lease, of this generation
        std::int64_t applied = 0;      // the last group
        std::int64_t epoch = 0;        // under which that was stored
        std::uint32_t sum = 0;         // of its lines
        std::int64_t lease_epoch = 0;  // when reading began
        std::int64_t bytes = 0;
    };
    // A group whose connection was lost before its answer came (P5).
    struct Doubt {
        Calls calls;
        std::int64_t epoch = 0;
        std::int64_t n = 0;
        std::int64_t bytes = 0;
        std::uint32_t sum = 0;
        std::int64_t generation = 0;
        Moment until{};
    };

    // Calls, on any thread.
    Fate settle(Call& call) noexcept;
    void do_as_owner(const std::function<void()>& work);
    void require_owner() const;
    void throw_unless_stored(Fate fate) const;
    void wake() noexcept;
    void wake_from_sleep_locked() noexcept {
        if (std::exchange(sleeps_, false)) wake();
    }
    void connect_first();
    std::unique_ptr<Connection> connect(const detail::PgInterruption& interruption,
                                        Moment deadline) const;
    void set_up(Connection& pg, Moment deadline) const;
    std::string sql(std::string_view text, std::int64_t generation = 0,
                    std::int64_t next = 0) const {
        return detail::pg_sql(text, options_.schema, generation, next);
    }
    std::int64_t key(std::int64_t epoch) const;
    Place read_all(Connection& pg, const Take& take, const std::function<void()>& meanwhile) const;
    std::int64_t copy_to(Connection& pg, std::int64_t generation, Source& source) const;
    std::int64_t copy_tail(Connection& pg, std::int64_t old, std::int64_t next,
                           std::int64_t last) const;
    // Until when a statement may take: one of the I/O thread, and one that moves much.
    Moment soon() const { return Clock::now() + options_.lease; }
    static Moment later() { return Clock::now() + std::chrono::minutes(5); }

    // The I/O thread.
    void run() noexcept;
    bool open() noexcept;
    bool is_ownerless();
    bool has_others() const;
    void make_tables();
    void serve();
    void take_over_read();
    void tick();
    void judge_clock(TimePoint before, TimePoint after, TimePoint theirs);
    void take_ticked(const Rows& rows, Moment sent, TimePoint before);
    void pursue();
    void watch_owner();
    bool connect_side();
    void try_take();
    void become_owner();
    void give_up(const std::string& why);
    void release() noexcept;
    void leave() noexcept;
    void lose(const char* why) noexcept;
    bool catch_up();
    bool next_generation();
    bool tell_rows(const Rows& rows);
    template <class Fn>
    bool tell(Fn fn);
    void put_off(const char* why) noexcept;
    void applies_again();
    void reread();
    void check_applied();
    void store_queue();
    Calls take_group(std::string_view& lines);
    void store_group(Calls calls, std::string_view lines);
    void settle_all(Calls& calls, Fate fate, const char* why = "") noexcept;
    void settle_doubt();
    void expire_doubt(bool now) noexcept;
    std::optional<bool> find_row(std::int64_t generation, std::int64_t n, std::int64_t epoch,
                                 std::uint32_t sum);
    void prepare_generation();
    void announce();
    void drop_old();
    std::int64_t old_generation();
    void sleep();
    void hear();
    void back_off() noexcept;
    Moment next_wake() const;
    void changed() noexcept;
    template <class... Parts>
    void log(LogLevel level, const char* event, const Parts&... parts) const noexcept {
        detail::tell(options_.log, level, event, parts...);
    }
    // Whether the lease is as an earlier connection of this process has left it.
    bool was_own() const { return own_ == lease_.epoch && own_pid_ == lease_.pid; }
    bool may_own() const { return clock_is_right_ && !ending_ && !told_of_failure_; }
    milliseconds third() const { return options_.lease / 3; }
    // For how long the database may be silent to a process that is connected; less than the 5 s for
    // which a request waits for what this one has not heard of (HttpOptions::owner_timeout).
    static constexpr milliseconds max_silence{4'000};
    // How long after a sign of life the next one is sent.
    milliseconds pulse() const { return std::min(third(), max_silence / 2); }

    PostgresOptions options_;
    detail::PgSettings settings_;                                // of a connection
    Follower follower_;                                          // set before the thread begins
    detail::Descriptor wake_fd_;
    detail::Descriptor ending_fd_;  // readable from stop_following() on
    detail::PgInterruption io_interruption_;
    detail::PgInterruption caller_interruption_;

    mutable std::mutex mutex_;
    mutable std::condition_variable settled_;
    Calls queue_;                      // guarded by mutex_
    bool sleeps_ = false;              // guarded by mutex_: the I/O thread must be woken
    bool is_waited_for_ = false;       // guarded by mutex_: what was stored since it looked
    bool is_telling_ = false;          // guarded by mutex_
    bool is_open_ = false;             // guarded by mutex_: connected for the first time, or failed
    std::exception_ptr open_failure_;  // guarded by mutex_
    std::optional<Place> read_;        // guarded by mutex_: what read() has read
    bool is_decided_ = false;          // guarded by mutex_: whether it owns was decided after that
    Cluster cluster_;                  // guarded by mutex_
    detail::PgSettings server_;        // guarded by mutex_: the one that the first connection is to
    std::string reason_;               // guarded by mutex_: why the last call was refused
    Durations durations_;              // guarded by mutex_
    std::atomic<bool> ending_{false};  // stop_following() was called
    std::atomic<bool> closing_{false};          // the destructor was called
    std::atomic<std::int64_t> owner_until_{0};  // on LeaseClock; 0: this process is not the owner
    std::atomic<Moment::rep> heard_at_{0};      // when a sign of life was last answered
    std::atomic<std::int64_t> applied_{0};
    std::atomic<std::int64_t> bytes_{0};
    std::atomic<std::uint64_t> written_{0};
    std::atomic<std::uint64_t> groups_{0};
    std::atomic<std::uint64_t> replacements_{0};

    // Of the I/O thread alone, from here to the end.
    std::unique_ptr<Connection> main_;
    std::unique_ptr<Connection> side_;  // waits for the owner's lock; the owner drops tables by it
    std::int64_t side_epoch_ = -1;      // for whose lock it waits; -1: for none
    bool side_drops_ = false;           // a table is being dropped
    Moment side_again_{};               // when it is tried again, if it could not be had
    std::int64_t free_epoch_ = -1;      // whose lock was seen to be free
    Lease lease_;
    Place place_;
    std::int64_t prepared_generation_ = 0;
    std::int64_t held_ = -1;  // the epoch that this connection has; -1: none
    std::int64_t own_ = -1;   // the epoch that an earlier connection had, in the session own_pid_
    std::int64_t own_pid_ = 0;
    Moment held_until_{};
    Moment next_tick_{};
    Moment apply_again_{};
    Moment looked_at_{};  // when there was nothing more to apply
    Moment take_again_{};
    Moment next_announcement_{};
    std::int64_t announced_ = 0;
    bool is_behind_ = true;  // there may be rows that are not applied
    bool rereads_ = false;   // what was applied is not what is stored, or too old
    bool has_old_tables_ = true;
    bool clock_is_right_ = true;
    bool told_of_failure_ = false;  // of the follower
    bool told_of_twin_ = false;
    Doubt doubt_;
    Moment doubt_again_{};
    Moment drop_again_{};
    int ticks_ = 0;     // since it was connected
    int failures_ = 0;  // connections that were lost, without success in between
    std::string merged_;
    std::thread thread_;  // comes last
};

namespace detail {

inline void pg_check_options(const PostgresOptions& options) {
    const auto refuse_option = [](const char* why) { throw Error(Errc::invalid_argument, why); };
    if (options.lease < milliseconds(500) || options.lease > std::chrono::hours(24)) {
        refuse_option("a lease takes 500 ms to a day");
    }
    if (options.schema.empty() || options.schema.size() > 63) {
        refuse_option("the name of a schema has 1 to 63 characters");
    }
    // What libpq says of it may hold a part of a password.
    const std::string& where = options.connection;
    if (where.find('=') != std::string::npos || where.find("://") != std::string::npos) {
        const std::unique_ptr<PQconninfoOption, void (*)(PQconninfoOption*)> parsed(
            PQconninfoParse(where.c_str(), nullptr), PQconninfoFree);
        if (!parsed) {
            refuse_option(
                "where the database is must be a URI (postgresql://user@host/name) or "
                "keywords and values (host=… dbname=…) that libpq understands");
        }
    }
}

}  // namespace detail

inline PostgresJournal::PostgresJournal(PostgresOptions options)
    : options_((detail::pg_check_options(options), std::move(options))),
      wake_fd_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      ending_fd_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    if (wake_fd_.get() < 0 || ending_fd_.get() < 0) throw std::bad_alloc();
    if (options_.node.empty()) {
        char host[256] = "localhost";
        ::gethostname(host, sizeof host - 1);
        options_.node = std::string(host) + ":" + std::to_string(::getpid());
    }
    if (!options_.now) options_.now = wall_clock;
    cluster_.node = options_.node;
    const auto seconds = std::max<milliseconds::rep>(1, options_.lease.count() / 2'000);
    settings_ = {
        {"target_session_attrs", "read-write"},
        {"application_name", "task-scheduler " + options_.node},
        {"keepalives_idle", std::to_string(seconds)},
        {"keepalives_interval", std::to_string(std::max<milliseconds::rep>(1, seconds / 3))},
        {"keepalives_count", "3"},
        {"tcp_user_timeout", std::to_string(options_.lease.count() / 2)},
    };
    if (!options_.connection.empty()) settings_.emplace_back("dbname", options_.connection);
    settings_.emplace_back("client_encoding", "UTF8");
    // While this ends no statement takes longer than a second; and a call that waits to be told
    // what became of it is told in time.
    const auto limit = [this](Moment begun, Moment deadline) {
        return ending_ ? std::min(deadline, begun + std::chrono::seconds(1)) : deadline;
    };
    io_interruption_ = {wake_fd_.get(),
                        [this] {
                            std::uint64_t count = 0;
                            (void)!::read(wake_fd_.get(), &count, sizeof count);
                            if (closing_) throw detail::PgStopped();
                        },
                        [this, limit](Moment begun, Moment deadline) {
                            if (doubt_.calls) deadline = std::min(deadline, doubt_.until);
                            return limit(begun, deadline);
                        }};
    caller_interruption_ = {
        ending_fd_.get(), [] { throw Error(Errc::stopped, "the journal is being closed"); }, limit};
}

inline PostgresJournal::~PostgresJournal() {
    closing_ = true;
    wake();
    if (thread_.joinable()) thread_.join();
}

// ---- 4 Calls ---------------------------------------------------------------

inline void PostgresJournal::wake() noexcept {
    const std::uint64_t one = 1;
    (void)!::write(wake_fd_.get(), &one, sizeof one);
}

// Hands a call to the I/O thread, and waits until that has settled it.
inline PostgresJournal::Fate PostgresJournal::settle(Call& call) noexcept {
    std::unique_lock<std::mutex> lock(mutex_);
    if (!is_owner() || closing_) return Fate::not_owner;
    queue_.add(call);
    wake_from_sleep_locked();
    settled_.wait(lock, [&call] { return call.fate != Fate::waits; });
    return call.fate;
}

inline void PostgresJournal::look_for(std::uint64_t group) noexcept {
    if (group <= applied()) return;
    const std::lock_guard<std::mutex> guard(mutex_);
    is_waited_for_ = true;
    wake_from_sleep_locked();
}

inline void PostgresJournal::require_owner() const {
    if (!is_owner()) throw_unless_stored(Fate::not_owner);
}

inline void PostgresJournal::throw_unless_stored(Fate fate) const {
    const std::lock_guard<std::mutex> guard(mutex_);
    switch (fate) {
        case Fate::waits:
        case Fate::stored:
            break;
        case Fate::not_owner:
            throw Error(Errc::not_owner, "this process does not own the journal in PostgreSQL");
        case Fate::disk_full:
            throw Error(Errc::disk_full, "the database has no room for it: " + reason_);
        case Fate::failed:
            throw Error(Errc::journal_failed, "the database has not stored it: " + reason_);
        case Fate::unknown:
            throw Error(Errc::outcome_unknown,
                        "the connection to the database was lost: it may be stored or not");
    }
}

inline void PostgresJournal::commit(std::string_view lines, std::uint64_t) {
    if (lines.empty()) return require_owner();
    Call call;
    call.lines = lines;
    throw_unless_stored(settle(call));
}

inline Ends PostgresJournal::write_ends(std::string_view lines, std::uint64_t) noexcept {
    if (lines.empty()) return is_owner() ? Ends::written : Ends::fenced;
    Call call;
    call.lines = lines;
    call.has_ends = true;
    return settle(call) == Fate::stored ? Ends::written : Ends::fenced;
}

// Runs something on the I/O thread, between groups, if this process is the owner.
inline void PostgresJournal::do_as_owner(const std::function<void()>& work) {
    Call call;
    call.work = &work;
    const Fate fate = settle(call);
    if (call.failure) std::rethrow_exception(call.failure);
    throw_unless_stored(fate);
}

inline void PostgresJournal::stop_following() {
    ending_ = true;
    const std::uint64_t one = 1;
    (void)!::write(ending_fd_.get(), &one, sizeof one);
    wake();
    std::unique_lock<std::mutex> lock(mutex_);
    settled_.wait(lock, [this] { return !is_telling_; });
}

inline JournalFigures PostgresJournal::figures() const {
    JournalFigures figures;
    figures.bytes = static_cast<std::uint64_t>(bytes_.load());
    figures.written = written_;
    figures.syncs = groups_;
    figures.replacements = replacements_;
    return figures;
}

inline Durations PostgresJournal::sync_durations() const {
    const std::lock_guard<std::mutex> guard(mutex_);
    return durations_;
}

inline std::optional<Cluster> PostgresJournal::cluster() const {
    const std::lock_guard<std::mutex> guard(mutex_);
    Cluster cluster = cluster_;
    const Clock::duration silence = Clock::now().time_since_epoch() - Clock::duration(heard_at_);
    if (cluster.is_connected && silence > max_silence) {
        cluster.is_connected = false;
        const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(silence).count();
        cluster.problem =
            "the database has not answered for " + std::to_string(seconds) + " seconds";
    }
    cluster.applied = applied();
    cluster.stored = std::max(cluster.stored, cluster.applied);
    return cluster;
}

// ---- 5 Connecting and reading ----------------------------------------------

inline std::int64_t PostgresJournal::key(std::int64_t epoch) const {
    std::uint64_t hash = 14'695'981'039'346'656'037U;  // FNV-1a
    for (const char c : "task-scheduler " + options_.schema + " " + std::to_string(epoch)) {
        hash = (hash ^ static_cast<unsigned char>(c)) * 1'099'511'628'211U;
    }
    return static_cast<std::int64_t>(hash);
}

// To whichever of the servers takes it, each of which has its share of the time.
inline void PostgresJournal::connect_first() {
    std::vector<detail::PgSettings> servers = detail::pg_servers(options_.connection);
    if (servers.empty()) servers.emplace_back();
    std::string why;
    for (const detail::PgSettings& server : servers) {
        {
            const std::lock_guard<std::mutex> guard(mutex_);
            server_ = server;
        }
        try {
            main_ = connect(io_interruption_, Clock::now() + options_.lease / servers.size());
            break;
        } catch (const PgError& error) {
            if (servers.size() == 1 || !error.is_lost()) throw;
            why.append(why.empty() ? "" : "; ").append(error.what());
        }
    }
    if (!main_) throw PgError(why, "", true);
    const PGconn* const pg = main_->get();
    const std::lock_guard<std::mutex> guard(mutex_);
    server_ = {{"host", PQhost(pg)}, {"hostaddr", PQhostaddr(pg)}, {"port", PQport(pg)}};
}

// To the server that the first connection is to, whose name is not looked up again.
inline std::unique_ptr<detail::PgConnection> PostgresJournal::connect(
    const detail::PgInterruption& interruption, Moment deadline) const {
    detail::PgSettings settings = settings_;
    {
        const std::lock_guard<std::mutex> guard(mutex_);
        settings.insert(settings.end(), server_.begin(), server_.end());
    }
    auto pg = std::make_unique<Connection>(settings, interruption, deadline);
    set_up(*pg, deadline);
    return pg;
}

// What of the session may not be left to how the server or the role is set up.
inline void PostgresJournal::set_up(Connection& pg, Moment deadline) const {
    const auto refuse_server = [](const std::string& why) { throw PgError(why, "0A000", false); };
    if (PQserverVersion(pg.get()) < 140'000) refuse_server("PostgreSQL must be 14 or newer");
    const char* const encoding = PQparameterStatus(pg.get(), "server_encoding");
    if (!encoding || std::string_view(encoding) != "UTF8") {
        refuse_server(std::string("the database's encoding is ") +
                      (encoding ? encoding : "unknown") + " and must be UTF8");
    }
    const std::string third_ms = std::to_string(third().count());
    const Rows rows = pg.run(
        "SELECT pg_catalog.pg_backend_pid(),"
        " set_config('synchronous_commit', CASE current_setting('synchronous_commit')"
        "     WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END, false),"
        " set_config('lock_timeout', $1, false),"
        " set_config('client_connection_check_interval', $1, false),"
        " set_config('tcp_user_timeout', $2, false),"
        " set_config('tcp_keepalives_idle', $3, false),"
        " set_config('tcp_keepalives_interval', $3, false),"
        " set_config(name, value, false) FROM (VALUES"
        "     ('statement_timeout', '0'), ('idle_session_timeout', '0'),"
        "     ('idle_in_transaction_session_timeout', '0'), ('search_path', 'pg_catalog'),"
        "     ('default_transaction_isolation', 'read committed'), ('jit', 'off'),"
        "     ('plan_cache_mode', 'force_generic_plan')) settings(name, value)",
        deadline, third_ms, std::to_string(options_.lease.count()),
        std::to_string(std::max<milliseconds::rep>(1, third().count() / 1'000)));
    // A pooler makes up the number, and may use another session for each transaction.
    if (rows.number(0, 0) != PQbackendPID(pg.get())) {
        refuse_server(
            "there is a pooler (such as PgBouncer) before the database: a session of its "
            "own is needed, so connect to PostgreSQL itself");
    }
}

inline bool PostgresJournal::read(const Take& take) {
    const auto fail = [this](const char* what) {
        throw Error(
            Errc::journal_unreadable,
            "the journal in PostgreSQL cannot be opened (schema " + options_.schema + "): " + what);
    };
    {
        std::unique_lock<std::mutex> lock(mutex_);
        thread_ = std::thread([this] { run(); });
        settled_.wait(lock, [this] { return is_open_; });
    }
    try {
        if (open_failure_) std::rethrow_exception(open_failure_);
        const auto pg = connect(caller_interruption_, soon());
        Place place = read_all(*pg, take, [] {});
        std::unique_lock<std::mutex> lock(mutex_);
        read_ = place;
        wake();
        settled_.wait(lock, [this] { return is_decided_; });
    } catch (const PgError& error) {
        fail(error.what());
    }
    return false;
}

// Reads what is stored at this moment, in batches.  The transaction keeps its table from being
// dropped.  `meanwhile` is called between batches.
inline PostgresJournal::Place PostgresJournal::read_all(
    Connection& pg, const Take& take, const std::function<void()>& meanwhile) const {
    constexpr std::int64_t batch = std::int64_t{4} << 20;
    pg.run("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", later());
    const Rows lease = pg.run(sql("SELECT generation, first, epoch FROM $S.lease"), later());
    if (lease.size() != 1) throw PgError("the table of the lease is empty", "", false);
    Place place;
    place.generation = lease.number(0, 0);
    place.first = place.applied = lease.number(0, 1);
    place.lease_epoch = lease.number(0, 2);
    pg.prepare("rows", sql(detail::pg_rows, place.generation), later());
    std::int64_t last = std::numeric_limits<std::int64_t>::min();
    while (true) {
        const Rows rows = pg.call("rows", later(), last, batch);
        for (int row = 0; row < rows.size(); ++row) {
            const std::int64_t before = last > 0 ? last : place.first;
            last = rows.number(row, 0);
            std::string_view lines = rows.text(row, 2);
            if (last > 0) {
                if (last > before + 1) {
                    log(LogLevel::error, "cluster.gap", "groups ", before + 1, " to ", last - 1,
                        " are not in the table any more: what they have stored is lost");
                }
                place.applied = last;
                place.epoch = rows.number(row, 1);
                place.sum = detail::crc32(lines);
            }
            place.bytes += static_cast<std::int64_t>(lines.size());
            while (!lines.empty()) {
                const std::size_t end = std::min(lines.find('\n'), lines.size());
                take(lines.substr(0, end));
                lines.remove_prefix(std::min(end + 1, lines.size()));
            }
        }
        meanwhile();
        if (rows.size() == 0) break;
    }
    pg.run("COMMIT", later());
    return place;
}

// ---- 6 The I/O thread ------------------------------------------------------

inline void PostgresJournal::run() noexcept {
    if (open()) {
        while (!closing_) {
            try {
                if (!main_) {
                    connect_first();
                    next_tick_ = Moment{};
                    ticks_ = 0;
                    make_tables();
                    log(LogLevel::info, "cluster.connected", "the database is connected again");
                }
                serve();
            } catch (const detail::PgStopped&) {
                break;
            } catch (const std::exception& error) {
                lose(error.what());
            } catch (...) {
                lose("an unknown failure");
            }
            back_off();
        }
    }
    leave();
}

// The first connection, whose failure read() tells.
inline bool PostgresJournal::open() noexcept {
    std::exception_ptr failure;
    try {
        connect_first();
        make_tables();
        tick();
        // Those who are up have applied what this one is yet to read: they go first.
        for (int round = 0; round < 5 && has_others() && is_ownerless(); ++round) {
            ::poll(nullptr, 0, 20);
            tick();
        }
        if (may_own() && is_ownerless()) try_take();
    } catch (const detail::PgStopped&) {
        failure = std::make_exception_ptr(Error(Errc::stopped, "the journal is being closed"));
    } catch (...) {
        failure = std::current_exception();
    }
    const std::lock_guard<std::mutex> guard(mutex_);
    open_failure_ = failure;
    is_open_ = true;
    settled_.notify_all();
    return !failure;
}

// Whether nobody has the lease, or its session has ended.
inline bool PostgresJournal::is_ownerless() {
    const Rows rows =
        main_->run("SELECT pg_try_advisory_xact_lock_shared($1)", soon(), key(lease_.epoch));
    if (rows.text(0, 0) == "t") free_epoch_ = lease_.epoch;
    return free_epoch_ == lease_.epoch || Clock::now() >= lease_.until;
}

inline bool PostgresJournal::has_others() const {
    const std::lock_guard<std::mutex> guard(mutex_);
    return cluster_.nodes.size() > 1;
}

// Makes what is missing, one process at a time, and prepares the statements.
inline void PostgresJournal::make_tables() {
    // Not by to_regclass(), which in a transaction remembers that there was none.
    const auto is_missing = [this] {
        constexpr const char* lease =
            "SELECT FROM pg_class c JOIN pg_namespace s ON s.oid = c.relnamespace"
            " WHERE s.nspname = $1 AND c.relname = 'lease'";
        return main_->run(lease, soon(), options_.schema).size() == 0;
    };
    if (is_missing()) {
        main_->run("BEGIN", soon());
        main_->run("SELECT pg_advisory_xact_lock($1)", soon(), key(-1));
        if (is_missing()) {
            const Rows schema =
                main_->run("SELECT FROM pg_namespace WHERE nspname = $1", soon(), options_.schema);
            if (schema.size() == 0) main_->run(sql("CREATE SCHEMA $S"), soon());
            main_->run_all(sql(detail::pg_make_tables), soon());
            main_->run_all(sql(detail::pg_make_generation, 1), soon());
            main_->run_all(sql(detail::pg_make_views), soon());
        }
        main_->run("COMMIT", soon());
    }
    const Rows version = main_->run(sql("SELECT version FROM $S.lease"), soon());
    if (version.size() != 1) throw PgError("the table of the lease is empty", "", false);
    if (version.number(0, 0) > detail::pg_tables_version) {
        throw PgError("its tables have version " + std::string(version.text(0, 0)) +
                          ", which is newer than this program",
                      "", false);
    }
    main_->prepare("tick", sql(detail::pg_tick), soon());
    main_->prepare("take", sql(detail::pg_take), soon());
    main_->prepare("announce", std::string(detail::pg_announce), soon());
    main_->run(sql("LISTEN $S"), soon());
    prepared_generation_ = 0;
}

inline void PostgresJournal::serve() {
    while (true) {
        if (closing_) throw detail::PgStopped();
        if (held_ >= 0 && Clock::now() >= held_until_) {
            throw PgError("the lease could not be renewed in time", "", true);
        }
        if (Clock::now() >= next_tick_) tick();
        take_over_read();
        if (place_.generation != 0) {
            if (doubt_.calls) settle_doubt();
            if (!is_owner()) {
                pursue();
                if (told_of_failure_) give_up("what is stored cannot be applied here");
            }
            if (is_owner()) {
                store_queue();
                announce();
                drop_old();
            }
        }
        sleep();
    }
}

// What read() has read is where this thread goes on.
inline void PostgresJournal::take_over_read() {
    {
        const std::lock_guard<std::mutex> guard(mutex_);
        if (!read_ || is_decided_) return;
        place_ = *read_;
    }
    applied_ = place_.applied;
    bytes_ = place_.bytes;
    const detail::AtExit decided([this] {
        const std::lock_guard<std::mutex> guard(mutex_);
        is_decided_ = true;
        settled_.notify_all();
    });
    // P4: nobody else has stored anything since.
    if (held_ >= 0 && held_ == place_.lease_epoch) become_owner();
}

inline void PostgresJournal::sleep() {
    hear();
    {
        const std::lock_guard<std::mutex> guard(mutex_);
        if ((queue_ && is_owner()) || (read_ && !is_decided_) || closing_) return;
        sleeps_ = true;
        if (std::exchange(is_waited_for_, false) && held_ < 0) {
            is_behind_ = true;
            apply_again_ = std::max(apply_again_, looked_at_ + milliseconds(1));
        }
    }
    const Moment until = next_wake();
    std::array<pollfd, 3> watched{pollfd{wake_fd_.get(), POLLIN, 0}, pollfd{main_->fd(), POLLIN, 0},
                                  pollfd{side_ ? side_->fd() : -1, POLLIN, 0}};
    const auto left = std::max(until - Clock::now(), Clock::duration::zero());
    const auto rounded = std::chrono::duration_cast<milliseconds>(left) + milliseconds(1);
    ::poll(watched.data(), watched.size(), left.count() ? static_cast<int>(rounded.count()) : 0);
    {
        const std::lock_guard<std::mutex> guard(mutex_);
        sleeps_ = false;
    }
    if (watched[0].revents) io_interruption_.check();
    if (watched[1].revents) main_->take_input();
    hear();
}

// What the owner has announced, which may also have come in with the answer to a statement.
inline void PostgresJournal::hear() {
    while (const auto said = main_->notification()) {
        if (held_ >= 0) continue;
        is_behind_ = true;
        std::array<std::int64_t, 3> numbers{};  // epoch, generation, last group
        const char* at = said->data();
        for (std::int64_t& number : numbers) {
            at = std::from_chars(at, said->data() + said->size(), number).ptr;
            if (*at == ' ') ++at;
        }
        if (numbers[0] != lease_.epoch || numbers[1] != lease_.generation) next_tick_ = Moment{};
        const std::lock_guard<std::mutex> guard(mutex_);
        cluster_.stored = std::max(cluster_.stored, static_cast<std::uint64_t>(numbers[2]));
    }
}

inline detail::Moment PostgresJournal::next_wake() const {
    Moment next = next_tick_;
    if (held_ >= 0) next = std::min(next, held_until_);
    if (is_owner() && announced_ < applied_) next = std::min(next, next_announcement_);
    if (doubt_.calls) return std::min(next, std::min(doubt_.until, doubt_again_));
    if (place_.generation == 0 || ending_ || is_owner()) return next;
    return is_behind_ ? std::min(next, apply_again_) : next;
}

// Waits before it connects again, longer each time, up to two seconds; the first time not at all.
inline void PostgresJournal::back_off() noexcept {
    const milliseconds most(2'000);
    const milliseconds wait =
        failures_ == 0 ? milliseconds(0) : std::min(most, milliseconds(50) * (1 << failures_));
    failures_ = std::min(failures_ + 1, 6);
    const Moment until = Clock::now() + wait;
    while (!closing_) {
        take_over_read();
        expire_doubt(false);
        const Moment next = doubt_.calls ? std::min(until, doubt_.until) : until;
        const auto left = next - Clock::now();
        if (Clock::now() >= until) return;
        pollfd woken{wake_fd_.get(), POLLIN, 0};
        const auto rounded = std::chrono::duration_cast<milliseconds>(left) + milliseconds(1);
        ::poll(&woken, 1, std::max(0, static_cast<int>(rounded.count())));
        std::uint64_t count = 0;
        if (woken.revents) (void)!::read(wake_fd_.get(), &count, sizeof count);
    }
}

// ---- 7 The lease -----------------------------------------------------------

inline void PostgresJournal::tick() {
    const Moment sent = Clock::now();
    const TimePoint before = options_.now();
    next_tick_ = sent + pulse();
    const Moment deadline = held_ >= 0 ? held_until_ : soon();
    const Rows rows =
        main_->call("tick", deadline, options_.node, options_.url, std::int64_t{applied_},
                    std::string(SCHEDULER_VERSION), held_, std::int64_t{options_.lease.count()});
    take_ticked(rows, sent, before);
}

inline void PostgresJournal::take_ticked(const Rows& rows, Moment sent, TimePoint before) {
    if (rows.size() == 0) throw PgError("the table of the lease is empty", "", false);
    heard_at_ = Clock::now().time_since_epoch().count();
    const bool is_new = std::exchange(lease_.epoch, rows.number(0, 3)) != rows.number(0, 3);
    lease_.generation = rows.number(0, 0);
    lease_.first = rows.number(0, 1);
    lease_.bytes = rows.number(0, 2);
    lease_.node = rows.text(0, 4);
    lease_.url = rows.text(0, 5);
    lease_.pid = rows.number(0, 6);
    lease_.until = Clock::now() + milliseconds(rows.number(0, 7));
    if (held_ < 0 && lease_.until > sent) next_tick_ = std::min(next_tick_, lease_.until);
    if (held_ < 0) is_behind_ = true;
    {
        const std::lock_guard<std::mutex> guard(mutex_);
        const bool is_owned = lease_.until > sent;
        cluster_.owner = is_owned ? lease_.node : "";
        cluster_.owner_url = is_owned ? lease_.url : "";
        cluster_.epoch = static_cast<std::uint64_t>(lease_.epoch);
        cluster_.is_connected = true;
        cluster_.nodes.clear();
        cluster_.nodes.push_back({options_.node, options_.url, applied(), before});
        for (int row = 0; row < rows.size(); ++row) {
            if (rows.is_null(row, 10)) continue;
            const auto applied = static_cast<std::uint64_t>(rows.number(row, 12));
            cluster_.nodes.push_back({std::string(rows.text(row, 10)),
                                      std::string(rows.text(row, 11)), applied,
                                      TimePoint(milliseconds(rows.number(row, 13)))});
        }
        std::sort(cluster_.nodes.begin(), cluster_.nodes.end(),
                  [](const Node& a, const Node& b) { return a.name < b.name; });
    }
    if (held_ >= 0 && rows.number(0, 8) == 0) {
        throw PgError("the lease is another's: " + lease_.node, "", true);
    }
    judge_clock(before, options_.now(), TimePoint(milliseconds(rows.number(0, 9))));
    // What its row had until now is what this has put there, unless somebody else has its name.
    if (ticks_ > 0 && !rows.is_null(0, 14) && rows.text(0, 14) != options_.url &&
        !std::exchange(told_of_twin_, true)) {
        log(LogLevel::error, "cluster.twin", "another process is called ", options_.node,
            " too, and answers at ", rows.text(0, 14), "; each needs a name of its own");
    }
    if (held_ >= 0) {
        held_until_ = sent + options_.lease - options_.lease / 10;
        if (owner_until_ != 0) owner_until_ = held_until_.time_since_epoch().count();
    }
    if (++ticks_ > 1) failures_ = 0;
    if (is_new || ticks_ == 1) check_applied();
    changed();
}

// The two clocks are compared at the middle of a round trip.  What a long one leaves open changes
// nothing.
inline void PostgresJournal::judge_clock(TimePoint before, TimePoint after, TimePoint theirs) {
    const milliseconds half = std::chrono::abs(after - before) / 2;
    const milliseconds ahead = before + (after - before) / 2 - theirs;
    const milliseconds off = std::chrono::abs(ahead);
    const bool was_right = clock_is_right_;
    if (off - half > options_.max_clock_error) clock_is_right_ = false;
    if (off + half <= options_.max_clock_error) clock_is_right_ = true;
    std::string problem;
    if (!clock_is_right_) {
        problem = "the clock of this machine is " + std::to_string(off.count()) + " ms " +
                  (ahead.count() > 0 ? "ahead of" : "behind") + " the database's";
    }
    if (was_right && !clock_is_right_) {
        log(LogLevel::error, "cluster.clock", problem, "; this process does not own the journal");
    } else if (!was_right && clock_is_right_) {
        log(LogLevel::info, "cluster.clock", "the clock agrees with the database's again");
    }
    {
        const std::lock_guard<std::mutex> guard(mutex_);
        cluster_.clock_ahead = ahead;
        if (!problem.empty() || !cluster_.is_stuck) cluster_.problem = problem;
    }
    if (!clock_is_right_) give_up(problem);
}

// Gives the lease up, if this has it, and ends the connection.
inline void PostgresJournal::give_up(const std::string& why) {
    if (held_ < 0) return;
    release();
    throw PgError(why, "", true);
}

// Without the lease: does what those do who follow, and takes the lease when it is free.
inline void PostgresJournal::pursue() {
    if (ending_) return give_up("the journal is being closed");
    // A call that still waits is settled before anything is told; whoever is told waits for it.
    if (rereads_ && !doubt_.calls && Clock::now() >= apply_again_) reread();
    if (held_ < 0) watch_owner();
    if (Clock::now() < apply_again_ || doubt_.calls || !is_behind_) return;
    if (catch_up() && held_ >= 0) become_owner();
}

// Waits for the lock of the owner's session (P3): in the database, on a connection of its own, and
// for a third of the lease at a time, since a statement that waits holds back what VACUUM may free.
inline void PostgresJournal::watch_owner() {
    if (side_ && side_epoch_ != lease_.epoch) side_.reset();
    if (side_ && side_->is_ready()) {
        if (side_->finish(soon()).text(0, 0) == "t") free_epoch_ = side_epoch_;
        side_epoch_ = -1;
    }
    const bool is_free = free_epoch_ == lease_.epoch || was_own();
    if ((is_free || Clock::now() >= lease_.until) && Clock::now() >= take_again_ && may_own()) {
        try_take();
        if (held_ >= 0) return side_.reset();
        next_tick_ = take_again_ = Clock::now() + milliseconds(20);  // another was about to
    }
    if (free_epoch_ == lease_.epoch || (side_ && side_epoch_ >= 0)) return;
    if (!side_ && !connect_side()) return;
    side_epoch_ = lease_.epoch;
    side_->send(sql("SELECT $S.waits_for_end_of_owner($1)"), key(side_epoch_));
    side_->is_ready();
}

// Without it this process follows all the same, and the end of a lease tells of a lost owner.
inline bool PostgresJournal::connect_side() {
    if (Clock::now() < side_again_) return false;
    try {
        side_ = connect(io_interruption_, Clock::now() + third());
        return true;
    } catch (const PgError& error) {
        side_again_ = Clock::now() + options_.lease;
        log(LogLevel::warning, "cluster.unwatched",
            "the end of the owner cannot be waited for: ", error.what(),
            "; it is known when its lease ends");
        return false;
    }
}

// Takes the lease if it is still as it was, and is free.  The lock comes first: nobody may see the
// epoch while it can be had.
inline void PostgresJournal::try_take() {
    const std::int64_t next = lease_.epoch + 1;
    const bool is_free = free_epoch_ == lease_.epoch || was_own();
    if (!is_free && Clock::now() < lease_.until) return;
    const Rows lock = main_->run("SELECT pg_try_advisory_lock($1)", soon(), key(next));
    if (lock.text(0, 0) != "t") return;
    const Moment sent = Clock::now();
    const Rows rows =
        main_->call("take", soon(), lease_.epoch, options_.node, options_.url,
                    std::int64_t{options_.lease.count()}, std::string(is_free ? "true" : "false"));
    if (rows.size() == 0) {
        main_->run("SELECT pg_advisory_unlock($1)", soon(), key(next));
        next_tick_ = Moment{};
        return;
    }
    held_ = lease_.epoch = next;
    held_until_ = sent + options_.lease - options_.lease / 10;
    lease_.generation = rows.number(0, 0);
    lease_.first = rows.number(0, 1);
    lease_.bytes = rows.number(0, 2);
    lease_.node = options_.node;
    lease_.url = options_.url;
    lease_.pid = PQbackendPID(main_->get());
    next_tick_ = sent + pulse();
    is_behind_ = true;
    check_applied();
}

// All that is stored is applied, and nobody else can store anything.
inline void PostgresJournal::become_owner() {
    prepare_generation();
    main_->run("UNLISTEN *", soon());  // it would only hear itself
    main_->run(sql("DELETE FROM $S.nodes WHERE seen < clock_timestamp() - interval '1 day'"),
               soon());
    is_behind_ = false;
    has_old_tables_ = true;
    announced_ = -1;
    {
        const std::lock_guard<std::mutex> guard(mutex_);
        cluster_.owner = options_.node;
        cluster_.owner_url = options_.url;
        cluster_.epoch = static_cast<std::uint64_t>(held_);
    }
    owner_until_ = held_until_.time_since_epoch().count();
    log(LogLevel::info, "cluster.owner", "this process owns the journal, as epoch ",
        detail::named("epoch", static_cast<std::uint64_t>(held_)));
    changed();
}

// Gives the lease up, so that another may take it at once.
inline void PostgresJournal::release() noexcept {
    if (held_ < 0 || !main_ || !main_->is_idle()) return;
    owner_until_ = 0;
    try {
        const Moment deadline = Clock::now() + std::chrono::seconds(1);
        main_->run(sql("UPDATE $S.lease SET until = to_timestamp(0) WHERE epoch = $1"), deadline,
                   held_);
    } catch (...) {  // then the end of the session tells
    }
}

inline void PostgresJournal::leave() noexcept {
    try {  // what was under way when this was to end, so that the session can be used once more
        if (main_ && !main_->is_idle()) main_->finish(Clock::now() + std::chrono::seconds(1));
    } catch (...) {  // then the end of the session tells
    }
    release();
    try {
        const Moment deadline = Clock::now() + std::chrono::seconds(1);
        const bool is_idle = main_ && main_->is_idle();
        if (is_idle)
            main_->run(sql("DELETE FROM $S.nodes WHERE node = $1"), deadline, options_.node);
    } catch (...) {  // then the others forget it a little later
    }
    lose(nullptr);
    expire_doubt(true);
}

// The connection is over, and with it the epoch (P2).
inline void PostgresJournal::lose(const char* why) noexcept {
    const bool was_owner = held_ >= 0;
    owner_until_ = 0;
    if (was_owner) {
        own_ = held_;
        own_pid_ = lease_.pid;
    }
    held_ = -1;
    side_.reset();
    side_epoch_ = free_epoch_ = -1;
    side_drops_ = false;
    if (why && (was_owner || main_)) {
        log(LogLevel::warning, "cluster.lost", "the connection to the database is over: ", why,
            was_owner ? "; this process does not own the journal any more" : "");
    }
    main_.reset();
    Calls refused;
    {
        const std::lock_guard<std::mutex> guard(mutex_);
        refused = std::exchange(queue_, {});
        cluster_.is_connected = false;
        try {
            if (why && cluster_.problem.empty()) cluster_.problem = why;
            if (was_owner) cluster_.owner.clear();
        } catch (const std::bad_alloc&) {
        }
    }
    settle_all(refused, Fate::not_owner);
    if (why) changed();
}

// ---- 8 Following -----------------------------------------------------------

inline void PostgresJournal::prepare_generation() {
    if (prepared_generation_ == place_.generation) return;
    if (prepared_generation_ != 0) {
        main_->run("DEALLOCATE rows", soon());
        main_->run("DEALLOCATE store", soon());
        prepared_generation_ = 0;
    }
    main_->prepare("rows", sql(detail::pg_rows, place_.generation), soon());
    main_->prepare("store", sql(detail::pg_store, place_.generation), soon());
    prepared_generation_ = place_.generation;
}

// Tells all that is stored and not applied.  True: there is no more.
inline bool PostgresJournal::catch_up() {
    constexpr std::int64_t batch = std::int64_t{1} << 20;
    if (rereads_) return false;
    while (true) {
        Rows rows;
        try {
            prepare_generation();
            rows = main_->call("rows", soon(), std::int64_t{applied_}, batch);
        } catch (const PgError& error) {
            if (!error.is("42P01")) throw;
            rereads_ = true;  // the table is gone
            return false;
        }
        if (rows.size() == 0 && place_.generation == lease_.generation) {
            looked_at_ = Clock::now();
            is_behind_ = false;
            return true;
        }
        if (rows.size() == 0 ? !next_generation() : !tell_rows(rows)) return false;
        if (Clock::now() >= next_tick_) tick();
    }
}

// All of a table that is not written any more is applied.  False: what is applied is older than
// what the next one has.
inline bool PostgresJournal::next_generation() {
    if (applied_ < lease_.first) {
        rereads_ = true;
        return false;
    }
    place_.generation = lease_.generation;
    place_.first = lease_.first;
    prepare_generation();
    const Rows tail = main_->run(
        sql("SELECT coalesce(sum(octet_length(lines)), 0) FROM $J WHERE n > 0 AND n <= $1",
            place_.generation),
        soon(), std::int64_t{applied_});
    bytes_ = lease_.bytes + tail.number(0, 0);
    return true;
}

inline bool PostgresJournal::tell_rows(const Rows& rows) {
    const detail::AtExit told([this] { changed(); });
    for (int row = 0; row < rows.size(); ++row) {
        const std::int64_t n = rows.number(row, 0);
        if (n != applied_ + 1) {
            rereads_ = true;
            return false;
        }
        const std::string_view lines = rows.text(row, 2);
        try {
            if (!follower_.written || !tell([&] { follower_.written(lines); })) {
                apply_again_ = soon();
                return false;
            }
            applies_again();
        } catch (const std::exception& error) {
            put_off(error.what());
            return false;
        }
        place_.epoch = rows.number(row, 1);
        place_.sum = detail::crc32(lines);
        bytes_ += static_cast<std::int64_t>(lines.size());
        applied_ = n;
        if (Clock::now() >= next_tick_) tick();
    }
    return true;
}

// Calls the follower, unless it is not to be called any more.  What it throws comes out.
template <class Fn>
bool PostgresJournal::tell(Fn fn) {
    {
        const std::lock_guard<std::mutex> guard(mutex_);
        if (ending_ || is_telling_ || !is_decided_) return false;
        is_telling_ = true;
    }
    const detail::AtExit told([this] {
        const std::lock_guard<std::mutex> guard(mutex_);
        is_telling_ = false;
        settled_.notify_all();
    });
    fn();
    return true;
}

inline void PostgresJournal::changed() noexcept {
    try {
        if (follower_.changed) tell(follower_.changed);
    } catch (...) {
    }
}

// What the follower could not take is told again in a second.
inline void PostgresJournal::put_off(const char* why) noexcept {
    apply_again_ = Clock::now() + std::chrono::seconds(1);
    {
        const std::lock_guard<std::mutex> guard(mutex_);
        cluster_.is_stuck = true;
        try {
            cluster_.problem = why;
        } catch (const std::bad_alloc&) {
        }
    }
    if (std::exchange(told_of_failure_, true)) return;
    log(LogLevel::error, "cluster.not_applied",
        "what the owner has stored cannot be applied: ", why, "; it is tried again every second");
}

inline void PostgresJournal::applies_again() {
    if (!std::exchange(told_of_failure_, false)) return;
    const std::lock_guard<std::mutex> guard(mutex_);
    cluster_.is_stuck = false;
    cluster_.problem.clear();
}

// What was applied is not a part of what is stored, or the rest is not kept any more.
inline void PostgresJournal::reread() {
    apply_again_ = Clock::now() + std::chrono::seconds(1);
    if (!follower_.reread) return;
    log(LogLevel::warning, "cluster.reread", "all of the journal is read again");
    const auto pg = connect(io_interruption_, soon());
    std::optional<Place> place;
    const auto read = [&](const Take& take) {
        place = read_all(*pg, take, [this] {
            if (Clock::now() >= next_tick_) tick();
            if (ending_) throw Error(Errc::stopped, "the journal is being closed");
        });
    };
    const detail::AtExit told([this] { changed(); });
    try {
        tell([&] { follower_.reread(read); });
    } catch (const std::exception& error) {
        if (!main_->is_idle()) throw;
        put_off(error.what());
        return;
    }
    if (!place) return;
    place_ = *place;
    applied_ = place_.applied;
    bytes_ = place_.bytes;
    rereads_ = false;
    applies_again();
    apply_again_ = Moment{};
    is_behind_ = true;
}

// Whether the last group that was applied is still the one that is stored: a standby that was
// promoted, or a backup that was restored, may lack it.
inline void PostgresJournal::check_applied() {
    if (place_.generation == 0 || rereads_ || applied_ <= place_.first) return;
    const auto found = find_row(place_.generation, applied_, place_.epoch, place_.sum);
    if (found ? *found : applied_ >= lease_.first) return;
    log(LogLevel::error, "cluster.went_back",
        "the database does not hold what it has held: it has lost what was stored last");
    rereads_ = true;
}

// Whether a group is stored as this process knows it; nothing: its table is gone.
inline std::optional<bool> PostgresJournal::find_row(std::int64_t generation, std::int64_t n,
                                                     std::int64_t epoch, std::uint32_t sum) {
    try {
        const Rows rows = main_->run(
            sql("SELECT lines FROM $J WHERE n = $1 AND epoch = $2", generation), soon(), n, epoch);
        return rows.size() > 0 && detail::crc32(rows.text(0, 0)) == sum;
    } catch (const PgError& error) {
        if (!error.is("42P01")) throw;
        return std::nullopt;
    }
}

// ---- 9 Storing -------------------------------------------------------------

inline void PostgresJournal::store_queue() {
    std::string_view lines;
    Calls calls = take_group(lines);
    if (!calls) return;
    if (!calls.first->work) return store_group(calls, lines);
    try {
        (*calls.first->work)();
    } catch (...) {
        calls.first->failure = std::current_exception();
    }
    settle_all(calls, Fate::stored);
    if (!main_->is_idle()) throw PgError("the database does not answer", "", true);
}

// What is queued, as one group if it is not too large.
inline PostgresJournal::Calls PostgresJournal::take_group(std::string_view& lines) {
    constexpr std::size_t most = std::size_t{1} << 20;
    Calls calls;
    const std::lock_guard<std::mutex> guard(mutex_);
    merged_.clear();
    while (queue_) {
        const Call& next = *queue_.first;
        if (calls && (calls.first->work || next.work || lines.size() + next.lines.size() > most)) {
            break;
        }
        try {
            if (!calls) {
                lines = next.lines;  // which are not copied if nothing comes with them
            } else {
                if (merged_.empty()) merged_ = lines;
                merged_ += next.lines;
                lines = merged_;
            }
        } catch (const std::bad_alloc&) {  // then one after the other
            if (!calls) throw;
            break;
        }
        calls.add(queue_.pop());
    }
    return calls;
}

// P1.  What is known not to be stored is refused; what may be is looked up (P5).
inline void PostgresJournal::store_group(Calls calls, std::string_view lines) {
    const std::int64_t n = applied_ + 1;
    const auto size = static_cast<std::int64_t>(lines.size());
    const std::uint32_t sum = detail::crc32(lines);
    const auto in_doubt = std::min(milliseconds(5'000), options_.lease / 2);
    const auto begun = std::chrono::steady_clock::now();
    bool is_stored = false;
    try {
        is_stored = main_->call("store", held_until_, held_, n, lines).changed_any();
    } catch (const PgError& error) {
        if (error.is_lost()) {
            doubt_ = {calls, held_, n, size, sum, place_.generation, Clock::now() + in_doubt};
            throw;
        }
        // Ends that cannot be stored are not shown, so this is an owner no more.
        const bool goes_on = error.is("53") && !calls.have_ends();
        if (!goes_on) owner_until_ = 0;
        settle_all(calls, error.is("53") ? Fate::disk_full : Fate::failed, error.what());
        if (!goes_on) throw;
        return;
    } catch (...) {
        doubt_ = {calls, held_, n, size, sum, place_.generation, Clock::now() + in_doubt};
        throw;
    }
    if (!is_stored) {
        owner_until_ = 0;
        settle_all(calls, Fate::not_owner);
        throw PgError("the lease is another's", "", true);
    }
    place_.epoch = held_;
    place_.sum = sum;
    applied_ = n;
    bytes_ += size;
    written_ += lines.size();
    ++groups_;
    failures_ = 0;
    settle_all(calls, Fate::stored);
    const auto took = std::chrono::steady_clock::now() - begun;
    const std::lock_guard<std::mutex> guard(mutex_);
    durations_.add(std::chrono::duration_cast<std::chrono::microseconds>(took));
}

inline void PostgresJournal::settle_all(Calls& calls, Fate fate, const char* why) noexcept {
    const std::lock_guard<std::mutex> guard(mutex_);
    try {
        reason_ = why;
    } catch (const std::bad_alloc&) {
        reason_.clear();
    }
    while (calls) calls.pop().fate = fate;  // after which it may be gone
    settled_.notify_all();
}

// P5: with an epoch above its own, a group that is not there will not come.
inline void PostgresJournal::settle_doubt() {
    expire_doubt(false);
    if (!doubt_.calls || Clock::now() < doubt_again_) return;
    doubt_again_ = Clock::now() + milliseconds(50);
    if (lease_.epoch == doubt_.epoch) {
        if (may_own()) {
            try_take();
        } else {
            main_->call("take", soon(), lease_.epoch, std::string(), std::string(), std::int64_t{0},
                        std::string("true"));
        }
        if (lease_.epoch == doubt_.epoch) tick();
        if (lease_.epoch == doubt_.epoch) return;
    }
    const auto find = [this](std::int64_t generation) {
        return find_row(generation, doubt_.n, doubt_.epoch, doubt_.sum);
    };
    std::optional<bool> found = find(doubt_.generation);
    if (!found && lease_.first < doubt_.n) found = find(lease_.generation);
    if (!found) return expire_doubt(true);
    if (*found) {
        applied_ = doubt_.n;
        place_.epoch = doubt_.epoch;
        place_.sum = doubt_.sum;
        bytes_ += doubt_.bytes;
    }
    settle_all(doubt_.calls, *found ? Fate::stored : Fate::not_owner);
}

// What cannot be found out in time is told as another's, if it turns out to be stored.
inline void PostgresJournal::expire_doubt(bool now) noexcept {
    if (doubt_.calls && (now || ending_ || Clock::now() >= doubt_.until)) {
        settle_all(doubt_.calls, Fate::unknown);
    }
}

// Tells the others, at most every five milliseconds, since that takes a lock of the whole instance.
inline void PostgresJournal::announce() {
    const Moment now = Clock::now();
    if (announced_ == applied_ || now < next_announcement_) return;
    try {
        main_->call("announce", held_until_, options_.schema,
                    std::to_string(held_) + " " + std::to_string(place_.generation) + " " +
                        std::to_string(applied_));
    } catch (const PgError&) {
        if (!main_->is_idle()) throw;  // else they look by themselves, less often
    }
    announced_ = applied_;
    next_announcement_ = now + milliseconds(5);
}

// ---- 10 Replacing ----------------------------------------------------------

inline void PostgresJournal::replace(Source& source) {
    require_owner();
    try {
        const auto pg = connect(caller_interruption_, soon());
        std::int64_t epoch = 0;
        std::int64_t old = 0;
        std::int64_t next = 0;
        do_as_owner([&] {
            epoch = held_;
            old = place_.generation;
            const Rows rows = main_->run(
                sql("UPDATE $S.lease SET generations = generations + 1 WHERE epoch = $1 RETURNING "
                    "generations"),
                held_until_, epoch);
            if (rows.size() == 0) throw Error(Errc::not_owner, "the lease is another's");
            next = rows.number(0, 0);
        });
        pg->run("BEGIN", later());
        pg->run_all(sql(detail::pg_make_generation, next), later());
        std::int64_t first = 0;
        std::int64_t bytes_then = 0;
        source.at_rest([&] {
            first = applied_;
            bytes_then = bytes_;
        });
        const std::int64_t size = copy_to(*pg, next, source);
        pg->run("COMMIT", later());
        const std::int64_t last = copy_tail(*pg, old, next, first);
        do_as_owner([&] {
            const Rows rows = main_->run(sql(detail::pg_switch, old, next), held_until_, epoch,
                                         next, first, size, last);
            if (held_ != epoch || rows.size() == 0) {
                throw Error(Errc::not_owner, "the lease is another's");
            }
            place_.generation = lease_.generation = next;
            place_.first = lease_.first = first;
            lease_.bytes = size;
            bytes_ += size - bytes_then;
            written_ += static_cast<std::uint64_t>(size);
            ++replacements_;
            has_old_tables_ = true;
            announced_ = -1;
            prepare_generation();
        });
    } catch (const PgError& error) {
        require_owner();
        throw Error(error.is("53") ? Errc::disk_full : Errc::journal_failed,
                    std::string("the journal in PostgreSQL cannot be replaced: ") + error.what());
    }
}

// Copies what was stored since, but for a little that may come meanwhile, and returns how far.
inline std::int64_t PostgresJournal::copy_tail(Connection& pg, std::int64_t old, std::int64_t next,
                                               std::int64_t last) const {
    std::int64_t moved = 1'000;
    for (int round = 0; round < 8 && moved >= 100; ++round) {
        const Rows rows =
            pg.run(sql("WITH moved AS (INSERT INTO $K SELECT n, epoch, lines FROM $J WHERE n > $1 "
                       "RETURNING n) SELECT coalesce(max(n), $1), count(*) FROM moved",
                       old, next),
                   later(), last);
        last = rows.number(0, 0);
        moved = rows.number(0, 1);
    }
    return last;
}

// Writes what is remembered as rows with numbers below zero, and returns how many bytes it has.
inline std::int64_t PostgresJournal::copy_to(Connection& pg, std::int64_t generation,
                                             Source& source) const {
    constexpr std::size_t most = 256 * 1'024;
    std::int64_t n = std::numeric_limits<std::int64_t>::min() / 2;
    std::int64_t size = 0;
    std::string lines;
    pg.run(sql("COPY $J FROM STDIN (FORMAT binary)", generation), later());
    std::string row("PGCOPY\n\377\r\n\0\0\0\0\0\0\0\0\0", 19);  // what the format begins with
    const auto append = [&row](std::uint64_t number, int bytes) {
        for (int i = bytes - 1; i >= 0; --i) row += static_cast<char>(number >> (8 * i) & 0xFF);
    };
    const auto put = [&] {
        if (lines.empty()) return;
        append(3, 2);
        append(8, 4);
        append(static_cast<std::uint64_t>(n++), 8);
        append(8, 4);
        append(0, 8);
        append(lines.size(), 4);
        pg.put(row, later());
        pg.put(lines, later());
        size += static_cast<std::int64_t>(lines.size());
        row.clear();
        lines.clear();
    };
    source.copy([&](std::string_view more) {
        lines += more;
        if (lines.size() >= most) put();
    });
    put();
    append(0xFFFF, 2);
    pg.put(row, later());
    pg.end_put(later());
    return size;
}

// Drops the tables that nobody reads any more, one at a time, on the other connection: freeing the
// space of a large one takes a while.  The one before the present one stays while a node that was
// heard of lately may read it.
inline void PostgresJournal::drop_old() {
    try {
        if (side_ && side_drops_) {
            if (!side_->is_ready()) return;
            side_drops_ = false;
            side_->finish(held_until_);
        } else if (!has_old_tables_ || Clock::now() < drop_again_) {
            return;
        }
        drop_again_ = Clock::now() + third();
        const std::int64_t old = old_generation();
        if (old == 0) return side_.reset();
        // Nothing is stored until it is connected, or is not.
        if (!side_) side_ = connect(io_interruption_, Clock::now() + third() / 3);
        side_->run("SELECT set_config('lock_timeout', '100', false)", held_until_);
        side_->send(sql("DROP TABLE IF EXISTS $J", old));
        side_drops_ = true;
        side_->is_ready();
    } catch (const PgError&) {  // somebody reads it, or there are too many connections: later
        if (!main_->is_idle()) throw;
        side_drops_ = false;
        side_.reset();
    }
}

// The first table that may go; 0: none, or not yet.
inline std::int64_t PostgresJournal::old_generation() {
    const Rows rows = main_->run(
        "SELECT substr(relname, 9)::bigint FROM pg_class c JOIN pg_namespace s ON s.oid = "
        "relnamespace"
        " WHERE nspname = $1 AND relkind = 'r' AND relname ~ '^journal_[0-9]+$'"
        " AND substr(relname, 9)::bigint < $2::bigint ORDER BY 1",
        held_until_, options_.schema, place_.generation);
    has_old_tables_ = rows.size() > 0;
    if (rows.size() == 0) return 0;
    if (rows.size() > 1) return rows.number(0, 0);
    const auto first = static_cast<std::uint64_t>(place_.first);
    const std::lock_guard<std::mutex> guard(mutex_);
    for (const Node& node : cluster_.nodes) {
        if (node.name != options_.node && node.applied < first) return 0;
    }
    return rows.number(0, 0);
}

}  // namespace scheduler

#endif  // TASK_SCHEDULER_POSTGRES_JOURNAL_HPP
