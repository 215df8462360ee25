// SPDX-License-Identifier: MIT
//
// The server as a service: what a service manager such as systemd says to it and wants to hear
// (sd_notify(3), sd_listen_fds(3), sd_watchdog_enabled(3)), and a journal that takes long to open.

#pragma once

#include "flags.hpp"

#include <sys/socket.h>
#include <sys/un.h>

namespace cli {

// The service manager that started this process, if one did.  It is spoken to over a socket of
// datagrams, whatever becomes of them.
class ServiceManager {
public:
    // Takes its variables out of the environment, so that no child believes that they are its own.
    // No other thread may run yet.
    ServiceManager();

    // Sends assignments, a line each, such as READY=1, if there are any.  Does not block, nor
    // throw.  Returns errno, if somebody wants to hear and cannot be reached; else 0.
    int notify(const std::string& assignments) const noexcept;
    // Where it listens, as NOTIFY_SOCKET says.
    const std::string& socket() const { return socket_; }
    // How many sockets it has handed over that nobody has taken.
    std::size_t untaken() const { return sockets_.size(); }
    void tell_reloading() const;
    // The sockets that it has handed over, once; they listen already.
    std::vector<scheduler::HttpListener> take_listeners();
    // Waits for one of the signals.  While there is a watchdog it is fed at half of its interval,
    // as long as problem() returns nothing; `log` is told once of what it does return.
    int wait_for_signal(const sigset_t& signals, const std::function<std::string()>& problem,
                        const std::function<void(const std::string&)>& log) const;

private:
    static std::optional<std::uint64_t> take_number(const std::string& name);

    std::string socket_;                            // empty: nobody wants to hear
    std::optional<std::chrono::microseconds> fed_;  // how often the watchdog is to be fed at least
    std::vector<int> sockets_;                      // handed over, and not taken
};

inline std::optional<std::uint64_t> ServiceManager::take_number(const std::string& name) {
    const auto text = take_variable(name);
    const bool digits = text && !text->empty() && text->size() <= 18 &&
                        text->find_first_not_of("0123456789") == std::string::npos;
    return digits ? std::optional<std::uint64_t>(std::stoull(*text)) : std::nullopt;
}

inline ServiceManager::ServiceManager() : socket_(take_variable("NOTIFY_SOCKET").value_or("")) {
    constexpr int first_socket = 3;  // SD_LISTEN_FDS_START
    const auto own = static_cast<std::uint64_t>(::getpid());
    const auto interval = take_number("WATCHDOG_USEC");
    if (take_number("WATCHDOG_PID").value_or(own) == own && interval.value_or(0) > 0) {
        fed_ = std::chrono::microseconds(*interval);
    }
    const bool is_meant = take_number("LISTEN_PID") == own;
    const std::uint64_t count =
        std::min<std::uint64_t>(take_number("LISTEN_FDS").value_or(0), 1'024);
    take_variable("LISTEN_FDNAMES");
    for (int fd = first_socket; is_meant && fd < first_socket + static_cast<int>(count); ++fd) {
        if (::fcntl(fd, F_SETFD, FD_CLOEXEC) == 0) sockets_.push_back(fd);
    }
}

// The name of an abstract socket begins with an @, in place of the zero.
inline int ServiceManager::notify(const std::string& assignments) const noexcept {
    sockaddr_un at{};
    at.sun_family = AF_UNIX;
    if (socket_.empty()) return 0;
    if (socket_.size() >= sizeof at.sun_path) return ENAMETOOLONG;
    if (socket_[0] != '/' && socket_[0] != '@') return EAFNOSUPPORT;
    socket_.copy(at.sun_path, socket_.size());
    if (at.sun_path[0] == '@') at.sun_path[0] = '\0';
    const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + socket_.size());
    const int fd = ::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return errno;
    int error = ::connect(fd, reinterpret_cast<const sockaddr*>(&at), size) == 0 ? 0 : errno;
    if (error == 0 && !assignments.empty() &&
        ::send(fd, assignments.data(), assignments.size(), MSG_NOSIGNAL | MSG_DONTWAIT) < 0) {
        error = errno;
    }
    ::close(fd);
    return error;
}

inline void ServiceManager::tell_reloading() const {
    const auto now = std::chrono::duration_cast<std::chrono::microseconds>(
        std::chrono::steady_clock::now().time_since_epoch());  // CLOCK_MONOTONIC
    notify("RELOADING=1\nMONOTONIC_USEC=" + std::to_string(now.count()));
}

inline std::vector<scheduler::HttpListener> ServiceManager::take_listeners() {
    std::vector<scheduler::HttpListener> listeners;
    for (const int fd : sockets_) listeners.push_back(scheduler::HttpListener::adopt(fd));
    sockets_.clear();
    return listeners;
}

// Where something does not turn it is asked more often, so that it is fed in time if that passes.
inline int ServiceManager::wait_for_signal(
    const sigset_t& signals, const std::function<std::string()>& problem,
    const std::function<void(const std::string&)>& log) const {
    int signal = 0;
    if (!fed_) {
        sigwait(&signals, &signal);
        return signal;
    }
    std::string told;
    for (;;) {
        const auto wait = *fed_ / (told.empty() ? 2 : 8);
        const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(wait);
        const timespec time{static_cast<time_t>(seconds.count()),
                            static_cast<long>((wait - seconds).count() * 1'000)};
        signal = ::sigtimedwait(&signals, nullptr, &time);
        if (signal > 0) return signal;
        if (errno == EINTR) continue;
        const std::string now = problem();
        if (now.empty()) notify("WATCHDOG=1");
        if (!now.empty() && told.empty()) log("the watchdog is not fed: " + now);
        told = now;
    }
}

// Whether one of these addresses of --listen takes what the other says, too.
inline bool overlap(const std::string& a, const std::string& b) {
    const auto takes = [](const std::string& all, const std::string& one) {
        const std::size_t colon = std::min(all.rfind(':'), all.size());
        const std::string host = all.substr(0, colon);
        const std::string port = all.substr(colon);
        return (host == "*" || host == "[::]" || (host == "0.0.0.0" && one.front() != '[')) &&
               one.size() > port.size() &&
               one.compare(one.size() - port.size(), port.size(), port) == 0;
    };
    return takes(a, b) || takes(b, a);
}

// Opens what --listen says beside those that are open.
inline scheduler::HttpListener open_listener(
    const std::string& address, const std::vector<scheduler::HttpListener>& listeners) {
    const bool is_unix = address.compare(0, 5, "unix:") == 0;
    try {
        return scheduler::HttpListener(address);
    } catch (const scheduler::Error& error) {
        refuse_usage({"--listen: ", error.what(),
                      (is_unix ? "" : "; systemd takes the sockets of a service manager")});
    } catch (const std::runtime_error&) {
        for (const scheduler::HttpListener& one : listeners) {
            if (is_unix || one.is_unix() || !overlap(address, one.address())) continue;
            refuse_usage(
                {"--listen: ", address, " and ", one.address(), " overlap; give one of them"});
        }
        throw;
    }
}

// Takes all addresses that are to be listened on, of which the first is that of --host and --port.
inline std::vector<scheduler::HttpListener> open_listeners(const Settings& settings,
                                                           ServiceManager& manager) {
    std::vector<scheduler::HttpListener> listeners;
    if (settings.listen.empty() || settings.host || settings.port) {
        listeners.emplace_back(settings.host.value_or("127.0.0.1"), settings.port.value_or(8080));
    }
    std::set<std::string> known;
    for (const scheduler::HttpListener& one : listeners) known.insert(one.address());
    for (const std::string& address : settings.listen) {
        const bool is_any = address.size() > 2 && address.compare(address.size() - 2, 2, ":0") == 0;
        if (!is_any && !known.insert(address).second) {
            refuse_usage({"--listen: ", address, " is given twice"});
        }
        if (address == "systemd") {
            std::vector<scheduler::HttpListener> handed = manager.take_listeners();
            if (handed.empty()) {
                refuse_usage(
                    {"--listen systemd: no socket was handed over; a socket unit starts the "
                     "service with LISTEN_FDS"});
            }
            for (scheduler::HttpListener& one : handed) listeners.push_back(std::move(one));
            continue;
        }
        listeners.push_back(open_listener(address, listeners));
    }
    return listeners;
}

inline std::string url_of(const Settings& settings, const scheduler::HttpListener& listener) {
    if (listener.is_unix()) return listener.address();
    return (settings.http.tls_certificate.empty() ? "http://" : "https://") + listener.address();
}

// What answers at these, with something between them.
inline std::string urls_of(const Settings& settings,
                           const std::vector<scheduler::HttpListener>& listeners,
                           const std::string& between) {
    std::string urls;
    for (const scheduler::HttpListener& one : listeners) {
        urls += (urls.empty() ? "" : between) + url_of(settings, one);
    }
    return urls;
}

// Warns of what the service manager says that comes to nothing.
inline void warn_of_manager(const ServiceManager& manager, const Settings& settings) {
    const auto warn = [&settings](const std::string& sentence) {
        settings.scheduler.log({scheduler::LogLevel::warning, "service.ignored", sentence, {}});
    };
    if (manager.untaken() > 0) {
        warn(concat(
            {"the service manager has handed over ", std::to_string(manager.untaken()),
             " sockets (LISTEN_FDS), at which nobody listens; --listen systemd takes them"}));
    }
    if (const int error = manager.notify(""); error != 0) {
        warn(concat({"the service manager does not hear at NOTIFY_SOCKET=", manager.socket(), ": ",
                     std::generic_category().message(error)}));
    }
}

inline void warn_of_tls(const Settings& settings,
                        const std::vector<scheduler::HttpListener>& listeners) {
    const bool is_used = std::any_of(listeners.begin(), listeners.end(),
                                     [](const auto& one) { return !one.is_unix(); });
    if (is_used || settings.http.tls_certificate.empty()) return;
    settings.scheduler.log({scheduler::LogLevel::warning,
                            "tls.ignored",
                            "nothing speaks TLS, as it listens on sockets of the file system only",
                            {}});
}

// Opening was ended by a signal.
struct Interrupted {};

// Looks after a journal that is being opened, for `Options::on_opening`: what takes longer than a
// second begins to answer what can be answered, and is told of every two seconds; a signal that
// ends the server ends it at once.
class OpeningWatch {
public:
    // `tell` is called with how far it has come, in words.
    OpeningWatch(std::function<void()> begin_to_answer,
                 std::function<void(const std::string&)> tell)
        : answer_(std::move(begin_to_answer)), tell_(std::move(tell)) {}

    // The next journal is opened.
    void begin(const std::string& journal) {
        journal_ = journal;
        start_ = Clock::now();
        next_ = start_ + std::chrono::seconds(1);
    }
    // Throws `Interrupted`.
    void look(const scheduler::Opening& opening);
    // Whether the server has begun to answer.
    bool is_slow() const { return answers_; }

private:
    using Clock = std::chrono::steady_clock;

    std::string progress(const scheduler::Opening& opening, Clock::duration since) const;

    const std::function<void()> answer_;
    const std::function<void(const std::string&)> tell_;
    const sigset_t ending_ = set_of({SIGINT, SIGTERM});
    std::string journal_;
    Clock::time_point start_;
    Clock::time_point next_;
    bool answers_ = false;
};

inline void OpeningWatch::look(const scheduler::Opening& opening) {
    const timespec at_once{};
    if (::sigtimedwait(&ending_, nullptr, &at_once) > 0) throw Interrupted();
    const Clock::time_point now = Clock::now();
    if (now < next_) return;
    next_ = now + std::chrono::seconds(2);
    if (!std::exchange(answers_, true)) answer_();
    tell_(progress(opening, now - start_));
}

inline std::string OpeningWatch::progress(const scheduler::Opening& opening,
                                          Clock::duration since) const {
    const double seconds = std::chrono::duration<double>(since).count();
    const auto rate = static_cast<std::uint64_t>(static_cast<double>(opening.tasks) / seconds);
    std::string text = concat({"opening the journal ", journal_, ": "});
    if (opening.size > 0) {
        const std::uint64_t percent = opening.bytes * 100 / opening.size;
        text += std::to_string(std::min<std::uint64_t>(percent, 100)) + " %, ";
    }
    return concat(
        {text, std::to_string(opening.tasks), " tasks, ", std::to_string(rate), " a second"});
}

// Makes a scheduler, which may take long, and has the server answer for it.
inline void open(Served& served, OpeningWatch& opening, scheduler::HttpServer& server) {
    opening.begin(served.settings.scheduler.journal);
    served.settings.scheduler.on_opening = [&opening](const auto& now) { opening.look(now); };
    served.tasks.emplace(served.settings.scheduler);
    served.sinks.emplace(*served.tasks, std::move(served.configured));
    server.serve(*served.tasks, served.prefix);
}

// What does not turn, for a watchdog; nothing: all is well.
inline std::string check_pulse(scheduler::HttpServer& server, std::list<Served>& served) {
    std::string problem = server.check_pulse() ? "" : "the server's loop does not turn";
    for (Served& one : served) {
        const bool turns = one.tasks->check_pulse();
        if (turns || !problem.empty()) continue;
        problem =
            concat({one.prefix, one.prefix.empty() ? "" : ": ", "what is due is not emitted"});
    }
    return problem;
}

}  // namespace cli
