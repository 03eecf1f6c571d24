// What the browser keeps: conversations, settings and the draft in localStorage, the API key in sessionStorage only.
// One key for each conversation, so that two tabs do not overwrite each other's. Nothing here touches the page.

const CHAT = "doran.chat.", SETTINGS = "doran.settings", DRAFT = "doran.draft", KEY = "doran.key";

export const DEFAULTS = {
  language: /^ko\b/i.test(navigator.language) ? "ko" : "en",
  theme: "auto", thinking: "on", budget: "", thinkLanguage: "", answerLanguage: "",
  temperature: "", topP: "", maxTokens: "", priceInput: "", priceOutput: "", currency: "$",
};

function read(key) {
  try { return JSON.parse(localStorage.getItem(key)); } catch { return null; }
}

/** True where it could be kept; false where the browser has no room or refuses. */
function write(key, value) {
  try { localStorage.setItem(key, JSON.stringify(value)); return true; } catch { return false; }
}

function isChat(chat) {
  return chat && typeof chat.id === "string" && typeof chat.title === "string" && Array.isArray(chat.messages) &&
    chat.messages.every((m) => m && (m.role === "user" || m.role === "assistant") && typeof m.content === "string");
}

/** A conversation's stored form, or null. */
export function load(id) {
  const chat = read(CHAT + id);
  return isChat(chat) ? chat : null;
}

/** All conversations, newest first. */
export function all() {
  const ids = Object.keys(localStorage).filter((key) => key.startsWith(CHAT)).map((key) => key.slice(CHAT.length));
  return ids.map(load).filter(Boolean).sort((a, b) => b.updated - a.updated);
}

export const save = (chat) => write(CHAT + chat.id, chat);
export const remove = (id) => localStorage.removeItem(CHAT + id);
export const isOurs = (key) => key === null || key.startsWith(CHAT);

/** A new, empty conversation; it is stored with its first message. */
export function fresh() {
  const now = Date.now(), random = crypto.getRandomValues(new Uint32Array(2));
  return { id: `${now.toString(36)}-${random[0].toString(36)}${random[1].toString(36)}`, title: "", created: now, updated: now, messages: [] };
}

export const settings = () => ({ ...DEFAULTS, ...read(SETTINGS) });
export const saveSettings = (value) => write(SETTINGS, value);
export const draft = () => read(DRAFT) || "";
export const saveDraft = (text) => write(DRAFT, text);

export const key = () => sessionStorage.getItem(KEY) || "";
export const saveKey = (text) => (text ? sessionStorage.setItem(KEY, text) : sessionStorage.removeItem(KEY));
