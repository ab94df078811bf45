"use strict";

// Elements and the words in them. Text enters them as text alone.

const SVG = "http://www.w3.org/2000/svg";
const COLOURS = 8; // as in geometry.py
const CHARACTER = 6.1; // width of one in a label, roughly

function svg(name, attributes = {}, parent = null) {
  const element = document.createElementNS(SVG, name);
  set(element, attributes);
  parent?.append(element);
  return element;
}

function set(element, attributes) {
  for (const [key, value] of Object.entries(attributes)) {
    element.setAttribute(key, value);
  }
}

function html(name, text = "", parent = null, className = "") {
  const element = document.createElement(name);
  element.textContent = text;
  if (className) {
    element.className = className;
  }
  parent?.append(element);
  return element;
}

const counted = (n) => Math.round(n).toLocaleString("en-US");
const round = (x) => Math.round(x * 100) / 100;

function colourOf(lane) {
  return lane.path ? `c${(lane.index + 3 * (lane.depth - 1)) % COLOURS}` : "trunk";
}

function clip(text, width) {
  const room = Math.floor(width / CHARACTER);
  const line = text.replace(/\s+/g, " ").trim();
  if (line.length <= room) {
    return line;
  }
  return room < 3 ? "" : `${line.slice(0, room - 1)}…`;
}

function tick(span, width) {
  const least = (span * 90) / Math.max(width, 1);
  const power = 10 ** Math.floor(Math.log10(Math.max(least, 1e-6)));
  return [1, 2, 5, 10].map((n) => n * power).find((n) => n >= least) ?? 10 * power;
}
