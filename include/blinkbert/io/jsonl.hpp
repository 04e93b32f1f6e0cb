#pragma once

// JSON text: a strict reader for documents from anywhere, and a log of one object per line.

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <set>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <blinkbert/core/expects.hpp>
#include <blinkbert/io/atomic_file.hpp>

namespace blinkbert {

/// The JSON document `bytes`, nested at most 64 deep and without repeated names in an object (of which the parser would
/// keep the last, and another reader perhaps the first). Throws InputError that begins with `where`.
inline nlohmann::json parse_json(std::string_view bytes, std::string_view where) {
  using Json = nlohmann::json;
  constexpr int deepest = 64;
  std::vector<std::set<std::string>> names;  // of the objects that are open
  const Json::parser_callback_t check = [&](int depth, Json::parse_event_t event, Json& parsed) {
    if (depth >= deepest) throw InputError(text(where, ": JSON nested deeper than ", deepest));
    if (event == Json::parse_event_t::object_start) names.emplace_back();
    if (event == Json::parse_event_t::object_end) names.pop_back();
    if (event == Json::parse_event_t::key) {
      const auto& name = parsed.get_ref<const std::string&>();
      if (!names.back().insert(name).second) {
        throw InputError(text(where, ": the name \"", printable(name), "\" stands twice in one JSON object"));
      }
    }
    return true;
  };
  // The parser takes a byte 0 for the end and does not look at what follows.
  if (bytes.find('\0') != bytes.npos) throw InputError(text(where, ": not JSON: found a byte 0"));
  try {
    return Json::parse(bytes, check);
  } catch (const Json::exception& error) {
    const std::string_view message = error.what();
    const std::size_t prefix = message.find("] ");  // "[json.exception.parse_error.101] "
    throw InputError(
        text(where, ": not JSON: ", printable(prefix == message.npos ? message : message.substr(prefix + 2))));
  }
}

/// Appends JSON objects to a file, one per line, each handed to the system by a single call before `append` returns: a
/// killed process leaves whole lines. NaN and infinities become null, text that is not UTF-8 gets replacement
/// characters. Every failure of the disk is a RunError "cannot write <path>: <reason>".
class JsonlWriter {
 public:
  /// `keep_bytes` = 0 starts an empty file. Otherwise the file, which must hold at least so many bytes and end a line
  /// there (else InputError), is cut to this length and continued.
  explicit JsonlWriter(std::filesystem::path path, std::uint64_t keep_bytes = 0)
      : path_(std::move(path)),
        file_(::open(path_.c_str(), O_RDWR | O_CLOEXEC | (keep_bytes == 0 ? O_CREAT : 0), 0666)),
        bytes_(keep_bytes) {
    if (!file_.is_open() && keep_bytes > 0 && errno == ENOENT) {
      throw InputError(text(path_.string(), ": is missing, expected a log of at least ", keep_bytes, " bytes"));
    }
    if (!file_.is_open()) fail(errno);
    if (keep_bytes > 0) {
      struct stat status {};
      if (::fstat(file_.number(), &status) != 0) fail(errno);
      if (static_cast<std::uint64_t>(status.st_size) < keep_bytes) {
        throw InputError(text(path_.string(), ": holds ", status.st_size, " bytes, expected at least ", keep_bytes));
      }
      char last = 0;
      if (::pread(file_.number(), &last, 1, static_cast<off_t>(keep_bytes - 1)) != 1) fail(errno);
      if (last != '\n') {
        throw InputError(text(path_.string(), ": no line ends at byte ", keep_bytes, "; this is another log"));
      }
    }
    cut();
  }

  /// Writes one line.
  void append(const nlohmann::ordered_json& object) {
    BLINKBERT_EXPECTS(object.is_object());
    const std::string line = object.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + '\n';
    if (const int error = detail::write_all(file_.number(), line)) {
      cut();  // a disk that filled up inside the line must not leave half of it
      fail(error);
    }
    bytes_ += line.size();
  }

  /// Length of the file.
  std::uint64_t bytes() const { return bytes_; }

  /// Puts what was appended on the disk: call it before a checkpoint that remembers `bytes()` is committed.
  void sync() {
    if (::fsync(file_.number()) != 0) fail(errno);
  }

 private:
  [[noreturn]] void fail(int error) const {
    throw RunError(text("cannot write ", path_.string(), ": ", detail::system_message(error)));
  }

  void cut() {
    const auto length = static_cast<off_t>(bytes_);
    if (::ftruncate(file_.number(), length) != 0 || ::lseek(file_.number(), length, SEEK_SET) < 0) fail(errno);
  }

  std::filesystem::path path_;
  detail::FileDescriptor file_;
  std::uint64_t bytes_;
};

}  // namespace blinkbert
