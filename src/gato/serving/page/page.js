"use strict";
// The page: one socket per task watched, plain requests for the rest. No library, no file from elsewhere.

const KINDS = ["text", "image", "discrete", "continuous", "separator"];
const KEPT_TIMESTEPS = 60;
const $ = (id) => document.getElementById(id);
const make = (tag, text, name) => {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (name) element.className = name;
  return element;
};
const number = (x) => (Math.abs(x) >= 100 ? x.toFixed(0) : Math.abs(x) >= 10 ? x.toFixed(1) : x.toFixed(2));

// -- asking the server -------------------------------------------------------------------------------------------------

if (location.hash.startsWith("#token=")) {
  sessionStorage.setItem("token", decodeURIComponent(location.hash.slice(7)));
  history.replaceState(null, "", location.pathname);
}
const token = () => sessionStorage.getItem("token") || "";

async function ask(path, body) {
  const headers = body ? { "content-type": "application/json" } : {};
  if (token()) headers.authorization = `Bearer ${token()}`;
  const answer = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body) });
  if (answer.status === 401) {
    await askForToken();
    return ask(path, body);
  }
  const said = await answer.json();
  if (!answer.ok) throw said.error;
  return said;
}

function askForToken() {
  const dialog = $("token-dialog");
  if (!dialog.open) dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => { sessionStorage.setItem("token", $("token").value.trim()); resolve(); }, { once: true });
  });
}

function complain(problem) {
  const box = $("problem");
  box.hidden = !problem;
  if (problem) box.textContent = [problem.message || String(problem), problem.fix].filter(Boolean).join("\n");
}

// -- tabs --------------------------------------------------------------------------------------------------------------

const tabs = [...document.querySelectorAll("[role=tab]")];
function show(tab) {
  for (const other of tabs) {
    other.setAttribute("aria-selected", other === tab);
    $(other.getAttribute("aria-controls")).hidden = other !== tab;
  }
  complain();
  if (tab.id !== "tab-act") pause();
  if (tab.id === "tab-captions" && captions.empty && able.captions) captions.scene();
  if (tab.id === "tab-questions" && questions.empty && able.questions) questions.scene();
}
for (const tab of tabs) tab.addEventListener("click", () => show(tab));

// -- acting ------------------------------------------------------------------------------------------------------------

let able = {}, socket = null, playing = false, facts = null, head = -1, last = null, watched = [];

function watch(task, tries = 5) {
  if (socket) { socket.onclose = socket.onmessage = null; socket.close(); }
  complain();
  playing = false;
  delete $("act").dataset.task;
  watched = [];
  $("status").textContent = "starting the world …";
  $("return").textContent = "–";
  $("outcome").textContent = "";
  delete $("return").dataset.steps;
  $("tokens").replaceChildren();
  for (const id of ["play", "step", "restart"]) $(id).disabled = true;
  const address = new URL("v1/live", location.href.replace(/^http/, "ws"));
  const opened = new WebSocket(address, token() ? ["gato.v1", `token.${token()}`] : ["gato.v1"]);
  socket = opened;
  opened.onopen = () => opened.send(JSON.stringify({ task, episode: Math.floor(Math.random() * 1000), temperature: Number($("temperature").value) }));
  opened.onmessage = (event) => {
    const message = JSON.parse(event.data);
    if (message.type === "error" && message.error.code === "full" && tries) {  // worlds left a moment ago end first
      opened.onclose = null;
      setTimeout(() => socket === opened && watch(task, tries - 1), 1500);
    } else hear(message);
  };
  opened.onclose = () => {
    for (const id of ["play", "step", "restart"]) $(id).disabled = true;
    $("status").textContent = "closed";
    setPlaying(false);
  };
}

function order(words) {
  if (socket && socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(words));
}

function setPlaying(on) {
  playing = on;
  $("play").textContent = on ? "Pause" : "Play";
}

function pause() {
  if (playing) order({ do: "pause" });
  setPlaying(false);
}

function hear(message) {
  if (message.type === "error") return complain(message.error);
  if (message.type === "task") {
    facts = message;
    $("act").dataset.task = message.task;
    describeTask();
    for (const id of ["play", "step", "restart"]) $(id).disabled = false;
  } else if (message.type === "begin") {
    $("tokens").replaceChildren();
    last = null;
    showFrame(message.frame);
    showReturn({ step: 0, return: 0, done: false });
    $("status").textContent = `episode ${message.episode}`;
  } else if (message.type === "step") {
    last = message;
    showFrame(message.frame);
    showReturn(message);
    showChoices(message.choices);
    showGaze();
    showTokens(message);
  }
}

function describeTask() {
  const known = facts.expert !== null && facts.expert !== undefined;
  const noun = facts.score === "success" ? "success" : "return";
  $("references").textContent = known
    ? `${facts.score === "success" ? "Episodes solved" : "Return"}: expert ${number(facts.expert)}` +
      (facts.random === null ? "" : `, random play ${number(facts.random)}`) + (facts.expert_name ? ` (the expert: ${facts.expert_name})` : "")
    : `No reference was measured for this task (${noun}).`;
  const metered = known && facts.score === "return" && facts.random !== null && facts.expert > facts.random;
  $("meter").hidden = !metered;
  if (metered) {
    const [low, high] = range();
    $("tick-low").style.left = `${(100 * (facts.random - low)) / (high - low)}%`;
    $("tick-high").style.left = `${(100 * (facts.expert - low)) / (high - low)}%`;
    $("tick-low").title = "random play";
    $("tick-high").title = "expert";
  }
  $("choices").replaceChildren(make("p", "Nothing yet.", "soft"));
  $("gaze").hidden = true;
  $("heads").replaceChildren();
}

function range() {
  const low = Math.min(0, facts.random);
  return [low, facts.expert + 0.15 * (facts.expert - low)];
}

function showFrame(frame) {
  const image = $("frame");
  image.hidden = !frame;
  $("no-frame").hidden = Boolean(frame);
  if (!frame) { $("no-frame").textContent = "no picture of this world on this machine"; return; }
  image.onload = () => image.classList.toggle("pixels", Object.values(facts.sees).some((what) => what.startsWith("image")));
  image.src = frame;
}

function showReturn(m) {
  $("return").textContent = number(m.return);
  $("return").dataset.steps = m.step;
  let outcome = `step ${m.step}`;
  if (m.done) {
    const score = facts.score === "success" ? Number(Boolean(m.success)) : m.return;
    watched.push(score);
    outcome += m.success === null || m.success === undefined ? ", ended" : m.success ? ", solved" : ", not solved";
  }
  if (watched.length) {
    const mean = watched.reduce((a, b) => a + b, 0) / watched.length;
    outcome += ` · mean of ${watched.length}: ${number(mean)}`;
  }
  $("outcome").textContent = outcome;
  if (!$("meter").hidden) {
    const [low, high] = range();
    $("meter-bar").style.width = `${Math.max(0, Math.min(100, (100 * (m.return - low)) / (high - low)))}%`;
  }
}

function showChoices(choices) {
  const names = facts.actions;
  $("choices").replaceChildren(...choices.map((choice) => {
    const box = make("div", undefined, "choice");
    const title = make("h3", choice.name);
    const chosen = choice.kind === "discrete" ? (names && names[choice.chosen]) || choice.chosen : choice.chosen.toFixed(3);
    title.append(make("b", chosen));
    box.append(title);
    if (choice.kind === "discrete") {
      for (const [value, p] of choice.bars) {
        const row = make("div", undefined, value === choice.chosen ? "prob taken" : "prob");
        const bar = make("i");
        bar.style.width = `${100 * p}%`;
        const track = make("span");
        track.append(bar);
        bar.style.display = "block";
        row.append(make("span", (names && names[value]) || value), track, make("span", `${(100 * p).toFixed(0)} %`));
        box.append(row);
      }
    } else {
      const bins = make("div", undefined, "bins");
      const most = Math.max(...choice.bars.map(([, p]) => p));
      for (const [value, p] of choice.bars) {
        const bar = make("i");
        bar.style.height = `${(100 * p) / most}%`;
        bar.title = `${value}: ${(100 * p).toFixed(1)} %`;
        bins.append(bar);
      }
      const mark = make("b");
      mark.style.left = `${(100 * (choice.chosen - choice.low)) / (choice.high - choice.low || 1)}%`;
      bins.append(mark);
      const ends = make("div", undefined, "ends");
      ends.append(make("span", number(choice.low)), make("span", number(choice.high)));
      box.append(bins, ends);
    }
    return box;
  }));
}

function mean(rows) {
  return rows[0].map((_, i) => rows.reduce((sum, row) => sum + row[i], 0) / rows.length);
}

function gazeOf(rows) {
  return head < 0 || head >= rows.length ? mean(rows) : rows[head];
}

function showGaze() {
  if (!last) return;
  const buttons = $("heads");
  if (buttons.children.length !== last.gaze.length + 1) {
    buttons.replaceChildren(...[-1, ...last.gaze.keys()].map((h) => {
      const button = make("button", h < 0 ? "all" : `head ${h + 1}`);
      button.addEventListener("click", () => { head = h; showGaze(); });
      return button;
    }));
    if (head >= last.gaze.length) head = -1;
  }
  [...buttons.children].forEach((button, i) => button.setAttribute("aria-pressed", i - 1 === head));
  const seen = last.seen[0], canvas = $("gaze");
  canvas.hidden = !seen;
  const newest = $("tokens").lastElementChild;
  if (newest) underline(newest, gazeOf(last.gaze));
  if (!seen) {
    $("gaze-note").textContent = "Attention of the separator, from which the action is predicted. This task has no picture: see the underlined tokens.";
    return;
  }
  const patches = gazeOf(seen.patches), most = Math.max(...patches, 1e-6);
  const share = patches.reduce((a, b) => a + b, 0);
  $("gaze-note").textContent = `${(100 * share).toFixed(0)} % of the separator's attention falls on the picture; bright patches get most of it.`;
  const picture = new Image();
  picture.onload = () => {
    const scale = 4;
    canvas.width = picture.naturalWidth * scale;
    canvas.height = picture.naturalHeight * scale;
    const pen = canvas.getContext("2d");
    pen.imageSmoothingEnabled = false;
    pen.drawImage(picture, 0, 0, canvas.width, canvas.height);
    const width = canvas.width / seen.columns, height = canvas.height / seen.rows;
    patches.forEach((weight, i) => {
      const x = (i % seen.columns) * width, y = Math.floor(i / seen.columns) * height;
      pen.fillStyle = `rgba(10, 12, 16, ${0.8 * (1 - Math.sqrt(weight / most))})`;
      pen.fillRect(x, y, width, height);
      if (weight / most > 0.25) {
        pen.strokeStyle = "#ffc14d";
        pen.lineWidth = 1 + (5 * weight) / most;
        pen.strokeRect(x + pen.lineWidth / 2, y + pen.lineWidth / 2, width - pen.lineWidth, height - pen.lineWidth);
      }
    });
  };
  picture.src = seen.image;
}

function showTokens(m) {
  const row = make("div", undefined, "timestep");
  row.append(make("b", String(m.step)));
  const cells = make("div");
  const seen = m.seen[0];
  if (seen) {
    row.style.setProperty("--seen", `url(${seen.image})`);
    row.style.setProperty("--wide", `${18 * seen.columns}px`);
    row.style.setProperty("--high", `${18 * seen.rows}px`);
  }
  let patch = 0, action = false;
  for (const [kind, label, id] of m.tokens) {
    const cell = make("span", kind === 1 ? "" : kind === 3 ? short(label) : label, `t k${kind}${action ? " done" : ""}`);
    cell.title = `${KINDS[kind]}${action ? ", action" : ""}: ${label}${kind === 1 ? "" : `, id ${id}`}`;
    if (kind === 1 && seen && patch < seen.rows * seen.columns) {
      cell.style.backgroundPosition = `${-18 * (patch % seen.columns)}px ${-18 * Math.floor(patch / seen.columns)}px`;
      patch += 1;
    }
    if (kind === 4) action = true;
    cells.append(cell);
  }
  row.append(cells);
  const box = $("tokens");
  const following = box.scrollHeight - box.scrollTop - box.clientHeight < 40;
  box.append(row);
  underline(row, gazeOf(m.gaze));
  while (box.children.length > KEPT_TIMESTEPS) box.firstElementChild.remove();
  if (following) box.scrollTop = box.scrollHeight;
}

// "+9.962e-05" → "0.00", "-0.0068" → "-0.01": the stream is read at a glance, the whole number is in the title.
function short(label) {
  const x = Number(label);
  return Number.isNaN(x) ? label : number(Math.abs(x) < 0.005 ? 0 : x);
}

function underline(row, gaze) {
  const cells = row.lastElementChild.children, most = Math.max(...gaze, 1e-6);
  gaze.forEach((weight, i) => {
    const strength = weight / most;
    if (cells[i]) cells[i].style.boxShadow = strength > 0.08 ? `inset 0 -4px 0 rgba(255, 193, 77, ${strength.toFixed(2)})` : "";
  });
}

$("task").addEventListener("change", () => watch($("task").value));
$("play").addEventListener("click", () => { setPlaying(!playing); order({ do: playing ? "play" : "pause", rate: Number($("rate").value) }); });
$("step").addEventListener("click", () => { pause(); order({ do: "step" }); });
$("restart").addEventListener("click", () => order({ do: "restart" }));
for (const [id, send] of [
  ["temperature", (v) => order({ do: "change", temperature: v })],
  ["rate", (v) => order({ do: "change", rate: v })],
  ["chat-temperature", () => {}],
]) {
  $(id).addEventListener("input", () => { $(`${id}-shown`).textContent = id === "rate" ? $(id).value : Number($(id).value).toFixed(1); send(Number($(id).value)); });
}
document.addEventListener("visibilitychange", () => document.hidden && pause());
document.addEventListener("keydown", (event) => {
  if ($("act").hidden || /INPUT|SELECT|TEXTAREA|BUTTON/.test(event.target.tagName)) return;
  if (event.key === " ") { event.preventDefault(); $("play").click(); }
  if (event.key === "ArrowRight") $("step").click();
});

// -- pictures ----------------------------------------------------------------------------------------------------------

class Picture {
  constructor(panel, changed) {
    this.panel = $(panel);
    this.canvas = this.panel.querySelector("canvas");
    this.changed = changed;
    this.empty = true;
    this.panel.querySelector(".scene").addEventListener("click", () => this.scene());
    this.panel.querySelector("[type=file]").addEventListener("change", (event) => this.file(event.target.files[0]));
    const drop = this.panel.querySelector(".drop");
    for (const [name, over] of [["dragover", true], ["dragleave", false], ["drop", false]]) {
      drop.addEventListener(name, (event) => { event.preventDefault(); drop.classList.toggle("over", over); });
    }
    drop.addEventListener("drop", (event) => this.file(event.dataTransfer.files[0]));
  }

  async scene() {
    try {
      const scene = await ask(`v1/scene?index=${Math.floor(Math.random() * 1e6)}`);
      await this.draw(`data:image/png;base64,${scene.image}`);
      await this.changed(scene.caption);
    } catch (problem) { complain(problem); }
  }

  async file(file) {
    if (!file) return;
    const reader = new FileReader();
    reader.onload = async () => {
      try {
        await this.draw(reader.result);
        await this.changed(null);
      } catch { complain("this file is not a picture that the browser can read"); }
    };
    reader.readAsDataURL(file);
  }

  draw(address) {
    return new Promise((resolve, reject) => {
      const picture = new Image();
      picture.onload = () => {
        const scale = Math.min(1, 512 / Math.max(picture.naturalWidth, picture.naturalHeight));
        this.canvas.width = Math.max(1, Math.round(picture.naturalWidth * scale));
        this.canvas.height = Math.max(1, Math.round(picture.naturalHeight * scale));
        this.canvas.getContext("2d").drawImage(picture, 0, 0, this.canvas.width, this.canvas.height);
        this.empty = false;
        resolve();
      };
      picture.onerror = reject;
      picture.src = address;
    });
  }

  get bytes() { return this.canvas.toDataURL("image/png").split(",")[1]; }
}

const captions = new Picture("captions", async (truth) => {
  complain();
  $("caption").textContent = "…";
  $("caption-true").textContent = "";
  try {
    const said = (await ask("v1/caption", { image: captions.bytes })).caption;
    $("caption").textContent = said;
    if (truth) $("caption-true").textContent = said.trim() === truth.trim() ? "That is right." : `In truth: ${truth}`;
  } catch (problem) { $("caption").textContent = "–"; complain(problem); }
});

const questions = new Picture("questions", async () => { $("answer").textContent = "–"; });

$("ask").addEventListener("submit", async (event) => {
  event.preventDefault();
  complain();
  try {
    $("answer").textContent = (await ask("v1/answer", { image: questions.bytes, question: $("question").value })).answer;
  } catch (problem) { complain(problem); }
});
for (const chip of document.querySelectorAll(".chips button")) chip.addEventListener("click", () => { $("question").value = chip.textContent; });

// -- text --------------------------------------------------------------------------------------------------------------

$("say").addEventListener("submit", async (event) => {
  event.preventDefault();
  complain();
  const given = $("text").value;
  if (!given) return;
  const button = event.submitter || $("say").querySelector(".main");
  button.disabled = true;
  try {
    const body = { messages: [{ role: "user", content: given }], temperature: Number($("chat-temperature").value), seed: Math.floor(Math.random() * 1e9) };
    const said = (await ask("v1/chat/completions", body)).choices[0].message.content;
    const quote = make("blockquote");
    quote.append(make("span", given, "given"), make("span", said));
    $("said").append(quote);
  } catch (problem) { complain(problem); }
  button.disabled = false;
});

// -- beginning ---------------------------------------------------------------------------------------------------------

(async () => {
  for (const [i, kind] of KINDS.entries()) $("legend").append(make("span", kind, `k${i}`));
  $("legend").append(make("span", "action", "done"), make("span", "underlined: looked at"));
  $("legend").lastElementChild.style.setProperty("--kind", "#ffc14d");
  try {
    const known = able = await ask("v1/tasks");
    const playable = known.tasks.filter((task) => task.installed);
    $("about").textContent = `One network of ${(known.parameters / 1e6).toFixed(1)} million parameters; ${known.tasks.length} control tasks.`;
    const domains = new Map();
    for (const task of playable) {
      const domain = task.id.split("/")[0];
      if (!domains.has(domain)) domains.set(domain, Object.assign(document.createElement("optgroup"), { label: domain }));
      domains.get(domain).append(Object.assign(make("option", task.id), { value: task.id }));
    }
    $("task").append(...domains.values());
    for (const [has, note, what] of [[known.captions, "caption-true", "captions"], [known.questions, "question-note", "questions"], [known.text, "chat-note", "text"]]) {
      if (has) continue;
      $(note).textContent = `This agent was not trained on ${what}.`;
      for (const button of document.querySelectorAll(`#${what === "text" ? "chat" : what} .main`)) button.disabled = true;
    }
    if (playable.length) watch($("task").value);
    else $("no-frame").textContent = "no simulator of its tasks is installed here";
  } catch (problem) { complain(problem); }
})();
