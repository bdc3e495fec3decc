"use strict";
// The page asks `status` every two seconds and shows it. Everything that comes from the server is set as text, never
// as HTML: image names and reasons may hold anything.

const byId = (id) => document.getElementById(id);
const seconds = 2;
let patience = 10;  // seconds that the server has to answer; one that hangs says nothing of itself
let asking = 0;

function show(id, text) { byId(id).textContent = text; }
function percent(value) { return value === null || value === undefined ? "–" : (100 * value).toFixed(1) + " %"; }
// Seconds since 1970, or a text such as 2026-11-21T16:00:00Z.
function when(time) {
  if (!time) return "";
  const date = new Date(typeof time === "number" ? 1000 * time : time);
  return isNaN(date) ? String(time) : date.toLocaleString();
}
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
    const signal = AbortSignal.timeout(3000 * patience);  // to stop a training takes some seconds
    const answer = await fetch(path, { method: "POST", headers: { "X-Requested-With": "mnseg" }, signal });
    const content = await answer.json().catch(() => ({}));
    say(content.detail || (answer.ok ? "Done." : "The server answered " + answer.status + "."), answer.ok);
  } catch (error) {
    say("The server has not answered to " + path + "; it may have done it all the same.");
  }
  await refresh();
}

function showLabels(status) {
  const scans = status.scans;
  show("labels-text", scans.labeled + " of " + count(scans.total, "scan") + " labeled");
  fillBar("labels-bar", scans.total ? scans.labeled / scans.total : 0);
  const more = [scans.validation + " of them kept for validation"];
  if (scans.unedited) more.push(count(scans.unedited, "mask") + " accepted unedited");
  if (status.training.waiting.length) more.push(count(status.training.waiting.length, "label") + " not yet learned from");
  show("labels-more", more.join("; "));
}

function showTraining(training) {
  const running = training.running, job = training.job, progress = (job && job.progress) || {};
  let text = training.reason || "";
  if (running) {
    text = "Training " + job.id + ": " + (job.step || "about to begin");
    if (progress.epoch) text += ", stage " + progress.stage + ", epoch " + progress.epoch + " of " + progress.max_epochs;
    if (training.paused) text += " (waiting for an inference)";
  }
  show("training-text", text);
  fillBar("training-bar", running && progress.max_epochs ? progress.epoch / progress.max_epochs : null);
  const more = [];
  if (running) {
    if (job.seconds_left !== null && job.seconds_left !== undefined) more.push(left(job.seconds_left));
    for (const [name, value] of Object.entries(progress.losses || {})) if (value !== null) more.push(name + " " + value.toFixed(3));
    for (const [name, value] of Object.entries(progress.dice || {})) if (value !== null) more.push("Dice " + name + " " + percent(value));
  } else {
    if (training.not_before) more.push("not before " + when(training.not_before));
    if (job && job.error) more.push("the last one failed: " + job.error);
    else if (job && job.details && job.details.length) more.push("last: " + job.details[job.details.length - 1]);
  }
  show("training-more", more.join("; "));
  byId("train").disabled = running;
  byId("stop").disabled = !running;
  byId("on").hidden = training.on;
  byId("off").hidden = !training.on;
}

function stateOf(version, published) {
  if (published && version.id === published.version) return "published";
  return version.verdict && !version.verdict.publish ? "refused" : "kept";
}

function labelsOf(version) {
  return version.labels ? Object.keys(version.labels).length : "–";
}

function noModel(status) {
  const labeled = status.scans.labeled;
  if (labeled < status.min_labels) return "No model yet: label at least " + count(status.min_labels, "scan") + ".";
  return "No model yet: " + count(labeled, "scan") + " labeled, " + (status.training.running ? "a training is running." : "no training is running.");
}

function showVersions(status) {
  const published = status.model;
  show("published-text", published
    ? published.name + " is served" + (status.pinned === published.version ? ", pinned" : "")
      + (status.model_fault ? ". " + status.model_fault : "")
    : noModel(status));
  byId("unpin").hidden = !status.pinned;
  byId("rollback").disabled = !status.can_roll_back;
  const versions = status.versions.map((version) => ({
    ...version, state: stateOf(version, published), dice: version.verdict ? version.verdict.dice : null }));
  byId("versions").replaceChildren(...versions.slice().reverse().map((version) => {
    const row = element("tr", undefined, { class: version.state });
    const why = version.verdict ? version.verdict.reason : version.reason || version.state;
    row.append(element("td", version.id), element("td", when(version.created)), element("td", labelsOf(version)),
      element("td", percent(version.dice)), element("td", why));
    const cell = element("td");
    if (version.state !== "published") cell.append(button("Publish", "publish/" + encodeURIComponent(version.id),
      "Serve version " + version.id + " from now on?"));
    else if (!status.pinned) cell.append(button("Pin", "pin/" + encodeURIComponent(version.id)));
    row.append(cell);
    return row;
  }));
  drawChart(versions.filter((version) => typeof version.dice === "number"));
}

function button(text, path, question) {
  const made = element("button", text, { type: "button" });
  made.addEventListener("click", () => { if (!question || confirm(question)) post(path); });
  return made;
}

function drawChart(versions) {
  const chart = byId("chart");
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
  show("queue-text", queue.length ? "" : "Every scan is labeled.");
  // Pictures are only built anew when the queue or the version changed, so that they do not flicker.
  const key = JSON.stringify([queue, published && published.version]);
  if (key === shownQueue) return;
  shownQueue = key;
  byId("queue").replaceChildren(...queue.map((entry) => {
    const item = element("li");
    const query = "?v=" + encodeURIComponent(published ? published.version : "");
    item.append(element("img", undefined, { alt: "scan " + entry.id, loading: "lazy", src: "thumbnail/" + encodeURIComponent(entry.id) + query }),
      element("strong", entry.id), element("div", entry.reason || "", { class: "soft" }));
    if (entry.client) item.append(element("div", entry.client, { class: "soft" }));
    return item;
  }));
}

// Segmentations of a DICOM server that would replace a label: a person says which of the two holds.
function showPending(entries) {
  byId("pending-section").hidden = entries.length === 0;
  byId("pending").replaceChildren(...entries.map((entry) => {
    const item = element("li", [when(entry.when), entry.patient && "patient " + entry.patient, entry.image, entry.author, entry.reason].filter(Boolean).join(" · "));
    const path = "pending/" + encodeURIComponent(entry.uid) + "/";
    const buttons = element("p", undefined, { class: "buttons" });
    buttons.append(button("Accept", path + "accept", "Replace the label of " + entry.image + "?"), button("Reject", path + "reject"));
    item.append(buttons);
    return item;
  }));
}

// What the DICOM server does not answer, does not take or does not give.
function showDicom(dicom) {
  const reasons = (group) => Object.entries(group || {}).map(([uid, why]) => uid + " · " + why);
  const lines = dicom ? [dicom.fault, ...reasons(dicom.refused), ...reasons(dicom.failed), ...reasons(dicom.aside)].filter(Boolean) : [];
  byId("dicom-section").hidden = lines.length === 0;
  byId("dicom").replaceChildren(...lines.map((line) => element("li", line)));
}

function showHistory(history) {
  byId("history").replaceChildren(...history.map((event) =>
    element("li", [when(event.when), event.version, event.kind, event.by ? "by " + event.by : "", event.reason || ""]
      .filter(Boolean).join(" · "))));
}

async function refresh() {
  asking += 1;
  try {
    const answer = await fetch("status", { cache: "no-store", signal: AbortSignal.timeout(1000 * patience) });
    if (!answer.ok) throw new Error("status " + answer.status);
    const status = await answer.json();
    if (byId("message").textContent === "The server does not answer.") say("");
    show("title", status.app.name);
    show("subtitle", status.app.version + "; structures: " + Object.keys(status.labels).join(", "));
    showLabels(status);
    showTraining(status.training);
    showVersions(status);
    showPending((status.dicom && status.dicom.pending) || []);
    showDicom(status.dicom);
    showQueue(status.queue, status.model);
    showHistory(status.history.slice().reverse());
    document.body.dataset.ready = "yes";
  } catch (error) {
    say("The server does not answer.");
  } finally {
    asking -= 1;
  }
}

document.querySelectorAll("button[data-post]").forEach((button) => button.addEventListener("click", () => {
  if (!button.dataset.ask || confirm(button.dataset.ask)) post(button.dataset.post);
}));
refresh();
setInterval(() => { if (!asking) refresh(); }, 1000 * seconds);
