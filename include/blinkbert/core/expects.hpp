#pragma once

// Preconditions and the exceptions of the library. The library never prints and never exits: it throws one of these.

#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>

namespace blinkbert {

/// A broken precondition of a call: a mistake in the calling program, not in its input.
class ContractViolation : public std::logic_error {
 public:
  using std::logic_error::logic_error;
};

/// Input that cannot be used: a file, a flag, a configuration. One line: what, where, what would be right.
/// Programs end with exit code 2.
class InputError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Something the program needs failed while it ran: a full disk, an unwritable folder. Programs end with exit code 1.
class RunError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Training produced values that are not finite. Programs end with exit code 3.
class Diverged : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Joins anything that can be streamed: `text("row ", 3, ": ", x)`.
template <class... Parts>
std::string text(const Parts&... parts) {
  std::ostringstream stream;
  (stream << ... << parts);
  return stream.str();
}

namespace detail {

template <class... Values>
[[noreturn]] void fail_expectation(const char* file, int line, const char* expression, const char* names,
                                   const Values&... values) {
  std::ostringstream message;
  message << file << ':' << line << ": expected " << expression;
  if constexpr (sizeof...(Values) > 0) {
    message << " with (" << names << ") = (";
    const char* separator = "";
    ((message << separator << values, separator = ", "), ...);
    message << ')';
  }
  throw ContractViolation(message.str());
}

}  // namespace detail
}  // namespace blinkbert

/// Throws ContractViolation unless `condition` holds; further arguments are printed with their names.
#define BLINKBERT_EXPECTS(condition, ...)                                              \
  ((condition) ? static_cast<void>(0)                                                  \
               : ::blinkbert::detail::fail_expectation(__FILE__, __LINE__, #condition, \
                                                       #__VA_ARGS__ __VA_OPT__(, ) __VA_ARGS__))
