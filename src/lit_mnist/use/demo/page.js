// Draws on the pad, sends the drawing to the server, and shows the prediction.
"use strict";

const PEN = 44; // width of a stroke on the pad's 560 pixels, similar to MNIST's strokes
const STEP = 14; // of the arrow keys
const SCALE = 1 / 3; // of the drawing that is sent: faster, and still finer than the model's input
const NOTHING = "data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA="; // a transparent pixel
const EMPTY = () => ({ strokes: [], picture: null, file: null });
const find = (id) => document.getElementById(id);
const pad = find("pad");
const paper = pad.getContext("2d");
const classes = JSON.parse(find("bars").dataset.classes);
const dark = matchMedia("(prefers-color-scheme: dark)");

let strokes = []; // each a list of points [x, y] on the pad
let current = null; // the stroke that the pointer draws
let picture = null; // an image on the pad instead of strokes
let file = null; // of the picture
let past = []; // contents of the pad before each stroke, clear and file
let sheet = 0; // counts fresh starts: an answer that belongs to an earlier sheet is not shown
let wanted = null; // the next image to predict, as a function that returns it
let asking = false;

// The pad

function trace(context, colour) {
  context.lineCap = context.lineJoin = "round";
  context.lineWidth = PEN;
  context.strokeStyle = colour;
  for (const [first, ...rest] of strokes) {
    let last = first;
    context.beginPath();
    context.moveTo(...first);
    for (const point of rest) { // a smooth line: through the middles, bent towards the points
      context.quadraticCurveTo(...last, (last[0] + point[0]) / 2, (last[1] + point[1]) / 2);
      last = point;
    }
    context.lineTo(last[0] + 0.01, last[1]); // a line without length, a dot, would not show
    context.stroke();
  }
}

function paint() {
  paper.clearRect(0, 0, pad.width, pad.height);
  if (picture) {
    const scale = Math.min(pad.width / picture.width, pad.height / picture.height);
    const [width, height] = [picture.width * scale, picture.height * scale];
    paper.drawImage(picture, (pad.width - width) / 2, (pad.height - height) / 2, width, height);
  }
  trace(paper, getComputedStyle(pad).color);
  find("hint").hidden = picture !== null || strokes.length > 0;
  find("undo").disabled = past.length === 0;
  find("clear").disabled = !find("hint").hidden;
}

/** The drawing in MNIST's form, light on dark whatever the colours of the page, with a margin that no stroke reaches. */
function drawing() {
  const side = (pad.width + 2 * PEN) * SCALE;
  const canvas = Object.assign(document.createElement("canvas"), { width: side, height: side });
  const context = canvas.getContext("2d");
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.scale(SCALE, SCALE);
  context.translate(PEN, PEN);
  trace(context, "white");
  return new Promise((done) => canvas.toBlob(done, "image/png"));
}

function put(content) {
  sheet += 1;
  wanted = null;
  ({ strokes, picture, file } = content);
  paint();
  showNothing();
}

function remember() {
  past.push({ strokes: [...strokes], picture, file });
}

function clear() {
  if (strokes.length || file) remember();
  put(EMPTY());
}

function begin(point) {
  remember();
  if (file) put(EMPTY()); // drawing starts anew after a file
  strokes.push([point]);
}

function undo() {
  if (past.length === 0) return;
  put(past.pop());
  const again = file; // file may change meanwhile
  if (again) ask(() => again);
  else if (strokes.length) ask(drawing);
}

function drawn() {
  paint();
  ask(drawing);
}

// The answer

async function ask(image) {
  wanted = image;
  if (asking) return; // the loop comes to it: one request at a time, always of the newest
  asking = true;
  while (wanted) {
    const [make, mine] = [wanted, sheet];
    wanted = null;
    const answer = await read(await make());
    if (mine === sheet) show(answer);
  }
  asking = false;
}

async function read(image) {
  try {
    const response = await fetch("read", { method: "POST", body: image });
    return await response.json();
  } catch {
    return { error: "The demo does not answer. Is it still running?" };
  }
}

function percent(share) {
  if (share >= 0.9995) return ">99.9%";
  return share < 0.0005 ? "<0.1%" : `${(100 * share).toFixed(1)}%`;
}

function show({ error, probabilities, seen }) {
  if (error) {
    picture = file = null;
    paint();
    showNothing();
    find("problem").textContent = error;
    find("problem").hidden = false;
    return;
  }
  find("problem").hidden = true;
  const [first, second] = [...probabilities.keys()].sort((a, b) => probabilities[b] - probabilities[a]);
  find("reading").dataset.state = "read";
  find("answer").textContent = classes[first];
  find("sure").textContent = percent(probabilities[first]);
  find("second").textContent = `runner-up ${classes[second]}, ${percent(probabilities[second])}`;
  [...find("bars").children].forEach((row, i) => {
    row.className = i === first ? "first" : i === second ? "second" : "";
    row.querySelector(".bar").style.setProperty("--share", probabilities[i]);
    row.querySelector(".percent").textContent = percent(probabilities[i]);
  });
  find("seen").src = seen;
  say(`${classes[first]}, ${percent(probabilities[first])}; runner-up ${classes[second]}, ${percent(probabilities[second])}`);
}

function showNothing() {
  find("problem").hidden = true;
  find("reading").dataset.state = "empty";
  find("answer").textContent = "?";
  find("sure").textContent = "Nothing drawn yet";
  find("second").textContent = "";
  for (const row of find("bars").children) {
    row.className = "";
    row.querySelector(".bar").style.setProperty("--share", 0);
    row.querySelector(".percent").textContent = "";
  }
  find("seen").src = NOTHING;
  say("");
}

/** Tell a screen reader, once drawing pauses. */
function say(text) {
  clearTimeout(say.timer);
  say.timer = setTimeout(() => { find("spoken").textContent = text; }, text ? 500 : 0);
}

// Files

async function take(given) {
  remember();
  put(EMPTY());
  const limit = Number(find("file").dataset.limit);
  if (!given) return show({ error: "That is not a file. Drop an image file." });
  if (given.size > limit) return show({ error: `${given.name} is larger than ${limit / 1e6} MB.` });
  const mine = sheet;
  file = given;
  ask(() => given);
  const bitmap = await createImageBitmap(given).catch(() => null); // the server may know more formats than the browser
  if (mine === sheet && find("problem").hidden) {
    picture = bitmap;
    paint();
  }
}

// User input

/** The point of the pad nearest to the pointer, which may have left it. */
function position(event) {
  const box = pad.getBoundingClientRect();
  const shares = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  return shares.map((share) => pad.width * Math.max(0, Math.min(1, share)));
}

pad.addEventListener("pointerdown", (event) => {
  if (!event.isPrimary || event.button !== 0) return;
  pad.setPointerCapture(event.pointerId);
  begin(position(event));
  current = strokes.at(-1);
  drawn();
});
pad.addEventListener("pointermove", (event) => {
  const stroke = strokes.at(-1);
  if (stroke !== current || !event.isPrimary || !pad.hasPointerCapture(event.pointerId)) return; // cleared or undone
  const events = event.getCoalescedEvents?.() ?? [];
  stroke.push(...(events.length ? events : [event]).map(position));
  drawn();
});

const pen = { at: [pad.width / 2, pad.height / 2], down: false };
const ARROWS = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] };
pad.addEventListener("keydown", (event) => {
  if (event.key === "Delete" || event.key === "Backspace") clear();
  if (!(event.key in ARROWS)) return;
  event.preventDefault();
  const start = pen.at;
  pen.at = pen.at.map((value, axis) => Math.max(PEN, Math.min(pad.width - PEN, value + ARROWS[event.key][axis])));
  find("pen").style.left = `${100 * pen.at[0] / pad.width}%`;
  find("pen").style.top = `${100 * pen.at[1] / pad.height}%`;
  if (!event.shiftKey) {
    if (!pen.down || !strokes.length) begin(start);
    strokes.at(-1).push(pen.at);
    drawn();
  }
  pen.down = !event.shiftKey;
});

find("undo").addEventListener("click", undo);
find("clear").addEventListener("click", clear);
addEventListener("keydown", (event) => { if ((event.ctrlKey || event.metaKey) && event.key === "z") undo(); });
find("choose").addEventListener("click", () => find("file").click());
find("file").addEventListener("change", (event) => {
  if (event.target.files.length) take(event.target.files[0]);
  event.target.value = ""; // so that the same file can be chosen again
});
addEventListener("paste", (event) => { if (event.clipboardData.files.length) take(event.clipboardData.files[0]); });
addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("dropping"); });
addEventListener("dragleave", () => document.body.classList.remove("dropping"));
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  take(event.dataTransfer.files[0]);
});
dark.addEventListener("change", paint);

for (const each of classes) {
  const row = document.createElement("li");
  row.innerHTML = '<span></span><span class="track"><span class="bar"></span></span><span class="percent"></span>';
  row.firstChild.textContent = each; // as text, whatever a class is called
  find("bars").append(row);
}
const longest = Math.max(...classes.map((each) => each.length));
find("reading").classList.toggle("words", longest > 2); // names need more room than digits
find("bars").style.setProperty("--name", `${Math.max(1, 0.7 * Math.min(longest, 12))}rem`);
put(EMPTY());
