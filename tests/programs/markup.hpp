#pragma once

// What a report's page must be: well-formed, complete by itself, every figure with its numbers.

#include <cctype>
#include <string>
#include <string_view>
#include <vector>

namespace blinkbert::test {

/// "" where every element is closed in order, attributes are quoted and entities known; else the first fault. Void elements
/// of HTML (meta, link) need no end.
inline std::string markup_fault(std::string_view page) {
  std::vector<std::string> open;
  for (std::size_t i = 0; i < page.size(); ++i) {
    if (page[i] == '&') {
      bool is_known = false;
      for (const std::string_view entity : {"&amp;", "&lt;", "&gt;", "&quot;", "&#39;"})
        is_known = is_known || page.substr(i).starts_with(entity);
      if (!is_known) return "a bare & at " + std::string(page.substr(i, 30));
    }
    if (page[i] != '<') continue;
    const std::size_t begin = i;
    bool is_quoted = false;
    for (++i; i < page.size() && (is_quoted || page[i] != '>'); ++i) {
      if (page[i] == '"') is_quoted = !is_quoted;
      if (page[i] == '<') return "< inside a tag at " + std::string(page.substr(begin, 40));
    }
    if (i >= page.size()) return "a tag that does not end at " + std::string(page.substr(begin, 40));
    const std::string_view tag = page.substr(begin + 1, i - begin - 1);
    if (tag.starts_with("!DOCTYPE")) continue;
    const bool closes = tag.starts_with("/");
    std::string name;
    for (const char c : tag.substr(closes ? 1 : 0)) {
      if (std::isalnum(static_cast<unsigned char>(c)) == 0) break;
      name += c;
    }
    if (name.empty()) return "a tag without a name at " + std::string(page.substr(begin, 40));
    if (closes) {
      if (open.empty() || open.back() != name)
        return "</" + name + "> closes " + (open.empty() ? std::string("nothing") : open.back());
      open.pop_back();
    } else if (!tag.ends_with("/") && name != "meta" && name != "link") {
      open.push_back(name);
    }
    if (name == "style" && !closes) i = page.find("</style>", i) - 1;
  }
  return open.empty() ? "" : open.back() + " is not closed";
}

inline int count_of(std::string_view page, std::string_view word) {
  int count = 0;
  for (std::size_t at = page.find(word); at != page.npos; at = page.find(word, at + word.size())) ++count;
  return count;
}

/// "" where the page is well-formed, refers to nothing outside of it, and every figure has a drawing, a title and a table
/// of at least one row.
inline std::string page_fault(std::string_view page) {
  if (const std::string fault = markup_fault(page); !fault.empty()) return fault;
  // A namespace is a name, not a reference.
  const int namespaces = count_of(page, "xmlns=\"http://www.w3.org/2000/svg\"");
  if (count_of(page, "http://") + count_of(page, "https://") != namespaces) return "an address of the outside";
  for (const std::string_view word :
       {"<script", "<img", "<iframe", "@import", "url(", " src=", "<link rel=\"stylesheet\""}) {
    if (page.find(word) != page.npos) return "holds " + std::string(word);
  }
  for (std::size_t at = page.find("<figure>"); at != page.npos; at = page.find("<figure>", at + 1)) {
    const std::string_view figure = page.substr(at, page.find("</figure>", at) - at);
    for (const std::string_view part : {"<svg ", "<title>", "<figcaption>", "<table>", "<tbody><tr>"}) {
      if (figure.find(part) == figure.npos) return "a figure without " + std::string(part);
    }
    if (figure.find("nan") != figure.npos || figure.find("inf") != figure.npos) {
      const std::string_view svg = figure.substr(0, figure.find("</svg>"));
      for (const std::string_view word : {"\"nan", "\"-nan", "\"inf", "\"-inf", "Lnan", "Mnan", " nan"}) {
        if (svg.find(word) != svg.npos) return "a coordinate that is no number";
      }
    }
  }
  return "";
}

}  // namespace blinkbert::test
