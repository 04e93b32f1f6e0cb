#pragma once

// The real recordings as these tests need them: plain columns, read without the library's own reader.

#include <cmath>
#include <cstddef>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

namespace rldd {

struct Recording {
  int driver = 0, number = 0;
  double label = 0;
  std::vector<float> values;  // [rows, 4]  frequency, amplitude, duration, velocity
  int rows() const { return static_cast<int>(values.size() / 4); }
};

/// Empty where the file is not there.
inline std::vector<Recording> recordings() {
  std::ifstream file(std::string(BLINKBERT_SOURCE_DIR) + "/../shared/data/rldd_blinks.csv");
  std::vector<Recording> all;
  std::string line;
  std::getline(file, line);
  while (std::getline(file, line)) {
    std::vector<double> fields;
    std::istringstream stream(line);
    for (std::string field; std::getline(stream, field, ',');) fields.push_back(std::stod(field));
    const int number = static_cast<int>(fields.at(0));
    if (all.empty() || all.back().number != number) {
      all.push_back({.driver = static_cast<int>(fields.at(1)), .number = number, .label = fields.at(8), .values = {}});
    }
    for (std::size_t column = 4; column < 8; ++column) all.back().values.push_back(static_cast<float>(fields[column]));
  }
  return all;
}

}  // namespace rldd
