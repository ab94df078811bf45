"use strict";

// Starts the page on the events that it carries.
{
  const data = JSON.parse(document.getElementById("data").textContent);
  const timeline = new Timeline();
  for (const event of data.events) {
    timeline.feed(event);
  }
  const view = new View(timeline, document.querySelector(".view"));
  view.drawIssues(data.issues);
  view.draw();
}
