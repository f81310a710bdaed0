// Concentric rings of oscillators. An oscillator stands on its ring at the angle of its phase; a spoke points where
// the ring's mean is and is as long as the ring is in step; the ball in the middle is the rotating centre.
import { THREE, Stage, Crowd, Threads, Rod } from "stage";
import { drawing, element, key, number, peak } from "view";

const PALETTE = ["#e8930c", "#e0653a", "#d4487f", "#9b5de0", "#4b7fe8", "#1ba3c6", "#2fae66", "#8a9a2b"];
const SLOW = new THREE.Color("#3b74e0");
const FAST = new THREE.Color("#e2502e");
const OUTER = 5.2;
const ARC = 7;
const ORGANS = { phase_attention: "attn", engram: "engram", specialists: "stores" };

const mix = (a, b, share) => a + (b - a) * share;
const onRing = (radius, angle, height) => [radius * Math.cos(angle), height, -radius * Math.sin(angle)];

export function create(canvas, data) {
  return new Rings(canvas, data);
}

class Rings {
  title = "Positronic: rings of oscillators";
  stepName = "Euler step";

  constructor(canvas, data) {
    this.data = data;
    this.sizes = data.fixed[0].rings;
    this.steps = data.frames[0][0].phase.length - 1;
    this.offsets = this.sizes.map((_, r) => this.sizes.slice(0, r).reduce((a, b) => a + b, 0));
    this.colours = this.sizes.map((_, r) => PALETTE[r % PALETTE.length]);
    const n = this.sizes.length;
    this.gap = OUTER / (n + 0.6);
    this.radii = this.sizes.map((_, r) => this.gap * (r + 1.6));
    this.heights = this.sizes.map((_, r) => 1.9 * (1 - (r + 1) / n) ** 1.3);
    this.fastest = peak(data.frames.flat().flatMap((f) => f.frequency.map(Math.abs)));
    const most = (name) => data.layers.map((_, l) => peak(data.frames.flatMap((f) => (f[l][name] ?? []).flat())));
    this.fullest = most("held");
    this.hardest = most("written");
    if (canvas) this.build(canvas);
  }

  build(canvas) {
    const radius = this.radii.at(-1) + 0.45;
    this.stage = new Stage(canvas, { position: [0, 8.6, 8.2], target: [0, 0.35, 0.75], radius });
    const { scene } = this.stage;
    this.circles = this.sizes.map((_, r) => {
      const material = new THREE.MeshBasicMaterial({ color: this.colours[r], transparent: true, opacity: 0.45 });
      const circle = new THREE.Mesh(new THREE.TorusGeometry(this.radii[r], 0.014, 8, 160), material);
      circle.rotation.x = Math.PI / 2;
      circle.position.y = this.heights[r];
      scene.add(circle);
      return circle;
    });
    this.oscillators = new Crowd(scene, this.offsets.at(-1) + this.sizes.at(-1));
    this.trails = new Threads(scene, ARC * (this.offsets.at(-1) + this.sizes.at(-1)));
    this.spokes = this.colours.map((colour) => new Rod(scene, colour, 0.035));
    this.means = new Crowd(scene, this.sizes.length);
    this.axis = new Rod(scene, "#8a93a3", 0.012);
    this.axis.set([0, 0, 0], [0, this.heights[0], 0]);
    this.ball = new THREE.Mesh(new THREE.SphereGeometry(0.24, 32, 20), new THREE.MeshLambertMaterial({ color: "#b9c0cc" }));
    this.ball.position.y = this.heights[0];
    this.needle = new Rod(scene, "#7d8697", 0.03);
    scene.add(this.ball);
    this.buildSlots(scene);
    this.buildStores(scene);
  }

  buildSlots(scene) {
    this.bands = this.data.fixed[0].slots.map((s) => {
      const points = [[s, 0.13], [s + 1, -0.13]].map(([r, by]) => new THREE.Vector2(this.radii[r] + by, this.heights[r]));
      const material = new THREE.MeshBasicMaterial({ color: "#17a589", transparent: true, side: THREE.DoubleSide, depthWrite: false });
      const band = new THREE.Mesh(new THREE.LatheGeometry(points, 128), material);
      scene.add(band);
      return band;
    });
  }

  buildStores(scene) {
    const read = this.data.frames[0][0].read;
    this.stores = [];
    if (!read) return;
    const shape = new THREE.OctahedronGeometry(1);
    const halo = new THREE.TorusGeometry(1, 0.08, 8, 40);
    read.forEach((ring, r) =>
      ring.forEach((_, e) => {
        const angle = (2 * Math.PI * e) / ring.length + 0.35 + 0.5 * r;
        const foot = onRing(this.radii[r], angle, this.heights[r]);
        const body = new THREE.Mesh(shape, new THREE.MeshLambertMaterial({ color: this.colours[r], transparent: true }));
        const ringed = new THREE.Mesh(halo, new THREE.MeshBasicMaterial({ color: "#e0a800", transparent: true }));
        body.position.set(foot[0], foot[1] + 0.5, foot[2]);
        ringed.position.copy(body.position);
        ringed.rotation.x = Math.PI / 2;
        const stem = new Rod(scene, this.colours[r], 0.014);
        stem.set(foot, [foot[0], foot[1] + 0.5, foot[2]]);
        scene.add(body, ringed);
        this.stores.push({ r, e, body, halo: ringed, stem });
      }),
    );
  }

  dress(dark) {
    if (!this.stage) return;
    this.middle = new THREE.Color(dark ? "#9aa1b0" : "#8f96a3");
    this.stage.hemisphere.intensity = dark ? 2.4 : 2.7;
    this.bold = dark ? 1 : 1.35;
    if (this.last) this.draw(...this.last);
  }

  tint(omega) {
    const share = Math.min(1, Math.abs(omega) / this.fastest) ** 0.6;
    return this.middle.clone().lerp(omega < 0 ? SLOW : FAST, share);
  }

  // `time` is a step, or between two of them while the page plays.
  draw(at, time) {
    if (!this.stage) return;
    this.last = [at, time];
    const frame = this.data.frames[at.token][at.layer];
    const fixed = this.data.fixed[at.layer];
    const before = Math.min(Math.floor(time), this.steps);
    const after = Math.min(before + 1, this.steps);
    const share = time - before;
    this.trails.clear();
    this.sizes.forEach((size, r) => this.drawRing(frame, r, size, before, after, share));
    this.oscillators.done();
    this.means.done();
    this.trails.done();
    const angle = mix(fixed.clock[before], fixed.clock[after], share);
    this.needle.set([0, this.heights[0], 0], onRing(0.62, angle, this.heights[0]));
    this.bands.forEach((band, i) => (band.material.opacity = 0.03 + 0.3 * this.bold * (frame.gate?.[i] ?? 0) ** 2));
    for (const { r, e, body, halo, stem } of this.stores) {
      const size = 0.08 + 0.13 * (frame.held[r][e] / this.fullest[at.layer]);
      const written = frame.written[r][e] / this.hardest[at.layer];
      body.scale.setScalar(size);
      body.material.opacity = 0.25 + 0.75 * frame.read[r][e];
      halo.scale.setScalar(size + 0.09);
      halo.material.opacity = written;
      halo.visible = written > 0.02;
      stem.mesh.material.opacity = 0.15 + 0.85 * frame.read[r][e];
    }
    this.stage.changed();
  }

  drawRing(frame, r, size, before, after, share) {
    const radius = this.radii[r];
    const height = this.heights[r];
    const ball = Math.max(0.042, Math.min(0.115, (2 * Math.PI * radius) / (3.2 * size)));
    const band = 0.3 * this.gap;
    for (let i = 0; i < size; i++) {
      const n = this.offsets[r] + i;
      const from = frame.phase[before][n];
      const now = mix(from, frame.phase[after][n], share);
      const own = radius + band * (size > 1 ? i / (size - 1) - 0.5 : 0);
      const tint = this.tint(frame.frequency[n]);
      this.oscillators.place(n, ...onRing(own, now, height), ball);
      this.oscillators.paint(n, tint);
      const tail = share > 0 || before === 0 ? from : frame.phase[before - 1][n];
      for (let k = 0; k < ARC; k++) {
        const a = onRing(own, mix(tail, now, k / ARC), height);
        const b = onRing(own, mix(tail, now, (k + 1) / ARC), height);
        this.trails.add(a, b, tint, k / ARC, (k + 1) / ARC);
      }
    }
    // Re Z and Im Z go straight from step to step.
    const z = (part) => [before, after].map((k) => frame.order[k][r] * part(frame.mean[k][r]));
    const [re, im] = [z(Math.cos), z(Math.sin)].map(([a, b]) => mix(a, b, share));
    const tip = [radius * re, height, -radius * im];
    this.spokes[r].set([0, height, 0], tip);
    this.means.place(r, ...tip, 0.1);
    this.means.paint(r, new THREE.Color(this.colours[r]));
  }

  subtitle(at) {
    return `layer ${this.data.layers[at.layer]}, ${at.step === 0 ? "where the phases start" : `after Euler step ${at.step} of ${this.steps}`}`;
  }

  legend() {
    const items = [
      ["oscillator at its phase, slow", "#3b74e0"],
      ["or fast", "#e2502e"],
    ];
    const made = items.map(([text, colour]) => key(text, colour));
    made.push(key("spoke: how far a ring is in step"));
    if (this.data.fixed[0].slots.length) made.push(key("band: engram gate", "#17a589"));
    if (this.data.frames[0][0].read) made.push(key("crystal: a store, bright when read"), key("halo: written", "#e0a800"));
    return made;
  }

  curves(at) {
    return {
      title: "How far each ring is in step, |Z| after the last step",
      most: 1,
      lines: this.sizes.map((size, r) => ({
        name: `ring of ${size}`,
        colour: this.colours[r],
        values: this.data.frames.map((frame) => frame[at.layer].order[this.steps][r]),
      })),
    };
  }

  numbers(at) {
    const frame = this.data.frames[at.token][at.layer];
    const organs = Object.keys(frame.currents);
    const table = element("table");
    const head = ["ring", "|Z|", "\u03c9"].concat(organs.map((name) => ORGANS[name] ?? name.replaceAll("_", " ")));
    if (frame.modulation) head.push("gain", "surprise");
    const top = element("tr");
    top.append(...head.map((name) => element("th", name)));
    table.append(top);
    this.sizes.forEach((size, r) => {
      const row = element("tr");
      const members = frame.frequency.slice(this.offsets[r], this.offsets[r] + size);
      const cells = [
        ["order", frame.order[at.step][r], 3],
        ["frequency", members.reduce((a, b) => a + b, 0) / size, 3],
        ...organs.map((name) => [`current.${name}`, frame.currents[name][r], 3]),
      ];
      if (frame.modulation) cells.push(["gain", frame.modulation[r][0], 3], ["surprise", frame.surprise[r], 2]);
      row.append(key(String(size), this.colours[r], "td"));
      row.append(...cells.map(([name, value, digits]) => element("td", number(value, digits), { "data-number": `${name}.${r}` })));
      table.append(row);
    });
    const title = element("h2", organs.length ? "Rings, and the current each organ gives them" : "Rings");
    const parts = [title, table];
    if (frame.gate) {
      const gates = element("div", "", { class: "cells" });
      gates.append("engram gates", ...frame.gate.map((gate, i) => {
        const cell = key(`rings ${this.sizes[this.data.fixed[at.layer].slots[i]]} + ${this.sizes[this.data.fixed[at.layer].slots[i] + 1]}: `, "#17a589");
        cell.append(element("span", number(gate, 3), { "data-number": `gate.${i}` }));
        return cell;
      }));
      parts.push(gates);
    }
    if (frame.read) parts.push(this.grid(frame, at.layer));
    return parts;
  }

  // One square a store: filled as far as it is read, framed as it is written.
  grid(frame, layer) {
    const box = element("div", "stores", { class: "cells" });
    frame.read.forEach((ring, r) => {
      const drawn = drawing("svg", { width: 15 * ring.length, height: 15 });
      ring.forEach((read, e) => {
        const written = frame.written[r][e] / this.hardest[layer];
        const said = `ring of ${this.sizes[r]}, store ${e + 1}: read ${number(read)}, written ${number(frame.written[r][e])}, holds ${number(frame.held[r][e])}`;
        const shape = { x: 15 * e + 2, y: 2, width: 11, height: 11, rx: 2, fill: this.colours[r] };
        const shares = { "fill-opacity": 0.08 + 0.92 * read, "stroke-opacity": written };
        const square = drawing("rect", { ...shape, ...shares, stroke: "#e0a800", "stroke-width": 2.5 });
        const title = drawing("title");
        title.textContent = said;
        const group = drawing("g");
        group.append(title, square);
        drawn.append(group);
      });
      const cell = element("span", "", { title: `ring of ${this.sizes[r]}` });
      cell.append(drawn);
      box.append(cell);
    });
    box.append(element("span", "filled: read, framed: written", { class: "soft" }));
    return box;
  }
}
