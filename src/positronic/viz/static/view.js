// The page around a scene: time, text, expectations, the curve over tokens, the strip of norms.
// Where we are is { token, step, layer }; `show` draws all of it, and nothing else holds state.
const $ = (id) => document.getElementById(id);
const STEP_MS = 420;
const REST_MS = 500;

// So many decimals; what they would hide is said in powers of ten.
export const number = (x, digits = 3) => {
  if (x === null || x === undefined) return "\u2013";
  return x !== 0 && Math.abs(x) < 0.5 * 10 ** -digits ? x.toExponential(0) : x.toFixed(digits);
};
export const element = (tag, text = "", attributes = {}) => {
  const made = document.createElement(tag);
  made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
};
export const drawing = (tag, attributes = {}) => {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
};
// The largest; above 0, to be divided by.
export const peak = (values) => values.reduce((a, b) => Math.max(a, b), 1e-9);

// Words behind a dot of their colour.
export function key(text, colour = null, tag = "span") {
  const made = element(tag, text);
  if (colour) {
    const dot = element("span", "", { class: "dot" });
    dot.style.background = colour;
    made.prepend(dot);
  }
  return made;
}

const VISIBLE = { "\n": "\u21b5", "\t": "\u21e5", "\r": "\u240d", " ": "\u2423" };
const visible = (text) => (text ? text.replace(/[\n\t\r]|^ +| +$/g, (s) => [...s].map((c) => VISIBLE[c]).join("")) : "\u2205");

class View {
  constructor(data, scene) {
    this.data = data;
    this.scene = scene;
    this.at = { token: 0, step: 0, layer: 0 };
    this.steps = scene ? scene.steps : 0;
    this.playing = null;
    this.gliding = 0;
    this.still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.write();
    this.listen();
    this.dress(matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
    this.seek({ token: 0, step: 0, layer: 0 });
  }

  get moments() {
    return this.data.tokens.length;
  }

  // What does not change: titles, ranges, the text itself.
  write() {
    const { data, scene } = this;
    const millions = (data.model.parameters / 1e6).toFixed(1);
    $("title").textContent = scene ? scene.title : "";
    $("facts").textContent =
      `${data.model.family}, ${millions} million parameters. Temperature ${data.sampling.temperature}, ` +
      `top-p ${data.sampling.top_p}, seed ${data.sampling.seed}; ended by ${data.ended}. Every number here was ` +
      "recorded while this text was written.";
    document.documentElement.classList.toggle("plain", !data.scene);
    $("token").max = this.moments - 1;
    $("step").max = this.steps;
    $("step-label").hidden = !this.steps;
    $("step-name").textContent = scene ? scene.stepName : "";
    $("layer").max = Math.max(0, data.layers.length - 1);
    $("layer-label").hidden = data.layers.length < 2;
    $("strip-note").textContent =
      `Norms by token, one row a block: ${[...new Set(data.blocks)].join(", ").replaceAll("_", " ")}. ` +
      "Each row has its own scale.";
    this.spans = data.pieces.map((piece, i) => {
      const prompt = i === 0 || !data.tokens[i - 1].drawn;
      const span = element("span", piece || "\u200b", prompt ? { class: "prompt" } : {});
      span.onclick = () => this.seek({ token: Math.min(i, this.moments - 1), step: this.steps });
      return span;
    });
    $("text").append(...this.spans);
  }

  listen() {
    for (const name of ["token", "step", "layer"]) {
      $(name).oninput = (event) => this.seek({ [name]: Number(event.target.value) });
    }
    $("play").onclick = () => this.play(!this.playing);
    $("back").onclick = () => this.move(-1);
    $("on").onclick = () => this.move(1);
    $("save").onclick = () => this.save();
    $("theme").onclick = () => this.dress(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
    for (const id of ["chart", "strip"]) {
      $(id).onpointerdown = (event) => {
        const share = (event.offsetX - this.left(id)) / (event.target.clientWidth - this.left(id));
        this.seek({ token: Math.max(0, Math.min(this.moments - 1, Math.floor(share * this.moments))) });
      };
    }
    document.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const slider = event.target.matches?.("input[type=range]");
      const button = event.target.matches?.("button");
      const jobs = {
        " ": () => this.play(!this.playing),
        ArrowRight: () => (event.shiftKey ? this.seek({ token: this.at.token + 1 }) : this.move(1)),
        ArrowLeft: () => (event.shiftKey ? this.seek({ token: this.at.token - 1 }) : this.move(-1)),
        ArrowUp: () => this.seek({ layer: this.at.layer + 1 }),
        ArrowDown: () => this.seek({ layer: this.at.layer - 1 }),
        Home: () => this.seek({ token: 0, step: 0 }),
        End: () => this.seek({ token: this.moments - 1, step: this.steps }),
        d: () => $("theme").click(),
      };
      if (!jobs[event.key] || (button && event.key === " ") || (slider && event.key !== " ")) return;
      event.preventDefault();
      jobs[event.key]();
    });
    addEventListener("resize", () => this.draw());
  }

  left(id) {
    return id === "chart" ? 32 : 0;
  }

  dress(theme) {
    document.documentElement.dataset.theme = theme;
    this.scene?.dress(theme === "dark");
    this.draw();
  }

  // Go somewhere at once; what is out of range goes to its end.
  seek(to) {
    const within = (x, most) => Math.max(0, Math.min(most, x));
    const next = { ...this.at, ...to };
    this.at = {
      token: within(next.token, this.moments - 1),
      step: within(next.step, this.steps),
      layer: within(next.layer, Math.max(0, this.data.layers.length - 1)),
    };
    cancelAnimationFrame(this.gliding);
    this.draw();
    this.scene?.draw(this.at, this.at.step);
  }

  // One step on or back through all steps of all tokens; false at the end.
  move(by) {
    const { token, step } = this.at;
    const flat = token * (this.steps + 1) + step + by;
    if (flat < 0 || flat >= this.moments * (this.steps + 1)) return false;
    const next = { token: Math.floor(flat / (this.steps + 1)), step: flat % (this.steps + 1) };
    const glides = this.scene && by > 0 && next.token === token && !this.still;
    if (!glides) {
      this.seek(next);
      return true;
    }
    cancelAnimationFrame(this.gliding);
    this.at = { ...this.at, ...next };
    this.draw();
    const began = performance.now();
    const glide = (now) => {
      const share = Math.max(0, Math.min(1, (now - began) / (0.9 * STEP_MS)));
      this.scene.draw(this.at, next.step - 1 + share * share * (3 - 2 * share));
      if (share < 1) this.gliding = requestAnimationFrame(glide);
    };
    this.gliding = requestAnimationFrame(glide);
    return true;
  }

  play(on) {
    clearTimeout(this.playing);
    this.playing = null;
    if (on) {
      if (this.at.token === this.moments - 1 && this.at.step === this.steps) this.seek({ token: 0, step: 0 });
      const tick = () => {
        this.playing = this.move(1) ? setTimeout(tick, this.at.step === this.steps ? REST_MS : STEP_MS) : null;
        this.label();
      };
      this.playing = setTimeout(tick, 0);
    }
    this.label();
  }

  label() {
    $("play").textContent = this.playing ? "Pause" : "Play";
    $("play").setAttribute("aria-label", this.playing ? "pause" : "play");
  }

  save() {
    const link = element("a", "", { download: "positronic-view.json" });
    link.href = URL.createObjectURL(new Blob([$("data").textContent], { type: "application/json" }));
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  draw() {
    const { at, data } = this;
    for (const name of ["token", "step", "layer"]) $(name).value = at[name];
    $("token-out").textContent = `${at.token + 1}/${this.moments}`;
    $("step-out").textContent = `${at.step}/${this.steps}`;
    $("layer-out").textContent = data.layers.length ? `${data.layers[at.layer]}` : "";
    this.label();
    this.read();
    this.expect();
    if (this.scene) {
      $("subtitle").textContent = this.scene.subtitle(at);
      $("legend").replaceChildren(...this.scene.legend());
      $("numbers").replaceChildren(...this.scene.numbers(at));
    }
    this.chart();
    this.strip();
  }

  read() {
    const { token } = this.at;
    this.spans.forEach((span, i) => {
      span.classList.toggle("now", i === token);
      span.classList.toggle("then", i === token + 1);
      span.classList.toggle("ahead", i > token + 1);
    });
    const box = $("text");
    const top = this.spans[token].offsetTop - box.clientHeight / 2;
    if (Math.abs(box.scrollTop - top) > box.clientHeight / 4) box.scrollTop = top;
  }

  expect() {
    const now = this.data.tokens[this.at.token];
    const say = (id) => visible(this.data.texts[id]);
    const asked = $("asked");
    asked.replaceChildren("After ", element("code", visible(this.data.pieces[this.at.token])), " the model expects");
    const rows = now.alternatives.map(([id, p]) => this.alternative(say(id), p, id === now.next, now.alternatives[0][1]));
    if (!now.alternatives.some(([id]) => id === now.next)) {
      rows.push(this.alternative(say(now.next), now.probability, true, now.alternatives[0][1]));
    }
    $("alternatives").replaceChildren(...rows.flat());
    const came = now.drawn ? "It drew" : "The prompt goes on with";
    $("entropy").replaceChildren(
      `${came} `, element("code", say(now.next)), ` at ${(100 * now.probability).toFixed(1)} %. Entropy `,
      element("span", number(now.entropy, 2), { "data-number": "entropy" }), " bits.",
    );
  }

  alternative(text, p, came, most) {
    const name = element("span", "", came ? { class: "came" } : {});
    const bar = element("i");
    bar.style.width = `${(100 * p) / most}%`;
    name.append(bar, element("code", text));
    return [name, element("b", `${(100 * p).toFixed(1)} %`, { ...(came ? { class: "came" } : {}), "data-number": "p" })];
  }

  // A canvas as large as its place, and the colours of the page.
  paper(id, height) {
    const canvas = $(id);
    const ratio = devicePixelRatio || 1;
    const width = canvas.clientWidth;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    const style = getComputedStyle(document.documentElement);
    return { pen, width, colour: (name) => style.getPropertyValue(`--${name}`).trim() };
  }

  chart() {
    const height = 132;
    const { pen, width, colour } = this.paper("chart", height);
    const curves = this.scene ? this.scene.curves(this.at) : this.entropyCurve();
    $("chart-title").textContent = curves.title;
    $("keys").replaceChildren(...curves.lines.map(({ name, colour: c }) => {
      const key = element("span", name);
      const dot = element("span", "", { class: "dot" });
      dot.style.background = c ?? colour("accent");
      key.prepend(dot);
      return key;
    }));
    const left = this.left("chart");
    const most = curves.most;
    const x = (i) => left + ((i + 0.5) / this.moments) * (width - left);
    const y = (value) => 6 + (1 - value / most) * (height - 14);
    pen.fillStyle = colour("bar");
    const wide = Math.max(2, (width - left) / this.moments);
    pen.fillRect(x(this.at.token) - wide / 2, 0, wide, height);
    pen.font = "11px system-ui";
    pen.textAlign = "right";
    pen.textBaseline = "middle";
    for (const level of [0, most / 2, most]) {
      pen.strokeStyle = colour("line");
      pen.beginPath();
      pen.moveTo(left, y(level));
      pen.lineTo(width, y(level));
      pen.stroke();
      pen.fillStyle = colour("soft");
      pen.fillText(String(Number(level.toPrecision(2))), left - 5, y(level));
    }
    for (const { values, colour: c } of curves.lines) {
      pen.strokeStyle = pen.fillStyle = c ?? colour("accent");
      pen.lineWidth = 1.6;
      pen.lineJoin = "round";
      pen.beginPath();
      values.forEach((value, i) => (i ? pen.lineTo(x(i), y(value)) : pen.moveTo(x(i), y(value))));
      pen.stroke();
      pen.beginPath();
      pen.arc(x(this.at.token), y(values[this.at.token]), 3, 0, 7);
      pen.fill();
    }
  }

  entropyCurve() {
    const values = this.data.tokens.map((t) => t.entropy);
    return { title: "Entropy of the next token, bits", most: Math.max(1, Math.ceil(Math.max(...values))), lines: [{ name: "entropy", values }] };
  }

  strip() {
    const row = this.scene ? 9 : 15;
    const height = row * this.data.blocks.length;
    $("strip").style.height = `${height}px`;
    const { pen, width, colour } = this.paper("strip", height);
    const wide = width / this.moments;
    pen.fillStyle = colour("accent");
    this.data.blocks.forEach((_, block) => {
      const values = this.data.norms.map((norms) => norms[block][0]);
      const most = Math.max(...values) || 1;
      values.forEach((value, i) => {
        pen.globalAlpha = 0.06 + 0.94 * (value / most);
        const from = Math.floor(i * wide);
        pen.fillRect(from, block * row, Math.floor((i + 1) * wide) - from, row - 1.5);
      });
    });
    pen.globalAlpha = 1;
    pen.strokeStyle = colour("ink");
    pen.lineWidth = 1.5;
    pen.strokeRect(this.at.token * wide + 0.75, 0.75, Math.max(2, wide - 1.5), height - 2.5);
  }
}

export function start(data, create) {
  let scene = null;
  if (create) {
    const there = document.createElement("canvas").getContext("webgl2");
    if (!there) {
      $("absent").textContent = "This browser has no WebGL 2, so the scene cannot be drawn; all else works.";
      $("absent").hidden = false;
      $("canvas").hidden = true;
    }
    scene = create(there ? $("canvas") : null, data);
  }
  window.view = new View(data, scene);
}
