// SPDX-License-Identifier: MIT
#include "support.hpp"

#ifdef CPPHTTPLIB_OPENSSL_SUPPORT
#include <openssl/ec.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#endif

namespace webhook_test {

using namespace scheduler;
using support::errc_of;
using support::eventually;
using support::TempDir;

namespace {

// A receiver on the loopback address: it notes each request, and sends what it is told
// to, piece by piece.  An empty answer is the end of the connection.
class Receiver {
public:
    using Pieces = std::vector<std::string>;

    explicit Receiver(Pieces pieces, milliseconds pause = milliseconds(0))
        : pieces_(std::move(pieces)),
          pause_(pause),
          listener_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        socklen_t size = sizeof address;
        auto* generic = reinterpret_cast<sockaddr*>(&address);
        REQUIRE(::bind(listener_.get(), generic, size) == 0);
        REQUIRE(::listen(listener_.get(), 16) == 0);
        ::getsockname(listener_.get(), generic, &size);
        port_ = ntohs(address.sin_port);
        thread_ = std::thread([this] { run(); });
    }
    ~Receiver() {
        stopping_ = true;
        ::shutdown(listener_.get(), SHUT_RDWR);
        if (connection_ >= 0) ::shutdown(connection_, SHUT_RDWR);
        thread_.join();
    }
    std::string url(const std::string& path = "/hook") const {
        return "http://127.0.0.1:" + std::to_string(port_) + path;
    }
    std::vector<std::string> requests() const {
        const std::lock_guard<std::mutex> guard(mutex_);
        return requests_;
    }
    int connections() const { return connections_; }

private:
    void run() {
        while (!stopping_) {
            const detail::Descriptor fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
            if (fd.get() < 0) continue;
            ++connections_;
            connection_ = fd.get();
            while (!stopping_ && answer(fd.get())) continue;
            connection_ = -1;
        }
    }
    bool answer(int fd) {
        std::string request;
        std::size_t size = std::string::npos;
        while (request.size() < size) {
            char buffer[65'536];
            const ssize_t n = ::recv(fd, buffer, sizeof buffer, 0);
            if (n <= 0) return false;
            request.append(buffer, static_cast<std::size_t>(n));
            const std::size_t head = request.find("\r\n\r\n");
            const std::size_t length = request.find("Content-Length: ");
            if (head != std::string::npos)
                size = head + 4 + std::stoul(request.substr(length + 16));
        }
        {
            const std::lock_guard<std::mutex> guard(mutex_);
            requests_.push_back(request);
        }
        for (const std::string& piece : pieces_) {
            if (piece.empty() || stopping_) return false;
            std::this_thread::sleep_for(pause_);
            if (::send(fd, piece.data(), piece.size(), MSG_NOSIGNAL) < 0) return false;
        }
        return true;
    }

    const Pieces pieces_;
    const milliseconds pause_;
    const detail::Descriptor listener_;
    int port_ = 0;
    std::atomic<bool> stopping_{false};
    std::atomic<int> connection_{-1};
    std::atomic<int> connections_{0};
    mutable std::mutex mutex_;
    std::vector<std::string> requests_;
    std::thread thread_;
};

Delivery delivery_of(std::string_view payload = R"({"message":"x"})") {
    Delivery delivery;
    delivery.event.id = TaskId::parse("01a20d6e-bbe5-75dd-a110-84e4e0715a01").value();
    delivery.event.payload =
        detail::PayloadAccess::make(detail::TaskRef::make(delivery.event.id, {}, payload));
    return delivery;
}

WebhookOptions options_for(const std::string& url, milliseconds timeout = milliseconds(5'000)) {
    WebhookOptions options;
    options.url = url;
    options.timeout = timeout;
    return options;
}

Outcome deliver(const Receiver& receiver, milliseconds timeout = milliseconds(5'000)) {
    return WebhookSink(options_for(receiver.url(), timeout)).deliver(delivery_of());
}

std::string with_status(const std::string& status, const std::string& fields = "") {
    return "HTTP/1.1 " + status + "\r\nContent-Length: 0\r\n" + fields + "\r\n";
}

std::string field(const std::string& request, const std::string& name) {
    const std::size_t at = request.find("\r\n" + name + ": ");
    if (at == std::string::npos) return "";
    const std::size_t start = at + name.size() + 4;
    return request.substr(start, request.find("\r\n", start) - start);
}

std::string body_of(const std::string& request) {
    return request.substr(request.find("\r\n\r\n") + 4);
}

// A resolver that hangs until it is released, and then knows every name.
class Resolver {
public:
    ~Resolver() {
        release();
        CHECK(eventually([this] { return running() == 0; }));
    }
    WebhookOptions options(const Receiver& receiver, milliseconds timeout) {
        WebhookOptions options = options_for(
            "http://receiver.test" + receiver.url().substr(std::strlen("http://127.0.0.1")),
            timeout);
        options.resolve = [state = state_](const char*, const char* port, const addrinfo* hints,
                                           addrinfo** found) {
            std::unique_lock<std::mutex> lock(state->mutex);
            ++state->calls;
            ++state->running;
            state->changed.notify_all();
            state->changed.wait(lock, [&state] { return state->released; });
            --state->running;
            return ::getaddrinfo("127.0.0.1", port, hints, found);
        };
        return options;
    }
    void release() {
        const std::lock_guard<std::mutex> guard(state_->mutex);
        state_->released = true;
        state_->changed.notify_all();
    }
    int calls() const { return read(state_->calls); }
    int running() const { return read(state_->running); }

private:
    struct State {
        std::mutex mutex;
        std::condition_variable changed;
        bool released = false;
        int calls = 0;
        int running = 0;
    };
    int read(const int& number) const {
        const std::lock_guard<std::mutex> guard(state_->mutex);
        return number;
    }
    const std::shared_ptr<State> state_ = std::make_shared<State>();
};

#ifdef CPPHTTPLIB_OPENSSL_SUPPORT
const char* const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

// A receiver with a certificate of its own, which, as long as this lives, is one that the
// system's authorities have signed.  It shakes hands, reads nothing, and is gone.
class VanishingTls {
public:
    VanishingTls() : listener_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
        make_certificate();
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        socklen_t size = sizeof address;
        auto* generic = reinterpret_cast<sockaddr*>(&address);
        REQUIRE(::bind(listener_.get(), generic, size) == 0);
        REQUIRE(::listen(listener_.get(), 16) == 0);
        ::getsockname(listener_.get(), generic, &size);
        port_ = ntohs(address.sin_port);
        thread_ = std::thread([this] { run(); });
    }
    ~VanishingTls() {
        ::shutdown(listener_.get(), SHUT_RDWR);
        thread_.join();
        ::unsetenv("SSL_CERT_FILE");
    }
    std::string url() const { return "https://127.0.0.1:" + std::to_string(port_) + "/"; }
    int handshakes() const { return handshakes_; }

private:
    struct Free {
        void operator()(EVP_PKEY* key) const { ::EVP_PKEY_free(key); }
        void operator()(EVP_PKEY_CTX* context) const { ::EVP_PKEY_CTX_free(context); }
        void operator()(X509* certificate) const { ::X509_free(certificate); }
        void operator()(SSL_CTX* context) const { ::SSL_CTX_free(context); }
        void operator()(SSL* session) const { ::SSL_free(session); }
    };
    void make_certificate() {
        const std::unique_ptr<EVP_PKEY_CTX, Free> maker(
            ::EVP_PKEY_CTX_new_id(EVP_PKEY_EC, nullptr));
        EVP_PKEY* key = nullptr;
        REQUIRE(::EVP_PKEY_keygen_init(maker.get()) == 1);
        ::EVP_PKEY_CTX_set_ec_paramgen_curve_nid(maker.get(), NID_X9_62_prime256v1);
        REQUIRE(::EVP_PKEY_keygen(maker.get(), &key) == 1);
        key_.reset(key);
        certificate_.reset(::X509_new());
        X509* const made = certificate_.get();
        ::X509_set_version(made, 2);
        ::ASN1_INTEGER_set(::X509_get_serialNumber(made), 1);
        ::X509_gmtime_adj(::X509_getm_notBefore(made), -3'600);
        ::X509_gmtime_adj(::X509_getm_notAfter(made), 86'400);
        ::X509_set_pubkey(made, key);
        X509_NAME* const name = ::X509_get_subject_name(made);
        ::X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC,
                                     reinterpret_cast<const unsigned char*>("receiver"), -1, -1, 0);
        ::X509_set_issuer_name(made, name);
        X509_EXTENSION* const address =
            ::X509V3_EXT_conf_nid(nullptr, nullptr, NID_subject_alt_name, "IP:127.0.0.1");
        ::X509_add_ext(made, address, -1);
        ::X509_EXTENSION_free(address);
        REQUIRE(::X509_sign(made, key, ::EVP_sha256()) > 0);
        const std::string path = dir_.write("certificate.pem", "");
        std::FILE* const file = std::fopen(path.c_str(), "w");
        REQUIRE(file);
        ::PEM_write_X509(file, made);
        std::fclose(file);
        ::setenv("SSL_CERT_FILE", path.c_str(), 1);
    }
    // What is half closed and then reset makes the next write of the other side a broken pipe.
    void run() {
        const std::unique_ptr<SSL_CTX, Free> context(::SSL_CTX_new(::TLS_server_method()));
        ::SSL_CTX_use_certificate(context.get(), certificate_.get());
        ::SSL_CTX_use_PrivateKey(context.get(), key_.get());
        for (;;) {
            const detail::Descriptor fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
            if (fd.get() < 0) return;
            const std::unique_ptr<SSL, Free> session(::SSL_new(context.get()));
            ::SSL_set_fd(session.get(), fd.get());
            if (::SSL_accept(session.get()) == 1) ++handshakes_;
            char first = 0;  // of the request, so that the rest is unread when this closes
            ::recv(fd.get(), &first, 1, 0);
            ::shutdown(fd.get(), SHUT_WR);
        }
    }

    const support::TempDir dir_;
    std::unique_ptr<EVP_PKEY, Free> key_;
    std::unique_ptr<X509, Free> certificate_;
    const detail::Descriptor listener_;
    int port_ = 0;
    std::atomic<int> handshakes_{0};
    std::thread thread_;
};
#endif

using Result = Outcome::Result;

}  // namespace

TEST_SUITE("webhooks") {
    TEST_CASE("the payload is posted as it is, with the id in front") {
        const Receiver receiver({with_status("204 No Content")});
        WebhookOptions options = options_for(receiver.url("/a%20b?q=c,d+e"));
        options.headers = {{"X-Team", "a b"}, {"Authorization", "Basic eDp5"}};
        WebhookSink sink(options);
        CHECK(sink.target() == receiver.url("/..."));
        REQUIRE(sink.deliver(delivery_of(R"({"message":"é"})")).error.empty());
        const std::string request = receiver.requests().at(0);
        CHECK(request.substr(0, request.find("\r\n")) == "POST /a%20b?q=c,d+e HTTP/1.1");
        CHECK(field(request, "Content-Type") == "application/json");
        CHECK(field(request, "webhook-id") == "01a20d6e-bbe5-75dd-a110-84e4e0715a01");
        CHECK(std::stoll(field(request, "webhook-timestamp")) > 1'700'000'000);
        CHECK(field(request, "webhook-signature").empty());
        CHECK(field(request, "X-Team") == "a b");
        CHECK(field(request, "Authorization") == "Basic eDp5");
        CHECK(request.substr(request.find("\r\n\r\n") + 4) == R"({"message":"é"})");
    }

    TEST_CASE("CloudEvents have their attributes in the head, and the same body") {
        const Receiver receiver({with_status("204 No Content")});
        WebhookOptions options = options_for(receiver.url());
        options.format = WebhookFormat::cloudevents;
        options.source = "https://tasks.example/a?b=%20";
        Delivery delivery = delivery_of(R"({"message":"é"})");
        delivery.event.due = parse_time("2026-08-21T04:29:00.951Z").value();
        REQUIRE(WebhookSink(options).deliver(delivery).error.empty());
        const std::string request = receiver.requests().at(0);
        CHECK(field(request, "ce-specversion") == "1.0");
        CHECK(field(request, "ce-id") == "01a20d6e-bbe5-75dd-a110-84e4e0715a01");
        CHECK(field(request, "ce-source") == "https://tasks.example/a?b=%20");
        CHECK(field(request, "ce-type") == "task-scheduler.task.emitted");
        CHECK(field(request, "ce-time") == "2026-08-21T04:29:00.951Z");
        CHECK(field(request, "Content-Type") == "application/json");
        CHECK(field(request, "webhook-id") == "01a20d6e-bbe5-75dd-a110-84e4e0715a01");
        CHECK(body_of(request) == R"({"message":"é"})");
        CHECK(body_of(request).size() == std::stoul(field(request, "Content-Length")));
    }

    TEST_CASE("a batch is an array in order, each event with its id and its payload as it is") {
        const Receiver receiver({with_status("204 No Content")});
        WebhookOptions options = options_for(receiver.url());
        options.batch = 10;
        Delivery delivery = delivery_of(R"({"id":1,"id":2,"message":"é\u00e9"})");
        const auto deliver = [&](WebhookFormat format) {
            options.format = format;
            REQUIRE(WebhookSink(options).deliver(delivery).error.empty());
            return receiver.requests().back();
        };
        std::string request = deliver(WebhookFormat::payload);
        CHECK(field(request, "webhook-id") == "01a20d6e-bbe5-75dd-a110-84e4e0715a01");
        CHECK(body_of(request) == '[' + to_json(delivery.event) + ']');

        delivery.more = {delivery_of(R"({"message":1e999})").event, delivery.event};
        delivery.more[1].id = TaskId(1, 2);
        request = deliver(WebhookFormat::payload);
        CHECK(field(request, "Content-Type") == "application/json");
        CHECK(field(request, "webhook-id") ==
              "01a20d6e-bbe5-75dd-a110-84e4e0715a01_00000000-0000-0001-0000-000000000002");
        CHECK(body_of(request) == '[' + to_json(delivery.event) + ',' + to_json(delivery.more[0]) +
                                      ',' + to_json(delivery.more[1]) + ']');
        CHECK(body_of(request).find(R"("payload":{"id":1,"id":2,"message":"é\u00e9"}})") !=
              std::string::npos);

        request = deliver(WebhookFormat::cloudevents);
        CHECK(field(request, "Content-Type") == "application/cloudevents-batch+json");
        CHECK(field(request, "ce-id").empty());
        CHECK(json_problem(body_of(request)).empty());
        CHECK(body_of(request).find(R"([{"specversion":"1.0","id":"01a20d6e-bbe5-75dd-a110-)"
                                    R"(84e4e0715a01","source":"task-scheduler",)") == 0);
        CHECK(body_of(request).find(R"("datacontenttype":"application/json","data":)"
                                    R"({"message":1e999}},{"specversion")") != std::string::npos);
    }

    TEST_CASE("the topic and the trace of a task go out with each attempt") {
        const Receiver receiver({with_status("204 No Content")});
        WebhookOptions options = options_for(receiver.url());
        detail::Details details;
        details.topic = "home/heating";
        details.traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        details.tracestate = "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE";
        Delivery delivery = delivery_of();
        delivery.event.payload = detail::PayloadAccess::make(
            detail::TaskRef::make(delivery.event.id, {}, R"({"message":"x"})", details));
        const auto deliver = [&](WebhookFormat format, std::size_t batch) {
            options.format = format;
            options.batch = batch;
            REQUIRE(WebhookSink(options).deliver(delivery).error.empty());
            return receiver.requests().back();
        };
        std::string request = deliver(WebhookFormat::payload, 0);
        CHECK(field(request, "traceparent") == details.traceparent);
        CHECK(field(request, "tracestate") == details.tracestate);
        CHECK(field(request, "ce-subject").empty());
        request = deliver(WebhookFormat::cloudevents, 0);
        CHECK(field(request, "ce-subject") == "home/heating");
        CHECK(field(request, "traceparent") == details.traceparent);
        request = deliver(WebhookFormat::cloudevents, 5);
        CHECK(field(request, "traceparent").empty());
        CHECK(body_of(request).find(R"("subject":"home/heating","traceparent":"00-0af7)") !=
              std::string::npos);
        request = deliver(WebhookFormat::payload, 5);
        CHECK(body_of(request).find(R"("traceparent":"00-0af7)") != std::string::npos);
        options.headers = {{"Traceparent", "x"}};
        CHECK(errc_of([&] { WebhookSink sink(options); }) == Errc::invalid_argument);
    }

    TEST_CASE("a format that cannot be sent is refused where it is given") {
        const auto is_good = [](const std::string& source, std::size_t batch,
                                const std::string& header) {
            WebhookOptions options = options_for("http://a/");
            options.format = WebhookFormat::cloudevents;
            options.source = source;
            options.batch = batch;
            options.headers = {{header, "x"}};
            return !errc_of([&] { WebhookSink sink(options); });
        };
        CHECK(is_good("/tasks", 1'000, "ce-region"));
        CHECK_FALSE(is_good("/tasks", 1'001, "X"));
        for (const char* source : {"", "a b", "a\r\nX: y", "<a>", "a\"b", "\xC3\xA9", "a\\b"}) {
            CAPTURE(source);
            CHECK_FALSE(is_good(source, 1, "X"));
        }
        for (const char* header :
             {"ce-id", "CE-Source", "ce-specversion", "ce-time", "ce-type", "ce-subject"}) {
            CAPTURE(header);
            CHECK_FALSE(is_good("a", 1, header));
        }
    }

#ifdef CPPHTTPLIB_OPENSSL_SUPPORT
    TEST_CASE("a signature is of the whole batch") {
        const Receiver receiver({with_status("200 OK")});
        WebhookOptions options = options_for(receiver.url());
        options.secrets = {secret};
        options.batch = 2;
        Delivery delivery = delivery_of();
        delivery.more = {delivery.event};
        REQUIRE(WebhookSink(options).deliver(delivery).error.empty());
        const std::string request = receiver.requests().at(0);
        CHECK(field(request, "webhook-signature") ==
              detail::webhook_signature(detail::webhook_key(secret),
                                        field(request, "webhook-id") + '.' +
                                            field(request, "webhook-timestamp") + '.' +
                                            body_of(request)));
    }

    TEST_CASE("signatures are those of the specification's example") {
        CHECK(detail::webhook_signature(detail::webhook_key(secret),
                                        "msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330."
                                        R"({"test": 2432232314})") ==
              "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        CHECK(detail::webhook_key("whsec_YQ==") == "a");
        CHECK(detail::webhook_key("whsec_YWI=") == "ab");
        for (const char* bad : {"", "whsec_", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_YQ",
                                "whsec_Y!==", "whsec_====", "whsec_    YWJj", "whsec_A=A="}) {
            CAPTURE(bad);
            CHECK(detail::webhook_key(bad).empty());
        }
    }

    TEST_CASE("each secret signs") {
        const Receiver receiver({with_status("200 OK")});
        WebhookOptions options = options_for(receiver.url());
        options.secrets = {secret, "whsec_YWI="};
        REQUIRE(WebhookSink(options).deliver(delivery_of()).error.empty());
        const std::string request = receiver.requests().at(0);
        const std::string signed_text = field(request, "webhook-id") + '.' +
                                        field(request, "webhook-timestamp") + R"(.{"message":"x"})";
        CHECK(field(request, "webhook-signature") ==
              detail::webhook_signature(detail::webhook_key(secret), signed_text) + ' ' +
                  detail::webhook_signature("ab", signed_text));
    }
#else
    TEST_CASE("without OpenSSL https and signatures are refused, not skipped") {
        CHECK(errc_of([] { WebhookSink(options_for("https://example.org/")); }) ==
              Errc::invalid_argument);
        WebhookOptions options = options_for("http://example.org/");
        options.secrets = {"whsec_YWI="};
        CHECK(errc_of([&] { WebhookSink sink(options); }) == Errc::invalid_argument);
    }
#endif

    TEST_CASE("success is 2xx, 410 disables, and everything else is a failure") {
        for (const char* status : {"200 OK", "201 Created", "202 Accepted", "299 Odd"}) {
            CHECK(deliver(Receiver({with_status(status)})).result == Result::delivered);
        }
        CHECK(deliver(Receiver({with_status("410 Gone")})).result == Result::disabled);
        for (const char* status : {"301 Moved", "302 Found", "307 Temporary", "400 Bad", "404 No",
                                   "429 Slow", "500 Oops", "503 Busy"}) {
            const std::string location = "Location: http://127.0.0.1:1/\r\n";
            const Outcome outcome = deliver(Receiver({with_status(status, location)}));
            CHECK(outcome.result == Result::failed);
            CHECK(outcome.error == "the receiver answers " + std::string(status).substr(0, 3));
            CHECK_FALSE(outcome.wait);
        }
    }

    TEST_CASE("an answer that is not whole is none, however it begins") {
        const char* const ended = "no whole answer: the receiver has ended the connection";
        CHECK(deliver(Receiver({""})).error == ended);
        CHECK(deliver(Receiver({"HTTP/1.1 200 OK\r\nContent-Le", ""})).error == ended);
        const Receiver cut({"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf", ""});
        CHECK(deliver(cut).error ==
              "no whole answer: the receiver answers 200, but not to the end");
        const Receiver cut_chunk(
            {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", ""});
        CHECK(deliver(cut_chunk).result == Result::failed);
        CHECK(deliver(Receiver({"220 mail.example.org ready\r\n", ""})).result == Result::failed);
        const WebhookOptions nobody = options_for("http://127.0.0.1:1/");
        CHECK(WebhookSink(nobody).deliver(delivery_of()).error ==
              "no whole answer: Connection refused");
    }

    TEST_CASE("what is no HTTP, or too much of it, is a failure and nothing worse") {
        const std::string endless(200'000, 'x');
        CHECK(deliver(Receiver({"HTTP/1.1 200 " + endless, ""})).error ==
              "no whole answer: it cannot be read: Its head is too large.");
        CHECK(deliver(Receiver({"HTTP/1.1 200 OK\r\nX: " + endless, ""})).error ==
              "no whole answer: it cannot be read: Its head is too large.");
        for (const char* bad : {"HTTP/2 200 OK\r\n\r\n", "HTTP/1.1 20 OK\r\n\r\n", "\r\n\r\n",
                                "HTTP/1.1  200\r\n\r\n", "HTTP/1.1 2000\r\n\r\n",
                                "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
                                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n"}) {
            CAPTURE(bad);
            CHECK(deliver(Receiver({bad, ""})).result == Result::failed);
        }
    }

    TEST_CASE("what comes before an answer is passed over, and every kind of body read") {
        const std::string ok = "HTTP/1.1 200 OK\r\n";
        for (const Receiver::Pieces& pieces :
             {Receiver::Pieces{"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n",
                               with_status("200 OK")},
              Receiver::Pieces{"HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 200\r\n\r\n", "x", ""},
              Receiver::Pieces{ok + "Transfer-Encoding: chunked\r\n\r\n", "3;a=b\r\nabc\r",
                               "\n0\r\n", "Trailer: x\r\n\r\n"},
              Receiver::Pieces{ok + "content-length: 5\n\nhe", "llo"},
              Receiver::Pieces{"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n"},
              Receiver::Pieces{"HTTP/1.0 200 OK\r\n\r\nuntil the end", ""}}) {
            CAPTURE(pieces[0]);
            const Receiver receiver(pieces);
            WebhookSink sink(options_for(receiver.url()));
            for (int i = 0; i < 3; ++i) CHECK(sink.deliver(delivery_of()).error.empty());
        }
    }

    TEST_CASE("an answer without end is read no further than anybody wants") {
        Receiver::Pieces pieces{"HTTP/1.1 200 OK\r\n\r\n"};
        pieces.resize(2'000, std::string(1'000, 'x'));
        CHECK(deliver(Receiver(pieces)).result == Result::delivered);
        pieces[0] = "HTTP/1.1 500 Oops\r\nContent-Length: 2000000\r\n\r\n";
        CHECK(deliver(Receiver(pieces)).error == "the receiver answers 500");
    }

    TEST_CASE("an attempt ends by its timeout, whatever dribbles in") {
        const auto start = std::chrono::steady_clock::now();
        Receiver::Pieces head(1'000, "X-Dribble: 1\r\n");
        head[0] = "HTTP/1.1 200 OK\r\n";
        Receiver::Pieces body(1'000, "x");
        body[0] = "HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n";
        const char* const too_late = "no whole answer: the receiver took too long";
        for (const Receiver::Pieces& pieces : {head, body}) {
            const Receiver receiver(pieces, milliseconds(50));
            CHECK(deliver(receiver, milliseconds(300)).error == too_late);
        }
        const Receiver silent({" "}, milliseconds(2'000));
        CHECK(deliver(silent, milliseconds(300)).error == too_late);
        CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(10));
    }

    TEST_CASE("after a timeout the same sink delivers again") {
        const Receiver receiver({with_status("200 OK")}, milliseconds(300));
        WebhookSink impatient(options_for(receiver.url(), milliseconds(100)));
        CHECK(impatient.deliver(delivery_of()).result == Result::failed);
        CHECK(impatient.deliver(delivery_of()).result == Result::failed);
        WebhookSink patient(options_for(receiver.url()));
        CHECK(patient.deliver(delivery_of()).result == Result::delivered);
    }

    TEST_CASE("a delivery that is interrupted ends") {
        const Receiver silent({" "}, milliseconds(3'000));
        WebhookSink sink(options_for(silent.url(), milliseconds(60'000)));
        std::atomic<bool> done{false};
        std::thread delivering([&] {
            CHECK(sink.deliver(delivery_of()).result == Result::failed);
            done = true;
        });
        CHECK(eventually([&] { return !silent.requests().empty(); }));
        CHECK(eventually([&] {
            sink.interrupt();
            return done.load();
        }));
        delivering.join();
    }

    TEST_CASE("an attempt ends by its timeout although the name's resolution hangs") {
        const Receiver receiver({with_status("200 OK")});
        Resolver resolver;
        WebhookSink sink(resolver.options(receiver, milliseconds(50)));
        for (int i = 0; i < 5; ++i) {
            const Outcome outcome = sink.deliver(delivery_of());
            CHECK(outcome.result == Result::failed);
            CHECK(outcome.error == "no whole answer: resolving the name took too long");
        }
        CHECK(eventually([&] { return resolver.running() == 1; }));
        CHECK(resolver.calls() == 1);  // one thread is left behind, however many attempts
        resolver.release();
        CHECK(eventually([&] { return sink.deliver(delivery_of()).error.empty(); }));
    }

    TEST_CASE("a delivery that is interrupted ends although the name's resolution hangs") {
        const Receiver receiver({with_status("200 OK")});
        Resolver resolver;
        WebhookSink sink(resolver.options(receiver, std::chrono::hours(1)));
        std::thread delivering([&] {
            CHECK(sink.deliver(delivery_of()).error == "no whole answer: it was interrupted");
        });
        CHECK(eventually([&] { return resolver.running() == 1; }));
        sink.interrupt();
        delivering.join();
        CHECK(resolver.running() == 1);
    }

    TEST_CASE("a sink that ends while a name's resolution hangs leaves nothing that it needs") {
        const Receiver receiver({with_status("200 OK")});
        Resolver resolver;
        {
            WebhookSink sink(resolver.options(receiver, milliseconds(50)));
            CHECK(sink.deliver(delivery_of()).result == Result::failed);
        }
        resolver.release();
        CHECK(eventually([&] { return resolver.running() == 0; }));
        CHECK(receiver.requests().empty());
    }

    TEST_CASE("a name that cannot be resolved for want of something here is no failed attempt") {
        const auto outcome_of = [](int error, int number) {
            WebhookOptions options = options_for("http://receiver.test/");
            options.resolve = [=](const char*, const char*, const addrinfo*, addrinfo**) {
                errno = number;
                return error;
            };
            return WebhookSink(options).deliver(delivery_of());
        };
        CHECK(outcome_of(EAI_MEMORY, 0).result == Result::postponed);
        CHECK(outcome_of(EAI_SYSTEM, EMFILE).error ==
              "the name cannot be resolved: " + std::generic_category().message(EMFILE));
        CHECK(outcome_of(EAI_SYSTEM, EMFILE).result == Result::postponed);
        CHECK(outcome_of(EAI_SYSTEM, EIO).result == Result::failed);
        CHECK(outcome_of(EAI_AGAIN, 0).result == Result::failed);
        CHECK(outcome_of(EAI_NONAME, 0).error ==
              std::string("no whole answer: the name cannot be resolved: ") +
                  gai_strerror(EAI_NONAME));
    }

    TEST_CASE("a socket that cannot be made is reported as what it is") {
        WebhookOptions options = options_for("http://receiver.test/");
        options.resolve = [](const char*, const char* port, const addrinfo* hints,
                             addrinfo** found) {
            const int error = ::getaddrinfo("127.0.0.1", port, hints, found);
            (*found)->ai_family = AF_MAX + 1;
            return error;
        };
        CHECK(WebhookSink(options).deliver(delivery_of()).error ==
              "no whole answer: there is no socket: Address family not supported by protocol");
    }

#ifdef CPPHTTPLIB_OPENSSL_SUPPORT
    TEST_CASE("a receiver that is gone in mid request raises no SIGPIPE, without Sinks either") {
        static std::atomic<int> signals{0};
        signals = 0;
        struct sigaction before {};
        struct sigaction counting {};
        counting.sa_handler = [](int) { ++signals; };
        ::sigaction(SIGPIPE, &counting, &before);
        {
            const VanishingTls receiver;
            WebhookSink sink(options_for(receiver.url()));
            const std::string large = "{\"message\":\"" + std::string(8'000'000, 'x') + "\"}";
            for (int i = 0; i < 5; ++i) {
                CHECK(sink.deliver(delivery_of(large)).result == Result::failed);
            }
            CHECK(receiver.handshakes() == 5);
        }
        ::sigaction(SIGPIPE, &before, nullptr);
        CHECK(signals == 0);
    }
#endif

    TEST_CASE("two webhooks of one host can be told apart, and nothing secret is shown") {
        const auto shown = [](const char* url) {
            return detail::shown_url(detail::parse_url(url).value());
        };
        CHECK(shown("http://a") == "http://a");
        CHECK(shown("http://a/") == "http://a");
        CHECK(shown("http://a/billing") == "http://a/billing");
        CHECK(shown("http://a/in/billing/") == "http://a/in/billing/");
        CHECK(shown("http://a/billing?key=t") == "http://a/billing?...");
        CHECK(shown("http://a?key=t") == "http://a/?...");
        CHECK(shown("https://hooks.slack.com/services/T0/B0/XyZ") ==
              "https://hooks.slack.com/services/...");
        CHECK(shown("http://a/bot123:secret/send") == "http://a/...");
        CHECK(shown("http://a/averylongwordthatissecret") == "http://a/...");
        CHECK(shown("http://a/one/two/three/four") == "http://a/one/two/three/...");

        Scheduler tasks;
        const auto hook = [](const char* name, const char* url) {
            return SinkOptions{name, std::make_shared<WebhookSink>(options_for(url)), {}, false};
        };
        const Sinks sinks(tasks, {hook("one", "http://127.0.0.1:1/in/T0ken1"),
                                  hook("two", "http://127.0.0.1:1/in/T0ken2"),
                                  hook("web", "http://127.0.0.1:1/web")});
        const std::vector<SinkStatus> all = tasks.sinks();
        CHECK(all[0].target == "http://127.0.0.1:1/in/...");
        CHECK(all[1].target == "http://127.0.0.1:1/in/... (2)");
        CHECK(all[2].target == "http://127.0.0.1:1/web");
    }

    TEST_CASE("the connection is kept, and made anew when the receiver has closed it") {
        const Receiver keeping({with_status("200 OK")});
        WebhookSink sink(options_for(keeping.url()));
        for (int i = 0; i < 20; ++i) REQUIRE(sink.deliver(delivery_of()).error.empty());
        CHECK(keeping.connections() == 1);
        const Receiver closing({with_status("200 OK", "Connection: close\r\n"), ""});
        WebhookSink other(options_for(closing.url()));
        for (int i = 0; i < 5; ++i) REQUIRE(other.deliver(delivery_of()).error.empty());
        CHECK(closing.connections() == 5);
    }

    TEST_CASE("a receiver says when to come back, in seconds or with a date") {
        const TimePoint now = support::at("2026-03-01T12:00:00Z");
        CHECK(detail::parse_retry_after("120", now) == std::chrono::seconds(120));
        CHECK(detail::parse_retry_after("0", now) == milliseconds(0));
        CHECK(detail::parse_retry_after("Sun, 01 Mar 2026 12:01:00 GMT", now) ==
              std::chrono::seconds(60));
        CHECK(detail::parse_retry_after("Sun, 01 Mar 2026 11:00:00 GMT", now) == milliseconds(0));
        for (const char* bad : {"", "-1", "1.5", "soon", "9999999999", "Sun, 01 Mar 2026"}) {
            CHECK_FALSE(detail::parse_retry_after(bad, now));
        }
        const Receiver receiver({with_status("503 Busy", "Retry-After: 7\r\n")});
        CHECK(deliver(receiver).wait == std::chrono::seconds(7));
    }

    TEST_CASE("a webhook's URL is one that can be used, or is refused where it is given") {
        for (const char* good : {"http://a", "http://a.example:80/", "http://[::1]:8080/x",
                                 "http://127.0.0.1/?q", "http://a_b/%20"}) {
            CAPTURE(good);
            CHECK(detail::parse_url(good));
        }
        CHECK(detail::parse_url("http://a?q=1")->target == "/?q=1");
        CHECK(detail::parse_url("https://a:8443/x?y")->origin == "https://a:8443");
        for (const char* bad :
             {"", "a", "ftp://a/", "http://", "http:///x", "http://a:0/", "http://a:65536/",
              "http://a:x/", "http://a:/", "http://user@a/", "http://user:pw@a/", "http://a/ b",
              "http://a/#f", "http://a/\r\nX: y", "http://\xc3\xa9/", "http://[::1/",
              "HTTP://a/"}) {
            CAPTURE(bad);
            CHECK_FALSE(detail::parse_url(bad));
            CHECK(errc_of([&] { WebhookSink(options_for(bad)); }) == Errc::invalid_argument);
        }
        for (const char* name : {"Host", "content-length", "webhook-id", "a b", ""}) {
            WebhookOptions options = options_for("http://a/");
            options.headers = {{name, "x"}};
            CHECK(errc_of([&] { WebhookSink sink(options); }) == Errc::invalid_argument);
        }
        WebhookOptions split = options_for("http://a/");
        split.headers = {{"X-A", "b\r\nX-C: d"}};
        CHECK(errc_of([&] { WebhookSink sink(split); }) == Errc::invalid_argument);
    }
}

TEST_SUITE("sinks from a file") {
    TEST_CASE("a file says all there is to say of a sink") {
        const std::vector<SinkOptions> sinks = parse_sinks(R"({"sinks":[
            {"name":"billing","webhook":"http://example.org/hook","headers":{"X-Team":"a"},
             "timeout":"15s","retry":["5s","5m"],"from":"earliest"},
            {"name":"valve","exec":["/usr/bin/valve","open"],"timeout":"30s"},
            {"name":"once","webhook":"http://example.org","retry":[],"from":"newest",
             "topics":["garden/*","weather"]}]})");
        REQUIRE(sinks.size() == 3);
        CHECK(sinks[0].topics.empty());
        CHECK(sinks[2].topics == std::vector<std::string>{"garden/*", "weather"});
        CHECK(sinks[0].name == "billing");
        CHECK(sinks[0].sink->kind() == "webhook");
        CHECK(sinks[0].sink->target() == "http://example.org/hook");
        CHECK(sinks[0].retry ==
              std::vector<milliseconds>{std::chrono::seconds(5), std::chrono::minutes(5)});
        CHECK(sinks[0].from_earliest);
        CHECK(sinks[1].sink->kind() == "exec");
        CHECK(sinks[1].sink->target() == "/usr/bin/valve");
        CHECK(sinks[1].retry.size() == 6);
        CHECK_FALSE(sinks[1].from_earliest);
        CHECK(sinks[2].retry.empty());
        CHECK(parse_sinks(R"({"sinks":[]})").empty());
    }

    TEST_CASE("what is wrong in a file is named with its place") {
        const auto said = [](const std::string& text) -> std::string {
            try {
                parse_sinks(text);
            } catch (const Error& error) {
                CHECK(error.code() == Errc::invalid_argument);
                return error.what();
            }
            return "nothing";
        };
        const auto of_sink = [&said](const std::string& members) {
            return said(R"({"sinks":[{"name":"a","exec":["x"]},{)" + members + "}]}");
        };
        CHECK(said("") == "it is not valid JSON: a value expected, but the text ends at byte 0");
        CHECK(said("[]") == "the file: must be an object");
        CHECK(said("{}") == "the file: must have the member \"sinks\"");
        CHECK(said(R"({"sinks":{}})") == "sinks: must be an array");
        CHECK(said(R"({"sinks":[],"x":1})") == "the file.x: is not known");
        CHECK(said(R"({"sinks":[],"sinks":[]})") == "the file.sinks: is given more than once");
        CHECK(said(R"({"sinks":[1]})") == "sinks[0]: must be an object");
        CHECK(of_sink(R"("exec":["x"])") == "sinks[1].name: is missing");
        CHECK(of_sink(R"("name":"a","exec":["x"])") == "sinks[1].name: another sink is called a");
        CHECK(of_sink(R"("name":"a b","exec":["x"])").find("sinks[1].name: must be 1 to 64") == 0);
        CHECK(of_sink(R"("name":"b")") == "sinks[1]: must have one of \"webhook\" and \"exec\"");
        CHECK(of_sink(R"("name":"b","exec":["x"],"webhook":"http://a")") ==
              "sinks[1]: must have one of \"webhook\" and \"exec\"");
        CHECK(of_sink(R"("name":"b","exec":"x")") == "sinks[1].exec: must be an array");
        CHECK(of_sink(R"("name":"b","exec":["x",1])") == "sinks[1].exec[1]: must be a string");
        CHECK(of_sink(R"("name":"b","exec":["x\u0000y"])") == "sinks[1].exec[0]: must be a string");
        CHECK(of_sink(R"("name":"b","exec":[])") == "sinks[1]: a command must name a program");
        CHECK(of_sink(R"("name":"b","webhook":"mailto:a")").find("sinks[1]: a webhook's URL") == 0);
        CHECK(of_sink(R"("name":"b","webhook":"http://a","retry":["5s","x"])")
                  .find("sinks[1].retry[1]: must be a duration") == 0);
        CHECK(of_sink(R"("name":"b","webhook":"http://a","timeout":15)")
                  .find("sinks[1].timeout: must be a duration") == 0);
        CHECK(of_sink(R"("name":"b","webhook":"http://a","timeout":"0s")")
                  .find("sinks[1].timeout: must be a duration") == 0);
        CHECK(of_sink(R"("name":"b","webhook":"http://a","from":"oldest")")
                  .find("sinks[1].from: must be") == 0);
        CHECK(of_sink(R"("name":"b","webhook":"http://a","headers":{"Host":"x"})") ==
              "sinks[1]: the header Host is set by the scheduler");
        CHECK(of_sink(R"("name":"b","webhook":"http://a","headers":{"X":1})") ==
              "sinks[1].headers.X: must be a string");
        CHECK(of_sink(R"("name":"b","webhook":"http://a","secrets":["s3cret"])").find("s3cret") ==
              std::string::npos);
        CHECK(of_sink(R"("name":"b","exec":["x"],"secrets":[])") ==
              "sinks[1].secrets: is only for a webhook");
        for (const char* topics : {R"(["a","*b"])", R"([""])", R"(["a b"])", R"(["a\u0000"])"}) {
            CHECK(of_sink(R"("name":"b","exec":["x"],"topics":)" + std::string(topics))
                      .find("sinks[1].topics") == 0);
        }
        CHECK(of_sink(R"("name":"b","exec":["x"],"topics":"a")") ==
              "sinks[1].topics: must be an array");
        CHECK(of_sink(R"("name":"b","exec":["x"],"topics":[1])") ==
              "sinks[1].topics[0]: must be a string");
        CHECK(of_sink(R"("name":"b","exec":["x"],"colour":"red")") ==
              "sinks[1].colour: is not known");
        CHECK(of_sink(R"("name":"b","exec":["x"],"batch":2)") ==
              "sinks[1].batch: is only for a webhook");
        CHECK(of_sink(R"("name":"b","exec":["x"],"format":"payload")") ==
              "sinks[1].format: is only for a webhook");
        for (const char* batch :
             {"0", "1001", "-1", "1.5", "1e2", "\"2\"", "null", "99999999999"}) {
            CAPTURE(batch);
            CHECK(of_sink(R"("name":"b","webhook":"http://a","batch":)" + std::string(batch)) ==
                  "sinks[1].batch: must be a whole number from 1 to 1000");
        }
        CHECK(of_sink(R"("name":"b","webhook":"http://a","format":"CloudEvents")") ==
              "sinks[1].format: must be \"payload\" or \"cloudevents\"");
    }

    TEST_CASE("secrets and headers may be in files of their own, and a bad one is named") {
        const TempDir dir;
        const auto said = [&](const std::string& members) -> std::string {
            try {
                return parse_sinks(R"({"sinks":[{"name":"a","webhook":"http://a",)" + members +
                                   "}]}")[0]
                    .name;
            } catch (const Error& error) {
                return error.what();
            }
        };
        const auto file = [&](const std::string& content) {
            return '"' + dir.write("file", content) + '"';
        };
        const auto header = [&](const std::string& content) {
            return said(R"("header_files":{"X-Token":)" + file(content) + "}");
        };
        for (const char* good : {"token", "token\n", "token\r\n", " token "}) {
            CAPTURE(good);
            CHECK(header(good) == "a");
        }
        for (const std::string& bad :
             std::initializer_list<std::string>{"two\nlines\n", "token\n\n", "a\rb", "tab\there",
                                                "\xC3\xA9", std::string("nul\0here", 8)}) {
            CAPTURE(bad);
            CHECK(header(bad) == "sinks[0]: the header X-Token is not one, or not in ASCII");
        }
        for (const char* empty : {"", "\n", "\r\n"}) {
            CHECK(header(empty) == "sinks[0].header_files.X-Token: the file is empty");
        }
        CHECK(header(std::string(std::size_t{1} << 20, 'a')).find("it is larger than 16384") !=
              std::string::npos);
        CHECK(said(R"("header_files":{"X":")" + dir.path("") + "\"}").find("Is a directory") !=
              std::string::npos);
        const std::string nowhere = dir.path("nowhere");
        CHECK(said(R"("secret_files":[")" + nowhere + "\"]") ==
              "sinks[0].secret_files[0]: cannot read " + nowhere + ": No such file or directory");
        CHECK(said(R"("header_files":{"Host":)" + file("x") + "}") ==
              "sinks[0]: the header Host is set by the scheduler");
        CHECK(said(R"("secret_files":[)" + file("s3cret") + "]").find("s3cret") ==
              std::string::npos);
        if (detail::has_openssl) {
            CHECK(said(R"("secret_files":[)" + file("whsec_YWI=\n") +
                       R"(],"secrets":["whsec_YQ=="])") == "a");
            CHECK(said(R"("secret_files":[)" + file("whsec_YWI=\n") +
                       R"(],"secrets":["whsec_YQ==","whsec_YQ=="])") ==
                  "sinks[0]: there may be two secrets at most");
        }
    }
}

}  // namespace webhook_test
