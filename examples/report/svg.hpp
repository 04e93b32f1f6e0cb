#pragma once

// Charts as inline SVG. A writer of our own: the plotting libraries that Debian has draw to windows or files of their own
// and know neither the page's colours for light, dark and print nor its fonts.
//
// All charts are 360 units wide with text of 10 to 13 units: at a phone's width one unit is about a pixel, on a wide screen
// two charts stand beside each other, somewhat larger. Colours are the page's (html.hpp).

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "html.hpp"

namespace programs::report {

inline constexpr double chart_width = 360, small_text = 10.5, title_text = 13;

/// Width of a line of text, estimated from above: fonts differ from machine to machine.
inline double text_width(std::string_view line, double size) {
  const auto continues = [](char c) { return (static_cast<unsigned char>(c) & 0xc0) == 0x80; };
  return 0.62 * size *
         static_cast<double>(line.size() - static_cast<std::size_t>(std::ranges::count_if(line, continues)));
}

/// Lines of at most `width` units, broken at spaces and, where a word is longer, inside it.
inline std::vector<std::string> wrapped(std::string_view plain, double width, double size) {
  const auto most = static_cast<std::size_t>(std::max(1.0, std::floor(width / (0.62 * size))));
  std::vector<std::string> lines{""};
  std::size_t length = 0;  // characters in the last line
  std::istringstream words{std::string(plain)};
  for (std::string word; words >> word;) {
    const auto characters = static_cast<std::size_t>(std::lround(text_width(word, 1) / 0.62));
    if (length > 0 && length + 1 + characters > most) lines.emplace_back(), length = 0;
    if (length > 0) lines.back() += ' ', ++length;
    for (const char c : word) {
      if ((static_cast<unsigned char>(c) & 0xc0) != 0x80) {
        if (length == most) lines.emplace_back(), length = 0;
        ++length;
      }
      lines.back() += c;
    }
  }
  return lines;
}

/// A number for people: as many digits behind the point as `step` needs.
inline std::string tick_text(double value, double step) {
  const int digits = step >= 1 ? 0 : std::min(9, static_cast<int>(std::ceil(-std::log10(step) - 1e-9)));
  std::ostringstream stream;
  stream << std::fixed << std::setprecision(digits) << (std::abs(value) < step * 1e-6 ? 0.0 : value);
  return stream.str();
}

/// An axis over [low, high], widened to whole steps of 1, 2 or 5 times a power of ten.
struct Axis {
  std::string title;
  double low = 0, high = 1, step = 0.2;

  static Axis over(std::string title, double low, double high, int steps = 5) {
    if (!(std::isfinite(low) && std::isfinite(high))) low = 0, high = 1;
    if (high - low < 1e-12) low -= 0.5, high += 0.5;
    const double raw = (high - low) / steps, power = std::pow(10, std::floor(std::log10(raw)));
    const double step = power * (raw / power > 5 ? 10 : raw / power > 2 ? 5 : raw / power > 1 ? 2 : 1);
    return {std::move(title), std::floor(low / step + 1e-9) * step, std::ceil(high / step - 1e-9) * step, step};
  }
  std::vector<double> ticks() const {
    std::vector<double> all;
    for (int i = 0; low + i * step <= high + 1e-9 * step; ++i) all.push_back(low + i * step);
    return all;
  }
};

/// Widens as values are shown to it.
struct Range {
  double low = INFINITY, high = -INFINITY;
  void show(double value) {
    if (std::isfinite(value)) low = std::min(low, value), high = std::max(high, value);
  }
};

inline std::string colour(std::size_t series) { return "var(--s" + std::to_string(series % 7) + ")"; }

/// Elements of a drawing, from the top down: title and legend first, then what the chart draws below `top()`.
class Drawing {
 public:
  explicit Drawing(std::string_view title) : title_(title) {
    for (const std::string& line : wrapped(title, chart_width - 8, title_text)) {
      top_ += title_text + 3;
      text(4, top_, line, "start", title_text, " font-weight=\"600\"");
    }
    top_ += 6;
  }

  double top() const { return top_; }
  void move_down(double by) { top_ += by; }

  /// Names beside their colours, in as many rows as they need.
  void legend(const std::vector<std::pair<std::string, std::size_t>>& names) {
    double x = 4;
    top_ += small_text + 2;
    for (const auto& [name, series] : names) {
      const auto lines = wrapped(name, chart_width - 24, small_text);
      const double width = 24 + text_width(lines.size() > 1 ? lines[0] : name, small_text);
      if (x > 4 && x + width > chart_width) x = 4, top_ += small_text + 4;
      rectangle(x, top_ - 8, 10, 8, "fill=\"" + colour(series) + "\"");
      for (std::size_t i = 0; i < lines.size(); ++i) {
        if (i > 0) top_ += small_text + 2;
        text(x + 14, top_, lines[i], "start", small_text);
      }
      x += width;
      if (lines.size() > 1) x = chart_width;
    }
    top_ += 6;
  }

  void text(double x, double y, std::string_view plain, std::string_view anchor, double size,
            const std::string& attributes = {}) {
    body_ += "<text x=\"" + number_(x) + "\" y=\"" + number_(y) + "\" text-anchor=\"" + std::string(anchor) +
             "\" font-size=\"" + number_(size) + "\"" + attributes + ">" + escaped(plain) + "</text>\n";
  }
  void soft_text(double x, double y, std::string_view plain, std::string_view anchor) {
    text(x, y, plain, anchor, small_text, " class=\"soft\"");
  }
  void line(double x1, double y1, double x2, double y2, const std::string& attributes) {
    body_ += "<line x1=\"" + number_(x1) + "\" y1=\"" + number_(y1) + "\" x2=\"" + number_(x2) + "\" y2=\"" +
             number_(y2) + "\" " + attributes + "/>\n";
  }
  void rectangle(double x, double y, double width, double height, const std::string& attributes) {
    body_ += "<rect x=\"" + number_(x) + "\" y=\"" + number_(y) + "\" width=\"" + number_(std::max(width, 0.0)) +
             "\" height=\"" + number_(height) + "\" " + attributes + "/>\n";
  }
  void circle(double x, double y, double radius, const std::string& attributes) {
    body_ += "<circle cx=\"" + number_(x) + "\" cy=\"" + number_(y) + "\" r=\"" + number_(radius) + "\" " + attributes +
             "/>\n";
  }
  void path(const std::vector<std::pair<double, double>>& points, const std::string& attributes) {
    if (points.empty()) return;
    std::string d;
    for (const auto& [x, y] : points) d += (d.empty() ? "M" : "L") + number_(x) + " " + number_(y);
    body_ += "<path d=\"" + d + "\" fill=\"none\" " + attributes + "/>\n";
  }

  /// The drawing so far, `height` units high.
  std::string svg(double height) const {
    return "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 " + number_(chart_width) + " " +
           number_(std::ceil(height)) + "\" role=\"img\" aria-label=\"" + escaped(title_) + "\">\n<title>" +
           escaped(title_) + "</title>\n" + body_ + "</svg>\n";
  }

 private:
  static std::string number_(double value) {
    std::ostringstream stream;
    stream << std::round(value * 100) / 100;
    return stream.str();
  }

  std::string title_, body_;
  double top_ = 0;
};

/// The area inside the axes.
class Plot {
 public:
  /// Below the drawing's top, `height` units high; draws grid, ticks and titles. `up` empty: rows are the chart's own.
  Plot(Drawing& drawing, Axis across, std::optional<Axis> up, double height)
      : x_(std::move(across)), y_(std::move(up)) {
    double widest = 0;
    if (y_) {
      for (const double tick : y_->ticks())
        widest = std::max(widest, text_width(tick_text(tick, y_->step), small_text));
      for (const std::string& part : wrapped(y_->title, chart_width - 8, small_text)) {
        drawing.move_down(small_text + 2);
        drawing.soft_text(4, drawing.top(), part, "start");
      }
      drawing.move_down(8);
    }
    left_ = y_ ? 10 + widest : 6;
    top_ = drawing.top();
    bottom_ = top_ + height;
    if (y_) {
      for (const double tick : y_->ticks()) {
        drawing.line(left_, y(tick), right_, y(tick), "class=\"grid\"");
        drawing.soft_text(left_ - 4, y(tick) + 3.5, tick_text(tick, y_->step), "end");
      }
    }
    const auto ticks = x_.ticks();
    for (std::size_t i = 0; i < ticks.size(); ++i) {
      const std::string label = tick_text(ticks[i], x_.step);
      const double half = text_width(label, small_text) / 2;
      drawing.line(x(ticks[i]), top_, x(ticks[i]), bottom_, "class=\"grid\"");
      drawing.soft_text(std::clamp(x(ticks[i]), half, chart_width - half), bottom_ + 16, label, "middle");
    }
    drawing.line(left_, bottom_, right_, bottom_, "class=\"axis\"");
    double below = bottom_ + 17;
    for (const std::string& part : wrapped(x_.title, chart_width - 8, small_text)) {
      below += small_text + 2;
      drawing.soft_text(chart_width / 2, below, part, "middle");
    }
    end_ = below + 6;
  }

  double x(double value) const { return left_ + (value - x_.low) / (x_.high - x_.low) * (right_ - left_); }
  double y(double value) const { return bottom_ - (value - y_->low) / (y_->high - y_->low) * (bottom_ - top_); }
  double top() const { return top_; }
  double bottom() const { return bottom_; }
  double left() const { return left_; }
  double right() const { return right_; }
  /// Where the drawing ends, the axis' title included.
  double end() const { return end_; }

 private:
  Axis x_;
  std::optional<Axis> y_;
  double left_ = 0, right_ = chart_width - 10, top_ = 0, bottom_ = 0, end_ = 0;
};

/// A drawing, what it shows in words, and its numbers.
struct Figure {
  std::string svg, caption;
  Rows numbers;

  std::string html() const {
    return "<figure>\n" + svg + "<figcaption>" + escaped(caption) + "</figcaption>\n" +
           folded("Numbers of this figure", table(numbers)) + "</figure>\n";
  }
};

}  // namespace programs::report
