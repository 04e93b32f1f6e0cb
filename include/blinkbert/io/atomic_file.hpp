#pragma once

// Whole files: read, and written so that a reader sees the old bytes or the new ones, never a mixture.
//
// Writing goes to "<path>.tmp" in the same folder, is synced, and then renamed over the path; the folder is synced so
// that the rename itself survives a power cut.

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <new>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <blinkbert/core/expects.hpp>

namespace blinkbert {

/// Text from a file or a command line as part of a one-line message: control characters are escaped, and what is
/// longer than 120 bytes is cut.
inline std::string printable(std::string_view text) {
  constexpr std::size_t longest = 120;
  std::size_t length = std::min(text.size(), longest);
  // Bytes 10xxxxxx continue a character of UTF-8: a cut must not fall before one.
  while (length > 0 && length < text.size() && (static_cast<unsigned char>(text[length]) & 0xc0) == 0x80) --length;
  std::string line;
  for (const char character : text.substr(0, length)) {
    const auto byte = static_cast<unsigned char>(character);
    if (byte < 0x20 || byte == 0x7f) {
      constexpr std::string_view digits = "0123456789abcdef";
      line += {'\\', 'x', digits[byte / 16], digits[byte % 16]};
    } else {
      line += character;
    }
  }
  if (length < text.size()) line += "...";
  return line;
}

namespace detail {

inline std::string system_message(int error) { return std::generic_category().message(error); }

/// Owns a file descriptor.
class FileDescriptor {
 public:
  explicit FileDescriptor(int number) : number_(number) {}
  FileDescriptor(FileDescriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept {
    std::swap(number_, other.number_);
    return *this;
  }
  ~FileDescriptor() { close(); }

  bool is_open() const { return number_ >= 0; }
  int number() const { return number_; }

  /// 0, or the error of close(2), which is where some file systems report a full disk.
  int close() {
    const int number = std::exchange(number_, -1);
    return number >= 0 && ::close(number) != 0 ? errno : 0;
  }

 private:
  int number_;
};

/// 0, or the error. Writes on after an interruption and after a partial write.
inline int write_all(int descriptor, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(descriptor, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return errno;
    if (written == 0) return ENOSPC;
    bytes.remove_prefix(static_cast<std::size_t>(written));
  }
  return 0;
}

/// 0, or the error. File systems that cannot sync a folder answer EINVAL; there is nothing more to ask of them.
inline int sync_folder(const std::filesystem::path& folder) {
  const FileDescriptor descriptor(::open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!descriptor.is_open()) return errno;
  return ::fsync(descriptor.number()) != 0 && errno != EINVAL ? errno : 0;
}

/// A file that is read from front to back. Every failure is an InputError that names the path.
class InputFile {
 public:
  explicit InputFile(std::filesystem::path path)
      : path_(std::move(path)), descriptor_(::open(path_.c_str(), O_RDONLY | O_CLOEXEC)) {
    if (!descriptor_.is_open()) fail(system_message(errno));
    struct stat status {};
    if (::fstat(descriptor_.number(), &status) != 0) fail(system_message(errno));
    if (S_ISDIR(status.st_mode)) fail(system_message(EISDIR));
    regular_ = S_ISREG(status.st_mode);
    size_ = regular_ ? static_cast<std::uint64_t>(status.st_size) : 0;
  }

  const std::filesystem::path& path() const { return path_; }

  /// Pipes and devices are not regular: they have no size.
  bool is_regular() const { return regular_; }
  std::uint64_t size() const { return size_; }

  /// Fills `bytes` as far as the file goes; returns how many were read.
  std::size_t read(std::span<std::byte> bytes) {
    std::size_t done = 0;
    while (done < bytes.size()) {
      const ssize_t count = ::read(descriptor_.number(), bytes.data() + done, bytes.size() - done);
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) fail(system_message(errno));
      if (count == 0) break;
      done += static_cast<std::size_t>(count);
    }
    return done;
  }

  /// Fills `bytes`; a file that became shorter meanwhile is an InputError.
  void read_exactly(std::span<std::byte> bytes) {
    if (read(bytes) != bytes.size()) fail("the file ends early; it changed while it was read");
  }

  [[noreturn]] void fail(std::string_view reason) const {
    throw InputError(text("cannot read ", path_.string(), ": ", reason));
  }

 private:
  std::filesystem::path path_;
  FileDescriptor descriptor_;
  bool regular_ = false;
  std::uint64_t size_ = 0;
};

}  // namespace detail

/// All bytes of a file. A pipe or a device may hold at most 64 MiB, so that an endless one is an error.
/// Throws InputError "cannot read <path>: <reason>".
inline std::string read_file(const std::filesystem::path& path) {
  constexpr std::size_t longest_stream = std::size_t{64} << 20, piece = std::size_t{1} << 16;
  detail::InputFile file(path);
  std::string bytes;
  try {
    // A file of known size is read in one piece; the piece beyond it finds the end, or what was appended meanwhile.
    std::size_t wanted = static_cast<std::size_t>(file.size()) + piece, count = 0;
    do {
      bytes.resize(bytes.size() + wanted);
      count = file.read(std::as_writable_bytes(std::span(bytes)).last(wanted));
      bytes.resize(bytes.size() - wanted + count);
      if (!file.is_regular() && bytes.size() > longest_stream) {
        file.fail("it is not a regular file and holds more than 64 MiB");
      }
    } while (count == std::exchange(wanted, piece));
  } catch (const std::bad_alloc&) {
    file.fail(text("its ", file.size(), " bytes do not fit into memory"));
  } catch (const std::length_error&) {
    file.fail(text("its ", file.size(), " bytes do not fit into memory"));
  }
  return bytes;
}

/// Replaces the file at `path` by `bytes`, or creates it. At every moment, also after a kill or a power cut, the path
/// holds the old file whole or the new one whole. What exists and is no regular file (a pipe, /dev/stdout) cannot be
/// replaced and is written to directly. Throws RunError "cannot write <path>: <reason>"; the temporary is then gone and
/// the old file untouched.
inline void write_file_atomically(const std::filesystem::path& path, std::string_view bytes) {
  const auto fail = [&](int error) {
    throw RunError(text("cannot write ", path.string(), ": ", detail::system_message(error)));
  };

  struct stat status {};
  if (::stat(path.c_str(), &status) == 0 && !S_ISREG(status.st_mode)) {
    if (S_ISDIR(status.st_mode)) fail(EISDIR);
    detail::FileDescriptor stream(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
    if (!stream.is_open()) fail(errno);
    if (const int error = detail::write_all(stream.number(), bytes)) fail(error);
    if (const int error = stream.close()) fail(error);
    return;
  }

  const std::filesystem::path temporary = path.string() + ".tmp";
  detail::FileDescriptor file(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0666));
  if (!file.is_open()) fail(errno);
  const auto written = [&] {
    if (const int error = detail::write_all(file.number(), bytes)) return error;
    if (::fsync(file.number()) != 0) return errno;
    if (const int error = file.close()) return error;
    return std::rename(temporary.c_str(), path.c_str()) != 0 ? errno : 0;
  };
  if (const int error = written()) {
    ::unlink(temporary.c_str());
    fail(error);
  }
  if (const int error = detail::sync_folder(path.parent_path())) fail(error);
}

}  // namespace blinkbert
