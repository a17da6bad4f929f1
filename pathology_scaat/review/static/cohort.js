"use strict";
// The cohort's table: one row per slide, sorted and filtered here. Texts are set as text, never as markup.

const UNLIKE_SLIDE = 0.25; // as the pictures warn
const PAGE = 100; // rows drawn at once: sorting and filtering must not lag with thousands
const state = { rows: [], model: {}, key: "slide_id", up: true, page: 0, elements: new Map() };

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
  return value === undefined ? null : value;
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
  const lines = found.map(([name, value]) => `${name} ${value === null ? "unknown" : decimals(value, 3)}`);
  if (row.disagreement !== null) lines.push(`± ${decimals(row.disagreement, 3)} over the models (SD)`);
  return lines.join("\n");
}

function unlikeElement(row) {
  const share = row.unlike_training, cell = element("td");
  if (share === null) {
    cell.textContent = "unknown";
    return cell;
  }
  cell.append(element("span", `${percent(share)} of patches`));
  if (share >= UNLIKE_SLIDE) cell.append(element("div", "its map may mean nothing", "note"));
  return cell;
}

function rowElement(row) { // made once: pictures stay where a row comes back
  if (!state.elements.has(row.slide_id)) state.elements.set(row.slide_id, madeRow(row));
  return state.elements.get(row.slide_id);
}

function madeRow(row) {
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
  if (row.model && state.model.fingerprint && row.model !== state.model.fingerprint) {
    status.append(element("div", "its map is of another model than the one described above", "note"));
  }
  const judged = element("td", row.n_regions ? `${row.n_judged} of ${row.n_regions}` : row.n_regions === 0 ? "nothing to judge" : "");
  for (const verdict of row.slide_verdicts) judged.append(element("div", `slide: ${verdict}`));
  const probability = element("td", probabilityText(row), "lines");
  if (row.refer) probability.append(element("div", `REFER TO A PATHOLOGIST (${row.refer})`, "note"));
  line.append(
    picture, name, probability,
    element("td", row.uncertainty === null ? "unknown" : decimals(row.uncertainty, 2)), unlikeElement(row),
    element("td", row.n_regions === null ? "" : String(row.n_regions)), judged,
    element("td", row.role), status,
  );
  return line;
}

function draw() {
  const words = document.getElementById("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const unjudged = document.getElementById("unjudged").checked;
  const failed = document.getElementById("failed").checked;
  const shown = state.rows.filter((row) => {
    const text = `${row.slide_id} ${row.status} ${row.role} ${row.reason}`.toLowerCase();
    return words.every((word) => text.includes(word)) && (!unjudged || !row.n_judged) && (!failed || row.failed);
  });
  shown.sort(compare);
  const body = document.querySelector("#cohort tbody");
  const pages = Math.max(1, Math.ceil(shown.length / PAGE));
  state.page = Math.max(0, Math.min(pages - 1, state.page));
  const first = state.page * PAGE, drawn = shown.slice(first, first + PAGE);
  body.replaceChildren(...drawn.map(rowElement));
  document.getElementById("pages").hidden = pages === 1;
  document.getElementById("page").textContent = `rows ${first + 1} to ${first + drawn.length} of ${shown.length}`;
  document.getElementById("before").disabled = state.page === 0;
  document.getElementById("after").disabled = state.page === pages - 1;
  const bad = state.rows.filter((row) => row.failed).length;
  document.getElementById("count").textContent =
    `${shown.length} of ${state.rows.length} slides` + (bad ? `, ${bad} failed` : "");
  for (const button of document.querySelectorAll("th button")) {
    const mine = button.dataset.key === state.key;
    button.parentElement.setAttribute("aria-sort", mine ? (state.up ? "ascending" : "descending") : "none");
  }
  sessionStorage.setItem("order", JSON.stringify(shown.filter((r) => r.has_map).map((r) => r.slide_id)));
}

function drawFirst() {
  state.page = 0;
  draw();
}

function turn(step) {
  state.page += step;
  draw();
  document.getElementById("cohort").scrollIntoView();
}

function drawModel() {
  const box = document.getElementById("model"), model = state.model;
  box.append(element("h2", "Model"));
  if (model.problem) box.append(element("p", model.problem, "note"));
  for (const warning of model.warnings) box.append(element("p", warning, "bad"));
  const list = element("dl", null, "facts");
  for (const [name, value] of model.facts) list.append(element("dt", name), element("dd", value));
  box.append(list);
}

async function start() {
  const answer = await fetch("/api/cohort");
  if (!answer.ok) {
    document.getElementById("count").textContent = await answer.text();
    return;
  }
  Object.assign(state, await answer.json());
  drawModel();
  if (state.exported_page) {
    document.querySelector("#exported a").href = state.exported_page;
    document.getElementById("exported").hidden = false;
  }
  for (const button of document.querySelectorAll("th button")) {
    button.addEventListener("click", () => {
      state.up = state.key === button.dataset.key ? !state.up : true;
      state.key = button.dataset.key;
      drawFirst();
    });
  }
  for (const id of ["filter", "unjudged", "failed"]) document.getElementById(id).addEventListener("input", drawFirst);
  document.getElementById("before").addEventListener("click", () => turn(-1));
  document.getElementById("after").addEventListener("click", () => turn(1));
  draw();
}

start();
