"use strict";

// A request to the server, and what comes back: JSON bodies, or an Error whose message is for the
// person who asked.

// The JSON bodies of a stream of server-sent events.
async function* bodies(response) {
  const decoder = new TextDecoder();
  const reader = response.body.getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read().catch(broken);
      rest += done ? decoder.decode() : decoder.decode(value, { stream: true });
      const lines = rest.split("\n");
      rest = done ? "" : lines.pop();
      for (const line of lines) {
        const body = line.startsWith("data:") ? line.slice(5).trim() : "";
        if (body && body !== "[DONE]") {
          yield parsed(body);
        }
      }
      if (done) {
        return;
      }
    }
  } finally {
    reader.cancel().catch(() => {}); // nobody reads on: the server may stop writing
  }
}

function broken(error) {
  throw error.name === "AbortError"
    ? error
    : new Error(`the answer broke off (${error.message}): is the server still up?`);
}

function parsed(body) {
  try {
    return JSON.parse(body);
  } catch {
    throw new Error(`the server sent what is no JSON: ${shortened(body)}`);
  }
}

const shortened = (text) => (text.length > 300 ? `${text.slice(0, 300)}…` : text);

// What an answer with an error says, whichever of SGLang, OpenAI or FastAPI wrote it.
function reason(text) {
  let body;
  try {
    body = JSON.parse(text);
  } catch {
    return shortened(text.trim());
  }
  const { message, error, detail } = body ?? {};
  const said = [message, error?.message, error, detail, detail?.[0]?.msg];
  return shortened(said.find((one) => typeof one === "string") ?? text);
}

// server: its address; "" where it has given the page itself.
async function send(server, body, key, signal) {
  const to = `${server || ".."}/v1/chat/completions`;
  const headers = { "Content-Type": "application/json" };
  if (key) {
    headers.Authorization = `Bearer ${key}`;
  }
  let response;
  try {
    response = await fetch(to, { method: "POST", headers, body: JSON.stringify(body), signal });
  } catch (error) {
    if (error.name === "AbortError") {
      throw error;
    }
    // A refusal for want of the key lets no page of elsewhere read it.
    throw new Error(
      server
        ? `no answer from ${server} (${error.message}): is the API key right, and the server up?`
        : `no answer (${error.message}): is the server still up?`,
    );
  }
  if (!response.ok) {
    const hint = [401, 403].includes(response.status) ? "; is the API key right?" : "";
    const said = reason(await response.text().catch(broken));
    throw new Error(`HTTP ${response.status}${said && `: ${said}`}${hint}`);
  }
  return response;
}
