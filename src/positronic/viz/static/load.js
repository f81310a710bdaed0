// Starts the page. All that ever runs stands in this script, whose digest is the only one that the page's policy names:
// what is put into the page from elsewhere is no module and no part of one, whatever it says it is.
const sources = {{modules}};
const places = {};
for (const [name, source] of Object.entries(sources)) {
  const linked = source.replace(/(\bfrom\s*)["']([\w.]+)["']/g, (whole, from, other) =>
    other in places ? `${from}"${places[other]}"` : whole,
  );
  places[name] = URL.createObjectURL(new Blob([linked], { type: "text/javascript" }));
}
const { start } = await import(places.view);
const scene = "scene" in places ? await import(places.scene) : null;
start(JSON.parse(document.getElementById("data").textContent), scene?.create);
