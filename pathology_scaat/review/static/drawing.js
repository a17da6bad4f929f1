"use strict";
// Small corrections: an outline of a class, by mouse or by keyboard alone, saved like a verdict.

const drawing = { active: false, points: [], cursor: null };
const STEP_PX = 8, FAST_STEP_PX = 40; // of the screen, for the arrow keys
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const CLOSE_PX = 10;

function slideItem() { return state.viewers[0].world.getItemAt(0); }

function toImage(viewer, point) { return viewer.world.getItemAt(0).viewerElementToImageCoordinates(point); }

function mineDrawn() {
  const mine = byId("reviewer").value.trim();
  return state.details.drawings.filter((d) => d.reviewer === mine);
}

function startDrawing() {
  if (!byId("reviewer").value.trim()) {
    say("Write your name (or a code) first: drawings are kept by reviewer.");
    byId("reviewer").focus();
    return;
  }
  const size = state.viewers[0].viewport.getContainerSize();
  drawing.active = true;
  drawing.points = [];
  drawing.cursor = new OpenSeadragon.Point(size.x / 2, size.y / 2);
  drawState();
}

function stopDrawing() {
  drawing.active = false;
  drawing.points = [];
  drawState();
}

function drawState() {
  byId("draw-button").setAttribute("aria-pressed", String(drawing.active));
  byId("draw-words").textContent = drawing.active
    ? `Outline of ${byId("draw-class").value}, ${drawing.points.length} corners. Click, or arrows (Shift: far) and Enter, set a corner; Backspace takes one back; c closes and saves; Esc gives up.`
    : "";
  drawLines();
}

function addPoint(x, y) {
  const first = drawing.points[0];
  if (first && drawing.points.length > 2) {
    const scale = slideItem().imageToViewerElementCoordinates(new OpenSeadragon.Point(1, 0)).x
      - slideItem().imageToViewerElementCoordinates(new OpenSeadragon.Point(0, 0)).x;
    if (Math.hypot(first[0] - x, first[1] - y) * scale < CLOSE_PX) return closeDrawing();
  }
  drawing.points.push([x, y].map((v) => Math.round(10 * v) / 10));
  drawState();
  return null;
}

function cursorPoint() {
  const at = toImage(state.viewers[0], drawing.cursor);
  return [at.x, at.y];
}

async function sendDrawing(value) {
  await getJson("/api/drawing", {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(value),
  });
}

async function closeDrawing() {
  const value = {
    reviewer: byId("reviewer").value.trim(), slide_id: slideId, drawing_id: crypto.randomUUID(),
    class_name: byId("draw-class").value, ring: drawing.points, removed: false,
  };
  try {
    await sendDrawing(value);
  } catch (error) {
    say(`Not saved: ${error.message}`);
    return;
  }
  say("");
  state.details.drawings.push(value);
  state.done.push({ drawing: value });
  stopDrawing();
  listDrawings();
}

async function removeDrawing(value) {
  await sendDrawing({ ...value, ring: [], removed: true });
  state.details.drawings = state.details.drawings.filter((d) => d !== value);
  state.done = state.done.filter((d) => d.drawing !== value);
  listDrawings();
  drawLines();
}

function listDrawings() {
  const items = mineDrawn().map((value, index) => {
    const item = document.createElement("li"), button = document.createElement("button");
    item.textContent = `${value.class_name} `;
    button.textContent = "remove";
    button.setAttribute("aria-label", `remove drawing ${index + 1}, ${value.class_name}`);
    button.addEventListener("click", () => removeDrawing(value).catch((error) => say(error.message)));
    item.append(button);
    return item;
  });
  byId("drawings").replaceChildren(...items);
  byId("drawings-title").hidden = !items.length;
}

// What is drawn goes among the outlines of each view.
function drawnPaths(viewer) {
  const shapes = [];
  const path = (text, className) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", "path");
    made.setAttribute("d", text);
    made.setAttribute("class", className);
    shapes.push(made);
  };
  for (const value of mineDrawn()) path(pathOf({ rings: [value.ring] }), "drawn");
  if (drawing.active) {
    if (drawing.points.length) path("M" + drawing.points.map(([x, y]) => `${x} ${y}`).join("L"), "drawing");
    const [x, y] = cursorPoint(), r = 12 / (placeScale(viewer) || 1);
    path(`M${x - r} ${y}H${x + r}M${x} ${y - r}V${y + r}`, "drawing");
  }
  return shapes;
}

// True where a key was meant for the drawing.
function drawingKey(event) {
  if (!drawing.active) return false;
  if (event.key in ARROWS) {
    const step = event.shiftKey ? FAST_STEP_PX : STEP_PX, size = state.viewers[0].viewport.getContainerSize();
    const [dx, dy] = ARROWS[event.key], at = drawing.cursor;
    drawing.cursor = new OpenSeadragon.Point(
      Math.max(0, Math.min(size.x, at.x + step * dx)), Math.max(0, Math.min(size.y, at.y + step * dy)),
    );
    drawLines();
  } else if (event.key === "Enter") queue = queue.then(() => addPoint(...cursorPoint()));
  else if (event.key === "Backspace") { drawing.points.pop(); drawState(); }
  else if (event.key === "Escape") stopDrawing();
  else if (event.key === "c") queue = queue.then(closeDrawing);
  else return /^[ynuz123jk]$/.test(event.key); // no verdict by mistake while an outline is open
  event.preventDefault();
  return true;
}

function listenToDrawing() {
  for (const viewer of state.viewers) {
    viewer.addHandler("canvas-click", (event) => {
      if (!drawing.active || !event.quick) return;
      event.preventDefaultAction = true;
      const at = toImage(viewer, event.position);
      queue = queue.then(() => addPoint(at.x, at.y));
    });
  }
  byId("draw-class").replaceChildren(...state.details.class_names.map((name) => new Option(name)));
  byId("draw-class").value = state.details.class_names.find((n) => n !== state.details.target_class) ?? state.details.target_class;
  byId("draw-button").addEventListener("click", () => (drawing.active ? stopDrawing() : startDrawing()));
  listDrawings();
}
