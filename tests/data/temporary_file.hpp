#pragma once

// A file with given bytes that is gone at the end of the test.

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

namespace blinkbert::tests {

class TemporaryFile {
 public:
  explicit TemporaryFile(std::string_view bytes, const std::string& ending = ".csv") {
    static int count = 0;
    path_ = std::filesystem::temp_directory_path() /
            ("blinkbert_" + std::to_string(::getpid()) + "_" + std::to_string(++count) + ending);
    std::ofstream stream(path_, std::ios::binary);
    stream.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  ~TemporaryFile() {
    std::error_code ignored;
    std::filesystem::remove(path_, ignored);
  }

  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

/// The message of the exception that `call` throws; "" where it throws nothing, anything but an `Exception` passes
/// through.
template <class Exception, class Call>
std::string message_of(Call&& call) {
  try {
    call();
  } catch (const Exception& error) {
    return error.what();
  }
  return "";
}

}  // namespace blinkbert::tests
