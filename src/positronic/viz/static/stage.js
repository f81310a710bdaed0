// A three-dimensional stage: renderer, camera, light, orbit by pointer. It draws only when something has changed.
import * as THREE from "three";
import { OrbitControls } from "three.orbit";

export { THREE };

export class Stage {
  constructor(canvas, { position, target, radius }) {
    this.renderer = new THREE.WebGLRenderer({ canvas, antialias: true, alpha: true });
    this.scene = new THREE.Scene();
    this.camera = new THREE.PerspectiveCamera(38, 1, 0.1, 200);
    this.home = new THREE.Vector3(...position);
    this.radius = radius;
    this.controls = new OrbitControls(this.camera, canvas);
    this.controls.target.set(...target);
    this.controls.enableDamping = false;
    this.controls.addEventListener("change", () => this.changed());
    this.controls.addEventListener("start", () => (this.held = true));
    this.hemisphere = new THREE.HemisphereLight(0xffffff, 0x8890a0, 2.2);
    this.sun = new THREE.DirectionalLight(0xffffff, 1.6);
    this.sun.position.set(3, 8, 5);
    this.scene.add(this.hemisphere, this.sun);
    this.dirty = false;
    new ResizeObserver(() => this.fit()).observe(canvas);
    this.fit();
  }

  // The whole scene is in sight, however narrow the window, until somebody takes the camera.
  fit() {
    const { clientWidth: width, clientHeight: height } = this.renderer.domElement;
    if (!width || !height) return;
    this.renderer.setPixelRatio(Math.min(window.devicePixelRatio, 2));
    this.renderer.setSize(width, height, false);
    this.camera.aspect = width / height;
    if (!this.held) {
      const half = Math.tan((this.camera.fov * Math.PI) / 360);
      const distance = this.radius / (half * Math.min(1, this.camera.aspect));
      this.camera.position.copy(this.home).normalize().multiplyScalar(distance).add(this.controls.target);
    }
    this.camera.updateProjectionMatrix();
    this.controls.update();
    this.changed();
  }

  changed() {
    if (this.dirty) return;
    this.dirty = true;
    requestAnimationFrame(() => {
      this.dirty = false;
      this.renderer.render(this.scene, this.camera);
    });
  }
}

// Many spheres of one geometry, each with its own place, size and colour.
export class Crowd {
  constructor(scene, n, geometry = new THREE.SphereGeometry(1, 14, 10)) {
    this.mesh = new THREE.InstancedMesh(geometry, new THREE.MeshLambertMaterial(), n);
    this.mesh.frustumCulled = false;
    this.matrix = new THREE.Matrix4();
    scene.add(this.mesh);
  }

  place(i, x, y, z, size) {
    this.matrix.makeScale(size, size, size).setPosition(x, y, z);
    this.mesh.setMatrixAt(i, this.matrix);
  }

  paint(i, colour) {
    this.mesh.setColorAt(i, colour);
  }

  done() {
    this.mesh.instanceMatrix.needsUpdate = true;
    if (this.mesh.instanceColor) this.mesh.instanceColor.needsUpdate = true;
  }
}

// Line segments that fade: every vertex has a colour and an opacity.
export class Threads {
  constructor(scene, n) {
    this.geometry = new THREE.BufferGeometry();
    this.position = new THREE.BufferAttribute(new Float32Array(6 * n), 3).setUsage(THREE.DynamicDrawUsage);
    this.colour = new THREE.BufferAttribute(new Float32Array(8 * n), 4).setUsage(THREE.DynamicDrawUsage);
    this.geometry.setAttribute("position", this.position);
    this.geometry.setAttribute("color", this.colour);
    const material = new THREE.LineBasicMaterial({ vertexColors: true, transparent: true, depthWrite: false });
    this.lines = new THREE.LineSegments(this.geometry, material);
    this.lines.frustumCulled = false;
    scene.add(this.lines);
    this.count = 0;
  }

  clear() {
    this.count = 0;
  }

  add(from, to, colour, alphaFrom, alphaTo) {
    const at = this.count;
    this.position.setXYZ(at, ...from);
    this.position.setXYZ(at + 1, ...to);
    this.colour.setXYZW(at, colour.r, colour.g, colour.b, alphaFrom);
    this.colour.setXYZW(at + 1, colour.r, colour.g, colour.b, alphaTo);
    this.count += 2;
  }

  done() {
    this.geometry.setDrawRange(0, this.count);
    this.position.needsUpdate = this.colour.needsUpdate = true;
  }
}

// Many rods, each with its own ends and colour.
export class Tubes {
  constructor(scene, n, width) {
    const shape = new THREE.CylinderGeometry(width, width, 1, 7);
    this.mesh = new THREE.InstancedMesh(shape, new THREE.MeshLambertMaterial(), n);
    this.mesh.frustumCulled = false;
    this.matrix = new THREE.Matrix4();
    this.turn = new THREE.Quaternion();
    this.up = new THREE.Vector3(0, 1, 0);
    scene.add(this.mesh);
    this.clear();
  }

  clear() {
    this.mesh.count = 0;
  }

  add(from, to, colour) {
    const a = new THREE.Vector3(...from);
    const along = new THREE.Vector3(...to).sub(a);
    const length = along.length();
    if (length < 1e-5) return;
    const middle = a.addScaledVector(along, 0.5);
    this.turn.setFromUnitVectors(this.up, along.divideScalar(length));
    this.matrix.compose(middle, this.turn, new THREE.Vector3(1, length, 1));
    this.mesh.setMatrixAt(this.mesh.count, this.matrix);
    this.mesh.setColorAt(this.mesh.count, colour);
    this.mesh.count += 1;
  }

  done() {
    this.mesh.instanceMatrix.needsUpdate = true;
    if (this.mesh.instanceColor) this.mesh.instanceColor.needsUpdate = true;
  }
}

// A thin rod between two points; lines on screens are one pixel wide, rods are not.
export class Rod {
  constructor(scene, colour, width) {
    const material = new THREE.MeshBasicMaterial({ color: colour, transparent: true });
    this.mesh = new THREE.Mesh(new THREE.CylinderGeometry(width, width, 1, 10), material);
    this.up = new THREE.Vector3(0, 1, 0);
    scene.add(this.mesh);
  }

  set(from, to) {
    const a = new THREE.Vector3(...from);
    const along = new THREE.Vector3(...to).sub(a);
    const length = along.length();
    this.mesh.visible = length > 1e-4;
    if (!this.mesh.visible) return;
    this.mesh.position.copy(a).addScaledVector(along, 0.5);
    this.mesh.scale.set(1, length, 1);
    this.mesh.quaternion.setFromUnitVectors(this.up, along.divideScalar(length));
  }
}
