"use strict";

// The way from piece to piece by keys: what one sees by moving a pointer, without one.

function listenToKeys(view) {
  view.chart.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !view.current) {
      return;
    }
    const next = step(view, event.key);
    if (next) {
      view.select(next, true);
      event.preventDefault();
    } else if (event.key === "+" || event.key === "-") {
      view.magnify(event.key === "+" ? 2 : 0.5);
      event.preventDefault();
    }
  });
}

// Left and right: along a lane. Up and down: to the nearest lane there that has text around here.
function step(view, key) {
  const pieces = view.current.lane.pieces;
  const at = pieces.indexOf(view.current);
  switch (key) {
    case "ArrowLeft":
      return pieces[at - 1];
    case "ArrowRight":
      return pieces[at + 1];
    case "Home":
      return pieces[0];
    case "End":
      return pieces.at(-1);
    case "ArrowUp":
      return beside(view, -1);
    case "ArrowDown":
      return beside(view, 1);
    default:
      return undefined;
  }
}

function beside(view, direction) {
  const here = view.place(view.current);
  const cost = (piece) => {
    const rows = (piece.lane.row - view.current.lane.row) * direction;
    const there = view.place(piece);
    const gap = Math.max(there.x - (here.x + here.width), here.x - (there.x + there.width), 0);
    return rows > 0 ? gap * 1000 + rows : Infinity;
  };
  let best;
  let least = Infinity;
  for (const lane of view.timeline.lanes) {
    for (const piece of lane.pieces) {
      const one = cost(piece);
      if (one < least) {
        [best, least] = [piece, one];
      }
    }
  }
  return best;
}
