"use strict";

// Asks the server and draws the answer while it comes. Everything that comes is a text node.

const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);

const MODES = {
  parallel: "Think step by step and in parallel before answering.",
  sequential: "Think step by step before answering.",
  plain: "",
};

// The JSON bodies of a stream of server-sent events.
async function* bodies(response) {
  const decoder = new TextDecoder();
  const reader = response.body.getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    rest += done ? decoder.decode() : decoder.decode(value, { stream: true });
    const lines = rest.split("\n");
    rest = done ? "" : lines.pop();
    for (const line of lines) {
      const body = line.startsWith("data:") ? line.slice(5).trim() : "";
      if (body && body !== "[DONE]") {
        yield JSON.parse(body);
      }
    }
    if (done) {
      return;
    }
  }
}

function reason(text, status) {
  try {
    const body = JSON.parse(text);
    return String(body.message ?? body.error?.message ?? body.error ?? body.detail ?? text);
  } catch {
    return text.trim() || `HTTP ${status}`;
  }
}

// One answer: its section, and the view in it.
class Answer {
  constructor(section) {
    this.section = section;
    this.blank = section.querySelector(".view").cloneNode(true);
    this.error = section.querySelector(".error");
    this.view = null;
  }

  begin() {
    this.section.hidden = false;
    this.error.hidden = true;
    this.view?.end();
    const root = this.blank.cloneNode(true);
    this.section.querySelector(".view").replaceWith(root);
    this.view = new View(new Timeline(), root);
    this.view.grows = true;
    this.view.draw();
  }

  async ask(body, key, signal) {
    this.begin();
    try {
      const response = await fetch(`${data.server || ".."}/v1/chat/completions`, {
        method: "POST",
        headers: {
          "Content-Type": "application/json",
          ...(key ? { Authorization: `Bearer ${key}` } : {}),
        },
        body: JSON.stringify(body),
        signal,
      });
      if (!response.ok) {
        throw new Error(`HTTP ${response.status}: ${reason(await response.text(), response.status)}`);
      }
      let told = false;
      for await (const part of bodies(response)) {
        if (part.error) {
          throw new Error(reason(JSON.stringify(part), response.status));
        }
        for (const event of part.multiverse?.events ?? []) {
          told = true;
          this.view.timeline.feed(event);
        }
        this.view.changed();
      }
      if (!told) {
        throw new Error("the server told no events: is it started with --plugin multiverse?");
      }
    } catch (error) {
      if (error.name !== "AbortError") {
        this.error.textContent = error.message;
        this.error.hidden = false;
      }
    }
    this.view.grows = false;
    this.view.changed();
  }
}

{
  const answers = { parallel: new Answer(byId("parallel")), sequential: new Answer(byId("sequential")) };
  let running = null;

  byId("question").value = data.question;

  function body(mode, enabled) {
    const question = byId("question").value.trim();
    return {
      model: data.model,
      messages: [{ role: "user", content: MODES[mode] ? `${question} ${MODES[mode]}` : question }],
      max_tokens: Number(byId("most").value),
      temperature: Number(byId("temperature").value),
      stream: true,
      custom_params: { multiverse: { events: true, enabled } },
    };
  }

  async function ask() {
    running = new AbortController();
    byId("go").disabled = true;
    byId("stop").disabled = false;
    byId("state").textContent = "writing …";
    const mode = byId("mode").value;
    const key = byId("key").value;
    const asked = [answers.parallel.ask(body(mode, mode !== "sequential"), key, running.signal)];
    if (byId("beside").checked) {
      const other = mode === "parallel" ? "sequential" : mode;
      asked.push(answers.sequential.ask(body(other, false), key, running.signal));
      answers.parallel.view.peer = answers.sequential.view;
      answers.sequential.view.peer = answers.parallel.view;
    } else {
      answers.sequential.section.hidden = true;
    }
    await Promise.all(asked);
    byId("state").textContent = running.signal.aborted ? "stopped" : "done";
    byId("go").disabled = false;
    byId("stop").disabled = true;
  }

  byId("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    if (!byId("go").disabled) {
      ask();
    }
  });
  byId("stop").addEventListener("click", () => running?.abort());
  byId("question").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      byId("ask").requestSubmit();
    }
  });
}
