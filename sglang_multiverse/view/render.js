"use strict";

// The renderer of a Timeline. Model output goes into the page as text nodes and attributes alone.

const ROW = 36;
const BAR = 14;
const BAR_TOP = 17; // within a row, below the label
const TOP = 26; // the axis
const MARGIN = 12;
let views = 0; // on this page
const LEAST_ROOM = 200; // tokens that a growing answer has room for
const DEEPEST = 40; // elements nested deeper hang side by side

class View {
  // root: an element with the parts of view.html.
  constructor(timeline, root) {
    this.timeline = timeline;
    this.root = root;
    this.axis = "position";
    this.zoom = 1;
    this.grows = false; // an answer that is being written: leave room on the right
    this.peer = null; // a view to draw to the same scale
    this.scroll = this.part("scroll");
    this.chart = this.part("chart");
    this.layers = Object.fromEntries(
      ["grid", "regions", "links", "lanes", "sequence"].map((name) => [
        name,
        svg("g", { class: name }, this.chart),
      ]),
    );
    this.title = svg("text", { class: "caption" }, this.layers.sequence);
    this.saved = svg("text", { class: "caption saved" }, this.layers.sequence);
    this.drawn = new Map(); // of a lane, a piece or a fork, its elements
    this.current = null;
    this.pending = false;
    this.treeOf = 0; // events that the tree was drawn of
    this.listen();
  }

  part(name) {
    return this.root.querySelector(`[data-part="${name}"]`);
  }

  // To be called after any feed(); draws once a frame.
  changed() {
    if (!this.pending) {
      this.pending = true;
      requestAnimationFrame(() => {
        this.pending = false;
        this.draw();
      });
    }
  }

  draw() {
    this.timeline.lay();
    this.scales();
    this.drawAxis();
    for (const lane of this.timeline.lanes) {
      this.drawLane(lane);
    }
    this.drawSequence();
    this.drawHeader();
    if (this.current) {
      this.tell(this.current);
    } else {
      const first = this.timeline.lanes.find((lane) => lane.pieces.length);
      if (first) {
        this.select(first.pieces[0], false);
      }
    }
    if (!this.grows && this.treeOf !== this.timeline.fed) {
      this.treeOf = this.timeline.fed; // drawn anew it would close what its reader has opened
      this.drawTree();
    }
  }

  scales() {
    const { timeline } = this;
    const timed = this.axis === "time" && timeline.timed;
    this.timedAxis = timed;
    let span = timed
      ? Math.max(timeline.lastTime - timeline.firstTime, 1e-3)
      : Math.max(timeline.length, this.peer?.timeline.length ?? 0);
    if (!timed && (this.grows || this.peer?.grows)) {
      const steps = Math.ceil(Math.log(span / LEAST_ROOM) / Math.log(1.5));
      span = LEAST_ROOM * 1.5 ** Math.max(0, steps);
    }
    const room = Math.max(this.scroll.clientWidth - 2 * MARGIN, 200);
    this.scale = (room * this.zoom) / span;
    this.span = span;
    const start = timed ? timeline.firstTime : timeline.base;
    this.x = (value) => round(MARGIN + ((value ?? start) - start) * this.scale);
    this.bottom = TOP + timeline.trunk.height * ROW + 10;
    const height = this.bottom + (timed ? 0 : 26 + BAR + MARGIN);
    set(this.chart, { width: Math.ceil(room * this.zoom + 2 * MARGIN), height });
  }

  y(lane) {
    return TOP + lane.row * ROW + BAR_TOP;
  }

  place(piece) {
    const x = this.x(this.timedAxis ? piece.begun : piece.position);
    const width = this.timedAxis
      ? ((piece.ended ?? 0) - (piece.begun ?? 0)) * this.scale
      : piece.tokens * this.scale;
    return { x, width: Math.max(round(width), 0) };
  }

  drawAxis() {
    const grid = this.layers.grid;
    grid.replaceChildren();
    const end = this.timedAxis ? this.span : this.timeline.trunk.end - this.timeline.base;
    const fits = tick(this.span, this.span * this.scale);
    const step = this.timedAxis ? fits : Math.max(fits, 1); // there is no half of a token
    const digits = Math.max(0, -Math.floor(Math.log10(step)));
    const start = this.timedAxis ? this.timeline.firstTime : this.timeline.base;
    for (let at = 0; at <= end + step / 1000; at += step) {
      const x = this.x(start + at);
      svg("line", { x1: x, x2: x, y1: TOP - 6, y2: this.bottom - 10 }, grid);
      const label = this.timedAxis ? `${at.toFixed(digits)} s` : counted(at);
      svg("text", { x: x + 4, y: TOP - 10 }, grid).textContent = label;
    }
    if (!this.timedAxis) {
      const x = this.x(this.timeline.trunk.end);
      svg("line", { x1: x, x2: x, y1: TOP - 6, y2: this.bottom - 10, class: "last" }, grid);
    }
  }

  elements(key, make) {
    if (!this.drawn.has(key)) {
      this.drawn.set(key, make());
    }
    return this.drawn.get(key);
  }

  drawLane(lane) {
    const drawn = this.elements(lane, () => {
      let around = lane.parent;
      while (around && around.depth >= DEEPEST) {
        around = around.parent;
      }
      const parent = around ? this.drawn.get(around).group : this.layers.lanes;
      const group = svg("g", { role: "group", class: colourOf(lane) }, parent);
      group.dataset.path = lane.path;
      return { group, label: svg("text", { class: "label" }, group) };
    });
    drawn.group.dataset.tokens = lane.tokens;
    drawn.group.dataset.position = lane.position;
    drawn.group.setAttribute("aria-label", `${lane.name}, ${counted(lane.tokens)} tokens`);
    for (const item of lane.items) {
      if (item.lanes) {
        this.drawFork(lane, item);
      } else {
        this.drawPiece(item, drawn.group);
      }
    }
    if (lane.parent) {
      const x = this.x(this.timedAxis ? lane.fork.time : lane.position);
      set(drawn.label, { x, y: this.y(lane) - 5 });
      const room = this.forkEnd(lane.fork) - x;
      drawn.label.textContent = clip(lane.label || lane.path, room);
    }
  }

  drawPiece(piece, group) {
    const drawn = this.elements(piece, () => {
      const bar = svg("rect", { rx: 2.5, tabindex: -1, role: "img" }, group);
      const chain = svg("rect", { class: "chain", height: 3 }, group);
      for (const event of ["mouseenter", "focus"]) {
        bar.addEventListener(event, () => this.select(piece, false));
      }
      return { bar, chain, piece };
    });
    const { x, width } = this.place(piece);
    const y = this.y(piece.lane);
    set(drawn.bar, { x, y, width, height: BAR, class: `bar ${piece.role}` });
    drawn.bar.dataset.length = piece.tokens;
    drawn.bar.setAttribute("aria-label", this.nameOf(piece));
    const shown = piece.lane.critical ? width : 0;
    set(drawn.chain, { x, y: y + BAR + 1.5, width: shown });
  }

  forkEnd(fork) {
    if (!this.timedAxis) {
      return this.x(fork.end);
    }
    return this.x(fork.joinedTime ?? this.timeline.lastTime);
  }

  drawFork(lane, fork) {
    const drawn = this.elements(fork, () => ({
      region: svg("rect", { rx: 6, class: "region" }, this.layers.regions),
      links: fork.lanes.map(() => svg("path", {}, this.layers.links)),
    }));
    const start = this.x(this.timedAxis ? fork.time : fork.position);
    const end = this.forkEnd(fork);
    const rows = fork.lanes.reduce((sum, one) => sum + one.height, 0);
    set(drawn.region, {
      x: start - 4,
      y: TOP + (lane.row + 1) * ROW + 1,
      width: round(end - start + 8),
      height: rows * ROW - 2,
    });
    const from = this.y(lane) + BAR / 2;
    fork.lanes.forEach((one, i) => {
      const to = this.y(one) + BAR / 2;
      let d = `M${start - 9},${from}C${start - 1},${from} ${start - 9},${to} ${start},${to}`;
      if (fork.joined !== null) {
        const close = this.timedAxis ? this.x(one.clock) : this.x(one.end);
        d += `M${close},${to}H${end}C${end + 9},${to} ${end + 1},${from} ${end + 9},${from}`;
      }
      set(drawn.links[i], { d, class: one.critical ? "critical" : "link" });
    });
  }

  drawSequence() {
    const { layers, timeline } = this;
    layers.sequence.setAttribute("visibility", this.timedAxis ? "hidden" : "visible");
    const y = this.bottom + 22;
    const { tokens, critical } = timeline.summary();
    let at = timeline.base;
    for (const piece of timeline.inTextOrder()) {
      const drawn = this.drawn.get(piece);
      if (!drawn.sequence) {
        drawn.sequence = svg("rect", {}, layers.sequence);
        drawn.sequence.addEventListener("mouseenter", () => this.select(piece, false));
      }
      set(drawn.sequence, {
        x: this.x(at),
        y,
        width: round(piece.tokens * this.scale),
        height: BAR,
        class: `bar ${piece.role} ${colourOf(piece.lane)}`,
      });
      at += piece.tokens;
    }
    set(this.title, { x: MARGIN, y: y - 7 });
    this.title.textContent = `one after another: ${counted(tokens)} tokens`;
    const x = this.x(timeline.base + critical);
    const fits = tokens > critical && (tokens - critical) * this.scale > 170;
    set(this.saved, { x: x + 6, y: this.bottom - 16 });
    this.saved.textContent = fits ? `${counted(tokens - critical)} steps saved` : "";
  }

  drawHeader() {
    const one = this.timeline.summary();
    const shown = [
      ["tokens", counted(one.tokens)],
      ["critical path", counted(one.critical)],
      ["parallelism", `${one.parallelism.toFixed(2)}×`],
      ["net", one.net === null ? "–" : `${one.net.toFixed(2)}×`],
      ["forks", counted(one.forks)],
      ["paths", counted(one.paths)],
      ["depth", counted(one.depth)],
    ];
    if (this.timeline.figures.multiverse_forward_steps !== undefined) {
      shown.push(["forward steps", counted(this.timeline.figures.multiverse_forward_steps)]);
    }
    if (one.seconds !== null) {
      shown.push(["seconds", one.seconds.toFixed(2)]);
    }
    if (this.timeline.finishReason && this.timeline.finishReason !== "stop") {
      shown.push(["finish reason", this.timeline.finishReason]);
    }
    const list = this.part("figures");
    list.replaceChildren();
    for (const [name, value] of shown) {
      const item = html("div", "", list);
      html("dt", name, item);
      html("dd", value, item);
    }
    this.part("axis").hidden = !this.timeline.timed;
  }

  nameOf(piece) {
    const role = { text: "", goal: ", goal", conclusion: ", conclusion" }[piece.role];
    const from = piece.position - this.timeline.base;
    const critical = piece.lane.critical ? ", on the critical path" : "";
    const where = `positions ${counted(from)} to ${counted(from + piece.tokens)}`;
    return `${piece.lane.name}${role}: ${counted(piece.tokens)} tokens, ${where}${critical}`;
  }

  select(piece, focus) {
    const before = this.current && this.drawn.get(this.current);
    if (before) {
      before.bar.setAttribute("tabindex", -1);
      before.bar.classList.remove("current");
      before.sequence?.classList.remove("current");
    }
    this.current = piece;
    const drawn = this.drawn.get(piece);
    drawn.bar.setAttribute("tabindex", 0);
    this.tell(piece);
    if (focus) {
      drawn.bar.focus();
      drawn.bar.scrollIntoView({ block: "nearest", inline: "nearest" });
    }
  }

  tell(piece) {
    const drawn = this.drawn.get(piece);
    drawn.bar.classList.add("current");
    drawn.sequence?.classList.add("current");
    this.part("piece-name").textContent = this.nameOf(piece);
    this.part("piece-label").textContent = piece.lane.label;
    const box = this.part("piece-text");
    if (box.textContent !== piece.text) {
      box.textContent = piece.text;
      box.scrollTop = 0;
    }
  }

  listen() {
    listenToKeys(this);
    this.part("wider").addEventListener("click", () => this.magnify(2));
    this.part("narrower").addEventListener("click", () => this.magnify(0.5));
    const group = `axis-${++views}`;
    for (const choice of this.part("axis").querySelectorAll("input")) {
      choice.name = group;
      choice.checked = choice.value === this.axis;
      choice.addEventListener("change", () => {
        this.axis = choice.value;
        this.draw();
      });
    }
    this.observer = new ResizeObserver(() => this.changed());
    this.observer.observe(this.scroll);
  }

  // To be called before the view is taken from the page.
  end() {
    this.observer.disconnect();
  }

  magnify(factor) {
    this.zoom = Math.min(Math.max(this.zoom * factor, 1), 64);
    this.draw();
    if (this.current) {
      this.scroll.scrollLeft = this.place(this.current).x - this.scroll.clientWidth / 3;
    }
  }

  // The same as text: one <details> for each path, one for each piece.
  drawTree() {
    const tree = this.part("tree");
    tree.replaceChildren();
    const branches = new Map([[this.timeline.trunk, html("ul", "", tree)]]);
    for (const lane of this.timeline.lanes) {
      const list = branches.get(lane);
      for (const item of lane.items) {
        if (!item.lanes) {
          const one = html("details", "", html("li", "", list));
          html("summary", `${item.role}, ${counted(item.tokens)} tokens`, one);
          html("pre", item.text, one);
          continue;
        }
        for (const inner of item.lanes) {
          const at = inner.depth > DEEPEST ? branches.get(this.timeline.trunk) : list;
          const one = html("details", "", html("li", "", at));
          one.open = inner.depth === 1;
          const label = inner.label ? ` “${inner.label.replace(/\s+/g, " ")}”` : "";
          const critical = inner.critical ? ", critical" : "";
          html("summary", `${inner.name}${label}, ${counted(inner.tokens)} tokens${critical}`, one);
          branches.set(inner, html("ul", "", one));
        }
      }
    }
  }

  drawIssues(issues) {
    const section = this.part("issues");
    const noun = issues.length === 1 ? "departure" : "departures";
    section.hidden = !issues.length;
    section.querySelector("summary").textContent =
      `${issues.length} ${noun} from the canonical form`;
    section.querySelector("ul").replaceChildren(...issues.map((issue) => html("li", issue)));
  }
}
