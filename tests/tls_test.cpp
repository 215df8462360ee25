// SPDX-License-Identifier: MIT
#include "shared_journal.hpp"
#include "support.hpp"

#ifdef CPPHTTPLIB_OPENSSL_SUPPORT
#include <openssl/ec.h>
#include <openssl/x509v3.h>
#endif

namespace tls_test {

using namespace scheduler;
using support::errc_of;
using support::eventually;
using support::TempDir;

#ifdef CPPHTTPLIB_OPENSSL_SUPPORT

namespace {

using detail::TlsPointer;

// While it lives, this thread gets no SIGPIPE, which OpenSSL's own sockets raise.
class NoBrokenPipe {
public:
    NoBrokenPipe() {
        sigset_t pending;
        sigemptyset(&pipe_);
        sigaddset(&pipe_, SIGPIPE);
        ::sigpending(&pending);
        was_pending_ = sigismember(&pending, SIGPIPE) == 1;
        ::pthread_sigmask(SIG_BLOCK, &pipe_, &before_);
    }
    ~NoBrokenPipe() {
        const timespec at_once{};
        if (!was_pending_) ::sigtimedwait(&pipe_, nullptr, &at_once);
        ::pthread_sigmask(SIG_SETMASK, &before_, nullptr);
    }
    NoBrokenPipe(const NoBrokenPipe&) = delete;
    NoBrokenPipe& operator=(const NoBrokenPipe&) = delete;

private:
    sigset_t pipe_;
    sigset_t before_;
    bool was_pending_ = false;
};

TlsPointer<EVP_PKEY> make_key() {
    EVP_PKEY* key = nullptr;
    EVP_PKEY_CTX* const maker = ::EVP_PKEY_CTX_new_id(EVP_PKEY_EC, nullptr);
    REQUIRE(::EVP_PKEY_keygen_init(maker) == 1);
    ::EVP_PKEY_CTX_set_ec_paramgen_curve_nid(maker, NID_X9_62_prime256v1);
    REQUIRE(::EVP_PKEY_keygen(maker, &key) == 1);
    ::EVP_PKEY_CTX_free(maker);
    return TlsPointer<EVP_PKEY>(key);
}

// A certificate and its key, as the text of files.
struct Identity {
    // For a host, from and until so many seconds from now; signed by another, or by itself.
    explicit Identity(const std::string& host, long from = -3'600, long until = 86'400,
                      const Identity* authority = nullptr)
        : key(make_key()), certificate(::X509_new()) {
        X509* const made = certificate.get();
        ::X509_set_version(made, 2);
        ::ASN1_INTEGER_set(::X509_get_serialNumber(made), authority ? 2 : 1);
        ::X509_gmtime_adj(::X509_getm_notBefore(made), from);
        ::X509_gmtime_adj(::X509_getm_notAfter(made), until);
        ::X509_set_pubkey(made, key.get());
        X509_NAME* const name = ::X509_get_subject_name(made);
        ::X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC,
                                     reinterpret_cast<const unsigned char*>(host.c_str()), -1, -1,
                                     0);
        ::X509_set_issuer_name(
            made, authority ? ::X509_get_subject_name(authority->certificate.get()) : name);
        add(NID_subject_alt_name, (host[0] == '1' ? "IP:" : "DNS:") + host);
        if (!authority) add(NID_basic_constraints, "CA:TRUE");
        REQUIRE(::X509_sign(made, authority ? authority->key.get() : key.get(), ::EVP_sha256()) >
                0);
    }
    std::string certificate_text() const {
        return text_of([this](BIO* bio) { ::PEM_write_bio_X509(bio, certificate.get()); });
    }
    std::string key_text(const char* passphrase = nullptr) const {
        return text_of([&](BIO* bio) {
            ::PEM_write_bio_PKCS8PrivateKey(bio, key.get(),
                                            passphrase ? ::EVP_aes_256_cbc() : nullptr, nullptr, 0,
                                            nullptr, const_cast<char*>(passphrase));
        });
    }

    TlsPointer<EVP_PKEY> key;
    TlsPointer<X509> certificate;

private:
    void add(int extension, const std::string& value) {
        X509_EXTENSION* const made =
            ::X509V3_EXT_conf_nid(nullptr, nullptr, extension, value.c_str());
        ::X509_add_ext(certificate.get(), made, -1);
        ::X509_EXTENSION_free(made);
    }
    template <class Write>
    static std::string text_of(Write write) {
        const TlsPointer<BIO> bio(::BIO_new(::BIO_s_mem()));
        write(bio.get());
        char* text = nullptr;
        const long size = BIO_get_mem_data(bio.get(), &text);
        return {text, static_cast<std::size_t>(size)};
    }
};

const Identity& ours() {
    static const Identity identity("127.0.0.1");
    return identity;
}

// A server with TLS, and the files that it reads.
struct Service {
    explicit Service(HttpOptions http = {}, const Identity& identity = ours()) {
        write(identity);
        http.tls_certificate = dir.path("cert.pem");
        http.tls_key = dir.path("key.pem");
        Options options;
        options.log_level = LogLevel::debug;
        options.log = [this](const LogRecord& record) {
            const std::lock_guard<std::mutex> guard(mutex);
            if (record.level >= LogLevel::warning) log += record.text + '\n';
            if (record.event == "connection.refused") refusals += record.text + '\n';
        };
        tasks.emplace(options);
        server.emplace(*tasks, http);
        port = server->listen("127.0.0.1", 0);
    }
    void write(const Identity& identity) {
        dir.write("cert.pem", identity.certificate_text());
        dir.write("key.pem", identity.key_text());
    }
    std::string logged() {
        const std::lock_guard<std::mutex> guard(mutex);
        return log;
    }
    // Whether the log has told of a refused connection in these words.
    bool refused(const std::string& words) {
        return eventually([&] {
            const std::lock_guard<std::mutex> guard(mutex);
            return refusals.find(words) != std::string::npos;
        });
    }
    ClientOptions options() const {
        ClientOptions made;
        made.url = "https://127.0.0.1:" + std::to_string(port);
        made.ca_file = dir.path("cert.pem");
        return made;
    }
    Client client() const { return Client(options()); }
    // What the server counts; over a connection of its own.
    int metric(const std::string& name) const;

    TempDir dir;
    std::mutex mutex;
    std::string log;       // guarded by mutex
    std::string refusals;  // guarded by mutex
    std::optional<Scheduler> tasks;
    std::optional<HttpServer> server;
    int port = 0;
};

detail::Descriptor connected(int port, int buffer = 0) {
    detail::Descriptor fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (buffer > 0) ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVBUF, &buffer, sizeof buffer);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<std::uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const timeval ten_seconds{10, 0};
    ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &ten_seconds, sizeof ten_seconds);
    REQUIRE(::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
    return detail::Descriptor(fd.release());
}

// A client that says exactly what it is told to, in TLS of up to a version.
class Wire {
public:
    explicit Wire(int port, int version = TLS1_3_VERSION, int buffer = 0,
                  const Identity* identity = nullptr, const char* protocol = "\x08http/1.1")
        : fd_(connected(port, buffer)), context_(::SSL_CTX_new(::TLS_client_method())) {
        const NoBrokenPipe quiet;
        ::SSL_CTX_set_security_level(context_.get(), 0);
        ::SSL_CTX_set_max_proto_version(context_.get(), version);
        ::SSL_CTX_set_min_proto_version(context_.get(), 0);
        if (identity) {
            ::SSL_CTX_use_certificate(context_.get(), identity->certificate.get());
            ::SSL_CTX_use_PrivateKey(context_.get(), identity->key.get());
        }
        session_.reset(::SSL_new(context_.get()));
        ::SSL_set_alpn_protos(session_.get(), reinterpret_cast<const unsigned char*>(protocol),
                              static_cast<unsigned>(std::strlen(protocol)));
        ::SSL_set_fd(session_.get(), fd_.get());
        shook_ = ::SSL_connect(session_.get()) == 1;
        ::ERR_clear_error();
    }
    // Whether hands were shaken.
    bool shook() const { return shook_; }
    std::string version() const { return ::SSL_get_version(session_.get()); }
    std::string protocol() const {
        const unsigned char* name = nullptr;
        unsigned size = 0;
        ::SSL_get0_alpn_selected(session_.get(), &name, &size);
        return {reinterpret_cast<const char*>(name), size};
    }
    SSL* session() { return session_.get(); }
    int fd() const { return fd_.get(); }
    const X509* peer() const { return ::SSL_get0_peer_certificate(session_.get()); }
    Wire& say(std::string_view text) {
        const NoBrokenPipe quiet;
        ::SSL_write(session_.get(), text.data(), static_cast<int>(text.size()));
        return *this;
    }
    // What comes until it holds `mark`; or to the end, if that is earlier.
    std::string hear(const std::string& mark) {
        std::size_t at;
        std::size_t from = 0;
        while ((at = heard_.find(mark, from)) == std::string::npos) {
            char buffer[16'384];
            from = heard_.size() - std::min(heard_.size(), mark.size());
            const NoBrokenPipe quiet;
            const int n = ::SSL_read(session_.get(), buffer, sizeof buffer);
            if (n <= 0) break;
            heard_.append(buffer, static_cast<std::size_t>(n));
        }
        ::ERR_clear_error();
        const std::size_t end = at == std::string::npos ? heard_.size() : at + mark.size();
        std::string text = heard_.substr(0, end);
        heard_.erase(0, end);
        return text;
    }
    std::string hear_all() { return hear(std::string("\0nothing\0", 9)); }
    // Whether the server has said that nothing more follows.
    bool is_ended_well() const {
        return (::SSL_get_shutdown(session_.get()) & SSL_RECEIVED_SHUTDOWN) != 0;
    }

private:
    const detail::Descriptor fd_;
    TlsPointer<SSL_CTX> context_;
    TlsPointer<SSL> session_;
    bool shook_ = false;
    std::string heard_;
};

std::string get(const std::string& target) {
    return "GET " + target + " HTTP/1.1\r\nHost: localhost\r\n\r\n";
}

std::string get_and_end(const std::string& target) {
    return "GET " + target + " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
}

// All that comes over a connection without TLS.
std::string raw(int port, std::string_view text) {
    const detail::Descriptor fd = connected(port);
    ::send(fd.get(), text.data(), text.size(), MSG_NOSIGNAL);
    std::string heard;
    char buffer[4'096];
    for (ssize_t n; (n = ::recv(fd.get(), buffer, sizeof buffer, 0)) > 0;) {
        heard.append(buffer, static_cast<std::size_t>(n));
    }
    return heard;
}

int Service::metric(const std::string& name) const {
    const std::string text = Wire(port).say(get_and_end("/metrics")).hear_all();
    const std::size_t at = text.find('\n' + name + ' ');
    return at == std::string::npos ? -1 : std::atoi(text.c_str() + at + name.size() + 2);
}

std::string refused_for(const std::string& reason) {
    return "task_scheduler_requests_refused_total{reason=\"" + reason + "\"}";
}

const std::string failed_handshakes = refused_for("handshake");

std::string problem_of(const HttpOptions& options) {
    try {
        options.check();
    } catch (const Error& error) {
        CHECK(error.code() == Errc::invalid_argument);
        return error.what();
    }
    return "";
}

// Why a client cannot ask; nothing: it can.
std::string said(const ClientOptions& options) {
    try {
        Client(options).tasks();
    } catch (const Error& error) {
        return error.what();
    }
    return "";
}

}  // namespace

TEST_SUITE("tls") {
    TEST_CASE("tasks are scheduled and events followed over TLS") {
        Service service;
        const Client client = service.client();
        std::mutex mutex;
        std::vector<std::string> seen;
        const auto subscription = client.subscribe(
            [&](TaskId, std::string_view payload) {
                const std::lock_guard<std::mutex> guard(mutex);
                seen.emplace_back(payload);
            },
            "earliest");
        const TaskId id = client.schedule(milliseconds(0), R"({"n":1.10})");
        CHECK(eventually([&] {
            const std::lock_guard<std::mutex> guard(mutex);
            return seen.size() == 1 && seen[0].find("1.10") != std::string::npos;
        }));
        CHECK(client.find(id)->status == Status::emitted);
    }

    TEST_CASE("a client says what is wrong with a certificate, and what to do") {
        Service service;
        ClientOptions options = service.options();
        CHECK(said(options).empty());
        options.ca_file.clear();
        CHECK(said(options).find("is of no authority that is known here") != std::string::npos);
        CHECK(said(options).find("--ca-file") != std::string::npos);
        Service other({}, Identity("127.0.0.2"));
        CHECK(said(other.options()).find("is for another host") != std::string::npos);
        options = service.options();
        options.ca_file = service.dir.path("missing.pem");
        CHECK(said(options).find("missing.pem") != std::string::npos);
        Service expired({}, Identity("127.0.0.1", -7'200, -3'600));
        CHECK(said(expired.options()).find("certificate has expired") != std::string::npos);
        Service early({}, Identity("127.0.0.1", 3'600, 7'200));
        CHECK(said(early.options()).find("is not good yet") != std::string::npos);
    }

    TEST_CASE("a client with http is told of https, and one with https of http") {
        Service service;
        ClientOptions options = service.options();
        options.url.erase(4, 1);
        CHECK(said(options).find("https://") != std::string::npos);
        Scheduler tasks;
        HttpServer plain(tasks);
        options.url = "https://127.0.0.1:" + std::to_string(plain.listen("127.0.0.1", 0));
        CHECK(said(options).find("begin its URL with http://") != std::string::npos);
    }

    TEST_CASE("a client is told whether a certificate of its own is wanted, or which is not good") {
        const Identity authority("authority");
        const Identity stranger("stranger");
        const Identity late("late", -7'200, -3'600, &authority);
        TempDir dir;
        HttpOptions http;
        http.tls_client_ca = dir.write("ca.pem", authority.certificate_text());
        Service service(http);
        ClientOptions options = service.options();
        CHECK(said(options).find("asks for a certificate") != std::string::npos);
        CHECK(said(options).find("--client-cert") != std::string::npos);
        CHECK(service.refused("peer did not return a certificate"));
        options.certificate = dir.write("own.pem", stranger.certificate_text());
        options.key = dir.write("own.key", stranger.key_text());
        CHECK(said(options).find("does not accept the certificate (unknown CA); it is that of " +
                                 options.certificate) != std::string::npos);
        CHECK(service.refused("the client's certificate is of no authority"));
        dir.write("own.pem", late.certificate_text());
        CHECK(said(options).find("own.key is not the key of") != std::string::npos);
        dir.write("own.key", late.key_text());
        CHECK(said(options).find("(certificate expired)") != std::string::npos);
        CHECK(service.refused("the client's certificate has expired"));
    }

    TEST_CASE("TLS 1.3 and 1.2 are spoken, nothing older, and HTTP/1.1 in them") {
        Service service;
        const Wire newest(service.port);
        CHECK(newest.version() == "TLSv1.3");
        CHECK(newest.protocol() == "http/1.1");
        Wire older(service.port, TLS1_2_VERSION);
        CHECK(older.version() == "TLSv1.2");
        CHECK(older.protocol() == "http/1.1");
        CHECK(older.say(get("/healthz")).hear("}").find("200 OK") != std::string::npos);
        CHECK_FALSE(Wire(service.port, TLS1_1_VERSION).shook());
        CHECK_FALSE(Wire(service.port, TLS1_3_VERSION, 0, nullptr, "\x02h2").shook());
        CHECK(eventually([&] { return service.metric(failed_handshakes) == 2; }));
        CHECK(service.refused("127.0.0.1:"));
        CHECK(service.refused("handshake: unsupported protocol"));
        CHECK(service.refused("handshake: no application protocol"));
    }

    TEST_CASE("connections are kept, requests may come together, and the end is told") {
        Service service;
        Wire wire(service.port);
        wire.say(get("/healthz") + get("/tasks") + get("/healthz"));
        for (int i = 0; i < 3; ++i) CHECK(wire.hear("200 OK").size() > 5);
        wire.say(get_and_end("/tasks"));
        CHECK(wire.hear_all().find("\"total_count\":0") != std::string::npos);
        CHECK(wire.is_ended_well());
    }

    TEST_CASE("large bodies and answers pass whole, to a client that is slow to read too") {
        Service service;
        const std::string message(900'000, 'x');
        const std::string body = R"({"delay":3600,"message":")" + message + "\"}";
        Wire wire(service.port, TLS1_3_VERSION, 4'096);
        const std::string head = "POST /schedule HTTP/1.1\r\nHost: localhost\r\nContent-Length: " +
                                 std::to_string(body.size()) + "\r\n\r\n";
        for (int i = 0; i < 4; ++i) {
            wire.say(head);
            wire.say(body);
            CHECK(wire.hear("\"}").find("200 OK") != std::string::npos);
        }
        wire.say(get("/tasks") + get("/healthz"));
        const std::string answer = wire.hear("\"ok\"}");
        std::size_t count = 0;
        for (std::size_t at = 0; (at = answer.find(message, at)) != answer.npos; ++count) {
            at += message.size();
        }
        CHECK(count == 4);
    }

    TEST_CASE("a stream whose client stops reading for a while misses no byte") {
        Service service;
        Wire slow(service.port, TLS1_3_VERSION, 4'096);
        slow.say(get("/sse?last_event_id=earliest"));
        slow.hear("cursor");
        std::vector<TaskId> ids;
        for (int i = 0; i < 200; ++i) {
            const std::string message = '"' + std::string(20'000, 'a') + std::to_string(i) + '"';
            ids.push_back(service.tasks->schedule(milliseconds(0), message));
        }
        CHECK(eventually([&] { return service.tasks->newest().seq() == ids.size(); }));
        for (std::size_t i = 0; i < ids.size(); ++i) {
            const std::string event = slow.hear("\"}\n\n");
            CAPTURE(i);
            REQUIRE(event.find("id: " + ids[i].str()) != std::string::npos);
            REQUIRE(event.size() > 20'000);
            REQUIRE(event.find('a' + std::to_string(i) + "\"}\n") != std::string::npos);
        }
        service.server->stop();
        slow.hear_all();
        CHECK(slow.is_ended_well());
    }

    TEST_CASE("a client may change its keys, and may not renegotiate") {
        Service service;
        Wire wire(service.port);
        for (int i = 0; i < 3; ++i) {
            ::SSL_key_update(wire.session(), SSL_KEY_UPDATE_REQUESTED);
            CHECK(wire.say(get("/healthz")).hear("}").find("200 OK") != std::string::npos);
        }
        Wire older(service.port, TLS1_2_VERSION);
        older.say(get("/healthz")).hear("}");
        const NoBrokenPipe quiet;
        ::SSL_renegotiate(older.session());
        CHECK(::SSL_do_handshake(older.session()) != 1);
        ::ERR_clear_error();
        CHECK(service.client().tasks().total == 0);
    }

    TEST_CASE("who speaks without TLS is told so") {
        Service service;
        for (const char* method : {"GET", "POST", "DELETE", "PATCH"}) {
            CAPTURE(method);
            const std::string said =
                raw(service.port, method + std::string(" / HTTP/1.1\r\nHost: a\r\n\r\n"));
            CHECK(said.find("HTTP/1.1 400 ") == 0);
            CHECK(said.find("https://") != std::string::npos);
        }
        CHECK(eventually([&] { return service.metric(refused_for("plain_on_tls_port")) == 4; }));
        CHECK(service.refused("plain_on_tls_port"));
    }

    TEST_CASE("who speaks TLS where there is none is told so at once") {
        Scheduler tasks;
        HttpServer plain(tasks);
        const int port = plain.listen("127.0.0.1", 0);
        const auto start = std::chrono::steady_clock::now();
        const std::string said = raw(port, std::string("\x16\x03\x01\x02\x00\x01", 6));
        CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(15));
        CHECK(said.find("HTTP/1.1 400 ") == 0);
        CHECK(said.find("http://") != std::string::npos);
        CHECK(raw(port, get_and_end("/metrics")).find(refused_for("tls_on_plain_port") + " 1\n") !=
              std::string::npos);
    }

    TEST_CASE("handshakes that fail, or do not go on, end by themselves and are counted") {
        HttpOptions http;
        http.request_timeout = milliseconds(200);
        Service service(http);
        CHECK(raw(service.port, std::string(500, '\0')).size() < 100);
        CHECK(raw(service.port, "\x16\x03\x01\x02").empty());  // half a ClientHello
        CHECK(raw(service.port, "").empty());
        // On a busy machine one that is in order may not be quick enough either.
        int asked = 0;
        int failed = -1;
        CHECK(eventually([&] {
            ++asked;
            failed = service.metric(failed_handshakes);
            return failed >= 3;
        }));
        CHECK(failed < 3 + asked);
        CHECK(eventually([&] { return said(service.options()).empty(); }));
    }

    TEST_CASE("over the limit of connections a client is turned away, and it is counted") {
        HttpOptions http;
        http.max_connections = 2;
        Service service(http);
        {
            Wire one(service.port);
            Wire two(service.port);
            CHECK_FALSE(Wire(service.port).shook());
            CHECK(one.say(get("/healthz")).hear("}").find("200 OK") != std::string::npos);
            CHECK(two.say(get("/healthz")).hear("}").find("200 OK") != std::string::npos);
        }
        CHECK(eventually([&] { return Wire(service.port).shook(); }));
    }

    TEST_CASE("only clients with a certificate of the authority are let in, if there is one") {
        const Identity authority("authority");
        const Identity guest("guest", -3'600, 86'400, &authority);
        const Identity stranger("stranger");
        TempDir dir;
        HttpOptions http;
        http.tls_client_ca = dir.write("ca.pem", authority.certificate_text());
        Service service(http);
        for (const int version : {TLS1_2_VERSION, TLS1_3_VERSION}) {
            CAPTURE(version);
            const auto answer = [&](const Identity* identity) {
                return Wire(service.port, version, 0, identity)
                    .say(get_and_end("/healthz"))
                    .hear_all();
            };
            CHECK(answer(&guest).find("200 OK") != std::string::npos);
            CHECK(answer(&stranger).empty());
            CHECK(answer(nullptr).empty());
        }
        ClientOptions options = service.options();
        CHECK(errc_of([&] { Client(options).tasks(); }) == Errc::unreachable);
        options.certificate = dir.write("guest.pem", guest.certificate_text());
        CHECK(errc_of([&] { Client client(options); }) == Errc::invalid_argument);
        options.key = dir.write("guest.key", guest.key_text());
        CHECK(Client(options).tasks().total == 0);
    }

    TEST_CASE("files that cannot be used are refused in a sentence that names them") {
        const Identity other("other");
        TempDir dir;
        HttpOptions good;
        good.tls_certificate = dir.write("cert.pem", ours().certificate_text());
        good.tls_key = dir.write("key.pem", ours().key_text());
        CHECK(problem_of(good).empty());
        const std::string whole = ours().certificate_text();
        const std::string bad = dir.write("bad.pem", "");
        const auto refused = [&](std::string HttpOptions::*which, const std::string& text) {
            dir.write("bad.pem", text);
            HttpOptions options = good;
            options.*which = bad;
            const std::string problem = problem_of(options);
            CHECK(problem.find(bad) != std::string::npos);
            return problem;
        };
        for (auto which : {&HttpOptions::tls_certificate, &HttpOptions::tls_client_ca}) {
            CHECK(refused(which, "").find("empty") != std::string::npos);
            CHECK(refused(which, "hello").find("no certificate") != std::string::npos);
            CHECK(refused(which, ours().key_text()).find("no certificate") != std::string::npos);
            CHECK(refused(which, whole.substr(0, 300)) != "");
            CHECK(refused(which, whole + whole.substr(0, 300)) != "");
        }
        CHECK(refused(&HttpOptions::tls_key, "").find("empty") != std::string::npos);
        CHECK(refused(&HttpOptions::tls_key, whole).find("no private key") != std::string::npos);
        CHECK(refused(&HttpOptions::tls_key, ours().key_text("secret")).find("passphrase") !=
              std::string::npos);
        CHECK(refused(&HttpOptions::tls_key, other.key_text()).find("not the key") !=
              std::string::npos);
        HttpOptions options = good;
        options.tls_key = dir.path("missing.pem");
        CHECK(problem_of(options).find("missing.pem") != std::string::npos);
        options.tls_key.clear();
        CHECK(problem_of(options).find("--tls-key") != std::string::npos);
        options = {};
        options.tls_client_ca = good.tls_certificate;
        CHECK(problem_of(options).find("--tls-cert") != std::string::npos);
    }

    TEST_CASE("a certificate that is not good now is served, and told in the log") {
        Service expired({}, Identity("127.0.0.1", -7'200, -3'600));
        CHECK(
            eventually([&] { return expired.logged().find("has expired") != std::string::npos; }));
        CHECK(Wire(expired.port).shook());
        expired.write(Identity("127.0.0.1", 3'600, 7'200));
        expired.server->reload_tls();
        CHECK(eventually(
            [&] { return expired.logged().find("is good only from") != std::string::npos; }));
        Service good;
        CHECK(good.logged().empty());
        const auto left = static_cast<std::int64_t>(good.metric(
                              "task_scheduler_tls_certificate_expiry_timestamp_seconds")) -
                          wall_clock().time_since_epoch().count() / 1'000;
        CHECK(left > 80'000);
        CHECK(left <= 86'400);
    }

    TEST_CASE("files that are read again count for new connections, and bad ones change nothing") {
        Service service;
        Wire open(service.port);
        const Identity next("127.0.0.1");
        service.write(next);
        service.server->reload_tls();
        CHECK(::X509_cmp(Wire(service.port).peer(), next.certificate.get()) == 0);
        service.dir.write("cert.pem", ours().certificate_text());  // the key is the next one's
        CHECK(errc_of([&] { service.server->reload_tls(); }) == Errc::invalid_argument);
        service.dir.write("cert.pem", "");
        CHECK(errc_of([&] { service.server->reload_tls(); }) == Errc::invalid_argument);
        CHECK(::X509_cmp(Wire(service.port).peer(), next.certificate.get()) == 0);
        CHECK(service.metric("task_scheduler_tls_reload_failures_total") == 2);
        CHECK(open.say(get("/healthz")).hear("}").find("200 OK") != std::string::npos);
    }

    TEST_CASE("a socket in the file system speaks without TLS") {
        Service service;
        TempDir dir;
        Scheduler tasks;
        HttpOptions http;
        http.tls_certificate = service.dir.path("cert.pem");
        http.tls_key = service.dir.path("key.pem");
        HttpServer server(tasks, http);
        std::vector<HttpListener> listeners;
        listeners.emplace_back("unix:" + dir.path("socket"));
        server.listen(std::move(listeners));
        const detail::Descriptor fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
        sockaddr_un at{};
        at.sun_family = AF_UNIX;
        std::strcpy(at.sun_path, dir.path("socket").c_str());
        REQUIRE(::connect(fd.get(), reinterpret_cast<sockaddr*>(&at), sizeof at) == 0);
        const std::string request = get("/healthz");
        ::send(fd.get(), request.data(), request.size(), MSG_NOSIGNAL);
        char buffer[12] = {};
        CHECK(::recv(fd.get(), buffer, 8, MSG_WAITALL) == 8);
        CHECK(std::string(buffer) == "HTTP/1.1");
    }

    TEST_CASE("a node passes changes on by https, and says what is wrong with the owner's TLS") {
        const Identity foreign("127.0.0.1");
        TempDir dir;
        HttpOptions http;
        http.tls_certificate = dir.write("cert.pem", ours().certificate_text());
        http.tls_key = dir.write("key.pem", ours().key_text());
        http.tls_owner_ca = http.tls_client_ca = http.tls_certificate;
        const auto log = std::make_shared<support::SharedLog>();
        const auto open = [&](const std::string& name, int port) {
            Options options;
            options.make_journal = [=] {
                return log->open(name, support::Telling::thread,
                                 "https://127.0.0.1:" + std::to_string(port));
            };
            return std::make_unique<Scheduler>(options);
        };
        HttpListener at("127.0.0.1", 0);
        const auto owner = open("a", at.port());
        HttpServer owner_server(*owner, http);
        owner_server.listen(std::move(at));
        const auto follower = open("b", 0);
        const std::string body = R"({"delay":9,"message":"x"})";
        const std::string request =
            "POST /schedule HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: " +
            std::to_string(body.size()) + "\r\n\r\n" + body;
        const auto answer_with = [&](const HttpOptions& options, int times = 1) {
            HttpServer server(*follower, options);
            const int port = server.listen("127.0.0.1", 0);
            std::string answer;
            for (int i = 0; i < times; ++i)
                answer = Wire(port, TLS1_3_VERSION, 0, &ours()).say(request).hear_all();
            return answer;
        };
        CHECK(answer_with(http, 50).find("200 OK") != std::string::npos);
        CHECK(follower->stats().pending == 50);
        http.tls_owner_ca = dir.write("foreign.pem", foreign.certificate_text());
        const std::string unknown = answer_with(http);
        CHECK(unknown.find("HTTP/1.1 503") == 0);
        CHECK(unknown.find("the server's certificate is of no authority that is known here") !=
              std::string::npos);
        http.tls_owner_ca = http.tls_client_ca;
        owner_server.stop();
        CHECK(answer_with(http).find("cannot be reached: Connection refused") != std::string::npos);
        http.tls_owner_ca = dir.path("missing");
        CHECK(problem_of(http).find("missing") != std::string::npos);
        CHECK(follower->stats().pending == 50);
    }

    TEST_CASE("routes on a foreign server leave TLS to that") {
        Service service;
        HttpOptions http;
        http.tls_certificate = service.dir.path("cert.pem");
        http.tls_key = service.dir.path("key.pem");
        HttpApi api(*service.tasks, http);
        httplib::Server foreign;
        CHECK(errc_of([&] { api.mount(foreign); }) == Errc::invalid_argument);
    }
}

#else

TEST_SUITE("tls") {
    TEST_CASE("TLS is refused where the build has no OpenSSL") {
        TempDir dir;
        HttpOptions http;
        http.tls_certificate = http.tls_key = dir.write("cert.pem", "x");
        CHECK(errc_of([&] { http.check(); }) == Errc::invalid_argument);
        ClientOptions options;
        options.url = "https://127.0.0.1:1";
        CHECK(errc_of([&] { Client client(options); }) == Errc::invalid_argument);
    }
}

#endif

}  // namespace tls_test
