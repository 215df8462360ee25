// SPDX-License-Identifier: MIT
//
// Measures the server beside references that run in the same minute on the same
// machine, in turn and several times: reference, ours, reference, ours, ...
//
//     tests/bench/run [--short] [--json FILE] [NAME...]
//
// builds this program and the server, and starts
//
//     bench SERVER [--short] [--json FILE] [NAME...]
//
// tests/bench/cluster has it load servers of its own: bench --client KIND NUMBER...
//
// A NAME is one of the measurements in the table at the end of this file; without
// one all are made.  Each figure is the median of its rounds, with the smallest and
// the largest in parentheses; a ratio is ours by the reference, round by round.
// `--json FILE` also writes a line of JSON for each figure, with every round's
// value; the FILE `-` is the standard output.  `--short` only shows that everything
// runs: its figures are worth nothing.  No figure makes the program fail.
//
// Journals lie in $TMPDIR, or else in /tmp: it should be on the disk that counts.

#include <arpa/inet.h>
#include <fcntl.h>
#include <httplib.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#ifdef CPPHTTPLIB_OPENSSL_SUPPORT
#include <openssl/ec.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#endif
#include <poll.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/utsname.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <future>
#include <limits>
#include <memory>
#include <optional>
#include <queue>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

// ---- Time ------------------------------------------------------------------

constexpr std::int64_t ns_a_second = 1'000'000'000;

std::int64_t read_clock(clockid_t clock) {
    timespec time{};
    if (clock_gettime(clock, &time) != 0) throw std::runtime_error("cannot read a clock");
    return time.tv_sec * ns_a_second + time.tv_nsec;
}

std::int64_t now_ns() {
    return read_clock(CLOCK_REALTIME);
}

double seconds_between(std::int64_t from, std::int64_t to) {
    return static_cast<double>(to - from) / 1e9;
}

// The next moment that is at least `seconds` away and a whole millisecond.
std::int64_t moment_ahead(double seconds) {
    return (now_ns() + static_cast<std::int64_t>(seconds * 1e9)) / 1'000'000 * 1'000'000;
}

// The start of the day after tomorrow, in UTC: nothing of that day is due soon.
std::int64_t distant_midnight() {
    const std::int64_t day = 86'400 * ns_a_second;
    return (now_ns() / day + 2) * day;
}

void sleep_until(std::int64_t moment) {
    const timespec until{moment / ns_a_second, moment % ns_a_second};
    while (clock_nanosleep(CLOCK_REALTIME, TIMER_ABSTIME, &until, nullptr) == EINTR) continue;
}

std::string iso(std::int64_t ns) {
    const time_t seconds = ns / ns_a_second;
    tm parts{};
    gmtime_r(&seconds, &parts);
    char text[64];
    const std::size_t n = strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &parts);
    snprintf(text + n, sizeof text - n, ".%03dZ", static_cast<int>(ns / 1'000'000 % 1'000));
    return text;
}

// ---- Statistics and the report ---------------------------------------------

using Values = std::vector<double>;

double percentile(Values values, double share) {
    const auto last = static_cast<double>(values.size() - 1);
    const auto at = values.begin() + static_cast<std::ptrdiff_t>(last * share + 0.5);
    std::nth_element(values.begin(), at, values.end());
    return *at;
}

double median(Values values) {
    std::sort(values.begin(), values.end());
    const std::size_t half = values.size() / 2;
    return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

// What one member is in each of the samples.
template <class Sample>
Values column(const std::vector<Sample>& samples, double Sample::*member) {
    Values values;
    for (const Sample& sample : samples) values.push_back(sample.*member);
    return values;
}

// One figure, with a value for each round.  Either side may be empty.
struct Row {
    std::string what;
    std::string unit;
    Values reference;
    Values ours;
    std::string budget = {};
};

Values ratios(const Row& row) {
    Values values;
    for (std::size_t i = 0; i < std::min(row.reference.size(), row.ours.size()); ++i) {
        if (row.reference[i] != 0) values.push_back(row.ours[i] / row.reference[i]);
    }
    return values;
}

// Three or four digits, with k or M after large ones.
std::string number(double value) {
    if (value >= 999'950) return number(value / 1e6) + 'M';
    if (value >= 10'000) return number(value / 1e3) + 'k';
    const int digits = value == 0 || value >= 100 ? 0 : value >= 10 ? 1 : value >= 1 ? 2 : 3;
    char text[32];
    snprintf(text, sizeof text, "%.*f", digits, value);
    return text;
}

std::string median_and_spread(const Values& values) {
    if (values.empty()) return "-";
    const auto [least, most] = std::minmax_element(values.begin(), values.end());
    return number(median(values)) + " (" + number(*least) + ".." + number(*most) + ")";
}

std::string json_number(double value) {
    char text[32];
    snprintf(text, sizeof text, "%.6g", value);
    return text;
}

std::string json_of(const Values& values) {
    if (values.empty()) return "null";
    std::string rounds;
    for (const double value : values) rounds += (rounds.empty() ? "" : ",") + json_number(value);
    const auto [least, most] = std::minmax_element(values.begin(), values.end());
    return "{\"median\":" + json_number(median(values)) + ",\"min\":" + json_number(*least) +
           ",\"max\":" + json_number(*most) + ",\"rounds\":[" + rounds + "]}";
}

std::string json_of(const std::string& text) {
    std::string quoted = "\"";
    for (const char c : text) {
        if (c == '"' || c == '\\') quoted += '\\';
        quoted += static_cast<unsigned char>(c) < ' ' ? ' ' : c;
    }
    return quoted + '"';
}

// Prints figures as they come, as a table and as JSON lines.
class Report {
public:
    void open_json(const std::string& path) {
        json_.reset(path == "-" ? stdout : std::fopen(path.c_str(), "w"));
        if (!json_) throw std::runtime_error("cannot write " + path);
    }
    void measurement(const char* name) {
        name_ = name;
        std::printf("\n%-48s%27s%27s%23s  %s\n", name, "reference", "ours", "ratio", "budget");
    }
    // What the rows that follow are held against.
    void against(const std::string& reference) {
        reference_ = reference;
        std::printf("  against %s\n", reference.c_str());
    }
    void add(const Row& row) {
        std::printf("    %-44s%27s%27s%23s  %s\n", (row.what + ", " + row.unit).c_str(),
                    median_and_spread(row.reference).c_str(), median_and_spread(row.ours).c_str(),
                    median_and_spread(ratios(row)).c_str(), row.budget.c_str());
        std::fflush(stdout);
        json("\"what\":" + json_of(row.what) + ",\"unit\":" + json_of(row.unit) +
             ",\"against\":" + json_of(reference_) + ",\"reference\":" + json_of(row.reference) +
             ",\"ours\":" + json_of(row.ours) + ",\"ratio\":" + json_of(ratios(row)) +
             ",\"budget\":" + json_of(row.budget));
    }
    void note(const std::string& text) {
        std::printf("  note: %s\n", text.c_str());
        std::fflush(stdout);
        json("\"note\":" + json_of(text));
    }

private:
    struct Close {
        void operator()(FILE* file) const {
            if (file != stdout) std::fclose(file);
        }
    };
    void json(const std::string& members) {
        if (!json_) return;
        std::fprintf(json_.get(), "{\"measurement\":%s,%s}\n", json_of(name_).c_str(),
                     members.c_str());
        std::fflush(json_.get());
    }

    std::unique_ptr<FILE, Close> json_;
    std::string name_ = "machine";
    std::string reference_;
};

// ---- What all measurements share -------------------------------------------

using Sizes = std::vector<std::size_t>;

struct Bench {
    std::string binary;  // of the server
    bool brief = false;
    fs::path directory;  // for all that is written; it is removed at the end
    Report report;

    template <class T>
    T pick(T full, T brief_one) const {
        return brief ? brief_one : full;
    }
    int rounds(int full) const { return pick(full, 2); }
};

// A new directory that goes away with all that is in it.
class TempDir {
public:
    explicit TempDir(const fs::path& parent) {
        std::string name = parent / "scheduler-bench-XXXXXX";
        if (!mkdtemp(name.data())) throw std::runtime_error("cannot make a directory: " + name);
        path_ = name;
    }
    TempDir(const TempDir&) = delete;
    TempDir& operator=(const TempDir&) = delete;
    ~TempDir() {
        std::error_code ignored;
        fs::remove_all(path_, ignored);
    }
    const fs::path& path() const { return path_; }

private:
    fs::path path_;
};

class Fd {
public:
    explicit Fd(int fd = -1) : fd_(fd) {}
    Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
    Fd& operator=(Fd&& other) noexcept {
        std::swap(fd_, other.fd_);
        return *this;
    }
    ~Fd() {
        if (fd_ >= 0) close(fd_);
    }
    int get() const { return fd_; }

private:
    int fd_;
};

// Makes room for so many descriptors, here and in what is started from here.
bool allow_descriptors(rlim_t count) {
    rlimit limit{};
    getrlimit(RLIMIT_NOFILE, &limit);
    if (limit.rlim_cur >= count) return true;
    limit.rlim_cur = count;
    limit.rlim_max = std::max(limit.rlim_max, count);
    return setrlimit(RLIMIT_NOFILE, &limit) == 0;
}

// ---- Child processes -------------------------------------------------------

struct Memory {
    double resident = 0;  // bytes
    double own = 0;       // bytes that no other process shares
};

// A process that ends with this object at the latest, and with this program in any case.
class Child {
public:
    explicit Child(const std::vector<std::string>& command) {
        int in[2];
        int out[2];
        if (pipe2(in, O_CLOEXEC) != 0 || pipe2(out, O_CLOEXEC) != 0) {
            throw std::runtime_error("cannot make a pipe");
        }
        std::vector<char*> arguments;
        for (const auto& word : command) arguments.push_back(const_cast<char*>(word.c_str()));
        arguments.push_back(nullptr);
        started_ = now_ns();
        pid_ = fork();
        if (pid_ == 0) exec(arguments.data(), in[0], out[1]);
        close(in[0]);
        close(out[1]);
        in_ = Fd(in[1]);
        out_ = Fd(out[0]);
        if (pid_ < 0) throw std::runtime_error("cannot start " + command[0]);
    }
    Child(const Child&) = delete;
    Child& operator=(const Child&) = delete;
    ~Child() {
        kill(pid_, SIGTERM);
        for (int waited = 0; waitpid(pid_, nullptr, WNOHANG) == 0; ++waited) {
            if (waited == 10'000) kill(pid_, SIGKILL);
            std::this_thread::sleep_for(1ms);
        }
    }

    pid_t pid() const { return pid_; }
    std::int64_t started() const { return started_; }
    // The next line of its standard output.
    std::string read_line() const;
    void tell(const std::string& line) const {
        if (write(in_.get(), line.data(), line.size()) < 0) throw std::runtime_error("it is gone");
    }
    // The processor time of all its threads so far, those that ended too.
    double cpu_us() const {
        clockid_t clock{};
        if (clock_getcpuclockid(pid_, &clock) != 0) throw std::runtime_error("it is gone");
        return static_cast<double>(read_clock(clock)) / 1e3;
    }
    Memory memory() const;
    double threads() const;

private:
    [[noreturn]] static void exec(char** arguments, int in, int out) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        sigset_t none;
        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, nullptr);
        dup2(in, STDIN_FILENO);
        dup2(out, STDOUT_FILENO);
        execvp(arguments[0], arguments);
        _exit(127);
    }

    pid_t pid_ = -1;
    std::int64_t started_ = 0;
    Fd in_;
    Fd out_;
};

std::string Child::read_line() const {
    std::string line;
    pollfd ready{out_.get(), POLLIN, 0};
    char c = 0;
    while (poll(&ready, 1, 60'000) == 1 && read(out_.get(), &c, 1) == 1) {
        if (c == '\n') return line;
        line += c;
    }
    throw std::runtime_error("a child process did not start: " + line);
}

Memory Child::memory() const {
    std::ifstream file("/proc/" + std::to_string(pid_) + "/smaps_rollup");
    Memory memory;
    for (std::string line; std::getline(file, line);) {
        const auto bytes = [&] { return 1'024 * std::atof(line.c_str() + line.find(':') + 1); };
        if (line.rfind("Rss:", 0) == 0) memory.resident = bytes();
        if (line.rfind("Private_", 0) == 0) memory.own += bytes();
    }
    if (memory.resident == 0) throw std::runtime_error("cannot read smaps_rollup");
    return memory;
}

double Child::threads() const {
    const fs::directory_iterator tasks("/proc/" + std::to_string(pid_) + "/task");
    return static_cast<double>(std::distance(begin(tasks), end(tasks)));
}

// The port in the line that a server announces itself with.
int announced_port(const Child& child) {
    constexpr std::string_view address = "127.0.0.1:";
    for (;;) {
        const std::string line = child.read_line();
        const std::size_t at = line.find(address);
        if (at != std::string::npos) return std::atoi(line.c_str() + at + address.size());
    }
}

// The server under test, with a journal in a directory of its own.
class Server {
public:
    // Starts from a copy of the journal `from`, if that is named.
    Server(const Bench& bench, const std::string& fsync, const std::vector<std::string>& more = {},
           const fs::path& from = {})
        : directory_(bench.directory) {
        if (!from.empty()) fs::copy_file(from, journal());
        std::vector<std::string> command{bench.binary, "--port",      "0",
                                         "--journal",  journal(),     "--fsync",
                                         fsync,        "--log-level", "warning"};
        command.insert(command.end(), more.begin(), more.end());
        child_.emplace(command);
        port_ = announced_port(*child_);
    }
    int port() const { return port_; }
    const Child& child() const { return *child_; }
    fs::path journal() const { return directory_.path() / "tasks.jsonl"; }
    // Ends it and leaves the journal.
    void stop() { child_.reset(); }

private:
    TempDir directory_;
    std::optional<Child> child_;
    int port_ = 0;
};

// A server of this program's own (see References), for the same requests.
class Reference {
public:
    explicit Reference(const std::string& kind, std::size_t size = 0)
        : child_({fs::read_symlink("/proc/self/exe"), "--reference", kind, std::to_string(size)}),
          port_(announced_port(child_)) {}
    int port() const { return port_; }
    const Child& child() const { return child_; }

private:
    Child child_;
    int port_;
};

// ---- Sockets ---------------------------------------------------------------

sockaddr_in loopback(int port) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<std::uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

// A socket that gives up after half a minute, and leaves no TIME_WAIT behind: thousands
// of those would use up the ports.
Fd connect_to(int port) {
    Fd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const sockaddr_in address = loopback(port);
    const int on = 1;
    const linger reset{1, 0};
    const timeval limit{30, 0};
    setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(fd.get(), SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
        throw std::runtime_error(std::string("cannot connect: ") + std::strerror(errno));
    }
    return fd;
}

// An epoll instance waits for what comes in on a socket, and then names it by its key.
void watch(const Fd& epoll, int fd, std::size_t key) {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.u64 = key;
    epoll_ctl(epoll.get(), EPOLL_CTL_ADD, fd, &event);
}

// A listening socket and its port.
std::pair<Fd, int> listen_anywhere() {
    Fd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address = loopback(0);
    socklen_t size = sizeof address;
    if (bind(fd.get(), reinterpret_cast<sockaddr*>(&address), size) != 0 ||
        listen(fd.get(), 1'024) != 0 ||
        getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &size) != 0) {
        throw std::runtime_error("cannot listen");
    }
    return {std::move(fd), ntohs(address.sin_port)};
}

std::pair<Fd, Fd> loopback_pair() {
    const auto [listener, port] = listen_anywhere();
    Fd client = connect_to(port);
    return {std::move(client), Fd(accept(listener.get(), nullptr, nullptr))};
}

std::string read_some(int fd) {
    char buffer[65'536];
    const ssize_t n = read(fd, buffer, sizeof buffer);
    if (n <= 0) throw std::runtime_error("a connection ended, or was silent for too long");
    return std::string(buffer, static_cast<std::size_t>(n));
}

void write_all(int fd, std::string_view text) {
    while (!text.empty()) {
        const ssize_t n = write(fd, text.data(), text.size());
        if (n <= 0) throw std::runtime_error("cannot write to a connection");
        text.remove_prefix(static_cast<std::size_t>(n));
    }
}

// ---- TLS -------------------------------------------------------------------

#ifdef CPPHTTPLIB_OPENSSL_SUPPORT

struct Free {
    void operator()(SSL_CTX* context) const { SSL_CTX_free(context); }
    void operator()(SSL* session) const { SSL_free(session); }
};
using TlsContext = std::unique_ptr<SSL_CTX, Free>;
using TlsSession = std::unique_ptr<SSL, Free>;

TlsContext make_tls() {
    return TlsContext(SSL_CTX_new(TLS_client_method()));
}

// Shakes hands on a socket that blocks.
TlsSession begin_tls(const TlsContext& context, const Fd& fd) {
    TlsSession session(SSL_new(context.get()));
    SSL_set_fd(session.get(), fd.get());
    if (SSL_connect(session.get()) != 1) throw std::runtime_error("there is no TLS");
    return session;
}

ssize_t read_tls(const TlsSession& session, char* to, std::size_t size) {
    return SSL_read(session.get(), to, static_cast<int>(size));
}

void write_tls(const TlsSession& session, std::string_view text) {
    const int size = static_cast<int>(text.size());
    if (SSL_write(session.get(), text.data(), size) != size) {
        throw std::runtime_error("cannot write to a connection");
    }
}

// Writes a certificate of P-256 that signs itself, and its key.
void write_certificate(const fs::path& certificate, const fs::path& key) {
    EVP_PKEY* const pair = EVP_EC_gen("P-256");
    X509* const made = X509_new();
    X509_set_version(made, 2);
    X509_gmtime_adj(X509_getm_notBefore(made), 0);
    X509_gmtime_adj(X509_getm_notAfter(made), 86'400);
    X509_set_pubkey(made, pair);
    X509_sign(made, pair, EVP_sha256());
    std::FILE* file = std::fopen(certificate.c_str(), "w");
    bool good = file && PEM_write_X509(file, made) == 1;
    if (file) std::fclose(file);
    file = std::fopen(key.c_str(), "w");
    good = good && file &&
           PEM_write_PrivateKey(file, pair, nullptr, nullptr, 0, nullptr, nullptr) == 1;
    if (file) std::fclose(file);
    X509_free(made);
    EVP_PKEY_free(pair);
    if (!good) throw std::runtime_error("cannot write a certificate");
}

#else

// Without OpenSSL there are none of them.
using TlsContext = std::unique_ptr<int>;
using TlsSession = std::unique_ptr<int>;

TlsContext make_tls() {
    return nullptr;
}
TlsSession begin_tls(const TlsContext&, const Fd&) {
    return nullptr;
}
ssize_t read_tls(const TlsSession&, char*, std::size_t) {
    return -1;
}
void write_tls(const TlsSession&, std::string_view) {}
void write_certificate(const fs::path&, const fs::path&) {
    throw std::runtime_error("this was built without OpenSSL");
}

#endif

// ---- HTTP ------------------------------------------------------------------

std::string get(const std::string& path) {
    return "GET " + path + " HTTP/1.1\r\nHost: localhost\r\n\r\n";
}

std::string post_head(std::size_t body_size) {
    return "POST /schedule HTTP/1.1\r\nHost: localhost\r\nContent-Length: " +
           std::to_string(body_size) + "\r\n\r\n";
}

// The size of the answer that `text` begins with, or 0 while it is not all there.
std::size_t answer_size(std::string_view text) {
    const std::size_t head = text.find("\r\n\r\n");
    if (head == std::string_view::npos) return 0;
    const std::size_t length = text.find("Content-Length: ");
    if (text.substr(0, 12) != "HTTP/1.1 200" || length > head) {
        throw std::runtime_error("a server answered: " + std::string(text.substr(0, 500)));
    }
    const std::size_t size = head + 4 + std::strtoul(text.data() + length + 16, nullptr, 10);
    return text.size() < size ? 0 : size;
}

std::string ask(const Fd& fd, const std::string& request) {
    write_all(fd.get(), request);
    std::string answer = read_some(fd.get());
    while (answer_size(answer) == 0) answer += read_some(fd.get());
    return answer;
}

const std::string subscribe = get("/sse");
// The end of what a stream says before its first event.
constexpr std::string_view subscribed = "data: {}\n\n";

// A stream that has said so.
Fd open_stream(int port) {
    Fd fd = connect_to(port);
    write_all(fd.get(), subscribe);
    for (std::string text; text.find(subscribed) == std::string::npos;) text += read_some(fd.get());
    return fd;
}

// ---- Tasks -----------------------------------------------------------------

constexpr std::size_t body_size = 90;
constexpr std::size_t array_size = 10'000;

// The body of a request that schedules one task, or is its event: always 90 bytes.
class Task {
public:
    explicit Task(std::int64_t due, const std::string& before = "", const std::string& after = "")
        : text_(before + R"({"timestamp":")" + iso(due) +
                R"(","message":{"n":"00000000","text":"short message"}})" + after),
          clock_(before.size() + 25),
          number_(before.size() + 56) {}

    const std::string& text() const { return text_; }
    const std::string& numbered(std::size_t n) {
        put(number_, 8, n);
        return text_;
    }
    // The number also picks a moment of the day, far from those of the numbers beside it.
    const std::string& scattered(std::size_t n) {
        const std::size_t ms = n * 2'654'435'761 % 86'400'000;
        put(clock_, 2, ms / 3'600'000);
        put(clock_ + 3, 2, ms / 60'000 % 60);
        put(clock_ + 6, 2, ms / 1'000 % 60);
        put(clock_ + 9, 3, ms % 1'000);
        return numbered(n);
    }

private:
    void put(std::size_t at, std::size_t width, std::size_t value) {
        for (std::size_t i = width; i-- > 0; value /= 10) {
            text_[at + i] = static_cast<char>('0' + value % 10);
        }
    }

    std::string text_;
    std::size_t clock_;   // where the time of day is
    std::size_t number_;  // where the number is
};

// An event as a stream carries it.
Task event_frame(std::int64_t due) {
    return Task(due, "id: " + std::string(36, '0') + "\ndata: ", "\n\n");
}

// Calls back with each id in an answer that lists those of an array.
void take_ids(const std::string& answer, std::vector<std::string>& ids) {
    for (std::size_t at = answer.find("\"ids\":[") + 8; at < answer.size(); at += 39) {
        ids.push_back(answer.substr(at, 36));
        if (answer[at + 37] == ']') break;
    }
}

// Schedules tasks numbered from 0 in arrays, all at one moment or scattered over its day.
std::vector<std::string> schedule_arrays(int port, std::size_t count, std::int64_t due,
                                         bool scatter) {
    const Fd fd = connect_to(port);
    Task task(due);
    std::vector<std::string> ids;
    for (std::size_t n = 0; n < count;) {
        std::string body = "[";
        for (const std::size_t end = std::min(count, n + array_size); n < end; ++n) {
            body += (scatter ? task.scattered(n) : task.numbered(n)) + ',';
        }
        body.back() = ']';
        take_ids(ask(fd, post_head(body.size()) + body), ids);
    }
    if (ids.size() != count) throw std::runtime_error("not all ids were answered");
    return ids;
}

std::size_t pending(const Fd& fd) {
    const std::string answer = ask(fd, get("/tasks?limit=1"));
    const std::size_t at = answer.find("\"total_count\":");
    return std::strtoul(answer.c_str() + at + 14, nullptr, 10);
}

// ---- The load generator ----------------------------------------------------

struct Load {
    double rate = 0;    // answers a second
    double p50_us = 0;  // from a request to its answer
    double p99_us = 0;
    double busy = 0;    // per cent of one processor that the generator itself took
    double cpu_us = 0;  // of the server, for each answer
};

// Keeps one request under way on each of its connections, from one thread.  The first of each
// connection is made while connecting, so that the server has taken all of them, and is not
// measured.
class LoadGenerator {
public:
    using NextRequest = std::function<const std::string&()>;

    // With a context of TLS it speaks that.
    LoadGenerator(int port, std::size_t connections, NextRequest next,
                  const TlsContext& tls = nullptr)
        : next_(std::move(next)), epoll_(epoll_create1(EPOLL_CLOEXEC)), connections_(connections) {
        for (std::size_t i = 0; i < connections; ++i) {
            Connection& connection = connections_[i];
            connection.fd = connect_to(port);
            if (tls) connection.tls = begin_tls(tls, connection.fd);
            send(connection);
            while (!has_answer(connection)) continue;
            watch(epoll_, connection.fd.get(), i);
        }
    }

    // Ends after so many requests or so many seconds, when each has its answer.
    template <class Process>
    Load run(const Process& server, std::size_t requests, double seconds) {
        const double server_cpu = server.cpu_us();
        const std::int64_t cpu = read_clock(CLOCK_THREAD_CPUTIME_ID);
        const std::int64_t began = read_clock(CLOCK_MONOTONIC);
        left_ = requests - connections_.size();
        for (Connection& connection : connections_) send_next(connection, true);
        while (under_way_ > 0) {
            epoll_event ready[64];
            const int n = epoll_wait(epoll_.get(), ready, 64, 30'000);
            if (n <= 0) throw std::runtime_error("no answer came for 30 s");
            const std::int64_t now = read_clock(CLOCK_MONOTONIC);
            const bool more = seconds_between(began, now) < seconds;
            for (int i = 0; i < n; ++i) {
                Connection& connection = connections_[ready[i].data.u64];
                if (receive(connection)) send_next(connection, more);
            }
        }
        const double took = seconds_between(began, read_clock(CLOCK_MONOTONIC));
        const double own = seconds_between(cpu, read_clock(CLOCK_THREAD_CPUTIME_ID));
        const auto answers = static_cast<double>(us_.size());
        return {answers / took, percentile(us_, 0.5), percentile(us_, 0.99), 100 * own / took,
                (server.cpu_us() - server_cpu) / answers};
    }

private:
    struct Connection {
        Fd fd;
        TlsSession tls;
        std::int64_t sent = 0;
        std::string answer;
    };

    void send(Connection& connection) {
        if (connection.tls) return write_tls(connection.tls, next_());
        write_all(connection.fd.get(), next_());
    }

    void send_next(Connection& connection, bool more) {
        if (!more || left_ == 0) return;
        --left_;
        ++under_way_;
        connection.sent = read_clock(CLOCK_MONOTONIC);
        send(connection);
    }
    bool receive(Connection& connection) {
        if (!has_answer(connection)) return false;
        --under_way_;
        us_.push_back(seconds_between(connection.sent, read_clock(CLOCK_MONOTONIC)) * 1e6);
        return true;
    }
    // Reads some; whether that was the end of an answer.
    static bool has_answer(Connection& connection) {
        char buffer[65'536];
        const ssize_t n = connection.tls ? read_tls(connection.tls, buffer, sizeof buffer)
                                         : read(connection.fd.get(), buffer, sizeof buffer);
        if (n <= 0) throw std::runtime_error("the server closed a connection");
        std::string_view answer(buffer, static_cast<std::size_t>(n));
        if (!connection.answer.empty() || answer_size(answer) == 0) {
            answer = connection.answer.append(answer);
            if (answer_size(answer) == 0) return false;
        }
        connection.answer.clear();
        return true;
    }

    NextRequest next_;
    Fd epoll_;
    std::vector<Connection> connections_;
    std::size_t left_ = 0;
    std::size_t under_way_ = 0;
    Values us_;  // for each answer
};

constexpr double no_limit = std::numeric_limits<double>::infinity();

// Schedules tasks of a distant day, a request each.
template <class Target>
Load schedule_singly(const Target& target, std::size_t connections, std::size_t count,
                     double seconds = no_limit, const TlsContext& tls = nullptr) {
    Task task(distant_midnight(), post_head(body_size));
    LoadGenerator generator(
        target.port(), connections,
        [&, n = std::size_t{0}]() mutable -> const std::string& { return task.scattered(n++); },
        tls);
    return generator.run(target.child(), count, seconds);
}

template <class Target>
Load schedule_for(const Target& target, std::size_t connections, double seconds,
                  const TlsContext& tls = nullptr) {
    return schedule_singly(target, connections, SIZE_MAX, seconds, tls);
}

// ---- References, each a process of its own ---------------------------------

void announce(int port) {
    std::printf("127.0.0.1:%d\n", port);
    std::fflush(stdout);
}

// What our server answers to POST /schedule, apart from the header.
const std::string constant_answer(100, 'x');
const std::string constant_location = "/tasks/" + std::string(36, 'x');

// A stock server with a constant answer.  It has what a client that keeps its connections
// needs, a thread for each and no delays; without, its limits would be measured.
void run_stock(std::size_t threads) {
    httplib::Server server;
    server.Post("/schedule", [](const httplib::Request&, httplib::Response& response) {
        response.set_header("Location", constant_location.c_str());
        response.set_content(constant_answer, "application/json");
    });
    server.set_tcp_nodelay(true);
    server.set_keep_alive_max_count(1'000'000'000);
    server.set_keep_alive_timeout(60);
    if (threads > 0) server.new_task_queue = [=] { return new httplib::ThreadPool(threads); };
    announce(server.bind_to_any_port("127.0.0.1"));
    server.listen_after_bind();
}

std::string bare_answer(const std::string& body) {
    return "HTTP/1.1 200 OK\r\nContent-Length: " + std::to_string(body.size()) +
           "\r\nLocation: " + constant_location + "\r\n\r\n" + body;
}

// The least that answers a request or writes an event to many streams: one epoll loop.  On
// its standard input come moments, at each of which it writes an event to every stream.  Its
// answers have bodies of `size` bytes, or of as many as our server's to a schedule.
class BareLoop {
public:
    explicit BareLoop(std::size_t size)
        : epoll_(epoll_create1(EPOLL_CLOEXEC)),
          answer_(bare_answer(size > 0 ? std::string(size, 'x') : constant_answer)) {
        auto [listener, port] = listen_anywhere();
        listener_ = std::move(listener);
        watch(listener_.get());
        watch(STDIN_FILENO);
        announce(port);
    }
    void run() {
        for (;;) {
            epoll_event ready[512];
            const int n = epoll_wait(epoll_.get(), ready, 512, -1);
            for (int i = 0; i < n; ++i) {
                const int fd = ready[i].data.fd;
                if (fd == STDIN_FILENO) {
                    emit();
                } else if (fd == listener_.get()) {
                    accept_one();
                } else {
                    serve(fd);
                }
            }
        }
    }

private:
    void watch(int fd) const { ::watch(epoll_, fd, static_cast<std::size_t>(fd)); }
    void accept_one() const {
        const int fd = accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC);
        const int on = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        watch(fd);
    }
    // One read is one request, because its client waits for the answer.
    void serve(int fd) {
        char buffer[4'096];
        const ssize_t n = read(fd, buffer, sizeof buffer);
        if (n <= 0) {
            close(fd);
            streams_.erase(fd);
        } else if (std::string_view(buffer, 9) == "GET /sse ") {
            streams_.insert(fd);
            write_all(fd, "HTTP/1.1 200 OK\r\n\r\nevent: cursor\ndata: {}\n\n");
        } else {
            write_all(fd, answer_);
        }
    }
    void emit() const {
        char line[64] = {};
        if (read(STDIN_FILENO, line, sizeof line - 1) <= 0) std::exit(0);
        const std::int64_t due = std::strtoll(line, nullptr, 10);
        const std::string event = event_frame(due).text();
        sleep_until(due);
        for (const int fd : streams_) write_all(fd, event);
    }

    Fd epoll_;
    Fd listener_;
    std::set<int> streams_;
    const std::string answer_;
};

// Tasks as a program without any promise would keep them: a heap of moments and strings.
void run_heap(std::size_t count) {
    std::priority_queue<std::pair<std::int64_t, std::string>> heap;
    Task task(distant_midnight());
    for (std::size_t n = 0; n < count; ++n) {
        heap.emplace(-static_cast<std::int64_t>(n * 2'654'435'761 % 86'400'000), task.numbered(n));
    }
    announce(0);
    pause();
}

int run_reference(const std::string& kind, std::size_t size) {
    if (kind == "stock") run_stock(size);
    if (kind == "bare") BareLoop(size).run();
    if (kind == "heap") run_heap(size);
    return 2;
}

// ---- schedule --------------------------------------------------------------

const std::vector<std::string> policies{"always", "everysec", "no"};

// The same load in turn on the stock server and on ours with each policy.
struct Loads {
    Loads(const Bench& bench, std::size_t connections) : ours(policies.size()) {
        const double seconds = bench.pick(2.0, 0.2);
        for (int round = 0; round < bench.rounds(5); ++round) {
            stock.push_back(schedule_for(Reference("stock", 64), connections, seconds));
            for (std::size_t i = 0; i < policies.size(); ++i) {
                const Server server(bench, policies[i]);
                ours[i].push_back(schedule_for(server, connections, seconds));
            }
            bare.push_back(schedule_for(Reference("bare"), connections, seconds));
        }
    }
    std::vector<Load> stock;
    std::vector<Load> bare;               // against next to nothing: what the generator can do
    std::vector<std::vector<Load>> ours;  // by policy
};

const char* const stock_server = "stock httplib::Server with a constant answer";

std::string connections_of(std::size_t count) {
    return std::to_string(count) + (count == 1 ? " connection" : " connections");
}

void measure_schedule(Bench& bench) {
    const std::string budgets[]{">= 0.6 x", ">= 1.0 x", ""};
    for (const std::size_t connections : Sizes{1, 64}) {
        const Loads loads(bench, connections);
        const auto add = [&](const std::string& what, const char* unit, double Load::*member,
                             const std::vector<Load>& reference, const std::vector<Load>& ours,
                             const std::string& budget = "") {
            bench.report.add({connections_of(connections) + what, unit, column(reference, member),
                              column(ours, member), budget});
        };
        bench.report.against(stock_server);
        for (std::size_t i = 0; i < policies.size(); ++i) {
            const std::string what = ", " + policies[i];
            add(what, "requests/s", &Load::rate, loads.stock, loads.ours[i],
                connections == 64 ? budgets[i] : "");
            add(what, "p50 us", &Load::p50_us, loads.stock, loads.ours[i]);
            add(what, "p99 us", &Load::p99_us, loads.stock, loads.ours[i]);
            add(what, "generator's CPU %", &Load::busy, loads.stock, loads.ours[i]);
            if (median(column(loads.ours[i], &Load::busy)) > 90) {
                bench.report.note("the load generator may have held our server back");
            }
        }
        bench.report.against("a bare epoll loop: what the load generator could do");
        add("", "requests/s", &Load::rate, loads.bare, {});
        add("", "generator's CPU %", &Load::busy, loads.bare, {});
    }
}

// ---- tls -------------------------------------------------------------------

void measure_tls(Bench& bench) {
    constexpr std::size_t connections = 64;
    const double seconds = bench.pick(2.0, 0.2);
    const TempDir files(bench.directory);
    const fs::path certificate = files.path() / "cert.pem";
    const fs::path key = files.path() / "key.pem";
    write_certificate(certificate, key);
    const TlsContext tls = make_tls();
    bench.report.against("the same server without TLS");
    for (const char* const policy : {"always", "everysec"}) {
        std::vector<Load> plain;
        std::vector<Load> ours;
        for (int round = 0; round < bench.rounds(5); ++round) {
            plain.push_back(schedule_for(Server(bench, policy), connections, seconds));
            const Server server(bench, policy, {"--tls-cert", certificate, "--tls-key", key});
            ours.push_back(schedule_for(server, connections, seconds, tls));
        }
        const auto add = [&](const char* unit, double Load::*member, const char* budget = "") {
            bench.report.add({connections_of(connections) + ", " + policy, unit,
                              column(plain, member), column(ours, member), budget});
        };
        add("requests/s", &Load::rate, ">= 0.6 x");
        add("p50 us", &Load::p50_us);
        add("p99 us", &Load::p99_us);
        add("CPU us", &Load::cpu_us);
        add("generator's CPU %", &Load::busy);
    }
}

// ---- change ----------------------------------------------------------------

std::string change_of(const std::string& id, const std::string& body) {
    return "PATCH /tasks/" + id +
           " HTTP/1.1\r\nHost: localhost\r\nContent-Length: " + std::to_string(body.size()) +
           "\r\n\r\n" + body;
}

std::string cancel_of(const std::string& id) {
    return "DELETE /tasks/" + id + " HTTP/1.1\r\nHost: localhost\r\n\r\n";
}

// As many requests as there are ids, each with the next of them.
Load load_of_ids(const Server& server, std::size_t connections, const std::vector<std::string>& ids,
                 const std::function<std::string(const std::string& id)>& request) {
    std::string text;
    const auto next = [&, n = std::size_t{0}]() mutable -> const std::string& {
        return text = request(ids[n++]);
    };
    return LoadGenerator(server.port(), connections, next)
        .run(server.child(), ids.size(), no_limit);
}

// On one server in turn: tasks are scheduled, others are changed, and these are cancelled.
void measure_change(Bench& bench) {
    constexpr std::size_t connections = 64;
    const std::size_t count = bench.pick<std::size_t>(60'000, 2'000);
    const std::int64_t day = distant_midnight();
    const std::string body = "{\"timestamp\":\"" + iso(day + 3'600 * ns_a_second) + "\"}";
    bench.report.against("scheduling on the same server");
    for (const std::string& policy : policies) {
        std::vector<Load> scheduled;
        std::vector<Load> changed;
        std::vector<Load> cancelled;
        for (int round = 0; round < bench.rounds(5); ++round) {
            const Server server(bench, policy);
            const auto ids = schedule_arrays(server.port(), count, day, true);
            scheduled.push_back(schedule_singly(server, connections, count));
            changed.push_back(load_of_ids(server, connections, ids, [&](const std::string& id) {
                return change_of(id, body);
            }));
            cancelled.push_back(load_of_ids(server, connections, ids, cancel_of));
        }
        const std::string where = connections_of(connections) + ", " + policy + ": ";
        for (const auto& [what, ours] :
             {std::pair("change", &changed), std::pair("cancel", &cancelled)}) {
            bench.report.add({where + what, "requests/s", column(scheduled, &Load::rate),
                              column(*ours, &Load::rate), ">= 0.8 x"});
            bench.report.add({where + what, "CPU us", column(scheduled, &Load::cpu_us),
                              column(*ours, &Load::cpu_us)});
        }
    }
}

// ---- get -------------------------------------------------------------------

void measure_get(Bench& bench) {
    constexpr std::size_t connections = 64;
    const Server server(bench, "no");
    const auto ids = schedule_arrays(server.port(), 10'000, distant_midnight(), true);
    const Fd fd = connect_to(server.port());
    schedule_arrays(server.port(), 1'000, now_ns() - ns_a_second, false);
    while (pending(fd) > ids.size()) std::this_thread::sleep_for(10ms);
    const double seconds = bench.pick(2.0, 0.2);
    const std::vector<std::pair<const char*, std::string>> requests{
        {"GET /tasks/{id}", get("/tasks/" + ids[ids.size() / 2])},
        {"GET /events?limit=10", get("/events?limit=10")}};
    bench.report.against("a bare epoll loop with answers of the same size");
    for (const auto& [what, request] : requests) {
        const std::string answer = ask(fd, request);
        const Reference bare("bare", answer.size() - answer.find("\r\n\r\n") - 4);
        const auto load = [&, &text = request](const auto& target) {
            const auto next = [&]() -> const std::string& { return text; };
            return LoadGenerator(target.port(), connections, next)
                .run(target.child(), SIZE_MAX, seconds);
        };
        std::vector<Load> reference;
        std::vector<Load> ours;
        for (int round = 0; round < bench.rounds(5); ++round) {
            reference.push_back(load(bare));
            ours.push_back(load(server));
        }
        for (const auto& [unit, member] :
             {std::pair("requests/s", &Load::rate), std::pair("p50 us", &Load::p50_us),
              std::pair("p99 us", &Load::p99_us), std::pair("CPU us", &Load::cpu_us)}) {
            bench.report.add({what, unit, column(reference, member), column(ours, member)});
        }
    }
}

// ---- slow ------------------------------------------------------------------

struct Normal {
    double p50_ms = 0;  // from connecting to the answer
    double p99_ms = 0;
    double own = 0;      // bytes
    double threads = 0;  // of the server
};

// Schedules from one client after the other.
Normal normal_requests(const Bench& bench, const Server& server) {
    Task task(distant_midnight(), post_head(body_size));
    Values ms;
    for (std::size_t n = 0; n < bench.pick<std::size_t>(1'000, 50); ++n) {
        const std::int64_t began = now_ns();
        ask(connect_to(server.port()), task.scattered(n));
        ms.push_back(seconds_between(began, now_ns()) * 1e3);
    }
    return {percentile(ms, 0.5), percentile(ms, 0.99), server.child().memory().own,
            server.child().threads()};
}

// A client that takes little at a time.
Fd narrow_client(int port) {
    Fd fd = connect_to(port);
    const int size = 4'096;
    setsockopt(fd.get(), SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    return fd;
}

void measure_slow_who(Bench& bench, const std::string& who, const std::string& request,
                      std::size_t count, const std::string& bytes_budget) {
    std::vector<Normal> alone;
    std::vector<Normal> beside;
    Values each;
    for (int round = 0; round < bench.rounds(3); ++round) {
        const Server server(bench, "no", {"--max-connections", std::to_string(count + 100)});
        schedule_arrays(server.port(), 1'000, distant_midnight(), true);
        ask(connect_to(server.port()), get("/tasks?limit=1000"));
        alone.push_back(normal_requests(bench, server));
        std::vector<Fd> clients;
        for (std::size_t n = 0; n < count; ++n) {
            clients.push_back(narrow_client(server.port()));
            write_all(clients.back().get(), request);
        }
        beside.push_back(normal_requests(bench, server));
        const double grown = beside.back().own - alone.back().own;
        each.push_back(grown / static_cast<double>(count));
    }
    const std::string what = std::to_string(count) + ' ' + who;
    bench.report.add(
        {what, "p50 ms", column(alone, &Normal::p50_ms), column(beside, &Normal::p50_ms), ""});
    bench.report.add(
        {what, "p99 ms", column(alone, &Normal::p99_ms), column(beside, &Normal::p99_ms), "<= 20"});
    bench.report.add({what, "threads", column(alone, &Normal::threads),
                      column(beside, &Normal::threads), "1 x"});
    bench.report.add({what, "private bytes each", {}, each, bytes_budget});
}

void measure_slow(Bench& bench) {
    const auto count = bench.pick<std::size_t>(4'000, 200);
    if (!allow_descriptors(count + 300)) {
        bench.report.note("left out: that many files may not be open here (ulimit -n)");
        return;
    }
    bench.report.against("the same request without the slow clients");
    const std::string head = "GET / HTTP/1.1\r\nHost: localhost\r\nX: ";
    measure_slow_who(bench, "slow heads", head, count, "<= 20480");
    measure_slow_who(bench, "slow bodies", post_head(1'000) + "{", count, "<= 20480");
    measure_slow_who(bench, "who read nothing", get("/tasks?limit=1000"), count,
                     "<= 20480, and 64 MiB");
}

// ---- lateness --------------------------------------------------------------

// From the due time of one event of the server to its first byte.
double event_ms(int port, const Fd& stream, double ahead = 0.03) {
    const std::int64_t due = moment_ahead(ahead);
    ask(connect_to(port), Task(due, post_head(body_size)).text());
    for (;;) {
        const std::string text = read_some(stream.get());
        const std::int64_t arrived = now_ns();
        if (text.find("\"n\"") != std::string::npos) return seconds_between(due, arrived) * 1e3;
    }
}

// The same from a bare timer: a thread sleeps until the moment and writes.
double timer_ms(const Fd& from, const Fd& to) {
    const std::int64_t due = moment_ahead(0.03);
    std::thread sleeper([&, due] {
        prctl(PR_SET_TIMERSLACK, 1UL);
        const std::string event = event_frame(due).text();
        sleep_until(due);
        write_all(from.get(), event);
    });
    read_some(to.get());
    const std::int64_t arrived = now_ns();
    sleeper.join();
    return seconds_between(due, arrived) * 1e3;
}

// Schedules evenly, from so many clients that a slow disk does not slow them.
class EvenLoad {
public:
    EvenLoad(int port, int rate) {
        for (int i = 0; i < clients; ++i) {
            const std::int64_t began = now_ns() + i * ns_a_second / rate;
            attained_.push_back(
                std::async(std::launch::async, [=] { return run(port, rate, began); }));
        }
    }
    ~EvenLoad() { done_ = true; }
    // Ends it; returns how many it scheduled a second.
    double stop() {
        done_ = true;
        double sum = 0;
        for (std::future<double>& attained : attained_) sum += attained.get();
        return sum;
    }

private:
    static constexpr int clients = 16;

    double run(int port, int rate, std::int64_t began) const {
        const Fd fd = connect_to(port);
        Task task(distant_midnight(), post_head(body_size));
        std::int64_t n = 0;
        while (!done_) {
            sleep_until(began + n * clients * ns_a_second / rate);
            ask(fd, task.scattered(static_cast<std::size_t>(n++)));
        }
        return static_cast<double>(n) / seconds_between(began, now_ns());
    }

    std::atomic<bool> done_{false};
    std::vector<std::future<double>> attained_;  // their destructors wait for the threads
};

void measure_lateness_with(Bench& bench, int rate, const std::string& load,
                           const std::string& p50_budget, const std::string& p99_budget) {
    const Server server(bench, "always");
    const Fd stream = open_stream(server.port());
    const auto [from, to] = loopback_pair();
    std::optional<EvenLoad> beside;
    if (rate > 0) beside.emplace(server.port(), rate);
    Row p50{load, "p50 ms", {}, {}, p50_budget};
    Row p99{load, "p99 ms", {}, {}, p99_budget};
    for (int round = 0; round < bench.rounds(5); ++round) {
        Values reference;
        Values ours;
        for (int i = 0; i < bench.pick(200, 20); ++i) {
            reference.push_back(timer_ms(from, to));
            ours.push_back(event_ms(server.port(), stream));
        }
        for (const auto& [row, share] : {std::pair(&p50, 0.5), std::pair(&p99, 0.99)}) {
            row->reference.push_back(percentile(reference, share));
            row->ours.push_back(percentile(ours, share));
        }
    }
    bench.report.against("clock_nanosleep and one write to a loopback socket");
    bench.report.add(p50);
    bench.report.add(p99);
    if (beside) bench.report.add({load, "attained/s", {}, {beside->stop()}});
}

void measure_lateness(Bench& bench) {
    measure_lateness_with(bench, 0, "idle", "+ 0.05 ms", "<= 1.3 x");
    measure_lateness_with(bench, 2'000, "2000 schedules/s", "", "<= 2 x, <= 1 ms");
}

// ---- burst -----------------------------------------------------------------

const std::size_t one_event = event_frame(0).text().size();
constexpr std::size_t many_events = 65'536;

struct Burst {
    double rate = 0;    // events a second, from the moment to the last
    double cpu_us = 0;  // of the writer, for each event
    double lost = 0;
    double repeated = 0;
    double disordered = 0;
};

// Reads as many bytes as fit, and no longer than the socket is patient; what came is
// left in `bytes`.  Nothing is looked at meanwhile, so that only the writer counts.
std::int64_t read_plainly(const Fd& fd, std::string& bytes) {
    std::size_t size = 0;
    std::int64_t last = now_ns();
    while (size < bytes.size()) {
        const std::size_t most = std::min<std::size_t>(bytes.size() - size, 262'144);
        const ssize_t n = read(fd.get(), bytes.data() + size, most);
        if (n <= 0) break;
        size += static_cast<std::size_t>(n);
        last = now_ns();
    }
    bytes.resize(size);
    return last;
}

// What came although nothing more was due.
std::string read_rest(const Fd& fd) {
    std::string rest(65'536, '\0');
    const ssize_t n = recv(fd.get(), rest.data(), rest.size(), MSG_DONTWAIT);
    rest.resize(static_cast<std::size_t>(std::max<ssize_t>(n, 0)));
    return rest;
}

void count_events(const std::string& bytes, std::size_t count, Burst& burst) {
    std::vector<bool> seen(count);
    constexpr std::string_view mark = "\"n\":\"";
    std::size_t next = 0;
    for (std::size_t at = 0; (at = bytes.find(mark, at)) != std::string::npos; ++at) {
        const std::size_t n = std::strtoul(bytes.c_str() + at + mark.size(), nullptr, 10);
        if (n >= count) throw std::runtime_error("an event came that nobody scheduled");
        if (seen[n]) ++burst.repeated;
        if (!seen[n] && n < next) ++burst.disordered;
        seen[n] = true;
        next = std::max(next, n + 1);
    }
    burst.lost = static_cast<double>(std::count(seen.begin(), seen.end(), false));
}

// All tasks at one moment, as many bytes as the reference writes; they are read at another port.
template <class Process>
Burst burst_between(int port, int stream_port, const Process& server, std::size_t count) {
    std::string bytes(count * one_event, '\0');
    double ahead = 1 + static_cast<double>(count) * 10e-6;
    const std::size_t before = pending(connect_to(port));
    // Tasks that were due before the last was scheduled make no burst: the next try has more time.
    for (int tries = 0; tries < 4; ++tries, ahead *= 2) {
        const std::int64_t due = moment_ahead(ahead);
        schedule_arrays(port, count, due, false);
        if (now_ns() + ns_a_second / 5 > due) {
            const Fd fd = connect_to(port);
            while (pending(fd) > before) std::this_thread::sleep_for(10ms);
            continue;
        }
        const Fd stream = open_stream(stream_port);
        const double cpu = server.cpu_us();
        const double seconds = seconds_between(due, read_plainly(stream, bytes));
        std::this_thread::sleep_for(100ms);
        Burst burst;
        burst.rate = static_cast<double>(count) / seconds;
        burst.cpu_us = (server.cpu_us() - cpu) / static_cast<double>(count);
        count_events(bytes + read_rest(stream), count, burst);
        return burst;
    }
    throw std::runtime_error("the tasks could not be scheduled in time");
}

Burst burst_of_server(const Bench& bench, std::size_t count) {
    const Server server(bench, "always");
    return burst_between(server.port(), server.port(), server.child(), count);
}

// The same bytes from a thread that has them ready, so many a write.
Burst burst_of_writes(std::size_t count, std::size_t bytes_a_write) {
    Task frame = event_frame(now_ns());
    std::string bytes;
    bytes.reserve(count * frame.text().size());
    for (std::size_t n = 0; n < count; ++n) bytes += frame.numbered(n);
    std::string received(bytes.size(), '\0');
    const auto [from, to] = loopback_pair();
    std::int64_t cpu = 0;
    const std::int64_t began = now_ns();
    std::thread writer([&, fd = from.get()] {
        for (std::size_t at = 0; at < bytes.size(); at += bytes_a_write) {
            write_all(fd, std::string_view(bytes).substr(at, bytes_a_write));
        }
        cpu = read_clock(CLOCK_THREAD_CPUTIME_ID);
    });
    const std::int64_t last = read_plainly(to, received);
    writer.join();
    Burst burst;
    burst.rate = static_cast<double>(count) / seconds_between(began, last);
    burst.cpu_us = static_cast<double>(cpu) / 1e3 / static_cast<double>(count);
    return burst;
}

void measure_burst(Bench& bench) {
    for (const std::size_t count : bench.pick(Sizes{100'000, 1'000'000}, Sizes{10'000})) {
        std::vector<Burst> singly;
        std::vector<Burst> gathered;
        std::vector<Burst> ours;
        for (int round = 0; round < bench.rounds(count > 100'000 ? 3 : 5); ++round) {
            singly.push_back(burst_of_writes(count, one_event));
            gathered.push_back(burst_of_writes(count, many_events));
            ours.push_back(burst_of_server(bench, count));
        }
        const std::string what = std::to_string(count) + " at one instant";
        const Values rates = column(ours, &Burst::rate);
        bench.report.against("the same bytes through one socket, a write an event");
        bench.report.add(
            {what, "events/s", column(singly, &Burst::rate), rates, ">= 0.5 x, about 1 M/s"});
        bench.report.add({what, "lost", {}, column(ours, &Burst::lost), "0"});
        bench.report.add({what, "repeated", {}, column(ours, &Burst::repeated), "0"});
        bench.report.add({what, "out of order", {}, column(ours, &Burst::disordered), "0"});
        bench.report.against("the same bytes through one socket, 64 KiB a write");
        bench.report.add({what, "events/s", column(gathered, &Burst::rate), rates});
    }
}

// ---- memory ----------------------------------------------------------------

// What a bare heap needs for each of its tasks.
double heap_bytes(std::size_t count) {
    const double empty = Reference("heap", 0).child().memory().own;
    const double full = Reference("heap", count).child().memory().own;
    return (full - empty) / static_cast<double>(count);
}

void measure_memory(Bench& bench) {
    for (const std::size_t count : bench.pick(Sizes{100'000, 1'000'000}, Sizes{10'000})) {
        const std::string what = std::to_string(count) + " pending";
        Row own{what, "private bytes a task", {}, {}, count == 1'000'000 ? "<= 220" : ""};
        Row resident{what, "resident bytes a task", {}, {}};
        Row journal{what, "journal bytes a task", {}, {}};
        for (int round = 0; round < bench.rounds(3); ++round) {
            own.reference.push_back(heap_bytes(count));
            const Server server(bench, "no");
            const Memory before = server.child().memory();
            schedule_singly(server, 64, count);
            std::this_thread::sleep_for(500ms);  // for the threads of its connections to end
            const Memory after = server.child().memory();
            const auto each = [&](double bytes) { return bytes / static_cast<double>(count); };
            own.ours.push_back(each(after.own - before.own));
            resident.ours.push_back(each(after.resident - before.resident));
            journal.reference.push_back(body_size);
            journal.ours.push_back(each(static_cast<double>(fs::file_size(server.journal()))));
        }
        bench.report.against("a bare heap of strings");
        bench.report.add(own);
        bench.report.add(resident);
        bench.report.against("the bodies of the requests");
        bench.report.add(journal);
    }
}

// ---- restart ---------------------------------------------------------------

// A server that has so many events in its history and so many tasks pending.
void fill_journal(const Server& server, std::size_t count, std::size_t history) {
    if (history > 0) schedule_arrays(server.port(), history, now_ns() - ns_a_second, false);
    const Fd fd = connect_to(server.port());
    while (pending(fd) > 0) std::this_thread::sleep_for(10ms);
    schedule_singly(server, 64, count);
}

double read_file_ms(const fs::path& path) {
    const Fd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    std::vector<char> buffer(1 << 20);
    const std::int64_t began = now_ns();
    while (read(fd.get(), buffer.data(), buffer.size()) > 0) continue;
    return seconds_between(began, now_ns()) * 1e3;
}

void measure_restart_of(Bench& bench, std::size_t count, std::size_t history) {
    const std::vector<std::string> keep{"--history", std::to_string(history)};
    Server first(bench, "no", keep);
    fill_journal(first, count, history);
    first.stop();
    const std::string what =
        std::to_string(count) + " pending, " + std::to_string(history) + " past";
    Row time{what, "ms to all", {}, {}, count == 1'000'000 ? "<= 600" : ""};
    Row own{what, "private bytes a task", {}, {}};
    for (int round = 0; round < bench.rounds(3); ++round) {
        time.reference.push_back(read_file_ms(first.journal()));
        const Server server(bench, "no", keep, first.journal());
        const Fd fd = connect_to(server.port());
        while (pending(fd) != count) std::this_thread::sleep_for(1ms);
        time.ours.push_back(seconds_between(server.child().started(), now_ns()) * 1e3);
        own.ours.push_back(server.child().memory().own / static_cast<double>(count));
    }
    bench.report.add(time);
    bench.report.add(own);
}

void measure_restart(Bench& bench) {
    bench.report.against("the same file read with read()");
    for (const std::size_t count : bench.pick(Sizes{100'000, 1'000'000}, Sizes{10'000})) {
        for (const std::size_t history : Sizes{0, bench.pick<std::size_t>(100'000, 1'000)}) {
            measure_restart_of(bench, count, history);
        }
    }
}

// ---- fanout ----------------------------------------------------------------

// Many streams to one port, read by one thread.
class Subscribers {
public:
    Subscribers(int port, std::size_t count) : epoll_(epoll_create1(EPOLL_CLOEXEC)) {
        for (std::size_t i = 0; i < count; ++i) {
            fds_.push_back(connect_to(port));
            write_all(fds_.back().get(), subscribe);
            watch(epoll_, fds_.back().get(), i);
        }
        wait_for_all(subscribed);
    }
    // When the last stream had a read with this in it.
    std::int64_t wait_for_all(std::string_view mark) const {
        for (std::size_t left = fds_.size(); left > 0;) {
            epoll_event ready[512];
            const int n = epoll_wait(epoll_.get(), ready, 512, 30'000);
            if (n <= 0) throw std::runtime_error("not every stream had its event within 30 s");
            for (int i = 0; i < n; ++i) {
                char buffer[4'096];
                const int fd = fds_[ready[i].data.u64].get();
                const ssize_t size = read(fd, buffer, sizeof buffer);
                if (size <= 0) throw std::runtime_error("the server closed a stream");
                const std::string_view text(buffer, static_cast<std::size_t>(size));
                if (text.find(mark) != std::string_view::npos) --left;
            }
        }
        return now_ns();
    }

private:
    Fd epoll_;
    std::vector<Fd> fds_;
};

// Adds what one server needs: bytes for each stream, and ms from a moment to the last of them.
// `arrange` makes it emit one event at that moment.
template <class Target>
void fan_out(const Target& target, std::size_t count, int events, Values& bytes, Values& ms,
             const std::function<void(std::int64_t due)>& arrange) {
    const double before = target.child().memory().own;
    const Subscribers subscribers(target.port(), count);
    std::this_thread::sleep_for(200ms);  // for the threads that took the connections to end
    bytes.push_back((target.child().memory().own - before) / static_cast<double>(count));
    for (int i = 0; i < events; ++i) {
        const std::int64_t due = moment_ahead(0.1);
        arrange(due);
        ms.push_back(seconds_between(due, subscribers.wait_for_all("}}\n\n")) * 1e3);
    }
}

void measure_fanout_to(Bench& bench, std::size_t count) {
    const bool largest = count == 10'000;
    const std::string what = std::to_string(count) + " streams";
    Row bytes{what, "private bytes each", {}, {}, largest ? "<= 4096" : ""};
    Row ms{what, "ms to the last", {}, {}, largest ? "<= 75" : ""};
    for (int round = 0; round < bench.rounds(3); ++round) {
        const int events = bench.pick(5, 2);
        const Reference bare("bare");
        fan_out(bare, count, events, bytes.reference, ms.reference,
                [&](std::int64_t due) { bare.child().tell(std::to_string(due) + "\n"); });
        const Server server(bench, "no", {"--max-streams", std::to_string(count)});
        fan_out(server, count, events, bytes.ours, ms.ours, [&](std::int64_t due) {
            ask(connect_to(server.port()), Task(due, post_head(body_size)).text());
        });
    }
    bench.report.add(ms);
    bench.report.add(bytes);
}

void measure_fanout(Bench& bench) {
    bench.report.against("a bare epoll loop that writes the same bytes to as many sockets");
    for (const std::size_t count : bench.pick(Sizes{100, 1'000, 10'000}, Sizes{100, 500})) {
        if (allow_descriptors(count + 200)) {
            measure_fanout_to(bench, count);
        } else {
            bench.report.note(std::to_string(count) + " streams are left out: that many files " +
                              "may not be open here (ulimit -n)");
        }
    }
}

// ---- catchup ---------------------------------------------------------------

// Streams that begin with the oldest event, and a thread that reads them as fast as they come.
class CatchUp {
public:
    CatchUp(int port, std::size_t count, std::size_t bytes_each)
        : epoll_(epoll_create1(EPOLL_CLOEXEC)), left_(count * bytes_each) {
        for (std::size_t i = 0; i < count; ++i) {
            fds_.push_back(connect_to(port));
            write_all(fds_.back().get(), get("/sse?last_event_id=earliest"));
            watch(epoll_, fds_.back().get(), i);
        }
        thread_ = std::thread([this] { read_all(); });
    }
    ~CatchUp() {
        done_ = true;
        thread_.join();
    }
    // Of the bytes that all of them are to get.
    std::size_t left() const { return left_; }

private:
    void read_all() {
        std::vector<char> buffer(1 << 20);
        while (!done_) {
            epoll_event ready[512];
            const int n = epoll_wait(epoll_.get(), ready, 512, 100);
            for (int i = 0; i < n; ++i) {
                const ssize_t size =
                    recv(fds_[ready[i].data.u64].get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
                const auto came = static_cast<std::size_t>(std::max<ssize_t>(size, 0));
                left_ -= std::min(left_.load(), came);
            }
        }
    }

    Fd epoll_;
    std::vector<Fd> fds_;
    std::atomic<std::size_t> left_;
    std::atomic<bool> done_{false};
    std::thread thread_;
};

void measure_catchup_of(Bench& bench, std::size_t message) {
    const auto streams = bench.pick<std::size_t>(900, 50);
    const auto events = bench.pick<std::size_t>(10'000, 1'000);
    const std::string body =
        R"({"timestamp":"2020-01-01","message":")" + std::string(message, 'x') + "\"}";
    const std::size_t bytes = events * (one_event - body_size + body.size());
    const std::string what = std::to_string(streams) + " streams behind by " +
                             std::to_string(events) + " of " + std::to_string(message) + " B";
    Row p50{what, "p50 ms", {}, {}};
    Row most{what, "most ms", {}, {}, "<= 20 ms"};
    Row caught_up{what, "% had", {}, {}};
    for (int round = 0; round < bench.rounds(3); ++round) {
        const Server server(bench, "no", {"--history", std::to_string(events + 1'000)});
        const Fd fd = connect_to(server.port());
        for (std::size_t n = 0; n < events; n += 100) {
            std::string all = "[" + body;
            for (int i = 1; i < 100; ++i) all += ',' + body;
            all += ']';
            ask(fd, post_head(all.size()) + all);
        }
        while (pending(fd) > 0) std::this_thread::sleep_for(10ms);
        const Fd live = open_stream(server.port());
        Values alone;
        Values beside;
        for (int i = 0; i < bench.pick(30, 5); ++i) {
            alone.push_back(event_ms(server.port(), live, 0.05));
        }
        const CatchUp others(server.port(), streams, bytes);
        for (int i = 0; i < bench.pick(30, 5) && (i == 0 || others.left() > 0); ++i) {
            beside.push_back(event_ms(server.port(), live, 0.05));
        }
        const auto left = static_cast<double>(others.left());
        caught_up.ours.push_back(100 - 100 * left / static_cast<double>(streams * bytes));
        for (const auto& [row, share] : {std::pair(&p50, 0.5), std::pair(&most, 1.0)}) {
            row->reference.push_back(percentile(alone, share));
            row->ours.push_back(percentile(beside, share));
        }
    }
    bench.report.add(p50);
    bench.report.add(most);
    bench.report.add(caught_up);
}

void measure_catchup(Bench& bench) {
    bench.report.against("the same live stream alone");
    if (!allow_descriptors(2'000)) throw std::runtime_error("too few files may be open here");
    for (const std::size_t message : bench.pick(Sizes{200, 4'096}, Sizes{200})) {
        measure_catchup_of(bench, message);
    }
}

// ---- cpu -------------------------------------------------------------------

void measure_cpu(Bench& bench) {
    bench.report.against(stock_server);
    for (const std::size_t connections : bench.pick(Sizes{1, 64}, Sizes{64})) {
        const Loads loads(bench, connections);
        for (std::size_t i = 0; i < policies.size(); ++i) {
            bench.report.add({connections_of(connections) + ", " + policies[i], "us a schedule",
                              column(loads.stock, &Load::cpu_us),
                              column(loads.ours[i], &Load::cpu_us)});
        }
    }
    const auto events = bench.pick<std::size_t>(100'000, 10'000);
    std::vector<Burst> writes;
    std::vector<Burst> ours;
    for (int round = 0; round < bench.rounds(5); ++round) {
        writes.push_back(burst_of_writes(events, one_event));
        ours.push_back(burst_of_server(bench, events));
    }
    bench.report.against("the same bytes through one socket, a write an event");
    bench.report.add({std::to_string(events) + " at one instant", "us an emission",
                      column(writes, &Burst::cpu_us), column(ours, &Burst::cpu_us)});
}

// ---- idle ------------------------------------------------------------------

// The system calls that a trace shows to begin in a time.
double calls_in_trace(const fs::path& path, double from, double to) {
    std::ifstream file(path);
    // Also a process that does nothing leaves the calls that its threads wait in.
    if (file.peek() == EOF) throw std::runtime_error("strace saw nothing");
    double calls = 0;
    for (std::string line; std::getline(file, line);) {
        double time = 0;
        char first = 0;
        // A line is: process, time, call.  Ends of calls begin with '<', signals with '-' or '+'.
        if (sscanf(line.c_str(), "%*d %lf %c", &time, &first) == 2 && time >= from && time < to &&
            first != '<' && first != '-' && first != '+') {
            ++calls;
        }
    }
    return calls;
}

double switches(pid_t pid) {
    double sum = 0;
    for (const auto& task : fs::directory_iterator("/proc/" + std::to_string(pid) + "/task")) {
        std::ifstream file(task.path() / "status");
        for (std::string line; std::getline(file, line);) {
            if (line.rfind("voluntary_ctxt_switches:", 0) == 0) sum += std::atof(&line[24]);
        }
    }
    return sum;
}

// Follows all threads of a process while it lives; says whether it may.
class Trace {
public:
    Trace(pid_t pid, const fs::path& file)
        : strace_({"sh", "-c",
                   "exec 2>&1; exec strace -f -ttt -o '" + file.string() + "' -p " +
                       std::to_string(pid)}) {
        attached_ = strace_.read_line().find(" attached") != std::string::npos;
    }
    bool attached() const { return attached_; }

private:
    Child strace_;
    bool attached_;
};

// What a process does of itself in so many seconds: system calls where strace can see them,
// else the times that one of its threads went to sleep.
double activity(const Bench& bench, const Child& child, int seconds, bool traced) {
    const fs::path file = bench.directory / "trace";
    std::optional<Trace> trace;
    if (traced) trace.emplace(child.pid(), file);
    // Attaching restarts the calls that the threads are waiting in.
    std::this_thread::sleep_for(500ms);
    const double before = switches(child.pid());
    const double from = seconds_between(0, now_ns());
    std::this_thread::sleep_for(std::chrono::seconds(seconds));
    if (!traced) return switches(child.pid()) - before;
    trace.reset();
    return calls_in_trace(file, from, from + seconds);
}

void measure_idle(Bench& bench) {
    const int seconds = bench.pick(10, 1);
    const bool traced = Trace(Reference("bare").child().pid(), "/dev/null").attached();
    const std::string in = "in " + std::to_string(seconds) + " s";
    Row calls{"one task an hour ahead", (traced ? "system calls " : "wake-ups ") + in, {}, {}, "0"};
    Row resident{"one task an hour ahead", "resident KiB", {}, {}, "<= 6144 header-only"};
    Row own{"one task an hour ahead", "private KiB", {}, {}, "<= 1536 shared library"};
    for (int round = 0; round < bench.rounds(3); ++round) {
        const Reference stock("stock", 0);
        calls.reference.push_back(activity(bench, stock.child(), seconds, traced));
        resident.reference.push_back(stock.child().memory().resident / 1'024);
        own.reference.push_back(stock.child().memory().own / 1'024);
        const Server server(bench, "always");
        ask(connect_to(server.port()), Task(moment_ahead(3'600), post_head(body_size)).text());
        std::this_thread::sleep_for(500ms);  // for the connection's thread to end
        calls.ours.push_back(activity(bench, server.child(), seconds, traced));
        resident.ours.push_back(server.child().memory().resident / 1'024);
        own.ours.push_back(server.child().memory().own / 1'024);
    }
    bench.report.against("stock httplib::Server, empty");
    for (const Row& row : {calls, resident, own}) bench.report.add(row);
    if (!traced) bench.report.note("strace is missing or may not attach");
}

// ---- growth ----------------------------------------------------------------

// A server with so many tasks, scattered over a day.
struct Grown {
    Grown(const Bench& bench, std::size_t size)
        : server(bench, "no"), ids(schedule_arrays(server.port(), size, day, true)) {}

    const std::int64_t day = distant_midnight();
    const Server server;
    const std::vector<std::string> ids;
};

struct Operation {
    const char* name;
    std::string (*request)(const Grown& grown, std::size_t n);  // the n-th
};

// Cancels take the first ids in turn and finds the last.  A page begins in another hour each
// time; but where there is only one page, at the start of the day.
const std::vector<Operation> operations{
    {"schedule",
     [](const Grown& grown, std::size_t n) {
         return Task(grown.day, post_head(body_size)).scattered(n * 7);
     }},
    {"list a page of 1000",
     [](const Grown& grown, std::size_t n) {
         const auto hours = static_cast<std::int64_t>(grown.ids.size() > 1'000 ? n % 20 : 0);
         const std::string after = iso(grown.day + hours * 3'600 * ns_a_second - 1'000'000);
         return get("/tasks?limit=1000&due_after=" + after);
     }},
    {"find",
     [](const Grown& grown, std::size_t n) {
         const std::string& id = grown.ids[grown.ids.size() - 1 - n];
         return get("/tasks/" + id);
     }},
    {"cancel", [](const Grown& grown, std::size_t n) { return cancel_of(grown.ids[n]); }},
};

Load cost_of(const Operation& operation, const Grown& grown, std::size_t first,
             std::size_t repeats) {
    std::string request;
    const auto next = [&, n = first]() mutable -> const std::string& {
        return request = operation.request(grown, n++);
    };
    return LoadGenerator(grown.server.port(), 1, next).run(grown.server.child(), repeats, no_limit);
}

void measure_growth(Bench& bench) {
    const Sizes sizes = bench.pick(Sizes{1'000, 100'000, 1'000'000}, Sizes{1'000, 10'000});
    // The smallest has 1,000 ids: half of them are cancelled, half of them found.
    const auto rounds = static_cast<std::size_t>(bench.rounds(5));
    const std::size_t repeats = 500 / rounds;
    std::vector<std::unique_ptr<Grown>> all;
    for (const std::size_t size : sizes) all.push_back(std::make_unique<Grown>(bench, size));
    using Rounds = std::vector<Load>;
    std::vector<std::vector<Rounds>> costs(operations.size(), std::vector<Rounds>(sizes.size()));
    for (std::size_t round = 0; round < rounds; ++round) {
        for (std::size_t op = 0; op < operations.size(); ++op) {
            for (std::size_t i = 0; i < sizes.size(); ++i) {
                const std::size_t first = round * repeats;
                costs[op][i].push_back(cost_of(operations[op], *all[i], first, repeats));
            }
        }
    }
    bench.report.against("the same with 1000 pending");
    for (std::size_t op = 0; op < operations.size(); ++op) {
        for (std::size_t i = 1; i < sizes.size(); ++i) {
            const std::string what =
                std::string(operations[op].name) + ", " + std::to_string(sizes[i]);
            bench.report.add({what, "p50 us", column(costs[op][0], &Load::p50_us),
                              column(costs[op][i], &Load::p50_us)});
            bench.report.add({what, "CPU us", column(costs[op][0], &Load::cpu_us),
                              column(costs[op][i], &Load::cpu_us)});
        }
    }
}

// ---- webhook ---------------------------------------------------------------

// How many requests a second a client makes that waits for each answer.
double posts_of_client(int port, std::size_t count) {
    httplib::Client client("127.0.0.1", port);
    client.set_keep_alive(true);
    client.set_tcp_nodelay(true);
    const std::string body = Task(now_ns()).text();
    const std::int64_t began = now_ns();
    for (std::size_t n = 0; n < count; ++n) {
        if (!client.Post("/hook", body, "application/json")) {
            throw std::runtime_error("the receiver did not answer");
        }
    }
    return static_cast<double>(count) / seconds_between(began, now_ns());
}

std::size_t delivered(const Fd& fd) {
    const std::string answer = ask(fd, get("/sinks"));
    const std::size_t at = answer.find("\"delivered\":");
    return std::strtoul(answer.c_str() + at + 12, nullptr, 10);
}

// How many of the tasks that are due at one moment a webhook delivers a second.
double posts_of_webhook(const Bench& bench, const std::string& fsync, int port, std::size_t count) {
    const std::string url = "http://127.0.0.1:" + std::to_string(port) + "/hook";
    const Server server(bench, fsync, {"--webhook", url});
    const std::int64_t due = moment_ahead(1);
    schedule_arrays(server.port(), count, due, false);
    sleep_until(due);
    const Fd fd = connect_to(server.port());
    while (delivered(fd) < count) std::this_thread::sleep_for(2ms);
    return static_cast<double>(count) / seconds_between(due, now_ns());
}

void measure_webhook(Bench& bench) {
    const std::size_t count = bench.pick<std::size_t>(20'000, 500);
    const Reference receiver("bare");
    Values client;
    std::vector<Values> webhook(policies.size());
    for (int round = 0; round < bench.rounds(5); ++round) {
        client.push_back(posts_of_client(receiver.port(), count));
        for (std::size_t i = 0; i < policies.size(); ++i) {
            webhook[i].push_back(posts_of_webhook(bench, policies[i], receiver.port(), count));
        }
    }
    bench.report.against("httplib::Client, posting the same to the same receiver");
    for (std::size_t i = 0; i < policies.size(); ++i) {
        bench.report.add({policies[i], "deliveries/s", client, webhook[i], ">= 0.7 x"});
    }
}

// ---- A client alone, for tests/bench/cluster --------------------------------

// A server that somebody else has started.
struct Remote {
    int at;
    int port() const { return at; }
    const Remote& child() const { return *this; }
    static double cpu_us() { return 0; }
};

// Schedules evenly, from several connections, tasks that are due two seconds later, and says how
// many a second these were.  Their numbers are how many ms after `base` they are due.
double schedule_evenly(int port, int rate, double seconds, std::int64_t base) {
    constexpr int clients = 32;
    std::vector<std::future<void>> running;
    const auto each = static_cast<int>(rate * seconds / clients);
    for (int i = 0; i < clients; ++i) {
        running.push_back(std::async(std::launch::async, [=] {
            const Fd fd = connect_to(port);
            for (int n = 0; n < each; ++n) {
                const std::int64_t at = (i + std::int64_t{n} * clients) * ns_a_second / rate;
                sleep_until(base + at);
                const std::int64_t ms = at / 1'000'000 + 2'000;
                Task task(base + ms * 1'000'000, post_head(body_size));
                ask(fd, task.numbered(static_cast<std::size_t>(ms)));
            }
        }));
    }
    for (std::future<void>& one : running) one.get();
    return each * clients / seconds_between(base, now_ns());
}

// From the moments at which tasks are due to a stream at a port, perhaps of another node.
void print_lateness(int port, int stream_port, int rate, double seconds) {
    const Fd stream = open_stream(stream_port);
    const std::int64_t base = moment_ahead(0.1);
    auto scheduled = std::async(std::launch::async, schedule_evenly, port, rate, seconds, base);
    const auto expected = static_cast<std::size_t>(rate * seconds / 32) * 32;
    constexpr std::string_view mark = "\"n\":\"";
    Values late;
    std::string text;
    while (late.size() < expected) {
        text += read_some(stream.get());
        const std::int64_t now = now_ns();
        std::size_t at = 0;
        std::size_t end = 0;  // of what was looked at
        for (; (at = text.find(mark, end)) != std::string::npos; end = at + mark.size() + 8) {
            if (at + mark.size() + 8 > text.size()) break;
            const std::int64_t ms = std::strtol(text.c_str() + at + mark.size(), nullptr, 10);
            late.push_back(seconds_between(base + ms * 1'000'000, now) * 1e3);
        }
        const std::size_t kept = std::min(text.size() - end, mark.size() + 8);
        text.erase(0, text.size() - kept);
    }
    std::printf("{\"attained\":%.0f,\"p50_ms\":%.3f,\"p99_ms\":%.3f,\"max_ms\":%.3f}\n",
                scheduled.get(), percentile(late, 0.5), percentile(late, 0.99),
                percentile(late, 1));
}

// One line of JSON of what one kind of load has come to; false: there is no such kind.
bool run_client(const std::string& kind, const std::vector<int>& numbers) {
    const auto number = [&](std::size_t i) { return numbers.at(i); };
    if (kind == "schedule") {  // PORT CONNECTIONS SECONDS
        const auto connections = static_cast<std::size_t>(number(1));
        const Load load = schedule_for(Remote{number(0)}, connections, number(2));
        std::printf("{\"rate\":%.0f,\"p50_ms\":%.3f,\"p99_ms\":%.3f}\n", load.rate,
                    load.p50_us / 1e3, load.p99_us / 1e3);
    } else if (kind == "lateness") {  // PORT STREAM_PORT RATE SECONDS
        print_lateness(number(0), number(1), number(2), number(3));
    } else if (kind == "burst") {  // PORT STREAM_PORT COUNT
        const auto count = static_cast<std::size_t>(number(2));
        const Burst burst = burst_between(number(0), number(1), Remote{number(0)}, count);
        std::printf("{\"rate\":%.0f,\"lost\":%.0f,\"repeated\":%.0f,\"disordered\":%.0f}\n",
                    burst.rate, burst.lost, burst.repeated, burst.disordered);
    } else if (kind == "fill") {  // PORT COUNT
        const auto count = static_cast<std::size_t>(number(1));
        schedule_arrays(number(0), count, distant_midnight(), true);
    } else {
        return false;
    }
    return true;
}

// ---- All of them -----------------------------------------------------------

struct Measurement {
    const char* name;
    const char* about;
    void (*run)(Bench& bench);
};

const std::vector<Measurement> measurements{
    {"schedule", "requests a second and their latency, for each fsync policy", measure_schedule},
    {"tls", "requests a second with TLS and without", measure_tls},
    {"change", "changes and cancels beside schedules, 64 connections", measure_change},
    {"get", "a task, and a page of events, 64 connections", measure_get},
    {"slow", "a normal request beside thousands of slow clients", measure_slow},
    {"lateness", "from an event's due time to a subscriber, idle and under load", measure_lateness},
    {"burst", "many tasks at one instant, and whether each event comes once and in order",
     measure_burst},
    {"memory", "bytes of memory and of journal a pending task", measure_memory},
    {"restart", "from the start to the first answer with all tasks", measure_restart},
    {"fanout", "one event to many streams, and the memory of a stream", measure_fanout},
    {"catchup", "a live stream's lateness beside many that catch up", measure_catchup},
    {"cpu", "processor time a schedule and an emission", measure_cpu},
    {"idle", "system calls and memory with one task an hour ahead", measure_idle},
    {"growth", "the cost of each operation, with few and with many tasks", measure_growth},
    {"webhook", "deliveries to a webhook, one after the other", measure_webhook},
};

int usage() {
    std::fprintf(stderr, "usage: bench SERVER [--short] [--json FILE] [NAME...]\n");
    for (const Measurement& m : measurements) std::fprintf(stderr, "  %-10s%s\n", m.name, m.about);
    return 2;
}

std::string processor() {
    std::ifstream file("/proc/cpuinfo");
    for (std::string line; std::getline(file, line);) {
        if (line.rfind("model name", 0) == 0) return line.substr(line.find(':') + 2);
    }
    return "unknown processor";
}

void describe_machine(Bench& bench) {
    utsname system{};
    uname(&system);
    bench.report.note(std::to_string(std::thread::hardware_concurrency()) + " x " + processor() +
                      ", Linux " + system.release + ", g++ " __VERSION__ +
                      ", cpp-httplib " CPPHTTPLIB_VERSION);
    struct statfs disk {};
    constexpr auto tmpfs = 0x01021994;
    if (statfs(bench.directory.c_str(), &disk) == 0 && disk.f_type == tmpfs) {
        bench.report.note("the journals are in memory, where a sync costs nothing: set TMPDIR");
    }
    if (bench.brief) bench.report.note("the short form: its figures are worth nothing");
}

// Ends the program, without its directory, when it is told to or a measurement takes too
// long.  Its children end with it.
void watch_signals(const sigset_t& signals, const fs::path& directory) {
    std::thread([signals, directory] {
        int signal = 0;
        sigwait(&signals, &signal);
        std::fprintf(stderr, "bench: ended by %s\n", strsignal(signal));
        std::error_code ignored;
        fs::remove_all(directory, ignored);
        _exit(1);
    }).detach();
}

int run(Bench& bench, const std::set<std::string>& names) {
    int passed = 0;
    int failed = 0;
    for (const Measurement& measurement : measurements) {
        if (!names.empty() && names.count(measurement.name) == 0) continue;
        alarm(bench.pick(1'200U, 120U));
        bench.report.measurement(measurement.name);
        try {
            measurement.run(bench);
            ++passed;
        } catch (const std::exception& error) {
            bench.report.note(std::string("failed: ") + error.what());
            ++failed;
        }
    }
    std::printf("\n%d passed, %d failed\n", passed, failed);
    return failed == 0 ? 0 : 1;
}

// Whether the command line could be understood.
bool read_arguments(int argc, char** argv, Bench& bench, std::set<std::string>& names) {
    if (argc < 2) return false;
    bench.binary = fs::absolute(argv[1]);
    if (access(argv[1], X_OK) != 0) throw std::runtime_error("cannot run " + bench.binary);
    for (int i = 2; i < argc; ++i) {
        const std::string word = argv[i];
        const auto named = [&](const Measurement& m) { return m.name == word; };
        if (word == "--short") {
            bench.brief = true;
        } else if (word == "--json" && i + 1 < argc) {
            bench.report.open_json(argv[++i]);
        } else if (std::any_of(measurements.begin(), measurements.end(), named)) {
            names.insert(word);
        } else {
            return false;
        }
    }
    return true;
}

}  // namespace

int main(int argc, char** argv) try {
    std::signal(SIGPIPE, SIG_IGN);
    if (argc == 4 && std::string(argv[1]) == "--reference") {
        return run_reference(argv[2], std::strtoul(argv[3], nullptr, 10));
    }
    if (argc > 3 && std::string(argv[1]) == "--client") {
        std::vector<int> numbers;
        for (int i = 3; i < argc; ++i) numbers.push_back(std::atoi(argv[i]));
        return run_client(argv[2], numbers) ? 0 : usage();
    }
    Bench bench;
    std::set<std::string> names;
    if (!read_arguments(argc, argv, bench, names)) return usage();
    sigset_t signals;
    sigemptyset(&signals);
    for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGALRM}) sigaddset(&signals, signal);
    pthread_sigmask(SIG_BLOCK, &signals, nullptr);
    const TempDir directory(fs::temp_directory_path());
    bench.directory = directory.path();
    watch_signals(signals, bench.directory);
    describe_machine(bench);
    return run(bench, names);
} catch (const std::exception& error) {
    std::fprintf(stderr, "bench: %s\n", error.what());
    return 1;
}
