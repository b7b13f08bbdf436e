#include "beeline/os/tls.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "beeline/os/openssl.h"
#include "beeline/os/random.h"

namespace beeline::os {
namespace {

using openssl::Library;

// What one record of TLS carries at most.
constexpr std::size_t kRecord = 16384;
// What is read of a socket in one go.
constexpr std::size_t kReadBuffer = 128 << 10;
constexpr std::size_t kBindingBytes = 32;
constexpr std::string_view kBindingLabel = "EXPORTER-beeline-opening";
// Certificates of our own making are known by their fingerprint: this is for tools that show them.
constexpr long kOwnCertificateS = 10L * 365 * 24 * 3600;
constexpr long kClockSkewS = 24 * 3600;

// Why the call before has failed, as OpenSSL puts it.
std::string reason(const Library& ssl) {
  const char* const text = ssl.ERR_reason_error_string(ssl.ERR_get_error());
  return text != nullptr ? text : "OpenSSL does not say why";
}

Status bad(const std::string& what, const std::string& why) {
  return {Code::kInvalidArgument, "TLS: " + what + ": " + why};
}

Status check_readable(const std::string& what, const std::string& path) {
  if (::access(path.c_str(), R_OK) == 0) return Status::ok();
  return bad("read the " + what + " " + path, std::strerror(errno));
}

// Nobody is there to type it.
int no_passphrase(char* /*buffer*/, int /*size*/, int /*writes*/, void* /*data*/) {
  return 0;
}

struct Free {
  const Library* ssl;
  void operator()(openssl::X509* certificate) const { ssl->X509_free(certificate); }
  void operator()(openssl::EVP_PKEY* key) const { ssl->EVP_PKEY_free(key); }
};
template <typename T>
using Owned = std::unique_ptr<T, Free>;

Result<std::string> fingerprint_of(const Library& ssl, const openssl::X509* certificate) {
  std::array<unsigned char, 32> digest{};
  unsigned size = 0;
  if (certificate == nullptr || ssl.X509_digest(certificate, ssl.EVP_sha256(), digest.data(), &size) != 1 ||
      size != digest.size()) {
    return bad("digest a certificate", "there is none");
  }
  std::string text;
  for (const unsigned char byte : digest) {
    text += "0123456789abcdef"[byte >> 4];
    text += "0123456789abcdef"[byte & 15];
  }
  return text;
}

// A key and a certificate for it, signed by itself.
Status use_own_certificate(const Library& ssl, openssl::SSL_CTX* context) {
  const Owned<openssl::EVP_PKEY> key(ssl.EVP_PKEY_Q_keygen(nullptr, nullptr, "EC", "P-256"), Free{&ssl});
  const Owned<openssl::X509> certificate(ssl.X509_new(), Free{&ssl});
  std::uint64_t serial = 0;
  fill_with_random(std::as_writable_bytes(std::span(&serial, 1)));
  const auto* const name = reinterpret_cast<const unsigned char*>("beeline agent");
  const bool is_made = key != nullptr && certificate != nullptr && ssl.X509_set_version(certificate.get(), 2) == 1 &&
                       ssl.ASN1_INTEGER_set_uint64(ssl.X509_get_serialNumber(certificate.get()), serial) == 1 &&
                       ssl.X509_gmtime_adj(ssl.X509_getm_notBefore(certificate.get()), -kClockSkewS) != nullptr &&
                       ssl.X509_gmtime_adj(ssl.X509_getm_notAfter(certificate.get()), kOwnCertificateS) != nullptr &&
                       ssl.X509_set_pubkey(certificate.get(), key.get()) == 1 &&
                       ssl.X509_NAME_add_entry_by_txt(ssl.X509_get_subject_name(certificate.get()), "CN",
                                                      openssl::kAscii, name, -1, -1, 0) == 1 &&
                       ssl.X509_set_issuer_name(certificate.get(), ssl.X509_get_subject_name(certificate.get())) == 1 &&
                       ssl.X509_sign(certificate.get(), key.get(), ssl.EVP_sha256()) > 0 &&
                       ssl.SSL_CTX_use_certificate(context, certificate.get()) == 1 &&
                       ssl.SSL_CTX_use_PrivateKey(context, key.get()) == 1;
  return is_made ? Status::ok() : bad("make a certificate", reason(ssl));
}

Status use_files(const Library& ssl, openssl::SSL_CTX* context, const TlsOptions& options) {
  if (options.certificate.empty() != options.key.empty()) {
    return bad(options.key.empty() ? "certificate " + options.certificate : "key " + options.key,
               "certificate and key go together, and one of them is missing");
  }
  if (!options.certificate.empty()) {
    BEELINE_RETURN_IF_ERROR(check_readable("certificate", options.certificate));
    BEELINE_RETURN_IF_ERROR(check_readable("key", options.key));
    if (ssl.SSL_CTX_use_certificate_chain_file(context, options.certificate.c_str()) != 1) {
      return bad("certificate " + options.certificate, reason(ssl));
    }
    if (ssl.SSL_CTX_use_PrivateKey_file(context, options.key.c_str(), openssl::kPem) != 1 ||
        ssl.SSL_CTX_check_private_key(context) != 1) {
      return bad("key " + options.key + " of certificate " + options.certificate, reason(ssl));
    }
  }
  if (options.ca.empty()) return Status::ok();
  BEELINE_RETURN_IF_ERROR(check_readable("CA file", options.ca));
  if (ssl.SSL_CTX_load_verify_file(context, options.ca.c_str()) != 1) return bad("CA file " + options.ca, reason(ssl));
  return Status::ok();
}

}  // namespace

struct Tls::Context {
  const Library& ssl;
  openssl::SSL_CTX* const context;
  openssl::BIO_METHOD* const method;  // how OpenSSL reads and writes sockets
  const bool asks_for_certificate;
  const std::uint64_t rekey_bytes;

  ~Context() {
    ssl.SSL_CTX_free(context);
    ssl.BIO_meth_free(method);
  }
};

// OpenSSL's own way of writing to sockets raises SIGPIPE, so it gets one that does not.
class Tls::Stream final : public ByteStream {
 public:
  Stream(Fd connection, std::shared_ptr<const Context> shared, bool listens, std::string host, std::string fingerprint)
      : ByteStream(std::move(connection)),
        shared_(std::move(shared)),
        ssl_(shared_->ssl),
        listens_(listens),
        host_(std::move(host)),
        fingerprint_(std::move(fingerprint)) {}
  // Tells the other side nothing: messages carry their lengths, and a child of fork() must not speak for its parent.
  ~Stream() override { ssl_.SSL_free(own_); }

  Status begin(const Wait& wait) override;
  Result<Moved> send(std::span<const iovec> pieces) override;
  Result<Moved> receive(std::span<const iovec> pieces) override;
  [[nodiscard]] Result<Bytes> binding() const override;

  static int write_socket(openssl::BIO* bio, const char* data, int size);
  static int read_socket(openssl::BIO* bio, char* data, int size);
  static long control(openssl::BIO* /*bio*/, int command, long /*number*/, void* /*pointer*/) {
    return command == openssl::kBioFlush ? 1 : 0;  // nothing is kept back
  }

 private:
  Status set_up();
  Status check_certificate() const;
  Result<short> wait_for(int returned);
  Status failure_of(int error) const;
  int note(openssl::BIO* bio, ssize_t moved, int direction, const char* what);
  BytesView next_record(std::span<const iovec> pieces, std::size_t skipped);

  const std::shared_ptr<const Context> shared_;
  const Library& ssl_;
  const bool listens_;
  const std::string host_, fingerprint_;
  openssl::SSL* own_ = nullptr;
  bool has_begun_ = false;  // the handshake is over
  bool has_heard_ = false;  // something within TLS
  Status socket_;           // what the socket's last call came to
  Status failure_;          // of the stream, for good
  Bytes record_;            // small pieces, put together
  bool is_retry_ = false;   // the last record was not taken
  std::uint64_t sent_by_key_ = 0;
};

int Tls::Stream::note(openssl::BIO* bio, ssize_t moved, int direction, const char* what) {
  ssl_.BIO_clear_flags(bio, openssl::kBioRead | openssl::kBioWrite | openssl::kBioSpecial | openssl::kBioShouldRetry);
  if (moved < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) {
    ssl_.BIO_set_flags(bio, direction | openssl::kBioShouldRetry);
  } else if (moved <= 0) {
    socket_ = failure_of_call(moved, what);
  }
  return static_cast<int>(moved);
}

int Tls::Stream::write_socket(openssl::BIO* bio, const char* data, int size) {
  auto& stream = *static_cast<Stream*>((*openssl::library())->BIO_get_data(bio));
  const ssize_t sent = ::send(stream.fd(), data, static_cast<std::size_t>(size), MSG_NOSIGNAL | MSG_DONTWAIT);
  return stream.note(bio, sent, openssl::kBioWrite, "send on a connection");
}

int Tls::Stream::read_socket(openssl::BIO* bio, char* data, int size) {
  auto& stream = *static_cast<Stream*>((*openssl::library())->BIO_get_data(bio));
  const ssize_t got = ::recv(stream.fd(), data, static_cast<std::size_t>(size), MSG_DONTWAIT);
  return stream.note(bio, got, openssl::kBioRead, "receive on a connection");
}

Status Tls::Stream::set_up() {
  ssl_.ERR_clear_error();
  own_ = ssl_.SSL_new(shared_->context);
  openssl::BIO* const bio = own_ != nullptr ? ssl_.BIO_new(shared_->method) : nullptr;
  if (bio == nullptr) return {Code::kResourceExhausted, "TLS: begin a connection: " + reason(ssl_)};
  ssl_.BIO_set_init(bio, 1);
  ssl_.BIO_set_data(bio, this);
  ssl_.SSL_set_bio(own_, bio, bio);
  int mode = openssl::kVerifyNone;
  if (shared_->asks_for_certificate) mode = openssl::kVerifyPeer | openssl::kFailWithoutCertificate;
  ssl_.SSL_set_verify(own_, mode, nullptr);
  if (!listens_ && shared_->asks_for_certificate && ssl_.SSL_set1_host(own_, host_.c_str()) != 1) {
    return bad("look for a certificate of host \"" + host_ + "\"", reason(ssl_));
  }
  return Status::ok();
}

Status Tls::Stream::begin(const Wait& wait) {
  BEELINE_RETURN_IF_ERROR(set_up());
  for (;;) {
    ssl_.ERR_clear_error();
    const int returned = listens_ ? ssl_.SSL_accept(own_) : ssl_.SSL_connect(own_);
    if (returned == 1) break;
    const auto events = wait_for(returned);
    if (events.status().code() == Code::kPeerLost) {
      return {Code::kPeerLost, events.status().message() + " during TLS's handshake: perhaps it speaks no TLS there"};
    }
    BEELINE_RETURN_IF_ERROR(events.status());
    BEELINE_RETURN_IF_ERROR(wait_ready(fd(), *events, wait, "the other side of TLS's handshake"));
  }
  if (!listens_) BEELINE_RETURN_IF_ERROR(check_certificate());
  has_begun_ = true;
  return Status::ok();
}

Status Tls::Stream::check_certificate() const {
  const Owned<openssl::X509> shown(ssl_.SSL_get1_peer_certificate(own_), Free{&ssl_});
  BEELINE_ASSIGN(const std::string seen, fingerprint_of(ssl_, shown.get()));
  if (seen == fingerprint_) return Status::ok();
  return bad("certificate of fingerprint " + seen,
             "the agent's address names another one, " + fingerprint_ + ": whoever listens there is not that agent");
}

// What the descriptor has to be ready for; or the stream has failed, and will fail for good.
Result<short> Tls::Stream::wait_for(int returned) {
  const int error = ssl_.SSL_get_error(own_, returned);
  if (error == openssl::kWantRead) return short{POLLIN};
  if (error == openssl::kWantWrite) return short{POLLOUT};
  failure_ = failure_of(error);
  return failure_;
}

Status Tls::Stream::failure_of(int error) const {
  if (!socket_) return socket_;
  if (error == openssl::kZeroReturn) return {Code::kPeerLost, "the connection was closed"};
  const std::string why = reason(ssl_);
  const long verified = ssl_.SSL_get_verify_result(own_);
  if (!has_begun_ && shared_->asks_for_certificate && verified != 0) {
    return bad("the certificate of the other side", ssl_.X509_verify_cert_error_string(verified));
  }
  // A side that connects hears after its handshake what became of its own certificate.
  if (!has_begun_ || (!has_heard_ && why.find("alert") != std::string::npos)) {
    return bad(listens_ ? "a caller's handshake" : "the handshake with whoever listens there", why);
  }
  return {Code::kCorrupt, "TLS: " + why};
}

// What follows the bytes of the first piece that are skipped, as one piece that a record has room for. After a wait it
// begins with the same bytes: what OpenSSL has not sent yet it wants to be shown once more.
BytesView Tls::Stream::next_record(std::span<const iovec> pieces, std::size_t skipped) {
  const auto view = [&](const iovec& piece) {
    const BytesView whole(static_cast<const std::byte*>(piece.iov_base), piece.iov_len);
    const BytesView left = whole.subspan(std::exchange(skipped, 0));
    return left.first(std::min(left.size(), kRecord));
  };
  const BytesView first = view(pieces.front());
  if (first.size() == kRecord || pieces.size() == 1) return first;
  record_.assign(first.begin(), first.end());
  for (const iovec& piece : pieces.subspan(1)) {
    const BytesView more = view(piece);
    const std::size_t taken = std::min(more.size(), kRecord - record_.size());
    record_.insert(record_.end(), more.begin(), more.begin() + static_cast<std::ptrdiff_t>(taken));
    if (record_.size() == kRecord) break;
  }
  return record_;
}

Result<ByteStream::Moved> Tls::Stream::send(std::span<const iovec> pieces) {
  BEELINE_RETURN_IF_ERROR(failure_);
  std::size_t moved = 0;
  std::size_t skipped = 0;  // of the first piece
  while (!pieces.empty()) {
    const BytesView record = next_record(pieces, skipped);
    if (!is_retry_ && sent_by_key_ >= shared_->rekey_bytes) {
      sent_by_key_ = 0;
      ssl_.SSL_key_update(own_, openssl::kOnlyOwnKey);  // told to the other side with the next record
    }
    std::size_t written = 0;
    ssl_.ERR_clear_error();
    const int returned = ssl_.SSL_write_ex(own_, record.data(), record.size(), &written);
    is_retry_ = returned != 1;
    if (is_retry_) {
      const auto events = wait_for(returned);
      if (moved > 0) return Moved{moved, 0};
      BEELINE_RETURN_IF_ERROR(events.status());
      return Moved{0, *events};
    }
    moved += written;
    sent_by_key_ += written;
    for (skipped += written; !pieces.empty() && skipped >= pieces.front().iov_len; pieces = pieces.subspan(1)) {
      skipped -= pieces.front().iov_len;
    }
  }
  return Moved{moved, 0};
}

Result<ByteStream::Moved> Tls::Stream::receive(std::span<const iovec> pieces) {
  BEELINE_RETURN_IF_ERROR(failure_);
  std::size_t moved = 0;
  for (const iovec& piece : pieces) {
    for (std::size_t at = 0; at < piece.iov_len;) {
      std::size_t got = 0;
      ssl_.ERR_clear_error();
      const int returned =
          ssl_.SSL_read_ex(own_, static_cast<std::byte*>(piece.iov_base) + at, piece.iov_len - at, &got);
      if (returned == 1) {
        has_heard_ = true;
        at += got;
        moved += got;
        continue;
      }
      const auto events = wait_for(returned);
      if (moved > 0) return Moved{moved, 0};
      BEELINE_RETURN_IF_ERROR(events.status());
      return Moved{0, *events};
    }
  }
  return Moved{moved, 0};
}

Result<Bytes> Tls::Stream::binding() const {
  Bytes bytes(kBindingBytes);
  ssl_.ERR_clear_error();
  if (ssl_.SSL_export_keying_material(own_, reinterpret_cast<unsigned char*>(bytes.data()), bytes.size(),
                                      kBindingLabel.data(), kBindingLabel.size(), nullptr, 0, 0) != 1) {
    return bad("bind an opening to its connection", reason(ssl_));
  }
  return bytes;
}

Tls::Tls(std::shared_ptr<const Context> context, std::string fingerprint)
    : context_(std::move(context)), fingerprint_(std::move(fingerprint)) {}
Tls::~Tls() = default;

Result<std::shared_ptr<const Tls>> Tls::make(const TlsOptions& options, bool listens) {
  BEELINE_ASSIGN(const Library* const library, openssl::library());
  const Library& ssl = *library;
  ssl.ERR_clear_error();
  const std::shared_ptr<const Context> shared(new Context{ssl, ssl.SSL_CTX_new(ssl.TLS_method()),
                                                          ssl.BIO_meth_new(openssl::kSourceSink, "beeline"),
                                                          !options.ca.empty(), options.rekey_bytes});
  openssl::SSL_CTX* const context = shared->context;
  if (context == nullptr || shared->method == nullptr) {
    return Status(Code::kResourceExhausted, "TLS: begin: " + reason(ssl));
  }
  ssl.BIO_meth_set_write(shared->method, Stream::write_socket);
  ssl.BIO_meth_set_read(shared->method, Stream::read_socket);
  ssl.BIO_meth_set_ctrl(shared->method, Stream::control);
  ssl.SSL_CTX_ctrl(context, openssl::kMinProtoVersion, openssl::kTls13, nullptr);
  ssl.SSL_CTX_ctrl(context, openssl::kMode, openssl::kPartialWrite | openssl::kMovingWriteBuffer, nullptr);
  ssl.SSL_CTX_ctrl(context, openssl::kReadAhead, 1, nullptr);
  ssl.SSL_CTX_set_default_read_buffer_len(context, kReadBuffer);
  // Each connection proves anew who it is.
  ssl.SSL_CTX_ctrl(context, openssl::kSessionCacheMode, openssl::kNoSessionCache, nullptr);
  ssl.SSL_CTX_set_num_tickets(context, 0);
  ssl.SSL_CTX_set_default_passwd_cb(context, no_passphrase);
  BEELINE_RETURN_IF_ERROR(use_files(ssl, context, options));
  if (listens && options.certificate.empty()) BEELINE_RETURN_IF_ERROR(use_own_certificate(ssl, context));
  std::string fingerprint;
  if (const auto* const certificate = ssl.SSL_CTX_get0_certificate(context)) {
    BEELINE_ASSIGN(fingerprint, fingerprint_of(ssl, certificate));
  }
  return std::shared_ptr<const Tls>(new Tls(shared, std::move(fingerprint)));
}

std::unique_ptr<ByteStream> Tls::connecting_stream(Fd connection, std::string host, std::string fingerprint) const {
  return std::make_unique<Stream>(std::move(connection), context_, false, std::move(host), std::move(fingerprint));
}

std::unique_ptr<ByteStream> Tls::listening_stream(Fd connection) const {
  return std::make_unique<Stream>(std::move(connection), context_, true, "", "");
}

}  // namespace beeline::os
