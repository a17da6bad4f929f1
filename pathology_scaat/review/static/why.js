"use strict";
// Why a region was marked: the nearest training patches, and the slide without the region.

const why = { open: false, turn: 0, shown: "" };

function made(tag, text, className) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (className) element.className = className;
  return element;
}

function neighbourElement(item) {
  const figure = made("figure");
  if (item.slide_id === null) figure.append(made("div", "picture not at hand", "no-picture"));
  else {
    const image = made("img");
    image.alt = `training patch of ${item.slide_id}`;
    image.width = image.height = 72;
    image.src = `/neighbour/${encodeURIComponent(slideId)}/${item.number}.jpg`;
    figure.append(image);
  }
  const usual = item.percentile === null ? "what is usual is not known"
    : fartherThan(item.percentile);
  const whose = item.label_copied ? "; label of the slide, copied" : "";
  figure.append(made("figcaption", `${item.slide_id ?? ""} ${item.distance} (${usual}${whose})`));
  return figure;
}

function neighbourParts(found) {
  if (found.problem) return [made("p", `Nearest training patches: ${found.problem}.`, "note")];
  const parts = [made("p", "Distances are of the model's features, against those from held-out patches to their nearest training patch; all are of other patients.", "small")];
  for (const group of found.groups) {
    parts.push(made("h2", group.title));
    const row = made("div", undefined, "neighbours");
    row.append(...group.items.map(neighbourElement));
    parts.push(group.items.length ? row : made("p", "none of other patients"));
  }
  const vote = found.vote.map(([name, share]) => `${name} ${share === null ? "unknown" : percent(share)}`);
  parts.push(made("p", `${found.voters}: ${vote.join(", ")}; ${found.worth}.`));
  return parts;
}

function withoutParts(found, count) {
  const head = made("h2", `The slide without ${count === 1 ? "this patch" : `these ${count} patches`}`);
  if (found.problem) return [head, made("p", found.problem, "note")];
  const rows = found.classes.map(([name, before, after]) => made("div", `${name}: ${decimals(before, 3)} with, ${decimals(after, 3)} without`));
  return [head, ...rows, made("p", `${found.rule}. Every patch that reaches into the region is left out.`, "small")];
}

const ROLES = { train: "trained on this slide", val: "chosen by this slide", test: "never saw this slide", "held out": "never saw this slide" };

function ensembleParts(found) {
  const head = made("h2", "Do the models of the folds agree?");
  if (found.problem) return [head, made("p", found.problem, "note")];
  const rows = found.members.map((m) => made("div",
    `${m.name}: ${decimals(m.probability, 2)} (${ROLES[m.role] ?? "what this slide was to it is not known"}${m.explained ? "; made this map" : ""})`));
  return [head, made("p", `${found.agreement}.`), ...rows,
    made("p", `${found.class}: ${found.rule}, ${found.n_patches} of them.`, "small")];
}

// Nothing is asked, and nothing shown, while a blind reader has not judged.
async function showWhy() {
  const box = byId("why-body"), region = state.details.regions[state.current];
  byId("why-button").setAttribute("aria-expanded", String(why.open));
  byId("why").hidden = !why.open;
  if (!why.open) return;
  if (!region || isBlind()) {
    why.shown = "";
    box.replaceChildren(made("p", region ? "Told after the verdict (blind)." : "No region is chosen."));
    return;
  }
  if (why.shown === region.region_id) return;
  why.shown = region.region_id;
  const turn = ++why.turn;
  box.replaceChildren(made("p", "Looking..."));
  let parts;
  try {
    const answer = await getJson(`/api/why/${encodeURIComponent(slideId)}?region=${encodeURIComponent(region.region_id)}`);
    parts = [...neighbourParts(answer.neighbours), ...withoutParts(answer.without, answer.n_patches),
      ...ensembleParts(answer.ensemble)];
  } catch (error) {
    parts = [made("p", error.message, "note")];
  }
  if (turn === why.turn) {
    box.replaceChildren(...parts);
    document.body.dataset.why = region.region_id;
  }
}

function toggleWhy() {
  why.open = !why.open;
  return showWhy();
}

byId("why-button").addEventListener("click", toggleWhy);
