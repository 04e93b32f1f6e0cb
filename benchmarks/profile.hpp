#pragma once

// Where the time of a step goes, op by op: the CPU with a clock around each op.

#include <cstdlib>
#include <map>
#include <string>
#include <typeinfo>

#include <cxxabi.h>

#include <blinkbert/backend/cpu.hpp>

#include "measure.hpp"

namespace benchmarks {

/// "LinearForward" for blinkbert::LinearForward<float>.
template <class Op>
std::string name_of_op() {
  char* const demangled = abi::__cxa_demangle(typeid(Op).name(), nullptr, nullptr, nullptr);
  std::string name = demangled;
  std::free(demangled);
  name.erase(std::min(name.find('<'), name.size()));
  return name.substr(name.rfind(':') + 1);
}

struct ProfiledCpu : Cpu<float> {
  using Cpu<float>::Cpu;
  std::map<std::string, double> ms;  // by op, since the start
};

template <class Op>
void run(ProfiledCpu& cpu, const Op& op) {
  static const std::string name = name_of_op<Op>();
  const double begin = now_in_ms();
  run(static_cast<Cpu<float>&>(cpu), op);
  cpu.ms[name] += now_in_ms() - begin;
}

}  // namespace benchmarks
