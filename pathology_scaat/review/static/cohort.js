"use strict";
// The cohort's table: one row per slide, sorted and filtered here. Texts are set as text, never as markup.

const state = { rows: [], model: {}, key: "slide_id", up: true };

function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined && text !== null) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function probabilityOf(row) {
  const wanted = state.model.positive_class;
  const found = row.probabilities || {};
  const value = wanted in found ? found[wanted] : Object.values(found)[0];
  return value === undefined || value === "" ? null : Number(value);
}

function sortValue(row) {
  const value = state.key === "p" ? probabilityOf(row) : row[state.key];
  if (value === null || value === undefined || value === "") return null;
  const number = Number(value);
  return Number.isNaN(number) ? String(value).toLowerCase() : number;
}

function compare(a, b) {
  const x = sortValue(a), y = sortValue(b);
  if (x === y) return 0;
  if (x === null) return 1; // what is unknown comes last either way
  if (y === null) return -1;
  const order = typeof x === typeof y ? (x < y ? -1 : 1) : typeof x === "number" ? -1 : 1;
  return state.up ? order : -order;
}

function probabilityText(row) {
  const found = Object.entries(row.probabilities || {});
  if (!found.length) return "not computed";
  return found.map(([name, value]) => `${name} ${value === "" ? "?" : Number(value).toFixed(3)}`).join("\n");
}

function rowElement(row) {
  const line = element("tr", null, row.failed ? "failed" : "");
  const picture = element("td");
  if (row.has_slide && !row.failed) {
    const image = element("img");
    image.loading = "lazy";
    image.alt = "";
    image.width = 96;
    image.src = `/thumbnail/${encodeURIComponent(row.slide_id)}.jpg`;
    picture.append(image);
  }
  const name = element("td");
  if (row.has_map) {
    const link = element("a", row.slide_id);
    link.href = `/slide/${encodeURIComponent(row.slide_id)}`;
    name.append(link);
  } else name.textContent = row.slide_id;
  const status = element("td", row.status);
  if (row.reason) status.append(element("div", row.reason, "note"));
  if (row.notes) status.append(element("div", row.notes, "note"));
  const judged = element("td", row.n_regions === null ? "" : `${row.n_judged} of ${row.n_regions}`);
  for (const verdict of row.slide_verdicts) judged.append(element("div", `slide: ${verdict}`));
  line.append(
    picture, name, element("td", probabilityText(row), "lines"),
    element("td", row.uncertainty), element("td", row.unlike_training),
    element("td", row.n_regions === null ? "" : String(row.n_regions)), judged,
    element("td", row.split), status,
  );
  return line;
}

function draw() {
  const words = document.getElementById("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const unjudged = document.getElementById("unjudged").checked;
  const failed = document.getElementById("failed").checked;
  const shown = state.rows.filter((row) => {
    const text = `${row.slide_id} ${row.status} ${row.split} ${row.reason}`.toLowerCase();
    return words.every((word) => text.includes(word)) && (!unjudged || !row.n_judged) && (!failed || row.failed);
  });
  shown.sort(compare);
  const body = document.querySelector("#cohort tbody");
  body.replaceChildren(...shown.map(rowElement));
  const bad = state.rows.filter((row) => row.failed).length;
  document.getElementById("count").textContent =
    `${shown.length} of ${state.rows.length} slides` + (bad ? `, ${bad} failed` : "");
  for (const button of document.querySelectorAll("th button")) {
    const mine = button.dataset.key === state.key;
    button.parentElement.setAttribute("aria-sort", mine ? (state.up ? "ascending" : "descending") : "none");
  }
  sessionStorage.setItem("order", JSON.stringify(shown.filter((r) => r.has_map).map((r) => r.slide_id)));
}

function drawModel() {
  const box = document.getElementById("model"), model = state.model;
  box.append(element("h2", "Model"));
  if (model.problem) {
    box.append(element("p", model.problem, "note"));
    return;
  }
  const facts = [
    ["network", model.backbone], ["trained with", model.method], ["classes", model.classes.join(", ")],
    ["maps speak of", model.positive_class], ["at", model.mpp ? `${model.mpp} µm/px` : "unknown µm/px"],
    ["probabilities", model.probability], ...(model.terms ? [["terms", model.terms]] : []),
  ];
  const list = element("dl", null, "facts");
  for (const [name, value] of facts) list.append(element("dt", name), element("dd", String(value)));
  for (const [name, value] of Object.entries(model.metrics)) {
    if (/auc|balanced/.test(name)) list.append(element("dt", name.replaceAll("_", " ")), element("dd", value.toFixed(3)));
  }
  box.append(list);
  if (!model.trust_card) {
    box.append(element("p", "Nobody has measured how faithful these maps are: run 'scaat evaluate'.", "note"));
  }
}

async function start() {
  const answer = await fetch("/api/cohort");
  if (!answer.ok) {
    document.getElementById("count").textContent = await answer.text();
    return;
  }
  Object.assign(state, await answer.json());
  drawModel();
  for (const button of document.querySelectorAll("th button")) {
    button.addEventListener("click", () => {
      state.up = state.key === button.dataset.key ? !state.up : true;
      state.key = button.dataset.key;
      draw();
    });
  }
  for (const id of ["filter", "unjudged", "failed"]) document.getElementById(id).addEventListener("input", draw);
  draw();
}

start();
