#pragma once

// HTML pages in one file, without references to the outside: text, tables, and the frame around them.

#include <string>
#include <string_view>
#include <vector>

#include "../results.hpp"

namespace programs::report {

/// Text as it stands in HTML and SVG, also in an attribute between double quotes.
inline std::string escaped(std::string_view plain) {
  std::string safe;
  for (const char c : plain) {
    switch (c) {
      case '&':
        safe += "&amp;";
        break;
      case '<':
        safe += "&lt;";
        break;
      case '>':
        safe += "&gt;";
        break;
      case '"':
        safe += "&quot;";
        break;
      case '\'':
        safe += "&#39;";
        break;
      default:
        // Control characters are no XML, whatever they are written as.
        if (static_cast<unsigned char>(c) >= 0x20 || c == '\n' || c == '\t') safe += c;
    }
  }
  return safe;
}

/// Rows of cells, plain text; the first row is the head. Wide ones scroll by themselves.
using Rows = std::vector<std::vector<std::string>>;

inline std::string table(const Rows& rows) {
  std::string html = "<div class=\"scroll\" tabindex=\"0\"><table>\n";
  for (std::size_t i = 0; i < rows.size(); ++i) {
    html += i == 0 ? "<thead><tr>" : i == 1 ? "<tbody><tr>" : "<tr>";
    for (std::size_t j = 0; j < rows[i].size(); ++j) {
      const std::string_view tag = i == 0 || j == 0 ? "th" : "td";
      html += "<" + std::string(tag) +
              (i == 0   ? " scope=\"col\">"
               : j == 0 ? " scope=\"row\">"
                        : ">") +
              escaped(rows[i][j]) + "</" + std::string(tag) + ">";
    }
    html += i == 0 ? "</tr></thead>\n" : "</tr>\n";
  }
  return html + (rows.size() > 1 ? "</tbody></table></div>\n" : "</table></div>\n");
}

/// Pairs of a name and a value, one below the other.
inline std::string facts(const std::vector<std::pair<std::string, std::string>>& pairs) {
  std::string html = "<dl>\n";
  for (const auto& [name, value] : pairs) html += "<dt>" + escaped(name) + "</dt><dd>" + escaped(value) + "</dd>\n";
  return html + "</dl>\n";
}

inline std::string paragraph(std::string_view plain) { return "<p>" + escaped(plain) + "</p>\n"; }

inline std::string folded(std::string_view title, const std::string& html) {
  return "<details><summary>" + escaped(title) + "</summary>\n" + html + "</details>\n";
}

inline std::string preformatted(std::string_view plain) { return "<pre tabindex=\"0\">" + escaped(plain) + "</pre>\n"; }

/// A chapter: a heading and what stands below it. Figures inside share the width, two beside each other where it is wide.
inline std::string section(std::string_view title, const std::string& html) {
  return "<section>\n<h2>" + escaped(title) + "</h2>\n" + html + "</section>\n";
}

inline std::string figures(const std::string& html) { return "<div class=\"figures\">\n" + html + "</div>\n"; }

/// Colours of series 0 to 6 after Okabe and Ito 2008 (told apart by the colour-blind), darker on light ground.
inline constexpr std::string_view style = R"(
:root { color-scheme: light dark; --ground: #fff; --ink: #1b1b1b; --soft: #5c5c5c; --line: #c9c9c9; --panel: #f5f5f5;
  --s0: #0060a8; --s1: #b34e00; --s2: #007a5a; --s3: #a3487e; --s4: #8a6d00; --s5: #3a87b8; --s6: #6b6b6b; }
@media (prefers-color-scheme: dark) { :root { --ground: #16181a; --ink: #e8e8e8; --soft: #a9adb1; --line: #474b50;
  --panel: #1f2225; --s0: #5ab4f0; --s1: #f0913c; --s2: #34c39a; --s3: #e08cbc; --s4: #e6cf45; --s5: #9ad1f2;
  --s6: #a0a0a0; } }
@media print { :root { --ground: #fff; --ink: #000; --soft: #444; --line: #bbb; --panel: #fff;
  --s0: #0060a8; --s1: #b34e00; --s2: #007a5a; --s3: #a3487e; --s4: #8a6d00; --s5: #3a87b8; --s6: #6b6b6b; }
  figure, tr { break-inside: avoid; } main { max-width: none; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 16px/1.5 system-ui, "DejaVu Sans", sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 16px; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0.5rem 0; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; line-height: 1.3; margin: 2rem 0 0.5rem; overflow-wrap: anywhere; }
p, dd, li { max-width: 80ch; overflow-wrap: anywhere; }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 480px), 1fr)); gap: 20px;
  align-items: start; }
figure { margin: 0; padding: 10px; background: var(--panel); border: 1px solid var(--line); border-radius: 6px;
  min-width: 0; }
figure svg { display: block; width: 100%; height: auto; }
figcaption { color: var(--soft); font-size: 0.88rem; margin: 6px 2px; overflow-wrap: anywhere; }
.scroll, pre { overflow-x: auto; max-width: 100%; }
pre { background: var(--panel); border: 1px solid var(--line); padding: 8px; font-size: 0.8rem; line-height: 1.4; }
table { border-collapse: collapse; font-size: 0.85rem; font-variant-numeric: tabular-nums; margin: 8px 0; }
th, td { padding: 3px 9px; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
thead th { color: var(--soft); font-weight: 600; }
tbody th { font-weight: 400; }
summary { cursor: pointer; color: var(--soft); font-size: 0.88rem; padding: 4px 0; }
dl { display: grid; grid-template-columns: minmax(7rem, max-content) 1fr; gap: 2px 14px; margin: 8px 0; font-size: 0.92rem; }
dt { color: var(--soft); } dd { margin: 0; min-width: 0; }
thead th { white-space: normal; vertical-align: bottom; }
@media (max-width: 600px) { figure { padding: 6px 4px; } main { padding: 12px; } th, td { padding: 3px 5px; } tbody th { white-space: normal; min-width: 6.5rem; } }
.failed { border-left: 4px solid var(--s1); padding-left: 10px; }
text { font-family: system-ui, "DejaVu Sans", sans-serif; fill: var(--ink); }
.soft { fill: var(--soft); } .over { paint-order: stroke; stroke: var(--panel); stroke-width: 3px; } .grid { stroke: var(--line); stroke-width: 0.6; } .axis { stroke: var(--soft); }
)";

/// A whole page. `body` is HTML.
inline std::string page(std::string_view title, const std::string& body) {
  return "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
         "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>" +
         escaped(title) + "</title>\n<link rel=\"icon\" href=\"data:,\">\n<style>" + std::string(style) +
         "</style>\n</head>\n<body>\n<main>\n<h1>" + escaped(title) + "</h1>\n" + body + "</main>\n</body>\n</html>\n";
}

}  // namespace programs::report
