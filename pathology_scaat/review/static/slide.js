"use strict";
// One slide: two linked views, the map coloured here, and verdicts on its regions by keyboard.

const byId = (id) => document.getElementById(id);
const slideId = decodeURIComponent(location.pathname.split("/").pop());
const state = {
  details: null, viewers: [], map: null, current: -1, overlayOn: true, outlinesOn: true,
  verdicts: new Map(), done: [], shownAt: 0, layers: [], drawing: 0, ordered: "uncertainty",
};
const NOTHING = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7";

function say(problem) { byId("problem").textContent = problem; }

async function getJson(url, options) {
  const answer = await fetch(url, options);
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
}

// -- the viewers
function tileSource() {
  const slide = state.details.slide, box = state.details.map_box;
  if (!slide) return { width: box.width, height: box.height, tileSize: 1 << 24, minLevel: 0, maxLevel: 0, getTileUrl: () => NOTHING };
  return {
    width: slide.width, height: slide.height, tileSize: slide.tile_px, minLevel: 0, maxLevel: slide.max_level,
    getTileUrl: (level, x, y) => `/tiles/${encodeURIComponent(slideId)}/${level}/${x}_${y}.jpg`,
  };
}

function makeViewer(id) {
  const viewer = OpenSeadragon({
    element: byId(id), tileSources: tileSource(), drawer: "canvas", showNavigationControl: false,
    showNavigator: id === "bare", navigatorPosition: "BOTTOM_LEFT", animationTime: 0.3, maxZoomPixelRatio: 4,
    gestureSettingsMouse: { clickToZoom: false }, imageLoaderLimit: 6, prefixUrl: "",
  });
  viewer.innerTracker.keyHandler = null; // keys belong to the verdicts
  viewer.innerTracker.keyDownHandler = null;
  const lines = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  lines.setAttribute("aria-hidden", "true");
  viewer.canvas.append(lines);
  viewer.lines = lines;
  viewer.addHandler("update-viewport", () => placeLines(viewer));
  return viewer;
}

function link(a, b) {
  let following = false;
  const follow = (from, to) => from.addHandler("update-viewport", () => {
    if (following) return;
    following = true;
    to.viewport.zoomTo(from.viewport.getZoom(true), null, true);
    to.viewport.panTo(from.viewport.getCenter(true), true);
    following = false;
  });
  follow(a, b);
  follow(b, a);
}

function pathOf(region) {
  return region.rings.map((ring) => "M" + ring.map(([x, y]) => `${x} ${y}`).join("L") + "Z").join("");
}

function drawLines() {
  for (const viewer of state.viewers) {
    const group = document.createElementNS("http://www.w3.org/2000/svg", "g");
    state.details.regions.forEach((region, index) => {
      if ((!state.outlinesOn || isBlind()) && index !== state.current) return;
      const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
      path.setAttribute("d", pathOf(region));
      if (index === state.current) path.setAttribute("class", "current");
      group.append(path);
    });
    group.append(...drawnPaths(viewer));
    viewer.lines.replaceChildren(group);
    placeLines(viewer);
  }
}

function placeScale(viewer) { // screen pixels a level-0 pixel
  const item = viewer.world.getItemAt(0), at = (x) => item.imageToViewerElementCoordinates(new OpenSeadragon.Point(x, 0)).x;
  return item ? (at(1000) - at(0)) / 1000 : 0;
}

function placeLines(viewer) {
  const item = viewer.world.getItemAt(0), group = viewer.lines.firstChild;
  if (!item || !group) return;
  const origin = item.imageToViewerElementCoordinates(new OpenSeadragon.Point(0, 0));
  const far = item.imageToViewerElementCoordinates(new OpenSeadragon.Point(1000, 0));
  const scale = (far.x - origin.x) / 1000;
  group.setAttribute("transform", `translate(${origin.x} ${origin.y}) scale(${scale})`);
  if (viewer === state.viewers[0]) drawScaleBar(scale);
}

function drawScaleBar(screenPerPixel) {
  const umPerScreenPx = state.details.slide_mpp / screenPerPixel;
  const steps = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000];
  const um = steps.find((step) => step / umPerScreenPx > 60) || 10000;
  byId("scale-bar").style.width = `${um / umPerScreenPx}px`;
  const magnification = 10 / umPerScreenPx;
  byId("scale-text").textContent = `${um >= 1000 ? um / 1000 + " mm" : um + " µm"}, ${magnification.toPrecision(2)}x`;
}

// -- the map
async function loadMap(channel) {
  const answer = await fetch(`/map/${encodeURIComponent(slideId)}/${channel}.png`);
  if (!answer.ok) throw new Error(await answer.text());
  const low = Number(answer.headers.get("X-Map-Low")), high = Number(answer.headers.get("X-Map-High"));
  const bitmap = await createImageBitmap(await answer.blob(), { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  const canvas = document.createElement("canvas");
  canvas.width = bitmap.width;
  canvas.height = bitmap.height;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height).data;
  const values = new Float32Array(canvas.width * canvas.height), unjudged = new Uint8Array(values.length), glass = new Uint8Array(values.length);
  for (let i = 0; i < values.length; i++) {
    const kind = pixels[4 * i + 2];
    unjudged[i] = kind >= 160 && kind < 224; // unlike the training data
    glass[i] = kind >= 64 && kind < 160; // no tissue
    values[i] = kind < 64 ? NaN : low + ((pixels[4 * i] * 256 + pixels[4 * i + 1]) / 65534) * (high - low);
  }
  state.map = { values, unjudged, glass, width: canvas.width, height: canvas.height, low, high, name: state.details.channels[channel], pixel: Number(answer.headers.get("X-Map-Scale")) };
  takeModelsScale(channel);
  colourMap();
}

// The scale is the model's, the same on every slide: a slide's own would make any trace bright.
function takeModelsScale(channel) {
  const scale = state.details.scales[channel];
  state.map.colouring = scale;
  byId("low").value = Number(scale.floor.toPrecision(4));
  byId("high").value = Number(scale.top.toPrecision(4));
}

function scaleWords(low, high) {
  const scale = state.map.colouring, short = (value) => Number(value.toPrecision(3));
  if (scale.not_drawn) return `${state.map.name} is not drawn: ${scale.not_drawn.toLowerCase()}`;
  const own = Number(byId("low").value) !== Number(scale.floor.toPrecision(4)) || Number(byId("high").value) !== Number(scale.top.toPrecision(4));
  const whose = own ? "your own scale" : scale.is_shared ? "the same scale on all slides" : `scale of this slide alone, not to be compared with others (top: ${scale.source})`;
  const none = state.map.drawn ? "" : `; nothing ${state.map.nUnjudged ? "that was judged" : "on this slide"} reaches it`;
  const unjudged = state.map.nUnjudged ? "; hatched: unlike the training data, not judged" : "";
  const glass = state.details.slide ? "" : "; the slide is not at hand: glass may be coloured";
  return `${state.map.name} ${short(low)} to ${short(high)}, bare below${none}; ${whose}${unjudged}${glass}`;
}

function colourMap() {
  const map = state.map, turn = ++state.drawing;
  const low = Number(byId("low").value), high = Number(byId("high").value);
  const table = colourTable(byId("colours").value);
  const canvas = document.createElement("canvas");
  canvas.width = map.width;
  canvas.height = map.height;
  const context = canvas.getContext("2d"), image = context.createImageData(map.width, map.height);
  const span = high > 0 ? high : 1; // colours begin at 0, as in the pictures; below `low` there is none
  const shade = new Uint32Array(256), bytes = new Uint8Array(shade.buffer); // a pixel a number: four times as fast
  for (let at = 0; at < 256; at++) bytes.set([table[3 * at], table[3 * at + 1], table[3 * at + 2], 255], 4 * at);
  const hatch = new Uint32Array(new Uint8Array([30, 30, 30, 255]).buffer)[0];
  const pixels = new Uint32Array(image.data.buffer);
  map.drawn = map.nUnjudged = 0;
  for (let i = 0; i < map.values.length; i++) {
    const value = map.values[i];
    if (map.unjudged[i]) { // hatched, as in the pictures, and never coloured
      map.nUnjudged += 1;
      if (((i % map.width) + Math.floor(i / map.width)) % 6 === 0) pixels[i] = hatch;
      continue;
    }
    if (map.glass[i]) continue; // whatever the model says of it
    if (!(value >= low && value > 0) || map.colouring.not_drawn) continue; // NaN is neither
    map.drawn += 1;
    pixels[i] = shade[Math.min(255, Math.round((value / span) * 255))];
  }
  context.putImageData(image, 0, 0);
  drawLegend(table, low, high);
  placeMap(context, turn);
}

function drawLegend(table, low, high) {
  const context = byId("legend-bar").getContext("2d");
  for (let x = 0; x < 160; x++) {
    const at = Math.round(((low + (x / 159) * (high - low)) / (high > 0 ? high : 1)) * 255);
    if (at < 0 || at > 255) continue;
    context.fillStyle = `rgb(${table[3 * at]},${table[3 * at + 1]},${table[3 * at + 2]})`;
    context.fillRect(x, 0, 1, 12);
  }
  byId("legend-text").textContent = scaleWords(low, high);
  byId("legend").title = state.map.colouring.source;
}

// One tile, handed over as it is: to pack it as a picture and unpack it would take longer than all else.
function mapSource(context, turn) {
  const { width, height } = context.canvas;
  return {
    width, height, tileSize: Math.max(width, height), tileOverlap: 0, minLevel: 0, maxLevel: 0,
    getTileUrl: () => `map:${turn}`, hasTransparency: () => true,
    downloadTileStart: (job) => job.finish(context, null, "context2d"), downloadTileAbort: () => {},
  };
}

function placeMap(context, turn) {
  const viewer = state.viewers[state.viewers.length - 1];
  const item = viewer.world.getItemAt(0), box = state.details.map_box;
  const width = item.getContentSize().x;
  const old = state.layers;
  state.layers = [];
  viewer.addTiledImage({
    tileSource: mapSource(context, turn),
    x: box.x / width, y: box.y / width, width: (state.map.width * state.map.pixel) / width,
    opacity: mapOpacity(), preload: true,
    success: ({ item: layer }) => {
      for (const previous of old) viewer.world.removeItem(previous);
      if (turn !== state.drawing) { viewer.world.removeItem(layer); return; }
      state.layers.push(layer);
      document.body.dataset.map = state.map.name;
    },
  });
}

function isBlind() { // nothing that the model says of a region before it has its verdict
  const region = state.details.regions[state.current];
  return byId("blind").checked && region !== undefined && !state.verdicts.has(region.region_id);
}

function mapHidden() { return !state.overlayOn || isBlind(); }

function mapOpacity() { return mapHidden() ? 0 : Number(byId("opacity").value); }

function showMap() {
  for (const layer of state.layers) layer.setOpacity(mapOpacity());
  byId("legend").style.visibility = mapHidden() ? "hidden" : "visible";
  showWhy();
}

function valueAt(event) {
  const viewer = event.eventSource.element === state.viewers[0].canvas ? state.viewers[0] : state.viewers.at(-1);
  const item = viewer.world.getItemAt(0), map = state.map, box = state.details.map_box;
  if (!item || !map) return "";
  const point = item.viewerElementToImageCoordinates(event.position);
  const x = Math.floor((point.x - box.x) / map.pixel);
  const y = Math.floor((point.y - box.y) / map.pixel);
  if (mapHidden() || x < 0 || y < 0 || x >= map.width || y >= map.height) return "";
  const value = map.values[y * map.width + x];
  if (Number.isNaN(value)) return "not computed here";
  if (map.glass[y * map.width + x]) return "no tissue here";
  const unjudged = map.unjudged[y * map.width + x] ? "; unlike the training data: not judged" : "";
  return `${map.name} ${value.toPrecision(3)}${unjudged}`;
}

// -- regions and verdicts
function drawRegions() {
  const items = state.details.regions.map((region, index) => {
    const item = document.createElement("li"), button = document.createElement("button");
    const verdict = state.verdicts.get(region.region_id);
    const hidden = byId("blind").checked && verdict === undefined;
    const apart = (region.models_differ ?? null) === null || hidden ? "" : `, models differ by ${decimals(region.models_differ, 2)}`;
    const sure = (region.probability === null || hidden ? "" : `, p ${decimals(region.probability, 2)}`) + apart;
    const name = hidden ? `Region ${index + 1}` : region.name.replace(/^High (evidence|saliency)/, "Region"); // ranks by size
    if (!hidden) button.title = `in QuPath: ${region.name}`;
    button.textContent = `${name}${sure}${verdict ? ": " + verdict : ""}`;
    button.addEventListener("click", () => choose(index));
    if (index === state.current) item.setAttribute("aria-current", "true");
    item.append(button);
    return item;
  });
  byId("regions").replaceChildren(...items);
  const judged = state.details.regions.filter((region) => state.verdicts.has(region.region_id)).length;
  byId("progress").textContent = state.details.regions.length
    ? `${judged} of ${state.details.regions.length} regions judged`
    : "No region to judge on this slide.";
  byId("slide-verdict").textContent = state.verdicts.get("slide") || "";
  byId("question").textContent = state.current < 0 ? "" : `Is this ${state.details.target_class}?`;
}

function choose(index) {
  if (!state.details.regions.length) return;
  state.current = Math.max(0, Math.min(state.details.regions.length - 1, index));
  state.shownAt = performance.now();
  const item = state.viewers[0].world.getItemAt(0);
  const points = state.details.regions[state.current].rings[0];
  const xs = points.map(([x]) => x), ys = points.map(([, y]) => y);
  const left = Math.min(...xs), top = Math.min(...ys), width = Math.max(...xs) - left, height = Math.max(...ys) - top;
  const margin = Math.max(width, height, 64);
  const box = item.imageToViewportRectangle(left - margin, top - margin, width + 2 * margin, height + 2 * margin);
  state.viewers[0].viewport.fitBounds(box, false);
  drawRegions();
  drawLines();
  showMap();
  document.querySelector('[aria-current="true"]')?.scrollIntoView({ block: "nearest" });
}

function secondsSince(moment) { return Math.round((performance.now() - moment) / 10) / 100; }

async function send(regionId, answer) {
  const reviewer = byId("reviewer").value.trim();
  if (!reviewer) {
    say("Write your name (or a code) first: verdicts are kept by reviewer.");
    byId("reviewer").focus();
    return false;
  }
  const blind = byId("blind").checked && !state.verdicts.has(regionId);
  const seconds = byId("timed").checked && answer !== "undo" ? secondsSince(regionId === "slide" ? state.openedAt : state.shownAt) : null;
  try {
    await getJson("/api/verdict", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({
        reviewer, slide_id: slideId, region_id: regionId, target_class: state.details.target_class,
        answer, blind, seconds, note: byId("note").value,
      }),
    });
  } catch (error) {
    say(`Not saved: ${error.message}`);
    return false;
  }
  say("");
  byId("note").value = "";
  return true;
}

async function judge(answer) {
  const region = state.details.regions[state.current];
  if (!region || !(await send(region.region_id, answer))) return;
  state.done.push({ id: region.region_id, index: state.current, before: state.verdicts.get(region.region_id) });
  const wasBlind = byId("blind").checked && !state.verdicts.has(region.region_id);
  state.verdicts.set(region.region_id, answer);
  if (wasBlind) { // now the map may be seen, and the answer changed
    drawRegions();
    drawLines();
    showMap();
  } else choose(state.current + 1);
}

async function judgeSlide(answer) {
  if (!(await send("slide", answer))) return;
  state.done.push({ id: "slide", index: state.current, before: state.verdicts.get("slide") });
  state.verdicts.set("slide", answer);
  drawRegions();
}

async function undo() {
  const last = state.done.at(-1);
  if (last?.drawing) return removeDrawing(last.drawing);
  if (!last || !(await send(last.id, "undo"))) return;
  state.done.pop();
  if (last.before === undefined) state.verdicts.delete(last.id);
  else state.verdicts.set(last.id, last.before);
  if (last.id === "slide") drawRegions();
  else choose(last.index);
}

function otherSlide(step) {
  const order = JSON.parse(sessionStorage.getItem("order") || "[]");
  const next = order[order.indexOf(slideId) + step];
  if (next !== undefined && order.includes(slideId)) location.href = `/slide/${encodeURIComponent(next)}`;
}

function setOpacity(change) {
  const control = byId("opacity");
  control.value = Math.max(0, Math.min(1, Number(control.value) + change));
  showMap();
}

const KEYS = {
  j: () => choose(state.current + 1), k: () => choose(state.current - 1),
  y: () => judge("yes"), n: () => judge("no"), u: () => judge("unsure"),
  1: () => judgeSlide("yes"), 2: () => judgeSlide("no"), 3: () => judgeSlide("unsure"),
  z: undo, " ": () => { state.overlayOn = !state.overlayOn; showMap(); },
  "[": () => setOpacity(-0.1), "]": () => setOpacity(0.1),
  o: () => { state.outlinesOn = !state.outlinesOn; drawLines(); },
  d: () => startDrawing(), w: () => toggleWhy(),
  f: () => state.viewers[0].viewport.goHome(),
  N: () => otherSlide(1), P: () => otherSlide(-1), "?": () => byId("help").showModal(),
};

let queue = Promise.resolve(); // one key after the other, also where saving takes a moment
function onKey(event) {
  const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName) && !/^(checkbox|range)$/.test(event.target.type);
  if (typing && drawing.active && event.key === "Escape") stopDrawing();
  if (event.key === "Escape" && typing) { event.target.blur(); return; }
  if (typing && event.key === "Enter") { event.target.blur(); return; }
  if (typing || event.ctrlKey || event.metaKey || event.altKey || byId("help").open) return;
  if (event.key === " " && event.target.tagName === "BUTTON") event.target.blur();
  if (event.key === "Enter" && event.target.tagName === "BUTTON" && !drawing.active) return;
  if (drawingKey(event)) return;
  const action = KEYS[event.key];
  if (!action) return;
  event.preventDefault();
  queue = queue.then(action).catch((error) => say(error.message));
}

async function loadPaper() {
  state.details = await getJson(`/api/slide/${encodeURIComponent(slideId)}?order=${byId("order").value}`);
  adoptVerdicts();
}

async function reorder() {
  try {
    await loadPaper();
    state.ordered = byId("order").value;
    say("");
    choose(0);
  } catch (error) { // the list stays as it is, and says what it is
    byId("order").value = state.ordered;
    say(error.message);
  }
}

function adoptVerdicts() {
  const mine = byId("reviewer").value.trim();
  state.verdicts = new Map(
    state.details.verdicts.filter((v) => v.reviewer === mine).map((v) => [v.region_id, v.answer]),
  );
}

async function start() {
  byId("title").textContent = slideId;
  document.title = `Review: ${slideId}`;
  byId("reviewer").value = sessionStorage.getItem("reviewer") || "";
  byId("blind").checked = sessionStorage.getItem("blind") === "yes";
  await loadPaper();
  byId("role").textContent = state.details.role;
  byId("warnings").replaceChildren(...state.details.warnings.map((text) => {
    const line = document.createElement("p");
    line.className = "bad";
    line.textContent = text;
    return line;
  }));
  if (!state.details.slide) say("The slide itself is not shown: start with --manifest to see it.");
  state.viewers = [makeViewer("bare"), makeViewer("mapped")];
  await Promise.all(state.viewers.map((v) => new Promise((done) => v.addOnceHandler("open", done))));
  link(...state.viewers);
  for (const viewer of state.viewers) {
    new OpenSeadragon.MouseTracker({ element: viewer.canvas, moveHandler: (event) => { byId("cursor").textContent = valueAt(event); } });
  }
  const preferred = [`evidence: ${state.details.target_class}`, "saliency"].find((name) => state.details.channels.includes(name));
  byId("channel").replaceChildren(...state.details.channels.map((name, index) => new Option(name, index)));
  byId("channel").value = Math.max(0, state.details.channels.indexOf(preferred));
  await loadMap(Number(byId("channel").value));
  listenToDrawing();
  drawRegions();
  drawLines();
  if (state.details.regions.length) choose(0);
  state.openedAt = performance.now(); // a verdict on the whole slide took since then
  document.body.dataset.ready = "yes";
}

function listen() {
  document.addEventListener("keydown", onKey);
  byId("channel").addEventListener("change", (e) => loadMap(Number(e.target.value)).catch((error) => say(error.message)));
  for (const id of ["colours", "low", "high"]) byId(id).addEventListener("change", colourMap);
  byId("opacity").addEventListener("input", showMap);
  byId("order").addEventListener("change", reorder);
  byId("reviewer").addEventListener("change", (e) => {
    sessionStorage.setItem("reviewer", e.target.value);
    adoptVerdicts();
    listDrawings();
    drawRegions();
    drawLines();
  });
  byId("blind").addEventListener("change", (e) => { sessionStorage.setItem("blind", e.target.checked ? "yes" : "no"); drawRegions(); drawLines(); showMap(); });
  byId("own-scale").addEventListener("click", () => { takeModelsScale(Number(byId("channel").value)); colourMap(); });
  byId("two").addEventListener("change", (e) => { byId("bare").hidden = !e.target.checked; });
  byId("help-button").addEventListener("click", () => byId("help").showModal());
  byId("undo").addEventListener("click", undo);
  for (const b of document.querySelectorAll("[data-answer]")) b.addEventListener("click", () => judge(b.dataset.answer));
  for (const b of document.querySelectorAll("[data-slide-answer]")) b.addEventListener("click", () => judgeSlide(b.dataset.slideAnswer));
}

listen();
start().catch((error) => say(error.message));
