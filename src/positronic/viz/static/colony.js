// A colony of tips in the unit ball: each stands where it grew to, at the end of its path, joined to its neighbours,
// both coloured by how dense it was there; stations are wire spheres that brighten with what reaches them and flash when written.
import { THREE, Stage, Crowd, Threads, Tubes } from "stage";
import { element, key, number, peak } from "view";

const SPARSE = new THREE.Color("#2f6fe0");
const MIDDLE = new THREE.Color("#22b07d");
const DENSE = new THREE.Color("#f0a017");
const STATION = "#b34fd6";
const WRITTEN = "#e0a800";
const CENTRE = "#8a93a3";
const NEIGHBOURS = 2;
const CLEAR = 0.4; // Reach of a station up to which its wires leave the colony to be seen; wider ones fade.

export function create(canvas, data) {
  return new Colony(canvas, data);
}

const mix = (a, b, share) => a + (b - a) * share;

class Colony {
  title = "Mycel: a colony growing";
  stepName = "growth step";

  constructor(canvas, data) {
    this.data = data;
    this.steps = data.frames[0][0].position.length - 1;
    this.tips = data.frames[0][0].position[0].length / 3;
    const over = (name) => data.layers.map((_, l) => peak(data.frames.flatMap((f) => (f[l][name] ?? []).flat())));
    this.densest = over("density");
    this.heaviest = over("mass");
    this.engaged = over("engagement");
    this.idle = data.layers.map((_, l) => Math.min(...data.frames.flatMap((f) => f[l].engagement ?? [])));
    this.hardest = over("written");
    if (canvas) this.build(canvas);
  }

  build(canvas) {
    this.stage = new Stage(canvas, { position: [1.4, 1.0, 2.2], target: [0, 0, 0], radius: 1.12 });
    const { scene } = this.stage;
    const shell = new THREE.MeshBasicMaterial({ color: CENTRE, wireframe: true, transparent: true, opacity: 0.05 });
    scene.add(new THREE.Mesh(new THREE.IcosahedronGeometry(1, 3), shell));
    this.crowd = new Crowd(scene, this.tips);
    this.centres = new Crowd(scene, this.data.fixed[0].centres.length);
    this.paths = new Tubes(scene, this.tips * this.steps, 0.006);
    this.filaments = new Threads(scene, this.tips * NEIGHBOURS);
    const wire = new THREE.WireframeGeometry(new THREE.SphereGeometry(1, 16, 10));
    this.stations = (this.data.fixed[0].anchors ?? []).map(() => {
      const material = new THREE.LineBasicMaterial({ transparent: true, depthWrite: false });
      const sphere = new THREE.LineSegments(wire, material);
      scene.add(sphere);
      return sphere;
    });
  }

  dress(dark) {
    if (!this.stage) return;
    this.bold = dark ? 1 : 1.5;
    this.stage.hemisphere.intensity = dark ? 2.4 : 2.7;
    if (this.last) this.draw(...this.last);
  }

  tint(share) {
    return share < 0.5 ? SPARSE.clone().lerp(MIDDLE, 2 * share) : MIDDLE.clone().lerp(DENSE, 2 * share - 1);
  }

  draw(at, time) {
    if (!this.stage) return;
    this.last = [at, time];
    const frame = this.data.frames[at.token][at.layer];
    const before = Math.min(Math.floor(time), this.steps);
    const after = Math.min(before + 1, this.steps);
    const share = time - before;
    const point = (k, i) => frame.position[k].slice(3 * i, 3 * i + 3);
    const places = [];
    const tints = [];
    this.paths.clear();
    for (let i = 0; i < this.tips; i++) {
      const from = point(before, i);
      const to = point(after, i);
      places.push(from.map((x, axis) => mix(x, to[axis], share)));
      tints.push(this.tint(mix(frame.density[before][i], frame.density[after][i], share) / this.densest[at.layer]));
      this.crowd.place(i, ...places[i], 0.019);
      this.crowd.paint(i, tints[i]);
      for (let k = 0; k < before; k++) {
        this.paths.add(point(k, i), point(k + 1, i), this.tint(frame.density[k][i] / this.densest[at.layer]));
      }
      if (share > 0) this.paths.add(from, places[i], this.tint(frame.density[before][i] / this.densest[at.layer]));
    }
    this.join(places, tints);
    this.crowd.done();
    this.paths.done();
    this.drawField(at, frame, before, after, share);
    this.stage.changed();
  }

  // Each tip and its nearest neighbours.
  join(places, tints) {
    this.filaments.clear();
    places.forEach((here, i) => {
      const near = places
        .map((there, j) => [Math.hypot(...here.map((x, axis) => x - there[axis])), j])
        .filter(([, j]) => j !== i)
        .sort(([a], [b]) => a - b)
        .slice(0, NEIGHBOURS);
      for (const [, j] of near) this.filaments.add(here, places[j], tints[i], 0.3 * this.bold, 0.3 * this.bold);
    });
    this.filaments.done();
  }

  drawField(at, frame, before, after, share) {
    const fixed = this.data.fixed[at.layer];
    const grey = new THREE.Color(CENTRE);
    fixed.centres.forEach((centre, f) => {
      const mass = mix(frame.mass[before][f], frame.mass[after][f], share) / this.heaviest[at.layer];
      this.centres.place(f, ...centre, 0.012 + 0.03 * mass);
      this.centres.paint(f, grey);
    });
    this.centres.done();
    if (!this.stations.length) return;
    const [idle, engaged] = [this.idle[at.layer], this.engaged[at.layer]];
    const faint = Math.min(1, CLEAR / fixed.reach);
    this.stations.forEach((sphere, s) => {
      const lit = (frame.engagement[s] - idle) / (engaged - idle || 1);
      const written = peak(frame.written?.[s] ?? [0]) / this.hardest[at.layer];
      sphere.position.set(...fixed.anchors[s]);
      sphere.scale.setScalar(fixed.reach);
      sphere.material.color.set(STATION).lerp(new THREE.Color(WRITTEN), written);
      sphere.material.opacity = Math.min(1, (0.04 + 0.45 * lit ** 1.5) * faint * this.bold);
    });
  }

  subtitle(at) {
    const { tropism } = this.data.fixed[at.layer];
    const where = at.step ? `after growth step ${at.step} of ${this.steps}` : "where the tips start";
    return `layer ${this.data.layers[at.layer]}, ${where}; tropism ${number(tropism, 2)}`;
  }

  legend() {
    const made = [key("tip where it is sparse", "#2f6fe0"), key("or dense", "#f0a017"), key("hypha: how it grew; thread: its neighbours")];
    made.push(key("field centre, as large as its mass", CENTRE));
    if (this.stations?.length) made.push(key("station, bright when reached", STATION), key("written", WRITTEN));
    return made;
  }

  curves(at) {
    const mean = (xs) => xs.reduce((a, b) => a + b, 0) / xs.length;
    const of = (k) => this.data.frames.map((frame) => mean(frame[at.layer].density[k]));
    const lines = [
      { name: "before growth", colour: CENTRE, values: of(0) },
      { name: "after", colour: "#22b07d", values: of(this.steps) },
    ];
    const most = peak(lines.flatMap(({ values }) => values));
    return { title: "Mean density that tips sense", most: Number((1.1 * most).toPrecision(2)), lines };
  }

  numbers(at) {
    const frame = this.data.frames[at.token][at.layer];
    const density = frame.density[at.step];
    const position = frame.position[at.step];
    const far = density.map((_, i) => Math.hypot(...position.slice(3 * i, 3 * i + 3)));
    const mean = (xs) => xs.reduce((a, b) => a + b, 0) / xs.length;
    const line = element("p", "", { class: "cells" });
    for (const [name, value, id] of [
      ["mean density", mean(density), "density"],
      ["largest", peak(density), "densest"],
      ["mean distance from the middle", mean(far), "distance"],
    ]) {
      const cell = element("span", `${name} `);
      cell.append(element("b", number(value), { "data-number": id }));
      line.append(cell);
    }
    const parts = [element("h2", "Tips"), line];
    if (frame.engagement) parts.push(...this.stationTable(frame));
    return parts;
  }

  stationTable(frame) {
    const table = element("table");
    const top = element("tr");
    top.append(...["station", "engaged", "read most", "written", "holds"].map((name) => element("th", name)));
    table.append(top);
    const order = frame.engagement.map((value, s) => [value, s]).sort(([a], [b]) => b - a).slice(0, 6);
    for (const [value, s] of order) {
      const row = element("tr");
      row.append(key(String(s + 1), STATION, "td"), element("td", number(value), { "data-number": `engagement.${s}` }));
      const stores = [["read", Math.max], ["written", Math.max], ["held", Math.max]];
      row.append(...stores.map(([name, most]) => element("td", frame[name] ? number(most(...frame[name][s])) : "\u2013")));
      table.append(row);
    }
    return [element("h2", "Stations, by how much of the colony reaches them"), table];
  }
}
