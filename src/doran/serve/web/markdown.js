// Markdown as DOM nodes. What the model writes becomes text nodes, elements from the few names below, and the address of a
// link that is http, https or mailto; nothing is parsed as HTML, and images are links, so nothing is fetched.

import { mathNode } from "./math.js";

const DEEPEST = 8;

/** An element of a class (or none) with these children. */
export function el(name, className, ...children) {
  const node = document.createElement(name);
  if (className) node.className = className;
  node.append(...children);
  return node;
}

/** Show `text` in `node`. Blocks that have not changed since the last call keep their nodes, so a selection survives. */
export function show(node, text, words) {
  const blocks = split(text.replace(/\r\n?/g, "\n")), before = node.shown ?? [];
  let same = 0;
  while (same < blocks.length && same < before.length && blocks[same].source === before[same]) same++;
  while (node.childNodes.length > same) node.lastChild.remove();
  for (const block of blocks.slice(same)) node.append(build(block, words, 0));
  node.shown = blocks.map((block) => block.source);
}

// ---- blocks --------------------------------------------------------------------------------------------------------

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^`]*)$/, HEADING = /^ {0,3}(#{1,6})\s+(\S.*)$/, RULE = /^ {0,3}([-*_])(?:\s*\1){2,}\s*$/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/, QUOTE = /^ {0,3}> ?(.*)$/, ROW = /^\s*\|?.*\|.*$/;
const DASHES = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;
const OPENS = [["$$", "$$"], ["\\[", "\\]"]];

/** [{kind, source, ...}], in order; the sources with line breaks between are the text. */
function split(text) {
  const lines = text.split("\n"), blocks = [];
  let at = 0;
  const take = (kind, count, more) => {
    blocks.push({ kind, source: kind + lines.slice(at, at + count).join("\n"), ...more });
    at += count;
  };
  while (at < lines.length) {
    const line = lines[at];
    let found;
    if (!line.trim()) at++;
    else if ((found = FENCE.exec(line))) {
      const close = new RegExp(`^ {0,3}${found[1][0] === "`" ? "`" : "~"}{${found[1].length},}\\s*$`);
      const end = lines.findIndex((l, i) => i > at && close.test(l));
      const stop = end < 0 ? lines.length : end;
      take("code", stop - at + (end < 0 ? 0 : 1), { language: found[2].trim().split(/\s/)[0], text: lines.slice(at + 1, stop).join("\n") });
    } else if ((found = mathLines(lines, at))) take("math", found.count, { text: found.text });
    else if ((found = HEADING.exec(line))) take("heading", 1, { level: found[1].length, text: found[2].trimEnd().replace(/ #+$/, "") });
    else if (RULE.test(line)) take("rule", 1);
    else if (QUOTE.test(line)) {
      const count = span(lines, at, (l) => QUOTE.test(l));
      take("quote", count, { text: lines.slice(at, at + count).map((l) => QUOTE.exec(l)[1]).join("\n") });
    } else if (ITEM.test(line)) take("list", span(lines, at, (l, i) => ITEM.test(l) || /^\s{2,}\S/.test(l) || inList(lines, i)), {});
    else if (ROW.test(line) && DASHES.test(lines[at + 1] ?? "") && lines[at + 1].includes("-")) {
      take("table", 2 + span(lines, at + 2, (l) => l.includes("|")), {});
    } else take("paragraph", Math.max(1, span(lines, at, (l, i) => l.trim() && (i === at || !begins(lines, i)))), {});
  }
  return blocks;
}

function span(lines, at, fits) {
  let end = at;
  while (end < lines.length && fits(lines[end], end)) end++;
  return end - at;
}

/** An empty line goes on with the list where an item or an indented line follows. */
const inList = (lines, i) => !lines[i].trim() && i + 1 < lines.length && (ITEM.test(lines[i + 1]) || /^\s{2,}\S/.test(lines[i + 1]));
const begins = (lines, i) => FENCE.test(lines[i]) || HEADING.test(lines[i]) || RULE.test(lines[i]) || QUOTE.test(lines[i]) || ITEM.test(lines[i]) ||
  OPENS.some(([open]) => lines[i].trimStart().startsWith(open));

/** Mathematics that stands alone on its lines; while it streams, the end may be missing: then it is text until it comes. */
function mathLines(lines, at) {
  for (const [open, close] of OPENS) {
    if (!lines[at].trimStart().startsWith(open)) continue;
    let text = lines[at].trim().slice(open.length);
    for (let count = 1; ; count++) {
      const end = text.indexOf(close);
      if (end >= 0) return text.slice(end + close.length).trim() ? null : { count, text: text.slice(0, end) };
      if (at + count >= lines.length || count > 60) return null;
      text += `\n${lines[at + count]}`;
    }
  }
  return null;
}

function build(block, words, depth) {
  const source = block.source.slice(block.kind.length);
  switch (block.kind) {
    case "code": return codeBlock(block, words);
    case "math": return mathBlock(block.text, source);
    case "heading": return el(`h${Math.min(6, block.level + 2)}`, "", ...inline(block.text));
    case "rule": return el("hr");
    case "quote": return depth < DEEPEST ? el("blockquote", "", ...nested(block.text, words, depth)) : el("p", "", source);
    case "list": return depth < DEEPEST ? list(source.split("\n"), words, depth) : el("p", "", source);
    case "table": return table(source.split("\n"));
    default: return el("p", "", ...inline(source));
  }
}

const nested = (text, words, depth) => split(text).map((block) => build(block, words, depth + 1));

function codeBlock(block, words) {
  const copy = el("button", "plain copy", words.copy);
  copy.type = "button";
  copy.dataset.copy = "code";
  return el("figure", "code", el("figcaption", "", el("span", "", block.language), copy), el("pre", "", el("code", "", block.text)));
}

function mathBlock(tex, source) {
  const node = mathNode(tex, true);
  return node ? el("div", "math", node) : el("pre", "", el("code", "", source));
}

function list(lines, words, depth) {
  const first = ITEM.exec(lines[0]), ordered = /\d/.test(first[2]), indent = first[1].length;
  const node = el(ordered ? "ol" : "ul"), items = [];
  if (ordered && Number.parseInt(first[2], 10) !== 1) node.start = Number.parseInt(first[2], 10);
  for (const line of lines) {
    const found = ITEM.exec(line);
    if (found && found[1].length <= indent + 1) items.push([found[3]]);
    else items[items.length - 1].push(line.slice(Math.min(line.length - line.trimStart().length, indent + (ordered ? 3 : 2))));
  }
  for (const item of items) {
    const parts = nested(item.join("\n"), words, depth);
    const tight = parts[0]?.tagName === "P" ? [...parts[0].childNodes, ...parts.slice(1)] : parts;
    node.append(el("li", "", ...tight));
  }
  return node;
}

function table(lines) {
  const cells = (line) => line.trim().replace(/^\||\|$/g, "").split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
  const sides = cells(lines[1]).map((cell) => (cell.endsWith(":") ? (cell.startsWith(":") ? "centre" : "right") : ""));
  const row = (line, name) => el("tr", "", ...cells(line).slice(0, 50).map((cell, i) => el(name, sides[i] ?? "", ...inline(cell))));
  const head = el("thead", "", row(lines[0], "th")), body = el("tbody", "", ...lines.slice(2).map((line) => row(line, "td")));
  return el("div", "table", el("table", "", head, body));
}

// ---- inside a line ---------------------------------------------------------------------------------------------------

const URL_START = /https?:\/\/[^\s<>"'`)\]}]{1,2000}/y, LINK = /(!?)\[([^[\]]{0,1000})\]\(\s*<?([^\s<>()]{1,2000}(?:\([^\s()]{0,200}\))?)>?(?:\s+"[^"\n]{0,500}")?\s*\)/y;
const WORD = /[\p{L}\p{N}]/u;

/** Nodes of a line's text. */
function inline(text, depth = 0) {
  const out = [];
  let plain = "", at = 0;
  const flush = () => { if (plain) out.push(plain); plain = ""; };
  while (at < text.length) {
    const found = depth < DEEPEST ? thing(text, at, depth) : null;
    if (found) { flush(); out.push(...found.nodes); at = found.end; }
    else if (text[at] === "\\" && /[!-/:-@[-`{-~]/.test(text[at + 1] ?? "")) { plain += text[at + 1]; at += 2; }
    else if (text[at] === "\n") { plain = plain.trimEnd(); flush(); out.push(el("br")); at++; }
    else plain += text[at++];
  }
  flush();
  return out;
}

function thing(text, at, depth) {
  switch (text[at]) {
    case "`": return code(text, at);
    case "$": case "\\": return math(text, at);
    case "*": case "_": case "~": return emphasis(text, at, depth);
    case "[": case "!": return link(text, at, depth);
    case "h": return bare(text, at);
    default: return null;
  }
}

function code(text, at) {
  const ticks = /`+/y; ticks.lastIndex = at;
  const mark = ticks.exec(text)[0];
  let end = text.indexOf(mark, at + mark.length);
  while (end >= 0 && text[end + mark.length] === "`") {
    while (text[end] === "`") end++;
    end = text.indexOf(mark, end);
  }
  if (end < 0) return { nodes: [mark], end: at + mark.length };
  return { nodes: [el("code", "", text.slice(at + mark.length, end).replace(/^ (.*) $/s, "$1"))], end: end + mark.length };
}

function math(text, at) {
  const open = ["$$", "\\(", "\\[", "$"].find((mark) => text.startsWith(mark, at));
  if (!open) return null;
  const close = { "$$": "$$", "\\(": "\\)", "\\[": "\\]", "$": "$" }[open], from = at + open.length, end = text.indexOf(close, from);
  if (end <= from) return null;
  const tex = text.slice(from, end);
  // "$5 and $6" is money: a dollar that opens stands before no space, one that closes after none and before no digit
  if (open === "$" && (/^\s|\s$|\n/.test(tex) || /\d/.test(text[end + 1] ?? ""))) return null;
  const node = mathNode(tex, open === "$$" || open === "\\[") ?? el("code", "", text.slice(at, end + close.length));
  return { nodes: [node], end: end + close.length };
}

function emphasis(text, at, depth) {
  for (const [mark, name] of [["**", "strong"], ["__", "strong"], ["~~", "s"], ["*", "em"], ["_", "em"]]) {
    if (!text.startsWith(mark, at)) continue;
    const from = at + mark.length, single = mark.length === 1;
    if (/\s|^$/.test(text[from] ?? "") || (mark[0] === "_" && WORD.test(text[at - 1] ?? ""))) continue;
    let end = text.indexOf(mark, from + 1);
    while (end >= 0 && (/\s/.test(text[end - 1]) || (single && (text[end + 1] === mark || text[end - 1] === mark)) ||
      (mark[0] === "_" && WORD.test(text[end + mark.length] ?? "")))) end = text.indexOf(mark, end + 1);
    if (end < 0) continue;
    if (mark === "**" && text[end + 2] === "*") end++;
    return { nodes: [el(name, "", ...inline(text.slice(from, end), depth + 1))], end: end + mark.length };
  }
  return null;
}

function link(text, at, depth) {
  LINK.lastIndex = at;
  const found = LINK.exec(text);
  if (!found) return null;
  const [whole, image, label, address] = found, href = safe(address);
  const name = image ? [label || address] : inline(label, depth + 1).map((n) => (n.tagName === "A" ? n.textContent : n));
  return { nodes: href ? [anchor(href, ...name)] : [whole], end: at + whole.length };
}

function bare(text, at) {
  URL_START.lastIndex = at;
  const found = WORD.test(text[at - 1] ?? "") ? null : URL_START.exec(text);
  if (!found) return null;
  const address = found[0].replace(/[.,;:!?*_]+$/, ""), href = safe(address);
  return href ? { nodes: [anchor(href, address)], end: at + address.length } : null;
}

/** The address, if it is one that a click may open. */
function safe(address) {
  try {
    const url = new URL(address);
    return ["http:", "https:", "mailto:"].includes(url.protocol) ? url.href : null;
  } catch { return null; }
}

function anchor(href, ...name) {
  const node = el("a", "", ...name);
  node.href = href; node.target = "_blank"; node.rel = "noopener noreferrer nofollow";
  node.title = href;
  return node;
}
