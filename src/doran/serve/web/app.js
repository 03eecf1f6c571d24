// The page: which conversation is shown, sending, stopping, retrying, editing, history and settings.
// Formats are elsewhere: api.js (server), store.js (browser), markdown.js and math.js (text), view.js (a message), words.js.

import * as api from "./api.js";
import * as store from "./store.js";
import { WORDS } from "./words.js";
import { button, editor, messageView } from "./view.js";

const $ = (id) => document.getElementById(id);
const scroll = $("scroll"), text = $("text"), narrow = matchMedia("(max-width: 760px)");
let settings = store.settings(), words = WORDS[settings.language] ?? WORDS.en;
let chat = store.fresh();
let views = [];
let model = null; // the served model's card, once known
let running = null; // {chat, message, abort}: the reply that comes now; one at a time, whichever conversation is shown
let trouble = null; // {chat, error}: what went wrong last
let follows = true; // the newest text is kept in sight

// ---- showing -------------------------------------------------------------------------------------------------------

function showWords() {
  words = WORDS[settings.language] ?? WORDS.en;
  document.documentElement.lang = settings.language;
  document.documentElement.dataset.theme = settings.theme;
  for (const node of document.querySelectorAll("[data-word]")) node.textContent = words[node.dataset.word];
  $("switch-language").lang = settings.language === "ko" ? "en" : "ko";
  for (const node of document.querySelectorAll("[data-placeholder]")) node.placeholder = words[node.dataset.placeholder];
  for (const node of document.querySelectorAll("[data-label]")) node.setAttribute("aria-label", words[node.dataset.label]);
  $("examples").replaceChildren(...words.examples.map((example) => {
    const item = document.createElement("li");
    item.append(button(example, "example", "example"));
    return item;
  }));
}

function showChat() {
  views = chat.messages.map((message) => messageView(message, { words, settings }));
  views.forEach((view, i) => { view.node.dataset.index = i; });
  $("messages").replaceChildren(...views.map((view) => view.node));
  $("empty").hidden = chat.messages.length > 0;
  $("title").textContent = chat.title || words.untitled;
  document.title = chat.title ? `${chat.title} · doran` : "doran";
  update();
  views.forEach((view, i) => { if (!isLive(i)) view.update(false); });
  showHistory();
  showTrouble();
  toEnd();
}

const isLive = (i) => running !== null && running.message === chat.messages[i];

/** What changes while a reply comes. */
function update() {
  $("send").hidden = running !== null;
  $("stop").hidden = running === null;
  $("model").textContent = model?.id ?? "";
  const i = chat.messages.length - 1;
  views.forEach((view, j) => view.node.classList.toggle("last", j === i));
  if (views[i]) views[i].update(isLive(i));
  if (follows) toEnd();
}

function toEnd() {
  scroll.scrollTop = scroll.scrollHeight;
  follows = true;
  $("latest").hidden = true;
}

function showHistory() {
  const chats = store.all();
  const items = chats.map((one) => {
    const item = document.createElement("li"), open = button(one.title, "open", "open");
    item.dataset.id = one.id;
    item.append(open);
    if (one.id === chat.id) {
      open.setAttribute("aria-current", "page");
      const tools = document.createElement("div");
      tools.className = "item-tools";
      tools.append(button(words.rename, "rename"), button(words.exportOne, "export"), button(words.delete, "delete"));
      item.append(tools);
    }
    return item;
  });
  $("history").replaceChildren(...items);
  $("export-all").hidden = chats.length === 0;
}

function showTrouble() {
  const here = trouble !== null && trouble.chat.id === chat.id, node = $("trouble");
  node.hidden = !here;
  if (!here) { node.replaceChildren(); return; }
  const { kind } = trouble.error, act = kind === "key" ? "enter-key" : "retry";
  const parts = [words.trouble[kind](trouble.error)];
  if (kind === "key") parts.push(" ", button(words.enterKey, act));
  if (kind !== "full" && chat.messages.length) parts.push(" ", button(words.retry, "retry"));
  node.replaceChildren(...parts);
}

const say = (line) => { $("status").textContent = line; };

let toastTimer = 0;
function toast(line, undo) {
  const node = $("toast");
  clearTimeout(toastTimer);
  node.replaceChildren(line);
  if (undo) {
    const back = button(words.undo, "undo");
    back.addEventListener("click", () => { node.hidden = true; undo(); });
    node.append(" ", back);
  }
  node.hidden = false;
  toastTimer = setTimeout(() => { node.hidden = true; }, undo ? 10000 : 2000);
}

function keep(one) {
  if (!store.save(one)) { trouble = { chat: one, error: new api.Trouble("full") }; showTrouble(); }
}

// ---- asking --------------------------------------------------------------------------------------------------------

function submit() {
  const said = text.value.trim();
  if (!said || running) return;
  text.value = "";
  store.saveDraft("");
  grow();
  ask(said);
}

function ask(said) {
  chat.title ||= said.replace(/\s+/g, " ").slice(0, 60);
  chat.messages.push({ role: "user", content: said });
  say(words.said.sent);
  run(chat);
}

/** The last answer again; the old one stays until the new one begins. */
function retry() {
  if (running || !chat.messages.length) return;
  const old = chat.messages.at(-1).role === "assistant" ? chat.messages.pop() : null;
  run(chat, old);
}

async function run(one, old = null) {
  const message = { role: "assistant", content: "", thought: "" }, abort = new AbortController(), started = performance.now();
  const since = () => (performance.now() - started) / 1000;
  const mine = { chat: one, message, abort };
  running = mine;
  trouble = null;
  one.updated = Date.now();
  keep(one);
  one.messages.push(message);
  showChat();
  const ticking = setInterval(() => { if (message.thought && !message.content) { message.thoughtSeconds = since() - message.firstSeconds; later(); } }, 200);
  try {
    model ??= await api.model(store.key());
    for await (const event of api.chat(bodyOf(one, message), store.key(), abort.signal)) {
      take(message, event, since());
      later();
    }
  } catch (error) {
    if (error.name === "AbortError") message.ending = "stopped";
    else fail(one, message, error);
  } finally {
    clearInterval(ticking);
    message.seconds = since();
    running = null;
    update();
  }
  if (mine.chat !== one) return; // undone meanwhile: the conversation is what it was before
  await finish(one, message, old);
}

/** The request: neighbours of one role are joined, since templates want them to take turns; answers that never came are left out. */
function bodyOf(one, message) {
  const messages = [];
  for (const { role, content } of one.messages) {
    if (!content) continue;
    if (messages.at(-1)?.role === role) messages.at(-1).content += `\n\n${content}`;
    else messages.push({ role, content });
  }
  const body = { model: model.id, messages, stream: true, stream_options: { include_usage: true } };
  const number = (name, value) => { if (value !== "" && Number.isFinite(Number(value))) body[name] = Number(value); };
  number("temperature", settings.temperature);
  number("top_p", settings.topP);
  number("max_tokens", settings.maxTokens);
  const thinks = settings.thinking !== "off";
  if (thinks) number("thinking_token_budget", settings.budget);
  else body.chat_template_kwargs = { enable_thinking: false };
  if (thinks && settings.thinkLanguage) body.think_language = settings.thinkLanguage;
  if (settings.answerLanguage) body.answer_language = settings.answerLanguage;
  message.model = model.id;
  return body;
}

function take(message, event, now) {
  if (event.thought !== undefined || event.answer !== undefined) message.firstSeconds ??= now;
  if (event.thought !== undefined) {
    if (!message.thought) say(words.said.thinking);
    message.thought += event.thought;
    message.thoughtSeconds = now - message.firstSeconds;
  }
  if (event.answer !== undefined) {
    if (!message.content) {
      say(words.said.answering);
      if (message.thought) message.thoughtSeconds = now - message.firstSeconds;
    }
    message.content += event.answer;
  }
  if (event.ending) { message.ending = event.ending; message.closedBy = event.closedBy; }
  if (event.usage) {
    const { prompt_tokens: prompt, completion_tokens: tokens, completion_tokens_details: details } = event.usage;
    message.usage = { prompt, tokens, thought: details?.reasoning_tokens ?? null };
  }
}

function fail(one, message, error) {
  const known = error instanceof api.Trouble ? error : new api.Trouble("failed");
  if (known !== error) console.error(error);
  if (known.kind === "model") model = null;
  if (message.content || message.thought) message.ending = "cut";
  trouble = { chat: one, error: known };
}

/** A reply is over, by itself, by a stop or by a failure. An empty one leaves the place to what was there before. */
async function finish(one, message, old) {
  const empty = !message.content && !message.thought, failed = trouble !== null && trouble.chat === one;
  const vanishes = empty && (old || failed || message.ending === "stopped");
  if (vanishes) {
    one.messages.pop();
    if (old) one.messages.push(old);
  }
  if (!message.usage && message.ending === "stopped" && !empty) await countTokens(message);
  one.updated = Date.now();
  if (store.load(one.id)) keep(one); // it may have been deleted meanwhile
  say(message.ending === "stopped" ? words.said.stopped : message.content.slice(0, 2000));
  if (one === chat && vanishes) return showChat();
  if (one === chat) update(); // the same nodes: what the reader unfolded stays open
  showHistory();
  showTrouble();
}

async function countTokens(message) {
  try {
    const thought = await api.count(message.thought, store.key());
    message.usage = { tokens: thought + (await api.count(message.content, store.key())), thought };
  } catch { /* then no count is shown */ }
}

let drawing = 0;
function later() {
  drawing ||= requestAnimationFrame(() => { drawing = 0; if (running?.chat === chat) update(); });
}

const stop = () => running?.abort.abort();

// ---- history -------------------------------------------------------------------------------------------------------

function open(one) {
  chat = running && running.chat.id === one.id ? running.chat : one;
  showChat();
  showSide(false);
}

function fresh() {
  open(store.fresh());
  text.focus();
}

function remove(one) {
  if (running?.chat.id === one.id) stop();
  store.remove(one.id);
  if (chat.id === one.id) open(store.all()[0] ?? store.fresh()); else showHistory();
  toast(words.deleted(one.title), () => { keep(one); open(one); });
}

function rename(item, one) {
  const field = document.createElement("input");
  field.value = one.title;
  field.maxLength = 200;
  field.setAttribute("aria-label", words.renaming);
  let over = false;
  const end = (kept) => {
    if (over) return;
    over = true;
    const title = field.value.trim();
    if (kept && title) { one.title = title; if (one.id === chat.id) chat.title = title; keep(one); }
    showChat();
    $("history").querySelector(`[aria-current]`)?.focus();
  };
  field.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.isComposing) end(true);
    if (event.key === "Escape") { event.stopPropagation(); end(false); }
  });
  field.addEventListener("blur", () => end(true));
  item.replaceChildren(field);
  field.select();
}

function download(name, value) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(value, null, 2)], { type: "application/json" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

const exported = (chats) => ({ format: "doran-chats-1", exported: new Date().toISOString(), chats });

// ---- events --------------------------------------------------------------------------------------------------------

function edit(item) {
  const message = chat.messages[item.dataset.index], box = editor(message.content, words), field = box.querySelector("textarea");
  const hidden = [...item.children];
  hidden.forEach((node) => { node.hidden = true; });
  item.append(box);
  field.style.height = `${field.scrollHeight + 2}px`;
  field.focus();
  const leave = () => { box.remove(); hidden.forEach((node) => { node.hidden = false; }); item.querySelector("[data-act=edit]").focus(); };
  const resend = () => {
    const said = field.value.trim(), before = structuredClone(chat);
    if (!said || running) return;
    const gone = chat.messages.length - Number(item.dataset.index) - 1;
    chat.messages.length = Number(item.dataset.index);
    text.focus();
    ask(said);
    if (gone > 1) toast(words.replaced, () => { if (running?.chat.id === before.id) running.chat = before; stop(); keep(before); open(before); });
  };
  box.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { event.stopPropagation(); leave(); }
    if (isSend(event)) { event.preventDefault(); resend(); }
  });
  box.querySelector("[data-act=cancel]").addEventListener("click", leave);
  box.querySelector("[data-act=resend]").addEventListener("click", resend);
}

async function copy(what) {
  try { await navigator.clipboard.writeText(what); say(words.copied); toast(words.copied); } catch { /* the browser refused */ }
}

/** Enter, but not the one that ends a Hangul syllable. */
const isSend = (event) => event.key === "Enter" && !event.shiftKey && !event.isComposing && event.keyCode !== 229;

function grow() {
  text.style.height = "auto";
  text.style.height = `${Math.min(text.scrollHeight + 2, innerHeight * 0.4)}px`;
}

function showSide(shown) {
  $("side").classList.toggle("shown", shown);
  $("shade").classList.toggle("shown", shown);
  $("side").inert = narrow.matches && !shown;
  $("side-open").setAttribute("aria-expanded", String(shown));
  if (shown) $("new").focus();
}

function openSettings(focus) {
  for (const field of document.querySelectorAll("[data-setting]")) field.value = settings[field.dataset.setting];
  $("key").value = store.key();
  $("settings").showModal();
  if (focus) $(focus).focus();
}

const ACTS = {
  example: (node) => { text.value = node.textContent; grow(); text.focus(); },
  edit: (node) => { if (!running) edit(node.closest(".message")); },
  retry: () => retry(),
  copy: (node) => copy(chat.messages[node.closest(".message").dataset.index].content),
  "enter-key": () => openSettings("key"),
  open: (node, id) => { const one = store.load(id); if (one) open(one); },
  rename: (node, id) => rename(node.closest("li"), id === chat.id ? chat : store.load(id)),
  export: (node, id) => download(`doran-${id}.json`, exported([store.load(id)])),
  delete: (node, id) => { const one = store.load(id); if (one) remove(one); },
};

document.addEventListener("click", (event) => {
  const node = event.target.closest("button");
  if (node?.dataset.copy) copy(node.closest("figure").querySelector("code").textContent);
  else if (node?.dataset.act) ACTS[node.dataset.act]?.(node, node.closest("li")?.dataset.id);
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || $("settings").open) return;
  if (running) stop();
  else if ($("side").classList.contains("shown")) { showSide(false); $("side-open").focus(); }
});
$("composer").addEventListener("submit", (event) => { event.preventDefault(); submit(); });
text.addEventListener("keydown", (event) => { if (isSend(event)) { event.preventDefault(); submit(); } });
text.addEventListener("input", () => { grow(); store.saveDraft(text.value); });
$("stop").addEventListener("click", () => { stop(); text.focus(); });
$("new").addEventListener("click", fresh);
$("latest").addEventListener("click", toEnd);
$("side-open").addEventListener("click", () => showSide(true));
for (const id of ["side-close", "shade"]) $(id).addEventListener("click", () => { showSide(false); $("side-open").focus(); });
narrow.addEventListener("change", () => showSide(false));
$("export-all").addEventListener("click", () => download("doran-chats.json", exported(store.all())));
$("settings-open").addEventListener("click", () => openSettings());
$("switch-language").addEventListener("click", () => {
  settings = { ...settings, language: settings.language === "ko" ? "en" : "ko" };
  store.saveSettings(settings);
  showWords();
  showChat();
});
$("settings").addEventListener("input", (event) => {
  const field = event.target, name = field.dataset.setting;
  if (field.id === "key") { store.saveKey(field.value.trim()); model = null; }
  if (!name || !field.checkValidity()) return;
  settings = { ...settings, [name]: field.value };
  store.saveSettings(settings);
  showWords();
});
$("settings").addEventListener("close", () => { showChat(); if (!model) greet(); });
scroll.addEventListener("scroll", () => {
  follows = scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 60;
  $("latest").hidden = follows;
});
addEventListener("storage", (event) => { if (store.isOurs(event.key)) showHistory(); });
addEventListener("pagehide", () => { if (running) { running.message.ending = "cut"; store.save(running.chat); } });

async function greet() {
  try { model = await api.model(store.key()); trouble = null; } catch (error) {
    if (error instanceof api.Trouble) trouble = { chat, error };
  }
  update();
  showTrouble();
}

showWords();
text.value = store.draft();
open(store.all()[0] ?? chat);
grow();
greet();
if (!narrow.matches) text.focus();
