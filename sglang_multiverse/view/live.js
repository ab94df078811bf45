"use strict";

// Asks the server and draws the answer while it comes. Everything that comes is a text node.

const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);

// What the answer on top is called, and what the question ends with.
const NAMES = { parallel: "In parallel", sequential: "One after another", plain: "As asked" };
const MODES = {
  parallel: "Think step by step and in parallel before answering.",
  sequential: "Think step by step before answering.",
  plain: "",
};

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

  // Resolves to how it came out: "done", "stopped" or "failed".
  async ask(body, key, signal) {
    this.begin();
    let outcome = "done";
    try {
      await this.read(await send(data.server, body, key, signal));
    } catch (error) {
      outcome = error.name === "AbortError" ? "stopped" : "failed";
      if (outcome === "failed") {
        this.error.textContent = error.message;
        this.error.hidden = false;
      }
    }
    this.view.grows = false;
    this.view.draw(); // now: whoever reads "done" sees all of it
    return outcome;
  }

  async read(response) {
    let told = false;
    for await (const part of bodies(response)) {
      if (part?.error) {
        throw new Error(reason(JSON.stringify(part)));
      }
      for (const event of part?.multiverse?.events ?? []) {
        told = true;
        this.view.timeline.feed(event);
      }
      this.view.changed();
    }
    if (!told) {
      throw new Error("the server told no events: is it started with --plugin multiverse?");
    }
    if (!this.view.timeline.ended) {
      throw new Error("the answer broke off: its stream ended before it did");
    }
  }
}

{
  const answers = {
    parallel: new Answer(byId("parallel")),
    sequential: new Answer(byId("sequential")),
  };
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
    byId("parallel").querySelector("h2").textContent = NAMES[mode];
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
    const outcomes = await Promise.all(asked);
    const outcome = ["failed", "stopped"].find((one) => outcomes.includes(one));
    byId("state").textContent = outcome ?? "done";
    byId("go").disabled = false;
    byId("stop").disabled = true;
  }

  byId("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    if (byId("go").disabled) {
      return; // one answer at a time, though the keyboard may ask again
    }
    if (byId("question").value.trim()) {
      ask();
    } else {
      byId("question").setCustomValidity("Please write a question.");
      byId("ask").reportValidity();
    }
  });
  byId("question").addEventListener("input", () => byId("question").setCustomValidity(""));
  // What an earlier question came to is no answer to the one that the form refuses.
  byId("ask").addEventListener(
    "invalid",
    () => {
      if (!byId("go").disabled) {
        Object.values(answers).forEach((one) => (one.error.hidden = true));
        byId("state").textContent = "";
      }
    },
    true,
  );
  byId("stop").addEventListener("click", () => running?.abort());
  byId("question").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      byId("ask").requestSubmit();
    }
  });
}
