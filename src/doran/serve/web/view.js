// One message on the page: the nodes of a user's or the model's message, and how they follow the message while it grows.
// Knows the shape of a message, not where messages come from.

import { el, show } from "./markdown.js";

/** A button; `act` is what app.js does when it is pressed. */
export function button(word, act, className = "plain") {
  const node = el("button", className, word);
  node.type = "button";
  node.dataset.act = act;
  return node;
}

/** {node, update(live)} of a message. `live`: it still grows. */
export function messageView(message, context) {
  return message.role === "user" ? userView(message, context) : replyView(message, context);
}

function userView(message, { words }) {
  const text = el("div", "said", message.content), tools = el("div", "tools", button(words.edit, "edit"));
  text.dir = "auto";
  const node = el("li", "message user", el("h2", "hidden", words.you), text, tools);
  return { node, update() {} };
}

function replyView(message, { words, settings }) {
  const summary = el("summary", ""), thoughtText = el("div", "thought-text");
  const thought = el("details", "thought", summary, thoughtText);
  const answer = el("div", "answer"), note = el("p", "note"), facts = el("p", "facts");
  const tools = el("div", "tools", button(words.retry, "retry"), button(words.copy, "copy"));
  const node = el("li", "message reply", el("h2", "hidden", words.model), thought, answer, note, el("div", "foot", facts, tools));
  let length = 0;
  return {
    node,
    update(live) {
      const text = message.thought ?? "";
      node.classList.toggle("live", live);
      thought.hidden = !text;
      put(summary, summaryOf(message, words, live));
      if (text.length < length) { thoughtText.replaceChildren(); length = 0; }
      if (text.length > length) {
        const follows = thoughtText.scrollHeight - thoughtText.scrollTop - thoughtText.clientHeight < 40;
        thoughtText.append(text.slice(length));
        thoughtText.normalize();
        length = text.length;
        if (live && follows) thoughtText.scrollTop = thoughtText.scrollHeight;
      }
      show(answer, message.content, words);
      put(note, live ? (text || message.content ? "" : words.waiting) : noteOf(message, words));
      note.hidden = !note.textContent;
      put(facts, live ? "" : factsOf(message, words, settings));
      tools.hidden = live;
    },
  };
}

function put(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function summaryOf(message, words, live) {
  const seconds = message.thoughtSeconds ?? 0;
  if (live && !message.content) return words.thinkingNow(seconds);
  const closed = message.closedBy && words.closedBy[message.closedBy];
  return words.thought(seconds, message.usage?.thought ?? null) + (closed ? `, ${closed}` : "");
}

function noteOf(message, words) {
  const ending = words.endings[message.ending] ?? "";
  return !message.content && message.ending !== "stopped" ? `${words.noAnswer} ${ending}`.trim() : ending;
}

/** "128 tokens · 45 tokens/s · 2.8 s · $0.00042"; what is not known is left out. */
function factsOf(message, words, settings) {
  const { usage, seconds, firstSeconds } = message, out = [];
  if (usage) {
    out.push(words.tokens(usage.tokens));
    const behind = seconds - (firstSeconds ?? 0);
    const busy = behind > 0.02 ? behind : seconds; // a short answer comes in one piece: its whole time then
    if (usage.tokens > 1 && busy > 0) out.push(words.speed((usage.tokens - 1) / busy));
  }
  if (seconds !== undefined) out.push(words.took(seconds));
  const price = usage && priceOf(usage, settings);
  if (price) out.push(price);
  return out.join(" · ");
}

/** From the user's prices per million tokens; "" where none is set. */
export function priceOf(usage, settings) {
  const { priceInput, priceOutput, currency } = settings;
  if (priceInput === "" && priceOutput === "") return "";
  const cost = ((usage.prompt ?? 0) * Number(priceInput) + usage.tokens * Number(priceOutput)) / 1e6;
  const digits = cost >= 1 || cost === 0 ? 2 : Math.min(12, 2 - Math.floor(Math.log10(cost)));
  return `${currency}${cost.toFixed(digits)}`;
}

/** A field in the place of a user's message. `act`s: resend, cancel. */
export function editor(text, words) {
  const field = el("textarea", "edit-text");
  field.value = text;
  field.setAttribute("aria-label", words.editing);
  const tools = el("div", "edit-tools", button(words.cancel, "cancel"), button(words.resend, "resend", "send"));
  return el("div", "editor", field, tools);
}
