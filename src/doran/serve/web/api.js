// The server's endpoints: models, tokens of a text, and a streamed chat. Every failure becomes a `Trouble` with a kind that
// words.js can say. No page here.

/** What went wrong. kind: gone, key, busy, stopping, long, model, refused, cut, failed. */
export class Trouble extends Error {
  constructor(kind, { message = "", seconds = 0 } = {}) {
    super(message || kind);
    this.kind = kind; this.said = message; this.seconds = seconds;
  }
}

async function request(path, key, { body, signal } = {}) {
  const headers = key ? { authorization: `Bearer ${key}` } : {};
  if (body) headers["content-type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Trouble("gone");
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

async function refusal(response) {
  const error = (await response.json().catch(() => null))?.error ?? {};
  const message = typeof error.message === "string" ? error.message : `HTTP ${response.status}`;
  if (response.status === 401) return new Trouble("key", { message });
  if (response.status === 429) return new Trouble("busy", { seconds: Number(response.headers.get("retry-after")) || 1 });
  if (response.status === 503) return new Trouble("stopping");
  if (error.code === "context_length_exceeded" && !error.param) return new Trouble("long");
  if (error.code === "model_not_found") return new Trouble("model", { message });
  return new Trouble(response.status < 500 ? "refused" : "failed", { message });
}

/** The served model's card: id, max_model_len, price_per_million. */
export async function model(key) {
  return (await (await request("v1/models", key)).json()).data[0];
}

/** How many tokens a text has. For a reply that was stopped, so no usage came. */
export async function count(text, key) {
  return text ? (await (await request("tokenize", key, { body: { prompt: text } })).json()).count : 0;
}

/** The reply as it comes: {thought}, {answer}, {ending, closedBy}, {usage}. Throws Trouble, or AbortError when stopped. */
export async function* chat(body, key, signal) {
  const response = await request("v1/chat/completions", key, { body, signal });
  for await (const text of events(response.body)) {
    if (text === "[DONE]") return;
    const chunk = JSON.parse(text);
    if (chunk.error) throw new Trouble("failed", { message: String(chunk.error.message ?? "") });
    const choice = chunk.choices?.[0], delta = choice?.delta ?? {};
    const thought = delta.reasoning_content ?? delta.reasoning;
    if (thought) yield { thought };
    if (delta.content) yield { answer: delta.content };
    if (choice?.finish_reason) yield { ending: choice.stop_reason ?? choice.finish_reason, closedBy: choice.thought_closed_by };
    if (chunk.usage) yield { usage: chunk.usage };
  }
  throw new Trouble("cut"); // no [DONE]: the server left in the middle
}

/** The data of server-sent events. Bytes may be cut anywhere, inside a character too. */
async function* events(body) {
  const reader = body.getReader(), decoder = new TextDecoder();
  let rest = "";
  try {
    for (;;) {
      let piece;
      try { piece = await reader.read(); } catch (error) {
        throw error.name === "AbortError" ? error : new Trouble("cut");
      }
      if (piece.done) return;
      rest += decoder.decode(piece.value, { stream: true });
      const parts = rest.split("\n\n");
      rest = parts.pop();
      for (const part of parts) {
        const data = part.split("\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice(6)).join("\n");
        if (data) yield data;
      }
    }
  } finally {
    reader.cancel().catch(() => {}); // lets the server free the slots when we stop reading
  }
}
