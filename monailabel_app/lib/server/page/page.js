"use strict";
// The page asks `status` every two seconds and shows it. Everything that comes from the server is set as text, never
// as HTML: image names and reasons may hold anything.

const byId = (id) => document.getElementById(id);
const seconds = 2;

function show(id, text) { byId(id).textContent = text; }
function percent(value) { return value === null || value === undefined ? "–" : (100 * value).toFixed(1) + " %"; }
function when(time) { return time ? new Date(1000 * time).toLocaleString() : ""; }
function count(number, noun) { return number + " " + noun + (number === 1 ? "" : "s"); }

function left(time) {
  if (time === null || time === undefined) return "";
  if (time < 90) return Math.round(time) + " s left";
  if (time < 5400) return Math.round(time / 60) + " min left";
  return (time / 3600).toFixed(1) + " h left";
}

function element(name, text, attributes = {}) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function fillBar(id, share) {
  const bar = byId(id);
  bar.hidden = share === null;
  bar.setAttribute("aria-valuemax", 100);
  bar.setAttribute("aria-valuenow", Math.round(100 * (share || 0)));
  bar.firstElementChild.style.width = 100 * (share || 0) + "%";
}

function say(text, fine = false) {
  const message = byId("message");
  message.hidden = !text;
  message.className = fine ? "fine" : "";
  message.textContent = text;
}

async function post(path) {
  try {
    const answer = await fetch(path, { method: "POST", headers: { "X-Requested-With": "mnseg" } });
    const content = await answer.json().catch(() => ({}));
    say(content.detail || (answer.ok ? "Done." : "The server answered " + answer.status + "."), answer.ok);
  } catch (error) {
    say("The server does not answer.");
  }
  await refresh();
}

function showLabels(labels) {
  show("labels-text", labels.labeled + " of " + count(labels.total, "scan") + " labeled");
  fillBar("labels-bar", labels.total ? labels.labeled / labels.total : 0);
  const more = [count(labels.validation || 0, "scan") + " kept for validation"];
  if (labels.waiting) more.push(count(labels.waiting, "label") + " not yet learned from");
  if (labels.unedited) more.push(count(labels.unedited, "mask") + " accepted unedited");
  if (labels.pending) more.push(count(labels.pending, "label") + " from the PACS waiting for a decision");
  show("labels-more", more.join("; "));
}

function showTraining(training) {
  const running = training.running;
  let text = training.reason || "";
  if (running) {
    text = "Version " + training.version + ": " + training.step;
    if (training.epoch) text += ", stage " + training.stage + ", epoch " + training.epoch + " of " + training.max_epochs;
    if (training.paused) text += " (waiting for an inference)";
  }
  show("training-text", text);
  fillBar("training-bar", running && training.max_epochs ? training.epoch / training.max_epochs : null);
  const more = [];
  if (running && training.seconds_left !== null) more.push(left(training.seconds_left));
  for (const [name, value] of Object.entries(training.losses || {})) more.push(name + " " + value.toFixed(3));
  for (const [name, value] of Object.entries(training.dice || {})) more.push(name + " " + percent(value));
  if (!running && training.not_before) more.push("not before " + when(training.not_before));
  if (training.last && training.last.sentence) more.push("last: " + training.last.sentence);
  show("training-more", more.join("; "));
  byId("train").disabled = running;
  byId("stop").disabled = !running;
  byId("on").hidden = training.enabled;
  byId("off").hidden = !training.enabled;
}

function showVersions(status) {
  const published = status.published;
  show("published-text", published
    ? published.name + " is served" + (published.since ? " since " + when(published.since) : "") + (published.pinned ? ", pinned" : "")
    : "No model yet: label at least " + count(status.labels.min_labels, "scan") + ".");
  byId("unpin").hidden = !(published && published.pinned);
  byId("rollback").disabled = !(published && published.can_roll_back);
  byId("versions").replaceChildren(...status.versions.slice().reverse().map((version) => {
    const row = element("tr", undefined, published && version.id === published.id ? { class: "published" } : {});
    row.append(element("td", version.id), element("td", when(version.created)), element("td", version.labels ?? "–"),
      element("td", percent(version.dice)), element("td", version.reason || version.state));
    const cell = element("td");
    if (!published || version.id !== published.id) {
      const button = element("button", "Publish", { type: "button", "data-version": version.id });
      button.addEventListener("click", () => {
        if (confirm("Serve version " + version.id + " from now on?")) post("publish/" + encodeURIComponent(version.id));
      });
      cell.append(button);
    } else if (!published.pinned) {
      const button = element("button", "Pin", { type: "button" });
      button.addEventListener("click", () => post("pin/" + encodeURIComponent(version.id)));
      cell.append(button);
    }
    row.append(cell);
    return row;
  }));
  drawChart(status.versions.filter((version) => typeof version.dice === "number"));
}

function drawChart(versions) {
  const chart = byId("chart");
  chart.toggleAttribute("hidden", versions.length === 0);
  chart.style.display = versions.length ? "" : "none";
  const svg = (name, attributes, text) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const low = Math.max(0, Math.floor(10 * Math.min(1, ...versions.map((v) => v.dice))) / 10);
  const x = (index) => 60 + (versions.length < 2 ? 260 : (index * 540) / (versions.length - 1));
  const y = (dice) => 20 + 120 * (1 - (dice - low) / (1 - low || 1));
  const parts = [low, (low + 1) / 2, 1].flatMap((value) => [
    svg("line", { class: "axis", x1: 50, x2: 620, y1: y(value), y2: y(value) }),
    svg("text", { x: 4, y: y(value) + 4 }, (100 * value).toFixed(0) + " %")]);
  const kept = versions.map((version, index) => ({ ...version, index })).filter((version) => version.state !== "refused");
  parts.push(svg("path", { class: "path", d: kept.map((v, i) => (i ? "L" : "M") + x(v.index) + " " + y(v.dice)).join(" ") }));
  versions.forEach((version, index) => {
    const dot = svg("circle", { cx: x(index), cy: y(version.dice), r: 4, class: version.state });
    dot.append(svg("title", {}, version.id + ": Dice " + percent(version.dice) + ", " + version.state));
    parts.push(dot, svg("text", { x: x(index) - 14, y: 165 }, version.id));
  });
  chart.replaceChildren(...parts);
}

let shownQueue = "";
function showQueue(queue, published) {
  show("queue-text", queue.length ? "" : "Every scan is labeled or open somewhere.");
  // Pictures are only built anew when the queue or the version changed, so that they do not flicker.
  const key = JSON.stringify([queue, published && published.id]);
  if (key === shownQueue) return;
  shownQueue = key;
  byId("queue").replaceChildren(...queue.map((entry) => {
    const item = element("li");
    const query = "?v=" + encodeURIComponent(published ? published.id : "");
    item.append(element("img", undefined, { alt: "scan " + entry.id, loading: "lazy", src: "thumbnail/" + encodeURIComponent(entry.id) + query }),
      element("strong", entry.id), element("div", entry.reason || "", { class: "soft" }));
    if (entry.reserved_by) item.append(element("div", "open: " + entry.reserved_by, { class: "soft" }));
    return item;
  }));
}

function showHistory(history) {
  byId("history").replaceChildren(...history.map((event) =>
    element("li", [when(event.time), event.sentence, event.by ? "(" + event.by + ")" : ""].join("  "))));
}

async function refresh() {
  try {
    const answer = await fetch("status", { cache: "no-store" });
    if (!answer.ok) throw new Error("status " + answer.status);
    const status = await answer.json();
    if (byId("message").textContent === "The server does not answer.") say("");
    show("title", status.app.name);
    show("subtitle", status.app.version + "; structures: " + status.app.labels.join(", "));
    showLabels(status.labels);
    showTraining(status.training);
    showVersions(status);
    showQueue(status.queue, status.published);
    showHistory(status.history);
    document.body.dataset.ready = "yes";
  } catch (error) {
    say("The server does not answer.");
  }
}

document.querySelectorAll("button[data-post]").forEach((button) => button.addEventListener("click", () => {
  if (!button.dataset.ask || confirm(button.dataset.ask)) post(button.dataset.post);
}));
refresh();
setInterval(refresh, 1000 * seconds);
