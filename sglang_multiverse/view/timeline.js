"use strict";

// The model: lanes read from events, one for the trunk and one for each path; the twin of lanes.py.
// Events may come all at once or one by one; lay() is to be called before reading ends, tokens,
// rows and the critical path.

function opensBlock(text) {
  return text.trimStart().startsWith("<Parallel>");
}

function goesOn(last, position, text) {
  return (
    position === last.position + last.tokens &&
    !opensBlock(text) &&
    !last.text.trimEnd().endsWith("</Parallel>")
  );
}

class Lane {
  constructor(path, label, position, index, parent, clock) {
    Object.assign(this, { path, label, position, index, parent, clock });
    this.depth = parent ? parent.depth + 1 : 0;
    this.items = []; // pieces and forks, in text order
    this.end = position;
    this.tokens = 0;
    this.closed = false;
    this.critical = false;
    this.row = 0;
    this.height = 1;
  }

  get pieces() {
    return this.items.filter((item) => !item.lanes);
  }

  get forks() {
    return this.items.filter((item) => item.lanes);
  }

  get name() {
    return this.path ? `path ${this.path}` : "trunk";
  }
}

class Timeline {
  constructor() {
    this.lanes = [new Lane("", "", 0, 0, null, null)];
    this.byPath = new Map([["", this.lanes[0]]]);
    this.figures = {};
    this.finishReason = null;
    this.fed = 0; // events
    this.ended = false;
    this.started = false;
    this.timed = false;
    this.firstTime = 0;
    this.lastTime = 0;
  }

  get trunk() {
    return this.lanes[0];
  }

  get base() {
    return this.trunk.position;
  }

  // Tokens from left to right that a drawing needs room for: all of them, one after another.
  get length() {
    return Math.max(this.trunk.tokens, this.trunk.end - this.base, 1);
  }

  feed(event) {
    this.fed += 1;
    const lane = this.byPath.get(event.path);
    if (!lane) {
      return; // of a path that no fork has told of
    }
    const time = typeof event.t === "number" ? event.t : null;
    if (!this.started) {
      this.started = true;
      lane.position = lane.end = event.position;
      lane.clock = time;
      this.firstTime = this.lastTime = time ?? 0;
    }
    if (time !== null) {
      this.timed = true;
      this.lastTime = Math.max(this.lastTime, time);
    }
    const last = lane.items.at(-1);
    switch (event.kind) {
      case "text":
        this.text(lane, last, event, time);
        break;
      case "fork":
        this.fork(lane, last, event, time);
        break;
      case "join":
        if (last?.lanes) {
          Object.assign(last, { joined: event.position, joinedTime: time });
          lane.clock = time;
        }
        break;
      case "close":
        lane.closed = true;
        break;
      case "end":
        this.ended = true;
        this.figures = event.figures ?? {};
        this.finishReason = event.finish_reason ?? null;
        break;
    }
  }

  text(lane, last, event, time) {
    const text = event.text;
    if (last && !last.lanes && (!event.tokens || goesOn(last, event.position, text))) {
      last.tokens += event.tokens;
      last.text += text;
      last.ended = time;
    } else {
      lane.items.push({
        lane,
        position: event.position,
        tokens: event.tokens,
        text,
        role: last && last.lanes ? "conclusion" : "text",
        begun: lane.clock,
        ended: time,
      });
    }
    lane.clock = time;
  }

  fork(lane, last, event, time) {
    if (last && !last.lanes && opensBlock(last.text)) {
      last.role = "goal";
    }
    const lanes = event.paths.map(
      (one, index) => new Lane(one.path, one.label ?? "", event.position, index, lane, time),
    );
    const fork = { position: event.position, lanes, time, joined: null, joinedTime: null };
    lane.items.push(fork);
    for (const one of lanes) {
      one.fork = fork;
      this.byPath.set(one.path, one);
      this.lanes.push(one);
    }
  }

  // Ends, tokens and heights from the innermost lane out; rows and the critical path from the
  // trunk in. Lanes stand in the order they came to be, parents first, so no recursion is needed.
  lay() {
    for (const lane of [...this.lanes].reverse()) {
      lane.tokens = 0;
      lane.end = lane.position;
      lane.height = 1;
      lane.critical = false;
      for (const item of lane.items) {
        if (!item.lanes) {
          lane.tokens += item.tokens;
          lane.end = Math.max(lane.end, item.position + item.tokens);
          continue;
        }
        const furthest = (so, one) => Math.max(so, one.end);
        item.end = item.joined ?? item.lanes.reduce(furthest, item.position);
        lane.end = Math.max(lane.end, item.end);
        lane.tokens += item.lanes.reduce((sum, one) => sum + one.tokens, 0);
        lane.height = Math.max(
          lane.height,
          1 + item.lanes.reduce((sum, one) => sum + one.height, 0),
        );
      }
    }
    this.trunk.critical = true;
    for (const lane of this.lanes) {
      for (const fork of lane.forks) {
        let row = lane.row + 1;
        let longest = null;
        for (const one of fork.lanes) {
          one.row = row;
          row += one.height;
          longest = longest && longest.end >= one.end ? longest : one;
        }
        if (lane.critical && longest) {
          longest.critical = true;
        }
      }
    }
  }

  // Every piece, the paths of a block one after another.
  inTextOrder() {
    const found = [];
    const work = [this.trunk];
    while (work.length) {
      const one = work.pop();
      const inside = one.items ?? one.lanes;
      if (inside) {
        for (let i = inside.length - 1; i >= 0; i--) {
          work.push(inside[i]); // one by one: there may be more than a call takes
        }
      } else {
        found.push(one);
      }
    }
    return found;
  }

  summary() {
    const critical = this.trunk.end - this.base;
    return {
      tokens: this.trunk.tokens,
      critical,
      parallelism: critical ? this.trunk.tokens / critical : 1,
      net: this.figures.multiverse_net_parallelism ?? null,
      forks: this.lanes.reduce((sum, lane) => sum + lane.forks.length, 0),
      paths: this.lanes.length - 1,
      depth: this.lanes.reduce((most, lane) => Math.max(most, lane.depth), 0),
      seconds: this.timed ? this.lastTime - this.firstTime : null,
    };
  }
}
