// SPDX-License-Identifier: MIT
//
// Tasks that are kept in PostgreSQL, by several nodes.  This needs libpq: Meson defines
// TASK_SCHEDULER_POSTGRES where it finds that, and a binary without it says how to get it.

#pragma once

#include "service.hpp"

#ifdef TASK_SCHEDULER_POSTGRES
#include "../postgres/postgres_journal.hpp"
#endif

#include <cctype>
#include <memory>

namespace cli {

// What of a URI may be shown, and whether a password was in the rest.
struct ShownStore {
    explicit ShownStore(const std::string& uri) {
        const std::size_t slashes = uri.find("://");
        if (slashes == std::string::npos) {
            text = uri;
            return;
        }
        const std::string rest = uri.substr(slashes + 3);
        const std::size_t path = std::min(rest.find('/'), rest.size());
        const std::size_t at = rest.rfind('@', path);
        const std::size_t host = at == std::string::npos ? 0 : at + 1;
        const std::size_t query = std::min(rest.find('?', host), rest.size());
        text = uri.substr(0, slashes + 3) + rest.substr(host, query - host);
        has_password = rest.find(':') < host || rest.find("password=", query) < rest.size();
    }
    std::string text;
    bool has_password = false;
};

inline std::string host_name() {
    char name[256] = "";
    if (::gethostname(name, sizeof name - 1) != 0 || name[0] == '\0') return "localhost";
    return name;
}

// The listener by which other nodes reach this one: the first that other machines do, else the
// first with a port, else the first.
inline const scheduler::HttpListener& reachable(
    const std::vector<scheduler::HttpListener>& listeners) {
    const auto rank = [](const scheduler::HttpListener& one) {
        return one.is_unix() ? 2 : one.is_loopback() ? 1 : 0;
    };
    return *std::min_element(listeners.begin(), listeners.end(),
                             [&](const auto& a, const auto& b) { return rank(a) < rank(b); });
}

// Where that is, with the name of this machine in place of all its addresses; empty: nodes pass
// nothing on to a socket in the file system.
inline std::string default_advertise(const Settings& settings,
                                     const scheduler::HttpListener& listener) {
    if (listener.is_unix()) return "";
    std::string url = url_of(settings, listener);
    for (const std::string any : {"://*:", "://0.0.0.0:", "://[::]:"}) {
        const std::size_t at = url.find(any);
        if (at != std::string::npos) url.replace(at, any.size(), concat({"://", host_name(), ":"}));
    }
    return url;
}

// The schema of a store: that of --postgres-schema, and what its prefix makes of it.
inline std::string schema_of(const Settings& settings, const Store& store) {
    std::string name = settings.postgres_schema;
    for (const char c : store.prefix) {
        const auto byte = static_cast<unsigned char>(c);
        name += std::isalnum(byte) ? static_cast<char>(std::tolower(byte)) : '_';
    }
    return naming("--store " + store.prefix, [&name] { return schema(name); });
}

// Gives each store its schema, and the server their prefixes.
inline void tell_apart(Settings& settings) {
    std::map<std::string, std::string> schemas;
    for (const Store& store : settings.stores) {
        if (!store.prefix.empty()) settings.http.prefixes.push_back(store.prefix);
        if (!store.prefix.empty() || settings.stores.size() == 1) continue;
        refuse_usage(
            {"--store is given more than once: each scheduler needs a prefix for its paths, as in "
             "--store /heating=postgres://HOST/DATABASE"});
    }
    naming("--store", [&settings] { check_prefixes(settings.http.prefixes); });
    for (Store& store : settings.stores) {
        store.schema = schema_of(settings, store);
        const auto [other, is_first] = schemas.emplace(store.schema, store.prefix);
        if (is_first) continue;
        refuse_usage({"--store: ", other->second, " and ", store.prefix,
                      " would both be kept in the schema ", store.schema,
                      "; give one of them another prefix"});
    }
}

// Refuses what does not go together, and what this binary cannot do.
inline void check_store(Settings& settings) {
    const auto is_given = [&settings](const std::string& name) {
        return settings.given.count(name) > 0;
    };
    if (settings.stores.empty()) {
        for (const std::string name :
             {"postgres-schema", "node", "advertise", "lease", "max-clock-error"}) {
            if (is_given(name)) refuse_usage({"--", name, " goes with --store"});
        }
        return;
    }
    // A unit of a service may say a journal by a variable; the store stands above that.
    const char* const variable = std::getenv("SCHEDULER_JOURNAL");
    if (is_given("journal") &&
        settings.given["journal"] != std::string(variable ? variable : "") + '\n') {
        refuse_usage(
            {"--journal and --store exclude each other: tasks are kept in a file or in "
             "a database"});
    }
    if (is_given("fsync")) {
        refuse_usage(
            {"--fsync is for the file of --journal; what is stored in PostgreSQL is "
             "synced as its own synchronous_commit says"});
    }
#ifndef TASK_SCHEDULER_POSTGRES
    refuse_usage(
        {"--store: this program was built without PostgreSQL; install libpq (Debian: "
         "libpq-dev) and build it again with -Dpostgres=enabled"});
#else
    tell_apart(settings);
#endif
}

// The schedulers of this process, which are to be made: one for each store, or one with a file.
inline std::list<Served> schedulers_of(const Settings& settings) {
    std::list<Served> all;
    if (settings.stores.empty()) all.emplace_back().settings = settings;
    for (const Store& store : settings.stores) {
        Served& one = all.emplace_back();
        one.prefix = store.prefix;
        one.settings = settings;
        one.settings.stores = {store};
        one.settings.source += store.prefix;
        scheduler::Options& options = one.settings.scheduler;
        options.journal = concat({ShownStore(store.uri).text, " (schema ", store.schema, ")"});
        if (store.prefix.empty()) continue;
        options.log = [prefix = store.prefix, log = options.log](scheduler::LogRecord record) {
            record.text.insert(0, prefix + ": ");
            record.fields.push_back({"store", prefix});
            log(record);
        };
    }
    return all;
}

inline void warn_of_store(const Settings& settings, const scheduler::HttpListener& listener) {
    const auto warn = [&settings](const char* event, const std::string& sentence) {
        settings.scheduler.log({scheduler::LogLevel::warning, event, sentence, {}});
    };
    const auto has_password = [](const Store& one) { return ShownStore(one.uri).has_password; };
    if (std::any_of(settings.stores.begin(), settings.stores.end(), has_password)) {
        warn("store.password",
             "--store holds a password, and every user of this machine can read the command line; "
             "put it into a file that PGPASSFILE names, or into a service that PGSERVICE names");
    }
    if (!settings.advertise.empty() || !(listener.is_loopback() || listener.is_unix())) return;
    const std::string url = default_advertise(settings, listener);
    const std::string place = url.empty() ? "a socket in the file system" : url;
    warn("store.advertise", "nodes on other machines cannot pass changes on to " + place +
                                "; --advertise URL says where they reach this one");
}

// Has a scheduler keep its tasks in its store, if it has one.
inline void use_store([[maybe_unused]] Served& served,
                      [[maybe_unused]] const scheduler::HttpListener& listener) {
#ifdef TASK_SCHEDULER_POSTGRES
    Settings& settings = served.settings;
    if (settings.stores.empty()) return;
    const Store& store = settings.stores.front();
    scheduler::PostgresOptions options;
    if (store.uri != "postgres:") options.connection = store.uri;
    options.schema = store.schema;
    const std::string place = listener.address();
    options.node =
        settings.node.empty() ? host_name() + place.substr(place.rfind(':')) : settings.node;
    options.url =
        settings.advertise.empty() ? default_advertise(settings, listener) : settings.advertise;
    while (!options.url.empty() && options.url.back() == '/') options.url.pop_back();
    if (!options.url.empty()) options.url += store.prefix;
    options.lease = settings.lease;
    options.max_clock_error = settings.max_clock_error;
    options.log = settings.scheduler.log;
    settings.scheduler.make_journal = [options] {
        return std::make_unique<scheduler::PostgresJournal>(options);
    };
#endif
}

inline void use_stores(const Settings& settings, std::list<Served>& served,
                       const std::vector<scheduler::HttpListener>& listeners) {
    const scheduler::HttpListener& listener = reachable(listeners);
    if (!settings.stores.empty()) warn_of_store(settings, listener);
    for (Served& one : served) use_store(one, listener);
}

}  // namespace cli
