#pragma once

// Kinds of charts: lines, grouped bars, intervals, a confusion matrix, boxes. Each takes numbers and gives a drawing.

#include <array>
#include <string>
#include <utility>
#include <vector>

#include "svg.hpp"

namespace programs::report {

/// Text that grid lines may cross.
inline const std::string over_grid = " class=\"over\"";

struct Series {
  std::string name;
  std::vector<std::pair<double, double>> points;  // a y that is not finite interrupts the line
  std::size_t colour = 0;
  bool is_dashed = false;
};

/// Lines over a common x. `marked` draws a vertical line with its name at an x.
inline std::string line_chart(std::string_view title, const std::string& x_title, const std::string& y_title,
                              const std::vector<Series>& series, Range y_range = {},
                              const std::vector<std::pair<double, std::string>>& marked = {}) {
  Range x_range;
  std::vector<std::pair<std::string, std::size_t>> names;
  for (const Series& one : series) {
    names.emplace_back(one.is_dashed ? one.name + " (dashed)" : one.name, one.colour);
    for (const auto& [x, y] : one.points) x_range.show(x), y_range.show(y);
  }
  Drawing drawing(title);
  drawing.legend(names);
  Axis x_axis = Axis::over(x_title, x_range.low, x_range.high);
  x_axis.step = std::max(x_axis.step, 1.0);  // epochs and blinks are whole
  const Plot plot(drawing, x_axis, Axis::over(y_title, y_range.low, y_range.high), 170);
  for (const auto& [x, name] : marked) {
    drawing.line(plot.x(x), plot.top(), plot.x(x), plot.bottom(), "class=\"axis\" stroke-dasharray=\"2 3\"");
    const bool is_right = plot.x(x) + 6 + text_width(name, small_text) > plot.right();
    drawing.soft_text(plot.x(x) + (is_right ? -4 : 4), plot.top() + 10, name, is_right ? "end" : "start");
  }
  for (const Series& one : series) {
    const std::string stroke = "stroke=\"" + colour(one.colour) + "\" stroke-width=\"1.6\"" +
                               (one.is_dashed ? " stroke-dasharray=\"5 3\"" : "");
    std::vector<std::pair<double, double>> piece;
    const auto end_piece = [&] {
      if (piece.size() == 1) drawing.circle(piece[0].first, piece[0].second, 2, "fill=\"" + colour(one.colour) + "\"");
      if (piece.size() > 1) drawing.path(piece, stroke);
      piece.clear();
    };
    for (const auto& [x, y] : one.points) {
      if (std::isfinite(y)) {
        piece.emplace_back(plot.x(x), plot.y(y));
      } else {
        end_piece();
      }
    }
    end_piece();
  }
  return drawing.svg(plot.end());
}

/// A group of bars with a name; `values` in the order of the legend, not finite ones are left out. `interval` belongs to
/// the first bar.
struct BarGroup {
  std::string name;
  std::vector<double> values;
  std::optional<std::pair<double, double>> interval;
};

/// Horizontal bars from 0, groups below each other.
inline std::string bar_chart(std::string_view title, const std::string& x_title, const std::vector<std::string>& legend,
                             const std::vector<BarGroup>& groups) {
  constexpr double bar = 6, gap = 1.5, head = 16, rest = 7;
  Range range{.low = 0, .high = 0};
  double height = 4;
  std::vector<std::pair<double, std::vector<std::string>>> heads;
  for (const BarGroup& group : groups) {
    for (const double value : group.values) range.show(value);
    if (group.interval) range.show(group.interval->second);
    heads.emplace_back(height, wrapped(group.name, chart_width - 16, small_text));
    height += head * static_cast<double>(heads.back().second.size()) +
              (bar + gap) * static_cast<double>(group.values.size()) + rest;
  }
  Drawing drawing(title);
  std::vector<std::pair<std::string, std::size_t>> names;
  for (std::size_t i = 0; i < legend.size(); ++i) names.emplace_back(legend[i], i);
  if (legend.size() > 1) drawing.legend(names);
  const Plot plot(drawing, Axis::over(x_title, range.low, range.high), std::nullopt, height);
  for (std::size_t g = 0; g < groups.size(); ++g) {
    double y = plot.top() + heads[g].first;
    for (const std::string& line : heads[g].second)
      drawing.text(plot.left() + 2, y += head - 4, line, "start", small_text, over_grid), y += 4;
    for (std::size_t i = 0; i < groups[g].values.size(); ++i, y += bar + gap) {
      const double value = groups[g].values[i];
      if (!std::isfinite(value)) continue;
      drawing.rectangle(plot.x(0), y, plot.x(value) - plot.x(0), bar, "fill=\"" + colour(i) + "\"");
      if (i == 0 && groups[g].interval) {
        const auto [low, high] = *groups[g].interval;
        const std::string ink = "stroke=\"var(--ink)\" stroke-width=\"1.1\"";
        drawing.line(plot.x(low), y + bar / 2, plot.x(high), y + bar / 2, ink);
        for (const double end : {low, high}) drawing.line(plot.x(end), y, plot.x(end), y + bar, ink);
      }
    }
  }
  return drawing.svg(plot.end());
}

/// A value with its interval, in a row of its own below its name.
struct IntervalRow {
  std::string name;
  double value = 0;
  std::optional<std::pair<double, double>> interval;
  std::size_t colour = 0;
};

/// Points with whiskers, one colour where there is no legend; `reference` draws a vertical line.
inline std::string interval_chart(std::string_view title, const std::string& x_title,
                                  const std::vector<IntervalRow>& rows, std::optional<double> reference = {},
                                  const std::vector<std::pair<std::string, std::size_t>>& legend = {}) {
  constexpr double head = 15, mark = 14;
  Range range;
  double height = 4;
  std::vector<std::pair<double, std::vector<std::string>>> heads;
  if (reference) range.show(*reference);
  for (const IntervalRow& row : rows) {
    range.show(row.value);
    if (row.interval) range.show(row.interval->first), range.show(row.interval->second);
    heads.emplace_back(height, wrapped(row.name, chart_width - 16, small_text));
    height += head * static_cast<double>(heads.back().second.size()) + mark + 3;
  }
  Drawing drawing(title);
  if (!legend.empty()) drawing.legend(legend);
  const Plot plot(drawing, Axis::over(x_title, range.low, range.high), std::nullopt, height);
  if (reference)
    drawing.line(plot.x(*reference), plot.top(), plot.x(*reference), plot.bottom(),
                 "stroke=\"var(--ink)\" stroke-dasharray=\"3 3\"");
  for (std::size_t i = 0; i < rows.size(); ++i) {
    double y = plot.top() + heads[i].first;
    for (const std::string& line : heads[i].second)
      drawing.text(plot.left() + 2, y += head - 3, line, "start", small_text, over_grid), y += 3;
    y += mark / 2 - 1;
    if (!std::isfinite(rows[i].value)) continue;
    const std::string stroke = "stroke=\"" + colour(rows[i].colour) + "\" stroke-width=\"1.6\"";
    if (rows[i].interval) {
      const auto [low, high] = *rows[i].interval;
      drawing.line(plot.x(low), y, plot.x(high), y, stroke);
      for (const double end : {low, high}) drawing.line(plot.x(end), y - 3.5, plot.x(end), y + 3.5, stroke);
    }
    drawing.circle(plot.x(rows[i].value), y, 3.5, "fill=\"" + colour(rows[i].colour) + "\"");
  }
  return drawing.svg(plot.end());
}

/// Counts [true][predicted], shaded by the share of their row.
inline std::string confusion_chart(std::string_view title, const std::vector<std::string>& levels,
                                   const std::vector<std::vector<double>>& counts, int digits) {
  Drawing drawing(title);
  drawing.move_down(small_text + 2);
  drawing.soft_text(chart_width / 2, drawing.top(), "predicted level", "middle");
  drawing.move_down(small_text + 4);
  double widest = text_width("true", small_text);
  for (const std::string& level : levels) widest = std::max(widest, text_width(level, small_text));
  const double left = 10 + widest, width = (chart_width - 10 - left) / static_cast<double>(levels.size()), height = 34;
  drawing.soft_text(4, drawing.top(), "true", "start");
  for (std::size_t j = 0; j < levels.size(); ++j)
    drawing.soft_text(left + (static_cast<double>(j) + 0.5) * width, drawing.top(), levels[j], "middle");
  drawing.move_down(6);
  for (std::size_t i = 0; i < counts.size(); ++i) {
    double row = 0;
    for (const double count : counts[i]) row += count;
    const double y = drawing.top();
    drawing.soft_text(4, y + height / 2 + 3, levels[i], "start");
    for (std::size_t j = 0; j < counts[i].size(); ++j) {
      const double share = row > 0 ? counts[i][j] / row : 0, x = left + static_cast<double>(j) * width;
      drawing.rectangle(x, y, width - 2, height - 2,
                        "fill=\"" + colour(0) + "\" fill-opacity=\"" + fixed(Json(0.06 + 0.5 * share), 2) + "\"");
      drawing.text(x + width / 2 - 1, y + 14, fixed(Json(counts[i][j]), digits), "middle", small_text + 1);
      drawing.soft_text(x + width / 2 - 1, y + 27, row > 0 ? fixed(Json(100 * share), 0) + " %" : "-", "middle");
    }
    drawing.move_down(height);
  }
  return drawing.svg(drawing.top() + 4);
}

/// Five percentiles of predictions at one true value.
struct Box {
  double at = 0;
  std::array<double, 5> percentiles{};  // 5, 25, 50, 75, 95
};

/// Boxes (middle half, median, whiskers from 5 to 95 %), dots beside them, and the line where prediction = truth.
inline std::string box_chart(std::string_view title, const std::string& x_title, const std::string& y_title,
                             const std::vector<Box>& boxes, const std::vector<std::pair<double, double>>& dots,
                             double low, double high) {
  Drawing drawing(title);
  drawing.legend({{"windows: 5, 25, 50, 75, 95 % of them", 0}, {"recordings' means", 1}, {"prediction = truth", 6}});
  const Axis axis = Axis::over(y_title, low, high, 8);
  const Plot plot(drawing, Axis::over(x_title, low, high, 8), axis, 210);
  drawing.line(plot.x(low), plot.y(low), plot.x(high), plot.y(high),
               "stroke=\"" + colour(6) + "\" stroke-dasharray=\"4 3\"");
  const double half = 7;
  for (const Box& box : boxes) {
    const double x = std::clamp(plot.x(box.at), plot.left() + half, plot.right() - half);
    const auto& p = box.percentiles;
    const std::string stroke = "stroke=\"" + colour(0) + "\"";
    drawing.line(x, plot.y(p[0]), x, plot.y(p[4]), stroke);
    drawing.rectangle(x - half, plot.y(p[3]), 2 * half, plot.y(p[1]) - plot.y(p[3]),
                      stroke + " fill=\"" + colour(0) + "\" fill-opacity=\"0.3\"");
    drawing.line(x - half, plot.y(p[2]), x + half, plot.y(p[2]), stroke + " stroke-width=\"2\"");
  }
  for (const auto& [x, y] : dots)
    drawing.circle(plot.x(x), plot.y(y), 2, "fill=\"" + colour(1) + "\" fill-opacity=\"0.8\"");
  return drawing.svg(plot.end());
}

}  // namespace programs::report
